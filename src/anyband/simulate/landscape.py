"""Landscapes, their seasons and surfaces."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anyband.arrays import Array, Float, Int, UInt8
from anyband.simulate.plan import (
    Cover,
    Frame,
    Part,
    Place,
    Plan,
    Settlement,
    Structure,
    Tiles,
    cover_named,
    draw_plan,
    fractal_noise,
    irregular_tiles,
    load_covers,
    load_materials,
    material_names,
    part_shares,
    rectangular_tiles,
    rotated,
    smooth_noise,
)

__all__ = [
    "Canopy",
    "Landscape",
    "Rows",
    "Sun",
    "air_temperature_k",
    "arrange",
    "cover_shares",
    "make_landscape",
    "material_temperatures_k",
    "northern_day",
    "snow_share",
    "sun_position",
]


@dataclass(frozen=True, kw_only=True)
class Canopy:
    """The upper part of a cover, drawn over the whole frame."""

    share: Float[Array, "row col"]
    """Share of the pixel under it, 0 to 1; its mean is the cover's `canopy_share`."""
    height_m: Float[Array, "row col"]
    """Height, metres."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Directions that follow the parcels: what is planted stands in line with its field."""

    across_m: Float[Array, "row col"]
    """Position across the rows, metres."""
    along_m: Float[Array, "row col"]
    """Position along the rows, metres."""
    spacing_m: Float[Array, "row col"]
    """Distance between rows, metres; one value a parcel."""


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """What an arrangement is drawn from."""

    rng: np.random.Generator
    frame: Frame
    cover: Cover
    rows: Rows

    def noise(self, spacing_m: float) -> Array:
        return smooth_noise(self.rng, self.frame, spacing_m=spacing_m)


_Pattern = tuple[Array, Array]
"""Share of canopy (its level is set afterwards) and height relative to the cover's."""


