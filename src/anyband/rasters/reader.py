"""One image from any of the formats: windows of its bands on one grid, with what is valid."""

import contextlib
import datetime
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from anyband.arrays import Array, Bool, Num, Shaped
from anyband.errors import GeometryError, RasterError, nearest_name
from anyband.files import check_regular
from anyband.rasters.grid import (
    Axis,
    Grid,
    Placement,
    Transform,
    Window,
    can_hold,
    has_data,
    pixel_size_m,
    place,
    resample_bilinear,
    resample_nearest,
    same_crs,
    source_window,
    to_type,
)
from anyband.sensors.catalogue import contradictions, file_names, finest_of, left_out, match_band
from anyband.sensors.sensor import FILE_ENCODINGS, Encoding, Scaling, Sensor, number_type, scaling_notes, sensor_in_file

__all__ = [
    "AVAILABLE",
    "NETCDF_ENDINGS",
    "Raster",
    "RasterReader",
    "RasterSource",
    "Sheet",
    "band_of",
    "file_sensor",
    "open_raster",
    "open_sheet",
    "said_once",
]

AVAILABLE = (("available", ""),)
"""As bands of a source: those of the sensor that its files name."""
NETCDF_ENDINGS = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".cdf")
_TIFF_ENDINGS = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterSource:
    """One image: the files that hold its bands, and whatever the files don't say themselves."""

    paths: tuple[Path, ...]
    """Files, or folders of single-band files; together they hold the bands."""
    bands: tuple[tuple[str, str], ...] = ()
    """(catalogue band, its name, variable or 1-based number in the file, or empty: own names); empty: all bands."""
    time_index: int | None = None
    """Which time of a file with a time axis, from 0; negative numbers count from the end."""
    time: datetime.datetime | None = None
    """Or the time itself; the day must be in the file."""
    valid_paths: tuple[Path, ...] = ()
    """Mask files; a pixel is valid where all of them say so."""
    valid_values: tuple[float, ...] = ()
    """Values of the masks that mean "valid". Empty: every value but 0."""
    valid_variable: str = ""
    """Variable or band of the mask files; empty: their only one."""
    nodata: float | None = None
    """Digital number that means "no data", instead of the file's own or the sensor's; None: theirs."""
    encoding: str | None = None
    """Name of the catalogue's encoding of these digital numbers; None: the sensor's default."""
    acquired: datetime.datetime | None = field(default=None, repr=False)
    """When the image was taken, UTC; None: as its files say, if they do."""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """Pixels of a window, as digital numbers."""

    dn: Num[Array, "band row col"]
    valid: Bool[Array, "band row col"]
    grid: Grid


@runtime_checkable
class Sheet(Protocol):
    """Bands of one file that share a grid: what every format family gives to the reader."""

    path: Path
    names: tuple[str, ...]
    """Name of each band, empty where the file says nothing."""
    height: int
    width: int
    transform: Transform
    crs: str | None
    """`EPSG:n`, WKT, or None."""
    dtypes: tuple[str, ...]
    """NumPy type of each band's digital numbers."""
    nodata: tuple[float | None, ...]
    """The file's own "no data" number of each band."""
    alphas: tuple[int, ...]
    """Bands (by position) that tell where the others have data, unless one is asked for."""
    scaling: tuple[Scaling | None, ...]
    """What the file says of each band's scale and offset; `read` applies none. None: nothing."""
    times: tuple[datetime.datetime | None, ...]
    """Of a time axis, UTC; None where one can't be read."""
    time_index: int | None
    """The time that `read` gives; None without a time axis."""
    taken: datetime.datetime | None
    """Of what `read` gives, where the file says it; UTC."""
    geolocation: str | None
    """What places the image and is not read: ground control points, for example."""
    notes: tuple[str, ...]
    """What was taken by default, dropped or ignored: a sentence each, without the file's name."""

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read bands (by position, from 0) of a window: digital numbers, and the file's own masks or None."""

    def close(self) -> None:
        """Close the file."""


_Part = tuple[Sheet, list[int], list[int]]
"""Bands of one sheet: which of its bands, and where each goes among those requested."""

_Read = tuple[list[int], Array, Array]
"""Bands of a sheet that were read: where each goes among those requested, digital numbers, and where there is data."""


