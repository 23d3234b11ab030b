"""From the samples of a store to batches on the device: what they hold, what is drawn for them, reading ahead."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Int, to_device
from anyband.data.harmonise import Normalisation, Standardiser, stretched
from anyband.data.image_sets import ImageSets
from anyband.data.loader import (
    OpenShards,
    RawImages,
    RawSets,
    SetDraw,
    SetSampler,
    ShardShuffle,
    batches_in_work,
    pairs_drawn,
    read_ahead,
    read_sets,
)
from anyband.data.resample import (
    Augmentation,
    AugmentOptions,
    Resampler,
    draw_augmentation,
    input_corners,
    input_gsd_m,
)
from anyband.data.store import ChipStore
from anyband.encode.metadata import METADATA, hide_metadata, set_metadata
from anyband.errors import CatalogueError, RecipeError
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, SetNoise
from anyband.pretraining.recipe import PretrainRecipe
from anyband.randomness import generator, uniform
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.ranges import RangeTable, stem_bands

__all__ = [
    "NUM_STEM_BANDS",
    "ArrayInput",
    "BatchPreparer",
    "DrawnSets",
    "Example",
    "Samples",
    "SharedSampler",
    "array_inputs",
    "assignment_rules",
    "draw_stem_bands",
    "load_parts",
    "stem_bands",
    "take_stem_bands",
]

Example = tuple[SetBatch, SetNoise]

NUM_STEM_BANDS = 3
"""Bands that a stem reads."""


def draw_stem_bands(
    num_bands: Int[Array, "set slot"], *, seed: int, step: int, samples: Sequence[int]
) -> Int[Array, "set slot 3"]:
    """Draw the bands of each image for a stem: a function of (seed, step, sample, slot); `samples` identify sets.

    Three different ones in random order; where an image has fewer, each stands there at least once.

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


def take_stem_bands(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    bands: Int[Array, "batch 3"],
) -> tuple[Float[Tensor, "batch 3 row col"], Bool[Tensor, "batch 3 row col"] | None]:
    """Take three bands of each image, others of each."""
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


@dataclass(frozen=True, kw_only=True)
class DrawnSets:
    """A batch of sets with all that is drawn for it, on the way to the device."""

    raw: RawSets
    augmentation: Augmentation
    bands: tuple[Int[Array, "_ 3"] | None, ...]
    """For each group: the bands that a stem of three reads; None: those of the assignment."""
    metadata: SetMetadata | None
    noise: Float[Array, "set purpose token"]
    """For mixup, then for the masks, then for tying."""
    hides_last: bool


