"""What an instrument measures: bands, spectra, encodings and statistics, and how plain values become them."""

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt, MinLen
from pydantic import AfterValidator, AllowInfNan, Strict, TypeAdapter, ValidationError

from anyband.errors import CatalogueError, RasterError, counted, nearest_name

__all__ = [
    "BY_BASELINE",
    "FILE_ENCODINGS",
    "SPECTRUM_KEYS",
    "Band",
    "BandStatistics",
    "Encoding",
    "Items",
    "Names",
    "Number",
    "OpticalRange",
    "Polarisation",
    "Positive",
    "RadarBeam",
    "Scaling",
    "Sensor",
    "Spectrum",
    "Table",
    "Text",
    "Transform",
    "Unit",
    "checked",
    "covered_share",
    "dn_formula",
    "drawn_range_nm",
    "encoded",
    "intersection_over_union",
    "listed_names",
    "number_type",
    "octaves_between",
    "parse_spectrum",
    "physical_values",
    "scaling_in",
    "scaling_notes",
    "sensor_from_dict",
    "sensor_in_file",
    "sensor_to_dict",
    "spectrum_to_dict",
    "stored_encoding",
]

Polarisation = Literal["VV", "VH", "HH", "HV"]
Unit = Literal["reflectance", "kelvin", "sigma0_db", "radiance", "count"]
Transform = Literal["identity", "power_to_db", "amplitude_to_db", "brightness_temperature"]

Number = Annotated[float, Strict(), AllowInfNan(False)]
Positive = Annotated[float, Strict(), AllowInfNan(False), Gt(0.0)]
Text = Annotated[str, MinLen(1)]
Names = tuple[Text, ...]
Table = dict[Text, Any]
Items = Annotated[list[Any], MinLen(1)]

FILE_ENCODINGS = ("tags", "physical")
"""Encodings that stand in the file: its own scale and offset make physical values. `physical`: if it has some."""

Scaling = tuple[float, float, str]
"""Scale and offset that a file gives its digital numbers, and what of it says so, for messages."""

BY_BASELINE = "its processing baseline"
"""What says it where nothing but the baseline of a Sentinel-2 product does: never applied, for some take it out."""

# Of single-look complex radar, once its magnitude (amplitude) or the square of that (intensity) was taken.
_OF_COMPLEX: dict[str, Transform] = {"amplitude": "amplitude_to_db", "intensity_db": "power_to_db"}

_SPEED_OF_LIGHT_M_S = 299_792_458.0  # exact; Source: BIPM, SI Brochure, 9th edition


@dataclass(frozen=True, kw_only=True)
class OpticalRange:
    """A stretch of the reflective or thermal spectrum; edges of a `response` are where it crosses half its maximum."""

    low_nm: Number
    high_nm: Number
    response: tuple[tuple[Number, Number], ...] = ()
    """(wavelength in nanometres, relative response), ascending; empty: flat between the edges."""

    @classmethod
    def from_response(cls, response: Sequence[tuple[float, float]]) -> "OpticalRange":
        """Make the range of an ascending response (nm, ≥ 0); its edges are the outermost crossings of half its peak."""
        samples = tuple((float(wavelength_nm), float(value)) for wavelength_nm, value in response)
        ascending = all(a[0] < b[0] for a, b in pairwise(samples))
        values = [value for _, value in samples]
        if len(samples) < 2 or not ascending or min(values) < 0 or not max(values) > 0:
            raise CatalogueError(
                "a response needs two samples or more, wavelengths ascending, values of 0 or more and one "
                f"over 0; found {counted(len(samples), 'sample')}"
            )
        half = max(values) / 2
        low_nm = _half_crossing_nm(samples, half)
        high_nm = _half_crossing_nm(samples[::-1], half)
        return cls(low_nm=low_nm, high_nm=high_nm, response=samples)

    @property
    def center_nm(self) -> float:
        """Centre wavelength: the centroid of the response, or the middle of the edges."""
        if not self.response:
            return (self.low_nm + self.high_nm) / 2
        # Trapezoids, so that unevenly spaced samples do not pull the centre towards where they are dense.
        area = moment = 0.0
        for (left_nm, left), (right_nm, right) in pairwise(self.response):
            step_nm = right_nm - left_nm
            area += step_nm * (left + right) / 2
            moment += step_nm * (left_nm * left + right_nm * right) / 2
        return moment / area

    @property
    def is_thermal(self) -> bool:
        """Whether emission outweighs reflected sunlight, as it does above 5 µm for surfaces near 300 K."""
        return self.center_nm > 5_000.0


