"""What people give instead of a checkpoint is told apart, and at once."""

import os
import time
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anyband.errors import CheckpointError, RecipeError
from anyband.models.checkpoint import load_checkpoint, locate
from anyband.pretraining.recipe import load_recipe


@pytest.mark.parametrize("prefix", ["net.", "model.student."])
def test_names_with_words_that_no_known_wrapper_puts_there_are_refused_with_them(
    golden: Path, tmp_path: Path, prefix: str
) -> None:
    source, wrapped = golden / "smarties" / "checkpoint.safetensors", tmp_path / "wrapped.safetensors"
    with safe_open(source, "pt") as file:
        header = file.metadata()
    save_file({prefix + name: weight for name, weight in load_file(source).items()}, wrapped, metadata=header)
    left = prefix.removeprefix("model.")
    with pytest.raises(CheckpointError, match=rf"begin with '{left}', .*name\.removeprefix\('{left}'\)"):
        load_checkpoint(wrapped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>404</html>", "is a web page, not weights: its download failed"),
        (b"\n  <!DOCTYPE html><p>Sign in</p>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a pointer of Git LFS"),
        (b"", "is not a whole safetensors file"),
    ],
)
def test_what_a_download_left_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "model.safetensors")


def test_what_has_no_end_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is a pipe; name a file"):
        load_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["runs/mine", "runs/encoder.safetensors", "runs/recipe.yaml"])
def test_what_is_like_a_file_is_not_sought_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "last.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anyband.models.checkpoint._downloaded", lambda name: pytest.fail(f"{name} was sought"))
    with pytest.raises(CheckpointError, match=rf"no checkpoint '{name}' \(folder 'runs' has last\.safetensors\)"):
        locate(name)


@pytest.mark.parametrize("key", ["model.depth", "model.decoder_depth"])
def test_a_network_too_deep_to_be_made_is_refused_at_once(key: str) -> None:
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=rf"{key} must be from 1 to 1,000, found 1e\+08"):
        load_recipe("smarties_tiny", [f"{key}=100000000"])
    assert time.perf_counter() - start < 5
