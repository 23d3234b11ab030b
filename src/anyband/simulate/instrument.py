"""A sensor of the catalogue looks at a surface: bands, pixels, noise, stored numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from anyband.errors import CatalogueError
from anyband.sensors.sensor import Band, Encoding, Sensor
from anyband.sensors.spectrum import OpticalRange, RadarBeam
from anyband.shapes import Array, Bool, Float, Num
from anyband.simulate.atmosphere import Sky, hazy
from anyband.simulate.fields import Frame
from anyband.simulate.materials import material_names, read_table
from anyband.simulate.radar import material_sigma0, slope_gain, speckle
from anyband.simulate.spectra import (
    band_mean,
    brightness_temperature_k,
    material_emission,
    material_reflectance,
    response_weights,
    sunlight_radiance,
)
from anyband.simulate.surface import Surface

__all__ = ["Noise", "area_mean", "encode", "noise_of", "observe"]

# Signal-to-noise ratios are stated at a reference radiance, which is near that of a surface of this reflectance.
_REFERENCE_REFLECTANCE = 0.1
# chosen: 8-bit pictures show reflectance from 0 to this, with this gamma, as made for the eye.
_PICTURE_WHITE, _PICTURE_GAMMA = 0.45, 1.6
# chosen: weakest backscatter that a product still holds, so that its logarithm exists.
_FLOOR_SIGMA0 = 1e-4


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise of one sensor."""

    snr: float
    """Signal-to-noise ratio of its optical bands at a reflectance of 0.1, where `snr_of_band` says nothing else."""
    snr_of_band: tuple[tuple[str, float], ...]
    """(band, ratio)."""
    noise_k: float
    """Standard deviation of its thermal bands, kelvin."""
    looks: float
    """Equivalent number of looks of its radar bands."""


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What does not depend on the band."""

    surface: Surface
    sky: Sky
    materials: tuple[int, ...]
    present: Float[Array, "material row col"]
    lit: Float[Array, "material row col"]
    temperature_k: Float[Array, " material"]


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
    surface: Surface, sensor: Sensor, sky: Sky, rng: np.random.Generator, *, noisy: bool = True
) -> Float[Array, "band row col"]:
    """Measure a surface with every band of a sensor.

    Each band is averaged over the area of its own pixels and then repeated onto the sensor's finest grid, as products
    with several resolutions are usually distributed. Thermal bands give the brightness temperature of the ground.

    Args:
        surface: to measure.
        sensor: whose bands see it.
        sky: between them; radar does not notice it.
        rng: draws the noise and the speckle.
        noisy: False leaves them away.

    Returns:
        float32 in the bands' physical units.

    Raises:
        CatalogueError: a band is outside what the simulator knows.
    """
    optical = any(isinstance(band.spectrum, OpticalRange) for band in sensor.bands)
    scene = _through(surface, sky) if optical else None
    noise = noise_of(sensor.name)
    finest = round(surface.landscape.frame.footprint_m / sensor.gsd_m)
    means: dict[tuple[str, float], Array] = {}
    bands = []
    for band in sensor.bands:
        if isinstance(band.spectrum, RadarBeam):
            values = _radar_band(surface, band, means, noise, rng if noisy else None)
        else:
            assert scene is not None
            values = _optical_band(scene, band, means)
            if noisy:
                sigma = _sigma(band, noise, scene)
                values += sigma * rng.standard_normal(values.shape, dtype=np.float32)
            values = np.maximum(values, 0)
            if band.unit == "count":
                values = 255 * np.clip(values / _PICTURE_WHITE, 0, 1) ** np.float32(1 / _PICTURE_GAMMA)
        bands.append(_repeated(values.astype(np.float32), finest))
    return np.stack(bands)


def encode(
    values: Float[Array, "band row col"],
    sensor: Sensor,
    valid: Bool[Array, "row col"],
    *,
    encoding: str | None = None,
) -> Num[Array, "band row col"]:
    """Turn physical values into the numbers that the sensor's products store; pixels that are not valid get nodata.

    The type is what such products use: bytes for pictures, float32 where nothing is scaled, else 16 bits, signed for
    decibels and where nodata is negative. A measured number that would equal nodata moves by one.

    Raises:
        CatalogueError: no such encoding, or the sensor has no nodata and not everything is valid.
    """
    name = encoding or sensor.default_encoding
    encodings = [band.encoding(name) for band in sensor.bands]
    dtype = _stored_type(sensor, encodings)
    stored = np.stack([_stored(plane, own) for plane, own in zip(values, encodings, strict=True)])
    nodata = sensor.nodata
    if nodata is None and dtype.kind == "f":
        nodata = np.nan
    if nodata is None and not valid.all():
        raise CatalogueError(f"sensor '{sensor.name}' has no nodata value, so its images can't have an edge")
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        stored = np.clip(np.rint(stored), limits.min, limits.max)
        if nodata is not None:
            stored[stored == nodata] = nodata + 1
    if nodata is not None:
        stored[:, ~valid] = nodata
    return stored.astype(dtype)


def area_mean(
    fields: Float[Array, "field row col"], frame: Frame, *, gsd_m: float
) -> Float[Array, "field out_row out_col"]:
    """Average fields over square pixels of `gsd_m`; their means over the whole frame stay as they are."""
    weights = _area_weights(frame, gsd_m)
    return np.asarray(weights @ fields @ weights.T)


def _through(surface: Surface, sky: Sky) -> _Scene:
    """Put clouds over the materials, as a material of their own."""
    light = surface.shade * sky.light
    if not sky.cloud.any():
        return _Scene(
            surface=surface,
            sky=sky,
            materials=surface.materials,
            present=surface.abundance,
            lit=surface.abundance * light,
            temperature_k=surface.temperature_k,
        )
    ground = surface.abundance * (1 - sky.cloud)
    cloud = material_names().index("cloud")
    from anyband.simulate.season import material_temperatures_k

    all_k = material_temperatures_k(
        surface.landscape.place.latitude_deg, surface.day, elevation_deg=surface.sun.elevation_deg
    )
    return _Scene(
        surface=surface,
        sky=sky,
        materials=(*surface.materials, cloud),
        present=np.concatenate([ground, sky.cloud[None]]),
        lit=np.concatenate([ground * light, sky.cloud[None]]),
        temperature_k=np.append(surface.temperature_k, all_k[cloud]),
    )


def _optical_band(scene: _Scene, band: Band, means: dict[tuple[str, float], Array]) -> Array:
    assert isinstance(band.spectrum, OpticalRange)
    frame, spectrum = scene.surface.landscape.frame, band.spectrum
    wavelength_nm, _ = response_weights(spectrum)
    curves = material_reflectance(scene.surface.palette, wavelength_nm)[list(scene.materials)]
    if ("lit", band.gsd_m) not in means:
        means["lit", band.gsd_m] = area_mean(scene.lit, frame, gsd_m=band.gsd_m)
    lit = means["lit", band.gsd_m]
    seen = hazy(curves, wavelength_nm, scene.sky)
    if band.unit in ("reflectance", "count"):
        return _mixed(band_mean(spectrum, seen), lit)
    sunlight = sunlight_radiance(wavelength_nm, scene.surface.sun.elevation_deg)
    radiance = _mixed(band_mean(spectrum, seen * sunlight), lit)
    if spectrum.high_nm > 3000.0:
        if ("present", band.gsd_m) not in means:
            means["present", band.gsd_m] = area_mean(scene.present, frame, gsd_m=band.gsd_m)
        emission = material_emission(spectrum, curves, scene.temperature_k)
        radiance = radiance + _mixed(emission, means["present", band.gsd_m])
    return brightness_temperature_k(spectrum, radiance) if band.unit == "kelvin" else radiance


def _radar_band(
    surface: Surface,
    band: Band,
    means: dict[tuple[str, float], Array],
    noise: Noise,
    rng: np.random.Generator | None,
) -> Array:
    assert isinstance(band.spectrum, RadarBeam)
    sigma0 = material_sigma0(surface, band.spectrum)
    if ("radar", band.gsd_m) not in means:
        gained = surface.abundance * slope_gain(surface)
        means["radar", band.gsd_m] = area_mean(gained, surface.landscape.frame, gsd_m=band.gsd_m)
    power = _mixed(sigma0, means["radar", band.gsd_m])
    if rng is not None:
        power = power * speckle(rng, power.shape, looks=noise.looks)
    return 10 * np.log10(np.maximum(power, _FLOOR_SIGMA0))


def _sigma(band: Band, noise: Noise, scene: _Scene) -> np.float32:
    """Standard deviation of a band's noise in its unit."""
    assert isinstance(band.spectrum, OpticalRange)
    if band.unit == "kelvin":
        return np.float32(noise.noise_k)
    share = 1 / dict(noise.snr_of_band).get(band.name, noise.snr)
    if band.unit == "radiance":
        wavelength_nm, _ = response_weights(band.spectrum)
        curves = np.full((1, wavelength_nm.size), 1 - _REFERENCE_REFLECTANCE)
        sunlight = sunlight_radiance(wavelength_nm, scene.surface.sun.elevation_deg)
        signal = _REFERENCE_REFLECTANCE * band_mean(band.spectrum, sunlight)
        emitted = material_emission(band.spectrum, 1 - curves, scene.temperature_k[:1])[0]
        return np.float32(share * (signal + emitted))
    return np.float32(share * _REFERENCE_REFLECTANCE)


