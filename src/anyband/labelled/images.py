"""Labels of whole images: opening them, hashes of their contents, checks."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Shaped
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError, RecipeError, nearest_name
from anyband.labelled.samples import DataSpec, Sample, SampleImage, SplitSpec, TaskData
from anyband.labelled.splits import parts_from_lists
from anyband.labelled.tables import (
    IMAGE_ENDINGS,
    LabelForm,
    LabelledImages,
    Slot,
    check_places_whole,
    read_labelled,
    split,
)
from anyband.progress import progress
from anyband.sensors.sensor import Sensor

__all__ = [
    "PARTIAL",
    "check_task_data",
    "content_hash",
    "contents_of",
    "fingerprint_of",
    "open_image_level",
    "sizes_of",
]

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


# chosen: as many names in a message as one reads.
_NAMED = 5
# chosen: comparing pixels of more pairs takes longer than a glance.
_SHOWN_FROM_CHECKS = 50


def check_task_data(data: TaskData, *, needs_validation: bool = True) -> None:
    """Refuse data that no honest score can come from. Only samples whose contents may agree are read.

    Args:
        data: labelled samples.
        needs_validation: whether an empty validation part is refused; an empty training or test part always is.

    Raises:
        InputError: an empty part; two samples of one name; targets that do not belong to the classes; fewer than two
            classes; a class in validation or test that training lacks; or one file in two parts.
    """
    _check_names(data)
    _check_parts(data, needs_validation=needs_validation)
    _check_targets(data)
    if data.kind in ("class", "labels"):
        _check_classes_learned(data)
    _check_contents(data)


def _check_names(data: TaskData) -> None:
    twice = [name for name, count in Counter(data.names).items() if count > 1]
    if twice:
        raise InputError(
            f"'{data.name}' has {len(twice)} names that several samples have, such as '{twice[0]}'; samples need names "
            "of their own"
        )


def _check_parts(data: TaskData, *, needs_validation: bool) -> None:
    counts = data.num_samples
    roles = {"train": "learn from", "val": "choose by", "test": "report"}
    needed: list[Split] = ["train", "val", "test"] if needs_validation else ["train", "test"]
    for part in needed:
        if counts[part] == 0:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(
                f"'{data.name}' has no sample in part '{part}' to {roles[part]} (samples: {found}); declare some in a "
                "column `split` or in lists, or have them drawn by `split.val` and `split.test`"
            )


def _check_targets(data: TaskData) -> None:
    targets = data.targets
    if data.is_dense or targets is None:
        if data.is_dense and targets is None:
            return
        has = "no" if targets is None else "a"
        raise InputError(
            f"'{data.name}' has kind '{data.kind}' and {has} number or class for each sample; the two disagree"
        )
    if data.kind == "number":
        _check_numbers(data, targets)
        return
    if data.kind == "labels":
        if targets.shape[1:] != (len(data.classes),) or targets.dtype != bool:
            raise InputError(
                f"'{data.name}' has {len(data.classes)} classes and labels of shape {targets.shape}; each sample needs "
                "to say of each class whether it holds"
            )
        if not data.classes:
            raise InputError(f"'{data.name}' has no classes")
        return
    _check_class_numbers(data, targets)


def _check_numbers(data: TaskData, targets: Array) -> None:
    if targets.dtype.kind != "f" or targets.ndim != 1:
        raise InputError(f"'{data.name}' has kind 'number' and targets of type {targets.dtype}, shape {targets.shape}")
    wrong = np.flatnonzero(~np.isfinite(targets))
    if len(wrong):
        raise InputError(
            f"{len(wrong)} samples of '{data.name}' have a number that is not finite, the first is "
            f"'{data.names[wrong[0]]}' with {targets[wrong[0]]}; leave them out"
        )
    train = targets[data.part("train")]
    if len(train) > 1 and np.ptp(train) == 0:
        raise InputError(f"all {len(train)} training samples of '{data.name}' have the number {train[0]:g}")


def _check_class_numbers(data: TaskData, targets: Array) -> None:
    if targets.dtype.kind not in "iu" or targets.ndim != 1:
        raise InputError(f"'{data.name}' has kind 'class' and targets of type {targets.dtype}, shape {targets.shape}")
    wrong = np.flatnonzero((targets < 0) | (targets >= len(data.classes)))
    if len(wrong):
        raise InputError(
            f"{len(wrong)} samples of '{data.name}' have a class number outside 0 to {len(data.classes) - 1}, the "
            f"first is '{data.names[wrong[0]]}' with {targets[wrong[0]]}"
        )
    seen = np.unique(targets)
    if len(seen) < 2:
        only = f"only '{data.classes[seen[0]]}'" if len(seen) else "none"
        raise InputError(f"'{data.name}' needs samples of two classes at least, {only} is there")


def _check_classes_learned(data: TaskData) -> None:
    """Refuse a class that is asked for and was never shown."""
    learned = _classes_in(data, "train")
    parts: tuple[Split, ...] = ("val", "test")
    for part in parts:
        lacking = sorted(_classes_in(data, part) - learned)
        if lacking:
            names = _listed([data.classes[index] for index in lacking])
            raise InputError(
                f"{len(lacking)} of {len(data.classes)} classes are in part '{part}' of '{data.name}' and not in "
                f"training: {names}; add training samples of them, or leave them out"
            )


def _classes_in(data: TaskData, part: Split) -> set[int]:
    if data.targets is None:
        return set()
    targets = data.targets[data.part(part)]
    found = np.flatnonzero(targets.any(axis=0)) if data.kind == "labels" else np.unique(targets)
    return set(found.tolist())


def _check_contents(data: TaskData) -> None:
    """Refuse a file in two parts, by what is in it."""
    twins = list(_twins(data))
    found = []
    with progress("compare samples", len(twins), shown=len(twins) > _SHOWN_FROM_CHECKS) as advance:
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
            f"'{data.name}' has {len(found)} samples with the same content in two parts: {_listed(pairs)}; the test "
            "would score what training saw: keep one of each, or both in one part"
        )


def _twins(data: TaskData) -> Iterable[tuple[int, int]]:
    """Find samples of equal hash in different parts; samples of one place may share files and are left out."""
    first_of: dict[str, dict[Split, int]] = {}
    for sample, content in enumerate(data.contents):
        if not content:
            continue
        seen = first_of.setdefault(content, {})
        part = data.splits[sample]
        other = next((one for name, one in seen.items() if name != part and not _same_place(data, one, sample)), None)
        if other is not None:
            yield other, sample
        seen.setdefault(part, sample)


def _same_place(data: TaskData, first: int, second: int) -> bool:
    return bool(data.places) and data.places[first] == data.places[second]


def _pixels(data: TaskData, sample: int) -> str:
    """Hash all pixels of a sample, with its maps of labels."""
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


_OPTIONS = {"absent": ("refuse", "leave_out"), "contents": ("files", "sizes")}
# chosen: to read this many samples takes minutes; beyond, sizes tell data apart unless `contents: files` is asked for.
_MOST_READ = 200_000


def open_image_level(spec: DataSpec, *, seed: int, sensors: Mapping[str, Sensor] | None = None) -> TaskData:
    """Find samples with a class, labels or a number each; their images are read later.

    `source` is a folder of class folders, such folders in `train`, `val` and `test`, or a table (`read_label_table`).
    Parts are those declared; else those of the lists; else drawn by class and place. Where no sample is declared for
    validation it is drawn from training, in the share that `split.val` is of what `split.test` leaves.

    Options: `absent: leave_out` takes split lists that name samples which are not there; `contents: sizes` compares
    sizes of files and not contents, `contents: files` reads them however many there are.

    Args:
        spec: which data, and how they are read.
        seed: of the parts that are drawn.
        sensors: by name, beside those of the catalogue.

    Raises:
        ManifestError: nothing is there, a row or list is wrong, a sensor is missing, or names are not distinct.
        InputError: samples with several labels of kind `class`, or classes too small for every part.
        RecipeError: an option that does not exist, or choices that do not go together.
    """
    _check_spec(spec)
    source = Path(spec.source)
    form = LabelForm(
        numbers=spec.kind == "number",
        column=spec.label_column,
        slots=_slots(spec),
        sensors=sensors or {},
        entries=True,
    )
    images = _of_kind(read_labelled(source, form=form), spec)
    names = _names(images, source)
    kept, images, notes = _in_parts(images, names, spec, seed=seed)
    return _task_data(images, [names[index] for index in kept], spec, notes=notes)


def _check_spec(spec: DataSpec) -> None:
    for option, value in spec.options.items():
        if option not in _OPTIONS:
            raise RecipeError(
                f"data.options has '{option}', which folders and tables do not know ({', '.join(_OPTIONS)})"
                f"{nearest_name(option, _OPTIONS)}"
            )
        if value not in _OPTIONS[option]:
            raise RecipeError(f"data.options.{option} must be one of {', '.join(_OPTIONS[option])}, found '{value}'")
    if spec.split.blocks is not None:
        raise RecipeError(f"split.blocks are for maps of labels; data.kind is '{spec.kind}'")


def _slots(spec: DataSpec) -> tuple[Slot, ...]:
    for field, given, column in (("bands", spec.bands, "bands"), ("encodings", spec.encodings, "encoding")):
        if given and not spec.sensors:
            raise RecipeError(
                f"data.{field} are of images of data.sensors, which are not named; name the sensors too, or where "
                f"each image has its own, name them in the table's column `{column}`"
            )
        if given and len(given) != len(spec.sensors):
            raise RecipeError(
                f"data.{field} has {len(given)} entries, data.sensors has {len(spec.sensors)}; give one for each "
                "sensor, or none"
            )
    return tuple(
        Slot(
            # Beside a table, relative names of files would be looked up in the table's folder.
            sensor=str(Path(name).absolute()) if name.casefold().endswith((".yaml", ".yml")) else name,
            bands=spec.bands[index] if spec.bands else (),
            encoding=(spec.encodings[index] or None) if spec.encodings else None,
        )
        for index, name in enumerate(spec.sensors)
    )


def _of_kind(images: LabelledImages, spec: DataSpec) -> LabelledImages:
    if spec.kind == "number":
        return images
    if spec.kind == "class" and images.multi_label:
        wrong = [index for index, labels in enumerate(images.labels) if len(labels) != 1]
        raise InputError(
            f"{len(wrong)} samples of '{spec.source}' have no label or several, the first is "
            f"'{images.paths[wrong[0]]}'; say `kind: labels` (`--multi-label`), or give every sample one label"
        )
    return replace(images, multi_label=spec.kind == "labels")


def _names(images: LabelledImages, source: Path) -> list[str]:
    """Name samples by their sets, else by their paths from the source's folder."""
    paths = [str(path) for path in images.paths]
    base = str(source if source.is_dir() else source.parent) + os.sep
    base = "" if base == f".{os.sep}" else base
    if not all(path.startswith(base) and not path.startswith(os.sep, len(base)) for path in paths):
        base = os.path.commonpath([os.path.dirname(path) for path in paths]) + os.sep  # noqa: PTH120 (half a million)
    names = [path[len(base) :].replace(os.sep, "/") for path in paths]
    if images.sets:
        names = [own or name for own, name in zip(images.sets, names, strict=True)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{len(twice)} names in '{source}' are of several samples, such as '{twice[0]}'; give sets names of their "
            "own"
        )
    return names


