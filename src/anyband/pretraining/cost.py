"""What a run costs: measured on a few of its samples before it begins, counted while it goes on, and logged."""

import contextlib
import csv
import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from anyband.data.loader import SetDraw
from anyband.data.store import ChipStore
from anyband.encode.encoder import available_bytes
from anyband.errors import OutputError, counted
from anyband.files import whole_file, whole_number
from anyband.models.autoencoder import Autoencoder
from anyband.models.vit import configure_blocks
from anyband.pretraining.batches import BatchPreparer, Example
from anyband.pretraining.plan import RunPlan
from anyband.pretraining.recipe import PretrainRecipe, RunRecipe
from anyband.training.steps import precision_note

__all__ = [
    "METRICS",
    "Meter",
    "MetricsLog",
    "RunCost",
    "compute_as_in_training",
    "cost_lines",
    "count_flops",
    "count_kept_bytes",
    "count_processes",
    "duration",
    "measure_cost",
    "peak_flops_s",
    "reached_line",
    "read_metrics",
    "scaled",
]

ReadT = TypeVar("ReadT")

# float32 weights, their gradients and the two moments of AdamW.
_BYTES_OF_WEIGHT = 16
# chosen: batches looked at for the one with the most images.
_DRAWN = 8
# chosen: a timed step takes so long or has all samples of a part; then its start costs little.
_LONG_S = 0.3
# chosen: a product is made larger until it takes so long, or has the last side: an H200 takes a millisecond for that.
_PRODUCT_S, _FIRST_SIDE, _LAST_SIDE = 0.01, 128, 8192


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """What was measured, without the optimiser, what processes tell each other, validation, panels and saving."""

    num_weights: int
    """With the decoder's."""
    device: torch.device
    image_flops: float
    """Of training on an image."""
    step_flops: float
    """Over all processes; the mean over the first batches."""
    peak_flops_s: float
    """Of a plain matrix product in the run's precision, on all devices together."""
    step_s: float | None
    """None: not measured, because weights are held in shares."""
    sample_read_s: float
    """Of one thread."""
    needed_bytes: int
    """Of a step, on the device of one process; where CPUs share memory, of all of them."""
    free_bytes: int | None
    """On the same; None: nobody says."""
    refusal: str | None
    """Why the run can't be; None: it can."""


def compute_as_in_training(model: torch.nn.Module, recipe: PretrainRecipe, device: torch.device) -> None:
    """Set how blocks are computed; attention is fused but in bf16 on CPUs, see `configure_blocks`."""
    on_cpu_in_bf16 = device.type == "cpu" and recipe.optim.precision.startswith("bf16")
    configure_blocks(model, fused=not on_cpu_in_bf16, recompute=recipe.run.recompute)


def count_processes(run: RunRecipe, device: torch.device) -> int:
    """Count the processes that a run would have, as the recipe says and this machine has devices."""
    if run.devices != "auto":
        return run.num_nodes * run.devices
    return run.num_nodes * (torch.cuda.device_count() if device.type == "cuda" else 1)


def count_flops(step: Callable[[], torch.Tensor]) -> float:
    """Let torch count the operations of matrix products, forward and backward, of what computes a loss."""
    with FlopCounterMode(display=False) as counter:
        step().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())


