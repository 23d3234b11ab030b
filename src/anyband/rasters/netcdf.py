"""netCDF-4 and HDF5, by h5netcdf: axes by what they are called, times by their calendars, coordinates, validity."""

import datetime
import itertools
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import RasterError
from anyband.rasters.grid import IDENTITY, Transform, Window, counts_pixels, crs_name, trusted_georeference
from anyband.rasters.products import NOT_READ, Times, counted_times, in_utc

__all__ = ["NetcdfSheet"]

_ROW, _COL, _TIME, _BAND, _OTHER = "row", "column", "time", "band", "other"

# What tells an axis, before its name. Source: CF conventions 1.11, sections 4, 5.6, 6.1.2 and appendix A.
_STANDARD_NAMES = {
    _ROW: "projection_y_coordinate projection_y_angular_coordinate latitude grid_latitude",
    _COL: "projection_x_coordinate projection_x_angular_coordinate longitude grid_longitude",
    _TIME: "time",
    _BAND: "radiation_wavelength radiation_frequency radiation_wavenumber",
}
_AXES = {"y": _ROW, "x": _COL, "t": _TIME, "z": _OTHER}
_NORTH, _EAST = re.compile(r"degrees?_?n(orth)?", re.IGNORECASE), re.compile(r"degrees?_?e(ast)?", re.IGNORECASE)
_SINCE = re.compile(r"\w+\s+since\s+.+", re.IGNORECASE)
_NANOMETRES = {"nm": 1.0, "nanometer": 1.0, "nanometre": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3}
_NANOMETRES |= {"micrometer": 1e3, "micrometre": 1e3}

_DEGREES = (
    ("latitude", "lat latitude latitudes xlat nav_lat", _NORTH),
    ("longitude", "lon longitude longitudes xlong nav_lon", _EAST),
)
_METRES = {"m": 1.0, "metre": 1.0, "meter": 1.0, "km": 1e3, "kilometre": 1e3, "kilometer": 1e3}
_SAME_UNIT = ("1", "us survey foot", "us_survey_foot", "foot", "feet", "ft")
_RADIANS = {"rad": 1.0, "radian": 1.0, "microradian": 1e-6}

# Names of dimensions in the files that we met or that CF knows; without case, and without what follows `_`, `:` or a
# number (`y_20m`, `YDim:grid`).
_NAMES = {
    _ROW: "y lat latitude northing row rows line lines ydim rlat ny nrows scanline scan downtrack "
    "along_track south_north number_of_lines",
    _COL: "x lon longitude easting col cols column columns xdim rlon nx ncols pixel pixels sample samples crosstrack "
    "across_track cross_track west_east ground_pixel pixels_per_line",
    _TIME: "t time times date",
    _BAND: "band bands wavelength wavelengths channel channels polarization polarisation spectral nbands",
}
_ROLES, _STANDARD_ROLES = (
    {name: role for role, names in table.items() for name in names.split()} for table in (_NAMES, _STANDARD_NAMES)
)
_ANONYMOUS = re.compile(r"(phony_)?dim_\d+")

_BOUNDS = ("_bnds", "_bounds")

# chosen: coordinates written as float32 or rounded to centimetres still pass, a missing row doesn't.
_STEP_TOLERANCE = 0.01
# What netCDF writes where nothing was written. Source: netcdf.h, NC_FILL_FLOAT and NC_FILL_DOUBLE.
_UNWRITTEN = 9.9692099683868690e36


