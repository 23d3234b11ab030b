"""Two results beside each other, paired by test sample: how much one is better, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Bool, Shaped
from anyband.tasks.bootstrap import NUM_RESAMPLES, Weighted, interval, resample, units_of, value_of
from anyband.tasks.metric_facts import METRICS, METRICS_OF, MetricName
from anyband.tasks.transfer.evidence import metric_functions, numbers_per_sample
from anyband.tasks.transfer.records import Evidence

__all__ = ["Difference", "difference", "difference_text", "paired"]


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
    first: Evidence,
    second: Evidence,
    metric: MetricName | None = None,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    shown: bool = False,
) -> Difference:
    """Subtract a metric of the second result from that of the first; every resample is the same for both.

    Equal evidence has a difference of 0 with an interval of 0 to 0.

    Args:
        first: evidence of one result.
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


def paired(first: Evidence, second: Evidence) -> Evidence:
    """Bring the second result into the order of the first one's samples.

    Raises:
        InputError: kinds, classes, samples or truths are not the same.
    """
    if first.kind != second.kind or first.classes != second.classes:
        raise InputError(f"results of {_kind(first)} and of {_kind(second)} can't be compared; take two of one task")
    _check_same_samples(first.samples, second.samples)
    place = {name: index for index, name in enumerate(second.samples)}
    order = np.array([place[name] for name in first.samples])
    ordered = Evidence(
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


def _check_same_truth(first: Evidence, second: Evidence) -> None:
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


def _truth(evidence: Evidence) -> Mapping[str, Shaped[Array, "sample ..."]]:
    """Give what of the evidence does not depend on predictions."""
    match evidence.kind:
        case "class" | "labels":
            return {"labels": evidence.arrays["labels"]}
        case "number":
            return {"truth": evidence.arrays["truth"]}
        case "class_map":
            return {"counts": evidence.arrays["confusion"].sum(axis=2)}
        case "number_map":
            return {"sums": evidence.arrays["sums"][:, :3]}


def _kind(evidence: Evidence) -> str:
    return f"kind '{evidence.kind}'" + (f" with {len(evidence.classes)} classes" if evidence.classes else "")


def _signed(number: float, digits: str) -> str:
    if not np.isfinite(number):
        return "–"
    # What rounds to 0 has no sign.
    text = format(number, digits)
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
