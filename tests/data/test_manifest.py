"""A manifest is read as it is meant, or refused with the row and the reason."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.manifest import entries_from_globs, is_future, parse_entry, read_manifest
from anyband.errors import ManifestError
from anyband.sensors.sensor import Encoding


def _csv(folder: Path, text: str) -> Path:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_row_is_read_whole(tmp_path) -> None:
    path = _csv(
        tmp_path,
        "path,sensor,place,datetime,bands,encoding,nodata,time,valid,split\n"
        "a.tif,sentinel2-l2a,field 1,2020-07-01T10:30:00Z,B04=1;B08=2,dn,0,3,cloud.tif,val\n",
    )
    (entry,) = read_manifest(path)
    assert entry.name == "a.tif"
    assert entry.source.paths == (tmp_path / "a.tif",)
    assert entry.source.bands == (("B04", "1"), ("B08", "2"))
    assert entry.source.valid_paths == (tmp_path / "cloud.tif",)
    assert (entry.source.nodata, entry.source.time_index, entry.source.encoding) == (0.0, 3, "dn")
    assert entry.sensor.band_names == ("B04", "B08")
    assert len(entry.product.bands) == 12
    assert entry.datetime == dt.datetime(2020, 7, 1, 10, 30, tzinfo=dt.UTC)
    assert (entry.place, entry.split) == ("field 1", "val")


def test_csv_yaml_and_parquet_say_the_same(tmp_path) -> None:
    rows = [
        {"path": "a.tif", "sensor": "sentinel1-grd", "place": "p", "datetime": "2020-07-01"},
        {"path": "b.tif", "sensor": "maxar-rgb"},
    ]
    (tmp_path / "m.yaml").write_text(
        "- {path: a.tif, sensor: sentinel1-grd, place: p, datetime: 2020-07-01}\n- {path: b.tif, sensor: maxar-rgb}\n"
    )
    pq.write_table(pa.Table.from_pylist([{**rows[0], "geometry": b""}, rows[1]]), tmp_path / "m.parquet")
    text = "path,sensor,place,datetime\na.tif,sentinel1-grd,p,2020-07-01\nb.tif,maxar-rgb,,\n"
    from_csv = read_manifest(_csv(tmp_path, text))
    assert read_manifest(tmp_path / "m.yaml") == from_csv == read_manifest(tmp_path / "m.parquet")


def test_yaml_bands_may_be_a_mapping(tmp_path) -> None:
    entry = parse_entry({"path": "a.tif", "sensor": "maxar-rgb", "bands": {"red": 3, "blue": "sky"}}, folder=tmp_path)
    assert entry.source.bands == (("R", "3"), ("B", "sky"))


def test_list_of_bands_numbers_those_of_one_file(tmp_path) -> None:
    entry = parse_entry({"path": "a.tif", "sensor": "sentinel2-l2a", "bands": "B08;B04"}, folder=tmp_path)
    assert entry.source.bands == (("B08", "1"), ("B04", "2"))


def test_list_of_bands_of_a_folder_goes_by_names(tmp_path) -> None:
    (tmp_path / "scene").mkdir()
    entry = parse_entry({"path": "scene", "sensor": "sentinel2-l2a", "bands": ["B08", "B04"]}, folder=tmp_path)
    assert entry.source.bands == (("B08", ""), ("B04", ""))


def test_several_files_make_one_image(tmp_path) -> None:
    entry = parse_entry({"path": "a.nc; b.nc", "sensor": "sentinel2-l2a"}, folder=tmp_path)
    assert entry.source.paths == (tmp_path / "a.nc", tmp_path / "b.nc")
    assert entry.name == "a.nc;b.nc"


def test_scale_alone_says_all_of_the_encoding(tmp_path) -> None:
    entry = parse_entry({"path": "a.nc", "sensor": "sentinel1-grd", "scale": "1e-4"}, folder=tmp_path)
    assert {(e.scale, e.offset, e.transform) for _, e in entry.encoding} == {(1e-4, 0.0, "identity")}


def test_scale_with_an_encoding_keeps_its_transform(tmp_path) -> None:
    row = {"path": "a.nc", "sensor": "sentinel1-grd", "encoding": "amplitude", "scale": 0.5}
    assert {(e.scale, e.transform) for _, e in parse_entry(row, folder=tmp_path).encoding} == {(0.5, "amplitude_to_db")}


def test_encoding_is_the_sensors_default_where_none_is_declared(tmp_path) -> None:
    entry = parse_entry({"path": "a.tif", "sensor": "sentinel2-l2a"}, folder=tmp_path)
    encoding = dict(entry.encoding)["B02"]
    assert (encoding.scale, encoding.offset) == (1e-4, 0.0)
    assert isinstance(encoding, Encoding)


def test_sensor_may_be_a_file_beside_the_manifest(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "mission: Mine\nsource: a handbook\nsensors:\n  mine:\n    title: Mine\n    nodata: null\n"
        "    default_encoding: dn\n    encodings: {dn: {scale: 1.0, source: x}}\n    unit: count\n"
        "    bands: [{name: P, low_nm: 450, high_nm: 800, gsd_m: 1}]\n"
    )
    (entry,) = read_manifest(_csv(tmp_path, "path,sensor\na.tif,mine.yaml\n"))
    assert entry.sensor.name == "mine"


@settings(max_examples=50)
@given(
    time=st.datetimes(
        max_value=dt.datetime(2025, 1, 1),
        timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))]),
    )
)
def test_times_are_kept_to_the_microsecond_in_any_zone(time: dt.datetime) -> None:
    if not dt.datetime.min.replace(tzinfo=dt.UTC) + dt.timedelta(days=1) < time:
        return
    entry = parse_entry({"path": "a", "sensor": "maxar-rgb", "datetime": time.isoformat()}, folder=Path())
    assert entry.datetime == time
    assert entry.datetime is not None
    assert entry.datetime.utcoffset() == dt.timedelta(0)


def test_time_is_a_number_or_a_date(tmp_path) -> None:
    by_number = parse_entry({"path": "a.nc", "sensor": "maxar-rgb", "time": "-1"}, folder=tmp_path)
    by_date = parse_entry({"path": "a.nc", "sensor": "maxar-rgb", "time": "2020-07-01"}, folder=tmp_path)
    assert (by_number.source.time_index, by_number.source.time) == (-1, None)
    assert by_date.source.time == dt.datetime(2020, 7, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no images"),
        ("path,sensor\n", r"has no images; give it a row for each \(columns: path, sensor"),
        ("path,sensor\na.tif,sentinel2-l2b\n", r"row 1 of .*sentinel2-l2b.*did you mean 'sentinel2-l2a'"),
        ("path,sensr\na.tif,maxar-rgb\n", r"row 1 of .*column 'sensr' is unknown .*did you mean 'sensor'"),
        ("path\na.tif\n", r"row 1 of .*'sensor' is missing"),
        ("path,sensor,bands\na.tif,sentinel2-l2a,B10\n", r"row 1 of .*band 'B10' is not in sensor"),
        ("path,sensor,bands\na.tif,sentinel2-l2a,B02=1;B03\n", r"name some bands of the file and not others"),
        ("path,sensor,bands\na.tif,sentinel2-l2a,B02=1;B02=2\n", r"names band 'B02' twice"),
        ("path,sensor,encoding\na.tif,sentinel2-l2a,dm\n", r"encoding 'dm' is not .*did you mean 'dn'"),
        ("path,sensor,datetime\na.tif,maxar-rgb,01.07.2020\n", r"datetime '01.07.2020' is not ISO 8601"),
        ("path,sensor,nodata\na.tif,maxar-rgb,none\n", r"nodata 'none' is not a number"),
        ("path,sensor,scale\na.tif,maxar-rgb,0\n", r"needs a scale other than 0"),
        ("path,sensor,split\na.tif,maxar-rgb,tain\n", r"split 'tain' is unknown .*did you mean 'train'"),
        ("path,path,sensor\na,b,maxar-rgb\n", r"has column 'path' twice"),
        ("path,sensor\na.tif,maxar-rgb,x\n", r"row 1 of .* has 3 cells, the header has 2 columns"),
        ("path,sensor,place\na.tif,maxar-rgb,p\na.tif,maxar-rgb,q\n", r"rows 1 and 2 of .* different"),
    ],
)  # fmt: skip
def test_wrong_manifest_is_refused_with_the_reason(tmp_path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(_csv(tmp_path, text))


def test_other_endings_are_no_manifest(tmp_path) -> None:
    with pytest.raises(ManifestError, match=r"its name ends in '.tif', allowed are .csv.*--sensor"):
        read_manifest(tmp_path / "a.tif")


def test_missing_manifest_is_said(tmp_path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read manifest .*No such file"):
        read_manifest(tmp_path / "m.csv")


def test_yaml_that_is_no_list_is_refused(tmp_path) -> None:
    (tmp_path / "m.yaml").write_text("path: a.tif\n")
    with pytest.raises(ManifestError, match="must be a list with a mapping for each image"):
        read_manifest(tmp_path / "m.yaml")


def test_broken_parquet_is_said(tmp_path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="cannot read manifest"):
        read_manifest(tmp_path / "m.parquet")


def test_globs_list_each_file_once_in_order(tmp_path) -> None:
    for name in ("b.tif", "a.tif", "c.png"):
        (tmp_path / name).touch()
    entries = entries_from_globs([str(tmp_path / "*.tif"), str(tmp_path / "a*")], sensor="maxar-rgb")
    assert [Path(entry.name).name for entry in entries] == ["a.tif", "b.tif"]


def test_glob_without_a_match_is_refused(tmp_path) -> None:
    with pytest.raises(ManifestError, match="no file matches"):
        entries_from_globs([str(tmp_path / "*.tif")], sensor="maxar-rgb")


def test_a_time_is_in_the_future_from_a_day_ahead() -> None:
    now = dt.datetime.now(dt.UTC)
    assert is_future(now + dt.timedelta(days=1, minutes=5))
    assert not is_future(now + dt.timedelta(hours=23))
