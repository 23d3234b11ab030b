"""Registered augmentation in batches: flips, quarter turns and one crop of ground for all images of a sample.

A crop is drawn in whole pixels of the coarser image, so images of every resolution are cut along the same
line on the ground. `resampling` brings what is cut to the network's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyband.errors import RecipeError
from anyband.randomness import uniform
from anyband.shapes import Array, Bool, Float, Int

__all__ = [
    "AugmentOptions",
    "Augmentation",
    "coarser_grid",
    "draw_augmentation",
    "input_corners",
    "input_gsd_m",
    "whole_footprint",
]

# Row and column of the upper left, upper right, lower right and lower left corner, as shares of an image.
_CORNERS = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])


@dataclass(frozen=True, kw_only=True)
class AugmentOptions:
    """What augmentation may do. The defaults are the paper's (SMARTIES, section 4)."""

    enabled: bool = True
    """False: the whole footprint, neither flipped nor turned."""
    crop_area: tuple[float, float] = (0.25, 1.0)
    """Least and largest share of the footprint's area in a crop; crops are square."""
    flips: bool = True
    """Mirror up-down and left-right, each for half of the samples."""
    quarter_turns: bool = True
    """Turn by 0°, 90°, 180° or 270°, each for a quarter of the samples."""

    def __post_init__(self) -> None:
        least, largest = self.crop_area
        if not 0.0 < least <= largest <= 1.0:
            raise RecipeError(f"crop_area needs 0 < least <= largest <= 1, found {least:g} to {largest:g}")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to each sample: cut `first` to `first + size` out of `grid`, transpose, then flip."""

    grid: tuple[int, int]
    """Rows and columns of the grid that boxes are counted on: the coarsest image's."""
    first: Int[Array, "sample 2"]
    """First row and column of each box."""
    size: Int[Array, "sample 2"]
    """Rows and columns of each box."""
    transposed: Bool[Array, "sample"]
    """Whether rows and columns change places."""
    flipped: Bool[Array, "sample 2"]
    """Whether rows, and columns, run backwards afterwards."""

    def of(self, samples: Int[Array, " image"]) -> "Augmentation":
        """Make the augmentation of images: that of the sample which each belongs to.

        Args:
            samples: positions in this augmentation; each may stand several times.
        """
        return Augmentation(
            grid=self.grid,
            first=self.first[samples],
            size=self.size[samples],
            transposed=self.transposed[samples],
            flipped=self.flipped[samples],
        )


def coarser_grid(*shapes: tuple[int, int]) -> tuple[int, int]:
    """Find the grid that crops of images of one footprint are aligned to: the fewest rows and columns.

    Args:
        shapes: rows and columns of the images, at least one.
    """
    return min(rows for rows, _ in shapes), min(cols for _, cols in shapes)


def whole_footprint(count: int, *, grid: tuple[int, int]) -> Augmentation:
    """Make the augmentation that changes nothing: each sample whole, as it lies."""
    return Augmentation(
        grid=grid,
        first=np.zeros((count, 2), dtype=np.int64),
        size=np.tile(np.array(grid, dtype=np.int64), (count, 1)),
        transposed=np.zeros(count, dtype=bool),
        flipped=np.zeros((count, 2), dtype=bool),
    )


def draw_augmentation(
    options: AugmentOptions, *, seed: int, step: int, samples: Sequence[int], grid: tuple[int, int]
) -> Augmentation:
    """Draw one augmentation a sample. A sample's draw does not depend on the others in the batch.

    Args:
        options: what may be done.
        seed: of the run.
        step: training step.
        samples: identities of the samples.
        grid: rows and columns that crops are aligned to, see `coarser_grid`. What a sample draws depends on them, so
            for batches of changing images take the fewest of all that may come.

    Returns:
        The same for every image of a sample; `apply` it to each.
    """
    if not options.enabled:
        return whole_footprint(len(samples), grid=grid)
    draws = uniform(seed, step=step, samples=samples, purpose="augment", shape=(6,))
    first, size = _draw_boxes(options.crop_area, draws[:, :3], grid)
    coins = draws[:, 3:6] < 0.5
    turned = coins[:, 0] if options.quarter_turns else np.zeros(len(samples), dtype=bool)
    flipped = coins[:, 1:]
    if not options.flips:
        # Without mirror images only the four turns remain: a turn by 90° is a transposition and one flip.
        half = coins[:, 1] & options.quarter_turns
        flipped = np.stack([half, half ^ turned], axis=1)
    return Augmentation(grid=grid, first=first, size=size, transposed=turned, flipped=flipped)


