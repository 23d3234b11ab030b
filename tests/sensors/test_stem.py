"""A stem of three bands: which bands stand in it when a network is used, and that it goes before any assignment."""

import numpy as np
import pytest

from anyband.errors import CatalogueError
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.ranges import (
    STEM,
    colour_of,
    load_ranges,
    range_table_from_dict,
    range_table_to_dict,
    stem_bands,
    stem_ranges,
)
from anyband.sensors.sensor import OpticalRange, RadarBeam


def _named_colours(name: str) -> list[str] | None:
    sensor = get_sensor(name)
    try:
        return [sensor.band(colour).name for colour in ("red", "green", "blue")]
    except CatalogueError:
        return None


# VIIRS has two red bands; the catalogue gives the moderate one the name, the other is nearer to the window's centre.
def test_the_spectra_choose_the_bands_that_the_catalogue_calls_red_green_and_blue() -> None:
    coloured = [name for name in list_sensors() if _named_colours(name) and name != "viirs"]
    chosen = {name: [get_sensor(name).band_names[index] for index in stem_bands(get_sensor(name))] for name in coloured}
    assert chosen == {name: _named_colours(name) for name in coloured}
    assert len(coloured) > 20


def test_a_sensor_without_blue_gives_its_first_three_bands() -> None:
    assert stem_bands(get_sensor("aster")) == (0, 1, 2)


@pytest.mark.parametrize(("bands", "expected"), [(("VV", "VH"), (0, 1, 0)), (("VH",), (0, 0, 0))])
def test_a_sensor_with_fewer_bands_repeats_them(bands, expected) -> None:
    assert stem_bands(get_sensor("sentinel1-grd").select(bands)) == expected


def test_the_order_of_the_bands_does_not_change_which_are_chosen() -> None:
    sensor = get_sensor("sentinel2-l2a")
    turned = sensor.select(reversed(sensor.band_names))
    chosen = [[one.band_names[index] for index in stem_bands(one)] for one in (sensor, turned)]
    assert chosen[0] == chosen[1] == ["B04", "B03", "B02"]


def test_published_ranges_of_colours_are_known_as_such() -> None:
    colours = {entry.name: colour_of(entry.spectrum) for entry in load_ranges("smarties_v1").ranges}
    assert {name: colour for name, colour in colours.items() if colour} == {
        "blue_1": "blue",
        "blue_3": "blue",
        "green_1": "green",
        "green_2": "green",
        "red_1": "red",
        "red_2": "red",
    }


@pytest.mark.parametrize(
    "spectrum",
    [
        OpticalRange(low_nm=450.0, high_nm=800.0),
        OpticalRange(low_nm=585.0, high_nm=625.0),
        OpticalRange(low_nm=400.0, high_nm=450.0),
        OpticalRange(low_nm=705.0, high_nm=745.0),
        RadarBeam(frequency_ghz=5.405, polarisation="VV"),
    ],
    ids=["panchromatic", "yellow", "coastal", "red edge", "radar"],
)
def test_what_is_not_mostly_in_one_window_is_no_colour(spectrum) -> None:
    assert colour_of(spectrum) is None


def test_the_table_survives_being_written_into_a_header() -> None:
    table = range_table_from_dict(range_table_to_dict(stem_ranges()))
    assert table == stem_ranges()
    assert table.name == STEM
    assert load_ranges("smarties_v1").name != STEM


def test_a_stem_reads_three_bands_whatever_they_are() -> None:
    found = assign(get_sensor("sentinel2-l2a"), stem_ranges(), AssignmentRules(unseen="refuse"))
    assert found.kept_index == (3, 2, 1)
    assert found.sensor.band_names == ("B04", "B03", "B02")
    np.testing.assert_array_equal(found.mixing, np.eye(3))
    assert sum(found.support) == 3
    assert found.report() == "sentinel2-l2a: a stem of three bands reads B04, B03, B02; 9 of 12 bands are not read"


def test_radar_in_a_stem_is_said_too() -> None:
    found = assign(get_sensor("sentinel1-grd"), stem_ranges())
    assert found.sensor.band_names == ("VV", "VH")
    assert found.kept_index == (0, 1, 0)
    assert found.report() == "sentinel1-grd: a stem of three bands reads VV, VH, VV"
