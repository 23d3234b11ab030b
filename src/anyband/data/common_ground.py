"""Windows of several images on the same ground, each in whole pixels of its own grid.

Images of one place differ in pixel size and origin. Their common footprint is cut along pixel edges of the
coarsest, so that grids in ratio (10, 20, 60 m) fit without remainder; other grids take the nearest whole
pixels, and how far those depart is reported. Pure geometry: nothing here reads a file.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from anyband.data.tiles import Bounds, Grid, Window
from anyband.errors import GeometryError

__all__ = ["Cell", "CommonGround", "common_bounds", "cut_common_ground"]

# chosen: 3 : 2 (30 m and 20 m) up to 8 : 7 count as in ratio; larger denominators make cells coarse.
_LARGEST_DENOMINATOR = 8
# chosen: over the whole footprint a quarter of a pixel, so that rounding never leaves the right pixel.
_RATIO_TOLERANCE_PX = 0.25
_ROUNDING_PX = 1e-6


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A rectangle of ground that all images show."""

    row: int
    """Row of the cell in the footprint, from 0 at the top."""
    col: int
    """Column of the cell in the footprint, from 0 at the left."""
    windows: tuple[Window, ...]
    """Its pixels, for each image."""

    @property
    def name(self) -> str:
        """Identity inside the place, for example `r000c002`."""
        return f"r{self.row:03d}c{self.col:03d}"


