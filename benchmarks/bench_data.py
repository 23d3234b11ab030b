"""Pairs a second for one core: from the chip store, against single-band files resized with scikit-image.

    python benchmarks/bench_data.py [--pairs 256] [--repeats 5]

A pair is Sentinel-2 (12 bands on grids of 120, 60 and 20 pixels) and Sentinel-1 (2 bands of 120 pixels), laid out as
BigEarthNet lays it out: 14 GeoTIFFs. The slow reader opens each, and brings coarser bands to 120 pixels by cubic,
anti-aliased resizing. The store reader gives the same pairs, shuffled, as one collated batch of native numbers.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import rasterio
from measure import circumstances, pin_to_one_core, report, time_in_turn
from rasterio.errors import NotGeoreferencedWarning
from scipy.ndimage import gaussian_filter
from skimage.transform import resize

from anyband.data.chip_index import ChipRecord
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, StoreHeader, write_store
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding

SIDE = 120
BATCH = 64
SIZES = {10.0: 120, 20.0: 60, 60.0: 20}


def _scene(rng: np.random.Generator, side: int, low: float, high: float) -> np.ndarray:
    """Smooth noise: compresses about as well as land does, neither constant nor white."""
    smooth = gaussian_filter(rng.standard_normal((side, side)), side / 60) * side / 60
    return low + (high - low) / (1 + np.exp(-3 * smooth - 0.3 * rng.standard_normal((side, side))))


def _write_files(folder: Path, num_pairs: int) -> list[tuple[list[Path], list[Path]]]:
    optical, radar = get_sensor("sentinel2-l2a"), get_sensor("sentinel1-grd")
    pairs = []
    for number in range(num_pairs):
        rng = np.random.default_rng(number)
        names: tuple[list[Path], list[Path]] = ([], [])
        for band in optical.bands:
            dn = _scene(rng, SIZES[band.gsd_m], 200, 6000).astype(np.uint16)
            names[0].append(_write(folder / f"{number}_{band.name}.tif", dn))
        for band in radar.bands:
            sigma0_db = _scene(rng, SIDE, -25, 0).astype(np.float32)
            names[1].append(_write(folder / f"{number}_{band.name}.tif", sigma0_db))
        pairs.append(names)
    return pairs


def _write(path: Path, values: np.ndarray) -> Path:
    profile = {"driver": "GTiff", "height": values.shape[0], "width": values.shape[1], "count": 1}
    with rasterio.open(path, "w", dtype=values.dtype, **profile) as file:
        file.write(values, 1)
    return path


def _read_slow(paths: list[Path]) -> np.ndarray:
    bands = []
    for path in paths:
        with rasterio.open(path) as file:
            band = file.read(1).astype(np.float32)
        if band.shape != (SIDE, SIDE):
            band = resize(band, (SIDE, SIDE), order=3, anti_aliasing=True, preserve_range=True)
        bands.append(band)
    return np.stack(bands)


def _write_chips(path: Path, pairs: list[tuple[list[Path], list[Path]]]) -> ChipStore:
    specs = {
        "sentinel2-l2a": _spec("sentinel2-l2a", "uint16", Encoding(scale=1e-4), 0.0),
        "sentinel1-grd": _spec("sentinel1-grd", "int16", Encoding(scale=0.01), -32768.0),
    }

    def chips():
        for number, (optical, radar) in enumerate(pairs):
            images = {
                "sentinel2-l2a": _read_slow(optical).round().astype(np.uint16),
                "sentinel1-grd": (_read_slow(radar) * 100).round().astype(np.int16),
            }
            for sensor, pixels in images.items():
                record = ChipRecord(
                    place=str(number),
                    cell="r000c000",
                    sensor=sensor,
                    source_path=str(number),
                    valid_fraction=1.0,
                )
                yield specs[sensor], record, Chip(pixels=pixels)

    write_store(path, chips(), StoreHeader(sensors={name: get_sensor(name) for name in specs}))
    return ChipStore.open(path)


def _spec(sensor: str, dtype: str, encoding: Encoding, nodata: float) -> ArraySpec:
    bands = get_sensor(sensor).band_names
    encodings = dict.fromkeys(bands, encoding)
    return ArraySpec(
        sensor=sensor, bands=bands, height=SIDE, width=SIDE, dtype=dtype, encoding=encodings, nodata=nodata
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--slow-pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    core = pin_to_one_core()
    with tempfile.TemporaryDirectory() as name:
        pairs = _write_files(Path(name), arguments.pairs)
        store = _write_chips(Path(name) / "store", pairs)
        order = np.random.default_rng(0).permutation(arguments.pairs)

        def slow() -> None:
            for number in order[: arguments.slow_pairs]:
                _read_slow(pairs[number][0])
                _read_slow(pairs[number][1])

        def fast() -> None:
            for start in range(0, arguments.pairs - BATCH + 1, BATCH):
                for array in store.arrays:
                    store.read(array, order[start : start + BATCH])

        timings = time_in_turn({"files": slow, "store": fast}, repeats=arguments.repeats)
        counts = {"files": arguments.slow_pairs, "store": arguments.pairs // BATCH * BATCH}
        size_mb = sum(file.stat().st_size for file in (Path(name) / "store").rglob("*") if file.is_file()) / 1e6
    rates = {key: counts[key] / timing.median_s for key, timing in timings.items()}
    rows = [
        {
            "reader": {"files": "14 GeoTIFFs, scikit-image", "store": "chip store"}[key],
            "pairs/s": rates[key],
            "CPU ms/pair": 1000 * sorted(timing.cpu_s)[len(timing.cpu_s) // 2] / counts[key],
            "spread": timing.spread,
            "ratio": rates[key] / rates["files"],
        }
        for key, timing in timings.items()
    ]
    facts = circumstances(("numpy", "rasterio", "scikit-image", "tensorstore"))
    settings = {
        "pairs": arguments.pairs,
        "batch": BATCH,
        "repeats": arguments.repeats,
        "core": core,
        "store_mb": size_mb,
    }
    report("bench_data", rows, {**facts, "settings": settings})


if __name__ == "__main__":
    main()
