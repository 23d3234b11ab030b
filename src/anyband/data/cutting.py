"""The work of preparing, piece by piece: look at an image, cut its chips."""

import datetime as dt
import math
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Num
from anyband.data.manifest import ImageEntry, is_future
from anyband.data.places import Place, PlacedImage, check_layout, check_split, make_place, off_globe, split_of
from anyband.data.store import Split
from anyband.errors import (
    AnybandError,
    GeometryError,
    InputError,
    ManifestError,
    OutputError,
    RasterError,
    nearest_name,
)
from anyband.rasters.footprints import (
    RESAMPLINGS,
    Box,
    View,
    chip_grid,
    plan_footprints,
    warp,
    warp_window,
)
from anyband.rasters.grid import Grid, Window, resample_bilinear, same_crs, source_window
from anyband.rasters.reader import RasterReader, open_raster
from anyband.sensors.sensor import FILE_ENCODINGS, Encoding, stored_encoding
from anyband.sensors.values import ValueCheck, sampled

__all__ = [
    "MIN_IMAGE_PX",
    "PIECES_PER_IMAGE",
    "Cut",
    "ImageSurvey",
    "Piece",
    "PlaceJob",
    "PlacedSurvey",
    "PrepareOptions",
    "SurveyedImage",
    "chip_bytes",
    "cut_image",
    "place_of",
    "plan_pieces",
    "read_view",
    "storage_of",
    "survey_image",
    "work_place",
]

# One patch of the usual vision transformer.
MIN_IMAGE_PX = 16
# chosen: fewer pixels a side hold no picture, to whatever size they are brought.
_MIN_ENLARGED_PX = 4

_DECIBEL_SCALE = 0.01
_DECIBEL_NODATA = -32768

# chosen: chips of small images are quicker kept in the ledger than in files of their own.
_SMALL_BYTES = 2**17

# chosen: the chips of one piece are in memory together, and are cut again when a run is killed.
_VALUES_PER_PIECE = 2**25
# More than any image has, so that the number of a piece tells its image.
PIECES_PER_IMAGE = 2**20
# chosen: images that are open together, and what is in memory of them.
_MOST_TOGETHER, _MOST_VALUES_TOGETHER = 8, 2**22

Cut = tuple[list[tuple[int, float, bool, int]], float, bytes | None, dict[str, str]]
"""(number, share of data, whether some value is missing, checksum) of each chip kept; the largest share; the chips one
after the other where they are small (None: in the piece's file); and kind → sentence of values that cannot be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSurvey:
    """What an image says when it is opened."""

    grid: Grid
    dtype: str
    nodata: float | None
    datetime: dt.datetime | None
    """UTC, if the file says it."""
    encoding: tuple[tuple[str, Encoding], ...] = ()
    """(band, how its numbers are stored) where that is in the file; empty: as the list says."""
    notes: tuple[str, ...] = ()
    """What a user should know of how it is read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Chips of one image that are cut together, and what the index says of them."""

    number: int
    image: int
    entry: ImageEntry
    survey: ImageSurvey
    place: str
    split: Split
    chips: tuple[tuple[str, View, Grid], ...]
    """Name of the footprint, what the image gives to it, and the chip's grid."""
    min_valid: float
    resampling: str
    """Of chips that are warped; see `RESAMPLINGS`."""
    stretch: float
    """Of an image without coordinates on the ground of others: its ratio of rows to columns over that of the ground."""
    spool: Path
    """File to write the chips to."""
    is_last: bool
    """Whether no other piece of the image follows."""


PlacedSurvey = tuple[int, ImageEntry, ImageSurvey]
"""Number of an image in the list, and what is known of it."""


