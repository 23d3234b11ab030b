"""Sets of images of one place, pairs among them: which there are, and what the index of a store knows of them."""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyband.arrays import Array, Bool, Float, Int
from anyband.data.resample import coarser_grid
from anyband.data.store import ChipStore, Split
from anyband.errors import StoreError, nearest_name

__all__ = [
    "UNKNOWN_TIME",
    "ImageSets",
    "are_apart",
    "check_corners",
    "check_sensors",
    "chip_metadata",
    "common_footprints",
    "find_footprints",
    "find_pairs",
    "find_sets",
    "gap_us",
    "most_with_each",
    "room_left",
]

UNKNOWN_TIME = int(np.iinfo(np.int64).max)
"""Stands for a time that is not known, so that it sorts last."""

_DAY_US = 86_400_000_000
# A polygon of one ring of five points: byte order, three counts, ten numbers. Source: OGC 06-103r4, section 8.2.
_WKB_HEADER, _WKB_BYTES = [3, 1, 5], 93
_NOT_A_TIME = int(np.datetime64("NaT", "us").astype(np.int64))


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
        return len(self.capacity)

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
        bounds = np.append(0, np.cumsum(np.diff(self.bounds)[samples]))
        taken: dict[str, Any] = {name: getattr(self, name)[images] for name in ("chips", "sources", "time_us")}
        names = ("capacity", "has_partner", *(("pair_kind",) if self.pair_kind is not None else ()))
        return replace(self, bounds=bounds, **taken, **{name: getattr(self, name)[samples] for name in names})


def check_sensors(store: ChipStore, names: Iterable[str]) -> None:
    """See that a store has all sensors; `StoreError` where it lacks one."""
    for name in names:
        if name not in store.sensors:
            raise StoreError(
                f"sensor '{name}' is not in store '{store.path}' ({', '.join(store.sensors)})"
                f"{nearest_name(name, store.sensors)}"
            )


def find_footprints(
    store: ChipStore, *, split: Split | None, sensors: Iterable[str] | None = None
) -> tuple[Int[Array, " image"], Int[Array, " bound"], Int[Array, " image"]]:
    """Group chips by footprint, ordered by place and position on its grid, in each by time, unknown last, then row.
    Gives the chips, bounds (footprint k is `chips[bounds[k]:bounds[k + 1]]`), and the chips' times in microseconds
    since 1970. `split` and `sensors` choose chips; None: all."""
    # Numbers of the words of a column, in their own order.
    coded = [store.index.column(name).combine_chunks().dictionary_encode() for name in ("place", "cell")]
    ranks = [pc.rank(words.dictionary).to_numpy().astype(np.int64)[words.indices.to_numpy()] for words in coded]
    places, positions = ranks
    wanted = np.ones(store.index.num_rows, dtype=bool)
    for column, words in (("split", split and [split]), ("sensor", sensors and list(sensors))):
        if words is not None:
            known = pa.array(words, type=pa.string())
            wanted &= pc.is_in(store.index.column(column), value_set=known).to_numpy()
    rows = np.flatnonzero(wanted)
    time_us = store.index.column("datetime").cast("int64").fill_null(UNKNOWN_TIME).to_numpy()
    rows = rows[np.lexsort((rows, time_us[rows], positions[rows], places[rows]))]
    is_new = (np.diff(places[rows], prepend=-1) != 0) | (np.diff(positions[rows], prepend=-1) != 0)
    return rows, np.append(np.flatnonzero(is_new), len(rows)), time_us[rows]


