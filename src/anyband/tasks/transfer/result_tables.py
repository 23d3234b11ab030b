"""Results as tables for people: those of one test beside each other, the best first, and what sets them apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyband.errors import InputError, nearest_name
from anyband.tasks.metric_facts import METRICS, METRICS_OF, MetricName
from anyband.tasks.metrics import Score, score_text
from anyband.tasks.transfer.comparison import Difference, difference
from anyband.tasks.transfer.result_records import ResultRow, flat_settings, short_id

__all__ = [
    "Compared",
    "ResultFilter",
    "ResultGroup",
    "compared_with",
    "filtered",
    "group_table",
    "grouped",
    "metric_title",
    "set_apart",
]

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
        reference: with its evidence.
        rows: with theirs; the reference among them is left out.
        metric: which; None: the main one.
        seed: of the bootstrap.
        shown: show a progress bar where it takes long.
    """
    found = []
    for row in rows:
        if row.id == reference.id:
            continue
        assert row.evidence is not None
        assert reference.evidence is not None
        try:
            one = difference(row.evidence, reference.evidence, metric, seed=seed, shown=shown)
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
