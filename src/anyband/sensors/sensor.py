"""Records of what an instrument measures and how its stored numbers become physical units."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from anyband.errors import CatalogueError, nearest_name
from anyband.sensors.spectrum import Spectrum

__all__ = ["Band", "BandStatistics", "Encoding", "Sensor", "Transform", "Unit"]

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

    def decode(self, stored: float) -> float:
        """Turn a stored number into its physical value; NaN where the transform has none (power ≤ 0).

        Source:
            Brightness temperature: USGS, Landsat 8 Data Users Handbook, LSDS-1574, section 5.
        """
        value = stored * self.scale + self.offset
        if self.transform == "identity":
            return value
        if value <= 0:
            return math.nan
        if self.transform == "brightness_temperature":
            return self.k2 / math.log(self.k1 / value + 1)
        return (10.0 if self.transform == "power_to_db" else 20.0) * math.log10(value)

    def encode(self, physical: float) -> float:
        """Turn a physical value into the number to store, not rounded: the inverse of `decode`.

        The inverse of a brightness temperature T in kelvin is the radiance k1 / (exp(k2 / T) − 1).
        """
        if self.transform == "brightness_temperature":
            physical = self.k1 / math.expm1(self.k2 / physical)
        elif self.transform != "identity":
            physical = 10.0 ** (physical / (10.0 if self.transform == "power_to_db" else 20.0))
        return (physical - self.offset) / self.scale


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
