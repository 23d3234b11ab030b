"""Decoding a share of the masked tokens: what is decoded, what it sees, and what the loss then is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.inputs import SetBatch, SetNoise
from anyband.models.patches import cut_sets, patchify

Pair = tuple[SetBatch, SetNoise]


def _model(config: AutoencoderConfig, ratio: float) -> Autoencoder:
    return Autoencoder(replace(config, decode_ratio=ratio), seed=1).eval()


def test_a_ratio_of_one_decodes_every_masked_token(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(1)
    caught: list[Tensor] = []
    model = _model(tiny_config, 1.0)
    with model.decoder.register_forward_hook(lambda _module, _arguments, decoded: caught.append(decoded)):
        plan = model(pair, noise).plan
    assert caught[0].shape[1] == int(plan.masked[0, 0].sum())


@torch.no_grad()
@pytest.mark.parametrize("missing", [False, True])
def test_decoded_tokens_see_the_visible_and_the_decoded_ones_alone(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair], missing: bool
) -> None:
    """Leaving tokens out of a sequence is the same as hiding them from all others in it."""
    pair, noise = make_pair(2, missing=missing)
    model = _model(tiny_config, 0.5)
    caught: dict[str, tuple[Tensor, ...] | Tensor] = {}
    with model.decoder.register_forward_hook(
        lambda _module, arguments, decoded: caught.update(inputs=arguments, decoded=decoded)
    ):
        plan = model(pair, noise).plan
    latent = caught["inputs"][0]
    keep, masked = (ids[:, 0] for ids in plan.in_images())
    asked = masked.shape[1] // 2
    everything = torch.cat([torch.cat([keep, masked], dim=1)] * 2)
    places = model.decoder.pos_embed[0, 1:][everything]
    left_out = torch.arange(16).expand(len(latent), -1) >= keep.shape[1] + asked
    if missing:
        a, b = cut_sets(pair, patch_size=8, num_ranges=5).hidden.unbind(1)
        hidden = torch.cat([torch.where(plan.swapped, b, a), torch.where(plan.swapped, a, b)])
        left_out = left_out | torch.gather(hidden, 1, everything)
    whole = model.decoder(latent, places, left_out)
    torch.testing.assert_close(caught["decoded"], whole[:, :asked], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_parts_of_a_batch_are_joined_by_what_they_decode(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair], ratio: float
) -> None:
    """The loss of a batch is the mean of its samples' losses, weighed by what `count` says."""
    pair, noise = make_pair(3, batch=3, missing=True)
    model = _model(tiny_config, ratio)
    sums, counts = torch.zeros(2), torch.zeros(2)
    for sample in range(3):
        part = slice(sample, sample + 1)
        images = (replace(one, pixels=one.pixels[part], valid=one.valid[part]) for one in pair.groups)
        alone = SetBatch(groups=tuple(images))
        own = SetNoise(mixup=noise.mixup[part], masking=noise.masking[part])
        count = model.count(alone, own)
        sums, counts = sums + model(alone, own).terms * count, counts + count
    assert torch.equal(model.count(pair, noise), counts)
    torch.testing.assert_close(model(pair, noise).terms, sums / counts.clamp(min=1), rtol=1e-5, atol=1e-6)


def test_pixels_of_masked_tokens_that_are_not_decoded_have_no_part_in_the_loss(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(4)
    model = _model(tiny_config, 0.25)
    first, second = pair.groups
    pixels = first.pixels.clone().requires_grad_(True)
    output = model(SetBatch(groups=(replace(first, pixels=pixels), second)), noise)
    output.loss.backward()
    by_token = patchify(pixels.grad, 8).abs().sum(dim=2)
    keep, masked = (ids[:, 0] for ids in output.plan.in_images())
    counted = torch.cat([keep, masked[:, :3]], dim=1)
    touched = torch.zeros_like(by_token, dtype=torch.bool).scatter(1, counted, True)
    assert not by_token[~touched].any()
    assert by_token[touched].all()


@torch.no_grad()
def test_pictures_show_every_masked_token_whatever_the_ratio(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(5)
    full, sparse = _model(tiny_config, 1.0), _model(tiny_config, 0.25)
    torch.testing.assert_close(sparse.reconstruct(pair, noise)[0], full.reconstruct(pair, noise)[0])


@torch.no_grad()
def test_over_many_draws_every_position_is_decoded(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    model = _model(tiny_config, 0.25)
    seen = torch.zeros(16)
    for seed in range(40):
        plan = model(*make_pair(seed)).plan
        seen += torch.zeros(2, 16).scatter(1, plan.in_images()[1][:, 0, :3], 1.0).sum(dim=0)
    assert (seen > 0).all()


def test_the_share_must_be_over_nothing(tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(InputError, match="decode_ratio is a share over 0, at most 1; found 0"):
        replace(tiny_config, decode_ratio=0.0)


def test_masked_positions_stand_in_the_order_of_their_noise(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(6)
    plan = _model(tiny_config, 0.5)(pair, noise).plan
    drawn = torch.gather(noise.masking, 2, plan.in_images()[1])
    assert (drawn.diff(dim=2) >= 0).all()
