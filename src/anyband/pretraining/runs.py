"""A run's folder and logs, and its steps."""

import contextlib
import csv
import dataclasses
import io
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
import yaml
from torch import Tensor, nn

from anyband.arrays import Float
from anyband.errors import OutputError, RecipeError
from anyband.files import check_writable, whole_directory, whole_file
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import read_weights, write_weights
from anyband.models.vit import configure_blocks
from anyband.pretraining.batches import Example
from anyband.pretraining.cost import trains_fused
from anyband.pretraining.recipe import PretrainRecipe, recipe_differences
from anyband.training.steps import (
    Schedule,
    in_shares,
    make_optimizer,
    seeded,
    set_learning_rate,
    sharding_strategy,
    whole,
    whole_tensors,
    without_announcements,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard import SummaryWriter

__all__ = [
    "METRICS",
    "MetricsLog",
    "Progress",
    "ProgressLine",
    "RunFolder",
    "SavedStep",
    "Stepper",
    "make_fabric",
    "progress_line",
    "read_metrics",
    "sum_over_processes",
]

METRICS = ("step", "epoch", "loss", "lr", "grad_norm", "images_per_s", "data_wait", "mfu", "val_loss", "knn_score")
"""Columns of metrics.csv, empty where not taken. `data_wait`: share of time in which the first process waited for
data; `mfu`: the arithmetic reached, over that of a plain matrix product at the start.
"""

# chosen: a log file gets a line now and then, a terminal is redrawn by rich.
_LINE_EVERY_S = 15.0


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Read the whole rows of a metrics.csv; a row that a kill cut short does not count."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    # A row counts once its line has ended.
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = list(csv.DictReader(lines))
    return [row for row in rows if None not in row and None not in row.values() and row["step"].isdigit()]


class MetricsLog:
    """Rows of numbers, appended to metrics.csv and given to TensorBoard."""

    def __init__(self, csv_path: Path, tensorboard_path: Path, *, restored_step: int) -> None:
        """Open both; rows beyond the restored step are taken away, because those steps will be done again."""
        kept = [row for row in read_metrics(csv_path) if int(row["step"]) <= restored_step]
        with whole_file(csv_path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self._path = csv_path
        self._file: TextIO = csv_path.open("a", newline="", encoding="utf-8")
        self._board = _board(tensorboard_path, restored_step)

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
        import numpy as np
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._board.close()


def _board(path: Path, restored_step: int) -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(path, purge_step=restored_step + 1 if restored_step else None)


class ProgressLine:
    """How far the run is, with loss, rate and speed. This one shows nothing."""

    def update(self, step: int, *, loss: float, rate: float, images_per_s: float) -> None:
        """Tell that `step` steps are done."""

    def say(self, message: str) -> None:
        """Show a message above the line."""


class _Lines(ProgressLine):
    """For log files: a line every 15 s."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self._total = total_steps
        self._first = first_step
        self._started = self._last = time.monotonic()

    def update(self, step: int, *, loss: float, rate: float, images_per_s: float) -> None:
        now = time.monotonic()
        if now - self._last < _LINE_EVERY_S:
            return
        self._last = now
        left_s = (now - self._started) / max(step - self._first, 1) * (self._total - step)
        numbers = f"loss {loss:.4f}, lr {rate:.2e}, {images_per_s:.0f} images/s, {left_s:.0f} s left"
        self.say(f"pretrain: {step}/{self._total}, {numbers}")

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class _Bar(ProgressLine):
    """For terminals: one line that is redrawn."""

    def __init__(self, bar: Any, task: Any) -> None:
        self._bar = bar
        self._task = task

    def update(self, step: int, *, loss: float, rate: float, images_per_s: float) -> None:
        numbers = f"loss {loss:.4f}  lr {rate:.2e}  {images_per_s:.0f} images/s"
        self._bar.update(self._task, completed=step, numbers=numbers)

    def say(self, message: str) -> None:
        self._bar.console.print(message, highlight=False, markup=False)


@contextlib.contextmanager
def progress_line(total_steps: int, *, first_step: int, shown: bool) -> Iterator[ProgressLine]:
    """Show how far a run is: redrawn on a terminal, lines every 15 s elsewhere, nothing if not shown."""
    if not shown:
        yield ProgressLine()
    elif not sys.stderr.isatty():
        yield _Lines(total_steps, first_step)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        text = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        columns = (*text, TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
        with Bar(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, bar.add_task("pretrain", total=total_steps, completed=first_step, numbers=""))


MODEL_FILE = "model.safetensors"
_OPTIMIZER_FILE = "optimizer.safetensors"
_STATE_FILE = "state.json"
_RUN_FILE = "run.json"
_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; all that a resumed run needs beside weights and optimiser."""

    step: int
    """Steps done."""
    smoothed_loss: float | None = None
    """None before the first step."""
    best_score: float | None = None
    """Lowest of a checkpoint so far; None before the first."""
    best_step: int | None = None

    def scored(self, score: float | None) -> "Progress":
        """Take in the score of a checkpoint at this step; lower is better, the earlier wins a tie."""
        if score is None or (self.best_score is not None and score >= self.best_score):
            return self
        return dataclasses.replace(self, best_score=score, best_step=self.step)


@dataclass(frozen=True, kw_only=True)
class SavedStep:
    """A whole checkpoint on the disk."""

    path: Path
    progress: Progress

    @property
    def model_path(self) -> Path:
        """The model's file, a checkpoint that `load_encoder` takes too."""
        return self.path / MODEL_FILE

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return read_weights(self.path / _OPTIMIZER_FILE)[0]


class RunFolder:
    """The folder of one run. Everything in it appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def encoder_path(self) -> Path:
        """The finished model."""
        return self.path / "encoder.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def panels_path(self) -> Path:
        return self.path / "panels"

    @property
    def tensorboard_path(self) -> Path:
        return self.path / "tensorboard"

    def check(self, identity: Mapping[str, Any], *, resume: bool) -> bool:
        """Tell whether a run with this identity is here already. Writes nothing.

        `identity` is `recipe` as plain values, `store` (a fingerprint) and others that must be equal.

        Raises:
            OutputError: the folder holds another run, something else, or this run where `resume` is off.
        """
        file = self.path / _RUN_FILE
        if not file.is_file():
            if self.path.exists() and (not self.path.is_dir() or any(self._strangers())):
                raise OutputError(f"'{self.path}' exists and is not the folder of a run; name another output")
            return False
        if not resume:
            raise OutputError(f"'{self.path}' holds a run already; resume it or name another output")
        differences = _differences(identity, _read_json(file))
        if differences:
            raise OutputError(
                f"'{self.path}' holds another run ({'; '.join(differences)}); "
                "use its recipe and store, or name another output"
            )
        return True

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Write down what the run is, and clear away what a killed run left unfinished."""
        check_writable(self.path)
        for leftover in self._leftovers():
            _remove(leftover)
        # First of all, because it is what tells this folder from any other.
        with whole_file(self.path / _RUN_FILE) as beside:
            beside.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        with whole_file(self.path / "recipe.yaml") as beside:
            beside.write_text(yaml.safe_dump(identity["recipe"], sort_keys=False), encoding="utf-8")

    def saved_steps(self) -> list[SavedStep]:
        """List the whole checkpoints, oldest first. One with a missing or short file does not count."""
        folders = sorted((self.path / "checkpoints").glob("step_*"))
        return [saved for folder in folders if (saved := _whole(folder)) is not None]

    def save(
        self, progress: Progress, optimizer: Mapping[str, Tensor], write_model: Callable[[Path], None]
    ) -> SavedStep:
        """Write a checkpoint, then drop those that are neither among the last two nor the best.

        Raises:
            OutputError: no room, no permission. Earlier checkpoints are as they were.
        """
        folder = self.path / "checkpoints" / f"step_{progress.step:08d}"
        if folder.exists():
            # Left by an earlier try whose files did not survive; a whole one is never written twice.
            _remove(folder)
        with whole_directory(folder) as beside:
            write_model(beside / MODEL_FILE)
            write_weights(beside / _OPTIMIZER_FILE, optimizer, {})
            sizes = {file.name: file.stat().st_size for file in beside.iterdir()}
            state = {"progress": dataclasses.asdict(progress), "sizes": sizes}
            (beside / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
        self._prune(progress)
        return SavedStep(path=folder, progress=progress)

    def _prune(self, progress: Progress) -> None:
        saved = self.saved_steps()
        for old in saved[:-_KEPT]:
            if old.progress.step != progress.best_step:
                _remove(old.path)

    def _leftovers(self) -> list[Path]:
        folders = (self.path, self.path / "checkpoints", self.panels_path)
        names = (".*.partial.*", ".write-test-*")
        return [file for folder in folders if folder.is_dir() for name in names for file in folder.glob(name)]

    def _strangers(self) -> list[Path]:
        # Killed before its first file was whole, a run leaves only unfinished ones.
        leftovers = set(self._leftovers())
        return [file for file in self.path.iterdir() if file not in leftovers]


def _whole(folder: Path) -> SavedStep | None:
    try:
        state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
        if any((folder / name).stat().st_size != size for name, size in state["sizes"].items()):
            return None
        return SavedStep(path=folder, progress=Progress(**state["progress"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as problem:
        raise OutputError(f"'{file}' can't be read ({problem}); name another output") from problem


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    changed = [key for key in ours if key not in ("recipe", "version") and ours[key] != theirs.get(key)]
    others = [f"{key}: {theirs.get(key)}, not {ours[key]}" for key in changed]
    return [*recipe_differences(theirs.get("recipe", {}), ours["recipe"]), *others]


def _remove(path: Path) -> None:
    """Take a folder out of sight in one move before its files go, so that no half of it is ever seen."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.name.startswith(".") else path.with_name(f".removed.partial.{path.name}")
    with contextlib.suppress(OSError):
        path.replace(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def make_fabric(recipe: PretrainRecipe) -> "Fabric":
    """Start the processes on the recipe's devices; `RecipeError` where there are none such."""
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


class Stepper:
    """The network, its optimiser and the devices they run on."""

    def __init__(self, fabric: "Fabric", model: Autoencoder, recipe: PretrainRecipe, schedule: Schedule) -> None:
        """Put the network on the devices. `model` stays the same object, with its own names."""
        if recipe.run.compile:
            for stack in (model.encoder.blocks, model.decoder.blocks):
                stack.compile_blocks()
        configure_blocks(
            model, fused=trains_fused(fabric.device, recipe.optim.precision), recompute=recipe.run.recompute
        )
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

    def step(self, step: int, parts: Sequence[Example]) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Do one step with this process's parts of the global batch, whose gradient is the same however it is cut.

        Returns:
            Mean loss over the global batch and norm of the gradient where it is clipped, still on the device.
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
                terms = self._network(_Carried(part))
                share = (terms * (count / total)).sum() / len(terms)
                # Gradients are averaged over processes afterwards; their sum is wanted.
                self._fabric.backward(share * self._fabric.world_size)
            loss = loss + share.detach()
        grad_norm = self._clip()
        self._stepping.step()
        self._stepping.zero_grad(set_to_none=True)
        return sum_over_processes(self._fabric, loss), grad_norm

    def loss(self, example: Example) -> Float[Tensor, ""]:
        """Compute the loss of an example for a look at it. All processes must do so equally often."""
        terms: Tensor = self._terms(_Carried(example))
        return terms.mean()

    def whole_weights(self) -> dict[str, Tensor]:
        """Gather the network's state on the CPU of the first process; empty on others. All processes must ask."""
        return whole_tensors(self.model.state_dict(), kept=self._fabric.is_global_zero)

    def whole_model(self) -> Autoencoder | None:
        """Give the first process the network or a copy with whole weights, others None. All processes must ask."""
        if not in_shares(self.model):
            return self.model if self._fabric.is_global_zero else None
        weights = self.whole_weights()
        if not weights:
            return None
        copy = Autoencoder(self.model.config, seed=None).to_empty(device=self._fabric.device)
        copy.load_state_dict(weights, strict=True)
        return copy

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
