"""The two spectrum-aware maps: pixels of any bands to tokens, and tokens to pixels of any bands.

Both keep one linear map for each trained spectral range, stacked in one parameter. A sensor's own weights are
`mixing @ weights`, so a band that no range covers exactly needs no other code than one that does.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Float

__all__ = ["SpectralProjection", "SpectralReconstruction"]


class SpectralProjection(nn.Module):
    """Project patches to tokens in one matrix product: `max_bands · mean over bands of f_i(its patch)`.

    The order of the bands, with the rows of `mixing`, does not change the tokens. Shares and weights are joined first,
    or, where a sensor has more bands than there are ranges, shares and pixels: then the product is as wide as the
    ranges, however many bands there are.

    Args:
        num_ranges: trained spectral ranges.
        patch_size: edge of a patch, pixels.
        embed_dim: width of a token.
        max_bands: C_max, keeps tokens of sensors with few bands as large as those with many.

    Source:
        SMARTIES (arXiv 2506.19585), section 3.1.
    """

    def __init__(self, *, num_ranges: int, patch_size: int, embed_dim: int, max_bands: int) -> None:
        super().__init__()
        self.max_bands = max_bands
        self.weight = nn.Parameter(torch.empty(num_ranges, patch_size**2, embed_dim))
        self.bias = nn.Parameter(torch.empty(num_ranges, embed_dim))

    def forward(
        self, patches: Float[Tensor, "batch token band_pixel"], mixing: Float[Tensor, "band range"]
    ) -> Float[Tensor, "batch token width"]:
        """Project patches of one sensor.

        Args:
            patches: the bands' pixels one after the other, as `patchify` gives them.
            mixing: share of each trained range in each band.

        Returns:
            Tokens, without positions.
        """
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
    """Predict the pixels of every band from decoded tokens: each band by its own r_i, as one matrix product.

    Where a sensor has more bands than there are ranges, all ranges are predicted and then shared out to the bands.

    Args:
        num_ranges: trained spectral ranges.
        num_values: predicted for each band of a token: the pixels of a patch.
        width: of decoded tokens.

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
        """Predict patches of one sensor.

        Args:
            tokens: after the decoder's norm.
            mixing: share of each trained range in each band.

        Returns:
            Patches, the bands' pixels one after the other.
        """
        num_bands, num_ranges = mixing.shape
        if num_bands > num_ranges:
            of_ranges = functional.linear(tokens, self.weight.flatten(0, 1), self.bias.flatten())
            apart = rearrange(of_ranges, "b t (r p) -> b t r p", r=num_ranges)
            return (mixing.to(of_ranges.dtype) @ apart).flatten(2)
        weight = (mixing @ self.weight.flatten(1)).view(-1, self.weight.shape[-1])
        bias = (mixing @ self.bias).flatten()
        return functional.linear(tokens, weight, bias)
