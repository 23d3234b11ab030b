"""What the maps of a task hold: classes or numbers, with their loss, how outputs are read, and validation's score."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Array, Float, Int, Num
from anyband.errors import InputError
from anyband.evaluate.metrics import map_metric, value_of

__all__ = ["ClassMaps", "MapKind", "NumberMaps", "map_cross_entropy", "map_squared_error", "number_maps_of"]


def map_cross_entropy(
    logits: Float[Tensor, "sample class row col"],
    classes: Int[Tensor, "sample row col"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Compute the mean cross entropy over the labelled pixels; 0 where there is none.

    Smoothing spreads a share of each label over the classes, never over pixels, and never where there is no label.

    Args:
        classes: class of each pixel; −1: none.
    """
    # A batch without labels has no gradient; a mean over no pixels would be NaN.
    summed = functional.cross_entropy(
        logits, classes, ignore_index=-1, label_smoothing=label_smoothing, reduction="sum"
    )
    return summed / (classes >= 0).sum().clamp(min=1)


def map_squared_error(
    predicted: Float[Tensor, "sample 1 row col"], numbers: Float[Tensor, "sample row col"]
) -> Float[Tensor, ""]:
    """Compute the mean squared error over the pixels with a number; 0 where there is none (NaN).

    Args:
        numbers: of each pixel; NaN: none.
    """
    known = torch.isfinite(numbers)
    # Filled before the difference: the gradient of NaN · 0 is NaN.
    error = (predicted[:, 0] - numbers.nan_to_num()) * known
    return error.square().sum() / known.sum().clamp(min=1)


class ClassMaps:
    """Maps of classes: cross entropy, mean intersection over union.

    Args:
        num_classes: outputs of the head for each pixel.
    """

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0) -> None:
        self.num_outputs = num_classes
        self._label_smoothing = label_smoothing

    def loss(self, outputs: Float[Tensor, "sample class row col"], targets: Int[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean cross entropy over the labelled pixels."""
        return map_cross_entropy(outputs, targets, label_smoothing=self._label_smoothing)

    def read(self, outputs: Float[Array, "output row col"]) -> Num[Array, "row col"]:
        """Take the class of the largest logit; of equal ones the first."""
        return np.asarray(outputs.argmax(axis=0), dtype=np.int16)

    def score(self, counts: Num[Array, "sample class class"]) -> float:
        """Compute the mIoU over the pixels of all samples; NaN where no pixel has a label."""
        return value_of(map_metric("miou", counts), num_samples=len(counts))

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a fitted head as they are kept: its outputs are logits."""
        return dict(head)


class NumberMaps:
    """Maps of numbers: squared error of standardised numbers; what is read is in the data's own unit."""

    num_outputs = 1

    def __init__(self, *, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def loss(self, outputs: Float[Tensor, "sample 1 row col"], targets: Float[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean squared error of the standardised numbers over the pixels that have one."""
        return map_squared_error(outputs, (targets - self.mean) / self.std)

    def read(self, outputs: Float[Array, "output row col"]) -> Num[Array, "row col"]:
        """Bring the outputs back to the data's own unit."""
        return np.asarray(outputs[0] * self.std + self.mean, dtype=np.float32)

    def score(self, counts: Num[Array, "sample 5"]) -> float:
        """Compute minus the root of the mean squared error over the pixels of all samples; NaN where none has one."""
        pixels, error_squared = counts[:, 0].sum(), counts[:, 3].sum()
        return -float(np.sqrt(error_squared / pixels)) if pixels else float("nan")

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a fitted head as they are kept: its outputs are in the data's own unit."""
        weight, bias = head["classifier.weight"] * self.std, head["classifier.bias"] * self.std + self.mean
        return {**head, "classifier.weight": weight, "classifier.bias": bias}


MapKind = ClassMaps | NumberMaps


def number_maps_of(maps: Iterable[Float[Array, "_ _"]]) -> NumberMaps:
    """Take mean and spread over all pixels that have a number; a spread of 0 counts as 1.

    Raises:
        InputError: no pixel has a number.

    Source:
        Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983: parts are joined exactly.
    """
    count, mean, squares = 0, 0.0, 0.0
    for one in maps:
        numbers = one[np.isfinite(one)].astype(np.float64)
        if not numbers.size:
            continue
        apart, total = float(numbers.mean()) - mean, count + numbers.size
        squares += float(numbers.var()) * numbers.size + apart**2 * count * numbers.size / total
        mean += apart * numbers.size / total
        count = total
    if not count:
        raise InputError("no pixel of the training split has a number; look at the labels and at `data.split`")
    std = float(np.sqrt(squares / count))
    return NumberMaps(mean=mean, std=std if std > 0 else 1.0)
