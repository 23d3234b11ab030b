"""Pairs a second for one core: from the chip store to a batch, against single-band files.

    python benchmarks/bench_data.py [--pairs 512] [--repeats 5] [--released FOLDER]

A pair is Sentinel-2 (12 bands) and Sentinel-1 (2 bands) of 120 pixels, laid out as BigEarthNet lays it out: 14 GeoTIFFs
(`pair_files.py`). `anyband prepare` makes the store of them. In turn, in one process on one core, pairs shuffled:

- a plain reader opens each file and brings coarser bands to 120 pixels by cubic, anti-aliased resizing (scikit-image);
- with `--released`, the data set of the released code of SMARTIES, which also normalises, crops and resizes;
- the chip store gives collated batches of native numbers, in memory that a GPU reads by itself where there is one;
- the same, with what training draws for each pair: its crop, and noise for mixup and masking.

What is handed over for each pair is counted in bytes. Cropping and resizing of ours happen on the device;
`tests/pretraining/test_fast_and_slow_path.py` holds what comes out to the slow way.
"""

import argparse
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import circumstances, pin_to_one_core, report, time_in_turn
from pair_files import link_pairs, read_plain, write_pixels
from rasterio.errors import NotGeoreferencedWarning
from released import ReleasedReader

from anyband.data.image_sets import find_pairs
from anyband.data.loader import SetSampler, read_sets
from anyband.data.store import ChipStore
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import PretrainRecipe

BATCH = 64
DISTINCT = 128
# chosen: about a second, beside the slow readers' five.
PASSES = 4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--slow-pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--released", type=Path, help="checkout of the released code of SMARTIES")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        files = write_store(top, arguments.pairs)
        # Threads stay on the core that they were made on, so the store is opened after this.
        core = pin_to_one_core()
        torch.set_num_threads(1)
        store = ChipStore.open(top / "store")
        order = np.random.default_rng(0).permutation(arguments.pairs)[: arguments.slow_pairs]
        ways, handed = _store_ways(store)
        counts = dict.fromkeys(ways, PASSES * (arguments.pairs // BATCH) * BATCH)
        plain = "14 GeoTIFFs, plain reader"

        def read_files() -> None:
            for number in order:
                read_plain(files, f"{number:07d}")

        ways[plain] = read_files
        counts[plain], handed[plain] = len(order), 14 * 120 * 120 * 4
        rival = plain
        if arguments.released:
            rival = "14 GeoTIFFs, released reader"
            reader = ReleasedReader(arguments.released, files, pairs=arguments.pairs)
            ways[rival] = lambda: [reader.read(int(number)) for number in order]
            counts[rival], handed[rival] = len(order), sum(one.nbytes for one in reader.read(0))
        timings = time_in_turn(ways, repeats=arguments.repeats)
        size_mb = sum(file.stat().st_size for file in (top / "store").rglob("*") if file.is_file()) / 1e6
    rates = {key: counts[key] / timing.median_s for key, timing in timings.items()}
    rows = [
        {
            "reader": key,
            "pairs/s": rates[key],
            "CPU ms/pair": 1000 * sorted(timing.cpu_s)[len(timing.cpu_s) // 2] / counts[key],
            "MB/pair": handed[key] / 1e6,
            "spread": timing.spread,
            "ratio": rates[key] / rates[rival],
        }
        for key, timing in timings.items()
    ]
    facts = circumstances(("numpy", "rasterio", "scikit-image", "tensorstore", "torch"))
    settings = {
        "pairs": arguments.pairs,
        "batch": BATCH,
        "passes": PASSES,
        "repeats": arguments.repeats,
        "core": core,
        "store_mb": size_mb,
        "against": rival,
    }
    report("bench_data", rows, {**facts, "settings": settings})


def write_store(top: Path, num_pairs: int) -> Path:
    """Write the files of all pairs and prepare `top/store` of them. Returns the folder of the files."""
    for number in range(min(DISTINCT, num_pairs)):
        write_pixels(top / "pixels", number)
    files = top / "files"
    files.mkdir()
    manifest = link_pairs(top / "pixels", files, pairs=num_pairs, distinct=min(DISTINCT, num_pairs))
    words = ["prepare", str(manifest), "--out", str(top / "store"), "--workers", "2", "--quiet"]
    subprocess.run([sys.executable, "-m", "anyband", *words], check=True, stdout=subprocess.DEVNULL)
    return files


def _store_ways(store: ChipStore) -> tuple[dict[str, Callable[[], object]], dict[str, float]]:
    """Read all pairs of the store `PASSES` times, batched in the order of training, without and with draws for each."""
    pairs = find_pairs(store, sensors=[("sentinel2-l2a", "sentinel1-grd")], split=None)
    sampler = SetSampler(pairs, batch_size=BATCH, seed=0)
    recipe = PretrainRecipe(name="reading")
    preparer = BatchPreparer(recipe, plan_run(recipe, store).inputs, device=torch.device("cpu"))
    steps = range(PASSES * (len(pairs) // BATCH))

    def read() -> None:
        for step in steps:
            read_sets(store, sampler.batch(step), metadata=False)

    def read_and_draw() -> None:
        for step in steps:
            preparer.draw(read_sets(store, sampler.batch(step), metadata=False), step=step)

    raw = read_sets(store, sampler.batch(0), metadata=False)
    drawn = preparer.draw(raw, step=0)
    pixels = sum(group.pixels.nbytes for group in raw.groups) / BATCH
    ways: dict[str, Callable[[], object]] = {
        "chip store to batch": read,
        "chip store to batch, with draws": read_and_draw,
    }
    return ways, dict(zip(ways, (pixels, pixels + drawn.noise.nbytes / BATCH), strict=True))


if __name__ == "__main__":
    main()
