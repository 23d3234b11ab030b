"""What is rendered: materials, land covers and kinds of landscape; options, places, and patterns in metres."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.resources import files
from typing import Any, Literal, get_args

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.errors import CatalogueError, GeometryError, InputError, nearest_name
from anyband.files import parse_yaml
from anyband.randomness import generator
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

__all__ = [
    "DEFAULT_SENSORS",
    "KNOWN_NM",
    "Calendar",
    "Cover",
    "Frame",
    "Place",
    "SimulateOptions",
    "Tiles",
    "calendar_shares",
    "cover_named",
    "cover_names",
    "fractal_noise",
    "frame_of",
    "irregular_tiles",
    "load_covers",
    "load_materials",
    "load_themes",
    "make_place",
    "material_names",
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
    canopy_share: float = 0.0
    """Mean share of ground under the upper part, 0 to 1."""
    height_m: float = 0.0
    seasonality: Literal["full", "latitude"] = "full"
    """`full`: the calendar swings at every latitude, as of crops; `latitude`: it fades towards the equator."""
    peak_day: float = 180.0
    """Day of the northern year whose state an equatorial place has all year, with `latitude`."""
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
    emitted = [(nm, 1.0 - value) for nm, value in row["emissivity"]]
    wavelength_nm, reflectance = zip(*row["reflectance"], *emitted, strict=True)
    if emitted[0][0] != _EMISSION_FROM_NM or (wavelength_nm[0], wavelength_nm[-1]) != KNOWN_NM:
        raise CatalogueError(
            f"material '{name}' must have reflectance from 350 nm and emissivity from 3000 to 14000 nm"
        )
    return {**row, "wavelength_nm": wavelength_nm, "reflectance": reflectance}


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
    if row["structure"] not in get_args(_Structure):
        raise CatalogueError(f"cover '{name}' has structure '{row['structure']}', not one of {get_args(_Structure)}")
    calendars = {layer: _calendar(name, row.get(layer, row["lower"])) for layer in ("upper", "lower")}
    numbers = {key: float(row[key]) for key in ("canopy_share", "height_m", "peak_day") if key in row}
    return Cover(**{"name": name, **row, **numbers, **calendars})


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
    """Load the kinds of landscape by name. Of each `latitude`, (degrees from the equator, weight), linear between and 0
    outside; `river_share`; `shares`, (land cover, relative share)."""
    themes = read_table("themes.yaml")["themes"]
    for name, cover in ((name, cover) for name, row in themes.items() for cover in row["shares"]):
        if cover not in cover_names():
            near = nearest_name(cover, cover_names())
            raise CatalogueError(f"theme '{name}' has cover '{cover}', not in covers.yaml{near}")
    shares = {name: tuple((cover, float(share)) for cover, share in themes[name]["shares"].items()) for name in themes}
    return {name: {**row, "shares": shares[name]} for name, row in themes.items()}


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
    detail_m: float
    """Length of a pixel; divides the footprint."""

    @property
    def num_pixels(self) -> int:
        """Pixels along a side."""
        return round(self.footprint_m / self.detail_m)

    def coordinates_m(self) -> tuple[Float[Array, "row col"], Float[Array, "row col"]]:
        """Give y (down) and x (right) of the pixel centres, metres from the upper left corner."""
        steps = ((np.arange(self.num_pixels) + 0.5) * self.detail_m).astype(np.float32)
        y, x = np.meshgrid(steps, steps, indexing="ij")
        return y, x


Tiles = tuple[Int[Array, "row col"], Float[Array, "row col"], int]
"""Pieces of the ground: the piece of each pixel, from 0 without gaps; distance to the nearest border, metres; count."""


def smooth_noise(rng: np.random.Generator, frame: Frame, *, spacing_m: float) -> Float[Array, "row col"]:
    """Draw a smooth surface, mean 0 and variance about 1, without structure below `spacing_m`: a cubic B-spline."""
    weights = _spline_weights(frame, spacing_m)
    lattice = rng.standard_normal((weights.shape[1],) * 2, dtype=np.float32)
    return np.asarray(weights @ lattice @ weights.T / np.float32(_SPLINE_GAIN))


def fractal_noise(
    rng: np.random.Generator, frame: Frame, *, longest_m: float, shortest_m: float, roughness: float = 0.5
) -> Float[Array, "row col"]:
    """Sum smooth noise over spacings that halve from `longest_m` to `shortest_m`, each weaker by `roughness`."""
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
    width_m: float,
    length_m: float,
) -> Tiles:
    """Divide the ground into strips and the strips into fields, as land is parcelled."""
    strip, strip_border_m = _intervals(rng, across_m, np.zeros_like(across_m, dtype=np.intp), width_m)
    field, field_border_m = _intervals(rng, along_m, strip, length_m)
    index, num_tiles = _numbered(strip * (int(field.max()) + 1) + field)
    return index, np.minimum(strip_border_m, field_border_m), num_tiles


def irregular_tiles(
    rng: np.random.Generator, y_m: Float[Array, "row col"], x_m: Float[Array, "row col"], *, spacing_m: float
) -> Tiles:
    """Divide the ground into the Voronoi cells of scattered points, about one for each square of `spacing_m`. Source:
    Worley, "A cellular texture basis function", SIGGRAPH 1996."""
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
    return index, (np.sqrt(second) - np.sqrt(nearest)) / 2, num_tiles


def winding_distance_m(
    rng: np.random.Generator, frame: Frame, *, bend_m: float, wavelength_m: float
) -> Float[Array, "row col"]:
    """Measure how far each pixel is from a line that winds across the frame; exact near it, where it is used. `bend_m`
    is the swing to each side, `wavelength_m` from one bend to the next but one."""
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
    return np.asarray(np.abs(across_m - line_m) / np.sqrt(1 + slope**2))


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
    at = np.floor(position_m / np.float32(spacing_m)).astype(np.intp)
    at -= int(at.min()) - 1
    start_m = np.float32((int(np.floor(position_m.min() / spacing_m)) - 1) * spacing_m)
    num_lines, num_borders = int(line.max()) + 1, int(at.max()) + 3
    shift_m = rng.uniform(-_BORDER_SHIFT, _BORDER_SHIFT, (num_lines, num_borders)) * spacing_m
    border_m = (start_m + np.arange(num_borders) * spacing_m + shift_m).astype(np.float32).ravel()
    first = line * num_borders
    interval = at - 1 + (position_m >= border_m[first + at]) + (position_m >= border_m[first + at + 1])
    low = first + interval
    return interval, np.minimum(position_m - border_m[low], border_m[low + 1] - position_m)


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
    sensors: tuple[str, ...] = DEFAULT_SENSORS
    """Sensors of the catalogue, or YAML files of one sensor each."""
    footprint_m: float = 960.0
    """Side of a place; a multiple of every pixel size."""
    seed: int = 0
    num_dates: int = 1
    """Acquisitions of each sensor at each place, spread over the months with enough sun."""
    max_gap_days: int = 3
    """Most days by which the sensors are apart on one date."""
    year: int = 2023
    cloud_share: float = 0.1
    """Share of optical acquisitions with clouds, 0 to 1."""
    edge_share: float = 0.05
    """Share of acquisitions that the edge of the swath cuts, 0 to 1; none where a sensor has no nodata."""
    gsd_m: tuple[tuple[str, float], ...] = (("maxar-rgb", 2.5),)
    """(sensor, metres): pixel size to use instead of the catalogue's. Bands that are coarser stay so."""
    detail_m: float = 2.5
    """Pixel size of the truth; no sensor may be finer."""
    label_gsd_m: float = 10.0
    workers: int = 1
    shown: bool = True

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
    """Make the frame of the truth; the footprint must be a multiple of the detail."""
    _check_multiple(options.footprint_m, options.detail_m, "the truth (detail_m)")
    _check_multiple(options.footprint_m, options.label_gsd_m, "the land-cover map (label_gsd_m)")
    return Frame(footprint_m=options.footprint_m, detail_m=options.detail_m)


