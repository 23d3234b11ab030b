"""Chips from whole shards in memory are those of the store, and each shard is fetched once while it is needed."""

import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest
import tensorstore as ts

from anyband.data import store_writer
from anyband.data.image_sets import find_pairs
from anyband.data.loader import (
    OpenShards,
    SetSampler,
    batches_in_work,
    read_ahead,
    read_sets,
    shard_numbers,
    shard_shuffle,
)
from anyband.data.store import ChipStore
from anyband.errors import StoreError

_READS = "/tensorstore/kvstore/file/batch_read"


@pytest.fixture
def store(make_store, monkeypatch) -> ChipStore:
    """40 places in shards of 4 chips; every third optical chip has a hole."""
    monkeypatch.setattr(store_writer, "CHIPS_PER_SHARD", 4)
    return make_store(40, holes=True)


def _chips(store: ChipStore, array: str) -> np.ndarray:
    return np.flatnonzero(np.array(store.index.column("array").to_pylist()) == array)


def _assert_equal_reads(store: ChipStore, array: str, rows, shards: OpenShards) -> None:
    plain, valid = store.read(array, rows)
    ours, ours_valid = store.read(array, rows, how=shards.read)
    np.testing.assert_array_equal(ours, plain)
    assert ours.dtype == plain.dtype
    np.testing.assert_equal(ours_valid, valid)


def _num_reads() -> int:
    (metric,) = ts.experimental_collect_matching_metrics(_READS)
    return int(metric["values"][0]["value"])


@pytest.mark.parametrize("array", ["testoptical_8x8", "testradar_4x4"])
@pytest.mark.parametrize("expected", [0, 7, 40])
def test_chips_and_validity_are_those_of_the_store_whether_expected_or_not(store, array: str, expected: int) -> None:
    shards = OpenShards(store, batches=1)
    shards.expect(_chips(store, array)[:expected], kind=0)
    rows = np.random.default_rng(0).integers(0, 40, 60)
    _assert_equal_reads(store, array, rows, shards)


def test_no_rows_are_no_chips(store) -> None:
    shards = OpenShards(store, batches=1)
    chips, valid = store.read("testradar_4x4", [], how=shards.read)
    assert chips.shape == (0, 1, 4, 4)
    assert valid is None


def test_a_shard_is_fetched_with_one_request(store) -> None:
    shards = OpenShards(store, batches=1)
    chips = _chips(store, "testradar_4x4")
    before = _num_reads()
    shards.expect(chips[:8], kind=0)
    for _ in range(3):
        store.read("testradar_4x4", range(8), how=shards.read)
    assert _num_reads() - before == 2


def test_shards_close_when_no_expected_batch_needs_them(store) -> None:
    shards = OpenShards(store, batches=2)
    chips = _chips(store, "testradar_4x4")
    counts = []
    for start in range(0, 40, 4):
        shards.expect(chips[start : start + 4], kind=0)
        counts.append(len(shards))
    assert counts == [1] + [2] * 9


def test_shards_of_a_kind_wait_while_other_kinds_pass(store) -> None:
    shards = OpenShards(store, batches=1)
    radar, optical = _chips(store, "testradar_4x4"), _chips(store, "testoptical_8x8")
    shards.expect(radar[:4], kind="radar")
    before = _num_reads()
    for start in range(4, 40, 4):
        shards.expect(optical[start : start + 4], kind="optical")
    shards.expect(radar[:4], kind="radar")
    store.read("testradar_4x4", range(4), how=shards.read)
    store.read("testoptical_8x8", range(36, 40), how=shards.read)
    # Nine shards of optical chips and those of their validity; none of radar, which was fetched before.
    assert _num_reads() - before <= 2 * 9 + 1


def test_memory_is_that_of_the_open_shards(store) -> None:
    shards = OpenShards(store, batches=1)
    chips = _chips(store, "testradar_4x4")
    file = store.path / "chips" / "testradar_4x4" / "c" / "0" / "0" / "0" / "0"
    shards.expect(chips[:4], kind=0)
    assert shards.num_bytes == 0
    store.read("testradar_4x4", [0], how=shards.read)
    assert shards.num_bytes == file.stat().st_size


