"""Paired comparison of results, and tables of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import InputError, nearest_name
from anyband.evaluate.metrics import (
    METRICS,
    METRICS_OF,
    NUM_RESAMPLES,
    MetricName,
    Score,
    Weighted,
    interval,
    resample,
    score_text,
    units_of,
    value_of,
)
from anyband.evaluate.predictions import Predictions, metric_functions, numbers_per_sample
from anyband.evaluate.results import ResultRow, flat_settings, short_id

__all__ = [
    "Compared",
    "Difference",
    "ResultFilter",
    "ResultGroup",
    "compared_with",
    "difference",
    "difference_text",
    "filtered",
    "group_table",
    "grouped",
    "metric_title",
    "paired",
    "set_apart",
]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of two results on the same test samples."""

    metric: MetricName
    """Which."""
    first: float
    """Of the first result."""
    second: float
    """Of the second."""
    value: float
    """First less second."""
    low: float
    """Lower end of the 95 % bootstrap interval of the difference."""
    high: float
    """Upper end."""
    share_above: float
    """Share of the resamples in which the first is larger."""
    share_below: float
    """Share in which the first is smaller; both are 0 where the two never differ."""
    num_samples: int
    """Test samples, the same for both."""

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

    Equal predictions has a difference of 0 with an interval of 0 to 0.

    Args:
        first: predictions of one result.
        second: of another, on the same samples; their order is free.
        metric: one of their kind; None: the first of it.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        shown: show a progress bar where it takes long.

    Raises:
        InputError: samples, classes or truths are not the same.
    """
    other = paired(first, second)
    name = metric or METRICS_OF[first.kind][0]
    count = len(first.samples)
    both: dict[Literal["first", "second"], Weighted] = {
        "first": metric_functions(first, only=name)[name],
        "second": metric_functions(other, only=name)[name],
    }
    drawn = resample(
        both,
        units=units_of(first.groups, num_samples=count),
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=numbers_per_sample(first),
        shown=shown,
    )
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
    scale = 100 if METRICS[found.metric].percent else 1
    digits = "+.1f" if scale == 100 else "+.4g"
    numbers = [_signed(scale * number, digits) for number in (found.value, found.low, found.high)]
    return f"{numbers[0]} [{numbers[1]} to {numbers[2]}]"


def paired(first: Predictions, second: Predictions) -> Predictions:
    """Bring the second result into the order of the first one's samples.

    Raises:
        InputError: kinds, classes, samples or truths are not the same.
    """
    if first.kind != second.kind or first.classes != second.classes:
        raise InputError(f"results of {_kind(first)} and of {_kind(second)} can't be compared; take two of one task")
    _check_same_samples(first.samples, second.samples)
    place = {name: index for index, name in enumerate(second.samples)}
    order = np.array([place[name] for name in first.samples])
    ordered = Predictions(
        kind=second.kind,
        classes=second.classes,
        samples=first.samples,
        groups=first.groups,
        arrays={name: array[order] for name, array in second.arrays.items()},
    )
    _check_same_truth(first, ordered)
    return ordered


def _check_same_samples(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    only_first, only_second = set(first) - set(second), set(second) - set(first)
    if only_first or only_second:
        example = sorted(only_first or only_second)[0]
        raise InputError(
            f"the two results are of other test samples: {len(set(first) & set(second))} are in both, "
            f"{len(only_first)} only in the first and {len(only_second)} only in the second, such as '{example}'; "
            "evaluate both with the same data and seed"
        )


def _check_same_truth(first: Predictions, second: Predictions) -> None:
    true, other = _truth(first), _truth(second)
    differs = np.zeros(len(first.samples), dtype=bool)
    for name, array in true.items():
        differs |= ~_same(array, other[name]).reshape(len(differs), -1).all(axis=1)
    if differs.any():
        sample = first.samples[int(np.flatnonzero(differs)[0])]
        raise InputError(
            f"the labels of {differs.sum()} of {len(differs)} test samples are not the same in both results, such as "
            f"those of '{sample}'; evaluate both with the same labels"
        )


def _same(first: Shaped[Array, "sample ..."], second: Shaped[Array, "sample ..."]) -> Bool[Array, "sample ..."]:
    if first.dtype.kind != "f":
        return np.asarray(first == second)
    # Sums of many pixels differ in their last digits with the order of adding.
    return np.asarray(np.isclose(first, second, rtol=1e-6, atol=1e-6 * float(np.abs(first).max())))


def _truth(predictions: Predictions) -> Mapping[str, Shaped[Array, "sample ..."]]:
    """Give what of the predictions does not depend on predictions."""
    match predictions.kind:
        case "class" | "labels":
            return {"labels": predictions.arrays["labels"]}
        case "number":
            return {"truth": predictions.arrays["truth"]}
        case "class_map":
            return {"counts": predictions.arrays["confusion"].sum(axis=2)}
        case "number_map":
            return {"sums": predictions.arrays["sums"][:, :3]}


def _kind(predictions: Predictions) -> str:
    return f"kind '{predictions.kind}'" + (f" with {len(predictions.classes)} classes" if predictions.classes else "")


def _signed(number: float, digits: str) -> str:
    if not np.isfinite(number):
        return "–"
    # What rounds to 0 has no sign.
    text = format(number, digits)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


TableTexts = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]
"""A header, and rows of equally many cells."""

_LONGEST_VALUE = 40


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """Which results are asked for; None: all."""

    data: str | None = None
    """Part of the name of the data, or the beginning of their fingerprint."""
    protocol: str | None = None
    """What was done."""
    features: str | None = None
    """Part of the name of the features."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultGroup:
    """Results on one test: the same data, parts and labels."""

    data: str
    """Name of the data."""
    fingerprint: str
    """Of the data."""
    rows: tuple[ResultRow, ...]
    """The best first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One result beside a reference."""

    row: ResultRow
    """The result."""
    difference: Difference | None
    """Result less reference; None: they can't be compared."""
    reason: str = ""
    """Why not."""


