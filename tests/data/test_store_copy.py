"""A copy of a chip store has equal bytes, goes on where it stopped, and replaces nothing unasked."""

from pathlib import Path

import pytest

from anyband.data.store import ChipStore
from anyband.data.store_copy import CopyReport, copy_store
from anyband.data.store_location import StoreLocation
from anyband.errors import OutputError
from anyband.sensors.sensor import BandStatistics


@pytest.fixture
def local(make_store, monkeypatch) -> ChipStore:
    """A store of several shards."""
    monkeypatch.setattr("anyband.data.store_writer.CHIPS_PER_SHARD", 3)
    return make_store(10, holes=True)


@pytest.fixture
def target(bucket: str, object_server: str) -> StoreLocation:
    """A place on object storage."""
    return StoreLocation.of(f"{bucket}/copies/store", endpoint=object_server)


def _open(location: StoreLocation) -> ChipStore:
    return ChipStore.open(location.root, endpoint=location.endpoint)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_copied_there_and_back_it_has_equal_bytes(local, target, tmp_path) -> None:
    copy_store(local, target)
    copy_store(_open(target), StoreLocation.of(tmp_path / "back"))
    assert _bytes(tmp_path / "back") == _bytes(local.path)


def test_copied_from_bucket_to_bucket_it_has_equal_bytes(local, target, object_server) -> None:
    copy_store(local, target)
    second = StoreLocation.of(f"{target}_2", endpoint=object_server)
    copy_store(_open(target), second)
    assert {key: second.read(key) for key in second.list_keys()} == _bytes(local.path)


def test_copied_from_folder_to_folder_it_has_equal_bytes(local, tmp_path) -> None:
    copy_store(local, StoreLocation.of(tmp_path / "second"))
    assert _bytes(tmp_path / "second") == _bytes(local.path)


def test_the_second_time_nothing_is_copied(local, target) -> None:
    first = copy_store(local, target)
    assert first.copied == first.keys == len(_bytes(local.path))
    again = copy_store(local, target)
    assert again == CopyReport(keys=first.keys, copied=0, copied_bytes=0)
    assert again.line() == f"0 of {first.keys} keys copied (0.0 MiB); {first.keys} were there already"


@pytest.mark.parametrize("kept", [1, 5])
def test_a_copy_that_stopped_goes_on(local, target, monkeypatch, kept: int) -> None:
    written: list[str] = []
    write = StoreLocation.write

    def failing(self: StoreLocation, key: str, content: bytes) -> None:
        if len(written) >= kept:
            raise OutputError("stopped")
        write(self, key, content)
        written.append(key)

    monkeypatch.setattr(StoreLocation, "write", failing)
    with pytest.raises(OutputError, match="stopped"):
        copy_store(local, target)
    monkeypatch.setattr(StoreLocation, "write", write)
    assert "store.json" not in target.list_keys()
    report = copy_store(local, target)
    assert report.copied == report.keys - len(set(written))
    assert {key: target.read(key) for key in target.list_keys()} == _bytes(local.path)


def test_the_header_is_written_last(local, target, monkeypatch) -> None:
    written: list[str] = []
    write = StoreLocation.write
    monkeypatch.setattr(
        StoreLocation, "write", lambda self, key, content: (written.append(key), write(self, key, content))
    )
    copy_store(local, target)
    assert written[-1] == "store.json"
    assert written.count("store.json") == 1


@pytest.mark.parametrize("same_length", [True, False])
def test_a_key_of_other_content_is_copied_again(local, target, same_length: bool) -> None:
    copy_store(local, target)
    key = "chips/testoptical_8x8/c/1/0/0/0"
    right = target.read(key)
    target.write(key, bytes(len(right)) if same_length else right[:-1])
    assert copy_store(local, target).copied == 1
    assert target.read(key) == right


def test_a_key_without_a_usable_tag_is_compared_byte_by_byte(local, target, monkeypatch) -> None:
    copy_store(local, target)
    monkeypatch.setattr(StoreLocation, "entity_tag", lambda _self, _key: None)
    target.write("index.parquet", b"other")
    assert copy_store(local, target).copied == 1


def test_newer_statistics_are_copied_alone(local, target) -> None:
    copy_store(local, target)
    local.save_statistics({"testoptical": {"B1": BandStatistics(p01=0.1, p99=0.9, mean=0.5, std=0.1)}})
    assert copy_store(local, target).copied == 1
    assert _open(target).statistics == local.statistics


@pytest.fixture
def other(local, target, tmp_path, make_store) -> ChipStore:
    """Another store than the one at `target`, with fewer shards."""
    copy_store(local, target)
    local.path.rename(tmp_path / "first")
    return make_store(2)


def test_another_store_is_not_replaced_unasked(other, target) -> None:
    before = {key: target.read(key) for key in target.list_keys()}
    with pytest.raises(OutputError, match="is another chip store; replace it with --overwrite, or name another place"):
        copy_store(other, target)
    assert {key: target.read(key) for key in target.list_keys()} == before


def test_another_store_is_replaced_if_asked(other, target) -> None:
    copy_store(other, target, overwrite=True)
    assert {key: target.read(key) for key in target.list_keys()} == _bytes(other.path)


def test_parts_of_another_store_are_not_kept(other, target) -> None:
    target.remove("store.json")
    with pytest.raises(OutputError, match=r"has parts of another chip store \('chips/.*--overwrite"):
        copy_store(other, target)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_left_alone(local, target, overwrite: bool) -> None:
    target.write("thesis.txt", b"years of work")
    with pytest.raises(OutputError, match=r"holds other things than a chip store \('thesis.txt', 1 in all\)"):
        copy_store(local, target, overwrite=overwrite)
    assert target.list_keys() == {"thesis.txt"}


def test_a_store_is_not_copied_onto_itself(local) -> None:
    with pytest.raises(OutputError, match="is the store itself; name another place"):
        copy_store(local, StoreLocation.of(local.path), overwrite=True)


def test_what_a_killed_copy_left_beside_does_not_stop_the_next(local, tmp_path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / ".0123abcd.partial.index.parquet").write_bytes(b"PAR1")
    report = copy_store(local, StoreLocation.of(tmp_path / "second"))
    assert report.copied == report.keys
