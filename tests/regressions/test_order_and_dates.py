"""Which band is which, and when an image was taken: declared, by names, by order; and it is said."""

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine

from anyband.data.manifest import open_manifest, parse_entry
from anyband.data.prepare import prepare
from anyband.data.store import ChipStore
from anyband.rasters.reader import RasterReader, open_raster

S2 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
DATED = "the date is that of "


def _tif(path: Path, names=(), *, values=None, count=None, tags=None, dtype="uint16") -> Path:
    """Write bands of one value each: of the n-th, n unless `values` says another."""
    count = count or len(names) or 1
    values = values or range(1, count + 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"height": 32, "width": 32, "count": count, "dtype": dtype}
    place = {"crs": "EPSG:32632", "transform": Affine(10, 0, 5e5, 0, -10, 5.5e6)}
    with rasterio.open(path, "w", driver="GTiff", **size, **place) as file:
        for band, value in enumerate(values, 1):
            file.write(np.full((32, 32), value, dtype), band)
        for band, name in enumerate(names, 1):
            file.set_band_description(band, name)
        for domain, more in (tags or {}).items():
            file.update_tags(ns=domain or None, **more)
    return path


def _read(row: dict[str, object], folder: Path) -> tuple[list[int], tuple[str, ...], dt.datetime | None]:
    """Read an image as a manifest declares it: the value of each band, notes and date."""
    entry = parse_entry(row, folder=folder)
    with open_raster(entry.source, entry.sensor) as reader:
        assert isinstance(reader, RasterReader)
        return reader.read().dn[:, 0, 0].tolist(), reader.notes, reader.datetime


