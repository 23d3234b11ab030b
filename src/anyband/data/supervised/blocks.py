"""Training, validation and test as squares of ground inside each image, for data of few places.

Each image becomes up to three samples, one for each part; each has the whole image and the labels of its part alone.
A block is of one part in all images of its place, so nothing of another date or sensor leaks. What lies within the
buffer of another part's block loses its label: of training beside validation or test, of validation beside test; test
stays whole.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from anyband.data.chip_index import SPLITS
from anyband.data.rasters.georeference import same_crs
from anyband.data.supervised.block_draws import (
    Block,
    DrawnBlocks,
    axis_of,
    draw_blocks,
    kept_regions,
    neighbour_parts,
)
from anyband.data.supervised.records import BlockSpec, Sample, TaskData
from anyband.data.supervised.tiling import to_pixels
from anyband.data.tiles import IDENTITY, Grid
from anyband.errors import GeometryError, InputError
from anyband.progress import progress
from anyband.shapes import Array, Bool, Int, Num

__all__ = ["BlockLabels", "blocked"]

BlockLabels = Callable[[int], tuple[Num[Array, "row col"], Grid]]
"""Reads the labels of the sample at a position, and where they lie."""

# chosen: within a twentieth of a pixel two images have one grid.
_SHIFT_PX = 0.05
# chosen: reading one takes up to a tenth of a second.
_SHOWN_FROM = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lying:
    """Where a sample lies among the blocks of its place."""

    place: int
    """Number of its place."""
    corner: tuple[int, int]
    """Its first pixel, in pixels from that of the place's first sample."""
    size: tuple[int, int]
    """Rows and columns."""
    counts: dict[Block, Int[Array, "3 3 class"]]
    """Labelled pixels of each block, by region and class."""


def blocked(
    data: TaskData, blocks: BlockSpec, *, val: float, test: float, seed: int, labels: BlockLabels | None = None
) -> TaskData:
    """Divide the ground of each place into blocks, and draw their parts.

    Many draws are made from the seed and the best is taken: that lacks fewest classes of validation and test in
    training, then lacks fewest classes in any part, then comes nearest to the shares in every class. Labels that the
    buffer takes away do not count.

    Args:
        data: maps of labels; its parts are left aside.
        blocks: edge and buffer, pixels of the first image.
        val: share of validation.
        test: share of test.
        seed: of the draws.
        labels: reads labels without images; None: by `data.read`.

    Raises:
        InputError: no maps, a part that would have no labels, a class that training would lack, or wrong sizes.
        GeometryError: the first images of a place do not lie on one grid.
    """
    _check(data, blocks, val=val, test=test)
    lying = _survey(data, blocks, labels or _labels_by_reading(data))
    totals: dict[Block, Array] = {}
    for one in lying:
        for block, counts in one.counts.items():
            totals[block] = totals[block] + counts if block in totals else counts
    drawn = draw_blocks(totals, blocks, shares={"val": val, "test": test}, seed=seed)
    _check_drawn(drawn, data, blocks, asked=(True, val > 0, test > 0))
    return _divided(data, blocks, lying, drawn)


def _check(data: TaskData, blocks: BlockSpec, *, val: float, test: float) -> None:
    if not data.is_dense:
        raise InputError(f"'{data.name}' has kind '{data.kind}'; blocks divide maps of labels, other data by samples")
    if blocks.size_px < 1 or not 0 <= blocks.buffer_px <= blocks.size_px:
        raise InputError(
            f"split.blocks needs size_px of 1 or more and buffer_px from 0 to it, found size_px {blocks.size_px} and "
            f"buffer_px {blocks.buffer_px}"
        )
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise InputError(f"shares must be 0 or more and leave some to learn from, found val {val:g}, test {test:g}")


def _labels_by_reading(data: TaskData) -> BlockLabels:
    def labels(index: int) -> tuple[Array, Grid]:
        sample = data.read(index)
        found = sample.class_map if sample.class_map is not None else sample.number_map
        if found is None:
            raise InputError(f"sample '{data.names[index]}' has no map of labels")
        height, width = found.shape
        pixels = Grid(height=height, width=width, transform=IDENTITY, crs=None, gsd_m=1.0)
        return found, sample.images[0].grid or pixels

    return labels


