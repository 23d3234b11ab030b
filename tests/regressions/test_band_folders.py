"""Folders of single-band files as archives name them: each band is the file of its name."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from anyband.data.manifest import parse_entry
from anyband.rasters.reader import open_raster

_HLS = [f"B{number:02d}" for number in range(1, 9)] + ["B8A", *(f"B{number:02d}" for number in range(9, 13))]
_LANDSAT = ["SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10"]
_EARTHSEARCH = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "swir16": "B11", "swir22": "B12",
}  # fmt: skip
_RESOLUTIONS = {10: ("B02", "B03", "B04", "B08"), 20: ("B05", "B06", "B07", "B8A", "B11", "B12", "B01"), 60: ("B09",)}
_HLS_NAME, _LANDSAT_NAME = "HLS.S30.T32UQD.2021153T101031.v2.0", "LC08_L2SP_193026_20200701_20200913_02_T1"

# Name of the archive → sensor, and files: name → (its band, metres); others are of no band.
_ARCHIVES = {
    "hls": ("hls-s30", {f"{_HLS_NAME}.{one}": (one, 30) for one in [*_HLS, "Fmask", "SAA", "VZA"]}),
    "landsat": (
        "landsat8-oli-tirs-l2",
        {f"{_LANDSAT_NAME}_{one}": (one, 30) for one in [*_LANDSAT, "QA_PIXEL", "SR_QA_AEROSOL", "ST_QA", "ST_EMIS"]},
    ),
    "earthsearch": (
        "sentinel2-l2a",
        {one: (_EARTHSEARCH.get(one, one), 20) for one in [*_EARTHSEARCH, "aot", "scl", "wvp"]},
    ),
    "safe": (
        "sentinel2-l2a",
        {f"T32UQD_20200701T102031_{one}_{m}m": (one, m) for m, all_ in _RESOLUTIONS.items() for one in all_}
        | {"T32UQD_20200701T102031_AOT_10m": ("AOT", 10), "T32UQD_20200701T102031_SCL_20m": ("SCL", 20)},
    ),
}


def _write(path: Path, value: int, gsd_m: int) -> None:
    size = 1920 // gsd_m
    ground = {"crs": "EPSG:32632", "transform": Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_500_000)}
    with rasterio.open(path, "w", driver="GTiff", count=1, height=size, width=size, dtype="uint16", **ground) as file:
        file.write(np.full((1, size, size), value, "uint16"))


@pytest.mark.parametrize("archive", _ARCHIVES)
def test_each_band_is_the_file_of_its_name(tmp_path, archive) -> None:
    sensor, files = _ARCHIVES[archive]
    values = {}
    for number, (name, (band, gsd_m)) in enumerate(sorted(files.items()), 1):
        _write(tmp_path / f"{name}.tif", 100 * number, gsd_m)
        values[band] = 100 * number
    entry = parse_entry({"path": str(tmp_path), "sensor": sensor}, folder=Path())

    with open_raster(entry.source, entry.sensor) as reader:
        dn = reader.read().dn

    assert dict(zip(reader.band_names, dn[:, 0, 0].tolist(), strict=True)) == {
        name: values[name] for name in entry.sensor.band_names
    }
