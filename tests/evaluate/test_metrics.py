"""Metrics and their intervals, against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted import class_predictions, labels_predictions
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from anyband.evaluate.metrics import Score, metric_value, score_text, scores_of

_seeds = st.integers(0, 10_000)


def _scored(labels: np.ndarray, scores: np.ndarray, *, seed: int, num_resamples: int = 1000) -> tuple[Score, ...]:
    make = labels_predictions if labels.ndim == 2 else class_predictions
    names = tuple(str(index) for index in range(len(labels)))
    classes = tuple(str(index) for index in range(scores.shape[1]))
    return scores_of(make(labels, scores, classes=classes, samples=names), seed=seed, num_resamples=num_resamples)


def _multi_class(seed: int, *, samples: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, classes, samples), draw.random((samples, classes))


def _multi_label(seed: int, *, samples: int = 40, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.random((samples, classes)) < 0.3
    labels[0] = True
    # Rounded, so that many scores are equal.
    return labels, draw.random((samples, classes)).round(1)


def _by_name(scores: tuple[Score, ...]) -> dict[str, Score]:
    return {score.metric: score for score in scores}


@settings(max_examples=25)
@given(_seeds)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(seed: int) -> None:
    labels, scores = _multi_class(seed)
    predicted = scores.argmax(axis=1)
    assert metric_value("accuracy", labels, scores) == pytest.approx(accuracy_score(labels, predicted))
    expected = f1_score(labels, predicted, average="macro", zero_division=0)
    assert metric_value("macro_f1", labels, scores) == pytest.approx(expected)


@settings(max_examples=25)
@given(_seeds)
def test_mean_average_precision_is_that_of_scikit_learn_also_with_ties(seed: int) -> None:
    labels, scores = _multi_label(seed)
    for name, average in (("map_micro", "micro"), ("map_macro", "macro")):
        expected = average_precision_score(labels, scores, average=average)
        assert metric_value(name, labels, scores) == pytest.approx(expected)  # type: ignore[arg-type]


def test_micro_average_precision_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multilabel_average_precision

    labels, scores = _multi_label(3)
    other = multilabel_average_precision(
        torch.from_numpy(scores), torch.from_numpy(labels).long(), num_labels=4, average="micro"
    )
    assert metric_value("map_micro", labels, scores) == pytest.approx(float(other), abs=1e-6)


@pytest.mark.parametrize(("metric", "average"), [("map_micro", "micro"), ("map_macro", "macro")])
def test_the_interval_is_that_of_resampling_scikit_learn(metric: str, average: str) -> None:
    from anyband.randomness import generator

    labels, scores = _multi_label(5, samples=60)
    values = []
    for index in range(50):
        drawn = generator(7, step=index, sample=0, purpose="bootstrap").integers(0, 60, 60)
        values.append(average_precision_score(labels[drawn], scores[drawn], average=average))
    score = _by_name(_scored(labels, scores, seed=7, num_resamples=50))[metric]
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))


def test_the_interval_of_an_accuracy_is_near_the_normal_one() -> None:
    draw = np.random.default_rng(0)
    labels = np.zeros(400, int)
    scores = np.stack([draw.random(400) < 0.7, np.full(400, 0.5)], axis=1).astype(float)
    score = _by_name(_scored(labels, scores, seed=0))["accuracy"]
    half = 1.96 * np.sqrt(score.value * (1 - score.value) / 400)
    assert score.high - score.low == pytest.approx(2 * half, rel=0.1)
    assert score.low < score.value < score.high


def test_equal_seeds_give_equal_intervals_and_others_differ() -> None:
    labels, scores = _multi_class(1)
    assert _scored(labels, scores, seed=3) == _scored(labels, scores, seed=3)
    assert _scored(labels, scores, seed=3) != _scored(labels, scores, seed=4)


def test_a_perfect_prediction_has_an_interval_without_width() -> None:
    labels = np.array([0, 1, 2, 1])
    for score in _scored(labels, np.eye(3)[labels], seed=0):
        assert (score.low, score.value, score.high, score.num_samples) == (1, 1, 1, 4)


def test_a_class_without_positives_is_left_out_of_the_macro_mean() -> None:
    labels, scores = _multi_label(2)
    labels = labels.copy()
    labels[:, 3] = False
    expected = average_precision_score(labels[:, :3], scores[:, :3], average="macro")
    assert metric_value("map_macro", labels, scores) == pytest.approx(expected)


def test_resamples_without_positives_are_left_out_of_the_interval() -> None:
    labels = np.zeros((6, 1), bool)
    labels[0] = True
    score = _scored(labels, np.arange(6.0)[:, None], seed=0, num_resamples=100)[0]
    assert 0 < score.low <= score.high <= 1


def test_a_score_stands_with_its_interval_in_per_cent() -> None:
    score = Score(metric="accuracy", value=0.612, low=0.562, high=0.662, num_samples=210)
    assert score_text(score) == "61.2 [56.2–66.2]"


def test_an_error_stands_in_its_unit() -> None:
    score = Score(metric="rmse", value=3.25, low=2.5, high=4.0, num_samples=9)
    assert score_text(score) == "3.25 [2.5 to 4]"
