"""Samples with maps as a network takes them: read again in every epoch, or encoded once by a frozen encoder."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from anyband.data.tiles import Window
from anyband.errors import InputError
from anyband.shapes import Array, Int, Num
from anyband.tasks.memory import available_bytes
from anyband.tasks.transfer.dense_model import LevelBatch, MapNetwork, SiameseEncoder
from anyband.tasks.transfer.features import extract_levels
from anyband.tasks.transfer.fusion import FusedEncoder, Levels
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.predict_maps import Read, predict_whole, predict_windows
from anyband.tasks.transfer.recipe import AugmentRecipe
from anyband.tasks.transfer.records import TaskBatch
from anyband.tasks.transfer.setting import Setting

__all__ = ["FrozenEncoder", "KnownSamples", "MapSamples", "ReadSamples", "fits_memory", "stays_the_same"]

# chosen: what is left is for the head, its activations, and reading.
_MEMORY_SHARE = 0.4
_FLOAT_BYTES = 4

Needed = Callable[[Window], bool]
"""Tells which windows are predicted."""


@runtime_checkable
class MapSamples(Protocol):
    """Labelled samples as a network takes them."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches."""

    def training_batches(self, epoch: int) -> Iterator[TaskBatch | LevelBatch]:
        """Give the training samples in the order of an epoch, with targets."""

    def predicted(
        self, network: MapNetwork, samples: Int[Array, " sample"], read: Read, *, labelled: bool
    ) -> Iterator[tuple[int, Num[Array, "row col"]]]:
        """Predict maps at the size of their labels; `labelled`: what has no label need not be right."""

    def truth(self, sample: int) -> Num[Array, "row col"]:
        """Give the map of a sample at its own size."""


class ReadSamples:
    """Samples that are read, and encoded, whenever they are needed.

    Only windows of validation samples are encoded once, where the encoder is frozen: a large image has many, and each
    epoch asks for all of them.

    Args:
        reader: of the samples.
        native: whether maps are predicted in windows of the images' own pixels.
        frozen: whether levels never change.
    """

    def __init__(self, reader: TaskReader, *, native: bool, frozen: bool) -> None:
        self._reader = reader
        self._native = native
        self._truths = _Truths(reader)
        self._repeated = set(reader.data.part("val").tolist()) if frozen else set()
        self._windows = _Windows(reader)

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches."""
        return self._reader.steps_per_epoch

    def training_batches(self, epoch: int) -> Iterator[TaskBatch | LevelBatch]:
        """Give the training samples shuffled and varied, with targets."""
        yield from self._reader.training_batches(epoch)

    def predicted(
        self, network: MapNetwork, samples: Int[Array, " sample"], read: Read, *, labelled: bool
    ) -> Iterator[tuple[int, Num[Array, "row col"]]]:
        """Predict maps at the size of their labels, of samples in any order.

        Args:
            network: in evaluation mode.
            samples: positions.
            read: makes a map of outputs.
            labelled: leave out windows without any label; what is predicted where labels are stays the same.
        """
        if not self._native:
            yield from predict_whole(network, self._reader.batches(samples), read=read, size_of=self._truths.size)
            return
        for sample in samples.tolist():
            needed = self._truths.has_label(sample) if labelled else None
            if labelled and sample in self._repeated:
                windows: Iterable[tuple[TaskBatch | LevelBatch, Window]] = self._windows.of(network, sample, needed)
            else:
                windows = self._reader.windows(sample, needed=needed)
            yield sample, predict_windows(network, windows, read=read, size=self._truths.size(sample))

    def truth(self, sample: int) -> Num[Array, "row col"]:
        """Give the map of a sample at its own size."""
        return self._truths.of(sample)


@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenEncoder:
    """What gives levels that never change."""

    name: str
    """Of the features, for the cache."""
    encoder: FusedEncoder | SiameseEncoder
    """On its device."""
    blocks: Levels
    """What the head sees."""


class KnownSamples:
    """Samples that were encoded once, and are held: an epoch takes as long as its head.

    The order of training is that of reading, so both give the same head, but for rounding.

    Args:
        setting: whose images are seen whole, and never varied.
        frozen: gives the levels.
    """

    def __init__(self, setting: Setting, frozen: FrozenEncoder) -> None:
        data, self._reader = setting.data, setting.reader
        self._batch_size = setting.recipe.input.batch_size
        self._truths = _Truths(setting.reader)
        every = np.arange(len(data))
        found = extract_levels(
            {frozen.name: frozen.encoder},
            setting.reader,
            every,
            blocks=frozen.blocks,
            cache=setting.cache,
            shown=setting.shown,
        )
        self._levels = found[frozen.name]
        train = data.part("train")
        self._targets = {
            int(sample): _compact(target)
            for batch in self._reader.batches(train, targets=True, shown=setting.shown)
            for sample, target in zip(batch.samples, _targets(batch), strict=True)
        }

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches."""
        return self._reader.steps_per_epoch

    def training_batches(self, epoch: int) -> Iterator[TaskBatch | LevelBatch]:
        """Give the training samples shuffled, with targets."""
        for samples in self._reader.training_order(epoch):
            targets = torch.stack([self._targets[sample] for sample in samples])
            yield self._batch(samples, targets if targets.is_floating_point() else targets.long())

    def predicted(
        self,
        network: MapNetwork,
        samples: Int[Array, " sample"],
        read: Read,
        *,
        labelled: bool,  # noqa: ARG002 (images are seen whole)
    ) -> Iterator[tuple[int, Num[Array, "row col"]]]:
        """Predict whole maps at the size of their labels, of samples in any order."""
        parts = [
            samples[first : first + self._batch_size].tolist() for first in range(0, len(samples), self._batch_size)
        ]
        yield from predict_whole(network, map(self._batch, parts), read=read, size_of=self._truths.size)

    def truth(self, sample: int) -> Num[Array, "row col"]:
        """Give the map of a sample at its own size."""
        return self._truths.of(sample)

    def _batch(self, samples: Sequence[int], targets: Tensor | None = None) -> LevelBatch:
        size = self._reader.img_size
        return LevelBatch(
            samples=np.array(samples, dtype=np.int64),
            levels=tuple(level[samples] for level in self._levels),
            size=(size, size),
            targets=targets,
        )


