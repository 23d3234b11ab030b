"""Rasters of a manifest become a chip store."""

import json
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from anyband.data.chip_index import SPLITS, ChipRecord, chips_of
from anyband.data.cutting import CutTask, ImageSurvey, SpooledChip, Storage, cut_image, storage_of, survey_image
from anyband.data.ledger import (
    PlacedImages,
    Surveys,
    Workspace,
    open_workspace,
    remove_leftover,
    run_pieces,
    survey_key,
    worker_pool,
)
from anyband.data.manifest import ImageEntry, is_future, repeated_images
from anyband.data.places import Place, find_places, footprint, off_globe, split_of
from anyband.data.store import STORE_VERSION, ArraySpec, ChipStore
from anyband.data.store_writer import ShardDone, StoreHeader, StoreWriter, large_blocks_returned
from anyband.errors import InputError, ManifestError, OutputError, RasterError, StoreError
from anyband.progress import progress
from anyband.rasters.footprints import Cell, CellRules, View, plan_cells
from anyband.rasters.grid import Grid
from anyband.sensors.catalogue import sensor_to_dict
from anyband.sensors.sensor import Sensor

__all__ = [
    "ChipCounter",
    "Piece",
    "PrepareJob",
    "PrepareOptions",
    "PrepareReport",
    "PrepareRun",
    "Skipped",
    "StoreCounts",
    "cut_pieces",
    "describe_store",
    "group_images",
    "plan_pieces",
    "prepare",
    "report_of",
    "survey_images",
]

_MIN_CHIP_PX = 16


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the content of a store, besides the images."""

    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: whole images if they are small."""
    chip_m: float | None = None
    """Or in metres."""
    min_valid: float = 0.5
    """Least share of data of a chip; chosen: half, as for a token to be seen."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the places for train, val and test."""
    seed: int = 0
    """Of the draw of splits."""
    statistics: bool = False
    """Whether to compute statistics of the train split too."""

    def __post_init__(self) -> None:
        if self.chip_px is not None and self.chip_m is not None:
            raise InputError("chip_px and chip_m both say how large a chip is; give one of them")
        if self.chip_px is not None and self.chip_px < _MIN_CHIP_PX:
            raise InputError(f"chips of {self.chip_px} pixels are smaller than a patch ({_MIN_CHIP_PX} pixels)")
        if self.chip_m is not None and not 0 < self.chip_m < math.inf:
            raise InputError(f"chip_m must be over 0 metres and finite, found {self.chip_m:g}")
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"min_valid is a share from 0 to 1, found {self.min_valid:g}")
        # Written so that a share that is no number fails too.
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise InputError(f"the shares of train, val and test must sum to 1, found {self.fractions}")

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON."""
        return {**asdict(self), "fractions": list(self.fractions)}


@dataclass(frozen=True, kw_only=True)
class PrepareRun:
    """How to prepare; nothing here changes the content of a store."""

    workers: int = 1
    """Processes that read and cut images; 1: this one."""
    executor: Executor | None = None
    """Pool to use instead of processes of our own, for example of a cluster."""
    overwrite: bool = False
    """Whether an existing store of other inputs is replaced."""
    strict: bool = False
    """Whether an image that can't be used is an error instead of skipped."""
    shown: bool = False
    """Whether to show progress."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"workers must be at least 1, found {self.workers}")


# chosen: as many skipped images are listed as fit a screen; `store.json` has all.
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that gave no chips."""

    name: str
    """Path as the manifest writes it."""
    reason: str
    """Why, for people."""

    def line(self) -> str:
        """Say it in one line; most reasons name the image themselves."""
        return self.reason if self.name in self.reason else f"{self.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class StoreCounts:
    """How much a store holds."""

    chips: Mapping[str, int]
    """Sensor → chips."""
    places: int
    """Places."""
    footprints: int
    """Different (place, cell)."""
    splits: Mapping[str, int]
    """Split → chips."""
    pairs: Mapping[str, int]
    """`sensor + sensor` → pairs of chips of one footprint."""

    def lines(self) -> list[str]:
        """Say it for people."""
        total = sum(self.chips.values())
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        return [
            f"{total} chips of {self.footprints} footprints in {self.places} places ({splits})",
            *(f"  {name}: {count} chips" for name, count in self.chips.items()),
            *(f"  pairs {name}: {count}" for name, count in self.pairs.items()),
        ]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """The result of preparing."""

    counts: StoreCounts
    """What the store holds."""
    skipped: tuple[Skipped, ...]
    """Images that gave no chips."""
    notes: tuple[str, ...]
    """What else one should know."""
    was_complete: bool = False
    """Whether the store was there already, of the same inputs, so that nothing was done."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON; `from_dict` is its inverse."""
        return {
            "counts": asdict(self.counts),
            "skipped": [asdict(one) for one in self.skipped],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], *, was_complete: bool) -> "PrepareReport":
        """Read what `to_dict` made."""
        return cls(
            counts=StoreCounts(**entry["counts"]),
            skipped=tuple(Skipped(**one) for one in entry["skipped"]),
            notes=tuple(entry["notes"]),
            was_complete=was_complete,
        )

    def lines(self) -> list[str]:
        """Say it for people."""
        lines = self.counts.lines()
        lines += [f"note: {note}" for note in self.notes]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)} images:")
            lines += [f"  {one.line()}" for one in self.skipped[:_LISTED]]
            if len(self.skipped) > _LISTED:
                lines.append(f"  … and {len(self.skipped) - _LISTED} more (all stand in store.json)")
        return lines


