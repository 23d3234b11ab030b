"""Copies to a device."""

import numpy as np
import torch
from jaxtyping import Shaped
from numpy import ndarray as Array  # noqa: N812 (an array of any shape; the annotation says which)
from torch import Tensor

__all__ = ["host_memory", "to_device"]


def to_device(values: Shaped[Array, "..."] | Shaped[Tensor, "..."], device: torch.device) -> Shaped[Tensor, "..."]:
    """Copy values to a device. On a GPU the copy is queued, through pinned memory, and this returns at once."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def host_memory(shape: tuple[int, ...], dtype: torch.dtype, *, pinned: bool) -> Shaped[Tensor, "..."]:
    """Make an array without values to fill on the way to the device; `pinned` needs a GPU, which reads it by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=pinned)
