"""The folder in which a store is made: `OUT.partial`, held by one run at a time, until it becomes OUT."""

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyband.data.jobs import Journal
from anyband.data.store import partial_path
from anyband.errors import AnybandError, OutputError, WorkerError
from anyband.whole_files import check_writable, sync, whole_file

__all__ = ["Workspace", "open_workspace", "remove_leftover"]


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A store under construction."""

    out: Path
    """What the store becomes."""
    journal: Journal
    """Finished pieces."""

    @property
    def store(self) -> Path:
        """Folder of the store until it is finished."""
        return partial_path(self.out) / "store"

    @property
    def spool(self) -> Path:
        """Folder of chips that wait for their shard."""
        return partial_path(self.out) / "spool"

    def publish(self) -> None:
        """Make the finished store OUT. An existing OUT is replaced.

        Raises:
            OutputError: it can't be renamed.
        """
        replaced = self.out.with_name(f".{uuid.uuid4().hex[:8]}.replaced.{self.out.name}")
        try:
            for file in self.store.rglob("*"):
                sync(file)
            if self.out.exists():
                self.out.replace(replaced)
            self.store.replace(self.out)
            sync(self.out.parent)
        except OSError as problem:
            raise OutputError(f"cannot write '{self.out}': {problem.strerror or problem}") from problem
        shutil.rmtree(replaced, ignore_errors=True)
        self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(partial_path(self.out), ignore_errors=True)


@contextmanager
def open_workspace(out: Path, *, inputs: str) -> Iterator[Workspace]:
    """Hold the folder of a store under construction.

    What an earlier run of the same inputs left is taken up; what one of other inputs left is removed. When
    the block ends with an error of the inputs the folder is removed, because other inputs can't use it;
    with any other error it stays.

    Args:
        out: what the store becomes.
        inputs: hash of the inputs and options.

    Raises:
        OutputError: the folder can't be written, or another run holds it.
    """
    folder = partial_path(out)
    check_writable(out.parent)
    with _held(folder):
        if not _is_of(folder, inputs):
            _clear(folder)
            with whole_file(folder / "inputs.txt") as beside:
                beside.write_text(inputs, encoding="utf-8")
        workspace = Workspace(out=out, journal=Journal(folder / "journal.jsonl"))
        try:
            yield workspace
        except (OutputError, WorkerError):
            raise
        except AnybandError:
            workspace.remove()
            raise


def remove_leftover(out: Path, *, inputs: str) -> None:
    """Remove the folder that a run leaves which is killed after its store was published."""
    folder = partial_path(out)
    if _is_of(folder, inputs):
        shutil.rmtree(folder, ignore_errors=True)


def _is_of(folder: Path, inputs: str) -> bool:
    said = folder / "inputs.txt"
    return said.is_file() and said.read_text(encoding="utf-8") == inputs


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise OutputError(
                    f"another run is writing to '{folder}'; wait for it, or name another output"
                ) from problem
            yield
    except PermissionError as problem:
        raise OutputError(f"'{folder}' is not writable ({problem.strerror}); name another output") from problem


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
        elif child.name != "lock":
            child.unlink()
