"""What was predicted, its metrics as functions of the weights of samples, and their bootstrap intervals."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num, Shaped
from anyband.errors import InputError, agreed, counted
from anyband.labelled.samples import TaskData, TaskKind
from anyband.progress import progress
from anyband.randomness import generator

__all__ = [
    "COLUMN_TITLES",
    "ERROR_SUMS",
    "METRICS",
    "METRICS_OF",
    "NUM_RESAMPLES",
    "VALIDATION_METRICS",
    "Counted",
    "LabelledFeatures",
    "Labels",
    "Metric",
    "MetricName",
    "Predictions",
    "Score",
    "Weighted",
    "check_same_classes",
    "chosen_epoch",
    "class_average_precisions",
    "confusion_of",
    "count_map",
    "error_sums",
    "interval",
    "label_matrix",
    "map_predictions",
    "metric_of",
    "metric_value",
    "number_metric",
    "predictions_of",
    "ratio",
    "resample",
    "score_notes",
    "score_text",
    "scores_of",
    "sums_of",
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
            numbers = counted(len(self.features), "feature", "have"), counted(len(self.labels), "label")
            raise InputError(f"{' '.join(numbers)}; give one for each")
        if not np.isfinite(self.features).all():
            row = int(np.flatnonzero(~np.isfinite(self.features).all(axis=1))[0])
            raise InputError(f"the feature of sample {row} is not finite; leave out images without data")


def label_matrix(labelled: LabelledFeatures) -> Bool[Array, "sample class"]:
    """Write the labels as a boolean matrix; for one class a sample each row holds one True."""
    labels = labelled.labels
    return np.asarray(labels if labels.ndim == 2 else labels[:, None] == np.arange(len(labelled.classes)), dtype=bool)


def check_same_classes(train: LabelledFeatures, test: LabelledFeatures) -> None:
    """See that every class of the test samples has training samples, and both splits the same names of classes.
    Anything else is an `InputError`."""
    if train.classes != test.classes:
        raise InputError(f"training names the classes {train.classes}, test {test.classes}; give both one list")
    known, needed = (label_matrix(one).any(axis=0) for one in (train, test))
    missing = [train.classes[index] for index in np.flatnonzero(needed & ~known)]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5]) + " …" * (len(missing) > 5)
        raise InputError(
            f"{len(missing)} of {counted(needed.sum(), 'class')} in the test split "
            f"{agreed(len(missing), 'have')} no training sample: {shown}; "
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


def chosen_epoch(validation: Sequence[float], kind: TaskKind) -> dict[str, int | float]:
    """Name the epoch, from 1, whose weights were kept, and its validation score."""
    return {"epoch": 1 + validation.index(max(validation)), f"validation {VALIDATION_METRICS[kind]}": max(validation)}


COLUMN_TITLES = {name: f"{one.title}, %" if one.percent else one.title for name, one in METRICS.items()}
"""Heads of columns: `accuracy, %`."""

_UNKNOWN = "–"


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
    """Write a score and its interval, shares in per cent: `61.2 [58.0–64.1]`; `to` where a number may be negative;
    or `undefined`."""
    if not math.isfinite(score.value):
        return "undefined"
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
    kind: TaskKind = "class" if labels.ndim == 1 else "labels"
    return value_of(metric_of(kind, {"labels": labels, "scores": scores}, name), num_samples=len(labels))


def metric_of(kind: TaskKind, arrays: Mapping[str, Shaped[Array, "sample ..."]], name: MetricName) -> Weighted:
    """Make a metric for weighted samples from the arrays of `Predictions`; one that the kind lacks is an `InputError`.
    Of equal scores the lower class number is the predicted one. Pixels of all samples are counted together, each as
    often as its sample."""
    if name not in METRICS_OF[kind]:
        raise InputError(f"results of kind '{kind}' have no '{name}' ({', '.join(METRICS_OF[kind])})")
    if kind == "number_map":
        return number_metric(name, arrays["sums"])
    if kind == "number":
        return number_metric(name, error_sums(arrays["truth"], arrays["predicted"]))
    if kind == "class_map":
        confusion = arrays["confusion"]
        counts = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2), confusion.sum(axis=1)
    else:
        labels, scores = arrays["labels"], arrays["scores"]
        if name == "map_micro":
            return _average_precision(labels.ravel(), scores.ravel(), items_per_sample=scores.shape[1])
        if name == "map_macro":
            classes = [_average_precision(labels[:, c], scores[:, c]) for c in np.flatnonzero(labels.any(axis=0))]
            return lambda weights: _mean_of_known(np.stack([one(weights) for one in classes]), axis=0)
        numbers = np.arange(scores.shape[1])
        labelled, chosen = labels[:, None] == numbers, scores.argmax(axis=1)[:, None] == numbers
        counts = labelled & chosen, labelled, chosen
    # How often, in each sample, each class is found where it is true, is true, and is predicted.
    hits, truth, predicted = (one.astype(np.float64) for one in counts)
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
    """Sum precision times gain in recall over the distinct scores, from the highest; NaN without a positive. Recall
    grows only at scores that a positive item has, so weights are summed between those and nowhere else."""
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


def error_sums(truth: Float[Array, "sample"], predicted: Float[Array, "sample"]) -> Float[Array, "sample 5"]:
    """Write numbers as the sums of `ERROR_SUMS`, one number a sample. The truth is taken from its mean, which changes
    no metric and keeps R² exact where the mean is large."""
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


# By kind: arrays of a sample each, and how they are kept.
_ARRAYS: dict[TaskKind, dict[str, type]] = {
    "class": {"labels": np.int64, "scores": np.float32},
    "labels": {"labels": bool, "scores": np.float32},
    "number": {"truth": np.float64, "predicted": np.float64},
    "class_map": {"confusion": np.int64},
    "number_map": {"sums": np.float64},
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What was predicted for each test sample; what is impossible, or nothing to score, is an `InputError`.

    `arrays` holds by kind, the first axis being the sample:
    `class`: `labels` int64 (sample), `scores` float32 (sample, class); of equal scores the lower class number wins;
    `labels`: `labels` bool (sample, class), `scores` float32 (sample, class);
    `number`: `truth`, `predicted` float64 (sample);
    `class_map`: `confusion` int64 (sample, class, class), true classes in rows, pixels counted;
    `number_map`: `sums` float64 (sample, 5): pixels, and sums of truth, truth², error², |error|.
    """

    kind: TaskKind
    classes: tuple[str, ...] = ()
    """Empty for numbers."""
    samples: tuple[str, ...]
    """Name of each, for pairing."""
    arrays: Mapping[str, Shaped[Array, "sample ..."]]
    groups: tuple[str, ...] = ()
    """Place, or block of it, that several samples show; they are resampled together. Empty: each sample is one."""

    def __post_init__(self) -> None:
        num_samples, dtypes = len(self.samples), _ARRAYS[self.kind]
        if not num_samples:
            raise InputError("nothing to score: 0 test samples")
        twice = next((name for name, count in Counter(self.samples).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"two test samples have the name '{twice}'; names pair results, so give each its own")
        for name, array in self.arrays.items():
            known = np.isfinite(array).reshape(num_samples, -1).all(axis=1)
            if not known.all():
                raise InputError(
                    f"{name} of sample '{self.samples[int(known.argmin())]}' are not finite ({(~known).sum()} of "
                    f"{num_samples} samples); look at its features and at the learning rate"
                )
        if self.kind == "class":
            labels, count = self.arrays["labels"], len(self.classes)
            outside = np.flatnonzero((labels < 0) | (labels >= count))
            if len(outside):
                raise InputError(
                    f"the label of sample '{self.samples[outside[0]]}' is {labels[outside[0]]}; {count} classes have "
                    f"the numbers 0 to {count - 1}"
                )
        if self.kind == "labels" and not self.arrays["labels"].any():
            raise InputError(f"nothing to score: {num_samples} test samples, none with a label")
        pixels = self.arrays["sums"][:, 0] if self.kind == "number_map" else self.arrays.get("confusion")
        if pixels is not None and not pixels.any():
            raise InputError(f"nothing to score: {num_samples} test samples, none with a labelled pixel")
        kept: dict[str, Array] = {name: np.asarray(self.arrays[name], dtype=dtype) for name, dtype in dtypes.items()}
        object.__setattr__(self, "arrays", kept)


def predictions_of(
    data: TaskData, samples: Int[Array, " sample"], predicted: Float[Array, "sample *output"]
) -> Predictions:
    """Put scores or numbers of whole images beside their truth; those of one place form a spatial group."""
    assert data.targets is not None
    names = ("truth", "predicted") if data.kind == "number" else ("labels", "scores")
    places = tuple(data.places[int(sample)] for sample in samples) if data.places else ()
    return Predictions(
        kind=data.kind,
        classes=() if data.kind == "number" else data.classes,
        samples=tuple(data.names[int(sample)] for sample in samples),
        arrays=dict(zip(names, (data.targets[samples], predicted), strict=True)),
        groups=places if len(set(places)) < len(places) else (),
    )


def confusion_of(
    truth: Int[Array, "row col"], predicted: Int[Array, "row col"], *, num_classes: int
) -> Int[Array, "class class"]:
    """Count labelled pixels, true classes in rows, predicted ones in columns; where the truth is −1 is no label."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * num_classes + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def sums_of(truth: Float[Array, "row col"], predicted: Float[Array, "row col"]) -> Float[Array, "5"]:
    """Count the pixels whose truth is a number, and sum truth, truth², error² and |error| over them."""
    known = np.isfinite(truth)
    numbers = truth[known].astype(np.float64)
    error = predicted[known].astype(np.float64) - numbers
    return np.array([known.sum(), numbers.sum(), (numbers**2).sum(), (error**2).sum(), np.abs(error).sum()])


Counted = tuple[Num[Array, "..."], str, str]
"""Counts of a predicted map or a region of it, its name, and its spatial group."""


def count_map(
    data: TaskData, position: int, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]
) -> tuple[Num[Array, "..."], list[Counted]]:
    """Count a predicted map against its truth: as a whole, and what predictions are made of, see `map_predictions`. The
    latter is the whole, or of data with regions each region that has labels."""
    name = data.names[position]
    place = data.places[position] if data.places else name
    count = partial(confusion_of, num_classes=len(data.classes)) if data.kind == "class_map" else sums_of
    whole = count(truth, predicted)
    if data.regions is None:
        return whole, [(whole, name, place)]
    regions = data.regions(position)
    nothing, known = (np.nan, np.isfinite(truth)) if truth.dtype.kind == "f" else (-1, truth >= 0)
    inside = ((one, np.where(regions == one, truth, nothing).astype(truth.dtype)) for one in np.unique(regions[known]))
    return whole, [
        (count(labels, predicted), f"{name} block {region}", f"{place} block {region}") for region, labels in inside
    ]


def map_predictions(data: TaskData, counted: Sequence[Counted]) -> Predictions:
    """Put the counts of predicted maps together."""
    counts, names, groups = zip(*counted, strict=True)
    is_class = data.kind == "class_map"
    return Predictions(
        kind=data.kind,
        classes=data.classes if is_class else (),
        samples=names,
        arrays={"confusion" if is_class else "sums": np.stack(counts)},
        groups=groups if len(set(groups)) < len(groups) else (),
    )


NameT = TypeVar("NameT", bound=str)

# chosen: numbers held at once, about 64 MB as float64.
_CHUNK_NUMBERS = 8_000_000
# chosen: takes about two seconds.
_LONG_NUMBERS = 100_000_000


def resample(
    predictions: Predictions,
    metrics: Mapping[NameT, Weighted],
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    shown: bool = False,
) -> dict[NameT, Float[Array, "resample"]]:
    """Compute metrics on resamples of the test samples, all on the same ones; equal seeds and counts draw alike.
    Samples of one group are drawn together, because they are not independent; a single group gives NaN."""
    num_samples, groups = len(predictions.samples), predictions.groups
    number = {group: index for index, group in enumerate(dict.fromkeys(groups or range(num_samples)))}
    units, num_units = np.array([number[group] for group in groups or range(num_samples)]), len(number)
    if num_units == 1:
        # One unit tells nothing of how another would score.
        return {name: np.full(num_resamples, np.nan) for name in metrics}
    found: dict[NameT, list[Float[Array, "resample"]]] = {name: [] for name in metrics}
    # That a metric holds for one resample, so that memory stays bounded.
    numbers = num_samples * (len(predictions.classes) if predictions.kind == "labels" else 1)
    chunk, is_long = max(1, _CHUNK_NUMBERS // numbers), numbers * num_resamples > _LONG_NUMBERS
    with progress("resample test samples", num_resamples, shown=shown and is_long) as advance:
        for first in range(0, num_resamples, chunk):
            steps = range(first, min(first + chunk, num_resamples))
            draws = (generator(seed, step=step, sample=0, purpose="bootstrap") for step in steps)
            counts = [np.bincount(draw.integers(0, num_units, num_units), minlength=num_units) for draw in draws]
            weights = np.stack(counts).astype(np.float64)[:, units]
            for name, metric in metrics.items():
                found[name].append(metric(weights))
            advance(len(weights))
    return {name: np.concatenate(values) for name, values in found.items()}


_LEFT_OUT: dict[TaskKind, str] = {
    "class": "the balanced accuracy leaves {0} out, macro F1 unless {1} predicted",
    "labels": "mAP macro leaves {0} out",
    "class_map": "mIoU and macro F1 leave {0} out unless {1} predicted",
}


def score_notes(predictions: Predictions) -> tuple[str, ...]:
    """Say which classes the test lacks, and what scores do with them; or that a test of equal numbers has no R²."""
    kind, arrays = predictions.kind, predictions.arrays
    if kind not in _LEFT_OUT:
        r2 = value_of(metric_of(kind, arrays, "r2"), num_samples=len(predictions.samples))
        return () if math.isfinite(r2) else ("R² is undefined: all numbers of the test are equal",)
    numbers = np.arange(len(predictions.classes))
    if kind == "class_map":
        present = arrays["confusion"].sum(axis=(0, 2)) > 0
    else:
        present = arrays["labels"].any(axis=0) if kind == "labels" else np.isin(numbers, arrays["labels"])
    missing = [predictions.classes[number] for number in numbers[~present]]
    if not missing:
        return ()
    named = ", ".join(f"'{name}'" for name in missing[:5]) + " …" * (len(missing) > 5)
    subject, pronouns = ("class", ("it", "it is")) if len(missing) == 1 else ("classes", ("them", "they are"))
    return (f"the test has no {subject} {named}: {_LEFT_OUT[kind].format(*pronouns)}",)


def scores_of(
    predictions: Predictions, *, seed: int, num_resamples: int = NUM_RESAMPLES, shown: bool = False
) -> tuple[Score, ...]:
    """Score by all metrics of the kind, each with a 95 % bootstrap interval over the samples; see `resample`."""
    metrics = {name: metric_of(predictions.kind, predictions.arrays, name) for name in METRICS_OF[predictions.kind]}
    resampled = resample(predictions, metrics, seed=seed, num_resamples=num_resamples, shown=shown)
    count, found = len(predictions.samples), []
    for name, metric in metrics.items():
        value, (low, high) = value_of(metric, num_samples=count), interval(resampled[name])
        found.append(Score(metric=name, value=value, low=low, high=high, num_samples=count))
    return tuple(found)
