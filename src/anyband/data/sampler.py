"""Which samples pass in which order, and what the index of a store knows of their chips."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyband.arrays import Array, Bool, Float, Int, Shaped
from anyband.data.store import ChipStore, Split
from anyband.errors import StoreError, nearest_name
from anyband.randomness import permutation

__all__ = [
    "UNKNOWN_TIME",
    "BatchOrder",
    "ChipMetadata",
    "Footprints",
    "ShardShuffle",
    "check_corners",
    "check_sensors",
    "chip_metadata",
    "chip_times",
    "find_footprints",
    "open_shard_of",
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
    """

    def __init__(
        self,
        kinds: Int[Array, " sample"],
        *,
        batch_size: int,
        seed: int,
        noun: str,
        shuffle: ShardShuffle | None = None,
    ) -> None:
        self._batch_size = batch_size
        self._seed = seed
        self._noun = noun
        self._shuffle = shuffle
        self._of_kind = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max(initial=-1)) + 1)]
        counts = [len(samples) for samples in self._of_kind]
        # An epoch has about as many batches of a kind as the kind fills, at least one.
        self._batches_of_kind = [max(1, round(count / batch_size)) if count else 0 for count in counts]
        # Orders are asked for once a step; keeping a few does not change any answer.
        self._kinds = lru_cache(maxsize=2)(self._draw_kinds)
        self._epoch = lru_cache(maxsize=2 * len(counts))(self._draw_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return sum(self._batches_of_kind)

    def batch(self, step: int) -> tuple[Int[Array, " place"], Int[Array, " place"], int, int]:
        """Tell the samples of a step's batch, how often each passed before, their kind, and the epoch, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        kinds = self._kinds(epoch)
        kind = int(kinds[position])
        number = epoch * self._batches_of_kind[kind] + int(np.count_nonzero(kinds[:position] == kind))
        stream = number * self._batch_size + np.arange(self._batch_size)
        passed, places = np.divmod(stream, len(self._of_kind[kind]))
        samples = np.array([self._epoch(kind, int(p))[place] for p, place in zip(passed, places, strict=True)])
        return samples, passed, kind, epoch

    def _draw_kinds(self, epoch: int) -> Array:
        kinds = np.repeat(np.arange(len(self._batches_of_kind)), self._batches_of_kind)
        # The purposes are part of every run that was: another word is another order.
        purpose = "order of batches" if self._noun == "pairs" else f"order of batches of {self._noun}"
        order = permutation(self._seed, step=epoch, purpose=purpose, size=len(kinds))
        return np.asarray(kinds[order])

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


UNKNOWN_TIME = int(np.iinfo(np.int64).max)
"""Stands for a time that is not known, so that it sorts last."""

# A polygon of one ring of five points: byte order, three counts, ten numbers. Source: OGC 06-103r4, section 8.2.
_WKB_HEADER, _WKB_BYTES = [3, 1, 5], 93
_NOT_A_TIME = int(np.datetime64("NaT", "us").astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """Chips grouped by footprint, and in each by time, unknown last, then row."""

    chips: Int[Array, " image"]
    bounds: Int[Array, " bound"]
    """Footprint k is `chips[bounds[k]:bounds[k + 1]]`."""

    def __len__(self) -> int:
        return len(self.bounds) - 1


@dataclass(frozen=True, kw_only=True)
class ChipMetadata:
    """What is known of each image of some sets beside its pixels."""

    corners_deg: Float[Array, "set slot 4 2"]
    """(longitude, latitude) of the chip's upper left, upper right, lower right, lower left corner. NaN: unknown."""
    gsd_m: Float[Array, "set slot"]
    """Of its pixels. NaN: unknown."""
    shape_px: Int[Array, "set slot 2"]
    """Rows and columns."""
    time: Shaped[Array, "set slot"]
    """UTC, `datetime64[us]`. NaT: unknown."""


def check_sensors(store: ChipStore, names: Iterable[str]) -> None:
    """See that a store has all sensors; `StoreError` where it lacks one."""
    for name in names:
        if name not in store.sensors:
            raise StoreError(
                f"sensor '{name}' is not in store '{store.path}' ({', '.join(store.sensors)})"
                f"{nearest_name(name, store.sensors)}"
            )


def chip_times(store: ChipStore) -> Int[Array, " chip"]:
    """Give the time of each chip of the index in microseconds since 1970, `UNKNOWN_TIME` where it is not known."""
    known = store.index.column("datetime").cast("int64").fill_null(UNKNOWN_TIME)
    return np.asarray(known.to_numpy(), dtype=np.int64)


def find_footprints(store: ChipStore, *, split: Split | None, sensors: Iterable[str] | None = None) -> Footprints:
    """Group the chips of a store by footprint, ordered by place and position on its grid; None: all."""
    places, cells = _ranks(store.index.column("place")), _ranks(store.index.column("cell"))
    wanted = np.ones(store.index.num_rows, dtype=bool)
    if split is not None:
        wanted &= _is_any(store.index.column("split"), [split])
    if sensors is not None:
        wanted &= _is_any(store.index.column("sensor"), list(sensors))
    rows = np.flatnonzero(wanted)
    rows = rows[np.lexsort((rows, chip_times(store)[rows], cells[rows], places[rows]))]
    is_new = (np.diff(places[rows], prepend=-1) != 0) | (np.diff(cells[rows], prepend=-1) != 0)
    return Footprints(chips=rows, bounds=np.append(np.flatnonzero(is_new), len(rows)))


def chip_metadata(store: ChipStore, chips: Int[Array, "set slot"]) -> ChipMetadata:
    """Look up what the index knows of some chips, by their rows. `StoreError` where a footprint is no quadrilateral, or
    reaches outside longitudes ±180 and latitudes ±90."""
    rows = chips.ravel()
    taken = store.index.select(["array", "geometry", "gsd_m", "datetime"]).take(pa.array(rows))
    infos = [store.arrays[name] for name in taken.column("array").to_pylist()]
    shapes = taken.column("geometry").to_pylist()
    corners = [_corners(store, int(row), wkb) for row, wkb in zip(rows, shapes, strict=True)]
    gsd_m = np.array(taken.column("gsd_m").to_numpy(), dtype=np.float64)
    time_us = taken.column("datetime").cast("int64").fill_null(_NOT_A_TIME).to_numpy()
    return ChipMetadata(
        corners_deg=np.array(corners, dtype=np.float64).reshape(*chips.shape, 4, 2),
        gsd_m=gsd_m.reshape(chips.shape),
        shape_px=np.array([(info.height, info.width) for info in infos], dtype=np.int64).reshape(*chips.shape, 2),
        time=np.asarray(time_us, dtype="datetime64[us]").reshape(chips.shape),
    )


def check_corners(store: ChipStore, chips: Int[Array, " image"]) -> None:
    """See before a run that its chips lie on the globe, which `chip_metadata` would find in the middle of it."""
    geo = json.loads((store.index.schema.metadata or {}).get(b"geo", b"{}"))
    west, south, east, north = geo.get("columns", {}).get("geometry", {}).get("bbox", (-180, -90, 180, 90))
    # The index says what all its chips cover together; each is looked at only where that is too much.
    if west < -180 or south < -90 or east > 180 or north > 90:
        chip_metadata(store, chips[:, None])


def _ranks(column: pa.ChunkedArray) -> Int[Array, " chip"]:
    """Number the words of a column in their own order."""
    coded = column.combine_chunks().dictionary_encode()
    words = coded.dictionary.to_pylist()
    rank = np.empty(len(words), dtype=np.int64)
    rank[sorted(range(len(words)), key=words.__getitem__)] = np.arange(len(words))
    return np.asarray(rank[coded.indices.to_numpy()])


def _is_any(column: pa.ChunkedArray, words: list[str]) -> Bool[Array, " chip"]:
    return np.asarray(pc.is_in(column, value_set=pa.array(words, type=pa.string())).to_numpy(), dtype=bool)


def _corners(store: ChipStore, row: int, wkb: bytes | None) -> Float[Array, "4 2"]:
    """Read a polygon that `prepare` wrote: its ring begins at the upper left corner and goes to the right."""
    if wkb is None:
        return np.full((4, 2), np.nan)
    order = "<" if wkb[:1] == b"\x01" else ">"
    if len(wkb) != _WKB_BYTES or np.frombuffer(wkb, f"{order}u4", 3, offset=1).tolist() != _WKB_HEADER:
        raise StoreError(
            f"the geometry of chip {row} of store '{store.path}' is no polygon of four corners; prepare the store again"
        )
    corners = np.frombuffer(wkb, f"{order}f8", 8, offset=13).astype(np.float64).reshape(4, 2)
    if not (np.abs(corners) <= (180.0, 90.0)).all():
        lon, lat = corners[int(np.argmax(np.max(np.abs(corners) / (180.0, 90.0), axis=1)))]
        raise StoreError(
            f"chip {row} of store '{store.path}' has a corner at longitude {lon:g}°, latitude {lat:g}°; "
            "longitudes are -180 to 180 and latitudes -90 to 90: prepare the store again from images that say so"
        )
    return corners
