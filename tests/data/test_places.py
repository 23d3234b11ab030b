"""Places are as declared, or found by overlap; splits are drawn for places."""

import numpy as np
import pytest
import shapely

from anyband.data.places import PlacedImage, corners_on_globe, find_places, footprint, off_globe, split_of
from anyband.errors import GeometryError, ManifestError
from anyband.rasters.grid import IDENTITY, Grid


def _image(
    name: str,
    east_m: float = 0.0,
    *,
    place: str | None = None,
    crs: str | None = "EPSG:32631",
    split: str | None = None,
    size: int = 64,
) -> PlacedImage:
    transform = IDENTITY if crs is None else (10.0, 0.0, 500_000.0 + east_m, 0.0, -10.0, 5_000_000.0)
    grid = Grid(height=size, width=size, transform=transform, crs=crs, gsd_m=10.0)
    return PlacedImage(name=name, grid=grid, place=place, split=split)  # type: ignore[arg-type]


def _polygon(grid: Grid) -> shapely.Polygon:
    found = footprint(grid.transform, height=grid.height, width=grid.width, crs=str(grid.crs))
    return shapely.from_wkb(found[0])


def _members(images: list[PlacedImage]) -> list[tuple[int, ...]]:
    return [place.members for place in find_places(images)[0]]


def test_overlapping_images_form_a_place_directly_or_through_others() -> None:
    images = [_image("a"), _image("far", 9_000.0), _image("b", 400.0), _image("c", 800.0)]
    assert _members(images) == [(0, 2, 3), (1,)]


def test_neighbours_that_share_an_edge_are_places_of_their_own() -> None:
    assert _members([_image("a"), _image("b", 640.0), _image("sliver", 1_275.0)]) == [(0,), (1,), (2,)]


def test_declared_places_are_as_declared() -> None:
    images = [_image("a", place="p"), _image("b", place="q"), _image("c", 100.0, place="p"), _image("d")]
    places, _ = find_places(images)
    assert {place.name: place.members for place in places if place.name in "pq"} == {"p": (0, 2), "q": (1,)}
    assert [place.members for place in places] == [(0, 2), (1,), (3,)]


def test_place_found_by_overlap_is_named_for_its_centre() -> None:
    (place,), _ = find_places([_image("a"), _image("b", 100.0)])
    assert place.name == "N45.1506_E003.0047"


def test_image_without_crs_is_a_place_of_its_own() -> None:
    places, _ = find_places([_image("a.png", crs=None), _image("b.png", crs=None)])
    assert [place.name for place in places] == ["a.png", "b.png"]


def test_equal_names_get_numbers() -> None:
    places, _ = find_places([_image("a.png", crs=None), _image("a.png", crs=None)])
    assert [place.name for place in places] == ["a.png", "a.png_2"]


def test_images_of_two_crs_that_overlap_are_said_and_not_joined() -> None:
    large = _image("a", size=3000)
    zone = _image("b", -472_000.0, crs="EPSG:32632", size=600)
    places, notes = find_places([large, zone])
    assert len(places) == 2
    assert _polygon(large.grid).intersects(_polygon(zone.grid))
    other = "another CRS, or of a grid that is turned or flipped"
    how = "give those of one ground one `place`, or reproject them"
    assert notes == [f"2 images overlap images of {other}; they are not joined to a place: {how}"]


def test_images_of_two_crs_that_show_other_ground_are_no_place() -> None:
    with pytest.raises(GeometryError, match=r"place 'p': 'a' does not overlap any other image of it"):
        find_places([_image("a", place="p"), _image("b", place="p", crs="EPSG:32632")])


def test_image_that_overlaps_no_other_of_its_place_is_an_error() -> None:
    images = [_image("a", place="p"), _image("b", 100.0, place="p"), _image("lost", 9_000.0, place="p")]
    with pytest.raises(GeometryError, match=r"place 'p': 'lost' does not overlap any other image of it"):
        find_places(images)


