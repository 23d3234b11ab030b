"""The journal of a store under construction, its surveys, and the jobs of its workers."""

import fcntl
import json
import multiprocessing
import shutil
import uuid
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from anyband.arrays import Array, Int, LazySequence
from anyband.data.cutting import ImageSurvey
from anyband.data.manifest import ImageEntry
from anyband.data.places import PlacedImage
from anyband.data.store import partial_path
from anyband.errors import AnybandError, OutputError, WorkerError
from anyband.files import check_writable, sync, whole_file

__all__ = [
    "Journal",
    "PlacedImages",
    "Surveys",
    "Workspace",
    "open_workspace",
    "remove_leftover",
    "run_pieces",
    "survey_key",
    "worker_pool",
]

Task = TypeVar("Task")

# chosen: enough that no worker waits for the one who takes the results, few enough that results stay few.
_PIECES_PER_WORKER = 4
# chosen: more pieces than are handed out at once, far fewer than would take room.
_LONGEST_GAP = 2**16


class Journal:
    """Results of finished pieces, one JSON line each, in a file that only grows.

    A line that a killed run left unfinished is cut off. Lines are handed to the system at once, so they
    survive the end of the process at any moment. Results stay in the file: in memory is where each begins.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one.

        Raises:
            OutputError: the file can't be written.
        """
        self.path = path
        self._lines = _Lines(path)
        self._length = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(0)
                self._length = self._load(file)
                file.truncate(self._length)
        except OSError as problem:
            raise OutputError(f"cannot write the journal '{path}': {problem.strerror or problem}") from problem

    @property
    def results(self) -> Mapping[str, Any]:
        """Results of finished pieces by their keys, read from the file when they are asked for."""
        return self._lines

    def add(self, key: str, result: Any) -> None:
        """Note a finished piece.

        Args:
            key: identity of the piece.
            result: plain JSON.

        Raises:
            OutputError: there is no room.
        """
        line = json.dumps([key, result]).encode() + b"\n"
        try:
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as problem:
            raise OutputError(
                f"cannot write the journal '{self.path}': {problem.strerror or problem}; "
                "what is finished is kept: free some room and run the same command again"
            ) from problem
        self._lines.note(key, self._length)
        self._length += len(line)

    def _load(self, file: BinaryIO) -> int:
        """Read the finished lines. Returns the length of the file up to their end."""
        length = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            key, _ = json.loads(line)
            self._lines.note(key, length)
            length += len(line)
        return length


class _Lines(Mapping[str, Any]):
    """Key → result, of which only the place in the file is kept: 8 bytes for keys that are a word and a count."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counted: dict[str, array[int]] = {}
        self._others: dict[str, int] = {}

    def note(self, key: str, start: int) -> None:
        """Say where the line of a key begins."""
        word, number = _word_and_number(key)
        starts = self._counted.setdefault(word, array("q"))
        # Pieces finish about in order, so gaps are short; a number far away would make a long one.
        if number is None or number > len(starts) + _LONGEST_GAP:
            self._others[key] = start
            return
        starts.extend([-1] * (number + 1 - len(starts)))
        starts[number] = start

    def __getitem__(self, key: str) -> Any:
        start = self._start(key)
        if start is None:
            raise KeyError(key)
        with self._path.open("rb") as file:
            file.seek(start)
            return json.loads(file.readline())[1]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._start(key) is not None

    def __iter__(self) -> Iterator[str]:
        for word, starts in self._counted.items():
            yield from (f"{word} {number}" for number, start in enumerate(starts) if start >= 0)
        yield from self._others

    def __len__(self) -> int:
        return len(self._others) + sum(sum(start >= 0 for start in starts) for starts in self._counted.values())

    def _start(self, key: str) -> int | None:
        word, number = _word_and_number(key)
        starts = self._counted.get(word, ())
        if number is not None and number < len(starts) and starts[number] >= 0:
            return starts[number]
        return self._others.get(key)


def _word_and_number(key: str) -> tuple[str, int | None]:
    word, space, number = key.rpartition(" ")
    is_count = space and number.isascii() and number.isdecimal() and (number == "0" or number[0] != "0")
    return (word, int(number)) if is_count else (key, None)


def run_pieces(
    pieces: Iterable[tuple[str, Task]],
    work: Callable[[Task], Any],
    *,
    journal: Journal,
    executor: Executor | None = None,
    workers: int = 1,
    batch: int = 1,
) -> Iterator[tuple[str, Any]]:
    """Do every piece that is not in the journal, and give all results in the order of the pieces.

    Args:
        pieces: (key, task); keys are distinct. They are taken a few ahead of the results, so they may be made then.
        work: from a task to a result of plain JSON; for processes, a function at the top of a module.
        journal: of finished pieces.
        executor: that does the work; None: here, one after the other.
        workers: of the executor; sets how many pieces are handed out ahead.
        batch: pieces that a worker is handed at once; more cost less, and more are lost if it is killed.

    Returns:
        (key, result) of each piece, in order, whatever order they finish in.

    Raises:
        WorkerError: a worker was killed; every finished piece is in the journal.
        AnybandError: what `work` raises.
    """
    if executor is None:
        for key, task in pieces:
            if key in journal.results:
                yield key, journal.results[key]
            else:
                result = json.loads(json.dumps(work(task)))
                journal.add(key, result)
                yield key, result
        return
    waiting: deque[_Batch] = deque()
    try:
        for several in _several(pieces, batch):
            waiting.append(_handed_out(several, work, journal, executor))
            if len(waiting) > workers * _PIECES_PER_WORKER:
                yield from _take(waiting, journal)
        while waiting:
            yield from _take(waiting, journal)
    except BrokenProcessPool as problem:
        _keep_finished(waiting, journal)
        raise WorkerError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: "
            "run the same command again with fewer --workers"
        ) from problem
    finally:
        for one in waiting:
            if one.future is not None:
                one.future.cancel()


@contextmanager
def worker_pool(workers: int) -> Iterator[Executor | None]:
    """Give a pool of processes, or None for one worker: then the work is done here.

    Processes start afresh instead of as copies, because a copy of a process with threads may hang.
    """
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Pieces that a worker does one after the other."""

    keys: list[str]
    """Of the pieces, in order."""
    to_do: list[str]
    """Of those that are not in the journal."""
    future: "Future[tuple[list[Any], Exception | None]] | None"
    """Their results, and what ended the work on the next one; None: nothing is to be done."""


