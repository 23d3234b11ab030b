"""Splits as blocks of ground."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b

import numpy as np

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.store import SPLITS, Split
from anyband.errors import GeometryError, InputError, agreed, counted
from anyband.labelled.samples import BlockSpec, Sample, TaskData
from anyband.labelled.splits import check_shares
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import IDENTITY, Grid, same_crs, to_pixels

__all__ = [
    "Block",
    "BlockLabels",
    "Draw",
    "axis_of",
    "blocked",
    "draw_blocks",
    "kept_regions",
    "neighbour_splits",
]

Block = tuple[int, int, int]
"""(place, row of blocks, column of blocks); rows and columns count from the first pixel of the place's first sample."""

_NONE, _TRAIN, _VAL, _TEST = -1, 0, 1, 2
# chosen: a class in a tenth of the blocks is in each of three splits of ten blocks in one draw of about ten.
_NUM_DRAWS = 256
_STEPS = (-1, 0, 1)


def axis_of(start: int, size: int, blocks: BlockSpec) -> tuple[Int[Array, " pixel"], Int[Array, " pixel"]]:
    """Find the row (or column) of blocks of pixels `start` to `start + size`, and in which strip of its block each is.
    The buffer cuts blocks into strips, 0 to 2; see `_strip_flags`."""
    block, inside = np.divmod(np.arange(start, start + size), blocks.size_px)
    low, high = sorted((blocks.buffer_px, blocks.size_px - blocks.buffer_px))
    return block, (inside >= low).astype(np.int64) + (inside >= high)


def _strip_flags(blocks: BlockSpec) -> tuple[tuple[bool, bool], ...]:
    """Tell of each strip whether the block before it, and the one after it, lies within the buffer. A buffer of over
    half a block leaves no strip that is far from both."""
    both = 2 * blocks.buffer_px > blocks.size_px
    return (True, False), (both, both), (False, True)


def neighbour_splits(found: Sequence[Block], splits: Mapping[Block, int]) -> Int[Array, "block 3 3"]:
    """Look up the splits of each block (in the middle) and its eight neighbours; −1 where there is none."""
    around = [
        [[splits.get((place, row + down, col + right), _NONE) for right in _STEPS] for down in _STEPS]
        for place, row, col in found
    ]
    return np.array(around, dtype=np.int64).reshape(-1, 3, 3)


def kept_regions(around: Int[Array, "block 3 3"], blocks: BlockSpec) -> Bool[Array, "block 3 3"]:
    """Tell which regions of each block keep their labels: those with no block of a later split within the buffer.
    `around` has the splits of each block and its neighbours."""
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


Draw = tuple[dict[Block, int], Int[Array, "split class"], Int[Array, " class"]]
"""Split of each block with labels, as position in `SPLITS`; labelled pixels of each split after the buffer; and those
of all blocks before it."""


def draw_blocks(
    counts: Mapping[Block, Int[Array, "3 3 class"]], blocks: BlockSpec, *, shares: Mapping[Split, float], seed: int
) -> Draw:
    """Make many draws and take the best; the first of equals.
    A draw is the better: the fewer classes of validation and test training lacks; then the fewer classes any split
    lacks; then the nearer each split's share of each class is to the split's. `counts` are labelled pixels by block,
    region and class; `shares` those of `val` and `test`. Raises `InputError` for fewer blocks than splits.
    """
    found = sorted(counts)
    sizes = {split: max(1, round(shares[split] * len(found))) if shares[split] else 0 for split in SPLITS[1:]}
    if sum(sizes.values()) >= len(found):
        raise InputError(
            f"{counted(len(found), 'block')} of {blocks.size_px} × {blocks.size_px} pixels "
            f"{agreed(len(found), 'have')} labels, too few for "
            f"{1 + sum(size > 0 for size in sizes.values())} splits; choose a smaller `split.blocks.size_px`"
        )
    labelled = np.stack([counts[block] for block in found])
    draws = (_draw(found, labelled, blocks, sizes=sizes, seed=seed, number=number) for number in range(_NUM_DRAWS))
    wanted = np.array([1 - sum(shares.values()), shares["val"], shares["test"]])
    return min(draws, key=lambda draw: _badness(draw, wanted))


def _draw(
    found: Sequence[Block],
    labelled: Int[Array, "block 3 3 class"],
    blocks: BlockSpec,
    *,
    sizes: Mapping[Split, int],
    seed: int,
    number: int,
) -> Draw:
    order = permutation(seed, step=number, purpose="spatial blocks", size=len(found))
    split_of = np.full(len(found), _TRAIN)
    split_of[order[: sizes["test"]]] = _TEST
    split_of[order[sizes["test"] : sizes["test"] + sizes["val"]]] = _VAL
    splits = dict(zip(found, split_of.tolist(), strict=True))
    kept = kept_regions(neighbour_splits(found, splits), blocks)
    of_blocks = (labelled * kept[..., None]).sum(axis=(1, 2))
    counts = np.stack([of_blocks[split_of == split].sum(axis=0) for split in range(len(SPLITS))])
    return splits, counts, labelled.sum(axis=(0, 1, 2))


