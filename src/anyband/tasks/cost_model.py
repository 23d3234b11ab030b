"""What a pre-training run costs, reckoned before its first step: arithmetic, time, memory and reading."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import make_model
from anyband.tasks.cost_flops import BatchFlops, BatchShape, sample_tokens
from anyband.tasks.cost_shapes import RunShapes, raw_bytes, stored_bytes
from anyband.tasks.cost_timing import BlockSizes, Device, copied_bytes_s, sequence_seconds
from anyband.tasks.memory import available_bytes
from anyband.tasks.recipe import PretrainRecipe, RunRecipe
from anyband.tasks.run_plan import RunPlan
from anyband.tasks.step_memory import step_bytes

__all__ = ["Place", "RunCost", "StepSeconds", "count_processes", "count_weights", "run_cost"]

# Weights, their gradients and two moments are read, weights and moments written, in float32.
_BYTES_OF_UPDATE = 7 * 4
# chosen: samples that are read and prepared to see how long it takes: quick, and enough to fill a read.
_TRIED = 32


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run is done."""

    where: Device
    """The device of a process, and its arithmetic."""
    num_processes: int
    """Processes of the run."""
    peak_flops_s: float
    """Measured rate of a plain matrix product on one of the devices."""


@dataclass(frozen=True, kw_only=True)
class StepSeconds:
    """Where the time of a step is expected to go. It takes their sum: nothing is assumed to be done meanwhile."""

    blocks: float
    """Blocks forward and backward: one of encoder and decoder timed, times their number."""
    maps: float
    """The other products, at the rate that the blocks reach."""
    preparing: float
    """Harmonising, cropping and resizing on the device: timed on some samples."""
    optimizer: float
    """Bytes of weights, gradients and moments at the rate of a copy."""

    @property
    def total(self) -> float:
        """Seconds of a step."""
        return self.blocks + self.maps + self.preparing + self.optimizer


@dataclass(frozen=True, kw_only=True)
class RunCost:
    """An estimate. Left out are reading where it is slower than computing, losses and norms outside of the blocks,
    what processes tell each other, compilation (which makes blocks quicker), validation, panels and saving."""

    place: Place
    """Where the run is done."""
    noun: str
    """pair or set."""
    num_weights: int
    """Weights of the network with its decoder."""
    batch_size: int
    """Samples of a step, over all processes."""
    num_steps: int
    """Steps that are left."""
    flops: BatchFlops
    """Forward operations of a step, over all processes; the mean of batches spread over the run."""
    seconds: StepSeconds
    """Expected of a step."""
    needed_bytes: int
    """Memory that a step needs at least, on the device of one process; where CPUs share theirs, of all of them."""
    free_bytes: int | None
    """Memory that is free there; None: nobody says."""
    stored_bytes: float | None
    """Of a step as stored on the disk; None: the store is not in a folder."""
    raw_bytes: float
    """Of a step in stored numbers."""
    read_samples_s: float
    """Samples that one thread read in a second, waiting for each other thing it does."""
    workers: int
    """Threads that read ahead in each process."""

    @property
    def flops_a_sample(self) -> float:
        """Operations that training on a pair or set takes."""
        return self.flops.trained / self.batch_size

    @property
    def computed_samples_s(self) -> float:
        """Samples a second that all processes are expected to compute."""
        return self.batch_size / self.seconds.total

    @property
    def mfu(self) -> float:
        """Model FLOP utilisation that is expected."""
        return self.flops.trained / self.seconds.total / (self.place.num_processes * self.place.peak_flops_s)

    @property
    def reading_limits(self) -> bool:
        """Whether one reading thread a process is slower than computing, so that it matters how well threads add up."""
        return self.read_samples_s * self.place.num_processes < self.computed_samples_s


def count_processes(run: RunRecipe, device: torch.device) -> int:
    """Count the processes that a run would have, as the recipe says and this machine has devices."""
    if run.devices != "auto":
        return run.num_nodes * run.devices
    return run.num_nodes * (torch.cuda.device_count() if device.type == "cuda" else 1)


def count_weights(config: AutoencoderConfig) -> int:
    """Count the weights of a network with its decoder; none are drawn."""
    return sum(parameter.numel() for parameter in make_model(config, seed=None).parameters())


