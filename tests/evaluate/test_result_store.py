"""The table of results: nothing is lost, nothing is doubled, and any tool can read it."""

import datetime as dt
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from predicted import (
    class_map_predictions,
    class_predictions,
    labels_predictions,
    number_map_predictions,
    number_predictions,
)

from anyband.errors import InputError, OutputError
from anyband.evaluate.metrics import METRICS, Predictions, scores_of
from anyband.evaluate.results import (
    ResultRow,
    append_results,
    find_row,
    read_results,
    row_to_dict,
    short_id,
)

_SAMPLES = tuple(f"müll {index}" for index in range(12))


def _predictions(kind: str, seed: int = 0) -> Predictions:
    draw = np.random.default_rng(seed)
    classes = ("water", "town")
    match kind:
        case "class":
            return class_predictions(draw.integers(0, 2, 12), draw.random((12, 2)), classes=classes, samples=_SAMPLES)
        case "labels":
            return labels_predictions(
                draw.random((12, 2)) < 0.6, draw.random((12, 2)), classes=classes, samples=_SAMPLES
            )
        case "class_map":
            return class_map_predictions(draw.integers(0, 9, (12, 2, 2)), classes=classes, samples=_SAMPLES)
        case "number_map":
            return number_map_predictions(draw.random((12, 5)), samples=_SAMPLES)
    return number_predictions(draw.random(12), draw.random(12), samples=_SAMPLES)


def _row(identity: str = "a1b2c3d4e5f6", *, kind: str = "class", seed: int = 0, **changed: Any) -> ResultRow:
    predictions = _predictions(kind, seed)
    row = ResultRow(
        id=identity,
        made=dt.datetime(2024, 5, 1, 12, tzinfo=dt.UTC),
        recipe="fields",
        protocol="linear",
        features="encoder",
        width=32,
        checkpoint="tiny.safetensors",
        checkpoint_hash="c" * 64,
        data="fields",
        data_fingerprint="f" * 32,
        kind=predictions.kind,
        num_samples={"train": 30, "val": 6, "test": 12},
        seed=seed,
        settings={"fusion": "single", "input": {"pool": "cls", "img_size": None}},
        scores=scores_of(predictions, seed=0, num_resamples=20),
        chosen={"epoch": 3},
        curves={"validation": (0.5, float("nan"), 0.7)},
        notes=("samples are few",),
        predictions=predictions,
    )
    return replace(row, **changed)


def _same_evidence(first: Predictions, second: Predictions) -> bool:
    arrays = all(
        np.array_equal(first.arrays[name], second.arrays[name])
        and first.arrays[name].dtype == second.arrays[name].dtype
        for name in first.arrays
    )
    return arrays and (first.kind, first.classes, first.samples) == (second.kind, second.classes, second.samples)


@pytest.mark.parametrize("kind", ["class", "labels", "number", "class_map", "number_map"])
def test_a_row_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    row = _row(kind=kind)
    append_results(tmp_path / "results.parquet", [row])
    (back,) = read_results(tmp_path / "results.parquet", predictions=True)
    assert back.predictions is not None
    assert row.predictions is not None
    assert _same_evidence(back.predictions, row.predictions)
    assert row_to_dict(back) == row_to_dict(row)


def test_scores_of_predictions_that_were_stored_are_those_of_the_row(tmp_path: Path) -> None:
    append_results(tmp_path / "results.parquet", [_row(kind="labels")])
    (back,) = read_results(tmp_path / "results.parquet", predictions=True)
    assert back.predictions is not None
    assert scores_of(back.predictions, seed=0, num_resamples=20) == back.scores


def test_predictions_are_read_only_where_they_are_asked_for(tmp_path: Path) -> None:
    append_results(tmp_path / "results.parquet", [_row()])
    assert read_results(tmp_path / "results.parquet")[0].predictions is None


def test_rows_are_appended_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "results.parquet"
    append_results(path, [_row("aa"), _row("bb", seed=1)])
    append_results(path, [_row("cc", kind="number")])
    assert [row.id for row in read_results(path)] == ["aa", "bb", "cc"]


