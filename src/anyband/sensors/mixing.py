"""How much each trained range counts for a band: the arithmetic of assignment.

Every function takes a spectrum and the trained ranges and gives weights by position, each over 0, summing
to 1. Where a band can't be expressed they raise `AssignmentError` with the reason alone; the caller names
sensor and band.
"""

import math
from collections.abc import Sequence

from anyband.errors import AssignmentError
from anyband.sensors.ranges import DeclaredRange, RangeTable
from anyband.sensors.spectrum import (
    OpticalRange,
    RadarBeam,
    Spectrum,
    covered_share,
    intersection_over_union,
    octaves_between,
)

__all__ = ["Weights", "interpolated_weights", "nearest_weights", "released_weights", "support_of"]

Weights = dict[int, float]
"""Position of a trained range → its share."""

# chosen: within one octave natural surfaces scatter alike; L and C band are 2.1 octaves apart.
_MAX_RADAR_OCTAVES = 1.0
# chosen: centres that differ by rounding only count as equal.
_EQUAL_CENTRES = 1e-9

_PARTNER = {"VV": "HH", "HH": "VV", "VH": "HV", "HV": "VH"}


def interpolated_weights(spectrum: Spectrum, spectra: Sequence[Spectrum]) -> Weights:
    """Weigh the two trained centres that bracket a band, linearly in log-wavelength, the nearer one more.

    Where several ranges have the same centre, the one with the largest intersection over union with the
    band stands for them (for radar: the one with the band's orbit), then the first. Between the lowest or
    highest optical centre and that range's edge the end range stands alone. A thermal band above them mixes
    the longest optical range with the co-polarised radar range nearest to it. Radar mixes with radar only,
    see `_radar_candidates`.

    Raises:
        AssignmentError: the band lies outside the trained span.
    """
    if isinstance(spectrum, RadarBeam):
        return _radar_weights(spectrum, spectra)
    return _optical_weights(spectrum, spectra)


def nearest_weights(spectrum: Spectrum, spectra: Sequence[Spectrum]) -> Weights:
    """Give everything to the trained centre nearest in log-wavelength; of two as near, the shorter.

    Raises:
        AssignmentError: the band lies outside the trained span.
    """
    weights = interpolated_weights(spectrum, spectra)
    return {max(weights, key=lambda index: (weights[index], -spectra[index].center_nm)): 1.0}


def released_weights(entry: DeclaredRange, table: RangeTable) -> Weights:
    """Weigh declared neighbours as the published code does: own distance of centres over the sum.

    The farther neighbour counts more, against the paper; only this reproduces what was published for such
    bands.

    Raises:
        AssignmentError: no neighbours were declared.
    """
    if not entry.neighbours:
        raise AssignmentError(f"range '{entry.name}' has no declared neighbours in '{table.name}'")
    positions = [table.range_names.index(name) for name in entry.neighbours]
    centers_nm = [table.ranges[position].spectrum.center_nm for position in positions]
    distances_nm = [abs(entry.spectrum.center_nm - center_nm) for center_nm in centers_nm]
    return {
        position: distance_nm / sum(distances_nm)
        for position, distance_nm in zip(positions, distances_nm, strict=True)
        if distance_nm > 0
    }


def support_of(spectrum: Spectrum, spectra: Sequence[Spectrum]) -> float:
    """Say how well the trained ranges back a band, from 0 to 1.

    It is the largest share of the band that any single range covers; where none covers any, exp(−octaves to
    the nearest centre). Radar beams have no width here, so for them it is always the latter, among the
    ranges that they may mix with.
    """
    if isinstance(spectrum, RadarBeam):
        candidates: list[Spectrum] = [spectra[index] for index in _radar_candidates(spectrum, spectra)]
    else:
        candidates = [other for other in spectra if isinstance(other, OpticalRange)]
        share = max((covered_share(spectrum, other) for other in _optical(candidates)), default=0.0)
        if share > 0:
            return share
    octaves = [octaves_between(spectrum.center_nm, other.center_nm) for other in candidates]
    return math.exp(-min(octaves)) if octaves else 0.0


def _optical(spectra: Sequence[Spectrum]) -> list[OpticalRange]:
    return [spectrum for spectrum in spectra if isinstance(spectrum, OpticalRange)]


def _optical_weights(band: OpticalRange, spectra: Sequence[Spectrum]) -> Weights:
    center_nm = band.center_nm
    ladder = _optical_ladder(band, spectra)
    if not ladder:
        raise AssignmentError("no optical range was trained")
    (lowest, lowest_nm), (highest, highest_nm) = ladder[0], ladder[-1]
    if lowest_nm <= center_nm <= highest_nm:
        return _bracketed(center_nm, ladder)
    low_edge_nm, high_edge_nm = _edges_nm(spectra[lowest])[0], _edges_nm(spectra[highest])[1]
    if low_edge_nm <= center_nm < lowest_nm:
        return {lowest: 1.0}
    if highest_nm < center_nm <= high_edge_nm:
        return {highest: 1.0}
    radar = _co_polarised(center_nm, spectra) if band.is_thermal and center_nm > highest_nm else None
    if radar is not None:
        return _bracketed(center_nm, [(highest, highest_nm), radar])
    beyond = " and no co-polarised radar range was trained" if band.is_thermal else ""
    raise AssignmentError(
        f"its centre, {center_nm:g} nm, lies outside the trained optical span, {low_edge_nm:g} to "
        f"{high_edge_nm:g} nm{beyond}"
    )


