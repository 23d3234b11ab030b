"""Metrics of maps and numbers from counts and sums, against scikit-learn and torchmetrics on the pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted import class_map_predictions, number_map_predictions, number_predictions
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from anyband.evaluate import metrics
from anyband.evaluate.metrics import (
    MetricName,
    Weighted,
    error_sums,
    metric_of,
    metric_value,
    number_metric,
    resample,
    scores_of,
    value_of,
)

_seeds = st.integers(0, 10_000)
_CLASSES = 4


def _maps(seed: int, *, samples: int = 5, occurring: int = _CLASSES) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth, predicted = draw.integers(0, occurring, (2, samples, 8, 8))
    return truth, np.where(draw.random(truth.shape) < 0.5, truth, predicted)


def _counted(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    labels = range(_CLASSES)
    pairs = zip(truth, predicted, strict=True)
    return np.stack([confusion_matrix(one.ravel(), other.ravel(), labels=labels) for one, other in pairs])


def _map_metric(name: MetricName, confusion: np.ndarray) -> Weighted:
    return metric_of("class_map", {"confusion": confusion}, name)


def _value(metric: Weighted, count: int) -> float:
    return value_of(metric, num_samples=count)


@settings(max_examples=20)
@given(_seeds, st.integers(2, _CLASSES))
def test_mean_iou_is_that_of_torchmetrics_on_the_pixels(seed: int, occurring: int) -> None:
    from torchmetrics.functional.classification import multiclass_jaccard_index

    truth, predicted = _maps(seed, occurring=occurring)
    other = multiclass_jaccard_index(torch.from_numpy(predicted), torch.from_numpy(truth), num_classes=_CLASSES)
    assert _value(_map_metric("miou", _counted(truth, predicted)), 5) == pytest.approx(float(other), abs=1e-6)


@settings(max_examples=20)
@given(_seeds, st.integers(2, _CLASSES))
def test_pixel_accuracy_and_f1_are_those_of_scikit_learn_on_the_pixels(seed: int, occurring: int) -> None:
    truth, predicted = _maps(seed, occurring=occurring)
    counts = _counted(truth, predicted)
    flat, guessed = truth.ravel(), predicted.ravel()
    assert _value(_map_metric("pixel_accuracy", counts), 5) == pytest.approx(accuracy_score(flat, guessed))
    expected = f1_score(flat, guessed, average="macro")
    assert _value(_map_metric("map_f1_macro", counts), 5) == pytest.approx(expected)


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    counts = np.array([[[6, 2, 0], [0, 0, 0], [0, 0, 0]]])
    assert _value(_map_metric("miou", counts), 1) == pytest.approx((6 / 8 + 0) / 2)


@pytest.mark.parametrize("name", ["miou", "pixel_accuracy", "map_f1_macro"])
def test_a_sample_of_weight_two_counts_as_two_samples(name: str) -> None:
    counts = _counted(*_maps(3))
    twice = np.concatenate([counts, counts[:1]])
    weights = np.array([[2.0, 1, 1, 1, 1]])
    metric, repeated = _map_metric(name, counts), _map_metric(name, twice)  # type: ignore[arg-type]
    assert metric(weights)[0] == pytest.approx(_value(repeated, 6))


def test_samples_without_labelled_pixels_change_nothing_and_alone_have_no_score() -> None:
    counts = _counted(*_maps(4))
    more = np.concatenate([counts, np.zeros_like(counts[:2])])
    metric = _map_metric("miou", more)
    assert _value(metric, 7) == _value(_map_metric("miou", counts), 5)
    assert np.isnan(metric(np.array([[0.0, 0, 0, 0, 0, 1, 1]])))[0]


@settings(max_examples=20)
@given(_seeds)
def test_errors_of_numbers_are_those_of_scikit_learn(seed: int) -> None:
    truth, predicted = np.random.default_rng(seed).normal(size=(2, 25))
    sums = error_sums(truth, predicted)
    assert _value(number_metric("rmse", sums), 25) == pytest.approx(root_mean_squared_error(truth, predicted))
    assert _value(number_metric("mae", sums), 25) == pytest.approx(mean_absolute_error(truth, predicted))
    assert _value(number_metric("r2", sums), 25) == pytest.approx(r2_score(truth, predicted))


def test_r2_of_pixels_counts_every_pixel_and_not_every_sample() -> None:
    draw = np.random.default_rng(8)
    truth, predicted = draw.normal(size=(2, 60))
    error = predicted - truth
    parts = np.split(np.stack([np.ones(60), truth, truth**2, error**2, np.abs(error)], axis=1), [10, 15])
    sums = np.stack([part.sum(axis=0) for part in parts])
    assert _value(number_metric("r2", sums), 3) == pytest.approx(r2_score(truth, predicted))
    assert _value(number_metric("rmse", sums), 3) == pytest.approx(root_mean_squared_error(truth, predicted))


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6])
def test_r2_of_equal_numbers_has_no_value(level: float) -> None:
    sums = np.array([[3.0, 3 * level, 3 * level**2, 1.0, 1.0]])
    assert np.isnan(_value(number_metric("r2", sums), 1))
    assert np.isnan(_value(number_metric("r2", error_sums(np.full(9, level), np.arange(9.0))), 9))


@settings(max_examples=20)
@given(_seeds)
def test_balanced_accuracy_is_that_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels, scores = draw.integers(0, 3, 40), draw.random((40, 4))
    truth_only = scores.copy()
    truth_only[:, 3] = 0
    expected = balanced_accuracy_score(labels, truth_only.argmax(axis=1))
    assert metric_value("balanced_accuracy", labels, truth_only) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["miou", "rmse"])
def test_the_interval_is_that_of_drawing_samples_again(name: str) -> None:
    from anyband.randomness import generator

    counts = _counted(*_maps(9, samples=12))
    sums = error_sums(*np.random.default_rng(0).normal(size=(2, 12)))
    samples = tuple(map(str, range(12)))

    def of(drawn: np.ndarray) -> Weighted:
        return _map_metric("miou", counts[drawn]) if name == "miou" else number_metric("rmse", sums[drawn])

    by_hand = []
    for index in range(40):
        again = generator(7, step=index, sample=0, purpose="bootstrap").integers(0, 12, 12)
        by_hand.append(_value(of(again), 12))
    if name == "miou":
        made = class_map_predictions(counts, classes=tuple("abcd"), samples=samples)
    else:
        made = number_map_predictions(sums, samples=samples)
    score = scores_of(made, seed=7, num_resamples=40)[0]
    assert (score.low, score.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))


def _drawn(*, shown: bool = False) -> np.ndarray:
    truth, predicted = np.random.default_rng(1).normal(size=(2, 12))
    one = number_predictions(truth, predicted, samples=tuple(map(str, range(12))))
    return resample(one, {"mae": metric_of(one.kind, one.arrays, "mae")}, seed=1, num_resamples=30, shown=shown)["mae"]


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _drawn()
    monkeypatch.setattr(metrics, "_CHUNK_NUMBERS", 40)
    assert whole == pytest.approx(_drawn(), rel=1e-12)


def test_progress_is_shown_only_where_resampling_takes_long(capsys: pytest.CaptureFixture[str]) -> None:
    _drawn(shown=True)
    assert capsys.readouterr().err == ""
