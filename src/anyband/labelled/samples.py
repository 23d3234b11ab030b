"""Labelled samples: the one type that every protocol sees, what is said of them, and hashes of their contents."""

import datetime as dt
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num, Shaped
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError, ManifestError, RecipeError, counted, nearest_name
from anyband.progress import progress
from anyband.rasters.grid import Grid
from anyband.sensors.catalogue import find_bands, get_sensor
from anyband.sensors.sensor import Sensor, encoded

__all__ = [
    "DENSE_KINDS",
    "IMAGE_ENDINGS",
    "MOST_READ",
    "ONLY_BAND",
    "PARTIAL",
    "BlockSpec",
    "DataSpec",
    "ListSpec",
    "Sample",
    "SampleImage",
    "SplitSpec",
    "Targets",
    "TaskData",
    "TaskKind",
    "content_hash",
    "contents_of",
    "declared_slots",
    "fingerprint_of",
    "keep_samples",
    "known_root",
    "options_of",
    "quick_fingerprint",
    "settings_of",
    "state_of",
    "without_band",
]

TaskKind = Literal["class", "labels", "number", "class_map", "number_map"]
"""What is predicted: one class, several labels or a number for a sample; a class or a number for each pixel."""

DENSE_KINDS: tuple[TaskKind, ...] = ("class_map", "number_map")
"""Kinds whose target is a raster."""

Targets = Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"] | None
"""Class numbers, which labels hold, or numbers; None for maps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleImage:
    """One image of a sample, as stored."""

    dn: Num[Array, "band row col"]
    valid: Bool[Array, "band row col"]
    sensor: Sensor
    """With the bands of `dn` in their order; its default encoding is that of the numbers."""
    grid: Grid | None = None
    """None: not known."""
    datetime: dt.datetime | None = None
    """UTC; None: not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The pixels of one sample."""

    images: tuple[SampleImage, ...]
    """One for each slot: a sensor, a date, or both."""
    class_map: Int[Array, "row col"] | None = None
    """Classes on the first image; −1: none, or not of this split. None: the target is no map of classes."""
    number_map: Float[Array, "row col"] | None = None
    """Numbers on the first image; NaN: none. None: the target is no map of numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskData:
    """Labelled samples in a fixed order. Nothing is read before `read`."""

    name: str
    kind: TaskKind
    classes: tuple[str, ...] = ()
    """A class's number is its position; empty for kinds without classes."""
    names: tuple[str, ...]
    """For messages, pictures and pairing; no two are equal."""
    splits: tuple[Split, ...]
    places: tuple[str, ...] = ()
    """Ground that each sample shows; empty: each has its own."""
    sensors: tuple[tuple[Sensor, ...], ...]
    """By sample and slot, as `read` will give them."""
    targets: Targets = None
    read: Callable[[int], Sample]
    fingerprint: str
    """Hash of names, contents, labels and splits; equal data give equal fingerprints on every machine."""
    contents: tuple[str, ...] = ()
    """Hash of each sample's files, to find one in two splits; empty: unknown. Samples of one place may share files."""
    regions: Callable[[int], Int[Array, "row col"]] | None = None
    """Numbers the pieces of ground of a sample's pixels, the same on all dates of a place; None: each place is one.
    Scores of a test are resampled by them.
    """
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""
    said: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What files say that should be known, by their names; filled as samples are read."""
    state: str = ""
    """Hash of sizes and times of change of the files, by which features are kept on this machine; empty: unknown."""
    statistics: str | None = None
    """Name of the published normalisation in `evaluation_sets`; None: none is published."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_samples(self) -> dict[Split, int]:
        return {split: self.splits.count(split) for split in SPLITS}

    def split(self, name: Split) -> Int[Array, " sample"]:
        """Give the positions of the samples of a split."""
        return np.array([index for index, one in enumerate(self.splits) if one == name], dtype=np.int64)

    def take(self, samples: Sequence[int] | Int[Array, " sample"], *, fingerprint: str) -> "TaskData":
        """Keep the samples at some positions, in their order; all classes stay. `fingerprint` is that of the result."""
        kept = [int(sample) for sample in samples]
        read, regions = self.read, self.regions
        return replace(
            self,
            names=tuple(self.names[index] for index in kept),
            splits=tuple(self.splits[index] for index in kept),
            places=tuple(self.places[index] for index in kept) if self.places else (),
            sensors=tuple(self.sensors[index] for index in kept),
            targets=None if self.targets is None else self.targets[kept],
            contents=tuple(self.contents[index] for index in kept) if self.contents else (),
            read=lambda index: read(kept[index]),
            regions=None if regions is None else lambda index: regions(kept[index]),
            fingerprint=fingerprint,
        )


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """Splits as squares of ground inside each image, for data of few places."""

    size_px: int
    """Edge, in pixels of the first image."""
    buffer_px: int = 0
    """Labels of training (and validation) pixels so near to a block of another split are left out."""


