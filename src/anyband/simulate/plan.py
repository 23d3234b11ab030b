"""Which land cover lies where: water in the hollows, towns by the roads, woods and fields between."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Bool, Float, UInt8
from anyband.simulate.covers import cover_named
from anyband.simulate.fields import Frame, Tiles, fractal_noise, winding_distance_m
from anyband.simulate.places import Place
from anyband.simulate.settlement import Settlement, draw_settlement

__all__ = ["Plan", "draw_plan"]

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
