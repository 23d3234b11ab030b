"""Batches of a pre-training step, and their noise."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.harmonise import Normalisation, Standardiser, stretched
from anyband.data.loader import BatchLoader, OpenShards, RawSets
from anyband.data.resample import Augmentation, AugmentOptions, Resampler
from anyband.data.sampler import ShardLanes, shuffle_quality
from anyband.data.store import ChipStore
from anyband.device_copies import to_device
from anyband.errors import CatalogueError, RecipeError
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise, SetBatch, SetNoise
from anyband.pretrain.recipe import PretrainRecipe
from anyband.randomness import generator
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.ranges import RangeTable, stem_bands

__all__ = [
    "NUM_STEM_BANDS",
    "ArrayInput",
    "ArrayReader",
    "Draw",
    "Example",
    "Preparer",
    "Sampler",
    "Samples",
    "Share",
    "SharedSampler",
    "array_inputs",
    "assignment_rules",
    "draw_stem_bands",
    "drawn_for_groups",
    "order_notes",
    "part_loader",
    "stem_bands",
    "take_stem_bands",
]

NUM_STEM_BANDS = 3
"""Bands that a stem reads."""


def draw_stem_bands(
    num_bands: Int[Array, "set slot"], *, seed: int, step: int, samples: Sequence[int]
) -> Int[Array, "set slot 3"]:
    """Draw the bands of each image in a training step: a function of (seed, step, sample, slot).

    Three different ones in random order; where an image has fewer, each stands there at least once.

    Args:
        num_bands: of each image, at least 1.
        seed: of the run.
        step: training step.
        samples: identity of each set.

    Returns:
        Position of a band for each position of the stem.

    Source:
        The released code of A²-MAE (arXiv 2406.08079) draws three bands at random for one shared stem. That they are
        different and in random order, and what happens to fewer than three, is our reading.
    """
    drawn = np.empty((*num_bands.shape, NUM_STEM_BANDS), dtype=np.int64)
    for row, sample in enumerate(samples):
        draws = generator(seed, step=step, sample=sample, purpose="bands of the stem")
        for slot, count in enumerate(num_bands[row]):
            order = draws.permutation(int(count))
            drawn[row, slot] = order[np.arange(NUM_STEM_BANDS) % count]
    return drawn


def drawn_for_groups(raw: RawSets, *, seed: int, step: int) -> tuple[Int[Array, "_ 3"], ...]:
    """Draw the bands of every image of a batch, and give them to each group in its own order.

    Args:
        raw: sets as they were read.
        seed: of the run.
        step: training step.

    Returns:
        One array for each group, one row for each of its images.
    """
    of_image = np.concatenate([np.full(len(group.pixels), group.pixels.shape[1]) for group in raw.groups])
    drawn = draw_stem_bands(of_image[raw.rows], seed=seed, step=step, samples=raw.draw.samples.tolist())
    in_groups = np.empty((len(of_image), NUM_STEM_BANDS), dtype=np.int64)
    in_groups[raw.rows] = drawn
    ends = np.cumsum([len(group.pixels) for group in raw.groups])
    return tuple(np.split(in_groups, ends[:-1]))


def take_stem_bands(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    bands: Int[Array, "batch 3"],
) -> tuple[Float[Tensor, "batch 3 row col"], Bool[Tensor, "batch 3 row col"] | None]:
    """Take three bands of each image, others of each.

    Args:
        pixels: with all bands.
        valid: which have data; None: all.
        bands: of each image.
    """
    image = torch.arange(len(pixels), device=pixels.device)[:, None]
    chosen = torch.from_numpy(bands).to(pixels.device)
    return pixels[image, chosen], None if valid is None else valid[image, chosen]


@dataclass(frozen=True, kw_only=True)
class ArrayInput:
    """How the chips of one array of a store become network input."""

    normalisation: Normalisation
    """Of all bands of the array."""
    assignment: Assignment
    """Which bands are kept, and how they meet the trained ranges."""


def assignment_rules(recipe: PretrainRecipe) -> AssignmentRules:
    """Take from a recipe what happens to bands that no range is made for."""
    model = recipe.model
    return AssignmentRules(unseen=model.unseen, min_support=model.min_support, out_of_span=model.out_of_span)


def array_inputs(
    store: ChipStore, names: Iterable[str], *, ranges: RangeTable, recipe: PretrainRecipe
) -> dict[str, ArrayInput]:
    """Work out how each array is read.

    Raises:
        AssignmentError: a band that the ranges can't express.
        CatalogueError: no statistics for a band.
    """
    rules = assignment_rules(recipe)
    return {
        name: ArrayInput(
            normalisation=_normalisation(store, name, recipe),
            assignment=assign(store.array_sensor(name), ranges, rules),
        )
        for name in names
    }


def _normalisation(store: ChipStore, array: str, recipe: PretrainRecipe) -> Normalisation:
    try:
        return stretched(store.normalisation(array, source=recipe.data.statistics), recipe.data.stretch)
    except CatalogueError as problem:
        raise CatalogueError(f"{problem}, and take them with data.statistics=store") from problem


class ArrayReader:
    """Makes images for the network of the stored numbers of an array, on the device."""

    def __init__(self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device) -> None:
        """Move what is constant to the device."""
        self._img_size = recipe.model.img_size
        self._inputs = inputs
        self._device = device
        self._mixing = {
            name: torch.as_tensor(np.asarray(entry.assignment.mixing), dtype=torch.float32, device=device)
            for name, entry in inputs.items()
        }
        self._standardise = {name: Standardiser(entry.normalisation, device=device) for name, entry in inputs.items()}
        self._kept = {name: _kept(entry, device) for name, entry in inputs.items()}

    def resampler(self, drawn: Augmentation) -> Resampler:
        """Make what cuts and resizes the images of a batch; images of one footprint share it."""
        return Resampler(drawn, shape=(self._img_size, self._img_size), device=self._device)

    def image(
        self,
        dn: Num[torch.Tensor, "batch band row col"],
        valid: Bool[torch.Tensor, "batch band row col"] | None,
        array: str,
        resample: Resampler,
        bands: Int[Array, "batch 3"] | None = None,
    ) -> ImageBatch:
        """Standardise images, keep the bands that the ranges express, and augment them.

        Args:
            dn: stored numbers.
            valid: where they are data; None: everywhere.
            array: that they are from.
            resample: cuts and resizes each image.
            bands: of each image, for a stem of three; None: those of the assignment.
        """
        known = None if valid is None else to_device(valid, self._device)
        pixels = self._standardise[array](to_device(dn, self._device), known)
        kept = self._kept[array]
        if bands is not None:
            pixels, known = take_stem_bands(pixels, known, bands)
        elif kept is not None:
            pixels = pixels.index_select(1, kept)
            known = None if known is None else known.index_select(1, kept)
        with _in_float32(self._device):
            pixels, known = resample(pixels, known)
        return ImageBatch(pixels=pixels, valid=known, mixing=self._mixing[array])


def _in_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Pixels are resampled in float32, whatever the network computes in."""
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def _kept(entry: ArrayInput, device: torch.device) -> torch.Tensor | None:
    """Tell which bands of an array are kept; None: all."""
    kept = entry.assignment.kept_index
    if kept == tuple(range(len(entry.normalisation.bands))):
        return None
    return torch.tensor(kept, dtype=torch.int64, device=device)


