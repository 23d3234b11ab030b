"""Writing a chip store, with flat memory."""

import ctypes
import datetime as dt
import errno
import json
import os
import re
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorstore as ts

from anyband.arrays import Array, Bool, Num
from anyband.data.store import (
    INDEX_SCHEMA,
    STORE_VERSION,
    TENSORSTORE_ERRORS,
    ArraySpec,
    Split,
    StoreLocation,
    header_text,
)
from anyband.errors import OutputError
from anyband.files import sync, whole_directory
from anyband.sensors.sensor import Sensor, sensor_to_dict

__all__ = [
    "Chip",
    "ChipRecord",
    "ChipSource",
    "IndexWriter",
    "StoreWriter",
    "large_blocks_returned",
    "output_error",
    "return_freed_memory",
    "write_store",
]

# Numbers of settings. Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# chosen: pixels of a chip and all that is larger; mapping smaller blocks one by one would cost more than it returns.
_LARGE_BYTES = 256 * 1024
# Where glibc's own settings end once blocks as large have been freed. Source: mallopt(3).
_LARGEST_MMAP_THRESHOLD, _LARGEST_TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library is one that can be asked to. glibc keeps what
    threads freed, a pool for each thread. Source: malloc_trim(3)."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Have large blocks go back to the system as soon as they are freed, in all threads, where glibc is the C library.
    Else it keeps ever larger blocks in pools that grow by how threads meet. Source: mallopt(3), M_MMAP_THRESHOLD."""
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    # Others have functions of these names that take other settings.
    return libc if hasattr(libc, "gnu_get_libc_version") else None


CHIPS_PER_SHARD = 256
# chosen: a shard is gathered in memory before it is written; large chips get smaller shards.
_MAX_SHARD_BYTES = 512 * 2**20
# chosen: more chips than any store has. Shards are written before their number is known; `finish` sets it.
_UNKNOWN_LENGTH = 2**32
# chosen: more kinds of chips than most stores have; one that is not remembered is found by its content.
_MAX_KNOWN_SPECS = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipRecord:
    """What the index says of one chip, besides where its pixels are. None where the image has no CRS or time."""

    place: str
    """Identity of the ground that images share."""
    cell: str
    """Footprint of the place, for example `r000c002`; (place, cell) is one footprint."""
    sensor: str
    source_path: str
    """The image it was cut from, as the manifest names it."""
    valid_fraction: float
    split: Split = "train"
    datetime: dt.datetime | None = None
    """UTC."""
    crs: str | None = None
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine coefficients (a, b, c, d, e, f) of the chip: x = a·col + b·row + c, y = d·col + e·row + f."""
    gsd_m: float | None = None
    geometry: bytes | None = None
    """Footprint as a WKB polygon in longitude and latitude; in several where longitude ±180 splits it."""
    bounds: tuple[float, float, float, float] | None = None
    """Least longitude, least latitude, greatest longitude, greatest latitude of `geometry`; west is larger than east
    where it reaches over longitude ±180."""


@runtime_checkable
class ChipSource(Protocol):
    """Where the pixels of a chip wait until their shard is full."""

    def load(self) -> tuple[Array, Array | None]:
        """Give digital numbers and validity (None: everywhere), both (band, row, col)."""

    def release(self) -> None:
        """Called once the shard is on the disk: the pixels are not needed any more."""


class Chip:
    """A chip in memory."""

    def __init__(self, *, pixels: Num[Array, "band row col"], valid: Bool[Array, "band row col"] | None = None) -> None:
        """Take digital numbers, and where they are data (None: everywhere)."""
        self._pixels, self._valid = pixels, valid

    def load(self) -> tuple[Array, Array | None]:
        return self._pixels, self._valid

    def release(self) -> None:
        """Do nothing."""


# chosen: rows that are Python objects together, some kilobytes each.
_ROWS_TOGETHER = 512
# chosen: a group of rows of the index takes some ten megabytes.
_BATCHES_A_GROUP = 64

_Bounds = tuple[float, float, float, float]
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


