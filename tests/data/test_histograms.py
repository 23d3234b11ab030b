"""Statistics in one pass against NumPy on all values at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.harmonise import RELATIVE_RESOLUTION, StatisticsAccumulator
from anyband.errors import InputError


def _images(seed: int, *, low: float, high: float, count: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.uniform(low, high, (count, 2, 40, 40)).astype(np.float32)


def _numpy_statistics(values: np.ndarray) -> tuple[float, float, float, float]:
    p01, p99 = np.percentile(values.astype(np.float64), [1, 99])
    scaled = (np.clip(values.astype(np.float64), p01, p99) - p01) / (p99 - p01)
    return float(p01), float(p99), float(scaled.mean()), float(scaled.std())


_ranges = [(0.0, 0.6), (-0.05, 0.4), (260.0, 310.0), (-28.0, 3.0), (0.0, 255.0), (0.0, 65535.0), (1e-9, 5e-8)]


@pytest.mark.parametrize(("low", "high"), _ranges)
def test_agrees_with_numpy_to_within_a_bin(low: float, high: float) -> None:
    images = _images(1, low=low, high=high)
    accumulator = StatisticsAccumulator(["a", "b"])
    for image in images:
        accumulator.add(image)
    for index, found in enumerate(accumulator.result().values()):
        p01, p99, mean, std = _numpy_statistics(images[:, index])
        # One bin, and the distance between neighbouring values among 9,600.
        slack = RELATIVE_RESOLUTION * max(abs(low), abs(high)) + (high - low) / 2000
        assert found.p01 == pytest.approx(p01, abs=slack)
        assert found.p99 == pytest.approx(p99, abs=slack)
        assert found.mean == pytest.approx(mean, abs=0.01)
        assert found.std == pytest.approx(std, abs=0.01)


@pytest.mark.parametrize(("low", "high"), _ranges)
def test_moments_are_of_all_values(low: float, high: float) -> None:
    images = _images(1, low=low, high=high)
    # Far outside of the percentiles, where clipping would take them away.
    images[0, 0, 0, :3] = 10 * high
    accumulator = StatisticsAccumulator(["a", "b"])
    accumulator.add(images)
    for index, (mean, std) in enumerate(accumulator.moments().values()):
        values = images[:, index].astype(np.float64)
        slack = RELATIVE_RESOLUTION * float(np.abs(values).max())
        assert mean == pytest.approx(values.mean(), abs=slack)
        assert std == pytest.approx(values.std(), abs=slack)


def test_whole_numbers_get_their_percentiles() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64)).astype(np.float32)
    accumulator = StatisticsAccumulator(["red"])
    accumulator.add(images)
    p01, p99, mean, std = _numpy_statistics(images)
    found = accumulator.result()["red"]
    assert found.p01 == pytest.approx(p01, abs=0.5)
    assert found.p99 == pytest.approx(p99, abs=0.5)
    assert (found.mean, found.std) == pytest.approx((mean, std), abs=2e-3)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_pieces_add_up_to_the_whole_in_any_order(seed: int, cut: int) -> None:
    images = _images(seed, low=-3.0, high=9.0)
    whole, pieces = StatisticsAccumulator(["a", "b"]), StatisticsAccumulator(["a", "b"])
    whole.add(images)
    pieces.add(images[cut:])
    pieces.add(images[:cut])
    assert pieces.result() == whole.result()


@settings(max_examples=20)
@given(factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_a_change_of_unit_by_a_power_of_two_scales_the_percentiles_only(factor: float) -> None:
    images = _images(3, low=-0.1, high=0.7)
    plain, scaled = StatisticsAccumulator(["a", "b"]), StatisticsAccumulator(["a", "b"])
    plain.add(images)
    scaled.add(images * np.float32(factor))
    a, b = plain.result()["a"], scaled.result()["a"]
    assert (b.p01, b.p99) == pytest.approx((a.p01 * factor, a.p99 * factor), rel=1e-6)
    assert (b.mean, b.std) == pytest.approx((a.mean, a.std), rel=1e-4)


def test_missing_and_infinite_values_do_not_count() -> None:
    images = _images(2, low=0.0, high=1.0)
    valid = np.ones(images.shape, dtype=bool)
    spoilt = images.copy()
    spoilt[0], spoilt[1, :, :3], spoilt[2, :, 5] = 1e6, np.nan, np.inf
    valid[0] = False
    with_gaps, without = StatisticsAccumulator(["a", "b"]), StatisticsAccumulator(["a", "b"])
    with_gaps.add(spoilt, valid)
    without.add(images[3:])
    without.add(images[1:2, :, 3:])
    without.add(np.delete(images[2:3], 5, axis=2))
    assert with_gaps.result() == without.result()


def test_one_outlier_changes_nothing_but_its_own_place() -> None:
    images = _images(4, low=0.1, high=0.3)
    plain, with_outlier = StatisticsAccumulator(["a", "b"]), StatisticsAccumulator(["a", "b"])
    plain.add(images)
    images[0, 0, 0, 0] = 3e38
    with_outlier.add(images)
    assert with_outlier.result()["a"].p99 == pytest.approx(plain.result()["a"].p99, rel=1e-3)


def test_band_without_values_is_named() -> None:
    accumulator = StatisticsAccumulator(["a", "b"])
    images = _images(5, low=0.0, high=1.0)
    images[:, 1] = np.nan
    accumulator.add(images)
    with pytest.raises(InputError, match="band 'b' has no valid value"):
        accumulator.result()


def test_band_of_one_value_is_refused() -> None:
    accumulator = StatisticsAccumulator(["a"])
    accumulator.add(np.full((1, 9, 9), 7.0, dtype=np.float32))
    with pytest.raises(InputError, match="band 'a' has the value 7 from its 1st to its 99th percentile"):
        accumulator.result()


def test_another_number_of_bands_is_refused() -> None:
    with pytest.raises(InputError, match=r"statistics of 1 band \(a\) .* shape \(2, 4, 4\)"):
        StatisticsAccumulator(["a"]).add(np.zeros((2, 4, 4), dtype=np.float32))
