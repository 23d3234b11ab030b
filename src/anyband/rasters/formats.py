"""Raster formats: those of GDAL whose files hold their own pixels; and small plain GeoTIFFs, which need no GDAL."""

import datetime
import math
import os
import stat
import struct
from collections.abc import Mapping, Sequence, Set
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterioWindow

from anyband.arrays import Array, Bool, Shaped
from anyband.errors import RasterError
from anyband.files import check_beside, check_vrt, names_others
from anyband.rasters.grid import IDENTITY, Transform, Window, counts_pixels, crs_name, trusted_georeference
from anyband.rasters.products import tagged_scaling
from anyband.rasters.writer import QuietReader, QuietWriter
from anyband.sensors.sensor import Scaling, scaling_in

__all__ = [
    "GdalSheet",
    "PlainTiffSheet",
    "QuietReader",
    "QuietWriter",
    "open_plain_tiff",
]

# What rasterio raises for damaged files: its own errors, GDAL's, and those of texts that are no UTF-8.
_LIBRARY_ERRORS = (RasterioError, CPLE_BaseError, ValueError)

# GDAL's quick way of reading a whole PNG at once gives what was in memory before, and no error, where the file breaks
# off (seen with GDAL 3.10); row by row it is an error. Set both to open and to read a file.
# GDAL lists the whole folder of each file that it opens, milliseconds where there are thousands; files beside an image
# are found by their names all the same.
# No file of the network is named so: whatever a file may say, GDAL fetches nothing.
_READING = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}
_READING |= {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none"}

# Formats whose files hold their own pixels, by GDAL's names; no other driver is asked, because some follow what a file
# says to other files, and to the network.
_DRIVERS = ["GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "JPEG", "PNG", "BMP", "ENVI", "HFA"]


_RGB_NAMES = ("red", "green", "blue")


class GdalSheet:
    """One file that GDAL reads. Not to be shared by threads: each opens its own."""

    notes: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        """Open a file; `RasterError` where it is corrupt, or not a raster."""
        self.path = path
        is_vrt = path.suffix.casefold() == ".vrt"
        check_vrt(path) if is_vrt else check_beside(path)
        try:
            with rasterio.Env(**_READING):
                dataset = QuietReader(str(path), driver=["VRT"] if is_vrt else _DRIVERS)
                overviews = dataset.tags(ns="OVERVIEWS")
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"cannot open '{path}' as a raster: {_cause(problem)}; get it again or leave it out"
            ) from problem
        self._dataset = dataset
        self.close = dataset.close
        try:
            if overviews or dataset.driver == "ENVI" or dataset.height > _SURELY_HELD_ROWS:
                _check_size(path, dataset, overviews)
            # Outside of an `Env` GDAL writes warnings of damaged files to stderr.
            with rasterio.Env():
                self.names = tuple(name or "" for name in dataset.descriptions)
                meanings = enumerate(dataset.colorinterp)
                self.alphas = tuple(position for position, meaning in meanings if meaning == ColorInterp.alpha)
                self.height, self.width = int(dataset.height), int(dataset.width)
                self._place()
                self.dtypes = tuple(map(str, dataset.dtypes))
                self.nodata: tuple[float | None, ...] = tuple(dataset.nodatavals)
                # A mask of one band has no flag. Alpha is read as a band, "no data" is the reader's to compare.
                known = {MaskFlags.all_valid}, {MaskFlags.nodata}, {MaskFlags.per_dataset, MaskFlags.alpha}
                flags = enumerate(dataset.mask_flag_enums)
                self._masked = frozenset(position for position, found in flags if set(found) not in known)
                self.scaling = _tags_scaling(dataset)
                is_tiff = dataset.driver == "GTiff"
                lacks_blocks = is_tiff and _lacks_blocks(dataset)
                self._is_whole = lacks_blocks is False
                if lacks_blocks:
                    self.notes = (*self.notes, "some of its blocks are not in the file: their pixels are missing")
                self.notes = (*self.notes, *_ignored_nodata(path, dataset), *_colour_notes(dataset))
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"'{path}' is damaged: its header can't be read ({_cause(problem)}); get it again or leave it out"
            ) from problem
        self.times: tuple[datetime.datetime | None, ...] = ()
        self.taken: datetime.datetime | None = None
        self.time_index: int | None = None
        is_picture = dataset.driver in ("JPEG", "PNG") and not any(self.names)
        colours = tuple(meaning.name for meaning in dataset.colorinterp)
        # Of TIFFs writers mark any three bands of 8 bits as red, green, blue: that alone says nothing.
        is_other = sorted(colours[:3]) == sorted(_RGB_NAMES) and colours[:3] != _RGB_NAMES and not any(self.names)
        self.colours = colours if is_picture or is_other else ()

    def metadata(self, *, everywhere: bool) -> dict[str, str]:
        """Give its tags; `everywhere`: also those of metadata files beside it, which take a millisecond to look for."""
        with rasterio.Env():
            domains = (None, "IMAGERY", "ENVI") if everywhere else (None,)
            return {key: text for one in domains for key, text in self._dataset.tags(ns=one).items()}

    def _place(self) -> None:
        """Take the georeference, if it places the image."""
        dataset = self._dataset
        crs = crs_name(dataset.crs.to_wkt()) if dataset.crs else None
        # Adding zero turns the −0.0 that some headers give into 0.0.
        a, b, c, d, e, f = (float(value) + 0.0 for value in tuple(dataset.transform)[:6])
        self.geolocation = self._geolocation() if (a, b, c, d, e, f) == IDENTITY else None
        self.transform, self.crs, self.notes = trusted_georeference(
            (a, b, c, d, e, f), crs, height=self.height, geolocation=self.geolocation
        )
        if dataset.crs and crs is None:
            self.notes = (
                *self.notes,
                "its coordinate system is neither a projection nor longitude and latitude, so it counts as without one",
            )

    def _geolocation(self) -> str | None:
        """Name what places the image instead of a geotransform, and is not read."""
        if self._dataset.gcps[0]:
            return f"{len(self._dataset.gcps[0])} ground control points (GCPs)"
        if self._dataset.tags(ns="RPC"):
            return "rational polynomial coefficients (RPCs)"
        return "geolocation arrays" if self._dataset.tags(ns="GEOLOCATION") else None

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read digital numbers of a window, and the file's alpha and masks; `RasterError` where it is damaged. An alpha
        band that is asked for is one of data, and says nothing of the others."""
        numbers = [position + 1 for position in positions]
        masks = [number for number in numbers if number - 1 in self._masked]
        alphas = [position + 1 for position in self.alphas if position not in positions]
        place = RasterioWindow(window.col, window.row, window.width, window.height)
        try:
            with rasterio.Env(**_READING):
                stored = self._dataset.read(numbers, window=place)
                valid: Any = np.ones(stored.shape, dtype=bool) if masks or alphas else None
                if masks:
                    valid[np.isin(numbers, masks)] = self._dataset.read_masks(masks, window=place) > 0
                if not self._is_whole:
                    valid = _held_blocks(self._dataset, numbers, window) & (True if valid is None else valid)
                if alphas:
                    valid &= (self._dataset.read(alphas, window=place) > 0).all(axis=0)
        except _LIBRARY_ERRORS as problem:
            raise RasterError(
                f"cannot read '{self.path}' at {window}: the file is truncated or damaged "
                f"({_cause(problem)}); get it again or leave it out"
            ) from problem
        return stored, valid


# chosen: more tags than such files have.
_MOST_TAGS = 2**12
# chosen: so many blocks of a GeoTIFF are looked for when it is opened, in ten milliseconds.
_BLOCKS_LOOKED_FOR = 2**13
# chosen: more rows than any scene has; of so many the last is read when a file is opened, which a damaged header lacks.
_SURELY_HELD_ROWS = 2**20


def _nodata_text(path: Path) -> str:
    """Read GDAL's tag of missing data of a TIFF or BigTIFF as it is written; empty: there is none. GDAL gives none
    either where the type of the pixels can't hold it."""
    with suppress(OSError, OverflowError, ValueError, struct.error), path.open("rb") as file:
        head = file.read(16)
        order, is_big = "<" if head[:2] == b"II" else ">", head[2:4] in (b"+\0", b"\0+")
        offset, count, entry = ("Q", "Q", "HHQ8s") if is_big else ("I", "H", "HHI4s")
        file.seek(*struct.unpack_from(order + offset, head, 8 if is_big else 4))
        (number,) = struct.unpack(order + count, file.read(struct.calcsize(count)))
        entries = file.read(min(number, _MOST_TAGS) * struct.calcsize(order + entry))
        for tag, _, length, value in struct.iter_unpack(order + entry, entries):
            if tag == _NODATA and length <= len(value):
                return str(value[:length].rstrip(b"\0 "), "ascii", "replace")
            if tag == _NODATA:
                file.seek(*struct.unpack(order + offset, value))
                return str(file.read(min(length, _MOST_TAGS)).rstrip(b"\0 "), "ascii", "replace")
    return ""


