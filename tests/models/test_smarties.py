"""The pre-training task: what must hold whatever the weights."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from anyband.encode.verify import follow_pairs
from anyband.errors import InputError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.patches import gather_tokens, patchify
from anyband.models.vit import DecoderConfig

Pair = tuple[SetBatch, SetNoise]


@pytest.fixture
def model(tiny_config: AutoencoderConfig) -> Autoencoder:
    return Autoencoder(tiny_config, seed=1).eval()


def _mixed_tokens(model: Autoencoder, pair: SetBatch, noise: SetNoise, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Catch what goes into the encoder's blocks, without positions."""
    caught: list[Tensor] = []
    encode = model.encoder.encode_tokens

    def catching(tokens: Tensor, hidden: Tensor | None) -> Tensor:
        caught.append(tokens)
        return encode(tokens, hidden)

    monkeypatch.setattr(model.encoder, "encode_tokens", catching)
    keep = model(pair, noise).plan.in_images()[0][:, 0]
    return caught[0] - model.encoder.pos_embed[0, 1:][torch.cat([keep, keep])]


def _visible_tokens(model: Autoencoder, image: ImageBatch, ids_keep: Tensor) -> Tensor:
    patches = patchify(image.pixels, 8)
    return gather_tokens(model.encoder.projection(patches, image.mixing), ids_keep)


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_mixup_keeps_the_sum_of_tokens(
    model: Autoencoder, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    pair, noise = make_pair(seed)
    first, second = _mixed_tokens(model, pair, noise, monkeypatch).chunk(2)
    plan = model(pair, noise).plan
    keep = plan.in_images()[0][:, 0]
    a, b = (_visible_tokens(model, image, keep) for image in pair.groups)
    assert torch.allclose(first + second, a + b, atol=1e-5)
    swapped = torch.gather(plan.swapped, 1, keep).unsqueeze(-1)
    assert torch.allclose(first, torch.where(swapped, b, a), atol=1e-5)


def test_released_mixup_leaves_the_second_image_unmixed(
    model: Autoencoder, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    model.config = replace(model.config, mixup="released")
    pair, noise = make_pair(1)
    _, second = _mixed_tokens(model, pair, noise, monkeypatch).chunk(2)
    keep = model(pair, noise).plan.in_images()[0][:, 0]
    assert torch.allclose(second, _visible_tokens(model, pair.groups[1], keep), atol=1e-5)


def test_each_masked_token_is_reconstructed_exactly_once(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(2)
    plan = model(pair, noise).plan
    caught: list[Tensor] = []
    with model.reconstruction.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0])):
        _, decoded, _ = follow_pairs(model, pair, plan)
    assert len(caught) == 2
    rows = torch.cat(caught).flatten(0, 1)
    masked = plan.in_images()[1][:, 0]
    expected = gather_tokens(decoded[:, 1:], torch.cat([masked] * 2)).flatten(0, 1)
    matches = (rows[:, None] == expected[None]).all(dim=2)
    assert (matches.sum(dim=0) == 1).all()
    assert (matches.sum(dim=1) == 1).all()


