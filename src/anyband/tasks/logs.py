"""What a run tells while it goes: a row of numbers now and then (CSV and TensorBoard) and a progress line."""

import contextlib
import csv
import io
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from anyband.errors import OutputError
from anyband.whole_files import whole_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["METRICS", "MetricsLog", "ProgressLine", "progress_line", "read_metrics"]

METRICS = ("step", "epoch", "loss", "lr", "grad_norm", "images_per_s", "data_wait", "mfu", "val_loss", "knn_score")
"""Columns of metrics.csv. A cell is empty where a number was not taken at that step. `data_wait` is the share of the
time since the last row in which the first process waited for data; `mfu` is what the model's arithmetic reached of a
plain matrix product that was measured at the start."""

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
        """Open both; rows beyond the restored step are taken away, because those steps will be done again.

        Raises:
            OutputError: the files can't be written.
        """
        kept = [row for row in read_metrics(csv_path) if int(row["step"]) <= restored_step]
        with whole_file(csv_path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, METRICS, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(kept)
        self._path = csv_path
        self._file: TextIO = csv_path.open("a", newline="", encoding="utf-8")
        self._board = _board(tensorboard_path, restored_step)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row. Floats are written so that reading them gives the same number.

        Raises:
            OutputError: no room on the disk.
        """
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
        """Give TensorBoard a picture."""
        import numpy as np
        from PIL import Image

        with Image.open(io.BytesIO(png)) as picture:
            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is waiting and close both."""
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
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        text = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        columns = (*text, TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            yield _Bar(bar, bar.add_task("pretrain", total=total_steps, completed=first_step, numbers=""))