class BatchPreparer:
    """Makes network input of what was read; every draw is a function of (seed, step, sample).

    What is drawn needs no device, so threads that read ahead do it too; the rest is work of the device.
    """

    def __init__(self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device) -> None:
        self._recipe = recipe
        self._device = device
        self._mixing = {
            name: torch.as_tensor(np.asarray(entry.assignment.mixing), dtype=torch.float32, device=device)
            for name, entry in inputs.items()
        }
        self._standardise = {name: Standardiser(entry.normalisation, device=device) for name, entry in inputs.items()}
        self._kept = {name: _kept(entry, device) for name, entry in inputs.items()}

    def prepare(self, raw: RawSets, *, step: int, augment: AugmentOptions | None = None) -> Example:
        return self.finish(self.draw(raw, step=step, augment=augment))

    def draw(self, raw: RawSets, *, step: int, augment: AugmentOptions | None = None) -> DrawnSets:
        """Draw all that happens to a batch: one augmentation for all images of a set, metadata to hide, noise.

        `augment` says what augmentation may do to a look at a batch that is told all that is known; None: training.
        """
        recipe, samples = self._recipe, raw.draw.samples.tolist()
        augmentation = draw_augmentation(
            augment or recipe.data.augment, seed=recipe.seed, step=step, samples=samples, grid=raw.draw.grid
        )
        bands: tuple[Array | None, ...] = (None,) * len(raw.groups)
        if augment is None and recipe.model.stem == "triplet":
            bands = _bands_of_groups(raw, seed=recipe.seed, step=step)
        coin = float(generator(recipe.seed, step=step, sample=0, purpose="hidden image").random())
        on_sets, num_slots = recipe.data.sets is not None, raw.draw.chips.shape[1]
        return DrawnSets(
            raw=raw,
            augmentation=augmentation,
            bands=bands,
            metadata=self._metadata(raw, augmentation, None if augment is not None else step),
            noise=self._noise(raw.draw, step=step),
            hides_last=on_sets and num_slots > 1 and coin < recipe.model.hidden_image,
        )

    def finish(self, drawn: DrawnSets) -> Example:
        """Make the network's input on the device. On a GPU nothing is waited for."""
        draw = drawn.raw.draw
        # Images of one footprint share what is cut and resized where each set has one of them.
        of_all = self._resampler(drawn.augmentation)
        groups = tuple(
            self._image(raw, bands, of_all if raw.sets is None else self._resampler(drawn.augmentation.of(raw.sets)))
            for raw, bands in zip(drawn.raw.groups, drawn.bands, strict=True)
        )
        noise, num_slots = to_device(drawn.noise, self._device), draw.chips.shape[1]
        if self._recipe.data.sets is None:
            batch = SetBatch(groups=groups, partnered=True)
            return batch, SetNoise(mixup=noise[:, 0], masking=noise[:, 1:].expand(-1, num_slots, -1))
        batch = SetBatch(
            groups=groups,
            rows=None if drawn.raw.rows is None else to_device(drawn.raw.rows, self._device),
            same_source=to_device(draw.same_source, self._device),
            first_slot=to_device(draw.first_slot, self._device),
            metadata=None if drawn.metadata is None else self._on_device(drawn.metadata),
            partnered=draw.partnered,
        )
        tying = noise[:, 1 + num_slots :]
        return batch, SetNoise(
            mixup=noise[:, 0],
            masking=noise[:, 1 : 1 + num_slots],
            tying=tying if tying.shape[1] else None,
            hides_last=drawn.hides_last,
        )

    def _image(self, raw: RawImages, bands: Int[Array, "batch 3"] | None, resample: Resampler) -> ImageBatch:
        """Standardise images, keep the bands that the ranges express or the stem draws, and augment them."""
        known = None if raw.valid is None else to_device(raw.valid, self._device)
        pixels = self._standardise[raw.array](to_device(raw.pixels, self._device), known)
        kept = self._kept[raw.array]
        if bands is not None:
            pixels, known = take_stem_bands(pixels, known, bands)
        elif kept is not None:
            pixels = pixels.index_select(1, kept)
            known = None if known is None else known.index_select(1, kept)
        with _in_float32(self._device):
            pixels, known = resample(pixels, known)
        return ImageBatch(pixels=pixels, valid=known, mixing=self._mixing[raw.array])

    def _resampler(self, augmentation: Augmentation) -> Resampler:
        side = self._recipe.model.img_size
        return Resampler(augmentation, shape=(side, side), device=self._device)

    def _on_device(self, metadata: SetMetadata) -> SetMetadata:
        return SetMetadata(**{name: to_device(values, self._device) for name, values in vars(metadata).items()})

    def _metadata(self, raw: RawSets, augmentation: Augmentation, step: int | None) -> SetMetadata | None:
        """Tell what the network sees: corners and pixel size follow the crop; some is hidden in a training step."""
        known, sets = raw.metadata, self._recipe.data.sets
        if known is None:
            return None
        gsd_m = input_gsd_m(augmentation, known.gsd_m, known.shape_px, img_size=self._recipe.model.img_size)
        told = set_metadata(input_corners(augmentation, known.corners_deg), known.gsd_m, known.time, gsd_m)
        if step is None or sets is None or not sets.metadata_dropout:
            return told
        shape = (raw.draw.chips.shape[1], len(METADATA))
        # The name of the purpose decides the numbers that are drawn.
        draws = self._uniform(raw.draw, step=step, purpose="facts", shape=shape)
        return hide_metadata(told, torch.from_numpy(draws < sets.metadata_dropout))

    def _noise(self, draw: SetDraw, *, step: int) -> Float[Array, "set purpose token"]:
        model, num_slots = self._recipe.model, draw.chips.shape[1]
        num_tokens = (model.img_size // model.patch_size) ** 2
        if self._recipe.data.sets is None:
            # Both images of a pair share their mask.
            return self._uniform(draw, step=step, purpose="mixup and masking", shape=(2, num_tokens)).astype(np.float32)
        num_drawn = 1 + num_slots * (2 if model.masking == "hybrid" else 1)
        drawn = self._uniform(draw, step=step, purpose="masking of sets", shape=(num_drawn, num_tokens))
        return drawn.astype(np.float32)

    def _uniform(self, draw: SetDraw, *, step: int, purpose: str, shape: tuple[int, ...]) -> Float[Array, "set ..."]:
        return uniform(self._recipe.seed, step=step, samples=draw.samples.tolist(), purpose=purpose, shape=shape)


def _bands_of_groups(raw: RawSets, *, seed: int, step: int) -> tuple[Int[Array, "_ 3"], ...]:
    """Draw the bands that a stem reads of every image, and give them to each group in its own order."""
    counts = [np.full(len(group.pixels), group.pixels.shape[1]) for group in raw.groups]
    rows = _rows(raw)
    of_image = np.concatenate(counts)
    drawn = draw_stem_bands(of_image[rows], seed=seed, step=step, samples=raw.draw.samples.tolist())
    in_groups = np.empty((len(of_image), NUM_STEM_BANDS), dtype=np.int64)
    in_groups[rows] = drawn
    return tuple(np.split(in_groups, np.cumsum([len(one) for one in counts])[:-1]))


def _rows(raw: RawSets) -> Int[Array, "set slot"]:
    if raw.rows is not None:
        return raw.rows
    num_sets, num_slots = raw.draw.chips.shape
    return np.arange(num_sets * num_slots).reshape(num_slots, num_sets).T


# chosen: batches that a panel's sets are looked for in.
_LOOKED_THROUGH = 16


class Samples:
    """What is learned from: pairs or sets of a split of a store.

    `shuffle` tells the shards to read one after the other; None: chips are read one by one.
    """

    def __init__(self, store: ChipStore, sets: ImageSets, *, shuffle: ShardShuffle | None = None) -> None:
        self.store = store
        self.sets = sets
        self.shuffle = shuffle

    @property
    def arrays(self) -> tuple[str, ...]:
        return self.sets.arrays

    @property
    def most_images(self) -> int:
        """Most images of a sample."""
        return int(self.sets.capacity.max())

    @property
    def largest_kind(self) -> int:
        """Most samples that could stand in one batch, each once."""
        return int(np.bincount(self.sets.kinds()[1]).max())

    def sampler(self, *, batch_size: int, seed: int) -> SetSampler:
        return SetSampler(self.sets, batch_size=batch_size, seed=seed, shuffle=self.shuffle)

    def read(self, draw: SetDraw, shards: OpenShards | None = None) -> RawSets:
        """Read a batch as it is stored; `shards` are in memory already. `StoreError` where the store is damaged."""
        return read_sets(self.store, draw, shards=shards, metadata=not self.sets.are_pairs)

    def expect(self, shards: OpenShards, draw: SetDraw) -> None:
        """Let the shards of a batch be fetched that comes."""
        shards.expect(draw.chips.ravel(), kind=draw.kind)

    def places(self, draw: SetDraw) -> list[str]:
        # All images of a sample are of one place.
        named: list[str] = self.store.index.column("place").take(draw.chips[:, 0]).to_pylist()
        return named

    def title(self, draw: SetDraw) -> str:
        if self.sets.are_pairs:
            return f"pairs of {' + '.join(self.sets.pair_arrays[draw.kind])}"
        sensors = sorted(set(self.store.index.column("sensor").take(draw.chips.ravel()).to_pylist()))
        return f"sets of {_images_word(draw.chips.shape[1])} of {', '.join(sensors)}"

    def notes(self, *, batch_size: int) -> list[str]:
        """Say what stands in a batch several times, which sets are smaller than asked for, and how shards are mixed."""
        kinds, numbers = self.sets.kinds()
        few = [(kind, int(count)) for kind, count in enumerate(np.bincount(numbers, minlength=len(kinds)))]
        few = [(kind, count) for kind, count in few if count < batch_size]
        notes = []
        if self.sets.are_pairs:
            notes += [
                f"{count} pairs of {' + '.join(self.sets.pair_arrays[kind])} do not fill a batch of {batch_size}: "
                "they stand in it several times, each with draws of their own"
                for kind, count in few
            ]
        elif few:
            counted = (
                f"{count} with {_images_word(kinds[kind][0])} of {_sensors_word(kinds[kind][1])}" for kind, count in few
            )
            notes.append(
                f"footprints that do not fill a batch of {batch_size} stand in it several times, each with draws of "
                f"its own: {'; '.join(counted)}"
            )
        least = self.sets.size[0]
        small = int((self.sets.capacity < least).sum())
        if small:
            notes.append(
                f"{small} of {len(self.sets)} footprints have fewer than {_images_word(least)}: their sets are smaller"
            )
        if self.shuffle is not None:
            notes.append(
                f"order by shards: {len(np.unique(self.shuffle.shards))} shards, up to {self.shuffle.open_shards} of "
                "each kind mixed at a time"
            )
        return notes

    def shown(self, count: int) -> dict[str, SetDraw]:
        """Choose up to `count` samples for each panel, always the same: name of the panel → what it shows.

        Of pairs some of each kind; of sets the largest, if possible of several sensors, of the first batches of seed 0.
        """
        if self.sets.are_pairs:
            return {"_".join(arrays): self._some(kind, count) for kind, arrays in enumerate(self.sets.pair_arrays)}
        sampler = SetSampler(self.sets, batch_size=min(count, self.largest_kind), seed=0, shuffle=self.shuffle)
        draws = [sampler.batch(step) for step in range(_LOOKED_THROUGH)]
        return {"sets": max(draws, key=lambda draw: (draw.chips.shape[1], draw.partnered))}

    def _some(self, kind: int, count: int) -> SetDraw:
        items = np.flatnonzero(self.sets.pair_kind == kind)
        # Spread over the list, because neighbours in it are neighbours on the ground.
        items = items[np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64)]
        return pairs_drawn(self.sets, items, kind=kind, samples=items, epoch=0)


