"""Samples with a class, labels or a number: folders and tables as labelled data."""

import datetime as dt
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import rasterio

from anyband.errors import AnybandError, CatalogueError, InputError, ManifestError, RecipeError
from anyband.labelled import check_task_data, open_task_data
from anyband.labelled.images import open_images
from anyband.labelled.samples import BlockSpec, DataSpec, ListSpec, SplitSpec, TaskData

# Classes of a few samples need large parts.
_QUARTERS = SplitSpec(val=0.25, test=0.25)


def _tiff(path: Path, *, level: int, bands: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    transform = rasterio.Affine(10.0, 0.0, 5e5, 0.0, -10.0, 5e6)
    shape = {"count": bands, "height": 4, "width": 5, "dtype": "uint8", "crs": "EPSG:32632", "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.write(np.stack([np.full((4, 5), level + band, dtype=np.uint8) for band in range(bands)]))
    return path


def _folders(root: Path, counts: dict[str, int]) -> Path:
    level = 0
    for name, count in counts.items():
        for number in range(count):
            _tiff(root / name / f"{name}_{number}.tif", level=(level := level + 1))
    return root


def _table(folder: Path, header: str, rows: Sequence[str], *, name: str = "labels.csv") -> str:
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return str(folder / name)


def _images(folder: Path, num: int) -> list[str]:
    return [_tiff(folder / f"{number}.tif", level=number).name for number in range(num)]


def _open(
    source: str | Path, *, seed: int = 0, sensors: tuple[str, ...] = ("rgb",), split: SplitSpec | None = None
) -> TaskData:
    return open_images(DataSpec(source=str(source), sensors=sensors, split=split or _QUARTERS), seed=seed)


def test_class_folders_become_data(tmp_path: Path) -> None:
    data = _open(_folders(tmp_path / "d", {"wood": 10, "lake": 10}), split=SplitSpec())
    assert (data.name, data.kind, data.classes) == ("d", "class", ("lake", "wood"))
    assert data.names[0] == "lake/lake_0.tif"
    assert data.targets is not None
    assert data.targets.tolist() == [0] * 10 + [1] * 10
    assert data.num_samples == {"train": 14, "val": 2, "test": 4}
    assert [sensor.name for sensor in data.sensors[0]] == ["maxar-rgb"]
    assert data.notes == ("train, val and test are drawn (seed 0)",)


def test_a_sample_is_read_as_stored(tmp_path: Path) -> None:
    data = _open(_folders(tmp_path, {"wood": 5, "lake": 5}), split=SplitSpec(val=0.2, test=0.2))
    (image,) = data.read(data.names.index("wood/wood_2.tif")).images
    assert image.dn[:, 0, 0].tolist() == [3, 4, 5]
    assert image.valid.all()
    assert image.grid is not None
    assert (image.grid.crs, image.grid.gsd_m) == ("EPSG:32632", pytest.approx(10.0, rel=1e-2))
    assert image.sensor == data.sensors[0][0]


def test_part_folders_declare_parts(tmp_path: Path) -> None:
    for part in ("train", "Validation", "test"):
        _folders(tmp_path / part, {"lake": 2, "wood": 1})
    data = _open(tmp_path)
    assert data.classes == ("lake", "wood")
    assert data.num_samples == {"train": 3, "val": 3, "test": 3}
    assert data.names[0] == "Validation/lake/lake_0.tif"


def test_a_class_called_test_is_a_class(tmp_path: Path) -> None:
    assert _open(_folders(tmp_path, {"test": 5, "wood": 5})).classes == ("test", "wood")


def test_validation_that_nothing_declares_is_drawn_from_training(tmp_path: Path) -> None:
    _folders(tmp_path / "train", {"lake": 16, "wood": 16})
    _folders(tmp_path / "test", {"lake": 3, "wood": 3})
    data = _open(tmp_path, split=SplitSpec())
    assert data.num_samples == {"train": 28, "val": 4, "test": 6}
    assert data.targets is not None
    assert np.bincount(data.targets[data.split("val")]).tolist() == [2, 2]
    assert data.notes == ("validation is drawn from training: 0.125 of it (seed 0)",)
    assert _open(tmp_path, split=SplitSpec(val=0.0)).num_samples["val"] == 0


def test_bands_and_encoding_are_as_the_recipe_says(tmp_path: Path) -> None:
    _folders(tmp_path, {"wood": 5, "lake": 5})
    spec = DataSpec(
        source=str(tmp_path),
        sensors=("sentinel2-l2a",),
        bands=(("B04", "B03", "B02"),),
        encodings=("dn",),
        split=_QUARTERS,
    )
    data = open_images(spec, seed=0)
    assert data.sensors[0][0].band_names == ("B04", "B03", "B02")
    assert data.sensors[0][0].default_encoding == "dn"
    assert data.read(0).images[0].sensor.band_names == ("B04", "B03", "B02")


def test_equal_sensors_are_one_object(tmp_path: Path) -> None:
    data = _open(_folders(tmp_path, {"wood": 5, "lake": 5}))
    assert len({id(sensors[0]) for sensors in data.sensors}) == 1


def test_folders_of_bands_are_images_of_every_sensor(tmp_path: Path) -> None:
    for number in range(10):
        folder = tmp_path / "ab"[number % 2] / f"p{number}"
        for band in ("B02", "B03", "VV", "VH"):
            _tiff(folder / f"p{number}_{band}.tif", level=number, bands=1)
    spec = DataSpec(
        source=str(tmp_path), sensors=("sentinel1-grd", "sentinel2-l2a"), bands=((), ("B02", "B03")), split=_QUARTERS
    )
    data = open_images(spec, seed=0)
    images = data.read(0).images
    assert [image.sensor.name for image in images] == ["sentinel1-grd", "sentinel2-l2a"]
    assert [image.sensor.band_names for image in images] == [("VV", "VH"), ("B02", "B03")]
    assert len(set(data.contents)) == 10


def test_a_table_declares_parts_places_and_sensors(tmp_path: Path) -> None:
    names = _images(tmp_path, 6)
    rows = [
        f"{name},{'xy'[row % 2]},{('train', 'train', 'val', 'val', 'test', 'test')[row]},p{row},rgb,2020-06-0{row + 1}"
        for row, name in enumerate(names)
    ]
    data = _open(_table(tmp_path, "path,label,split,place,sensor,datetime", rows), sensors=())
    assert data.splits == ("train", "train", "val", "val", "test", "test")
    assert data.places == tuple(f"p{row}" for row in range(6))
    assert data.read(2).images[0].datetime == dt.datetime(2020, 6, 3, tzinfo=dt.UTC)
    assert data.names == tuple(names)
    check_task_data(data)


def test_several_labels_need_to_be_declared(tmp_path: Path) -> None:
    names = _images(tmp_path, 10)
    table = _table(
        tmp_path, "path,labels", [f"{name},x;y" if row % 2 else f"{name},x" for row, name in enumerate(names)]
    )
    with pytest.raises(
        InputError, match=r"5 samples of .* have no label or several, the first is '.*1\.tif'; say `data.kind"
    ):
        _open(table)
    data = open_images(DataSpec(source=table, kind="labels", sensors=("rgb",)), seed=0)
    assert data.targets is not None
    assert data.targets.tolist() == [[True, bool(row % 2)] for row in range(10)]
    check_task_data(data)


def test_single_labels_may_be_declared_as_labels(tmp_path: Path) -> None:
    _folders(tmp_path, {"wood": 8, "lake": 8})
    data = open_images(DataSpec(source=str(tmp_path), kind="labels", sensors=("rgb",)), seed=0)
    assert data.targets is not None
    assert data.targets.sum(axis=0).tolist() == [8, 8]
    assert data.num_samples == {"train": 11, "val": 2, "test": 3}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_numbers_are_read(tmp_path: Path, ending: str) -> None:
    names = _images(tmp_path, 20)
    if ending == "csv":
        source = _table(tmp_path, "path,yield", [f"{name},{row / 4}" for row, name in enumerate(names)])
    else:
        source = str(tmp_path / "labels.parquet")
        pyarrow.parquet.write_table(pyarrow.table({"path": names, "yield": [row / 4 for row in range(20)]}), source)
    spec = DataSpec(source=source, kind="number", sensors=("rgb",), label_column="yield")
    data = open_images(spec, seed=0)
    assert data.classes == ()
    assert data.targets is not None
    assert data.targets.tolist() == [row / 4 for row in range(20)]
    assert data.num_samples == {"train": 14, "val": 2, "test": 4}
    check_task_data(data)


def test_sets_have_their_names_and_sensors_by_position(tmp_path: Path) -> None:
    rows = []
    for number in range(10):
        _tiff(tmp_path / f"o{number}.tif", level=number)
        _tiff(tmp_path / f"r{number}.tif", level=number + 50, bands=2)
        rows += [f"o{number}.tif,s{number},{'xy'[number % 2]}", f"r{number}.tif,s{number},{'xy'[number % 2]}"]
    data = _open(_table(tmp_path, "path,set,label", rows), sensors=("rgb", "sentinel1-grd"))
    assert data.names == tuple(f"s{number}" for number in range(10))
    assert [sensor.name for sensor in data.sensors[3]] == ["maxar-rgb", "sentinel1-grd"]
    assert [image.dn[0, 0, 0] for image in data.read(3).images] == [3, 53]


def test_a_row_of_a_known_sensor_is_stored_as_the_recipe_says(tmp_path: Path) -> None:
    names = _images(tmp_path, 8)
    rows = [f"{name},{'xy'[row % 2]},sentinel2-l2a" for row, name in enumerate(names)]
    spec = DataSpec(
        source=_table(tmp_path, "path,label,sensor", rows),
        sensors=("sentinel1-grd", "sentinel2-l2a"),
        bands=((), ("B02", "B03", "B04")),
        split=_QUARTERS,
    )
    assert open_images(spec, seed=0).sensors[0][0].band_names == ("B02", "B03", "B04")


def test_lists_declare_parts(tmp_path: Path) -> None:
    _folders(tmp_path / "d", {"wood": 10, "lake": 10})
    (tmp_path / "train.txt").write_text("".join(f"{c}_{n}.jpg\n" for c in ("wood", "lake") for n in range(8)))
    (tmp_path / "test.txt").write_text("wood/wood_8.jpg\nlake/lake_8.jpg\n")
    lists = ListSpec(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    data = _open(tmp_path / "d", split=SplitSpec(lists=lists))
    assert data.num_samples == {"train": 14, "val": 2, "test": 2}
    assert data.notes == (
        "2 of 20 samples are in no split list and left out",
        "validation is drawn from training: 0.125 of it (seed 0)",
    )
    assert "lake/lake_9.tif" not in data.names


def test_lists_may_name_what_is_not_there(tmp_path: Path) -> None:
    _folders(tmp_path / "d", {"wood": 8, "lake": 8})
    (tmp_path / "train.txt").write_text("".join(f"{c}_{n}.jpg\n" for c in ("wood", "lake") for n in range(9)))
    (tmp_path / "test.txt").write_text("wood_9.jpg\n")
    lists = ListSpec(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    spec = DataSpec(source=str(tmp_path / "d"), sensors=("rgb",), split=SplitSpec(lists=lists))
    with pytest.raises(
        ManifestError, match=r"train.txt' lists 2 names that .* does not have, the first is 'wood_8\.jpg'"
    ):
        open_images(spec, seed=0)


def test_equal_seeds_and_data_give_equal_fingerprints_elsewhere(tmp_path: Path) -> None:
    prints = []
    for root in ("here", "there"):
        data = _open(_folders(tmp_path / root, {"wood": 8, "lake": 8}))
        prints.append(data.fingerprint)
    assert prints[0] == prints[1]
    other_seed = _open(tmp_path / "here", seed=1).fingerprint
    (tmp_path / "here" / "wood" / "wood_0.tif").write_bytes((tmp_path / "here" / "lake" / "lake_0.tif").read_bytes())
    other_bytes = _open(tmp_path / "here").fingerprint
    spec = DataSpec(source=str(tmp_path / "there"), sensors=("rgb",), bands=(("B", "G", "R"),))
    other_sensor = open_images(spec, seed=0).fingerprint
    assert len({prints[0], other_seed, other_bytes, other_sensor}) == 4


def test_sizes_may_be_compared_in_place_of_contents(tmp_path: Path) -> None:
    _folders(tmp_path, {"wood": 8, "lake": 8})
    spec = DataSpec(source=str(tmp_path), sensors=("rgb",), options={"contents": "sizes"})
    data = open_images(spec, seed=0)
    assert data.contents == ()
    assert data.notes[-1].startswith("contents of files were not compared")


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"sensors": ()}, ManifestError, r"nothing says which sensor the images in '.*' are of; name it in the recipe"),
        ({"sensors": ("rbg",)}, CatalogueError, "there is no sensor 'rbg'"),
        ({"bands": (("R",), ("G",))}, RecipeError, r"data\.bands has 2 entries, data\.sensors has 1"),
        ({"bands": (("R",),), "sensors": ()}, RecipeError, "name them in the table's column `bands`"),
        ({"encodings": ("odd",)}, CatalogueError, "encoding 'odd' is not declared"),
        ({"options": {"absnet": "x"}}, RecipeError, r"has no option 'absnet'.*did you mean 'absent'"),
        (
            {"options": {"absent": "x"}},
            RecipeError,
            r"option 'absent' of '.*' must be one of refuse, leave_out, found 'x'",
        ),
        ({"split": SplitSpec(blocks=BlockSpec(size_px=4))}, RecipeError, r"split\.blocks are for maps"),
        ({"kind": "number"}, ManifestError, "is a folder, whose names are classes; numbers come from a table"),
        ({"source": "none"}, ManifestError, "'none' does not exist"),
    ],
)
def test_a_wrong_recipe_is_explained(
    tmp_path: Path, changed: dict[str, object], error: type[AnybandError], message: str
) -> None:
    _folders(tmp_path, {"wood": 4, "lake": 4})
    given: dict[str, object] = {"source": str(tmp_path), "sensors": ("rgb",)} | changed
    with pytest.raises(error, match=message):
        open_images(DataSpec(**given), seed=0)  # type: ignore[arg-type]


