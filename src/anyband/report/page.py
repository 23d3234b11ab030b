"""One self-contained HTML page: text, tables, pictures and sheets of maps, with nothing fetched from elsewhere.

The parts of a page are texts of HTML, made by `paragraph`, `table` and `picture`.
"""

import base64
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from anyband.arrays import Array, Bool, Float, Num
from anyband.errors import InputError
from anyband.files import whole_file
from anyband.report.figures import MISSING_GREY, figure_png, new_figure, shortened, show_picture

__all__ = [
    "Colours",
    "MapRow",
    "class_colours",
    "class_maps_png",
    "number_maps_png",
    "page_html",
    "paragraph",
    "picture",
    "places_png",
    "sheet_png",
    "table",
    "write_page",
]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def paragraph(text: str) -> str:
    """Write plain text; signs of HTML in it are shown as they are."""
    return f"<p>{escape(text)}</p>"


def picture(png: bytes, *, alt: str, caption: str = "", pixels: bool = False, full_size: bool = False) -> str:
    """Make a PNG part of the page; `alt` says what it shows to readers who can't see it. `pixels` enlarges a small
    picture with sharp pixels. `full_size` shows it in its own size, to be scrolled; else it is as wide as the page at
    most."""
    if not png.startswith(_PNG_SIGNATURE):
        raise InputError("a picture of a page must be a PNG")
    if not alt.strip():
        raise InputError("a picture of a page needs an alternative text that says what it shows")
    kind = ' class="pixels"' if pixels else ' class="full"' if full_size else ""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode("ascii")
    return f'<figure{kind}><img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">{below}</figure>'


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", strong_rows: Collection[int] = ()
) -> str:
    """Write a table of texts; columns whose cells all start like numbers are set to the right. `strong_rows` are
    positions from 0, to be stressed."""
    wrong = [row for row in rows if len(row) != len(header)]
    if wrong:
        raise InputError(f"a row of a table has {len(wrong[0])} cells, its header {len(header)}")
    numeric = [_is_numeric([row[column] for row in rows]) for column in range(len(header))]
    starts = ['<tr class="strong">' if index in strong_rows else "<tr>" for index in range(len(rows))]
    body = "\n".join(f"{start}{_cells('td', row, numeric)}</tr>" for start, row in zip(starts, rows, strict=True))
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    inner = f"{above}\n<thead><tr>{_cells('th', header, numeric)}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="wide"><table>{inner}</table></div>'


def _cells(tag: str, texts: Sequence[str], numeric: Sequence[bool]) -> str:
    kinds = [' class="number"' if number else "" for number in numeric]
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for text, kind in zip(texts, kinds, strict=True))


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell.strip() not in ("", "–", "—")]
    return bool(filled) and all(cell.lstrip("+-−")[:1].isdigit() for cell in filled)


def page_html(title: str, lead: str, sections: Sequence[tuple[str, Sequence[str]]], *, footer: str = "") -> str:
    """Write a page as one HTML document: no script, no link to elsewhere, pictures inside. `sections` are heading and
    parts of each, listed at the top; those without parts are left out."""
    filled = [(heading, parts) for heading, parts in sections if parts]
    links = " ".join(f'<a href="#section-{index}">{escape(one)}</a>' for index, (one, _) in enumerate(filled, 1))
    body = "\n".join(
        "\n".join(["<section>", f'<h2 id="section-{index}">{escape(heading)}</h2>', *parts, "</section>"])
        for index, (heading, parts) in enumerate(filled, 1)
    )
    style = files("anyband.report").joinpath("page.css").read_text(encoding="utf-8")
    below = f"<footer>{escape(footer)}</footer>" if footer else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n'
        f"<nav>{links}</nav>\n{body}\n{below}\n</main>\n</body>\n</html>\n"
    )


def write_page(
    path: Path, title: str, lead: str, sections: Sequence[tuple[str, Sequence[str]]], *, footer: str = ""
) -> None:
    """Write a page to a file, whole or not at all; see `page_html`."""
    with whole_file(path) as beside:
        beside.write_text(page_html(title, lead, sections, footer=footer), encoding="utf-8")


# Source: Okabe and Ito, "Color Universal Design", 2008 (readable with colour blindness), without black.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")

Colours = Mapping[str, tuple[float, float, float]]
"""Red, green, blue in [0, 1] by name of the class; a class's number is its position."""


def class_colours(names: Sequence[str]) -> Colours:
    """Give each class a colour of its own. The first seven can be told apart with colour blindness; then come lighter
    ones of them, then plain hues."""
    from matplotlib.colors import hsv_to_rgb, to_rgb

    strong = [to_rgb(code) for code in _OKABE_ITO]
    light = [tuple(0.5 + 0.5 * level for level in colour) for colour in strong]
    num_more = len(names) - len(strong) - len(light)
    more = [hsv_to_rgb((index / num_more, 0.9, 0.6)) for index in range(num_more)]
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
        lines = "\n".join(shortened(line, letters) for line in title.splitlines())
        axes.set_title(lines, fontsize=_FONT, linespacing=1.1)
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

    values = {int(value) for row in rows for one in (row.truth, *row.predicted) for value in np.unique(one)}
    named = [one for index, one in enumerate(colours.items()) if index in values]
    handles = [Patch(color=colour, label=shortened(name, _LONGEST_NAME)) for name, colour in named]
    if min(values) < 0:
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
    """Draw pictures in [0, 1], of any sizes, in rows; NaN: no data. Long lines are cut in the middle. Each has its
    lines below, of which the first is stressed."""
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


def places_png(
    lon: Float[Array, "place"], lat: Float[Array, "place"], groups: Mapping[str, Bool[Array, "place"]]
) -> bytes:
    """Draw places by longitude and latitude, degrees, in a colour for each group, with its name and count."""
    figure = new_figure(width_in=9.0, height_in=5.0)
    axes = figure.subplots()
    # chosen: dots that are seen one by one, and still do not hide each other where there are many.
    size = min(14.0, max(0.4, 20_000.0 / max(1, len(lon))))
    filled = {name: chosen for name, chosen in groups.items() if chosen.any()}
    colours = class_colours(list(filled))
    for name, chosen in filled.items():
        label = f"{name} ({int(chosen.sum())})"
        axes.scatter(lon[chosen], lat[chosen], s=size, color=colours[name], label=label, linewidths=0)
    axes.set(xlabel="longitude, °", ylabel="latitude, °")
    middle = float(np.clip(lat.mean(), -80.0, 80.0)) if len(lat) else 0.0
    axes.set_aspect(1.0 / max(0.2, float(np.cos(np.deg2rad(middle)))))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=3.0, fontsize=8, frameon=False)
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
