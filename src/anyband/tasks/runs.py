"""The folder of a run: what the run is, its checkpoints, and which of them to go on from.

RUN/
- `run.json`: recipe, store and versions; what makes this run and no other.
- `recipe.yaml`: the recipe for people.
- `checkpoints/step_00000123/`: `model.safetensors`, `optimizer.safetensors`, `state.json`; of these the last
  two and the best are kept.
- `encoder.safetensors`: the finished model; its presence says that the run is done.
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from anyband.errors import OutputError
from anyband.models.weight_files import read_weights, write_weights
from anyband.tasks.recipe import recipe_differences
from anyband.whole_files import check_writable, whole_directory, whole_file

__all__ = ["Progress", "RunFolder", "SavedStep"]

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
    """Training loss, smoothed over the steps; None before the first."""
    best_score: float | None = None
    """Lowest score of a checkpoint so far; None before the first."""
    best_step: int | None = None
    """Step of that checkpoint."""

    def scored(self, score: float | None) -> "Progress":
        """Take in the score of a checkpoint at this step; lower is better, the earlier wins a tie."""
        if score is None or (self.best_score is not None and score >= self.best_score):
            return self
        return dataclasses.replace(self, best_score=score, best_step=self.step)


@dataclass(frozen=True, kw_only=True)
class SavedStep:
    """A whole checkpoint on the disk."""

    path: Path
    """Its folder."""
    progress: Progress
    """How far the run was."""

    @property
    def model_path(self) -> Path:
        """The model's file, a checkpoint that `load_encoder` takes too."""
        return self.path / MODEL_FILE

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Load the optimiser's state."""
        return read_weights(self.path / _OPTIMIZER_FILE).tensors


class RunFolder:
    """The folder of one run. Everything in it appears whole or not at all."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is read or written yet."""
        self.path = path

    @property
    def encoder_path(self) -> Path:
        """The finished model."""
        return self.path / "encoder.safetensors"

    @property
    def metrics_path(self) -> Path:
        """A row of numbers every so many steps."""
        return self.path / "metrics.csv"

    @property
    def panels_path(self) -> Path:
        """Folder of reconstruction panels."""
        return self.path / "panels"

    @property
    def tensorboard_path(self) -> Path:
        """Folder of TensorBoard's files."""
        return self.path / "tensorboard"

    def check(self, identity: Mapping[str, Any], *, resume: bool) -> bool:
        """See whether a run with this identity may be done here. Writes nothing.

        Args:
            identity: `recipe` as plain values, `store` (a fingerprint) and others that must be equal.
            resume: whether an existing run may be gone on with.

        Returns:
            Whether there is such a run already.

        Raises:
            OutputError: the folder holds another run, or something else.
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

        Args:
            progress: how far the run is.
            optimizer: the optimiser's state.
            write_model: writes the model to the path it is given.

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