class RasterReader:
    """An open image; made by `open_raster`. Not to be shared by threads: each opens its own."""

    def __init__(
        self,
        source: RasterSource,
        sensor: Sensor,
        sheets: Sequence[Sheet],
        valid_sheets: Sequence[Sheet],
        stored: Sequence[tuple[str, Encoding]],
    ) -> None:
        """Find the bands and the grid; nothing is read yet."""
        # Late: what only names files needs no geographic library.
        from anyband.rasters.products import date_of, product_scaling

        self._source = source
        names, places, notes = _find_bands(source, sensor, sheets)
        self.band_names: tuple[str, ...] = names
        """Catalogue names of the bands, in the order that `read` gives."""
        used = {index: sheets[index] for index in sorted({index for index, _ in places})}
        self.grid: Grid = _finest_grid(list(used.values()), sensor, names)
        """The finest grid of the bands."""
        # Parts that lie on one grid stand together.
        self._parts: dict[Placement, list[_Part]] = {}
        for index, sheet in used.items():
            targets = [target for target, (held_by, _) in enumerate(places) if held_by == index]
            part = sheet, [places[target][1] for target in targets], targets
            self._parts.setdefault(place(self.grid, sheet), []).append(part)
        self._valid_sheets = [
            (sheet, _valid_position(sheet, source, self.grid), place(self.grid, sheet)) for sheet in valid_sheets
        ]
        bands = [(name, sheets[index], position) for name, (index, position) in zip(names, places, strict=True)]
        declared = source.encoding
        types = [number_type(one.dtypes[at], declared, f"band '{name}' of '{one.path}'") for name, one, at in bands]
        self.dtype: np.dtype[np.generic] = np.result_type(*types)
        """NumPy type that holds the digital numbers of all bands."""
        taken = {at: f"and was taken as '{name}', as declared" for at, name in zip(places, names, strict=True)}
        said = [
            f"band {at + 1} is flagged as alpha {taken.get((index, at), 'and says where there is no data')}"
            for index, sheet in used.items()
            for at in sheet.alphas
        ]
        self._nodata: list[float | None] = []
        for dtype, (_, sheet, at) in zip(types, bands, strict=True):
            own = sheet.nodata[at]
            if own is not None and not can_hold(dtype, own):
                said.append(f"its nodata, {own:g}, is no number of its type, {dtype}, and is ignored")
                own = None
            self._nodata.append(next((one for one in (source.nodata, own, sensor.nodata) if one is not None), None))
        scaling = [sheet.scaling[at] or product_scaling(sheet.path, name) for name, sheet, at in bands]
        self.sensor: Sensor = sensor.select(names)
        """With the bands of the image, in order; where its encoding is in the file (`tags`), with that one."""
        if declared in FILE_ENCODINGS:
            self.sensor = sensor_in_file(self.sensor, declared, scaling, str(source.paths[0]))
        if any(scaling):
            said += scaling_notes(self.sensor, declared, scaling, dict(stored))
        self.datetime, of_date = date_of(list(used.values()), sensor, source.acquired)
        """Time of the image where it is declared, or where the files say it, UTC."""
        notes += [*(note for sheet in sheets for note in sheet.notes), *said, *of_date]
        self.notes: tuple[str, ...] = tuple(dict.fromkeys(notes))
        """What a user should know of how the files were read: a sentence each, without names of files."""
        self.geolocation: str | None = next(filter(None, (one.geolocation for one in used.values())), None)
        """What places the image and is not read; None: nothing."""

    @property
    def nodata(self) -> float | None:
        """The digital number that means "no data" in every band; None where there is none, or several."""
        first = self._nodata[0]
        return first if all(value == first or (value != value and first != first) for value in self._nodata) else None

    def check_laid(self, name: str) -> None:
        """See that pixels may be laid on those of other images of a place, a set or a sample; else `GeometryError`."""
        if self.geolocation is not None:
            raise GeometryError(
                f"'{name}' is placed by {self.geolocation}, which are not read, so its pixels can't be laid on those "
                "of other images; use it by itself (without `place`), or bring it to a grid by "
                "`gdalwarp -t_srs EPSG:…` (with -tps, -rpc or -geoloc)"
            )

    def read(self, window: Window | None = None) -> Raster:
        """Read a window of all bands on the common grid; None reads everything. A pixel does not depend on where the
        window is cut; where not valid its number means nothing. `RasterError`: a file breaks off or is damaged there;
        `GeometryError`: the window reaches outside the image."""
        window = window or self.grid.whole
        grid = self.grid.part(window)
        shape = (len(self.band_names), window.height, window.width)
        dn, valid = np.zeros(shape, dtype=self.dtype), np.zeros(shape, dtype=bool)
        rows, cols = (Axis(scale=1.0, offset=0.0, size=size) for size in (self.grid.height, self.grid.width))
        for placement, parts in self._parts.items():
            same_grid = placement == Placement(rows=rows, cols=cols)
            needed = window if same_grid else source_window(placement, window)
            if needed is None:
                continue
            read = []
            for sheet, positions, targets in parts:
                stored, with_data = sheet.read(positions, needed)
                known = np.ones(stored.shape, dtype=bool) if with_data is None else with_data.copy()
                for index, target in enumerate(targets):
                    # A tag for pixels outside does not make data of the fill of the product.
                    for number in {self._nodata[target], self.sensor.nodata if self._source.nodata is None else None}:
                        known[index] &= has_data(stored[index], number)
                if stored.dtype.kind == "c":
                    stored = np.abs(stored) ** (2 if self._source.encoding == "intensity_db" else 1)
                read.append((targets, stored, known))
            if same_grid:
                for targets, stored, known in read:
                    dn[targets], valid[targets] = stored, known
            else:
                for targets, stored, known in _joined(read):
                    values, kept = resample_bilinear(stored, known, placement=placement, part=needed, window=window)
                    dn[targets], valid[targets] = to_type(values, stored.dtype), kept
        for sheet, position, placement in self._valid_sheets:
            valid &= self._read_valid(sheet, position, placement, window)
        return Raster(dn=dn, valid=valid, grid=grid)

    def _read_valid(self, sheet: Sheet, position: int, placement: Placement, window: Window) -> Array:
        needed = source_window(placement, window)
        if needed is None:
            return np.zeros((window.height, window.width), dtype=bool)
        stored, with_data = sheet.read([position], needed)
        # Where a mask has no data itself, nothing says that there is some. Values that are declared are meant.
        if self._source.valid_values:
            meant = np.isin(stored[0], self._source.valid_values)
        else:
            meant = (stored[0] != 0) & has_data(stored[0], sheet.nodata[position])
        meant = meant if with_data is None else meant & with_data[0]
        values, inside = resample_nearest(meant, placement=placement, part=needed, window=window)
        return np.asarray(inside & values)


