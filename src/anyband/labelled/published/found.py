"""Samples found in the folders of a published data set."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Bool, Float, Int
from anyband.data.store import Split
from anyband.errors import ManifestError, RecipeError, nearest_name
from anyband.labelled.images import contents_of, fingerprint_of, sizes_of
from anyband.labelled.samples import DataSpec, ListSpec, Sample, SampleImage, SplitSpec, TaskData, TaskKind
from anyband.labelled.splits import parts_from_lists
from anyband.labelled.tables import LabelledImages
from anyband.labelled.tables import split as draw_split
from anyband.rasters.reader import RasterSource
from anyband.sensors.catalogue import find_bands, resolve_sensor
from anyband.sensors.sensor import Sensor

__all__ = [
    "FoundSample",
    "FoundSet",
    "Parts",
    "Targets",
    "check_options",
    "chosen_option",
    "declared_slots",
    "drawn_parts",
    "found_data",
    "known_root",
    "quick_fingerprint",
]

Targets = Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"] | None
"""Class numbers, which labels hold, or numbers; None for maps."""

# chosen: enough to notice another version of the images; reading all would cost as much as using them.
_READ_SAMPLES = 64
# chosen: to read this many samples takes minutes.
_MOST_READ = 200_000


def declared_slots(found: Sequence[Sensor], spec: DataSpec, *, name: str) -> tuple[Sensor, ...]:
    """Take the sensors of the slots as a user declares them, or as the data set has them.

    Args:
        found: of the data set; empty: it doesn't say.
        spec: may declare sensors, bands and encodings.
        name: for messages.

    Raises:
        ManifestError: other numbers of slots, or none is known.
        CatalogueError: an unknown sensor, band or encoding.
    """
    sensors = tuple(resolve_sensor(one) for one in spec.sensors) or tuple(found)
    if not sensors:
        raise ManifestError(f"'{name}' does not say which sensors took its images; declare them in `sensors`")
    if found and len(found) != len(sensors):
        raise ManifestError(f"'{name}' has {len(found)} images a sample, but `sensors` declares {len(sensors)}")
    for what, given in (("bands", spec.bands), ("encodings", spec.encodings)):
        if given and len(given) != len(sensors):
            raise ManifestError(f"'{name}' has {len(sensors)} images a sample, but `{what}` is given for {len(given)}")
    if spec.bands:
        sensors = tuple(find_bands(bands, one) for bands, one in zip(spec.bands, sensors, strict=True))
    if spec.encodings:
        sensors = tuple(_encoded(one, as_) for one, as_ in zip(sensors, spec.encodings, strict=True))
    return sensors


def _encoded(sensor: Sensor, encoding: str) -> Sensor:
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of samples, and how they came about."""

    splits: tuple[Split, ...]
    """Of each sample."""
    places: tuple[str, ...]
    """That each sample shows; empty: each has its own."""
    contents: tuple[str, ...]
    """Hash of each sample's files, where parts were drawn; empty: not compared."""
    notes: tuple[str, ...]
    """What a reader of results should know."""


def drawn_parts(
    declared: Sequence[Split | None],
    targets: Targets,
    shares: SplitSpec,
    *,
    files: Sequence[Sequence[Path]],
    places: Sequence[str] = (),
    seed: int,
) -> Parts:
    """Complete the parts: all are drawn where none is declared; validation from training where there is none.

    Classes keep their shares; labels, numbers and maps are drawn without regard to them. Samples of one place, and
    samples with the same files under two names, stay together. Declared parts stay; between them nothing is compared,
    for they are the publisher's.

    Args:
        declared: part of each sample, None: not declared.
        targets: of each sample.
        shares: of validation and test.
        files: of each sample, to find equal ones.
        places: that each sample shows; empty: each has its own.
        seed: of the draw.

    Raises:
        InputError: a class too rare for every part, or shares that leave nothing to learn from.
    """
    missing = [index for index, part in enumerate(declared) if part is None]
    if not missing and ("val" in declared or shares.val == 0):
        kept = tuple(part for part in declared if part is not None)
        return Parts(splits=kept, places=tuple(places), contents=(), notes=())
    contents = contents_of(files) if missing and all(files) and len(files) <= _MOST_READ else ()
    repeated = len(contents) - len(set(contents))
    shown = tuple(places) or (contents if repeated else ())
    to_draw = missing or [index for index, part in enumerate(declared) if part == "train"]
    splits = _filled(declared, to_draw, targets, shares, places=shown, seed=seed)
    note = "train, val and test are" if missing else "validation, which the publishers do not have, is"
    notes = [f"{note} drawn (seed {seed})"]
    if repeated:
        notes.append(f"{repeated} samples have the files of another one; they are kept in its part")
    return Parts(splits=splits, places=shown, contents=contents, notes=tuple(notes))


