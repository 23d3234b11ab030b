"""Batches hold the chips of their plan, in order, whatever the number of threads."""

import gc
import threading
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from anyband.data.image_sets import find_pairs, find_sets
from anyband.data.loader import RawSets, SetSampler, read_ahead, read_sets
from anyband.errors import StoreError


def _load(store, *, workers: int, last_step: int = 9) -> Iterator[RawSets]:
    sampler = SetSampler(find_pairs(store, sensors="any"), batch_size=3, seed=5)
    read = partial(read_sets, store, metadata=False)
    return read_ahead(read, map(sampler.batch, range(2, last_step)), workers=workers)


def test_a_batch_of_pairs_holds_the_chips_of_its_draw(make_store) -> None:
    store = make_store(6)
    draw = SetSampler(find_pairs(store, sensors="any"), batch_size=4, seed=0).batch(1)
    batch = read_sets(store, draw, metadata=False)
    first, second = batch.groups
    assert (batch.rows, batch.metadata) == (None, None)
    for k, item in enumerate(draw.items):
        rng = np.random.default_rng(int(item))
        np.testing.assert_array_equal(first.pixels[k].numpy(), rng.integers(1, 9000, (2, 8, 8)))
        np.testing.assert_array_equal(second.pixels[k].numpy(), rng.integers(-2500, 0, (1, 4, 4)))
    assert (first.pixels.dtype, second.pixels.dtype) == (torch.uint16, torch.int16)
    assert (first.array, second.array) == ("testoptical_8x8", "testradar_4x4")


def test_holes_reach_the_batch(make_store) -> None:
    store = make_store(6, holes=True)
    draw = SetSampler(find_pairs(store, sensors="any"), batch_size=6, seed=0).batch(0)
    first, second = read_sets(store, draw, metadata=False).groups
    assert first.valid is not None
    assert second.valid is None
    assert {int(item) for item, valid in zip(draw.items, first.valid, strict=True) if not valid.all()} == {0, 3}


@pytest.mark.parametrize("workers", [1, 3])
def test_order_does_not_depend_on_workers(make_store, workers: int) -> None:
    store = make_store(7)
    alone, together = list(_load(store, workers=0)), list(_load(store, workers=workers))
    assert len(alone) == len(together) == 7
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.groups[0].pixels, other.groups[0].pixels, rtol=0, atol=0)
        np.testing.assert_array_equal(one.draw.items, other.draw.items)


def test_threads_end_when_the_iteration_is_left(make_store) -> None:
    batches = _load(make_store(6), workers=2, last_step=500)
    next(batches)
    del batches
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyband-batch")]


def test_damage_is_raised_to_the_reader(make_store) -> None:
    store = make_store(6)
    shard = store.path / "chips" / "testradar_4x4" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:10])
    with pytest.raises(StoreError, match="can't be read"):
        list(_load(store, workers=2))


def _sampler(store, *, size=(1, 4), batch_size: int = 3) -> SetSampler:
    return SetSampler(find_sets(store, size=size), batch_size=batch_size, seed=5)


def _image(raw: RawSets, number: int, slot: int) -> tuple[str, np.ndarray, bool]:
    """Find one image of a set: its array, its pixels, whether all of them are valid."""
    row = int(raw.rows[number, slot])
    for group in raw.groups:
        if row < len(group.pixels):
            assert group.sets[row] == number
            return group.array, group.pixels[row].numpy(), group.valid is None or bool(group.valid[row].all())
        row -= len(group.pixels)
    raise AssertionError("no group has the row")


def test_a_batch_of_sets_holds_the_chips_of_its_draw(make_store) -> None:
    store = make_store(6, dates=3, holes=True)
    arrays, rows = store.index.column("array").to_pylist(), store.array_rows
    fractions = store.index.column("valid_fraction").to_pylist()
    sampler = _sampler(store)
    for step in range(sampler.steps_per_epoch):
        raw = read_sets(store, sampler.batch(step))
        assert sorted(raw.rows.ravel()) == list(range(raw.rows.size))
        for number, chips in enumerate(raw.draw.chips.tolist()):
            for slot, chip in enumerate(chips):
                array, pixels, is_whole = _image(raw, number, slot)
                assert array == arrays[chip]
                np.testing.assert_array_equal(pixels, store.read(array, [int(rows[chip])])[0][0])
                assert is_whole == (fractions[chip] == 1.0)


def test_the_images_of_one_array_stand_in_one_group(make_store) -> None:
    store = make_store(6, dates=3)
    raw = read_sets(store, _sampler(store, size=(4, 4)).batch(0))
    assert [group.array for group in raw.groups] == ["testoptical_8x8", "testradar_4x4"]
    assert [tuple(group.pixels.shape) for group in raw.groups] == [(9, 2, 8, 8), (3, 1, 4, 4)]
    assert raw.groups[1].sets.tolist() == [0, 1, 2]


def test_a_batch_of_sets_knows_the_time_and_the_size_of_each_image(make_store) -> None:
    store = make_store(6, dates=3)
    times = store.index.column("datetime").to_numpy()
    raw = read_sets(store, _sampler(store, size=(4, 4)).batch(0))
    np.testing.assert_array_equal(raw.metadata["time"], times[raw.draw.chips])
    for number, slot in np.ndindex(raw.rows.shape):
        assert tuple(raw.metadata["shape_px"][number, slot]) == _image(raw, number, slot)[1].shape[1:]


def test_what_the_index_does_not_know_is_unknown_in_the_batch(make_store) -> None:
    store = make_store(3, dated=False)
    raw = read_sets(store, _sampler(store, size=(2, 2)).batch(0))
    optical = np.array([[_image(raw, *where)[0] == "testoptical_8x8" for where in row] for row in _positions(raw)])
    np.testing.assert_array_equal(np.isnat(raw.metadata["time"]), optical)
    assert np.isnan(raw.metadata["corners_deg"]).all()
    assert np.isnan(raw.metadata["gsd_m"]).all()


def _positions(raw: RawSets) -> list[list[tuple[int, int]]]:
    return [[(number, slot) for slot in range(raw.rows.shape[1])] for number in range(len(raw.rows))]


@pytest.mark.parametrize("workers", [1, 3])
def test_order_of_sets_does_not_depend_on_workers(make_store, workers: int) -> None:
    store = make_store(7, dates=2)
    read = partial(read_sets, store)
    loaders = [read_ahead(read, map(_sampler(store).batch, range(1, 8)), workers=number) for number in (0, workers)]
    for one, other in zip(*loaders, strict=True):
        np.testing.assert_array_equal(one.draw.chips, other.draw.chips)
        np.testing.assert_array_equal(one.rows, other.rows)
        for group, twin in zip(one.groups, other.groups, strict=True):
            torch.testing.assert_close(group.pixels, twin.pixels, rtol=0, atol=0)
