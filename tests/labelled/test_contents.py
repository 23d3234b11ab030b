"""Hashes of contents and of data."""

from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import ManifestError
from anyband.labelled.samples import PARTIAL, content_hash, contents_of, fingerprint_of

_LARGE = (1 << 20) + 7


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_names_do_not_count_and_bytes_do(tmp_path: Path) -> None:
    first, same = _file(tmp_path / "a.tif", b"pixels"), _file(tmp_path / "b.jpg", b"pixels")
    other = _file(tmp_path / "c.tif", b"pixelz")
    assert content_hash([first]) == content_hash([same]) != content_hash([other])


def test_a_small_file_is_hashed_whole(tmp_path: Path) -> None:
    found = content_hash([_file(tmp_path / "a.tif", b"pixels")])
    assert found == blake2b((6).to_bytes(8, "little") + b"pixels", digest_size=16).hexdigest()


def test_a_large_file_is_hashed_in_pieces_and_says_so(tmp_path: Path) -> None:
    data = bytearray(_LARGE)
    first = content_hash([_file(tmp_path / "a.tif", bytes(data))])
    data[300_000] = 1
    unseen = content_hash([_file(tmp_path / "b.tif", bytes(data))])
    data[_LARGE // 2] = 1
    seen = content_hash([_file(tmp_path / "c.tif", bytes(data))])
    longer = content_hash([_file(tmp_path / "d.tif", bytes(_LARGE + 1))])
    assert first.startswith(PARTIAL)
    assert first == unseen
    assert len({first, seen, longer}) == 3


def test_two_files_are_not_their_joint_bytes(tmp_path: Path) -> None:
    a, b = _file(tmp_path / "a.tif", b"one"), _file(tmp_path / "b.tif", b"two")
    joint = _file(tmp_path / "c.tif", b"onetwo")
    assert len({content_hash([a, b]), content_hash([b, a]), content_hash([joint])}) == 3


def test_of_a_folder_the_images_count(tmp_path: Path) -> None:
    hashes = []
    for name, note in (("p", "one"), ("q", "two")):
        (tmp_path / name).mkdir()
        _file(tmp_path / name / f"{name}_B02.tif", b"blue")
        _file(tmp_path / name / f"{name}_B03.tif", b"green")
        _file(tmp_path / name / "labels.json", note.encode())
        hashes.append(content_hash([tmp_path / name]))
    assert hashes[0] == hashes[1]


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"cannot read '.*none\.tif': No such file"):
        content_hash([tmp_path / "none.tif"])


def test_many_samples_are_hashed_in_order(tmp_path: Path) -> None:
    samples = [(_file(tmp_path / f"{number}.tif", bytes([number % 251]) * number),) for number in range(600)]
    assert contents_of(samples) == tuple(content_hash(paths) for paths in samples)
    assert contents_of(samples, sizes_only=True) == tuple(str(number) for number in range(600))


_names = st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=25)
@given(names=_names, position=st.integers(0, 3))
def test_a_fingerprint_depends_on_everything(names: list[str], position: int) -> None:
    index = position % len(names)
    contents, splits = ["c"] * len(names), ["train"] * len(names)
    labels = np.zeros(len(names), dtype=np.int64)
    other_labels = labels.copy()
    other_labels[index] = 1
    other_names = [*names[:index], names[index] + "x", *names[index + 1 :]]
    other_splits = [*splits[:index], "test", *splits[index + 1 :]]
    found = {
        fingerprint_of(names, contents, labels, splits),
        fingerprint_of(other_names, contents, labels, splits),
        fingerprint_of(names, ["d", *contents[1:]], labels, splits),
        fingerprint_of(names, [], labels, splits),
        fingerprint_of(names, contents, other_labels, splits),
        fingerprint_of(names, contents, None, splits),
        fingerprint_of(names, contents, labels, other_splits),
        fingerprint_of(names, contents, labels, splits, classes=["a"]),
    }
    assert len(found) == 8


@pytest.mark.parametrize("dtype", ["int32", "int64", ">i4"])
def test_a_fingerprint_does_not_depend_on_how_numbers_are_stored(dtype: str) -> None:
    labels = np.array([1, 2]).astype(dtype)
    assert fingerprint_of("ab", "cd", labels, ["train"] * 2) == "d2344e58b4df86ad"


def test_names_are_kept_apart() -> None:
    assert fingerprint_of(["ab", "c"], [], None, []) != fingerprint_of(["a", "bc"], [], None, [])
