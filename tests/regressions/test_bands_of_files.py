"""Bands of files, by their numbers; what says where they have data; and numbers that are complex."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import ColorInterp

from anyband.data.manifest import parse_entry
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore
from anyband.errors import RasterError
from anyband.rasters.reader import RasterSource, open_raster
from anyband.sensors.catalogue import get_sensor

_GROUND = {"crs": "EPSG:32632", "transform": Affine(10, 0, 500_000, 0, -10, 5_500_000)}
_BANDS = ("B02", "B03", "B04", "B08")
_HALF = np.arange(32)[:, None] < np.full(32, 16)


def _tif(path: Path, pixels, *, names=(), colours=(), mask=None, **more) -> Path:
    pixels = np.asarray(pixels)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(
        path, "w", **{"driver": "GTiff", "dtype": str(pixels.dtype), **shape, **_GROUND, **more}
    ) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
        if colours:
            file.colorinterp = colours
        if mask is not None:
            file.write_mask(mask)
    return path


def _numbers(*values, dtype="uint16"):
    return np.stack([np.full((32, 32), value, dtype=dtype) for value in values])


def _read(path: Path, sensor="sentinel2-l2a", **row):
    entry = parse_entry({"path": str(path), "sensor": sensor, **row}, folder=Path())
    with open_raster(entry.source, entry.sensor, entry.encoding) as reader:
        raster = reader.read()
    return raster.dn, raster.valid, reader


# Numbers of bands


def test_band_numbers_are_those_of_the_file_whatever_is_flagged_as_alpha_before_them(tmp_path) -> None:
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.alpha, ColorInterp.undefined]
    path = _tif(tmp_path / "x.tif", _numbers(400, 500, 600, 65535, 3000), colours=colours, photometric="MINISBLACK")

    dn, valid, _ = _read(path, bands="B02=1;B03=2;B04=3;B08=5")

    assert dn[:, 0, 0].tolist() == [400, 500, 600, 3000]
    assert valid.all()


def test_a_declared_band_wins_over_the_flag_alpha_and_nothing_is_masked_by_it(tmp_path) -> None:
    pixels = _numbers(10, 20, 30, 40, dtype="uint8")
    pixels[3, :8] = 0
    path = _tif(tmp_path / "naip.tif", pixels)

    dn, valid, reader = _read(path, "naip", bands="R=1;G=2;B=3;NIR=4")

    assert np.array_equal(dn, pixels)
    assert valid.all()
    assert reader.notes == ("band 4 is flagged as alpha and was taken as 'NIR', as declared",)


def test_a_description_wins_over_the_flag_alpha_too(tmp_path) -> None:
    path = _tif(tmp_path / "naip.tif", _numbers(1, 2, 3, 4, dtype="uint8"), names=("R", "G", "B", "NIR"))

    assert _read(path, "naip")[0][:, 0, 0].tolist() == [1, 2, 3, 4]


def test_a_band_that_is_not_declared_and_flagged_as_alpha_is_no_band_and_the_message_says_how_to_make_it_one(
    tmp_path,
) -> None:
    path = _tif(tmp_path / "naip.tif", _numbers(1, 2, 3, 4, dtype="uint8"))

    with pytest.raises(RasterError, match=r"beside band 4, which is flagged as alpha.*`R=1;G=2;B=3;NIR=4`"):
        _read(path, "naip")


def test_a_mask_file_names_its_band_by_number(tmp_path) -> None:
    image = _tif(tmp_path / "x.tif", _numbers(400, 500, 600, 700))
    mask = _tif(tmp_path / "m.tif", np.stack([np.ones((32, 32)), _HALF]).astype("uint8"))

    _, valid, _ = _read(image, bands="B02;B03;B04;B08", valid=str(mask), valid_variable="2")

    assert np.array_equal(valid[0], _HALF)


# What says where there is data


def _vrt(path: Path, source: str, bands: str) -> Path:
    header = "<SRS>EPSG:32632</SRS><GeoTransform>500000,10,0,5500000,0,-10</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="32" rasterYSize="32">{header}{bands}</VRTDataset>')
    return path


def _vrt_source(name: str, band: int) -> str:
    file = f'<SourceFilename relativeToVRT="1">{name}</SourceFilename>'
    return f"<SimpleSource>{file}<SourceBand>{band}</SourceBand></SimpleSource>"


def test_masks_of_single_bands_are_kept(tmp_path) -> None:
    _tif(tmp_path / "a.tif", _numbers(400, 500, 600, 700))
    _tif(tmp_path / "m.tif", [_HALF.astype("uint8") * 255])
    mask = f'<MaskBand><VRTRasterBand dataType="Byte">{_vrt_source("m.tif", 1)}</VRTRasterBand></MaskBand>'
    masks = (mask, "", mask, "")
    bands = "".join(
        f'<VRTRasterBand dataType="UInt16" band="{number}"><Description>{name}</Description>'
        f"{_vrt_source('a.tif', number)}{masks[number - 1]}</VRTRasterBand>"
        for number, name in enumerate(_BANDS, 1)
    )

    _, valid, _ = _read(_vrt(tmp_path / "a.vrt", "a.tif", bands), bands="B02;B03;B04;B08")

    assert valid.mean(axis=(1, 2)).tolist() == [0.5, 1, 0.5, 1]


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_in_a_file_or_beside_it_is_kept_by_each_file_of_a_folder(tmp_path, internal) -> None:
    folder = tmp_path / "bands"
    folder.mkdir()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        for number, name in enumerate(_BANDS):
            _tif(folder / f"{name}.tif", _numbers(400), mask=None if number % 2 else _HALF)

    _, valid, _ = _read(folder, bands="B02;B03;B04;B08")

    assert valid.mean(axis=(1, 2)).tolist() == [0.5, 1, 0.5, 1]


def test_alpha_and_nodata_of_one_file_both_hold(tmp_path) -> None:
    pixels = _numbers(10, 20, 30, 255, dtype="uint8")
    pixels[3, :16], pixels[:3, :, :8] = 0, 7
    path = _tif(tmp_path / "rgba.tif", pixels, nodata=7)

    _, valid, reader = _read(path, "maxar-rgb")

    assert valid.mean(axis=(1, 2)).tolist() == [0.375, 0.375, 0.375]
    assert "band 4 is flagged as alpha and says where there is no data" in reader.notes


def test_each_band_has_its_own_nodata(tmp_path) -> None:
    pixels = _numbers(400, 500, 600, 700, dtype="int16")
    pixels[0, :4], pixels[1, 4:8], pixels[2, 8:12] = 0, -9999, 255
    _tif(tmp_path / "a.tif", pixels)
    nodata = [f"<NoDataValue>{value}</NoDataValue>" for value in (0, -9999, 255)]
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{number}">{one}{_vrt_source("a.tif", number)}</VRTRasterBand>'
        for number, one in enumerate([*nodata, ""], 1)
    )

    _, valid, _ = _read(_vrt(tmp_path / "a.vrt", "a.tif", bands), bands="B02;B03;B04;B08")

    assert valid.mean(axis=(1, 2)).tolist() == [0.875, 0.875, 0.875, 1]


@pytest.mark.parametrize(("dtype", "none"), [("uint8", 255), ("float32", np.nan), ("int16", -1)])
def test_where_a_mask_file_has_no_data_itself_nothing_says_that_there_is_some(tmp_path, dtype, none) -> None:
    image = _tif(tmp_path / "x.tif", _numbers(400, 500, 600, 700))
    mask = _numbers(1, dtype=dtype)
    mask[:, :8], mask[:, 8:16] = 0, none
    path = _tif(tmp_path / "mask.tif", mask, nodata=none)

    assert _read(image, bands="B02;B03;B04;B08", valid=str(path))[1].mean() == 0.5


def test_declared_values_of_a_mask_are_meant_even_if_one_is_its_nodata(tmp_path) -> None:
    image = _tif(tmp_path / "x.tif", _numbers(400, 500, 600, 700))
    path = _tif(tmp_path / "mask.tif", [_HALF.astype("uint8")], nodata=0)

    _, valid, _ = _read(image, bands="B02;B03;B04;B08", valid=str(path), valid_values="0")

    assert np.array_equal(valid[0], ~_HALF)


@pytest.mark.parametrize("kind", [{}, {"BIGTIFF": "YES"}, {"ENDIANNESS": "BIG"}])
def test_a_nodata_tag_that_the_type_cannot_hold_is_ignored_and_said_so_that_of_the_sensor_holds(tmp_path, kind) -> None:
    pixels = _numbers(400, 500, 600, 700)
    pixels[:, :16] = 0
    path = _tif(tmp_path / "x.tif", pixels, nodata=10000, **kind)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"10000\0", b"-9999\0"))
    assert data != path.read_bytes()

    _, valid, reader = _read(path, bands="B02;B03;B04;B08")

    assert valid.mean() == 0.5
    assert reader.notes == ("its nodata, -9999, is no number of its type, uint16, and is ignored",)


def test_a_nodata_tag_with_a_fraction_in_a_file_of_whole_numbers_is_ignored_and_said(tmp_path) -> None:
    pixels = _numbers(400, 500, 600, 700)
    pixels[:, :16] = 0
    path = _tif(tmp_path / "x.tif", pixels, nodata=10000)
    path.write_bytes(path.read_bytes().replace(b"10000\0", b"0.5\0\0\0"))

    _, valid, reader = _read(path, bands="B02;B03;B04;B08")

    assert valid.mean() == 0.5
    assert "its nodata, 0.5, is no number of its type, uint16, and is ignored" in reader.notes


# Complex numbers

_COMPLEX = ("complex_int16", "complex64", "complex128")


def _slc(path: Path, dtype: str) -> Path:
    return _tif(path, np.full((1, 32, 32), 3 + 4j, "complex128" if dtype == "complex128" else "complex64"), dtype=dtype)


@pytest.mark.parametrize("dtype", _COMPLEX)
def test_complex_numbers_are_refused_by_name(tmp_path, dtype) -> None:
    path = _slc(tmp_path / "vv.tif", dtype)

    match = rf"band 'VV' of '.*vv.tif' has complex numbers \({dtype}\).*`encoding: amplitude`.*`intensity_db`"
    with pytest.raises(RasterError, match=match):
        _read(path, "sentinel1-grd", bands="VV", encoding="linear")


@pytest.mark.parametrize("dtype", _COMPLEX)
@pytest.mark.parametrize(("encoding", "stored"), [("amplitude", 5), ("intensity_db", 25)])
def test_the_magnitude_of_complex_numbers_is_taken_on_request(tmp_path, dtype, encoding, stored) -> None:
    path = _slc(tmp_path / "vv.tif", dtype)

    dn, valid, reader = _read(path, "sentinel1-grd", bands="VV", encoding=encoding)

    assert dn.dtype == reader.dtype
    np.testing.assert_allclose(dn, stored, rtol=1e-6)
    assert valid.all()
    decibel = get_sensor("sentinel1-grd").band("VV").encoding(encoding).decode(dn)
    np.testing.assert_allclose(decibel, 20 * np.log10(5), rtol=1e-6)


def test_real_numbers_are_no_intensity_of_complex_ones(tmp_path) -> None:
    path = _tif(tmp_path / "vv.tif", _numbers(-12, dtype="float32"))

    with pytest.raises(RasterError, match=r"'intensity_db' is for complex numbers, and band 'VV' .* type float32"):
        _read(path, "sentinel1-grd", bands="VV", encoding="intensity_db")


def test_a_complex_file_is_skipped_with_its_reason_and_the_others_are_prepared(tmp_path) -> None:
    _slc(tmp_path / "slc.tif", "complex_int16")
    _tif(tmp_path / "good.tif", _numbers(0.1, dtype="float32"))
    rows = [
        {"path": name, "sensor": "sentinel1-grd", "bands": "VV", "encoding": "linear"}
        for name in ("slc.tif", "good.tif")
    ]
    entries = [parse_entry(row, folder=tmp_path) for row in rows]

    report = prepare(entries, tmp_path / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0)))

    assert report.chips == {"sentinel1-grd": 1}
    ((name, reason),) = report.skipped
    assert name == "slc.tif"
    assert "complex numbers (complex_int16)" in reason


def test_complex_radar_is_kept_in_decibels(tmp_path) -> None:
    _slc(tmp_path / "slc.tif", "complex_int16")
    row = {"path": "slc.tif", "sensor": "sentinel1-grd", "bands": "VV", "encoding": "intensity_db"}

    prepare([parse_entry(row, folder=tmp_path)], tmp_path / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0)))

    store = ChipStore.open(tmp_path / "store")
    (name,) = store.arrays
    assert (store.read(name, [0])[0] == round(2000 * np.log10(5))).all()


def test_a_mask_of_complex_numbers_is_refused(tmp_path) -> None:
    image = _tif(tmp_path / "x.tif", _numbers(400, 500, 600, 700))

    source = RasterSource(paths=(image,), valid_paths=(_slc(tmp_path / "mask.tif", "complex64"),))
    with (
        pytest.raises(RasterError, match=r"mask '.*mask.tif' has complex numbers"),
        open_raster(source, get_sensor("sentinel2-l2a").select(_BANDS)) as reader,
    ):
        reader.read()


def test_a_tag_for_pixels_outside_does_not_make_data_of_the_fill_of_the_product(tmp_path) -> None:
    pixels = _numbers(400, 500, 600, 700, dtype="int16")
    pixels[:, :8], pixels[:, 8:12] = 0, -9999
    path = _tif(tmp_path / "warped.tif", pixels, nodata=-9999)

    assert _read(path, bands="B02;B03;B04;B08")[1].mean(axis=(1, 2)).tolist() == [0.625] * 4
    # What is declared says all.
    assert _read(path, bands="B02;B03;B04;B08", nodata="-9999")[1].mean(axis=(1, 2)).tolist() == [0.875] * 4


@pytest.mark.parametrize(("dtype", "nodata", "shown"), [("UInt16", -9999, "uint16"), ("Byte", 256, "uint8")])
def test_a_nodata_of_a_vrt_that_its_type_cannot_hold_is_said(tmp_path, dtype: str, nodata: int, shown: str) -> None:
    _tif(tmp_path / "a.tif", _numbers(40, 50, 60, 70, dtype=shown))
    bands = "".join(
        f'<VRTRasterBand dataType="{dtype}" band="{number}"><NoDataValue>{nodata}</NoDataValue>'
        f"{_vrt_source('a.tif', number)}</VRTRasterBand>"
        for number in (1, 2, 3, 4)
    )

    _, _, reader = _read(_vrt(tmp_path / "a.vrt", "a.tif", bands), bands="B02;B03;B04;B08")

    assert [note for note in reader.notes if "nodata" in note] == [
        f"its nodata, {nodata}, is no number of its type, {shown}, and is ignored"
    ]


# Numbers that are no measurements


def _palette(file) -> None:
    file.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 255, 0, 255)})


@pytest.mark.parametrize(("name", "driver"), [("a.tif", "GTiff"), ("a.png", "PNG")])
def test_a_colour_table_is_said(tmp_path, name: str, driver: str) -> None:
    path = tmp_path / name
    with rasterio.open(path, "w", driver=driver, dtype="uint8", count=1, height=32, width=32, **_GROUND) as file:
        file.write(_numbers(1, dtype="uint8"))
        _palette(file)

    assert "its numbers are places in a colour table" in " ".join(_read(path, "maxar-rgb", bands="R=1")[2].notes)


def test_colours_of_another_system_numbers_from_white_and_turned_photographs_are_said(tmp_path) -> None:
    image = Image.fromarray(np.full((32, 48, 4), 100, dtype="uint8"), "CMYK")
    image.save(tmp_path / "a.jpg")
    image.save(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        notes = _read(tmp_path / name, "maxar-rgb")[2].notes
        assert "its colours are stored as CMYK, and were converted to red, green, blue" in notes
    white = _tif(tmp_path / "w.tif", _numbers(7, dtype="uint8"), photometric="MINISWHITE")
    assert "its numbers grow from white to black" in " ".join(_read(white, "maxar-rgb", bands="R=1")[2].notes)
    turned = Image.fromarray(np.full((32, 48, 3), 100, dtype="uint8"))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "t.jpg", exif=exif)
    assert "its EXIF orientation (6) is ignored" in " ".join(_read(tmp_path / "t.jpg", "maxar-rgb")[2].notes)


def test_a_file_that_marks_its_bands_as_other_colours_than_their_order_says_is_pointed_out(tmp_path) -> None:
    colours = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    path = _tif(tmp_path / "bgr.tif", _numbers(1, 2, 3, dtype="uint8"), colours=colours, photometric="MINISBLACK")

    assert "the file marks them as blue, green, red" in " ".join(_read(path, "maxar-rgb")[2].notes)