def find_pairs(
    store: ChipStore, *, sensors: Sequence[tuple[str, str]] | Literal["any"], split: Split | None = "train"
) -> ImageSets:
    """Find the pairs of chips that show one footprint. `sensors` are (sensor of a, sensor of b); equal names pair two
    dates; `any`: any two different ones, in store order. `split` None: all. `StoreError` where the store lacks a
    sensor, or has no such pair."""
    if sensors == "any":
        sensors = list(combinations(store.sensors, 2))
    check_sensors(store, (name for pair in sensors for name in pair))
    names = store.index.column("sensor").to_pylist()
    rows, bounds, time_us = find_footprints(store, split=split)
    found: list[tuple[int, int]] = []
    for start, stop in pairwise(bounds.tolist()):
        images: dict[str, list[int]] = {}
        for image in range(start, stop):
            images.setdefault(names[rows[image]], []).append(image)
        for first, second in sensors:
            of_first, of_second = images.get(first, []), images.get(second, [])
            found += combinations(of_first, 2) if first == second else product(of_first, of_second)
    if not found:
        kinds = ", ".join(f"{first} + {second}" for first, second in sensors)
        raise StoreError(
            f"no footprint in {_where(store, split)} has a pair of {kinds}; `anyband prepare --show` lists what it has"
        )
    pairs = np.array(found)
    chips, arrays_of = rows[pairs], list(store.arrays)
    arrays = [(arrays_of[a], arrays_of[b]) for a, b in store.array_numbers[chips].tolist()]
    kind_of = {kind: number for number, kind in enumerate(dict.fromkeys(arrays))}
    used = tuple(dict.fromkeys(name for kind in kind_of for name in kind))
    grids = [
        coarser_grid(*((store.arrays[name].height, store.arrays[name].width) for name in kind)) for kind in kind_of
    ]
    return ImageSets(
        size=(2, 2),
        bounds=2 * np.arange(len(chips) + 1),
        chips=chips.ravel(),
        sources=np.tile([0, 1], len(chips)),
        time_us=time_us[pairs].ravel(),
        capacity=np.full(len(chips), 2),
        has_partner=np.ones(len(chips), dtype=bool),
        arrays=used,
        grid=coarser_grid(*grids),
        pair_kind=np.array([kind_of[one] for one in arrays], dtype=np.int64),
        pair_arrays=tuple(kind_of),
        pair_grids=tuple(grids),
    )


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

    `size` and `gap_days` are those of `ImageSets`; `needs_two_sources` leaves out footprints that only one sensor saw;
    `sensors` and `split` say whose images may be drawn, None: all. `StoreError` where the store lacks a sensor, has no
    footprint that can be used, or one that lies off the globe.
    """
    check_sensors(store, sensors or ())
    rows, bounds, time_us = find_footprints(store, split=split, sensors=sensors)
    if not len(rows):
        of = f" of {', '.join(sensors)}" if sensors is not None else ""
        raise StoreError(f"no image{of} is in {_where(store, split)}; `anyband prepare --show` lists what it has")
    check_corners(store, rows)
    names, number = store.index.column("sensor").to_pylist(), {name: n for n, name in enumerate(store.sensors)}
    sources = np.array([number[names[row]] for row in rows], dtype=np.int64)
    counts = np.diff(bounds)
    has_partner = np.minimum.reduceat(sources, bounds[:-1]) != np.maximum.reduceat(sources, bounds[:-1])
    if needs_two_sources:
        if not has_partner.any():
            raise StoreError(
                f"all {len(has_partner)} footprints in {_where(store, split)} have images of one sensor only, and sets "
                "are to have two (data.sets.needs_two_sources): prepare images of another sensor of the same places, "
                "or turn it off"
            )
        kept = np.repeat(has_partner, counts)
        rows, time_us, sources = rows[kept], time_us[kept], sources[kept]
        counts, has_partner = counts[has_partner], has_partner[has_partner]
    bounds = np.append(0, np.cumsum(counts))
    footprints = [slice(start, stop) for start, stop in pairwise(bounds.tolist())]
    capacity = [_capacity(sources[one], time_us[one], gap_us(gap_days)) for one in footprints]
    infos = [list(store.arrays.values())[array] for array in np.unique(store.array_numbers[rows])]
    return ImageSets(
        size=size,
        gap_days=gap_days,
        bounds=bounds,
        chips=rows,
        sources=sources,
        time_us=time_us,
        capacity=np.minimum(capacity, size[1]),
        has_partner=has_partner,
        arrays=tuple(info.name for info in infos),
        grid=coarser_grid(*((info.height, info.width) for info in infos)),
    )


def _capacity(sources: Int[Array, " image"], time_us: Int[Array, " image"], gap_us: int) -> int:
    """Count the images that can be drawn whatever the anchor: the anchor's source has to go on from it."""
    with_each = [most_with_each(time_us[sources == source], gap_us) for source in np.unique(sources)]
    most = sum(max(counts) for counts in with_each)
    return min(most - max(counts) + min(counts) for counts in with_each)


def gap_us(gap_days: float) -> int:
    """Turn days into microseconds, rounded up: two images at one time are apart only where the gap is zero."""
    return math.ceil(gap_days * _DAY_US)


def _where(store: ChipStore, split: Split | None) -> str:
    return f"split '{split}' of store '{store.path}'" if split else f"store '{store.path}'"


def are_apart(a_us: int, b_us: int, gap_us: int) -> bool:
    """Tell whether two images of one source may be taken together. An unknown time is apart only without a gap."""
    return gap_us == 0 or (UNKNOWN_TIME not in (a_us, b_us) and abs(a_us - b_us) >= gap_us)


