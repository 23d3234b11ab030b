"""Images as patches: cut and put together, projected to tokens and predicted from them, and what predictions cost.

The two spectrum-aware maps keep one linear map for each trained range, stacked. A sensor's own weights are
`mixing @ weights`, so a band that no range covers exactly needs no other code.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Bool, Float, Int, Shaped

__all__ = [
    "SpectralProjection",
    "SpectralReconstruction",
    "TargetVariance",
    "gather_tokens",
    "hidden_tokens",
    "patch_moments",
    "patchify",
    "standardised_patches",
    "token_errors",
    "unpatchify",
]

# A token with under half of its pixels valid is hidden from attention.
_MIN_VALID_SHARE = 0.5


def patchify(images: Shaped[Tensor, "batch band row col"], patch_size: int) -> Shaped[Tensor, "batch token band_pixel"]:
    """Cut images into patches, row by row, each the first band's pixels, then the second's; `unpatchify` inverts."""
    return rearrange(images, "b c (h p) (w q) -> b (h w) (c p q)", p=patch_size, q=patch_size)


def unpatchify(
    patches: Shaped[Tensor, "batch token band_pixel"], patch_size: int, grid: tuple[int, int]
) -> Shaped[Tensor, "batch band row col"]:
    """Put patches together; inverse of `patchify`."""
    rows, cols = grid
    return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=patch_size, q=patch_size)


def gather_tokens(
    tokens: Shaped[Tensor, "batch token width"], ids: Int[Tensor, "batch chosen"]
) -> Shaped[Tensor, "batch chosen width"]:
    """Take the tokens at `ids`, in that order, for each sample."""
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


class SpectralProjection(nn.Module):
    """Project patches to tokens in one matrix product: `max_bands · mean over bands of f_i(its patch)`.

    The order of the bands, with the rows of `mixing`, changes nothing. Shares are joined with weights, or with pixels
    where a sensor has more bands than there are ranges: the product is never wider than the ranges.

    Source:
        SMARTIES (arXiv 2506.19585), section 3.1; `max_bands` is its C_max.
    """

    def __init__(self, *, num_ranges: int, patch_size: int, embed_dim: int, max_bands: int) -> None:
        super().__init__()
        self.max_bands = max_bands
        self.weight = nn.Parameter(torch.empty(num_ranges, patch_size**2, embed_dim))
        self.bias = nn.Parameter(torch.empty(num_ranges, embed_dim))

    def forward(
        self, patches: Float[Tensor, "batch token band_pixel"], mixing: Float[Tensor, "band range"]
    ) -> Float[Tensor, "batch token width"]:
        # The scale goes into the small matrix, so that the weights of all bands come out scaled at no cost.
        num_bands, num_ranges = mixing.shape
        shares = mixing * (self.max_bands / num_bands)
        bias = (shares @ self.bias).sum(dim=0)
        if num_bands > num_ranges:
            bands = rearrange(patches, "b t (c p) -> b t c p", c=num_bands)
            weight = self.weight.flatten(0, 1)
            patches = (shares.t().to(patches.dtype) @ bands).flatten(2)
        else:
            weight = (shares @ self.weight.flatten(1)).view(-1, self.weight.shape[-1])
        return functional.linear(patches, weight.t(), bias)


class SpectralReconstruction(nn.Module):
    """Predict `num_values` of every band from decoded tokens: each band by its own r_i, as one matrix product.

    Where a sensor has more bands than there are ranges, all ranges are predicted and then shared out.

    Source:
        SMARTIES (arXiv 2506.19585), section 3.3.
    """

    def __init__(self, *, num_ranges: int, num_values: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_ranges, num_values, width))
        self.bias = nn.Parameter(torch.empty(num_ranges, num_values))

    def forward(
        self, tokens: Float[Tensor, "batch token width"], mixing: Float[Tensor, "band range"]
    ) -> Float[Tensor, "batch token band_pixel"]:
        num_bands, num_ranges = mixing.shape
        if num_bands > num_ranges:
            of_ranges = functional.linear(tokens, self.weight.flatten(0, 1), self.bias.flatten())
            apart = rearrange(of_ranges, "b t (r p) -> b t r p", r=num_ranges)
            return (mixing.to(of_ranges.dtype) @ apart).flatten(2)
        weight = (mixing @ self.weight.flatten(1)).view(-1, self.weight.shape[-1])
        bias = (mixing @ self.bias).flatten()
        return functional.linear(tokens, weight, bias)


TargetVariance = Literal["unbiased", "repeated"]

# Source: masked autoencoders (arXiv 2111.06377), normalised pixels.
_VARIANCE_FLOOR = 1e-6


def patch_moments(
    patches: Float[Tensor, "batch token band_pixel"],
    valid: Bool[Tensor, "batch token band_pixel"] | None,
    *,
    variance: TargetVariance = "unbiased",
    repeats: int = 1,
) -> tuple[Float[Tensor, "batch token 1"], Float[Tensor, "batch token 1"]]:
    """Compute each token's mean and √(variance + 1e-6) over the valid pixels of all its bands.

    `patches` are finite and 0 where not valid. `repeated` divides by n − 1/repeats and not by n − 1: the unbiased
    variance of values that stand `repeats` times each, as the published weights were trained.
    """
    if valid is None:
        count = patches.new_tensor(float(patches.shape[-1]))
        mean = patches.mean(dim=-1, keepdim=True)
        square = (patches - mean).square().sum(dim=-1, keepdim=True)
    else:
        count = valid.sum(dim=-1, keepdim=True).to(patches.dtype)
        mean = patches.sum(dim=-1, keepdim=True) / count.clamp(min=1)
        square = torch.where(valid, patches - mean, 0.0).square().sum(dim=-1, keepdim=True)
    lost = 1 / repeats if variance == "repeated" else 1.0
    # A token with one valid pixel has no deviation; it divides by 1 and not by 0.
    divisor = torch.where(count > 1, count - lost, 1.0)
    return mean, (square / divisor + _VARIANCE_FLOOR).sqrt()


def token_errors(
    predicted: Float[Tensor, "batch token band_pixel"],
    target: Float[Tensor, "batch token band_pixel"],
    valid: Bool[Tensor, "batch token band_pixel"] | None,
) -> Float[Tensor, "batch token"]:
    """Compute each token's mean squared error over the valid pixels of its bands; 0 where none is."""
    square = (predicted.float() - target.float()).square()
    if valid is None:
        return square.mean(dim=-1)
    return torch.where(valid, square, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)
