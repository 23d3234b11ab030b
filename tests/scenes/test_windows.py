"""How scenes are cut for a network."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.rasters.grid import Grid, Window
from anyband.scenes.outputs import Tiling, plan_tiling, views_of

_sizes = st.integers(1, 40)


def _grid(height: int, width: int) -> Grid:
    return Grid(height=height, width=width, transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), crs="EPSG:32632", gsd_m=1.0)


@settings(max_examples=60)
@given(_sizes, _sizes, st.integers(1, 9), st.integers(0, 9))
def test_cores_cover_every_patch_once_and_views_hold_them(height: int, width: int, core: int, halo: int) -> None:
    grid = _grid(height, width)
    tiling = Tiling(core=core, halo=halo, patch_size=16)
    counts = np.zeros((height, width), int)
    for view in views_of(grid.whole, grid, tiling):
        counts[view.core.rows, view.core.cols] += 1
        assert view.seen.is_inside(height, width)
        assert view.core.within(view.seen).is_inside(view.seen.height, view.seen.width)
        assert (view.seen.height, view.seen.width) == (min(tiling.view, height), min(tiling.view, width))
    assert (counts == 1).all()


@settings(max_examples=60)
@given(_sizes, _sizes, st.integers(1, 9), st.integers(0, 9))
def test_a_core_sees_its_whole_halo_wherever_the_scene_goes_so_far(
    height: int, width: int, core: int, halo: int
) -> None:
    grid = _grid(height, width)
    for view in views_of(grid.whole, grid, Tiling(core=core, halo=halo, patch_size=16)):
        assert view.seen.row <= max(0, view.core.row - halo)
        assert view.seen.row + view.seen.height >= min(height, view.core.row + view.core.height + halo)


def test_views_of_a_block_keep_only_its_patches() -> None:
    grid = _grid(20, 20)
    block = Window(row=8, col=4, height=5, width=7)
    counts = np.zeros((20, 20), int)
    for view in views_of(block, grid, Tiling(core=3, halo=2, patch_size=16)):
        counts[view.core.rows, view.core.cols] += 1
    assert counts.sum() == 35
    assert (counts[block.rows, block.cols] == 1).all()


def test_a_view_is_by_default_as_large_as_the_networks_images() -> None:
    for img_size in (64, 96, 224):
        tiling = plan_tiling(patch_size=16, img_size=img_size, tile=None, halo=None)
        assert tiling.view * 16 == img_size
        assert tiling.halo >= 1