def input_corners(
    augmentation: Augmentation, corners_deg: Float[Array, "sample image 4 2"]
) -> Float[Array, "sample image 4 2"]:
    """Find where the corners of augmented images lie. Between the corners of a chip, positions are bilinear.

    Args:
        augmentation: of each sample.
        corners_deg: longitude and latitude of the upper left, upper right, lower right and lower left corner of each
            image as it was before; NaN where unknown.

    Returns:
        The same of the images that `apply` gives: crop, transposition and flips are in it. Longitudes from −180 to 180.
    """
    row, col = _corners_before(augmentation)
    weights = np.stack([(1 - row) * (1 - col), (1 - row) * col, row * col, row * (1 - col)], axis=-1)
    lon, lat = corners_deg[..., 0], corners_deg[..., 1]
    # Across longitude ±180 the numbers jump, the ground does not: count on from the first corner.
    step = lon - lon[..., :1]
    lon = lon - 360.0 * (step > 180.0) + 360.0 * (step < -180.0)
    lon, lat = (np.einsum("scw,siw->sic", weights, values) for values in (lon, lat))
    lon = lon + 360.0 * (lon < -180.0) - 360.0 * (lon > 180.0)
    # Weights add up to 1 but for rounding, which must not pass the pole.
    return np.stack([lon, lat.clip(-90.0, 90.0)], axis=-1)


def input_gsd_m(
    augmentation: Augmentation,
    gsd_m: Float[Array, "sample image"],
    shape_px: Int[Array, "sample image 2"],
    *,
    img_size: int,
) -> Float[Array, "sample image"]:
    """Compute how large a pixel of augmented images is on the ground: the root of its area, metres.

    Args:
        augmentation: of each sample.
        gsd_m: ground sampling distance of each image as it was before; NaN where unknown.
        shape_px: rows and columns of each image as it was before.
        img_size: side of the images that `apply` gives, pixels.
    """
    cut_px = shape_px * (augmentation.size / np.array(augmentation.grid))[:, None, :]
    return np.asarray(gsd_m * np.sqrt(cut_px.prod(axis=-1)) / img_size)


def _corners_before(augmentation: Augmentation) -> tuple[Float[Array, "sample 4"], Float[Array, "sample 4"]]:
    """Tell where the corners of the result were: the shares of all rows and columns above and left of each."""
    flipped = augmentation.flipped[:, :, None]
    row, col = np.moveaxis(np.where(flipped, 1 - _CORNERS.T, _CORNERS.T), 1, 0)
    turned = augmentation.transposed[:, None]
    inside = np.stack([np.where(turned, col, row), np.where(turned, row, col)], axis=1)
    before = augmentation.first[:, :, None] + augmentation.size[:, :, None] * inside
    return before[:, 0] / augmentation.grid[0], before[:, 1] / augmentation.grid[1]


def _draw_boxes(
    crop_area: tuple[float, float], draws: Float[Array, "sample 3"], grid: tuple[int, int]
) -> tuple[Int[Array, "sample 2"], Int[Array, "sample 2"]]:
    least, largest = crop_area
    area = (least + (largest - least) * draws[:, 0]) * grid[0] * grid[1]
    side = np.clip(np.round(np.sqrt(area)), 1, min(grid)).astype(np.int64)
    size = np.stack([side, side], axis=1)
    room = np.array(grid, dtype=np.int64) - size + 1
    return np.floor(draws[:, 1:] * room).astype(np.int64), size