_Content = tuple[tuple[str, int], ...]


class ChipCounter:
    """Counts chips that come place by place: what is kept does not grow with the number of places."""

    def __init__(self, sensors: Iterable[str] = ()) -> None:
        """Begin with nothing counted.

        Args:
            sensors: in the order of the result; others come after them as they appear.
        """
        self._sensors = Counter[str](dict.fromkeys(sensors, 0))
        self._splits = Counter[str]()
        self._places = 0
        self._place: str | None = None
        self._cells: dict[str, _Content] = {}
        self._contents = Counter[_Content]()

    def add(self, place: str, cell: str, sensor: str, split: str) -> None:
        """Count one chip; those of a place come one after the other."""
        if place != self._place:
            self._close_place()
            self._place = place
        self._sensors[sensor] += 1
        self._splits[split] += 1
        self._cells[cell] = _with_one_more(self._cells.get(cell, ()), sensor)

    def result(self) -> StoreCounts:
        """Say what was counted."""
        self._close_place()
        return StoreCounts(
            chips=dict(self._sensors),
            places=self._places,
            footprints=self._contents.total(),
            splits={split: self._splits[split] for split in SPLITS},
            pairs=_count_pairs(list(self._sensors), self._contents),
        )

    def _close_place(self) -> None:
        self._contents.update(self._cells.values())
        self._places += bool(self._cells)
        self._place, self._cells = None, {}


def _count_index(index: pa.Table) -> StoreCounts:
    counter = ChipCounter(pc.unique(index["sensor"]).to_pylist())
    for chip in chips_of(index.select(["place", "cell", "sensor", "split"]).sort_by("place")):
        counter.add(*chip)
    return counter.result()


def describe_store(store: ChipStore) -> list[str]:
    """Say what a store holds: counts, arrays and statistics."""
    counts = _count_index(store.index)
    lines = [f"chip store '{store.path}', version {store.version}", *counts.lines(), "arrays:"]
    lines += [
        f"  {info.name}: {info.num_chips} × {len(info.bands)} × {info.height} × {info.width} {info.dtype}"
        f"{', with a valid array' if info.has_valid else ''} ({', '.join(info.bands)})"
        for info in store.arrays.values()
    ]
    computed = ", ".join(store.statistics) or f"none; `anyband prepare --stats {store.path}` computes them"
    return [*lines, f"statistics of the store: {computed}"]


def _with_one_more(content: _Content, sensor: str) -> _Content:
    counts = dict(content)
    counts[sensor] = counts.get(sensor, 0) + 1
    return tuple(counts.items())


