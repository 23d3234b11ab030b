"""What a reconstructed image is written as: its bands, grid, type and encoding, and where each comes from."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyband.data.manifest import ImageEntry
from anyband.data.rasters.gdal import GdalSheet
from anyband.data.rasters.georeference import pixel_size_m
from anyband.data.rasters.reader import RasterReader
from anyband.data.stored_numbers import can_hold
from anyband.data.tiles import Grid
from anyband.errors import InputError
from anyband.scenes.context import OtherImage, nearest_in_time
from anyband.sensors.sensor import Encoding, Sensor
from anyband.tasks.readings import entry_sensor

__all__ = ["TargetImage", "TargetLayout", "layout_as_seen", "layout_of_unseen"]

_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# chosen: a stored unit that is less than a physical one shows that whole numbers are meant.
_WHOLE_SCALE = 1.0


@dataclass(frozen=True, kw_only=True)
class TargetImage:
    """An image to reconstruct."""

    sensor: Sensor
    """The whole sensor."""
    time: dt.datetime | None = None
    """When it was, or would have been, taken, UTC; None: the time of its file."""
    entry: ImageEntry | None = None
    """The image as it is, whose masks say what of it is seen; None: nothing is."""
    bands: tuple[str, ...] = ()
    """To write where nothing is seen; empty: those of the sensor's nearest other image, else all."""
    encoding: str | None = None
    """How to store numbers where nothing is seen; None: as that image does, else the sensor's default."""
    dtype: str | None = None
    """NumPy name of the type to store them in; None: as that image does, else what the encoding needs."""
    like: Path | None = None
    """A raster whose grid the target has where nothing is seen; None: the ground of the first other image, at the
    sensor's ground sampling distance."""


@dataclass(frozen=True, kw_only=True)
class TargetLayout:
    """What is written."""

    sensor: Sensor
    """With the bands written; its default encoding is how they are stored."""
    grid: Grid
    """Where the pixels lie."""
    dtype: str
    """NumPy name of the type."""
    nodata: float | None
    """Stored number that means "no data"; None: there is none."""
    notes: tuple[str, ...] = ()
    """Where type and encoding come from, if nobody named them."""


def layout_as_seen(target: TargetImage, reader: RasterReader) -> TargetLayout:
    """Keep everything as the target's own file has it.

    Raises:
        InputError: something else is asked for.
    """
    assert target.entry is not None
    for what, asked in (("--dtype", target.dtype), ("--like", target.like)):
        if asked is not None:
            raise InputError(f"{what} says what the file of the target says already; leave it out")
    sensor = entry_sensor(target.entry)
    dtype = str(reader.dtype)
    return TargetLayout(sensor=sensor, grid=reader.grid, dtype=dtype, nodata=_held(reader.nodata, dtype))


def layout_of_unseen(target: TargetImage, others: Sequence[OtherImage], time: dt.datetime) -> TargetLayout:
    """Choose what to write of an image of which there is no file.

    Args:
        target: what is asked for.
        others: the other images, the first of the list first.
        time: of the target.

    Raises:
        CatalogueError: an unknown band or encoding.
        InputError: a type that can't be.
        RasterError: the raster named by `like` can't be read.
    """
    alike = nearest_in_time([one for one in others if one.entry.sensor.name == target.sensor.name], time, 1)
    sensor, notes = _sensor(target, alike)
    dtype = target.dtype
    if dtype is not None and dtype not in _TYPES:
        raise InputError(f"dtype '{dtype}' is not one of {', '.join(_TYPES)}")
    takes_type = alike and target.encoding is None
    dtype = dtype or (alike[0].survey.dtype if takes_type else _usual_type(sensor))
    nodata = alike[0].survey.nodata if takes_type else None
    nodata = _held(target.sensor.nodata if nodata is None else nodata, dtype)
    if np.dtype(dtype).kind == "f" and nodata is None:
        nodata = float("nan")
    grid = _grid_at(others[0].survey.grid, sensor.gsd_m) if target.like is None else _grid_of(target.like, sensor)
    said = f"stored as {dtype}, encoding '{sensor.default_encoding}'{notes}"
    return TargetLayout(sensor=sensor, grid=grid, dtype=dtype, nodata=nodata, notes=(said,))


def _held(nodata: float | None, dtype: str) -> float | None:
    """Keep a number that the type can hold: no other stands in the file."""
    return nodata if nodata is not None and can_hold(dtype, nodata) else None


def _sensor(target: TargetImage, alike: Sequence[OtherImage]) -> tuple[Sensor, str]:
    """Choose bands and encoding, and say after what."""
    whole = target.sensor
    named = target.encoding or whole.default_encoding
    if not alike:
        sensor = whole.select(target.bands) if target.bands else whole
        return _stored_as(sensor, named), ""
    like = entry_sensor(alike[0].entry)
    names = tuple(whole.band(name).name for name in target.bands) or like.band_names
    if target.encoding is not None or any(name not in like.band_names for name in names):
        return _stored_as(whole.select(names), named), ""
    return like.select(names), f", as '{alike[0].entry.name}'"


def _stored_as(sensor: Sensor, encoding: str) -> Sensor:
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


def _usual_type(sensor: Sensor) -> str:
    """Choose a type by the encoding: whole numbers where a stored unit is not a physical one, and for counts."""
    codes: list[Encoding] = [band.encoding(sensor.default_encoding) for band in sensor.bands]
    if all(band.unit == "count" for band in sensor.bands):
        largest = [band.statistics.p99 if band.statistics else np.inf for band in sensor.bands]
        return "uint8" if max(largest) <= np.iinfo(np.uint8).max else "uint16"
    if any(abs(code.scale) >= _WHOLE_SCALE for code in codes):
        return "float32"
    # Reflectance lies over 0 and decibels mostly under it.
    return "int16" if any(band.unit == "sigma0_db" for band in sensor.bands) else "uint16"


def _grid_of(path: Path, sensor: Sensor) -> Grid:
    sheet = GdalSheet(path)
    try:
        size = {"height": sheet.height, "width": sheet.width}
        gsd_m = sensor.gsd_m if sheet.crs is None else pixel_size_m(sheet.transform, crs=sheet.crs, **size)
        return Grid(transform=sheet.transform, crs=sheet.crs, gsd_m=float(gsd_m), **size)
    finally:
        sheet.close()


def _grid_at(grid: Grid, gsd_m: float) -> Grid:
    """Cut the ground of a grid into pixels of about another size, a whole number of them."""
    height, width = (max(1, round(size * grid.gsd_m / gsd_m)) for size in (grid.height, grid.width))
    if (height, width) == (grid.height, grid.width):
        return grid
    down, across = grid.height / height, grid.width / width
    a, b, c, d, e, f = grid.transform
    # Without georeference coordinates are pixels, of whatever size.
    transform = grid.transform if grid.crs is None else (a * across, b * down, c, d * across, e * down, f)
    return Grid(
        height=height, width=width, transform=transform, crs=grid.crs, gsd_m=grid.gsd_m * float(np.sqrt(down * across))
    )