def filtered(rows: Sequence[ResultRow], asked: ResultFilter) -> list[ResultRow]:
    """Keep the results that are asked for.

    Raises:
        InputError: there is none; the message says what there is.
    """
    kept = list(rows)
    if asked.data is not None:
        part = asked.data.casefold()
        kept = [row for row in kept if part in row.data.casefold() or row.data_fingerprint.startswith(part)]
        _need(kept, "data", asked.data, [row.data for row in rows])
    if asked.protocol is not None:
        before = kept
        kept = [row for row in kept if row.protocol == asked.protocol]
        _need(kept, "protocol", asked.protocol, [row.protocol for row in before])
    if asked.features is not None:
        before, part = kept, asked.features.casefold()
        kept = [row for row in kept if part in row.features.casefold()]
        _need(kept, "features", asked.features, [row.features for row in before])
    return kept


def grouped(rows: Sequence[ResultRow], metric: MetricName | None = None) -> list[ResultGroup]:
    """Put results of one test together, in the order in which tests first came; the best result of each first.

    Args:
        rows: to group.
        metric: what they are sorted by; None: the main one of their kind. Tests without it are left out.
    """
    groups: dict[tuple[str, str, str], list[ResultRow]] = {}
    for row in rows:
        if metric is None or metric in METRICS_OF[row.kind]:
            groups.setdefault((row.data, row.data_fingerprint, row.kind), []).append(row)
    return [
        ResultGroup(data=data, fingerprint=fingerprint, rows=tuple(sorted(some, key=lambda row: _rank(row, metric))))
        for (data, fingerprint, _), some in groups.items()
    ]


def group_table(group: ResultGroup, metric: MetricName | None = None) -> TableTexts:
    """Lay the results of one test out as texts.

    Args:
        group: of the results.
        metric: only this one; None: all.
    """
    apart = set_apart(group.rows)
    names = [metric] if metric else list(METRICS_OF[group.rows[0].kind])
    header = ["id", "recipe", "protocol", "features", *map(metric_title, names), "checkpoint"]
    rows = []
    for row in group.rows:
        scores = [_text(row, name) for name in names]
        rows.append([short_id(row.id), row.recipe, row.protocol, row.features, *scores, row.checkpoint, apart[row.id]])
    header.append("differs in")
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    return tuple(header), tuple(tuple(row) for row in rows)


def set_apart(rows: Sequence[ResultRow]) -> dict[str, str]:
    """Say by id which choices are not the same in all results of a protocol: `fusion joint, seed 1`."""
    flat: dict[str, dict[str, Any]] = {}
    for row in rows:
        flat[row.id] = {**flat_settings(row.settings), "seed": row.seed, "checkpoint": row.checkpoint_hash[:8]}
    texts = {}
    for row in rows:
        others = [flat[other.id] for other in rows if other.protocol == row.protocol]
        varied = [name for name in flat[row.id] if any(other.get(name) != flat[row.id][name] for other in others)]
        texts[row.id] = ", ".join(f"{name.rpartition('.')[2]} {_short(flat[row.id][name])}" for name in varied)
    return texts


def compared_with(
    reference: ResultRow,
    rows: Sequence[ResultRow],
    metric: MetricName | None = None,
    *,
    seed: int,
    shown: bool = False,
) -> list[Compared]:
    """Compare results with one, paired by test sample; those of another test say why they can't be.

    Args:
        reference: with its predictions.
        rows: with theirs; the reference among them is left out.
        metric: which; None: the main one.
        seed: of the bootstrap.
        shown: show a progress bar where it takes long.
    """
    found = []
    for row in rows:
        if row.id == reference.id:
            continue
        assert row.predictions is not None
        assert reference.predictions is not None
        try:
            one = difference(row.predictions, reference.predictions, metric, seed=seed, shown=shown)
        except InputError as problem:
            found.append(Compared(row=row, difference=None, reason=str(problem)))
        else:
            found.append(Compared(row=row, difference=one))
    return found


def metric_title(name: MetricName) -> str:
    """Write a metric as the head of a column: `accuracy, %`."""
    return f"{METRICS[name].title}, %" if METRICS[name].percent else METRICS[name].title


def _rank(row: ResultRow, metric: MetricName | None) -> float:
    score = _score(row, metric or METRICS_OF[row.kind][0])
    if score is None or not math.isfinite(score.value):
        return math.inf
    return -score.value if METRICS[score.metric].higher_is_better else score.value


def _score(row: ResultRow, metric: MetricName) -> Score | None:
    return next((score for score in row.scores if score.metric == metric), None)


def _text(row: ResultRow, metric: MetricName) -> str:
    score = _score(row, metric)
    return "–" if score is None else score_text(score)


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _need(kept: Sequence[ResultRow], what: str, asked: str, known: Sequence[str]) -> None:
    if not kept:
        names = list(dict.fromkeys(known))
        shown = ", ".join(f"'{name}'" for name in names[:8]) + " …" * (len(names) > 8)
        raise InputError(f"no result has {what} '{asked}' (there are {shown or 'none'}){nearest_name(asked, names)}")
