"""Splits: lists of samples, and fractions of them."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np

from anyband.arrays import Array, Bool, Int
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError
from anyband.labelled.samples import ListSpec, TaskData
from anyband.labelled.tables import IMAGE_ENDINGS, balanced_order, rounds_order
from anyband.randomness import permutation

__all__ = ["ListedParts", "parts_from_lists", "read_split_list", "take_fraction"]

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


_PURPOSE = "label fraction"


def take_fraction(data: TaskData, *, fraction: float, per_class: int | None, seed: int) -> TaskData:
    """Keep the labels of some training samples; validation and test stay whole.

    Draws are nested: with one seed, what a smaller fraction or number keeps is kept by a larger one too.
    Classes: each keeps the same share, rounded, and at least one sample. Labels: samples are ordered so that each
    beginning has the labels in nearly the same shares, after a sample for each label; the beginning is kept. A number
    for each label counts a sample for all its labels, so frequent labels may get more, and rare ones what they have.
    Numbers and maps: drawn without regard to what they hold, at least one.

    Args:
        data: with parts.
        fraction: of the training samples, over 0 and at most 1.
        per_class: so many training samples of each class instead; None: by `fraction`.
        seed: of the draw.

    Raises:
        InputError: a wrong share or number, both at once, a class with too few samples, or data without classes.
    """
    _check_asked(data, fraction, per_class)
    if fraction == 1 and per_class is None:
        return data
    train = data.part("train")
    kept = train[np.sort(_drawn(data, train, fraction=fraction, per_class=per_class, seed=seed))]
    left = [sample for sample, part in enumerate(data.splits) if part != "train"]
    samples = np.sort(np.concatenate([kept, np.array(left, dtype=np.int64)]))
    taken = data.take(samples, fingerprint=_fingerprint(data, samples))
    asked = f"{fraction:.3g} of them" if per_class is None else f"{per_class} of each class"
    note = f"labels of {len(kept)} of {len(train)} training samples are used ({asked}, seed {seed})"
    return replace(taken, notes=(*data.notes, note))


def _check_asked(data: TaskData, fraction: float, per_class: int | None) -> None:
    if not 0 < fraction <= 1:
        raise InputError(f"split.fraction must be over 0 and at most 1, found {fraction:g}")
    if per_class is None:
        return
    if per_class < 1:
        raise InputError(f"split.per_class must be at least 1, found {per_class}")
    if fraction != 1:
        raise InputError(f"split.fraction {fraction:g} and split.per_class {per_class} exclude each other; keep one")
    if data.kind not in ("class", "labels"):
        raise InputError(
            f"split.per_class needs a class for each sample, '{data.name}' has kind '{data.kind}'; use split.fraction"
        )


def _drawn(
    data: TaskData, train: Int[Array, " sample"], *, fraction: float, per_class: int | None, seed: int
) -> Int[Array, " kept"]:
    """Draw positions among the training samples."""
    num = _share(len(train), fraction)
    if data.targets is None or data.kind not in ("class", "labels"):
        return permutation(seed, step=0, purpose=_PURPOSE, size=len(train))[:num]
    labels = data.targets[train]
    if data.kind == "class":
        return _drawn_by_class(labels, data.classes, fraction=fraction, per_class=per_class, seed=seed)
    return _drawn_by_labels(labels, num=num, per_class=per_class, seed=seed)


def _drawn_by_class(
    labels: Int[Array, " sample"], classes: Sequence[str], *, fraction: float, per_class: int | None, seed: int
) -> Int[Array, " kept"]:
    kept = []
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        if per_class is not None and len(members) < per_class:
            raise InputError(
                f"class '{classes[number]}' has {len(members)} training samples, split.per_class asks for {per_class}; "
                "ask for fewer, or leave the class out"
            )
        num = _share(len(members), fraction) if per_class is None else per_class
        # An order of its own for each class, of which the beginning is kept: so draws are nested.
        order = permutation(seed, step=int(number), purpose=_PURPOSE, size=len(members))
        kept.append(members[order[:num]])
    return np.concatenate(kept)


def _drawn_by_labels(
    labels: Bool[Array, "sample class"], *, num: int, per_class: int | None, seed: int
) -> Int[Array, " kept"]:
    if per_class is not None:
        return rounds_order(labels, rounds=per_class, seed=seed, purpose=_PURPOSE)
    return balanced_order(labels, seed=seed, purpose=_PURPOSE, num=num)


def _share(count: int, fraction: float) -> int:
    """Round a share to a number of samples, at least one; it grows with the share."""
    return max(1, int(np.floor(count * fraction + 0.5)))


def _fingerprint(data: TaskData, samples: Int[Array, " sample"]) -> str:
    state = blake2b(data.fingerprint.encode(), digest_size=8)
    state.update(samples.astype("<i8").tobytes())
    return state.hexdigest()
