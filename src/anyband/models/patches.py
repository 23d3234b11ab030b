"""Images as patches: cut and put together, projected to tokens and predicted from them, and what predictions cost.

The two spectrum-aware maps keep one linear map for each trained range, stacked. A sensor's own weights are
`mixing @ weights`, so a band that no range covers exactly needs no other code.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Bool, Float, Int, Shaped
from anyband.models.inputs import SetBatch, check_sets

__all__ = [
    "ImagePatches",
    "PatchSets",
    "SpectralProjection",
    "SpectralReconstruction",
    "cut_sets",
    "gather_tokens",
    "patch_moments",
    "patchify",
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
    tokens: Shaped[Tensor, "*#batch token width"], ids: Int[Tensor, "*batch chosen"]
) -> Shaped[Tensor, "*batch chosen width"]:
    """Take the tokens at `ids`, in that order, for each sample; tokens that all samples share may stand once."""
    return torch.take_along_dim(tokens, ids.unsqueeze(-1), dim=-2)


@dataclass(frozen=True, kw_only=True)
class ImagePatches:
    """Images of one sensor, cut into patches; all of them or those at some positions."""

    values: Float[Tensor, "batch token band_pixel"]
    """Standardised pixels, 0 where missing, whatever stood there (NaN too)."""
    valid: Bool[Tensor, "batch token band_pixel"] | None
    """Which have data; None: all."""
    mixing: Float[Tensor, "band range"]

    def at(self, ids: Int[Tensor, "batch chosen"]) -> "ImagePatches":
        valid = None if self.valid is None else gather_tokens(self.valid, ids)
        return ImagePatches(values=gather_tokens(self.values, ids), valid=valid, mixing=self.mixing)


@dataclass(frozen=True, kw_only=True)
class PatchSets:
    """Sets of images, cut into patches."""

    batch: SetBatch
    groups: tuple[ImagePatches, ...]
    hidden: Bool[Tensor, "set slot token"] | None
    """Patches with under half of their pixels valid, over all bands; None: everything is valid."""
    grid: tuple[int, int]
    """Patches down and across."""


def cut_sets(batch: SetBatch, *, patch_size: int, num_ranges: int) -> PatchSets:
    """Cut sets into patches; `InputError` where images do not fit the network or each other."""
    grid = check_sets(batch, patch_size=patch_size, num_ranges=num_ranges)
    groups, hidden = [], []
    for one in batch.groups:
        known = one.pixels if one.valid is None else torch.where(one.valid, one.pixels, 0.0)
        valid = None if one.valid is None else patchify(one.valid, patch_size)
        groups.append(ImagePatches(values=patchify(known, patch_size), valid=valid, mixing=one.mixing))
        none = torch.zeros(len(known), grid[0] * grid[1], dtype=torch.bool, device=known.device)
        hidden.append(none if valid is None else valid.float().mean(dim=-1) < _MIN_VALID_SHARE)
    is_known = all(one.valid is None for one in groups)
    return PatchSets(
        batch=batch,
        groups=tuple(groups),
        hidden=None if is_known else torch.stack(batch.to_slots(hidden), dim=1),
        grid=grid,
    )


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
    """Predict `num_values` of every band from decoded tokens: each band by its own r_i, as one matrix product. Where a
    sensor has more bands than there are ranges, all ranges are predicted and then shared out. Source: SMARTIES (arXiv
    2506.19585), section 3.3."""

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


# Source: masked autoencoders (arXiv 2111.06377), normalised pixels.
_VARIANCE_FLOOR = 1e-6


def patch_moments(
    patches: Float[Tensor, "batch token band_pixel"],
    valid: Bool[Tensor, "batch token band_pixel"] | None,
    *,
    repeats: int = 1,
) -> tuple[Float[Tensor, "batch token 1"], Float[Tensor, "batch token 1"]]:
    """Compute each token's mean and √(variance + 1e-6) over the valid pixels of all its bands, 0 where not valid. The
    variance divides by n − 1/repeats: it is the unbiased one of values that stand `repeats` times each."""
    if valid is None:
        count = patches.new_tensor(float(patches.shape[-1]))
        mean = patches.mean(dim=-1, keepdim=True)
        square = (patches - mean).square().sum(dim=-1, keepdim=True)
    else:
        count = valid.sum(dim=-1, keepdim=True).to(patches.dtype)
        mean = patches.sum(dim=-1, keepdim=True) / count.clamp(min=1)
        square = torch.where(valid, patches - mean, 0.0).square().sum(dim=-1, keepdim=True)
    # A token with one valid pixel has no deviation; it divides by 1 and not by 0.
    divisor = torch.where(count > 1, count - 1 / max(1, repeats), 1.0)
    return mean, (square / divisor + _VARIANCE_FLOOR).sqrt()
