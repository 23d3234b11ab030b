"""The footprints of a store with their images, and what is known of each image beside its pixels."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from anyband.data.chip_index import Split
from anyband.data.store import ChipStore
from anyband.errors import StoreError, nearest_name
from anyband.shapes import Array, Bool, Float, Int, Shaped

__all__ = [
    "UNKNOWN_TIME",
    "Footprints",
    "ImageFacts",
    "check_corners",
    "check_sensors",
    "chip_times",
    "find_footprints",
    "image_facts",
]

UNKNOWN_TIME = int(np.iinfo(np.int64).max)
"""Stands for a time that is not known, so that it sorts last."""

# A polygon of one ring of five points: byte order, three counts, ten numbers. Source: OGC 06-103r4, section 8.2.
_WKB_HEADER, _WKB_BYTES = [3, 1, 5], 93
_NOT_A_TIME = int(np.datetime64("NaT").astype(np.int64))


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
