"""GeoTIFFs written whole or not at all: tiled, compressed, geo-referenced, from memory or by window."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Num, Shaped
from anyband.errors import InputError, OutputError
from anyband.files import whole_file
from anyband.rasters.formats import open_quietly
from anyband.rasters.grid import IDENTITY, Grid, Window

__all__ = ["GeoTiffLayout", "GeoTiffWriter", "geotiff_writer", "write_geotiff"]

# chosen: 256 × 256 pixels of many bands still fit a cache, and a 224-pixel tile touches four blocks at most.
_BLOCK_PIXELS = 256
# chosen: less room than one block of one band needs is a full disk.
_FULL_DISK_BYTES = 1_000_000
_BLOCK_STEP = 16  # Source: TIFF 6.0, section 15: tile sides are multiples of 16


@dataclass(frozen=True, kw_only=True)
class GeoTiffLayout:
    """What a GeoTIFF holds besides its pixels."""

    grid: Grid
    """Where the pixels lie."""
    dtype: str
    """NumPy type of the stored numbers."""
    descriptions: tuple[str, ...]
    """Name of each band."""
    nodata: float | None = None
    """Stored number that means "no data"; NaN for floats."""
    tags: tuple[tuple[str, str], ...] = ()
    """(key, value) kept in the file, for example the sensor and the checkpoint."""
    colours: tuple[tuple[int, tuple[int, int, int]], ...] = ()
    """(stored number, red green blue 0 to 255) to show a map of classes in; of the first band, uint8."""


class GeoTiffWriter:
    """Write a GeoTIFF by windows; made by `geotiff_writer`."""

    def __init__(self, dataset: Any, layout: GeoTiffLayout, target: Path) -> None:
        """Take an open dataset."""
        self._dataset = dataset
        self._layout = layout
        self._target = target

    def write(self, window: Window, pixels: Num[Array, "band row col"]) -> None:
        """Write the pixels of a window, all bands.

        Raises:
            InputError: the pixels do not fit the window, the bands or the type.
            OutputError: no room, no permission.
        """
        from rasterio.windows import Window as RasterioWindow

        layout = self._layout
        expected = (len(layout.descriptions), window.height, window.width)
        if pixels.shape != expected or not window.is_inside(layout.grid.height, layout.grid.width):
            raise InputError(
                f"pixels of shape {pixels.shape} do not fit the window ({window}) of an image of "
                f"{len(layout.descriptions)} bands, {layout.grid.height} × {layout.grid.width} pixels"
            )
        if pixels.dtype != np.dtype(layout.dtype):
            raise InputError(f"pixels of {pixels.dtype} can't be written to a GeoTIFF of {layout.dtype}")
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        with _as_output_error(self._target), _quiet():
            self._dataset.write(pixels, window=place)


@contextlib.contextmanager
def geotiff_writer(path: Path, layout: GeoTiffLayout) -> Iterator[GeoTiffWriter]:
    """Open a GeoTIFF for windows; it becomes `path` when the block ends well, else nothing stays.

    Windows along the blocks of 256 × 256 pixels, row by row, are quickest. What is never written is nodata.

    Raises:
        OutputError: no permission, no room on the disk.
    """
    with whole_file(path) as beside:
        with _as_output_error(path), _opened(beside, layout) as dataset:
            yield GeoTiffWriter(dataset, layout, path)
        _check_written(beside, layout, path)


def write_geotiff(
    path: Path,
    pixels: Shaped[Array, "band row col"],
    *,
    grid: Grid,
    descriptions: Sequence[str],
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write an image whole as a tiled, compressed GeoTIFF.

    Args:
        path: to write; an existing file is replaced at the end.
        pixels: stored numbers.
        grid: where they lie.
        descriptions: name of each band.
        nodata: stored number that means "no data".
        tags: kept in the file.

    Raises:
        InputError: pixels and grid or descriptions do not fit.
        OutputError: no permission, no room on the disk.
    """
    layout = GeoTiffLayout(
        grid=grid,
        dtype=str(pixels.dtype),
        descriptions=tuple(descriptions),
        nodata=nodata,
        tags=tuple((tags or {}).items()),
    )
    with geotiff_writer(path, layout) as writer:
        writer.write(Window(row=0, col=0, height=pixels.shape[1], width=pixels.shape[2]), pixels)


@contextlib.contextmanager
def _opened(path: Path, layout: GeoTiffLayout) -> Iterator[Any]:
    dataset = open_quietly(path, profile=_profile(layout))
    try:
        dataset.update_tags(**dict(layout.tags))
        for number, description in enumerate(layout.descriptions, start=1):
            dataset.set_band_description(number, description)
        if layout.colours:
            dataset.write_colormap(1, dict(layout.colours))
        yield dataset
    finally:
        with _quiet():
            dataset.close()


def _quiet() -> Any:
    """Outside of an `Env` GDAL writes errors to stderr too, beside the one message of ours."""
    import rasterio

    return rasterio.Env()


def _profile(layout: GeoTiffLayout) -> dict[str, Any]:
    grid = layout.grid
    block = min(_BLOCK_PIXELS, -(-max(grid.height, grid.width) // _BLOCK_STEP) * _BLOCK_STEP)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": grid.height,
        "width": grid.width,
        "count": len(layout.descriptions),
        "dtype": layout.dtype,
        "nodata": layout.nodata,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": "band",
        "compress": "deflate",
        # Differences of neighbours compress better than the numbers: 2 for integers, 3 for floats.
        "predictor": 3 if np.dtype(layout.dtype).kind == "f" else 2,
        "BIGTIFF": "IF_SAFER",
    }
    if grid.crs is not None:
        profile["crs"] = grid.crs
    if grid.transform != IDENTITY:
        from rasterio.transform import Affine

        profile["transform"] = Affine(*grid.transform)
    return profile


@contextlib.contextmanager
def _as_output_error(target: Path) -> Iterator[None]:
    from rasterio.errors import RasterioError

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


def _check_written(beside: Path, layout: GeoTiffLayout, target: Path) -> None:
    """See that every block is in the file: GDAL writes late, and keeps quiet when closing a file fails."""
    from rasterio.errors import RasterioError

    size = beside.stat().st_size
    try:
        with _quiet(), open_quietly(beside) as dataset:
            missing = sum(
                not _block_is_inside(dataset, number, row, col, size)
                for number in range(1, len(layout.descriptions) + 1)
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
