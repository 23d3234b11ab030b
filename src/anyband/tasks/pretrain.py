"""Pre-training: from a recipe and a chip store to a checkpoint, also when killed in between."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from anyband.data.store import ChipStore, statistics_to_dict
from anyband.errors import RecipeError
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import build_model, load_checkpoint, make_model, save_checkpoint
from anyband.models.weight_files import checkpoint_hash, locate
from anyband.tasks.cost_lines import cost_lines, reached_lines
from anyband.tasks.cost_model import Place, RunCost, count_processes, run_cost
from anyband.tasks.cost_timing import Device, peak_flops_s
from anyband.tasks.logs import progress_line
from anyband.tasks.loop import TrainingLoop
from anyband.tasks.meter import Reached
from anyband.tasks.recipe import PretrainRecipe, recipe_to_dict
from anyband.tasks.run_plan import RunPlan, plan_run
from anyband.tasks.runs import Progress, RunFolder, SavedStep
from anyband.tasks.step_memory import check_step_memory
from anyband.tasks.steps import Stepper, make_fabric
from anyband.tasks.train import load_optimizer_tensors
from anyband.tasks.watch import check_knn

__all__ = ["DryRun", "PretrainResult", "dry_run", "pretrain"]


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run."""

    checkpoint: Path
    """The model after the last step, with all that is needed to use it."""
    best: Path | None
    """Model of the checkpoint with the lowest score; None where it is not kept."""
    steps: int
    """Steps of the whole run."""
    loss: float | None
    """Training loss at the end, smoothed."""
    resumed_from: int | None
    """Step that this call went on from; None: it began the run."""
    already_finished: bool
    """Whether the run was done before, so that nothing was left to do."""
    cost: RunCost | None = None
    """What was expected of the steps of this call; None: nothing was shown or left to do."""
    reached: Reached | None = None
    """What they reached; None: nothing was left to do."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would do and cost."""

    lines: tuple[str, ...]
    """For people."""
    cost: RunCost
    """What its steps are expected to cost."""
    ok: bool
    """Whether nothing is in the way."""


def pretrain(
    recipe: PretrainRecipe, *, data: Path | str, out: Path, resume: bool = True, shown: bool = True
) -> PretrainResult:
    """Pre-train a network, or go on with a run that was stopped.

    A run that is killed at any moment and called again ends with the same weights to the bit as one that was
    not, on the same devices and with the same number of threads.

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
    progress, cost, reached = _train(plan_run(recipe, store), folder, identity, saved=saved, shown=shown)
    resumed_from = saved[-1].progress.step if saved else None
    result = _result(folder, progress, resumed_from=resumed_from, already_finished=False)
    return replace(result, cost=cost, reached=reached)


def dry_run(recipe: PretrainRecipe, *, data: Path | str, out: Path) -> DryRun:
    """Check what a run needs, and reckon what the steps that are left cost. Nothing is trained or written.

    One process measures on one device, whatever the number of processes of the run.

    Args:
        recipe: of the run.
        data: chip store.
        out: folder of the run; a run that was stopped would go on.

    Raises:
        OutputError: `out` holds another run.
        AnybandError: the store or the recipe does not do.
    """
    store, folder = ChipStore.open(data, endpoint=recipe.run.endpoint), RunFolder(out)
    folder.check(_identity(recipe, store), resume=True)
    saved = folder.saved_steps()
    plan = plan_run(recipe, store)
    # One process on one device, so that nothing is launched.
    fabric = make_fabric(replace(recipe, run=replace(recipe.run, devices=1, num_nodes=1, strategy="auto")))
    place = _place(recipe, fabric.device, num_processes=count_processes(recipe.run, fabric.device))
    cost = run_cost(plan, place, first_step=saved[-1].progress.step if saved else 0)
    lines = [*plan.notes(), *cost_lines(cost)]
    try:
        _check_memory(plan, fabric.device, place.num_processes)
    except RecipeError as problem:
        return DryRun(lines=(*lines, f"NOT OK: {problem}", "nothing was trained; see NOT OK"), cost=cost, ok=False)
    return DryRun(lines=(*lines, "nothing was trained; the run can start"), cost=cost, ok=True)


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
) -> tuple[Progress, RunCost | None, Reached]:
    """Do the steps that are left, and write the finished model."""
    fabric = make_fabric(plan.recipe)
    _check_memory(plan, fabric.device, fabric.world_size)
    start = saved[-1] if saved else None
    place = _place(plan.recipe, fabric.device, num_processes=fabric.world_size) if fabric.is_global_zero else None
    cost = None
    if shown and place is not None:
        cost = run_cost(plan, place, first_step=start.progress.step if start is not None else 0)
    model = _first_model(plan) if start is None else _load_model(start, plan)
    check_knn(plan, model)
    stepper = Stepper(fabric, model, plan.recipe, plan.schedule)
    if start is not None:
        load_optimizer_tensors(stepper.optimizer, model, start.optimizer_tensors())
    is_first_process = fabric.is_global_zero
    if is_first_process:
        folder.begin(identity)
    fabric.barrier()
    progress = start.progress if start is not None else Progress(step=0)
    with progress_line(plan.total_steps, first_step=progress.step, shown=shown and is_first_process) as line:
        for note in (*plan.notes(), *(cost_lines(cost) if cost is not None else ())):
            line.say(note)
        if start is not None:
            line.say(f"going on with run '{folder.path}' after step {progress.step} of {plan.total_steps}")
        peak = None if place is None else place.num_processes * place.peak_flops_s
        loop = TrainingLoop(plan, folder, fabric, stepper, line=line, peak_flops_s=peak)
        progress = loop.run(progress)
        for note in reached_lines(loop.reached, cost):
            line.say(note)
    weights = stepper.whole_weights()
    if is_first_process:
        save_checkpoint(folder.encoder_path, plan.checkpoint(weights, step=progress.step))
    fabric.barrier()
    return progress, cost, loop.reached


def _check_memory(plan: RunPlan, device: torch.device, num_processes: int) -> None:
    most = plan.samples.most_images
    check_step_memory(plan.recipe, plan.config, num_images=most, device=device, num_processes=num_processes)


def _place(recipe: PretrainRecipe, device: torch.device, *, num_processes: int) -> Place:
    """Measure where a run is done."""
    where = Device(device=device, precision=recipe.optim.precision)
    return Place(where=where, num_processes=num_processes, peak_flops_s=peak_flops_s(where))


def _first_model(plan: RunPlan) -> Autoencoder:
    if plan.start is None:
        return make_model(plan.config, seed=plan.recipe.seed)
    return build_model(replace(plan.start, config=plan.config))


def _load_model(saved: SavedStep, plan: RunPlan) -> Autoencoder:
    checkpoint = load_checkpoint(saved.model_path)
    # The header keeps what the weights are; rates of the run, such as drop path, come from the recipe.
    return build_model(replace(checkpoint, config=plan.config))
