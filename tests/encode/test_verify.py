"""`anyband verify`: the recorded vectors pass; what is wrong with vectors or weights is found and named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyband.cli import main
from anyband.encode.verify import compare, verify
from anyband.errors import CheckpointError, InputError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, state_of
from anyband.models.inputs import ImageBatch
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges

Change = Callable[[dict[str, torch.Tensor]], Any]


@pytest.fixture
def checkpoint(golden: Path) -> Path:
    return golden / "smarties" / "checkpoint.safetensors"


@pytest.fixture
def vectors(golden: Path) -> Path:
    return golden / "smarties" / "vectors.safetensors"


@pytest.fixture
def changed(vectors: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the recorded vectors with a change."""

    def write(change: Change, metadata: dict[str, str] | None = None) -> Path:
        tensors = load_file(vectors)
        change(tensors)
        save_file(tensors, tmp_path / "changed.safetensors", metadata=metadata)
        return tmp_path / "changed.safetensors"

    return write


def test_every_recorded_entry_passes(checkpoint: Path, vectors: Path) -> None:
    report = verify(checkpoint, vectors)
    assert len(report.entries) == 21
    assert [entry["entry"] for entry in report.entries if not entry["passed"]] == []
    assert max(entry["max_rel_error"] for entry in report.entries) < 2e-6


def test_the_command_prints_a_table_and_exits_with_0(
    checkpoint: Path, vectors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(checkpoint), str(vectors)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 23
    assert any(line.startswith("s2_s1.loss_a") and "pass  (variance of repeated values)" in line for line in lines)
    assert lines[-1] == "all 21 entries pass at a relative tolerance of 1e-05"


def test_a_deviation_exits_with_1_and_is_named(
    checkpoint: Path, changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = changed(lambda tensors: tensors["rgb.cls"][0, 0].add_(0.01))
    assert main(["verify", str(checkpoint), str(moved), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is False
    failed = [entry for entry in found["entries"] if not entry["passed"]]
    assert [entry["entry"] for entry in failed] == ["rgb.cls"]
    assert failed[0]["max_abs_error"] == pytest.approx(0.01, rel=1e-3)


def test_a_larger_tolerance_lets_it_pass(checkpoint: Path, changed: Callable[..., Path]) -> None:
    moved = changed(lambda tensors: tensors["rgb.cls"][0, 0].add_(0.01))
    assert verify(checkpoint, moved, tolerance=0.1).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_recorded_value_that_is_no_number_fails(
    checkpoint: Path, changed: Callable[..., Path], capsys: pytest.CaptureFixture[str], value: float
) -> None:
    moved = changed(lambda tensors: tensors["s1.cls"][0, 0].fill_(value))
    assert main(["verify", str(checkpoint), str(moved), "--json"]) == 1
    failed = [entry for entry in json.loads(capsys.readouterr().out)["entries"] if not entry["passed"]]
    assert [(entry["entry"], entry["max_rel_error"]) for entry in failed] == [("s1.cls", None)]


def test_other_weights_fail_nearly_everywhere(golden: Path, vectors: Path, tmp_path: Path) -> None:
    encoder = EncoderConfig(img_size=64, patch_size=16, embed_dim=64, depth=2, num_heads=4, num_ranges=17)
    decoder = DecoderConfig(decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4)
    config = AutoencoderConfig(encoder=encoder, decoder=decoder)
    other = Checkpoint(config=config, state=state_of(Autoencoder(config, seed=1)), ranges=load_ranges("smarties_v1"))
    save_checkpoint(tmp_path / "other.safetensors", other)
    report = verify(tmp_path / "other.safetensors", vectors)
    assert not report.passed
    assert all(not entry["passed"] for entry in report.entries)


def test_a_catalogue_sensor_and_its_bands_may_be_recorded(tmp_path: Path) -> None:
    config = AutoencoderConfig(
        encoder=EncoderConfig(img_size=32, patch_size=16, embed_dim=16, depth=1, num_heads=2, num_ranges=17),
        decoder=DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2),
    )
    model, table = Autoencoder(config, seed=1).eval(), load_ranges("smarties_v1")
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(config=config, state=state_of(model), ranges=table))
    sensor = get_sensor("sentinel2-l2a").select(["B04", "B08"])
    image = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(1))
    mixing = torch.from_numpy(assign(sensor, table).mixing).float()
    cls = model.encoder(ImageBatch(pixels=image, mixing=mixing)).cls.detach()
    tensors = {"mine.image": image, "mine.cls": cls}
    save_file(tensors, tmp_path / "v.safetensors", {"sensor.mine": "sentinel2-l2a", "bands.mine": "B04,B08"})
    assert verify(tmp_path / "c.safetensors", tmp_path / "v.safetensors").passed
    save_file(tensors, tmp_path / "w.safetensors", {"bands.mine": '["red_2", "near_infrared_1"]'})
    assert verify(tmp_path / "c.safetensors", tmp_path / "w.safetensors").passed


def test_a_pair_may_be_named_in_the_header(checkpoint: Path, changed: Callable[..., Path]) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("s2_rgb.")]:
            tensors[name.replace("s2_rgb", "both")] = tensors.pop(name)

    report = verify(checkpoint, changed(rename, {"pair.both": "s2_l2a, rgb"}))
    assert {entry["entry"] for entry in report.entries} >= {"both.latent_a", "both.loss_a"}
    assert report.passed


