"""Files that appear whole or not at all, and strict YAML."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from anyband.errors import AnybandError, OutputError

__all__ = [
    "OwnLoader",
    "check_target",
    "parse_yaml",
    "read_yaml",
    "sync",
    "whole_directory",
    "whole_file",
]


def sync(path: Path) -> None:
    """Bring a file, or the entries of a folder, to the disk, so that a rename that follows can't outrun it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_target(path: Path, *, is_folder: bool = False) -> None:
    """See that a file can become `path`, or that files can be written in the folder `path`, which may be made; leave
    nothing there. `OutputError` where not; a file that is read-only is left alone."""
    folder = path if is_folder else path.parent
    try:
        standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        tempfile.TemporaryFile(dir=standing).close()
    except OSError as problem:
        raise _output_error(folder, problem) from problem
    if not is_folder and path.is_dir():
        raise OutputError(f"'{path}' is a folder; name a file")
    if not is_folder and path.exists() and not os.access(path, os.W_OK):
        raise OutputError(f"'{path}' exists and is read-only; make it writable, or name another output")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file there becomes `path`, else it is removed.

    An existing `path` stays until the rename. The name keeps its ending, because writers choose a format by it.
    """
    beside = path.with_name(f".{uuid.uuid4().hex[:8]}.partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        for file in (*beside.rglob("*"), beside):
            sync(file)
        beside.replace(path)
        sync(path.parent)
    except BaseException as problem:
        with contextlib.suppress(OSError):
            shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)
        if isinstance(problem, OutputError):
            # A file inside of an unfinished folder is named as it would be in the finished one.
            raise OutputError(str(problem).replace(beside.name, path.name)) from problem
        if isinstance(problem, OSError) and problem.errno is not None:
            raise _output_error(path, problem) from problem
        raise


@contextlib.contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """Give a folder to fill; when the block ends well it becomes `path`, which must not exist, else it is removed."""
    if path.exists():
        raise OutputError(f"'{path}' exists already; remove it or name another output")
    with whole_file(path) as beside:
        beside.mkdir()
        yield beside


def _output_error(path: Path, problem: OSError) -> OutputError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return OutputError(f"no room on the disk to write '{path}'; free some or name another output")
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"'{path}' is not writable ({problem.strerror}); name another output")
    return OutputError(f"cannot write '{path}': {problem.strerror or problem}")


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads `1e-4` as a number, as YAML 1.2 does."""


# For files of the package itself: libyaml reads some ten times as quickly; its sentences about errors are other ones,
# and it has no limit of depth.
OwnLoader: Any = type("OwnLoader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, Hashable):
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} can't be a key; a key is a text or a number",
                problem_mark=key_node.start_mark,
            )
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"key '{key}' stands twice, on lines {seen[key]} and {line}",
                problem_mark=key_node.start_mark,
            )
        seen[key] = line
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_float_words = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
for _loader in (_StrictLoader, OwnLoader):
    _loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
    _loader.add_implicit_resolver("tag:yaml.org,2002:float", _float_words, list("-+0123456789."))


def parse_yaml(text: str, *, name: str, error: type[AnybandError]) -> Any:
    """Parse YAML text; duplicate keys and broken syntax raise `error` with the line, and `name` of the document."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as problem:
        raise error(f"'{name}' is not valid YAML: {problem}") from problem
    except RecursionError as problem:
        raise error(f"'{name}' is nested too deeply to be read") from problem


def read_yaml(path: Path, *, error: type[AnybandError]) -> Any:
    """Read a YAML file; see `parse_yaml`. A missing or unreadable file raises `error` too."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise error(f"cannot read '{path}': {problem.strerror or problem}") from problem
    except ValueError as problem:
        raise error(f"'{path}' is not a text in UTF-8, so it can't be YAML: {problem}") from problem
    return parse_yaml(text, name=str(path), error=error)
