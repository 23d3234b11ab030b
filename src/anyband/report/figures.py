"""The frame of every drawing: one figure without global state, written as PNG bytes."""

import io

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from anyband.errors import InputError
from anyband.shapes import Array, Float

__all__ = ["MISSING_GREY", "drawable", "figure_png", "new_figure", "show_picture"]

MISSING_GREY = 0.82
"""Grey level of places without data; chosen: lighter than most ground, darker than the page."""

# chosen: sharp on a screen at 960 px width, and still under a megabyte for a panel of photographs.
_DOTS_PER_INCH = 110


def new_figure(*, width_in: float, height_in: float) -> Figure:
    """Make an empty figure of the given size in inches, with the Agg canvas and no pyplot state."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Figure) -> bytes:
    """Write a figure as PNG. Equal figures give equal bytes: no date and no version is stored."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def drawable(picture: Float[Array, "colour row col"]) -> Float[Array, "row col 3"]:
    """Bring a picture into the order that matplotlib draws. Missing values become grey.

    Args:
        picture: one (grey) or three (red, green, blue) planes in [0, 1]; NaN where there is no data.

    Raises:
        InputError: neither one nor three planes.
    """
    if picture.shape[0] not in (1, 3):
        raise InputError(f"a picture has 1 or 3 planes, found {picture.shape[0]}; choose the planes to show")
    planes = picture.repeat(3, axis=0) if picture.shape[0] == 1 else picture
    shown = planes.transpose(1, 2, 0).clip(0.0, 1.0)
    shown[~(shown == shown).all(axis=-1)] = MISSING_GREY
    return shown


def show_picture(axes: Axes, picture: Float[Array, "colour row col"]) -> None:
    """Draw a picture without ticks; its pixels stay square and are not smoothed."""
    axes.imshow(drawable(picture), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
