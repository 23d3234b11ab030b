"""Folders laid out as fMoW and BigEarthNet are published, with the released lists of pairs, rendered small."""

import csv
import json
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image

from anyband.arrays import Array

CATEGORIES = ("airport", "zoo")
OPTICAL_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
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
