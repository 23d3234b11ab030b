"""Footprints are one ground in every image of a place, whatever its pixel size and origin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import GeometryError
from anyband.rasters.footprints import Footprint, Layout, chip_grid, lay_out, plan_footprints
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


def _shapes(footprint: Footprint) -> dict[int, tuple[int, int]]:
    return {image: (view.height, view.width) for image, view in footprint[2]}


def test_images_of_one_footprint_stay_whole_at_their_own_resolution() -> None:
    (footprint,) = plan_footprints(_layout(_grid(60, 60, 20.0), _grid(120, 120, 10.0), _grid(20, 20, 60.0)))
    assert _shapes(footprint) == {0: (60, 60), 1: (120, 120), 2: (20, 20)}
    assert all(view.is_copy for _, view in footprint[2])


def test_half_overlapping_images_are_cut_to_what_they_share() -> None:
    (footprint,) = plan_footprints(_layout(_grid(100, 100, 10.0), _grid(100, 100, 10.0, east_m=400.0)))
    assert _shapes(footprint) == {0: (100, 60), 1: (100, 60)}
    assert footprint[2][0][1].placement.cols.offset == 40
    assert footprint[2][1][1].placement.cols.offset == 0


def test_shared_ground_ends_on_whole_pixels_of_the_coarsest() -> None:
    layout = _layout(_grid(100, 100, 10.0), _grid(30, 30, 60.0, east_m=-30.0, south_m=-30.0))
    (footprint,) = plan_footprints(layout)
    assert _shapes(footprint) == {0: (96, 96), 1: (16, 16)}
    assert footprint[2][1][1].is_copy


def test_images_that_share_little_are_cut_on_a_lattice() -> None:
    layout = _layout(*(_grid(512, 512, 10.0, east_m=4000.0 * number) for number in range(3)))
    footprints = plan_footprints(layout)
    assert {len(footprint[2]) for footprint in footprints} == {1, 2}
    assert all(shape == (256, 256) for footprint in footprints for shape in _shapes(footprint).values())


def test_chip_size_in_pixels_is_of_the_finest_image() -> None:
    footprints = plan_footprints(_layout(_grid(200, 300, 10.0), _grid(100, 150, 20.0)), chip_px=96)
    assert [footprint[0] for footprint in footprints] == [f"r00{row}c00{col}" for row in range(2) for col in range(3)]
    assert all(_shapes(footprint) == {0: (96, 96), 1: (48, 48)} for footprint in footprints)


def test_place_smaller_than_a_chip_stays_whole() -> None:
    (footprint,) = plan_footprints(_layout(_grid(64, 64, 10.0), _grid(32, 32, 20.0)), chip_px=96)
    assert _shapes(footprint) == {0: (64, 64), 1: (32, 32)}


def test_chip_size_in_metres_is_the_same_ground_in_every_place() -> None:
    for gsd_m, side in ((10.0, 96), (20.0, 48)):
        (footprint, *_) = plan_footprints(_layout(_grid(200, 200, gsd_m)), chip_m=960.0)
        assert _shapes(footprint) == {0: (side, side)}


def test_images_give_chips_only_to_footprints_that_they_cover() -> None:
    layout = _layout(_grid(256, 512, 10.0), _grid(256, 128, 10.0))
    footprints = plan_footprints(layout, chip_px=128, min_cover=1.0)
    assert {
        footprint[0]: sorted(_shapes(footprint)) for footprint in footprints if footprint[0].startswith("r000")
    } == {
        "r000c000": [0, 1],
        "r000c001": [0],
        "r000c002": [0],
        "r000c003": [0],
    }


def test_images_without_crs_share_a_place_by_their_shapes() -> None:
    (footprint,) = plan_footprints(_layout(_grid(120, 120, 10.0, crs=None), _grid(20, 20, 60.0, crs=None)))
    assert _shapes(footprint) == {0: (120, 120), 1: (20, 20)}


def test_shapes_that_are_not_in_ratio_need_a_crs_or_a_tolerance() -> None:
    grids = _grid(120, 120, 10.0, crs=None), _grid(20, 21, 60.0, crs=None)
    with pytest.raises(GeometryError, match=r"'image1' has no CRS and 20 × 21 pixels.*ratios differ by 4\.8%, and 0 %"):
        _layout(*grids)
    (footprint,) = plan_footprints(lay_out(grids, ("a", "b"), ratio_tolerance=5.0))
    assert _shapes(footprint) == {0: (120, 120), 1: (20, 21)}


def test_an_image_without_crs_covers_the_ground_of_the_others_wholly() -> None:
    degrees = (1e-4, 0.0, 6.0, 0.0, -1e-4, 45.0)
    coarse = Grid(height=22, width=26, transform=degrees, crs="EPSG:4326", gsd_m=9.4)
    fine = _grid(431, 512, 0.3, crs=None)
    layout = lay_out((fine, coarse), ("a.jpg", "b.tif"), ratio_tolerance=1.0)
    (footprint,) = plan_footprints(layout)
    assert _shapes(footprint) == {0: (431, 512), 1: (22, 26)}
    grid = chip_grid(layout[0], footprint[1], 431, 512)
    np.testing.assert_allclose(grid.bounds, coarse.bounds, atol=1e-12)
    with pytest.raises(
        GeometryError, match=r"'a\.jpg' has no CRS and 431 × 512 pixels, and its place has 22 × 26: .*0\.5%"
    ):
        lay_out((fine, coarse), ("a.jpg", "b.tif"), ratio_tolerance=0.4)


def test_images_without_crs_need_ground_that_all_others_share() -> None:
    apart = _grid(32, 32, 10.0), _grid(32, 32, 10.0, east_m=320.0), _grid(64, 64, 5.0, crs=None)
    with pytest.raises(GeometryError, match=r"'image2' has no CRS, and the other images share no ground"):
        _layout(*apart)


def test_chips_of_a_size_are_of_that_size_whatever_the_ground() -> None:
    layout = _layout(_grid(2000, 2000, 1.0), _grid(200, 200, 10.0), _grid(64, 64, 31.25))
    (footprint,) = plan_footprints(layout, sides=(448, 64, 64))
    assert _shapes(footprint) == {0: (448, 448), 1: (64, 64), 2: (64, 64)}
    assert [view.is_copy for _, view in footprint[2]] == [False, False, True]


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
    size=st.sampled_from([{}, {"chip_px": 32}, {"chip_m": 480.0}]),
)
def test_every_view_of_a_footprint_covers_its_ground_to_a_quarter_pixel(coarse_m, east_m, south_m, size) -> None:
    side = int(1280 / coarse_m)
    grids = [_grid(128, 128, 10.0), _grid(side, side, coarse_m, east_m=east_m, south_m=south_m)]
    layout = _layout(*grids)
    for footprint in plan_footprints(layout, **size):
        x, y = layout[0].to_coordinates(footprint[1].row, footprint[1].col)
        right, lower = layout[0].to_coordinates(
            footprint[1].row + footprint[1].height, footprint[1].col + footprint[1].width
        )
        for image, view in footprint[2]:
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
def test_footprints_of_one_image_do_not_overlap_and_lose_only_the_rim(height, width, side) -> None:
    footprints = plan_footprints(_layout(_grid(height, width, 10.0)), chip_px=side, min_cover=1.0)
    corners = {(footprint[1].row, footprint[1].col) for footprint in footprints}
    assert corners == {(r * side, c * side) for r in range(height // side) for c in range(width // side)}