def sensors_of(options: SimulateOptions) -> tuple[Sensor, ...]:
    """Look up the sensors, with the pixel sizes that the options give them, each a multiple of the truth's."""
    sensors = tuple(get_sensor(name) for name in options.sensors)
    names = [sensor.name for sensor in sensors]
    if len(set(names)) < len(names):
        raise InputError(f"a sensor is named twice: {', '.join(names)}")
    sizes: dict[str, float] = {}
    for name, gsd_m in options.gsd_m:
        # A sensor of the user's own goes by its name here, as messages write it, or by its file.
        meant = name if name in names else get_sensor(name).name
        if meant in names:
            sizes[meant] = gsd_m
        elif (name, gsd_m) not in SimulateOptions.gsd_m:
            known = f"{', '.join(names)}{nearest_name(name, names)}"
            raise InputError(f"a pixel size is given for '{name}', which is not simulated ({known})")
    resized = tuple(_resized(sensor, sizes[sensor.name]) if sensor.name in sizes else sensor for sensor in sensors)
    for sensor in resized:
        for band in sensor.bands:
            _check_pixel(options, sensor, band.gsd_m)
    return resized


def _resized(sensor: Sensor, gsd_m: float) -> Sensor:
    sizes_m = [gsd_m if band.gsd_m == sensor.gsd_m else max(band.gsd_m, gsd_m) for band in sensor.bands]
    bands = zip(sensor.bands, sizes_m, strict=True)
    return replace(sensor, bands=tuple(replace(band, gsd_m=size_m) for band, size_m in bands))


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
class Place:
    """One footprint on the ground: what every image of it has in common."""

    index: int
    seed: int
    latitude_deg: float
    longitude_deg: float
    epsg: int
    theme: str
    river_share: float
    shares: tuple[tuple[str, float], ...]
    """(land cover, relative share)."""

    @cached_property
    def corner_m(self) -> tuple[float, float]:
        """Compute easting and northing of the upper left corner, in the UTM zone."""
        # Needed only where images are put on the ground: rendering needs no library of projections.
        from pyproj import Transformer

        project = Transformer.from_crs(4326, self.epsg, always_xy=True).transform
        easting_m, northing_m = project(self.longitude_deg, self.latitude_deg)
        return round(easting_m / _GRID_M) * _GRID_M, round(northing_m / _GRID_M) * _GRID_M

    @property
    def name(self) -> str:
        """Name in files and tables."""
        return f"place_{self.index:05d}"

    def generator(self, purpose: str, *, sample: int = 0) -> np.random.Generator:
        """Make the generator of one draw of this place."""
        return generator(self.seed, step=self.index, sample=sample, purpose=f"simulate/{purpose}")