def _badness(draw: Draw, wanted: Array) -> tuple[int, int, float]:
    _, counts, totals = draw
    occurs, has = totals > 0, counts > 0
    unlearned = int((has[1:].any(axis=0) & ~has[0]).sum())
    lacking = int((occurs & ~has[wanted > 0]).sum())
    shares = counts[:, occurs] / totals[occurs]
    return unlearned, lacking, float(np.abs(shares - wanted[:, None]).sum())


BlockLabels = Callable[[int], tuple[Num[Array, "row col"], Grid]]
"""Reads the labels of the sample at a position, and where they lie."""

# chosen: within a twentieth of a pixel two images have one grid.
_SHIFT_PX = 0.05
# chosen: reading one takes up to a tenth of a second.
_SHOWN_FROM = 20


def blocked(
    data: TaskData, blocks: BlockSpec, *, val: float, test: float, seed: int, labels: BlockLabels | None = None
) -> TaskData:
    """Divide the ground of each place into blocks, and draw their splits; those of `data` are left aside.
    The best of many draws is taken (`draw_blocks`). Labels that the buffer takes away do not count. `labels` reads
    labels without images; None: by `data.read`. A split without labels, a class that training would lack or wrong sizes
    are an `InputError`, first images of a place on several grids a `GeometryError`.
    """
    if data.targets is not None:
        raise InputError(f"'{data.name}' has kind '{data.kind}'; blocks divide maps of labels, other data by samples")
    if blocks.size_px < 1 or not 0 <= blocks.buffer_px <= blocks.size_px:
        raise InputError(
            f"split.blocks needs size_px of 1 or more and buffer_px from 0 to it, found size_px {blocks.size_px} and "
            f"buffer_px {blocks.buffer_px}"
        )
    check_shares(val, test)
    return _Divided(data, blocks, shares={"val": val, "test": test}, seed=seed, labels=labels).task_data()


