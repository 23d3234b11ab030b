"""Stages of a run over sets: which footprints each step draws from, one stage after the other.

How `plan_run` uses it: the samples of training become `in_stages(samples, recipe)`, which is them unchanged where
the recipe has no stages; `run_length(samples, recipe)` then tells how long the run is. The loop asks the samples for
their sampler, as for any others. Validation looks at all footprints, whatever the stage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from anyband.data.footprints import check_sensors
from anyband.data.image_sets import ImageSets, SetDraw, SetSampler
from anyband.data.lanes import ShardLanes
from anyband.data.store import ChipStore
from anyband.errors import RecipeError, StoreError
from anyband.randomness import generator
from anyband.sensors.catalogue import get_sensor
from anyband.shapes import Array, Bool, Int
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.recipe_stages import StageRecipe
from anyband.tasks.samples import Samples
from anyband.tasks.set_batches import SetSamples

__all__ = ["RunLength", "StagedSampler", "StagedSamples", "in_stages", "run_length", "stage_footprints"]


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """How long a run is."""

    total_steps: int
    """Steps of the whole run."""
    steps_per_epoch: int
    """Batches in an epoch; with stages the mean, rounded."""
    warmup_share: float
    """Share of the steps over which the rate rises."""


def in_stages(samples: Samples[Any], recipe: PretrainRecipe) -> Samples[Any]:
    """Let samples of sets be drawn in the stages of a recipe; without stages they stay as they are.

    Raises:
        StoreError: the store lacks a sensor of a stage, or a stage has no footprint.
    """
    stages = recipe.data.stages
    if stages is None:
        return samples
    if not isinstance(samples, SetSamples):
        raise RecipeError("data.stages is for sets of images; write data.sets, or leave it null")
    return StagedSamples(samples.store, samples.sets, stages, steps=recipe.optim.steps, lanes=samples.lanes)


def run_length(samples: Samples[Any], recipe: PretrainRecipe) -> RunLength:
    """Work out the length of a run.

    With stages it is the sum of each stage's epochs times its steps, and warm-up ends with the epoch that the recipe
    names. `optim.steps` sets the length instead, and stages and warm-up keep their shares.

    Args:
        samples: as `in_stages` gives them.
        recipe: of the run.
    """
    optim = recipe.optim
    sampler = samples.sampler(batch_size=optim.batch_size, seed=recipe.seed)
    if not isinstance(sampler, StagedSampler):
        per_epoch = sampler.steps_per_epoch
        total = optim.steps or optim.epochs * per_epoch
        return RunLength(total_steps=total, steps_per_epoch=per_epoch, warmup_share=optim.warmup_epochs / optim.epochs)
    return RunLength(
        total_steps=sampler.total_steps,
        steps_per_epoch=sampler.steps_per_epoch,
        warmup_share=sampler.share_until(optim.warmup_epochs),
    )


def stage_footprints(
    sets: ImageSets, stages: Sequence[StageRecipe], store: ChipStore
) -> tuple[Int[Array, " footprint"], ...]:
    """Tell which footprints each stage takes; one may stand in several.

    Args:
        sets: of the training split.
        stages: in their order.
        store: that the sets are in.

    Returns:
        Positions in `sets`, ascending, for each stage.

    Raises:
        StoreError: the store lacks a sensor, or a stage has no footprint.
    """
    shown = [_showing(sets, stage, store) for stage in stages]
    named = np.any([one for one, stage in zip(shown, stages, strict=True) if stage.with_sensors], axis=0)
    taken = [one if stage.with_sensors else ~(named | one) for one, stage in zip(shown, stages, strict=True)]
    for number, (one, stage) in enumerate(zip(taken, stages, strict=True)):
        if not one.any():
            what = f"shows {' or '.join(stage.with_sensors)}" if stage.with_sensors else "is left by the other stages"
            raise StoreError(
                f"stage {number} of data.stages (from 0) has nothing to draw from: none of the {len(sets)} footprints "
                f"of store '{store.path}' that are trained on {what}; change the stage, or leave it out"
            )
    return tuple(np.flatnonzero(one) for one in taken)


def _showing(sets: ImageSets, stage: StageRecipe, store: ChipStore) -> Bool[Array, " footprint"]:
    """Tell which footprints have an image of one of the stage's sensors."""
    names = [name if name in store.sensors else get_sensor(name).name for name in stage.with_sensors]
    check_sensors(store, names)
    numbers = [list(store.sensors).index(name) for name in names]
    is_wanted = np.isin(sets.sources, numbers)
    return np.array([bool(is_wanted[sets.images(footprint)].any()) for footprint in range(len(sets))])


