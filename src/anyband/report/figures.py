"""Figures: pictures, curves, panels, scatter plots, confusion matrices."""

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle

from anyband.arrays import Array, Bool, Float, Int
from anyband.errors import InputError, nearest_name

__all__ = [
    "MISSING_GREY",
    "PREDICTED_NOTE",
    "RECONSTRUCTION_NOTE",
    "Curve",
    "PanelImages",
    "PcaColours",
    "confusion_png",
    "count_text",
    "curves_png",
    "figure_png",
    "fit_pca_colours",
    "hide_patches",
    "metrics_png",
    "new_figure",
    "pca_picture",
    "picture_png",
    "pictures_png",
    "reconstruction_panel",
    "scatter_png",
    "shortened",
    "show_picture",
    "smoothed",
]

MISSING_GREY = 0.82
"""Grey level of places without data; chosen: lighter than most ground, darker than the page."""

_NUM_COLOURS = 3
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


def _three_planes(picture: Float[Array, "colour row col"]) -> Float[Array, "3 row col"]:
    if picture.shape[0] not in (1, _NUM_COLOURS):
        raise InputError(f"a picture has 1 or 3 planes, found {picture.shape[0]}; choose the planes to show")
    return picture.repeat(_NUM_COLOURS, axis=0) if picture.shape[0] == 1 else picture


