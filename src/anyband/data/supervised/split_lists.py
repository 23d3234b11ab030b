"""Files that list the samples of each part, as data sets publish them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from anyband.data.chip_index import Split
from anyband.data.labelled import IMAGE_ENDINGS
from anyband.data.supervised.records import ListSpec
from anyband.errors import ManifestError

__all__ = ["ListedParts", "parts_from_lists", "read_split_list"]

# Headers of the first column that are no sample.
_HEADERS = ("path", "image", "file", "filename", "name", "patch", "id")
# Two samples have this name.
_SEVERAL = -1


@dataclass(frozen=True, kw_only=True)
class ListedParts:
    """What lists say of samples."""

    parts: tuple[Split | None, ...]
    """Part of each sample; None: no list has it."""
    notes: tuple[str, ...]
    """What a reader of the results should know."""


def read_split_list(path: Path) -> list[str]:
    """Read a list: a path or file name a line, or as the first column of a CSV; a header is left out.

    Raises:
        ManifestError: the file can't be read, or lists nothing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise ManifestError(f"cannot read the split list '{path}': {problem.strerror or problem}") from problem
    except UnicodeDecodeError as problem:
        raise ManifestError(f"the split list '{path}' is no text in UTF-8: {problem}") from problem
    lines = text.splitlines()
    if path.suffix.lower() == ".csv":
        lines = [row[0] for row in csv.reader(lines) if row]
    names = [line.strip() for line in lines if line.strip()]
    if names and names[0].casefold() in _HEADERS:
        names = names[1:]
    if not names:
        raise ManifestError(f"the split list '{path}' lists nothing; give it a file name a line")
    return names


def parts_from_lists(lists: ListSpec, names: Sequence[str], *, source: str, absent: str = "refuse") -> ListedParts:
    """Find the part of each sample by lists of names.

    A listed name is a sample's where one of the two is the end of the other, folder by folder; so a list may leave
    out class folders, or have more folders than there are. Endings of images need not agree, but where several
    samples differ in nothing else, they must.

    Args:
        lists: the files.
        names: of the samples: relative paths, with `/`.
        source: of the samples, for messages.
        absent: whether listed names that no sample has are refused (`refuse`) or left out (`leave_out`).

    Returns:
        Parts, and notes of what was left out.

    Raises:
        ManifestError: a list is missing or empty, names are unknown or ambiguous (they are counted, and the first is
            shown), or a sample is in two lists.
    """
    index = _Names(names)
    parts: list[Split | None] = [None] * len(names)
    notes: list[str] = []
    listed: list[tuple[Split, str | None]] = [("train", lists.train), ("val", lists.val), ("test", lists.test)]
    for part, file in listed:
        if file is None:
            continue
        found = _found(index, read_split_list(Path(file)), file=file, source=source)
        if found.absent and absent == "refuse":
            raise ManifestError(
                f"'{file}' lists {len(found.absent)} names that '{source}' does not have, the first is "
                f"'{found.absent[0]}'; complete the data, or leave them out with `data.options: {{absent: leave_out}}`"
            )
        if found.absent:
            notes.append(f"{len(found.absent)} samples of '{Path(file).name}' are not in the data and left out")
        for sample in found.samples:
            if parts[sample] not in (None, part):
                raise ManifestError(
                    f"'{names[sample]}' is listed for {parts[sample]} and again in '{file}' for {part}; a sample has "
                    "one part"
                )
            parts[sample] = part
    unlisted = parts.count(None)
    if unlisted:
        notes.append(f"{unlisted} of {len(names)} samples are in no split list and left out")
    return ListedParts(parts=tuple(parts), notes=tuple(notes))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one list names."""

    samples: list[int]
    """Positions."""
    absent: list[str]
    """Names that no sample has."""


def _found(index: "_Names", listed: Iterable[str], *, file: str, source: str) -> _Found:
    samples, absent, ambiguous = [], [], []
    for name in listed:
        sample = index.find(name)
        if sample is None:
            absent.append(name)
        elif sample == _SEVERAL:
            ambiguous.append(name)
        else:
            samples.append(sample)
    if ambiguous:
        raise ManifestError(
            f"'{file}' lists {len(ambiguous)} names that several samples of '{source}' have, the first is "
            f"'{ambiguous[0]}'; write them with their folders"
        )
    return _Found(samples=samples, absent=absent)


class _Names:
    """Samples by every end of their names, with and without the ending of the file."""

    def __init__(self, names: Sequence[str]) -> None:
        self._whole: dict[str, int] = {}
        self._stems: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        for sample, name in enumerate(names):
            plain, stem = _plain(name), _stem(_plain(name))
            _add(self._whole, plain, sample)
            _add(self._stems, stem, sample)
            for end in {*_proper_ends(plain), *_proper_ends(stem)}:
                _add(self._ends, end, sample)

    def find(self, listed: str) -> int | None:
        """Find the sample that a list names: by its whole name first, then by ends of it, then by ends of the list's.

        Returns:
            Its position; `_SEVERAL`: there are several; None: there is none.
        """
        plain = _plain(listed)
        stem = _stem(plain)
        for known, name in (
            (self._whole, plain),
            (self._stems, stem),
            (self._ends, plain),
            (self._ends, stem),
        ):
            if name in known:
                return known[name]
        for known, name in ((self._whole, plain), (self._stems, stem)):
            for end in _proper_ends(name):
                if end in known:
                    return known[end]
        return None


def _add(known: dict[str, int], name: str, sample: int) -> None:
    known[name] = _SEVERAL if known.get(name, sample) != sample else sample


def _plain(name: str) -> str:
    # Parts of the path, without `./` and with one kind of slash.
    return PurePosixPath(name.strip().replace("\\", "/")).as_posix().lstrip("/")


def _stem(name: str) -> str:
    base, dot, ending = name.rpartition(".")
    return base if dot and f".{ending.lower()}" in IMAGE_ENDINGS else name


def _proper_ends(name: str) -> list[str]:
    """List the ends of a path that leave out some of its folders, longest first."""
    pieces = name.split("/")
    return ["/".join(pieces[start:]) for start in range(1, len(pieces))]