class NetcdfSheet:
    """The image variables of one file that share the largest grid in it."""

    def __init__(self, path: Path, *, time_index: int | None = None, time: datetime.datetime | None = None) -> None:
        """Open a file at one time; `RasterError` where it is corrupt, no image, or no time of several is requested."""
        self.path = path
        self._file = _open(path)
        self.close = self._file.close
        try:
            self._look(time_index, time)
        except RasterError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, TypeError) as problem:
            raise RasterError(
                f"'{path}' is damaged: what it says of its variables can't be read ({problem})"
            ) from problem

    def _look(self, time_index: int | None, time: datetime.datetime | None) -> None:
        file, path = _described(self._file), self.path
        self._variables, notes = _image_variables(file, path)
        variable, axes = next(iter(self._variables.values()))
        self.height, self.width = (int(variable.shape[axes[role]]) for role in (_ROW, _COL))
        if not self.height or not self.width:
            raise RasterError(
                f"'{path}' has no pixels: its variables are {self.height} × {self.width} (rows × columns)"
            )
        self._bands, names = [], []
        for name, (one, known) in self._variables.items():
            labels = _labels(file, one, known[_BAND]) if _BAND in known else [name]
            several = _BAND in known and len(self._variables) > 1
            names += [f"{name}_{label}" if several and label else label for label in labels]
            self._bands += [(name, index) for index in range(len(labels))]
        self.names: tuple[str, ...] = tuple(names)
        held = [self._variables[name][0] for name, _ in self._bands]
        self.dtypes: tuple[str, ...] = tuple(str(_stored_type(one)) for one in held)
        self.nodata: tuple[float | None, ...] = tuple(next(iter(_fill_values(one)), None) for one in held)
        self.scaling: tuple[tuple[float, float, str] | None, ...] = tuple(map(_scaling, held))
        self.alphas: tuple[int, ...] = ()
        transform, crs, said = _georeference(file, variable, axes, path)
        is_placed = crs is not None and not counts_pixels(transform, height=self.height)
        self.geolocation = None if is_placed else _two_dimensional(file)
        self.transform, self.crs, missing = trusted_georeference(
            transform, crs, height=self.height, geolocation=self.geolocation
        )
        self._take_time(file, time_index, time, notes)
        lacking = [name for name, (one, _) in self._variables.items() if _lacks_parts(one.stored._h5ds)]
        self._lacking = frozenset(lacking)
        if lacking:
            notes.append(f"parts of {', '.join(lacking[:4])} were never written: their pixels are missing")
        self.notes: tuple[str, ...] = (*notes, *said, *missing)

    def _take_time(self, file: Any, time_index: int | None, time: datetime.datetime | None, notes: list[str]) -> None:
        """Find the times, and the one that `read` gives."""
        timed = sorted({one.dimensions[axes[_TIME]] for one, axes in self._variables.values() if _TIME in axes})
        if len(timed) > 1:
            raise RasterError(f"the variables of '{self.path}' have several time axes ({', '.join(timed)})")
        self.times: tuple[datetime.datetime | None, ...] = ()
        self.time_index: int | None = None
        self.num_times, index = 1, 0
        for name in timed:
            self.num_times = file.sizes[name]
            axis = _coordinate(file, name, _TIME)
            said = [f"its time axis '{name}' has no values: {NOT_READ}"] * self.num_times
            if axis is not None:
                self.times, said = _times(axis, name)
            self.time_index = index = self._chosen_time(time_index, time)
        if not timed:
            self.times, said = _single_time(file)
        self.taken = self.times[index] if self.times else None
        notes += filter(None, said[index : index + 1])

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window (no scale factor is applied), and which are within the variable's valid
        range; `RasterError` where the file is damaged."""
        read: dict[int, tuple[Array, Array]] = {}
        for name in dict.fromkeys(self._bands[position][0] for position in positions):
            found = [position for position in positions if self._bands[position][0] == name]
            stored, valid = self._read_variable(name, [self._bands[position][1] for position in found], window)
            read |= dict(zip(found, zip(stored, valid, strict=True), strict=True))
        pixels, known = zip(*(read[position] for position in positions), strict=True)
        return np.stack(pixels), np.stack(known)

    def _read_variable(self, name: str, wanted: list[int], window: Window) -> tuple[Array, Array]:
        """Read bands of a variable as (band, row, col), whatever the order of its axes."""
        variable, axes = self._variables[name]
        place: list[Any] = [0] * len(variable.shape)
        place[axes[_ROW]], place[axes[_COL]] = window.slices
        if _TIME in axes:
            place[axes[_TIME]] = self.time_index
        once = sorted(set(wanted))
        if _BAND in axes:
            is_run = once[-1] - once[0] == len(once) - 1
            place[axes[_BAND]] = slice(once[0], once[-1] + 1) if is_run else once
        try:
            stored = np.asarray(variable.stored[tuple(place)]).view(_stored_type(variable))
        except (OSError, ValueError, RuntimeError) as problem:
            raise RasterError(
                f"cannot read variable '{name}' of '{self.path}' at {window}: "
                f"the file is truncated or damaged ({problem})"
            ) from problem
        valid = _in_range(stored, variable)
        if name in self._lacking:
            valid &= _written(variable.stored._h5ds, place)
        kept = sorted((role for role in (_BAND, _ROW, _COL) if role in axes), key=lambda role: axes[role])
        order = [kept.index(role) for role in (_BAND, _ROW, _COL) if role in axes]
        stored, valid = stored.transpose(order), valid.transpose(order)
        again = [once.index(one) for one in wanted] if _BAND in axes else None
        return stored[again], valid[again]

    def _chosen_time(self, index: int | None, time: datetime.datetime | None) -> int:
        known = [one for one in self.times if one is not None]
        span = f" ({known[0].date()} … {known[-1].date()})" if known else ""
        if time is not None:
            day = in_utc(time).date()
            found = [position for position, one in enumerate(self.times) if one is not None and one.date() == day]
            exact = [position for position in found if self.times[position] == in_utc(time)]
            if len(exact) == 1 or len(found) == 1:
                return (exact or found)[0]
            count = f"{len(found)} images" if found else "no image"
            raise RasterError(f"'{self.path}' has {count} of {day}{span}; use its number")
        last = self.num_times - 1
        if index is None and last:
            raise RasterError(
                f"'{self.path}' holds {self.num_times} times{span}; say which one: `time`, "
                f"0 … {last} or a date (numbers only: `time_index`, --time-index; `all` in manifests)"
            )
        if not -self.num_times <= (index or 0) <= last:
            raise RasterError(f"time {index} is not in '{self.path}', which holds {self.num_times} times (0 … {last})")
        return (index or 0) % self.num_times


def _open(path: Path) -> Any:
    try:
        import cftime  # noqa: F401 - told here, before times are read
        import h5netcdf
    except ModuleNotFoundError as problem:
        raise RasterError(
            f"'{path}' is netCDF, which needs h5netcdf and cftime: pip install 'anyband[netcdf]'"
        ) from problem
    try:
        # A file that fails to open is closed all the same, and for that must know that it is not writable;
        # else Python prints a traceback beside our message.
        read_only = type("ReadOnlyFile", (h5netcdf.File,), {"_writable": False})
        return read_only(path, "r", decode_vlen_strings=True, phony_dims="sort")
    except (OSError, ValueError, KeyError, RuntimeError) as problem:
        with path.open("rb") as file:
            is_classic = file.read(3) == b"CDF"
        advice = "; netCDF-3 is not read: write it as netCDF-4, by `nccopy -k nc4 OLD NEW`" if is_classic else ""
        raise RasterError(f"cannot open '{path}' as netCDF or HDF5: {problem}{advice}") from problem


class _Variable:
    """A variable, and what it says of itself; asked once, because h5netcdf looks into the file each time."""

    def __init__(self, stored: Any, sizes: dict[str, int]) -> None:
        self.attrs, self.dtype = dict(stored.attrs), np.dtype(stored.dtype)
        self.dimensions: tuple[str, ...] = tuple(stored.dimensions)
        self.shape = tuple(sizes.get(name, 0) for name in self.dimensions)
        self.stored = stored

    def text(self, key: str) -> str:
        """Give an attribute as text, empty where there is none."""
        return _text(self.attrs.get(key, "")).strip()


def _described(file: Any) -> SimpleNamespace:
    """Ask a file what it says of itself."""
    sizes = {name: int(one.size) for name, one in file.dimensions.items()}
    variables = {name: _Variable(one, sizes) for name, one in file.variables.items()}
    return SimpleNamespace(variables=variables, attrs=dict(file.attrs), groups=file.groups, sizes=sizes)


_Placed = tuple[_Variable, dict[str, int]]
"""A variable, and which of its axes is which."""


def _image_variables(file: Any, path: Path) -> tuple[dict[str, _Placed], list[str]]:
    """Find variables over rows and columns, and perhaps time and band; of several grids the one with most pixels.
    Gives what is to be said of them too."""
    keys = ("coordinates", "bounds", "climatology")
    named = " ".join(variable.text(key) for variable in file.variables.values() for key in keys).split()
    role = cache(partial(_role, file))
    found: dict[str, _Placed] = {}
    unclear: dict[str, str] = {}
    for name, variable in file.variables.items():
        if len(variable.dimensions) < 2 or np.dtype(variable.dtype).kind not in "iufc":
            continue
        if name in (*variable.dimensions, *named) or name.endswith(_BOUNDS) or _is_degrees(name, variable):
            continue
        axes, others = _axes(variable, role)
        if others:
            sizes = zip(variable.dimensions, variable.shape, strict=True)
            listed = ", ".join(f"{dimension} {size}" for dimension, size in sizes)
            unclear[name] = f"'{name}' ({listed}): {', '.join(map(repr, others))}"
        elif {_ROW, _COL} <= axes.keys():
            found[name] = variable, axes
    if not found and unclear:
        raise RasterError(
            f"the dimensions of '{path}' can't be told apart: of {next(iter(unclear.values()))}; allowed are "
            "rows (y, lat), columns (x, lon), time and band, told by `standard_name`, `axis`, `units` or name; choose "
            "one value of the others, or rename them, and write the file again"
        )
    if not found:
        advice = f"; groups are not read: write one as a file, by `ncks -G : -g {next(iter(file.groups), '')} OLD NEW`"
        raise RasterError(
            f"'{path}' has no image variables (numbers over rows and columns, and perhaps time and band); it has "
            f"{', '.join((*file.variables, *(f'group {name}' for name in file.groups))) or 'nothing'}"
            f"{advice if file.groups else ''}"
        )
    grids = {
        name: tuple((one.dimensions[axes[role]], one.shape[axes[role]]) for role in (_ROW, _COL))
        for name, (one, axes) in found.items()
    }
    largest = max(grids.values(), key=lambda grid: grid[0][1] * grid[1][1])
    notes = [f"variables whose dimensions can't be told apart are not read: {text}" for text in unclear.values()]
    if all(_ANONYMOUS.fullmatch(name) for name, _ in largest):
        notes.append("its dimensions have no names: they were taken as (row, column)")
    return {name: one for name, one in found.items() if grids[name] == largest}, notes


def _axes(variable: _Variable, role: Callable[[str], str]) -> tuple[dict[str, int], list[str]]:
    """Tell which axis is which, and those of more than one value that can't be told."""
    names = variable.dimensions
    if len(names) == 2 and all(map(_ANONYMOUS.fullmatch, names)):
        return {_ROW: 0, _COL: 1}, []
    axes: dict[str, int] = {}
    others = []
    for position, name in enumerate(names):
        if role(name) != _OTHER and role(name) not in axes:
            axes[role(name)] = position
        elif variable.shape[position] != 1:
            others.append(name)
    return axes, others


