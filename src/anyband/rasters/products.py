"""What products say of their images by tags, names of files and metadata beside them: scale and offset, and dates."""

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anyband.arrays import Array
from anyband.errors import RasterError
from anyband.files import OwnLoader
from anyband.sensors.sensor import BY_BASELINE, Scaling, Sensor

__all__ = [
    "NOT_READ",
    "Times",
    "counted_times",
    "date_of",
    "in_utc",
    "product_scaling",
    "product_time",
    "tagged_scaling",
]

# Source: ESA, Sentinel-2 Products Specification Document: reflectance = (DN + offset) / quantification value, bands by
# their numbers in this order. Since processing baseline 04.00 the offset is -1000.
_PRODUCT_TAG = re.compile(
    r"(?:BOA_|RADIO_)?(QUANTIFICATION_VALUE|ADD_OFFSET)(?:_(\w+))?=\s*([-+]?\d+(?:\.\d*)?)\s*", re.I
)
_PRODUCT_FIELD = re.compile(
    r'<(?:BOA_|RADIO_)?(QUANTIFICATION_VALUE|ADD_OFFSET)\b(?:[^<>]*?band_id="(\d+)")?[^<>]*>\s*([-+]?\d+(?:\.\d*)?)\s*<'
)
_PRODUCT_BANDS = (*(f"B{number:02d}" for number in range(1, 9)), "B8A", "B09", "B10", "B11", "B12")
_BASELINE = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_\d{8}T\d{6}_N(0\d)(\d\d)_")
_GRANULE = re.compile(r"T\d\d[A-Z]{3}_\d{8}T\d{6}_")
_QUANTIFICATION, _OFFSET, _OFFSET_SINCE = 10_000.0, -1_000.0, 4
# chosen: more than such files have.
_MOST_PRODUCT_BYTES = 2**22


def tagged_scaling(tags: Mapping[str, str]) -> dict[str, Scaling]:
    """Read Sentinel-2's tags of scale and offset: band → scaling; of no name: all bands."""
    texts = (_PRODUCT_TAG.fullmatch(f"{key}={value}") for key, value in tags.items())
    found = [text.groups("") for text in texts if text is not None]
    return _product_scaling(found, "its tags BOA_ADD_OFFSET and QUANTIFICATION_VALUE") if found else {}


def _product_scaling(found: Iterable[tuple[str, ...]], where: str) -> dict[str, Scaling]:
    """Join (field, band, number) of a product: band → scaling; of no name: all bands."""
    numbers = {(key.upper(), band): float(value) for key, band, value in found}
    scale = numbers.pop(("QUANTIFICATION_VALUE", ""), _QUANTIFICATION if numbers else 0.0)
    offsets = {band: value for (key, band), value in numbers.items() if key == "ADD_OFFSET"} or {"": 0.0}
    return {band: (1 / scale, value / scale, where) for band, value in offsets.items()} if scale else {}


def product_scaling(path: Path, band: str) -> Scaling | None:
    """Tell what a Sentinel-2 product says of the scale and offset of a band of one of its files, by its metadata, else
    by the processing baseline in its name; None: it is of no product, or none says it."""
    product = next((one for one in path.parents if one.suffix == ".SAFE"), None) if ".SAFE" in str(path) else None
    if product is None and _GRANULE.match(path.name):
        product = path.parent
    found = {} if product is None else _metadata_scaling(product)
    if found:
        return found.get(band, found.get(""))
    named = _BASELINE.search(str(path))
    if named is None:
        return None
    offset = _OFFSET / _QUANTIFICATION if int(named[1]) >= _OFFSET_SINCE else 0.0
    return 1 / _QUANTIFICATION, offset, f"{BY_BASELINE} {named[1]}.{named[2]}"


@lru_cache(maxsize=64)
def _metadata_scaling(product: Path) -> dict[str, Scaling]:
    for path in product.glob("MTD_MSI*.xml"):
        with suppress(OSError, ValueError), path.open(encoding="utf-8") as file:
            found = _PRODUCT_FIELD.findall(file.read(_MOST_PRODUCT_BYTES))
            names = dict(enumerate(_PRODUCT_BANDS))
            fields = ((key, names.get(int(number), "") if number else "", value) for key, number, value in found)
            return _product_scaling(fields, f"'{path.name}' of its product")
    return {}


