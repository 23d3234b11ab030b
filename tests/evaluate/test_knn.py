"""Nearest neighbours, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from anyband.errors import InputError, RecipeError
from anyband.evaluate import probes
from anyband.evaluate.metrics import LabelledFeatures
from anyband.evaluate.probes import knn_scores
from anyband.evaluate.recipe import KnnRecipe

_NAMES = ("water", "forest", "field")


def _labelled(seed: int, count: int = 60, *, multi_label: bool = False) -> LabelledFeatures:
    draw = np.random.default_rng(seed)
    numbers = np.arange(count) % 3
    features = draw.normal(size=(count, 8)) + 1.5 * np.eye(3, 8)[numbers]
    labels = (draw.random((count, 3)) < 0.4) | (numbers[:, None] == np.arange(3)) if multi_label else numbers
    return LabelledFeatures(features=features, labels=labels, classes=_NAMES)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_votes_are_those_of_scikit_learn(seed: int, k: int) -> None:
    train, test = _labelled(seed), _labelled(seed + 1, 20)
    oracle = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / 0.07),
    ).fit(train.features, train.labels)
    assert knn_scores(train, test, k=k) == pytest.approx(oracle.predict_proba(test.features), abs=1e-4)


def test_several_labels_a_sample_are_scored_by_the_share_of_the_votes() -> None:
    train, test = _labelled(0, multi_label=True), _labelled(1, 10, multi_label=True)
    unit = [part.features / np.linalg.norm(part.features, axis=1, keepdims=True) for part in (train, test)]
    similarity = unit[1] @ unit[0].T
    nearest = np.argsort(-similarity, axis=1)[:, :5]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.07)
    expected = (weights[:, :, None] * train.labels[nearest]).sum(1) / weights.sum(1, keepdims=True)
    assert knn_scores(train, test, k=5) == pytest.approx(expected, abs=1e-5)


def test_of_equal_neighbours_the_first_ones_vote() -> None:
    same = np.ones((4, 2))
    train = LabelledFeatures(features=same, labels=np.array([2, 1, 0, 0]), classes=_NAMES)
    test = LabelledFeatures(features=same[:1], labels=np.array([0]), classes=_NAMES)
    assert knn_scores(train, test, k=2)[0] == pytest.approx([0, 0.5, 0.5])


def test_scores_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = _labelled(2), _labelled(3, 17)
    whole = knn_scores(train, test)
    monkeypatch.setattr(probes, "_CHUNK_NUMBERS", 60 * 4)
    assert knn_scores(train, test) == pytest.approx(whole, abs=1e-6)


def test_the_length_of_features_does_not_count() -> None:
    train, test = _labelled(4), _labelled(5, 9)
    longer = LabelledFeatures(features=test.features * 100, labels=test.labels, classes=_NAMES)
    assert knn_scores(train, longer) == pytest.approx(knn_scores(train, test), abs=1e-4)


def test_more_neighbours_than_training_samples_are_refused() -> None:
    with pytest.raises(InputError, match="k is 20 but there are 12 training samples; ask for a smaller k"):
        knn_scores(_labelled(0, 12), _labelled(1, 5))


def test_a_class_that_training_lacks_is_named() -> None:
    train = LabelledFeatures(features=np.ones((4, 2)), labels=np.array([0, 0, 1, 1]), classes=_NAMES)
    test = LabelledFeatures(features=np.ones((2, 2)), labels=np.array([0, 2]), classes=_NAMES)
    with pytest.raises(InputError, match=r"1 of 2 classes in the test split has no training sample: 'field'"):
        knn_scores(train, test, k=1)


def test_splits_with_other_classes_are_refused() -> None:
    other = LabelledFeatures(features=np.ones((2, 8)), labels=np.array([0, 1]), classes=("a", "b", "c"))
    with pytest.raises(InputError, match="give both one list"):
        knn_scores(_labelled(0), other)


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="the feature of sample 1 is not finite"):
        LabelledFeatures(features=np.array([[1.0], [np.nan]]), labels=np.array([0, 1]), classes=("a", "b"))


def test_no_neighbours_are_refused() -> None:
    with pytest.raises(RecipeError, match="k must be at least 1, found 0"):
        KnnRecipe(k=0)
