"""Spectra as plain mappings: read from tables, written to stores and checkpoints."""

from collections.abc import Mapping
from typing import Any, cast, get_args

from anyband.errors import CatalogueError
from anyband.sensors.fields import checked_items, choice, number
from anyband.sensors.spectrum import OpticalRange, Orbit, Polarisation, RadarBeam, Spectrum

__all__ = ["SPECTRUM_KEYS", "parse_spectrum", "spectrum_to_dict"]

_OPTICAL_KEYS = ("low_nm", "high_nm", "center_nm", "fwhm_nm", "response")
_RADAR_KEYS = ("frequency_ghz", "polarisation", "orbit")
SPECTRUM_KEYS = (*_OPTICAL_KEYS, *_RADAR_KEYS)


def parse_spectrum(raw: Mapping[str, Any], *, where: str) -> Spectrum:
    """Read a spectrum from the keys of `SPECTRUM_KEYS` that `raw` has; other keys are not looked at.

    Optical: `low_nm` and `high_nm`, or `center_nm` and `fwhm_nm`, or a sampled `response` (alone, or with the
    edges to use). Radar: `frequency_ghz`, `polarisation` and, where it is known, `orbit`.

    Args:
        raw: an entry of a table.
        where: its place, for messages.

    Raises:
        CatalogueError: keys are missing, or do not go together, or have values that can't be.
    """
    given = {key for key in SPECTRUM_KEYS if raw.get(key) is not None}
    if given & set(_RADAR_KEYS):
        return _radar(raw, given=given, where=where)
    if "response" in given:
        return _sampled(raw, given=given, where=where)
    if given == {"low_nm", "high_nm"}:
        low_nm, high_nm = number(raw["low_nm"], where=where), number(raw["high_nm"], where=where)
    elif given == {"center_nm", "fwhm_nm"}:
        center_nm = number(raw["center_nm"], where=f"{where}.center_nm", above=0.0)
        half_nm = number(raw["fwhm_nm"], where=f"{where}.fwhm_nm", above=0.0) / 2
        low_nm, high_nm = center_nm - half_nm, center_nm + half_nm
    else:
        raise _wrong_keys(given, where=where)
    return _range(low_nm, high_nm, where=where)


def spectrum_to_dict(spectrum: Spectrum) -> dict[str, Any]:
    """Write a spectrum as plain JSON values; `parse_spectrum` gives it back exactly."""
    if isinstance(spectrum, RadarBeam):
        return {
            "frequency_ghz": spectrum.frequency_ghz,
            "polarisation": spectrum.polarisation,
            "orbit": spectrum.orbit,
        }
    edges: dict[str, Any] = {"low_nm": spectrum.low_nm, "high_nm": spectrum.high_nm}
    return edges | ({"response": [list(pair) for pair in spectrum.response]} if spectrum.response else {})


def _radar(raw: Mapping[str, Any], *, given: set[str], where: str) -> RadarBeam:
    if given - set(_RADAR_KEYS) or not {"frequency_ghz", "polarisation"} <= given:
        raise _wrong_keys(given, where=where)
    polarisation = choice(raw["polarisation"], where=f"{where}.polarisation", allowed=get_args(Polarisation))
    orbit = raw.get("orbit")
    if orbit is not None:
        orbit = choice(orbit, where=f"{where}.orbit", allowed=get_args(Orbit))
    return RadarBeam(
        frequency_ghz=number(raw["frequency_ghz"], where=f"{where}.frequency_ghz", above=0.0),
        polarisation=cast(Polarisation, polarisation),
        orbit=cast(Orbit | None, orbit),
    )


def _sampled(raw: Mapping[str, Any], *, given: set[str], where: str) -> OpticalRange:
    if given not in ({"response"}, {"response", "low_nm", "high_nm"}):
        raise _wrong_keys(given, where=where)
    samples = [
        _sample(pair, where=f"{where}.response[{index}]")
        for index, pair in enumerate(checked_items(raw["response"], where=f"{where}.response"))
    ]
    try:
        measured = OpticalRange.from_response(samples)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem
    if "low_nm" not in given:
        return measured
    edges_nm = number(raw["low_nm"], where=where), number(raw["high_nm"], where=where)
    return _range(*edges_nm, where=where, response=measured.response)


def _sample(raw: Any, *, where: str) -> tuple[float, float]:
    if not isinstance(raw, list | tuple) or len(raw) != 2:
        raise CatalogueError(f"{where}: expected [wavelength in nm, response], found {raw!r}")
    return number(raw[0], where=where, above=0.0), number(raw[1], where=where)


def _range(
    low_nm: float, high_nm: float, *, where: str, response: tuple[tuple[float, float], ...] = ()
) -> OpticalRange:
    try:
        return OpticalRange(low_nm=low_nm, high_nm=high_nm, response=response)
    except CatalogueError as problem:
        raise CatalogueError(f"{where}: {problem}") from problem


def _wrong_keys(given: set[str], *, where: str) -> CatalogueError:
    found = ", ".join(key for key in SPECTRUM_KEYS if key in given) or "none of them"
    return CatalogueError(
        f"{where}: a band's spectrum is low_nm and high_nm, or center_nm and fwhm_nm, or response, "
        f"or for radar frequency_ghz and polarisation (and maybe orbit); found {found}"
    )
