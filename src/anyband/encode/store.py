"""Features of the chips of a store, and the cells that several of its arrays share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Float, Int
from anyband.data.chip_index import Split
from anyband.data.sampler import find_footprints, image_facts
from anyband.data.store import ChipStore
from anyband.encode.encoder import Pool, SensorEncoder, check_memory, pooled, pooled_sets, set_batch
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import Precision, set_metadata
from anyband.errors import InputError, StoreError
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics

__all__ = [
    "ChipOptions",
    "FeatureMaker",
    "StoreCells",
    "StoreSets",
    "cell_sets",
    "chip_batch",
    "common_cells",
    "made_features",
    "set_features",
    "store_features",
    "store_set_batch",
]

FeatureMaker = Callable[[ImageBatch], Float[Tensor, "batch width"]]
"""Makes one vector an image."""


@dataclass(frozen=True, kw_only=True)
class ChipOptions:
    """How chips are encoded."""

    pool: Pool = "cls"
    """A chip's vector: the CLS token, or the mean of its patches."""
    img_size: int | None = None
    """Side to which chips are resized, pixels; None: the checkpoint's own."""
    precision: Precision = "float32"
    """Of the encoder's arithmetic."""
    batch_size: int = 64
    """Chips encoded at once."""
    statistics: Mapping[str, BandStatistics] | None = None
    """Normalisation by band in physical units; None: the checkpoint's, else the catalogue's. Not for sets, whose
    sensors differ: there it is the checkpoint's, else the catalogue's."""
    metadata: bool = True
    """Whether the network is told what the index knows of the chips of sets: corners, ground resolution and time."""
    shown: bool = False
    """Show a progress bar."""


def store_features(
    encoder: SensorEncoder,
    store: ChipStore,
    array: str,
    rows: Int[Array, "sample"],
    options: ChipOptions | None = None,
) -> Float[Array, "sample width"]:
    """Encode chips of one array of a store; see `made_features` for other kinds of features.

    Args:
        encoder: to use.
        store: to read.
        array: name of the array.
        rows: of the array, in the order wanted.
        options: pooling, size, precision, statistics.

    Returns:
        float32, one row a chip.
    """
    options = options or ChipOptions()
    made = made_features(
        {"encoder": lambda batch: pooled(encoder.encode_batch(batch, precision=options.precision), options.pool)},
        encoder,
        store,
        array,
        rows,
        options,
    )
    return made["encoder"]


def made_features(
    makers: Mapping[str, FeatureMaker],
    encoder: SensorEncoder,
    store: ChipStore,
    array: str,
    rows: Int[Array, "sample"],
    options: ChipOptions,
) -> dict[str, Float[Array, "sample width"]]:
    """Make several kinds of features of the same chips in one pass: by encoders, by `band_means`.

    Args:
        makers: by name.
        encoder: whose input spec of the sensor is used, and whose image size.
        store: to read.
        array: name of the array.
        rows: of the array, in the order wanted.
        options: size, statistics; pooling and precision are the makers' own.
    """
    spec = encoder.input_spec(store.array_sensor(array), statistics=options.statistics)
    size = options.img_size or encoder.config.img_size
    starts = range(0, len(rows), options.batch_size)
    with progress(f"encode {array}", len(rows), shown=options.shown) as advance:

        def batch_at(start: int) -> ImageBatch:
            part = rows[start : start + options.batch_size]
            advance(len(part))
            return chip_batch(store, array, part, spec, img_size=size)

        return _made_in_one_pass(map(batch_at, starts), makers)


