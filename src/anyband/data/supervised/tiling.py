"""Large images as squares, each a sample: where they lie, in the image and in other images of the same ground."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from anyband.data.rasters.georeference import same_crs
from anyband.data.tiles import Grid, Window, windows_covering
from anyband.errors import GeometryError
from anyband.shapes import Array, Bool

__all__ = ["Tile", "check_same_ground", "matching_window", "tiles_of", "to_pixels"]

# chosen: within a twentieth of a pixel a window of one image is one of another.
_SHIFT_PX = 0.05


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A square of an image."""

    window: Window
    """Its pixels."""
    own: Window
    """Those that no tile before has; labels count in these alone."""

    def is_own(self) -> Bool[Array, "row col"]:
        """Tell which of its pixels are its own."""
        found = np.zeros((self.window.height, self.window.width), dtype=bool)
        inside = self.own.within(self.window)
        found[inside.rows, inside.cols] = True
        return found


def tiles_of(grid: Grid, tile_px: int | None) -> Iterator[Tile]:
    """Cut an image into squares of one size, row by row. Each pixel is in exactly one tile's `own`.

    The last tile of a row or column reaches back into the one before, so that all are of one size. An image that is
    smaller than a square is one tile.

    Args:
        grid: of the image.
        tile_px: edge of a square; None: the image is one tile.
    """
    if tile_px is None:
        yield Tile(window=grid.whole, own=grid.whole)
        return
    height, width = min(tile_px, grid.height), min(tile_px, grid.width)
    for own in windows_covering(grid.height, grid.width, tile_height=height, tile_width=width):
        row, col = min(own.row, grid.height - height), min(own.col, grid.width - width)
        yield Tile(window=Window(row=row, col=col, height=height, width=width), own=own)


def matching_window(window: Window, grid: Grid, other: Grid, *, names: tuple[str, str]) -> Window:
    """Find the window of another image that shows the same ground.

    Args:
        window: of the first image.
        grid: of the first image.
        other: grid of the other.
        names: of both, for messages.

    Raises:
        GeometryError: the window cuts through pixels of the other image, or reaches outside of it.
    """
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
    """See that two images of a sample show the same ground, to a pixel of the coarser of them.

    Raises:
        GeometryError: other CRS, or other extents; without georeference: other ratios of height to width.
    """
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
