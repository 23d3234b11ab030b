"""Data whose labels are of whole images: from tables, class folders and published sets."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from anyband.data.manifest import entry_sensor, identity
from anyband.data.store import Split
from anyband.errors import InputError, ManifestError, RecipeError, agreed, counted
from anyband.labelled.samples import (
    MOST_READ,
    DataSpec,
    ListSpec,
    Sample,
    SampleImage,
    SplitSpec,
    Targets,
    TaskData,
    TaskKind,
    contents_of,
    fingerprint_of,
    options_of,
    quick_fingerprint,
    settings_of,
    state_of,
)
from anyband.labelled.splits import alike_names, complete_splits, fill_notes, numbers_apart, splits_from_lists
from anyband.labelled.tables import ListedSample, list_samples
from anyband.sensors.sensor import FILE_ENCODINGS, Sensor

__all__ = ["open_images", "published_data", "published_splits"]


def open_images(spec: DataSpec, *, seed: int, sensors: Mapping[str, Sensor] | None = None) -> TaskData:
    """Find samples with a class, labels or a number each; their images are read later.
    Splits are those declared; else those of the lists; else drawn by class and place. Where no sample is declared for
    validation it is drawn from training, in the share that `split.val` is of what `split.test` leaves.
    Options: `absent: leave_out` takes split lists that name samples which are not there; `contents: sizes` compares
    sizes of files and not contents, `contents: files` reads them however many there are.
    Raises:
        ManifestError: nothing is there, a row or list is wrong, a sensor is missing, or names are not distinct.
        InputError: samples with several labels of kind `class`, or classes too small for every split.
        RecipeError: an option that does not exist, or choices that do not go together.
    """
    options = options_of(spec, {"absent": ("refuse", "leave_out"), "contents": ("files", "sizes")})
    _check_spec(spec)
    listed: list[str] = []
    samples = list_samples(spec, sensors=sensors, notes=listed)
    _check_listed_once(samples, spec.source)
    classes, targets = _labels(samples, spec.kind, source=spec.source)
    samples = _named(samples, Path(spec.source))
    kept, splits, places, notes = _image_splits(samples, targets, classes, spec, options["absent"], seed=seed)
    if kept is not None:
        samples = [samples[index] for index in kept]
        targets = None if targets is None else targets[kept]
    files = [
        tuple(dict.fromkeys(path for each in one.images for path in (*each.source.paths, *each.source.valid_paths)))
        for one in samples
    ]
    compared = spec.options.get("contents", "files" if len(files) <= MOST_READ else "sizes") == "files"
    contents = contents_of(files, sizes_only=not compared)
    unlabelled = []
    if targets is not None and targets.ndim == 2 and not targets.any(axis=1).all():
        num = int((~targets.any(axis=1)).sum())
        unlabelled = [f"{num} of {counted(len(targets), 'sample')} {agreed(num, 'have')} no label"]
    if targets is not None and spec.kind == "number":
        notes = (*notes, *fill_notes([numbers_apart(targets)], what="sample", mend="leave the row out"))
    if not compared:
        notes = (*notes, "contents of files were not compared: one image may be in two splits under two names")
    sensors_of, metadata = _sensors_and_metadata(samples)
    names, said = tuple(one.name for one in samples), dict[str, tuple[str, ...]]()
    seen = [f"{content} {text}" for content, text in zip(contents, metadata, strict=True)]
    return TaskData(
        name=Path(spec.source).name,
        kind=spec.kind,
        classes=classes,
        names=names,
        splits=splits,
        places=places,
        sensors=sensors_of,
        targets=targets,
        read=lambda position: _read(samples[position], said),
        fingerprint=fingerprint_of(names, seen, targets, splits, classes=classes),
        contents=contents if compared else (),
        state=state_of(files),
        notes=(*listed, *alike_names(classes), *unlabelled, *notes),
        said=said,
    )


def _check_spec(spec: DataSpec) -> None:
    if spec.split.blocks is not None:
        raise RecipeError(f"split.blocks are for maps of labels; data.kind is '{spec.kind}'")
    of_maps = {"classes": spec.classes, "ignore": spec.ignore, "tile_px": spec.tile_px}
    for key in (key for key, given in of_maps.items() if given):
        raise RecipeError(f"data.{key} is for maps of labels; data.kind is '{spec.kind}': leave it out")
    for field, given, column in (("bands", spec.bands, "bands"), ("encodings", spec.encodings, "encoding")):
        if given and not spec.sensors:
            raise RecipeError(
                f"data.{field} are of images of data.sensors, which are not named; name the sensors too, or where "
                f"each image has its own, name them in the table's column `{column}`"
            )
        if given and len(given) != len(spec.sensors):
            raise RecipeError(
                f"data.{field} has {counted(len(given), 'entry')}, data.sensors has {len(spec.sensors)}; give "
                "one for each sensor, or none"
            )


def _check_listed_once(samples: Sequence[ListedSample], name: str) -> None:
    """Refuse an image that is listed twice, also by another way to it. Sensors may share a folder of bands."""
    seen: dict[bytes, tuple[int, Path]] = {}
    for number, entry in ((number, entry) for number, one in enumerate(samples) for entry in one.images):
        key = identity(entry)
        if key in seen:
            first, path = seen[key][1], entry.source.paths[0]
            also = f", also as '{path}'" if path != first else ""
            reason = (
                "an image in two places would leak from one split into another"
                if seen[key][0] != number
                else "an image stands in a set once"
            )
            raise ManifestError(f"'{name}' lists '{first}' more than once{also}; {reason}")
        seen[key] = number, entry.source.paths[0]


def _labels(
    samples: Sequence[ListedSample], kind: TaskKind, *, source: str, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Targets]:
    """Number the classes, in alphabetic order where none are given; give their names and the target of each sample."""
    if kind == "number":
        return (), np.array([one.label for one in samples], dtype=np.float64)
    labels = [one.label if isinstance(one.label, tuple) else () for one in samples]
    known = tuple(sorted({name for names in labels for name in names}) if classes is None else classes)
    if not known:
        raise ManifestError(f"'{source}' has no labels")
    wrong = [index for index, names in enumerate(labels) if len(set(names)) != 1]
    if kind == "class" and wrong:
        raise InputError(
            f"{counted(len(wrong), 'sample')} of '{source}' {agreed(len(wrong), 'have')} no label or several, "
            f"the first is '{samples[wrong[0]].images[0].source.paths[0]}'; say `data.kind=labels` (`--multi-label`), "
            "or give every sample one label"
        )
    number = {name: index for index, name in enumerate(known)}
    if kind == "class":
        return known, np.array([number[names[0]] for names in labels], dtype=np.int64)
    present = np.zeros((len(labels), len(known)), dtype=bool)
    for row, names in enumerate(labels):
        present[row, [number[name] for name in names]] = True
    return known, present


def _named(samples: Sequence[ListedSample], source: Path) -> list[ListedSample]:
    """Name samples by their sets, else by their paths from the source's folder."""
    paths = [str(one.images[0].source.paths[0]) for one in samples]
    base = str(source if source.is_dir() else source.parent) + os.sep
    base = "" if base == f".{os.sep}" else base
    if not all(path.startswith(base) and not path.startswith(os.sep, len(base)) for path in paths):
        base = os.path.commonpath([os.path.dirname(path) for path in paths]) + os.sep  # noqa: PTH120 (half a million)
    names = [one.name or path[len(base) :].replace(os.sep, "/") for one, path in zip(samples, paths, strict=True)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(
            f"{counted(len(twice), 'name')} in '{source}' {agreed(len(twice), 'are')} of several samples, such "
            f"as '{twice[0]}'; give sets names of their own"
        )
    return [replace(one, name=name) for one, name in zip(samples, names, strict=True)]


def _image_splits(
    samples: Sequence[ListedSample],
    targets: Targets,
    classes: Sequence[str],
    spec: DataSpec,
    absent: str,
    *,
    seed: int,
) -> tuple[list[int] | None, tuple[Split, ...], tuple[str, ...], tuple[str, ...]]:
    """Find or draw the splits: positions of the samples that are in one (None: all), splits, places, and notes."""
    kept: list[int] | None = None
    notes: tuple[str, ...] = ()
    declared = [one.split for one in samples]
    if spec.split.lists is not None:
        if any(declared):
            raise ManifestError(
                f"'{spec.source}' declares splits itself, and `split.lists` names lists of them; leave one out"
            )
        names = [one.name for one in samples]
        listed, notes = splits_from_lists(spec.split.lists, names, source=spec.source, absent=absent)
        kept = [index for index, split in enumerate(listed) if split is not None]
        samples, declared = [samples[index] for index in kept], [listed[index] for index in kept]
        targets = None if targets is None else targets[kept]
    places = tuple(one.place or one.name for one in samples) if any(one.place for one in samples) else ()
    split_of: dict[str, Split] = {}
    for place, split in zip(places, declared, strict=False):
        if split is not None and split_of.setdefault(place, split) != split:
            raise ManifestError(
                f"'{spec.source}' has images of place '{place}' in '{split_of[place]}' and in '{split}'; images of one "
                "place would leak from one split into another: declare one split for each place"
            )
    labels = None if targets is None or targets.dtype.kind == "f" else targets
    splits, drawn = complete_splits(declared, labels, spec.split, places=places, seed=seed, classes=classes)
    return kept, splits, places, (*notes, *drawn)


def _sensors_and_metadata(samples: Sequence[ListedSample]) -> tuple[tuple[tuple[Sensor, ...], ...], list[str]]:
    """Give the sensors of each sample as stored, and a text of what decides how its images are read, without paths.
    Equal sensors are one object, for half a million images have few."""
    stored: dict[object, Sensor] = {}
    hashes: dict[object, str] = {}
    one_of: dict[Sensor, Sensor] = {}
    sensors, metadata = [], []
    for one in samples:
        of_sample, texts = [], []
        for entry in one.images:
            source = entry.source
            how = (source.bands, source.time_index, source.time, source.nodata, source.valid_values)
            # Images of rows that say the same share these objects, and they live as long as the images do.
            where = source.paths if source.encoding in FILE_ENCODINGS else ()
            key = id(entry.sensor), id(entry.encoding), source.encoding, how, source.valid_variable, where
            if key not in stored:
                found = entry_sensor(entry)
                stored[key] = one_of.setdefault(found, found)
                text = repr((entry.sensor.name, entry.sensor.band_names, entry.encoding, how, source.valid_variable))
                hashes[key] = blake2b(text.encode(), digest_size=8).hexdigest()
            of_sample.append(stored[key])
            texts.append(f"{hashes[key]} {entry.datetime}")
        sensors.append(tuple(of_sample))
        metadata.append(" ".join(texts))
    return tuple(sensors), metadata


def _read(sample: ListedSample, said: dict[str, tuple[str, ...]]) -> Sample:
    """Read the images of a sample, and keep what is said of their files."""
    # Late: data are listed without a raster library.
    from anyband.rasters.reader import open_raster

    images = []
    for entry in sample.images:
        with open_raster(entry.source, entry.sensor, entry.encoding) as reader:
            raster, time = reader.read(), entry.datetime or reader.datetime
            said |= {entry.name: reader.notes} if reader.notes else {}
        images.append(
            SampleImage(dn=raster.dn, valid=raster.valid, sensor=entry_sensor(entry), grid=raster.grid, datetime=time)
        )
    return Sample(images=tuple(images))


def published_data(
    spec: DataSpec,
    samples: Sequence[ListedSample],
    *,
    kind: TaskKind,
    classes: Sequence[str],
    sensors: tuple[Sensor, ...],
    lists: ListSpec | None,
    statistics: str | None = None,
    notes: Sequence[str] = (),
    seed: int,
) -> TaskData:
    """Make data of the samples that were found in the folders of a published set of whole images. Splits are those of
    `lists`, else the samples', else drawn."""
    if spec.split.blocks is not None:
        raise RecipeError(f"split.blocks are for maps of labels; '{spec.source}' has {kind}")
    twice = [name for name, count in Counter(one.name for one in samples).items() if count > 1]
    if twice:
        raise ManifestError(f"'{spec.root}' has '{twice[0]}' more than once; a sample in two splits would leak")
    listed: tuple[str, ...] = ()
    if lists is not None:
        absent = spec.options.get("absent", "refuse")
        called, others = zip(*((one.name, _other_names(one, Path(spec.root or "."))) for one in samples), strict=True)
        splits, listed = splits_from_lists(lists, called, source=spec.source, absent=absent, files=others)
        samples = [replace(one, split=split) for one, split in zip(samples, splits, strict=True) if split is not None]
    _, targets = _labels(samples, kind, source=spec.source, classes=classes)
    places = tuple(one.place or one.name for one in samples) if any(one.place for one in samples) else ()
    names, said = tuple(one.name for one in samples), dict[str, tuple[str, ...]]()
    files = [tuple(path for entry in one.images for path in entry.source.paths) for one in samples]
    declared = [one.split for one in samples]
    splits, places, contents, drawn = published_splits(
        declared, targets, spec.split, files=files, places=places, seed=seed, classes=classes
    )
    return TaskData(
        name=spec.source,
        kind=kind,
        classes=tuple(classes),
        names=names,
        splits=splits,
        places=places,
        sensors=(sensors,) * len(samples),
        targets=targets,
        read=lambda position: _read(samples[position], said),
        fingerprint=quick_fingerprint(names, files, targets, splits, settings=settings_of(sensors)),
        state=state_of(files),
        contents=contents,
        notes=(*notes, *listed, *drawn),
        said=said,
        statistics=statistics,
    )


def _other_names(sample: ListedSample, root: Path) -> list[str]:
    """List the files of a sample that are called otherwise: a Sentinel-1 patch, a picture."""
    paths = [path for entry in sample.images for path in entry.source.paths if path.stem != sample.name]
    return [path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root)]


