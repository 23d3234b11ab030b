"""Raster formats: all that GDAL reads, and small plain GeoTIFFs, which need no GDAL."""

import datetime
import math
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window as RasterioWindow

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import RasterError
from anyband.rasters.grid import Transform, Window, crs_name

__all__ = ["GdalSheet", "PlainTiffSheet", "open_plain_tiff", "open_quietly"]

# What rasterio raises for damaged files: its own errors, GDAL's, and those of texts that are no UTF-8.
_LIBRARY_ERRORS = (RasterioError, CPLE_BaseError, ValueError)

# GDAL's quick way of reading a whole PNG at once gives what was in memory before, and no error, where the file breaks
# off (seen with GDAL 3.10); row by row it is an error. It must be said when a file is opened and when it is read.
# GDAL lists the whole folder of each file that it opens, milliseconds where there are thousands; files beside an image
# are found by their names all the same.
_READING = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


class _QuietReader(DatasetReader):  # type: ignore[misc]
    """A file opened without rasterio's warning that it has no georeference, which is no mistake here."""

    def _has_gcps_or_rpcs(self) -> bool:
        # rasterio warns where there is neither a transform nor one of these.
        return True


class _QuietWriter(DatasetWriter):  # type: ignore[misc]
    """The same, to be written."""

    def _has_gcps_or_rpcs(self) -> bool:
        return True


class GdalSheet:
    """One file that GDAL reads. Not to be shared by threads: each opens its own."""

    def __init__(self, path: Path) -> None:
        """Open a file; `RasterError` where it is missing, empty, corrupt, or not a raster."""
        self.path = path
        self._dataset = _open(path)
        try:
            with rasterio.Env():
                self._describe(self._dataset)
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"'{path}' is damaged: its header can't be read ({_cause(problem)}); get it again or leave it out"
            ) from problem

    def _describe(self, dataset: Any) -> None:
        """Take what the header says. Outside of an `Env` GDAL writes warnings of damaged files to stderr."""
        self._numbers = tuple(
            number
            for number, meaning in zip(dataset.indexes, dataset.colorinterp, strict=True)
            if meaning != ColorInterp.alpha
        )
        self.names: tuple[str, ...] = tuple((dataset.descriptions[number - 1] or "") for number in self._numbers)
        self.height = int(dataset.height)
        self.width = int(dataset.width)
        self.crs = crs_name(dataset.crs.to_wkt()) if dataset.crs else None
        self.transform = _transform(dataset)
        self.dtypes: tuple[str, ...] = tuple(str(dataset.dtypes[n - 1]) for n in self._numbers)
        self.nodata: tuple[float | None, ...] = tuple(dataset.nodatavals[n - 1] for n in self._numbers)
        self.times: tuple[datetime.datetime, ...] = ()
        self.time_index: int | None = None
        flags = {flag for number in self._numbers for flag in dataset.mask_flag_enums[number - 1]}
        self._has_mask = bool(flags & {MaskFlags.alpha, MaskFlags.per_dataset})

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window, and the file's alpha or mask band; `RasterError` where it is damaged."""
        numbers = [self._numbers[position] for position in positions]
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with rasterio.Env(**_READING):
                stored = self._dataset.read(numbers, window=place)
                valid = self._dataset.read_masks(numbers, window=place) > 0 if self._has_mask else None
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"cannot read '{self.path}' at {window}: the file is truncated or damaged "
                f"({_cause(problem)}); get it again or leave it out"
            ) from problem
        return stored, valid

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()


def open_quietly(path: Path, *, profile: Mapping[str, Any] | None = None) -> Any:
    """Open a file with rasterio, without its warning that an image lies nowhere; with a profile it is written anew."""
    with rasterio.Env():
        return _QuietReader(str(path)) if profile is None else _QuietWriter(str(path), "w", **profile)


def _open(path: Path) -> Any:
    if not path.exists():
        raise RasterError(f"'{path}' does not exist")
    if path.is_file() and path.stat().st_size == 0:
        raise RasterError(f"'{path}' is empty (0 bytes); get it again or leave it out")
    try:
        with rasterio.Env(**_READING):
            return open_quietly(path)
    except _LIBRARY_ERRORS as problem:
        raise RasterError(
            f"cannot open '{path}' as a raster: {_cause(problem)}; get it again or leave it out"
        ) from problem


def _transform(dataset: Any) -> Transform:
    a, b, c, d, e, f = (float(value) for value in tuple(dataset.transform)[:6])
    # Adding zero turns the −0.0 that some headers give into 0.0.
    return a + 0.0, b + 0.0, c + 0.0, d + 0.0, e + 0.0, f + 0.0