def test_the_loss_is_the_mean_of_its_terms(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    output = model(*make_pair(3))
    assert output.terms.shape == (2,)
    assert output.loss.item() == pytest.approx(output.terms.mean().item())


def test_swapping_the_images_of_a_pair_keeps_the_loss(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(4)
    plan = model(pair, noise).plan
    straight = model(pair, plan)
    turned = model(SetBatch(groups=pair.groups[::-1]), replace(plan, swapped=~plan.swapped))
    assert turned.terms.tolist() == pytest.approx(straight.terms.tolist(), rel=1e-5)


def test_the_loss_of_a_pair_does_not_depend_on_its_batch(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(5, batch=3)
    whole = model(pair, noise).loss.item()
    alone = []
    for sample in range(3):
        part = slice(sample, sample + 1)
        images = tuple(ImageBatch(pixels=image.pixels[part], mixing=image.mixing) for image in pair.groups)
        own = SetNoise(mixup=noise.mixup[part], masking=noise.masking[part])
        alone.append(model(SetBatch(groups=images), own).loss.item())
    assert sum(alone) / 3 == pytest.approx(whole, rel=1e-5)


def test_missing_pixels_have_no_influence_on_the_loss_or_its_gradient(
    model: Autoencoder, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(6, missing=True)
    results = []
    for filler in (0.0, float("nan")):
        images = [replace(image, pixels=torch.where(image.valid, image.pixels, filler)) for image in pair.groups]
        model.zero_grad()
        loss = model(SetBatch(groups=tuple(images)), noise).loss
        loss.backward()
        gradient = model.encoder.projection.weight.grad
        assert gradient is not None
        results.append((loss.item(), gradient.clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_hidden_tokens_have_no_influence_on_the_loss(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(7, missing=True)
    hidden = model.encoder(pair.groups[0]).hidden
    assert hidden is not None
    edges = hidden.view(2, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    a, b = pair.groups
    changed = SetBatch(groups=(replace(a, pixels=torch.where(edges, 99.0, a.pixels)), b))
    assert model(changed, noise).loss.item() == model(pair, noise).loss.item()


def test_a_pair_without_any_data_has_zero_loss(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(8)
    empty = [replace(image, valid=torch.zeros_like(image.pixels, dtype=torch.bool)) for image in pair.groups]
    assert model(SetBatch(groups=tuple(empty)), noise).loss.item() == 0


def test_one_image_with_missing_data_is_enough_to_hide_tokens(
    model: Autoencoder, make_pair: Callable[..., Pair], make_image: Callable[..., ImageBatch]
) -> None:
    pair, noise = make_pair(9)
    a, b = pair.groups
    half = torch.ones_like(b.pixels, dtype=torch.bool)
    half[:, :, :16] = False
    plan = model(SetBatch(groups=(a, replace(b, valid=half))), noise).plan
    # The lower half has data in both images, and is large enough for all visible tokens.
    assert (plan.in_images()[0] >= 8).all()


def test_reconstruction_shows_visible_tokens_as_they_are(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(10)
    with torch.no_grad():
        images, plan = model.reconstruct(pair, noise)
    for image, predicted in zip(pair.groups, images, strict=True):
        seen, found = patchify(image.pixels, 8), patchify(predicted, 8)
        assert torch.equal(found[~plan.masked[:, 0]], seen[~plan.masked[:, 0]])
        assert not torch.isclose(found[plan.masked[:, 0]], seen[plan.masked[:, 0]]).all()


def test_reconstruction_has_the_error_of_the_loss(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(11)
    with torch.no_grad():
        (images, plan), output = model.reconstruct(pair, noise), model(pair, noise)
    errors = []
    for image, predicted in zip(pair.groups, images, strict=True):
        target, found = (patchify(pixels, 8)[plan.masked[:, 0]] for pixels in (image.pixels, predicted))
        deviation = (target.var(dim=1, keepdim=True) + 1e-6).sqrt()
        errors.append(((found - target) / deviation).square().mean().item())
    assert sum(errors) / 2 == pytest.approx(output.loss.item(), rel=1e-4)


@pytest.mark.parametrize("mixup", ["released", "none"])
def test_reconstruction_works_without_mirrored_mixup(
    model: Autoencoder, make_pair: Callable[..., Pair], mixup: str
) -> None:
    model.config = replace(model.config, mixup=mixup, norm_pix_loss=False)
    pair, noise = make_pair(12)
    images, _ = model.reconstruct(pair, noise)
    assert [image.shape for image in images] == [image.pixels.shape for image in pair.groups]
    assert all(image.isfinite().all() for image in images)


def test_bfloat16_autocast_gives_nearly_the_loss_of_float32(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(13, missing=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(pair, noise).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(model(pair, noise).loss.item(), rel=0.02)


def test_a_few_steps_lower_the_loss(tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]) -> None:
    model = Autoencoder(tiny_config, seed=1)
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
    model: Autoencoder, make_pair: Callable[..., Pair], make_image: Callable[..., Any]
) -> None:
    pair, noise = make_pair(1)
    with pytest.raises(InputError, match="images of a set must have equal sides"):
        model(SetBatch(groups=(pair.groups[0], make_image(1, bands=2, size=(32, 40)))), noise)


def test_a_network_of_pairs_takes_sets_of_two_only(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, noise = make_pair(1)
    with pytest.raises(InputError, match="trained on pairs; give sets of two images, found 1"):
        model(SetBatch(groups=pair.groups[:1]), noise)


def test_noise_of_another_grid_is_refused(model: Autoencoder, make_pair: Callable[..., Pair]) -> None:
    pair, _ = make_pair(1)
    with pytest.raises(InputError, match=r"noise must have one number for each token of each image, \(2, 2, 16\)"):
        model(pair, SetNoise(mixup=torch.rand(2, 9), masking=torch.rand(2, 2, 9)))


@pytest.mark.parametrize("change", [{"mask_ratio": 1.0}, {"mixup_ratio": -0.1}])
def test_ratios_out_of_range_are_refused(tiny_config: AutoencoderConfig, change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="mask_ratio must lie between 0 and 1"):
        replace(tiny_config, **change)


def test_a_decoder_whose_heads_do_not_divide_its_width_is_refused(tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(InputError, match="decoder_embed_dim must be a multiple of 4 and of decoder_num_heads"):
        replace(tiny_config, decoder=DecoderConfig(decoder_embed_dim=20, decoder_num_heads=8))


def test_the_second_image_of_a_pair_is_predicted_from_the_first_alone(
    model: Autoencoder, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(1)
    first, second = pair.groups
    other = SetBatch(groups=(replace(first, pixels=first.pixels + 1), second))
    hidden = model(pair, noise).plan.masked[:, 0].reshape(2, 1, 4, 4).float()
    covered = torch.nn.functional.interpolate(hidden, scale_factor=second.pixels.shape[-1] / 4)
    shown = SetBatch(groups=(first, replace(second, pixels=second.pixels + (1 - covered))))
    errors = model.hidden_errors(pair, noise)
    assert errors.shape == (2,)
    assert (errors > 0).all()
    assert not torch.allclose(model.hidden_errors(other, noise), errors)
    # What the second image shows where the first is seen says nothing of it: only its masked pixels are compared.
    assert torch.allclose(model.hidden_errors(shown, noise), errors, atol=1e-5)


def test_mixup_of_the_released_code_is_refused_for_sets(tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(InputError, match="mixup 'released' is of pairs"):
        replace(tiny_config, images="set", mixup="released")


def test_images_that_share_no_mask_exchange_no_tokens(tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(InputError, match="tokens are exchanged between images that share a mask"):
        replace(tiny_config, images="set", mixup="mirrored", sequence="apart", masking="independent")


# Run apart, because the shape checks of these tests are no part of a compiled graph.
_COMPILED = """
import torch
from anyband.models.vit import DecoderConfig
from anyband.models.vit import EncoderConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
encoder = EncoderConfig(img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=2, num_ranges=3)
decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
model = Autoencoder(AutoencoderConfig(encoder=encoder, decoder=decoder), seed=1)
draw = torch.Generator().manual_seed(1)
valid = torch.rand(2, 3, 16, 16, generator=draw) < 0.6
a = ImageBatch(pixels=torch.randn(2, 3, 16, 16, generator=draw), valid=valid, mixing=torch.eye(3))
b = ImageBatch(pixels=torch.randn(2, 1, 16, 16, generator=draw), mixing=torch.eye(3)[:1])
noise = SetNoise(mixup=torch.rand(2, 16, generator=draw), masking=torch.rand(2, 2, 16, generator=draw))
plain = model(SetBatch(groups=(a, b)), noise).loss
whole = torch.compile(model, fullgraph=True, backend="eager")(SetBatch(groups=(a, b)), noise).loss
print(abs(plain.item() - whole.item()) < 1e-6)
"""


def test_the_forward_pass_is_one_graph_without_breaks() -> None:
    done = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr[-2000:]
