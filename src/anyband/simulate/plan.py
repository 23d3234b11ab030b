"""What is rendered: options, land covers, places and plots."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, UInt8
from anyband.errors import CatalogueError, GeometryError, InputError, nearest_name
from anyband.files import parse_yaml
from anyband.randomness import generator
from anyband.sensors.catalogue import resolve_sensor
from anyband.sensors.sensor import Sensor

__all__ = [
    "DEFAULT_SENSORS",
    "KNOWN_NM",
    "Cover",
    "Frame",
    "Material",
    "Part",
    "Place",
    "Plan",
    "Settlement",
    "SimulateOptions",
    "Structure",
    "Theme",
    "Tiles",
    "cover_named",
    "cover_names",
    "draw_plan",
    "draw_settlement",
    "fractal_noise",
    "frame_of",
    "irregular_tiles",
    "load_covers",
    "load_materials",
    "load_themes",
    "make_place",
    "material_names",
    "part_shares",
    "read_table",
    "rectangular_tiles",
    "reflectance_curves",
    "rotated",
    "sensors_of",
    "smooth_noise",
    "theme_weights",
    "utm_epsg",
    "winding_distance_m",
]

KNOWN_NM = (350.0, 14_000.0)
"""Edges of the curves, nanometres: the truth is known between them."""

_EMISSION_FROM_NM = 3000.0


@dataclass(frozen=True, kw_only=True)
class Material:
    """One opaque material."""

    name: str
    """Name in the table, for example `asphalt`."""
    wavelength_nm: tuple[float, ...]
    """Corner points of the curve, nanometres, ascending over `KNOWN_NM`."""
    reflectance: tuple[float, ...]
    """Reflectance at the corner points, 0 to 1; emissivity is 1 minus it (Kirchhoff)."""
    sigma0_db: tuple[tuple[str, float], ...]
    """(polarisation, C-band backscatter in dB); empty where radar passes, as through clouds."""
    warming_k: float
    """Excess of the surface over the air in full sun, kelvin."""


def read_table(name: str) -> dict[str, Any]:
    """Read one of the packaged tables of the simulator, strictly."""
    text = files("anyband.simulate").joinpath("tables", name).read_text(encoding="utf-8")
    table: dict[str, Any] = parse_yaml(text, name=name, error=CatalogueError)
    return table


@cache
def load_materials() -> tuple[Material, ...]:
    """Load the materials in the order of the table; the simulator names them by their index in it."""
    return tuple(_material(name, row) for name, row in read_table("materials.yaml")["materials"].items())


@cache
def material_names() -> tuple[str, ...]:
    """Name the materials in the order of the table."""
    return tuple(material.name for material in load_materials())


def reflectance_curves(wavelength_nm: Float[Array, " wavelength"]) -> Float[Array, "material wavelength"]:
    """Interpolate the curves of all materials, linear between their corner points.

    Args:
        wavelength_nm: inside `KNOWN_NM`.

    Returns:
        Reflectance, 0 to 1; 1 minus it is the emissivity.
    """
    return np.stack(
        [np.interp(wavelength_nm, material.wavelength_nm, material.reflectance) for material in load_materials()]
    )


def _material(name: str, row: Mapping[str, Any]) -> Material:
    emitted = [(float(nm), 1.0 - float(value)) for nm, value in row["emissivity"]]
    points = [*((float(nm), float(value)) for nm, value in row["reflectance"]), *emitted]
    if emitted[0][0] != _EMISSION_FROM_NM or (points[0][0], points[-1][0]) != KNOWN_NM:
        raise CatalogueError(
            f"material '{name}' must have reflectance from 350 nm and emissivity from 3000 to 14000 nm"
        )
    wavelength_nm, reflectance = zip(*points, strict=True)
    return Material(
        name=name,
        wavelength_nm=wavelength_nm,
        reflectance=reflectance,
        sigma0_db=tuple((polarisation, float(level)) for polarisation, level in row["sigma0_db"].items()),
        warming_k=float(row["warming_k"]),
    )


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


# Mean over positions of the squared cubic B-spline weights: the standard deviation of the sum along two axes.
_SPLINE_GAIN = 151.0 / 315.0
# chosen: borders wander by up to this share of the spacing, so fields differ in size but keep their order.
_BORDER_SHIFT = 0.35
# chosen: a line swings by at most this share of its wavelength: about 50 degrees off its course.
_STEEPEST = 0.19


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A square piece of ground and the detail at which it is drawn."""

    footprint_m: float
    """Length of a side, metres."""
    detail_m: float
    """Length of a pixel, metres; divides the footprint."""

    @property
    def num_pixels(self) -> int:
        """Pixels along a side."""
        return round(self.footprint_m / self.detail_m)

    def coordinates_m(self) -> tuple[Float[Array, "row col"], Float[Array, "row col"]]:
        """Give y (down) and x (right) of the pixel centres, metres from the upper left corner."""
        steps = ((np.arange(self.num_pixels) + 0.5) * self.detail_m).astype(np.float32)
        y, x = np.meshgrid(steps, steps, indexing="ij")
        return y, x


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """A division of the ground into pieces."""

    index: Int[Array, "row col"]
    """Piece that a pixel belongs to, 0 to `num_tiles` − 1."""
    border_m: Float[Array, "row col"]
    """Distance to the nearest border, metres."""
    num_tiles: int
    """Number of pieces."""


