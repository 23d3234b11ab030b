"""An image that was not taken, or what clouds hid of one."""

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from anyband.arrays import Array, Bool, Float, Num
from anyband.data.harmonise import can_hold, composite, decode, picture, rounded_into, to_stored
from anyband.data.manifest import ImageEntry, entry_sensor
from anyband.data.places import corners_lonlat
from anyband.encode.complete import ImageView, PlaceView, SetCompleter
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import ImageMetadata, Precision, checked_metadata
from anyband.errors import GeometryError, InputError, OutputError
from anyband.files import check_target, whole_file
from anyband.progress import Advance, progress
from anyband.rasters.footprints import place_image
from anyband.rasters.formats import GdalSheet
from anyband.rasters.grid import (
    Axis,
    Blender,
    Grid,
    Placement,
    Window,
    pixel_size_m,
    resample_nearest,
    source_window,
    window_starts,
    windows_covering,
)
from anyband.rasters.reader import RasterReader, RasterSource, open_raster
from anyband.rasters.writer import GeoTiffWriter, geotiff_writer
from anyband.report.maps import pictures_png
from anyband.scenes.context import OpenImage, OtherImage, nearest_in_time, placed_images, readable_images, survey_images
from anyband.sensors.sensor import Encoding, Sensor

__all__ = [
    "ReconstructOptions",
    "ReconstructReport",
    "TargetImage",
    "TargetLayout",
    "layout_as_seen",
    "layout_of_unseen",
    "reconstruct",
    "write_reconstruction_picture",
]

_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")
# chosen: a stored unit that is less than a physical one shows that whole numbers are meant.
_WHOLE_SCALE = 1.0


@dataclass(frozen=True, kw_only=True)
class TargetImage:
    """An image to reconstruct."""

    sensor: Sensor
    """The whole sensor."""
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
    """A raster whose grid the target has where nothing is seen; None: the ground of the first other image, at the
    sensor's ground sampling distance."""


@dataclass(frozen=True, kw_only=True)
class TargetLayout:
    """What is written."""

    sensor: Sensor
    """With the bands written; its default encoding is how they are stored."""
    grid: Grid
    """Where the pixels lie."""
    dtype: str
    """NumPy name of the type."""
    nodata: float | None
    """Stored number that means "no data"; None: there is none."""
    notes: tuple[str, ...] = ()
    """Where type and encoding come from, if nobody named them."""


def layout_as_seen(target: TargetImage, reader: RasterReader) -> TargetLayout:
    """Keep everything as the target's own file has it.

    Raises:
        InputError: something else is asked for.
    """
    assert target.entry is not None
    for what, asked in (("--dtype", target.dtype), ("--like", target.like)):
        if asked is not None:
            raise InputError(f"{what} says what the file of the target says already; leave it out")
    sensor = entry_sensor(target.entry)
    dtype = str(reader.dtype)
    return TargetLayout(sensor=sensor, grid=reader.grid, dtype=dtype, nodata=_held(reader.nodata, dtype))


def layout_of_unseen(target: TargetImage, others: Sequence[OtherImage], time: dt.datetime) -> TargetLayout:
    """Choose what to write of an image of which there is no file.

    Args:
        target: what is asked for.
        others: the other images, the first of the list first.
        time: of the target.

    Raises:
        CatalogueError: an unknown band or encoding.
        InputError: a type that can't be.
        RasterError: the raster named by `like` can't be read.
    """
    alike = nearest_in_time([one for one in others if one.entry.sensor.name == target.sensor.name], time, 1)
    sensor, notes = _sensor(target, alike)
    dtype = target.dtype
    if dtype is not None and dtype not in _TYPES:
        raise InputError(f"dtype '{dtype}' is not one of {', '.join(_TYPES)}")
    takes_type = alike and target.encoding is None
    dtype = dtype or (alike[0].survey.dtype if takes_type else _usual_type(sensor))
    nodata = alike[0].survey.nodata if takes_type else None
    nodata = _held(target.sensor.nodata if nodata is None else nodata, dtype)
    if np.dtype(dtype).kind == "f" and nodata is None:
        nodata = float("nan")
    grid = _grid_at(others[0].survey.grid, sensor.gsd_m) if target.like is None else _grid_of(target.like, sensor)
    said = f"stored as {dtype}, encoding '{sensor.default_encoding}'{notes}"
    return TargetLayout(sensor=sensor, grid=grid, dtype=dtype, nodata=nodata, notes=(said,))