@dataclass(frozen=True, kw_only=True)
class CommonGround:
    """The cells of a place."""

    cells: tuple[Cell, ...]
    """Row by row; without gap or overlap in every image whose grid is in ratio to the coarsest."""
    misfit_px: tuple[float, ...]
    """For each image how far its windows depart from the ground meant, at most, in pixels; 0 is exact."""


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One image along one axis, in a coordinate that grows with the pixel index."""

    start: float
    """Coordinate of the outer edge of the first pixel."""
    step: float
    """Pixel size, over 0."""
    size: int
    """Number of pixels."""

    @property
    def end(self) -> float:
        return self.start + self.step * self.size


@dataclass(frozen=True, kw_only=True)
class _Span:
    """A stretch of one image along one axis, for each cell along it."""

    first: tuple[int, ...]
    """First pixel of each cell."""
    size: int
    """Pixels of a cell."""
    misfit_px: float
    """Largest departure, pixels."""


def common_bounds(grids: Sequence[Grid], names: Sequence[str]) -> Bounds:
    """Find the rectangle that all grids cover.

    Args:
        grids: of one CRS.
        names: of the images, for messages.

    Raises:
        GeometryError: a grid has another CRS or none, or two grids do not overlap (both are named).
    """
    _check_crs(grids, names)
    bounds = [grid.bounds for grid in grids]
    for index, one in enumerate(bounds):
        for other_index, other in enumerate(bounds[:index]):
            if min(one.right, other.right) <= max(one.left, other.left) or (
                min(one.top, other.top) <= max(one.bottom, other.bottom)
            ):
                raise GeometryError(
                    f"'{names[other_index]}' and '{names[index]}' do not overlap: "
                    f"x {_span(other.left, other.right)} and {_span(one.left, one.right)}, "
                    f"y {_span(other.bottom, other.top)} and {_span(one.bottom, one.top)} "
                    f"({grids[0].crs}); give them different places"
                )
    return Bounds(
        left=max(one.left for one in bounds),
        bottom=max(one.bottom for one in bounds),
        right=min(one.right for one in bounds),
        top=min(one.top for one in bounds),
    )


def cut_common_ground(
    grids: Sequence[Grid], *, names: Sequence[str], cell_m: float | None = None
) -> CommonGround:
    """Cut the ground that all images show into cells, each a window of whole pixels of every image.

    Images without CRS are taken to show the same ground as a whole, if their shapes are in ratio.

    Args:
        grids: of the images, at least one.
        names: of the images, for messages.
        cell_m: side of a cell, metres, rounded to whole pixels of the coarsest image; None: one cell for all.
            A remainder under one cell at the right and lower edge is left out.

    Returns:
        Cells, and how far the windows depart from the ground meant.

    Raises:
        GeometryError: mixed or missing CRS, no overlap, shapes not in ratio, or less ground than one cell.
    """
    if grids[0].crs is None:
        _check_crs(grids, names)
        _check_shapes(grids, names)
    else:
        common_bounds(grids, names)
    rows = _cut(
        [_row_line(grid, name) for grid, name in zip(grids, names, strict=True)], grids, names, cell_m
    )
    cols = _cut(
        [_col_line(grid, name) for grid, name in zip(grids, names, strict=True)], grids, names, cell_m
    )
    cells = tuple(
        Cell(row=row, col=col, windows=_windows(rows, cols, row, col))
        for row in range(len(rows[0].first))
        for col in range(len(cols[0].first))
    )
    misfit_px = tuple(max(y.misfit_px, x.misfit_px) for y, x in zip(rows, cols, strict=True))
    return CommonGround(cells=cells, misfit_px=misfit_px)


def _windows(rows: Sequence[_Span], cols: Sequence[_Span], row: int, col: int) -> tuple[Window, ...]:
    return tuple(
        Window(row=y.first[row], col=x.first[col], height=y.size, width=x.size)
        for y, x in zip(rows, cols, strict=True)
    )


def _check_crs(grids: Sequence[Grid], names: Sequence[str]) -> None:
    for grid, name in zip(grids, names, strict=True):
        if grid.crs != grids[0].crs:
            raise GeometryError(
                f"images of one place must share a coordinate system: '{names[0]}' has "
                f"{grids[0].crs or 'none'}, '{name}' has {grid.crs or 'none'}; "
                f"reproject one or give them different places"
            )


def _check_shapes(grids: Sequence[Grid], names: Sequence[str]) -> None:
    first = grids[0]
    for grid, name in zip(grids, names, strict=True):
        if grid.height * first.width != grid.width * first.height:
            raise GeometryError(
                f"images without a coordinate system are paired by shape, so shapes must be in ratio: "
                f"'{names[0]}' has {first.height} × {first.width} pixels, "
                f"'{name}' {grid.height} × {grid.width}"
            )


def _row_line(grid: Grid, name: str) -> _Line:
    _, b, _, d, e, f = grid.transform
    return _line(grid, name, (b, d), e, f, grid.height)


def _col_line(grid: Grid, name: str) -> _Line:
    a, b, c, d, _, _ = grid.transform
    return _line(grid, name, (b, d), a, c, grid.width)


def _line(grid: Grid, name: str, turned: tuple[float, float], step: float, start: float, size: int) -> _Line:
    if grid.crs is None:
        return _Line(start=0.0, step=1.0 / size, size=size)
    if any(turned):
        raise GeometryError(f"the grid of '{name}' is turned against north; reproject it first")
    # y falls with the row in most images: measured downwards it grows too.
    return _Line(start=math.copysign(1.0, step) * start, step=abs(step), size=size)


def _cut(
    lines: Sequence[_Line], grids: Sequence[Grid], names: Sequence[str], cell_m: float | None
) -> list[_Span]:
    """Cut one axis into cells of whole pixels of the coarsest image."""
    coarsest = max(range(len(lines)), key=lambda index: lines[index].step)
    coarse = lines[coarsest]
    length = min(line.end for line in lines) - max(line.start for line in lines)
    ratios = [_ratio(coarse.step / line.step, length / line.step) for line in lines]
    block = math.lcm(*(ratio.denominator for ratio in ratios if ratio is not None))
    first, count = _whole_pixels(lines, coarse, block)
    size = count // block * block or count
    if cell_m is not None:
        size = max(1, round(cell_m / grids[coarsest].gsd_m / block)) * block
    if count < 1 or count < size:
        raise GeometryError(
            f"the common ground of {', '.join(repr(name) for name in names)} is {max(count, 0)} pixels of "
            f"{grids[coarsest].gsd_m:g} m long, less than one cell of {size} pixels; use a smaller cell"
        )
    starts = [coarse.start + coarse.step * (first + number * size) for number in range(count // size)]
    return [_fit(line, starts, coarse.step * size) for line in lines]


def _ratio(ratio: float, length_px: float) -> Fraction | None:
    """Read a ratio of pixel sizes as a small fraction; None where that departs over the ground."""
    fraction = Fraction(ratio).limit_denominator(_LARGEST_DENOMINATOR)
    departure_px = abs(float(fraction) / ratio - 1) * length_px if fraction else math.inf
    return fraction if departure_px < _RATIO_TOLERANCE_PX else None


def _whole_pixels(lines: Sequence[_Line], coarse: _Line, block: int) -> tuple[int, int]:
    """Find the first pixel of the coarsest image, and the number of them, that every image covers.

    An image may end up to half of its own pixels short: its nearest whole pixels still lie inside it.
    """
    low = max(line.start - line.step / 2 for line in lines)
    high = min(line.end + line.step / 2 for line in lines)
    earliest = max(0, math.ceil((low - coarse.start) / coarse.step - _ROUNDING_PX))
    last = min(coarse.size, math.floor((high - coarse.start) / coarse.step + _ROUNDING_PX))

    def misfit(first: int) -> float:
        at = coarse.start + coarse.step * first
        # Rounded, so that noise of the last digits doesn't choose a later start.
        return round(max(abs(_off_edge((at - line.start) / line.step)) for line in lines), 6)

    first = min(range(earliest, earliest + block), key=misfit)
    return first, last - first


def _off_edge(position: float) -> float:
    return position - math.floor(position + 0.5)


def _fit(line: _Line, starts: Sequence[float], length: float) -> _Span:
    """Take the whole pixels of one image nearest to each cell; every cell gets equally many."""
    exact = length / line.step
    size = min(line.size, max(1, math.floor(exact + 0.5)))
    positions = [(start - line.start) / line.step for start in starts]
    first = tuple(min(max(0, math.floor(position + 0.5)), line.size - size) for position in positions)
    misfit_px = max(
        max(abs(pixel - position), abs(pixel + size - position - exact))
        for pixel, position in zip(first, positions, strict=True)
    )
    return _Span(first=first, size=size, misfit_px=misfit_px)


def _span(low: float, high: float) -> str:
    return f"{low:g} … {high:g}"