def _role(file: Any, dimension: str) -> str:
    """Tell what a dimension is: by its variable's attributes, by its name, by other variables and texts along it."""
    along = {name: one for name, one in file.variables.items() if one.dimensions == (dimension,)}
    name = dimension.rsplit("/", 1)[-1].casefold()
    role = _told(along.pop(dimension)) if dimension in along else None
    role = role or _ROLES.get(name) or _ROLES.get(re.split(r"[_:\d]", name)[0]) or (_TIME if "time" in name else None)
    role = role or next(filter(None, map(_told, along.values())), None)
    if role is not None or not (texts := _texts(file, dimension)):
        return role or _OTHER
    with suppress(ValueError):
        return _TIME if datetime.datetime.fromisoformat(texts[0]) else _OTHER
    return _BAND


def _told(coordinate: _Variable) -> str | None:
    """Tell an axis by the attributes of its coordinate."""
    standard, axis, units = map(coordinate.text, ("standard_name", "axis", "units"))
    is_band = standard.startswith("sensor_band_")
    if told := _STANDARD_ROLES.get(standard.casefold()) or (_BAND if is_band else _AXES.get(axis.casefold())):
        return told
    for pattern, role in ((_NORTH, _ROW), (_EAST, _COL), (_SINCE, _TIME)):
        if pattern.fullmatch(units):
            return role
    return _BAND if units.casefold().removesuffix("s") in _NANOMETRES else None


