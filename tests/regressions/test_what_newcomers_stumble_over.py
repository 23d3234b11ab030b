"""The command line as newcomers use it: early refusals, narrow terminals, outputs that are there already."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.cli import main
from anyband.cli.results import print_table
from anyband.data.manifest import parse_entry
from anyband.errors import counted

_OWN = """\
mission: Mine
source: home
sensors:
  mine:
    title: my camera
    unit: count
    gsd_m: 1
    encodings: {dn: {}}
    bands:
      - {name: R, low_nm: 620, high_nm: 680}
      - {name: N, low_nm: 780, high_nm: 880}
"""


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    path, pixels = tmp_path / "scene.tif", np.random.default_rng(0).integers(1, 255, (3, 64, 64)).astype(np.uint8)
    transform = rasterio.Affine(10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
    shape = {"count": 3, "height": 64, "width": 64, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=transform, **shape) as file:
        file.write(pixels)
    return path


@pytest.mark.parametrize("name", ["own.yaml", "OWN.YML"])
def test_a_sensor_file_is_shown_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / name).write_text(_OWN)
    assert main(["sensors", str(tmp_path / name)]) == 0
    assert "mine: my camera" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["sentinel2-l2a"], ["sentinel1-grd"], ["emit"], ["landsat8-oli-tirs-l1"]])
def test_the_catalogue_is_read_in_80_columns(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sensors", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    if not words:
        assert any(line.startswith("sentinel2-l2a ") and line.endswith("yes") for line in lines)


_HEADER = ("id", "recipe", "features", "accuracy, %", "macro F1, %", "balanced accuracy, %", "checkpoint")
_ROW = ("592efe3d", "linear on images.csv", "encoder", "83.3 [50.0–100.0]", "45.5 [33.3–100.0]", "50.0 [50.0–100.0]")


def test_a_wide_table_of_several_rows_has_what_they_share_above(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(*_ROW, "encoder.safetensors"), ("961c8ba1", *_ROW[1:2], "raw", *_ROW[3:], "encoder.safetensors")]
    print_table("", _HEADER, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("recipe: linear on images.csv; accuracy, %: 83.3 [50.0–100.0]")
    assert [line.split() for line in lines if line[:4] in ("592e", "961c")] == [
        ["592efe3d", "encoder"],
        ["961c8ba1", "raw"],
    ]


def test_a_wide_table_of_one_row_is_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", _HEADER, [(*_ROW, "encoder.safetensors")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "accuracy, %           83.3 [50.0–100.0]" in lines


def test_numbers_stand_to_the_right_and_sentences_wrap(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_table(
        "title", ("name", "count", "said"), [("a", "7", "some words that wrap"), ("b", "12", "–")], wrap=("said",)
    )
    assert capsys.readouterr().out.splitlines() == [
        "title",
        "name  count  said",
        "──────────────────────────────",
        "a         7  some words that",
        "             wrap",
        "b        12  –",
    ]


_WRONG: dict[str, list[str]] = {
    "embed": ["SCENE", "--sensor", "maxar-rgb", "--checkpoint", "gone.safetensors", "--out", "f.tif"],
    "reconstruct": ["LIST", "--target-sensor", "maxar-rgb", "--checkpoint", "gone.safetensors", "--out", "f.tif"],
    "verify": ["gone.safetensors", "vectors.safetensors"],
    "evaluate": ["knn", "--checkpoint", "gone.safetensors", "--data", "SCENE", "--sensor", "maxar-rgb"],
    "pretrain": ["smarties_tiny", "--data", "gone.safetensors", "--out", "run"],
}


@pytest.mark.parametrize("verb", _WRONG)
def test_files_are_checked_before_the_seconds_of_loading(verb: str, scene: Path) -> None:
    listed = scene.with_name("list.csv")
    listed.write_text(f"path,sensor\n{scene},maxar-rgb\n")
    words = [word.replace("SCENE", str(scene)).replace("LIST", str(listed)) for word in _WRONG[verb]]
    code = (
        f"import sys; from anyband.cli import main; code = main({[verb, *words]!r}); "
        "print(sorted(name for name in ('torch', 'lightning_fabric') if name in sys.modules)); sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=scene.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "gone.safetensors" in run.stderr
    assert run.stdout.strip() == "[]"


@pytest.fixture
def embed(golden: Path, scene: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")

    def run(*more: str) -> tuple[int, str]:
        words = [
            str(scene),
            "--sensor",
            "maxar-rgb",
            "--checkpoint",
            checkpoint,
            "--out",
            str(scene.with_name("f.tif")),
        ]
        code = main(["embed", *words, *more])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_embed_replaces_an_output_only_where_it_is_told_to(embed: Callable[..., tuple[int, str]], scene: Path) -> None:
    assert embed()[0] == 0
    written = scene.with_name("f.tif").read_bytes()
    code, said = embed()
    assert code == 2
    assert "f.tif' exists already; name another output, or replace it with --overwrite" in said
    assert scene.with_name("f.tif").read_bytes() == written
    assert embed("--overwrite", "--bands", "R;G;B")[0] == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((1, "image"), "1 image"),
        ((0, "image"), "0 images"),
        ((2, "patch", "have"), "2 patches have"),
        ((1, "class", "need"), "1 class needs"),
        ((3, "entry", "are"), "3 entries are"),
        ((np.int64(1), "sample", "are"), "1 sample is"),
    ],
)
def test_one_thing_is_not_several(words: tuple[int, str], text: str) -> None:
    assert counted(*words) == text


def test_one_image_is_prepared_as_one(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(scene), "--sensor", "maxar-rgb", "--out", str(scene.with_name("store")), "--workers", "1", "--quiet"]
    assert main(["prepare", *words]) == 0
    said = capsys.readouterr().out
    assert said.startswith("1 chip of 1 footprint in 1 place (train 1, val 0, test 0)")
    assert "1 images" not in said


def test_a_reader_that_has_gone_is_no_error() -> None:
    """`anyband sensors | head` once ended with "Broken pipe"."""
    words = [sys.executable, "-c", "import sys; from anyband.cli import main; sys.exit(main(['sensors']))"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.stderr == ""
    assert ended.returncode == 141


@pytest.mark.parametrize("bands", ["R,G,B", "R;G;B", "R=1,G=2,B=3"])
def test_bands_are_listed_with_commas_as_elsewhere(bands: str) -> None:
    entry = parse_entry({"path": "a.tif", "sensor": "maxar-rgb", "bands": bands}, folder=Path())
    assert entry.source.bands == (("R", "1"), ("G", "2"), ("B", "3"))
