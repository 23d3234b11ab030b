"""Tables and folders of images with maps of labels become samples whose labels lie on their pixels."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anyband.labelled import open_task_data
from anyband.labelled.blocks import blocked
from anyband.labelled.maps import open_maps
from anyband.labelled.samples import BlockSpec, DataSpec, ListSpec, SplitSpec, TaskData

_CLASSES = {1: "field", 2: "water"}
_BANDS = (("B02", "B03", "B04"),)
# Nothing is drawn: for tables of one image.
_ALONE = SplitSpec(val=0.0)


def _spec(source: Path, **changes: object) -> DataSpec:
    given = {"kind": "class_map", "classes": _CLASSES, "sensors": ("sentinel2-l2a",), "bands": _BANDS}
    return DataSpec(source=str(source), **(given | changes))


def _labels(size: tuple[int, int] = (16, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3, size).astype(np.uint8)


def _table(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


Scenes = Callable[..., Path]


@pytest.fixture
def scenes(raster, optical, tmp_path: Path) -> Scenes:
    """Write images far from each other with labels, and a table of them: `scenes(parts, size=, labels=)`."""

    def write(*parts: str, size: tuple[int, int] = (16, 16), labels: np.ndarray | None = None) -> Path:
        rows = []
        for number, part in enumerate(parts):
            optical(tmp_path / f"i{number}.tif", size=size, seed=number, east=5e5 + 1e4 * number)
            found = _labels(size, seed=number) if labels is None else labels
            raster(tmp_path / f"l{number}.tif", found, east=5e5 + 1e4 * number)
            rows.append(f"i{number}.tif,l{number}.tif,{part}")
        return _table(tmp_path / "t.csv", "image,label,split", *rows)

    return write


def _map(data: TaskData, index: int = 0) -> np.ndarray:
    found = data.read(index).class_map
    assert found is not None
    return found


def test_a_row_is_an_image_with_its_labels(scenes: Scenes) -> None:
    data = open_maps(_spec(scenes("train", "val", "test")), seed=0)
    assert data.names == ("i0.tif", "i1.tif", "i2.tif")
    assert data.splits == ("train", "val", "test")
    assert data.classes == ("field", "water")
    np.testing.assert_array_equal(_map(data, 1), _labels(seed=1) - 1)


def test_images_come_as_stored_with_their_place(scenes: Scenes) -> None:
    data = open_maps(_spec(scenes("train", "val", "test"), encodings=("dn",)), seed=0)
    image = data.read(0).images[0]
    np.testing.assert_array_equal(image.dn, np.random.default_rng(0).integers(200, 4000, (3, 16, 16)))
    assert image.valid.all()
    assert image.sensor == data.sensors[0][0]
    assert image.sensor.band_names == ("B02", "B03", "B04")
    assert image.grid is not None
    assert image.grid.crs == "EPSG:32632"


def test_ignored_values_nodata_and_pixels_without_image_have_no_label(raster, tmp_path: Path) -> None:
    pixels = np.full((3, 4, 4), 500, np.uint16)
    pixels[:, 0] = 0
    labels = np.array([[1, 2, 1, 2], [1, 9, 7, 1], [1, 2, 1, 2], [2, 2, 1, 1]], np.uint8)
    raster(tmp_path / "i.tif", pixels, names=("B02", "B03", "B04"), nodata=0)
    raster(tmp_path / "l.tif", labels, nodata=7)
    table = _table(tmp_path / "t.csv", "image,label,split", "i.tif,l.tif,train")
    found = _map(open_maps(_spec(table, ignore=(9,), split=_ALONE), seed=0))
    np.testing.assert_array_equal(found, [[-1] * 4, [0, -1, -1, 0], [0, 1, 0, 1], [1, 1, 0, 0]])


def test_without_names_the_values_of_training_are_the_classes(scenes: Scenes) -> None:
    labels = np.where(_labels() == 1, 30, 4).astype(np.uint8)
    data = open_maps(_spec(scenes("train", "val", "test", labels=labels), classes={}), seed=0)
    assert data.classes == ("4", "30")
    np.testing.assert_array_equal(_map(data), np.where(labels == 4, 0, 1))


def test_maps_of_numbers_are_numbers(scenes: Scenes) -> None:
    labels = np.linspace(0, 5, 256, dtype=np.float32).reshape(16, 16)
    labels[0, 0] = np.nan
    data = open_maps(_spec(scenes("train", "val", "test", labels=labels), kind="number_map", classes={}), seed=0)
    assert data.classes == ()
    np.testing.assert_array_equal(data.read(0).number_map, labels.astype(np.float64))


def test_zeros_of_maps_of_numbers_may_be_ignored(scenes: Scenes) -> None:
    table = scenes("train", "val", "test", labels=np.eye(16, dtype=np.float32))
    data = open_maps(_spec(table, kind="number_map", classes={}, ignore=(0,)), seed=0)
    np.testing.assert_array_equal(data.read(0).number_map, np.where(np.eye(16) == 0, np.nan, 1.0))


def test_before_and_after_are_two_images_of_a_sample(raster, optical, tmp_path: Path) -> None:
    optical(tmp_path / "old.tif", seed=1)
    radar = np.random.default_rng(0).normal(-12, 3, (2, 8, 8)).astype(np.float32)
    raster(tmp_path / "new.tif", radar, step=20.0, names=("VV", "VH"))
    raster(tmp_path / "l.tif", _labels())
    header = "before,after,label,split,before_datetime,after_datetime,after_sensor,after_encoding,sensor,before_bands"
    row = "old.tif,new.tif,l.tif,train,2000-03-17,2003-02-06,sentinel1-grd,db,sentinel2-l2a,B02;B03;B04"
    data = open_maps(_spec(_table(tmp_path / "t.csv", header, row), sensors=(), bands=(), split=_ALONE), seed=0)
    first, second = data.read(0).images
    assert (first.sensor.name, second.sensor.name) == ("sentinel2-l2a", "sentinel1-grd")
    assert second.sensor.default_encoding == "db"
    assert (first.dn.shape, second.dn.shape) == ((3, 16, 16), (2, 8, 8))
    assert [one.datetime.year for one in (first, second) if one.datetime] == [2000, 2003]
    np.testing.assert_array_equal(_map(data), _labels() - 1)


def test_rows_of_a_set_are_the_images_of_a_sample_in_their_order(raster, optical, tmp_path: Path) -> None:
    rows = []
    for number, part in enumerate(("train", "val", "test")):
        for date in range(2):
            optical(tmp_path / f"{number}{date}.tif", seed=2 * number + date, east=5e5 + 1e4 * number)
            rows.append(f"{number}{date}.tif,l{number}.tif,{part},s{number},202{date}-05-01")
        raster(tmp_path / f"l{number}.tif", _labels(seed=number), east=5e5 + 1e4 * number)
    table = _table(tmp_path / "t.csv", "path,label,split,set,datetime", *rows)
    data = open_maps(_spec(table), seed=0)
    assert len(data) == 3
    assert [image.datetime.year for image in data.read(1).images if image.datetime] == [2020, 2021]
    np.testing.assert_array_equal(data.read(1).images[1].dn, np.random.default_rng(3).integers(200, 4000, (3, 16, 16)))


def test_a_table_may_be_yaml(scenes: Scenes) -> None:
    table = scenes("train", "val", "test")
    rows = [dict(zip(("image", "label", "split"), line.split(","), strict=True)) for line in
            table.read_text().split()[1:]]  # fmt: skip
    other = table.with_suffix(".yaml")
    other.write_text(json.dumps(rows))
    assert open_maps(_spec(other), seed=0).fingerprint == open_maps(_spec(table), seed=0).fingerprint


@pytest.mark.parametrize("below", [("train", "val", "test"), ("",)])
def test_folders_pair_images_and_labels_by_name(raster, optical, tmp_path: Path, below: tuple[str, ...]) -> None:
    for number in range(6):
        folder = tmp_path / below[number % len(below)]
        (folder / "images").mkdir(parents=True, exist_ok=True)
        optical(folder / "images" / f"p{number}.tif", seed=number, east=5e5 + 1e4 * number)
        raster(folder / "labels" / f"p{number}.png", _labels(seed=number), crs=None)
    data = open_maps(_spec(tmp_path), seed=0)
    assert (
        data.num_samples == {"train": 2, "val": 2, "test": 2} if len(below) == 3 else {"train": 4, "val": 1, "test": 1}
    )
    number = int(Path(data.names[0]).stem[1:])
    np.testing.assert_array_equal(_map(data), _labels(seed=number) - 1)


def test_places_are_drawn_whole_and_images_that_overlap_are_one_place(raster, optical, tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        where = {"east": 5e5 + 1e4 * (number // 2) + 80 * (number % 2)}
        optical(tmp_path / f"i{number}.tif", seed=number, **where)
        raster(tmp_path / f"l{number}.tif", _labels(seed=number), **where)
        rows.append(f"i{number}.tif,l{number}.tif")
    table = _table(tmp_path / "t.csv", "image,label", *rows)
    data = open_maps(_spec(table, split=SplitSpec(val=0.17, test=0.33)), seed=0)
    assert data.num_samples == {"train": 6, "val": 2, "test": 4}
    assert all(data.splits[index] == data.splits[index + 1] for index in range(0, 12, 2))
    assert all(data.places[index] == data.places[index + 1] for index in range(0, 12, 2))
    other = open_maps(_spec(table, split=SplitSpec(val=0.17, test=0.33)), seed=1)
    assert other.splits != data.splits
    assert open_maps(_spec(table, split=SplitSpec(val=0.17, test=0.33)), seed=0).splits == data.splits


def test_lists_give_parts_and_leave_out_the_rest(scenes: Scenes, tmp_path: Path) -> None:
    table = scenes(*[""] * 4)
    for part, name in (("train", "i2"), ("val", "i0.tif"), ("test", "i3.png")):
        (tmp_path / f"{part}.txt").write_text(name + "\n")
    lists = ListSpec(**{part: str(tmp_path / f"{part}.txt") for part in ("train", "val", "test")})
    data = open_maps(_spec(table, split=SplitSpec(lists=lists)), seed=0)
    assert dict(zip(data.names, data.splits, strict=True)) == {"i0.tif": "val", "i2.tif": "train", "i3.tif": "test"}


def test_validation_that_is_not_declared_is_drawn_from_training(scenes: Scenes) -> None:
    data = open_maps(_spec(scenes(*["train"] * 8, "test"), split=SplitSpec(val=0.25)), seed=0)
    assert data.num_samples == {"train": 6, "val": 2, "test": 1}
    assert "2 of 8 training images are drawn for validation" in data.notes


def test_tiles_hold_every_label_once(scenes: Scenes) -> None:
    table = scenes("train", "val", "test", size=(20, 28))
    data = open_maps(_spec(table, tile_px=12), seed=0)
    whole = np.full((20, 28), -1)
    seen = np.zeros((20, 28), dtype=int)
    for index, name in enumerate(data.names):
        if not name.startswith("i0.tif"):
            continue
        sample = data.read(index)
        assert sample.images[0].dn.shape == (3, 12, 12)
        a, _, x, _, e, y = sample.images[0].grid.transform
        row, col = round((5e6 - y) / -e), round((x - 5e5) / a)
        known = sample.class_map >= 0
        whole[row : row + 12, col : col + 12][known] = sample.class_map[known]
        seen[row : row + 12, col : col + 12] += known
    assert (seen == 1).all()
    np.testing.assert_array_equal(whole, _labels((20, 28)) - 1)


def test_tiles_read_the_same_pixels_as_the_whole(scenes: Scenes) -> None:
    table = scenes("train", "val", "test", size=(20, 28))
    tile = open_maps(_spec(table, tile_px=12), seed=0).read(1).images[0]
    whole = open_maps(_spec(table), seed=0).read(0).images[0]
    np.testing.assert_array_equal(tile.dn, whole.dn[:, :12, 12:24])


def test_tiles_of_several_images_show_the_same_ground(raster, optical, tmp_path: Path) -> None:
    optical(tmp_path / "a.tif", size=(24, 24))
    coarse = np.arange(2 * 12 * 12, dtype=np.float32).reshape(2, 12, 12)
    raster(tmp_path / "b.tif", coarse, step=20.0, names=("VV", "VH"))
    raster(tmp_path / "l.tif", _labels((24, 24)))
    rows = ["a.tif,l.tif,s,sentinel2-l2a,B02;B03;B04", "b.tif,l.tif,s,sentinel1-grd,VV;VH"]
    table = _table(tmp_path / "t.csv", "path,label,set,sensor,bands", *rows)
    spec = _spec(table, sensors=(), bands=(), tile_px=8, split=SplitSpec(blocks=BlockSpec(size_px=4)))
    data = open_maps(spec, seed=0)
    name = next(name for name in data.names if "rows 8–15, columns 16–23" in name)
    sample = data.read(data.names.index(name))
    np.testing.assert_array_equal(sample.images[1].dn, coarse[:, 4:8, 8:12])


def test_blocks_of_tiles_are_those_of_the_image(scenes: Scenes, tmp_path: Path) -> None:
    scenes("x", size=(32, 32))
    table = _table(tmp_path / "t.csv", "image,label", "i0.tif,l0.tif")
    blocks = SplitSpec(val=0.2, test=0.3, blocks=BlockSpec(size_px=8, buffer_px=2))
    whole, tiled = (open_maps(_spec(table, split=blocks, tile_px=size), seed=5) for size in (None, 12))

    def painted(data: TaskData, part: str) -> np.ndarray:
        found = np.full((32, 32), -1)
        for index in data.split(part):
            sample = data.read(int(index))
            grid = sample.images[0].grid
            row, col = round((5e6 - grid.transform[5]) / 10), round((grid.transform[2] - 5e5) / 10)
            at = found[row : row + grid.height, col : col + grid.width]
            np.maximum(at, sample.class_map, out=at)
        return found

    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(painted(whole, part), painted(tiled, part))


def test_samples_without_labels_are_left_out_and_counted(scenes: Scenes, raster, tmp_path: Path) -> None:
    table = scenes("train", "train", "val", "test")
    raster(tmp_path / "l1.tif", np.full((16, 16), 255, np.uint8), east=5e5 + 1e4)
    data = open_maps(_spec(table, ignore=(255,)), seed=0)
    assert data.names == ("i0.tif", "i2.tif", "i3.tif")
    assert "1 sample without labels is left out" in data.notes


def test_equal_data_have_equal_fingerprints_wherever_they_are(scenes: Scenes, tmp_path: Path) -> None:
    table = scenes("train", "val", "test")
    first = open_maps(_spec(table), seed=0)
    moved = tmp_path.parent / f"{tmp_path.name}_moved"
    tmp_path.rename(moved)
    assert open_maps(_spec(moved / "t.csv"), seed=0).fingerprint == first.fingerprint
    moved.rename(tmp_path)


@pytest.mark.parametrize("change", ["labels", "pixels", "split", "ignore", "bands"])
def test_other_data_have_other_fingerprints(scenes: Scenes, raster, optical, tmp_path: Path, change: str) -> None:
    table = scenes("train", "val", "test")
    first, changes = open_maps(_spec(table), seed=0).fingerprint, {}
    if change == "labels":
        raster(tmp_path / "l0.tif", _labels(seed=9))
    elif change == "pixels":
        optical(tmp_path / "i0.tif", seed=9)
    elif change == "split":
        table.write_text(table.read_text().replace("val", "train"))
        changes = {"split": SplitSpec(val=0.0)}
    else:
        changes = {"ignore": (9,)} if change == "ignore" else {"bands": (("B02", "B04", "B03"),)}
    assert open_maps(_spec(table, **changes), seed=0).fingerprint != first


def test_dates_of_one_file_have_contents_of_their_own(tmp_path: Path, raster) -> None:
    import h5netcdf

    with h5netcdf.File(tmp_path / "s.nc", "w") as file:
        file.dimensions = {"t": 3, "y": 16, "x": 16}
        for band in ("B02", "B03", "B04"):
            pixels = np.random.default_rng(1).integers(1, 99, (3, 16, 16)).astype(np.uint16)
            file.create_variable(band, ("t", "y", "x"), "u2", data=pixels)
    raster(tmp_path / "l.tif", _labels(), crs=None)
    rows = [f"s.nc,l.tif,{time},{part}" for time, part in enumerate(("train", "val", "test"))]
    data = open_task_data(_spec(_table(tmp_path / "t.csv", "image,label,time,split", *rows)), seed=0)
    assert len(set(data.contents)) == 3
    assert data.names == ("s.nc @0", "s.nc @1", "s.nc @2")


def test_the_same_image_in_two_parts_is_refused_by_its_content(scenes: Scenes, tmp_path: Path) -> None:
    table = scenes("train", "val", "test")
    (tmp_path / "i2.tif").write_bytes((tmp_path / "i0.tif").read_bytes())
    (tmp_path / "l2.tif").write_bytes((tmp_path / "l0.tif").read_bytes())
    with pytest.raises(Exception, match=r"1 sample with the same content in two splits: 'i0\.tif' \(train\) and 'i2"):
        open_task_data(_spec(table), seed=0)


def test_blocks_of_one_image_are_not_the_same_image_twice(scenes: Scenes, tmp_path: Path) -> None:
    scenes("x", size=(32, 32))
    table = _table(tmp_path / "t.csv", "image,label", "i0.tif,l0.tif")
    blocks = SplitSpec(val=0.2, test=0.3, blocks=BlockSpec(size_px=8))
    assert open_task_data(_spec(table, split=blocks), seed=0).num_samples == {"train": 1, "val": 1, "test": 1}


def test_blocks_by_reading_images_or_labels_alone_are_the_same(scenes: Scenes, tmp_path: Path) -> None:
    scenes("x", size=(32, 32))
    table = _table(tmp_path / "t.csv", "image,label,split", "i0.tif,l0.tif,train")
    spec = BlockSpec(size_px=8, buffer_px=1)
    by_reading = blocked(open_maps(_spec(table, split=SplitSpec(val=0.0)), seed=0), spec, val=0.2, test=0.3, seed=4)
    table = _table(tmp_path / "u.csv", "image,label", "i0.tif,l0.tif")
    by_labels = open_maps(_spec(table, split=SplitSpec(val=0.2, test=0.3, blocks=spec)), seed=4)
    for index in range(3):
        np.testing.assert_array_equal(_map(by_reading, index), _map(by_labels, index))