_MIN_CHIP_PX = 16


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What decides the content of a store, besides the images."""

    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: whole images if they are small."""
    chip_m: float | None = None
    min_valid: float = 0.5
    """Least share of data of a chip; chosen: half, as for a token to be seen."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of the places for train, val and test."""
    seed: int = 0
    statistics: bool = False
    """Whether to compute statistics of the train split too."""
    chip_size: Mapping[str, int] = field(default_factory=dict)
    """Sensor → side, pixels, that all its chips are brought to, for all sensors; empty: chips keep their resolution."""
    resampling: Mapping[str, str] = field(default_factory=dict)
    """Sensor → how pixels are made that are not taken as they are (`RESAMPLINGS`); bilinear where it says nothing."""
    ratio_tolerance: float = 10.0
    """Per cent by which the ratio of an image without coordinates may differ from that of its place.
    chosen: sides of ten pixels that are rounded differ by as much."""

    def __post_init__(self) -> None:
        if self.chip_px is not None and self.chip_m is not None:
            raise InputError("chip_px and chip_m both say how large a chip is; give one of them")
        if self.chip_px is not None and self.chip_px < _MIN_CHIP_PX:
            raise InputError(f"chips of {self.chip_px} pixels are smaller than a patch ({_MIN_CHIP_PX} pixels)")
        if self.chip_m is not None and not 0 < self.chip_m < math.inf:
            raise InputError(f"chip_m must be over 0 metres and finite, found {self.chip_m:g}")
        for sensor, side in self.chip_size.items():
            if side < _MIN_CHIP_PX:
                raise InputError(f"chips of {side} pixels ({sensor}) are smaller than a patch ({_MIN_CHIP_PX} pixels)")
        for method in self.resampling.values():
            if method not in RESAMPLINGS:
                raise InputError(
                    f"resampling '{method}' is unknown ({', '.join(RESAMPLINGS)}){nearest_name(method, RESAMPLINGS)}"
                )
        if not 0 <= self.ratio_tolerance < 100:
            raise InputError(f"ratio_tolerance is per cent from 0 to below 100, found {self.ratio_tolerance:g}")
        if not 0 <= self.min_valid <= 1:
            raise InputError(f"min_valid is a share from 0 to 1, found {self.min_valid:g}")
        # Written so that a share that is no number fails too.
        if not (min(self.fractions) >= 0 and abs(sum(self.fractions) - 1) <= 1e-6):
            raise InputError(f"the shares of train, val and test must sum to 1, found {self.fractions}")

    def to_dict(self) -> dict[str, Any]:
        """Make plain JSON. What came later stands there only where it is used: stores of before keep their bytes."""
        plain, usual = {**asdict(self), "fractions": list(self.fractions)}, PrepareOptions()
        later = ("chip_size", "resampling", "ratio_tolerance")
        return {key: value for key, value in plain.items() if key not in later or value != getattr(usual, key)}

    @property
    def least_px(self) -> int:
        """Fewest pixels a side of an image."""
        return _MIN_ENLARGED_PX if self.chip_size else MIN_IMAGE_PX

    def check_sensors(self, names: Collection[str]) -> None:
        """See that sizes and resampling are of sensors that are there, and sizes of all of them."""
        for option, given in (("chip_size", self.chip_size), ("resampling", self.resampling)):
            for name in given:
                if name not in names:
                    raise InputError(
                        f"{option} names '{name}', of which there is no image ({', '.join(names)})"
                        f"{nearest_name(name, names)}"
                    )
        missing = [name for name in names if self.chip_size and name not in self.chip_size]
        if missing:
            raise InputError(
                f"chip_size names {', '.join(self.chip_size)} and not {', '.join(missing)}; give a size for each sensor"
            )


PlaceJob = tuple[PrepareOptions, Path, list[tuple[int, ImageEntry]]]
"""A declared place: how it is cut, the folder where chips wait, and its images by their numbers."""


SurveyedImage = tuple[int, ImageSurvey | str, list[tuple[int, Cut | str]]]
"""Number of an image, its survey, and the numbers of its pieces with what was cut of them already."""


def chip_bytes(piece: Piece, number: int, partial: bool) -> int:
    """Tell the size of a chip in the file of its piece."""
    _, view, _ = piece.chips[number]
    dtype = storage_of(piece.entry, piece.survey)[0]
    return len(piece.entry.sensor.bands) * view.height * view.width * (np.dtype(dtype).itemsize + partial)


def survey_image(entry: ImageEntry, *, least_px: int = MIN_IMAGE_PX) -> ImageSurvey | str:
    """Tell grid and type of an image; or the reason why it can't be used."""
    with ExitStack() as opened:
        return _survey(entry, opened, least_px)[0]


def _survey(entry: ImageEntry, opened: ExitStack, least_px: int) -> tuple[ImageSurvey | str, RasterReader | None]:
    try:
        reader = opened.enter_context(open_raster(entry.source, entry.sensor, entry.encoding))
        grid, dtype, nodata = reader.grid, str(reader.dtype), reader.nodata
        if min(grid.height, grid.width) < least_px:
            what = "a patch" if least_px == MIN_IMAGE_PX else "what can be enlarged"
            raise GeometryError(
                f"'{entry.name}' has {grid.height} × {grid.width} pixels, smaller than {what} ({least_px} × {least_px})"
            )
        if entry.place is not None:
            reader.check_laid(entry.name)
        nodata = None if nodata is None or np.isnan(nodata) else float(nodata)
        in_file = entry.source.encoding in FILE_ENCODINGS
        survey = ImageSurvey(
            grid=grid,
            dtype=dtype,
            nodata=nodata,
            datetime=reader.datetime,
            encoding=stored_encoding(reader.sensor) if in_file else (),
            notes=reader.notes,
        )
        storage_of(entry, survey)
        return _untrue(entry, survey) or survey, reader
    except OutputError:
        raise
    except AnybandError as problem:
        return str(problem), None


