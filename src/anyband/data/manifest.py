"""Manifests: which images there are, of which sensor, place and date."""

import contextlib
import csv
import datetime as dt
import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from anyband.arrays import Array
from anyband.data.store import SPLITS, Split
from anyband.errors import (
    AnybandError,
    CatalogueError,
    GeometryError,
    ManifestError,
    RasterError,
    check_text,
    counted,
    is_text,
    nearest_name,
)
from anyband.files import check_regular, file_identity, found_paths, read_yaml
from anyband.rasters.reader import AVAILABLE, NETCDF_ENDINGS, RasterSource, file_sensor, open_raster, open_sheet
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import FILE_ENCODINGS, Encoding, Sensor

__all__ = [
    "COLUMNS",
    "MANIFEST_ENDINGS",
    "ImageEntry",
    "ImageList",
    "entries_from_globs",
    "entry_sensor",
    "identity",
    "is_future",
    "open_manifest",
    "parse_entry",
    "read_manifest",
    "rows_of",
]

MANIFEST_ENDINGS = (".csv", ".yaml", ".yml", ".parquet", ".geoparquet")

# chosen: few enough to take no room.
_ROWS_READ_TOGETHER = 1024


# What spreadsheets write instead of commas.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a table (`MANIFEST_ENDINGS`) one by one, column → value; only YAML is held whole. Nothing is
    checked but that it is a table."""
    check_regular(path, error=ManifestError)
    ending = path.suffix.casefold()
    if ending == ".csv":
        return _csv_rows(path)
    return _yaml_rows(path) if ending in (".yaml", ".yml") else _parquet_rows(path)


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            other = next((mark for mark in _OTHER_SEPARATORS if mark in first and "," not in first), None)
            if other is not None:
                raise ManifestError(
                    f"'{path}' separates its columns by {_OTHER_SEPARATORS[other]}; write it with commas, as "
                    "`pandas.DataFrame.to_csv` does"
                )
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_distinct(header, path)
            filled = (row for row in reader if any(cell.strip() for cell in row))
            for number, row in enumerate(filled, 1):
                if len(row) != len(header):
                    raise ManifestError(
                        f"row {number} of '{path}' has {counted(len(row), 'cell')}, the header has "
                        f"{counted(len(header), 'column')}"
                    )
                yield dict(zip(header, (cell.strip() for cell in row), strict=True))
    except OSError as problem:
        raise ManifestError(f"cannot read manifest '{path}': {problem.strerror or problem}") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        wide = isinstance(problem, UnicodeDecodeError) and problem.object[:2] in (b"\xff\xfe", b"\xfe\xff")
        found = "it is UTF-16; save it as `CSV UTF-8`" if wide else problem
        raise ManifestError(f"manifest '{path}' is no CSV text in UTF-8: {found}") from problem


def _check_distinct(header: Sequence[str], path: Path) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ManifestError(f"manifest '{path}' has column '{twice[0]}' twice; keep one of them")


def _yaml_rows(path: Path) -> Iterator[dict[str, Any]]:
    # Names such as NO, 007 or 1e3 stay as they are written.
    rows = read_yaml(path, error=ManifestError, as_texts=True)
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
    except (OSError, OverflowError, pa.ArrowException) as problem:
        raise ManifestError(f"cannot read manifest '{path}': {problem}") from problem


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


COLUMNS = {
    "path": "a file, a folder of single-band files, or several joined by `;`",
    "sensor": "name in the catalogue, or a YAML file that describes one",
    "place": "images of one place show the same ground; empty: found by overlap",
    "datetime": "time of acquisition, ISO 8601; UTC where no zone is given",
    "bands": "`B02=name;B03=name`: band = name or number in the file; `B02;B03`: these, in this order; `available`: "
    "those that the file names",
    "encoding": "how the numbers are stored: a name that the sensor declares; `tags`: the file's own scale and offset",
    "scale": "physical units per stored unit, instead of the encoding's",
    "offset": "physical value of a stored 0, instead of the encoding's",
    "nodata": "digital number that means no data, instead of the file's",
    "time": "which time of a file with a time axis: number from 0, ISO date, `first/last` of either, or `all`",
    "time_index": "the same, by number only",
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

# Thousands of images share a few sensors: (sensor by its id, bands, encoding, scale, offset) → the sensor, its bands
# asked for, and how each is stored. The sensor stands in the value too, so that no other gets its id.
_declared: dict[tuple[Any, ...], tuple[Sensor, Sensor, tuple[tuple[str, Encoding], ...]]] = {}
_MAX_DECLARED = 1024


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
    """(band, how its numbers are stored) for each band; empty: that is in the file (`tags`, `physical`)."""
    place: str | None = None
    """Identity of the ground; None: found by overlap."""
    datetime: dt.datetime | None = None
    """Time of acquisition, UTC; None: the file's own, if it has one."""
    split: Split | None = None
    """None: drawn for the place."""


