"""Encodings of position, ground, resolution and date."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Array, Bool, Float, Num, to_device
from anyband.errors import InputError, counted
from anyband.models.inputs import SetBatch, SetMetadata

__all__ = [
    "BITS",
    "DAY_FEATURES",
    "NO_ENCODINGS",
    "RESOLUTION_FEATURES",
    "YEAR_FEATURES",
    "EncodingConfig",
    "EncodingRole",
    "GeographicKind",
    "PositionKind",
    "SetEncodings",
    "corner_bits",
    "day_features",
    "geosot_codes",
    "image_shares",
    "resolution_features",
    "sincos_positions",
    "spherical_harmonics",
    "year_features",
]

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
    """Compute the codes of angles, −180 to 180 degrees (else, or where NaN, an `InputError`), most significant bit
    first; nothing is rounded on the way. A negative angle has the code of its opposite with the sign bit set; level n,
    1 to 32, keeps the leading n bits of 32. Source: A²-MAE (arXiv 2406.08079)."""
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
    """Write the corners of images, degrees within ±180 and ±90 (else an `InputError`), as bits, float32: 32 for each
    longitude, then latitude, most significant first; NaN where unknown. That the corners are upper left, upper right,
    lower right, lower left is our reading of A²-MAE's intent."""
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


PositionKind = Literal["fixed", "trained"]
GeographicKind = Literal["none", "a2mae"]


@dataclass(frozen=True, kw_only=True)
class EncodingConfig:
    """What tokens carry beside their position in the grid. All off: SMARTIES."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    geographic: GeographicKind = "none"
    """a2mae: the anchor's corners and positions scaled by ground resolution, instead of the grid's positions."""
    place: bool = False
    """Longitude and latitude of each image, as spherical harmonics."""
    resolution: bool = False
    """Ground sampling distance of each image."""
    date: bool = False
    """Day of the year as a circle and year as a line, of each image."""
    source: bool = False
    """What each image's sensor sees of the trained ranges."""


NO_ENCODINGS = EncodingConfig()

# Source: Vaswani et al., "Attention is all you need" (arXiv 1706.03762), section 3.5.
_BASE = 10_000.0


