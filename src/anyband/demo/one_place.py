"""One footprint through the sensors and dates that show it, and what the encoder makes of each."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from anyband.data.harmonise import to_physical
from anyband.data.pictures import picture
from anyband.data.store import ChipStore
from anyband.errors import AssignmentError
from anyband.report.maps import fit_pca_colours, pca_picture, pictures_png
from anyband.shapes import Array, Float
from anyband.tasks.features import SensorEncoder, feature_map
from anyband.tasks.precision import quicker_precision
from anyband.tasks.store_features import chip_batch

__all__ = ["PlacePictures", "draw_place"]

# chosen: as many pictures as fit the page's width, and dates as show the seasons.
_COLUMNS = 8
# chosen: 14 × 14 patches, over twice the training size; positions are computed for any grid.
_PATCHES = 14


@dataclass(frozen=True, kw_only=True)
class PlacePictures:
    """Chips of one footprint above the principal components of their features."""

    name: str
    """Place and cell."""
    png: bytes
    """The pictures."""
    num_chips: int
    """How many are drawn."""


def draw_place(encoder: SensorEncoder, store: ChipStore) -> PlacePictures | None:
    """Draw the footprint that the most sensors show, of equal ones the one with the most chips.

    The colours of the features are fitted to all of them together, so equal colours mean equal features over sensors
    and dates.

    Args:
        encoder: to use.
        store: with statistics.

    Returns:
        None where no sensor of the store can be read by the encoder.
    """
    (place, cell), chips = _richest(store)
    drawn, maps, titles = [], [], []
    for chip in _spread(chips):
        try:
            features = _features(encoder, store, chip)
        except AssignmentError:
            # A sensor that the trained ranges can't express has no features.
            continue
        maps.append(features)
        drawn.append(_colours(store, chip))
        when = f"{chip['datetime']:%Y-%m-%d}" if chip["datetime"] else "no date"
        titles.append(f"{chip['sensor']}\n{when}")
    if not maps:
        return None
    known = np.concatenate([features.reshape(len(features), -1).T for features in maps])
    colours = fit_pca_colours(known[np.isfinite(known).all(axis=1)])
    below = [pca_picture(features, colours) for features in maps]
    png = pictures_png([*drawn, *below], [*titles, *[""] * len(below)], num_columns=len(drawn))
    return PlacePictures(name=f"{place}, {cell}", png=png, num_chips=len(drawn))


def _richest(store: ChipStore) -> tuple[tuple[str, str], list[dict[str, Any]]]:
    names = ["place", "cell", "sensor", "array", "array_row", "datetime", "valid_fraction"]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for chip in store.index.select(names).to_pylist():
        cells[chip["place"], chip["cell"]].append(chip)
    return max(cells.items(), key=lambda entry: (len({chip["sensor"] for chip in entry[1]}), len(entry[1]), entry[0]))


def _spread(chips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose up to `_COLUMNS` chips: every sensor, its dates evenly spread, those with the most data first."""
    by_sensor: dict[str, list[dict[str, Any]]] = defaultdict(list)
    fullest = max(chip["valid_fraction"] for chip in chips)
    for chip in sorted(chips, key=lambda chip: (chip["datetime"] is None, str(chip["datetime"]), chip["array_row"])):
        if chip["valid_fraction"] >= 0.9 * fullest or chip["sensor"] not in by_sensor:
            by_sensor[chip["sensor"]].append(chip)
    each = max(1, _COLUMNS // len(by_sensor))
    chosen = []
    for mine in by_sensor.values():
        positions = np.unique(np.linspace(0, len(mine) - 1, min(each, len(mine))).round().astype(int))
        chosen += [mine[position] for position in positions]
    return chosen[:_COLUMNS]


def _features(encoder: SensorEncoder, store: ChipStore, chip: dict[str, Any]) -> Float[Array, "width row col"]:
    sensor = store.array_sensor(chip["array"])
    reading = encoder.reading(sensor, statistics=store.statistics[sensor.name])
    size = _PATCHES * encoder.config.patch_size
    batch = chip_batch(store, chip["array"], np.array([chip["array_row"]]), reading, img_size=size)
    output = encoder.encode_batch(batch, precision=quicker_precision(torch.device("cpu")))
    features: Float[Array, "width row col"] = feature_map(output)[0].numpy()
    return features


def _colours(store: ChipStore, chip: dict[str, Any]) -> Float[Array, "3 row col"]:
    dn, valid = store.read(chip["array"], [chip["array_row"]])
    normalisation = store.normalisation(chip["array"], source="store")
    physical = to_physical(torch.from_numpy(dn), normalisation)[0].numpy()
    seen = None if valid is None else valid[0]
    drawn = picture(physical, store.array_sensor(chip["array"]), valid=seen)
    return np.moveaxis(drawn, -1, 0).astype(np.float32)
