"""The command line: one module a verb, imported only when its verb is called, so that `--help` is quick."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from anyband import __version__
from anyband.errors import AnybandError, InputError, check_text, nearest_name

__all__ = ["main"]

# Verb → what it does. Each lives in the module of its name and has `add_arguments(parser)` and `run(arguments)`.
VERBS = {
    "sensors": "list the sensors of the catalogue, or show one with its bands, and how a checkpoint would read it",
    "simulate": "render landscapes with known truth through the catalogue's sensors",
    "prepare": "turn rasters into a chip store; or compute the statistics of a store",
    "pretrain": "pre-train an encoder on a chip store, from a recipe",
    "evaluate": "score an encoder on labelled data: kNN, probes, fine-tuning, segmentation, change, regression",
    "reproduce": "run a table of the SMARTIES paper, row by row, and print ours beside the published numbers",
    "results": "print the table of results, and compare them paired by test sample",
    "embed": "write the features of a whole scene as a GeoTIFF",
    "reconstruct": "predict an image that was not taken, or what clouds hid of one, from others of its place",
    "verify": "run a checkpoint on recorded vectors and compare",
    "demo": "run everything: rasters → store → encoder → evaluation → maps → one report",
}


# chosen: turns that a waiting thread spins before it sleeps. By default it spins on, and one busy neighbour on the
# machine slows small networks many times; with this by half, and a quiet machine loses nothing (docs/log.md).
_SPINS = "1000"
# chosen: so much of a name that can't be used is shown.
_SHOWN = 80
_STOPPED = "stopped; outputs that were not finished were not written"
_NO_MEMORY = "there is not enough memory for this; take smaller images, batches or tiles, or fewer workers"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 done with a negative answer, 2 an error the user can mend,
    128 and the signal's number where one stopped it (130 after Ctrl-C, 143 after SIGTERM)."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for word in words:
            check_text(word, error=InputError)
    except InputError as problem:
        print(f"anyband: {problem}", file=sys.stderr)
        return 2
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        print(f"anyband: there is no verb '{verb}'{nearest_name(verb, VERBS)}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="anyband", description="One encoder for every Earth-observation sensor.")
    parser.add_argument("--version", action="version", version=f"anyband {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, summary in VERBS.items():
        child = verbs.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == verb:
            importlib.import_module(f"anyband.cli.{name}").add_arguments(child)
            child.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parsed, more = parser.parse_known_args(words)
    # Verbs with recipes take KEY=VALUE words anywhere; argparse leaves those after an option over.
    if more and (any(word.startswith("-") for word in more) or not hasattr(parsed, "words")):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        parsed.words = [*parsed.words, *more]
    if verb is None:
        parser.print_help()
        return 0
    try:
        with _signals_stop():
            code: int = importlib.import_module(f"anyband.cli.{parsed.verb}").run(parsed)
    except BrokenPipeError:
        # Who reads has gone, as `head` does; what is left to write goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (AnybandError, OSError, UnicodeError) as problem:
        if parsed.debug:
            raise
        message, code = _message(problem), 2
    except (MemoryError, RuntimeError) as problem:
        if parsed.debug or not _is_want_of_memory(problem):
            raise
        message, code = _NO_MEMORY, 2
    except KeyboardInterrupt as problem:
        message, code = _STOPPED, 128 + (problem.args[0] if problem.args else signal.SIGINT)
        # Processes on other devices are stopped with the first one, which says it.
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return code
    else:
        return code
    print(f"anyband {parsed.verb}: {message}", file=sys.stderr)
    return code


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """Have the end of a session or a batch job stop a verb as Ctrl-C does: with a message, and nothing half done."""

    def stop(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt(number)

    in_main = threading.current_thread() is threading.main_thread()
    # One that is ignored, as under nohup, stays so.
    taken = [one for one in (signal.SIGTERM, signal.SIGHUP) if in_main and signal.getsignal(one) == signal.SIG_DFL]
    for one in taken:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)


def _message(problem: AnybandError | OSError | UnicodeError) -> str:
    """Write an error; the system's own ones without their number."""
    if isinstance(problem, UnicodeEncodeError):
        return f"{problem.object[:_SHOWN]!r}, a name among the inputs, is not UTF-8; rename it"
    if not isinstance(problem, OSError) or isinstance(problem, AnybandError) or problem.strerror is None:
        return str(problem)
    return f"'{problem.filename}': {problem.strerror}" if problem.filename else problem.strerror


def _is_want_of_memory(problem: MemoryError | RuntimeError) -> bool:
    # PyTorch raises an OutOfMemoryError for GPUs and a plain RuntimeError for the CPU.
    named = type(problem).__name__ == "OutOfMemoryError"
    return isinstance(problem, MemoryError) or named or "can't allocate memory" in str(problem)
