"""Tables of trained ranges."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyband.errors import CatalogueError
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.ranges import (
    RangeTable,
    TrainedRange,
    extend_ranges,
    load_ranges,
    published_statistics,
    range_table_from_dict,
    range_table_to_dict,
    ranges_from_sensors,
)
from anyband.sensors.sensor import OpticalRange, RadarBeam


def test_v1_has_17_ranges_in_the_order_of_the_checkpoint(v1: RangeTable) -> None:
    assert len(v1.ranges) == 17
    assert v1.range_names[:3] == ("aerosol", "blue_1", "blue_3")
    assert v1.range_names[14:] == ("short_wave_infrared_4", "microwave_1", "microwave_2")
    assert {entry.name for entry in v1.declared} == {"blue_2", "short_wave_infrared_2", "thermal_infrared_1"}


@pytest.mark.parametrize("set_name", ["SENTINEL1-GRD", "SENTINEL2-L1C", "SENTINEL2-L2A", "RGB", "EuroSAT", "DFC2020"])
def test_published_statistics_are_complete(set_name: str, v1: RangeTable) -> None:
    known = {*v1.range_names, *(entry.name for entry in v1.declared)}
    statistics = published_statistics(set_name)
    assert statistics
    assert set(statistics) <= known


def test_published_statistics_take_another_unit() -> None:
    assert published_statistics("EuroSAT", unit_scale=1.0)["aerosol"].p99 == 2084.0
    assert published_statistics("EuroSAT")["aerosol"].p99 == pytest.approx(0.2084)


def test_an_unknown_set_offers_the_nearest() -> None:
    with pytest.raises(CatalogueError, match=r"no statistics of 'Eurosat'.*did you mean 'EuroSAT'"):
        published_statistics("Eurosat")


def test_an_unknown_table_offers_the_nearest() -> None:
    with pytest.raises(CatalogueError, match=r"no range table 'smarties'.*did you mean 'smarties_v1'"):
        load_ranges("smarties")


@pytest.mark.parametrize("pair", [("sentinel2-l1c", "B10"), ("hls-s30", "B02"), ("naip", "R")])
def test_v1_does_not_know_what_it_was_not_trained_on(pair: tuple[str, str], v1: RangeTable) -> None:
    assert not any(pair in entry.known for entry in v1.ranges)


def test_every_band_that_v1_knows_is_in_the_catalogue(v1: RangeTable) -> None:
    pairs = [pair for entry in v1.ranges for pair in entry.known]
    pairs += [(sensor, band) for sensor, band, _ in v1.published]
    assert len(pairs) == 12 * 2 + 3 + 2 + 8
    assert all(band in get_sensor(sensor).band_names for sensor, band in pairs)


def test_v1_centres_lie_near_the_bands_that_they_know(v1: RangeTable) -> None:
    # The published edges are feet of responses, the catalogue's half heights: centres must agree roughly.
    for entry in v1.ranges:
        for sensor, band in entry.known:
            center_nm = get_sensor(sensor).band(band).spectrum.center_nm
            assert center_nm == pytest.approx(entry.spectrum.center_nm, rel=0.01), (sensor, band)


def test_a_table_survives_being_written_as_json(v1: RangeTable) -> None:
    assert range_table_from_dict(json.loads(json.dumps(range_table_to_dict(v1)))) == v1


def test_a_table_from_data_survives_being_written() -> None:
    table = ranges_from_sensors(map(get_sensor, ("hls-s30", "hls-l30", "naip", "sentinel1-grd", "palsar2")))
    assert range_table_from_dict(json.loads(json.dumps(range_table_to_dict(table)))) == table


def test_every_training_sensor_is_one_hot_under_its_own_ranges() -> None:
    # Without the hyperspectral ones, whose hundreds of bands only take time.
    sensors = [sensor for sensor in map(get_sensor, list_sensors()) if len(sensor.bands) < 20]
    table = ranges_from_sensors(sensors)
    for sensor in sensors:
        assignment = assign(sensor, table)
        assert set(assignment.origin) == {"exact"}
        assert np.array_equal(np.sort(assignment.mixing, axis=1)[:, -1], np.ones(len(sensor.bands)))


def test_bands_that_nearly_coincide_share_a_range(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor((500, 600), name="a"), make_sensor((501, 601), (520, 620), name="b")])
    assert [entry.known for entry in table.ranges] == [(("a", "b0"), ("b", "b0")), (("b", "b1"),)]


def test_sharing_can_be_made_stricter(make_sensor: Any) -> None:
    sensors = [make_sensor((500, 600), name="a"), make_sensor((501, 601), name="b")]
    assert len(ranges_from_sensors(sensors, min_iou=0.99).ranges) == 2


def test_radar_bands_share_by_frequency_polarisation_and_orbit(make_sensor: Any) -> None:
    def beam(frequency_ghz: float, polarisation: str, orbit: str | None = None) -> RadarBeam:
        return RadarBeam(frequency_ghz=frequency_ghz, polarisation=polarisation, orbit=orbit)

    beams = (
        beam(5.405, "VV"),
        beam(5.3, "VV"),
        beam(5.405, "HH"),
        beam(5.405, "VV", "ascending"),
        beam(9.65, "VV"),
    )
    table = ranges_from_sensors([make_sensor(*beams)])
    assert [len(entry.known) for entry in table.ranges] == [2, 1, 1, 1]


def test_held_out_sensors_get_no_range() -> None:
    table = ranges_from_sensors([get_sensor("sentinel2-l2a"), get_sensor("sentinel1-grd")])
    assert len(table.ranges) == 14
    assert not any(sensor == "naip" for entry in table.ranges for sensor, _ in entry.known)


def test_new_ranges_come_after_the_old_ones(v1: RangeTable) -> None:
    longer = extend_ranges(v1, [get_sensor("sentinel2-l2a"), get_sensor("palsar2")])
    assert longer.ranges[:17] == v1.ranges
    assert longer.range_names[17:] == ("palsar2.HH", "palsar2.HV")
    assert set(assign(get_sensor("palsar2"), longer).origin) == {"exact"}


def test_extending_twice_adds_nothing(v1: RangeTable) -> None:
    once = extend_ranges(v1, [get_sensor("palsar2")])
    assert extend_ranges(once, [get_sensor("palsar2")]).ranges == once.ranges


def _range(name: str) -> TrainedRange:
    return TrainedRange(name=name, spectrum=OpticalRange(low_nm=400.0, high_nm=500.0))


def test_two_ranges_of_one_name_are_refused() -> None:
    with pytest.raises(CatalogueError, match="names range 'a' twice"):
        RangeTable(name="t", ranges=(_range("a"), _range("a")))


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(CatalogueError, match="range table 't' has no ranges"):
        RangeTable(name="t", ranges=())


def test_a_published_reading_must_name_a_range() -> None:
    with pytest.raises(CatalogueError, match="has no range 'blue_1'; did you mean 'blue_2'"):
        RangeTable(name="t", ranges=(_range("blue_2"),), published=(("s", "b", "blue_1"),))


def test_a_table_file_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nranges:\n  - {name: a, low_nm: 400, hihg_nm: 500}\n")
    with pytest.raises(CatalogueError, match=r"ranges\[0\]: unknown key 'hihg_nm'; did you mean 'high_nm'"):
        load_ranges(path)
