"""Rasters of a manifest become a chip store."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from hashlib import blake2b
from heapq import heappop, heappush
from itertools import accumulate, combinations_with_replacement, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from anyband.data.cutting import (
    Cut,
    ImageSurvey,
    Piece,
    PlacedSurvey,
    PlaceJob,
    PrepareOptions,
    SurveyedImage,
    chip_bytes,
    cut_image,
    place_of,
    plan_pieces,
    storage_of,
    survey_image,
    work_place,
)
from anyband.data.ledger import Ledger, PlacedImages, WaitingChip, open_ledger, publish, remove_leftover
from anyband.data.manifest import ImageEntry, ImageList
from anyband.data.places import Place, find_places, footprint
from anyband.data.store import SPLITS, STORE_VERSION, ArraySpec, ChipStore, partial_path
from anyband.data.store_writer import ChipRecord, StoreWriter, large_blocks_returned
from anyband.errors import (
    GeometryError,
    InputError,
    ManifestError,
    OutputError,
    RasterError,
    StoreError,
    agreed,
    counted,
)
from anyband.progress import progress, run_pieces, worker_pool
from anyband.rasters.footprints import View
from anyband.rasters.grid import Grid, same_crs
from anyband.rasters.reader import said_once
from anyband.sensors.sensor import Encoding, Sensor, sensor_to_dict
from anyband.sensors.values import in_first_words

__all__ = ["PrepareOptions", "PrepareReport", "count_index", "describe_store", "prepare"]

# chosen: as many skipped images are listed as fit a screen; `store.json` has all.
_LISTED = 20
# chosen: more processes than any machine runs.
_MOST_WORKERS = 4096
_NAMED_PROBLEMS = 3
# chosen: what a batch costs to hand out is little beside so many images; what is lost with a killed worker too.
_LARGEST_BATCH = 32
_BATCHES_PER_WORKER = 16


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """How much a store holds, and what preparing it said."""

    chips: Mapping[str, int]
    """Sensor → chips."""
    places: int
    footprints: int
    splits: Mapping[str, int]
    """Split → chips."""
    pairs: Mapping[str, int]
    """`sensor + sensor` → pairs of chips of one footprint."""
    skipped: tuple[tuple[str, str], ...] = ()
    """(path as the manifest writes it, reason) of images that gave no chips."""
    notes: tuple[str, ...] = ()
    was_complete: bool = False
    """Whether a store of the same inputs was there already, so that nothing was done."""

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON; `from_dict` is its inverse."""
        counts = {name: getattr(self, name) for name in ("chips", "places", "footprints", "splits", "pairs")}
        skipped = [{"name": name, "reason": reason} for name, reason in self.skipped]
        return {"counts": counts, "skipped": skipped, "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], *, was_complete: bool) -> "PrepareReport":
        skipped = tuple((one["name"], one["reason"]) for one in entry["skipped"])
        return cls(**entry["counts"], skipped=skipped, notes=tuple(entry["notes"]), was_complete=was_complete)

    def lines(self) -> list[str]:
        """Say it for people."""
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        lines = [
            f"{counted(sum(self.chips.values()), 'chip')} of {counted(self.footprints, 'footprint')} in "
            f"{counted(self.places, 'place')} ({splits})",
            *(f"  {name}: {counted(count, 'chip')}" for name, count in self.chips.items()),
            *(f"  pairs {name}: {count}" for name, count in self.pairs.items()),
            *(f"note: {note}" for note in self.notes),
        ]
        if self.skipped:
            lines.append(f"skipped {counted(len(self.skipped), 'image')}:")
            # Most reasons name the image themselves.
            lines += [f"  {why if name in why else f'{name}: {why}'}" for name, why in self.skipped[:_LISTED]]
            if len(self.skipped) > _LISTED:
                lines.append(f"  … and {len(self.skipped) - _LISTED} more (all stand in store.json)")
        return lines


def prepare(
    entries: ImageList | Sequence[ImageEntry],
    out: Path,
    options: PrepareOptions | None = None,
    *,
    workers: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
    strict: bool = False,
    shown: bool = False,
) -> PrepareReport:
    """Make a chip store of images, and report what it holds, what was skipped and why.

    Property: the bytes of the store are a function of the images and the options, whatever the number of
    workers and however often the run was killed and started again.

    Args:
        entries: the images; gone through a few times, and none is kept.
        out: folder of the store.
        options: what to make.
        workers: processes that read and cut images; 1: this one.
        executor: pool to use instead of processes of our own, for example of a cluster.
        overwrite: whether an existing store of other inputs is replaced.
        strict: whether an image that can't be used is an error instead of skipped.
        shown: whether to show progress.

    Raises:
        OutputError: `out` exists and is something else, or can't be written.
        GeometryError: images of a declared place do not fit together.
        ManifestError: there are no images, or two sensors of one name.
        RasterError: no image can be used; or one can't and `strict` is set.
    """
    options = options or PrepareOptions()
    if not 1 <= workers <= _MOST_WORKERS:
        bound = "at least 1" if workers < 1 else f"at most {_MOST_WORKERS}"
        raise InputError(f"workers must be {bound}, found {workers}")
    if not len(entries):
        raise ManifestError("there are no images to prepare")
    sensors = _sensors(entries)
    options.check_sensors(sensors)
    inputs = _inputs_digest(entries, sensors, options)
    done = _finished(out, inputs, overwrite=overwrite)
    if done is not None:
        remove_leftover(out, inputs=inputs)
        return done
    with open_ledger(out) as ledger:
        ledger.begin(inputs)
        ledger.fill(entries)
        with worker_pool(workers if executor is None else 1) as own_pool:
            run = _Run(ledger, options, partial_path(out), executor or own_pool, workers, strict=strict, shown=shown)
            writer = run.chips()
        report = run.report()
        with large_blocks_returned():
            writer.finish(sensors, options=options.to_dict(), report=report.to_dict(), inputs=inputs)
            if options.statistics:
                report = _with_statistics(writer.folder, report, shown=shown)
        publish(out)
    return report


_PlaceImages = tuple[Place, list[PlacedSurvey]]


def _survey_numbered(options: PrepareOptions, image: tuple[int, ImageEntry]) -> ImageSurvey | str:
    return survey_image(image[1], least_px=options.least_px)


class _Run:
    """The steps of one call of `prepare`; images are named by their numbers in its list."""

    def __init__(
        self,
        ledger: Ledger,
        options: PrepareOptions,
        folder: Path,
        pool: Executor | None,
        workers: int,
        *,
        strict: bool,
        shown: bool,
    ) -> None:
        self._ledger, self._options, self._folder = ledger, options, folder
        self._strict, self._shown = strict, shown
        self._notes: list[str] = []
        # (sensor, encoding) → usable images of which the encoding was a choice of ours, and the first of them.
        self._defaults: dict[tuple[str, str], tuple[int, int]] = {}
        # Small jobs are done one by one, large ones in batches.
        batch = min(_LARGEST_BATCH, max(1, ledger.num_images() // (_BATCHES_PER_WORKER * workers)))
        self._how: dict[str, Any] = {"executor": pool, "workers": workers, "batch": batch}
        self._spool = folder / "spool"
        self._spool.mkdir(exist_ok=True)

    def chips(self) -> StoreWriter:
        """Survey and cut all images: one place after the other where all are declared, else all are surveyed first."""
        self._check_strict()
        if not self._ledger.all_declared():
            self._survey()
            return self._cut(self._pieces(self._found_places()))
        try:
            return self._cut(self._pieces(self._declared_places()))
        except (GeometryError, ManifestError, RasterError):
            # What is wrong with a survey, then with a place, is said before what is wrong with a cut.
            self._survey()
            self._found_places()
            raise

    def _check_strict(self) -> None:
        for _, reason in self._ledger.skipped() if self._strict else ():
            raise _strict_error(reason)

    def _survey(self) -> None:
        """Look at every image; what can't be opened, or says what can't be true, is skipped. One must be left."""
        ledger = self._ledger
        numbers = ledger.numbers()
        images = ((int(number), ledger.entry(int(number))) for number in numbers)
        with progress("looking at images", len(numbers), shown=self._shown) as advance:
            pieces = ((number, (number, entry)) for number, entry in images)
            look = partial(_survey_numbered, self._options)
            work = run_pieces(pieces, look, find=ledger.survey, keep=ledger.keep_survey, **self._how)
            for (number, entry), survey in work:
                self._take_survey(number, entry, survey)
                advance(1)
        self._check_some_left(ledger.num_images())

    def _take_survey(self, number: int, entry: ImageEntry, survey: ImageSurvey | str) -> None:
        if isinstance(survey, str):
            self._skip(number, survey)
        elif _is_default(entry):
            count, first = self._defaults.get((entry.sensor.name, entry.sensor.default_encoding), (0, number))
            self._defaults[entry.sensor.name, entry.sensor.default_encoding] = count + 1, min(first, number)

    def _found_places(self) -> Iterator[_PlaceImages]:
        """Find the places, and the images of each."""
        images = PlacedImages(self._ledger)
        places, notes = find_places(images, ratio_tolerance=self._options.ratio_tolerance)
        self._notes += notes
        members = (images.numbers[list(place.members)].tolist() for place in places)
        return ((place, self._surveyed(numbers)) for place, numbers in zip(places, members, strict=True))

    def _declared_places(self) -> Iterator[_PlaceImages]:
        """Survey the declared places, and cut them meanwhile where that is easy; by the first images that are used."""
        ledger, ahead = self._ledger, dict[int, list[int]]()

        def jobs() -> Iterator[tuple[int, PlaceJob]]:
            for numbers in ledger.declared():
                ahead[numbers[0]] = numbers
                yield numbers[0], (self._options, self._spool, [(number, ledger.entry(number)) for number in numbers])

        def find(first: int) -> list[SurveyedImage] | None:
            surveys = [(number, ledger.survey(number)) for number in ahead.pop(first)]
            known: list[SurveyedImage] = [(number, survey, []) for number, survey in surveys if survey is not None]
            return known if len(known) == len(surveys) else None

        # Places whose first images were skipped: they come after others.
        held: list[tuple[int, list[int]]] = []
        work = run_pieces(jobs(), work_place, find=find, keep=lambda _, found: ledger.keep_place(found), **self._how)
        for (_, _, images), surveys in work:
            while held and held[0][0] < images[0][0]:
                yield self._place_of(heappop(held)[1])
            for (number, entry), (_, survey, _) in zip(images, surveys, strict=True):
                self._take_survey(number, entry, survey)
            used = [number for number, survey, _ in surveys if not isinstance(survey, str)]
            if used:
                heappush(held, (used[0], used))
            if used and used[0] == images[0][0]:
                yield self._place_of(heappop(held)[1])
        while held:
            yield self._place_of(heappop(held)[1])

    def _place_of(self, numbers: list[int]) -> _PlaceImages:
        images = self._surveyed(numbers)
        return place_of(images, self._options), images

    def _surveyed(self, numbers: list[int]) -> list[PlacedSurvey]:
        found = ((number, self._ledger.entry(number), self._ledger.survey(number)) for number in numbers)
        return [(number, entry, survey) for number, entry, survey in found if isinstance(survey, ImageSurvey)]

    def _pieces(self, places: Iterable[_PlaceImages]) -> Iterator[Piece]:
        """Give for each image of each place the footprints that it covers, in pieces; others are skipped. A piece is
        made when it is asked for, so that the plan of a large archive is never in memory."""
        for place, images in places:
            for position, pieces in plan_pieces(place, images, self._options, spool=self._spool):
                image, entry, _ = images[position]
                if not pieces:
                    least = self._options.min_valid
                    self._skip(image, f"'{entry.name}' does not cover {least:.0%} of any footprint")
                yield from pieces

    def _cut(self, pieces: Iterable[Piece]) -> StoreWriter:
        """Cut all pieces, and write each shard as soon as its chips are there; some chip must have enough data."""
        ledger, total = self._ledger, self._ledger.num_images()
        writer = StoreWriter(
            self._folder / "store", ledger.database, finished=ledger.shards(), on_shard=ledger.keep_shard
        )
        planned, changed = Counter[str](), Counter[tuple[str, str]]()
        laid: dict[str, list[float]] = {}
        best: float | None = None
        with progress("cutting chips", total, shown=self._shown) as advance:
            numbered = ((piece.number, piece) for piece in pieces)
            for piece, cut in run_pieces(numbered, cut_image, find=ledger.cut, keep=ledger.keep_cut, **self._how):
                sensor = piece.entry.sensor.name
                planned[sensor] += len(piece.chips)
                for _, view, grid in piece.chips:
                    if (change := _change(piece, view, grid)) is not None:
                        changed[sensor, change] += 1
                if piece.is_last and _is_laid(piece):
                    laid.setdefault(sensor, []).append(abs(piece.stretch - 1))
                if isinstance(cut, str):
                    self._skip(piece.image, cut)
                else:
                    best = max(best or 0.0, cut[1])
                    _add_chips(writer, ledger, piece, cut)
                if piece.is_last:
                    self._skip_empty(piece, best, "" if isinstance(cut, str) else "; ".join(cut[3].values()))
                    best = None
                    advance(1)
        self._notes += [
            f"{sensor}: {count} of {planned[sensor]} chips {change}" for (sensor, change), count in changed.items()
        ]
        self._notes += [
            f"{sensor}: {counted(len(found), 'image')} without coordinates {agreed(len(found), 'count')} as showing "
            f"all the ground of the place; ratios of rows to columns differ from its by up to {max(found):.1%}"
            for sensor, found in laid.items()
        ]
        self._check_some_left(writer.num_chips)
        writer.finish_arrays()
        return writer

    def report(self) -> PrepareReport:
        notes = [*said_once(in_first_words(self._ledger.doubts())), *self._notes]
        notes += [
            f"{sensor}: encoding '{encoding}', the default, was taken for {counted(count, 'image')}; none was declared"
            for (sensor, encoding), (count, _) in sorted(self._defaults.items(), key=lambda one: one[1][1])
        ]
        notes += said_once(self._ledger.notes())
        found = count_index(self._ledger.database)
        for split, fraction in zip(SPLITS, self._options.fractions, strict=True):
            if fraction and not found.splits[split]:
                notes.append(
                    f"split '{split}' has no chips: {counted(found.places, 'place', 'are')} few; "
                    "declare `split` in the manifest, or try another seed"
                )
        return replace(found, skipped=tuple(self._ledger.skipped()), notes=tuple(notes))

    def _skip(self, image: int, reason: str) -> None:
        if self._strict:
            raise _strict_error(reason)
        self._ledger.skip(image, reason)

    def _skip_empty(self, piece: Piece, best: float | None, said: str) -> None:
        name, least = piece.entry.name, self._options.min_valid
        if best == 0:
            reason = f"'{name}' has no data: every pixel is nodata, NaN or masked"
            self._skip(piece.image, f"{reason} ({said})" if said else reason)
        elif best is not None and best < least:
            self._skip(piece.image, f"'{name}' has no chip with at least {least:.0%} of data (the best has {best:.0%})")

    def _check_some_left(self, count: int) -> None:
        if count:
            return
        reasons = [reason for _, reason in self._ledger.skipped()]
        shown, more = "; ".join(reasons[:_NAMED_PROBLEMS]), len(reasons) - _NAMED_PROBLEMS
        total = len(reasons) + self._ledger.num_images()
        rest = f"; and {more} more" if more > 0 else ""
        raise RasterError(f"none of the {counted(total, 'image')} can be used: {shown}{rest}")


def _is_laid(piece: Piece) -> bool:
    """Tell whether a position was taken for an image without one; in a place without coordinates and with shapes in
    ratio there is none to take."""
    return piece.survey.grid.crs is None and (piece.chips[0][2].crs is not None or piece.stretch != 1)


def _change(piece: Piece, view: View, grid: Grid) -> str | None:
    """Say why pixels of a chip are not those of its image; None: they are."""
    if view.is_copy:
        return None
    if view.source is None:
        return "were interpolated, because their pixels do not fit the footprint that other images of the place share"
    where = "" if same_crs(view.source.crs, grid.crs) else "from another CRS onto the grid of their place, "
    return f"were brought {where}to {grid.height} × {grid.width} pixels ({piece.resampling})"


def _strict_error(reason: str) -> RasterError:
    return RasterError(f"{reason} (with --strict an image that can't be used is an error)")


def _is_default(entry: ImageEntry) -> bool:
    """Tell whether the encoding is a choice of ours: none was declared, and the sensor has several."""
    if entry.source.encoding is not None or all(len(band.encodings) == 1 for band in entry.sensor.bands):
        return False
    default = entry.sensor.default_encoding
    return dict(entry.encoding) == {band.name: band.encoding(default) for band in entry.sensor.bands}


def _add_chips(writer: StoreWriter, ledger: Ledger, piece: Piece, cut: Cut) -> None:
    entry, survey = piece.entry, piece.survey
    chips = cut[0]
    dtype, encoding, nodata = storage_of(entry, survey)
    waiting = {number for number, *_ in chips}
    starts = accumulate((chip_bytes(piece, number, partial) for number, _, partial, _ in chips), initial=0)
    for chip, start in zip(chips, starts, strict=False):
        number, share, _, _ = chip
        cell, _, grid = piece.chips[number]
        shape, crs = {"height": grid.height, "width": grid.width}, grid.crs
        ground = footprint(grid.transform, **shape, crs=crs) if crs is not None else None
        record = ChipRecord(
            place=piece.place,
            cell=cell,
            sensor=entry.sensor.name,
            source_path=entry.name,
            valid_fraction=share,
            split=piece.split,
            datetime=entry.datetime or survey.datetime,
            crs=crs,
            transform=grid.transform if crs is not None else None,
            gsd_m=grid.gsd_m,
            geometry=ground[0] if ground else None,
            bounds=ground[1] if ground else None,
        )
        spec = _array_spec(
            entry.sensor.name, entry.sensor.band_names, **shape, dtype=dtype, encoding=encoding, nodata=nodata
        )
        writer.add(spec, record, WaitingChip(ledger, piece, chip, start, waiting))


@lru_cache(maxsize=64)
def _array_spec(
    sensor: str,
    bands: tuple[str, ...],
    height: int,
    width: int,
    dtype: str,
    encoding: tuple[tuple[str, Encoding], ...],
    nodata: float | None,
) -> ArraySpec:
    return ArraySpec(
        sensor=sensor, bands=bands, height=height, width=width, dtype=dtype, encoding=dict(encoding), nodata=nodata
    )


def _count_chips(
    rows: Iterable[tuple[str, str, str, int, Any]], *, sensors: Sequence[str], splits: Mapping[str, int]
) -> PrepareReport:
    """Count what a store holds, footprint by footprint; what is kept does not grow with their number. Rows are (place,
    cell, sensor, number of chips, order of the first), those of a place, and in it of a cell, one after the other."""
    chips = dict.fromkeys(sensors, 0)
    pairs: Counter[tuple[int, int]] = Counter()
    first_of: dict[tuple[int, int], Any] = {}
    num_places = num_footprints = 0
    for _, place in groupby(rows, key=itemgetter(0)):
        num_places += 1
        for _, cell in groupby(place, key=itemgetter(1)):
            num_footprints += 1
            here = sorted((sensors.index(sensor), number, first) for _, _, sensor, number, first in cell)
            first = min(order for _, _, order in here)
            for (one, a, _), (other, b, _) in combinations_with_replacement(here, 2):
                pairs[one, other] += a * (a - 1) // 2 if one == other else a * b
                first_of[one, other] = min(first_of.get((one, other), first), first)
            for one, number, _ in here:
                chips[sensors[one]] += number
    ordered = sorted((pair for pair in pairs if pairs[pair]), key=lambda pair: (first_of[pair], pair))
    return PrepareReport(
        chips=chips,
        places=num_places,
        footprints=num_footprints,
        splits={split: splits.get(split, 0) for split in SPLITS},
        pairs={f"{sensors[one]} + {sensors[other]}": pairs[one, other] for one, other in ordered},
    )


def count_index(database: sqlite3.Connection) -> PrepareReport:
    """Count what the index rows of a store that is being written hold."""
    rows = database.execute(
        "SELECT place, cell, sensor, count(*), min(chip) FROM chips GROUP BY place, cell, sensor ORDER BY place, cell"
    )
    sensors = database.execute("SELECT sensor FROM chips GROUP BY sensor ORDER BY min(chip)")
    splits = database.execute("SELECT split, count(*) FROM chips GROUP BY split")
    return _count_chips(rows, sensors=[sensor for (sensor,) in sensors], splits=dict(splits))


def describe_store(store: ChipStore) -> list[str]:
    """Say what a store holds: counts, arrays and statistics."""
    names = ["place", "cell", "sensor"]
    index = store.index.select(names).append_column("row", [range(len(store.index))])
    found = (
        index.group_by(names)
        .aggregate([("row", "count"), ("row", "min")])
        .sort_by([(name, "ascending") for name in names])
    )
    columns = (found.column(name).to_pylist() for name in (*names, "row_count", "row_min"))
    rows = (
        (place, cell, sensor, count, (place, row)) for place, cell, sensor, count, row in zip(*columns, strict=True)
    )
    sensors, splits = pc.unique(store.index["sensor"]), pc.value_counts(store.index["split"])
    counts = _count_chips(
        rows, sensors=sensors.to_pylist(), splits={one["values"]: one["counts"] for one in splits.to_pylist()}
    )
    lines = [f"chip store '{store.path}', version {store.version}", *counts.lines(), "arrays:"]
    lines += [
        f"  {info.name}: {info.num_chips} × {len(info.bands)} × {info.height} × {info.width} {info.dtype}"
        f"{', with a valid array' if info.has_valid else ''} ({', '.join(info.bands)})"
        for info in store.arrays.values()
    ]
    computed = ", ".join(store.statistics) or f"none; `anyband prepare --stats {store.path}` computes them"
    return [*lines, f"statistics of the store: {computed}"]


def _sensors(entries: Iterable[ImageEntry]) -> dict[str, Sensor]:
    sensors: dict[str, Sensor] = {}
    for entry in entries:
        known = sensors.setdefault(entry.product.name, entry.product)
        if known is not entry.product and known != entry.product:
            found = f"two different sensors are named '{entry.product.name}' (one is of '{entry.name}')"
            raise ManifestError(f"{found}; rename one")
    return sensors


def _inputs_digest(entries: Iterable[ImageEntry], sensors: Mapping[str, Sensor], options: PrepareOptions) -> str:
    """Hash what decides the content of a store: a file that changed has another size or time."""
    state = blake2b(digest_size=16)
    state.update(json.dumps([STORE_VERSION, options.to_dict()]).encode())
    state.update(json.dumps([sensor_to_dict(sensor) for sensor in sensors.values()]).encode())
    for entry in entries:
        parts = [repr(entry.name), repr(entry.source), repr(entry.sensor.band_names), _text(entry.encoding)]
        parts += [repr(entry.place), repr(entry.datetime), repr(entry.split)]
        state.update(f"({', '.join(parts)})".encode())
        for path in (*entry.source.paths, *entry.source.valid_paths):
            state.update(repr(_file_states(path)).encode())
    return state.hexdigest()


@lru_cache(maxsize=64)
def _text(encoding: tuple[tuple[str, Encoding], ...]) -> str:
    return repr(encoding)


def _file_states(path: Path) -> list[tuple[str, int, int]]:
    if not path.is_dir():
        return [_file_state(path.name, path)]
    with os.scandir(path) as entries:
        return sorted(_file_state(entry.name, entry) for entry in entries)


def _file_state(name: str, file: "Path | os.DirEntry[str]") -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:  # What is wrong with it says who opens it.
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def _finished(out: Path, inputs: str, *, overwrite: bool) -> PrepareReport | None:
    """Find out whether the store is there already; refuse anything else, unless it may be replaced."""
    if not out.exists():
        return None
    try:
        store = ChipStore.open(out)
    except StoreError as problem:
        raise OutputError(f"'{out}' exists and is no whole chip store ({problem}); remove it") from problem
    if store.inputs == inputs:
        return PrepareReport.from_dict(store.report, was_complete=True)
    if not overwrite:
        raise OutputError(
            f"'{out}' is a chip store of other images or options; replace it with --overwrite, or name another output"
        )
    return None


def _with_statistics(folder: Path, report: PrepareReport, *, shown: bool) -> PrepareReport:
    problems = ChipStore.open(folder).compute_statistics(shown=shown)
    return replace(report, notes=(*report.notes, *(f"no statistics of {problem}" for problem in problems)))
