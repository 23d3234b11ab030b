"""A sensor of the catalogue looks at a surface: bands, pixels, noise."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np

from anyband.sensors.sensor import Band, Sensor
from anyband.sensors.spectrum import OpticalRange, RadarBeam
from anyband.shapes import Array, Float
from anyband.simulate.atmosphere import Sky, hazy
from anyband.simulate.fields import Frame
from anyband.simulate.materials import material_names, read_table
from anyband.simulate.radar import material_sigma0, slope_gain, speckle
from anyband.simulate.spectra import (
    band_mean,
    brightness_temperature_k,
    material_emission,
    material_reflectance,
    planck_radiance,
    response_weights,
    sunlight_radiance,
)
from anyband.simulate.surface import Surface

__all__ = ["Noise", "area_mean", "noise_of", "observe"]

# Signal-to-noise ratios are stated at a reference radiance, near that of a surface of this reflectance ...
_REFERENCE_REFLECTANCE = 0.1
# ... and, chosen, of this temperature.
_REFERENCE_K = 300.0
# chosen: 8-bit pictures show reflectance from 0 to this, with this gamma, as made for the eye.
_PICTURE_WHITE, _PICTURE_GAMMA = 0.45, 1.6
# chosen: weakest backscatter that a product still holds, so that its logarithm exists.
_FLOOR_SIGMA0 = 1e-4
# Source: sunlight outweighs emission of the ground below it, and emission is under a thousandth of it there.
_EMISSION_FROM_NM = 2500.0


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of one sensor."""

    snr: float
    """Signal-to-noise ratio of its optical bands at a reflectance of 0.1, but for those in `snr_of_band`."""
    snr_of_band: tuple[tuple[str, float], ...]
    """(band, ratio)."""
    noise_k: float
    """Standard deviation of its thermal bands, kelvin."""
    looks: float
    """Equivalent number of looks of its radar bands."""


@dataclass(frozen=True, kw_only=True)
class _View:
    """A surface under a sky, averaged over pixels of any size, each average taken once."""

    surface: Surface
    sky: Sky
    averages: dict[tuple[str, float], Array] = field(default_factory=dict)

    @property
    def materials(self) -> list[int]:
        """Materials that an optical sensor sees: clouds are one of them."""
        cloud = [material_names().index("cloud")] if self.sky.cloud.any() else []
        return [*self.surface.materials, *cloud]

    def present(self, gsd_m: float) -> Array:
        """Share of each material that an optical sensor sees, by area."""
        return self._average("present", gsd_m, lambda: self._seen(np.float32(1)))

    def lit(self, gsd_m: float) -> Array:
        """The same, times the sunlight that falls on it."""
        return self._average("lit", gsd_m, lambda: self._seen(self.surface.shade * self.sky.light))

    def sending(self, gsd_m: float) -> Array:
        """Share of each material below the clouds, times the gain of its slope towards a radar."""
        return self._average("sending", gsd_m, lambda: self.surface.abundance * slope_gain(self.surface))

    def _seen(self, light: Any) -> Array:
        if not self.sky.cloud.any():
            return np.asarray(self.surface.abundance * light)
        ground = self.surface.abundance * ((1 - self.sky.cloud) * light)
        return np.concatenate([ground, self.sky.cloud[None]])

    def _average(self, kind: str, gsd_m: float, fine: Callable[[], Array]) -> Array:
        if (kind, gsd_m) not in self.averages:
            frame = self.surface.landscape.frame
            self.averages[kind, gsd_m] = area_mean(fine(), frame, gsd_m=gsd_m)
        return self.averages[kind, gsd_m]


@cache
def noise_of(sensor_name: str) -> Noise:
    """Look up the noise of a sensor; the default where the table does not name it."""
    table = read_table("instruments.yaml")
    default: Mapping[str, Any] = table["default"]
    row: Mapping[str, Any] = table["sensors"].get(sensor_name, {})
    return Noise(
        snr=float(default["snr"]),
        snr_of_band=tuple((band, float(value)) for band, value in row.get("snr", {}).items()),
        noise_k=float(row.get("noise_k", default["noise_k"])),
        looks=float(row.get("looks", default["looks"])),
    )


def observe(
    surface: Surface, sensor: Sensor, sky: Sky, rng: np.random.Generator | None
) -> Float[Array, "band row col"]:
    """Measure a surface with every band of a sensor.

    Each band is averaged over the area of its own pixels and then repeated onto the sensor's finest grid, as
    products with several resolutions are usually distributed. Thermal bands give the brightness temperature
    of the ground.

    Args:
        surface: to measure.
        sensor: whose bands see it.
        sky: between them; radar does not notice it.
        rng: draws the noise and the speckle; None leaves them away.

    Returns:
        float32 in the bands' physical units.

    Raises:
        CatalogueError: a band is outside what the simulator knows.
    """
    view, noise = _View(surface=surface, sky=sky), noise_of(sensor.name)
    finest = round(surface.landscape.frame.footprint_m / sensor.gsd_m)
    return np.stack([_repeated(_measured(view, band, noise, rng), finest) for band in sensor.bands])