class IndexWriter:
    """The index while a store is written: rows wait in a database, so memory does not grow with their number."""

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        """Begin without rows; a database is given where others ask for the rows, in its table `chips`."""
        self._database = database or sqlite3.connect("", isolation_level=None)
        self._database.execute("DROP TABLE IF EXISTS chips")
        self._database.execute(
            f"CREATE TABLE chips ({', '.join(['chip INTEGER PRIMARY KEY', *INDEX_SCHEMA.names[1:]])})"
        )
        self._rows: list[tuple[Any, ...]] = []
        self._cover = _Cover()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, record: ChipRecord, location: tuple[str, int]) -> None:
        """Add a chip: what is said of it, and (array, row of the array)."""
        time = record.datetime and (record.datetime - _EPOCH) // _MICROSECOND
        transform = record.transform and struct.pack("<6d", *record.transform)
        values = {name: getattr(record, name) for name in INDEX_SCHEMA.names[3:]}
        self._rows.append((self._length, *location, *{**values, "datetime": time, "transform": transform}.values()))
        self._length += 1
        if record.bounds is not None:
            self._cover.add(record.bounds, record.geometry)
        if len(self._rows) == _ROWS_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Bring all rows into the database."""
        places = ", ".join("?" * len(INDEX_SCHEMA.names))
        try:
            self._database.execute("BEGIN")
            self._database.executemany(f"INSERT INTO chips VALUES ({places})", self._rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as problem:
            raise OSError(None, str(problem)) from problem
        self._rows.clear()

    def write(self, path: Path) -> None:
        """Write the index with GeoParquet metadata; equal rows give equal bytes."""
        self.flush()
        schema = INDEX_SCHEMA.with_metadata({"geo": json.dumps(self._cover.metadata())})
        how = {"compression": "zstd", "store_schema": True, "write_page_checksum": True}
        with pq.ParquetWriter(path, schema, **how) as index:
            for table in self._groups():
                index.write_table(table.cast(schema), row_group_size=len(table))

    def _groups(self) -> Iterator[pa.Table]:
        """Give the rows in tables of one piece, because the bytes of a file depend on how a table is cut."""
        rows = self._database.execute("SELECT * FROM chips ORDER BY chip")
        while batches := [_table(batch) for _ in range(_BATCHES_A_GROUP) if (batch := rows.fetchmany(_ROWS_TOGETHER))]:
            yield pa.concat_tables(batches).combine_chunks()
            # Arrow keeps what it freed for later, as much as it ever had.
            pa.default_memory_pool().release_unused()


def _table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = dict(zip(INDEX_SCHEMA.names, map(list, zip(*rows, strict=True)), strict=True))
    columns["transform"] = [one and struct.unpack("<6d", one) for one in columns["transform"]]
    return pa.table(columns, schema=INDEX_SCHEMA)


class _Cover:
    """What all footprints cover, and of which types they are."""

    def __init__(self) -> None:
        self._bounds: _Bounds | None = None
        self._types: set[str] = set()
        # Of footprints in the eastern half the least longitude, of those in the western half the greatest.
        self._west, self._east = 180.0, -180.0
        self._is_split = self._has_greenwich = False

    def add(self, bounds: _Bounds, wkb: bytes | None) -> None:
        west, south, east, north = bounds
        is_split = west > east
        least, most = (-180.0, 180.0) if is_split else (west, east)
        old = self._bounds or (least, south, most, north)
        self._bounds = min(old[0], least), min(old[1], south), max(old[2], most), max(old[3], north)
        # The integer after the byte that tells its order.
        self._types.add("MultiPolygon" if wkb is not None and 6 in (wkb[1], wkb[4]) else "Polygon")
        if is_split or west >= 0:
            self._west = min(self._west, west)
        if is_split or east <= 0:
            self._east = max(self._east, east)
        self._is_split |= is_split
        self._has_greenwich |= west < 0 < east

    def metadata(self) -> dict[str, Any]:
        """Describe the geometry column. Without a `crs` entry it is in longitude and latitude (OGC:CRS84). Where some
        footprint reaches over longitude ±180, so does the box, with its west larger than its east. Source: GeoParquet
        1.1.0."""
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": sorted(self._types)}
        if self._bounds is not None:
            column["bbox"] = list(self._bounds)
            if self._is_split and not self._has_greenwich and self._west > self._east:
                column["bbox"][::2] = self._west, self._east
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


class StoreWriter:
    """Fill a folder with a store. Equal chips in equal order give equal bytes. Chips of one array (one `ArraySpec`) get
    its rows in the order in which they are added."""

    def __init__(
        self,
        folder: Path,
        database: sqlite3.Connection | None = None,
        *,
        finished: Mapping[tuple[str, int], tuple[str, bool]] | None = None,
        on_shard: Callable[[str, int, str, bool], object] = lambda *_: None,
    ) -> None:
        """Start or take up a store in a folder; the rows of the index go into the table `chips` of `database`.

        `finished` are shards of an earlier run, (array, number) → (hash of numbers and validity, whether some value is
        not data); the same chips must be added again, but are not loaded. `on_shard` is told of each shard written, in
        the same form.
        """
        self.folder = folder
        self._finished = finished or {}
        self._on_shard = on_shard
        self._arrays: dict[str, _GrowingArray] = {}
        self._by_spec: dict[int, tuple[ArraySpec, _GrowingArray]] = {}
        self._index = IndexWriter(database)

    def add(self, spec: ArraySpec, record: ChipRecord, source: ChipSource) -> None:
        """Add one chip; when its shard is full, the shard is written."""
        array = self._array(spec)
        try:
            self._index.add(record, (array.name, array.num_chips))
        except OSError as problem:
            raise output_error(self.folder / "index.parquet", problem.errno, str(problem)) from problem
        array.waiting.append(source)
        array.num_chips += 1
        if len(array.waiting) == array.chips_per_shard:
            self._flush(array)

    def finish(
        self,
        sensors: Mapping[str, Sensor],
        *,
        options: Mapping[str, Any] | None = None,
        report: Mapping[str, Any] | None = None,
        inputs: str | None = None,
    ) -> None:
        """Write the last shards, the index and, last, the header with the sensors of the arrays, by name. In plain
        JSON: `options`, how it was prepared, and `report`, counts and what was skipped and why. `inputs` is a hash of
        the inputs and options; equal ones need no second preparing."""
        self.finish_arrays()
        for array in self._arrays.values():
            _set_attributes(self.folder / "chips" / array.name, array.spec, sensors[array.spec.sensor])
        header = {
            "format": "anyband chip store",
            "version": STORE_VERSION,
            "sensors": {name: sensor_to_dict(sensor) for name, sensor in sensors.items()},
            "arrays": [array.info().to_dict() for array in self._arrays.values()],
            "statistics": {},
            "options": dict(options or {}),
            "report": dict(report or {}),
            "inputs": inputs,
        }
        _write_whole(self.folder / "index.parquet", self._index.write)
        text = header_text(header)
        _write_whole(self.folder / "store.json", lambda path: path.write_text(text, encoding="utf-8"))

    def finish_arrays(self) -> None:
        """Write the last shards, and bring all rows of the index into its database."""
        for array in self._arrays.values():
            if array.waiting:
                self._flush(array)
            for kind in ("chips", "valid") if array.has_valid else ("chips",):
                _set_length(self.folder / kind / array.name, array.num_chips)
        self._index.flush()

    @property
    def num_chips(self) -> int:
        return len(self._index)

    def _array(self, spec: ArraySpec) -> "_GrowingArray":
        # Chips of one image, and of images like it, bring the same record; the second part keeps it alive.
        if id(spec) in self._by_spec:
            return self._by_spec[id(spec)][1]
        key = json.dumps(spec.to_dict(), sort_keys=True)
        if key not in self._arrays:
            taken = {array.name for array in self._arrays.values()}
            self._arrays[key] = _GrowingArray(_array_name(spec, taken), spec)
        if len(self._by_spec) < _MAX_KNOWN_SPECS:
            self._by_spec[id(spec)] = spec, self._arrays[key]
        return self._arrays[key]

    def _flush(self, array: "_GrowingArray") -> None:
        shard = len(array.done)
        done = self._finished.get((array.name, shard))
        if done is not None and _read_shard(self.folder, array, has_valid=done[1]) != done[0]:
            raise OutputError(
                f"'{self.folder / 'chips' / array.name}', which an earlier run wrote, is damaged (chips from "
                f"{shard * array.chips_per_shard}); remove its folder '{self.folder.parent}' and prepare again"
            )
        if done is None:
            # Only here, because such blocks are slow to get anew; what cutting left goes first.
            with large_blocks_returned():
                return_freed_memory()
                done = _write_shard(self.folder, array)
                return_freed_memory()
            self._on_shard(array.name, shard, *done)
        array.done.append(done)
        for source in array.waiting:
            source.release()
        array.waiting.clear()


def write_store(
    path: Path, chips: Iterable[tuple[ArraySpec, ChipRecord, ChipSource]], sensors: Mapping[str, Sensor]
) -> None:
    """Write a whole store; `OutputError` where `path` exists."""
    with whole_directory(path) as folder:
        writer = StoreWriter(folder)
        for spec, record, chip in chips:
            writer.add(spec, record, chip)
        writer.finish(sensors)


class _GrowingArray:
    """An array, the chips that wait for its next shard, and (hash, whether some value is not data) of each shard."""

    def __init__(self, name: str, spec: ArraySpec) -> None:
        self.name, self.spec = name, spec
        self.num_chips = 0
        self.waiting: list[ChipSource] = []
        self.done: list[tuple[str, bool]] = []
        chip_bytes = len(spec.bands) * spec.height * spec.width * np.dtype(spec.dtype).itemsize
        self.chips_per_shard = max(1, min(CHIPS_PER_SHARD, _MAX_SHARD_BYTES // chip_bytes))

    @property
    def has_valid(self) -> bool:
        return any(partial for _, partial in self.done)

    def info(self) -> ArraySpec:
        digest = blake2b("".join(digest for digest, _ in self.done).encode(), digest_size=16).hexdigest()
        return replace(
            self.spec,
            name=self.name,
            num_chips=self.num_chips,
            chips_per_shard=self.chips_per_shard,
            has_valid=self.has_valid,
            digest=digest,
        )


def _array_name(spec: ArraySpec, taken: set[str]) -> str:
    """Name an array for its sensor and shape; others of the same sensor and shape get a number."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", spec.sensor)
    name = f"{readable}_{spec.height}x{spec.width}"
    numbered = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(candidate for candidate in numbered if candidate not in taken)


