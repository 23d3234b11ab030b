"""Predictions: what is refused, and that its scores are those of the predictions."""

from collections.abc import Callable

import numpy as np
import pytest
from predicted import (
    class_map_predictions,
    class_predictions,
    labels_predictions,
    number_map_predictions,
    number_predictions,
)
from sklearn.metrics import accuracy_score, average_precision_score, precision_recall_fscore_support, r2_score

from anyband.errors import InputError
from anyband.evaluate.metrics import METRICS, METRICS_OF, Score, metric_of, score_text, scores_of, value_text
from anyband.evaluate.report import confusion, per_class

_CLASSES = ("water", "field", "town")
_DRAW = np.random.default_rng(1)
_NAMES = tuple(f"image {index}" for index in range(30))
_LABELS = _DRAW.integers(0, 3, 30)
_SCORES = _DRAW.random((30, 3))
_HOLDS = _DRAW.random((30, 3)) < 0.4
_TRUTH, _PREDICTED = _DRAW.normal(size=30), _DRAW.normal(size=30)


def test_scores_of_classes_are_those_of_the_predictions() -> None:
    predictions = class_predictions(_LABELS, _SCORES, classes=_CLASSES, samples=_NAMES)
    scores = {score.metric: score for score in scores_of(predictions, seed=0, num_resamples=50)}
    assert tuple(scores) == METRICS_OF["class"]
    assert scores["accuracy"].value == pytest.approx(accuracy_score(_LABELS, _SCORES.argmax(axis=1)))
    assert scores["accuracy"].low < scores["accuracy"].value < scores["accuracy"].high
    assert scores["accuracy"].num_samples == 30


def test_scores_of_labels_are_those_of_the_ranking() -> None:
    predictions = labels_predictions(_HOLDS, _SCORES, classes=_CLASSES, samples=_NAMES)
    scores = {score.metric: score.value for score in scores_of(predictions, seed=0, num_resamples=2)}
    assert scores["map_macro"] == pytest.approx(average_precision_score(_HOLDS, _SCORES.astype(np.float32)))


def test_scores_of_numbers_and_of_their_sums_are_the_same() -> None:
    whole = number_predictions(_TRUTH, _PREDICTED, samples=_NAMES)
    error = _PREDICTED - _TRUTH
    sums = np.stack([np.ones(30), _TRUTH, _TRUTH**2, error**2, np.abs(error)], axis=1)
    summed = number_map_predictions(sums, samples=_NAMES)
    for one, other in zip(
        scores_of(whole, seed=3, num_resamples=20), scores_of(summed, seed=3, num_resamples=20), strict=True
    ):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


def test_a_score_has_the_same_interval_on_a_rerun_and_another_with_another_seed() -> None:
    predictions = class_map_predictions(_DRAW.integers(0, 40, (6, 3, 3)), classes=_CLASSES, samples=_NAMES[:6])
    assert scores_of(predictions, seed=2, num_resamples=30) == scores_of(predictions, seed=2, num_resamples=30)
    assert scores_of(predictions, seed=2, num_resamples=30) != scores_of(predictions, seed=3, num_resamples=30)


def test_a_metric_of_another_kind_is_refused() -> None:
    predictions = number_predictions(_TRUTH, _PREDICTED, samples=_NAMES)
    with pytest.raises(InputError, match=r"results of kind 'number' have no 'miou' \(rmse, mae, r2\)"):
        metric_of(predictions.kind, predictions.arrays, "miou")


_REFUSED: dict[str, Callable[[], object]] = {
    "nothing to score: 0 test samples": lambda: number_predictions(np.zeros(0), np.zeros(0), samples=()),
    "two test samples have the name 'image 0'": lambda: number_predictions(
        _TRUTH, _PREDICTED, samples=(*_NAMES[:29], "image 0")
    ),
    r"scores of sample 'image 4' are not finite \(1 of 30 samples\)": lambda: class_predictions(
        _LABELS, _with_nan(_SCORES), classes=_CLASSES, samples=_NAMES
    ),
    "predicted of sample 'image 4' are not finite": lambda: number_predictions(
        _TRUTH, _with_nan(_PREDICTED), samples=_NAMES
    ),
    "the label of sample 'image 0' is .*; 3 classes have the numbers 0 to 2": lambda: class_predictions(
        _LABELS + 3, _SCORES, classes=_CLASSES, samples=_NAMES
    ),
    "30 test samples, none with a label": lambda: labels_predictions(
        np.zeros((30, 3), bool), _SCORES, classes=_CLASSES, samples=_NAMES
    ),
    "30 test samples, none with a labelled pixel": lambda: class_map_predictions(
        np.zeros((30, 3, 3), int), classes=_CLASSES, samples=_NAMES
    ),
    "1 test samples, none with a labelled pixel": lambda: number_map_predictions(np.zeros((1, 5)), samples=("image",)),
}


