"""What networks take: standardised images, what is valid in them, how their bands meet the trained ranges."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.shapes import Bool, Float

__all__ = ["ImageBatch", "PairBatch", "PairNoise", "check_grid"]


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one sensor."""

    pixels: Float[Tensor, "batch band row col"]
    """Standardised values; missing ones are 0."""
    valid: Bool[Tensor, "batch band row col"] | None = None
    """Which pixels have data; None: all of them."""
    mixing: Float[Tensor, "band range"]
    """Share of each trained range in each band; every row adds up to 1."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ImageBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=non_blocking),
            valid=None if self.valid is None else self.valid.to(device, non_blocking=non_blocking),
            mixing=self.mixing.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """Images of two sensors, registered so that token p covers the same ground in both."""

    a: ImageBatch
    """Images of the first sensor."""
    b: ImageBatch
    """Images of the second sensor, the same places in the same order."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairBatch":
        """Copy the tensors to a device."""
        return PairBatch(a=self.a.to(device, non_blocking=non_blocking), b=self.b.to(device, non_blocking=non_blocking))


@dataclass(frozen=True, kw_only=True)
class PairNoise:
    """The random numbers of one step, uniform in [0, 1), drawn outside the network."""

    mixup: Float[Tensor, "batch token"]
    """Chooses the positions at which a' takes the token of a."""
    masking: Float[Tensor, "batch token"]
    """Chooses the positions hidden from the encoder."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "PairNoise":
        """Copy the tensors to a device."""
        return PairNoise(
            mixup=self.mixup.to(device, non_blocking=non_blocking),
            masking=self.masking.to(device, non_blocking=non_blocking),
        )


def check_grid(batch: ImageBatch, *, patch_size: int, num_ranges: int) -> tuple[int, int]:
    """See that images fit a network, and count their patches.

    Args:
        batch: the images.
        patch_size: edge of a patch, pixels.
        num_ranges: trained ranges of the network.

    Returns:
        Patches down and across.

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
