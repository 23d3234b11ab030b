"""The three bands of each image that a stem of three reads: drawn at random in training, fixed in use.

In use, `assign` and so `read_bands` choose by `stem_bands`. In training `SetPreparer` standardises all bands of an
array and takes three of each image: those that `draw_stem_bands` draws, or, where it only looks, those of `stem_bands`.
The projection and the reconstruction see three bands of three ranges, with `mixing` the identity.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyband.data.batch import RawSets
from anyband.randomness import generator
from anyband.sensors.stem import stem_bands
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["NUM_STEM_BANDS", "draw_stem_bands", "drawn_for_groups", "stem_bands", "take_stem_bands"]

NUM_STEM_BANDS = 3
"""Bands that a stem reads."""


def draw_stem_bands(
    num_bands: Int[Array, "set slot"], *, seed: int, step: int, samples: Sequence[int]
) -> Int[Array, "set slot 3"]:
    """Draw the bands of each image in a training step: a function of (seed, step, sample, slot).

    Three different ones in random order; where an image has fewer, each stands there at least once.

    Args:
        num_bands: of each image, at least 1.
        seed: of the run.
        step: training step.
        samples: identity of each set.

    Returns:
        Position of a band for each position of the stem.

    Source:
        The released code of A²-MAE (arXiv 2406.08079) draws three bands at random for one shared stem. That they are
        different and in random order, and what happens to fewer than three, is our reading.
    """
    drawn = np.empty((*num_bands.shape, NUM_STEM_BANDS), dtype=np.int64)
    for row, sample in enumerate(samples):
        draws = generator(seed, step=step, sample=sample, purpose="bands of the stem")
        for slot, count in enumerate(num_bands[row]):
            order = draws.permutation(int(count))
            drawn[row, slot] = order[np.arange(NUM_STEM_BANDS) % count]
    return drawn


def drawn_for_groups(raw: RawSets, *, seed: int, step: int) -> tuple[Int[Array, "_ 3"], ...]:
    """Draw the bands of every image of a batch, and give them to each group in its own order.

    Args:
        raw: sets as they were read.
        seed: of the run.
        step: training step.

    Returns:
        One array for each group, one row for each of its images.
    """
    of_image = np.concatenate([np.full(len(group.pixels), group.pixels.shape[1]) for group in raw.groups])
    drawn = draw_stem_bands(of_image[raw.rows], seed=seed, step=step, samples=raw.draw.samples.tolist())
    in_groups = np.empty((len(of_image), NUM_STEM_BANDS), dtype=np.int64)
    in_groups[raw.rows] = drawn
    ends = np.cumsum([len(group.pixels) for group in raw.groups])
    return tuple(np.split(in_groups, ends[:-1]))


def take_stem_bands(
    pixels: Float[Tensor, "batch band row col"],
    valid: Bool[Tensor, "batch band row col"] | None,
    bands: Int[Array, "batch 3"],
) -> tuple[Float[Tensor, "batch 3 row col"], Bool[Tensor, "batch 3 row col"] | None]:
    """Take three bands of each image, others of each.

    Args:
        pixels: with all bands.
        valid: which have data; None: all.
        bands: of each image.
    """
    image = torch.arange(len(pixels), device=pixels.device)[:, None]
    chosen = torch.from_numpy(bands).to(pixels.device)
    return pixels[image, chosen], None if valid is None else valid[image, chosen]
