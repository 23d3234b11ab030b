"""Outputs that appear whole or not at all: written beside, then renamed."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from anyband.errors import OutputError

__all__ = ["check_target", "check_writable", "sync", "whole_directory", "whole_file"]


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk, so that a rename that follows can't outrun it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_writable(folder: Path) -> None:
    """See that files can be written in `folder`, or that it can be made, before any work is done.

    Leaves nothing behind: where the folder is missing, its nearest parent is tried.

    Raises:
        OutputError: the folder can't be made, is a file, or can't be written to.
    """
    try:
        standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        probe = standing / f".write-test-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as problem:
        raise _output_error(folder, problem) from problem


def check_target(path: Path) -> None:
    """See that a file can become `path`, before any work is done. A file that is read-only is left alone.

    Raises:
        OutputError: its folder can't be written to, or `path` is a folder or read-only.
    """
    check_writable(path.parent)
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"'{path}' exists and is read-only; make it writable, or name another output")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file there becomes `path`, else it is removed.

    An existing `path` stays as it was until the moment of the rename. The name keeps its ending, because writers
    choose a format by it.

    Raises:
        OutputError: the file can't be written (no permission, no room).
    """
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    with _cleaned(beside, target=path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        sync(beside)
        beside.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `path`, else it is removed.

    Raises:
        OutputError: the folder can't be written, or `path` exists already.
    """
    if path.exists():
        raise OutputError(f"'{path}' exists already; remove it or name another output")
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    with _cleaned(beside, target=path):
        beside.mkdir(parents=True)
        yield beside
        for file in beside.rglob("*"):
            sync(file)
        beside.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def _cleaned(beside: Path, *, target: Path) -> Iterator[None]:
    try:
        yield
    except OutputError as problem:
        _remove(beside)
        # A file inside of an unfinished folder is named as it would be in the finished one.
        raise OutputError(str(problem).replace(beside.name, target.name)) from problem
    except OSError as problem:
        _remove(beside)
        if problem.errno is None:
            raise
        raise _output_error(target, problem) from problem
    except BaseException:
        _remove(beside)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _output_error(path: Path, problem: OSError) -> OutputError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"no room on the disk to write '{path}'; free some or name another output")
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"'{path}' is not writable ({problem.strerror}); name another output")
    return OutputError(f"cannot write '{path}': {problem.strerror or problem}")
