"""Footprints on a common ground grid, and images that are warped onto it."""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Float, Num
from anyband.errors import GeometryError
from anyband.rasters.grid import VALID_SHARE, Axis, Grid, Placement, Transform, Window, place, same_crs, to_type

__all__ = [
    "RESAMPLINGS",
    "Box",
    "Footprint",
    "Layout",
    "View",
    "box_of",
    "chip_grid",
    "lay_out",
    "place_image",
    "plan_footprints",
    "view_of",
    "warp",
    "warp_window",
    "whole_box",
]

RESAMPLINGS = {"bilinear": 1.0, "cubic": 2.0, "average": 1.0, "nearest": 1.0}
"""How pixels of one grid are made of those of another, and pixels that each reaches to either side; all but `nearest`
widen where pixels are merged."""

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
# chosen: between so many points of an edge of a scene of 100 km a projection bends by less than a metre.
_POINTS_AN_EDGE = 64
# chosen: zones of a projection are turned against each other by a few degrees, which looks like a change of scale.
_TURNED = 1.1
_WARPED_TYPES = ("uint8", "uint16", "int16", "int32", "uint32", "float32", "float64")
# chosen: projections differ by so much in scale; pixels that differ by no more are of one size.
_SAME_SIZE = 0.01


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
    source: Grid | None = None
    """Grid of the image, which the chip is warped from; None: `placement` tells where it lies."""


Layout = tuple[Grid, tuple[Placement, ...], tuple[Grid, ...]]
"""The anchor, which is the grid of a place's finest image; where it lies in each image, as that lies in the anchor's
coordinate system; and the grid of each image, in its own."""

Footprint = tuple[str, Box, list[tuple[int, View]]]
"""Name in the place (`r000c002`), window on the anchor's grid, (position, view) of each image that covers enough."""


def chip_grid(anchor: Grid, box: Box, height: int, width: int) -> Grid:
    """Make the grid of so many pixels over a box of the anchor."""
    a, b, _, d, e, _ = anchor.transform
    x, y = anchor.to_coordinates(box.row, box.col)
    across, down = box.width / width, box.height / height
    gsd_m = anchor.gsd_m * math.sqrt(across * down)
    transform = (a * across, b * down, x, d * across, e * down, y)
    return Grid(height=height, width=width, transform=transform, crs=anchor.crs, gsd_m=gsd_m)


def lay_out(grids: Sequence[Grid], names: Sequence[str], *, ratio_tolerance: float = 0.0) -> Layout:
    """Place images on the grid of the finest of them; else raise `GeometryError`.

    Images of other coordinate systems are brought to that of the finest image, if possible a projected one. Those
    without any cover the ground that the others share wholly; `ratio_tolerance` (per cent) says by how much their
    ratio of rows to columns may differ from its.
    """
    placed = [number for number, grid in enumerate(grids) if grid.crs is not None]
    laid, sources = list(grids), list(grids)
    if placed:
        first = min((grids[one] for one in placed), key=_first_of_place)
        for one in placed:
            laid[one] = grids[one] if same_crs(grids[one].crs, first.crs) else _onto(first, grids[one], names[one])
    else:
        first = min(grids, key=_fineness)
    if len(placed) < len(grids):
        boxes = [box_of(place_image(first, laid[one], names[one])) for one in placed] or [whole_box(first)]
        ground = _shared(boxes)
        for number in set(range(len(grids))) - set(placed):
            laid[number] = sources[number] = _covering(first, ground, grids[number], names[number], ratio_tolerance)
    anchor = min(laid, key=_fineness)
    placements = (_laid_out(anchor, grid, name) for grid, name in zip(laid, names, strict=True))
    return anchor, tuple(placements), tuple(sources)


def _first_of_place(grid: Grid) -> tuple[bool, float]:
    # To two digits: what is 10 m in one projection is 9.998 m in another.
    return not _is_projected(grid.crs), float(f"{grid.gsd_m:.1e}")


