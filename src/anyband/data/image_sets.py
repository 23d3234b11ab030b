"""Sets of images of one place, pairs among them, drawn without state."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Literal

import numpy as np

from anyband.arrays import Array, Bool, Int
from anyband.data.resample import coarser_grid
from anyband.data.sampler import (
    UNKNOWN_TIME,
    BatchOrder,
    Footprints,
    ShardShuffle,
    check_corners,
    check_sensors,
    chip_times,
    find_footprints,
)
from anyband.data.store import ChipStore, Split
from anyband.errors import StoreError
from anyband.randomness import generator

__all__ = [
    "ImageSets",
    "SetDraw",
    "SetSampler",
    "are_apart",
    "find_pairs",
    "find_sets",
    "most_with_each",
    "pairs_drawn",
    "room_left",
]

_DAY_US = 86_400_000_000


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Samples of a store with the images that may be drawn of each: footprints, or pairs, which are drawn whole. Sample
    k has the images `bounds[k]` to `bounds[k + 1]`."""

    size: tuple[int, int]
    """Least and most images of a set; a batch draws how many, evenly. Samples with fewer pass with what they have."""
    gap_days: float = 0.0
    """Images of one source are at least so far apart. Over 0, an unknown time is apart from nothing."""
    bounds: Int[Array, " bound"]
    chips: Int[Array, " image"]
    """Row of the store's index. The images of a footprint stand by time, unknown last, then by row."""
    sources: Int[Array, " image"]
    """Number of the image's sensor."""
    time_us: Int[Array, " image"]
    """Since 1970; `UNKNOWN_TIME` where not known."""
    capacity: Int[Array, " sample"]
    """Images that can be drawn of each whatever the anchor, at most the most that are asked for."""
    has_partner: Bool[Array, " sample"]
    """Whether there is a second source."""
    arrays: tuple[str, ...]
    grid: tuple[int, int]
    """Fewest rows and columns of all these arrays: what crops are aligned to, whatever is in a batch."""
    pair_kind: Int[Array, " sample"] | None = None
    """Of pairs: position in `pair_arrays`; None: these are footprints."""
    pair_arrays: tuple[tuple[str, str], ...] = ()
    """Of pairs: (array of a, array of b) of each kind; pairs of one kind fit one batch."""
    pair_grids: tuple[tuple[int, int], ...] = ()
    """Of pairs: what crops of each kind are aligned to."""

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.capacity)

    @property
    def are_pairs(self) -> bool:
        """Whether these are pairs."""
        return self.pair_kind is not None

    def images(self, sample: int) -> slice:
        """Tell where the images of a sample stand."""
        return slice(int(self.bounds[sample]), int(self.bounds[sample + 1]))

    def kinds(self) -> tuple[list[tuple[int, bool]], Int[Array, " sample"]]:
        """Give (images that can be drawn, whether of several sources) of the kinds that pass in epochs of their own,
        and the kind of each sample."""
        if self.pair_kind is not None:
            return [(2, True)] * len(self.pair_arrays), self.pair_kind
        found, kinds = np.unique(np.stack([self.capacity, self.has_partner], axis=1), axis=0, return_inverse=True)
        return [(int(capacity), bool(several)) for capacity, several in found], kinds.reshape(-1)

    def of(self, samples: Int[Array, " chosen"]) -> "ImageSets":
        """Keep some of the samples, which get new numbers from 0."""
        images = np.concatenate([np.arange(self.bounds[one], self.bounds[one + 1]) for one in samples])
        return replace(
            self,
            bounds=np.append(0, np.cumsum(np.diff(self.bounds)[samples])),
            chips=self.chips[images],
            sources=self.sources[images],
            time_us=self.time_us[images],
            capacity=self.capacity[samples],
            has_partner=self.has_partner[samples],
            pair_kind=None if self.pair_kind is None else self.pair_kind[samples],
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

    def part(self, which: slice) -> "SetDraw":
        """Take some of the sets."""
        return replace(
            self,
            chips=self.chips[which],
            same_source=self.same_source[which],
            first_slot=self.first_slot[which],
            samples=self.samples[which],
            items=self.items[which],
        )


def find_pairs(
    store: ChipStore, *, sensors: Sequence[tuple[str, str]] | Literal["any"], split: Split | None = "train"
) -> ImageSets:
    """Find the pairs of chips that show one footprint.

    Args:
        store: to look in.
        sensors: (sensor of a, sensor of b); equal names pair two dates. `any`: any two different ones, in store order.
        split: of the places; None: all.

    Raises:
        StoreError: the store lacks a sensor, or has no such pair.
    """
    if sensors == "any":
        sensors = list(combinations(store.sensors, 2))
    check_sensors(store, (name for pair in sensors for name in pair))
    found = [
        pair
        for chips in _chips_by_sensor(store, split)
        for first, second in sensors
        for pair in (
            combinations(chips.get(first, []), 2)
            if first == second
            else product(chips.get(first, []), chips.get(second, []))
        )
    ]
    if not found:
        kinds = ", ".join(f"{first} + {second}" for first, second in sensors)
        raise StoreError(
            f"no footprint in {_where(store, split)} has a pair of {kinds}; `anyband prepare --show` lists what it has"
        )
    return _pairs(store, np.array(found, dtype=np.int64))


def find_sets(
    store: ChipStore,
    *,
    size: tuple[int, int] = (3, 3),
    gap_days: float = 0.0,
    needs_two_sources: bool = False,
    sensors: Sequence[str] | None = None,
    split: Split | None = "train",
) -> ImageSets:
    """Find the footprints of a store, ordered by place and position on its grid, and how many images each can give.

    Args:
        store: to look in.
        size: least and most images of a set; footprints with fewer give what they have.
        gap_days: images of one source are at least so far apart. Over 0, an unknown time is apart from nothing.
        needs_two_sources: whether footprints that only one sensor saw are left out.
        sensors: whose images may be drawn; None: all.
        split: of the places; None: all.

    Raises:
        StoreError: the store lacks a sensor, has no footprint that can be used, or one that lies off the globe.
    """
    check_sensors(store, sensors or ())
    found = find_footprints(store, split=split, sensors=sensors)
    if not len(found):
        of = f" of {', '.join(sensors)}" if sensors is not None else ""
        raise StoreError(f"no image{of} is in {_where(store, split)}; `anyband prepare --show` lists what it has")
    check_corners(store, found.chips)
    return _sets(store, found, size=size, gap_days=gap_days, split=split, needs_two_sources=needs_two_sources)


class SetSampler:
    """Batches of sets of one kind each, see `BatchOrder`: a pure function of (seed, step). How many images are drawn of
    a footprint is the same for a batch; which, is a function of (seed, step, sample). Without `shuffle` any sample may
    follow any other."""

    def __init__(self, sets: ImageSets, *, batch_size: int, seed: int, shuffle: ShardShuffle | None = None) -> None:
        self._sets = sets
        self._seed = seed
        self._kinds, numbers = sets.kinds()
        noun = "pairs" if sets.are_pairs else "sets"
        self._order = BatchOrder(numbers, batch_size=batch_size, seed=seed, noun=noun, shuffle=shuffle)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return self._order.steps_per_epoch

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step holds; steps count from 0, over all epochs."""
        items, passed, kind, epoch = self._order.batch(step)
        samples = items + passed * len(self._sets)
        if self._sets.are_pairs:
            return pairs_drawn(self._sets, items, kind=kind, samples=samples, epoch=epoch)
        capacity, has_partner = self._kinds[kind]
        size = self._size(step, capacity)
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

    def _size(self, step: int, capacity: int) -> int:
        """Draw how many images each set of a batch has."""
        least, most = self._sets.size
        highest = min(most, capacity)
        lowest = min(least, highest)
        return int(generator(self._seed, step=step, sample=0, purpose="size of sets").integers(lowest, highest + 1))

    def _pick(self, item: int, size: int, *, step: int, sample: int) -> list[int]:
        """Draw the images of a set, anchor first, then the partner: positions in `ImageSets.chips`."""
        where = self._sets.images(item)
        order = generator(self._seed, step=step, sample=sample, purpose="images of sets")
        shuffled = order.permutation(where.stop - where.start)
        picking = _Picking(
            sources=self._sets.sources[where].tolist(),
            times_us=self._sets.time_us[where].tolist(),
            gap_us=_gap_us(self._sets.gap_days),
            size=size,
        )
        return [where.start + image for image in picking.pick(shuffled.tolist())]


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


def _chips_by_sensor(store: ChipStore, split: Split | None) -> Iterator[dict[str, list[int]]]:
    """Give, for each footprint of the split, sensor → its chips by time."""
    sensors = store.index.column("sensor").to_pylist()
    footprints = find_footprints(store, split=split)
    for start, stop in pairwise(footprints.bounds.tolist()):
        chips: dict[str, list[int]] = {}
        for row in footprints.chips[start:stop].tolist():
            chips.setdefault(sensors[row], []).append(row)
        yield chips


def _pairs(store: ChipStore, chips: Int[Array, "pair image"]) -> ImageSets:
    names = list(store.arrays)
    arrays = [(names[a], names[b]) for a, b in store.array_numbers[chips].tolist()]
    kinds = {arrays_of: number for number, arrays_of in enumerate(dict.fromkeys(arrays))}
    used = tuple(dict.fromkeys(name for kind in kinds for name in kind))
    grids = [coarser_grid(*((store.arrays[name].height, store.arrays[name].width) for name in kind)) for kind in kinds]
    return ImageSets(
        size=(2, 2),
        bounds=2 * np.arange(len(chips) + 1),
        chips=chips.ravel(),
        sources=np.tile([0, 1], len(chips)),
        time_us=chip_times(store)[chips.ravel()],
        capacity=np.full(len(chips), 2),
        has_partner=np.ones(len(chips), dtype=bool),
        arrays=used,
        grid=coarser_grid(*grids),
        pair_kind=np.array([kinds[one] for one in arrays], dtype=np.int64),
        pair_arrays=tuple(kinds),
        pair_grids=tuple(grids),
    )


def _sets(
    store: ChipStore,
    found: Footprints,
    *,
    size: tuple[int, int],
    gap_days: float,
    split: Split | None,
    needs_two_sources: bool,
) -> ImageSets:
    names = store.index.column("sensor").to_pylist()
    number = {name: position for position, name in enumerate(store.sensors)}
    sources = np.array([number[names[row]] for row in found.chips], dtype=np.int64)
    time_us = chip_times(store)[found.chips]
    parts = [slice(start, stop) for start, stop in pairwise(found.bounds.tolist())]
    has_partner = np.array([bool((sources[part] != sources[part.start]).any()) for part in parts])
    if needs_two_sources:
        _check_two_sources(store, has_partner, split)
        parts = [part for part, kept in zip(parts, has_partner, strict=True) if kept]
        has_partner = has_partner[has_partner]
    images = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    arrays = _arrays(store, found.chips[images])
    infos = [store.arrays[name] for name in arrays]
    gap_us = _gap_us(gap_days)
    return ImageSets(
        size=size,
        gap_days=gap_days,
        bounds=np.cumsum([0, *(part.stop - part.start for part in parts)]),
        chips=found.chips[images],
        sources=sources[images],
        time_us=time_us[images],
        capacity=np.array([min(_capacity(sources[part], time_us[part], gap_us), size[1]) for part in parts]),
        has_partner=has_partner,
        arrays=arrays,
        grid=coarser_grid(*((info.height, info.width) for info in infos)),
    )


def _capacity(sources: Int[Array, " image"], time_us: Int[Array, " image"], gap_us: int) -> int:
    """Count the images that can be drawn whatever the anchor: the anchor's source has to go on from it."""
    with_each = [most_with_each(time_us[sources == source], gap_us) for source in np.unique(sources)]
    most = sum(max(counts) for counts in with_each)
    return min(most - max(counts) + min(counts) for counts in with_each)


def _gap_us(gap_days: float) -> int:
    # Any part of a microsecond counts: two images at one time are apart only where the gap is zero.
    return math.ceil(gap_days * _DAY_US)


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


def are_apart(a_us: int, b_us: int, gap_us: int) -> bool:
    """Tell whether two images of one source may be taken together. An unknown time is apart only without a gap."""
    return gap_us == 0 or (UNKNOWN_TIME not in (a_us, b_us) and abs(a_us - b_us) >= gap_us)


def most_with_each(times_us: Int[Array, " image"], gap_us: int) -> list[int]:
    """Count, for each image of one source, the most that can be taken with it, itself included, all pairwise apart."""
    count = len(times_us)
    if gap_us == 0:
        return [count] * count
    known = [time for time in times_us.tolist() if time != UNKNOWN_TIME]
    forwards = _longest_ending(known, gap_us)
    backwards = _longest_ending([-time for time in reversed(known)], gap_us)[::-1]
    return [a + b - 1 for a, b in zip(forwards, backwards, strict=True)] + [1] * (count - len(known))


def room_left(times_us: Sequence[int], taken_us: Sequence[int], gap_us: int) -> int:
    """Count the most images of one source that can be taken beside those that are. `times_us` are in order, unknown
    ones last; `taken_us` are in order and pairwise apart."""
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
