"""The test samples that went most wrong, with what to say of each."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Float, Int
from anyband.tasks.transfer.records import Evidence

__all__ = ["RANKED_BY", "Mistake", "worst_mistakes"]

# chosen: what a person looks through at once.
_MOST = 12

RANKED_BY = {
    "class": "wrong samples by how much higher the predicted class was scored than the true one",
    "labels": "samples by how much higher a label that does not hold was scored than one that holds",
    "number": "samples by their error",
    "class_map": "samples by their share of wrong pixels",
    "number_map": "samples by the root of their mean squared error",
}
"""How mistakes are ranked, by kind."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One sample."""

    sample: str
    """Its name."""
    lines: tuple[str, ...]
    """What was predicted, what is true, and by how much it went wrong."""


def worst_mistakes(evidence: Evidence, *, most: int = _MOST) -> tuple[Mistake, ...]:
    """Find the samples that went most wrong, the worst first; those that are right are never among them.

    Args:
        evidence: of a task.
        most: so many at most.
    """
    match evidence.kind:
        case "class":
            return _of_classes(evidence, most)
        case "labels":
            return _of_labels(evidence, most)
        case "number":
            return _of_numbers(evidence, most)
        case "class_map":
            return _of_class_maps(evidence, most)
        case "number_map":
            return _of_number_maps(evidence, most)


def _of_classes(evidence: Evidence, most: int) -> tuple[Mistake, ...]:
    labels, scores = evidence.arrays["labels"], evidence.arrays["scores"]
    guessed, rows = scores.argmax(axis=1), np.arange(len(labels))
    high, low = scores[rows, guessed], scores[rows, labels]
    return tuple(
        Mistake(
            sample=evidence.samples[index],
            lines=(
                evidence.classes[guessed[index]],
                f"true: {evidence.classes[labels[index]]}",
                f"scores {high[index]:.3g}, true class {low[index]:.3g}",
            ),
        )
        for index in _worst(np.where(guessed != labels, high - low, -np.inf), most)
    )


def _of_labels(evidence: Evidence, most: int) -> tuple[Mistake, ...]:
    labels, scores = evidence.arrays["labels"], evidence.arrays["scores"]
    false, true = np.where(labels, -np.inf, scores), np.where(labels, scores, np.inf)
    above, below = false.argmax(axis=1), true.argmin(axis=1)
    # A sample of which all labels hold, or none, has no wrong order: its difference is −∞.
    differences = false.max(axis=1) - true.min(axis=1)
    return tuple(
        Mistake(
            sample=evidence.samples[index],
            lines=(
                f"not there: {evidence.classes[above[index]]}",
                f"there: {evidence.classes[below[index]]}",
                f"scores {scores[index, above[index]]:.3g} and {scores[index, below[index]]:.3g}",
            ),
        )
        for index in _worst(np.where(differences > 0, differences, -np.inf), most)
    )


def _of_numbers(evidence: Evidence, most: int) -> tuple[Mistake, ...]:
    truth, predicted = evidence.arrays["truth"], evidence.arrays["predicted"]
    error = np.abs(predicted - truth)
    return tuple(
        Mistake(
            sample=evidence.samples[index],
            lines=(f"predicted {predicted[index]:.4g}", f"true {truth[index]:.4g}", f"error {error[index]:.3g}"),
        )
        for index in _worst(np.where(error > 0, error, -np.inf), most)
    )


def _of_class_maps(evidence: Evidence, most: int) -> tuple[Mistake, ...]:
    counts = evidence.arrays["confusion"]
    totals, hits = counts.sum(axis=(1, 2)), np.trace(counts, axis1=1, axis2=2)
    wrong = 1 - hits / np.maximum(totals, 1)
    found = []
    for index in _worst(np.where((totals > 0) & (wrong > 0), wrong, -np.inf), most):
        off = counts[index] * (1 - np.eye(len(evidence.classes), dtype=np.int64))
        true, guessed = np.unravel_index(off.argmax(), off.shape)
        lines = (
            f"{100 * wrong[index]:.0f} % of {totals[index]} pixels wrong",
            f"most: {evidence.classes[true]}",
            f"taken for {evidence.classes[guessed]}",
        )
        found.append(Mistake(sample=evidence.samples[index], lines=lines))
    return tuple(found)


def _of_number_maps(evidence: Evidence, most: int) -> tuple[Mistake, ...]:
    count, truth, _, squared, _ = evidence.arrays["sums"].T
    known = np.maximum(count, 1)
    error, mean = np.sqrt(squared / known), truth / known
    return tuple(
        Mistake(
            sample=evidence.samples[index],
            lines=(f"RMSE {error[index]:.3g}", f"mean of the labels {mean[index]:.4g}", f"{count[index]:.0f} pixels"),
        )
        for index in _worst(np.where((count > 0) & (error > 0), error, -np.inf), most)
    )


def _worst(wrongness: Float[Array, "sample"], most: int) -> Int[Array, "found"]:
    """Give the samples of the highest numbers, the highest first; −∞ is never among them."""
    order = np.argsort(-wrongness, kind="stable")[:most]
    return np.asarray(order[np.isfinite(wrongness[order])])
