"""Which chips make a training sample, and in which batch it stands: functions of store, seed and step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, groupby, product
from typing import Literal

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.store import ChipStore
from anyband.errors import InputError, StoreError, nearest_name
from anyband.randomness import permutation
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
    """Identities of the pairs."""
    epoch: int
    """Epoch of the batch, from 0."""


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
    times = _times_us(store)
    found = [
        (a, b)
        for chips in _footprints(store, split, times)
        for first, second in wanted
        for a, b in _pairs_of(chips, first, second)
        if max_gap_days is None or abs(times[a] - times[b]) <= max_gap_days * _DAY_US
    ]
    if not found:
        kinds = ", ".join(f"{first} + {second}" for first, second in wanted)
        where = f"split '{split}' of store" if split else "store"
        raise StoreError(
            f"no footprint in {where} '{store.path}' has a pair of {kinds}; "
            "`anyband prepare --show` lists what it has"
        )
    return _pairs(store, np.array(found, dtype=np.int64))


class PairSampler:
    """Batches of pairs: a pure function of (seed, step).

    A batch holds pairs of one kind. An epoch takes each pair once, besides those that fill no last batch of
    their kind; which ones these are, and the order, is drawn anew each epoch.
    """

    def __init__(self, pairs: Pairs, *, batch_size: int, seed: int) -> None:
        """Plan the epochs.

        Raises:
            InputError: no kind of pair fills a batch.
        """
        counts = np.bincount(pairs.pair_type, minlength=len(pairs.types))
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._type_of_batch = np.repeat(np.arange(len(counts)), counts // batch_size)
        self._rows_of_type = [np.flatnonzero(pairs.pair_type == kind) for kind in range(len(counts))]
        self._first_of_type = np.concatenate([[0], np.cumsum(counts // batch_size)])
        if not len(self._type_of_batch):
            raise InputError(
                f"no kind of pair fills a batch of {batch_size}: the largest has {counts.max(initial=0)}; "
                "take a smaller batch, or prepare more places"
            )
        # An epoch's order is asked for once a step; keeping two does not change any answer.
        self._order = lru_cache(maxsize=2)(self._draw_order)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self._type_of_batch)

    def batch(self, step: int) -> PairPlan:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        batches, orders = self._order(epoch)
        number = int(batches[position])
        kind = int(self._type_of_batch[number])
        first = (number - int(self._first_of_type[kind])) * self._batch_size
        rows = self._rows_of_type[kind][orders[kind][first : first + self._batch_size]]
        return PairPlan(rows=rows, pair_type=kind, samples=self._pairs.sample[rows], epoch=epoch)

    def _draw_order(self, epoch: int) -> tuple[Array, list[Array]]:
        batches = permutation(self._seed, step=epoch, purpose="order of batches", size=self.steps_per_epoch)
        orders = [
            permutation(self._seed, step=epoch, purpose=f"order of pairs {kind}", size=len(rows))
            for kind, rows in enumerate(self._rows_of_type)
        ]
        return batches, orders


def _wanted(
    store: ChipStore, sensors: Sequence[tuple[str, str]] | Literal["any"]
) -> Sequence[tuple[str, str]]:
    if sensors == "any":
        return list(combinations(store.sensors, 2))
    for name in (name for pair in sensors for name in pair):
        if name not in store.sensors:
            raise StoreError(
                f"sensor '{name}' is not in store '{store.path}' ({', '.join(store.sensors)})"
                f"{nearest_name(name, store.sensors)}"
            )
    return sensors


def _footprints(
    store: ChipStore, split: Split | None, times: Sequence[float]
) -> Iterator[dict[str, list[int]]]:
    """Give, for each footprint of the split, sensor → its chips by time."""
    columns = store.index.select(["place", "cell", "sensor", "split"]).to_pydict()
    rows = [row for row, own in enumerate(columns["split"]) if split in (None, own)]
    keys = list(zip(columns["place"], columns["cell"], strict=True))
    for _, footprint in groupby(
        sorted(rows, key=lambda row: (*keys[row], times[row], row)), keys.__getitem__
    ):
        chips: dict[str, list[int]] = {}
        for row in footprint:
            chips.setdefault(columns["sensor"][row], []).append(row)
        yield chips


def _times_us(store: ChipStore) -> list[float]:
    """Time of each chip in microseconds since 1970; infinity where unknown, which sorts last."""
    known = store.index.column("datetime").cast("int64").to_pylist()
    return [math.inf if time is None else float(time) for time in known]


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