@contextlib.contextmanager
def open_raster(
    source: RasterSource, sensor: Sensor, stored: Sequence[tuple[str, Encoding]] = ()
) -> Iterator[RasterReader]:
    """Open an image to read windows of the sensor's bands; it is closed when the block ends.

    Args:
        stored: how the numbers of each band will be decoded, to be compared with what the file says; empty: by the
            encoding that the source names, else the sensor's default.

    Raises:
        RasterError: a file is missing, empty, corrupt, doesn't say which band is which, or has no such time.
        GeometryError: bands lie on different coordinate systems, or shapes don't fit.
    """
    if not source.paths:
        raise RasterError("an image without files; name at least one path")
    with contextlib.ExitStack() as opened:
        files: list[tuple[Path, Set[str] | None]] = []
        for path in source.paths:
            files += _files(path, source, sensor) if path.is_dir() else [(path, None)]
        sheets = [
            opened.enter_context(
                contextlib.closing(open_sheet(path, time_index=source.time_index, time=source.time, folder=folder))
            )
            for path, folder in (*files, *((path, None) for path in source.valid_paths))
        ]
        sheets, valid_sheets = sheets[: len(files)], sheets[len(files) :]
        if all(sheet.time_index is None for sheet in sheets) and (
            source.time is not None or source.time_index not in (None, 0, -1)
        ):
            time = source.time_index if source.time is None else f"{source.time:%Y-%m-%d}"
            raise RasterError(
                f"time {time} is requested of '{sheets[0].path}', which has no time axis; leave the time out"
            )
        yield RasterReader(source, sensor, sheets, valid_sheets, stored)


def file_sensor(source: RasterSource, sensor: Sensor) -> Sensor:
    """Make a sensor as an image stores it; where its encoding or its bands stand in the file, that is opened."""
    if source.encoding not in FILE_ENCODINGS and source.bands != AVAILABLE:
        return sensor
    with open_raster(source, sensor) as reader:
        return reader.sensor


def said_once(found: Iterable[tuple[str, Iterable[str]]]) -> tuple[str, ...]:
    """Join notes of files, (name, its notes) each: every text once, with the first file and how many more have it."""
    files: dict[str, tuple[str, int]] = {}
    for name, notes in found:
        for note in notes:
            first, more = files.get(note, (name, -1))
            files[note] = first, more + 1
    return tuple(f"{note} ('{first}'{f' and {more} more' * (more > 0)})" for note, (first, more) in files.items())


