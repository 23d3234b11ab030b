"""Manifests: which images there are, of which sensor, place and date."""

import csv
import datetime as dt
import glob
import json
import math
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyband.arrays import LazySequence
from anyband.data.chip_index import SPLITS, Split
from anyband.errors import AnybandError, ManifestError, OutputError, nearest_name
from anyband.files import read_yaml
from anyband.rasters.reader import RasterSource
from anyband.sensors.catalogue import find_sensor_name, resolve_sensor
from anyband.sensors.sensor import Encoding, Sensor

__all__ = [
    "COLUMNS",
    "MANIFEST_ENDINGS",
    "ImageEntry",
    "ImageList",
    "entries_from_globs",
    "entry_sensor",
    "is_future",
    "iterate_rows",
    "open_manifest",
    "parse_entry",
    "read_manifest",
    "read_rows",
    "repeated_images",
]

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


COLUMNS = {
    "path": "a file, a folder of single-band files, or several joined by `;`",
    "sensor": "name in the catalogue, or a YAML file that describes one",
    "place": "images of one place show the same ground; empty: found by overlap",
    "datetime": "time of acquisition, ISO 8601; UTC where no zone is given",
    "bands": "`B02=name;B03=name`: band = name or number in the file; `B02;B03`: these, in this order",
    "encoding": "how the numbers are stored: a name that the sensor declares",
    "scale": "physical units per stored unit, instead of the encoding's",
    "offset": "physical value of a stored 0, instead of the encoding's",
    "nodata": "stored number that means no data, instead of the file's",
    "time": "which time of a file with a time axis: number from 0, or ISO date",
    "valid": "mask files, several joined by `;`; a pixel is data where all say so",
    "valid_values": "values of the masks that mean data; empty: all but 0",
    "valid_variable": "variable or band of the mask files",
    "split": "train, val or test; empty: drawn for the place",
}

# chosen: local time that is taken for UTC is half a day ahead at most.
_CLOCKS_DIFFER = dt.timedelta(days=1)

# Name of an encoding that a list declares by numbers.
_DECLARED = "declared by the list of images"

# A GeoParquet file has these whether asked for or not.
_IGNORED = ("geometry", "bbox")

# Thousands of images hold one of a few.
_shared_encodings: dict[tuple[tuple[str, Encoding], ...], tuple[tuple[str, Encoding], ...]] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEntry:
    """One image of a manifest, checked."""

    name: str
    """Path as the manifest writes it, for messages and the index."""
    source: RasterSource
    """Files, and what they don't say themselves."""
    sensor: Sensor
    """With the bands asked for, in their order."""
    product: Sensor
    """The whole sensor, with all its bands."""
    encoding: tuple[tuple[str, Encoding], ...]
    """(band, how its numbers are stored) for each band."""
    place: str | None = None
    """Identity of the ground; None: found by overlap."""
    datetime: dt.datetime | None = None
    """Time of acquisition, UTC; None: the file's own, if it has one."""
    split: Split | None = None
    """Part of the data; None: drawn for the place."""


def is_future(time: dt.datetime) -> bool:
    """Tell whether a time lies more than a day ahead: a clock or a time zone may be off, not a date."""
    return time > dt.datetime.now(dt.UTC) + _CLOCKS_DIFFER


def parse_entry(row: Mapping[str, Any], *, folder: Path, known: Mapping[str, Sensor] | None = None) -> ImageEntry:
    """Check one row.

    Args:
        row: column → value; None or empty text means absent.
        folder: that relative paths are relative to.
        known: sensors by name that the catalogue need not have.

    Raises:
        ManifestError: a column is unknown or missing, or a value is wrong.
        CatalogueError: the sensor, a band or the encoding is unknown.
    """
    given = {key: value for key, value in row.items() if not _is_absent(value) and key not in _IGNORED}
    for key in given:
        if key not in COLUMNS:
            raise ManifestError(f"column '{key}' is unknown ({', '.join(COLUMNS)}){nearest_name(str(key), COLUMNS)}")
    for key in ("path", "sensor"):
        if key not in given:
            raise ManifestError(f"'{key}' is missing; it is {COLUMNS[key]}")
    paths = _paths(given["path"], folder)
    product = _sensor(str(given["sensor"]), folder, known or {})
    bands = _bands(given.get("bands"), paths, product)
    sensor = product.select(band for band, _ in bands) if bands else product
    time_index, time = _time(given.get("time"))
    source = RasterSource(
        paths=paths,
        bands=bands,
        time_index=time_index,
        time=time,
        valid_paths=_paths(given["valid"], folder) if "valid" in given else (),
        valid_values=tuple(_number(value, "valid_values") for value in _items(given.get("valid_values"))),
        valid_variable=str(given.get("valid_variable", "")),
        nodata=_optional_number(given, "nodata"),
        encoding=str(given["encoding"]) if "encoding" in given else None,
    )
    return ImageEntry(
        name=";".join(str(item) for item in _items(given["path"])),
        source=source,
        sensor=sensor,
        product=product,
        encoding=_encoding(given, sensor),
        place=str(given["place"]) if "place" in given else None,
        datetime=_taken(given["datetime"]) if "datetime" in given else None,
        split=_split(given.get("split")),
    )


