"""The work of preparing, piece by piece: look at an image, and cut its chips into a file of their own."""

import datetime as dt
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anyband.arrays import Array, Bool, Num
from anyband.data.manifest import ImageEntry
from anyband.errors import AnybandError, GeometryError, OutputError, RasterError
from anyband.rasters.footprints import View
from anyband.rasters.grid import Grid, Window, resample_bilinear, source_window
from anyband.sensors.sensor import Encoding

__all__ = [
    "MIN_IMAGE_PX",
    "CutTask",
    "ImageSurvey",
    "SpooledChip",
    "Storage",
    "cut_image",
    "onto_chip",
    "storage_of",
    "survey_image",
    "view_window",
]

# One patch of the usual vision transformer.
MIN_IMAGE_PX = 16

_DECIBEL_SCALE = 0.01
_DECIBEL_NODATA = -32768


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How the numbers of an image are kept in a store."""

    kind: Literal["as_is", "decibel", "float32"]
    """as_is: integers stay; decibel: radar in dB as int16 × 0.01; float32: other floats."""
    dtype: str
    """NumPy name of the stored type."""
    encoding: tuple[tuple[str, Encoding], ...]
    """(band, encoding) of the numbers kept."""
    nodata: float | None
    """Number kept where there is no data; None: only validity tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSurvey:
    """What an image says when it is opened."""

    grid: Grid
    """Where its pixels lie."""
    dtype: str
    """NumPy name of its type."""
    nodata: float | None
    """Its "no data" number, if it is one for all bands."""
    datetime: dt.datetime | None
    """Its time, UTC, if the file says it."""

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> "ImageSurvey":
        """Read what `survey_image` gave."""
        said = entry["grid"]
        # Names come anew with each image; thousands of images share a few of them.
        crs = None if said["crs"] is None else sys.intern(said["crs"])
        grid = Grid(**{**said, "transform": tuple(said["transform"]), "crs": crs})
        time = None if entry["datetime"] is None else dt.datetime.fromisoformat(entry["datetime"])
        return cls(grid=grid, dtype=sys.intern(entry["dtype"]), nodata=entry["nodata"], datetime=time)


@dataclass(frozen=True, kw_only=True)
class CutTask:
    """Chips to cut from one image."""

    entry: ImageEntry
    """The image."""
    storage: Storage
    """How to keep its numbers."""
    views: tuple[View, ...]
    """What to cut."""
    min_valid: float
    """Least share of data of a chip."""
    spool: Path
    """File to write the chips to."""


@dataclass(frozen=True, kw_only=True)
class SpooledChip:
    """A chip that waits in the file of its task; the last one released removes the file."""

    spool: Path
    """The file."""
    number: int
    """Which view of the task."""
    waiting: set[int]
    """Numbers of the file's chips that are still needed; shared by all of them."""

    def load(self) -> tuple[Array, Array | None]:
        """Read the chip back.

        Raises:
            OutputError: the file was lost or damaged since it was written.
        """
        try:
            with np.load(self.spool) as file:
                name = f"valid{self.number}"
                return file[f"pixels{self.number}"], file.get(name)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as problem:
            raise OutputError(
                f"'{self.spool}', which an earlier run wrote, is damaged; remove its folder and prepare again"
            ) from problem

    def release(self) -> None:
        """Say that the chip is safe in the store."""
        self.waiting.discard(self.number)
        if not self.waiting:
            self.spool.unlink(missing_ok=True)


def survey_image(entry: ImageEntry) -> dict[str, Any]:
    """Tell grid and type of an image as plain JSON; or `skipped`, the reason why it can't be used."""
    from anyband.rasters.reader import open_raster

    try:
        with open_raster(entry.source, entry.sensor) as reader:
            _check_size(entry, reader.grid)
            storage_of(entry, str(reader.dtype), reader.nodata)
            time = None if reader.datetime is None else reader.datetime.isoformat()
            nodata = None if reader.nodata is None or np.isnan(reader.nodata) else float(reader.nodata)
            grid = asdict(reader.grid)
            return {"grid": grid, "dtype": str(reader.dtype), "nodata": nodata, "datetime": time}
    except OutputError:
        raise
    except AnybandError as problem:
        return {"skipped": str(problem)}


def storage_of(entry: ImageEntry, dtype: str, nodata: float | None) -> Storage:
    """Decide how numbers are kept: integers as they are, dB as int16 × 0.01, other floats as float32.

    Args:
        entry: the image.
        dtype: of its numbers.
        nodata: its own "no data" number.

    Raises:
        RasterError: numbers of this type can't be kept.
    """
    kind = np.dtype(dtype).kind
    if kind in "iu":
        limits = np.iinfo(dtype)
        fits = nodata is not None and limits.min <= nodata <= limits.max and nodata == int(nodata)
        return Storage(kind="as_is", dtype=dtype, encoding=entry.encoding, nodata=nodata if fits else None)
    if kind == "b":
        return Storage(kind="as_is", dtype="uint8", encoding=entry.encoding, nodata=None)
    if kind != "f":
        raise RasterError(f"'{entry.name}' has numbers of type {dtype}; integers and floats can be prepared")
    if all(band.unit == "sigma0_db" for band in entry.sensor.bands):
        encoding = tuple((band, Encoding(scale=_DECIBEL_SCALE)) for band, _ in entry.encoding)
        return Storage(kind="decibel", dtype="int16", encoding=encoding, nodata=float(_DECIBEL_NODATA))
    return Storage(kind="float32", dtype="float32", encoding=entry.encoding, nodata=None)


