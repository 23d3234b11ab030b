"""Tables and folders of labelled images: what is listed, and what is refused."""

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from anyband.errors import AnybandError, ManifestError
from anyband.labelled.images import open_images
from anyband.labelled.samples import DataSpec, SplitSpec, TaskKind
from anyband.labelled.tables import ListedSample, list_samples

_HEADER = "path,set,label,sensor,datetime,bands\n"


def _class_folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{name}{number:02d}.jpg").touch()
    return root


def _table(folder: Path, text: str, *images: str) -> Path:
    for image in images:
        (folder / image).touch()
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def _listed(source: Path, *, kind: TaskKind = "labels", sensor: str | None = "maxar-rgb") -> list[ListedSample]:
    return list_samples(DataSpec(source=str(source), kind=kind, sensors=(sensor,) if sensor else ()))


def test_class_folders_give_classes_by_name(tmp_path: Path) -> None:
    samples = _listed(_class_folders(tmp_path, {"river": 2, "beach": 3, ".cache": 1}), kind="class")
    assert [one.label for one in samples] == [("beach",)] * 3 + [("river",)] * 2
    assert [one.images[0].name for one in samples][:2] == ["beach/beach00.jpg", "beach/beach01.jpg"]


def test_hidden_files_and_text_are_left_out(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"beach": 2})
    (root / "beach" / "notes.txt").touch()
    (root / "beach" / ".hidden.jpg").touch()
    assert len(_listed(root)) == 2


def test_folders_that_are_no_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no class folders; each class is a folder"):
        _listed(tmp_path)
    with pytest.raises(ManifestError, match=r"class folder '.*river' has no images"):
        _listed(_class_folders(tmp_path, {"beach": 2, "river": 0}))
    with pytest.raises(ManifestError, match=r"come as a folder of class folders.*none.txt' does not exist"):
        _listed(tmp_path / "none.txt")


def test_a_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"beach": 1, "river": 1})
    (root / "river" / "same.jpg").symlink_to(root / "beach" / "beach00.jpg")
    with pytest.raises(
        ManifestError, match=r"beach00.jpg' more than once, also as '.*same.jpg'; an image in two places would leak"
    ):
        open_images(DataSpec(source=str(root), sensors=("maxar-rgb",)), seed=0)


def test_labels_are_taken_apart(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label\na.tif,wood;water\nb.tif,water|01\nc.tif,\n", "a.tif", "b.tif", "c.tif")
    assert [one.label for one in _listed(table)] == [("wood", "water"), ("water", "01"), ()]


def test_parquet_tables_have_lists_and_sets(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).touch()
    table = pyarrow.table({"path": ["a.tif", "b.tif"], "set": ["p", "p"], "labels": [["y", "x"], ["x", "y"]]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    (sample,) = _listed(tmp_path / "t.parquet")
    assert (sample.name, sample.label, len(sample.images)) == ("p", ("y", "x"), 2)


def test_rows_of_one_set_are_one_sample(tmp_path: Path) -> None:
    rows = [
        "a.tif,field,corn,sentinel2-l2a,2020-06-01,B02;B03",
        "c.tif,,trees,,,",
        "b.tif,field,corn,sentinel1-grd,2020-06-03T10:00:00Z,",
    ]
    field, wood = _listed(_table(tmp_path, _HEADER + "\n".join(rows), "a.tif", "b.tif", "c.tif"))
    assert [entry.sensor.name for entry in field.images] == ["sentinel2-l2a", "sentinel1-grd"]
    assert field.images[0].sensor.band_names == ("B02", "B03")
    assert [f"{entry.datetime:%d.%m.%Y}" for entry in field.images if entry.datetime] == ["01.06.2020", "03.06.2020"]
    assert [(entry.sensor.name, entry.source.paths) for entry in wood.images] == [("maxar-rgb", (tmp_path / "c.tif",))]


def test_columns_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    (sample,) = _listed(_table(tmp_path, "image,set,class,remark\na.tif,p,x,cloudy\n", "a.tif"))
    assert sample.images[0].name == "a.tif"


def test_sensors_of_equal_bands_and_encodings_stay_apart(tmp_path: Path) -> None:
    rows = [f"{name},{label},landsat{number}-oli-tirs-l1" for name, label, number in (("a", "x", 8), ("b", "y", 9))]
    rows += ["c,x,landsat8-oli-tirs-l1", "d,y,landsat9-oli-tirs-l1"]
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode())
    table = _table(tmp_path, "path,label,sensor,split\n" + "\n".join(f"{row},train" for row in rows))
    data = open_images(DataSpec(source=str(table), split=SplitSpec(val=0.0)), seed=0)
    assert [sensors[0].name for sensors in data.sensors] == [f"landsat{number}-oli-tirs-l1" for number in (8, 9, 8, 9)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na.tif,x\n", "needs a column 'label'; it has path, lable; did you mean 'lable'"),
        ("path,label\n", "lists no images"),
        ("", "lists no images; give it a row for each"),
        ("path,label\n,x\n", "row 1 of '.*': it has no path"),
        ("path,label\nb.tif,x\n", "row 1 of '.*': '.*b.tif' does not exist"),
        ("path,label,split\na.tif,x,tset\n", "row 1 of '.*': split 'tset' is unknown .*; did you mean 'test'"),
        ("path,label,split\na.tif,x,\nb.png,x,test\n", "1 of the 2 samples of .* has no `split`; declare it"),
        ("path,label\na.tif,x\n./a.tif,x\n", "a.tif' more than once"),
        ("path,label\na.tif,x,y\n", "row 1 of '.*' has 3 cells, the header has 2"),
        ("path,label\na.tif,\n", "has no labels"),
        ("path,set,label\na.tif,p,x\nb.png,p,y\n",
         r"rows 1 and 2 of '.*labels.csv' are of set 'p', but have the label 'x' and 'y'; a set has one label"),
        ("path,set,label,split\na.tif,p,x,train\nb.png,p,x,test\n", "have the split 'train' and 'test'; a set has one"),
        ("path,set,label,place\na.tif,p,x,k\nb.png,p,x,l\n", "have the place 'k' and 'l'; a set has one place"),
        ("path,set,label\na.tif,p,x\na.tif,q,x\n", r"a\.tif' more than once"),
        ("path,set,label\na.tif,p,x\na.tif,p,x\n", r"a\.tif' more than once; an image stands in a set once"),
        ("path,label,place,split\na.tif,x,k,train\nb.png,x,k,test\n", "images of place 'k' in 'train' and in 'test'"),
        ("path,label,sensor\na.tif,x,sentinel9\n", r"row 1 of '.*': .*sentinel9.*did you mean"),
        ("path,label,datetime\na.tif,x,yesterday\n", r"row 1 of '.*': datetime 'yesterday' is not ISO 8601"),
        ("path,label,bands\na.tif,x,B99\n", r"row 1 of '.*': band 'B99' is not in sensor 'maxar-rgb'"),
        ("path,label,encoding\na.tif,x,odd\n", r"row 1 of '.*': encoding 'odd' is not declared"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_explained(tmp_path: Path, text: str, message: str) -> None:
    table = _table(tmp_path, text, "a.tif", "b.png")
    with pytest.raises(AnybandError, match=message):
        open_images(DataSpec(source=str(table), kind="labels", sensors=("maxar-rgb",)), seed=0)


def test_an_image_without_sensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"row 1 of '.*': nothing says which sensor took 'a\.tif'; name it by"):
        _listed(_table(tmp_path, "path,set,label\na.tif,p,x\n", "a.tif"), sensor=None)
