"""The numbers that products store: scaled, rounded, with nodata where nothing was seen."""

from typing import Any

import numpy as np

from anyband.errors import CatalogueError
from anyband.sensors.sensor import Encoding, Sensor
from anyband.shapes import Array, Bool, Float, Num

__all__ = ["encode", "stored_nodata", "stored_type"]


def encode(
    values: Float[Array, "band row col"],
    sensor: Sensor,
    valid: Bool[Array, "row col"],
    *,
    encoding: str | None = None,
) -> Num[Array, "band row col"]:
    """Turn physical values into the numbers that a sensor's products store; what is not valid is nodata.

    A measured number that would equal nodata moves by one.

    Args:
        values: in the units of the bands.
        sensor: whose products are meant.
        valid: False beyond the edge of the swath.
        encoding: one that the sensor declares; None: its default.

    Returns:
        Numbers of `stored_type`.

    Raises:
        CatalogueError: no such encoding, or the sensor has no nodata and not everything is valid.
    """
    name = encoding or sensor.default_encoding
    dtype, nodata = stored_type(sensor, encoding=name), stored_nodata(sensor, encoding=name)
    if nodata is None and not valid.all():
        raise CatalogueError(f"sensor '{sensor.name}' has no nodata value, so its images can't have an edge")
    stored = np.stack([_scaled(plane, band.encoding(name)) for plane, band in zip(values, sensor.bands, strict=True)])
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        stored = np.clip(np.rint(stored), limits.min, limits.max)
        if nodata is not None:
            stored[stored == nodata] = nodata + 1
    if nodata is not None:
        stored[:, ~valid] = nodata
    return stored.astype(dtype)


def stored_type(sensor: Sensor, *, encoding: str) -> np.dtype[Any]:
    """Choose the type of the stored numbers, which the catalogue does not declare.

    Bytes for pictures, float32 where nothing is scaled, else 16 bits: signed for decibels and where nodata is
    negative.
    """
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


def _scaled(values: Array, encoding: Encoding) -> Array:
    """Undo the decoding of an encoding over a whole band; `Encoding.encode` does it for one number."""
    if encoding.transform == "power_to_db":
        values = 10 ** (values / 10)
    elif encoding.transform == "amplitude_to_db":
        values = 10 ** (values / 20)
    elif encoding.transform == "brightness_temperature":
        values = encoding.k1 / np.expm1(encoding.k2 / values)
    return np.asarray((values - encoding.offset) / encoding.scale)
