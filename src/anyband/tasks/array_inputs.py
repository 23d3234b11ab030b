"""How the chips of each array of a store become network input: standardised, with the bands that the ranges express."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from anyband.data.augment import Augmentation
from anyband.data.harmonise import Normalisation, Standardiser, stretched
from anyband.data.resampling import Resampler
from anyband.data.store import ChipStore
from anyband.device_copies import to_device
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
