"""Fewer labels."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.arrays import Array
from anyband.data.store import Split
from anyband.errors import InputError
from anyband.labelled.samples import Sample, TaskData, TaskKind
from anyband.labelled.splits import balanced_order, rounds_order, take_fraction
from anyband.sensors.catalogue import get_sensor

_RGB = get_sensor("rgb")


def _data(targets: Array | None, *, kind: TaskKind = "class", parts: Sequence[Split] | None = None) -> TaskData:
    num = 20 if targets is None else len(targets)
    num_classes = 0
    if targets is not None and kind != "number":
        num_classes = targets.shape[1] if kind == "labels" else int(targets.max()) + 1

    def read(position: int) -> Sample:
        raise AssertionError(f"sample {position} is read")

    return TaskData(
        name="made",
        kind=kind,
        classes=tuple(f"c{number}" for number in range(num_classes)),
        names=tuple(f"s{number}" for number in range(num)),
        splits=tuple(parts or ["train"] * num),
        sensors=((_RGB,),) * num,
        targets=targets,
        read=read,
        fingerprint="0",
    )


def _by_counts(*counts: int) -> Array:
    return np.repeat(np.arange(len(counts)), counts)


def _kept(data: TaskData, *, fraction: float = 1.0, per_class: int | None = None, seed: int = 0) -> set[str]:
    taken = take_fraction(data, fraction=fraction, per_class=per_class, seed=seed)
    return {name for name, part in zip(taken.names, taken.splits, strict=True) if part == "train"}


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=5), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99)
)
def test_each_class_keeps_its_share_and_at_least_one(counts: list[int], fraction: float, seed: int) -> None:
    taken = take_fraction(_data(_by_counts(*counts)), fraction=fraction, per_class=None, seed=seed)
    found = np.bincount(taken.targets, minlength=len(counts))
    assert (found >= 1).all()
    assert (np.abs(found - np.maximum(1, np.array(counts) * fraction)) <= 0.5 + 1e-9).all()


_labels = st.integers(0, 10_000).map(lambda seed: np.random.default_rng(seed).random((40, 4)) < [0.6, 0.3, 0.1, 0.03])


@settings(max_examples=40)
@given(labels=_labels, small=st.floats(0.01, 0.5), grown=st.floats(0.01, 0.4), seed=st.integers(0, 99))
def test_a_smaller_fraction_is_inside_a_larger_one(labels: Array, small: float, grown: float, seed: int) -> None:
    for data in (_data(labels[:, 0].astype(int)), _data(labels, kind="labels"), _data(None, kind="class_map")):
        inner, outer = (_kept(data, fraction=fraction, seed=seed) for fraction in (small, small + grown))
        assert inner <= outer


@settings(max_examples=40)
@given(labels=_labels, small=st.integers(1, 4), grown=st.integers(1, 4), seed=st.integers(0, 99))
def test_fewer_of_each_label_are_inside_more(labels: Array, small: int, grown: int, seed: int) -> None:
    inner, outer = (rounds_order(labels, rounds=rounds, seed=seed, purpose="p") for rounds in (small, small + grown))
    assert inner.tolist() == outer[: len(inner)].tolist()
    assert (labels[inner].sum(axis=0) >= np.minimum(small, labels.sum(axis=0))).all()


@settings(max_examples=40)
@given(labels=_labels, num=st.integers(0, 50), seed=st.integers(0, 99))
def test_a_balanced_order_has_each_sample_once_and_every_label(labels: Array, num: int, seed: int) -> None:
    order = balanced_order(labels, seed=seed, purpose="p", num=num)
    assert len(set(order.tolist())) == len(order) >= min(num, len(labels))
    assert (labels[order].any(axis=0) == labels.any(axis=0)).all()


def test_labels_keep_their_shares_better_than_by_chance() -> None:
    labels = np.random.default_rng(0).random((4000, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.01]
    kept = balanced_order(labels, seed=0, purpose="p", num=400)
    assert np.abs(labels[kept].mean(axis=0) - labels.mean(axis=0)).max() < 0.01


def test_samples_without_labels_keep_their_share_too() -> None:
    labels = np.zeros((100, 2), dtype=bool)
    labels[:50, 0] = True
    kept = balanced_order(labels, seed=0, purpose="p", num=20)
    assert labels[kept].any(axis=1).sum() == 10


def test_validation_and_test_stay_whole_and_order_is_kept() -> None:
    parts: list[Split] = ["test", "train", "val", "train"] * 10
    data = _data(np.arange(40) % 2, parts=parts)
    data_classes = _data((np.arange(40) // 4) % 2, parts=parts)
    taken = take_fraction(data_classes, fraction=0.5, per_class=None, seed=0)
    assert taken.num_samples == {"train": 10, "val": 10, "test": 10}
    assert [int(name[1:]) for name in taken.names] == sorted(int(name[1:]) for name in taken.names)
    assert data.num_samples["train"] == 20


def test_so_many_of_each_class_are_kept() -> None:
    taken = take_fraction(_data(_by_counts(30, 5, 9)), fraction=1.0, per_class=5, seed=0)
    assert np.bincount(taken.targets).tolist() == [5, 5, 5]
    assert taken.notes == ("labels of 15 of 44 training samples are used (5 of each class, seed 0)",)


def test_the_fingerprint_tells_draws_apart() -> None:
    data = _data(_by_counts(30, 30))
    prints = [
        take_fraction(data, fraction=fraction, per_class=None, seed=seed).fingerprint
        for fraction, seed in ((0.5, 0), (0.5, 0), (0.5, 1), (0.4, 0))
    ]
    assert prints[0] == prints[1]
    assert len({data.fingerprint, *prints}) == 4


def test_numbers_are_drawn_too() -> None:
    assert len(_kept(_data(np.linspace(0, 1, 50), kind="number"), fraction=0.1)) == 5


@pytest.mark.parametrize(
    ("fraction", "per_class", "message"),
    [
        (0.0, None, "split.fraction must be over 0 and at most 1, found 0"),
        (1.5, None, "split.fraction must be over 0 and at most 1, found 1.5"),
        (1.0, 0, "split.per_class must be at least 1, found 0"),
        (0.5, 2, "split.fraction 0.5 and split.per_class 2 exclude each other"),
        (1.0, 4, "class 'c1' has 3 training samples, split.per_class asks for 4"),
    ],
)
def test_a_wrong_number_is_explained(fraction: float, per_class: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        take_fraction(_data(_by_counts(9, 3)), fraction=fraction, per_class=per_class, seed=0)


def test_numbers_have_no_classes_to_count() -> None:
    with pytest.raises(InputError, match=r"split\.per_class needs a class for each sample, 'made' has kind 'number'"):
        take_fraction(_data(np.linspace(0, 1, 5), kind="number"), fraction=1.0, per_class=2, seed=0)
