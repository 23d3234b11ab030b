"""What enters a network: batches of images, and what is known of each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Bool, Float, Int, to_device
from anyband.errors import InputError

__all__ = [
    "DAY_FEATURES",
    "RESOLUTION_FEATURES",
    "YEAR_FEATURES",
    "ImageBatch",
    "OnDevice",
    "SetBatch",
    "SetMetadata",
    "SetNoise",
    "check_grid",
    "day_features",
    "place_features",
    "resolution_features",
    "spherical_harmonics",
    "year_features",
]


OnDeviceT = TypeVar("OnDeviceT", bound="OnDevice")


class OnDevice:
    """What is copied to a device whole: a record of tensors, and of such records."""

    def to(self: OnDeviceT, device: torch.device | str, *, non_blocking: bool = False) -> OnDeviceT:
        copied: OnDeviceT = _copied(self, device, non_blocking)
        return copied


def _copied(value: Any, device: torch.device | str, non_blocking: bool) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=non_blocking)
    if isinstance(value, tuple):
        return tuple(_copied(one, device, non_blocking) for one in value)
    if isinstance(value, OnDevice):
        return type(value)(**{name: _copied(one, device, non_blocking) for name, one in vars(value).items()})
    return value


@dataclass(frozen=True, kw_only=True)
class ImageBatch(OnDevice):
    """Images of one sensor."""

    pixels: Float[Tensor, "batch band row col"]
    """Standardised values; missing ones are 0."""
    valid: Bool[Tensor, "batch band row col"] | None = None
    """None: all."""
    mixing: Float[Tensor, "band range"]
    """Share of each trained range in each band; a row adds up to 1."""


@dataclass(frozen=True, kw_only=True)
class SetMetadata(OnDevice):
    """What is known of each image of some sets; NaN wherever something is not, never a value that means so."""

    corner_bits: Float[Tensor, "set slot 256"]
    """See `encodings.corner_bits`, of the network's input image."""
    lonlat_deg: Float[Tensor, "set slot 2"]
    """Of the centre."""
    gsd_m: Float[Tensor, "set slot"]
    """Of the image's own pixels."""
    input_gsd_m: Float[Tensor, "set slot"]
    """Of the network's input pixels."""
    day_of_year: Float[Tensor, "set slot"]
    """From 0."""
    year: Float[Tensor, "set slot"]

    @classmethod
    def unknown(cls, num_sets: int, num_slots: int, *, device: torch.device | str = "cpu") -> "SetMetadata":
        nothing = torch.full((num_sets, num_slots), torch.nan, device=device)
        return cls(
            corner_bits=nothing[..., None].expand(-1, -1, 256).clone(),
            lonlat_deg=nothing[..., None].expand(-1, -1, 2).clone(),
            gsd_m=nothing,
            input_gsd_m=nothing.clone(),
            day_of_year=nothing.clone(),
            year=nothing.clone(),
        )


@dataclass(frozen=True, kw_only=True)
class SetBatch(OnDevice):
    """Sets of images, each of one footprint, registered: token p covers the same ground in every image of a set.

    All sets have equally many images: nothing is padded. Slot 0 is the anchor; slot 1 is of another source if any is.
    """

    groups: tuple[ImageBatch, ...]
    """The images, those of one sensor and band choice together."""
    rows: Int[Tensor, "set slot"] | None = None
    """Where each image stands when the groups are laid one after the other; None: group k is slot k of every set."""
    same_source: Bool[Tensor, "set slot"] | None = None
    """Whether an image is of the anchor's source; True in slot 0. None: slot 0 alone."""
    first_slot: Int[Tensor, "set"] | None = None
    """Slot of the image that comes first in the place's own order, for masking as released; None: slot 0."""
    metadata: SetMetadata | None = None
    partnered: bool = False
    """Whether slot 1 of every set is of another source; False: there is no other source in any set."""

    @property
    def num_sets(self) -> int:
        return len(self.groups[0].pixels) if self.rows is None else self.rows.shape[0]

    @property
    def num_slots(self) -> int:
        return len(self.groups) if self.rows is None else self.rows.shape[1]

    def to_slots(self, of_groups: Sequence[Tensor]) -> list[Tensor]:
        """Bring what belongs to the images of each group to the slots, each in the order of the sets."""
        if self.rows is None:
            return list(of_groups)
        chosen = torch.cat(list(of_groups)).index_select(0, self.rows.flatten())
        return list(chosen.view(*self.rows.shape, *chosen.shape[1:]).unbind(1))

    def to_groups(self, of_slots: Sequence[Tensor]) -> list[Tensor]:
        """Bring what belongs to the slots to the images of each group; the inverse of `to_slots`."""
        if self.rows is None:
            return list(of_slots)
        in_order = torch.stack(list(of_slots), dim=1).flatten(0, 1).index_select(0, torch.argsort(self.rows.flatten()))
        return list(torch.split(in_order, [len(group.pixels) for group in self.groups]))


@dataclass(frozen=True, kw_only=True)
class SetNoise(OnDevice):
    """The random numbers of one step, uniform in [0, 1), drawn outside the network."""

    masking: Float[Tensor, "set slot token"]
    """Chooses what is hidden; images that share a mask use the anchor's."""
    mixup: Float[Tensor, "set token"]
    """Chooses the positions at which the anchor keeps its own token."""
    tying: Float[Tensor, "set slot token"] | None = None
    """Chooses the positions that follow the anchor, for masking `hybrid` alone."""
    hides_last: bool = False
    """Whether the last image of each set is hidden whole in this step, and nothing exchanged."""


def check_grid(batch: ImageBatch, *, patch_size: int, num_ranges: int) -> tuple[int, int]:
    """See that images fit a network, and count their patches down and across.

    Raises:
        InputError: a size that the patch size does not divide, or a band or range count that does not fit.
    """
    _, bands, height, width = batch.pixels.shape
    if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
        raise InputError(
            f"images of {height} × {width} pixels can't be cut into patches of {patch_size} × {patch_size}; "
            f"both sides must be multiples of {patch_size}: resize, crop or pad them"
        )
    rows, ranges = batch.mixing.shape
    if rows != bands:
        raise InputError(
            f"images have {bands} bands, but the sensor declares {rows}; name the bands that are in the array"
        )
    if ranges != num_ranges:
        raise InputError(
            f"the mixing matrix is for {ranges} trained ranges, the network has {num_ranges}; "
            f"assign the sensor with the ranges of this checkpoint"
        )
    if batch.valid is not None and batch.valid.shape != batch.pixels.shape:
        raise InputError(
            f"'valid' has shape {tuple(batch.valid.shape)}, the pixels {tuple(batch.pixels.shape)}; give "
            "one for each pixel"
        )
    return height // patch_size, width // patch_size


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


def place_features(lonlat_deg: Float[Tensor, "*image 2"], *, degree: int) -> Float[Tensor, "*image feature"]:
    """Write a place as real spherical harmonics."""
    return spherical_harmonics(lonlat_deg[..., 0], lonlat_deg[..., 1], degree=degree)


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
