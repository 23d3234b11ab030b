"""From curves to bands: integration over a response, thermal emission, each place's own materials."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyband.errors import CatalogueError
from anyband.sensors.spectrum import OpticalRange
from anyband.shapes import Array, Float
from anyband.simulate.materials import KNOWN_NM, load_materials, reflectance_curves
from anyband.simulate.places import Place

__all__ = [
    "Palette",
    "band_mean",
    "brightness_temperature_k",
    "material_emission",
    "material_reflectance",
    "place_palette",
    "planck_radiance",
    "response_weights",
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


@dataclass(frozen=True, kw_only=True)
class Palette:
    """How the materials of one place differ from those of the table."""

    level: Float[Array, " material"]
    """Factor on the reflectance at 1000 nm."""
    tilt: Float[Array, " material"]
    """Exponent on wavelength over 1000 nm: positive is redder. Both act below 2500 nm only."""
    sigma0_db: Float[Array, " material"]
    """Added to the backscatter, decibels."""


def place_palette(place: Place) -> Palette:
    """Draw how the materials of a place differ from those of the table."""
    rng = place.generator("palette")
    count = len(load_materials())
    return Palette(
        level=np.exp(rng.normal(0, _LEVEL_SPREAD, count)),
        tilt=rng.normal(0, _TILT_SPREAD, count),
        sigma0_db=rng.normal(0, _BACKSCATTER_SPREAD_DB, count),
    )


def material_reflectance(
    palette: Palette, wavelength_nm: Float[Array, " wavelength"]
) -> Float[Array, "material wavelength"]:
    """Give the reflectance of a place's materials at any wavelengths inside 350 to 14000 nm.

    Raises:
        CatalogueError: a wavelength is outside.
    """
    low_nm, high_nm = float(wavelength_nm.min()), float(wavelength_nm.max())
    if low_nm < KNOWN_NM[0] or high_nm > KNOWN_NM[1]:
        raise CatalogueError(
            f"the truth is known from {KNOWN_NM[0]:g} to {KNOWN_NM[1]:g} nm, asked for {low_nm:g} to "
            f"{high_nm:g} nm; leave out the bands beyond"
        )
    own = palette.level[:, None] * (wavelength_nm / 1000.0) ** palette.tilt[:, None]
    # 0.98: nothing reflects more than it receives, whatever the draw.
    tinted = np.minimum(reflectance_curves(wavelength_nm) * own, 0.98)
    return np.where(wavelength_nm <= _REFLECTIVE_TO_NM, tinted, reflectance_curves(wavelength_nm))


def response_weights(band: OpticalRange) -> tuple[Float[Array, " wavelength"], Float[Array, " wavelength"]]:
    """Sample a band's response: wavelengths and weights that sum to 1 (trapezoid rule).

    A flat band weighs all wavelengths between its edges alike: a straight curve gives its middle value.
    """
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
    mean: Float[Array, "*rest"] = np.asarray(values @ response_weights(band)[1])
    return mean


def planck_radiance(
    wavelength_nm: Float[Array, "*#shape"], temperature_k: Float[Array, "*#shape"]
) -> Float[Array, "*shape"]:
    """Compute the radiance of a black body, W / (m² sr µm).

    Source:
        Planck's law with the constants of the SI Brochure, 9th edition (2019).
    """
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
    found: Float[Array, "*shape"] = np.interp(radiance, black, temperature_k)
    return found


@lru_cache(maxsize=64)
def _black_body_table(band: OpticalRange) -> tuple[Array, Array]:
    # chosen: from colder than cloud tops to hotter than desert rock; so dense that straight lines will do.
    temperature_k = np.arange(180.0, 400.0, 0.25)
    wavelength_nm, _ = response_weights(band)
    return temperature_k, band_mean(band, planck_radiance(wavelength_nm[None, :], temperature_k[:, None]))
