"""A landscape on a day: sun, warmth, what the plants are like, and the spectra of every pixel."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyband.arrays import Array, Float
from anyband.errors import CatalogueError
from anyband.sensors.sensor import OpticalRange
from anyband.simulate.landscape import Landscape
from anyband.simulate.plan import (
    KNOWN_NM,
    Calendar,
    Cover,
    Place,
    calendar_shares,
    cover_named,
    load_covers,
    load_materials,
    material_names,
    reflectance_curves,
)

__all__ = [
    "Palette",
    "Surface",
    "air_temperature_k",
    "band_mean",
    "brightness_temperature_k",
    "cover_shares",
    "make_surface",
    "material_emission",
    "material_reflectance",
    "material_temperatures_k",
    "northern_day",
    "place_palette",
    "planck_radiance",
    "reflectance_at",
    "response_weights",
    "snow_share",
    "sun_position",
    "sun_shade",
    "sunlight_radiance",
]

# chosen: enough for the narrowest feature of the curves (about 10 nm) in the widest band of the catalogue.
_NUM_SAMPLES = 65
_SUN_K = 5772.0  # effective temperature of the Sun; Source: IAU 2015 Resolution B3
_SUN_SOLID_ANGLE_SR = 6.79e-5  # of the Sun from the Earth's mean distance; Source: π (R☉ / 1 au)²
_REFLECTIVE_TO_NM = 2500.0

# chosen: how much the same material differs from place to place (standard deviations).
_LEVEL_SPREAD = 0.13
_TILT_SPREAD = 0.08
_BACKSCATTER_SPREAD_DB = 0.8


Palette = tuple[Float[Array, " material"], Float[Array, " material"], Float[Array, " material"]]
"""Factor on the reflectance at 1000 nm, exponent on wavelength over 1000 nm (both below 2500 nm only), and decibels."""


def place_palette(place: Place) -> Palette:
    """Draw how the materials of a place differ from those of the table."""
    rng, count = place.generator("palette"), len(load_materials())
    level = np.exp(rng.normal(0, _LEVEL_SPREAD, count))
    return level, rng.normal(0, _TILT_SPREAD, count), rng.normal(0, _BACKSCATTER_SPREAD_DB, count)


def material_reflectance(
    palette: Palette, wavelength_nm: Float[Array, " wavelength"]
) -> Float[Array, "material wavelength"]:
    """Give the reflectance of a place's materials at any wavelengths inside 350 to 14000 nm."""
    low_nm, high_nm = float(wavelength_nm.min()), float(wavelength_nm.max())
    if low_nm < KNOWN_NM[0] or high_nm > KNOWN_NM[1]:
        raise CatalogueError(
            f"the truth is known from {KNOWN_NM[0]:g} to {KNOWN_NM[1]:g} nm, requested were {low_nm:g} to "
            f"{high_nm:g} nm; leave out the bands beyond"
        )
    level, tilt, _ = palette
    curves = reflectance_curves(wavelength_nm)
    # 0.98: nothing reflects more than it receives, whatever the draw.
    tinted = np.minimum(curves * (level[:, None] * (wavelength_nm / 1000.0) ** tilt[:, None]), 0.98)
    return np.where(wavelength_nm <= _REFLECTIVE_TO_NM, tinted, curves)


def response_weights(band: OpticalRange) -> tuple[Float[Array, " wavelength"], Float[Array, " wavelength"]]:
    """Sample a band's response: wavelengths and weights that sum to 1 (trapezoid rule); flat bands weigh all alike."""
    if band.response:
        nm, values = (np.array(column, dtype=float) for column in zip(*band.response, strict=True))
        wavelength_nm = np.linspace(nm[0], nm[-1], _NUM_SAMPLES)
        response = np.interp(wavelength_nm, nm, values)
    else:
        wavelength_nm = np.linspace(band.low_nm, band.high_nm, _NUM_SAMPLES)
        response = np.ones(_NUM_SAMPLES)
    response[[0, -1]] /= 2
    return wavelength_nm, response / response.sum()


def band_mean(band: OpticalRange, values: Float[Array, "*rest wavelength"]) -> Float[Array, "*rest"]:
    """Average over a band, values being sampled at the wavelengths of `response_weights`."""
    return np.asarray(values @ response_weights(band)[1])