def is_future(time: dt.datetime) -> bool:
    """Tell whether a time lies more than a day ahead: a clock or a time zone may be off, not a date."""
    return time > dt.datetime.now(dt.UTC) + _CLOCKS_DIFFER


def parse_entry(row: Mapping[str, Any], *, folder: Path, known: Mapping[str, Sensor] | None = None) -> ImageEntry:
    """Check one row (None or empty text means absent); `known` has sensors that the catalogue need not have.
    `ManifestError` for a column that is unknown or missing, or a wrong value; `CatalogueError` for an unknown sensor,
    band or encoding."""
    given = {key: value for key, value in row.items() if not (value is None or value == "") and key not in _IGNORED}
    for key, value in given.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            check_text(str(text), error=ManifestError)
        if key not in COLUMNS:
            raise ManifestError(f"column '{key}' is unknown ({', '.join(COLUMNS)}){nearest_name(str(key), COLUMNS)}")
    for key in ("path", "sensor"):
        if key not in given:
            raise ManifestError(f"'{key}' is missing; it is {COLUMNS[key]}")
    names, masks = (_file_items(given.get(column), folder) for column in ("path", "valid"))
    paths = tuple(folder / name for name in names)
    product = _product(str(given["sensor"]), folder, known or {})
    bands = _bands(given["bands"], paths, product) if "bands" in given else ()
    scale, offset, nodata = (
        _number(given[column], column) if column in given else None for column in ("scale", "offset", "nodata")
    )
    encoding = str(given["encoding"]) if "encoding" in given else None
    if "time" in given and "time_index" in given:
        raise ManifestError("`time` and `time_index` both say which time of the file; fill one of them")
    asked = given.get("time", given.get("time_index"))
    time_index, time = (None, None) if asked is None else _time(asked)
    source = RasterSource(
        paths=paths,
        bands=bands,
        time_index=time_index,
        time=time,
        valid_paths=tuple(folder / name for name in masks),
        valid_values=tuple(_number(value, "valid_values") for value in _items(given.get("valid_values"))),
        valid_variable=str(given.get("valid_variable", "")),
        nodata=nodata,
        encoding=encoding,
        acquired=_taken(given["datetime"]) if "datetime" in given else None,
    )
    wanted = _band_names(source, product) if bands == AVAILABLE else tuple(band for band, _ in bands)
    sensor, stored = _declaration(product, wanted, encoding, scale, offset)
    split = given.get("split")
    if split not in (None, *SPLITS):
        raise ManifestError(f"split '{split}' is unknown ({', '.join(SPLITS)}){nearest_name(str(split), SPLITS)}")
    return ImageEntry(
        name=";".join(names),
        source=source,
        sensor=sensor,
        product=product,
        encoding=stored,
        place=str(given["place"]) if "place" in given else None,
        datetime=source.acquired,
        split=split,
    )


def _band_names(source: RasterSource, product: Sensor) -> tuple[str, ...]:
    """Read the names of the bands that a file has."""
    # What can't be read is said by whoever reads it.
    with contextlib.suppress(RasterError, GeometryError), open_raster(source, product) as reader:
        return reader.band_names
    return ()


