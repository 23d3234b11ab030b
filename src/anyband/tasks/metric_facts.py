"""What each metric is: its name for people, its definition, its unit, and which way is better."""

import math
from dataclasses import dataclass
from typing import Literal

from anyband.data.supervised.records import TaskKind

__all__ = ["DEFINITIONS", "METRICS", "METRICS_OF", "MetricFacts", "MetricName", "interval_text", "value_text"]

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
"""Names of the metrics, as in tables for machines."""


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """What a reader must know of a metric."""

    title: str
    """Name for people."""
    definition: str
    """What it is, in one sentence."""
    percent: bool = True
    """Whether it is a share, shown in per cent; else it has the unit of the target, or none."""
    higher_is_better: bool = True
    """Whether more is better."""


METRICS: dict[MetricName, MetricFacts] = {
    "accuracy": MetricFacts(title="accuracy", definition="share of the samples whose highest-scoring class is theirs"),
    "balanced_accuracy": MetricFacts(
        title="balanced accuracy",
        definition="share of each class's samples that are found (recall), averaged over the classes that occur in "
        "the labels",
    ),
    "macro_f1": MetricFacts(
        title="macro F1",
        definition="F1 of each class that occurs in the labels or the predictions, averaged over the classes",
    ),
    "map_micro": MetricFacts(
        title="mAP micro", definition="average precision over all (sample, class) decisions as one ranking"
    ),
    "map_macro": MetricFacts(
        title="mAP macro",
        definition="average precision of each class that has a positive sample, averaged over the classes",
    ),
    "miou": MetricFacts(
        title="mIoU",
        definition="intersection over union of each class that occurs in the labels or the predictions, pixels of all "
        "test samples counted together, averaged over the classes",
    ),
    "pixel_accuracy": MetricFacts(
        title="pixel accuracy",
        definition="share of the labelled pixels whose class is theirs, all test samples counted together",
    ),
    "map_f1_macro": MetricFacts(
        title="macro F1 of pixels",
        definition="F1 of each class that occurs in the labels or the predictions, pixels of all test samples counted "
        "together, averaged over the classes",
    ),
    "rmse": MetricFacts(
        title="RMSE",
        definition="root of the mean squared error, in the unit of the target; over all pixels where it is a map",
        percent=False,
        higher_is_better=False,
    ),
    "mae": MetricFacts(
        title="MAE",
        definition="mean absolute error, in the unit of the target; over all pixels where it is a map",
        percent=False,
        higher_is_better=False,
    ),
    "r2": MetricFacts(
        title="R²",
        definition="1 less the squared errors over the squared deviations of the target from its test mean; over all "
        "pixels where it is a map",
        percent=False,
    ),
}
"""All metrics."""

METRICS_OF: dict[TaskKind, tuple[MetricName, ...]] = {
    "class": ("accuracy", "macro_f1", "balanced_accuracy"),
    "labels": ("map_micro", "map_macro"),
    "number": ("rmse", "mae", "r2"),
    "class_map": ("miou", "pixel_accuracy", "map_f1_macro"),
    "number_map": ("rmse", "mae", "r2"),
}
"""Metrics of each kind of target; the first is the one that results are sorted and compared by."""

DEFINITIONS: dict[MetricName, str] = {name: facts.definition for name, facts in METRICS.items()}
"""What each metric is, for records."""

_UNKNOWN = "–"


def value_text(metric: MetricName, value: float) -> str:
    """Write a value of a metric: a share in per cent without its sign, else four digits; a dash where undefined."""
    if not math.isfinite(value):
        return _UNKNOWN
    text = f"{100 * value:.1f}" if METRICS[metric].percent else f"{value:.4g}"
    return text.replace("-", "−")


def interval_text(metric: MetricName, low: float, high: float) -> str:
    """Write an interval of a metric: `58.0–64.1`; with `to` where a number may be negative."""
    between = "–" if METRICS[metric].percent and low >= 0 else " to "
    return f"{value_text(metric, low)}{between}{value_text(metric, high)}" if math.isfinite(low) else _UNKNOWN
