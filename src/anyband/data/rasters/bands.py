"""Which band of which file is which band of the sensor: by declaration, name or order, never guessed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyband.data.rasters.records import RasterSource, Sheet
from anyband.errors import RasterError, nearest_name
from anyband.sensors.sensor import Sensor

__all__ = ["BandPlace", "file_names", "find_bands", "known_names", "match_band"]

BandPlace = tuple[int, int]
"""(index of the sheet, position of the band in it), both from 0."""

# Names that may stand at the end of a longer one (`T32UQD_B02`, `S1_VV`) carry a number or a polarisation.
# Plain words may not: the end of `infra-red` is not the red band.
_PIECES = re.compile(r"([_\-. ])")
_TAIL = re.compile(r"[A-Za-z]*\d+[A-Za-z]*|[VH][VH]", re.IGNORECASE)
# Sentinel-2 L2A products name the resolution last: `..._B02_10m.jp2`.
_RESOLUTION_END = re.compile(r"_\d+m$", re.IGNORECASE)


def known_names(sensor: Sensor) -> dict[str, str]:
    """Map every name of a sensor's bands, without case, to the catalogue's; a name goes before an alias."""
    aliases = {alias.casefold(): band.name for band in reversed(sensor.bands) for alias in band.aliases}
    return aliases | {band.name.casefold(): band.name for band in sensor.bands}


def match_band(name: str, known: Mapping[str, str]) -> str | None:
    """Find the band that a name in a file means: exactly, by an alias, or by the end of the name.

    Args:
        name: a band description, variable or file stem.
        known: the sensor's names, from `known_names`.

    Returns:
        The catalogue's band name, or None where nothing fits.
    """
    found = (known.get(candidate.casefold()) for candidate in (name, *_tails(name)))
    return next((band for band in found if band is not None), None)


def file_names(path: Path) -> tuple[str, ...]:
    """List what a file of one band may be called: its stem, its name, and the ends of its stem."""
    return (path.stem, path.name, *_tails(path.stem))


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
        ((index, position), (name, *file_names(sheet.path)) if len(sheet.names) == 1 else (name,))
        for index, sheet in enumerate(sheets)
        for position, name in enumerate(sheet.names)
    ]


def _named(sensor: Sensor, sheets: Sequence[Sheet]) -> dict[str, BandPlace]:
    known, found = known_names(sensor), dict[str, BandPlace]()
    for place, names in _candidates(sheets):
        matches = [match_band(name, known) for name in names if name]
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
    folded = [place for place, names in candidates if name.casefold() in [known.casefold() for known in names]]
    fitting = exact or folded
    if len(fitting) > 1:
        raise RasterError(
            f"band '{band}' is declared as '{name}', which is there {len(fitting)} times in "
            f"{_listed_files(sheets)}; use the whole name of a file, or its number"
        )
    if fitting:
        return fitting[0]
    if name.isdigit() and 1 <= int(name) <= len(candidates):
        return candidates[int(name) - 1][0]
    known = _own_names(sheets)
    raise RasterError(
        f"band '{band}' is declared as '{name}', which is not in {_listed_files(sheets)} "
        f"({len(candidates)} bands{': ' + _listed(known) if known else ''}){nearest_name(name, known)}"
    )


def _found_by_own_name(band: str, sensor: Sensor, sheets: Sequence[Sheet]) -> BandPlace:
    named = _named(sensor, sheets)
    if band not in named:
        raise RasterError(
            f"band '{band}' of '{sensor.name}' is not in {_listed_files(sheets)} by any of its names; found "
            f"{_listed(_own_names(sheets)) or 'no names'}; "
            f"say its name in the file by `bands`"
        )
    return named[band]


def _own_names(sheets: Sequence[Sheet]) -> list[str]:
    single = [sheet.names[0] or sheet.path.stem for sheet in sheets if len(sheet.names) == 1]
    return single + [name for sheet in sheets if len(sheet.names) > 1 for name in sheet.names if name]


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
