"""Pairs and sets of images of one place, drawn without state."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np

from anyband.arrays import Array, Bool, Int
from anyband.data.chip_index import Split
from anyband.data.resample import coarser_grid
from anyband.data.sampler import (
    UNKNOWN_TIME,
    Footprints,
    Rounds,
    ShardLanes,
    are_apart,
    check_corners,
    check_sensors,
    chip_times,
    find_footprints,
    most_with_each,
    room_left,
)
from anyband.data.store import ChipStore
from anyband.errors import RecipeError, StoreError
from anyband.randomness import generator

__all__ = [
    "ImageSets",
    "PairPlan",
    "PairSampler",
    "Pairs",
    "SetDraw",
    "SetOptions",
    "SetSampler",
    "find_pairs",
    "find_sets",
]

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


@dataclass(frozen=True, kw_only=True)
class SetOptions:
    """Which images of a footprint may be drawn together. The defaults are A²-MAE's: three images, any dates."""

    size: tuple[int, int] = (3, 3)
    """Least and most images of a set; a batch draws how many, evenly. Footprints with fewer train with what they
    have."""
    gap_days: float = 0.0
    """Images of one source are at least so far apart. Over 0, an unknown time is apart from nothing."""
    needs_two_sources: bool = False
    """Whether footprints that only one sensor saw are left out."""
    sensors: tuple[str, ...] | None = None
    """Sensors whose images may be drawn; None: all."""

    def __post_init__(self) -> None:
        least, most = self.size
        if not 1 <= least <= most:
            raise RecipeError(f"the size of sets needs 1 <= least <= most, found {least} to {most}")
        if not (math.isfinite(self.gap_days) and self.gap_days >= 0):
            raise RecipeError(f"gap_days must be a number of days from 0, found {self.gap_days:g}")
        if self.needs_two_sources and most < 2:
            raise RecipeError("sets of one image have one source; let their size reach 2, or drop needs_two_sources")


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Footprints of a store with the images that may be drawn. Footprint k is images `bounds[k]` to `bounds[k + 1]`."""

    options: SetOptions
    """What may be drawn together."""
    bounds: Int[Array, " bound"]
    """Where each footprint begins, and the end of the last."""
    chips: Int[Array, " image"]
    """Row of the store's index. The images of a footprint stand by time, unknown last, then by row."""
    sources: Int[Array, " image"]
    """Number of the image's sensor."""
    time_us: Int[Array, " image"]
    """Microseconds since 1970; `UNKNOWN_TIME` where not known."""
    capacity: Int[Array, " footprint"]
    """Images that can be drawn of each footprint whatever the anchor, at most the most that are asked for."""
    has_partner: Bool[Array, " footprint"]
    """Whether the footprint has a second source."""
    arrays: tuple[str, ...]
    """Arrays of the store that the images are in."""
    grid: tuple[int, int]
    """Fewest rows and columns of all these arrays: what crops are aligned to, whatever is in a batch."""

    def __len__(self) -> int:
        """Count the footprints."""
        return len(self.capacity)

    def images(self, footprint: int) -> slice:
        """Tell where the images of a footprint stand."""
        return slice(int(self.bounds[footprint]), int(self.bounds[footprint + 1]))


@dataclass(frozen=True, kw_only=True)
class SetDraw:
    """What one batch holds: sets of equally many images, all with a partner or all without."""

    chips: Int[Array, "set slot"]
    """Rows of the store's index. Slot 0 is the anchor, slot 1 the partner."""
    same_source: Bool[Array, "set slot"]
    """Whether an image is of the anchor's source; True in slot 0."""
    first_slot: Int[Array, " set"]
    """Slot of the image that comes first in the footprint: by time, unknown last, then by row."""
    partnered: bool
    """Whether slot 1 is of another source, in every set; False: in none."""
    samples: Int[Array, " set"]
    """Identities of what is drawn: another for each time that a footprint passes."""
    footprints: Int[Array, " set"]
    """Positions in `ImageSets`."""
    epoch: int
    """Epoch of the batch, from 0."""

    def part(self, which: slice) -> "SetDraw":
        """Take some of the sets."""
        return SetDraw(
            chips=self.chips[which],
            same_source=self.same_source[which],
            first_slot=self.first_slot[which],
            partnered=self.partnered,
            samples=self.samples[which],
            footprints=self.footprints[which],
            epoch=self.epoch,
        )