def planck_radiance(
    wavelength_nm: Float[Array, "*#shape"], temperature_k: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """Compute the radiance of a black body, W / (m² sr µm). Source: Planck's law with the constants of the SI Brochure,
    9th edition (2019)."""
    micrometres = wavelength_nm / 1000.0
    first, second = 1.191042972e8, 1.438776877e4
    exponent = second / (micrometres * temperature_k)
    return np.asarray(first / (micrometres**5 * np.expm1(exponent)))


def sunlight_radiance(wavelength_nm: Float[Array, " wavelength"], elevation_deg: float) -> Float[Array, " wavelength"]:
    """Compute the radiance of a white level surface in the sun, W / (m² sr µm); the Sun as a black body."""
    sunlit = max(0.0, float(np.sin(np.radians(elevation_deg))))
    irradiance = planck_radiance(wavelength_nm, np.full_like(wavelength_nm, _SUN_K)) * _SUN_SOLID_ANGLE_SR
    return irradiance * sunlit / np.pi


def material_emission(
    band: OpticalRange,
    reflectance: Float[Array, "material wavelength"],
    temperature_k: Float[Array, " material"],
) -> Float[Array, " material"]:
    """Compute the radiance that each material emits in a band, W / (m² sr µm)."""
    wavelength_nm, _ = response_weights(band)
    return band_mean(band, (1.0 - reflectance) * planck_radiance(wavelength_nm[None, :], temperature_k[:, None]))


def brightness_temperature_k(band: OpticalRange, radiance: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Find the temperature of the black body of equal radiance in a band; undoes emission at emissivity 1."""
    temperature_k, black = _black_body_table(band)
    return np.asarray(np.interp(radiance, black, temperature_k))


@lru_cache(maxsize=64)
def _black_body_table(band: OpticalRange) -> tuple[Array, Array]:
    # chosen: from colder than cloud tops to hotter than desert rock; so dense that straight lines will do.
    temperature_k = np.arange(180.0, 400.0, 0.25)
    wavelength_nm, _ = response_weights(band)
    return temperature_k, band_mean(band, planck_radiance(wavelength_nm[None, :], temperature_k[:, None]))


# chosen: light of the blue sky as a share of all light on open ground under a clear sky.
_SKY_LIGHT = 0.25
# chosen: crowns let light through and are rounder than a height map, so they shade less than walls do.
_RELIEF_OF_OBJECTS = 0.3
# chosen: beyond this many pixels a shadow is too faint and too rare to be worth the time.
_MAX_SHADOW_STEPS = 12
# chosen: how much of the snow on open ground lies on roads and hangs in trees.
_SNOW_ON_ROADS, _SNOW_ON_TREES = 0.3, 0.25


@dataclass(frozen=True, kw_only=True)
class Surface:
    """A landscape on a day, under a clear sky."""

    landscape: Landscape
    day: float
    sun: tuple[float, float]
    """Elevation and azimuth of the sun in mid-morning, degrees."""
    palette: Palette
    materials: tuple[int, ...]
    """Materials that are present (indices of the table)."""
    abundance: Float[Array, "present row col"]
    """Share of each of them; sums to 1 at every pixel."""
    shade: Float[Array, "row col"]
    """Factor on reflected sunlight: relief, cast shadows, texture."""
    temperature_k: Float[Array, " material"]
    """Surface temperature of all materials of the table, kelvin."""


def make_surface(landscape: Landscape, day: float) -> Surface:
    """Bring a landscape to a day of the year."""
    place = landscape.place
    sun = sun_position(place.latitude_deg, day)
    upper, lower = _unit_shares(landscape, day)
    present = np.flatnonzero((upper.max(axis=0) > 0) | (lower.max(axis=0) > 0))
    over = upper.T[present].astype(np.float32)[:, landscape.unit]
    under = lower.T[present].astype(np.float32)[:, landscape.unit]
    over -= under
    over *= landscape.canopy
    over += under
    return Surface(
        landscape=landscape,
        day=day,
        sun=sun,
        palette=place_palette(place),
        materials=tuple(present.tolist()),
        abundance=over,
        shade=sun_shade(landscape, sun) * landscape.texture,
        temperature_k=material_temperatures_k(place.latitude_deg, day, elevation_deg=sun[0]),
    )


def reflectance_at(surface: Surface, wavelength_nm: Float[Array, " wavelength"]) -> Float[Array, "wavelength row col"]:
    """Give the true reflectance from 350 to 14000 nm: with shadows, but without sensor, atmosphere or noise."""
    curves = material_reflectance(surface.palette, wavelength_nm)[list(surface.materials)]
    truth = np.tensordot(curves.T.astype(np.float32), surface.abundance, axes=1)
    return np.asarray(truth * surface.shade)


def sun_shade(landscape: Landscape, sun: tuple[float, float]) -> Float[Array, "row col"]:
    """Compute the light relative to open flat ground, which has 1; full shadow keeps the light of the sky."""
    # chosen: at least 10 degrees, lower suns make shadows longer than a footprint.
    elevation_deg, azimuth_deg = sun
    elevation = np.radians(max(elevation_deg, 10.0))
    east, north = np.sin(np.radians(azimuth_deg)), np.cos(np.radians(azimuth_deg))
    height_m = landscape.relief_m + np.float32(_RELIEF_OF_OBJECTS) * landscape.height_m
    slope_down, slope_right = np.gradient(height_m, landscape.frame.detail_m)
    toward_sun = slope_right * np.float32(east) - slope_down * np.float32(north)
    steep = np.sqrt(1 + slope_down**2 + slope_right**2)
    direct = np.clip((1 - toward_sun / np.float32(np.tan(elevation))) / steep, 0, 1.6)
    direct[_in_shadow(landscape, elevation, east=float(east), north=float(north))] = 0
    return np.asarray(_SKY_LIGHT + (1 - _SKY_LIGHT) * direct, dtype=np.float32)


def _in_shadow(landscape: Landscape, elevation: float, *, east: float, north: float) -> Array:
    """Walk from each pixel towards the sun and see whether something stands above the ray."""
    top_m = landscape.height_m
    rise_m = landscape.frame.detail_m * np.tan(elevation)
    num_steps = min(int(top_m.max() / rise_m), _MAX_SHADOW_STEPS)
    shadow = np.zeros(top_m.shape, dtype=bool)
    padded = np.pad(top_m, _MAX_SHADOW_STEPS, mode="edge")
    rows, cols = top_m.shape
    for step in range(1, num_steps + 1):
        row = _MAX_SHADOW_STEPS - round(step * north)
        col = _MAX_SHADOW_STEPS + round(step * east)
        shadow |= padded[row : row + rows, col : col + cols] > top_m + np.float32(step * rise_m)
    return shadow


def _unit_shares(landscape: Landscape, day: float) -> tuple[Array, Array]:
    """Tell what the upper and lower parts of every unit are made of, snow included."""
    recipe, latitude_deg = landscape.unit_recipe, landscape.place.latitude_deg
    upper, lower = np.zeros((2, len(recipe), len(material_names())))
    for value in np.unique(recipe):
        units = recipe == value
        days, choice = day + landscape.unit_day_shift[units], landscape.unit_choice[units]
        cover = load_covers()[int(value) - 1]
        upper[units], lower[units] = cover_shares(cover, latitude_deg=latitude_deg, day=days, choice=choice)
    # chosen: some winters are bare, some white.
    snow = snow_share(latitude_deg, day) * landscape.place.generator("snow").uniform(0.2, 1.0)
    if snow > 0:
        tall = np.array([cover.height_m > 0.5 for cover in load_covers()])[recipe - 1]
        ground = np.where(recipe == cover_named("road").value, snow * _SNOW_ON_ROADS, snow)
        ground = np.where(recipe == cover_named("water").value, 0.0, ground)
        lower = _under_snow(lower, ground)
        upper = _under_snow(upper, np.where(tall, ground * _SNOW_ON_TREES, ground))
    return upper, lower


def _under_snow(shares: Array, snow: Array) -> Array:
    covered: Array = shares * (1 - snow)[:, None]
    covered[:, material_names().index("snow")] += snow
    return covered


FREEZING_K = 273.15

_HALF_YEAR_DAYS = 182.625
_WARMEST_DAY = 202.0  # chosen: about a month after the longest day, as at middle latitudes
_FULL_SEASONS_FROM_DEG = 35.0  # chosen: nearer the equator natural vegetation keeps more of its leaves all year
_WATER_LAG_DAYS = 30.0  # chosen: lakes warm and cool about a month after the air
_WATER_SWING = 0.65  # chosen: and less than it


def northern_day(latitude_deg: float, day: float) -> float:
    """Give the day of the northern year that has the same season; six months away in the south."""
    return day if latitude_deg >= 0 else day + _HALF_YEAR_DAYS


def sun_position(latitude_deg: float, day: float, *, solar_hour: float = 10.5) -> tuple[float, float]:
    """Compute the sun's degrees above the horizon and clockwise from north; solar hour 10.5 is Sentinel-2's overpass.
    Source: Cooper, "The absorption of radiation in solar stills", Solar Energy 12, 1969 (declination)."""
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day) / 365)
    hour_angle = np.radians(15 * (solar_hour - 12))
    latitude = np.radians(latitude_deg)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    return float(np.degrees(np.arcsin(up))), float(np.degrees(np.arctan2(east, north)) % 360)


def air_temperature_k(latitude_deg: float, day: float, *, lag_days: float = 0.0, swing: float = 1.0) -> float:
    """Estimate the mid-morning air temperature at sea level. chosen: 300 K at the equator falling with the squared sine
    of latitude, and a yearly swing of a third of a kelvin a degree up to 16 K; within a few kelvin of zonal means over
    land."""
    mean_k = 300.0 - 36.0 * np.sin(np.radians(latitude_deg)) ** 2
    amplitude_k = min(abs(latitude_deg) / 3.0, 16.0) * swing
    phase = 2 * np.pi * (northern_day(latitude_deg, day) - _WARMEST_DAY - lag_days) / 365.25
    return float(mean_k + amplitude_k * np.cos(phase))


def material_temperatures_k(latitude_deg: float, day: float, *, elevation_deg: float) -> Float[Array, " material"]:
    """Estimate the surface temperature of each material in mid-morning. Sun-warmed materials stand over the air by the
    sine of the sun's elevation; water follows the season late and never freezes here; snow never exceeds its melting
    point."""
    air_k = air_temperature_k(latitude_deg, day)
    water_k = air_temperature_k(latitude_deg, day, lag_days=_WATER_LAG_DAYS, swing=_WATER_SWING)
    sunlit = max(0.0, float(np.sin(np.radians(elevation_deg))))
    warming_k = np.array([material["warming_k"] for material in load_materials().values()])
    # A cloud top is cold whatever the sun does; the others warm with it.
    temperatures_k = air_k + warming_k * np.where(warming_k > 0, sunlit, 1.0)
    names = np.array(material_names())
    temperatures_k[np.isin(names, ("deep_water", "turbid_water"))] = max(water_k, FREEZING_K)
    return np.where(names == "snow", np.minimum(temperatures_k, FREEZING_K), temperatures_k)


def snow_share(latitude_deg: float, day: float) -> float:
    """Estimate how much of open ground lies under snow: none above −1 °C in the mean, 0.9 below −9 °C."""
    below_k = FREEZING_K - 1.0 - air_temperature_k(latitude_deg, day)
    return float(np.clip(below_k / 8.0, 0.0, 0.9))


def cover_shares(
    cover: Cover, *, latitude_deg: float, day: Float[Array, " unit"], choice: Float[Array, " unit"]
) -> tuple[Float[Array, "unit material"], Float[Array, "unit material"]]:
    """Tell what the upper and lower parts of a cover are made of, for several fields, lakes or roofs of it. Of each
    `day` is of the year (fields differ by some days) and `choice` in [0, 1) draws one of several materials."""
    season = np.array([northern_day(latitude_deg, float(one)) for one in day])
    full = 1.0 if cover.seasonality == "full" else min(abs(latitude_deg) / _FULL_SEASONS_FROM_DEG, 1.0)
    upper, lower = (_shares(one, season, choice, full, cover.peak_day) for one in (cover.upper, cover.lower))
    return upper, lower


def _shares(calendar: Calendar, season: Array, choice: Array, full: float, peak_day: float) -> Array:
    if not calendar[0]:
        bounds = np.cumsum(calendar[1][0])
        drawn = np.minimum(np.searchsorted(bounds, choice, side="right"), len(bounds) - 1)
        return np.eye(len(bounds))[drawn]
    always = calendar_shares(calendar, np.full(len(season), peak_day, dtype=float))
    return full * calendar_shares(calendar, season) + (1 - full) * always
