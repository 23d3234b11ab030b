"""Assignment: what must hold for any bands and any trained ranges."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anyband.sensors.assignment import AssignmentRules, assign, interpolated_weights, nearest_weights, support_of
from anyband.sensors.catalogue import get_sensor, list_sensors
from anyband.sensors.ranges import RangeTable, load_ranges, ranges_from_sensors
from anyband.sensors.sensor import Band, Encoding, OpticalRange, RadarBeam, Sensor, Spectrum

_V1 = load_ranges("smarties_v1")
_DROP = AssignmentRules(min_support=0.05)

# Strategies give plain numbers and the tests make the spectra, because the type checks of records draw random
# numbers, which a strategy may not do. Every band can be expressed by v1.
_Drawn = tuple[str, float, float | str]
_optical = st.tuples(st.just("optical"), st.floats(443, 2188), st.floats(1, 300))
_thermal = st.tuples(st.just("optical"), st.floats(8000, 12_000), st.just(500.0))
_radar = st.tuples(st.just("radar"), st.floats(2.71, 10.8), st.sampled_from(["VV", "VH", "HH", "HV"]))
_drawn = st.one_of(_optical, _thermal, _radar)


def _spectrum(drawn: _Drawn) -> Spectrum:
    kind, center, rest = drawn
    if kind == "radar":
        return RadarBeam(frequency_ghz=center, polarisation=rest)
    return OpticalRange(low_nm=center - rest / 2, high_nm=center + rest / 2)


def _sensor(drawn: list[_Drawn]) -> Sensor:
    bands = tuple(
        Band(
            name=f"b{index}",
            spectrum=_spectrum(entry),
            gsd_m=1.0,
            unit="count",
            encodings=(("dn", Encoding()),),
        )
        for index, entry in enumerate(drawn)
    )
    return Sensor(name="own", title="own", bands=bands, default_encoding="dn")


@settings(max_examples=50)
@given(st.lists(_drawn, min_size=1, max_size=8), st.sampled_from(["interpolate", "nearest"]))
def test_rows_of_the_mixing_matrix_sum_to_one(drawn: list[_Drawn], unseen: str) -> None:
    rules = AssignmentRules(unseen=unseen, min_support=0.0)
    mixing = assign(_sensor(drawn), _V1, rules).mixing
    assert mixing.sum(axis=1) == pytest.approx(np.ones(len(drawn)))
    assert mixing.min() >= 0


@settings(max_examples=50)
@given(st.lists(_drawn, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_permuting_the_bands_permutes_the_rows(drawn: list[_Drawn], random: object) -> None:
    sensor = _sensor(drawn)
    order = list(range(len(drawn)))
    random.shuffle(order)  # type: ignore[attr-defined]
    rules = AssignmentRules(min_support=0.0)
    shuffled = assign(sensor.select([f"b{index}" for index in order]), _V1, rules)
    assert np.array_equal(shuffled.mixing, assign(sensor, _V1, rules).mixing[order])


@given(_optical)
def test_the_nearer_centre_counts_more(drawn: _Drawn) -> None:
    band = _spectrum(drawn)
    spectra = [entry.spectrum for entry in _V1.ranges]
    weights = interpolated_weights(band, spectra)
    distances = {index: abs(math.log(band.center_nm / spectra[index].center_nm)) for index in weights}
    by_weight = sorted(weights, key=lambda index: -weights[index])
    assert [distances[index] for index in by_weight] == sorted(distances.values())


@given(st.floats(492.6, 542.9), st.floats(492.6, 542.9))
def test_moving_towards_a_centre_never_lowers_its_share(a_nm: float, b_nm: float) -> None:
    spectra = [entry.spectrum for entry in _V1.ranges]
    low, high = sorted((a_nm, b_nm))
    shares = [
        interpolated_weights(OpticalRange(low_nm=nm - 1, high_nm=nm + 1), spectra).get(3, 0.0) for nm in (low, high)
    ]
    assert shares[0] <= shares[1]


@given(_optical)
def test_interpolation_agrees_with_numpy(drawn: _Drawn) -> None:
    band = _spectrum(drawn)
    # A second opinion: each layer's share is a hat function over the sorted log-centres.
    centers_nm = np.array([entry.spectrum.center_nm for entry in _V1.ranges[:15]])
    order = np.argsort(centers_nm)
    shares = np.zeros(17)
    for place, layer in enumerate(order):
        hat = np.eye(15)[place]
        shares[layer] = np.interp(math.log(band.center_nm), np.log(centers_nm[order]), hat)
    assume(not any(entry.spectrum == band for entry in _V1.ranges))
    rules = AssignmentRules(unseen="interpolate_across", min_support=0.0)
    assert assign(_sensor([drawn]), _V1, rules).mixing[0] == pytest.approx(shares)


@given(_optical)
def test_nearest_agrees_with_a_search(drawn: _Drawn) -> None:
    band = _spectrum(drawn)
    spectra = [entry.spectrum for entry in _V1.ranges]
    distances = [abs(math.log(band.center_nm / spectrum.center_nm)) for spectrum in spectra]
    (nearest,) = nearest_weights(band, spectra)
    assert distances[nearest] == pytest.approx(min(distances))


@given(_drawn)
def test_support_lies_between_zero_and_one(drawn: _Drawn) -> None:
    assert 0.0 < support_of(_spectrum(drawn), [entry.spectrum for entry in _V1.ranges]) <= 1.0


@given(_radar)
def test_radar_stays_in_its_family(drawn: _Drawn) -> None:
    weights = interpolated_weights(_spectrum(drawn), [entry.spectrum for entry in _V1.ranges])
    assert set(weights) == ({15} if drawn[2] in ("VV", "HH") else {16})


@settings(max_examples=30)
@given(st.lists(_drawn, min_size=1, max_size=8))
def test_a_sensors_own_trained_bands_are_one_hot(drawn: list[_Drawn]) -> None:
    sensor = _sensor(drawn)
    assignment = assign(sensor, ranges_from_sensors([sensor]))
    assert set(assignment.origin) == {"exact"}
    assert np.array_equal(assignment.mixing.max(axis=1), np.ones(len(drawn)))


# L band is refused whole: test_l_band_is_too_far_from_c_band.
_READ = [name for name in list_sensors() if name not in {"palsar2", "palsar2-mosaic", "nisar-l"}]


def test_every_sensor_of_the_catalogue_is_read_or_refused_with_reasons(v1: RangeTable) -> None:
    for sensor in map(get_sensor, _READ):
        assignment = assign(sensor, v1, _DROP)
        assert len(assignment.support) == len(assignment.origin) == len(sensor.bands)
        assert assignment.mixing.sum(axis=1) == pytest.approx(np.ones(len(assignment.kept_index)))
        decided = zip(assignment.reasons, assignment.origin, strict=True)
        assert all(bool(reason) == (origin == "dropped") for reason, origin in decided)
