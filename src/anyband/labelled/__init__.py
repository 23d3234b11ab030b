"""Labelled data: the door that opens them, and the checks that all of them pass."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.arrays import Array
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, agreed, counted
from anyband.labelled.samples import DENSE_KINDS, PARTIAL, DataSpec, Sample, TaskData
from anyband.progress import progress
from anyband.sensors.sensor import Sensor

__all__ = ["check_task_data", "is_named", "open_task_data"]

_TORCHGEO = "torchgeo:"


def open_task_data(
    spec: DataSpec,
    *,
    seed: int,
    download: bool = False,
    sensors: Mapping[str, Sensor] | None = None,
    test_only: bool = False,
) -> TaskData:
    """Find the samples of labelled data, their splits and targets; images are read later.
    Args:
        seed: of what is drawn: splits that nothing declares, label fractions.
        download: whether a named data set may be fetched.
        sensors: by name, beside those of the catalogue; folders and tables of whole images may name them.
        test_only: whether nothing is fitted to them: training and validation may lack samples, and are taken whole.
    Raises:
        ManifestError: nothing is there, or a table, folder or list is wrong.
        InputError: an empty split, a sample in two splits, or classes that can't be drawn by.
    """
    # Late: each kind of source has libraries of its own.
    from anyband.labelled.published import PUBLISHED, open_published

    if spec.source.startswith(_TORCHGEO):
        from anyband.labelled.torchgeo import open_torchgeo

        data = open_torchgeo(spec, seed=seed, download=download)
    elif spec.source in PUBLISHED and not Path(spec.source).exists():
        data = open_published(spec, seed=seed)
    elif spec.kind in DENSE_KINDS:
        from anyband.labelled.maps import open_maps

        data = open_maps(spec, seed=seed)
    else:
        from anyband.labelled.images import open_images

        data = open_images(spec, seed=seed, sensors=sensors)
    check_task_data(data, needs_validation=spec.split.val > 0 and not test_only, needs_training=not test_only)
    if test_only:
        return data
    from anyband.labelled.splits import absent_classes, take_fraction

    lists, per_class = spec.split.lists, spec.split.per_class
    fraction = spec.split.fraction if lists is None else lists.fraction
    if lists is not None and spec.split.fraction != 1:
        said = f"split.fraction {spec.split.fraction:g} is not taken of training samples that a list names"
        data = replace(data, notes=(*data.notes, f"{said}; split.lists.fraction takes a share of them"))
    if fraction != 1 or per_class is not None:
        data = take_fraction(data, fraction=fraction, per_class=per_class, seed=seed)
    if data.targets is None or not data.classes:
        return data
    absent = absent_classes(_classes_of_splits(data, data.targets), data.classes, what="sample")
    return replace(data, notes=(*data.notes, *absent))


def is_named(source: str) -> bool:
    """Tell whether a source is the name of a data set, and not a folder or file."""
    from anyband.labelled.published import PUBLISHED

    return source.startswith(_TORCHGEO) or (source in PUBLISHED and not Path(source).exists())


# chosen: as many names in a message as one reads.
_NAMED = 5
# chosen: comparing pixels of more pairs takes longer than a glance.
_SHOWN_FROM = 50


def check_task_data(data: TaskData, *, needs_validation: bool = True, needs_training: bool = True) -> None:
    """Refuse data that no honest score can come from. Only samples whose contents may agree are read.
    Raises:
        InputError: an empty split (training and validation only if needed); two samples of one name; targets that do
            not belong to the classes; fewer than two classes; a class in validation or test that training, if needed,
            lacks; or one file in two splits.
    """
    sizes = {len(data.names), len(data.splits), len(data.sensors)}
    sizes |= {len(one) for one in (data.places, data.contents) if one}
    sizes |= set() if data.targets is None else {len(data.targets)}
    if len(sizes) != 1:
        raise InputError(f"'{data.name}' names {sorted(sizes)} samples in its fields; each needs one entry a sample")
    twice = [name for name, count in Counter(data.names).items() if count > 1]
    if twice:
        raise InputError(
            f"'{data.name}' has {counted(len(twice), 'name')} that several samples have, such as '{twice[0]}'; "
            "samples need names of their own"
        )
    counts, needed = data.num_samples, {"train": needs_training, "val": needs_validation, "test": True}
    for split, role in zip(SPLITS, ("learn from", "choose by", "report"), strict=True):
        if counts[split] == 0 and needed[split]:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(
                f"'{data.name}' has no sample in split '{split}' to {role} (samples: {found}); declare some in "
                "a column `split` or in lists, or have them drawn by `data.split.val` and `data.split.test`"
            )
    if (data.kind in DENSE_KINDS) != (data.targets is None):
        has = "no" if data.targets is None else "a"
        raise InputError(
            f"'{data.name}' has kind '{data.kind}' and {has} number or class for each sample; the two disagree"
        )
    if data.targets is not None:
        _check_targets(data, data.targets, needs_training=needs_training)
    _check_contents(data)


def _check_targets(data: TaskData, targets: Array, *, needs_training: bool) -> None:
    if data.kind == "number":
        _check_numbers(data, targets)
        return
    if data.kind == "class":
        if targets.dtype.kind not in "iu" or targets.ndim != 1:
            raise InputError(
                f"'{data.name}' has kind 'class' and targets of type {targets.dtype}, shape {targets.shape}"
            )
        wrong = np.flatnonzero((targets < 0) | (targets >= len(data.classes)))
        if len(wrong):
            raise InputError(
                f"{counted(len(wrong), 'sample')} of '{data.name}' {agreed(len(wrong), 'have')} a class number "
                f"outside 0 to {len(data.classes) - 1}, the first is '{data.names[wrong[0]]}' with {targets[wrong[0]]}"
            )
        seen = np.unique(targets)
        if len(seen) < 2:
            only = f"only '{data.classes[seen[0]]}'" if len(seen) else "none"
            raise InputError(f"'{data.name}' needs samples of two classes at least, {only} is there")
    elif targets.shape[1:] != (len(data.classes),) or targets.dtype != bool:
        raise InputError(
            f"'{data.name}' has {counted(len(data.classes), 'class')} and labels of shape {targets.shape}; each "
            "sample needs to say of each class whether it holds"
        )
    elif not data.classes:
        raise InputError(f"'{data.name}' has no classes")
    # A class that is asked for must have been shown.
    found = _classes_of_splits(data, targets)
    for split in SPLITS[1:] if needs_training else ():
        lacking = sorted(found.get(split, set()) - found["train"])
        if lacking:
            names = _listed([data.classes[index] for index in lacking])
            raise InputError(
                f"{len(lacking)} of {counted(len(data.classes), 'class')} {agreed(len(lacking), 'are')} in "
                f"split '{split}' of '{data.name}' and not in "
                f"training: {names}; add training samples of them, or leave them out"
            )


def _classes_of_splits(data: TaskData, targets: Array) -> dict[Split, set[int]]:
    """Find the classes, by number, that samples of each split have; splits without samples are left out."""
    of_splits = {split: one for split in SPLITS if len(one := targets[data.split(split)])}
    return {
        split: set((np.flatnonzero(one.any(axis=0)) if one.ndim == 2 else np.unique(one)).tolist())
        for split, one in of_splits.items()
    }


def _check_numbers(data: TaskData, targets: Array) -> None:
    if targets.dtype.kind != "f" or targets.ndim != 1:
        raise InputError(f"'{data.name}' has kind 'number' and targets of type {targets.dtype}, shape {targets.shape}")
    wrong = np.flatnonzero(~np.isfinite(targets))
    if len(wrong):
        raise InputError(
            f"{counted(len(wrong), 'sample')} of '{data.name}' {agreed(len(wrong), 'have')} a number that is "
            f"not finite, the first is '{data.names[wrong[0]]}' with {targets[wrong[0]]}; leave them out"
        )
    train = targets[data.split("train")]
    if len(train) > 1 and np.ptp(train) == 0:
        raise InputError(f"all {len(train)} training samples of '{data.name}' have the number {train[0]:g}")


def _check_contents(data: TaskData) -> None:
    """Refuse samples of equal content in different splits; samples of one place may share files and are left out."""
    first_of: dict[str, dict[Split, int]] = {}
    twins = []
    for sample, content in enumerate(data.contents):
        if not content:
            continue
        seen, split = first_of.setdefault(content, {}), data.splits[sample]
        other = next((one for name, one in seen.items() if name != split and not _same_place(data, one, sample)), None)
        if other is not None:
            twins.append((other, sample))
        seen.setdefault(split, sample)
    found = []
    with progress("compare samples", len(twins), shown=len(twins) > _SHOWN_FROM) as advance:
        for first, second in twins:
            if not data.contents[first].startswith(PARTIAL) or _pixels(data, first) == _pixels(data, second):
                found.append((first, second))
            advance(1)
    if found:
        pairs = [
            f"'{data.names[first]}' ({data.splits[first]}) and '{data.names[second]}' ({data.splits[second]})"
            for first, second in found
        ]
        raise InputError(
            f"'{data.name}' has {counted(len(found), 'sample')} with the same content in two splits: {_listed(pairs)}; "
            "the test would score what training saw: keep one of each, or both in one split"
        )


def _same_place(data: TaskData, first: int, second: int) -> bool:
    return bool(data.places) and data.places[first] == data.places[second]


def _pixels(data: TaskData, sample: int) -> str:
    read: Sample = data.read(sample)
    state = blake2b(digest_size=16)
    arrays = [array for image in read.images for array in (image.dn, image.valid)]
    arrays += [one for one in (read.class_map, read.number_map) if one is not None]
    for array in arrays:
        state.update(repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def _listed(names: Sequence[str]) -> str:
    quoted = [name if name.startswith("'") else f"'{name}'" for name in names[:_NAMED]]
    return ", ".join(quoted) + (f", … ({len(names)} in all)" if len(names) > _NAMED else "")