def make_place(seed: int, index: int) -> Place:
    """Choose where a place lies and what kind of landscape it is: a function of seed and index. Longitudes follow the
    golden ratio, which keeps places apart; two thirds lie in the north, like the land."""
    rng = generator(seed, step=index, sample=0, purpose="simulate/place")
    latitude_deg = float(rng.uniform(0, MAX_LATITUDE_DEG) * (1 if rng.random() < 2 / 3 else -1))
    longitude_deg = float((rng.random() * 1e-3 + index * _GOLDEN_SHARE) % 1 * 360 - 180)
    theme = list(load_themes())[int(rng.choice(len(load_themes()), p=theme_weights(latitude_deg)))]
    return Place(
        index=index,
        seed=seed,
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        epsg=utm_epsg(latitude_deg, longitude_deg),
        theme=theme,
        river_share=load_themes()[theme]["river_share"],
        shares=load_themes()[theme]["shares"],
    )


def theme_weights(latitude_deg: float) -> np.ndarray:
    """Weigh the kinds of landscape at a latitude; sums to 1."""
    points = [np.transpose(theme["latitude"]) for theme in load_themes().values()]
    weights = np.array([np.interp(abs(latitude_deg), x, y, left=0.0, right=0.0) for x, y in points])
    return np.asarray(weights / np.sum(weights))


def utm_epsg(latitude_deg: float, longitude_deg: float) -> int:
    """Give the EPSG code of the UTM zone of a point (the plain zones of six degrees)."""
    zone = min(int((longitude_deg + 180) // 6) + 1, 60)
    return (32600 if latitude_deg >= 0 else 32700) + zone