def _ignored_nodata(path: Path, dataset: Any) -> list[str]:
    """Say which "no data", as a TIFF or VRT writes it, the type of the pixels can't hold; GDAL gives none then."""
    texts = [_nodata_text(path)] if dataset.driver == "GTiff" and dataset.nodatavals[0] is None else []
    if dataset.driver == "VRT":
        texts = [one.findtext("NoDataValue", "").strip() for one in ElementTree.parse(path).iterfind("VRTRasterBand")]
    found = zip(texts, dataset.nodatavals, dataset.dtypes, strict=False)
    ignored = dict.fromkeys((text, dtype) for text, value, dtype in found if text and value is None)
    return [f"its nodata, {text}, is no number of its type, {dtype}, and is ignored" for text, dtype in ignored]


def _colour_notes(dataset: Any) -> list[str]:
    """Say where numbers are no measurements, or not those that are stored."""
    structure, turned = dataset.tags(ns="IMAGE_STRUCTURE"), dataset.tags().get("EXIF_Orientation", "1")
    space = structure.get("SOURCE_COLOR_SPACE", "")
    table = (
        "its numbers are places in a colour table, no measurements (`gdal_translate -expand rgb` makes them colours)"
    )
    notes = {
        table: ColorInterp.palette in dataset.colorinterp,
        f"its colours are stored as {space}, and were converted to red, green, blue": space in ("CMYK", "CIELAB"),
        "its numbers grow from white to black (MINISWHITE), and are taken as they are": "MINISWHITE" in structure,
        f"its EXIF orientation ({turned}) is ignored: rows and columns are as stored": turned not in ("0", "1"),
    }
    return [note for note, is_so in notes.items() if is_so]


