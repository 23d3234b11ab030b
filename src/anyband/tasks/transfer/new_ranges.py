"""Sensors that a checkpoint never saw, learned: ranges of their own, which start where interpolation stands."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from anyband.data.supervised.records import TaskData
from anyband.errors import RecipeError
from anyband.models.checkpoint import Checkpoint
from anyband.models.spectral import SpectralProjection
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.sensor import Sensor
from anyband.sensors.stem import is_stem
from anyband.shapes import Float
from anyband.tasks.start import with_new_ranges

__all__ = ["added_ranges", "extended_for", "free_all_ranges", "sensors_of", "train_new_ranges_only"]

# chosen: only the very same spectrum counts as known, so that the features before training are those of interpolation.
_SAME_SPECTRUM_IOU = 1.0


def sensors_of(data: TaskData) -> tuple[Sensor, ...]:
    """List the sensors of labelled data, each choice of bands once."""
    found = {(sensor.name, sensor.band_names): sensor for slots in data.sensors for sensor in slots}
    return tuple(found.values())


def extended_for(checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules) -> Checkpoint:
    """Add a range for each band that no trained range is exactly; features stay as interpolation gives them.

    Args:
        checkpoint: with the trained ranges.
        sensors: whose bands are looked at.
        rules: what is outside the span; bands are interpolated whatever `unseen` says.

    Returns:
        The checkpoint itself where nothing is new.

    Raises:
        RecipeError: the network has a stem of three bands, which knows no ranges.
        AssignmentError: a band that the trained ranges can't express.
    """
    if is_stem(checkpoint.ranges):
        raise RecipeError(
            "fit.new_ranges adds ranges to a spectrum-aware projection; this checkpoint has a stem of three bands: "
            "set fit.new_ranges=none"
        )
    interpolated = replace(rules, unseen="interpolate")
    return with_new_ranges(checkpoint, sensors, interpolated, min_iou=_SAME_SPECTRUM_IOU)


def added_ranges(before: Checkpoint, after: Checkpoint) -> tuple[str, ...]:
    """Name the ranges that were added."""
    return after.ranges.range_names[len(before.ranges.ranges) :]


def train_new_ranges_only(projection: SpectralProjection, num_new: int) -> None:
    """Freeze the ranges that were there and leave the last ones to training, until `free_all_ranges`.

    All ranges are stacked in one parameter, so that freezing some of them takes a parameter that holds the others
    only: an optimiser would move the frozen ones by its weight decay.

    Args:
        projection: whose parameters are replaced; what it computes stays the same.
        num_new: ranges at the end that are trained.
    """
    for name in ("weight", "bias"):
        full = getattr(projection, name)
        parametrize.register_parametrization(projection, name, _Grown(full.detach()[: len(full) - num_new].clone()))


def free_all_ranges(projection: SpectralProjection) -> None:
    """Put all ranges back into one parameter each, with what was learned; where they are so, nothing is done."""
    for name in ("weight", "bias"):
        if parametrize.is_parametrized(projection, name):
            parametrize.remove_parametrizations(projection, name, leave_parametrized=True)


class _Grown(nn.Module):
    """Rows that stay, then rows that are trained."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, new: Float[Tensor, "new *row"]) -> Float[Tensor, "range *row"]:
        """Stack them."""
        return torch.cat([self.kept, new])

    def right_inverse(self, full: Float[Tensor, "range *row"]) -> Float[Tensor, "new *row"]:
        """Give the rows that are trained."""
        return full[len(self.kept) :].clone()