def _in_parts(
    images: LabelledImages, names: Sequence[str], spec: DataSpec, *, seed: int
) -> tuple[Sequence[int], LabelledImages, tuple[str, ...]]:
    """Find or draw the parts.

    Returns:
        Positions of the samples that are in one; those samples; and notes.
    """
    kept: Sequence[int] = range(len(images))
    notes: tuple[str, ...] = ()
    lists = spec.split.lists
    if lists is not None:
        if images.splits:
            raise ManifestError(
                f"'{spec.source}' declares parts itself, and `split.lists` names lists of them; leave one out"
            )
        absent = spec.options.get("absent", "refuse")
        listed = parts_from_lists(lists, names, source=spec.source, absent=absent)
        kept = [index for index, part in enumerate(listed.parts) if part is not None]
        parts = tuple(part for part in listed.parts if part is not None)
        images, notes = replace(images.take(kept), splits=parts), listed.notes
        check_places_whole(images.places, images.splits, spec.source)
    if not images.splits:
        drawn = split(images, val=spec.split.val, test=spec.split.test, seed=seed)
        return kept, drawn, (*notes, f"parts are drawn (seed {seed})")
    images, drawn_notes = _with_validation(images, spec.split, seed=seed)
    return kept, images, (*notes, *drawn_notes)


