"""Landscapes: which cover lies where, and what stands on it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, UInt8
from anyband.simulate.plan import (
    Cover,
    Frame,
    Place,
    Tiles,
    cover_named,
    fractal_noise,
    irregular_tiles,
    load_covers,
    rectangular_tiles,
    rotated,
    smooth_noise,
    winding_distance_m,
)

__all__ = ["Landscape", "make_landscape"]

_Settlement = tuple[Bool[Array, "row col"], Bool[Array, "row col"], Int[Array, "row col"], Float[Array, "row col"]]
"""The plan of a town over the whole frame: streets, buildings, lot number, and height of the buildings, metres."""

_Rows = tuple[Array, Array, Array]
"""Position across and along the rows and their spacing, metres: what is planted stands in line with its parcel."""


def _pattern(rng: np.random.Generator, frame: Frame, cover: Cover, rows: _Rows) -> tuple[Array, Array]:
    """Draw the share of canopy (its level is set afterwards) and the height relative to the cover's."""
    across_m, along_m, spacing_m = rows

    def noise(of_m: float) -> Array:
        return smooth_noise(rng, frame, spacing_m=of_m)

    match cover.structure:
        case "crowns":
            crown = noise(4.5)
            gap = _above(noise(22.0), share=0.92, softness=0.3)
            stand = 1 + 0.08 * noise(70.0)
            return gap * (0.93 + 0.05 * crown), gap * stand * np.clip(0.8 + 0.16 * crown, 0.2, 1.2)
        case "grid":
            crown = np.cos(_turns(across_m, 8.0)) * np.cos(_turns(along_m, 8.0))
            # chosen: a ride of 6 m every 75 m, the same share of open ground as the gaps of a natural forest.
            ride = (across_m % 75.0 > 6.0).astype(np.float32)
            return ride * (0.93 + 0.05 * crown), ride * (0.85 + 0.12 * crown)
        case "clumps":
            clump = _above(0.8 * noise(8.0) + 0.6 * noise(28.0), share=cover.canopy_share, softness=0.25)
            return clump, clump * (0.8 + 0.2 * noise(5.0))
        case "rows":
            wave = np.cos(_turns(across_m, spacing_m)) + 0.25 * np.cos(_turns(along_m, spacing_m))
            tree = _above(wave + 0.25 * noise(6.0), share=cover.canopy_share, softness=0.25)
            return tree, tree * (0.8 + 0.2 * noise(5.0))
        case "sward":
            patches = fractal_noise(rng, frame, longest_m=160.0, shortest_m=5.0, roughness=0.75)
            return np.clip(0.85 + 0.17 * patches, 0, 1), np.zeros_like(patches)
        case "field":
            # chosen: wheel tracks of 2.5 m every 27 m, as sprayers leave them, and drill lines in the row direction.
            track = (across_m % 27.0 < 2.5).astype(np.float32)
            soil = fractal_noise(rng, frame, longest_m=120.0, shortest_m=15.0)
            drill = np.cos(_turns(across_m, 9.0))
            return np.clip(0.93 + 0.06 * soil + 0.02 * drill - 0.35 * track, 0, 1), np.zeros_like(soil)
        case "dunes":
            y_m, x_m = frame.coordinates_m()
            warp_m = 45 * noise(150.0) + 12 * noise(40.0)
            angle = rng.uniform(0, 2 * np.pi)
            position_m = np.float32(np.cos(angle)) * x_m + np.float32(np.sin(angle)) * y_m + warp_m
            crest = 1 - np.abs(np.sin(_turns(position_m, 150.0)))
            hollow = _above(noise(60.0), share=0.93, softness=0.4)
            return hollow, crest * (1 + 0.3 * noise(90.0)) + 0.03 * noise(9.0)
    raise ValueError(f"structure '{cover.structure}' has no pattern")


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
    frame: Frame
    cover: UInt8[Array, "row col"]
    """Land cover: values of covers.yaml, the truth of the map."""
    unit: Int[Array, "row col"]
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


class _Canvas:
    """What is drawn on, layer over layer. Units of natural patches differ less from each other than fields do."""

    def __init__(self, cover: Array, unit: Array, *, num_units: int, wild_units: range) -> None:
        """Begin with open land."""
        self.cover, self.recipe, self.unit = cover.copy(), cover.copy(), unit
        self.num_units, self.wild_units = num_units, wild_units
        self.canopy: Array = np.zeros(unit.shape, dtype=np.float32)
        self.height_m: Array = self.canopy.copy()

    def paint(self, where: Array, *, cover: str | None, recipe: str, unit: Array | None = None) -> None:
        """Give pixels a recipe and, if named, a cover; `unit` tells them apart, else they become one unit."""
        if cover is not None:
            self.cover[where] = cover_named(cover).value
        self.recipe[where] = cover_named(recipe).value
        self.unit[where] = self.num_units + (0 if unit is None else unit[where])
        self.num_units += 1 + (0 if unit is None else int(unit.max()))
        self.canopy[where] = self.height_m[where] = 0


