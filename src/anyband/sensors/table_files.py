"""Reading of sensor tables: one mission a file, every number with its source, nothing unknown let through."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from anyband.errors import CatalogueError, nearest_name
from anyband.sensors.fields import checked_items, checked_keys, choice, names, number, table, text
from anyband.sensors.ranges import load_ranges, published_statistics
from anyband.sensors.records import ENCODING_KEYS, parse_encoding, parse_statistics
from anyband.sensors.sensor import Band, BandStatistics, Sensor, Unit
from anyband.sensors.spectra import SPECTRUM_KEYS, parse_spectrum
from anyband.yaml_files import read_yaml

__all__ = ["parse_mission", "read_mission"]

_SENSOR_REQUIRED = ("title", "encodings")
_SENSOR_OPTIONAL = (
    *(
        "bands",
        "band_series",
        "aliases",
        "nodata",
        "default_encoding",
        "unit",
        "gsd_m",
        "source",
        "statistics",
    ),
)
_BAND_OPTIONAL = (*SPECTRUM_KEYS, "gsd_m", "unit", "source", "aliases", "encodings")
_SERIES_KEYS = ("prefix", "first", "centers_nm", "fwhm_nm", "gsd_m", "unit", "source", "pad")


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    """What a sensor says for all of its bands."""

    unit: str | None
    gsd_m: float | None
    encodings: dict[str, dict[str, Any]]
    band_names: tuple[str, ...]


def read_mission(path: Path) -> tuple[Sensor, ...]:
    """Read the sensors of one mission from a YAML file.

    Raises:
        CatalogueError: the file can't be read, a key is unknown or stands twice, or a value is wrong.
    """
    return parse_mission(read_yaml(path, error=CatalogueError), name=path.name)


def parse_mission(raw: Any, *, name: str) -> tuple[Sensor, ...]:
    """Build the sensors that a parsed table describes, in its order.

    Args:
        raw: keys `mission`, `source` and `sensors`.
        name: of the table, for messages.

    Raises:
        CatalogueError: naming the table, the sensor and the band that are wrong.
    """
    keys = checked_keys(raw, where=name, required=("mission", "sensors"), optional=("source",))
    text(keys["mission"], where=f"{name}: mission")
    sensors = table(keys["sensors"], where=f"{name}: sensors")
    if not sensors:
        raise CatalogueError(f"{name}: sensors: expected at least one sensor, found none")
    return tuple(
        _located(entry, sensor_name, source=keys.get("source"), where=f"{name}: {sensor_name}")
        for sensor_name, entry in sensors.items()
    )


def _located(raw: Any, name: str, *, source: Any, where: str) -> Sensor:
    """Build a sensor; errors of the records themselves get its place in front."""
    try:
        return _sensor(raw, name, source=source, where=where)
    except CatalogueError as problem:
        if str(problem).startswith(where):
            raise
        raise CatalogueError(f"{where}: {problem}") from problem


def _sensor(raw: Any, name: str, *, source: Any, where: str) -> Sensor:
    keys = checked_keys(raw, where=where, required=_SENSOR_REQUIRED, optional=_SENSOR_OPTIONAL)
    source = keys.get("source", source)
    if source is None:
        raise CatalogueError(f"{where}: key 'source' is missing, here and at the top of the table")
    entries = _band_entries(keys, where=where)
    band_names = tuple(text(entry["name"], where=f"{where}: {place}.name") for place, entry in entries)
    defaults = _Defaults(
        unit=keys.get("unit"),
        gsd_m=None if keys.get("gsd_m") is None else number(keys["gsd_m"], where=f"{where}: gsd_m", above=0.0),
        encodings=_encoding_tables(keys["encodings"], band_names, where=f"{where}: encodings"),
        band_names=band_names,
    )
    statistics, statistics_source = _statistics(keys.get("statistics"), name, defaults, where=f"{where}: statistics")
    bands = tuple(
        _band(entry, defaults, statistics.get(entry["name"]), where=f"{where}: {place}") for place, entry in entries
    )
    _check_aliases(bands, where=where)
    return Sensor(
        name=name,
        title=text(keys["title"], where=f"{where}: title"),
        bands=bands,
        default_encoding=_default_encoding(keys, where=f"{where}: default_encoding"),
        nodata=None if keys.get("nodata") is None else number(keys["nodata"], where=f"{where}: nodata"),
        aliases=names(keys.get("aliases"), where=f"{where}: aliases"),
        source=text(source, where=f"{where}: source"),
        statistics_source=statistics_source,
    )


def _default_encoding(keys: dict[str, Any], *, where: str) -> str:
    known = list(keys["encodings"])
    if keys.get("default_encoding") is None and len(known) == 1:
        return str(known[0])
    return choice(keys.get("default_encoding"), where=where, allowed=known)


def _band_entries(keys: dict[str, Any], *, where: str) -> list[tuple[str, dict[str, Any]]]:
    """List (place in the table, entry) of all bands: those of a series first, then those written out."""
    entries: list[tuple[str, dict[str, Any]]] = []
    if keys.get("band_series") is not None:
        entries += _series(keys["band_series"], where=f"{where}: band_series")
    if keys.get("bands") is not None or not entries:
        written = checked_items(keys.get("bands"), where=f"{where}: bands")
        entries += [(f"bands[{index}]", entry) for index, entry in enumerate(written)]
    for place, entry in entries:
        checked_keys(entry, where=f"{where}: {place}", required=("name",), optional=_BAND_OPTIONAL)
    return entries


def _series(raw: Any, *, where: str) -> list[tuple[str, dict[str, Any]]]:
    """Write out a compact run of bands: names from a prefix and a running number, numbers from lists."""
    keys = checked_keys(raw, where=where, required=("prefix", "centers_nm", "fwhm_nm"), optional=_SERIES_KEYS)
    prefix = text(keys["prefix"], where=f"{where}.prefix")
    first, pad = int(number(keys.get("first", 1), where=f"{where}.first")), int(keys.get("pad") or 0)
    centers_nm = checked_items(keys["centers_nm"], where=f"{where}.centers_nm")
    widths = keys["fwhm_nm"]
    widths_nm = widths if isinstance(widths, list) else [widths] * len(centers_nm)
    if len(widths_nm) != len(centers_nm):
        raise CatalogueError(f"{where}: {len(centers_nm)} centers_nm but {len(widths_nm)} fwhm_nm")
    shared: dict[str, Any] = {key: keys[key] for key in ("gsd_m", "unit", "source") if key in keys}
    return [
        (
            f"band_series[{index}]",
            {
                "name": f"{prefix}{first + index:0{pad}d}",
                "center_nm": center_nm,
                "fwhm_nm": fwhm_nm,
                **shared,
            },
        )
        for index, (center_nm, fwhm_nm) in enumerate(zip(centers_nm, widths_nm, strict=True))
    ]


def _encoding_tables(raw: Any, band_names: tuple[str, ...], *, where: str) -> dict[str, dict[str, Any]]:
    encodings = table(raw, where=where)
    for name, entry in encodings.items():
        keys = checked_keys(entry, where=f"{where}.{name}", optional=(*ENCODING_KEYS, "bands"))
        for band_name, override in table(keys.get("bands"), where=f"{where}.{name}.bands").items():
            if band_name not in band_names:
                offer = nearest_name(band_name, band_names)
                raise CatalogueError(f"{where}.{name}.bands: there is no band '{band_name}'{offer}")
            checked_keys(override, where=f"{where}.{name}.bands.{band_name}", optional=ENCODING_KEYS)
    return {name: entry or {} for name, entry in encodings.items()}


def _band(raw: dict[str, Any], defaults: _Defaults, statistics: BandStatistics | None, *, where: str) -> Band:
    name = raw["name"]
    place = f"{where} ('{name}')"
    own = table(raw.get("encodings"), where=f"{place}.encodings")
    encodings = []
    for encoding_name in (*defaults.encodings, *(key for key in own if key not in defaults.encodings)):
        shared = defaults.encodings.get(encoding_name, {})
        merged = {key: value for key, value in shared.items() if key != "bands"}
        merged |= table(shared.get("bands"), where=place).get(name) or {}
        merged |= table(own.get(encoding_name), where=f"{place}.encodings.{encoding_name}")
        encodings.append((encoding_name, parse_encoding(merged, where=f"{place}.encodings.{encoding_name}")))
    unit = choice(raw.get("unit", defaults.unit), where=f"{place}.unit", allowed=get_args(Unit))
    return Band(
        name=name,
        spectrum=parse_spectrum(raw, where=place),
        gsd_m=number(raw.get("gsd_m", defaults.gsd_m), where=f"{place}.gsd_m", above=0.0),
        unit=cast(Unit, unit),
        encodings=tuple(encodings),
        statistics=statistics,
        aliases=names(raw.get("aliases"), where=f"{place}.aliases"),
        source=text(raw.get("source"), where=f"{place}.source") if raw.get("source") is not None else "",
    )


def _statistics(
    raw: Any, sensor_name: str, defaults: _Defaults, *, where: str
) -> tuple[dict[str, BandStatistics], str]:
    """Read (statistics by band name, their source) from a published table or from numbers written out."""
    if raw is None:
        return {}, ""
    keys = checked_keys(raw, where=where, optional=("table", "set", "unit_scale", "source", "bands"))
    if keys.get("bands") is not None:
        checked_keys(raw, where=where, required=("bands", "source"))
        return _written_statistics(keys["bands"], defaults, where=where), text(keys["source"], where=where)
    checked_keys(raw, where=where, required=("table", "set"), optional=("unit_scale", "source"))
    table_name, set_name = str(keys["table"]), str(keys["set"])
    scale = None if keys.get("unit_scale") is None else number(keys["unit_scale"], where=where, above=0.0)
    by_range = published_statistics(set_name, table_name=table_name, unit_scale=scale)
    by_band = {
        band: by_range[range_name]
        for range_name, band in _known_bands(table_name, sensor_name)
        if range_name in by_range
    }
    if not by_band:
        raise CatalogueError(f"{where}: range table '{table_name}' knows no band of '{sensor_name}'")
    return by_band, str(keys.get("source") or f"{table_name}, set {set_name}")


def _known_bands(table_name: str, sensor_name: str) -> list[tuple[str, str]]:
    ranges = load_ranges(table_name)
    known = [(entry.name, band) for entry in ranges.ranges for sensor, band in entry.known if sensor == sensor_name]
    return known + [(name, band) for sensor, band, name in ranges.published if sensor == sensor_name]


def _written_statistics(raw: Any, defaults: _Defaults, *, where: str) -> dict[str, BandStatistics]:
    statistics = {}
    for band_name, entry in table(raw, where=f"{where}.bands").items():
        place = f"{where}.bands.{band_name}"
        if band_name not in defaults.band_names:
            raise CatalogueError(f"{place}: there is no such band{nearest_name(band_name, defaults.band_names)}")
        statistics[band_name] = parse_statistics(entry, where=place)
    return statistics


def _check_aliases(bands: tuple[Band, ...], *, where: str) -> None:
    """See that a name leads to one band only, whatever its case."""
    owner: dict[str, str] = {}
    for band in bands:
        for name in {band.name.casefold(), *(alias.casefold() for alias in band.aliases)}:
            if owner.setdefault(name, band.name) != band.name:
                raise CatalogueError(f"{where}: '{name}' names both band '{owner[name]}' and band '{band.name}'")
