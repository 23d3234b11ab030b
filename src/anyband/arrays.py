"""Axis words of array annotations, and copies to a device."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int, Num, Shaped, UInt8
from numpy import ndarray as Array  # noqa: N812 (an array of any shape; the annotation says which)

if TYPE_CHECKING:
    import torch

__all__ = ["Array", "Bool", "Float", "Int", "Num", "Shaped", "UInt8", "to_device"]


def to_device(values: "Array | torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Copy values to a device. On a GPU the copy is queued, through pinned memory, and this returns at once."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