def cut_image(task: CutTask) -> dict[str, Any]:
    """Cut the chips of a task and write those with enough data to its file, whole or not at all.

    Returns:
        `chips`: (number of the view, share of data) of each chip written; `best`: the largest share found;
        or `skipped`, the reason why the image can't be read.

    Raises:
        OutputError: the file can't be written.
    """
    try:
        cut = list(_cut(task))
    except OutputError:
        raise
    except AnybandError as problem:
        return {"skipped": str(problem)}
    shares = [float(valid.mean()) for _, valid in cut]
    kept = [number for number, share in enumerate(shares) if share > 0 and share >= task.min_valid]
    arrays: dict[str, Array] = {}
    for number in kept:
        pixels, valid = cut[number]
        arrays[f"pixels{number}"] = pixels
        if not valid.all():
            arrays[f"valid{number}"] = valid
    if kept:
        _write_spool(task.spool, arrays)
    return {"chips": [[number, shares[number]] for number in kept], "best": max(shares, default=0.0)}


def _check_size(entry: ImageEntry, grid: Grid) -> None:
    if min(grid.height, grid.width) < MIN_IMAGE_PX:
        raise GeometryError(
            f"'{entry.name}' has {grid.height} × {grid.width} pixels, smaller than a patch "
            f"({MIN_IMAGE_PX} × {MIN_IMAGE_PX})"
        )


def view_window(view: View) -> Window | None:
    """Find the pixels of an image that its view of a cell needs; None where the cell lies wholly outside."""
    return source_window(view.placement, Window(row=0, col=0, height=view.height, width=view.width))


def _cut(task: CutTask) -> Any:
    from anyband.rasters.reader import open_raster

    with open_raster(task.entry.source, task.entry.sensor) as reader:
        for view in task.views:
            window = view_window(view)
            if window is None:
                raise GeometryError(f"cell '{view.cell}' lies outside its image")
            raster = reader.read(window)
            dn, valid = onto_chip(raster.dn, raster.valid, view, window)
            yield _kept_numbers(dn, valid, task)


def onto_chip(
    dn: Num[Array, "band y x"], valid: Bool[Array, "band y x"], view: View, window: Window
) -> tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]:
    """Bring the pixels of a window onto the chip's grid; what lies beyond the image is not valid."""
    if not view.is_copy:
        whole = Window(row=0, col=0, height=view.height, width=view.width)
        values, known = resample_bilinear(dn, valid, placement=view.placement, part=window, window=whole)
        rounded = np.rint(values) if dn.dtype.kind in "iu" else values
        return rounded.astype(dn.dtype), known
    rows = _overlap(int(view.placement.rows.offset), view.height, window.row, window.height)
    cols = _overlap(int(view.placement.cols.offset), view.width, window.col, window.width)
    pixels = np.zeros((len(dn), view.height, view.width), dtype=dn.dtype)
    known = np.zeros(pixels.shape, dtype=bool)
    pixels[:, rows[0], cols[0]] = dn[:, rows[1], cols[1]]
    known[:, rows[0], cols[0]] = valid[:, rows[1], cols[1]]
    return pixels, known


def _overlap(offset: int, size: int, start: int, length: int) -> tuple[slice, slice]:
    """Find the pixels that a chip from `offset` and a window from `start` share, in each of them."""
    first, last = max(offset, start), min(offset + size, start + length)
    return slice(first - offset, last - offset), slice(first - start, last - start)


def _kept_numbers(dn: Array, valid: Array, task: CutTask) -> tuple[Array, Array]:
    storage = task.storage
    if storage.kind == "decibel":
        return _as_decibel(dn, valid, [encoding for _, encoding in task.entry.encoding])
    kept = dn.astype(storage.dtype)
    if storage.kind == "float32":
        valid = valid & np.isfinite(kept)
    if storage.nodata is not None or storage.kind == "float32":
        kept[~valid] = storage.nodata or 0
    return kept, valid


def _as_decibel(dn: Array, valid: Array, encodings: Sequence[Encoding]) -> tuple[Array, Array]:
    """Decode radar to decibels, kept as int16 × 0.01. No echo has no logarithm, so it counts as no data."""
    factors = {"identity": 0.0, "power_to_db": 10.0, "amplitude_to_db": 20.0}
    kept = np.full(dn.shape, _DECIBEL_NODATA, dtype=np.int16)
    known = valid.copy()
    for band, encoding in enumerate(encodings):
        linear = dn[band].astype(np.float64) * encoding.scale + encoding.offset
        factor = factors[encoding.transform]
        known[band] &= np.isfinite(linear) & ((factor == 0) | (linear > 0))
        usable = linear[known[band]]
        decibel = factor * np.log10(usable) if factor else usable
        limit = np.iinfo(np.int16).max
        kept[band][known[band]] = np.clip(np.rint(decibel / _DECIBEL_SCALE), -limit, limit).astype(np.int16)
    return kept, known


def _write_spool(path: Path, arrays: dict[str, Array]) -> None:
    beside = path.with_name(f".partial.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        beside.replace(path)
    except OSError as problem:
        beside.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write '{path}': {problem.strerror or problem}; what is finished is kept: "
            "free some room and run the same command again"
        ) from problem
