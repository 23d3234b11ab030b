"""From the samples of a store to batches on the device: what they hold, what is drawn for them, reading ahead."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Float, Int, Shaped, to_device
from anyband.data.harmonise import Standardiser, stretched
from anyband.data.image_sets import ImageSets, check_sensors
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
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import METADATA, hide_metadata, set_metadata
from anyband.errors import CatalogueError, RecipeError, StoreError, agreed, counted
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, SetNoise
from anyband.pretraining.recipe import PretrainRecipe, StageRecipe
from anyband.randomness import generator, uniform
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import RangeTable

__all__ = [
    "NUM_STEM_BANDS",
    "BatchPreparer",
    "DrawnSets",
    "Example",
    "Samples",
    "StagedSampler",
    "assignment_rules",
    "draw_stem_bands",
    "draws_of_step",
    "input_specs",
    "load_batches",
    "stage_footprints",
    "step_sampler",
    "take_stem_bands",
]

Example = tuple[SetBatch, SetNoise]

NUM_STEM_BANDS = 3
"""Bands that a stem reads."""


def draw_stem_bands(
    num_bands: Int[Array, "set slot"], *, seed: int, step: int, samples: Sequence[int]
) -> Int[Array, "set slot 3"]:
    """Draw the bands of each image for a stem: a function of (seed, step, sample, slot); `samples` identify sets.

    Three different ones in random order; where an image has fewer, each stands there at least once. Source: the
    released code of A²-MAE (arXiv 2406.08079) draws three bands at random for one shared stem. That they are different
    and in random order, and what happens to fewer than three, is our reading.
    """
    drawn = np.empty((*num_bands.shape, NUM_STEM_BANDS), dtype=np.int64)
    for row, sample in enumerate(samples):
        draws = generator(seed, step=step, sample=sample, purpose="bands of the stem")
        for slot, count in enumerate(num_bands[row]):
            order = draws.permutation(int(count))
            drawn[row, slot] = order[np.arange(NUM_STEM_BANDS) % count]
    return drawn


def take_stem_bands(
    values: Shaped[Tensor, "batch band row col"], bands: Int[Array, "batch 3"]
) -> Shaped[Tensor, "batch 3 row col"]:
    """Take three bands of each image, others of each."""
    image = torch.arange(len(values), device=values.device)[:, None]
    return values[image, torch.from_numpy(bands).to(values.device)]


def assignment_rules(recipe: PretrainRecipe) -> AssignmentRules:
    """Take from a recipe what happens to bands that no range is made for."""
    model = recipe.model
    return AssignmentRules(unseen=model.unseen, min_support=model.min_support, out_of_span=model.out_of_span)


def input_specs(
    store: ChipStore, names: Iterable[str], *, ranges: RangeTable, recipe: PretrainRecipe
) -> dict[str, InputSpec]:
    """Work out how the chips of each array become network input; all bands of an array have statistics (else a
    `CatalogueError`). `AssignmentError`: a band that the ranges can't express."""
    rules, source = assignment_rules(recipe), recipe.data.statistics
    specs = {}
    for name in names:
        try:
            statistics = store.normalisation(name, source=source)
        except CatalogueError as problem:
            raise CatalogueError(f"{problem}, and take them with data.statistics=store") from problem
        if recipe.data.stretch == "two_sigma":
            statistics = stretched(statistics)
        sensor = store.array_sensor(name)
        specs[name] = InputSpec(
            sensor=sensor,
            statistics=statistics,
            assignment=assign(sensor, ranges, rules),
            statistics_source=f"statistics of the {source}",
        )
    return specs


def stage_footprints(
    sets: ImageSets, stages: Sequence[StageRecipe], store: ChipStore
) -> tuple[Int[Array, " footprint"], ...]:
    """Tell which footprints each stage takes: ascending positions in `sets`, of which one may stand in several.
    `StoreError`: the store lacks a sensor, or a stage has no footprint."""
    shown = []
    for stage in stages:
        names = [name if name in store.sensors else get_sensor(name).name for name in stage.with_sensors]
        check_sensors(store, names)
        is_wanted = np.isin(sets.sources, [list(store.sensors).index(name) for name in names])
        shown.append(np.array([bool(is_wanted[sets.images(footprint)].any()) for footprint in range(len(sets))]))
    named = np.any([one for one, stage in zip(shown, stages, strict=True) if stage.with_sensors], axis=0)
    taken = [one if stage.with_sensors else ~(named | one) for one, stage in zip(shown, stages, strict=True)]
    for number, (one, stage) in enumerate(zip(taken, stages, strict=True)):
        if not one.any():
            what = f"shows {' or '.join(stage.with_sensors)}" if stage.with_sensors else "is left by the other stages"
            raise StoreError(
                f"stage {number} of data.stages (from 0) has nothing to draw from: none of the "
                f"{counted(len(sets), 'footprint')} "
                f"of store '{store.path}' that are trained on {what}; change the stage, or leave it out"
            )
    return tuple(np.flatnonzero(one) for one in taken)


