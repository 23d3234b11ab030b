"""`anyband evaluate` on sets of images, as users type it."""

import json
from pathlib import Path

import numpy as np
import pytest

from anyband.cli import main
from anyband.rasters.grid import Grid
from anyband.rasters.writer import write_geotiff

_BANDS = ("B02", "B03", "B04")


def _table(folder: Path, *, sensor: str = "sentinel2-l2a") -> Path:
    """Two dates of twelve places; bright ones are one class, dark ones the other."""
    rows = ["path,set,label,split,sensor,datetime,bands"]
    parts = ("train",) * 6 + ("val",) * 2 + ("test",) * 4
    for number, part in enumerate(parts):
        for date in range(2):
            draw = np.random.default_rng(10 * number + date)
            pixels = (800 + 2500 * (number % 2) + draw.normal(0, 200, (3, 20, 20))).clip(1).astype(np.uint16)
            transform = (10.0, 0.0, 4e5 + 1e4 * number, 0.0, -10.0, 5.7e6)
            grid = Grid(height=20, width=20, transform=transform, crs="EPSG:32632", gsd_m=10.0)
            write_geotiff(folder / f"{number}_{date}.tif", pixels, grid=grid, descriptions=_BANDS)
            columns = f"{'ab'[number % 2]},{part},{sensor},2020-0{date + 1}-01,{';'.join(_BANDS) if sensor else ''}"
            rows.append(f"{number}_{date}.tif,s{number},{columns}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


def _words(golden: Path, table: Path) -> list[str]:
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = ["evaluate", "knn", "--k", "3", "--checkpoint", checkpoint, "--data", str(table), "--fusion", "joint"]
    return [*words, "--no-results", "--no-cache"]


def test_the_verb_evaluates_sets(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*_words(golden, _table(tmp_path)), "--json", "--no-metadata", "--pool", "mean"]
    assert main(words) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["settings"]["input"]["metadata"] is False
    assert result["settings"]["input"]["pool"] == "mean"
    assert result["settings"]["fusion"] == "joint"
    assert result["num_samples"] == {"train": 6, "val": 2, "test": 4}
    assert result["scores"][0]["value"] == 1.0


def test_rows_that_name_no_sensor_take_the_one_of_the_command(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*_words(golden, _table(tmp_path, sensor="")), "--sensor", "sentinel2-l2a", "--bands", ",".join(_BANDS)]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["scores"][0]["value"] == 1.0


@pytest.mark.parametrize(
    ("sensor", "words", "message"),
    [
        ("sentinel2-l2a", ["--bands", "B02"], "name them in the table's column `bands`"),
        ("sentinel2-l2a", ["--encoding", "dn"], "name them in the table's column `encoding`"),
        ("", ["--sensor", "sentinel9"], "there is no sensor 'sentinel9'"),
        ("", [], "nothing says which sensor took"),
    ],
)
def test_what_reading_images_of_sets_lacks_is_asked_for(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sensor: str, words: list[str], message: str
) -> None:
    assert main([*_words(golden, _table(tmp_path, sensor=sensor)), *words]) == 2
    assert message in capsys.readouterr().err
