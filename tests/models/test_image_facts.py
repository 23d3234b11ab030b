"""Smooth numbers for place, date and resolution: against scipy, and what must meet meets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y

from anyband.models.encodings import (
    DAY_FEATURES,
    RESOLUTION_FEATURES,
    YEAR_FEATURES,
    day_features,
    resolution_features,
    spherical_harmonics,
    year_features,
)

LONGITUDES = st.floats(-180, 180)
LATITUDES = st.floats(-90, 90)


def _of_scipy(lon_deg: float, lat_deg: float, degree: int) -> list[float]:
    """Real harmonics of mean square 1 from scipy's complex ones, whose sign alternates with the order."""
    found = []
    for n in range(degree + 1):
        values = [complex(sph_harm_y(n, m, math.radians(90 - lat_deg), math.radians(lon_deg))) for m in range(n + 1)]
        scaled = [
            value * math.sqrt(4 * math.pi) * (1 if m == 0 else math.sqrt(2) * (-1) ** m)
            for m, value in enumerate(values)
        ]
        found += [value.real for value in scaled] + [value.imag for value in scaled[1:]]
    return found


def _harmonics(lon_deg: float, lat_deg: float, degree: int = 10) -> torch.Tensor:
    lon, lat = torch.tensor([lon_deg, lat_deg], dtype=torch.float64)
    return spherical_harmonics(lon, lat, degree=degree)


@settings(max_examples=60)
@given(LONGITUDES, LATITUDES, st.integers(0, 12))
def test_harmonics_equal_those_of_scipy(lon_deg: float, lat_deg: float, degree: int) -> None:
    expected = torch.tensor(_of_scipy(lon_deg, lat_deg, degree), dtype=torch.float64)
    assert torch.allclose(_harmonics(lon_deg, lat_deg, degree), expected, rtol=0, atol=1e-10)


@settings(max_examples=60)
@given(LONGITUDES, LATITUDES)
def test_harmonics_of_one_degree_have_mean_square_1_everywhere(lon_deg: float, lat_deg: float) -> None:
    square = _harmonics(lon_deg, lat_deg, 40).square()
    means = [square[n * n : (n + 1) ** 2].mean().item() for n in range(41)]
    assert means == pytest.approx([1.0] * 41, abs=1e-9)


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    degree = 6
    nodes, weights = np.polynomial.legendre.leggauss(degree + 1)
    lat, lon = np.meshgrid(np.degrees(np.arcsin(nodes)), np.arange(0, 360, 360 / (2 * degree + 2)), indexing="ij")
    values = spherical_harmonics(torch.from_numpy(lon), torch.from_numpy(lat), degree=degree)
    share = torch.from_numpy(weights)[:, None] / weights.sum() / lat.shape[1]
    products = torch.einsum("rcf,rcg,rc->fg", values, values, share.expand(lat.shape))
    assert torch.allclose(products, torch.eye((degree + 1) ** 2, dtype=torch.float64), atol=1e-12)


@settings(max_examples=30)
@given(LATITUDES)
def test_longitudes_of_180_meet(lat_deg: float) -> None:
    assert torch.allclose(_harmonics(-180.0, lat_deg), _harmonics(180.0, lat_deg), rtol=0, atol=1e-12)


@settings(max_examples=30)
@given(LONGITUDES, st.sampled_from([-90.0, 90.0]))
def test_a_pole_has_no_longitude(lon_deg: float, lat_deg: float) -> None:
    assert torch.allclose(_harmonics(lon_deg, lat_deg), _harmonics(0.0, lat_deg), rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(st.integers(0, 365))
def test_a_day_is_a_point_on_circles(day: int) -> None:
    features = day_features(torch.tensor(float(day)))
    phase = 2 * math.pi * day / 365.2425
    assert features[:4].tolist() == pytest.approx([math.sin(k * phase) for k in (1, 2, 3, 4)])
    assert features[4:].tolist() == pytest.approx([math.cos(k * phase) for k in (1, 2, 3, 4)])


@pytest.mark.parametrize("last_day", [364.0, 365.0])
def test_the_new_year_is_a_day_after_the_old_one(last_day: float) -> None:
    features = day_features(torch.tensor([last_day, 0.0, 100.0, 101.3]))
    assert (features[0] - features[1]).norm() < (features[2] - features[3]).norm()


def test_no_two_days_of_a_leap_year_are_alike() -> None:
    features = day_features(torch.arange(366.0))
    assert (torch.cdist(features, features) + torch.eye(366) > 0.01).all()


@settings(max_examples=60)
@given(st.integers(1800, 2300), st.integers(-50, 50))
def test_years_lie_on_a_line(year: int, step: int) -> None:
    at = year_features(torch.tensor([float(year), float(year + step)]))
    assert (at[1] - at[0]).item() == pytest.approx(step / 10)


@settings(max_examples=60)
@given(st.floats(0.01, 5000), st.floats(0.01, 5000))
def test_resolutions_of_one_ratio_are_equally_far_apart(first_m: float, second_m: float) -> None:
    gsd_m = torch.tensor([first_m, 2 * first_m, second_m, 2 * second_m], dtype=torch.float64)
    features = resolution_features(gsd_m)
    assert torch.allclose((features[1] - features[0]).norm(), (features[3] - features[2]).norm())


def test_resolutions_of_today_differ() -> None:
    gsd_m = torch.tensor([0.3, 0.5, 0.6, 1, 2, 3, 4, 5, 8, 10, 15, 16, 20, 30, 50, 60, 100, 250, 300, 500, 1000])
    features = resolution_features(gsd_m)
    assert (torch.cdist(features, features) + torch.eye(len(gsd_m)) > 0.05).all()


def test_features_are_as_many_as_declared() -> None:
    one = torch.ones(2, 3)
    assert day_features(one).shape == (2, 3, DAY_FEATURES)
    assert year_features(one).shape == (2, 3, YEAR_FEATURES)
    assert resolution_features(one).shape == (2, 3, RESOLUTION_FEATURES)
