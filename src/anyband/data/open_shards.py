"""Whole shards in memory: each is fetched with one request, kept as it is stored, and its chips are read from there.

Chips are decoded, and their checksums compared, when they are read, as from a file. Works on whatever TensorStore reads
an array from: files or object storage.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import tensorstore as ts

from anyband.data.lanes import ShardLanes
from anyband.data.store import ChipStore
from anyband.shapes import Array, Int, Num

__all__ = ["OpenShards", "shard_lanes", "shard_numbers"]


def shard_numbers(store: ChipStore) -> Int[Array, " chip"]:
    """Number the shard of each chip of the index, over all arrays of the store."""
    infos = list(store.arrays.values())
    shard_chips = np.array([info.chips_per_shard for info in infos], dtype=np.int64)
    counts = -(-np.array([info.num_chips for info in infos], dtype=np.int64) // shard_chips)
    first = np.cumsum(counts) - counts
    return np.asarray(first[store.array_numbers] + store.array_rows // shard_chips[store.array_numbers])


def shard_lanes(store: ChipStore, chips: Int[Array, " sample"], *, count: int) -> ShardLanes:
    """Sort samples into the shards of their first chips.

    Args:
        store: that they are in.
        chips: row of the store's index, for each sample.
        count: shards that are mixed at any time.
    """
    return ShardLanes(shards=shard_numbers(store)[chips], count=count)


class OpenShards:
    """The shards that the next batches need. What is not among them is read as without it: no answer ever differs."""

    def __init__(self, store: ChipStore, *, batches: int) -> None:
        """Nothing is fetched yet.

        Args:
            store: to read.
            batches: a shard stays open while one of the last so many batches of a kind needs it.
        """
        self._store = store
        self._batches = batches
        self._shards: dict[tuple[int, int], _Shard] = {}
        self._expected: dict[Hashable, deque[frozenset[tuple[int, int]]]] = {}
        self._lock = Lock()

    def expect(self, chips: Int[Array, " chip"], *, kind: Hashable) -> None:
        """Begin to fetch the shards of a batch that comes, and close those that no batch needs any more.

        Args:
            chips: rows of the store's index.
            kind: of the batch. Kinds take turns, so shards wait for the next batch of theirs.
        """
        wanted = {(id(opened), number): opened for opened, number in self._store.shards_of(chips)}
        with self._lock:
            for key, opened in wanted.items():
                if key not in self._shards:
                    self._shards[key] = _Shard(opened, key[1])
            self._expected.setdefault(kind, deque(maxlen=self._batches)).append(frozenset(wanted))
            needed = frozenset().union(*(keys for batches in self._expected.values() for keys in batches))
            # A thread that still reads from a shard holds it, so closing takes nothing away.
            self._shards = {key: shard for key, shard in self._shards.items() if key in needed}

    def read(self, opened: ts.TensorStore, rows: Int[Array, " chip"], out: Num[Array, "chip ..."]) -> "_Reading":
        """Begin to read rows of an array of the store into memory; see `ChipStore.read`."""
        numbers = rows // _chips_per_shard(opened)
        with self._lock:
            held = {int(number): self._shards.get((id(opened), int(number))) for number in np.unique(numbers)}
        return _Reading(opened=opened, rows=rows, out=out, numbers=numbers, held=held)

    @property
    def num_bytes(self) -> int:
        """Memory that the shards take which have arrived, bytes."""
        with self._lock:
            return sum(shard.num_bytes for shard in self._shards.values())

    def __len__(self) -> int:
        """Count the shards that are open or on their way."""
        return len(self._shards)


class _Shard:
    """One shard of an array, on its way or here."""

    def __init__(self, opened: ts.TensorStore, number: int) -> None:
        self._opened = opened
        self._key = "/".join(["c", str(number), *["0"] * (opened.rank - 1)])
        self._fetched: Any = _kvstore(opened).read(self._key)
        self._lock = Lock()
        self.num_bytes = 0

    def array(self) -> ts.TensorStore:
        """Give the array of which this shard is all there is; waits for it."""
        with self._lock:
            return self._in_memory

    @cached_property
    def _in_memory(self) -> ts.TensorStore:
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "memory"},
            "metadata": self._opened.spec().to_json()["metadata"],
            "fill_missing_data_reads": self._opened.spec().to_json().get("fill_missing_data_reads", True),
        }
        # A memory of its own, so that it goes with this object.
        context = ts.Context({"memory_key_value_store": {}}, parent=_SHARED)
        array = ts.open(spec, context=context, open=True, read=True, assume_metadata=True).result()
        fetched = self._fetched.result()
        # Where all values equal the fill value no shard is stored, and reading gives that value here as there.
        if fetched.state == "value":
            # Asking for the value copies it, so once.
            stored = fetched.value
            _kvstore(array).write(self._key, stored).result()
            self.num_bytes = len(stored)
        self._fetched = None
        return array


def _kvstore(array: ts.TensorStore) -> ts.KvStore:
    kvstore = array.kvstore
    assert kvstore is not None, "arrays in Zarr are kept in one"
    return kvstore


def _chips_per_shard(array: ts.TensorStore) -> int:
    shape = array.chunk_layout.write_chunk.shape
    assert shape is not None, "arrays in Zarr have shards of one size"
    return int(shape[0] or 1)


# Threads and limits are those of the process, not of each shard.
_SHARED = ts.Context()


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """Rows of an array that are asked for."""

    opened: ts.TensorStore
    rows: Int[Array, " chip"]
    out: Num[Array, "chip ..."]
    numbers: Int[Array, " chip"]
    held: dict[int, _Shard | None]

    def result(self) -> None:
        """Wait for them all."""
        target = ts.array(self.out, copy=False)
        writing = []
        for number, shard in self.held.items():
            source = self.opened if shard is None else shard.array()
            where = np.flatnonzero(self.numbers == number)
            writing.append(target[where].write(source[self.rows[where]]))
        for part in writing:
            part.result()
