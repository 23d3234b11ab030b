"""Features of the chips of a store, and the footprints that several of its arrays share."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Float, Int
from anyband.data.store import ChipStore
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec
from anyband.errors import StoreError
from anyband.models.inputs import ImageBatch
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics

__all__ = ["FeatureMaker", "chip_batch", "common_footprints", "features_of", "store_features"]

FeatureMaker = Callable[[ImageBatch], Float[Tensor, "batch width"]]
"""Makes one vector an image."""


def store_features(
    makers: Mapping[str, FeatureMaker],
    encoder: SensorEncoder,
    store: ChipStore,
    array: str,
    rows: Int[Array, "sample"],
    *,
    statistics: Mapping[str, BandStatistics] | None = None,
    img_size: int | None = None,
    batch_size: int = 64,
    shown: bool = False,
) -> dict[str, Float[Array, "sample width"]]:
    """Make several kinds of features of the same chips in one pass: by encoders, by `band_means`.

    Args:
        makers: by name.
        encoder: whose input spec of the sensor is used.
        rows: of the array, in the order wanted.
        statistics: by band in physical units; None: the checkpoint's, else the catalogue's.
        img_size: side to which chips are resized, pixels; None: the checkpoint's own.
        batch_size: chips read at once.

    Returns:
        By maker, float32, one row a chip.
    """
    spec = encoder.input_spec(store.array_sensor(array), statistics=statistics)
    size = img_size or encoder.config.img_size
    with progress(f"encode {array}", len(rows), shown=shown) as advance:

        def batch_at(start: int) -> ImageBatch:
            part = rows[start : start + batch_size]
            advance(len(part))
            return chip_batch(store, array, part, spec, img_size=size)

        return features_of(map(batch_at, range(0, len(rows), batch_size)), makers)


def features_of(
    batches: Iterable[ImageBatch], makers: Mapping[str, FeatureMaker]
) -> dict[str, Float[Array, "sample width"]]:
    """Make features of each batch by each maker, and lay them one after the other."""
    made: dict[str, list[Array]] = {name: [] for name in makers}
    for batch in batches:
        for name, maker in makers.items():
            made[name].append(maker(batch).float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in made.items()}


def chip_batch(
    store: ChipStore, array: str, rows: Int[Array, "sample"], spec: InputSpec, *, img_size: int
) -> ImageBatch:
    """Read chips as network input. The store says which pixels have data."""
    chips, valid = store.read(array, rows)
    known = np.ones(chips.shape, dtype=bool) if valid is None else valid
    return spec.image_batch(torch.from_numpy(chips), torch.from_numpy(known), img_size=img_size)


def common_footprints(
    store: ChipStore, arrays: Sequence[str]
) -> tuple[list[tuple[str, str]], dict[str, Int[Array, "footprint"]]]:
    """Find the footprints that all named arrays show, sorted by place and cell: (place, split) of each; and by array
    the row that shows each, of the earliest date. `StoreError` where an array is missing, or no footprint is shown by
    all."""
    for array in arrays:
        store.array_sensor(array)
    columns = store.index.select(["array", "array_row", "place", "cell", "split", "datetime"]).to_pylist()
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for chip in sorted(columns, key=lambda chip: (chip["datetime"] is not None, chip["datetime"], chip["array_row"])):
        if chip["array"] in arrays:
            rows = found.setdefault((chip["place"], chip["cell"], chip["split"]), {})
            rows.setdefault(chip["array"], chip["array_row"])
    shared = sorted(key for key, rows in found.items() if len(rows) == len(set(arrays)))
    if not shared:
        raise StoreError(f"store '{store.path}' has no footprint that all of {', '.join(arrays)} show")
    rows_of = {array: np.array([found[key][array] for key in shared], dtype=np.int64) for array in arrays}
    return [(place, split) for place, _, split in shared], rows_of
