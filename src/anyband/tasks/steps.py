"""One optimiser step over a global batch, the same for any number of processes and accumulated parts."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from anyband.errors import RecipeError
from anyband.models.autoencoder import Autoencoder
from anyband.models.blocks import set_fused_attention, set_recompute
from anyband.models.checkpoint import make_model
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise
from anyband.shapes import Float
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.samples import Example
from anyband.tasks.sharded import in_shares, sharding_strategy, whole, whole_tensors
from anyband.tasks.train import Schedule, make_optimizer, seeded, set_learning_rate

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["StepResult", "Stepper", "make_fabric", "sum_over_processes", "without_announcements"]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave, still on the device."""

    loss: Float[Tensor, ""]
    """Mean over the global batch."""
    grad_norm: Float[Tensor, ""] | None
    """Norm of the gradient before clipping; None where it is not clipped."""


def make_fabric(recipe: PretrainRecipe) -> "Fabric":
    """Make what runs on the recipe's devices, and start its processes.

    Raises:
        RecipeError: there are no such devices.
    """
    from lightning_fabric import Fabric

    run = recipe.run
    with without_announcements():
        try:
            fabric = Fabric(
                accelerator=run.accelerator,
                devices=run.devices,
                num_nodes=run.num_nodes,
                strategy=sharding_strategy() if run.strategy == "fsdp" else run.strategy,
                precision=recipe.optim.precision,
            )
        except (RuntimeError, ValueError) as problem:
            raise RecipeError(
                f"run.accelerator '{run.accelerator}' with run.devices {run.devices} can't be had here: {problem}; "
                "use run.accelerator=auto or cpu"
            ) from problem
        fabric.launch()
    return fabric


@contextlib.contextmanager
def without_announcements() -> Iterator[None]:
    """Fabric announces its precision and processes on the log; the recipe says them already."""
    log = logging.getLogger("lightning_fabric")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


class Stepper:
    """The network, its optimiser and the devices they run on."""

    def __init__(self, fabric: "Fabric", model: Autoencoder, recipe: PretrainRecipe, schedule: Schedule) -> None:
        """Put the network on the devices. `model` stays the same object, with its own names."""
        if recipe.run.compile:
            for stack in (model.encoder.blocks, model.decoder.blocks):
                stack.compile_blocks()
        set_recompute(model, recompute=recipe.run.recompute)
        on_cpu_in_bf16 = fabric.device.type == "cpu" and recipe.optim.precision.startswith("bf16")
        set_fused_attention(model, fused=not on_cpu_in_bf16)
        self.model = model
        self._fabric = fabric
        self._recipe = recipe
        self._schedule = schedule
        self._terms = _Terms(model)
        self._network = fabric.setup_module(self._terms)
        # Cutting weights into shares replaces the parameters, so the optimiser comes after.
        self.optimizer = make_optimizer(model, weight_decay=recipe.optim.weight_decay, betas=recipe.optim.betas)
        stepping = fabric.setup_optimizers(self.optimizer)
        assert not isinstance(stepping, tuple)
        self._stepping = stepping

    def step(self, step: int, parts: Sequence[Example]) -> StepResult:
        """Do one step with this process's parts of the global batch.

        The gradient is that of the joint batch to rounding, whatever the number of processes and parts.
        """
        set_learning_rate(self.optimizer, self._schedule.rate(step))
        counts = [self.model.count(*part) for part in parts]
        total = sum_over_processes(self._fabric, torch.stack(counts).sum(dim=0)).clamp(min=1)
        loss = torch.zeros((), device=self._fabric.device)
        for index, (part, count) in enumerate(zip(parts, counts, strict=True)):
            is_last = index == len(parts) - 1
            with (
                self._fabric.no_backward_sync(self._network, enabled=not is_last),
                self._drawing(step, index),
            ):
                terms = self._network(_Carried(self._rounded(part)))
                share = (terms * (count / total)).sum() / len(terms)
                # Gradients are averaged over processes afterwards; their sum is wanted.
                self._fabric.backward(share * self._fabric.world_size)
            loss = loss + share.detach()
        grad_norm = self._clip()
        self._stepping.step()
        self._stepping.zero_grad(set_to_none=True)
        return StepResult(loss=sum_over_processes(self._fabric, loss), grad_norm=grad_norm)

    def loss(self, example: Example) -> Float[Tensor, ""]:
        """Compute the loss of an example for a look at it. All processes must do so equally often."""
        terms: Tensor = self._terms(_Carried(example))
        return terms.mean()

    def whole_weights(self) -> dict[str, Tensor]:
        """Gather the network's state on the CPU of the first process; empty on others. All processes must ask."""
        return whole_tensors(self.model.state_dict(), kept=self._fabric.is_global_zero)

    def whole_model(self) -> Autoencoder | None:
        """Give the first process the network with whole weights, and None to others. All processes must ask.

        It is the trained network itself, or a copy where that is in shares.
        """
        if not in_shares(self.model):
            return self.model if self._fabric.is_global_zero else None
        weights = self.whole_weights()
        if not weights:
            return None
        copy = make_model(self.model.config, seed=None)
        copy.load_state_dict(weights, strict=True)
        return copy.to(self._fabric.device)

    def _rounded(self, example: Example) -> Example:
        """Round pairs and their noise to bf16 in mixed precision, as release 0.1 did: its runs stay what they were.

        Sets are not rounded. The network casts what it computes with by itself, and numbers that only choose
        positions lose nothing.
        """
        batch, noise = example
        if not (isinstance(batch, PairBatch) and isinstance(noise, PairNoise)):
            return example
        if self._recipe.optim.precision != "bf16-mixed":
            return example
        rounded = PairNoise(mixup=noise.mixup.bfloat16(), masking=noise.masking.bfloat16())
        return PairBatch(a=_rounded_image(batch.a), b=_rounded_image(batch.b)), rounded

    def _clip(self) -> Tensor | None:
        largest = self._recipe.optim.clip_grad_norm
        if largest is None:
            return None
        # A norm that is not finite comes from a loss that is not; that is reported with the places.
        norm = self._fabric.clip_gradients(self._network, self._stepping, max_norm=largest, error_if_nonfinite=False)
        return None if norm is None else whole(norm.detach())

    def _drawing(self, step: int, index: int) -> contextlib.AbstractContextManager[None]:
        if not self.model.config.encoder.drop_path:
            return contextlib.nullcontext()
        purpose = f"drop path, process {self._fabric.global_rank}, part {index}"
        return seeded(self._recipe.seed, step=step, purpose=purpose, device=self._fabric.device)


def sum_over_processes(fabric: "Fabric", value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Add up a number over all processes; one process keeps its own."""
    if fabric.world_size == 1:
        return value
    # Fabric's own sum lets all processes meet first, for which the host waits.
    summed = value.clone()
    torch.distributed.all_reduce(summed)
    return summed


def _rounded_image(image: ImageBatch) -> ImageBatch:
    return replace(image, pixels=image.pixels.bfloat16(), mixing=image.mixing.bfloat16())


class _Carried:
    """An example on its way through Fabric, which casts and copies the tensors in records that it can look into."""

    def __init__(self, example: Example) -> None:
        self.example = example


class _Terms(nn.Module):
    """The network as Fabric calls it: an example in, the terms of its loss out."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, carried: _Carried) -> Tensor:
        terms: Tensor = self.model(*carried.example).terms
        return terms
