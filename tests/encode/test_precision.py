"""bf16: a copy with rounded weights gives what mixed precision gives and follows the weights; emulation is said."""

import pytest
import torch

from anyband.encode.encoder import RoundedCopy, SensorEncoder
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.inputs import ImageBatch
from anyband.models.vit import EncoderConfig
from anyband.sensors.ranges import load_ranges
from anyband.training import steps as precision
from anyband.training.steps import precision_note


@pytest.fixture
def encoder() -> SensorEncoder:
    table = load_ranges("smarties_v1")
    sizes = EncoderConfig(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_ranges=len(table.ranges))
    config = AutoencoderConfig(encoder=sizes)
    return SensorEncoder(Checkpoint(config=config, state=state_of(Autoencoder(config, seed=1)), ranges=table)).eval()


def _batch(bands: int = 3) -> ImageBatch:
    draw = torch.Generator().manual_seed(bands)
    mixing = torch.eye(17)[:bands] if bands <= 17 else torch.rand(bands, 17, generator=draw).softmax(dim=1)
    return ImageBatch(pixels=torch.randn(2, bands, 32, 32, generator=draw), mixing=mixing)


@torch.no_grad()
@pytest.mark.parametrize("bands", [1, 3, 20])
def test_bf16_gives_what_automatic_mixed_precision_gives_to_the_bit(encoder: SensorEncoder, bands: int) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = encoder.encoder(_batch(bands))
    found = encoder.encode_batch(_batch(bands), precision="bf16")
    assert torch.equal(found.cls, expected.cls.float())
    assert torch.equal(found.tokens, expected.tokens.float())


def test_bf16_features_are_near_those_of_float32(encoder: SensorEncoder) -> None:
    exact, rounded = (encoder.encode_batch(_batch(), precision=one) for one in ("float32", "bf16"))
    for ours, theirs in ((rounded.cls, exact.cls), (rounded.tokens, exact.tokens)):
        assert 0 < (ours - theirs).norm() / theirs.norm() < 1e-2


def test_the_copy_follows_weights_that_change(encoder: SensorEncoder) -> None:
    before = encoder.encode_batch(_batch(), precision="bf16").cls
    with torch.no_grad():
        encoder.encoder.blocks[0].mlp.fc1.weight.mul_(1.5)
    assert not torch.equal(encoder.encode_batch(_batch(), precision="bf16").cls, before)


def test_the_copy_is_made_once_and_is_no_part_of_the_encoder(encoder: SensorEncoder) -> None:
    names = set(encoder.state_dict())
    rounded = RoundedCopy()
    first = rounded.of(encoder.encoder)
    assert rounded.of(encoder.encoder) is first
    encoder.encode_batch(_batch(), precision="bf16")
    assert set(encoder.state_dict()) == names


def test_a_precision_that_is_emulated_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    monkeypatch.setattr(precision, "has_bf16", lambda _device: False)
    note = precision_note(device, "bf16-mixed")
    assert note is not None
    assert "'cpu' has no arithmetic in bf16 and emulates it" in note
    assert "optim.precision=32-true" in note
    assert precision_note(device, "32-true") is None
    monkeypatch.setattr(precision, "has_bf16", lambda _device: True)
    assert precision_note(device, "bf16-mixed") is None
