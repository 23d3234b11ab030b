"""The other images of a place: which of them help to reconstruct one, and what they show of its ground."""

import datetime as dt
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anyband.arrays import Array, Num
from anyband.data.cutting import ImageSurvey, survey_image
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.encode.complete import ImageView, SetCompleter
from anyband.encode.input_spec import InputSpec
from anyband.errors import AssignmentError, CatalogueError, GeometryError, InputError
from anyband.rasters.footprints import place_image
from anyband.rasters.grid import Axis, Grid, Placement, Window, same_crs, source_window
from anyband.rasters.reader import RasterReader

__all__ = ["OpenImage", "OtherImage", "nearest_in_time", "placed_images", "readable_images", "survey_images"]

# Rounding of edges, pixels.
_TINY = 1e-6
_NAMED_REASONS = 3


@dataclass(frozen=True, kw_only=True)
class OtherImage:
    """An image of the place that can be read."""

    entry: ImageEntry
    """What the list says of it."""
    survey: ImageSurvey
    """What its files say."""
    spec: InputSpec | None = None
    """How its bands are read; None: not worked out yet."""

    @property
    def time(self) -> dt.datetime | None:
        """When it was taken, UTC; None where nobody says."""
        return self.entry.datetime or self.survey.datetime

    @property
    def title(self) -> str:
        """Sensor and day, for people."""
        day = "time unknown" if self.time is None else f"{self.time.astimezone(dt.UTC):%Y-%m-%d}"
        return f"{self.entry.sensor.name} {day}"


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenImage:
    """An image to look at, open."""

    reader: RasterReader
    """Its pixels."""
    spec: InputSpec
    """How its bands are read."""
    placement: Placement
    """The target's grid in it."""
    time: np.datetime64
    """UTC; NaT where unknown."""
    title: str
    """Sensor and day, for people."""

    def view(self, window: Window) -> ImageView:
        """Read what it shows of a window of the target's grid; beyond its edge there is no data."""
        rows, cols = self.placement.rows, self.placement.cols
        (row, height, pad_rows), (col, width, pad_cols) = (
            _touched(rows, window.row, window.height),
            _touched(cols, window.col, window.width),
        )
        dn, valid = self._pixels(row, col, height, width)
        return ImageView(
            spec=self.spec,
            dn=dn,
            valid=valid,
            box=(pad_rows, pad_cols, rows.scale * window.height, cols.scale * window.width),
            gsd_m=self.reader.grid.gsd_m,
            time=self.time,
        )

    def _pixels(self, row: int, col: int, height: int, width: int) -> tuple[Num[Array, "band row col"], Array]:
        grid = self.reader.grid
        first_row, first_col = max(row, 0), max(col, 0)
        last_row, last_col = min(row + height, grid.height), min(col + width, grid.width)
        shape = (len(self.reader.band_names), height, width)
        if first_row >= last_row or first_col >= last_col:
            return np.zeros(shape, dtype=self.reader.dtype), np.zeros(shape, dtype=bool)
        size = (last_row - first_row, last_col - first_col)
        raster = self.reader.read(Window(row=first_row, col=first_col, height=size[0], width=size[1]))
        if raster.dn.shape == shape:
            return raster.dn, raster.valid
        before = first_row - row, first_col - col
        outside = ((0, 0), *((at, whole - at - one) for at, whole, one in zip(before, shape[1:], size, strict=True)))
        return np.pad(raster.dn, outside), np.pad(raster.valid, outside)


def survey_images(entries: Sequence[ImageEntry]) -> tuple[list[OtherImage], list[str]]:
    """Look at the images of a list.

    Returns:
        Those that can be read, in order, and why others are left out.

    Raises:
        InputError: none can be read.
    """
    found, notes = [], []
    for entry in entries:
        result = survey_image(entry)
        if isinstance(result, str):
            notes.append(f"'{entry.name}' is left out: {result}")
        else:
            found.append(OtherImage(entry=entry, survey=result))
    _check_any(found, entries, notes, "can be read")
    return found, _few(notes)


