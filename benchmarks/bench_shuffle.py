"""What an order by shards costs in mixing, and what it saves in reading.

    python benchmarks/bench_shuffle.py [--pairs 1024] [--shard-pairs 16] [--repeats 3]

Mixing is computed, for 250,000 pairs in 1,000 shards and batches of 2,048: different shards in a batch, how often two
samples of a batch are of one shard (over the first epoch, from the sampler itself), and how often a shard is fetched in
an epoch. Reading is measured on a store on the disk, with
batches of 64: Sentinel-2 (12 bands) and Sentinel-1 (2 bands) of 120 pixels. Requests and bytes are those that
TensorStore counts. All threads share one core. The files are in the system's memory, so the rates say what the
processor does; on slow disks and object storage the number of requests decides.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from measure import Timing, circumstances, pin_to_one_core, report, time_in_turn
from pair_files import SIDE, scene
from pair_store import array_spec

from anyband.data import store_writer
from anyband.data.image_sets import ImageSets, find_pairs
from anyband.data.loader import (
    BatchOrder,
    OpenShards,
    RawSets,
    SetDraw,
    SetSampler,
    ShardShuffle,
    batches_in_work,
    open_shard_of,
    read_ahead,
    read_sets,
    shard_shuffle,
)
from anyband.data.store import ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Encoding

NUM_PAIRS, NUM_SHARDS, BATCH = 250_000, 1_000, 2_048
OPEN_SHARDS = (8, 32, 64)
STORE_BATCH = 64
WORKERS = 2
# chosen: so many different scenes; the others are these, moved.
SCENES = 16
REQUESTS, BYTES = "/tensorstore/kvstore/file/batch_read", "/tensorstore/kvstore/file/bytes_read"


def _same_shard(shards: np.ndarray) -> tuple[float, float]:
    """Measure an order by the shards of its samples: different shards in a batch, and the share of all pairs of two
    samples of a batch that are of one shard, in percent."""
    batches = shards[: len(shards) // BATCH * BATCH].reshape(-1, BATCH)
    counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
    same = float(np.mean([(count * (count - 1)).sum() for count in counts]))
    return float(np.mean([len(count) for count in counts])), 100 * same / (BATCH * (BATCH - 1))


def _mixing(open_shards: int | None) -> dict[str, float | str]:
    """Measure the first epoch of an imagined store; `open_shards` None: by chips."""
    shards = np.arange(NUM_PAIRS) * NUM_SHARDS // NUM_PAIRS
    shuffle = None if open_shards is None else ShardShuffle(shards=shards, open_shards=open_shards)
    pairs = BatchOrder(np.zeros(NUM_PAIRS, dtype=np.int64), batch_size=BATCH, seed=0, noun="pairs", shuffle=shuffle)
    steps = range(-(-NUM_PAIRS // BATCH))
    order = shards[np.concatenate([pairs.batch(step)[0] for step in steps])[:NUM_PAIRS]]
    shards_per_batch, same = _same_shard(order)
    # On average of an order in which any pair may follow any other.
    of_shard = NUM_PAIRS // NUM_SHARDS
    full = 100 * (of_shard - 1) / (NUM_PAIRS - 1)
    fetched: float | str = ""
    if open_shards is not None:
        served = open_shard_of(np.arange(NUM_PAIRS), batch_size=BATCH, num_open=open_shards)
        fetched = len(np.unique(served * NUM_SHARDS + order)) / NUM_SHARDS
    return {
        "shards/batch": shards_per_batch,
        "same shard %": same,
        "x full": same / full,
        "fetches/shard": fetched,
    }


def _write_chips(path: Path, num_pairs: int) -> ChipStore:
    specs = {
        "sentinel2-l2a": array_spec("sentinel2-l2a", "uint16", Encoding(scale=1e-4), 0.0),
        "sentinel1-grd": array_spec("sentinel1-grd", "int16", Encoding(scale=0.01), -32768.0),
    }
    rng = np.random.default_rng(0)
    scenes = {
        name: [np.stack([scene(rng, SIDE, 200, 6000) for _ in spec.bands]).astype(spec.dtype) for _ in range(SCENES)]
        for name, spec in specs.items()
    }

    def chips() -> Iterator[tuple[Any, ChipRecord, Chip]]:
        for number in range(num_pairs):
            shift = tuple(rng.integers(0, SIDE, 2))
            for sensor, spec in specs.items():
                pixels = np.roll(scenes[sensor][number % SCENES], shift, axis=(1, 2))
                record = ChipRecord(
                    place=f"{number:06d}", cell="r000c000", sensor=sensor, source_path="scene", valid_fraction=1.0
                )
                yield spec, record, Chip(pixels=pixels)

    write_store(path, chips(), {name: get_sensor(name) for name in specs})
    return ChipStore.open(path)


@dataclass(kw_only=True)
class _Pass:
    """One epoch of the store on the disk, read in one order."""

    store: ChipStore
    pairs: ImageSets
    open_shards: int | None
    counts: dict[str, float] = field(default_factory=dict)

    def __call__(self) -> None:
        """Read all batches of the epoch that are whole, and count."""
        before = {name: _metric(name) for name in (REQUESTS, BYTES)}
        self.counts["memory"] = 0.0
        for _ in self._batches():
            pass
        self.counts |= {name: _metric(name) - before[name] for name in (REQUESTS, BYTES)}

    def _batches(self) -> Iterator[RawSets]:
        shuffle, read, expect = None, partial(read_sets, self.store, metadata=False), None
        if self.open_shards is not None:
            shuffle = shard_shuffle(self.store, self.pairs.chips[::2], open_shards=self.open_shards)
            shards = OpenShards(self.store, batches=batches_in_work(WORKERS) + 1)
            read, expect = partial(read, shards=shards), self._expecting(shards)
        sampler = SetSampler(self.pairs, batch_size=STORE_BATCH, seed=0, shuffle=shuffle)
        steps = range(len(self.pairs) // STORE_BATCH)
        return read_ahead(read, map(sampler.batch, steps), workers=WORKERS, expect=expect)

    def _expecting(self, shards: OpenShards) -> Callable[[SetDraw], None]:
        def expect(draw: SetDraw) -> None:
            self.counts["memory"] = max(self.counts["memory"], shards.num_bytes)
            shards.expect(draw.chips.ravel(), kind=draw.kind)

        return expect

    def measured(self, timing: Timing) -> dict[str, float]:
        """Tell what one pass costs for each pair."""
        num_pairs = len(self.pairs) // STORE_BATCH * STORE_BATCH
        return {
            "pairs/s": num_pairs / timing.median_s,
            "CPU ms/pair": 1000 * sorted(timing.cpu_s)[len(timing.cpu_s) // 2] / num_pairs,
            "spread of s": timing.spread,
            "requests/pair": self.counts[REQUESTS] / num_pairs,
            "kB/request": self.counts[BYTES] / self.counts[REQUESTS] / 1e3,
            "kB/pair": self.counts[BYTES] / num_pairs / 1e3,
            "open MB": self.counts["memory"] / 1e6,
        }


def _metric(name: str) -> float:
    found = [metric for metric in ts.experimental_collect_matching_metrics(name) if metric["name"] == name]
    return float(sum(value["value"] for metric in found for value in metric["values"]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--shard-pairs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    core = pin_to_one_core()
    orders: dict[str, int | None] = {"chips": None, **{f"shards, {count} open": count for count in OPEN_SHARDS}}
    with tempfile.TemporaryDirectory() as name:
        store_writer.CHIPS_PER_SHARD = arguments.shard_pairs
        store = _write_chips(Path(name) / "store", arguments.pairs)
        pairs = find_pairs(store, sensors="any")
        passes = {order: _Pass(store=store, pairs=pairs, open_shards=count) for order, count in orders.items()}
        timings = time_in_turn({**passes}, repeats=arguments.repeats)
    rows = [
        {"order": order, **_mixing(count), **passes[order].measured(timings[order])} for order, count in orders.items()
    ]
    settings = {"pairs": arguments.pairs, "shard_pairs": arguments.shard_pairs, "batch": STORE_BATCH, "core": core}
    facts = circumstances(("numpy", "tensorstore"))
    report("bench_shuffle", rows, {**facts, "settings": {**settings, "repeats": arguments.repeats}})


if __name__ == "__main__":
    main()
