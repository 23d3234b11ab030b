"""`anyband prepare` with stores on object storage: what they hold, their statistics, and what is refused."""

from pathlib import Path

import pytest
from chip_stores import upload

from anyband.cli import main
from anyband.data.store import ChipStore, StoreLocation


@pytest.fixture
def store(make_store) -> Path:
    """A store in a folder."""
    return make_store(6).path


@pytest.fixture
def url(store: Path, bucket: str, object_server: str) -> str:
    """The same on object storage."""
    upload(store, StoreLocation.of(f"{bucket}/store", endpoint=object_server))
    return f"{bucket}/store"


def test_show_tells_of_a_store_on_object_storage(url, object_server, capsys) -> None:
    assert main(["prepare", "--show", url, "--endpoint", object_server]) == 0
    printed = capsys.readouterr().out
    assert f"chip store '{url}', version 1" in printed
    assert f"`anyband prepare --stats {url}` computes them" in printed


def test_statistics_are_computed_and_saved_on_object_storage(url, object_server, capsys) -> None:
    assert main(["prepare", "--stats", url, "--endpoint", object_server, "--quiet"]) == 0
    assert "testoptical B1: p01 " in capsys.readouterr().out
    assert set(ChipStore.open(url, endpoint=object_server).statistics) == {"testoptical", "testradar"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m.csv", "--out", "s3://bucket/store"], "images are prepared into a folder, found --out 's3://bucket/store'"),
        (["--show", "HERE/nothing"], "there is no chip store at"),
        (["--show", "ftp://x"], "'ftp://x' is no place of a chip store"),
        (["--show", "gs://bucket/store", "--endpoint", "http://x"], "set that variable, or use s3://"),
    ],
)
def test_mistakes_get_one_message(store, capsys, words: list[str], message: str) -> None:
    assert main(["prepare", *(word.replace("HERE", str(store)) for word in words)]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
