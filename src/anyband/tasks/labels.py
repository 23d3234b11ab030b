"""Features with their labels: what the scoring protocols take."""

from dataclasses import dataclass

import numpy as np

from anyband.errors import InputError
from anyband.shapes import Array, Bool, Float, Int

__all__ = ["LabelledFeatures", "Labels", "check_same_classes", "label_matrix"]

Labels = Int[Array, "sample"] | Bool[Array, "sample class"]
"""One class number for each sample, or for each sample which classes hold."""


@dataclass(frozen=True, kw_only=True)
class LabelledFeatures:
    """Features of the samples of one split."""

    features: Float[Array, "sample width"]
    """One row a sample."""
    labels: Labels
    """Classes as numbers (multi-class), or as a boolean matrix (multi-label)."""
    classes: tuple[str, ...]
    """Names of the classes; a class's number is its position."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.labels):
            raise InputError(f"{len(self.features)} features have {len(self.labels)} labels; give one for each")
        if not np.isfinite(self.features).all():
            row = int(np.flatnonzero(~np.isfinite(self.features).all(axis=1))[0])
            raise InputError(f"the feature of sample {row} is not finite; leave out images without data")

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        return len(self.features)


def label_matrix(labelled: LabelledFeatures) -> Bool[Array, "sample class"]:
    """Write the labels as a boolean matrix; for one class a sample each row holds one True."""
    if labelled.multi_label:
        return np.asarray(labelled.labels, dtype=bool)
    return np.asarray(labelled.labels[:, None] == np.arange(len(labelled.classes)))


def check_same_classes(train: LabelledFeatures, test: LabelledFeatures) -> None:
    """See that every class of the test samples has training samples.

    Raises:
        InputError: a class has none, or the two splits name different classes.
    """
    if train.classes != test.classes:
        raise InputError(f"training names the classes {train.classes}, test {test.classes}; give both one list")
    known = [bool(column.any()) for column in label_matrix(train).T]
    asked = [bool(column.any()) for column in label_matrix(test).T]
    missing = [train.classes[i] for i in range(len(asked)) if asked[i] and not known[i]]
    if missing:
        shown = ", ".join(f"'{name}'" for name in missing[:5]) + " …" * (len(missing) > 5)
        raise InputError(
            f"{len(missing)} of {sum(asked)} classes in the test split have no training sample: {shown}; "
            "add training samples of them or split by class"
        )
