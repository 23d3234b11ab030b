"""Which samples pass in which order."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyband.arrays import Array, Bool, Float, Int, Shaped
from anyband.data.chip_index import Split
from anyband.data.store import ChipStore
from anyband.errors import StoreError, nearest_name
from anyband.randomness import permutation

__all__ = [
    "UNKNOWN_TIME",
    "Footprints",
    "ImageFacts",
    "RoundBatch",
    "Rounds",
    "ShardLanes",
    "ShuffleQuality",
    "are_apart",
    "check_corners",
    "check_sensors",
    "chip_times",
    "find_footprints",
    "full_shuffle_quality",
    "image_facts",
    "lane_of",
    "most_with_each",
    "room_left",
    "shuffle_quality",
]


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """How the samples of shards are spread."""

    shards_per_batch: float
    """Different shards in a batch, on average."""
    same_shard: float
    """Share of all pairs of two samples of a batch that are of one shard. The more samples of one shard resemble each
    other, the more a batch of many such pairs says the same thing several times."""
    spread: float
    """Mean distance of two samples of one shard in the order, as a share of its length; ⅓ where any sample may follow
    any other."""


def shuffle_quality(shards: Int[Array, " place"], *, batch_size: int) -> ShuffleQuality:
    """Measure an order.

    Args:
        shards: of the samples, in the order in which they pass; at least one whole batch.
        batch_size: samples of a batch; what does not fill the last one is in no batch.
    """
    batches = shards[: len(shards) // batch_size * batch_size].reshape(-1, batch_size)
    counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
    same = [float((count * (count - 1)).sum()) for count in counts]
    return ShuffleQuality(
        shards_per_batch=float(np.mean([len(count) for count in counts])),
        same_shard=float(np.mean(same)) / max(1, batch_size * (batch_size - 1)),
        spread=_mean_distance(shards) / len(shards),
    )


def full_shuffle_quality(shards: Int[Array, " item"], *, batch_size: int) -> ShuffleQuality:
    """Tell what an order has on average in which any sample may follow any other.

    Args:
        shards: of the samples; at least two, and at least a batch.
        batch_size: samples of a batch.
    """
    total = len(shards)
    counts = np.unique(shards, return_counts=True)[1].astype(np.float64)
    # A shard is in no sample of a batch with the probability that all of them are drawn from the others.
    drawn = np.arange(batch_size)
    absent = np.prod(np.clip(total - counts[:, None] - drawn, 0, None) / (total - drawn), axis=1)
    return ShuffleQuality(
        shards_per_batch=float((1 - absent).sum()),
        same_shard=float((counts * (counts - 1)).sum()) / (total * (total - 1)),
        spread=(total + 1) / 3 / total,
    )


def _mean_distance(shards: Int[Array, " place"]) -> float:
    """Average the distance of two samples of one shard over all such pairs."""
    order = np.argsort(shards, kind="stable")
    _, first, counts = np.unique(shards[order], return_index=True, return_counts=True)
    rank = np.arange(len(shards)) - np.repeat(first, counts)
    # In sorted places x0 ≤ x1 ≤ … of k, xi is the later of a pair i times and the earlier one k − 1 − i times.
    weights = 2 * rank - np.repeat(counts, counts) + 1
    num_pairs = float((counts * (counts - 1) // 2).sum())
    return float((order * weights).sum()) / num_pairs if num_pairs else 0.0


@dataclass(frozen=True, kw_only=True)
class ShardLanes:
    """Which things stand in one shard, and how many shards are mixed at any time."""

    shards: Int[Array, " item"]
    """Number of the shard of each thing."""
    count: int
    """Lanes, at least one; fewer are used where there are fewer shards."""

    def deal(
        self, items: Int[Array, " place"], *, first: int, batch_size: int, seed: int, purpose: str, number: int
    ) -> Int[Array, " place"]:
        """Deal the things of a round to the places of its batches. Each thing stands in the result once.

        Args:
            items: the things, in an order drawn for the round; those of one shard keep it.
            first: place of the round's first thing, counted over all rounds.
            batch_size: places of a batch.
            seed: of the order of the shards.
            purpose: of that draw.
            number: of the round.
        """
        names, shards = np.unique(self.shards[items], return_inverse=True)
        rank = permutation(seed, step=number, purpose=purpose, size=len(names))
        listed = items[np.argsort(rank[shards], kind="stable")]
        lanes = lane_of(first + np.arange(len(items)), batch_size=batch_size, num_lanes=min(self.count, len(names)))
        dealt = np.empty_like(listed)
        dealt[np.argsort(lanes, kind="stable")] = listed
        return dealt

    def of(self, items: Int[Array, " chosen"]) -> "ShardLanes":
        """Keep some of the things, which get new numbers from 0."""
        return ShardLanes(shards=self.shards[items], count=self.count)


def lane_of(places: Int[Array, " place"], *, batch_size: int, num_lanes: int) -> Int[Array, " place"]:
    """Tell which lane serves each place. In a batch lanes ascend; each lane serves equally many places, or one more.

    Where a batch has fewer places than there are lanes, each place has neighbouring lanes that take turns.

    Args:
        places: counted over all batches, from 0.
        batch_size: places of a batch.
        num_lanes: lanes, at least one.
    """
    batches, positions = np.divmod(places, batch_size)
    lowest = positions * num_lanes // batch_size
    after = (positions + 1) * num_lanes // batch_size
    return np.asarray(lowest + batches % np.maximum(after - lowest, 1))


@dataclass(frozen=True, kw_only=True)
class RoundBatch:
    """What one batch holds."""

    items: Int[Array, " sample"]
    """Numbers of the things."""
    passed: Int[Array, " sample"]
    """How often each of them passed before."""
    kind: int
    """The kind of them all."""
    epoch: int
    """Epoch of the batch, from 0."""


class Rounds:
    """Batches of one kind each. The things of a kind pass in rounds, each once a round, in an order drawn anew.

    Batches are cut from that stream, so what does not fill the last batch of a round opens the next. A kind with fewer
    things than a batch passes several times in one.
    """

    def __init__(
        self, kinds: Int[Array, " item"], *, batch_size: int, seed: int, noun: str, lanes: ShardLanes | None = None
    ) -> None:
        """Plan the batches.

        Args:
            kinds: of each thing, from 0; at least one.
            batch_size: things a batch.
            seed: of the orders.
            noun: what the things are called, for example `pairs`: other names are other orders.
            lanes: shards to read one after the other; None: any thing may follow any other.
        """
        self._batch_size = batch_size
        self._seed = seed
        self._noun = noun
        self._lanes = lanes
        self._items_of_kind = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max(initial=-1)) + 1)]
        counts = [len(items) for items in self._items_of_kind]
        # An epoch has about as many batches of a kind as the kind fills, at least one.
        self._batches_of_kind = [max(1, round(count / batch_size)) if count else 0 for count in counts]
        # Orders are asked for once a step; keeping a few does not change any answer.
        self._kinds = lru_cache(maxsize=2)(self._draw_kinds)
        self._round = lru_cache(maxsize=2 * len(counts))(self._draw_round)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return sum(self._batches_of_kind)

    def batch(self, step: int) -> RoundBatch:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        kinds = self._kinds(epoch)
        kind = int(kinds[position])
        number = epoch * self._batches_of_kind[kind] + int(np.count_nonzero(kinds[:position] == kind))
        passed = number * self._batch_size + np.arange(self._batch_size)
        rounds, places = np.divmod(passed, len(self._items_of_kind[kind]))
        items = np.array([self._round(kind, int(r))[p] for r, p in zip(rounds, places, strict=True)])
        return RoundBatch(items=items, passed=rounds, kind=kind, epoch=epoch)

    def _draw_kinds(self, epoch: int) -> Array:
        kinds = np.repeat(np.arange(len(self._batches_of_kind)), self._batches_of_kind)
        # The purposes are part of every run that was: another word is another order.
        purpose = "order of batches" if self._noun == "pairs" else f"order of batches of {self._noun}"
        order = permutation(self._seed, step=epoch, purpose=purpose, size=len(kinds))
        return np.asarray(kinds[order])

    def _draw_round(self, kind: int, number: int) -> Array:
        items = self._items_of_kind[kind]
        order = permutation(self._seed, step=number, purpose=f"order of {self._noun} {kind}", size=len(items))
        if self._lanes is None:
            return np.asarray(items[order])
        return self._lanes.deal(
            items[order],
            first=number * len(items),
            batch_size=self._batch_size,
            seed=self._seed,
            purpose=f"order of shards of {self._noun} {kind}",
            number=number,
        )


UNKNOWN_TIME = int(np.iinfo(np.int64).max)
"""Stands for a time that is not known, so that it sorts last."""

# A polygon of one ring of five points: byte order, three counts, ten numbers. Source: OGC 06-103r4, section 8.2.
_WKB_HEADER, _WKB_BYTES = [3, 1, 5], 93
_NOT_A_TIME = int(np.datetime64("NaT", "us").astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class Footprints:
    """Chips grouped by footprint, that is, by (place, cell), and in each by time, unknown last, then row."""

    chips: Int[Array, " image"]
    """Rows of the store's index."""
    bounds: Int[Array, " bound"]
    """Footprint k is `chips[bounds[k]:bounds[k + 1]]`."""

    def __len__(self) -> int:
        """Count the footprints."""
        return len(self.bounds) - 1


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is known of each image of some sets beside its pixels."""

    corners_deg: Float[Array, "set slot 4 2"]
    """Longitude and latitude of the corners of the chip's array: upper left, upper right, lower right, lower left.
    NaN: unknown."""
    gsd_m: Float[Array, "set slot"]
    """Ground sampling distance of its pixels, metres. NaN: unknown."""
    shape_px: Int[Array, "set slot 2"]
    """Rows and columns of the chip."""
    time: Shaped[Array, "set slot"]
    """When it was taken, `datetime64[us]` in UTC. NaT: unknown."""


def check_sensors(store: ChipStore, names: Iterable[str]) -> None:
    """See that a store has all sensors.

    Raises:
        StoreError: it lacks one.
    """
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
    """Group the chips of a store by footprint, ordered by place and cell.

    Args:
        store: to look in.
        split: of the places; None: all.
        sensors: whose chips count; None: all.
    """
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


def image_facts(store: ChipStore, chips: Int[Array, "set slot"]) -> ImageFacts:
    """Look up what the index knows of some chips.

    Args:
        store: that they are in.
        chips: rows of its index.

    Raises:
        StoreError: a footprint is no quadrilateral, or reaches outside longitudes ±180 and latitudes ±90.
    """
    rows = chips.ravel()
    taken = store.index.select(["array", "geometry", "gsd_m", "datetime"]).take(pa.array(rows))
    infos = [store.arrays[name] for name in taken.column("array").to_pylist()]
    shapes = taken.column("geometry").to_pylist()
    corners = [_corners(store, int(row), wkb) for row, wkb in zip(rows, shapes, strict=True)]
    gsd_m = np.array(taken.column("gsd_m").to_numpy(), dtype=np.float64)
    time_us = taken.column("datetime").cast("int64").fill_null(_NOT_A_TIME).to_numpy()
    return ImageFacts(
        corners_deg=np.array(corners, dtype=np.float64).reshape(*chips.shape, 4, 2),
        gsd_m=gsd_m.reshape(chips.shape),
        shape_px=np.array([(info.height, info.width) for info in infos], dtype=np.int64).reshape(*chips.shape, 2),
        time=np.asarray(time_us, dtype="datetime64[us]").reshape(chips.shape),
    )


def check_corners(store: ChipStore, chips: Int[Array, " image"]) -> None:
    """See before a run that its chips lie on the globe, which `image_facts` would find in the middle of it.

    Raises:
        StoreError: a chip does not.
    """
    geo = json.loads((store.index.schema.metadata or {}).get(b"geo", b"{}"))
    west, south, east, north = geo.get("columns", {}).get("geometry", {}).get("bbox", (-180, -90, 180, 90))
    # The index says what all its chips cover together; each is looked at only where that is too much.
    if west < -180 or south < -90 or east > 180 or north > 90:
        image_facts(store, chips[:, None])


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


def are_apart(a_us: int, b_us: int, gap_us: int) -> bool:
    """Tell whether two images of one source may be taken together. An unknown time is apart only without a gap."""
    return gap_us == 0 or (UNKNOWN_TIME not in (a_us, b_us) and abs(a_us - b_us) >= gap_us)


def most_with_each(times_us: Int[Array, " image"], gap_us: int) -> list[int]:
    """Count, for each image of one source, the most that can be taken together with it, itself included.

    Images that are taken together are pairwise apart, see `are_apart`.

    Args:
        times_us: in order, unknown ones last.
        gap_us: least time between two images.
    """
    count = len(times_us)
    if gap_us == 0:
        return [count] * count
    known = [time for time in times_us.tolist() if time != UNKNOWN_TIME]
    forwards = _longest_ending(known, gap_us)
    backwards = _longest_ending([-time for time in reversed(known)], gap_us)[::-1]
    return [a + b - 1 for a, b in zip(forwards, backwards, strict=True)] + [1] * (count - len(known))


def room_left(times_us: Sequence[int], taken_us: Sequence[int], gap_us: int) -> int:
    """Count the most images of one source that can be taken beside those that are.

    Args:
        times_us: of all images of the source, in order, unknown ones last.
        taken_us: of those that are taken, in order; pairwise far enough apart.
        gap_us: least time between two images.
    """
    if gap_us == 0:
        return len(times_us) - len(taken_us)
    known = times_us[: bisect_left(times_us, UNKNOWN_TIME)]
    if not taken_us:
        return max(_greedy(known, gap_us), min(1, len(times_us)))
    if UNKNOWN_TIME in taken_us:
        return 0
    lows = [0, *(bisect_left(known, time + gap_us) for time in taken_us)]
    highs = [*(bisect_right(known, time - gap_us) for time in taken_us), len(known)]
    return sum(_greedy(known[low:high], gap_us) for low, high in zip(lows, highs, strict=True))


def _greedy(times_us: Sequence[int], gap_us: int) -> int:
    """Take the earliest that is far enough from the last one taken: nothing takes more."""
    count, position = 0, 0
    while position < len(times_us):
        count += 1
        position = bisect_left(times_us, times_us[position] + gap_us, position + 1)
    return count


def _longest_ending(times_us: Sequence[int], gap_us: int) -> list[int]:
    """Count, for each image, the most of it and earlier ones that are pairwise apart."""
    longest: list[int] = []
    for position, time in enumerate(times_us):
        before = bisect_right(times_us, time - gap_us, 0, position)
        # Later images end chains that are no shorter, so the last one before the gap ends the longest.
        longest.append(1 + (longest[before - 1] if before else 0))
    return longest
