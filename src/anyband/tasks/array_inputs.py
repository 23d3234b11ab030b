"""How the chips of each array of a store become network input: standardised, with the bands that the ranges express."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from anyband.data.augment import Augmentation, apply
from anyband.data.harmonise import Normalisation, standardise, stretched
from anyband.data.store import ChipStore
from anyband.errors import CatalogueError
from anyband.models.inputs import ImageBatch
from anyband.sensors.assignment import Assignment, AssignmentRules, assign
from anyband.sensors.ranges import RangeTable
from anyband.shapes import Array, Bool, Int, Num
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.stems import take_stem_bands

__all__ = ["ArrayInput", "ArrayReader", "array_inputs", "assignment_rules"]


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

    def image(
        self,
        dn: Num[torch.Tensor, "batch band row col"],
        valid: Bool[torch.Tensor, "batch band row col"] | None,
        array: str,
        drawn: Augmentation,
        bands: Int[Array, "batch 3"] | None = None,
    ) -> ImageBatch:
        """Standardise images, keep the bands that the ranges express, and augment them.

        Args:
            dn: stored numbers.
            valid: where they are data; None: everywhere.
            array: that they are from.
            drawn: an augmentation for each image.
            bands: of each image, for a stem of three; None: those of the assignment.
        """
        entry = self._inputs[array]
        dn = dn.to(self._device, non_blocking=True)
        valid = None if valid is None else valid.to(self._device, non_blocking=True)
        pixels = standardise(dn, entry.normalisation, valid)
        kept = entry.assignment.kept_index
        if bands is not None:
            pixels, valid = take_stem_bands(pixels, valid, bands)
        elif kept != tuple(range(pixels.shape[1])):
            pixels, valid = pixels[:, kept], None if valid is None else valid[:, kept]
        pixels, valid = apply(pixels, valid, drawn, img_size=self._img_size)
        return ImageBatch(pixels=pixels, valid=valid, mixing=self._mixing[array])
