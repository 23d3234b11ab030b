"""One image from any of the formats: windows of its bands on one grid, with what is valid."""

import contextlib
import datetime
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyband.arrays import Array
from anyband.errors import GeometryError, RasterError, nearest_name
from anyband.rasters.formats import BandPlace, GdalSheet, band_files, find_bands, open_plain_tiff
from anyband.rasters.grid import (
    Grid,
    Placement,
    Window,
    pixel_size_m,
    place,
    place_by_shape,
    resample_bilinear,
    resample_nearest,
    same_crs,
    source_window,
)
from anyband.rasters.netcdf import NetcdfSheet
from anyband.rasters.records import Raster, RasterSource, Sheet
from anyband.sensors.sensor import Sensor

__all__ = ["RasterReader", "open_raster", "open_sheet"]

_NETCDF_ENDINGS = (".nc", ".nc4", ".h5", ".hdf5", ".he5", ".cdf")
_TIFF_ENDINGS = (".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The bands that come from one sheet."""

    sheet: Sheet
    """The file."""
    positions: tuple[int, ...]
    """Which of its bands."""
    targets: tuple[int, ...]
    """Where each goes among the bands asked for."""
    placement: Placement
    """Of the common grid in the file's grid."""


class RasterReader:
    """An open image; made by `open_raster`. Not to be shared by threads: each opens its own."""

    def __init__(
        self, source: RasterSource, sensor: Sensor, sheets: Sequence[Sheet], valid_sheets: Sequence[Sheet]
    ) -> None:
        """Find the bands and the grid; nothing is read yet."""
        self._source = source
        self._sensor = sensor
        names, places = find_bands(source, sensor, sheets)
        self.band_names: tuple[str, ...] = names
        """Catalogue names of the bands, in the order that `read` gives."""
        used = [sheets[index] for index in sorted({index for index, _ in places})]
        self.grid: Grid = _finest_grid(used, sensor, names)
        """The finest grid of the bands."""
        self._alike = _alike(_parts(sheets, places, self.grid))
        self._valid_sheets = [
            (sheet, _valid_position(sheet, source), _placement(sheet, self.grid)) for sheet in valid_sheets
        ]
        self.dtype: np.dtype[np.generic] = np.result_type(
            *(np.dtype(sheets[index].dtypes[position]) for index, position in places)
        )
        """NumPy type that holds the stored numbers of all bands."""
        self._nodata = tuple(
            _first_known(source.nodata, sheets[index].nodata[position], sensor.nodata) for index, position in places
        )
        self.datetime: datetime.datetime | None = _common_time(used)
        """Time of the image where the file says it, UTC."""
        self.num_times: int = max((len(sheet.times) for sheet in used), default=0) or 1
        """How many times the file holds."""

    @property
    def nodata(self) -> float | None:
        """The stored number that means "no data" in every band; None where there is none, or several."""
        first = self._nodata[0]
        same = all(value == first or (_is_nan(value) and _is_nan(first)) for value in self._nodata)
        return first if same else None

    def read(self, window: Window | None = None) -> Raster:
        """Read a window of all bands on the common grid. A window's pixels do not depend on where it is cut.

        Args:
            window: of `grid`; None reads everything.

        Returns:
            Stored numbers and which are valid; where not valid the numbers mean nothing.

        Raises:
            RasterError: a file breaks off or is damaged there.
            GeometryError: the window reaches outside the image.
        """
        window = window or self.grid.whole
        grid = self.grid.part(window)
        shape = (len(self.band_names), window.height, window.width)
        dn, valid = np.zeros(shape, dtype=self.dtype), np.zeros(shape, dtype=bool)
        for alike in self._alike:
            self._read_parts(alike, window, dn, valid)
        for sheet, position, placement in self._valid_sheets:
            valid &= self._read_valid(sheet, position, placement, window)
        return Raster(dn=dn, valid=valid, grid=grid)

    def _read_parts(self, alike: Sequence[_Part], window: Window, dn: Array, valid: Array) -> None:
        """Read parts of one placement. What is whole of them is resampled together, which gives the same numbers."""
        placement = alike[0].placement
        same_grid = placement.is_identity(self.grid.height, self.grid.width)
        needed = window if same_grid else source_window(placement, window)
        if needed is None:
            return
        read = [(list(part.targets), *self._stored(part, needed)) for part in alike]
        if same_grid:
            for targets, stored, known in read:
                dn[targets], valid[targets] = stored, known
            return
        whole = [one for one in read if one[2].all()]
        if len({stored.dtype for _, stored, _ in whole}) == 1:
            joined = [target for targets, _, _ in whole for target in targets]
            together = (joined, np.concatenate([one[1] for one in whole]), np.concatenate([one[2] for one in whole]))
            read = [one for one in read if not one[2].all()] + [together]
        for targets, stored, known in read:
            values, kept = resample_bilinear(stored, known, placement=placement, part=needed, window=window)
            dn[targets], valid[targets] = _to_type(values, stored.dtype), kept

    def _stored(self, part: _Part, needed: Window) -> tuple[Array, Array]:
        """Read the stored numbers of a part, and which are data."""
        stored, with_data = part.sheet.read(part.positions, needed)
        known = np.ones(stored.shape, dtype=bool) if with_data is None else with_data.copy()
        for index, target in enumerate(part.targets):
            known[index] &= _has_data(stored[index], self._nodata[target])
        return stored, known

    def _read_valid(self, sheet: Sheet, position: int, placement: Placement, window: Window) -> Array:
        needed = source_window(placement, window)
        if needed is None:
            return np.zeros((window.height, window.width), dtype=bool)
        stored, _ = sheet.read([position], needed)
        values, inside = resample_nearest(stored[0], placement=placement, part=needed, window=window)
        meant = np.isin(values, self._source.valid_values) if self._source.valid_values else values != 0
        return np.asarray(inside & meant)


@contextlib.contextmanager
def open_raster(source: RasterSource, sensor: Sensor) -> Iterator[RasterReader]:
    """Open an image to read windows of it.

    Args:
        source: files, and what they don't say themselves.
        sensor: whose bands they hold; `sensor.select(names)` asks for some of them.

    Returns:
        A reader, closed when the block ends.

    Raises:
        RasterError: a file is missing, empty, corrupt, doesn't say which band is which, or has no such time.
        GeometryError: bands lie on different coordinate systems, or shapes don't fit.
    """
    with contextlib.ExitStack() as opened:

        def sheet(path: Path) -> Sheet:
            one = open_sheet(path, time_index=source.time_index, time=source.time)
            opened.callback(one.close)
            return one

        sheets = [sheet(path) for path in _files(source, sensor)]
        _check_time(source, sheets)
        valid_sheets = [sheet(path) for path in source.valid_paths]
        yield RasterReader(source, sensor, sheets, valid_sheets)


def _files(source: RasterSource, sensor: Sensor) -> list[Path]:
    if not source.paths:
        raise RasterError("an image without files; name at least one path")
    files: list[Path] = []
    for path in source.paths:
        files += band_files(path, source, sensor) if path.is_dir() else [path]
    return files


def open_sheet(path: Path, *, time_index: int | None = None, time: datetime.datetime | None = None) -> Sheet:
    """Open one file of any format; the caller closes it.

    Args:
        path: to open.
        time_index: which time of a file with a time axis.
        time: or the time itself.

    Raises:
        RasterError: the file is missing, corrupt or no raster, or its time is not said.
    """
    ending = path.suffix.lower()
    if ending in _NETCDF_ENDINGS:
        return NetcdfSheet(path, time_index=time_index, time=time)
    plain = open_plain_tiff(path) if ending in _TIFF_ENDINGS else None
    return plain or GdalSheet(path)


def _check_time(source: RasterSource, sheets: Sequence[Sheet]) -> None:
    """Refuse a time that is asked of files without a time axis, which would be ignored."""
    if any(sheet.time_index is not None for sheet in sheets):
        return
    if source.time is not None or source.time_index not in (None, 0, -1):
        asked = source.time_index if source.time is None else f"{source.time:%Y-%m-%d}"
        raise RasterError(f"time {asked} is asked of '{sheets[0].path}', which has no time axis; leave the time out")


def _finest_grid(sheets: Sequence[Sheet], sensor: Sensor, names: Sequence[str]) -> Grid:
    first = sheets[0]
    for sheet in sheets[1:]:
        if not same_crs(sheet.crs, first.crs):
            raise GeometryError(
                f"bands of one image must share a coordinate system: '{first.path}' has "
                f"{first.crs or 'none'}, '{sheet.path}' has {sheet.crs or 'none'}; reproject one of them"
            )
    if first.crs is None:
        finest = max(sheets, key=lambda sheet: sheet.height * sheet.width)
        gsd_m = min(sensor.band(name).gsd_m for name in names)
    else:
        _check_transforms(sheets)
        finest = min(sheets, key=_pixel_area)
        gsd_m = _ground_pixel_m(finest, first.crs)
    return Grid(
        height=finest.height,
        width=finest.width,
        transform=finest.transform,
        crs=first.crs,
        gsd_m=float(gsd_m),
    )


def _check_transforms(sheets: Sequence[Sheet]) -> None:
    for sheet in sheets:
        area = _pixel_area(sheet)
        if not (all(math.isfinite(number) for number in sheet.transform) and area > 0):
            raise RasterError(
                f"'{sheet.path}' has a georeference in which a pixel is no rectangle of ground (its transform is "
                f"{_written(sheet)}); write its right corner and pixel size, for example with `gdal_edit.py -a_ullr`"
            )


def _ground_pixel_m(sheet: Sheet, crs: str) -> float:
    size_m = pixel_size_m(sheet.transform, crs=crs, height=sheet.height, width=sheet.width)
    if not (math.isfinite(size_m) and size_m > 0):
        raise RasterError(
            f"'{sheet.path}' has a georeference off the globe: in {crs} its transform {_written(sheet)} gives pixels "
            f"of {size_m:g} m; correct its CRS, or its corner and pixel size"
        )
    return size_m


def _written(sheet: Sheet) -> str:
    return f"({', '.join(f'{number:g}' for number in sheet.transform)})"


def _pixel_area(sheet: Sheet) -> float:
    a, b, _, d, e, _ = sheet.transform
    return abs(a * e - b * d)


def _placement(sheet: Sheet, grid: Grid) -> Placement:
    shapes = (grid.height, grid.width), (sheet.height, sheet.width)
    if grid.crs is None:
        return place_by_shape(*shapes)
    if not same_crs(sheet.crs, grid.crs):
        raise GeometryError(
            f"'{sheet.path}' has {sheet.crs or 'no coordinate system'}, the image has {grid.crs}; reproject one of them"
        )
    return place(grid.transform, shapes[0], sheet.transform, shapes[1])


def _parts(sheets: Sequence[Sheet], places: Sequence[BandPlace], grid: Grid) -> list[_Part]:
    parts = []
    for index in sorted({index for index, _ in places}):
        chosen = [(position, target) for target, (sheet, position) in enumerate(places) if sheet == index]
        parts.append(
            _Part(
                sheet=sheets[index],
                positions=tuple(position for position, _ in chosen),
                targets=tuple(target for _, target in chosen),
                placement=_placement(sheets[index], grid),
            )
        )
    return parts


def _alike(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Put the parts together that lie on one grid."""
    groups: dict[Placement, list[_Part]] = {}
    for part in parts:
        groups.setdefault(part.placement, []).append(part)
    return list(groups.values())


def _valid_position(sheet: Sheet, source: RasterSource) -> int:
    if source.valid_variable:
        if source.valid_variable in sheet.names:
            return sheet.names.index(source.valid_variable)
        raise RasterError(
            f"mask '{sheet.path}' has no band '{source.valid_variable}' ({', '.join(sheet.names)})"
            f"{nearest_name(source.valid_variable, sheet.names)}"
        )
    if len(sheet.names) != 1:
        raise RasterError(f"mask '{sheet.path}' has {len(sheet.names)} bands; say which one by `valid_variable`")
    return 0


def _common_time(sheets: Sequence[Sheet]) -> datetime.datetime | None:
    times = [(sheet.times[sheet.time_index], sheet) for sheet in sheets if sheet.times and sheet.time_index is not None]
    for time, sheet in times[1:]:
        if time.date() != times[0][0].date():
            raise RasterError(
                f"files of one image differ in time: '{times[0][1].path}' gives {times[0][0].date()}, "
                f"'{sheet.path}' gives {time.date()}; say `time` instead of `time_index`"
            )
    return times[0][0] if times else None


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _is_nan(value: float | None) -> bool:
    return value is not None and value != value


def _has_data(stored: Array, nodata: float | None) -> Array:
    known = np.isfinite(stored) if stored.dtype.kind == "f" else np.ones(stored.shape, dtype=bool)
    if nodata is None or _is_nan(nodata):
        return known
    if stored.dtype.kind == "f":
        # A float32 file stores its nodata rounded; compare with what it can hold.
        return np.asarray(known & (stored != stored.dtype.type(nodata)))
    limits = np.iinfo(stored.dtype)
    possible = limits.min <= nodata <= limits.max and nodata == int(nodata)
    return np.asarray(known & (stored != int(nodata))) if possible else known


def _to_type(values: Array, dtype: np.dtype[np.generic]) -> Array:
    # Interpolated numbers lie between stored ones, so rounding can't leave the type's range.
    return np.rint(values).astype(dtype) if dtype.kind in "iu" else values.astype(dtype)
