"""Operations of a step: the count against the products that torch sees."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.encodings import EncodingConfig
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.vit import DecoderConfig, EncoderConfig, encoder_config, set_fused_attention
from anyband.pretrain.cost import BatchFlops, BatchShape, batch_flops, block_flops, sample_tokens

_RANGES = 5
_NEAR = 0.01
_EVERY = EncodingConfig(place=True, resolution=True, date=True, source=True)


def _config(**changes) -> AutoencoderConfig:
    encodings = changes.pop("encodings", EncodingConfig())
    encoder = EncoderConfig(
        img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_ranges=_RANGES, encodings=encodings
    )
    decoder = DecoderConfig(decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
    return AutoencoderConfig(encoder=encoder, decoder=decoder, **changes)


def _image(bands: int, count: int, config: AutoencoderConfig) -> ImageBatch:
    draw = torch.Generator().manual_seed(bands)
    side = config.encoder.img_size
    mixing = torch.rand(bands, config.encoder.num_ranges, generator=draw)
    return ImageBatch(
        pixels=torch.randn(count, bands, side, side, generator=draw), mixing=mixing / mixing.sum(1, keepdim=True)
    )


def _noise(config: AutoencoderConfig, *shape: int) -> torch.Tensor:
    num_tokens = config.encoder.grid[0] * config.encoder.grid[1]
    return torch.rand(*shape, num_tokens, generator=torch.Generator().manual_seed(1))


def _counted(config: AutoencoderConfig, batch, noise) -> float:
    """Let torch count a forward and backward pass."""
    model = Autoencoder(config, seed=0)
    # Fused attention computes its scores again for the gradient, and how often is its own affair.
    set_fused_attention(model, fused=False)
    with FlopCounterMode(display=False) as counter:
        model(batch, noise).loss.backward()
    return float(counter.get_total_flops())


def _pairs(config: AutoencoderConfig, bands: tuple[int, int], count: int):
    a, b = (_image(one, count, config) for one in bands)
    noise = SetNoise(mixup=_noise(config, count), masking=_noise(config, count, 2))
    shape = BatchShape(num_samples=count, num_slots=2, groups=tuple((one, count) for one in bands))
    return (SetBatch(groups=(a, b)), noise), shape


def _sets(config: AutoencoderConfig, *, count: int, num_slots: int, apart: bool, hides_last: bool = False):
    """The first image of each set has 3 bands, the others 2."""
    groups = [_image(3, count, config)]
    order = torch.arange(count * num_slots)
    if num_slots > 1:
        groups.append(_image(2, count * (num_slots - 1), config))
        firsts, others = order[:count], order[count:].reshape(count, num_slots - 1)
        order = torch.cat([firsts[:, None], others], dim=1)
    batch = SetBatch(
        groups=tuple(groups),
        rows=order.reshape(count, num_slots),
        same_source=torch.arange(num_slots).expand(count, -1) == 0,
        first_slot=torch.zeros(count, dtype=torch.long),
        partnered=num_slots > 1,
    )
    noise = SetNoise(
        masking=_noise(config, count, num_slots),
        tying=_noise(config, count, num_slots),
        mixup=_noise(config, count),
        hides_last=hides_last,
    )
    shape = BatchShape(
        num_samples=count,
        num_slots=num_slots,
        groups=tuple((len(group.mixing), len(group.pixels)) for group in groups),
        apart=apart,
        hides_last=hides_last,
    )
    return (batch, noise), shape


@pytest.mark.parametrize("mixup", ["mirrored", "released", "none"])
@pytest.mark.parametrize("levels", [False, True])
def test_a_step_of_pairs_is_counted_as_torch_counts_it(mixup, levels):
    config = _config(mixup=mixup, levels=levels)
    example, shape = _pairs(config, (3, 2), count=4)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


def test_a_step_of_three_and_twelve_bands_at_a_shipped_size_is_counted_as_torch_counts_it():
    encoder = encoder_config("tiny", img_size=96, num_ranges=17)
    config = AutoencoderConfig(
        encoder=encoder, decoder=DecoderConfig(decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4)
    )
    example, shape = _pairs(config, (3, 12), count=2)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


@pytest.mark.parametrize("num_slots", [1, 2, 3])
@pytest.mark.parametrize("apart", [False, True])
def test_a_step_of_sets_is_counted_as_torch_counts_it(num_slots, apart):
    sequence = "apart" if apart else "joint"
    config = _config(images="set", sequence=sequence, encodings=_EVERY, levels=True)
    example, shape = _sets(config, count=3, num_slots=num_slots, apart=apart)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


@pytest.mark.parametrize(("masking", "hides_last"), [("anchor", True), ("released", False)])
def test_sets_whose_images_show_unequal_shares_are_counted_as_torch_counts_them(masking, hides_last):
    config = _config(images="set", masking=masking)
    example, shape = _sets(config, count=3, num_slots=3, apart=False, hides_last=hides_last)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


def test_vit_base_on_sentinel_2_and_1_takes_117_gflop_a_pair():
    config = AutoencoderConfig(encoder=encoder_config("base", img_size=224, num_ranges=17))
    shape = BatchShape(num_samples=1000, num_slots=2, groups=((12, 1000), (2, 1000)))
    assert batch_flops(config, shape).trained / 1000 == pytest.approx(117e9, rel=0.01)


def test_a_block_grows_with_tokens_and_with_their_square():
    maps, attention = 24 * 16**2, 4 * 16
    assert block_flops([10], width=16, mlp_ratio=4.0) == 10 * maps + 100 * attention
    assert block_flops([10, 10], width=16, mlp_ratio=4.0) == 2 * block_flops([10], width=16, mlp_ratio=4.0)


def test_each_part_of_a_batch_makes_the_weights_of_its_sensors_anew():
    config = _config()
    _, shape = _pairs(config, (3, 2), count=4)
    one, two, four = (batch_flops(config, shape, num_parts=parts) for parts in (1, 2, 4))
    assert one.blocks == four.blocks
    assert four.first - two.first == pytest.approx(2 * (two.first - one.first))
    assert two.first > one.first


def test_parts_of_a_batch_add_up_to_the_whole():
    config = _config()
    _, whole = _pairs(config, (3, 2), count=6)
    _, half = _pairs(config, (3, 2), count=3)
    part = batch_flops(config, half)
    assert part.plus(part) == batch_flops(config, whole, num_parts=2)


def test_a_sparse_decoder_sees_cls_the_visible_and_the_decoded_tokens():
    config = _config(decode_ratio=0.25)
    _, shape = _pairs(config, (3, 2), count=1)
    tokens = sample_tokens(config, shape)
    # 16 tokens, 4 of them visible; a quarter of 12 is decoded.
    assert (tokens.encoder, tokens.decoder, tokens.compared) == ((5, 5), (8, 8), 3)


@pytest.mark.parametrize("images", ["pair", "set"])
def test_a_step_that_decodes_a_share_is_counted_as_torch_counts_it(images):
    config = _config(images=images, decode_ratio=0.4)
    if images == "pair":
        example, shape = _pairs(config, (3, 2), count=4)
    else:
        example, shape = _sets(config, count=3, num_slots=3, apart=False)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


@pytest.mark.parametrize("bands", [(6, 2), (40, 9), (2, 40)])
def test_more_bands_than_ranges_are_counted_as_torch_counts_them(bands):
    config = _config()
    example, shape = _pairs(config, bands, count=4)
    assert batch_flops(config, shape).trained == pytest.approx(_counted(config, *example), rel=_NEAR)


def test_recomputing_blocks_is_a_third_more_of_them_and_no_work_of_the_model():
    flops = BatchFlops(blocks=6.0, maps=2.0, first=1.0)
    assert flops.trained == 26.0
    assert flops.computed(recompute=True) == 32.0
    assert flops.computed(recompute=False) == 26.0


def test_a_larger_decoder_costs_more():
    config = _config()
    _, shape = _pairs(config, (3, 2), count=1)
    larger = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, decoder_depth=2))
    assert batch_flops(larger, shape).blocks > batch_flops(config, shape).blocks
