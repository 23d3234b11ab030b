"""Assignment of sensors to trained ranges: the cases that the method names."""

import math
from typing import Any

import numpy as np
import pytest

from anyband.errors import AssignmentError
from anyband.sensors.assignment import AssignmentRules, assign, mixing_of_ranges
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import RangeTable, TrainedRange, ranges_from_sensors
from anyband.sensors.sensor import OpticalRange, RadarBeam

_DROP = AssignmentRules(out_of_span="drop")


def _row(v1: RangeTable, weights: dict[str, float]) -> np.ndarray:
    return np.array([weights.get(name, 0.0) for name in v1.range_names])


def _beam(frequency_ghz: float, polarisation: str, orbit: str | None = None) -> RadarBeam:
    return RadarBeam(frequency_ghz=frequency_ghz, polarisation=polarisation, orbit=orbit)


@pytest.mark.parametrize(
    ("sensor", "layers"),
    [
        ("sentinel2-l2a", [0, 1, 4, 6, 7, 8, 10, 9, 11, 12, 13, 14]),
        ("sentinel1-grd", [15, 16]),
        ("maxar-rgb", [5, 3, 2]),
    ],
)
def test_pretraining_sensors_are_one_hot_in_their_published_layers(
    sensor: str, layers: list[int], v1: RangeTable
) -> None:
    assignment = assign(get_sensor(sensor), v1)
    assert np.array_equal(assignment.mixing, np.eye(17)[layers])
    assert set(assignment.origin) == {"exact"}
    assert set(assignment.support) == {1.0}
    assert assignment.report() == ""


def test_the_cirrus_band_is_interpolated_and_reported(v1: RangeTable) -> None:
    assignment = assign(get_sensor("sentinel2-l1c"), v1)
    share = math.log(1373.5 / 943.5) / math.log(1610 / 943.5)
    wanted = _row(v1, {"short_wave_infrared_1": 1 - share, "short_wave_infrared_3": share})
    assert assignment.mixing[10] == pytest.approx(wanted)
    assert assignment.origin[10] == "interpolated"
    assert "12 of 13 bands are exactly known to 'smarties_v1'" in assignment.report()
    assert "B10: interpolated, support 0.80: 0.297 short_wave_infrared_1 + 0.703" in assignment.report()


def test_thermal_bands_mix_the_longest_optical_with_the_co_polarised_radar_range(v1: RangeTable) -> None:
    assignment = assign(get_sensor("landsat8-oli-tirs-l2").select(["ST_B10"]), v1, AssignmentRules(min_support=0.05))
    assert assignment.mixing[0, 14] == pytest.approx(0.842, abs=5e-4)
    assert assignment.mixing[0, 15] == pytest.approx(0.158, abs=5e-4)
    assert assignment.mixing[0, :14].sum() + assignment.mixing[0, 16] == 0
    assert assignment.support[0] == pytest.approx(math.exp(-math.log2(10_895 / 2189)))


def test_released_weights_are_the_published_ones(v1: RangeTable) -> None:
    blue, thermal = mixing_of_ranges(["blue_2", "thermal_infrared_1"], v1, unseen="released")
    assert blue == pytest.approx(_row(v1, {"aerosol": 0.79, "blue_1": 0.21}), abs=5e-6)
    wanted = _row(v1, {"short_wave_infrared_4": 0.00016, "microwave_1": 0.99984})
    assert thermal == pytest.approx(wanted, abs=5e-6)


def test_released_reads_landsat_as_published(v1: RangeTable) -> None:
    bands = ["SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10"]
    names = ["blue_2", "green_2", "red_2", "near_infrared_3", "short_wave_infrared_3"]
    names += ["short_wave_infrared_4", "thermal_infrared_1"]
    sensor = get_sensor("landsat8-oli-tirs-l2").select(bands)
    assignment = assign(sensor, v1, AssignmentRules(unseen="released"))
    assert np.array_equal(assignment.mixing, mixing_of_ranges(names, v1, unseen="released"))
    assert set(assignment.origin) == {"released"}


def test_released_invents_nothing(v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match=r"SR_B1 \(435 to 451 nm\): 'smarties_v1' declares nothing for it"):
        assign(get_sensor("landsat8-oli-tirs-l2"), v1, AssignmentRules(unseen="released", out_of_span="refuse"))


def test_released_has_no_neighbours_for_the_cirrus_band(v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match="'short_wave_infrared_2' has no declared neighbours"):
        assign(get_sensor("sentinel2-l1c"), v1, AssignmentRules(unseen="released", out_of_span="refuse"))


