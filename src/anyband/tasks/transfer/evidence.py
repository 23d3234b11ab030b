"""Evidence of a task: what was predicted for each test sample, checked, and the scores that follow from it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Bool, Float, Int, Shaped
from anyband.tasks.bootstrap import NUM_RESAMPLES, Weighted, units_of
from anyband.tasks.metric_facts import METRICS_OF, MetricName
from anyband.tasks.metrics import Score, label_metric, scores_by_metric
from anyband.tasks.metrics_maps import ERROR_SUMS, error_sums, map_metric, number_metric
from anyband.tasks.transfer.records import Evidence

__all__ = [
    "class_evidence",
    "class_map_evidence",
    "labels_evidence",
    "metric_functions",
    "number_evidence",
    "number_map_evidence",
    "numbers_per_sample",
    "scores_of",
]


def class_evidence(
    labels: Int[Array, "sample"],
    scores: Float[Array, "sample class"],
    *,
    classes: tuple[str, ...],
    samples: Sequence[str],
) -> Evidence:
    """Record predictions of one class a sample.

    Args:
        labels: true class numbers.
        scores: higher is more likely; of equal scores the lower class number wins.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a score is not finite, or a label is no class.
    """
    _check_lengths(samples, {"labels": labels, "scores": scores})
    _check_classes(classes, scores.shape[1])
    _check_finite(samples, {"scores": scores})
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        raise InputError(
            f"the label of sample '{samples[first]}' is {labels[first]}; {len(classes)} classes have the numbers 0 to "
            f"{len(classes) - 1}"
        )
    arrays: dict[str, Array] = {"labels": labels.astype(np.int64), "scores": scores.astype(np.float32)}
    return Evidence(kind="class", classes=classes, samples=tuple(samples), arrays=arrays)


def labels_evidence(
    labels: Bool[Array, "sample class"],
    scores: Float[Array, "sample class"],
    *,
    classes: tuple[str, ...],
    samples: Sequence[str],
) -> Evidence:
    """Record predictions of several labels a sample.

    Args:
        labels: which labels hold.
        scores: higher is more likely.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a score is not finite, or no label holds anywhere.
    """
    _check_lengths(samples, {"labels": labels, "scores": scores})
    _check_classes(classes, scores.shape[1])
    _check_classes(classes, labels.shape[1])
    _check_finite(samples, {"scores": scores})
    if not labels.any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a label")
    arrays: dict[str, Array] = {"labels": labels.astype(bool), "scores": scores.astype(np.float32)}
    return Evidence(kind="labels", classes=classes, samples=tuple(samples), arrays=arrays)


def number_evidence(
    truth: Float[Array, "sample"], predicted: Float[Array, "sample"], *, samples: Sequence[str]
) -> Evidence:
    """Record predictions of a number a sample.

    Args:
        truth: the numbers.
        predicted: what was found, in the same unit.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, or a number is not finite.
    """
    _check_lengths(samples, {"truth": truth, "predicted": predicted})
    _check_finite(samples, {"truth": truth, "predicted": predicted})
    arrays = {"truth": truth.astype(np.float64), "predicted": predicted.astype(np.float64)}
    return Evidence(kind="number", classes=(), samples=tuple(samples), arrays=arrays)


def class_map_evidence(
    confusion: Int[Array, "sample class class"], *, classes: tuple[str, ...], samples: Sequence[str]
) -> Evidence:
    """Record predictions of maps of classes as a confusion matrix a sample.

    Args:
        confusion: labelled pixels, true classes in rows, predicted ones in columns.
        classes: their names.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a count is negative, or no pixel is counted.
    """
    _check_lengths(samples, {"confusion": confusion})
    _check_classes(classes, confusion.shape[1])
    if (confusion < 0).any():
        raise InputError(f"counts of pixels are negative, the least is {confusion.min()}")
    if not confusion.any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a labelled pixel")
    arrays = {"confusion": confusion.astype(np.int64)}
    return Evidence(kind="class_map", classes=classes, samples=tuple(samples), arrays=arrays)


def number_map_evidence(sums: Float[Array, "sample 5"], *, samples: Sequence[str]) -> Evidence:
    """Record predictions of maps of numbers as a few sums a sample.

    Args:
        sums: over the labelled pixels: how many, and sums of truth, truth², error² and |error|.
        samples: names of the samples, no two equal.

    Raises:
        InputError: lengths differ, a sum is not finite or impossible, or no pixel is counted.
    """
    _check_lengths(samples, {"sums": sums})
    _check_finite(samples, {"sums": sums})
    for column, name in enumerate(ERROR_SUMS):
        if name != "truth" and (sums[:, column] < 0).any():
            raise InputError(f"the sum of {name} is negative in a sample, the least is {sums[:, column].min():g}")
    if not sums[:, 0].any():
        raise InputError(f"nothing to score: {len(samples)} test samples, none with a labelled pixel")
    return Evidence(kind="number_map", classes=(), samples=tuple(samples), arrays={"sums": sums.astype(np.float64)})


def scores_of(
    evidence: Evidence, *, seed: int, num_resamples: int = NUM_RESAMPLES, shown: bool = False
) -> tuple[Score, ...]:
    """Score evidence by all metrics of its kind, each with a 95 % bootstrap interval over the samples.

    Samples of one group are drawn together, because they are not independent; a single group has no interval.

    Args:
        evidence: from one of the makers here.
        seed: of the bootstrap.
        num_resamples: of the bootstrap.
        shown: show a progress bar where it takes long.
    """
    return scores_by_metric(
        metric_functions(evidence),
        units=units_of(evidence.groups, num_samples=len(evidence.samples)),
        seed=seed,
        num_resamples=num_resamples,
        numbers_per_sample=numbers_per_sample(evidence),
        shown=shown,
    )


def metric_functions(evidence: Evidence, *, only: MetricName | None = None) -> dict[MetricName, Weighted]:
    """Make the metrics of evidence for weighted samples, by name.

    Args:
        evidence: from one of the makers here.
        only: this one; None: all of its kind.

    Raises:
        InputError: the kind does not have that metric.
    """
    names = METRICS_OF[evidence.kind]
    if only is not None and only not in names:
        raise InputError(f"results of kind '{evidence.kind}' have no '{only}' ({', '.join(names)})")
    return {name: _metric(evidence, name) for name in ((only,) if only else names)}


def numbers_per_sample(evidence: Evidence) -> int:
    """Count the numbers that a metric holds for one sample; see `bootstrap.resample`."""
    return len(evidence.classes) if evidence.kind == "labels" else 1


def _metric(evidence: Evidence, name: MetricName) -> Weighted:
    arrays, kind = evidence.arrays, evidence.kind
    if kind == "class_map":
        return map_metric(name, arrays["confusion"])
    if kind == "number_map":
        return number_metric(name, arrays["sums"])
    if kind == "number":
        return number_metric(name, error_sums(arrays["truth"], arrays["predicted"]))
    return label_metric(name, arrays["labels"], arrays["scores"])


def _check_lengths(samples: Sequence[str], arrays: Mapping[str, Shaped[Array, "..."]]) -> None:
    wrong = {name: len(array) for name, array in arrays.items() if len(array) != len(samples)}
    if wrong:
        name, count = next(iter(wrong.items()))
        raise InputError(f"{len(samples)} test samples have {count} {name}; give one for each")
    if not samples:
        raise InputError("nothing to score: 0 test samples")
    twice = next((name for name, count in Counter(samples).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two test samples have the name '{twice}'; names pair results, so give each its own")


def _check_classes(classes: tuple[str, ...], count: int) -> None:
    if len(classes) != count:
        raise InputError(f"predictions tell {count} classes apart, {len(classes)} are named; name each")


def _check_finite(samples: Sequence[str], arrays: Mapping[str, Float[Array, "sample ..."]]) -> None:
    for name, array in arrays.items():
        known = np.isfinite(array).reshape(len(samples), -1).all(axis=1)
        if not known.all():
            first = int(np.flatnonzero(~known)[0])
            raise InputError(
                f"{name} of sample '{samples[first]}' are not finite ({(~known).sum()} of {len(samples)} samples); "
                "look at its features and at the learning rate"
            )
