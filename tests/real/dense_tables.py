"""Write tables of real images with maps of labels, for `anyband evaluate`: land cover, floods, change.

    python tests/real/dense_tables.py --images IMAGES --out FOLDER [--dates 12]

IMAGES holds small pieces of public data sets; docs/real_data.md names them. FOLDER gets, with absolute paths:

`worldcereal_s2.csv`, `worldcereal_s1.csv`, `worldcereal_both.csv`, `worldcereal_landsat8.csv`: one site with land cover
on all its ground, 64 × 64 pixels of 10 m. Each date is a sample and all are of one place, so parts must be blocks. The
dates of `both` are those of `s2`, each with the Sentinel-1 image nearest to it. The site has Sentinel-1 at 20 m; so
that all tables have the same labels, its pixels are written twice by twice into GeoTIFFs of 10 m where it stands alone.

`sen1floods11_s2.csv`, `sen1floods11_s1.csv`, `sen1floods11_both.csv`: water of one chip.

`worldcereal_elevation.csv`: twelve monthly composites of one place and its heights in metres.

`taizhou_change.csv`: two images of Landsat 7 and the pixels that are known to have changed, or not.

`data.yaml`: for each table what a recipe says of it under `data`: classes, ignored values, blocks.
"""

import argparse
import datetime as dt
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import h5netcdf
import numpy as np
import pandas as pd
import rasterio
import yaml
from rasterio.errors import NotGeoreferencedWarning

Row = dict[str, Any]

SITE = "00002806639B424A"
# Assumed: the file gives numbers alone. All pixels of 13 have the crop type 9120, fodder grass, and those of 60 and 99
# have none; 99 is what lies outside of the parcels (trees, roads, yards), 60 stands in clusters beside them.
LAND_COVER = {11: "crops", 13: "grass", 60: "built-up", 99: "other"}
WATER = {0: "land", 1: "water"}
CHANGE = {0: "unchanged", 1: "changed"}
# chosen: dates that show all but a few pixels; pixels under clouds are no data and have no label.
LEAST_CLEAR = 0.98
# chosen: Landsat is rarer, so a tenth may be hidden.
LEAST_CLEAR_LANDSAT = 0.9
# chosen: half of the repeat cycle of one Sentinel-1 satellite.
MOST_DAYS_APART = 6.0
# chosen: a quarter of the site's edge, so that 16 blocks hold all classes in each part; the buffer is what a patch of
# 16 of 224 network pixels covers there, rounded up.
WORLDCEREAL_BLOCKS = {"size_px": 16, "buffer_px": 5}
# chosen: an eighth of the chip's edge; the buffer is one patch of 16 pixels.
FLOOD_BLOCKS = {"size_px": 64, "buffer_px": 16}
HEIGHT_BLOCKS = {"size_px": 20, "buffer_px": 5}
CHANGE_BLOCKS = {"size_px": 50, "buffer_px": 16}


