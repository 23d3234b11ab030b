"""How a run of 2.5 million images and 300 epochs is laid out on 1, 8 and 64 GPUs, and what saturates first.

    python benchmarks/scale.py [--mfu 0.45] [--price-per-gpu-hour EUR]

Nothing is timed here: operations, weights and memory are counted for the networks of the recipes, and rates are inputs.
A GPU's matrix product, the share of it that training reaches, and links are given; pairs a second for one core come
from results/bench_data.csv, which bench_data.py measured. Pairs are Sentinel-2 (12 bands) and Sentinel-1 (2 bands).
"""

import argparse
import csv
from dataclasses import dataclass
from typing import Any

from measure import RESULTS, circumstances, report
from pair_costs import BANDS, pair_bytes, pair_flops

from anyband.models.autoencoder import Autoencoder
from anyband.models.vit import SIZES
from anyband.pretraining.plan import network_config
from anyband.pretraining.recipe import ModelRecipe, OptimRecipe, PretrainRecipe

PAIRS, EPOCHS, BATCH = 1_250_000, 300, 2048
GPUS = (1, 8, 64)
GPUS_A_MACHINE = 8
# Digital numbers of a pair at the real layout: 14 bands of 120 × 120 pixels in 16 bits. Compressed they are fewer.
PAIR_BYTES = sum(BANDS) * 120 * 120 * 2
# float32 weights, gradients and two moments.
_BYTES_OF_WEIGHT = 16


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network, counted."""

    size: str
    """Name of the encoder's size."""
    num_weights: int
    """With the decoder."""
    pair_flops: float
    """Operations of training on a pair."""
    pair_bytes: float
    """What a pair keeps for the gradient."""


def network(size: str) -> Network:
    """Count a network."""
    model = ModelRecipe(**SIZES[size])
    recipe = PretrainRecipe(name=size, model=model, optim=OptimRecipe(batch_size=BATCH))
    config = network_config(recipe, num_ranges=17)
    num_weights = sum(parameter.numel() for parameter in Autoencoder(config, seed=None).parameters())
    return Network(size=size, num_weights=num_weights, pair_flops=pair_flops(config), pair_bytes=pair_bytes(config))


def memory_bytes(of: Network, *, pairs: int, shards: int) -> float:
    """Estimate a GPU's memory with so many pairs at once, and the fixed part spread over so many GPUs."""
    return pairs * of.pair_bytes + _BYTES_OF_WEIGHT * of.num_weights / shards


