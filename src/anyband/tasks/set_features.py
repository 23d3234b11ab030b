"""Sets of images as network input, and what a network gives for them as features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from anyband.errors import InputError
from anyband.models.encoder import EncoderConfig, SetOutput
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.shapes import Array, Float, Int
from anyband.tasks.feature_records import Pool
from anyband.tasks.readings import BandReading, joined_batches

__all__ = ["SetItem", "common_size", "image_vectors", "joined_sets", "pooled_sets", "set_batch", "set_maps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SetItem:
    """One image of a set as network input."""

    reading: BandReading
    """How its bands are read. Images of one reading are projected together."""
    image: ImageBatch
    """The image, alone."""


def common_size(shapes: Sequence[tuple[int, int]], *, asked: int | None, config: EncoderConfig) -> int | None:
    """Choose the side to which the images of a set are resized; None: they stay as they are.

    Args:
        shapes: rows and columns of each image, at least one.
        asked: side asked for, pixels.
        config: of the network.

    Raises:
        InputError: a side that the patch size doesn't divide, or an image as large as any that is smaller than a patch.
    """
    patch = config.patch_size
    if all(min(shape) < patch for shape in shapes):
        height, width = shapes[0]
        raise InputError(
            f"images of {height} × {width} pixels are smaller than one patch of {patch} × {patch}; use larger images"
        )
    if asked is not None and (asked < patch or asked % patch):
        raise InputError(f"img_size {asked} is not a multiple of the patch size {patch}")
    differ = len(set(shapes)) > 1
    if asked is None and (differ or any(side % patch for side in shapes[0])):
        return config.img_size
    return asked


def set_batch(groups: Sequence[ImageBatch], rows: Int[Array, "set slot"], metadata: SetMetadata | None) -> SetBatch:
    """Make a batch of sets that are encoded whole: nothing is hidden, so it doesn't matter which source is whose.

    Args:
        groups: the images, those of one reading together.
        rows: where each image of each set stands when the groups are laid one after the other.
        metadata: of each image; None: nothing is known.
    """
    return SetBatch(
        groups=tuple(groups),
        rows=torch.from_numpy(rows),
        same_source=torch.ones(rows.shape, dtype=torch.bool),
        first_slot=torch.zeros(len(rows), dtype=torch.int64),
        metadata=metadata,
        partnered=False,
    )


def joined_sets(sets: Sequence[Sequence[SetItem]], metadata: SetMetadata | None) -> SetBatch:
    """Put sets of equally many images into one batch.

    Args:
        sets: the images of each.
        metadata: of each image; None: nothing is known.
    """
    flat = [item for images in sets for item in images]
    rows, groups, first = np.zeros(len(flat), dtype=np.int64), [], 0
    for reading in dict.fromkeys(item.reading for item in flat):
        members = [position for position, item in enumerate(flat) if item.reading is reading]
        groups.append(joined_batches([flat[position].image for position in members]))
        rows[members] = first + np.arange(len(members))
        first += len(members)
    return set_batch(groups, rows.reshape(len(sets), -1), metadata)


def image_vectors(output: SetOutput) -> Float[Tensor, "set slot width"]:
    """Make one vector an image of its own patches: the mean of those that are not hidden; NaN where all are."""
    if output.hidden is None:
        return output.tokens.mean(dim=2)
    seen = (~output.hidden)[..., None].to(output.tokens.dtype)
    return (output.tokens * seen).sum(dim=2) / seen.sum(dim=2)


def pooled_sets(output: SetOutput, pool: Pool) -> Float[Tensor, "set width"]:
    """Make one vector a set: its CLS token, or the mean over its images of their means."""
    return output.cls if pool == "cls" else image_vectors(output).nanmean(dim=1)


def set_maps(output: SetOutput) -> Float[Tensor, "set slot width row col"]:
    """Lay the patch features of each image out as a map, NaN where a patch is hidden."""
    rows, cols = output.grid
    tokens = output.tokens
    if output.hidden is not None:
        tokens = tokens.masked_fill(output.hidden[..., None], torch.nan)
    return rearrange(tokens, "s k (h w) d -> s k d h w", h=rows, w=cols)
