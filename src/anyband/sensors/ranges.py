"""Trained spectral ranges, the spectra they are made from, and stems that no band has."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast, get_args

from anyband.errors import CatalogueError, nearest_name
from anyband.files import read_yaml
from anyband.sensors.sensor import (
    Band,
    BandStatistics,
    Encoding,
    OpticalRange,
    Orbit,
    Polarisation,
    RadarBeam,
    Sensor,
    Spectrum,
    Transform,
    Unit,
    checked_items,
    checked_keys,
    choice,
    covered_share,
    intersection_over_union,
    names,
    number,
    table,
    text,
)

__all__ = [
    "ENCODING_KEYS",
    "SPECTRUM_KEYS",
    "STEM",
    "DeclaredRange",
    "RangeTable",
    "TrainedRange",
    "colour_of",
    "extend_ranges",
    "is_stem",
    "list_ranges",
    "load_ranges",
    "parse_encoding",
    "parse_spectrum",
    "parse_statistics",
    "published_statistics",
    "range_table_from_dict",
    "range_table_to_dict",
    "ranges_from_sensors",
    "sensor_from_dict",
    "sensor_to_dict",
    "spectrum_to_dict",
    "stem_bands",
    "stem_ranges",
    "without_range",
]

_OPTICAL_KEYS = ("low_nm", "high_nm", "center_nm", "fwhm_nm", "response")
_RADAR_KEYS = ("frequency_ghz", "polarisation", "orbit")
SPECTRUM_KEYS = (*_OPTICAL_KEYS, *_RADAR_KEYS)


def parse_spectrum(raw: Mapping[str, Any], *, where: str) -> Spectrum:
    """Read a spectrum from the keys of `SPECTRUM_KEYS` that `raw` has; other keys are not looked at.

    Optical: `low_nm` and `high_nm`, or `center_nm` and `fwhm_nm`, or a sampled `response` (alone, or with the
    edges to use). Radar: `frequency_ghz`, `polarisation` and, where it is known, `orbit`.

    Args:
        raw: an entry of a table.
        where: its place, for messages.

    Raises:
        CatalogueError: keys are missing, or do not go together, or have values that can't be.
    """
    given = {key for key in SPECTRUM_KEYS if raw.get(key) is not None}
    if given & set(_RADAR_KEYS):
        return _radar(raw, given=given, where=where)
    if "response" in given:
        return _sampled(raw, given=given, where=where)
    if given == {"low_nm", "high_nm"}:
        low_nm, high_nm = number(raw["low_nm"], where=where), number(raw["high_nm"], where=where)
    elif given == {"center_nm", "fwhm_nm"}:
        center_nm = number(raw["center_nm"], where=f"{where}.center_nm", above=0.0)
        half_nm = number(raw["fwhm_nm"], where=f"{where}.fwhm_nm", above=0.0) / 2
        low_nm, high_nm = center_nm - half_nm, center_nm + half_nm
    else:
        raise _wrong_keys(given, where=where)
    return _range(low_nm, high_nm, where=where)


def spectrum_to_dict(spectrum: Spectrum) -> dict[str, Any]:
    """Write a spectrum as plain JSON values; `parse_spectrum` gives it back exactly."""
    if isinstance(spectrum, RadarBeam):
        return {
            "frequency_ghz": spectrum.frequency_ghz,
            "polarisation": spectrum.polarisation,
            "orbit": spectrum.orbit,
        }
    edges: dict[str, Any] = {"low_nm": spectrum.low_nm, "high_nm": spectrum.high_nm}
    return edges | ({"response": [list(pair) for pair in spectrum.response]} if spectrum.response else {})


def _radar(raw: Mapping[str, Any], *, given: set[str], where: str) -> RadarBeam:
    if given - set(_RADAR_KEYS) or not {"frequency_ghz", "polarisation"} <= given:
        raise _wrong_keys(given, where=where)
    polarisation = choice(raw["polarisation"], where=f"{where}.polarisation", allowed=get_args(Polarisation))
    orbit = raw.get("orbit")
    if orbit is not None:
        orbit = choice(orbit, where=f"{where}.orbit", allowed=get_args(Orbit))
    return RadarBeam(
        frequency_ghz=number(raw["frequency_ghz"], where=f"{where}.frequency_ghz", above=0.0),
        polarisation=cast(Polarisation, polarisation),
        orbit=cast(Orbit | None, orbit),
    )


def _sampled(raw: Mapping[str, Any], *, given: set[str], where: str) -> OpticalRange:
    if given not in ({"response"}, {"response", "low_nm", "high_nm"}):
        raise _wrong_keys(given, where=where)
    samples = [
        _sample(pair, where=f"{where}.response[{index}]")
        for index, pair in enumerate(checked_items(raw["response"], where=f"{where}.response"))
    ]
    try:
        measured = OpticalRange.from_response(samples)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem
    if "low_nm" not in given:
        return measured
    edges_nm = number(raw["low_nm"], where=where), number(raw["high_nm"], where=where)
    return _range(*edges_nm, where=where, response=measured.response)


def _sample(raw: Any, *, where: str) -> tuple[float, float]:
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        raise CatalogueError(f"{where}: expected [wavelength in nm, response], found {raw!r}")
    return number(raw[0], where=where, above=0.0), number(raw[1], where=where)


def _range(
    low_nm: float, high_nm: float, *, where: str, response: tuple[tuple[float, float], ...] = ()
) -> OpticalRange:
    try:
        return OpticalRange(low_nm=low_nm, high_nm=high_nm, response=response)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem


def _wrong_keys(given: set[str], *, where: str) -> CatalogueError:
    found = ", ".join(key for key in SPECTRUM_KEYS if key in given) or "none of them"
    return CatalogueError(
        f"{where}: a band's spectrum is low_nm and high_nm, or center_nm and fwhm_nm, or response, "
        f"or for radar frequency_ghz and polarisation (and maybe orbit); found {found}"
    )


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


_FOLDER = Path(__file__).parent / "tables" / "ranges"


@dataclass(frozen=True, kw_only=True)
class TrainedRange:
    """One stretch of the spectrum with its own projection weights."""

    name: str
    """Name, unique in its table."""
    spectrum: Spectrum
    """What it sees."""
    known: tuple[tuple[str, str], ...] = ()
    """(sensor, band) pairs of the catalogue that are exactly this range."""


@dataclass(frozen=True, kw_only=True)
class DeclaredRange:
    """A range of a published table that owns no weights, only declared neighbours that do."""

    name: str
    """Name, unique in its table."""
    spectrum: Spectrum
    """What it sees."""
    neighbours: tuple[str, ...] = ()
    """Trained ranges that stand for it in the published weights; empty: none were declared."""


@dataclass(frozen=True, kw_only=True)
class RangeTable:
    """The trained ranges of a network, in the order of its layers."""

    name: str
    """Name, for example `smarties_v1`."""
    ranges: tuple[TrainedRange, ...]
    """Trained ranges; the position is the layer."""
    declared: tuple[DeclaredRange, ...] = ()
    """Ranges without weights; used by `unseen: released` only."""
    published: tuple[tuple[str, str, str], ...] = ()
    """(sensor, band, range) as published for bands that were not trained; for `unseen: released` only."""

    def __post_init__(self) -> None:
        if not self.ranges:
            raise CatalogueError(f"range table '{self.name}' has no ranges")
        every = [*self.range_names, *(entry.name for entry in self.declared)]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise CatalogueError(f"range table '{self.name}' names range '{twice[0]}' twice")
        wanted = [name for entry in self.declared for name in entry.neighbours]
        wanted += [name for _, _, name in self.published]
        unknown = next((name for name in wanted if name not in every), None)
        if unknown is not None:
            raise CatalogueError(f"range table '{self.name}' has no range '{unknown}'{nearest_name(unknown, every)}")

    @property
    def range_names(self) -> tuple[str, ...]:
        """Names of the trained ranges, in layer order."""
        return tuple(entry.name for entry in self.ranges)


def list_ranges() -> tuple[str, ...]:
    """List the range tables that come with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_ranges(name_or_path: str | Path) -> RangeTable:
    """Load a range table: by its name in the package, or from a YAML file of the same form.

    Raises:
        CatalogueError: no such table, or a table that is wrong.
    """
    return _parse_table(_read(_path_of(name_or_path)), where=str(name_or_path))


