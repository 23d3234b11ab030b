"""Words that no reader takes for what belongs there: one message, exit code 2, wherever they stand."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

from anyband.cli import main
from anyband.data.manifest import entries_from_globs
from anyband.errors import OutputError

_LONG = "9" * 5000


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command, in a folder with an image `a.tif`, that must be refused with one message, which it gives."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(1, 255, (3, 32, 32)).astype(np.uint8)
    where = {"crs": "EPSG:32632", "transform": rasterio.Affine(10.0, 0.0, 5e5, 0.0, -10.0, 5e6)}
    with rasterio.open("a.tif", "w", driver="GTiff", count=3, height=32, width=32, dtype="uint8", **where) as file:
        file.write(pixels)

    def run(*words: str) -> str:
        assert main([*words]) == 2
        said = capsys.readouterr().err
        assert said.startswith("anyband")
        assert said.count("anyband prepare: ") + said.count("anyband: ") + said.count("anyband sensors: ") == 1
        return said

    return run


_PREPARE = ("--out", "out", "--workers", "1", "--quiet")
_IMAGE = ("prepare", "a.tif", "--sensor", "maxar-rgb", *_PREPARE)


@pytest.mark.parametrize("scalar", ["!!timestamp 2021-13-45", "!!int abc", "!!float x", "!!bool 2", f"!!int {_LONG}"])
def test_scalars_that_do_not_parse_are_named_with_their_line(told, tmp_path: Path, scalar: str) -> None:
    (tmp_path / "mine.yaml").write_text(f"mission: M\nsource: {scalar}\n")
    said = told("sensors", "--file", "mine.yaml")
    assert "'mine.yaml' is not valid YAML: '" in said
    assert "can't be read: " in said
    assert "line 2, column 9" in said


@pytest.mark.parametrize("text", ["a\\0b", "\\ud800", "\\udce9.tif"])
def test_texts_that_no_file_can_be_named_are_refused_in_yaml(told, tmp_path: Path, text: str) -> None:
    (tmp_path / "m.yaml").write_text(f'- {{path: "{text}", sensor: maxar-rgb}}\n')
    assert "has a NUL character, or bytes that are not UTF-8" in told("prepare", "m.yaml", *_PREPARE)


@pytest.mark.parametrize("word", ["a\0.tif", "caf\udce9.tif"])
def test_words_of_the_command_that_no_file_can_be_named_are_refused(told, word: str) -> None:
    assert "has a NUL character, or bytes that are not UTF-8" in told("prepare", word, "--sensor", "rgb", *_PREPARE)


def test_a_file_whose_name_is_not_utf8_is_left_out_of_what_matches_and_refused_alone(told, tmp_path: Path) -> None:
    os.link(tmp_path / "a.tif", os.fsencode(tmp_path) + b"/caf\xe9.tif")
    listed = entries_from_globs([str(tmp_path / "*.tif")], sensor="maxar-rgb")
    assert [Path(entry.name).name for entry in listed] == ["a.tif"]
    assert re.fullmatch(
        r"1 file is left out, with bytes in .* no UTF-8, first '.*caf.udce9.tif': rename it", *listed.notes
    )
    assert "'caf\\udce9.tif' has a NUL character, or bytes that are not UTF-8" in told(
        "prepare", "caf*.tif", "--sensor", "maxar-rgb", *_PREPARE
    )


@pytest.mark.parametrize("column", ["path", "valid", "place", "sensor"])
def test_a_nul_in_a_table_is_refused(told, tmp_path: Path, column: str) -> None:
    row = {"path": "a.tif", "sensor": "maxar-rgb", column: "a\0b"}
    (tmp_path / "m.csv").write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    assert "has a NUL character" in told("prepare", "m.csv", *_PREPARE)


@pytest.mark.parametrize("number", ["²", _LONG, "R²"])
def test_bands_by_numbers_that_are_none_are_refused(told, number: str) -> None:
    said = told(*_IMAGE, "--bands", f"R={number};G=2;B=3")
    assert f"band 'R' is declared as '{number}', which is not in 'a.tif'" in said


@pytest.mark.parametrize("time", ["²", "--5", "-"])
def test_times_by_numbers_that_are_none_are_refused(told, tmp_path: Path, time: str) -> None:
    (tmp_path / "m.csv").write_text(f"path,sensor,time\na.tif,maxar-rgb,{time}\n")
    assert f"time '{time}' is not" in told("prepare", "m.csv", *_PREPARE)


@pytest.mark.parametrize("column", ["nodata", "scale"])
def test_numbers_larger_than_any_are_refused(told, tmp_path: Path, column: str) -> None:
    (tmp_path / "m.yaml").write_text(f"- {{path: a.tif, sensor: maxar-rgb, {column}: {'9' * 400}}}\n")
    assert f"{column} " in told("prepare", "m.yaml", *_PREPARE)


@pytest.mark.parametrize(
    "dates",
    [
        pa.array([10**15], pa.timestamp("s")),
        pa.array([-(10**15)], pa.timestamp("s")),
        pa.array([2**31 - 1], pa.int32()).cast(pa.date32()),
        pa.array([2**62], pa.int64()).cast(pa.date64()),
        pa.array([2**62], pa.duration("s")),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["datetime", "path"])
def test_dates_of_a_parquet_table_that_are_none_are_refused(told, dates: pa.Array, column: str) -> None:
    columns = {"path": pa.array(["a.tif"]), "sensor": pa.array(["maxar-rgb"]), column: dates}
    pq.write_table(pa.table(columns), "m.parquet")
    assert "cannot read manifest 'm.parquet': " in told("prepare", "m.parquet", *_PREPARE)


def test_more_workers_than_any_machine_runs_are_refused(told) -> None:
    assert "workers must be at most 4096, found 1000" in told(*_IMAGE[:-3], f"--workers={10**20}")


@pytest.mark.parametrize("damage", [b"no database" * 400, None])
def test_a_damaged_ledger_is_said_with_what_to_remove(
    told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes | None
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise OutputError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr("anyband.data.prepare.StoreWriter.finish", stopped)
        assert "stopped" in told(*_IMAGE)
    file = tmp_path / "out.partial" / "ledger.sqlite"
    file.write_bytes(damage if damage is not None else file.read_bytes()[:4096] + b"\xff" * 20_000)
    assert "'out.partial/ledger.sqlite', which an earlier run wrote, is damaged (" in told(*_IMAGE)
    assert "remove its folder 'out.partial' and prepare again" in told(*_IMAGE)
