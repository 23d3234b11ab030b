"""Land covers: what stands where, when, and in which arrangement."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from anyband.errors import CatalogueError, nearest_name
from anyband.shapes import Array, Float
from anyband.simulate.materials import material_names, read_table

__all__ = ["Cover", "Part", "Structure", "cover_named", "cover_names", "load_covers", "part_shares"]

Structure = Literal["plain", "crowns", "clumps", "rows", "grid", "sward", "field", "dunes", "blocks", "lots"]

_YEAR_DAYS = 365.25


@dataclass(frozen=True, kw_only=True)
class Part:
    """The upper or lower part of a cover: its materials by season, or one of several for a lake or roof."""

    days: tuple[float, ...]
    """Days of the northern year at which the shares are declared, ascending."""
    shares: tuple[tuple[float, ...], ...]
    """Share of each material (order of the table) on each of the days; each sums to 1."""
    one_of: bool
    """Whether `shares[0]` are weights to draw one material by, instead of a mixture."""


@dataclass(frozen=True, kw_only=True)
class Cover:
    """One land-cover class."""

    name: str
    """Name in the table, for example `winter_crop`."""
    value: int
    """Number on the map, from 1; 0 is no data."""
    colour: str
    """Colour on the map, `#rrggbb`."""
    structure: Structure
    """How the upper part is arranged."""
    canopy_share: float
    """Mean share of ground under the upper part, 0 to 1."""
    height_m: float
    """Height of the upper part, metres."""
    seasonal: bool
    """Whether the calendar swings fully at every latitude, as of crops; else it fades towards the equator."""
    peak_day: float
    """Day of the northern year whose state an equatorial place has all year, where not `seasonal`."""
    upper: Part
    """Canopy, crop or roof."""
    lower: Part
    """Ground under and between."""


@cache
def load_covers() -> tuple[Cover, ...]:
    """Load the land covers, ordered by their value on the map (1, 2, …)."""
    covers = tuple(_cover(name, row) for name, row in read_table("covers.yaml")["covers"].items())
    if [cover.value for cover in covers] != list(range(1, len(covers) + 1)):
        raise CatalogueError("the values of covers.yaml must be 1, 2, 3 … in order")
    return covers


@cache
def cover_names() -> tuple[str, ...]:
    """Name the land covers in the order of their values on the map."""
    return tuple(cover.name for cover in load_covers())


def cover_named(name: str) -> Cover:
    """Look up a land cover.

    Raises:
        CatalogueError: no such cover; the nearest name is offered.
    """
    names = cover_names()
    if name not in names:
        raise CatalogueError(f"land cover '{name}' is not one of {', '.join(names)}{nearest_name(name, names)}")
    return load_covers()[names.index(name)]


def part_shares(part: Part, day: Float[Array, " unit"]) -> Float[Array, "unit material"]:
    """Interpolate the calendar of a part, around the year.

    Args:
        part: with a calendar (its weights are returned as they are where it is `one_of`).
        day: of the northern year, any number; 366 is day 0.75 of the next.

    Returns:
        Share of each material, summing to 1 in each row.
    """
    shares = np.asarray(part.shares)
    columns = [np.interp(day, part.days, shares[:, k], period=_YEAR_DAYS) for k in range(shares.shape[1])]
    return np.stack(columns, axis=-1)


def _cover(name: str, row: Mapping[str, Any]) -> Cover:
    lower = _part(name, row["lower"])
    if row["structure"] not in get_args(Structure):
        raise CatalogueError(f"cover '{name}' has structure '{row['structure']}', not one of {get_args(Structure)}")
    return Cover(
        name=name,
        value=int(row["value"]),
        colour=row["colour"],
        structure=row["structure"],
        canopy_share=float(row.get("canopy_share", 0.0)),
        height_m=float(row.get("height_m", 0.0)),
        seasonal=row.get("seasonality", "full") == "full",
        peak_day=float(row.get("peak_day", 180)),
        upper=_part(name, row["upper"]) if "upper" in row else lower,
        lower=lower,
    )


def _part(name: str, row: Mapping[str, Any] | list[dict[str, Any]]) -> Part:
    if isinstance(row, Mapping):
        weights = _shares(name, row["one_of"])
        return Part(days=(1.0,), shares=(weights,), one_of=True)
    days = tuple(float(entry["day"]) for entry in row)
    shares = tuple(_shares(name, {k: v for k, v in entry.items() if k != "day"}) for entry in row)
    return Part(days=days, shares=shares, one_of=False)


def _shares(name: str, entries: Mapping[str, Any]) -> tuple[float, ...]:
    shares = np.zeros(len(material_names()))
    for material, share in entries.items():
        if material not in material_names():
            near = nearest_name(material, material_names())
            raise CatalogueError(f"cover '{name}' is made of '{material}', not in materials.yaml{near}")
        shares[material_names().index(material)] = share
    return tuple((shares / shares.sum()).tolist())