def test_a_reader_keeps_a_shard_that_is_closed_meanwhile(store) -> None:
    shards = OpenShards(store, batches=1)
    chips = _chips(store, "testradar_4x4")
    shards.expect(chips[:4], kind=0)
    held: list = []

    def and_close(opened, rows, out):
        held.append(shards.read(opened, rows, out))
        shards.expect(chips[20:24], kind=0)
        return held[-1]

    ours, _ = store.read("testradar_4x4", [2, 1], how=and_close)
    np.testing.assert_array_equal(ours, store.read("testradar_4x4", [2, 1])[0])


def test_threads_read_what_they_would_alone(store) -> None:
    shards = OpenShards(store, batches=3)
    chips = _chips(store, "testoptical_8x8")
    wrong: list[int] = []

    def read(seed: int) -> None:
        rows = np.random.default_rng(seed).integers(0, 40, 16)
        for _ in range(20):
            ours, _ = store.read("testoptical_8x8", rows, how=shards.read)
            if not np.array_equal(ours, store.read("testoptical_8x8", rows)[0]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for start in range(0, 400, 3):
        shards.expect(np.roll(chips, -start)[:6], kind=0)
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_damaged_shard_is_an_error_and_no_wrong_numbers(store) -> None:
    file = store.path / "chips" / "testradar_4x4" / "c" / "1" / "0" / "0" / "0"
    damaged = bytearray(file.read_bytes())
    damaged[5] ^= 0xFF
    file.write_bytes(damaged)
    shards = OpenShards(store, batches=1)
    shards.expect(_chips(store, "testradar_4x4"), kind=0)
    with pytest.raises(StoreError, match=r"can't be read.*prepare it again"):
        store.read("testradar_4x4", range(4, 8), how=shards.read)


def test_shards_are_numbered_over_all_arrays(store) -> None:
    numbers = shard_numbers(store)
    assert np.bincount(numbers).tolist() == [4] * 20
    where = zip(store.index.column("array").to_pylist(), (store.array_rows // 4).tolist(), strict=True)
    assert len(set(zip(where, numbers.tolist(), strict=True))) == 20


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_round_by_shards_gives_the_chips_of_its_plans_and_fetches_each_shard_once(store, workers: int) -> None:
    pairs = find_pairs(store, sensors="any")
    # One shard at a time, so that none is cut.
    shuffle = shard_shuffle(store, pairs.chips[::2], open_shards=1)
    sampler = SetSampler(pairs, batch_size=4, seed=5, shuffle=shuffle)
    shards = OpenShards(store, batches=batches_in_work(workers) + 1)
    draws = map(sampler.batch, range(sampler.steps_per_epoch))
    read = partial(read_sets, store, shards=shards, metadata=False)
    loader = read_ahead(
        read, draws, workers=workers, expect=lambda draw: shards.expect(draw.chips.ravel(), kind=draw.kind)
    )
    before = _num_reads()
    batches = list(loader)
    num_reads = _num_reads() - before
    # Ten shards of each sensor, and ten that say where optical chips have holes.
    assert num_reads == 30
    taken = Counter(int(row) for batch in batches for row in batch.draw.items)
    assert taken == Counter(range(40))
    for batch in batches:
        plain = read_sets(store, batch.draw, metadata=False)
        for ours, theirs in zip(batch.groups, plain.groups, strict=True):
            assert bool((ours.pixels == theirs.pixels).all())
        np.testing.assert_equal(batch.groups[0].valid.numpy(), plain.groups[0].valid.numpy())


def test_the_loader_tells_of_batches_ahead_in_order(store) -> None:
    pairs = find_pairs(store, sensors="any")
    sampler = SetSampler(pairs, batch_size=4, seed=5)
    told: list = []
    loader = read_ahead(lambda draw: draw, map(sampler.batch, range(2, 9)), workers=0, expect=told.append)
    seen = []
    for plan in loader:
        assert any(plan is one for one in told)
        seen.append(len(told))
    assert [plan.items.tolist() for plan in told] == [sampler.batch(step).items.tolist() for step in range(2, 9)]
    assert seen[0] > 1