def area_mean(
    fields: Float[Array, "field row col"], frame: Frame, *, gsd_m: float
) -> Float[Array, "field out_row out_col"]:
    """Average fields over square pixels of `gsd_m`; their means over the whole frame stay as they are."""
    if gsd_m == frame.detail_m:
        return fields
    weights = _area_weights(frame, gsd_m)
    return np.asarray(weights @ fields @ weights.T)


def _measured(view: _View, band: Band, noise: Noise, rng: np.random.Generator | None) -> Array:
    if isinstance(band.spectrum, RadarBeam):
        power = _mixed(material_sigma0(view.surface, band.spectrum), view.sending(band.gsd_m))
        if rng is not None:
            power = power * speckle(rng, power.shape, looks=noise.looks)
        return np.asarray(10 * np.log10(np.maximum(power, _FLOOR_SIGMA0)))
    values = _optical(view, band, band.spectrum)
    if rng is not None:
        sigma = np.float32(_noise_level(view, band, band.spectrum, noise))
        values = values + sigma * rng.standard_normal(values.shape, dtype=np.float32)
    values = np.maximum(values, 0)
    if band.unit == "count":
        values = 255 * np.clip(values / _PICTURE_WHITE, 0, 1) ** np.float32(1 / _PICTURE_GAMMA)
    return np.asarray(values)


def _optical(view: _View, band: Band, spectrum: OpticalRange) -> Array:
    """Measure a band without noise: reflectance, also where it becomes a count; radiance; or kelvin."""
    wavelength_nm, _ = response_weights(spectrum)
    curves = material_reflectance(view.surface.palette, wavelength_nm)[view.materials]
    seen = hazy(curves, wavelength_nm, view.sky)
    if band.unit in ("reflectance", "count"):
        return _mixed(band_mean(spectrum, seen), view.lit(band.gsd_m))
    sunlight = sunlight_radiance(wavelength_nm, view.surface.sun.elevation_deg)
    radiance = _mixed(band_mean(spectrum, seen * sunlight), view.lit(band.gsd_m))
    if spectrum.high_nm > _EMISSION_FROM_NM:
        emission = material_emission(spectrum, curves, view.surface.temperature_k[view.materials])
        radiance = radiance + _mixed(emission, view.present(band.gsd_m))
    return brightness_temperature_k(spectrum, radiance) if band.unit == "kelvin" else radiance


def _noise_level(view: _View, band: Band, spectrum: OpticalRange, noise: Noise) -> float:
    """Give the standard deviation of a band's noise in its unit (of a picture, before it is one)."""
    if band.unit == "kelvin":
        return noise.noise_k
    share = 1 / dict(noise.snr_of_band).get(band.name, noise.snr)
    if band.unit != "radiance":
        return share * _REFERENCE_REFLECTANCE
    wavelength_nm, _ = response_weights(spectrum)
    sunlight = sunlight_radiance(wavelength_nm, view.surface.sun.elevation_deg)
    emitted = planck_radiance(wavelength_nm, np.full_like(wavelength_nm, _REFERENCE_K))
    return share * float(band_mean(spectrum, _REFERENCE_REFLECTANCE * sunlight + emitted))


def _mixed(of_material: Array, shares: Array) -> Array:
    return np.asarray(np.tensordot(of_material.astype(np.float32), shares, axes=1))


@lru_cache(maxsize=32)
def _area_weights(frame: Frame, gsd_m: float) -> Array:
    """Share of each fine pixel in each coarse one along an axis; rows sum to 1."""
    count = round(frame.footprint_m / gsd_m)
    low_m = np.arange(count)[:, None] * gsd_m
    fine_m = np.arange(frame.num_pixels)[None, :] * frame.detail_m
    overlap_m = np.minimum(low_m + gsd_m, fine_m + frame.detail_m) - np.maximum(low_m, fine_m)
    return np.asarray(np.maximum(overlap_m, 0) / gsd_m, dtype=np.float32)


def _repeated(values: Array, size: int) -> Array:
    """Enlarge a coarse band onto the finest grid: each pixel takes the coarse pixel at its centre."""
    if values.shape[0] == size:
        return values.astype(np.float32)
    index = ((np.arange(size) + 0.5) * values.shape[0] / size).astype(np.intp)
    return np.asarray(values[index][:, index], dtype=np.float32)