def entry_sensor(entry: ImageEntry) -> Sensor:
    """Make the sensor of an image of a list: with its bands, and stored by default as the list says."""
    named = entry.source.encoding or entry.sensor.default_encoding
    stored = dict(entry.encoding)
    if all(dict(band.encodings).get(named) == stored[band.name] for band in entry.sensor.bands):
        return replace(entry.sensor, default_encoding=named)
    bands = tuple(replace(band, encodings=((_DECLARED, stored[band.name]),)) for band in entry.sensor.bands)
    return replace(entry.sensor, bands=bands, default_encoding=_DECLARED)


def _is_absent(value: Any) -> bool:
    return value is None or value == ""


def _items(value: Any) -> list[Any]:
    """Take a list as it is, text apart at `;`, and anything else as the only item."""
    if value is None:
        return []
    if isinstance(value, str):
        return [item.strip() for item in value.split(";") if item.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _paths(value: Any, folder: Path) -> tuple[Path, ...]:
    return tuple(folder / str(item) for item in _items(value))


def _sensor(name: str, folder: Path, known: Mapping[str, Sensor]) -> Sensor:
    is_file = name.casefold().endswith((".yaml", ".yml"))
    if name in known and find_sensor_name(name) is None:
        return known[name]
    return resolve_sensor(str(folder / name) if is_file else name)


def _bands(value: Any, paths: Sequence[Path], sensor: Sensor) -> tuple[tuple[str, str], ...]:
    """Read the bands: a mapping gives the name of each in the file; a list gives their order.

    In one GeoTIFF or the like the order numbers the bands of the file. A folder, several files or a netCDF
    have no order, so there the bands are found by their own names.
    """
    if isinstance(value, Mapping):
        named = [(str(band), str(name)) for band, name in value.items()]
    else:
        items = [str(item) for item in _items(value)]
        named = [(band.strip(), name.strip()) for band, _, name in (item.partition("=") for item in items)]
        if any(name for _, name in named) and not all(name for _, name in named):
            raise ManifestError(f"bands '{value}' name some bands of the file and not others")
        if not any(name for _, name in named) and _has_order(paths):
            named = [(band, str(number)) for number, (band, _) in enumerate(named, 1)]
    return tuple((sensor.band(band).name, name) for band, name in named)


def _has_order(paths: Sequence[Path]) -> bool:
    netcdf = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".cdf")
    return len(paths) == 1 and not paths[0].is_dir() and paths[0].suffix.casefold() not in netcdf


def _encoding(given: Mapping[str, Any], sensor: Sensor) -> tuple[tuple[str, Encoding], ...]:
    """Find how each band is stored: a scale or offset replaces that of the encoding, whose transform stays.

    A scale or offset without an encoding says all: `stored · scale + offset`.
    """
    scale, offset = _optional_number(given, "scale"), _optional_number(given, "offset")
    declares_all = "encoding" not in given and (scale is not None or offset is not None)
    name = str(given.get("encoding", sensor.default_encoding))
    found = []
    for band in sensor.bands:
        encoding = Encoding() if declares_all else band.encoding(name)
        if scale is not None or offset is not None:
            encoding = replace(
                encoding,
                scale=encoding.scale if scale is None else scale,
                offset=encoding.offset if offset is None else offset,
                source="the manifest",
            )
        found.append((band.name, encoding))
    return _shared_encodings.setdefault(tuple(found), tuple(found))


def _time(value: Any) -> tuple[int | None, dt.datetime | None]:
    if value is None:
        return None, None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value, None
    if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 8:
        return int(value), None
    return None, _datetime(value, "time")


def _taken(value: Any) -> dt.datetime:
    """Read when an image was taken."""
    time = _datetime(value, "datetime")
    if is_future(time):
        raise ManifestError(
            f"datetime '{value}' lies in the future (now is {dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%MZ}); "
            "correct it, or leave it out where it is unknown"
        )
    return time


def _datetime(value: Any, column: str) -> dt.datetime:
    """Read a time; a date is its midnight, and no zone means UTC."""
    if isinstance(value, dt.datetime):
        time = value
    elif isinstance(value, dt.date):
        time = dt.datetime(value.year, value.month, value.day)
    else:
        try:
            time = dt.datetime.fromisoformat(str(value).strip())
        except ValueError as problem:
            raise ManifestError(f"{column} '{value}' is not ISO 8601, such as 2020-07-01T10:30:00Z") from problem
    try:
        return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except OverflowError as problem:
        raise ManifestError(f"{column} '{value}' is before year 1 or after year 9999 in UTC") from problem


def _optional_number(given: Mapping[str, Any], column: str) -> float | None:
    return _number(given[column], column) if column in given else None


