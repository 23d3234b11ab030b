"""Which trained ranges a band meets, and how it is mixed from them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np

from anyband.arrays import Array, Float
from anyband.errors import AssignmentError, counted, nearest_name
from anyband.sensors.ranges import STEM, RangeTable, TrainedRange, stem_bands
from anyband.sensors.sensor import (
    Band,
    OpticalRange,
    RadarBeam,
    Sensor,
    Spectrum,
    covered_share,
    intersection_over_union,
    octaves_between,
)

__all__ = [
    "MIN_SUPPORT",
    "Assignment",
    "AssignmentRules",
    "Unseen",
    "UnseenRules",
    "Weights",
    "assign",
    "interpolated_weights",
    "mixing_of_ranges",
    "nearest_weights",
    "support_of",
]

Weights = dict[int, float]
"""Position of a trained range → its share."""
_Scale = Callable[[float], float]

MIN_SUPPORT = 0.15
"""chosen: over the 0.10 of a thermal band, which costs an unseen Landsat-8 12 points and HLS 15 (docs/log.md), under
that of the reflective bands of the catalogue's multispectral sensors."""
# chosen: within one octave natural surfaces scatter alike; L and C band are 2.1 octaves apart.
_MAX_RADAR_OCTAVES = 1.0
# chosen: centres that differ by rounding only count as equal.
_EQUAL_CENTRES = 1e-9

_PARTNER = {"VV": "HH", "HH": "VV", "VH": "HV", "HV": "VH"}


def interpolated_weights(spectrum: Spectrum, spectra: Sequence[Spectrum], *, is_log: bool = True) -> Weights:
    """Weigh the two trained centres that bracket a band, linearly in log-wavelength, the nearer one more; not `is_log`:
    linearly in wavelength, as figure 4 of the paper has it (SMARTIES, arXiv 2506.19585). Of ranges of one centre the
    most like stands for them (for radar: that of the orbit), then the first. Beyond the outermost optical centre, up to
    its edge, the end range stands alone; a thermal band above mixes the longest optical range with the nearest
    co-polarised radar range. Radar mixes with radar only."""
    scale = math.log if is_log else float
    if isinstance(spectrum, RadarBeam):
        return _radar_weights(spectrum, spectra, scale)
    return _optical_weights(spectrum, spectra, scale)


def nearest_weights(spectrum: Spectrum, spectra: Sequence[Spectrum]) -> Weights:
    """Give everything to the trained centre nearest in log-wavelength; of two as near, the shorter."""
    weights = interpolated_weights(spectrum, spectra)
    return {max(weights, key=lambda index: (weights[index], -spectra[index].center_nm)): 1.0}


def _released_weights(entry: TrainedRange, table: RangeTable) -> Weights:
    """Weigh declared neighbours as the published code does: own distance of centres over the sum.

    The farther neighbour counts more, against the paper; only this reproduces what was published for such bands.
    """
    if not entry.neighbours:
        raise AssignmentError(f"range '{entry.name}' has no declared neighbours in '{table.name}'")
    positions = [table.range_names.index(name) for name in entry.neighbours]
    if not set(positions) <= set(table.learned):
        raise AssignmentError(f"of the neighbours of range '{entry.name}' one was not trained")
    centers_nm = [table.ranges[position].spectrum.center_nm for position in positions]
    distances_nm = [abs(entry.spectrum.center_nm - center_nm) for center_nm in centers_nm]
    return {
        position: distance_nm / sum(distances_nm)
        for position, distance_nm in zip(positions, distances_nm, strict=True)
        if distance_nm > 0
    }


def support_of(spectrum: Spectrum, spectra: Sequence[Spectrum]) -> float:
    """Say how well the trained ranges back a band, from 0 to 1.

    The largest share of it that one range covers; where none does, and for radar, exp(−octaves to the nearest centre).
    """
    if isinstance(spectrum, RadarBeam):
        centers_nm = [spectra[index].center_nm for index in _radar_candidates(spectrum, spectra)]
    else:
        optical = _optical(spectra)
        share = max((covered_share(spectrum, other) for other in optical.values()), default=0.0)
        if share > 0:
            return share
        centers_nm = [other.center_nm for other in optical.values()]
    octaves = [octaves_between(spectrum.center_nm, center_nm) for center_nm in centers_nm]
    return math.exp(-min(octaves)) if octaves else 0.0


