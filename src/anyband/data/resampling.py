"""From a crop of a batch to the network's size: two matrices a sample, built and multiplied where the pixels are.

One matrix brings the rows of a crop to rows of the result, one the columns; flips only reverse the matrices, and a
quarter turn is a flip of a transposed image. Images of one footprint share the crop, and those of equal shape the
matrices.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anyband.data.augment import Augmentation, whole_footprint
from anyband.device_copies import to_device
from anyband.errors import InputError
from anyband.shapes import Array, Bool, Float, Int, Num

__all__ = ["Interpolation", "Resampler", "apply", "apply_to_map", "resized"]

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
        """Take what is done to each sample; the boxes travel to the device, the matrices are built there.

        Args:
            augmentation: of each sample of the batch.
            shape: rows and columns of the result.
            device: of the images.
            interpolation: kernel.
        """
        self._augmentation = augmentation
        self._shape = shape
        self._radius = _RADII[interpolation]
        self._device = device
        # Float64 keeps the edges of boxes where they are; MPS has none.
        self._builds_on = torch.device("cpu") if device.type == "mps" else device
        flipped = _flips_before_transposition(augmentation)
        numbers = np.stack([augmentation.first, augmentation.size, flipped, _both(augmentation.transposed)])
        # (first, size, flipped, transposed) × sample × (rows, columns), in one copy.
        self._boxes = to_device(numbers.astype(np.int64), self._builds_on)
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def __call__(
        self, pixels: Float[Tensor, "batch band row col"], valid: Bool[Tensor, "batch band row col"] | None
    ) -> tuple[Float[Tensor, "batch band rows cols"], Bool[Tensor, "batch band rows cols"] | None]:
        """Resample images of the footprint; see `apply`."""
        _, _, height, width = pixels.shape
        _check_count(self._augmentation, len(pixels))
        rows, cols = self._matrix(0, height), self._matrix(1, width)
        resampled, seen = _resample_valid(pixels, valid, rows, cols)
        return self._transpose(resampled), None if seen is None else self._transpose(seen)

    def _transpose(self, image: Tensor) -> Tensor:
        if not self._augmentation.transposed.any():
            return image
        turned = self._boxes[3, :, 0].bool().to(image.device)[:, None, None, None]
        return torch.where(turned, image.mT, image)

    def _matrix(self, axis: int, num_pixels: int) -> Float[Tensor, "batch size pixel"]:
        key = (axis, num_pixels)
        if key not in self._matrices:
            self._matrices[key] = self._built(axis, num_pixels).to(self._device)
        return self._matrices[key]

    def _built(self, axis: int, num_pixels: int) -> Float[Tensor, "batch size pixel"]:
        """Build the resampling matrix of each sample along one axis; rows sum to 1, flips are in it.

        Box edges are kept as fractions of whole numbers until the last moment, so that an edge on a pixel's
        border stays there.
        """
        cells, out_size = self._augmentation.grid[axis], self._shape[axis]
        first, size, flipped = self._boxes[:3, :, axis, None]
        touched_from = first * num_pixels // cells
        touched_to = -(-(first + size) * num_pixels // cells)
        scale = (size * num_pixels).double() / cells / out_size
        stretch = scale.clamp(min=1.0)  # a kernel widens when pixels are merged, never narrows
        output = torch.arange(out_size, device=first.device)
        output = torch.where(flipped.bool(), out_size - 1 - output, output)
        center = (first * num_pixels).double() / cells + (output + 0.5) * scale
        num_taps = self._num_taps(axis, num_pixels)
        start = (center - self._radius * stretch).floor().long().clamp(0, num_pixels - num_taps)
        taps = start[:, :, None] + torch.arange(num_taps, device=first.device)
        kernel = _cubic if self._radius == _CUBIC_RADIUS else _triangle
        weights = kernel((taps + 0.5 - center[:, :, None]) / stretch[:, :, None])
        inside = (taps >= touched_from[:, :, None]) & (taps < touched_to[:, :, None])
        weights = torch.where(inside, weights, 0.0)
        weights = weights / weights.sum(dim=2, keepdim=True)
        dense = torch.zeros(len(first), out_size, num_pixels, device=first.device)
        return dense.scatter_(2, taps, weights.float())

    def _num_taps(self, axis: int, num_pixels: int) -> int:
        """Count the pixels that the widest kernel of the batch can reach; known here, so the device is not asked."""
        largest = int(self._augmentation.size[:, axis].max(initial=0))
        stretch = max(1.0, largest * num_pixels / self._augmentation.grid[axis] / self._shape[axis])
        return min(num_pixels, math.ceil(2 * self._radius * stretch) + 2)


def apply(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    augmentation: Augmentation,
    *,
    img_size: int,
    interpolation: Interpolation = "bicubic",
) -> tuple[Float[Tensor, "batch band size size"], Bool[Tensor, "batch band size size"] | None]:
    """Cut, resample (anti-aliased, only from pixels that the box touches), transpose and flip.

    Equal to a crop and an anti-aliased bicubic resize where a box lies on the image's own pixels; between
    images of different resolution the same output pixel covers the same ground.

    Args:
        pixels: float32, standardised.
        valid: which of them are data; None: all. Values under False never count, NaN neither.
        augmentation: drawn for this batch, on the footprint of these images.
        img_size: side of the result in pixels.
        interpolation: kernel.

    Returns:
        Pixels, 0 where not valid; and which are valid: valid inputs carry at least half of the weight.
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
    """Bring whole images to a number of rows and columns, anti-aliased.

    Args:
        pixels: float32, standardised.
        valid: which of them are data; None: all. Values under False never count, NaN neither.
        shape: rows and columns of the result.
        interpolation: kernel.

    Returns:
        As `apply` gives them.
    """
    height, width = pixels.shape[2:]
    whole = whole_footprint(len(pixels), grid=(height, width))
    return Resampler(whole, shape=shape, device=pixels.device, interpolation=interpolation)(pixels, valid)


