"""Batches of image sets: which step holds which, drawn without state, and read by threads."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.image_sets import ImageSets, are_apart, chip_metadata, gap_us, room_left
from anyband.data.store import ChipStore
from anyband.randomness import generator, permutation

__all__ = [
    "BatchOrder",
    "OpenShards",
    "RawImages",
    "RawSets",
    "SetDraw",
    "SetSampler",
    "ShardShuffle",
    "batches_in_work",
    "open_shard_of",
    "pairs_drawn",
    "read_ahead",
    "read_sets",
    "shard_numbers",
    "shard_shuffle",
]


@dataclass(frozen=True, kw_only=True)
class ShardShuffle:
    """An order that reads whole shards one after the other, and mixes the samples of some that are open at a time."""

    shards: Int[Array, " sample"]
    """Number of the shard of each sample."""
    open_shards: int
    """Shards that are mixed at any time, at least one; fewer where there are fewer."""

    def deal(
        self, samples: Int[Array, " place"], *, first: int, batch_size: int, seed: int, purpose: str, epoch: int
    ) -> Int[Array, " place"]:
        """Deal the samples of an epoch, each once, to the places of its batches. Samples of one shard keep their order;
        `first` is the epoch's first place, counted over all epochs."""
        names, shards = np.unique(self.shards[samples], return_inverse=True)
        rank = permutation(seed, step=epoch, purpose=purpose, size=len(names))
        listed = samples[np.argsort(rank[shards], kind="stable")]
        places = first + np.arange(len(samples))
        served = open_shard_of(places, batch_size=batch_size, num_open=min(self.open_shards, len(names)))
        dealt = np.empty_like(listed)
        dealt[np.argsort(served, kind="stable")] = listed
        return dealt

    def of(self, samples: Int[Array, " chosen"]) -> "ShardShuffle":
        """Keep some of the samples, which get new numbers from 0."""
        return ShardShuffle(shards=self.shards[samples], open_shards=self.open_shards)


def open_shard_of(places: Int[Array, " place"], *, batch_size: int, num_open: int) -> Int[Array, " place"]:
    """Tell which of the open shards serves each place (counted over all batches): equally many to each, or one more,
    ascending in a batch. Where a batch has fewer places than there are open shards, neighbouring ones take turns at
    each place."""
    batches, positions = np.divmod(places, batch_size)
    lowest = positions * num_open // batch_size
    after = (positions + 1) * num_open // batch_size
    return np.asarray(lowest + batches % np.maximum(after - lowest, 1))


