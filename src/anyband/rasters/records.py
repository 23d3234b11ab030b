"""What is known of an open raster, and how its files are named."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from anyband.arrays import Array, Bool, Num, Shaped
from anyband.rasters.grid import Grid, Transform, Window

__all__ = ["Raster", "RasterSource", "Sheet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RasterSource:
    """One image: the files that hold its bands, and whatever the files don't say themselves."""

    paths: tuple[Path, ...]
    """Files, or folders of single-band files; together they hold the bands."""
    bands: tuple[tuple[str, str], ...] = ()
    """(catalogue band, its name, variable or 1-based number in the file; empty: found by its own names).
    Empty: all bands of the sensor, found by their names, or by order where the counts agree."""
    time_index: int | None = None
    """Which time of a file with a time axis, from 0; negative numbers count from the end."""
    time: datetime.datetime | None = None
    """Or the time itself; the day must be in the file."""
    valid_paths: tuple[Path, ...] = ()
    """Mask files; a pixel is valid where all of them say so."""
    valid_values: tuple[float, ...] = ()
    """Values of the masks that mean "valid". Empty: every value but 0."""
    valid_variable: str = ""
    """Variable or band of the mask files; empty: their only one."""
    nodata: float | None = None
    """Stored number that means "no data", instead of the file's own or the sensor's; None: theirs."""
    encoding: str | None = None
    """Name of the catalogue's encoding for these stored numbers; None: the sensor's default."""


@dataclass(frozen=True, kw_only=True)
class Raster:
    """Pixels of a window, as stored."""

    dn: Num[Array, "band row col"]
    """Stored numbers."""
    valid: Bool[Array, "band row col"]
    """Which pixels have data, for each band."""
    grid: Grid
    """Where the pixels lie."""


@runtime_checkable
class Sheet(Protocol):
    """Bands of one file that share a grid: what every format family gives to the reader."""

    path: Path
    """The file."""
    names: tuple[str, ...]
    """Name of each band, empty where the file says nothing."""
    height: int
    """Number of rows."""
    width: int
    """Number of columns."""
    transform: Transform
    """Of the grid; identity without georeference."""
    crs: str | None
    """`EPSG:n`, WKT, or None."""
    dtypes: tuple[str, ...]
    """NumPy type of each band's stored numbers."""
    nodata: tuple[float | None, ...]
    """The file's own "no data" number of each band."""
    times: tuple[datetime.datetime, ...]
    """Times of the file's time axis; empty without one."""
    time_index: int | None
    """The time that `read` gives; None without a time axis."""

    def read(
        self, positions: Sequence[int], window: Window
    ) -> tuple[Shaped[Array, "band row col"], Bool[Array, "band row col"] | None]:
        """Read bands (by position, from 0) of a window: stored numbers, and the file's own mask or None."""

    def close(self) -> None:
        """Close the file."""
