"""`anyband prepare` with stores on object storage: copies, what they hold, their statistics, and what is refused."""

from pathlib import Path

import pytest

from anyband.cli import main
from anyband.data.store import ChipStore


@pytest.fixture
def store(make_store) -> Path:
    """A store in a folder."""
    return make_store(6).path


def _copy(store: Path | str, out: Path | str, object_server: str, *words: str) -> int:
    return main(["prepare", "--copy", str(store), "--out", str(out), "--endpoint", object_server, "--quiet", *words])


def test_a_store_is_copied_there_and_back(store, bucket, object_server, tmp_path, capsys) -> None:
    assert _copy(store, f"{bucket}/store", object_server) == 0
    assert "6 of 6 keys copied" in capsys.readouterr().out
    assert _copy(f"{bucket}/store", tmp_path / "back", object_server) == 0
    assert ChipStore.open(tmp_path / "back").fingerprint() == ChipStore.open(store).fingerprint()


def test_show_tells_of_a_store_on_object_storage(store, bucket, object_server, capsys) -> None:
    _copy(store, f"{bucket}/store", object_server)
    capsys.readouterr()
    assert main(["prepare", "--show", f"{bucket}/store", "--endpoint", object_server]) == 0
    printed = capsys.readouterr().out
    assert f"chip store '{bucket}/store', version 1" in printed
    assert f"`anyband prepare --stats {bucket}/store` computes them" in printed


def test_statistics_are_computed_and_saved_on_object_storage(store, bucket, object_server, capsys) -> None:
    _copy(store, f"{bucket}/store", object_server)
    assert main(["prepare", "--stats", f"{bucket}/store", "--endpoint", object_server, "--quiet"]) == 0
    assert "testoptical B1: p01 " in capsys.readouterr().out
    assert set(ChipStore.open(f"{bucket}/store", endpoint=object_server).statistics) == {"testoptical", "testradar"}


def test_another_store_is_replaced_with_overwrite_only(store, bucket, object_server, make_store, capsys) -> None:
    _copy(store, f"{bucket}/store", object_server)
    store.rename(store.with_name("first"))
    other = make_store(2).path
    assert _copy(other, f"{bucket}/store", object_server) == 2
    assert "is another chip store; replace it with --overwrite" in capsys.readouterr().err
    assert _copy(other, f"{bucket}/store", object_server, "--overwrite") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--copy", "HERE"], "--copy takes a finished store and, with --out,"),
        (["--copy", "HERE", "--out", "x", "image.tif"], "nothing else"),
        (["--copy", "HERE/nothing", "--out", "x"], "there is no chip store at"),
        (["--copy", "HERE", "--out", "ftp://x"], "'ftp://x' is no place of a chip store"),
        (["m.csv", "--out", "s3://bucket/store"], "images are prepared into a folder, found --out 's3://bucket/store'"),
        (["--show", "gs://bucket/store", "--endpoint", "http://x"], "set that variable, or use s3://"),
    ],
)
def test_mistakes_get_one_message(store, capsys, words: list[str], message: str) -> None:
    assert main(["prepare", *(word.replace("HERE", str(store)) for word in words)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
