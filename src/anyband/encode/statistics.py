"""Statistics of bands from a file, a store or a set of images."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from anyband.arrays import Array, Bool, Num
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.statistics import count_statistics
from anyband.errors import CatalogueError, InputError, StoreError, nearest_name
from anyband.files import parse_yaml
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = ["SetStatistics", "counted_statistics", "read_set_statistics", "read_statistics"]

_KEYS = {"p01", "p99", "mean", "std"}


def read_statistics(source: Path, sensor: Sensor) -> dict[str, BandStatistics]:
    """Read the statistics of a sensor's bands from a chip store, or from a JSON or YAML file.

    Args:
        source: a store; or a file that maps bands to `p01`, `p99` (physical units), `mean` and `std` (of the
            scaled values), or sensors to such maps.
        sensor: with the bands that are needed.

    Raises:
        StoreError: the store has no statistics of this sensor.
        CatalogueError: the file is wrong, or a band is missing.
    """
    found = _from_store(source, sensor) if source.is_dir() else _from_file(source, sensor)
    missing = [name for name in sensor.band_names if name not in found]
    if missing:
        raise CatalogueError(
            f"'{source}' has no statistics of band '{missing[0]}' of '{sensor.name}' "
            f"({len(missing)} missing; it has {', '.join(list(found)[:16]) or 'none'})"
        )
    return {name: found[name] for name in sensor.band_names}


def _from_store(path: Path, sensor: Sensor) -> Mapping[str, BandStatistics]:
    from anyband.data.store import ChipStore

    store = ChipStore.open(path)
    if sensor.name not in store.statistics:
        raise StoreError(
            f"store '{path}' has no statistics of sensor '{sensor.name}' "
            f"({', '.join(store.statistics) or 'none at all'}); compute them with "
            f"`anyband prepare --stats {path}`"
        )
    return store.statistics[sensor.name]


def _from_file(path: Path, sensor: Sensor) -> Mapping[str, BandStatistics]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise CatalogueError(f"cannot read statistics from '{path}': {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise CatalogueError(f"statistics are JSON or YAML in UTF-8; '{path}' is not: {problem}") from problem
    entries = _parsed(text, path)
    entries = entries.get(sensor.name, entries)
    if not isinstance(entries, dict):
        raise CatalogueError(f"'{path}' must map bands of '{sensor.name}' to p01, p99, mean and std; found {entries!r}")
    return {str(band): _band_statistics(entry, path, str(band)) for band, entry in entries.items()}


def _parsed(text: str, path: Path) -> dict[str, Any]:
    if path.suffix.lower() == ".json":
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise CatalogueError(f"'{path}' is not valid JSON: {problem}") from problem
    else:
        values = parse_yaml(text, name=str(path), error=CatalogueError)
    if not isinstance(values, dict):
        raise CatalogueError(f"'{path}' must map bands to p01, p99, mean and std; found {type(values).__name__}")
    return values


def _band_statistics(entry: Any, path: Path, band: str) -> BandStatistics:
    keys = set(entry) if isinstance(entry, dict) else set()
    for key in sorted(keys - _KEYS, key=str):
        raise CatalogueError(f"'{path}': band '{band}' has an unknown key '{key}'{nearest_name(str(key), _KEYS)}")
    numbers = {key: entry[key] for key in keys if _is_number(entry.get(key))}
    if set(numbers) != _KEYS:
        raise CatalogueError(f"'{path}': band '{band}' needs the numbers p01, p99, mean and std")
    return BandStatistics(**{key: float(value) for key, value in numbers.items()})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


SetStatistics = Mapping[str, Mapping[str, BandStatistics]]
"""Normalisation in physical units by sensor and band."""

Pieces = Iterable[tuple[Num[Array, "_ _ _"], Bool[Array, "_ _ _"]]]
"""Stored numbers (band, row, col) and which have data, piece by piece."""


def counted_statistics(entries: Sequence[ImageEntry], read: Callable[[ImageEntry], Pieces]) -> SetStatistics:
    """Count the statistics of each sensor over all its images.

    Args:
        entries: of the images.
        read: gives the pixels of one.

    Raises:
        InputError: images of one sensor differ in bands or encoding, so that they can't be counted together; or a band
            has no valid value, or only one.
    """
    found: dict[str, Mapping[str, BandStatistics]] = {}
    for name in dict.fromkeys(entry.sensor.name for entry in entries):
        alike = [entry for entry in entries if entry.sensor.name == name]
        _check_alike(alike)
        found[name] = count_statistics(chain.from_iterable(map(read, alike)), entry_sensor(alike[0]))
    return found


def read_set_statistics(source: Path, entries: Sequence[ImageEntry]) -> SetStatistics:
    """Read the statistics of all bands of a list of images; see `read_statistics`.

    Args:
        source: a chip store, or a JSON or YAML file.
        entries: of the images.
    """
    found: dict[str, dict[str, BandStatistics]] = {}
    for sensor in dict.fromkeys(map(entry_sensor, entries)):
        found.setdefault(sensor.name, {}).update(read_statistics(source, sensor))
    return found


def _check_alike(entries: Sequence[ImageEntry]) -> None:
    sensor = entry_sensor(entries[0])
    other = next((one for one in entries if entry_sensor(one) != sensor), None)
    if other is not None:
        raise InputError(
            f"'{entries[0].name}' and '{other.name}' of sensor '{sensor.name}' differ in bands or encoding, so their "
            "statistics can't be counted together; name a chip store or a file with `--statistics`"
        )