def _filled(
    declared: Sequence[Split | None],
    to_draw: Sequence[int],
    targets: Targets,
    shares: SplitSpec,
    *,
    places: Sequence[str],
    seed: int,
) -> tuple[Split, ...]:
    only_val = None not in declared
    # What is drawn from training alone is the share that validation has of what test leaves.
    val, test = (shares.val / (1 - shares.test), 0.0) if only_val else (shares.val, shares.test)
    images = _as_images(to_draw, targets, [places[index] for index in to_draw] if places else ())
    drawn = draw_split(images, val=val, test=test, seed=seed).splits
    filled = dict(enumerate(declared)) | dict(zip(to_draw, drawn, strict=True))
    return tuple(part for index in range(len(declared)) if (part := filled[index]) is not None)


def _as_images(positions: Sequence[int], targets: Targets, places: Sequence[str]) -> LabelledImages:
    """Say what a draw needs to know: classes, where there is one a sample, and places."""
    is_class = targets is not None and targets.ndim == 1 and targets.dtype.kind == "i"
    classes = [int(targets[index]) for index in positions] if is_class and targets is not None else []
    return LabelledImages(
        paths=tuple(Path(str(index)) for index in positions),
        labels=tuple((one,) for one in classes) or ((),) * len(positions),
        classes=tuple(map(str, range(max(classes, default=0) + 1))),
        multi_label=not is_class,
        places=tuple(places),
    )


