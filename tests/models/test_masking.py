"""Counts of what is visible and decoded."""

import pytest
import torch

from anyband.errors import InputError
from anyband.models.masking import count_visible, smallest_first


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
