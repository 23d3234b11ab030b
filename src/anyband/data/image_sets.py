"""Image sets: several images of one footprint, of any sensors and dates; which are drawn, and in which batch.

The source of an image is its sensor. A set is an anchor, drawn at random, and others of the same footprint: one of
another source wherever the footprint has one, and images of one source not nearer to each other in time than a gap.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from anyband.data.augment import coarser_grid
from anyband.data.chip_index import Split
from anyband.data.footprints import Footprints, check_corners, check_sensors, chip_times, find_footprints
from anyband.data.lanes import ShardLanes
from anyband.data.rounds import Rounds
from anyband.data.spacing import are_apart, most_with_each, room_left
from anyband.data.store import ChipStore
from anyband.errors import RecipeError, StoreError
from anyband.randomness import generator
from anyband.shapes import Array, Bool, Int

__all__ = ["ImageSets", "SetDraw", "SetOptions", "SetSampler", "find_sets"]

_DAY_US = 86_400_000_000


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
