"""Mean and deviation of each band: what any encoder must beat."""

import torch
from torch import Tensor

from anyband.models.inputs import ImageBatch
from anyband.shapes import Float

__all__ = ["band_means"]


def band_means(batch: ImageBatch) -> Float[Tensor, "batch width"]:
    """Describe images by mean and standard deviation of each standardised band over its valid pixels.

    It knows colour and contrast, and nothing of structure. A band without any valid pixel counts as 0, the mean.
    """
    seen = torch.ones_like(batch.pixels) if batch.valid is None else batch.valid.to(batch.pixels.dtype)
    counts = seen.sum(dim=(2, 3)).clamp(min=1)
    mean = (batch.pixels * seen).sum(dim=(2, 3)) / counts
    spread = ((batch.pixels - mean[:, :, None, None]) * seen).square().sum(dim=(2, 3)) / counts
    return torch.cat([mean, spread.sqrt()], dim=1)
