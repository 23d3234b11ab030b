"""What an embedded scene leaves behind: a GeoTIFF of features, and a picture of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from anyband.data.rasters.gdal import GdalSheet
from anyband.data.rasters.writing import GeoTiffLayout, GeoTiffWriter, geotiff_writer
from anyband.data.tiles import Grid, Window, windows_covering
from anyband.report.maps import PcaColours, fit_pca_colours, pca_picture, picture_png
from anyband.shapes import Array, Float
from anyband.whole_files import whole_file

__all__ = ["BLOCK_PATCHES", "PatchSample", "feature_tiff", "write_pca_picture"]

BLOCK_PATCHES = 256
"""Edge of the blocks in which features are held and written: that of the GeoTIFF's own tiles."""

# chosen: enough for stable components, small enough to hold (60 MB at width 768).
_SAMPLE_PATCHES = 20_000
# chosen: a picture that fits a screen; larger scenes show every second, third … patch.
_PICTURE_EDGE = 1024
# chosen: small maps are enlarged by whole numbers up to about this many pixels.
_ENLARGED_EDGE = 512


@contextmanager
def feature_tiff(path: Path, grid: Grid, *, width: int, tags: dict[str, object]) -> Iterator[GeoTiffWriter]:
    """Open the GeoTIFF of features, float32 with NaN as nodata; it appears when the block ends well.

    Args:
        path: to write.
        grid: of the patches.
        width: number of features, the bands.
        tags: how the features were made, kept in the file as JSON texts.
    """
    layout = GeoTiffLayout(
        grid=grid,
        dtype="float32",
        descriptions=tuple(f"feature {index}" for index in range(width)),
        nodata=float("nan"),
        tags=tuple((key, value if isinstance(value, str) else json.dumps(value)) for key, value in tags.items()),
    )
    with geotiff_writer(path, layout) as writer:
        yield writer


class PatchSample:
    """Features of patches spread over a scene, in bounded memory."""

    def __init__(self, grid: Grid) -> None:
        """Choose how many patches stand for one.

        Args:
            grid: of the patches.
        """
        self._step = -(-grid.height * grid.width // _SAMPLE_PATCHES)
        self._parts: list[Array] = []

    def add(self, features: Float[Array, "width row col"]) -> None:
        """Take every so many of the patches with data, at least one where there is any."""
        rows = features.reshape(len(features), -1).T
        self._parts.append(rows[np.isfinite(rows[:, 0])][:: self._step].copy())

    def colours(self) -> PcaColours:
        """Fit the colours of principal components to the patches with data."""
        return fit_pca_colours(np.concatenate(self._parts))


def write_pca_picture(path: Path, features: Path, grid: Grid, colours: PcaColours) -> None:
    """Draw a feature GeoTIFF in the colours of its principal components; places without data are transparent.

    Args:
        path: of the PNG.
        features: the GeoTIFF.
        grid: of the patches.
        colours: fitted to its features.
    """
    step = -(-max(grid.height, grid.width) // _PICTURE_EDGE)
    picture = np.empty((3, -(-grid.height // step), -(-grid.width // step)), dtype=np.float32)
    edge = max(1, BLOCK_PATCHES // step)
    sheet = GdalSheet(features)
    try:
        for part in windows_covering(*picture.shape[1:], tile_height=edge, tile_width=edge):
            window = _patches_of(part, step, grid)
            stored, _ = sheet.read(range(len(sheet.names)), window)
            picture[:, part.rows, part.cols] = pca_picture(stored[:, ::step, ::step], colours)
    finally:
        sheet.close()
    larger = max(1, _ENLARGED_EDGE // max(picture.shape[1:]))
    with whole_file(path) as beside:
        beside.write_bytes(picture_png(picture.repeat(larger, axis=1).repeat(larger, axis=2)))


def _patches_of(part: Window, step: int, grid: Grid) -> Window:
    """Find the patches behind a part of the picture that shows every `step`-th of them."""
    row, col = part.row * step, part.col * step
    height, width = min(part.height * step, grid.height - row), min(part.width * step, grid.width - col)
    return Window(row=row, col=col, height=height, width=width)
