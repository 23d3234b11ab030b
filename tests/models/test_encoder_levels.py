"""Levels of an encoder: tokens after chosen blocks, of images and of sets."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from anyband.errors import InputError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.vit import Encoder


@pytest.fixture
def encoder(tiny_config: AutoencoderConfig) -> Encoder:
    """Two blocks, no encodings."""
    return Encoder(tiny_config.encoder, seed=0).eval()


@pytest.fixture
def informed(tiny_config: AutoencoderConfig) -> Encoder:
    """Two blocks, told of dates and resolutions."""
    return Encoder(replace(tiny_config.encoder, encodings=EncodingConfig(resolution=True, date=True)), seed=0).eval()


def _sets(*groups: ImageBatch, metadata: SetMetadata | None = None) -> SetBatch:
    count = len(groups[0].pixels)
    rows = torch.arange(count * len(groups)).view(len(groups), count).T
    return SetBatch(
        groups=groups,
        rows=rows,
        same_source=torch.ones(rows.shape, dtype=torch.bool),
        first_slot=torch.zeros(count, dtype=torch.int64),
        metadata=metadata,
        partnered=False,
    )


def _year(num_slots: int) -> SetMetadata:
    return replace(SetMetadata.unknown(2, num_slots), year=torch.full((2, num_slots), 2020.0))


@pytest.mark.parametrize("missing", [False, True])
def test_levels_of_a_set_of_one_image_are_those_of_the_image(
    missing: bool, encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3, missing=missing)
    alone, joint = encoder.forward_features(image, blocks=(0, 1)), encoder.set_features(_sets(image), blocks=(0, 1))
    for one, other in zip(alone.maps, joint.maps, strict=True):
        assert torch.allclose(one, other[:, 0], atol=1e-6)


def test_the_last_level_of_a_set_becomes_its_tokens_by_the_norm(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    batch = _sets(make_image(1, bands=3), make_image(2, bands=2, missing=True))
    (last,) = encoder.set_features(batch, blocks=(1,)).maps
    output = encoder.encode_set(batch)
    assert torch.allclose(encoder.norm(last.movedim(2, -1).flatten(2, 3)), output.tokens, atol=1e-5)


def test_images_of_a_set_see_each_other_after_the_first_block(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    first, second, third = (make_image(seed, bands=2) for seed in (1, 2, 3))
    one, other = (encoder.set_features(_sets(first, image), blocks=(0,)).maps[0][:, 0] for image in (second, third))
    assert not torch.allclose(one, other, atol=1e-4)


def test_levels_are_told_what_is_known_of_an_image(informed: Encoder, make_image: Callable[..., ImageBatch]) -> None:
    image = make_image(1, bands=3)
    silent = informed.forward_features(image, blocks=(1,)).maps[0]
    told = informed.forward_features(image, blocks=(1,), metadata=_year(1)).maps[0]
    joint = informed.set_features(_sets(image, metadata=_year(1)), blocks=(1,)).maps[0][:, 0]
    assert not torch.allclose(silent, told, atol=1e-4)
    assert torch.allclose(told, joint, atol=1e-6)


def test_tokens_before_the_first_block_are_projection_and_location(
    informed: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3)
    sets = informed.embed_sets(_sets(image, metadata=_year(1)))
    sequence = informed.encode_tokens(sets.tokens[:, 0], None)
    assert torch.allclose(sequence[:, 0], informed(image, _year(1)).cls, atol=1e-6)


@pytest.mark.parametrize("blocks", [(), (2,), (-1,)])
def test_a_block_that_is_not_there_is_refused_for_sets_too(
    blocks: tuple[int, ...], encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    with pytest.raises(InputError, match="the encoder has 0 to 1"):
        encoder.set_features(_sets(make_image(1, bands=3)), blocks=blocks)
