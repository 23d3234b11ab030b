"""Scores of predictions, each with a bootstrap interval.

Every metric is written for weighted samples and for many weightings at once. The score itself has all weights
one; a bootstrap resample has as weight how often a sample was drawn. So the interval belongs to exactly the
number it stands at.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Bool, Float, Int
from anyband.tasks.bootstrap import NUM_RESAMPLES, Weighted, interval, resample, units_of, value_of
from anyband.tasks.labels import Labels
from anyband.tasks.metric_facts import DEFINITIONS, MetricName, interval_text, value_text

__all__ = [
    "DEFINITIONS",
    "MULTI_CLASS_METRICS",
    "MULTI_LABEL_METRICS",
    "MetricName",
    "Score",
    "class_average_precisions",
    "label_metric",
    "metric_value",
    "score_predictions",
    "score_text",
    "scores_by_metric",
]

MULTI_CLASS_METRICS: tuple[MetricName, ...] = ("accuracy", "macro_f1")
MULTI_LABEL_METRICS: tuple[MetricName, ...] = ("map_micro", "map_macro")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number with its uncertainty from the choice of test samples."""

    metric: MetricName
    """Name of the metric; see `DEFINITIONS`."""
    value: float
    """The score: shares from 0 to 1, errors in the unit of the target."""
    low: float
    """Lower end of the 95 % bootstrap interval (percentile method)."""
    high: float
    """Upper end."""
    num_samples: int
    """Number of test samples."""


def score_text(score: Score) -> str:
    """Write a score and its interval, shares in per cent: `61.2 [58.0–64.1]`."""
    return f"{value_text(score.metric, score.value)} [{interval_text(score.metric, score.low, score.high)}]"


def metric_value(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> float:
    """Compute one metric without an interval; see `score_predictions`."""
    return value_of(label_metric(name, labels, scores), num_samples=len(labels))


def score_predictions(
    labels: Labels, scores: Float[Array, "sample class"], *, seed: int, num_resamples: int = NUM_RESAMPLES
) -> tuple[Score, ...]:
    """Score predictions: accuracy and macro F1 for class numbers, micro and macro mAP for a label matrix.

    Args:
        labels: the truth.
        scores: higher is more likely; of equal scores the lower class number wins.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.

    Raises:
        InputError: there is no sample, or no positive label at all.
    """
    num_samples = len(labels)
    if not num_samples or (labels.ndim == 2 and not labels.any()):
        raise InputError(f"nothing to score: {num_samples} test samples, none with a label")
    names = MULTI_LABEL_METRICS if labels.ndim == 2 else MULTI_CLASS_METRICS
    return scores_by_metric(
        {name: label_metric(name, labels, scores) for name in names},
        units=units_of((), num_samples=num_samples),
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=scores.shape[1] if labels.ndim == 2 else 1,
    )


def scores_by_metric(
    metrics: Mapping[MetricName, Weighted],
    *,
    units: Int[Array, "sample"],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    numbers_per_sample: int = 1,
    shown: bool = False,
) -> tuple[Score, ...]:
    """Compute metrics with their intervals; see `bootstrap.resample`."""
    num_samples = len(units)
    resampled = resample(
        metrics,
        units=units,
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=numbers_per_sample,
        shown=shown,
    )
    return tuple(
        _score(name, value_of(metric, num_samples=num_samples), resampled[name], num_samples)
        for name, metric in metrics.items()
    )


def _score(name: MetricName, value: float, resampled: Float[Array, "resample"], num_samples: int) -> Score:
    low, high = interval(resampled)
    return Score(metric=name, value=value, low=low, high=high, num_samples=num_samples)


def label_metric(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> Weighted:
    """Make a metric of classes or labels for weighted samples.

    Args:
        name: of classes (`accuracy`, `macro_f1`, `balanced_accuracy`) or of labels (`map_micro`, `map_macro`).
        labels: the truth; class numbers, or which labels hold.
        scores: higher is more likely.
    """
    if name == "accuracy":
        correct = (scores.argmax(axis=1) == labels).astype(np.float64)
        return lambda weights: np.asarray(weights @ correct / weights.sum(axis=1))
    if name == "macro_f1":
        return _macro_f1(labels, scores)
    if name == "balanced_accuracy":
        return _balanced_accuracy(labels, scores)
    if name == "map_micro":
        return _average_precision(labels.ravel(), scores.ravel(), items_per_sample=scores.shape[1])
    if name != "map_macro":
        raise InputError(f"'{name}' is no metric of classes or labels")
    classes = [_average_precision(labels[:, c], scores[:, c]) for c in np.flatnonzero(labels.any(axis=0))]
    return lambda weights: _mean_of_known(np.stack([one(weights) for one in classes]))


def class_average_precisions(
    labels: Bool[Array, "sample class"], scores: Float[Array, "sample class"]
) -> Float[Array, "class"]:
    """Compute the average precision of each class; NaN where no sample has it."""
    columns = [_average_precision(labels[:, c], scores[:, c]) for c in range(labels.shape[1])]
    return np.array([value_of(column, num_samples=len(labels)) for column in columns])


def _macro_f1(labels: Labels, scores: Float[Array, "sample class"]) -> Weighted:
    numbers = np.arange(scores.shape[1])
    truth = (labels[:, None] == numbers).astype(np.float64)
    predicted = (scores.argmax(axis=1)[:, None] == numbers).astype(np.float64)
    both = truth * predicted

    def weighted(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        occurring = weights @ (truth + predicted)
        f1 = 2 * (weights @ both) / np.where(occurring > 0, occurring, 1.0)
        return np.asarray(f1.sum(axis=1) / (occurring > 0).sum(axis=1))

    return weighted


def _balanced_accuracy(labels: Labels, scores: Float[Array, "sample class"]) -> Weighted:
    truth = (labels[:, None] == np.arange(scores.shape[1])).astype(np.float64)
    found = truth * (scores.argmax(axis=1) == labels)[:, None]

    def weighted(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        counts = weights @ truth
        recall = weights @ found / np.where(counts > 0, counts, 1.0)
        return np.asarray(recall.sum(axis=1) / (counts > 0).sum(axis=1))

    return weighted


def _average_precision(positive: Array, scores: Float[Array, "item"], *, items_per_sample: int = 1) -> Weighted:
    """Sum of precision times gain in recall over the distinct scores, from the highest; NaN without a positive.

    Recall grows only at scores that a positive item has, so weights are summed between those and nowhere else.
    """
    order = np.argsort(-scores, kind="stable")
    sample, hits_at = order // items_per_sample, np.flatnonzero(positive[order])
    if not len(hits_at):
        return lambda weights: np.full(len(weights), np.nan)
    # Items of equal score enter together: only the last of each run is a threshold.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ends = ends[np.unique(np.searchsorted(ends, hits_at))]
    starts = np.append(0, ends[:-1] + 1)
    ranked, hit = sample[: ends[-1] + 1], sample[hits_at]
    first_hits = np.searchsorted(hits_at, starts)

    def weighted(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        taken = np.cumsum(np.add.reduceat(weights[:, ranked], starts, axis=1), axis=1)
        gained = np.add.reduceat(weights[:, hit], first_hits, axis=1)
        hits = np.cumsum(gained, axis=1)
        total = hits[:, -1]
        summed = (gained * hits / np.where(taken > 0, taken, 1.0)).sum(axis=1)
        return np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan)

    return weighted


def _mean_of_known(values: Float[Array, "class resample"]) -> Float[Array, "resample"]:
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
