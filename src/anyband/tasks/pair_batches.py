"""From pairs in stored numbers to network input on the device: harmonised, augmented, with noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anyband.data.augment import Augmentation, AugmentOptions, apply, coarser_grid, draw_augmentation
from anyband.data.batch import RawPair
from anyband.data.harmonise import Normalisation, standardise
from anyband.data.sets import PairPlan, Pairs, PairSampler
from anyband.data.store import ChipStore
from anyband.errors import CatalogueError, RecipeError
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise
from anyband.randomness import uniform
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.ranges import RangeTable
from anyband.tasks.recipe import PretrainRecipe

__all__ = ["ArrayInput", "PairPreparer", "Share", "SharedSampler", "array_inputs", "assignment_rules"]


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
        return store.normalisation(array, source=recipe.data.statistics)
    except CatalogueError as problem:
        raise CatalogueError(f"{problem}, and take them with data.statistics=store") from problem


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


class SharedSampler(PairSampler):
    """The part of each global batch that one process computes, cut further into parts that are accumulated.

    All parts of all processes together are the global batch, in order: a pure function of the step.
    """

    def __init__(self, pairs: Pairs, *, batch_size: int, seed: int, share: Share) -> None:
        """Plan the epochs of the global batch; see `PairSampler`."""
        super().__init__(pairs, batch_size=batch_size, seed=seed)
        self._share = share
        self._part_size = batch_size // (share.num_processes * share.parts)

    def batch(self, step: int) -> PairPlan:
        """Tell what a part holds; `step` counts parts, `share.parts` to a training step."""
        training_step, part = divmod(step, self._share.parts)
        whole = self.global_batch(training_step)
        first = (self._share.process * self._share.parts + part) * self._part_size
        mine = slice(first, first + self._part_size)
        rows, samples = whole.rows[mine], whole.samples[mine]
        return PairPlan(rows=rows, pair_type=whole.pair_type, samples=samples, epoch=whole.epoch)

    def global_batch(self, step: int) -> PairPlan:
        """Tell what all processes together compute in a training step."""
        return super().batch(step)


class PairPreparer:
    """Make network input of raw pairs; every draw is a function of (seed, step, sample)."""

    def __init__(self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device) -> None:
        """Move what is constant to the device."""
        self._recipe = recipe
        self._inputs = inputs
        self._device = device
        self._mixing = {
            name: torch.as_tensor(np.asarray(entry.assignment.mixing), dtype=torch.float32, device=device)
            for name, entry in inputs.items()
        }

    def prepare(self, raw: RawPair, *, step: int, augment: AugmentOptions | None = None) -> tuple[PairBatch, PairNoise]:
        """Make the network input of a batch.

        Args:
            raw: as read.
            step: training step, for the draws.
            augment: what augmentation may do; None: what the recipe says.

        Returns:
            The pair and its noise, on the device.
        """
        samples = raw.plan.samples.tolist()
        drawn = draw_augmentation(
            augment or self._recipe.data.augment,
            seed=self._recipe.seed,
            step=step,
            samples=samples,
            grid=coarser_grid((raw.a.shape[2], raw.a.shape[3]), (raw.b.shape[2], raw.b.shape[3])),
        )
        a = self._image(raw.a, raw.valid_a, raw.array_a, drawn)
        b = self._image(raw.b, raw.valid_b, raw.array_b, drawn)
        return PairBatch(a=a, b=b), self._noise(step, samples)

    def _image(self, dn: Tensor, valid: Tensor | None, array: str, drawn: Augmentation) -> ImageBatch:
        entry = self._inputs[array]
        dn = dn.to(self._device, non_blocking=True)
        valid = None if valid is None else valid.to(self._device, non_blocking=True)
        pixels = standardise(dn, entry.normalisation, valid)
        kept = entry.assignment.kept_index
        if len(kept) < pixels.shape[1]:
            pixels, valid = pixels[:, kept], None if valid is None else valid[:, kept]
        pixels, valid = apply(pixels, valid, drawn, img_size=self._recipe.model.img_size)
        return ImageBatch(pixels=pixels, valid=valid, mixing=self._mixing[array])

    def _noise(self, step: int, samples: Sequence[int]) -> PairNoise:
        num_tokens = (self._recipe.model.img_size // self._recipe.model.patch_size) ** 2
        draws = uniform(
            self._recipe.seed, step=step, samples=samples, purpose="mixup and masking", shape=(2, num_tokens)
        )
        on_device = torch.from_numpy(draws).float().to(self._device, non_blocking=True)
        return PairNoise(mixup=on_device[:, 0], masking=on_device[:, 1])