def test_nearest_takes_the_nearest_layer(v1: RangeTable) -> None:
    sensor = get_sensor("landsat8-oli-tirs-l2")
    assignment = assign(sensor, v1, AssignmentRules(unseen="nearest", min_support=0.0))
    # SR_B2 at 482 nm: 487.5 (layer 2) is nearer than 442.5; thermal is nearer to 2.2 µm than to 5.5 cm.
    assert assignment.mixing.argmax(axis=1).tolist() == [0, 2, 4, 5, 11, 13, 14, 14]
    assert set(assignment.mixing.ravel()) == {0.0, 1.0}
    assert set(assignment.origin) == {"nearest"}


def test_refuse_allows_only_what_is_exactly_known(v1: RangeTable) -> None:
    rules = AssignmentRules(unseen="refuse", out_of_span="drop")
    assert set(assign(get_sensor("sentinel2-l2a"), v1, rules).origin) == {"exact"}
    with pytest.raises(AssignmentError, match=r"1 of 13 bands.*\n.*B10.*`unseen: refuse`"):
        assign(get_sensor("sentinel2-l1c"), v1, rules)


@pytest.mark.parametrize("sensor", ["terrasar-x", "capella-x"])
def test_x_band_is_read_by_c_band_with_less_support(sensor: str, v1: RangeTable) -> None:
    assignment = assign(get_sensor(sensor).select(["HH", "HV"]), v1)
    assert assignment.mixing[0] == pytest.approx(_row(v1, {"microwave_1": 1.0}))
    assert assignment.mixing[1] == pytest.approx(_row(v1, {"microwave_2": 1.0}))
    assert assignment.support[0] == pytest.approx(math.exp(-math.log2(9.65 / 5.405)), abs=0.01)


@pytest.mark.parametrize("sensor", ["palsar2", "nisar-l"])
def test_l_band_is_too_far_from_c_band(sensor: str, v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match=r"is 2.10 octaves from the nearest trained radar range; at most 1"):
        assign(get_sensor(sensor), v1)


def test_radar_is_never_read_by_optical_ranges() -> None:
    table = ranges_from_sensors([get_sensor("sentinel2-l2a")])
    with pytest.raises(AssignmentError, match="no radar range with polarisation VV or HH was trained"):
        assign(get_sensor("sentinel1-grd"), table)


def test_optical_is_never_read_by_radar_ranges() -> None:
    table = ranges_from_sensors([get_sensor("sentinel1-grd")])
    with pytest.raises(AssignmentError, match="no optical range was trained"):
        assign(get_sensor("landsat8-oli-tirs-l2"), table)


def test_radar_between_two_trained_frequencies_is_interpolated(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor(_beam(4.0, "VV"), _beam(8.0, "VV"), name="trained")])
    mixing = assign(make_sensor(_beam(4.0 * 2**0.25, "HH")), table).mixing
    assert mixing[0] == pytest.approx([0.75, 0.25])


def test_a_radar_bands_own_polarisation_comes_first(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor(_beam(5.405, "VV"), _beam(5.0, "HH"), name="trained")])
    assert assign(make_sensor(_beam(5.405, "HH")), table).mixing[0] == pytest.approx([0.0, 1.0])


def test_the_partner_polarisation_helps_where_the_own_is_too_far(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor(_beam(1.25, "HH"), _beam(5.4, "VV"), name="trained")])
    assert assign(make_sensor(_beam(5.4, "HH")), table).mixing[0] == pytest.approx([0.0, 1.0])


def test_of_equal_frequencies_the_one_of_the_same_orbit_counts(make_sensor: Any) -> None:
    trained = make_sensor(_beam(5.4, "VV", "ascending"), _beam(5.4, "VV", "descending"), name="trained")
    table = ranges_from_sensors([trained])
    assert assign(make_sensor(_beam(5.3, "VV", "descending")), table).mixing[0] == pytest.approx([0.0, 1.0])


def test_of_equal_centres_the_more_alike_range_counts(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor((540, 560), (450, 650), (700, 720), name="trained")])
    narrow, wide = assign(make_sensor((541, 559), (460, 640)), table).mixing
    assert narrow == pytest.approx([1.0, 0.0, 0.0])
    assert wide == pytest.approx([0.0, 1.0, 0.0])


def test_an_equal_spectrum_is_exactly_known(make_sensor: Any) -> None:
    table = ranges_from_sensors([make_sensor((500, 600), (600, 700), name="trained")])
    assert assign(make_sensor((600, 700)), table).origin == ("exact",)


