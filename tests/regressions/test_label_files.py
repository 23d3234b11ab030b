"""Labels of pixels as people have them: rasters with tags and masks, and polygons of any size, are read right, or it is
said, or they are refused."""

import json
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from PIL import Image
from rasterio.control import GroundControlPoint
from small_networks import small_checkpoint

from anyband.cli import main
from anyband.errors import AnybandError
from anyband.labelled import open_task_data
from anyband.labelled.label_rasters import read_polygons
from anyband.labelled.samples import DataSpec, TaskData
from anyband.labelled.tables import LabelFile
from anyband.models.checkpoint import save_checkpoint
from anyband.rasters.grid import Grid

_SPLITS = ("train", "train", "val", "test")
_SIZE = 16


def _tiff(path: Path, pixels: np.ndarray, *, number: int = 0, nodata: float | None = None) -> None:
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5 + 1000 * number, 0, -10, 5.5e6)}
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", count=count, height=height, width=width, dtype=pixels.dtype, nodata=nodata, **place
    ) as file:
        file.write(pixels)


def _halves() -> np.ndarray:
    labels = np.zeros((_SIZE, _SIZE), np.uint8)
    labels[:, _SIZE // 2 :] = 1
    return labels


def _scenes(folder: Path, *labels: np.ndarray, nodata: float | None = None, extra: str = "") -> Path:
    """Write images far apart, their labels (the last ones for all that are left), and a table of them."""
    rows = ["image,label,split" + (",label_nodata" if extra else "")]
    for number, split in enumerate(_SPLITS):
        _image(folder, number)
        _tiff(folder / f"l{number}.tif", labels[min(number, len(labels) - 1)], number=number, nodata=nodata)
        rows.append(f"i{number}.tif,l{number}.tif,{split}" + (f",{extra}" if extra else ""))
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


def _image(folder: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(1, 255, (3, _SIZE, _SIZE)).astype(np.uint8)
    _tiff(folder / f"i{number}.tif", pixels, number=number)


def _opened(source: Path, **changes: object) -> TaskData:
    spec = DataSpec(source=str(source), kind="class_map", sensors=("maxar-rgb",), classes={0: "ground", 1: "water"})
    return open_task_data(replace(spec, **changes), seed=0)


def _refusal(source: Path, **changes: object) -> str:
    with pytest.raises(AnybandError) as refused:
        _opened(source, **changes)
    return str(refused.value)


# Rasters


def test_a_tag_of_no_data_that_is_a_declared_class_is_refused(tmp_path: Path) -> None:
    message = _refusal(_scenes(tmp_path, _halves(), nodata=0))
    assert "l0.tif' and 3 more tags 0 as no data, and 0 is class 'ground' (512 pixels)" in message
    assert "say `label_nodata: none`" in message


@pytest.mark.parametrize("where", ["table", "options"])
def test_a_tag_of_no_data_that_is_wrong_may_be_set_aside(tmp_path: Path, where: str) -> None:
    table = _scenes(tmp_path, _halves(), nodata=0, extra="none" if where == "table" else "")
    data = _opened(table, options={} if where == "table" else {"label_nodata": "none"})
    np.testing.assert_array_equal(data.read(0).class_map, _halves())
    assert data.notes == ()


def test_pixels_that_a_tag_takes_away_are_counted(tmp_path: Path) -> None:
    labels = _halves()
    labels[:2] = 255
    data = _opened(_scenes(tmp_path, labels, nodata=255))
    assert "255 is tagged as no data, so 128 pixels have no label ('l0.tif' and 3 more)" in data.notes
    assert (data.read(0).class_map == -1).sum() == 32


def test_pixels_that_a_mask_takes_away_are_counted(tmp_path: Path) -> None:
    table = _scenes(tmp_path, _halves())
    masked = np.full((_SIZE, _SIZE), 255, np.uint8)
    masked[:4] = 0
    for number in range(4):
        with rasterio.open(tmp_path / f"l{number}.tif", "r+") as file:
            file.write_mask(masked)
    data = _opened(table)
    assert "their mask or alpha band takes away 256 pixels ('l0.tif' and 3 more)" in data.notes
    assert (data.read(0).class_map == -1).sum() == 64


def test_labels_with_an_alpha_band_have_one_band_of_labels(tmp_path: Path) -> None:
    table = _scenes(tmp_path, _halves())
    alpha = np.full((_SIZE, _SIZE), 255, np.uint8)
    alpha[0] = 0
    Image.fromarray(np.stack([_halves(), alpha], axis=-1), "LA").save(tmp_path / "l0.png")
    table.write_text(table.read_text().replace("l0.tif", "l0.png"))
    wanted = _halves().astype(np.int64)
    wanted[0] = -1
    np.testing.assert_array_equal(_opened(table).read(0).class_map, wanted)


def test_a_value_without_a_tag_is_refused_where_classes_are_named(tmp_path: Path) -> None:
    labels = _halves()
    labels[:2] = 255
    table = _scenes(tmp_path, labels)
    assert "has values that are no class: 255 at 32 pixels" in _refusal(table)
    assert (_opened(table, ignore=(255,)).read(0).class_map == -1).sum() == 32


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 255), (np.uint16, 65535), (np.int16, 32767)])
def test_values_that_become_classes_unnamed_are_said(tmp_path: Path, dtype: type, value: int) -> None:
    labels = _halves().astype(dtype)
    labels[:2] = value
    notes = _opened(_scenes(tmp_path, labels), classes={}).notes
    assert (
        f"no classes are named, so the values of training are: 0, 1, {value}; {value} often means no data: if it does, "
        "list it in `data.ignore`" in notes
    )


