"""Polygons with labels, laid on the pixels of scenes: in any CRS, with one label a pixel, or refused."""

import os
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import GeometryError, InputError, ManifestError
from anyband.labelled.label_rasters import PolygonLabels, read_polygons
from anyband.labelled.maps import open_maps
from anyband.labelled.samples import DataSpec, SplitSpec
from anyband.labelled.tables import LabelFile
from anyband.rasters.grid import IDENTITY, Grid, Window

_CRS = "EPSG:32632"
_GRID = Grid(height=8, width=10, transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6), crs=_CRS, gsd_m=10.0)


def _box(row: float, col: float, height: float, width: float) -> shapely.Polygon:
    """Make a rectangle of pixels of the grid."""
    west, north = 5e5 + 10 * col, 5e6 - 10 * row
    return shapely.box(west, north - 10 * height, west + 10 * width, north)


def _write(path: Path, *shapes: tuple[object, object], column: str = "label", crs: str | None = _CRS) -> Path:
    frame = geopandas.GeoDataFrame(
        {column: [label for label, _ in shapes]}, geometry=[shape for _, shape in shapes], crs=crs
    )
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


def _labels(path: Path, **changes: object) -> PolygonLabels:
    file = LabelFile(path=path)
    return read_polygons([file], **({"column": None, "classes": {}} | changes))[0][file]


def _map(labels: PolygonLabels, grid: Grid = _GRID) -> np.ndarray:
    values, known = labels.read(grid, grid.whole, image="a.tif")
    return np.where(known, values, -1)


_FIELDS = ((3, _box(1, 1, 3, 4)), (7, _box(4, 6, 2, 4)))
_WANTED = np.full((8, 10), -1)
_WANTED[1:4, 1:5] = 3
_WANTED[4:6, 6:10] = 7


@pytest.mark.parametrize("ending", [".gpkg", ".geojson", ".parquet", ".shp", ".fgb"])
def test_pixels_take_the_label_of_their_polygon(tmp_path: Path, ending: str) -> None:
    crs = "EPSG:4326" if ending == ".geojson" else _CRS
    frame = geopandas.GeoDataFrame({"label": [3, 7]}, geometry=[shape for _, shape in _FIELDS], crs=_CRS).to_crs(crs)
    path = _write(tmp_path / f"p{ending}", *zip([3, 7], frame.geometry, strict=True), crs=crs)
    np.testing.assert_array_equal(_map(_labels(path)), _WANTED)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32633"])
def test_polygons_are_brought_to_the_images_crs(tmp_path: Path, crs: str) -> None:
    frame = geopandas.GeoDataFrame({"label": [3, 7]}, geometry=[shape for _, shape in _FIELDS], crs=_CRS).to_crs(crs)
    path = _write(tmp_path / "p.gpkg", *zip([3, 7], frame.geometry, strict=True), crs=crs)
    np.testing.assert_array_equal(_map(_labels(path)), _WANTED)


def test_a_window_is_that_part_of_the_whole(tmp_path: Path) -> None:
    labels = _labels(_write(tmp_path / "p.gpkg", *_FIELDS))
    part = labels.read(_GRID, Window(row=2, col=3, height=4, width=5), image="a.tif")
    np.testing.assert_array_equal(np.where(part[1], part[0], -1), _WANTED[2:6, 3:8])


def test_a_window_without_polygons_has_no_labels(tmp_path: Path) -> None:
    labels = _labels(_write(tmp_path / "p.gpkg", *_FIELDS))
    assert not labels.read(_GRID, Window(row=6, col=0, height=2, width=3), image="a.tif")[1].any()


@settings(max_examples=25)
@given(st.tuples(*[st.floats(0, 8)] * 3, *[st.floats(0, 10)] * 3))
def test_a_pixel_belongs_where_its_centre_lies(tmp_path_factory, corners: tuple[float, ...]) -> None:
    rows, cols = corners[:3], corners[3:]
    shape = shapely.Polygon([(5e5 + 10 * col, 5e6 - 10 * row) for row, col in zip(rows, cols, strict=True)])
    if not shape.is_valid or shape.area < 1:
        return
    labels = PolygonLabels(Path("p.gpkg"), np.array([shape]), np.array([2.0]), crs=_CRS)
    row, col = np.indices((8, 10))
    centres = shapely.points(5e5 + 10 * (col + 0.5), 5e6 - 10 * (row + 0.5))
    # Centres on an edge, to a millimetre, may go either way.
    clear = shapely.distance(shape.boundary, centres) > 1e-3
    found = labels.read(_GRID, _GRID.whole, image="a.tif")[1]
    np.testing.assert_array_equal(found[clear], shapely.contains(shape, centres)[clear])