def _write_shard(folder: Path, array: _GrowingArray) -> tuple[str, bool]:
    """Write the chips that wait. They are gathered in one block, and hashed where they are: a shard is large."""
    first, first_valid = array.waiting[0].load()
    stacked = np.empty((len(array.waiting), *first.shape), dtype=first.dtype)
    holes: dict[int, Array] = {}
    for row, source in enumerate(array.waiting):
        stacked[row], valid = source.load() if row else (first, first_valid)
        if valid is not None and not valid.all():
            holes[row] = valid
    state = blake2b(stacked.data, digest_size=16)
    _put(folder / "chips" / array.name, array, stacked, fill_value=0)
    partial = bool(holes)
    if partial:
        stacked_valid = np.ones(stacked.shape, dtype=np.uint8)
        for row, valid in holes.items():
            stacked_valid[row] = valid
        state.update(stacked_valid.data)
        # Chips that are wholly valid equal the fill value, so they take no room.
        _put(folder / "valid" / array.name, array, stacked_valid, fill_value=1)
    return state.hexdigest(), partial


def _read_shard(folder: Path, array: _GrowingArray, *, has_valid: bool) -> str | None:
    """Hash the chips of a shard that an earlier run wrote, as `_write_shard` does; None where they can't be read."""
    first, state = len(array.done) * array.chips_per_shard, blake2b(digest_size=16)
    for kind in ("chips", "valid") if has_valid else ("chips",):
        place = StoreLocation(root=folder / kind / array.name).kvstore("")
        spec = {"driver": "zarr3", "kvstore": place, "fill_missing_data_reads": kind == "valid"}
        try:
            values = ts.open(spec, open=True).result()[first : first + len(array.waiting)].read().result()
            state.update(np.ascontiguousarray(values).data)
        except TENSORSTORE_ERRORS:
            return None
    return state.hexdigest()


