"""The year: where the sun stands, how warm the air is, how far plants are, whether snow lies."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Float
from anyband.simulate.covers import Cover, Part, part_shares
from anyband.simulate.materials import load_materials, material_names

__all__ = [
    "Sun",
    "air_temperature_k",
    "cover_shares",
    "material_temperatures_k",
    "northern_day",
    "snow_share",
    "sun_position",
]

FREEZING_K = 273.15

_HALF_YEAR_DAYS = 182.625
_WARMEST_DAY = 202.0  # chosen: about a month after the longest day, as at middle latitudes
_FULL_SEASONS_FROM_DEG = 35.0  # chosen: nearer the equator natural vegetation keeps more of its leaves all year
_WATER_LAG_DAYS = 30.0  # chosen: lakes warm and cool about a month after the air
_WATER_SWING = 0.65  # chosen: and less than it


@dataclass(frozen=True, kw_only=True)
class Sun:
    """Direction to the sun."""

    elevation_deg: float
    """Above the horizon, degrees; negative at night."""
    azimuth_deg: float
    """Clockwise from north, degrees."""


def northern_day(latitude_deg: float, day: float) -> float:
    """Give the day of the northern year that has the same season; six months away in the south."""
    return day if latitude_deg >= 0 else day + _HALF_YEAR_DAYS


def sun_position(latitude_deg: float, day: float, *, solar_hour: float = 10.5) -> Sun:
    """Compute where the sun stands.

    Args:
        latitude_deg: −90 to 90.
        day: of the year, from 1.
        solar_hour: local solar time; 10.5 is the overpass of Sentinel-2.

    Source:
        Cooper, "The absorption of radiation in solar stills", Solar Energy 12, 1969 (declination).
    """
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day) / 365)
    hour_angle = np.radians(15 * (solar_hour - 12))
    latitude = np.radians(latitude_deg)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    return Sun(
        elevation_deg=float(np.degrees(np.arcsin(up))),
        azimuth_deg=float(np.degrees(np.arctan2(east, north)) % 360),
    )


def air_temperature_k(latitude_deg: float, day: float, *, lag_days: float = 0.0, swing: float = 1.0) -> float:
    """Estimate the mid-morning air temperature at sea level.

    chosen: 300 K at the equator falling with the squared sine of latitude, and a yearly swing of a third of a
    kelvin a degree up to 16 K; within a few kelvin of zonal means over land.
    """
    mean_k = 300.0 - 36.0 * np.sin(np.radians(latitude_deg)) ** 2
    amplitude_k = min(abs(latitude_deg) / 3.0, 16.0) * swing
    phase = 2 * np.pi * (northern_day(latitude_deg, day) - _WARMEST_DAY - lag_days) / 365.25
    return float(mean_k + amplitude_k * np.cos(phase))


def material_temperatures_k(latitude_deg: float, day: float, *, elevation_deg: float) -> Float[Array, " material"]:
    """Estimate the surface temperature of each material in mid-morning.

    Sun-warmed materials stand over the air in proportion to the sine of the sun's elevation; water follows
    the season late and never freezes here; snow never exceeds its melting point.

    Args:
        latitude_deg: −90 to 90.
        day: of the year, from 1.
        elevation_deg: of the sun.
    """
    air_k = air_temperature_k(latitude_deg, day)
    water_k = air_temperature_k(latitude_deg, day, lag_days=_WATER_LAG_DAYS, swing=_WATER_SWING)
    sunlit = max(0.0, float(np.sin(np.radians(elevation_deg))))
    temperatures_k = [
        # A cloud top is cold whatever the sun does; the others warm with it.
        air_k + material.warming_k * (sunlit if material.warming_k > 0 else 1.0)
        for material in load_materials()
    ]
    for index, name in enumerate(material_names()):
        if name in ("deep_water", "turbid_water"):
            temperatures_k[index] = max(water_k, FREEZING_K)
        elif name == "snow":
            temperatures_k[index] = min(temperatures_k[index], FREEZING_K)
    return np.array(temperatures_k)


def snow_share(latitude_deg: float, day: float) -> float:
    """Estimate how much of open ground lies under snow: none above −1 °C in the mean, 0.9 below −9 °C."""
    below_k = FREEZING_K - 1.0 - air_temperature_k(latitude_deg, day)
    return float(np.clip(below_k / 8.0, 0.0, 0.9))


def cover_shares(
    cover: Cover, *, latitude_deg: float, day: Float[Array, " unit"], choice: Float[Array, " unit"]
) -> tuple[Float[Array, "unit material"], Float[Array, "unit material"]]:
    """Tell what the upper and lower parts of a cover are made of, for several fields, lakes or roofs of it.

    Args:
        cover: land cover.
        latitude_deg: of the place.
        day: of the year, for each of them (fields differ by some days).
        choice: number in [0, 1) that draws one material where a part is one of several.

    Returns:
        Shares of the materials of the upper and of the lower part; rows sum to 1.
    """
    season = np.array([northern_day(latitude_deg, float(d)) for d in day])
    full = 1.0 if cover.seasonal else min(abs(latitude_deg) / _FULL_SEASONS_FROM_DEG, 1.0)
    upper = _shares(cover.upper, season, choice, full=full, peak_day=cover.peak_day)
    lower = _shares(cover.lower, season, choice, full=full, peak_day=cover.peak_day)
    return upper, lower


def _shares(part: Part, season: Array, choice: Array, *, full: float, peak_day: float) -> Array:
    if part.one_of:
        bounds = np.cumsum(part.shares[0])
        drawn = np.minimum(np.searchsorted(bounds, choice, side="right"), len(bounds) - 1)
        return np.eye(len(bounds))[drawn]
    always = part_shares(part, np.full(len(season), peak_day))
    return full * part_shares(part, season) + (1 - full) * always
