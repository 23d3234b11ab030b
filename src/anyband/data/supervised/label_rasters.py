"""Rasters of labels: on their image's grid or refused, and each value a class, a number, or nothing."""

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from anyband.data.rasters.georeference import same_crs
from anyband.data.rasters.reader import open_sheet
from anyband.data.rasters.records import Sheet
from anyband.data.tiles import IDENTITY, Grid, Window
from anyband.errors import GeometryError, InputError, RasterError, nearest_name
from anyband.shapes import Array, Bool, Float, Int, Num

__all__ = [
    "ClassTable",
    "LabelPixels",
    "LabelRaster",
    "Labels",
    "check_values",
    "class_table",
    "to_class_map",
    "to_number_map",
    "whole_values",
]

# chosen: transforms are written with 6 to 15 digits; a twentieth of a pixel is no shift of the ground.
_SHIFT_PX = 0.05
# chosen: as many values as a reader takes in.
_NAMED_VALUES = 8
_NAMED_CLASSES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelPixels:
    """Labels of a window, as stored."""

    values: Num[Array, "row col"]
    """What is stored; means nothing where not known."""
    known: Bool[Array, "row col"]
    """Where there is a label."""


@runtime_checkable
class Labels(Protocol):
    """Where the labels of an image come from: a raster, or polygons."""

    @property
    def path(self) -> Path:
        """File."""

    @property
    def settings(self) -> tuple[object, ...]:
        """What is said of the file that changes its labels."""

    def read(self, grid: Grid, window: Window, *, image: str) -> LabelPixels:
        """Give the labels of a window of an image.

        Args:
            grid: of the image.
            window: of the grid.
            image: for messages.
        """


@dataclass(frozen=True, kw_only=True)
class LabelRaster:
    """A file with a value for each pixel of an image."""

    path: Path
    """File."""
    variable: str = ""
    """Variable, band name or number from 1, where the file has several; empty: its only one."""
    nodata: float | None = None
    """Value that means "no label", instead of the file's own; None: the file's."""

    @property
    def settings(self) -> tuple[object, ...]:
        """What is said of the file that changes its labels."""
        return self.variable, self.nodata

    def read(self, grid: Grid, window: Window, *, image: str) -> LabelPixels:
        """Read the labels of a window.

        Args:
            grid: of the image.
            window: of the grid.
            image: for messages.

        Raises:
            RasterError: the file can't be read, or doesn't say which of its bands has the labels.
            GeometryError: it lies on another grid.
        """
        with closing(open_sheet(self.path)) as sheet:
            position = self._position(sheet)
            _check_grid(sheet, grid, image)
            stored, with_data = sheet.read([position], window)
            values = stored[0]
            known = np.ones(values.shape, dtype=bool) if with_data is None else with_data[0].copy()
            nodata = sheet.nodata[position] if self.nodata is None else self.nodata
        if values.dtype.kind == "f":
            known &= np.isfinite(values)
        if nodata is not None and not math.isnan(nodata):
            known &= values != nodata
        return LabelPixels(values=values, known=known)

    def _position(self, sheet: Sheet) -> int:
        names = sheet.names
        if not self.variable:
            if len(names) == 1:
                return 0
            named = ", ".join(name for name in names if name) or f"{len(names)} without names"
            raise RasterError(
                f"label raster '{self.path}' has {len(names)} bands ({named}); say which one by `label_variable`: "
                "its name, or its number from 1"
            )
        if self.variable in names:
            return names.index(self.variable)
        if self.variable.isdigit() and 1 <= int(self.variable) <= len(names):
            return int(self.variable) - 1
        raise RasterError(
            f"label raster '{self.path}' has no band '{self.variable}' ({', '.join(names)})"
            f"{nearest_name(self.variable, names)}"
        )


def _check_grid(sheet: Sheet, grid: Grid, image: str) -> None:
    """Refuse another CRS, corner, pixel size or number of pixels; without georeference the sizes must agree."""
    placed = sheet.crs is not None and grid.crs is not None
    same = (sheet.height, sheet.width) == (grid.height, grid.width)
    if placed:
        same = same and same_crs(sheet.crs, grid.crs) and _shift_px(sheet, grid) <= _SHIFT_PX
    if not same:
        raise GeometryError(
            f"label raster '{sheet.path}' and image '{image}' lie on different grids: the labels have "
            f"{_said(sheet.crs, sheet.transform, sheet.height, sheet.width)}; the image has "
            f"{_said(grid.crs, grid.transform, grid.height, grid.width)}. Labels have a value for each pixel of the "
            f"image: resample them, for example by `rio warp LABELS NEW --like IMAGE --resampling nearest`"
        )


def _shift_px(sheet: Sheet, grid: Grid) -> float:
    """Find how far the corners of two grids of one size lie apart, in pixels of the image."""
    labels = Grid(height=sheet.height, width=sheet.width, transform=sheet.transform, crs=sheet.crs, gsd_m=grid.gsd_m)
    a, b, _, d, e, _ = grid.transform
    pixel = math.sqrt(abs(a * e - b * d))
    corners = [(0.0, 0.0), (0.0, float(grid.width)), (float(grid.height), 0.0), (float(grid.height), float(grid.width))]
    return max(math.dist(labels.to_coordinates(*one), grid.to_coordinates(*one)) for one in corners) / pixel