def test_many_bad_places_are_counted() -> None:
    images = [_image(f"{n}{side}", 9_000.0 * side, place=f"p{n}") for n in range(5) for side in (0, 1)]
    with pytest.raises(GeometryError, match=r"place 'p2'.*; and 2 more places"):
        find_places(images)


def test_two_splits_of_one_place_are_an_error() -> None:
    with pytest.raises(ManifestError, match=r"place 'p' is declared for split 'train' and for 'val'"):
        find_places([_image("a", place="p", split="val"), _image("b", place="p", split="train")])


def test_split_of_one_image_is_that_of_its_place() -> None:
    (place,), _ = find_places([_image("a", place="p", split="val"), _image("b", place="p")])
    assert place.split == "val"


def test_splits_have_the_shares_asked_for() -> None:
    drawn = [split_of(f"place {n}", seed=3, fractions=(0.7, 0.2, 0.1)) for n in range(5_000)]
    shares = [drawn.count(split) / len(drawn) for split in ("train", "val", "test")]  # type: ignore[arg-type]
    np.testing.assert_allclose(shares, [0.7, 0.2, 0.1], atol=0.03)


def test_split_depends_on_place_and_seed_alone() -> None:
    def draw(seed: int) -> list[str]:
        return [split_of(f"place {n}", seed=seed, fractions=(0.5, 0.5, 0.0)) for n in range(50)]

    assert draw(0) == draw(0) != draw(1)


def test_a_share_of_one_takes_all() -> None:
    assert {split_of(f"place {n}", seed=0, fractions=(0.0, 0.0, 1.0)) for n in range(100)} == {"test"}


def test_footprint_is_in_longitude_and_latitude() -> None:
    found = footprint((10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0), height=64, width=64, crs="EPSG:32631")
    west, south, east, north = found[1]
    # Zone 31 has its central meridian at 3° E, where x is 500 km.
    np.testing.assert_allclose([west, north], [3.0, 45.1535], atol=1e-3)
    assert 0.007 < east - west < 0.009
    assert 0.005 < north - south < 0.006
    assert shapely.from_wkb(found[0]).is_valid


def _global(step_deg: float, *, west: float = -180.0, north: float = 90.0) -> Grid:
    width, height = round(360 / step_deg), round(180 / step_deg)
    transform = (step_deg, 0.0, west, 0.0, -step_deg, north)
    return Grid(height=height, width=width, transform=transform, crs="EPSG:4326", gsd_m=1.0)


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_global_grids_by_edges_or_centres_are_on_the_globe(shift: float) -> None:
    assert off_globe(_global(0.25, west=-180 + 0.25 * shift, north=90 - 0.25 * shift)) is None


def test_a_global_grid_from_0_to_360_is_off_the_globe() -> None:
    assert "from longitude 0° to 360°" in str(off_globe(_global(0.25, west=0.0)))


def test_a_chip_that_reaches_over_longitude_180_ends_on_the_other_side() -> None:
    transform = (0.5, 0.0, 178.0, 0.0, -0.5, 10.0)
    wkb, bounds = footprint(transform, height=4, width=8, crs="EPSG:4326")
    parts = sorted(part.bounds for part in shapely.get_parts(shapely.from_wkb(wkb)))
    assert parts == [(-180.0, 8.0, -178.0, 10.0), (178.0, 8.0, 180.0, 10.0)]
    assert bounds == (178.0, 8.0, -178.0, 10.0)
    corners = corners_on_globe(transform, 4, 8, "EPSG:4326")
    np.testing.assert_array_equal(corners, [(178, 10), (-178, 10), (-178, 8), (178, 8)])


def test_a_place_over_longitude_180_is_named_for_its_own_centre() -> None:
    transform = (100.0, 0.0, 830_000.0, 0.0, -100.0, 3_200.0)
    grid = Grid(height=64, width=64, transform=transform, crs="EPSG:32660", gsd_m=100.0)
    (place,), _ = find_places([PlacedImage(name="a", grid=grid, place=None, split=None)])
    # From 179.9643° east to 179.9783° west.
    assert place.name == "N00.0000_E179.9930"