def test_between_the_end_centre_and_its_edge_the_end_layer_stands_alone(make_sensor: Any, v1: RangeTable) -> None:
    low, high = assign(make_sensor((425, 435), (2300, 2340)), v1).mixing
    assert low.argmax() == 0
    assert high.argmax() == 14
    assert low.max() == high.max() == 1.0


@pytest.mark.parametrize("band", [(405, 420), (2380, 2420), (3660, 3840)])
def test_a_band_outside_the_span_is_refused(band: tuple[float, float], make_sensor: Any, v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match=r"lies outside the trained optical span, 422 to 2376 nm"):
        assign(make_sensor(band), v1)


def test_a_thermal_band_needs_a_radar_range_above_it() -> None:
    table = ranges_from_sensors([get_sensor("sentinel2-l2a")])
    with pytest.raises(AssignmentError, match="and no co-polarised radar range was trained"):
        assign(get_sensor("landsat8-oli-tirs-l2").select(["ST_B10"]), table)


def test_a_band_outside_the_span_can_be_dropped(make_sensor: Any, v1: RangeTable) -> None:
    assignment = assign(make_sensor((405, 420), (550, 570), (2380, 2420)), v1, _DROP)
    assert assignment.kept_index == (1,)
    assert assignment.sensor.band_names == ("b1",)
    assert assignment.origin == ("dropped", "interpolated", "dropped")
    assert assignment.mixing.shape == (1, 17)
    assert "b0: dropped, support" in assignment.report()


def test_dropping_every_band_is_an_error(make_sensor: Any, v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match="no band is left; use other bands"):
        assign(make_sensor((405, 420)), v1, _DROP)


def test_too_little_support_is_out_of_the_span(v1: RangeTable) -> None:
    thermal = get_sensor("landsat8-oli-tirs-l2").select(["SR_B4", "ST_B10"])
    with pytest.raises(AssignmentError, match=r"its support, 0.099, is under min_support, 0.15"):
        assign(thermal, v1, AssignmentRules(out_of_span="refuse"))
    kept = assign(thermal, v1)
    assert "ST_B10: dropped, support 0.10: its support, 0.099, is under min_support, 0.15" in kept.report()
    assert kept.sensor.band_names == ("SR_B4",)
    assert kept.support[1] == pytest.approx(0.0988, abs=1e-4)


def test_support_is_the_share_that_one_range_covers(make_sensor: Any, v1: RangeTable) -> None:
    # Landsat's panchromatic band, 503 to 676 nm: green_1 ends at 620 nm.
    assert assign(make_sensor((503, 676)), v1).support[0] == pytest.approx((620 - 503) / (676 - 503))


def test_many_refused_bands_are_counted_not_listed(v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match=r"of 285 bands of 'emit' can't be expressed(.|\n)*… and \d+ more"):
        assign(get_sensor("emit"), v1, AssignmentRules(out_of_span="refuse"))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_support": 1.5}, "min_support must be from 0 to 1, found 1.5"),
        ({"min_support": math.nan}, "min_support must be from 0 to 1"),
    ],
)
def test_rules_that_cannot_be_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(AssignmentError, match=message):
        AssignmentRules(**rules)


def test_an_unknown_range_offers_the_nearest(v1: RangeTable) -> None:
    with pytest.raises(AssignmentError, match="has no range 'blue_4'; did you mean 'blue_"):
        mixing_of_ranges(["blue_4"], v1, unseen="released")


def test_declared_ranges_can_be_interpolated_too(v1: RangeTable) -> None:
    row = mixing_of_ranges(["thermal_infrared_1"], v1, unseen="interpolate")[0]
    assert row == pytest.approx(_row(v1, {"short_wave_infrared_4": 0.8417, "microwave_1": 0.1583}), abs=1e-4)


def test_a_declared_range_on_its_neighbours_centre_takes_the_other() -> None:
    # As published: the nearer counts less, so a distance of zero counts nothing.
    def optical(low_nm: float, high_nm: float) -> OpticalRange:
        return OpticalRange(low_nm=low_nm, high_nm=high_nm)

    table = RangeTable(
        name="t",
        ranges=(
            TrainedRange(name="a", spectrum=optical(400.0, 500.0)),
            TrainedRange(name="b", spectrum=optical(500.0, 600.0)),
        ),
        declared=(TrainedRange(name="c", spectrum=optical(440.0, 460.0), neighbours=("a", "b")),),
    )
    assert mixing_of_ranges(["c"], table, unseen="released")[0] == pytest.approx([0.0, 1.0])