def _tags_scaling(dataset: Any) -> tuple[Scaling | None, ...]:
    """Tell what the tags of a file say of the scale and offset of its bands: GDAL's own, else those of Sentinel-2."""
    product = tagged_scaling(dataset.tags())
    tags = zip(dataset.scales, dataset.offsets, dataset.units, strict=True)
    own = [
        scaling_in(unit or "", scale, offset, "its scale and offset tags")
        if unit or (scale, offset) != (1, 0)
        else None
        for scale, offset, unit in tags
    ]
    of_all = product.get("")
    return tuple(one or product.get(name or "", of_all) for one, name in zip(own, dataset.descriptions, strict=True))


def _check_size(path: Path, dataset: Any, overviews: Mapping[str, str]) -> None:
    """See that a file names no overview elsewhere, and that it can hold the pixels that its header asks for."""
    if "OVERVIEW_FILE" in overviews:
        raise RasterError(names_others(path))
    if dataset.driver == "ENVI":
        tags = dataset.tags(ns="ENVI")
        itemsize = sum(rasterio.dtypes._getnpdtype(dtype).itemsize for dtype in dataset.dtypes)
        needed = int(tags.get("header_offset", 0)) + dataset.width * dataset.height * itemsize
        size = path.stat().st_size
        if size < needed and tags.get("file_compression", "0").strip() in ("", "0"):
            raise RasterError(
                f"'{path}' is truncated or its header is wrong: it has {size} bytes, and {dataset.height} lines of "
                f"{dataset.width} samples in {dataset.count} bands take {needed}; get it again or leave it out"
            )
    elif dataset.driver != "VRT" and dataset.height > _SURELY_HELD_ROWS:
        dataset.read(1, window=RasterioWindow(0, dataset.height - 1, 1, 1))


