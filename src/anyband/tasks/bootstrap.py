"""Bootstrap over test samples: how much a number hangs on which samples were in the test.

Samples of one piece of ground (dates of a place) are no independent evidence: they are drawn together.

A metric is a function of weights of the samples. A resample has as weight how often a sample was drawn. Two
metrics that are resampled together see the same draws, so their difference is one of pairs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from anyband.progress import progress
from anyband.randomness import generator
from anyband.shapes import Array, Float, Int

__all__ = ["NUM_RESAMPLES", "Weighted", "interval", "resample", "units_of", "value_of"]

Weighted = Callable[[Float[Array, "resample sample"]], Float[Array, "resample"]]
"""A metric for many weightings of the samples at once."""

NameT = TypeVar("NameT", bound=str)

NUM_RESAMPLES = 1000
"""Of a bootstrap; chosen: the ends of a 95 % interval then vary by about a fifth of a standard error."""

_PERCENTILES = (2.5, 97.5)
# chosen: numbers held at once, about 64 MB as float64.
_CHUNK_NUMBERS = 8_000_000
# chosen: takes about two seconds.
_LONG_NUMBERS = 100_000_000


def value_of(metric: Weighted, *, num_samples: int) -> float:
    """Compute a metric with every sample once."""
    return float(metric(np.ones((1, num_samples)))[0])


def resample(
    metrics: Mapping[NameT, Weighted],
    *,
    units: Int[Array, "sample"],
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    numbers_per_sample: int = 1,
    shown: bool = False,
) -> dict[NameT, Float[Array, "resample"]]:
    """Compute metrics on resamples of the test samples, all on the same ones.

    Args:
        metrics: by name.
        units: number of the unit that each test sample belongs to; units are drawn, with all their samples; one unit
            alone gives NaN. See `units_of`.
        seed: of the draws; equal seeds and numbers of units give equal draws.
        num_resamples: how many.
        numbers_per_sample: that a metric holds for one sample of one resample, so that memory stays bounded.
        shown: show a progress bar where it takes long.
    """
    num_samples, num_units = len(units), int(units.max()) + 1
    if num_units == 1:
        # One unit tells nothing of how another would score.
        return {name: np.full(num_resamples, np.nan) for name in metrics}
    found: dict[NameT, list[Float[Array, "resample"]]] = {name: [] for name in metrics}
    chunk = max(1, _CHUNK_NUMBERS // (num_samples * numbers_per_sample))
    is_long = num_samples * numbers_per_sample * num_resamples > _LONG_NUMBERS
    with progress("resample test samples", num_resamples, shown=shown and is_long) as advance:
        for first in range(0, num_resamples, chunk):
            weights = _resample_weights(seed, range(first, min(first + chunk, num_resamples)), num_units)[:, units]
            for name, metric in metrics.items():
                found[name].append(metric(weights))
            advance(len(weights))
    return {name: np.concatenate(values) for name, values in found.items()}


def units_of(groups: Sequence[str], *, num_samples: int) -> Int[Array, "sample"]:
    """Number the units that are drawn: groups of samples that are not independent; without groups each sample is one.

    Args:
        groups: name of each sample's group; empty: none.
        num_samples: of the test.
    """
    if not groups:
        return np.arange(num_samples)
    number = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    return np.array([number[group] for group in groups], dtype=np.int64)


def interval(resampled: Float[Array, "resample"]) -> tuple[float, float]:
    """Give the ends of the 95 % interval by percentiles; resamples without a value are left out.

    Source:
        Efron, "Bootstrap methods: another look at the jackknife", 1979; percentile interval.
    """
    # A resample without any positive label has no average precision.
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, _PERCENTILES)
    return float(low), float(high)


def _resample_weights(seed: int, resamples: range, num_units: int) -> Float[Array, "resample unit"]:
    rows = [
        np.bincount(
            generator(seed, step=index, sample=0, purpose="bootstrap").integers(0, num_units, num_units),
            minlength=num_units,
        )
        for index in resamples
    ]
    return np.stack(rows).astype(np.float64)