def quick_fingerprint(
    names: Sequence[str],
    files: Sequence[Sequence[Path]],
    targets: Targets,
    splits: Sequence[Split],
    *,
    settings: Sequence[str] = (),
) -> str:
    """Hash names, targets, parts, the sizes of all files and the contents of some, spread evenly.

    Published parts are trusted, so contents are not compared between them, and need not all be read.

    Args:
        names: of the samples.
        files: of each sample; of a folder its images count.
        targets: of each sample; None for maps.
        splits: of each sample.
        settings: whatever else changes what is read.

    Returns:
        Hexadecimal digits, the same on every machine.
    """
    step = max(1, len(files) // _READ_SAMPLES)
    seen = (*sizes_of(files), *contents_of(files[::step]))
    return fingerprint_of([*settings, *names], seen, targets, splits)


@dataclass(frozen=True, kw_only=True)
class FoundSample:
    """One sample: its images and what they show."""

    name: str
    """Of the sample, as lists of parts name it."""
    sources: tuple[RasterSource, ...]
    """Image of each slot."""
    labels: tuple[str, ...]
    """Its class, or its classes."""
    part: Split | None = None
    """Where the publisher says it."""
    place: str = ""
    """What it shows; empty: a place of its own."""
    datetime: dt.datetime | None = None
    """Time of the images, UTC; None: not known."""


@dataclass(frozen=True, kw_only=True)
class FoundSet:
    """What holds for all samples of a data set."""

    kind: TaskKind
    """`class` or `labels`."""
    classes: tuple[str, ...]
    """Names, in their order."""
    sensors: tuple[Sensor, ...]
    """Of the slots."""
    lists: ListSpec | None = None
    """Files that name the samples of each part; None: as the samples say, else drawn."""
    statistics: str | None = None
    """Name of the published normalisation."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know."""


def known_root(spec: DataSpec, *, wanted: str) -> Path:
    """Give the folder of a data set.

    Args:
        spec: with its `root`.
        wanted: what should stand in it, for messages.

    Raises:
        ManifestError: none is given, or it does not exist.
    """
    if spec.root is None:
        raise ManifestError(f"'{spec.source}' needs `root`, the folder that holds it. It wants: {wanted}")
    if not Path(spec.root).is_dir():
        raise ManifestError(f"'{spec.root}' is no folder; '{spec.source}' wants: {wanted}")
    return Path(spec.root)


def chosen_option(spec: DataSpec, name: str, allowed: Sequence[str]) -> str:
    """Give the value of an option; the first one allowed where it is not given.

    Raises:
        RecipeError: another value.
    """
    value = spec.options.get(name, allowed[0])
    if value not in allowed:
        raise RecipeError(
            f"option '{name}' of '{spec.source}' must be one of {', '.join(allowed)}, found '{value}'"
            f"{nearest_name(value, allowed)}"
        )
    return value


def check_options(spec: DataSpec, allowed: Sequence[str]) -> None:
    """Refuse options that a data set does not have.

    Raises:
        RecipeError: there is one.
    """
    for name in spec.options:
        if name not in allowed:
            raise RecipeError(
                f"'{spec.source}' has no option '{name}' (it has: {', '.join(allowed) or 'none'})"
                f"{nearest_name(name, allowed)}"
            )


def found_data(spec: DataSpec, samples: Sequence[FoundSample], about: FoundSet, *, seed: int) -> TaskData:
    """Make labelled data of what was found.

    Args:
        spec: as the user gave it.
        samples: all of them.
        about: what holds for them all.
        seed: of parts that nothing declares.

    Raises:
        ManifestError: a list names a sample that is not there, or two samples have one name.
        RecipeError: blocks, which are for maps.
        InputError: parts that can't be drawn.
    """
    if spec.split.blocks is not None:
        raise RecipeError(f"split.blocks are for maps of labels; '{spec.source}' has {about.kind}")
    _check_names(samples, spec)
    samples, notes = _listed(samples, spec, about.lists)
    targets = _targets(samples, about)
    places = tuple(one.place or one.name for one in samples) if any(one.place for one in samples) else ()
    names = tuple(one.name for one in samples)
    files = [tuple(path for source in one.sources for path in source.paths) for one in samples]
    parts = drawn_parts([one.part for one in samples], targets, spec.split, files=files, places=places, seed=seed)
    settings = [*(f"{one.name} {one.default_encoding} {' '.join(one.band_names)}" for one in about.sensors)]

    def read(position: int) -> Sample:
        return _read(samples[position], about.sensors)

    return TaskData(
        name=spec.source,
        kind=about.kind,
        classes=about.classes,
        names=names,
        splits=parts.splits,
        places=parts.places,
        sensors=(about.sensors,) * len(samples),
        targets=targets,
        read=read,
        fingerprint=quick_fingerprint(names, files, targets, parts.splits, settings=settings),
        contents=parts.contents,
        notes=(*about.notes, *notes, *parts.notes),
        statistics=about.statistics,
    )


def _check_names(samples: Sequence[FoundSample], spec: DataSpec) -> None:
    twice = [name for name, count in Counter(one.name for one in samples).items() if count > 1]
    if twice:
        raise ManifestError(f"'{spec.root}' has '{twice[0]}' more than once; a sample in two parts would leak")


def _listed(
    samples: Sequence[FoundSample], spec: DataSpec, lists: ListSpec | None
) -> tuple[list[FoundSample], tuple[str, ...]]:
    """Keep the samples that the lists name, with their parts, where there are lists."""
    if lists is None:
        return list(samples), ()
    names = [one.name for one in samples]
    absent = spec.options.get("absent", "refuse")
    listed = parts_from_lists(lists, names, source=spec.source, absent=absent)
    kept = [replace(one, part=part) for one, part in zip(samples, listed.parts, strict=True) if part is not None]
    return kept, listed.notes


def _targets(samples: Sequence[FoundSample], about: FoundSet) -> Targets:
    number = {name: index for index, name in enumerate(about.classes)}
    if about.kind == "class":
        return np.array([number[one.labels[0]] for one in samples], dtype=np.int64)
    present = np.zeros((len(samples), len(number)), dtype=bool)
    for row, one in enumerate(samples):
        present[row, [number[name] for name in one.labels]] = True
    return present


def _read(one: FoundSample, sensors: Sequence[Sensor]) -> Sample:
    # Late: data are listed without a raster library.
    from anyband.rasters.reader import open_raster

    images = []
    for source, sensor in zip(one.sources, sensors, strict=True):
        with open_raster(source, sensor) as reader:
            raster = reader.read()
            time = one.datetime or reader.datetime
        images.append(SampleImage(dn=raster.dn, valid=raster.valid, sensor=sensor, grid=raster.grid, datetime=time))
    return Sample(images=tuple(images))
