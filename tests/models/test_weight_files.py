"""Files of weights: what is refused, and how."""

import hashlib
import pickle
import uuid
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

from anyband.errors import CheckpointError, OutputError
from anyband.models.checkpoint import checkpoint_name, locate, read_weights, write_weights


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model"])
def test_a_torch_archive_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"a pickle or a PyTorch archive.*can run any code.*weights_only=True"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_pickle_is_never_opened(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(CheckpointError, match="is a pickle"):
        read_weights(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(golden: Path, tmp_path: Path, share: float) -> None:
    whole = (golden / "smarties" / "checkpoint.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"is not a whole safetensors file.*it may be truncated"):
        read_weights(tmp_path / "cut.safetensors")


def test_text_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_text("not a network at all")
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        read_weights(tmp_path / "a.safetensors")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", {"a": torch.arange(3.0)}, {"note": "x"})
    tensors, header = read_weights(tmp_path / "w.safetensors")
    assert tensors["a"].tolist() == [0, 1, 2]
    assert header == {"note": "x"}


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
)
def test_every_kind_of_number_is_read_back_by_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {
        "transposed": torch.arange(6).view(2, 3).to(dtype).t(),
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
        "other": torch.tensor([3, 4], dtype=torch.int16),
    }
    write_weights(tmp_path / "w.safetensors", tensors, {"märchen": '"'})
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    entries = {f"key {index}": str(index) for index in range(20)}
    for name, header in (("a", entries), ("b", dict(reversed(entries.items())))):
        write_weights(tmp_path / name, {"w": torch.arange(3.0), "v": torch.ones(2)}, header)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"before")
    name = uuid.UUID(int=1)
    room = tmp_path / f".{name.hex[:8]}.partial.w.safetensors"
    room.mkdir()
    (room / "w.safetensors").symlink_to("/dev/full")
    monkeypatch.setattr("uuid.uuid4", lambda: name)
    with pytest.raises(OutputError, match="no room on the disk to write"):
        write_weights(target, {"a": torch.zeros(9)}, {})
    assert target.read_bytes() == b"before"
    assert not list(room.iterdir())


@pytest.mark.parametrize("name", ["absent.safetensors", "folder/absent.pth", "a/b/c", "plain"])
def test_a_missing_file_is_named(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"there is no checkpoint '{name}'.*hub id such as"):
        locate(name)


def test_a_folder_gives_its_model_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no 'model\.safetensors'"):
        locate(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert locate(str(tmp_path)) == tmp_path / "model.safetensors"


def test_a_hub_id_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert locate("gsumbul/SMARTIES-v1-ViT-B") == tmp_path / "model.safetensors"
    assert asked == [("gsumbul/SMARTIES-v1-ViT-B", "model.safetensors")]


def test_the_only_file_of_weights_is_taken_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def download(repo: str, file: str) -> str:
        if file == "model.safetensors":
            raise huggingface_hub.errors.EntryNotFoundError("no such file")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda _: ["README.md", "smarties.safetensors"])
    assert locate("owner/name") == tmp_path / "smarties.safetensors"


def test_an_unreachable_hub_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str) -> str:
        raise LocalEntryNotFoundError("cannot reach the hub.\nmore lines")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(CheckpointError) as caught:
        locate("owner/name")
    assert "could not be had from the hub: cannot reach the hub. Check the name" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_named_with_a_part_of_its_hash(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()[:16]
    assert checkpoint_name(tmp_path / "tiny.safetensors") == f"tiny.safetensors sha256:{expected}"
