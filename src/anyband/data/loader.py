"""Batches of chips, decoded by threads."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.image_sets import SetDraw
from anyband.data.sampler import ChipMetadata, ShardShuffle, chip_metadata
from anyband.data.store import ChipStore
from anyband.device_copies import host_memory

__all__ = [
    "OpenShards",
    "RawImages",
    "RawSets",
    "batches_in_work",
    "read_ahead",
    "read_sets",
    "shard_numbers",
    "shard_shuffle",
]


def shard_numbers(store: ChipStore) -> Int[Array, " chip"]:
    """Number the shard of each chip of the index, over all arrays of the store."""
    infos = list(store.arrays.values())
    shard_chips = np.array([info.chips_per_shard for info in infos], dtype=np.int64)
    counts = -(-np.array([info.num_chips for info in infos], dtype=np.int64) // shard_chips)
    first = np.cumsum(counts) - counts
    return np.asarray(first[store.array_numbers] + store.array_rows // shard_chips[store.array_numbers])


def shard_shuffle(store: ChipStore, chips: Int[Array, " sample"], *, open_shards: int) -> ShardShuffle:
    """Sort samples into the shards of their first chips, given as rows of the store's index."""
    return ShardShuffle(shards=shard_numbers(store)[chips], open_shards=open_shards)


class OpenShards:
    """The shards that the next batches need. What is not among them is read as without it: no answer ever differs."""

    def __init__(self, store: ChipStore, *, batches: int) -> None:
        """Nothing is fetched yet. A shard stays open while one of the last `batches` batches of a kind needs it."""
        self._store = store
        self._batches = batches
        self._shards: dict[tuple[int, int], _Shard] = {}
        self._expected: dict[Hashable, deque[frozenset[tuple[int, int]]]] = {}
        self._lock = Lock()

    def expect(self, chips: Int[Array, " chip"], *, kind: Hashable) -> None:
        """Begin to fetch the shards of a batch that comes, and close those that no batch needs any more."""
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
        target = ts.array(self.out, copy=False)
        writing = []
        for number, shard in self.held.items():
            source = self.opened if shard is None else shard.array()
            where = np.flatnonzero(self.numbers == number)
            writing.append(target[where].write(source[self.rows[where]]))
        for part in writing:
            part.result()


DrawnT = TypeVar("DrawnT")
RawT = TypeVar("RawT")

# chosen: each thread has one batch in work and one waiting.
_BATCHES_PER_WORKER = 2
# chosen: shards on their way while four batches are used; each more takes memory for the shards of one more.
_BATCHES_AHEAD = 4


@dataclass(frozen=True, kw_only=True)
class RawImages:
    """The images of some sets that are of one array, as they are stored."""

    array: str
    pixels: Num[Tensor, "batch band row col"]
    """Digital numbers in the type of their array."""
    valid: Bool[Tensor, "batch band row col"] | None
    """None: everywhere."""
    sets: Int[Array, " batch"] | None
    """Which set of the batch each image belongs to, in order; None: one to each."""


@dataclass(frozen=True, kw_only=True)
class RawSets:
    """A batch of image sets as it is stored; all images of a set show one footprint."""

    groups: tuple[RawImages, ...]
    """The images, those of one array together."""
    rows: Int[Array, "set slot"] | None
    """Where each image stands when the groups are laid one after the other; None: group k is slot k of every set."""
    draw: SetDraw
    metadata: ChipMetadata | None
    """What is known of each beside its pixels; None: nothing was looked up."""


def read_sets(store: ChipStore, draw: SetDraw, *, shards: OpenShards | None = None, metadata: bool = True) -> RawSets:
    """Read the sets of a draw, the images of each array in one go. `shards` are in memory already; without metadata, as
    for pairs, each slot is of one array."""
    names, numbers = list(store.arrays), store.array_numbers[draw.chips]
    if not metadata:
        slots = zip(numbers[0].tolist(), draw.chips.T, strict=True)
        of_slots = tuple(_read(store, names[array], chips, None, shards) for array, chips in slots)
        return RawSets(groups=of_slots, rows=None, draw=draw, metadata=None)
    groups, order = [], []
    for array in np.unique(numbers).tolist():
        images = np.flatnonzero(numbers.ravel() == array)
        sets = images // draw.chips.shape[1]
        groups.append(_read(store, names[array], draw.chips.ravel()[images], sets, shards))
        order.append(images)
    rows = np.argsort(np.concatenate(order)).reshape(draw.chips.shape)
    return RawSets(groups=tuple(groups), rows=rows, draw=draw, metadata=chip_metadata(store, draw.chips))


def batches_in_work(workers: int) -> int:
    """Count the batches from the oldest that may be being read to the newest that `expect` is told of."""
    return workers * _BATCHES_PER_WORKER + 1 + _BATCHES_AHEAD


def read_ahead(
    read: Callable[[DrawnT], RawT],
    draws: Iterable[DrawnT],
    *,
    workers: int,
    expect: Callable[[DrawnT], None] | None = None,
) -> Iterator[RawT]:
    """Give what is read of each draw, in their order, whatever the number of workers: threads that read ahead (0:
    none). `expect` is told each draw some batches before it is read, for example to begin to fetch shards."""
    told = draws if expect is None else _told(draws, expect)
    if workers == 0:
        yield from map(read, told)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="anyband-batch")
    waiting: deque[Future[RawT]] = deque()
    try:
        for drawn in told:
            waiting.append(pool.submit(read, drawn))
            if len(waiting) > workers * _BATCHES_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _told(draws: Iterable[DrawnT], expect: Callable[[DrawnT], None]) -> Iterator[DrawnT]:
    ahead: deque[DrawnT] = deque()
    for drawn in draws:
        expect(drawn)
        ahead.append(drawn)
        if len(ahead) > _BATCHES_AHEAD:
            yield ahead.popleft()
    yield from ahead


def _read(
    store: ChipStore,
    array: str,
    chips: Int[Array, " chip"],
    sets: Int[Array, " chip"] | None,
    shards: OpenShards | None,
) -> RawImages:
    info = store.arrays[array]
    shape = (len(chips), len(info.bands), info.height, info.width)
    # Where there is a GPU, chips are decoded straight into memory that it reads by itself.
    pixels = host_memory(shape, getattr(torch, info.dtype), pinned=torch.cuda.is_available())
    rows, out = store.array_rows[chips], pixels.numpy()
    _, valid = store.read(array, rows, out=out) if shards is None else store.read(array, rows, out=out, how=shards.read)
    return RawImages(array=array, pixels=pixels, valid=None if valid is None else torch.from_numpy(valid), sets=sets)
