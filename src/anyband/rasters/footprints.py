"""Footprints on a common ground grid."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyband.errors import GeometryError
from anyband.rasters.grid import Axis, Grid, Placement, Transform, pixel_area, place, place_by_shape

__all__ = ["Box", "Cell", "CellRules", "Layout", "View", "box_of", "lay_out", "place_image", "plan_cells", "view_of"]

# chosen: images up to this size are kept whole, larger ones are cut; both are about one network input.
WHOLE_LIMIT_PX = 512
DEFAULT_CHIP_PX = 256
# chosen: a place is cut to what all its images share if that is at least half of the smallest image.
_SHARED_AREA = 0.5
# chosen: within a quarter of a pixel, less than sensors locate their pixels, numbers are kept untouched.
_COPY_TOLERANCE_PX = 0.25
# chosen: fewer pixels a side hold no picture.
_MIN_CHIP_PX = 4
# Rounding of written transforms.
_TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class CellRules:
    """How places are cut."""

    chip_px: int | None = None
    """Side of a cell in pixels of the finest image of the place."""
    chip_m: float | None = None
    """Or in metres."""
    min_cover: float = 0.5
    """Least share of a cell that an image must cover to give a chip."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle of ground, in pixels of the anchor."""

    row: float
    col: float
    height: float
    width: float

    @property
    def area(self) -> float:
        """Area in pixels of the anchor."""
        return self.height * self.width

    def shared_with(self, other: "Box") -> "Box | None":
        """Find the common rectangle; None where there is none."""
        row, col = max(self.row, other.row), max(self.col, other.col)
        height = min(self.row + self.height, other.row + other.height) - row
        width = min(self.col + self.width, other.col + other.width) - col
        if height <= _TINY or width <= _TINY:
            return None
        return Box(row=row, col=col, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the images of a place lie."""

    anchor: Grid
    """Grid of the finest image."""
    placements: tuple[Placement, ...]
    """The anchor's grid in each image."""
    boxes: tuple[Box, ...]
    """Each image on the anchor's grid."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What one image gives to one cell."""

    cell: str
    """Identity of the cell in its place."""
    height: int
    width: int
    placement: Placement
    """The chip's grid in the image."""
    is_copy: bool
    """Whether pixels are taken as they are; else they are interpolated to the chip's grid."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A footprint that chips are cut to."""

    name: str
    """Identity in its place, for example `r000c002`."""
    box: Box
    """On the anchor's grid."""
    views: tuple[tuple[int, View], ...]
    """(position of the image in the place, its view), for each image that covers enough."""

    def chip_transform(self, anchor: Grid, view: View) -> Transform:
        """Compute the transform of a chip of this cell."""
        a, b, _, d, e, _ = anchor.transform
        x, y = anchor.to_coordinates(self.box.row, self.box.col)
        across, down = self.box.width / view.width, self.box.height / view.height
        return a * across, b * down, x, d * across, e * down, y


def lay_out(grids: Sequence[Grid], names: Sequence[str]) -> Layout:
    """Place images of one CRS, or without any, on the grid of the finest of them; names are for messages.

    Raises:
        GeometryError: CRS differ, grids are turned, or shapes without CRS are not in ratio.
    """
    for grid, name in zip(grids, names, strict=True):
        if grid.crs != grids[0].crs:
            raise GeometryError(
                f"'{names[0]}' has {grids[0].crs or 'no CRS'}, '{name}' has {grid.crs or 'no CRS'}; "
                "images of one place must share a CRS: reproject one of them"
            )
    anchor = min(grids, key=_fineness)
    placements = tuple(place_image(anchor, grid, name) for grid, name in zip(grids, names, strict=True))
    return Layout(anchor=anchor, placements=placements, boxes=tuple(box_of(one) for one in placements))


def plan_cells(layout: Layout, rules: CellRules) -> list[Cell]:
    """Cut a place into cells: (place, cell) is one footprint, and each chip of it covers it exactly.

    With a chip size the cells stand on a lattice from the anchor's corner over all images. Without one, or if
    all images are smaller, a place is one cell if its images share enough ground and it is not too large;
    else cells of a default size.

    Returns:
        Cells by row and column, those that no image covers enough left out.
    """
    side = _side_px(layout.anchor, rules)
    is_small = side is not None and all(min(box.height, box.width) < side for box in layout.boxes)
    shared = _shared_cell(layout) if side is None or is_small else None
    boxes = [("r000c000", shared)] if shared else list(_lattice(layout, side or DEFAULT_CHIP_PX))
    cells = []
    for name, box in boxes:
        views = tuple(
            (position, view)
            for position, placement in enumerate(layout.placements)
            if _cover(layout.boxes[position], box) >= rules.min_cover - _TINY
            and (view := view_of(name, placement, box)) is not None
        )
        if views:
            cells.append(Cell(name=name, box=box, views=views))
    return cells


def _fineness(grid: Grid) -> float:
    return -float(grid.height * grid.width) if grid.crs is None else pixel_area(grid.transform)


def place_image(anchor: Grid, grid: Grid, name: str) -> Placement:
    """Place the anchor's grid, whose pixels positions are counted in, in an image of the same CRS.

    Raises:
        GeometryError: the grids are turned against each other, or shapes without CRS are not in ratio.
    """
    shapes = (anchor.height, anchor.width), (grid.height, grid.width)
    try:
        if grid.crs is None:
            return place_by_shape(*shapes)
        placement = place(anchor.transform, shapes[0], grid.transform, shapes[1])
    except GeometryError as problem:
        reason = "are turned against each other" if grid.crs else "are not in ratio, and there is no CRS"
        raise GeometryError(
            f"the grid of '{name}' ({grid.height} × {grid.width} pixels) and that of its place "
            f"({anchor.height} × {anchor.width}) {reason}; resample one of them or give it a place of its own"
        ) from problem
    if placement.rows.scale <= 0 or placement.cols.scale <= 0:
        raise GeometryError(f"the rows or columns of '{name}' run against those of other images of its place; flip it")
    return placement


def box_of(placement: Placement) -> Box:
    """Find the rectangle that an image covers, in pixels of the anchor that is placed in it."""
    rows, cols = placement.rows, placement.cols
    return Box(
        row=-rows.offset / rows.scale,
        col=-cols.offset / cols.scale,
        height=rows.size / rows.scale,
        width=cols.size / cols.scale,
    )


def _side_px(anchor: Grid, rules: CellRules) -> int | None:
    if rules.chip_px is not None:
        return rules.chip_px
    return None if rules.chip_m is None else max(1, round(rules.chip_m / anchor.gsd_m))


def _shared_cell(layout: Layout) -> Box | None:
    """Find the ground that all images share, on whole pixels of the coarsest; None if little or large."""
    shared: Box | None = layout.boxes[0]
    for box in layout.boxes[1:]:
        shared = shared.shared_with(box) if shared else None
    if shared is None or shared.area < _SHARED_AREA * min(box.area for box in layout.boxes):
        return None
    coarsest = min(layout.placements, key=lambda one: one.rows.scale * one.cols.scale)
    row, height = _whole_pixels(coarsest.rows, shared.row, shared.height)
    col, width = _whole_pixels(coarsest.cols, shared.col, shared.width)
    is_small = 0 < height <= WHOLE_LIMIT_PX and 0 < width <= WHOLE_LIMIT_PX
    return Box(row=row, col=col, height=height, width=width) if is_small else None


def _whole_pixels(axis: Axis, start: float, size: float) -> tuple[float, float]:
    first = math.ceil(axis.scale * start + axis.offset - _COPY_TOLERANCE_PX)
    last = math.floor(axis.scale * (start + size) + axis.offset + _COPY_TOLERANCE_PX)
    return (first - axis.offset) / axis.scale, (last - first) / axis.scale


def _lattice(layout: Layout, side: int) -> Iterator[tuple[str, Box]]:
    touched = sorted({cell for box in layout.boxes for cell in _touched(box, side)})
    first_row = min((row for row, _ in touched), default=0)
    first_col = min((col for _, col in touched), default=0)
    for row, col in touched:
        name = f"r{row - first_row:03d}c{col - first_col:03d}"
        yield name, Box(row=float(row * side), col=float(col * side), height=float(side), width=float(side))


def _touched(box: Box, side: int) -> Iterator[tuple[int, int]]:
    rows = range(math.floor(box.row / side + _TINY), math.ceil((box.row + box.height) / side - _TINY))
    cols = range(math.floor(box.col / side + _TINY), math.ceil((box.col + box.width) / side - _TINY))
    yield from ((row, col) for row in rows for col in cols)


def _cover(image: Box, cell: Box) -> float:
    shared = image.shared_with(cell)
    return 0.0 if shared is None else shared.area / cell.area


def view_of(cell: str, placement: Placement, box: Box) -> View | None:
    """Work out what an image gives to a cell, at its own resolution; None where that is too few pixels."""
    exact_rows, height = _chip_axis(placement.rows, box.row, box.height)
    exact_cols, width = _chip_axis(placement.cols, box.col, box.width)
    if min(height, width) < _MIN_CHIP_PX:
        return None
    copied_rows, copied_cols = _copied(exact_rows, height), _copied(exact_cols, width)
    if copied_rows is None or copied_cols is None:
        exact = Placement(rows=exact_rows, cols=exact_cols)
        return View(cell=cell, height=height, width=width, placement=exact, is_copy=False)
    copied = Placement(rows=copied_rows, cols=copied_cols)
    return View(cell=cell, height=height, width=width, placement=copied, is_copy=True)


def _chip_axis(axis: Axis, start: float, size: float) -> tuple[Axis, int]:
    """Place a chip along one axis of an image, at the image's own resolution, in whole pixels of the chip."""
    extent = axis.scale * size
    count = max(1, round(extent))
    return Axis(scale=extent / count, offset=axis.scale * start + axis.offset, size=axis.size), count


def _copied(axis: Axis, count: int) -> Axis | None:
    """Move a chip onto whole pixels of its image; None where that is too far from its ground."""
    first, last = axis.offset, axis.offset + axis.scale * count
    if max(abs(first - round(first)), abs(last - round(first) - count)) > _COPY_TOLERANCE_PX:
        return None
    return Axis(scale=1.0, offset=float(round(first)), size=axis.size)
