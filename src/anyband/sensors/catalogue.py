"""The catalogue of sensors: tables that come with the package, files of users, and names."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from anyband.errors import CatalogueError, nearest_name
from anyband.files import read_yaml
from anyband.sensors.ranges import (
    ENCODING_KEYS,
    SPECTRUM_KEYS,
    load_ranges,
    parse_encoding,
    parse_spectrum,
    parse_statistics,
    published_statistics,
    sensor_from_dict,
    sensor_to_dict,
)
from anyband.sensors.sensor import (
    Band,
    BandStatistics,
    Sensor,
    Unit,
    checked_items,
    checked_keys,
    choice,
    names,
    number,
    table,
    text,
)

__all__ = [
    "Convention",
    "band_name",
    "find_band",
    "find_bands",
    "find_sensor_name",
    "get_sensor",
    "list_sensors",
    "load_sensor_file",
    "parse_mission",
    "read_mission",
    "resolve_sensor",
    "sensor_from_dict",
    "sensor_to_dict",
    "translate",
]

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


_FOLDER = Path(__file__).parent / "tables"


def list_sensors() -> tuple[str, ...]:
    """List the names of all sensors, in alphabetic order."""
    return tuple(sorted(_sensors()))


def get_sensor(name: str) -> Sensor:
    """Look up a sensor by its name or one of its aliases (case does not count).

    Raises:
        CatalogueError: no such sensor; the nearest name is offered.
    """
    found = find_sensor_name(name)
    if found is None:
        raise CatalogueError(
            f"there is no sensor '{name}' in the catalogue ({len(_sensors())} sensors)"
            f"{nearest_name(name, _spelt())}\n"
            "`anyband sensors` lists them; a sensor of your own is one YAML file, named by its path"
        )
    return _sensors()[found]


def find_sensor_name(name_or_alias: str) -> str | None:
    """Find the catalogue's name of a sensor, from its name or an alias in any case; None: there is none."""
    return _index().get(name_or_alias.casefold())


def load_sensor_file(path: Path) -> Sensor:
    """Load a user's own sensor from a YAML file of the catalogue's form that describes exactly one.

    Raises:
        CatalogueError: the file is wrong, holds several sensors, or takes a name that the catalogue has.
    """
    sensors = read_mission(path)
    if len(sensors) != 1:
        found = ", ".join(sensor.name for sensor in sensors)
        raise CatalogueError(f"'{path}' describes {len(sensors)} sensors ({found}); one file holds one sensor")
    if sensors[0].name.casefold() in _index():
        raise CatalogueError(
            f"'{path}' describes '{sensors[0].name}', a name of the catalogue's own sensor "
            f"'{_index()[sensors[0].name.casefold()]}'; give yours another name"
        )
    return sensors[0]


def resolve_sensor(name_or_path: str | Path) -> Sensor:
    """Get a sensor by its name in the catalogue or from a YAML file: a name that ends in `.yaml` or `.yml`.

    Raises:
        CatalogueError: see `get_sensor` and `load_sensor_file`.
    """
    if Path(name_or_path).suffix in {".yaml", ".yml"}:
        return load_sensor_file(Path(name_or_path))
    return get_sensor(str(name_or_path))


@functools.cache
def _sensors() -> dict[str, Sensor]:
    found: dict[str, Sensor] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        for sensor in read_mission(path):
            if sensor.name in found:
                raise CatalogueError(f"{path.name}: sensor '{sensor.name}' stands in another table already")
            found[sensor.name] = sensor
    return found


@functools.cache
def _index() -> dict[str, str]:
    """Map every name and alias, case folded, to the name of its sensor."""
    index: dict[str, str] = {}
    for sensor in _sensors().values():
        for word in {sensor.name.casefold(), *(alias.casefold() for alias in sensor.aliases)}:
            if index.setdefault(word, sensor.name) != sensor.name:
                raise CatalogueError(f"'{word}' names both sensor '{index[word]}' and sensor '{sensor.name}'")
    return index


def _spelt() -> list[str]:
    return [word for sensor in _sensors().values() for word in (sensor.name, *sensor.aliases)]


Convention = Literal["catalogue", "torchgeo", "pangaea", "terratorch", "stac", "geobench"]