# chosen: more than what the threads of a loader have in work.
_KEPT_BATCHES = 64

Example = tuple[PairBatch, PairNoise] | tuple[SetBatch, SetNoise]
"""What an autoencoder takes."""


OwnT = TypeVar("OwnT")
RawT = TypeVar("RawT")
ReadyT = TypeVar("ReadyT")


@runtime_checkable
class Draw(Protocol):
    """What one batch holds."""

    @property
    def epoch(self) -> int:
        """Epoch of the batch, from 0."""

    @property
    def samples(self) -> Int[Array, " sample"]:
        """Identities of what is drawn."""

    def part(self: OwnT, which: slice) -> OwnT:
        """Take some of the samples."""


DrawT = TypeVar("DrawT", bound=Draw)
DrawnT = TypeVar("DrawnT", bound=Draw, covariant=True)


@runtime_checkable
class Sampler(Protocol[DrawnT]):
    """Batches as a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""

    def batch(self, step: int) -> DrawnT:
        """Tell what the batch of a step holds."""


class Preparer(ABC, Generic[RawT, ReadyT]):
    """Makes network input of what was read; every draw is a function of (seed, step, sample).

    In two parts: what is drawn needs no device, so threads that read ahead do it too; the rest is work of the device.
    """

    @abstractmethod
    def draw(self, raw: RawT, *, step: int, augment: AugmentOptions | None = None) -> ReadyT:
        """Draw all that happens to a batch.

        Args:
            raw: as read.
            step: training step, for the draws.
            augment: what augmentation may do where a batch is looked at, not trained on; None: training.
        """

    @abstractmethod
    def finish(self, drawn: ReadyT) -> Example:
        """Make the network input of a batch on the device. On a GPU nothing is waited for."""

    def prepare(self, raw: RawT, *, step: int, augment: AugmentOptions | None = None) -> Example:
        """Do both."""
        return self.finish(self.draw(raw, step=step, augment=augment))


class Samples(ABC, Generic[DrawT]):
    """What is learned from: samples of a split of a store, each of one footprint."""

    store: ChipStore
    """Where they are."""
    lanes: ShardLanes | None
    """The shards that they stand in, where these are read one after the other; None: chips are read one by one."""

    @property
    @abstractmethod
    def arrays(self) -> tuple[str, ...]:
        """Arrays of the store that they are in."""

    @property
    @abstractmethod
    def most_images(self) -> int:
        """Most images of a sample."""

    @property
    @abstractmethod
    def largest_kind(self) -> int:
        """Most samples that could stand in one batch, each once."""

    @abstractmethod
    def sampler(self, *, batch_size: int, seed: int) -> Sampler[DrawT]:
        """Plan batches."""

    @abstractmethod
    def read(self, draw: DrawT, shards: OpenShards | None = None) -> Any:
        """Read a batch, as it is stored.

        Args:
            draw: what it holds.
            shards: what is in memory already; None: nothing.

        Raises:
            StoreError: the store is damaged.
        """

    @abstractmethod
    def preparer(
        self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device
    ) -> Preparer[Any, Any]:
        """Make what brings a batch to the network."""

    @abstractmethod
    def chips(self, draw: DrawT) -> Int[Array, "sample image"]:
        """Tell the rows of the store's index that a batch holds."""

    @abstractmethod
    def items(self, draw: DrawT) -> Int[Array, " sample"]:
        """Tell which of the samples a batch holds, by their numbers in `lanes`."""

    @abstractmethod
    def kind(self, draw: DrawT) -> Hashable:
        """Name what all samples of a batch have in common; kinds pass in rounds of their own."""

    @abstractmethod
    def title(self, draw: DrawT) -> str:
        """Say what a batch holds, for messages."""

    @abstractmethod
    def notes(self, *, batch_size: int) -> list[str]:
        """Say what a reader should know of them before a run."""

    @abstractmethod
    def shown(self, count: int) -> dict[str, DrawT]:
        """Choose up to `count` samples for each panel, always the same: name of the panel → what it shows."""

    def views(self, example: Any, recipe: PretrainRecipe) -> dict[str, Any]:  # noqa: ARG002 (sets ask)
        """Say what of an example is drawn: end of the panel's name → what to draw."""
        return {"": example}

    @abstractmethod
    def panel(self, model: Any, raw: Any, example: Any, inputs: Mapping[str, ArrayInput], *, title: str) -> bytes:
        """Draw samples, what the encoder saw of them, and what the network makes of that.

        Args:
            model: of such samples, in evaluation mode.
            raw: as read.
            example: as prepared from it.
            inputs: how each array is read.
            title: stands above.

        Returns:
            A PNG.
        """

    def expect(self, shards: OpenShards, draw: DrawT) -> None:
        """Let the shards of a batch be fetched that comes."""
        shards.expect(self.chips(draw).ravel(), kind=self.kind(draw))

    def places(self, draw: DrawT) -> list[str]:
        """Name the place of each sample of a batch."""
        # All images of a sample are of one place.
        named: list[str] = self.store.index.column("place").take(self.chips(draw)[:, 0]).to_pylist()
        return named


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of a global batch a process computes."""

    process: int = 0
    """Number of this process, from 0."""
    num_processes: int = 1
    """Number of processes."""
    parts: int = 1
    """Parts that a process computes one after the other."""

    def check(self, batch_size: int) -> None:
        """See that the batch can be cut so.

        Raises:
            RecipeError: it can't.
        """
        pieces = self.num_processes * self.parts
        if batch_size % pieces:
            raise RecipeError(
                f"optim.batch_size {batch_size} can't be cut into {self.num_processes} processes × "
                f"{self.parts} accumulated parts; take a multiple of {pieces}"
            )


class SharedSampler(Generic[DrawT]):
    """The part of each global batch that one process computes, cut further into parts that are accumulated.

    All parts of all processes together are the global batch, in order: a pure function of the step.
    """

    def __init__(self, whole: Sampler[DrawT], *, batch_size: int, share: Share) -> None:
        """Cut the batches of `whole`, which are of `batch_size`."""
        # Batches are read ahead, each in parts; keeping some does not change any answer.
        self._global = lru_cache(maxsize=_KEPT_BATCHES)(whole.batch)
        self._share = share
        self._part_size = batch_size // (share.num_processes * share.parts)

    def batch(self, step: int) -> DrawT:
        """Tell what a part holds; `step` counts parts, `share.parts` to a training step."""
        training_step, part = divmod(step, self._share.parts)
        first = (self._share.process * self._share.parts + part) * self._part_size
        return self.global_batch(training_step).part(slice(first, first + self._part_size))

    def global_batch(self, step: int) -> DrawT:
        """Tell what all processes together compute in a training step."""
        return self._global(step)


# chosen: enough batches for a figure that is good to some percent, drawn in well under a second.
_BATCHES_LOOKED_AT = 64


def part_loader(
    samples: Samples[Any],
    sampler: SharedSampler[Any],
    preparer: Preparer[Any, Any],
    recipe: PretrainRecipe,
    *,
    steps: range,
) -> BatchLoader[Any, Any]:
    """Load the parts of training steps that a process computes, each with all that is drawn for it.

    Args:
        samples: that are learned from.
        sampler: tells what each part holds.
        preparer: draws.
        recipe: of the run.
        steps: training steps to load, one after the other.
    """
    parts, workers = recipe.optim.accumulate, recipe.run.workers
    read, expect = samples.read, None
    if samples.lanes is not None:
        # A lane serves some of the parts of a step, and waits for its turn where a batch has fewer places than lanes.
        turns = -(-samples.lanes.count // recipe.optim.batch_size)
        shards = OpenShards(samples.store, batches=BatchLoader.batches_in_work(workers) + turns * parts)
        read, expect = partial(samples.read, shards=shards), partial(samples.expect, shards)
    return BatchLoader(
        lambda part: preparer.draw(read(part.draw), step=part.step),
        _Parts(sampler, parts),
        first_step=steps.start * parts,
        last_step=steps.stop * parts,
        workers=workers,
        expect=None if expect is None else lambda part: expect(part.draw),
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is read and drawn at once."""

    step: int
    """Training step."""
    draw: Any
    """What it holds."""