def _coordinate(file: Any, dimension: str, role: str) -> _Variable | None:
    """Find the variable with the values along a dimension: of its name, else one that says so."""
    along = {name: one for name, one in file.variables.items() if one.dimensions == (dimension,)}
    return along.get(dimension) or next((one for one in along.values() if _told(one) == role), None)


def _texts(file: Any, dimension: str) -> list[str]:
    """Find the texts along a dimension: of the variable of its name, else of the first that has such."""
    ordered = sorted(file.variables.items(), key=lambda item: item[0] != dimension)
    for _, variable in ordered:
        dimensions, dtype = variable.dimensions, np.dtype(variable.dtype)
        if dimensions == (dimension,) and dtype.kind in "OSU":
            return [_text(value).strip() for value in np.asarray(variable.stored[...])]
        if dimensions[:1] == (dimension,) and len(dimensions) == 2 and dtype == np.dtype("S1"):
            return [b"".join(row).decode(errors="replace").strip("\0 ") for row in np.asarray(variable.stored[...])]
    return []


def _labels(file: Any, variable: _Variable, axis: int) -> list[str]:
    """Name bands along an axis: by texts, else by wavelengths in nanometres or other numbers that do not just count."""
    dimension, size = variable.dimensions[axis], variable.shape[axis]
    listed = variable.attrs.get("long_name")
    texts = _texts(file, dimension) or (list(map(str, listed)) if isinstance(listed, list) else [])
    if len(texts) == size:
        return texts
    coordinate = _coordinate(file, dimension, _BAND)
    if coordinate is None:
        return [""] * size
    values = np.asarray(coordinate.stored[...], dtype=np.float64)
    if any(np.array_equal(values, np.arange(first, first + size)) for first in (0, 1)):
        return [""] * size
    unit_nm = _NANOMETRES.get(coordinate.text("units").casefold().removesuffix("s"), 1.0)
    return [f"{value * unit_nm:.6g}" for value in values]