def _optical(spectra: Sequence[Spectrum]) -> dict[int, OpticalRange]:
    return {index: other for index, other in enumerate(spectra) if isinstance(other, OpticalRange)}


def _optical_weights(band: OpticalRange, spectra: Sequence[Spectrum], scale: _Scale) -> Weights:
    optical, center_nm = _optical(spectra), band.center_nm
    if not optical:
        raise AssignmentError("no optical range was trained")
    ladder = _ladder({index: intersection_over_union(band, other) for index, other in optical.items()}, spectra)
    (lowest, lowest_nm), (highest, highest_nm) = ladder[0], ladder[-1]
    if lowest_nm <= center_nm <= highest_nm:
        return _bracketed(center_nm, ladder, scale)
    low_edge_nm, high_edge_nm = optical[lowest].low_nm, optical[highest].high_nm
    if low_edge_nm <= center_nm < lowest_nm:
        return {lowest: 1.0}
    if highest_nm < center_nm <= high_edge_nm:
        return {highest: 1.0}
    radar = _co_polarised(center_nm, spectra) if band.is_thermal and center_nm > highest_nm else None
    if radar is not None:
        return _bracketed(center_nm, [(highest, highest_nm), radar], scale)
    beyond = " and no co-polarised radar range was trained" if band.is_thermal else ""
    raise AssignmentError(
        f"its centre, {center_nm:g} nm, lies outside the trained optical span, {low_edge_nm:g} to "
        f"{high_edge_nm:g} nm{beyond}"
    )


def _ladder(likeness: dict[int, float], spectra: Sequence[Spectrum]) -> list[tuple[int, float]]:
    """List (position, centre in nm) by ascending centre, of each centre the range that is most alike."""
    ladder: list[tuple[int, float]] = []
    for index in sorted(likeness, key=lambda index: (spectra[index].center_nm, index)):
        center_nm = spectra[index].center_nm
        if ladder and math.isclose(ladder[-1][1], center_nm, rel_tol=_EQUAL_CENTRES):
            if likeness[index] > likeness[ladder[-1][0]]:
                ladder[-1] = (index, ladder[-1][1])
        else:
            ladder.append((index, center_nm))
    return ladder


def _bracketed(center_nm: float, ladder: Sequence[tuple[int, float]], scale: _Scale) -> Weights:
    """Share between the two rungs around a centre on the ladder, linearly on a scale of wavelengths."""
    above = next(place for place, (_, rung_nm) in enumerate(ladder) if rung_nm >= center_nm)
    (low, low_nm), (high, high_nm) = ladder[above - 1], ladder[above]
    if above == 0 or math.isclose(high_nm, center_nm, rel_tol=_EQUAL_CENTRES):
        return {high: 1.0}
    share = (scale(center_nm) - scale(low_nm)) / (scale(high_nm) - scale(low_nm))
    return {low: 1.0 - share, high: share} if share > 0 else {low: 1.0}


def _co_polarised(center_nm: float, spectra: Sequence[Spectrum]) -> tuple[int, float] | None:
    """Find the co-polarised radar range nearest to an optical wavelength; of equal ones the first."""
    beams = [
        (index, beam.wavelength_nm)
        for index, beam in enumerate(spectra)
        if isinstance(beam, RadarBeam) and beam.polarisation in ("VV", "HH")
    ]
    return min(beams, key=lambda beam: octaves_between(center_nm, beam[1]), default=None)


