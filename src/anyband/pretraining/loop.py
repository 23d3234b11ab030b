"""Pre-training: the loop, from a recipe and a store to a checkpoint."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anyband.data.store import ChipStore, statistics_to_dict
from anyband.errors import RecipeError, TrainingError
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import build_model, load_checkpoint, save_checkpoint
from anyband.models.weight_files import checkpoint_hash, locate
from anyband.pretraining.batches import BatchPreparer, Example, SharedSampler, load_parts
from anyband.pretraining.cost import Meter, RunCost, cost_lines, count_processes, measure_cost, reached_line
from anyband.pretraining.plan import RunPlan, plan_run
from anyband.pretraining.recipe import PretrainRecipe, recipe_to_dict
from anyband.pretraining.runs import (
    MetricsLog,
    Progress,
    ProgressLine,
    RunFolder,
    SavedStep,
    Stepper,
    make_fabric,
    progress_line,
    sum_over_processes,
)
from anyband.pretraining.watch import Watch, check_knn
from anyband.training.steps import load_optimizer_tensors, optimizer_tensors, own_share

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["PretrainResult", "TrainingLoop", "dry_run", "pretrain"]

# chosen: the loss that is shown, and that ranks checkpoints without validation, is about that of 50 steps.
_SMOOTHING = 0.98
# chosen: an error names so many places and counts the others.
_MAX_PLACES = 8


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
        cost: RunCost,
    ) -> None:
        """Put together what the loop needs; nothing is read or written. `RecipeError` for a batch that can't be cut."""
        optim = plan.recipe.optim
        self._sampler = SharedSampler(
            plan.samples.sampler(batch_size=optim.batch_size, seed=plan.recipe.seed).batch,
            batch_size=optim.batch_size,
            process=fabric.global_rank,
            num_processes=fabric.world_size,
            parts=optim.accumulate,
        )
        self._plan = plan
        self._folder = folder
        self._fabric = fabric
        self._stepper = stepper
        self._line = line
        self._preparer = BatchPreparer(plan.recipe, plan.inputs, device=fabric.device)
        self._watch = Watch(plan, folder, fabric, stepper, self._preparer)
        # A step whose loss was not looked at yet, so that the device need not be waited for.
        self._pending: tuple[int, Tensor, Tensor | None] | None = None
        self._numbers: dict[str, float] = {}
        self.meter = Meter(cost)

    def run(self, progress: Progress) -> Progress:
        """Do all steps from `progress` on, and give that of the end.

        Raises:
            TrainingError: the loss or the weights are not finite; nothing is saved after that.
            OutputError: a file can't be written.
        """
        total = self._plan.total_steps
        if progress.step == total:
            return progress
        self.meter.restart()
        with self._opened_log(progress.step) as log:
            for step, parts in enumerate(self._batches(progress.step), start=progress.step):
                loss, grad_norm = self._stepper.step(step, parts)
                self.meter.did(self._sampler.global_batch(step).chips.size)
                progress = self._settle(progress)
                self._pending = (step, loss, grad_norm)
                if self._is_stop(step + 1):
                    progress = self._stop(self._settle(progress), log)
        return progress

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
        loader = load_parts(
            self._plan.samples,
            self._sampler,
            self._preparer,
            self._plan.recipe,
            steps=range(first_step, self._plan.total_steps),
        )
        drawn = iter(loader)
        for _ in range(first_step, self._plan.total_steps):
            yield [self._preparer.finish(one) for one in self.meter.take(drawn, parts)]

    def _settle(self, progress: Progress) -> Progress:
        """Look at the loss of the step before: stop if it is not finite, else take it into the progress."""
        if self._pending is None:
            return progress
        (step, found, grad_norm), self._pending = self._pending, None
        loss = float(found)
        if not math.isfinite(loss):
            raise TrainingError(self._not_finite(f"the loss of step {step} is {loss}", step))
        before = progress.smoothed_loss
        smoothed = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss
        self._numbers = {"loss": loss}
        if grad_norm is not None:
            self._numbers["grad_norm"] = float(grad_norm)
        return replace(progress, step=step + 1, smoothed_loss=smoothed)

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
            self.meter.restart()
        return progress

    def _speed(self, progress: Progress) -> dict[str, float]:
        row, done = self.meter.row(), progress.step
        rate = self._plan.schedule.rate(done - 1)
        loss = progress.smoothed_loss or 0.0
        self._line.update(done, loss=loss, rate=rate, images_per_s=row["images_per_s"])
        return {"epoch": done / self._plan.steps_per_epoch, "lr": rate, **row}

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


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run."""

    checkpoint: Path
    """After the last step, with all that is needed to use it."""
    best: Path | None
    """Model of the lowest score; None where it is not kept."""
    steps: int
    """Of the whole run."""
    loss: float | None
    """Of training at the end, smoothed."""
    resumed_from: int | None
    """Step that this call went on from; None: it began the run."""
    already_finished: bool


def pretrain(
    recipe: PretrainRecipe, *, data: Path | str, out: Path, resume: bool = True, shown: bool = True
) -> PretrainResult:
    """Pre-train a network, or go on with a run that was stopped.

    A run that is killed at any moment and called again ends with the same weights to the bit as one that was not, on
    the same devices and with the same number of threads.

    Args:
        recipe: what to do.
        data: chip store: a folder, or a URL (at `run.endpoint`).
        out: folder of the run.
        resume: False refuses a folder that holds a run already.
        shown: whether progress is shown.

    Returns:
        Where the results are.

    Raises:
        OutputError: `out` holds another run, or can't be written; checkpoints are as they were.
        TrainingError: the loss is not finite; the places are named, the last good checkpoint is kept.
        AnybandError: the store or the recipe does not do.
    """
    store = ChipStore.open(data, endpoint=recipe.run.endpoint)
    folder = RunFolder(out)
    identity = _identity(recipe, store)
    existed = folder.check(identity, resume=resume)
    saved = folder.saved_steps()
    if existed and folder.encoder_path.is_file():
        return _finished(folder, saved, shown=shown)
    progress = _train(plan_run(recipe, store), folder, identity, saved=saved, shown=shown)
    resumed_from = saved[-1].progress.step if saved else None
    return _result(folder, progress, resumed_from=resumed_from, already_finished=False)


def dry_run(recipe: PretrainRecipe, *, data: Path | str, out: Path) -> tuple[list[str], bool]:
    """Check what a run needs, and measure on one device what the steps that are left cost; trains and writes nothing.

    Returns:
        Lines for people, and whether nothing is in the way.

    Raises:
        OutputError: `out` holds another run.
        AnybandError: the store or the recipe does not do.
    """
    store, folder = ChipStore.open(data, endpoint=recipe.run.endpoint), RunFolder(out)
    folder.check(_identity(recipe, store), resume=True)
    saved = folder.saved_steps()
    plan = plan_run(recipe, store)
    # One process on one device, so that nothing is launched.
    fabric = make_fabric(recipe.changed(run=recipe.run.changed(devices=1, num_nodes=1, strategy="auto")))
    num_processes = count_processes(recipe.run, fabric.device)
    cost = measure_cost(plan, _first_model(plan), device=fabric.device, num_processes=num_processes)
    first_step = saved[-1].progress.step if saved else 0
    refused = [f"NOT OK: {cost.refusal}", "nothing was trained; see NOT OK"]
    end = ["nothing was trained; the run can start"] if cost.refusal is None else refused
    return [*plan.notes(), *cost_lines(plan, cost, first_step=first_step), *end], cost.refusal is None


def _identity(recipe: PretrainRecipe, store: ChipStore) -> dict[str, Any]:
    identity = {"recipe": recipe_to_dict(recipe), "store": store.fingerprint(), "version": version("anyband")}
    start = recipe.model.start or recipe.model.start_mae
    if start is not None:
        identity["start"] = checkpoint_hash(locate(start))
    if recipe.data.statistics == "store":
        text = repr(sorted(statistics_to_dict(store.statistics).items()))
        identity["statistics"] = blake2b(text.encode(), digest_size=16).hexdigest()
    return identity


def _finished(folder: RunFolder, saved: list[SavedStep], *, shown: bool) -> PretrainResult:
    step = load_checkpoint(folder.encoder_path).step or 0
    progress = saved[-1].progress if saved else Progress(step=step)
    with progress_line(step, first_step=step, shown=shown) as line:
        line.say(f"run '{folder.path}' is finished ({step} steps); nothing is left to do")
    return _result(folder, progress, resumed_from=step, already_finished=True)


def _result(
    folder: RunFolder, progress: Progress, *, resumed_from: int | None, already_finished: bool
) -> PretrainResult:
    kept = {saved.progress.step: saved.model_path for saved in folder.saved_steps()}
    return PretrainResult(
        checkpoint=folder.encoder_path,
        best=None if progress.best_step is None else kept.get(progress.best_step),
        steps=progress.step,
        loss=progress.smoothed_loss,
        resumed_from=resumed_from,
        already_finished=already_finished,
    )


def _train(
    plan: RunPlan, folder: RunFolder, identity: Mapping[str, Any], *, saved: list[SavedStep], shown: bool
) -> Progress:
    """Do the steps that are left, and write the finished model."""
    fabric = make_fabric(plan.recipe)
    start = saved[-1] if saved else None
    model = _first_model(plan) if start is None else _load_model(start, plan)
    check_knn(plan, model)
    cost = measure_cost(plan, model, device=fabric.device, num_processes=fabric.world_size)
    if cost.refusal is not None:
        raise RecipeError(cost.refusal)
    stepper = Stepper(fabric, model, plan.recipe, plan.schedule)
    if start is not None:
        load_optimizer_tensors(stepper.optimizer, model, start.optimizer_tensors())
    is_first_process = fabric.is_global_zero
    if is_first_process:
        folder.begin(identity)
    fabric.barrier()
    progress = start.progress if start is not None else Progress(step=0)
    with progress_line(plan.total_steps, first_step=progress.step, shown=shown and is_first_process) as line:
        if shown and is_first_process:
            for note in (*plan.notes(), *cost_lines(plan, cost, first_step=progress.step)):
                line.say(note)
        if start is not None:
            line.say(f"going on with run '{folder.path}' after step {progress.step} of {plan.total_steps}")
        loop = TrainingLoop(plan, folder, fabric, stepper, line=line, cost=cost)
        progress = loop.run(progress)
        if loop.meter.num_steps:
            line.say(reached_line(loop.meter, cost))
    weights = stepper.whole_weights()
    if is_first_process:
        save_checkpoint(folder.encoder_path, plan.checkpoint(weights, step=progress.step))
    fabric.barrier()
    return progress


def _first_model(plan: RunPlan) -> Autoencoder:
    if plan.start is None:
        return Autoencoder(plan.config, seed=plan.recipe.seed)
    return build_model(replace(plan.start, config=plan.config))


def _load_model(saved: SavedStep, plan: RunPlan) -> Autoencoder:
    checkpoint = load_checkpoint(saved.model_path)
    # The header keeps what the weights are; rates of the run, such as drop path, come from the recipe.
    return build_model(replace(checkpoint, config=plan.config))
