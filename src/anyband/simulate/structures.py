"""How the upper part of a cover is arranged on the ground: crowns, clumps, rows, grids, fields, dunes.

Covers that share materials and shares differ here only, so each arrangement has the cover's own mean share of
canopy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Float
from anyband.simulate.covers import Cover, Structure
from anyband.simulate.fields import Frame, fractal_noise, smooth_noise

__all__ = ["Canopy", "Rows", "arrange"]


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