def _radar_weights(band: RadarBeam, spectra: Sequence[Spectrum], scale: _Scale) -> Weights:
    candidates = _radar_candidates(band, spectra)
    if not candidates:
        family = f"{band.polarisation} or {_PARTNER[band.polarisation]}"
        raise AssignmentError(f"no radar range with polarisation {family} was trained")
    # Of one frequency, the band's own polarisation goes first, then its own orbit.
    likeness = {
        index: 2.0 * (beam.polarisation == band.polarisation) + 1.0 * (beam.orbit == band.orbit)
        for index, beam in candidates.items()
    }
    ladder = _ladder(likeness, spectra)
    nearest, nearest_nm = min(ladder, key=lambda rung: octaves_between(band.wavelength_nm, rung[1]))
    octaves = octaves_between(band.wavelength_nm, nearest_nm)
    if octaves > _MAX_RADAR_OCTAVES:
        raise AssignmentError(
            f"its frequency, {band.frequency_ghz:g} GHz, is {octaves:.2f} octaves from the nearest trained "
            f"radar range; at most {_MAX_RADAR_OCTAVES:g} is allowed"
        )
    if ladder[0][1] <= band.wavelength_nm <= ladder[-1][1]:
        return _bracketed(band.wavelength_nm, ladder, scale)
    return {nearest: 1.0}


def _radar_candidates(band: RadarBeam, spectra: Sequence[Spectrum]) -> dict[int, RadarBeam]:
    """Find the radar ranges that a band may mix with, by position: those of its own polarisation if one lies within an
    octave, else its partner's too (HH with VV, HV with VH)."""
    pair = (band.polarisation, _PARTNER[band.polarisation])
    family = {at: beam for at, beam in enumerate(spectra) if isinstance(beam, RadarBeam) and beam.polarisation in pair}
    own = {index: beam for index, beam in family.items() if beam.polarisation == band.polarisation}
    near = (octaves_between(band.wavelength_nm, beam.center_nm) <= _MAX_RADAR_OCTAVES for beam in own.values())
    return own if any(near) else family


Unseen = Literal["interpolate", "interpolate_across", "interpolate_linear", "nearest", "released", "refuse"]
UnseenRules = Unseen | dict[str, str]
"""One rule, or `default`, rules by band (`SENSOR/BAND`, or a range of the table, which bands inside it follow), and
`prefer`: how names of training sensors begin whose ranges go first where one of them holds the band's centre."""
_Origin = Literal["exact", "untrained", "interpolated", "nearest", "released", "stem", "dropped"]

_ORIGIN_OF: dict[str, _Origin] = {
    "interpolate": "interpolated",
    "interpolate_across": "interpolated",
    "interpolate_linear": "interpolated",
    "nearest": "nearest",
    "released": "released",
    "refuse": "dropped",
}
_DEFAULT, _PREFER = "default", "prefer"
# chosen: an error names this many bands, and counts the others.
_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class AssignmentRules:
    """What to do with bands that no trained range knows."""

    unseen: UnseenRules = "interpolate"
    """Interpolate between trained centres, in log-wavelength: within one training sensor where one has a range that
    holds the band's centre (of several the nearest in ground sampling distance), or `across` sensors; across them
    linearly in wavelength; take the nearest; do as published (released); or refuse; or by band, see `UnseenRules`."""
    min_support: float = MIN_SUPPORT
    """Bands with less support, 0 to 1, are out of the span, unless a rule of their own or `released` reads them."""
    out_of_span: Literal["refuse", "drop"] = "drop"
    """Whether a band out of the span is an error, or is left out and reported."""

    def __post_init__(self) -> None:
        for key, rule in self._by_band.items():
            if rule not in (allowed := get_args(Unseen)) and key != _PREFER:
                of = "" if isinstance(self.unseen, str) else f" of '{key}'"
                offer = nearest_name(str(rule), allowed)
                raise AssignmentError(f"unseen '{rule}'{of} is not one of {', '.join(allowed)}{offer}")
        if self.out_of_span not in ("refuse", "drop"):
            raise AssignmentError(f"out_of_span '{self.out_of_span}' is not 'refuse' or 'drop'")
        if not 0 <= self.min_support <= 1:
            raise AssignmentError(f"min_support must be from 0 to 1, found {self.min_support:g}")

    @property
    def _by_band(self) -> dict[str, str]:
        return {_DEFAULT: self.unseen} if isinstance(self.unseen, str) else {_DEFAULT: "interpolate", **self.unseen}

    @property
    def prefer(self) -> str:
        """How names of training sensors begin whose ranges go first; empty: none."""
        return self._by_band.get(_PREFER, "")

    def check_keys(self, sensor: Sensor, table: RangeTable) -> None:
        """See that every rule is for a band or range that is there, and that ranges to prefer are."""
        names = [entry.name for entry in (*table.ranges, *table.declared)]
        for key in self._by_band.keys() - {_DEFAULT, _PREFER}:
            of, slash, name = key.partition("/")
            if slash and of == sensor.name:
                sensor.band(name)
            elif not slash and key not in names:
                raise AssignmentError(
                    f"unseen has a rule for '{key}', which is no range of '{table.name}'{nearest_name(key, names)}; "
                    "name one, or a band as SENSOR/BAND"
                )
        sensors = sorted({of for entry in table.ranges for of, _ in entry.known})
        if self.prefer and not any(of.startswith(self.prefer) for of in sensors):
            raise AssignmentError(
                f"unseen prefers ranges of '{self.prefer}', and '{table.name}' knows none of it ({', '.join(sensors)})"
            )

    def of_band(self, sensor: Sensor, band: Band, table: RangeTable) -> tuple[str, bool]:
        """Choose the rule of a band: its own, that of a range that it is published to be or lies in, or the default;
        and tell whether it is not the default."""
        rules = self._by_band
        own = f"{sensor.name}/{band.name}"
        if own in rules:
            return rules[own], True
        published = table.published_as(sensor.name, band.name)
        for entry in (*table.ranges, *table.declared):
            is_meant = entry.name == published if published else _holds(entry.spectrum, band.spectrum)
            if entry.name in rules and is_meant:
                return rules[entry.name], True
        return rules[_DEFAULT], False


