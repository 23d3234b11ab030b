"""Raster formats: all that GDAL reads; small plain GeoTIFFs, which need no GDAL; netCDF-4 and HDF5, by h5netcdf."""

import datetime
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence, Set
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window as RasterioWindow

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import RasterError
from anyband.rasters.grid import IDENTITY, Transform, Window, crs_name

__all__ = ["GdalSheet", "NetcdfSheet", "PlainTiffSheet", "QuietReader", "QuietWriter", "open_plain_tiff"]

# What rasterio raises for damaged files: its own errors, GDAL's, and those of texts that are no UTF-8.
_LIBRARY_ERRORS = (RasterioError, CPLE_BaseError, ValueError)

# GDAL's quick way of reading a whole PNG at once gives what was in memory before, and no error, where the file breaks
# off (seen with GDAL 3.10); row by row it is an error. Set both to open and to read a file.
# GDAL lists the whole folder of each file that it opens, milliseconds where there are thousands; files beside an image
# are found by their names all the same.
_READING = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


class QuietReader(DatasetReader):  # type: ignore[misc]
    """A file opened, inside of an `Env`, without a warning that it has no georeference, which is no mistake here."""

    def _has_gcps_or_rpcs(self) -> bool:
        # rasterio warns where there is neither a transform nor one of these.
        return True


class QuietWriter(DatasetWriter):  # type: ignore[misc]
    """The same, to be written."""

    def _has_gcps_or_rpcs(self) -> bool:
        return True


class GdalSheet:
    """One file that GDAL reads. Not to be shared by threads: each opens its own."""

    def __init__(self, path: Path) -> None:
        """Open a file; `RasterError` where it is corrupt, or not a raster."""
        self.path = path
        try:
            with rasterio.Env(**_READING):
                dataset = QuietReader(str(path))
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"cannot open '{path}' as a raster: {_cause(problem)}; get it again or leave it out"
            ) from problem
        self._dataset = dataset
        self.close = dataset.close
        try:
            # Outside of an `Env` GDAL writes warnings of damaged files to stderr.
            with rasterio.Env():
                bands = zip(dataset.indexes, dataset.colorinterp, strict=True)
                self._numbers = tuple(number for number, meaning in bands if meaning != ColorInterp.alpha)
                self.names = tuple(dataset.descriptions[number - 1] or "" for number in self._numbers)
                self.height, self.width = int(dataset.height), int(dataset.width)
                self.crs = crs_name(dataset.crs.to_wkt()) if dataset.crs else None
                # Adding zero turns the −0.0 that some headers give into 0.0.
                a, b, c, d, e, f = (float(value) + 0.0 for value in tuple(dataset.transform)[:6])
                self.transform: Transform = (a, b, c, d, e, f)
                self.dtypes = tuple(str(dataset.dtypes[number - 1]) for number in self._numbers)
                self.nodata: tuple[float | None, ...] = tuple(dataset.nodatavals[n - 1] for n in self._numbers)
                flags = {flag for number in self._numbers for flag in dataset.mask_flag_enums[number - 1]}
                self._has_mask = bool(flags & {MaskFlags.alpha, MaskFlags.per_dataset})
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"'{path}' is damaged: its header can't be read ({_cause(problem)}); get it again or leave it out"
            ) from problem
        self.times: tuple[datetime.datetime, ...] = ()
        self.time_index: int | None = None
        self.notes: tuple[str, ...] = ()

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window, and the file's alpha or mask band; `RasterError` where it is damaged."""
        numbers = [self._numbers[position] for position in positions]
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with rasterio.Env(**_READING):
                stored = self._dataset.read(numbers, window=place)
                valid = self._dataset.read_masks(numbers, window=place) > 0 if self._has_mask else None
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"cannot read '{self.path}' at {window}: the file is truncated or damaged "
                f"({_cause(problem)}); get it again or leave it out"
            ) from problem
        return stored, valid


def _cause(problem: BaseException) -> str:
    deepest = problem
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return str(deepest).strip() or type(deepest).__name__