def test_a_rerun_with_equal_scores_is_not_added_again_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row()])
    before = path.read_bytes()
    again = append_results(path, [_row(made=dt.datetime(2025, 1, 1, tzinfo=dt.UTC))])
    assert [row.id for row in again[0]] == ["a1b2c3d4e5f6"]
    assert again[1] == ("encoder: stands in the table already with the same scores, as a1b2c3d4",)
    assert path.read_bytes() == before


def test_a_rerun_with_other_scores_is_kept_beside_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row()])
    other = append_results(path, [_row(seed=5)])
    assert [row.id for row in other[0]] == ["a1b2c3d4e5f6-2"]
    assert "warning: encoder has other scores than an earlier run" in other[1][0]
    assert [row.id for row in read_results(path)] == ["a1b2c3d4e5f6", "a1b2c3d4e5f6-2"]


def test_a_third_rerun_is_known_by_either_of_the_scores(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row()])
    append_results(path, [_row(seed=5)])
    rows, _ = append_results(path, [_row(seed=5), _row()])
    assert [row.id for row in rows] == ["a1b2c3d4e5f6-2", "a1b2c3d4e5f6"]
    assert len(read_results(path)) == 2


def test_scores_without_a_value_are_equal_to_themselves(tmp_path: Path) -> None:
    predictions = number_predictions(np.full(12, 3.0), np.arange(12.0), samples=_SAMPLES)
    scores = scores_of(predictions, seed=0, num_resamples=5)
    row = _row(kind="number", predictions=predictions, scores=scores)
    append_results(tmp_path / "results.parquet", [row])
    append_results(tmp_path / "results.parquet", [row])
    assert len(read_results(tmp_path / "results.parquet")) == 1


def test_pandas_reads_scores_settings_and_the_main_metric(tmp_path: Path) -> None:
    import pandas as pd

    row = _row()
    append_results(tmp_path / "results.parquet", [row])
    frame = pd.read_parquet(tmp_path / "results.parquet")
    assert frame.loc[0, "metric"] == "accuracy"
    assert frame.loc[0, "value"] == row.scores[0].value
    assert json.loads(frame.loc[0, "settings"])["input"]["pool"] == "cls"
    assert [one["metric"] for one in frame.loc[0, "scores"]] == ["accuracy", "macro_f1", "balanced_accuracy"]
    assert frame.loc[0, "scores"][0]["definition"] == METRICS["accuracy"].definition


_APPEND_ONE_BY_ONE = """
for row in rows:
    append_results(target, [row])
"""
_DIE_WHILE_WRITING = """
import pyarrow.parquet
pyarrow.parquet.write_table = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
append_results(target, rows)
"""
_WRITE_WITHOUT_ROOM = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    append_results(target, rows)
except AnybandError as problem:
    print(problem)
