"""Folders laid out as the data sets of the paper are published, rendered small."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from anyband.arrays import Array

CATEGORIES = ("airport", "zoo")
OPTICAL_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_RNG = np.random.default_rng(0)
_PARTS = ("train",) * 4 + ("val", "test")
_S2_PX = {"B01": 2, "B09": 2, "B02": 12, "B03": 12, "B04": 12, "B08": 12}
_COARSE = {"B01": 20, "B09": 20, **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12"), 60)}


def _write(path: Path, pixels: Array, crs: str, transform: rasterio.Affine) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", crs=crs, transform=transform, **shape) as file:
        file.write(pixels)


def make_fmow(root: Path, *, num: int) -> list[str]:
    """Make so many pairs of odd sizes, one a location; gives the lines of the list of all of them."""
    rng, rows, lines = np.random.default_rng(0), dict[str, list[tuple[str, int, int]]](), list[str]()
    for location in range(num):
        split = ("train", "val", "test_gt")[max(0, location // 2 % 5 - 2)]
        category = CATEGORIES[location % 2]
        height, width = rng.integers(12, 33, 2).tolist()
        # Sizes are rounded on their own; the ground is seldom a whole number of pixels.
        fine = [round((size + rng.uniform(-0.4, 0.4)) * 4.7) for size in (height, width)]
        stem = f"{category}_{location}/{category}_{location}_5"
        folder = f"{split}/{category}"
        level = 90 + 80 * (location % 2)
        picture = rng.normal(level, 30, (*fine, 3)).clip(0, 255).astype(np.uint8)
        path = root / "fmow-rgb" / folder / f"{stem}_rgb.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        transform = rasterio.Affine(1e-4, 0, 10 + location * 0.1, 0, -9e-5, 50.0)
        optical = rng.normal(20 * level, 300, (13, height, width)).clip(1, 9000).astype(np.uint16)
        _write(root / "fmow-sentinel" / folder / f"{stem}.tif", optical, "EPSG:4326", transform)
        rows.setdefault(split, []).append((category, location, 5))
        # The released list names pictures as the full data set does.
        lines.append(f"./{folder}/{stem}_rgb.tif {folder}/{stem}.tif")
    for split in ("train", "val", "test_gt"):
        with (root / "fmow-sentinel" / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["category", "location_id", "image_id", "timestamp"])
            writer.writerows([*row, "2016-08-15T10:20:30Z"] for row in rows.get(split, []))
    return lines


def make_bigearthnet(root: Path, *, num: int) -> list[str]:
    """Make so many pairs of patches; gives lines `S2name S1name`."""
    rng, lines = np.random.default_rng(0), list[str]()
    for number in range(num):
        place = f"{number // 90}_{number % 90}"
        names = f"S2A_MSIL2A_20180526T100031_{place}", f"S1A_IW_GRDH_1SDV_20180526T045642_34WFU_{place}"
        labels = (["Pastures"], ["Coniferous forest", "Mixed forest"])[number % 2]
        corner = 400_000.0 + 1200.0 * number
        of_version = "BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"
        for name, folder, bands in zip(names, of_version, (OPTICAL_BANDS, ("VV", "VH")), strict=True):
            for band in bands:
                side = _COARSE.get(band, 120)
                level = 1500 + 1500 * (number % 2) if band in OPTICAL_BANDS else -9.0 - 6 * (number % 2)
                pixels = rng.normal(level, abs(level) / 5, (1, side, side))
                kept = pixels.clip(1, 9000).astype(np.uint16) if band in OPTICAL_BANDS else pixels.astype(np.float32)
                step = 1200 / side
                transform = rasterio.Affine(step, 0, corner, 0, -step, 6_000_000.0)
                _write(root / folder / name / f"{name}_{band}.tif", kept, "EPSG:32634", transform)
            metadata = {"labels": labels, **({"corresponding_s2_patch": names[0]} if "S1" in folder else {})}
            (root / folder / name / f"{name}_labels_metadata.json").write_text(json.dumps(metadata))
        lines.append(" ".join(names))
    return lines


def write_list(path: Path, lines: list[str]) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def _tif(path: Path, pixels: Array, *, place: int = 0, gsd_m: float = 10.0) -> None:
    """Write a GeoTIFF; equal places lie on equal ground."""
    _write(path, pixels, "EPSG:32632", rasterio.Affine(gsd_m, 0, 500_000, 0, -gsd_m, 5_000_000 + 10_000 * place))


def _dn(*shape: int) -> Array:
    return _RNG.integers(100, 4000, shape).astype(np.uint16)


def _class_folders(root: Path, names: tuple[str, str], write: Callable[[Path], None]) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(10):
            write(root / name / f"{name}_{index}")


def _eurosat(root: Path) -> None:
    _class_folders(root, ("Forest", "River"), lambda path: _tif(path.with_suffix(".tif"), _dn(13, 16, 16)))


def _pictures(names: tuple[str, str]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(_RNG.integers(0, 255, (24, 24, 3)).astype(np.uint8)).save(path.with_suffix(".jpg"))

    return lambda root: _class_folders(root, names, write)


def _bigearthnet(root: Path) -> None:
    for index in range(24):
        optical, radar = f"S2A_{index}_1", f"S1A_{index}_1"
        labels = [["Pastures", "Sea and ocean"][index % 2], *(["Mixed forest"] if index % 3 else [])]
        for band in ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"):
            size = _S2_PX.get(band, 6)
            _tif(root / "BigEarthNet-v1.0" / optical / f"{optical}_{band}.tif", _dn(1, size, size), gsd_m=120 / size)
        for band in ("VV", "VH"):
            decibels = _RNG.normal(-12, 3, (1, 12, 12)).astype(np.float32)
            _tif(root / "BigEarthNet-S1-v1.0" / radar / f"{radar}_{band}.tif", decibels)
        metadata = {"labels": labels}
        _json(root / "BigEarthNet-v1.0" / optical / f"{optical}_labels_metadata.json", metadata)
        metadata |= {"corresponding_s2_patch": optical}
        _json(root / "BigEarthNet-S1-v1.0" / radar / f"{radar}_labels_metadata.json", metadata)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _burn_scars(root: Path) -> None:
    for part, count in (("training", 6), ("validation", 2)):
        for index in range(count):
            stem = f"subsetted_512x512_HLS.S30.T1{index}SDH.2018{190 + index}.v1.4"
            _tif(root / part / f"{stem}_merged.tif", _RNG.random((6, 48, 48), dtype=np.float32), place=index)
            _tif(root / part / f"{stem}.mask.tif", _RNG.integers(-1, 2, (1, 48, 48)).astype(np.int16), place=index)


def _dfc2020(root: Path) -> None:
    for part, count in (("test", 6), ("validation", 2)):
        folder = root / f"ROIs0000_{part}"
        for index in range(count):
            patch = f"0_p{index}"
            files = {kind: folder / f"{kind}_0" / f"ROIs0000_{part}_{kind}_{patch}.tif" for kind in ("s2", "s1", "dfc")}
            _tif(files["s2"], _dn(13, 32, 32), place=index)
            _tif(files["s1"], _RNG.normal(-12, 3, (2, 32, 32)).astype(np.float32), place=index)
            _tif(files["dfc"], _RNG.choice([1, 2, 10], (1, 32, 32)).astype(np.uint16), place=index)


def _dynamicearthnet(root: Path) -> None:
    lines: dict[str, list[str]] = {}
    for index, split in enumerate(_PARTS):
        place, month = f"{1300 + index}_3077_13", f"2018-0{index + 1}"
        images, labels = f"10N/00E-000N/{place}/PF-SR", f"labels/{place}_10N/Labels/Raster/{place}-{month}-01.tif"
        for day in ("01", "05", "10", "15", "20", "25"):
            _tif(root / "planet" / images / f"{month}-{day}.tif", _dn(4, 48, 48), place=index)
        # A band for each of seven classes, 255 where it is.
        classes = _RNG.integers(0, 7, (48, 48))
        _tif(root / labels, 255 * (classes == np.arange(7)[:, None, None]).astype(np.uint8), place=index)
        lines.setdefault(split, []).append(f"/reprocess-cropped/UTM-24000/{images} /{labels} {month}")
    (root / "dynnet_training_splits").mkdir()
    for split, of_split in lines.items():
        write_list(root / "dynnet_training_splits" / f"{split}.txt", of_split)


def _sickle(root: Path) -> None:
    rows = [["UNIQUE_ID", "PLOT_ID", "STANDARD_SEASON", "YEAR", "SPLIT"]]
    for index in range(8):
        rows.append([str(index), str(index), "Jan-June", "2018", "train" if index < 6 else "val"])
        crops = _RNG.integers(1, 3, (16, 16))
        _tif(root / "masks" / "10m" / f"{index}.tif", np.stack([np.full((16, 16), index), crops]).astype(np.float32))
        for date in ("20180110", "20180211"):
            path = root / "images" / "L8" / "npy" / str(index) / f"LC08_143053_{date}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{band: _dn(6, 6) for band in (*(f"SR_B{number}" for number in range(1, 8)), "ST_B10")})
    with (root / "sickle_dataset_tabular.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def _spacenet7(root: Path) -> None:
    places = {
        "train": ("L15-0331E-1257N_1327_3160_13", "L15-0358E-1220N_1433_3310_13"),
        "val": ("L15-0357E-1223N_1429_3296_13",),
        "test": ("L15-0387E-1276N_1549_3087_13",),
    }
    known = {}
    for index, place in enumerate(one for of_split in places.values() for one in of_split):
        known[place] = [{"aoi_id": place, "year": 2018, "month": one, "mask": one == 2, "label": 1} for one in (1, 2)]
        for month in (1, 2):
            stem = f"global_monthly_2018_0{month}_mosaic_{place}"
            pixels = _RNG.integers(1, 255, (4, 32, 32)).astype(np.uint8)
            pixels[3] = 255
            _tif(root / "train" / place / "images_masked" / f"{stem}.tif", pixels, place=index)
            houses = 255 * (_RNG.random((1, 32, 32)) < 0.2).astype(np.uint8)
            _tif(root / "train" / place / "labels_raster" / f"{stem}_Buildings.tif", houses, place=index)
    _json(root / "metadata_train.json", known)


RENDERED: dict[str, Callable[[Path], None]] = {
    "eurosat": _eurosat,
    "whu-rs19": _pictures(("Beach", "Bridge")),
    "ucmerced": _pictures(("beach", "river")),
    "resisc45": _pictures(("beach", "river")),
    "bigearthnet-mm": _bigearthnet,
    "hls-burn-scars": _burn_scars,
    "dfc2020": _dfc2020,
    "dynamicearthnet": _dynamicearthnet,
    "sickle": _sickle,
    "spacenet7": _spacenet7,
}
"""Writes a data set, by the name that recipes have for it, small and random, into a folder laid out as published."""
