"""Crops, flips and registered resizing on the device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Int, Num, to_device
from anyband.errors import InputError, RecipeError, counted
from anyband.randomness import uniform

__all__ = [
    "AugmentOptions",
    "Augmentation",
    "Interpolation",
    "Resampler",
    "apply",
    "apply_to_map",
    "coarser_grid",
    "draw_augmentation",
    "input_corners",
    "input_gsd_m",
    "resized",
    "whole_footprint",
]

# Row and column of the upper left, upper right, lower right and lower left corner, as shares of an image.
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """What augmentation may do. The defaults are the paper's (SMARTIES, section 4)."""

    enabled: bool = True
    """False: the whole footprint, neither flipped nor turned."""
    crop_area: tuple[float, float] = (0.25, 1.0)
    """Least and largest share of the footprint's area in a crop; crops are square."""
    flips: bool = True
    """Mirror up-down and left-right, each for half of the samples."""
    quarter_turns: bool = True
    """Turn by 0°, 90°, 180° or 270°, each for a quarter of the samples."""

    def __post_init__(self) -> None:
        least, largest = self.crop_area
        if not 0.0 < least <= largest <= 1.0:
            raise RecipeError(f"crop_area needs 0 < least <= largest <= 1, found {least:g} to {largest:g}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to each sample: cut `first` to `first + size` out of `grid`, transpose, then flip."""

    grid: tuple[int, int]
    """Rows and columns of the grid that boxes are counted on: the coarsest image's."""
    first: Int[Array, "sample 2"]
    """First row and column of each box."""
    size: Int[Array, "sample 2"]
    transposed: Bool[Array, "sample"]
    """Whether rows and columns change places."""
    flipped: Bool[Array, "sample 2"]
    """Whether rows, and columns, run backwards afterwards."""

    def of(self, samples: Int[Array, " image"]) -> "Augmentation":
        """Make the augmentation of images: that of their samples, each of which may stand several times."""
        names = ("first", "size", "transposed", "flipped")
        return replace(self, **{name: getattr(self, name)[samples] for name in names})


def coarser_grid(*shapes: tuple[int, int]) -> tuple[int, int]:
    """Find the grid that crops of images of one footprint are aligned to: the fewest rows and columns."""
    return min(rows for rows, _ in shapes), min(cols for _, cols in shapes)


def whole_footprint(count: int, *, grid: tuple[int, int]) -> Augmentation:
    """Make the augmentation that changes nothing: each sample whole, as it lies."""
    zeros, never = np.zeros((count, 2), dtype=np.int64), np.zeros((count, 2), dtype=bool)
    return Augmentation(grid=grid, first=zeros, size=zeros + grid, transposed=never[:, 0], flipped=never)


def draw_augmentation(
    options: AugmentOptions, *, seed: int, step: int, samples: Sequence[int], grid: tuple[int, int]
) -> Augmentation:
    """Draw one augmentation a sample. A sample's draw does not depend on the others in the batch."""
    if not options.enabled:
        return whole_footprint(len(samples), grid=grid)
    draws = uniform(seed, step=step, samples=samples, purpose="augment", shape=(6,))
    least, largest = options.crop_area
    area = (least + (largest - least) * draws[:, 0]) * grid[0] * grid[1]
    side = np.clip(np.round(np.sqrt(area)), 1, min(grid)).astype(np.int64)
    size = np.stack([side, side], axis=1)
    first = np.floor(draws[:, 1:3] * (np.array(grid, dtype=np.int64) - size + 1)).astype(np.int64)
    coins = draws[:, 3:6] < 0.5
    turned = coins[:, 0] if options.quarter_turns else np.zeros(len(samples), dtype=bool)
    flipped = coins[:, 1:]
    if not options.flips:
        # Without mirror images only the four turns remain: a turn by 90° is a transposition and one flip.
        half = coins[:, 1] & options.quarter_turns
        flipped = np.stack([half, half ^ turned], axis=1)
    return Augmentation(grid=grid, first=first, size=size, transposed=turned, flipped=flipped)


def input_corners(
    augmentation: Augmentation, corners_deg: Float[Array, "sample image 4 2"]
) -> Float[Array, "sample image 4 2"]:
    """Find where the corners of augmented images lie: crop, transposition and flips are in it. Positions are bilinear
    between the corners before: (longitude, latitude), upper left, upper right, lower right, lower left, NaN: unknown.
    """
    # The shares of all rows and columns above and left of each corner.
    flipped = augmentation.flipped[:, :, None]
    row, col = np.moveaxis(np.where(flipped, 1 - _CORNERS.T, _CORNERS.T), 1, 0)
    turned = augmentation.transposed[:, None]
    inside = np.stack([np.where(turned, col, row), np.where(turned, row, col)], axis=1)
    before = augmentation.first[:, :, None] + augmentation.size[:, :, None] * inside
    row, col = before[:, 0] / augmentation.grid[0], before[:, 1] / augmentation.grid[1]
    weights = np.stack([(1 - row) * (1 - col), (1 - row) * col, row * col, row * (1 - col)], axis=-1)
    lon, lat = corners_deg[..., 0], corners_deg[..., 1]
    # Across longitude ±180 the numbers jump, the ground does not: count on from the first corner.
    step = lon - lon[..., :1]
    lon = lon - 360.0 * (step > 180.0) + 360.0 * (step < -180.0)
    lon, lat = (np.einsum("scw,siw->sic", weights, values) for values in (lon, lat))
    lon = lon + 360.0 * (lon < -180.0) - 360.0 * (lon > 180.0)
    # Weights add up to 1 but for rounding, which must not pass the pole.
    return np.stack([lon, lat.clip(-90.0, 90.0)], axis=-1)


def input_gsd_m(
    augmentation: Augmentation,
    gsd_m: Float[Array, "sample image"],
    shape_px: Int[Array, "sample image 2"],
    *,
    img_size: int,
) -> Float[Array, "sample image"]:
    """Compute how large a pixel of augmented images is on the ground: the root of its area, metres."""
    cut_px = shape_px * (augmentation.size / np.array(augmentation.grid))[:, None, :]
    return np.asarray(gsd_m * np.sqrt(cut_px.prod(axis=-1)) / img_size)


Interpolation = Literal["bicubic", "bilinear"]
"""Kernel of a resampling; both widen when pixels are merged, which keeps out aliases."""

_CUBIC_A = -0.5  # Source: Keys, IEEE Trans. ASSP 29(6), 1981; the kernel of Pillow and torchvision
_CUBIC_RADIUS = 2.0  # the kernel is zero from two pixels on
_RADII = {"bicubic": _CUBIC_RADIUS, "bilinear": 1.0}
# chosen: an output pixel is valid when valid inputs carry at least half of the kernel's absolute weight;
# then the signed weight that is divided by stays over 0.2, so that a hole never blows up noise.
_MIN_VALID_SHARE = 0.5


class Resampler:
    """Cuts, resamples, transposes and flips the images of a batch, all of one footprint, on the device they are on."""

    def __init__(
        self,
        augmentation: Augmentation,
        *,
        shape: tuple[int, int],
        device: torch.device,
        interpolation: Interpolation = "bicubic",
    ) -> None:
        """Take what is done to each sample; the boxes travel to the device, the matrices are built there."""
        self._augmentation = augmentation
        self._shape = shape
        self._radius = _RADII[interpolation]
        self._device = device
        # Float64 keeps the edges of boxes where they are; MPS has none.
        self._builds_on = torch.device("cpu") if device.type == "mps" else device
        # What flips rows after a transposition flips columns before it.
        turned = augmentation.transposed[:, None]
        flipped = np.where(turned, augmentation.flipped[:, ::-1], augmentation.flipped)
        transposed = np.broadcast_to(turned, flipped.shape)
        numbers = np.stack([augmentation.first, augmentation.size, flipped, transposed])
        # (first, size, flipped, transposed) × sample × (rows, columns), in one copy.
        self._boxes = to_device(numbers.astype(np.int64), self._builds_on)
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def __call__(
        self, pixels: Float[Tensor, "batch band row col"], valid: Bool[Tensor, "batch band row col"] | None
    ) -> tuple[Float[Tensor, "batch band rows cols"], Bool[Tensor, "batch band rows cols"] | None]:
        """Resample images of the footprint; see `apply`. Only what is valid counts."""
        if len(self._augmentation.transposed) != len(pixels):
            raise _other_count(self._augmentation, len(pixels))
        rows, cols = (self._matrix(axis, pixels.shape[2 + axis]) for axis in (0, 1))
        seen = None
        if valid is None:
            resampled = _resample(pixels, rows, cols)
        else:
            weight = valid.to(pixels.dtype)
            full = torch.ones_like(weight[:, :1])
            share = _resample(weight, rows.abs(), cols.abs()) / _resample(full, rows.abs(), cols.abs())
            seen = share >= _MIN_VALID_SHARE
            total = _resample(weight, rows, cols)
            resampled = _resample(pixels.masked_fill(~valid, 0.0), rows, cols) / total.where(seen, 1.0)
            resampled = resampled.masked_fill(~seen, 0.0)
        if self._augmentation.transposed.any():
            turned = self._boxes[3, :, 0].bool().to(pixels.device)[:, None, None, None]
            resampled = torch.where(turned, resampled.mT, resampled)
            seen = None if seen is None else torch.where(turned, seen.mT, seen)
        return resampled, seen

    def _matrix(self, axis: int, num_pixels: int) -> Float[Tensor, "batch size pixel"]:
        """Build the resampling matrix of each sample along one axis, once; rows sum to 1, flips are in it. Box edges
        stay fractions of whole numbers to the last, so that an edge on a pixel's border stays there."""
        if (axis, num_pixels) in self._matrices:
            return self._matrices[axis, num_pixels]
        grid_pixels, out_size = self._augmentation.grid[axis], self._shape[axis]
        first, size, flipped = self._boxes[:3, :, axis, None]
        touched_from = first * num_pixels // grid_pixels
        touched_to = -(-(first + size) * num_pixels // grid_pixels)
        scale = (size * num_pixels).double() / grid_pixels / out_size
        stretch = scale.clamp(min=1.0)  # a kernel widens when pixels are merged, never narrows
        output = torch.arange(out_size, device=first.device)
        output = torch.where(flipped.bool(), out_size - 1 - output, output)
        center = (first * num_pixels).double() / grid_pixels + (output + 0.5) * scale
        # The pixels that the widest kernel of the batch can reach are known here, so it need not wait for the device.
        widest = max(1.0, int(self._augmentation.size[:, axis].max(initial=0)) * num_pixels / grid_pixels / out_size)
        num_taps = min(num_pixels, math.ceil(2 * self._radius * widest) + 2)
        start = (center - self._radius * stretch).floor().long().clamp(0, num_pixels - num_taps)
        taps = start[:, :, None] + torch.arange(num_taps, device=first.device)
        x = ((taps + 0.5 - center[:, :, None]) / stretch[:, :, None]).abs()
        if self._radius == _CUBIC_RADIUS:
            near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
            far = ((x - 5) * x + 8) * x * _CUBIC_A - 4 * _CUBIC_A
            weights = torch.where(x < 1, near, torch.where(x < _CUBIC_RADIUS, far, 0.0))
        else:
            weights = (1 - x).clamp(min=0.0)
        inside = (taps >= touched_from[:, :, None]) & (taps < touched_to[:, :, None])
        weights = torch.where(inside, weights, 0.0)
        weights = weights / weights.sum(dim=2, keepdim=True)
        dense = torch.zeros(len(first), out_size, num_pixels, device=first.device)
        made = dense.scatter_(2, taps, weights.float()).to(self._device)
        self._matrices[axis, num_pixels] = made
        return made


def apply(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    augmentation: Augmentation,
    *,
    img_size: int,
    interpolation: Interpolation = "bicubic",
) -> tuple[Float[Tensor, "batch band size size"], Bool[Tensor, "batch band size size"] | None]:
    """Cut, resample (anti-aliased, only from pixels that the box touches), transpose and flip.

    Equal to a crop and an anti-aliased bicubic resize where a box lies on the image's own pixels; between images of
    different resolution the same output pixel covers the same ground. Pixels are 0 where not valid, which they are
    where valid inputs carry at least half of the weight; values under False never count, NaN neither.
    """
    shape = (img_size, img_size)
    return Resampler(augmentation, shape=shape, device=pixels.device, interpolation=interpolation)(pixels, valid)


def resized(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    *,
    shape: tuple[int, int],
    interpolation: Interpolation,
) -> tuple[Float[Tensor, "batch band rows cols"], Bool[Tensor, "batch band rows cols"] | None]:
    """Bring whole images to a number of rows and columns, anti-aliased."""
    height, width = pixels.shape[2:]
    whole = whole_footprint(len(pixels), grid=(height, width))
    return Resampler(whole, shape=shape, device=pixels.device, interpolation=interpolation)(pixels, valid)


def apply_to_map(
    values: Num[Tensor, "batch row col"], augmentation: Augmentation, *, img_size: int
) -> Num[Tensor, "batch size size"]:
    """Cut, take the nearest pixel, transpose and flip: `apply` for maps whose values can't be mixed. Where a box lies
    on the map's own pixels, no value changes."""
    if len(augmentation.transposed) != len(values):
        raise _other_count(augmentation, len(values))
    # What flips rows after a transposition flips columns before it.
    flips = np.where(augmentation.transposed[:, None], augmentation.flipped[:, ::-1], augmentation.flipped)
    nearest = []
    for axis, (num_pixels, grid_pixels) in enumerate(zip(values.shape[1:], augmentation.grid, strict=True)):
        first, size = augmentation.first[:, axis, None], augmentation.size[:, axis, None]
        output = np.broadcast_to(np.arange(img_size), (len(first), img_size))
        output = np.where(flips[:, axis, None], img_size - 1 - output, output)
        # The pixel under the centre of each output pixel; where it is a border, the one after it. In whole numbers, so
        # that an edge on a pixel's border stays there.
        found = (2 * first * img_size + (2 * output + 1) * size) * num_pixels // (2 * grid_pixels * img_size)
        nearest.append(torch.from_numpy(found.clip(0, num_pixels - 1)).to(values.device))
    sample = torch.arange(len(values), device=values.device)[:, None, None]
    taken = values[sample, nearest[0][:, :, None], nearest[1][:, None, :]]
    turned = torch.from_numpy(augmentation.transposed).to(values.device)[:, None, None]
    return torch.where(turned, taken.mT, taken)


def _resample(image: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    cut = torch.einsum("bsw,bchw->bchs", cols, image)
    return torch.einsum("bth,bchs->bcts", rows, cut)


def _other_count(augmentation: Augmentation, count: int) -> InputError:
    return InputError(f"an augmentation of {counted(len(augmentation.transposed), 'sample')} for a batch of {count}")
