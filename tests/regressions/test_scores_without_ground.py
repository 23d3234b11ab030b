"""Scores of a test that lacks a class, or has one number only, say so."""

import numpy as np
import pytest

from anyband.evaluate.metrics import Predictions, score_notes, scores_of


def _predictions(kind, arrays, classes=("a", "b", "c")) -> Predictions:
    samples = tuple(map(str, range(len(next(iter(arrays.values()))))))
    return Predictions(kind=kind, classes=classes, samples=samples, arrays=arrays, groups=())


def test_a_class_that_no_test_sample_has_is_no_part_of_the_mean_average_precision_and_said() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    scores = np.array([[0.9, 0.8, 0.7], [0.8, 0.1, 0.2], [0.1, 0.9, 0.3], [0.0, 0.0, 0.9]])
    predictions = _predictions("labels", {"labels": labels, "scores": scores})

    assert score_notes(predictions) == ("the test has no class 'c': mAP macro leaves it out",)
    assert {one.metric: one.value for one in scores_of(predictions, seed=0)}["map_macro"] == 1.0


def test_a_test_of_one_number_has_no_r2_and_that_is_said() -> None:
    predictions = _predictions("number", {"truth": np.full(4, 7.0), "predicted": np.arange(4.0)}, classes=())

    assert score_notes(predictions) == ("R² is undefined: all numbers of the test are equal",)


@pytest.mark.parametrize(
    ("kind", "arrays", "said"),
    [
        ("class", {"labels": np.array([0, 0]), "scores": np.eye(3)[[0, 1]]}, "classes 'b', 'c': the balanced"),
        (
            "class_map",
            {"confusion": np.diag([5, 3, 0])[None]},
            "class 'c': mIoU and macro F1 leave it out unless it is",
        ),
    ],
)
def test_classes_that_the_test_lacks_are_named(kind, arrays, said) -> None:
    (note,) = score_notes(_predictions(kind, arrays))

    assert note.startswith(f"the test has no {said}")


def test_a_whole_test_says_nothing() -> None:
    assert score_notes(_predictions("class", {"labels": np.arange(3), "scores": np.eye(3)})) == ()
    assert score_notes(_predictions("number", {"truth": np.arange(3.0), "predicted": np.ones(3)}, classes=())) == ()
