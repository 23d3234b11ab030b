"""GeoTIFFs written whole or not at all: tiled, compressed, geo-referenced, from memory or by window."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window as RasterioWindow

from anyband.arrays import Array, Num, Shaped
from anyband.errors import InputError, OutputError
from anyband.files import whole_file
from anyband.rasters.formats import open_quietly
from anyband.rasters.grid import IDENTITY, Grid, Window

__all__ = ["GeoTiffWriter", "geotiff_writer", "write_geotiff"]

# chosen: 256 × 256 pixels of many bands still fit a cache, and a 224-pixel tile touches four blocks at most.
_BLOCK_PIXELS = 256
# chosen: less room than one block of one band needs is a full disk.
_FULL_DISK_BYTES = 1_000_000
_BLOCK_STEP = 16  # Source: TIFF 6.0, section 15: tile sides are multiples of 16


class GeoTiffWriter:
    """Write a GeoTIFF by windows; made by `geotiff_writer`."""

    def __init__(self, dataset: Any, target: Path) -> None:
        """Take an open dataset, and the path that it will have."""
        self._dataset = dataset
        self._target = target

    def write(self, window: Window, pixels: Num[Array, "band row col"]) -> None:
        """Write the pixels of a window, all bands; `OutputError` where there is no room."""
        count, height, width = self._dataset.count, self._dataset.height, self._dataset.width
        if pixels.shape != (count, window.height, window.width) or not window.is_inside(height, width):
            raise InputError(
                f"pixels of shape {pixels.shape} do not fit the window ({window}) of an image of "
                f"{count} bands, {height} × {width} pixels"
            )
        dtype = np.dtype(self._dataset.dtypes[0])
        if pixels.dtype != dtype:
            raise InputError(f"pixels of {pixels.dtype} can't be written to a GeoTIFF of {dtype}")
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        # Outside of an `Env` GDAL writes errors to stderr too, beside the one message of ours.
        with _as_output_error(self._target), rasterio.Env():
            self._dataset.write(pixels, window=place)


@contextlib.contextmanager
def geotiff_writer(
    path: Path,
    *,
    grid: Grid,
    dtype: str,
    descriptions: Sequence[str],
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> Iterator[GeoTiffWriter]:
    """Open a GeoTIFF for windows; it replaces `path` when the block ends well, else nothing stays.

    `colours` are red green blue (0 to 255) for the numbers of the first band, uint8. `OutputError` where it can't be
    written.
    """
    profile = _profile(grid, dtype=dtype, count=len(descriptions)) | {"nodata": nodata}
    with whole_file(path) as beside:
        with _as_output_error(path):
            dataset = open_quietly(beside, profile=profile)
            try:
                dataset.update_tags(**(tags or {}))
                for number, description in enumerate(descriptions, start=1):
                    dataset.set_band_description(number, description)
                if colours:
                    dataset.write_colormap(1, dict(colours))
                yield GeoTiffWriter(dataset, path)
            finally:
                with rasterio.Env():
                    dataset.close()
        _check_written(beside, path)


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
    dtype = str(pixels.dtype)
    with geotiff_writer(
        path, grid=grid, dtype=dtype, descriptions=descriptions, nodata=nodata, tags=tags, colours=colours
    ) as writer:
        writer.write(Window(row=0, col=0, height=pixels.shape[1], width=pixels.shape[2]), pixels)


def _profile(grid: Grid, *, dtype: str, count: int) -> dict[str, Any]:
    block = min(_BLOCK_PIXELS, -(-max(grid.height, grid.width) // _BLOCK_STEP) * _BLOCK_STEP)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": count,
        "dtype": dtype,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": "band",
        "compress": "deflate",
        # Differences of neighbours compress better than the numbers: 2 for integers, 3 for floats.
        "predictor": 3 if np.dtype(dtype).kind == "f" else 2,
        "BIGTIFF": "IF_SAFER",
    }
    if grid.crs is not None:
        profile["crs"] = grid.crs
    if grid.transform != IDENTITY:
        profile["transform"] = Affine(*grid.transform)
    return profile


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as problem:
        raise _output_error(target, str(problem.__cause__ or problem).strip()) from problem


def _output_error(target: Path, cause: str) -> OutputError:
    # GDAL says "write error" for every reason; the room that is left tells a full disk.
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < _FULL_DISK_BYTES:
        return OutputError(
            f"no room on the disk to write '{target}' ({free_bytes / 1e6:.1f} MB left); free some or name "
            f"another output"
        )
    return OutputError(f"cannot write '{target}': {cause}")


def _check_written(beside: Path, target: Path) -> None:
    """See that every block is in the file: GDAL writes late, and keeps quiet when closing a file fails."""
    size = beside.stat().st_size
    try:
        with rasterio.Env(), open_quietly(beside) as dataset:
            missing = sum(
                not _block_is_inside(dataset, number, row, col, size)
                for number in dataset.indexes
                for (row, col), _ in dataset.block_windows(number)
            )
    except RasterioError as problem:
        raise _output_error(target, f"the file can't be read back ({problem})") from problem
    if missing:
        raise _output_error(target, f"{missing} blocks did not reach the disk")


def _block_is_inside(dataset: Any, number: int, row: int, col: int, size: int) -> bool:
    offset, length = (
        int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=number) or 0) for what in ("OFFSET", "SIZE")
    )
    return offset > 0 and length > 0 and offset + length <= size