def _cause(problem: BaseException) -> str:
    deepest = problem
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    return str(deepest).strip() or type(deepest).__name__


# chosen: a file is read whole when it is opened; for larger ones the time that GDAL takes to open does not count.
_MAX_BYTES = 2**22

# Source: TIFF 6.0, sections 2 and 8; GeoTIFF 1.1 (OGC 19-008r4), annex B; GDAL's own tag of missing data.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_EXTRA_SAMPLES, _FORMAT = 338, 339
_PIXEL_SCALE, _TIE_POINTS, _GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS, _NODATA = 33550, 33922, 34735, 34736, 34737, 42113
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _STRIP_BYTES, _PIXEL_SCALE, _TIE_POINTS}
_NEEDED |= {_GEO_KEYS}
_KNOWN = _NEEDED | {_SAMPLES, _ROWS_PER_STRIP, _PLANAR, _EXTRA_SAMPLES, _FORMAT, _GEO_DOUBLES, _GEO_TEXTS, _NODATA}
_RASTER_TYPE_KEY, _PIXEL_IS_AREA = 1025, 1
_GREY, _RGB, _CHUNKY, _PLANES = 1, 2, 1, 2

_FIELD_TYPES = {2: "s", 3: "H", 4: "I", 12: "d"}
_DTYPES = {
    (8, 1): "uint8",
    (16, 1): "uint16",
    (32, 1): "uint32",
    (16, 2): "int16",
    (32, 2): "int32",
    (32, 3): "float32",
    (64, 3): "float64",
}

# What files beside an image say goes before, or beside, what it says itself.
_SIDECARS = (".aux.xml", ".msk", ".ovr")

# chosen: more systems than an archive has; a name is some tens of bytes.
_MAX_CRS_NAMES = 256
_crs_names: dict[tuple[bytes, ...], str | None] = {}


class _NotPlainError(Exception):
    """The file is for GDAL."""


_Tags = Mapping[int, Any]
"""Numbers of each tag of a header; of a text its bytes."""


class PlainTiffSheet:
    """One small file, in memory; what `GdalSheet` says of the same file."""

    def __init__(self, path: Path, pixels: Shaped[Array, "band row col"], tags: _Tags, geo: tuple[bytes, ...]) -> None:
        """Take what the header says; made by `open_plain_tiff`."""
        self.path = path
        self._pixels = pixels
        count, self.height, self.width = pixels.shape
        self.names: tuple[str, ...] = ("",) * count
        self.transform = _plain_transform(tags)
        self.crs = _crs_name(path, geo)
        self.dtypes: tuple[str, ...] = (str(pixels.dtype),) * count
        self.nodata: tuple[float | None, ...] = (_nodata(tags, pixels.dtype),) * count
        self.times: tuple[datetime.datetime, ...] = ()
        self.time_index: int | None = None

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Give bands of a window; such files have no mask."""
        # An index by a list copies, so what is given is the caller's.
        return self._pixels[:, window.rows, window.cols][list(positions)], None

    def close(self) -> None:
        """Do nothing."""


def open_plain_tiff(path: Path) -> PlainTiffSheet | None:
    """Open a file if it is a small, plain and whole GeoTIFF; None: it is for GDAL, which says what is wrong."""
    try:
        data = _bytes(path)
        tags, geo = _header(data)
        return PlainTiffSheet(path, _pixels(data, tags), tags, geo)
    except (_NotPlainError, OSError, struct.error, ValueError):
        return None


def _bytes(path: Path) -> bytes:
    name = str(path)
    with open(name, "rb") as file:  # noqa: PTH123 - the quicker of two ways, and this is done for each file
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES or data[:4] != b"II*\0":
        raise _NotPlainError
    beside = [name + ending for ending in _SIDECARS]
    beside.append(os.path.splitext(name)[0] + ".aux")  # noqa: PTH122
    if any(map(os.path.exists, beside)):
        raise _NotPlainError
    return data


def _header(data: bytes) -> tuple[_Tags, tuple[bytes, ...]]:
    """Read the tags of the only image, and those of its georeference as they are written."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * count
    # A second image in the file is a mask, or an overview, or something else of which GDAL knows.
    if struct.unpack_from("<I", data, end) != (0,):
        raise _NotPlainError
    tags: dict[int, Any] = {}
    raw: dict[int, bytes] = {}
    for tag, kind, length, place in struct.iter_unpack("<HHII", data[start + 2 : end]):
        if tag not in _KNOWN or kind not in _FIELD_TYPES or tag in tags:
            raise _NotPlainError
        form = f"<{length}{_FIELD_TYPES[kind]}"
        size = struct.calcsize(form)
        raw[tag] = struct.pack("<I", place)[:size] if size <= 4 else data[place : place + size]
        values = struct.unpack(form, raw[tag])
        tags[tag] = values[0] if kind == 2 else values
    if not tags.keys() >= _NEEDED:
        raise _NotPlainError
    return tags, tuple(raw.get(tag, b"") for tag in (_GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS))


