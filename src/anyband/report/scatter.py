"""Predicted numbers over true ones."""

import numpy as np
from matplotlib.axes import Axes

from anyband.errors import InputError
from anyband.report.figures import figure_png, new_figure
from anyband.shapes import Array, Float

__all__ = ["scatter_png"]

_COLOUR = "#0072B2"
# chosen: more points hide each other, so their density is drawn instead.
_MOST_POINTS = 2000


def scatter_png(truth: Float[Array, "sample"], predicted: Float[Array, "sample"], *, label: str = "") -> bytes:
    """Draw each sample at its true and predicted number, with the line on which both are equal.

    Args:
        truth: the numbers.
        predicted: what was found, in the same unit.
        label: of both axes, with the unit.
    """
    if not len(truth) or len(truth) != len(predicted):
        raise InputError(f"{len(truth)} true and {len(predicted)} predicted numbers make no picture")
    figure = new_figure(width_in=5.0, height_in=4.6)
    axes: Axes = figure.subplots()
    both = np.concatenate([truth, predicted])
    low, high = float(both.min()), float(both.max())
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color="0.55", linewidth=1.0)
    if len(truth) > _MOST_POINTS:
        drawn = axes.hexbin(truth, predicted, gridsize=50, bins="log", cmap="viridis", mincnt=1, extent=(*ends, *ends))
        figure.colorbar(drawn, ax=axes, label="samples", shrink=0.8)
    else:
        axes.scatter(truth, predicted, s=14, alpha=0.6, color=_COLOUR, linewidths=0)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(f"true {label}".strip(), fontsize=9)
    axes.set_ylabel(f"predicted {label}".strip(), fontsize=9)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure_png(figure)
