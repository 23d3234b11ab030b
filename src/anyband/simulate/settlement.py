"""Streets, blocks and buildings of towns and suburbs."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Bool, Float, Int
from anyband.simulate.fields import Frame, rectangular_tiles, rotated, smooth_noise

__all__ = ["Settlement", "draw_settlement"]


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