def _number(tags: _Tags, tag: int, default: int = 0) -> int:
    """Give a tag of which all numbers are equal."""
    found = set(tags.get(tag, (default,)))
    if len(found) != 1:
        raise _NotPlainError
    return int(found.pop())


def _pixels(data: bytes, tags: _Tags) -> Shaped[Array, "band row col"]:
    height, width, samples = _number(tags, _HEIGHT), _number(tags, _WIDTH), _number(tags, _SAMPLES, 1)
    planar, photometric = _number(tags, _PLANAR, _CHUNKY), _number(tags, _PHOTOMETRIC)
    dtype = _DTYPES.get((_number(tags, _BITS), _number(tags, _FORMAT, 1)))
    is_rgb = photometric == _RGB and samples == 3
    if (
        dtype is None
        or min(height, width, samples) < 1
        or _number(tags, _COMPRESSION) != 1
        or planar not in (_CHUNKY, _PLANES)
        or not (photometric == _GREY or is_rgb)
        or any(tags.get(_EXTRA_SAMPLES, ()))
    ):
        raise _NotPlainError
    planes, per_plane = (samples, 1) if planar == _PLANES else (1, samples)
    row_bytes = width * per_plane * np.dtype(dtype).itemsize
    rows = min(_number(tags, _ROWS_PER_STRIP, height), height)
    strips = [min(rows, height - row) * row_bytes for row in range(0, height, rows)] * planes
    offsets = tags[_STRIPS]
    if tags[_STRIP_BYTES] != tuple(strips) or len(offsets) != len(strips):
        raise _NotPlainError
    values = np.frombuffer(_joined(data, offsets, strips), dtype=np.dtype(dtype).newbyteorder("<"))
    if planar == _PLANES:
        return values.reshape(samples, height, width)
    return values.reshape(height, width, samples).transpose(2, 0, 1)


def _joined(data: bytes, offsets: Sequence[int], sizes: Sequence[int]) -> bytes:
    if any(start < 8 or start + size > len(data) for start, size in zip(offsets, sizes, strict=True)):
        raise _NotPlainError
    follows = all(a + size == b for a, size, b in zip(offsets, sizes, offsets[1:], strict=False))
    if follows:
        return data[offsets[0] : offsets[0] + sum(sizes)]
    return b"".join(data[start : start + size] for start, size in zip(offsets, sizes, strict=True))


def _plain_transform(tags: _Tags) -> Transform:
    scale, tie = (tuple(map(float, tags[tag])) for tag in (_PIXEL_SCALE, _TIE_POINTS))
    keys = tags[_GEO_KEYS]
    entries = [keys[start : start + 4] for start in range(4, len(keys), 4)]
    is_area = (_RASTER_TYPE_KEY, 0, 1, _PIXEL_IS_AREA) in entries
    at_corner = len(tie) == 6 and not any(tie[:3])
    finite = all(math.isfinite(number) for number in (*scale, *tie))
    if not (is_area and at_corner and finite and len(scale) == 3 and min(scale[:2]) > 0):
        raise _NotPlainError
    return scale[0], 0.0, tie[3] + 0.0, 0.0, -scale[1], tie[4] + 0.0


def _nodata(tags: _Tags, dtype: np.dtype[np.generic]) -> float | None:
    if _NODATA not in tags:
        return None
    value = float(bytes(tags[_NODATA]).rstrip(b"\0 ").decode("ascii"))
    # Of numbers that the type can't hold GDAL and rasterio each have their own opinion.
    if not math.isfinite(value):
        raise _NotPlainError
    with np.errstate(all="ignore"):
        is_held = float(np.array(value).astype(dtype)) == value
    if not is_held:
        raise _NotPlainError
    return value


def _crs_name(path: Path, geo: tuple[bytes, ...]) -> str | None:
    if geo not in _crs_names:
        if len(_crs_names) >= _MAX_CRS_NAMES:
            _crs_names.clear()
        sheet = GdalSheet(path)
        sheet.close()
        _crs_names[geo] = sheet.crs
    return _crs_names[geo]
