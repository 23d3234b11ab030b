"""GeoSOT codes against recorded ones, exact fractions, and their own order."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.models.encodings import BITS, corner_bits, geosot_codes

ANGLES = st.floats(-180, 180, allow_subnormal=True)
CORNERS = np.array([[5.25, 52.5], [5.5, 52.5], [5.5, -52.25], [-5.25, 52.25]])


def _code(angle: float, level: int = BITS) -> int:
    return int(geosot_codes(np.array([angle]), level=level)[0])


def _exact_code(angle: float) -> int:
    """Split an angle by whole degrees, minutes, seconds and 2048ths, in exact fractions."""
    rest = Fraction(*abs(angle).as_integer_ratio())
    code = int(angle < 0)
    for bits, parts in ((8, 1), (6, 60), (6, 60), (11, 2048)):
        rest *= parts
        code = code << bits | int(rest)
        rest -= int(rest)
    return code


def _lower_edge(code: int) -> Fraction:
    """Read a code as the angle, without sign, at which its cell begins."""
    degrees, minutes, seconds, fractions = code >> 23 & 255, code >> 17 & 63, code >> 11 & 63, code & 2047
    return degrees + Fraction(minutes, 60) + Fraction(seconds, 3600) + Fraction(fractions, 3600 * 2048)


@pytest.mark.parametrize("axis", ["lon", "lat"])
def test_codes_equal_the_recorded_ones_to_one_unit_of_the_last_level(golden: Path, axis: str) -> None:
    recorded = json.loads((golden / "a2mae" / "geosot.json").read_text())["codes"]
    for row in recorded:
        unit = 1 << BITS - row["level"]
        assert abs(_code(float(row[axis]), row["level"]) - row[f"{axis}_code"]) <= unit, row


@settings(max_examples=500)
@given(ANGLES)
def test_codes_equal_exact_fractions(angle: float) -> None:
    assert _code(angle) == _exact_code(angle)


@settings(max_examples=300)
@given(st.integers(0, 180 * 3600 * 2048), st.integers(-2, 2))
def test_codes_are_exact_beside_the_edges_of_cells(fractions: int, steps: int) -> None:
    angle = fractions / (3600 * 2048)
    for _ in range(abs(steps)):
        angle = float(np.nextafter(angle, np.sign(steps) * np.inf))
    angle = min(angle, 180.0)
    assert _code(angle) == _exact_code(angle)


@given(ANGLES)
def test_the_cell_of_a_code_holds_its_angle(angle: float) -> None:
    edge = _lower_edge(_code(angle))
    assert edge <= Fraction(abs(angle)) < edge + Fraction(1, 3600 * 2048)


@given(ANGLES, st.integers(1, BITS))
def test_a_level_keeps_the_leading_bits(angle: float, level: int) -> None:
    assert _code(angle, level) == _code(angle) >> BITS - level << BITS - level


@given(st.lists(st.floats(0, 180), min_size=2, max_size=20))
def test_codes_have_the_order_of_their_angles(angles: list[float]) -> None:
    codes = geosot_codes(np.sort(np.array(angles))).astype(np.int64)
    assert (np.diff(codes) >= 0).all()


@given(st.floats(5e-324, 180))
def test_a_negative_angle_differs_in_its_sign_alone(angle: float) -> None:
    assert _code(-angle) == _code(angle) | 1 << 31


def test_both_zeros_have_one_code() -> None:
    assert _code(-0.0) == _code(0.0) == 0


@pytest.mark.parametrize(
    ("angle", "parts"),
    [
        (180.0, (180, 0, 0, 0)),
        (np.nextafter(180, 0), (179, 59, 59, 2047)),
        (39.925, (39, 55, 29, 2047)),
        (0.5, (0, 30, 0, 0)),
    ],
)
def test_codes_hold_degrees_minutes_seconds_and_2048ths(angle: float, parts: tuple[int, int, int, int]) -> None:
    code = _code(float(angle))
    assert (code >> 23, code >> 17 & 63, code >> 11 & 63, code & 2047) == parts


@given(st.lists(ANGLES, max_size=12))
def test_codes_of_many_are_those_of_each(angles: list[float]) -> None:
    assert geosot_codes(np.array(angles)).tolist() == [_code(angle) for angle in angles]


def test_corner_bits_are_the_codes_of_longitude_then_latitude_of_each_corner() -> None:
    words = corner_bits(CORNERS).reshape(8, BITS)
    assert words.dtype == np.float32
    read = [int("".join(str(int(bit)) for bit in word), base=2) for word in words]
    assert read == [_code(angle) for angle in CORNERS.flatten()]


def test_corner_bits_of_a_batch_are_those_of_each() -> None:
    batch = np.random.default_rng(3).uniform(-90, 90, (5, 3, 4, 2))
    bits = corner_bits(batch)
    assert bits.shape == (5, 3, 256)
    assert np.array_equal(bits[4, 1], corner_bits(batch[4, 1]))
    assert corner_bits(batch[:0]).shape == (0, 3, 256)


def test_an_unknown_angle_has_unknown_bits_and_spares_the_others() -> None:
    unknown = CORNERS.copy()
    unknown[1, 0] = np.nan
    bits, whole = corner_bits(unknown).reshape(8, BITS), corner_bits(CORNERS).reshape(8, BITS)
    assert np.isnan(bits[2]).all()
    assert np.array_equal(np.delete(bits, 2, axis=0), np.delete(whole, 2, axis=0))


def test_corners_are_not_changed() -> None:
    before = CORNERS.copy()
    corner_bits(CORNERS)
    assert np.array_equal(CORNERS, before)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((180.5, 10.0), r"longitude 180.5 is outside −180 to 180 degrees \(1 of 4\)"),
        ((10.0, -90.25), r"latitude -90.25 is outside −90 to 90 degrees \(1 of 4\); give longitude \(east\) before"),
        ((np.inf, 0.0), "longitude inf is outside"),
    ],
)
def test_corners_off_the_globe_are_refused(place: tuple[float, float], message: str) -> None:
    corners = CORNERS.copy()
    corners[3] = place
    with pytest.raises(InputError, match=message):
        corner_bits(corners)


def test_angles_that_have_no_code_are_refused() -> None:
    with pytest.raises(InputError, match=r"an unknown angle \(NaN\) has no GeoSOT code"):
        geosot_codes(np.array([1.0, np.nan]))
    with pytest.raises(InputError, match="angle -181 is outside"):
        geosot_codes(np.array([-181.0]))


@pytest.mark.parametrize("level", [0, 33])
def test_levels_that_are_not_there_are_refused(level: int) -> None:
    with pytest.raises(InputError, match=f"levels 1 to 32, found level {level}"):
        geosot_codes(np.array([1.0]), level=level)
