"""Patterns in metres."""

import numpy as np
import pytest

from anyband.randomness import generator
from anyband.simulate.plan import (
    Frame,
    Tiles,
    fractal_noise,
    irregular_tiles,
    rectangular_tiles,
    smooth_noise,
    winding_distance_m,
)

COARSE, FINE = Frame(footprint_m=480.0, detail_m=5.0), Frame(footprint_m=480.0, detail_m=2.5)


def _rng(sample: int = 0) -> np.random.Generator:
    return generator(7, step=0, sample=sample, purpose="test")


def _tiles(kind: str, frame: Frame) -> Tiles:
    y_m, x_m = frame.coordinates_m()
    if kind == "rectangular":
        return rectangular_tiles(_rng(), y_m, x_m, 60.0, 110.0)
    return irregular_tiles(_rng(), y_m, x_m, spacing_m=70.0)


def test_noise_of_a_finer_frame_is_the_same_surface() -> None:
    coarse = smooth_noise(_rng(), COARSE, spacing_m=60.0)
    fine = smooth_noise(_rng(), FINE, spacing_m=60.0).reshape(96, 2, 96, 2).mean((1, 3))
    np.testing.assert_allclose(fine, coarse, atol=0.02)


def test_noise_has_mean_0_and_variance_1() -> None:
    draws = np.stack([fractal_noise(_rng(k), COARSE, longest_m=40.0, shortest_m=10.0) for k in range(8)])
    assert abs(draws.mean()) < 0.05
    assert draws.var() == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("kind", ["rectangular", "irregular"])
def test_tiles_are_numbered_without_gaps(kind: str) -> None:
    index, _, num_tiles = _tiles(kind, COARSE)
    assert np.array_equal(np.unique(index), np.arange(num_tiles))


@pytest.mark.parametrize("kind", ["rectangular", "irregular"])
def test_borders_lie_between_different_tiles(kind: str) -> None:
    index, border_m, _ = _tiles(kind, FINE)
    inner = border_m[:, :-1] > 2 * FINE.detail_m
    changes = index[:, :-1] != index[:, 1:]
    assert changes.any()
    assert not (changes & inner).any()


def test_distance_to_border_is_never_negative() -> None:
    assert _tiles("rectangular", FINE)[1].min() >= 0


def test_rectangular_tiles_have_about_the_requested_size() -> None:
    mean_m2 = 480.0**2 / _tiles("rectangular", FINE)[2]
    assert 0.4 * 60 * 110 < mean_m2 < 1.2 * 60 * 110


def test_a_winding_line_crosses_the_frame() -> None:
    near = winding_distance_m(_rng(), FINE, bend_m=60.0, wavelength_m=400.0) < 5
    reached = [near[0].any(), near[-1].any(), near[:, 0].any(), near[:, -1].any()]
    assert sum(reached) >= 2
