"""Work in pieces that survives being killed: a journal holds what is done, and a new run goes on there."""

import json
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from anyband.errors import OutputError, WorkerError

__all__ = ["Journal", "run_pieces", "worker_pool"]

Task = TypeVar("Task")

# chosen: enough that no worker waits for the one who takes the results, few enough that results stay few.
_PIECES_PER_WORKER = 4


class Journal:
    """Results of finished pieces, one JSON line each, in a file that only grows.

    A line that a killed run left unfinished is cut off. Lines are handed to the system at once, so they
    survive the end of the process at any moment.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one.

        Raises:
            OutputError: the file can't be written.
        """
        self.path = path
        self.results: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab+") as file:
                file.seek(0)
                file.truncate(self._load(file))
        except OSError as problem:
            raise OutputError(f"cannot write the journal '{path}': {problem.strerror or problem}") from problem

    def add(self, key: str, result: Any) -> None:
        """Note a finished piece.

        Args:
            key: identity of the piece.
            result: plain JSON.

        Raises:
            OutputError: there is no room.
        """
        try:
            with self.path.open("ab") as file:
                file.write(json.dumps([key, result]).encode() + b"\n")
        except OSError as problem:
            raise OutputError(
                f"cannot write the journal '{self.path}': {problem.strerror or problem}; "
                "what is finished is kept: free some room and run the same command again"
            ) from problem
        self.results[key] = result

    def _load(self, file: BinaryIO) -> int:
        """Read the finished lines. Returns the length of the file up to their end."""
        length = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            key, result = json.loads(line)
            self.results[key] = result
            length += len(line)
        return length


def run_pieces(
    pieces: Sequence[tuple[str, Task]],
    work: Callable[[Task], Any],
    *,
    journal: Journal,
    executor: Executor | None = None,
    workers: int = 1,
) -> Iterator[tuple[str, Any]]:
    """Do every piece that is not in the journal, and give all results in the order of the pieces.

    Args:
        pieces: (key, task); keys are distinct.
        work: from a task to a result of plain JSON; for processes, a function at the top of a module.
        journal: of finished pieces.
        executor: that does the work; None: here, one after the other.
        workers: of the executor; sets how many pieces are handed out ahead.

    Returns:
        (key, result) of each piece, in order, whatever order they finish in.

    Raises:
        WorkerError: a worker was killed; every finished piece is in the journal.
        AnybandError: what `work` raises.
    """
    if executor is None:
        for key, task in pieces:
            if key not in journal.results:
                journal.add(key, json.loads(json.dumps(work(task))))
            yield key, journal.results[key]
        return
    waiting: deque[tuple[str, Future[Any] | None]] = deque()
    try:
        for key, task in pieces:
            future = None if key in journal.results else executor.submit(work, task)
            waiting.append((key, future))
            if len(waiting) > workers * _PIECES_PER_WORKER:
                yield _take(waiting, journal)
        while waiting:
            yield _take(waiting, journal)
    except BrokenProcessPool as problem:
        _keep_finished(waiting, journal)
        raise WorkerError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: "
            "run the same command again with fewer --workers"
        ) from problem
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


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


def _keep_finished(waiting: deque[tuple[str, Future[Any] | None]], journal: Journal) -> None:
    """Note the pieces that were finished out of order, before one that was not."""
    for key, future in waiting:
        if future is not None and future.done() and not future.cancelled() and future.exception() is None:
            journal.add(key, json.loads(json.dumps(future.result())))


def _take(waiting: deque[tuple[str, Future[Any] | None]], journal: Journal) -> tuple[str, Any]:
    key, future = waiting.popleft()
    if future is not None:
        journal.add(key, json.loads(json.dumps(future.result())))
    return key, journal.results[key]
