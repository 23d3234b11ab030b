"""What does not place an image is no georeference, and is said; one coordinate system has many texts."""

import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine

from anyband.data.manifest import parse_entry
from anyband.data.prepare import PrepareOptions, PrepareReport, prepare
from anyband.data.store import ChipStore
from anyband.errors import RasterError
from anyband.labelled.label_rasters import read_polygons
from anyband.labelled.tables import LabelFile
from anyband.rasters.reader import RasterSource, open_raster
from anyband.sensors.catalogue import get_sensor

_SIDE = 32
_PLACED = Affine(10, 0, 500000, 0, -10, 5500000)


def _write(path: Path, *, num_bands: int = 3, crs: Any = "EPSG:32632", transform: Any = None, **more: Any) -> Path:
    pixels = np.random.default_rng(len(path.name)).integers(1, 200, (num_bands, _SIDE, _SIDE)).astype(np.uint8)
    profile = {"count": num_bands, "height": _SIDE, "width": _SIDE, "dtype": "uint8", "crs": crs, **more}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", transform=transform, **profile) as file:
            file.write(pixels)
    return path


def _prepare(folder: Path, rows: list[dict[str, Any]]) -> PrepareReport:
    entries = [parse_entry({"sensor": "maxar-rgb", **row}, folder=folder) for row in rows]
    return prepare(entries, folder / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0)))


def _corners() -> list[GroundControlPoint]:
    places = [(0, 0, 9.0, 49.65), (0, _SIDE, 9.005, 49.65), (_SIDE, 0, 9.0, 49.647), (_SIDE, _SIDE, 9.005, 49.647)]
    return [GroundControlPoint(row, col, x, y) for row, col, x, y in places]


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32632", None),
        ("EPSG:4326", None),
        ("EPSG:3857", Affine.identity()),
        ("EPSG:32632", Affine(1, 0, 0, 0, -1, 0)),
        ("EPSG:32632", Affine(1, 0, 0, 0, -1, _SIDE)),
        ("EPSG:32632", Affine(1, 0, -0.5, 0, 1, -0.5)),
    ],
)
def test_images_of_a_crs_without_a_geotransform_share_no_ground(tmp_path: Path, crs: str, transform: Any) -> None:
    for name in ("a.tif", "bb.tif"):
        _write(tmp_path / name, crs=crs, transform=transform)
    report = _prepare(tmp_path, [{"path": "a.tif"}, {"path": "bb.tif"}])
    assert (report.places, report.pairs) == (2, {})
    said = [note for note in report.notes if "no geotransform" in note]
    assert said == [
        f"it has a coordinate system ({crs}) and no geotransform, so it counts as an image without coordinates; give "
        "it its corner and pixel size, for example by `gdal_edit.py -a_ullr` ('a.tif' and 1 more)"
    ]
    index = ChipStore.open(tmp_path / "store").index
    for column in ("crs", "transform", "geometry"):
        assert index.column(column).to_pylist() == [None, None]


