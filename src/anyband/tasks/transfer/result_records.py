"""A result with all that is needed to repeat, compare and question it: one row of the table of results."""

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from anyband import __version__
from anyband.data.supervised.records import TaskKind
from anyband.errors import InputError, nearest_name
from anyband.tasks.metric_facts import DEFINITIONS, MetricName
from anyband.tasks.metrics import Score
from anyband.tasks.transfer.records import Evidence

__all__ = ["ResultRow", "find_row", "flat_settings", "json_values", "row_to_dict", "scores_json", "short_id"]

_SHORT_LETTERS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultRow:
    """One outcome on the test samples."""

    id: str
    """Hash of all that the result should follow from; with `-2` where another run of it gave other scores."""
    made: dt.datetime
    """When, UTC."""
    recipe: str
    """Name of the recipe."""
    protocol: str
    """What was done."""
    features: str
    """`encoder`, `untrained encoder`, or the name of a baseline."""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    checkpoint: str
    """Name of the checkpoint."""
    checkpoint_hash: str
    """Of its weights."""
    data: str
    """Name of the data."""
    data_fingerprint: str
    """Of names, contents, labels and parts."""
    kind: TaskKind
    """What is predicted."""
    num_samples: Mapping[str, int]
    """Samples in train, val and test."""
    seed: int
    """Of every draw."""
    settings: Mapping[str, Any]
    """All choices that the result depends on, as JSON values."""
    scores: tuple[Score, ...]
    """One for each metric, the main one first."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""
    version: str = __version__
    """Of the program."""
    evidence: Evidence | None = None
    """What was predicted for each test sample; None: not read."""

    def score(self, metric: MetricName) -> Score:
        """Give the score of a metric.

        Raises:
            InputError: the result has no such metric.
        """
        found = next((score for score in self.scores if score.metric == metric), None)
        if found is None:
            names = ", ".join(score.metric for score in self.scores)
            raise InputError(f"result {short_id(self.id)} has no metric '{metric}' ({names})")
        return found


def short_id(identity: str) -> str:
    """Shorten an id for tables: its first eight letters, and `-2` where another run has the same."""
    letters, _, run = identity.partition("-")
    return letters[:_SHORT_LETTERS] + (f"-{run}" if run else "")


def find_row(rows: Sequence[ResultRow], identity: str) -> ResultRow:
    """Find a result by its id, or by so much of its beginning that no other begins so.

    Raises:
        InputError: no result, or several.
    """
    letters, _, run = identity.partition("-")
    parts = [(row, *row.id.partition("-")[::2]) for row in rows]
    found = [row for row, own, number in parts if letters and own.startswith(letters) and number == run]
    if len(found) == 1:
        return found[0]
    if not found:
        known = [short_id(row.id) for row in rows]
        raise InputError(f"no result begins with '{identity}' ({len(rows)} results){nearest_name(identity, known)}")
    raise InputError(
        f"{len(found)} results begin with '{identity}': {', '.join(row.id for row in found[:4])}; give more letters"
    )


def flat_settings(settings: Mapping[str, Any], *, above: str = "") -> dict[str, Any]:
    """Lay settings out flat, `fit: {epochs: 5}` as `fit.epochs`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, above=f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def json_values(value: Any) -> Any:
    """Make plain JSON values: records become dictionaries, numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): json_values(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_values(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "tolist"):  # of NumPy or torch
        return json_values(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def row_to_dict(row: ResultRow) -> dict[str, Any]:
    """Make plain JSON values of all but the evidence, with the definition of every metric."""
    values = {name: getattr(row, name) for name in row.__dataclass_fields__ if name not in ("evidence", "scores")}
    scores = [{**asdict(score), "definition": DEFINITIONS[score.metric]} for score in row.scores]
    plain: dict[str, Any] = json_values({**values, "made": row.made.isoformat(), "scores": scores})
    return plain


def scores_json(scores: Sequence[Score]) -> str:
    """Write scores as one line of JSON, equal for equal scores."""
    return json.dumps(json_values([asdict(score) for score in scores]))
