"""Pairs share a footprint; batches are a pure function of (seed, step) and take each pair once an epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.image_sets import Pairs, PairSampler, find_pairs
from anyband.errors import StoreError


def _pairs(counts: list[int]) -> Pairs:
    kinds = np.repeat(np.arange(len(counts)), counts)
    size = len(kinds)
    return Pairs(
        types=tuple((f"a{kind}", f"b{kind}") for kind in range(len(counts))),
        index_a=np.arange(size),
        index_b=np.arange(size) + size,
        pair_type=kinds,
        sample=np.arange(size) * 10,
    )


def test_pairs_show_one_place_and_the_sensors_asked_for(make_store) -> None:
    store = make_store(4)
    pairs = find_pairs(store, sensors=[("testradar", "testoptical")])
    places, sensors = store.index.column("place").to_pylist(), store.index.column("sensor").to_pylist()
    assert len(pairs) == 4
    assert pairs.types == (("testradar_4x4", "testoptical_8x8"),)
    for a, b in zip(pairs.index_a, pairs.index_b, strict=True):
        assert (places[a], sensors[a], sensors[b]) == (places[b], "testradar", "testoptical")


def test_any_pairs_different_sensors_at_every_date(make_store) -> None:
    assert len(find_pairs(make_store(3, dates=2), sensors="any")) == 3 * 2


def test_one_sensor_twice_pairs_its_dates(make_store) -> None:
    store = make_store(2, dates=3)
    pairs = find_pairs(store, sensors=[("testoptical", "testoptical")])
    times = store.index.column("datetime").to_pylist()
    assert len(pairs) == 2 * 3
    assert all(times[a] < times[b] for a, b in zip(pairs.index_a, pairs.index_b, strict=True))


def test_longest_gap_leaves_out_distant_dates(make_store) -> None:
    store = make_store(2, dates=3)
    pairs = find_pairs(store, sensors=[("testoptical", "testoptical")], max_gap_days=10.0)
    assert len(pairs) == 2 * 2


def test_pairs_of_unknown_time_have_no_gap_that_is_short(make_store) -> None:
    store = make_store(2, dates=2, dated=False)
    assert len(find_pairs(store, sensors=[("testoptical", "testoptical")])) == 2
    with pytest.raises(StoreError, match="no footprint"):
        find_pairs(store, sensors="any", max_gap_days=1e9)


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
def test_every_pair_of_a_kind_passes_equally_often_but_for_the_round_that_is_under_way(
    counts, batch_size, seed, num_epochs
) -> None:
    pairs = _pairs(counts)
    sampler = PairSampler(pairs, batch_size=batch_size, seed=seed)
    plans = [sampler.batch(step) for step in range(num_epochs * sampler.steps_per_epoch)]
    taken = Counter(int(row) for plan in plans for row in plan.rows)
    for kind, count in enumerate(counts):
        passed = [taken[int(row)] for row in np.flatnonzero(pairs.pair_type == kind)]
        assert not count or max(passed) - min(passed) <= 1
        assert sum(passed) == sum(plan.pair_type == kind for plan in plans) * batch_size


@settings(max_examples=30)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), seed=st.integers(0, 2**63))
def test_a_pair_that_passes_again_has_another_identity(counts, seed) -> None:
    sampler = PairSampler(_pairs(counts), batch_size=4, seed=seed)
    plans = [sampler.batch(step) for step in range(5 * sampler.steps_per_epoch)]
    drawn = np.concatenate([plan.samples for plan in plans])
    assert len(np.unique(drawn)) == len(drawn)


def test_a_batch_holds_pairs_of_one_kind() -> None:
    pairs = _pairs([7, 2, 13])
    sampler = PairSampler(pairs, batch_size=4, seed=0)
    for step in range(3 * sampler.steps_per_epoch):
        plan = sampler.batch(step)
        assert set(pairs.pair_type[plan.rows]) == {plan.pair_type}
        assert len(plan.rows) == 4
        assert plan.epoch == step // sampler.steps_per_epoch


def test_a_kind_smaller_than_a_batch_is_not_left_out() -> None:
    pairs = _pairs([40, 2])
    sampler = PairSampler(pairs, batch_size=8, seed=0)
    kinds = [sampler.batch(step).pair_type for step in range(sampler.steps_per_epoch)]
    assert kinds.count(1) == 1
    assert kinds.count(0) == 5


def test_batches_do_not_depend_on_what_was_asked_before() -> None:
    pairs = _pairs([40, 30])
    forwards = PairSampler(pairs, batch_size=4, seed=1)
    backwards = PairSampler(pairs, batch_size=4, seed=1)
    steps = range(3 * forwards.steps_per_epoch)
    one = [forwards.batch(step).rows for step in steps]
    other = [backwards.batch(step).rows for step in reversed(steps)][::-1]
    np.testing.assert_array_equal(one, other)


def test_order_differs_between_epochs_and_seeds() -> None:
    pairs = _pairs([64])
    sampler, other = (PairSampler(pairs, batch_size=8, seed=seed) for seed in (0, 1))
    first = sampler.batch(0).rows
    assert not np.array_equal(first, sampler.batch(sampler.steps_per_epoch).rows)
    assert not np.array_equal(first, other.batch(0).rows)


def test_kinds_of_pairs_take_turns_within_an_epoch() -> None:
    sampler = PairSampler(_pairs([200, 200]), batch_size=4, seed=0)
    kinds = [sampler.batch(step).pair_type for step in range(sampler.steps_per_epoch)]
    assert 20 < np.count_nonzero(np.diff(kinds)) < 80


def test_batches_are_those_of_the_first_release() -> None:
    """Rows and identities that release 0.1 drew: recorded runs and checkpoints go on from them."""
    sampler = PairSampler(_pairs([7, 2, 13]), batch_size=4, seed=11)
    recorded = {
        0: (2, [9, 18, 12, 13], [90, 180, 120, 130]),
        3: (1, [7, 8, 8, 7], [70, 80, 291, 281]),
        5: (0, [2, 0, 5, 6], [20, 0, 50, 271]),
        6: (0, [5, 2, 3, 4], [261, 231, 241, 251]),
        12: (1, [7, 8, 8, 7], [914, 924, 1135, 1125]),
        40: (0, [4, 1, 3, 0], [1517, 1487, 1507, 1477]),
    }
    assert sampler.steps_per_epoch == 6
    for step, (kind, rows, samples) in recorded.items():
        plan = sampler.batch(step)
        assert (plan.pair_type, plan.rows.tolist(), plan.samples.tolist()) == (kind, rows, samples)


def test_a_part_of_a_batch_holds_the_same_pairs() -> None:
    plan = PairSampler(_pairs([9]), batch_size=4, seed=0).batch(1)
    part = plan.part(slice(1, 3))
    np.testing.assert_array_equal(part.rows, plan.rows[1:3])
    np.testing.assert_array_equal(part.samples, plan.samples[1:3])
    assert (part.pair_type, part.epoch) == (plan.pair_type, plan.epoch)
