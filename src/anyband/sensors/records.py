"""Sensors as plain JSON values for the headers of stores and checkpoints, and parts that tables share."""

from collections.abc import Mapping
from typing import Any, cast, get_args

from anyband.errors import CatalogueError
from anyband.sensors.fields import checked_items, checked_keys, choice, names, number, table, text
from anyband.sensors.sensor import Band, BandStatistics, Encoding, Sensor, Transform, Unit
from anyband.sensors.spectra import SPECTRUM_KEYS, parse_spectrum, spectrum_to_dict

__all__ = ["ENCODING_KEYS", "parse_encoding", "parse_statistics", "sensor_from_dict", "sensor_to_dict"]

ENCODING_KEYS = ("scale", "offset", "transform", "k1", "k2", "source")

_STATISTICS_KEYS = ("p01", "p99", "mean", "std")
_ENCODING_NUMBERS = ("scale", "offset", "k1", "k2")


def sensor_to_dict(sensor: Sensor) -> dict[str, Any]:
    """Write a sensor as plain JSON values; `sensor_from_dict` gives an equal sensor back."""
    return {
        "name": sensor.name,
        "title": sensor.title,
        "aliases": list(sensor.aliases),
        "nodata": sensor.nodata,
        "default_encoding": sensor.default_encoding,
        "source": sensor.source,
        "statistics_source": sensor.statistics_source,
        "bands": [_band_to_dict(band) for band in sensor.bands],
    }


def sensor_from_dict(raw: Mapping[str, Any]) -> Sensor:
    """Read what `sensor_to_dict` wrote.

    Raises:
        CatalogueError: a key is unknown or missing, or a value is wrong.
    """
    where = f"sensor '{raw.get('name')}'"
    required = ("name", "title", "default_encoding", "bands")
    optional = ("aliases", "nodata", "source", "statistics_source")
    keys = checked_keys(dict(raw), where=where, required=required, optional=optional)
    bands = enumerate(checked_items(keys["bands"], where=f"{where}: bands"))
    return Sensor(
        name=text(keys["name"], where=f"{where}: name"),
        title=text(keys["title"], where=f"{where}: title"),
        bands=tuple(_band_from_dict(band, where=f"{where}: bands[{index}]") for index, band in bands),
        default_encoding=text(keys["default_encoding"], where=f"{where}: default_encoding"),
        nodata=None if keys.get("nodata") is None else number(keys["nodata"], where=f"{where}: nodata"),
        aliases=names(keys.get("aliases"), where=f"{where}: aliases"),
        source=str(keys.get("source") or ""),
        statistics_source=str(keys.get("statistics_source") or ""),
    )


def parse_encoding(raw: Any, *, where: str) -> Encoding:
    """Read an encoding from the keys of `ENCODING_KEYS`; what is absent has its default.

    Raises:
        CatalogueError: a key is unknown, a value is wrong, or thermal constants are missing.
    """
    keys = checked_keys(raw, where=where, optional=ENCODING_KEYS)
    given = {key: number(keys[key], where=f"{where}.{key}") for key in _ENCODING_NUMBERS if key in keys}
    transform = choice(keys.get("transform", "identity"), where=f"{where}.transform", allowed=get_args(Transform))
    source = text(keys["source"], where=f"{where}.source") if keys.get("source") else ""
    try:
        return Encoding(**given, transform=cast(Transform, transform), source=source)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem


def parse_statistics(raw: Any, *, where: str, unit_scale: float = 1.0) -> BandStatistics:
    """Read the normalisation of one band from its four numbers.

    Args:
        raw: keys p01, p99, mean and std.
        where: its place, for messages.
        unit_scale: physical units per unit of p01 and p99.

    Raises:
        CatalogueError: a key is missing or unknown, or the numbers can't be.
    """
    keys = checked_keys(raw, where=where, required=_STATISTICS_KEYS)
    p01, p99, mean, std = (number(keys[key], where=f"{where}.{key}") for key in _STATISTICS_KEYS)
    try:
        return BandStatistics(p01=p01 * unit_scale, p99=p99 * unit_scale, mean=mean, std=std)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem


def _band_to_dict(band: Band) -> dict[str, Any]:
    statistics = band.statistics
    return {
        "name": band.name,
        **spectrum_to_dict(band.spectrum),
        "gsd_m": band.gsd_m,
        "unit": band.unit,
        "encodings": {name: _encoding_to_dict(encoding) for name, encoding in band.encodings},
        "statistics": None if statistics is None else {key: getattr(statistics, key) for key in _STATISTICS_KEYS},
        "aliases": list(band.aliases),
        "source": band.source,
    }


def _band_from_dict(raw: Any, *, where: str) -> Band:
    required, optional = ("name", "gsd_m", "unit", "encodings"), ("statistics", "aliases", "source")
    keys = checked_keys(raw, where=where, required=required, optional=(*SPECTRUM_KEYS, *optional))
    encodings = table(keys["encodings"], where=f"{where}.encodings")
    return Band(
        name=text(keys["name"], where=f"{where}.name"),
        spectrum=parse_spectrum(keys, where=where),
        gsd_m=number(keys["gsd_m"], where=f"{where}.gsd_m", above=0.0),
        unit=cast(Unit, choice(keys["unit"], where=f"{where}.unit", allowed=get_args(Unit))),
        encodings=tuple(
            (name, parse_encoding(entry, where=f"{where}.encodings.{name}")) for name, entry in encodings.items()
        ),
        statistics=None
        if keys.get("statistics") is None
        else parse_statistics(keys["statistics"], where=f"{where}.statistics"),
        aliases=names(keys.get("aliases"), where=f"{where}.aliases"),
        source=str(keys.get("source") or ""),
    )


def _encoding_to_dict(encoding: Encoding) -> dict[str, Any]:
    numbers = {key: getattr(encoding, key) for key in _ENCODING_NUMBERS}
    return {**numbers, "transform": encoding.transform, "source": encoding.source}
