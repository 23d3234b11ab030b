"""What labelled data must be."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from anyband.data.store import Split
from anyband.errors import InputError
from anyband.labelled import check_task_data
from anyband.labelled.samples import PARTIAL, Sample, SampleImage, TaskData
from anyband.sensors.catalogue import get_sensor

_RGB = get_sensor("rgb")
_PARTS: tuple[Split, ...] = ("train", "train", "val", "val", "test", "test")


def _data(
    *, parts: Sequence[Split] = _PARTS, contents: Sequence[str] = (), pixels: Sequence[int] = (1, 2, 3, 4, 5, 6)
) -> TaskData:
    def read(position: int) -> Sample:
        dn = np.full((3, 2, 2), pixels[position], dtype=np.uint8)
        return Sample(images=(SampleImage(dn=dn, valid=np.ones(dn.shape, dtype=bool), sensor=_RGB),))

    return TaskData(
        name="made",
        kind="class",
        classes=("a", "b"),
        names=tuple(f"s{index}" for index in range(6)),
        splits=tuple(parts),
        sensors=((_RGB,),) * 6,
        targets=np.array([0, 1] * 3),
        read=read,
        fingerprint="0",
        contents=tuple(contents),
    )


def _labels(data: TaskData, *rows: str) -> TaskData:
    return replace(data, kind="labels", targets=np.array([[cell == "1" for cell in row] for row in rows]))


def test_good_data_pass() -> None:
    data = _data(contents=[f"{number}" for number in range(6)])
    check_task_data(data)
    check_task_data(_labels(data, "10", "01", "00", "11", "11", "01"))
    check_task_data(replace(data, kind="number", classes=(), targets=np.linspace(0, 1, 6)))
    check_task_data(replace(data, kind="class_map", targets=None))
    assert data.num_samples == {"train": 2, "val": 2, "test": 2}


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_an_empty_part_is_named(part: Split) -> None:
    left: Split = "val" if part == "train" else "train"
    data = _data(parts=[left if one == part else one for one in _PARTS])
    with pytest.raises(InputError, match=rf"'made' has no sample in split '{part}' to .* \(samples: .*{part} 0"):
        check_task_data(data)


def test_validation_may_be_empty_where_it_is_not_needed() -> None:
    data = _data(parts=["train"] * 4 + ["test"] * 2)
    check_task_data(data, needs_validation=False)
    assert data.num_samples["val"] == 0


def test_training_may_lack_samples_and_classes_where_nothing_is_fitted() -> None:
    data = _data(parts=["test"] * 6)
    check_task_data(data, needs_validation=False, needs_training=False)
    check_task_data(replace(_data(), targets=np.array([0, 0, 0, 0, 0, 1])), needs_training=False)
    with pytest.raises(InputError, match="has no sample in split 'test' to report"):
        check_task_data(_data(parts=["train"] * 6), needs_validation=False, needs_training=False)
    assert data.num_samples == {"train": 0, "val": 0, "test": 6}


def test_a_class_that_training_lacks_is_named() -> None:
    data = replace(_data(), classes=("a", "b", "c"), targets=np.array([0, 1, 0, 1, 2, 0]))
    with pytest.raises(InputError, match=r"1 of 3 classes is in split 'test' of 'made' and not in training: 'c'"):
        check_task_data(data)


def test_a_label_that_training_lacks_is_named() -> None:
    with pytest.raises(InputError, match=r"1 of 2 classes is in split 'val' .* not in training: 'b'"):
        check_task_data(_labels(_data(), "10", "00", "01", "10", "10", "10"))


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(InputError, match=r"needs samples of two classes at least, only 'b' is there"):
        check_task_data(replace(_data(), targets=np.ones(6, dtype=np.int64)))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 1, 0, 1, 2, -1], "2 samples of 'made' have a class number outside 0 to 1, the first is 's4' with 2"),
        ([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], r"kind 'class' and targets of type float64, shape \(6,\)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(targets: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_task_data(replace(_data(), targets=np.array(targets)))


def test_numbers_that_are_not_finite_are_refused() -> None:
    data = replace(_data(), kind="number", targets=np.array([0, 1, np.nan, 1, np.inf, 0]))
    with pytest.raises(
        InputError, match=r"2 samples of 'made' have a number that is not finite, the first is 's2' with nan"
    ):
        check_task_data(data)


def test_one_number_alone_is_refused() -> None:
    data = replace(_data(), kind="number", targets=np.array([2.5, 2.5, 1, 1, 3, 4]))
    with pytest.raises(InputError, match=r"all 2 training samples of 'made' have the number 2\.5"):
        check_task_data(data)


def test_kind_and_targets_must_agree() -> None:
    with pytest.raises(InputError, match="has kind 'class_map' and a number or class for each sample"):
        check_task_data(replace(_data(), kind="class_map"))
    with pytest.raises(InputError, match="has kind 'class' and no number or class for each sample"):
        check_task_data(replace(_data(), targets=None))
    with pytest.raises(InputError, match=r"has 2 classes and labels of shape \(6,\)"):
        check_task_data(replace(_data(), kind="labels"))


def test_two_samples_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"has 1 name that several samples have, such as 'x'"):
        check_task_data(replace(_data(), names=("x", "x", "c", "d", "e", "f")))


def test_one_content_in_two_parts_is_refused() -> None:
    data = _data(contents=["k", "l", "m", "n", "l", "k"])
    with pytest.raises(
        InputError, match=r"2 samples with the same content in two splits: 's1' \(train\) and 's4' \(test\)"
    ):
        check_task_data(data)


def test_one_content_twice_in_a_part_is_no_leak() -> None:
    data = _data(contents=["k", "k", "m", "n", "o", "o"])
    check_task_data(data)
    assert len(set(data.contents)) == 4


def test_equal_pieces_of_large_files_are_looked_at_again() -> None:
    contents = [f"{PARTIAL}k", "l", "m", "n", f"{PARTIAL}k", "p"]
    different = _data(contents=contents)
    check_task_data(different)
    with pytest.raises(InputError, match=r"'s0' \(train\) and 's4' \(test\)"):
        check_task_data(_data(contents=contents, pixels=(7, 2, 3, 4, 7, 6)))


def test_samples_of_one_place_may_share_files() -> None:
    data = replace(_data(contents=["k"] * 6), places=("p",) * 6)
    check_task_data(data)
    assert set(data.places) == {"p"}


def test_unknown_contents_are_not_compared() -> None:
    data = _data(contents=[""] * 6)
    check_task_data(data)
    assert not any(data.contents)
