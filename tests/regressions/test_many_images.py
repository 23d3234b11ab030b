"""Ten thousand overlapping images without `place` once took 7 GB and no end: every pair of them was kept."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anyband.data.cutting import ImageSurvey, PrepareOptions, plan_pieces
from anyband.data.manifest import parse_entry
from anyband.data.places import PlacedImage, find_places
from anyband.rasters import footprints
from anyband.rasters.footprints import lay_out, plan_footprints
from anyband.rasters.grid import Grid

_NEAR = (1e-4, 0.0, 3.0, 0.0, -1e-4, 45.15)
_COVER = footprints._cover


def _images(num: int, *, step_m: float) -> list[PlacedImage]:
    draw = np.random.default_rng(0)
    found = []
    for number in range(num):
        east, north = draw.uniform(0, step_m, 2)
        transform = (10.0, 0.0, 500_000.0 + float(east), 0.0, -10.0, 5_000_000.0 + float(north))
        grid = Grid(height=64, width=64, transform=transform, crs="EPSG:32631", gsd_m=10.0)
        found.append(PlacedImage(name=f"{number}.tif", grid=grid, place=None, split=None))
    return found


@pytest.mark.parametrize("step_m", [0.0, 100.0])
def test_the_memory_of_finding_places_does_not_grow_with_the_pairs(step_m: float) -> None:
    images = _images(600, step_m=step_m)
    tracemalloc.start()
    try:
        (place,) = find_places(images)[0]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert place.members == tuple(range(600))
    # What is kept of pairs took 18 MB.
    assert most < 4e6


def test_images_of_two_crs_that_overlap_are_counted_one_by_one() -> None:
    far = [replace(image, grid=replace(image.grid, crs="EPSG:32633")) for image in _images(5, step_m=50.0)]
    near = [replace(image, grid=replace(image.grid, crs="EPSG:4326", transform=_NEAR)) for image in far]
    images = _images(40, step_m=50.0)
    assert find_places([*images, *far])[1] == []
    (note,) = find_places([*images, *far, *near])[1]
    assert note.startswith("45 images overlap images of another CRS")


def test_each_image_is_asked_of_the_footprints_that_it_touches(monkeypatch) -> None:
    covers = []
    monkeypatch.setattr(footprints, "_cover", lambda image, box: covers.append(box) or _COVER(image, box))
    images = _images(300, step_m=20_000.0)
    grids = [image.grid for image in images]
    found = plan_footprints(lay_out(grids, [image.name for image in images]), chip_px=32)
    assert len(found) > 500
    # Each image touches nine at most; there are 300 images.
    assert len(covers) <= 9 * 300


def test_a_place_of_many_images_is_checked_and_planned(tmp_path: Path) -> None:
    images = _images(1_000, step_m=100.0)
    entry = parse_entry({"path": "a.tif", "sensor": "maxar-rgb"}, folder=tmp_path)
    (place,) = find_places(images)[0]
    placed = [
        (number, entry, ImageSurvey(grid=image.grid, dtype="uint8", nodata=None, datetime=None))
        for number, image in enumerate(place.images)
    ]
    pieces = list(plan_pieces(place, placed, PrepareOptions(), spool=tmp_path))
    assert [len(found) for _, found in pieces] == [1] * 1_000