def _with_validation(images: LabelledImages, asked: SplitSpec, *, seed: int) -> tuple[LabelledImages, tuple[str, ...]]:
    """Draw validation from training, where none is declared."""
    train = [index for index, part in enumerate(images.splits) if part == "train"]
    if "val" in images.splits or asked.val == 0 or not train:
        return images, ()
    share = asked.val / (1 - asked.test)
    drawn = split(replace(images.take(train), splits=()), val=share, test=0.0, seed=seed)
    parts = np.array(images.splits, dtype=object)
    parts[train] = drawn.splits
    note = f"validation is drawn from training: {share:.3g} of it (seed {seed})"
    return replace(images, splits=tuple(parts.tolist())), (note,)


def _task_data(images: LabelledImages, names: Sequence[str], spec: DataSpec, *, notes: tuple[str, ...]) -> TaskData:
    sensors = _Sensors()
    facts = [" ".join(sensors.facts(entry) for entry in entries) for entries in images.members]
    files = [_files_image_level(entries) for entries in images.members]
    compared = spec.options.get("contents", "files" if len(files) <= _MOST_READ else "sizes") == "files"
    contents = contents_of(files) if compared else sizes_of(files)
    if not compared:
        notes = (*notes, "contents of files were not compared: one image may be in two parts under two names")
    targets = images.targets()
    seen = [f"{content} {fact}" for content, fact in zip(contents, facts, strict=True)]
    members = images.members

    def read(position: int) -> Sample:
        return Sample(images=tuple(_read(entry) for entry in members[position]))

    return TaskData(
        name=Path(spec.source).name,
        kind=spec.kind,
        classes=images.classes,
        names=tuple(names),
        splits=images.splits,
        places=images.places,
        sensors=tuple(tuple(sensors.sensor(entry) for entry in entries) for entries in members),
        targets=targets,
        read=read,
        fingerprint=fingerprint_of(names, seen, targets, images.splits, classes=images.classes),
        contents=contents if compared else (),
        notes=notes,
    )