def test_a_class_that_a_split_or_all_lack_is_said(tmp_path: Path) -> None:
    three = _halves()
    three[:4] = 2
    table = _scenes(tmp_path, three, three, _halves(), three)
    data = _opened(table, classes={0: "ground", 1: "water", 2: "crop", 3: "tree"})
    assert "no split has a label of 'tree'; what was never seen is never predicted" in data.notes
    assert "split 'val' has no label of 'crop', so it chooses by the others" in data.notes


def test_training_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    message = _refusal(_scenes(tmp_path, np.ones((_SIZE, _SIZE), np.uint8)))
    assert "all 512 labelled pixels of training are of class 'water', so there is nothing to tell apart" in message


def _scaled(folder: Path, labels: np.ndarray) -> Path:
    table = _scenes(folder, labels)
    for number in range(4):
        with rasterio.open(folder / f"l{number}.tif", "r+") as file:
            file.scales, file.offsets = (0.1,), (-2.0,)
    return table


def test_scale_and_offset_of_labels_are_said_and_applied_where_that_is_wanted(tmp_path: Path) -> None:
    heights = np.arange(_SIZE**2).reshape(_SIZE, _SIZE).astype(np.int16)
    table = _scaled(tmp_path, heights)
    stored, applied = (
        _opened(table, kind="number_map", classes={}, options={"label_scale": one}) for one in ("stored", "tags")
    )
    assert stored.notes == (
        "by its scale and offset tags labels are DN · 0.1 − 2; they are taken as stored: to apply that say "
        "data.options={label_scale: tags} ('l0.tif' and 3 more)",
    )
    np.testing.assert_array_equal(stored.read(0).number_map, heights)
    assert applied.notes == ()
    np.testing.assert_allclose(applied.read(0).number_map, heights * 0.1 - 2)
    assert stored.fingerprint != applied.fingerprint


def test_scale_of_classes_is_said(tmp_path: Path) -> None:
    assert any("by its scale and offset tags labels" in note for note in _opened(_scaled(tmp_path, _halves())).notes)


def test_a_number_that_programs_write_where_there_is_none_is_said(tmp_path: Path) -> None:
    heights = np.linspace(0, 30, _SIZE * _SIZE, dtype=np.float32).reshape(_SIZE, _SIZE)
    heights[:2] = -9999
    how = {"kind": "number_map", "classes": {}}
    (note,) = [note for note in _opened(_scenes(tmp_path, heights), **how).notes if "-9999" in note]
    assert (
        "the label -9999 stands at 128 pixels, far from all others (3.76471 to 30): likely no data; list it in" in note
    )
    assert not any("-9999" in note for note in _opened(tmp_path / "t.csv", ignore=(-9999,), **how).notes)


