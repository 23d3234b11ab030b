"""`anyband sensors`: the catalogue, one sensor, or a user's own, and how trained ranges read its bands."""

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from anyband.cli.results import print_table
from anyband.errors import AssignmentError, CatalogueError, counted
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor, list_sensors, load_sensor_file
from anyband.sensors.ranges import RangeTable, load_ranges
from anyband.sensors.sensor import Encoding, RadarBeam, Sensor, Spectrum, Unit, dn_formula, sensor_to_dict

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        help="a sensor or one of its aliases, or the YAML file of one of your own, which is checked; without it, the "
        "whole catalogue",
    )
    parser.add_argument("--file", type=Path, help="a YAML file, as NAME may be")
    parser.add_argument(
        "--ranges",
        default="smarties_v1",
        metavar="TABLE",
        help="the trained ranges to read the bands by: smarties_v1 (default), a YAML table, or a checkpoint",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
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
    rows: list[dict[str, Any]] = [
        {
            "name": sensor.name,
            "title": sensor.title,
            "aliases": list(sensor.aliases),
            "bands": len(sensor.bands),
            "gsd_m": sorted({band.gsd_m for band in sensor.bands}),
            "units": list(dict.fromkeys(band.unit for band in sensor.bands)),
            "statistics": all(band.statistics is not None for band in sensor.bands),
        }
        for sensor in sensors
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    cells = []
    for row in rows:
        gsds_m = "–".join(f"{gsd_m:.3g}" for gsd_m in dict.fromkeys((row["gsd_m"][0], row["gsd_m"][-1])))
        statistics = "yes" if row["statistics"] else "no"
        cells.append((row["name"], row["title"], str(row["bands"]), gsds_m, ", ".join(row["units"]), statistics))
    header = ("name", "title", "bands", "GSD (m)", "unit", "stats")
    print_table("", header, cells, wrap=("title", "unit"))
    print(f"{counted(len(sensors), 'sensor')}; `anyband sensors NAME` shows the bands of one, or of a YAML file")


def _show(sensor: Sensor, ranges: RangeTable, *, as_json: bool) -> None:
    assigned, refusal = _assigned(sensor, ranges)
    if as_json:
        assignment = {"ranges": ranges.name, "bands": assigned or None, "refused": refusal or None}
        print(json.dumps(sensor_to_dict(sensor) | {"assignment": assignment}, indent=2, ensure_ascii=False))
        return
    header = ("band", "sees", "centre", "GSD (m)", "unit", "also called", f"read by {ranges.name}")
    texts = [_assigned_text(row) for row in assigned] or ["cannot be expressed"] * len(sensor.bands)
    cells = [
        (band.name, *_spectrum_texts(band.spectrum), f"{band.gsd_m:g}", band.unit, ", ".join(band.aliases), text)
        for band, text in zip(sensor.bands, texts, strict=True)
    ]
    width = shutil.get_terminal_size().columns
    for line in _heading_lines(sensor):
        print(textwrap.fill(line, width, subsequent_indent="  "))
    print_table("", header, cells, wrap=("sees", "also called", header[-1]))
    print("digital numbers become physical units so (the first where none is declared):")
    print("\n".join([*(f"  {line}" for line in _encoding_lines(sensor)), *([refusal] if refusal else [])]))


def _assigned(sensor: Sensor, ranges: RangeTable) -> tuple[list[dict[str, Any]], str]:
    """Assign a sensor's bands to trained ranges, a row for each; no rows and the reason where none can be expressed."""
    try:
        found = assign(sensor, ranges)
    except AssignmentError as problem:
        return [], str(problem)
    mixing = {
        index: {name: float(share) for name, share in zip(found.range_names, row, strict=True) if share > 0}
        for index, row in zip(found.kept_index, found.mixing, strict=True)
    }
    rows = zip(found.requested, found.origin, found.support, found.reasons, strict=True)
    return [
        {"band": name, "origin": origin, "support": support, "mixing": mixing.get(index, {}), "reason": reason or None}
        for index, (name, origin, support, reason) in enumerate(rows)
    ], ""


def _assigned_text(row: dict[str, Any]) -> str:
    if row["origin"] == "dropped":
        return f"dropped: {row['reason']}"
    if row["origin"] == "exact":
        return f"{next(iter(row['mixing']))} (exact)"
    shares = " + ".join(f"{share:.3g} {name}" for name, share in row["mixing"].items())
    untrained = "its own range was not trained, " if row["origin"] == "untrained" else ""
    return f"{shares} ({untrained}support {row['support']:.2f})"


def _spectrum_texts(spectrum: Spectrum) -> tuple[str, str]:
    """Say what a band sees, and its centre; radar in micrometres, as usual: C band is 55,466 µm."""
    if isinstance(spectrum, RadarBeam):
        orbit = f", {spectrum.orbit}" if spectrum.orbit else ""
        sees = f"{spectrum.frequency_ghz:g} GHz {spectrum.polarisation}{orbit}"
        return sees, f"{spectrum.wavelength_nm / 1000:,.0f} µm"
    return f"{spectrum.low_nm:g}–{spectrum.high_nm:g} nm", f"{spectrum.center_nm:.1f} nm"


def _heading_lines(sensor: Sensor) -> list[str]:
    missing = [band.name for band in sensor.bands if band.statistics is None]
    which = "none" if len(missing) == len(sensor.bands) else f"none for {', '.join(missing)}"
    computed = f"{which}; `anyband prepare --stats` computes those of a store"
    return [
        f"{sensor.name}: {sensor.title}",
        *([f"aliases: {', '.join(sensor.aliases)}"] if sensor.aliases else []),
        f"nodata: {'none' if sensor.nodata is None else format(sensor.nodata, 'g')}",
        f"source: {sensor.source}",
        f"statistics: {computed if missing else sensor.statistics_source}",
    ]


def _encoding_lines(sensor: Sensor) -> list[str]:
    """Say how digital numbers become physical units: a line for each encoding and bands that agree."""
    names = list(dict.fromkeys(name for band in sensor.bands for name, _ in band.encodings))
    lines = []
    for name in sorted(names, key=lambda name: name != sensor.default_encoding):
        groups: dict[str, list[str]] = {}
        for band in sensor.bands:
            if name in dict(band.encodings):
                groups.setdefault(_formula(band.encoding(name), band.unit), []).append(band.name)
        for formula, bands in groups.items():
            some = f" [{bands[0]}]" if len(bands) == 1 else f" [{len(bands)} bands, {bands[0]} … {bands[-1]}]"
            lines.append(f"{name}{'' if len(bands) == len(sensor.bands) else some}: {formula}")
    return lines


def _formula(encoding: Encoding, unit: Unit) -> str:
    affine = dn_formula(encoding.scale, encoding.offset)
    if encoding.transform == "identity":
        return f"{affine} ({unit})"
    if encoding.transform == "brightness_temperature":
        return f"{encoding.k2:g} / ln({encoding.k1:g} / ({affine}) + 1) ({unit})"
    return f"{10 if encoding.transform == 'power_to_db' else 20} · log10({affine}) ({unit})"


def _ranges(name: str) -> RangeTable:
    """Load the ranges of a table by name, of a YAML file, or of a checkpoint: any other file."""
    if Path(name).suffix in {".yaml", ".yml"} or not Path(name).is_file():
        return load_ranges(name)
    # Imported here, because only a checkpoint needs torch.
    from anyband.models.checkpoint import load_checkpoint

    return load_checkpoint(Path(name)).ranges
