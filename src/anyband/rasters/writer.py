"""GeoTIFFs written whole or not at all: tiled, compressed, geo-referenced, from memory or by window."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from anyband.arrays import Array, Num, Shaped
from anyband.errors import InputError, OutputError
from anyband.files import whole_file
from anyband.rasters.grid import IDENTITY, Grid, Window

__all__ = [
    "QuietReader",
    "QuietWriter",
    "WriteWindow",
    "geotiff_writer",
    "reduced_by_gdal",
    "write_geotiff",
]

# chosen: 256 × 256 pixels of many bands still fit a cache, and a 224-pixel tile touches four blocks at most.
_BLOCK_PIXELS = 256
# chosen: less room than one block of one band needs is a full disk.
_FULL_DISK_MB = 1.0
_BLOCK_STEP = 16  # Source: TIFF 6.0, section 15: tile sides are multiples of 16
_PROFILE: dict[str, Any] = {"driver": "GTiff", "tiled": True, "interleave": "band", "compress": "deflate"}
_PROFILE |= {"BIGTIFF": "IF_SAFER"}
_STDERR = 2
_PLACE = ("OFFSET", "SIZE")  # of a block in a file: GDAL's words


class QuietReader(DatasetReader):  # type: ignore[misc]
    """A file opened, inside of an `Env`, without a warning that it has no georeference, which is no mistake here."""

    def _has_gcps_or_rpcs(self) -> bool:
        # rasterio warns where there is neither a transform nor one of these.
        return True


class QuietWriter(DatasetWriter):  # type: ignore[misc]
    """The same, to be written."""

    def _has_gcps_or_rpcs(self) -> bool:
        return True


def reduced_by_gdal(
    dn: Num[Array, "band row col"], shape: tuple[int, int], *, as_jpeg: bool
) -> Num[Array, "band rows cols"]:
    """Reduce an image as GDAL reads fewer pixels: bilinearly over what is merged, rounded to the type of its numbers.
    `as_jpeg`: then through a JPEG of GDAL's default quality. `InputError` where a JPEG can't hold the numbers."""
    if as_jpeg and (dn.dtype != np.uint8 or len(dn) not in (1, 3)):
        raise InputError(f"a JPEG has one or three bands of 8 bits, found {len(dn)} of type {dn.dtype}")
    found = _in_memory("GTiff", dn, shape)
    return _in_memory("JPEG", found, shape) if as_jpeg else found


def _in_memory(driver: str, dn: Num[Array, "band row col"], shape: tuple[int, int]) -> Num[Array, "band rows cols"]:
    size = {"count": len(dn), "height": dn.shape[1], "width": dn.shape[2], "dtype": dn.dtype}
    with rasterio.MemoryFile() as memory:
        # Any transform will do; without one rasterio warns.
        with memory.open(driver=driver, transform=Affine.scale(2.0, -2.0), **size) as file:
            file.write(dn)
        with memory.open() as file:
            return np.asarray(file.read(out_shape=(len(dn), *shape), resampling=Resampling.bilinear))


WriteWindow = Callable[[Window, Num[Array, "band row col"]], None]
"""Writes the pixels of a window, all bands; `OutputError` where there is no room."""


@contextlib.contextmanager
def geotiff_writer(
    path: Path,
    *,
    grid: Grid,
    dtype: str,
    descriptions: Sequence[str],
    nodata: float | None = None,
    tags: Mapping[str, object] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> Iterator[WriteWindow]:
    """Open a GeoTIFF for windows; it replaces `path` when the block ends well, else nothing stays. `tags` say how it
    was made: texts as they are, all else as JSON. `colours` are red green blue (0 to 255) for the numbers of the first
    band, uint8. `OutputError` where it can't be written."""
    count, height, width = len(descriptions), grid.height, grid.width
    block = min(_BLOCK_PIXELS, -(-max(height, width) // _BLOCK_STEP) * _BLOCK_STEP)
    profile = _PROFILE | {"height": height, "width": width, "count": count, "dtype": dtype, "nodata": nodata}
    # Differences of neighbours compress better than the numbers: 2 for integers, 3 for floats.
    profile |= {"blockxsize": block, "blockysize": block, "predictor": 3 if np.dtype(dtype).kind == "f" else 2}
    profile |= {} if grid.crs is None else {"crs": grid.crs}
    profile |= {} if grid.transform == IDENTITY else {"transform": Affine(*grid.transform)}

    def write(window: Window, pixels: Array) -> None:
        grid.part(window)
        if pixels.shape != (count, window.height, window.width):
            raise InputError(
                f"pixels of shape {pixels.shape} do not fit the window ({window}) of an image of "
                f"{count} bands, {height} × {width} pixels"
            )
        if pixels.dtype != np.dtype(dtype):
            raise InputError(f"pixels of {pixels.dtype} can't be written to a GeoTIFF of {dtype}")
        # Outside of an `Env` GDAL writes errors to stderr too, beside the one message of ours.
        with rasterio.Env(), _libtiff_heard(said):
            dataset.write(pixels, window=RasterioWindow(window.col, window.row, window.width, window.height))

    said: list[str] = []
    with whole_file(path) as beside:
        try:
            with rasterio.Env(), _libtiff_heard(said):
                dataset = QuietWriter(str(beside), "w", **profile)
            try:
                texts = {key: tag if isinstance(tag, str) else json.dumps(tag) for key, tag in (tags or {}).items()}
                dataset.update_tags(**texts)
                for number, description in enumerate(descriptions, start=1):
                    dataset.set_band_description(number, description)
                if colours:
                    dataset.write_colormap(1, dict(colours))
                yield write
            finally:
                with rasterio.Env(), _libtiff_heard(said):
                    dataset.close()
        except RasterioError as problem:
            reasons = dict.fromkeys(line.partition(": ")[2].rstrip(".\n") for line in said)
            more = f" ({', '.join(reasons)})" if reasons else ""
            raise _output_error(path, f"{str(problem.__cause__ or problem).strip()}{more}") from problem
        _check_written(beside, path)


@contextlib.contextmanager
def _libtiff_heard(said: list[str]) -> Iterator[None]:
    """Add to `said` what libtiff, past GDAL, writes to the error output; what others write there meanwhile follows."""
    if sys.stderr is None:  # as in a process without a terminal
        yield
        return
    reading, writing = os.pipe()
    # More than a pipe holds is lost, and nobody waits.
    os.set_blocking(writing, False)
    sys.stderr.flush()
    before = os.dup(_STDERR)
    os.dup2(writing, _STDERR)
    os.close(writing)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, _STDERR)
        os.close(before)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as heard:
            for line in heard:
                said.append(line) if line.startswith("_tiff") else sys.stderr.write(line)


def write_geotiff(
    path: Path,
    pixels: Shaped[Array, "band row col"],
    *,
    grid: Grid,
    descriptions: Sequence[str],
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> None:
    """Write an image whole as a tiled, compressed GeoTIFF; see `geotiff_writer`."""
    opened = geotiff_writer(
        path, grid=grid, dtype=str(pixels.dtype), descriptions=descriptions, nodata=nodata, tags=tags, colours=colours
    )
    with opened as write:
        write(Window(row=0, col=0, height=pixels.shape[1], width=pixels.shape[2]), pixels)


def _output_error(target: Path, cause: str) -> OutputError:
    # GDAL says "write error" for every reason; the room that is left tells a full disk.
    free_mb = shutil.disk_usage(target.parent).free / 1e6
    if free_mb < _FULL_DISK_MB:
        return OutputError(
            f"no room on the disk to write '{target}' ({free_mb:.1f} MB left); free some or name another output"
        )
    return OutputError(f"cannot write '{target}': {cause}")


def _check_written(beside: Path, target: Path) -> None:
    """See that every block is in the file: GDAL writes late, and keeps quiet when closing a file fails."""
    size, missing = beside.stat().st_size, 0
    try:
        with rasterio.Env(), QuietReader(str(beside)) as dataset:
            for number in dataset.indexes:
                for (row, col), _ in dataset.block_windows(number):
                    found = (dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=number) for what in _PLACE)
                    offset, length = (int(text or 0) for text in found)
                    missing += not (offset > 0 and length > 0 and offset + length <= size)
    except RasterioError as problem:
        raise _output_error(target, f"the file can't be read back ({problem})") from problem
    if missing:
        raise _output_error(target, f"{missing} blocks did not reach the disk")