def open_sheet(
    path: Path,
    *,
    time_index: int | None = None,
    time: datetime.datetime | None = None,
    folder: Set[str] | None = None,
) -> Sheet:
    """Open one file of any format, at one time if it has several; the caller closes it. `folder`: the names beside."""
    # Imported here, because what only names files needs no geographic library.
    from anyband.rasters.formats import GdalSheet, open_plain_tiff

    ending = path.suffix.lower()
    plain = open_plain_tiff(path, folder) if ending in _TIFF_ENDINGS else None
    if plain is not None:
        return plain
    check_regular(path, error=RasterError)
    if not path.exists() or path.stat().st_size == 0:
        found = "is empty (0 bytes); get it again or leave it out" if path.exists() else "does not exist"
        raise RasterError(f"'{path}' {found}")
    if ending in NETCDF_ENDINGS:
        from anyband.rasters.netcdf import NetcdfSheet

        return NetcdfSheet(path, time_index=time_index, time=time)
    return GdalSheet(path)


def _data_bands(sheet: Sheet) -> list[int]:
    """List the positions of bands that are not alpha."""
    return [position for position in range(len(sheet.names)) if position not in sheet.alphas]


def _finest_grid(sheets: Sequence[Sheet], sensor: Sensor, names: Sequence[str]) -> Grid:
    crs = sheets[0].crs
    for sheet in sheets[1:]:
        if not same_crs(sheet.crs, crs):
            raise GeometryError(
                f"bands of one image must share a coordinate system: '{sheets[0].path}' has "
                f"{crs or 'none'}, '{sheet.path}' has {sheet.crs or 'none'}; reproject one of them"
            )
    if crs is None:
        finest = max(sheets, key=lambda sheet: sheet.height * sheet.width)
        gsd_m = min(sensor.band(name).gsd_m for name in names)
    else:
        areas = [abs(a * e - b * d) for a, b, _, d, e, _ in (sheet.transform for sheet in sheets)]
        for sheet, area in zip(sheets, areas, strict=True):
            if not (all(map(math.isfinite, sheet.transform)) and area > 0):
                raise RasterError(
                    f"'{sheet.path}' has a georeference in which a pixel is no rectangle of ground (its transform is "
                    f"{_written(sheet)}); write its right corner and pixel size, for example with `gdal_edit.py "
                    "-a_ullr`"
                )
        finest = sheets[areas.index(min(areas))]
        gsd_m = pixel_size_m(finest.transform, crs=crs, height=finest.height, width=finest.width)
        if not (math.isfinite(gsd_m) and gsd_m > 0):
            raise RasterError(
                f"'{finest.path}' has a georeference off the globe: in {crs} its transform {_written(finest)} gives "
                f"pixels of {gsd_m:g} m; correct its CRS, or its corner and pixel size"
            )
    return Grid(height=finest.height, width=finest.width, transform=finest.transform, crs=crs, gsd_m=float(gsd_m))


def _written(sheet: Sheet) -> str:
    return f"({', '.join(f'{number:g}' for number in sheet.transform)})"


def _valid_position(sheet: Sheet, source: RasterSource, grid: Grid) -> int:
    if grid.crs is not None and not same_crs(sheet.crs, grid.crs):
        raise GeometryError(
            f"'{sheet.path}' has {sheet.crs or 'no coordinate system'}, the image has {grid.crs}; reproject one of them"
        )
    return band_of(sheet, source.valid_variable, what="mask", option="valid_variable")


def band_of(sheet: Sheet, variable: str, *, what: str, option: str) -> int:
    """Find the band of a mask or a raster of labels: by its name, else its number in the file from 1, else the only
    one. `RasterError` where it is not there, has complex numbers, or nothing says which it is."""
    names, bands = sheet.names, _data_bands(sheet)
    known = ", ".join(filter(None, names)) or f"{len(bands)} without names"
    if variable and variable in names:
        position = names.index(variable)
    elif variable.isdecimal() and 1 <= int(variable) <= len(names):
        position = int(variable) - 1
    elif variable:
        raise RasterError(f"{what} '{sheet.path}' has no band '{variable}' ({known}){nearest_name(variable, names)}")
    elif len(bands) != 1:
        which = f"say which one by `{option}`: its name, or its number from 1"
        raise RasterError(f"{what} '{sheet.path}' has {len(bands)} bands ({known}); {which}")
    else:
        position = bands[0]
    number_type(sheet.dtypes[position], None, f"{what} '{sheet.path}'")
    return position


