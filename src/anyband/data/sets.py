"""Which chips make a training sample, and in which batch it stands: functions of store, seed and step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.footprints import UNKNOWN_TIME, check_sensors, chip_times, find_footprints
from anyband.data.lanes import ShardLanes
from anyband.data.rounds import Rounds
from anyband.data.store import ChipStore
from anyband.errors import StoreError
from anyband.shapes import Array, Int

__all__ = ["PairPlan", "PairSampler", "Pairs", "find_pairs"]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All pairs of chips of one footprint. Pair k is chips `index_a[k]` and `index_b[k]`."""

    types: tuple[tuple[str, str], ...]
    """(array of a, array of b) for each kind of pair; pairs of one kind fit one batch."""
    index_a: Int[Array, " pair"]
    """Row of the store's index, first chip."""
    index_b: Int[Array, " pair"]
    """Row of the store's index, second chip."""
    pair_type: Int[Array, " pair"]
    """Position in `types`."""
    sample: Int[Array, " pair"]
    """Identity of the pair: stable for one store and one choice of sensors."""

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.sample)


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """What one batch holds."""

    rows: Int[Array, " sample"]
    """Positions in `Pairs`."""
    pair_type: int
    """Position in `Pairs.types`, the same for all of the batch."""
    samples: Int[Array, " sample"]
    """Identities of what is drawn for each: another for each time that a pair passes."""
    epoch: int
    """Epoch of the batch, from 0."""

    def part(self, which: slice) -> "PairPlan":
        """Take some of the pairs."""
        return replace(self, rows=self.rows[which], samples=self.samples[which])


def find_pairs(
    store: ChipStore,
    *,
    sensors: Sequence[tuple[str, str]] | Literal["any"],
    split: Split | None = "train",
    max_gap_days: float | None = None,
) -> Pairs:
    """Find the pairs of chips that show one footprint, that is, one cell of one place.

    Args:
        store: to look in.
        sensors: wanted (sensor of a, sensor of b); equal names pair two dates of one sensor. `any`: any two
            different sensors, in the order of the store.
        split: of the places; None: all.
        max_gap_days: longest time between the two; pairs with an unknown time are left out then. None: any.

    Returns:
        The pairs, ordered by place and cell.

    Raises:
        StoreError: the store lacks a sensor, or has no such pair.
    """
    wanted = _wanted(store, sensors)
    times_us = chip_times(store)
    found = [
        (a, b)
        for chips in _chips_by_sensor(store, split)
        for first, second in wanted
        for a, b in _pairs_of(chips, first, second)
        if _are_near(times_us, a, b, max_gap_days)
    ]
    if not found:
        kinds = ", ".join(f"{first} + {second}" for first, second in wanted)
        where = f"split '{split}' of store" if split else "store"
        raise StoreError(
            f"no footprint in {where} '{store.path}' has a pair of {kinds}; `anyband prepare --show` lists what it has"
        )
    return _pairs(store, np.array(found, dtype=np.int64))


class PairSampler:
    """Batches of pairs of one kind each, in rounds (see `Rounds`): a pure function of (seed, step)."""

    def __init__(self, pairs: Pairs, *, batch_size: int, seed: int, lanes: ShardLanes | None = None) -> None:
        """Plan the batches.

        Args:
            pairs: to draw from, at least one.
            batch_size: pairs a batch.
            seed: of the orders.
            lanes: shards of the pairs, to read one after the other; None: any pair may follow any other.
        """
        self._pairs = pairs
        self._rounds = Rounds(pairs.pair_type, batch_size=batch_size, seed=seed, noun="pairs", lanes=lanes)
        # Identities of one round do not meet those of the next.
        self._identities = int(pairs.sample.max(initial=-1)) + 1

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self._rounds.steps_per_epoch

    def batch(self, step: int) -> PairPlan:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        drawn = self._rounds.batch(step)
        samples = self._pairs.sample[drawn.items] + drawn.passed * self._identities
        return PairPlan(rows=drawn.items, pair_type=drawn.kind, samples=samples, epoch=drawn.epoch)


def _wanted(store: ChipStore, sensors: Sequence[tuple[str, str]] | Literal["any"]) -> Sequence[tuple[str, str]]:
    if sensors == "any":
        return list(combinations(store.sensors, 2))
    check_sensors(store, (name for pair in sensors for name in pair))
    return sensors


def _chips_by_sensor(store: ChipStore, split: Split | None) -> Iterator[dict[str, list[int]]]:
    """Give, for each footprint of the split, sensor → its chips by time."""
    sensors = store.index.column("sensor").to_pylist()
    footprints = find_footprints(store, split=split)
    for start, stop in pairwise(footprints.bounds.tolist()):
        chips: dict[str, list[int]] = {}
        for row in footprints.chips[start:stop].tolist():
            chips.setdefault(sensors[row], []).append(row)
        yield chips


def _are_near(times_us: Int[Array, " chip"], a: int, b: int, max_gap_days: float | None) -> bool:
    if max_gap_days is None:
        return True
    if UNKNOWN_TIME in (times_us[a], times_us[b]):
        return False
    return abs(int(times_us[a]) - int(times_us[b])) <= max_gap_days * _DAY_US


def _pairs_of(chips: dict[str, list[int]], first: str, second: str) -> Iterator[tuple[int, int]]:
    if first == second:
        yield from combinations(chips.get(first, []), 2)
    else:
        yield from product(chips.get(first, []), chips.get(second, []))


def _pairs(store: ChipStore, rows: Array) -> Pairs:
    names = store.index.column("array").to_numpy(zero_copy_only=False)
    kinds = list(zip(names[rows[:, 0]], names[rows[:, 1]], strict=True))
    types = tuple(dict.fromkeys(kinds))
    position = {kind: number for number, kind in enumerate(types)}
    return Pairs(
        types=tuple((str(a), str(b)) for a, b in types),
        index_a=rows[:, 0],
        index_b=rows[:, 1],
        pair_type=np.array([position[kind] for kind in kinds], dtype=np.int64),
        sample=np.arange(len(rows), dtype=np.int64),
    )