@dataclass(frozen=True, kw_only=True, eq=False)
class Assignment:
    """A sensor as a network reads it: the projection of its bands is `mixing @ weights`."""

    sensor: Sensor
    kept_index: tuple[int, ...]
    """Positions of the kept bands among those requested, one for each row of `mixing`; a stem may repeat one."""
    mixing: Float[Array, "band range"]
    """Share of each trained range in each kept band; rows sum to 1."""
    support: tuple[float, ...]
    """How well the trained ranges back each requested band, 0 to 1."""
    origin: tuple[_Origin, ...]
    requested: tuple[str, ...]
    reasons: tuple[str, ...]
    """Why a requested band was dropped; empty where it was not."""
    range_names: tuple[str, ...] = field(repr=False)
    table_name: str

    def report(self) -> str:
        """Say in lines for people what is not exactly known, and always which bands a stem of three uses."""
        if "stem" in self.origin:
            used = ", ".join(self.requested[index] for index in self.kept_index)
            unread = self.origin.count("dropped")
            rest = f"; {unread} of {counted(len(self.requested), 'band', 'are')} not read" if unread else ""
            return f"{self.sensor.name}: a stem of three bands reads {used}{rest}"
        kept = {index: row for row, index in enumerate(self.kept_index)}
        lines = [
            f"  {name}: {self._line(index, kept.get(index))}"
            for index, name in enumerate(self.requested)
            if self.origin[index] != "exact"
        ]
        known = len(self.requested) - len(lines)
        total = counted(len(self.requested), "band", "are")
        head = f"{self.sensor.name}: {known} of {total} exactly known to '{self.table_name}'"
        return "\n".join([head, *lines]) if lines else ""

    def _line(self, index: int, row: int | None) -> str:
        how = "its own range was not trained" if self.origin[index] == "untrained" else self.origin[index]
        head = f"{how}, support {self.support[index]:.2f}"
        if row is None:
            return f"{head}: {self.reasons[index]}"
        shares = [(self.mixing[row, column], name) for column, name in enumerate(self.range_names)]
        return f"{head}: " + " + ".join(f"{share:.3g} {name}" for share, name in shares if share > 0)


