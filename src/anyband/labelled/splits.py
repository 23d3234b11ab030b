"""Splits: read from lists, drawn by class and place, and fractions of the training samples."""

import csv
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import numpy as np

from anyband.arrays import Array, Bool, Float, Int
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError, agreed, counted
from anyband.labelled.samples import IMAGE_ENDINGS, ListSpec, SplitSpec, TaskData
from anyband.randomness import permutation

__all__ = [
    "absent_classes",
    "alike_names",
    "balanced_order",
    "check_shares",
    "complete_splits",
    "draw_halves",
    "draw_places",
    "draw_splits",
    "fill_notes",
    "numbers_apart",
    "read_split_list",
    "rounds_order",
    "splits_from_lists",
    "take_fraction",
    "unused_shares",
]

# Headers of the first column that are no sample.
_HEADERS = ("path", "image", "file", "filename", "name", "patch", "id")
_NUMERAL = re.compile(r"[+-]?\d{1,15}(\.\d*)?")
# chosen: as many classes in a note as one reads.
_NAMED = 8
# Two samples have this name.
_SEVERAL = -1


def read_split_list(path: Path) -> list[str]:
    """Read a list: a path or file name a line, or as the first column of a CSV; a header is left out. Raises
    `ManifestError` where it can't be read or lists nothing."""
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


def splits_from_lists(
    lists: ListSpec,
    names: Sequence[str],
    *,
    source: str,
    absent: str = "refuse",
    files: Sequence[Sequence[str]] = (),
) -> tuple[tuple[Split | None, ...], tuple[str, ...]]:
    """Find the split of each sample (None: no list has it) by lists of names; notes say what was left out.
    A listed name is a sample's where one of the two is the end of the other, folder by folder; so a list may leave out
    class folders, or have more folders than there are. Endings of images must agree only where several samples differ
    in nothing else. Where every line has two names, and no sample's has a space, it is a list of pairs, and names the
    sample that either is of.
    `names` are relative paths, with `/`; `files` are those of the images of each sample, by which it may be named too.
    Listed names that no sample has are refused, or left out where `absent` says
    `leave_out`. A list that is missing or empty, an ambiguous name, or a sample in two lists is a `ManifestError`.
    """
    known = _Names(names, files)
    splits: list[Split | None] = [None] * len(names)
    notes: list[str] = []
    listed: list[tuple[Split, str | None]] = [("train", lists.train), ("val", lists.val), ("test", lists.test)]
    for split, file in listed:
        if file is None:
            continue
        found, said = known.find_all(read_split_list(Path(file)), file)
        notes += said
        ambiguous = [name for name, sample in found if sample == _SEVERAL]
        if ambiguous:
            raise ManifestError(
                f"'{file}' lists {counted(len(ambiguous), 'name')} that several samples of '{source}' have, the "
                f"first is '{ambiguous[0]}'; write them with their folders"
            )
        missing = [name for name, sample in found if sample is None]
        if missing and absent == "refuse":
            raise ManifestError(
                f"'{file}' lists {counted(len(missing), 'name')} that '{source}' does not have, the first is "
                f"'{missing[0]}'; complete the data, or leave them out with `data.options: {{absent: leave_out}}`"
            )
        if missing:
            gone = f"{agreed(len(missing), 'are')} not in the data and left out"
            notes.append(f"{counted(len(missing), 'sample')} of '{Path(file).name}' {gone}")
        for sample in (sample for _, sample in found if sample is not None):
            if splits[sample] not in (None, split):
                raise ManifestError(
                    f"'{names[sample]}' is listed for {splits[sample]} and again in '{file}' for {split}; a sample has "
                    "one split"
                )
            splits[sample] = split
    unlisted = splits.count(None)
    if unlisted:
        notes.append(
            f"{unlisted} of {counted(len(names), 'sample')} {agreed(unlisted, 'are')} in no split list and left out"
        )
    return tuple(splits), tuple(notes)


