"""Networks for maps: an encoder's levels, of one date or of the change between two, and a head."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anyband.errors import InputError
from anyband.models.heads import HeadConfig, LinearHead, UPerNetHead, make_head
from anyband.models.inputs import SetMetadata
from anyband.shapes import Array, Float, Int, Num
from anyband.tasks.feature_records import Precision
from anyband.tasks.transfer.fusion import FusedEncoder, Levels
from anyband.tasks.transfer.recipe import HeadRecipe
from anyband.tasks.transfer.records import TaskBatch

__all__ = [
    "Difference",
    "LevelBatch",
    "MapNetwork",
    "SiameseEncoder",
    "frozen_levels",
    "input_size",
    "map_head",
]

Difference = Literal["absolute", "signed"]
"""How levels of two dates become one: |after − before|; or before beside after − before."""


class SiameseEncoder(nn.Module):
    """Levels of the change between two dates, which one encoder sees by themselves.

    `absolute` is for two classes, changed or not: which date came first does not matter, and exchanging the dates
    changes nothing. `signed` is for kinds of change: what was there, beside what was added. Nothing of the two dates is
    lost, and exchanging them turns the sign of the second half.

    Args:
        encoder: of the images of one date.
        difference: how the two become one.
    """

    def __init__(self, encoder: FusedEncoder, *, difference: Difference) -> None:
        super().__init__()
        self.encoder = encoder
        self.difference = difference

    def settings(self) -> dict[str, Any]:
        """Tell all that levels depend on beside weights and images."""
        return {**self.encoder.settings(), "difference": self.difference}

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level.

        Args:
            num_slots: images of a sample, of both dates.
        """
        return self.encoder.map_width(num_slots // 2) * (1 if self.difference == "absolute" else 2)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of the change in patch features.

        Args:
            batch: the first half of the images is before, the second after.
            blocks: which, from 0, before the final norm; `final`: the last, after it.
            step: of training, for what is drawn; both dates see the same draw.

        Raises:
            InputError: an odd number of images, or what `FusedEncoder.levels` refuses.
        """
        before, after = (self.encoder.levels(date, blocks, step=step) for date in _dates(batch))
        changes = tuple(late - early for early, late in zip(before, after, strict=True))
        if self.difference == "absolute":
            return tuple(change.abs() for change in changes)
        return tuple(torch.cat([early, change], dim=1) for early, change in zip(before, changes, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class LevelBatch:
    """Samples whose levels are known already."""

    samples: Int[Array, " sample"]
    """Positions of the samples in their data."""
    levels: tuple[Float[Tensor, "sample width row col"], ...]
    """One map for each block that the head sees."""
    size: tuple[int, int]
    """Of the network's input, pixels down and across."""
    targets: Num[Tensor, "sample down across"] | None = None
    """Maps of the input's size; None: not asked for."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> "LevelBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            levels=tuple(level.to(device) for level in self.levels),
            targets=None if self.targets is None else self.targets.to(device),
        )


LevelSource = Callable[[TaskBatch], tuple[Tensor, ...]]
"""Gives the levels of a batch."""


class MapNetwork(nn.Module):
    """A head over the levels of an encoder.

    Args:
        head: of as many levels as there are blocks.
        encoder: trained with the head, and part of this module; None: only the head is.
        blocks: what the head sees.
        frozen: gives levels without gradients; see `frozen_levels`. It is no part of this module.
    """

    def __init__(
        self,
        head: LinearHead | UPerNetHead,
        *,
        blocks: Levels,
        encoder: FusedEncoder | SiameseEncoder | None = None,
        frozen: LevelSource | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.encoder = encoder
        self.blocks = blocks
        self._frozen = frozen

    def levels(self, batch: TaskBatch | LevelBatch, step: int = 0) -> tuple[Tensor, ...]:
        """Make the levels of a batch, or take them where they are known."""
        if isinstance(batch, LevelBatch):
            return batch.levels
        if self.encoder is not None:
            return self.encoder.levels(batch, self.blocks, step=step)
        if self._frozen is None:
            raise InputError("these levels were not made ahead, and there is no encoder to make them")
        return self._frozen(batch)

    def known(self, batch: TaskBatch) -> LevelBatch:
        """Make the levels of a batch, to be kept on the CPU."""
        with torch.no_grad():
            levels = self.levels(batch.to(next(self.head.parameters()).device))
        return LevelBatch(samples=batch.samples, levels=tuple(level.cpu() for level in levels), size=input_size(batch))

    def forward(self, batch: TaskBatch | LevelBatch, *, step: int = 0) -> Float[Tensor, "sample output row col"]:
        """Compute the outputs of each pixel of the network's input.

        Args:
            batch: samples.
            step: of training, for what is drawn.
        """
        outputs: Tensor = self.head(self.levels(batch, step), input_size(batch))
        return outputs


def input_size(batch: TaskBatch | LevelBatch) -> tuple[int, int]:
    """Tell the size of the network's input, pixels down and across."""
    if isinstance(batch, LevelBatch):
        return batch.size
    rows, cols = batch.images[0].pixels.shape[2:]
    return rows, cols


def frozen_levels(
    encoder: FusedEncoder | SiameseEncoder, blocks: Levels, *, precision: Precision = "float32"
) -> LevelSource:
    """Take levels from an encoder in evaluation mode, without gradients; a sample's are the same at every step.

    Args:
        encoder: on its device.
        blocks: what the head sees.
        precision: of the encoder's arithmetic, whatever the head's is.
    """

    def levels(batch: TaskBatch) -> tuple[Tensor, ...]:
        encoder.eval()
        device = batch.images[0].pixels.device.type
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return tuple(level.float() for level in encoder.levels(batch, blocks))

    return levels


def map_head(recipe: HeadRecipe, *, width: int, num_outputs: int, seed: int) -> LinearHead | UPerNetHead:
    """Make the head that a recipe asks for; see `make_head`."""
    config = HeadConfig(kind=recipe.kind, width=width, num_outputs=num_outputs, channels=recipe.channels)
    return make_head(config, seed=seed)


def _dates(batch: TaskBatch) -> tuple[TaskBatch, TaskBatch]:
    num_slots = len(batch.images)
    if num_slots < 2 or num_slots % 2:
        raise InputError(
            f"change is between images before and as many after; sample {int(batch.samples[0])} has {num_slots}"
        )
    half = num_slots // 2
    return _slots(batch, slice(0, half)), _slots(batch, slice(half, None))


def _slots(batch: TaskBatch, slots: slice) -> TaskBatch:
    return replace(
        batch,
        images=batch.images[slots],
        sensors=batch.sensors[slots],
        metadata=None if batch.metadata is None else _metadata_of(batch.metadata, slots),
    )


def _metadata_of(metadata: SetMetadata, slots: slice) -> SetMetadata:
    return SetMetadata(**{name: one[:, slots] for name, one in vars(metadata).items()})
