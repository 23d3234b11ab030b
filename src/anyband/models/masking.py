"""Which tokens images exchange and which are hidden from the encoder: no shape depends on the data."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError
from anyband.models.inputs import PairNoise, SetBatch, SetNoise

__all__ = [
    "MaskingKind",
    "MixupKind",
    "PairPlan",
    "SetMaskRules",
    "SetPlan",
    "SetSources",
    "count_decoded",
    "count_visible",
    "draw_pair_plan",
    "draw_set_plan",
    "plan_from_ids",
    "plan_from_masked",
    "smallest_first",
]

MixupKind = Literal["mirrored", "released", "none"]
MaskingKind = Literal["anchor", "same", "independent", "hybrid", "released"]


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """What is exchanged and masked in a batch of pairs; the masked positions are the same in a' and b'."""

    from_a: Bool[Tensor, "batch token"]
    """Whether a' takes the token of a; the others come from b."""
    masked: Bool[Tensor, "batch token"]
    """Whether a position is hidden from the encoder and to be reconstructed."""
    ids_keep: Int[Tensor, "batch visible"]
    """Positions that the encoder sees, in the order of its input."""
    ids_masked: Int[Tensor, "batch masked"]
    """The other positions."""
    ids_restore: Int[Tensor, "batch token"]
    """Inverse of the permutation (ids_keep, ids_masked)."""


def count_visible(num_tokens: int, mask_ratio: float) -> int:
    """Count the tokens that stay visible: the whole part of tokens · (1 − mask_ratio).

    Raises:
        InputError: nothing would be visible, or nothing masked.
    """
    # Without the small term, 10 tokens at ratio 0.9 would leave 0, because 1 − 0.9 is a little under 0.1.
    visible = int(num_tokens * (1 - mask_ratio) + 1e-9)
    if not 0 < visible < num_tokens:
        raise InputError(
            f"a mask ratio of {mask_ratio:g} leaves {visible} of {num_tokens} tokens visible; "
            f"at least one must be visible and one masked: use larger images or another ratio"
        )
    return visible


def count_decoded(num_masked: int, decode_ratio: float) -> int:
    """Count the masked tokens that are decoded: the share, rounded, and at least one."""
    return min(num_masked, max(1, round(num_masked * decode_ratio)))


def smallest_first(noise: Float[Tensor, "batch token"], count: int) -> Bool[Tensor, "batch token"]:
    """Mark the `count` smallest numbers of each row: exactly `count`, ties included."""
    chosen = torch.argsort(noise, dim=1, stable=True)[:, :count]
    return torch.zeros_like(noise, dtype=torch.bool).scatter(1, chosen, True)


def plan_from_ids(
    from_a: Bool[Tensor, "batch token"], ids_shuffle: Int[Tensor, "batch token"], num_visible: int
) -> PairPlan:
    """Make a plan from a permutation of the positions, the first `num_visible` of which are visible."""
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    return PairPlan(
        from_a=from_a,
        masked=ids_restore >= num_visible,
        ids_keep=ids_shuffle[:, :num_visible],
        ids_masked=ids_shuffle[:, num_visible:],
        ids_restore=ids_restore,
    )


def draw_pair_plan(
    noise: PairNoise,
    hidden: Int[Tensor, "batch token"] | None,
    *,
    mask_ratio: float,
    mixup_ratio: float,
    mixup: MixupKind,
) -> PairPlan:
    """Turn uniform noise into a plan. Positions with data in both images become visible before any other.

    Args:
        noise: of the step.
        hidden: in how many of the two images (0, 1, 2) a position has too few valid pixels; None: nowhere.
        mask_ratio: share of masked positions.
        mixup_ratio: share of positions at which a' takes the token of a.
        mixup: `none` leaves both images as they are.

    Returns:
        The plan; in it, exactly round(mixup_ratio · tokens) positions come from a.

    Raises:
        InputError: nothing would be visible, or nothing masked.
    """
    num_tokens = noise.masking.shape[1]
    if mixup == "none":
        from_a = torch.ones_like(noise.mixup, dtype=torch.bool)
    else:
        from_a = smallest_first(noise.mixup, round(mixup_ratio * num_tokens))
    order = noise.masking if hidden is None else noise.masking + hidden
    return plan_from_ids(from_a, torch.argsort(order, dim=1, stable=True), count_visible(num_tokens, mask_ratio))