def test_a_geotransform_without_a_crs_is_said(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", crs=None, transform=_PLACED)
    with open_raster(RasterSource(paths=(path,)), get_sensor("maxar-rgb")) as reader:
        assert reader.grid.crs is None
        assert any("a geotransform and no coordinate system" in note for note in reader.notes)


def test_an_image_without_any_georeference_needs_no_words(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tif", crs=None)
    with open_raster(RasterSource(paths=(path,)), get_sensor("maxar-rgb")) as reader:
        assert (reader.grid.crs, reader.geolocation) == (None, None)
        assert not any("coordinate" in note for note in reader.notes)


def _rpc() -> RPC:
    zeros, ones = [0.0] * 20, [1.0] + [0.0] * 19
    names = ("height", "lat", "line", "long", "samp")
    scales = {f"{name}_{kind}": value for name in names for kind, value in (("off", 1.0), ("scale", 1.0))}
    coefficients = {"line_num_coeff": zeros, "line_den_coeff": ones, "samp_num_coeff": zeros, "samp_den_coeff": ones}
    return RPC(**scales, **coefficients, err_bias=0.0, err_rand=0.0)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("what", ["ground control points", "rational polynomial coefficients", "geolocation arrays"])
def test_what_else_places_an_image_is_named_and_not_ignored(tmp_path: Path, what: str) -> None:
    path = _write(tmp_path / "a.tif", crs=None)
    with rasterio.open(path, "r+") as file:
        if what == "ground control points":
            file.gcps = (_corners(), CRS.from_epsg(4326))
        elif what == "geolocation arrays":
            file.update_tags(ns="GEOLOCATION", X_DATASET="lon.tif", Y_DATASET="lat.tif")
        else:
            file.rpcs = _rpc()
    report = _prepare(tmp_path, [{"path": "a.tif"}])
    assert [note for note in report.notes if what in note and "gdalwarp -t_srs" in note]
    (tmp_path / "store").rename(tmp_path / "first")
    message = rf"{what}.*can't be laid on those of other images; use it by itself \(without `place`\), or bring it"
    with pytest.raises(RasterError, match=message):
        _prepare(tmp_path, [{"path": "a.tif", "place": "p"}])


_ESRI = CRS.from_epsg(32632).to_wkt(version="WKT1_ESRI")
_UNNAMED = (
    CRS.from_epsg(32632)
    .to_wkt()
    .replace('"WGS 84 / UTM zone 32N"', '"unnamed"')
    .replace(',AUTHORITY["EPSG","32632"]', "")
)


@pytest.mark.parametrize(
    "text",
    [_ESRI, _UNNAMED, "+proj=utm +zone=32 +datum=WGS84 +units=m +no_defs", "EPSG:32632+5773"],
    ids=["esri", "unnamed", "proj4", "compound"],
)
@pytest.mark.parametrize("place", ["p", None])
def test_one_coordinate_system_has_many_texts(tmp_path: Path, text: str, place: str | None) -> None:
    _write(tmp_path / "a.tif", transform=_PLACED)
    _write(tmp_path / "b.tif", crs=CRS.from_user_input(text), transform=_PLACED, compress="deflate")
    report = _prepare(tmp_path, [{"path": name, "place": place} for name in ("a.tif", "b.tif")])
    assert (report.places, report.pairs) == (1, {"maxar-rgb + maxar-rgb": 1})


@pytest.mark.parametrize("place", ["p", None])
def test_one_coordinate_system_has_several_numbers(tmp_path: Path, place: str | None) -> None:
    transform = Affine(10, 0, 1e6, 0, -10, 6e6)
    for name, crs in (("a.tif", "EPSG:3857"), ("b.tif", "EPSG:900913")):
        _write(tmp_path / name, crs=CRS.from_user_input(crs), transform=transform, compress="deflate")
    assert _prepare(tmp_path, [{"path": name, "place": place} for name in ("a.tif", "b.tif")]).places == 1


@pytest.mark.parametrize("text", ["OGC:CRS84", "EPSG:4979"])
def test_degrees_are_one_system_whatever_their_axes_are_called(tmp_path: Path, text: str) -> None:
    degrees = Affine(1e-4, 0, 9, 0, -1e-4, 49)
    _write(tmp_path / "a.tif", crs="EPSG:4326", transform=degrees)
    _write(tmp_path / "b.tif", crs=CRS.from_user_input(text), transform=degrees, compress="deflate")
    assert _prepare(tmp_path, [{"path": "a.tif"}, {"path": "b.tif"}]).places == 1


_ROTATED = Affine(8.660254037844387, 5, 500000, 5, -8.660254037844387, 5500000)
_SOUTH_UP = Affine(10, 0, 500000, 0, 10, 5500000 - 10 * _SIDE)
_WEST_FIRST = Affine(-10, 0, 500000 + 10 * _SIDE, 0, -10, 5500000)


def _ground(transform: Affine, first: int, end: int) -> shapely.Polygon:
    a, b, c, d, e, f = tuple(transform)[:6]
    corners = ((0, first), (_SIDE, first), (_SIDE, end), (0, end))
    return shapely.Polygon([(a * col + b * row + c, d * col + e * row + f) for col, row in corners])


@pytest.mark.parametrize("transform", [_ROTATED, _SOUTH_UP, _WEST_FIRST])
def test_polygons_meet_the_pixels_of_a_turned_image(tmp_path: Path, transform: Affine) -> None:
    path = _write(tmp_path / "a.tif", transform=transform)
    upper = _ground(transform, 0, 20)
    lower = _ground(transform, 20, _SIDE)
    table = geopandas.GeoDataFrame({"label": [1, 2]}, geometry=[upper, lower], crs=32632)
    table.to_file(tmp_path / "a.gpkg", driver="GPKG")
    file = LabelFile(path=tmp_path / "a.gpkg")
    polygons, _ = read_polygons([file], column=None, classes={})
    with open_raster(RasterSource(paths=(path,)), get_sensor("maxar-rgb")) as reader:
        assert reader.grid.transform == pytest.approx(tuple(transform)[:6])
        values, known = polygons[file].read(reader.grid, reader.grid.whole, image="a.tif")
    assert known.all()
    assert (values[:20] == 1).all()
    assert (values[20:] == 2).all()


@pytest.mark.parametrize("transform", [_ROTATED, _SOUTH_UP, _WEST_FIRST])
def test_a_turned_image_is_not_joined_by_overlap_and_does_not_stop_the_others(
    tmp_path: Path, transform: Affine
) -> None:
    for name, one in (("a.tif", _PLACED), ("bb.tif", transform), ("ccc.tif", _PLACED)):
        _write(tmp_path / name, transform=one)
    report = _prepare(tmp_path, [{"path": name} for name in ("a.tif", "bb.tif", "ccc.tif")])
    assert (report.places, report.pairs) == (2, {"maxar-rgb + maxar-rgb": 1})
    assert any("of a grid that is turned or flipped; they are not joined" in note for note in report.notes)
