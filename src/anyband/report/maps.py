"""Pictures of maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anyband.arrays import Array, Float, Int, Num
from anyband.errors import InputError
from anyband.report.figures import MISSING_GREY, figure_png, new_figure, shortened, show_picture

__all__ = [
    "Colours",
    "MapRow",
    "PcaColours",
    "class_colours",
    "class_maps_png",
    "fit_pca_colours",
    "number_maps_png",
    "pca_picture",
    "picture_png",
    "pictures_png",
    "sheet_png",
]

_NUM_COLOURS = 3
# chosen: the share cut off at each end of a component, so that a few odd patches do not take the whole scale.
_STRETCH_PERCENTILES = (2.0, 98.0)

# Source: Okabe and Ito, "Color Universal Design", 2008 (readable with colour blindness), without black.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


@dataclass(frozen=True, kw_only=True)
class PcaColours:
    """A fixed mapping from features to colours: the first three principal components, stretched."""

    mean: Float[Array, "width"]
    axes: Float[Array, "3 width"]
    """Principal axes of unit length, strongest first; zero rows where the features have fewer dimensions."""
    low: Float[Array, "3"]
    """Value of each component that becomes 0."""
    high: Float[Array, "3"]
    """Value of each component that becomes 1."""
    explained: tuple[float, ...]
    """Of the variance, by component."""


def fit_pca_colours(features: Float[Array, "sample width"]) -> PcaColours:
    """Find the colours of features: three components, stretched between the 2nd and the 98th percentile.
    The sign of an axis is fixed by its largest entry being positive, so equal features give equal colours. Rows with
    NaN are left out; if no other is there, that is an `InputError`.
    """
    rows = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    if not len(rows):
        raise InputError("principal components need at least one patch with data, found none")
    mean = rows.mean(axis=0)
    variances, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    axes = np.zeros((_NUM_COLOURS, features.shape[1]))
    num_axes = min(_NUM_COLOURS, features.shape[1])
    axes[:num_axes] = vectors[:, ::-1].T[:num_axes]
    largest = axes[np.arange(_NUM_COLOURS), np.abs(axes).argmax(axis=1)]
    axes *= np.where(largest < 0, -1.0, 1.0)[:, None]
    low, high = np.percentile((rows - mean) @ axes.T, _STRETCH_PERCENTILES, axis=0)
    shares = np.zeros(_NUM_COLOURS)
    shares[:num_axes] = variances[::-1][:num_axes].clip(0) / max(variances.clip(0).sum(), np.finfo(float).tiny)
    return PcaColours(mean=mean, axes=axes, low=low, high=high, explained=tuple(shares.tolist()))


def pca_picture(features: Float[Array, "width row col"], colours: PcaColours) -> Float[Array, "3 row col"]:
    """Colour a map of features. Patches without data (NaN) stay NaN; a flat component becomes 0.5."""
    # In the features' own precision: a block of a scene may be hundreds of megabytes.
    projected = np.tensordot(colours.axes.astype(features.dtype), features, axes=1)
    components = projected - (colours.axes @ colours.mean)[:, None, None]
    span = (colours.high - colours.low)[:, None, None]
    # A component that only holds rounding errors would otherwise be stretched into noise.
    flat = span <= 1e-9 * max(1.0, float(np.abs(colours.mean).max()))
    stretched = (components - colours.low[:, None, None]) / np.where(flat, 1.0, span)
    return np.where(flat & np.isfinite(components), 0.5, stretched.clip(0.0, 1.0))


def picture_png(picture: Float[Array, "colour row col"]) -> bytes:
    """Write a picture pixel by pixel as PNG, without frame or title. Missing places are transparent."""
    import io

    from PIL import Image

    planes = picture.repeat(3, axis=0) if picture.shape[0] == 1 else picture
    if planes.shape[0] != _NUM_COLOURS:
        raise InputError(f"a picture has 1 or 3 planes, found {picture.shape[0]}; choose the planes to show")
    known = np.isfinite(planes).all(axis=0)
    levels = np.where(known, planes, 0.0).clip(0.0, 1.0)
    rgba = np.concatenate([levels, known[None].astype(levels.dtype)]).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray((rgba * 255).round().astype(np.uint8), mode="RGBA").save(buffer, format="PNG")
    return buffer.getvalue()


def pictures_png(
    pictures: Sequence[Float[Array, "colour _ _"]], titles: Sequence[str], *, num_columns: int = 4
) -> bytes:
    """Draw pictures in [0, 1], of any sizes, beside each other with their titles, at equal widths; NaN: no data."""
    if not pictures or len(pictures) != len(titles):
        raise InputError(f"every picture needs a title: found {len(pictures)} pictures, {len(titles)} titles")
    columns = min(num_columns, len(pictures))
    rows = -(-len(pictures) // columns)
    aspect = max(picture.shape[1] / picture.shape[2] for picture in pictures)
    cell_in = 2.9
    figure = new_figure(width_in=cell_in * columns, height_in=(cell_in * aspect + 0.35) * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(pictures) :]:
        axes.set_axis_off()
    for axes, picture, title in zip(grid, pictures, titles, strict=False):
        show_picture(axes, picture)
        axes.set_title(title, fontsize=9)
    return figure_png(figure)


Colours = Mapping[str, tuple[float, float, float]]
"""Red, green, blue in [0, 1] by name of the class; a class's number is its position."""


