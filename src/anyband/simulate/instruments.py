"""Instruments: atmosphere, radar, noise and products."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np

from anyband.arrays import Array, Bool, Float, Num
from anyband.errors import CatalogueError
from anyband.sensors.sensor import Band, OpticalRange, RadarBeam, Sensor
from anyband.simulate.plan import Frame, fractal_noise, load_materials, material_names, read_table
from anyband.simulate.surface import (
    Surface,
    band_mean,
    brightness_temperature_k,
    material_emission,
    material_reflectance,
    planck_radiance,
    response_weights,
    sunlight_radiance,
)

__all__ = [
    "Sky",
    "area_mean",
    "clear_sky",
    "draw_sky",
    "encode",
    "noise_of",
    "observe",
    "speckle",
    "stored_nodata",
    "stored_type",
    "swath",
]

# chosen: fair-weather clouds cover this much of a footprint where there are any, at this height.
_CLOUD_COVER = (0.05, 0.45)
_CLOUD_BASE_M = (250.0, 600.0)
_CLOUD_SHADOW = 0.55  # chosen: share of the light that a thick cloud takes from the ground in its shadow

# chosen: haze that is left after correction of the atmosphere: share of scattered light at 550 nm, its
# brightness, and the exponent by which it falls with wavelength; and the error of calibration.
_HAZE_SPREAD = 0.015
_HAZE_BRIGHTNESS = 0.35
_HAZE_EXPONENT = 1.5
_GAIN_SPREAD = 0.02


@dataclass(frozen=True, kw_only=True)
class Sky:
    """The air over a place during one acquisition."""

    cloud: Float[Array, "row col"]
    """Opacity of clouds, 0 to 1."""
    light: Float[Array, "row col"]
    """Sunlight left in the shadow of clouds, 0 to 1."""
    haze: float
    """Share of scattered light at 550 nm."""
    gain: float
    """Error of calibration, a factor."""


def clear_sky(frame: Frame) -> Sky:
    """Make a sky with nothing in it."""
    shape = (frame.num_pixels,) * 2
    return Sky(cloud=np.zeros(shape, dtype=np.float32), light=np.ones(shape, dtype=np.float32), haze=0.0, gain=1.0)


def draw_sky(rng: np.random.Generator, frame: Frame, sun: tuple[float, float], *, cloudy: bool) -> Sky:
    """Draw the air of one acquisition; clouds throw shadows away from the sun."""
    haze = abs(float(rng.normal(0, _HAZE_SPREAD)))
    gain = 1 + float(rng.normal(0, _GAIN_SPREAD))
    if not cloudy:
        return replace(clear_sky(frame), haze=haze, gain=gain)
    # Drawn on a wider frame, so that clouds outside the footprint can throw their shadows into it.
    margin = frame.num_pixels // 2
    wide = Frame(footprint_m=(frame.num_pixels + 2 * margin) * frame.detail_m, detail_m=frame.detail_m)
    surface = fractal_noise(rng, wide, longest_m=320.0, shortest_m=20.0, roughness=0.55)
    edge = np.quantile(surface[::4, ::4], 1 - rng.uniform(*_CLOUD_COVER))
    opacity = np.clip((surface - np.float32(edge)) / np.float32(0.5), 0, 1)
    shift = rng.uniform(*_CLOUD_BASE_M) / np.tan(np.radians(max(sun[0], 25.0))) / frame.detail_m
    azimuth = np.radians(sun[1])
    away = (round(float(np.cos(azimuth)) * shift), round(-float(np.sin(azimuth)) * shift))
    return Sky(
        cloud=_cut(opacity, margin, frame.num_pixels, (0, 0)),
        light=1 - np.float32(_CLOUD_SHADOW) * _cut(opacity, margin, frame.num_pixels, away),
        haze=haze,
        gain=gain,
    )


def _hazy(
    reflectance: Float[Array, "material wavelength"], wavelength_nm: Float[Array, " wavelength"], sky: Sky
) -> Array:
    """See reflectances through the haze of a sky; blue suffers most, nothing changes beyond 2500 nm."""
    share = np.minimum(sky.haze * (550.0 / wavelength_nm) ** _HAZE_EXPONENT, 1.0)
    seen = sky.gain * (reflectance * (1 - share) + _HAZE_BRIGHTNESS * share)
    return np.where(wavelength_nm <= 2500.0, np.clip(seen, 0, 1), reflectance)


def swath(rng: np.random.Generator, num_pixels: int) -> Bool[Array, "row col"]:
    """Draw the slanted edge of a swath: True inside; up to a third of the footprint lies outside."""
    angle = rng.uniform(0, 2 * np.pi)
    position = np.arange(num_pixels) / num_pixels - 0.5
    across = np.sin(angle) * position[:, None] + np.cos(angle) * position[None, :]
    return np.asarray(across < np.quantile(across, 1 - rng.uniform(0.05, 0.33)))


def _cut(opacity: Array, margin: int, size: int, away: tuple[int, int]) -> Array:
    """Take the footprint out of the wide frame, after moving what is there by (rows, cols)."""
    row, col = (int(np.clip(margin - step, 0, 2 * margin)) for step in away)
    return opacity[row : row + size, col : col + size]


# Where the table of backscatter is taken to hold. Source: IEEE Std 521-2019, letter bands.
_C_BAND_GHZ = (4.0, 8.0)

# chosen: incidence of 37 degrees, the middle of the IW swath of Sentinel-1, looking from the west.
_INCIDENCE_DEG = 37.0


def _material_sigma0(surface: Surface, beam: RadarBeam) -> Float[Array, " present"]:
    """Give the linear backscatter of the materials that are present; the beam must be C band."""
    levels_db = [material["sigma0_db"] for material in load_materials().values()]
    known = sorted({name for level_db in levels_db for name in level_db})
    if not _C_BAND_GHZ[0] <= beam.frequency_ghz <= _C_BAND_GHZ[1] or beam.polarisation not in known:
        raise CatalogueError(
            f"the simulator knows backscatter at C band ({_C_BAND_GHZ[0]:g} to {_C_BAND_GHZ[1]:g} GHz) in "
            f"{' and '.join(known)}, requested were {beam.frequency_ghz:g} GHz {beam.polarisation}; "
            "use 'sentinel1-grd'"
        )
    sigma0_db = np.array([level_db.get(beam.polarisation, -np.inf) for level_db in levels_db])
    return np.asarray(10 ** ((sigma0_db + surface.palette[2]) / 10))[list(surface.materials)]


def _slope_gain(surface: Surface) -> Float[Array, "row col"]:
    """Compute how much more power slopes facing the radar send back than flat ground. chosen: power falls with the
    tangent of the local incidence angle, kept within a factor of 2."""
    landscape = surface.landscape
    toward_radar = -np.gradient(landscape.relief_m, landscape.frame.detail_m, axis=1)
    incidence = np.radians(_INCIDENCE_DEG)
    local = np.clip(incidence + np.arctan(toward_radar), np.radians(10), np.radians(80))
    return np.asarray(np.clip(np.tan(incidence) / np.tan(local), 0.5, 2.0), dtype=np.float32)


def speckle(rng: np.random.Generator, shape: tuple[int, ...], *, looks: float) -> Float[Array, "..."]:
    """Draw multiplicative speckle of intensity: gamma with mean 1 and variance 1 / looks. Source: Ulaby and Long,
    Microwave Radar and Radiometric Remote Sensing (2014), fading of multi-look power."""
    return (rng.standard_gamma(looks, shape, dtype=np.float32) / np.float32(looks)).astype(np.float32)


def encode(
    values: Float[Array, "band row col"], sensor: Sensor, valid: Bool[Array, "row col"]
) -> Num[Array, "band row col"]:
    """Turn physical values into digital numbers of a sensor's products; what is not valid is nodata, which must exist.
    A measured number that would equal nodata moves by one."""
    name = sensor.default_encoding
    dtype, nodata = stored_type(sensor, encoding=name), stored_nodata(sensor, encoding=name)
    if nodata is None and not valid.all():
        raise CatalogueError(f"sensor '{sensor.name}' has no nodata value, so its images can't have an edge")
    stored = np.stack([band.encoding(name).encode(plane) for plane, band in zip(values, sensor.bands, strict=True)])
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        stored = np.clip(np.rint(stored), limits.min, limits.max)
        if nodata is not None:
            stored[stored == nodata] = nodata + 1
    if nodata is not None:
        stored[:, ~valid] = nodata
    return stored.astype(dtype)


def stored_type(sensor: Sensor, *, encoding: str) -> np.dtype[Any]:
    """Choose the type of the digital numbers, which the catalogue does not declare. Bytes for pictures, float32 where
    nothing is scaled, else 16 bits: signed for decibels and negative nodata."""
    units = {band.unit for band in sensor.bands}
    if units == {"count"}:
        return np.dtype(np.uint8)
    if all(band.encoding(encoding).scale == 1 for band in sensor.bands):
        return np.dtype(np.float32)
    signed = "sigma0_db" in units or (sensor.nodata is not None and sensor.nodata < 0)
    return np.dtype(np.int16 if signed else np.uint16)


def stored_nodata(sensor: Sensor, *, encoding: str) -> float | None:
    """Tell what stands for "no data": the sensor's number, NaN in floats without one, else None."""
    if sensor.nodata is None and stored_type(sensor, encoding=encoding).kind == "f":
        return float("nan")
    return sensor.nodata


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