# Keys of tags, of any producer, without what is no letter, that say when an image was taken; and, last, one that often
# says when its file was written. Source: GDAL's IMAGERY domain, ENVI headers, EXIF, CF and ACDD, the products' headers.
_DATE_KEYS = (
    *("ACQUISITIONDATETIME", "ACQUISITIONDATE", "ACQUISITIONTIME", "ACQUISITIONSTART", "DATEACQUIRED", "ACQUIRED"),
    *("SENSINGTIME", "SENSINGSTART", "SENSINGSTARTTIME", "PRODUCTSTARTTIME", "DATATAKESENSINGSTART", "IMAGINGDATE"),
    *("TIMECOVERAGESTART", "RANGEBEGINNINGDATE", "STARTDATETIME", "DATETIME", "EXIFDATETIMEORIGINAL", "FIRSTLINETIME"),
    "TIFFTAGDATETIME",
)

_TABLE = Path(__file__).parent / "products.yaml"
# Mission, name and form of the time in it, of each.
_PRODUCTS = [
    (mission, re.compile(f"(?<![A-Za-z0-9]){name}", re.IGNORECASE), form)
    for mission, name, form in yaml.load(_TABLE.read_bytes(), OwnLoader)  # noqa: S506 - a SafeLoader
]


@lru_cache(maxsize=1024)
def product_time(name: str) -> tuple[str, datetime.datetime] | None:
    """Read from the name of a product, or of one of its files, which mission took it and when (UTC; a day is its
    midnight); None where it is no such name, or two days stand in it."""
    for mission, pattern, form in _PRODUCTS:
        found = pattern.findall(name)
        with suppress(ValueError):
            times = [datetime.datetime.strptime(text.upper(), form).replace(tzinfo=datetime.UTC) for text in found]
            if times:
                return (mission, times[0]) if len({time.date() for time in times}) == 1 else None
    return None


_MTL = re.compile(r"DATE_ACQUIRED\W+(\d{4}-\d\d-\d\d)(?:(?s:.{0,400}?)SCENE_CENTER_TIME\W+(\d\d:\d\d:\d\d))?")
# chosen: folders above a file that may be its product (SAFE has four), and bytes of a metadata file.
_PRODUCT_FOLDERS, _MTL_BYTES = 5, 2**16


def _time_of(text: str) -> datetime.datetime | None:
    """Read a time of a tag: ISO 8601, or as TIFF and EXIF write it; no zone means UTC."""
    plain = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip().removesuffix("UTC").strip())
    try:
        return in_utc(datetime.datetime.fromisoformat(plain))
    except (ValueError, OverflowError):
        return None


def _mtl_times(image: Path) -> list[datetime.datetime]:
    """Read the Landsat metadata in the folder of an image: of its own name, else all that is there, one for a day."""
    times: dict[str, dict[datetime.date, datetime.datetime]] = {}
    with suppress(OSError):
        for file in sorted(image.parent.iterdir()):
            scene = re.sub(r"_?mtl\.(txt|json|xml)$", "", file.name, flags=re.IGNORECASE)
            text = "" if scene == file.name else file.read_bytes()[:_MTL_BYTES].decode(errors="replace")
            found = _MTL.search(text)
            time = found and _time_of(f"{found[1]}T{found[2] or '00:00:00'}")
            if time:
                times.setdefault(scene, {})[time.date()] = time
    own = next((one for scene, one in times.items() if scene and image.name.startswith(scene)), None)
    every = {day: time for one in times.values() for day, time in one.items()}
    return list((own or every).values())


_WRITTEN_TAG = "TIFFTAG_DATETIME"
_SHOWN = 40  # characters of a text in a message


def date_of(
    sheets: Sequence[Any], sensor: Sensor, declared: datetime.datetime | None
) -> tuple[datetime.datetime | None, list[str]]:
    """Give when an image was taken, as it is declared or as its files (`Sheet`) say it, and what is to be said of it;
    `RasterError` where their times are of several days."""
    found, where = _found_date(sheets, sensor, is_declared=declared is not None)
    if found is None or declared is None:
        said = "no date is taken: {}; declare `datetime`" if found is None else "the date is that of {}"
        # What a file itself says of its times its sheet says.
        is_new = where and declared is None and not where.startswith("its ")
        return declared or found, [said.format(where)] if is_new else []
    differs = abs(declared - found) > datetime.timedelta(days=1) and _WRITTEN_TAG not in where
    return declared, [f"the declared date is taken, though {where} gives another"] if differs else []


