"""How much memory a joint sequence takes, and how much there is."""

from pathlib import Path

import torch

from anyband.errors import InputError
from anyband.models.encoder import Encoder

__all__ = ["available_bytes", "check_memory", "sequence_bytes"]

_MEMINFO = Path("/proc/meminfo")
_GB = 1e9
# chosen: floats that live at once for each token and unit of width, beside the hidden layer and its activation; a block
# of 192 and of 768 wide was seen to take 9 and 6 (torch 2.15, CPU).
_LIVE_COPIES = 9


def sequence_bytes(encoder: Encoder, *, num_sets: int, num_tokens: int) -> int:
    """Estimate the memory that encoding joint sequences takes, without gradients, beside weights and images.

    Fused attention grows with the tokens; plain attention holds the scores of all pairs of tokens too.

    Args:
        encoder: with the way its attention is computed.
        num_sets: sequences at once.
        num_tokens: of each, of all its images together.
    """
    config = encoder.config
    per_token = config.embed_dim * (_LIVE_COPIES + 2 * config.mlp_ratio)
    fused = all(getattr(part, "fused_attn", True) for part in encoder.blocks.modules())
    # Scores, and their softmax beside them.
    scores = 0 if fused else 2 * config.num_heads * (num_tokens + 1)
    return int(4 * num_sets * (num_tokens + 1) * (per_token + scores))


def available_bytes(device: torch.device) -> int | None:
    """Ask how much memory is free where a network runs; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if free is None else int(free) * 1024


def check_memory(encoder: Encoder, *, num_sets: int, num_images: int, num_tokens: int) -> None:
    """See that joint sequences fit the memory that is free, before they are encoded.

    Args:
        encoder: to use.
        num_sets: sets at once.
        num_images: of each set.
        num_tokens: of each image.

    Raises:
        InputError: they don't; it says how much they need.
    """
    device = next(encoder.parameters()).device
    free = available_bytes(device)
    needed = sequence_bytes(encoder, num_sets=num_sets, num_tokens=num_images * num_tokens)
    if free is not None and needed > free:
        raise InputError(
            f"{num_sets} set{'s' * (num_sets > 1)} of {num_images} images with {num_tokens} tokens each "
            f"({num_images * num_tokens:,} tokens that attend to each other) need about {needed / _GB:,.1f} GB, and "
            f"{free / _GB:,.1f} GB are free on '{device}'; take fewer or smaller images, or fewer sets at once"
        )
