"""Orders and draws of labelled samples in which every class keeps its share."""

import numpy as np

from anyband.errors import InputError
from anyband.randomness import permutation
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["balanced_order", "draw_halves", "rounds_order"]


def draw_halves(
    indices: Int[Array, " sample"], classes: Int[Array, " sample"] | None, *, share: float, seed: int
) -> tuple[Int[Array, " first"], Int[Array, " second"]]:
    """Draw a share of some samples, each class in the same share.

    Args:
        indices: of the samples.
        classes: of each; None: drawn without regard to classes.
        share: from 0 to under 1.
        seed: of the draw.

    Returns:
        Those left, and those drawn.

    Raises:
        InputError: too few samples for the share, or for every class.
    """
    if share == 0:
        return indices, indices[:0]
    from sklearn.model_selection import train_test_split

    try:
        first, second = train_test_split(
            indices, test_size=share, random_state=seed % 2**32, stratify=classes, shuffle=True
        )
    except ValueError as problem:
        of = "" if classes is None else f" of {len(np.unique(classes))} classes"
        raise InputError(
            f"{len(indices)} images{of} can't be split with a share of {share:g}: {problem}; take a larger share, add "
            "images, or declare a column `split`"
        ) from problem
    return first, second


def balanced_order(labels: Bool[Array, "sample label"], *, seed: int, purpose: str, num: int) -> Int[Array, " order"]:
    """Order samples of several labels so that every beginning has the labels in nearly the same shares.

    First comes a sample for each label, from the rarest on, so that none is lost. Then the next sample is always one
    of the label that those before lack most; among its samples the seed draws. A shorter order is the beginning of a
    longer one.

    Args:
        labels: which hold.
        seed: of the draw.
        purpose: of the draw.
        num: how many samples to order; there are more where the labels need more.

    Returns:
        Positions of samples, each at most once.
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
    """Draw so many samples of each label, or all that it has. Fewer rounds draw a part of what more rounds draw.

    In each round, from the rarest label on, each that has fewer samples than rounds were gets one; a sample counts
    for all its labels.

    Args:
        labels: which hold; samples without any are not drawn.
        rounds: samples of each label.
        seed: of the draw.
        purpose: of the draw.

    Returns:
        Positions of samples, each at most once.
    """
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
        """Take the next sample of a label; the caller knows that there is one."""
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
