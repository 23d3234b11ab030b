"""Predictions of samples: what scores and intervals are computed from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
from torch import Tensor

from anyband.arrays import Array, Bool, Float, Int, Shaped
from anyband.errors import InputError
from anyband.evaluate.metrics import (
    ERROR_SUMS,
    METRICS_OF,
    NUM_RESAMPLES,
    MetricName,
    Score,
    Weighted,
    class_average_precisions,
    error_sums,
    label_metric,
    map_metric,
    number_metric,
    scores_by_metric,
    units_of,
)
from anyband.labelled.samples import TaskKind
from anyband.models.checkpoint import Checkpoint

__all__ = [
    "ClassScores",
    "Predictions",
    "Result",
    "class_map_predictions",
    "class_predictions",
    "confusion",
    "labels_predictions",
    "metric_functions",
    "number_map_predictions",
    "number_predictions",
    "numbers_per_sample",
    "per_class",
    "scores_of",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What was predicted for each test sample: all that scores, intervals and comparisons are made of.

    `arrays` holds by kind:
    `class`: `labels` int64 (sample), `scores` float32 (sample, class);
    `labels`: `labels` bool (sample, class), `scores` float32 (sample, class);
    `number`: `truth`, `predicted` float64 (sample);
    `class_map`: `confusion` int64 (sample, class, class), true classes in rows, pixels counted;
    `number_map`: `sums` float64 (sample, 5): pixels, and sums of truth, truth², error², |error|.
    """

    kind: TaskKind
    """What is predicted."""
    classes: tuple[str, ...]
    """Names of the classes; empty for numbers."""
    samples: tuple[str, ...]
    """Name of each test sample, for pairing."""
    arrays: Mapping[str, Shaped[Array, "sample ..."]]
    """By name, as above; the first axis is the sample."""
    groups: tuple[str, ...] = ()
    """Piece of ground that each test sample shows, where several show one: dates of a place, or of a block of it. What
    is of one group is resampled together, because it is not independent. Empty: each sample is one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a protocol found with one kind of features."""

    features: str
    """`encoder`, `untrained encoder`, `band means + logistic regression`, …"""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    predictions: Predictions
    """On the test samples."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, such as the epoch, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    maps: Mapping[int, Shaped[Array, "row col"]] = field(default_factory=dict)
    """Predicted maps of some test samples, by position in the data, for pictures."""
    model: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of what was fitted; empty where nothing was, or not kept."""
    checkpoint: Checkpoint | None = None
    """The encoder as it was trained here, to be used like any other; None: it was not."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""


def class_predictions(
    labels: Int[Array, "sample"],
    scores: Float[Array, "sample class"],
    *,
    classes: tuple[str, ...],
    samples: Sequence[str],
) -> Predictions:
    """Record predictions of one class a sample.

    Args:
        labels: true class numbers.
        scores: higher is more likely; of equal scores the lower class number wins.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a score is not finite, or a label is no class.
    """
    _check_lengths(samples, {"labels": labels, "scores": scores})
    _check_classes(classes, scores.shape[1])
    _check_finite(samples, {"scores": scores})
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"the label of sample '{samples[first]}' is {labels[first]}; {len(classes)} classes have the numbers 0 to "
            f"{len(classes) - 1}"
        )
    arrays: dict[str, Array] = {"labels": labels.astype(np.int64), "scores": scores.astype(np.float32)}
    return Predictions(kind="class", classes=classes, samples=tuple(samples), arrays=arrays)


def labels_predictions(
    labels: Bool[Array, "sample class"],
    scores: Float[Array, "sample class"],
    *,
    classes: tuple[str, ...],
    samples: Sequence[str],
) -> Predictions:
    """Record predictions of several labels a sample.

    Args:
        labels: which labels hold.
        scores: higher is more likely.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a score is not finite, or no label holds anywhere.
    """
    _check_lengths(samples, {"labels": labels, "scores": scores})
    _check_classes(classes, scores.shape[1])
    _check_classes(classes, labels.shape[1])
    _check_finite(samples, {"scores": scores})
    if not labels.any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a label")
    arrays: dict[str, Array] = {"labels": labels.astype(bool), "scores": scores.astype(np.float32)}
    return Predictions(kind="labels", classes=classes, samples=tuple(samples), arrays=arrays)


def number_predictions(
    truth: Float[Array, "sample"], predicted: Float[Array, "sample"], *, samples: Sequence[str]
) -> Predictions:
    """Record predictions of a number a sample.

    Args:
        truth: the numbers.
        predicted: what was found, in the same unit.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, or a number is not finite.
    """
    _check_lengths(samples, {"truth": truth, "predicted": predicted})
    _check_finite(samples, {"truth": truth, "predicted": predicted})
    arrays = {"truth": truth.astype(np.float64), "predicted": predicted.astype(np.float64)}
    return Predictions(kind="number", classes=(), samples=tuple(samples), arrays=arrays)


def class_map_predictions(
    confusion: Int[Array, "sample class class"], *, classes: tuple[str, ...], samples: Sequence[str]
) -> Predictions:
    """Record predictions of maps of classes as a confusion matrix a sample.

    Args:
        confusion: labelled pixels, true classes in rows, predicted ones in columns.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a count is negative, or no pixel is counted.
    """
    _check_lengths(samples, {"confusion": confusion})
    _check_classes(classes, confusion.shape[1])
    if (confusion < 0).any():
        raise InputError(f"counts of pixels are negative, the least is {confusion.min()}")
    if not confusion.any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a labelled pixel")
    arrays = {"confusion": confusion.astype(np.int64)}
    return Predictions(kind="class_map", classes=classes, samples=tuple(samples), arrays=arrays)


def number_map_predictions(sums: Float[Array, "sample 5"], *, samples: Sequence[str]) -> Predictions:
    """Record predictions of maps of numbers as a few sums a sample.

    Args:
        sums: over the labelled pixels: how many, and sums of truth, truth², error² and |error|.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a sum is not finite or impossible, or no pixel is counted.
    """
    _check_lengths(samples, {"sums": sums})
    _check_finite(samples, {"sums": sums})
    for column, name in enumerate(ERROR_SUMS):
        if name != "truth" and (sums[:, column] < 0).any():
            raise InputError(f"the sum of {name} is negative in a sample, the least is {sums[:, column].min():g}")
    if not sums[:, 0].any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a labelled pixel")
    return Predictions(kind="number_map", classes=(), samples=tuple(samples), arrays={"sums": sums.astype(np.float64)})


def scores_of(
    predictions: Predictions, *, seed: int, num_resamples: int = NUM_RESAMPLES, shown: bool = False
) -> tuple[Score, ...]:
    """Score predictions by all metrics of its kind, each with a 95 % bootstrap interval over the samples.

    Samples of one group are drawn together, because they are not independent; a single group has no interval.

    Args:
        predictions: from one of the makers here.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        shown: show a progress bar where it takes long.
    """
    return scores_by_metric(
        metric_functions(predictions),
        units=units_of(predictions.groups, num_samples=len(predictions.samples)),
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=numbers_per_sample(predictions),
        shown=shown,
    )


def metric_functions(predictions: Predictions, *, only: MetricName | None = None) -> dict[MetricName, Weighted]:
    """Make the metrics of predictions for weighted samples, by name.

    Args:
        predictions: from one of the makers here.
        only: this one; None: all of its kind.

    Raises:
        InputError: the kind does not have that metric.
    """
    names = METRICS_OF[predictions.kind]
    if only is not None and only not in names:
        raise InputError(f"results of kind '{predictions.kind}' have no '{only}' ({', '.join(names)})")
    return {name: _metric(predictions, name) for name in ((only,) if only else names)}


def numbers_per_sample(predictions: Predictions) -> int:
    """Count the numbers that a metric holds for one sample; see `bootstrap.resample`."""
    return len(predictions.classes) if predictions.kind == "labels" else 1


def _metric(predictions: Predictions, name: MetricName) -> Weighted:
    arrays, kind = predictions.arrays, predictions.kind
    if kind == "class_map":
        return map_metric(name, arrays["confusion"])
    if kind == "number_map":
        return number_metric(name, arrays["sums"])
    if kind == "number":
        return number_metric(name, error_sums(arrays["truth"], arrays["predicted"]))
    return label_metric(name, arrays["labels"], arrays["scores"])


def _check_lengths(samples: Sequence[str], arrays: Mapping[str, Shaped[Array, "..."]]) -> None:
    wrong = {name: len(array) for name, array in arrays.items() if len(array) != len(samples)}
    if wrong:
        name, count = next(iter(wrong.items()))
        raise InputError(f"{len(samples)} test samples have {count} {name}; give one for each")
    if not samples:
        raise InputError("nothing to score: 0 test samples")
    twice = next((name for name, count in Counter(samples).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two test samples have the name '{twice}'; names pair results, so give each its own")


def _check_classes(classes: tuple[str, ...], count: int) -> None:
    if len(classes) != count:
        raise InputError(f"predictions tell {count} classes apart, {len(classes)} are named; name each")


def _check_finite(samples: Sequence[str], arrays: Mapping[str, Float[Array, "sample ..."]]) -> None:
    for name, array in arrays.items():
        known = np.isfinite(array).reshape(len(samples), -1).all(axis=1)
        if not known.all():
            first = int(np.flatnonzero(~known)[0])
            raise InputError(
                f"{name} of sample '{samples[first]}' are not finite ({(~known).sum()} of {len(samples)} samples); "
                "look at its features and at the learning rate"
            )


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class, from 0 to 1; NaN where nothing defines them."""

    name: str
    """Of the class."""
    num_true: int
    """Test samples, or labelled pixels, that are of it."""
    num_predicted: int | None = None
    """Those that are taken for it; None: labels have no threshold."""
    precision: float = nan
    """Share of what is taken for it that is of it."""
    recall: float = nan
    """Share of what is of it that is taken for it."""
    f1: float = nan
    """Harmonic mean of precision and recall."""
    iou: float = nan
    """Those taken for it that are of it, over all that are either."""
    average_precision: float = nan
    """Of its labels as a ranking of the samples; only of several labels."""


