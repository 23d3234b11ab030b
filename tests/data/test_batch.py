"""Batches hold the chips of their plan, in order, whatever the number of threads."""

import gc
import threading
from functools import partial

import numpy as np
import pytest
import torch

from anyband.data.batch import BatchLoader, read_pair_batch
from anyband.data.sets import PairSampler, find_pairs
from anyband.errors import StoreError


def _loader(store, *, workers: int, last_step: int = 9, batch_size: int = 3) -> BatchLoader:
    pairs = find_pairs(store, sensors="any")
    sampler = PairSampler(pairs, batch_size=batch_size, seed=5)
    read = partial(read_pair_batch, store, pairs)
    return BatchLoader(read, sampler, first_step=2, last_step=last_step, workers=workers)


def test_batch_holds_the_chips_of_its_plan(make_store) -> None:
    store = make_store(6)
    pairs = find_pairs(store, sensors="any")
    batch = read_pair_batch(store, pairs, PairSampler(pairs, batch_size=4, seed=0).batch(1))
    for k, row in enumerate(batch.plan.rows):
        rng = np.random.default_rng(int(row))
        np.testing.assert_array_equal(batch.a[k].numpy(), rng.integers(1, 9000, (2, 8, 8)))
        np.testing.assert_array_equal(batch.b[k].numpy(), rng.integers(-2500, 0, (1, 4, 4)))
    assert (batch.a.dtype, batch.b.dtype) == (torch.uint16, torch.int16)
    assert (batch.array_a, batch.array_b) == ("testoptical_8x8", "testradar_4x4")


def test_holes_reach_the_batch(make_store) -> None:
    store = make_store(6, holes=True)
    pairs = find_pairs(store, sensors="any")
    batch = read_pair_batch(store, pairs, PairSampler(pairs, batch_size=6, seed=0).batch(0))
    assert batch.valid_a is not None
    assert batch.valid_b is None
    holed = {int(row) for row, valid in zip(batch.plan.rows, batch.valid_a, strict=True) if not valid.all()}
    assert holed == {0, 3}


@pytest.mark.parametrize("workers", [1, 3])
def test_order_does_not_depend_on_workers(make_store, workers: int) -> None:
    store = make_store(7)
    alone, together = list(_loader(store, workers=0)), list(_loader(store, workers=workers))
    assert len(alone) == len(together) == 7
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.a, other.a, rtol=0, atol=0)
        np.testing.assert_array_equal(one.plan.rows, other.plan.rows)


def test_steps_start_where_asked(make_store) -> None:
    store = make_store(7)
    pairs = find_pairs(store, sensors="any")
    sampler = PairSampler(pairs, batch_size=3, seed=5)
    first = next(iter(_loader(store, workers=2)))
    np.testing.assert_array_equal(first.plan.rows, sampler.batch(2).rows)


def test_threads_end_when_the_iteration_is_left(make_store) -> None:
    batches = iter(_loader(make_store(6), workers=2, last_step=500))
    next(batches)
    del batches
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyband-batch")]


def test_damage_is_raised_to_the_reader(make_store) -> None:
    store = make_store(6)
    shard = store.path / "chips" / "testradar_4x4" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:10])
    with pytest.raises(StoreError, match="can't be read"):
        list(_loader(store, workers=2))
