"""The published layout: names, shapes, and the way there and back."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import expected_shapes, from_published, to_published
from anyband.models.vit import Encoder
from anyband.training.steps import make_optimizer


@pytest.fixture
def model(tiny_config: AutoencoderConfig) -> Autoencoder:
    return Autoencoder(tiny_config, seed=3)


def test_a_network_has_exactly_the_expected_weights(model: Autoencoder) -> None:
    published = to_published(model.state_dict())
    shapes = {name: tuple(value.shape) for name, value in published.items()}
    assert shapes == expected_shapes(model.config, decoder=True)


def test_trained_positions_change_no_name(tiny_config: AutoencoderConfig) -> None:
    config = replace(tiny_config, encoder=replace(tiny_config.encoder, positions="trained"))
    published = to_published(Autoencoder(config, seed=1).state_dict())
    assert published.keys() == expected_shapes(tiny_config, decoder=True).keys()


def test_names_are_those_of_the_recorded_checkpoint(golden: Path, tiny_config: AutoencoderConfig) -> None:
    recorded = load_file(golden / "smarties" / "checkpoint.safetensors")
    encoder = replace(
        tiny_config.encoder,
        img_size=64,
        patch_size=16,
        embed_dim=64,
        num_heads=4,
        num_ranges=sum("spectrum_embeds" in name and "weight" in name for name in recorded),
    )
    decoder = replace(tiny_config.decoder, decoder_embed_dim=32, decoder_depth=2)
    expected = expected_shapes(AutoencoderConfig(encoder=encoder, decoder=decoder), decoder=True)
    assert {name: tuple(value.shape) for name, value in recorded.items()} == expected


def test_the_way_to_the_published_layout_and_back_changes_nothing(model: Autoencoder) -> None:
    state = model.state_dict()
    back = from_published(to_published(state), model.config.encoder.num_ranges)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_published_weights_have_memory_of_their_own(model: Autoencoder) -> None:
    published = to_published(model.state_dict())
    addresses = [value.data_ptr() for value in published.values()]
    own = {value.data_ptr() for value in model.state_dict().values()}
    assert len(set(addresses)) == len(addresses)
    assert not own & set(addresses)
    assert all(value.is_contiguous() for value in published.values())


def test_an_encoder_alone_needs_no_decoder_names(model: Autoencoder) -> None:
    shapes = expected_shapes(model.config, decoder=False)
    state = {name: value for name, value in to_published(model.state_dict()).items() if name in shapes}
    network = from_published(state, model.config.encoder.num_ranges)
    encoder = Encoder(model.config.encoder, seed=None).to_empty(device="cpu")
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in network.items()})
    assert torch.equal(encoder.projection.weight, model.encoder.projection.weight)


def test_weight_decay_spares_what_is_one_dimensional_on_disk(model: Autoencoder) -> None:
    optimizer = make_optimizer(model, weight_decay=0.1, betas=(0.9, 0.95))
    free = {id(one) for group in optimizer.param_groups if not group["weight_decay"] for one in group["params"]}
    spared = {name for name, value in model.named_parameters() if id(value) in free}
    disk = to_published(dict(model.named_parameters()))
    assert {"encoder.projection.bias", "reconstruction.bias", "encoder.norm.weight"} <= spared
    count = sum(value.numel() for name, value in model.named_parameters() if name in spared)
    assert count == sum(value.numel() for value in disk.values() if value.ndim == 1)