class _Divided:
    """Data whose ground is divided: where each sample lies among the blocks of its place, and the blocks' splits."""

    def __init__(
        self,
        data: TaskData,
        blocks: BlockSpec,
        *,
        shares: Mapping[Split, float],
        seed: int,
        labels: BlockLabels | None,
    ) -> None:
        self.data, self.blocks = data, blocks
        places = data.places or data.names
        number = {place: index for index, place in enumerate(dict.fromkeys(places))}
        self.place_of = [number[place] for place in places]
        # First pixel of each sample, in pixels from that of its place's first sample; and its rows and columns.
        self.corners: list[tuple[int, int]] = []
        self.sizes: list[tuple[int, int]] = []
        self.counts: list[dict[Block, Int[Array, "3 3 class"]]] = []
        firsts: dict[str, tuple[str, Grid]] = {}
        totals: dict[Block, Array] = {}
        with progress("divide into blocks", len(data), shown=len(data) > _SHOWN_FROM) as advance:
            for index, place in enumerate(places):
                found, grid = (labels or self._read_labels)(index)
                first_name, first = firsts.setdefault(place, (data.names[index], grid))
                self.corners.append(_corner(grid, first, names=(data.names[index], first_name)))
                self.sizes.append((found.shape[0], found.shape[1]))
                numbers = found if data.kind == "class_map" else np.where(np.isfinite(found), 0, -1)
                self.counts.append(self._counted(index, numbers))
                for block, counts in self.counts[-1].items():
                    totals[block] = totals[block] + counts if block in totals else counts
                advance(1)
        self.splits, self.drawn, self.totals = draw_blocks(totals, blocks, shares=shares, seed=seed)
        self._check_drawn([True, shares["val"] > 0, shares["test"] > 0])

    def _read_labels(self, index: int) -> tuple[Array, Grid]:
        sample = self.data.read(index)
        found = sample.class_map if sample.class_map is not None else sample.number_map
        if found is None:
            raise InputError(f"sample '{self.data.names[index]}' has no map of labels")
        height, width = found.shape
        pixels = Grid(height=height, width=width, transform=IDENTITY, crs=None, gsd_m=1.0)
        return found, sample.images[0].grid or pixels

    def _axes(self, index: int) -> list[tuple[Array, Array]]:
        """Give block and strip of each row, and of each column, of a sample."""
        corner, size = self.corners[index], self.sizes[index]
        return [axis_of(start, length, self.blocks) for start, length in zip(corner, size, strict=True)]

    def _counted(self, index: int, numbers: Num[Array, "row col"]) -> dict[Block, Int[Array, "3 3 class"]]:
        (row_of, row_strip), (col_of, col_strip) = self._axes(index)
        found: dict[Block, Array] = {}
        for row in np.unique(row_of):
            for col in np.unique(col_of):
                down, right = row_of == row, col_of == col
                inside = numbers[down][:, right].astype(np.int64)
                known = inside >= 0
                if not known.any():
                    continue
                counts = np.zeros((3, 3, max(1, len(self.data.classes))), dtype=np.int64)
                strips = np.broadcast_arrays(row_strip[down][:, None], col_strip[right][None, :])
                np.add.at(counts, (strips[0][known], strips[1][known], inside[known]), 1)
                found[self.place_of[index], int(row), int(col)] = counts
        return found

    def _check_drawn(self, wanted: Sequence[bool]) -> None:
        data, blocks, has = self.data, self.blocks, self.drawn > 0
        for split, name in enumerate(SPLITS):
            if wanted[split] and not has[split].any():
                raise InputError(
                    f"split '{name}' of '{data.name}' keeps no label of {len(self.splits)} blocks of {blocks.size_px} "
                    f"pixels beside a buffer of {blocks.buffer_px}; choose a smaller `buffer_px`, a smaller `size_px`, "
                    "or a smaller share of validation and test"
                )
        unlearned = np.flatnonzero(has[1:].any(axis=0) & ~has[0])
        if len(unlearned):
            names = ", ".join(f"'{data.classes[index]}'" for index in unlearned)
            raise InputError(
                f"no draw of {len(self.splits)} blocks of '{data.name}' has training labels of {names} where "
                "validation or test has them; choose smaller blocks or a smaller buffer, or list the value in "
                "`data.ignore`"
            )

    def task_data(self) -> TaskData:
        """Make a sample of each split that a sample has labels of."""
        data = self.data
        members = [
            (index, split)
            for index in range(len(data))
            for split in range(len(SPLITS))
            if self._num_labels(index, split)
        ]
        blocks = f"BlockSpec(size_px={self.blocks.size_px}, buffer_px={self.blocks.buffer_px})"
        words = f"{data.fingerprint} {blocks} {members} {sorted(self.splits.items())}"
        fingerprint = blake2b(words.encode(), digest_size=8).hexdigest()
        taken = data.take([index for index, _ in members], fingerprint=fingerprint)
        return replace(
            taken,
            names=tuple(f"{data.names[index]} [{SPLITS[split]}]" for index, split in members),
            splits=tuple(SPLITS[split] for _, split in members),
            # Splits of one image share its files: they must be seen to be of one place.
            places=taken.places or taken.names,
            read=lambda position: self._read(*members[position]),
            regions=lambda position: self._regions(members[position][0]),
            notes=(*data.notes, *self._notes()),
        )

    def _num_labels(self, index: int, split: int) -> int:
        counts = self.counts[index]
        found = [block for block in counts if self.splits[block] == split]
        kept = kept_regions(neighbour_splits(found, self.splits), self.blocks)
        return sum(int(counts[block][one].sum()) for block, one in zip(found, kept, strict=True))

    def _read(self, index: int, split: int) -> Sample:
        sample, kept = self.data.read(index), self._kept(index, split)
        if sample.class_map is not None:
            return replace(sample, class_map=np.where(kept, sample.class_map, -1))
        number_map = sample.number_map if sample.number_map is not None else np.full(kept.shape, np.nan)
        return replace(sample, number_map=np.where(kept, number_map, np.nan))

    def _kept(self, index: int, split: int) -> Bool[Array, "row col"]:
        (rows, row_strip), (cols, col_strip) = self._axes(index)
        row_of, col_of = rows - rows[0], cols - cols[0]
        shape = int(row_of[-1]) + 1, int(col_of[-1]) + 1
        place = self.place_of[index]
        found = [(place, int(rows[0]) + row, int(cols[0]) + col) for row, col in np.ndindex(*shape)]
        kept = kept_regions(neighbour_splits(found, self.splits), self.blocks)
        is_split = np.array([self.splits.get(block, _NONE) == split for block in found])
        kept = (kept & is_split[:, None, None]).reshape(*shape, 3, 3)
        return np.asarray(kept[row_of[:, None], col_of[None, :], row_strip[:, None], col_strip[None, :]])

    def _regions(self, index: int) -> Int[Array, "row col"]:
        """Number the blocks that pixels lie in; −1 where no label of the place lies."""
        place = self.place_of[index]
        number = {block: at for at, block in enumerate(sorted(one for one in self.splits if one[0] == place))}
        (rows, _), (cols, _) = self._axes(index)
        found = [[number.get((place, int(row), int(col)), -1) for col in np.unique(cols)] for row in np.unique(rows)]
        return np.asarray(np.array(found)[rows - rows[0]][:, cols - cols[0]], dtype=np.int64)

    def _notes(self) -> list[str]:
        data, blocks, sizes = self.data, self.blocks, Counter(self.splits.values())
        counts = ", ".join(f"{name} {sizes[split]}" for split, name in enumerate(SPLITS))
        num_places = len({place for place, _, _ in self.splits})
        notes = [
            f"splits are blocks of {blocks.size_px} × {blocks.size_px} pixels with a buffer of {blocks.buffer_px} "
            f"({counts}) in {num_places} place{'s' * (num_places != 1)}, each in all splits; scores say nothing of "
            "other places"
        ]
        for split, name in enumerate(SPLITS):
            lacks = np.flatnonzero((self.totals > 0) & (self.drawn[split] == 0))
            if sizes[split] and len(lacks) and data.classes:
                notes.append(f"split '{name}' has no labels of {', '.join(data.classes[index] for index in lacks)}")
        return notes


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
