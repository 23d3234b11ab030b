"""Metrics of maps and of numbers, for weighted samples: from counts and sums that each test sample leaves.

A confusion matrix of each sample is all that metrics of a map of classes need, and a few sums all that metrics of
numbers need; so a bootstrap over samples never sees a pixel again.
"""

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Float, Int
from anyband.tasks.bootstrap import Weighted
from anyband.tasks.metric_facts import MetricName

__all__ = ["ERROR_SUMS", "error_sums", "map_metric", "number_metric"]

ERROR_SUMS = ("pixels", "truth", "truth²", "error²", "|error|")
"""What the columns of sums hold: how many numbers, and sums over them."""


def map_metric(name: MetricName, confusion: Int[Array, "sample class class"]) -> Weighted:
    """Make a metric of maps of classes; pixels of all samples are counted together, each as often as its sample.

    Args:
        name: `miou`, `pixel_accuracy` or `map_f1_macro`.
        confusion: pixels, true classes in rows.
    """
    hits = np.diagonal(confusion, axis1=1, axis2=2).astype(np.float64)
    truth, predicted = confusion.sum(axis=2).astype(np.float64), confusion.sum(axis=1).astype(np.float64)
    if name == "pixel_accuracy":
        return lambda weights: _ratio(weights @ hits.sum(axis=1), weights @ truth.sum(axis=1))
    # chosen: a class that neither the labels nor the predictions hold is left out, as in scikit-learn and torchmetrics.
    if name == "miou":
        return lambda weights: _mean_over_classes(weights @ hits, weights @ (truth + predicted - hits))
    if name == "map_f1_macro":
        return lambda weights: _mean_over_classes(2 * (weights @ hits), weights @ (truth + predicted))
    raise InputError(f"'{name}' is no metric of maps of classes")


def error_sums(truth: Float[Array, "sample"], predicted: Float[Array, "sample"]) -> Float[Array, "sample 5"]:
    """Write numbers as the sums of `ERROR_SUMS`, one number a sample.

    The truth is taken from its mean, which changes no metric and keeps R² exact where the mean is large.
    """
    centred, error = truth - truth.mean(), predicted - truth
    return np.stack([np.ones_like(truth), centred, centred**2, error**2, np.abs(error)], axis=1)


def number_metric(name: MetricName, sums: Float[Array, "sample 5"]) -> Weighted:
    """Make a metric of numbers.

    Args:
        name: `rmse`, `mae` or `r2`; the last is NaN where all numbers are equal.
        sums: of each sample, as `ERROR_SUMS` says.
    """
    count, truth, truth_squared, error_squared, error = sums.astype(np.float64).T
    if name == "rmse":
        return lambda weights: np.sqrt(_ratio(weights @ error_squared, weights @ count))
    if name == "mae":
        return lambda weights: _ratio(weights @ error, weights @ count)
    if name != "r2":
        raise InputError(f"'{name}' is no metric of numbers")

    def r2(weights: Float[Array, "resample sample"]) -> Float[Array, "resample"]:
        raw = weights @ truth_squared
        spread = raw - (weights @ truth) * _ratio(weights @ truth, weights @ count)
        # What is left of a spread of 0 is rounding, which may have either sign.
        spread = np.where(spread > 1e-12 * raw, spread, np.nan)
        return np.asarray(1 - weights @ error_squared / spread)

    return r2


def _ratio(above: Float[Array, "resample"], below: Float[Array, "resample"]) -> Float[Array, "resample"]:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)


def _mean_over_classes(
    above: Float[Array, "resample class"], below: Float[Array, "resample class"]
) -> Float[Array, "resample"]:
    """Average ratios over the classes that occur; NaN where none does."""
    counts = (below > 0).sum(axis=1)
    summed = (above / np.where(below > 0, below, 1.0)).sum(axis=1)
    return np.where(counts > 0, summed / np.maximum(counts, 1), np.nan)
