"""How scenes are cut for a network."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import GeometryError
from anyband.models.vit import EncoderConfig
from anyband.rasters.grid import Grid, Window
from anyband.scenes.outputs import plan_tiling, scene_patch_grid, views_of

_sizes = st.integers(1, 40)


def _grid(height: int, width: int) -> Grid:
    return Grid(height=height, width=width, transform=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), crs="EPSG:32632", gsd_m=1.0)


@settings(max_examples=60)
@given(_sizes, _sizes, st.integers(1, 9), st.integers(0, 9))
def test_cores_cover_every_patch_once_and_views_hold_them(height: int, width: int, core: int, halo: int) -> None:
    grid = _grid(height, width)
    counts = np.zeros((height, width), int)
    for seen, kept in views_of(grid.whole, grid, core=core, halo=halo):
        counts[kept.slices] += 1
        _grid(height, width).part(seen)
        _grid(seen.height, seen.width).part(replace(kept, row=kept.row - seen.row, col=kept.col - seen.col))
        assert (seen.height, seen.width) == (min(core + 2 * halo, height), min(core + 2 * halo, width))
    assert (counts == 1).all()


@settings(max_examples=60)
@given(_sizes, _sizes, st.integers(1, 9), st.integers(0, 9))
def test_a_core_sees_its_whole_halo_wherever_the_scene_goes_so_far(
    height: int, width: int, core: int, halo: int
) -> None:
    grid = _grid(height, width)
    for seen, kept in views_of(grid.whole, grid, core=core, halo=halo):
        assert seen.row <= max(0, kept.row - halo)
        assert seen.row + seen.height >= min(height, kept.row + kept.height + halo)


def test_views_of_a_block_keep_only_its_patches() -> None:
    grid = _grid(20, 20)
    block = Window(row=8, col=4, height=5, width=7)
    counts = np.zeros((20, 20), int)
    for _, kept in views_of(block, grid, core=3, halo=2):
        counts[kept.slices] += 1
    assert counts.sum() == 35
    assert (counts[block.slices] == 1).all()


def test_a_view_is_by_default_as_large_as_the_networks_images() -> None:
    for img_size in (64, 96, 224):
        config = EncoderConfig(img_size=img_size, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_ranges=1)
        core, halo = plan_tiling(config, tile=None, halo=None)
        assert (core + 2 * halo) * 16 == img_size
        assert halo >= 1


def test_the_patches_of_a_scene_cover_all_of_it() -> None:
    patches = scene_patch_grid(_grid(50, 40), 16)
    assert (patches.height, patches.width, patches.gsd_m) == (4, 3, 16.0)
    assert patches.transform == (16, 0, 0, 0, -16, 0)


def test_a_scene_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(GeometryError, match="15 × 40 pixels is smaller than one patch of 16 × 16"):
        scene_patch_grid(_grid(15, 40), 16)