# chosen: a file is read whole when it is opened; for larger ones the time that GDAL takes to open does not count.
_MAX_BYTES = 2**22

# Source: TIFF 6.0, sections 2 and 8; GeoTIFF 1.1 (OGC 19-008r4), annex B; GDAL's own tag of missing data.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_EXTRA_SAMPLES, _FORMAT = 338, 339
_PIXEL_SCALE, _TIE_POINTS, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS, _NODATA = 33550, 33922, 34735, 34736, 34737, 42113
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _STRIP_BYTES, _PIXEL_SCALE, _TIE_POINTS}
_NEEDED |= {_GEO_KEYS}
_KNOWN = _NEEDED | {_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _EXTRA_SAMPLES, _FORMAT, _GEO_DOUBLES, _GEO_TEXTS, _NODATA}
_RASTER_TYPE_KEY, _PIXEL_IS_AREA = 1025, 1
_GREY, _RGB, _CHUNKY, _PLANES = 1, 2, 1, 2

_FIELD_TYPES = {2: "s", 3: "H", 4: "I", 12: "d"}
# Bits and format (1 unsigned, 2 signed, 3 float) → type.
_DTYPES = {(8, 1): "uint8", (16, 1): "uint16", (32, 1): "uint32", (16, 2): "int16", (32, 2): "int32"}
_DTYPES |= {(32, 3): "float32", (64, 3): "float64"}

# What files beside an image say goes before, or beside, what it says itself.
_SIDECARS = (".aux.xml", ".msk", ".ovr")

# chosen: more systems than an archive has; a name is some tens of bytes.
_MAX_CRS_NAMES = 256
_crs_names: dict[tuple[object, ...], str | None] = {}


class _NotPlainError(Exception):
    """The file is for GDAL."""


_Tags = Mapping[int, Any]
"""Numbers of each tag of a header; of a text its bytes."""

_Header = tuple[Transform, str | None, float | None, str, tuple[int, int, int], bool, tuple[int, ...], tuple[int, ...]]
"""Transform, CRS, number without data, type, (bands, rows, columns), whether each band stands apart; and where the
strips begin, and their sizes."""

# Bands of one image have equal headers. chosen: as many as some images have, and no pixels among them.
_MAX_HEADERS, _MAX_HEADER_BYTES = 64, 4096
_headers: dict[tuple[int, bytes], _Header] = {}
# Bytes that headers have taken.
_header_sizes: set[int] = set()