def published_splits(
    declared: Sequence[Split | None],
    targets: Targets,
    shares: SplitSpec,
    *,
    files: Sequence[Sequence[Path]],
    places: Sequence[str] = (),
    seed: int,
    classes: Sequence[str] = (),
) -> tuple[tuple[Split, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Complete the splits of a published set; gives splits, places, contents where splits were drawn, and notes.
    Labels, numbers and maps are drawn without regard to them. Samples of one place, and samples with equal files under
    two names, stay together. Declared splits are the publisher's: they stay; between them nothing is compared."""
    contents: tuple[str, ...] = ()
    if None in declared and all(files) and len(files) <= MOST_READ:
        contents = contents_of(files)
    repeated = len(contents) - len(set(contents))
    shown = tuple(places) or (contents if repeated else ())
    is_class = targets is not None and targets.ndim == 1 and targets.dtype.kind == "i"
    labels = targets if is_class else np.zeros((len(declared), 1), dtype=bool)
    splits, notes = complete_splits(declared, labels, shares, places=shown, seed=seed, classes=classes)
    if repeated:
        kept = "they are kept in its split" if repeated > 1 else "it is kept in its split"
        notes = (*notes, f"{counted(repeated, 'sample', 'have')} the files of another one; {kept}")
    return splits, shown, contents, notes
