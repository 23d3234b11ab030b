"""Normalisation that was published for evaluation sets, by band of the catalogue, in physical units."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyband.errors import CatalogueError, nearest_name
from anyband.files import read_yaml
from anyband.sensors.ranges import load_ranges, published_statistics
from anyband.sensors.sensor import BandStatistics, Items, Names, Sensor, Table, Text, Unit, checked, checked_keys

__all__ = ["list_published_statistics", "published_statistics_of"]

_FILE = Path(__file__).with_suffix(".yaml")
_INSTEAD = "take `statistics: data` to count them on the training images"


@dataclass(frozen=True, kw_only=True)
class _Images:
    """What one set of published numbers is of."""

    table: Text
    """Range table that holds them."""
    set_name: Text
    """Their name in it."""
    sensor: Text
    """That took the images."""
    unit: Unit
    """Of p01 and p99."""


def list_published_statistics() -> tuple[str, ...]:
    """List the data sets that have a published normalisation."""
    return tuple(_sets())


def published_statistics_of(name: str, sensor: Sensor) -> dict[str, BandStatistics]:
    """Give the normalisation published for a data set.

    Args:
        name: of the data set, such as `EuroSAT`; case, and how its parts are joined, do not count.
        sensor: that took the images, with the bands that are wanted.

    Returns:
        By band of the sensor, in the bands' physical units.

    Raises:
        CatalogueError: nothing is published for this data set, sensor, unit or band.

    Source:
        SMARTIES, arXiv 2506.19585, and the public configuration of its v1 weights.
    """
    known = _spelt()
    if _folded(name) not in known:
        raise CatalogueError(
            f"no normalisation was published for '{name}' (for {', '.join(_sets())}){nearest_name(name, _sets())}; "
            f"{_INSTEAD}"
        )
    title = known[_folded(name)]
    images = _images_of(title, sensor)
    by_range = published_statistics(images.set_name, table_name=images.table)
    ranges = _ranges_of(images)
    found = {band.name: by_range[ranges[band.name]] for band in sensor.bands if ranges.get(band.name) in by_range}
    missing = [band.name for band in sensor.bands if band.name not in found]
    if missing:
        raise CatalogueError(
            f"the published normalisation of '{title}' has no band {', '.join(missing)} of '{sensor.name}' "
            f"(it has {', '.join(ranges)}); leave the band out with data.bands, or {_INSTEAD}"
        )
    return found


def _images_of(title: str, sensor: Sensor) -> _Images:
    entries = _sets()[title]
    found = next((entry for entry in entries if entry.sensor == sensor.name), None)
    if found is None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is of {' and '.join(entry.sensor for entry in entries)}, and "
            f"the images are declared as '{sensor.name}'; {_INSTEAD}"
        )
    other = next((band for band in sensor.bands if band.unit != found.unit), None)
    if other is not None:
        raise CatalogueError(
            f"the published normalisation of '{title}' is in the unit '{found.unit}', and band '{other.name}' of "
            f"'{sensor.name}' is in '{other.unit}'; {_INSTEAD}"
        )
    return found


def _ranges_of(images: _Images) -> dict[str, str]:
    """Find the range that each band of the sensor has in the table."""
    ranges = load_ranges(images.table)
    own = {band: entry.name for entry in ranges.ranges for sensor, band in entry.known if sensor == images.sensor}
    return own | {band: name for sensor, band, name in ranges.published if sensor == images.sensor}


@functools.cache
def _sets() -> dict[str, tuple[_Images, ...]]:
    return {title: _parsed(entry, title) for title, entry in _entries().items()}


@functools.cache
def _spelt() -> dict[str, str]:
    """Find names of sets by every way in which they are written."""
    spelt: dict[str, str] = {}
    for title, entry in _entries().items():
        aliases = checked(Names, entry.get("aliases") or (), where=f"{_FILE.name}: {title}.aliases")
        spelt |= {_folded(alias): title for alias in (title, *aliases)}
    return spelt


def _entries() -> dict[str, Any]:
    raw = read_yaml(_FILE, error=CatalogueError)
    keys = checked_keys(raw, ("source", "sets"), where=_FILE.name, required=("source", "sets"))
    return checked(Table, keys["sets"], where=f"{_FILE.name}: sets")  # type: ignore[no-any-return]


def _parsed(raw: Any, title: str) -> tuple[_Images, ...]:
    where = f"{_FILE.name}: {title}"
    keys = checked_keys(raw, ("images", "aliases"), where=where, required=("images",))
    return tuple(_one(entry, where=where) for entry in checked(Items, keys["images"], where=where))


def _one(raw: Any, *, where: str) -> _Images:
    keys = checked_keys(raw, ("table", "set", "sensor", "unit"), where=where)
    return checked(_Images, {"set_name" if key == "set" else key: keys[key] for key in keys}, where=where)  # type: ignore[no-any-return]


def _folded(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
