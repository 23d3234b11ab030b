"""A plain GeoTIFF is read as GDAL reads it, or left to GDAL."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import AnybandError
from anyband.rasters.formats import GdalSheet, PlainTiffSheet, open_plain_tiff
from anyband.rasters.grid import Window
from anyband.rasters.reader import open_sheet

_FACTS = ("names", "height", "width", "transform", "crs", "dtypes", "nodata", "times", "time_index")


def _write(path: Path, pixels: np.ndarray, **profile: object) -> Path:
    count, height, width = pixels.shape
    settings = {
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(10.0, 0.0, 499_980.0, 0.0, -10.0, 4_000_020.0),
        "driver": "GTiff",
        "dtype": pixels.dtype,
        **profile,
    }
    with rasterio.open(path, "w", count=count, height=height, width=width, **settings) as file:
        file.write(pixels)
    return path


def _noise(dtype: str, bands: int = 1, height: int = 37, width: int = 23) -> np.ndarray:
    return np.random.default_rng(bands).integers(0, 200, (bands, height, width)).astype(dtype)


def _assert_as_gdal(path: Path) -> None:
    plain, gdal = open_plain_tiff(path), GdalSheet(path)
    assert plain is not None
    assert {name: getattr(plain, name) for name in _FACTS} == {name: getattr(gdal, name) for name in _FACTS}
    window = Window(row=3, col=1, height=min(20, plain.height - 3), width=plain.width - 2)
    positions = list(range(len(plain.names)))[::-1]
    ours, theirs = plain.read(positions, window), gdal.read(positions, window)
    assert ours[0].dtype == theirs[0].dtype
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1] is theirs[1] is None
    gdal.close()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_types_and_orders_of_bands_are_as_gdal_reads_them(tmp_path, dtype: str, interleave: str) -> None:
    _assert_as_gdal(_write(tmp_path / "a.tif", _noise(dtype, 4), interleave=interleave, photometric="MINISBLACK"))


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3035", "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84"])
def test_coordinate_systems_are_as_gdal_reads_them(tmp_path, crs: str) -> None:
    _assert_as_gdal(_write(tmp_path / "a.tif", _noise("uint16"), crs=crs))


@pytest.mark.parametrize(("dtype", "nodata"), [("uint16", 0), ("int16", -9999), ("float32", -1.5), ("uint8", 255)])
def test_no_data_is_as_gdal_reads_it(tmp_path, dtype: str, nodata: float) -> None:
    _assert_as_gdal(_write(tmp_path / "a.tif", _noise(dtype), nodata=nodata))


def test_strips_of_any_height_are_as_gdal_reads_them(tmp_path) -> None:
    for rows in (1, 5, 36, 37):
        _assert_as_gdal(_write(tmp_path / f"{rows}.tif", _noise("uint16", 2), blockysize=rows))


@pytest.mark.parametrize(
    "profile",
    [
        {"compress": "deflate"},
        {"compress": "lzw", "predictor": 2},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
        {"crs": None, "transform": None},
        {"ENDIANNESS": "BIG"},
        {"BIGTIFF": "YES"},
        {"nodata": float("nan"), "dtype": "float32"},
        {"transform": rasterio.Affine(10.0, 2.0, 0.0, 2.0, -10.0, 0.0)},
        {"NBITS": 12},
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_what_is_not_plain_is_left_to_gdal(tmp_path, profile: dict[str, object]) -> None:
    path = _write(tmp_path / "a.tif", _noise("uint16"), **profile)
    assert open_plain_tiff(path) is None
    assert isinstance(open_sheet(path), GdalSheet)


def test_files_with_alpha_masks_or_descriptions_are_left_to_gdal(tmp_path) -> None:
    alpha = _write(tmp_path / "alpha.tif", _noise("uint8", 4), photometric="RGB", ALPHA="YES")
    named, masked = (_write(tmp_path / name, _noise("uint8")) for name in ("named.tif", "masked.tif"))
    with rasterio.open(named, "r+") as file:
        file.set_band_description(1, "B02")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(masked, "r+") as file:
        file.write_mask(np.arange(37 * 23).reshape(37, 23) % 2 == 0)
    assert [open_plain_tiff(path) for path in (alpha, named, masked)] == [None, None, None]


def test_a_file_beside_which_another_says_more_is_left_to_gdal(tmp_path) -> None:
    path = _write(tmp_path / "a.tif", _noise("uint8"))
    assert isinstance(open_sheet(path), PlainTiffSheet)
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    assert isinstance(open_sheet(path), GdalSheet)


def test_what_is_read_can_be_written_to_without_changing_the_sheet(tmp_path) -> None:
    sheet = open_plain_tiff(_write(tmp_path / "a.tif", _noise("uint8")))
    assert sheet is not None
    window = Window(row=0, col=0, height=5, width=5)
    first = sheet.read([0], window)[0].copy()
    sheet.read([0], window)[0][:] = 7
    np.testing.assert_array_equal(sheet.read([0], window)[0], first)


@settings(max_examples=150)
@given(changes=st.lists(st.tuples(st.integers(0, 420), st.integers(0, 255)), max_size=4), length=st.integers(0, 2500))
def test_a_damaged_file_is_read_as_gdal_reads_it_or_left_to_gdal(tmp_path_factory, changes, length: int) -> None:
    path = _write(tmp_path_factory.mktemp("damaged") / "a.tif", _noise("uint16"), nodata=0)
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place] = value
    path.write_bytes(bytes(data[: len(data) if length > 2000 else length]))
    try:
        plain = open_plain_tiff(path)
    except AnybandError:
        return
    if plain is not None:
        gdal = GdalSheet(path)
        whole = Window(row=0, col=0, height=plain.height, width=plain.width)
        assert {name: getattr(plain, name) for name in _FACTS} == {name: getattr(gdal, name) for name in _FACTS}
        np.testing.assert_array_equal(plain.read([0], whole)[0], gdal.read([0], whole)[0])
        gdal.close()


def test_files_of_one_header_have_their_own_pixels_and_companions(tmp_path) -> None:
    first, second = (
        _write(tmp_path / f"{name}.tif", _noise("uint8") + np.uint8(number)) for number, name in enumerate("ab")
    )
    names = {"a.tif", "b.tif", "b.aux"}
    _assert_as_gdal(first)
    _assert_as_gdal(second)
    assert open_plain_tiff(first, names) is not None
    assert open_plain_tiff(second, names) is None
