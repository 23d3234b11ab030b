"""What an instrument measures: bands, spectra, encodings and statistics."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from anyband.errors import CatalogueError, nearest_name

__all__ = [
    "SPEED_OF_LIGHT_M_S",
    "Band",
    "BandStatistics",
    "Encoding",
    "OpticalRange",
    "Orbit",
    "Polarisation",
    "RadarBeam",
    "Sensor",
    "Spectrum",
    "Transform",
    "Unit",
    "checked_items",
    "checked_keys",
    "choice",
    "covered_share",
    "intersection_over_union",
    "names",
    "number",
    "octaves_between",
    "physical_values",
    "table",
    "text",
]

Polarisation = Literal["VV", "VH", "HH", "HV"]
Orbit = Literal["ascending", "descending"]

SPEED_OF_LIGHT_M_S = 299_792_458.0  # exact; Source: BIPM, SI Brochure, 9th edition


@dataclass(frozen=True, kw_only=True)
class OpticalRange:
    """A stretch of the reflective or thermal spectrum.

    `response` is a sampled relative response; the edges are then where it crosses half of its maximum.
    """

    low_nm: float
    """Lower edge, nanometres."""
    high_nm: float
    """Upper edge, nanometres."""
    response: tuple[tuple[float, float], ...] = ()
    """(wavelength in nanometres, relative response), ascending; empty: flat between the edges."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low_nm) and math.isfinite(self.high_nm) and 0 < self.low_nm < self.high_nm):
            raise CatalogueError(
                f"a spectral range needs 0 < low < high in nm, found {self.low_nm:g} to {self.high_nm:g} nm"
            )

    @classmethod
    def from_response(cls, response: Sequence[tuple[float, float]]) -> "OpticalRange":
        """Make the range of a sampled response; its edges are the outermost crossings of half the maximum.

        Args:
            response: (wavelength in nanometres, relative response of 0 or more), wavelengths ascending.

        Raises:
            CatalogueError: fewer than two samples, wavelengths not ascending, or no response over 0.
        """
        samples = tuple((float(wavelength_nm), float(value)) for wavelength_nm, value in response)
        ascending = all(a[0] < b[0] for a, b in pairwise(samples))
        values = [value for _, value in samples]
        if len(samples) < 2 or not ascending or min(values) < 0 or not max(values) > 0:
            raise CatalogueError(
                "a response needs two samples or more, wavelengths ascending, values of 0 or more and one "
                f"over 0; found {len(samples)} samples"
            )
        half = max(values) / 2
        low_nm = _half_crossing_nm(samples, half)
        high_nm = _half_crossing_nm(samples[::-1], half)
        return cls(low_nm=low_nm, high_nm=high_nm, response=samples)

    @property
    def center_nm(self) -> float:
        """Centre wavelength in nanometres: the centroid of the response, or the middle of the edges."""
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

    frequency_ghz: float
    """Centre frequency, gigahertz."""
    polarisation: Polarisation
    """Sent and received polarisation."""
    orbit: Orbit | None = None
    """Direction of flight; None where it is not declared."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.frequency_ghz) and self.frequency_ghz > 0):
            raise CatalogueError(f"a radar frequency must be over 0 GHz, found {self.frequency_ghz:g} GHz")

    @property
    def wavelength_nm(self) -> float:
        """Wavelength in nanometres; C band at 5.405 GHz gives 5.5466e7 nm."""
        return SPEED_OF_LIGHT_M_S / self.frequency_ghz

    @property
    def center_nm(self) -> float:
        """Centre wavelength in nanometres, named as for optical ranges."""
        return self.wavelength_nm


Spectrum = OpticalRange | RadarBeam


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


def checked_keys(
    raw: Any, *, where: str, required: Collection[str] = (), optional: Collection[str] = ()
) -> dict[str, Any]:
    """Check that `raw` is a mapping with all required keys and no unknown ones.

    Args:
        raw: what stands in the table.
        where: its place, for messages.
        required: keys that must stand there.
        optional: keys that may stand there.

    Returns:
        The mapping.

    Raises:
        CatalogueError: a key is unknown (the nearest one is offered) or missing.
    """
    mapping = table(raw, where=where)
    allowed = [*required, *optional]
    for key in mapping:
        if key not in allowed:
            raise CatalogueError(
                f"{where}: unknown key '{key}'{nearest_name(key, allowed)} (allowed: {', '.join(allowed)})"
            )
    missing = [key for key in required if mapping.get(key) is None]
    if missing:
        raise CatalogueError(f"{where}: key '{missing[0]}' is missing (needed: {', '.join(required)})")
    return mapping


def table(raw: Any, *, where: str) -> dict[str, Any]:
    """Check that `raw` is a mapping whose keys are texts. An empty entry counts as an empty mapping."""
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise CatalogueError(f"{where}: expected a mapping of keys to values, found {_shown(raw)}")
    for key in raw:
        text(key, where=f"{where}, key {key!r}")
    return raw


def checked_items(raw: Any, *, where: str) -> list[Any]:
    """Check that `raw` is a list with at least one item."""
    if not isinstance(raw, list) or not raw:
        raise CatalogueError(f"{where}: expected a list with at least one item, found {_shown(raw)}")
    return raw


def text(raw: Any, *, where: str) -> str:
    """Check that `raw` is a text with something in it."""
    if not isinstance(raw, str) or not raw.strip():
        raise CatalogueError(f"{where}: expected a text, found {_shown(raw)}; put it in quotes if it is one")
    return raw


def names(raw: Any, *, where: str) -> tuple[str, ...]:
    """Check that `raw` is a list of texts, maybe empty or absent."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise CatalogueError(f"{where}: expected a list of texts, found {_shown(raw)}")
    return tuple(text(item, where=f"{where}[{index}]") for index, item in enumerate(raw))


