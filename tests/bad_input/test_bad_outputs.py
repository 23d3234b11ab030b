"""Outputs that can't be written: refused before the work where it can be known, and never half written."""

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sklearn.model_selection  # noqa: F401 (it writes a file when it is first imported, which must fit)

_MODEL = ("--checkpoint", "KIT/model.safetensors")
_SIMULATE = ("simulate", "--places", "1", "--sensors", "sentinel2-l2a", "--out", "{out}")
_PREPARE = ("prepare", "KIT/m.csv", "--workers", "1", "--quiet", "--out", "{out}")
_PRETRAIN = ("pretrain", "KIT/recipe.yaml", "--data", "KIT/store", "--quiet", "--out", "{out}")
_EVALUATE = (
    "evaluate", "knn", "--k", "1", *_MODEL, "--data", "KIT/labelled", "--sensor", "rgb", "--no-results", "--no-cache",
    "--out", "{out}",
)  # fmt: skip
_EMBED = ("embed", "KIT/rgb0.tif", "--sensor", "rgb", *_MODEL, "--out", "{out}.tif", "--overwrite")
_DEMO = ("demo", "--images", "KIT/m.csv", "--quiet", "--out", "{out}")
_VERBS = {
    "simulate": _SIMULATE,
    "prepare": _PREPARE,
    "pretrain": _PRETRAIN,
    "evaluate": _EVALUATE,
    "embed": _EMBED,
    "demo": _DEMO,
}


def _to(verb: str, out: str) -> list[str]:
    return [word.format(out=out) for word in _VERBS[verb]]


@pytest.mark.parametrize("verb", _VERBS)
def test_a_file_in_place_of_the_folder_is_said(refused, tmp_path, verb: str) -> None:
    (tmp_path / "file").write_text("in the way")
    message = refused(*_to(verb, "HERE/file/out"))
    assert "cannot write '" in message
    assert "Not a directory" in message or "File exists" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("verb", _VERBS)
def test_a_read_only_folder_is_said(refused, tmp_path, verb: str) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked").chmod(0o500)
    message = refused(*_to(verb, "HERE/locked/out"))
    assert "is not writable (Permission denied); name another output" in message


@contextlib.contextmanager
def _unchangeable(path: Path) -> Iterator[None]:
    """Forbid even root to change a file or folder; skips where the file system knows no such thing."""
    done = (
        subprocess.run(["chattr", "+i", str(path)], capture_output=True, check=False)
        if shutil.which("chattr")
        else None
    )
    if done is None or done.returncode:
        pytest.skip("needs root, and a file system with immutable files")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


@pytest.mark.parametrize("verb", _VERBS)
def test_a_folder_that_even_root_may_not_change_is_said(refused, tmp_path, verb: str) -> None:
    (tmp_path / "locked").mkdir()
    with _unchangeable(tmp_path / "locked"):
        message = refused(*_to(verb, "HERE/locked/out"))
    assert "is not writable (Operation not permitted); name another output" in message


@pytest.mark.parametrize("name", ["out.tif", "out_pca.png"])
def test_a_read_only_file_is_not_replaced(refused, tmp_path, name: str) -> None:
    (tmp_path / name).write_text("to be kept")
    with _unchangeable(tmp_path / name):
        message = refused(*_to("embed", "HERE/out"))
    assert "exists and is read-only; make it writable, or name another output" in message


