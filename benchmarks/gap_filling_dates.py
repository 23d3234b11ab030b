"""Real series of dates: which are held out, what stands around each when a gap is cut, and where its clouds are."""

import datetime as dt
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np

from anyband.errors import InputError
from anyband.randomness import generator

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "real"))
from kit import CLEAR_CLASSES, manifest_rows

SENSOR = "sentinel2-l2a"
RADAR = "sentinel1-grd"
# chosen: as the kit calls a date clear.
LEAST_CLEAR = 0.95
# chosen: seasons that training does not see, long enough for gaps of 60 days; one in three is held out.
SEASON_DAYS = 60
HELD_OUT_EVERY = 3
# chosen: clouds that leave something to see and hide something to predict.
CLOUD_SHARES = (0.2, 0.7)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """A place with its series."""

    name: str
    """Of the place."""
    optical: dict[int, Row]
    """Manifest rows of the Sentinel-2 dates that show enough ground, by position in the series."""
    radar: tuple[Row, ...]
    """Manifest rows of all Sentinel-1 dates."""
    times: tuple[dt.datetime, ...]
    """Of all Sentinel-2 dates."""
    classes: np.ndarray
    """Scene classes (date, row, col) of all Sentinel-2 dates."""

    @property
    def clear(self) -> tuple[int, ...]:
        """Positions of the dates that show nearly all ground."""
        shares = self.seen.mean(axis=(1, 2))
        return tuple(index for index in self.optical if shares[index] >= LEAST_CLEAR)

    @property
    def seen(self) -> np.ndarray:
        """Where each date shows the ground."""
        return np.isin(self.classes, CLEAR_CLASSES)

    @property
    def held_out(self) -> frozenset[int]:
        """Positions of the dates that training does not see: every third season."""
        start = min(self.times)
        return frozenset(
            index
            for index, time in enumerate(self.times)
            if (time - start).days // SEASON_DAYS % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
        )

    @property
    def training_rows(self) -> list[Row]:
        """Manifest rows of what training sees: no Sentinel-2 date of a held-out season, and all of Sentinel-1."""
        held_out = self.held_out
        return [*(row for index, row in self.optical.items() if index not in held_out), *self.radar]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A held-out date in a gap."""

    date: int
    """Position in the series."""
    before: int
    """Nearest clear date before it that is left."""
    after: int
    """And after it."""
    gap_days: float
    """From one to the other."""


def find_sites(images: Path) -> list[Site]:
    """List the places of the kit with long series."""
    rows = manifest_rows(images.resolve(), sets=True, singles=False)
    names = dict.fromkeys(row["place"] for row in rows if "SCL" in str(row.get("valid_variable")))
    if not names:
        raise InputError(f"'{images}' has no series with scene classes; docs/real_data.md says what the folder holds")
    return [_site(name, [row for row in rows if row["place"] == name]) for name in names]


def _site(name: str, rows: Sequence[Row]) -> Site:
    optical = {int(row["time"]): row for row in rows if row["sensor"] == SENSOR}
    first = next(iter(optical.values()))
    with h5netcdf.File(first["valid"], "r", invalid_netcdf=True) as file:
        classes = file.variables["SCL"][...]
        stamps = file.variables["timestamp"]
        start = dt.datetime.fromisoformat(str(stamps.attrs["units"]).removeprefix("seconds since "))
        times = tuple(start + dt.timedelta(seconds=int(seconds)) for seconds in stamps[...])
    radar = tuple(row for row in rows if row["sensor"] == RADAR)
    return Site(name=name, optical=optical, radar=radar, times=times, classes=classes)


def cut_gap(site: Site, date: int, least_days: float) -> Target | None:
    """Take away the clear dates nearest to a date until those left around it are so far apart.

    Returns:
        What is left; None where a side runs out, or where training saw a date that is taken away: the network knows
        then what the gap hides.
    """
    others = [index for index in site.clear if site.times[index].date() != site.times[date].date()]
    before = [index for index in others if site.times[index] < site.times[date]]
    after = [index for index in others if site.times[index] > site.times[date]]
    taken: list[int] = []
    while before and after:
        gap_days = (site.times[after[0]] - site.times[before[-1]]).total_seconds() / 86_400
        if gap_days >= least_days:
            known = set(taken) - site.held_out
            return None if known else Target(date=date, before=before[-1], after=after[0], gap_days=gap_days)
        is_nearer = site.times[date] - site.times[before[-1]] <= site.times[after[0]] - site.times[date]
        taken.append(before.pop() if is_nearer else after.pop(0))
    return None


def find_targets(site: Site, least_days: float) -> list[Target]:
    """List the held-out clear dates that a gap can be cut around."""
    dates = [index for index in site.clear if index in site.held_out]
    return [target for date in dates if (target := cut_gap(site, date, least_days)) is not None]


def draw_clouds(site: Site, date: int, *, seed: int) -> np.ndarray:
    """Draw the clouds of another date of the place: the same for every gap of a target.

    Returns:
        Where they are, on the grid of the scene classes.
    """
    shares = 1 - site.seen.mean(axis=(1, 2))
    low, high = CLOUD_SHARES
    cloudy = np.flatnonzero((shares >= low) & (shares <= high))
    if not len(cloudy):
        raise InputError(f"'{site.name}' has no date of which {low:.0%} to {high:.0%} are clouded")
    drawn = generator(seed, step=0, sample=date, purpose=f"clouds {site.name}").integers(len(cloudy))
    clouds: np.ndarray = ~site.seen[cloudy[drawn]]
    return clouds