class _View:
    """A surface under a sky, averaged over pixels of any size, each average taken once."""

    def __init__(self, surface: Surface, sky: Sky) -> None:
        """Look at nothing yet. To an optical sensor clouds are one of the materials."""
        self.surface, self.sky = surface, sky
        cloud = [material_names().index("cloud")] if sky.cloud.any() else []
        self.materials = [*surface.materials, *cloud]
        self._averages: dict[tuple[str, float], Array] = {}

    def share(self, kind: Literal["present", "lit", "sending"], gsd_m: float) -> Array:
        """Give the share of each material: `present` by area, `lit` times the sunlight that falls on it, or `sending`
        below the clouds, times the gain of its slope towards a radar."""
        if (kind, gsd_m) not in self._averages:
            self._averages[kind, gsd_m] = area_mean(self._fine(kind), self.surface.landscape.frame, gsd_m=gsd_m)
        return self._averages[kind, gsd_m]

    def _fine(self, kind: str) -> Array:
        if kind == "sending":
            return np.asarray(self.surface.abundance * _slope_gain(self.surface))
        light = self.surface.shade * self.sky.light if kind == "lit" else np.float32(1)
        if not self.sky.cloud.any():
            return np.asarray(self.surface.abundance * light)
        ground = self.surface.abundance * ((1 - self.sky.cloud) * light)
        return np.concatenate([ground, self.sky.cloud[None]])


