"""Curves of a run: loss, learning rate, scores."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from anyband.errors import InputError, nearest_name
from anyband.report.figures import figure_png, new_figure
from anyband.shapes import Array, Float

__all__ = ["Curve", "CurvePanel", "curves_png", "metrics_panels", "read_columns", "smoothed"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# chosen: shows the trend of a noisy loss and still bends with it; the raw values stay visible behind.
_SMOOTHING_SHARE = 0.03


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line: values over steps."""

    label: str
    """Name in the legend."""
    steps: Sequence[int | float]
    """Where the values were taken, ascending."""
    values: Sequence[int | float]
    """The values; NaN where there is none."""


@dataclass(frozen=True, kw_only=True)
class CurvePanel:
    """Curves that share one pair of axes."""

    title: str
    """What is shown, with its unit."""
    curves: tuple[Curve, ...]
    """The lines."""
    smooth: bool = False
    """Draw the running mean strongly and the raw values faintly."""
    log_scale: bool = False
    """Logarithmic values."""


def read_columns(path: Path, *, columns: Sequence[str] = ()) -> dict[str, Float[Array, "row"]]:
    """Read the number columns of a CSV table; an empty field, or one that is no number, becomes NaN.

    Args:
        path: of the table, with a header line.
        columns: those that must be there.

    Raises:
        InputError: a column is missing, or the file can't be read.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
            names = list(rows[0]) if rows else []
    except (OSError, UnicodeDecodeError) as problem:
        raise InputError(f"cannot read '{path}': {problem}") from problem
    for column in columns:
        if column not in names:
            raise InputError(f"'{path}' has no column '{column}' ({', '.join(names)}){nearest_name(column, names)}")
    return {name: np.array([_number(row[name]) for row in rows]) for name in names}


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


def curves_png(panels: Sequence[CurvePanel], *, xlabel: str = "step") -> bytes:
    """Draw panels of curves beside each other.

    Args:
        panels: at least one.
        xlabel: what the steps count.
    """
    if not panels:
        raise InputError("curves need at least one panel, found none")
    figure = new_figure(width_in=4.0 * len(panels), height_in=2.9)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_panel(axes, panel)
        axes.set_xlabel(xlabel, fontsize=9)
    return figure_png(figure)


def _draw_panel(axes: Axes, panel: CurvePanel) -> None:
    for colour, curve in zip(_cycled(len(panel.curves)), panel.curves, strict=True):
        steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
        known = np.isfinite(values)
        steps, values = steps[known], values[known]
        if panel.smooth and len(values) > 20:
            axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.25)
            values = smoothed(values, width=max(1, round(_SMOOTHING_SHARE * len(values))))
        marker = "o" if len(values) <= 20 else ""
        axes.plot(steps, values, color=colour, linewidth=1.6, marker=marker, markersize=3.5, label=curve.label)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(color="0.9", linewidth=0.8)
    axes.tick_params(labelsize=8.5, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    if panel.log_scale:
        axes.set_yscale("log")
    if len(panel.curves) > 1:
        axes.legend(frameon=False, fontsize=8.5)


def _cycled(count: int) -> list[str]:
    return [_COLOURS[index % len(_COLOURS)] for index in range(count)]


def metrics_panels(columns: Mapping[str, Float[Array, "row"]], *, titles: Mapping[str, str]) -> tuple[CurvePanel, ...]:
    """Make a panel for each named column that has values, against the column `step`.

    Args:
        columns: of a run's metrics; see `read_columns`.
        titles: column → title, in the order of drawing; columns that are absent or empty are left out.
    """
    steps = columns["step"].tolist()
    return tuple(
        CurvePanel(
            title=title,
            curves=(Curve(label=title, steps=steps, values=columns[name].tolist()),),
            smooth=name.startswith("loss"),
        )
        for name, title in titles.items()
        if name in columns and bool(np.isfinite(columns[name]).any())
    )
