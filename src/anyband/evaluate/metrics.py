"""Metrics as functions of the weights of samples, their bootstrap intervals, and what each of them means."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num, Shaped
from anyband.errors import InputError
from anyband.labelled.samples import TaskKind

__all__ = [
    "ERROR_SUMS",
    "METRICS",
    "METRICS_OF",
    "NUM_RESAMPLES",
    "VALIDATION_METRICS",
    "LabelledFeatures",
    "Labels",
    "Metric",
    "MetricName",
    "Score",
    "Weighted",
    "check_same_classes",
    "class_average_precisions",
    "error_sums",
    "interval",
    "label_matrix",
    "label_metric",
    "map_metric",
    "metric_title",
    "metric_value",
    "number_metric",
    "ratio",
    "score_text",
    "value_of",
    "value_text",
]

Labels = Int[Array, "sample"] | Bool[Array, "sample class"]
"""One class number for each sample, or for each sample which classes hold."""


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features of the samples of one split; class numbers are positions in `classes`."""

    features: Float[Array, "sample width"]
    labels: Labels
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels):
            raise InputError(f"{len(self.features)} features have {len(self.labels)} labels; give one for each")
        if not np.isfinite(self.features).all():
            row = int(np.flatnonzero(~np.isfinite(self.features).all(axis=1))[0])
            raise InputError(f"the feature of sample {row} is not finite; leave out images without data")


def label_matrix(labelled: LabelledFeatures) -> Bool[Array, "sample class"]:
    """Write the labels as a boolean matrix; for one class a sample each row holds one True."""
    labels = labelled.labels
    return np.asarray(labels if labels.ndim == 2 else labels[:, None] == np.arange(len(labelled.classes)), dtype=bool)


def check_same_classes(train: LabelledFeatures, test: LabelledFeatures) -> None:
    """See that every class of the test samples has training samples, and both splits the same names of classes.
    Anything else is an `InputError`.
    """
    if train.classes != test.classes:
        raise InputError(f"training names the classes {train.classes}, test {test.classes}; give both one list")
    known, needed = (label_matrix(one).any(axis=0) for one in (train, test))
    missing = [train.classes[index] for index in np.flatnonzero(needed & ~known)]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5]) + " …" * (len(missing) > 5)
        raise InputError(
            f"{len(missing)} of {needed.sum()} classes in the test split have no training sample: {shown}; "
            "add training samples of them or split by class"
        )


MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "map_micro",
    "map_macro",
    "miou",
    "pixel_accuracy",
    "map_f1_macro",
    "rmse",
    "mae",
    "r2",
]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a reader must know of a metric: a share shown in per cent, or a number in the target's unit or none."""

    title: str
    definition: str
    percent: bool = True
    higher_is_better: bool = True


METRICS: dict[MetricName, Metric] = {
    "accuracy": Metric(title="accuracy", definition="share of the samples whose highest-scoring class is theirs"),
    "balanced_accuracy": Metric(
        title="balanced accuracy",
        definition="share of each class's samples that are found (recall), averaged over the classes that occur in "
        "the labels",
    ),
    "macro_f1": Metric(
        title="macro F1",
        definition="F1 of each class that occurs in the labels or the predictions, averaged over the classes",
    ),
    "map_micro": Metric(
        title="mAP micro", definition="average precision over all (sample, class) decisions as one ranking"
    ),
    "map_macro": Metric(
        title="mAP macro",
        definition="average precision of each class that has a positive sample, averaged over the classes",
    ),
    "miou": Metric(
        title="mIoU",
        definition="intersection over union of each class that occurs in the labels or the predictions, pixels of all "
        "test samples counted together, averaged over the classes",
    ),
    "pixel_accuracy": Metric(
        title="pixel accuracy",
        definition="share of the labelled pixels whose class is theirs, all test samples counted together",
    ),
    "map_f1_macro": Metric(
        title="macro F1 of pixels",
        definition="F1 of each class that occurs in the labels or the predictions, pixels of all test samples counted "
        "together, averaged over the classes",
    ),
    "rmse": Metric(
        title="RMSE",
        definition="root of the mean squared error, in the unit of the target; over all pixels where it is a map",
        percent=False,
        higher_is_better=False,
    ),
    "mae": Metric(
        title="MAE",
        definition="mean absolute error, in the unit of the target; over all pixels where it is a map",
        percent=False,
        higher_is_better=False,
    ),
    "r2": Metric(
        title="R²",
        definition="1 less the squared errors over the squared deviations of the target from its test mean; over all "
        "pixels where it is a map",
        percent=False,
    ),
}

