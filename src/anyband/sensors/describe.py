"""A sensor in words and plain values, for people and for JSON."""

from collections.abc import Sequence
from typing import Any

from anyband.sensors.assignment import Assignment
from anyband.sensors.sensor import Band, Encoding, Sensor, Unit
from anyband.sensors.spectrum import RadarBeam, Spectrum

__all__ = [
    "centre_text",
    "encoding_lines",
    "heading_lines",
    "reading_text",
    "readings",
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
