"""What evidence says of each class: which it is taken for, and its own scores."""

from dataclasses import dataclass
from math import nan

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Float, Int
from anyband.tasks.metrics import class_average_precisions
from anyband.tasks.transfer.records import Evidence

__all__ = ["ClassScores", "confusion", "per_class"]


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """Scores of one class, from 0 to 1; NaN where nothing defines them."""

    name: str
    """Of the class."""
    num_true: int
    """Test samples, or labelled pixels, that are of it."""
    num_predicted: int | None = None
    """Those that are taken for it; None: labels have no threshold."""
    precision: float = nan
    """Share of what is taken for it that is of it."""
    recall: float = nan
    """Share of what is of it that is taken for it."""
    f1: float = nan
    """Harmonic mean of precision and recall."""
    iou: float = nan
    """Those taken for it that are of it, over all that are either."""
    average_precision: float = nan
    """Of its labels as a ranking of the samples; only of several labels."""


def confusion(evidence: Evidence) -> Int[Array, "class class"]:
    """Count samples, or labelled pixels of all samples: true classes in rows, predicted ones in columns.

    Raises:
        InputError: the evidence is of labels or numbers, which have no one predicted class.
    """
    if evidence.kind == "class_map":
        return np.asarray(evidence.arrays["confusion"].sum(axis=0))
    if evidence.kind != "class":
        raise InputError(
            f"a confusion matrix is of kind 'class' or 'class_map', and this evidence is of kind '{evidence.kind}'"
        )
    count = len(evidence.classes)
    pairs = evidence.arrays["labels"] * count + evidence.arrays["scores"].argmax(axis=1)
    return np.bincount(pairs, minlength=count**2).reshape(count, count)


def per_class(evidence: Evidence) -> tuple[ClassScores, ...]:
    """Score each class, in the order of their numbers; numbers have none."""
    if evidence.kind == "labels":
        return _of_labels(evidence)
    if not evidence.classes:
        return ()
    counts = confusion(evidence).astype(np.float64)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratio(hits, predicted), _ratio(hits, true)
    f1, iou = _ratio(2 * hits, true + predicted), _ratio(hits, true + predicted - hits)
    return tuple(
        ClassScores(
            name=name,
            num_true=int(true[index]),
            num_predicted=int(predicted[index]),
            precision=float(precision[index]),
            recall=float(recall[index]),
            f1=float(f1[index]),
            iou=float(iou[index]),
        )
        for index, name in enumerate(evidence.classes)
    )


def _of_labels(evidence: Evidence) -> tuple[ClassScores, ...]:
    labels = evidence.arrays["labels"]
    precisions = class_average_precisions(labels, evidence.arrays["scores"])
    return tuple(
        ClassScores(name=name, num_true=int(labels[:, index].sum()), average_precision=float(precisions[index]))
        for index, name in enumerate(evidence.classes)
    )


def _ratio(above: Float[Array, "class"], below: Float[Array, "class"]) -> Float[Array, "class"]:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
