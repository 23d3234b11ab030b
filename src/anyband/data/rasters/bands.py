"""Which band of which file is which band of the sensor: by declaration, name or order, never guessed."""

import re
from collections.abc import Sequence
from pathlib import Path

from anyband.data.rasters.records import RasterSource, Sheet
from anyband.errors import CatalogueError, RasterError, nearest_name
from anyband.sensors.sensor import Sensor

__all__ = ["BandPlace", "find_bands", "match_band"]

BandPlace = tuple[int, int]
"""(index of the sheet, position of the band in it), both from 0."""

# Names that may stand at the end of a longer one (`T32UQD_B02`, `S1_VV`) carry a number or a polarisation.
# Plain words may not: the end of `infra-red` is not the red band.
_PIECES = re.compile(r"([_\-. ])")
_TAIL = re.compile(r"[A-Za-z]*\d+[A-Za-z]*|[VH][VH]", re.IGNORECASE)
# Sentinel-2 L2A products name the resolution last: `..._B02_10m.jp2`.
_RESOLUTION_END = re.compile(r"_\d+m$", re.IGNORECASE)


def match_band(name: str, sensor: Sensor) -> str | None:
    """Find the band of a sensor that a name in a file means: exactly, by an alias, or by the end of the name.

    Args:
        name: a band description, variable or file stem.
        sensor: whose bands are meant.

    Returns:
        The catalogue's band name, or None where nothing fits.
    """
    for candidate in (name, *_tails(name)):
        try:
            return sensor.band(candidate).name
        except CatalogueError:
            continue
    return None


def _tails(name: str) -> list[str]:
    pieces = _PIECES.split(_RESOLUTION_END.sub("", name))
    if not _TAIL.fullmatch(pieces[-1]):
        return []
    # The separators stand between the pieces. `SR_B4` before `B4`: the longest end that is a name wins.
    return ["".join(pieces[start:]) for start in range(2, len(pieces), 2)]


def find_bands(
    source: RasterSource, sensor: Sensor, sheets: Sequence[Sheet]
) -> tuple[tuple[str, ...], tuple[BandPlace, ...]]:
    """Find each band asked for in the files.

    Returns:
        Catalogue band names, and where each is.

    Raises:
        RasterError: a declared band is not in the files, is there twice, or nothing says which band is which.
        CatalogueError: a declared band is not the sensor's.
    """
    if source.bands:
        names = tuple(sensor.band(band).name for band, _ in source.bands)
        return names, tuple(_declared(band, name, sensor, sheets) for band, name in source.bands)
    named = _named(sensor, sheets)
    if set(named) == set(sensor.band_names):
        return sensor.band_names, tuple(named[name] for name in sensor.band_names)
    in_order = [place for place, _ in _candidates(sheets)]
    if len(in_order) == len(sensor.bands) and _agrees_with_order(named, in_order, sensor):
        return sensor.band_names, tuple(in_order)
    raise RasterError(_no_match(sensor, sheets, named))


def _candidates(sheets: Sequence[Sheet]) -> list[tuple[BandPlace, tuple[str, ...]]]:
    """List every band of the files with the names it goes by; a file of one band goes by its own name too."""
    return [
        ((index, position), (name, sheet.path.stem, sheet.path.name) if len(sheet.names) == 1 else (name,))
        for index, sheet in enumerate(sheets)
        for position, name in enumerate(sheet.names)
    ]


def _named(sensor: Sensor, sheets: Sequence[Sheet]) -> dict[str, BandPlace]:
    found: dict[str, BandPlace] = {}
    for place, names in _candidates(sheets):
        matches = [match_band(name, sensor) for name in names if name]
        band = next((match for match in matches if match is not None), None)
        if band is None:
            continue
        if band in found:
            first, second = sheets[found[band][0]], sheets[place[0]]
            raise RasterError(
                f"band '{band}' of '{sensor.name}' is there twice: in '{first.path}' and in '{second.path}'; "
                f"say which one by `bands`"
            )
        found[band] = place
    return found


def _declared(band: str, name: str, sensor: Sensor, sheets: Sequence[Sheet]) -> BandPlace:
    if not name:
        return _found_by_own_name(sensor.band(band).name, sensor, sheets)
    candidates = _candidates(sheets)
    exact = [place for place, names in candidates if name in names]
    folded = [
        place for place, names in candidates if name.casefold() in [known.casefold() for known in names]
    ]
    if exact or folded:
        return (exact or folded)[0]
    if name.isdigit() and 1 <= int(name) <= len(candidates):
        return candidates[int(name) - 1][0]
    known = [known for _, names in candidates for known in names if known]
    raise RasterError(
        f"band '{band}' is declared as '{name}', which is not in {_listed_files(sheets)} "
        f"({len(candidates)} bands{': ' + _listed(known) if known else ''}){nearest_name(name, known)}"
    )


def _found_by_own_name(band: str, sensor: Sensor, sheets: Sequence[Sheet]) -> BandPlace:
    named = _named(sensor, sheets)
    if band not in named:
        raise RasterError(
            f"band '{band}' of '{sensor.name}' is not in {_listed_files(sheets)} by any of its names; found "
            f"{_listed([name for _, names in _candidates(sheets) for name in names if name]) or 'no names'}; "
            f"say its name in the file by `bands`"
        )
    return named[band]


def _agrees_with_order(named: dict[str, BandPlace], in_order: list[BandPlace], sensor: Sensor) -> bool:
    return all(in_order[sensor.band_index(band)] == place for band, place in named.items())


def _no_match(sensor: Sensor, sheets: Sequence[Sheet], named: dict[str, BandPlace]) -> str:
    count = sum(len(sheet.names) for sheet in sheets)
    message = (
        f"{_listed_files(sheets)} has {count} band{'' if count == 1 else 's'}, sensor '{sensor.name}' has "
        f"{len(sensor.bands)} ({_listed(sensor.band_names)})"
    )
    if named:
        missing = [name for name in sensor.band_names if name not in named]
        message += f"; found by name: {_listed(tuple(named))}"
        message += f"; missing: {_listed(missing)}" if missing else ""
    return message + "; declare `bands`: for each catalogue band its name or number in the file"


def _listed(names: Sequence[str]) -> str:
    names = tuple(names)
    return ", ".join(names) if len(names) <= 16 else f"{', '.join(names[:3])} … {names[-1]}"


def _listed_files(sheets: Sequence[Sheet]) -> str:
    paths: list[Path] = [sheet.path for sheet in sheets]
    if not paths:
        return "no file"
    return f"'{paths[0]}'" if len(paths) == 1 else f"'{paths[0].parent}' ({len(paths)} files)"