def class_colours(names: Sequence[str]) -> Colours:
    """Give each class a colour of its own.
    The first seven can be told apart with colour blindness; then come lighter ones of them, then plain hues.
    """
    from matplotlib.colors import hsv_to_rgb, to_rgb

    strong = [to_rgb(code) for code in _OKABE_ITO]
    light = [tuple(0.5 + 0.5 * level for level in colour) for colour in strong]
    num_more = max(0, len(names) - len(strong) - len(light))
    more = [tuple(hsv_to_rgb((index / max(num_more, 1), 0.9, 0.6)).tolist()) for index in range(num_more)]
    colours = [(float(r), float(g), float(b)) for r, g, b in (*strong, *light, *more)]
    return dict(zip(names, colours, strict=False))


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
    """Name, and score where there is one."""
    pictures: tuple[Float[Array, "colour _ _"], ...]
    """Images in [0, 1]; NaN where there is no data."""
    picture_titles: tuple[str, ...]
    """One or two lines each."""
    truth: Num[Array, "_ _"]
    """Class numbers, −1 where there is none; or numbers, NaN where there is none."""
    predicted: tuple[Num[Array, "_ _"], ...]
    """By each kind of features."""
    predicted_titles: tuple[str, ...]


def class_maps_png(rows: Sequence[MapRow], colours: Colours) -> bytes:
    """Draw a row for each sample, with equally many maps; the legend names the classes that occur."""
    figure, grid = _frame(rows)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, [_coloured(one, colours) for one in (row.truth, *row.predicted)])
    _class_legend(figure, rows, colours)
    return figure_png(figure)


def number_maps_png(rows: Sequence[MapRow], *, label: str = "") -> bytes:
    """Draw a row for each sample, with equally many maps, all on one scale; `label` is of it, with its unit."""
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


def _coloured(classes: Num[Array, "row col"], colours: Colours) -> Float[Array, "3 row col"]:
    table = np.array([*colours.values(), (np.nan,) * 3])
    # The last row is for pixels without a class.
    return table[np.where(classes < 0, len(colours), classes).astype(np.int64)].transpose(2, 0, 1)


def _scaled(numbers: Num[Array, "row col"], scale: ScalarMappable) -> Float[Array, "3 row col"]:
    known = np.isfinite(numbers)
    colours = np.asarray(scale.to_rgba(np.where(known, numbers, 0.0)))[..., :3]
    return np.where(known[..., None], colours, np.nan).transpose(2, 0, 1)


def _class_legend(figure: Figure, rows: Sequence[MapRow], colours: Colours) -> None:
    from matplotlib.patches import Patch

    values: Int[Array, "value"] = np.unique(
        np.concatenate([np.asarray(one).ravel() for row in rows for one in (row.truth, *row.predicted)])
    ).astype(np.int64)
    named = list(colours.items())
    handles = [
        Patch(color=named[index][1], label=shortened(named[index][0], _LONGEST_NAME))
        for index in values.tolist()
        if index >= 0
    ]
    if (values < 0).any():
        handles.append(Patch(color=(MISSING_GREY,) * 3, label="no label"))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8.5)


_CELL_IN = 2.25
_SHEET_LINE_IN = 0.18
_GAP_IN = 0.12
# chosen: letters of that height that fit under a picture.
_LONGEST_LINE = 30
_MOST_ASPECT = 1.6
_DARK_LINES = 2


def sheet_png(pictures: Sequence[tuple[Float[Array, "colour _ _"], Sequence[str]]], *, num_columns: int = 4) -> bytes:
    """Draw pictures in [0, 1], of any sizes, in rows; NaN: no data. Long lines are cut in the middle.
    Each has its lines below, of which the first is stressed.
    """
    if not pictures:
        raise InputError("a sheet needs at least one picture, found none")
    columns = min(num_columns, len(pictures))
    rows = -(-len(pictures) // columns)
    num_lines = max(len(lines) for _, lines in pictures)
    # One tall picture does not make all cells tall.
    aspect = min(max(one.shape[1] / one.shape[2] for one, _ in pictures), _MOST_ASPECT)
    picture_in, text_in = _CELL_IN * aspect, num_lines * _SHEET_LINE_IN + _GAP_IN
    figure = new_figure(width_in=_CELL_IN * columns, height_in=(picture_in + text_in) * rows)
    grid = figure.subplots(2 * rows, columns, squeeze=False, height_ratios=(picture_in, text_in) * rows)
    for index in range(rows * columns):
        row, column = divmod(index, columns)
        above, below = grid[2 * row, column], grid[2 * row + 1, column]
        below.set_axis_off()
        if index >= len(pictures):
            above.set_axis_off()
            continue
        show_picture(above, pictures[index][0])
        above.set_anchor("SW")
        _write_lines(below, pictures[index][1])
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