def _half_crossing_nm(samples: Sequence[tuple[float, float]], half: float) -> float:
    """Find where the response first reaches `half`, coming from the first sample; between samples linear."""
    before_nm, before = samples[0]
    for wavelength_nm, value in samples:
        if value >= half:
            share = 1.0 if value == before else (half - before) / (value - before)
            return before_nm + max(0.0, share) * (wavelength_nm - before_nm)
        before_nm, before = wavelength_nm, value
    raise AssertionError("the maximum reaches its own half")


@dataclass(frozen=True, kw_only=True)
class RadarBeam:
    """A radar channel: frequency, polarisation (sent, received) and, where it is known, orbit direction."""

    frequency_ghz: Number
    polarisation: Polarisation
    orbit: Literal["ascending", "descending"] | None = None

    @property
    def wavelength_nm(self) -> float:
        """Wavelength; C band at 5.405 GHz gives 5.5466e7 nm."""
        return _SPEED_OF_LIGHT_M_S / self.frequency_ghz

    @property
    def center_nm(self) -> float:
        """Centre wavelength, named as for optical ranges."""
        return self.wavelength_nm


Spectrum = OpticalRange | RadarBeam


def drawn_range_nm(spectrum: Spectrum) -> tuple[float, float]:
    """Give the ends of what a band measures, nm; of radar a twentieth to both sides of its wavelength."""
    if isinstance(spectrum, OpticalRange):
        return spectrum.low_nm, spectrum.high_nm
    return 0.95 * spectrum.wavelength_nm, 1.05 * spectrum.wavelength_nm


def covered_share(band: OpticalRange, by: OpticalRange) -> float:
    """Compute the share of `band` that lies inside `by`, from 0 to 1."""
    overlap_nm = min(band.high_nm, by.high_nm) - max(band.low_nm, by.low_nm)
    return max(0.0, overlap_nm) / (band.high_nm - band.low_nm)


def intersection_over_union(a: OpticalRange, b: OpticalRange) -> float:
    """Compute the shared stretch over the joint stretch of two ranges; symmetric, 1 for equal ranges."""
    overlap_nm = max(0.0, min(a.high_nm, b.high_nm) - max(a.low_nm, b.low_nm))
    return overlap_nm / ((a.high_nm - a.low_nm) + (b.high_nm - b.low_nm) - overlap_nm)


