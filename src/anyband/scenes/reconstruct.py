"""An image that was not taken, or what clouds hid of one."""

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.cutting import ImageSurvey, survey_image
from anyband.data.harmonise import can_hold, rounded_into, to_stored
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.encode.complete import ImageView, PlaceView, SetCompleter
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import ImageMetadata, Precision, checked_metadata
from anyband.errors import AssignmentError, CatalogueError, GeometryError, InputError, counted
from anyband.files import file_identity
from anyband.progress import Advance
from anyband.rasters.footprints import Box, chip_grid, place_image, whole_box
from anyband.rasters.grid import Axis, Blender, Grid, Window, pixel_size_m, same_crs, source_window, window_starts
from anyband.rasters.reader import RasterReader, RasterSource, open_raster, open_sheet
from anyband.scenes.outputs import (
    SceneImage,
    as_utc,
    checked_outputs,
    corners_of,
    said_of,
    write_reconstruction_picture,
    write_scene,
)
from anyband.sensors.sensor import Sensor, encoded, stored_encoding

__all__ = ["ReconstructReport", "TargetImage", "reconstruct"]

_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# chosen: a stored unit that is less than a physical one shows that whole numbers are meant.
_WHOLE_SCALE = 1.0
# chosen: the rows that are written at once are the GeoTIFF's own blocks, so that none is written twice.
_BLOCK_ROWS = 256
# Rounding of edges, pixels.
_TINY = 1e-6
_NAMED_REASONS = 3

T = TypeVar("T")
Candidate = tuple[ImageEntry, ImageSurvey]
"""An image that can be read: what the list says of it, and what its files say."""


Layout = tuple[Sensor, Grid, str, float | None, list[str]]
"""What is written: the sensor with its bands, whose default encoding is how they are stored; where the pixels lie; the
NumPy name of their type; the number that means no data; and where type and encoding come from, if nobody named them."""


@dataclass(frozen=True, kw_only=True)
class TargetImage:
    """An image to reconstruct."""

    sensor: Sensor
    time: dt.datetime | None = None
    """When it was, or would have been, taken, UTC; None: the time of its file."""
    entry: ImageEntry | None = None
    """The image as it is, whose masks say what of it is seen; None: nothing is."""
    bands: tuple[str, ...] = ()
    """To write where nothing is seen; empty: those of the sensor's nearest other image, else all."""
    encoding: str | None = None
    """How to store numbers where nothing is seen; None: as that image does, else the sensor's default."""
    dtype: str | None = None
    """NumPy name of the type to store them in; None: as that image does, else what the encoding needs."""
    like: Path | None = None
    """A raster whose grid an unseen target has; None: the first other image's ground, at the sensor's gsd."""


@dataclass(frozen=True, kw_only=True)
class ReconstructReport:
    """What was written."""

    image: Path
    """GeoTIFF of digital numbers, as the sensor stores them."""
    picture: Path | None
    """The other images, the target as it was, and filled; None: not requested."""
    grid: Grid
    num_filled: int
    """Pixels of which a band was predicted."""
    num_unfilled: int
    """Pixels that should have been, but no image shows anything around them."""
    context: tuple[str, ...]
    """Sensor and time of each image that was looked at, the anchor first."""
    notes: tuple[str, ...]
    """What a user should know: encoding, type, statistics, interpolated bands, images left out."""