def _put(path: Path, array: _GrowingArray, values: Array, *, fill_value: int) -> None:
    first = len(array.done) * array.chips_per_shard
    spec = _zarr_spec(path, array.chips_per_shard, values, fill_value=fill_value)
    # A shard of zeros is written too, so that a shard that is missing is known to be lost.
    spec["store_data_equal_to_fill_value"] = fill_value == 0
    opened = _wait(ts.open(spec, open=True, create=True), path)
    # The shard is not touched until it is written, so it need not be copied first.
    rows = opened[first : first + len(values)]
    _wait(rows.write(values, can_reference_source_data_indefinitely=True), path)


def _set_length(path: Path, num_chips: int) -> None:
    spec = {"driver": "zarr3", "kvstore": StoreLocation(root=path).kvstore("")}
    opened = _wait(ts.open(spec, open=True), path)
    _wait(opened.resize(exclusive_max=[num_chips, None, None, None], resize_metadata_only=True), path)


def _set_attributes(path: Path, spec: ArraySpec, sensor: Sensor) -> None:
    """Say in an array, for those who read it without us, what its bands are and how its numbers are stored."""
    bands = sensor.select(spec.bands).bands
    attributes = {
        "sensor": spec.sensor,
        "bands": list(spec.bands),
        "units": [band.unit for band in bands],
        "wavelength_nm": [band.spectrum.center_nm for band in bands],
        "encoding": spec.to_dict()["encoding"],
        "nodata": spec.nodata,
    }
    metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    # In one order, whether a killed run had said them before or not.
    text = json.dumps({**metadata, "attributes": attributes}, allow_nan=False, sort_keys=True)
    _write_whole(path / "zarr.json", lambda beside: beside.write_text(text, encoding="utf-8"))