def count_kept_bytes(step: Callable[[], torch.Tensor], model: torch.nn.Module) -> int:
    """Add up what a forward pass keeps for the gradient, beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    del loss
    return sum(kept.values())


def measure_cost(plan: RunPlan, model: Autoencoder, *, device: torch.device, num_processes: int) -> RunCost:
    """Measure steps on one and two samples: operations and memory grow with the images, which tells what a batch does.
    Neither weights nor a global generator change. The model moves to the device unless it will be held in shares."""
    recipe, optim = plan.recipe, plan.recipe.optim
    in_shares = recipe.run.strategy == "fsdp"
    where = torch.device("cpu") if in_shares else device
    model.to(where)
    sampler = plan.samples.sampler(batch_size=optim.batch_size, seed=recipe.seed)
    draws = [sampler.batch(step) for step in range(min(_DRAWN, plan.total_steps))]
    largest = max(draws, key=lambda one: one.chips.shape[1])
    num_images, mean_images = largest.chips.shape[1], float(np.mean([one.chips.size for one in draws]))
    preparer = BatchPreparer(recipe, plan.inputs, device=where)
    begun = time.perf_counter()
    raws = [plan.samples.read(largest.at(slice(0, count))) for count in (1, 2)]
    read_s = (time.perf_counter() - begun) / 3
    examples = [preparer.finish(preparer.draw(raw, step=0)) for raw in raws]
    losses = [partial(_loss, model, example, optim.precision) for example in examples]
    num_parts = optim.accumulate * num_processes
    part, step_s = max(1, optim.batch_size // num_parts), None
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(0)
        configure_blocks(model, fused=False)
        flops = [count_flops(loss) for loss in losses]
        compute_as_in_training(model, recipe, device)
        kept = [count_kept_bytes(loss, model) for loss in losses]
        # A batch of one sample has no second one.
        flops_of_sample, kept_of_sample = (two - one if optim.batch_size > 1 else one for one, two in (flops, kept))
        # Beside the weights: what a part with the most images keeps.
        kept_of_part = kept[0] - kept_of_sample + part * kept_of_sample * plan.samples.sets.capacity.max() / num_images
        num_weights = sum(parameter.numel() for parameter in model.parameters())
        of_weights = _BYTES_OF_WEIGHT * num_weights / (num_processes if in_shares else 1)
        # On CPUs the processes of a machine share its memory.
        num_sharing = max(1, num_processes // recipe.run.num_nodes) if device.type == "cpu" else 1
        needed = int((of_weights + kept_of_part) * num_sharing)
        free = available_bytes(device)
        refusal = None if free is None or needed <= free else _refusal(plan, device, part, needed=needed, free=free)
        if refusal is None and not in_shares:
            step_s = optim.accumulate * part * _sample_s(plan, model, preparer, largest, most=part)
    model.zero_grad(set_to_none=True)
    # Weights of a sensor's bands are made once for each part.
    step_flops = mean_images / num_images * flops_of_sample + num_parts * (flops[0] - flops_of_sample)
    return RunCost(
        num_weights=num_weights,
        device=device,
        image_flops=step_flops / mean_images,
        step_flops=step_flops,
        peak_flops_s=num_processes * peak_flops_s(device, optim.precision),
        step_s=step_s,
        sample_read_s=read_s,
        needed_bytes=needed,
        free_bytes=free,
        refusal=refusal,
    )


def _loss(model: Autoencoder, example: Example, precision: str) -> torch.Tensor:
    device = example[1].mixup.device
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision.startswith("bf16")):
        terms: torch.Tensor = model(*example).terms
        return terms.mean()


def _sample_s(plan: RunPlan, model: Autoencoder, preparer: BatchPreparer, draw: SetDraw, *, most: int) -> float:
    """Time a forward and backward pass on more and more samples, until it takes long."""
    wait = torch.get_device_module(next(model.parameters()).device).synchronize
    count = 1
    while True:
        raw = plan.samples.read(draw.at(slice(0, count)))
        wait()
        begun = time.perf_counter()
        example = preparer.finish(preparer.draw(raw, step=0))
        _loss(model, example, plan.recipe.optim.precision).backward()  # type: ignore[no-untyped-call]
        wait()
        seconds = time.perf_counter() - begun
        if seconds > _LONG_S or 2 * count > most:
            return seconds / count
        count *= 2


def _refusal(plan: RunPlan, device: torch.device, part: int, *, needed: int, free: int) -> str:
    recipe, num_images = plan.recipe, plan.samples.sets.capacity.max()
    tokens = (recipe.model.img_size // recipe.model.patch_size) ** 2 * num_images
    keeps_less = "" if recipe.run.recompute else "; run.recompute=true keeps less of each block"
    noun, size_key = ("pairs", "") if recipe.data.sets is None else ("sets", "data.sets.size, ")
    return (
        f"a step of {part} {noun} of up to {counted(num_images, 'image')} ({tokens:,} tokens) needs at least "
        f"{needed / 1e9:,.1f} GB on '{device}', and {free / 1e9:,.1f} GB are free; lower {size_key}optim.batch_size, "
        "model.img_size or the sizes of the network, or cut the batch into more parts with optim.accumulate "
        f"(now {recipe.optim.accumulate}), which changes nothing else{keeps_less}"
    )


def peak_flops_s(device: torch.device, precision: str) -> float:
    """Measure the rate of a plain matrix product in a run's precision: the best of some, once one takes long."""
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    wait = torch.get_device_module(device).synchronize
    side, best = _FIRST_SIDE, 0.0
    while True:
        # Neither constant nor drawn: a device may do constant numbers faster.
        factor = torch.arange(side * side, dtype=torch.float32, device=device).mul_(0.7).sin_().view(side, side)
        factor = factor.to(dtype)
        times = []
        for _ in range(3):
            wait()
            begun = time.perf_counter()
            # As the layers of a network lay it out: without bf16 in hardware, a plain product is slower than this.
            functional.linear(factor, factor)
            wait()
            times.append(time.perf_counter() - begun)
        best = max(best, 2 * side**3 / min(times))
        if side >= _LAST_SIDE or min(times) > _PRODUCT_S:
            return best
        side *= 2