def _survey(data: TaskData, blocks: BlockSpec, labels: BlockLabels) -> list[_Lying]:
    """Read all labels once, and count them by block."""
    places = data.places or data.names
    number = {place: index for index, place in enumerate(dict.fromkeys(places))}
    firsts: dict[str, tuple[str, Grid]] = {}
    lying = []
    with progress("divide into blocks", len(data), shown=len(data) > _SHOWN_FROM) as advance:
        for index, place in enumerate(places):
            found, grid = labels(index)
            first_name, first = firsts.setdefault(place, (data.names[index], grid))
            corner = _corner(grid, first, names=(data.names[index], first_name))
            numbers = found if data.kind == "class_map" else np.where(np.isfinite(found), 0, -1)
            counts = _counted(numbers, number[place], corner, blocks, num_classes=max(1, len(data.classes)))
            lying.append(_Lying(place=number[place], corner=corner, size=found.shape, counts=counts))
            advance(1)
    return lying


def _corner(grid: Grid, first: Grid, *, names: tuple[str, str]) -> tuple[int, int]:
    """Find where a sample begins, in pixels of the first sample of its place."""
    begins = np.array(to_pixels(*grid.to_coordinates(0.0, 0.0), grid=first))
    ends = np.array(to_pixels(*grid.to_coordinates(float(grid.height), float(grid.width)), grid=first))
    whole = np.round(begins).astype(int)
    moved = np.abs([begins - whole, ends - whole - (grid.height, grid.width)]).max()
    if not same_crs(grid.crs, first.crs) or moved > _SHIFT_PX:
        raise GeometryError(
            f"'{names[0]}' ({grid.crs or 'no CRS'}, {grid.height} × {grid.width} pixels of {grid.gsd_m:g} m) and "
            f"'{names[1]}' ({first.crs or 'no CRS'}, {first.height} × {first.width} pixels of {first.gsd_m:g} m) are "
            "of one place but not on one grid, so blocks of one would not be blocks of the other; resample them to one "
            "grid, or declare a `place` of its own for each grid"
        )
    return int(whole[0]), int(whole[1])


def _counted(
    numbers: Num[Array, "row col"], place: int, corner: tuple[int, int], blocks: BlockSpec, *, num_classes: int
) -> dict[Block, Int[Array, "3 3 class"]]:
    rows, cols = (axis_of(start, size, blocks) for start, size in zip(corner, numbers.shape, strict=True))
    found: dict[Block, Array] = {}
    for row in np.unique(rows.block):
        for col in np.unique(cols.block):
            down, right = rows.block == row, cols.block == col
            inside = numbers[down][:, right].astype(np.int64)
            known = inside >= 0
            if not known.any():
                continue
            counts = np.zeros((3, 3, num_classes), dtype=np.int64)
            regions = np.broadcast_arrays(rows.region[down][:, None], cols.region[right][None, :])
            np.add.at(counts, (regions[0][known], regions[1][known], inside[known]), 1)
            found[place, int(row), int(col)] = counts
    return found


def _check_drawn(drawn: DrawnBlocks, data: TaskData, blocks: BlockSpec, *, asked: tuple[bool, bool, bool]) -> None:
    has = drawn.counts > 0
    for part, name in enumerate(SPLITS):
        if asked[part] and not has[part].any():
            raise InputError(
                f"part '{name}' of '{data.name}' keeps no label of {len(drawn.parts)} blocks of {blocks.size_px} "
                f"pixels beside a buffer of {blocks.buffer_px}; choose a smaller `buffer_px`, a smaller `size_px`, or "
                "a smaller share of validation and test"
            )
    unlearned = np.flatnonzero(has[1:].any(axis=0) & ~has[0])
    if len(unlearned):
        names = ", ".join(f"'{data.classes[index]}'" for index in unlearned)
        raise InputError(
            f"no draw of {len(drawn.parts)} blocks of '{data.name}' has training labels of {names} where validation or "
            "test has them; choose smaller blocks or a smaller buffer, or list the value in `ignore`"
        )


