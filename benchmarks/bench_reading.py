"""Where the time of reading goes: one pair of chips, layer by layer, on one core.

    python benchmarks/bench_reading.py [--pairs 512] [--repeats 7]

The store and its pairs are those of `bench_data.py`. Each row does one thing more than the row before, in turn, in one
process on one core, chips shuffled:

- numcodecs decodes the compressed bytes of the chips, which are in memory already;
- TensorStore reads the same arrays from a copy of the store in memory: finds chips in shards, checks, decodes, copies;
- from files;
- into new arrays instead of memory that is used again and again, which is not what training does;
- the batches of training: both sensors into one block of host memory, with what the index says of each pair.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorstore as ts
import torch
from bench_data import BATCH, write_store
from measure import circumstances, exit_code_of, pin_to_one_core, report, time_in_turn
from numcodecs import Blosc  # type: ignore[import-untyped]

from anyband.data.image_sets import find_pairs
from anyband.data.loader import SetSampler, read_sets
from anyband.data.store import ChipStore

_SENSORS = ("sentinel2-l2a", "sentinel1-grd")


def _copied_to_memory(store: ChipStore, array: str) -> ts.TensorStore:
    """Copy an array as it lies in its shards, byte by byte, and open the copy."""
    source = ts.KvStore.open(store.location.kvstore(f"chips/{array}/")).result()
    copy, context = {"driver": "memory", "path": f"{array}/"}, ts.Context()
    memory = ts.KvStore.open(copy, context=context).result()
    for key in source.list().result():
        memory.write(key, source.read(key).result().value).result()
    return ts.open({"driver": "zarr3", "kvstore": copy}, context=context).result()


def _ways(store: ChipStore, num_pairs: int) -> dict[str, Callable[[], object]]:
    order = np.random.default_rng(0).permutation(num_pairs)
    batches = [order[first : first + BATCH] for first in range(0, num_pairs, BATCH)]
    names = [next(name for name, info in store.arrays.items() if info.sensor == sensor) for sensor in _SENSORS]
    chips = {name: store.read(name, np.arange(num_pairs))[0] for name in names}
    outs = {name: np.empty_like(read[:BATCH]) for name, read in chips.items()}
    blosc = {name: Blosc("lz4", clevel=5, shuffle=Blosc.BITSHUFFLE, blocksize=0) for name in names}
    packed = {name: [blosc[name].encode(chip) for chip in read] for name, read in chips.items()}
    opened = {name: ts.open({"driver": "zarr3", "kvstore": store.location.kvstore(f"chips/{name}/")}) for name in names}
    files = {name: future.result() for name, future in opened.items()}
    memory = {name: _copied_to_memory(store, name) for name in names}

    def decode() -> None:
        for name in names:
            for chip in order:
                blosc[name].decode(packed[name][chip], out=outs[name][0])

    def read(arrays: dict[str, ts.TensorStore]) -> None:
        for rows in batches:
            for name in names:
                ts.array(outs[name][: len(rows)], copy=False).write(arrays[name][rows]).result()

    def read_new() -> None:
        for rows in batches:
            for name in names:
                files[name][rows].read().result()

    pairs = find_pairs(store, sensors=[_SENSORS], split=None)
    sampler = SetSampler(pairs, batch_size=BATCH, seed=0)

    def batch() -> None:
        for step in range(num_pairs // BATCH):
            read_sets(store, sampler.batch(step), metadata=False)

    return {
        "decoding alone": decode,
        "arrays from memory": lambda: read(memory),
        "arrays from files": lambda: read(files),
        "arrays from files, new memory": read_new,
        "batches of training": batch,
    }


def _measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_store(Path(name), arguments.pairs)
        core = pin_to_one_core()
        torch.set_num_threads(1)
        store = ChipStore.open(Path(name) / "store")
        timings = time_in_turn(_ways(store, arguments.pairs), repeats=arguments.repeats)
    rows = [
        {
            "what": key,
            "ms/pair": 1000 * timing.median_s / arguments.pairs,
            "CPU ms/pair": 1000 * sorted(timing.cpu_s)[len(timing.cpu_s) // 2] / arguments.pairs,
            "spread": timing.spread,
        }
        for key, timing in timings.items()
    ]
    facts = circumstances(("numpy", "numcodecs", "tensorstore"))
    settings = {"pairs": arguments.pairs, "batch": BATCH, "repeats": arguments.repeats, "core": core}
    report("bench_reading", rows, {**facts, "settings": settings})


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=512, help=f"a multiple of {BATCH}")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: _measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
