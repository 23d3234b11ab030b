"""Cells are one footprint in every image of a place, whatever its pixel size and origin."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import GeometryError
from anyband.rasters.footprints import Cell, CellRules, Layout, lay_out, plan_cells
from anyband.rasters.grid import Grid

_EAST_M, _NORTH_M = 500_000.0, 5_000_000.0


def _grid(
    height: int,
    width: int,
    gsd_m: float,
    *,
    east_m: float = 0.0,
    south_m: float = 0.0,
    crs: str | None = "EPSG:32631",
) -> Grid:
    transform = (gsd_m, 0.0, _EAST_M + east_m, 0.0, -gsd_m, _NORTH_M - south_m)
    return Grid(height=height, width=width, transform=transform, crs=crs, gsd_m=gsd_m)


def _layout(*grids: Grid) -> Layout:
    return lay_out(grids, [f"image{number}" for number in range(len(grids))])


def _shapes(cell: Cell) -> dict[int, tuple[int, int]]:
    return {image: (view.height, view.width) for image, view in cell.views}


def test_images_of_one_footprint_stay_whole_at_their_own_resolution() -> None:
    (cell,) = plan_cells(_layout(_grid(60, 60, 20.0), _grid(120, 120, 10.0), _grid(20, 20, 60.0)), CellRules())
    assert _shapes(cell) == {0: (60, 60), 1: (120, 120), 2: (20, 20)}
    assert all(view.is_copy for _, view in cell.views)


def test_half_overlapping_images_are_cut_to_what_they_share() -> None:
    (cell,) = plan_cells(_layout(_grid(100, 100, 10.0), _grid(100, 100, 10.0, east_m=400.0)), CellRules())
    assert _shapes(cell) == {0: (100, 60), 1: (100, 60)}
    assert cell.views[0][1].placement.cols.offset == 40
    assert cell.views[1][1].placement.cols.offset == 0


def test_shared_ground_ends_on_whole_pixels_of_the_coarsest() -> None:
    layout = _layout(_grid(100, 100, 10.0), _grid(30, 30, 60.0, east_m=-30.0, south_m=-30.0))
    (cell,) = plan_cells(layout, CellRules())
    assert _shapes(cell) == {0: (96, 96), 1: (16, 16)}
    assert cell.views[1][1].is_copy


def test_images_that_share_little_are_cut_on_a_lattice() -> None:
    layout = _layout(*(_grid(512, 512, 10.0, east_m=4000.0 * number) for number in range(3)))
    cells = plan_cells(layout, CellRules())
    assert {len(cell.views) for cell in cells} == {1, 2}
    assert all(shape == (256, 256) for cell in cells for shape in _shapes(cell).values())


def test_chip_size_in_pixels_is_of_the_finest_image() -> None:
    cells = plan_cells(_layout(_grid(200, 300, 10.0), _grid(100, 150, 20.0)), CellRules(chip_px=96))
    assert [cell.name for cell in cells] == [f"r00{row}c00{col}" for row in range(2) for col in range(3)]
    assert all(_shapes(cell) == {0: (96, 96), 1: (48, 48)} for cell in cells)


def test_place_smaller_than_a_chip_stays_whole() -> None:
    (cell,) = plan_cells(_layout(_grid(64, 64, 10.0), _grid(32, 32, 20.0)), CellRules(chip_px=96))
    assert _shapes(cell) == {0: (64, 64), 1: (32, 32)}


def test_chip_size_in_metres_is_the_same_ground_in_every_place() -> None:
    for gsd_m, side in ((10.0, 96), (20.0, 48)):
        (cell, *_) = plan_cells(_layout(_grid(200, 200, gsd_m)), CellRules(chip_m=960.0))
        assert _shapes(cell) == {0: (side, side)}


def test_images_give_chips_only_to_cells_that_they_cover() -> None:
    layout = _layout(_grid(256, 512, 10.0), _grid(256, 128, 10.0))
    cells = plan_cells(layout, CellRules(chip_px=128, min_cover=1.0))
    assert {cell.name: sorted(_shapes(cell)) for cell in cells if cell.name.startswith("r000")} == {
        "r000c000": [0, 1],
        "r000c001": [0],
        "r000c002": [0],
        "r000c003": [0],
    }


def test_images_without_crs_share_a_place_by_their_shapes() -> None:
    (cell,) = plan_cells(_layout(_grid(120, 120, 10.0, crs=None), _grid(20, 20, 60.0, crs=None)), CellRules())
    assert _shapes(cell) == {0: (120, 120), 1: (20, 20)}


def test_shapes_that_are_not_in_ratio_need_a_crs() -> None:
    with pytest.raises(GeometryError, match=r"'image1' \(20 × 25 pixels\).*are not in ratio, and there is no CRS"):
        _layout(_grid(120, 120, 10.0, crs=None), _grid(20, 25, 60.0, crs=None))


def test_images_of_two_crs_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"'image0' has EPSG:32631, 'image1' has EPSG:32632; .*reproject"):
        _layout(_grid(32, 32, 10.0), _grid(32, 32, 10.0, crs="EPSG:32632"))


def test_image_with_crs_and_image_without_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"'image0' has EPSG:32631, 'image1' has no CRS"):
        _layout(_grid(32, 32, 10.0), _grid(32, 32, 10.0, crs=None))


def test_turned_grid_is_refused() -> None:
    turned = Grid(height=32, width=32, transform=(8.0, 6.0, _EAST_M, 6.0, -8.0, _NORTH_M), crs="EPSG:32631", gsd_m=10.0)
    with pytest.raises(GeometryError, match=r"are turned against each other"):
        _layout(_grid(32, 32, 10.0), turned)


def test_upside_down_grid_is_refused() -> None:
    transform = (10.0, 0.0, _EAST_M, 0.0, 10.0, _NORTH_M - 320.0)
    flipped = Grid(height=32, width=32, transform=transform, crs="EPSG:32631", gsd_m=10.0)
    with pytest.raises(GeometryError, match=r"run against those of other images .* flip it"):
        _layout(_grid(32, 32, 10.0), flipped)


@settings(max_examples=60)
@given(
    coarse_m=st.sampled_from([10.0, 15.0, 20.0, 30.0, 33.3, 60.0]),
    east_m=st.floats(-200.0, 200.0),
    south_m=st.floats(-200.0, 200.0),
    rules=st.sampled_from([CellRules(), CellRules(chip_px=32), CellRules(chip_m=480.0)]),
)
def test_every_view_of_a_cell_covers_its_ground_to_a_quarter_pixel(coarse_m, east_m, south_m, rules) -> None:
    side = int(1280 / coarse_m)
    grids = [_grid(128, 128, 10.0), _grid(side, side, coarse_m, east_m=east_m, south_m=south_m)]
    layout = _layout(*grids)
    for cell in plan_cells(layout, rules):
        x, y = layout.anchor.to_coordinates(cell.box.row, cell.box.col)
        right, lower = layout.anchor.to_coordinates(cell.box.row + cell.box.height, cell.box.col + cell.box.width)
        for image, view in cell.views:
            rows, cols = view.placement.rows, view.placement.cols
            tolerance_m = 0.2501 * grids[image].gsd_m if view.is_copy else 1e-3
            for edge, ground in ((0, (x, y)), (1, (right, lower))):
                at = grids[image].to_coordinates(
                    rows.offset + edge * rows.scale * view.height,
                    cols.offset + edge * cols.scale * view.width,
                )
                assert abs(at[0] - ground[0]) <= tolerance_m
                assert abs(at[1] - ground[1]) <= tolerance_m


@settings(max_examples=30)
@given(height=st.integers(40, 200), width=st.integers(40, 200), side=st.integers(16, 40))
def test_cells_of_one_image_do_not_overlap_and_lose_only_the_rim(height, width, side) -> None:
    cells = plan_cells(_layout(_grid(height, width, 10.0)), CellRules(chip_px=side, min_cover=1.0))
    corners = {(cell.box.row, cell.box.col) for cell in cells}
    assert corners == {(r * side, c * side) for r in range(height // side) for c in range(width // side)}