def smooth_noise(rng: np.random.Generator, frame: Frame, *, spacing_m: float) -> Float[Array, "row col"]:
    """Draw a smooth random surface of mean 0 and variance about 1, without structure below `spacing_m`.

    A cubic B-spline over a lattice of normal numbers.
    """
    weights = _spline_weights(frame, spacing_m)
    lattice = rng.standard_normal((weights.shape[1],) * 2, dtype=np.float32)
    return np.asarray(weights @ lattice @ weights.T / np.float32(_SPLINE_GAIN))


def fractal_noise(
    rng: np.random.Generator, frame: Frame, *, longest_m: float, shortest_m: float, roughness: float = 0.5
) -> Float[Array, "row col"]:
    """Sum smooth noise over spacings that halve from `longest_m` to `shortest_m`, each weaker by `roughness`.

    Returns:
        float32, mean about 0 and variance about 1.
    """
    total = np.zeros((frame.num_pixels,) * 2, dtype=np.float32)
    spacing_m, amplitude, power = longest_m, 1.0, 0.0
    while spacing_m >= shortest_m:
        total += np.float32(amplitude) * smooth_noise(rng, frame, spacing_m=spacing_m)
        power += amplitude**2
        spacing_m, amplitude = spacing_m / 2, amplitude * roughness
    return total / np.float32(np.sqrt(power))


def rotated(
    y_m: Float[Array, "row col"], x_m: Float[Array, "row col"], *, angle_rad: float
) -> tuple[Float[Array, "row col"], Float[Array, "row col"]]:
    """Turn coordinates by an angle; returns (across, along)."""
    cosine, sine = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    return y_m * cosine - x_m * sine, y_m * sine + x_m * cosine


def rectangular_tiles(
    rng: np.random.Generator,
    across_m: Float[Array, "row col"],
    along_m: Float[Array, "row col"],
    *,
    width_m: float,
    length_m: float,
) -> Tiles:
    """Divide the ground into strips and the strips into fields, as land is parcelled."""
    strip, strip_border_m = _intervals(rng, across_m, np.zeros_like(across_m, dtype=np.intp), width_m)
    field, field_border_m = _intervals(rng, along_m, strip, length_m)
    index, num_tiles = _numbered(strip * (int(field.max()) + 1) + field)
    return Tiles(index=index, border_m=np.minimum(strip_border_m, field_border_m), num_tiles=num_tiles)


