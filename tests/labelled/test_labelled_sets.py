"""Tables whose samples are sets of images."""

from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from anyband.errors import ManifestError
from anyband.labelled.tables import LabelForm, Slot, read_labelled, split

_RGB = LabelForm(slots=(Slot(sensor="maxar-rgb"),))
_HEADER = "path,set,label,sensor,datetime,bands\n"


def _table(folder: Path, text: str, *images: str) -> Path:
    for image in images:
        (folder / image).touch()
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_of_one_set_are_one_sample(tmp_path: Path) -> None:
    rows = [
        "a.tif,field,corn,sentinel2-l2a,2020-06-01,B02;B03",
        "c.tif,wood,trees,sentinel2-l2a,,",
        "b.tif,field,corn,sentinel1-grd,2020-06-03T10:00:00Z,",
    ]
    images = read_labelled(_table(tmp_path, _HEADER + "\n".join(rows), "a.tif", "b.tif", "c.tif"))
    assert len(images) == 2
    assert images.classes == ("corn", "trees")
    assert images.targets().tolist() == [0, 1]
    assert images.paths == (tmp_path / "a.tif", tmp_path / "c.tif")
    field, wood = images.members
    assert [entry.sensor.name for entry in field] == ["sentinel2-l2a", "sentinel1-grd"]
    assert field[0].sensor.band_names == ("B02", "B03")
    assert [f"{entry.datetime:%d.%m.%Y}" for entry in field if entry.datetime] == ["01.06.2020", "03.06.2020"]
    assert [entry.source.paths for entry in wood] == [(tmp_path / "c.tif",)]


def test_a_row_without_a_set_is_a_set_of_its_own(tmp_path: Path) -> None:
    text = "path,set,label\na.tif,,x\nb.tif,p,x\nc.tif,,y\nd.tif,p,x\n"
    images = read_labelled(_table(tmp_path, text, "a.tif", "b.tif", "c.tif", "d.tif"), form=_RGB)
    assert [len(members) for members in images.members] == [1, 2, 1]


def test_rows_without_a_sensor_have_the_one_that_is_named_beside_the_table(tmp_path: Path) -> None:
    text = "path,set,label,sensor\na.tif,p,x,\nb.tif,p,x,sentinel1-grd\n"
    images = read_labelled(_table(tmp_path, text, "a.tif", "b.tif"), form=_RGB)
    assert [entry.sensor.name for entry in images.members[0]] == ["maxar-rgb", "sentinel1-grd"]


def test_columns_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    text = "image,set,class,remark\na.tif,p,x,cloudy\n"
    images = read_labelled(_table(tmp_path, text, "a.tif"), form=_RGB)
    assert images.members[0][0].name == "a.tif"


def test_a_table_without_a_set_has_images(tmp_path: Path) -> None:
    images = read_labelled(_table(tmp_path, "path,label,sensor\na.tif,x,nonsense\n", "a.tif"))
    assert images.members == ()


def test_parquet_tables_have_sets_too(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).touch()
    table = pyarrow.table({"path": ["a.tif", "b.tif"], "set": ["p", "p"], "labels": [["y", "x"], ["x", "y"]]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    images = read_labelled(tmp_path / "t.parquet", form=_RGB)
    assert (len(images), images.multi_label, images.labels) == (1, True, ((0, 1),))


def _many(folder: Path, *, declared: bool) -> Path:
    rows = ["path,set,label,place" + ",split" * declared]
    for number in range(40):
        for date in range(1 + number % 3):
            (folder / f"{number}_{date}.tif").touch()
            part = f",{('train', 'val', 'test')[number % 3]}" if declared else ""
            rows.append(f"{number}_{date}.tif,s{number},{'ab'[number % 2]},p{number // 2}{part}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


def test_splits_are_drawn_by_set_and_keep_places_together(tmp_path: Path) -> None:
    images = split(read_labelled(_many(tmp_path, declared=False), form=_RGB), val=0.2, test=0.2, seed=0)
    assert len(images.splits) == len(images.members) == 40
    parts: dict[str, set[str]] = {}
    for place, part in zip(images.places, images.splits, strict=True):
        parts.setdefault(place, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    assert Counter(images.splits) == {"train": 24, "val": 8, "test": 8}
    in_test = [index for index, part in enumerate(images.splits) if part == "test"]
    assert images.take(in_test).members == tuple(images.members[index] for index in in_test)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,set,label\na.tif,p,x\nb.tif,p,y\n",
            r"rows 1 and 2 of '.*labels.csv' are of set 'p', but have the label 'x' and 'y'; a set has one label",
        ),
        (
            "path,set,label,split\na.tif,p,x,train\nb.tif,p,x,test\n",
            "are of set 'p', but have the split 'train' and 'test'; a set has one split",
        ),
        ("path,set,label,place\na.tif,p,x,k\nb.tif,p,x,l\n", "have the place 'k' and 'l'; a set has one place"),
        ("path,set,label\na.tif,p,x\na.tif,q,x\n", r"rows 1 and 2 of '.*' are of one image, 'a\.tif'; keep one"),
        ("path,set,label,sensor\na.tif,p,x,sentinel9\n", r"row 1 of '.*': .*sentinel9.*did you mean"),
        ("path,set,label,datetime\na.tif,p,x,yesterday\n", r"row 1 of '.*': datetime 'yesterday' is not ISO 8601"),
        ("path,set,label,bands\na.tif,p,x,B99\n", r"row 1 of '.*': band 'B99' is not in sensor 'maxar-rgb'"),
        ("path,set,label,encoding\na.tif,p,x,odd\n", r"row 1 of '.*': encoding 'odd' is not declared"),
    ],
)
def test_a_wrong_table_of_sets_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_labelled(_table(tmp_path, text, "a.tif", "b.tif"), form=_RGB)


def test_a_set_whose_images_have_no_sensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"row 1 of '.*': 'sensor' is missing"):
        read_labelled(_table(tmp_path, "path,set,label\na.tif,p,x\n", "a.tif"))
