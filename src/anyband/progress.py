"""Long work: one way of showing how far it is, and processes that share it and end with the one that began it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from anyband.errors import WorkerError

__all__ = ["Advance", "progress", "run_pieces", "stop_with_parent", "worker_pool"]


Advance = Callable[..., None]
"""Called with the number of things done since the last call, and perhaps a text to show beside it."""

# chosen: a log file gets a line now and then, not one for each step.
_LINE_EVERY_S = 15.0


@contextlib.contextmanager
def progress(title: str, total: int, *, shown: bool = True, done: int = 0) -> Iterator[Advance]:
    """Show how far a loop is: a bar on a terminal, in a log a line every 15 s, nothing where not `shown`."""
    started = last = time.monotonic()
    count = done

    def advance(more: int, text: str = "") -> None:
        nonlocal count, last
        count, now = count + more, time.monotonic()
        if now - last >= _LINE_EVERY_S or (count >= total and now - started >= _LINE_EVERY_S):
            last = now
            left_s = (now - started) / max(count - done, 1) * (total - count)
            said = f"{title}: {count}/{total}, {text}{', ' * bool(text)}{left_s:.0f} s left"
            print(said, file=sys.stderr, flush=True)

    if not shown or total == 0:
        yield lambda _done, _text="": None
    elif sys.stderr.isatty():
        with _bar(title, total, done) as advance_bar:
            yield advance_bar
    else:
        yield advance


@contextlib.contextmanager
def _bar(title: str, total: int, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, completed=done, text="")
        yield lambda done, text="": bar.update(task, advance=done, text=text)


# chosen: a worker that outlives its parent so long disturbs nobody, and looking costs nothing.
_LOOK_EVERY_S = 0.5


def stop_with_parent(parent: int | None = None) -> None:
    """End this process, a worker, soon after its parent (by default the one it has now) ended, however that did: else
    it would wait for work for ever, and hold the pipes of its parent open."""
    known = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == known:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="anyband-parent").start()


class _Worker(SpawnProcess):
    """Starts afresh, because a copy of a process with threads may hang; leaves Ctrl-C to its parent, and ends with
    it."""

    def start(self) -> None:
        # The tracker, once started, would take the block back.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        stop_with_parent(parent.pid)
        super().run()


class _WorkerContext(SpawnContext):
    Process = _Worker


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[Executor | None]:
    """Give a pool of processes, or None for one worker: then the work is done here. After an interruption nothing that
    they do is waited for."""
    if workers <= 1:
        yield None
        return
    with ProcessPoolExecutor(workers, mp_context=_WorkerContext()) as pool:
        try:
            yield pool
        except BaseException as problem:
            if not isinstance(problem, Exception):
                for one in multiprocessing.active_children():
                    if isinstance(one, _Worker):
                        one.kill()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


Task = TypeVar("Task")
Result = TypeVar("Result")

# chosen: enough that no worker waits for the one who takes the results, few enough that results stay few.
_PIECES_PER_WORKER = 4


def run_pieces(
    pieces: Iterable[tuple[int, Task]],
    work: Callable[[Task], Result],
    *,
    find: Callable[[int], Result | None],
    keep: Callable[[int, Result], None],
    executor: Executor | None = None,
    workers: int = 1,
    batch: int = 1,
) -> Iterator[tuple[Task, Result]]:
    """Do every piece that was not done before; give all results in the order of the pieces, however they finish.

    Args:
        pieces: (number, task); numbers are distinct. Taken a few ahead of the results, so they may be made then.
        work: for processes, a function at the top of a module.
        find: gives the result of a piece that was done before; None: it was not.
        keep: notes a result as soon as it is there.
        executor: None: the work is done here, one piece after the other.
        workers: of the executor; sets how many pieces are handed out ahead.
        batch: pieces that a worker is handed at once; more cost less, and more are lost if it is killed.

    Raises:
        WorkerError: a worker was killed; every finished piece was kept.
    """
    if executor is None:
        for number, task in pieces:
            known = find(number)
            result = work(task) if known is None else known
            if known is None:
                keep(number, result)
            yield task, result
        return
    waiting: deque[_Batch[Task, Result]] = deque()
    rest = iter(pieces)
    try:
        while several := list(islice(rest, batch)):
            waiting.append(_hand_out(several, work, find, executor))
            if len(waiting) > workers * _PIECES_PER_WORKER:
                yield from _take(waiting.popleft(), keep)
        while waiting:
            yield from _take(waiting.popleft(), keep)
    except BrokenProcessPool as problem:
        _keep_finished(waiting, keep)
        raise WorkerError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept: "
            "run the same command again with fewer --workers"
        ) from problem
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


# Pieces (number, task, result where it was done before), and the future results of the others, with what ended them.
_Batch = tuple[
    list[tuple[int, Task, Result | None]], "Future[tuple[list[Result], Exception | None]] | None"
]  # fmt: skip


def _hand_out(
    several: Sequence[tuple[int, Task]],
    work: Callable[[Task], Result],
    find: Callable[[int], Result | None],
    executor: Executor,
) -> "_Batch[Task, Result]":
    found = [(number, task, find(number)) for number, task in several]
    left = [task for _, task, result in found if result is None]
    return found, executor.submit(_do_several, work, left) if left else None


def _do_several(work: Callable[[Task], Any], tasks: Sequence[Task]) -> tuple[list[Any], Exception | None]:
    """Do pieces in a worker. What one raises is given back beside the results of those before it."""
    results: list[Any] = []
    for task in tasks:
        try:
            results.append(work(task))
        except Exception as problem:  # noqa: BLE001 - raised again where the results are taken
            return results, problem
    return results, None


def _keep_finished(waiting: "deque[_Batch[Task, Result]]", keep: Callable[[int, Result], None]) -> None:
    """Note the pieces that were finished out of order, before one that was not."""
    for found, future in waiting:
        if future is not None and future.done() and not future.cancelled() and future.exception() is None:
            left = [number for number, _, result in found if result is None]
            for number, result in zip(left, future.result()[0], strict=False):
                keep(number, result)


def _take(batch: "_Batch[Task, Result]", keep: Callable[[int, Result], None]) -> Iterator[tuple[Task, Result]]:
    found, future = batch
    results, problem = future.result() if future is not None else ([], None)
    left = [number for number, _, result in found if result is None]
    for number, result in zip(left, results, strict=False):
        keep(number, result)
    fresh = iter(results)
    for _, task, known in found:
        given = next(fresh, None) if known is None else known
        if given is None:
            assert problem is not None
            raise problem
        yield task, given
