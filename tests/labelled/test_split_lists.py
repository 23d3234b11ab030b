"""Files that list the samples of each part."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import ManifestError
from anyband.labelled.samples import ListSpec
from anyband.labelled.splits import read_split_list, splits_from_lists


def _list(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(folder / name)


def _splits(
    folder: Path, names: list[str], train: list[str], test: list[str], *, absent: str = "refuse"
) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    lists = ListSpec(train=_list(folder, "train.txt", *train), test=_list(folder, "test.txt", *test))
    return splits_from_lists(lists, names, source="data", absent=absent)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("agricultural/agricultural00.jpg", "agricultural/agricultural00.tif"),
        ("AnnualCrop/AnnualCrop_1.tif", "AnnualCrop_1.tif"),
        ("AnnualCrop/AnnualCrop_1.tif", "AnnualCrop_1.jpg"),
        ("AnnualCrop/AnnualCrop_1.tif", "AnnualCrop_1"),
        ("beach/b1.tif", "UCMerced_LandUse/Images/beach/b1.tif"),
        ("b1.tif", "Images/beach/b1.jpg"),
        ("beach/b1.tif", "./beach/b1.tif"),
        ("beach/b1.tif", "beach\\b1.tif"),
        ("S2A_20170613_0_45", "S2A_20170613_0_45"),
        ("a b/c d.tif", "a b/c d.tif"),
    ],
)
def test_a_listed_name_is_found_with_other_folders_and_endings(tmp_path: Path, name: str, listed: str) -> None:
    found = _splits(tmp_path, [name, "x/other.tif"], [listed], ["other.tif"])
    assert found[0] == ("train", "test")
    assert found[1] == ()


@settings(max_examples=40)
@given(
    samples=st.sets(
        st.lists(st.sampled_from(["a", "b", "c1", "d"]), min_size=1, max_size=3).map("/".join), min_size=2, max_size=12
    )
)
def test_whole_names_are_never_ambiguous(tmp_path_factory: pytest.TempPathFactory, samples: set[str]) -> None:
    names = [f"{name}.tif" for name in sorted(samples)]
    found = _splits(tmp_path_factory.mktemp("lists"), names, names[:1], names[1:])
    assert found[0] == ("train", *["test"] * (len(names) - 1))


def test_samples_that_differ_in_their_ending_need_it(tmp_path: Path) -> None:
    names = ["x/a.tif", "x/a.jpg", "x/b.tif"]
    assert _splits(tmp_path, names, ["x/a.tif", "a.jpg"], ["b"])[0] == ("train", "train", "test")
    with pytest.raises(
        ManifestError, match=r"lists 1 name that several samples of 'data' have, the first is 'x/a\.png'"
    ):
        _splits(tmp_path, names, ["x/a.png"], ["b"])


def test_ambiguous_names_are_counted_and_shown(tmp_path: Path) -> None:
    names = ["x/1.tif", "y/1.tif", "x/2.tif", "y/2.tif"]
    with pytest.raises(
        ManifestError, match=r"train.txt' lists 2 names that several .* the first is '2\.tif'; write them"
    ):
        _splits(tmp_path, names, ["2.tif", "1.tif"], ["x/1.tif"])


def test_unknown_names_are_counted_and_shown(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"test.txt' lists 2 names that 'data' does not have, the first is 'q/7\.tif'"
    ):
        _splits(tmp_path, ["a.tif", "b.tif"], ["a.tif"], ["q/7.tif", "b.tif", "8.tif"])


def test_unknown_names_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    found = _splits(tmp_path, ["a.tif", "b.tif"], ["a.tif"], ["7.tif", "b.tif"], absent="leave_out")
    assert found[0] == ("train", "test")
    assert found[1] == ("1 sample of 'test.txt' is not in the data and left out",)


def test_a_sample_in_two_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"'k/a\.tif' is listed for train and again in '.*test.txt' for test"):
        _splits(tmp_path, ["k/a.tif", "k/b.tif"], ["a.tif"], ["k/a.jpg"])


def test_samples_in_no_list_are_left_out_and_counted(tmp_path: Path) -> None:
    found = _splits(tmp_path, ["a.tif", "b.tif", "c.tif"], ["a"], ["c"])
    assert found[0] == ("train", None, "test")
    assert found[1] == ("1 of 3 samples is in no split list and left out",)


def test_a_validation_list_is_read(tmp_path: Path) -> None:
    lists = ListSpec(
        train=_list(tmp_path, "a.txt", "a"), val=_list(tmp_path, "b.txt", "b"), test=_list(tmp_path, "c.txt", "c")
    )
    assert splits_from_lists(lists, ["c", "b", "a"], source="data")[0] == ("test", "val", "train")


def test_the_first_column_of_a_csv_counts(tmp_path: Path) -> None:
    path = _list(tmp_path, "train.csv", "patch,s1", '"S2A,1",S1A', "S2B,S1B", "")
    assert read_split_list(Path(path)) == ["S2A,1", "S2B"]


def test_a_csv_without_a_header_loses_nothing(tmp_path: Path) -> None:
    assert read_split_list(Path(_list(tmp_path, "train.csv", "S2A,S1A", "S2B,S1B"))) == ["S2A", "S2B"]


def test_blank_lines_and_marks_of_encodings_are_no_names(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfa.tif\r\n\r\n  b.tif \r\n")
    assert read_split_list(tmp_path / "t.txt") == ["a.tif", "b.tif"]


def test_a_list_that_is_missing_or_empty_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"cannot read the split list '.*none.txt': No such file"):
        read_split_list(tmp_path / "none.txt")
    with pytest.raises(ManifestError, match=r"empty.txt' lists nothing; give it a file name a line"):
        read_split_list(tmp_path / "empty.txt")
    with pytest.raises(ManifestError, match=r"noise.txt' is no text in UTF-8"):
        read_split_list(tmp_path / "noise.txt")


def test_many_names_are_found(tmp_path: Path) -> None:
    names = [f"c{number % 10}/S2A_{number}.tif" for number in range(4_000)]
    listed = [f"S2A_{number}.jpg" for number in range(4_000)]
    found = _splits(tmp_path, names, listed[:2_000], listed[2_000:])
    assert (found[0].count("train"), found[0].count("test")) == (2_000, 2_000)


def _pairs(
    folder: Path, lines: list[str], *, names: list[str], files: list[list[str]]
) -> tuple[tuple[str | None, ...], ...]:
    lists = ListSpec(train=_list(folder, "train.txt", *lines), test=_list(folder, "test.txt", names[-1]))
    return splits_from_lists(lists, names, source="data", files=files)


_PATCHES, _RADAR = ["S2A_1_2", "S2A_3_4", "S2A_5_6"], [["S1/S1A_1_2"], ["S1/S1B_3_4"], ["S1/S1B_5_6"]]


@pytest.mark.parametrize(
    "lines",
    [
        ["S2A_1_2 S1A_1_2", "S2A_3_4 S1B_3_4"],
        ["S2A_1_2,S1A_1_2", "S2A_3_4,S1B_3_4"],
        ["S2A_1_2 S1A_unknown", "S2A_other S1B_3_4"],
        ["./S2/S2A_1_2.tif ./S1/S1A_1_2.tif", "S2A_3_4 S1B_3_4"],
    ],
)
def test_a_line_may_name_both_images_of_a_pair(tmp_path: Path, lines: list[str]) -> None:
    splits, notes = _pairs(tmp_path, lines, names=_PATCHES, files=_RADAR)
    assert splits == ("train", "train", "test")
    assert notes == ("'train.txt' is a list of pairs: each line names two images of a sample",)


def test_samples_are_named_by_their_other_images_too(tmp_path: Path) -> None:
    splits, notes = _pairs(tmp_path, ["S1A_1_2", "./S1B_3_4.tif"], names=_PATCHES, files=_RADAR)
    assert (splits, notes) == (("train", "train", "test"), ())


def test_a_line_of_two_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"names 'S2A_1_2' and 'S1B_3_4' in one line, which are of two samples"):
        _pairs(tmp_path, ["S2A_1_2 S1B_3_4"], names=_PATCHES, files=_RADAR)


def test_names_with_spaces_stay_names(tmp_path: Path) -> None:
    names = ["a b.tif", "b.tif", "c.tif"]
    with pytest.raises(
        ManifestError, match=r"train.txt' lists 1 name that 'data' does not have, the first is 'x b\.tif'"
    ):
        _pairs(tmp_path, ["a b.tif", "x b.tif"], names=names, files=[])