@pytest.mark.parametrize("name", ["out.tif", "out_pca.png"])
def test_a_folder_in_place_of_the_file_is_said(refused, tmp_path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert f"{name}' is a folder; name a file" in refused(*_to("embed", "HERE/out"))


@pytest.mark.parametrize("made", ["file", "folder"])
def test_evaluate_leaves_what_is_there_alone(refused, tmp_path, made: str) -> None:
    if made == "file":
        (tmp_path / "out").write_text("to be kept")
    else:
        (tmp_path / "out").mkdir()
    assert "exists already; remove it or name another folder" in refused(*_to("evaluate", "HERE/out"))


def test_simulate_leaves_an_existing_folder_alone(refused, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert "exists already; remove it or name another output" in refused(*_to("simulate", "HERE/out"))


@pytest.mark.parametrize("verb", _VERBS)
def test_a_url_is_no_folder_to_write_to(refused, verb: str) -> None:
    assert "found " in (message := refused(*_to(verb, "s3://bucket/out")))
    assert "s3://bucket/out" in message
    assert "folder, then copy" in message


@pytest.mark.parametrize("verb", ["prepare", "pretrain"])
def test_a_folder_of_something_else_is_left_alone(refused, tmp_path, verb: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    assert "exists and is n" in refused(*_to(verb, "HERE/out"))


def test_a_scene_is_never_overwritten_by_its_features(refused, kit, tmp_path) -> None:
    shutil.copy(kit / "rgb0.tif", tmp_path / "scene.tif")
    words = ("--sensor", "rgb", *_MODEL, "--out", "HERE/../" + tmp_path.name + "/scene.tif")
    message = refused("embed", "HERE/scene.tif", *words)
    assert "is the scene itself, which would be lost; name another output" in message


def test_a_mask_is_never_overwritten_by_the_picture(refused, kit, tmp_path) -> None:
    shutil.copy(kit / "grey.tif", tmp_path / "f_pca.png")
    words = ("--sensor", "rgb", *_MODEL, "--valid", "HERE/f_pca.png", "--out", "HERE/f.tif")
    assert "is the scene itself" in refused("embed", "KIT/rgb0.tif", *words)


def test_features_need_the_name_of_a_geotiff(refused) -> None:
    words = [word.replace("{out}.tif", "HERE/f.npy") for word in _EMBED]
    assert "must end in .tif: features are written as a GeoTIFF" in refused(*words)


@contextlib.contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let the system refuse to make any file larger than this, as a full disk does in the middle of one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Sizes at which something does not fit: for each verb from its first file to its last.
_TOO_SMALL = {
    "prepare": (10, 600, 3000),
    "pretrain": (10, 600, 3000, 100_000),
    "evaluate": (10,),
    "embed": (10, 600, 3000),
    "simulate": (10, 600, 3000),
}


@pytest.mark.parametrize(("verb", "size"), [(verb, size) for verb, sizes in _TOO_SMALL.items() for size in sizes])
def test_no_half_written_file_stays_where_a_file_does_not_fit(refused, tmp_path, verb: str, size: int) -> None:
    for name in ("out.tif", "out_pca.png"):
        (tmp_path / name).write_text("of an earlier run")
    # A stopped run is gone on with; so is a store that is not finished.
    leaves = {"prepare": "out.partial", "pretrain": "out/"}.get(verb)
    if verb == "pretrain":
        (tmp_path / "out").mkdir()
    with _room_for(size):
        message = refused(*_to(verb, "HERE/out"), leaves=leaves)
    assert "no room on the disk" in message or "cannot write " in message
    assert ".partial." not in message
    assert not list(tmp_path.rglob(".*.partial.*"))


def test_a_full_disk_while_a_checkpoint_is_written_keeps_the_run(refused, kit, tmp_path) -> None:
    from anyband.cli import main

    (tmp_path / "out").mkdir()
    with _room_for(100_000):
        message = refused(*_to("pretrain", "HERE/out"), leaves="out/")
    assert "no room on the disk to write '" in message
    assert "checkpoints/step_00000001/model.safetensors'" in message
    words = [word.replace("KIT", str(kit)).replace("HERE", str(tmp_path)) for word in _to("pretrain", "HERE/out")]
    assert main(words) == 0
    assert (tmp_path / "out" / "encoder.safetensors").is_file()


def test_a_full_disk_while_preparing_keeps_what_is_finished(refused, kit, tmp_path) -> None:
    from anyband.cli import main

    with _room_for(5000):
        message = refused(*_to("prepare", "HERE/out"), leaves="out.partial")
    assert "what is finished is kept" in message
    words = [word.replace("KIT", str(kit)).replace("HERE", str(tmp_path)) for word in _to("prepare", "HERE/out")]
    assert main(words) == 0
    assert not (tmp_path / "out.partial").exists()


def test_a_full_disk_leaves_the_store_as_it_was_when_statistics_are_saved(refused, kit, tmp_path) -> None:
    shutil.copytree(kit / "store", tmp_path / "store")
    with _room_for(100):
        message = refused("prepare", "--stats", "HERE/store", "--quiet")
    assert "no room on the disk to write '" in message


def test_a_disk_that_is_full_is_named_as_such(refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    assert "no room on the disk to write" in refused(*_to("evaluate", "HERE/out"))


def test_two_runs_do_not_write_one_store(refused, tmp_path) -> None:
    import fcntl

    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "anyband").write_text("a chip store under construction\n")
    with (tmp_path / "out.partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = refused(*_to("prepare", "HERE/out"))
    assert "another run is writing to" in message
