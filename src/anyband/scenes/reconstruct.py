"""An image that was not taken, or what clouds hid of one, from the other images of its place."""

import datetime as dt
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyband.data.blending import Blender, window_starts
from anyband.data.cells import place_image
from anyband.data.manifest import ImageEntry
from anyband.data.places import corners_lonlat
from anyband.data.rasters.reader import RasterReader, open_raster
from anyband.data.rasters.writing import GeoTiffLayout, GeoTiffWriter, geotiff_writer
from anyband.data.stored_numbers import rounded_into, to_stored
from anyband.data.tiles import Grid, Window
from anyband.errors import GeometryError, InputError, OutputError
from anyband.progress import Advance, progress
from anyband.scenes.context import OpenImage, OtherImage, nearest_in_time, placed_images, readable_images, survey_images
from anyband.scenes.reconstruct_picture import write_reconstruction_picture
from anyband.scenes.target_layout import TargetImage, TargetLayout, layout_as_seen, layout_of_unseen
from anyband.shapes import Array, Bool, Float, Num
from anyband.tasks.completion import ImageView, PlaceView, SetCompleter
from anyband.tasks.feature_records import ImageMetadata, Precision
from anyband.tasks.image_metadata import checked_facts
from anyband.tasks.readings import BandReading
from anyband.whole_files import check_target

__all__ = ["ReconstructOptions", "ReconstructReport", "TargetImage", "reconstruct"]

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
    reading: BandReading
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
            reading=self.reading,
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
        reading = completer.target_reading(layout.sensor)
        images, unusable = _context(completer, others, layout.grid, time, options.num_context)
        job = _Job(
            completer=completer,
            images=tuple(_opened(image, layout.grid, opened) for image in images),
            layout=layout,
            reading=reading,
            reader=reader,
            time=_as_numpy(time),
            window=_window(completer, layout.grid, options),
            options=options,
        )
        counts = _write(job, out)
        if options.picture:
            write_reconstruction_picture(picture, out, layout, job.images, reader)
    notes = [*completer.notes, *layout.notes, *reading.notes, *_notes(job.images), *itself, *left_out, *unusable]
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
    checked_facts(ImageMetadata(datetime=time), name="the target")
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
    assert image.reading is not None
    return OpenImage(
        reader=opened.enter_context(open_raster(entry.source, entry.sensor)),
        reading=image.reading,
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
        geotiff_writer(out, _geotiff(job)) as writer,
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
    numbers = to_stored(predicted, job.reading.normalisation)
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


def _geotiff(job: _Job) -> GeoTiffLayout:
    layout = job.layout
    tags = {
        "ANYBAND_SENSOR": layout.sensor.name,
        "ANYBAND_ENCODING": json.dumps(_encodings(layout)),
        "ANYBAND_DATETIME": f"{job.time}Z",
        "ANYBAND_CONTEXT": "; ".join(image.title for image in job.images),
        "ANYBAND_WINDOW_PX": str(job.window),
        **dict(job.options.tags),
    }
    return GeoTiffLayout(
        grid=layout.grid,
        dtype=layout.dtype,
        descriptions=layout.sensor.band_names,
        nodata=layout.nodata,
        tags=tuple(tags.items()),
    )


def _encodings(layout: TargetLayout) -> dict[str, dict[str, float | str]]:
    """Say how each band is stored, for the file."""
    found: dict[str, dict[str, float | str]] = {}
    for band in layout.sensor.bands:
        code = band.encoding(layout.sensor.default_encoding)
        found[band.name] = {"scale": code.scale, "offset": code.offset, "transform": code.transform}
    return found


def _notes(images: Sequence[OpenImage]) -> list[str]:
    return [note for image in images for note in image.reading.notes]
