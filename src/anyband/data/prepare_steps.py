"""The steps of preparing: look at the images, group them into places, plan the pieces, cut them, report."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from anyband.data.cells import Cell, CellRules, View, plan_cells
from anyband.data.chip_index import SPLITS, ChipRecord
from anyband.data.cutting import (
    CutTask,
    ImageSurvey,
    SpooledChip,
    Storage,
    cut_image,
    storage_of,
    survey_image,
)
from anyband.data.image_lists import repeated_images
from anyband.data.jobs import run_pieces
from anyband.data.manifest import ImageEntry, is_future
from anyband.data.places import Place, find_places, footprint, off_globe, split_of
from anyband.data.prepare_options import PrepareOptions, PrepareRun
from anyband.data.prepare_report import ChipCounter, PrepareReport, Skipped
from anyband.data.store import ArraySpec
from anyband.data.store_writer import ShardDone, StoreWriter
from anyband.data.surveys import PlacedImages, Surveys, survey_key
from anyband.data.tiles import Grid
from anyband.data.workspace import Workspace
from anyband.errors import RasterError
from anyband.progress import progress

__all__ = ["Piece", "PrepareJob", "cut_pieces", "group_images", "plan_pieces", "report_of", "survey_images"]

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
