"""Names of coordinate systems and pixel sizes on the ground."""

import math

import pytest
from rasterio.crs import CRS

from anyband.errors import GeometryError
from anyband.rasters.grid import IDENTITY, Grid, check_same_ground, crs_name, pixel_size_m, same_crs

_WGS84_AXIS_M, _WGS84_FLATTENING = 6378137.0, 1 / 298.257223563


@pytest.mark.parametrize("latitude", [0.0, 30.0, -45.0, 70.0])
def test_a_degree_is_measured_on_the_ellipsoid(latitude: float) -> None:
    step = 1e-4
    squared = _WGS84_FLATTENING * (2 - _WGS84_FLATTENING)
    bend = 1 - squared * math.sin(math.radians(latitude)) ** 2
    along_m = _WGS84_AXIS_M * (1 - squared) / bend**1.5 * math.radians(step)
    across_m = _WGS84_AXIS_M / math.sqrt(bend) * math.cos(math.radians(latitude)) * math.radians(step)
    transform = (step, 0.0, 10.0 - 50 * step, 0.0, -step, latitude + 50 * step)
    found_m = pixel_size_m(transform, crs="EPSG:4326", height=100, width=100)
    assert found_m == pytest.approx(math.sqrt(along_m * across_m), rel=1e-6)


def test_utm_keeps_its_nominal_pixel() -> None:
    transform = (10.0, 0.0, 701879.91, 0.0, -10.0, 3710139.54)
    assert pixel_size_m(transform, crs="EPSG:32650", height=256, width=256) == 10.0


def test_web_mercator_is_brought_to_the_ground() -> None:
    y_of_60_north = 8399737.889
    transform = (20.0, 0.0, 0.0, 0.0, -20.0, y_of_60_north)
    assert pixel_size_m(transform, crs="EPSG:3857", height=2, width=2) == pytest.approx(10.0, rel=5e-3)


def test_feet_become_metres() -> None:
    transform = (3.0, 0.0, 3_000_000.0, 0.0, -3.0, 600_000.0)
    assert pixel_size_m(transform, crs="EPSG:2229", height=2, width=2) == pytest.approx(0.9144, rel=1e-3)


def test_a_number_names_a_crs_given_as_text() -> None:
    assert crs_name(CRS.from_epsg(32650).to_wkt()) == "EPSG:32650"


def test_a_crs_without_number_is_named_by_its_text() -> None:
    own = CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=m").to_wkt()
    assert crs_name(own) == own
    assert same_crs(own, crs_name(own))


def test_no_place_on_earth_has_no_name() -> None:
    assert crs_name("") is None
    assert crs_name('LOCAL_CS["pixels",UNIT["pixel",1]]') is None
    assert not same_crs(None, "EPSG:4326")


def _grid(size: tuple[int, int], *, crs: str | None, left: float = 5e5) -> Grid:
    transform = IDENTITY if crs is None else (10.0, 0.0, left, 0.0, -10.0, 5e6)
    return Grid(height=size[0], width=size[1], transform=transform, crs=crs, gsd_m=10.0)


def test_images_without_georeference_show_the_same_ground_where_their_shapes_are_in_ratio() -> None:
    plain, names = _grid((20, 30), crs=None), ("a.png", "b.png")
    check_same_ground(plain, _grid((40, 60), crs=None), names=names)
    with pytest.raises(GeometryError, match="must have shapes in ratio"):
        check_same_ground(plain, _grid((40, 61), crs=None), names=names)


def test_images_of_one_sample_show_the_same_ground_in_one_crs() -> None:
    first, names = _grid((20, 30), crs="EPSG:32632"), ("a.tif", "b.tif")
    check_same_ground(first, _grid((20, 30), crs="EPSG:32632", left=5e5 + 9), names=names)
    with pytest.raises(GeometryError, match="images of one sample must share a CRS"):
        check_same_ground(first, _grid((20, 30), crs="EPSG:32633"), names=names)
    with pytest.raises(GeometryError, match="show different ground"):
        check_same_ground(first, _grid((20, 30), crs="EPSG:32632", left=5e5 + 21), names=names)
