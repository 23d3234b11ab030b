"""A training step against the released code's, and against the plain per-band reference of the tests.

    python benchmarks/bench_step.py [--sizes tiny base] [--precision bf16] [--repeats 5] [--released FOLDER]

A step is forward, backward and AdamW on one batch of pairs (Sentinel-2, 12 bands, and Sentinel-1, 2 bands), as
`anyband pretrain` does it; and once more with torch's fused attention, which training in bf16 on CPUs leaves out. The
reference has the same weights, and its loss must agree. With `--released`, the network of a checkout of the released
code takes its turn at size base, on the same images, with first weights, masks and mixup of its own, and with AdamW
without a fused kernel, as its script makes it. All take turns in one run and precision: bf16 where the processor has
it, else float32. The ceiling is the rate of a plain matrix product in the same
precision, measured beside them; FLOPs are those of the matrix products and attention, counted by torch while the step
runs. Peak memory is of a process of its own for each.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import circumstances, report, time_in_turn
from released import released_batch, released_model
from torch.utils.flop_counter import FlopCounterMode

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import state_of
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.masking import draw_plan
from anyband.models.vit import SIZES, DecoderConfig, EncoderConfig, configure_blocks
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import load_ranges
from anyband.training.steps import has_bf16

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "oracles"))
from smarties_reference import Image, Reference

# (image side, pairs a batch, decoder width, blocks, heads): the recipes' networks, batches that fit two cores.
SETTINGS = {"tiny": (96, 32, 128, 2, 4), "base": (224, 4, 512, 8, 16)}


def _pair(side: int, count: int) -> SetBatch:
    table = load_ranges("smarties_v1")
    images = []
    for number, name in enumerate(("sentinel2-l2a", "sentinel1-grd")):
        sensor = get_sensor(name)
        mixing = torch.from_numpy(assign(sensor, table).mixing).float()
        noise = torch.Generator().manual_seed(number)
        images.append(
            ImageBatch(pixels=torch.randn(count, len(sensor.bands), side, side, generator=noise), mixing=mixing)
        )
    return SetBatch(groups=tuple(images))


def _model(size: str) -> tuple[Autoencoder, SetBatch, SetNoise]:
    side, count, width, depth, heads = SETTINGS[size]
    encoder = EncoderConfig(img_size=side, num_ranges=len(load_ranges("smarties_v1").ranges), **SIZES[size])
    decoder = DecoderConfig(decoder_embed_dim=width, decoder_depth=depth, decoder_num_heads=heads)
    noise = torch.Generator().manual_seed(7)
    tokens = (side // encoder.patch_size) ** 2
    mixup, masking = (torch.rand(count, tokens, generator=noise) for _ in range(2))
    drawn = SetNoise(mixup=mixup, masking=masking[:, None].expand(-1, 2, -1))
    return Autoencoder(AutoencoderConfig(encoder=encoder, decoder=decoder), seed=0), _pair(side, count), drawn


def _loss_of_ours(size: str, precision: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    model, pair, noise = _model(size)
    configure_blocks(model, fused=precision != "bf16")
    return model, lambda: model(pair, noise).loss


def _loss_with_fused_attention(size: str, _precision: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    model, pair, noise = _model(size)
    return model, lambda: model(pair, noise).loss


def _loss_of_released(size: str, precision: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    folder = _RELEASED_FOLDER[0]
    side, count, *_ = SETTINGS[size]
    pair = _pair(side, count)
    network = released_model(folder, name=RELEASED[size], precision=precision, img_size=side)
    batch = released_batch(folder, pair, patch_size=16)
    return network, lambda: network(batch)[0]


def _loss_of_reference(size: str, _precision: str) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    model, pair, noise = _model(size)
    # Not by running the model: its memory would stay with the process and hide what the reference needs.
    config = model.config
    plan = draw_plan(noise, masking="same", mask_ratio=config.mask_ratio, mixup_ratio=config.mixup_ratio)
    reference = Reference(
        state_of(model),
        num_heads=config.encoder.num_heads,
        decoder_num_heads=config.decoder.decoder_num_heads,
    )
    images = [Image(pixels=image.pixels, valid=None, mixing=image.mixing) for image in pair.groups]
    del model
    assert plan.swapped is not None
    owners, masked, keep = (~plan.swapped, plan.swapped), plan.masked[:, 0], plan.in_images()[0][:, 0]
    return reference, lambda: reference(*images, owners, masked, keep).loss


WAYS = {
    "anyband": _loss_of_ours,
    "anyband, fused attention": _loss_with_fused_attention,
    "reference": _loss_of_reference,
    "released code": _loss_of_released,
}
RELEASED = {"base": "smarties_vit_base_patch16"}
# Where the released code is; set by the command.
_RELEASED_FOLDER: list[Path] = []


def _step(way: str, size: str, precision: str) -> Callable[[], float]:
    network, loss_of = WAYS[way](size, precision)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    fused = way != "released code"
    optimizer = torch.optim.AdamW(learned, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def _ceiling_flops_s(precision: str, side: int = 2048) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(side, side, dtype=dtype), torch.randn(side, side, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _flops(way: str, size: str) -> float:
    # In float32, where attention is counted whichever way it is computed.
    _, loss_of = WAYS[way](size, "float32")
    with FlopCounterMode(display=False) as counter:
        loss_of().backward()
    return float(counter.get_total_flops())


def _peak_mb(way: str, size: str, precision: str) -> float:
    command = [sys.executable, __file__, "--sizes", size, "--precision", precision, "--memory-of", way]
    command += [word for folder in _RELEASED_FOLDER for word in ("--released", str(folder))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_mb"])


def _print_memory(way: str, size: str, precision: str) -> None:
    step = _step(way, size, precision)
    # Give back what building the networks freed, else a step would take it from there, unseen.
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _memory_kib("VmRSS")
    # Forget the peak that importing and building left. Source: Linux, Documentation/filesystems/proc.rst, clear_refs.
    Path("/proc/self/clear_refs").write_text("5")
    step()
    step()
    print(json.dumps({"peak_mb": (_memory_kib("VmHWM") - before) / 1024}))


def _memory_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def _rows(size: str, precision: str, repeats: int) -> list[dict[str, object]]:
    count = SETTINGS[size][1]
    ways = [way for way in WAYS if way != "released code" or (_RELEASED_FOLDER and size in RELEASED)]
    steps = {way: _step(way, size, precision) for way in ways}
    first = {way: step() for way, step in steps.items()}
    ours = [loss for way, loss in first.items() if way != "released code"]
    if max(ours) - min(ours) > (0.02 if precision == "bf16" else 1e-4):
        raise SystemExit(f"the ways disagree: {first}")
    rival = ways[-1]
    timings = time_in_turn(steps, repeats=repeats)
    ceiling = _ceiling_flops_s(precision)
    del steps
    gc.collect()
    return [
        {
            "size": size,
            "way": way,
            "s/step": timing.median_s,
            "spread": timing.spread,
            "pairs/s": count / timing.median_s,
            "GFLOP/step": _flops(way, size) / 1e9,
            "share of ceiling": _flops(way, size) / timing.median_s / ceiling,
            "peak MB of a step": _peak_mb(way, size, precision),
            "times faster": timings[rival].median_s / timing.median_s,
            "first loss": first[way],
        }
        for way, timing in timings.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    precision = "bf16" if has_bf16(torch.device("cpu")) else "float32"
    parser.add_argument("--precision", choices=["bf16", "float32"], default=precision)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--released", type=Path, help="checkout of the released code of SMARTIES")
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _RELEASED_FOLDER[:] = [arguments.released] if arguments.released else []
    if arguments.memory_of:
        _print_memory(arguments.memory_of, arguments.sizes[0], arguments.precision)
        return
    rows = [row for size in arguments.sizes for row in _rows(size, arguments.precision, arguments.repeats)]
    settings = {
        "precision": arguments.precision,
        "repeats": arguments.repeats,
        "threads": torch.get_num_threads(),
    }
    report("bench_step", rows, {**circumstances(("torch", "timm")), "settings": settings})


if __name__ == "__main__":
    main()
