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

__all__ = [
    "INDEX_SCHEMA",
    "SPLITS",
    "ChipRecord",
    "IndexColumns",
    "Split",
    "chips_of",
    "index_table",
    "read_index",
    "write_index",
]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

# chosen: rows that are Python objects together, some kilobytes each; as columns they take a tenth.
_ROWS_TOGETHER = 4096

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


class IndexColumns:
    """The index while a store is written: rows become columns soon, which take some hundred bytes a chip."""

    def __init__(self) -> None:
        """Begin without rows."""
        self._parts: list[pa.Table] = []
        self._records: list[ChipRecord] = []
        self._locations: list[tuple[str, int]] = []
        self._bounds: _Bounds | None = None
        self._num_packed = 0

    def __len__(self) -> int:
        """Count the rows."""
        return self._num_packed + len(self._records)

    def add(self, record: ChipRecord, location: tuple[str, int]) -> None:
        """Add a chip: what is said of it, and (array, row of the array)."""
        self._records.append(record)
        self._locations.append(location)
        if record.bounds is not None:
            self._bounds = record.bounds if self._bounds is None else _both(self._bounds, record.bounds)
        if len(self._records) == _ROWS_TOGETHER:
            self._pack()

    def table(self) -> pa.Table:
        """Make the table, with GeoParquet metadata."""
        self._pack()
        schema = INDEX_SCHEMA.with_metadata({"geo": json.dumps(_geo_metadata(self._bounds))})
        # In one piece, because the bytes of a file depend on how its table is cut.
        return pa.concat_tables([INDEX_SCHEMA.empty_table(), *self._parts]).combine_chunks().cast(schema)

    def chips(self) -> Iterator[tuple[str, str, str, str]]:
        """Give (place, cell, sensor, split) of each chip."""
        self._pack()
        for part in self._parts:
            yield from chips_of(part)

    def _pack(self) -> None:
        count = len(self._records)
        columns: dict[str, Any] = {
            "chip": range(self._num_packed, self._num_packed + count),
            "array": [array for array, _ in self._locations],
            "array_row": [row for _, row in self._locations],
        }
        for field in INDEX_SCHEMA.names[3:]:
            columns[field] = [getattr(record, field) for record in self._records]
        self._parts.append(pa.table(columns, schema=INDEX_SCHEMA))
        self._records, self._locations = [], []
        self._num_packed += count


def chips_of(table: pa.Table) -> Iterator[tuple[str, str, str, str]]:
    """Give (place, cell, sensor, split) of each chip of an index."""
    for batch in table.select(["place", "cell", "sensor", "split"]).to_batches(max_chunksize=_ROWS_TOGETHER):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def index_table(records: Sequence[ChipRecord], locations: Sequence[tuple[str, int]]) -> pa.Table:
    """Make the table of the index, with GeoParquet metadata.

    Args:
        records: of the chips, in the order of the index.
        locations: (array, row of the array) of each chip.

    Returns:
        A table with `INDEX_SCHEMA`; column `chip` counts the rows.
    """
    columns = IndexColumns()
    for record, location in zip(records, locations, strict=True):
        columns.add(record, location)
    return columns.table()


def write_index(table: pa.Table, path: Path) -> None:
    """Write an index; equal tables give equal bytes."""
    pq.write_table(table, path, compression="zstd", store_schema=True)


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
