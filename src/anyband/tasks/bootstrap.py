"""Bootstrap over test samples: how much a number hangs on which samples were in the test.

A metric is a function of weights of the samples. A resample has as weight how often a sample was drawn. Two
metrics that are resampled together see the same draws, so their difference is one of pairs.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from anyband.progress import progress
from anyband.randomness import generator
from anyband.shapes import Array, Float

__all__ = ["NUM_RESAMPLES", "Weighted", "interval", "resample", "value_of"]

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
    num_samples: int,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    numbers_per_sample: int = 1,
    shown: bool = False,
) -> dict[NameT, Float[Array, "resample"]]:
    """Compute metrics on resamples of the test samples, all on the same ones.

    Args:
        metrics: by name.
        num_samples: of the test.
        seed: of the draws; equal seeds and numbers of samples give equal draws.
        num_resamples: how many.
        numbers_per_sample: that a metric holds for one sample of one resample, so that memory stays bounded.
        shown: show a progress bar where it takes long.
    """
    found: dict[NameT, list[Float[Array, "resample"]]] = {name: [] for name in metrics}
    chunk = max(1, _CHUNK_NUMBERS // (num_samples * numbers_per_sample))
    is_long = num_samples * numbers_per_sample * num_resamples > _LONG_NUMBERS
    with progress("resample test samples", num_resamples, shown=shown and is_long) as advance:
        for first in range(0, num_resamples, chunk):
            weights = _resample_weights(seed, range(first, min(first + chunk, num_resamples)), num_samples)
            for name, metric in metrics.items():
                found[name].append(metric(weights))
            advance(len(weights))
    return {name: np.concatenate(values) for name, values in found.items()}


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


def _resample_weights(seed: int, resamples: range, num_samples: int) -> Float[Array, "resample sample"]:
    rows = [
        np.bincount(
            generator(seed, step=index, sample=0, purpose="bootstrap").integers(0, num_samples, num_samples),
            minlength=num_samples,
        )
        for index in resamples
    ]
    return np.stack(rows).astype(np.float64)
