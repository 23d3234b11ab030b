"""The tables of what the ground is made of: materials, land covers and kinds of landscape."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from anyband.arrays import Array, Float
from anyband.errors import CatalogueError, nearest_name
from anyband.files import parse_yaml

__all__ = [
    "KNOWN_NM",
    "Calendar",
    "Cover",
    "calendar_shares",
    "cover_named",
    "cover_names",
    "load_covers",
    "load_materials",
    "load_themes",
    "material_names",
    "read_table",
    "reflectance_curves",
]

KNOWN_NM = (350.0, 14_000.0)
"""Edges of the curves, nanometres: the truth is known between them."""

_EMISSION_FROM_NM = 3000.0
_YEAR_DAYS = 365.25

_Structure = Literal["plain", "crowns", "clumps", "rows", "grid", "sward", "field", "dunes", "blocks", "lots"]

Calendar = tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]
"""Days of the northern year, ascending, and the share of each material on each; rows sum to 1.

Without days: one row of weights to draw one material by, for a lake or a roof.
"""


@dataclass(frozen=True, kw_only=True)
class Cover:
    """One land-cover class."""

    name: str
    value: int
    """Number on the map, from 1; 0 is no data."""
    colour: str
    structure: _Structure
    canopy_share: float
    """Mean share of ground under the upper part, 0 to 1."""
    height_m: float
    seasonal: bool
    """Whether the calendar swings fully at every latitude, as of crops; else it fades towards the equator."""
    peak_day: float
    """Day of the northern year whose state an equatorial place has all year, where not `seasonal`."""
    upper: Calendar
    lower: Calendar


def read_table(name: str) -> dict[str, Any]:
    """Read one of the packaged tables of the simulator, strictly."""
    text = files("anyband.simulate").joinpath("tables", name).read_text(encoding="utf-8")
    table: dict[str, Any] = parse_yaml(text, name=name, error=CatalogueError)
    return table


@cache
def load_materials() -> dict[str, dict[str, Any]]:
    """Load the opaque materials by name; the simulator names them by their index in this order.

    Of each `wavelength_nm` and `reflectance`, the corners of the curve over `KNOWN_NM` (emissivity is 1 minus
    reflectance, Kirchhoff); `sigma0_db`, C-band backscatter by polarisation, empty where radar passes; `warming_k`,
    excess over the air in full sun.
    """
    return {name: _material(name, row) for name, row in read_table("materials.yaml")["materials"].items()}


def _material(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    emitted = [(float(nm), 1.0 - float(value)) for nm, value in row["emissivity"]]
    points = [*((float(nm), float(value)) for nm, value in row["reflectance"]), *emitted]
    if emitted[0][0] != _EMISSION_FROM_NM or (points[0][0], points[-1][0]) != KNOWN_NM:
        raise CatalogueError(
            f"material '{name}' must have reflectance from 350 nm and emissivity from 3000 to 14000 nm"
        )
    wavelength_nm, reflectance = zip(*points, strict=True)
    sigma0_db = {polarisation: float(level) for polarisation, level in row["sigma0_db"].items()}
    return {
        "wavelength_nm": wavelength_nm,
        "reflectance": reflectance,
        "sigma0_db": sigma0_db,
        "warming_k": float(row["warming_k"]),
    }


@cache
def material_names() -> tuple[str, ...]:
    """Name the materials in the order of the table."""
    return tuple(load_materials())


def reflectance_curves(wavelength_nm: Float[Array, " wavelength"]) -> Float[Array, "material wavelength"]:
    """Interpolate the curves of all materials, linear between their corner points; wavelengths inside `KNOWN_NM`."""
    return np.stack(
        [np.interp(wavelength_nm, one["wavelength_nm"], one["reflectance"]) for one in load_materials().values()]
    )


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
    """Look up a land cover."""
    names = cover_names()
    if name not in names:
        raise CatalogueError(f"land cover '{name}' is not one of {', '.join(names)}{nearest_name(name, names)}")
    return load_covers()[names.index(name)]


def calendar_shares(calendar: Calendar, day: Float[Array, " unit"]) -> Float[Array, "unit material"]:
    """Interpolate a calendar with days, around the year: day 366 is day 0.75 of the next. Rows sum to 1."""
    days, shares = calendar[0], np.asarray(calendar[1])
    columns = [np.interp(day, days, shares[:, k], period=_YEAR_DAYS) for k in range(shares.shape[1])]
    return np.stack(columns, axis=-1)


def _cover(name: str, row: Mapping[str, Any]) -> Cover:
    lower = _calendar(name, row["lower"])
    if row["structure"] not in get_args(_Structure):
        raise CatalogueError(f"cover '{name}' has structure '{row['structure']}', not one of {get_args(_Structure)}")
    return Cover(
        name=name,
        value=int(row["value"]),
        colour=row["colour"],
        structure=row["structure"],
        canopy_share=float(row.get("canopy_share", 0.0)),
        height_m=float(row.get("height_m", 0.0)),
        seasonal=row.get("seasonality", "full") == "full",
        peak_day=float(row.get("peak_day", 180)),
        upper=_calendar(name, row["upper"]) if "upper" in row else lower,
        lower=lower,
    )


def _calendar(name: str, row: Mapping[str, Any] | list[dict[str, Any]]) -> Calendar:
    if isinstance(row, Mapping):
        return (), (_shares(name, row["one_of"]),)
    days = tuple(float(entry["day"]) for entry in row)
    return days, tuple(_shares(name, {key: entry[key] for key in entry if key != "day"}) for entry in row)


def _shares(name: str, entries: Mapping[str, Any]) -> tuple[float, ...]:
    shares = np.zeros(len(material_names()))
    for material, share in entries.items():
        if material not in material_names():
            near = nearest_name(material, material_names())
            raise CatalogueError(f"cover '{name}' is made of '{material}', not in materials.yaml{near}")
        shares[material_names().index(material)] = share
    return tuple((shares / shares.sum()).tolist())


@cache
def load_themes() -> dict[str, dict[str, Any]]:
    """Load the kinds of landscape by name.

    Of each `latitude`, (degrees from the equator, weight), linear between and 0 outside; `river_share`; `shares`, (land
    cover, relative share).
    """
    themes = {}
    for name, row in read_table("themes.yaml")["themes"].items():
        unknown = next((cover for cover in row["shares"] if cover not in cover_names()), None)
        if unknown is not None:
            near = nearest_name(unknown, cover_names())
            raise CatalogueError(f"theme '{name}' has cover '{unknown}', not in covers.yaml{near}")
        themes[name] = {
            "latitude": tuple((float(degrees), float(weight)) for degrees, weight in row["latitude"]),
            "river_share": float(row["river_share"]),
            "shares": tuple((cover, float(share)) for cover, share in row["shares"].items()),
        }
    return themes
