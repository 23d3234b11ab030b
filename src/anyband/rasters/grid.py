"""The only geometry: grids, windows, tilings, blending and georeference."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Float, Num, Shaped
from anyband.errors import GeometryError, InputError

__all__ = [
    "IDENTITY",
    "VALID_SHARE",
    "Axis",
    "Blender",
    "Grid",
    "Placement",
    "Tile",
    "Transform",
    "Window",
    "can_hold",
    "check_same_ground",
    "counts_pixels",
    "crs_name",
    "has_data",
    "matching_window",
    "own_pixels",
    "pixel_size_m",
    "place",
    "resample_bilinear",
    "resample_nearest",
    "same_crs",
    "source_window",
    "tiles_of",
    "to_pixels",
    "to_type",
    "trusted_georeference",
    "window_starts",
    "windows_covering",
]

Transform = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f) of `x = a·col + b·row + c`, `y = d·col + e·row + f`."""

IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Transform of an image without a place on the ground: coordinates are pixels."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of at least one pixel; its first pixel is at `row`, `col`, counted from 0."""

    row: int
    col: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"rows {self.row}–{self.row + self.height - 1}, columns {self.col}–{self.col + self.width - 1}"

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where the pixels of an image lie."""

    height: int
    width: int
    transform: Transform
    crs: str | None
    """`EPSG:n` where the CRS has a number, else WKT; None without georeference."""
    gsd_m: float
    """Pixel size on the ground, metres, at the centre of the image."""

    @property
    def whole(self) -> Window:
        """The window of all pixels."""
        return Window(row=0, col=0, height=self.height, width=self.width)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of the rectangle around all four corners, in coordinates of the CRS."""
        corners = [
            self.to_coordinates(row, col) for row in (0.0, float(self.height)) for col in (0.0, float(self.width))
        ]
        xs, ys = zip(*corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    def to_coordinates(self, row: float, col: float) -> tuple[float, float]:
        """Map a position in pixels (0, 0 is the outer corner of the first pixel) to (x, y) of the CRS."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    def part(self, window: Window) -> "Grid":
        """Make the grid of a window of this grid; `GeometryError` where it reaches outside."""
        if window.height < 1 or window.width < 1:
            raise GeometryError(
                f"a window needs at least one pixel, found {window.height} × {window.width} (rows × columns)"
            )
        last_row, last_col = window.row + window.height, window.col + window.width
        if min(window.row, window.col) < 0 or last_row > self.height or last_col > self.width:
            raise GeometryError(
                f"the window ({window}) reaches outside the image of {self.height} × {self.width} pixels"
            )
        a, b, c, d, e, f = self.transform
        x, y = a * window.col + b * window.row + c, d * window.col + e * window.row + f
        return replace(self, height=window.height, width=window.width, transform=(a, b, x, d, e, y))


def windows_covering(height: int, width: int, *, tile_height: int, tile_width: int) -> Iterator[Window]:
    """Cut an image into windows, row by row. Each pixel is in exactly one; the last ones may be smaller."""
    if tile_height < 1 or tile_width < 1:
        raise GeometryError(f"a tile needs at least one pixel, found {tile_height} × {tile_width}")
    for row in range(0, height, tile_height):
        for col in range(0, width, tile_width):
            yield Window(row=row, col=col, height=min(tile_height, height - row), width=min(tile_width, width - col))


# chosen: UTM departs from the ground by up to 0.1 % and its pixels are called 10 m all the same; Web Mercator
# departs by 1 / cos(latitude), which must not pass.
_PROJECTION_TOLERANCE = 0.01
# chosen: more systems than an archive has.
_KNOWN_CRS = 128


# WKT, PROJ, PROJJSON, an authority's code, or a name that GDAL knows.
_CRS_TEXT = re.compile(r"\s*([A-Z_0-9]+\s*[\[(]|[+{]|[\w.-]+:[\w:.-]+\s*$|(WGS|NAD|CRS)\d+\s*$)", re.IGNORECASE)


@lru_cache(maxsize=_KNOWN_CRS)
def crs_name(wkt: str) -> str | None:
    """Name a coordinate system: `EPSG:n` where it has a number, else its WKT; None for no place on Earth."""
    import pyproj
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        # Of any other text GDAL would think that it names a file, or a page of the network.
        crs = CRS.from_string(wkt) if _CRS_TEXT.match(wkt) else CRS()
    except CRSError:
        return None
    if not crs.is_projected and not crs.is_geographic:
        return None
    try:
        system = pyproj.CRS.from_user_input(crs.to_wkt())
        pyproj.Transformer.from_crs(system, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None  # Damaged: no coordinates come of it.
    if system.is_compound or len(system.axis_info) > 2:
        # An image lies where it lies, whatever its heights are measured from.
        crs = CRS.from_wkt(system.to_2d().to_wkt())
    number = crs.to_epsg()
    return f"EPSG:{number}" if number is not None else str(crs.to_wkt())


@lru_cache(maxsize=_KNOWN_CRS)
def same_crs(a: str | None, b: str | None) -> bool:
    """Tell whether two names mean one coordinate system; images have x before y in all of them."""
    if a == b or a is None or b is None:
        return a == b
    import pyproj
    from rasterio.crs import CRS

    if CRS.from_string(a) == CRS.from_string(b):
        return True
    first, second = map(pyproj.CRS.from_user_input, (a, b))
    return first.equals(second, ignore_axis_order=True)


# chosen: coordinates of pixels are their numbers, counted at a corner or at centres, from 0 or from 1.
_LARGEST_COUNT_OFFSET = 0.5


def counts_pixels(transform: Transform, *, height: int) -> bool:
    """Tell whether coordinates are pixels counted from a corner of the image: what formats give that know no place."""
    a, b, c, d, e, f = transform
    from_corner = min(abs(f), abs(f - height)) if e < 0 else abs(f)
    is_counted = abs(c) <= _LARGEST_COUNT_OFFSET and from_corner <= _LARGEST_COUNT_OFFSET
    return (a, b, d, abs(e)) == (1.0, 0.0, 0.0, 1.0) and is_counted


def trusted_georeference(
    transform: Transform, crs: str | None, *, height: int, geolocation: str | None = None
) -> tuple[Transform, str | None, tuple[str, ...]]:
    """Keep a georeference that places an image, else none; and say what is missing, or not read (`geolocation`)."""
    counted = counts_pixels(transform, height=height)
    if geolocation is not None:
        said = (
            f"only {geolocation} tell its place, and these are not read, so it counts as an image without coordinates; "
            "bring it to a grid by `gdalwarp -t_srs EPSG:…` (with -tps, -rpc or -geoloc)"
        )
    elif crs is not None and counted:
        named = crs if crs.startswith("EPSG:") else "of its own"
        said = (
            f"it has a coordinate system ({named}) and no geotransform, so it counts as an image without coordinates; "
            "give it its corner and pixel size, for example by `gdal_edit.py -a_ullr`"
        )
    elif crs is None and not counted:
        said = (
            "it has a geotransform and no coordinate system, so it counts as an image without coordinates; name its "
            "system, for example by `gdal_edit.py -a_srs`"
        )
        return transform, None, (said,)
    else:
        return transform, crs, ()
    return IDENTITY, None, (said,)


def pixel_size_m(transform: Transform, *, crs: str, height: int, width: int) -> float:
    """Measure a pixel on the ground at the centre of an image: the root of its area, metres.

    A projected CRS within 1 % of the ellipsoid counts as true to scale (UTM: 0.1 % at most); others are measured on it.
    Source: geodesics by pyproj on the CRS's own ellipsoid (Karney, "Algorithms for geodesics", J. Geodesy 2013).
    """
    to_degrees, geod, unit_m = _on_ellipsoid(crs)
    a, b, c, d, e, f = transform
    row, col = height / 2, width / 2
    corners = [(col + step_col, row + step_row) for step_col, step_row in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    xs = [a * x + b * y + c for x, y in corners]
    ys = [d * x + e * y + f for x, y in corners]
    lons, lats = to_degrees.transform(xs, ys)
    _, _, across_m = geod.inv(lons[0], lats[0], lons[1], lats[1])
    _, _, along_m = geod.inv(lons[2], lats[2], lons[3], lats[3])
    measured_m = math.sqrt(across_m * along_m)
    if unit_m is not None:
        named_m = math.sqrt(abs(a * e - b * d)) * unit_m
        if abs(measured_m / named_m - 1) < _PROJECTION_TOLERANCE:
            return named_m
    return measured_m


@lru_cache(maxsize=_KNOWN_CRS)
def _on_ellipsoid(crs: str) -> tuple[Any, Any, float | None]:
    """Make what measures in a CRS: to degrees, distances, and metres a unit of its axes (None: not projected)."""
    from pyproj import CRS, Geod, Transformer

    system = CRS.from_user_input(crs)
    to_degrees = Transformer.from_crs(system, system.geodetic_crs or 4326, always_xy=True)
    unit_m = float(system.axis_info[0].unit_conversion_factor) if system.is_projected else None
    return to_degrees, system.get_geod() or Geod(ellps="WGS84"), unit_m


def window_starts(size: int, window: int, step: int) -> list[int]:
    """Place windows along an axis: each pixel lies in one, none reaches outside. `step` ≤ `window` ≤ `size`."""
    if not 0 < step <= window <= size:
        raise InputError(f"windows of {window} pixels every {step} do not cover an axis of {size}")
    return [*range(0, size - window, step), size - window]


class Blender:
    """The weighted mean of overlapping windows, which count most in their middle; memory holds only some rows."""

    def __init__(self, *, num_bands: int, width: int, window: int | tuple[int, int], num_rows: int) -> None:
        """Begin at the first row of an image; `window` is an edge or rows and columns, `num_rows` are taken at once."""
        height, across = (window, window) if isinstance(window, int) else window
        self._weights = np.outer(_ramp(height), _ramp(across)).astype(np.float32)
        self._total = np.zeros((num_bands, num_rows + height, width), dtype=np.float32)
        self._weight = np.zeros((num_rows + height, width), dtype=np.float32)
        self.first_row = 0
        """First row of the image that was not taken yet."""

    def add(self, window: Window, pixels: Float[Array, "band row col"]) -> None:
        """Take in a window. It may not begin before `first_row`."""
        rows, cols = replace(window, row=window.row - self.first_row).slices
        self._total[:, rows, cols] += pixels * self._weights
        self._weight[rows, cols] += self._weights

    def take(self, num_rows: int) -> Float[Array, "band row col"]:
        """Give the next rows, to which no further window is added; NaN where there was none."""
        total, weight = self._total[:, :num_rows], self._weight[:num_rows]
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan, dtype=np.float32), where=weight > 0)
        for rows in (self._total, self._weight):
            rows[..., :-num_rows, :] = rows[..., num_rows:, :].copy()
            rows[..., -num_rows:, :] = 0
        self.first_row += num_rows
        return mean


def _ramp(size: int) -> Float[Array, "pixel"]:
    """Rise from the edge to the middle, where it is 1 or a little less."""
    return np.asarray(np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (size / 2))


# chosen: within a twentieth of a pixel a window of one image is one of another.
_SHIFT_PX = 0.05


Tile = tuple[Window, Window]
"""A square of an image, and its own pixels, which no tile before has; labels count in these alone."""


def own_pixels(tile: Tile) -> Bool[Array, "row col"]:
    """Tell which pixels of a tile are its own."""
    window, own = tile
    found = np.zeros((window.height, window.width), dtype=bool)
    # Only towards the end of an image is a tile not wholly its own, and there it begins earlier.
    found[own.row - window.row :, own.col - window.col :] = True
    return found


def tiles_of(grid: Grid, tile_px: int | None) -> Iterator[Tile]:
    """Cut an image into squares of one size, row by row. Each pixel is in exactly one tile's own. The last tile of a
    row or column reaches back. A smaller image is one tile, and so is any without `tile_px`."""
    if tile_px is None:
        yield grid.whole, grid.whole
        return
    height, width = min(tile_px, grid.height), min(tile_px, grid.width)
    for own in windows_covering(grid.height, grid.width, tile_height=height, tile_width=width):
        row, col = min(own.row, grid.height - height), min(own.col, grid.width - width)
        yield Window(row=row, col=col, height=height, width=width), own


def matching_window(window: Window, grid: Grid, other: Grid, *, names: tuple[str, str]) -> Window:
    """Find the window of another image on the same ground; `GeometryError` where it cuts pixels or reaches outside."""
    if window == grid.whole:
        return other.whole
    (top, left), (bottom, right) = (
        _position(corner, grid, other)
        for corner in ((window.row, window.col), (window.row + window.height, window.col + window.width))
    )
    edges = np.array([top, left, bottom, right])
    whole = np.round(edges).astype(int)
    size = whole[2:] - whole[:2]
    inside = (whole >= 0).all() and whole[2] <= other.height and whole[3] <= other.width and (size >= 1).all()
    if np.abs(edges - whole).max() > _SHIFT_PX or not inside:
        raise GeometryError(
            f"{window} of '{names[0]}' are rows {top:g} to {bottom:g} and columns {left:g} to {right:g} of "
            f"'{names[1]}' ({other.height} × {other.width} pixels), which is no window of it; choose a `tile_px` that "
            "falls on its pixels too, or resample it"
        )
    return Window(row=int(whole[0]), col=int(whole[1]), height=int(size[0]), width=int(size[1]))


def _position(corner: tuple[int, int], grid: Grid, other: Grid) -> tuple[float, float]:
    """Where a corner of a pixel lies in another image, in its pixels; without georeference both show the same."""
    row, col = float(corner[0]), float(corner[1])
    if grid.crs is None or other.crs is None:
        return row * other.height / grid.height, col * other.width / grid.width
    return to_pixels(*grid.to_coordinates(row, col), grid=other)


def to_pixels(x: float, y: float, *, grid: Grid) -> tuple[float, float]:
    """Find where coordinates lie in a grid, as (row, column): the inverse of `Grid.to_coordinates`."""
    a, b, c, d, e, f = grid.transform
    determinant = a * e - b * d
    # Adding zero turns −0.0 into 0.0.
    return (a * (y - f) - d * (x - c)) / determinant + 0.0, (e * (x - c) - b * (y - f)) / determinant + 0.0


def check_same_ground(first: Grid, other: Grid, *, names: tuple[str, str]) -> None:
    """See that images show the same ground, to a pixel of the coarser; without georeference: shapes are in ratio."""
    if first.crs is None or other.crs is None:
        if first.height * other.width != other.height * first.width:
            raise GeometryError(
                f"'{names[0]}' has {first.height} × {first.width} pixels and '{names[1]}' {other.height} × "
                f"{other.width}; images of one sample without georeference must have shapes in ratio"
            )
        return
    if not same_crs(first.crs, other.crs):
        raise GeometryError(
            f"'{names[0]}' has {first.crs}, '{names[1]}' has {other.crs}; images of one sample must share a CRS: "
            "reproject one of them"
        )
    ends = np.array([_position(end, first, other) for end in ((0, 0), (first.height, first.width))])
    wanted = np.array([(0, 0), (other.height, other.width)])
    pixel = max(1.0, other.height / first.height, other.width / first.width)
    if np.abs(ends - wanted).max() > pixel:
        raise GeometryError(
            f"'{names[0]}' and '{names[1]}' are of one sample but show different ground: the first covers rows "
            f"{ends[0, 0]:.6g} to {ends[1, 0]:.6g} and columns {ends[0, 1]:.6g} to {ends[1, 1]:.6g} of the second, "
            f"which has {other.height} × {other.width} pixels; cut both to the same extent"
        )


# chosen: transforms are written with 6 to 15 digits; a thousandth of a pixel over the image is not a shift.
_PIXEL_TOLERANCE = 1e-3
# chosen: half, so that a resampled pixel is valid where valid pixels carry most of its weight.
VALID_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where positions of the target lie in the source, along one axis: `source = scale · target + offset`."""

    scale: float
    """Source pixels per target pixel."""
    offset: float
    """Source position of the target's outer edge, in source pixels."""
    size: int
    """Source pixels."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the target grid lies in a source grid."""

    rows: Axis
    cols: Axis


def place(target: Any, source: Any) -> Placement:
    """Place a target grid in a source grid: a `Grid`, or anything else with `height`, `width`, `transform` and `crs`.
    Without georeference both cover the same ground, so that their shapes must be in ratio; `GeometryError` where they
    are not, or one grid is turned."""
    if target.crs is None:
        if target.height * source.width != target.width * source.height:
            raise GeometryError(
                f"bands without georeference must have shapes in ratio, found {target.height} × {target.width} and "
                f"{source.height} × {source.width} pixels"
            )
        return Placement(
            rows=Axis(scale=source.height / target.height, offset=0.0, size=source.height),
            cols=Axis(scale=source.width / target.width, offset=0.0, size=source.width),
        )
    a, b, c, d, e, f = source.transform
    determinant = a * e - b * d
    ta, tb, tc, td, te, tf = target.transform
    col_of_row, row_of_col = (e * tb - b * te) / determinant, (a * td - d * ta) / determinant
    if max(abs(col_of_row) * target.height, abs(row_of_col) * target.width) > _PIXEL_TOLERANCE:
        raise GeometryError("bands of one image lie on grids that are turned against each other; resample them first")
    axes = []
    for scale, offset, size, source_size in (
        ((a * te - d * tb) / determinant, (a * (tf - f) - d * (tc - c)) / determinant, target.height, source.height),
        ((e * ta - b * td) / determinant, (e * (tc - c) - b * (tf - f)) / determinant, target.width, source.width),
    ):
        # Rounding of written transforms is taken off where a whole pixel, or no change of size, is surely meant.
        if abs(scale - 1) * size < _PIXEL_TOLERANCE:
            scale = 1.0
            offset = round(offset) if abs(offset - round(offset)) < _PIXEL_TOLERANCE else offset
        axes.append(Axis(scale=scale, offset=float(offset), size=source_size))
    return Placement(rows=axes[0], cols=axes[1])


def source_window(placement: Placement, window: Window) -> Window | None:
    """Find the source pixels that a window of the target needs; None where it lies wholly outside."""
    ends = []
    for axis, start, size in ((placement.rows, window.row, window.height), (placement.cols, window.col, window.width)):
        below, _, inside = _neighbours(axis, start, size)
        if not inside.any():
            return None
        ends.append((int(below[inside].min()), int(min(axis.size, below[inside].max() + 2))))
    (top, bottom), (left, right) = ends
    return Window(row=top, col=left, height=bottom - top, width=right - left)


# Bands and images of one archive ask for the same few, again and again; the arrays are shared, so they are read-only.
@lru_cache(maxsize=32)
def _neighbours(axis: Axis, start: int, size: int) -> tuple[Array, Array, Array]:
    """Find the source pixel before each target pixel's centre, the weight of the next, and what is inside."""
    edges = axis.scale * (np.arange(start, start + size) + 0.5) + axis.offset
    inside = (edges >= -_PIXEL_TOLERANCE) & (edges <= axis.size + _PIXEL_TOLERANCE)
    centres = np.clip(edges - 0.5, 0, axis.size - 1)
    below = np.minimum(np.floor(centres).astype(np.int64), max(axis.size - 2, 0))
    found = below, centres - below, inside
    for one in found:
        one.flags.writeable = False
    return found


def resample_bilinear(
    stored: Num[Array, "band y x"],
    valid: Bool[Array, "band y x"],
    *,
    placement: Placement,
    part: Window,
    window: Window,
) -> tuple[Float[Array, "band row col"], Bool[Array, "band row col"]]:
    """Interpolate between pixel centres, over valid pixels only. Beyond the source's edge nothing is valid. `stored`
    and `valid` cover `part` of the source (see `source_window`). Returns numbers (0 where not valid) of the target's
    `window`; valid is where valid pixels carry at least half of the weight."""
    precise = stored.dtype.itemsize > 2 and stored.dtype != np.float32
    is_whole = bool(valid.all())
    numbers = (stored if is_whole else np.where(valid, stored, 0)).astype(np.float64 if precise else np.float32)
    rows = _neighbours(placement.rows, window.row, window.height)
    cols = _neighbours(placement.cols, window.col, window.width)
    values = _interpolate(numbers, rows, cols, part)
    inside = np.broadcast_to(rows[2][:, None] & cols[2][None, :], values.shape)
    if is_whole:
        values[~inside] = 0
        return values, inside.copy()
    share = _interpolate(valid.astype(np.float32), rows, cols, part)
    kept = inside & (share >= VALID_SHARE - 1e-6)
    return np.divide(values, share, out=np.zeros_like(values), where=kept), kept


def _interpolate(
    numbers: Array, rows: tuple[Array, Array, Array], cols: tuple[Array, Array, Array], part: Window
) -> Array:
    def along(values: Array, neighbours: tuple[Array, Array, Array], start: int, axis: int) -> Array:
        last = values.shape[axis] - 1
        # Targets outside the source point outside `part` too; they are dropped later, so any pixel will do.
        first = np.clip(neighbours[0] - start, 0, last)
        weight = neighbours[1].astype(values.dtype)
        weight = weight[:, None] if axis == 1 else weight[None, :]
        before, after = values.take(first, axis=axis), values.take(np.minimum(first + 1, last), axis=axis)
        # In place: blocks as large are costly to get.
        before *= 1 - weight
        after *= weight
        before += after
        return np.asarray(before)

    return np.asarray(along(along(numbers, rows, part.row, 1), cols, part.col, 2))


# From here on a centre lies in the next pixel, up to rounding.
_HALF = 0.5 - 1e-9


def resample_nearest(
    stored: Shaped[Array, "y x"], *, placement: Placement, part: Window, window: Window
) -> tuple[Shaped[Array, "row col"], Bool[Array, "row col"]]:
    """Take the pixel that a target pixel's centre lies in; for masks. Returns them, and what is inside."""
    above, down, rows_inside = _neighbours(placement.rows, window.row, window.height)
    before, right, cols_inside = _neighbours(placement.cols, window.col, window.width)
    rows = np.clip(above + (down >= _HALF) - part.row, 0, part.height - 1)
    cols = np.clip(before + (right >= _HALF) - part.col, 0, part.width - 1)
    return np.asarray(stored[rows[:, None], cols[None, :]]), rows_inside[:, None] & cols_inside[None, :]


def can_hold(dtype: np.dtype[Any], number: float) -> bool:
    """Tell whether pixels of a type can have a number; a float32 stores it rounded."""
    if dtype.kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= number <= limits.max and number == int(number))


def has_data(stored: Shaped[Array, "*pixels"], nodata: float | None) -> Bool[Array, "*pixels"]:
    """Tell which pixels are finite and not the number that means "no data"."""
    known = np.ones(stored.shape, dtype=bool) if stored.dtype.kind in "iu" else np.isfinite(stored)
    if nodata is None or nodata != nodata:
        return known
    return np.asarray(known & (stored != stored.dtype.type(nodata))) if can_hold(stored.dtype, nodata) else known


def to_type(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """Bring interpolated numbers back to the type they are stored in; `values` may be changed."""
    # Interpolated numbers lie between stored ones, so rounding can't leave the type's range.
    return np.rint(values, out=values).astype(dtype) if dtype.kind in "iu" else values.astype(dtype, copy=False)
