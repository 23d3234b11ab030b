"""Pre-training: one run, from a recipe and a store to a checkpoint."""

import contextlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from anyband.arrays import Float
from anyband.data.resample import AugmentOptions
from anyband.data.store import ChipStore, statistics_to_dict
from anyband.errors import CheckpointError, RecipeError, TrainingError
from anyband.files import check_target, held, whole_file
from anyband.labelled.samples import TaskData
from anyband.models.autoencoder import Autoencoder, SetLoss
from anyband.models.checkpoint import (
    Checkpoint,
    build_model,
    checkpoint_hash,
    load_checkpoint,
    locate,
    save_checkpoint,
)
from anyband.pretraining.batches import (
    BatchPreparer,
    Example,
    assignment_rules,
    draws_of_step,
    load_batches,
    step_sampler,
)
from anyband.pretraining.cost import (
    Meter,
    MetricsLog,
    RunCost,
    compute_as_in_training,
    cost_lines,
    count_processes,
    measure_cost,
    reached_line,
)
from anyband.pretraining.plan import (
    ENCODER_FILE,
    LOCK_FILE,
    MODEL_FILE,
    PANELS,
    Progress,
    RunPlan,
    begin_folder,
    check_folder,
    plan_run,
    read_newest,
    save_step,
    saved_steps,
)
from anyband.pretraining.recipe import PretrainRecipe
from anyband.pretraining.watch import draw_panels, knn_score, open_labelled
from anyband.progress import Advance, stop_with_parent
from anyband.progress import progress as shown_progress
from anyband.training.steps import (
    Schedule,
    in_shares,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    own_share,
    seeded,
    set_learning_rate,
    sharding_strategy,
    whole,
    whole_tensors,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["PretrainResult", "Stepper", "TrainingLoop", "dry_run", "make_fabric", "pretrain", "sum_over_processes"]


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
    identity = _identity(recipe, store)
    existed = check_folder(out, identity, resume=resume)
    checkpoint = out / ENCODER_FILE
    already_finished = existed and checkpoint.is_file()
    if already_finished:
        resumed_from, saved = _steps_of(checkpoint), saved_steps(out)
        progress = saved[-1][1] if saved else Progress(step=resumed_from)
        if shown:
            _say(f"run '{out}' is finished ({resumed_from} steps); nothing is left to do")
    else:
        plan = plan_run(recipe, store)
        fabric = make_fabric(recipe)
        # The first process holds the folder before any reads what is in it.
        with held(out / LOCK_FILE) if fabric.is_global_zero else contextlib.nullcontext():
            fabric.barrier()
            resumed_from, progress = _train(plan, out, identity, fabric, shown=shown)
    kept = {done.step: folder / MODEL_FILE for folder, done in saved_steps(out)}
    return PretrainResult(
        checkpoint=checkpoint,
        best=None if progress.best_step is None else kept.get(progress.best_step),
        steps=progress.step,
        loss=progress.smoothed_loss,
        resumed_from=resumed_from or None,
        already_finished=already_finished,
    )


def _steps_of(finished: Path) -> int:
    try:
        return load_checkpoint(finished).step or 0
    except CheckpointError as problem:
        found = f"{problem}; or remove it: the same command makes it again from the last checkpoint of the run"
        raise CheckpointError(found) from problem


def dry_run(recipe: PretrainRecipe, *, data: Path | str, out: Path) -> tuple[list[str], bool]:
    """Check what a run needs, and measure on one device what the steps that are left cost; trains and writes nothing.

    Returns:
        Lines for people, and whether nothing is in the way.

    Raises:
        OutputError: `out` holds another run.
        AnybandError: the store or the recipe does not do.
    """
    store = ChipStore.open(data, endpoint=recipe.run.endpoint)
    check_folder(out, _identity(recipe, store), resume=True)
    saved = saved_steps(out)
    plan = plan_run(recipe, store)
    # One process on one device, so that nothing is launched.
    fabric = make_fabric(recipe.changed(run=recipe.run.changed(devices=1, num_nodes=1, strategy="auto")))
    num_processes = count_processes(recipe.run, fabric.device)
    cost = measure_cost(plan, _model(plan, plan.start), device=fabric.device, num_processes=num_processes)
    first_step = saved[-1][1].step if saved else 0
    refused = [f"NOT OK: {cost.refusal}", "nothing was trained; see NOT OK"]
    end = ["nothing was trained; the run can start"] if cost.refusal is None else refused
    return [*plan.notes(), *cost_lines(plan, cost, first_step=first_step), *end], cost.refusal is None


def _identity(recipe: PretrainRecipe, store: ChipStore) -> dict[str, Any]:
    identity = {"recipe": recipe.model_dump(mode="json"), "store": store.fingerprint(), "version": version("anyband")}
    if start := recipe.model.start or recipe.model.start_mae:
        identity["start"] = checkpoint_hash(locate(start))
    if recipe.data.statistics == "store":
        text = repr(sorted(statistics_to_dict(store.statistics).items()))
        identity["statistics"] = blake2b(text.encode(), digest_size=16).hexdigest()
    return identity


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _model(plan: RunPlan, first: Checkpoint | None) -> Autoencoder:
    """Build the network; what its weights are comes from the checkpoint, rates such as drop path from the recipe."""
    if first is None:
        return Autoencoder(plan.config, seed=plan.recipe.seed)
    return build_model(replace(first, config=plan.config))


def _train(
    plan: RunPlan, out: Path, identity: Mapping[str, Any], fabric: "Fabric", *, shown: bool
) -> tuple[int, Progress]:
    """Do the steps that are left, after so many, and write the finished model."""
    run = plan.recipe.run
    saved, problems = read_newest(out)
    progress, first, moments = saved or (Progress(step=0), plan.start, {})
    model = _model(plan, first)
    labelled = None
    if run.knn is not None:
        checkpoint, rules = plan.checkpoint(model.state_dict(), step=0), assignment_rules(plan.recipe)
        labelled = open_labelled(run.knn, checkpoint, rules=rules, seed=plan.recipe.seed)
    cost = measure_cost(plan, model, device=fabric.device, num_processes=fabric.world_size)
    if cost.refusal is not None:
        raise RecipeError(cost.refusal)
    stepper = Stepper(fabric, model, plan.recipe, plan.schedule)
    if moments:
        load_optimizer_tensors(stepper.optimizer, model, moments)
    del saved, first, moments
    if fabric.is_global_zero:
        check_target(out, is_folder=True)
        begin_folder(out, identity)
        for problem in problems:
            _say(f"note: {problem}; an earlier checkpoint is taken")
    fabric.barrier()
    shown = shown and fabric.is_global_zero
    if shown:
        for note in (*plan.notes(), *cost_lines(plan, cost, first_step=progress.step)):
            _say(note)
        if progress.step:
            _say(f"going on with run '{out}' after step {progress.step} of {plan.total_steps}")
    first_step = progress.step
    loop = TrainingLoop(plan, out, fabric, stepper, cost=cost, labelled=labelled)
    progress = loop.run(progress, shown=shown)
    if shown and loop.meter.num_steps:
        _say(reached_line(loop.meter, cost))
    weights = stepper.whole_weights()
    if fabric.is_global_zero:
        save_checkpoint(out / ENCODER_FILE, plan.checkpoint(weights, step=progress.step))
    fabric.barrier()
    return first_step, progress


_WHOLE = AugmentOptions(enabled=False)
# chosen: the loss that ranks checkpoints without validation is about that of 50 steps.
_SMOOTHING = 0.98
# chosen: an error names so many places and counts the others.
_MAX_PLACES = 8


class TrainingLoop:
    """The steps of one run. All processes run it; the first one writes."""

    def __init__(
        self,
        plan: RunPlan,
        out: Path,
        fabric: "Fabric",
        stepper: "Stepper",
        *,
        cost: RunCost,
        labelled: TaskData | None = None,
    ) -> None:
        """Put together what the loop needs; nothing is read or written. `labelled`: images of a kNN score."""
        self._plan, self._out, self._fabric, self._stepper, self._labelled = plan, out, fabric, stepper, labelled
        self._preparer = BatchPreparer(plan.recipe, plan.inputs, device=fabric.device)
        # A step whose loss was not looked at yet, so that the device need not be waited for.
        self._pending: tuple[int, Tensor, Tensor | None] | None = None
        self._numbers: dict[str, float] = {}
        self._num_shown = 0
        self.meter = Meter(cost)
        self._val_draws = []
        if plan.val_samples is not None:
            optim, samples = plan.recipe.optim, plan.val_samples
            # As large as a part of a training batch where the samples suffice.
            part = max(1, optim.batch_size // (optim.accumulate * fabric.world_size))
            size = min(part, int(np.bincount(samples.sets.kinds()[1]).max()))
            sampler = samples.sampler(batch_size=size, seed=plan.recipe.seed)
            count = min(plan.recipe.run.val_batches, sampler.steps_per_epoch)
            self._val_draws = [sampler.batch(index) for index in range(count)]

    def run(self, progress: Progress, *, shown: bool) -> Progress:
        """Do all steps from `progress` on, and give that of the end. `RecipeError`: batches can't be cut as the recipe
        says; `TrainingError`: the loss or the weights are not finite, and nothing is saved after that; `OutputError`: a
        file can't be written."""
        plan, fabric, total = self._plan, self._fabric, self._plan.total_steps
        if progress.step == total:
            return progress
        steps = range(progress.step, total)
        where = {"process": fabric.global_rank, "num_processes": fabric.world_size}
        batches = iter(load_batches(plan.samples, self._preparer, plan.recipe, steps=steps, **where))
        self._num_shown = progress.step
        self.meter.restart()
        with contextlib.ExitStack() as opened:
            log = None
            if fabric.is_global_zero:
                log = MetricsLog(self._out / "metrics.csv", self._out / "tensorboard", restored_step=progress.step)
                opened.callback(log.close)
            advance = opened.enter_context(shown_progress("pretrain", total, shown=shown, done=progress.step))
            for step in steps:
                parts, num_images = [], 0
                for drawn in self.meter.take(batches, plan.recipe.optim.accumulate):
                    parts.append(self._preparer.finish(drawn))
                    num_images += drawn.raw.draw.chips.size
                loss, grad_norm = self._stepper.step(step, parts)
                self.meter.did(fabric.world_size * num_images)
                progress = self._settle(progress)
                self._pending = (step, loss, grad_norm)
                if due := self._due(step + 1):
                    progress = self._stop(self._settle(progress), due, log, advance)
        return progress

    def _due(self, done: int) -> set[str]:
        """Tell what is to be done after so many steps; at the end all of it."""
        run, is_last = self._plan.recipe.run, done == self._plan.total_steps
        every = {"row": run.log_every_steps, "checkpoint": run.checkpoint_every_steps, "panels": run.panel_every_steps}
        every["knn"] = 0 if run.knn is None else run.knn.every_steps
        return {what for what, steps in every.items() if steps and (is_last or done % steps == 0)}

    def _settle(self, progress: Progress) -> Progress:
        """Look at the loss of the step before: stop if it is not finite, else take it into the progress."""
        if self._pending is None:
            return progress
        (step, found, grad_norm), self._pending = self._pending, None
        loss = float(found)
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss of step {step} is {loss}", step)
        before = progress.smoothed_loss
        smoothed = loss if before is None else _SMOOTHING * before + (1 - _SMOOTHING) * loss
        self._numbers = {"loss": loss}
        if grad_norm is not None:
            self._numbers["grad_norm"] = float(grad_norm)
        return replace(progress, step=step + 1, smoothed_loss=smoothed)

    def _stop(self, progress: Progress, due: set[str], log: MetricsLog | None, advance: Advance) -> Progress:
        """Between two steps: look at the network, write down the numbers, and save it. All processes take part."""
        done, model = progress.step, self._stepper.model
        row, rate = self.meter.row(), self._plan.schedule.rate(done - 1)
        speed = f"{row['images_per_s']:.0f} images/s"
        advance(done - self._num_shown, f"loss of this step {self._numbers['loss']:.4f}, lr {rate:.2e}, {speed}")
        self._num_shown = done
        numbers = self._numbers | {"epoch": done / self._plan.steps_per_epoch, "lr": rate, **row}
        if "checkpoint" in due:
            # A loss can be finite while its gradient is not; such weights must not replace good ones.
            flags = [torch.isfinite(own_share(parameter)).all() for parameter in model.parameters()]
            # Each process sees its own share only; all of them must stop.
            if sum_over_processes(self._fabric, (~torch.stack(flags)).sum().float()) > 0:
                raise self._not_finite(f"the weights after step {done - 1} are not finite", done - 1)
            numbers |= self._validate()
            progress = progress.scored(numbers.get("val_loss", progress.smoothed_loss))
        if due & {"panels", "knn"}:
            numbers |= self._look(due, done, log)
        if log is not None:
            log.add(done, numbers)
        if "checkpoint" in due:
            weights = self._stepper.whole_weights()
            moments = optimizer_tensors(self._stepper.optimizer, model, kept=self._fabric.is_global_zero)
            if self._fabric.is_global_zero:
                save_step(self._out, progress, moments, self._plan.checkpoint(weights, step=done))
        if due - {"row"}:
            self._fabric.barrier()
            # Scoring and saving are no part of the speed.
            self.meter.restart()
        return progress

    def _validate(self) -> dict[str, float]:
        """Compute the loss on validation samples, the same ones and masks each time; processes share them. Weights in
        shares are whole only while all processes compute, so one without a batch goes over the last again."""
        if self._plan.val_samples is None or not self._val_draws:
            return {}
        last = len(self._val_draws) - 1
        total = torch.zeros((), dtype=torch.float64, device=self._fabric.device)
        with self._stepper.looking(self._stepper.model):
            for first in range(0, last + 1, self._fabric.world_size):
                index = min(first + self._fabric.global_rank, last)
                drawn = self._preparer.draw(
                    self._plan.val_samples.read(self._val_draws[index]), step=index, augment=_WHOLE
                )
                loss = self._stepper.loss(self._preparer.finish(drawn)).double()
                total += loss if first + self._fabric.global_rank <= last else torch.zeros_like(loss)
        return {"val_loss": float(sum_over_processes(self._fabric, total)) / (last + 1)}

    def _look(self, due: set[str], done: int, log: MetricsLog | None) -> dict[str, float]:
        """Draw and score. The first process does; the others lend it their shares of the weights. Draws depend on the
        seed only, so every look sees the same masks."""
        plan, model = self._plan, self._stepper.whole_model()
        if model is None or log is None:
            return {}
        if "panels" in due:
            with self._stepper.looking(model):
                panels = draw_panels(plan, model, self._preparer, step=done)
            for name, png in panels.items():
                with whole_file(self._out / PANELS / f"step_{done:08d}_{name}.png") as beside:
                    beside.write_bytes(png)
                log.add_picture(f"reconstruction/{name}", png, done)
        if "knn" not in due or plan.recipe.run.knn is None or self._labelled is None:
            return {}
        score = knn_score(
            plan.recipe.run.knn,
            self._labelled,
            plan.checkpoint(model.state_dict(), step=done),
            rules=assignment_rules(plan.recipe),
            seed=plan.recipe.seed,
            device=str(self._fabric.device),
        )
        return {"knn_score": score}

    def _not_finite(self, what: str, step: int) -> TrainingError:
        samples, recipe = self._plan.samples, self._plan.recipe
        draws = draws_of_step(step_sampler(samples, recipe), recipe, step)
        places = sorted({place for draw in draws for place in samples.places(draw)})
        titles = ", ".join(dict.fromkeys(map(samples.title, draws)))
        more = f" and {len(places) - _MAX_PLACES} more" if len(places) > _MAX_PLACES else ""
        found = f"{what} ({titles}; places: {', '.join(places[:_MAX_PLACES])}{more})"
        advice = "Look at these images, or lower optim.base_lr or set optim.clip_grad_norm"
        return TrainingError(f"{found}; the run stops, its last good checkpoint is kept. {advice}")


# Set for the processes that are started: which one starts them.
_LAUNCHER = "ANYBAND_LAUNCHER"


def make_fabric(recipe: PretrainRecipe) -> "Fabric":
    """Start the processes on the recipe's devices; `RecipeError` where there are none such."""
    from lightning_fabric import Fabric

    run, log = recipe.run, logging.getLogger("lightning_fabric")
    level = log.level
    # Fabric announces its precision and processes; the recipe says them already.
    log.setLevel(logging.WARNING)
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
    else:
        # Processes that Fabric or torchrun starts end with the one that started them.
        if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get(_LAUNCHER) == str(os.getppid()):
            stop_with_parent()
        os.environ[_LAUNCHER] = str(os.getpid())
        fabric.launch()
        return fabric
    finally:
        os.environ.pop(_LAUNCHER, None)
        log.setLevel(level)


class Stepper:
    """The network, its optimiser and the devices they run on."""

    def __init__(self, fabric: "Fabric", model: Autoencoder, recipe: PretrainRecipe, schedule: Schedule) -> None:
        """Put the network on the devices. `model` stays the same object, with its own names."""
        if recipe.run.compile:
            for stack in (model.encoder.blocks, model.decoder.blocks):
                stack.compile_blocks()
        compute_as_in_training(model, recipe, fabric.device)
        self.model, self._fabric, self._recipe, self._schedule = model, fabric, recipe, schedule
        self._terms = _Terms(model)
        self._network = fabric.setup_module(self._terms)
        # Cutting weights into shares replaces the parameters, so the optimiser comes after.
        self.optimizer = make_optimizer(model, weight_decay=recipe.optim.weight_decay, betas=recipe.optim.betas)
        stepping = fabric.setup_optimizers(self.optimizer)
        assert not isinstance(stepping, tuple)
        self._stepping = stepping

    def step(self, step: int, parts: Sequence[Example]) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Do one step with this process's parts of the global batch, whose gradient is the same however it is cut.
        Gives the mean loss over the global batch and the norm of the gradient where it is clipped, still on the
        device."""
        fabric, largest, grad_norm = self._fabric, self._recipe.optim.clip_grad_norm, None
        set_learning_rate(self.optimizer, self._schedule.rate(step))
        weights: list[Tensor | float] = [1.0]
        if len(parts) * fabric.world_size > 1:
            counts = [self.model.count(*part) for part in parts]
            total = sum_over_processes(fabric, torch.stack(counts).sum(dim=0)).clamp(min=1)
            weights = [count / total for count in counts]
        loss = torch.zeros((), device=fabric.device)
        for index, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            is_last = index == len(parts) - 1
            drawing: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
            if self.model.config.encoder.drop_path:
                purpose = f"drop path, process {fabric.global_rank}, part {index}"
                drawing = seeded(self._recipe.seed, step=step, purpose=purpose, device=fabric.device)
            with fabric.no_backward_sync(self._network, enabled=not is_last), drawing:
                terms = self._network(partial(self.model, *part))
                share = (terms * weight).sum() / len(terms)
                # Gradients are averaged over processes afterwards; their sum is wanted.
                fabric.backward(share * fabric.world_size)
            loss = loss + share.detach()
        if largest is not None:
            # A norm that is not finite comes from a loss that is not; that is reported with the places.
            norm = fabric.clip_gradients(self._network, self._stepping, max_norm=largest, error_if_nonfinite=False)
            grad_norm = None if norm is None else whole(norm.detach())
        self._stepping.step()
        self._stepping.zero_grad(set_to_none=True)
        return sum_over_processes(fabric, loss), grad_norm

    def loss(self, example: Example) -> Float[Tensor, ""]:
        """Compute the loss of an example for a look at it. All processes must do so equally often."""
        terms: Tensor = self._terms(partial(self.model, *example))
        return terms.mean()

    @contextlib.contextmanager
    def looking(self, model: Autoencoder) -> Iterator[None]:
        """Without gradients, without drop path, in the precision of training."""
        model.eval()
        try:
            with torch.no_grad(), self._fabric.autocast():
                yield
        finally:
            model.train()

    def whole_weights(self) -> dict[str, Tensor]:
        """Gather the network's state on the CPU of the first process; empty on others. All processes must ask."""
        return whole_tensors(self.model.state_dict(), kept=self._fabric.is_global_zero)

    def whole_model(self) -> Autoencoder | None:
        """Give the first process the network or a copy with whole weights, others None. All processes must ask."""
        weights, is_first = self.whole_weights() if in_shares(self.model) else None, self._fabric.is_global_zero
        if weights is None or not is_first:
            return self.model if is_first else None
        copy = Autoencoder(self.model.config, seed=None).to_empty(device=self._fabric.device)
        copy.load_state_dict(weights, strict=True)
        return copy


class _Terms(nn.Module):
    """The network as Fabric calls it, which would cast and copy the tensors of an example that it can look into."""

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], SetLoss]) -> Tensor:
        terms: Tensor = compute().terms
        return terms


def sum_over_processes(fabric: "Fabric", value: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Add up a number over all processes; one process keeps its own."""
    if fabric.world_size == 1:
        return value
    # Fabric's own sum lets all processes meet first, for which the host waits.
    summed = value.clone()
    torch.distributed.all_reduce(summed)
    return summed
