"""Training on one device: the step alone, and from the chip store on the disk to the end of the step.

    python benchmarks/bench_train.py [--device cuda] [--sizes base large] [--pairs 20480] [--released FOLDER]

Builds a store of simulated pairs at the real layout (`pair_store.py`), and measures for each size of network:

- `step`: forward, backward and AdamW on one batch that lies on the device, as `anyband pretrain` does them; with the
  time until the first step was compiled, the largest memory, and how often a step and the making of its input made the
  host wait for the device (torch's own count; on CPUs there is nothing to wait for).
- `from disk`: `anyband pretrain` on the store, its rate and the share of time that it waited for data, without the
  first rows, in which it compiles.
- with `--released`, the step of the released code's network on a batch of `--released-batch` pairs, and ours on it.

MFU is the arithmetic of the model over the rate of a plain matrix product in the same run. It does not need rasterio.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import circumstances, exit_code_of, report, time_in_turn
from pair_costs import pair_flops
from pair_store import build_pair_store

from anyband.data.store import ChipStore
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.pretraining.batches import BatchPreparer, Example
from anyband.pretraining.cost import peak_flops_s, read_metrics
from anyband.pretraining.loop import Stepper, make_fabric, pretrain
from anyband.pretraining.plan import RunPlan, plan_run
from anyband.pretraining.recipe import DataRecipe, ModelRecipe, OptimRecipe, PretrainRecipe, RunRecipe

MODELS = {
    "tiny": ModelRecipe(
        img_size=96, embed_dim=192, num_heads=3, decoder_embed_dim=128, decoder_depth=2, decoder_num_heads=4
    ),
    "base": ModelRecipe(),
    "large": ModelRecipe(embed_dim=1024, depth=24, num_heads=16),
}
# chosen: what fits one GPU of 80 GB; two CPU cores take longer for more.
BATCHES = {"cuda": {"tiny": 1024, "base": 512, "large": 256}, "cpu": {"tiny": 32, "base": 4, "large": 2}}
RELEASED = {"base": "smarties_vit_base_patch16", "large": "smarties_vit_large_patch16"}
# Rows of metrics.csv that are left out: compilation and the first use of memory.
_FIRST_ROWS = 2
_ROW_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured, and where."""

    device: str
    """cuda or cpu."""
    precision: str
    """bf16-mixed or 32-true."""
    compile: bool
    """Whether the block stacks are compiled."""
    steps: int
    """Steps that are timed."""
    workers: int
    """Threads that read."""
    store: Path
    """Simulated pairs."""
    scratch: Path
    """For runs."""
    peak_flops_s: float
    """Of a plain matrix product."""

    def recipe(self, size: str, batch_size: int, *, steps: int) -> PretrainRecipe:
        """Make the run of a size."""
        return PretrainRecipe(
            name=size,
            model=MODELS[size],
            data=DataRecipe(pairs=(("sentinel2-l2a", "sentinel1-grd"),)),
            optim=OptimRecipe(batch_size=batch_size, steps=steps, precision=self.precision),
            run=RunRecipe(
                accelerator=self.device,
                devices=1,
                compile=self.compile,
                workers=self.workers,
                log_every_steps=_ROW_STEPS,
                checkpoint_every_steps=10**9,
                panel_every_steps=0,
                val_batches=0,
            ),
        )


