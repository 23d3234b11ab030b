"""One target: clouds cut into it, filled by the network and by what it is compared with, and how wrong each is."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from gap_filling_dates import Row, Site, Target

from anyband.data.manifest import ImageEntry, parse_entry
from anyband.encode.complete import SetCompleter
from anyband.rasters.grid import Grid
from anyband.rasters.reader import open_raster
from anyband.rasters.writer import write_geotiff
from anyband.scenes.reconstruct import TargetImage, reconstruct

LINE = "line in time"
SHIFTED = "line in time, shifted to what is seen"
NEAREST = "nearest clear date"
WITH_RADAR = "network, with radar"
WITHOUT_RADAR = "network, without radar"
JOINED = "mean of network (with radar) and line"
METHODS = (LINE, SHIFTED, NEAREST, WITH_RADAR, WITHOUT_RADAR, JOINED)

# chosen: dates on each side that the network may choose from; it takes the nearest.
_ON_A_SIDE = 3
_REFLECTANCE = 1e-4  # Source: the encoding 'dn' of sentinel2-l2a in the catalogue


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A target in its gap, read."""

    site: Site
    """The place."""
    target: Target
    """The date and its gap."""
    bands: tuple[str, ...]
    """Of the images."""
    truth: np.ndarray
    """Digital numbers (band, row, col) of the target."""
    before: np.ndarray
    """Of the clear date before."""
    after: np.ndarray
    """Of the clear date after."""
    clouds: np.ndarray
    """Pixels that are cut out."""
    scored: np.ndarray
    """Those of them that are clear in all three."""
    grid: Grid
    """Of the target."""


def read_case(site: Site, target: Target, clouds: np.ndarray) -> Case:
    """Read what a target is compared with.

    Args:
        site: the place.
        target: date and gap.
        clouds: on the grid of the scene classes.
    """
    dates = (target.date, target.before, target.after)
    pixels, grid = zip(*(_read(_entry(site.optical[date], masked=False)) for date in dates), strict=True)
    clear = np.logical_and.reduce([site.seen[date] for date in dates])
    cut = _enlarged(clouds, pixels[0].shape[1:])
    return Case(
        site=site,
        target=target,
        bands=_entry(site.optical[target.date], masked=False).sensor.band_names,
        truth=pixels[0],
        before=pixels[1],
        after=pixels[2],
        clouds=cut,
        scored=cut & _enlarged(clear, pixels[0].shape[1:]),
        grid=grid[0],
    )


def fill(case: Case, completer: SetCompleter, folder: Path) -> dict[str, np.ndarray]:
    """Fill a target in every way.

    Returns:
        Digital numbers (band, row, col) by method.
    """
    line = _line(case)
    filled = {LINE: line, SHIFTED: _shifted(case, line), NEAREST: _nearest(case)}
    for method, rows in ((WITH_RADAR, _radar_rows(case)), (WITHOUT_RADAR, [])):
        filled[method] = _by_network(case, completer, [*_optical_rows(case), *rows], folder)
    filled[JOINED] = (filled[WITH_RADAR] + line) / 2
    return filled


def errors(case: Case, filled: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Compute the root of the mean square error of each method and band over the scored pixels, in reflectance."""
    found = []
    for method, pixels in filled.items():
        wrong = (pixels.astype(np.float64) - case.truth)[:, case.scored] * _REFLECTANCE
        rmse = np.sqrt((wrong**2).mean(axis=1))
        found += [
            {"method": method, "band": band, "rmse": float(one)} for band, one in zip(case.bands, rmse, strict=True)
        ]
        found.append({"method": method, "band": "all", "rmse": float(np.sqrt((rmse**2).mean()))})
    return found


def _entry(row: Row, *, masked: bool = True) -> ImageEntry:
    kept = row if masked else {key: value for key, value in row.items() if not key.startswith("valid")}
    return parse_entry(kept, folder=Path())


def _read(entry: ImageEntry) -> tuple[np.ndarray, Grid]:
    with open_raster(entry.source, entry.sensor) as reader:
        return reader.read().dn, reader.grid


def _enlarged(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    return plane.repeat(shape[0] // plane.shape[0], axis=0).repeat(shape[1] // plane.shape[1], axis=1)


def _line(case: Case) -> np.ndarray:
    times = case.site.times
    begin, end = times[case.target.before], times[case.target.after]
    share = (times[case.target.date] - begin) / (end - begin)
    line: np.ndarray = case.before * (1 - share) + case.after * share
    return line


def _shifted(case: Case, line: np.ndarray) -> np.ndarray:
    """Move each band of the line by its mean error where the target is seen."""
    seen = ~case.clouds
    shift = (case.truth.astype(np.float64) - line)[:, seen].mean(axis=1)
    return np.asarray(line + shift[:, None, None])


def _nearest(case: Case) -> np.ndarray:
    times, target = case.site.times, case.target
    is_before = times[target.date] - times[target.before] <= times[target.after] - times[target.date]
    return (case.before if is_before else case.after).astype(np.float64)


def _optical_rows(case: Case) -> list[Row]:
    """Give the clear dates outside of the gap that are nearest to it: the two of the line, and some behind them."""
    clear, target = case.site.clear, case.target
    times = case.site.times
    before = [index for index in clear if times[index] <= times[target.before]][-_ON_A_SIDE:]
    after = [index for index in clear if times[index] >= times[target.after]][:_ON_A_SIDE]
    return [case.site.optical[index] for index in (*before, *after)]


def _radar_rows(case: Case) -> list[Row]:
    time = case.site.times[case.target.date]
    return sorted(case.site.radar, key=lambda row: abs(dt.datetime.fromisoformat(row["datetime"]) - time))[
        : 2 * _ON_A_SIDE
    ]


def _by_network(case: Case, completer: SetCompleter, rows: Sequence[Row], folder: Path) -> np.ndarray:
    """Fill the target as the verb does: from its file, under a mask, into a file."""
    clouds, out = folder / "clouds.tif", folder / "filled.tif"
    write_geotiff(clouds, case.clouds[None].astype(np.uint8), grid=case.grid, descriptions=("clouds",))
    entry = _entry(case.site.optical[case.target.date], masked=False)
    covered = replace(entry, source=replace(entry.source, valid_paths=(clouds,), valid_values=(0.0,)))
    target = TargetImage(sensor=entry.product, time=case.site.times[case.target.date], entry=covered)
    reconstruct(completer, [_entry(row) for row in rows], target, out, draw=False)
    with rasterio.open(out) as file:
        filled: np.ndarray = file.read().astype(np.float64)
    return filled
