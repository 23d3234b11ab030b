"""The pre-training task: what must hold whatever the weights."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise
from anyband.models.patches import gather_tokens, patchify, standardised_patches
from anyband.models.smarties import Smarties
from anyband.models.vit import DecoderConfig

Pair = tuple[PairBatch, PairNoise]


@pytest.fixture
def model(tiny_config: AutoencoderConfig) -> Smarties:
    return Smarties(tiny_config, seed=1).eval()


def _mixed_tokens(model: Smarties, pair: PairBatch, noise: PairNoise, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Catch what goes into the encoder's blocks, without positions."""
    caught: list[Tensor] = []
    encode = model.encoder.encode_tokens

    def catching(tokens: Tensor, hidden: Tensor | None) -> Tensor:
        caught.append(tokens)
        return encode(tokens, hidden)

    monkeypatch.setattr(model.encoder, "encode_tokens", catching)
    plan = model(pair, noise).plan
    positions = gather_tokens(model.encoder.positions((4, 4))[:, 1:].expand(len(plan.ids_keep), -1, -1), plan.ids_keep)
    return caught[0] - torch.cat([positions, positions])


def _visible_tokens(model: Smarties, image: ImageBatch, ids_keep: Tensor) -> Tensor:
    patches = standardised_patches(image.pixels, image.valid, 8)
    return gather_tokens(model.encoder.projection(patches, image.mixing), ids_keep)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_mixup_keeps_the_sum_of_tokens(
    model: Smarties, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pair, noise = make_pair(seed)
    first, second = _mixed_tokens(model, pair, noise, monkeypatch).chunk(2)
    plan = model(pair, noise).plan
    a, b = (_visible_tokens(model, image, plan.ids_keep) for image in (pair.a, pair.b))
    assert torch.allclose(first + second, a + b, atol=1e-5)
    from_a = torch.gather(plan.from_a, 1, plan.ids_keep).unsqueeze(-1)
    assert torch.allclose(first, torch.where(from_a, a, b), atol=1e-5)


def test_released_mixup_leaves_the_second_image_unmixed(
    model: Smarties, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.config = replace(model.config, mixup="released")
    pair, noise = make_pair(1)
    _, second = _mixed_tokens(model, pair, noise, monkeypatch).chunk(2)
    assert torch.allclose(second, _visible_tokens(model, pair.b, model(pair, noise).plan.ids_keep), atol=1e-5)


def test_each_masked_token_is_reconstructed_exactly_once(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(2)
    plan = model(pair, noise).plan
    caught: list[Tensor] = []
    with model.reconstruction.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0])):
        _, decoded, _ = model.follow(pair, plan)
    assert len(caught) == 2
    rows = torch.cat(caught).flatten(0, 1)
    expected = gather_tokens(decoded[:, 1:], torch.cat([plan.ids_masked] * 2)).flatten(0, 1)
    matches = (rows[:, None] == expected[None]).all(dim=2)
    assert (matches.sum(dim=0) == 1).all()
    assert (matches.sum(dim=1) == 1).all()