def entry_sensor(entry: ImageEntry) -> Sensor:
    """Make the sensor of an image of a list: with its bands, and stored by default as the list says. Where that is in
    the file, it is opened."""
    if entry.source.encoding in FILE_ENCODINGS:
        return file_sensor(entry.source, entry.sensor)
    named = entry.source.encoding or entry.sensor.default_encoding
    stored = dict(entry.encoding)
    if all(dict(band.encodings).get(named) == stored[band.name] for band in entry.sensor.bands):
        return replace(entry.sensor, default_encoding=named)
    bands = tuple(replace(band, encodings=((_DECLARED, stored[band.name]),)) for band in entry.sensor.bands)
    return replace(entry.sensor, bands=bands, default_encoding=_DECLARED)


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [item.strip() for item in value.split(";") if item.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def _file_items(value: Any, folder: Path) -> list[str]:
    """List files; a `;` is part of a name where a file has that name."""
    is_one = isinstance(value, str) and ";" in value and os.path.lexists(folder / value.strip())
    return [str(value).strip()] if is_one else [str(item) for item in _items(value)]


def _product(name: str, folder: Path, known: Mapping[str, Sensor]) -> Sensor:
    try:
        return get_sensor(folder / name if name.casefold().endswith((".yaml", ".yml")) else name)
    except CatalogueError:
        if name in known:
            return known[name]
        raise


def _declaration(
    product: Sensor, names: tuple[str, ...], encoding: str | None, scale: float | None, offset: float | None
) -> tuple[Sensor, tuple[tuple[str, Encoding], ...]]:
    """Find the requested bands of a sensor, and how each is stored: the same objects for rows that say the same. A
    scale or offset replaces that of the encoding, whose transform stays; without one they say all."""
    key = (id(product), names, encoding, scale, offset)
    if key not in _declared:
        sensor = product.select(names) if names else product
        is_given = scale is not None or offset is not None
        if is_given and encoding in FILE_ENCODINGS:
            raise ManifestError(f"encoding '{encoding}' takes scale and offset from the file; leave out those columns")
        stored = []
        in_file = encoding in FILE_ENCODINGS and any(encoding not in dict(band.encodings) for band in sensor.bands)
        for band in () if in_file else sensor.bands:
            plain = is_given and encoding is None
            found = Encoding() if plain else band.encoding(encoding or sensor.default_encoding)
            if is_given:
                found = replace(
                    found,
                    scale=found.scale if scale is None else scale,
                    offset=found.offset if offset is None else offset,
                    source="the manifest",
                )
            stored.append((band.name, found))
        if len(_declared) == _MAX_DECLARED:
            _declared.clear()
        _declared[key] = product, sensor, tuple(stored)
    return _declared[key][1:]


def _bands(value: Any, paths: Sequence[Path], sensor: Sensor) -> tuple[tuple[str, str], ...]:
    """Read the bands: a mapping gives the name of each in the file, a list their order. In one GeoTIFF or the like the
    order numbers the file's bands; a folder, several files or a netCDF have none, so there bands are found by their own
    names."""
    if _items(value) == ["available"]:
        return AVAILABLE
    if isinstance(value, str) and ";" not in value:
        # As other lists of the command line are written; no name of a band has a comma.
        value = value.replace(",", ";")
    if isinstance(value, Mapping):
        named = [(str(band), str(name)) for band, name in value.items()]
    else:
        items = [str(item) for item in _items(value)]
        named = [(band.strip(), name.strip()) for band, _, name in (item.partition("=") for item in items)]
        if any(name for _, name in named) and not all(name for _, name in named):
            raise ManifestError(f"bands '{value}' name some bands of the file and not others")
        has_order = len(paths) == 1 and not paths[0].is_dir() and paths[0].suffix.casefold() not in NETCDF_ENDINGS
        if not any(name for _, name in named) and has_order:
            named = [(band, str(number)) for number, (band, _) in enumerate(named, 1)]
    return tuple((sensor.band(band).name, name) for band, name in named)


# chosen: longer ones are dates without dashes.
_INDEX = re.compile(r"-?[0-9]{1,7}", re.ASCII)


def _time(value: Any) -> tuple[int | None, dt.datetime | None]:
    if _asks_for_several(value):
        raise ManifestError(f"time '{value}' asks for several images of a file; name one, by its number or date")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value, None
    if isinstance(value, str) and _INDEX.fullmatch(value):
        return int(value), None
    return None, _datetime(value, "time")


def _asks_for_several(value: Any) -> bool:
    return len(_items(value)) > 1 or (isinstance(value, str) and (value.casefold() == "all" or "/" in value))


def _rows_of_times(row: Mapping[str, Any], folder: Path) -> Iterator[Mapping[str, Any]]:
    """Give a row for each time of its file that a row asks for."""
    if not _asks_for_several(row.get("time")):
        yield row
        return
    if row.get("datetime") not in (None, ""):
        raise ManifestError(f"`datetime` is of one image, and time '{row['time']}' asks for several; leave it out")
    for text in map(str, _items(row["time"])):
        yield from ({**row, "time": one} for one in _times_within(text, _file_items(row.get("path"), folder), folder))


def _times_within(text: str, names: Sequence[str], folder: Path) -> list[str | None]:
    """List the times of a file that `all`, `first/last` or a single one mean; of several files by date. A file that
    can't be read gives one image without a time, whose reason is said when it is used."""
    if not _asks_for_several(text):
        return [text]
    path = folder / names[0] if names else folder
    try:
        times = _times_of(path, path.stat().st_mtime_ns)
    except (AnybandError, OSError, ValueError):
        return [None]
    first, slash, last = (part.strip().removeprefix("..") for part in text.partition("/"))
    if not times and not slash:
        return [None]
    if not times:
        raise ManifestError(f"time '{text}' is a range, and '{path}' has no time axis; leave it out")
    indices: Sequence[int] = range(len(times))
    if slash and all(_INDEX.fullmatch(part) for part in (first, last) if part):
        size, start, stop = len(times), int(first or 0), int(last or -1)
        is_inside = -size <= min(start, stop) and max(start, stop) < size
        indices = indices[start % size : stop % size + 1] if is_inside else []
    elif slash:
        indices = _indices_between(times, first, last)
    if not indices:
        known = [f"{time:%Y-%m-%d}" for time in times if time is not None]
        span = f", {min(known)} to {max(known)}" if known else " whose dates can't be read; use their numbers"
        raise ManifestError(f"time '{text}': '{path}' has none there; it has {len(times)}{span}")
    several = ((index, times[index] if len(names) > 1 else None) for index in indices)
    return [str(index) if time is None else time.isoformat() for index, time in several]


def _indices_between(times: Sequence[dt.datetime | None], first: str, last: str) -> list[int]:
    """Find the times from one to another, both meant; a last day to its end, an empty one without end."""
    start, stop = (_datetime(part, "time") if part else None for part in (first, last))
    if stop is not None and len(last) <= len("2020-01-01"):
        # The last day of all has no day after it.
        stop += min(dt.timedelta(days=1, microseconds=-1), dt.datetime.max.replace(tzinfo=dt.UTC) - stop)
    known = [(index, time) for index, time in enumerate(times) if time is not None]
    return [one for one, time in known if (start is None or time >= start) and (stop is None or time <= stop)]


@functools.lru_cache(maxsize=1024)
def _times_of(path: Path, _state: int) -> tuple[dt.datetime | None, ...]:
    """Read the times of a file, None for one that can't be read; none at all where it has no time axis."""
    with contextlib.closing(open_sheet(path, time_index=0)) as sheet:
        if sheet.time_index is None:
            return ()
        return tuple(sheet.times) or (None,) * int(getattr(sheet, "num_times", 0))


def _taken(value: Any) -> dt.datetime:
    time = _datetime(value, "datetime")
    if is_future(time):
        now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%MZ}"
        raise ManifestError(
            f"datetime '{value}' lies in the future (now is {now}); correct it, or leave it out where it is unknown"
        )
    return time


