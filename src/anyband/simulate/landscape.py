"""One place as it stands all year: relief, land covers, fields, roads, buildings, trees."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Float, Int, UInt8
from anyband.simulate.covers import cover_named, load_covers
from anyband.simulate.fields import (
    Frame,
    Tiles,
    fractal_noise,
    irregular_tiles,
    rectangular_tiles,
    rotated,
    smooth_noise,
)
from anyband.simulate.places import Place
from anyband.simulate.plan import Plan, draw_plan
from anyband.simulate.settlement import Settlement
from anyband.simulate.structures import Rows, arrange

__all__ = ["Landscape", "make_landscape"]

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