class StagedSamples(SetSamples):
    """Sets of images of a store, drawn in stages."""

    def __init__(
        self,
        store: ChipStore,
        sets: ImageSets,
        stages: Sequence[StageRecipe],
        *,
        steps: int | None = None,
        lanes: ShardLanes | None = None,
    ) -> None:
        """Sort the footprints into stages.

        Args:
            store: that the sets are in.
            sets: of the training split.
            stages: in their order.
            steps: of the whole run; None: as many as the epochs of the stages have.
            lanes: shards of the footprints, to read one after the other; None: any footprint may follow any other.
        """
        super().__init__(store, sets, lanes=lanes)
        self._stages = tuple(stages)
        self._steps = steps
        self._footprints = stage_footprints(sets, stages, store)

    def sampler(self, *, batch_size: int, seed: int) -> "StagedSampler":  # type: ignore[override]
        """Plan batches."""
        parts = [
            _Part(
                footprints=footprints,
                epochs=stage.epochs,
                sampler=SetSampler(
                    _some_of(self.sets, footprints),
                    batch_size=batch_size,
                    seed=_stage_seed(seed, number),
                    lanes=None if self.lanes is None else self.lanes.of(footprints),
                ),
            )
            for number, (stage, footprints) in enumerate(zip(self._stages, self._footprints, strict=True))
        ]
        return StagedSampler(parts, steps=self._steps)

    def notes(self, *, batch_size: int) -> list[str]:
        """Say what each stage draws from, and for how long."""
        steps = self.sampler(batch_size=batch_size, seed=0).steps_of_stages
        lines = [
            f"stage {number}: {count} steps over {len(footprints)} of {len(self.sets)} footprints, {_of(stage)}"
            for number, (stage, footprints, count) in enumerate(zip(self._stages, self._footprints, steps, strict=True))
        ]
        return [*lines, *super().notes(batch_size=batch_size)]

    def shown(self, count: int) -> dict[str, SetDraw]:
        """Choose what panels show of all footprints, whatever the stage."""
        return SetSamples(self.store, self.sets, lanes=self.lanes).shown(count)


def _of(stage: StageRecipe) -> str:
    return f"those with {' or '.join(stage.with_sensors)}" if stage.with_sensors else "those of no other stage"


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A stage with its own sampler."""

    footprints: Int[Array, " footprint"]
    """Positions in all sets."""
    epochs: int
    """Passes over them."""
    sampler: SetSampler
    """Over these alone."""


class StagedSampler:
    """Batches of sets, of one stage after the other: a pure function of (seed, step)."""

    def __init__(self, parts: Sequence[_Part], *, steps: int | None) -> None:
        """Lay the stages one after the other; see `StagedSamples`."""
        self._parts = tuple(parts)
        full_steps = [part.epochs * part.sampler.steps_per_epoch for part in parts]
        # Where each stage starts, and the end of the last: in whole epochs, and in the steps that the run has.
        self._full: list[int] = [0, *accumulate(full_steps)]
        total = self._full[-1] if steps is None else steps
        self._starts: list[int] = [round(start * total / self._full[-1]) for start in self._full]

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self._starts[-1]

    @property
    def steps_of_stages(self) -> tuple[int, ...]:
        """Steps of each stage."""
        return tuple(after - before for before, after in pairwise(self._starts))

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch, on average over the stages."""
        return max(1, round(self._full[-1] / sum(part.epochs for part in self._parts)))

    def share_until(self, epoch: float) -> float:
        """Tell which share of the run the first so many epochs have."""
        ends = np.cumsum([0, *(part.epochs for part in self._parts)])
        return float(np.interp(epoch, ends, self._full)) / self._full[-1]

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step holds.

        Args:
            step: from 0; after the last stage that one goes on.
        """
        number = min(int(np.searchsorted(self._starts, step, side="right")), len(self._parts)) - 1
        part = self._parts[number]
        draw = part.sampler.batch(step - self._starts[number])
        epochs_before = sum(earlier.epochs for earlier in self._parts[:number])
        return replace(draw, footprints=part.footprints[draw.footprints], epoch=epochs_before + draw.epoch)


def _stage_seed(seed: int, number: int) -> int:
    """Give each stage draws of its own; a run of one stage draws what one without stages does."""
    return (
        seed if number == 0 else int(generator(seed, step=number, sample=0, purpose="seed of a stage").integers(2**62))
    )


def _some_of(sets: ImageSets, footprints: Int[Array, " footprint"]) -> ImageSets:
    images = np.concatenate([np.arange(sets.images(int(one)).start, sets.images(int(one)).stop) for one in footprints])
    counts = np.diff(sets.bounds)[footprints]
    return replace(
        sets,
        bounds=np.append(0, np.cumsum(counts)),
        chips=sets.chips[images],
        sources=sets.sources[images],
        time_us=sets.time_us[images],
        capacity=sets.capacity[footprints],
        has_partner=sets.has_partner[footprints],
    )
