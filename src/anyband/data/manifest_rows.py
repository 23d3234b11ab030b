"""Tables of images as rows, column → value: CSV, YAML (a list of mappings) or Parquet; nothing is checked yet."""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from anyband.errors import ManifestError
from anyband.yaml_files import read_yaml

__all__ = ["MANIFEST_ENDINGS", "iterate_rows", "read_rows"]

MANIFEST_ENDINGS = (".csv", ".yaml", ".yml", ".parquet", ".geoparquet")

# chosen: few enough to take no room.
_ROWS_READ_TOGETHER = 1024


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a table (`MANIFEST_ENDINGS`), column → value; nothing is checked but that it is a table.

    Raises:
        ManifestError: the file is missing or no table.
    """
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a table one by one; only YAML is held whole.

    Raises:
        ManifestError: as `read_rows`, when the row is reached.
    """
    ending = path.suffix.casefold()
    if ending == ".csv":
        return _csv_rows(path)
    return _yaml_rows(path) if ending in (".yaml", ".yml") else _parquet_rows(path)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_distinct(header, path)
            filled = (row for row in reader if any(cell.strip() for cell in row))
            for number, row in enumerate(filled, 1):
                if len(row) != len(header):
                    raise ManifestError(
                        f"row {number} of '{path}' has {len(row)} cells, the header has {len(header)} columns"
                    )
                yield dict(zip(header, (cell.strip() for cell in row), strict=True))
    except OSError as problem:
        raise ManifestError(f"cannot read manifest '{path}': {problem.strerror or problem}") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ManifestError(f"manifest '{path}' is no CSV text in UTF-8: {problem}") from problem


def _check_distinct(header: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ManifestError(f"manifest '{path}' has column '{twice[0]}' twice; keep one of them")


def _yaml_rows(path: Path) -> Iterator[dict[str, Any]]:
    rows = read_yaml(path, error=ManifestError)
    if rows is None:
        return
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ManifestError(f"manifest '{path}' must be a list with a mapping for each image")
    yield from rows


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            _check_distinct(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=_ROWS_READ_TOGETHER):
                # Tables of data frames hold NaN where nothing stands.
                yield from (
                    {key: None if _is_nan(value) else value for key, value in row.items()} for row in batch.to_pylist()
                )
    except (OSError, pa.ArrowException) as problem:
        raise ManifestError(f"cannot read manifest '{path}': {problem}") from problem


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