def test_two_dates_of_which_one_is_placed_by_control_points_are_not_laid_on_each_other(tmp_path: Path) -> None:
    _scenes(tmp_path, _halves())
    rows = [f"i{number}.tif,b{number}.tif,l{number}.tif,{split}" for number, split in enumerate(_SPLITS)]
    (tmp_path / "t.csv").write_text("\n".join(["before,after,label,split", *rows]) + "\n")
    for number in range(4):
        (tmp_path / f"b{number}.tif").write_bytes((tmp_path / f"i{number}.tif").read_bytes())
    assert len(_opened(tmp_path / "t.csv").names) == 4
    corners = [GroundControlPoint(row, col, 9 + col / 1e4, 50 - row / 1e4) for row in (0, _SIZE) for col in (0, _SIZE)]
    how = {"width": _SIZE, "height": _SIZE, "count": 3, "dtype": "uint8", "gcps": corners, "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "b1.tif", "w", driver="GTiff", **how) as file:
        file.write(np.ones((3, _SIZE, _SIZE), np.uint8))
    message = _refusal(tmp_path / "t.csv")
    assert (
        "'b1.tif' is placed by 4 ground control points (GCPs), which are not read, so its pixels can't be laid"
        in message
    )


def test_labels_without_georeference_are_laid_by_size_and_that_is_said(tmp_path: Path) -> None:
    table = _scenes(tmp_path, _halves())
    for number in range(4):
        Image.fromarray(_halves()).save(tmp_path / f"l{number}.png")
    table.write_text(table.read_text().replace("l0.tif", "l0.png").replace("l3.tif", "l3.png"))
    note = (
        "the labels are laid on the images by their size, since one of both has no georeference ('l0.png' and 1 more)"
    )
    assert note in _opened(table).notes


def test_labels_in_jpeg_are_pointed_out(tmp_path: Path) -> None:
    table = _scenes(tmp_path, _halves())
    Image.fromarray(_halves() * 0 + 200).save(tmp_path / "l0.jpg")
    table.write_text(table.read_text().replace("l0.tif", "l0.jpg"))
    notes = _opened(table, classes={0: "ground", 1: "water", 200: "snow"}).notes
    assert "they are JPEG, which changes numbers: write labels as PNG or GeoTIFF ('l0.jpg')" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_column": "crop"}, "data.label_column is for polygons, and no label is one; leave it out"),
        ({"options": {"outside": "ground"}}, "data.options.outside is for polygons, and no label is one"),
        ({"kind": "number_map"}, "data.classes is for maps of classes, and these are numbers; leave it out"),
    ],
    ids=["column", "outside", "classes"],
)
def test_what_is_declared_of_labels_that_are_not_there_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    assert message in _refusal(_scenes(tmp_path, _halves()), **changes)


# Polygons


def _box(number: int, row: float, col: float, height: float, width: float) -> shapely.Polygon:
    west, north = 5e5 + 1000 * number + 10 * col, 5.5e6 - 10 * row
    return shapely.box(west, north - 10 * height, west + 10 * width, north)


