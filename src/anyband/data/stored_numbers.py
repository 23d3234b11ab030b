"""Physical units to the numbers that files store: the way back from `harmonise`."""

from typing import Any

import numpy as np

from anyband.data.harmonise import Normalisation
from anyband.errors import InputError
from anyband.shapes import Array, Float, Num

__all__ = ["can_hold", "rounded_into", "to_stored"]


def to_stored(physical: Float[Array, "band row col"], n: Normalisation) -> Float[Array, "band row col"]:
    """Encode physical units as numbers to store, float64 and not rounded: the inverse of `harmonise.to_physical`.

    Args:
        physical: reflectance, decibel, kelvin, …
        n: of these bands, in this order.

    Raises:
        InputError: another number of bands.
    """
    if len(physical) != len(n.bands):
        raise InputError(f"'{n.sensor}' has {len(n.bands)} bands here, found an array of shape {physical.shape}")
    return np.stack([_encoded(band.astype(np.float64), n, index) for index, band in enumerate(physical)])


def _encoded(physical: Array, n: Normalisation, index: int) -> Array:
    transform, linear = n.transform[index], physical
    if transform == "brightness_temperature":
        linear = n.k1[index] / np.expm1(n.k2[index] / physical)
    elif transform != "identity":
        linear = 10.0 ** (physical / (10.0 if transform == "power_to_db" else 20.0))
    return np.asarray((linear - n.offset[index]) / n.scale[index])


def rounded_into(
    stored: Float[Array, "band row col"], dtype: str, *, nodata: float | None
) -> Num[Array, "band row col"]:
    """Bring numbers into a type: rounded and clipped to it, and never the number that means "no data".

    A number that would be `nodata` becomes the next one that the type holds, on the side of the true one.

    Args:
        stored: finite.
        dtype: NumPy name of the type.
        nodata: stored number that means "no data"; None, NaN or one that the type can't hold: none.
    """
    kind: np.dtype[Any] = np.dtype(dtype)
    low, high = _limits(kind)
    whole = stored if kind.kind == "f" else np.rint(stored)
    numbers: Array = whole.clip(low, high).astype(kind)
    if nodata is None or nodata != nodata or not can_hold(dtype, nodata):
        return numbers
    below, above = _neighbours(kind, nodata)
    beside = np.where((stored > nodata) & (above <= high) | (below < low), above, below).astype(kind)
    return np.where(numbers == kind.type(nodata), beside, numbers)


def _limits(kind: np.dtype[Any]) -> tuple[float, float]:
    limits: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    return float(limits.min), float(limits.max)


def can_hold(dtype: str, number: float) -> bool:
    """Tell whether a number is one of a type; NaN and infinity are of floats.

    Args:
        dtype: NumPy name of the type.
        number: any.
    """
    kind: np.dtype[Any] = np.dtype(dtype)
    low, high = _limits(kind)
    if kind.kind == "f":
        return bool(low <= number <= high or not np.isfinite(number))
    return bool(low <= number <= high and number == int(number))


def _neighbours(kind: np.dtype[Any], nodata: float) -> tuple[float, float]:
    if kind.kind != "f":
        return nodata - 1, nodata + 1
    value = kind.type(nodata)
    return float(np.nextafter(value, -np.inf, dtype=kind)), float(np.nextafter(value, np.inf, dtype=kind))