def number(raw: Any, *, where: str, above: float = -math.inf) -> float:
    """Check that `raw` is a finite number, and greater than `above`."""
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise CatalogueError(f"{where}: expected a number, found {_shown(raw)}")
    if not (math.isfinite(raw) and raw > above):
        bound = f" over {above:g}" if math.isfinite(above) else ""
        raise CatalogueError(f"{where}: expected a finite number{bound}, found {raw:g}")
    return float(raw)


def choice(raw: Any, *, where: str, allowed: Collection[str]) -> str:
    """Check that `raw` is one of the allowed words; else the nearest one is offered."""
    word = text(raw, where=where)
    if word not in allowed:
        raise CatalogueError(f"{where}: '{word}' is not one of {', '.join(allowed)}{nearest_name(word, allowed)}")
    return word


def _shown(raw: Any) -> str:
    return "nothing" if raw is None else f"{raw!r} ({type(raw).__name__})"


Unit = Literal["reflectance", "kelvin", "sigma0_db", "radiance", "count"]
Transform = Literal["identity", "power_to_db", "amplitude_to_db", "brightness_temperature"]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How a stored number becomes a physical value: `transform(stored · scale + offset)`."""

    scale: float = 1.0
    """Physical units per stored unit."""
    offset: float = 0.0
    """Physical value of a stored 0, before the transform."""
    transform: Transform = "identity"
    """power_to_db: 10·log10(v); amplitude_to_db: 20·log10(v); brightness_temperature: k2/ln(k1/v + 1)."""
    k1: float = 0.0
    """First thermal constant, in the unit of the radiance; only for brightness_temperature."""
    k2: float = 0.0
    """Second thermal constant, kelvin; only for brightness_temperature."""
    source: str = ""
    """Where the numbers come from."""

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
        """Turn physical values (a number or an array) into digital numbers, not rounded: the inverse of `decode`.

        The inverse of a brightness temperature T in kelvin is the radiance k1 / (exp(k2 / T) − 1).
        """
        if self.transform == "brightness_temperature":
            physical = self.k1 / np.expm1(self.k2 / physical)
        elif self.transform != "identity":
            physical = 10.0 ** (physical / (10.0 if self.transform == "power_to_db" else 20.0))
        return (physical - self.offset) / self.scale


def physical_values(linear: Any, transform: str, *, k1: float = 0.0, k2: float = 0.0, xp: Any = np) -> Any:
    """Apply the transform of an encoding to scaled numbers; NaN where it has no value: no echo is missing, not −∞.

    Args:
        linear: `dn · scale + offset`, of any shape.
        transform: `Encoding.transform`.
        k1: of a brightness temperature.
        k2: of a brightness temperature.
        xp: numpy or torch, of which `linear` is.

    Source:
        Brightness temperature: USGS, Landsat 8 Data Users Handbook, LSDS-1574, section 5.
    """
    if transform == "identity":
        return linear
    positive = xp.where(linear > 0, linear, xp.nan)
    if transform == "brightness_temperature":
        return k2 / xp.log1p(k1 / positive)
    return (10 if transform == "power_to_db" else 20) * xp.log10(positive)


@dataclass(frozen=True, kw_only=True)
class BandStatistics:
    """Normalisation of one band. `mean` and `std` are of the values already clipped and scaled to [0, 1]."""

    p01: float
    """1st percentile in the band's physical unit; becomes 0."""
    p99: float
    """99th percentile in the band's physical unit; becomes 1."""
    mean: float
    """Mean of the scaled values."""
    std: float
    """Standard deviation of the scaled values."""

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

    name: str
    """Name in the sensor's own convention, for example `B02`."""
    spectrum: Spectrum
    """What it sees."""
    gsd_m: float
    """Ground sampling distance of the product's grid, metres."""
    unit: Unit
    """Physical unit after decoding."""
    encodings: tuple[tuple[str, Encoding], ...]
    """(name, encoding) for each way in which products store this band."""
    statistics: BandStatistics | None = None
    """Normalisation where a source exists; else None."""
    aliases: tuple[str, ...] = ()
    """Other names of this band: STAC common name, TorchGeo, PANGAEA, TerraTorch."""
    source: str = ""
    """Where the numbers come from; empty: as the sensor's."""

    def encoding(self, name: str) -> Encoding:
        """Look up an encoding by name.

        Raises:
            CatalogueError: no such encoding.
        """
        known = dict(self.encodings)
        if name not in known:
            raise CatalogueError(
                f"encoding '{name}' is not declared for band '{self.name}' ({', '.join(known)})"
                f"{nearest_name(name, known)}"
            )
        return known[name]


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """An instrument's product: ordered bands, and how they are stored."""

    name: str
    """Name in the catalogue, for example `sentinel2-l2a`."""
    title: str
    """Name for people."""
    bands: tuple[Band, ...]
    """In the order of the product."""
    default_encoding: str
    """Encoding meant where none is declared; it is always reported."""
    nodata: float | None = None
    """Stored number that means "no data"; None where the product has none."""
    aliases: tuple[str, ...] = ()
    """Other names of the sensor."""
    source: str = ""
    """Where the numbers come from."""
    statistics_source: str = ""
    """Where the normalisation comes from; empty where there is none."""

    def __post_init__(self) -> None:
        if not self.bands:
            raise CatalogueError(f"sensor '{self.name}' has no bands")
        names = [band.name for band in self.bands]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise CatalogueError(f"sensor '{self.name}' names band '{twice[0]}' twice")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands, in order."""
        return tuple(band.name for band in self.bands)

    @property
    def gsd_m(self) -> float:
        """Finest ground sampling distance of the bands, metres."""
        return min(band.gsd_m for band in self.bands)

    def band(self, name: str) -> Band:
        """Look up a band by its name or one of its aliases (case does not count).

        Raises:
            CatalogueError: no such band; the nearest name is offered.
        """
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
            f"band '{name}' is not in sensor '{self.name}' ({len(self.bands)} bands: {shown})"
            f"{nearest_name(name, known)}"
        )

    def select(self, names: Iterable[str]) -> "Sensor":
        """Make the sensor that has only the named bands, in the order given.

        Raises:
            CatalogueError: a band is unknown or named twice.
        """
        return replace(self, bands=tuple(self.band(name) for name in names))