class _Names:
    """Samples by every end of their names and files, with and without the ending of the file."""

    def __init__(self, names: Sequence[str], files: Sequence[Sequence[str]] = ()) -> None:
        self._whole: dict[str, int] = {}
        self._stems: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        named = [*enumerate(names), *((sample, file) for sample, several in enumerate(files) for file in several)]
        for sample, name in named:
            plain, stem = _plain(name), _stem(_plain(name))
            _add(self._whole, plain, sample)
            _add(self._stems, stem, sample)
            for end in {*_proper_ends(plain), *_proper_ends(stem)}:
                _add(self._ends, end, sample)

    def find_all(self, listed: Sequence[str], file: str) -> tuple[list[tuple[str, int | None]], list[str]]:
        """Find the sample of each line of a list, and say where it is a list of pairs; `ManifestError` where the two
        names of a line are of two samples."""
        pairs = [name.replace(",", " ").split() for name in listed]
        if any(len(pair) != 2 for pair in pairs) or any(" " in name or "," in name for name in self._whole):
            return [(name, self.find(name)) for name in listed], []
        found: list[tuple[str, int | None]] = []
        for name, pair in zip(listed, pairs, strict=True):
            samples = {self.find(name) for name in pair} - {None}
            if len(samples - {_SEVERAL}) > 1:
                raise ManifestError(
                    f"'{file}' names '{pair[0]}' and '{pair[1]}' in one line, which are of two samples; a line of a "
                    "list of pairs names the images of one"
                )
            found.append((name, max((one for one in samples if one is not None), default=None)))
        return found, [f"'{Path(file).name}' is a list of pairs: each line names two images of a sample"]

    def find(self, listed: str) -> int | None:
        """Find the position of the sample that a list names: by its whole name, then by ends of it, then of the list's.
        `_SEVERAL` where there are several, None where there is none."""
        plain = _plain(listed)
        stem = _stem(plain)
        for known, name in ((self._whole, plain), (self._stems, stem), (self._ends, plain), (self._ends, stem)):
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
    pieces = name.split("/")
    return ["/".join(pieces[start:]) for start in range(1, len(pieces))]


def check_shares(val: float, test: float) -> None:
    """Refuse shares that leave nothing to learn from."""
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise InputError(f"shares must be 0 or more and leave some to learn from, found val {val:g}, test {test:g}")


def complete_splits(
    declared: Sequence[Split | None],
    labels: Int[Array, " sample"] | Bool[Array, "sample class"] | None,
    shares: SplitSpec,
    *,
    places: Sequence[str],
    seed: int,
    classes: Sequence[str] = (),
) -> tuple[tuple[Split, ...], tuple[str, ...]]:
    """Draw all splits where none is declared, and validation from training where there is none; give notes, too. None
    stands for a split that is not declared, and for labels without which is drawn. Samples of one of `places` stay
    together; empty: each has its own."""
    missing = [index for index, split in enumerate(declared) if split is None]
    given = tuple(split for split in declared if split is not None)
    chosen = missing or [index for index, split in enumerate(declared) if split == "train"]
    if not missing and ("val" in declared or shares.val == 0 or not chosen):
        return given, unused_shares(given, shares)
    # What is drawn from training alone is the share that validation has of what test leaves.
    val, test = (shares.val, shares.test) if missing else (shares.val / (1 - shares.test), 0.0)
    drawn = draw_splits(
        None if labels is None else labels[chosen],
        num=len(chosen),
        places=[places[index] for index in chosen] if places else (),
        val=val,
        test=test,
        seed=seed,
        classes=classes,
    )
    filled = dict(enumerate(declared)) | dict(zip(chosen, drawn, strict=True))
    note = f"validation is drawn from training: {val:.3g} of it (seed {seed})"
    if missing:
        note = f"train, val and test are drawn (seed {seed})"
    return tuple(split for index in range(len(declared)) if (split := filled[index]) is not None), (note,)


def unused_shares(declared: Sequence[Split | None], shares: SplitSpec) -> tuple[str, ...]:
    """Say that shares were given for splits that are declared."""
    usual, counts = SplitSpec(), Counter(declared)
    given = {"val": shares.val not in (0, usual.val), "test": shares.test not in (0, usual.test)}
    unused = [f"data.split.{split}" for split in ("val", "test") if given[split] and counts[split]]
    return (f"splits are declared, so {' and '.join(unused)} had no effect",) if unused else ()