def confusion(predictions: Predictions) -> Int[Array, "class class"]:
    """Count samples, or labelled pixels of all samples: true classes in rows, predicted ones in columns.

    Raises:
        InputError: the predictions is of labels or numbers, which have no one predicted class.
    """
    if predictions.kind == "class_map":
        return np.asarray(predictions.arrays["confusion"].sum(axis=0))
    if predictions.kind != "class":
        raise InputError(
            f"a confusion matrix is of kind 'class' or 'class_map', and these are of kind '{predictions.kind}'"
        )
    count = len(predictions.classes)
    pairs = predictions.arrays["labels"] * count + predictions.arrays["scores"].argmax(axis=1)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def per_class(predictions: Predictions) -> tuple[ClassScores, ...]:
    """Score each class, in the order of their numbers; numbers have none."""
    if predictions.kind == "labels":
        return _of_labels(predictions)
    if not predictions.classes:
        return ()
    counts = confusion(predictions).astype(np.float64)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1, iou = _ratio(2 * hits, true + predicted), _ratio(hits, true + predicted - hits)
    return tuple(
        ClassScores(
            name=name,
            num_true=int(true[index]),
            num_predicted=int(predicted[index]),
            precision=float(precision[index]),
            recall=float(recall[index]),
            f1=float(f1[index]),
            iou=float(iou[index]),
        )
        for index, name in enumerate(predictions.classes)
    )


def _of_labels(predictions: Predictions) -> tuple[ClassScores, ...]:
    labels = predictions.arrays["labels"]
    precisions = class_average_precisions(labels, predictions.arrays["scores"])
    return tuple(
        ClassScores(name=name, num_true=int(labels[:, index].sum()), average_precision=float(precisions[index]))
        for index, name in enumerate(predictions.classes)
    )


def _ratio(above: Float[Array, "class"], below: Float[Array, "class"]) -> Float[Array, "class"]:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
