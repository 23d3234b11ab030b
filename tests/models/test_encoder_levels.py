"""Levels of an encoder: tokens after chosen blocks, of images and of sets."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

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


def _levels(
    encoder: Encoder, *images: ImageBatch, blocks: tuple[int, ...], metadata: SetMetadata | None = None
) -> list[Tensor]:
    """Give the tokens (set, slot, token, width) after some blocks."""
    tokens, hidden, _ = encoder.embed_sets(SetBatch(groups=images, metadata=metadata))
    levels = encoder.token_levels(tokens.flatten(1, 2), None if hidden is None else hidden.flatten(1), blocks=blocks)
    return [level.unflatten(1, (len(images), -1)) for level in levels]


def _year(num_slots: int) -> SetMetadata:
    return replace(SetMetadata.unknown(2, num_slots), year=torch.full((2, num_slots), 2020.0))


def test_the_last_level_of_a_set_becomes_its_tokens_by_the_norm(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    images = (make_image(1, bands=3), make_image(2, bands=2, missing=True))
    last, first = _levels(encoder, *images, blocks=(1, 0))
    assert torch.allclose(encoder.norm(last), encoder(SetBatch(groups=images)).tokens, atol=1e-5)
    assert not torch.allclose(last, first, atol=1e-2)


def test_images_of_a_set_see_each_other_after_the_first_block(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    first, second, third = (make_image(seed, bands=2) for seed in (1, 2, 3))
    one, other = (_levels(encoder, first, image, blocks=(0,))[0][:, 0] for image in (second, third))
    assert not torch.allclose(one, other, atol=1e-4)


def test_levels_are_told_what_is_known_of_an_image(informed: Encoder, make_image: Callable[..., ImageBatch]) -> None:
    image = make_image(1, bands=3)
    silent, told = (_levels(informed, image, blocks=(1,), metadata=known)[0] for known in (None, _year(1)))
    assert not torch.allclose(silent, told, atol=1e-4)


def test_tokens_before_the_first_block_are_projection_and_location(
    informed: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3)
    tokens = informed.embed_sets(SetBatch(groups=(image,), metadata=_year(1)))[0]
    sequence = informed.encode_tokens(tokens[:, 0], None)
    assert torch.allclose(sequence[:, 0], informed(image, _year(1)).cls, atol=1e-6)


@pytest.mark.parametrize("blocks", [(), (2,), (-1,)])
def test_a_block_that_is_not_there_is_refused(
    blocks: tuple[int, ...], encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    with pytest.raises(InputError, match="the encoder has 0 to 1"):
        _levels(encoder, make_image(1, bands=3), blocks=blocks)
