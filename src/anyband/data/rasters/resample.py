"""Bring pixels of one grid onto another of the same CRS: bilinear over valid pixels, or nearest."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyband.data.tiles import Transform, Window
from anyband.errors import GeometryError
from anyband.shapes import Array, Bool, Float, Num, Shaped

__all__ = [
    "Axis",
    "Placement",
    "place",
    "place_by_shape",
    "resample_bilinear",
    "resample_nearest",
    "source_window",
]

# chosen: transforms are written with 6 to 15 digits; a thousandth of a pixel over the image is not a shift.
_PIXEL_TOLERANCE = 1e-3
# chosen: half, so that a resampled pixel is valid where valid pixels carry most of its weight.
_VALID_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Where positions of the target lie in the source, along one axis: `source = scale · target + offset`."""

    scale: float
    """Source pixels per target pixel."""
    offset: float
    """Source position of the target's outer edge, in source pixels."""
    size: int
    """Number of source pixels."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where the target grid lies in a source grid."""

    rows: Axis
    """Along y."""
    cols: Axis
    """Along x."""

    def is_identity(self, height: int, width: int) -> bool:
        """Tell whether both grids are the same."""
        return self == Placement(
            rows=Axis(scale=1.0, offset=0.0, size=height), cols=Axis(scale=1.0, offset=0.0, size=width)
        )


def place(
    target: Transform, target_shape: tuple[int, int], source: Transform, source_shape: tuple[int, int]
) -> Placement:
    """Place a target grid in a source grid by their transforms.

    Raises:
        GeometryError: one grid is turned against the other.
    """
    a, b, c, d, e, f = source
    determinant = a * e - b * d
    ta, tb, tc, td, te, tf = target
    col_of_col, col_of_row = (e * ta - b * td) / determinant, (e * tb - b * te) / determinant
    row_of_col, row_of_row = (a * td - d * ta) / determinant, (a * te - d * tb) / determinant
    turned = max(abs(col_of_row) * target_shape[0], abs(row_of_col) * target_shape[1])
    if turned > _PIXEL_TOLERANCE:
        raise GeometryError("bands of one image lie on grids that are turned against each other; resample them first")
    col_offset = (e * (tc - c) - b * (tf - f)) / determinant
    row_offset = (a * (tf - f) - d * (tc - c)) / determinant
    return Placement(
        rows=_axis(row_of_row, row_offset, target_shape[0], source_shape[0]),
        cols=_axis(col_of_col, col_offset, target_shape[1], source_shape[1]),
    )


def place_by_shape(target_shape: tuple[int, int], source_shape: tuple[int, int]) -> Placement:
    """Place grids without georeference: both cover the same ground, so their shapes must be in ratio.

    Raises:
        GeometryError: they are not.
    """
    (height, width), (source_height, source_width) = target_shape, source_shape
    if height * source_width != width * source_height:
        raise GeometryError(
            f"bands without georeference must have shapes in ratio, found {height} × {width} and "
            f"{source_height} × {source_width} pixels"
        )
    return Placement(
        rows=Axis(scale=source_height / height, offset=0.0, size=source_height),
        cols=Axis(scale=source_width / width, offset=0.0, size=source_width),
    )


def _axis(scale: float, offset: float, target_size: int, source_size: int) -> Axis:
    # Rounding of written transforms is taken off where a whole pixel, or no change of size, is surely meant.
    if abs(scale - 1) * target_size < _PIXEL_TOLERANCE:
        scale = 1.0
        offset = round(offset) if abs(offset - round(offset)) < _PIXEL_TOLERANCE else offset
    return Axis(scale=scale, offset=float(offset), size=source_size)


def source_window(placement: Placement, window: Window) -> Window | None:
    """Find the source pixels that a window of the target needs; None where it lies wholly outside."""
    rows = _needed(placement.rows, window.row, window.height)
    cols = _needed(placement.cols, window.col, window.width)
    if rows is None or cols is None:
        return None
    return Window(row=rows[0], col=cols[0], height=rows[1] - rows[0], width=cols[1] - cols[0])


def _needed(axis: Axis, start: int, size: int) -> tuple[int, int] | None:
    below, _, inside = _neighbours(axis, start, size)
    if not inside.any():
        return None
    return int(below[inside].min()), int(min(axis.size, below[inside].max() + 2))


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
    """Interpolate between pixel centres, over valid pixels only. Beyond the source's edge nothing is valid.

    Args:
        stored: source pixels of `part`.
        valid: which of them have data.
        placement: of the target in the source.
        part: source window that `stored` covers, from `source_window`.
        window: target window asked for.

    Returns:
        Interpolated numbers (0 where not valid); valid where valid pixels carry at least half of the weight.
    """
    precise = stored.dtype.itemsize > 2 and stored.dtype != np.float32
    numbers = np.where(valid, stored, 0).astype(np.float64 if precise else np.float32)
    rows = _neighbours(placement.rows, window.row, window.height)
    cols = _neighbours(placement.cols, window.col, window.width)
    values = _interpolate(numbers, rows, cols, part)
    inside = np.broadcast_to(rows[2][:, None] & cols[2][None, :], values.shape)
    if valid.all():
        return np.where(inside, values, 0), inside.copy()
    share = _interpolate(valid.astype(np.float32), rows, cols, part)
    kept = inside & (share >= _VALID_SHARE - 1e-6)
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
        return np.asarray(before * (1 - weight) + after * weight)

    return np.asarray(along(along(numbers, rows, part.row, 1), cols, part.col, 2))


def resample_nearest(
    stored: Shaped[Array, "y x"], *, placement: Placement, part: Window, window: Window
) -> tuple[Shaped[Array, "row col"], Bool[Array, "row col"]]:
    """Take the pixel that a target pixel's centre lies in; for masks. Returns them, and what is inside."""
    rows, rows_inside = _containing(placement.rows, window.row, window.height)
    cols, cols_inside = _containing(placement.cols, window.col, window.width)
    rows = np.clip(rows - part.row, 0, part.height - 1)
    cols = np.clip(cols - part.col, 0, part.width - 1)
    return np.asarray(stored[rows[:, None], cols[None, :]]), rows_inside[:, None] & cols_inside[None, :]


def _containing(axis: Axis, start: int, size: int) -> tuple[Array, Array]:
    edges = axis.scale * (np.arange(start, start + size) + 0.5) + axis.offset
    inside = (edges >= -_PIXEL_TOLERANCE) & (edges <= axis.size + _PIXEL_TOLERANCE)
    return np.clip(np.floor(edges + 1e-9).astype(np.int64), 0, axis.size - 1), inside
