"""Rules by band for bands that no trained range is, ranges that go first, and the paper's interpolation by its name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anyband.cli import main
from anyband.errors import AssignmentError, CatalogueError
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import (
    RangeTable,
    extend_ranges,
    load_ranges,
    range_table_from_dict,
    range_table_to_dict,
    ranges_from_sensors,
)

_OLI = "landsat8-oli-tirs-l2"
_TABLE_6: Any = {"default": "nearest", "prefer": "sentinel2", "thermal_infrared_1": "interpolate"}


@pytest.fixture
def v1() -> RangeTable:
    return load_ranges("smarties_v1")


def _shares(found: Assignment, band: str) -> dict[str, float]:
    row = found.mixing[found.kept_index.index(found.requested.index(band))]
    return {name: float(share) for name, share in zip(found.range_names, row, strict=True) if share > 0}


def test_linear_shares_are_those_of_distances_between_centres(v1: RangeTable) -> None:
    """blue: 482 nm between aerosol (442.5) and blue_3 (487.5); red: 654.5 between red_1 (650) and red_2 (665)."""
    found = assign(get_sensor(_OLI), v1, AssignmentRules(unseen="interpolate_linear", min_support=0.0))
    assert _shares(found, "SR_B2") == pytest.approx({"aerosol": 5.5 / 45, "blue_3": 39.5 / 45})
    assert _shares(found, "SR_B4") == pytest.approx({"red_1": 10.5 / 15, "red_2": 4.5 / 15})
    assert _shares(found, "ST_B10")["short_wave_infrared_4"] == pytest.approx(0.99984, abs=1e-5)


@pytest.mark.parametrize(
    ("sensor", "band", "layers"),
    [
        (_OLI, "SR_B2", {"aerosol", "blue_1"}),
        (_OLI, "SR_B4", {"green_2", "red_2"}),
        ("hls-l30", "B02", {"aerosol", "blue_1"}),
        ("planetscope-4b", "green", {"blue_1", "green_2"}),
        ("naip", "R", {"green_1", "red_1"}),
        ("naip", "NIR", {"near_infrared_1", "near_infrared_3"}),
    ],
)
def test_a_mixture_stays_within_the_sensor_nearest_in_resolution_that_holds_the_band(
    v1: RangeTable, sensor: str, band: str, layers: set[str]
) -> None:
    assert _shares(assign(get_sensor(sensor), v1), band).keys() == layers


def test_across_sensors_and_without_known_resolutions_all_ranges_mix(v1: RangeTable) -> None:
    across = assign(get_sensor(_OLI), v1, AssignmentRules(unseen="interpolate_across"))
    assert _shares(across, "SR_B4").keys() == {"red_1", "red_2"}
    older = replace(v1, gsd_m={"sentinel2-l2a": 10.0})
    np.testing.assert_array_equal(assign(get_sensor(_OLI), older).mixing, across.mixing)


def test_a_band_with_a_rule_of_its_own_needs_no_support(v1: RangeTable) -> None:
    found = assign(get_sensor(_OLI), v1, AssignmentRules(unseen={"thermal_infrared_1": "interpolate"}, min_support=0.9))
    assert found.origin == ("interpolated",) * 8


def test_resolutions_of_training_sensors_travel_with_the_ranges() -> None:
    table = ranges_from_sensors([get_sensor("sentinel2-l2a"), get_sensor("naip")])
    assert table.gsd_m == {"sentinel2-l2a": 10.0, "naip": 0.6}
    assert range_table_from_dict(range_table_to_dict(extend_ranges(table, [get_sensor(_OLI)]))).gsd_m == {
        "sentinel2-l2a": 10.0,
        "naip": 0.6,
        _OLI: 30.0,
    }


def test_table_6_reads_optical_bands_by_the_nearest_layers_of_sentinel_2_and_interpolates_the_thermal(
    v1: RangeTable,
) -> None:
    found = assign(get_sensor(_OLI), v1, AssignmentRules(unseen=_TABLE_6))
    nearest = [next(iter(_shares(found, f"SR_B{number}"))) for number in range(1, 8)]
    assert nearest == [
        *("aerosol", "blue_1", "green_2", "red_2"),
        *("near_infrared_3", "short_wave_infrared_3", "short_wave_infrared_4"),
    ]
    assert found.origin == ("nearest",) * 7 + ("interpolated",)
    assert _shares(found, "ST_B10") == pytest.approx({"short_wave_infrared_4": 0.842, "microwave_1": 0.158}, abs=5e-4)


def test_a_band_can_be_left_out_by_its_range(v1: RangeTable) -> None:
    rules = AssignmentRules(unseen={**_TABLE_6, "thermal_infrared_1": "refuse"}, out_of_span="drop")
    found = assign(get_sensor(_OLI), v1, rules)
    assert found.origin == ("nearest",) * 7 + ("dropped",)


def test_hls_meets_the_layers_of_sentinel_2(v1: RangeTable) -> None:
    plain = assign(get_sensor("hls-l30"), v1, AssignmentRules(unseen="nearest", out_of_span="drop"))
    found = assign(get_sensor("hls-l30"), v1, AssignmentRules(unseen=_TABLE_6, out_of_span="drop"))
    assert (_shares(plain, "B02"), _shares(plain, "B04")) == ({"blue_3": 1.0}, {"red_1": 1.0})
    assert (_shares(found, "B02"), _shares(found, "B04")) == ({"blue_1": 1.0}, {"red_2": 1.0})


def test_a_band_that_the_preferred_ranges_do_not_hold_is_read_by_all(v1: RangeTable) -> None:
    ways: Any = ("interpolate", {"default": "interpolate", "prefer": "sentinel2"})
    both = [assign(get_sensor(_OLI), v1, AssignmentRules(unseen=rule, min_support=0.0)) for rule in ways]
    assert _shares(both[0], "ST_B10") == _shares(both[1], "ST_B10")
    assert not any(_shares(both[1], f"SR_B{number}").keys() & {"blue_3", "green_1", "red_1"} for number in range(1, 8))


def test_a_band_has_a_rule_by_its_own_name(v1: RangeTable) -> None:
    rules = AssignmentRules(unseen={f"{_OLI}/SR_B4": "nearest"})
    found = assign(get_sensor(_OLI), v1, rules)
    assert found.origin[3] == "nearest"
    assert found.origin.count("interpolated") == 6
    assert found.origin[-1] == "dropped"
    radar = assign(get_sensor("sentinel1-grd"), v1, rules)
    np.testing.assert_array_equal(radar.mixing.sum(axis=1), 1)


def test_permuting_bands_permutes_rows(v1: RangeTable) -> None:
    sensor = get_sensor(_OLI)
    order = [6, 0, 7, 3, 1, 5, 2, 4]
    turned = assign(sensor.select(sensor.band_names[one] for one in order), v1, AssignmentRules(unseen=_TABLE_6))
    np.testing.assert_array_equal(turned.mixing, assign(sensor, v1, AssignmentRules(unseen=_TABLE_6)).mixing[order])


@pytest.mark.parametrize(
    ("unseen", "error", "message"),
    [
        ({"default": "nearst"}, AssignmentError, "unseen 'nearst' of 'default' is not one of .*did you mean 'nearest'"),
        (
            {"thermal": "nearest"},
            AssignmentError,
            "unseen has a rule for 'thermal', which is no range of",
        ),
        ({f"{_OLI}/B9": "nearest"}, CatalogueError, "band 'B9' is not in sensor"),
        (
            {"prefer": "sentinel9"},
            AssignmentError,
            "unseen prefers ranges of 'sentinel9', and .* knows none",
        ),
    ],
)
def test_rules_for_what_is_not_there_are_refused(v1: RangeTable, unseen: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        assign(get_sensor(_OLI), v1, AssignmentRules(unseen=unseen, out_of_span="drop"))


def test_the_table_of_the_parity_page_is_what_the_rules_give(v1: RangeTable) -> None:
    page = Path(__file__).parents[2].joinpath("docs", "parity.md").read_text(encoding="utf-8")
    lines = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line] for line in lines if line[0].strip().count("/") == 1 and len(line) == 5]
    rules: Any = ("interpolate", "interpolate_across", "interpolate_linear", _TABLE_6)
    assert len(rows) == 12
    for name, *written in rows:
        sensor, band = name.strip("`").split("/")
        for cell, rule in zip(written, rules, strict=True):
            found = assign(get_sensor(sensor), v1, AssignmentRules(unseen=rule))
            is_kept = found.requested.index(band) in found.kept_index
            shares = " + ".join(f"{share:.3g} {one}" for one, share in _shares(found, band).items()) if is_kept else ""
            assert cell == (shares or "dropped"), f"{name} by {rule}"


def test_the_command_line_takes_rules_by_band(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["embed", "x.tif", "--sensor", "naip", "--checkpoint", "c.safetensors", "--out", "o.tif"]
    with pytest.raises(SystemExit):
        main([*words, "--unseen", "default=nearest,thermal_infrared_1="])
    assert "takes a rule, or KEY=RULE joined by commas; found 'thermal_infrared_1='" in capsys.readouterr().err