def _untrue(entry: ImageEntry, survey: ImageSurvey) -> str | None:
    """Say what an image says of its ground or time that can't be true."""
    problem = off_globe(survey.grid)
    if problem is not None:
        return f"'{entry.name}' {problem}"
    if entry.datetime is None and survey.datetime is not None and is_future(survey.datetime):
        return (
            f"'{entry.name}' says that it was taken at {survey.datetime:%Y-%m-%d %H:%M}, which lies in the future; "
            "declare its `datetime` in the manifest"
        )
    return None


def plan_pieces(
    place: Place, images: Sequence[PlacedSurvey], options: PrepareOptions, *, spool: Path
) -> Iterator[tuple[int, list[Piece]]]:
    """Give for each image of a place (its position, and) the footprints that it covers, in pieces; none where it covers
    too little of any."""
    layout, min_valid = place.layout, options.min_valid
    sensors = [entry.sensor.name for _, entry, _ in images]
    footprints = plan_footprints(
        layout,
        chip_px=options.chip_px,
        chip_m=options.chip_m,
        min_cover=min_valid,
        sides=[options.chip_size[name] for name in sensors] if options.chip_size else None,
        warped={position for position, name in enumerate(sensors) if name in options.resampling},
    )
    split = place.split or split_of(place.name, seed=options.seed, fractions=options.fractions)
    placed = (source for (_, _, survey), source in zip(images, layout[2], strict=True) if survey.grid.crs)
    ground = _aspect(next((source for source in placed if same_crs(source.crs, layout[0].crs)), layout[0]))
    given: list[list[tuple[str, Box, View]]] = [[] for _ in images]
    for name, box, views in footprints:
        for position, view in views:
            given[position].append((name, box, view))
    for position, (image, entry, survey) in enumerate(images):
        chips = [(name, view, _chip_grid(layout[0], box, view, survey.grid)) for name, box, view in given[position]]
        values = max((view.height * view.width for _, view, _ in chips), default=1) * len(entry.sensor.bands)
        size = max(1, _VALUES_PER_PIECE // values)
        pieces = []
        for index, start in enumerate(range(0, len(chips), size)):
            number = image * PIECES_PER_IMAGE + index
            pieces.append(
                Piece(
                    number=number,
                    image=image,
                    entry=entry,
                    survey=survey,
                    place=place.name,
                    split=split,
                    chips=tuple(chips[start : start + size]),
                    min_valid=min_valid,
                    resampling=options.resampling.get(entry.sensor.name, "bilinear"),
                    stretch=1.0 if survey.grid.crs else round(_aspect(layout[2][position]) / ground, 9),
                    spool=spool / f"{number:012d}.chips",
                    is_last=start + size >= len(chips),
                )
            )
        yield position, pieces


def _aspect(grid: Grid) -> float:
    """Tell how much wider than high a pixel is, in coordinates."""
    a, b, _, d, e, _ = grid.transform
    return math.hypot(a, d) / math.hypot(b, e)


def _chip_grid(anchor: Grid, box: Box, view: View, own: Grid) -> Grid:
    """Make the grid of a chip; where its pixels are the image's own, or about, they are called as large as these."""
    grid = chip_grid(anchor, box, view.height, view.width)
    if view.source is not None or (own.crs is None and anchor.crs is not None):
        return grid
    return replace(grid, gsd_m=own.gsd_m, crs=own.crs)


def place_of(images: Sequence[PlacedSurvey], options: PrepareOptions) -> Place:
    """Make the place that images of one list declare; `GeometryError` or `ManifestError` where they do not fit."""
    declared = tuple(
        PlacedImage(name=entry.name, grid=survey.grid, place=entry.place, split=entry.split)
        for _, entry, survey in images
    )
    assert declared[0].place is not None
    place = make_place(declared[0].place, declared, options.ratio_tolerance)
    check_layout(place)
    check_split(place)
    return place


def work_place(job: PlaceJob) -> list[SurveyedImage]:
    """Survey the images of a declared place, and cut them while they are open where they are few and small; else, and
    where something is wrong, they are left to be cut later."""
    options, spool, images = job
    if len(images) > _MOST_TOGETHER:
        return [(number, survey_image(entry, least_px=options.least_px), []) for number, entry in images]
    with ExitStack() as opened:
        looked_at = [(number, entry, *_survey(entry, opened, options.least_px)) for number, entry in images]
        usable = [(number, entry, survey) for number, entry, survey, _ in looked_at if not isinstance(survey, str)]
        readers = [reader for _, _, survey, reader in looked_at if not isinstance(survey, str)]
        cuts: dict[int, list[tuple[int, Cut | str]]] = {}
        values = sum(survey.grid.height * survey.grid.width * len(entry.sensor.bands) for _, entry, survey in usable)
        if usable and values <= _MOST_VALUES_TOGETHER:
            with suppress(GeometryError, ManifestError):
                for position, pieces in plan_pieces(place_of(usable, options), usable, options, spool=spool):
                    cuts[usable[position][0]] = [(one.number, cut_image(one, readers[position])) for one in pieces]
        return [(number, survey, cuts.get(number, [])) for number, _, survey, _ in looked_at]


def storage_of(entry: ImageEntry, survey: ImageSurvey) -> tuple[str, tuple[tuple[str, Encoding], ...], float | None]:
    """Decide how numbers are kept: integers as they are, dB as int16 × 0.01, other floats as float32; `RasterError` for
    other types. Gives the type, the encoding of each band and the number kept without data (None: only validity
    tells)."""
    dtype, nodata, stored = survey.dtype, survey.nodata, survey.encoding or entry.encoding
    kind = np.dtype(dtype).kind
    if kind in "iu":
        limits = np.iinfo(dtype)
        fits = nodata is not None and limits.min <= nodata <= limits.max and nodata == int(nodata)
        return dtype, stored, nodata if fits else None
    if kind == "b":
        return "uint8", stored, None
    if kind != "f":
        raise RasterError(f"'{entry.name}' has numbers of type {dtype}; integers and floats can be prepared")
    if all(band.unit == "sigma0_db" for band in entry.sensor.bands):
        encoding = tuple((band, Encoding(scale=_DECIBEL_SCALE)) for band, _ in stored)
        return "int16", encoding, float(_DECIBEL_NODATA)
    return "float32", stored, None


def cut_image(piece: Piece, reader: RasterReader | None = None) -> Cut | str:
    """Cut the chips of a piece; those with enough data go to its file, whole or not at all, unless they are small.
    Gives the reason instead where the image can't be read."""
    kept: list[tuple[int, float, bool, int]] = []
    best = 0.0
    parts: list[bytes] = []
    samples: list[tuple[Array, Array]] = []
    try:
        for number, (pixels, valid) in enumerate(_cut(piece, reader, samples)):
            share = int(np.count_nonzero(valid)) / valid.size
            best = max(best, share)
            if share > 0 and share >= piece.min_valid:
                partial = share < 1
                parts.append(pixels.tobytes() + (valid.tobytes() if partial else b""))
                kept.append((number, share, partial, zlib.crc32(parts[-1])))
    except OutputError:
        raise
    except AnybandError as problem:
        return str(problem)
    dn, known = (np.concatenate(some, axis=-1)[None] for some in zip(*samples, strict=True))
    said = {kind: sentence for kind, (sentence, _) in _value_check(piece)(dn, known).items()}
    if sum(map(len, parts)) <= _SMALL_BYTES:
        return kept, best, b"".join(parts), said
    _write_spool(piece.spool, parts)
    return kept, best, None, said


# Checks of the sensors and encodings seen last, by their ids; both stand in the value too, so that no other gets them.
_MAX_CHECKS = 64
_checks: dict[tuple[int, int], tuple[object, object, ValueCheck]] = {}


def _value_check(piece: Piece) -> ValueCheck:
    sensor, encoding = piece.entry.sensor, piece.survey.encoding or piece.entry.encoding
    key = id(sensor), id(encoding)
    if key not in _checks:
        if len(_checks) >= _MAX_CHECKS:
            _checks.clear()
        statistics = [band.statistics for band in sensor.bands]
        limits = [None if one is None else (one.p01, one.p99) for one in statistics]
        _checks[key] = sensor, encoding, ValueCheck(sensor, [code for _, code in encoding], limits)
    return _checks[key][2]


def _cut(
    piece: Piece, reader: RasterReader | None, samples: list[tuple[Array, Array]]
) -> Iterator[tuple[Array, Array]]:
    """Give the chips as they are kept, and note some of their numbers as they are stored."""
    with nullcontext(reader) if reader else open_raster(piece.entry.source, piece.entry.sensor) as reader:
        for cell, view, grid in piece.chips:
            read = _warped(reader, view.source, grid, piece.resampling) if view.source else read_view(reader, view)
            if read is None:
                raise GeometryError(f"cell '{cell}' lies outside its image")
            samples.append((sampled(read[0]), sampled(read[1])))
            yield _kept_numbers(*read, piece)


def _warped(
    reader: RasterReader, source: Grid, grid: Grid, resampling: str
) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
    """Read what an image on a grid shows of another one. In a corner that it does not reach nothing is valid."""
    window = warp_window(source, grid, resampling)
    if window is None:
        shape = (len(reader.band_names), grid.height, grid.width)
        return np.zeros(shape, dtype=reader.dtype), np.zeros(shape, dtype=bool)
    raster = reader.read(window)
    return warp(raster.dn, raster.valid, source=source.part(window), target=grid, resampling=resampling)


def read_view(
    reader: RasterReader, view: View
) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]] | None:
    """Read a view of an image on its own grid; what lies beyond the image is not valid. None where all of it does."""
    whole = Window(row=0, col=0, height=view.height, width=view.width)
    window = source_window(view.placement, whole)
    if window is None:
        return None
    if not view.is_copy:
        raster = reader.read(window)
        values, known = resample_bilinear(raster.dn, raster.valid, placement=view.placement, part=window, window=whole)
        rounded = np.rint(values, out=values) if raster.dn.dtype.kind in "iu" else values
        return rounded.astype(raster.dn.dtype, copy=False), known
    # Without neighbours: pixels that are copied need none.
    rows = _overlap(int(view.placement.rows.offset), view.height, window.row, window.height)
    cols = _overlap(int(view.placement.cols.offset), view.width, window.col, window.width)
    height, width = rows[1].stop - rows[1].start, cols[1].stop - cols[1].start
    raster = reader.read(
        Window(row=window.row + rows[1].start, col=window.col + cols[1].start, height=height, width=width)
    )
    if (height, width) == (view.height, view.width):
        return raster.dn, raster.valid
    pixels = np.zeros((len(raster.dn), view.height, view.width), dtype=raster.dn.dtype)
    known = np.zeros(pixels.shape, dtype=bool)
    pixels[:, rows[0], cols[0]] = raster.dn
    known[:, rows[0], cols[0]] = raster.valid
    return pixels, known