# The first of these that a band goes by is its name.
# Source: STAC EO extension 1.1, common band names; rededge1 to 3: Earth Search, Sentinel-2 collections.
_STAC_NAMES = (
    *("coastal", "blue", "green", "green05", "yellow", "red"),
    *("rededge1", "rededge2", "rededge3", "rededge071", "rededge075", "rededge078", "rededge"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22", "lwir11", "lwir12", "lwir", "pan"),
)
# Source: TerraTorch, band enumerations of its data sets (optical, HLS and SAR bands).
_TERRATORCH_NAMES = (
    *(
        "COASTAL_AEROSOL",
        "BLUE",
        "GREEN",
        "YELLOW",
        "RED",
        "RED_EDGE_1",
        "RED_EDGE_2",
        "RED_EDGE_3",
        "RED_EDGE",
    ),
    *("NIR_BROAD", "NIR_NARROW", "NIR", "WATER_VAPOR", "CIRRUS", "SWIR_1", "SWIR_2", "SWIR_3"),
    *("THERMAL_INFRARED_1", "THERMAL_INFRARED_2", "PAN", "VV", "VH", "HH", "HV"),
)
_PADDED = re.compile(r"B0(\d)")
_UNPADDED = re.compile(r"B(\d)(A?)")
_GEOBENCH = re.compile(r"\d{2}A? - .+")


def find_band(name: str, sensor: Sensor) -> Band:
    """Find the band of a sensor that any convention's name means.

    Args:
        name: for example `B02`, `B2`, `BLUE`, `nir08`, `02 - Blue` or `S2L2A.BLUE`; case does not count.
        sensor: whose band it is.

    Raises:
        CatalogueError: the sensor has no such band, or the prefix names another sensor.
    """
    prefix, dot, rest = name.rpartition(".")
    if not dot or _has(sensor, name):
        return sensor.band(name)
    owner = find_sensor_name(prefix)
    if owner is not None and owner != sensor.name and prefix.casefold() not in _words(sensor):
        raise CatalogueError(f"'{name}' is a band of sensor '{owner}', but '{sensor.name}' was declared")
    return sensor.band(rest)


def find_bands(names: Iterable[str], sensor: Sensor) -> Sensor:
    """Make the sensor that has only the named bands, in the order given, named in any convention.

    Raises:
        CatalogueError: see `find_band`; or a band is named twice.
    """
    return sensor.select([find_band(name, sensor).name for name in names])


def band_name(band: Band, convention: Convention) -> str:
    """Name a band in a convention.

    Raises:
        CatalogueError: the convention has no name for this band, or is unknown.
    """
    if convention not in _NAMERS:
        raise CatalogueError(
            f"there is no naming convention '{convention}' (known: {', '.join(get_args(Convention))})"
            f"{nearest_name(convention, get_args(Convention))}"
        )
    found = _NAMERS[convention](band)
    if found is None:
        names = ", ".join((band.name, *band.aliases))
        raise CatalogueError(f"convention '{convention}' has no name for band '{band.name}' (known as {names})")
    return found


def translate(names: Iterable[str], sensor: Sensor, *, to: Convention) -> tuple[str, ...]:
    """Rename bands of a sensor from any convention, mixed or not, to one.

    Translating to a convention and back to `catalogue` gives the catalogue's names.

    Args:
        names: bands of the sensor.
        sensor: whose bands they are.
        to: convention to give.

    Raises:
        CatalogueError: see `find_band` and `band_name`.
    """
    return tuple(band_name(find_band(name, sensor), to) for name in names)


def _has(sensor: Sensor, name: str) -> bool:
    folded = name.casefold()
    return any(folded == word.casefold() for band in sensor.bands for word in (band.name, *band.aliases))


def _words(sensor: Sensor) -> set[str]:
    return {sensor.name.casefold(), *(alias.casefold() for alias in sensor.aliases)}


def _catalogue(band: Band) -> str:
    return band.name


def _torchgeo(band: Band) -> str:
    """Give TorchGeo's name: Sentinel-2 bands with two digits, other products' own names."""
    short = _UNPADDED.fullmatch(band.name)
    padded = f"B0{short.group(1)}" if short and not short.group(2) else band.name
    return padded if padded in band.aliases else band.name


def _pangaea(band: Band) -> str:
    """Give PANGAEA's name: without zeros before the number."""
    return _PADDED.sub(r"B\1", band.name) if _PADDED.fullmatch(band.name) else band.name


def _terratorch(band: Band) -> str | None:
    return _first(_TERRATORCH_NAMES, band)


def _stac(band: Band) -> str | None:
    return _first(_STAC_NAMES, band)


def _geobench(band: Band) -> str | None:
    return next((alias for alias in band.aliases if _GEOBENCH.fullmatch(alias)), None)


def _first(vocabulary: Iterable[str], band: Band) -> str | None:
    """Find the first word of the vocabulary that a band goes by."""
    known = {word.casefold() for word in (band.name, *band.aliases)}
    return next((word for word in vocabulary if word.casefold() in known), None)


_NAMERS: Mapping[str, Callable[[Band], str | None]] = {
    "catalogue": _catalogue,
    "torchgeo": _torchgeo,
    "pangaea": _pangaea,
    "terratorch": _terratorch,
    "stac": _stac,
    "geobench": _geobench,
}
