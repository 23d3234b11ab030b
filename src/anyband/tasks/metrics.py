"""Scores of predictions, each with a bootstrap interval.

Every metric is written for weighted samples and for many weightings at once. The score itself has all weights
one; a bootstrap resample has as weight how often a sample was drawn. So the interval belongs to exactly the
number it stands at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyband.errors import InputError
from anyband.randomness import generator
from anyband.shapes import Array, Float
from anyband.tasks.labels import Labels

__all__ = [
    "DEFINITIONS",
    "MULTI_CLASS_METRICS",
    "MULTI_LABEL_METRICS",
    "MetricName",
    "Score",
    "metric_value",
    "score_predictions",
]

MetricName = Literal["accuracy", "macro_f1", "map_micro", "map_macro"]
MULTI_CLASS_METRICS: tuple[MetricName, ...] = ("accuracy", "macro_f1")
MULTI_LABEL_METRICS: tuple[MetricName, ...] = ("map_micro", "map_macro")

DEFINITIONS: dict[MetricName, str] = {
    "accuracy": "share of the samples whose highest-scoring class is theirs",
    "macro_f1": "F1 of each class that occurs in the labels or the predictions, averaged over the classes",
    "map_micro": "average precision over all (sample, class) decisions as one ranking",
    "map_macro": "average precision of each class that has a positive sample, averaged over the classes",
}

# chosen: the ends of a 95 % interval then vary by about a fifth of a standard error.
_NUM_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)
# chosen: numbers held at once, about 64 MB as float64.
_CHUNK_NUMBERS = 8_000_000

_Weighted = Callable[[Float[Array, "resample sample"]], Float[Array, "resample"]]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number with its uncertainty from the choice of test samples."""

    metric: MetricName
    """Name of the metric; see `DEFINITIONS`."""
    value: float
    """The score, from 0 to 1."""
    low: float
    """Lower end of the 95 % bootstrap interval (percentile method)."""
    high: float
    """Upper end."""
    num_samples: int
    """Number of test samples."""


def metric_value(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> float:
    """Compute one metric without an interval; see `score_predictions`."""
    return float(_weighted_metric(name, labels, scores)(np.ones((1, len(labels))))[0])


def score_predictions(
    labels: Labels, scores: Float[Array, "sample class"], *, seed: int, num_resamples: int = _NUM_RESAMPLES
) -> tuple[Score, ...]:
    """Score predictions: accuracy and macro F1 for class numbers, micro and macro mAP for a label matrix.

    Args:
        labels: the truth.
        scores: higher is more likely; of equal scores the lower class number wins.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        InputError: there is no sample, or no positive label at all.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979; percentile interval.
    """
    num_samples = len(labels)
    if not num_samples or (labels.ndim == 2 and not labels.any()):
        raise InputError(f"nothing to score: {num_samples} test samples, none with a label")
    metrics = MULTI_LABEL_METRICS if labels.ndim == 2 else MULTI_CLASS_METRICS
    weighted = {name: _weighted_metric(name, labels, scores) for name in metrics}
    resampled: dict[MetricName, list[Float[Array, "resample"]]] = {name: [] for name in metrics}
    chunk = max(1, _CHUNK_NUMBERS // (num_samples * (scores.shape[1] if labels.ndim == 2 else 1)))
    for first in range(0, num_resamples, chunk):
        weights = _resample_weights(seed, range(first, min(first + chunk, num_resamples)), num_samples)
        for name in metrics:
            resampled[name].append(weighted[name](weights))
    return tuple(
        _score(name, metric_value(name, labels, scores), np.concatenate(resampled[name]), num_samples)
        for name in metrics
    )


def _score(name: MetricName, value: float, resampled: Float[Array, "resample"], num_samples: int) -> Score:
    # A resample without any positive label has no average precision.
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, _PERCENTILES) if len(known) else (np.nan, np.nan)
    return Score(metric=name, value=value, low=float(low), high=float(high), num_samples=num_samples)


def _resample_weights(seed: int, resamples: range, num_samples: int) -> Float[Array, "resample sample"]:
    rows = [
        np.bincount(
            generator(seed, step=index, sample=0, purpose="bootstrap").integers(0, num_samples, num_samples),
            minlength=num_samples,
        )
        for index in resamples
    ]
    return np.stack(rows).astype(np.float64)


def _weighted_metric(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> _Weighted:
    if name == "accuracy":
        correct = (scores.argmax(axis=1) == labels).astype(np.float64)
        return lambda weights: np.asarray(weights @ correct / weights.sum(axis=1))
    if name == "macro_f1":
        return _macro_f1(labels, scores)
    if name == "map_micro":
        num_classes = scores.shape[1]
        ranking = _average_precision(labels.ravel(), scores.ravel())
        return lambda weights: ranking(weights.repeat(num_classes, axis=1))
    classes = [_average_precision(labels[:, c], scores[:, c]) for c in np.flatnonzero(labels.any(axis=0))]
    return lambda weights: _mean_of_known(np.stack([one(weights) for one in classes]))


def _macro_f1(labels: Labels, scores: Float[Array, "sample class"]) -> _Weighted:
    numbers = np.arange(scores.shape[1])
    truth = (labels[:, None] == numbers).astype(np.float64)
    predicted = (scores.argmax(axis=1)[:, None] == numbers).astype(np.float64)
    both = truth * predicted

    def weighted(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        occurring = weights @ (truth + predicted)
        f1 = 2 * (weights @ both) / np.where(occurring > 0, occurring, 1.0)
        return np.asarray(f1.sum(axis=1) / (occurring > 0).sum(axis=1))

    return weighted


def _average_precision(positive: Array, scores: Float[Array, "item"]) -> _Weighted:
    """Sum of precision times gain in recall over the distinct scores, from the highest."""
    order = np.argsort(-scores, kind="stable")
    hit = positive[order].astype(np.float64)
    # Items of equal score enter together: only the last of each run is a threshold.
    last_of_run = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)

    def weighted(weights: Float[Array, "resample item"]) -> Float[Array, "resample"]:
        ranked = weights[:, order]
        hits = np.cumsum(ranked * hit, axis=1)[:, last_of_run]
        taken = np.cumsum(ranked, axis=1)[:, last_of_run]
        gained = np.diff(hits, axis=1, prepend=0.0)
        total = hits[:, -1]
        summed = (gained * hits / np.where(taken > 0, taken, 1.0)).sum(axis=1)
        return np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)

    return weighted


def _mean_of_known(values: Float[Array, "class resample"]) -> Float[Array, "resample"]:
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
