"""The catalogue of sensors: tables of the package, files of users, and the names that files give to bands."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import yaml

from anyband.errors import CatalogueError, counted, nearest_name
from anyband.files import OwnLoader, read_yaml
from anyband.sensors.ranges import load_ranges, published_statistics
from anyband.sensors.sensor import (
    SPECTRUM_KEYS,
    Band,
    Items,
    Number,
    Positive,
    Sensor,
    Table,
    Text,
    checked,
    listed_names,
    sensor_from_dict,
)

__all__ = [
    "contradictions",
    "file_names",
    "find_band",
    "find_bands",
    "find_sensor_name",
    "finest_of",
    "get_sensor",
    "left_out",
    "list_sensors",
    "load_sensor_file",
    "match_band",
    "parse_mission",
]

_SENSOR_KEYS = (
    *("title", "encodings", "bands", "band_series", "aliases", "nodata", "default_encoding"),
    *("unit", "gsd_m", "source", "statistics"),
)
_BAND_KEYS = ("name", *SPECTRUM_KEYS, "gsd_m", "unit", "source", "aliases", "encodings")
_SERIES_KEYS = ("prefix", "first", "centers_nm", "fwhm_nm", "gsd_m", "unit", "source", "pad")


def parse_mission(raw: Any, *, name: str) -> tuple[Sensor, ...]:
    """Build the sensors that a parsed table describes; errors name the table, the sensor and the band."""
    keys = checked(Table, raw, where=name, keys=("mission", "sensors", "source"), required=("mission", "sensors"))
    checked(Text, keys["mission"], where=f"{name}: mission")
    sensors = checked(Table, keys["sensors"], where=f"{name}: sensors")
    if not sensors:
        raise CatalogueError(f"{name}: sensors: expected at least one sensor, found none")
    return tuple(_sensor(one, key, source=keys.get("source"), where=f"{name}: {key}") for key, one in sensors.items())


def _sensor(raw: Any, name: str, *, source: Any, where: str) -> Sensor:
    """Write a sensor's table out into the form of headers, in which each band has all that is its own."""
    keys = checked(Table, raw, where=where, keys=_SENSOR_KEYS, required=("title", "encodings"))
    source = keys.get("source", source)
    if source is None:
        raise CatalogueError(f"{where}: key 'source' is missing, here and at the top of the table")
    series, encodings = keys.get("band_series"), checked(Table, keys["encodings"], where=f"{where}: encodings")
    entries = [] if series is None else _series(series, where=f"{where}: band_series")
    if keys.get("bands") is not None or not entries:
        entries += checked(Items, keys.get("bands"), where=f"{where}: bands")
    for index, entry in enumerate(entries):
        checked(Table, entry, where=f"{where}: bands[{index}]", keys=_BAND_KEYS, required=("name",))
        checked(Text, entry["name"], where=f"{where}: bands[{index}]: name")
    names = tuple(entry["name"] for entry in entries)
    statistics, statistics_source = _statistics(keys.get("statistics"), name, names, where=f"{where}: statistics")
    default = keys.get("default_encoding")
    if default is not None or len(encodings) != 1:
        default = checked(Text, default, where=f"{where}: default_encoding")
        if default not in encodings:
            offer = nearest_name(default, encodings)
            raise CatalogueError(f"{where}: default_encoding: '{default}' is not one of {', '.join(encodings)}{offer}")
    shared = {key: keys[key] for key in ("unit", "gsd_m") if key in keys}
    of_bands = _encodings(encodings, entries, where=where)
    written = {
        "name": name,
        "title": keys["title"],
        "bands": [
            shared | entry | {"encodings": stored, "statistics": statistics.get(entry["name"])}
            for entry, stored in zip(entries, of_bands, strict=True)
        ],
        "default_encoding": default or next(iter(encodings)),
        "nodata": keys.get("nodata"),
        "aliases": keys.get("aliases"),
        "source": checked(Text, source, where=f"{where}: source"),
        "statistics_source": statistics_source,
    }
    sensor = sensor_from_dict(written, where=where)
    # A name leads to one band only, whatever its case.
    owner: dict[str, str] = {}
    for band in sensor.bands:
        for word in {band.name.casefold(), *(alias.casefold() for alias in band.aliases)}:
            if owner.setdefault(word, band.name) != band.name:
                raise CatalogueError(f"{where}: '{word}' names both band '{owner[word]}' and band '{band.name}'")
    return sensor


