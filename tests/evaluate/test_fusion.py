"""Strategies of fusion, each against its definition written out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError
from anyband.evaluate.features import FusedEncoder, mixed_tokens
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.vit import Encoder
from anyband.randomness import uniform

_RECIPE = TransferRecipe(name="test", data=DataSpec(source="none"))
_SEED = 4
_STRATEGIES = ["stack", "concat", "mixup_concat", "joint"]
_PATCH, _TOKENS = 8, 16


@pytest.fixture
def pairs(tiny_encoder: SensorEncoder, pair_data: TaskData) -> TaskBatch:
    """Three samples of Sentinel-1 and Sentinel-2."""
    return next(iter(TaskReader(tiny_encoder, pair_data, _RECIPE).batches(np.array([5, 0, 9]))))


def _fused(encoder: SensorEncoder, fusion: str, pool: str = "cls") -> FusedEncoder:
    return FusedEncoder(encoder, fusion=fusion, pool=pool, seed=_SEED, metadata=True)  # type: ignore[arg-type]


def _with_holes(batch: TaskBatch) -> TaskBatch:
    """Hide patch 0 of the first image of sample 0, patches 1 and 5 of the second image of sample 1."""
    images = list(batch.images)
    for slot, sample, patches in ((0, 0, [0]), (1, 1, [1, 5])):
        valid = torch.ones_like(images[slot].pixels, dtype=torch.bool)
        for patch in patches:
            row, col = patch // 4 * _PATCH, patch % 4 * _PATCH
            valid[sample, :, row : row + _PATCH, col : col + _PATCH] = False
        images[slot] = replace(images[slot], valid=valid)
    return replace(batch, images=tuple(images))


def _plain_tokens(encoder: Encoder, pixels: Tensor, mixing: Tensor) -> Tensor:
    """Tokens of one image by loops over patches, bands and ranges, with their positions."""
    weight, bias = encoder.projection.weight, encoder.projection.bias
    tokens = []
    for row in range(0, pixels.shape[1], _PATCH):
        for col in range(0, pixels.shape[2], _PATCH):
            token = torch.zeros(weight.shape[2])
            for band in range(len(pixels)):
                patch = pixels[band, row : row + _PATCH, col : col + _PATCH].flatten()
                for index in range(len(weight)):
                    token = token + mixing[band, index] * (patch @ weight[index] + bias[index])
            tokens.append(encoder.projection.max_bands * token / len(pixels))
    return torch.stack(tokens) + encoder.pos_embed[0, 1:]


def _plain_sequence(encoder: Encoder, tokens: Tensor, seen: Tensor) -> Tensor:
    """One sequence of the tokens that are seen, after the final norm, CLS first."""
    sequence = torch.cat([encoder.cls_token[0] + encoder.pos_embed[0, :1], tokens[seen]])[None]
    for block in encoder.blocks:
        sequence = block(sequence)
    return encoder.norm(sequence)[0]


def _seen(image: ImageBatch, sample: int) -> Tensor:
    if image.valid is None:
        return torch.ones(_TOKENS, dtype=torch.bool)
    return torch.stack(
        [
            image.valid[sample, :, row : row + _PATCH, col : col + _PATCH].float().mean() >= 0.5
            for row in range(0, 32, _PATCH)
            for col in range(0, 32, _PATCH)
        ]
    )


def _known_pixels(image: ImageBatch, sample: int) -> Tensor:
    return image.pixels[sample] if image.valid is None else image.pixels[sample] * image.valid[sample]


def _plain(fused: FusedEncoder, batch: TaskBatch, sample: int, step: int) -> Tensor:
    """The feature of one sample by its definition."""
    encoder = fused.encoder.encoder
    pixels = [_known_pixels(image, sample) for image in batch.images]
    mixings = [image.mixing for image in batch.images]
    seen = [_seen(image, sample) for image in batch.images]
    tokens = [_plain_tokens(encoder, one, mixing) for one, mixing in zip(pixels, mixings, strict=True)]
    if fused.fusion == "joint":
        sequence = _plain_sequence(encoder, torch.cat(tokens), torch.cat(seen))
        if fused.pool == "cls":
            return sequence[0]
        images = sequence[1:].split([int(one.sum()) for one in seen])
        return torch.stack([image.mean(dim=0) for image in images]).mean(dim=0)
    if fused.fusion == "stack":
        tokens = [_plain_tokens(encoder, torch.cat(pixels), torch.cat(mixings))]
        valid = [torch.ones_like(one.pixels, dtype=bool) if one.valid is None else one.valid for one in batch.images]
        stacked = ImageBatch(
            pixels=torch.cat(pixels)[None], valid=torch.cat(valid, 1)[[sample]], mixing=torch.cat(mixings)
        )
        seen = [_seen(stacked, 0)]
    if fused.fusion == "mixup_concat":
        position = int(batch.samples[sample])
        noise = uniform(_SEED, step=step, samples=[position], purpose="mixup concatenation", shape=(_TOKENS,))[0]
        from_a = torch.zeros(_TOKENS, dtype=torch.bool)
        from_a[np.argsort(noise)[: _TOKENS // 2].copy()] = True
        a, b, keep = tokens[0], tokens[1], from_a[:, None].float()
        tokens = [keep * a + (1 - keep) * b, (1 - keep) * a + keep * b]
        seen = [torch.where(from_a, seen[0], seen[1]), torch.where(from_a, seen[1], seen[0])]
    vectors = []
    for one, visible in zip(tokens, seen, strict=True):
        sequence = _plain_sequence(encoder, one, visible)
        vectors.append(sequence[0] if fused.pool == "cls" else sequence[1:].mean(dim=0))
    return torch.cat(vectors)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_each_strategy_is_its_definition(
    fusion: str, pool: str, holes: bool, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused, batch = _fused(tiny_encoder, fusion, pool), _with_holes(pairs) if holes else pairs
    with torch.no_grad():
        found = fused(batch, step=2)
        expected = torch.stack([_plain(fused, batch, sample, step=2) for sample in range(3)])
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_single_image_has_the_features_of_its_encoder(
    pool: str, tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    batch = next(iter(TaskReader(tiny_encoder, class_data, _RECIPE).batches([3, 4])))
    output = tiny_encoder.encode_batch(batch.images[0])
    with torch.no_grad():
        found = _fused(tiny_encoder, "single", pool)(batch)
    assert torch.equal(found, output.cls if pool == "cls" else output.tokens.mean(dim=1))


@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_levels_after_the_final_norm_are_the_tokens_whose_mean_is_pooled(
    fusion: str, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused = _fused(tiny_encoder, fusion, "mean")
    with torch.no_grad():
        (level,), vectors = fused.levels(pairs, "final", step=1), fused(pairs, step=1)
    means = level.mean(dim=(2, 3))
    expected = means.unflatten(1, (2, -1)).mean(dim=1) if fusion == "joint" else means
    assert torch.allclose(vectors, expected, atol=1e-5)


@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_the_last_block_and_the_norm_give_the_final_level(
    fusion: str, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused, norm = _fused(tiny_encoder, fusion), tiny_encoder.encoder.norm
    with torch.no_grad():
        (last,), (final,) = fused.levels(pairs, (3,)), fused.levels(pairs, "final")
        normed = norm(last.unflatten(1, (-1, 32)).movedim(2, -1)).movedim(-1, 2).flatten(1, 2)
    assert torch.allclose(normed, final, atol=1e-5)


def test_levels_of_concatenated_images_are_those_of_each_alone(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    levels = _fused(tiny_encoder, "concat").levels(pairs, (0, 2))
    for slot, image in enumerate(pairs.images):
        tokens, _, (height, _) = tiny_encoder.encoder.embed_sets(SetBatch(groups=(image,)))
        alone = tiny_encoder.encoder.token_levels(tokens[:, 0], None, blocks=(0, 2))
        for level, one in zip(levels, alone, strict=True):
            expected = rearrange(one, "b (h w) d -> b d h w", h=height)
            assert torch.allclose(level[:, 32 * slot : 32 * (slot + 1)], expected, atol=1e-5)


def test_levels_of_a_joint_sequence_are_those_of_the_set(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    levels = _fused(tiny_encoder, "joint").levels(pairs, (1, 3))
    tokens, _, (height, _) = tiny_encoder.encoder.embed_sets(SetBatch(groups=tuple(pairs.images)))
    expected = tiny_encoder.encoder.token_levels(tokens.flatten(1, 2), None, blocks=(1, 3))
    for level, one in zip(levels, expected, strict=True):
        of_slots = rearrange(one, "b (k h w) d -> b k d h w", k=len(pairs.images), h=height)
        assert torch.allclose(level, of_slots.flatten(1, 2), atol=1e-6)


@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_vectors_and_maps_have_the_widths_that_are_told(
    fusion: str, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused = _fused(tiny_encoder, fusion)
    assert fused(pairs).shape == (3, fused.width(2))
    for levels in (fused.levels(pairs, (0, 3)), fused.levels(pairs, "final")):
        assert all(level.shape == (3, fused.map_width(2), 4, 4) for level in levels)


Loss = Callable[[FusedEncoder, TaskBatch], Tensor]


@pytest.mark.parametrize(
    "loss",
    [
        lambda fused, batch: fused(batch).square().sum(),
        lambda fused, batch: fused.levels(batch, (1, 3))[1].square().sum(),
    ],
)
@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_gradients_reach_the_ranges_of_both_sensors_and_every_block(
    fusion: str, loss: Loss, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    loss(_fused(tiny_encoder, fusion, "mean"), _with_holes(pairs)).backward()
    gradient = tiny_encoder.encoder.projection.weight.grad
    assert gradient is not None
    for image in pairs.images:
        seen = image.mixing.sum(dim=0) > 0
        assert (gradient[seen].abs().amax(dim=(1, 2)) > 0).all()
    named = dict(tiny_encoder.encoder.blocks.named_parameters())
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in named.values())


def test_an_image_without_data_leaves_gradients_finite(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    nothing = torch.zeros_like(pairs.images[0].pixels, dtype=torch.bool)
    batch = replace(pairs, images=(replace(pairs.images[0], valid=nothing), pairs.images[1]))
    for fusion in _STRATEGIES:
        tiny_encoder.zero_grad()
        vectors = _fused(tiny_encoder, fusion, "mean")(batch)
        vectors.square().sum().backward()
        assert vectors.isfinite().all()
        assert all(one.grad is None or one.grad.isfinite().all() for one in tiny_encoder.parameters())


def test_an_image_without_data_counts_nothing_in_the_mean_of_a_joint_sequence(
    tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    nothing = torch.zeros_like(pairs.images[0].pixels, dtype=torch.bool)
    batch = replace(pairs, images=(replace(pairs.images[0], valid=nothing), pairs.images[1]))
    alone = replace(pairs, images=pairs.images[1:], sensors=pairs.sensors[1:])
    with torch.no_grad():
        found, expected = (_fused(tiny_encoder, "joint", "mean")(one) for one in (batch, alone))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_a_sample_has_the_same_features_in_any_batch(
    fusion: str, tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    last = replace(
        pairs,
        images=tuple(replace(image, pixels=image.pixels[2:]) for image in pairs.images),
        samples=pairs.samples[2:],
    )
    fused = _fused(tiny_encoder, fusion)
    with torch.no_grad():
        assert torch.allclose(fused(pairs)[2], fused(last)[0], atol=1e-5)


def test_what_is_exchanged_changes_with_step_and_seed_and_with_nothing_else(
    tiny_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused = _fused(tiny_encoder, "mixup_concat")
    other = FusedEncoder(tiny_encoder, fusion="mixup_concat", pool="cls", seed=_SEED + 1, metadata=True)
    with torch.no_grad():
        assert torch.equal(fused(pairs), fused(pairs))
        assert not torch.allclose(fused(pairs), fused(pairs, step=1))
        assert not torch.allclose(fused(pairs), other(pairs))


@settings(max_examples=30)
@given(sets=st.integers(1, 4), tokens=st.integers(1, 9), seed=st.integers(0, 999))
def test_exchanged_tokens_are_conserved(sets: int, tokens: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(sets, 2, tokens, 4, generator=draw)
    hidden = torch.rand(sets, 2, tokens, generator=draw) < 0.3
    from_a = torch.rand(sets, tokens, generator=draw) < 0.5
    mixed, mixed_hidden = mixed_tokens(values, hidden, from_a)
    assert torch.equal(mixed[:, 0] + mixed[:, 1], values[:, 0] + values[:, 1])
    assert mixed_hidden is not None
    for position in range(tokens):
        for one in range(sets):
            owner = 0 if from_a[one, position] else 1
            assert torch.equal(mixed[one, 0, position], values[one, owner, position])
            assert mixed_hidden[one, 0, position] == hidden[one, owner, position]
            assert mixed_hidden[one, 1, position] == hidden[one, 1 - owner, position]


def test_half_of_the_tokens_of_each_sample_are_exchanged(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    fused = _fused(tiny_encoder, "mixup_concat")
    tokens = tiny_encoder.encoder.embed_sets(SetBatch(groups=tuple(pairs.images)))[0]
    mixed = fused._embedded(pairs, 0)[0][0]
    kept = (mixed[:, 0] == tokens[:, 0]).all(dim=-1)
    assert kept.sum(dim=1).tolist() == [8, 8, 8]
    assert not torch.equal(kept[0], kept[1])


def test_the_order_of_stacked_images_does_not_matter(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    swapped = replace(pairs, images=pairs.images[::-1], sensors=pairs.sensors[::-1])
    fused = _fused(tiny_encoder, "stack")
    with torch.no_grad():
        assert torch.allclose(fused(pairs), fused(swapped), atol=1e-5)


def test_a_block_that_is_not_there_is_refused(tiny_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    with pytest.raises(InputError, match=r"blocks \[4\] were asked for; the encoder has 0 to 3"):
        _fused(tiny_encoder, "concat").levels(pairs, (4,))


def _known(num_slots: int) -> SetMetadata:
    known = SetMetadata.unknown(3, num_slots)
    years = torch.arange(3 * num_slots).view(3, num_slots) + 2015.0
    return replace(known, year=years, day_of_year=years - 1990, gsd_m=years / 100, input_gsd_m=years / 50)


@pytest.mark.parametrize("fusion", _STRATEGIES)
def test_what_is_known_of_images_is_told_where_it_may_be(
    fusion: str, informed_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    batch = replace(pairs, metadata=_known(2))
    told = FusedEncoder(informed_encoder, fusion=fusion, pool="cls", seed=0, metadata=True)  # type: ignore[arg-type]
    silent = FusedEncoder(informed_encoder, fusion=fusion, pool="cls", seed=0, metadata=False)  # type: ignore[arg-type]
    with torch.no_grad():
        assert not torch.allclose(told(batch), told(pairs), atol=1e-4)
        assert torch.equal(silent(batch), told(pairs))


def test_each_exchanged_token_carries_what_is_known_of_its_own_image(
    informed_encoder: SensorEncoder, pairs: TaskBatch
) -> None:
    fused = FusedEncoder(informed_encoder, fusion="mixup_concat", pool="cls", seed=0, metadata=True)
    batch, encoder = replace(pairs, metadata=_known(2)), informed_encoder.encoder
    mixed = fused._embedded(batch, 0)[0][0]
    alone = encoder.embed_sets(SetBatch(groups=tuple(batch.images), metadata=batch.metadata))[0]
    is_a, is_b = ((mixed[:, 0] == alone[:, slot]).all(dim=-1) for slot in (0, 1))
    assert (is_a ^ is_b).all()


def test_images_side_by_side_know_nothing_of_each_other(informed_encoder: SensorEncoder, pairs: TaskBatch) -> None:
    batch = replace(pairs, metadata=_known(2))
    fused = FusedEncoder(informed_encoder, fusion="concat", pool="cls", seed=0, metadata=True)
    with torch.no_grad():
        found = fused(batch)
        for slot in (0, 1):
            known = SetMetadata(**{name: one[:, [slot]] for name, one in vars(batch.metadata).items()})
            alone = informed_encoder.encoder(batch.images[slot], known).cls
            assert torch.allclose(found[:, 32 * slot : 32 * (slot + 1)], alone, atol=1e-5)
