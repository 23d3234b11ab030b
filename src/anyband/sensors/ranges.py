"""Trained spectral ranges, the spectra they are made from, and stems that no band has."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from anyband.errors import CatalogueError, nearest_name
from anyband.files import OwnLoader, read_yaml
from anyband.sensors.sensor import (
    SPECTRUM_KEYS,
    Band,
    BandStatistics,
    Items,
    Names,
    Number,
    OpticalRange,
    Positive,
    RadarBeam,
    Sensor,
    Spectrum,
    Table,
    Text,
    checked,
    covered_share,
    intersection_over_union,
    parse_spectrum,
    spectrum_to_dict,
)

__all__ = [
    "STEM",
    "RangeTable",
    "TrainedRange",
    "colour_of",
    "extend_ranges",
    "load_ranges",
    "published_statistics",
    "range_table_from_dict",
    "range_table_to_dict",
    "ranges_from_sensors",
    "stem_bands",
    "stem_ranges",
    "without_range",
]

_FOLDER = Path(__file__).parent / "tables" / "ranges"


@dataclass(frozen=True, kw_only=True)
class TrainedRange:
    """One stretch of the spectrum with its own projection weights; or one that a table only declares, without any."""

    name: Text
    spectrum: Spectrum
    known: tuple[tuple[str, str], ...] = ()
    """(sensor, band) pairs of the catalogue that are exactly this range."""
    neighbours: Names = ()
    """Trained ranges that stand for a declared one in the published weights."""


@dataclass(frozen=True, kw_only=True)
class RangeTable:
    """The trained ranges of a network, in the order of its layers."""

    name: Text
    ranges: tuple[TrainedRange, ...]
    """The position is the layer."""
    declared: tuple[TrainedRange, ...] = ()
    """Ranges without weights; used by `unseen: released` only."""
    published: tuple[tuple[str, str, str], ...] = ()
    """(sensor, band, range) as published for bands that were not trained; for `unseen: released` only."""
    untrained: Names = ()
    """Ranges with weights that no band of the training sensors met: nothing is read by them."""
    gsd_m: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)
    """Ground sampling distance of the sensors that ranges are `known` of, metres; older tables name none."""
    statistics: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Normalisations by data set, as the table of the package writes them; `published_statistics` reads them."""

    def __post_init__(self) -> None:
        if not self.ranges:
            raise CatalogueError(f"range table '{self.name}' has no ranges")
        every = [entry.name for entry in (*self.ranges, *self.declared)]
        twice = sorted({name for name in every if every.count(name) > 1})
        if twice:
            raise CatalogueError(f"range table '{self.name}' names range '{twice[0]}' twice")
        wanted = [name for entry in self.declared for name in entry.neighbours]
        wanted += [*(name for _, _, name in self.published), *self.untrained]
        unknown = next((name for name in wanted if name not in every), None)
        if unknown is not None:
            raise CatalogueError(f"range table '{self.name}' has no range '{unknown}'{nearest_name(unknown, every)}")

    @property
    def range_names(self) -> tuple[str, ...]:
        """Names of the ranges with weights, in layer order."""
        return tuple(entry.name for entry in self.ranges)

    @property
    def learned(self) -> tuple[int, ...]:
        """Layers of the ranges that learned something."""
        return tuple(layer for layer, entry in enumerate(self.ranges) if entry.name not in self.untrained)

    def published_as(self, sensor: str, band: str) -> str | None:
        """Look up the range that a band that was not trained is, as published; None: nothing is."""
        return {(of, one): name for of, one, name in self.published}.get((sensor, band))


@functools.cache
def load_ranges(name_or_path: str | Path) -> RangeTable:
    """Load a range table, once: by its name in the package, or from a YAML file of the same form. `CatalogueError`
    where there is none, or it is wrong."""
    path = Path(name_or_path)
    is_own = path.suffix not in {".yaml", ".yml"}
    if is_own:
        known = sorted(table.stem for table in _FOLDER.glob("*.yaml"))
        if str(name_or_path) not in known:
            raise CatalogueError(
                f"there is no range table '{name_or_path}' (known: {', '.join(known)}, or a YAML file)"
                f"{nearest_name(str(name_or_path), known)}"
            )
        path = _FOLDER / f"{name_or_path}.yaml"
    # The package's own tables are read quickly.
    parsed = yaml.load(path.read_bytes(), OwnLoader) if is_own else read_yaml(path, error=CatalogueError)  # noqa: S506
    raw = checked(Table, parsed, where=path.name)
    return range_table_from_dict(raw, where=str(name_or_path))


