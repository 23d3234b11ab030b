"""Chip stores that have an index and no pixels, for what is drawn from one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from anyband.data.store import INDEX_SCHEMA, ArraySpec, ChipStore, Split

DAY_US = 86_400_000_000


def index_store(
    images: Sequence[tuple[str, str, int | None]], shapes: Mapping[str, tuple[int, int]], split: Split = "train"
) -> ChipStore:
    """Make the store of some images (place, sensor, day; None: unknown), each a chip, of sensors with these shapes."""
    count, sensors = len(images), list(shapes)
    columns = {
        "chip": range(count),
        "array": [f"{sensor}_8x8" for _, sensor, _ in images],
        "array_row": range(count),
        "place": [place for place, _, _ in images],
        "cell": ["r000c000"] * count,
        "sensor": [sensor for _, sensor, _ in images],
        "datetime": [None if day is None else day * DAY_US for _, _, day in images],
        **{name: [None] * count for name in ("geometry", "crs", "transform", "gsd_m")},
        "valid_fraction": [1.0] * count,
        "split": [split] * count,
        "source_path": ["x.tif"] * count,
    }
    store = ChipStore.__new__(ChipStore)
    store.path = Path("somewhere")
    store.index = pa.table({name: list(values) for name, values in columns.items()}, schema=INDEX_SCHEMA)
    store.sensors = dict.fromkeys(sensors)  # type: ignore[arg-type]
    store.arrays = {f"{sensor}_8x8": _array(sensor, *shape) for sensor, shape in shapes.items()}
    store.array_numbers = np.array([sensors.index(sensor) for _, sensor, _ in images])
    store.array_rows = np.arange(count)
    return store


def _array(sensor: str, height: int, width: int) -> ArraySpec:
    return ArraySpec(
        sensor=sensor,
        bands=("B",),
        height=height,
        width=width,
        dtype="uint8",
        encoding={},
        nodata=None,
        name=f"{sensor}_8x8",
        num_chips=1,
        chips_per_shard=1,
    )