def _series(raw: Any, *, where: str) -> list[dict[str, Any]]:
    """Write out a compact run of bands: names from a prefix and a running number, numbers from lists."""
    keys = checked(Table, raw, where=where, keys=_SERIES_KEYS, required=("prefix", "centers_nm", "fwhm_nm"))
    prefix = checked(Text, keys["prefix"], where=f"{where}: prefix")
    first, pad = (int(checked(Number, keys.get(key) or 0, where=f"{where}: {key}")) for key in ("first", "pad"))
    first = first if "first" in keys else 1
    centers_nm = checked(Items, keys["centers_nm"], where=f"{where}: centers_nm")
    widths_nm = keys["fwhm_nm"] if isinstance(keys["fwhm_nm"], list) else [keys["fwhm_nm"]] * len(centers_nm)
    if len(widths_nm) != len(centers_nm):
        raise CatalogueError(f"{where}: {len(centers_nm)} centers_nm but {len(widths_nm)} fwhm_nm")
    shared: dict[str, Any] = {key: keys[key] for key in ("gsd_m", "unit", "source") if key in keys}
    return [
        {"name": f"{prefix}{first + index:0{pad}d}", "center_nm": center_nm, "fwhm_nm": width_nm, **shared}
        for index, (center_nm, width_nm) in enumerate(zip(centers_nm, widths_nm, strict=True))
    ]


def _encodings(raw: dict[str, Any], bands: list[dict[str, Any]], *, where: str) -> list[dict[str, dict[str, Any]]]:
    """Give the encodings of each band: what all share, then what an encoding says of it, then its own entry."""
    shared, others = {}, {}
    names = [band["name"] for band in bands]
    for name, entry in raw.items():
        shared[name] = dict(checked(Table, entry or {}, where=f"{where}: encodings.{name}"))
        others[name] = checked(Table, shared[name].pop("bands", None) or {}, where=f"{where}: encodings.{name}.bands")
        unknown = next((one for one in others[name] if one not in names), None)
        if unknown is not None:
            offer = nearest_name(unknown, names)
            raise CatalogueError(f"{where}: encodings.{name}.bands: there is no band '{unknown}'{offer}")
    merged: list[dict[str, dict[str, Any]]] = []
    for band in bands:
        place = f"{where}: '{band['name']}': encodings"
        own = checked(Table, band.get("encodings") or {}, where=place)
        merged.append({name: shared.get(name, {}) for name in (*shared, *own)})
        for name in merged[-1]:
            for changes in (others.get(name, {}).get(band["name"]), own.get(name)):
                merged[-1][name] = merged[-1][name] | checked(Table, changes or {}, where=f"{place}.{name}")
    return merged


def _statistics(raw: Any, sensor_name: str, band_names: tuple[str, ...], *, where: str) -> tuple[dict[str, Any], str]:
    """Read (statistics by band name, their source) from a published table or from numbers written out."""
    if raw is None:
        return {}, ""
    keys = checked(Table, raw, where=where, keys=("table", "set", "unit_scale", "source", "bands"))
    if keys.get("bands") is not None:
        checked(Table, raw, where=where, keys=("bands", "source"), required=("bands", "source"))
        written = checked(Table, keys["bands"], where=f"{where}.bands")
        unknown = next((name for name in written if name not in band_names), None)
        if unknown is not None:
            raise CatalogueError(f"{where}.bands.{unknown}: there is no such band{nearest_name(unknown, band_names)}")
        return written, checked(Text, keys["source"], where=f"{where}: source")
    checked(Table, raw, where=where, keys=keys, required=("table", "set"))
    table_name, set_name = str(keys["table"]), str(keys["set"])
    scale = None if keys.get("unit_scale") is None else checked(Positive, keys["unit_scale"], where=where)
    by_range = published_statistics(set_name, table_name=table_name, unit_scale=scale)
    ranges = load_ranges(table_name)
    known = [(entry.name, band) for entry in ranges.ranges for sensor, band in entry.known if sensor == sensor_name]
    known += [(name, band) for sensor, band, name in ranges.published if sensor == sensor_name]
    by_band = {band: vars(by_range[name]) for name, band in known if name in by_range}
    if not by_band:
        raise CatalogueError(f"{where}: range table '{table_name}' knows no band of '{sensor_name}'")
    return by_band, str(keys.get("source") or f"{table_name}, set {set_name}")


_FOLDER = Path(__file__).parent / "tables"


def list_sensors() -> tuple[str, ...]:
    """List the names of all sensors, in alphabetic order."""
    return tuple(sorted(_catalogue()[0]))