def _kit() -> ModuleType:
    """Load what is known of the images from the list of the whole kit."""
    path = Path(__file__).parent / "kit.py"
    spec = importlib.util.spec_from_file_location("kit_of_dense_tables", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at '{path}'")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _cells(row: Row) -> Row:
    """Write lists and mappings as the cells of a CSV table."""
    written = {}
    for key, value in row.items():
        if isinstance(value, dict):
            value = ";".join(f"{band}={name}" for band, name in value.items())
        elif isinstance(value, list):
            value = ";".join(map(str, value))
        written[key] = value
    return written


def _write(rows: Sequence[Row], path: Path) -> None:
    if not rows:
        raise ValueError(f"no rows for '{path}'")
    pd.DataFrame([_cells(row) for row in rows]).to_csv(path, index=False)


def _spread(dates: list[int], most: int) -> list[int]:
    return [dates[int(i)] for i in np.linspace(0, len(dates) - 1, min(most, len(dates))).round()]


def worldcereal_tables(images: Path, out: Path, *, most_dates: int = 1000) -> None:
    """Write the four tables of land cover.

    Args:
        images: folder of the kit.
        out: folder to write into.
        most_dates: of each table, evenly spread over the clear ones.
    """
    kit = _kit()
    site = images / "worldcereal_s1_s2_l8_timeseries" / SITE
    optical, (radar,) = sorted(site.glob("S2_L2A_*.nc")), site.glob("S1_GRD-*.nc")
    (labels,) = site.glob("OUTPUT_*.nc")
    known = {"label": str(labels), "label_variable": "LC", "place": f"worldcereal {SITE}"}
    dates, radar_dates = kit._times(optical[-1]), kit._times(radar)
    s2, s1, both = [], [], []
    clear = kit._clear_dates(optical[-1], "SCL", kit.CLEAR_CLASSES, LEAST_CLEAR)
    pairs = [(index, nearest) for index in clear if (nearest := _nearest(dates[index], radar_dates)) is not None]
    chosen = set(_spread([index for index, _ in pairs], most_dates))
    for index, nearest in (pair for pair in pairs if pair[0] in chosen):
        scl = {"valid": str(optical[-1]), "valid_variable": "SCL", "valid_values": kit.CLEAR_CLASSES}
        row = kit._worldcereal_optical(site, optical, index, dates[index]) | scl | known
        beside = kit._worldcereal_radar(site, radar, nearest, radar_dates[nearest]) | known
        s2.append(row)
        both += [one | {"set": f"{dates[index]:%Y-%m-%d}"} for one in (row, beside)]
        fine = _twice_as_fine(radar, nearest, labels, out / "worldcereal_s1" / f"{radar_dates[nearest]:%Y-%m-%d}.tif")
        alone = {key: value for key, value in beside.items() if key not in ("time", "bands")} | {"path": str(fine)}
        if alone not in s1:
            s1.append(alone)
    _write(s2, out / "worldcereal_s2.csv")
    _write(s1, out / "worldcereal_s1.csv")
    _write(both, out / "worldcereal_both.csv")
    _write([row | known for row in _landsat(kit, site, most_dates)], out / "worldcereal_landsat8.csv")


def _nearest(date: dt.datetime, others: list[dt.datetime]) -> int | None:
    apart = [abs(date - other) for other in others]
    best = int(np.argmin(apart))
    return best if apart[best] <= dt.timedelta(days=MOST_DAYS_APART) else None


def _twice_as_fine(radar: Path, index: int, labels: Path, path: Path) -> Path:
    """Write a date of Sentinel-1 on the grid of the labels, each pixel of 20 m as four of 10 m."""
    with h5netcdf.File(radar, "r") as file, h5netcdf.File(labels, "r") as grid:
        pixels = np.stack([file.variables[band][index] for band in ("VV", "VH")]).repeat(2, axis=1).repeat(2, axis=2)
        x, y = grid.variables["x"][...], grid.variables["y"][...]
        crs = str(grid.variables["spatial_ref"].attrs["crs_wkt"])
    step = float(x[1] - x[0])
    transform = rasterio.Affine(step, 0.0, float(x[0]) - step / 2, 0.0, -step, float(y[0]) + step / 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": 2, "height": pixels.shape[1], "width": pixels.shape[2], "dtype": "int32", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=transform, compress="deflate", **shape) as file:
        file.write(pixels.astype(np.int32))
        file.descriptions = ("VV", "VH")
    return path


def _landsat(kit: ModuleType, site: Path, most_dates: int) -> list[Row]:
    (path,) = site.glob("L8_SR_*.nc")
    clear = kit._clear_dates(path, "pixel_qa", kit.CLEAR_LANDSAT, LEAST_CLEAR_LANDSAT)
    chosen = set(_spread(clear, most_dates))
    return [row for row in kit._worldcereal_landsat(site, 1000) if row["time"] in chosen]


def elevation_table(images: Path, out: Path) -> None:
    """Write the table of elevation: monthly composites of Sentinel-2 of one place, and the raster of its heights."""
    rows = [row for row in _kit()._worldcereal_monthly(images) if row["sensor"] == "sentinel2-l2a"]
    with h5netcdf.File(rows[0]["path"], "r") as file:
        heights = file.variables["elevation"][0]
        x, y = file.variables["x"][...], file.variables["y"][...]
        crs = str(file.variables["crs"].attrs["crs_wkt"])
    step = float(x[1] - x[0])
    transform = rasterio.Affine(step, 0.0, float(x[0]) - step / 2, 0.0, -step, float(y[0]) + step / 2)
    label = out / "worldcereal_elevation.tif"
    shape = {"count": 1, "height": heights.shape[0], "width": heights.shape[1], "dtype": "float32"}
    with rasterio.open(label, "w", driver="GTiff", crs=crs, transform=transform, **shape) as file:
        file.write(heights.astype(np.float32), 1)
    _write([row | {"label": str(label)} for row in rows], out / "worldcereal_elevation.csv")


def sen1floods11_tables(images: Path, out: Path) -> None:
    """Write the three tables of water on one chip."""
    radar, optical = list(_kit()._sen1floods11(images))
    label = images / "sen1floods11_spain" / "Labels" / "Spain_7370579_LabelHand.tif"
    known = {"label": str(label)}
    _write([optical | known], out / "sen1floods11_s2.csv")
    _write([radar | known], out / "sen1floods11_s1.csv")
    _write([row | known | {"set": "Spain_7370579"} for row in (optical, radar)], out / "sen1floods11_both.csv")


def taizhou_table(images: Path, out: Path) -> None:
    """Write the table of change, and the raster of what is known of it: 1 changed, 0 unchanged, −1 not known."""
    folder = images / "landsat_tm_cd" / "Taizhou"
    before, after = (row for row in _kit()._scenes(images) if row.get("place") == "taizhou")
    with rasterio.open(folder / "2000TM") as file:
        profile = {"crs": file.crs, "transform": file.transform, "height": file.height, "width": file.width}
    changed, unchanged = (_is_set(folder / f"{name}.bmp") for name in ("change", "unchanged"))
    if (changed & unchanged).any():
        raise ValueError("pixels are both changed and unchanged")
    label = out / "taizhou_change.tif"
    with rasterio.open(label, "w", driver="GTiff", count=1, dtype="int16", nodata=-1, **profile) as file:
        file.write(np.where(changed, 1, np.where(unchanged, 0, -1)).astype(np.int16), 1)
    row = {"before": before["path"], "after": after["path"], "label": str(label), "place": "taizhou"}
    row |= {"before_datetime": before["datetime"], "after_datetime": after["datetime"]}
    _write([row | {"sensor": before["sensor"], "bands": before["bands"]}], out / "taizhou_change.csv")


def _is_set(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return np.asarray(file.read(1) > 0)


def data_of_recipes() -> dict[str, Row]:
    """Give what a recipe says of each table, under `data`."""
    cover = {"kind": "class_map", "classes": LAND_COVER, "split": {"val": 0.2, "test": 0.3}}
    cover["split"] |= {"blocks": WORLDCEREAL_BLOCKS}
    water = {"kind": "class_map", "classes": WATER, "ignore": [-1]}
    water["split"] = {"val": 0.2, "test": 0.3, "blocks": FLOOD_BLOCKS}
    height = {"kind": "number_map", "split": {"val": 0.2, "test": 0.3, "blocks": HEIGHT_BLOCKS}}
    change = {"kind": "class_map", "classes": CHANGE, "split": {"val": 0.2, "test": 0.3, "blocks": CHANGE_BLOCKS}}
    return {
        **{f"worldcereal_{name}": cover for name in ("s2", "s1", "both", "landsat8")},
        **{f"sen1floods11_{name}": water for name in ("s2", "s1", "both")},
        "taizhou_change": change,
        "worldcereal_elevation": height,
    }


def write_tables(images: Path, out: Path, *, most_dates: int = 1000) -> list[Path]:
    """Write all tables and `data.yaml`; gives the paths of the tables.

    Args:
        images: folder of the kit.
        out: folder to write into.
        most_dates: of each table of land cover.
    """
    out.mkdir(parents=True, exist_ok=True)
    worldcereal_tables(images, out, most_dates=most_dates)
    sen1floods11_tables(images, out)
    taizhou_table(images, out)
    elevation_table(images, out)
    known = {name: {"source": str(out / f"{name}.csv")} | row for name, row in data_of_recipes().items()}
    (out / "data.yaml").write_text(yaml.dump(known, Dumper=_Plain, sort_keys=False))
    return [out / f"{name}.csv" for name in known]


class _Plain(yaml.SafeDumper):
    """Writes what stands twice out twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of the kit")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--dates", type=int, default=1000, help="most dates of each table of land cover")
    arguments = parser.parse_args()
    paths = write_tables(arguments.images.resolve(), arguments.out.resolve(), most_dates=arguments.dates)
    print("\n".join(map(str, paths)))


if __name__ == "__main__":
    main()
