"""Kinds of maps: classes and numbers, their losses and scores, and spatial groups."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Array, Float, Int, Num
from anyband.errors import InputError
from anyband.evaluate.metrics import map_metric
from anyband.evaluate.predictions import Predictions, class_map_predictions, number_map_predictions
from anyband.labelled.samples import TaskData

__all__ = [
    "ClassMaps",
    "MapCounts",
    "MapKind",
    "NumberMaps",
    "confusion_of",
    "map_cross_entropy",
    "map_squared_error",
    "number_maps_of",
    "with_spatial_groups",
]


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


@runtime_checkable
class MapKind(Protocol):
    """What the maps of a task hold."""

    @property
    def num_outputs(self) -> int:
        """Outputs of the head for each pixel."""

    @property
    def metric(self) -> str:
        """Name of what validation scores."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the training loss."""

    def read(self, outputs: Float[Array, "output row col"]) -> Num[Array, "row col"]:
        """Read the predicted map from the outputs."""

    def count(self, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]) -> Num[Array, "..."]:
        """Count what scores of a sample are made of."""

    def score(self, counts: Num[Array, "sample ..."]) -> float:
        """Score samples together; higher is better, NaN where no pixel has a target."""

    def predictions(self, counts: Num[Array, "sample ..."], samples: Sequence[str]) -> Predictions:
        """Record the counts of the test samples."""

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a fitted head as they are kept: its outputs are logits, or numbers in their own unit."""


@dataclass(frozen=True, kw_only=True)
class ClassMaps:
    """Maps of classes: cross entropy, confusion, mean intersection over union."""

    classes: tuple[str, ...]
    """Their names."""
    label_smoothing: float = 0.0
    """Share of a label that goes to all classes."""

    metric = "miou"

    @property
    def num_outputs(self) -> int:
        """Logits for each pixel."""
        return len(self.classes)

    def loss(self, outputs: Float[Tensor, "sample class row col"], targets: Int[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean cross entropy over the labelled pixels."""
        return map_cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def read(self, outputs: Float[Array, "output row col"]) -> Int[Array, "row col"]:
        """Take the class of the largest logit; of equal ones the first."""
        return np.asarray(outputs.argmax(axis=0), dtype=np.int16)

    def count(self, truth: Int[Array, "row col"], predicted: Int[Array, "row col"]) -> Int[Array, "class class"]:
        """Count the labelled pixels by true and predicted class."""
        return confusion_of(truth, predicted, num_classes=len(self.classes))

    def score(self, counts: Int[Array, "sample class class"]) -> float:
        """Compute the mIoU over the pixels of all samples."""
        return float(map_metric("miou", counts)(np.ones((1, len(counts))))[0])

    def predictions(self, counts: Int[Array, "sample class class"], samples: Sequence[str]) -> Predictions:
        """Record the confusion matrix of each sample."""
        return class_map_predictions(counts, classes=self.classes, samples=samples)

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the head's weights as they are."""
        return dict(head)


@dataclass(frozen=True, kw_only=True)
class NumberMaps:
    """Maps of numbers: squared error of standardised numbers, sums of errors in the data's own unit."""

    mean: float
    """Of the training pixels."""
    std: float
    """Of the training pixels, over 0."""

    metric = "minus rmse"
    num_outputs = 1

    def loss(self, outputs: Float[Tensor, "sample 1 row col"], targets: Float[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean squared error of the standardised numbers over the pixels that have one."""
        return map_squared_error(outputs, (targets - self.mean) / self.std)

    def read(self, outputs: Float[Array, "output row col"]) -> Float[Array, "row col"]:
        """Bring the outputs back to the data's own unit."""
        return np.asarray(outputs[0] * self.std + self.mean, dtype=np.float32)

    def count(self, truth: Float[Array, "row col"], predicted: Float[Array, "row col"]) -> Float[Array, "5"]:
        """Count the pixels with a number, and sum truth, truth², error² and |error|."""
        known = np.isfinite(truth)
        numbers = truth[known].astype(np.float64)
        error = predicted[known].astype(np.float64) - numbers
        return np.array(
            [known.sum(), numbers.sum(), (numbers**2).sum(), (error**2).sum(), np.abs(error).sum()], dtype=np.float64
        )

    def score(self, counts: Float[Array, "sample 5"]) -> float:
        """Compute minus the root of the mean squared error over the pixels of all samples."""
        pixels, error_squared = counts[:, 0].sum(), counts[:, 3].sum()
        return -float(np.sqrt(error_squared / pixels)) if pixels else float("nan")

    def predictions(self, counts: Float[Array, "sample 5"], samples: Sequence[str]) -> Predictions:
        """Record the sums of each sample."""
        return number_map_predictions(counts, samples=samples)

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the head's weights so that its outputs are in the data's own unit."""
        weight, bias = head["classifier.weight"] * self.std, head["classifier.bias"] * self.std + self.mean
        return {**head, "classifier.weight": weight, "classifier.bias": bias}


def confusion_of(
    truth: Int[Array, "row col"], predicted: Int[Array, "row col"], *, num_classes: int
) -> Int[Array, "class class"]:
    """Count labelled pixels, true classes in rows, predicted ones in columns.

    Args:
        truth: class of each pixel; −1: none, not counted.
        predicted: class of each pixel.
        num_classes: rows and columns.
    """
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * num_classes + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


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
        raise InputError("no pixel of the training part has a number; look at the labels and at `data.split`")
    std = float(np.sqrt(squares / count))
    return NumberMaps(mean=mean, std=std if std > 0 else 1.0)


@dataclass(kw_only=True)
class MapCounts:
    """Counts of predicted maps against their truth: an entry for each sample, or for each region of it."""

    data: TaskData
    """Labelled maps."""
    kind: MapKind
    """What they hold."""
    _counts: list[Num[Array, "..."]] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _groups: list[str] = field(default_factory=list)

    def add(self, position: int, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]) -> None:
        """Count a test sample; each of its regions that has labels by itself.

        Args:
            position: in the data.
            truth: of each pixel; −1 or NaN: none.
            predicted: of each pixel.
        """
        name = self.data.names[position]
        place = self.data.places[position] if self.data.places else name
        if self.data.regions is None:
            self._append(self.kind.count(truth, predicted), name, place)
            return
        regions = self.data.regions(position)
        nothing = np.nan if truth.dtype.kind == "f" else -1
        known = np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0
        for region in np.unique(regions[known]):
            inside = np.where(regions == region, truth, nothing).astype(truth.dtype)
            self._append(self.kind.count(inside, predicted), f"{name} block {region}", f"{place} block {region}")

    def predictions(self) -> Predictions:
        """Record what was counted."""
        found = self.kind.predictions(np.stack(self._counts), self._names)
        return found if len(set(self._groups)) == len(self._groups) else replace(found, groups=tuple(self._groups))

    def _append(self, counts: Num[Array, "..."], name: str, group: str) -> None:
        self._counts.append(counts)
        self._names.append(name)
        self._groups.append(group)


def with_spatial_groups(
    predictions: Predictions, data: TaskData, samples: Sequence[int] | Int[Array, " sample"]
) -> Predictions:
    """Say which test samples show one place, so that they are resampled together.

    Args:
        predictions: of image-level predictions.
        data: with the places of its samples.
        samples: positions of the test samples, in the order of the predictions.
    """
    if not data.places:
        return predictions
    places = tuple(data.places[int(sample)] for sample in samples)
    return predictions if len(set(places)) == len(places) else replace(predictions, groups=places)