def _joined(read: Sequence[_Read]) -> list[_Read]:
    """Join what is whole of one type, to be resampled together, which gives the same numbers."""
    whole = [one for one in read if one[2].all()]
    if len({stored.dtype for _, stored, _ in whole}) != 1:
        return list(read)
    targets = [target for targets, _, _ in whole for target in targets]
    together = targets, np.concatenate([one[1] for one in whole]), np.concatenate([one[2] for one in whole])
    return [*(one for one in read if not one[2].all()), together]


_BandPlace = tuple[int, int]
"""(index of the sheet, position of the band in it), both from 0."""

_Candidates = list[tuple[_BandPlace, tuple[str, ...]]]


def _find_bands(
    source: RasterSource, sensor: Sensor, sheets: Sequence[Sheet]
) -> tuple[tuple[str, ...], tuple[_BandPlace, ...], list[str]]:
    """Find each requested band, by its catalogue name, in the files; each must be there exactly once. A declared place
    goes before a name, a name before the order. Gives also what should be said of it."""
    # Every band of the files with the names it goes by; a file of one band goes by its own name too.
    candidates: _Candidates = [
        ((index, position), (name, *file_names(sheet.path.name)) if _data_bands(sheet) == [position] else (name,))
        for index, sheet in enumerate(sheets)
        for position, name in enumerate(sheet.names)
    ]
    declared = () if source.bands == AVAILABLE else source.bands
    requested = tuple(sensor.band(band).name for band, _ in declared) or sensor.band_names
    named: dict[str, _BandPlace] = {}
    notes: list[str] = []
    for held_by, names in candidates if not declared or "" in dict(declared).values() else ():
        band = match_band(names, sensor)
        if band in named:
            first, second = sheets[named[band][0]], sheets[held_by[0]]
            finest = finest_of(first.path.stem, second.path.stem)
            if finest is not None and len(first.names) == len(second.names) == 1:
                named[band] = (named[band], held_by)[finest]
                notes.append("of bands at several resolutions the finest file is taken")
                continue
            raise RasterError(
                f"band '{band}' of '{sensor.name}' is there twice: in '{first.path}' and in '{second.path}'; "
                f"say which one by `bands`"
            )
        if band is not None:
            named[band] = held_by
    if named and source.bands == AVAILABLE:
        requested = tuple(name for name in sensor.band_names if name in named)
        notes.append(f"of the bands of '{sensor.name}', {_listed(requested)} are there and used")
    elif source.bands == AVAILABLE:
        raise RasterError(_no_match(sensor, sheets, named))
    if declared:
        found = tuple(_declared(band, name, sensor, sheets, candidates, named) for band, name in declared)
        known = dict(candidates)
        numbered = [(band, known[at]) for (band, name), at in zip(declared, found, strict=True) if name.isdecimal()]
        return requested, found, notes + contradictions(numbered, sensor)
    if set(named) == set(requested):
        rest = [names[0] for at, names in candidates if at not in named.values() and len(sheets[at[0]].names) > 1]
        return requested, tuple(named[name] for name in requested), notes + left_out(rest, sensor)
    in_order = tuple((index, position) for index, sheet in enumerate(sheets) for position in _data_bands(sheet))
    if len(in_order) == len(requested) and all(in_order[sensor.band_index(one)] == at for one, at in named.items()):
        return requested, in_order, notes + _order_notes(requested, sensor, sheets, named)
    raise RasterError(_no_match(sensor, sheets, named))


def _order_notes(
    requested: tuple[str, ...], sensor: Sensor, sheets: Sequence[Sheet], named: Mapping[str, _BandPlace]
) -> list[str]:
    colours = [colour for sheet in sheets for colour in getattr(sheet, "colours", ())]
    if len(requested) == 1 or [match_band([colour], sensor) for colour in colours] == list(requested):
        return []
    own = _own_names(sheets)
    why = f"its names ({_listed(own)}) are not the sensor's" if own else "they have no names"
    why = f"only {_listed(tuple(named))} have names" if named else why
    why = f"the file marks them as {_listed(colours)}" if colours else why
    return [f"bands are taken by order, {_listed(requested)}: {why}; declare `bands` where that is wrong"]


