"""Panels that show what a masked autoencoder saw and what it made of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from matplotlib.patches import Rectangle

from anyband.errors import InputError
from anyband.report.figures import figure_png, new_figure, show_picture
from anyband.shapes import Array, Bool, Float

__all__ = ["PREDICTED_NOTE", "RECONSTRUCTION_NOTE", "PanelImages", "hide_patches", "reconstruction_panel"]

RECONSTRUCTION_NOTE = (
    "Every reconstructed patch is de-normalised with the mean and deviation of the target patch itself, "
    "so its brightness and contrast are given; the network predicts the structure inside."
)
"""What a reader must know about a reconstruction whose patches were normalised; stands under its panel."""
PREDICTED_NOTE = (
    "Every reconstructed patch is predicted whole, with its brightness and contrast; nothing of the target is used. "
    "Colours are stretched as in the original beside it."
)
"""What a reader may know about a reconstruction with values of its own; stands under its panel."""

# chosen: darker than land in a stretched picture, so that what is hidden can't be taken for ground.
_HIDDEN_GREY = 0.25
# chosen: seen on vegetation, on water and on radar in false colour.
_OUTLINE = "#ff9a00"
_CELL_IN = 1.7
_ROW_TITLE_IN = 1.15
_COLUMN_TITLES = ("original", "what the encoder saw", "reconstruction")


@dataclass(frozen=True, kw_only=True)
class PanelImages:
    """A block of a panel, a row for each sample: samples of one sensor of a pair, or the images of one set."""

    title: str
    """Stands above: the name of the sensor and the bands shown, or of the place."""
    original: Float[Array, "sample colour row col"]
    """The images, in [0, 1]; NaN where there is no data."""
    seen: Float[Array, "sample colour row col"]
    """The images with the patches hidden that the encoder did not see; see `hide_patches`."""
    reconstruction: Float[Array, "sample colour row col"]
    """The decoder's images, in [0, 1]."""
    row_titles: tuple[str, ...] = ()
    """Stand beside the rows, some lines each; empty: none."""
    outlined: Bool[Array, "sample down across"] | None = None
    """Patches to outline in what the encoder saw, on the grid of patches; None: none."""

    def __post_init__(self) -> None:
        if not len(self.original):
            raise InputError(f"the pictures of '{self.title}' need at least one sample, found none")
        if self.row_titles and len(self.row_titles) != len(self.original):
            raise InputError(
                f"the pictures of '{self.title}' have {len(self.original)} rows and {len(self.row_titles)} row "
                "titles; give one for each row, or none"
            )


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


def reconstruction_panel(
    blocks: Sequence[PanelImages], *, title: str = "", note: str = RECONSTRUCTION_NOTE, across: int | None = None
) -> bytes:
    """Draw a panel of blocks with three columns each: the original, what the encoder saw, and the reconstruction.

    Args:
        blocks: the sensors of a pair, or some sets; equally many rows each.
        title: stands above the panel, for example the step.
        note: stands under the pictures.
        across: blocks beside each other, the others below; None: all.

    Returns:
        A PNG.
    """
    counts = {len(images.original) for images in blocks}
    if len(counts) != 1:
        raise InputError(f"the blocks of a panel need equally many rows, found {sorted(counts) or 'no block'}")
    columns = min(len(blocks), across or len(blocks))
    lines = -(-len(blocks) // columns)
    width_in = 3 * _CELL_IN + (_ROW_TITLE_IN if any(images.row_titles for images in blocks) else 0.0)
    # Above the pictures of a block stand its title and those of the columns.
    height_in = _CELL_IN * counts.pop() + 0.45
    figure = new_figure(width_in=width_in * columns + 0.2, height_in=height_in * lines + 0.5)
    places = figure.subfigures(lines, columns, squeeze=False, wspace=0.04).flat
    for images, block in zip(blocks, places, strict=False):
        _draw_block(images, block)
    if title:
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    figure.supxlabel(note, fontsize=8, color="0.25", wrap=True)
    return figure_png(figure)


def _draw_block(images: PanelImages, block: SubFigure) -> None:
    block.suptitle(images.title, fontsize=10, fontweight="bold")
    num_rows = len(images.original)
    grid = block.subplots(num_rows, 3, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.02})
    for column, pictures in enumerate((images.original, images.seen, images.reconstruction)):
        grid[0, column].set_title(_COLUMN_TITLES[column], fontsize=8.5)
        for row in range(num_rows):
            show_picture(grid[row, column], pictures[row])
    for row, title in enumerate(images.row_titles):
        grid[row, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8, linespacing=1.4)
    if images.outlined is not None:
        for row in range(num_rows):
            _outline(grid[row, 1], images.outlined[row], images.seen.shape[2:])


def _outline(axes: Axes, outlined: Array, size: tuple[int, ...]) -> None:
    """Draw the edges of some patches just inside them, so that neighbours keep one each."""
    height, width = size[0] / outlined.shape[0], size[1] / outlined.shape[1]
    for down, across in np.argwhere(outlined).tolist():
        # A pixel's centre has whole coordinates, so the picture begins at −0.5.
        corner = ((across + 0.06) * width - 0.5, (down + 0.06) * height - 0.5)
        edge = Rectangle(corner, 0.88 * width, 0.88 * height, fill=False, edgecolor=_OUTLINE, linewidth=0.9)
        axes.add_patch(edge)