def assign(sensor: Sensor, table: RangeTable, rules: AssignmentRules | None = None) -> Assignment:
    """Express every band of a sensor by the trained ranges.

    A band that a trained range knows (by sensor and band name, or by an equal spectrum) is one-hot; `rules` are for the
    others, None: interpolate, drop what lies outside. Permuting the bands permutes the rows. In a stem (table
    `triplet`) three bands stand, whatever their spectra are; see `stem_bands`. `AssignmentError` where a band can't be
    expressed and may not be dropped, or none is left.
    """
    if table.name == STEM:
        return _stem_assignment(sensor, table)
    rules = AssignmentRules() if rules is None else rules
    one_rule = rules.unseen if isinstance(rules.unseen, str) else None
    if one_rule is None:
        rules.check_keys(sensor, table)
    spectra = [table.ranges[layer].spectrum for layer in table.learned]
    weights: list[Weights] = []
    support: list[float] = []
    origin: list[_Origin] = []
    reasons: list[str] = []
    for band in sensor.bands:
        # The range that a band is: declared so, or of the same spectrum (with the orbit, for radar).
        exact = [index for index, entry in enumerate(table.ranges) if (sensor.name, band.name) in entry.known]
        exact += [index for index, entry in enumerate(table.ranges) if entry.spectrum == band.spectrum]
        of_its_own, exact = bool(exact), [index for index in exact if index in table.learned]
        support.append(1.0 if exact else support_of(band.spectrum, spectra))
        reasons.append("")
        try:
            rule, is_own = (one_rule, False) if one_rule else rules.of_band(sensor, band, table)
            prefer = "" if one_rule else rules.prefer
            shares = {exact[0]: 1.0} if exact else _unseen_weights(sensor, band, table, rule, prefer)
            if support[-1] < rules.min_support and not is_own and rule != "released":
                raise AssignmentError(
                    f"its support, {support[-1]:.3f}, is under min_support, {rules.min_support:g}: "
                    "the trained ranges cover too little of it"
                )
            weights.append(shares)
            origin.append("exact" if exact else "untrained" if of_its_own else _ORIGIN_OF[rule])
        except AssignmentError as problem:
            reasons[-1] = str(problem)
            origin.append("dropped")
    refused = [(band.name, reason) for band, reason in zip(sensor.bands, reasons, strict=True) if reason]
    if refused and (rules.unseen == "refuse" or rules.out_of_span == "refuse" or not weights):
        raise _refusal(sensor, table, refused, rules)
    kept_index = tuple(index for index, reason in enumerate(reasons) if not reason)
    mixing = np.zeros((len(weights), len(table.ranges)))
    for row, shares in zip(mixing, weights, strict=True):
        row[list(shares)] = list(shares.values())
    return Assignment(
        sensor=sensor.select(sensor.bands[index].name for index in kept_index),
        kept_index=kept_index,
        mixing=mixing,
        support=tuple(support),
        origin=tuple(origin),
        requested=sensor.band_names,
        reasons=tuple(reasons),
        range_names=tuple(entry.name for entry in table.ranges),
        table_name=table.name,
    )


def _stem_assignment(sensor: Sensor, table: RangeTable) -> Assignment:
    used = stem_bands(sensor)
    taken = [index in used for index in range(len(sensor.bands))]
    return Assignment(
        sensor=sensor.select(sensor.bands[index].name for index in dict.fromkeys(used)),
        kept_index=used,
        mixing=np.eye(len(table.ranges)),
        # A stem knows no spectra: it backs what it reads, and no band more than another.
        support=tuple(float(one) for one in taken),
        origin=tuple("stem" if one else "dropped" for one in taken),
        requested=sensor.band_names,
        reasons=tuple("" if one else "the stem of this network reads three bands" for one in taken),
        range_names=table.range_names,
        table_name=table.name,
    )


def mixing_of_ranges(
    range_names: Sequence[str], table: RangeTable, *, unseen: Unseen = "released"
) -> Float[Array, "band range"]:
    """Make the mixing matrix of bands named by their ranges, trained or declared, as recorded vectors do."""
    declared = {entry.name: entry for entry in table.declared}
    known = (*table.range_names, *declared)
    mixing = np.zeros((len(range_names), len(table.ranges)))
    for row, name in zip(mixing, range_names, strict=True):
        if name not in known:
            raise AssignmentError(f"'{table.name}' has no range '{name}'{nearest_name(name, known)}")
        if name not in declared:
            shares = {known.index(name): 1.0}
        elif unseen == "released":
            shares = _released_weights(declared[name], table)
        else:
            shares = _weights(declared[name].spectrum, table, unseen, None)
        row[list(shares)] = list(shares.values())
    return mixing