class StagedSampler:
    """Batches of sets, of one stage after the other: a pure function of (seed, step)."""

    def __init__(self, stages: Sequence[tuple[Int[Array, " _"], int, SetSampler]], *, steps: int | None) -> None:
        """Lay out stages: footprints (positions in all sets), epochs, a sampler over them; `steps` of the run."""
        self._stages = tuple(stages)
        # Where each stage starts, and the end of the last: in whole epochs, and in the steps that the run has.
        self._full = [0, *accumulate(epochs * sampler.steps_per_epoch for _, epochs, sampler in stages)]
        total = self._full[-1] if steps is None else steps
        self._starts: list[int] = [round(start * total / self._full[-1]) for start in self._full]

    @property
    def total_steps(self) -> int:
        return self._starts[-1]

    @property
    def steps_of_stages(self) -> tuple[int, ...]:
        return tuple(after - before for before, after in pairwise(self._starts))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, on average over the stages."""
        return max(1, round(self._full[-1] / sum(epochs for _, epochs, _ in self._stages)))

    def share_until(self, epoch: float) -> float:
        """Tell which share of the run the first so many epochs have."""
        ends = np.cumsum([0, *(epochs for _, epochs, _ in self._stages)])
        return float(np.interp(epoch, ends, self._full)) / self._full[-1]

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step (from 0) holds; after the last stage that one goes on."""
        number = min(int(np.searchsorted(self._starts, step, side="right")), len(self._stages)) - 1
        footprints, _, sampler = self._stages[number]
        draw = sampler.batch(step - self._starts[number])
        epochs_before = sum(epochs for _, epochs, _ in self._stages[:number])
        return replace(draw, items=footprints[draw.items], epoch=epochs_before + draw.epoch)


# chosen: as many lines as one reads; more kinds are sizes of images, not sensors.
_FEW_KINDS = 8
# chosen: batches that a panel's sets are looked for in.
_LOOKED_THROUGH = 16


