"""Losses of maps: averaged over the pixels that have a target, whatever image of the batch they are in."""

import torch
from torch import Tensor
from torch.nn import functional

from anyband.shapes import Float, Int

__all__ = ["map_cross_entropy", "map_squared_error"]


def map_cross_entropy(
    logits: Float[Tensor, "sample class row col"],
    classes: Int[Tensor, "sample row col"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Compute the mean cross entropy over the labelled pixels; 0 where there is none.

    Smoothing spreads a share of each label over the classes, never over pixels, and never where there is no label.

    Args:
        logits: of the classes.
        classes: class of each pixel; −1: none.
        label_smoothing: share of a label that goes to all classes.
    """
    # A batch without labels has no gradient; a mean over no pixels would be NaN.
    summed = functional.cross_entropy(
        logits, classes, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
    )
    return summed / (classes >= 0).sum().clamp(min=1)


def map_squared_error(
    predicted: Float[Tensor, "sample 1 row col"], numbers: Float[Tensor, "sample row col"]
) -> Float[Tensor, ""]:
    """Compute the mean squared error over the pixels with a number; 0 where there is none.

    Args:
        predicted: one output a pixel.
        numbers: of each pixel; NaN: none.
    """
    known = torch.isfinite(numbers)
    # Filled before the difference: the gradient of NaN · 0 is NaN.
    error = (predicted[:, 0] - numbers.nan_to_num()) * known
    return error.square().sum() / known.sum().clamp(min=1)