class BatchOrder:
    """Batches of one kind each. The samples of a kind pass once in each epoch of the kind, in an order drawn anew.

    Batches are cut from that stream, so what does not fill the last batch of an epoch opens the next. A kind with fewer
    samples than a batch passes several times in one.

    Args:
        kinds: of each sample, from 0; at least one.
        batch_size: samples a batch.
        seed: of the orders.
        noun: what the samples are called, for example `pairs`: other names are other orders.
        shuffle: shards to read one after the other; None: any sample may follow any other.
        mixed: whether neighbouring batches are of all kinds, in the proportion of their samples; else kinds follow one
            another in a random order.
    """

    def __init__(
        self,
        kinds: Int[Array, " sample"],
        *,
        batch_size: int,
        seed: int,
        noun: str,
        shuffle: ShardShuffle | None = None,
        mixed: bool = False,
    ) -> None:
        self._batch_size, self._seed, self._noun, self._shuffle = batch_size, seed, noun, shuffle
        self._of_kind = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max(initial=-1)) + 1)]
        counts = [len(samples) for samples in self._of_kind]
        # An epoch has about as many batches of a kind as the kind fills, at least one.
        self._batches_of_kind = [max(1, round(count / batch_size)) if count else 0 for count in counts]
        self.steps_per_epoch = sum(self._batches_of_kind)
        # The purposes are part of every run that was: another word is another order.
        purpose = "order of batches" if noun == "pairs" else f"order of batches of {noun}"
        in_turn = np.repeat(np.arange(len(counts)), self._batches_of_kind)
        # Orders are needed once a step; keeping a few does not change any answer.
        self._kinds_of_epoch = lru_cache(maxsize=2)(
            self._interleaved
            if mixed
            else lambda epoch: in_turn[permutation(seed, step=epoch, purpose=purpose, size=len(in_turn))]
        )
        self._order_of_samples = lru_cache(maxsize=2 * len(counts))(self._draw_epoch)

    def batch(self, step: int) -> tuple[Int[Array, " place"], Int[Array, " place"], int, int]:
        """Tell the samples of a step's batch, how often each passed before, their kind, and the epoch, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        kinds = self._kinds_of_epoch(epoch)
        kind = int(kinds[position])
        number = epoch * self._batches_of_kind[kind] + int(np.count_nonzero(kinds[:position] == kind))
        stream = number * self._batch_size + np.arange(self._batch_size)
        passed, places = np.divmod(stream, len(self._of_kind[kind]))
        drawn = zip(passed.tolist(), places.tolist(), strict=True)
        samples = np.array([self._order_of_samples(kind, epoch_of_kind)[place] for epoch_of_kind, place in drawn])
        return samples, passed, kind, epoch

    def _interleaved(self, epoch: int) -> Array:
        """Order the batches of an epoch so that each kind stands in it at equal distances, from a drawn one on: among
        any so many neighbours it has its share, but for one or two."""
        counts = self._batches_of_kind
        draws = generator(self._seed, step=epoch, sample=0, purpose=f"kinds in turn of {self._noun}")
        begun = draws.random(len(counts))
        places = [(np.arange(count) + begun[kind]) / max(count, 1) for kind, count in enumerate(counts)]
        return np.repeat(np.arange(len(counts)), counts)[np.argsort(np.concatenate(places), kind="stable")]

    def _draw_epoch(self, kind: int, number: int) -> Array:
        samples = self._of_kind[kind]
        order = permutation(self._seed, step=number, purpose=f"order of {self._noun} {kind}", size=len(samples))
        if self._shuffle is None:
            return np.asarray(samples[order])
        return self._shuffle.deal(
            samples[order],
            first=number * len(samples),
            batch_size=self._batch_size,
            seed=self._seed,
            purpose=f"order of shards of {self._noun} {kind}",
            epoch=number,
        )


@dataclass(frozen=True, kw_only=True)
class SetDraw:
    """What one batch holds: sets of equally many images, all with a partner or all without."""

    chips: Int[Array, "set slot"]
    """Rows of the store's index. Slot 0 is the anchor, slot 1 the partner."""
    same_source: Bool[Array, "set slot"]
    """Whether an image is of the anchor's source; True in slot 0. The second image of a pair counts as another's."""
    first_slot: Int[Array, " set"]
    """Slot of the image that comes first in the footprint: by time, unknown last, then by row."""
    partnered: bool
    """Whether slot 1 is of another source, in every set; False: in none."""
    samples: Int[Array, " set"]
    """Identities of what is drawn: another for each time that a sample passes."""
    items: Int[Array, " set"]
    """Positions in `ImageSets`."""
    kind: int
    """Of them all; see `ImageSets.kinds`."""
    grid: tuple[int, int]
    """Rows and columns that crops are aligned to."""
    epoch: int

    def at(self, which: slice) -> "SetDraw":
        """Take some of the sets."""
        names = ("chips", "same_source", "first_slot", "samples", "items")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


