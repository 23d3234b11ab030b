"""Chip stores that are newer, broken, unfinished or damaged: every verb that opens one says so and changes nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

_SHOW = ("prepare", "--show", "HERE/store")
_STATS = ("prepare", "--stats", "HERE/store", "--quiet")
_PRETRAIN = ("pretrain", "KIT/recipe.yaml", "--data", "HERE/store", "--out", "HERE/run", "--quiet")
_EMBED = (
    "embed", "KIT/rgb0.tif", "--sensor", "rgb", "--checkpoint", "KIT/model.safetensors", "--out", "HERE/f.tif",
    "--statistics", "HERE/store",
)  # fmt: skip
_REPLACE = ("prepare", "KIT/m.csv", "--out", "HERE/store", "--workers", "1", "--quiet", "--overwrite")
_VERBS = {"show": _SHOW, "stats": _STATS, "pretrain": _PRETRAIN, "embed": _EMBED, "replace": _REPLACE}

_ARRAY = "maxar-rgb_32x32"


@pytest.fixture
def store(kit: Path, tmp_path: Path) -> Path:
    """A copy of the kit's store."""
    return Path(shutil.copytree(kit / "store", tmp_path / "store"))


def _change(store: Path, change: Callable[[dict[str, Any]], object]) -> None:
    header = json.loads((store / "store.json").read_text())
    change(header)
    (store / "store.json").write_text(json.dumps(header))


@pytest.mark.parametrize("verb", _VERBS)
def test_a_store_of_a_newer_version_is_refused_by_every_verb(refused, store, verb: str) -> None:
    _change(store, lambda header: header.update(version=2))
    message = refused(*_VERBS[verb])
    assert "has version 2; this anyband reads version 1; update anyband" in message


@pytest.mark.parametrize("verb", ["show", "stats", "pretrain", "embed"])
def test_a_folder_that_is_no_store_is_refused(refused, tmp_path, verb: str) -> None:
    (tmp_path / "store").mkdir()
    assert "there is no chip store at" in refused(*_VERBS[verb])


@pytest.mark.parametrize("verb", ["show", "stats", "pretrain"])
def test_an_unfinished_store_says_how_to_go_on(refused, tmp_path, verb: str) -> None:
    (tmp_path / "store.partial").mkdir()
    message = refused(*_VERBS[verb])
    assert "is not finished; run the same `anyband prepare` again, it goes on where it stopped" in message


def test_prepare_does_not_replace_what_is_no_store(refused, tmp_path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.txt").write_text("years of work")
    assert "exists and is no whole chip store" in refused(*_REPLACE)


def test_prepare_does_not_replace_a_store_of_other_images_unasked(refused, store) -> None:
    words = [word for word in _REPLACE if word != "--overwrite"]
    message = refused(*words, "--min-valid", "0.9")
    assert "is a chip store of other images or options; replace it with --overwrite" in message


_BROKEN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no arrays": (lambda header: header.pop("arrays"), "it has no 'arrays'"),
    "arrays are a number": (lambda header: header.update(arrays=5), "is broken"),
    "no array": (lambda header: header.update(arrays=[]), "has 0 chips and 8 rows of index"),
    "version is a word": (lambda header: header.update(version="one"), "its version is 'one'"),
    "version is infinite": (lambda header: header.update(version=float("inf")), "its version is inf"),
    "unknown key": (lambda header: header["arrays"][0].update(colour=1), "unexpected keyword argument 'colour'"),
    "array elsewhere": (lambda header: header["arrays"][0].update(name="../x"), "can't be opened"),
    "chips are a word": (lambda header: header["arrays"][0].update(num_chips="4"), "is broken"),
    "other number of chips": (lambda header: header["arrays"][0].update(num_chips=3), "is declared as (3, "),
    "no chips in a shard": (lambda header: header["arrays"][0].update(chips_per_shard=0), "is broken"),
    "other height": (lambda header: header["arrays"][0].update(height=64), "found (4, 3, 32, 32) of uint8"),
    "other type": (lambda header: header["arrays"][0].update(dtype="float32"), "of float32, found"),
    "other bands": (lambda header: header["arrays"][0].update(bands=["R", "G"]), "is declared as (4, 2, 32, 32)"),
    "other sensor": (lambda header: header["arrays"][0].update(sensor="nothing"), "it has no 'nothing'"),
    "scale of 0": (lambda header: header["arrays"][0]["encoding"]["R"].update(scale=0.0), "needs a scale other than 0"),
    "sensor without bands": (lambda header: header["sensors"].update({"maxar-rgb": {}}), "is broken"),
    "statistics of NaN": (
        lambda header: header.update(
            statistics={"maxar-rgb": {"R": {"p01": float("nan"), "p99": 1.0, "mean": 0.0, "std": 1.0}}}
        ),
        "all finite",
    ),
}


@pytest.mark.parametrize("case", _BROKEN)
def test_a_wrong_header_is_refused(refused, store, case: str) -> None:
    change, message = _BROKEN[case]
    _change(store, change)
    assert message in refused(*_SHOW)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"null", b"[" * 100_000])
def test_a_header_that_is_no_header_is_refused(refused, store, text: bytes) -> None:
    (store / "store.json").write_bytes(text)
    message = refused(*_PRETRAIN)
    assert "store.json' is broken (" in message
    assert "prepare the store again" in message


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda store: next((store / "chips").rglob("c/0/0/0/0")).unlink(), "is incomplete: '"),
        (lambda store: (store / "chips" / _ARRAY / "zarr.json").unlink(), "can't be read: NOT_FOUND"),
        (lambda store: (store / "chips" / _ARRAY / "zarr.json").write_text("{"), "can't be read: DATA_LOSS"),
        (lambda store: (store / "index.parquet").unlink(), "the chip store has no index"),
        (lambda store: (store / "index.parquet").write_bytes(b"PAR1"), "the index of the chip store can't be read"),
    ],
    ids=["no shard", "no array", "broken array", "no index", "broken index"],
)
def test_a_store_that_lacks_a_file_is_refused(refused, store, damage: Callable[[Path], object], message: str) -> None:
    damage(store)
    found = refused(*_PRETRAIN)
    assert message in found
    assert "prepare" in found


def test_an_index_that_names_an_unknown_array_is_refused(refused, store) -> None:
    index = pq.read_table(store / "index.parquet")
    column = index.schema.get_field_index("array")
    names = pa.array(["other", *index.column("array").to_pylist()[1:]])
    pq.write_table(index.set_column(column, "array", names), store / "index.parquet")
    message = refused(*_SHOW)
    assert "is broken (it has no 'other'); prepare the store again" in message


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_truncated_shard_is_noticed_when_it_is_read(refused, store, size: int) -> None:
    shard = next((store / "chips" / _ARRAY).rglob("c/0/0/0/0"))
    shard.write_bytes(shard.read_bytes()[:size])
    message = refused(*_STATS)
    assert "can't be read: " in message
    assert "prepare it again" in message


def test_statistics_that_were_not_computed_say_how(refused, store) -> None:
    message = refused(*_PRETRAIN, "data.statistics=store")
    assert "has no statistics of sensor 'maxar-rgb'; compute them with `anyband prepare --stats" in message