def published_statistics(
    set_name: str, *, table_name: str = "smarties_v1", unit_scale: float | None = None
) -> dict[str, BandStatistics]:
    """Load the normalisation published for one data set, in physical units by the name of the range. `unit_scale` is
    physical units per published unit; None: as declared beside the numbers."""
    sets = load_ranges(table_name).statistics
    if set_name not in sets:
        raise CatalogueError(
            f"'{table_name}' has no statistics of '{set_name}' (it has {', '.join(sets)}){nearest_name(set_name, sets)}"
        )
    entry, where = sets[set_name], f"{table_name}: statistics.{set_name}"
    needed = ("unit_scale", "ranges")
    keys = checked(Table, entry, where=where, keys=needed, required=needed)
    scale = checked(Number, keys["unit_scale"], where=where) if unit_scale is None else unit_scale
    found = {name: checked(BandStatistics, raw, where=f"{where}.{name}") for name, raw in keys["ranges"].items()}
    return {name: replace(one, p01=one.p01 * scale, p99=one.p99 * scale) for name, one in found.items()}


def ranges_from_sensors(sensors: Iterable[Sensor], *, min_iou: float = 0.95, name: str = "from_data") -> RangeTable:
    """Make one range for each distinct band of the training sensors, in order of first appearance: bands share one
    where the intersection over union, or the ratio of frequencies of like radar bands, is at least `min_iou`."""
    ranges, sensors = list[TrainedRange](), tuple(sensors)
    for sensor in sensors:
        for band in sensor.bands:
            _add(ranges, sensor, band, min_iou=min_iou)
    return RangeTable(name=name, ranges=tuple(ranges), gsd_m={sensor.name: sensor.gsd_m for sensor in sensors})


def extend_ranges(table: RangeTable, sensors: Iterable[Sensor], *, min_iou: float = 0.95) -> RangeTable:
    """Add ranges for new bands of further sensors at the end; layers keep their places (see `ranges_from_sensors`)."""
    ranges, sensors = list(table.ranges), tuple(sensors)
    for sensor in sensors:
        for band in sensor.bands:
            if not any((sensor.name, band.name) in entry.known for entry in ranges):
                _add(ranges, sensor, band, min_iou=min_iou)
    gsd_m = {sensor.name: sensor.gsd_m for sensor in sensors} | {**table.gsd_m}
    return replace(table, name=f"{table.name}+", ranges=tuple(ranges), gsd_m=gsd_m)


def without_range(table: RangeTable, name: str) -> RangeTable:
    """Take a trained range out of a table, with every declared or published range that needs it."""
    declared = tuple(entry for entry in table.declared if name not in entry.neighbours)
    left = {entry.name for entry in declared} | set(table.range_names) - {name}
    ranges = tuple(entry for entry in table.ranges if entry.name != name)
    published = tuple(entry for entry in table.published if entry[2] in left)
    untrained = tuple(one for one in table.untrained if one != name)
    return replace(table, ranges=ranges, declared=declared, published=published, untrained=untrained)


def range_table_to_dict(table: RangeTable) -> dict[str, Any]:
    """Write a range table as plain JSON values, for the headers of checkpoints and stores."""
    ranges = []
    for entry in table.ranges:
        known = {sensor: [band for name, band in entry.known if name == sensor] for sensor, _ in entry.known}
        ranges.append({"name": entry.name, **spectrum_to_dict(entry.spectrum), "known": known})
    declared = [
        {"name": entry.name, **spectrum_to_dict(entry.spectrum), "neighbours": list(entry.neighbours)}
        for entry in table.declared
    ]
    published: dict[str, dict[str, str]] = {}
    for sensor, band, name in table.published:
        published.setdefault(sensor, {})[band] = name
    written = {"name": table.name, "ranges": ranges, "declared": declared, "published": published}
    rest = {"untrained": list(table.untrained), "gsd_m": dict(table.gsd_m)}
    return written | {key: value for key, value in rest.items() if value}


