"""Which tokens images exchange and which are hidden from the encoder: no shape depends on the data."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError, counted
from anyband.models.inputs import SetNoise

__all__ = [
    "MaskingKind",
    "MixupKind",
    "SetPlan",
    "count_visible",
    "draw_plan",
    "plan_from_masked",
    "plan_from_positions",
    "smallest_first",
]

MixupKind = Literal["mirrored", "released", "none"]
MaskingKind = Literal["anchor", "same", "independent", "hybrid", "released"]


@dataclass(frozen=True, kw_only=True)
class SetPlan:
    """What is masked and exchanged in a batch of sets. A joint id is slot · tokens of an image + position."""

    masked: Bool[Tensor, "set slot token"]
    """Hidden from the encoder and to be reconstructed."""
    ids_keep: Int[Tensor, "set visible"]
    """Joint ids that the encoder sees: those of slot 0, then of slot 1, and so on."""
    ids_masked: Int[Tensor, "set masked"]
    """The other joint ids, slot by slot too."""
    ids_restore: Int[Tensor, "set slot_token"]
    """Inverse of the permutation (ids_keep, ids_masked)."""
    swapped: Bool[Tensor, "set token"] | None
    """Where slot 0 takes the token of slot 1 (and slot 1 that of slot 0, where mixup is mirrored); None: nowhere."""
    num_visible: int | None
    """Tokens visible in every image; None where images differ."""

    def in_images(self) -> tuple[Int[Tensor, "set slot visible"], Int[Tensor, "set slot masked"]]:
        """Give each image its visible and masked positions, in their order; images must not differ in counts."""
        num_slots, num_tokens = self.masked.shape[1:]
        keep, masked = (rearrange(ids, "s (k n) -> s k n", k=num_slots) for ids in (self.ids_keep, self.ids_masked))
        return keep % num_tokens, masked % num_tokens


def count_visible(num_tokens: int, mask_ratio: float) -> int:
    """Count the tokens that stay visible, tokens · (1 − mask_ratio) rounded down; `InputError` for none or all."""
    # Without the small term, 10 tokens at ratio 0.9 would leave 0, because 1 − 0.9 is a little under 0.1.
    visible = int(num_tokens * (1 - mask_ratio) + 1e-9)
    if not 0 < visible < num_tokens:
        raise InputError(
            f"a mask ratio of {mask_ratio:g} leaves {visible} of {counted(num_tokens, 'token')} visible; "
            f"at least one must be visible and one masked: use larger images or another ratio"
        )
    return visible


def smallest_first(noise: Float[Tensor, "batch token"], count: int) -> Bool[Tensor, "batch token"]:
    """Mark the `count` smallest numbers of each row: exactly `count`, ties included."""
    chosen = torch.argsort(noise, dim=1, stable=True)[:, :count]
    return torch.zeros_like(noise, dtype=torch.bool).scatter(1, chosen, True)


def draw_plan(
    noise: SetNoise,
    hidden: Bool[Tensor, "set slot token"] | None = None,
    *,
    masking: MaskingKind,
    mask_ratio: float,
    mixup_ratio: float | None = None,
    same_source: Bool[Tensor, "set slot"] | None = None,
    first_slot: Int[Tensor, "set"] | None = None,
) -> SetPlan:
    """Turn uniform noise into a plan: as many tokens visible in each image as `count_visible` says.

    - `anchor`: an image of another source than the anchor's takes the anchor's mask, so that no sensor tells another
      what is under the mask; an image of the anchor's source has a mask of its own.
    - `same`: all images take the anchor's mask. `independent`: each has its own.
    - `hybrid`: in each other image half of the positions, drawn for it, are masked where the anchor is.
    - `released`: what the released code does. All visible tokens are of the image that comes first in the place's own
      order, whichever is the anchor; what this image can't hold comes from the next slots.

    Images that share a mask have it in the same order. In each mask positions with data, in all images that share it,
    become visible before any other; where `hybrid` ties, the anchor's data decide.

    Args:
        noise: where it hides the last image, the others keep their count and nothing is exchanged; one alone stays.
        hidden: tokens with too few valid pixels; None: nowhere.
        mixup_ratio: share of positions where slot 0 keeps its token; its mask is slot 1's too. None: no exchange.
        same_source: whether an image is of the anchor's source; None: the anchor alone.
        first_slot: of the image that comes first in the place's own order; None: slot 0.

    Source:
        A²-MAE (arXiv 2406.08079) for the anchor-aware mask; that every image keeps its own count is our reading.
    """
    num_sets, num_slots, num_tokens = noise.masking.shape
    count = count_visible(num_tokens, mask_ratio)
    num_seen = num_slots - 1 if noise.hides_last and num_slots > 1 else num_slots
    slots = torch.arange(num_slots, device=noise.masking.device)
    seen, shares = slots < num_seen, slots == 0
    counts = (count * seen).expand(num_sets, -1)
    if masking == "released":
        after = slots if first_slot is None else slots - first_slot[:, None]
        counts = ((count * num_seen - after % num_seen * num_tokens).clamp(0, num_tokens) * seen).expand(num_sets, -1)
    if masking == "anchor" and same_source is not None:
        shares = shares | ~same_source
    elif masking in ("anchor", "same"):
        shares = torch.ones_like(shares)
    positions = _positions(noise, hidden, (shares & seen).expand(num_sets, -1), count, hybrid=masking == "hybrid")
    plan = plan_from_positions(positions, counts, count * num_seen)
    if masking == "released" or num_seen < num_slots:
        return plan
    swapped = None if mixup_ratio is None else ~smallest_first(noise.mixup, round(mixup_ratio * num_tokens))
    return replace(plan, num_visible=count, swapped=swapped)


def plan_from_masked(masked: Bool[Tensor, "set slot token"]) -> SetPlan:
    """Make a plan of declared masks; nothing is exchanged, and visible tokens stand in the order of their positions.
    `InputError`: sets with unequal counts of visible tokens, or with none."""
    counts = (~masked).sum(dim=2)
    totals = sorted({int(total) for total in counts.sum(dim=1)})
    if len(totals) != 1 or totals[0] == 0:
        raise InputError(
            f"the sets of one batch need equally many visible tokens, at least one each; found {totals}: give "
            "sets with other counts in batches of their own, and leave something to see in each"
        )
    positions = torch.argsort(masked.to(torch.uint8), dim=2, stable=True)
    plan = plan_from_positions(positions, counts, totals[0])
    in_images = {int(count) for count in counts.flatten()}
    return replace(plan, num_visible=in_images.pop() if len(in_images) == 1 else None)


def plan_from_positions(
    positions: Int[Tensor, "set slot token"], counts: Int[Tensor, "set slot"], num_kept: int
) -> SetPlan:
    """Make a plan in which the first `counts` positions of each image are visible, `num_kept` in each set."""
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
        swapped=None,
        num_visible=None,
    )


def _positions(noise: SetNoise, hidden: Tensor | None, shares: Tensor, count: int, *, hybrid: bool) -> Tensor:
    order = noise.masking if hidden is None else noise.masking + hidden
    common = noise.masking[:, 0] if hidden is None else noise.masking[:, 0] + (hidden & shares[..., None]).sum(dim=1)
    order = torch.where(shares[..., None], common[:, None], order)
    if hybrid:
        assert noise.tying is not None
        order = _tied(order, noise.tying, count)
    return torch.argsort(order, dim=2, stable=True)


def _tied(order: Tensor, tying: Tensor, count: int) -> Tensor:
    """Put tied positions first where the anchor's are visible and last where they are masked. Untied positions suffice
    for the rest of the count: those that the anchor leaves visible among them would do."""
    num_sets, num_slots, num_tokens = order.shape
    tied = smallest_first(tying.flatten(0, 1), num_tokens // 2).view(num_sets, num_slots, num_tokens)
    anchor_visible = smallest_first(order[:, 0], count)[:, None]
    # Noise and the count of images without data lie from 0 to under 2.
    held = torch.where(anchor_visible, -1.0, 3.0).expand_as(order).to(order)
    return torch.cat([order[:, :1], torch.where(tied, held, order)[:, 1:]], dim=1)