def _datetime(value: Any, column: str) -> dt.datetime:
    """Read a time; a date is its midnight, and no zone means UTC."""
    try:
        # Tables and YAML give times of several classes; their texts are ISO 8601.
        time = dt.datetime.fromisoformat(str(value).strip())
    except ValueError as problem:
        raise ManifestError(f"{column} '{value}' is not ISO 8601, such as 2020-07-01T10:30:00Z") from problem
    try:
        return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
    except OverflowError as problem:
        raise ManifestError(f"{column} '{value}' is before year 1 or after year 9999 in UTC") from problem


def _number(value: Any, column: str) -> float:
    # Python would take 1_000 for a number, and YAML writes .nan and .inf.
    text = str(value).strip().replace("_", "?")
    try:
        number = float(re.sub(r"^([-+]?)\.(?=[ni])", r"\1", text, flags=re.IGNORECASE))
    except ValueError as problem:
        raise ManifestError(f"{column} '{value}' is not a number") from problem
    if math.isinf(number) and "inf" not in text.casefold():
        raise ManifestError(f"{column} '{text[:40]}' is larger than any number that is computed with")
    return number


class ImageList:
    """Images of a list, each made from its row whenever they are gone through, so that none is kept."""

    def __init__(self, name: str, folder: Path, rows: Callable[[], Iterable[tuple[str, Mapping[str, Any]]]]) -> None:
        """Check every row. `rows` gives (where it stands, column → value) of each image, as often as it is called.
        `ManifestError` where a row is wrong, or two say different things of one image."""
        self._name, self._folder, self._rows = name, folder, rows
        self.notes: tuple[str, ...] = ()
        identities = np.fromiter(map(identity, self), dtype="S16")
        self._length = len(identities)
        self._check_consistent(identities)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[ImageEntry]:
        for where, row in self._rows():
            try:
                for one in _rows_of_times(row, self._folder):
                    yield parse_entry(one, folder=self._folder)
            except AnybandError as problem:
                raise ManifestError(f"{where}: {problem}") from problem

    def _check_consistent(self, identities: Array) -> None:
        """Refuse two rows that differ in what they say of one image. Of equal ones, one is left out later."""
        _, first, which = np.unique(identities, return_index=True, return_inverse=True)
        again = {int(row): int(first[which[row]]) for row in np.flatnonzero(first[which] != np.arange(len(which)))}
        wanted = {*again, *again.values()}
        seen = {number: entry for number, entry in enumerate(self) if number in wanted} if wanted else {}
        for number, one in again.items():
            if _declared_of(seen[one]) != _declared_of(seen[number]):
                raise ManifestError(
                    f"rows {one + 1} and {number + 1} of '{self._name}' say different things of one image, "
                    f"'{seen[number].name}'"
                )


