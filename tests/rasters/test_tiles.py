"""Windows, grids and patch grids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.errors import GeometryError
from anyband.rasters.grid import IDENTITY, Grid, Window, windows_covering

_sizes = st.integers(1, 40)


def _grid(height: int, width: int) -> Grid:
    return Grid(
        height=height,
        width=width,
        transform=(10.0, 0.0, 500.0, 0.0, -10.0, 900.0),
        crs="EPSG:32633",
        gsd_m=10.0,
    )


@given(height=_sizes, width=_sizes, tile_height=_sizes, tile_width=_sizes)
def test_windows_cover_each_pixel_once(height: int, width: int, tile_height: int, tile_width: int) -> None:
    count = np.zeros((height, width), dtype=int)
    for window in windows_covering(height, width, tile_height=tile_height, tile_width=tile_width):
        _grid(height, width).part(window)
        count[window.slices] += 1
    assert (count == 1).all()


def test_window_without_pixels_is_refused() -> None:
    with pytest.raises(GeometryError, match="at least one pixel, found 0 × 3"):
        _grid(10, 10).part(Window(row=0, col=0, height=0, width=3))


def test_tile_without_pixels_is_refused() -> None:
    with pytest.raises(GeometryError, match="at least one pixel, found 0 × 4"):
        list(windows_covering(10, 10, tile_height=0, tile_width=4))


def test_part_of_a_grid_has_the_same_coordinates() -> None:
    grid, window = _grid(30, 40), Window(row=5, col=7, height=6, width=8)
    part = grid.part(window)
    assert (part.height, part.width) == (6, 8)
    assert part.to_coordinates(1.0, 2.0) == grid.to_coordinates(6.0, 9.0)


def test_part_outside_is_refused() -> None:
    with pytest.raises(GeometryError, match="reaches outside the image of 30 × 40 pixels"):
        _grid(30, 40).part(Window(row=25, col=0, height=6, width=8))


def test_bounds_of_a_north_up_grid() -> None:
    assert _grid(30, 40).bounds == (500, 600, 900, 900)


def test_identity_maps_pixels_to_themselves() -> None:
    grid = Grid(height=3, width=4, transform=IDENTITY, crs=None, gsd_m=10.0)
    assert grid.to_coordinates(2.0, 3.0) == (3.0, 2.0)
