"""What was predicted for test samples: all that scores, intervals, paired differences and reports are made of."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num, Shaped
from anyband.errors import InputError
from anyband.evaluate.metrics import (
    METRICS,
    METRICS_OF,
    NUM_RESAMPLES,
    MetricName,
    Score,
    Weighted,
    class_average_precisions,
    error_sums,
    interval,
    label_metric,
    map_metric,
    number_metric,
    ratio,
    value_of,
)
from anyband.labelled.samples import TaskData, TaskKind
from anyband.progress import progress
from anyband.randomness import generator

__all__ = [
    "Counted",
    "Difference",
    "Predictions",
    "confusion",
    "confusion_of",
    "count_map",
    "difference",
    "difference_text",
    "map_predictions",
    "metric_of",
    "paired",
    "per_class",
    "predictions_of",
    "resample",
    "scores_of",
    "sums_of",
]

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
    """Count a predicted map against its truth: as a whole, and what predictions are made of, see `map_predictions`.
    The latter is the whole, or of data with regions each region that has labels.
    """
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


def metric_of(predictions: Predictions, name: MetricName) -> Weighted:
    """Make a metric for weighted samples; one that predictions of this kind lack is an `InputError`."""
    kind = predictions.kind
    if name not in METRICS_OF[kind]:
        raise InputError(f"results of kind '{kind}' have no '{name}' ({', '.join(METRICS_OF[kind])})")
    if kind == "class_map":
        return map_metric(name, predictions.arrays["confusion"])
    if kind == "number_map":
        return number_metric(name, predictions.arrays["sums"])
    if kind == "number":
        return number_metric(name, error_sums(predictions.arrays["truth"], predictions.arrays["predicted"]))
    return label_metric(name, predictions.arrays["labels"], predictions.arrays["scores"])


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
    Samples of one group are drawn together, because they are not independent; a single group gives NaN.
    """
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