def range_table_from_dict(raw: Mapping[str, Any], *, where: str = "range table") -> RangeTable:
    """Read what `range_table_to_dict` wrote, or a table of the package; the round trip is exact."""
    allowed = ("name", "ranges", "source", "declared", "published", "untrained", "gsd_m", "statistics")
    keys = checked(Table, raw, where=where, keys=allowed, required=("name", "ranges"))
    published = checked(dict[str, dict[str, Text]], keys.get("published") or {}, where=f"{where}: published")
    ranges = checked(Items, keys["ranges"], where=f"{where}: ranges")
    declared = checked(list[Any], keys.get("declared") or [], where=f"{where}: declared")
    made: dict[str, list[TrainedRange]] = {"ranges": [], "declared": []}
    # A range has its own key for others: the bands that it is `known` as, or its `neighbours`.
    for kind, others, entries in (("ranges", "known", ranges), ("declared", "neighbours", declared)):
        for index, entry in enumerate(entries):
            place = f"{where}: {kind}[{index}]"
            own = checked(Table, entry, where=place, keys=("name", *SPECTRUM_KEYS, others), required=("name",))
            fields = {"name": own["name"], "spectrum": parse_spectrum(own, where=place)}
            if others == "neighbours":
                fields["neighbours"] = own.get("neighbours")
            else:
                known = checked(dict[str, Names], own.get("known") or {}, where=f"{place}: known")
                fields["known"] = tuple((sensor, band) for sensor, bands in known.items() for band in bands)
            made[kind].append(checked(TrainedRange, fields, where=place))
    return RangeTable(
        name=checked(Text, keys["name"], where=f"{where}: name"),
        published=tuple((sensor, band, name) for sensor, bands in published.items() for band, name in bands.items()),
        untrained=checked(Names, keys.get("untrained") or (), where=f"{where}: untrained"),
        gsd_m=checked(dict[str, Positive], keys.get("gsd_m") or {}, where=f"{where}: gsd_m"),
        statistics=keys.get("statistics") or {},
        ranges=tuple(made["ranges"]),
        declared=tuple(made["declared"]),
    )


def _add(ranges: list[TrainedRange], sensor: Sensor, band: Band, *, min_iou: float) -> None:
    likeness = [_likeness(band.spectrum, entry.spectrum) for entry in ranges]
    best = max(range(len(ranges)), key=likeness.__getitem__, default=None)
    if best is not None and likeness[best] >= min_iou:
        # Sorted, so that pairs of one sensor stand together and a table survives being written by sensor.
        ranges[best] = replace(ranges[best], known=tuple(sorted((*ranges[best].known, (sensor.name, band.name)))))
    else:
        ranges.append(
            TrainedRange(name=f"{sensor.name}.{band.name}", spectrum=band.spectrum, known=((sensor.name, band.name),))
        )


def _likeness(a: Spectrum, b: Spectrum) -> float:
    if isinstance(a, RadarBeam) and isinstance(b, RadarBeam):
        same = a.polarisation == b.polarisation and a.orbit == b.orbit
        return min(a.frequency_ghz, b.frequency_ghz) / max(a.frequency_ghz, b.frequency_ghz) if same else 0.0
    if isinstance(a, RadarBeam) or isinstance(b, RadarBeam):
        return 0.0
    return intersection_over_union(a, b)


STEM = "triplet"
"""The range table whose ranges are the positions of a stem, which any band may stand in."""

# chosen: a range that lies in no window with at least half of it (panchromatic, yellow, red edge) is no colour.
_MIN_COVERED = 0.5


@functools.cache
def stem_ranges() -> RangeTable:
    """Give the table of the stem's positions: red, green, blue."""
    return load_ranges(STEM)


def colour_of(spectrum: Spectrum) -> str | None:
    """Tell whether a spectrum is red, green or blue: at least half of it lies in that window. None: it is no colour."""
    if not isinstance(spectrum, OpticalRange):
        return None
    covered = {name: covered_share(spectrum, window) for name, window in _windows().items()}
    best = max(covered, key=covered.__getitem__)
    return best if covered[best] >= _MIN_COVERED else None


def stem_bands(sensor: Sensor) -> tuple[int, int, int]:
    """Choose the bands that stand in the stem: red, green and blue, of several the one nearest to the window's centre;
    else the first three, repeated in turn if fewer."""
    # chosen: features must not depend on chance, and colours are what most sensors share.
    red, green, blue = (_of_colour(sensor, colour, window) for colour, window in _windows().items())
    if min(red, green, blue) >= 0:
        return red, green, blue
    return 0, 1 % len(sensor.bands), 2 % len(sensor.bands)


def _of_colour(sensor: Sensor, colour: str, window: OpticalRange) -> int:
    """Find the band of a colour; −1: there is none."""
    found = [index for index, band in enumerate(sensor.bands) if colour_of(band.spectrum) == colour]
    away_nm = [abs(sensor.bands[index].spectrum.center_nm - window.center_nm) for index in found]
    return found[away_nm.index(min(away_nm))] if found else -1


def _windows() -> dict[str, OpticalRange]:
    ranges = stem_ranges().ranges
    return {entry.name: entry.spectrum for entry in ranges if isinstance(entry.spectrum, OpticalRange)}