def most_with_each(times_us: Int[Array, " image"], gap_us: int) -> list[int]:
    """Count, for each image of one source, the most that can be taken with it, itself included, all pairwise apart."""
    if gap_us == 0:
        return [len(times_us)] * len(times_us)
    known = [time for time in times_us.tolist() if time != UNKNOWN_TIME]
    forwards = _longest_ending(known, gap_us)
    backwards = _longest_ending([-time for time in reversed(known)], gap_us)[::-1]
    return [a + b - 1 for a, b in zip(forwards, backwards, strict=True)] + [1] * (len(times_us) - len(known))


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


def chip_metadata(store: ChipStore, chips: Int[Array, "set slot"]) -> dict[str, Array]:
    """Look up what the index knows of some chips, by their rows: `corners_deg` (longitude, latitude of the upper left,
    upper right, lower right, lower left corner; NaN: unknown), `gsd_m` (NaN: unknown), `shape_px` (rows and columns),
    `time` (UTC, `datetime64[us]`; NaT: unknown). `StoreError` where a footprint is no quadrilateral, or reaches outside
    longitudes ±180 and latitudes ±90."""
    rows = chips.ravel()
    taken = store.index.select(["array", "geometry", "gsd_m", "datetime", "crs", "transform"]).take(pa.array(rows))
    infos = [store.arrays[name] for name in taken.column("array").to_pylist()]
    shapes = taken.column("geometry").to_pylist()
    corners = [
        _split_corners(store, number, taken) if wkb and len(wkb) > _WKB_BYTES else _corners(store, int(row), wkb)
        for number, (row, wkb) in enumerate(zip(rows, shapes, strict=True))
    ]
    gsd_m = np.array(taken.column("gsd_m").to_numpy(), dtype=np.float64)
    time_us = taken.column("datetime").cast("int64").fill_null(_NOT_A_TIME).to_numpy()
    return {
        "corners_deg": np.array(corners, dtype=np.float64).reshape(*chips.shape, 4, 2),
        "gsd_m": gsd_m.reshape(chips.shape),
        "shape_px": np.array([(info.height, info.width) for info in infos], dtype=np.int64).reshape(*chips.shape, 2),
        "time": np.asarray(time_us, dtype="datetime64[us]").reshape(chips.shape),
    }


def check_corners(store: ChipStore, chips: Int[Array, " image"]) -> None:
    """See before a run that its chips lie on the globe, which `chip_metadata` would find in the middle of it."""
    geo = json.loads((store.index.schema.metadata or {}).get(b"geo", b"{}"))
    west, south, east, north = geo.get("columns", {}).get("geometry", {}).get("bbox", (-180, -90, 180, 90))
    # The index says what all its chips cover together; each is looked at only where that is too much.
    if west < -180 or south < -90 or east > 180 or north > 90:
        chip_metadata(store, chips[:, None])


def _split_corners(store: ChipStore, number: int, taken: pa.Table) -> Float[Array, "4 2"]:
    """Compute the corners of a chip whose footprint does not begin with them, because it reaches over longitude ±180 or
    a pole."""
    info = store.arrays[taken["array"][number].as_py()]
    wkb, crs, transform = (taken[name][number].as_py() for name in ("geometry", "crs", "transform"))
    if crs is None or transform is None:
        return _corners(store, number, wkb)
    # Late: chips of other places need no geographic library.
    from anyband.data.places import corners_on_globe

    return corners_on_globe(tuple(transform), info.height, info.width, crs)


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


def common_footprints(
    store: ChipStore, arrays: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, Int[Array, "footprint"]]]:
    """Find the footprints that all named arrays show, sorted: (place, split) of each; and by array the row that shows
    each, of the earliest date. `StoreError` where an array is missing, or no footprint is shown by all."""
    for array in arrays:
        store.array_sensor(array)
    columns = store.index.select(["array", "array_row", "place", "cell", "split", "datetime"]).to_pylist()
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for chip in sorted(columns, key=lambda chip: (chip["datetime"] is not None, chip["datetime"], chip["array_row"])):
        if chip["array"] in arrays:
            rows = found.setdefault((chip["place"], chip["cell"], chip["split"]), {})
            rows.setdefault(chip["array"], chip["array_row"])
    shared = sorted(key for key, rows in found.items() if len(rows) == len(set(arrays)))
    if not shared:
        raise StoreError(f"store '{store.path}' has no footprint that all of {', '.join(arrays)} show")
    rows_of = {array: np.array([found[key][array] for key in shared], dtype=np.int64) for array in arrays}
    return [(place, split) for place, _, split in shared], rows_of
