"""The index of a chip store: a row for each chip, as GeoParquet, written and read with pyarrow alone."""

import datetime as dt
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from anyband.data.store_location import StoreLocation
from anyband.errors import StoreError

__all__ = ["INDEX_SCHEMA", "SPLITS", "ChipRecord", "Split", "index_table", "read_index", "write_index"]

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

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


@dataclass(frozen=True, kw_only=True)
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


def index_table(records: Sequence[ChipRecord], locations: Sequence[tuple[str, int]]) -> pa.Table:
    """Make the table of the index, with GeoParquet metadata.

    Args:
        records: of the chips, in the order of the index.
        locations: (array, row of the array) of each chip.

    Returns:
        A table with `INDEX_SCHEMA`; column `chip` counts the rows.
    """
    columns: dict[str, list[Any]] = {
        "chip": list(range(len(records))),
        "array": [array for array, _ in locations],
        "array_row": [row for _, row in locations],
    }
    for field in INDEX_SCHEMA.names[3:]:
        columns[field] = [getattr(record, field) for record in records]
    schema = INDEX_SCHEMA.with_metadata({"geo": json.dumps(_geo_metadata(records))})
    return pa.table(columns, schema=schema)


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


def _geo_metadata(records: Iterable[ChipRecord]) -> dict[str, Any]:
    """Describe the geometry column. Without a `crs` entry it is in longitude and latitude (OGC:CRS84).

    Source: GeoParquet 1.1.0.
    """
    bounds = [record.bounds for record in records if record.bounds is not None]
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": ["Polygon"] if bounds else []}
    if bounds:
        west, south, east, north = zip(*bounds, strict=True)
        column["bbox"] = [min(west), min(south), max(east), max(north)]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
