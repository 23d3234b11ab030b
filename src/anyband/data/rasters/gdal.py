"""GeoTIFF, COG, JPEG 2000, ENVI, PNG and JPEG, through rasterio."""

import datetime
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window as RasterioWindow

from anyband.data.rasters.georeference import crs_name
from anyband.data.tiles import Transform, Window
from anyband.errors import RasterError
from anyband.shapes import Array, Bool, Shaped

__all__ = ["GdalSheet", "open_quietly"]

# What rasterio raises for damaged files: its own errors, GDAL's, and those of texts that are no UTF-8.
_LIBRARY_ERRORS = (RasterioError, CPLE_BaseError, ValueError)

# GDAL's quick way of reading a whole PNG at once gives what was in memory before, and no error, where the file breaks
# off (seen with GDAL 3.10); row by row it is an error. It must be said when a file is opened and when it is read.
_READING = {"GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}

# `warnings.catch_warnings` changes a global list, so only one thread may be inside it.
_warnings_lock = threading.Lock()


class GdalSheet:
    """One file that GDAL reads. Not to be shared by threads: each opens its own."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            RasterError: the file is missing, empty, corrupt, or not a raster.
        """
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
        """Read bands of a window: stored numbers, and the file's alpha or mask band where it has one.

        Raises:
            RasterError: the file breaks off or is damaged there.
        """
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


def open_quietly(path: Path, mode: str = "r", *, profile: Mapping[str, Any] | None = None) -> Any:
    """Open a file with rasterio, without its warning that an image lies nowhere.

    An image without georeference is no mistake: its CRS is None, and what needs one says so.
    """
    try:
        return _opened_quietly(path, mode, profile or {})
    except NotGeoreferencedWarning:
        # Where warnings are errors: the lock is ours alone, and a library in another thread put its filters back.
        return _opened_quietly(path, mode, profile or {})


def _opened_quietly(path: Path, mode: str, profile: Mapping[str, Any]) -> Any:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


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