def _count_pairs(sensors: Sequence[str], footprints: Mapping[_Content, int]) -> dict[str, int]:
    pairs: Counter[str] = Counter()
    for content, number in footprints.items():
        footprint = dict(content)
        here = [sensor for sensor in sensors if sensor in footprint]
        for first, second in combinations_with_replacement(here, 2):
            a, b = footprint[first], footprint[second]
            pairs[f"{first} + {second}"] += number * (a * (a - 1) // 2 if first == second else a * b)
    return {name: count for name, count in pairs.items() if count}


# chosen: the chips of one piece are in memory together, and are cut again when a run is killed.
_VALUES_PER_PIECE = 2**25
_NAMED_PROBLEMS = 3
# chosen: what a batch costs to hand out is little beside so many images; what is lost with a killed worker too.
_LARGEST_BATCH = 32
_BATCHES_PER_WORKER = 16


@dataclass(kw_only=True)
class PrepareJob:
    """What one call of `prepare` carries from step to step."""

    entries: Sequence[ImageEntry]
    """All images of the manifest; the numbers of images below are positions in it."""
    options: PrepareOptions
    """What to make."""
    run: PrepareRun
    """How."""
    work: Workspace
    """Where."""
    pool: Executor | None
    """Who does the work; None: this process."""
    surveys: Surveys = field(init=False)
    """What each usable image said."""
    default_encodings: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(sensor, encoding) → usable images of which the encoding was a choice of ours."""
    counter: ChipCounter = field(default_factory=ChipCounter)
    """Chips made."""
    skipped: dict[int, str] = field(default_factory=dict)
    """Why others are not used."""
    notes: list[str] = field(default_factory=list)
    """What else to report."""

    def __post_init__(self) -> None:
        self.surveys = Surveys(self.work.journal, len(self.entries))

    def skip(self, image: int, reason: str) -> None:
        """Leave an image out and remember why.

        Raises:
            RasterError: the run is strict.
        """
        if self.run.strict:
            raise RasterError(f"{reason} (with --strict an image that can't be used is an error)")
        self.skipped.setdefault(image, reason)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Chips of one image that are cut together, and what the index says of them."""

    image: int
    """Number of the image."""
    place: Place
    """The image's place."""
    anchor: Grid
    """Grid of the place's finest image."""
    cells: tuple[Cell, ...]
    """Cell of each view of the task."""
    task: CutTask
    """The work."""
    is_last: bool
    """Whether no other piece of the image follows."""


def survey_images(job: PrepareJob) -> None:
    """Look at every image; what can't be opened is skipped."""
    repeated = repeated_images(job.entries)
    for number in repeated:
        job.skip(number, f"'{job.entries[number].name}' stands in the list twice")
    total = len(job.entries) - len(repeated)
    handed_out: deque[tuple[int, ImageEntry]] = deque()
    pieces = _surveys(
        ((number, entry) for number, entry in enumerate(job.entries) if number not in repeated), handed_out
    )
    with progress("looking at images", total, shown=job.run.shown) as advance:
        for _, result in _in_pieces(job, pieces, survey_image, total):
            number, entry = handed_out.popleft()
            if "skipped" in result:
                job.skip(number, result["skipped"])
            else:
                _keep_survey(job, number, entry, ImageSurvey.from_dict(result))
            advance(1)
    _check_some_left(job, len(job.surveys))


def _surveys(
    images: Iterable[tuple[int, ImageEntry]], handed_out: "deque[tuple[int, ImageEntry]]"
) -> Iterator[tuple[str, ImageEntry]]:
    """Give the images to look at, and keep each until its survey is there."""
    for number, entry in images:
        handed_out.append((number, entry))
        yield survey_key(number), entry


def _keep_survey(job: PrepareJob, number: int, entry: ImageEntry, survey: ImageSurvey) -> None:
    """Use an image, unless what it says of its ground or time can't be true."""
    problem = off_globe(survey.grid)
    if problem is not None:
        job.skip(number, f"'{entry.name}' {problem}")
    elif entry.datetime is None and survey.datetime is not None and is_future(survey.datetime):
        job.skip(
            number,
            f"'{entry.name}' says that it was taken at {survey.datetime:%Y-%m-%d %H:%M}, which lies in the future; "
            "declare its `datetime` in the manifest",
        )
    else:
        job.surveys.use(number)
        if _is_default(entry):
            job.default_encodings[entry.sensor.name, entry.sensor.default_encoding] += 1


def _check_some_left(job: PrepareJob, count: int) -> None:
    if count:
        return
    reasons = [job.skipped[number] for number in sorted(job.skipped)][:_NAMED_PROBLEMS]
    more = len(job.skipped) - len(reasons)
    raise RasterError(
        f"none of the {len(job.entries)} images can be used: {'; '.join(reasons)}{f'; and {more} more' if more else ''}"
    )


def group_images(job: PrepareJob) -> Iterable[Place]:
    """Find the places; their members count all images of the manifest.

    Raises:
        GeometryError: images of a declared place do not fit together.
        ManifestError: images of one place are declared for different splits.
    """
    images = PlacedImages(job.entries, job.surveys)
    places, notes = find_places(images)
    job.notes += notes
    return (
        Place(
            name=place.name,
            members=tuple(images.numbers[list(place.members)].tolist()),
            images=place.images,
            split=place.split or split_of(place.name, seed=job.options.seed, fractions=job.options.fractions),
        )
        for place in places
    )


def plan_pieces(job: PrepareJob, places: Iterable[Place]) -> Iterator[Piece]:
    """Give the work: for each image of each place the cells that it covers, in pieces. Others are skipped.

    A piece is made when it is asked for, so that the plan of a large archive is never in memory.
    """
    rules = CellRules(chip_px=job.options.chip_px, chip_m=job.options.chip_m, min_cover=job.options.min_valid)
    number = 0
    for place in places:
        layout = place.layout
        cells = plan_cells(layout, rules)
        for position, image in enumerate(place.members):
            views = [(cell, view) for cell in cells for own, view in cell.views if own == position]
            if not views:
                name, least = job.entries[image].name, job.options.min_valid
                job.skip(image, f"'{name}' does not cover {least:.0%} of any footprint")
            for piece in _pieces_of(job, image, _Ground(place=place, anchor=layout.anchor), views, number):
                yield piece
                number += 1


@dataclass(frozen=True, kw_only=True)
class _Ground:
    place: Place
    anchor: Grid


def _pieces_of(
    job: PrepareJob, image: int, ground: _Ground, views: Sequence[tuple[Cell, View]], first_number: int
) -> Iterator[Piece]:
    """Cut the work on one image into pieces that fit in memory."""
    entry, survey = job.entries[image], job.surveys[image]
    values = max((view.height * view.width for _, view in views), default=1) * len(entry.sensor.bands)
    size = max(1, _VALUES_PER_PIECE // values)
    for number, start in enumerate(range(0, len(views), size), first_number):
        part = views[start : start + size]
        task = CutTask(
            entry=entry,
            storage=storage_of(entry, survey.dtype, survey.nodata),
            views=tuple(view for _, view in part),
            min_valid=job.options.min_valid,
            spool=job.work.spool / f"{number:08d}.npz",
        )
        yield Piece(
            image=image,
            place=ground.place,
            anchor=ground.anchor,
            cells=tuple(cell for cell, _ in part),
            task=task,
            is_last=start + size >= len(views),
        )


def cut_pieces(job: PrepareJob, pieces: Iterable[Piece]) -> StoreWriter:
    """Cut all pieces, and write each shard as soon as its chips are there."""
    journal = job.work.journal
    shards = [key for key in journal.results if key.startswith("shard ")]
    writer = StoreWriter(
        job.work.store,
        finished=[ShardDone(**journal.results[key]) for key in shards],
        on_shard=lambda done: journal.add(f"shard {done.array} {done.shard}", vars(done)),
    )
    handed_out: deque[Piece] = deque()
    counts = _CutCounts()
    with progress("cutting chips", len(job.surveys), shown=job.run.shown) as advance:
        results = _in_pieces(job, _tasks(pieces, handed_out), cut_image, len(job.surveys))
        for _, result in results:
            piece = handed_out.popleft()
            counts.add(piece)
            if "skipped" in result:
                job.skip(piece.image, result["skipped"])
            else:
                counts.best = max(counts.best or 0.0, result["best"])
                _add_chips(job, writer, piece, dict(result["chips"]))
            if piece.is_last:
                _skip_empty(job, piece.image, counts.best)
                counts.best = None
                advance(1)
    job.notes += counts.notes()
    _check_some_left(job, writer.num_chips)
    return writer


def _tasks(pieces: Iterable[Piece], handed_out: "deque[Piece]") -> Iterator[tuple[str, CutTask]]:
    """Give the tasks of pieces, and keep each piece until its result is there."""
    for number, piece in enumerate(pieces):
        handed_out.append(piece)
        yield f"cut {number}", piece.task


def _in_pieces(
    job: PrepareJob, pieces: Iterable[tuple[str, Any]], work: Callable[[Any], Any], total: int
) -> Iterator[tuple[str, Any]]:
    """Do pieces, of which there are about `total`; small jobs one by one, large ones in batches."""
    batch = min(_LARGEST_BATCH, max(1, total // (_BATCHES_PER_WORKER * job.run.workers)))
    return run_pieces(pieces, work, journal=job.work.journal, executor=job.pool, workers=job.run.workers, batch=batch)


@dataclass(kw_only=True)
class _CutCounts:
    """What is counted while chips are cut."""

    views: Counter[str] = field(default_factory=Counter)
    """Sensor → chips planned."""
    moved: Counter[str] = field(default_factory=Counter)
    """Sensor → chips of them that are interpolated."""
    best: float | None = None
    """Largest share of data of a chip of the image at hand; None: it could not be read."""

    def add(self, piece: Piece) -> None:
        """Count the chips of a piece."""
        sensor = piece.task.entry.sensor.name
        self.views[sensor] += len(piece.task.views)
        self.moved[sensor] += sum(not view.is_copy for view in piece.task.views)

    def notes(self) -> list[str]:
        """Say how many chips were interpolated."""
        return [
            f"{sensor}: {count} of {self.views[sensor]} chips were interpolated, because their pixels do not fit the "
            "footprint that other images of the place share"
            for sensor, count in self.moved.items()
            if count
        ]


def _add_chips(job: PrepareJob, writer: StoreWriter, piece: Piece, shares: Mapping[int, float]) -> None:
    entry, survey, task = piece.task.entry, job.surveys[piece.image], piece.task
    waiting = set(shares)
    for number, share in shares.items():
        cell, view = piece.cells[number], task.views[number]
        spec = _array_spec(entry.sensor.name, entry.sensor.band_names, (view.height, view.width), task.storage)
        record = _record(piece, cell, view, survey=survey, share=share)
        job.counter.add(record.place, record.cell, record.sensor, record.split)
        writer.add(spec, record, SpooledChip(spool=task.spool, number=number, waiting=waiting))


@lru_cache(maxsize=64)
def _array_spec(sensor: str, bands: tuple[str, ...], shape: tuple[int, int], storage: Storage) -> ArraySpec:
    return ArraySpec(
        sensor=sensor,
        bands=bands,
        height=shape[0],
        width=shape[1],
        dtype=storage.dtype,
        encoding=dict(storage.encoding),
        nodata=storage.nodata,
    )


def _record(piece: Piece, cell: Cell, view: View, *, survey: ImageSurvey, share: float) -> ChipRecord:
    entry, anchor = piece.task.entry, piece.anchor
    transform = cell.chip_transform(anchor, view)
    ground = None
    if anchor.crs is not None:
        ground = footprint(transform, height=view.height, width=view.width, crs=anchor.crs)
    return ChipRecord(
        place=piece.place.name,
        cell=cell.name,
        sensor=entry.sensor.name,
        source_path=entry.name,
        valid_fraction=share,
        split=piece.place.split or "train",
        datetime=entry.datetime or survey.datetime,
        crs=anchor.crs,
        transform=transform if anchor.crs is not None else None,
        gsd_m=survey.grid.gsd_m,
        geometry=ground.wkb if ground else None,
        bounds=ground.bounds if ground else None,
    )


def report_of(job: PrepareJob) -> PrepareReport:
    """Say what was made of the images."""
    job.notes += [
        f"{sensor}: encoding '{encoding}', the default, was taken for {count} images; none was declared"
        for (sensor, encoding), count in job.default_encodings.items()
    ]
    counts = job.counter.result()
    for split, fraction in zip(SPLITS, job.options.fractions, strict=True):
        if fraction and not counts.splits[split]:
            job.notes.append(
                f"split '{split}' has no chips: {counts.places} places are few; "
                "declare `split` in the manifest, or try another seed"
            )
    skipped = tuple(Skipped(name=job.entries[n].name, reason=job.skipped[n]) for n in sorted(job.skipped))
    return PrepareReport(counts=counts, skipped=skipped, notes=tuple(job.notes))


def _skip_empty(job: PrepareJob, image: int, best: float | None) -> None:
    """Skip an image of which no chip had enough data."""
    name, least = job.entries[image].name, job.options.min_valid
    if best == 0:
        job.skip(image, f"'{name}' has no data: every pixel is nodata, NaN or masked")
    elif best is not None and best < least:
        job.skip(image, f"'{name}' has no chip with at least {least:.0%} of data (the best has {best:.0%})")


def _is_default(entry: ImageEntry) -> bool:
    """Tell whether the encoding is a choice of ours: none was declared, and the sensor has several."""
    has_choice = any(len(band.encodings) > 1 for band in entry.sensor.bands)
    default = entry.sensor.default_encoding
    stands = dict(entry.encoding) == {band.name: band.encoding(default) for band in entry.sensor.bands}
    return entry.source.encoding is None and has_choice and stands


def prepare(
    entries: Sequence[ImageEntry],
    out: Path,
    options: PrepareOptions | None = None,
    run: PrepareRun | None = None,
) -> PrepareReport:
    """Make a chip store of images.

    Property: the bytes of the store are a function of the images and the options, whatever the number of
    workers and however often the run was killed and started again.

    Args:
        entries: the images.
        out: folder of the store.
        options: what to make.
        run: how.

    Returns:
        What the store holds, what was skipped and why.

    Raises:
        OutputError: `out` exists and is something else, or can't be written.
        GeometryError: images of a declared place do not fit together.
        ManifestError: there are no images, or two sensors of one name.
        RasterError: no image can be used; or one can't and `run.strict` is set.
    """
    options, run = options or PrepareOptions(), run or PrepareRun()
    if not entries:
        raise ManifestError("there are no images to prepare")
    sensors = _sensors(entries)
    inputs = _inputs_digest(entries, sensors, options)
    done = _finished(out, inputs, run)
    if done is not None:
        remove_leftover(out, inputs=inputs)
        return done
    with open_workspace(out, inputs=inputs) as work, large_blocks_returned():
        with worker_pool(run.workers if run.executor is None else 1) as own_pool:
            pool = run.executor or own_pool
            job = PrepareJob(entries=entries, options=options, run=run, work=work, pool=pool)
            survey_images(job)
            writer = cut_pieces(job, plan_pieces(job, group_images(job)))
        report = report_of(job)
        writer.finish(StoreHeader(sensors=sensors, options=options.to_dict(), report=report.to_dict(), inputs=inputs))
        if options.statistics:
            report = _with_statistics(work.store, report, run)
        work.publish()
    return report


def _sensors(entries: Sequence[ImageEntry]) -> dict[str, Sensor]:
    sensors: dict[str, Sensor] = {}
    for entry in entries:
        if sensors.setdefault(entry.product.name, entry.product) != entry.product:
            raise ManifestError(
                f"two different sensors are named '{entry.product.name}' (one is of '{entry.name}'); rename one"
            )
    return sensors


def _inputs_digest(entries: Sequence[ImageEntry], sensors: dict[str, Sensor], options: PrepareOptions) -> str:
    """Hash what decides the content of a store: a file that changed has another size or time."""
    state = blake2b(digest_size=16)
    state.update(json.dumps([STORE_VERSION, options.to_dict()]).encode())
    state.update(json.dumps([sensor_to_dict(sensor) for sensor in sensors.values()]).encode())
    for entry in entries:
        declared = (entry.name, entry.source, entry.sensor.band_names, entry.encoding)
        state.update(repr((*declared, entry.place, entry.datetime, entry.split)).encode())
        for path in (*entry.source.paths, *entry.source.valid_paths):
            state.update(repr(_file_states(path)).encode())
    return state.hexdigest()


def _file_states(path: Path) -> list[tuple[str, int, int]]:
    if not path.is_dir():
        return [_file_state(path.name, path)]
    with os.scandir(path) as entries:
        return sorted(_file_state(entry.name, entry) for entry in entries)


def _file_state(name: str, file: "Path | os.DirEntry[str]") -> tuple[str, int, int]:
    try:
        status = file.stat()
    except FileNotFoundError:
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _finished(out: Path, inputs: str, run: PrepareRun) -> PrepareReport | None:
    """Find out whether the store is there already; refuse anything else, unless it may be replaced."""
    if not out.exists():
        return None
    try:
        store = ChipStore.open(out)
    except StoreError as problem:
        raise OutputError(f"'{out}' exists and is no whole chip store ({problem}); remove it") from problem
    if store.inputs == inputs:
        return PrepareReport.from_dict(store.report, was_complete=True)
    if not run.overwrite:
        raise OutputError(
            f"'{out}' is a chip store of other images or options; replace it with --overwrite, or name another output"
        )
    return None


def _with_statistics(folder: Path, report: PrepareReport, run: PrepareRun) -> PrepareReport:
    from anyband.data.statistics import store_statistics

    store = ChipStore.open(folder)
    statistics, problems = store_statistics(store, shown=run.shown)
    store.save_statistics(statistics)
    return replace(report, notes=(*report.notes, *(f"no statistics of {problem}" for problem in problems)))
