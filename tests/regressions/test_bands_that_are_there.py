"""`bands: available` takes the bands that a file names, in every verb, and says which."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.cli import main
from anyband.data.manifest import read_manifest
from anyband.data.store import ChipStore
from anyband.errors import RasterError
from anyband.rasters.reader import AVAILABLE, RasterSource, open_raster
from anyband.sensors.catalogue import get_sensor

_S2 = get_sensor("sentinel2-l2a")


def _image(path: Path, names: tuple[str, ...], *, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(300, 3000, (len(names), 64, 64)).astype(np.uint16)
    form = {"count": len(names), "height": 64, "width": 64, "dtype": "uint16", "crs": "EPSG:32632"}
    transform = rasterio.Affine(10.0, 0.0, 5e5 + 1e4 * seed, 0.0, -10.0, 5e6)
    with rasterio.open(path, "w", driver="GTiff", transform=transform, **form) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            if name:
                file.set_band_description(number, name)
    return path


def test_the_bands_that_a_file_names_are_read_in_the_order_of_the_sensor(tmp_path: Path) -> None:
    path = _image(tmp_path / "a.tif", ("B08", "quality", "B03", "B02"))
    with open_raster(RasterSource(paths=(path,), bands=AVAILABLE), _S2) as reader:
        assert reader.band_names == ("B02", "B03", "B08")
        assert [band.name for band in reader.sensor.bands] == ["B02", "B03", "B08"]
        assert any("B02, B03, B08 are there and used" in note for note in reader.notes)
        read = reader.read().dn
    with rasterio.open(path) as file:
        assert np.array_equal(read, file.read([4, 3, 1]))


def test_a_folder_gives_the_files_that_are_there(tmp_path: Path) -> None:
    for name in ("T32_B03.tif", "T32_B8A.tif", "preview.tif"):
        _image(tmp_path / name, ("",))
    with open_raster(RasterSource(paths=(tmp_path,), bands=AVAILABLE), _S2) as reader:
        assert reader.band_names == ("B03", "B8A")


def test_where_a_file_names_no_band_nothing_is_taken_by_order(tmp_path: Path) -> None:
    path = _image(tmp_path / "a.tif", ("", ""))
    with (
        pytest.raises(RasterError, match="has 2 bands, sensor 'sentinel2-l2a' has 12"),
        open_raster(RasterSource(paths=(path,), bands=AVAILABLE), _S2),
    ):
        pass


def test_a_manifest_and_prepare_take_what_is_there_and_say_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        _image(tmp_path / f"a{seed}.tif", ("B04", "B03"), seed=seed)
    _image(tmp_path / "nothing.tif", ("x",), seed=2)
    rows = [f"{name}.tif,sentinel2-l2a,available" for name in ("a0", "a1", "nothing")]
    (tmp_path / "m.csv").write_text("\n".join(["path,sensor,bands", *rows]) + "\n")
    assert read_manifest(tmp_path / "m.csv")[0].sensor.band_names == ("B03", "B04")
    out = str(tmp_path / "store")
    assert main(["prepare", str(tmp_path / "m.csv"), "--out", out, "--workers", "1", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "B03, B04 are there and used" in said
    assert "skipped 1 image:" in said
    assert [info.bands for info in ChipStore.open(out).arrays.values()] == [("B03", "B04")]


def test_embed_takes_what_is_there_and_says_it(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _image(tmp_path / "a.tif", ("B8A", "quality", "B02"))
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = ["embed", str(path), "--sensor", "sentinel2-l2a", "--checkpoint", checkpoint]
    assert main([*words, "--bands", "available", "--out", str(tmp_path / "f.tif")]) == 0
    assert "B02, B8A are there and used" in capsys.readouterr().out
    with rasterio.open(tmp_path / "f.tif") as file:
        assert file.tags()["ANYBAND_BANDS"] == '["B02", "B8A"]'


def test_evaluate_takes_what_is_there_and_says_it(
    golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("forest", "water"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(6):
            _image(tmp_path / "data" / name / f"{seed}.tif", ("B04", "B03"), seed=seed + 10 * (name == "water"))
    checkpoint = str(golden / "smarties" / "checkpoint.safetensors")
    words = ["--data", str(tmp_path / "data"), "--sensor", "sentinel2-l2a", "--k", "1", "--no-results", "--no-cache"]
    assert main(["evaluate", "knn", *words, "--bands", "available", "--checkpoint", checkpoint]) == 0
    assert "B03, B04 are there and used" in capsys.readouterr().out
