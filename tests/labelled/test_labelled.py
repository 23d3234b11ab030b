"""Labelled images and their splits."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError, ManifestError
from anyband.labelled.tables import LabelledImages, read_class_folders, read_labelled, split


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


def _in_test(images: LabelledImages) -> LabelledImages:
    return images.take([index for index, part in enumerate(images.splits) if part == "test"])


def _made(counts: dict[str, int]) -> LabelledImages:
    numbers = [index for index, count in enumerate(counts.values()) for _ in range(count)]
    return LabelledImages(
        paths=tuple(Path(f"{row}.jpg") for row in range(len(numbers))),
        labels=tuple((number,) for number in numbers),
        classes=tuple(counts),
        multi_label=False,
    )


def test_class_folders_give_classes_by_name(tmp_path: Path) -> None:
    images = read_labelled(_class_folders(tmp_path, {"river": 2, "beach": 3}))
    assert images.classes == ("beach", "river")
    assert [path.name for path in images.paths][:2] == ["beach00.jpg", "beach01.jpg"]
    assert images.targets().tolist() == [0, 0, 0, 1, 1]


def test_hidden_files_and_text_are_left_out(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"beach": 2, ".cache": 1})
    (root / "beach" / "notes.txt").touch()
    (root / "beach" / ".hidden.jpg").touch()
    assert len(read_class_folders(root)) == 2


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"class folder '.*river' has no images"):
        read_class_folders(_class_folders(tmp_path, {"beach": 2, "river": 0}))


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ManifestError, match="has no class folders; each class is a folder"):
        read_labelled(tmp_path)


def test_a_file_in_two_classes_is_refused(tmp_path: Path) -> None:
    root = _class_folders(tmp_path, {"beach": 1, "river": 1})
    (root / "river" / "same.jpg").symlink_to(root / "beach" / "beach00.jpg")
    with pytest.raises(ManifestError, match=r"beach00.jpg' more than once; an image in two places would leak"):
        read_class_folders(root)


def test_a_table_gives_paths_beside_it(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label\na.tif,corn\nb.tif,01\n", "a.tif", "b.tif")
    images = read_labelled(table)
    assert images.paths == (tmp_path / "a.tif", tmp_path / "b.tif")
    assert [images.classes[row[0]] for row in images.labels] == ["corn", "01"]


def test_several_labels_make_it_multi_label(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label\na.tif,wood;water\nb.tif,water|town\nc.tif,\n", "a.tif", "b.tif", "c.tif")
    images = read_labelled(table)
    assert images.classes == ("town", "water", "wood")
    assert images.multi_label
    assert images.targets().astype(int).tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0]]


def test_a_parquet_table_with_lists_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    (tmp_path / "b.tif").touch()
    table = pyarrow.table({"path": ["a.tif", "b.tif"], "labels": [["x", "y"], ["y"]]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    images = read_labelled(tmp_path / "t.parquet")
    assert images.targets().astype(int).tolist() == [[1, 1], [0, 1]]


def test_a_declared_split_is_kept(tmp_path: Path) -> None:
    table = _table(tmp_path, "path,label,split\na.tif,x,test\nb.tif,y,train\n", "a.tif", "b.tif")
    images = split(read_labelled(table), val=0.2, test=0.2, seed=0)
    assert images.splits == ("test", "train")
    assert _in_test(images).paths == (tmp_path / "a.tif",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na.tif,x\n", "needs a column 'label'; it has path, lable; did you mean 'lable'"),
        ("path,label\n", "lists no images"),
        ("", "is empty; it needs a header"),
        ("path,label\n,x\n", "row 1 of '.*' has no path"),
        ("path,label\nb.tif,x\n", "row 1 of '.*' names '.*b.tif', which does not exist"),
        ("path,label,split\na.tif,x,tset\n", "has the split 'tset'; .* did you mean 'test'"),
        ("path,label\na.tif,x\na.tif,x\n", "a.tif' more than once"),
        ("path,label\na.tif,x,y\n", "row 1 of '.*' has 3 fields, the header has 2"),
        ("path,label\na.tif,\n", "has no labels"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_labelled(_table(tmp_path, text, "a.tif"))


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"come as a folder of class folders.*none.txt' does not exist"):
        read_labelled(tmp_path / "none.txt")


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(20, 60), min_size=2, max_size=5),
    val=st.sampled_from([0.0, 0.1, 0.25]),
    test=st.sampled_from([0.0, 0.1, 0.25]),
    seed=st.integers(0, 2**40),
)
def test_each_part_has_the_classes_in_the_same_shares(counts: list[int], val: float, test: float, seed: int) -> None:
    images = split(_made({f"c{i}": count for i, count in enumerate(counts)}), val=val, test=test, seed=seed)
    parts = Counter(zip(images.targets().tolist(), images.splits, strict=True))
    for number, count in enumerate(counts):
        assert parts[number, "test"] == pytest.approx(test * count, abs=1.0)
        assert parts[number, "val"] == pytest.approx(val * count, abs=2.0)


def test_equal_seeds_draw_equal_splits_and_others_do_not() -> None:
    images = _made({"a": 30, "b": 30})
    first, again, other = (split(images, val=0.2, test=0.2, seed=seed).splits for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_multi_label_images_are_split_too() -> None:
    images = LabelledImages(
        paths=tuple(Path(f"{row}.tif") for row in range(50)),
        labels=tuple((0, 1) if row % 2 else () for row in range(50)),
        classes=("a", "b"),
        multi_label=True,
    )
    assert Counter(split(images, val=0.1, test=0.2, seed=0).splits) == {"train": 35, "val": 5, "test": 10}


def test_a_class_of_one_image_is_refused() -> None:
    with pytest.raises(InputError, match="class 'b' has 1 image, too few for 3 parts; add images"):
        split(_made({"a": 30, "b": 1}), val=0.2, test=0.2, seed=0)


def test_shares_over_one_are_refused() -> None:
    with pytest.raises(InputError, match=r"found val 0.5, test 0.6"):
        split(_made({"a": 30}), val=0.5, test=0.6, seed=0)


@pytest.mark.real
def test_uc_merced_is_read_and_split_by_class(real_data: Path) -> None:
    images = split(read_labelled(real_data / "ucmerced_jpg"), val=0.1, test=0.2, seed=0)
    assert (len(images), len(images.classes)) == (1890, 21)
    shares = np.bincount(_in_test(images).targets()) / np.bincount(images.targets())
    assert np.abs(shares - 0.2).max() < 0.02


def _table_of_places(folder: Path, *, dates: int, places: int, split: bool = False) -> Path:
    rows = ["path,label,place,split" if split else "path,label,place"]
    for place in range(places):
        for date in range(dates):
            path = folder / f"{place}_{date}.tif"
            path.touch()
            part = f",{('train', 'test')[date % 2]}" if split else ""
            rows.append(f"{path.name},{'ab'[place % 2]},p{place}{part}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder / "labels.csv"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_images_of_one_place_stay_in_one_part(tmp_path: Path, seed: int) -> None:
    images = split(read_labelled(_table_of_places(tmp_path, dates=3, places=20)), val=0.2, test=0.2, seed=seed)
    parts: dict[str, set[str]] = {}
    for place, part in zip(images.places, images.splits, strict=True):
        parts.setdefault(place, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())
    assert [images.splits.count(part) for part in ("train", "val", "test")] == [36, 12, 12]


def test_places_are_drawn_with_the_classes_in_the_same_shares(tmp_path: Path) -> None:
    images = split(read_labelled(_table_of_places(tmp_path, dates=2, places=20)), val=0.2, test=0.2, seed=0)
    in_test = _in_test(images)
    assert [in_test.labels.count((number,)) for number in (0, 1)] == [4, 4]


def test_a_place_declared_in_two_parts_is_refused(tmp_path: Path) -> None:
    table = _table_of_places(tmp_path, dates=2, places=4, split=True)
    with pytest.raises(ManifestError, match="images of place 'p0' in 'train' and in 'test'"):
        read_labelled(table)


def test_a_class_with_one_place_is_refused_though_it_has_many_images(tmp_path: Path) -> None:
    table = _table_of_places(tmp_path, dates=5, places=3)
    with pytest.raises(InputError, match="class 'b' has 1 place, too few for 3 parts"):
        split(read_labelled(table), val=0.2, test=0.2, seed=0)