def draw_splits(
    labels: Int[Array, " sample"] | Bool[Array, "sample class"] | None,
    *,
    num: int,
    places: Sequence[str] = (),
    val: float,
    test: float,
    seed: int,
    classes: Sequence[str] = (),
) -> list[Split]:
    """Draw train, val and test, each with the classes in the same shares; equal seeds draw equal splits.
    Places are drawn, so samples of one place stay together. A place counts for the class that most of its samples have.
    Samples of several labels are ordered so that training has every label and each split has them in nearly the same
    shares (`balanced_order`).
    `labels` are classes, or which hold; without them it is drawn without regard to them. Without `places` each sample
    has its own. Shares that leave nothing to learn from, or a class with too few places, are an `InputError`.
    """
    check_shares(val, test)
    number = {place: index for index, place in enumerate(dict.fromkeys(places))}
    place_of = np.array([number[place] for place in places], dtype=np.int64) if places else np.arange(num)
    everything = np.arange(place_of.max() + 1)
    if labels is not None and labels.ndim == 2:
        of_places = np.zeros((len(everything), labels.shape[1]), dtype=bool)
        np.logical_or.at(of_places, place_of, labels)
        in_val, in_test = _balanced_halves(of_places, val=val, test=test, seed=seed)
    else:
        votes = None if labels is None else _classes_of_places(place_of, labels)
        if votes is not None:
            what, num_splits = "place" if places else "image", 1 + (val > 0) + (test > 0)
            rare = sorted(
                (count, classes[index]) for index, count in Counter(votes.tolist()).items() if count < num_splits
            )
            if rare:
                count, name = rare[0]
                raise InputError(
                    f"class '{name}' has {counted(count, what)}, too few for {num_splits} splits; "
                    f"add {what}s, leave the class out, or declare a column `split`"
                )
        rest, in_test = draw_halves(everything, votes, share=test, seed=seed)
        of_rest = None if votes is None else votes[rest]
        _, in_val = draw_halves(rest, of_rest, share=val / (1 - test), seed=seed + 1)
    splits = np.full(len(everything), "train", dtype=object)
    splits[in_val], splits[in_test] = "val", "test"
    found: list[Split] = splits[place_of].tolist()
    return found


def _classes_of_places(place_of: Int[Array, " sample"], labels: Int[Array, " sample"]) -> Int[Array, " place"]:
    votes = np.zeros((place_of.max() + 1, labels.max() + 1), dtype=np.int64)
    np.add.at(votes, (place_of, labels), 1)
    most: Int[Array, " place"] = votes.argmax(axis=1)
    return most


def draw_halves(
    indices: Int[Array, " sample"], classes: Int[Array, " sample"] | None, *, share: float, seed: int
) -> tuple[Int[Array, " first"], Int[Array, " second"]]:
    """Draw a share (0 ≤ share < 1) of some samples, each class in the same share; give those left, and those drawn.
    Without classes it is drawn without regard to them. Raises `InputError` where a class, or all, have too few samples.
    """
    if share == 0:
        return indices, indices[:0]
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            indices, test_size=share, random_state=seed % 2**32, stratify=classes, shuffle=True
        )
    except ValueError as problem:
        of = "" if classes is None else f" of {counted(len(np.unique(classes)), 'class')}"
        raise InputError(
            f"{counted(len(indices), 'image')}{of} can't be split with a share of {share:g}: {problem}; take a "
            "larger share, add images, or declare a column `split`"
        ) from problem
    return first, second


def balanced_order(labels: Bool[Array, "sample label"], *, seed: int, purpose: str, num: int) -> Int[Array, " order"]:
    """Order samples of several labels so that every beginning has the labels in nearly the same shares.
    First comes a sample for each label, from the rarest on. Then the next is always one of the label that those before
    lack most, drawn among its samples. Gives `num` positions, more where the labels need more; a shorter order is the
    beginning of a longer one.
    """
    classes, counts = _with_unlabelled(labels)
    queues = _Queues(classes, permutation(seed, step=0, purpose=purpose, size=len(labels)))
    for label in np.argsort(counts, kind="stable"):
        if counts[label] and not queues.taken[label]:
            queues.take(int(label))
    shares = counts / max(len(labels), 1)
    while len(queues.order) < min(num, len(labels)):
        lack: Float[Array, " label"] = shares * (len(queues.order) + 1) - queues.taken
        lack[queues.taken == counts] = -np.inf
        queues.take(int(lack.argmax()))
    return np.array(queues.order, dtype=np.int64)


def rounds_order(labels: Bool[Array, "sample label"], *, rounds: int, seed: int, purpose: str) -> Int[Array, " order"]:
    """Draw `rounds` samples of each label, or all that it has. Fewer rounds draw a part of what more rounds draw. In
    each round, from the rarest label on, each that has fewer samples than rounds were gets one; a sample counts for all
    its labels. Samples without any are not drawn."""
    counts = labels.sum(axis=0)
    queues = _Queues(labels, permutation(seed, step=0, purpose=purpose, size=len(labels)))
    rarest_first = np.argsort(counts, kind="stable")
    for number in range(1, min(rounds, int(counts.max(initial=0))) + 1):
        for label in rarest_first:
            if queues.taken[label] < min(number, counts[label]):
                queues.take(int(label))
    return np.array(queues.order, dtype=np.int64)