class Meter:
    """Counts from one row of metrics.csv to the next and over all, by the host's clock: no step waits for a GPU."""

    def __init__(self, cost: RunCost) -> None:
        self._cost = cost
        self.num_steps, self.num_images, self.seconds, self.waited_s = 0, 0, 0.0, 0.0
        self.restart()

    def restart(self) -> None:
        """Forget what happened since the last row: it was no step."""
        self._begun = time.perf_counter()
        self._steps, self._images, self._waited_s = 0, 0, 0.0

    def take(self, read: Iterator[ReadT], count: int) -> Iterator[ReadT]:
        """Take the next things that are read, and count how long each is waited for."""
        for _ in range(count):
            begun = time.perf_counter()
            one = next(read)
            self._waited_s += time.perf_counter() - begun
            yield one

    def did(self, num_images: int) -> None:
        """Count a step and its images, over all processes."""
        self._steps += 1
        self._images += num_images

    def row(self) -> dict[str, float]:
        """Tell what was reached since the last row, add it to the total, and begin anew."""
        # A clock that does not move between two looks would divide by nothing.
        seconds = max(time.perf_counter() - self._begun, 1e-9)
        images_s, waited = self._images / seconds, self._waited_s / seconds
        self.num_steps += self._steps
        self.num_images += self._images
        self.seconds += seconds
        self.waited_s += self._waited_s
        self.restart()
        mfu = images_s * self._cost.image_flops / self._cost.peak_flops_s
        return {"images_per_s": images_s, "data_wait": waited, "mfu": mfu}


def scaled(value: float, unit: str) -> str:
    """Write a number with three digits and a prefix: 117 GFLOP."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        # 999.6 would be written as 1e+03.
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} E{unit}"


def duration(seconds: float) -> str:
    """Write a time in the unit that fits."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 86_400 else f"{seconds / 86_400:.3g} days"


def cost_lines(plan: RunPlan, cost: RunCost, *, first_step: int) -> list[str]:
    """Say what the steps that are left are expected to take: time and memory, then arithmetic and reading."""
    noun = "pair" if plan.recipe.data.sets is None else "set"
    emulated = precision_note(cost.device, plan.recipe.optim.precision)
    lines = [_time_line(plan, cost, noun, plan.total_steps - first_step), _arithmetic_line(plan, cost, noun)]
    lines += [_reading_line(plan, cost, noun, first_step), *([] if emulated is None else [emulated])]
    return [f"cost: {line}" for line in lines]


def _time_line(plan: RunPlan, cost: RunCost, noun: str, steps: int) -> str:
    took = "an unmeasured time"
    if cost.step_s is not None:
        took = f"{duration(steps * cost.step_s)} ({duration(cost.step_s)} each)"
    free = "" if cost.free_bytes is None else f" of {scaled(float(cost.free_bytes), 'B')} that are free"
    needed = f"{scaled(float(cost.needed_bytes), 'B')} of memory{free} on '{cost.device}'"
    all_steps = f"{counted(steps, 'step')} of {plan.recipe.optim.batch_size} {noun}s"
    return f"{all_steps} take {took} and need {needed}; {cost.num_weights / 1e6:,.1f} million weights"


def _arithmetic_line(plan: RunPlan, cost: RunCost, noun: str) -> str:
    share, peak = "", scaled(cost.peak_flops_s, "FLOP/s")
    if cost.step_s is not None:
        share = f", the step {100 * cost.step_flops / cost.step_s / cost.peak_flops_s:.0f} % of it (MFU)"
    sample = f"a {noun} {scaled(cost.step_flops / plan.recipe.optim.batch_size, 'FLOP')}"
    step = f"a step computes {scaled(cost.step_flops, 'FLOP')} ({sample})"
    return f"{step}; a plain matrix product reaches {peak}{share}"


