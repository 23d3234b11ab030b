"""Maps beside each other: the image, its labels and what was predicted, in one set of colours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anyband.errors import InputError
from anyband.report.figures import MISSING_GREY, figure_png, new_figure, show_picture
from anyband.report.maps import ClassColours
from anyband.report.texts import shortened
from anyband.shapes import Array, Float, Int, Num

__all__ = ["MapRow", "class_maps_png", "number_maps_png"]

# chosen: few maps are large, and many fit a page with readable titles.
_CELLS_IN = 9.0
_LARGEST_CELL_IN = 2.6
_SMALLEST_CELL_IN = 1.7
_LEGEND_IN = 1.7
_LINE_IN = 0.17
# A letter is about 0.6 of its height, of which 72 make an inch.
_LETTERS_PER_IN = 72 / (0.6 * 8.5)
_FONT = 8.5
_COLOUR_SCALE = "viridis"
# chosen: a few odd pixels do not take the whole scale.
_PERCENTILES = (1.0, 99.0)
# chosen: colours of all classes that fit beside two rows of maps.
_LONGEST_NAME = 26


@dataclass(frozen=True, kw_only=True, eq=False)
class MapRow:
    """One sample."""

    title: str
    """Its name, and its score where there is one."""
    pictures: tuple[Float[Array, "colour _ _"], ...]
    """Its images in [0, 1]; NaN where there is no data."""
    picture_titles: tuple[str, ...]
    """What each image is; one or two lines."""
    truth: Num[Array, "_ _"]
    """Labels: class numbers, −1 where there is none; or numbers, NaN where there is none."""
    predicted: tuple[Num[Array, "_ _"], ...]
    """What was predicted, by each kind of features."""
    predicted_titles: tuple[str, ...]
    """Names of the features."""


def class_maps_png(rows: Sequence[MapRow], colours: ClassColours) -> bytes:
    """Draw a row for each sample: images, labels, predictions; the legend names the classes that occur.

    Args:
        rows: at least one; equally many maps each.
        colours: of the classes.
    """
    figure, grid = _frame(rows)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, [_coloured(one, colours) for one in (row.truth, *row.predicted)])
    _class_legend(figure, rows, colours)
    return figure_png(figure)


def number_maps_png(rows: Sequence[MapRow], *, label: str = "") -> bytes:
    """Draw a row for each sample: images, true numbers, predicted ones; all on one scale.

    Args:
        rows: at least one; equally many maps each.
        label: of the scale, with its unit.
    """
    figure, grid = _frame(rows)
    known = np.concatenate([one[np.isfinite(one)].ravel() for row in rows for one in (row.truth, *row.predicted)])
    low, high = np.percentile(known, _PERCENTILES) if len(known) else (0.0, 1.0)
    scale = ScalarMappable(Normalize(float(low), float(high)), _COLOUR_SCALE)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, [_scaled(one, scale) for one in (row.truth, *row.predicted)])
    bar = figure.colorbar(
        scale, ax=[axes for row in grid for axes in row], shrink=min(1.0, 1.6 / len(rows)), extend="both"
    )
    bar.set_label(label, fontsize=_FONT)
    bar.ax.tick_params(labelsize=8.5)
    return figure_png(figure)


def _frame(rows: Sequence[MapRow]) -> tuple[Figure, list[list[Axes]]]:
    counts = {len(row.pictures) + 1 + len(row.predicted) for row in rows}
    if len(counts) != 1:
        raise InputError(f"rows of maps need equally many maps, found {sorted(counts) or 'no row'}")
    columns = counts.pop()
    cell_in = min(max(_CELLS_IN / columns, _SMALLEST_CELL_IN), _LARGEST_CELL_IN)
    aspect = min(max(row.truth.shape[0] / row.truth.shape[1] for row in rows), 2.0)
    height_in = (cell_in * aspect + 2 * _LINE_IN + 0.1) * len(rows) + 0.2
    figure = new_figure(width_in=cell_in * columns + _LEGEND_IN, height_in=height_in)
    return figure, figure.subplots(len(rows), columns, squeeze=False).tolist()


def _draw_row(grid: Sequence[Axes], row: MapRow, maps: Sequence[Float[Array, "colour _ _"]]) -> None:
    titles = (*row.picture_titles, "labels", *row.predicted_titles)
    letters = int(min(max(_CELLS_IN / len(titles), _SMALLEST_CELL_IN), _LARGEST_CELL_IN) * _LETTERS_PER_IN)
    for axes, picture, title in zip(grid, (*row.pictures, *maps), titles, strict=True):
        show_picture(axes, picture)
        lines = [shortened(line, letters) for line in title.splitlines()]
        axes.set_title("\n".join(lines), fontsize=_FONT, linespacing=1.1)
    grid[0].set_ylabel(shortened(row.title, letters), fontsize=_FONT)


def _coloured(classes: Num[Array, "row col"], colours: ClassColours) -> Float[Array, "3 row col"]:
    table = np.array([*colours.colours, (np.nan,) * 3])
    # The last row is for pixels without a class.
    return table[np.where(classes < 0, len(colours.colours), classes).astype(np.int64)].transpose(2, 0, 1)


def _scaled(numbers: Num[Array, "row col"], scale: ScalarMappable) -> Float[Array, "3 row col"]:
    known = np.isfinite(numbers)
    colours = np.asarray(scale.to_rgba(np.where(known, numbers, 0.0)))[..., :3]
    return np.where(known[..., None], colours, np.nan).transpose(2, 0, 1)


def _class_legend(figure: Figure, rows: Sequence[MapRow], colours: ClassColours) -> None:
    from matplotlib.patches import Patch

    values: Int[Array, "value"] = np.unique(
        np.concatenate([np.asarray(one).ravel() for row in rows for one in (row.truth, *row.predicted)])
    ).astype(np.int64)
    handles = [
        Patch(color=colours.colours[index], label=shortened(colours.names[index], _LONGEST_NAME))
        for index in values.tolist()
        if index >= 0
    ]
    if (values < 0).any():
        handles.append(Patch(color=(MISSING_GREY,) * 3, label="no label"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8.5)