@dataclass(frozen=True)
class Samples:
    """What is learned from: pairs or sets of a split of a store."""

    store: ChipStore
    sets: ImageSets
    shuffle: ShardShuffle | None = None
    """Shards to read one after the other; None: chips are read one by one."""
    stages: tuple[StageRecipe, ...] = ()
    """Of sets; empty: one of everything."""
    steps: int | None = None
    """Of a whole run in stages; None: as many as their epochs have."""

    @cached_property
    def footprints(self) -> tuple[Int[Array, " footprint"], ...]:
        """Those of each stage; see `stage_footprints`."""
        return stage_footprints(self.sets, self.stages, self.store)

    def sampler(self, *, batch_size: int, seed: int, mixed: bool = False) -> SetSampler | StagedSampler:
        """Make what draws batches, in stages where there are some; see `stage_footprints` for what it raises. `mixed`:
        see `BatchOrder`."""
        if not self.stages:
            return SetSampler(self.sets, batch_size=batch_size, seed=seed, shuffle=self.shuffle, mixed=mixed)
        stages = []
        for number, footprints in enumerate(self.footprints):
            # Draws of its own; a run of one stage draws what one without stages does.
            own = generator(seed, step=number, sample=0, purpose="seed of a stage")
            sampler = SetSampler(
                self.sets.of(footprints),
                batch_size=batch_size,
                seed=int(own.integers(2**62)) if number else seed,
                shuffle=None if self.shuffle is None else self.shuffle.of(footprints),
            )
            stages.append((footprints, self.stages[number].epochs, sampler))
        return StagedSampler(stages, steps=self.steps)

    def read(self, draw: SetDraw, shards: OpenShards | None = None) -> RawSets:
        """Read a batch as it is stored; `shards` are in memory already. `StoreError` where the store is damaged."""
        return read_sets(self.store, draw, shards=shards, metadata=self.sets.pair_kind is None)

    def places(self, draw: SetDraw) -> list[str]:
        """Name the place of each sample: all its images are of one."""
        named: list[str] = self.store.index.column("place").take(draw.chips[:, 0]).to_pylist()
        return named

    def title(self, draw: SetDraw) -> str:
        if self.sets.pair_kind is not None:
            return f"pairs of {' + '.join(self.sets.pair_arrays[draw.kind])}"
        sensors = sorted(set(self.store.index.column("sensor").take(draw.chips.ravel()).to_pylist()))
        return f"sets of {counted(draw.chips.shape[1], 'image')} of {', '.join(sensors)}"

    def notes(self, *, batch_size: int) -> list[str]:
        """Say what stages draw from, what stands in a batch several times, small sets, how shards are mixed."""
        kinds, numbers = self.sets.kinds()
        counts = enumerate(np.bincount(numbers, minlength=len(kinds)).tolist())
        few = {kind: count for kind, count in counts if count < batch_size}
        say = self._few_sets if self.sets.pair_kind is None else self._few_pairs
        return [*self._stage_notes(batch_size), *say(few, batch_size), *self._order_notes()]

    def _few_pairs(self, few: Mapping[int, int], batch_size: int) -> list[str]:
        several = f"do not fill a batch of {batch_size}: they stand in it several times, each with draws of their own"
        if len(few) > _FEW_KINDS:
            sizes = "chips of one size a sensor are one kind (`anyband prepare --chip-size`)"
            return [f"{sum(few.values())} pairs of {len(few)} kinds {several}; {sizes}"]
        return [f"{num} pairs of {' + '.join(self.sets.pair_arrays[kind])} {several}" for kind, num in few.items()]

    def _few_sets(self, few: Mapping[int, int], batch_size: int) -> list[str]:
        kinds, words = self.sets.kinds()[0], ("one sensor", "several sensors")
        of_kind = {kind: f"{counted(kinds[kind][0], 'image')} of {words[kinds[kind][1]]}" for kind in few}
        each = "; ".join(f"{count} with {of_kind[kind]}" for kind, count in few.items())
        several = "stand in it several times, each with draws of its own"
        return [f"footprints that do not fill a batch of {batch_size} {several}: {each}"] if few else []

    def _order_notes(self) -> list[str]:
        least, small, shuffle = self.sets.size[0], int((self.sets.capacity < self.sets.size[0]).sum()), self.shuffle
        few = counted(least, "image")
        fewer = (
            f"{small} of {counted(len(self.sets), 'footprint')} {agreed(small, 'have')} fewer than {few}: their "
            "sets are smaller"
        )
        if shuffle is None:
            return [fewer] if small else []
        mixed = (
            f"{counted(len(np.unique(shuffle.shards)), 'shard')}, up to {shuffle.open_shards} of each kind "
            "mixed at a time"
        )
        return [*([fewer] if small else []), f"order by shards: {mixed}"]

    def _stage_notes(self, batch_size: int) -> list[str]:
        sampler, notes = self.sampler(batch_size=batch_size, seed=0), []
        steps = sampler.steps_of_stages if isinstance(sampler, StagedSampler) else ()
        for number, (stage, count) in enumerate(zip(self.stages, steps, strict=True)):
            which = f"with {' or '.join(stage.with_sensors)}" if stage.with_sensors else "of no other stage"
            found = f"{len(self.footprints[number])} of {counted(len(self.sets), 'footprint')}"
            notes.append(f"stage {number}: {counted(count, 'step')} over {found}, those {which}")
        return notes

    def shown(self, count: int) -> dict[str, SetDraw]:
        """Choose up to `count` samples for each panel, always the same: name of the panel → what it shows. Of pairs
        some of each kind; of sets the largest, if possible of several sensors, of the first batches of seed 0."""
        if self.sets.pair_kind is not None:
            kinds = enumerate(self.sets.pair_arrays)
            return {"_".join(arrays): self._shown_pairs(kind, count) for kind, arrays in kinds}
        size = min(count, int(np.bincount(self.sets.kinds()[1]).max()))
        sampler = SetSampler(self.sets, batch_size=size, seed=0, shuffle=self.shuffle)
        draws = [sampler.batch(step) for step in range(_LOOKED_THROUGH)]
        return {"sets": max(draws, key=lambda draw: (draw.chips.shape[1], draw.partnered))}

    def _shown_pairs(self, kind: int, count: int) -> SetDraw:
        items = np.flatnonzero(self.sets.pair_kind == kind)
        # Spread over the list, because neighbours in it are neighbours on the ground.
        items = items[np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64)]
        return pairs_drawn(self.sets, items, kind=kind, samples=items, epoch=0)


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

    def __init__(self, recipe: PretrainRecipe, inputs: Mapping[str, InputSpec], *, device: torch.device) -> None:
        self._recipe, self._inputs, self._device = recipe, inputs, device
        self._mixing, self._standardise, self._kept = {}, {}, {}
        for name, spec in inputs.items():
            self._mixing[name] = torch.as_tensor(np.asarray(spec.assignment.mixing), dtype=torch.float32, device=device)
            self._standardise[name] = Standardiser(spec.statistics, device=device)
            self._kept[name] = torch.tensor(spec.assignment.kept_index, dtype=torch.int64, device=device)

    def draw(self, raw: RawSets, *, step: int, augment: AugmentOptions | None = None) -> DrawnSets:
        """Draw all that happens to a batch: one augmentation for all images of a set, metadata to hide, noise.
        `augment` says what augmentation may do to a look at a batch that is told all that is known; None: training."""
        recipe, model, samples = self._recipe, self._recipe.model, raw.draw.samples.tolist()
        augmentation = draw_augmentation(
            augment or recipe.data.augment, seed=recipe.seed, step=step, samples=samples, grid=raw.draw.grid
        )
        bands: tuple[Array | None, ...] = (None,) * len(raw.groups)
        if augment is None and model.stem == "triplet":
            bands = _bands_of_groups(raw, seed=recipe.seed, step=step)
        on_sets, num_slots = recipe.data.sets is not None, raw.draw.chips.shape[1]
        # Both images of a pair share their mask.
        purpose, num_drawn = "mixup and masking", 2
        if on_sets:
            purpose, num_drawn = "masking of sets", 1 + num_slots * (2 if model.masking == "hybrid" else 1)
        shape = (num_drawn, (model.img_size // model.patch_size) ** 2)
        noise = uniform(recipe.seed, step=step, samples=samples, purpose=purpose, shape=shape)
        coin = float(generator(recipe.seed, step=step, sample=0, purpose="hidden image").random())
        metadata = None
        if raw.metadata is not None:
            metadata = self._metadata(raw, raw.metadata, augmentation, None if augment is not None else step)
        return DrawnSets(
            raw=raw,
            augmentation=augmentation,
            bands=bands,
            metadata=metadata,
            noise=noise.astype(np.float32),
            hides_last=on_sets and num_slots > 1 and coin < model.hidden_image,
        )

    def _metadata(
        self, raw: RawSets, known: Mapping[str, Array], augmentation: Augmentation, step: int | None
    ) -> SetMetadata:
        """Tell what the network sees: corners and pixel size follow the crop; some is hidden in a training step."""
        recipe = self._recipe
        gsd_m = input_gsd_m(augmentation, known["gsd_m"], known["shape_px"], img_size=recipe.model.img_size)
        told = set_metadata(input_corners(augmentation, known["corners_deg"]), known["gsd_m"], known["time"], gsd_m)
        hidden = recipe.data.sets.metadata_dropout if recipe.data.sets is not None else 0.0
        if step is None or not hidden:
            return told
        samples, shape = raw.draw.samples.tolist(), (raw.draw.chips.shape[1], len(METADATA))
        # The name of the purpose decides the numbers that are drawn.
        draws = uniform(recipe.seed, step=step, samples=samples, purpose="facts", shape=shape)
        return hide_metadata(told, torch.from_numpy(draws < hidden))

    def finish(self, drawn: DrawnSets) -> Example:
        """Make the network's input on the device. On a GPU nothing is waited for."""
        draw, side = drawn.raw.draw, self._recipe.model.img_size
        # Images of one footprint share what is cut and resized where each set has one of them.
        of_all = Resampler(drawn.augmentation, shape=(side, side), device=self._device)
        groups = []
        for raw, bands in zip(drawn.raw.groups, drawn.bands, strict=True):
            own = of_all
            if raw.sets is not None:
                own = Resampler(drawn.augmentation.of(raw.sets), shape=(side, side), device=self._device)
            groups.append(self._image(raw, bands, own))
        noise, num_slots = to_device(drawn.noise, self._device), draw.chips.shape[1]
        if self._recipe.data.sets is None:
            batch = SetBatch(groups=tuple(groups), partnered=True)
            return batch, SetNoise(mixup=noise[:, 0], masking=noise[:, 1:].expand(-1, num_slots, -1))
        metadata = None
        if drawn.metadata is not None:
            of_device = {name: to_device(values, self._device) for name, values in vars(drawn.metadata).items()}
            metadata = SetMetadata(**of_device)
        batch = SetBatch(
            groups=tuple(groups),
            rows=None if drawn.raw.rows is None else to_device(drawn.raw.rows, self._device),
            same_source=to_device(draw.same_source, self._device),
            first_slot=to_device(draw.first_slot, self._device),
            metadata=metadata,
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
        pixels, _ = self._standardise[raw.array](to_device(raw.pixels, self._device), known)
        kept, num_bands = self._kept[raw.array], pixels.shape[1]
        if bands is not None:
            pixels = take_stem_bands(pixels, bands)
            known = None if known is None else take_stem_bands(known, bands)
        elif self._inputs[raw.array].assignment.kept_index != tuple(range(num_bands)):
            pixels = pixels.index_select(1, kept)
            known = None if known is None else known.index_select(1, kept)
        # Pixels are resampled in float32, whatever the network computes in.
        has_autocast = torch.amp.is_autocast_available(self._device.type)
        with torch.autocast(self._device.type, enabled=False) if has_autocast else contextlib.nullcontext():
            pixels, known = resample(pixels, known)
        return ImageBatch(pixels=pixels, valid=known, mixing=self._mixing[raw.array])


def _bands_of_groups(raw: RawSets, *, seed: int, step: int) -> tuple[Int[Array, "_ 3"], ...]:
    """Draw the bands that a stem reads of every image, and give them to each group in its own order."""
    assert raw.rows is not None, "a stem reads sets"
    sizes = [len(group.pixels) for group in raw.groups]
    num_bands = np.repeat([group.pixels.shape[1] for group in raw.groups], sizes)
    bands = np.empty((len(num_bands), NUM_STEM_BANDS), dtype=np.int64)
    bands[raw.rows] = draw_stem_bands(num_bands[raw.rows], seed=seed, step=step, samples=raw.draw.samples.tolist())
    return tuple(np.split(bands, np.cumsum(sizes)[:-1]))


def step_sampler(samples: Samples, recipe: PretrainRecipe) -> SetSampler | StagedSampler:
    """Make what draws the batches of training steps, or where kinds are mixed, of the parts of steps."""
    optim = recipe.optim
    size = optim.batch_size // (optim.accumulate if optim.mix_kinds else 1)
    return samples.sampler(batch_size=size, seed=recipe.seed, mixed=optim.mix_kinds)


def draws_of_step(sampler: SetSampler | StagedSampler, recipe: PretrainRecipe, step: int) -> list[SetDraw]:
    """Tell what a step learns from, over all processes: one batch, or one for each part where kinds are mixed."""
    parts = recipe.optim.accumulate
    if not recipe.optim.mix_kinds:
        return [sampler.batch(step)]
    return [sampler.batch(step * parts + part) for part in range(parts)]


def load_batches(
    samples: Samples,
    preparer: BatchPreparer,
    recipe: PretrainRecipe,
    *,
    steps: range,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[DrawnSets]:
    """Load what a process computes of training steps, in the parts that it accumulates, with all that is drawn. All
    parts of all processes together are the global batch, in order: a pure function of the step. `RecipeError` where it
    can't be cut so."""
    optim, workers = recipe.optim, recipe.run.workers
    parts, pieces = optim.accumulate, num_processes * optim.accumulate
    if optim.batch_size % pieces:
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} can't be cut into {counted(num_processes, 'process')} × "
            f"{parts} accumulated parts; take a multiple of {pieces}"
        )
    size, sampler = optim.batch_size // pieces, step_sampler(samples, recipe)
    # Of one batch a process takes pieces that follow one another, of the batch of each part one piece.
    own = [process] if optim.mix_kinds else range(process * parts, (process + 1) * parts)
    draws = (
        (step, draw.at(slice(piece * size, (piece + 1) * size)))
        for step in steps
        for draw in draws_of_step(sampler, recipe, step)
        for piece in own
    )
    shards = None
    if samples.shuffle is not None:
        # A shard serves some of the parts of a step, and waits for its turn where a batch has fewer places than shards.
        turns = -(-samples.shuffle.open_shards // optim.batch_size)
        shards = OpenShards(samples.store, batches=batches_in_work(workers) + turns * parts)
    return read_ahead(
        lambda one: preparer.draw(samples.read(one[1], shards), step=one[0]),
        draws,
        workers=workers,
        expect=None if shards is None else lambda one: shards.expect(one[1].chips.ravel(), kind=one[1].kind),
    )