def _made_in_one_pass(
    batches: Iterable[ImageBatch], makers: Mapping[str, FeatureMaker]
) -> dict[str, Float[Array, "sample width"]]:
    parts: dict[str, list[Array]] = {name: [] for name in makers}
    for batch in batches:
        for name, maker in makers.items():
            parts[name].append(maker(batch).float().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def chip_batch(
    store: ChipStore, array: str, rows: Int[Array, "sample"], spec: InputSpec, *, img_size: int
) -> ImageBatch:
    """Read chips as network input. The store says which pixels have data."""
    chips, valid = store.read(array, rows)
    known = np.ones(chips.shape, dtype=bool) if valid is None else valid
    dn, seen = torch.from_numpy(chips), torch.from_numpy(known)
    return spec.image_batch(dn, valid=seen, img_size=img_size)


@dataclass(frozen=True, kw_only=True)
class StoreSets:
    """Cells of ground with all their images of some arrays."""

    places: tuple[str, ...]
    """Place of each cell."""
    cells: tuple[str, ...]
    """Name of each cell inside its place."""
    splits: tuple[str, ...]
    """Part of the data that each belongs to."""
    chips: tuple[Int[Array, "_"], ...]
    """Rows of the store's index of each cell's images: array by array as they were named, each by time."""

    def __len__(self) -> int:
        return len(self.cells)


def cell_sets(store: ChipStore, arrays: Sequence[str], *, split: Split | None = None) -> StoreSets:
    """Find the cells that any of the named arrays shows, with all their images, sorted by place and cell.

    Args:
        store: to search.
        arrays: names of arrays.
        split: part of the data; None: all.

    Raises:
        StoreError: an array is not in the store, or shows no cell.
    """
    for array in arrays:
        store.array_sensor(array)
    names = store.index.column("array").to_pylist()
    found = find_footprints(store, split=split)
    columns = store.index.select(["place", "cell", "split"]).to_pydict()
    sets: list[Array] = []
    for first, last in pairwise(found.bounds.tolist()):
        # They stand by time already.
        rows = [row for array in arrays for row in found.chips[first:last].tolist() if names[row] == array]
        if rows:
            sets.append(np.array(rows, dtype=np.int64))
    if not sets:
        raise StoreError(f"store '{store.path}' has no cell that any of {', '.join(arrays)} shows")
    return StoreSets(
        places=tuple(columns["place"][rows[0]] for rows in sets),
        cells=tuple(columns["cell"][rows[0]] for rows in sets),
        splits=tuple(columns["split"][rows[0]] for rows in sets),
        chips=tuple(sets),
    )


def set_features(
    encoder: SensorEncoder,
    store: ChipStore,
    sets: Sequence[Int[Array, "_"]],
    options: ChipOptions | None = None,
) -> Float[Array, "set width"]:
    """Encode sets of chips, the images of each as one sequence.

    Args:
        encoder: to use.
        store: to read.
        sets: rows of the store's index of each set's images; sets may differ in how many they have.
        options: pooling, size, precision; `batch_size` counts images.

    Returns:
        float32, one row a set.
    """
    options = options or ChipOptions()
    if options.statistics is not None:
        raise InputError("sets have sensors that differ: statistics by band are for chips of one array")
    features = np.zeros((len(sets), encoder.config.embed_dim), dtype=np.float32)
    with progress("encode sets", len(sets), shown=options.shown) as advance:
        for members in _alike(sets, options.batch_size):
            batch = store_set_batch(encoder, store, np.stack([sets[member] for member in members]), options)
            output = encoder.encode_sets(batch, precision=options.precision)
            features[members] = pooled_sets(output, options.pool).cpu().numpy()
            advance(len(members))
    return features


def store_set_batch(
    encoder: SensorEncoder, store: ChipStore, chips: Int[Array, "set slot"], options: ChipOptions
) -> SetBatch:
    """Read sets of chips as network input, whole, with what the index knows of them.

    Args:
        encoder: whose input specs are used, and whose image size.
        store: to read.
        chips: rows of its index.
        options: size, and whether facts are told.
    """
    size = options.img_size or encoder.config.img_size
    names = np.array(store.index.column("array").take(chips.ravel()).to_pylist(), dtype=object)
    groups, order = [], []
    for array in dict.fromkeys(names.tolist()):
        members = np.flatnonzero(names == array)
        rows = store.array_rows[chips.ravel()[members]]
        groups.append(chip_batch(store, array, rows, encoder.input_spec(store.array_sensor(array)), img_size=size))
        order.append(members)
    check_memory(
        encoder.encoder,
        num_sets=len(chips),
        num_images=chips.shape[1],
        num_tokens=(size // encoder.config.patch_size) ** 2,
    )
    metadata = _metadata(store, chips, size) if options.metadata else None
    return set_batch(groups, np.argsort(np.concatenate(order)).reshape(chips.shape), metadata)


def _metadata(store: ChipStore, chips: Int[Array, "set slot"], img_size: int) -> SetMetadata:
    facts = image_facts(store, chips)
    names = store.index.column("array").take(chips.ravel()).to_pylist()
    sides = np.array([np.sqrt(store.arrays[name].height * store.arrays[name].width) for name in names])
    return set_metadata(facts.corners_deg, facts.gsd_m, facts.time, facts.gsd_m * sides.reshape(chips.shape) / img_size)


def _alike(sets: Sequence[Array], batch_size: int) -> Iterator[list[int]]:
    """Give positions of sets of equally many images, a batch at a time."""
    for num_images in sorted({len(one) for one in sets}):
        members = [position for position, one in enumerate(sets) if len(one) == num_images]
        step = max(1, batch_size // max(num_images, 1))
        yield from (members[first : first + step] for first in range(0, len(members), step))


@dataclass(frozen=True, kw_only=True)
class StoreCells:
    """Cells of ground that every one of some arrays has a chip of."""

    places: tuple[str, ...]
    """Place of each cell."""
    cells: tuple[str, ...]
    """Name of each cell inside its place."""
    splits: tuple[str, ...]
    """Part of the data that each belongs to."""
    rows: dict[str, Int[Array, "cell"]]
    """Row of each array that shows each cell: the earliest date."""

    def __len__(self) -> int:
        return len(self.cells)


def common_cells(store: ChipStore, arrays: Sequence[str], *, split: Split | None = None) -> StoreCells:
    """Find the cells that all named arrays show, sorted by place and cell.

    Args:
        store: to search.
        arrays: names of arrays.
        split: part of the data; None: all.

    Raises:
        StoreError: an array is not in the store, or no cell is shown by all.
    """
    for array in arrays:
        store.array_sensor(array)
    columns = store.index.select(["array", "array_row", "place", "cell", "split", "datetime"]).to_pylist()
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for chip in sorted(columns, key=lambda chip: (chip["datetime"] is not None, chip["datetime"], chip["array_row"])):
        if chip["array"] in arrays and split in (None, chip["split"]):
            rows = found.setdefault((chip["place"], chip["cell"], chip["split"]), {})
            rows.setdefault(chip["array"], chip["array_row"])
    shared = sorted(key for key, rows in found.items() if len(rows) == len(set(arrays)))
    if not shared:
        raise StoreError(f"store '{store.path}' has no cell that all of {', '.join(arrays)} show")
    return StoreCells(
        places=tuple(place for place, _, _ in shared),
        cells=tuple(cell for _, cell, _ in shared),
        splits=tuple(part for _, _, part in shared),
        rows={array: np.array([found[key][array] for key in shared], dtype=np.int64) for array in arrays},
    )
