"""Checkpoints that are no checkpoints, or another's: refused by every verb that loads one."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

_FILE = "HERE/model.safetensors"
_EMBED = ("embed", "KIT/rgb0.tif", "--sensor", "rgb", "--checkpoint", _FILE, "--out", "HERE/f.tif")
_VERBS = {
    "embed": _EMBED,
    "evaluate": (
        "evaluate", "linear", "--checkpoint", _FILE, "--data", "KIT/labelled", "--sensor", "rgb",
        "--out", "HERE/s.json",
    ),
    "verify": ("verify", _FILE, "KIT/model.safetensors"),
    "sensors": ("sensors", "rgb", "--ranges", _FILE),
    "pretrain": (
        "pretrain", "KIT/recipe.yaml", "--data", "KIT/store", "--out", "HERE/run", "--quiet",
        f"model.start={_FILE}", "model.ranges=start",
    ),
}  # fmt: skip

Tensors = dict[str, Tensor]


@pytest.fixture
def write(kit: Path, tmp_path: Path) -> Callable[..., None]:
    """Write the kit's checkpoint with another header (`header={key: value}`) or other tensors (`change`)."""

    def make(change: Callable[[Tensors], object] = lambda tensors: None, header: dict[str, str] | None = None) -> None:
        with safe_open(kit / "model.safetensors", "pt") as file:
            metadata = dict(file.metadata())
        tensors = load_file(kit / "model.safetensors")
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata=metadata | (header or {}))

    return make


@pytest.fixture(autouse=True)
def _vectors(kit: Path, tmp_path: Path) -> None:
    """Give `verify` a second file, since missing ones are named before a checkpoint is opened."""
    (tmp_path / "vectors.safetensors").write_bytes((kit / "model.safetensors").read_bytes())


@pytest.mark.parametrize("verb", _VERBS)
@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_a_truncated_checkpoint_is_refused(refused, kit, tmp_path, verb: str, cut: int) -> None:
    whole = (kit / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:cut])
    message = refused(*_VERBS[verb])
    assert "is not a whole safetensors file (" in message
    assert "it may be truncated: copy or download it again" in message


@pytest.mark.parametrize("verb", _VERBS)
@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_pickle_is_refused_and_never_opened(refused, kit, tmp_path, verb: str, name: str) -> None:
    torch.save(load_file(kit / "model.safetensors"), tmp_path / name)
    message = refused(*(word.replace("model.safetensors", name) for word in _VERBS[verb]))
    assert "is a pickle or a PyTorch archive, not safetensors; reading one can run any code in it" in message
    assert "weights_only=True" in message


@pytest.mark.parametrize("verb", [verb for verb in _VERBS if verb != "sensors"])
def test_a_missing_checkpoint_is_refused(refused, verb: str) -> None:
    assert "there is no checkpoint '" in refused(*_VERBS[verb])


@pytest.mark.parametrize("verb", _VERBS)
def test_weights_of_another_shape_are_refused(refused, write, verb: str) -> None:
    write(lambda tensors: tensors.update({"norm.weight": torch.zeros(99)}))
    message = refused(*_VERBS[verb])
    assert "does not fit its architecture (embed_dim 16, depth 1, 17 ranges)" in message
    assert "1 of another shape (norm.weight (99,) and not (16,))" in message
    assert "get the file again from where it was made" in message


