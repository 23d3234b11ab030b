"""One place on one day: shares of materials, light and shade. The truth at every wavelength."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Float
from anyband.simulate.covers import cover_named, load_covers
from anyband.simulate.landscape import Landscape
from anyband.simulate.materials import material_names
from anyband.simulate.season import Sun, cover_shares, material_temperatures_k, snow_share, sun_position
from anyband.simulate.spectra import Palette, material_reflectance, place_palette

__all__ = ["Surface", "make_surface", "reflectance_at", "sun_shade"]

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
    """The place."""
    day: float
    """Of the year, from 1."""
    sun: Sun
    """Where the sun stands in mid-morning."""
    palette: Palette
    """How its materials differ from those of the table."""
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
        temperature_k=material_temperatures_k(place.latitude_deg, day, elevation_deg=sun.elevation_deg),
    )


def reflectance_at(surface: Surface, wavelength_nm: Float[Array, " wavelength"]) -> Float[Array, "wavelength row col"]:
    """Give the true reflectance of every pixel at any wavelengths from 350 to 14000 nm, shadows included.

    No sensor, no atmosphere, no noise: what the images are measured against.

    Raises:
        CatalogueError: a wavelength is outside.
    """
    curves = material_reflectance(surface.palette, wavelength_nm)[list(surface.materials)]
    truth = np.tensordot(curves.T.astype(np.float32), surface.abundance, axes=1)
    return np.asarray(truth * surface.shade)


def sun_shade(landscape: Landscape, sun: Sun) -> Float[Array, "row col"]:
    """Compute the light on every pixel relative to open flat ground: slopes, crowns and cast shadows.

    Flat, open ground has 1; full shadow keeps the light of the sky.
    """
    # chosen: at least 10 degrees, lower suns make shadows longer than a footprint.
    elevation = np.radians(max(sun.elevation_deg, 10.0))
    east, north = np.sin(np.radians(sun.azimuth_deg)), np.cos(np.radians(sun.azimuth_deg))
    height_m = landscape.relief_m + np.float32(_RELIEF_OF_OBJECTS) * landscape.height_m
    slope_down, slope_right = np.gradient(height_m, landscape.frame.detail_m)
    toward_sun = slope_right * np.float32(east) - slope_down * np.float32(north)
    steep = np.sqrt(1 + slope_down**2 + slope_right**2)
    direct = np.clip((1 - toward_sun / np.float32(np.tan(elevation))) / steep, 0, 1.6)
    direct[_in_shadow(landscape, elevation, east=float(east), north=float(north))] = 0
    shade: Float[Array, "row col"] = (_SKY_LIGHT + (1 - _SKY_LIGHT) * direct).astype(np.float32)
    return shade


def _in_shadow(landscape: Landscape, elevation: float, *, east: float, north: float) -> Array:
    """Walk from each pixel towards the sun and see whether something stands above the ray."""
    top_m, detail_m = landscape.height_m, landscape.frame.detail_m
    rise_m = detail_m * np.tan(elevation)
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
    num_units = len(landscape.unit_recipe)
    upper, lower = np.zeros((2, num_units, len(material_names())))
    for value in np.unique(landscape.unit_recipe):
        cover = load_covers()[int(value) - 1]
        units = landscape.unit_recipe == value
        upper[units], lower[units] = cover_shares(
            cover,
            latitude_deg=landscape.place.latitude_deg,
            day=day + landscape.unit_day_shift[units],
            choice=landscape.unit_choice[units],
        )
    snow = snow_share(landscape.place.latitude_deg, day) * _snow_of_the_year(landscape)
    if snow > 0:
        recipe = landscape.unit_recipe
        tall = np.array([cover.height_m > 0.5 for cover in load_covers()])[recipe - 1]
        ground = np.where(recipe == cover_named("road").value, snow * _SNOW_ON_ROADS, snow)
        ground = np.where(recipe == cover_named("water").value, 0.0, ground)
        lower = _under_snow(lower, ground)
        upper = _under_snow(upper, np.where(tall, ground * _SNOW_ON_TREES, ground))
    return upper, lower


def _snow_of_the_year(landscape: Landscape) -> float:
    # chosen: some winters are bare, some white.
    return float(landscape.place.generator("snow").uniform(0.2, 1.0))


def _under_snow(shares: Array, snow: Array) -> Array:
    covered: Array = shares * (1 - snow)[:, None]
    covered[:, material_names().index("snow")] += snow
    return covered