def _laid_out(anchor: Grid, grid: Grid, name: str) -> Placement:
    if anchor.crs is not None:
        return place_image(anchor, grid, name)
    rows, cols = (
        Axis(scale=size / of, offset=0.0, size=size)
        for size, of in ((grid.height, anchor.height), (grid.width, anchor.width))
    )
    return Placement(rows=rows, cols=cols)


def whole_box(grid: Grid) -> Box:
    """Give the box of all pixels of a grid."""
    return Box(row=0.0, col=0.0, height=float(grid.height), width=float(grid.width))


def _shared(boxes: Sequence[Box]) -> Box | None:
    shared: Box | None = boxes[0]
    for box in boxes[1:]:
        shared = shared.shared_with(box) if shared else None
    return shared


def _covering(anchor: Grid, ground: Box | None, grid: Grid, name: str, tolerance: float) -> Grid:
    """Lay an image without coordinates over all of a box."""
    if ground is None:
        raise GeometryError(
            f"'{name}' has no CRS, and the other images share no ground that it could cover; give it a place of its "
            "own, or coordinates"
        )
    stretch = abs(grid.height * ground.width / (grid.width * ground.height) - 1)
    if 100 * stretch > tolerance + _TINY:
        raise GeometryError(
            f"'{name}' has no CRS and {grid.height} × {grid.width} pixels, and its place has {ground.height:g} × "
            f"{ground.width:g}: their ratios differ by {stretch:.1%}, and {tolerance:g} % are allowed, so it can't "
            "show all of that ground; allow more by --ratio-tolerance, resample it, or give it a place of its own"
        )
    return chip_grid(anchor, ground, grid.height, grid.width)


def _onto(anchor: Grid, grid: Grid, name: str) -> Grid:
    """Bring the extent of an image to the coordinate system and directions of the anchor; pixels keep their size."""
    rows, cols = _positions(_ring(grid.height, grid.width), grid, anchor)
    (row_of_col, row_of_row), (col_of_col, col_of_row) = _steps(grid, anchor)
    side = math.sqrt(abs(col_of_col * row_of_row - row_of_col * col_of_row))
    if not (np.isfinite([rows, cols]).all() and math.isfinite(side) and side > 0):
        raise GeometryError(
            f"'{name}' in {grid.crs} can't be brought to {anchor.crs}, which other images of its place have; give it a "
            "place of its own"
        )
    side = _about_times(side)
    (top, left), (bottom, right) = (
        (math.floor(edge.min() / side + _TINY) for edge in (rows, cols)),
        (math.ceil(edge.max() / side - _TINY) for edge in (rows, cols)),
    )
    height, width = bottom - top, right - left
    row, col, high, wide = (float(count * side) for count in (top, left, height, width))
    box = Box(row=row, col=col, height=high, width=wide)
    return chip_grid(anchor, box, height, width)


def _about_times(side: float) -> float:
    """Take a size in pixels for a whole number of them, or a whole part of one, where it is about that."""
    times = float(round(side)) if side > 1 else 1.0 / round(1 / side)
    return times if abs(side / times - 1) < _SAME_SIZE else side


def _ring(height: int, width: int) -> Float[Array, "2 point"]:
    """Place points around a grid, as rows and columns."""
    steps = np.linspace(0.0, 1.0, _POINTS_AN_EDGE)
    ends = np.zeros_like(steps)
    rows, cols = np.concatenate([ends, ends + 1, steps, steps]), np.concatenate([steps, steps, ends, ends + 1])
    return np.stack([height * rows, width * cols])


def _positions(points: Float[Array, "2 point"], grid: Grid, other: Grid) -> tuple[Array, Array]:
    """Find where positions (rows, columns) of a grid lie in another one."""
    ones = np.ones_like(points[0])
    x, y, _ = _matrix(grid.transform) @ np.stack([points[1], points[0], ones])
    if not same_crs(grid.crs, other.crs):
        x, y = _transformer(grid.crs, other.crs).transform(x, y)
    cols, rows, _ = np.linalg.solve(_matrix(other.transform), np.stack([x, y, ones]))
    return rows, cols