METRICS_OF: dict[TaskKind, tuple[MetricName, ...]] = {
    "class": ("accuracy", "macro_f1", "balanced_accuracy"),
    "labels": ("map_micro", "map_macro"),
    "number": ("rmse", "mae", "r2"),
    "class_map": ("miou", "pixel_accuracy", "map_f1_macro"),
    "number_map": ("rmse", "mae", "r2"),
}
"""Metrics of each kind of target; the first is the one that results are sorted and compared by."""

VALIDATION_METRICS: dict[TaskKind, str] = {
    "class": "accuracy",
    "labels": "map_micro",
    "number": "minus rmse",
    "class_map": "miou",
    "number_map": "minus rmse",
}
"""What validation compares; higher is better."""

_UNKNOWN = "–"


def metric_title(name: MetricName) -> str:
    """Write a metric as the head of a column: `accuracy, %`."""
    return f"{METRICS[name].title}, %" if METRICS[name].percent else METRICS[name].title


def value_text(metric: MetricName, value: float) -> str:
    """Write a value of a metric: a share in per cent without its sign, else four digits; a dash where undefined."""
    if not math.isfinite(value):
        return _UNKNOWN
    text = f"{100 * value:.1f}" if METRICS[metric].percent else f"{value:.4g}"
    return text.replace("-", "−")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A share from 0 to 1, or an error in the target's unit, with its 95 % bootstrap interval over the test samples."""

    metric: MetricName
    value: float
    low: float
    high: float
    num_samples: int


def score_text(score: Score) -> str:
    """Write a score and its interval, shares in per cent: `61.2 [58.0–64.1]`; `to` where a number may be negative."""
    name, between = score.metric, "–" if METRICS[score.metric].percent and score.low >= 0 else " to "
    ends = f"{value_text(name, score.low)}{between}{value_text(name, score.high)}"
    return f"{value_text(name, score.value)} [{ends if math.isfinite(score.low) else _UNKNOWN}]"


Weighted = Callable[[Float[Array, "resample sample"]], Float[Array, "resample"]]
"""A metric for many weightings of the samples at once."""

NUM_RESAMPLES = 1000
"""Of a bootstrap; chosen: the ends of a 95 % interval then vary by about a fifth of a standard error."""

_PERCENTILES = (2.5, 97.5)


def value_of(metric: Weighted, *, num_samples: int) -> float:
    """Compute a metric with every sample once."""
    return float(metric(np.ones((1, num_samples)))[0])