def _declared(
    band: str,
    name: str,
    sensor: Sensor,
    sheets: Sequence[Sheet],
    candidates: _Candidates,
    named: Mapping[str, _BandPlace],
) -> _BandPlace:
    own_name = sensor.band(band).name
    if not name and own_name in named:
        return named[own_name]
    if not name:
        raise RasterError(
            f"band '{own_name}' of '{sensor.name}' is not in {_listed_files(sheets)} by any of its names; found "
            f"{_listed(_own_names(sheets)) or 'no names'}; say its name in the file by `bands`"
        )
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
    # Numbers are those of the file; of several files they go through the bands that are not alpha.
    numbered = [at for at, _ in candidates if len(sheets) == 1 or at[1] not in sheets[at[0]].alphas]
    if name.isdecimal() and len(name) < 9 and 1 <= int(name) <= len(numbered):
        return numbered[int(name) - 1]
    known = _own_names(sheets)
    raise RasterError(
        f"band '{band}' is declared as '{name}', which is not in {_listed_files(sheets)} "
        f"({len(numbered)} bands{': ' + _listed(known) if known else ''}){nearest_name(name, known)}"
    )


def _own_names(sheets: Sequence[Sheet]) -> list[str]:
    own = [(sheet, [sheet.names[position] for position in _data_bands(sheet)]) for sheet in sheets]
    single = [names[0] or sheet.path.stem for sheet, names in own if len(names) == 1]
    return single + [name for _, names in own if len(names) > 1 for name in names if name]


def _no_match(sensor: Sensor, sheets: Sequence[Sheet], named: dict[str, _BandPlace]) -> str:
    count = sum(len(_data_bands(sheet)) for sheet in sheets)
    alphas = [position + 1 for sheet in sheets for position in sheet.alphas]
    flagged = f", beside band {alphas[0]}, which is flagged as alpha" if alphas else ""
    message = (
        f"{_listed_files(sheets)} has {count} band{'' if count == 1 else 's'}{flagged}, sensor '{sensor.name}' has "
        f"{len(sensor.bands)} ({_listed(sensor.band_names)})"
    )
    if named:
        missing = [name for name in sensor.band_names if name not in named]
        message += f"; found by name: {_listed(tuple(named))}"
        message += f"; missing: {_listed(missing)}" if missing else ""
    message += "; declare `bands`: for each catalogue band its name or number in the file"
    if alphas and len(sheets) == 1 and count + len(alphas) == len(sensor.bands):
        numbers = ";".join(f"{name}={number}" for number, name in enumerate(sensor.band_names, 1))
        message += f"; where none is alpha: `{numbers}`"
    return message


def _listed(names: Sequence[str]) -> str:
    names = tuple(names)
    return ", ".join(names) if len(names) <= 16 else f"{', '.join(names[:3])} … {names[-1]}"


def _listed_files(sheets: Sequence[Sheet]) -> str:
    paths = [sheet.path for sheet in sheets]
    if not paths:
        return "no file"
    return f"'{paths[0]}'" if len(paths) == 1 else f"'{paths[0].parent}' ({len(paths)} files)"


_RASTER_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".img", ".bsq", ".nc", ".h5")


def _files(path: Path, source: RasterSource, sensor: Sensor) -> list[tuple[Path, Set[str] | None]]:
    """List the files of a folder that hold requested bands, by name, with all names in it; others (quality, previews)
    are left out."""
    folder = set(os.listdir(path))  # noqa: PTH208 - names are enough
    # Names with a dot before them are of the file system: macOS writes `._a.tif` beside `a.tif`.
    rasters = [name for name in sorted(folder) if name.lower().endswith(_RASTER_ENDINGS) and name[0] != "."]
    declared = {name.casefold() for _, name in source.bands if name}
    is_open = source.bands in ((), AVAILABLE)
    wanted = set() if is_open else {sensor.band(band).name for band, name in source.bands if not name}
    if is_open:
        wanted = set(sensor.band_names)
    found = [
        name
        for name in rasters
        if match_band(file_names(name)[:1], sensor) in wanted
        or (declared and not declared.isdisjoint(map(str.casefold, file_names(name))))
    ]
    if found:
        return [(path / name, folder) for name in found]
    names = ", ".join(rasters[:5])
    raise RasterError(
        f"folder '{path}' has no file named after a band of '{sensor.name}' "
        f"({', '.join(sensor.band_names[:16])}); found "
        f"{names or 'no rasters'}{' …' if len(rasters) > 5 else ''}"
    )