class _Windows:
    """Levels of windows, held as long as there is room."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader
        self._held: dict[int, list[tuple[LevelBatch, Window]]] = {}
        free = available_bytes(torch.device("cpu"))
        self._room = np.inf if free is None else _MEMORY_SHARE * free

    def of(self, network: MapNetwork, sample: int, needed: Needed | None) -> Iterator[tuple[LevelBatch, Window]]:
        if sample in self._held:
            yield from self._held[sample]
            return
        made = []
        for batch, window in self._reader.windows(sample, needed=needed):
            levels = network.known(batch)
            self._room -= sum(level.nbytes for level in levels.levels)
            made.append((levels, window))
            yield levels, window
        if self._room > 0:
            self._held[sample] = made


class _Truths:
    """Maps at their own size, read once and held in few bytes."""

    def __init__(self, reader: TaskReader) -> None:
        self._reader = reader
        self._held: dict[int, Tensor] = {}

    def of(self, sample: int) -> Num[Array, "row col"]:
        if sample not in self._held:
            self._held[sample] = _compact(torch.from_numpy(self._reader.target(sample)))
        held = self._held[sample]
        return (held if held.is_floating_point() else held.long()).numpy()

    def has_label(self, sample: int) -> Needed:
        truth = self.of(sample)
        known = np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0
        return lambda window: bool(known[window.rows, window.cols].any())

    def size(self, sample: int) -> tuple[int, int]:
        rows, cols = self.of(sample).shape
        return rows, cols


def stays_the_same(setting: Setting) -> bool:
    """Tell whether training sees each image in one way only: whole, and never varied."""
    plain = setting.recipe.fit.augment == AugmentRecipe()
    return plain and setting.recipe.input.resize == "whole"


def fits_memory(setting: Setting, *, width: int, num_levels: int, patch_size: int) -> bool:
    """Tell whether the levels of all samples can be held; where nobody says how much memory there is, they can.

    Args:
        setting: samples, and the size of their input.
        width: of a level.
        num_levels: that the head sees.
        patch_size: of the encoder, pixels.
    """
    free = available_bytes(torch.device("cpu"))
    patches = (setting.reader.img_size // patch_size) ** 2
    return free is None or len(setting.data) * num_levels * width * patches * _FLOAT_BYTES < _MEMORY_SHARE * free


def _targets(batch: TaskBatch) -> Num[Tensor, "sample row col"]:
    if batch.targets is None:
        raise InputError("batches came without targets")
    return batch.targets


def _compact(targets: Num[Tensor, "*row col"]) -> Num[Tensor, "*row col"]:
    """Hold classes in few bytes."""
    return targets if targets.is_floating_point() else targets.to(torch.int16)