@dataclass(frozen=True, kw_only=True)
class SetMaskRules:
    """How the images of a set are masked and mixed."""

    kind: MaskingKind = "anchor"
    """Which images share the anchor's mask; see `draw_set_plan`."""
    mask_ratio: float = 0.75
    """Share of masked positions of each image."""
    mixup: bool = False
    """Whether the anchor and its partner exchange tokens, where they share a mask."""
    mixup_ratio: float = 0.5
    """Share of positions at which the anchor keeps its own token."""


@dataclass(frozen=True, kw_only=True)
class SetSources:
    """What masking needs to know of the images of some sets."""

    same_source: Bool[Tensor, "set slot"]
    """Whether an image is of the anchor's source; True in slot 0."""
    first_slot: Int[Tensor, "set"]
    """Slot of the image that comes first in the place's own order."""
    partnered: bool
    """Whether slot 1 of every set is of another source."""

    @classmethod
    def of(cls, batch: SetBatch) -> "SetSources":
        """Take them from a batch."""
        return cls(same_source=batch.same_source, first_slot=batch.first_slot, partnered=batch.partnered)


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """What is masked and exchanged in a batch of sets. A joint id is slot · tokens of an image + position."""

    masked: Bool[Tensor, "set slot token"]
    """Whether a token is hidden from the encoder and to be reconstructed."""
    ids_keep: Int[Tensor, "set visible"]
    """Joint ids that the encoder sees: those of slot 0, then of slot 1, and so on."""
    ids_masked: Int[Tensor, "set masked"]
    """The other joint ids, slot by slot too."""
    ids_restore: Int[Tensor, "set slot_token"]
    """Inverse of the permutation (ids_keep, ids_masked)."""
    swapped: Bool[Tensor, "set token"]
    """Where slots 0 and 1 exchange their tokens."""
    num_visible: int | None
    """Tokens visible in every image; None where images differ."""


def draw_set_plan(
    noise: SetNoise, sources: SetSources, hidden: Bool[Tensor, "set slot token"] | None, *, rules: SetMaskRules
) -> SetPlan:
    """Turn uniform noise into a plan: as many tokens visible in each image as `count_visible` says.

    - `anchor`: an image of another source than the anchor's takes the anchor's mask, so that no sensor tells another
      what is under the mask; an image of the anchor's source has a mask of its own.
    - `same`: all images take the anchor's mask. `independent`: each has its own.
    - `hybrid`: in each other image half of the positions, drawn for that image, are masked where the anchor is; the
      rest is drawn so that the count holds.
    - `released`: what the released code does. All visible tokens are of the image that comes first in the place's own
      order, whichever is the anchor; what this image can't hold comes from the next slots.

    Where the noise hides the last image, it is hidden whole, the others keep their count, and nothing is exchanged; a
    set of one image is masked as ever. Images that share a mask have it in the same order. In each mask positions with
    data, in all images that share it, become visible before any other; where `hybrid` ties, the anchor's data decide.
    No shape depends on the data.

    Args:
        noise: of the step.
        sources: which images are of the anchor's source.
        hidden: tokens with too few valid pixels; None: nowhere.
        rules: how to mask and mix.

    Returns:
        The plan; where tokens are exchanged, exactly round(mixup_ratio · tokens) of the anchor's stay.

    Raises:
        InputError: nothing would be visible in an image, or nothing masked.

    Source:
        A²-MAE (arXiv 2406.08079) for the anchor-aware mask; that every image keeps its own count is our reading, the
        released code keeps the tokens of one image alone. Hiding an image whole is ours.
    """
    num_sets, num_slots, num_tokens = noise.masking.shape
    count = count_visible(num_tokens, rules.mask_ratio)
    num_seen = num_slots - 1 if noise.hides_last and num_slots > 1 else num_slots
    slots = torch.arange(num_slots, device=noise.masking.device)
    seen = (slots < num_seen).expand(num_sets, -1)
    counts = count * seen
    if rules.kind == "released":
        place = (slots - sources.first_slot[:, None]) % num_seen
        counts = (count * num_seen - place * num_tokens).clamp(0, num_tokens) * seen
    plan = _plan_from_order(_positions(noise, sources, hidden, seen, rules), counts, count * num_seen)
    if rules.kind == "released" or num_seen < num_slots:
        return plan
    if not (rules.mixup and sources.partnered and rules.kind in ("anchor", "same")):
        return replace(plan, num_visible=count)
    kept = smallest_first(noise.mixup, round(rules.mixup_ratio * num_tokens))
    return replace(plan, num_visible=count, swapped=~kept)


