"""Decoding a share of the masked tokens: what is decoded, what it sees, and what the loss then is."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anyband.errors import InputError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.inputs import PairBatch, PairNoise
from anyband.models.masking import count_decoded
from anyband.models.patches import gather_tokens
from anyband.models.smarties import Smarties

Pair = tuple[PairBatch, PairNoise]


def _model(config: AutoencoderConfig, ratio: float) -> Smarties:
    return Smarties(replace(config, decode_ratio=ratio), seed=1).eval()


@given(num_masked=st.integers(1, 400), ratio=st.floats(0.001, 1.0))
def test_between_one_and_all_masked_tokens_are_decoded(num_masked: int, ratio: float) -> None:
    count = count_decoded(num_masked, ratio)
    assert 1 <= count <= num_masked
    assert abs(count - num_masked * ratio) <= 1


def test_a_ratio_of_one_decodes_every_masked_token(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(1)
    caught: list[Tensor] = []
    model = _model(tiny_config, 1.0)
    with model.decoder.register_forward_hook(lambda _module, _arguments, decoded: caught.append(decoded)):
        plan = model(pair, noise).plan
    assert caught[0].shape[1] == plan.ids_masked.shape[1]


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
    asked = plan.ids_masked.shape[1] // 2
    everything = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
    places = model.decoder.positions((4, 4))[0, 1:][torch.cat([everything, everything])]
    left_out = torch.arange(16).expand(len(latent), -1) >= plan.ids_keep.shape[1] + asked
    if missing:
        a, b = model.cut(pair.a), model.cut(pair.b)
        hidden = torch.cat([torch.where(plan.from_a, a.hidden, b.hidden), torch.where(plan.from_a, b.hidden, a.hidden)])
        left_out = left_out | torch.gather(hidden, 1, torch.cat([everything, everything]))
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
        images = [replace(one, pixels=one.pixels[part], valid=one.valid[part]) for one in (pair.a, pair.b)]
        alone = PairBatch(a=images[0], b=images[1])
        own = PairNoise(mixup=noise.mixup[part], masking=noise.masking[part])
        count = model.count(alone, own)
        sums, counts = sums + model(alone, own).terms * count, counts + count
    assert torch.equal(model.count(pair, noise), counts)
    torch.testing.assert_close(model(pair, noise).terms, sums / counts.clamp(min=1), rtol=1e-5, atol=1e-6)


def test_pixels_of_masked_tokens_that_are_not_decoded_have_no_part_in_the_loss(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(4)
    model = _model(tiny_config, 0.25)
    pixels = pair.a.pixels.clone().requires_grad_(True)
    output = model(replace(pair, a=replace(pair.a, pixels=pixels)), noise)
    output.loss.backward()
    by_token = model.cut(replace(pair.a, pixels=pixels.grad)).values.abs().sum(dim=2)
    counted = torch.cat([output.plan.ids_keep, output.plan.ids_masked[:, :3]], dim=1)
    touched = torch.zeros_like(by_token, dtype=torch.bool).scatter(1, counted, True)
    assert not by_token[~touched].any()
    assert by_token[touched].all()


@torch.no_grad()
def test_pictures_show_every_masked_token_whatever_the_ratio(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(5)
    full, sparse = _model(tiny_config, 1.0), _model(tiny_config, 0.25)
    torch.testing.assert_close(sparse.reconstruct(pair, noise).a, full.reconstruct(pair, noise).a)


@torch.no_grad()
def test_over_many_draws_every_position_is_decoded(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    model = _model(tiny_config, 0.25)
    seen = torch.zeros(16)
    for seed in range(40):
        plan = model(*make_pair(seed)).plan
        seen += torch.zeros(2, 16).scatter(1, plan.ids_masked[:, :3], 1.0).sum(dim=0)
    assert (seen > 0).all()


def test_the_share_must_be_over_nothing(tiny_config: AutoencoderConfig) -> None:
    with pytest.raises(InputError, match="decode_ratio is a share over 0, at most 1; found 0"):
        replace(tiny_config, decode_ratio=0.0)


def test_masked_positions_stand_in_the_order_of_their_noise(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    pair, noise = make_pair(6)
    plan = _model(tiny_config, 0.5)(pair, noise).plan
    drawn = gather_tokens(noise.masking.unsqueeze(-1), plan.ids_masked).squeeze(-1)
    assert (drawn.diff(dim=1) >= 0).all()
