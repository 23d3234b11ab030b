"""What a prediction of pixels costs."""

from typing import Literal

import torch
from torch import Tensor

from anyband.arrays import Bool, Float

__all__ = ["TargetVariance", "mean_over", "patch_moments", "token_errors"]

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
    """Compute each token's mean and deviation over the valid pixels of all its bands.

    Args:
        patches: standardised values, finite, 0 where not valid.
        valid: which values count; None: all.
        variance: unbiased: divided by n − 1. repeated: by n − 1/repeats, the unbiased variance of values that
            stand `repeats` times each, as the published weights were trained.
        repeats: how often each value stands, for `repeated`.

    Returns:
        Mean and √(variance + 1e-6).
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
    """Compute each token's mean squared error over the valid pixels of its bands; 0 where none is valid."""
    square = (predicted.float() - target.float()).square()
    if valid is None:
        return square.mean(dim=-1)
    return torch.where(valid, square, 0.0).sum(dim=-1) / valid.sum(dim=-1).clamp(min=1)


def mean_over(errors: Float[Tensor, "batch token"], counted: Bool[Tensor, "batch token"] | None) -> Float[Tensor, ""]:
    """Average the errors of the tokens that count; 0 where none does."""
    if counted is None:
        return errors.mean()
    return torch.where(counted, errors, 0.0).sum() / counted.sum().clamp(min=1)