def test_bands_without_names_are_taken_by_order_and_that_is_said(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", count=12)
    values, notes, _ = _read({"path": "a.tif", "sensor": "sentinel2-l2a"}, tmp_path)
    assert values == list(range(1, 13))
    order = f"bands are taken by order, {', '.join(S2)}: they have no names; declare `bands` where that is wrong"
    assert notes == (order,)


def test_names_that_mean_nothing_are_said(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", names=("first", "second"))
    values, notes, _ = _read({"path": "a.tif", "sensor": "sentinel1-grd"}, tmp_path)
    assert values == [1, 2]
    assert notes[0].startswith("bands are taken by order, VV, VH: its names (first, second) are not the sensor's")


def test_names_go_before_the_order(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", names=tuple(reversed(S2)))
    values, notes, _ = _read({"path": "a.tif", "sensor": "sentinel2-l2a"}, tmp_path)
    assert (values, notes) == (list(range(12, 0, -1)), ())


def test_a_declared_list_goes_before_names_and_the_contradiction_is_said(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", names=("B04", "blue", "B03", "SCL"))
    values, notes, _ = _read({"path": "a.tif", "sensor": "sentinel2-l2a", "bands": "B02;B03;B04"}, tmp_path)
    assert values == [1, 2, 3]
    said = "bands are taken by their declared numbers, though the file calls B02 'B04', B03 'blue', B04 'B03'"
    assert notes == (said,)
    assert _read({"path": "a.tif", "sensor": "sentinel2-l2a", "bands": "B02=blue;B04=1"}, tmp_path)[:2] == ([2, 1], ())


def test_a_declared_number_of_a_file_of_another_band_is_said(tmp_path: Path) -> None:
    _tif(tmp_path / "T32UQD_20200701T102031_B11.tif")
    row = {
        "path": "T32UQD_20200701T102031_B11.tif",
        "sensor": "sentinel2-l2a",
        "bands": "B02",
        "datetime": "2020-07-01",
    }
    assert _read(row, tmp_path)[1] == (
        "bands are taken by their declared numbers, though the file calls B02 'T32UQD_20200701T102031_B11'",
    )


def test_bands_that_the_sensor_has_not_are_said(tmp_path: Path) -> None:
    _tif(tmp_path / "a.tif", names=(*S2, "SCL", "cloud"))
    values, notes, _ = _read({"path": "a.tif", "sensor": "sentinel2-l2a"}, tmp_path)
    assert values == list(range(1, 13))
    assert notes == ("what 'sentinel2-l2a' has no band for is left out: SCL, cloud",)


@pytest.mark.parametrize(("colours", "said"), [("RGB", False), ("BGR", True)])
def test_colours_of_a_picture_are_compared_with_the_order(tmp_path: Path, colours: str, said: bool) -> None:
    sensor = "maxar-rgb" if colours == "RGB" else "bgr.yaml"
    (tmp_path / "bgr.yaml").write_text(
        "mission: M\nsource: a handbook\nsensors:\n  bgr:\n    title: T\n    nodata: null\n    default_encoding: dn\n"
        "    encodings: {dn: {scale: 1.0, source: x}}\n    unit: count\n    bands:\n"
        "    - {name: Blue, low_nm: 450, high_nm: 500, gsd_m: 1}\n"
        "    - {name: Green, low_nm: 500, high_nm: 600, gsd_m: 1}\n"
        "    - {name: Red, low_nm: 600, high_nm: 700, gsd_m: 1}\n"
    )
    Image.fromarray(np.full((32, 32, 3), (1, 2, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    values, notes, _ = _read({"path": "a.png", "sensor": sensor}, tmp_path)
    assert values == [1, 2, 3]
    order = "bands are taken by order, Blue, Green, Red: the file marks them as red, green, blue; "
    assert [note for note in notes if "order" in note] == (
        [f"{order}declare `bands` where that is wrong"] if said else []
    )


def test_a_band_at_several_resolutions_is_the_finest_file(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    for value, name in enumerate(("B02_60m", "B02_10m", "B02_20m", "B03_20m", "B03_10m"), 1):
        _tif(scene / f"T32UQD_20200701T102031_{name}.tif", values=[value])
    values, notes, time = _read({"path": "scene", "sensor": "sentinel2-l2a", "bands": "B02;B03"}, tmp_path)
    assert (values, time) == ([2, 5], dt.datetime(2020, 7, 1, 10, 20, 31, tzinfo=dt.UTC))
    assert notes == (
        "of bands at several resolutions the finest file is taken",
        f"{DATED}the product name (Sentinel-2)",
    )


def test_sentinel1_measurements_are_found_by_their_polarisation(tmp_path: Path) -> None:
    end = "20200701t053400-20200701t053425-033245-03d9f5"
    for value, name in enumerate((f"s1a-iw-grd-vh-{end}-002.tif", f"s1a-iw-grd-vv-{end}-001.tif"), 1):
        _tif(tmp_path / "measurement" / name, values=[value])
    values, _, time = _read({"path": "measurement", "sensor": "sentinel1-grd"}, tmp_path)
    assert (values, time) == ([2, 1], dt.datetime(2020, 7, 1, 5, 34, tzinfo=dt.UTC))


@pytest.mark.parametrize(
    ("path", "tags", "time", "said"),
    [
        ("LC08_L2SP_193024_20200701_20200825_02_T1_a.tif", {}, "2020-07-01", "the product name (Landsat)"),
        ("S2A_MSIL2A_20200701T102031_N0214.SAFE/a.tif", {}, "2020-07-01T10:20:31", "the product name (Sentinel-2)"),
        ("a.tif", {"": {"ACQUISITIONDATETIME": "2020-07-01T10:20:31Z"}}, "2020-07-01T10:20:31",
         "the tag ACQUISITIONDATETIME"),
        ("a.tif", {"": {"acquisition_date": "2020-07-01"}}, "2020-07-01", "the tag acquisition_date"),
        ("a.tif", {"IMAGERY": {"ACQUISITIONDATETIME": "2020-07-01"}}, "2020-07-01", "the tag ACQUISITIONDATETIME"),
        ("a.tif", {"": {"TIFFTAG_DATETIME": "2020:07:01 10:20:31"}}, "2020-07-01T10:20:31",
         "the tag TIFFTAG_DATETIME, which may say when the file was written"),
        ("HLS.S30.T32UQD.2020183T102031.tif", {"": {"TIFFTAG_DATETIME": "2022:01:01 00:00:00"}}, "2020-07-01T10:20:31",
         "the product name (HLS)"),
        ("a.tif", {"": {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}}, None, None),
        ("a.tif", {"": {"TIFFTAG_DATETIME": "2999:01:01 00:00:00"}}, None, None),
        ("20200701.tif", {}, None, None),
        ("LC08_L2SP_193024_20200701_02_T1.tif", {}, "2020-07-01", "the product name (Landsat)"),
        ("subsetted_512x512_HLS.S30.T10SEH.2018190.v1.4_merged.tif", {}, "2018-07-09", "the product name (HLS)"),
        ("2020-07-01-00:00_2020-07-01-23:59_Sentinel-2_L2A_B04_(Raw).tif", {}, "2020-07-01",
         "the product name (Sentinel Hub)"),
        ("2020-07-01-00_00_2020-07-04-23_59_Sentinel-2_L2A_B04.tif", {}, None, None),
        ("openEO_2020-07-01Z.tif", {}, "2020-07-01", "the product name (openEO)"),
    ],
)  # fmt: skip
def test_a_date_is_found_and_said(tmp_path: Path, path: str, tags, time: str | None, said: str | None) -> None:
    _tif(tmp_path / path, names=("VV", "VH"), tags=tags)
    _, notes, found = _read({"path": path, "sensor": "sentinel1-grd"}, tmp_path)
    assert found == (None if time is None else dt.datetime.fromisoformat(time).replace(tzinfo=dt.UTC))
    assert notes == (() if said is None else (DATED + said,))


@pytest.mark.parametrize(
    ("ending", "text"),
    [
        ("MTL.txt", '  DATE_ACQUIRED = 2020-07-01\n    SCENE_CENTER_TIME = "10:16:50.1234567Z"\n'),
        ("MTL.json", '{"DATE_ACQUIRED": "2020-07-01", "SCENE_CENTER_TIME": "10:16:50.12Z"}'),
        ("MTL.xml", "<DATE_ACQUIRED>2020-07-01</DATE_ACQUIRED><SCENE_CENTER_TIME>10:16:50Z</SCENE_CENTER_TIME>"),
    ],
)
def test_landsats_metadata_say_the_date(tmp_path: Path, ending: str, text: str) -> None:
    for value, band in enumerate(("B3", "B2"), 1):
        _tif(tmp_path / "scene" / f"{band}.TIF", values=[value])
    (tmp_path / "scene" / ending).write_text(text)
    row = {"path": "scene", "sensor": "landsat8-oli-tirs-l2", "bands": "SR_B2;SR_B3"}
    values, notes, time = _read(row, tmp_path)
    assert (values, time) == ([2, 1], dt.datetime(2020, 7, 1, 10, 16, 50, tzinfo=dt.UTC))
    assert notes == (f"{DATED}the MTL file",)


def test_of_the_metadata_of_several_scenes_those_of_the_image_count_and_else_none(tmp_path: Path) -> None:
    for name in ("LC08_a_SR.tif", "x.tif"):
        _tif(tmp_path / name)
    for scene, year in (("LC08_a", 2020), ("LC08_b", 2018)):
        (tmp_path / f"{scene}_MTL.txt").write_text(f"    DATE_ACQUIRED = {year}-07-01\n")
    row = {"sensor": "landsat8-oli-tirs-l2", "bands": "SR_B2=1"}
    assert _read(row | {"path": "LC08_a_SR.tif"}, tmp_path)[2] == dt.datetime(2020, 7, 1, tzinfo=dt.UTC)
    _, notes, time = _read(row | {"path": "x.tif"}, tmp_path)
    assert time is None
    assert notes == ("no date is taken: the MTL files beside it give several days; declare `datetime`",)


@pytest.mark.parametrize("text", ["01/07/2020", "01-JUL-2020", "N/A"])
def test_a_date_in_a_tag_that_can_not_be_read_is_said(tmp_path: Path, text: str) -> None:
    _tif(tmp_path / "a.tif", names=("VV", "VH"), tags={"": {"ACQUISITION_DATE": text}})
    _, notes, time = _read({"path": "a.tif", "sensor": "sentinel1-grd"}, tmp_path)
    assert time is None
    assert notes == (f"no date is taken: the tag ACQUISITION_DATE ('{text}') can't be read; declare `datetime`",)


@pytest.mark.parametrize(
    ("names", "sensor", "values"),
    [
        (("Sigma0_VH_db", "Sigma0_VV_db"), "sentinel1-grd", [2, 1]),
        (("Gamma0_IW1_VH", "Gamma0_IW1_VV"), "sentinel1-grd", [2, 1]),
        (("B04 (665 nm)", "B2 (10m)"), "sentinel2-l2a", [2, 1]),
        (("B4, central wavelength 665 nm", "B2, central wavelength 490 nm"), "sentinel2-l2a", [2, 1]),
    ],
)
def test_names_with_remarks_behind_them_are_names(tmp_path: Path, names, sensor: str, values: list[int]) -> None:
    _tif(tmp_path / "a.tif", names=names)
    assert _read({"path": "a.tif", "sensor": sensor, "bands": "available"}, tmp_path)[0] == values


def test_a_declared_date_goes_before_and_a_contradiction_is_said(tmp_path: Path) -> None:
    name = "S1A_IW_GRDH_1SDV_20200701T053355_20200701T053420_033257_03DA5B_E3E0.tif"
    _tif(tmp_path / name, names=("VV", "VH"))
    row = {"path": name, "sensor": "sentinel1-grd"}
    assert _read(row | {"datetime": "2020-07-01"}, tmp_path)[1] == ()
    _, notes, time = _read(row | {"datetime": "2019-07-01"}, tmp_path)
    assert time == dt.datetime(2019, 7, 1, tzinfo=dt.UTC)
    assert notes == ("the declared date is taken, though the product name (Sentinel-1) gives another",)


def test_files_of_several_days_have_no_date(tmp_path: Path) -> None:
    names = [f"T32UQD_{day}T102031_{band}.tif" for day, band in (("20200701", "B02"), ("20200704", "B03"))]
    for name in names:
        _tif(tmp_path / name)
    _, notes, time = _read({"path": ";".join(names), "sensor": "sentinel2-l2a", "bands": "B02;B03"}, tmp_path)
    assert (time, notes) == (None, ("no date is taken: the names of its files give several days; declare `datetime`",))


def test_found_dates_are_in_the_store_and_said_once(tmp_path: Path) -> None:
    names = [f"S1A_IW_GRDH_1SDV_2020070{day}T053355_20200701T053420_0.tif" for day in (1, 2, 3)]
    for name in names:
        _tif(tmp_path / name, names=("VV", "VH"), dtype="float32")
    (tmp_path / "m.csv").write_text("path,sensor,encoding\n" + "".join(f"{name},sentinel1-grd,db\n" for name in names))
    report = prepare(open_manifest(tmp_path / "m.csv"), tmp_path / "out")
    dates = ChipStore.open(tmp_path / "out").index["datetime"].to_pylist()
    assert [date.day for date in dates] == [1, 2, 3]
    assert f"{DATED}the product name (Sentinel-1) ('{names[0]}' and 2 more)" in report.notes
