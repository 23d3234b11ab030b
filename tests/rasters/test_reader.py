"""Bands of any files on one grid."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from anyband.errors import CatalogueError, GeometryError, RasterError
from anyband.rasters.grid import IDENTITY, Grid, Window
from anyband.rasters.reader import Raster, RasterSource, open_raster
from anyband.rasters.writer import write_geotiff
from anyband.sensors.sensor import Band, Encoding, OpticalRange, Sensor


def _sensor(*names: str, nodata: float | None = None, gsd_m: float = 10.0) -> Sensor:
    bands = tuple(
        Band(
            name=name,
            spectrum=OpticalRange(low_nm=400.0 + 40 * index, high_nm=430.0 + 40 * index),
            gsd_m=gsd_m,
            unit="reflectance",
            encodings=(("dn", Encoding()),),
            aliases=(name.replace("B0", "B"), f"colour_{'abcde'[index]}"),
        )
        for index, name in enumerate(names)
    )
    return Sensor(name="testing", title="Testing", bands=bands, default_encoding="dn", nodata=nodata)


_THREE = _sensor("B02", "B03", "B8A", nodata=0.0)


def _grid(height: int, width: int, *, gsd_m: float = 10.0, left: float = 500000.0, top: float = 4000000.0) -> Grid:
    transform = (gsd_m, 0.0, left, 0.0, -gsd_m, top)
    return Grid(height=height, width=width, transform=transform, crs="EPSG:32633", gsd_m=gsd_m)


def _pixels(bands: int, height: int, width: int, dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(bands * height).integers(1, 250, (bands, height, width)).astype(dtype)


def _write(
    path: Path,
    pixels: np.ndarray,
    names: Sequence[str] = (),
    *,
    grid: Grid | None = None,
    nodata: float | None = None,
) -> Path:
    names = names or [""] * len(pixels)
    write_geotiff(path, pixels, grid=grid or _grid(*pixels.shape[1:]), descriptions=names, nodata=nodata)
    return path


def _read(
    sensor: Sensor,
    *paths: Path,
    window: Window | None = None,
    change: Callable[[RasterSource], RasterSource] | None = None,
) -> Raster:
    source = RasterSource(paths=paths)
    with open_raster(change(source) if change else source, sensor) as reader:
        return reader.read(window)


def test_bands_are_taken_by_order_where_nothing_names_them(tmp_path: Path) -> None:
    pixels = _pixels(3, 6, 7)
    raster = _read(_THREE, _write(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(raster.dn, pixels)
    assert raster.valid.all()
    assert raster.grid == _grid(6, 7)


def test_bands_are_taken_by_name_where_the_file_has_names(tmp_path: Path) -> None:
    pixels = _pixels(4, 6, 7)
    path = _write(tmp_path / "a.tif", pixels, ["B8A", "quality", "b2", "colour_b"])
    np.testing.assert_array_equal(_read(_THREE, path).dn, pixels[[2, 3, 0]])


def test_declared_bands_are_taken_by_number_or_name(tmp_path: Path) -> None:
    pixels = _pixels(4, 6, 7)
    path = _write(tmp_path / "a.tif", pixels, ["x", "y", "z", "w"])
    source = RasterSource(paths=(path,), bands=(("B8A", "4"), ("B02", "Y")))
    with open_raster(source, _THREE) as reader:
        assert reader.band_names == ("B8A", "B02")
        np.testing.assert_array_equal(reader.read().dn, pixels[[3, 1]])


def test_some_bands_of_a_sensor_are_asked_for_by_selecting(tmp_path: Path) -> None:
    pixels = _pixels(3, 6, 7)
    path = _write(tmp_path / "a.tif", pixels, ["B02", "B03", "B8A"])
    np.testing.assert_array_equal(_read(_THREE.select(["B8A"]), path).dn, pixels[[2]])


@pytest.mark.parametrize("name", ["T33_B02.tif", "b2.TIF", "l8_B02.tif", "T33UUP_20200101_B02_10m.tif", "colour_a.tif"])
def test_a_folder_of_single_band_files_is_read_by_their_names(tmp_path: Path, name: str) -> None:
    pixels = _pixels(3, 6, 6)
    for index, file in enumerate([name, "x_B03.tif", "x_B8A.tif"]):
        _write(tmp_path / file, pixels[index : index + 1])
    _write(tmp_path / "thumbnail.tif", pixels)
    np.testing.assert_array_equal(_read(_THREE, tmp_path).dn, pixels)


def test_files_of_a_folder_are_declared_by_the_end_of_their_names(tmp_path: Path) -> None:
    pixels = _pixels(3, 6, 6)
    for index, file in enumerate(["l8_B5.tif", "l8_B4.tif", "l8_BQA.tif"]):
        _write(tmp_path / file, pixels[index : index + 1])
    source = RasterSource(paths=(tmp_path,), bands=(("B03", "B4"), ("B02", "B5")))
    with open_raster(source, _THREE) as reader:
        np.testing.assert_array_equal(reader.read().dn, pixels[[1, 0]])


def test_a_declared_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for file in ("a_B4.tif", "b_B4.tif"):
        _write(tmp_path / file, _pixels(1, 6, 6))
    source = RasterSource(paths=(tmp_path,), bands=(("B03", "B4"),))
    with (
        pytest.raises(RasterError, match="declared as 'B4', which is there 2 times"),
        open_raster(source, _THREE),
    ):
        pass
    source = RasterSource(paths=(tmp_path,), bands=(("B03", "b_B4"),))
    with open_raster(source, _THREE) as reader:
        assert reader.band_names == ("B03",)


def test_plain_words_at_the_end_of_a_name_do_not_make_a_band(tmp_path: Path) -> None:
    _write(tmp_path / "infra-colour_a.tif", _pixels(1, 6, 6))
    with pytest.raises(RasterError, match="has no file named after a band of 'testing'"):
        _read(_THREE, tmp_path)


def test_a_band_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a_B02.tif", "b_B2.tif", "B03.tif", "B8A.tif"):
        _write(tmp_path / name, _pixels(1, 6, 6))
    with pytest.raises(
        RasterError, match=r"band 'B02' of 'testing' is there twice: in '.*a_B02.tif' and in '.*b_B2.tif'"
    ):
        _read(_THREE, tmp_path)


def test_a_missing_band_of_a_folder_is_named(tmp_path: Path) -> None:
    for name in ("B02.tif", "B8A.tif"):
        _write(tmp_path / name, _pixels(1, 6, 6))
    message = r"2 files\) has 2 bands, .* has 3 .*found by name: B02, B8A; missing: B03; declare `bands`"
    with pytest.raises(RasterError, match=message):
        _read(_THREE, tmp_path)


def test_a_wrong_band_count_says_what_was_found_and_what_to_do(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _pixels(4, 6, 7))
    message = r"a.tif' has 4 bands, sensor 'testing' has 3 \(B02, B03, B8A\); declare `bands`"
    with pytest.raises(RasterError, match=message):
        _read(_THREE, path)


def test_names_that_contradict_the_order_are_not_overridden(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _pixels(3, 6, 7), ["B03", "", ""])
    with pytest.raises(RasterError, match="found by name: B03; missing: B02, B8A"):
        _read(_THREE, path)


def test_a_declared_band_that_is_not_in_the_file_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _pixels(2, 6, 7), ["red", "green"])
    source = RasterSource(paths=(path,), bands=(("B02", "greem"),))
    message = r"band 'B02' is declared as 'greem', which is not in .* \(2 bands: red, green\); did you mean 'green'"
    with pytest.raises(RasterError, match=message), open_raster(source, _THREE):
        pass


def test_a_declared_band_that_is_not_the_sensors_is_refused(tmp_path: Path) -> None:
    source = RasterSource(paths=(_write(tmp_path / "a.tif", _pixels(2, 6, 7)),), bands=(("B99", "1"),))
    with (
        pytest.raises(CatalogueError, match="band 'B99' is not in sensor 'testing'"),
        open_raster(source, _THREE),
    ):
        pass


def test_coarse_bands_come_on_the_finest_grid(tmp_path: Path) -> None:
    fine = _write(tmp_path / "B02.tif", np.full((1, 12, 12), 50, np.uint16))
    slope = np.tile(np.arange(10, 70, 10, dtype=np.uint16), (1, 6, 1))
    coarse = _write(tmp_path / "B03.tif", slope, grid=_grid(6, 6, gsd_m=20.0))
    raster = _read(_sensor("B02", "B03"), fine, coarse)
    assert raster.grid == _grid(12, 12)
    np.testing.assert_array_equal(raster.dn[1, 3, 1:-1], np.rint(np.arange(12.5, 60, 5)))
    assert raster.dn.dtype == np.uint16


def test_a_grid_that_starts_elsewhere_is_aligned_by_its_transform(tmp_path: Path) -> None:
    fine = _write(tmp_path / "B02.tif", np.full((1, 8, 8), 50, np.uint16))
    coarse = _write(tmp_path / "B03.tif", _pixels(1, 4, 4), grid=_grid(4, 4, gsd_m=20.0, left=500020.0, top=4000000.0))
    valid = _read(_sensor("B02", "B03"), fine, coarse).valid
    assert valid[0].all()
    assert valid[1, 0].tolist() == [False, False] + [True] * 6


def test_files_without_georeference_are_aligned_by_shape(tmp_path: Path) -> None:
    plain = Grid(height=8, width=8, transform=IDENTITY, crs=None, gsd_m=1.0)
    half = Grid(height=4, width=4, transform=IDENTITY, crs=None, gsd_m=1.0)
    fine = _write(tmp_path / "B02.tif", _pixels(1, 8, 8), grid=plain)
    coarse = _write(tmp_path / "B03.tif", np.full((1, 4, 4), 9, np.uint16), grid=half)
    raster = _read(_sensor("B02", "B03", gsd_m=3.0), fine, coarse)
    assert raster.grid.crs is None
    assert raster.grid.gsd_m == 3.0
    assert (raster.dn[1] == 9).all()


def test_bands_of_different_crs_are_refused(tmp_path: Path) -> None:
    first = _write(tmp_path / "B02.tif", _pixels(1, 8, 8))
    other = Grid(height=8, width=8, transform=_grid(8, 8).transform, crs="EPSG:32634", gsd_m=10.0)
    second = _write(tmp_path / "B03.tif", _pixels(1, 8, 8), grid=other)
    message = r"share a coordinate system: '.*B02.tif' has EPSG:32633, '.*B03.tif' has EPSG:32634; reproject"
    with pytest.raises(GeometryError, match=message):
        _read(_sensor("B02", "B03"), first, second)


def test_a_window_has_the_pixels_of_the_whole(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    fine = _write(tmp_path / "B02.tif", generator.integers(0, 99, (1, 40, 48)).astype(np.uint16), nodata=0.0)
    coarse = _write(
        tmp_path / "B03.tif",
        generator.integers(0, 99, (1, 7, 8)).astype(np.uint16),
        grid=_grid(7, 8, gsd_m=60.0, left=499975.0, top=4000025.0),
        nodata=0.0,
    )
    with open_raster(RasterSource(paths=(fine, coarse)), _sensor("B02", "B03")) as reader:
        whole = reader.read()
        for row, col, height, width in ((0, 0, 5, 5), (13, 17, 9, 20), (39, 47, 1, 1), (20, 0, 20, 48)):
            window = Window(row=row, col=col, height=height, width=width)
            part = reader.read(window)
            np.testing.assert_array_equal(part.valid, whole.valid[:, *window.slices])
            np.testing.assert_array_equal(part.dn, whole.dn[:, *window.slices])
            assert part.grid == whole.grid.part(window)


def test_a_window_outside_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", _pixels(3, 6, 7))
    with pytest.raises(GeometryError, match="reaches outside the image of 6 × 7 pixels"):
        _read(_THREE, path, window=Window(row=3, col=0, height=4, width=2))


def test_the_files_own_nodata_counts_beside_the_sensors(tmp_path: Path) -> None:
    pixels = np.array([[[0, 7, 9]]], np.uint16)
    own = _write(tmp_path / "own.tif", pixels, nodata=7.0)
    none = _write(tmp_path / "none.tif", pixels)
    sensor = _sensor("B02", nodata=0.0)
    assert _read(sensor, own).valid.tolist() == [[[False, False, True]]]
    assert _read(sensor, none).valid.tolist() == [[[False, True, True]]]


def test_a_declared_nodata_counts_before_both(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", np.array([[[0, 7, 65535]]], np.uint16), nodata=7.0)
    source = RasterSource(paths=(path,), nodata=65535.0)
    with open_raster(source, _sensor("B02", nodata=0.0)) as reader:
        assert reader.nodata == 65535
        assert reader.read().valid.tolist() == [[[True, True, False]]]


def test_nan_and_infinity_are_missing(tmp_path: Path) -> None:
    pixels = np.array([[[1.0, np.nan, np.inf, -9999.0]]], np.float32)
    path = _write(tmp_path / "a.tif", pixels, nodata=-9999.0)
    assert _read(_sensor("B02"), path).valid.tolist() == [[[True, False, False, False]]]


def test_a_nodata_that_float32_rounds_is_found(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", np.array([[[0.1, 0.2]]], np.float32))
    assert _read(_sensor("B02", nodata=0.1), path).valid.tolist() == [[[False, True]]]


def test_bytes_without_nodata_are_all_valid(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", np.zeros((1, 2, 2), np.uint8))
    assert _read(_sensor("B02"), path).valid.all()


def test_a_nodata_outside_the_type_hides_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", np.zeros((1, 2, 2), np.uint8))
    assert _read(_sensor("B02", nodata=-9999.0), path).valid.all()


def test_an_alpha_band_says_what_is_valid(tmp_path: Path) -> None:
    pixels = np.full((4, 4, 5), 200, np.uint8)
    pixels[3, 1] = 0
    with rasterio.open(
        tmp_path / "a.png",
        "w",
        driver="PNG",
        height=4,
        width=5,
        count=4,
        dtype="uint8",
        transform=Affine.scale(2.0),
    ) as file:
        file.write(pixels)
    raster = _read(_sensor("R", "G", "B"), tmp_path / "a.png")
    assert raster.dn.shape == (3, 4, 5)
    assert raster.valid.all(axis=(0, 2)).tolist() == [True, False, True, True]


def test_an_internal_mask_says_what_is_valid(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        driver="GTiff",
        height=3,
        width=3,
        count=1,
        dtype="uint8",
        crs="EPSG:32633",
        transform=Affine(10, 0, 0, 0, -10, 0),
    ) as file:
        file.write(np.full((1, 3, 3), 5, np.uint8))
        file.write_mask(np.eye(3, dtype=bool))
    np.testing.assert_array_equal(_read(_sensor("B02"), tmp_path / "a.tif").valid[0], np.eye(3, dtype=bool))


def test_a_declared_mask_is_valid_where_it_is_not_zero(tmp_path: Path) -> None:
    image = _write(tmp_path / "a.tif", _pixels(1, 4, 4))
    mask = _write(tmp_path / "m.tif", np.array([[[1, 0], [3, 1]]], np.uint8), grid=_grid(2, 2, gsd_m=20.0))
    with open_raster(RasterSource(paths=(image,), valid_paths=(mask,)), _sensor("B02")) as reader:
        valid = reader.read().valid
    assert valid[0].tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2


def test_declared_values_of_a_mask_mean_valid(tmp_path: Path) -> None:
    image = _write(tmp_path / "a.tif", _pixels(1, 1, 3))
    mask = _write(tmp_path / "m.tif", np.array([[[-1, 0, 1]]], np.int16))
    source = RasterSource(paths=(image,), valid_paths=(mask,), valid_values=(0.0, 1.0))
    with open_raster(source, _sensor("B02")) as reader:
        assert reader.read().valid.tolist() == [[[False, True, True]]]


def test_a_mask_of_several_bands_must_be_told_apart(tmp_path: Path) -> None:
    image = _write(tmp_path / "a.tif", _pixels(1, 2, 2))
    mask = _write(tmp_path / "m.tif", _pixels(2, 2, 2), ["cloud", "snow"])
    source = RasterSource(paths=(image,), valid_paths=(mask,))
    with (
        pytest.raises(RasterError, match=r"m.tif' has 2 bands \(cloud, snow\); say which one"),
        open_raster(source, _sensor("B02")),
    ):
        pass
    source = RasterSource(paths=(image,), valid_paths=(mask,), valid_variable="snaw")
    with (
        pytest.raises(RasterError, match=r"no band 'snaw' .*; did you mean 'snow'"),
        open_raster(source, _sensor("B02")),
    ):
        pass


def test_the_type_holds_all_bands(tmp_path: Path) -> None:
    first = _write(tmp_path / "B02.tif", _pixels(1, 2, 2, "uint8"))
    second = _write(tmp_path / "B03.tif", _pixels(1, 2, 2, "int16"))
    with open_raster(RasterSource(paths=(first, second)), _sensor("B02", "B03")) as reader:
        assert reader.dtype == np.int16
        assert reader.nodata is None


def test_an_image_without_files_is_refused() -> None:
    with (
        pytest.raises(RasterError, match="name at least one path"),
        open_raster(RasterSource(paths=()), _THREE),
    ):
        pass


@pytest.mark.parametrize(
    ("driver", "ending"), [("PNG", "png"), ("JPEG", "jpg"), ("JP2OpenJPEG", "jp2"), ("ENVI", "bsq")]
)
def test_other_formats_are_read(tmp_path: Path, driver: str, ending: str) -> None:
    pixels = np.tile(np.linspace(10, 240, 64).astype(np.uint8), (3, 64, 1))
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    path = tmp_path / f"a.{ending}"
    with rasterio.open(
        path,
        "w",
        driver=driver,
        height=64,
        width=64,
        count=3,
        dtype="uint8",
        transform=Affine.scale(2.0),
        **options,
    ) as file:
        file.write(pixels)
    raster = _read(_sensor("R", "G", "B"), path, window=Window(row=8, col=4, height=20, width=30))
    tolerance = 12 if driver == "JPEG" else 0
    assert np.abs(raster.dn.astype(int) - pixels[:, 8:28, 4:34]).max() <= tolerance
    assert raster.valid.all()


def test_a_cog_is_read(tmp_path: Path) -> None:
    pixels = _pixels(1, 600, 600)
    with rasterio.open(
        tmp_path / "c.tif",
        "w",
        driver="COG",
        height=600,
        width=600,
        count=1,
        dtype="uint16",
        crs="EPSG:32633",
        transform=Affine(10, 0, 500000, 0, -10, 4000000),
    ) as file:
        file.write(pixels)
    np.testing.assert_array_equal(_read(_sensor("B02"), tmp_path / "c.tif").dn, pixels)