def _several(pieces: Iterable[tuple[str, Task]], batch: int) -> Iterator[list[tuple[str, Task]]]:
    rest = iter(pieces)
    while several := list(islice(rest, batch)):
        yield several


def _handed_out(
    several: Sequence[tuple[str, Task]], work: Callable[[Task], Any], journal: Journal, executor: Executor
) -> _Batch:
    left = [(key, task) for key, task in several if key not in journal.results]
    future = executor.submit(_do_several, work, [task for _, task in left]) if left else None
    return _Batch(keys=[key for key, _ in several], to_do=[key for key, _ in left], future=future)


def _do_several(work: Callable[[Task], Any], tasks: Sequence[Task]) -> tuple[list[Any], Exception | None]:
    """Do pieces in a worker. What one raises is given back beside the results of those before it."""
    results: list[Any] = []
    for task in tasks:
        try:
            results.append(work(task))
        except Exception as problem:  # noqa: BLE001 - raised again where the results are taken
            return results, problem
    return results, None


def _keep_finished(waiting: deque[_Batch], journal: Journal) -> None:
    """Note the pieces that were finished out of order, before one that was not."""
    for one in waiting:
        future = one.future
        if future is not None and future.done() and not future.cancelled() and future.exception() is None:
            results, _ = future.result()
            for key, result in zip(one.to_do, results, strict=False):
                journal.add(key, json.loads(json.dumps(result)))


def _take(waiting: deque[_Batch], journal: Journal) -> Iterator[tuple[str, Any]]:
    one = waiting.popleft()
    results, problem = one.future.result() if one.future is not None else ([], None)
    done = dict(zip(one.to_do, json.loads(json.dumps(results)), strict=False))
    for key, result in done.items():
        journal.add(key, result)
    for key in one.keys:
        if problem is not None and key in one.to_do and key not in done:
            raise problem
        yield key, done[key] if key in done else journal.results[key]


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


# chosen: the images of a place are asked for several times, soon after each other.
_KEPT = 1024


def survey_key(image: int) -> str:
    """Name the survey of an image in the journal."""
    return f"survey {image}"


class Surveys(Mapping[int, ImageSurvey]):
    """Number of the image → its survey, for the images that are used; read from the journal when it is asked for."""

    def __init__(self, journal: Journal, num_images: int) -> None:
        """Begin without any image.

        Args:
            journal: holds the surveys.
            num_images: images of the run, used or not.
        """
        self._journal = journal
        self._used = np.zeros(num_images, dtype=bool)
        self._count = 0
        self._read = lru_cache(maxsize=_KEPT)(self._from_journal)

    def use(self, image: int) -> None:
        """Take an image whose survey is in the journal."""
        self._count += not self._used[image]
        self._used[image] = True

    @property
    def images(self) -> Int[Array, " image"]:
        """Numbers of the images that are used, ascending."""
        return np.flatnonzero(self._used)

    def __getitem__(self, image: int) -> ImageSurvey:
        if image not in self:
            raise KeyError(image)
        return self._read(image)

    def __contains__(self, image: object) -> bool:
        return isinstance(image, int) and 0 <= image < len(self._used) and bool(self._used[image])

    def __iter__(self) -> Iterator[int]:
        yield from self.images.tolist()

    def __len__(self) -> int:
        return self._count

    def _from_journal(self, image: int) -> ImageSurvey:
        return ImageSurvey.from_dict(self._journal.results[survey_key(image)])


class PlacedImages(LazySequence[PlacedImage]):
    """What decides the places of the images that are used, in the order of their numbers."""

    def __init__(self, entries: Sequence[ImageEntry], surveys: Surveys) -> None:
        """Look at entries and surveys when an image is asked for."""
        self._entries = entries
        self._surveys = surveys
        self.numbers = surveys.images
        """Number of each image in `entries`."""
        self._read = lru_cache(maxsize=_KEPT)(self._placed)

    def __len__(self) -> int:
        return len(self.numbers)

    def make(self, number: int) -> PlacedImage:
        return self._read(int(self.numbers[number]))

    def _placed(self, image: int) -> PlacedImage:
        entry = self._entries[image]
        grid = self._surveys[image].grid
        return PlacedImage(name=entry.name, grid=grid, place=entry.place, split=entry.split)