@cache
def noise_of(sensor_name: str) -> dict[str, Any]:
    """Look up the noise of a sensor, or the default. `snr`: signal-to-noise ratio at a reflectance of 0.1 of optical
    bands not in `snr_of_band`; `noise_k`: standard deviation of thermal bands; `looks`: equivalent number of looks of
    radar bands."""
    table = read_table("instruments.yaml")
    row = table["sensors"].get(sensor_name, {})
    return {**table["default"], **row, "snr": table["default"]["snr"], "snr_of_band": row.get("snr", {})}


def observe(
    surface: Surface, sensor: Sensor, sky: Sky, rng: np.random.Generator | None
) -> Float[Array, "band row col"]:
    """Measure a surface with every band of a sensor: float32 in the bands' physical units; without `rng` no noise. Each
    band is averaged over its own pixels and repeated onto the sensor's finest grid, as products usually are. Thermal
    bands give the brightness temperature of the ground. Radar does not notice the sky."""
    view, noise = _View(surface, sky), noise_of(sensor.name)
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


def _measured(view: _View, band: Band, noise: Mapping[str, Any], rng: np.random.Generator | None) -> Array:
    if isinstance(band.spectrum, RadarBeam):
        power = _mixed(_material_sigma0(view.surface, band.spectrum), view.share("sending", band.gsd_m))
        if rng is not None:
            power = power * speckle(rng, power.shape, looks=noise["looks"])
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
    seen = _hazy(curves, wavelength_nm, view.sky)
    if band.unit in ("reflectance", "count"):
        return _mixed(band_mean(spectrum, seen), view.share("lit", band.gsd_m))
    sunlight = sunlight_radiance(wavelength_nm, view.surface.sun[0])
    radiance = _mixed(band_mean(spectrum, seen * sunlight), view.share("lit", band.gsd_m))
    if spectrum.high_nm > _EMISSION_FROM_NM:
        emission = material_emission(spectrum, curves, view.surface.temperature_k[view.materials])
        radiance = radiance + _mixed(emission, view.share("present", band.gsd_m))
    return brightness_temperature_k(spectrum, radiance) if band.unit == "kelvin" else radiance


def _noise_level(view: _View, band: Band, spectrum: OpticalRange, noise: Mapping[str, Any]) -> float:
    """Give the standard deviation of a band's noise in its unit (of a picture, before it is one)."""
    if band.unit == "kelvin":
        return float(noise["noise_k"])
    share = 1 / float(noise["snr_of_band"].get(band.name, noise["snr"]))
    if band.unit != "radiance":
        return share * _REFERENCE_REFLECTANCE
    wavelength_nm, _ = response_weights(spectrum)
    sunlight = sunlight_radiance(wavelength_nm, view.surface.sun[0])
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