def reconstruct(
    completer: SetCompleter,
    context: Sequence[ImageEntry],
    target: TargetImage,
    out: Path,
    *,
    window: int | None = None,
    num_context: int | None = None,
    precision: Precision = "float32",
    batch_size: int = 16,
    draw: bool = True,
    tags: Mapping[str, object] | None = None,
    shown: bool = False,
) -> ReconstructReport:
    """Write an image as its sensor would store it, predicted where it is not seen, and `OUT_picture.png` beside it.

    Pixels of a given target that have data keep their numbers to the bit; those without, or that its mask calls cloudy,
    are predicted, as all are where none is given. Windows overlap by half and are blended.

    Args:
        context: other images of the place, as `read_manifest` gives them. The target itself is left out of them.
        window: edge of what the network sees at once, pixels of the target; None: its own size, or all.
        num_context: other images to look at; None: as many as in training, at most.

    Raises:
        InputError: no image to look at, a date that is missing or in the future, nothing that could be predicted.
        AssignmentError: bands that the network can't reconstruct.
        GeometryError: a target smaller than a patch, or a window that does not fit it.
        OutputError: an output can't be written. Each appears whole or not at all.
    """
    sources = [one.source for one in (*context, target.entry) if one]
    limits = {"batch_size": batch_size, "num_context": num_context}
    out, picture = checked_outputs(out, sources, picture="picture", counts=limits)
    others, left_out = _kept(context, [_surveyed(entry) for entry in context], "can be read")
    with ExitStack() as opened:
        seen = target.entry
        reader = None if seen is None else opened.enter_context(open_raster(seen.source, seen.sensor, seen.encoding))
        time = _time_of(target, reader)
        others, itself = _without_target(others, target, time)
        layout = _unseen_layout(target, others, time) if reader is None else _seen_layout(target, reader)
        sensor, grid, *_, how = layout
        spec = completer.target_spec(sensor)
        images, unused = _looked_at(completer, others, grid, time, num_context or completer.num_context, opened)
        edge = _window(completer, grid, window)
        found = _tags(sensor, images, time) | {"ANYBAND_WINDOW_PX": edge} | dict(tags or {})
        given = partial(_place, spec=spec, images=images, grid=grid, time=as_utc(time))
        counts = _write(out, completer, given, layout, reader, spec, edge, precision, batch_size, found, shown)
        if draw:
            write_reconstruction_picture(picture, out, grid, sensor, images, reader)
    read = [*chain(*(one.notes for one in (spec, *(image.spec for image in images)))), *said_of(images, seen, reader)]
    return ReconstructReport(
        image=out,
        picture=picture if draw else None,
        grid=grid,
        num_filled=counts[0],
        num_unfilled=counts[1],
        context=tuple(image.title for image in images),
        notes=tuple(dict.fromkeys([*completer.notes, *how, *read, *itself, *left_out, *unused])),
    )


def _looked_at(
    completer: SetCompleter, others: Sequence[Candidate], grid: Grid, time: dt.datetime, count: int, opened: ExitStack
) -> tuple[list[SceneImage], list[str]]:
    """Choose and open the images to look at, the anchor first; say why others can't be."""
    found = [_not_there(image, grid) or image for image in others]
    placed, elsewhere = _kept([entry for entry, _ in others], found, "shows ground of the target")
    read = [_readable(completer, image) for image in placed]
    readable, unread = _kept([entry for entry, _ in placed], read, "can be read by this network")
    specs = {id(one): spec for one, spec in readable}
    chosen = _nearest_in_time([one for one, _ in readable], time, count)
    return [_opened(one, specs[id(one)], grid, opened) for one in chosen], [*elsewhere, *unread]


def _nearest_in_time(images: Sequence[Candidate], time: dt.datetime, count: int) -> list[Candidate]:
    """Choose images around a time, mixed over sensors: the nearest of each sensor before and after it, nearest first;
    then the second of each, and so on. Images whose time is unknown come last."""

    def distance_s(image: Candidate) -> float:
        own = _taken_at(image)
        return float("inf") if own is None else abs((own - time).total_seconds())

    ranks: dict[tuple[str, bool], int] = defaultdict(int)
    keyed = []
    for image in sorted(images, key=distance_s):
        own = _taken_at(image)
        side = (image[0].sensor.name, own is not None and own < time)
        keyed.append(((own is None, ranks[side], distance_s(image)), image))
        ranks[side] += 1
    return [image for _, image in sorted(keyed, key=lambda pair: pair[0])[:count]]


