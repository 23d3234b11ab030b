"""What a band sees: a stretch of the optical or thermal spectrum, or a radar beam."""

import math
from dataclasses import dataclass
from typing import Literal

from anyband.errors import CatalogueError

__all__ = [
    "SPEED_OF_LIGHT_M_S",
    "OpticalRange",
    "Orbit",
    "Polarisation",
    "RadarBeam",
    "Spectrum",
    "covered_share",
    "intersection_over_union",
    "octaves_between",
]

Polarisation = Literal["VV", "VH", "HH", "HV"]
Orbit = Literal["ascending", "descending"]

SPEED_OF_LIGHT_M_S = 299_792_458.0  # exact; Source: BIPM, SI Brochure, 9th edition


@dataclass(frozen=True, kw_only=True)
class OpticalRange:
    """A stretch of the reflective or thermal spectrum.

    `response` is a sampled relative response; with it, the edges are where the response crosses half of its maximum.
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

    @property
    def center_nm(self) -> float:
        """Centre wavelength in nanometres: the centroid of the response, or the middle of the edges."""
        weight = sum(value for _, value in self.response)
        if weight > 0:
            return sum(wavelength * value for wavelength, value in self.response) / weight
        return (self.low_nm + self.high_nm) / 2

    @property
    def is_thermal(self) -> bool:
        """Whether emission outweighs reflected sunlight, as it does above 5 µm for surfaces near 300 K."""
        return self.center_nm > 5_000.0


@dataclass(frozen=True, kw_only=True)
class RadarBeam:
    """A radar channel: frequency, polarisation (sent, received) and, where it is known, the orbit direction."""

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
