"""Results of an evaluation: a table for people, JSON for machines, with all that is needed to repeat it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from anyband import __version__
from anyband.models.weight_files import checkpoint_hash, locate
from anyband.tasks.metric_facts import DEFINITIONS, METRICS, MetricName, interval_text, value_text
from anyband.tasks.metrics import Score
from anyband.whole_files import whole_file

__all__ = [
    "Evaluation",
    "ScoredFeatures",
    "checkpoint_name",
    "evaluation_to_dict",
    "print_evaluation",
    "score_text",
    "table_rows",
    "write_evaluation",
]

RESULT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ScoredFeatures:
    """The scores of one kind of features."""

    features: str
    """What the features are: `encoder`, `untrained encoder`, `band means`."""
    width: int
    """Numbers a sample."""
    scores: tuple[Score, ...]
    """One for each metric."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """What validation chose, for example the epoch of a linear probe."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was scored, how, and what came of it."""

    protocol: str
    """`knn` or `linear`."""
    settings: dict[str, Any]
    """Numbers of the protocol, image size, pooling, precision."""
    checkpoint: str
    """Name and hash of the checkpoint."""
    data: str
    """Name and hash of the labelled data."""
    sensors: tuple[str, ...]
    """Sensors of the images."""
    classes: tuple[str, ...]
    """Names of the classes."""
    num_samples: dict[str, int]
    """Samples in train, val and test."""
    seed: int
    """Of splits, probe and bootstrap."""
    rows: tuple[ScoredFeatures, ...]
    """Scores on the test split."""
    notes: tuple[str, ...] = ()
    """Encoding, statistics, interpolated bands."""


def checkpoint_name(path_or_hub_id: str | Path) -> str:
    """Name a checkpoint by what was asked for and the first half of its hash."""
    return f"{Path(path_or_hub_id).name} sha256:{checkpoint_hash(locate(path_or_hub_id))[:16]}"


def evaluation_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Make plain JSON values, with the definition of every metric that occurs."""
    names = {score.metric for row in evaluation.rows for score in row.scores}
    return {
        "result_version": RESULT_VERSION,
        "anyband": __version__,
        **asdict(evaluation),
        "metrics": {name: DEFINITIONS[name] for name in DEFINITIONS if name in names},
        "interval": "95 % bootstrap over test samples, percentile method",
    }


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, whole or not at all."""
    text = json.dumps(evaluation_to_dict(evaluation), indent=1, ensure_ascii=False)
    with whole_file(path) as beside:
        beside.write_text(text + "\n", encoding="utf-8")


def score_text(score: Score) -> str:
    """Write a score and its interval, shares in per cent: `61.2 [58.0–64.1]`."""
    return f"{value_text(score.metric, score.value)} [{interval_text(score.metric, score.low, score.high)}]"


def table_rows(evaluation: Evaluation) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Lay an evaluation out as a table of texts.

    Returns:
        The header, and a row for each kind of features.
    """
    metrics = [score.metric for score in evaluation.rows[0].scores]
    header = ("features", "width", *map(_metric_title, metrics), "samples")
    rows = tuple(
        (row.features, str(row.width), *map(score_text, row.scores), str(row.scores[0].num_samples))
        for row in evaluation.rows
    )
    return header, rows


def _metric_title(name: MetricName) -> str:
    return f"{METRICS[name].title}, %" if METRICS[name].percent else METRICS[name].title


def print_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluation as a table with what it is of."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    header, rows = table_rows(evaluation)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    for line in (_title(evaluation), *evaluation.notes):
        console.print(line, markup=False, soft_wrap=True)
    console.print(table)
    console.print(_caption(evaluation), markup=False, soft_wrap=True)


def _title(evaluation: Evaluation) -> str:
    return f"{evaluation.protocol}: {evaluation.checkpoint} on {evaluation.data}"


def _caption(evaluation: Evaluation) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in evaluation.num_samples.items())
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in evaluation.settings.items())
    return (
        f"{len(evaluation.classes)} classes; samples: {counts}; {settings}; seed {evaluation.seed}; "
        "intervals: 95 % bootstrap over test samples"
    )


def _setting(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)