def _with_nan(array: np.ndarray) -> np.ndarray:
    spoilt = array.copy()
    spoilt[4] = np.nan
    return spoilt


@pytest.mark.parametrize("message", _REFUSED)
def test_predictions_that_can_not_be_scored_are_refused(message: str) -> None:
    with pytest.raises(InputError, match=message):
        _REFUSED[message]()


def test_scores_of_each_class_are_those_of_scikit_learn() -> None:
    found = per_class(class_predictions(_LABELS, _SCORES, classes=_CLASSES, samples=_NAMES))
    expected = precision_recall_fscore_support(_LABELS, _SCORES.astype(np.float32).argmax(axis=1))
    assert np.stack([found[name] for name in ("precision", "recall", "f1", "true")]) == pytest.approx(
        np.array(expected)
    )


def test_average_precision_of_each_label_is_that_of_scikit_learn() -> None:
    found = per_class(labels_predictions(_HOLDS, _SCORES, classes=_CLASSES, samples=_NAMES))
    expected = average_precision_score(_HOLDS, _SCORES.astype(np.float32), average=None)
    assert found["average precision"] == pytest.approx(expected)


def test_a_class_that_never_occurs_has_no_score() -> None:
    counts = np.array([[[5, 1, 0], [2, 3, 0], [0, 0, 0]]])
    found = per_class(class_map_predictions(counts, classes=_CLASSES, samples=("image",)))
    assert found["iou"][0] == pytest.approx(5 / 8)
    assert np.isnan([found[name][2] for name in ("iou", "precision", "recall", "f1")]).all()
    assert (found["true"][2], found["predicted"][2]) == (0, 0)


def test_numbers_have_no_classes() -> None:
    assert per_class(number_predictions(_TRUTH, _PREDICTED, samples=_NAMES)) == {}


def test_true_classes_are_the_rows_of_a_confusion_matrix() -> None:
    predictions = class_predictions(
        np.array([0, 0, 2]), np.array([[0.9, 0.0, 0.1], [0.0, 0.8, 0.2], [0.0, 0.0, 1.0]]), classes=_CLASSES,
        samples=("a", "b", "c"),
    )  # fmt: skip
    assert confusion(predictions).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_a_confusion_matrix_of_labels_is_refused() -> None:
    with pytest.raises(InputError, match="is of kind 'class' or 'class_map', and these are of kind 'labels'"):
        confusion(labels_predictions(_HOLDS, _SCORES, classes=_CLASSES, samples=_NAMES))


def test_r2_keeps_its_digits_where_the_mean_is_large() -> None:
    predictions = number_predictions(_TRUTH + 1e8, _PREDICTED + 1e8, samples=_NAMES)
    scores = {score.metric: score.value for score in scores_of(predictions, seed=0, num_resamples=2)}
    assert scores["r2"] == pytest.approx(r2_score(_TRUTH, _PREDICTED), rel=1e-6)


def test_every_metric_has_a_definition_and_belongs_to_a_kind() -> None:
    assert set(METRICS) == {name for names in METRICS_OF.values() for name in names}
    assert all(metric.definition and metric.title for metric in METRICS.values())


def test_shares_are_written_in_per_cent_and_errors_as_they_are() -> None:
    assert (value_text("accuracy", 0.6125), value_text("rmse", 1234.5678)) == ("61.3", "1235")
    nan = float("nan")
    assert score_text(Score(metric="miou", value=0.6, low=0.5, high=0.75, num_samples=9)) == "60.0 [50.0–75.0]"
    assert score_text(Score(metric="r2", value=0.1, low=-0.25, high=0.5, num_samples=9)) == "0.1 [−0.25 to 0.5]"
    assert score_text(Score(metric="r2", value=nan, low=nan, high=0.5, num_samples=9)) == "undefined"