class PlainTiffSheet:
    """One small file, in memory; what `GdalSheet` says of the same file."""

    def __init__(self, path: Path, data: bytes, header: _Header) -> None:
        """Take what the header says; made by `open_plain_tiff`."""
        self.path = path
        self.transform, self.crs, nodata, dtype, (count, height, width), apart, starts, sizes = header
        strips = [data[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        values = np.frombuffer(b"".join(strips), dtype=np.dtype(dtype).newbyteorder("<"))
        if apart or count == 1:
            self._pixels = values.reshape(count, height, width)
        else:
            self._pixels = values.reshape(height, width, count).transpose(2, 0, 1)
        self.height, self.width = height, width
        self.names: tuple[str, ...] = ("",) * count
        self.dtypes: tuple[str, ...] = (dtype,) * count
        self.nodata: tuple[float | None, ...] = (nodata,) * count
        self.times: tuple[datetime.datetime, ...] = ()
        self.time_index: int | None = None
        self.notes: tuple[str, ...] = ()

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Give bands of a window; such files have no mask."""
        # An index by a list copies, so what is given is the caller's.
        return self._pixels[:, *window.slices][list(positions)], None

    def close(self) -> None:
        """Do nothing."""


def open_plain_tiff(path: Path, folder: Set[str] | None = None) -> PlainTiffSheet | None:
    """Open a file if it is a small, plain and whole GeoTIFF; None: it is for GDAL, which says what is wrong. The names
    in its folder, where they are known, need not be asked for again."""
    name = str(path)
    try:
        # The quickest way, and this is done for each file.
        handle = os.open(name, os.O_RDONLY)
        try:
            size = os.fstat(handle).st_size
            data = os.read(handle, size) if size <= _MAX_BYTES else b""
        finally:
            os.close(handle)
        if data[:4] != b"II*\0":
            return None
        if folder is not None:
            name = path.name
        beside = [*(name + ending for ending in _SIDECARS), os.path.splitext(name)[0] + ".aux"]  # noqa: PTH122
        if any(map(os.path.exists, beside)) if folder is None else not folder.isdisjoint(beside):
            return None
        header = next(filter(None, (_headers.get((len(data), data[:size])) for size in tuple(_header_sizes))), None)
        return PlainTiffSheet(path, data, header or _read_header(path, data))
    except (_NotPlainError, OSError, struct.error, ValueError):
        return None


def _read_header(path: Path, data: bytes) -> _Header:
    """Read the header of the only image, and keep it for files of the same size that begin with it."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * count
    # A second image in the file is a mask, or an overview, or something else of which GDAL knows.
    if struct.unpack_from("<I", data, end) != (0,):
        raise _NotPlainError
    tags: dict[int, Any] = {}
    last = end + 4
    for tag, kind, length, place in struct.iter_unpack("<HHII", data[start + 2 : end]):
        if tag not in _KNOWN or kind not in _FIELD_TYPES or tag in tags:
            raise _NotPlainError
        form = f"<{length}{_FIELD_TYPES[kind]}"
        size = struct.calcsize(form)
        values = struct.unpack(form, struct.pack("<I", place)[:size] if size <= 4 else data[place : place + size])
        last = max(last, place + size) if size > 4 else last
        tags[tag] = values[0] if kind == 2 else values
    if not tags.keys() >= _NEEDED:
        raise _NotPlainError
    layout = _layout(data, tags)
    header = (_plain_transform(tags), _crs_name(path, tags), _nodata(tags, np.dtype(layout[0])), *layout)
    if last <= _MAX_HEADER_BYTES:
        if len(_headers) >= _MAX_HEADERS:
            _headers.clear()
            _header_sizes.clear()
        # What it says of the strips was checked for a file of this size.
        _headers[len(data), data[:last]] = header
        _header_sizes.add(last)
    return header


def _number(tags: _Tags, tag: int, default: int = 0) -> int:
    """Give a tag of which all numbers are equal."""
    found = set(tags.get(tag, (default,)))
    if len(found) != 1:
        raise _NotPlainError
    return int(found.pop())


def _layout(data: bytes, tags: _Tags) -> tuple[str, tuple[int, int, int], bool, tuple[int, ...], tuple[int, ...]]:
    """Find how the numbers are laid out: the last five of `_Header`."""
    height, width, samples = _number(tags, _HEIGHT), _number(tags, _WIDTH), _number(tags, _SAMPLES, 1)
    planar, photometric = _number(tags, _PLANAR, _CHUNKY), _number(tags, _PHOTOMETRIC)
    dtype = _DTYPES.get((_number(tags, _BITS), _number(tags, _FORMAT, 1)))
    is_rgb = photometric == _RGB and samples == 3
    if (
        dtype is None
        or min(height, width, samples) < 1
        or _number(tags, _COMPRESSION) != 1
        or planar not in (_CHUNKY, _PLANES)
        or not (photometric == _GREY or is_rgb)
        or any(tags.get(_EXTRA_SAMPLES, ()))
    ):
        raise _NotPlainError
    planes, per_plane = (samples, 1) if planar == _PLANES else (1, samples)
    row_bytes = width * per_plane * np.dtype(dtype).itemsize
    rows = min(_number(tags, _ROWS_PER_STRIP, height), height)
    sizes = tuple(min(rows, height - row) * row_bytes for row in range(0, height, rows)) * planes
    starts = tags[_STRIPS]
    if tags[_STRIP_BYTES] != sizes or len(starts) != len(sizes):
        raise _NotPlainError
    if any(start < 8 or start + size > len(data) for start, size in zip(starts, sizes, strict=True)):
        raise _NotPlainError
    if all(a + size == b for a, size, b in zip(starts, sizes, starts[1:], strict=False)):
        starts, sizes = starts[:1], (sum(sizes),)
    return dtype, (samples, height, width), planar == _PLANES, starts, sizes


def _plain_transform(tags: _Tags) -> Transform:
    scale, tie = (tuple(map(float, tags[tag])) for tag in (_PIXEL_SCALE, _TIE_POINTS))
    keys = tags[_GEO_KEYS]
    is_area = (_RASTER_TYPE_KEY, 0, 1, _PIXEL_IS_AREA) in (keys[start : start + 4] for start in range(4, len(keys), 4))
    at_corner = len(tie) == 6 and not any(tie[:3]) and all(map(math.isfinite, (*scale, *tie)))
    if not (is_area and at_corner and len(scale) == 3 and min(scale[:2]) > 0):
        raise _NotPlainError
    return scale[0], 0.0, tie[3] + 0.0, 0.0, -scale[1], tie[4] + 0.0


def _nodata(tags: _Tags, dtype: np.dtype[np.generic]) -> float | None:
    if _NODATA not in tags:
        return None
    value = float(bytes(tags[_NODATA]).rstrip(b"\0 ").decode("ascii"))
    # Of numbers that the type can't hold GDAL and rasterio each have their own opinion.
    if not math.isfinite(value):
        raise _NotPlainError
    with np.errstate(all="ignore"):
        is_held = float(np.array(value).astype(dtype)) == value
    if not is_held:
        raise _NotPlainError
    return value


def _crs_name(path: Path, tags: _Tags) -> str | None:
    geo = tuple(tags.get(tag) for tag in (_GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS))
    if geo not in _crs_names:
        if len(_crs_names) >= _MAX_CRS_NAMES:
            _crs_names.clear()
        with closing(GdalSheet(path)) as sheet:
            _crs_names[geo] = sheet.crs
    return _crs_names[geo]


# Names of axes in the files that we met or that CF knows; compared without case.
_Y_NAMES = ("y", "lat", "latitude", "northing", "row")
_X_NAMES = ("x", "lon", "longitude", "easting", "col")

_STANDARD_NAMES = ("projection_", "latitude", "longitude")

_UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}

# chosen: coordinates written as float32 or rounded to centimetres still pass, a missing row doesn't.
_STEP_TOLERANCE = 0.01


class NetcdfSheet:
    """The image variables of one file that share the largest grid in it."""

    def __init__(self, path: Path, *, time_index: int | None = None, time: datetime.datetime | None = None) -> None:
        """Open a file at one time; `RasterError` where it is corrupt, no image, or no time of several is requested."""
        self.path = path
        self._file = _open_netcdf(path)
        self.close = self._file.close
        try:
            variables = _image_variables(self._file, path)
            first = next(iter(variables.values()))
            has_times = len(first.shape) == 3
            self.names: tuple[str, ...] = tuple(variables)
            self._variables = variables
            self.height, self.width = int(first.shape[-2]), int(first.shape[-1])
            if not self.height or not self.width:
                raise RasterError(
                    f"'{path}' has no pixels: its variables are {self.height} × {self.width} (rows × columns)"
                )
            self.transform = _netcdf_transform(self._file, first, path)
            self.crs = _crs(self._file, first)
            self.dtypes: tuple[str, ...] = tuple(str(_stored_type(variable)) for variable in variables.values())
            self.nodata: tuple[float | None, ...] = tuple(_fill_value(variable) for variable in variables.values())
            self.times = _times(self._file, first) if has_times else ()
            self.num_times = int(first.shape[0]) if has_times else 1
            self.time_index = self._chosen_time(time_index, time) if has_times else None
            self.notes: tuple[str, ...] = ()
        except RasterError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as problem:
            raise RasterError(
                f"'{path}' is damaged: what it says of its variables can't be read ({problem})"
            ) from problem

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window (no scale factor is applied); `RasterError` where the file is damaged."""
        return np.stack([self._read_one(position, window) for position in positions]), None

    def _read_one(self, position: int, window: Window) -> Array:
        variable = self._variables[self.names[position]]
        place: tuple[int | slice, ...] = window.slices
        if self.time_index is not None:
            place = (self.time_index, *place)
        try:
            stored = np.asarray(variable[place])
        except (OSError, ValueError, RuntimeError) as problem:
            raise RasterError(
                f"cannot read variable '{self.names[position]}' of '{self.path}' at {window}: "
                f"the file is truncated or damaged ({problem})"
            ) from problem
        return stored.view(_stored_type(variable))

    def _chosen_time(self, index: int | None, time: datetime.datetime | None) -> int:
        if time is not None:
            return _index_of(time, self.times, self.path)
        if index is None and self.num_times == 1:
            return 0
        last = self.num_times - 1
        if index is None:
            raise RasterError(
                f"'{self.path}' holds {self.num_times} times{_span(self.times)}; say which one: "
                f"`time_index` 0 … {last}, or `time`"
            )
        if not -self.num_times <= index <= last:
            raise RasterError(
                f"time_index {index} is not in '{self.path}', which holds {self.num_times} times (0 … {last})"
            )
        return index % self.num_times


def _open_netcdf(path: Path) -> Any:
    try:
        import h5netcdf
    except ModuleNotFoundError as problem:
        raise RasterError(f"'{path}' is netCDF, which needs h5netcdf: pip install 'anyband[netcdf]'") from problem
    try:
        # A file that fails to open is closed all the same, and for that must know that it is not writable;
        # else Python prints a traceback beside our message.
        read_only = type("ReadOnlyFile", (h5netcdf.File,), {"_writable": False})
        return read_only(path, "r", decode_vlen_strings=True, phony_dims="sort")
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise RasterError(f"cannot open '{path}' as netCDF or HDF5: {problem}") from problem


def _image_variables(file: Any, path: Path) -> dict[str, Any]:
    """Find numeric variables over (y, x) or (time, y, x); of several grids the one with most pixels."""
    # A shape takes a millisecond, so each is requested once.
    shapes = {name: tuple(variable.shape) for name, variable in file.variables.items()}
    found = {
        name: variable
        for name, variable in file.variables.items()
        if len(shapes[name]) in (2, 3) and np.dtype(variable.dtype).kind in "iuf" and name not in variable.dimensions
    }
    if not found:
        raise RasterError(
            f"'{path}' has no image variables (numbers over (y, x) or (time, y, x)); it has "
            f"{', '.join(file.variables) or 'nothing'}"
        )
    largest = max((shapes[name] for name in found), key=lambda shape: shape[-1] * shape[-2])
    return {name: variable for name, variable in found.items() if shapes[name][-2:] == largest[-2:]}


def _stored_type(variable: Any) -> np.dtype[Any]:
    # netCDF-3 has no unsigned numbers, so files carry a convention: signed storage with `_Unsigned`.
    stored = np.dtype(variable.dtype)
    unsigned = _text(variable.attrs.get("_Unsigned", "")).lower() == "true"
    return np.dtype(f"u{stored.itemsize}") if unsigned and stored.kind == "i" else stored.newbyteorder("=")


def _fill_value(variable: Any) -> float | None:
    for key in ("_FillValue", "missing_value", "nodata"):
        value = variable.attrs.get(key)
        if value is None:
            continue
        try:
            number = np.asarray(value).ravel()[:1].astype(np.float64)
        except ValueError:
            continue
        if number.size:
            kind = _stored_type(variable)
            wraps = kind.kind == "u" and number[0] < 0
            return float(number[0] + 2.0 ** (8 * kind.itemsize)) if wraps else float(number[0])
    return None


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size:
        value = value.ravel()[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _axis(file: Any, variable: Any, names: tuple[str, ...], position: int) -> Array | None:
    dimension = variable.dimensions[position]
    if dimension not in file.variables:
        return None
    coordinate = file.variables[dimension]
    is_standard = _text(coordinate.attrs.get("standard_name", "")).startswith(_STANDARD_NAMES)
    is_named = dimension.rsplit("/", 1)[-1].casefold() in names
    return np.asarray(coordinate[...], dtype=np.float64) if is_named or is_standard else None


def _netcdf_transform(file: Any, variable: Any, path: Path) -> Transform:
    ys, xs = _axis(file, variable, _Y_NAMES, -2), _axis(file, variable, _X_NAMES, -1)
    if ys is None or xs is None:
        return IDENTITY
    step_y, step_x = _even_step(ys, path, "y"), _even_step(xs, path, "x")
    if step_x is None and step_y is None:
        return IDENTITY
    # One row or one column says nothing about its height: pixels are then taken as square.
    step_x = step_x if step_x is not None else abs(step_y or 1.0)
    step_y = step_y if step_y is not None else -abs(step_x)
    # Coordinates are those of pixel centres (CF conventions, section 5); a transform starts at the corner.
    return step_x, 0.0, float(xs[0]) - step_x / 2, 0.0, step_y, float(ys[0]) - step_y / 2


def _even_step(values: Array, path: Path, axis: str) -> float | None:
    if len(values) < 2:
        return None
    step = float(values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or not np.all(np.abs(np.diff(values) - step) <= _STEP_TOLERANCE * abs(step)):
        raise RasterError(
            f"the {axis} coordinates of '{path}' are not evenly spaced; resample it to a regular grid first"
        )
    return step


def _crs(file: Any, variable: Any) -> str | None:
    named = _text(variable.attrs.get("grid_mapping", "")) or _text(file.attrs.get("grid_mapping", ""))
    for attrs in (file.variables[name].attrs for name in (named, "spatial_ref", "crs") if name in file.variables):
        for key in ("crs_wkt", "spatial_ref", "epsg_code"):
            if key in attrs and (crs := crs_name(_text(attrs[key]))) is not None:
                return crs
    epsg = _text(variable.attrs.get("epsg", "")) or _text(file.attrs.get("epsg", ""))
    return crs_name(f"EPSG:{epsg}") if epsg.isdigit() else None


def _times(file: Any, variable: Any) -> tuple[datetime.datetime, ...]:
    """Read the times of an axis; none where they can't be read: an image can still be chosen by its number."""
    dimension = variable.dimensions[0]
    if dimension not in file.variables:
        return ()
    axis = file.variables[dimension]
    values, units = np.asarray(axis[...]), _text(axis.attrs.get("units", "")).strip()
    try:
        if values.dtype.kind in "OSU":
            return tuple(_utc(datetime.datetime.fromisoformat(_text(value))) for value in values)
        since = re.fullmatch(r"(second|minute|hour|day)s? since (.+)", units)
        if since is None:
            return ()
        start, unit_s = _utc(datetime.datetime.fromisoformat(since[2].strip().removesuffix(" UTC"))), since[1]
        return tuple(start + datetime.timedelta(seconds=float(value) * _UNIT_SECONDS[unit_s]) for value in values)
    except (ValueError, OverflowError):
        return ()


def _utc(time: datetime.datetime) -> datetime.datetime:
    return time.replace(tzinfo=datetime.UTC) if time.tzinfo is None else time.astimezone(datetime.UTC)


def _index_of(time: datetime.datetime, times: tuple[datetime.datetime, ...], path: Path) -> int:
    day = _utc(time).date()
    found = [index for index, known in enumerate(times) if known.date() == day]
    exact = [index for index in found if times[index] == _utc(time)]
    if len(exact) == 1 or len(found) == 1:
        return (exact or found)[0]
    count = f"{len(found)} images" if found else "no image"
    raise RasterError(f"'{path}' has {count} of {day}{_span(times)}; use `time_index`")


def _span(times: tuple[datetime.datetime, ...]) -> str:
    return f" ({times[0].date()} … {times[-1].date()})" if times else ""