def _found_date(sheets: Sequence[Any], sensor: Sensor, *, is_declared: bool) -> tuple[datetime.datetime | None, str]:
    """Find a date, and what says it: times of files, a tag, names of products, Landsat's metadata. Where names
    give several days there is none, and the text says so. A declared date is compared with one file's only."""
    timed = [(sheet.taken, sheet) for sheet in sheets if sheet.taken is not None]
    for time, sheet in timed[1:]:
        if time.date() != timed[0][0].date():
            raise RasterError(
                f"files of one image differ in time: '{timed[0][1].path}' gives {timed[0][0].date()}, "
                f"'{sheet.path}' gives {time.date()}; name a date as `time`, not a number"
            )
    if timed:
        return timed[0][0], "its time axis" if timed[0][1].times else "its metadata"
    sheets = sheets[:1] if is_declared else sheets
    tags, unread = [], list[str]()
    for read in filter(None, (getattr(sheet, "metadata", None) for sheet in sheets)):
        texts = read(everywhere=not is_declared)
        keys = {re.sub(r"[^A-Z]", "", key.upper()): key for key in reversed(list(texts))}
        dated = [(keys[key], _time_of(str(texts[keys[key]]))) for key in _DATE_KEYS if key in keys]
        odd = [key for key, time in dated if time is None and key.upper() != _WRITTEN_TAG and texts[key]]
        unread += [f"{key} ('{str(texts[key])[:_SHOWN]}')" for key in odd]
        tags += [(key, time) for key, time in dated if time is not None]
    for key, time in tags:
        if key.upper() != _WRITTEN_TAG:
            return time, f"the tag {key}"
    # A file is of the product that its own name says, else one of the folders that it lies in.
    above = ((sheet.path.stem, sheet.path.absolute().parents[:_PRODUCT_FOLDERS]) for sheet in sheets)
    ways = (map(product_time, (name, *(folder.name for folder in folders))) for name, folders in above)
    named = [found for way in ways if (found := next(filter(None, way), None)) is not None]
    if len({time.date() for _, time in named}) > 1:
        return None, "the names of its files give several days"
    if named:
        return min(time for _, time in named), f"the product name ({named[0][0]})"
    if sensor.name.startswith("landsat") and (times := _mtl_times(sheets[0].path)):
        return (times[0], "the MTL file") if len(times) == 1 else (None, "the MTL files beside it give several days")
    written = [time for _, time in tags if time < datetime.datetime.now(datetime.UTC)]
    if written:
        return written[0], f"the tag {_WRITTEN_TAG}, which may say when the file was written"
    return None, f"the tag {unread[0]} can't be read" if unread else ""


NOT_READ = "no date is taken from it; declare `datetime`"
"""What follows a time that can't be read."""
Times = tuple[tuple[datetime.datetime | None, ...], list[str]]
"""Times in UTC, None where the usual calendar has none; and what is to be said of each, empty where nothing is."""


def counted_times(values: Array, units: str, calendar: str) -> Times:
    """Count times from the start that their unit names."""
    import cftime

    unit, _, start = units.partition(" ")
    if unit.casefold() in ("nanosecond", "nanoseconds", "ns"):
        # cftime begins at microseconds.
        values, units = (values // 1000 if values.dtype.kind in "iu" else values / 1000), f"microseconds {start}"
    dates = cftime.num2date(values, units, calendar=calendar, only_use_cftime_datetimes=True)
    times, said = zip(*(_usual_time(date, calendar) for date in np.atleast_1d(dates)), strict=True)
    return times, list(said)


def _usual_time(date: Any, calendar: str) -> tuple[datetime.datetime | None, str]:
    """Bring a date of a calendar to the usual one, and say how."""
    if not hasattr(date, "isoformat"):
        return None, f"its time has no value: {NOT_READ}"
    day = date.isoformat()[:10]
    try:
        time = in_utc(datetime.datetime.fromisoformat(date.isoformat()))
    except ValueError:
        return None, f"its time is {day} in calendar '{calendar}', which the usual one does not have: {NOT_READ}"
    is_usual = calendar in ("standard", "gregorian", "proleptic_gregorian")
    return time, "" if is_usual else f"its calendar is '{calendar}': {day} was taken as the same day of the usual one"


def in_utc(time: datetime.datetime) -> datetime.datetime:
    """Bring a time to UTC; no zone means UTC."""
    return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)
