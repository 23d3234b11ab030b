"""Pairs laid out as BigEarthNet lays them out: two folders of single-band GeoTIFFs, each pair a place of its own.

Sentinel-2 L2A has 12 bands on grids of 120, 60 and 20 pixels, Sentinel-1 two of 120 pixels, dB as float32. Some pairs
have pixels of their own, the others are hard links to them, so that many pairs take little room.
"""

import csv
import os
from pathlib import Path

import numpy as np
import rasterio
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from anyband.sensors.catalogue import get_sensor

__all__ = ["SIDE", "link_pairs", "read_plain", "scene", "write_pixels"]

SIDE = 120
"""Rows and columns of a pair at 10 m."""
_SIZES = {10.0: 120, 20.0: 60, 60.0: 20}


def scene(rng: np.random.Generator, side: int, low: float, high: float) -> np.ndarray:
    """Smooth noise: compresses about as well as land does, neither constant nor white."""
    smooth = gaussian_filter(rng.standard_normal((side, side)), side / 60) * side / 60
    return low + (high - low) / (1 + np.exp(-3 * smooth - 0.3 * rng.standard_normal((side, side))))


def write_pixels(folder: Path, number: int) -> None:
    """Write the 14 files of one pair with pixels of its own."""
    rng = np.random.default_rng(number)
    for kind, sensor in (("S2", "sentinel2-l2a"), ("S1", "sentinel1-grd")):
        (folder / kind / str(number)).mkdir(parents=True)
        for band in get_sensor(sensor).bands:
            side = _SIZES[band.gsd_m] if kind == "S2" else _SIZES[10.0]
            low, high, dtype = (200, 6000, "uint16") if kind == "S2" else (-25, 0, "float32")
            values = scene(rng, side, low, high).astype(dtype)
            size_m = 1200.0 / side
            place = rasterio.Affine(size_m, 0.0, 500_000.0 + 1200.0 * number, 0.0, -size_m, 5_000_000.0)
            profile = {"driver": "GTiff", "height": side, "width": side, "count": 1, "dtype": dtype}
            path = folder / kind / str(number) / f"{number}_{band.name}.tif"
            with rasterio.open(path, "w", crs="EPSG:32631", transform=place, **profile) as file:
                file.write(values, 1)


def link_pairs(pixels: Path, folder: Path, *, pairs: int, distinct: int) -> Path:
    """Give the files of `pairs` pairs names of their own. Returns a manifest of them."""
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "sensor", "place", "encoding"])
        for number in range(pairs):
            for kind, sensor, encoding in (("S2", "sentinel2-l2a", "dn"), ("S1", "sentinel1-grd", "db")):
                name = f"{kind}_{number:07d}"
                (folder / kind / name).mkdir(parents=True)
                for band in get_sensor(sensor).band_names:
                    source = pixels / kind / str(number % distinct) / f"{number % distinct}_{band}.tif"
                    os.link(source, folder / kind / name / f"{name}_{band}.tif")
                rows.writerow([f"{kind}/{name}", sensor, f"pair {number:07d}", encoding])
    return manifest


def read_plain(folder: Path, name: str) -> None:
    for kind, sensor in (("S2", "sentinel2-l2a"), ("S1", "sentinel1-grd")):
        named = f"{kind}_{name}"
        _read_image([folder / kind / named / f"{named}_{band}.tif" for band in get_sensor(sensor).band_names])


def _read_image(paths: list[Path]) -> np.ndarray:
    bands = []
    for path in paths:
        with rasterio.open(path) as file:
            band = file.read(1).astype(np.float32)
        if band.shape != (SIDE, SIDE):
            band = resize(band, (SIDE, SIDE), order=3, anti_aliasing=True, preserve_range=True)
        bands.append(band)
    return np.stack(bands)