def octaves_between(a_nm: float, b_nm: float) -> float:
    """Count the doublings between two wavelengths; symmetric, 0 for equal ones."""
    return abs(math.log2(a_nm / b_nm))


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a digital number becomes a physical value: `transform(dn · scale + offset)`."""

    scale: Number = 1.0
    offset: Number = 0.0
    transform: Transform = "identity"
    """power_to_db: 10·log10(v); amplitude_to_db: 20·log10(v); brightness_temperature: k2/ln(k1/v + 1)."""
    k1: Number = 0.0
    """First thermal constant, in the unit of the radiance; only for brightness_temperature."""
    k2: Number = 0.0
    """Second thermal constant, kelvin; only for brightness_temperature."""
    source: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise CatalogueError(
                f"an encoding needs a scale other than 0 and finite numbers, found scale {self.scale:g}, "
                f"offset {self.offset:g}"
            )
        thermal = self.transform == "brightness_temperature"
        if thermal != (self.k1 > 0 and self.k2 > 0):
            raise CatalogueError(
                "transform 'brightness_temperature' needs k1 > 0 and k2 > 0, other transforms take neither; "
                f"found '{self.transform}' with k1 {self.k1:g}, k2 {self.k2:g}"
            )

    def decode(self, dn: Any) -> Any:
        """Turn digital numbers (a number or an array) into physical values; NaN where there are none (power ≤ 0)."""
        return physical_values(dn * self.scale + self.offset, self.transform, k1=self.k1, k2=self.k2)

    def encode(self, physical: Any) -> Any:
        """Turn physical values (a number or an array) into digital numbers, not rounded: the inverse of `decode`."""
        if self.transform == "brightness_temperature":
            physical = self.k1 / np.expm1(self.k2 / physical)
        elif self.transform != "identity":
            physical = 10.0 ** (physical / (10.0 if self.transform == "power_to_db" else 20.0))
        return (physical - self.offset) / self.scale


def dn_formula(scale: float, offset: float) -> str:
    """Write how a digital number is scaled: `DN · 0.0001 − 0.1`."""
    affine = "DN" if scale == 1 else f"DN · {scale:g}"
    return affine + (f" {'+' if offset > 0 else '−'} {abs(offset):g}" if offset else "")


def physical_values(linear: Any, transform: str, *, k1: float = 0.0, k2: float = 0.0, xp: Any = np) -> Any:
    """Apply a transform to `dn · scale + offset`, by numpy or torch; NaN, not −∞, where there is no echo."""
    if transform == "identity":
        return linear
    positive = xp.where(linear > 0, linear, xp.nan)
    if transform == "brightness_temperature":
        return k2 / xp.log1p(k1 / positive)  # Source: USGS, Landsat 8 Data Users Handbook, LSDS-1574, section 5
    return (10 if transform == "power_to_db" else 20) * xp.log10(positive)


@dataclass(frozen=True, kw_only=True)
class BandStatistics:
    """Normalisation of one band. `mean` and `std` are of the values already clipped and scaled to [0, 1]."""

    p01: Number
    """1st percentile in the band's physical unit; becomes 0."""
    p99: Number
    """99th percentile in the band's physical unit; becomes 1."""
    mean: Number
    std: Number

    def __post_init__(self) -> None:
        are_finite = all(math.isfinite(value) for value in (self.p01, self.p99, self.mean, self.std))
        if not (are_finite and self.p01 < self.p99 and self.std > 0):
            raise CatalogueError(
                f"band statistics need p01 < p99 and std > 0, all finite, found p01 {self.p01:g}, "
                f"p99 {self.p99:g}, mean {self.mean:g}, std {self.std:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Band:
    """One band of a sensor."""

    name: Text
    """Name in the sensor's own convention, for example `B02`."""
    spectrum: Spectrum
    gsd_m: Positive
    unit: Unit
    encodings: tuple[tuple[str, Encoding], ...]
    """(name, encoding) for each way in which products store this band."""
    statistics: BandStatistics | None = None
    aliases: Names = ()
    source: str = ""
    """Where the numbers come from; empty: as the sensor's."""

    def encoding(self, name: str) -> Encoding:
        """Look up an encoding by name; a radar band also has those of single-look complex numbers."""
        known = dict(self.encodings)
        if name in known:
            return known[name]
        if name in _OF_COMPLEX and self.unit == "sigma0_db":
            return Encoding(transform=_OF_COMPLEX[name])
        raise CatalogueError(
            f"encoding '{name}' is not declared for band '{self.name}' ({', '.join(known)}){nearest_name(name, known)}"
        )


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """An instrument's product: ordered bands, and how they are stored."""

    name: Text
    title: Text
    bands: tuple[Band, ...]
    default_encoding: Text
    """Encoding meant where none is declared; it is always reported."""
    nodata: Number | None = None
    """Digital number that means "no data"; None where the product has none."""
    aliases: Names = ()
    source: str = ""
    statistics_source: str = ""
    band_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the bands, in order."""

    def __post_init__(self) -> None:
        if not self.bands:
            raise CatalogueError(f"sensor '{self.name}' has no bands")
        names = tuple(band.name for band in self.bands)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CatalogueError(f"sensor '{self.name}' names band '{twice[0]}' twice")
        object.__setattr__(self, "band_names", names)

    @property
    def gsd_m(self) -> float:
        """Finest ground sampling distance of the bands."""
        return min(band.gsd_m for band in self.bands)

    def band(self, name: str) -> Band:
        """Look up a band by its name or one of its aliases (case does not count)."""
        return self.bands[self.band_index(name)]

    def band_index(self, name: str) -> int:
        """Find the position of a band; see `band`."""
        if name in self.band_names:
            return self.band_names.index(name)
        folded = name.casefold()
        for index, band in enumerate(self.bands):
            if folded in {band.name.casefold(), *(alias.casefold() for alias in band.aliases)}:
                return index
        known = [*self.band_names, *(alias for band in self.bands for alias in band.aliases)]
        few = len(self.bands) <= 16
        shown = ", ".join(self.band_names) if few else f"{self.bands[0].name} … {self.bands[-1].name}"
        raise CatalogueError(
            f"band '{name}' is not in sensor '{self.name}' ({counted(len(self.bands), 'band')}: {shown})"
            f"{nearest_name(name, known)}"
        )

    def select(self, names: str | Iterable[str]) -> "Sensor":
        """Make the sensor that has only the named bands, each once, in the order given; see `listed_names`."""
        exactly = {band.name: band for band in self.bands}
        return replace(self, bands=tuple(exactly.get(name) or self.band(name) for name in listed_names(names)))


def listed_names(names: str | Iterable[str]) -> list[str]:
    """List names that are also written as one text, `B02;B03` or `B02,B03`."""
    return [name.strip() for name in re.split("[;,]", names) if name.strip()] if isinstance(names, str) else list(names)


# Images: what a file says of its numbers, beside what is declared.


# Where the names of bands are put into a note that several have.
_OF_BANDS = "\0"

_UNITS = {"%": (0.01, 0.0), "percent": (0.01, 0.0)}
_CELSIUS_K = 273.15  # exact; Source: BIPM, SI Brochure, 9th edition
_UNITS |= dict.fromkeys(("c", "°c", "degc", "celsius", "degree_celsius", "degrees celsius"), (1.0, _CELSIUS_K))


def scaling_in(unit: str, scale: float, offset: float, where: str) -> Scaling | None:
    """Bring the scale and offset of a file to shares and kelvin, from the unit that it names; None: it says nothing."""
    factor, zero = _UNITS.get(unit.strip().casefold(), (1.0, 0.0))
    if (scale, offset, factor, zero) == (1, 0, 1, 0):
        return None
    return scale * factor, offset * factor + zero, where + (f" (in {unit})" if (factor, zero) != (1, 0) else "")


def number_type(stored: str, encoding: str | None, where: str) -> np.dtype[np.generic]:
    """Tell the type of a band's numbers, of complex ones that of their magnitudes, which an encoding must ask for;
    `RasterError` where it is of the other kind."""
    if "complex" not in stored and encoding == "intensity_db":
        raise RasterError(
            f"encoding 'intensity_db' is for complex numbers, and {where} has numbers of type {stored}; declare how "
            "these are stored, such as `db` or `linear`"
        )
    if "complex" in stored and encoding not in _OF_COMPLEX:
        raise RasterError(
            f"{where} has complex numbers ({stored}), as single-look radar does; {encoding or 'the default'} is an "
            "encoding of real ones: declare `encoding: amplitude` (the magnitude) or `intensity_db` (its square), or "
            "write one of them to a file"
        )
    if "complex" not in stored:
        return np.dtype(stored)
    return np.dtype("float64" if stored in ("complex128", "complex_int32") else "float32")


def stored_encoding(sensor: Sensor) -> tuple[tuple[str, Encoding], ...]:
    """List (band, how its numbers are stored) of a sensor's default."""
    return tuple((band.name, band.encoding(sensor.default_encoding)) for band in sensor.bands)


def encoded(sensor: Sensor, encoding: str) -> Sensor:
    """Take the numbers of a sensor as stored in an encoding; `CatalogueError` where a band has none of its name."""
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


def sensor_in_file(sensor: Sensor, encoding: str, scaling: Sequence[Scaling | None], name: str) -> Sensor:
    """Give bands the encoding, one of `FILE_ENCODINGS`, that their file gives them; `scaling` is what it says of each.
    `RasterError` where it says nothing of one."""
    bands = []
    for band, found in zip(sensor.bands, scaling, strict=True):
        if found is not None and not found[2].startswith(BY_BASELINE):
            known = Encoding(scale=found[0], offset=found[1], source=found[2])
        elif encoding == "physical":
            known = dict(band.encodings).get(encoding, Encoding())
        else:
            raise RasterError(
                f"encoding '{encoding}' is declared, and nothing in '{name}' says the scale and offset of band "
                f"'{band.name}'; declare another encoding ({', '.join(dict(band.encodings))}), or `scale` and `offset`"
            )
        bands.append(replace(band, encodings=((encoding, known),)))
    return replace(sensor, bands=tuple(bands), default_encoding=encoding)


def scaling_notes(
    sensor: Sensor, encoding: str | None, scaling: Sequence[Scaling | None], stored: Mapping[str, Encoding]
) -> list[str]:
    """Say where what a file says of its scale and offset is not how its numbers are decoded, or that it is applied.
    `stored` are the encodings that were taken; empty: the one named, else the sensor's default."""
    bands: dict[str, list[str]] = {}
    named = encoding or sensor.default_encoding
    for band, (scale, offset, where) in ((band, one) for band, one in zip(sensor.bands, scaling, strict=True) if one):
        by_baseline = where.startswith(BY_BASELINE)
        note = f"by {where} physical values of {_OF_BANDS} are {dn_formula(scale, offset)}"
        taken = stored.get(band.name) or band.encoding(named)
        same_scale = math.isclose(scale, taken.scale, rel_tol=1e-6)
        if encoding in FILE_ENCODINGS and not by_baseline:
            note += ", which is applied"
        elif same_scale and math.isclose(offset, taken.offset, abs_tol=1e-9):
            continue
        elif same_scale and band.unit == "kelvin" and math.isclose(offset + _CELSIUS_K, taken.offset):
            # Files in degrees Celsius seldom say so.
            continue
        elif by_baseline and not same_scale:
            # It is of digital numbers, and these are something else.
            continue
        else:
            name = f"encoding '{named}'" if dict(band.encodings).get(named) == taken else "the declared encoding"
            right = [
                key for key, one in band.encodings if one == Encoding(scale=scale, offset=offset, source=one.source)
            ]
            right += [] if by_baseline else ["tags"]
            note += f"; that contradicts {name} ({dn_formula(taken.scale, taken.offset)}), which was taken"
            note += f"; if the file is right, declare `encoding: {'` or `'.join(right)}`" if right else ""
        bands.setdefault(note, []).append(band.name)
    shown = {
        note: f"{names[0]} and {len(names) - 1} more bands" if len(names) > 2 else " and ".join(names)
        for note, names in bands.items()
    }
    return [note.replace(_OF_BANDS, names) for note, names in shown.items()]


# Reading: plain values of a table or a header become the types above, or an error that says where.


_adapter = functools.cache(TypeAdapter)


def checked(kind: Any, raw: Any, *, where: str, keys: Collection[str] = (), required: Collection[str] = ()) -> Any:
    """Make a value of any annotated type from plain ones. Nothing is converted but whole numbers to floats. Of a record
    `raw` holds the fields, and None counts as absent. Of a table with `keys` no others are allowed, the `required` ones
    stand there, and None is an empty one. `CatalogueError` names `where`, and the nearest key."""
    is_record = dataclasses.is_dataclass(kind)
    allowed = [one.name for one in dataclasses.fields(kind) if one.init] if is_record else keys
    table = {} if raw is None and allowed else raw
    try:
        mapping = _adapter(Table).validate_python(table) if allowed else {}
        if unknown := [key for key in mapping if key not in allowed]:
            offer = nearest_name(unknown[0], allowed)
            raise CatalogueError(f"{where}: unknown key '{unknown[0]}'{offer} (allowed: {', '.join(allowed)})")
        if missing := [key for key in required if mapping.get(key) is None]:
            raise CatalogueError(f"{where}: key '{missing[0]}' is missing (needed: {', '.join(required)})")
        given = {key: value for key, value in mapping.items() if value is not None} if is_record else table
        return _adapter(kind).validate_python(given)
    except ValidationError as problem:
        error = problem.errors(include_url=False)[0]
        place = "".join(f"[{step}]" if isinstance(step, int) else f": {step}" for step in error["loc"])
        if error["type"] == "missing":
            raise CatalogueError(f"{where}: key '{error['loc'][-1]}' is missing") from None
        raise CatalogueError(f"{where}{place}: {_sentence(error)}") from None


def _sentence(error: Any) -> str:
    """Say what was expected and what was found."""
    kind, found = error["type"], error["input"]
    shown = "nothing" if found is None else f"{found!r} ({type(found).__name__})"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "literal_error" and isinstance(found, str):
        allowed = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        return f"'{found}' is not one of {', '.join(allowed)}{nearest_name(found, allowed)}"
    if kind in ("literal_error", "string_type", "string_too_short"):
        return f"expected a text, found {shown}; put it in quotes if it is one"
    if kind in ("finite_number", "greater_than"):
        over = f" over {error['ctx']['gt']:g}" if kind == "greater_than" else ""
        return f"expected a finite number{over}, found {found:g}"
    expected = {
        "float_type": "a number",
        "dict_type": "a mapping of keys to values",
        "tuple_type": "a list",
        "list_type": "a list with at least one item",
        "too_short": "a list with at least one item",
    }
    return f"expected {expected.get(kind, error['msg'])}, found {shown}"


SPECTRUM_KEYS = ("low_nm", "high_nm", "center_nm", "fwhm_nm", "response", "frequency_ghz", "polarisation", "orbit")
_Measured = Annotated[list[tuple[Positive, Number]], AfterValidator(OpticalRange.from_response)]


def parse_spectrum(raw: Mapping[str, Any], *, where: str) -> Spectrum:
    """Read a spectrum from the keys of `SPECTRUM_KEYS` that `raw` has; other keys are not looked at. Optical: `low_nm`
    and `high_nm`, or `center_nm` and `fwhm_nm`, or a sampled `response` (alone, or with the edges to use). Radar:
    `frequency_ghz`, `polarisation` and, where it is known, `orbit`."""
    values = {key: raw[key] for key in SPECTRUM_KEYS if raw.get(key) is not None}
    given = set(values)
    if {"frequency_ghz", "polarisation"} <= given <= {"frequency_ghz", "polarisation", "orbit"}:
        beam: RadarBeam = checked(RadarBeam, values, where=where)
        if not beam.frequency_ghz > 0:
            raise CatalogueError(f"{where}: a radar frequency must be over 0 GHz, found {beam.frequency_ghz:g} GHz")
        return beam
    if given == {"center_nm", "fwhm_nm"}:
        center_nm, width_nm = (checked(Positive, values[key], where=f"{where}: {key}") for key in values)
        values = {"low_nm": center_nm - width_nm / 2, "high_nm": center_nm + width_nm / 2}
    elif given in ({"response"}, {"response", "low_nm", "high_nm"}):
        measured = checked(_Measured, values["response"], where=f"{where}: response")
        values = dataclasses.asdict(measured) | values | {"response": measured.response}
    elif given != {"low_nm", "high_nm"}:
        raise CatalogueError(
            f"{where}: a band's spectrum is low_nm and high_nm, or center_nm and fwhm_nm, or response, or for radar "
            f"frequency_ghz and polarisation (and maybe orbit); found {', '.join(values) or 'none of them'}"
        )
    optical: OpticalRange = checked(OpticalRange, values, where=where)
    if not 0 < optical.low_nm < optical.high_nm:
        raise CatalogueError(
            f"{where}: a spectral range needs 0 < low < high in nm, found {optical.low_nm:g} to {optical.high_nm:g} nm"
        )
    return optical


def spectrum_to_dict(spectrum: Spectrum) -> dict[str, Any]:
    """Write a spectrum as plain JSON values; `parse_spectrum` gives it back exactly."""
    if isinstance(spectrum, RadarBeam):
        return dataclasses.asdict(spectrum)
    edges: dict[str, Any] = {"low_nm": spectrum.low_nm, "high_nm": spectrum.high_nm}
    return edges | ({"response": [list(pair) for pair in spectrum.response]} if spectrum.response else {})


_SENSOR_KEYS = ("name", "title", "aliases", "nodata", "default_encoding", "source", "statistics_source", "bands")
_BAND_KEYS = ("name", *SPECTRUM_KEYS, "gsd_m", "unit", "encodings", "statistics", "aliases", "source")
_ENCODING_KEYS = ("scale", "offset", "k1", "k2", "transform", "source")


def sensor_to_dict(sensor: Sensor) -> dict[str, Any]:
    """Write a sensor as plain JSON values; `sensor_from_dict` gives an equal sensor back."""
    bands = [
        {
            "name": band.name,
            **spectrum_to_dict(band.spectrum),
            "gsd_m": band.gsd_m,
            "unit": band.unit,
            "encodings": {name: {key: getattr(entry, key) for key in _ENCODING_KEYS} for name, entry in band.encodings},
            "statistics": None if band.statistics is None else dataclasses.asdict(band.statistics),
            "aliases": list(band.aliases),
            "source": band.source,
        }
        for band in sensor.bands
    ]
    written = {key: getattr(sensor, key) for key in _SENSOR_KEYS}
    return written | {"aliases": list(sensor.aliases), "bands": bands}


def sensor_from_dict(raw: Mapping[str, Any], *, where: str = "") -> Sensor:
    """Read what `sensor_to_dict` wrote; `where` is its place for messages."""
    where = where or f"sensor '{raw.get('name')}'"
    required = ("name", "title", "default_encoding", "bands")
    keys = checked(Table, dict(raw), where=where, keys=_SENSOR_KEYS, required=required)
    bands = []
    for index, entry in enumerate(checked(Items, keys["bands"], where=f"{where}: bands")):
        needed = ("name", "gsd_m", "unit", "encodings")
        band = checked(Table, entry, where=f"{where}: bands[{index}]", keys=_BAND_KEYS, required=needed)
        place = f"{where}: bands[{index}] ('{band['name']}')"
        made: dict[str, Any] = {key: value for key, value in band.items() if key not in SPECTRUM_KEYS}
        made["spectrum"] = parse_spectrum(band, where=place)
        made["encodings"] = tuple(
            (name, checked(Encoding, numbers, where=f"{place}: encodings.{name}"))
            for name, numbers in checked(Table, band["encodings"], where=f"{place}: encodings").items()
        )
        if band.get("statistics") is not None:
            made["statistics"] = checked(BandStatistics, band["statistics"], where=f"{place}: statistics")
        bands.append(checked(Band, made, where=place))
    return checked(Sensor, keys | {"bands": tuple(bands)}, where=where)  # type: ignore[no-any-return]