class Bench:
    """A network on the device with a batch of the store beside it."""

    def __init__(self, job: Job, size: str, batch_size: int) -> None:
        """Build the network and read the batch."""
        self._job = job
        self.plan: RunPlan = plan_run(job.recipe(size, batch_size, steps=10**6), ChipStore.open(job.store))
        self._fabric = make_fabric(self.plan.recipe)
        self.model = Autoencoder(self.plan.config, seed=0)
        self._stepper = Stepper(self._fabric, self.model, self.plan.recipe, self.plan.schedule)
        samples = self.plan.samples
        self._preparer = BatchPreparer(self.plan.recipe, self.plan.inputs, device=self._fabric.device)
        draw = samples.sampler(batch_size=batch_size, seed=0).batch(0)
        self._drawn = self._preparer.draw(samples.read(draw), step=0)
        self._step = 0

    def prepared(self) -> Example:
        """Make the network's input on the device."""
        return self._preparer.finish(self._drawn)

    def step(self, example: Example) -> Any:
        """Do one step, without waiting for it."""
        result = self._stepper.step(self._step, [example])
        self._step += 1
        return result

    def waits(self) -> int | str:
        """Count how often making an input and doing a step made the host wait; a dash where there is no GPU."""
        if self._job.device != "cuda":
            return "–"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.step(self.prepared())
            finally:
                torch.cuda.set_sync_debug_mode("default")
        for one in caught:
            print(f"waited: {one.message} ({one.filename}:{one.lineno})", file=sys.stderr)
        return len(caught)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _step_row(job: Job, size: str, batch_size: int, profile: Path | None) -> dict[str, Any]:
    bench = Bench(job, size, batch_size)
    example = bench.prepared()
    begun = time.perf_counter()
    bench.step(example)
    _wait(job.device)
    first_s = time.perf_counter() - begun
    for _ in range(2):
        bench.step(example)
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _wait(job.device)
    begun = time.perf_counter()
    for _ in range(job.steps):
        bench.step(example)
    _wait(job.device)
    step_s = (time.perf_counter() - begun) / job.steps
    waits = bench.waits()
    if profile is not None:
        _write_profile(job, bench, profile)
    return {
        "what": "step",
        "size": size,
        "batch": batch_size,
        "s/step": step_s,
        "pairs/s": batch_size / step_s,
        "MFU %": 100 * _trained_flops(bench.plan.config, batch_size) / step_s / job.peak_flops_s,
        "waited for data %": 0.0,
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if job.device == "cuda" else float("nan"),
        "compile s": first_s - step_s if job.compile else 0.0,
        "host waits": waits,
    }