def sincos_positions(
    rows: int, cols: int, width: int, gsd_m: Float[Tensor, "*image"] | None = None
) -> Float[Tensor, "*image token width"]:
    """Compute the positions of a grid, row by row: half of a vector from the column, half from the row.

    Each half is the sines of index · 10000^(−i / (width / 4)), then the cosines; `width` is a multiple of 4. With
    `gsd_m` (finite) an index is times the ground resolution of the input pixels over 1 m, so that equal distances on
    the ground turn by equal angles.

    Source:
        Masked autoencoders (arXiv 2111.06377), whose fixed positions count columns first; A²-MAE (arXiv 2406.08079) for
        `gsd_m`. That the resolution is that of the input pixels is our reading of its intent.
    """
    scale = torch.ones(()) if gsd_m is None else gsd_m
    frequency = _BASE ** (-torch.arange(width // 4, dtype=torch.float64, device=scale.device) / (width / 4))
    # A half depends on its own axis only, so that sines are taken of rows + cols indices, not of all tokens.
    halves = []
    for count in (cols, rows):
        index = torch.arange(count, dtype=torch.float64, device=scale.device)
        angle = (scale.double()[..., None] * index)[..., None] * frequency
        halves.append(torch.cat([angle.sin(), angle.cos()], dim=-1).float())
    across = halves[0].unsqueeze(-3).expand(*scale.shape, rows, -1, -1)
    down = halves[1].unsqueeze(-2).expand(*scale.shape, -1, cols, -1)
    return torch.cat([across, down], dim=-1).flatten(-3, -2)


# Source: the mean Gregorian year. Every day of a leap year then still has a phase of its own on the circle.
_DAYS_A_YEAR = 365.2425
# chosen: four harmonics tell seasons down to about a month, which is what vegetation and snow need.
_DAY_HARMONICS = 4
DAY_FEATURES = 2 * _DAY_HARMONICS
"""Numbers for a day of the year."""

# chosen: the years of today's archives then lie between about −1 and 1, and those of the first Landsat near −5.
_YEAR_ORIGIN, _YEARS_A_UNIT = 2020.0, 10.0
YEAR_FEATURES = 1
"""Numbers for a year."""

# chosen: the longest period holds 1 cm to 10 km without repeating; the shortest tells 10 m from 15 m well.
_OCTAVES_A_PERIOD = (40.0, 20.0, 10.0, 5.0)
# chosen: the straight part is 1 at 1 km.
_OCTAVES_A_UNIT = 10.0
RESOLUTION_FEATURES = 1 + 2 * len(_OCTAVES_A_PERIOD)
"""Numbers for a ground sampling distance."""


def day_features(day_of_year: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write finite days since the year began as points on circles, once to four times round, so that years join."""
    turns = day_of_year.double() / _DAYS_A_YEAR
    harmonic = torch.arange(1, _DAY_HARMONICS + 1, device=turns.device, dtype=torch.float64)
    angle = 2 * math.pi * turns[..., None] * harmonic
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def year_features(year: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write a year as a line: decades since 2020."""
    return ((year.double() - _YEAR_ORIGIN) / _YEARS_A_UNIT)[..., None]


def resolution_features(gsd_m: Float[Tensor, "*image"]) -> Float[Tensor, "*image feature"]:
    """Write metres over 0 as float64: a line, sines and cosines of their octaves. Equal ratios are equal steps."""
    octaves = gsd_m.double().log2()[..., None]
    period = to_device(torch.tensor(_OCTAVES_A_PERIOD, dtype=torch.float64), octaves.device)
    angle = 2 * math.pi * octaves / period
    return torch.cat([octaves / _OCTAVES_A_UNIT, angle.sin(), angle.cos()], dim=-1)


def spherical_harmonics(
    lon_deg: Float[Tensor, "*image"], lat_deg: Float[Tensor, "*image"], *, degree: int
) -> Float[Tensor, "*image feature"]:
    """Compute the real spherical harmonics of points (finite degrees) on the globe, up to a degree from 0.

    They are smooth everywhere, at poles and ±180° too. Their mean square over the sphere is 1, and so is that of those
    of one degree at any point. The recursion over degrees at fixed order loses no digits.

    Returns:
        float64, (degree + 1)² of them: for each degree the cosines of orders 0, 1, …, then the sines of 1, 2, ….

    Source:
        Rußwurm et al., "Geographic location encoding with spherical harmonics and sinusoidal representation networks",
        ICLR 2024, for their use; Holmes and Featherstone, "A unified approach to the Clenshaw summation and the
        recursive computation of very high degree and order normalised associated Legendre functions", Journal of
        Geodesy 76 (2002), equations 11 to 13, for the recursion.
    """
    legendre = _legendre(torch.deg2rad(lat_deg.double()), degree)
    order = torch.arange(degree + 1, device=lon_deg.device, dtype=torch.float64)
    angle = torch.deg2rad(lon_deg.double())[..., None] * order
    cosine, sine = angle.cos(), angle.sin()
    parts = []
    for row, values in enumerate(legendre):
        parts += [(values * cosine)[..., : row + 1], (values * sine)[..., 1 : row + 1]]
    return torch.cat(parts, dim=-1)


def _legendre(latitude: Tensor, degree: int) -> list[Tensor]:
    """Compute for each degree the normalised associated Legendre functions of orders 0 to `degree`, 0 where over it."""
    first, second, sectoral = (to_device(table, latitude.device) for table in _legendre_factors(degree))
    height, breadth = latitude.sin()[..., None], latitude.cos()[..., None]
    order = torch.arange(degree + 1, device=latitude.device, dtype=torch.float64)
    # Functions of an order equal to the degree start each column; a power of 0 is 1 at the poles too.
    diagonal = sectoral * breadth**order
    before = torch.zeros_like(diagonal)
    values = functional.pad(diagonal[..., :1], (0, degree))
    found = [values]
    for row in range(1, degree + 1):
        start = functional.pad(diagonal[..., row : row + 1], (row, degree - row))
        before, values = values, first[row] * height * values - second[row] * before + start
        found.append(values)
    return found


@cache
def _legendre_factors(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.zeros(degree + 1, degree + 1, dtype=torch.float64)
    second = torch.zeros_like(first)
    sectoral = torch.ones(degree + 1, dtype=torch.float64)
    for n in range(1, degree + 1):
        sectoral[n] = sectoral[n - 1] * math.sqrt(3 if n == 1 else (2 * n + 1) / (2 * n))
        for m in range(n):
            shared = (2 * n + 1) / ((n - m) * (n + m))
            first[n, m] = math.sqrt(shared * (2 * n - 1))
            if m < n - 1:
                second[n, m] = math.sqrt(shared * (n + m - 1) * (n - m - 1) / (2 * n - 3))
    return first, second, sectoral


EncodingRole = Literal["encoder", "decoder"]

# chosen: details of about 2000 km, so that a place tells its climate and is not learned by heart.
_PLACE_DEGREE = 10
# Source: A²-MAE (arXiv 2406.08079), whose positions are those of masked autoencoders at 1 m.
_REFERENCE_GSD_M = 1.0
# Source: ISO 8601, whose years have four digits; a number far beyond would make gradients overflow.
_MOST_YEARS = 9999
# Source: A²-MAE composes the positions of three images; the corners of an image have eight codes of 32 bits.
_COMPOSED_IMAGES, _CODE_BITS, _CODES = 3, 32, 8


class SetEncodings(nn.Module):
    """Encode what is known of each image.

    Equal metadata give equal encodings, whatever else stands in the batch; everything is finite for any input. A
    resolution that is not over 0 counts as unknown, and so does a year beyond ±9999.

    `geographic: a2mae` holds the positions of the tokens too, scaled by ground resolution. In the encoder all images of
    a set get the same: a quarter of the width from the anchor's corners and from each of three images. In the decoder
    each image has its own, over the whole width. Where nothing tells images apart (two dates of one source, other
    switches off), a place masked in both decodes to the same token: switch on `date`, or encode images one by one.

    Raises:
        InputError: all encodings are off, or `width` is no multiple of 32 (of 4 but for `a2mae` in the encoder).

    Source:
        A²-MAE (arXiv 2406.08079) for `geographic`. That the resolution is that of the input pixels, the order of the
        corners and the leading bits at widths other than 1024 are our reading of its intent. The vectors of what is not
        known or absent are ours, and so are all other encodings.
    """

    def __init__(self, config: EncodingConfig, *, width: int, num_ranges: int, role: EncodingRole) -> None:
        super().__init__()
        if config == NO_ENCODINGS:
            raise InputError("encodings were asked for with all of them off; switch one on or leave them out")
        self.config = config
        self.geographic: _ComposedPositions | _OwnPositions | None = None
        if config.geographic == "a2mae":
            self.geographic = _ComposedPositions(width) if role == "encoder" else _OwnPositions(width)
        self.place = _Known((_PLACE_DEGREE + 1) ** 2, width) if config.place else None
        self.gsd = _Known(RESOLUTION_FEATURES, width) if config.resolution else None
        self.input_gsd = _Known(RESOLUTION_FEATURES, width) if config.resolution else None
        self.day = _Known(DAY_FEATURES, width) if config.date else None
        self.year = _Known(YEAR_FEATURES, width) if config.date else None
        self.source = _Sources(num_ranges, width) if config.source else None

    def forward(
        self, grid: tuple[int, int], metadata: SetMetadata | None, shares: Float[Tensor, "set slot range"]
    ) -> Float[Tensor, "set slot #token width"]:
        """Compute what is added to each image, or to each token where `geographic` holds the positions. `InputError`:
        more images than A²-MAE composes, or metadata of other sets than `shares`."""
        num_sets, num_slots = shares.shape[:2]
        if metadata is None:
            metadata = SetMetadata.unknown(num_sets, num_slots, device=shares.device)
        if metadata.gsd_m.shape != (num_sets, num_slots):
            found = " × ".join(str(count) for count in metadata.gsd_m.shape)
            raise InputError(
                f"metadata of {found} images were given for {counted(num_sets, 'set')} of {counted(num_slots, 'image')}"
            )
        parts = [part.unsqueeze(2) for part in self._image_parts(metadata, shares)]
        if self.geographic is not None:
            parts.append(self.geographic(grid, metadata))
        return sum(parts[1:], start=parts[0])

    def _image_parts(self, metadata: SetMetadata, shares: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        if self.place is not None:
            known = metadata.lonlat_deg.isfinite().all(dim=-1)
            lonlat_deg = torch.where(known[..., None], metadata.lonlat_deg, 0.0)
            harmonics = spherical_harmonics(lonlat_deg[..., 0], lonlat_deg[..., 1], degree=_PLACE_DEGREE)
            parts.append(self.place(harmonics, known))
        for part, gsd_m in ((self.gsd, metadata.gsd_m), (self.input_gsd, metadata.input_gsd_m)):
            if part is not None:
                known = _known_gsd(gsd_m)
                parts.append(part(resolution_features(torch.where(known, gsd_m, _REFERENCE_GSD_M)), known))
        if self.day is not None:
            known = metadata.day_of_year.isfinite()
            parts.append(self.day(day_features(torch.where(known, metadata.day_of_year, 0.0)), known))
        if self.year is not None:
            known = metadata.year.abs() <= _MOST_YEARS
            parts.append(self.year(year_features(torch.where(known, metadata.year, 0.0)), known))
        if self.source is not None:
            parts.append(self.source(shares))
        return parts


class _Known(nn.Module):
    """A linear map of what is known, and a trained vector for what is not."""

    def __init__(self, num_features: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, width)
        self.unknown_token = nn.Parameter(torch.empty(1, width))

    def forward(
        self, features: Float[Tensor, "set slot feature"], known: Bool[Tensor, "set slot"]
    ) -> Float[Tensor, "set slot width"]:
        # Features are finite where nothing is known too: a NaN that is not chosen would still reach the gradient.
        mapped = self.linear(features.to(self.linear.weight.dtype))
        return torch.where(known[..., None], mapped, self.unknown_token.to(mapped.dtype))


class _Sources(nn.Module):
    """A trained vector for each range; a sensor has the mean over what its bands see, and so has a new one."""

    def __init__(self, num_ranges: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_ranges, width))

    def forward(self, shares: Float[Tensor, "set slot range"]) -> Float[Tensor, "set slot width"]:
        return shares.to(self.weight.dtype) @ self.weight


class _OwnPositions(nn.Module):
    """Positions at each image's own ground resolution; at 1 m, with a trained vector, where it is not known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gsd_token = nn.Parameter(torch.empty(1, width))

    def forward(self, grid: tuple[int, int], metadata: SetMetadata) -> Float[Tensor, "set slot token width"]:
        known = _known_gsd(metadata.input_gsd_m)
        positions = sincos_positions(*grid, self.width, torch.where(known, metadata.input_gsd_m, _REFERENCE_GSD_M))
        return positions + torch.where(known[..., None], 0.0, self.gsd_token).unsqueeze(2)


class _ComposedPositions(nn.Module):
    """Corners of the anchor and positions of three images side by side, the same for every image of a set."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % _CODE_BITS:
            raise InputError(
                f"the geographic encoding 'a2mae' shares a token among 8 codes and 3 positions, so embed_dim must be "
                f"a multiple of {_CODE_BITS}; found {width}"
            )
        self.quarter = width // 4
        self.corners_token = nn.Parameter(torch.empty(1, self.quarter))
        self.absent_token = nn.Parameter(torch.empty(1, self.quarter))
        self.own = _OwnPositions(self.quarter)

    def forward(self, grid: tuple[int, int], metadata: SetMetadata) -> Float[Tensor, "set slot token width"]:
        num_sets, num_slots = metadata.gsd_m.shape
        if num_slots > _COMPOSED_IMAGES:
            raise InputError(
                f"sets of {num_slots} images were given; the geographic encoding 'a2mae' composes the positions of "
                f"three images: take encodings of each image, as in the recipe 'unified'"
            )
        num_tokens = grid[0] * grid[1]
        corners = self._corners(metadata.corner_bits[:, 0])
        absent = self.absent_token.expand(num_sets, _COMPOSED_IMAGES - num_slots, -1).flatten(1)
        positions = rearrange(self.own(grid, metadata), "s k n q -> s n (k q)")
        parts = [
            corners[:, None].expand(-1, num_tokens, -1),
            positions,
            absent[:, None].expand(-1, num_tokens, -1),
        ]
        return torch.cat(parts, dim=-1)[:, None].expand(-1, num_slots, -1, -1)

    def _corners(self, bits: Float[Tensor, "set 256"]) -> Float[Tensor, "set width"]:
        """Take the leading bits of each code, as many as fit; what is left of the quarter is 0."""
        kept = min(self.quarter // _CODES, _CODE_BITS)
        leading = rearrange(bits, "s (c b) -> s c b", c=_CODES)[..., :kept].flatten(1)
        known = bits.isfinite().all(dim=-1, keepdim=True)
        filled = functional.pad(torch.where(known, leading, 0.0), (0, self.quarter - _CODES * kept))
        return torch.where(known, filled, self.corners_token)


def _known_gsd(gsd_m: Float[Tensor, "set slot"]) -> Bool[Tensor, "set slot"]:
    return gsd_m.isfinite() & (gsd_m > 0)


def image_shares(batch: SetBatch) -> Float[Tensor, "set slot range"]:
    """Tell what each image's sensor sees of the trained ranges: the mean over its bands."""
    every = [group.mixing.mean(dim=0).expand(len(group.pixels), -1) for group in batch.groups]
    return torch.stack(batch.to_slots(every), dim=1)