def _held(nodata: float | None, dtype: str) -> float | None:
    """Keep a number that the type can hold: no other stands in the file."""
    return nodata if nodata is not None and can_hold(dtype, nodata) else None


def _sensor(target: TargetImage, alike: Sequence[OtherImage]) -> tuple[Sensor, str]:
    """Choose bands and encoding, and say after what."""
    whole = target.sensor
    named = target.encoding or whole.default_encoding
    if not alike:
        sensor = whole.select(target.bands) if target.bands else whole
        return _stored_as(sensor, named), ""
    like = entry_sensor(alike[0].entry)
    names = tuple(whole.band(name).name for name in target.bands) or like.band_names
    if target.encoding is not None or any(name not in like.band_names for name in names):
        return _stored_as(whole.select(names), named), ""
    return like.select(names), f", as '{alike[0].entry.name}'"


def _stored_as(sensor: Sensor, encoding: str) -> Sensor:
    for band in sensor.bands:
        band.encoding(encoding)
    return replace(sensor, default_encoding=encoding)


def _usual_type(sensor: Sensor) -> str:
    """Choose a type by the encoding: whole numbers where a stored unit is not a physical one, and for counts."""
    codes: list[Encoding] = [band.encoding(sensor.default_encoding) for band in sensor.bands]
    if all(band.unit == "count" for band in sensor.bands):
        largest = [band.statistics.p99 if band.statistics else np.inf for band in sensor.bands]
        return "uint8" if max(largest) <= np.iinfo(np.uint8).max else "uint16"
    if any(abs(code.scale) >= _WHOLE_SCALE for code in codes):
        return "float32"
    # Reflectance lies over 0 and decibels mostly under it.
    return "int16" if any(band.unit == "sigma0_db" for band in sensor.bands) else "uint16"


def _grid_of(path: Path, sensor: Sensor) -> Grid:
    sheet = GdalSheet(path)
    try:
        size = {"height": sheet.height, "width": sheet.width}
        gsd_m = sensor.gsd_m if sheet.crs is None else pixel_size_m(sheet.transform, crs=sheet.crs, **size)
        return Grid(transform=sheet.transform, crs=sheet.crs, gsd_m=float(gsd_m), **size)
    finally:
        sheet.close()


def _grid_at(grid: Grid, gsd_m: float) -> Grid:
    """Cut the ground of a grid into pixels of about another size, a whole number of them."""
    height, width = (max(1, round(size * grid.gsd_m / gsd_m)) for size in (grid.height, grid.width))
    if (height, width) == (grid.height, grid.width):
        return grid
    down, across = grid.height / height, grid.width / width
    a, b, c, d, e, f = grid.transform
    # Without georeference coordinates are pixels, of whatever size.
    transform = grid.transform if grid.crs is None else (a * across, b * down, c, d * across, e * down, f)
    return Grid(
        height=height, width=width, transform=transform, crs=grid.crs, gsd_m=grid.gsd_m * float(np.sqrt(down * across))
    )


# chosen: enough to see a field, few enough that six images make a small file; larger targets show every second, …
_PICTURE_EDGE = 384
# chosen: pixels of a source that are read at once for it.
_READ_EDGE = 2048

_Shown = tuple[Float[Array, "band row col"], Bool[Array, "band row col"]]


