"""First weights: distributions, and that they depend on the seed and the name alone."""

import math
from dataclasses import replace

import pytest
import torch

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encodings import EncodingConfig
from anyband.models.vit import SIZES, Encoder, EncoderConfig


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(EncoderConfig(img_size=32, num_ranges=3, **SIZES["tiny"]), seed=7)


def test_linear_maps_are_xavier_uniform(encoder: Encoder) -> None:
    weight = encoder.blocks[0].mlp.fc1.weight.detach()
    edge = math.sqrt(6 / (192 + 768))
    assert weight.abs().max() <= edge
    assert weight.abs().max() > 0.999 * edge
    assert weight.std().item() == pytest.approx(edge / math.sqrt(3), rel=0.01)
    assert abs(weight.mean().item()) < 1e-3


def test_each_projection_is_xavier_uniform_as_one_linear_map(encoder: Encoder) -> None:
    edge = math.sqrt(6 / (256 + 192))
    assert encoder.projection.weight.detach().abs().amax(dim=(1, 2)).tolist() == pytest.approx([edge] * 3, rel=1e-3)


def test_biases_are_zero_and_norms_one(encoder: Encoder) -> None:
    for name, value in encoder.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "norm" in name:
            assert (value == 1).all(), name


def test_tokens_are_normal_with_deviation_0_02(encoder: Encoder) -> None:
    assert encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_weights_depend_on_the_seed_and_no_global_state(tiny_config: AutoencoderConfig) -> None:
    informed = EncodingConfig(place=True, resolution=True, date=True, source=True)
    config = replace(tiny_config, images="set", encoder=replace(tiny_config.encoder, encodings=informed))
    before = torch.get_rng_state()
    first, second, other = (Autoencoder(config, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["encoder.blocks.0.attn.qkv.weight"], other["encoder.blocks.0.attn.qkv.weight"])


def test_no_two_maps_start_from_the_same_numbers(tiny_config: AutoencoderConfig) -> None:
    state = Autoencoder(tiny_config, seed=1).state_dict()
    starts = [tuple(value.flatten()[:3].tolist()) for name, value in state.items() if value.flatten()[:3].std() > 0]
    drawn = [start for start in starts if start[0] != 0]
    assert len(drawn) == len(set(drawn))


def test_an_encoder_alone_starts_like_that_of_the_whole_network(tiny_config: AutoencoderConfig) -> None:
    alone = Encoder(tiny_config.encoder, seed=4).state_dict()
    whole = Autoencoder(tiny_config, seed=4).encoder.state_dict()
    assert all(torch.equal(alone[name], whole[name]) for name in whole)
