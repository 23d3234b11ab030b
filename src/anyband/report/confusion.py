"""A confusion matrix as a picture: which class is taken for which."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from anyband.errors import InputError
from anyband.report.figures import figure_png, new_figure
from anyband.report.texts import count_text, shortened
from anyband.shapes import Array, Float, Int

__all__ = ["confusion_png"]

_COLOURS = "Blues"
# chosen: on darker cells black text has a contrast under 4.5.
_DARK_SHARE = 0.5
# chosen: a share under it would be written as 0.
_LEAST_PERCENT = 0.5
_LONGEST_NAME = 28


def confusion_png(
    counts: Int[Array, "class class"], names: Sequence[str], *, cells: Literal["counts", "percent"] = "counts"
) -> bytes:
    """Draw a confusion matrix; colours are shares of the true class, so rare classes are seen as well as frequent ones.

    Args:
        counts: true classes in rows, predicted ones in columns.
        names: of the classes.
        cells: what is written in the cells; those of no count stay empty.

    Raises:
        InputError: another number of names.
    """
    if counts.shape != (len(names), len(names)):
        raise InputError(
            f"a confusion matrix of shape {counts.shape} needs {counts.shape[0]} names, found {len(names)}"
        )
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    cell_in, font = _cell_size(len(names))
    shown = [shortened(name, _LONGEST_NAME) for name in names]
    # A letter is about 0.6 of its height, of which 72 make an inch.
    label_in = max(len(name) for name in shown) * 0.6 * _label_font(font) / 72 + 0.5
    side_in = cell_in * len(names)
    figure = new_figure(width_in=side_in + label_in + 0.6, height_in=side_in + 0.75 * label_in + 0.4)
    axes = figure.subplots()
    axes.imshow(shares, cmap=_COLOURS, vmin=0.0, vmax=1.0)
    _write_cells(axes, counts, shares, font=font, cells=cells)
    labels = [f"{name}  {count_text(int(total))}" for name, total in zip(shown, totals, strict=True)]
    _label(axes, labels, shown, font=_label_font(font))
    return figure_png(figure)


def _cell_size(num_classes: int) -> tuple[float, float]:
    """Give the edge of a cell in inches and the height of its text in points.

    Up to about 20 classes the picture fits a page as it is; more make it larger, to be looked at by itself.
    """
    edges = ((6, 0.75, 9.5), (10, 0.6, 9.0), (20, 0.43, 8.0))
    return next(((edge, font) for most, edge, font in edges if num_classes <= most), (0.34, 7.5))


def _label_font(font: float) -> float:
    return max(font, 8.5)


def _write_cells(
    axes: Axes,
    counts: Int[Array, "class class"],
    shares: Float[Array, "class class"],
    *,
    font: float,
    cells: Literal["counts", "percent"],
) -> None:
    for row, column in np.argwhere(counts > 0).tolist():
        share = float(shares[row, column])
        text = count_text(int(counts[row, column])) if cells == "counts" else _percent(share)
        colour = "white" if share > _DARK_SHARE else "black"
        weight = "bold" if row == column else "normal"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour, weight=weight)


def _percent(share: float) -> str:
    return "<1" if 100 * share < _LEAST_PERCENT else f"{100 * share:.0f}"


def _label(axes: Axes, rows: Sequence[str], columns: Sequence[str], *, font: float) -> None:
    positions = range(len(rows))
    axes.set_yticks(positions, rows, fontsize=font)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(rows) <= 20 else {"rotation": 90}
    axes.set_xticks(positions, columns, fontsize=font, **turned)
    axes.set_ylabel("true, and how many", fontsize=10)
    axes.set_xlabel("predicted", fontsize=10)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows) - 1), minor=True)
    axes.grid(which="minor", color="0.92", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color("0.8")
