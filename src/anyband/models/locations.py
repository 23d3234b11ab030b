"""What is added to a token for where, when and by what it was seen: grid positions and the encodings of images."""

import torch
from torch import Tensor

from anyband.errors import InputError
from anyband.models.encodings import Positions
from anyband.models.inputs import SetBatch, SetMetadata, check_grid
from anyband.models.patches import hidden_tokens
from anyband.models.set_encodings import SetEncodings
from anyband.shapes import Bool, Float

__all__ = ["check_sets", "image_shares", "set_hidden", "token_locations"]


def token_locations(
    positions: Positions,
    encodings: SetEncodings | None,
    grid: tuple[int, int],
    metadata: SetMetadata | None,
    shares: Float[Tensor, "set slot range"],
) -> Float[Tensor, "#set #slot token width"]:
    """Compute what is added to each token of each image.

    Args:
        positions: of the grid.
        encodings: of the images; None: tokens carry their position alone.
        grid: patches down and across.
        metadata: of the images; None: nothing is known.
        shares: what each image's sensor sees of the trained ranges.

    Returns:
        One vector a token; axes of length 1 where all sets and images have the same.
    """
    plain: Tensor = positions(grid)[:, None, 1:]
    if encodings is None:
        return plain
    added: Tensor = encodings(grid, metadata, shares)
    located: Tensor = added if encodings.config.geographic != "none" else plain + added
    return located


def image_shares(batch: SetBatch) -> Float[Tensor, "set slot range"]:
    """Tell what the sensor of each image sees of the trained ranges: the mean over its bands."""
    every = [group.mixing.mean(dim=0).expand(len(group.pixels), -1) for group in batch.groups]
    return torch.cat(every)[batch.rows]


def set_hidden(batch: SetBatch, patch_size: int) -> Bool[Tensor, "set slot token"] | None:
    """Find the tokens with under half of their pixels valid; None: everything is valid."""
    if all(group.valid is None for group in batch.groups):
        return None
    parts = []
    for group in batch.groups:
        num_tokens = (group.pixels.shape[2] // patch_size) * (group.pixels.shape[3] // patch_size)
        none = torch.zeros(len(group.pixels), num_tokens, dtype=torch.bool, device=group.pixels.device)
        parts.append(none if group.valid is None else hidden_tokens(group.valid, patch_size))
    return torch.cat(parts)[batch.rows]


def check_sets(batch: SetBatch, *, patch_size: int, num_ranges: int) -> tuple[int, int]:
    """See that the images of some sets fit a network and each other, and count their patches.

    Returns:
        Patches down and across.

    Raises:
        InputError: no image, sizes or bands that do not fit, or images that no set has.
    """
    if not batch.groups or not batch.rows.numel():
        raise InputError("a set needs at least one image; found none")
    grids = {check_grid(group, patch_size=patch_size, num_ranges=num_ranges) for group in batch.groups}
    if len(grids) > 1:
        sides = ", ".join(f"{rows * patch_size} × {cols * patch_size}" for rows, cols in sorted(grids))
        raise InputError(f"images of a set must have equal sides; found {sides} pixels: resize them to one")
    num_images = sum(len(group.pixels) for group in batch.groups)
    if batch.rows.numel() != num_images:
        raise InputError(f"{batch.num_sets} sets of {batch.num_slots} images, but {num_images} images are given")
    return grids.pop()
