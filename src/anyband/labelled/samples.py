"""Labelled samples: the one record that every protocol sees."""

import datetime as dt
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.store import SPLITS, Split
from anyband.errors import InputError
from anyband.rasters.grid import Grid
from anyband.sensors.sensor import Sensor

__all__ = [
    "DENSE_KINDS",
    "BlockSpec",
    "DataSpec",
    "ListSpec",
    "Sample",
    "SampleImage",
    "SplitSpec",
    "TaskData",
    "TaskKind",
    "keep_samples",
]

TaskKind = Literal["class", "labels", "number", "class_map", "number_map"]
"""What is predicted: one class, several labels or a number for a sample; a class or a number for each pixel."""

DENSE_KINDS: tuple[TaskKind, ...] = ("class_map", "number_map")
"""Kinds whose target is a raster."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleImage:
    """One image of a sample, as stored."""

    dn: Num[Array, "band row col"]
    """Stored numbers."""
    valid: Bool[Array, "band row col"]
    """Which pixels have data."""
    sensor: Sensor
    """With the bands of the array in their order; its default encoding is that of the numbers."""
    grid: Grid | None = None
    """Where the pixels lie; None: not known."""
    datetime: dt.datetime | None = None
    """Time of acquisition, UTC; None: not known."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The pixels of one sample."""

    images: tuple[SampleImage, ...]
    """One for each slot: a sensor, a date, or both."""
    class_map: Int[Array, "row col"] | None = None
    """Class of each pixel of the first image; −1: none, or not of this part. None: the target is no map of classes."""
    number_map: Float[Array, "row col"] | None = None
    """Number of each pixel of the first image; NaN: none. None: the target is no map of numbers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskData:
    """Labelled samples in a fixed order. Nothing is read before `read`."""

    name: str
    """For people."""
    kind: TaskKind
    """What is predicted."""
    classes: tuple[str, ...] = ()
    """Names of the classes, of kinds with classes; a class's number is its position."""
    names: tuple[str, ...]
    """Name of each sample, for messages, pictures and pairing; no two are equal."""
    splits: tuple[Split, ...]
    """Part of each sample."""
    places: tuple[str, ...] = ()
    """Place that each sample shows; empty: each has its own."""
    sensors: tuple[tuple[Sensor, ...], ...]
    """Sensors of the images of each sample, by slot, as `read` will give them."""
    targets: Int[Array, "sample"] | Bool[Array, "sample class"] | Float[Array, "sample"] | None = None
    """Class numbers, which labels hold, or numbers; None for maps."""
    read: Callable[[int], Sample]
    """Reads the sample at a position."""
    fingerprint: str
    """Hash of names, contents, labels and parts; equal data give equal fingerprints on every machine."""
    contents: tuple[str, ...] = ()
    """Hash of each sample's files, to find one in two parts; empty: unknown. Samples that may share files (blocks of
    one image) have the same place and are not compared."""
    regions: Callable[[int], Int[Array, "row col"]] | None = None
    """Numbers the pieces of ground that the pixels of a sample lie in, the same on all dates of a place; None: each
    place is one. Scores of a test are resampled by them."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""
    statistics: str | None = None
    """Name of the published normalisation in `evaluation_sets`; None: none is published."""

    def __post_init__(self) -> None:
        counts = {len(self.names), len(self.splits), len(self.sensors)}
        counts |= {len(one) for one in (self.places, self.contents) if one}
        if self.targets is not None:
            counts.add(len(self.targets))
        if len(counts) != 1:
            raise InputError(
                f"'{self.name}' names {sorted(counts)} samples in its fields; each needs one entry a sample"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def is_dense(self) -> bool:
        """Whether the target is a raster."""
        return self.kind in DENSE_KINDS

    @property
    def num_samples(self) -> dict[Split, int]:
        """Number of samples of each part."""
        return {part: self.splits.count(part) for part in SPLITS}

    def part(self, name: Split) -> Int[Array, " sample"]:
        """Give the positions of the samples of a part."""
        return np.array([index for index, one in enumerate(self.splits) if one == name], dtype=np.int64)

    def take(self, samples: Sequence[int] | Int[Array, " sample"], *, fingerprint: str) -> "TaskData":
        """Keep some samples, in the order given; all classes stay.

        Args:
            samples: positions.
            fingerprint: of what is kept.
        """
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
    """Parts as squares of ground inside each image, for data of few places."""

    size_px: int
    """Edge of a block, pixels of the first image."""
    buffer_px: int = 0
    """Labels of training (and validation) pixels so near to a block of another part are left out."""


@dataclass(frozen=True, kw_only=True)
class ListSpec:
    """Files that list the samples of each part: a path or file name a line, or as the first column of a CSV."""

    train: str
    """Of the training samples."""
    val: str | None = None
    """Of the validation samples; None: drawn from training."""
    test: str
    """Of the test samples."""


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How samples come into train, val and test, where the data do not declare it."""

    val: float = 0.1
    """Share of validation."""
    test: float = 0.2
    """Share of test."""
    lists: ListSpec | None = None
    """Files that list them."""
    blocks: BlockSpec | None = None
    """Squares of ground, for maps."""
    fraction: float = 1.0
    """Share of the training samples whose labels are used, drawn by class."""
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
    """What is predicted."""
    sensors: tuple[str, ...] = ()
    """Sensor of each slot, where the data do not say it; catalogue names or YAML files."""
    bands: tuple[tuple[str, ...], ...] = ()
    """Bands of each slot, in the order of the files; empty: all of the sensor's."""
    encodings: tuple[str, ...] = ()
    """How the numbers of each slot are stored; empty: the sensors' defaults."""
    classes: dict[int, str] = field(default_factory=dict)
    """Name of each value of label rasters; empty: the values that occur in training."""
    ignore: tuple[int, ...] = ()
    """Values of label rasters that are no class."""
    label_column: str | None = None
    """Column of polygons that holds the class or number; None: `label` or `class`."""
    tile_px: int | None = None
    """Images larger than this are cut into squares of this edge, each a sample; None: whole images."""
    split: SplitSpec = field(default_factory=SplitSpec)
    """How samples come into parts."""
    options: dict[str, str] = field(default_factory=dict)
    """Arguments of a named data set, such as `num_classes: "19"`."""


