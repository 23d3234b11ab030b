"""Files of weights: what is refused, and how."""

import hashlib
import json
import pickle
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
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


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[tuple[str, str, str | None]]]:
    """Put a hub in the place of the real one, whose repositories hold these files; what is downloaded is listed."""

    def make(*files: str) -> list[tuple[str, str, str | None]]:
        taken: list[tuple[str, str, str | None]] = []

        def download(repository: str, file: str, *, revision: str | None = None) -> str:
            taken.append((repository, file, revision))
            if file not in files:
                raise EntryNotFoundError(f"no file {file}")
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
            (tmp_path / file).write_text(json.dumps({"weight_map": dict(zip("ab", shards, strict=True))}))
            return str(tmp_path / file)

        found = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.setattr(huggingface_hub, "model_info", lambda repository, **_: found)
        return taken

    return make


_B = "gsumbul/SMARTIES-v1-ViT-B"


@pytest.mark.parametrize(
    ("hub_id", "files", "chosen"),
    [
        (_B, ("README.md", "model.safetensors", "smarties-v1-vitb.safetensors"), "smarties-v1-vitb.safetensors"),
        (_B, ("config.json", "model.safetensors"), "model.safetensors"),
        (_B, ("model.safetensors", "other.safetensors", "third.safetensors"), "model.safetensors"),
        ("owner/name", ("README.md", "smarties.safetensors"), "smarties.safetensors"),
        (f"{_B}/model.safetensors", ("model.safetensors", "smarties-v1-vitb.safetensors"), "model.safetensors"),
    ],
)
def test_of_a_repository_the_file_with_most_is_taken(hub, tmp_path, hub_id, files, chosen) -> None:
    taken = hub(*files)
    assert locate(hub_id) == tmp_path / chosen
    assert taken == [("/".join(hub_id.split("/")[:2]), chosen, None)]


@pytest.mark.parametrize("hub_id", [f"{_B}@v1.0", f"{_B}/model.safetensors@v1.0"])
def test_a_revision_is_asked_for(hub, hub_id: str) -> None:
    taken = hub("model.safetensors")
    locate(hub_id)
    assert taken == [(_B, "model.safetensors", "v1.0")]


def test_where_nothing_tells_the_files_are_listed(hub) -> None:
    hub("smarties-v1-vitb-eurosat-linprobe.safetensors", "smarties-v1-vitb-eurosat-finetune.safetensors")
    message = (
        "has 2 files of weights (smarties-v1-vitb-eurosat-finetune.safetensors, "
        "smarties-v1-vitb-eurosat-linprobe.safetensors); say which: "
        "'gsumbul/models/smarties-v1-vitb-eurosat-finetune.safetensors'"
    )
    with pytest.raises(CheckpointError, match=re.escape(message)):
        locate("gsumbul/models")


def test_shards_are_downloaded_with_their_index(hub, tmp_path: Path) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    taken = hub("model.safetensors.index.json", *shards)
    assert locate("owner/name") == tmp_path / "model.safetensors.index.json"
    assert [file for _, file, _ in taken] == ["model.safetensors.index.json", *shards]


def test_what_was_downloaded_before_needs_no_connection(hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    taken = hub("smarties-v1-vitb.safetensors")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "smarties-v1-vitb.safetensors").touch()

    def unreachable(repository: str, **_: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository, **_: str(tmp_path / "kept"))
    locate(_B)
    assert taken == [(_B, "smarties-v1-vitb.safetensors", None)]


def test_an_unreachable_hub_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str, **_: object) -> None:
        raise LocalEntryNotFoundError("cannot reach the hub.\nmore lines")

    monkeypatch.setattr(huggingface_hub, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError) as caught:
        locate("owner/name")
    assert "could not be had from the hub: cannot reach the hub. Check the name" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_gives_its_finished_checkpoint_else_its_newest(tmp_path: Path) -> None:
    for step in (200, 400):
        folder = tmp_path / "run" / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.safetensors"):
            (folder / name).touch()
    assert locate(tmp_path / "run") == folder / "model.safetensors"
    assert locate(folder) == folder / "model.safetensors"
    (tmp_path / "run" / "encoder.safetensors").touch()
    assert locate(tmp_path / "run") == tmp_path / "run" / "encoder.safetensors"


def test_a_checkpoint_is_named_with_a_part_of_its_hash(tmp_path: Path) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()[:16]
    assert checkpoint_name(tmp_path / "tiny.safetensors") == f"tiny.safetensors sha256:{expected}"
