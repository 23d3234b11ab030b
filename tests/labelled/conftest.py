"""Small rasters with and without a place on the ground."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

WriteRaster = Callable[..., Path]


@pytest.fixture(scope="session")
def raster() -> WriteRaster:
    """Write a raster: `raster(path, pixels, crs=, east=, north=, step=, nodata=, names=)`."""
    return _raster


def _raster(
    path: Path,
    pixels: np.ndarray,
    *,
    crs: str | None = "EPSG:32632",
    east: float = 5e5,
    north: float = 5e6,
    step: float = 10.0,
    nodata: float | None = None,
    names: tuple[str, ...] = (),
) -> Path:
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    count, height, width = pixels.shape
    place = {"crs": crs, "transform": rasterio.Affine(step, 0.0, east, 0.0, -step, north)} if crs else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=pixels.dtype, nodata=nodata, **place
        ) as file:
            file.write(pixels)
            if names:
                file.descriptions = names
    return path


Optical = Callable[..., Path]


@pytest.fixture(scope="session")
def optical() -> Optical:
    """Write an image of Sentinel-2 in B02, B03, B04: `optical(path, size=, seed=, **georeference)`."""

    def write(path: Path, *, size: tuple[int, int] = (16, 16), seed: int = 0, **where: object) -> Path:
        pixels = np.random.default_rng(seed).integers(200, 4000, (3, *size)).astype(np.uint16)
        return _raster(path, pixels, names=("B02", "B03", "B04"), **where)

    return write