def _write(
    out: Path,
    completer: SetCompleter,
    place: Callable[[Window, Array, Array], PlaceView],
    layout: Layout,
    reader: RasterReader | None,
    spec: InputSpec,
    edge: int,
    precision: Precision,
    batch_size: int,
    tags: Mapping[str, object],
    shown: bool,
) -> tuple[int, int]:
    """Write the target by windows of an edge, which overlap by half; count filled pixels, and those that stay without
    data."""
    sensor, grid, dtype, nodata, _ = layout
    starts = [window_starts(size, edge, max(1, edge // 2)) for size in (grid.height, grid.width)]
    rows = [[Window(row=row, col=col, height=edge, width=edge) for col in starts[1]] for row in starts[0]]
    counts = np.zeros(2, dtype=np.int64)
    write_scene(
        out,
        partial(_strips, rows, place, completer, layout, reader, spec, counts, precision, batch_size),
        grid=grid,
        dtype=dtype,
        descriptions=sensor.band_names,
        nodata=nodata,
        tags=tags,
        title=f"reconstruct {out.name}",
        num_views=sum(map(len, rows)),
        shown=shown,
    )
    return int(counts[0]), int(counts[1])


def _strips(
    rows: Sequence[Sequence[Window]],
    place: Callable[[Window, Array, Array], PlaceView],
    completer: SetCompleter,
    layout: Layout,
    reader: RasterReader | None,
    spec: InputSpec,
    counts: Int[Array, "2"],
    precision: Precision,
    batch_size: int,
    advance: Advance,
) -> Iterator[tuple[Window, Array]]:
    """Make a target, which is seen by `reader` (None: nothing is), of rows of overlapping windows, blended; add the
    filled pixels, and those that stay without data, to `counts`."""
    sensor, grid, dtype, nodata, _ = layout
    first = rows[0][0]
    blender = Blender(num_bands=len(sensor.bands), width=grid.width, window=first.height, num_rows=_BLOCK_ROWS)
    for windows, end in zip(rows, [*(row[0].row for row in rows[1:]), grid.height], strict=True):
        for start in range(0, len(windows), batch_size):
            some = windows[start : start + batch_size]
            targets = [(window, *_seen(reader, window, layout)) for window in some]
            # Windows where nothing is to be done, or nothing is seen, are passed.
            places = [(target[0], place(*target)) for target in targets if not target[2].all()]
            needed = {window: one for window, one in places if one.has_data}
            if needed:
                predicted = completer.complete(list(needed.values()), precision=precision)
                for window, pixels in zip(needed, predicted, strict=True):
                    blender.add(window, pixels)
            advance(len(some))
        while (left := end - blender.first_row) >= _BLOCK_ROWS or (end == grid.height and left):
            strip = Window(row=blender.first_row, col=0, height=min(left, _BLOCK_ROWS), width=grid.width)
            values, (dn, valid) = blender.take(strip.height), _seen(reader, strip, layout)
            known = np.isfinite(values)
            numbers = np.where(known, to_stored(values, spec.normalisation), 0.0)
            # A given target keeps what it holds; elsewhere there is no data.
            rest = dn if reader is not None or nodata is None else np.full_like(dn, nodata)
            filled, unfilled = ~valid & known, ~valid & ~known
            counts += [filled.any(axis=0).sum(), unfilled.any(axis=0).sum()]
            yield strip, np.where(filled, rounded_into(numbers, dtype, nodata=nodata), rest)
    _check_filled(int(counts[0]), int(counts[1]), sensor.name, can_miss=reader is not None or nodata is not None)


def _seen(
    reader: RasterReader | None, window: Window, layout: Layout
) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
    if reader is not None:
        raster = reader.read(window)
        return raster.dn, raster.valid
    shape = (len(layout[0].bands), window.height, window.width)
    return np.zeros(shape, dtype=layout[2]), np.zeros(shape, dtype=bool)


def _check_filled(num_filled: int, num_unfilled: int, name: str, *, can_miss: bool) -> None:
    if num_unfilled and not num_filled:
        raise InputError("none of the images has data where the target has none, so nothing of it can be predicted")
    if num_unfilled and not can_miss:
        raise InputError(
            f"no image has data around {counted(num_unfilled, 'pixel')} of the target, and '{name}' has no "
            "number that means no data; name a smaller grid with --like, or a floating-point type with --dtype"
        )


def _place(
    window: Window,
    dn: Array,
    valid: Array,
    spec: InputSpec,
    images: Sequence[SceneImage],
    grid: Grid,
    time: np.datetime64,
) -> PlaceView:
    """Read what all images show of a window of the target."""
    height, width = window.height, window.width
    box = Box(row=0.0, col=0.0, height=float(height), width=float(width))
    return PlaceView(
        context=tuple(_view(image, window) for image in images),
        target=ImageView(spec=spec, dn=dn, valid=valid, box=box, gsd_m=grid.part(window).gsd_m, time=time),
        unseen=np.asarray(~valid.all(axis=0)),
        corners_deg=corners_of(grid, row=float(window.row), col=float(window.col), height=height, width=width),
    )


def _view(image: SceneImage, window: Window) -> ImageView:
    """Read what an image shows of a window of the target's grid; beyond its edge there is no data."""
    rows, cols, reader = image.placement.rows, image.placement.cols, image.reader
    row, height, pad_rows = _touched(rows, window.row, window.height)
    col, width, pad_cols = _touched(cols, window.col, window.width)
    dn = np.zeros((len(reader.band_names), height, width), dtype=reader.dtype)
    valid = np.zeros(dn.shape, dtype=bool)
    first_row, first_col = max(row, 0), max(col, 0)
    num_rows = min(row + height, reader.grid.height) - first_row
    num_cols = min(col + width, reader.grid.width) - first_col
    if num_rows > 0 and num_cols > 0:
        raster = reader.read(Window(row=first_row, col=first_col, height=num_rows, width=num_cols))
        at_row, at_col = first_row - row, first_col - col
        inside = (slice(None), slice(at_row, at_row + num_rows), slice(at_col, at_col + num_cols))
        dn[inside], valid[inside] = raster.dn, raster.valid
    box = Box(row=pad_rows, col=pad_cols, height=rows.scale * window.height, width=cols.scale * window.width)
    return ImageView(spec=image.spec, dn=dn, valid=valid, box=box, gsd_m=reader.grid.gsd_m, time=image.time)


def _touched(axis: Axis, start: int, size: int) -> tuple[int, int, float]:
    """Find the source pixels that a stretch of the target touches: the first, how many, and where it begins in them."""
    begin = axis.scale * start + axis.offset
    first = int(np.floor(begin + _TINY))
    last = int(np.ceil(begin + axis.scale * size - _TINY))
    return first, last - first, max(0.0, begin - first)


def _taken_at(image: Candidate) -> dt.datetime | None:
    entry, survey = image
    return entry.datetime or survey.datetime


def _surveyed(entry: ImageEntry) -> Candidate | str:
    survey = survey_image(entry)
    return survey if isinstance(survey, str) else (entry, survey)


def _not_there(image: Candidate, grid: Grid) -> str:
    entry, survey = image
    if not same_crs(survey.grid.crs, grid.crs):
        return (
            f"it has {survey.grid.crs or 'no coordinate system'}, the target {grid.crs or 'none'}; "
            "reproject one of them"
        )
    try:
        placement = place_image(grid, survey.grid, entry.name)
    except GeometryError as problem:
        return str(problem)
    return "" if source_window(placement, grid.whole) is not None else "it shows no ground of the target"


def _readable(completer: SetCompleter, image: Candidate) -> tuple[Candidate, InputSpec] | str:
    try:
        return image, completer.context_spec(entry_sensor(image[0]))
    except (AssignmentError, CatalogueError) as problem:
        return str(problem)


def _kept(entries: Sequence[ImageEntry], found: Sequence[T | str], what: str) -> tuple[list[T], list[str]]:
    """Keep what was found of images; a text says why one is left out, of long lists the first texts and a count.
    `InputError` where none is left."""
    reasons = zip(entries, found, strict=True)
    notes = [f"'{entry.name}' is left out: {one}" for entry, one in reasons if isinstance(one, str)]
    more = len(notes) - _NAMED_REASONS
    few = [*notes[:_NAMED_REASONS], *([f"and {more} more images are left out"] if more > 0 else [])]
    if len(notes) == len(found):
        raise InputError(
            f"none of the {counted(len(found), 'image')} {what}, so there is nothing to reconstruct from: "
            f"{'; '.join(few)}"
        )
    return [one for one in found if not isinstance(one, str)], few


def _opened(image: Candidate, spec: InputSpec, grid: Grid, opened: ExitStack) -> SceneImage:
    entry, survey = image
    reader = opened.enter_context(open_raster(entry.source, entry.sensor, entry.encoding))
    reader.check_laid(entry.name)
    placement, time = place_image(grid, survey.grid, entry.name), as_utc(_taken_at(image))
    return SceneImage(name=entry.name, reader=reader, spec=spec, placement=placement, time=time)


def _time_of(target: TargetImage, reader: RasterReader | None) -> dt.datetime:
    time = target.time or (None if reader is None else reader.datetime)
    if time is None:
        raise InputError("when was the target taken? Nothing says it; name its date, such as 2020-07-01T10:30:00Z")
    # The one place that refuses dates of the future.
    checked_metadata(ImageMetadata(datetime=time), name="the target")
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _files_of(source: RasterSource) -> tuple[Any, ...]:
    return [file_identity(path) for path in source.paths], source.time_index


def _without_target(
    others: Sequence[Candidate], target: TargetImage, time: dt.datetime
) -> tuple[list[Candidate], list[str]]:
    """Leave out what is the target itself: its own files, and its sensor's images of its day."""

    def is_target(image: Candidate) -> bool:
        source, own = image[0].source, _taken_at(image)
        same_file = target.entry is not None and _files_of(source) == _files_of(target.entry.source)
        same_day = own is not None and own.astimezone(dt.UTC).date() == time.astimezone(dt.UTC).date()
        return image[0].sensor.name == target.sensor.name and (same_file or same_day)

    kept = [image for image in others if not is_target(image)]
    notes = [f"'{entry.name}' is left out: it is the target itself" for entry, _ in filter(is_target, others)]
    if not kept:
        raise InputError("the list holds no image but the target itself, so there is nothing to reconstruct it from")
    return kept, notes


def _window(completer: SetCompleter, grid: Grid, requested: int | None) -> int:
    patch, least = completer.model.config.encoder.patch_size, min(grid.height, grid.width)
    if least < patch:
        raise GeometryError(
            f"a target of {grid.height} × {grid.width} pixels is smaller than one patch of {patch} × {patch}"
        )
    window = requested or min(completer.img_size, least)
    if not patch <= window <= least:
        raise GeometryError(
            f"a window of {window} pixels does not fit a target of {grid.height} × {grid.width}; "
            f"take {patch} to {least}"
        )
    return window


def _tags(sensor: Sensor, images: Sequence[SceneImage], time: dt.datetime) -> dict[str, object]:
    keys, codes = ("scale", "offset", "transform"), stored_encoding(sensor)
    return {
        "ANYBAND_SENSOR": sensor.name,
        "ANYBAND_ENCODING": {name: {key: getattr(code, key) for key in keys} for name, code in codes},
        "ANYBAND_DATETIME": f"{as_utc(time)}Z",
        "ANYBAND_CONTEXT": "; ".join(image.title for image in images),
    }


def _seen_layout(target: TargetImage, reader: RasterReader) -> Layout:
    """Keep everything as the target's own file has it; `InputError` where something else is requested."""
    assert target.entry is not None
    for what, requested in (("--dtype", target.dtype), ("--like", target.like)):
        if requested is not None:
            raise InputError(f"{what} says what the file of the target says already; leave it out")
    sensor, dtype = entry_sensor(target.entry), str(reader.dtype)
    return sensor, reader.grid, dtype, _held(reader.nodata, dtype), []


def _unseen_layout(target: TargetImage, others: Sequence[Candidate], time: dt.datetime) -> Layout:
    """Choose what to write of an image of which there is no file."""
    alike = _nearest_in_time([one for one in others if one[0].sensor.name == target.sensor.name], time, 1)
    sensor, reason = _sensor(target, alike[0][0] if alike else None)
    dtype = target.dtype
    if dtype is not None and dtype not in _TYPES:
        raise InputError(f"dtype '{dtype}' is not one of {', '.join(_TYPES)}")
    survey = alike[0][1] if alike and target.encoding is None else None
    dtype = dtype or (_usual_type(sensor) if survey is None else survey.dtype)
    nodata = None if survey is None else survey.nodata
    nodata = _held(target.sensor.nodata if nodata is None else nodata, dtype)
    if np.dtype(dtype).kind == "f" and nodata is None:
        nodata = float("nan")
    grid = _grid_at(others[0][1].grid, sensor.gsd_m) if target.like is None else _grid_of(target.like, sensor)
    notes = [f"stored as {dtype}, encoding '{sensor.default_encoding}'{reason}"]
    return sensor, grid, dtype, nodata, notes


def _held(nodata: float | None, dtype: str) -> float | None:
    """Keep a number that the type can hold: no other stands in the file."""
    return nodata if nodata is not None and can_hold(dtype, nodata) else None


def _sensor(target: TargetImage, alike: ImageEntry | None) -> tuple[Sensor, str]:
    """Choose bands and encoding, and say after what: the nearest image of the sensor, if there is one."""
    whole = target.sensor
    named = target.encoding or whole.default_encoding
    if alike is None:
        return encoded(whole.select(target.bands) if target.bands else whole, named), ""
    like = entry_sensor(alike)
    names = tuple(whole.band(name).name for name in target.bands) or like.band_names
    if target.encoding is not None or any(name not in like.band_names for name in names):
        return encoded(whole.select(names), named), ""
    return like.select(names), f", as '{alike.name}'"


def _usual_type(sensor: Sensor) -> str:
    """Choose a type by the encoding: whole numbers where a stored unit is not a physical one, and for counts; signed
    ones for decibels, which lie mostly under 0."""
    units = {band.unit for band in sensor.bands}
    if units == {"count"}:
        largest = max(band.statistics.p99 if band.statistics else np.inf for band in sensor.bands)
        return "uint8" if largest <= np.iinfo(np.uint8).max else "uint16"
    if any(abs(band.encoding(sensor.default_encoding).scale) >= _WHOLE_SCALE for band in sensor.bands):
        return "float32"
    return "int16" if "sigma0_db" in units else "uint16"


def _grid_of(path: Path, sensor: Sensor) -> Grid:
    with closing(open_sheet(path)) as sheet:
        size = {"height": sheet.height, "width": sheet.width}
        gsd_m = sensor.gsd_m if sheet.crs is None else pixel_size_m(sheet.transform, crs=sheet.crs, **size)
        return Grid(transform=sheet.transform, crs=sheet.crs, gsd_m=float(gsd_m), **size)


def _grid_at(grid: Grid, gsd_m: float) -> Grid:
    """Cut the ground of a grid into pixels of about another size, a whole number of them."""
    height, width = (max(1, round(size * grid.gsd_m / gsd_m)) for size in (grid.height, grid.width))
    cut = chip_grid(grid, whole_box(grid), height, width)
    # Without georeference coordinates are pixels, of whatever size.
    return replace(cut, transform=grid.transform) if grid.crs is None else cut
