"""Draws of splits in which every class keeps its share and places stay whole."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.labelled.splits import draw_halves, draw_splits


def _classes(*counts: int) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def _drawn(labels: np.ndarray, *, val: float = 0.2, test: float = 0.2, seed: int = 0, **more: object) -> list[str]:
    names = tuple("abcdef")
    return draw_splits(labels, num=len(labels), val=val, test=test, seed=seed, classes=names, **more)


@settings(max_examples=12)
@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=5),
    val=st.sampled_from([0.0, 0.1, 0.25]),
    test=st.sampled_from([0.0, 0.1, 0.25]),
    seed=st.integers(0, 2**40),
)
def test_each_split_has_the_classes_in_the_same_shares(counts: list[int], val: float, test: float, seed: int) -> None:
    labels = _classes(*counts)
    found = Counter(zip(labels.tolist(), _drawn(labels, val=val, test=test, seed=seed), strict=True))
    for number, count in enumerate(counts):
        assert found[number, "test"] == pytest.approx(test * count, abs=1.0)
        assert found[number, "val"] == pytest.approx(val * count, abs=2.0)


@settings(max_examples=30)
@given(data=st.integers(0, 10_000), seed=st.integers(0, 2**40))
def test_training_has_every_label_that_is_there(data: int, seed: int) -> None:
    labels = np.random.default_rng(data).random((60, 6)) < [0.6, 0.4, 0.2, 0.1, 0.03, 0.02]
    splits = _drawn(labels, seed=seed)
    in_train = np.array([split == "train" for split in splits])
    assert (labels[in_train].any(axis=0) == labels.any(axis=0)).all()
    assert [splits.count(split) for split in ("val", "test")] == [12, 12]


def test_splits_have_the_labels_in_nearly_the_same_shares() -> None:
    labels = np.random.default_rng(0).random((2000, 5)) < [0.5, 0.3, 0.1, 0.05, 0.02]
    splits = np.array(_drawn(labels))
    for split in ("train", "val", "test"):
        assert np.abs(labels[splits == split].mean(axis=0) - labels.mean(axis=0)).max() < 0.02


@pytest.mark.parametrize("labels", [_classes(45, 45), np.random.default_rng(0).random((90, 3)) < 0.4])
def test_places_stay_whole(labels: np.ndarray) -> None:
    splits = _drawn(labels, places=[f"p{row // 3}" for row in range(90)])
    assert Counter(len(set(splits[row : row + 3])) for row in range(0, 90, 3)) == {1: 30}
    assert Counter(splits) == {"train": 54, "val": 18, "test": 18}


@pytest.mark.parametrize("labels", [_classes(30, 30), np.random.default_rng(0).random((60, 3)) < 0.4])
def test_equal_seeds_draw_equal_splits_and_others_do_not(labels: np.ndarray) -> None:
    first, again, other = (_drawn(labels, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_one_split_may_have_no_share() -> None:
    labels = np.random.default_rng(0).random((50, 3)) < 0.4
    assert Counter(_drawn(labels, val=0.0)) == {"train": 40, "test": 10}
    assert Counter(_drawn(labels, test=0.0)) == {"train": 40, "val": 10}


def test_classes_too_small_are_named() -> None:
    with pytest.raises(InputError, match="class 'b' has 1 image, too few for 3 splits; add images"):
        _drawn(_classes(30, 1))
    with pytest.raises(InputError, match="class 'b' has 1 place, too few for 3 splits"):
        _drawn(_classes(20, 10), places=[f"p{row // 10}" for row in range(30)])


def test_shares_over_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"found val 0.5, test 0.6"):
        _drawn(_classes(30), val=0.5, test=0.6)


def test_a_share_too_small_for_every_class_is_explained() -> None:
    with pytest.raises(
        InputError, match=r"6 images of 2 classes can't be split with a share of 0\.1: .*; take a larger"
    ):
        draw_halves(np.arange(6), np.array([0, 1] * 3), share=0.1, seed=0)


def test_halves_are_all_of_it() -> None:
    left, drawn = draw_halves(np.arange(20), None, share=0.25, seed=0)
    assert sorted([*left, *drawn]) == list(range(20))
    assert len(drawn) == 5
