"""Pre-training: from a recipe and a chip store to a checkpoint, also when killed in between."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyband.data.store import ChipStore, statistics_to_dict
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import build_model, load_checkpoint, make_model, save_checkpoint
from anyband.models.weight_files import checkpoint_hash, locate
from anyband.tasks.logs import progress_line
from anyband.tasks.loop import TrainingLoop
from anyband.tasks.recipe import PretrainRecipe, recipe_to_dict
from anyband.tasks.run_plan import RunPlan, plan_run
from anyband.tasks.runs import Progress, RunFolder, SavedStep
from anyband.tasks.step_memory import check_step_memory
from anyband.tasks.steps import Stepper, make_fabric
from anyband.tasks.train import load_optimizer_tensors
from anyband.tasks.watch import check_knn

__all__ = ["PretrainResult", "pretrain"]


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
    progress = _train(plan_run(recipe, store), folder, identity, saved=saved, shown=shown)
    resumed_from = saved[-1].progress.step if saved else None
    return _result(folder, progress, resumed_from=resumed_from, already_finished=False)


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
    check_step_memory(
        plan.recipe,
        plan.config,
        num_images=plan.samples.most_images,
        device=fabric.device,
        num_processes=fabric.world_size,
    )
    start = saved[-1] if saved else None
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
        for note in plan.notes():
            line.say(note)
        if start is not None:
            line.say(f"going on with run '{folder.path}' after step {progress.step} of {plan.total_steps}")
        progress = TrainingLoop(plan, folder, fabric, stepper, line=line).run(progress)
    weights = stepper.whole_weights()
    if is_first_process:
        save_checkpoint(folder.encoder_path, plan.checkpoint(weights, step=progress.step))
    fabric.barrier()
    return progress


def _first_model(plan: RunPlan) -> Autoencoder:
    if plan.start is None:
        return make_model(plan.config, seed=plan.recipe.seed)
    return build_model(replace(plan.start, config=plan.config))


def _load_model(saved: SavedStep, plan: RunPlan) -> Autoencoder:
    checkpoint = load_checkpoint(saved.model_path)
    # The header keeps what the weights are; rates of the run, such as drop path, come from the recipe.
    return build_model(replace(checkpoint, config=plan.config))