def published_statistics(
    set_name: str, *, table_name: str = "smarties_v1", unit_scale: float | None = None
) -> dict[str, BandStatistics]:
    """Load the normalisation published with a range table for one data set.

    Args:
        set_name: a pre-training sensor such as `SENTINEL2-L2A`, or an evaluation set such as `EuroSAT`.
        table_name: of the range table.
        unit_scale: physical units per published unit; None: as declared beside the numbers.

    Returns:
        Statistics in physical units by the name of the range.

    Raises:
        CatalogueError: no such set; the nearest name is offered.
    """
    sets = _read(_path_of(table_name)).get("statistics", {})
    if set_name not in sets:
        raise CatalogueError(
            f"'{table_name}' has no statistics of '{set_name}' (it has {', '.join(sets)}){nearest_name(set_name, sets)}"
        )
    entry, where = sets[set_name], f"{table_name}: statistics.{set_name}"
    keys = checked_keys(entry, where=where, required=("unit_scale", "ranges"))
    scale = number(keys["unit_scale"], where=where) if unit_scale is None else unit_scale
    return {
        name: parse_statistics(raw, where=f"{where}.{name}", unit_scale=scale)
        for name, raw in table(keys["ranges"], where=f"{where}.ranges").items()
    }


def ranges_from_sensors(sensors: Iterable[Sensor], *, min_iou: float = 0.95, name: str = "from_data") -> RangeTable:
    """Make one range for each distinct band of the training sensors, in order of first appearance.

    Every band of these sensors is then exactly known. Bands share a range if their spectral intersection over
    union is at least `min_iou`; radar bands if their frequencies are in that ratio at least, and polarisation
    and orbit are equal.

    Args:
        sensors: those trained on; held-out sensors stay outside.
        min_iou: from 0 to 1.
        name: of the table.
    """
    ranges: list[TrainedRange] = []
    for sensor in sensors:
        for band in sensor.bands:
            _add(ranges, sensor, band, min_iou=min_iou)
    return RangeTable(name=name, ranges=tuple(ranges))