def _number(value: Any, column: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as problem:
        raise ManifestError(f"{column} '{value}' is not a number") from problem


def _split(value: Any) -> Split | None:
    if value is None:
        return None
    if value not in SPLITS:
        raise ManifestError(f"split '{value}' is unknown ({', '.join(SPLITS)}){nearest_name(str(value), SPLITS)}")
    return cast(Split, value)


class ImageList(LazySequence[ImageEntry]):
    """Images of a list, of which only the place in a file is kept; each is made anew when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Begin an empty list.

        Args:
            folder: that relative paths are relative to.
        """
        self._folder = folder
        # Without a name: it goes when this object goes, or the process, however it ends.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("q")

    def append(self, row: Mapping[str, Any], *, where: str) -> None:
        """Check a row and add its image.

        Args:
            row: column → value.
            where: the row stands, for messages.

        Raises:
            ManifestError: the row is wrong.
            OutputError: there is no room for temporary files.
        """
        # Times become text, which says the same.
        line = json.dumps(dict(row), default=str).encode() + b"\n"
        _located(json.loads(line), folder=self._folder, where=where)
        try:
            written = self._file.write(line)
        except OSError as problem:
            raise OutputError(f"cannot write a temporary file: {problem.strerror or problem}") from problem
        if written != len(line):
            raise OutputError(f"no room on the disk for a temporary file in '{tempfile.gettempdir()}'; free some")
        self._ends.append(len(line) + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        """Count the images."""
        return len(self._ends)

    def make(self, number: int) -> ImageEntry:
        """Make an image anew."""
        start = self._ends[number - 1] if number else 0
        line = os.pread(self._file.fileno(), self._ends[number] - start, start)
        return parse_entry(json.loads(line), folder=self._folder)


def repeated_images(entries: Sequence[ImageEntry]) -> dict[int, int]:
    """Find the images that stand in a list again: number → number of the first, both from 0.

    Images are the same where files, times and masks are, read as the same sensor.
    """
    digests = np.fromiter(map(_digest, entries), dtype="S16", count=len(entries))
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(entries)))
    return {int(number): int(first[which[number]]) for number in again}


def _digest(entry: ImageEntry) -> bytes:
    # NumPy drops zeros at the end of such a word, of all words alike.
    return blake2b(repr((entry.source, entry.sensor.name)).encode(), digest_size=16).digest()


def read_manifest(path: Path) -> list[ImageEntry]:
    """Read a manifest and check every row.

    Raises:
        ManifestError: the file is missing, empty, of unknown kind, or a row is wrong; the row is named.
    """
    return list(open_manifest(path))


def open_manifest(path: Path) -> "ImageList":
    """Check every row of a manifest, and leave them on the disk: for so many images that they would fill memory.

    Raises:
        ManifestError: as `read_manifest`.
    """
    if path.suffix.casefold() not in MANIFEST_ENDINGS:
        raise ManifestError(
            f"'{path}' is no manifest: its name ends in '{path.suffix}', allowed are "
            f"{', '.join(MANIFEST_ENDINGS)}; to prepare images directly, name their sensor with --sensor"
        )
    entries = ImageList(path.parent)
    for number, row in enumerate(iterate_rows(path), 1):
        entries.append(row, where=f"row {number} of '{path}'")
    if not entries:
        raise ManifestError(f"manifest '{path}' has no images; give it a row for each (columns: {', '.join(COLUMNS)})")
    _check_consistent(entries, path)
    return entries


def entries_from_globs(
    patterns: Sequence[str], *, sensor: str, encoding: str | None = None, bands: str | None = None
) -> "ImageList":
    """List the images that match file patterns, all of one sensor.

    Args:
        patterns: paths or patterns with `*`, `?` and `**`.
        sensor: of all of them.
        encoding: as in a manifest.
        bands: as in a manifest.

    Raises:
        ManifestError: nothing matches, or sensor, encoding or bands are wrong.
    """
    # `Path.glob` takes no absolute patterns.
    paths = {found for pattern in patterns for found in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    if not paths:
        raise ManifestError(f"no file matches {', '.join(repr(pattern) for pattern in patterns)}")
    entries = ImageList(Path())
    for path in sorted(paths):
        row = {"path": path, "sensor": sensor, "encoding": encoding, "bands": bands}
        entries.append(row, where=f"'{path}'")
    return entries


def _located(row: Mapping[str, Any], *, folder: Path, where: str) -> ImageEntry:
    try:
        return parse_entry(row, folder=folder)
    except AnybandError as problem:
        raise ManifestError(f"{where}: {problem}") from problem


def _check_consistent(entries: Sequence[ImageEntry], path: Path) -> None:
    """Refuse two rows that differ in what they say of one image. Of equal ones, one is left out later."""
    for number, first in repeated_images(entries).items():
        if entries[first] != entries[number]:
            raise ManifestError(
                f"rows {first + 1} and {number + 1} of '{path}' say different things of one image, "
                f"'{entries[number].name}'"
            )
