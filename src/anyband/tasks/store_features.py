"""Features of the chips of a store, and the cells that several of its arrays share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anyband.data.chip_index import Split
from anyband.data.store import ChipStore
from anyband.errors import StoreError
from anyband.models.inputs import ImageBatch
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics
from anyband.shapes import Array, Float, Int
from anyband.tasks.evaluate import FeatureMaker, features_of
from anyband.tasks.features import Pool, Precision, SensorEncoder, pooled
from anyband.tasks.readings import BandReading, standardised_batch

__all__ = ["ChipOptions", "StoreCells", "chip_batch", "common_cells", "made_features", "store_features"]


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
    """Normalisation by band in physical units; None: the checkpoint's, else the catalogue's."""
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
        encoder: whose reading of the sensor is used, and whose image size.
        store: to read.
        array: name of the array.
        rows: of the array, in the order wanted.
        options: size, statistics; pooling and precision are the makers' own.
    """
    reading = encoder.reading(store.array_sensor(array), statistics=options.statistics)
    size = options.img_size or encoder.config.img_size
    starts = range(0, len(rows), options.batch_size)
    with progress(f"encode {array}", len(rows), shown=options.shown) as advance:

        def batch_at(start: int) -> ImageBatch:
            part = rows[start : start + options.batch_size]
            advance(len(part))
            return chip_batch(store, array, part, reading, img_size=size)

        return features_of(map(batch_at, starts), makers)


def chip_batch(
    store: ChipStore, array: str, rows: Int[Array, "sample"], reading: BandReading, *, img_size: int
) -> ImageBatch:
    """Read chips as network input. The store says which pixels have data."""
    chips, valid = store.read(array, rows)
    known = np.ones(chips.shape, dtype=bool) if valid is None else valid
    dn, seen = torch.from_numpy(chips), torch.from_numpy(known)
    return standardised_batch(dn, reading, valid=seen, img_size=img_size)


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
