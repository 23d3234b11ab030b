"""Orders by shards: each sample once an epoch, contiguous parts of a batch from contiguous shards, one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.loader import BatchOrder, ShardShuffle, open_shard_of

_SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=60)
_SIZES, _COUNTS, _SEEDS = st.integers(1, 16), st.integers(1, 12), st.integers(0, 2**63)


def _order(shards, *, batch_size: int, seed: int = 0, num_open: int = 4) -> BatchOrder:
    numbers = np.asarray(shards, dtype=np.int64)
    shuffle = ShardShuffle(shards=numbers, open_shards=num_open)
    return BatchOrder(np.zeros_like(numbers), batch_size=batch_size, seed=seed, noun="pairs", shuffle=shuffle)


def _stream(order: BatchOrder, steps: int) -> np.ndarray:
    return np.concatenate([order.batch(step)[0] for step in range(steps)])


@settings(max_examples=60)
@given(shards=_SHARDS, batch_size=_SIZES, num_open=_COUNTS, seed=_SEEDS, num_epochs=st.integers(1, 3))
def test_every_sample_passes_once_an_epoch(shards, batch_size, num_open, seed, num_epochs) -> None:
    order = _order(shards, batch_size=batch_size, seed=seed, num_open=num_open)
    stream = _stream(order, -(-num_epochs * len(shards) // batch_size))
    for number in range(num_epochs):
        assert sorted(stream[number * len(shards) : (number + 1) * len(shards)]) == list(range(len(shards)))


@settings(max_examples=60)
@given(shards=_SHARDS, batch_size=_SIZES, num_open=_COUNTS, seed=_SEEDS, epoch=st.integers(0, 3))
def test_shards_of_an_epoch_pass_one_after_the_other(shards, batch_size, num_open, seed, epoch) -> None:
    numbers = np.asarray(shards, dtype=np.int64)
    first = epoch * len(shards)
    dealt = ShardShuffle(shards=numbers, open_shards=num_open).deal(
        np.arange(len(shards)), first=first, batch_size=batch_size, seed=seed, purpose="order", epoch=epoch
    )
    places = first + np.arange(len(shards))
    where = open_shard_of(places, batch_size=batch_size, num_open=min(num_open, len(set(shards))))
    read = numbers[dealt[np.argsort(where, kind="stable")]]
    assert np.count_nonzero(np.diff(read)) == len(set(shards)) - 1


@settings(max_examples=60)
@given(batch_size=st.integers(1, 40), num_open=st.integers(1, 40), batch=st.integers(0, 9))
def test_open_shards_ascend_within_a_batch_and_none_is_idle(batch_size, num_open, batch) -> None:
    of_batch = [
        open_shard_of(np.arange(batch_size) + (batch + turn) * batch_size, batch_size=batch_size, num_open=num_open)
        for turn in range(-(-num_open // batch_size))
    ]
    assert all((np.diff(one) >= 0).all() for one in of_batch)
    assert set(np.concatenate(of_batch).tolist()) == set(range(num_open))


@settings(max_examples=60)
@given(
    pieces=st.integers(1, 8), of_piece=st.integers(1, 12), open_of_piece=st.integers(1, 12), batches=st.integers(0, 99)
)
def test_a_process_has_open_shards_of_its_own_where_their_number_is_a_multiple(
    pieces, of_piece, open_of_piece, batches
) -> None:
    places = np.arange(batches * pieces * of_piece)
    served = open_shard_of(places, batch_size=pieces * of_piece, num_open=pieces * open_of_piece)
    np.testing.assert_array_equal(served // open_of_piece, places % (pieces * of_piece) // of_piece)


@pytest.mark.parametrize("pieces", [1, 2, 4, 8, 16])
def test_processes_together_read_each_shard_once_an_epoch_but_for_the_cuts(pieces: int) -> None:
    shards = np.repeat(np.arange(100), 64)
    order = _order(shards, batch_size=256, num_open=32)
    touched = []
    for piece in range(pieces):
        part = slice(piece * 256 // pieces, (piece + 1) * 256 // pieces)
        samples = np.concatenate([order.batch(step)[0][part] for step in range(len(shards) // 256)])
        touched += list(set(shards[samples].tolist()))
    most = Counter(touched).most_common(1)[0][1]
    assert most <= pieces
    assert 100 <= len(touched) <= 100 + pieces - 1


def test_the_order_of_shards_and_within_them_is_drawn_anew_each_epoch() -> None:
    shards = np.repeat(np.arange(8), 8)
    stream = _stream(_order(shards, batch_size=8, num_open=2), 16)
    first, second = stream[:64], stream[64:]
    assert not np.array_equal(first, second)
    assert not np.array_equal(shards[first], shards[second])
    of_shard = [one[shards[one] == 3] for one in (first, second)]
    assert not np.array_equal(*of_shard)


def test_batches_by_shards_do_not_depend_on_what_was_asked_before() -> None:
    shards = np.repeat(np.arange(7), 9)
    forwards, backwards = (_order(shards, batch_size=5) for _ in range(2))
    one = [forwards.batch(step)[0] for step in range(30)]
    other = [backwards.batch(step)[0] for step in reversed(range(30))][::-1]
    np.testing.assert_array_equal(one, other)


def test_a_batch_mixes_as_many_shards_as_are_open() -> None:
    shards = np.repeat(np.arange(40), 64)
    order = _order(shards, batch_size=64, num_open=8)
    counts = [len(set(shards[order.batch(step)[0]].tolist())) for step in range(40)]
    # Where one ends within a batch, the next takes its places.
    assert min(counts) >= 8 - 1
    assert max(counts) <= 2 * 8


def test_kinds_have_open_shards_of_their_own() -> None:
    kinds = np.array([0] * 20 + [1] * 12)
    shuffle = ShardShuffle(shards=np.arange(32) // 4, open_shards=2)
    order = BatchOrder(kinds, batch_size=4, seed=3, noun="pairs", shuffle=shuffle)
    taken = Counter(int(sample) for step in range(order.steps_per_epoch) for sample in order.batch(step)[0])
    assert taken == Counter(range(32))
