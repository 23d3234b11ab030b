"""The picture of a reconstruction: the images that were looked at, the target as it was, and filled."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from anyband.data.harmonise import normalisation_for, to_physical
from anyband.data.pictures import composite, picture
from anyband.data.rasters.reader import RasterReader, open_raster
from anyband.data.rasters.records import RasterSource
from anyband.data.rasters.resample import Axis, Placement, resample_nearest, source_window
from anyband.data.tiles import Grid, Window, windows_covering
from anyband.report.maps import pictures_png
from anyband.scenes.context import OpenImage
from anyband.scenes.target_layout import TargetLayout
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Bool, Float
from anyband.whole_files import whole_file

__all__ = ["write_reconstruction_picture"]

# chosen: enough to see a field, few enough that six images make a small file; larger targets show every second, …
_PICTURE_EDGE = 384
# chosen: pixels of a source that are read at once for it.
_READ_EDGE = 2048

# Physical values are drawn, so that no statistics are needed.
_ANY = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)

_Shown = tuple[Float[Array, "band row col"], Bool[Array, "band row col"]]


def write_reconstruction_picture(
    path: Path, filled: Path, layout: TargetLayout, images: Sequence[OpenImage], reader: RasterReader | None
) -> None:
    """Draw the images that were looked at on the target's grid, the target as it was, and filled.

    The target before and after is stretched alike; the other images each by themselves.

    Args:
        path: of the PNG.
        filled: the GeoTIFF that was written.
        layout: of the target.
        images: that were looked at.
        reader: the target as it was; None: nothing of it was seen.
    """
    grid, sensor = layout.grid, layout.sensor
    pictures, titles = [], []
    for image in images:
        physical, valid = _lattice(image.reader, image.placement, grid, image.reading.asked)
        pictures.append(_drawn(physical, image.reading.asked, valid))
        titles.append(f"{image.title}\n{composite(image.reading.asked).title}")
    with open_raster(RasterSource(paths=(filled,)), sensor) as written:
        physical, valid = _lattice(written, _same(grid), grid, sensor)
    if reader is not None:
        before, seen = _lattice(reader, _same(grid), grid, sensor)
        pictures.append(_drawn(before, sensor, seen, like=physical))
        titles.append(f"{sensor.name}, as given\n{composite(sensor).title}")
    pictures.append(_drawn(physical, sensor, valid, like=physical))
    titles.append(f"{sensor.name}, {'filled' if reader is not None else 'reconstructed'}\n{composite(sensor).title}")
    with whole_file(path) as beside:
        beside.write_bytes(pictures_png(pictures, titles))


def _drawn(physical: Array, sensor: Sensor, valid: Array, *, like: Array | None = None) -> Float[Array, "3 row col"]:
    colours = picture(physical, sensor, valid=valid, like=like, missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


def _lattice(reader: RasterReader, placement: Placement, grid: Grid, sensor: Sensor) -> _Shown:
    """Read an image at every so many pixels of a grid, as physical values, the nearest pixel at each."""
    step = -(-max(grid.height, grid.width) // _PICTURE_EDGE)
    shape = (len(sensor.bands), -(-grid.height // step), -(-grid.width // step))
    physical, valid = np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=bool)
    decoding = normalisation_for(sensor, statistics=dict.fromkeys(sensor.band_names, _ANY))
    for tile in _tiles(grid, placement, step):
        needed = source_window(placement, tile)
        if needed is None:
            continue
        raster = reader.read(needed)
        values = to_physical(torch.from_numpy(_signed(raster.dn)), decoding).numpy()
        at = (slice(tile.row // step, None), slice(tile.col // step, None))
        for band in range(len(values)):
            shown, inside = resample_nearest(values[band], placement=placement, part=needed, window=tile)
            known, _ = resample_nearest(raster.valid[band], placement=placement, part=needed, window=tile)
            _put(physical[band][at], shown[::step, ::step])
            _put(valid[band][at], (inside & known)[::step, ::step])
    return physical, valid


def _put(onto: Array, part: Array) -> None:
    onto[: part.shape[0], : part.shape[1]] = part


def _tiles(grid: Grid, placement: Placement, step: int) -> Iterator[Window]:
    """Cut a grid so that the pixels of the image behind a tile fit in memory."""
    scale = max(1.0, placement.rows.scale, placement.cols.scale)
    edge = max(1, int(_READ_EDGE / scale) // step) * step
    return windows_covering(grid.height, grid.width, tile_height=edge, tile_width=edge)


def _same(grid: Grid) -> Placement:
    return Placement(
        rows=Axis(scale=1.0, offset=0.0, size=grid.height), cols=Axis(scale=1.0, offset=0.0, size=grid.width)
    )


def _signed(dn: Array) -> Array:
    """Torch computes with few unsigned types."""
    return dn.astype(np.int64) if dn.dtype.kind == "u" else dn