def irregular_tiles(
    rng: np.random.Generator,
    y_m: Float[Array, "row col"],
    x_m: Float[Array, "row col"],
    *,
    spacing_m: float,
) -> Tiles:
    """Divide the ground into the Voronoi cells of scattered points, about one for each square of `spacing_m`.

    Source:
        Worley, "A cellular texture basis function", SIGGRAPH 1996.
    """
    row = np.floor(y_m / np.float32(spacing_m)).astype(np.intp)
    col = np.floor(x_m / np.float32(spacing_m)).astype(np.intp)
    top, left = int(row.min()) - 1, int(col.min()) - 1
    num_rows, num_cols = int(row.max()) - top + 2, int(col.max()) - left + 2
    point_y = ((np.arange(num_rows)[:, None] + top + rng.random((num_rows, num_cols))) * spacing_m).astype(np.float32)
    point_x = ((np.arange(num_cols)[None, :] + left + rng.random((num_rows, num_cols))) * spacing_m).astype(np.float32)
    base = (row - top) * num_cols + (col - left)
    nearest = np.full(y_m.shape, np.inf, dtype=np.float32)
    second = nearest.copy()
    index = np.zeros(y_m.shape, dtype=np.intp)
    for step in [dy * num_cols + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
        point = base + step
        distance = (y_m - point_y.ravel()[point]) ** 2 + (x_m - point_x.ravel()[point]) ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        index = np.where(closer, point, index)
        nearest = np.where(closer, distance, nearest)
    index, num_tiles = _numbered(index)
    return Tiles(index=index, border_m=(np.sqrt(second) - np.sqrt(nearest)) / 2, num_tiles=num_tiles)


def winding_distance_m(
    rng: np.random.Generator, frame: Frame, *, bend_m: float, wavelength_m: float
) -> Float[Array, "row col"]:
    """Measure how far each pixel is from a line that winds across the frame, metres.

    Args:
        rng: draws direction, place and bends.
        frame: to fill.
        bend_m: how far the line swings to each side.
        wavelength_m: from one bend to the next but one.

    Returns:
        Distance, at least 0; exact near the line, where it is used.
    """
    y_m, x_m = frame.coordinates_m()
    middle_m = np.float32(frame.footprint_m / 2)
    across_m, along_m = rotated(y_m - middle_m, x_m - middle_m, angle_rad=rng.uniform(0, np.pi))
    line_m = np.full_like(across_m, rng.uniform(-0.25, 0.25) * frame.footprint_m)
    slope = np.zeros_like(across_m)
    for share in (1.0, 0.45, 0.2):
        wave = np.float32(2 * np.pi / (wavelength_m * share * rng.uniform(0.8, 1.25)))
        phase = along_m * wave + np.float32(rng.uniform(0, 2 * np.pi))
        # Squared: each overtone bends the line less steeply, so that it winds instead of jumping to and fro.
        swing_m = np.float32(min(bend_m, wavelength_m * _STEEPEST) * share**2)
        line_m += swing_m * np.sin(phase)
        slope += swing_m * wave * np.cos(phase)
    distance_m: Float[Array, "row col"] = np.abs(across_m - line_m) / np.sqrt(1 + slope**2)
    return distance_m


@lru_cache(maxsize=64)
def _spline_weights(frame: Frame, spacing_m: float) -> Array:
    position = (np.arange(frame.num_pixels) + 0.5) * frame.detail_m / spacing_m
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.zeros((frame.num_pixels, int(frame.footprint_m / spacing_m) + 5), dtype=np.float32)
    rows = np.arange(frame.num_pixels)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, values in enumerate(basis):
        weights[rows, first + offset] = values / 6
    return weights


def _intervals(rng: np.random.Generator, position_m: Array, line: Array, spacing_m: float) -> tuple[Array, Array]:
    """Cut lines into intervals of about `spacing_m`; returns interval and distance to its nearer end."""
    cell = np.floor(position_m / np.float32(spacing_m)).astype(np.intp)
    cell -= int(cell.min()) - 1
    start_m = np.float32((int(np.floor(position_m.min() / spacing_m)) - 1) * spacing_m)
    num_lines, num_cells = int(line.max()) + 1, int(cell.max()) + 3
    shift_m = rng.uniform(-_BORDER_SHIFT, _BORDER_SHIFT, (num_lines, num_cells)) * spacing_m
    border_m = (start_m + np.arange(num_cells) * spacing_m + shift_m).astype(np.float32).ravel()
    at = line * num_cells + cell
    interval = cell - 1 + (position_m >= border_m[at]) + (position_m >= border_m[at + 1])
    low = line * num_cells + interval
    distance_m = np.minimum(position_m - border_m[low], border_m[low + 1] - position_m)
    return interval, distance_m


def _numbered(index: Array) -> tuple[Array, int]:
    """Renumber pieces 0, 1, 2 … without gaps, in their order."""
    present = np.bincount(index.ravel()) > 0
    number = np.cumsum(present) - 1
    return number[index].astype(np.int32), int(present.sum())


DEFAULT_SENSORS = ("sentinel2-l2a", "sentinel1-grd", "maxar-rgb", "landsat8-oli-tirs-l2")
"""Optical, radar, very high resolution and thermal: one of each kind."""


@dataclass(frozen=True, kw_only=True)
class SimulateOptions:
    """What to simulate. What is written is a function of this record, `workers` and `shown` excepted."""

    num_places: int = 100
    """Number of places, at least 1."""
    sensors: tuple[str, ...] = DEFAULT_SENSORS
    """Sensors of the catalogue, or YAML files of one sensor each."""
    footprint_m: float = 960.0
    """Side of a place, metres; a multiple of every pixel size."""
    seed: int = 0
    """Of all draws."""
    num_dates: int = 1
    """Acquisitions of each sensor at each place, spread over the months with enough sun."""
    max_gap_days: int = 3
    """Most days by which the sensors are apart on one date."""
    year: int = 2023
    """Year of the acquisitions."""
    cloud_share: float = 0.1
    """Share of optical acquisitions with clouds, 0 to 1."""
    edge_share: float = 0.05
    """Share of acquisitions that the edge of the swath cuts, 0 to 1; none where a sensor has no nodata."""
    gsd_m: tuple[tuple[str, float], ...] = (("maxar-rgb", 2.5),)
    """(sensor, metres): pixel size to use instead of the catalogue's. Bands that are coarser stay so."""
    detail_m: float = 2.5
    """Pixel size of the truth, metres; no sensor may be finer."""
    label_gsd_m: float = 10.0
    """Pixel size of the land-cover map, metres."""
    workers: int = 1
    """Processes that render at the same time."""
    shown: bool = True
    """Whether to show progress."""

    def __post_init__(self) -> None:
        for name, least in (("num_places", 1), ("num_dates", 1), ("workers", 1), ("max_gap_days", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, found {getattr(self, name)}")
        for name in ("footprint_m", "detail_m", "label_gsd_m"):
            _check_length(name, getattr(self, name))
        for sensor, gsd_m in self.gsd_m:
            _check_length(f"the pixel size of '{sensor}'", gsd_m)
        for name in ("cloud_share", "edge_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must be from 0 to 1, found {getattr(self, name):g}")
        if not self.sensors:
            raise InputError("no sensors are named; `anyband sensors` lists the catalogue")


def _check_length(name: str, metres: float) -> None:
    if not 0 < metres < math.inf:
        raise InputError(f"{name} must be over 0 metres and finite, found {metres:g}")


def frame_of(options: SimulateOptions) -> Frame:
    """Make the frame of the truth.

    Raises:
        GeometryError: the footprint is no multiple of the detail.
    """
    _check_multiple(options.footprint_m, options.detail_m, "the truth (detail_m)")
    _check_multiple(options.footprint_m, options.label_gsd_m, "the land-cover map (label_gsd_m)")
    return Frame(footprint_m=options.footprint_m, detail_m=options.detail_m)


def sensors_of(options: SimulateOptions) -> tuple[Sensor, ...]:
    """Look up the sensors, with the pixel sizes that the options give them.

    Raises:
        CatalogueError: a sensor is unknown.
        InputError: a pixel size is given for a sensor that is not asked for, or a sensor is named twice.
        GeometryError: the footprint is no multiple of a pixel size, or a pixel is finer than the truth.
    """
    sensors = tuple(resolve_sensor(name) for name in options.sensors)
    names = [sensor.name for sensor in sensors]
    if len(set(names)) < len(names):
        raise InputError(f"a sensor is named twice: {', '.join(names)}")
    sizes: dict[str, float] = {}
    for name, gsd_m in options.gsd_m:
        # A sensor of the user's own goes by its name here, as messages write it, or by its file.
        meant = name if name in names else resolve_sensor(name).name
        if meant in names:
            sizes[meant] = gsd_m
        elif (name, gsd_m) not in SimulateOptions.gsd_m:
            asked = f"{', '.join(names)}{nearest_name(name, names)}"
            raise InputError(f"a pixel size is given for '{name}', which is not simulated ({asked})")
    resized = tuple(_resized(sensor, sizes.get(sensor.name)) for sensor in sensors)
    for sensor in resized:
        for band in sensor.bands:
            _check_pixel(options, sensor, band.gsd_m)
    return resized


def _resized(sensor: Sensor, gsd_m: float | None) -> Sensor:
    if gsd_m is None:
        return sensor
    finest = sensor.gsd_m
    bands = tuple(
        replace(band, gsd_m=gsd_m if band.gsd_m == finest else max(band.gsd_m, gsd_m)) for band in sensor.bands
    )
    return replace(sensor, bands=bands)


def _check_pixel(options: SimulateOptions, sensor: Sensor, gsd_m: float) -> None:
    if gsd_m < options.detail_m:
        raise GeometryError(
            f"sensor '{sensor.name}' has pixels of {gsd_m:g} m, finer than the truth, which is drawn at "
            f"{options.detail_m:g} m; use --gsd {sensor.name}={options.detail_m:g}, or a finer --detail"
        )
    _check_multiple(options.footprint_m, gsd_m, f"sensor '{sensor.name}'")


def _check_multiple(footprint_m: float, gsd_m: float, of: str) -> None:
    if gsd_m <= 0 or footprint_m < gsd_m or abs(footprint_m / gsd_m - round(footprint_m / gsd_m)) > 1e-6:
        nearest_m = max(round(footprint_m / gsd_m), 1) * gsd_m if gsd_m > 0 else footprint_m
        raise GeometryError(
            f"a footprint of {footprint_m:g} m is no multiple of the pixel size {gsd_m:g} m of {of}; "
            f"use --footprint {nearest_m:g}, or another pixel size"
        )


MAX_LATITUDE_DEG = 66.0
"""chosen: beyond it there are months without usable sun."""

_GOLDEN_SHARE = (5**0.5 - 1) / 2
# Corners lie on multiples of this, as those of Sentinel-2 products do: the grids of all sensors coincide.
_GRID_M = 60.0


@dataclass(frozen=True, kw_only=True)
class Theme:
    """A kind of landscape."""

    name: str
    """Name in the table, for example `cereal_plain`."""
    latitude: tuple[tuple[float, float], ...]
    """(degrees from the equator, weight), linear between; 0 outside."""
    river_share: float
    """Share of its places that a river crosses."""
    shares: tuple[tuple[str, float], ...]
    """(land cover, relative share)."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One footprint on the ground: what every image of it has in common."""

    index: int
    """Position among the places of the run, from 0."""
    seed: int
    """Seed of the run; with `index` it makes the landscape."""
    latitude_deg: float
    """−66 to 66."""
    longitude_deg: float
    """−180 to 180."""
    epsg: int
    """Code of its UTM zone."""
    theme: Theme
    """Kind of landscape."""

    @property
    def easting_m(self) -> float:
        """Of the upper left corner, in the UTM zone."""
        return self._corner_m[0]

    @property
    def northing_m(self) -> float:
        """Of the upper left corner, in the UTM zone."""
        return self._corner_m[1]

    @cached_property
    def _corner_m(self) -> tuple[float, float]:
        # Asked for only where images are put on the ground: rendering needs no library of projections.
        easting_m, northing_m = _project(self.latitude_deg, self.longitude_deg, self.epsg)
        return round(easting_m / _GRID_M) * _GRID_M, round(northing_m / _GRID_M) * _GRID_M

    @property
    def name(self) -> str:
        """Name in files and tables."""
        return f"place_{self.index:05d}"

    def generator(self, purpose: str, *, sample: int = 0) -> np.random.Generator:
        """Make the generator of one draw of this place."""
        return generator(self.seed, step=self.index, sample=sample, purpose=f"simulate/{purpose}")


@cache
def load_themes() -> tuple[Theme, ...]:
    """Load the kinds of landscape, in the order of the table."""
    return tuple(_theme(name, row) for name, row in read_table("themes.yaml")["themes"].items())


def make_place(seed: int, index: int, *, theme: Theme | None = None) -> Place:
    """Choose where a place lies and what kind of landscape it is: a function of seed and index.

    Longitudes follow the golden ratio, which keeps places apart; two thirds lie in the north, like the land.

    Args:
        seed: of the run.
        index: of the place, from 0.
        theme: kind of landscape to use instead of drawing one by latitude.
    """
    rng = generator(seed, step=index, sample=0, purpose="simulate/place")
    latitude_deg = float(rng.uniform(0, MAX_LATITUDE_DEG) * (1 if rng.random() < 2 / 3 else -1))
    longitude_deg = float((rng.random() * 1e-3 + index * _GOLDEN_SHARE) % 1 * 360 - 180)
    drawn = load_themes()[int(rng.choice(len(load_themes()), p=theme_weights(latitude_deg)))]
    return Place(
        index=index,
        seed=seed,
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        epsg=utm_epsg(latitude_deg, longitude_deg),
        theme=theme or drawn,
    )


def theme_weights(latitude_deg: float) -> np.ndarray:
    """Weigh the kinds of landscape at a latitude; sums to 1."""
    weights = []
    for theme in load_themes():
        degrees, values = zip(*theme.latitude, strict=True)
        weights.append(np.interp(abs(latitude_deg), degrees, values, left=0.0, right=0.0))
    total: np.ndarray = np.array(weights) / np.sum(weights)
    return total


def utm_epsg(latitude_deg: float, longitude_deg: float) -> int:
    """Give the EPSG code of the UTM zone of a point (the plain zones of six degrees)."""
    zone = min(int((longitude_deg + 180) // 6) + 1, 60)
    return (32600 if latitude_deg >= 0 else 32700) + zone


def _project(latitude_deg: float, longitude_deg: float, epsg: int) -> tuple[float, float]:
    from pyproj import Transformer

    easting_m, northing_m = Transformer.from_crs(4326, epsg, always_xy=True).transform(longitude_deg, latitude_deg)
    return float(easting_m), float(northing_m)


def _theme(name: str, row: Mapping[str, object]) -> Theme:
    shares = row["shares"]
    latitude = row["latitude"]
    assert isinstance(shares, dict)
    assert isinstance(latitude, list)
    for cover in shares:
        if cover not in cover_names():
            raise CatalogueError(
                f"theme '{name}' has cover '{cover}', not in covers.yaml{nearest_name(cover, cover_names())}"
            )
    return Theme(
        name=name,
        latitude=tuple((float(degrees), float(weight)) for degrees, weight in latitude),
        river_share=float(str(row["river_share"])),
        shares=tuple((cover, float(share)) for cover, share in shares.items()),
    )


@dataclass(frozen=True, kw_only=True)
class _Style:
    """Measures of one kind of settlement, metres."""

    block_m: tuple[float, float]
    """Width and length of a block."""
    street_m: float
    """Half the width of a street."""
    lot_m: tuple[float, float]
    """Width and length of a lot; one building on each."""
    yard_m: tuple[float, float]
    """Least and greatest distance of a building from the edge of its lot."""
    height_m: tuple[float, float]
    """Lowest and highest building."""
    empty_share: float
    """Share of lots without a building."""


# chosen: measures of ordinary towns.
_DENSE = _Style(
    block_m=(85.0, 120.0),
    street_m=6.0,
    lot_m=(30.0, 38.0),
    yard_m=(1.0, 5.0),
    height_m=(8.0, 24.0),
    empty_share=0.12,
)
_RESIDENTIAL = _Style(
    block_m=(75.0, 140.0),
    street_m=4.0,
    lot_m=(20.0, 24.0),
    yard_m=(3.5, 6.5),
    height_m=(4.0, 8.0),
    empty_share=0.12,
)


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """The plan of one kind of settlement over the whole frame; a landscape uses the part that is settled."""

    block: Int[Array, "row col"]
    """Number of the block."""
    num_blocks: int
    """Number of blocks."""
    street: Bool[Array, "row col"]
    """Whether there is a street."""
    building: Bool[Array, "row col"]
    """Whether there is a building."""
    lot: Int[Array, "row col"]
    """Number of the lot, and so of its building."""
    num_lots: int
    """Number of lots."""
    height_m: Float[Array, "row col"]
    """Height of the buildings, metres; 0 beside them."""


def draw_settlement(rng: np.random.Generator, frame: Frame, *, dense: bool, angle_rad: float) -> Settlement:
    """Draw the streets, lots and buildings of a town (dense) or suburb on a street grid at an angle."""
    style = _DENSE if dense else _RESIDENTIAL
    y_m, x_m = frame.coordinates_m()
    across_m, along_m = rotated(y_m, x_m, angle_rad=angle_rad)
    # chosen: streets bend by some metres; few towns are ruled with a line.
    across_m = across_m + 12 * smooth_noise(rng, frame, spacing_m=320.0)
    blocks = rectangular_tiles(rng, across_m, along_m, width_m=style.block_m[0], length_m=style.block_m[1])
    lots = rectangular_tiles(rng, across_m, along_m, width_m=style.lot_m[0], length_m=style.lot_m[1])
    yard_m = rng.uniform(*style.yard_m, lots.num_tiles).astype(np.float32)
    storey_m = rng.uniform(*style.height_m, lots.num_tiles).astype(np.float32)
    yard_m[rng.random(lots.num_tiles) < style.empty_share] = np.inf
    street = blocks.border_m < style.street_m
    building = (lots.border_m > yard_m[lots.index]) & (blocks.border_m > style.street_m + 3)
    return Settlement(
        block=blocks.index,
        num_blocks=blocks.num_tiles,
        street=street,
        building=building,
        lot=lots.index,
        num_lots=lots.num_tiles,
        height_m=np.where(building, storey_m[lots.index], np.float32(0)),
    )


_FARMED = ("winter_crop", "summer_crop", "paddy", "orchard", "plantation")
_BUILT = ("urban_residential", "urban_dense")
_WET = ("water", "wetland")
# Covers that keep roads away: nobody drives over them.
_WILD_THEMES = ("dunes", "ice_field", "marsh", "lake_land")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The covers of a place and the lines through it."""

    cover: UInt8[Array, "row col"]
    """Land cover: values of covers.yaml."""
    farmed: Bool[Array, "row col"]
    """Whether a pixel is part of a parcel."""
    relief_m: Float[Array, "row col"]
    """Height of the ground, metres."""
    roads: tuple[Bool[Array, "row col"], ...]
    """Main roads."""
    town: Settlement | None
    """Plan of the dense town, where there is one."""
    suburb: Settlement | None
    """Plan of the suburb, where there is one."""
    margin_m: float
    """Half the width of the strip between fields, metres."""
    grassy_margins: bool
    """Whether it is grass; else a track."""
    hedge_height_m: float
    """Height of hedges on it, metres; 0 where there are none."""


def draw_plan(place: Place, frame: Frame, parcels: Tiles) -> Plan:
    """Draw which cover lies where, with the shares of the place's theme."""
    rng = place.generator("plan")
    shares = _own_shares(place, rng)
    farmed_share = sum(shares.get(name, 0.0) for name in _FARMED)
    relief_m = _relief(place, frame, flat=farmed_share > 0.3 or any(name in shares for name in _BUILT))
    roads = _roads(place, frame)
    cover, farmed = _open_covers(rng, frame, parcels, shares)
    town, suburb = _settle(rng, place, frame, shares, cover)
    _flood(rng, place, frame, shares, relief_m, cover)
    farmed &= np.isin(cover, [cover_named(name).value for name in (*_FARMED, "grassland")])
    return Plan(
        cover=cover,
        farmed=farmed,
        relief_m=relief_m,
        roads=roads,
        town=town,
        suburb=suburb,
        margin_m=float(rng.uniform(1.3, 3.0)),
        grassy_margins=bool(rng.random() < 0.6),
        hedge_height_m=float(rng.choice([0.0, 0.0, 4.0])),
    )


def _own_shares(place: Place, rng: np.random.Generator) -> dict[str, float]:
    """Draw the shares of a place around those of its theme, normalised."""
    # chosen: gamma of shape 4, so that a share varies by about half of itself.
    drawn = {name: share * float(rng.gamma(4.0) / 4.0) for name, share in place.theme.shares}
    total = sum(drawn.values())
    return {name: share / total for name, share in drawn.items()}


def _relief(place: Place, frame: Frame, *, flat: bool) -> Array:
    rng = place.generator("relief")
    height_m = np.exp(rng.uniform(np.log(4), np.log(18 if flat else 70)))
    return np.float32(height_m) * fractal_noise(rng, frame, longest_m=480.0, shortest_m=15.0, roughness=0.42)


def _roads(place: Place, frame: Frame) -> tuple[Array, ...]:
    rng = place.generator("roads")
    num_roads = 0 if place.theme.name in _WILD_THEMES else int(rng.choice([0, 1, 1, 2]))
    return tuple(
        winding_distance_m(rng, frame, bend_m=rng.uniform(10, 60), wavelength_m=rng.uniform(600, 1200))
        < rng.uniform(3.5, 7.5)
        for _ in range(num_roads)
    )


def _open_covers(
    rng: np.random.Generator, frame: Frame, parcels: Tiles, shares: dict[str, float]
) -> tuple[Array, Array]:
    """Divide the ground into parcels of crops and natural patches; returns cover and whether it is farmed."""
    farm = {name: share for name, share in shares.items() if name in _FARMED}
    wild = {name: share for name, share in shares.items() if name not in (*_FARMED, *_BUILT, *_WET)}
    if sum(farm.values()) > sum(wild.values()) and "grassland" in wild:
        farm["grassland"] = wild.pop("grassland")  # pasture among fields
    if not farm and not wild:
        wild = {"grassland": 1.0}  # what towns and lakes leave over
    surface = fractal_noise(rng, frame, longest_m=420.0, shortest_m=14.0, roughness=0.55)
    cover = _sliced(surface, _shuffled(rng, wild)) if wild else np.zeros(surface.shape, dtype=np.uint8)
    if not farm:
        return cover, np.zeros(cover.shape, dtype=bool)
    # A parcel is farmed or not as a whole, so woods and fields meet along the borders of the fields.
    mood = fractal_noise(rng, frame, longest_m=480.0, shortest_m=120.0)
    parcel_mood = _tile_mean(mood, parcels)
    farmed_share = sum(farm.values()) / (sum(farm.values()) + sum(wild.values()))
    farmed = parcel_mood >= np.quantile(parcel_mood, 1 - farmed_share) if wild else np.ones(cover.shape, dtype=bool)
    names, weights = list(farm), np.array(list(farm.values()))
    crops = np.array([cover_named(name).value for name in names], dtype=np.uint8)
    crop = crops[rng.choice(len(names), p=weights / weights.sum(), size=parcels.num_tiles)]
    return np.where(farmed, crop[parcels.index], cover), farmed


def _settle(
    rng: np.random.Generator, place: Place, frame: Frame, shares: dict[str, float], cover: Array
) -> tuple[Settlement | None, Settlement | None]:
    """Lay a town with its suburb around it, by whole blocks; returns their plans."""
    dense_share, garden_share = shares.get("urban_dense", 0.0), shares.get("urban_residential", 0.0)
    if dense_share + garden_share == 0:
        return None, None
    angle_rad = rng.uniform(0, np.pi / 2)
    pull = fractal_noise(rng, frame, longest_m=480.0, shortest_m=120.0, roughness=0.4)
    suburb = draw_settlement(place.generator("suburb"), frame, dense=False, angle_rad=angle_rad)
    town = draw_settlement(place.generator("town"), frame, dense=True, angle_rad=angle_rad) if dense_share else None
    for plan, share, name in (
        (suburb, dense_share + garden_share, "urban_residential"),
        (town, dense_share, "urban_dense"),
    ):
        if plan is not None:
            blocks = Tiles(index=plan.block, border_m=pull, num_tiles=plan.num_blocks)
            block_pull = _tile_mean(pull, blocks)
            cover[block_pull >= np.quantile(block_pull, 1 - min(share, 1.0))] = cover_named(name).value
    return town, suburb if garden_share else None


def _flood(
    rng: np.random.Generator,
    place: Place,
    frame: Frame,
    shares: dict[str, float],
    relief_m: Array,
    cover: Array,
) -> None:
    """Fill hollows with lakes, their rims with wetland, and let a river through."""
    water, wetland = shares.get("water", 0.0), shares.get("wetland", 0.0)
    broad = relief_m + relief_m.std() * 0.8 * fractal_noise(rng, frame, longest_m=480.0, shortest_m=60.0, roughness=0.4)
    if wetland:
        cover[broad <= np.quantile(broad, min(water + wetland, 1.0))] = cover_named("wetland").value
    if water:
        cover[broad <= np.quantile(broad, min(water, 1.0))] = cover_named("water").value
    if rng.random() < place.theme.river_share:
        distance_m = winding_distance_m(rng, frame, bend_m=rng.uniform(30, 100), wavelength_m=rng.uniform(350, 700))
        half_width_m = np.exp(rng.uniform(np.log(6), np.log(32)))
        bank_m = half_width_m + rng.uniform(5, 25) * (
            1 + 0.5 * fractal_noise(rng, frame, longest_m=60.0, shortest_m=15.0)
        )
        bank = "broadleaf_forest" if abs(place.latitude_deg) < 62 else "wetland"
        cover[distance_m < bank_m] = cover_named(bank).value
        cover[distance_m < half_width_m] = cover_named("water").value


def _sliced(surface: Array, shares: dict[str, float]) -> Array:
    """Cut a surface into levels of the given shares, so that covers lie in zones beside each other."""
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    edges = np.quantile(surface[::2, ::2], bounds[:-1])
    values = np.array([cover_named(name).value for name in shares], dtype=np.uint8)
    sliced: Array = values[np.searchsorted(edges, surface)]
    return sliced


def _shuffled(rng: np.random.Generator, shares: dict[str, float]) -> dict[str, float]:
    names = list(shares)
    return {names[index]: shares[names[index]] for index in rng.permutation(len(names))}


def _tile_mean(surface: Array, tiles: Tiles) -> Array:
    index = tiles.index.ravel()
    total = np.bincount(index, weights=surface.ravel(), minlength=tiles.num_tiles)
    count = np.bincount(index, minlength=tiles.num_tiles)
    mean: Array = (total / np.maximum(count, 1))[tiles.index]
    return mean