def make_landscape(place: Place, frame: Frame) -> Landscape:
    """Draw a place: a function of its seed and index, the same at every detail but for what is finer."""
    parcels, rows = _parcels(place, frame)
    cover, farmed, relief_m, settlements, margins = _draw_covers(place, frame, parcels)
    canvas = _open_land(place, frame, parcels, cover, farmed)
    _plant(place, frame, canvas, rows)
    _field_margins(canvas, farmed, parcels[1], *margins)
    for name, settlement in settlements.items():
        _build(place, frame, canvas, settlement, name=name)
    for road in _draw_roads(place, frame):
        canvas.paint(road & (canvas.cover != cover_named("water").value), cover="road", recipe="road")
    return _finish(place, frame, canvas, relief_m)


def _parcels(place: Place, frame: Frame) -> tuple[Tiles, _Rows]:
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
        parcels = rectangular_tiles(rng, across_m, along_m, width_m, width_m * rng.uniform(1.2, 2.5))
    parcel, _, num_parcels = parcels
    crosswise = (rng.random(num_parcels) < 0.4)[parcel]
    spacing_m = rng.uniform(9, 14, num_parcels).astype(np.float32)[parcel]
    return parcels, (np.where(crosswise, along_m, across_m), np.where(crosswise, across_m, along_m), spacing_m)


def _open_land(place: Place, frame: Frame, parcels: Tiles, cover: Array, farmed: Array) -> _Canvas:
    """Lay farmed parcels and natural patches, each pixel with its unit."""
    rng = place.generator("patches")
    y_m, x_m = frame.coordinates_m()
    # chosen: patches of some 70 m differ in timing, their outlines blurred by noise.
    warp_m = 14 * smooth_noise(rng, frame, spacing_m=40.0)
    patch, _, num_patches = irregular_tiles(rng, y_m + warp_m, x_m - warp_m, spacing_m=70.0)
    parcel, _, num_parcels = parcels
    unit = np.where(farmed, parcel, patch + num_parcels)
    # A patch that crosses a border of covers is a unit on each side: a unit has one recipe.
    num_covers = int(cover.max()) + 1
    unit = np.where(cover == cover_named("water").value, num_parcels + num_patches, unit)
    num_units = (num_parcels + num_patches + 1) * num_covers
    wild_units = range(num_parcels * num_covers, num_units)
    return _Canvas(cover, unit * num_covers + cover, num_units=num_units, wild_units=wild_units)


def _plant(place: Place, frame: Frame, canvas: _Canvas, rows: _Rows) -> None:
    present = set(np.unique(canvas.cover).tolist())
    for cover in load_covers():
        if cover.value in present and cover.structure not in ("blocks", "lots", "plain"):
            pattern, height = _pattern(place.generator(f"structure/{cover.name}"), frame, cover, rows)
            here = canvas.cover == cover.value
            canvas.canopy[here] = _with_mean(pattern, cover.canopy_share)[here]
            canvas.height_m[here] = (np.float32(cover.height_m) * height)[here]


def _field_margins(
    canvas: _Canvas, farmed: Array, border_m: Array, half_width_m: float, grassy: bool, hedge_m: float
) -> None:
    """Draw tracks or grass strips between the fields; the map keeps the crop, as maps do."""
    margin = farmed & (border_m < half_width_m)
    canvas.paint(margin, cover=None, recipe="grassland" if grassy else "bare_soil")
    canvas.canopy[margin] = 0.85
    if hedge_m > 0:
        hedge = margin & (border_m < half_width_m * 0.7)
        canvas.paint(hedge, cover=None, recipe="broadleaf_forest")
        canvas.canopy[hedge] = 0.9
        canvas.height_m[hedge] = hedge_m


def _build(place: Place, frame: Frame, canvas: _Canvas, settlement: _Settlement, *, name: str) -> None:
    """Set streets, buildings and gardens where the plan has the settlement."""
    street, building, lot, height_m = settlement
    here = canvas.cover == cover_named(name).value
    canvas.paint(here, cover=None, recipe=name, unit=lot)
    rng = place.generator(f"gardens/{name}")
    tree = smooth_noise(rng, frame, spacing_m=5.0) + 0.7 * smooth_noise(rng, frame, spacing_m=25.0)
    garden = here & (tree > (0.9 if name == "urban_residential" else 1.9))
    canvas.paint(garden, cover=None, recipe="broadleaf_forest")
    canvas.canopy[garden] = 0.9
    canvas.height_m[garden] = 6
    canvas.paint(here & street, cover=None, recipe="road")
    built = here & building
    canvas.paint(built, cover=None, recipe=name, unit=lot)
    canvas.canopy[built] = 1
    canvas.height_m[built] = height_m[built]