def _optical_ladder(band: OpticalRange, spectra: Sequence[Spectrum]) -> list[tuple[int, float]]:
    """List (position, centre in nm) of the optical ranges by ascending centre, one for each centre."""
    likeness = {
        index: intersection_over_union(band, other)
        for index, other in enumerate(spectra)
        if isinstance(other, OpticalRange)
    }
    return _ladder(likeness, spectra)


def _ladder(likeness: dict[int, float], spectra: Sequence[Spectrum]) -> list[tuple[int, float]]:
    ladder: list[tuple[int, float]] = []
    for index in sorted(likeness, key=lambda index: (spectra[index].center_nm, index)):
        center_nm = spectra[index].center_nm
        if ladder and math.isclose(ladder[-1][1], center_nm, rel_tol=_EQUAL_CENTRES):
            if likeness[index] > likeness[ladder[-1][0]]:
                ladder[-1] = (index, ladder[-1][1])
        else:
            ladder.append((index, center_nm))
    return ladder


def _bracketed(center_nm: float, ladder: Sequence[tuple[int, float]]) -> Weights:
    """Share between the two rungs around a centre on the ladder, linearly in log-wavelength."""
    above = next(place for place, (_, rung_nm) in enumerate(ladder) if rung_nm >= center_nm)
    high, high_nm = ladder[above]
    if above == 0 or math.isclose(high_nm, center_nm, rel_tol=_EQUAL_CENTRES):
        return {high: 1.0}
    low, low_nm = ladder[above - 1]
    share = math.log(center_nm / low_nm) / math.log(high_nm / low_nm)
    return {low: 1.0 - share, high: share} if share > 0 else {low: 1.0}


def _edges_nm(spectrum: Spectrum) -> tuple[float, float]:
    if isinstance(spectrum, OpticalRange):
        return spectrum.low_nm, spectrum.high_nm
    return spectrum.wavelength_nm, spectrum.wavelength_nm


def _co_polarised(center_nm: float, spectra: Sequence[Spectrum]) -> tuple[int, float] | None:
    """Find the co-polarised radar range nearest to an optical wavelength; of equal ones the first."""
    beams = [
        (index, beam.wavelength_nm)
        for index, beam in enumerate(spectra)
        if isinstance(beam, RadarBeam) and beam.polarisation in ("VV", "HH")
    ]
    return min(beams, key=lambda beam: octaves_between(center_nm, beam[1]), default=None)


def _radar_weights(band: RadarBeam, spectra: Sequence[Spectrum]) -> Weights:
    candidates = _radar_candidates(band, spectra)
    if not candidates:
        family = f"{band.polarisation} or {_PARTNER[band.polarisation]}"
        raise AssignmentError(f"no radar range with polarisation {family} was trained")
    ladder = _ladder({index: _orbit_likeness(band, spectra[index]) for index in candidates}, spectra)
    nearest, nearest_nm = min(ladder, key=lambda rung: octaves_between(band.wavelength_nm, rung[1]))
    octaves = octaves_between(band.wavelength_nm, nearest_nm)
    if octaves > _MAX_RADAR_OCTAVES:
        raise AssignmentError(
            f"its frequency, {band.frequency_ghz:g} GHz, is {octaves:.2f} octaves from the nearest trained "
            f"radar range; at most {_MAX_RADAR_OCTAVES:g} is allowed"
        )
    if ladder[0][1] <= band.wavelength_nm <= ladder[-1][1]:
        return _bracketed(band.wavelength_nm, ladder)
    return {nearest: 1.0}


def _radar_candidates(band: RadarBeam, spectra: Sequence[Spectrum]) -> list[int]:
    """List the radar ranges that a band may mix with.

    Those of its own polarisation if one of them lies within an octave, else those of its partner too: HH
    with VV, HV with VH.
    """
    family = {
        index: beam.polarisation == band.polarisation
        for index, beam in enumerate(spectra)
        if isinstance(beam, RadarBeam) and beam.polarisation in (band.polarisation, _PARTNER[band.polarisation])
    }
    own = [index for index, same in family.items() if same]
    near = (octaves_between(band.wavelength_nm, spectra[index].center_nm) <= _MAX_RADAR_OCTAVES for index in own)
    return own if any(near) else list(family)


def _orbit_likeness(band: RadarBeam, other: Spectrum) -> float:
    """Rank ranges of one frequency: the band's own polarisation first, then its own orbit."""
    if not isinstance(other, RadarBeam):
        raise TypeError("only radar ranges are ranked by orbit")
    return 2.0 * (band.polarisation == other.polarisation) + 1.0 * (band.orbit == other.orbit)
