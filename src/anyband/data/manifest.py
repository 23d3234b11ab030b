"""Images of a list: which file is of which sensor, and what the file does not say itself.

A manifest is CSV, YAML (a list of mappings) or Parquet, with the columns of `COLUMNS`. Paths are relative to
it. Everything is checked before any image is opened.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from anyband.data.chip_index import SPLITS, Split
from anyband.data.rasters.records import RasterSource
from anyband.errors import ManifestError, nearest_name
from anyband.sensors.catalogue import find_sensor_name, resolve_sensor
from anyband.sensors.sensor import Encoding, Sensor

__all__ = ["COLUMNS", "ImageEntry", "entry_sensor", "is_future", "parse_entry"]

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
