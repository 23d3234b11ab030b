"""Blocks of ground: which pixel is in which block, and which block is drawn for training, validation and test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyband.data.chip_index import SPLITS, Split
from anyband.data.supervised.records import BlockSpec
from anyband.errors import InputError
from anyband.randomness import permutation
from anyband.shapes import Array, Bool, Int

__all__ = ["Block", "BlockAxis", "DrawnBlocks", "axis_of", "draw_blocks", "kept_regions", "neighbour_parts"]

Block = tuple[int, int, int]
"""(place, row of blocks, column of blocks); rows and columns count from the first pixel of the place's first sample."""

_NONE, _TRAIN, _VAL, _TEST = -1, 0, 1, 2
# chosen: a class in a tenth of the blocks is in each of three parts of ten blocks in one draw of about ten.
_NUM_DRAWS = 256
_STEPS = (-1, 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockAxis:
    """Where a run of pixels lies among blocks, along one axis."""

    block: Int[Array, " pixel"]
    """Row or column of blocks of each pixel."""
    region: Int[Array, " pixel"]
    """0, 1 or 2: which of the three strips of its block; see `_strip_flags`."""


def axis_of(start: int, size: int, blocks: BlockSpec) -> BlockAxis:
    """Find the blocks of pixels `start` to `start + size`, and the strips that the buffer cuts blocks into."""
    block, inside = np.divmod(np.arange(start, start + size), blocks.size_px)
    low, high = sorted((blocks.buffer_px, blocks.size_px - blocks.buffer_px))
    return BlockAxis(block=block, region=(inside >= low).astype(np.int64) + (inside >= high))


def _strip_flags(blocks: BlockSpec) -> tuple[tuple[bool, bool], ...]:
    """Tell of each strip whether the block before it, and the one after it, lies within the buffer.

    A buffer of over half a block leaves no strip that is far from both.
    """
    both = 2 * blocks.buffer_px > blocks.size_px
    return (True, False), (both, both), (False, True)


def neighbour_parts(found: Sequence[Block], parts: Mapping[Block, int]) -> Int[Array, "block 3 3"]:
    """Look up the parts of each block (in the middle) and its eight neighbours; −1 where there is none."""
    around = [
        [[parts.get((place, row + down, col + right), _NONE) for right in _STEPS] for down in _STEPS]
        for place, row, col in found
    ]
    return np.array(around, dtype=np.int64).reshape(-1, 3, 3)


def kept_regions(around: Int[Array, "block 3 3"], blocks: BlockSpec) -> Bool[Array, "block 3 3"]:
    """Tell which regions of each block keep their labels: those with no block of a later part within the buffer.

    Args:
        around: parts of each block and its neighbours.
        blocks: edge and buffer.
    """
    own = around[:, 1, 1]
    # Training gives way to validation and test, validation to test.
    is_later = around > own[:, None, None]
    flags = _strip_flags(blocks)
    kept = np.ones(around.shape, dtype=bool)
    for row, col in np.ndindex(3, 3):
        rows = [0] * flags[row][0] + [1] + [2] * flags[row][1]
        cols = [0] * flags[col][0] + [1] + [2] * flags[col][1]
        kept[:, row, col] = ~is_later[:, rows][:, :, cols].any(axis=(1, 2))
    return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnBlocks:
    """A draw, and what it gives each part."""

    parts: dict[Block, int]
    """Part of each block with labels, as position in `SPLITS`."""
    counts: Int[Array, "part class"]
    """Labelled pixels of each part after the buffer."""
    totals: Int[Array, " class"]
    """Of all blocks, before it."""


def draw_blocks(
    counts: Mapping[Block, Int[Array, "3 3 class"]], blocks: BlockSpec, *, shares: Mapping[Split, float], seed: int
) -> DrawnBlocks:
    """Make many draws and take the best; the first of equals.

    A draw is the better: the fewer classes of validation and test training lacks; then the fewer classes any part
    lacks; then the nearer each part's share of each class is to the part's.

    Args:
        counts: labelled pixels of each region and class of each block that has labels.
        blocks: edge and buffer.
        shares: of `val` and `test`; the rest is training.
        seed: of the draws.

    Raises:
        InputError: fewer blocks than parts.
    """
    found = sorted(counts)
    sizes = {part: max(1, round(shares[part] * len(found))) if shares[part] else 0 for part in SPLITS[1:]}
    if sum(sizes.values()) >= len(found):
        num_parts = 1 + sum(size > 0 for size in sizes.values())
        raise InputError(
            f"{len(found)} blocks of {blocks.size_px} × {blocks.size_px} pixels have labels, too few for {num_parts} "
            "parts; choose a smaller `split.blocks.size_px`"
        )
    labelled = np.stack([counts[block] for block in found])
    draws = (_draw(found, labelled, blocks, sizes=sizes, seed=seed, number=number) for number in range(_NUM_DRAWS))
    asked = np.array([1 - sum(shares.values()), shares["val"], shares["test"]])
    return min(draws, key=lambda draw: _badness(draw, asked))


def _draw(
    found: Sequence[Block],
    labelled: Int[Array, "block 3 3 class"],
    blocks: BlockSpec,
    *,
    sizes: Mapping[Split, int],
    seed: int,
    number: int,
) -> DrawnBlocks:
    order = permutation(seed, step=number, purpose="spatial blocks", size=len(found))
    part_of = np.full(len(found), _TRAIN)
    part_of[order[: sizes["test"]]] = _TEST
    part_of[order[sizes["test"] : sizes["test"] + sizes["val"]]] = _VAL
    parts = dict(zip(found, part_of.tolist(), strict=True))
    kept = kept_regions(neighbour_parts(found, parts), blocks)
    of_blocks = (labelled * kept[..., None]).sum(axis=(1, 2))
    counts = np.stack([of_blocks[part_of == part].sum(axis=0) for part in range(len(SPLITS))])
    return DrawnBlocks(parts=parts, counts=counts, totals=labelled.sum(axis=(0, 1, 2)))


def _badness(draw: DrawnBlocks, asked: Array) -> tuple[int, int, float]:
    occurs, has = draw.totals > 0, draw.counts > 0
    unlearned = int((has[1:].any(axis=0) & ~has[0]).sum())
    lacking = int((occurs & ~has[asked > 0]).sum())
    shares = draw.counts[:, occurs] / draw.totals[occurs]
    return unlearned, lacking, float(np.abs(shares - asked[:, None]).sum())