class _Parts:
    """The parts of a sampler, each with its training step."""

    def __init__(self, sampler: SharedSampler[Any], parts: int) -> None:
        self._sampler = sampler
        self._parts = parts

    def batch(self, step: int) -> _Part:
        """Tell what a part holds."""
        return _Part(step=step // self._parts, draw=self._sampler.batch(step))


def order_notes(samples: Samples[Any], *, batch_size: int, seed: int) -> list[str]:
    """Say how well an order by shards mixes, from its first batches; nothing where chips are read one by one.

    Args:
        samples: that are learned from.
        batch_size: samples of a batch.
        seed: of the run.
    """
    if samples.lanes is None:
        return []
    shards, by_chips = samples.lanes.shards, copy(samples)
    by_chips.lanes = None
    ours, full = (_same_shard(one, shards, batch_size=batch_size, seed=seed) for one in (samples, by_chips))
    return [
        f"order by shards: {len(np.unique(shards))} shards, up to {samples.lanes.count} of each kind mixed at a time; "
        f"two samples of a batch are of one shard in {ours:.2%} of all cases, with `data.shuffle=chips` in {full:.2%}"
    ]


def _same_shard(samples: Samples[Any], shards: Int[Array, " item"], *, batch_size: int, seed: int) -> float:
    """Measure how often two samples of a batch are of one shard, over the first batches."""
    sampler = samples.sampler(batch_size=batch_size, seed=seed)
    steps = range(min(_BATCHES_LOOKED_AT, sampler.steps_per_epoch))
    order = np.concatenate([shards[samples.items(sampler.batch(step))] for step in steps])
    return shuffle_quality(order, batch_size=batch_size).same_shard