def _stored_type(variable: _Variable) -> np.dtype[Any]:
    # netCDF-3 has no unsigned numbers, so files carry a convention: signed storage with `_Unsigned`.
    stored = np.dtype(variable.dtype)
    unsigned = variable.text("_Unsigned").lower() == "true"
    return np.dtype(f"u{stored.itemsize}") if unsigned and stored.kind == "i" else stored.newbyteorder("=")


def _numbers(variable: _Variable, key: str) -> list[float]:
    """Read numbers of an attribute as the variable's own type has them."""
    try:
        values = np.asarray(variable.attrs.get(key, ())).ravel().astype(np.float64)
    except (TypeError, ValueError):
        return []
    kind = _stored_type(variable)
    return [float(value + 2.0 ** (8 * kind.itemsize) * (kind.kind == "u" and value < 0)) for value in values]


def _number(variable: _Variable, key: str, default: float) -> float:
    return next(iter(np.asarray(variable.attrs.get(key, default), dtype=np.float64).ravel().tolist()), default)


def _scaling(variable: _Variable) -> tuple[float, float, str] | None:
    """Tell a variable's own scale and offset, where it has them."""
    named = [key for key in ("scale_factor", "add_offset") if key in variable.attrs]
    scale, offset = _number(variable, "scale_factor", 1.0), _number(variable, "add_offset", 0.0)
    return (scale, offset, f"its {' and '.join(named)}") if (scale, offset) != (1, 0) else None