def _finish(place: Place, frame: Frame, canvas: _Canvas, relief_m: Array) -> Landscape:
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
        relief_m=relief_m,
        texture=np.clip(texture, 0.7, 1.3),
    )


# chosen: measures of ordinary towns, metres, here and below.
_EMPTY_LOTS = 0.12
_STREET_BEND_M = 12
# Width and length of blocks and of lots, least and greatest distance of a building from its lot's edge, lowest and
# highest building.
_TOWN_M = {"block": (85.0, 120.0), "lot": (30.0, 38.0), "yard": (1.0, 5.0), "storeys": (8.0, 24.0)}
_SUBURB_M = {"block": (75.0, 140.0), "lot": (20.0, 24.0), "yard": (3.5, 6.5), "storeys": (4.0, 8.0)}


def _draw_settlement(
    rng: np.random.Generator,
    frame: Frame,
    angle_rad: float,
    half_street_m: float,
    measures_m: Mapping[str, tuple[float, float]],
) -> tuple[Tiles, _Settlement]:
    """Draw a town on a street grid at an angle, one building on each lot."""
    y_m, x_m = frame.coordinates_m()
    across_m, along_m = rotated(y_m, x_m, angle_rad=angle_rad)
    # chosen: streets bend by some metres; few towns are ruled with a line.
    across_m = across_m + _STREET_BEND_M * smooth_noise(rng, frame, spacing_m=320.0)
    blocks = rectangular_tiles(rng, across_m, along_m, *measures_m["block"])
    lot, lot_border_m, num_lots = rectangular_tiles(rng, across_m, along_m, *measures_m["lot"])
    free_m = rng.uniform(*measures_m["yard"], num_lots).astype(np.float32)
    height_m = rng.uniform(*measures_m["storeys"], num_lots).astype(np.float32)
    free_m[rng.random(num_lots) < _EMPTY_LOTS] = np.inf
    building = (lot_border_m > free_m[lot]) & (blocks[1] > half_street_m + 3)
    return blocks, (blocks[1] < half_street_m, building, lot, np.where(building, height_m[lot], np.float32(0)))


_FARMED = ("winter_crop", "summer_crop", "paddy", "orchard", "plantation")
_BUILT = ("urban_residential", "urban_dense")
_WET = ("water", "wetland")
# Covers that keep roads away: nobody drives over them.
_WILD_THEMES = ("dunes", "ice_field", "marsh", "lake_land")


def _draw_covers(
    place: Place, frame: Frame, parcels: Tiles
) -> tuple[Array, Array, Array, dict[str, _Settlement], tuple[float, bool, float]]:
    """Draw which cover lies where, with the shares of the place's theme. Gives land cover; whether a pixel is in a
    parcel; height of the ground, metres; plans of the town and its suburb by cover; and of the strips between fields
    half their width, whether grass (else track), and their hedges' height."""
    rng = place.generator("plan")
    shares = _own_shares(place, rng)
    farmed_share = sum(shares.get(name, 0.0) for name in _FARMED)
    relief_m = _relief(place, frame, flat=farmed_share > 0.3 or any(name in shares for name in _BUILT))
    cover, farmed = _open_covers(rng, frame, parcels, shares)
    settlements = _settle(rng, place, frame, shares, cover)
    _flood(rng, place, frame, shares, relief_m, cover)
    farmed &= np.isin(cover, [cover_named(name).value for name in (*_FARMED, "grassland")])
    margins = float(rng.uniform(1.3, 3.0)), bool(rng.random() < 0.6), float(rng.choice([0.0, 0.0, 4.0]))
    return cover, farmed, relief_m, settlements, margins


def _own_shares(place: Place, rng: np.random.Generator) -> dict[str, float]:
    """Draw the shares of a place around those of its theme, normalised."""
    # chosen: gamma of shape 4, so that a share varies by about half of itself.
    drawn = {name: share * float(rng.gamma(4.0) / 4.0) for name, share in place.shares}
    total = sum(drawn.values())
    return {name: share / total for name, share in drawn.items()}


def _relief(place: Place, frame: Frame, *, flat: bool) -> Array:
    rng = place.generator("relief")
    height_m = np.exp(rng.uniform(np.log(4), np.log(18 if flat else 70)))
    return np.float32(height_m) * fractal_noise(rng, frame, longest_m=480.0, shortest_m=15.0, roughness=0.42)


