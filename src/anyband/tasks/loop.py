"""The training loop: steps in order, and between them what is logged, drawn, scored and saved."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from anyband.errors import TrainingError
from anyband.models.checkpoint import save_checkpoint
from anyband.tasks.cost_shapes import RunShapes
from anyband.tasks.loading import part_loader
from anyband.tasks.logs import MetricsLog, ProgressLine
from anyband.tasks.meter import Meter, Reached
from anyband.tasks.run_plan import RunPlan
from anyband.tasks.runs import Progress, RunFolder
from anyband.tasks.samples import Example, Share, SharedSampler
from anyband.tasks.sharded import own_share
from anyband.tasks.steps import Stepper, StepResult, sum_over_processes
from anyband.tasks.train import optimizer_tensors
from anyband.tasks.watch import Watch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["TrainingLoop"]

# chosen: the loss that is shown, and that ranks checkpoints without validation, is about that of 50 steps.
_SMOOTHING = 0.98
# chosen: an error names so many places and counts the others.
_MAX_PLACES = 8


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A step whose loss was not looked at yet, so that the device need not be waited for."""

    step: int
    result: StepResult


class TrainingLoop:
    """The steps of one run. All processes run it; the first one writes."""

    def __init__(
        self,
        plan: RunPlan,
        folder: RunFolder,
        fabric: "Fabric",
        stepper: Stepper,
        *,
        line: ProgressLine,
        peak_flops_s: float | None = None,
    ) -> None:
        """Put together what the loop needs; nothing is read or written yet.

        Args:
            plan: what is done.
            folder: of the run.
            fabric: devices and processes.
            stepper: the network and its optimiser.
            line: how far the run is.
            peak_flops_s: rate of a plain matrix product, of all processes together; None: not measured.

        Raises:
            RecipeError: the batch can't be cut for these processes.
        """
        optim = plan.recipe.optim
        share = Share(process=fabric.global_rank, num_processes=fabric.world_size, parts=optim.accumulate)
        share.check(optim.batch_size)
        whole = plan.samples.sampler(batch_size=optim.batch_size, seed=plan.recipe.seed)
        self._sampler = SharedSampler(whole, batch_size=optim.batch_size, share=share)
        self._plan = plan
        self._folder = folder
        self._fabric = fabric
        self._stepper = stepper
        self._line = line
        self._preparer = plan.samples.preparer(plan.recipe, plan.inputs, device=fabric.device)
        self._watch = Watch(plan, folder, fabric, stepper, self._preparer)
        self._pending: _Pending | None = None
        self._numbers: dict[str, float] = {}
        self._shapes = RunShapes(plan, num_parts=share.num_processes * share.parts)
        self._meter = Meter(peak_flops_s=peak_flops_s)

    @property
    def reached(self) -> Reached:
        """What the steps of this call reached up to the last row of metrics.csv."""
        return self._meter.total

    def run(self, progress: Progress) -> Progress:
        """Do all steps from `progress` on.

        Returns:
            The progress at the end.

        Raises:
            TrainingError: the loss or the weights are not finite; nothing is saved after that.
            OutputError: a file can't be written.
        """
        total = self._plan.total_steps
        if progress.step == total:
            return progress
        self._meter.restart()
        with self._opened_log(progress.step) as log:
            for step, parts in enumerate(self._batches(progress.step), start=progress.step):
                result = self._stepper.step(step, parts)
                self._measure(step)
                progress = self._settle(progress)
                self._pending = _Pending(step=step, result=result)
                if self._is_stop(step + 1):
                    progress = self._stop(self._settle(progress), log)
        return progress

    def _measure(self, step: int) -> None:
        draw = self._sampler.global_batch(step)
        self._meter.did(num_images=self._plan.samples.chips(draw).size, flops=self._shapes.flops(draw).trained)

    @contextlib.contextmanager
    def _opened_log(self, restored_step: int) -> Iterator[MetricsLog | None]:
        if not self._fabric.is_global_zero:
            yield None
            return
        paths = (self._folder.metrics_path, self._folder.tensorboard_path)
        with contextlib.closing(MetricsLog(*paths, restored_step=restored_step)) as log:
            yield log

    def _batches(self, first_step: int) -> Iterator[list[Example]]:
        parts = self._plan.recipe.optim.accumulate
        loader = part_loader(
            self._plan.samples,
            self._sampler,
            self._preparer,
            self._plan.recipe,
            steps=range(first_step, self._plan.total_steps),
        )
        drawn = iter(loader)
        for _ in range(first_step, self._plan.total_steps):
            yield [self._preparer.finish(one) for one in self._meter.take(drawn, parts)]

    def _settle(self, progress: Progress) -> Progress:
        """Look at the loss of the step before: stop if it is not finite, else take it into the progress."""
        pending = self._pending
        if pending is None:
            return progress
        self._pending = None
        loss = float(pending.result.loss)
        if not math.isfinite(loss):
            raise TrainingError(self._not_finite(f"the loss of step {pending.step} is {loss}", pending.step))
        before = progress.smoothed_loss
        smoothed = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss
        self._numbers = {"loss": loss}
        if pending.result.grad_norm is not None:
            self._numbers["grad_norm"] = float(pending.result.grad_norm)
        return replace(progress, step=pending.step + 1, smoothed_loss=smoothed)

    def _is_stop(self, done: int) -> bool:
        run = self._plan.recipe.run
        return self._is_checkpoint(done) or done % run.log_every_steps == 0 or self._watch.is_due(done)

    def _is_checkpoint(self, done: int) -> bool:
        return done == self._plan.total_steps or done % self._plan.recipe.run.checkpoint_every_steps == 0

    def _stop(self, progress: Progress, log: MetricsLog | None) -> Progress:
        """Between two steps: look at the network, save it, and write down the numbers."""
        done = progress.step
        numbers = self._numbers | self._speed(progress)
        if self._is_checkpoint(done):
            self._check_weights(done)
            numbers |= self._watch.validate()
            progress = progress.scored(numbers.get("val_loss", progress.smoothed_loss))
        # Looking and saving gather what is in shares, so all processes take part.
        numbers |= self._watch.look(done, log)
        if log is not None:
            log.add(done, numbers)
        if self._is_checkpoint(done):
            self._save(progress)
        if self._is_checkpoint(done) or self._watch.is_due(done):
            self._fabric.barrier()
            # Scoring and saving are no part of the speed.
            self._meter.restart()
        return progress

    def _speed(self, progress: Progress) -> dict[str, float]:
        row, done = self._meter.row(), progress.step
        rate = self._plan.schedule.rate(done - 1)
        loss = progress.smoothed_loss or 0.0
        self._line.update(done, loss=loss, rate=rate, images_per_s=row.images_per_s)
        speed = {"images_per_s": row.images_per_s, "data_wait": row.data_wait}
        if row.mfu is not None:
            speed["mfu"] = row.mfu
        return {"epoch": done / self._plan.steps_per_epoch, "lr": rate, **speed}

    def _save(self, progress: Progress) -> None:
        is_first_process = self._fabric.is_global_zero
        weights = self._stepper.whole_weights()
        tensors = optimizer_tensors(self._stepper.optimizer, self._stepper.model, kept=is_first_process)
        if not is_first_process:
            return
        checkpoint = self._plan.checkpoint(weights, step=progress.step)
        self._folder.save(progress, tensors, lambda path: save_checkpoint(path, checkpoint))

    def _check_weights(self, done: int) -> None:
        """A loss can be finite while its gradient is not; such weights must not replace good ones."""
        flags = [torch.isfinite(own_share(parameter)).all() for parameter in self._stepper.model.parameters()]
        # Each process sees its own share only; all of them must stop.
        if sum_over_processes(self._fabric, (~torch.stack(flags)).sum().float()) > 0:
            raise TrainingError(self._not_finite(f"the weights after step {done - 1} are not finite", done - 1))

    def _not_finite(self, what: str, step: int) -> str:
        draw = self._sampler.global_batch(step)
        places = sorted(set(self._plan.samples.places(draw)))
        shown = ", ".join(places[:_MAX_PLACES])
        more = f" and {len(places) - _MAX_PLACES} more" if len(places) > _MAX_PLACES else ""
        return (
            f"{what} ({self._plan.samples.title(draw)}; places: {shown}{more}); the run stops, its last good "
            "checkpoint is kept. Look at these images, or lower optim.base_lr or set optim.clip_grad_norm"
        )