class SetSampler:
    """Batches of sets of one kind each, see `BatchOrder`: a pure function of (seed, step). How many images are drawn of
    a footprint is the same for a batch; which, is a function of (seed, step, sample). Without `shuffle` any sample may
    follow any other."""

    def __init__(
        self,
        sets: ImageSets,
        *,
        batch_size: int,
        seed: int,
        shuffle: ShardShuffle | None = None,
        mixed: bool = False,
    ) -> None:
        self._sets, self._seed = sets, seed
        self._kinds, numbers = sets.kinds()
        noun = "pairs" if sets.pair_kind is not None else "sets"
        self._order = BatchOrder(numbers, batch_size=batch_size, seed=seed, noun=noun, shuffle=shuffle, mixed=mixed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step holds; steps count from 0, over all epochs."""
        items, passed, kind, epoch = self._order.batch(step)
        samples = items + passed * len(self._sets)
        if self._sets.pair_kind is not None:
            return pairs_drawn(self._sets, items, kind=kind, samples=samples, epoch=epoch)
        capacity, has_partner = self._kinds[kind]
        least, most = (min(size, capacity) for size in self._sets.size)
        size = int(generator(self._seed, step=step, sample=0, purpose="size of sets").integers(least, most + 1))
        drawn = zip(items.tolist(), samples.tolist(), strict=True)
        picked = np.array([self._pick(item, size, step=step, sample=sample) for item, sample in drawn])
        sources = self._sets.sources[picked]
        return SetDraw(
            chips=self._sets.chips[picked],
            same_source=sources == sources[:, :1],
            first_slot=np.argmin(picked, axis=1),
            partnered=has_partner and size > 1,
            samples=samples,
            items=items,
            kind=kind,
            grid=self._sets.grid,
            epoch=epoch,
        )

    def _pick(self, item: int, size: int, *, step: int, sample: int) -> list[int]:
        """Draw the images of a set, as positions in `ImageSets.chips`: the first in a random order that fits, again and
        again, so that the size is always reached. The second, the partner, is of another source if there is one."""
        where, gap = self._sets.images(item), gap_us(self._sets.gap_days)
        sources, times_us = self._sets.sources[where].tolist(), self._sets.time_us[where].tolist()
        times_of: dict[int, list[int]] = {}
        for source, time in zip(sources, times_us, strict=True):
            times_of.setdefault(source, []).append(time)
        taken: dict[int, list[int]] = {source: [] for source in times_of}
        room = {source: room_left(times, [], gap) for source, times in times_of.items()}
        draws = generator(self._seed, step=step, sample=sample, purpose="images of sets")
        order = draws.permutation(len(sources)).tolist()
        picked: list[int] = []
        while len(picked) < size:
            missing = size - len(picked) - 1
            for image in order:
                source, time = sources[image], times_us[image]
                is_partner = len(picked) == 1 and len(times_of) > 1
                if image in picked or (is_partner and source == sources[picked[0]]):
                    continue
                # Neither too near to one taken, nor without room for those that are still missing.
                with_it = sorted([*taken[source], time])
                if all(are_apart(time, other, gap) for other in taken[source]):
                    left = room_left(times_of[source], with_it, gap)
                    if sum(room.values()) - room[source] + left >= missing:
                        break
            else:
                raise AssertionError("no image fits: the capacity of the footprint is too large")
            taken[source], room[source] = with_it, left
            picked.append(image)
        return [where.start + image for image in picked]


def pairs_drawn(
    sets: ImageSets, items: Int[Array, " set"], *, kind: int, samples: Int[Array, " set"], epoch: int
) -> SetDraw:
    """Take pairs of one kind as they are: the first image is the anchor, the second counts as another source's."""
    return SetDraw(
        chips=sets.chips[sets.bounds[items][:, None] + np.arange(2)],
        same_source=np.tile([True, False], (len(items), 1)),
        first_slot=np.zeros(len(items), dtype=np.int64),
        partnered=True,
        samples=samples,
        items=items,
        kind=kind,
        grid=sets.pair_grids[kind],
        epoch=epoch,
    )


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

    def read(
        self, opened: ts.TensorStore, rows: Int[Array, " chip"], out: Num[Array, "chip ..."]
    ) -> Callable[[], None]:
        """Begin to read rows of an array of the store into memory; see `ChipStore.read`."""
        numbers = rows // _chips_per_shard(opened)
        with self._lock:
            held = {int(number): self._shards.get((id(opened), int(number))) for number in np.unique(numbers)}

        def finish() -> None:
            target, writing = ts.array(out, copy=False), []
            for number, shard in held.items():
                source = opened if shard is None else shard.array()
                where = np.flatnonzero(numbers == number)
                writing.append(target[where].write(source[rows[where]]))
            for one in writing:
                one.result()

        return finish

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
    metadata: dict[str, Array] | None
    """What `chip_metadata` gives; None: nothing was looked up."""


def read_sets(store: ChipStore, draw: SetDraw, *, shards: OpenShards | None = None, metadata: bool = True) -> RawSets:
    """Read the sets of a draw, the images of each array in one go. `shards` are in memory already; without metadata, as
    for pairs, each slot is of one array."""
    infos, numbers = list(store.arrays.values()), store.array_numbers[draw.chips]
    num_slots = draw.chips.shape[1]
    if metadata:
        # Which images, counted over sets and slots, are of each array.
        parts = [(array, np.flatnonzero(numbers.ravel() == array)) for array in np.unique(numbers).tolist()]
    else:
        parts = [(array, np.arange(slot, numbers.size, num_slots)) for slot, array in enumerate(numbers[0].tolist())]
    groups = []
    for array, images in parts:
        info, rows = infos[array], store.array_rows[draw.chips.ravel()[images]]
        shape = (len(rows), len(info.bands), info.height, info.width)
        # Where there is a GPU, chips are decoded straight into memory that it reads by itself.
        pixels = torch.empty(shape, dtype=getattr(torch, info.dtype), pin_memory=torch.cuda.is_available())
        how = {} if shards is None else {"how": shards.read}
        _, valid = store.read(info.name, rows, out=pixels.numpy(), **how)
        known = None if valid is None else torch.from_numpy(valid)
        sets = images // num_slots if metadata else None
        groups.append(RawImages(array=info.name, pixels=pixels, valid=known, sets=sets))
    if not metadata:
        return RawSets(groups=tuple(groups), rows=None, draw=draw, metadata=None)
    order = np.argsort(np.concatenate([images for _, images in parts])).reshape(draw.chips.shape)
    return RawSets(groups=tuple(groups), rows=order, draw=draw, metadata=chip_metadata(store, draw.chips))


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
    announced = draws if expect is None else _announced(draws, expect)
    if workers == 0:
        yield from map(read, announced)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="anyband-batch")
    waiting: deque[Future[RawT]] = deque()
    try:
        for drawn in announced:
            waiting.append(pool.submit(read, drawn))
            if len(waiting) > workers * _BATCHES_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _announced(draws: Iterable[DrawnT], expect: Callable[[DrawnT], None]) -> Iterator[DrawnT]:
    ahead: deque[DrawnT] = deque()
    for drawn in draws:
        expect(drawn)
        ahead.append(drawn)
        if len(ahead) > _BATCHES_AHEAD:
            yield ahead.popleft()
    yield from ahead