def write_reconstruction_picture(
    path: Path, filled: Path, layout: TargetLayout, images: Sequence[OpenImage], reader: RasterReader | None
) -> None:
    """Draw the images that were looked at on the target's grid, the target as it was, and filled.

    The target before and after is stretched alike; the other images each by themselves.

    Args:
        path: of the PNG.
        filled: the GeoTIFF that was written.
        layout: of the target.
        images: that were looked at.
        reader: the target as it was; None: nothing of it was seen.
    """
    grid, sensor = layout.grid, layout.sensor
    pictures, titles = [], []
    for image in images:
        physical, valid = _lattice(image.reader, image.placement, grid, image.spec.sensor)
        pictures.append(_drawn(physical, image.spec.sensor, valid))
        titles.append(f"{image.title}\n{composite(image.spec.sensor)[1]}")
    with open_raster(RasterSource(paths=(filled,)), sensor) as written:
        physical, valid = _lattice(written, _same(grid), grid, sensor)
    if reader is not None:
        before, seen = _lattice(reader, _same(grid), grid, sensor)
        pictures.append(_drawn(before, sensor, seen, like=physical))
        titles.append(f"{sensor.name}, as given\n{composite(sensor)[1]}")
    pictures.append(_drawn(physical, sensor, valid, like=physical))
    titles.append(f"{sensor.name}, {'filled' if reader is not None else 'reconstructed'}\n{composite(sensor)[1]}")
    with whole_file(path) as beside:
        beside.write_bytes(pictures_png(pictures, titles))