def test_polygons_of_one_label_may_overlap(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.gpkg", (3, _box(0, 0, 4, 4)), (3, _box(2, 2, 4, 4)))
    assert (_map(_labels(path)) == 3).sum() == 28


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_polygons_of_different_labels_may_not_overlap(tmp_path: Path, order: tuple[int, ...]) -> None:
    shapes = [(3, _box(0, 0, 4, 4)), (7, _box(2, 2, 4, 4)), (3, _box(2, 2, 2, 2))]
    path = _write(tmp_path / "p.gpkg", *(shapes[index] for index in order))
    with pytest.raises(GeometryError) as refusal:
        _map(_labels(path))
    assert str(refusal.value) == (
        f"polygons of '{path}' overlap with different labels at 4 pixels of 'a.tif', first at row 2, column 2; cut "
        "them so that each pixel has one label"
    )


def test_polygons_that_share_an_edge_do_not_overlap(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.gpkg", (3, _box(0, 0, 8, 4.5)), (7, _box(0, 4.5, 8, 5.5)))
    assert set(np.unique(_map(_labels(path)))) == {3, 7}


def test_names_are_numbered_in_alphabetic_order_over_all_files(tmp_path: Path) -> None:
    first = LabelFile(path=_write(tmp_path / "a.gpkg", ("wood", _box(1, 1, 3, 4)), column="class"))
    second = LabelFile(path=_write(tmp_path / "b.gpkg", ("lake", _box(1, 1, 3, 4)), column="class"))
    found, names = read_polygons([first, second], column=None, classes={})
    assert names == {0: "lake", 1: "wood"}
    assert [_map(found[path]).max() for path in (first, second)] == [1, 0]


def test_names_stand_for_the_values_of_declared_classes(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gpkg", ("wood", _box(1, 1, 3, 4)))
    assert _map(_labels(path, classes={20: "wood", 50: "lake"})).max() == 20


def test_a_name_that_is_no_class_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gpkg", ("wods", _box(1, 1, 3, 4)))
    with pytest.raises(InputError, match=r"polygons have the label 'wods' at 1 of them, which is no class \(.*wood"):
        _labels(path, classes={20: "wood", 50: "lake"})


def test_ground_outside_of_polygons_may_be_a_class(tmp_path: Path) -> None:
    path = LabelFile(path=_write(tmp_path / "a.gpkg", ("house", _box(1, 1, 3, 4))))
    labels, names = read_polygons([path], column=None, classes={}, outside="none")
    found = labels[path].read(_GRID, _GRID.whole, image="a.tif")
    assert names == {0: "house", 1: "none"}
    assert found[1].all()
    assert (found[0] == 1).sum() == 80 - 12


def test_the_column_may_be_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gpkg", *_FIELDS, column="crop_code")
    np.testing.assert_array_equal(_map(_labels(path, column="crop_code")), _WANTED)


def test_a_missing_column_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gpkg", *_FIELDS, column="labels")
    with pytest.raises(ManifestError, match=r"have no column `label` or `class`; they have labels; did you mean"):
        _labels(path)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (None, "row 2 of '.*' has an empty geometry; draw it, or leave the row out"),
        (shapely.Polygon(), "row 2 of '.*' has an empty geometry"),
        (shapely.Point(5e5, 5e6), "row 2 of '.*' is a Point; labels are of polygons: buffer it, or leave it out"),
        (shapely.Polygon([(5e5, 5e6), (5e5 + 50, 5e6 - 50), (5e5 + 50, 5e6), (5e5, 5e6 - 50)]),
         r"row 2 of '.*' is an invalid polygon \(Self-intersection\[.*\]\); repair it"),
    ],
    ids=["none", "empty", "point", "bow tie"],
)  # fmt: skip
def test_what_is_no_polygon_is_refused(tmp_path: Path, shape: object, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        _labels(_write(tmp_path / "p.parquet", (3, _box(0, 0, 2, 2)), (4, shape)))


def test_a_polygon_without_label_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.parquet", ("a", _box(0, 0, 2, 2)), (None, _box(3, 3, 2, 2)))
    with pytest.raises(ManifestError, match=r"row 2 of '.*' has no `label`; give it one, or leave the polygon out"):
        _labels(path)


def test_polygons_without_crs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no coordinate system, so its polygons lie nowhere"):
        _labels(_write(tmp_path / "p.parquet", *_FIELDS, crs=None))


def test_a_file_without_polygons_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no polygons; fill it, or leave it out"):
        _labels(_write(tmp_path / "p.parquet"))


@pytest.mark.parametrize("name", ["p.gpkg", "p.parquet"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no polygons here")
    with pytest.raises(ManifestError, match=r"cannot read '.*' as polygons"):
        _labels(tmp_path / name)


def test_polygons_beside_the_image_are_refused_with_both_extents(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.gpkg", (3, _box(100, 0, 2, 2)))
    with pytest.raises(GeometryError) as refusal:
        _map(_labels(path))
    assert (
        "in EPSG:32632 the polygons reach from (500000, 4998980) to (500020, 4999000), the image from (500000, "
        "4999920) to (500100, 5000000); check the CRS"
    ) in str(refusal.value)


def test_an_image_without_crs_is_refused(tmp_path: Path) -> None:
    labels = _labels(_write(tmp_path / "p.gpkg", *_FIELDS))
    nowhere = Grid(height=8, width=10, transform=IDENTITY, crs=None, gsd_m=10.0)
    with pytest.raises(GeometryError, match=r"image 'a\.tif' has no coordinate system, so the polygons of '.*' can"):
        _map(labels, nowhere)


def test_a_table_of_scenes_may_share_one_file_of_polygons(optical, tmp_path: Path) -> None:
    shapes = []
    for number in range(3):
        optical(tmp_path / f"i{number}.tif", size=(8, 10), seed=number, east=5e5 + 1e4 * number)
        move = [1, 0, 0, 1, 1e4 * number, 0]
        shapes += [(name, shapely.affinity.affine_transform(shape, move)) for name, (_, shape) in
                   zip(("wood", "lake"), _FIELDS, strict=True)]  # fmt: skip
    _write(tmp_path / "p.gpkg", *shapes, column="cover")
    rows = [f"i{number}.tif,p.gpkg,{part}" for number, part in enumerate(("train", "val", "test"))]
    (tmp_path / "t.csv").write_text("\n".join(["image,label,split", *rows]))
    spec = DataSpec(
        source=str(tmp_path / "t.csv"), kind="class_map", sensors=("sentinel2-l2a",), bands=(("B02", "B03", "B04"),),
        label_column="cover", split=SplitSpec(),
    )  # fmt: skip
    data = open_maps(spec, seed=0)
    assert data.classes == ("lake", "wood")
    for index in range(3):
        np.testing.assert_array_equal(data.read(index).class_map, np.select([_WANTED == 3, _WANTED == 7], [1, 0], -1))


def test_what_no_polygon_covers_is_a_class_or_a_number(tmp_path: Path) -> None:
    path = _write(tmp_path / "p.gpkg", ("field", _box(1, 1, 3, 4)), ("water", _box(4, 6, 2, 4)))
    classes = {0: "other", 1: "field", 2: "water"}
    for outside in ("other", "0"):
        labels = _labels(path, classes=classes, outside=outside)
        assert np.bincount(_map(labels).astype(int).ravel()).tolist() == [80 - 12 - 8, 12, 8]
    with pytest.raises(InputError, match="option `outside` is 'sea', which is no number and no class"):
        _labels(path, classes=classes, outside="sea")


def test_names_and_numbers_as_labels_are_not_mixed(tmp_path: Path) -> None:
    paths = [_write(tmp_path / f"{k}.gpkg", (label, _box(1, 1, 3, 4))) for k, label in enumerate((3, "field"))]
    with pytest.raises(ManifestError, match="have names as labels and others numbers"):
        read_polygons([LabelFile(path=path) for path in paths], column=None, classes={})


@pytest.mark.parametrize("name", ["p.vrt", "p.geojson"])
def test_a_file_that_says_where_polygons_lie_is_refused(tmp_path: Path, name: str) -> None:
    elsewhere = _write(tmp_path / "elsewhere.gpkg", (3, _box(1, 1, 3, 4)))
    path = tmp_path / name
    layer = f'<OGRVRTLayer name="elsewhere"><SrcDataSource>{elsewhere}</SrcDataSource></OGRVRTLayer>'
    path.write_text(f"<OGRVRTDataSource>{layer}</OGRVRTDataSource>")
    with pytest.raises(ManifestError, match="holds no polygons but says where others lie"):
        _labels(path)


def test_a_pipe_holds_no_polygons(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.geojson")
    with pytest.raises(ManifestError, match=r"p\.geojson' is a pipe; name a file"):
        _labels(tmp_path / "p.geojson")