def run_cost(plan: RunPlan, place: Place, *, first_step: int) -> RunCost:
    """Reckon the steps of a run from short measurements.

    No global generator is drawn from, and no network that is trained is touched. It takes a second or two: blocks are
    timed at the run's own lengths, on fewer samples where they are large.

    Args:
        plan: of the run.
        place: where it is done.
        first_step: that is done next.

    Raises:
        StoreError: the store is damaged.
    """
    optim = plan.recipe.optim
    shapes = RunShapes(plan, num_parts=optim.accumulate * place.num_processes)
    draws = shapes.drawn()
    flops = BatchFlops()
    for draw in draws:
        flops = flops.plus(shapes.flops(draw), times=1 / len(draws))
    read_s, prepare_s = _tried_seconds(plan, place, draws[0].part(slice(0, min(_TRIED, optim.batch_size))))
    blocks_s = _blocks_seconds(plan, place, [shapes.shape(draw) for draw in draws])
    num_weights = count_weights(plan.config)
    of_blocks = 3 * flops.blocks
    return RunCost(
        place=place,
        noun="pair" if plan.recipe.data.sets is None else "set",
        num_weights=num_weights,
        batch_size=optim.batch_size,
        num_steps=plan.total_steps - first_step,
        flops=flops,
        seconds=StepSeconds(
            blocks=blocks_s * (4 / 3 if plan.recipe.run.recompute else 1.0),
            maps=blocks_s * (flops.trained - of_blocks) / of_blocks,
            preparing=prepare_s * optim.batch_size / place.num_processes,
            optimizer=num_weights * _BYTES_OF_UPDATE / copied_bytes_s(place.where),
        ),
        needed_bytes=_needed_bytes(plan, place),
        free_bytes=available_bytes(place.where.device),
        stored_bytes=_mean_bytes(shapes, draws, {name: stored_bytes(plan.store, name) for name in plan.inputs}),
        raw_bytes=_mean_bytes(shapes, draws, {name: float(raw_bytes(plan.store, name)) for name in plan.inputs}) or 0.0,
        read_samples_s=1 / read_s,
        workers=plan.recipe.run.workers,
    )


def _mean_bytes(shapes: RunShapes, draws: list[Any], of_chip: dict[str, float | None]) -> float | None:
    """Average the bytes of batches; None where those of an array are not known."""
    known = {name: size for name, size in of_chip.items() if size is not None}
    if len(known) < len(of_chip):
        return None
    totals = [sum(count * known[name] for name, count in shapes.images(draw).items()) for draw in draws]
    return float(np.mean(totals))


def _blocks_seconds(plan: RunPlan, place: Place, shapes: list[BatchShape]) -> float:
    """Time one block of encoder and of decoder at each length of the run, and add up what a process's blocks take."""
    recipe, config = plan.recipe, plan.config
    encoder, decoder = config.encoder, config.decoder
    timed: dict[tuple[int, int], float] = {}
    total = 0.0
    for shape in shapes:
        tokens = sample_tokens(config, shape)
        for depth, lengths, width, heads in (
            (encoder.depth, tokens.encoder, encoder.embed_dim, encoder.num_heads),
            (decoder.decoder_depth, tokens.decoder, decoder.decoder_embed_dim, decoder.decoder_num_heads),
        ):
            for length in lengths:
                if (length, width) not in timed:
                    timed[length, width] = sequence_seconds(
                        BlockSizes(
                            width=width, num_heads=heads, mlp_ratio=encoder.mlp_ratio, norm_eps=encoder.norm_eps
                        ),
                        place.where,
                        length=length,
                        num_sequences=_part_size(recipe, place) * lengths.count(length),
                        flops_s=place.peak_flops_s,
                    )
                total += depth * shape.num_samples * timed[length, width]
    return total / len(shapes) / place.num_processes


def _part_size(recipe: PretrainRecipe, place: Place) -> int:
    return max(1, recipe.optim.batch_size // (recipe.optim.accumulate * place.num_processes))


def _tried_seconds(plan: RunPlan, place: Place, draw: Any) -> tuple[float, float]:
    """Read and prepare some samples, once to warm up and once timed: seconds of each for a sample."""
    preparer = plan.samples.preparer(plan.recipe, plan.inputs, device=place.where.device)
    seconds = (0.0, 0.0)
    for _ in range(2):
        begun = time.perf_counter()
        raw = plan.samples.read(draw)
        read = time.perf_counter()
        preparer.prepare(raw, step=0)
        place.where.wait()
        seconds = (read - begun, time.perf_counter() - read)
    return seconds[0] / len(draw.samples), seconds[1] / len(draw.samples)


def _needed_bytes(plan: RunPlan, place: Place) -> int:
    run, on_cpu = plan.recipe.run, place.where.device.type == "cpu"
    together = max(1, place.num_processes // run.num_nodes) if on_cpu else 1
    return together * step_bytes(
        plan.recipe,
        plan.config,
        num_samples=_part_size(plan.recipe, place),
        num_images=plan.samples.most_images,
        fused=place.where.fused,
        num_processes=place.num_processes,
    )
