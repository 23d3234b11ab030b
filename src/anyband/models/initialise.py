"""First weights, as a function of the seed and the name of each parameter."""

import math

import numpy as np
import torch
from torch import nn

from anyband.randomness import generator

__all__ = ["initialise"]

# Source: masked autoencoders (arXiv 2111.06377), section A.1 and BEiT's tokens.
_TOKEN_STD = 0.02


def initialise(module: nn.Module, *, seed: int, prefix: str = "encoder") -> None:
    """Draw every parameter: linear maps Xavier uniform with zero bias, norms 1 and 0, tokens normal.

    A parameter's numbers depend on the seed and its name only; no global generator is touched.

    Args:
        module: whose parameters are filled.
        seed: any integer of 64 bits.
        prefix: name of the module in the whole network, so that two modules draw different numbers.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("positions.table"):
                continue  # Starts from the computed positions, whether it is trained or not.
            parameter.copy_(_first_values(f"{prefix}.{name}", tuple(parameter.shape), seed))


def _first_values(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    draws = generator(seed, step=0, sample=0, purpose=f"first weights of {name}")
    if name.endswith("_token"):
        return torch.from_numpy(draws.standard_normal(shape, dtype=np.float32) * np.float32(_TOKEN_STD))
    # The last two axes are the two sides of a linear map, whichever way round; any before them count maps.
    edge = math.sqrt(6 / (shape[-1] + shape[-2]))
    return torch.from_numpy(draws.random(shape, dtype=np.float32) * np.float32(2 * edge) - np.float32(edge))
