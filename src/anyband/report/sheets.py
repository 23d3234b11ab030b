"""Sheets of pictures with a few lines under each: what a network got wrong, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from anyband.errors import InputError
from anyband.report.figures import figure_png, new_figure, show_picture
from anyband.report.texts import shortened
from anyband.shapes import Array, Float

__all__ = ["SheetPicture", "sheet_png"]

_CELL_IN = 2.25
_LINE_IN = 0.18
_GAP_IN = 0.12
_FONT = 8.5
# chosen: letters of that height that fit under a picture.
_LONGEST_LINE = 30
_MOST_ASPECT = 1.6
_DARK_LINES = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SheetPicture:
    """One picture of a sheet."""

    picture: Float[Array, "colour _ _"]
    """In [0, 1], any size; NaN where there is no data."""
    lines: tuple[str, ...]
    """What stands under it; the first is stressed."""


def sheet_png(pictures: Sequence[SheetPicture], *, num_columns: int = 4) -> bytes:
    """Draw pictures in rows, each with its lines below; long lines are cut in the middle.

    Args:
        pictures: at least one.
        num_columns: pictures in a row.
    """
    if not pictures:
        raise InputError("a sheet needs at least one picture, found none")
    columns = min(num_columns, len(pictures))
    rows = -(-len(pictures) // columns)
    num_lines = max(len(one.lines) for one in pictures)
    # One tall picture does not make all cells tall.
    aspect = min(max(one.picture.shape[1] / one.picture.shape[2] for one in pictures), _MOST_ASPECT)
    picture_in, text_in = _CELL_IN * aspect, num_lines * _LINE_IN + _GAP_IN
    figure = new_figure(width_in=_CELL_IN * columns, height_in=(picture_in + text_in) * rows)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(picture_in, text_in) * rows)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        below.set_axis_off()
        if index >= len(pictures):
            above.set_axis_off()
            continue
        show_picture(above, pictures[index].picture)
        above.set_anchor("SW")
        _write_lines(below, pictures[index].lines)
    return figure_png(figure)


def _write_lines(axes: Axes, lines: Sequence[str]) -> None:
    for index, line in enumerate(lines):
        text = axes.annotate(
            shortened(line, _LONGEST_LINE),
            xy=(0.0, 1.0),
            xycoords="axes fraction",
            xytext=(0.0, -1.35 * _FONT * index),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=_FONT,
            weight="bold" if index == 0 else "normal",
            color="black" if index < _DARK_LINES else "0.35",
        )
        # The room for the lines is made already.
        text.set_in_layout(False)
