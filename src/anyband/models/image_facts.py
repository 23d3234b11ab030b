"""Smooth numbers that stand for the place, the date and the ground resolution of an image; nothing here is trained."""

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from anyband.device_copies import to_device
from anyband.shapes import Float

__all__ = [
    "DAY_FEATURES",
    "RESOLUTION_FEATURES",
    "YEAR_FEATURES",
    "day_features",
    "place_features",
    "resolution_features",
    "spherical_harmonics",
    "year_features",
]

# Source: the mean Gregorian year. Every day of a leap year then still has a phase of its own on the circle.
_DAYS_A_YEAR = 365.2425
# chosen: four harmonics tell seasons down to about a month, which is what vegetation and snow need.
_DAY_HARMONICS = 4
DAY_FEATURES = 2 * _DAY_HARMONICS
"""Numbers for a day of the year."""

# chosen: the years of today's archives then lie between about −1 and 1, and those of the first Landsat near −5.
_YEAR_ORIGIN, _YEARS_A_UNIT = 2020.0, 10.0
YEAR_FEATURES = 1
"""Numbers for a year."""

# chosen: the longest period holds 1 cm to 10 km without repeating; the shortest tells 10 m from 15 m well.
_OCTAVES_A_PERIOD = (40.0, 20.0, 10.0, 5.0)
# chosen: the straight part is 1 at 1 km.
_OCTAVES_A_UNIT = 10.0
RESOLUTION_FEATURES = 1 + 2 * len(_OCTAVES_A_PERIOD)
"""Numbers for a ground sampling distance."""


def day_features(day_of_year: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write a day of the year as points on circles, once to four times round in a year.

    The last days of a year stand beside the first.

    Args:
        day_of_year: days since the year began, from 0; finite.

    Returns:
        float64: sines, then cosines.
    """
    turns = day_of_year.double() / _DAYS_A_YEAR
    harmonic = torch.arange(1, _DAY_HARMONICS + 1, device=turns.device, dtype=torch.float64)
    angle = 2 * math.pi * turns[..., None] * harmonic
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def year_features(year: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write a year as a line: decades since 2020.

    Args:
        year: calendar year; finite.

    Returns:
        float64.
    """
    return ((year.double() - _YEAR_ORIGIN) / _YEARS_A_UNIT)[..., None]


def resolution_features(gsd_m: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write a ground sampling distance as a line and as waves over its octaves, so that equal ratios are equal steps.

    Args:
        gsd_m: metres; over 0 and finite.

    Returns:
        float64: the line, sines, cosines.
    """
    octaves = gsd_m.double().log2()[..., None]
    period = to_device(torch.tensor(_OCTAVES_A_PERIOD, dtype=torch.float64), octaves.device)
    angle = 2 * math.pi * octaves / period
    return torch.cat([octaves / _OCTAVES_A_UNIT, angle.sin(), angle.cos()], dim=-1)


def place_features(lonlat_deg: Float[Tensor, "*image 2"], *, degree: int) -> Float[Tensor, "*image feature"]:
    """Write a place as real spherical harmonics; see `spherical_harmonics`."""
    return spherical_harmonics(lonlat_deg[..., 0], lonlat_deg[..., 1], degree=degree)


def spherical_harmonics(
    lon_deg: Float[Tensor, "*image"], lat_deg: Float[Tensor, "*image"], *, degree: int
) -> Float[Tensor, "*image feature"]:
    """Compute the real spherical harmonics of points on the globe, up to a degree.

    They are smooth everywhere: the poles are points like others, and longitudes of −180 and 180 degrees meet. Their
    mean square over the sphere is 1, and so is the mean square of those of one degree at any point. Legendre functions
    come from the recursion over degrees at fixed order, which loses no digits.

    Args:
        lon_deg: longitudes, degrees; finite.
        lat_deg: latitudes, degrees; finite.
        degree: the highest, from 0.

    Returns:
        float64, (degree + 1)² of them: for each degree the cosines of orders 0, 1, …, then the sines of 1, 2, ….

    Source:
        Rußwurm et al., "Geographic location encoding with spherical harmonics and sinusoidal representation networks",
        ICLR 2024, for their use; Holmes and Featherstone, "A unified approach to the Clenshaw summation and the
        recursive computation of very high degree and order normalised associated Legendre functions", Journal of
        Geodesy 76 (2002), equations 11 to 13, for the recursion.
    """
    legendre = _legendre(torch.deg2rad(lat_deg.double()), degree)
    order = torch.arange(degree + 1, device=lon_deg.device, dtype=torch.float64)
    angle = torch.deg2rad(lon_deg.double())[..., None] * order
    cosine, sine = angle.cos(), angle.sin()
    parts = []
    for row, values in enumerate(legendre):
        parts += [(values * cosine)[..., : row + 1], (values * sine)[..., 1 : row + 1]]
    return torch.cat(parts, dim=-1)


def _legendre(latitude: Tensor, degree: int) -> list[Tensor]:
    """Compute for each degree the normalised associated Legendre functions of orders 0 to `degree`, 0 where over it."""
    first, second, sectoral = (to_device(table, latitude.device) for table in _legendre_factors(degree))
    height, breadth = latitude.sin()[..., None], latitude.cos()[..., None]
    order = torch.arange(degree + 1, device=latitude.device, dtype=torch.float64)
    # Functions of an order equal to the degree start each column; a power of 0 is 1 at the poles too.
    diagonal = sectoral * breadth**order
    before = torch.zeros_like(diagonal)
    values = functional.pad(diagonal[..., :1], (0, degree))
    found = [values]
    for row in range(1, degree + 1):
        start = functional.pad(diagonal[..., row : row + 1], (row, degree - row))
        before, values = values, first[row] * height * values - second[row] * before + start
        found.append(values)
    return found


@cache
def _legendre_factors(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    second = torch.zeros_like(first)
    sectoral = torch.ones(degree + 1, dtype=torch.float64)
    for n in range(1, degree + 1):
        sectoral[n] = sectoral[n - 1] * math.sqrt(3 if n == 1 else (2 * n + 1) / (2 * n))
        for m in range(n):
            shared = (2 * n + 1) / ((n - m) * (n + m))
            first[n, m] = math.sqrt(shared * (2 * n - 1))
            if m < n - 1:
                second[n, m] = math.sqrt(shared * (n + m - 1) * (n - m - 1) / (2 * n - 3))
    return first, second, sectoral