def placed_images(images: Sequence[OtherImage], grid: Grid) -> tuple[list[OtherImage], list[str]]:
    """Find the images that show some of the ground of a grid.

    Returns:
        These, in order, and why others are left out.

    Raises:
        InputError: none does.
    """
    found, notes = [], []
    for image in images:
        reason = _not_there(image, grid)
        if reason:
            notes.append(f"'{image.entry.name}' is left out: {reason}")
        else:
            found.append(image)
    _check_any(found, [image.entry for image in images], notes, "shows ground of the target")
    return found, _few(notes)


def readable_images(completer: SetCompleter, images: Sequence[OtherImage]) -> tuple[list[OtherImage], list[str]]:
    """Find the images whose bands a network can read.

    Returns:
        These, in order, with how they are read; and why others are left out.

    Raises:
        InputError: it can read none.
    """
    found, notes = [], []
    for image in images:
        try:
            found.append(replace(image, spec=completer.context_spec(entry_sensor(image.entry))))
        except (AssignmentError, CatalogueError) as problem:
            notes.append(f"'{image.entry.name}' is left out: {problem}")
    _check_any(found, [image.entry for image in images], notes, "can be read by this network")
    return found, _few(notes)


def nearest_in_time(images: Sequence[OtherImage], time: dt.datetime, count: int) -> list[OtherImage]:
    """Choose images around a time, mixed over sensors.

    First comes the nearest of each sensor before the time and the nearest after it, the nearest of these first; then
    the second of each, and so on. Images whose time is unknown come last.

    Args:
        images: to choose from.
        time: of the target, UTC.
        count: how many; fewer where there are no more.
    """
    ranks: dict[tuple[str, bool], int] = defaultdict(int)
    keyed = []
    for image in sorted(images, key=lambda one: _distance_s(one, time)):
        side = (image.entry.sensor.name, image.time is not None and image.time < time)
        unknown = image.time is None
        keyed.append(((unknown, ranks[side], _distance_s(image, time)), image))
        ranks[side] += 1
    return [image for _, image in sorted(keyed, key=lambda pair: pair[0])[:count]]


def _distance_s(image: OtherImage, time: dt.datetime) -> float:
    return float("inf") if image.time is None else abs((image.time - time).total_seconds())


def _touched(axis: Axis, start: int, size: int) -> tuple[int, int, float]:
    """Find the source pixels that a stretch of the target touches: the first, how many, and where it begins in them."""
    begin = axis.scale * start + axis.offset
    first = int(np.floor(begin + _TINY))
    last = int(np.ceil(begin + axis.scale * size - _TINY))
    return first, last - first, max(0.0, begin - first)


def _not_there(image: OtherImage, grid: Grid) -> str:
    """Say why an image shows nothing of a grid; empty where it does."""
    own = image.survey.grid
    if not same_crs(own.crs, grid.crs):
        return f"it has {own.crs or 'no coordinate system'}, the target {grid.crs or 'none'}; reproject one of them"
    try:
        placement = place_image(grid, own, image.entry.name)
    except GeometryError as problem:
        return str(problem)
    return "" if source_window(placement, grid.whole) is not None else "it shows no ground of the target"


def _check_any(found: Sequence[object], entries: Sequence[ImageEntry], notes: Sequence[str], what: str) -> None:
    if found:
        return
    reasons = "; ".join(_few(notes))
    raise InputError(f"none of the {len(entries)} images {what}, so there is nothing to reconstruct from: {reasons}")


def _few(notes: Sequence[str]) -> list[str]:
    """Keep the first notes and count the others: a list may hold thousands of images of other places."""
    more = len(notes) - _NAMED_REASONS
    return [*notes[:_NAMED_REASONS], *([f"and {more} more images are left out"] if more > 0 else [])]
