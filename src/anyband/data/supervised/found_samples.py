"""Samples that a reader of a published data set found in its folder, made into labelled data."""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyband.data.chip_index import Split
from anyband.data.rasters.records import RasterSource
from anyband.data.supervised.named_sets import Targets, drawn_parts, quick_fingerprint
from anyband.data.supervised.records import DataSpec, ListSpec, Sample, SampleImage, TaskData, TaskKind
from anyband.data.supervised.split_lists import parts_from_lists
from anyband.errors import ManifestError, RecipeError, nearest_name
from anyband.sensors.sensor import Sensor

__all__ = ["FoundSample", "FoundSet", "check_options", "chosen_option", "found_data", "known_root"]


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
    from anyband.data.rasters.reader import open_raster

    images = []
    for source, sensor in zip(one.sources, sensors, strict=True):
        with open_raster(source, sensor) as reader:
            raster = reader.read()
            time = one.datetime or reader.datetime
        images.append(SampleImage(dn=raster.dn, valid=raster.valid, sensor=sensor, grid=raster.grid, datetime=time))
    return Sample(images=tuple(images))
