"""Pictures of images for people: natural colour where a sensor sees it, else a composite that is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyband.errors import CatalogueError, InputError
from anyband.sensors.sensor import Sensor
from anyband.sensors.spectrum import RadarBeam
from anyband.shapes import Array, Bool, Float

__all__ = ["Composite", "composite", "picture"]

# chosen: 2 % and 98 % show structure without being led by a few bright roofs.
_PERCENTILES = (2.0, 98.0)
_MISSING = 1.0  # chosen: white, as paper


@dataclass(frozen=True, kw_only=True)
class Composite:
    """Which bands make red, green and blue."""

    channels: tuple[tuple[str, ...], ...]
    """Three of: (band,), or (band, band) for the difference of two."""
    title: str
    """What it shows, for a caption."""


def composite(sensor: Sensor) -> Composite:
    """Choose bands for a picture.

    Natural colour where the sensor has it; radar as co-polarised, cross-polarised and their difference; else
    three bands spread over the spectrum, the longest as red; of one or two bands the first in grey.
    """
    natural = _found(sensor, ("red", "green", "blue"))
    if natural is not None:
        return Composite(channels=tuple((name,) for name in natural), title="natural colour")
    for pair in (("VV", "VH"), ("HH", "HV")):
        radar = _found(sensor, pair)
        if radar is not None and isinstance(sensor.band(radar[0]).spectrum, RadarBeam):
            co, cross = radar
            return Composite(channels=((co,), (cross,), (co, cross)), title=f"{co}, {cross}, {co} − {cross}")
    by_wavelength = sorted(sensor.bands, key=lambda band: band.spectrum.center_nm, reverse=True)
    if len(by_wavelength) < 3:
        name = sensor.bands[0].name
        return Composite(channels=((name,),) * 3, title=name)
    names = tuple(by_wavelength[index].name for index in (0, len(by_wavelength) // 2, -1))
    return Composite(channels=tuple((name,) for name in names), title=", ".join(names))


def picture(
    physical: Float[Array, "band row col"],
    sensor: Sensor,
    *,
    valid: Bool[Array, "band row col"] | None = None,
    like: Float[Array, "band y x"] | None = None,
    percentiles: tuple[float, float] = _PERCENTILES,
    missing_grey: float = _MISSING,
) -> Float[Array, "row col colour"]:
    """Draw an image in the bands that `composite` chooses, each channel stretched between two percentiles.

    Args:
        physical: values in physical units, bands as in `sensor`.
        sensor: what the bands are.
        valid: which values have data; None: the finite ones.
        like: image whose percentiles are used, so that two pictures can be compared; None: this one.
        percentiles: that become black and full colour.
        missing_grey: drawn where a pixel lacks a shown band; NaN leaves that to who shows the picture.

    Returns:
        Colours in [0, 1].

    Raises:
        InputError: the array has another number of bands than the sensor.
    """
    _check(physical, sensor)
    known = np.isfinite(physical) if valid is None else np.isfinite(physical) & valid
    channels = composite(sensor).channels
    shown = np.stack([_channel(physical, sensor, names) for names in channels], axis=-1)
    missing = ~np.logical_and.reduce([known[sensor.band_index(name)] for names in channels for name in names])
    reference, usable = shown, ~missing
    if like is not None:
        _check(like, sensor)
        reference = np.stack([_channel(like, sensor, names) for names in channels], axis=-1)
        usable = np.isfinite(reference).all(axis=-1)
    stretched = _stretched(shown, reference[usable], percentiles)
    stretched[missing] = missing_grey
    return stretched


def _found(sensor: Sensor, names: Sequence[str]) -> tuple[str, ...] | None:
    try:
        return tuple(sensor.band(name).name for name in names)
    except CatalogueError:
        return None


def _channel(physical: Array, sensor: Sensor, names: tuple[str, ...]) -> Array:
    first = physical[sensor.band_index(names[0])]
    return np.asarray(first if len(names) == 1 else first - physical[sensor.band_index(names[1])])


def _stretched(shown: Array, reference: Array, percentiles: tuple[float, float]) -> Array:
    if not len(reference):
        return np.full(shown.shape, _MISSING, dtype=np.float32)
    low, high = np.percentile(reference.astype(np.float64), percentiles, axis=0)
    # A channel of one value is drawn as black, not divided by zero.
    span = np.where(high > low, high - low, 1.0)
    scaled: Array = np.clip(np.nan_to_num((shown - low) / span), 0, 1).astype(np.float32)
    return scaled


def _check(physical: Array, sensor: Sensor) -> None:
    if physical.shape[0] != len(sensor.bands):
        raise InputError(
            f"an image of '{sensor.name}' has {len(sensor.bands)} bands, found an array of shape {physical.shape}"
        )
