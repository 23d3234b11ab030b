"""Images to patches and back, and choosing patches by position."""

import torch
from einops import rearrange
from torch import Tensor

from anyband.arrays import Bool, Float, Int, Shaped

__all__ = ["gather_tokens", "hidden_tokens", "patchify", "standardised_patches", "unpatchify"]

# A token with under half of its pixels valid is hidden from attention.
_MIN_VALID_SHARE = 0.5


def patchify(images: Shaped[Tensor, "batch band row col"], patch_size: int) -> Shaped[Tensor, "batch token band_pixel"]:
    """Cut images into patches, row by row; `unpatchify` is the inverse.

    Args:
        images: with sides that are multiples of the patch size.
        patch_size: edge of a patch, pixels.

    Returns:
        (batch, token, band · pixel): in each token the first band's pixels, row by row, then the second's.
    """
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


def unpatchify(
    patches: Shaped[Tensor, "batch token band_pixel"], patch_size: int, grid: tuple[int, int]
) -> Shaped[Tensor, "batch band row col"]:
    """Put patches together again; `patchify` is the inverse.

    Args:
        patches: as `patchify` returns them.
        patch_size: edge of a patch, pixels.
        grid: patches down and across.

    Returns:
        Images.
    """
    rows, cols = grid
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=patch_size, q=patch_size)


def gather_tokens(
    tokens: Shaped[Tensor, "batch token width"], ids: Int[Tensor, "batch chosen"]
) -> Shaped[Tensor, "batch chosen width"]:
    """Take the tokens at `ids`, in that order, for each sample. The shape depends on no data."""
    return torch.gather(tokens, 1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def hidden_tokens(valid: Bool[Tensor, "batch band row col"], patch_size: int) -> Bool[Tensor, "batch token"]:
    """Find the tokens with under half of their pixels valid, over all bands."""
    share = patchify(valid, patch_size).float().mean(dim=-1)
    return share < _MIN_VALID_SHARE


def standardised_patches(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    patch_size: int,
) -> Float[Tensor, "batch token band_pixel"]:
    """Cut images into patches, with 0 where nothing is valid, whatever stands there (NaN too)."""
    known = pixels if valid is None else torch.where(valid, pixels, 0.0)
    return patchify(known, patch_size)