def _matrix(transform: Transform) -> Float[Array, "3 3"]:
    return np.array([*transform, 0.0, 0.0, 1.0]).reshape(3, 3)


def _steps(grid: Grid, other: Grid) -> tuple[Array, Array]:
    """Tell how many rows, and columns, of another grid one moves by with a column, and a row, in the middle of one."""
    near = np.array([(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]).T + np.array([[grid.height], [grid.width]]) / 2
    rows, cols = _positions(near, grid, other)
    return rows[1:] - rows[0], cols[1:] - cols[0]


@lru_cache(maxsize=128)
def _transformer(crs: str | None, other: str | None) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(crs, other, always_xy=True)


@lru_cache(maxsize=128)
def _is_projected(crs: str | None) -> bool:
    from pyproj import CRS

    return bool(CRS.from_user_input(crs).is_projected)


def warp_window(source: Grid, target: Grid, resampling: str) -> Window | None:
    """Find the pixels of an image that are needed to warp it to a grid; None where it lies wholly outside."""
    ends = []
    for found, size, count in zip(
        _positions(_ring(target.height, target.width), target, source),
        (source.height, source.width),
        (target.height, target.width),
        strict=True,
    ):
        low, high = float(found.min()), float(found.max())
        reach = 1 + math.ceil(RESAMPLINGS[resampling] * max(1.0, (high - low) / count))
        first, last = max(0, math.floor(low) - reach), min(size, math.ceil(high) + reach)
        if not (math.isfinite(low + high) and low < size and high > 0):
            return None
        ends.append((first, last))
    (top, bottom), (left, right) = ends
    return Window(row=top, col=left, height=bottom - top, width=right - left)


def warp(
    dn: Num[Array, "band y x"], valid: Bool[Array, "band y x"], *, source: Grid, target: Grid, resampling: str
) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
    """Warp pixels of one grid to another, over valid ones only; where these carry less than half of the weight, or
    beyond the edge, nothing is valid. No value leaves those that were there."""
    is_whole = bool(valid.all())
    # GDAL reads most types as they are; a large picture as floats would take four times its memory.
    stored = dn if dn.dtype.name in _WARPED_TYPES else dn.astype(np.float64)
    values = _reprojected(stored if is_whole else np.where(valid, stored, 0), source, target, resampling)
    share = _reprojected((valid[:1] if is_whole else valid).astype(np.uint8), source, target, resampling)
    kept = np.broadcast_to(share >= VALID_SHARE - _TINY, values.shape)
    values = np.divide(values, share, out=np.zeros_like(values), where=kept)
    for band, stored, known in zip(values, dn, valid, strict=True):
        if known.any():
            # Cubic interpolation overshoots, perhaps to a number that means no data.
            np.clip(band, stored[known].min(), stored[known].max(), out=band)
    return to_type(values, dn.dtype), kept.copy()


def _reprojected(
    planes: Num[Array, "band y x"], source: Grid, target: Grid, resampling: str
) -> Float[Array, "band row col"]:
    """Warp numbers to a grid by GDAL; what is not reached is 0."""
    from rasterio import Affine
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    precise = planes.dtype.itemsize > 2 and planes.dtype != np.float32
    found = np.zeros((len(planes), target.height, target.width), dtype=np.float64 if precise else np.float32)
    # Source pixels that are merged in one: GDAL would widen its kernel, and so move positions, for turned grids too.
    rows, cols = (max(1.0, float(np.abs(steps).sum())) for steps in _steps(target, source))
    reproject(
        planes,
        found,
        # Without coordinates both are in pixels of one plane; GDAL wants a name for it.
        src_crs=source.crs or "EPSG:3857",
        dst_crs=target.crs or "EPSG:3857",
        src_transform=Affine(*source.transform),
        dst_transform=Affine(*target.transform),
        resampling=Resampling[resampling],
        # By default GDAL lets positions be an eighth of a pixel off.
        tolerance=0,
        # No value is moved away from a number that means no data.
        init_dest_nodata=False,
        XSCALE=1 / cols if cols > _TURNED else 1.0,
        YSCALE=1 / rows if rows > _TURNED else 1.0,
    )
    return found


def plan_footprints(
    layout: Layout,
    *,
    chip_px: int | None = None,
    chip_m: float | None = None,
    min_cover: float = 0.5,
    sides: Sequence[int] | None = None,
    warped: Collection[int] = (),
) -> list[Footprint]:
    """Cut a place into footprints, by row and column; each chip of one covers it exactly.

    With a chip size, in pixels of the anchor or metres, they stand on a lattice from the anchor's corner over all
    images. Without one, or if all images are smaller, a place is one footprint if its images share enough ground and it
    is not too large; else footprints of a default size. `min_cover` is the least share that an image must cover to give
    a chip. `sides` are those that the chips of each image are brought to, whatever their ground; then no place is too
    large. Images that are `warped`, by position, are never interpolated by their placement alone.
    """
    anchor, placements, sources = layout
    side = chip_px if chip_m is None or chip_px is not None else max(1, round(chip_m / anchor.gsd_m))
    images = [box_of(placement) for placement in placements]
    is_small = side is not None and all(min(box.height, box.width) < side for box in images)
    limit = float(WHOLE_LIMIT_PX) if sides is None else math.inf
    shared = _shared_box(placements, images, limit) if side is None or is_small else None
    found = []
    whole = [("r000c000", shared, range(len(images)))] if shared else None
    for name, box, touching in whole or _lattice(images, side or DEFAULT_CHIP_PX):
        views = []
        for position in touching:
            view = view_of(placements[position], box, None if sides is None else sides[position])
            if view is None or _cover(images[position], box) < min_cover - _TINY:
                continue
            source = sources[position]
            is_resized = not view.is_copy and (sides is not None or position in warped)
            if is_resized or not same_crs(source.crs, anchor.crs):
                view = replace(view, is_copy=False, source=source)
            views.append((position, view))
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


def _shared_box(placements: Sequence[Placement], images: Sequence[Box], limit: float) -> Box | None:
    """Find the ground that all images share, on whole pixels of the coarsest; None if little, or over the limit."""
    shared = _shared(images)
    if shared is None or shared.area < _SHARED_AREA * min(box.area for box in images):
        return None
    coarsest = min(placements, key=lambda one: one.rows.scale * one.cols.scale)
    row, height = _whole_pixels(coarsest.rows, shared.row, shared.height)
    col, width = _whole_pixels(coarsest.cols, shared.col, shared.width)
    is_small = 0 < height <= limit and 0 < width <= limit
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


def view_of(placement: Placement, box: Box, side: int | None = None) -> View | None:
    """Work out what an image gives to a footprint, at its own resolution in whole pixels of the chip, or in those of
    `side`; None where it has too few pixels there. A chip that lies near enough on whole pixels of the image is moved
    onto them, to be copied."""
    exact, copied, shape, found = [], [], [], []
    for axis, start, size in ((placement.rows, box.row, box.height), (placement.cols, box.col, box.width)):
        extent = axis.scale * size
        count = side or max(1, round(extent))
        first = axis.scale * start + axis.offset
        last = first + extent / count * count
        if max(abs(first - round(first)), abs(last - round(first) - count)) <= _COPY_TOLERANCE_PX:
            copied.append(Axis(scale=1.0, offset=float(round(first)), size=axis.size))
        exact.append(Axis(scale=extent / count, offset=first, size=axis.size))
        shape.append(count)
        found.append(round(extent))
    if min(found) < _MIN_CHIP_PX:
        return None
    is_copy = len(copied) == 2
    rows, cols = copied if is_copy else exact
    return View(height=shape[0], width=shape[1], placement=Placement(rows=rows, cols=cols), is_copy=is_copy)