def _unseen_weights(sensor: Sensor, band: Band, table: RangeTable, rule: str, prefer: str) -> Weights:
    if rule != "released":
        return _weights(band.spectrum, table, rule, sensor.gsd_m, prefer)
    name = table.published_as(sensor.name, band.name)
    if name is None:
        raise AssignmentError(f"'{table.name}' declares nothing for it, and `unseen: released` invents nothing")
    of_name = (entry for entry in table.declared if entry.name == name)
    return (
        {table.range_names.index(name): 1.0} if name in table.range_names else _released_weights(next(of_name), table)
    )


_FOUND: dict[str, Callable[[Spectrum, Sequence[Spectrum]], Weights]] = {
    "interpolate": interpolated_weights,
    "interpolate_across": interpolated_weights,
    "interpolate_linear": partial(interpolated_weights, is_log=False),
    "nearest": nearest_weights,
}


def _weights(spectrum: Spectrum, table: RangeTable, rule: str, gsd_m: float | None, prefer: str = "") -> Weights:
    layers = table.learned
    if rule not in _FOUND:
        raise AssignmentError("no trained range is exactly this band, and `unseen: refuse` allows no other")
    holders = _holders(spectrum, table)
    sensors = {of for of in holders if prefer and of.startswith(prefer)}
    if not sensors and rule == "interpolate" and gsd_m is not None and isinstance(spectrum, OpticalRange):
        sensors = _nearest_in_gsd(holders, table, gsd_m)
    if sensors:
        layers = tuple(one for one in layers if any(of in sensors for of, _ in table.ranges[one].known))
    found = _FOUND[rule](spectrum, [table.ranges[layer].spectrum for layer in layers])
    return {layers[index]: share for index, share in found.items()}


def _holders(spectrum: Spectrum, table: RangeTable) -> set[str]:
    """Find the training sensors of which a trained range holds the centre of a band."""
    holding = (table.ranges[layer] for layer in table.learned)
    return {of for entry in holding if _holds(entry.spectrum, spectrum) for of, _ in entry.known}


def _nearest_in_gsd(sensors: set[str], table: RangeTable, gsd_m: float) -> set[str]:
    """Choose the sensors nearest in ground sampling distance, by ratio; none where that of one is not known."""
    if not sensors <= table.gsd_m.keys():
        return set()
    octaves = {of: abs(math.log2(table.gsd_m[of] / gsd_m)) for of in sensors}
    return {of for of in sensors if octaves[of] == min(octaves.values())}


def _holds(entry: Spectrum, spectrum: Spectrum) -> bool:
    """Tell whether the centre of a band lies in a range; of radar whether polarisation and frequency are alike."""
    if isinstance(entry, OpticalRange) and isinstance(spectrum, OpticalRange):
        return entry.low_nm <= spectrum.center_nm <= entry.high_nm
    if not (isinstance(entry, RadarBeam) and isinstance(spectrum, RadarBeam)):
        return False
    is_near = octaves_between(entry.center_nm, spectrum.center_nm) <= _MAX_RADAR_OCTAVES
    return is_near and entry.polarisation == spectrum.polarisation


def _refusal(
    sensor: Sensor, table: RangeTable, refused: Sequence[tuple[str, str]], rules: AssignmentRules
) -> AssignmentError:
    lines = [f"  {name} ({_where(sensor.band(name))}): {reason}" for name, reason in refused[:_MAX_NAMED]]
    if len(refused) > _MAX_NAMED:
        lines.append(f"  … and {len(refused) - _MAX_NAMED} more")
    if rules.unseen == "refuse":
        advice = "leave these bands out, or allow `unseen: interpolate`"
    elif len(refused) == len(sensor.bands):
        advice = "no band is left; use other bands, a checkpoint trained on such a sensor, or a lower min_support"
    else:
        advice = "leave these bands out, or have them dropped with `out_of_span: drop`"
    total = counted(len(sensor.bands), "band")
    head = f"{len(refused)} of {total} of '{sensor.name}' can't be expressed by '{table.name}'"
    return AssignmentError("\n".join([f"{head}:", *lines, advice]))


def _where(band: Band) -> str:
    if isinstance(band.spectrum, RadarBeam):
        return f"{band.spectrum.frequency_ghz:g} GHz {band.spectrum.polarisation}"
    return f"{band.spectrum.low_nm:g} to {band.spectrum.high_nm:g} nm"