def _declared_of(entry: ImageEntry) -> ImageEntry:
    """Leave out by which way the files are named."""
    return replace(entry, name="", source=replace(entry.source, paths=(), valid_paths=()))


def identity(entry: ImageEntry) -> bytes:
    """Hash what makes an image: images are the same where files, bands, times and masks are, read as the same sensor.
    A file is the same by any path, symbolic or hard link."""
    one = entry.source
    files = [sorted(map(repr, map(file_identity, paths))) for paths in (one.paths, one.valid_paths)]
    what = (files, one.bands, one.time_index, one.time, one.valid_values, one.valid_variable, entry.sensor.name)
    # NumPy drops zeros at the end of such a word, of all words alike.
    return blake2b(repr(what).encode(), digest_size=16).digest()


def read_manifest(path: Path) -> list[ImageEntry]:
    """Read a manifest and check every row; `ManifestError` names the file or row that is wrong."""
    return list(open_manifest(path))


def open_manifest(path: Path) -> ImageList:
    """Check every row of a manifest, and leave them on the disk: for so many images that they would fill memory."""
    if path.suffix.casefold() not in MANIFEST_ENDINGS:
        raise ManifestError(
            f"'{path}' is no manifest: its name ends in '{path.suffix}', allowed are "
            f"{', '.join(MANIFEST_ENDINGS)}; to prepare images directly, name their sensor with --sensor"
        )
    # YAML is read slowly, and whole.
    held = list(rows_of(path)) if path.suffix.casefold() in (".yaml", ".yml") else None

    def rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, row in enumerate(rows_of(path) if held is None else held, 1):
            yield f"row {number} of '{path}'", row

    entries = ImageList(str(path), path.parent, rows)
    if not len(entries):
        raise ManifestError(f"manifest '{path}' has no images; give it a row for each (columns: {', '.join(COLUMNS)})")
    return entries


def entries_from_globs(
    patterns: Sequence[str], *, sensor: str, encoding: str | None = None, bands: str | None = None
) -> ImageList:
    """List the images that are named, or match patterns, all of one sensor; `ManifestError` where there is none. Files
    that match and whose names are no text are left out, which `ImageList.notes` says."""
    found = sorted({found for pattern in patterns for found in found_paths(pattern)})
    if not found:
        raise ManifestError(f"no file matches {', '.join(repr(pattern) for pattern in patterns)}")
    paths = [path for path in found if path in patterns or is_text(path)]
    for path in paths or found:
        check_text(path, error=ManifestError)
    columns = {"sensor": sensor, "encoding": encoding, "bands": bands}
    listed = ImageList(patterns[0], Path(), lambda: ((f"'{path}'", {"path": [path], **columns}) for path in paths))
    left_out = [path for path in found if path not in paths]
    if left_out:
        number = counted(len(left_out), "file", "are")
        listed.notes = (
            f"{number} left out, with bytes in the name that are no UTF-8, first {left_out[0]!r}: rename it",
        )
    return listed