def _drawn(physical: Array, sensor: Sensor, valid: Array, *, like: Array | None = None) -> Float[Array, "3 row col"]:
    colours = picture(physical, sensor, valid=valid, like=like, missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


def _lattice(reader: RasterReader, placement: Placement, grid: Grid, sensor: Sensor) -> _Shown:
    """Read an image at every so many pixels of a grid, as physical values, the nearest pixel at each."""
    step = -(-max(grid.height, grid.width) // _PICTURE_EDGE)
    shape = (len(sensor.bands), -(-grid.height // step), -(-grid.width // step))
    physical, valid = np.full(shape, np.nan, dtype=np.float32), np.zeros(shape, dtype=bool)
    for tile in _tiles(grid, placement, step):
        needed = source_window(placement, tile)
        if needed is None:
            continue
        raster = reader.read(needed)
        values = decode(raster.dn, sensor)
        at = (slice(tile.row // step, None), slice(tile.col // step, None))
        for band in range(len(values)):
            shown, inside = resample_nearest(values[band], placement=placement, part=needed, window=tile)
            known, _ = resample_nearest(raster.valid[band], placement=placement, part=needed, window=tile)
            _put(physical[band][at], shown[::step, ::step])
            _put(valid[band][at], (inside & known)[::step, ::step])
    return physical, valid


def _put(onto: Array, part: Array) -> None:
    onto[: part.shape[0], : part.shape[1]] = part


def _tiles(grid: Grid, placement: Placement, step: int) -> Iterator[Window]:
    """Cut a grid so that the pixels of the image behind a tile fit in memory."""
    scale = max(1.0, placement.rows.scale, placement.cols.scale)
    edge = max(1, int(_READ_EDGE / scale) // step) * step
    return windows_covering(grid.height, grid.width, tile_height=edge, tile_width=edge)


def _same(grid: Grid) -> Placement:
    return Placement(
        rows=Axis(scale=1.0, offset=0.0, size=grid.height), cols=Axis(scale=1.0, offset=0.0, size=grid.width)
    )


# chosen: the rows that are written at once are the GeoTIFF's own blocks, so that none is written twice.
_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """How an image is reconstructed."""

    window: int | None = None
    """Edge in pixels of the target of what the network sees at once, resized to the network's own size; None: that
    size, or the target's shorter side where it is smaller. The ground of a chip of the training is what it knows."""
    num_context: int | None = None
    """Other images to look at; None: as many as the training had at most."""
    precision: Precision = "float32"
    """float32 or bf16 arithmetic."""
    batch_size: int = 16
    """Windows that go through the network at once."""
    picture: bool = True
    """Draw the picture."""
    tags: tuple[tuple[str, str], ...] = ()
    """More (key, value) pairs for the file, for example the checkpoint's hash."""
    shown: bool = False
    """Show a progress bar."""

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("num_context", self.num_context)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, found {value}")


@dataclass(frozen=True, kw_only=True)
class ReconstructReport:
    """What was written."""

    image: Path
    """GeoTIFF in the sensor's stored numbers."""
    picture: Path | None
    """The other images, the target as it was, and filled; None: not asked for."""
    grid: Grid
    """Of the target."""
    num_filled: int
    """Pixels of which a band was predicted."""
    num_unfilled: int
    """Pixels that should have been, but no image shows anything around them."""
    context: tuple[str, ...]
    """Sensor and time of each image that was looked at, the anchor first."""
    notes: tuple[str, ...]
    """What a user should know: encoding, type, statistics, interpolated bands, images left out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """What every step of one reconstruction needs."""

    completer: SetCompleter
    """The network."""
    images: tuple[OpenImage, ...]
    """To look at, the anchor first."""
    layout: TargetLayout
    """What is written."""
    spec: InputSpec
    """How the target's bands are read and written."""
    reader: RasterReader | None
    """The target as it is; None: nothing of it is seen."""
    time: np.datetime64
    """Of the target."""
    window: int
    """Edge of what the network sees at once, pixels of the target."""
    options: ReconstructOptions
    """The user's choices."""

    def seen(self, window: Window) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
        """Read the target as it is, and which of it is seen."""
        if self.reader is not None:
            raster = self.reader.read(window)
            return raster.dn, raster.valid
        shape = (len(self.layout.sensor.bands), window.height, window.width)
        return np.zeros(shape, dtype=self.layout.dtype), np.zeros(shape, dtype=bool)

    def place(self, window: Window) -> PlaceView | None:
        """Read what all images show of a window of the target; None where all of it is seen."""
        dn, valid = self.seen(window)
        if valid.all():
            return None
        part = self.layout.grid.part(window)
        corners = np.full((4, 2), np.nan)
        if part.crs is not None:
            corners = np.array(corners_lonlat(part.transform, part.height, part.width, part.crs))
        target = ImageView(
            spec=self.spec,
            dn=dn,
            valid=valid,
            box=(0.0, 0.0, float(window.height), float(window.width)),
            gsd_m=part.gsd_m,
            time=self.time,
        )
        context = tuple(image.view(window) for image in self.images)
        return PlaceView(context=context, target=target, unseen=np.asarray(~valid.all(axis=0)), corners_deg=corners)


def reconstruct(
    completer: SetCompleter,
    context: Sequence[ImageEntry],
    target: TargetImage,
    out: Path,
    options: ReconstructOptions | None = None,
) -> ReconstructReport:
    """Write an image as its sensor would store it, predicted where it is not seen, and a picture beside it.

    Where the target is given, its pixels with data keep their stored numbers to the bit; those without data, or that
    its mask calls cloudy, are predicted. Where it is not, all of it is. Windows overlap by half and are blended.

    Args:
        completer: the network.
        context: other images of the place, as `read_manifest` gives them. The target itself is left out of them.
        target: what to reconstruct.
        out: of the GeoTIFF; `OUT_picture.png` is put beside it.
        options: windows, number of images, precision.

    Raises:
        InputError: no image to look at, a date that is missing or in the future, nothing that could be predicted.
        AssignmentError: bands that the network can't reconstruct.
        RasterError: a file can't be read.
        GeometryError: a target smaller than a patch, or a window that does not fit it.
        OutputError: an output can't be written. Each of the two appears whole or not at all.
    """
    options = options or ReconstructOptions()
    picture = _checked_outputs(out, [*context, *([target.entry] if target.entry else [])])
    others, left_out = survey_images(context)
    with ExitStack() as opened:
        reader = None
        if target.entry is not None:
            reader = opened.enter_context(open_raster(target.entry.source, target.entry.sensor))
        time = _time_of(target, reader)
        others, itself = _without_target(others, target, time)
        layout = layout_of_unseen(target, others, time) if reader is None else layout_as_seen(target, reader)
        spec = completer.target_spec(layout.sensor)
        images, unusable = _context(completer, others, layout.grid, time, options.num_context)
        job = _Job(
            completer=completer,
            images=tuple(_opened(image, layout.grid, opened) for image in images),
            layout=layout,
            spec=spec,
            reader=reader,
            time=_as_numpy(time),
            window=_window(completer, layout.grid, options),
            options=options,
        )
        counts = _write(job, out)
        if options.picture:
            write_reconstruction_picture(picture, out, layout, job.images, reader)
    notes = [*completer.notes, *layout.notes, *spec.notes, *_notes(job.images), *itself, *left_out, *unusable]
    return _report(job, out, picture, counts, notes)


def _report(job: _Job, out: Path, picture: Path, counts: tuple[int, int], notes: Sequence[str]) -> ReconstructReport:
    return ReconstructReport(
        image=out,
        picture=picture if job.options.picture else None,
        grid=job.layout.grid,
        num_filled=counts[0],
        num_unfilled=counts[1],
        context=tuple(image.title for image in job.images),
        notes=tuple(dict.fromkeys(notes)),
    )


def _checked_outputs(out: Path, entries: Sequence[ImageEntry]) -> Path:
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"'{out}' must end in .tif: images are written as a GeoTIFF")
    picture = out.with_name(f"{out.stem}_picture.png")
    read = {path.resolve() for entry in entries for path in (*entry.source.paths, *entry.source.valid_paths)}
    for path in (out, picture):
        check_target(path)
        if path.resolve() in read:
            raise OutputError(f"'{path}' is one of the images that are read, which would be lost; name another output")
    return picture


def _time_of(target: TargetImage, reader: RasterReader | None) -> dt.datetime:
    time = target.time or (None if reader is None else reader.datetime)
    if time is None:
        raise InputError("when was the target taken? Nothing says it; name its date, such as 2020-07-01T10:30:00Z")
    # The one place that refuses dates of the future.
    checked_metadata(ImageMetadata(datetime=time), name="the target")
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _as_numpy(time: dt.datetime | None) -> np.datetime64:
    if time is None:
        return np.datetime64("NaT", "us")
    return np.datetime64(time.astimezone(dt.UTC).replace(tzinfo=None), "us")


def _without_target(
    others: Sequence[OtherImage], target: TargetImage, time: dt.datetime
) -> tuple[list[OtherImage], list[str]]:
    """Leave out what is the target itself: its own files, and its sensor's images of its day."""

    def is_target(image: OtherImage) -> bool:
        same_file = target.entry is not None and (image.entry.source.paths, image.entry.source.time_index) == (
            target.entry.source.paths,
            target.entry.source.time_index,
        )
        same_sensor = image.entry.sensor.name == target.sensor.name
        same_day = image.time is not None and image.time.astimezone(dt.UTC).date() == time.astimezone(dt.UTC).date()
        return same_sensor and (same_file or same_day)

    kept = [image for image in others if not is_target(image)]
    notes = [f"'{image.entry.name}' is left out: it is the target itself" for image in others if is_target(image)]
    if not kept:
        raise InputError("the list holds no image but the target itself, so there is nothing to reconstruct it from")
    return kept, notes


def _context(
    completer: SetCompleter, others: Sequence[OtherImage], grid: Grid, time: dt.datetime, count: int | None
) -> tuple[list[OtherImage], list[str]]:
    """Choose the images to look at, the anchor first; say why others can't be."""
    placed, elsewhere = placed_images(others, grid)
    readable, unread = readable_images(completer, placed)
    return nearest_in_time(readable, time, count or completer.num_context), [*elsewhere, *unread]


def _opened(image: OtherImage, grid: Grid, opened: ExitStack) -> OpenImage:
    entry = image.entry
    assert image.spec is not None
    return OpenImage(
        reader=opened.enter_context(open_raster(entry.source, entry.sensor)),
        spec=image.spec,
        placement=place_image(grid, image.survey.grid, entry.name),
        time=_as_numpy(image.time),
        title=image.title,
    )


def _window(completer: SetCompleter, grid: Grid, options: ReconstructOptions) -> int:
    patch, least = completer.model.config.encoder.patch_size, min(grid.height, grid.width)
    if least < patch:
        raise GeometryError(
            f"a target of {grid.height} × {grid.width} pixels is smaller than one patch of {patch} × {patch}"
        )
    window = options.window or min(completer.img_size, least)
    if not patch <= window <= least:
        raise GeometryError(
            f"a window of {window} pixels does not fit a target of {grid.height} × {grid.width}; "
            f"take {patch} to {least}"
        )
    return window


def _write(job: _Job, out: Path) -> tuple[int, int]:
    """Write the target strip by strip; count filled pixels, and those that stay without data."""
    grid = job.layout.grid
    rows, cols = (window_starts(size, job.window, max(1, job.window // 2)) for size in (grid.height, grid.width))
    blender = Blender(num_bands=len(job.layout.sensor.bands), width=grid.width, window=job.window, num_rows=_BLOCK_ROWS)
    counts = np.zeros(2, dtype=np.int64)
    with (
        _geotiff(out, job) as writer,
        progress(f"reconstruct {out.name}", len(rows) * len(cols), shown=job.options.shown) as advance,
    ):
        for row, next_row in zip(rows, [*rows[1:], grid.height], strict=True):
            _predict(
                job, [Window(row=row, col=col, height=job.window, width=job.window) for col in cols], blender, advance
            )
            is_last = next_row == grid.height
            while (left := next_row - blender.first_row) >= _BLOCK_ROWS or (is_last and left):
                counts += _write_strip(job, writer, blender, min(left, _BLOCK_ROWS))
        _check_filled(job, int(counts[0]), int(counts[1]))
    return int(counts[0]), int(counts[1])


def _predict(job: _Job, windows: Sequence[Window], blender: Blender, advance: Advance) -> None:
    """Predict what is not seen of some windows; those where nothing is to be done, or nothing is seen, are passed."""
    size = job.options.batch_size
    for first in range(0, len(windows), size):
        some = windows[first : first + size]
        places = [(window, job.place(window)) for window in some]
        needed = [(window, place) for window, place in places if place is not None and place.has_data]
        if needed:
            predicted = job.completer.complete([place for _, place in needed], precision=job.options.precision)
            for (window, _), pixels in zip(needed, predicted, strict=True):
                blender.add(window, pixels)
        advance(len(some))


def _write_strip(job: _Job, writer: GeoTiffWriter, blender: Blender, num_rows: int) -> tuple[int, int]:
    strip = Window(row=blender.first_row, col=0, height=num_rows, width=job.layout.grid.width)
    predicted = blender.take(num_rows)
    dn, valid = job.seen(strip)
    known = np.isfinite(predicted)
    filled = ~valid & known
    writer.write(strip, np.where(filled, _stored(job, predicted, known), _unfilled(job, dn)))
    return int(filled.any(axis=0).sum()), int((~valid & ~known).any(axis=0).sum())


def _stored(job: _Job, predicted: Float[Array, "band row col"], known: Array) -> Num[Array, "band row col"]:
    numbers = to_stored(predicted, job.spec.normalisation)
    return rounded_into(np.where(known, numbers, 0.0), job.layout.dtype, nodata=job.layout.nodata)


def _unfilled(job: _Job, dn: Num[Array, "band row col"]) -> Num[Array, "band row col"]:
    """Leave what a given target holds; elsewhere there is no data."""
    if job.reader is not None or job.layout.nodata is None:
        return dn
    return np.full_like(dn, job.layout.nodata)


def _check_filled(job: _Job, num_filled: int, num_unfilled: int) -> None:
    if num_unfilled and not num_filled:
        raise InputError("none of the images has data where the target has none, so nothing of it can be predicted")
    if num_unfilled and job.reader is None and job.layout.nodata is None:
        raise InputError(
            f"no image has data around {num_unfilled} pixels of the target, and '{job.layout.sensor.name}' has no "
            "number that means no data; name a smaller grid with --like, or a floating-point type with --dtype"
        )


def _geotiff(out: Path, job: _Job) -> AbstractContextManager[GeoTiffWriter]:
    layout = job.layout
    tags = {
        "ANYBAND_SENSOR": layout.sensor.name,
        "ANYBAND_ENCODING": json.dumps(_encodings(layout)),
        "ANYBAND_DATETIME": f"{job.time}Z",
        "ANYBAND_CONTEXT": "; ".join(image.title for image in job.images),
        "ANYBAND_WINDOW_PX": str(job.window),
        **dict(job.options.tags),
    }
    return geotiff_writer(
        out,
        grid=layout.grid,
        dtype=layout.dtype,
        descriptions=layout.sensor.band_names,
        nodata=layout.nodata,
        tags=tags,
    )


def _encodings(layout: TargetLayout) -> dict[str, dict[str, float | str]]:
    """Say how each band is stored, for the file."""
    found: dict[str, dict[str, float | str]] = {}
    for band in layout.sensor.bands:
        code = band.encoding(layout.sensor.default_encoding)
        found[band.name] = {"scale": code.scale, "offset": code.offset, "transform": code.transform}
    return found


def _notes(images: Sequence[OpenImage]) -> list[str]:
    return [note for image in images for note in image.spec.notes]