@dataclass(frozen=True, kw_only=True)
class ListSpec:
    """Files that list the samples of each split: a path or file name a line, or as the first column of a CSV; or the
    two images of a pair a line."""

    train: str | None = None
    """None: no sample, for what fits nothing."""
    val: str | None = None
    """None: drawn from training."""
    test: str
    fraction: float = 1.0
    """Share of the listed training samples whose labels are used, instead of `split.fraction`."""


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How samples come into train, val and test, where the data do not declare it."""

    val: float = 0.1
    """Share of the samples."""
    test: float = 0.2
    """Share of the samples."""
    lists: ListSpec | None = None
    blocks: BlockSpec | None = None
    """For maps."""
    fraction: float = 1.0
    """Share of the training samples whose labels are used, drawn by class; not of those that `lists` name."""
    per_class: int | None = None
    """So many training samples of each class instead; None: by `fraction`."""


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which labelled data, and how they are read."""

    source: str
    """A folder, a table (CSV, Parquet, GeoParquet), `torchgeo:NAME`, or the name of a published set."""
    root: str | None = None
    """Folder of a data set that `source` names."""
    kind: TaskKind = "class"
    sensors: tuple[str, ...] = ()
    """Of each slot, where the data do not say it; catalogue names or YAML files."""
    bands: tuple[tuple[str, ...], ...] = ()
    """Of each slot, in the order of the files; empty: all of the sensor's."""
    encodings: tuple[str, ...] = ()
    """Of each slot; empty: the sensors' defaults."""
    classes: dict[int, str] = field(default_factory=dict)
    """Name of each value of label rasters; empty: the values that occur in training."""
    ignore: tuple[int, ...] = ()
    """Values of label rasters that are no class."""
    label_column: str | None = None
    """Column of polygons that holds the class or number; None: `label` or `class`."""
    tile_px: int | None = None
    """Images larger than this are cut into squares of this edge, each a sample; None: whole images."""
    split: SplitSpec = field(default_factory=SplitSpec)
    options: dict[str, str] = field(default_factory=dict)
    """Arguments of a named data set, such as `num_classes: "19"`."""


def known_root(spec: DataSpec, *, wanted: str) -> Path:
    """Give the folder of a data set; `ManifestError`, with what is `wanted` in it, where it does not exist."""
    if spec.root is None:
        raise ManifestError(f"'{spec.source}' needs `root`, the folder that holds it. It wants: {wanted}")
    if not Path(spec.root).is_dir():
        raise ManifestError(f"'{spec.root}' is no folder; '{spec.source}' wants: {wanted}")
    return Path(spec.root)