def _said(crs: str | None, transform: tuple[float, ...], height: int, width: int) -> str:
    size = f"{height} × {width} pixels"
    if crs is None and transform == IDENTITY:
        return f"no georeference, {size}"
    a, b, c, d, e, f = transform
    name = crs if crs is None or len(crs) < 20 else "a CRS without number"
    turned = "" if b == d == 0 else " turned"
    return f"{name or 'no CRS'}, {size} of {abs(a):.9g} × {abs(e):.9g}{turned} from ({c:.9g}, {f:.9g})"


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Which stored value is which class."""

    names: tuple[str, ...]
    """Names of the classes; a class's number is its position."""
    positions: Mapping[int, int]
    """Value → class. Several values may be one class."""
    ignore: tuple[int, ...] = ()
    """Values that are no class."""

    @property
    def values(self) -> tuple[int, ...]:
        """All values that mean something, ascending."""
        return tuple(sorted(self.positions))


def class_table(classes: Mapping[int, str], *, ignore: Sequence[int] = ()) -> ClassTable:
    """Number the classes in the order of their values; values of one name are one class.

    Args:
        classes: name of each value.
        ignore: values that are no class.

    Raises:
        InputError: a value is both.
    """
    both = sorted(set(classes) & set(ignore))
    if both:
        raise InputError(f"value {both[0]} is class '{classes[both[0]]}' and to be ignored; take it out of one of them")
    names = tuple(dict.fromkeys(classes[value] for value in sorted(classes)))
    positions = {value: names.index(classes[value]) for value in sorted(classes)}
    return ClassTable(names=names, positions=positions, ignore=tuple(ignore))


def to_class_map(pixels: LabelPixels, table: ClassTable, *, where: str) -> Int[Array, "row col"]:
    """Turn values into class numbers; −1 where there is no label or the value is to be ignored.

    Args:
        pixels: as stored.
        table: what the values mean.
        where: for messages.

    Raises:
        InputError: values that mean nothing, or are not whole.
    """
    values = whole_values(pixels, where=where)
    known = pixels.known & ~np.isin(values, table.ignore)
    sorted_values = np.array(table.values, dtype=np.int64)
    places = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    foreign = known & (sorted_values[places] != values)
    if foreign.any():
        found, counts = np.unique(values[foreign], return_counts=True)
        check_values(dict(zip(found.tolist(), counts.tolist(), strict=True)), table, where=where)
    numbers = np.array([table.positions[value] for value in table.values], dtype=np.int64)
    return np.where(known, numbers[places], -1)


def whole_values(pixels: LabelPixels, *, where: str) -> Int[Array, "row col"]:
    """Give values as int64, 0 where there is no label.

    Raises:
        InputError: a value has a fraction.
    """
    values = pixels.values
    if values.dtype.kind == "f":
        broken = pixels.known & (values != np.round(values))
        if broken.any():
            raise InputError(
                f"{where} has values that are no class numbers, such as {values[broken][0]:g} at "
                f"{_pixels(int(broken.sum()))}; for maps of numbers use `kind: number_map`"
            )
    return np.where(pixels.known, values, 0).astype(np.int64)


def check_values(counts: Mapping[int, int], table: ClassTable, *, where: str) -> None:
    """See that every value is a class or to be ignored.

    Args:
        counts: pixels of each value.
        table: what the values mean.
        where: for messages.

    Raises:
        InputError: a value is neither; values and counts are named.
    """
    foreign = sorted(set(counts) - set(table.positions) - set(table.ignore))
    if not foreign:
        return
    said = ", ".join(f"{value} at {_pixels(counts[value])}" for value in foreign[:_NAMED_VALUES])
    more = f" and {len(foreign) - _NAMED_VALUES} more values" if len(foreign) > _NAMED_VALUES else ""
    classes = ", ".join(f"{value} {table.names[table.positions[value]]}" for value in table.values[:_NAMED_CLASSES])
    classes += " …" if len(table.values) > _NAMED_CLASSES else ""
    ignored = f"; ignored: {', '.join(map(str, table.ignore))}" if table.ignore else ""
    raise InputError(
        f"{where} has values that are no class: {said}{more} (classes: {classes}{ignored}); name them in `classes`, or "
        "list them in `ignore`"
    )


def _pixels(count: int) -> str:
    return f"{count} pixel{'' if count == 1 else 's'}"


def to_number_map(pixels: LabelPixels, *, ignore: Sequence[int] = ()) -> Float[Array, "row col"]:
    """Give values as float64; NaN where there is no label or the value is to be ignored."""
    known = pixels.known & ~np.isin(pixels.values, ignore)
    return np.where(known, pixels.values, np.nan).astype(np.float64)