def _fill_values(variable: _Variable) -> list[float]:
    return [value for key in ("_FillValue", "missing_value", "nodata") for value in _numbers(variable, key)]


def _in_range(stored: Array, variable: _Variable) -> Array:
    """Tell what is no missing value but the first, and lies in the variable's valid range."""
    ends = {key: _numbers(variable, key) for key in ("valid_min", "valid_max", "valid_range")}
    low, high = ends["valid_min"] or ends["valid_range"][:1], ends["valid_max"] or ends["valid_range"][1:]
    is_float, scaling = stored.dtype.kind not in "iu", _scaling(variable)
    missing = [*_fill_values(variable)[1:], *([_UNWRITTEN] if is_float else [])]
    kind = stored.dtype.type if is_float else float
    with np.errstate(over="ignore"):  # of half precision
        checks = [stored != kind(value) for value in missing]
    are_floats = any(np.asarray(variable.attrs[key]).dtype.kind == "f" for key in ends if key in variable.attrs)
    if scaling is not None and scaling[0] and are_floats and not is_float:
        # Source: NetCDF Users' Guide, appendix A: a range of the unpacked type is in unpacked units.
        low, high = ([(end - scaling[1]) / scaling[0] for end in found] for found in (low, high))
        low, high = (low, high) if scaling[0] > 0 else (high, low)
    slack = 0.0 if is_float else 0.01  # of a stored step, to let rounding pass
    checks += [stored >= kind(end - slack) for end in low] + [stored <= kind(end + slack) for end in high]
    return np.asarray(np.logical_and.reduce([np.ones(stored.shape, dtype=bool), *checks]))


