"""Labelled data that no honest score can come from are refused, with what is wrong and what to do."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyband.errors import AnybandError, InputError, ManifestError, RasterError
from anyband.labelled import open_task_data
from anyband.labelled.samples import DataSpec, ListSpec, SplitSpec, TaskKind


def _images(folder: Path, num: int) -> list[str]:
    rng = np.random.default_rng(0)
    for number in range(num):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(folder / f"{number}.png")
    return [f"{number}.png" for number in range(num)]


def _refused(
    folder: Path, header: str, rows: Sequence[str], *, kind: TaskKind = "class", split: SplitSpec | None = None
) -> AnybandError:
    """Open a table and give what is said against it."""
    (folder / "t.csv").write_text("\n".join([header, *rows]) + "\n")
    spec = DataSpec(source=str(folder / "t.csv"), kind=kind, sensors=("rgb",), split=split or SplitSpec())
    with pytest.raises(AnybandError) as caught:
        open_task_data(spec, seed=0)
    return caught.value


_PARTS = ("train", "train", "val", "val", "test", "test")


def _rows(names: Sequence[str], labels: str = "ababab", parts: Sequence[str] = _PARTS) -> list[str]:
    return [",".join(row) for row in zip(names, labels, parts, strict=True)]


def test_a_class_in_test_that_training_lacks(tmp_path: Path) -> None:
    refusal = _refused(tmp_path, "path,label,split", _rows(_images(tmp_path, 6), "ababac"))
    assert isinstance(refusal, InputError)
    assert "1 of 3 classes is in split 'test' of 't.csv' and not in training: 'c'; add training samples" in str(refusal)


def test_a_label_in_validation_that_training_lacks(tmp_path: Path) -> None:
    refusal = _refused(tmp_path, "path,label,split", _rows(_images(tmp_path, 6), "aabaaa"), kind="labels")
    assert "1 of 2 classes is in split 'val' of 't.csv' and not in training: 'b'" in str(refusal)


def test_a_part_without_samples(tmp_path: Path) -> None:
    rows = _rows(_images(tmp_path, 6), parts=("train",) * 4 + ("val",) * 2)
    refusal = str(_refused(tmp_path, "path,label,split", rows))
    assert "'t.csv' has no sample in split 'test' to report (samples: train 4, val 2, test 0); declare some" in refusal


def test_a_test_share_of_nothing(tmp_path: Path) -> None:
    rows = [row.rsplit(",", 1)[0] for row in _rows(_images(tmp_path, 6))]
    refusal = str(_refused(tmp_path, "path,label", rows, split=SplitSpec(val=0.4, test=0.0)))
    assert "has no sample in split 'test'" in refusal


def test_the_same_path_in_two_parts(tmp_path: Path) -> None:
    names = _images(tmp_path, 5)
    refusal = _refused(tmp_path, "path,label,split", _rows([*names, names[0]]))
    assert isinstance(refusal, ManifestError)
    assert "0.png' more than once; an image in two places would leak from one split into another" in str(refusal)


def test_the_same_file_by_a_link(tmp_path: Path) -> None:
    names = _images(tmp_path, 5)
    (tmp_path / "link.png").symlink_to(tmp_path / names[0])
    assert "0.png' more than once" in str(_refused(tmp_path, "path,label,split", _rows([*names, "link.png"])))


def test_the_same_file_by_a_detour(tmp_path: Path) -> None:
    names = _images(tmp_path, 5)
    detour = f"../{tmp_path.name}/{names[0]}"
    assert "0.png' more than once" in str(_refused(tmp_path, "path,label,split", _rows([*names, detour])))


def test_the_same_content_in_two_parts(tmp_path: Path) -> None:
    names = _images(tmp_path, 6)
    shutil.copy(tmp_path / names[1], tmp_path / names[4])
    refusal = str(_refused(tmp_path, "path,label,split", _rows(names)))
    assert "1 sample with the same content in two splits: '1.png' (train) and '4.png' (test)" in refusal
    assert "keep one of each, or both in one split" in refusal


def test_the_same_content_in_two_parts_where_files_are_large(tmp_path: Path) -> None:
    names = _images(tmp_path, 6)
    pixels = np.random.default_rng(1).integers(0, 255, (700, 700, 3)).astype(np.uint8)
    for name in (names[0], names[5]):
        Image.fromarray(pixels).save(tmp_path / name)
    assert (tmp_path / names[0]).stat().st_size > 1 << 20
    assert "'0.png' (train) and '5.png' (test)" in str(_refused(tmp_path, "path,label,split", _rows(names)))


def test_a_place_in_two_parts(tmp_path: Path) -> None:
    rows = [f"{row},p{number % 3}" for number, row in enumerate(_rows(_images(tmp_path, 6)))]
    refusal = str(_refused(tmp_path, "path,label,split,place", rows))
    assert "images of place 'p2' in 'val' and in 'test'" in refusal or "in 'train' and in 'val'" in refusal


def test_a_class_with_one_sample_can_not_be_stratified(tmp_path: Path) -> None:
    rows = [f"{name},{label}" for name, label in zip(_images(tmp_path, 11), "aaaaabbbbbc", strict=True)]
    refusal = _refused(tmp_path, "path,label", rows)
    assert isinstance(refusal, InputError)
    assert "class 'c' has 1 image, too few for 3 splits; add images, leave the class out, or declare" in str(refusal)


def test_classes_too_small_for_the_shares(tmp_path: Path) -> None:
    rows = [f"{name},{label}" for name, label in zip(_images(tmp_path, 8), "aaaabbbb", strict=True)]
    refusal = str(_refused(tmp_path, "path,label", rows))
    assert "of 2 classes can't be split with a share of" in refusal
    assert "take a larger share, add images, or declare a column `split`" in refusal


def test_several_labels_of_a_class(tmp_path: Path) -> None:
    rows = [f"{name},a;b" for name in _images(tmp_path, 4)]
    refusal = str(_refused(tmp_path, "path,label", rows))
    assert "4 samples of " in refusal
    assert "have no label or several, the first is" in refusal
    assert "say `data.kind=labels` (`--multi-label`), or give every sample one label" in refusal


def test_one_class_for_all(tmp_path: Path) -> None:
    refusal = str(_refused(tmp_path, "path,label,split", _rows(_images(tmp_path, 6), "aaaaaa")))
    assert "'t.csv' needs samples of two classes at least, only 'a' is there" in refusal


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", "row 3 of '{}': column 'label' has nothing; give every sample a number"),
        ("nan", "row 3 of '{}': column 'label' has 'nan'; numbers must be finite"),
        ("inf", "row 3 of '{}': column 'label' has 'inf'; numbers must be finite"),
        ("tall", "row 3 of '{}': column 'label' has 'tall', which is no number"),
    ],
)
def test_a_number_that_is_none(tmp_path: Path, cell: str, message: str) -> None:
    labels = ["1", "2.5", cell, "3", "4e1", "-5"]
    rows = [",".join(row) for row in zip(_images(tmp_path, 6), labels, _PARTS, strict=True)]
    refusal = str(_refused(tmp_path, "path,label,split", rows, kind="number"))
    assert message.format(tmp_path / "t.csv") in refusal


def test_more_of_each_class_than_there_are(tmp_path: Path) -> None:
    refusal = str(_refused(tmp_path, "path,label,split", _rows(_images(tmp_path, 6)), split=SplitSpec(per_class=2)))
    assert "class 'a' has 1 training sample, split.per_class asks for 2; ask for fewer" in refusal


def test_lists_of_other_data(tmp_path: Path) -> None:
    rows = [row.rsplit(",", 1)[0] for row in _rows(_images(tmp_path, 6))]
    (tmp_path / "train.txt").write_text("forest_1.tif\nforest_2.tif\n0.png\n")
    (tmp_path / "test.txt").write_text("1.png\n")
    lists = ListSpec(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    refusal = str(_refused(tmp_path, "path,label", rows, split=SplitSpec(lists=lists)))
    assert "train.txt' lists 2 names that" in refusal
    assert "the first is 'forest_1.tif'; complete the data, or leave them out" in refusal


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    rows = [row.rsplit(",", 1)[0] for row in _rows(_images(tmp_path, 6))]
    lists = ListSpec(train=str(tmp_path / "none.txt"), test=str(tmp_path / "none.txt"))
    refusal = str(_refused(tmp_path, "path,label", rows, split=SplitSpec(lists=lists)))
    assert "cannot read the split list" in refusal
    assert "none.txt': No such file" in refusal


def test_a_damaged_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    names = _images(tmp_path, 6)
    (tmp_path / names[2]).write_text("no picture")
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *_rows(names)]) + "\n")
    data = open_task_data(DataSpec(source=str(tmp_path / "t.csv"), sensors=("rgb",)), seed=0)
    with pytest.raises(RasterError, match=r"2\.png"):
        data.read(2)
