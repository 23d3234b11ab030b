"""Long work: one way of showing how far it is, and processes that share it and end with the one that began it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess

__all__ = ["Advance", "progress", "stop_with_parent", "worker_pool"]


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
            print(
                f"{title}: {count}/{total}, {text}{', ' * bool(text)}{left_s:.0f} s left", file=sys.stderr, flush=True
            )

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