def _files_image_level(entries: Sequence[ImageEntry]) -> tuple[Path, ...]:
    """List the files of a sample, each once."""
    return tuple(dict.fromkeys(path for entry in entries for path in entry.source.paths))


def _read(entry: ImageEntry) -> SampleImage:
    # Late: data are listed without a raster library.
    from anyband.rasters.reader import open_raster

    with open_raster(entry.source, entry.sensor) as reader:
        raster, time = reader.read(), entry.datetime or reader.datetime
    return SampleImage(dn=raster.dn, valid=raster.valid, sensor=entry_sensor(entry), grid=raster.grid, datetime=time)


class _Sensors:
    """Sensors of images as stored; equal ones are one object, for half a million images have few."""

    def __init__(self) -> None:
        self._by_encoding: dict[int, Sensor] = {}
        self._facts: dict[int, str] = {}
        self._known: dict[Sensor, Sensor] = {}

    def sensor(self, entry: ImageEntry) -> Sensor:
        """Give the sensor of an image, with its bands and encoding."""
        # Images that were made of the same cells share the object, and it lives as long as they do.
        key = id(entry.encoding)
        if key not in self._by_encoding:
            found = entry_sensor(entry)
            self._by_encoding[key] = self._known.setdefault(found, found)
        return self._by_encoding[key]

    def facts(self, entry: ImageEntry) -> str:
        """Hash what decides how an image is read, and say when it was taken; no paths."""
        key = id(entry.encoding)
        if key not in self._facts:
            source, sensor = entry.source, entry.sensor
            how = (source.bands, source.time_index, source.time, source.nodata, source.valid_values)
            written = repr((sensor.name, sensor.band_names, entry.encoding, how, source.valid_variable))
            self._facts[key] = blake2b(written.encode(), digest_size=8).hexdigest()
        return f"{self._facts[key]} {entry.datetime}"
