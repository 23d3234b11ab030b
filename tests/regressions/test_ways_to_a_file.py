"""A file is what it is by any way that leads to it, and a name that exists is no pattern."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from anyband.cli import main
from anyband.data.manifest import entries_from_globs, open_manifest, read_manifest
from anyband.data.prepare import prepare
from anyband.data.store import ChipStore
from anyband.errors import ManifestError
from anyband.files import found_paths

ROW = "{},sentinel1-grd,db,2020-07-01\n"


def _tif(path: Path, *, at: int = 0, bands: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    place = Affine(10, 0, 500_000 + 3_000 * at, 0, -10, 5_500_000)
    size = {"height": 32, "width": 32, "count": bands, "dtype": "float32"}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=place, **size) as file:
        file.write(np.random.default_rng(at).uniform(-20, -5, (bands, 32, 32)).astype("float32"))
    return path


def _manifest(folder: Path, *names: str) -> Path:
    path = folder / "m.csv"
    path.write_text("path,sensor,encoding,datetime\n" + "".join(map(ROW.format, names)))
    return path


@pytest.mark.parametrize("out", ["../out", "../x/../out", "../../out"])
def test_a_store_upwards_is_made_read_and_counted(tmp_path: Path, monkeypatch, capsys, out: str) -> None:
    work = tmp_path / "work" / "inner"
    _tif(work / "a.tif")
    _manifest(work, "a.tif")
    (work.parent / "x").mkdir()
    monkeypatch.chdir(work)
    assert main(["prepare", "m.csv", "--out", out, "--workers", "1", "--quiet", "--splits", "1,0,0", "--stats"]) == 0
    assert main(["prepare", "--show", out]) == 0
    assert main(["prepare", "--stats", out, "--quiet"]) == 0
    assert "1 chip" in capsys.readouterr().out
    assert ChipStore.open(out).read("sentinel1-grd_32x32", [0])[0].shape == (1, 2, 32, 32)


@pytest.mark.parametrize("way", ["a.tif", "./a.tif", "x/../a.tif", "x//../a.tif", "soft.tif", "hard.tif", "near/a.tif"])
def test_one_file_by_two_ways_is_one_image(tmp_path: Path, way: str) -> None:
    _tif(tmp_path / "a.tif")
    (tmp_path / "x").mkdir()
    (tmp_path / "near").symlink_to(tmp_path)
    (tmp_path / "soft.tif").symlink_to("a.tif")
    os.link(tmp_path / "a.tif", tmp_path / "hard.tif")
    report = prepare(open_manifest(_manifest(tmp_path, "a.tif", way)), tmp_path / "out")
    assert (dict(report.chips), dict(report.pairs)) == ({"sentinel1-grd": 1}, {})
    first = "" if way == "a.tif" else ", first as 'a.tif'"
    assert report.skipped == ((way, f"'{way}' stands in the list twice{first}"),)


def test_a_file_that_is_read_in_two_encodings_is_refused(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif")
    path = _manifest(tmp_path, "a.tif")
    path.write_text(path.read_text() + "./a.tif,sentinel1-grd,linear,2020-07-01\n")
    with pytest.raises(ManifestError, match=r"rows 1 and 2 of .* say different things of one image, './a.tif'"):
        open_manifest(path)


def test_two_dates_in_one_file_are_two_images(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", bands=4)
    path = tmp_path / "m.csv"
    path.write_text("path,sensor,bands\na.tif,sentinel1-grd,VV=1;VH=2\na.tif,sentinel1-grd,VV=3;VH=4\n")
    assert dict(prepare(open_manifest(path), tmp_path / "out").pairs) == {"sentinel1-grd + sentinel1-grd": 1}


def test_a_name_that_exists_is_that_file(tmp_path: Path, monkeypatch) -> None:
    for at, name in enumerate(("img[12].tif", "img1.tif", "set [v1]/a.tif", "set v/b.tif", "x?.tif", "xy.tif")):
        _tif(tmp_path / name, at=at)
    monkeypatch.chdir(tmp_path)
    listed = {pattern: [one.name for one in entries_from_globs([pattern], sensor="sentinel1-grd")] for pattern in (
        "img[12].tif", "set [v1]/a.tif", "set [v1]/*.tif", f"{tmp_path}/set [v1]/*.tif", "x?.tif", "img*.tif"
    )}  # fmt: skip
    assert listed == {
        "img[12].tif": ["img[12].tif"],
        "set [v1]/a.tif": ["set [v1]/a.tif"],
        "set [v1]/*.tif": ["set [v1]/a.tif"],
        f"{tmp_path}/set [v1]/*.tif": [f"{tmp_path}/set [v1]/a.tif"],
        "x?.tif": ["x?.tif"],
        "img*.tif": ["img1.tif", "img[12].tif"],
    }
    assert sorted(found_paths("**/*.tif")) == sorted(found_paths("./**/*.tif".removeprefix("./")))
    (tmp_path / "img[12].tif").unlink()
    assert found_paths("img[12].tif") == ["img1.tif"]


def test_names_with_a_semicolon_or_a_scheme_are_files(tmp_path: Path, monkeypatch) -> None:
    names = ["semi;colon.tif", "S2:a.tif", "zip+a.tif", "20200701T10:20:31.tif", "a?x#1%20.tif", "-a.tif", "~a.tif"]
    for at, name in enumerate(names):
        _tif(tmp_path / name, at=at)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    report = prepare(open_manifest(_manifest(Path(), *names)), Path("work/../out"))
    assert (report.chips["sentinel1-grd"], report.skipped) == (len(names), ())
    globbed = prepare(entries_from_globs(["*.tif"], sensor="sentinel1-grd"), tmp_path / "out2")
    assert (globbed.chips["sentinel1-grd"], globbed.skipped) == (len(names), ())


def test_hidden_files_of_a_band_folder_are_left_out(tmp_path: Path) -> None:
    for band in ("VV", "VH"):
        _tif(tmp_path / "scene" / f"x_{band}.tif", bands=1)
        (tmp_path / "scene" / f"._x_{band}.tif").write_bytes(b"\0\5\x16\7Mac OS X")
    report = prepare(open_manifest(_manifest(tmp_path, "scene")), tmp_path / "out")
    assert (report.chips["sentinel1-grd"], report.skipped) == (1, ())


def test_a_number_of_a_table_is_written_as_one(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,sensor,nodata\na.tif,maxar-rgb,1_000\n")
    with pytest.raises(ManifestError, match="nodata '1_000' is not a number"):
        read_manifest(tmp_path / "m.csv")