def find_sets(store: ChipStore, options: SetOptions | None = None, *, split: Split | None = "train") -> ImageSets:
    """Find the footprints of a store and how many images can be drawn of each.

    Args:
        store: to look in.
        options: which images may be drawn together; None: the defaults.
        split: of the places; None: all.

    Returns:
        The footprints, ordered by place and cell.

    Raises:
        StoreError: the store lacks a sensor, has no footprint that can be used, or one that lies off the globe.
    """
    options = options or SetOptions()
    check_sensors(store, options.sensors or ())
    found = find_footprints(store, split=split, sensors=options.sensors)
    if not len(found):
        of = f" of {', '.join(options.sensors)}" if options.sensors is not None else ""
        raise StoreError(f"no image{of} is in {_where(store, split)}; `anyband prepare --show` lists what it has")
    check_corners(store, found.chips)
    return _sets(store, found, options, split)


class SetSampler:
    """Batches of sets of one kind each, in rounds (see `Rounds`): a pure function of (seed, step).

    Footprints of one kind can draw equally many images and all have a partner, or all none. How many images are drawn
    is the same for a batch; which, is a function of (seed, step, sample).
    """

    def __init__(self, sets: ImageSets, *, batch_size: int, seed: int, lanes: ShardLanes | None = None) -> None:
        """Plan the batches.

        Args:
            sets: to draw from.
            batch_size: sets a batch.
            seed: of the draws.
            lanes: shards of the footprints, to read one after the other; None: any footprint may follow any other.
        """
        self._sets = sets
        self._seed = seed
        kinds = np.stack([sets.capacity, sets.has_partner], axis=1)
        self._kinds, numbers = np.unique(kinds, axis=0, return_inverse=True)
        self._rounds = Rounds(numbers.reshape(-1), batch_size=batch_size, seed=seed, noun="sets", lanes=lanes)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self._rounds.steps_per_epoch

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        drawn = self._rounds.batch(step)
        capacity, has_partner = self._kinds[drawn.kind].tolist()
        size = self._size(step, capacity)
        samples = drawn.items + drawn.passed * len(self._sets)
        picked = np.array(
            [
                self._draw(int(footprint), size, step=step, sample=int(sample))
                for footprint, sample in zip(drawn.items, samples, strict=True)
            ]
        )
        sources = self._sets.sources[picked]
        return SetDraw(
            chips=self._sets.chips[picked],
            same_source=sources == sources[:, :1],
            first_slot=np.argmin(picked, axis=1),
            partnered=bool(has_partner) and size > 1,
            samples=samples,
            footprints=drawn.items,
            epoch=drawn.epoch,
        )

    def _size(self, step: int, capacity: int) -> int:
        """Draw how many images each set of a batch has."""
        least, most = self._sets.options.size
        highest = min(most, capacity)
        lowest = min(least, highest)
        return int(generator(self._seed, step=step, sample=0, purpose="size of sets").integers(lowest, highest + 1))

    def _draw(self, footprint: int, size: int, *, step: int, sample: int) -> list[int]:
        """Draw the images of a set, anchor first, then the partner: positions in `ImageSets.chips`."""
        where = self._sets.images(footprint)
        order = generator(self._seed, step=step, sample=sample, purpose="images of sets")
        shuffled = order.permutation(where.stop - where.start)
        picking = _Picking(
            sources=self._sets.sources[where].tolist(),
            times_us=self._sets.time_us[where].tolist(),
            gap_us=_gap_us(self._sets.options),
            size=size,
        )
        return [where.start + image for image in picking.pick(shuffled.tolist())]