def _overlap(offset: int, size: int, start: int, length: int) -> tuple[slice, slice]:
    """Find the pixels that a chip from `offset` and a window from `start` share, in each of them."""
    first, last = max(offset, start), min(offset + size, start + length)
    return slice(first - offset, last - offset), slice(first - start, last - start)


def _kept_numbers(dn: Array, valid: Array, piece: Piece) -> tuple[Array, Array]:
    dtype, _, nodata = storage_of(piece.entry, piece.survey)
    if dn.dtype.kind == "f" and dtype == "int16":
        return _as_decibel(dn, valid, [encoding for _, encoding in piece.survey.encoding or piece.entry.encoding])
    kept = dn.astype(dtype, copy=False)
    if dtype == "float32":
        valid = valid & np.isfinite(kept)
    if (nodata is not None or dtype == "float32") and not valid.all():
        kept[~valid] = nodata or 0
    return kept, valid


def _as_decibel(dn: Array, valid: Array, encodings: Sequence[Encoding]) -> tuple[Array, Array]:
    """Decode radar to decibels, kept as int16 × 0.01. No echo has no logarithm, so it counts as no data."""
    kept = np.full(dn.shape, _DECIBEL_NODATA, dtype=np.int16)
    known = valid.copy()
    limit = np.iinfo(np.int16).max
    for band, encoding in enumerate(encodings):
        decibel = encoding.decode(dn[band].astype(np.float64))
        known[band] &= np.isfinite(decibel)
        kept[band][known[band]] = np.clip(np.rint(decibel[known[band]] / _DECIBEL_SCALE), -limit, limit)
    return kept, known


def _write_spool(path: Path, parts: Sequence[bytes]) -> None:
    beside = path.with_name(f".partial.{path.name}")
    try:
        with beside.open("wb") as file:
            file.writelines(parts)
        beside.replace(path)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write '{path}': {problem.strerror or problem}; what is finished is kept: "
            "free some room and run the same command again"
        ) from problem
