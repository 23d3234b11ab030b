"""Pure geometry of rasters: windows, grids and patch grids.

Nothing here reads a file. A pixel (row, col) covers [row, row + 1) × [col, col + 1); a transform maps
(col, row) to the coordinates of the CRS as `x = a·col + b·row + c`, `y = d·col + e·row + f`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from anyband.errors import GeometryError

__all__ = [
    "IDENTITY",
    "Bounds",
    "Grid",
    "Transform",
    "Window",
    "patch_grid",
    "windows_covering",
]

Transform = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f) of `x = a·col + b·row + c`, `y = d·col + e·row + f`."""

IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""Transform of an image without a place on the ground: coordinates are pixels."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """A rectangle of pixels."""

    row: int
    """First row, from 0."""
    col: int
    """First column, from 0."""
    height: int
    """Number of rows, at least 1."""
    width: int
    """Number of columns, at least 1."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise GeometryError(
                f"a window needs at least one pixel, found {self.height} × {self.width} (rows × columns)"
            )

    def __str__(self) -> str:
        return f"rows {self.row}–{self.row + self.height - 1}, columns {self.col}–{self.col + self.width - 1}"

    @property
    def rows(self) -> slice:
        """Slice of the rows, to index an array."""
        return slice(self.row, self.row + self.height)

    @property
    def cols(self) -> slice:
        """Slice of the columns, to index an array."""
        return slice(self.col, self.col + self.width)

    def is_inside(self, height: int, width: int) -> bool:
        """Tell whether the window lies wholly inside an image of this size."""
        return self.row >= 0 and self.col >= 0 and self.row + self.height <= height and self.col + self.width <= width

    def moved_by(self, rows: int, cols: int) -> "Window":
        """Shift the window; its size stays."""
        return Window(row=self.row + rows, col=self.col + cols, height=self.height, width=self.width)

    def within(self, outer: "Window") -> "Window":
        """Express this window in the pixels of `outer`, whose first pixel becomes (0, 0)."""
        return self.moved_by(-outer.row, -outer.col)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A rectangle in the coordinates of a CRS."""

    left: float
    """Smallest x."""
    bottom: float
    """Smallest y."""
    right: float
    """Largest x."""
    top: float
    """Largest y."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Where the pixels of an image lie."""

    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    transform: Transform
    """From (col, row) to coordinates of the CRS; `IDENTITY` for an image without georeference."""
    crs: str | None
    """`EPSG:n` where the CRS has a number, else WKT; None without georeference."""
    gsd_m: float
    """Pixel size on the ground, metres, at the centre of the image."""

    @property
    def whole(self) -> Window:
        """The window of all pixels."""
        return Window(row=0, col=0, height=self.height, width=self.width)

    @property
    def bounds(self) -> Bounds:
        """The rectangle around all four corners, in coordinates of the CRS."""
        corners = [
            self.to_coordinates(row, col) for row in (0.0, float(self.height)) for col in (0.0, float(self.width))
        ]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        return Bounds(left=min(xs), bottom=min(ys), right=max(xs), top=max(ys))

    def to_coordinates(self, row: float, col: float) -> tuple[float, float]:
        """Map a position in pixels (0, 0 is the outer corner of the first pixel) to (x, y) of the CRS."""
        a, b, c, d, e, f = self.transform
        return a * col + b * row + c, d * col + e * row + f

    def part(self, window: Window) -> "Grid":
        """Make the grid of a window of this grid.

        Raises:
            GeometryError: the window reaches outside.
        """
        if not window.is_inside(self.height, self.width):
            raise GeometryError(
                f"the window ({window}) reaches outside the image of {self.height} × {self.width} pixels"
            )
        a, b, _, d, e, _ = self.transform
        x, y = self.to_coordinates(float(window.row), float(window.col))
        return Grid(
            height=window.height,
            width=window.width,
            transform=(a, b, x, d, e, y),
            crs=self.crs,
            gsd_m=self.gsd_m,
        )


def windows_covering(height: int, width: int, *, tile_height: int, tile_width: int) -> Iterator[Window]:
    """Cut an image into windows, row by row. Each pixel is in exactly one; the last ones may be smaller.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        tile_height: of a window, pixels, at least 1.
        tile_width: of a window, pixels, at least 1.

    Returns:
        Windows that together cover the image without gap or overlap.
    """
    if tile_height < 1 or tile_width < 1:
        raise GeometryError(f"a tile needs at least one pixel, found {tile_height} × {tile_width}")
    for row in range(0, height, tile_height):
        for col in range(0, width, tile_width):
            yield Window(
                row=row,
                col=col,
                height=min(tile_height, height - row),
                width=min(tile_width, width - col),
            )


def patch_grid(grid: Grid, patch_size: int) -> Grid:
    """Make the grid whose pixels are the patches of `grid`. A remainder under one patch is left out.

    Raises:
        GeometryError: the image is smaller than one patch.
    """
    height, width = grid.height // patch_size, grid.width // patch_size
    if height < 1 or width < 1:
        raise GeometryError(
            f"an image of {grid.height} × {grid.width} pixels is smaller than one patch of "
            f"{patch_size} × {patch_size}; use a larger image or a smaller patch"
        )
    a, b, c, d, e, f = grid.transform
    size = float(patch_size)
    return Grid(
        height=height,
        width=width,
        transform=(a * size, b * size, c, d * size, e * size, f),
        crs=grid.crs,
        gsd_m=grid.gsd_m * size,
    )
