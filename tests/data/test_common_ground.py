"""Windows of several images on the same ground."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.common_ground import common_bounds, cut_common_ground
from anyband.data.tiles import IDENTITY, Grid, Window
from anyband.errors import GeometryError


def _grid(left: float, top: float, gsd_m: float, height: int, width: int, crs: str = "EPSG:32633") -> Grid:
    transform = (float(gsd_m), 0.0, float(left), 0.0, -float(gsd_m), float(top))
    return Grid(height=height, width=width, transform=transform, crs=crs, gsd_m=float(gsd_m))


def _unplaced(height: int, width: int) -> Grid:
    return Grid(height=height, width=width, transform=IDENTITY, crs=None, gsd_m=10.0)


def _ground(grid: Grid, window: Window) -> tuple[float, float, float, float]:
    bounds = grid.part(window).bounds
    return bounds.left, bounds.bottom, bounds.right, bounds.top


_fine_offsets = st.integers(-12, 12)


@settings(deadline=None)
@given(
    ratio=st.sampled_from([(10, 20), (10, 60), (20, 30), (10, 15), (10, 10)]),
    row=_fine_offsets,
    col=_fine_offsets,
    cell_m=st.sampled_from([None, 120.0, 240.0]),
)
def test_grids_in_ratio_get_windows_of_exactly_the_same_ground(
    ratio: tuple[int, int], row: int, col: int, cell_m: float | None
) -> None:
    fine_m, coarse_m = ratio
    fine = _grid(1000.0, 5000.0, fine_m, 1200 // fine_m, 1320 // fine_m)
    coarse = _grid(
        1000.0 + col * coarse_m, 5000.0 + row * coarse_m, coarse_m, 1200 // coarse_m, 1320 // coarse_m
    )
    ground = cut_common_ground([fine, coarse], names=["fine", "coarse"], cell_m=cell_m)
    assert max(ground.misfit_px) == pytest.approx(0, abs=1e-6)
    for cell in ground.cells:
        assert _ground(fine, cell.windows[0]) == pytest.approx(_ground(coarse, cell.windows[1]))


@settings(deadline=None)
@given(cell_m=st.sampled_from([60.0, 100.0, 300.0]), shift=st.integers(0, 5))
def test_cells_neither_overlap_nor_leave_gaps(cell_m: float, shift: int) -> None:
    fine, coarse = _grid(0, 0, 10, 90, 96), _grid(10.0 * shift, 0, 20, 45, 40)
    ground = cut_common_ground([fine, coarse], names=["a", "b"], cell_m=cell_m)
    count = np.zeros((90, 96), dtype=int)
    for cell in ground.cells:
        count[cell.windows[0].rows, cell.windows[0].cols] += 1
    used_rows, used_cols = np.flatnonzero(count.any(axis=1)), np.flatnonzero(count.any(axis=0))
    block = count[used_rows[0] : used_rows[-1] + 1, used_cols[0] : used_cols[-1] + 1]
    assert (block == 1).all()


@settings(deadline=None)
@given(
    sizes=st.tuples(st.floats(0.5, 30), st.floats(0.5, 30)),
    shift=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
)
def test_any_two_grids_depart_by_at_most_one_pixel(
    sizes: tuple[float, float], shift: tuple[float, float]
) -> None:
    grids = [
        _grid(0, 0, sizes[0], int(600 / sizes[0]), int(600 / sizes[0])),
        _grid(*shift, sizes[1], int(600 / sizes[1]), int(600 / sizes[1])),
    ]
    ground = cut_common_ground(grids, names=["a", "b"])
    assert len(ground.cells) == 1
    assert max(ground.misfit_px) <= 1.0 + 1e-6
    for grid, window in zip(grids, ground.cells[0].windows, strict=True):
        assert window.is_inside(grid.height, grid.width)


def test_a_shift_under_half_a_pixel_keeps_every_pixel() -> None:
    grids = [_grid(485900, 5209247, 5, 724, 934), _grid(485902, 5209248, 5, 724, 934)]
    ground = cut_common_ground(grids, names=["2009", "2017"])
    assert ground.cells[0].windows == (grids[0].whole, grids[1].whole)
    assert ground.misfit_px == pytest.approx((0.0, 0.4))


def test_images_without_crs_are_paired_by_shape() -> None:
    ground = cut_common_ground([_unplaced(120, 120), _unplaced(60, 60)], names=["s2", "s1"])
    assert ground.cells[0].windows == (_unplaced(120, 120).whole, _unplaced(60, 60).whole)


def test_images_without_crs_are_cut_alike() -> None:
    ground = cut_common_ground([_unplaced(120, 120), _unplaced(60, 60)], names=["s2", "s1"], cell_m=300.0)
    assert len(ground.cells) == 4
    assert ground.cells[3].name == "r001c001"
    assert ground.cells[3].windows[0] == Window(row=60, col=60, height=60, width=60)
    assert ground.cells[3].windows[1] == Window(row=30, col=30, height=30, width=30)


def test_shapes_out_of_ratio_are_refused() -> None:
    with pytest.raises(GeometryError, match="in ratio: 'a' has 120 × 120 pixels, 'b' 60 × 61"):
        cut_common_ground([_unplaced(120, 120), _unplaced(60, 61)], names=["a", "b"])


def test_images_that_do_not_overlap_are_named() -> None:
    grids = [_grid(0, 0, 10, 10, 10), _grid(50, 0, 10, 10, 10), _grid(100, 0, 10, 10, 10)]
    with pytest.raises(GeometryError, match=r"'a.tif' and 'c.tif' do not overlap: x 0 … 100 and 100 … 200"):
        cut_common_ground(grids, names=["a.tif", "b.tif", "c.tif"])


def test_mixed_crs_is_refused() -> None:
    grids = [_grid(0, 0, 10, 10, 10), _grid(0, 0, 10, 10, 10, crs="EPSG:32634")]
    with pytest.raises(GeometryError, match="'a' has EPSG:32633, 'b' has EPSG:32634; reproject"):
        cut_common_ground(grids, names=["a", "b"])


def test_one_image_without_crs_among_others_is_refused() -> None:
    with pytest.raises(GeometryError, match="'a' has EPSG:32633, 'b' has none"):
        cut_common_ground([_grid(0, 0, 10, 10, 10), _unplaced(10, 10)], names=["a", "b"])


def test_turned_grid_is_refused() -> None:
    turned = Grid(height=9, width=9, transform=(9.0, 4.0, 0.0, 4.0, -9.0, 0.0), crs="EPSG:32633", gsd_m=10.0)
    with pytest.raises(GeometryError, match="'b' is turned against north"):
        cut_common_ground([_grid(0, 40, 10, 10, 10), turned], names=["a", "b"])


def test_ground_smaller_than_a_cell_is_refused() -> None:
    with pytest.raises(GeometryError, match=r"is 10 pixels of 10 m long, less than one cell of 20 pixels"):
        cut_common_ground([_grid(0, 0, 10, 10, 10)], names=["a"], cell_m=200.0)


def test_common_bounds_are_the_intersection() -> None:
    bounds = common_bounds([_grid(0, 0, 10, 10, 10), _grid(30, -20, 10, 10, 10)], ["a", "b"])
    assert (bounds.left, bounds.bottom, bounds.right, bounds.top) == (30, -100, 100, -20)
