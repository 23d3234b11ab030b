"""`anyband sensors`: the catalogue, one sensor, or a user's own, and how trained ranges read its bands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.sensors.assignment import Assignment
from anyband.sensors.sensor import Band, Encoding, RadarBeam, Sensor, Spectrum, Unit

if TYPE_CHECKING:
    from rich.table import Table

    from anyband.sensors.ranges import RangeTable
    from anyband.sensors.sensor import Sensor

__all__ = [
    "add_arguments",
    "centre_text",
    "encoding_lines",
    "heading_lines",
    "reading_text",
    "readings",
    "run",
    "spectrum_text",
    "summary",
]


def summary(sensor: Sensor) -> dict[str, Any]:
    """Sum a sensor up: names, number of bands, GSDs in metres, units, whether every band has statistics."""
    return {
        "name": sensor.name,
        "title": sensor.title,
        "aliases": list(sensor.aliases),
        "bands": len(sensor.bands),
        "gsd_m": sorted({band.gsd_m for band in sensor.bands}),
        "units": list(dict.fromkeys(band.unit for band in sensor.bands)),
        "statistics": all(band.statistics is not None for band in sensor.bands),
    }


def readings(assignment: Assignment) -> list[dict[str, Any]]:
    """List how each band asked for is read: origin, support, shares of trained ranges, or why it is not."""
    rows = {asked: row for row, asked in enumerate(assignment.kept_index)}
    return [
        {
            "band": name,
            "origin": assignment.origin[index],
            "support": assignment.support[index],
            "mixing": _shares(assignment, rows[index]) if index in rows else {},
            "reason": assignment.reasons[index] or None,
        }
        for index, name in enumerate(assignment.asked)
    ]


def reading_text(reading: dict[str, Any]) -> str:
    """Say one of `readings` in a line."""
    if reading["origin"] == "dropped":
        return f"cannot be expressed: {reading['reason']}"
    if reading["origin"] == "exact":
        return f"{next(iter(reading['mixing']))} (exact)"
    shares = " + ".join(f"{share:.3g} {name}" for name, share in reading["mixing"].items())
    return f"{shares} (support {reading['support']:.2f})"


def spectrum_text(spectrum: Spectrum) -> str:
    """Say what a band sees: its edges in nanometres, or its radar frequency, polarisation and orbit."""
    if isinstance(spectrum, RadarBeam):
        orbit = f", {spectrum.orbit}" if spectrum.orbit else ""
        return f"{spectrum.frequency_ghz:g} GHz {spectrum.polarisation}{orbit}"
    return f"{spectrum.low_nm:g} – {spectrum.high_nm:g} nm"


def centre_text(spectrum: Spectrum) -> str:
    """Say a centre wavelength; radar in micrometres, as usual: C band is 55,466 µm."""
    if isinstance(spectrum, RadarBeam):
        return f"{spectrum.wavelength_nm / 1000:,.0f} µm"
    return f"{spectrum.center_nm:.1f} nm"


def heading_lines(sensor: Sensor) -> list[str]:
    """Say what holds for the whole sensor: name, aliases, nodata, sources."""
    lines = [f"{sensor.name}: {sensor.title}"]
    if sensor.aliases:
        lines.append(f"aliases: {', '.join(sensor.aliases)}")
    lines.append(f"nodata: {'none' if sensor.nodata is None else format(sensor.nodata, 'g')}")
    lines.append(f"source: {sensor.source}")
    missing = [band.name for band in sensor.bands if band.statistics is None]
    if not missing:
        return [*lines, f"statistics: {sensor.statistics_source}"]
    which = "none" if len(missing) == len(sensor.bands) else f"none for {', '.join(missing)}"
    return [*lines, f"statistics: {which}; `anyband prepare --stats` computes those of a store"]


def encoding_lines(sensor: Sensor) -> list[str]:
    """Say how stored numbers become physical units: a line for each encoding and bands that agree."""
    names = list(dict.fromkeys(name for band in sensor.bands for name, _ in band.encodings))
    names.sort(key=lambda name: name != sensor.default_encoding)
    lines = []
    for name in names:
        groups: dict[str, list[str]] = {}
        for band in sensor.bands:
            if name in dict(band.encodings):
                groups.setdefault(_formula(band.encoding(name), band.unit), []).append(band.name)
        lines += [f"{name}{_of(bands, sensor.bands)}: {formula}" for formula, bands in groups.items()]
    return lines


def _shares(assignment: Assignment, row: int) -> dict[str, float]:
    shares = zip(assignment.range_names, assignment.mixing[row], strict=True)
    return {name: float(share) for name, share in shares if share > 0}


def _of(names: Sequence[str], every: Sequence[Band]) -> str:
    if len(names) == len(every):
        return ""
    return f" [{names[0]}]" if len(names) == 1 else f" [{len(names)} bands, {names[0]} … {names[-1]}]"


def _formula(encoding: Encoding, unit: Unit) -> str:
    affine = "stored" if encoding.scale == 1 else f"stored · {encoding.scale:g}"
    if encoding.offset:
        affine += f" {'+' if encoding.offset > 0 else '−'} {abs(encoding.offset):g}"
    if encoding.transform == "identity":
        return f"{affine} ({unit})"
    if encoding.transform == "brightness_temperature":
        return f"{encoding.k2:g} / ln({encoding.k1:g} / ({affine}) + 1) ({unit})"
    return f"{10 if encoding.transform == 'power_to_db' else 20} · log10({affine}) ({unit})"


# chosen: wide enough that no column is cut where the output is not a terminal.
_PLAIN_WIDTH = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("name", nargs="?", help="a sensor or one of its aliases; without it, the whole catalogue")
    parser.add_argument("--file", type=Path, help="check and show a sensor of your own, described in a YAML file")
    parser.add_argument(
        "--ranges",
        default="smarties_v1",
        metavar="TABLE",
        help="the trained ranges to read the bands by: smarties_v1 (default), a YAML table, or a checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """List the catalogue, or show one sensor."""
    from anyband.errors import CatalogueError
    from anyband.sensors.catalogue import get_sensor, list_sensors, load_sensor_file

    if arguments.file is not None and arguments.name is not None:
        raise CatalogueError(f"name a sensor ('{arguments.name}') or a file ('{arguments.file}'), not both")
    if arguments.file is not None:
        _show(load_sensor_file(arguments.file), _ranges(arguments.ranges), as_json=arguments.json)
    elif arguments.name is not None:
        _show(get_sensor(arguments.name), _ranges(arguments.ranges), as_json=arguments.json)
    else:
        _list([get_sensor(name) for name in list_sensors()], as_json=arguments.json)
    return 0


def _list(sensors: list[Sensor], *, as_json: bool) -> None:

    rows = [summary(sensor) for sensor in sensors]
    if as_json:
        _print_json(rows)
        return
    table = _table("name", "title", "bands", "GSD (m)", "unit", "statistics")
    for row in rows:
        gsds_m = " – ".join(f"{gsd_m:g}" for gsd_m in dict.fromkeys((row["gsd_m"][0], row["gsd_m"][-1])))
        statistics = "yes" if row["statistics"] else "no"
        table.add_row(row["name"], row["title"], str(row["bands"]), gsds_m, ", ".join(row["units"]), statistics)
    _print(table, f"{len(sensors)} sensors; `anyband sensors NAME` shows the bands of one")


def _show(sensor: Sensor, ranges: RangeTable, *, as_json: bool) -> None:
    from anyband.sensors.sensor import sensor_to_dict

    readings, refusal = _readings(sensor, ranges)
    if as_json:
        assignment = {"ranges": ranges.name, "bands": readings or None, "refused": refusal or None}
        _print_json(sensor_to_dict(sensor) | {"assignment": assignment})
        return
    encodings = [f"  {line}" for line in encoding_lines(sensor)]
    _print(
        *heading_lines(sensor),
        _band_table(sensor, readings, title=f"read by {ranges.name}"),
        "stored numbers become physical units by (the first is meant where none is declared):",
        *encodings,
        refusal,
    )


def _readings(sensor: Sensor, ranges: RangeTable) -> tuple[list[dict[str, Any]], str]:
    """Read a sensor's bands by trained ranges; gives nothing and the reason where no band can be read."""
    from anyband.errors import AssignmentError
    from anyband.sensors.assignment import AssignmentRules, assign

    try:
        return readings(assign(sensor, ranges, AssignmentRules(out_of_span="drop"))), ""
    except AssignmentError as problem:
        return [], str(problem)


def _band_table(sensor: Sensor, readings: list[dict[str, Any]], *, title: str) -> Table:

    texts = [reading_text(reading) for reading in readings] or ["cannot be expressed"] * len(sensor.bands)
    table = _table("band", "sees", "centre", "GSD (m)", "unit", "also called", title)
    for band, text in zip(sensor.bands, texts, strict=True):
        sees, centre = spectrum_text(band.spectrum), centre_text(band.spectrum)
        table.add_row(band.name, sees, centre, f"{band.gsd_m:g}", band.unit, ", ".join(band.aliases), text)
    return table


def _ranges(name: str) -> RangeTable:
    """Load the ranges of a table by name, of a YAML file, or of a checkpoint: any other file."""
    from anyband.sensors.ranges import load_ranges

    if Path(name).suffix in {".yaml", ".yml"} or not Path(name).is_file():
        return load_ranges(name)
    from anyband.models.checkpoint import load_checkpoint

    return load_checkpoint(Path(name)).ranges


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("bands", "GSD (m)", "centre") else "left")
    return table


def _print(*parts: str | Table) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=_PLAIN_WIDTH)
    for part in parts:
        if part:
            console.print(part)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))
