"""Diagrams: what the sensors of a store measure over the spectrum, and how the images of a sample are fused."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import FancyArrowPatch, Rectangle

from anyband.arrays import Array, Float, Int
from anyband.errors import InputError
from anyband.report.figures import count_text, figure_png, new_figure, show_picture

__all__ = ["Measured", "fusion_png", "spectrum_png"]

# chosen: told apart also by who sees no red or green; more sensors take lighter tints of them.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#555555")
_TICKS_NM = (400.0, 500.0, 600.0, 800.0, 1000.0, 1300.0, 1600.0, 2000.0, 2400.0, 4e3, 6e3, 8e3, 1e4, 1.2e4)
Measured = tuple[int, Sequence[tuple[float, float]]]
"""Images of one sensor, and the ranges that each of them measures, nm."""


def spectrum_png(measured: Mapping[str, Sequence[Measured]]) -> bytes:
    """Draw how many images measure each wavelength, stacked by sensor, over a logarithmic axis.
    An image counts once where its bands overlap. Gaps of the spectrum that nothing measures are cut out.
    Source: SMARTIES (arXiv 2506.19585), figure 1b.
    """
    ranges = [one for parts in measured.values() for _, bands in parts for one in bands]
    if not ranges:
        raise InputError("there are no images, so no wavelength is measured")
    edges_nm = np.unique(np.array(ranges, dtype=np.float64))
    stretches = _stretches(ranges)
    heights = {name: _heights(parts, edges_nm) for name, parts in measured.items()}
    figure = new_figure(width_in=9.0, height_in=3.4)
    widths = [max(0.35, np.log(high / low)) for low, high in stretches]
    grid = figure.subplots(1, len(stretches), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, stretch in zip(grid, stretches, strict=True):
        base = np.zeros(len(edges_nm) - 1)
        for index, (name, height) in enumerate(heights.items()):
            colour = _COLOURS[index % len(_COLOURS)]
            axes.stairs(base + height, edges_nm, baseline=base, fill=True, color=colour, label=name)
            base = base + height
        _spectral_axis(axes, stretch)
    grid[0].set_ylabel("images that measure it", fontsize=9)
    grid[0].yaxis.set_major_formatter(lambda value, _: count_text(round(value)))
    figure.supxlabel("wavelength", fontsize=9)
    titles = [f"{name} ({count_text(sum(count for count, _ in parts))})" for name, parts in measured.items()]
    handles = grid[0].get_legend_handles_labels()[0]
    figure.legend(handles, titles, loc="outside upper center", ncols=4, frameon=False, fontsize=8.5)
    return figure_png(figure)


def _heights(parts: Sequence[Measured], edges_nm: Float[Array, " edge"]) -> Float[Array, " step"]:
    """Count the images of a sensor that measure each step between edges."""
    low, high = edges_nm[:-1], edges_nm[1:]
    total = np.zeros(len(low))
    for count, bands in parts:
        total += count * np.any([(low >= first) & (high <= last) for first, last in bands], axis=0)
    return total


def _stretches(ranges: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join ranges to the stretches that a panel each is drawn of: gaps of over half an octave part them."""
    joined: list[tuple[float, float]] = []
    for low, high in sorted(ranges):
        first, last = joined.pop() if joined and low <= joined[-1][1] * np.sqrt(2) else (low, high)
        joined.append((first, max(high, last)))
    return joined


def _spectral_axis(axes: Axes, stretch_nm: tuple[float, float]) -> None:
    axes.set_xscale("log")
    margin = (stretch_nm[1] / stretch_nm[0]) ** 0.03
    axes.set_xlim(stretch_nm[0] / margin, stretch_nm[1] * margin)
    ticks = [one for one in _TICKS_NM if stretch_nm[0] <= one <= stretch_nm[1]]
    ticks = ticks or [float(np.sqrt(stretch_nm[0] * stretch_nm[1]))]
    axes.set_xticks(ticks, [_wavelength(tick) for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _wavelength(value_nm: float) -> str:
    for size, unit in ((1e7, "cm"), (1e3, "µm")):
        if value_nm >= size:
            return f"{value_nm / size:.2g} {unit}"
    return f"{value_nm:.0f} nm"


def fusion_png(
    pictures: Sequence[tuple[Float[Array, "3 row col"], str]],
    sequences: Sequence[tuple[Sequence[Int[Array, "down across"]], str]],
    *,
    outcome: str,
) -> bytes:
    """Draw images of a sample, the sequences of tokens that the encoder sees, and what becomes of its features.
    Args:
        pictures: image and title of each.
        sequences: of each its grids of tokens, by the position of a token's image (−1: of all), and a title.
        outcome: what is made of the features.
    Source: SMARTIES (arXiv 2506.19585), figure S2.
    """
    rows = max(len(pictures), len(sequences))
    figure = new_figure(width_in=8.6, height_in=0.5 + 1.75 * rows)
    grid = figure.subplots(rows, 4, squeeze=False, width_ratios=(1.2, 1.6, 0.8, 1.2))
    colours = ListedColormap(["0.55", *_COLOURS[: len(pictures)]])
    for axes in grid.flat:
        axes.set_axis_off()
    for index, (axes, (image, title)) in enumerate(zip(grid[:, 0], pictures, strict=False)):
        show_picture(axes, image)
        axes.set_title(title, fontsize=8, color=_COLOURS[index % len(_COLOURS)])
    for row, (grids, title) in enumerate(sequences):
        # A column without number parts the grids of one sequence.
        gap = np.full((len(grids[0]), 1), np.nan)
        joined = np.concatenate([part for one in grids for part in (one.astype(np.float64), gap)][:-1], axis=1)
        grid[row, 1].imshow(joined, cmap=colours, vmin=-1.5, vmax=len(pictures) - 0.5, interpolation="nearest")
        grid[row, 1].set_title(title, fontsize=8)
        _box(grid[row, 2], "encoder\n(the same)" if len(sequences) > 1 else "encoder")
        _box(grid[row, 3], f"features {row + 1}" if len(sequences) > 1 else "features")
    figure.supxlabel(outcome, fontsize=9)
    return figure_png(figure)


def _box(axes: Axes, text: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.add_patch(FancyArrowPatch((0.0, 0.5), (0.22, 0.5), arrowstyle="-|>", mutation_scale=10, color="0.3"))
    axes.add_patch(Rectangle((0.24, 0.3), 0.74, 0.4, facecolor="0.95", edgecolor="0.4"))
    axes.text(0.61, 0.5, text, ha="center", va="center", fontsize=8)
