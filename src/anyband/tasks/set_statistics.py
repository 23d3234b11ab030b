"""Normalisation statistics of the sensors of a list of images, counted from the images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from anyband.data.manifest import ImageEntry
from anyband.errors import InputError
from anyband.sensors.sensor import BandStatistics
from anyband.shapes import Array, Bool, Num
from anyband.tasks.readings import entry_sensor
from anyband.tasks.statistics import count_statistics, read_statistics

__all__ = ["SetStatistics", "counted_statistics", "read_set_statistics"]

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