def show_picture(axes: Axes, picture: Float[Array, "colour row col"]) -> None:
    """Draw one plane (grey) or three (red, green, blue) in [0, 1] without ticks or smoothing; NaN becomes grey."""
    shown = _three_planes(picture).transpose(1, 2, 0).clip(0.0, 1.0)
    shown[~(shown == shown).all(axis=-1)] = MISSING_GREY
    axes.imshow(shown, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def shortened(text: str, longest: int) -> str:
    """Cut the middle out of a text of more than `longest` letters (3 at least), because names differ at their ends."""
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def count_text(count: int) -> str:
    """Write a count in at most five letters: `128`, `13 k`, `2.5 M`."""
    for size, sign in ((10**9, " G"), (10**6, " M"), (10**4, " k")):
        if count >= size:
            scaled = count / (1000 if size == 10**4 else size)
            return f"{scaled:.1f}{sign}" if scaled < 9.95 else f"{scaled:.0f}{sign}"
    return str(count)


# chosen: the share cut off at each end of a component, so that a few odd patches do not take the whole scale.
_STRETCH_PERCENTILES = (2.0, 98.0)


PcaColours = tuple[Float[Array, "width"], Float[Array, "3 width"], Float[Array, "3"], Float[Array, "3"]]
"""Mean of features, principal axes of unit length (strongest first; zero rows where dimensions are fewer), and the
values of each component that become 0 and 1."""


def fit_pca_colours(features: Float[Array, "sample width"]) -> PcaColours:
    """Find the colours of features: three components, stretched between the 2nd and the 98th percentile. The sign of an
    axis is fixed by its largest entry being positive, so equal features give equal colours. Rows with NaN are left out;
    if no other is there, that is an `InputError`."""
    rows = features[np.isfinite(features).all(axis=1)].astype(np.float64)
    if not len(rows):
        raise InputError("principal components need at least one patch with data, found none")
    mean = rows.mean(axis=0)
    _, vectors = np.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    axes = np.zeros((_NUM_COLOURS, features.shape[1]))
    num_axes = min(_NUM_COLOURS, features.shape[1])
    axes[:num_axes] = vectors[:, ::-1].T[:num_axes]
    largest = axes[np.arange(_NUM_COLOURS), np.abs(axes).argmax(axis=1)]
    axes *= np.where(largest < 0, -1.0, 1.0)[:, None]
    low, high = np.percentile((rows - mean) @ axes.T, _STRETCH_PERCENTILES, axis=0)
    return mean, axes, low, high


def pca_picture(features: Float[Array, "width row col"], colours: PcaColours) -> Float[Array, "3 row col"]:
    """Colour a map of features. Patches without data (NaN) stay NaN; a flat component becomes 0.5."""
    mean, axes, low, high = colours
    # In the features' own precision: a block of a scene may be hundreds of megabytes.
    projected = np.tensordot(axes.astype(features.dtype), features, axes=1)
    components = projected - (axes @ mean)[:, None, None]
    span = (high - low)[:, None, None]
    # A component that only holds rounding errors would otherwise be stretched into noise.
    flat = span <= 1e-9 * max(1.0, float(np.abs(mean).max()))
    stretched = (components - low[:, None, None]) / np.where(flat, 1.0, span)
    return np.where(flat & np.isfinite(components), 0.5, stretched.clip(0.0, 1.0))


def picture_png(picture: Float[Array, "colour row col"]) -> bytes:
    """Write a picture pixel by pixel as PNG, without frame or title. Missing places are transparent."""
    from PIL import Image

    planes = _three_planes(picture)
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


_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# chosen: shows the trend of a noisy loss and still bends with it; the raw values stay visible behind.
_SMOOTHING_SHARE = 0.03
# chosen: so few values are seen one by one.
_FEW_VALUES = 20


def metrics_png(path: Path, *, titles: Mapping[str, str]) -> bytes:
    """Draw the metrics of a run over its steps, a panel for each column that has values; losses as running means.
    `path` is a CSV table with a column `step`; without steps, or unreadable, it is an `InputError`. `titles` are column
    → title, in the order of drawing; columns that are absent or empty are left out."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read '{path}': {problem}") from problem
    names = list(rows[0]) if rows else []
    if "step" not in names:
        raise InputError(f"'{path}' has no column 'step' ({', '.join(names)}){nearest_name('step', names)}")
    columns = {name: [_number(row[name]) for row in rows] for name in names}
    shown = [name for name in titles if any(map(math.isfinite, columns.get(name, [])))]
    panels = {titles[name]: {titles[name]: (columns["step"], columns[name])} for name in shown}
    return curves_png(panels, smooth=[titles[name] for name in shown if name.startswith("loss")])


def _number(text: str | None) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan


def smoothed(values: Float[Array, "row"], *, width: int) -> Float[Array, "row"]:
    """Average over `width` neighbours on each side; shorter at the ends; NaN counts for nothing."""
    kernel = np.ones(2 * width + 1)
    known = np.isfinite(values)
    # np.convolve swaps its inputs where the kernel is longer, so the same part is cut out by hand.
    sums = np.convolve(np.where(known, values, 0.0), kernel)[width : width + len(values)]
    counts = np.convolve(known.astype(float), kernel)[width : width + len(values)]
    return np.where(counts > 0.5, sums / np.maximum(counts, 1.0), math.nan)


Curve = tuple[Sequence[int | float], Sequence[int | float]]
"""Steps, ascending, and a value at each; NaN where there is none."""


def curves_png(
    panels: Mapping[str, Mapping[str, Curve]], *, xlabel: str = "step", smooth: Collection[str] = ()
) -> bytes:
    """Draw panels of curves beside each other, by title, the curves of each by their name in the legend. Panels in
    `smooth` show the running mean strongly and the raw values faintly."""
    if not panels:
        raise InputError("curves need at least one panel, found none")
    figure = new_figure(width_in=4.0 * len(panels), height_in=2.9)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        _draw_panel(axes, title, curves, smooth=title in smooth)
        axes.set_xlabel(xlabel, fontsize=9)
    return figure_png(figure)


def _draw_panel(axes: Axes, title: str, curves: Mapping[str, Curve], *, smooth: bool) -> None:
    for index, (label, curve) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        steps, values = (np.asarray(one, float) for one in curve)
        known = np.isfinite(values)
        steps, values = steps[known], values[known]
        if smooth and len(values) > _FEW_VALUES:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.25)
            values = smoothed(values, width=max(1, round(_SMOOTHING_SHARE * len(values))))
        marker = "o" if len(values) <= _FEW_VALUES else ""
        axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=label)
    axes.set_title(title, fontsize=10, loc="left")
    _plain_axes(axes)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5)


def _plain_axes(axes: Axes) -> None:
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, length=3)
    axes.spines[["top", "right"]].set_visible(False)


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
    """Name of the sensor and the bands shown, or of the place."""
    original: Float[Array, "sample colour row col"]
    """In [0, 1]; NaN where there is no data."""
    seen: Float[Array, "sample colour row col"]
    """As `original`, with the patches hidden that the encoder did not see; see `hide_patches`."""
    reconstruction: Float[Array, "sample colour row col"]
    """In [0, 1]."""
    row_titles: tuple[str, ...] = ()
    """Beside the rows, some lines each; empty: none."""
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
    """Paint the hidden patches of pictures in [0, 1] dark grey; tokens run row by row. `patch_size` is the edge of a
    patch in pixels, and divides rows and columns."""
    rows, cols = pictures.shape[2] // patch_size, pictures.shape[3] // patch_size
    if rows * cols != hidden.shape[1] or (rows * patch_size, cols * patch_size) != pictures.shape[2:]:
        size = f"{pictures.shape[2]} × {pictures.shape[3]} px"
        raise InputError(f"{hidden.shape[1]} tokens of {patch_size} px do not cover {size}")
    grid = hidden.reshape(-1, rows, cols).repeat(patch_size, axis=1).repeat(patch_size, axis=2)
    return np.where(grid[:, None], np.asarray(_HIDDEN_GREY, pictures.dtype), pictures)


def reconstruction_panel(
    blocks: Sequence[PanelImages], *, title: str = "", note: str = RECONSTRUCTION_NOTE, across: int | None = None
) -> bytes:
    """Draw a PNG of blocks with three columns each: the original, what the encoder saw, and the reconstruction. Blocks
    have equally many rows; `across` of them stand beside each other, the others below; None: all."""
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
    for row, outlined in enumerate([] if images.outlined is None else images.outlined):
        _outline(grid[row, 1], outlined, images.seen.shape[2:])


def _outline(axes: Axes, outlined: Array, size: tuple[int, ...]) -> None:
    """Draw the edges of some patches just inside them, so that neighbours keep one each."""
    height, width = size[0] / outlined.shape[0], size[1] / outlined.shape[1]
    for down, across in np.argwhere(outlined).tolist():
        # A pixel's centre has whole coordinates, so the picture begins at −0.5.
        corner = ((across + 0.06) * width - 0.5, (down + 0.06) * height - 0.5)
        edge = Rectangle(corner, 0.88 * width, 0.88 * height, fill=False, edgecolor=_OUTLINE, linewidth=0.9)
        axes.add_patch(edge)


# chosen: more points hide each other, so their density is drawn instead.
_MOST_POINTS = 2000


def scatter_png(truth: Float[Array, "sample"], predicted: Float[Array, "sample"], *, label: str = "") -> bytes:
    """Draw each sample at its true and predicted number, with the line on which both are equal. `label` is of both
    axes, with the unit."""
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
        axes.scatter(truth, predicted, s=14, alpha=0.6, color=_COLOURS[0], linewidths=0)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    axes.set_xlabel(f"true {label}".strip(), fontsize=9)
    axes.set_ylabel(f"predicted {label}".strip(), fontsize=9)
    _plain_axes(axes)
    return figure_png(figure)


_CONFUSION_COLOURS = "Blues"
# chosen: on darker cells black text has a contrast under 4.5.
_DARK_SHARE = 0.5
# chosen: a share under it would be written as 0.
_LEAST_PERCENT = 0.5
_LONGEST_NAME = 28


def confusion_png(
    counts: Int[Array, "class class"], names: Sequence[str], *, cells: Literal["counts", "percent"] = "counts"
) -> bytes:
    """Draw a confusion matrix, true classes in rows; colours are shares of the true class, so rare ones are seen too.
    `cells` is what is written; those of no count stay empty. As many names as classes, else `InputError`."""
    if counts.shape != (len(names), len(names)):
        raise InputError(
            f"a confusion matrix of shape {counts.shape} needs {counts.shape[0]} names, found {len(names)}"
        )
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    cell_in, font = _cell_size(len(names))
    label_font = max(font, 8.5)
    shown = [shortened(name, _LONGEST_NAME) for name in names]
    # A letter is about 0.6 of its height, of which 72 make an inch.
    label_in = max(len(name) for name in shown) * 0.6 * label_font / 72 + 0.5
    side_in = cell_in * len(names)
    figure = new_figure(width_in=side_in + label_in + 0.6, height_in=side_in + 0.75 * label_in + 0.4)
    axes = figure.subplots()
    axes.imshow(shares, cmap=_CONFUSION_COLOURS, vmin=0.0, vmax=1.0)
    _write_cells(axes, counts, shares, font=font, cells=cells)
    labels = [f"{name}  {count_text(int(total))}" for name, total in zip(shown, totals, strict=True)]
    _label(axes, labels, shown, font=label_font)
    return figure_png(figure)


def _cell_size(num_classes: int) -> tuple[float, float]:
    """Give the edge of a cell in inches and the height of its text in points, to fit a page up to about 20 classes."""
    edges = ((6, 0.75, 9.5), (10, 0.6, 9.0), (20, 0.43, 8.0))
    return next(((edge, font) for most, edge, font in edges if num_classes <= most), (0.34, 7.5))


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
        percent = "<1" if 100 * share < _LEAST_PERCENT else f"{100 * share:.0f}"
        text = count_text(int(counts[row, column])) if cells == "counts" else percent
        colour = "white" if share > _DARK_SHARE else "black"
        weight = "bold" if row == column else "normal"
        axes.text(column, row, text, ha="center", va="center", fontsize=font, color=colour, weight=weight)


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
    axes.spines[:].set_color("0.8")