def _images_word(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _sensors_word(several: bool) -> str:
    return "several sensors" if several else "one sensor"


# chosen: more than what the threads of a loader have in work.
_KEPT_BATCHES = 64


class SharedSampler:
    """The part of each global batch that one process computes, cut further into parts that are accumulated.

    All parts of all processes together are the global batch, in order: a pure function of the step.

    Raises:
        RecipeError: the batch can't be cut so.
    """

    def __init__(
        self,
        whole: Callable[[int], SetDraw],
        *,
        batch_size: int,
        process: int = 0,
        num_processes: int = 1,
        parts: int = 1,
    ) -> None:
        pieces = num_processes * parts
        if batch_size % pieces:
            raise RecipeError(
                f"optim.batch_size {batch_size} can't be cut into {num_processes} processes × "
                f"{parts} accumulated parts; take a multiple of {pieces}"
            )
        # Batches are read ahead, each in parts; keeping some does not change any answer.
        self._global = lru_cache(maxsize=_KEPT_BATCHES)(whole)
        self._first, self._size, self.parts = process * parts, batch_size // pieces, parts

    def batch(self, step: int) -> SetDraw:
        """Tell what a part holds; `step` counts parts, `parts` to a training step."""
        training_step, part = divmod(step, self.parts)
        first = (self._first + part) * self._size
        return self.global_batch(training_step).at(slice(first, first + self._size))

    def global_batch(self, step: int) -> SetDraw:
        """Tell what all processes together compute in a training step."""
        return self._global(step)


def load_parts(
    samples: Samples, sampler: SharedSampler, preparer: BatchPreparer, recipe: PretrainRecipe, *, steps: range
) -> Iterator[DrawnSets]:
    """Load the parts of training steps that a process computes, with all that is drawn for them."""
    parts, workers = sampler.parts, recipe.run.workers
    read, expect = samples.read, None
    if samples.shuffle is not None:
        # A shard serves some of the parts of a step, and waits for its turn where a batch has fewer places than shards.
        turns = -(-samples.shuffle.open_shards // recipe.optim.batch_size)
        shards = OpenShards(samples.store, batches=batches_in_work(workers) + turns * parts)
        read, expect = partial(samples.read, shards=shards), partial(samples.expect, shards)
    return read_ahead(
        lambda part: preparer.draw(read(part[1]), step=part[0]),
        ((step // parts, sampler.batch(step)) for step in range(steps.start * parts, steps.stop * parts)),
        workers=workers,
        expect=None if expect is None else lambda part: expect(part[1]),
    )