def scores_of(
    predictions: Predictions, *, seed: int, num_resamples: int = NUM_RESAMPLES, shown: bool = False
) -> tuple[Score, ...]:
    """Score by all metrics of the kind, each with a 95 % bootstrap interval over the samples; see `resample`."""
    metrics = {name: metric_of(predictions, name) for name in METRICS_OF[predictions.kind]}
    resampled = resample(predictions, metrics, seed=seed, num_resamples=num_resamples, shown=shown)
    count, found = len(predictions.samples), []
    for name, metric in metrics.items():
        value, (low, high) = value_of(metric, num_samples=count), interval(resampled[name])
        found.append(Score(metric=name, value=value, low=low, high=high, num_samples=count))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two results on the same test samples."""

    metric: MetricName
    first: float
    second: float
    value: float
    """First less second, with its 95 % bootstrap interval."""
    low: float
    high: float
    share_above: float
    """Share of the resamples in which the first is larger, in `share_below` smaller; both 0 where none differs."""
    share_below: float
    num_samples: int

    @property
    def better(self) -> bool | None:
        """Whether the first is better by more than the choice of test samples explains; None: that is open."""
        if not (self.low > 0 or self.high < 0):
            return None
        return (self.low > 0) == METRICS[self.metric].higher_is_better


def difference(
    first: Predictions,
    second: Predictions,
    metric: MetricName | None = None,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    shown: bool = False,
) -> Difference:
    """Subtract a metric of the second result from that of the first; every resample is the same for both.
    Equal predictions have a difference of 0 with an interval of 0 to 0. `metric` is the first of the kind where None.
    Samples, in any order, classes and truths must be the same, else `InputError`.
    """
    other = paired(first, second)
    name = metric or METRICS_OF[first.kind][0]
    both = {"first": metric_of(first, name), "second": metric_of(other, name)}
    drawn = resample(first, both, seed=seed, num_resamples=num_resamples, shown=shown)
    count = len(first.samples)
    values = {which: value_of(function, num_samples=count) for which, function in both.items()}
    differences = drawn["first"] - drawn["second"]
    known = differences[np.isfinite(differences)]
    low, high = interval(differences)
    return Difference(
        metric=name,
        first=values["first"],
        second=values["second"],
        value=values["first"] - values["second"],
        low=low,
        high=high,
        share_above=float((known > 0).mean()) if len(known) else 0.0,
        share_below=float((known < 0).mean()) if len(known) else 0.0,
        num_samples=count,
    )


def difference_text(found: Difference) -> str:
    """Write a difference and its interval, shares in points: `+3.1 [+0.4 to +5.8]`."""
    scale, digits = (100, "+.1f") if METRICS[found.metric].percent else (1, "+.4g")
    value, low, high = (_signed(scale * number, digits) for number in (found.value, found.low, found.high))
    return f"{value} [{low} to {high}]"


def _signed(number: float, digits: str) -> str:
    if not np.isfinite(number):
        return "–"
    # What rounds to 0 has no sign.
    text = format(number, digits)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def paired(first: Predictions, second: Predictions) -> Predictions:
    """Bring the second result into the order of the first one's samples.
    Kinds, classes, samples and truths must be the same, else `InputError`.
    """
    if first.kind != second.kind or first.classes != second.classes:
        raise InputError(f"results of {_kind(first)} and of {_kind(second)} can't be compared; take two of one task")
    only_first, only_second = set(first.samples) - set(second.samples), set(second.samples) - set(first.samples)
    if only_first or only_second:
        raise InputError(
            f"the two results are of other test samples: {len(set(first.samples) & set(second.samples))} are in both, "
            f"{len(only_first)} only in the first and {len(only_second)} only in the second, such as "
            f"'{sorted(only_first or only_second)[0]}'; evaluate both with the same data and seed"
        )
    place = {name: index for index, name in enumerate(second.samples)}
    order = np.array([place[name] for name in first.samples])
    arrays = {name: array[order] for name, array in second.arrays.items()}
    ordered = replace(second, samples=first.samples, groups=first.groups, arrays=arrays)
    differs = np.asarray(~_same(_truth(first), _truth(ordered)).reshape(len(order), -1).all(axis=1))
    if differs.any():
        sample = first.samples[int(np.flatnonzero(differs)[0])]
        raise InputError(
            f"the labels of {differs.sum()} of {len(differs)} test samples are not the same in both results, such as "
            f"those of '{sample}'; evaluate both with the same labels"
        )
    return ordered


def _same(first: Shaped[Array, "sample ..."], second: Shaped[Array, "sample ..."]) -> Bool[Array, "sample ..."]:
    if first.dtype.kind != "f":
        return np.asarray(first == second)
    # Sums of many pixels differ in their last digits with the order of adding.
    return np.asarray(np.isclose(first, second, rtol=1e-6, atol=1e-6 * float(np.abs(first).max())))


def _truth(predictions: Predictions) -> Shaped[Array, "sample ..."]:
    match predictions.kind:
        case "class" | "labels":
            return np.asarray(predictions.arrays["labels"])
        case "number":
            return np.asarray(predictions.arrays["truth"])
        case "class_map":
            return np.asarray(predictions.arrays["confusion"].sum(axis=2))
        case "number_map":
            return np.asarray(predictions.arrays["sums"][:, :3])


def _kind(predictions: Predictions) -> str:
    classes = f" with {len(predictions.classes)} classes" if predictions.classes else ""
    return f"kind '{predictions.kind}'{classes}"


def confusion(predictions: Predictions) -> Int[Array, "class class"]:
    """Count samples, or labelled pixels of all samples: true classes in rows, predicted ones in columns.
    Labels or numbers, which have no one predicted class, are an `InputError`.
    """
    if predictions.kind == "class_map":
        return np.asarray(predictions.arrays["confusion"].sum(axis=0))
    if predictions.kind != "class":
        raise InputError(
            f"a confusion matrix is of kind 'class' or 'class_map', and these are of kind '{predictions.kind}'"
        )
    guessed = predictions.arrays["scores"].argmax(axis=1)
    return confusion_of(predictions.arrays["labels"][None], guessed[None], num_classes=len(predictions.classes))


def per_class(predictions: Predictions) -> dict[str, Num[Array, "class"]]:
    """Score each class: a row of numbers by name, NaN where nothing defines one; empty for numbers.
    `true` counts test samples or labelled pixels. One class a sample or pixel has `predicted` (counts), `precision`,
    `recall`, `f1` and `iou`; several labels have `average precision`.
    """
    if not predictions.classes:
        return {}
    if predictions.kind == "labels":
        labels = predictions.arrays["labels"]
        return {
            "true": labels.sum(axis=0),
            "average precision": class_average_precisions(labels, predictions.arrays["scores"]),
        }
    counts = confusion(predictions)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "true": true,
        "predicted": predicted,
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, true + predicted),
        "iou": ratio(hits, true + predicted - hits),
    }
