"""Writing a chip store, with flat memory."""

import ctypes
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorstore as ts

from anyband.arrays import Array, Bool, Num
from anyband.data.chip_index import ChipRecord, IndexWriter
from anyband.data.store import STORE_VERSION, ArrayInfo, ArraySpec, header_text, statistics_to_dict
from anyband.errors import OutputError
from anyband.files import sync, whole_directory
from anyband.sensors.catalogue import sensor_to_dict
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "Chip",
    "ChipSource",
    "ShardDone",
    "StoreHeader",
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
    """Give memory that was freed back to the system, where the C library is one that can be asked to.

    glibc keeps what threads freed, a pool for each thread, so that a process looks larger the longer it works with
    large arrays in several threads. Source: malloc_trim(3).
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Have large blocks go back to the system as soon as they are freed, in all threads, where glibc is the C library.

    Of its own, glibc keeps ever larger blocks for later, in pools of which the largest sum depends on how threads
    happened to meet. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
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


@runtime_checkable
class ChipSource(Protocol):
    """Where the pixels of a chip wait until their shard is full."""

    def load(self) -> tuple[Array, Array | None]:
        """Give stored numbers and validity (None: everywhere), both (band, row, col)."""

    def release(self) -> None:
        """Called once the shard is on the disk: the pixels are not needed any more."""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A chip in memory."""

    pixels: Num[Array, "band row col"]
    """Stored numbers."""
    valid: Bool[Array, "band row col"] | None = None
    """Where they are data; None: everywhere."""

    def load(self) -> tuple[Array, Array | None]:
        """Give stored numbers and validity."""
        return self.pixels, self.valid

    def release(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class ShardDone:
    """A shard that is on the disk."""

    array: str
    """Name of the array."""
    shard: int
    """Number of the shard, from 0."""
    digest: str
    """Hash of its numbers and their validity."""
    partial: bool
    """Whether some value of it is not data, so that it is in the `valid` array too."""


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """What a store says of itself besides its arrays."""

    sensors: Mapping[str, Sensor]
    """Name → sensor, for each sensor of the arrays."""
    statistics: Mapping[str, Mapping[str, BandStatistics]] = field(default_factory=dict)
    """Sensor → band → numbers; empty: not computed yet."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """How it was prepared, plain JSON."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Counts, and what was skipped and why, plain JSON."""
    inputs: str | None = None
    """Hash of the inputs and options; equal ones need no second preparing."""


class StoreWriter:
    """Fill a folder with a store. Equal chips in equal order give equal bytes.

    Chips of one array (one `ArraySpec`) get its rows in the order in which they are added.
    """

    def __init__(
        self,
        folder: Path,
        *,
        finished: Iterable[ShardDone] = (),
        on_shard: Callable[[ShardDone], None] = lambda _done: None,
    ) -> None:
        """Start or take up a store.

        Args:
            folder: to fill.
            finished: shards of an earlier run; the same chips must be added again, but are not loaded.
            on_shard: told of each shard written.
        """
        self.folder = folder
        self._finished = {(done.array, done.shard): done for done in finished}
        self._on_shard = on_shard
        self._arrays: dict[str, _GrowingArray] = {}
        self._by_spec: dict[int, tuple[ArraySpec, _GrowingArray]] = {}
        self._index = IndexWriter(folder)

    def add(self, spec: ArraySpec, record: ChipRecord, source: ChipSource) -> None:
        """Add one chip; when its shard is full, the shard is written.

        Raises:
            OutputError: the shard can't be written.
        """
        array = self._array(spec)
        try:
            self._index.add(record, (array.name, array.num_chips))
        except OSError as problem:
            raise output_error(self.folder / "index.parquet", problem.errno, str(problem)) from problem
        array.waiting.append(source)
        array.num_chips += 1
        if len(array.waiting) == array.chips_per_shard:
            self._flush(array)

    def finish(self, header: StoreHeader) -> None:
        """Write the last shards, the index and, last, the header.

        Raises:
            OutputError: a file can't be written.
        """
        for array in self._arrays.values():
            if array.waiting:
                self._flush(array)
            for kind in ("chips", "valid") if array.has_valid else ("chips",):
                _set_length(self.folder / kind / array.name, array.num_chips)
        _write_whole(self.folder / "index.parquet", self._index.write)
        text = header_text(self._header(header))
        _write_whole(self.folder / "store.json", lambda path: path.write_text(text, encoding="utf-8"))

    @property
    def num_chips(self) -> int:
        """Number of chips added."""
        return len(self._index)

    def _array(self, spec: ArraySpec) -> "_GrowingArray":
        # Chips of one image, and of images like it, bring the same record; the second part keeps it alive.
        if id(spec) in self._by_spec:
            return self._by_spec[id(spec)][1]
        key = json.dumps(spec.to_dict(), sort_keys=True)
        if key not in self._arrays:
            taken = {array.name for array in self._arrays.values()}
            self._arrays[key] = _GrowingArray(name=_array_name(spec, taken), spec=spec)
        if len(self._by_spec) < _MAX_KNOWN_SPECS:
            self._by_spec[id(spec)] = spec, self._arrays[key]
        return self._arrays[key]

    def _flush(self, array: "_GrowingArray") -> None:
        shard = len(array.done)
        done = self._finished.get((array.name, shard))
        if done is None:
            done = _write_shard(self.folder, array)
            self._on_shard(done)
            return_freed_memory()
        array.done.append(done)
        for source in array.waiting:
            source.release()
        array.waiting.clear()

    def _header(self, header: StoreHeader) -> dict[str, Any]:
        return {
            "format": "anyband chip store",
            "version": STORE_VERSION,
            "sensors": {name: sensor_to_dict(sensor) for name, sensor in header.sensors.items()},
            "arrays": [array.info().to_dict() for array in self._arrays.values()],
            "statistics": statistics_to_dict(header.statistics),
            "options": dict(header.options),
            "report": dict(header.report),
            "inputs": header.inputs,
        }


def write_store(path: Path, chips: Iterable[tuple[ArraySpec, ChipRecord, Chip]], header: StoreHeader) -> None:
    """Write a whole store from chips in memory.

    Raises:
        OutputError: `path` exists, or can't be written.
    """
    with whole_directory(path) as folder:
        writer = StoreWriter(folder)
        for spec, record, chip in chips:
            writer.add(spec, record, chip)
        writer.finish(header)


@dataclass(kw_only=True)
class _GrowingArray:
    name: str
    spec: ArraySpec
    num_chips: int = 0
    waiting: list[ChipSource] = field(default_factory=list)
    done: list[ShardDone] = field(default_factory=list)

    @property
    def chips_per_shard(self) -> int:
        shape = (len(self.spec.bands), self.spec.height, self.spec.width)
        chip_bytes = int(np.prod(shape)) * np.dtype(self.spec.dtype).itemsize
        return max(1, min(CHIPS_PER_SHARD, _MAX_SHARD_BYTES // chip_bytes))

    @property
    def has_valid(self) -> bool:
        return any(done.partial for done in self.done)

    def info(self) -> ArrayInfo:
        digest = blake2b("".join(done.digest for done in self.done).encode(), digest_size=16).hexdigest()
        return ArrayInfo(
            **vars(self.spec),
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


def _write_shard(folder: Path, array: _GrowingArray) -> ShardDone:
    """Write the chips that wait. They are gathered in one block, and hashed where they are: a shard is large."""
    shard = len(array.done)
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
    return ShardDone(array=array.name, shard=shard, digest=state.hexdigest(), partial=partial)


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
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    opened = _wait(ts.open(spec, open=True), path)
    _wait(opened.resize(exclusive_max=[num_chips, None, None, None], resize_metadata_only=True), path)


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
        "kvstore": {"driver": "file", "path": str(path)},
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
    except (ValueError, OSError, KeyError, RuntimeError, NotImplementedError) as problem:
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