@pytest.mark.parametrize("verb", _VERBS)
def test_weights_that_are_not_finite_are_refused(refused, write, verb: str) -> None:
    write(lambda tensors: tensors["cls_token"].fill_(float("nan")))
    message = refused(*_VERBS[verb])
    assert "has weights that are no finite numbers, first 'cls_token'; use an earlier checkpoint" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.bias"), "1 missing (norm.bias)"),
        (lambda tensors: tensors.update(colour=torch.zeros(1)), "1 unexpected (colour)"),
        (lambda tensors: tensors.update({"norm.bias": torch.zeros(16).int()}), "no finite numbers, first 'norm.bias'"),
        (lambda tensors: tensors.update(pos_embed=torch.zeros(1, 0, 16)), "1 of another shape (pos_embed (1, 0, 16)"),
        (lambda tensors: tensors.update(cls_token=torch.zeros(())), "1 of another shape (cls_token ()"),
        (lambda tensors: tensors["pos_embed"].add_(0.5), "positions"),
    ],
)
def test_wrong_weights_are_refused(refused, write, change: Callable[[Tensors], object], message: str) -> None:
    header = {"positions": "fixed"} if message == "positions" else {}
    write(change, header=header)
    assert message in refused(*_EMBED)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("embed_dim", "32", "of another shape (cls_token (1, 1, 16) and not (1, 1, 32)"),
        ("depth", "2", "12 missing (blocks.1."),
        ("depth", "²", "'depth' in the header of the checkpoint is '²', no number from 1 to 65536"),
        ("depth", "-1", "'depth' in the header of the checkpoint is '-1'"),
        ("num_heads", "3", "embed_dim must be a multiple of 4 and of num_heads; found 16 with 3 heads"),
        ("patch_size", "5", "an img_size that patch_size divides"),
        ("mlp_ratio", "nan", "'mlp_ratio' in the header of the checkpoint is 'nan', no number of 0 or more"),
        ("positions", "learnt", "'positions' in the header of the checkpoint is 'learnt', not 'fixed' or 'trained'"),
        ("anyband_version", "2", "is of format version '2'; this anyband reads up to 1: update it"),
        ("ranges", "{", "'ranges' in the header of the checkpoint is not JSON"),
        ("ranges", "[" * 100_000, "'ranges' in the header of the checkpoint is not JSON"),
        ("ranges", "[]", "'ranges' in the header of the checkpoint is not a JSON object"),
        (
            "ranges",
            '{"name": "x", "ranges": [], "declared": 1}',
            "the ranges in the header of the checkpoint are wrong",
        ),
        ("pretraining", '{"colour": 1}', "describes no network: "),
        ("pretraining", '{"mixup": 3}', "describes no network: "),
        ("normalisations", '{"maxar-rgb": 3}', "'normalisations' in the header of the checkpoint: 'maxar-rgb' is not"),
        ("normalisations", '{"maxar-rgb": {"a": 1}}', "a normalisation has the keys bands, "),
        ("sensors", '{"mine": 3}', "'sensors' in the header of the checkpoint: 'mine' is not a JSON object"),
        ("recipe", "[", "'recipe' in the header of the checkpoint is not JSON"),
    ],
)
def test_a_wrong_header_is_refused(refused, write, key: str, value: str, message: str) -> None:
    write(header={key: value})
    assert message in refused(*_EMBED)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("p01", ["a", 0.0, 0.0], "a normalisation needs a list of finite numbers as 'p01'"),
        ("p99", [float("nan"), 1.0, 1.0], "a normalisation needs a list of finite numbers as 'p99'"),
        ("std", [1.0], "a normalisation needs one value of each kind for each of its 3 bands"),
        ("bands", 3, "a normalisation needs a list of texts as 'bands', found 3"),
        ("nodata", "none", "a normalisation needs a number or null as 'nodata'"),
    ],
)
def test_a_wrong_normalisation_is_refused(refused, write, key: str, value: object, message: str) -> None:
    from anyband.data.harmonise import normalisation_for
    from anyband.sensors.catalogue import get_sensor

    good = normalisation_for(get_sensor("maxar-rgb")).to_dict()
    write(header={"normalisations": json.dumps({"maxar-rgb": good | {key: value}})})
    assert message in refused(*_EMBED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (struct.pack("<Q", 2**62) + b"{}", "is not a whole safetensors file"),
        (struct.pack("<Q", 8) + b'{"a": 1,', "invalid JSON in header"),
        (bytes(range(256)) * 4, "is not a whole safetensors file"),
    ],
)
def test_a_broken_file_is_refused(refused, tmp_path, text: bytes, message: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(text)
    assert message in refused(*_EMBED)


def test_a_file_without_an_architecture_is_refused(refused, kit, tmp_path) -> None:
    save_file(load_file(kit / "model.safetensors"), tmp_path / "model.safetensors")
    message = refused(*_EMBED)
    assert "the file has no architecture in its header, and 16 is not the width of a published size" in message


def test_a_folder_without_a_checkpoint_is_refused(refused, tmp_path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    assert "has no 'model.safetensors' and no safetensors file; name the checkpoint file itself" in refused(*_EMBED)


def test_a_run_that_starts_from_another_network_is_refused(refused, kit, tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes((kit / "model.safetensors").read_bytes())
    message = refused(*_VERBS["pretrain"], "model.depth=2")
    assert "holds another network than the recipe's: depth 2, not 1" in message


def test_a_checkpoint_in_half_precision_is_read(write, kit, tmp_path) -> None:
    from anyband.encode.encoder import load_encoder

    write(lambda tensors: tensors.update({name: tensor.half() for name, tensor in tensors.items()}))
    half, whole = load_encoder(tmp_path / "model.safetensors"), load_encoder(kit / "model.safetensors")
    weights = [one.encoder.state_dict()["norm.weight"] for one in (half, whole)]
    assert torch.allclose(*weights, atol=1e-3)