class _Queues:
    """The samples of each label in a drawn order, and which are taken."""

    def __init__(self, labels: Bool[Array, "sample label"], drawn: Int[Array, " sample"]) -> None:
        self._labels = labels
        self._waiting = [drawn[labels[drawn, label]] for label in range(labels.shape[1])]
        self._next = [0] * labels.shape[1]
        self._is_taken = np.zeros(len(labels), dtype=bool)
        self.taken = np.zeros(labels.shape[1], dtype=np.int64)
        self.order: list[int] = []

    def take(self, label: int) -> None:
        waiting = self._waiting[label]
        while self._is_taken[waiting[self._next[label]]]:
            self._next[label] += 1
        sample = int(waiting[self._next[label]])
        self._is_taken[sample] = True
        self.taken += self._labels[sample]
        self.order.append(sample)


def _with_unlabelled(labels: Bool[Array, "sample label"]) -> tuple[Bool[Array, "sample column"], Int[Array, " column"]]:
    """Count samples without any label as a label of their own, so that they keep their share too."""
    with_none = np.column_stack([labels, ~labels.any(axis=1)])
    return with_none, with_none.sum(axis=0)


def _balanced_halves(
    labels: Bool[Array, "place class"], *, val: float, test: float, seed: int
) -> tuple[Int[Array, " val"], Int[Array, " test"]]:
    num_val, num_test = round(len(labels) * val), round(len(labels) * test)
    num_train = len(labels) - num_val - num_test
    order = balanced_order(labels, seed=seed, purpose="training part", num=num_train)
    left = np.setdiff1d(np.arange(len(labels)), order)
    # Training may need more than its share to have every label.
    num_test = min(num_test, round(len(left) * test / (val + test))) if val + test > 0 else 0
    in_test = left[balanced_order(labels[left], seed=seed, purpose="test part", num=num_test)]
    if len(in_test) > num_test:
        in_test = in_test[:num_test]
    return np.setdiff1d(left, in_test), in_test


def draw_places(
    places: Sequence[str], splits: Sequence[Split | None], *, val: float, test: float, seed: int
) -> tuple[Split | None, ...]:
    """Draw places of the training split for validation and test; at least one for each that has a share. Raises
    `InputError` for too few places, or shares that leave nothing to learn from."""
    check_shares(val, test)
    pool = sorted({place for place, split in zip(places, splits, strict=True) if split == "train"})
    num_val, num_test = (max(1, round(share * len(pool))) if share else 0 for share in (val, test))
    if num_val + num_test >= len(pool):
        raise InputError(
            f"{counted(len(pool), 'place')} can't be divided into {1 + (val > 0) + (test > 0)} splits; add "
            "some, declare a column `split`, or divide the ground of each image by `data.split.blocks`"
        )
    order = [pool[index] for index in permutation(seed, step=0, purpose="parts of places", size=len(pool))]
    split_of: dict[str, Split] = dict.fromkeys(order[:num_test], "test")
    split_of |= dict.fromkeys(order[num_test : num_test + num_val], "val")
    return tuple(
        split_of.get(place, split) if split == "train" else split for place, split in zip(places, splits, strict=True)
    )


_PURPOSE = "label fraction"


# Numbers that programs write where there is none. chosen: from the data that we met.
_LARGEST_NUMBER = 1e30
_FILLS = (-999.0, -9999.0, -99999.0, -32768.0, -32767.0, 9999.0, 99999.0, 65535.0, 1e20)


def numbers_apart(values: Array) -> tuple[Counter[float], float, float]:
    """Count the numbers that programs write where there is none, and give the span of all others."""
    is_fill = np.isin(values, _FILLS) | (np.abs(values) > _LARGEST_NUMBER)
    others = values[~is_fill]
    ends = (float(others.min()), float(others.max())) if others.size else (math.inf, -math.inf)
    return Counter(values[is_fill].tolist()), *ends


def fill_notes(parts: Sequence[tuple[Counter[float], float, float]], *, what: str, mend: str) -> list[str]:
    """Say which numbers of labels (`numbers_apart` of each part) likely mean no data: they lie farther from all others
    than these from each other."""
    found = sum((counts for counts, _, _ in parts), Counter[float]())
    least, largest = min((low for _, low, _ in parts), default=0.0), max((high for _, _, high in parts), default=0.0)
    far = [one for one in sorted(found) if one < 2 * least - largest or one > 2 * largest - least]
    return [
        f"the label {number:g} stands at {counted(found[number], what)}, far from all others ({least:g} to "
        f"{largest:g}): likely no data; {mend}"
        for number in far
    ]