def _divided(data: TaskData, blocks: BlockSpec, lying: list[_Lying], drawn: DrawnBlocks) -> TaskData:
    members = [
        (index, part)
        for index, one in enumerate(lying)
        for part in range(len(SPLITS))
        if _num_labels(one, part, blocks, drawn)
    ]
    words = f"{data.fingerprint} {blocks} {members} {sorted(drawn.parts.items())}"
    taken = data.take([index for index, _ in members], fingerprint=blake2b(words.encode(), digest_size=8).hexdigest())
    return replace(
        taken,
        names=tuple(f"{data.names[index]} [{SPLITS[part]}]" for index, part in members),
        splits=tuple(SPLITS[part] for _, part in members),
        # Parts of one image share its files: they must be seen to be of one place.
        places=taken.places or taken.names,
        read=lambda position: _read(data, members[position], lying[members[position][0]], blocks, drawn),
        regions=lambda position: _regions(lying[members[position][0]], blocks, drawn),
        notes=(*data.notes, *_notes(data, blocks, drawn)),
    )


def _num_labels(lying: _Lying, part: int, blocks: BlockSpec, drawn: DrawnBlocks) -> int:
    found = [block for block in lying.counts if drawn.parts[block] == part]
    kept = kept_regions(neighbour_parts(found, drawn.parts), blocks)
    return sum(int(lying.counts[block][one].sum()) for block, one in zip(found, kept, strict=True))


def _read(data: TaskData, member: tuple[int, int], lying: _Lying, blocks: BlockSpec, drawn: DrawnBlocks) -> Sample:
    sample = data.read(member[0])
    kept = _kept(lying, member[1], blocks, drawn)
    if sample.class_map is not None:
        return replace(sample, class_map=np.where(kept, sample.class_map, -1))
    number_map = sample.number_map if sample.number_map is not None else np.full(kept.shape, np.nan)
    return replace(sample, number_map=np.where(kept, number_map, np.nan))


def _regions(lying: _Lying, blocks: BlockSpec, drawn: DrawnBlocks) -> Int[Array, "row col"]:
    """Number the blocks that pixels lie in; −1 where no label of the place lies."""
    number = {block: index for index, block in enumerate(sorted(one for one in drawn.parts if one[0] == lying.place))}
    rows, cols = (axis_of(start, size, blocks).block for start, size in zip(lying.corner, lying.size, strict=True))
    found = [[number.get((lying.place, int(row), int(col)), -1) for col in np.unique(cols)] for row in np.unique(rows)]
    return np.asarray(np.array(found)[rows - rows[0]][:, cols - cols[0]], dtype=np.int64)


def _kept(lying: _Lying, part: int, blocks: BlockSpec, drawn: DrawnBlocks) -> Bool[Array, "row col"]:
    """Tell which pixels of a sample are labelled in a part."""
    rows, cols = (axis_of(start, size, blocks) for start, size in zip(lying.corner, lying.size, strict=True))
    row_of, col_of = rows.block - rows.block[0], cols.block - cols.block[0]
    shape = int(row_of[-1]) + 1, int(col_of[-1]) + 1
    found = [(lying.place, int(rows.block[0]) + row, int(cols.block[0]) + col) for row, col in np.ndindex(*shape)]
    kept = kept_regions(neighbour_parts(found, drawn.parts), blocks)
    is_part = np.array([drawn.parts.get(block, -1) == part for block in found])
    kept = (kept & is_part[:, None, None]).reshape(*shape, 3, 3)
    return np.asarray(kept[row_of[:, None], col_of[None, :], rows.region[:, None], cols.region[None, :]])


def _notes(data: TaskData, blocks: BlockSpec, drawn: DrawnBlocks) -> list[str]:
    sizes = Counter(drawn.parts.values())
    said = ", ".join(f"{name} {sizes[part]}" for part, name in enumerate(SPLITS))
    num_places = len({place for place, _, _ in drawn.parts})
    notes = [
        f"parts are blocks of {blocks.size_px} × {blocks.size_px} pixels with a buffer of {blocks.buffer_px} ({said}) "
        f"in {num_places} place{'s' * (num_places != 1)}, each in all parts; scores say nothing of other places"
    ]
    for part, name in enumerate(SPLITS):
        lacks = np.flatnonzero((drawn.totals > 0) & (drawn.counts[part] == 0))
        if sizes[part] and len(lacks) and data.classes:
            notes.append(f"part '{name}' has no labels of {', '.join(data.classes[index] for index in lacks)}")
    return notes