def _fields(folder: Path, *more: tuple[str, shapely.Polygon]) -> Path:
    """Write images and polygons of two classes that halve each, and others."""
    shapes, rows = list(more), ["image,label,split"]
    for number, split in enumerate(_SPLITS):
        _image(folder, number)
        shapes += [("field", _box(number, 0, 0, 16, 7)), ("bare", _box(number, 0, 8, 16, 8))]
        rows.append(f"i{number}.tif,p.gpkg,{split}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    _frame(shapes).to_file(folder / "p.gpkg", layer="fields")
    return folder / "t.csv"


def _frame(shapes: list[tuple[str, shapely.Polygon]], crs: object = 32632) -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame(
        {"label": [label for label, _ in shapes]}, geometry=[shape for _, shape in shapes], crs=crs
    )


def test_polygons_smaller_than_a_pixel_are_counted_by_class(tmp_path: Path) -> None:
    # Between the centres of pixels: points of 4 m, and a strip of 4 m by 100 m.
    trees = [("tree", _box(number, row + 0.6, 7.05, 0.3, 0.4)) for number in range(4) for row in range(10)]
    strip = ("hedge", _box(0, 2, 7.55, 10, 0.4))
    data = _opened(_fields(tmp_path, *trees, strip), classes={})
    assert (
        "41 of 49 polygons have the centre of no pixel in them, so they give no label ('hedge' 1, 'tree' 40); take "
        "finer images or larger polygons ('p.gpkg')" in data.notes
    )
    assert "no split has a label of 'hedge', 'tree'; what was never seen is never predicted" in data.notes


def test_what_is_said_of_labels_stands_on_the_terminal_in_json_and_in_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _fields(tmp_path, ("tree", _box(0, 0.6, 7.05, 0.3, 0.4)))
    save_checkpoint(tmp_path / "m.safetensors", small_checkpoint())
    words = ["evaluate", "segment", "--data", str(table), "--sensor", "maxar-rgb", "--head", "linear", "--epochs", "1"]
    words += ["--checkpoint", str(tmp_path / "m.safetensors"), "--no-results", "--no-cache", "fit.warmup_epochs=0"]
    note = "1 of 9 polygons have the centre of no pixel in them"
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    # Lines are broken where the terminal ends.
    assert f"note: {note}" in " ".join(capsys.readouterr().out.split())
    assert note in (tmp_path / "out" / "report.html").read_text()
    assert main([*words, "--json"]) == 0
    assert any(note in one for one in json.loads(capsys.readouterr().out)["results"][0]["notes"])


def test_polygons_under_others_of_their_label_or_cut_by_the_image_are_not_too_small(tmp_path: Path) -> None:
    under, cut = ("field", _box(0, 2, 2, 2, 2)), ("bare", _box(0, 5, 15.8, 0.2, 0.4))
    assert not [note for note in _opened(_fields(tmp_path, under, cut), classes={}).notes if "centre" in note]


@pytest.mark.parametrize("tile_px", [None, 8])
def test_tiles_of_an_image_count_a_polygon_once(tmp_path: Path, tile_px: int | None) -> None:
    notes = _opened(_fields(tmp_path, ("field", _box(0, 7.7, 7.1, 0.7, 0.3))), classes={}, tile_px=tile_px).notes
    assert [note.split(" polygons")[0] for note in notes if "centre" in note] == ["1 of 9"]


def test_polygons_that_lie_on_no_image_are_counted(tmp_path: Path) -> None:
    away = [("field", _box(20, row, 0, 1, 1)) for row in range(3)]
    assert "3 of 11 polygons lie on no image ('p.gpkg')" in _opened(_fields(tmp_path, *away), classes={}).notes


def test_metres_in_a_geojson_without_a_coordinate_system_are_pointed_out(tmp_path: Path) -> None:
    table = _fields(tmp_path)
    frame = json.loads(geopandas.read_file(tmp_path / "p.gpkg").to_json())
    (tmp_path / "p.geojson").write_text(json.dumps({key: value for key, value in frame.items() if key != "crs"}))
    table.write_text(table.read_text().replace("p.gpkg", "p.geojson"))
    message = _refusal(table, classes={})
    assert "they reach from (500000, 5499840) to (503160, 5500000), which are no coordinates of the system" in message
    assert "GeoJSON without one is in longitudes and latitudes" in message


def test_of_several_layers_one_must_be_named(tmp_path: Path) -> None:
    table = _fields(tmp_path)
    other = [("old", shape) for shape in _frame([("x", _box(n, 0, 0, 16, 16)) for n in range(4)]).geometry]
    _frame(other).to_file(tmp_path / "p.gpkg", layer="older")
    message = _refusal(table, classes={})
    assert "has 2 layers (fields, older); say which one has the labels by `label_variable` in the table" in message
    assert _opened(table, classes={}, options={"layer": "fields"}).classes == ("bare", "field")
    assert "has no layer 'felds' (fields, older); did you mean 'fields'?" in _refusal(
        table, classes={}, options={"layer": "felds"}
    )
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},label_variable", *(f"{row},fields" for row in rows)]))
    assert _opened(table, classes={}).classes == ("bare", "field")


def test_label_nodata_of_polygons_is_refused(tmp_path: Path) -> None:
    table = _fields(tmp_path)
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},label_nodata", *(f"{row},0" for row in rows)]))
    assert "label_nodata is of rasters, and" in _refusal(table, classes={})