def extend_ranges(table: RangeTable, sensors: Iterable[Sensor], *, min_iou: float = 0.95) -> RangeTable:
    """Add ranges for the bands of further sensors at the end; the layers that exist keep their places.

    A band that some range knows already adds nothing. One with nearly the spectrum of a range (see
    `ranges_from_sensors`) becomes known to it.
    """
    ranges = list(table.ranges)
    for sensor in sensors:
        for band in sensor.bands:
            if not any((sensor.name, band.name) in entry.known for entry in ranges):
                _add(ranges, sensor, band, min_iou=min_iou)
    return replace(table, name=f"{table.name}+", ranges=tuple(ranges))


def without_range(table: RangeTable, name: str) -> RangeTable:
    """Take a trained range out of a table, with every declared or published range that was read through it."""
    declared = tuple(entry for entry in table.declared if name not in entry.neighbours)
    left = {entry.name for entry in declared} | set(table.range_names) - {name}
    return replace(
        table,
        ranges=tuple(entry for entry in table.ranges if entry.name != name),
        declared=declared,
        published=tuple(entry for entry in table.published if entry[2] in left),
    )


def range_table_to_dict(table: RangeTable) -> dict[str, Any]:
    """Write a range table as plain JSON values, for the headers of checkpoints and stores."""
    return {
        "name": table.name,
        "ranges": [
            {"name": entry.name, **spectrum_to_dict(entry.spectrum), "known": _by_sensor(entry.known)}
            for entry in table.ranges
        ],
        "declared": [
            {"name": entry.name, **spectrum_to_dict(entry.spectrum), "neighbours": list(entry.neighbours)}
            for entry in table.declared
        ],
        "published": _published_to_dict(table.published),
    }


def range_table_from_dict(raw: Mapping[str, Any]) -> RangeTable:
    """Read what `range_table_to_dict` wrote; the round trip is exact.

    Raises:
        CatalogueError: a key is unknown or missing, or a value is wrong.
    """
    return _parse_table(dict(raw), where="range table")