def _rename(old: str, new: str) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(old)]:
            tensors[name.replace(old, new, 1)] = tensors.pop(name)

    return change


def _set(name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = value(tensors[name]).contiguous()

    return change


def _cut_tokens(tensors: dict[str, torch.Tensor]) -> None:
    for kind in ("from_a", "masked"):
        _set(f"s2_s1.{kind}", lambda value: value[:, :9])(tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.clear() or tensors.update(x=torch.zeros(1)), "has an entry 'x', whose kind"),
        (
            _rename("s1.cls", "s1.clss"),
            r"has an entry 's1.clss', whose kind is not known; did you mean 'cls'",
        ),
        (lambda tensors: tensors.pop("rgb.image"), r"was recorded, but 'rgb.image' is missing"),
        (lambda tensors: tensors.pop("s2_s1.ids_keep"), r"was recorded, but 's2_s1.ids_keep' is missing"),
        (
            _set("s1.image", lambda image: image[0]),
            r"'s1.image' has shape \(2, 64, 64\); it must be batch, band, row",
        ),
        (_set("s1.image", lambda image: image[:, :1]), r"'s1.image' has 1 band, 's1' has 2"),
        (_set("s1.image", lambda image: image[:, :, :63]), "can't be cut into patches of 16 × 16"),
        (
            _set("s1.cls", lambda cls: cls[:, :63]),
            r"recorded with shape \(2, 63\), the checkpoint gives \(2, 64\)",
        ),
        (_rename("landsat8.", "mystery."), r"the bands of 'mystery.image' are not known.*bands.mystery"),
        (
            _rename("s2_rgb.", "zz_rgb."),
            r"pair 'zz_rgb' does not name two of the recorded sensors.*pair.zz_rgb",
        ),
        (_set("s2_s1.ids_keep", lambda ids: ids + 16), "must name some, not all, positions from 0 to 15"),
        (_set("s2_s1.ids_keep", lambda ids: ids[:, :0]), "must name some, not all, positions"),
        (
            _set("s2_s1.ids_keep", lambda ids: ids[:, :3]),
            r"'s2_s1.masked' is not all that 's2_s1.ids_keep' leaves",
        ),
        (
            _set("s2_s1.from_a", lambda from_a: from_a[:, :9]),
            r"differ in their counts: \(2, 9\), \(2, 16\), \(2, 4\)",
        ),
        (_cut_tokens, "must have from_a and masked for 2 × 16 tokens"),
        (_set("s2_s1.from_a", lambda from_a: from_a[0]), "must be batch × positions"),
    ],
)
def test_vectors_that_can_not_be_used_are_refused(
    checkpoint: Path, changed: Callable[..., Path], change: Change, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        verify(checkpoint, changed(change))


def test_vectors_without_outputs_are_refused(checkpoint: Path, changed: Callable[..., Path]) -> None:
    def images_only(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if not name.endswith(".image")]:
            del tensors[name]

    with pytest.raises(InputError, match="has images but no recorded outputs"):
        verify(checkpoint, changed(images_only))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"embed_dim": "192"}, "the vectors were recorded with embed_dim 192, the checkpoint has 64"),
        ({"decoder_depth": "8"}, "recorded with decoder_depth 8, the checkpoint has 2"),
        ({"depth": "deep"}, "has an architecture that is not all numbers"),
        ({"bands.s1": "[1"}, "is no list of names"),
    ],
)
def test_headers_that_do_not_fit_are_refused(
    checkpoint: Path, changed: Callable[..., Path], header: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        verify(checkpoint, changed(lambda _: None, header))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(checkpoint: Path, vectors: Path, tolerance: float) -> None:
    with pytest.raises(InputError, match="the tolerance must be over 0"):
        verify(checkpoint, vectors, tolerance=tolerance)


def test_a_pickle_exits_with_2_and_one_message(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pth")
    assert main(["verify", str(tmp_path / "model.pth"), str(vectors)]) == 2
    error = capsys.readouterr().err
    assert "is a pickle or a PyTorch archive" in error
    assert "Traceback" not in error


def test_missing_vectors_are_an_error(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read"):
        verify(checkpoint, tmp_path / "absent.safetensors")


def test_an_entry_of_zeros_passes_only_if_met_exactly() -> None:
    zeros = torch.zeros(3)
    assert compare("x", zeros, zeros, tolerance=1e-5)["passed"]
    assert not compare("x", zeros + 1e-9, zeros, tolerance=1e-5)["passed"]


def test_the_recorded_loss_is_within_1e_3_with_the_default_variance(
    checkpoint: Path, vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyband.encode.verify._LOSS_VARIANCE", "unbiased")
    losses = [entry for entry in verify(checkpoint, vectors, tolerance=1e-3).entries if "loss" in entry["entry"]]
    assert all(entry["passed"] and entry["max_rel_error"] > 1e-5 for entry in losses)
    assert len(losses) == 2


def test_a_checkpoint_of_sets_is_not_verified_with_pairs(checkpoint: Path, vectors: Path, tmp_path: Path) -> None:
    of_pairs = load_checkpoint(checkpoint)
    config = replace(of_pairs.config, images="set")
    save_checkpoint(tmp_path / "sets.safetensors", replace(of_pairs, config=config))
    with pytest.raises(CheckpointError, match="was trained on sets of images; verify it with vectors of single images"):
        verify(tmp_path / "sets.safetensors", vectors)