def test_what_is_declared_of_rasters_is_refused_where_all_labels_are_polygons(tmp_path: Path) -> None:
    message = _refusal(_fields(tmp_path), classes={}, options={"label_scale": "tags"})
    assert "data.options.label_scale is for rasters of labels, and all labels are polygons" in message


def test_an_empty_label_is_none(tmp_path: Path) -> None:
    assert "row 1 of" in _refusal(_fields(tmp_path, (" ", _box(0, 0, 7, 1, 1))), classes={})


_UTM = Grid(height=128, width=128, transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0), crs="EPSG:32632", gsd_m=10.0)


def _on_parallel(latitude_deg: float, longitude_deg: float, *, step: float = 10.0) -> Grid:
    """Make a grid of 128² pixels whose middle lies on a parallel, at some longitude."""
    x, y = pyproj.Transformer.from_crs(4326, 32632, always_xy=True).transform(longitude_deg, latitude_deg)
    transform = (step, 0.0, round(x / 10) * 10 - 64 * step, 0.0, -step, round(y / 10) * 10 + 64 * step)
    return replace(_UTM, transform=transform, gsd_m=step)


@pytest.mark.parametrize(("latitude_deg", "step"), [(50.0, 10.0), (72.0, 10.0), (50.0, 1.0)])
def test_edges_in_degrees_follow_the_parallel(tmp_path: Path, latitude_deg: float, step: float) -> None:
    grid = _on_parallel(latitude_deg, 9.0, step=step)
    shapes = [
        (2, shapely.box(7, latitude_deg, 11, latitude_deg + 1)),
        (1, shapely.box(7, latitude_deg - 1, 11, latitude_deg)),
    ]
    file = LabelFile(path=tmp_path / "p.gpkg")
    _frame(shapes, 4326).to_file(file.path)
    labels, _ = read_polygons([file], column=None, classes={})
    values, known = labels[file].read(grid, grid.whole, image="a")
    centres = np.arange(128) + 0.5
    x, y = grid.transform[2] + step * centres[None, :], grid.transform[5] - step * centres[:, None]
    _, latitude = pyproj.Transformer.from_crs(32632, 4326, always_xy=True).transform(*np.broadcast_arrays(x, y))
    assert known.all()
    # A line of 1 km between points of the curve is 2 cm off at most.
    clear = np.abs(latitude - latitude_deg) * 111_000 > 0.2
    np.testing.assert_array_equal(values[clear], np.where(latitude > latitude_deg, 2, 1)[clear])
    assert clear.mean() > 0.99


def test_a_polygon_of_the_whole_world_covers_an_image_of_any_projection(tmp_path: Path) -> None:
    file = LabelFile(path=tmp_path / "p.gpkg")
    _frame([(1, shapely.box(-170, -60, -100, 60)), (2, shapely.box(-100, -90, 180, 90))], 4326).to_file(file.path)
    for grid in (_on_parallel(50.0, 9.0), replace(_UTM, crs="EPSG:3031"), replace(_UTM, crs="EPSG:6933")):
        labels = read_polygons([file], column=None, classes={})[0][file]
        values, known = labels.read(grid, grid.whole, image="a")
        # At the pole the world ends at -90 degrees, and the edge at -100 degrees of longitude meets it.
        assert set(values[known]) <= {1.0, 2.0}
        assert (values[known] == 2).mean() > 0.5
        assert grid.crs == "EPSG:3031" or known.all()


@pytest.mark.parametrize("zone", ["EPSG:32660", "EPSG:32601"])
def test_polygons_on_both_sides_of_180_degrees_lie_on_an_image_across_it(tmp_path: Path, zone: str) -> None:
    x, y = pyproj.Transformer.from_crs(4326, zone, always_xy=True).transform(180.0, 50.0)
    grid = replace(_UTM, crs=zone, transform=(10.0, 0.0, x - 640, 0.0, -10.0, y + 640))
    file = LabelFile(path=tmp_path / "p.gpkg")
    _frame([(1, shapely.box(170, 45, 180, 55)), (2, shapely.box(-180, 45, -170, 55))], 4326).to_file(file.path)
    values, known = read_polygons([file], column=None, classes={})[0][file].read(grid, grid.whole, image="a")
    assert known.mean() > 0.99
    assert (values[known] == 1).mean() == pytest.approx(0.5, abs=0.01)
