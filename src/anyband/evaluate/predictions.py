"""What was predicted for test samples: all that scores, intervals, paired differences and reports are made of."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num, Shaped
from anyband.errors import InputError
from anyband.evaluate.metrics import (
    ERROR_SUMS,
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
    resample,
    units_of,
    value_of,
)
from anyband.labelled.samples import TaskData, TaskKind

__all__ = [
    "Difference",
    "MapCounts",
    "Predictions",
    "confusion",
    "confusion_of",
    "difference",
    "difference_text",
    "metric_of",
    "paired",
    "per_class",
    "predictions_of",
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
        object.__setattr__(self, "samples", tuple(self.samples))
        _check_samples(self)
        if self.kind in _CHECKS:
            _CHECKS[self.kind](self)
        kept: dict[str, Array] = {
            name: np.asarray(self.arrays[name], dtype=dtype) for name, dtype in _ARRAYS[self.kind].items()
        }
        object.__setattr__(self, "arrays", kept)

    def __getitem__(self, name: str) -> Any:
        return self.arrays[name]


def _check_samples(one: Predictions) -> None:
    wrong = {name: len(array) for name, array in one.arrays.items() if len(array) != len(one.samples)}
    if wrong:
        name, count = next(iter(wrong.items()))
        raise InputError(f"{len(one.samples)} test samples have {count} {name}; give one for each")
    if not one.samples:
        raise InputError("nothing to score: 0 test samples")
    twice = next((name for name, count in Counter(one.samples).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two test samples have the name '{twice}'; names pair results, so give each its own")
    for name, array in one.arrays.items():
        known = np.isfinite(array).reshape(len(one.samples), -1).all(axis=1)
        if not known.all():
            first = int(np.flatnonzero(~known)[0])
            raise InputError(
                f"{name} of sample '{one.samples[first]}' are not finite ({(~known).sum()} of {len(one.samples)} "
                "samples); look at its features and at the learning rate"
            )


def _check_classes(one: Predictions, *names: str) -> None:
    for name in names:
        if len(one.classes) != one[name].shape[1]:
            raise InputError(
                f"predictions tell {one[name].shape[1]} classes apart, {len(one.classes)} are named; name each"
            )


def _check_class(one: Predictions) -> None:
    _check_classes(one, "scores")
    labels, count = one["labels"], len(one.classes)
    outside = np.flatnonzero((labels < 0) | (labels >= count))
    if len(outside):
        raise InputError(
            f"the label of sample '{one.samples[outside[0]]}' is {labels[outside[0]]}; {count} classes have the "
            f"numbers 0 to {count - 1}"
        )


def _check_labels(one: Predictions) -> None:
    _check_classes(one, "scores", "labels")
    if not one["labels"].any():
        raise InputError(f"nothing to score: {len(one.samples)} test samples, none with a label")


def _check_class_map(one: Predictions) -> None:
    _check_classes(one, "confusion")
    if (one["confusion"] < 0).any():
        raise InputError(f"counts of pixels are negative, the least is {one['confusion'].min()}")
    if not one["confusion"].any():
        raise InputError(f"nothing to score: {len(one.samples)} test samples, none with a labelled pixel")


def _check_number_map(one: Predictions) -> None:
    for column, name in enumerate(ERROR_SUMS):
        if name != "truth" and (one["sums"][:, column] < 0).any():
            raise InputError(
                f"the sum of {name} is negative in a sample, the least is {one['sums'][:, column].min():g}"
            )
    if not one["sums"][:, 0].any():
        raise InputError(f"nothing to score: {len(one.samples)} test samples, none with a labelled pixel")


_CHECKS: dict[TaskKind, Callable[[Predictions], None]] = {
    "class": _check_class,
    "labels": _check_labels,
    "class_map": _check_class_map,
    "number_map": _check_number_map,
}


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


class MapCounts:
    """Counts of predicted maps against their truth: an entry for each sample, or for each region of it."""

    def __init__(self, data: TaskData) -> None:
        self._data = data
        self._found: list[tuple[Num[Array, "..."], str, str]] = []

    def add(self, position: int, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]) -> Num[Array, "..."]:
        """Count a sample, each of its regions that has labels by itself; give the counts of the whole."""
        name = self._data.names[position]
        place = self._data.places[position] if self._data.places else name
        whole = self._count(truth, predicted)
        if self._data.regions is None:
            self._found.append((whole, name, place))
            return whole
        regions = self._data.regions(position)
        nothing, known = (np.nan, np.isfinite(truth)) if truth.dtype.kind == "f" else (-1, truth >= 0)
        for region in np.unique(regions[known]):
            inside = np.where(regions == region, truth, nothing).astype(truth.dtype)
            counts = self._count(inside, predicted)
            self._found.append((counts, f"{name} block {region}", f"{place} block {region}"))
        return whole

    def _count(self, truth: Num[Array, "row col"], predicted: Num[Array, "row col"]) -> Num[Array, "..."]:
        if self._data.kind == "class_map":
            return confusion_of(truth, predicted, num_classes=len(self._data.classes))
        return sums_of(truth, predicted)

    def predictions(self) -> Predictions:
        counts, names, groups = zip(*self._found, strict=True)
        is_class = self._data.kind == "class_map"
        return Predictions(
            kind=self._data.kind,
            classes=self._data.classes if is_class else (),
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
        return map_metric(name, predictions["confusion"])
    if kind == "number_map":
        return number_metric(name, predictions["sums"])
    if kind == "number":
        return number_metric(name, error_sums(predictions["truth"], predictions["predicted"]))
    return label_metric(name, predictions["labels"], predictions["scores"])


def scores_of(
    predictions: Predictions, *, seed: int, num_resamples: int = NUM_RESAMPLES, shown: bool = False
) -> tuple[Score, ...]:
    """Score by all metrics of the kind, each with a 95 % bootstrap interval over the samples.
    Samples of one group are drawn together, because they are not independent; a single group has no interval.
    """
    metrics = {name: metric_of(predictions, name) for name in METRICS_OF[predictions.kind]}
    resampled = _resampled(predictions, metrics, seed=seed, num_resamples=num_resamples, shown=shown)
    count, found = len(predictions.samples), []
    for name, metric in metrics.items():
        low, high = interval(resampled[name])
        found.append(
            Score(metric=name, value=value_of(metric, num_samples=count), low=low, high=high, num_samples=count)
        )
    return tuple(found)


def _resampled(
    predictions: Predictions, metrics: Mapping[Any, Weighted], *, seed: int, num_resamples: int, shown: bool
) -> dict[Any, Float[Array, "resample"]]:
    return resample(
        metrics,
        units=units_of(predictions.groups, num_samples=len(predictions.samples)),
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=len(predictions.classes) if predictions.kind == "labels" else 1,
        shown=shown,
    )


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
    drawn = _resampled(first, both, seed=seed, num_resamples=num_resamples, shown=shown)
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
            return np.asarray(predictions["labels"])
        case "number":
            return np.asarray(predictions["truth"])
        case "class_map":
            return np.asarray(predictions["confusion"].sum(axis=2))
        case "number_map":
            return np.asarray(predictions["sums"][:, :3])


def _kind(predictions: Predictions) -> str:
    classes = f" with {len(predictions.classes)} classes" if predictions.classes else ""
    return f"kind '{predictions.kind}'{classes}"


def confusion(predictions: Predictions) -> Int[Array, "class class"]:
    """Count samples, or labelled pixels of all samples: true classes in rows, predicted ones in columns.
    Labels or numbers, which have no one predicted class, are an `InputError`.
    """
    if predictions.kind == "class_map":
        return np.asarray(predictions["confusion"].sum(axis=0))
    if predictions.kind != "class":
        raise InputError(
            f"a confusion matrix is of kind 'class' or 'class_map', and these are of kind '{predictions.kind}'"
        )
    guessed = predictions["scores"].argmax(axis=1)
    return confusion_of(predictions["labels"][None], guessed[None], num_classes=len(predictions.classes))


def per_class(predictions: Predictions) -> dict[str, Num[Array, "class"]]:
    """Score each class: a row of numbers by name, NaN where nothing defines one; empty for numbers.
    `true` counts test samples or labelled pixels. One class a sample or pixel has `predicted` (counts), `precision`,
    `recall`, `f1` and `iou`; several labels have `average precision`.
    """
    if not predictions.classes:
        return {}
    if predictions.kind == "labels":
        labels = predictions["labels"]
        return {
            "true": labels.sum(axis=0),
            "average precision": class_average_precisions(labels, predictions["scores"]),
        }
    counts = confusion(predictions)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "true": true,
        "predicted": predicted,
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, true),
        "f1": _ratio(2 * hits, true + predicted),
        "iou": _ratio(hits, true + predicted - hits),
    }


def _ratio(above: Int[Array, "class"], below: Int[Array, "class"]) -> Float[Array, "class"]:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
