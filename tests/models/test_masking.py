"""Plans: exact counts, inverse permutations, valid tokens first."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.models.inputs import PairNoise
from anyband.models.masking import PairPlan, count_visible, draw_pair_plan, smallest_first


def _plan(seed: int, tokens: int, hidden: torch.Tensor | None = None, mixup: str = "mirrored") -> PairPlan:
    draw = torch.Generator().manual_seed(seed)
    noise = PairNoise(mixup=torch.rand(3, tokens, generator=draw), masking=torch.rand(3, tokens, generator=draw))
    return draw_pair_plan(noise, hidden, mask_ratio=0.75, mixup_ratio=0.5, mixup=mixup)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), tokens=st.integers(4, 60))
def test_restoring_inverts_the_permutation(seed: int, tokens: int) -> None:
    plan = _plan(seed, tokens)
    shuffle = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
    places = torch.arange(tokens).expand(3, -1)
    assert torch.equal(torch.gather(shuffle, 1, plan.ids_restore), places)
    assert torch.equal(torch.gather(plan.ids_restore, 1, shuffle), places)


@settings(max_examples=30)
@given(seed=st.integers(0, 999), tokens=st.integers(4, 60))
def test_every_position_is_visible_or_masked_and_half_come_from_a(seed: int, tokens: int) -> None:
    plan = _plan(seed, tokens)
    assert plan.masked.sum(dim=1).tolist() == [tokens - int(tokens * 0.25)] * 3
    assert not torch.gather(plan.masked, 1, plan.ids_keep).any()
    assert torch.gather(plan.masked, 1, plan.ids_masked).all()
    assert plan.from_a.sum(dim=1).tolist() == [round(tokens / 2)] * 3


@settings(max_examples=30)
@given(seed=st.integers(0, 999), share=st.floats(0, 1))
def test_positions_with_data_in_both_images_become_visible_first(seed: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    hidden = (torch.rand(3, 20, generator=draw) < share).long() + (torch.rand(3, 20, generator=draw) < share).long()
    plan = _plan(seed, 20, hidden)
    counts = torch.gather(hidden, 1, plan.ids_keep)
    left = torch.gather(hidden, 1, plan.ids_masked)
    assert (counts.max(dim=1).values <= left.min(dim=1).values).all()


def test_a_sample_does_not_depend_on_the_others_in_the_batch() -> None:
    noise = torch.rand(4, 16, generator=torch.Generator().manual_seed(1))
    whole = draw_pair_plan(
        PairNoise(mixup=noise, masking=noise.flip(1)),
        None,
        mask_ratio=0.75,
        mixup_ratio=0.5,
        mixup="mirrored",
    )
    alone = draw_pair_plan(
        PairNoise(mixup=noise[2:3], masking=noise[2:3].flip(1)),
        None,
        mask_ratio=0.75,
        mixup_ratio=0.5,
        mixup="mirrored",
    )
    assert torch.equal(whole.ids_restore[2:3], alone.ids_restore)
    assert torch.equal(whole.from_a[2:3], alone.from_a)


def test_without_mixup_every_token_of_the_first_image_is_its_own() -> None:
    assert _plan(1, 16, mixup="none").from_a.all()


def test_ties_are_broken_so_that_counts_stay_exact() -> None:
    assert smallest_first(torch.zeros(2, 9), 4).sum(dim=1).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("tokens", "ratio", "visible"), [(196, 0.75, 49), (36, 0.75, 9), (10, 0.9, 1), (256, 0.75, 64)]
)
def test_the_visible_share_is_the_whole_part(tokens: int, ratio: float, visible: int) -> None:
    assert count_visible(tokens, ratio) == visible


@pytest.mark.parametrize(("tokens", "ratio"), [(3, 0.75), (1, 0.5), (4, 0.0)])
def test_nothing_visible_or_nothing_masked_is_refused(tokens: int, ratio: float) -> None:
    with pytest.raises(InputError, match="at least one must be visible and one masked"):
        count_visible(tokens, ratio)
