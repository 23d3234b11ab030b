"""netCDF-4 and HDF5 files: named variables, an optional time axis, x and y coordinates; through h5netcdf."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import RasterError
from anyband.rasters.grid import IDENTITY, Transform, Window, crs_name

__all__ = ["NetcdfSheet"]

# Names of axes in the files that we met or that CF knows; compared without case.
_Y_NAMES = ("y", "lat", "latitude", "northing", "row")
_X_NAMES = ("x", "lon", "longitude", "easting", "col")

_UNIT_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}

# chosen: coordinates written as float32 or rounded to centimetres still pass, a missing row doesn't.
_STEP_TOLERANCE = 0.01


class NetcdfSheet:
    """The image variables of one file that share the largest grid in it."""

    def __init__(self, path: Path, *, time_index: int | None = None, time: datetime.datetime | None = None) -> None:
        """Open a file at one time; `RasterError` where it is corrupt, holds no image, or the time is not said."""
        self.path = path
        self._file = _open(path)
        try:
            self._describe(time_index, time)
        except RasterError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as problem:
            raise RasterError(
                f"'{path}' is damaged: what it says of its variables can't be read ({problem})"
            ) from problem

    def _describe(self, time_index: int | None, time: datetime.datetime | None) -> None:
        path = self.path
        variables = _image_variables(self._file, path)
        first = next(iter(variables.values()))
        self.names: tuple[str, ...] = tuple(variables)
        self._variables = variables
        self.height, self.width = int(first.shape[-2]), int(first.shape[-1])
        if not self.height or not self.width:
            raise RasterError(
                f"'{path}' has no pixels: its variables are {self.height} × {self.width} (rows × columns)"
            )
        self.transform = _transform(self._file, first, path)
        self.crs = _crs(self._file, first)
        self.dtypes: tuple[str, ...] = tuple(str(_stored_type(variable)) for variable in variables.values())
        self.nodata: tuple[float | None, ...] = tuple(_nodata(variable) for variable in variables.values())
        self.times = _times(self._file, first) if len(first.shape) == 3 else ()
        self.num_times = int(first.shape[0]) if len(first.shape) == 3 else 1
        self.time_index = self._chosen_time(time_index, time) if len(first.shape) == 3 else None

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window (no scale factor is applied); `RasterError` where the file is damaged."""
        return np.stack([self._read_one(position, window) for position in positions]), None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_one(self, position: int, window: Window) -> Array:
        variable = self._variables[self.names[position]]
        place: tuple[int | slice, ...] = (window.rows, window.cols)
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
        if index is None:
            if self.num_times == 1:
                return 0
            raise RasterError(
                f"'{self.path}' holds {self.num_times} times{_span(self.times)}; say which one: "
                f"`time_index` 0 … {self.num_times - 1}, or `time`"
            )
        if not -self.num_times <= index < self.num_times:
            raise RasterError(
                f"time_index {index} is not in '{self.path}', which holds {self.num_times} times "
                f"(0 … {self.num_times - 1})"
            )
        return index % self.num_times


def _open(path: Path) -> Any:
    try:
        import h5netcdf
    except ModuleNotFoundError as problem:
        raise RasterError(f"'{path}' is netCDF, which needs h5netcdf: pip install 'anyband[netcdf]'") from problem
    if not path.exists():
        raise RasterError(f"'{path}' does not exist")
    if path.stat().st_size == 0:
        raise RasterError(f"'{path}' is empty (0 bytes); get it again or leave it out")
    try:
        # A file that fails to open is closed all the same, and for that must know that it is not writable;
        # else Python prints a traceback beside our message.
        read_only = type("ReadOnlyFile", (h5netcdf.File,), {"_writable": False})
        return read_only(path, "r", decode_vlen_strings=True, phony_dims="sort")
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        raise RasterError(f"cannot open '{path}' as netCDF or HDF5: {problem}") from problem


def _image_variables(file: Any, path: Path) -> dict[str, Any]:
    """Find numeric variables over (y, x) or (time, y, x); of several grids the one with most pixels."""
    # Asking for a shape takes a millisecond, so each is asked for once.
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


def _nodata(variable: Any) -> float | None:
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
    standard = _text(coordinate.attrs.get("standard_name", ""))
    named = dimension.rsplit("/", 1)[-1].casefold()
    if named in names or standard.startswith(("projection_", "latitude", "longitude")):
        return np.asarray(coordinate[...], dtype=np.float64)
    return None


def _transform(file: Any, variable: Any, path: Path) -> Transform:
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
    mapping_names = [name for name in (named, "spatial_ref", "crs") if name in file.variables]
    for name in mapping_names:
        attrs = file.variables[name].attrs
        for key in ("crs_wkt", "spatial_ref", "epsg_code"):
            if key in attrs and (crs := crs_name(_text(attrs[key]))) is not None:
                return crs
    epsg = _text(variable.attrs.get("epsg", "")) or _text(file.attrs.get("epsg", ""))
    return crs_name(f"EPSG:{epsg}") if epsg.isdigit() else None


def _times(file: Any, variable: Any) -> tuple[datetime.datetime, ...]:
    dimension = variable.dimensions[0]
    if dimension not in file.variables:
        return ()
    axis = file.variables[dimension]
    values = np.asarray(axis[...])
    try:
        return _parsed_times(values, _text(axis.attrs.get("units", "")).strip())
    except (ValueError, OverflowError):
        # Times that we can't read are as good as none: an image can still be chosen by its number.
        return ()


def _parsed_times(values: Array, units: str) -> tuple[datetime.datetime, ...]:
    if values.dtype.kind in "OSU":
        return tuple(_utc(datetime.datetime.fromisoformat(_text(value))) for value in values)
    since = re.fullmatch(r"(second|minute|hour|day)s? since (.+)", units)
    if since is None:
        return ()
    start = _utc(datetime.datetime.fromisoformat(since[2].strip().removesuffix(" UTC")))
    seconds = _UNIT_SECONDS[since[1]]
    return tuple(start + datetime.timedelta(seconds=float(value) * seconds) for value in values)


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
