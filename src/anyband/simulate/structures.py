"""How the upper part of a cover is arranged on the ground: crowns, clumps, rows, grids, fields, dunes.

Covers that share materials and shares differ here only, so each arrangement has the cover's own mean share of canopy.
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


_Pattern = tuple[Array, Array]


def arrange(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> Canopy:
    """Draw the upper part of a cover over the whole frame."""
    if cover.structure not in _PATTERNS:
        nothing = np.zeros((frame.num_pixels,) * 2, dtype=np.float32)
        return Canopy(share=nothing, height_m=nothing)
    pattern, relative_height = _PATTERNS[cover.structure](rng, frame, cover, rows)
    return Canopy(
        share=_with_mean(pattern, cover.canopy_share), height_m=np.float32(cover.height_m) * relative_height
    )


def _crowns(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    crown = smooth_noise(rng, frame, spacing_m=4.5)
    gap = _above(smooth_noise(rng, frame, spacing_m=22), share=0.92, softness=0.3)
    stand = 1 + 0.08 * smooth_noise(rng, frame, spacing_m=70)
    return gap * (0.93 + 0.05 * crown), gap * stand * np.clip(0.8 + 0.16 * crown, 0.2, 1.2)


def _grid(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    crown = np.cos(_turns(rows.across_m, 8.0)) * np.cos(_turns(rows.along_m, 8.0))
    # chosen: a ride of 6 m every 75 m, the same share of open ground as the gaps of a natural forest.
    ride = (rows.across_m % 75.0 > 6.0).astype(np.float32)
    return ride * (0.93 + 0.05 * crown), ride * np.clip(0.8 + 0.25 * crown, 0.2, 1.2)


def _clumps(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    surface = 0.8 * smooth_noise(rng, frame, spacing_m=8) + 0.6 * smooth_noise(rng, frame, spacing_m=28)
    clump = _above(surface, share=cover.canopy_share, softness=0.25)
    return clump, clump * (0.8 + 0.2 * smooth_noise(rng, frame, spacing_m=5))


def _rows(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    wave = np.cos(_turns(rows.across_m, rows.spacing_m)) + 0.25 * np.cos(_turns(rows.along_m, rows.spacing_m))
    wave += 0.25 * smooth_noise(rng, frame, spacing_m=6)
    tree = _above(wave, share=cover.canopy_share, softness=0.25)
    return tree, tree * (0.8 + 0.2 * smooth_noise(rng, frame, spacing_m=5))


def _sward(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    patches = fractal_noise(rng, frame, longest_m=160, shortest_m=5, roughness=0.75)
    return np.clip(0.85 + 0.17 * patches, 0, 1), np.zeros_like(patches)


def _field(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    # chosen: wheel tracks of 2.5 m every 27 m, as sprayers leave them, and drill lines in the row direction.
    track = (rows.across_m % 27.0 < 2.5).astype(np.float32)
    soil = fractal_noise(rng, frame, longest_m=120, shortest_m=15)
    drill = np.cos(_turns(rows.across_m, 9.0))
    return np.clip(0.93 + 0.06 * soil + 0.02 * drill - 0.35 * track, 0, 1), np.zeros_like(soil)


def _dunes(rng: np.random.Generator, frame: Frame, cover: Cover, rows: Rows) -> _Pattern:
    y_m, x_m = frame.coordinates_m()
    warp_m = 45 * smooth_noise(rng, frame, spacing_m=150) + 12 * smooth_noise(rng, frame, spacing_m=40)
    angle = rng.uniform(0, 2 * np.pi)
    position_m = np.float32(np.cos(angle)) * x_m + np.float32(np.sin(angle)) * y_m + warp_m
    crest = 1 - np.abs(np.sin(_turns(position_m, 150.0)))
    hollow = _above(smooth_noise(rng, frame, spacing_m=60), share=0.93, softness=0.4)
    return hollow, crest * (1 + 0.3 * smooth_noise(rng, frame, spacing_m=90)) + 0.03 * smooth_noise(
        rng, frame, spacing_m=9
    )


_PATTERNS: dict[Structure, Callable[[np.random.Generator, Frame, Cover, Rows], _Pattern]] = {
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
    """Mark the highest `share` of a surface with 1, the rest with 0, with a soft edge of `softness` surface units."""
    edge = np.quantile(surface[::2, ::2], 1 - share)
    return np.clip((surface - np.float32(edge)) / np.float32(softness) + np.float32(0.5), 0, 1)


def _with_mean(pattern: Array, share: float) -> Array:
    """Bring the mean of a pattern in [0, 1] to `share`, staying in [0, 1]."""
    pattern = np.clip(pattern, 0, 1)
    mean = float(pattern.mean())
    if mean >= share:
        return pattern * np.float32(share / mean)
    return 1 - (1 - pattern) * np.float32((1 - share) / (1 - mean))