def options_of(spec: DataSpec, known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Give the value of each option of a data set: the first of its `known` values where it is not given. An option
    without known values takes any. `RecipeError` for another option or value."""
    for name in spec.options:
        if name not in known:
            raise RecipeError(
                f"'{spec.source}' has no option '{name}' (it has: {', '.join(known) or 'none'})"
                f"{nearest_name(name, known)}"
            )
    values = {name: allowed[0] for name, allowed in known.items() if allowed} | spec.options
    for name, value in values.items():
        if known[name] and value not in known[name]:
            raise RecipeError(
                f"option '{name}' of '{spec.source}' must be one of {', '.join(known[name])}, found '{value}'"
                f"{nearest_name(value, known[name])}"
            )
    return values


def declared_slots(found: Sequence[Sensor], spec: DataSpec, *, name: str) -> tuple[Sensor, ...]:
    """Take the sensors of the slots as a user declares them, or as `found` in the data set (empty: it doesn't say)."""
    sensors = tuple(get_sensor(one) for one in spec.sensors) or tuple(found)
    if not sensors:
        raise ManifestError(f"'{name}' does not say which sensors took its images; declare them in `data.sensors`")
    if found and len(found) != len(sensors):
        raise ManifestError(
            f"'{name}' has {counted(len(found), 'image')} a sample, but `data.sensors` declares {len(sensors)}"
        )
    for what, given in (("bands", spec.bands), ("encodings", spec.encodings)):
        if given and len(given) != len(sensors):
            raise ManifestError(
                f"'{name}' has {counted(len(sensors), 'image')} a sample, but `{what}` is given for {len(given)}"
            )
    if spec.bands:
        sensors = tuple(find_bands(bands, one) for bands, one in zip(spec.bands, sensors, strict=True))
    if spec.encodings:
        sensors = tuple(encoded(one, as_) for one, as_ in zip(sensors, spec.encodings, strict=True))
    return sensors


# chosen: a small part of any machine's memory that holds the data sets which are read again most often, the small ones.
_MOST_BYTES = 256 * 2**20


def keep_samples(read: Callable[[int], Sample], *, most_bytes: int = _MOST_BYTES) -> Callable[[int], Sample]:
    """Make a reader that keeps what it read first, up to a size; what comes later is read each time. Nothing is given
    up for later samples: passes over all samples in turn would find none of them again. Callers get copies. Threads may
    share it."""
    kept: dict[int, Sample] = {}
    lock = threading.Lock()
    used = 0

    def again(position: int) -> Sample:
        nonlocal used
        found = kept.get(position) or read(position)
        maps = {name: one for name in ("class_map", "number_map") if (one := getattr(found, name)) is not None}
        if position not in kept:
            size = sum(image.dn.nbytes + image.valid.nbytes for image in found.images)
            size += sum(one.nbytes for one in maps.values())
            with lock:
                if position in kept or used + size > most_bytes:
                    return found
                kept[position], used = found, used + size
        images = tuple(replace(image, dn=image.dn.copy(), valid=image.valid.copy()) for image in found.images)
        return replace(found, images=images, **{name: one.copy() for name, one in maps.items()})

    return again


IMAGE_ENDINGS = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".nc", ".h5", ".img")
"""Of the files in folders that are images."""

PARTIAL = "~"
"""A content hash starts with it where files were not read whole; equal ones need a second look."""

MOST_READ = 200_000
"""Contents of more samples are not compared. chosen: to read so many takes minutes."""

# chosen: files up to here cost about as much to open as to read.
_WHOLE_BYTES = 1 << 20
# chosen: three pieces of a large file, each well over its header.
_PIECE_BYTES = 1 << 16
# chosen: waiting for disks, not computing.
_NUM_THREADS = 8
# chosen: fewer are hashed within two seconds, and need no bar.
_SHOWN_FROM = 2000
_CHUNK = 256
# chosen: enough to notice another version of published images; reading all would cost as much as using them.
_READ_SAMPLES = 64


def content_hash(paths: Sequence[Path], *, sizes_only: bool = False) -> str:
    """Hash the files of a sample, in order and without names; of a folder its images count, in order of name. Of files
    beyond 1 MB the size and three pieces are hashed, and the hash starts with `PARTIAL`. `sizes_only` lists the sizes
    instead. Raises `ManifestError` where a file can't be read."""
    files: list[Path] = []
    for path in paths:
        inside = (one for one in path.iterdir() if one.suffix.lower() in IMAGE_ENDINGS) if path.is_dir() else None
        files += [path] if inside is None else sorted(one for one in inside if one.is_file())
    if sizes_only:
        return ",".join(str(path.stat().st_size) for path in files)
    state, is_partial = blake2b(digest_size=16), False
    for path in files:
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                state.update(size.to_bytes(8, "little"))
                is_whole = size <= _WHOLE_BYTES
                for start in (0,) if is_whole else (0, (size - _PIECE_BYTES) // 2, size - _PIECE_BYTES):
                    file.seek(start)
                    state.update(file.read(size if is_whole else _PIECE_BYTES))
                is_partial |= not is_whole
        except OSError as problem:
            raise ManifestError(f"cannot read '{path}': {problem.strerror or problem}") from problem
    return (PARTIAL if is_partial else "") + state.hexdigest()


def contents_of(samples: Sequence[Sequence[Path]], *, sizes_only: bool = False) -> tuple[str, ...]:
    """Hash the files of many samples, by threads, or list their sizes; a bar is shown where it takes long."""
    chunks = [samples[first : first + _CHUNK] for first in range(0, len(samples), _CHUNK)]
    found: list[str] = []
    title = "sizes of files" if sizes_only else "compare contents"
    with (
        ThreadPoolExecutor(_NUM_THREADS) as pool,
        progress(title, len(samples), shown=len(samples) > _SHOWN_FROM) as advance,
    ):
        for done in pool.map(lambda chunk: [content_hash(one, sizes_only=sizes_only) for one in chunk], chunks):
            found += done
            advance(len(done))
    return tuple(found)


# What beside an image says more of it: masks, and "no data".
_BESIDE = (".msk", ".aux.xml")


def state_of(samples: Iterable[Sequence[Path]]) -> str:
    """Hash sizes and times of change of files, of those in folders, and of those beside them that say more of them.
    Nothing is read, so this sees changes of large files, too, which a hash of their contents passes over."""
    state, names = blake2b(digest_size=16), dict[Path, list[str]]()
    for path in (path for paths in samples for path in paths):
        is_folder = path.is_dir()
        folder = path if is_folder else path.parent
        if folder not in names:
            names[folder] = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208 (names are enough)
        wanted = names[folder] if is_folder else [path.name, *(path.name + ending for ending in _BESIDE)]
        for found in (folder / name for name in wanted if is_folder or (folder / name).exists()):
            known = found.stat()
            state.update(f"{found.name}\0{known.st_size} {known.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return state.hexdigest()


def fingerprint_of(
    names: Sequence[str],
    contents: Sequence[str],
    labels: Shaped[Array, "sample ..."] | Sequence[object] | None,
    splits: Sequence[str],
    *,
    classes: Sequence[str] = (),
) -> str:
    """Hash everything that makes data what they are; equal data give equal fingerprints on every machine. `contents`
    are hashes; empty: unknown. `labels` are numbers, or print alike where they are equal; None: they are part of the
    contents."""
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


def settings_of(sensors: Sequence[Sensor]) -> list[str]:
    """Say of each sensor what changes how a published data set is read."""
    return [f"{one.name} {one.default_encoding} {' '.join(one.band_names)}" for one in sensors]


def quick_fingerprint(
    names: Sequence[str],
    files: Sequence[Sequence[Path]],
    targets: Targets,
    splits: Sequence[Split],
    *,
    settings: Sequence[str],
) -> str:
    """Hash names, targets, splits, settings, the sizes of all files and the contents of some, spread evenly. Published
    splits are trusted, so contents are not compared between them, and need not all be read."""
    step = max(1, len(files) // _READ_SAMPLES)
    seen = (*contents_of(files, sizes_only=True), *contents_of(files[::step]))
    return fingerprint_of([*settings, *names], seen, targets, splits)


ONLY_BAND = "'{}' has no other band than '{}'; without it there is no image"


def without_band(data: TaskData, sensor: str, band: str) -> TaskData:
    """Leave a band out of all images of a sensor; everything else stays. An only band is an `InputError`."""

    def reduced(position: int) -> Sample:
        sample, images = data.read(position), []
        for image in sample.images:
            smaller = _without(image.sensor, sensor, band)
            kept = [image.sensor.band_index(one) for one in smaller.band_names]
            images.append(replace(image, dn=image.dn[kept], valid=image.valid[kept], sensor=smaller))
        return replace(sample, images=tuple(images))

    left = tuple(tuple(_without(one, sensor, band) for one in slots) for slots in data.sensors)
    return replace(data, sensors=left, read=reduced, fingerprint=f"{data.fingerprint} without {sensor}/{band}")


def _without(sensor: Sensor, name: str, band: str) -> Sensor:
    if sensor.name != name or band not in sensor.band_names:
        return sensor
    kept = [one for one in sensor.band_names if one != band]
    if not kept:
        raise InputError(ONLY_BAND.format(name, band))
    return sensor.select(kept)
