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
from anyband.errors import StoreError, nearest_name
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
    """Identities of what is drawn for each: another for each time that a pair passes."""
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
            f"no footprint in {where} '{store.path}' has a pair of {kinds}; `anyband prepare --show` lists what it has"
        )
    return _pairs(store, np.array(found, dtype=np.int64))


class PairSampler:
    """Batches of pairs: a pure function of (seed, step).

    A batch holds pairs of one kind. The pairs of a kind pass in rounds, each pair once a round, in an order drawn anew
    for each round; batches are cut from that stream, so what does not fill the last batch of a round opens the next. A
    kind with fewer pairs than a batch passes several times in one.
    """

    def __init__(self, pairs: Pairs, *, batch_size: int, seed: int) -> None:
        """Plan the batches.

        Args:
            pairs: to draw from, at least one.
            batch_size: pairs a batch.
            seed: of the orders.
        """
        self._pairs = pairs
        self._batch_size = batch_size
        self._seed = seed
        self._rows_of_type = [np.flatnonzero(pairs.pair_type == kind) for kind in range(len(pairs.types))]
        counts = [len(rows) for rows in self._rows_of_type]
        # An epoch has about as many batches of a kind as the kind fills, at least one.
        self._batches_of_type = [max(1, round(count / batch_size)) if count else 0 for count in counts]
        # Identities of one round do not meet those of the next.
        self._identities = int(pairs.sample.max(initial=-1)) + 1
        # Orders are asked for once a step; keeping a few does not change any answer.
        self._kinds = lru_cache(maxsize=2)(self._draw_kinds)
        self._round = lru_cache(maxsize=2 * len(pairs.types))(self._draw_round)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return sum(self._batches_of_type)

    def batch(self, step: int) -> PairPlan:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        kinds = self._kinds(epoch)
        kind = int(kinds[position])
        number = epoch * self._batches_of_type[kind] + int(np.count_nonzero(kinds[:position] == kind))
        passed = number * self._batch_size + np.arange(self._batch_size)
        rounds, places = np.divmod(passed, len(self._rows_of_type[kind]))
        rows = np.array([self._round(kind, int(r))[p] for r, p in zip(rounds, places, strict=True)])
        samples = self._pairs.sample[rows] + rounds * self._identities
        return PairPlan(rows=rows, pair_type=kind, samples=samples, epoch=epoch)

    def _draw_kinds(self, epoch: int) -> Array:
        kinds = np.repeat(np.arange(len(self._batches_of_type)), self._batches_of_type)
        order = permutation(self._seed, step=epoch, purpose="order of batches", size=len(kinds))
        return np.asarray(kinds[order])

    def _draw_round(self, kind: int, number: int) -> Array:
        rows = self._rows_of_type[kind]
        order = permutation(self._seed, step=number, purpose=f"order of pairs {kind}", size=len(rows))
        return np.asarray(rows[order])


def _wanted(store: ChipStore, sensors: Sequence[tuple[str, str]] | Literal["any"]) -> Sequence[tuple[str, str]]:
    if sensors == "any":
        return list(combinations(store.sensors, 2))
    for name in (name for pair in sensors for name in pair):
        if name not in store.sensors:
            raise StoreError(
                f"sensor '{name}' is not in store '{store.path}' ({', '.join(store.sensors)})"
                f"{nearest_name(name, store.sensors)}"
            )
    return sensors


def _footprints(store: ChipStore, split: Split | None, times: Sequence[float]) -> Iterator[dict[str, list[int]]]:
    """Give, for each footprint of the split, sensor → its chips by time."""
    columns = store.index.select(["place", "cell", "sensor", "split"]).to_pydict()
    rows = [row for row, own in enumerate(columns["split"]) if split in (None, own)]
    keys = list(zip(columns["place"], columns["cell"], strict=True))
    for _, footprint in groupby(sorted(rows, key=lambda row: (*keys[row], times[row], row)), keys.__getitem__):
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
