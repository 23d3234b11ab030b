"""Lanes of shards: each thing once a round, contiguous parts of a batch from contiguous lanes, shards in sequence."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.sampler import Rounds, ShardLanes, lane_of

_SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=60)
_SEEDS = st.integers(0, 2**63)


def _rounds(shards, *, batch_size: int, seed: int = 0, lanes: int = 4) -> Rounds:
    numbers = np.asarray(shards, dtype=np.int64)
    dealt = ShardLanes(shards=numbers, count=lanes)
    return Rounds(np.zeros(len(numbers), dtype=np.int64), batch_size=batch_size, seed=seed, noun="pairs", lanes=dealt)


def _stream(rounds: Rounds, steps: int) -> np.ndarray:
    return np.concatenate([rounds.batch(step).items for step in range(steps)])


@settings(max_examples=60)
@given(
    shards=_SHARDS, batch_size=st.integers(1, 16), lanes=st.integers(1, 12), seed=_SEEDS, num_rounds=st.integers(1, 3)
)
def test_every_item_passes_once_a_round(shards, batch_size, lanes, seed, num_rounds) -> None:
    rounds = _rounds(shards, batch_size=batch_size, seed=seed, lanes=lanes)
    steps = -(-num_rounds * len(shards) // batch_size)
    stream = _stream(rounds, steps)
    for number in range(num_rounds):
        assert sorted(stream[number * len(shards) : (number + 1) * len(shards)]) == list(range(len(shards)))


@settings(max_examples=60)
@given(shards=_SHARDS, batch_size=st.integers(1, 16), lanes=st.integers(1, 12), seed=_SEEDS, number=st.integers(0, 3))
def test_shards_of_a_round_pass_one_after_the_other_lane_by_lane(shards, batch_size, lanes, seed, number) -> None:
    numbers = np.asarray(shards, dtype=np.int64)
    num_lanes = min(lanes, len(set(shards)))
    first = number * len(shards)
    dealt = ShardLanes(shards=numbers, count=lanes).deal(
        np.arange(len(shards)), first=first, batch_size=batch_size, seed=seed, purpose="order", number=number
    )
    where = lane_of(first + np.arange(len(shards)), batch_size=batch_size, num_lanes=num_lanes)
    read = numbers[dealt[np.argsort(where, kind="stable")]]
    assert np.count_nonzero(np.diff(read)) == len(set(shards)) - 1


@settings(max_examples=60)
@given(batch_size=st.integers(1, 40), lanes=st.integers(1, 40), batch=st.integers(0, 9))
def test_lanes_ascend_within_a_batch_and_none_is_idle(batch_size, lanes, batch) -> None:
    of_batch = [
        lane_of(np.arange(batch_size) + (batch + turn) * batch_size, batch_size=batch_size, num_lanes=lanes)
        for turn in range(-(-lanes // batch_size))
    ]
    assert all((np.diff(one) >= 0).all() for one in of_batch)
    assert set(np.concatenate(of_batch).tolist()) == set(range(lanes))


@settings(max_examples=60)
@given(
    pieces=st.integers(1, 8), of_piece=st.integers(1, 12), lanes_of_piece=st.integers(1, 12), places=st.integers(0, 99)
)
def test_a_process_has_lanes_of_its_own_where_their_number_is_a_multiple(
    pieces, of_piece, lanes_of_piece, places
) -> None:
    batch_size, num_lanes = pieces * of_piece, pieces * lanes_of_piece
    lanes = lane_of(np.arange(places * batch_size), batch_size=batch_size, num_lanes=num_lanes)
    pieces_of_places = np.arange(places * batch_size) % batch_size // of_piece
    np.testing.assert_array_equal(lanes // lanes_of_piece, pieces_of_places)


@pytest.mark.parametrize("pieces", [1, 2, 4, 8, 16])
def test_processes_together_read_each_shard_once_a_round_but_for_the_cuts(pieces: int) -> None:
    shards = np.repeat(np.arange(100), 64)
    batch_size, lanes = 256, 32
    rounds = _rounds(shards, batch_size=batch_size, lanes=lanes)
    touched = []
    for piece in range(pieces):
        part = slice(piece * batch_size // pieces, (piece + 1) * batch_size // pieces)
        items = np.concatenate([rounds.batch(step).items[part] for step in range(len(shards) // batch_size)])
        touched += list(set(shards[items].tolist()))
    most = Counter(touched).most_common(1)[0][1]
    assert most <= pieces
    assert 100 <= len(touched) <= 100 + pieces - 1


def test_the_order_of_shards_and_within_them_is_drawn_anew_each_round() -> None:
    shards = np.repeat(np.arange(8), 8)
    stream = _stream(_rounds(shards, batch_size=8, lanes=2), 16)
    first, second = stream[:64], stream[64:]
    assert not np.array_equal(first, second)
    assert not np.array_equal(shards[first], shards[second])
    of_shard = [one[shards[one] == 3] for one in (first, second)]
    assert not np.array_equal(*of_shard)


def test_batches_of_lanes_do_not_depend_on_what_was_asked_before() -> None:
    shards = np.repeat(np.arange(7), 9)
    forwards, backwards = (_rounds(shards, batch_size=5) for _ in range(2))
    one = [forwards.batch(step).items for step in range(30)]
    other = [backwards.batch(step).items for step in reversed(range(30))][::-1]
    np.testing.assert_array_equal(one, other)


def test_a_batch_mixes_as_many_shards_as_there_are_lanes() -> None:
    shards = np.repeat(np.arange(40), 64)
    rounds = _rounds(shards, batch_size=64, lanes=8)
    counts = [len(set(shards[rounds.batch(step).items].tolist())) for step in range(40)]
    # Two shards meet in one lane where one of them ends.
    assert min(counts) >= 8 - 1
    assert max(counts) <= 2 * 8


def test_kinds_have_lanes_of_their_own() -> None:
    kinds = np.array([0] * 20 + [1] * 12)
    lanes = ShardLanes(shards=np.arange(32) // 4, count=2)
    rounds = Rounds(kinds, batch_size=4, seed=3, noun="pairs", lanes=lanes)
    taken = Counter(int(item) for step in range(rounds.steps_per_epoch) for item in rounds.batch(step).items)
    assert taken == Counter(range(32))
