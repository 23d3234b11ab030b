"""What networks take: standardised images, what is valid in them, how their bands meet the trained ranges."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.shapes import Bool, Float, Int

__all__ = ["ImageBatch", "PairBatch", "PairNoise", "SetBatch", "SetMetadata", "SetNoise", "check_grid"]


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


@dataclass(frozen=True, kw_only=True)
class SetMetadata:
    """What is known of each image of some sets; NaN wherever something is not known, never a value that means so."""

    corner_bits: Float[Tensor, "set slot 256"]
    """GeoSOT-2D codes of the corners of the network's input image (upper left, upper right, lower right, lower left;
    longitude, then latitude), 32 bits each, most significant first; 0 or 1."""
    lonlat_deg: Float[Tensor, "set slot 2"]
    """Longitude and latitude of the centre, degrees."""
    gsd_m: Float[Tensor, "set slot"]
    """Ground sampling distance of the image's own pixels, metres."""
    input_gsd_m: Float[Tensor, "set slot"]
    """Ground sampling distance of the network's input pixels, metres."""
    day_of_year: Float[Tensor, "set slot"]
    """Days since the year began, from 0."""
    year: Float[Tensor, "set slot"]
    """Calendar year, such as 2021."""

    @classmethod
    def unknown(cls, num_sets: int, num_slots: int, *, device: torch.device | str = "cpu") -> "SetMetadata":
        """Make the metadata of images of which nothing is known."""
        nothing = torch.full((num_sets, num_slots), torch.nan, device=device)
        return cls(
            corner_bits=nothing[..., None].expand(-1, -1, 256).clone(),
            lonlat_deg=nothing[..., None].expand(-1, -1, 2).clone(),
            gsd_m=nothing,
            input_gsd_m=nothing.clone(),
            day_of_year=nothing.clone(),
            year=nothing.clone(),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "SetMetadata":
        """Copy the tensors to a device."""
        return SetMetadata(**{name: one.to(device, non_blocking=non_blocking) for name, one in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class SetBatch:
    """Sets of images, each of one footprint, registered: token p covers the same ground in every image of a set.

    All sets of a batch have equally many images, so that nothing is padded. Slot 0 is the anchor; slot 1 holds an image
    of another source wherever the set has one.
    """

    groups: tuple[ImageBatch, ...]
    """The images, those of one sensor and band choice together."""
    rows: Int[Tensor, "set slot"]
    """Where each image stands when the groups are laid one after the other."""
    same_source: Bool[Tensor, "set slot"]
    """Whether an image is of the anchor's source; True in slot 0."""
    first_slot: Int[Tensor, "set"]
    """Slot of the image that comes first in the place's own order; only masking as released asks."""
    metadata: SetMetadata | None = None
    """Of each image; None: nothing is known."""
    partnered: bool
    """Whether slot 1 of every set is of another source; False: there is no other source in any set."""

    @property
    def num_sets(self) -> int:
        """Count the sets."""
        return self.rows.shape[0]

    @property
    def num_slots(self) -> int:
        """Count the images of each set."""
        return self.rows.shape[1]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "SetBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            groups=tuple(group.to(device, non_blocking=non_blocking) for group in self.groups),
            rows=self.rows.to(device, non_blocking=non_blocking),
            same_source=self.same_source.to(device, non_blocking=non_blocking),
            first_slot=self.first_slot.to(device, non_blocking=non_blocking),
            metadata=None if self.metadata is None else self.metadata.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, kw_only=True)
class SetNoise:
    """The random numbers of one step over sets, uniform in [0, 1), drawn outside the network."""

    masking: Float[Tensor, "set slot token"]
    """Chooses the positions hidden from the encoder; images that share a mask use the anchor's."""
    tying: Float[Tensor, "set slot token"]
    """Chooses the positions that follow the anchor where half of them do."""
    mixup: Float[Tensor, "set token"]
    """Chooses the positions at which the anchor keeps its own token."""
    hides_last: bool = False
    """Whether the last image of each set is hidden whole in this step, and nothing exchanged."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "SetNoise":
        """Copy the tensors to a device."""
        return replace(
            self,
            masking=self.masking.to(device, non_blocking=non_blocking),
            tying=self.tying.to(device, non_blocking=non_blocking),
            mixup=self.mixup.to(device, non_blocking=non_blocking),
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