"""


def _process(work: str, target: Path, rows: list[ResultRow]) -> subprocess.Popen[str]:
    """Start a process that does `work` with rows that it finds in a table of their own."""
    source = target.with_name(f"{rows[0].id}.parquet")
    append_results(source, rows)
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom anyband.errors import AnybandError\n"
        "from anyband.evaluate.results import append_results, read_results\n"
        f"target, rows = Path({str(target)!r}), read_results(Path({str(source)!r}), predictions=True)\n{work}"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_append_at_once_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    rows = [[_row(f"{index:08x}", seed=index) for index in range(start, start + 20)] for start in (0, 100)]
    writers = [_process(_APPEND_ONE_BY_ONE, path, some) for some in rows]
    for writer in writers:
        writer.communicate()
    assert {row.id for row in read_results(path)} == {row.id for some in rows for row in some}


def test_a_process_that_is_killed_while_writing_loses_no_earlier_row_and_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row("aa")])
    writer = _process(_DIE_WHILE_WRITING, path, [_row("bb", seed=1)])
    writer.communicate()
    assert writer.returncode == -signal.SIGKILL
    assert [row.id for row in read_results(path)] == ["aa"]
    append_results(path, [_row("cc", seed=2)])


def test_a_full_disk_is_said_and_leaves_the_table_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "table" / "results.parquet"
    append_results(path, [_row("aa")])
    before = path.read_bytes()
    message, _ = _process(_WRITE_WITHOUT_ROOM, path, [_row("bb", seed=1)]).communicate()
    assert f"no room on the disk to write '{path}'" in message
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*partial*"))


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a table")


def _foreign(path: Path) -> None:
    pq.write_table(pa.table({"id": ["x"]}), path)


def _newer(path: Path) -> None:
    append_results(path, [_row()])
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({b"anyband_results": b"99"}), path)


def _cut(path: Path) -> None:
    append_results(path, [_row()])
    path.write_bytes(path.read_bytes()[:-200])


def _column_lost(path: Path) -> None:
    append_results(path, [_row()])
    pq.write_table(pq.read_table(path).drop_columns(["seed"]), path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_garbage, "can't be read as a table of results"),
        (_foreign, "is a Parquet file, but no table of results"),
        (_newer, r"written by a newer anyband \(table version 99\)"),
        (_cut, "can't be read as a table of results"),
        (_column_lost, "lacks the column 'seed'"),
    ],
)
def test_a_wrong_file_is_refused_and_left_as_it_is(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "results.parquet"
    spoil(path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=message):
        append_results(path, [_row()])
    with pytest.raises(InputError, match=message):
        read_results(path)
    assert path.read_bytes() == before


def test_a_flipped_bit_of_a_page_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row(kind=kind, identity=kind) for kind in ("class", "number_map")])
    whole, rows = path.read_bytes(), read_results(path, predictions=True)
    length_of_footer = int.from_bytes(whole[-8:-4], "little")
    offsets = range(4, len(whole) - 8 - length_of_footer, 13)
    noticed = 0
    for offset in offsets:
        content = bytearray(whole)
        content[offset] ^= 1 << offset % 8
        path.write_bytes(content)
        try:
            found = read_results(path, predictions=True)
        except InputError:
            noticed += 1
        else:
            assert list(map(row_to_dict, found)) == list(map(row_to_dict, rows))
            for one, right in zip(found, rows, strict=True):
                assert one.predictions is not None
                assert right.predictions is not None
                assert _same_evidence(one.predictions, right.predictions)
    # The others are headers of pages, where statistics stand that nobody reads.
    assert noticed > len(offsets) // 2


def test_damaged_predictions_are_named(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    append_results(path, [_row()])
    table = pq.read_table(path)
    column = table.schema.get_field_index("evidence")
    pq.write_table(table.set_column(column, "evidence", pa.array([b"spoilt"], pa.binary())), path)
    with pytest.raises(InputError, match=r"the predictions of a1b2c3d4 in .* is damaged"):
        read_results(path, predictions=True)


def test_a_missing_table_and_a_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no table of results .*; `anyband evaluate"):
        read_results(tmp_path / "none.parquet")
    with pytest.raises(OutputError, match="is a folder; name a file"):
        append_results(tmp_path, [_row()])


def test_a_row_without_predictions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="results a1b2c3d4 have no predictions"):
        append_results(tmp_path / "results.parquet", [_row(predictions=None)])


def test_a_result_is_found_by_the_beginning_of_its_id() -> None:
    rows = [_row("a1b2c3d4e5"), _row("a1b2ffff00"), _row("a1b2c3d4e5-2")]
    assert find_row(rows, "a1b2c").id == "a1b2c3d4e5"
    assert find_row(rows, short_id("a1b2c3d4e5-2")).id == "a1b2c3d4e5-2"


def test_an_id_of_two_results_and_one_of_none_are_said() -> None:
    rows = [_row("a1b2c3d4e5"), _row("a1b2ffff00")]
    with pytest.raises(InputError, match="2 results begin with 'a1b2': a1b2c3d4e5, a1b2ffff00; give more letters"):
        find_row(rows, "a1b2")
    with pytest.raises(InputError, match=r"no result begins with 'a1b2c3d5' \(2 results\); did you mean 'a1b2c3d4'"):
        find_row(rows, "a1b2c3d5")


def test_a_metric_that_a_result_lacks_is_said() -> None:
    with pytest.raises(InputError, match="result a1b2c3d4 has no metric 'miou' \\(accuracy, macro_f1"):
        _row().score("miou")
