"""Plans over sets: exact counts, shared and own masks, inverse permutations, valid tokens first."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.models.inputs import SetNoise
from anyband.models.masking import MaskingKind, SetPlan, count_visible, draw_plan, plan_from_masked, smallest_first

KINDS = get_args(MaskingKind)
EVEN_KINDS = [kind for kind in KINDS if kind != "released"]
_examples = settings(max_examples=25)
_seeds, _slots, _tokens = st.integers(0, 999), st.integers(1, 6), st.integers(4, 50)


def _draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _noise(seed: int, sets: int, slots: int, tokens: int, *, hides_last: bool = False) -> SetNoise:
    return SetNoise(
        masking=_draw(seed, sets, slots, tokens),
        tying=_draw(seed + 1000, sets, slots, tokens),
        mixup=_draw(seed + 2000, sets, tokens),
        hides_last=hides_last,
    )


def _sources(seed: int, sets: int, slots: int) -> dict[str, torch.Tensor]:
    same = _draw(seed + 3000, sets, slots) < 0.5
    same[:, 0] = True
    same[:, 1:2] = False
    return {"same_source": same, "first_slot": (_draw(seed + 4000, sets) * slots).long()}


def _plan(
    seed: int,
    kind: MaskingKind,
    *,
    slots: int = 3,
    tokens: int = 16,
    hidden: torch.Tensor | None = None,
    hides_last: bool = False,
) -> SetPlan:
    noise = _noise(seed, 4, slots, tokens, hides_last=hides_last)
    mixup_ratio = 0.5 if kind in ("anchor", "same") and slots > 1 else None
    sources = _sources(seed, 4, slots)
    return draw_plan(noise, hidden, masking=kind, mask_ratio=0.75, mixup_ratio=mixup_ratio, **sources)


def _kept_of(plan: SetPlan, slot: int) -> list[list[int]]:
    """List the positions of one image that are kept, in the encoder's order."""
    tokens = plan.masked.shape[2]
    return [[one % tokens for one in row if one // tokens == slot] for row in plan.ids_keep.tolist()]


@_examples
@given(seed=_seeds, slots=_slots, tokens=_tokens, kind=st.sampled_from(EVEN_KINDS))
def test_exactly_the_declared_count_is_visible_in_each_image(
    seed: int, slots: int, tokens: int, kind: MaskingKind
) -> None:
    plan = _plan(seed, kind, slots=slots, tokens=tokens)
    count = count_visible(tokens, 0.75)
    assert plan.num_visible == count
    assert ((~plan.masked).sum(dim=2) == count).all()


@_examples
@given(seed=_seeds, slots=_slots, tokens=_tokens, kind=st.sampled_from(KINDS), hides_last=st.booleans())
def test_restoring_inverts_the_permutation_of_all_tokens(
    seed: int, slots: int, tokens: int, kind: MaskingKind, hides_last: bool
) -> None:
    plan = _plan(seed, kind, slots=slots, tokens=tokens, hides_last=hides_last)
    shuffle = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
    places = torch.arange(slots * tokens).expand(4, -1)
    assert torch.equal(torch.gather(shuffle, 1, plan.ids_restore), places)
    assert torch.equal(torch.gather(plan.ids_restore, 1, shuffle), places)


@_examples
@given(seed=_seeds, slots=_slots, tokens=_tokens, kind=st.sampled_from(KINDS), hides_last=st.booleans())
def test_every_token_is_either_visible_or_masked_once(
    seed: int, slots: int, tokens: int, kind: MaskingKind, hides_last: bool
) -> None:
    plan = _plan(seed, kind, slots=slots, tokens=tokens, hides_last=hides_last)
    assert torch.equal(torch.cat([plan.ids_keep, plan.ids_masked], 1).sort(1).values[0], torch.arange(slots * tokens))
    masked = plan.masked.flatten(1)
    assert not torch.gather(masked, 1, plan.ids_keep).any()
    assert torch.gather(masked, 1, plan.ids_masked).all()


@_examples
@given(seed=_seeds, slots=_slots, kind=st.sampled_from(KINDS))
def test_kept_and_dropped_tokens_stand_image_by_image(seed: int, slots: int, kind: MaskingKind) -> None:
    plan = _plan(seed, kind, slots=slots)
    for ids in (plan.ids_keep, plan.ids_masked):
        images = ids // 16
        assert (images.diff(dim=1) >= 0).all()


@_examples
@given(seed=_seeds, slots=st.integers(2, 6), tokens=_tokens, share=st.sampled_from([0.0, 0.3]))
def test_an_image_of_another_source_shares_the_anchors_places_in_their_order(
    seed: int, slots: int, tokens: int, share: float
) -> None:
    hidden = _draw(seed + 9000, 4, slots, tokens) < share
    plan = _plan(seed, "anchor", slots=slots, tokens=tokens, hidden=hidden)
    same = _sources(seed, 4, slots)["same_source"]
    anchor = _kept_of(plan, 0)
    for slot in range(1, slots):
        kept = _kept_of(plan, slot)
        assert [kept[place] == anchor[place] for place in range(4) if not same[place, slot]].count(False) == 0
    assert torch.equal(plan.masked[:, 1], plan.masked[:, 0])


def test_no_token_of_another_source_at_a_masked_place_of_the_anchor_reaches_the_encoder() -> None:
    plan = _plan(3, "anchor", slots=5, tokens=40)
    other = ~_sources(3, 4, 5)["same_source"]
    slot, position = plan.ids_keep // 40, plan.ids_keep % 40
    anchor_masked = torch.gather(plan.masked[:, 0], 1, position)
    assert anchor_masked.any()
    assert not (anchor_masked & torch.gather(other, 1, slot)).any()


@pytest.mark.parametrize(("kind", "slot"), [("anchor", 2), ("independent", 1), ("independent", 2)])
def test_independent_masks_overlap_as_chance_does(kind: MaskingKind, slot: int) -> None:
    sets, tokens = 600, 40
    same = torch.tensor([True, False, True]).expand(sets, -1)
    plan = draw_plan(_noise(5, sets, 3, tokens), masking=kind, mask_ratio=0.75, same_source=same)
    overlap = (~plan.masked[:, 0] & ~plan.masked[:, slot]).sum(dim=1).double()
    # The overlap of two drawn sets of places is hypergeometric.
    count = count_visible(tokens, 0.75)
    mean = count**2 / tokens
    variance = mean * (1 - count / tokens) * (tokens - count) / (tokens - 1)
    assert abs(overlap.mean() - mean) < 4 * (variance / sets) ** 0.5
    assert overlap.var() == pytest.approx(variance, rel=0.25)


def test_under_same_all_images_share_one_mask() -> None:
    plan = _plan(1, "same", slots=4)
    assert (plan.masked == plan.masked[:, :1]).all()
    assert _kept_of(plan, 3) == _kept_of(plan, 0)


@_examples
@given(seed=_seeds, slots=st.integers(2, 5), tokens=_tokens, share=st.sampled_from([0.0, 0.4]))
def test_hybrid_ties_half_of_the_positions_to_the_anchor(seed: int, slots: int, tokens: int, share: float) -> None:
    hidden = _draw(seed + 9000, 4, slots, tokens) < share
    plan = _plan(seed, "hybrid", slots=slots, tokens=tokens, hidden=hidden)
    for slot in range(1, slots):
        tied = smallest_first(_noise(seed, 4, slots, tokens).tying[:, slot], tokens // 2)
        assert tied.sum(dim=1).tolist() == [tokens // 2] * 4
        assert not ((plan.masked[:, slot] != plan.masked[:, 0]) & tied).any()


def test_hybrid_draws_the_other_half_for_each_image() -> None:
    plan = _plan(2, "hybrid", slots=3, tokens=64)
    free = ~smallest_first(_noise(2, 4, 3, 64).tying[:, 1], 32)
    assert ((plan.masked[:, 1] != plan.masked[:, 0]) & free).any(dim=1).all()
    assert (plan.masked[:, 1] != plan.masked[:, 2]).any(dim=1).all()


def test_released_shows_the_image_that_comes_first_in_the_place_and_no_other() -> None:
    first = torch.tensor([0, 2, 1])
    plan = draw_plan(_noise(1, 3, 3, 16), masking="released", mask_ratio=0.75, first_slot=first)
    assert (~plan.masked).sum(dim=2).tolist() == [[12, 0, 0], [0, 0, 12], [0, 12, 0]]
    assert plan.num_visible is None


def test_released_overflows_into_the_next_images_of_large_sets() -> None:
    first = torch.tensor([1, 5])
    plan = draw_plan(_noise(1, 2, 6, 16), masking="released", mask_ratio=0.75, first_slot=first)
    assert (~plan.masked).sum(dim=2).tolist() == [[0, 16, 8, 0, 0, 0], [8, 0, 0, 0, 0, 16]]


@pytest.mark.parametrize("kind", EVEN_KINDS)
def test_the_last_image_can_be_hidden_whole_and_the_others_keep_their_count(kind: MaskingKind) -> None:
    plan = _plan(1, kind, slots=3, hides_last=True)
    assert (~plan.masked).sum(dim=2).tolist() == [[4, 4, 0]] * 4
    assert plan.num_visible is None
    assert plan.swapped is None


def test_released_never_shows_an_image_that_is_hidden_whole() -> None:
    plan = _plan(1, "released", slots=3, hides_last=True)
    assert (~plan.masked).sum(dim=(1, 2)).tolist() == [8] * 4
    assert plan.masked[:, 2].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_of_one_image_is_masked_as_ever_where_the_last_is_to_be_hidden(kind: MaskingKind) -> None:
    plan, told = (_plan(1, kind, slots=1, hides_last=hides) for hides in (False, True))
    assert torch.equal(plan.ids_keep, told.ids_keep)
    assert plan.num_visible == told.num_visible


def test_gaps_of_an_image_that_is_hidden_whole_change_nothing_in_the_others() -> None:
    hidden = torch.zeros(4, 2, 16, dtype=torch.bool)
    hidden[:, 1] = _draw(8, 4, 16) < 0.5
    told, plain = (_plan(1, "anchor", slots=2, hidden=given, hides_last=True) for given in (hidden, None))
    assert torch.equal(told.masked, plain.masked)


@_examples
@given(seed=_seeds, share=st.floats(0, 1), kind=st.sampled_from(["anchor", "same", "independent", "released"]))
def test_positions_with_data_in_all_images_of_a_mask_become_visible_first(
    seed: int, share: float, kind: MaskingKind
) -> None:
    hidden = _draw(seed + 9000, 4, 4, 20) < share
    plan = _plan(seed, kind, slots=4, tokens=20, hidden=hidden)
    same = _sources(seed, 4, 4)["same_source"]
    own = torch.arange(4) > 0
    shared = {"anchor": ~same | ~own, "same": torch.ones(4, 4).bool()}.get(kind, (~own).expand(4, -1))
    for place in range(4):
        for slot in range(4):
            rivals = shared[place] if shared[place, slot] else torch.arange(4) == slot
            counts = hidden[place, rivals].sum(dim=0)
            masked = plan.masked[place, slot]
            if not masked.all() and masked.any():
                assert counts[~masked].max() <= counts[masked].min()


def test_the_anchor_keeps_its_declared_share_of_tokens() -> None:
    plan = _plan(1, "anchor", slots=3, tokens=17)
    assert plan.swapped is not None
    assert plan.swapped.sum(dim=1).tolist() == [17 - round(0.5 * 17)] * 4


def test_without_a_share_nothing_is_exchanged() -> None:
    assert _plan(1, "independent").swapped is None


def test_plain_numpy_finds_the_same_anchor_masks() -> None:
    noise, same = _noise(7, 4, 5, 30), _sources(7, 4, 5)["same_source"]
    plan = draw_plan(noise, masking="anchor", mask_ratio=0.75, same_source=same)
    drawn = noise.masking.numpy()
    for place, slot in np.ndindex(4, 5):
        order = np.argsort(drawn[place, slot if same[place, slot] else 0])
        assert _kept_of(plan, slot)[place] == order[:7].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_does_not_depend_on_the_others_in_the_batch(kind: MaskingKind) -> None:
    noise, sources = _noise(1, 4, 3, 16), _sources(1, 4, 3)
    one = SetNoise(masking=noise.masking[2:3], tying=noise.tying[2:3], mixup=noise.mixup[2:3])
    own = {name: value[2:3] for name, value in sources.items()}
    whole, alone = (
        draw_plan(drawn, masking=kind, mask_ratio=0.75, mixup_ratio=0.5, **known)
        for drawn, known in ((noise, sources), (one, own))
    )
    assert torch.equal(whole.ids_restore[2:3], alone.ids_restore)
    assert kind == "released" or torch.equal(whole.swapped[2:3], alone.swapped)


@pytest.mark.parametrize("kind", KINDS)
def test_no_shape_depends_on_the_data(kind: MaskingKind) -> None:
    # A tensor on the device `meta` has no values: whatever reads one fails.
    noise, sources = _noise(1, 4, 3, 16).to("meta"), {name: one.to("meta") for name, one in _sources(1, 4, 3).items()}
    hidden = torch.zeros(4, 3, 16, dtype=torch.bool, device="meta")
    plan = draw_plan(noise, hidden, masking=kind, mask_ratio=0.75, mixup_ratio=0.5, **sources)
    assert plan.ids_keep.shape == (4, 12)


@_examples
@given(seed=_seeds, slots=_slots, kind=st.sampled_from(KINDS), hides_last=st.booleans())
def test_a_plan_comes_back_from_what_it_masks(seed: int, slots: int, kind: MaskingKind, hides_last: bool) -> None:
    drawn = _plan(seed, kind, slots=slots, hides_last=hides_last)
    made = plan_from_masked(drawn.masked)
    assert torch.equal(made.masked, drawn.masked)
    assert torch.equal(made.ids_keep, drawn.ids_keep.sort(dim=1).values)
    assert torch.equal(made.ids_masked, drawn.ids_masked.sort(dim=1).values)
    shuffle = torch.cat([made.ids_keep, made.ids_masked], dim=1)
    assert torch.equal(torch.gather(shuffle, 1, made.ids_restore), torch.arange(slots * 16).expand(4, -1))


def test_a_declared_plan_counts_what_each_image_shows() -> None:
    masked = torch.zeros(2, 2, 6, dtype=torch.bool)
    masked[0, :, :3] = True
    masked[1, :, 2:5] = True
    assert plan_from_masked(masked).num_visible == 3
    masked[:, 1] = False
    masked[:, 1, 0] = True
    assert plan_from_masked(masked).num_visible is None
    assert plan_from_masked(masked).swapped is None


def test_declared_masks_with_unequal_counts_are_refused() -> None:
    masked = torch.zeros(2, 1, 6, dtype=torch.bool)
    masked[1, 0, 0] = True
    with pytest.raises(InputError, match=r"equally many visible tokens, at least one each; found \[5, 6\]"):
        plan_from_masked(masked)


def test_a_set_of_which_nothing_is_visible_is_refused() -> None:
    with pytest.raises(InputError, match=r"found \[0\].*leave something to see in each"):
        plan_from_masked(torch.ones(2, 2, 4, dtype=torch.bool))


def test_images_too_small_for_the_ratio_are_refused() -> None:
    with pytest.raises(InputError, match="leaves 0 of 3 tokens visible"):
        _plan(1, "anchor", tokens=3)
