"""Footprints on a common ground grid."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anyband.errors import GeometryError
from anyband.rasters.grid import Axis, Grid, Placement, Transform, place, same_crs

__all__ = [
    "Box",
    "Footprint",
    "Layout",
    "View",
    "box_of",
    "chip_transform",
    "lay_out",
    "place_image",
    "plan_footprints",
    "view_of",
]

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
class View:
    """What one image gives to one footprint."""

    height: int
    width: int
    placement: Placement
    """The chip's grid in the image."""
    is_copy: bool
    """Whether pixels are taken as they are; else they are interpolated to the chip's grid."""


Layout = tuple[Grid, tuple[Placement, ...]]
"""The anchor, which is the grid of a place's finest image, and where it lies in each image."""

Footprint = tuple[str, Box, list[tuple[int, View]]]
"""Name in the place (`r000c002`), window on the anchor's grid, (position, view) of each image that covers enough."""


def chip_transform(anchor: Grid, box: Box, view: View) -> Transform:
    """Compute the transform of the chip that a view of a footprint becomes."""
    a, b, _, d, e, _ = anchor.transform
    x, y = anchor.to_coordinates(box.row, box.col)
    across, down = box.width / view.width, box.height / view.height
    return a * across, b * down, x, d * across, e * down, y


def lay_out(grids: Sequence[Grid], names: Sequence[str]) -> Layout:
    """Place images of one CRS, or all without any, on the grid of the finest of them; else raise `GeometryError`."""
    for grid, name in zip(grids, names, strict=True):
        if not same_crs(grid.crs, grids[0].crs):
            raise GeometryError(
                f"'{names[0]}' has {grids[0].crs or 'no CRS'}, '{name}' has {grid.crs or 'no CRS'}; "
                "images of one place must share a CRS: reproject one of them"
            )
    anchor = min(grids, key=_fineness)
    return anchor, tuple(place_image(anchor, grid, name) for grid, name in zip(grids, names, strict=True))


def plan_footprints(
    layout: Layout, *, chip_px: int | None = None, chip_m: float | None = None, min_cover: float = 0.5
) -> list[Footprint]:
    """Cut a place into footprints, by row and column; each chip of one covers it exactly.

    With a chip size, in pixels of the anchor or metres, they stand on a lattice from the anchor's corner over all
    images. Without one, or if all images are smaller, a place is one footprint if its images share enough ground and it
    is not too large; else footprints of a default size. `min_cover` is the least share that an image must cover to give
    a chip.
    """
    anchor, placements = layout
    side = chip_px if chip_m is None or chip_px is not None else max(1, round(chip_m / anchor.gsd_m))
    images = [box_of(placement) for placement in placements]
    is_small = side is not None and all(min(box.height, box.width) < side for box in images)
    shared = _shared_box(placements, images) if side is None or is_small else None
    found = []
    whole = [("r000c000", shared, range(len(images)))] if shared else None
    for name, box, touching in whole or _lattice(images, side or DEFAULT_CHIP_PX):
        views = [
            (position, view)
            for position in touching
            if _cover(images[position], box) >= min_cover - _TINY
            and (view := view_of(placements[position], box)) is not None
        ]
        if views:
            found.append((name, box, views))
    return found


def _fineness(grid: Grid) -> float:
    a, b, _, d, e, _ = grid.transform
    return -float(grid.height * grid.width) if grid.crs is None else abs(a * e - b * d)


def place_image(anchor: Grid, grid: Grid, name: str) -> Placement:
    """Place the anchor's grid in an image of the same CRS; `GeometryError` where one is turned against the other."""
    try:
        placement = place(anchor, grid)
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
    height, width = rows.size / rows.scale, cols.size / cols.scale
    return Box(row=-rows.offset / rows.scale, col=-cols.offset / cols.scale, height=height, width=width)


def _shared_box(placements: Sequence[Placement], images: Sequence[Box]) -> Box | None:
    """Find the ground that all images share, on whole pixels of the coarsest; None if little or large."""
    shared: Box | None = images[0]
    for box in images[1:]:
        shared = shared.shared_with(box) if shared else None
    if shared is None or shared.area < _SHARED_AREA * min(box.area for box in images):
        return None
    coarsest = min(placements, key=lambda one: one.rows.scale * one.cols.scale)
    row, height = _whole_pixels(coarsest.rows, shared.row, shared.height)
    col, width = _whole_pixels(coarsest.cols, shared.col, shared.width)
    is_small = 0 < height <= WHOLE_LIMIT_PX and 0 < width <= WHOLE_LIMIT_PX
    return Box(row=row, col=col, height=height, width=width) if is_small else None


def _whole_pixels(axis: Axis, start: float, size: float) -> tuple[float, float]:
    first = math.ceil(axis.scale * start + axis.offset - _COPY_TOLERANCE_PX)
    last = math.floor(axis.scale * (start + size) + axis.offset + _COPY_TOLERANCE_PX)
    return (first - axis.offset) / axis.scale, (last - first) / axis.scale


def _lattice(images: Sequence[Box], side: int) -> Iterator[tuple[str, Box, Sequence[int]]]:
    """Give the name and box of each step of a lattice that images touch, and their positions."""
    touching: dict[tuple[int, int], list[int]] = {}
    for position, box in enumerate(images):
        for step in _touched(box, side):
            touching.setdefault(step, []).append(position)
    first_row, first_col = (min((step[axis] for step in touching), default=0) for axis in (0, 1))
    for row, col in sorted(touching):
        name = f"r{row - first_row:03d}c{col - first_col:03d}"
        box = Box(row=float(row * side), col=float(col * side), height=float(side), width=float(side))
        yield name, box, touching[row, col]


def _touched(box: Box, side: int) -> Iterator[tuple[int, int]]:
    rows = range(math.floor(box.row / side + _TINY), math.ceil((box.row + box.height) / side - _TINY))
    cols = range(math.floor(box.col / side + _TINY), math.ceil((box.col + box.width) / side - _TINY))
    yield from ((row, col) for row in rows for col in cols)


def _cover(image: Box, box: Box) -> float:
    shared = image.shared_with(box)
    return 0.0 if shared is None else shared.area / box.area


def view_of(placement: Placement, box: Box) -> View | None:
    """Work out what an image gives to a footprint, at its own resolution in whole pixels of the chip; None where that
    is too few pixels. A chip that lies near enough on whole pixels of the image is moved onto them, to be copied."""
    exact, copied, shape = [], [], []
    for axis, start, size in ((placement.rows, box.row, box.height), (placement.cols, box.col, box.width)):
        extent = axis.scale * size
        count = max(1, round(extent))
        first = axis.scale * start + axis.offset
        last = first + extent / count * count
        if max(abs(first - round(first)), abs(last - round(first) - count)) <= _COPY_TOLERANCE_PX:
            copied.append(Axis(scale=1.0, offset=float(round(first)), size=axis.size))
        exact.append(Axis(scale=extent / count, offset=first, size=axis.size))
        shape.append(count)
    if min(shape) < _MIN_CHIP_PX:
        return None
    is_copy = len(copied) == 2
    rows, cols = copied if is_copy else exact
    return View(height=shape[0], width=shape[1], placement=Placement(rows=rows, cols=cols), is_copy=is_copy)