def _lacks_blocks(dataset: Any) -> bool | None:
    """Tell whether a block of a GeoTIFF is not in the file, which GDAL reads as 0, or as its "no data"; None: of too
    many those that were looked for, the last one among them, are there."""
    height, width = dataset.block_shapes[-1]
    across, down = -(-dataset.width // width), -(-dataset.height // height)
    # Where bands stand together in a block they are there together.
    bands = dataset.count if dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") == "BAND" else 1
    number = across * down * bands
    looked_for = np.linspace(0, number - 1, min(_BLOCKS_LOOKED_FOR, number)).astype(int).tolist()
    for band, block in (divmod(one, across * down) for one in looked_for):
        offset = f"BLOCK_OFFSET_{block % across}_{block // across}"
        if dataset.get_tag_item(offset, "TIFF", bidx=band + 1) is None:
            return True
    return False if number <= _BLOCKS_LOOKED_FOR else None


def _held_blocks(dataset: Any, numbers: Sequence[int], window: Window) -> Array:
    """Tell which pixels of a window lie in blocks that are in the file."""
    held = []
    for number in numbers:
        height, width = dataset.block_shapes[number - 1]
        rows, cols = (window.row + np.arange(window.height)) // height, (window.col + np.arange(window.width)) // width
        places = [
            [f"BLOCK_OFFSET_{col}_{row}" for col in range(cols[0], cols[-1] + 1)]
            for row in range(rows[0], rows[-1] + 1)
        ]
        blocks = [[dataset.get_tag_item(one, "TIFF", bidx=number) is not None for one in row] for row in places]
        held.append(np.array(blocks)[rows - rows[0]][:, cols - cols[0]])
    return np.stack(held)


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
# Bits and format (1 unsigned, 2 signed, 3 float) → type.
_DTYPES = {(8, 1): "uint8", (16, 1): "uint16", (32, 1): "uint32", (16, 2): "int16", (32, 2): "int32"}
_DTYPES |= {(32, 3): "float32", (64, 3): "float64"}

# What files beside an image say goes before, or beside, what it says itself.
_SIDECARS = (".aux.xml", ".msk", ".ovr")

# chosen: more systems than an archive has; a name is some tens of bytes.
_MAX_CRS_NAMES = 256
_crs_names: dict[tuple[object, ...], str | None] = {}


class _NotPlainError(Exception):
    """The file is for GDAL."""


_Tags = Mapping[int, Any]
"""Numbers of each tag of a header; of a text its bytes."""

_Header = tuple[Transform, str | None, float | None, str, tuple[int, int, int], bool, tuple[int, ...], tuple[int, ...]]
"""Transform, CRS, number without data, type, (bands, rows, columns), whether each band stands apart; and where the
strips begin, and their sizes."""

# Bands of one image have equal headers. chosen: as many as some images have, and no pixels among them.
_MAX_HEADERS, _MAX_HEADER_BYTES = 64, 4096
_headers: dict[tuple[int, bytes], _Header] = {}
# Bytes that headers have taken.
_header_sizes: set[int] = set()


class PlainTiffSheet:
    """One small file, in memory; what `GdalSheet` says of the same file."""

    def __init__(self, path: Path, data: bytes, header: _Header) -> None:
        """Take what the header says; made by `open_plain_tiff`."""
        self.path = path
        self.transform, self.crs, nodata, dtype, (count, height, width), apart, starts, sizes = header
        strips = [data[start : start + size] for start, size in zip(starts, sizes, strict=True)]
        values = np.frombuffer(b"".join(strips), dtype=np.dtype(dtype).newbyteorder("<"))
        if apart or count == 1:
            self._pixels = values.reshape(count, height, width)
        else:
            self._pixels = values.reshape(height, width, count).transpose(2, 0, 1)
        self.height, self.width = height, width
        self.names: tuple[str, ...] = ("",) * count
        self.dtypes: tuple[str, ...] = (dtype,) * count
        self.nodata: tuple[float | None, ...] = (nodata,) * count
        self.alphas: tuple[int, ...] = ()
        self.scaling: tuple[Scaling | None, ...] = (None,) * count
        self.times: tuple[datetime.datetime | None, ...] = ()
        self.taken: datetime.datetime | None = None
        self.time_index: int | None = None
        self.notes: tuple[str, ...] = ()
        self.geolocation: str | None = None

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Give bands of a window; such files have no mask."""
        # An index by a list copies, so what is given is the caller's.
        return self._pixels[:, *window.slices][list(positions)], None

    def close(self) -> None:
        """Do nothing."""


def open_plain_tiff(path: Path, folder: Set[str] | None = None) -> PlainTiffSheet | None:
    """Open a file if it is a small, plain and whole GeoTIFF; None: it is for GDAL, which says what is wrong. The names
    in its folder, where they are known, need not be asked for again."""
    name = str(path)
    try:
        # The quickest way, and this is done for each file.
        handle = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(handle)
            # A pipe would be waited for; what it is says who opens it next.
            size = status.st_size if stat.S_ISREG(status.st_mode) else _MAX_BYTES + 1
            data = os.read(handle, size) if size <= _MAX_BYTES else b""
        finally:
            os.close(handle)
        if data[:4] != b"II*\0":
            return None
        if folder is not None:
            name = path.name
        beside = [*(name + ending for ending in _SIDECARS), os.path.splitext(name)[0] + ".aux"]  # noqa: PTH122
        if any(map(os.path.exists, beside)) if folder is None else not folder.isdisjoint(beside):
            return None
        header = next(filter(None, (_headers.get((len(data), data[:size])) for size in tuple(_header_sizes))), None)
        return PlainTiffSheet(path, data, header or _read_header(path, data))
    except (_NotPlainError, OSError, struct.error, ValueError):
        return None


def _read_header(path: Path, data: bytes) -> _Header:
    """Read the header of the only image, and keep it for files of the same size that begin with it."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    end = start + 2 + 12 * count
    # A second image in the file is a mask, or an overview, or something else of which GDAL knows.
    if struct.unpack_from("<I", data, end) != (0,):
        raise _NotPlainError
    tags: dict[int, Any] = {}
    last = end + 4
    for tag, kind, length, place in struct.iter_unpack("<HHII", data[start + 2 : end]):
        if tag not in _KNOWN or kind not in _FIELD_TYPES or tag in tags:
            raise _NotPlainError
        form = f"<{length}{_FIELD_TYPES[kind]}"
        size = struct.calcsize(form)
        values = struct.unpack(form, struct.pack("<I", place)[:size] if size <= 4 else data[place : place + size])
        last = max(last, place + size) if size > 4 else last
        tags[tag] = values[0] if kind == 2 else values
    if not tags.keys() >= _NEEDED:
        raise _NotPlainError
    layout = _layout(data, tags)
    header = (_plain_transform(tags), _crs_name(path, tags), _nodata(tags, np.dtype(layout[0])), *layout)
    if last <= _MAX_HEADER_BYTES:
        if len(_headers) >= _MAX_HEADERS:
            _headers.clear()
            _header_sizes.clear()
        # What it says of the strips was checked for a file of this size.
        _headers[len(data), data[:last]] = header
        _header_sizes.add(last)
    return header


def _number(tags: _Tags, tag: int, default: int = 0) -> int:
    """Give a tag of which all numbers are equal."""
    found = set(tags.get(tag, (default,)))
    if len(found) != 1:
        raise _NotPlainError
    return int(found.pop())


def _layout(data: bytes, tags: _Tags) -> tuple[str, tuple[int, int, int], bool, tuple[int, ...], tuple[int, ...]]:
    """Find how the numbers are laid out: the last five of `_Header`."""
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
    sizes = tuple(min(rows, height - row) * row_bytes for row in range(0, height, rows)) * planes
    starts = tags[_STRIPS]
    if tags[_STRIP_BYTES] != sizes or len(starts) != len(sizes):
        raise _NotPlainError
    if any(start < 8 or start + size > len(data) for start, size in zip(starts, sizes, strict=True)):
        raise _NotPlainError
    if all(a + size == b for a, size, b in zip(starts, sizes, starts[1:], strict=False)):
        starts, sizes = starts[:1], (sum(sizes),)
    return dtype, (samples, height, width), planar == _PLANES, starts, sizes


def _plain_transform(tags: _Tags) -> Transform:
    scale, tie = (tuple(map(float, tags[tag])) for tag in (_PIXEL_SCALE, _TIE_POINTS))
    keys = tags[_GEO_KEYS]
    is_area = (_RASTER_TYPE_KEY, 0, 1, _PIXEL_IS_AREA) in (keys[start : start + 4] for start in range(4, len(keys), 4))
    at_corner = len(tie) == 6 and not any(tie[:3]) and all(map(math.isfinite, (*scale, *tie)))
    if not (is_area and at_corner and len(scale) == 3 and min(scale[:2]) > 0):
        raise _NotPlainError
    found = scale[0], 0.0, tie[3] + 0.0, 0.0, -scale[1], tie[4] + 0.0
    if counts_pixels(found, height=_number(tags, _HEIGHT)):
        raise _NotPlainError
    return found


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


def _crs_name(path: Path, tags: _Tags) -> str | None:
    geo = tuple(tags.get(tag) for tag in (_GEO_KEYS, _GEO_DOUBLES, _GEO_TEXTS))
    if geo not in _crs_names:
        if len(_crs_names) >= _MAX_CRS_NAMES:
            _crs_names.clear()
        with closing(GdalSheet(path)) as sheet:
            _crs_names[geo] = sheet.crs
    return _crs_names[geo]
