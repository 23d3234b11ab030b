"""What passes between the parts of a downstream task: batches of network input, and what a protocol found."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from anyband.data.supervised.records import TaskKind
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.shapes import Array, Int, Num, Shaped

__all__ = ["Evidence", "Outcome", "TaskBatch"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskBatch:
    """Samples as network input. All have the same sensors in the same slots, and one size in pixels."""

    images: tuple[ImageBatch, ...]
    """Images of each slot, the samples in one order."""
    sensors: tuple[str, ...]
    """Name of each slot's sensor."""
    samples: Int[Array, " sample"]
    """Positions of the samples in their data: identities for random draws."""
    metadata: SetMetadata | None = None
    """What is known of each image; None: nothing, or nothing is told."""
    targets: Num[Tensor, "sample ..."] | None = None
    """Classes (sample) as int64, labels (sample, class) or numbers (sample) as float32, or maps (sample, row, col) of
    the input's size: int64 with −1 where there is no class, float32 with NaN where there is no number. None: not asked
    for."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            images=tuple(image.to(device) for image in self.images),
            metadata=None if self.metadata is None else self.metadata.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What was predicted for each test sample: all that scores, intervals and comparisons are made of.

    `arrays` holds by kind:
    `class`: `labels` int64 (sample), `scores` float32 (sample, class);
    `labels`: `labels` bool (sample, class), `scores` float32 (sample, class);
    `number`: `truth`, `predicted` float64 (sample);
    `class_map`: `confusion` int64 (sample, class, class), true classes in rows, pixels counted;
    `number_map`: `sums` float64 (sample, 5): pixels, and sums of truth, truth², error², |error|.
    """

    kind: TaskKind
    """What is predicted."""
    classes: tuple[str, ...]
    """Names of the classes; empty for numbers."""
    samples: tuple[str, ...]
    """Name of each test sample, for pairing."""
    arrays: Mapping[str, Shaped[Array, "sample ..."]]
    """By name, as above; the first axis is the sample."""
    groups: tuple[str, ...] = ()
    """Piece of ground that each test sample shows, where several show one: dates of a place, or of a block of it. What
    is of one group is resampled together, because it is not independent. Empty: each sample is one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What a protocol found with one kind of features."""

    features: str
    """`encoder`, `untrained encoder`, `band means + logistic regression`, …"""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    evidence: Evidence
    """On the test samples."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, such as the epoch, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    maps: Mapping[int, Shaped[Array, "row col"]] = field(default_factory=dict)
    """Predicted maps of some test samples, by position in the data, for pictures."""
    model: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of what was fitted; empty where nothing was, or not kept."""
    checkpoint: Checkpoint | None = None
    """The encoder as it was trained here, to be used like any other; None: it was not."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""