def _zarr_spec(path: Path, chips_per_shard: int, values: Array, *, fill_value: int) -> dict[str, Any]:
    chip_shape = list(values.shape[1:])
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "name": "blosc",
        "configuration": {
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "typesize": values.dtype.itemsize,
        },
    }
    sharding = {
        "chunk_shape": [1, *chip_shape],
        # Blosc itself does not notice most damage: a chip would be read with wrong numbers, silently.
        "codecs": [little, blosc, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
    }
    return {
        "driver": "zarr3",
        "kvstore": StoreLocation(root=path).kvstore(""),
        "metadata": {
            "shape": [_UNKNOWN_LENGTH, *chip_shape],
            "data_type": values.dtype.name,
            "fill_value": fill_value,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [chips_per_shard, *chip_shape]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["chip", "band", "row", "col"],
        },
    }


def _wait(future: Any, path: Path) -> Any:
    """Wait for TensorStore; its errors (builtins, with the system's number in the text) become ours."""
    try:
        return future.result()
    except TENSORSTORE_ERRORS as problem:
        found = re.search(r"os_error_code='(\d+)'", str(problem))
        raise output_error(path, int(found[1]) if found else None, str(problem).split(" [")[0]) from problem


def output_error(path: Path, number: int | None, text: str) -> OutputError:
    """Say why a part of a store can't be written, and that the work so far is kept."""
    kept = "what is finished is kept: run the same command again to go on"
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"no room on the disk to write '{path}'; free some ({kept})")
    return OutputError(f"cannot write '{path}': {os.strerror(number) if number else text} ({kept})")


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(f".partial.{path.name}")
    try:
        write(beside)
        sync(beside)
        beside.replace(path)
    except OSError as problem:
        raise output_error(path, problem.errno, str(problem)) from problem