def _write_profile(job: Job, bench: Bench, path: Path) -> None:
    """Write where the time of three steps goes, with their inputs."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if job.device == "cuda" else []
    with torch.profiler.profile(activities=kinds) as seen:
        for _ in range(3):
            bench.step(bench.prepared())
        _wait(job.device)
    order = "self_cuda_time_total" if job.device == "cuda" else "self_cpu_time_total"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(seen.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=80), encoding="utf-8")


def _disk_row(job: Job, size: str, batch_size: int) -> dict[str, Any]:
    steps = (job.steps // _ROW_STEPS + _FIRST_ROWS + 1) * _ROW_STEPS
    out = job.scratch / f"run_{size}"
    recipe = job.recipe(size, batch_size, steps=steps)
    if job.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pretrain(recipe, data=job.store, out=out, shown=False)
    rows = read_metrics(out / "metrics.csv")[_FIRST_ROWS:]
    # Rows are of equally many steps, so times are averaged, not rates.
    seconds = [2 * batch_size * _ROW_STEPS / float(row["images_per_s"]) for row in rows]
    waited = sum(second * float(row["data_wait"]) for second, row in zip(seconds, rows, strict=True))
    step_s = sum(seconds) / len(rows) / _ROW_STEPS
    config = plan_run(recipe, ChipStore.open(job.store)).config
    return {
        "what": "from disk",
        "size": size,
        "batch": batch_size,
        "s/step": step_s,
        "pairs/s": batch_size / step_s,
        "MFU %": 100 * _trained_flops(config, batch_size) / step_s / job.peak_flops_s,
        "waited for data %": 100 * waited / sum(seconds),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9 if job.device == "cuda" else float("nan"),
        "compile s": 0.0,
        "host waits": "–",
    }


def _trained_flops(config: AutoencoderConfig, batch_size: int) -> float:
    return batch_size * pair_flops(config)


def _released_rows(job: Job, folder: Path, size: str, batch_size: int) -> list[dict[str, Any]]:
    """Time the released code's step and ours in turn, on one batch in one precision."""
    from released import released_batch, released_model

    bench = Bench(job, size, batch_size)
    example = bench.prepared()
    precision = "bf16" if job.precision.startswith("bf16") else "float32"
    network = released_model(folder, name=RELEASED[size], precision=precision, img_size=MODELS[size].img_size)
    network = network.to(job.device)
    # As its own script does: AdamW without a fused kernel.
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95))
    theirs = tuple(one.to(job.device) for one in released_batch(folder, example[0], patch_size=16))

    def released() -> None:
        with torch.autocast(job.device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss, _, _ = network(theirs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(job.device)

    def ours() -> None:
        bench.step(example)
        _wait(job.device)

    ways: dict[str, Callable[[], object]] = {"step, anyband": ours, "step, released code": released}
    timings = time_in_turn(ways, repeats=max(3, job.steps // 10))
    return [
        {
            "what": way,
            "size": size,
            "batch": batch_size,
            "s/step": timing.median_s,
            "pairs/s": batch_size / timing.median_s,
            "MFU %": 100 * _trained_flops(bench.plan.config, batch_size) / timing.median_s / job.peak_flops_s,
            "waited for data %": 0.0,
            "peak GB": float("nan"),
            "compile s": 0.0,
            "host waits": "–",
        }
        for way, timing in timings.items()
    ]


def _measure(arguments: argparse.Namespace) -> None:
    device = arguments.device
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        scratch = Path(name)
        begun = time.perf_counter()
        build_pair_store(scratch / "store", num_pairs=arguments.pairs, workers=arguments.workers)
        store_s = time.perf_counter() - begun
        job = Job(
            device=device,
            precision=arguments.precision,
            compile=arguments.compile,
            steps=arguments.steps,
            workers=arguments.workers,
            store=scratch / "store",
            scratch=scratch,
            peak_flops_s=peak_flops_s(torch.device(device), arguments.precision),
        )
        rows: list[dict[str, Any]] = []
        for size in arguments.sizes:
            batch_size = arguments.batch or BATCHES[device][size]
            profile = arguments.profile and arguments.profile / f"{arguments.name}_profile_{size}.txt"
            rows.append(_step_row(job, size, batch_size, profile))
            rows.append(_disk_row(job, size, batch_size))
            if arguments.released and size in RELEASED:
                rows += _released_rows(job, arguments.released, size, arguments.released_batch)
    settings = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "precision": arguments.precision,
        "compile": arguments.compile,
        "steps": arguments.steps,
        "workers": arguments.workers,
        "store_pairs": arguments.pairs,
        "store_s": store_s,
        "peak_tflops": job.peak_flops_s / 1e12,
        "threads": torch.get_num_threads(),
    }
    facts = circumstances(("torch", "timm", "tensorstore"))
    report(arguments.name, [{**row, "device": settings["device"]} for row in rows], {**facts, "settings": settings})


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if has_gpu else "cpu")
    parser.add_argument("--sizes", nargs="+", choices=list(MODELS), default=["base", "large"] if has_gpu else ["tiny"])
    parser.add_argument(
        "--precision", choices=["bf16-mixed", "32-true"], default="bf16-mixed" if has_gpu else "32-true"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=has_gpu)
    parser.add_argument("--pairs", type=int, default=20_480 if has_gpu else 512, help="of the store")
    parser.add_argument("--batch", type=int, help="pairs a step; by default as the size and device allow")
    parser.add_argument("--steps", type=int, default=60 if has_gpu else 10, help="that are timed")
    parser.add_argument(
        "--workers", type=int, default=14 if has_gpu else 2, help="reading threads, rendering processes"
    )
    parser.add_argument("--released", type=Path, help="checkout of the released code of SMARTIES, to compare with")
    parser.add_argument("--released-batch", type=int, default=64 if has_gpu else 4)
    parser.add_argument("--profile", type=Path, help="folder for tables of where the time goes")
    parser.add_argument("--scratch", type=Path, help="folder for the store and the runs")
    parser.add_argument("--name", default="bench_train", help="of the table and of results/NAME.csv")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: _measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