def alike_names(classes: Sequence[str]) -> list[str]:
    """Say which names of classes differ in case, spaces or accents alone, which may be a slip."""
    folded: dict[str, list[str]] = {}
    for name in classes:
        plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        plain = str(float(plain)) if _NUMERAL.fullmatch(plain) else plain
        folded.setdefault(plain, []).append(name)
    return [
        f"classes {_listed(names)} are different classes, and differ only in how they are written; if they are one, "
        "write it in one way"
        for names in folded.values()
        if len(names) > 1
    ]


def absent_classes(found: Mapping[Split, Collection[int]], classes: Sequence[str], *, what: str) -> list[str]:
    """Say which classes no split has a `what` of, or validation alone has none of; `found` are the classes of each
    split that has some. What the test lacks is said with its scores."""
    every = {number for numbers in found.values() for number in numbers}
    nowhere = [name for number, name in enumerate(classes) if number not in every]
    lacks = [classes[number] for number in sorted(every - set(found.get("val", every)))]
    notes = [f"no split has a {what} of {_listed(nowhere)}; what was never seen is never predicted"] if nowhere else []
    return notes + ([f"split 'val' has no {what} of {_listed(lacks)}, so it chooses by the others"] if lacks else [])


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more


def take_fraction(data: TaskData, *, fraction: float, per_class: int | None, seed: int) -> TaskData:
    """Keep the labels of some training samples; validation and test stay whole.
    Draws are nested: with one seed, what a smaller fraction or number keeps is kept by a larger one too.
    Classes: each keeps the same share, rounded, and at least one sample. Labels: the beginning of `balanced_order`
    is kept; `per_class` counts a sample for all its labels, so frequent ones may get more, rare ones what they have.
    Numbers and maps: drawn without regard to what they hold, at least one.
    `per_class` takes so many of each class instead of the `fraction`, which is over 0 and at most 1; not both.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"split.fraction must be over 0 and at most 1, found {fraction:g}")
    if per_class is not None and per_class < 1:
        raise InputError(f"split.per_class must be at least 1, found {per_class}")
    if per_class is not None and fraction != 1:
        raise InputError(f"split.fraction {fraction:g} and split.per_class {per_class} exclude each other; keep one")
    if per_class is not None and data.kind not in ("class", "labels"):
        raise InputError(
            f"split.per_class needs a class for each sample, '{data.name}' has kind '{data.kind}'; use split.fraction"
        )
    train = data.split("train")
    num, targets = _share(len(train), fraction), data.targets
    if targets is None or data.kind not in ("class", "labels"):
        drawn = permutation(seed, step=0, purpose=_PURPOSE, size=len(train))[:num]
    elif data.kind == "class":
        drawn = _drawn_by_class(targets[train], data.classes, fraction=fraction, per_class=per_class, seed=seed)
    elif per_class is not None:
        drawn = rounds_order(targets[train], rounds=per_class, seed=seed, purpose=_PURPOSE)
    else:
        drawn = balanced_order(targets[train], seed=seed, purpose=_PURPOSE, num=num)
    kept = train[np.sort(drawn)]
    left = [sample for sample, split in enumerate(data.splits) if split != "train"]
    samples = np.sort(np.concatenate([kept, np.array(left, dtype=np.int64)]))
    taken = data.take(samples, fingerprint=_fingerprint(data, samples))
    requested = f"{fraction:.3g} of them" if per_class is None else f"{per_class} of each class"
    note = f"labels of {len(kept)} of {counted(len(train), 'training sample')} are used ({requested}, seed {seed})"
    return replace(taken, notes=(*data.notes, note))


def _drawn_by_class(
    labels: Int[Array, " sample"], classes: Sequence[str], *, fraction: float, per_class: int | None, seed: int
) -> Int[Array, " kept"]:
    kept = []
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        if per_class is not None and len(members) < per_class:
            raise InputError(
                f"class '{classes[number]}' has {counted(len(members), 'training sample')}, split.per_class "
                f"asks for {per_class}; ask for fewer, or leave the class out"
            )
        num = _share(len(members), fraction) if per_class is None else per_class
        # An order of its own for each class, of which the beginning is kept: so draws are nested.
        order = permutation(seed, step=int(number), purpose=_PURPOSE, size=len(members))
        kept.append(members[order[:num]])
    return np.concatenate(kept)


def _share(count: int, fraction: float) -> int:
    """Round a share to a number of samples, at least one; it grows with the share."""
    return max(1, int(np.floor(count * fraction + 0.5)))


def _fingerprint(data: TaskData, samples: Int[Array, " sample"]) -> str:
    state = blake2b(data.fingerprint.encode(), digest_size=8)
    state.update(samples.astype("<i8").tobytes())
    return state.hexdigest()
