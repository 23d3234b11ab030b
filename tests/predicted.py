"""Predictions of every kind in one call each."""

from collections.abc import Sequence

import numpy as np

from anyband.evaluate.metrics import Predictions


def class_predictions(labels: np.ndarray, scores: np.ndarray, *, classes: tuple[str, ...], samples: Sequence[str]):
    arrays = {"labels": labels, "scores": scores}
    return Predictions(kind="class", classes=classes, samples=tuple(samples), arrays=arrays)


def labels_predictions(labels: np.ndarray, scores: np.ndarray, *, classes: tuple[str, ...], samples: Sequence[str]):
    arrays = {"labels": labels, "scores": scores}
    return Predictions(kind="labels", classes=classes, samples=tuple(samples), arrays=arrays)


def number_predictions(truth: np.ndarray, predicted: np.ndarray, *, samples: Sequence[str]):
    return Predictions(kind="number", samples=tuple(samples), arrays={"truth": truth, "predicted": predicted})


def class_map_predictions(confusion: np.ndarray, *, classes: tuple[str, ...], samples: Sequence[str]):
    return Predictions(kind="class_map", classes=classes, samples=tuple(samples), arrays={"confusion": confusion})


def number_map_predictions(sums: np.ndarray, *, samples: Sequence[str]):
    return Predictions(kind="number_map", samples=tuple(samples), arrays={"sums": sums})