def apply_to_map(
    values: Num[Tensor, "batch row col"], augmentation: Augmentation, *, img_size: int
) -> Num[Tensor, "batch size size"]:
    """Cut, take the nearest pixel, transpose and flip: what `apply` does to images, for maps whose values can't be
    mixed. Where a box lies on the map's own pixels, no value changes.

    Args:
        values: labels or numbers of each pixel, on the footprint of the images.
        augmentation: that of the images.
        img_size: side of the result in pixels.

    Returns:
        Values of the map and no others.
    """
    _, height, width = values.shape
    _check_count(augmentation, len(values))
    rows = _nearest(augmentation, axis=0, num_pixels=height, img_size=img_size).to(values.device)
    cols = _nearest(augmentation, axis=1, num_pixels=width, img_size=img_size).to(values.device)
    sample = torch.arange(len(values), device=values.device)[:, None, None]
    taken = values[sample, rows[:, :, None], cols[:, None, :]]
    turned = torch.from_numpy(augmentation.transposed).to(values.device)[:, None, None]
    return torch.where(turned, taken.mT, taken)


def _both(one: Bool[Array, " sample"]) -> Bool[Array, "sample 2"]:
    return np.stack([one, one], axis=1)


def _flips_before_transposition(augmentation: Augmentation) -> Bool[Array, "sample 2"]:
    # What flips rows after a transposition flips columns before it.
    swapped = augmentation.flipped[:, ::-1]
    return np.where(augmentation.transposed[:, None], swapped, augmentation.flipped)


def _cubic(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    x = distance.abs()
    near = ((_CUBIC_A + 2) * x - (_CUBIC_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * _CUBIC_A - 4 * _CUBIC_A
    return torch.where(x < 1, near, torch.where(x < _CUBIC_RADIUS, far, 0.0))


def _triangle(distance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return (1 - distance.abs()).clamp(min=0.0)


def _nearest(augmentation: Augmentation, *, axis: int, num_pixels: int, img_size: int) -> Int[Tensor, "batch size"]:
    """Find the pixel under the centre of each output pixel; where it is a border, the one after it. Flips are in it."""
    first, size, cells = augmentation.first[:, axis, None], augmentation.size[:, axis, None], augmentation.grid[axis]
    output = np.broadcast_to(np.arange(img_size), (len(first), img_size))
    flipped = _flips_before_transposition(augmentation)[:, axis]
    output = np.where(flipped[:, None], img_size - 1 - output, output)
    # In whole numbers, so that an edge on a pixel's border stays there.
    found = (2 * first * img_size + (2 * output + 1) * size) * num_pixels // (2 * cells * img_size)
    return torch.from_numpy(found.clip(0, num_pixels - 1))


def _check_count(augmentation: Augmentation, count: int) -> None:
    if len(augmentation.transposed) != count:
        raise InputError(f"an augmentation of {len(augmentation.transposed)} samples for a batch of {count}")


def _resample_valid(pixels: Tensor, valid: Tensor | None, rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor | None]:
    """Resample only what is valid; a pixel is valid whose valid inputs carry enough of the weight."""
    if valid is None:
        return _resample(pixels, rows, cols), None
    weight = valid.to(pixels.dtype)
    full = torch.ones_like(weight[:, :1])
    share = _resample(weight, rows.abs(), cols.abs()) / _resample(full, rows.abs(), cols.abs())
    seen = share >= _MIN_VALID_SHARE
    total = _resample(weight, rows, cols)
    resampled = _resample(pixels.masked_fill(~valid, 0.0), rows, cols) / total.where(seen, 1.0)
    return resampled.masked_fill(~seen, 0.0), seen


def _resample(image: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    cut = torch.einsum("bsw,bchw->bchs", cols, image)
    return torch.einsum("bth,bchs->bcts", rows, cut)
