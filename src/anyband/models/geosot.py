"""GeoSOT-2D codes of angles: which cell of a global grid of 32 levels a longitude or latitude falls into, exactly."""

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Float, Num

__all__ = ["BITS", "corner_bits", "geosot_codes"]

BITS = 32
"""Levels of a code, one bit each."""

# Source: GeoSOT-2D as in A²-MAE (arXiv 2406.08079): a sign, 8 bits of degrees, 6 of minutes, 6 of seconds, 11 of the
# 2048ths of a second.
_MINUTE_BITS, _SECOND_BITS, _FRACTION_BITS = 6, 6, 11
_FRACTIONS_A_SECOND = 2**_FRACTION_BITS
_FRACTIONS_A_MINUTE = 60 * _FRACTIONS_A_SECOND
_FRACTIONS_A_DEGREE = 60 * _FRACTIONS_A_MINUTE
# 60 · 60 · 2048 = 225 · 2^15, and 225 times a significand of 53 bits still fits into 63: the product is not rounded.
_ODD_FACTOR, _TWOS = 225, 15
_SIGNIFICAND_BITS = 53
_HALF_TURN_DEG, _QUARTER_TURN_DEG = 180.0, 90.0


def geosot_codes(angle_deg: Float[Array, "*shape"], *, level: int = BITS) -> Num[Array, "*shape"]:
    """Compute the codes of angles, most significant bit first; nothing is rounded on the way.

    A float is an exact ratio of integers, and so is treated as one. The code of a negative angle is that of its
    opposite with the sign bit set. A code of level n is the code of level 32 with all but its leading n bits 0.

    Args:
        angle_deg: longitudes or latitudes, −180 to 180 degrees.
        level: leading bits that are kept, 1 to 32.

    Returns:
        One code for each angle.

    Raises:
        InputError: an angle that is unknown or out of range, or a level that is not there.

    Source:
        A²-MAE (arXiv 2406.08079).
    """
    if not 1 <= level <= BITS:
        raise InputError(f"a GeoSOT code has levels 1 to {BITS}, found level {level}")
    angle = np.asarray(angle_deg, dtype=np.float64)
    if np.isnan(angle).any():
        raise InputError("an unknown angle (NaN) has no GeoSOT code; leave it out")
    _check_range(angle, "angle", _HALF_TURN_DEG)
    code = _packed(_fractions(np.abs(angle))) | (angle < 0).astype(np.int64) << (BITS - 1)
    dropped = BITS - level
    return np.asarray(code >> dropped << dropped).astype(np.uint32)


def corner_bits(lonlat_deg: Float[Array, "*shape 4 2"]) -> Float[Array, "*shape 256"]:
    """Write the corners of images as bits: 32 for each longitude and latitude, most significant first.

    That the corners are upper left, upper right, lower right, lower left is our reading of A²-MAE's intent.

    Args:
        lonlat_deg: longitude and latitude of the corners, degrees; NaN where unknown.

    Returns:
        float32: longitude, then latitude of each corner in turn, 0 or 1; NaN where the angle is unknown.

    Raises:
        InputError: a longitude outside ±180 or a latitude outside ±90 degrees.
    """
    angle = np.asarray(lonlat_deg, dtype=np.float64)
    _check_range(angle[..., 0], "longitude", _HALF_TURN_DEG)
    _check_range(angle[..., 1], "latitude", _QUARTER_TURN_DEG)
    unknown = np.isnan(angle)
    codes = geosot_codes(np.where(unknown, 0.0, angle))
    # The bytes of a big-endian integer stand in the order of its bits.
    octets = np.ascontiguousarray(codes.astype(">u4")[..., None]).view(np.uint8)
    bits = np.unpackbits(octets, axis=-1).astype(np.float32)
    bits[unknown] = np.nan
    return bits.reshape(*angle.shape[:-2], 8 * BITS)


def _fractions(angle_deg: Array) -> Array:
    """Count the whole 2048ths of a second in angles that are not negative."""
    share, exponent = np.frexp(angle_deg)
    significand = np.ldexp(share, _SIGNIFICAND_BITS).astype(np.int64)
    # An angle under 256° has an exponent of 8 at most, so the shift is to the right; past 63 bits nothing is left.
    shift = np.minimum(_SIGNIFICAND_BITS - _TWOS - exponent, 63).astype(np.int64)
    return np.asarray(significand * _ODD_FACTOR >> shift)


def _packed(fractions: Array) -> Array:
    degrees = fractions // _FRACTIONS_A_DEGREE
    minutes = fractions // _FRACTIONS_A_MINUTE % 60
    seconds = fractions // _FRACTIONS_A_SECOND % 60
    whole = (degrees << _MINUTE_BITS | minutes) << _SECOND_BITS | seconds
    return np.asarray(whole << _FRACTION_BITS | fractions % _FRACTIONS_A_SECOND)


def _check_range(angle_deg: Array, name: str, limit_deg: float) -> None:
    outside = angle_deg[np.abs(angle_deg) > limit_deg]
    if outside.size:
        raise InputError(
            f"{name} {outside.flat[0]:g} is outside −{limit_deg:g} to {limit_deg:g} degrees "
            f"({outside.size} of {angle_deg.size}); give longitude (east) before latitude (north), in degrees"
        )
