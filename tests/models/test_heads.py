"""Heads for maps."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.errors import InputError
from anyband.models.heads import LinearHead, MapHeadKind, TemporalAttention, UPerNetHead, head_blocks, make_head


def _levels(count: int, grid: tuple[int, int], *, width: int = 16, samples: int = 2) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn((samples, width, *grid), generator=numbers) for _ in range(count)]


def _upernet(num_outputs: int = 3, *, width: int = 16, seed: int = 0) -> UPerNetHead:
    return UPerNetHead(width=width, num_outputs=num_outputs, channels=8, seed=seed)


@pytest.mark.parametrize("grid", [(2, 2), (3, 3), (6, 6), (14, 14), (3, 7), (16, 5)])
@pytest.mark.parametrize("training", [False, True])
def test_upernet_gives_each_class_at_each_pixel_for_any_grid(grid: tuple[int, int], training: bool) -> None:
    size = (grid[0] * 4, grid[1] * 4)
    logits = _upernet().train(training)(_levels(4, grid), size)
    assert logits.shape == (2, 3, *size)
    assert torch.isfinite(logits).all()


def test_upernet_has_the_pyramid_4_2_1_and_a_half() -> None:
    head = _upernet()
    sizes = [tuple(scale(level).shape[2:]) for scale, level in zip(head.pyramid, _levels(4, (6, 6)), strict=True)]
    assert sizes == [(24, 24), (12, 12), (6, 6), (3, 3)]


def test_upernet_pools_to_1_2_3_and_6() -> None:
    pools = [part.output_size for part in _upernet().modules() if isinstance(part, nn.AdaptiveAvgPool2d)]
    assert pools == [1, 2, 3, 6]


def test_a_published_upernet_is_512_wide() -> None:
    head = make_head("upernet", width=16, num_outputs=3, seed=0)
    assert head.classifier.weight.shape == (3, 512, 1, 1)


def test_a_map_of_one_patch_is_refused_by_upernet() -> None:
    with pytest.raises(InputError, match=r"halves the map of patches, and this one has 1 × 1; use a larger input"):
        _upernet()(_levels(4, (1, 1)), (8, 8))


@pytest.mark.parametrize("count", [1, 3, 5])
def test_another_number_of_maps_is_refused(count: int) -> None:
    with pytest.raises(InputError, match="takes 4 maps of one size and width 16"):
        _upernet()(_levels(count, (4, 4)), (8, 8))


def test_a_map_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"takes 4 maps of one size and width 16, found \(2, 12, 4, 4\)"):
        _upernet()(_levels(4, (4, 4), width=12), (8, 8))


def test_the_given_maps_are_not_changed() -> None:
    levels = _levels(4, (4, 4))
    kept = [level.clone() for level in levels]
    _upernet()(levels, (16, 16))
    assert all(torch.equal(one, other) for one, other in zip(levels, kept, strict=True))


def test_a_batch_of_one_image_trains_upernet() -> None:
    head = _upernet().train()
    head(_levels(4, (2, 2), samples=1), (8, 8)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_batches_of_several_images_are_normalised_as_the_library_does() -> None:
    head, plain = _upernet().train(), _upernet().train()
    for part in list(plain.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(part, name, nn.BatchNorm2d(child.num_features))
    levels = _levels(4, (6, 6))
    assert torch.equal(head(levels, (24, 24)), plain(levels, (24, 24)))


@pytest.mark.parametrize("kind", ["linear", "dfc2020", "upernet", "pangaea"])
def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone(kind: MapHeadKind) -> None:
    before = torch.get_rng_state()
    one, same, other = (
        make_head(kind, width=16, num_outputs=3, channels=8, seed=seed).state_dict() for seed in (5, 5, 6)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])


def test_every_weight_of_upernet_is_finite_and_of_its_own() -> None:
    state = _upernet().state_dict()
    matrices = [value.flatten()[:16] for value in state.values() if value.ndim > 1]
    assert all(value.isfinite().all() for value in state.values())
    assert len({tuple(value.tolist()) for value in matrices}) == len(matrices)


def test_first_weights_keep_the_spread_of_features() -> None:
    head = _upernet(width=64)
    enlarged = head.pyramid[1](_levels(1, (8, 8), width=64)[0])
    # He's rule doubles the variance, for the half that a ReLU removes.
    assert 1.0 < enlarged.std() < 2.0


def test_the_linear_head_is_a_matrix_product_at_each_patch() -> None:
    head = LinearHead(width=16, num_outputs=3, seed=0)
    (level,) = _levels(1, (5, 4))
    expected = torch.einsum("oc,bchw->bohw", head.classifier.weight[:, :, 0, 0], level)
    assert torch.allclose(head([level], (5, 4)), expected, atol=1e-6)


def test_logits_are_enlarged_bilinearly() -> None:
    head = LinearHead(width=16, num_outputs=3, seed=0)
    levels = _levels(1, (5, 4))
    expected = functional.interpolate(head(levels, (5, 4)), size=(40, 32), mode="bilinear", align_corners=False)
    assert torch.allclose(head(levels, (40, 32)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "depth", "asked", "blocks"),
    [
        ("upernet", 12, (), (3, 5, 7, 11)),
        ("upernet", 24, (), (7, 11, 15, 23)),
        ("upernet", 32, (), (7, 15, 23, 31)),
        ("upernet", 4, (), (0, 1, 2, 3)),
        ("upernet", 6, (), (1, 2, 4, 5)),
        ("upernet", 2, (), (0, 0, 1, 1)),
        ("upernet", 12, (2, 5, 8, 11), (2, 5, 8, 11)),
        ("linear", 12, (), "final"),
        ("dfc2020", 12, (), (11,)),
    ],
)
def test_heads_see_their_blocks(
    kind: MapHeadKind, depth: int, asked: tuple[int, ...], blocks: tuple[int, ...] | str
) -> None:
    assert head_blocks(kind, depth=depth, blocks=asked) == blocks


@pytest.mark.parametrize(
    ("kind", "asked", "message"),
    [
        ("upernet", (0, 1, 2, 4), r"head.blocks are \[0, 1, 2, 4\]; the encoder has blocks 0 to 3"),
        ("upernet", (0, 3), "needs 4 blocks, found 2 in head.blocks"),
        ("linear", (3,), "sees the last block only; leave head.blocks empty, or take 'upernet'"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(kind: MapHeadKind, asked: Sequence[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        head_blocks(kind, depth=4, blocks=asked)


def test_a_head_without_outputs_is_refused() -> None:
    with pytest.raises(InputError, match="over 0; found 16, 0, 512"):
        make_head("linear", width=16, num_outputs=0, seed=0)


def _attention(*, width: int = 32, num_images: int = 3) -> TemporalAttention:
    head = make_head("upernet", width=width * num_images, num_outputs=2, channels=8, weighed_images=num_images, seed=0)
    assert isinstance(head, UPerNetHead)
    assert isinstance(head.weigh, TemporalAttention)
    return head.weigh.eval()


def _group_norm(values: Tensor, num_groups: int) -> Tensor:
    groups = values.reshape(num_groups, -1)
    apart = groups - groups.mean(dim=1, keepdim=True)
    return (apart / (apart.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()).reshape(values.shape)


def test_images_are_weighed_as_a_plain_loop_does() -> None:
    """L-TAE without positions, patch by patch and head by head."""
    attention, (level,) = _attention(), _levels(1, (2, 3), width=96)
    made = attention(level)
    for sample, row, col in ((0, 0, 0), (1, 1, 2)):
        images = level[sample, :, row, col].reshape(3, 32)
        values = _group_norm(images.T, 4).T @ attention.values.weight[:, :, 0].T + attention.values.bias
        keys = values @ attention.keys.weight.T + attention.keys.bias
        joined = []
        for head in range(4):
            scores = keys[:, 4 * head : 4 * head + 4] @ attention.query[head] / 2
            joined.append(scores.softmax(dim=0) @ values[:, 8 * head : 8 * head + 8])
        linear, norm = attention.mix[0], attention.mix[1]
        mixed = functional.relu(norm(linear(torch.cat(joined))[None]))[0]
        assert torch.allclose(made[sample, :, row, col], _group_norm(mixed, 4), atol=1e-4)


@pytest.mark.parametrize(("width", "num_heads"), [(768, 16), (1024, 16), (1280, 16), (32, 4), (35, 1), (4, 1)])
def test_encoders_of_the_published_widths_have_the_published_heads(width: int, num_heads: int) -> None:
    assert TemporalAttention(width=width, num_images=2).num_heads == num_heads


def test_the_order_of_weighed_images_says_nothing() -> None:
    (level,) = _levels(1, (2, 3), width=96)
    turned = level.unflatten(1, (3, 32)).flip(1).flatten(1, 2)
    assert torch.allclose(_attention()(level), _attention()(turned), atol=1e-4)


def test_a_head_that_weighs_images_learns_all_its_weights() -> None:
    head = make_head("upernet", width=96, num_outputs=2, channels=8, weighed_images=3, seed=0).train()
    head(_levels(4, (3, 3), width=96), (12, 12)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in head.weigh.parameters())


def test_a_linear_head_weighs_no_images() -> None:
    with pytest.raises(
        InputError, match=r"fusion=ltae is for UPerNet, found head 'linear'; take 'pangaea' or 'upernet'"
    ):
        make_head("linear", width=96, num_outputs=2, weighed_images=3, seed=0)


def _pangaea(*, channels: int = 8) -> UPerNetHead:
    head = make_head("pangaea", width=16, num_outputs=3, channels=channels, seed=0)
    assert isinstance(head, UPerNetHead)
    return head


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(values, size=like.shape[2:], mode="bilinear", align_corners=False)


def test_the_head_of_pangaea_is_upernet_on_levels_as_they_are() -> None:
    """Pooled context, lateral connections from above, and all levels joined; written out from the paper of UPerNet."""
    head, levels = _pangaea().eval(), _levels(4, (6, 6))
    parts = head.decoder
    *fine, coarse = [scale(level) for scale, level in zip(head.pyramid, levels, strict=True)]
    pooled = [_enlarged(block(coarse), coarse) for block in parts.psp.blocks]
    state = parts.psp.out_conv(torch.cat([coarse, *pooled], dim=1))
    joined = [_enlarged(state, fine[0])]
    for level, lateral, smooth in zip(fine[::-1], parts.fpn_lateral_blocks, parts.fpn_conv_blocks, strict=True):
        state = lateral.conv_norm_relu(level) + _enlarged(state, level)
        joined.insert(0, _enlarged(smooth(state), fine[0]))
    expected = head.classifier(parts.fusion_block(torch.cat(joined, dim=1)))
    assert torch.allclose(head(levels), expected, atol=1e-5)


@pytest.mark.parametrize(("training", "share"), [(True, 0.1), (False, 0.0)])
def test_the_head_of_pangaea_leaves_out_a_tenth_of_its_channels_in_training(training: bool, share: float) -> None:
    head, seen = _pangaea(channels=256).train(training), list[Tensor]()
    head.drop_channels.register_forward_hook(lambda _, given, made: seen.extend((given[0], made)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head(_levels(4, (6, 6), samples=8))
    before, after = (one.flatten(2).any(dim=2) for one in seen)
    left_out = (before & ~after).sum() / before.sum()
    assert float(left_out) == pytest.approx(share, abs=0.02)