def _reading_line(plan: RunPlan, cost: RunCost, noun: str, first_step: int) -> str:
    size, store = plan.recipe.optim.batch_size, plan.store
    draw = plan.samples.sampler(batch_size=size, seed=plan.recipe.seed).batch(first_step)
    arrays = store.index.column("array").take(draw.chips.ravel()).to_pylist()
    infos = [store.arrays[name] for name in arrays]
    raw = float(sum(len(one.bands) * one.height * one.width * np.dtype(one.dtype).itemsize for one in infos))
    of_chip = {name: _stored_bytes(store, name) for name in set(arrays)}
    stored = "" if None in of_chip.values() else f", {scaled(sum(of_chip[name] or 0.0 for name in arrays), 'B')} stored"
    slow = cost.step_s is not None and cost.sample_read_s * size > cost.step_s
    limit = "; reading may limit: see data_wait in metrics.csv, and raise run.workers" if slow else ""
    thread = f"one thread reads {1 / cost.sample_read_s:,.3g} {noun}s a second"
    return f"a step reads {scaled(raw, 'B')}{stored}; {thread}{limit}"


def _stored_bytes(store: ChipStore, array: str) -> float | None:
    """Tell what a chip takes on the disk, with what says where it is valid; None: the store is not in a folder."""
    if isinstance(store.path, str):
        return None
    folders = [store.path / kind / array for kind in ("chips", "valid")]
    sizes = (file.stat().st_size for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(sizes) / max(store.arrays[array].num_chips, 1)


def reached_line(meter: Meter, cost: RunCost) -> str:
    """Say what a run reached, beside what was expected."""
    expected = "" if cost.step_s is None else f" (expected {duration(cost.step_s)})"
    flops_s = meter.num_images * cost.image_flops / meter.seconds
    took, reached = duration(meter.seconds / meter.num_steps), scaled(flops_s, "FLOP/s")
    mfu, waited = 100 * flops_s / cost.peak_flops_s, 100 * meter.waited_s / meter.seconds
    share = f"{mfu:.1f} % of the measured peak (MFU)"
    return f"reached: {took} a step{expected}, {reached}, {share}; waited for data {waited:.1f} % of the time"


METRICS = ("step", "epoch", "loss", "lr", "grad_norm", "images_per_s", "data_wait", "mfu", "val_loss", "knn_score")
"""Columns of metrics.csv, empty where not taken. `data_wait`: share of time in which the first process waited for
data; `mfu`: the arithmetic reached, over that of a plain matrix product at the start.
"""


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the whole rows of a metrics.csv; a row that a kill cut short does not count. `OutputError` where the file is
    something else."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    # A row counts once its line has ended.
    lines = text[: text.rfind("\n") + 1].split("\n")[:-1]
    if lines and "step" not in lines[0].split(","):
        raise OutputError(f"'{path}' is damaged: it has no column 'step'; restore it, or move it away")
    rows = csv.DictReader(lines)
    return [
        row for row in rows if None not in row and None not in row.values() and whole_number(row["step"]) is not None
    ]


class MetricsLog:
    """Rows of numbers, appended to metrics.csv and given to TensorBoard."""

    def __init__(self, csv_path: Path, tensorboard_path: Path, *, restored_step: int) -> None:
        """Open both; rows beyond the restored step are taken away, because those steps will be done again."""
        from torch.utils.tensorboard import SummaryWriter

        kept = []
        if restored_step:
            kept = [row for row in read_metrics(csv_path) if int(row["step"]) <= restored_step]
        with whole_file(csv_path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self._path = csv_path
        self._file: TextIO = csv_path.open("a", newline="", encoding="utf-8")
        self._board = SummaryWriter(tensorboard_path, purge_step=restored_step + 1 if restored_step else None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row. Floats are written so that reading them gives the same number."""
        numbers = {"step": step, **values}
        line = ",".join(repr(numbers[name]) if name in numbers else "" for name in METRICS)
        try:
            self._file.write(line + "\n")
            self._file.flush()
        except OSError as problem:
            raise OutputError(f"cannot write '{self._path}': {problem.strerror or problem}") from problem
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def add_picture(self, name: str, png: bytes, step: int) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._board.close()
