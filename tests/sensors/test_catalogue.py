"""The catalogue: what it holds, how it is asked, and how tables that are wrong are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import anyband
from anyband.errors import CatalogueError
from anyband.files import OwnLoader, read_yaml
from anyband.sensors.catalogue import (
    _FOLDER,
    find_sensor_name,
    get_sensor,
    list_sensors,
    load_sensor_file,
    parse_mission,
)
from anyband.sensors.sensor import RadarBeam, Sensor, sensor_from_dict, sensor_to_dict


def _table() -> dict[str, Any]:
    """A table of one small sensor, to be spoilt by a test."""
    return {
        "mission": "Own",
        "source": "measured at home",
        "sensors": {
            "own": {
                "title": "A camera of one's own",
                "unit": "reflectance",
                "gsd_m": 1.5,
                "encodings": {"dn": {"scale": 0.01}},
                "bands": [
                    {"name": "G", "low_nm": 500, "high_nm": 600, "aliases": ["green"]},
                    {"name": "R", "low_nm": 600, "high_nm": 700},
                ],
            }
        },
    }


def _own(raw: dict[str, Any]) -> Sensor:
    return parse_mission(raw, name="own.yaml")[0]


def test_every_sensor_survives_being_written_as_json() -> None:
    for sensor in map(get_sensor, list_sensors()):
        assert sensor_from_dict(json.loads(json.dumps(sensor_to_dict(sensor)))) == sensor


@pytest.mark.parametrize("table", sorted(_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_catalogues_own_tables_have_the_form_of_a_users(table: Path) -> None:
    parsed = parse_mission(read_yaml(table, error=CatalogueError), name=table.name)
    assert parsed == tuple(get_sensor(sensor.name) for sensor in parsed)


def test_aliases_and_case_lead_to_the_same_sensor() -> None:
    assert get_sensor("s2l2a") is get_sensor("SENTINEL2-L2A") is get_sensor("sentinel2-l2a")
    assert get_sensor("landsat9-oli-tirs-l2").name == "landsat8-oli-tirs-l2"
    assert find_sensor_name("no-such") is None


def test_an_unknown_sensor_offers_the_nearest() -> None:
    with pytest.raises(CatalogueError, match=r"no sensor 'sentinel2-l2' in the catalogue.*did you mean 'sentinel2-l"):
        get_sensor("sentinel2-l2")


def test_an_unknown_band_offers_the_nearest() -> None:
    with pytest.raises(CatalogueError, match=r"band 'B10' is not in sensor 'sentinel2-l2a' \(12 bands: B01"):
        get_sensor("sentinel2-l2a").band("B10")


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("B2", "B02"),
        ("b02", "B02"),
        ("blue", "B02"),
        ("NIR_NARROW", "B8A"),
        ("nir08", "B8A"),
        ("02 - Blue", "B02"),
    ],
)
def test_bands_answer_to_their_aliases(name: str, band: str) -> None:
    assert get_sensor("sentinel2-l2a").band(name).name == band


def test_a_choice_of_bands_keeps_its_own_order() -> None:
    assert get_sensor("sentinel2-l2a").select(["B8A", "blue"]).band_names == ("B8A", "B02")


def test_v1_statistics_are_in_reflectance() -> None:
    statistics = get_sensor("sentinel2-l2a").band("B12").statistics
    assert statistics is not None
    assert (statistics.p01, statistics.p99) == pytest.approx((4.277889e-4, 0.3387443044))
    assert (statistics.mean, statistics.std) == (0.295883, 0.235551)


def test_the_cirrus_band_has_statistics_of_its_own() -> None:
    statistics = get_sensor("sentinel2-l1c").band("B10").statistics
    assert statistics is not None
    assert statistics.p99 == pytest.approx(74.069919e-4)


def test_sensors_without_a_source_have_no_statistics() -> None:
    with_statistics = {name for name in list_sensors() if get_sensor(name).statistics_source}
    assert with_statistics == {"sentinel1-grd", "sentinel2-l1c", "sentinel2-l2a", "maxar-rgb"}


def test_sentinel_1_is_at_5_405_ghz() -> None:
    spectra = [band.spectrum for band in get_sensor("sentinel1-grd").bands]
    assert spectra == [RadarBeam(frequency_ghz=5.405, polarisation=name) for name in ("VV", "VH")]


def test_the_finest_band_gives_the_sensor_its_gsd() -> None:
    assert get_sensor("landsat8-oli-tirs-l1").gsd_m == 15


def test_a_file_describes_a_sensor_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(_table()))
    sensor = get_sensor(str(path))
    assert sensor == load_sensor_file(path)
    assert sensor.band("green").encoding("dn").scale == 0.01
    assert (sensor.default_encoding, sensor.gsd_m, sensor.source) == ("dn", 1.5, "measured at home")


def test_a_file_is_parsed_again_only_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(_table()))
    first = load_sensor_file(path)
    assert load_sensor_file(path) is first
    path.write_text(yaml.safe_dump(_spoil("sensors/own/gsd_m", 30)))
    assert load_sensor_file(path).gsd_m == 30.0


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="cannot read"):
        load_sensor_file(tmp_path / "none.yaml")


def test_a_file_with_two_sensors_is_refused(tmp_path: Path) -> None:
    raw = _table()
    raw["sensors"]["other"] = raw["sensors"]["own"]
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(CatalogueError, match=r"describes 2 sensors \(other, own\)|describes 2 sensors \(own, other\)"):
        load_sensor_file(path)


def test_a_file_may_not_take_the_catalogues_names(tmp_path: Path) -> None:
    raw = _table()
    raw["sensors"]["S2L2A"] = raw["sensors"].pop("own")
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(CatalogueError, match="a name of the catalogue's own sensor 'sentinel2-l2a'"):
        load_sensor_file(path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(_table()).replace("mission: Own", "mission: Own\nmission: Other"))
    with pytest.raises(CatalogueError, match="key 'mission' stands twice, on lines 1 and 2"):
        load_sensor_file(path)


_TABLES = sorted(Path(anyband.__file__).parent.rglob("*.yaml"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in _TABLES])
def test_the_quick_reader_of_the_packages_tables_hides_no_key_that_stands_twice(path: Path) -> None:
    assert yaml.load(path.read_bytes(), OwnLoader) == read_yaml(path, error=CatalogueError)  # noqa: S506 - a SafeLoader


def _spoil(path: str, value: Any) -> dict[str, Any]:
    raw = _table()
    place: Any = raw
    *parents, last = path.split("/")
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    place[int(last) if isinstance(place, list) else last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sensor", {}, "own.yaml: unknown key 'sensor'; did you mean 'sensors'"),
        ("sensors", {}, "key 'sensors' is missing|expected at least one sensor"),
        ("sensors/own/titel", "x", "own.yaml: own: unknown key 'titel'; did you mean 'title'"),
        ("sensors/own/title", None, "own: key 'title' is missing"),
        ("sensors/own/title", 5, r"own: title: expected a text, found 5 \(int\); put it in quotes"),
        ("sensors/own/bands", [], "own: bands: expected a list with at least one item"),
        ("sensors/own/bands/0/low_nn", 4, r"own: bands\[0\]: unknown key 'low_nn'; did you mean 'low_nm'"),
        ("sensors/own/bands/0/low_nm", "blue", r"bands\[0\] \('G'\): low_nm: expected a number, found 'blue'"),
        ("sensors/own/bands/0/low_nm", True, "expected a number, found True"),
        ("sensors/own/bands/0/low_nm", 650, r"bands\[0\] \('G'\): a spectral range needs 0 < low < high"),
        ("sensors/own/bands/0/gsd_m", 0, "gsd_m: expected a finite number over 0, found 0"),
        ("sensors/own/bands/0/gsd_m", float("nan"), "expected a finite number"),
        (
            "sensors/own/bands/0/unit",
            "reflectence",
            "'reflectence' is not one of .*did you mean 'reflectance'",
        ),
        ("sensors/own/bands/1/name", "G", "sensor 'own' names band 'G' twice|names both band"),
        ("sensors/own/bands/1/aliases", ["GREEN"], "'green' names both band 'G' and band 'R'"),
        ("sensors/own/default_encoding", "nd", "default_encoding: 'nd' is not one of dn; did you mean 'dn'"),
        ("sensors/own/encodings/dn/scala", 1, "encodings.dn: unknown key 'scala'; did you mean 'scale'"),
        ("sensors/own/encodings/dn/scale", 0, "encodings.dn: an encoding needs a scale other than 0"),
        ("sensors/own/encodings/dn/bands", {"X": {}}, "encodings.dn.bands: there is no band 'X'"),
        ("sensors/own/encodings/dn/transform", "power", "is not one of identity, power_to_db"),
        (
            "sensors/own/statistics",
            {"table": "smarties_v1", "set": "RBG"},
            "no statistics of 'RBG'.*mean 'RGB'",
        ),
        ("sensors/own/statistics", {"table": "smarties_v1", "set": "RGB"}, "knows no band of 'own'"),
        ("sensors/own/statistics", {"bands": {"G": {}}, "source": "x"}, "key 'p01' is missing"),
        ("sensors/own/statistics", {"bands": {"G": {}}}, "key 'source' is missing"),
    ],
)
def test_a_wrong_table_says_what_is_wrong_and_where(path: str, value: Any, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        _own(_spoil(path, value))


def test_numbers_need_a_source() -> None:
    raw = _table()
    del raw["source"]
    with pytest.raises(CatalogueError, match="own: key 'source' is missing, here and at the top of the table"):
        _own(raw)


def test_several_encodings_need_a_default() -> None:
    with pytest.raises(CatalogueError, match="default_encoding: expected a text, found nothing"):
        _own(_spoil("sensors/own/encodings/float", {}))


def test_some_bands_may_be_stored_otherwise() -> None:
    raw = _spoil("sensors/own/encodings/dn/bands", {"R": {"offset": 7.0}})
    scales = [(band.encoding("dn").scale, band.encoding("dn").offset) for band in _own(raw).bands]
    assert scales == [(0.01, 0.0), (0.01, 7.0)]


def test_written_statistics_are_read() -> None:
    numbers = {"p01": 0.0, "p99": 1.0, "mean": 0.4, "std": 0.2}
    sensor = _own(_spoil("sensors/own/statistics", {"bands": {"R": numbers}, "source": "own store"}))
    assert sensor.band("G").statistics is None
    assert sensor.band("R").statistics is not None
    assert sensor.statistics_source == "own store"


def test_a_series_writes_its_bands_out() -> None:
    raw = _table()
    own = raw["sensors"]["own"]
    own["bands"] = None
    own["band_series"] = {"prefix": "B", "first": 9, "pad": 3, "centers_nm": [400, 410], "fwhm_nm": [8, 9]}
    assert _own(raw).band_names == ("B009", "B010")


def test_a_series_needs_as_many_widths_as_centres() -> None:
    raw = _table()
    raw["sensors"]["own"]["band_series"] = {"prefix": "B", "centers_nm": [400, 410], "fwhm_nm": [8]}
    with pytest.raises(CatalogueError, match="own: band_series: 2 centers_nm but 1 fwhm_nm"):
        _own(raw)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", 1, "sensor 'maxar-rgb': unknown key 'colour'"),
        ("bands", [], "expected a list with at least one item"),
        ("nodata", "none", "nodata: expected a number, found 'none'"),
    ],
)
def test_a_wrong_record_in_a_store_is_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        sensor_from_dict(sensor_to_dict(get_sensor("maxar-rgb")) | {key: value})
