"""The encoder: hidden tokens, batches, grids, sizes, intermediate maps."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from anyband.errors import InputError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import ImageBatch
from anyband.models.vit import SIZES, Encoder, EncoderConfig, configure_blocks


@pytest.fixture
def encoder(tiny_config: AutoencoderConfig) -> Encoder:
    return Encoder(tiny_config.encoder, seed=1).eval()


@pytest.mark.parametrize("filler", [1e6, float("nan"), float("inf")])
def test_hidden_tokens_have_no_influence(
    encoder: Encoder, make_image: Callable[..., ImageBatch], filler: float
) -> None:
    image = make_image(1, bands=3, missing=True)
    assert image.valid is not None
    plain = encoder(image)
    assert plain.hidden is not None
    assert plain.hidden.any()
    # Everything in hidden tokens changes: missing pixels and the valid ones among them.
    edges = plain.hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    pixels = torch.where(edges, 55.0, image.pixels)
    pixels = torch.where(image.valid, pixels, filler)
    changed = encoder(replace(image, pixels=pixels))
    assert torch.equal(changed.cls, plain.cls)
    assert torch.equal(changed.tokens[~plain.hidden], plain.tokens[~plain.hidden])
    assert not torch.equal(changed.tokens[plain.hidden], plain.tokens[plain.hidden])


def test_an_image_without_data_still_gives_finite_features(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3)
    output = encoder(replace(image, valid=torch.zeros_like(image.pixels, dtype=torch.bool)))
    assert output.hidden is not None
    assert output.hidden.all()
    assert output.cls.isfinite().all()
    assert output.tokens.isfinite().all()


def test_everything_valid_equals_no_validity_given(encoder: Encoder, make_image: Callable[..., ImageBatch]) -> None:
    image = make_image(1, bands=3)
    marked = encoder(replace(image, valid=torch.ones_like(image.pixels, dtype=torch.bool)))
    assert torch.allclose(marked.cls, encoder(image).cls, atol=1e-5)


@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing data"])
def test_plain_attention_gives_the_features_and_gradients_of_the_fused_kernel(
    encoder: Encoder, make_image: Callable[..., ImageBatch], missing: bool
) -> None:
    image = make_image(1, bands=3, missing=missing)
    results = []
    for fused in (True, False):
        configure_blocks(encoder, fused=fused)
        encoder.zero_grad()
        cls = encoder(image).cls
        cls.square().sum().backward()
        gradient = encoder.projection.weight.grad
        assert gradient is not None
        results.append((cls.detach(), gradient.clone()))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-4)
    assert not encoder.blocks[0].attn.fused_attn


def test_features_of_an_image_do_not_depend_on_its_batch(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=3, batch=4)
    alone = encoder(replace(image, pixels=image.pixels[2:3]))
    assert torch.allclose(encoder(image).tokens[2:3], alone.tokens, atol=1e-5)


def test_permuting_bands_with_their_mixing_changes_nothing(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image, order = make_image(1, bands=5), torch.tensor([3, 0, 4, 1, 2])
    permuted = ImageBatch(pixels=image.pixels[:, order], mixing=image.mixing[order])
    assert torch.allclose(encoder(permuted).cls, encoder(image).cls, atol=1e-5)


@pytest.mark.parametrize("size", [(32, 32), (16, 48), (8, 8), (64, 40)])
def test_any_size_of_whole_patches_works(
    encoder: Encoder, make_image: Callable[..., ImageBatch], size: tuple[int, int]
) -> None:
    output = encoder(make_image(1, bands=2, size=size))
    assert output.grid == (size[0] // 8, size[1] // 8)
    assert output.map.shape == (2, 16, *output.grid)
    assert torch.equal(output.map[:, :, -1, -1], output.tokens[:, -1])
    assert output.tokens.isfinite().all()


def test_an_encoder_of_another_size_gives_the_same_features(
    encoder: Encoder, make_image: Callable[..., ImageBatch]
) -> None:
    image = make_image(1, bands=2)
    other = Encoder(replace(encoder.config, img_size=64), seed=1).eval()
    assert torch.allclose(other(image).tokens, encoder(image).tokens, atol=1e-5)


def test_drop_path_skips_blocks_in_training_only(
    tiny_config: AutoencoderConfig, make_image: Callable[..., ImageBatch]
) -> None:
    plain = Encoder(tiny_config.encoder, seed=1)
    dropping = Encoder(replace(tiny_config.encoder, drop_path=0.9), seed=1)
    image = make_image(1, bands=2, batch=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.allclose(dropping.train()(image).cls, plain(image).cls, atol=1e-3)
    assert torch.equal(dropping.eval()(image).cls, plain(image).cls)


def test_bfloat16_autocast_stays_near_float32(encoder: Encoder, make_image: Callable[..., ImageBatch]) -> None:
    image = make_image(1, bands=4, missing=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(image)
    assert torch.allclose(half.cls.float(), encoder(image).cls, atol=0.1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("tiny", 5.5e6), ("small", 21.7e6), ("base", 85.8e6), ("large", 303.3e6), ("huge", 630.8e6)],
)
def test_named_sizes_have_the_parameters_of_their_vision_transformer(name: str, parameters: float) -> None:
    size = SIZES[name]
    # Blocks, final norm, CLS, one projection of one band; published counts have three bands and a head.
    width, patch_size = size["embed_dim"], size["patch_size"]
    count = size["depth"] * (12 * width**2 + 13 * width) + 2 * width + width + (patch_size**2 + 1) * width
    assert count == pytest.approx(parameters, rel=0.025)


def test_tiny_has_the_parameters_that_its_numbers_say() -> None:
    encoder = Encoder(EncoderConfig(img_size=96, num_ranges=17, **SIZES["tiny"]), seed=None)
    width = 192
    expected = 12 * (12 * width**2 + 13 * width) + 3 * width + 17 * 257 * width
    assert sum(value.numel() for value in encoder.parameters()) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_size": 30}, "an img_size that patch_size divides"),
        ({"embed_dim": 18}, "a multiple of 4 and of num_heads"),
        ({"drop_path": 1.0}, "at least 0 and under 1"),
        ({"num_ranges": 0}, "counts over 0"),
        ({"encodings": EncodingConfig(date=True)}, "pairs carry no encodings"),
    ],
)
def test_a_configuration_that_fits_no_network_is_refused(
    tiny_config: AutoencoderConfig, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(tiny_config, encoder=replace(tiny_config.encoder, **change))
