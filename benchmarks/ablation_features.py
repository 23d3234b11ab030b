"""Features of the cells of a store by one network: each sensor alone, and several in one sequence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.image_sets import chip_metadata
from anyband.data.store import ChipStore
from anyband.encode.encoder import Pool, SensorEncoder, chip_batch, pooled
from anyband.encode.metadata import set_metadata
from anyband.evaluate.features import band_means
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata

__all__ = [
    "POOLS",
    "CellChips",
    "cell_chips",
    "cell_images",
    "joint_features",
    "mean_features",
    "metadata_of",
    "sensor_features",
    "unit_length",
]

POOLS: tuple[Pool, ...] = ("mean", "cls")
_BATCH = 64

_Key = tuple[str, str, str]
"""Place, cell and split."""


@dataclass(frozen=True, kw_only=True)
class CellChips:
    """Cells that some sensors all show."""

    cells: tuple[tuple[str, str], ...]
    """Place and name of each."""
    splits: tuple[str, ...]
    """Split that each belongs to."""
    chips: dict[str, Int[Array, "cell"]]
    """Sensor → row of the store's index for each cell: its earliest date."""
    arrays: dict[str, str]
    """Sensor → array that these chips are in."""

    def part(self, chosen: Array) -> "CellChips":
        """Keep some of the cells."""
        kept = np.flatnonzero(chosen)
        return CellChips(
            cells=tuple(self.cells[index] for index in kept),
            splits=tuple(self.splits[index] for index in kept),
            chips={sensor: rows[kept] for sensor, rows in self.chips.items()},
            arrays=self.arrays,
        )


def cell_chips(store: ChipStore, sensors: Sequence[str], *, splits: Sequence[str]) -> CellChips:
    """Find the cells that all sensors show, by place and cell.

    Of sensors with several arrays those are taken together that share the most cells.

    Args:
        store: to look in.
        sensors: that must show a cell.
        splits: of the cells.
    """
    of_array = _earliest_chips(store, splits)
    several = [[name for name, info in store.arrays.items() if info.sensor == sensor] for sensor in sensors]
    arrays = max(product(*several), key=lambda names: len(_shared([of_array[name] for name in names])))
    shared = sorted(_shared([of_array[name] for name in arrays]))
    return CellChips(
        cells=tuple((place, cell) for place, cell, _ in shared),
        splits=tuple(split for _, _, split in shared),
        chips={
            sensor: np.array([of_array[name][key] for key in shared], dtype=np.int64)
            for sensor, name in zip(sensors, arrays, strict=True)
        },
        arrays=dict(zip(sensors, arrays, strict=True)),
    )


def _earliest_chips(store: ChipStore, splits: Sequence[str]) -> dict[str, dict[_Key, int]]:
    """Find array → cell → row of the store's index of its earliest chip; chips without a date come first."""
    columns = store.index.select(["place", "cell", "split", "array", "datetime"]).to_pydict()
    times = columns["datetime"]
    found: dict[str, dict[_Key, int]] = {name: {} for name in store.arrays}
    for row in sorted(range(len(times)), key=lambda row: (times[row] is not None, times[row], row)):
        if columns["split"][row] in splits:
            key = (columns["place"][row], columns["cell"][row], columns["split"][row])
            found[columns["array"][row]].setdefault(key, row)
    return found


def _shared(chips: Sequence[Mapping[_Key, int]]) -> set[_Key]:
    return set(chips[0]).intersection(*chips[1:])


def sensor_features(
    encoder: SensorEncoder, store: ChipStore, cells: CellChips, sensor: str, *, known: bool
) -> dict[Pool, Float[Array, "cell width"]]:
    """Encode the images of one sensor, each by itself.

    Args:
        encoder: to use.
        store: with statistics.
        cells: whose images.
        sensor: which.
        known: whether the network is told where, how finely and when they were taken.
    """
    made: dict[Pool, list[Array]] = {pool: [] for pool in POOLS}
    for rows in _batches(cells.chips[sensor]):
        batch = cell_images(encoder, store, cells.arrays[sensor], rows)
        metadata = metadata_of(store, rows[:, None], img_size=encoder.config.img_size) if known else None
        output = encoder.encode_batch(batch, metadata=metadata, precision="bf16")
        for pool in POOLS:
            made[pool].append(pooled(output, pool).cpu().numpy())
    return {pool: unit_length(np.concatenate(parts)) for pool, parts in made.items()}


def joint_features(
    encoder: SensorEncoder, store: ChipStore, cells: CellChips, sensors: Sequence[str], *, known: bool
) -> dict[Pool, Float[Array, "cell width"]]:
    """Encode the images of several sensors of each cell as one sequence; arguments as in `sensor_features`."""
    made: dict[Pool, list[Array]] = {pool: [] for pool in POOLS}
    for chips in _batches(np.stack([cells.chips[sensor] for sensor in sensors], axis=1)):
        groups = [
            cell_images(encoder, store, cells.arrays[sensor], rows)
            for sensor, rows in zip(sensors, chips.T, strict=True)
        ]
        metadata = metadata_of(store, chips, img_size=encoder.config.img_size) if known else None
        output = encoder.encode_batch(SetBatch(groups=tuple(groups), metadata=metadata), precision="bf16")
        for pool in POOLS:
            made[pool].append(pooled(output, pool).cpu().numpy())
    return {pool: unit_length(np.concatenate(parts)) for pool, parts in made.items()}


def mean_features(
    encoder: SensorEncoder, store: ChipStore, cells: CellChips, sensor: str
) -> Float[Array, "cell width"]:
    """Describe images by mean and deviation of their bands; the encoder only tells how to read them."""
    parts = [
        band_means(cell_images(encoder, store, cells.arrays[sensor], rows)).numpy()
        for rows in _batches(cells.chips[sensor])
    ]
    return unit_length(np.concatenate(parts))


def metadata_of(store: ChipStore, chips: Int[Array, "set slot"], *, img_size: int) -> SetMetadata:
    """Look up what is known of whole chips as networks see them.

    Args:
        store: that they are in.
        chips: rows of its index.
        img_size: side to which they are resized, pixels.
    """
    metadata = chip_metadata(store, chips)
    names = store.index.column("array").take(chips.ravel()).to_pylist()
    sides = np.array([store.arrays[name].height for name in names], dtype=np.float64).reshape(chips.shape)
    gsd_m = metadata["gsd_m"]
    return set_metadata(metadata["corners_deg"], gsd_m, metadata["time"], gsd_m * sides / img_size)


def unit_length(features: Float[Array, "cell width"]) -> Float[Array, "cell width"]:
    """Scale every feature to length 1, so that features side by side weigh alike."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, np.finfo(np.float32).tiny))


def cell_images(encoder: SensorEncoder, store: ChipStore, array: str, rows: Int[Array, "cell"]) -> ImageBatch:
    """Read chips of one array, by rows of the store's index, as an encoder reads its sensor.

    Statistics are the store's, for every network.
    """
    sensor = store.array_sensor(array)
    reading = encoder.input_spec(sensor, statistics=store.statistics[sensor.name])
    return chip_batch(store, array, store.array_rows[rows], reading, img_size=encoder.config.img_size)


def _batches(rows: Array) -> list[Array]:
    return [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
