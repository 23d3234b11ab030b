"""A network that gives maps, its samples, and maps predicted without seams."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from anyband.arrays import Array, Float, Int, Num
from anyband.encode.encoder import available_bytes
from anyband.encode.metadata import Precision
from anyband.errors import InputError
from anyband.evaluate.context import Context
from anyband.evaluate.features import extract_levels
from anyband.evaluate.fusion import FusedEncoder, Levels
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import AugmentRecipe, HeadRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.models.heads import HeadConfig, LinearHead, UPerNetHead, make_head, resized
from anyband.models.inputs import SetMetadata
from anyband.rasters.grid import Blender, Window

__all__ = [
    "Difference",
    "FrozenEncoder",
    "KnownSamples",
    "LevelBatch",
    "MapNetwork",
    "MapSamples",
    "ReadSamples",
    "SiameseEncoder",
    "fits_memory",
    "frozen_levels",
    "input_size",
    "joined_windows",
    "map_head",
    "predict_whole",
    "predict_windows",
    "stays_the_same",
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


# chosen: UPerNet with 512 channels was seen to take 150 MB for a sample of 224 × 224 pixels (CPU).
_HEAD_SAMPLES = 8

Read = Callable[[Float[Array, "output row col"]], Num[Array, "row col"]]
"""Makes a map of a network's outputs."""


def predict_whole(
    network: MapNetwork,
    batches: Iterable[TaskBatch | LevelBatch],
    *,
    read: Read,
    size_of: Callable[[int], tuple[int, int]],
) -> Iterator[tuple[int, Num[Array, "row col"]]]:
    """Predict the maps of samples that the network sees whole. The outputs are resized, bilinearly, not the classes.

    Args:
        network: in evaluation mode.
        batches: of samples, on any device.
        read: makes a map of outputs.
        size_of: rows and columns of a sample's map.

    Returns:
        Position of each sample, and its map.
    """
    device = _device(network)
    for batch in batches:
        with torch.no_grad():
            levels = network.levels(batch.to(device))
        for row, sample in enumerate(batch.samples.tolist()):
            if row % _HEAD_SAMPLES == 0:
                with torch.no_grad():
                    outputs = network.head.outputs([level[row : row + _HEAD_SAMPLES] for level in levels]).float()
            one = row % _HEAD_SAMPLES
            yield sample, read(resized(outputs[one : one + 1], size_of(sample))[0].cpu().numpy())


def predict_windows(
    network: MapNetwork,
    windows: Iterable[tuple[TaskBatch | LevelBatch, Window]],
    *,
    read: Read,
    size: tuple[int, int],
) -> Num[Array, "row col"]:
    """Predict the map of a sample from overlapping windows, whose outputs are averaged; see `Blender`.

    Args:
        network: in evaluation mode.
        windows: one sample's, in the images' own pixels, all of one size, row by row; where there is none, what is
            predicted means nothing.
        read: makes a map of outputs.
        size: rows and columns of the map.
    """
    device = _device(network)

    def outputs() -> Iterator[tuple[Window, Float[Array, "output row col"]]]:
        for batch, window in windows:
            with torch.no_grad():
                found = network(batch.to(device)).float()
            # Images that are smaller than the input fill its first rows and columns.
            yield window, found[0, :, : window.height, : window.width].cpu().numpy()

    strips = [read(strip) for strip in joined_windows(outputs(), size=size)]
    if not strips:
        return read(np.full((network.head.config.num_outputs, *size), np.nan, dtype=np.float32))
    return np.concatenate(strips)


def joined_windows(
    parts: Iterable[tuple[Window, Float[Array, "output row col"]]], *, size: tuple[int, int]
) -> Iterator[Float[Array, "output row col"]]:
    """Join overlapping windows to strips of the whole width, one below the other. Only a few rows are held at once.

    Args:
        parts: windows of one size, row by row, and what is in them.
        size: rows and columns of the whole.

    Raises:
        InputError: a window reaches outside, or comes after one further down.
    """
    blender, height = None, 0
    for window, values in parts:
        if not window.is_inside(*size):
            raise InputError(f"a window ({window}) reaches outside a map of {size[0]} × {size[1]} pixels")
        if blender is None:
            height = window.height
            shape = (window.height, window.width)
            blender = Blender(num_bands=len(values), width=size[1], window=shape, num_rows=height)
        if window.row < blender.first_row:
            raise InputError(f"a window ({window}) comes after row {blender.first_row} was finished; go row by row")
        if window.row > blender.first_row:
            yield from _taken(blender, window.row, height)
        blender.add(window, values)
    if blender is not None:
        yield from _taken(blender, size[0], height)


def _taken(blender: Blender, last_row: int, at_once: int) -> Iterator[Float[Array, "output row col"]]:
    while (left := last_row - blender.first_row) > 0:
        yield blender.take(min(left, at_once))


def _device(network: MapNetwork) -> torch.device:
    return next(network.head.parameters()).device


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
        context: whose images are seen whole, and never varied.
        frozen: gives the levels.
    """

    def __init__(self, context: Context, frozen: FrozenEncoder) -> None:
        data, self._reader = context.data, context.reader
        self._batch_size = context.recipe.input.batch_size
        self._truths = _Truths(context.reader)
        every = np.arange(len(data))
        found = extract_levels(
            {frozen.name: frozen.encoder},
            context.reader,
            every,
            blocks=frozen.blocks,
            cache=context.cache,
            shown=context.shown,
        )
        self._levels = found[frozen.name]
        train = data.part("train")
        self._targets = {
            int(sample): _compact(target)
            for batch in self._reader.batches(train, targets=True, shown=context.shown)
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


def stays_the_same(context: Context) -> bool:
    """Tell whether training sees each image in one way only: whole, and never varied."""
    plain = context.recipe.fit.augment == AugmentRecipe()
    return plain and context.recipe.input.resize == "whole"


def fits_memory(context: Context, *, width: int, num_levels: int, patch_size: int) -> bool:
    """Tell whether the levels of all samples can be held; where nobody says how much memory there is, they can.

    Args:
        context: samples, and the size of their input.
        width: of a level.
        num_levels: that the head sees.
        patch_size: of the encoder, pixels.
    """
    free = available_bytes(torch.device("cpu"))
    patches = (context.reader.img_size // patch_size) ** 2
    return free is None or len(context.data) * num_levels * width * patches * _FLOAT_BYTES < _MEMORY_SHARE * free


def _targets(batch: TaskBatch) -> Num[Tensor, "sample row col"]:
    if batch.targets is None:
        raise InputError("batches came without targets")
    return batch.targets


def _compact(targets: Num[Tensor, "*row col"]) -> Num[Tensor, "*row col"]:
    """Hold classes in few bytes."""
    return targets if targets.is_floating_point() else targets.to(torch.int16)
