"""The index of a chip store: a row for each chip, as GeoParquet, written and read with pyarrow alone."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from anyband.data.store_location import StoreLocation
from anyband.errors import StoreError

__all__ = ["INDEX_SCHEMA", "SPLITS", "ChipRecord", "IndexWriter", "Split", "chips_of", "read_index"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# chosen: rows that are Python objects together, some kilobytes each.
_ROWS_TOGETHER = 512
# chosen: a group of rows of the index takes some ten megabytes.
_BATCHES_A_GROUP = 64

_Bounds = tuple[float, float, float, float]

INDEX_SCHEMA = pa.schema(
    [
        pa.field("chip", pa.int64(), nullable=False),
        pa.field("array", pa.string(), nullable=False),
        pa.field("array_row", pa.int64(), nullable=False),
        pa.field("place", pa.string(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("sensor", pa.string(), nullable=False),
        pa.field("datetime", pa.timestamp("us", tz="UTC")),
        pa.field("geometry", pa.binary()),
        pa.field("crs", pa.string()),
        pa.field("transform", pa.list_(pa.float64())),
        pa.field("gsd_m", pa.float64()),
        pa.field("valid_fraction", pa.float64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("source_path", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChipRecord:
    """What the index says of one chip, besides where its pixels are."""

    place: str
    """Identity of the ground that images share."""
    cell: str
    """Cell of the place, for example `r000c002`; (place, cell) is one footprint."""
    sensor: str
    """Name of the sensor."""
    source_path: str
    """The image it was cut from, as the manifest names it."""
    valid_fraction: float
    """Share of the values that are data, 0 to 1."""
    split: Split = "train"
    """Part of the data that the place belongs to."""
    datetime: dt.datetime | None = None
    """Time of acquisition, UTC; None where unknown."""
    crs: str | None = None
    """Coordinate system of `transform`; None where the image has none."""
    transform: tuple[float, float, float, float, float, float] | None = None
    """Affine coefficients (a, b, c, d, e, f) of the chip: x = a·col + b·row + c, y = d·col + e·row + f."""
    gsd_m: float | None = None
    """Ground sampling distance of the chip's pixels, metres; None where the image has no CRS."""
    geometry: bytes | None = None
    """Footprint as a WKB polygon in longitude and latitude; None where the image has no CRS."""
    bounds: tuple[float, float, float, float] | None = None
    """Least longitude, least latitude, greatest longitude, greatest latitude of `geometry`."""


class IndexWriter:
    """The index while a store is written: rows go to the disk soon, so memory does not grow with their number."""

    def __init__(self, folder: Path) -> None:
        """Begin without rows.

        Args:
            folder: for rows that wait, and for the index.
        """
        self._waiting = folder / ".partial.index.arrow"
        self._file: pa.ipc.RecordBatchStreamWriter | None = None
        self._records: list[ChipRecord] = []
        self._locations: list[tuple[str, int]] = []
        self._bounds: _Bounds | None = None
        self._num_packed = 0

    def __len__(self) -> int:
        """Count the rows."""
        return self._num_packed + len(self._records)

    def add(self, record: ChipRecord, location: tuple[str, int]) -> None:
        """Add a chip: what is said of it, and (array, row of the array).

        Raises:
            OSError: the disk is full, say.
        """
        self._records.append(record)
        self._locations.append(location)
        if record.bounds is not None:
            self._bounds = record.bounds if self._bounds is None else _both(self._bounds, record.bounds)
        if len(self._records) == _ROWS_TOGETHER:
            self._pack()

    def write(self, path: Path) -> None:
        """Write the index with GeoParquet metadata; equal rows give equal bytes. Nothing can be added afterwards.

        Raises:
            OSError: the disk is full, say.
        """
        self._pack()
        assert self._file is not None
        self._file.close()
        # The bounds of all rows stand in the schema, which comes first: so there are two passes.
        schema = INDEX_SCHEMA.with_metadata({"geo": json.dumps(_geo_metadata(self._bounds))})
        with pq.ParquetWriter(path, schema, compression="zstd", store_schema=True) as index:
            for table in _groups(self._waiting):
                index.write_table(table.cast(schema), row_group_size=len(table))
        self._waiting.unlink()

    def _pack(self) -> None:
        if self._file is None:
            self._waiting.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.ipc.new_stream(self._waiting, INDEX_SCHEMA)
        self._file.write_table(_rows(self._records, self._locations, first=self._num_packed))
        self._num_packed += len(self._records)
        self._records, self._locations = [], []
        # Arrow keeps what it freed for later, as much as it ever had.
        pa.default_memory_pool().release_unused()


def _rows(records: Sequence[ChipRecord], locations: Sequence[tuple[str, int]], *, first: int) -> pa.Table:
    columns: dict[str, Any] = {
        "chip": range(first, first + len(records)),
        "array": [array for array, _ in locations],
        "array_row": [row for _, row in locations],
    }
    for field in INDEX_SCHEMA.names[3:]:
        columns[field] = [getattr(record, field) for record in records]
    return pa.table(columns, schema=INDEX_SCHEMA)


def _groups(path: Path) -> Iterator[pa.Table]:
    """Give the rows that wait in tables of one piece, because the bytes of a file depend on how a table is cut."""
    batches: list[pa.RecordBatch] = []
    with pa.ipc.open_stream(path) as stream:
        for batch in stream:
            batches.append(batch)
            if len(batches) == _BATCHES_A_GROUP:
                yield pa.Table.from_batches(batches).combine_chunks()
                batches = []
    if batches:
        yield pa.Table.from_batches(batches, INDEX_SCHEMA).combine_chunks()


def chips_of(table: pa.Table) -> Iterator[tuple[str, str, str, str]]:
    """Give (place, cell, sensor, split) of each chip of an index."""
    for batch in table.select(["place", "cell", "sensor", "split"]).to_batches(max_chunksize=_ROWS_TOGETHER):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def read_index(location: StoreLocation) -> pa.Table:
    """Read the index of a store and check its columns.

    Raises:
        StoreError: the file is missing, broken, or lacks a column; or object storage can't be reached.
    """
    path = location.file("index.parquet")
    try:
        content = location.read("index.parquet")
        if content is None:
            raise StoreError(f"the chip store has no index: there is no '{path}'; prepare the store again")
        table = pq.read_table(pa.BufferReader(content))
    except StoreError:
        raise
    except (OSError, pa.ArrowException) as problem:
        raise StoreError(
            f"the index of the chip store can't be read: '{path}': {problem}; prepare the store again"
        ) from problem
    missing = [name for name in INDEX_SCHEMA.names if name not in table.column_names]
    if missing:
        raise StoreError(f"the index '{path}' lacks the columns {', '.join(missing)}; prepare the store again")
    return table


def _both(one: _Bounds, other: _Bounds) -> _Bounds:
    west, south, east, north = zip(one, other, strict=True)
    return min(west), min(south), max(east), max(north)


def _geo_metadata(bounds: _Bounds | None) -> dict[str, Any]:
    """Describe the geometry column. Without a `crs` entry it is in longitude and latitude (OGC:CRS84).

    Source: GeoParquet 1.1.0.
    """
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"] if bounds else []}
    if bounds:
        column["bbox"] = list(bounds)
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