def _lacks_parts(dataset: Any) -> bool:
    """Tell whether a part of an HDF5 data set was never written, which is read as a fill value or 0."""
    if dataset.chunks is None:
        return bool(dataset.size) and not dataset.id.get_storage_size()
    parts = (-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
    return bool(dataset.id.get_num_chunks() < math.prod(parts))


def _written(dataset: Any, place: Sequence[Any]) -> Array:
    """Tell which values of a part of a data set were written."""
    sizes, parts = dataset.shape, dataset.chunks or dataset.shape
    numbers = [np.arange(size)[one] for size, one in zip(sizes, place, strict=True)]
    along = [np.unique(one // part, return_inverse=True) for one, part in zip(numbers, parts, strict=True)]
    starts = itertools.product(*(one * part for (one, _), part in zip(along, parts, strict=True)))
    found = [dataset.chunks and dataset.id.get_chunk_info_by_coord(start).byte_offset is not None for start in starts]
    held = np.reshape(found, [len(one) for one, _ in along]).astype(bool)
    return held[np.ix_(*(np.ravel(which) for _, which in along))].reshape([one.size for one in numbers if one.ndim])


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray | list) and len(value):
        value = value[0]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _is_degrees(name: str, variable: _Variable) -> str | None:
    """Tell whether a variable holds latitudes or longitudes."""
    short, units, standard = name.casefold(), variable.text("units"), variable.text("standard_name")
    for kind, names, pattern in _DEGREES:
        if standard == kind or short in names.split() or pattern.fullmatch(units):
            return kind
    return None


def _georeference(
    file: Any, variable: _Variable, axes: dict[str, int], path: Path
) -> tuple[Transform, str | None, list[str]]:
    """Place an image by coordinates along its rows and columns: transform, CRS, and what is to be said."""
    mapping = _grid_mapping(file, variable)
    crs, notes = _crs(file, variable, mapping)
    along = (_coordinate(file, variable.dimensions[axes[role]], role) for role in (_ROW, _COL))
    coordinates = [one for one in along if one is not None and np.dtype(one.dtype).kind in "iuf"]
    if len(coordinates) < 2:
        written = _text(mapping.get("GeoTransform", "")).split()
        if len(written) == 6 and crs is not None:
            c, a, b, f, d, e = map(float, written)
            return (a, b, c, d, e, f), crs, notes
        return IDENTITY, crs, notes
    if crs is None and not mapping and all(map(_told, coordinates)) and _in_degrees(coordinates):
        crs = "EPSG:4326"
        notes.append("its latitudes and longitudes name no coordinate system: WGS 84 (EPSG:4326) was taken")
    values = []
    for one in coordinates:
        unit, problem = _unit(one, crs, mapping)
        if problem:
            return IDENTITY, None, [*notes, problem]
        stored = np.asarray(one.stored[...], dtype=np.float64)
        values.append((stored * _number(one, "scale_factor", 1.0) + _number(one, "add_offset", 0.0)) * unit)
    ys, xs = values
    if crs is not None and _in_degrees(coordinates):
        # Longitudes may begin anew on their way, at 180° or at 360°.
        xs = np.unwrap(xs, period=360.0) if np.abs(np.diff(xs)).max(initial=0.0) > 180 else xs
        xs = xs - 360.0 if xs.min() >= 180 else xs
    step_y, step_x = _even_step(ys, path, "y"), _even_step(xs, path, "x")
    if step_x is None and step_y is None:
        return IDENTITY, crs, notes
    # One row or one column says nothing about its height: pixels are then taken as square.
    step_x = step_x if step_x is not None else abs(step_y or 1.0)
    step_y = step_y if step_y is not None else -abs(step_x)
    # Coordinates are those of pixel centres (CF conventions, section 5); a transform starts at the corner.
    found = (step_x, 0.0, float(xs[0]) - step_x / 2, 0.0, step_y, float(ys[0]) - step_y / 2)
    return found, crs, notes


def _in_degrees(coordinates: Sequence[_Variable]) -> bool:
    return [_is_degrees("", one) for one in coordinates] == ["latitude", "longitude"]


def _two_dimensional(file: Any) -> str | None:
    """Name latitudes and longitudes of each pixel, also of a group, which are not read."""
    found = [
        name.rsplit("/", 1)[-1]
        for group in (file, *map(_described, file.groups.values()))
        for name, one in group.variables.items()
        if len(one.dimensions) > 1 and _is_degrees(name, one)
    ]
    return f"latitudes and longitudes of each pixel ({', '.join(map(repr, found))})" if found else None


def _unit(coordinate: _Variable, crs: str | None, mapping: dict[str, Any]) -> tuple[float, str]:
    """Tell the factor from a coordinate's unit to that of the CRS, and what is wrong with it."""
    units = coordinate.text("units").casefold()
    if crs is None or not units:
        return 1.0, ""
    from pyproj import CRS

    system, name = CRS.from_user_input(crs), units.removesuffix("s")
    unit = system.axis_info[0]
    if system.is_projected and name in _METRES:
        return _METRES[name] / float(unit.unit_conversion_factor), ""
    if name in _RADIANS and "perspective_point_height" in mapping:
        # Source: PROJ, geostationary satellite view: coordinates are angles times the satellite's height.
        return _RADIANS[name] * float(np.ravel(mapping["perspective_point_height"])[0]), ""
    if name.startswith("degree") if system.is_geographic else name in (unit.unit_name, *_SAME_UNIT):
        return 1.0, ""
    return 1.0, (
        f"its coordinates are in '{units}', which its coordinate system ({crs[:40]}) has not: it counts as an image "
        "without coordinates; correct its `grid_mapping` or its coordinates"
    )


def _even_step(values: Array, path: Path, axis: str) -> float | None:
    if len(values) < 2:
        return None
    step = float(values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or not np.all(np.abs(np.diff(values) - step) <= _STEP_TOLERANCE * abs(step)):
        raise RasterError(f"the {axis} coordinates of '{path}' are not evenly spaced; resample to a regular grid first")
    return step


def _grid_mapping(file: Any, variable: _Variable) -> dict[str, Any]:
    """Read the attributes that name the coordinate system."""
    named = variable.text("grid_mapping") or _text(file.attrs.get("grid_mapping", ""))
    # Source: CF conventions, section 5.6: `crs: x y` says for which coordinates it is.
    first = named.split()[0].removesuffix(":") if named.split() else ""
    found = next((file.variables[name] for name in (first, "spatial_ref", "crs") if name in file.variables), None)
    return {} if found is None else dict(found.attrs)


def _crs(file: Any, variable: _Variable, mapping: dict[str, Any]) -> tuple[str | None, list[str]]:
    """Name the coordinate system, by its text or CF's parameters; and say where it can't be read."""
    for key in ("crs_wkt", "spatial_ref", "epsg_code"):
        if key in mapping and (crs := crs_name(_text(mapping[key]))) is not None:
            return crs, []
    epsg = variable.text("epsg") or _text(file.attrs.get("epsg", ""))
    if epsg.isdecimal():
        return crs_name(f"EPSG:{epsg}"), []
    if "grid_mapping_name" not in mapping:
        return None, []
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    lists = {key: np.ravel(value).tolist() for key, value in mapping.items()}
    plain = {key: values[0] if len(values) == 1 else values for key, values in lists.items()}
    name = _text(mapping["grid_mapping_name"])
    try:
        crs = crs_name(CRS.from_cf(plain).to_wkt())
    except (CRSError, KeyError, ValueError, TypeError):
        crs = None
    return crs, [] if crs else [f"its coordinate system ('{name}') can't be read; give it a `crs_wkt`"]


def _times(axis: _Variable, name: str) -> Times:
    """Read times by their unit and calendar."""
    values, units, calendar = np.ravel(np.asarray(axis.stored[...])), axis.text("units"), axis.text("calendar")
    try:
        if values.dtype.kind in "OSU":
            found = [in_utc(datetime.datetime.fromisoformat(_text(value).strip())) for value in values]
            return tuple(found), [""] * len(found)
        return counted_times(values, units, calendar.casefold() or "standard")
    except (ValueError, OverflowError, TypeError) as problem:
        shown = f"units '{units}'" + (f", calendar '{calendar}'" if calendar else "")
        said = f"its time '{name}' ({shown}) can't be read ({str(problem).split('.')[0].strip()}): {NOT_READ}"
        return (None,) * len(values), [said] * len(values)


def _single_time(file: Any) -> Times:
    """Read the time of a file without a time axis: a single value, else when its coverage starts."""
    for name in ("time", "t"):
        one = file.variables.get(name)
        if one is not None and int(np.prod(one.shape)) == 1:
            return _times(one, name)
    start = _text(file.attrs.get("time_coverage_start", "")).strip()
    if not start:
        return (), []
    try:
        time = in_utc(datetime.datetime.fromisoformat(start))
    except ValueError:
        return (None,), [f"its `time_coverage_start` '{start}' can't be read: {NOT_READ}"]
    return (time,), [f"its date was taken from `time_coverage_start`: {time:%Y-%m-%d}"]