def _path_of(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return path
    known = list_ranges()
    if str(name_or_path) not in known:
        raise CatalogueError(
            f"there is no range table '{name_or_path}' (known: {', '.join(known)}, or a YAML file)"
            f"{nearest_name(str(name_or_path), known)}"
        )
    return _FOLDER / f"{name_or_path}.yaml"


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return table(read_yaml(path, error=CatalogueError), where=path.name)


def _parse_table(raw: dict[str, Any], *, where: str) -> RangeTable:
    optional = ("source", "declared", "published", "statistics")
    keys = checked_keys(raw, where=where, required=("name", "ranges"), optional=optional)
    entries = enumerate(checked_items(keys["ranges"], where=f"{where}: ranges"))
    declared = enumerate(_listed(keys.get("declared"), where=f"{where}: declared"))
    return RangeTable(
        name=text(keys["name"], where=f"{where}: name"),
        ranges=tuple(_trained(entry, where=f"{where}: ranges[{index}]") for index, entry in entries),
        declared=tuple(_declared(entry, where=f"{where}: declared[{index}]") for index, entry in declared),
        published=tuple(
            (sensor, band, text(range_name, where=f"{where}: published.{sensor}.{band}"))
            for sensor, bands in table(keys.get("published"), where=f"{where}: published").items()
            for band, range_name in table(bands, where=f"{where}: published.{sensor}").items()
        ),
    )


def _listed(raw: Any, *, where: str) -> list[Any]:
    """Check that `raw` is a list, maybe empty or absent."""
    return checked_items(raw, where=where) if raw not in (None, []) else []


def _trained(raw: Any, *, where: str) -> TrainedRange:
    keys = checked_keys(raw, where=where, required=("name",), optional=(*SPECTRUM_KEYS, "known"))
    known = table(keys.get("known"), where=f"{where}.known")
    return TrainedRange(
        name=text(keys["name"], where=f"{where}.name"),
        spectrum=parse_spectrum(keys, where=where),
        known=tuple((sensor, band) for sensor, bands in known.items() for band in names(bands, where=f"{where}.known")),
    )


def _declared(raw: Any, *, where: str) -> DeclaredRange:
    keys = checked_keys(raw, where=where, required=("name",), optional=(*SPECTRUM_KEYS, "neighbours"))
    return DeclaredRange(
        name=text(keys["name"], where=f"{where}.name"),
        spectrum=parse_spectrum(keys, where=where),
        neighbours=names(keys.get("neighbours"), where=f"{where}.neighbours"),
    )


def _by_sensor(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for sensor, band in pairs:
        grouped.setdefault(sensor, []).append(band)
    return grouped


def _published_to_dict(triples: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    grouped: dict[str, dict[str, str]] = {}
    for sensor, band, range_name in triples:
        grouped.setdefault(sensor, {})[band] = range_name
    return grouped


def _add(ranges: list[TrainedRange], sensor: Sensor, band: Band, *, min_iou: float) -> None:
    likeness = [_likeness(band.spectrum, entry.spectrum) for entry in ranges]
    best = max(range(len(ranges)), key=likeness.__getitem__, default=None)
    pair = (sensor.name, band.name)
    if best is not None and likeness[best] >= min_iou:
        # Sorted, so that pairs of one sensor stand together and a table survives being written by sensor.
        ranges[best] = replace(ranges[best], known=tuple(sorted((*ranges[best].known, pair))))
    else:
        ranges.append(TrainedRange(name=f"{sensor.name}.{band.name}", spectrum=band.spectrum, known=(pair,)))


def _likeness(a: Spectrum, b: Spectrum) -> float:
    if isinstance(a, RadarBeam) and isinstance(b, RadarBeam):
        same = a.polarisation == b.polarisation and a.orbit == b.orbit
        return min(a.frequency_ghz, b.frequency_ghz) / max(a.frequency_ghz, b.frequency_ghz) if same else 0.0
    if isinstance(a, RadarBeam) or isinstance(b, RadarBeam):
        return 0.0
    return intersection_over_union(a, b)


STEM = "triplet"
"""Name of the range table whose ranges are the positions of a stem."""

# chosen: a range that lies in no window with at least half of it (panchromatic, yellow, red edge) is no colour.
_MIN_COVERED = 0.5


@cache
def stem_ranges() -> RangeTable:
    """Give the table of the stem's positions: red, green, blue."""
    return load_ranges(STEM)


def is_stem(table: RangeTable) -> bool:
    """Tell whether a network's ranges are the positions of a stem, which any band may stand in."""
    return table.name == STEM


def colour_of(spectrum: Spectrum) -> str | None:
    """Tell whether a spectrum is red, green or blue: at least half of it lies in that window.

    Args:
        spectrum: of a band or a trained range.

    Returns:
        The colour in whose window most of it lies; None: it is no colour.
    """
    if not isinstance(spectrum, OpticalRange):
        return None
    covered = {name: covered_share(spectrum, window) for name, window in _windows().items()}
    best = max(covered, key=covered.__getitem__)
    return best if covered[best] >= _MIN_COVERED else None


def stem_bands(sensor: Sensor) -> tuple[int, int, int]:
    """Choose the bands that stand in the stem when a network is used.

    Red, green and blue where the sensor has all three: of several of one colour the one nearest to the window's
    centre. Else the first three bands; a sensor with fewer repeats them in turn.

    Args:
        sensor: with the bands that are there, in their order.

    Returns:
        Position of a band for each position of the stem.

    """
    # chosen: features must not depend on chance, and colours are what most sensors share.
    found = [_of_colour(sensor, colour, window) for colour, window in _windows().items()]
    red, green, blue = (index if index is not None else -1 for index in found)
    if min(red, green, blue) >= 0:
        return red, green, blue
    count = len(sensor.bands)
    return 0, 1 % count, 2 % count


def _of_colour(sensor: Sensor, colour: str, window: OpticalRange) -> int | None:
    candidates = [index for index, band in enumerate(sensor.bands) if colour_of(band.spectrum) == colour]
    return min(
        candidates,
        key=lambda index: abs(sensor.bands[index].spectrum.center_nm - window.center_nm),
        default=None,
    )


def _windows() -> dict[str, OpticalRange]:
    ranges = stem_ranges().ranges
    return {entry.name: entry.spectrum for entry in ranges if isinstance(entry.spectrum, OpticalRange)}
