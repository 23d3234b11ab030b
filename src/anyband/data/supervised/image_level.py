"""A class, labels or a number for each sample: class folders, or tables of path and label, as labelled data."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.data.label_tables import check_places_whole
from anyband.data.labelled import LabelForm, LabelledImages, read_labelled, split
from anyband.data.labelled_sets import Slot
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.supervised.contents import contents_of, fingerprint_of, sizes_of
from anyband.data.supervised.records import DataSpec, Sample, SampleImage, SplitSpec, TaskData
from anyband.data.supervised.split_lists import parts_from_lists
from anyband.errors import InputError, ManifestError, RecipeError, nearest_name
from anyband.sensors.sensor import Sensor

__all__ = ["open_image_level"]

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
    files = [_files(entries) for entries in images.members]
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


def _files(entries: Sequence[ImageEntry]) -> tuple[Path, ...]:
    """List the files of a sample, each once."""
    return tuple(dict.fromkeys(path for entry in entries for path in entry.source.paths))


def _read(entry: ImageEntry) -> SampleImage:
    # Late: data are listed without a raster library.
    from anyband.data.rasters.reader import open_raster

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
