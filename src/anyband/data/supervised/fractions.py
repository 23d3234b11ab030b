"""Fewer labels: a share of the training samples, or a number of each class."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from anyband.data.label_draws import balanced_order, rounds_order
from anyband.data.supervised.records import TaskData
from anyband.errors import InputError
from anyband.randomness import permutation
from anyband.shapes import Array, Bool, Int

__all__ = ["take_fraction"]

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