class _Picking:
    """Picks images of one footprint in a random order, so that the size is always reached."""

    def __init__(self, *, sources: list[int], times_us: list[int], gap_us: int, size: int) -> None:
        self._sources = sources
        self._times_us = times_us
        self._gap_us = gap_us
        self._size = size
        self._times_of: dict[int, list[int]] = {}
        for source, time in zip(sources, times_us, strict=True):
            self._times_of.setdefault(source, []).append(time)
        self._taken: dict[int, list[int]] = {source: [] for source in self._times_of}
        self._room = {source: self._room_of(source, []) for source in self._times_of}

    def pick(self, order: Sequence[int]) -> list[int]:
        """Take the first that fits, again and again; the second is of another source if there is one."""
        picked: list[int] = []
        while len(picked) < self._size:
            left = [image for image in order if image not in picked]
            if len(picked) == 1 and len(self._times_of) > 1:
                left = [image for image in left if self._sources[image] != self._sources[picked[0]]]
            missing = self._size - len(picked) - 1
            picked.append(next(image for image in left if self._try(image, missing)))
        return picked

    def _try(self, image: int, missing: int) -> bool:
        """Take an image, unless it is too near to one taken or leaves no room for those that are still missing."""
        source, time = self._sources[image], self._times_us[image]
        if not all(are_apart(time, other, self._gap_us) for other in self._taken[source]):
            return False
        taken = sorted([*self._taken[source], time])
        room = self._room_of(source, taken)
        if sum(self._room.values()) - self._room[source] + room < missing:
            return False
        self._taken[source], self._room[source] = taken, room
        return True

    def _room_of(self, source: int, taken_us: list[int]) -> int:
        return room_left(self._times_of[source], taken_us, self._gap_us)


def _sets(store: ChipStore, found: Footprints, options: SetOptions, split: Split | None) -> ImageSets:
    names = store.index.column("sensor").to_pylist()
    number = {name: position for position, name in enumerate(store.sensors)}
    sources = np.array([number[names[row]] for row in found.chips], dtype=np.int64)
    time_us = chip_times(store)[found.chips]
    parts = [slice(start, stop) for start, stop in pairwise(found.bounds.tolist())]
    has_partner = np.array([bool((sources[part] != sources[part.start]).any()) for part in parts])
    if options.needs_two_sources:
        _check_two_sources(store, has_partner, split)
        parts = [part for part, kept in zip(parts, has_partner, strict=True) if kept]
        has_partner = has_partner[has_partner]
    images = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    arrays = _arrays(store, found.chips[images])
    infos = [store.arrays[name] for name in arrays]
    return ImageSets(
        options=options,
        bounds=np.cumsum([0, *(part.stop - part.start for part in parts)]),
        chips=found.chips[images],
        sources=sources[images],
        time_us=time_us[images],
        capacity=np.array([_capacity(sources[part], time_us[part], options) for part in parts], dtype=np.int64),
        has_partner=has_partner,
        arrays=arrays,
        grid=coarser_grid(*((info.height, info.width) for info in infos)),
    )


def _capacity(sources: Int[Array, " image"], time_us: Int[Array, " image"], options: SetOptions) -> int:
    """Count the images that can be drawn whatever the anchor: the anchor's source has to go on from it."""
    gap_us = _gap_us(options)
    with_each = [most_with_each(time_us[sources == source], gap_us) for source in np.unique(sources)]
    most = sum(max(counts) for counts in with_each)
    least = min(most - max(counts) + min(counts) for counts in with_each)
    return min(least, options.size[1])


def _gap_us(options: SetOptions) -> int:
    # Any part of a microsecond counts: two images at one time are apart only where the gap is zero.
    return math.ceil(options.gap_days * _DAY_US)


def _check_two_sources(store: ChipStore, has_partner: Bool[Array, " footprint"], split: Split | None) -> None:
    if not has_partner.any():
        raise StoreError(
            f"all {len(has_partner)} footprints in {_where(store, split)} have images of one sensor only, and sets are "
            "to have two (data.sets.needs_two_sources): prepare images of another sensor of the same places, or turn "
            "it off"
        )


def _arrays(store: ChipStore, chips: Int[Array, " image"]) -> tuple[str, ...]:
    used = set(store.index.column("array").take(chips).to_pylist())
    return tuple(name for name in store.arrays if name in used)


def _where(store: ChipStore, split: Split | None) -> str:
    return f"split '{split}' of store '{store.path}'" if split else f"store '{store.path}'"