def get_sensor(name_or_path: str | Path) -> Sensor:
    """Look up a sensor by its name or one of its aliases (case does not count), or load the YAML file of one's own.
    `CatalogueError` where there is none; it offers the nearest name."""
    if Path(name_or_path).suffix.casefold() in {".yaml", ".yml"}:
        return load_sensor_file(Path(name_or_path))
    tables, names = _catalogue()
    name = names.get(str(name_or_path).casefold())
    if name is None:
        spelt = [word for one, (_, entry, _) in tables.items() for word in (one, *(entry.get("aliases") or ()))]
        offer = nearest_name(str(name_or_path), spelt)
        raise CatalogueError(
            f"there is no sensor '{name_or_path}' in the catalogue ({counted(len(tables), 'sensor')}){offer}\n"
            "`anyband sensors` lists them; a sensor of your own is one YAML file, named by its path"
        )
    if name not in _made:
        file, entry, source = tables[name]
        _made.setdefault(name, _sensor(entry, name, source=source, where=f"{file}: {name}"))
    return _made[name]


def find_sensor_name(name_or_alias: str) -> str | None:
    """Find the catalogue's name of a sensor, from its name or an alias in any case; None: there is none."""
    return _catalogue()[1].get(name_or_alias.casefold())


def load_sensor_file(path: Path) -> Sensor:
    """Load a user's own sensor from a YAML file of the catalogue's form that describes exactly one: once, and again
    when it has changed. `CatalogueError` where the file is wrong, or takes a name that the catalogue has."""
    try:
        state = path.stat()
    except OSError as problem:
        raise CatalogueError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    return _loaded(path, (state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=64)
def _loaded(path: Path, _state: tuple[int, int]) -> Sensor:
    sensors = parse_mission(read_yaml(path, error=CatalogueError), name=path.name)
    if len(sensors) != 1:
        found = ", ".join(sensor.name for sensor in sensors)
        raise CatalogueError(
            f"'{path}' describes {counted(len(sensors), 'sensor')} ({found}); one file holds one sensor"
        )
    taken = find_sensor_name(sensors[0].name)
    if taken is not None:
        raise CatalogueError(
            f"'{path}' describes '{sensors[0].name}', a name of the catalogue's own sensor '{taken}'; "
            "give yours another name"
        )
    return sensors[0]


# Sensors of the catalogue that were asked for, by name: to make them all takes ten times as long as to read the tables.
_made: dict[str, Sensor] = {}


@functools.cache
def _catalogue() -> tuple[dict[str, tuple[str, dict[str, Any], Any]], dict[str, str]]:
    """Read all tables: (file, entry, source of the table) of each sensor by its name, and the name of the sensor of
    every name and alias, case folded."""
    tables: dict[str, tuple[str, dict[str, Any], Any]] = {}
    names: dict[str, str] = {}
    for path in sorted(_FOLDER.glob("*.yaml")):
        mission = yaml.load(path.read_bytes(), Loader=OwnLoader)  # noqa: S506 (a SafeLoader)
        for name, entry in mission["sensors"].items():
            if name in tables:
                raise CatalogueError(f"{path.name}: sensor '{name}' stands in another table already")
            tables[name] = path.name, entry, mission.get("source")
            for word in {name.casefold(), *(alias.casefold() for alias in entry.get("aliases") or ())}:
                if names.setdefault(word, name) != name:
                    raise CatalogueError(f"'{word}' names both sensor '{names[word]}' and sensor '{name}'")
    return tables, names


def find_band(name: str, sensor: Sensor) -> Band:
    """Find the band that a name means in any convention and case: `B02`, `BLUE`, `nir08`, `02 - Blue`, `S2L2A.BLUE`."""
    prefix, dot, rest = name.rpartition(".")
    words = {word.casefold() for band in sensor.bands for word in (band.name, *band.aliases)}
    if not dot or name.casefold() in words:
        return sensor.band(name)
    owner = find_sensor_name(prefix)
    own = {word.casefold() for word in (sensor.name, *sensor.aliases)}
    if owner is not None and owner != sensor.name and prefix.casefold() not in own:
        raise CatalogueError(f"'{name}' is a band of sensor '{owner}', but '{sensor.name}' was declared")
    return sensor.band(rest)


def find_bands(names: str | Iterable[str], sensor: Sensor) -> Sensor:
    """Make the sensor that has only the named bands, each once, in the order given, named in any convention."""
    return sensor.select([find_band(name, sensor).name for name in listed_names(names)])


# Names that may stand at the end of a longer one (`T32UQD_B02`, `S1_VV`) carry a number or a polarisation.
# Plain words may not: the end of `infra-red` is not the red band.
_PIECES = re.compile(r"([_\-. ])")
_TAIL = re.compile(r"[A-Za-z]*\d+[A-Za-z]*|[VH][VH]", re.IGNORECASE)
# Sentinel-2 L2A products name the resolution last: `..._B02_10m.jp2`.
_RESOLUTION_END = re.compile(r"_(\d+)m$", re.IGNORECASE)
# Sentinel-1 products name the polarisation in the middle: `s1a-iw-grd-vv-20200701t….tiff`.
# Descriptions go on behind the name: `B04 (665 nm)`, `B4, central wavelength 665 nm`; SNAP writes `Sigma0_VV_db`.
_REMARK = re.compile(r"(?:\s*\(.*\)|,\s.*)$")
_SNAP_BAND = re.compile(r"(?:sigma0|gamma0|beta0|amplitude|intensity)_(?:iw\d_)?([vh]{2})(?:_\w*)?", re.IGNORECASE)
_SENTINEL1_FILE = re.compile(r"s1[a-d]-\w+-\w+-([vh]{2})-", re.IGNORECASE)


_MOST_LISTED = 16

# Names of the bands of the sensors seen last, by their ids; the sensor stands in the value too, so that no other gets
# its id. chosen: more sensors than an archive has.
_MAX_SENSORS = 64
_known: dict[int, tuple[Sensor, dict[str, str]]] = {}


def match_band(names: Iterable[str], sensor: Sensor) -> str | None:
    """Find the band that a description, variable or file stem means: exactly, by an alias, or by its end; of several
    names the first that means one. Case does not count, and a band's name goes before an alias."""
    if id(sensor) not in _known:
        if len(_known) >= _MAX_SENSORS:
            _known.clear()
        aliases = {alias.casefold(): band.name for band in reversed(sensor.bands) for alias in band.aliases}
        _known[id(sensor)] = sensor, aliases | {band.name.casefold(): band.name for band in sensor.bands}
    known = _known[id(sensor)][1]
    found = (known.get(candidate.casefold()) for name in names if name for candidate in (name, *_tails(name)))
    return next((band for band in found if band is not None), None)


@functools.lru_cache(maxsize=1024)
def file_names(name: str) -> tuple[str, ...]:
    """List what a file of one band may be called: its stem, its name, and the ends of its stem."""
    stem = PurePath(name).stem
    return (stem, name, *_tails(stem))


@functools.lru_cache(maxsize=1024)
def _tails(name: str) -> tuple[str, ...]:
    if (product := _SENTINEL1_FILE.match(name) or _SNAP_BAND.fullmatch(name)) is not None:
        return (product[1],)
    if (plain := _REMARK.sub("", name)) != name:
        return (plain, *_tails(plain)) if plain else ()
    pieces = _PIECES.split(_RESOLUTION_END.sub("", name))
    if not _TAIL.fullmatch(pieces[-1]):
        return ()
    # The separators stand between the pieces. `SR_B4` before `B4`: the longest end that is a name wins.
    return tuple("".join(pieces[start:]) for start in range(2, len(pieces), 2))


def finest_of(first: str, second: str) -> int | None:
    """Tell which of two stems, 0 or 1, is the finer where they are one band of a product at two resolutions
    (`B02_10m`, `B02_20m`); None where they are not."""
    found = [_RESOLUTION_END.search(stem) for stem in (first, second)]
    if None in found or _RESOLUTION_END.sub("", first) != _RESOLUTION_END.sub("", second):
        return None
    sizes = [int(one[1]) for one in found if one is not None]
    return None if sizes[0] == sizes[1] else sizes.index(min(sizes))


def _whole(sensor: Sensor) -> Sensor:
    return sensor if find_sensor_name(sensor.name) is None else get_sensor(sensor.name)


def contradictions(numbered: Iterable[tuple[str, tuple[str, ...]]], sensor: Sensor) -> list[str]:
    """Say which bands that are declared by number (band, names that the file gives it) the file names otherwise."""
    whole = _whole(sensor)
    meant = ((band, match_band(own, whole), own) for band, own in numbered)
    other = [f"{band} '{next(filter(None, own))}'" for band, by_name, own in meant if by_name not in (None, band)]
    return [f"bands are taken by their declared numbers, though the file calls {', '.join(other)}"] if other else []


def left_out(names: Iterable[str], sensor: Sensor) -> list[str]:
    """Say which names are of no band of a sensor."""
    unknown = [name for name in names if name and match_band((name,), _whole(sensor)) is None]
    more = f" and {len(unknown) - _MOST_LISTED} more" * (len(unknown) > _MOST_LISTED)
    shown = ", ".join(unknown[:_MOST_LISTED])
    return [f"what '{sensor.name}' has no band for is left out: {shown}{more}"] if unknown else []
