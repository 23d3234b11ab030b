"""Lists of images: every row is checked, and so many may stand in one that they would fill memory."""

import glob
import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from anyband.data.manifest import COLUMNS, ImageEntry, parse_entry
from anyband.data.manifest_rows import MANIFEST_ENDINGS, iterate_rows
from anyband.errors import AnybandError, ManifestError, OutputError
from anyband.lazy_sequence import LazySequence

__all__ = ["ImageList", "entries_from_globs", "open_manifest", "read_manifest", "repeated_images"]


class ImageList(LazySequence[ImageEntry]):
    """Images of a list, of which only the place in a file is kept; each is made anew when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Begin an empty list.

        Args:
            folder: that relative paths are relative to.
        """
        self._folder = folder
        # Without a name: it goes when this object goes, or the process, however it ends.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("q")

    def append(self, row: Mapping[str, Any], *, where: str) -> None:
        """Check a row and add its image.

        Args:
            row: column → value.
            where: the row stands, for messages.

        Raises:
            ManifestError: the row is wrong.
            OutputError: there is no room for temporary files.
        """
        # Times become text, which says the same.
        line = json.dumps(dict(row), default=str).encode() + b"\n"
        _located(json.loads(line), folder=self._folder, where=where)
        try:
            written = self._file.write(line)
        except OSError as problem:
            raise OutputError(f"cannot write a temporary file: {problem.strerror or problem}") from problem
        if written != len(line):
            raise OutputError(f"no room on the disk for a temporary file in '{tempfile.gettempdir()}'; free some")
        self._ends.append(len(line) + (self._ends[-1] if self._ends else 0))

    def __len__(self) -> int:
        """Count the images."""
        return len(self._ends)

    def make(self, number: int) -> ImageEntry:
        """Make an image anew."""
        start = self._ends[number - 1] if number else 0
        line = os.pread(self._file.fileno(), self._ends[number] - start, start)
        return parse_entry(json.loads(line), folder=self._folder)


def repeated_images(entries: Sequence[ImageEntry]) -> dict[int, int]:
    """Find the images that stand in a list again: number → number of the first, both from 0.

    Images are the same where files, times and masks are, read as the same sensor.
    """
    digests = np.fromiter(map(_digest, entries), dtype="S16", count=len(entries))
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(entries)))
    return {int(number): int(first[which[number]]) for number in again}


def _digest(entry: ImageEntry) -> bytes:
    # NumPy drops zeros at the end of such a word, of all words alike.
    return blake2b(repr((entry.source, entry.sensor.name)).encode(), digest_size=16).digest()


def read_manifest(path: Path) -> list[ImageEntry]:
    """Read a manifest and check every row.

    Raises:
        ManifestError: the file is missing, empty, of unknown kind, or a row is wrong; the row is named.
    """
    return list(open_manifest(path))


def open_manifest(path: Path) -> "ImageList":
    """Check every row of a manifest, and leave them on the disk: for so many images that they would fill memory.

    Raises:
        ManifestError: as `read_manifest`.
    """
    if path.suffix.casefold() not in MANIFEST_ENDINGS:
        raise ManifestError(
            f"'{path}' is no manifest: its name ends in '{path.suffix}', allowed are "
            f"{', '.join(MANIFEST_ENDINGS)}; to prepare images directly, name their sensor with --sensor"
        )
    entries = ImageList(path.parent)
    for number, row in enumerate(iterate_rows(path), 1):
        entries.append(row, where=f"row {number} of '{path}'")
    if not entries:
        raise ManifestError(f"manifest '{path}' has no images; give it a row for each (columns: {', '.join(COLUMNS)})")
    _check_consistent(entries, path)
    return entries


def entries_from_globs(
    patterns: Sequence[str], *, sensor: str, encoding: str | None = None, bands: str | None = None
) -> "ImageList":
    """List the images that match file patterns, all of one sensor.

    Args:
        patterns: paths or patterns with `*`, `?` and `**`.
        sensor: of all of them.
        encoding: as in a manifest.
        bands: as in a manifest.

    Raises:
        ManifestError: nothing matches, or sensor, encoding or bands are wrong.
    """
    # `Path.glob` takes no absolute patterns.
    paths = {found for pattern in patterns for found in glob.glob(pattern, recursive=True)}  # noqa: PTH207
    if not paths:
        raise ManifestError(f"no file matches {', '.join(repr(pattern) for pattern in patterns)}")
    entries = ImageList(Path())
    for path in sorted(paths):
        row = {"path": path, "sensor": sensor, "encoding": encoding, "bands": bands}
        entries.append(row, where=f"'{path}'")
    return entries


def _located(row: Mapping[str, Any], *, folder: Path, where: str) -> ImageEntry:
    try:
        return parse_entry(row, folder=folder)
    except AnybandError as problem:
        raise ManifestError(f"{where}: {problem}") from problem


def _check_consistent(entries: Sequence[ImageEntry], path: Path) -> None:
    """Refuse two rows that differ in what they say of one image. Of equal ones, one is left out later."""
    for number, first in repeated_images(entries).items():
        if entries[first] != entries[number]:
            raise ManifestError(
                f"rows {first + 1} and {number + 1} of '{path}' say different things of one image, "
                f"'{entries[number].name}'"
            )
