"""Which tokens two images exchange and which are hidden from the encoder: no shape depends on the data."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.models.inputs import PairNoise
from anyband.shapes import Bool, Float, Int

__all__ = ["MaskingKind", "MixupKind", "PairPlan", "count_visible", "draw_pair_plan", "plan_from_ids", "smallest_first"]

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