def _mixed(of_material: Array, shares: Array) -> Array:
    return np.tensordot(of_material.astype(np.float32), shares, axes=1)


@lru_cache(maxsize=32)
def _area_weights(frame: Frame, gsd_m: float) -> Array:
    """Share of each fine pixel in each coarse one along an axis; rows sum to 1."""
    count = round(frame.footprint_m / gsd_m)
    low = np.arange(count)[:, None] * gsd_m
    fine = np.arange(frame.num_pixels)[None, :] * frame.detail_m
    overlap_m = np.minimum(low + gsd_m, fine + frame.detail_m) - np.maximum(low, fine)
    weights: Array = (np.maximum(overlap_m, 0) / gsd_m).astype(np.float32)
    return weights


def _repeated(values: Array, size: int) -> Array:
    """Enlarge a coarse band onto the finest grid: each pixel takes the value of the coarse pixel at its centre."""
    if values.shape[0] == size:
        return values
    index = ((np.arange(size) + 0.5) * values.shape[0] / size).astype(np.intp)
    return values[index][:, index]


def _stored(values: Array, encoding: Encoding) -> Array:
    if encoding.transform == "power_to_db":
        values = 10 ** (values / 10)
    elif encoding.transform == "amplitude_to_db":
        values = 10 ** (values / 20)
    return (values - encoding.offset) / encoding.scale


def _stored_type(sensor: Sensor, encodings: list[Encoding]) -> np.dtype[Any]:
    units = {band.unit for band in sensor.bands}
    if units == {"count"}:
        return np.dtype(np.uint8)
    if all(own.scale == 1 for own in encodings):
        return np.dtype(np.float32)
    signed = "sigma0_db" in units or (sensor.nodata is not None and sensor.nodata < 0)
    return np.dtype(np.int16 if signed else np.uint16)
