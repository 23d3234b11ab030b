"""What a band sees: a stretch of the optical or thermal spectrum, or a radar beam."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