def test_the_loss_is_the_mean_of_its_terms(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    output = model(*make_pair(3))
    assert output.loss.item() == pytest.approx((output.loss_a.item() + output.loss_b.item()) / 2)


def test_swapping_the_images_of_a_pair_keeps_the_loss(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(4)
    plan = model(pair, noise).plan
    _, _, straight = model.follow(pair, plan)
    _, _, swapped = model.follow(PairBatch(a=pair.b, b=pair.a), replace(plan, from_a=~plan.from_a))
    assert swapped.loss_a.item() == pytest.approx(straight.loss_a.item(), rel=1e-5)
    assert swapped.loss_b.item() == pytest.approx(straight.loss_b.item(), rel=1e-5)


def test_the_loss_of_a_pair_does_not_depend_on_its_batch(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(5, batch=3)
    whole = model(pair, noise).loss.item()
    alone = []
    for sample in range(3):
        part = slice(sample, sample + 1)
        images = (ImageBatch(pixels=image.pixels[part], mixing=image.mixing) for image in (pair.a, pair.b))
        a, b = images
        alone.append(
            model(PairBatch(a=a, b=b), PairNoise(mixup=noise.mixup[part], masking=noise.masking[part])).loss.item()
        )
    assert sum(alone) / 3 == pytest.approx(whole, rel=1e-5)


def test_missing_pixels_have_no_influence_on_the_loss_or_its_gradient(
    model: Smarties, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(6, missing=True)
    results = []
    for filler in (0.0, float("nan")):
        images = [replace(image, pixels=torch.where(image.valid, image.pixels, filler)) for image in (pair.a, pair.b)]
        model.zero_grad()
        loss = model(PairBatch(a=images[0], b=images[1]), noise).loss
        loss.backward()
        gradient = model.encoder.projection.weight.grad
        assert gradient is not None
        results.append((loss.item(), gradient.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_hidden_tokens_have_no_influence_on_the_loss(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(7, missing=True)
    hidden = model.encoder(pair.a).hidden
    assert hidden is not None
    edges = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    a = replace(pair.a, pixels=torch.where(edges, 99.0, pair.a.pixels))
    assert model(PairBatch(a=a, b=pair.b), noise).loss.item() == model(pair, noise).loss.item()


def test_a_pair_without_any_data_has_zero_loss(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(8)
    empty = [replace(image, valid=torch.zeros_like(image.pixels, dtype=torch.bool)) for image in (pair.a, pair.b)]
    assert model(PairBatch(a=empty[0], b=empty[1]), noise).loss.item() == 0


def test_one_image_with_missing_data_is_enough_to_hide_tokens(
    model: Smarties, make_pair: Callable[..., Pair], make_image: Callable[..., ImageBatch]
) -> None:
    pair, noise = make_pair(9)
    half = torch.ones_like(pair.b.pixels, dtype=torch.bool)
    half[:, :, :16] = False
    plan = model(PairBatch(a=pair.a, b=replace(pair.b, valid=half)), noise).plan
    # The lower half has data in both images, and is large enough for all visible tokens.
    assert (plan.ids_keep >= 8).all()


def test_reconstruction_shows_visible_tokens_as_they_are(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(10)
    with torch.no_grad():
        pictures = model.reconstruct(pair, noise)
    for image, predicted in ((pair.a, pictures.a), (pair.b, pictures.b)):
        seen, found = patchify(image.pixels, 8), patchify(predicted, 8)
        assert torch.equal(found[~pictures.masked], seen[~pictures.masked])
        assert not torch.isclose(found[pictures.masked], seen[pictures.masked]).all()


def test_reconstruction_has_the_error_of_the_loss(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(11)
    with torch.no_grad():
        pictures, output = model.reconstruct(pair, noise), model(pair, noise)
    errors = []
    for image, predicted in ((pair.a, pictures.a), (pair.b, pictures.b)):
        target, found = (patchify(pixels, 8)[pictures.masked] for pixels in (image.pixels, predicted))
        deviation = (target.var(dim=1, keepdim=True) + 1e-6).sqrt()
        errors.append(((found - target) / deviation).square().mean().item())
    assert sum(errors) / 2 == pytest.approx(output.loss.item(), rel=1e-4)


@pytest.mark.parametrize("mixup", ["released", "none"])
def test_reconstruction_works_without_mirrored_mixup(
    model: Smarties, make_pair: Callable[..., Pair], mixup: str
) -> None:
    model.config = replace(model.config, mixup=mixup, norm_pix_loss=False)
    pair, noise = make_pair(12)
    pictures = model.reconstruct(pair, noise)
    assert pictures.a.shape == pair.a.pixels.shape
    assert pictures.b.isfinite().all()


def test_bfloat16_autocast_gives_nearly_the_loss_of_float32(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(13, missing=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(pair, noise).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(model(pair, noise).loss.item(), rel=0.02)


def test_a_few_steps_lower_the_loss(tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]) -> None:
    model = Smarties(tiny_config, seed=1)
    pair, noise = make_pair(14)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(pair, noise).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_images_of_different_size_are_refused(
    model: Smarties, make_pair: Callable[..., Pair], make_image: Callable[..., Any]
) -> None:
    pair, noise = make_pair(1)
    with pytest.raises(InputError, match="the two images of a pair must have equal sides and counts"):
        model(PairBatch(a=pair.a, b=make_image(1, bands=2, size=(32, 40))), noise)


def test_noise_of_another_grid_is_refused(model: Smarties, make_pair: Callable[..., Pair]) -> None:
    pair, _ = make_pair(1)
    with pytest.raises(InputError, match="noise must have one number for each of 2 × 16 tokens"):
        model(pair, PairNoise(mixup=torch.rand(2, 9), masking=torch.rand(2, 9)))


@pytest.mark.parametrize("change", [{"mask_ratio": 1.0}, {"mixup_ratio": -0.1}])
def test_ratios_out_of_range_are_refused(tiny_config: AutoencoderConfig, change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="mask_ratio must lie between 0 and 1"):
        replace(tiny_config, **change)


def test_a_decoder_whose_heads_do_not_divide_its_width_is_refused() -> None:
    with pytest.raises(InputError, match="decoder_embed_dim must be a multiple of 4 and of decoder_num_heads"):
        DecoderConfig(decoder_embed_dim=20, decoder_num_heads=8)


# Run apart, because the shape checks of these tests are no part of a compiled graph.
_COMPILED = """
import torch
from anyband.models.vit import DecoderConfig
from anyband.models.vit import EncoderConfig
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.smarties import Smarties
encoder = EncoderConfig(img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_ranges=3)
decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
model = Smarties(AutoencoderConfig(encoder=encoder, decoder=decoder), seed=1)
draw = torch.Generator().manual_seed(1)
valid = torch.rand(2, 3, 16, 16, generator=draw) < 0.6
a = ImageBatch(pixels=torch.randn(2, 3, 16, 16, generator=draw), valid=valid, mixing=torch.eye(3))
b = ImageBatch(pixels=torch.randn(2, 1, 16, 16, generator=draw), mixing=torch.eye(3)[:1])
noise = PairNoise(mixup=torch.rand(2, 16, generator=draw), masking=torch.rand(2, 16, generator=draw))
plain = model(PairBatch(a=a, b=b), noise).loss
whole = torch.compile(model, fullgraph=True, backend="eager")(PairBatch(a=a, b=b), noise).loss
print(abs(plain.item() - whole.item()) < 1e-6)
"""


def test_the_forward_pass_is_one_graph_without_breaks() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
