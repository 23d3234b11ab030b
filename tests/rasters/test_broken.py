"""Files that are missing, empty, cut off or damaged."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from anyband.errors import RasterError
from anyband.rasters.grid import IDENTITY, Grid, Window
from anyband.rasters.reader import RasterSource, open_raster
from anyband.rasters.writer import write_geotiff
from anyband.sensors.sensor import Band, Encoding, OpticalRange, Sensor


@pytest.fixture
def grey() -> Sensor:
    band = Band(
        name="grey",
        spectrum=OpticalRange(low_nm=400.0, high_nm=700.0),
        gsd_m=10.0,
        unit="count",
        encodings=(("dn", Encoding()),),
    )
    return Sensor(name="testing", title="Testing", bands=(band,), default_encoding="dn")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A GeoTIFF of four blocks that don't compress."""
    pixels = np.random.default_rng(0).integers(0, 65535, (1, 512, 512)).astype(np.uint16)
    grid = Grid(height=512, width=512, transform=IDENTITY, crs=None, gsd_m=10.0)
    write_geotiff(tmp_path / "image.tif", pixels, grid=grid, descriptions=["grey"])
    return tmp_path / "image.tif"


def _read(path: Path, sensor: Sensor, window: Window | None = None) -> None:
    with open_raster(RasterSource(paths=(path,)), sensor) as reader:
        reader.read(window)


def test_a_missing_file_is_named(tmp_path: Path, grey: Sensor) -> None:
    with pytest.raises(RasterError, match=r"none.tif' does not exist"):
        _read(tmp_path / "none.tif", grey)


def test_an_empty_file_is_named(tmp_path: Path, grey: Sensor) -> None:
    (tmp_path / "a.tif").touch()
    with pytest.raises(RasterError, match=r"a.tif' is empty \(0 bytes\); get it again"):
        _read(tmp_path / "a.tif", grey)


def test_a_file_that_is_no_raster_is_named(tmp_path: Path, grey: Sensor) -> None:
    (tmp_path / "a.tif").write_text("not a picture")
    with pytest.raises(RasterError, match=r"cannot open '.*a.tif' as a raster: .*not recognized"):
        _read(tmp_path / "a.tif", grey)


def test_a_truncated_file_names_the_window_that_is_lost(image: Path, grey: Sensor) -> None:
    content = image.read_bytes()
    image.write_bytes(content[: len(content) * 2 // 3])
    _read(image, grey, Window(row=0, col=0, height=256, width=256))
    with pytest.raises(
        RasterError, match=r"image.tif' at rows 256–511, columns 0–511: the file is truncated or damaged"
    ):
        _read(image, grey, Window(row=256, col=0, height=256, width=512))


def test_a_file_cut_inside_its_header_is_named(image: Path, grey: Sensor) -> None:
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(RasterError, match=r"image.tif"):
        _read(image, grey)


def test_a_damaged_block_is_an_error_not_noise(image: Path, grey: Sensor) -> None:
    content = bytearray(image.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    image.write_bytes(content)
    with pytest.raises(RasterError, match="truncated or damaged"):
        _read(image, grey)


def test_an_image_without_georeference_gives_no_warning(image: Path, grey: Sensor) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _read(image, grey)
    assert not caught
