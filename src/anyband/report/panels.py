"""Panels that show what a masked autoencoder saw and what it made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyband.errors import InputError
from anyband.report.figures import figure_png, new_figure, show_picture
from anyband.shapes import Array, Bool, Float

__all__ = ["RECONSTRUCTION_NOTE", "PanelImages", "hide_patches", "reconstruction_panel"]

RECONSTRUCTION_NOTE = (
    "Every reconstructed patch is de-normalised with the mean and deviation of the target patch itself, "
    "so its brightness and contrast are given; the network predicts the structure inside."
)
"""What a reader must know about a reconstruction; stands under every panel."""

# chosen: darker than land in a stretched picture, so that what is hidden can't be taken for ground.
_HIDDEN_GREY = 0.25
_CELL_IN = 1.7
_COLUMN_TITLES = ("original", "what the encoder saw", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class PanelImages:
    """Pictures of one sensor of a pair, for one or more samples."""

    title: str
    """Name of the sensor and the bands shown."""
    original: Float[Array, "sample colour row col"]
    """The images, in [0, 1]; NaN where there is no data."""
    seen: Float[Array, "sample colour row col"]
    """The images with the patches hidden that the encoder did not see; see `hide_patches`."""
    reconstruction: Float[Array, "sample colour row col"]
    """The decoder's images, in [0, 1]."""

    def __post_init__(self) -> None:
        if not len(self.original):
            raise InputError(f"the pictures of '{self.title}' need at least one sample, found none")


def hide_patches(
    pictures: Float[Array, "sample colour row col"], hidden: Bool[Array, "sample token"], *, patch_size: int
) -> Float[Array, "sample colour row col"]:
    """Paint the hidden patches dark grey and leave the others as they are.

    Args:
        pictures: in [0, 1].
        hidden: True where the encoder did not see the patch; tokens row by row.
        patch_size: edge of a patch in pixels; divides rows and columns.
    """
    rows, cols = pictures.shape[2] // patch_size, pictures.shape[3] // patch_size
    if rows * cols != hidden.shape[1] or (rows * patch_size, cols * patch_size) != pictures.shape[2:]:
        size = f"{pictures.shape[2]} × {pictures.shape[3]} px"
        raise InputError(f"{hidden.shape[1]} tokens of {patch_size} px do not cover {size}")
    grid = hidden.reshape(-1, rows, cols).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    return np.where(grid[:, None], np.asarray(_HIDDEN_GREY, pictures.dtype), pictures)


def reconstruction_panel(sensors: Sequence[PanelImages], *, title: str = "") -> bytes:
    """Draw a panel with a row for each sample.

    Each sensor has three columns: the original, what the encoder saw of it, and the reconstruction.

    Args:
        sensors: the sensors of the pair, equally many samples each.
        title: stands above the panel, for example the step.

    Returns:
        A PNG. `RECONSTRUCTION_NOTE` stands under the pictures.
    """
    counts = {images.original.shape[0] for images in sensors}
    if len(counts) != 1:
        raise InputError(f"the sensors of a panel need equally many samples, found {sorted(counts) or 'no sensor'}")
    num_samples, num_columns = counts.pop(), 3 * len(sensors)
    figure = new_figure(width_in=_CELL_IN * num_columns + 0.2, height_in=_CELL_IN * num_samples + 0.95)
    blocks = figure.subfigures(1, len(sensors), squeeze=False, wspace=0.04)[0]
    for images, block in zip(sensors, blocks, strict=True):
        block.suptitle(images.title, fontsize=10, fontweight="bold")
        grid = block.subplots(num_samples, 3, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
        columns = (images.original, images.seen, images.reconstruction)
        for column, pictures in enumerate(columns):
            grid[0, column].set_title(_COLUMN_TITLES[column], fontsize=8.5)
            for row in range(num_samples):
                show_picture(grid[row, column], pictures[row])
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.supxlabel(RECONSTRUCTION_NOTE, fontsize=8, color="0.25", wrap=True)
    return figure_png(figure)
