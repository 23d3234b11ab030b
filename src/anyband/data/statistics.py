"""Normalisation statistics of a chip store, in one pass over its chips."""

from collections.abc import Iterator

import numpy as np
import torch

from anyband.data.chip_index import Split
from anyband.data.harmonise import normalisation_for, to_physical
from anyband.data.histograms import StatisticsAccumulator
from anyband.data.store import ArrayInfo, ChipStore
from anyband.errors import InputError
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics
from anyband.shapes import Array, Int

__all__ = ["store_statistics"]

# chosen: enough chips in flight to keep the disk busy, few enough for a small machine.
_VALUES_PER_READ = 2**24

Statistics = dict[str, dict[str, BandStatistics]]


def store_statistics(
    store: ChipStore, *, split: Split | None = "train", shown: bool = False
) -> tuple[Statistics, list[str]]:
    """Compute the statistics of every band of a store, in physical units, over all its arrays.

    Args:
        store: to read.
        split: of the places; None: all.
        shown: whether to show progress.

    Returns:
        sensor → band → statistics; and a line for each band that has none, with the reason.
    """
    counters: dict[tuple[str, str], StatisticsAccumulator] = {}
    wanted = {name: _rows(store, name, split) for name in store.arrays}
    total = sum(len(rows) for rows in wanted.values())
    with progress("statistics", total, shown=shown) as advance:
        for name, rows in wanted.items():
            for batch in _batches(store.arrays[name], rows):
                _count(store, name, batch, counters)
                advance(len(batch))
    return _results(counters)


def _rows(store: ChipStore, array: str, split: Split | None) -> Int[Array, " chip"]:
    here = store.index.column("array").to_numpy(zero_copy_only=False) == array
    if split is not None:
        here &= store.index.column("split").to_numpy(zero_copy_only=False) == split
    return np.sort(store.array_rows[here])


def _batches(info: ArrayInfo, rows: Array) -> Iterator[Array]:
    size = max(1, _VALUES_PER_READ // (len(info.bands) * info.height * info.width))
    yield from (rows[first : first + size] for first in range(0, len(rows), size))


def _count(store: ChipStore, array: str, rows: Array, counters: dict[tuple[str, str], StatisticsAccumulator]) -> None:
    chips, valid = store.read(array, rows)
    physical = _decode(store, array, chips)
    for position, band in enumerate(store.arrays[array].bands):
        key = (store.arrays[array].sensor, band)
        counter = counters.setdefault(key, StatisticsAccumulator([band]))
        one = slice(position, position + 1)
        counter.add(physical[:, one], None if valid is None else valid[:, one])


def _decode(store: ChipStore, array: str, chips: Array) -> Array:
    sensor = store.array_sensor(array)
    # Decoding needs no statistics, and there are none yet; these are never used.
    unused = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)
    decoding = normalisation_for(sensor, statistics=dict.fromkeys(sensor.band_names, unused))
    return np.asarray(to_physical(torch.from_numpy(chips), decoding).numpy())


def _results(counters: dict[tuple[str, str], StatisticsAccumulator]) -> tuple[Statistics, list[str]]:
    found: Statistics = {}
    problems: list[str] = []
    for (sensor, band), counter in counters.items():
        try:
            found.setdefault(sensor, {})[band] = counter.result()[band]
        except InputError as problem:
            problems.append(f"{sensor}: {problem}")
    return found, problems