def _draw_roads(place: Place, frame: Frame) -> list[Bool[Array, "row col"]]:
    """Draw the main roads; none in the wild."""
    rng = place.generator("roads")
    num_roads = 0 if place.theme in _WILD_THEMES else int(rng.choice([0, 1, 1, 2]))
    return [
        winding_distance_m(rng, frame, bend_m=rng.uniform(10, 60), wavelength_m=rng.uniform(600, 1200))
        < rng.uniform(3.5, 7.5)
        for _ in range(num_roads)
    ]


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
    zones = [list(wild.items())[index] for index in rng.permutation(len(wild))] if wild else []
    cover = _sliced(surface, dict(zones)) if wild else np.zeros(surface.shape, dtype=np.uint8)
    if not farm:
        return cover, np.zeros(cover.shape, dtype=bool)
    # A parcel is farmed or not as a whole, so woods and fields meet along the borders of the fields.
    parcel_mood = _tile_mean(fractal_noise(rng, frame, longest_m=480.0, shortest_m=120.0), parcels)
    farmed_share = sum(farm.values()) / (sum(farm.values()) + sum(wild.values()))
    farmed = parcel_mood >= np.quantile(parcel_mood, 1 - farmed_share) if wild else np.ones(cover.shape, dtype=bool)
    weights = np.array(list(farm.values()))
    crops = np.array([cover_named(name).value for name in farm], dtype=np.uint8)
    crop = crops[rng.choice(len(farm), p=weights / weights.sum(), size=parcels[2])]
    return np.where(farmed, crop[parcels[0]], cover), farmed


def _settle(
    rng: np.random.Generator, place: Place, frame: Frame, shares: dict[str, float], cover: Array
) -> dict[str, _Settlement]:
    """Lay a town with its suburb around it, by whole blocks; returns their plans by the name of their cover."""
    dense_share, garden_share = shares.get("urban_dense", 0.0), shares.get("urban_residential", 0.0)
    if dense_share + garden_share == 0:
        return {}
    angle_rad = rng.uniform(0, np.pi / 2)
    pull = fractal_noise(rng, frame, longest_m=480.0, shortest_m=120.0, roughness=0.4)
    suburb = _draw_settlement(place.generator("suburb"), frame, angle_rad, 4.0, _SUBURB_M)
    drawn = [("urban_residential", dense_share + garden_share, suburb)]
    if dense_share:
        town = _draw_settlement(place.generator("town"), frame, angle_rad, 6.0, _TOWN_M)
        drawn.append(("urban_dense", dense_share, town))
    for name, share, (blocks, _) in drawn:
        block_pull = _tile_mean(pull, blocks)
        cover[block_pull >= np.quantile(block_pull, 1 - min(share, 1.0))] = cover_named(name).value
    return {name: settlement for name, _, (_, settlement) in drawn if shares.get(name)}


def _flood(
    rng: np.random.Generator, place: Place, frame: Frame, shares: dict[str, float], relief_m: Array, cover: Array
) -> None:
    """Fill hollows with lakes, their rims with wetland, and let a river through."""
    water, wetland = shares.get("water", 0.0), shares.get("wetland", 0.0)
    broad = relief_m + relief_m.std() * 0.8 * fractal_noise(rng, frame, longest_m=480.0, shortest_m=60.0, roughness=0.4)
    if wetland:
        cover[broad <= np.quantile(broad, min(water + wetland, 1.0))] = cover_named("wetland").value
    if water:
        cover[broad <= np.quantile(broad, min(water, 1.0))] = cover_named("water").value
    if rng.random() < place.river_share:
        distance_m = winding_distance_m(rng, frame, bend_m=rng.uniform(30, 100), wavelength_m=rng.uniform(350, 700))
        half_width_m = np.exp(rng.uniform(np.log(6), np.log(32)))
        width_m = rng.uniform(5, 25)
        bank_m = half_width_m + width_m * (1 + 0.5 * fractal_noise(rng, frame, longest_m=60.0, shortest_m=15.0))
        bank = "broadleaf_forest" if abs(place.latitude_deg) < 62 else "wetland"
        cover[distance_m < bank_m] = cover_named(bank).value
        cover[distance_m < half_width_m] = cover_named("water").value


def _sliced(surface: Array, shares: dict[str, float]) -> Array:
    """Cut a surface into levels of the given shares, so that covers lie in zones beside each other."""
    bounds = np.cumsum(list(shares.values())) / sum(shares.values())
    edges = np.quantile(surface[::2, ::2], bounds[:-1])
    values = np.array([cover_named(name).value for name in shares], dtype=np.uint8)
    return np.asarray(values[np.searchsorted(edges, surface)])


def _tile_mean(surface: Array, tiles: Tiles) -> Array:
    index, _, num_tiles = tiles
    total = np.bincount(index.ravel(), weights=surface.ravel(), minlength=num_tiles)
    return np.asarray((total / np.maximum(np.bincount(index.ravel(), minlength=num_tiles), 1))[index])
