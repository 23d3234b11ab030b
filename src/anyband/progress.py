"""One way of showing progress: a bar with time left on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

__all__ = ["Advance", "progress"]


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
