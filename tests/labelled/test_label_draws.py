"""Draws of labelled samples in which every class keeps its share, and their use for parts of several labels."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.labelled.tables import LabelledImages, draw_halves, split


def _images(labels: np.ndarray, places: tuple[str, ...] = ()) -> LabelledImages:
    return LabelledImages(
        paths=tuple(Path(f"{row}.tif") for row in range(len(labels))),
        labels=tuple(tuple(np.flatnonzero(row).tolist()) for row in labels),
        classes=tuple(f"c{number}" for number in range(labels.shape[1])),
        multi_label=True,
        places=places,
    )


@settings(max_examples=30)
@given(data=st.integers(0, 10_000), seed=st.integers(0, 2**40))
def test_training_has_every_label_that_is_there(data: int, seed: int) -> None:
    labels = np.random.default_rng(data).random((60, 6)) < [0.6, 0.4, 0.2, 0.1, 0.03, 0.02]
    images = split(_images(labels), val=0.2, test=0.2, seed=seed)
    in_train = np.array([part == "train" for part in images.splits])
    assert (labels[in_train].any(axis=0) == labels.any(axis=0)).all()
    assert [images.splits.count(part) for part in ("val", "test")] == [12, 12]


def test_parts_have_the_labels_in_nearly_the_same_shares() -> None:
    labels = np.random.default_rng(0).random((2000, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]
    images = split(_images(labels), val=0.2, test=0.2, seed=0)
    for part in ("train", "val", "test"):
        chosen = np.array([one == part for one in images.splits])
        assert np.abs(labels[chosen].mean(axis=0) - labels.mean(axis=0)).max() < 0.02


def test_places_of_several_labels_stay_whole() -> None:
    labels = np.random.default_rng(0).random((90, 3)) < 0.4
    images = split(_images(labels, tuple(f"p{row // 3}" for row in range(90))), val=0.2, test=0.2, seed=0)
    assert Counter(len(set(images.splits[row : row + 3])) for row in range(0, 90, 3)) == {1: 30}
    assert Counter(images.splits) == {"train": 54, "val": 18, "test": 18}


def test_equal_seeds_draw_equal_parts_of_several_labels() -> None:
    labels = np.random.default_rng(0).random((60, 3)) < 0.4
    first, again, other = (split(_images(labels), val=0.2, test=0.2, seed=seed).splits for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_test_part_without_validation() -> None:
    labels = np.random.default_rng(0).random((50, 3)) < 0.4
    assert Counter(split(_images(labels), val=0.0, test=0.2, seed=0).splits) == {"train": 40, "test": 10}
    assert Counter(split(_images(labels), val=0.2, test=0.0, seed=0).splits) == {"train": 40, "val": 10}


def test_a_share_too_small_for_every_class_is_explained() -> None:
    with pytest.raises(
        InputError, match=r"6 images of 2 classes can't be split with a share of 0\.1: .*; take a larger"
    ):
        draw_halves(np.arange(6), np.array([0, 1] * 3), share=0.1, seed=0)


def test_halves_are_all_of_it() -> None:
    left, drawn = draw_halves(np.arange(20), None, share=0.25, seed=0)
    assert sorted([*left, *drawn]) == list(range(20))
    assert len(drawn) == 5
