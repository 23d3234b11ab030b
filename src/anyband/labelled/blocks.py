"""Blocks of ground as parts of a split."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.store import SPLITS, Split
from anyband.errors import GeometryError, InputError
from anyband.labelled.samples import BlockSpec, Sample, TaskData
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import IDENTITY, Grid, same_crs, to_pixels

__all__ = [
    "Block",
    "BlockAxis",
    "BlockLabels",
    "DrawnBlocks",
    "axis_of",
    "blocked",
    "draw_blocks",
    "kept_regions",
    "neighbour_parts",
]

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