def parts(of: Network, *, gpus: int, shards: int, free_bytes: float) -> int | None:
    """Find in how many parts a GPU's share of a batch fits; None: not even one pair does."""
    share = BATCH // gpus
    for count in (1 << power for power in range(share.bit_length())):
        if memory_bytes(of, pairs=share // count, shards=shards) <= free_bytes:
            return count
    return None


def layout(of: Network, gpus: int, rates: argparse.Namespace) -> dict[str, Any]:
    """Lay out a run: fsdp only where it saves accumulated parts, because it moves half as many bytes again.

    The last column is what else is used most: of the cores those that reading takes, or of the time of computing that
    which gradients need on the network.
    """
    free_bytes = rates.usable * rates.gpu_memory_gb * 1e9
    together = parts(of, gpus=gpus, shards=1, free_bytes=free_bytes)
    sharded = parts(of, gpus=gpus, shards=gpus, free_bytes=free_bytes)
    if sharded is None:
        raise SystemExit(f"one pair of '{of.size}' does not fit {gpus} GPUs of {rates.gpu_memory_gb:g} GB")
    shards = gpus if together is None or sharded < together else 1
    count = sharded if shards > 1 or together is None else together
    pairs = BATCH // gpus // count
    compute_s = BATCH * of.pair_flops / (gpus * rates.mfu * rates.peak_tflops * 1e12)
    # A ring passes all gradients round twice; sharded weights are gathered twice and gradients scattered, each part.
    passes = 2.0 if shards == 1 else 3.0 * count
    network_bytes = passes * (gpus - 1) / gpus * 4 * of.num_weights
    network_s = network_bytes / (1e9 * (rates.link_gb_s if gpus > GPUS_A_MACHINE else rates.nvlink_gb_s))
    # At best, gradients travel while others are computed.
    step_s = max(compute_s, network_s)
    steps = EPOCHS * -(-PAIRS // BATCH)
    hours = steps * step_s / 3600
    machine = min(gpus, GPUS_A_MACHINE)
    pairs_s = BATCH / step_s
    cores = pairs_s * machine / gpus / rates.pairs_per_core_second
    shares = {"reading cores": cores / (machine * rates.cores_per_gpu), "network": network_s / compute_s}
    first = max(shares, key=shares.__getitem__)
    row = {
        "size": of.size,
        "GPUs": gpus,
        "pairs/GPU": pairs,
        "parts": count,
        "strategy": "one process" if gpus == 1 else "fsdp" if shards > 1 else "ddp",
        "GB/GPU": memory_bytes(of, pairs=pairs, shards=shards) / 1e9,
        "steps": steps,
        "compute s": compute_s,
        "network s": network_s,
        "hours": hours,
        "GPU hours": hours * gpus,
        "MB/s/GPU": pairs_s / gpus * PAIR_BYTES / 1e6,
        "MB/s/machine": pairs_s / gpus * machine * PAIR_BYTES / 1e6,
        "cores/machine": cores,
        "GB/step": network_bytes / 1e9,
        "limit": "arithmetic" if shares[first] < 1 else first,
        "beside arithmetic": f"{first}, {100 * shares[first]:.0f} %",
    }
    return row if rates.price_per_gpu_hour is None else {**row, "price": hours * gpus * rates.price_per_gpu_hour}


def measured_pairs_s() -> float:
    """Read how many pairs a second one core took from the chip store."""
    with (RESULTS / "bench_data.csv").open(newline="", encoding="utf-8") as file:
        return next(float(row["pairs/s"]) for row in csv.DictReader(file) if row["reader"].startswith("chip store"))


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    """Parse the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["base", "large", "huge"], default=["base", "large", "huge"])
    # Source: a bf16 matrix product measured on one H200.
    parser.add_argument("--peak-tflops", type=float, default=790.0, help="of one GPU's matrix product in bf16")
    parser.add_argument("--mfu", type=float, default=0.45, help="share of it that a step reaches")
    parser.add_argument("--mfu-is", choices=["target", "measured"], default="target", help="what --mfu is")
    parser.add_argument("--pairs-per-core-second", type=float, default=None, help="default: results/bench_data.csv")
    # Source: NVIDIA H200 data sheet, 141 GB.
    parser.add_argument("--gpu-memory-gb", type=float, default=141.0)
    # chosen: the estimate of memory is a bound from below, and the allocator needs room.
    parser.add_argument("--usable", type=float, default=0.7, help="share of the memory that is planned with")
    parser.add_argument("--cores-per-gpu", type=float, default=16.0)
    # Source: NVIDIA H200 data sheet, NVLink 900 GB/s, half in each direction; and 400 Gbit/s Ethernet or InfiniBand.
    parser.add_argument("--nvlink-gb-s", type=float, default=450.0, help="of each GPU, inside a machine")
    parser.add_argument("--link-gb-s", type=float, default=50.0, help="of each GPU, between machines")
    parser.add_argument("--price-per-gpu-hour", type=float, default=None)
    rates = parser.parse_args(words)
    if rates.pairs_per_core_second is None:
        rates.pairs_per_core_second = measured_pairs_s()
    return rates


def main() -> None:
    """Count and print."""
    rates = arguments_of()
    rows = [layout(network(size), gpus, rates) for size in rates.sizes for gpus in GPUS]
    report("scale", rows, {**circumstances(("torch",)), "settings": vars(rates)})


if __name__ == "__main__":
    main()
