"""Two results on the same samples: differences, their intervals, and what can't be compared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predicted import (
    class_map_predictions,
    class_predictions,
    labels_predictions,
    number_map_predictions,
    number_predictions,
)
from sklearn.metrics import accuracy_score

from anyband.errors import InputError
from anyband.evaluate.metrics import METRICS_OF, Predictions, scores_of
from anyband.evaluate.results import Difference, difference, difference_text, paired
from anyband.randomness import generator

_NAMES = tuple(f"image {index}" for index in range(40))
_CLASSES = ("water", "field", "town")
_LABELS = np.random.default_rng(0).integers(0, 3, 40)


def _guess(seed: int, *, right: float = 0.5) -> Predictions:
    draw = np.random.default_rng(seed)
    scores = draw.random((40, 3))
    lucky = draw.random(40) < right
    scores[lucky, _LABELS[lucky]] += 1
    return class_predictions(_LABELS, scores, classes=_CLASSES, samples=_NAMES)


def _every_kind() -> list[Predictions]:
    draw = np.random.default_rng(4)
    return [
        _guess(1),
        labels_predictions(draw.random((40, 3)) < 0.5, draw.random((40, 3)), classes=_CLASSES, samples=_NAMES),
        number_predictions(draw.random(40), draw.random(40), samples=_NAMES),
        class_map_predictions(draw.integers(0, 20, (40, 3, 3)), classes=_CLASSES, samples=_NAMES),
        number_map_predictions(draw.random((40, 5)) + np.array([0, 0, 9, 0, 0]), samples=_NAMES),
    ]


def _shuffled(predictions: Predictions, seed: int) -> Predictions:
    order = np.random.default_rng(seed).permutation(len(predictions.samples))
    return Predictions(
        kind=predictions.kind,
        classes=predictions.classes,
        samples=tuple(predictions.samples[index] for index in order),
        arrays={name: array[order] for name, array in predictions.arrays.items()},
    )


@pytest.mark.parametrize("predictions", _every_kind(), ids=lambda one: one.kind)
def test_equal_predictions_differ_by_nothing_in_any_metric(predictions: Predictions) -> None:
    for metric in METRICS_OF[predictions.kind]:
        found = difference(predictions, predictions, metric, seed=0, num_resamples=50)
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert (found.share_above, found.share_below, found.better) == (0, 0, None)


@pytest.mark.parametrize("predictions", _every_kind(), ids=lambda one: one.kind)
def test_the_order_of_the_samples_changes_nothing(predictions: Predictions) -> None:
    found = difference(predictions, _shuffled(predictions, 3), seed=0, num_resamples=20)
    assert (found.value, found.low, found.high) == (0, 0, 0)


@settings(max_examples=15)
@given(st.integers(0, 1000))
def test_the_difference_the_other_way_round_is_its_negative(seed: int) -> None:
    first, second = _guess(seed), _guess(seed + 1)
    there = difference(first, second, seed=0, num_resamples=30)
    back = difference(second, first, seed=0, num_resamples=30)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert (back.share_above, back.share_below) == (there.share_below, there.share_above)


def test_a_difference_is_that_of_the_scores() -> None:
    first, second = _guess(1, right=0.8), _guess(2)
    found = difference(first, second, "macro_f1", seed=0, num_resamples=10)
    values = [
        next(score.value for score in scores_of(one, seed=0, num_resamples=2) if score.metric == "macro_f1")
        for one in (first, second)
    ]
    assert (found.first, found.second) == tuple(values)
    assert found.value == pytest.approx(values[0] - values[1])


def test_the_interval_is_that_of_drawing_pairs_with_scikit_learn() -> None:
    first, second = _guess(1, right=0.8), _guess(2)
    guessed = [one.arrays["scores"].argmax(axis=1) for one in (first, second)]
    by_hand = []
    for index in range(60):
        drawn = generator(5, step=index, sample=0, purpose="bootstrap").integers(0, 40, 40)
        accuracies = [accuracy_score(_LABELS[drawn], one[drawn]) for one in guessed]
        by_hand.append(accuracies[0] - accuracies[1])
    found = difference(first, second, seed=5, num_resamples=60)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])))
    assert found.share_above == pytest.approx(np.mean(np.round(by_hand, 9) > 0))


def test_pairs_tell_more_than_two_separate_intervals() -> None:
    worse = _guess(1, right=0.6)
    scores = worse.arrays["scores"].copy()
    wrong = np.flatnonzero(scores.argmax(axis=1) != _LABELS)[:4]
    scores[wrong] = np.eye(3)[_LABELS[wrong]] * 5
    better = class_predictions(_LABELS, scores, classes=_CLASSES, samples=_NAMES)
    found = difference(better, worse, seed=0)
    intervals = [scores_of(one, seed=0)[0] for one in (better, worse)]
    assert intervals[0].low < intervals[1].high
    assert found.low > 0
    assert found.better is True


def test_of_errors_the_smaller_is_better() -> None:
    truth = np.random.default_rng(0).normal(size=40)
    near, far = truth + 0.1, truth + 1.0
    first, second = (number_predictions(truth, one, samples=_NAMES) for one in (near, far))
    found = difference(first, second, "rmse", seed=0, num_resamples=50)
    assert found.value == pytest.approx(-0.9)
    assert found.better is True
    assert difference(second, first, "rmse", seed=0, num_resamples=50).better is False


def test_other_samples_are_refused_and_counted() -> None:
    other = replace(_guess(1), samples=(*_NAMES[:38], "x", "y"))
    message = "38 are in both, 2 only in the first and 2 only in the second, such as 'image 38'"
    with pytest.raises(InputError, match=message):
        difference(_guess(1), other, seed=0)


def test_other_labels_of_the_same_samples_are_refused() -> None:
    labels = _LABELS.copy()
    labels[7] = (labels[7] + 1) % 3
    other = class_predictions(labels, _guess(1).arrays["scores"], classes=_CLASSES, samples=_NAMES)
    with pytest.raises(InputError, match=r"labels of 1 of 40 test samples are not the same in both.*'image 7'"):
        difference(_guess(1), other, seed=0)


def test_maps_with_other_labelled_pixels_are_refused() -> None:
    counts = np.random.default_rng(4).integers(1, 20, (40, 3, 3))
    first = class_map_predictions(counts, classes=_CLASSES, samples=_NAMES)
    second = class_map_predictions(counts * 4, classes=_CLASSES, samples=_NAMES)
    with pytest.raises(InputError, match="labels of 40 of 40 test samples are not the same"):
        paired(first, second)


def test_sums_that_differ_by_rounding_alone_are_of_the_same_labels() -> None:
    sums = np.random.default_rng(4).random((40, 5))
    first = number_map_predictions(sums, samples=_NAMES)
    second = number_map_predictions(sums * (1 + 1e-12), samples=_NAMES)
    assert paired(first, second).samples == _NAMES


def test_results_of_two_tasks_are_refused() -> None:
    numbers = number_predictions(np.arange(40.0), np.arange(40.0), samples=_NAMES)
    with pytest.raises(InputError, match="results of kind 'class' with 3 classes and of kind 'number' can't be"):
        difference(_guess(1), numbers, seed=0)


def test_a_difference_is_written_in_points_with_its_sign() -> None:
    found = Difference(
        metric="accuracy", first=0.5, second=0.47, value=0.03, low=-0.004, high=0.0001, share_above=0.9,
        share_below=0.1, num_samples=40,
    )  # fmt: skip
    assert difference_text(found) == "+3.0 [−0.4 to 0.0]"
    assert difference_text(replace(found, metric="rmse")) == "+0.03 [−0.004 to +0.0001]"