def test_a_row_without_a_sensor_is_named(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label", [f"{name},x" for name in _images(tmp_path, 2)])
    with pytest.raises(ManifestError, match=r"row 1 of '.*': nothing says which sensor took '0\.\w+'"):
        _open(table, sensors=())


def test_a_declared_part_and_lists_are_one_too_many(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label,split", [f"{name},x,train" for name in _images(tmp_path, 2)])
    with pytest.raises(ManifestError, match=r"declares splits itself, and `split\.lists` names lists of them"):
        _open(table, split=SplitSpec(lists=ListSpec(train="a", test="b")))


def test_lists_that_tear_places_are_refused(tmp_path: Path) -> None:
    rows = [f"{name},{'xy'[row % 2]},p{row // 4}" for row, name in enumerate(_images(tmp_path, 8))]
    (tmp_path / "train.txt").write_text("0\n1\n4\n5\n")
    (tmp_path / "test.txt").write_text("2\n3\n6\n7\n")
    lists = ListSpec(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    with pytest.raises(ManifestError, match="images of place 'p0' in 'train' and in 'test'"):
        _open(_table(tmp_path, "path,label,place", rows), split=SplitSpec(lists=lists))


def test_large_tables_are_listed_without_opening_images(tmp_path: Path) -> None:
    for number in range(1_000):
        (tmp_path / f"{number}.tif").write_bytes(number.to_bytes(4, "little"))
    rows = [f"{number}.tif,{'xyz'[number % 3]};{'uvw'[number % 2]},p{number // 3}" for number in range(1_000)]
    spec = DataSpec(source=_table(tmp_path, "path,labels,place", rows), kind="labels", sensors=("sentinel2-l2a",))
    started = time.monotonic()
    data = open_task_data(spec, seed=0)
    assert data.num_samples["test"] == pytest.approx(200, abs=15)
    assert time.monotonic() - started < 7.5


@pytest.mark.real
def test_uc_merced_is_opened_without_twins(real_data: Path) -> None:
    spec = DataSpec(source=str(real_data / "ucmerced_jpg"), sensors=("rgb",))
    data = open_task_data(spec, seed=0)
    assert data.num_samples == {"train": 1323, "val": 189, "test": 378}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        assert data.read(0).images[0].dn.shape[0] == 3


@pytest.mark.real
def test_ten_samples_a_class_of_uc_merced(real_data: Path) -> None:
    spec = DataSpec(source=str(real_data / "ucmerced_jpg"), sensors=("rgb",), split=SplitSpec(per_class=10))
    data = open_task_data(spec, seed=0)
    assert data.targets is not None
    assert np.bincount(data.targets[data.split("train")]).tolist() == [10] * 21
