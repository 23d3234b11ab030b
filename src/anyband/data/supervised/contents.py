"""Hashes of what samples contain: to find one file in two parts, and to tell data apart."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from anyband.data.labelled import IMAGE_ENDINGS
from anyband.errors import ManifestError
from anyband.progress import progress
from anyband.shapes import Array, Shaped

__all__ = ["PARTIAL", "content_hash", "contents_of", "fingerprint_of", "sizes_of"]

PARTIAL = "~"
"""A content hash starts with it where files were not read whole; equal ones need a second look."""

# chosen: files up to here cost about as much to open as to read.
_WHOLE_BYTES = 1 << 20
# chosen: three pieces of a large file, each well over its header.
_PIECE_BYTES = 1 << 16
# chosen: waiting for disks, not computing.
_NUM_THREADS = 8
# chosen: fewer are hashed within two seconds, and need no bar.
_SHOWN_FROM = 2000
_CHUNK = 256


def content_hash(paths: Sequence[Path]) -> str:
    """Hash the files of a sample; names do not count, order does. Of a folder its images count, in order of name.

    Files beyond 1 MB are not read whole: their size, and three pieces, are hashed, and the hash starts with
    `PARTIAL`.

    Args:
        paths: files, or folders of them.

    Raises:
        ManifestError: a file can't be read.
    """
    state, is_partial = blake2b(digest_size=16), False
    for path in _files(paths):
        try:
            is_partial |= _add_file(state, path)
        except OSError as problem:
            raise ManifestError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    return (PARTIAL if is_partial else "") + state.hexdigest()


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_ENDINGS and one.is_file())
        else:
            found.append(path)
    return found


def _add_file(state: Any, path: Path) -> bool:
    """Add a file to a hash; tell whether only pieces of it were read."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        state.update(size.to_bytes(8, "little"))
        if size <= _WHOLE_BYTES:
            file.seek(0)
            state.update(file.read())
            return False
        for start in (0, (size - _PIECE_BYTES) // 2, size - _PIECE_BYTES):
            file.seek(start)
            state.update(file.read(_PIECE_BYTES))
    return True


def contents_of(samples: Sequence[Sequence[Path]]) -> tuple[str, ...]:
    """Hash the files of many samples, by threads; a bar is shown where it takes long.

    Args:
        samples: the files of each.
    """
    return _by_threads(samples, content_hash, title="compare contents")


def sizes_of(samples: Sequence[Sequence[Path]]) -> tuple[str, ...]:
    """Give the sizes of the files of many samples, where there are too many to be read."""
    return _by_threads(samples, _sizes, title="sizes of files")


def _sizes(paths: Sequence[Path]) -> str:
    return ",".join(str(path.stat().st_size) for path in _files(paths))


def _by_threads(samples: Sequence[Sequence[Path]], hashed: Any, *, title: str) -> tuple[str, ...]:
    chunks = [samples[first : first + _CHUNK] for first in range(0, len(samples), _CHUNK)]
    found: list[str] = []
    with (
        ThreadPoolExecutor(_NUM_THREADS) as pool,
        progress(title, len(samples), shown=len(samples) > _SHOWN_FROM) as advance,
    ):
        for done in pool.map(lambda chunk: [hashed(paths) for paths in chunk], chunks):
            found += done
            advance(len(done))
    return tuple(found)


def fingerprint_of(
    names: Sequence[str],
    contents: Sequence[str],
    labels: Shaped[Array, "sample ..."] | Sequence[object] | None,
    splits: Sequence[str],
    *,
    classes: Sequence[str] = (),
) -> str:
    """Hash everything that makes data what they are; equal data give equal fingerprints on every machine.

    Args:
        names: of the samples.
        contents: hash of each; empty: unknown.
        labels: of each, as numbers or as what prints alike for equal labels; None: they are part of the contents.
        splits: part of each.
        classes: their names.
    """
    state = blake2b(digest_size=8)
    for texts in (names, contents, splits, classes):
        state.update(f"{len(texts)}\n".encode())
        for text in texts:
            state.update(f"{text}\0".encode())
    if isinstance(labels, np.ndarray):
        wide = "<f8" if labels.dtype.kind == "f" else "<i8"
        state.update(repr(labels.shape).encode() + labels.astype(wide).tobytes())
    elif labels is not None:
        for label in labels:
            state.update(f"{label!r}\0".encode())
    return state.hexdigest()