def interval(resampled: Float[Array, "resample"]) -> tuple[float, float]:
    """Give the ends of the 95 % interval by percentiles; resamples without a value are left out.
    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979; percentile interval.
    """
    # A resample without any positive label has no average precision.
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, _PERCENTILES) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def metric_value(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> float:
    """Compute a metric of classes or labels with every sample once."""
    return value_of(label_metric(name, labels, scores), num_samples=len(labels))


def label_metric(name: MetricName, labels: Labels, scores: Float[Array, "sample class"]) -> Weighted:
    """Make a metric of classes or of labels; of equal scores the lower class number is the predicted one."""
    if name == "map_micro":
        return _average_precision(labels.ravel(), scores.ravel(), items_per_sample=scores.shape[1])
    if name == "map_macro":
        classes = [_average_precision(labels[:, c], scores[:, c]) for c in np.flatnonzero(labels.any(axis=0))]
        return lambda weights: _mean_of_known(np.stack([one(weights) for one in classes]), axis=0)
    numbers = np.arange(scores.shape[1])
    truth, predicted = labels[:, None] == numbers, scores.argmax(axis=1)[:, None] == numbers
    return _class_metric(name, truth & predicted, truth, predicted)


def _class_metric(
    name: MetricName,
    hits: Shaped[Array, "sample class"],
    truth: Shaped[Array, "sample class"],
    predicted: Shaped[Array, "sample class"],
) -> Weighted:
    """Make a metric of how often, in each sample, each class is found where it is true, is true, and is predicted."""
    hits, truth, predicted = (one.astype(np.float64) for one in (hits, truth, predicted))
    # chosen: a class that neither the labels nor the predictions hold is left out, as in scikit-learn and torchmetrics.
    match name:
        case "accuracy" | "pixel_accuracy":
            return lambda weights: ratio(weights @ hits.sum(axis=1), weights @ truth.sum(axis=1))
        case "balanced_accuracy":
            return lambda weights: _mean_of_known(ratio(weights @ hits, weights @ truth), axis=1)
        case "miou":
            return lambda weights: _mean_of_known(ratio(weights @ hits, weights @ (truth + predicted - hits)), axis=1)
    return lambda weights: _mean_of_known(ratio(2 * (weights @ hits), weights @ (truth + predicted)), axis=1)


def class_average_precisions(
    labels: Bool[Array, "sample class"], scores: Float[Array, "sample class"]
) -> Float[Array, "class"]:
    """Compute the average precision of each class; NaN where no sample has it."""
    columns = [_average_precision(labels[:, c], scores[:, c]) for c in range(labels.shape[1])]
    return np.array([value_of(column, num_samples=len(labels)) for column in columns])


def _average_precision(positive: Array, scores: Float[Array, "item"], *, items_per_sample: int = 1) -> Weighted:
    """Sum precision times gain in recall over the distinct scores, from the highest; NaN without a positive.
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


def ratio(above: Num[Array, "*shape"], below: Num[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Divide; NaN where the divisor is not above 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _mean_of_known(values: Float[Array, "..."], *, axis: int) -> Float[Array, "resample"]:
    known = np.isfinite(values)
    counts = known.sum(axis=axis)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(counts, 1), np.nan)


ERROR_SUMS = ("pixels", "truth", "truth²", "error²", "|error|")
"""What the columns of sums hold: how many numbers, and sums over them."""


def map_metric(name: MetricName, confusion: Int[Array, "sample class class"]) -> Weighted:
    """Make a metric of maps of classes; pixels of all samples are counted together, each as often as its sample."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    return _class_metric(name, hits, confusion.sum(axis=2), confusion.sum(axis=1))


def error_sums(truth: Float[Array, "sample"], predicted: Float[Array, "sample"]) -> Float[Array, "sample 5"]:
    """Write numbers as the sums of `ERROR_SUMS`, one number a sample.
    The truth is taken from its mean, which changes no metric and keeps R² exact where the mean is large.
    """
    centred, error = truth - truth.mean(), predicted - truth
    return np.stack([np.ones_like(truth), centred, centred**2, error**2, np.abs(error)], axis=1)


def number_metric(name: MetricName, sums: Float[Array, "sample 5"]) -> Weighted:
    """Make a metric of numbers from the sums of each sample, as `ERROR_SUMS` says."""
    count, truth, truth_squared, error_squared, error = sums.astype(np.float64).T
    if name == "rmse":
        return lambda weights: np.sqrt(ratio(weights @ error_squared, weights @ count))
    if name == "mae":
        return lambda weights: ratio(weights @ error, weights @ count)

    def r2(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        raw = weights @ truth_squared
        spread = raw - (weights @ truth) * ratio(weights @ truth, weights @ count)
        # What is left of a spread of 0 is rounding, which may have either sign.
        spread = np.where(spread > 1e-12 * raw, spread, np.nan)
        return np.asarray(1 - weights @ error_squared / spread)

    return r2