def arrange(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> Canopy:
    """Draw the upper part of a cover over the whole frame."""
    if cover.structure not in _PATTERNS:
        nothing = np.zeros((frame.num_pixels,) * 2, dtype=np.float32)
        return Canopy(share=nothing, height_m=nothing)
    draw = _Draw(rng=rng, frame=frame, cover=cover, rows=rows)
    pattern, relative_height = _PATTERNS[cover.structure](draw)
    return Canopy(share=_with_mean(pattern, cover.canopy_share), height_m=np.float32(cover.height_m) * relative_height)


def _crowns(draw: _Draw) -> _Pattern:
    crown = draw.noise(4.5)
    gap = _above(draw.noise(22.0), share=0.92, softness=0.3)
    stand = 1 + 0.08 * draw.noise(70.0)
    return gap * (0.93 + 0.05 * crown), gap * stand * np.clip(0.8 + 0.16 * crown, 0.2, 1.2)


def _grid(draw: _Draw) -> _Pattern:
    crown = np.cos(_turns(draw.rows.across_m, 8.0)) * np.cos(_turns(draw.rows.along_m, 8.0))
    # chosen: a ride of 6 m every 75 m, the same share of open ground as the gaps of a natural forest.
    ride = (draw.rows.across_m % 75.0 > 6.0).astype(np.float32)
    return ride * (0.93 + 0.05 * crown), ride * (0.85 + 0.12 * crown)


def _clumps(draw: _Draw) -> _Pattern:
    surface = 0.8 * draw.noise(8.0) + 0.6 * draw.noise(28.0)
    clump = _above(surface, share=draw.cover.canopy_share, softness=0.25)
    return clump, clump * (0.8 + 0.2 * draw.noise(5.0))


def _rows(draw: _Draw) -> _Pattern:
    wave = np.cos(_turns(draw.rows.across_m, draw.rows.spacing_m)) + 0.25 * np.cos(
        _turns(draw.rows.along_m, draw.rows.spacing_m)
    )
    wave += 0.25 * draw.noise(6.0)
    tree = _above(wave, share=draw.cover.canopy_share, softness=0.25)
    return tree, tree * (0.8 + 0.2 * draw.noise(5.0))


def _sward(draw: _Draw) -> _Pattern:
    patches = fractal_noise(draw.rng, draw.frame, longest_m=160.0, shortest_m=5.0, roughness=0.75)
    return np.clip(0.85 + 0.17 * patches, 0, 1), np.zeros_like(patches)


def _field(draw: _Draw) -> _Pattern:
    # chosen: wheel tracks of 2.5 m every 27 m, as sprayers leave them, and drill lines in the row direction.
    track = (draw.rows.across_m % 27.0 < 2.5).astype(np.float32)
    soil = fractal_noise(draw.rng, draw.frame, longest_m=120.0, shortest_m=15.0)
    drill = np.cos(_turns(draw.rows.across_m, 9.0))
    return np.clip(0.93 + 0.06 * soil + 0.02 * drill - 0.35 * track, 0, 1), np.zeros_like(soil)


def _dunes(draw: _Draw) -> _Pattern:
    y_m, x_m = draw.frame.coordinates_m()
    warp_m = 45 * draw.noise(150.0) + 12 * draw.noise(40.0)
    angle = draw.rng.uniform(0, 2 * np.pi)
    position_m = np.float32(np.cos(angle)) * x_m + np.float32(np.sin(angle)) * y_m + warp_m
    crest = 1 - np.abs(np.sin(_turns(position_m, 150.0)))
    hollow = _above(draw.noise(60.0), share=0.93, softness=0.4)
    return hollow, crest * (1 + 0.3 * draw.noise(90.0)) + 0.03 * draw.noise(9.0)


_PATTERNS: dict[Structure, Callable[[_Draw], _Pattern]] = {
    "crowns": _crowns,
    "grid": _grid,
    "clumps": _clumps,
    "rows": _rows,
    "sward": _sward,
    "field": _field,
    "dunes": _dunes,
}


def _turns(position_m: Array, period_m: Array | float) -> Array:
    return position_m * np.float32(2 * np.pi) / np.asarray(period_m, dtype=np.float32)


def _above(surface: Array, *, share: float, softness: float) -> Array:
    """Mark the highest `share` of a surface with 1, the rest with 0; the edge is `softness` units wide."""
    edge = np.quantile(surface[::2, ::2], 1 - share)
    soft = (surface - np.float32(edge)) / np.float32(softness) + np.float32(0.5)
    return np.asarray(np.clip(soft, 0, 1))


def _with_mean(pattern: Array, share: float) -> Array:
    """Bring the mean of a pattern in [0, 1] to `share`, staying in [0, 1]."""
    pattern = np.clip(pattern, 0, 1)
    mean = float(pattern.mean())
    if mean >= share:
        return pattern * np.float32(share / mean)
    return 1 - (1 - pattern) * np.float32((1 - share) / (1 - mean))


# chosen: fields of one crop are up to about two weeks apart, patches of natural growth some days.
_DAY_SPREAD, _WILD_DAY_SPREAD = 8.0, 2.5
# chosen: standard deviation of brightness among fields and roofs of one kind, and of the ground within them.
_TONE_SPREAD, _GRAIN_SPREAD = 0.06, 0.05


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """A place at its finest detail. Materials follow from it and a date."""

    place: Place
    """Where it is."""
    frame: Frame
    """Its size and detail."""
    cover: UInt8[Array, "row col"]
    """Land cover: values of covers.yaml, the truth of the map."""
    unit: Int[Array, "row col"]
    """Field, patch, lake, street or building that a pixel belongs to."""
    unit_recipe: UInt8[Array, " unit"]
    """Land cover whose materials a unit has (a garden in a suburb has those of shrubland)."""
    unit_day_shift: Float[Array, " unit"]
    """Days by which a unit runs ahead of the calendar."""
    unit_choice: Float[Array, " unit"]
    """Number in [0, 1) that draws a unit's material where its cover has one of several."""
    canopy: Float[Array, "row col"]
    """Share of a pixel under the upper part, 0 to 1."""
    height_m: Float[Array, "row col"]
    """Height of trees and buildings over the ground, metres."""
    relief_m: Float[Array, "row col"]
    """Height of the ground, metres."""
    texture: Float[Array, "row col"]
    """Factor on brightness that differs within materials; mean about 1."""


@dataclass
class _Canvas:
    """What is drawn on, layer over layer."""

    cover: Array
    recipe: Array
    unit: Array
    canopy: Array
    height_m: Array
    num_units: int
    wild_units: range
    """Units of natural patches, which differ less from each other than fields do."""

    def paint(self, where: Array, *, cover: str | None, recipe: str, unit: Array | None = None) -> None:
        """Give pixels a recipe and, if named, a cover; `unit` tells them apart, else they become one unit."""
        if cover is not None:
            self.cover[where] = cover_named(cover).value
        self.recipe[where] = cover_named(recipe).value
        if unit is None:
            self.unit[where] = self.num_units
            self.num_units += 1
        else:
            self.unit[where] = unit[where] + self.num_units
            self.num_units += int(unit.max()) + 1
        self.canopy[where] = 0
        self.height_m[where] = 0


def make_landscape(place: Place, frame: Frame) -> Landscape:
    """Draw a place: a function of its seed and index, the same at every detail but for what is finer."""
    parcels, rows = _parcels(place, frame)
    plan = draw_plan(place, frame, parcels)
    canvas = _open_land(place, frame, plan, parcels)
    _plant(place, frame, canvas, rows)
    _field_margins(canvas, plan, parcels)
    for settlement, name in ((plan.suburb, "urban_residential"), (plan.town, "urban_dense")):
        if settlement is not None:
            _build(place, frame, canvas, settlement, name=name)
    for road in plan.roads:
        canvas.paint(road & (canvas.cover != cover_named("water").value), cover="road", recipe="road")
    return _finish(place, frame, canvas, plan)


def _parcels(place: Place, frame: Frame) -> tuple[Tiles, Rows]:
    rng = place.generator("parcels")
    y_m, x_m = frame.coordinates_m()
    across_m, along_m = rotated(y_m, x_m, angle_rad=rng.uniform(0, np.pi))
    # chosen: fields bend with the land, more where they are old and small.
    bend_m = rng.choice([4.0, 15.0, 30.0])
    across_m = across_m + np.float32(bend_m) * smooth_noise(rng, frame, spacing_m=240.0)
    along_m = along_m + np.float32(bend_m) * smooth_noise(rng, frame, spacing_m=240.0)
    width_m = rng.uniform(70, 190)
    if rng.random() < 0.25:
        parcels = irregular_tiles(rng, across_m, along_m, spacing_m=width_m * 1.2)
    else:
        parcels = rectangular_tiles(rng, across_m, along_m, width_m=width_m, length_m=width_m * rng.uniform(1.2, 2.5))
    crosswise = (rng.random(parcels.num_tiles) < 0.4)[parcels.index]
    spacing_m = rng.uniform(9, 14, parcels.num_tiles).astype(np.float32)[parcels.index]
    rows = Rows(
        across_m=np.where(crosswise, along_m, across_m),
        along_m=np.where(crosswise, across_m, along_m),
        spacing_m=spacing_m,
    )
    return parcels, rows


def _open_land(place: Place, frame: Frame, plan: Plan, parcels: Tiles) -> _Canvas:
    """Lay farmed parcels and natural patches, each pixel with its unit."""
    rng = place.generator("patches")
    y_m, x_m = frame.coordinates_m()
    # chosen: patches of some 70 m differ in timing, their outlines blurred by noise.
    warp_m = 14 * smooth_noise(rng, frame, spacing_m=40.0)
    patches = irregular_tiles(rng, y_m + warp_m, x_m - warp_m, spacing_m=70.0)
    unit = np.where(plan.farmed, parcels.index, patches.index + parcels.num_tiles)
    # A patch that crosses a border of covers is a unit on each side: a unit has one recipe.
    num_covers = int(plan.cover.max()) + 1
    whole = np.isin(plan.cover, [cover_named("water").value])
    unit = np.where(whole, parcels.num_tiles + patches.num_tiles, unit)
    unit = unit * num_covers + plan.cover
    num_units = (parcels.num_tiles + patches.num_tiles + 1) * num_covers
    nothing = np.zeros(unit.shape, dtype=np.float32)
    return _Canvas(
        cover=plan.cover.copy(),
        recipe=plan.cover.copy(),
        unit=unit,
        canopy=nothing,
        height_m=nothing.copy(),
        num_units=num_units,
        wild_units=range(parcels.num_tiles * num_covers, num_units),
    )


def _plant(place: Place, frame: Frame, canvas: _Canvas, rows: Rows) -> None:
    present = set(np.unique(canvas.cover).tolist())
    for cover in load_covers():
        if cover.value in present and cover.structure not in ("blocks", "lots", "plain"):
            canopy = arrange(place.generator(f"structure/{cover.name}"), frame, cover, rows)
            here = canvas.cover == cover.value
            canvas.canopy[here] = canopy.share[here]
            canvas.height_m[here] = canopy.height_m[here]


def _field_margins(canvas: _Canvas, plan: Plan, parcels: Tiles) -> None:
    """Draw tracks or grass strips between the fields; the map keeps the crop, as maps do."""
    margin = plan.farmed & (parcels.border_m < plan.margin_m)
    canvas.paint(margin, cover=None, recipe="grassland" if plan.grassy_margins else "bare_soil")
    canvas.canopy[margin] = 0.85
    if plan.hedge_height_m > 0:
        hedge = margin & (parcels.border_m < plan.margin_m * 0.7)
        canvas.paint(hedge, cover=None, recipe="broadleaf_forest")
        canvas.canopy[hedge] = 0.9
        canvas.height_m[hedge] = plan.hedge_height_m


def _build(place: Place, frame: Frame, canvas: _Canvas, settlement: Settlement, *, name: str) -> None:
    """Set streets, buildings and gardens where the plan has the settlement."""
    here = canvas.cover == cover_named(name).value
    canvas.paint(here, cover=None, recipe=name, unit=settlement.lot)
    rng = place.generator(f"gardens/{name}")
    tree = smooth_noise(rng, frame, spacing_m=5.0) + 0.7 * smooth_noise(rng, frame, spacing_m=25.0)
    garden = here & (tree > (0.9 if name == "urban_residential" else 1.9))
    canvas.paint(garden, cover=None, recipe="broadleaf_forest")
    canvas.canopy[garden] = 0.9
    canvas.height_m[garden] = 6
    canvas.paint(here & settlement.street, cover=None, recipe="road")
    building = here & settlement.building
    canvas.paint(building, cover=None, recipe=name, unit=settlement.lot)
    canvas.canopy[building] = 1
    canvas.height_m[building] = settlement.height_m[building]


def _finish(place: Place, frame: Frame, canvas: _Canvas, plan: Plan) -> Landscape:
    present, unit = np.unique(canvas.unit, return_inverse=True)
    recipe = np.zeros(len(present), dtype=np.uint8)
    recipe[unit] = canvas.recipe
    wild = (present >= canvas.wild_units.start) & (present < canvas.wild_units.stop)
    rng = place.generator("units")
    # Drawn for all numbers and then picked, so that a unit's draw does not depend on which others are seen.
    shift = rng.normal(0, 1, canvas.num_units)[present] * np.where(wild, _WILD_DAY_SPREAD, _DAY_SPREAD)
    choice = rng.random(canvas.num_units)[present]
    tone = 1 + rng.normal(0, 1, canvas.num_units)[present] * np.where(wild, 0.0, _TONE_SPREAD)
    grain = fractal_noise(place.generator("texture"), frame, longest_m=240.0, shortest_m=7.5, roughness=0.8)
    texture = tone.astype(np.float32)[unit].reshape(canvas.unit.shape) * (1 + np.float32(_GRAIN_SPREAD) * grain)
    return Landscape(
        place=place,
        frame=frame,
        cover=canvas.cover.astype(np.uint8),
        unit=unit.reshape(canvas.unit.shape),
        unit_recipe=recipe,
        unit_day_shift=shift,
        unit_choice=choice,
        canopy=canvas.canopy,
        height_m=canvas.height_m,
        relief_m=plan.relief_m,
        texture=np.clip(texture, 0.7, 1.3),
    )


FREEZING_K = 273.15

_HALF_YEAR_DAYS = 182.625
_WARMEST_DAY = 202.0  # chosen: about a month after the longest day, as at middle latitudes
_FULL_SEASONS_FROM_DEG = 35.0  # chosen: nearer the equator natural vegetation keeps more of its leaves all year
_WATER_LAG_DAYS = 30.0  # chosen: lakes warm and cool about a month after the air
_WATER_SWING = 0.65  # chosen: and less than it


@dataclass(frozen=True, kw_only=True)
class Sun:
    """Direction to the sun."""

    elevation_deg: float
    """Above the horizon, degrees; negative at night."""
    azimuth_deg: float
    """Clockwise from north, degrees."""


def northern_day(latitude_deg: float, day: float) -> float:
    """Give the day of the northern year that has the same season; six months away in the south."""
    return day if latitude_deg >= 0 else day + _HALF_YEAR_DAYS


def sun_position(latitude_deg: float, day: float, *, solar_hour: float = 10.5) -> Sun:
    """Compute where the sun stands.

    Args:
        latitude_deg: −90 to 90.
        day: of the year, from 1.
        solar_hour: local solar time; 10.5 is the overpass of Sentinel-2.

    Source:
        Cooper, "The absorption of radiation in solar stills", Solar Energy 12, 1969 (declination).
    """
    declination = np.radians(23.45) * np.sin(2 * np.pi * (284 + day) / 365)
    hour_angle = np.radians(15 * (solar_hour - 12))
    latitude = np.radians(latitude_deg)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    return Sun(
        elevation_deg=float(np.degrees(np.arcsin(up))),
        azimuth_deg=float(np.degrees(np.arctan2(east, north)) % 360),
    )


def air_temperature_k(latitude_deg: float, day: float, *, lag_days: float = 0.0, swing: float = 1.0) -> float:
    """Estimate the mid-morning air temperature at sea level.

    chosen: 300 K at the equator falling with the squared sine of latitude, and a yearly swing of a third of a
    kelvin a degree up to 16 K; within a few kelvin of zonal means over land.
    """
    mean_k = 300.0 - 36.0 * np.sin(np.radians(latitude_deg)) ** 2
    amplitude_k = min(abs(latitude_deg) / 3.0, 16.0) * swing
    phase = 2 * np.pi * (northern_day(latitude_deg, day) - _WARMEST_DAY - lag_days) / 365.25
    return float(mean_k + amplitude_k * np.cos(phase))


def material_temperatures_k(latitude_deg: float, day: float, *, elevation_deg: float) -> Float[Array, " material"]:
    """Estimate the surface temperature of each material in mid-morning.

    Sun-warmed materials stand over the air in proportion to the sine of the sun's elevation; water follows
    the season late and never freezes here; snow never exceeds its melting point.

    Args:
        latitude_deg: −90 to 90.
        day: of the year, from 1.
        elevation_deg: of the sun.
    """
    air_k = air_temperature_k(latitude_deg, day)
    water_k = air_temperature_k(latitude_deg, day, lag_days=_WATER_LAG_DAYS, swing=_WATER_SWING)
    sunlit = max(0.0, float(np.sin(np.radians(elevation_deg))))
    temperatures_k = [
        # A cloud top is cold whatever the sun does; the others warm with it.
        air_k + material.warming_k * (sunlit if material.warming_k > 0 else 1.0)
        for material in load_materials()
    ]
    for index, name in enumerate(material_names()):
        if name in ("deep_water", "turbid_water"):
            temperatures_k[index] = max(water_k, FREEZING_K)
        elif name == "snow":
            temperatures_k[index] = min(temperatures_k[index], FREEZING_K)
    return np.array(temperatures_k)


def snow_share(latitude_deg: float, day: float) -> float:
    """Estimate how much of open ground lies under snow: none above −1 °C in the mean, 0.9 below −9 °C."""
    below_k = FREEZING_K - 1.0 - air_temperature_k(latitude_deg, day)
    return float(np.clip(below_k / 8.0, 0.0, 0.9))


def cover_shares(
    cover: Cover, *, latitude_deg: float, day: Float[Array, " unit"], choice: Float[Array, " unit"]
) -> tuple[Float[Array, "unit material"], Float[Array, "unit material"]]:
    """Tell what the upper and lower parts of a cover are made of, for several fields, lakes or roofs of it.

    Args:
        cover: land cover.
        latitude_deg: of the place.
        day: of the year, for each of them (fields differ by some days).
        choice: number in [0, 1) that draws one material where a part is one of several.

    Returns:
        Shares of the materials of the upper and of the lower part; rows sum to 1.
    """
    season = np.array([northern_day(latitude_deg, float(d)) for d in day])
    full = 1.0 if cover.seasonal else min(abs(latitude_deg) / _FULL_SEASONS_FROM_DEG, 1.0)
    upper = _shares(cover.upper, season, choice, full=full, peak_day=cover.peak_day)
    lower = _shares(cover.lower, season, choice, full=full, peak_day=cover.peak_day)
    return upper, lower


def _shares(part: Part, season: Array, choice: Array, *, full: float, peak_day: float) -> Array:
    if part.one_of:
        bounds = np.cumsum(part.shares[0])
        drawn = np.minimum(np.searchsorted(bounds, choice, side="right"), len(bounds) - 1)
        return np.eye(len(bounds))[drawn]
    always = part_shares(part, np.full(len(season), peak_day))
    return full * part_shares(part, season) + (1 - full) * always
