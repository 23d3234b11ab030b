"""Pairs share a footprint; batches are a pure function of (seed, step) and take each pair once an epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.image_sets import ImageSets, find_pairs
from anyband.data.loader import SetSampler
from anyband.errors import StoreError


def _pairs(counts: list[int]) -> ImageSets:
    kinds = np.repeat(np.arange(len(counts)), counts)
    size = len(kinds)
    return ImageSets(
        size=(2, 2),
        bounds=2 * np.arange(size + 1),
        chips=np.stack([np.arange(size), np.arange(size) + size], axis=1).ravel(),
        sources=np.tile([0, 1], size),
        time_us=np.zeros(2 * size, dtype=np.int64),
        capacity=np.full(size, 2),
        has_partner=np.ones(size, dtype=bool),
        arrays=tuple(f"{slot}{kind}" for kind in range(len(counts)) for slot in "ab"),
        grid=(8, 8),
        pair_kind=kinds,
        pair_arrays=tuple((f"a{kind}", f"b{kind}") for kind in range(len(counts))),
        pair_grids=((8, 8),) * len(counts),
    )


def test_pairs_show_one_place_and_the_sensors_asked_for(make_store) -> None:
    store = make_store(4)
    pairs = find_pairs(store, sensors=[("testradar", "testoptical")])
    places, sensors = store.index.column("place").to_pylist(), store.index.column("sensor").to_pylist()
    assert len(pairs) == 4
    assert pairs.pair_arrays == (("testradar_4x4", "testoptical_8x8"),)
    assert pairs.pair_grids == ((4, 4),)
    for a, b in pairs.chips.reshape(-1, 2):
        assert (places[a], sensors[a], sensors[b]) == (places[b], "testradar", "testoptical")


def test_any_pairs_different_sensors_at_every_date(make_store) -> None:
    assert len(find_pairs(make_store(3, dates=2), sensors="any")) == 3 * 2


def test_one_sensor_twice_pairs_its_dates(make_store) -> None:
    store = make_store(2, dates=3)
    pairs = find_pairs(store, sensors=[("testoptical", "testoptical")])
    times = store.index.column("datetime").to_pylist()
    assert len(pairs) == 2 * 3
    assert all(times[a] < times[b] for a, b in pairs.chips.reshape(-1, 2))


def test_pairs_are_of_the_split_asked_for(make_store) -> None:
    store = make_store(6, splits=("train", "val", "test"))
    assert len(find_pairs(store, sensors="any", split="val")) == 2
    assert len(find_pairs(store, sensors="any", split=None)) == 6


def test_unknown_sensor_offers_the_nearest(make_store) -> None:
    with pytest.raises(StoreError, match=r"sensor 'testradr' is not in store .*did you mean 'testradar'"):
        find_pairs(make_store(1), sensors=[("testradr", "testoptical")])


def test_no_pair_is_an_error(make_store) -> None:
    with pytest.raises(StoreError, match=r"no footprint in split 'val' of store .* testoptical \+ testradar"):
        find_pairs(make_store(1), sensors="any", split="val")


@settings(max_examples=30)
@given(
    counts=st.lists(st.integers(0, 20), min_size=1, max_size=4).filter(any),
    batch_size=st.integers(1, 6),
    seed=st.integers(0, 2**63),
    num_epochs=st.integers(1, 4),
)
def test_every_pair_of_a_kind_passes_equally_often_but_for_the_epoch_that_is_under_way(
    counts, batch_size, seed, num_epochs
) -> None:
    pairs = _pairs(counts)
    sampler = SetSampler(pairs, batch_size=batch_size, seed=seed)
    plans = [sampler.batch(step) for step in range(num_epochs * sampler.steps_per_epoch)]
    taken = Counter(int(row) for plan in plans for row in plan.items)
    for kind, count in enumerate(counts):
        passed = [taken[int(row)] for row in np.flatnonzero(pairs.pair_kind == kind)]
        assert not count or max(passed) - min(passed) <= 1
        assert sum(passed) == sum(plan.kind == kind for plan in plans) * batch_size


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2**63))
def test_a_pair_that_passes_again_has_another_identity(counts, seed) -> None:
    sampler = SetSampler(_pairs(counts), batch_size=4, seed=seed)
    plans = [sampler.batch(step) for step in range(5 * sampler.steps_per_epoch)]
    drawn = np.concatenate([plan.samples for plan in plans])
    assert len(np.unique(drawn)) == len(drawn)


def test_a_batch_holds_pairs_of_one_kind() -> None:
    pairs = _pairs([7, 2, 13])
    sampler = SetSampler(pairs, batch_size=4, seed=0)
    for step in range(3 * sampler.steps_per_epoch):
        plan = sampler.batch(step)
        assert set(pairs.pair_kind[plan.items]) == {plan.kind}
        assert len(plan.items) == 4
        assert plan.epoch == step // sampler.steps_per_epoch


def test_a_kind_smaller_than_a_batch_is_not_left_out() -> None:
    pairs = _pairs([40, 2])
    sampler = SetSampler(pairs, batch_size=8, seed=0)
    kinds = [sampler.batch(step).kind for step in range(sampler.steps_per_epoch)]
    assert kinds.count(1) == 1
    assert kinds.count(0) == 5


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    pairs = _pairs([40, 30])
    forwards = SetSampler(pairs, batch_size=4, seed=1)
    backwards = SetSampler(pairs, batch_size=4, seed=1)
    steps = range(3 * forwards.steps_per_epoch)
    one = [forwards.batch(step).items for step in steps]
    other = [backwards.batch(step).items for step in reversed(steps)][::-1]
    np.testing.assert_array_equal(one, other)


def test_order_differs_between_epochs_and_seeds() -> None:
    pairs = _pairs([64])
    sampler, other = (SetSampler(pairs, batch_size=8, seed=seed) for seed in (0, 1))
    first = sampler.batch(0).items
    assert not np.array_equal(first, sampler.batch(sampler.steps_per_epoch).items)
    assert not np.array_equal(first, other.batch(0).items)


def test_kinds_of_pairs_take_turns_within_an_epoch() -> None:
    sampler = SetSampler(_pairs([200, 200]), batch_size=4, seed=0)
    kinds = [sampler.batch(step).kind for step in range(sampler.steps_per_epoch)]
    assert 20 < np.count_nonzero(np.diff(kinds)) < 80


def test_batches_are_those_of_the_first_release() -> None:
    """Pairs and identities that release 0.1 drew: recorded runs and checkpoints go on from them."""
    sampler = SetSampler(_pairs([7, 2, 13]), batch_size=4, seed=11)
    recorded = {
        0: (2, [9, 18, 12, 13], [9, 18, 12, 13]),
        3: (1, [7, 8, 8, 7], [7, 8, 30, 29]),
        5: (0, [2, 0, 5, 6], [2, 0, 5, 28]),
        6: (0, [5, 2, 3, 4], [27, 24, 25, 26]),
        12: (1, [7, 8, 8, 7], [95, 96, 118, 117]),
        40: (0, [4, 1, 3, 0], [158, 155, 157, 154]),
    }
    assert sampler.steps_per_epoch == 6
    for step, (kind, items, samples) in recorded.items():
        plan = sampler.batch(step)
        assert (plan.kind, plan.items.tolist(), plan.samples.tolist()) == (kind, items, samples)


def test_a_part_of_a_batch_holds_the_same_pairs() -> None:
    plan = SetSampler(_pairs([9]), batch_size=4, seed=0).batch(1)
    some = plan.at(slice(1, 3))
    np.testing.assert_array_equal(some.items, plan.items[1:3])
    np.testing.assert_array_equal(some.samples, plan.samples[1:3])
    np.testing.assert_array_equal(some.chips, np.stack([some.items, some.items + 9], axis=1))
    assert (some.kind, some.epoch) == (plan.kind, plan.epoch)