# chosen: a small part of any machine's memory that holds the data sets which are read again most often, the small ones.
_MOST_BYTES = 256 * 2**20


def keep_samples(read: Callable[[int], Sample], *, most_bytes: int = _MOST_BYTES) -> Callable[[int], Sample]:
    """Make a reader that keeps what it read first, up to a size; what comes later is read each time.

    Nothing is given up for later samples: whoever passes over all samples in turn would find none of them again.
    Callers get copies, so that what they change stays theirs. Threads may share it.

    Args:
        read: gives the sample at a position.
        most_bytes: of all that is kept.
    """
    kept: dict[int, Sample] = {}
    lock = threading.Lock()
    used = 0

    def again(position: int) -> Sample:
        nonlocal used
        found = kept.get(position)
        if found is not None:
            return _copied(found)
        sample = read(position)
        size = _num_bytes(sample)
        with lock:
            if position not in kept and used + size <= most_bytes:
                kept[position] = _copied(sample)
                used += size
        return sample

    return again


def _num_bytes(sample: Sample) -> int:
    maps = [one for one in (sample.class_map, sample.number_map) if one is not None]
    return sum(one.nbytes for one in maps) + sum(image.dn.nbytes + image.valid.nbytes for image in sample.images)


def _copied(sample: Sample) -> Sample:
    return replace(
        sample,
        images=tuple(replace(image, dn=image.dn.copy(), valid=image.valid.copy()) for image in sample.images),
        class_map=None if sample.class_map is None else sample.class_map.copy(),
        number_map=None if sample.number_map is None else sample.number_map.copy(),
    )