def plan_from_masked(masked: Bool[Tensor, "set slot token"]) -> SetPlan:
    """Make a plan of declared masks; nothing is exchanged, and visible tokens stand in the order of their positions.

    Args:
        masked: what to hide; any pattern that leaves equally many tokens visible in each set.

    Raises:
        InputError: unequal counts, or nothing visible.
    """
    counts = (~masked).sum(dim=2)
    totals = sorted({int(total) for total in counts.sum(dim=1)})
    if len(totals) != 1 or totals[0] == 0:
        raise InputError(
            f"the sets of one batch need equally many visible tokens, at least one each; found {totals}: give "
            "sets with other counts in batches of their own, and leave something to see in each"
        )
    positions = torch.argsort(masked.to(torch.uint8), dim=2, stable=True)
    plan = _plan_from_order(positions, counts, totals[0])
    in_images = {int(count) for count in counts.flatten()}
    return replace(plan, num_visible=in_images.pop() if len(in_images) == 1 else None)


def _positions(
    noise: SetNoise, sources: SetSources, hidden: Tensor | None, seen: Tensor, rules: SetMaskRules
) -> Tensor:
    """Order the positions of each image, those that become visible first."""
    shares = _shares(sources.same_source, rules.kind) & seen
    order = noise.masking if hidden is None else noise.masking + hidden
    common = noise.masking[:, 0] if hidden is None else noise.masking[:, 0] + (hidden & shares[..., None]).sum(dim=1)
    order = torch.where(shares[..., None], common[:, None], order)
    if rules.kind == "hybrid":
        order = _tied(order, noise.tying, count_visible(order.shape[2], rules.mask_ratio))
    return torch.argsort(order, dim=2, stable=True)


def _shares(same_source: Tensor, kind: MaskingKind) -> Tensor:
    """Tell which images have the anchor's mask; the anchor has it."""
    is_anchor = torch.arange(same_source.shape[1], device=same_source.device) == 0
    if kind == "anchor":
        return ~same_source | is_anchor
    return torch.ones_like(same_source) if kind == "same" else is_anchor.expand_as(same_source)


def _tied(order: Tensor, tying: Tensor, count: int) -> Tensor:
    """Put tied positions first where the anchor's are visible and last where they are masked.

    The count then holds: as many untied positions are visible as are still wanted. There are enough, because those
    that the anchor leaves visible among them would do.
    """
    num_sets, num_slots, num_tokens = order.shape
    tied = smallest_first(tying.flatten(0, 1), num_tokens // 2).view(num_sets, num_slots, num_tokens)
    anchor_visible = smallest_first(order[:, 0], count)[:, None]
    # Noise and the count of images without data lie from 0 to under 2.
    held = torch.where(anchor_visible, -1.0, 3.0).expand_as(order).to(order)
    return torch.cat([order[:, :1], torch.where(tied, held, order)[:, 1:]], dim=1)


def _plan_from_order(positions: Tensor, counts: Tensor, num_kept: int) -> SetPlan:
    """Make a plan of the first `counts` positions of each image, `num_kept` in each set."""
    num_sets, num_slots, num_tokens = positions.shape
    slots = torch.arange(num_slots, device=positions.device)
    ids = (positions + slots[:, None] * num_tokens).flatten(1)
    late = torch.arange(num_tokens, device=positions.device) >= counts[..., None]
    visible_first = torch.argsort(late.flatten(1).to(torch.uint8), dim=1, stable=True)
    ids_shuffle = torch.gather(ids, 1, visible_first)
    ids_restore = torch.argsort(ids_shuffle, dim=1)
    return SetPlan(
        masked=(ids_restore >= num_kept).view(num_sets, num_slots, num_tokens),
        ids_keep=ids_shuffle[:, :num_kept],
        ids_masked=ids_shuffle[:, num_kept:],
        ids_restore=ids_restore,
        swapped=torch.zeros((num_sets, num_tokens), dtype=torch.bool, device=positions.device),
        num_visible=None,
    )
