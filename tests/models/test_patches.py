"""Patches: order, inverse, and choice by position."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.models.inputs import ImageBatch, SetBatch
from anyband.models.patches import PatchSets, cut_sets, gather_tokens, patchify, unpatchify


@settings(max_examples=20)
@given(bands=st.integers(1, 5), rows=st.integers(1, 4), cols=st.integers(1, 4), patch_size=st.integers(1, 6))
def test_unpatchify_inverts_patchify(bands: int, rows: int, cols: int, patch_size: int) -> None:
    images = torch.arange(2 * bands * rows * cols * patch_size**2).view(2, bands, rows * patch_size, -1)
    patches = patchify(images, patch_size)
    assert patches.shape == (2, rows * cols, bands * patch_size**2)
    assert torch.equal(unpatchify(patches, patch_size, (rows, cols)), images)


def test_tokens_go_row_by_row_and_bands_follow_one_another() -> None:
    images = torch.zeros(1, 2, 4, 6)
    images[0, 1, 0:2, 2:4] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    patches = patchify(images, 2)
    assert patches[0, 1].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    assert patches.abs().sum() == 10


def test_gathering_takes_tokens_in_the_order_asked_for() -> None:
    tokens = torch.arange(12.0).view(2, 3, 2)
    taken = gather_tokens(tokens, torch.tensor([[2, 0], [1, 1]]))
    assert taken.tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def _cut(pixels: torch.Tensor, valid: torch.Tensor) -> PatchSets:
    image = ImageBatch(pixels=pixels, valid=valid, mixing=torch.ones(pixels.shape[1], 1))
    return cut_sets(SetBatch(groups=(image,)), patch_size=2, num_ranges=1)


def test_a_token_is_hidden_under_half_of_its_pixels() -> None:
    valid = torch.ones(1, 2, 2, 6, dtype=torch.bool)
    valid[0, 0, :, 0:2] = False  # token 0: 4 of 8
    valid[0, :, :, 2:4] = False
    valid[0, 0, 0, 2:4] = True
    valid[0, 1, 0, 2] = True  # token 1: 3 of 8
    hidden = _cut(torch.zeros(1, 2, 2, 6), valid).hidden
    assert hidden is not None
    assert hidden.tolist() == [[[False, True, False]]]


def test_missing_pixels_are_zero_whatever_stands_there() -> None:
    pixels = torch.tensor([[[[1.0, torch.nan], [torch.inf, 4.0]]]])
    patches = _cut(pixels, torch.isfinite(pixels)).groups[0]
    assert patches.values.tolist() == [[[1, 0, 0, 4]]]
