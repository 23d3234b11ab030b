"""What enters a network: batches of images, and what is known of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError, counted

__all__ = ["ImageBatch", "OnDevice", "SetBatch", "SetMetadata", "SetNoise", "check_sets"]


OnDeviceT = TypeVar("OnDeviceT", bound="OnDevice")


class OnDevice:
    """What is copied to a device whole: a record of tensors, and of such records."""

    def to(self: OnDeviceT, device: torch.device | str, *, non_blocking: bool = False) -> OnDeviceT:
        copied = dict(vars(self))
        for name, value in copied.items():
            if isinstance(value, tuple):
                copied[name] = tuple(one.to(device, non_blocking=non_blocking) for one in value)
            elif isinstance(value, Tensor | OnDevice):
                copied[name] = value.to(device, non_blocking=non_blocking)
        return type(self)(**copied)


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
    def shape(self) -> tuple[int, int]:
        """Sets, and images in each."""
        if self.rows is None:
            return len(self.groups[0].pixels), len(self.groups)
        return self.rows.shape[0], self.rows.shape[1]

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


def check_sets(batch: SetBatch, *, patch_size: int, num_ranges: int) -> tuple[int, int]:
    """See that images fit a network and each other (else `InputError`), and count patches down and across."""
    if not batch.groups or not batch.shape[0]:
        raise InputError("a set needs at least one image; found none")
    for group in batch.groups:
        _, bands, height, width = group.pixels.shape
        if height < patch_size or width < patch_size or height % patch_size or width % patch_size:
            raise InputError(
                f"images of {height} × {width} pixels can't be cut into patches of {patch_size} × {patch_size}; "
                f"both sides must be multiples of {patch_size}: resize, crop or pad them"
            )
        rows, ranges = group.mixing.shape
        if rows != bands:
            raise InputError(
                f"images have {counted(bands, 'band')}, but the sensor declares {rows}; name the bands that are "
                "in the array"
            )
        if ranges != num_ranges:
            raise InputError(
                f"the mixing matrix is for {counted(ranges, 'trained range')}, the network has {num_ranges}; "
                f"assign the sensor with the ranges of this checkpoint"
            )
        if group.valid is not None and group.valid.shape != group.pixels.shape:
            raise InputError(
                f"'valid' has shape {tuple(group.valid.shape)}, the pixels {tuple(group.pixels.shape)}; give "
                "one for each pixel"
            )
    sizes = sorted({tuple(group.pixels.shape[2:]) for group in batch.groups})
    if len(sizes) > 1:
        sides = ", ".join(f"{height} × {width}" for height, width in sizes)
        raise InputError(f"images of a set must have equal sides; found {sides} pixels: resize them to one")
    (num_sets, num_slots), counts = batch.shape, [len(group.pixels) for group in batch.groups]
    if num_sets * num_slots != sum(counts) or (batch.rows is None and len(set(counts)) > 1):
        raise InputError(
            f"{counted(num_sets, 'set')} of {counted(num_slots, 'image')}, but {' + '.join(map(str, counts))} "
            "images are given"
        )
    return height // patch_size, width // patch_size
