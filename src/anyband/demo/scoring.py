"""kNN on held-out places of the demo's store: each sensor alone, two together, and one that training never saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from anyband.data.store import ChipStore
from anyband.errors import StoreError
from anyband.sensors.sensor import BandStatistics
from anyband.shapes import Array, Float
from anyband.tasks.band_means import band_means
from anyband.tasks.features import Pool, SensorEncoder, pooled
from anyband.tasks.knn import KnnOptions, knn_scores
from anyband.tasks.labels import LabelledFeatures
from anyband.tasks.metrics import Score, score_predictions
from anyband.tasks.precision import quicker_precision
from anyband.tasks.store_features import ChipOptions, StoreCells, common_cells, made_features

__all__ = ["KINDS", "POOL", "PlaceScores", "score_places"]

KINDS = ("pre-trained", "untrained", "band means")
"""What is compared: the encoder, the same one with its first weights, and mean and deviation of each band."""

POOL: Pool = "mean"
"""chosen: after minutes of training the mean of the patches tells more than CLS; docs/log.md has both."""


@dataclass(frozen=True, kw_only=True)
class PlaceScores:
    """Scores of one choice of sensors."""

    sensors: tuple[str, ...]
    """Sensors whose features were put side by side."""
    unseen: bool
    """Whether training never saw one of them."""
    scores: dict[str, Score]
    """Kind of features → accuracy, for each of `KINDS`."""
    num_train: int
    """Chips that vote."""
    num_test: int
    """Chips that are scored."""
    k: int
    """Neighbours that vote: the paper's 20, or all where there are fewer."""
    notes: tuple[str, ...]
    """How bands were read where they are not exactly known."""


def score_places(
    encoder: SensorEncoder,
    store: ChipStore,
    labels: Mapping[str, str],
    choices: Sequence[tuple[str, ...]],
    *,
    seed: int,
) -> list[PlaceScores]:
    """Score choices of sensors on the test places; training places vote.

    Args:
        encoder: pre-trained.
        store: with statistics; every sensor has one array.
        labels: place → class.
        choices: sensors whose features are put side by side, each of unit length.
        seed: of the untrained weights and the bootstrap.

    Returns:
        One entry for each choice; none where no class has both training and test places.
    """
    arrays = {sensor: _array_of(store, sensor) for choice in choices for sensor in choice}
    cells = common_cells(store, tuple(arrays.values()))
    # Classes too rare to have training and test places would score 0 whatever the features are.
    wanted = _classes_in_both(cells, labels)
    if not wanted:
        return []
    num_train, num_test = (_count(cells, labels, wanted, split) for split in ("train", "test"))
    k = min(KnnOptions.k, num_train)
    features = {sensor: _features(encoder, store, array, cells, seed=seed) for sensor, array in arrays.items()}
    trained_on = set(encoder.checkpoint.sensors)
    return [
        PlaceScores(
            sensors=choice,
            unseen=not trained_on.issuperset(choice),
            scores={
                kind: _accuracy(
                    _parts([features[sensor][kind] for sensor in choice], cells, labels, wanted), k=k, seed=seed
                )
                for kind in KINDS
            },
            num_train=num_train,
            num_test=num_test,
            k=k,
            notes=tuple(note for sensor in choice for note in _notes(encoder, store, arrays[sensor])),
        )
        for choice in choices
    ]


def _accuracy(parts: Mapping[str, LabelledFeatures], *, k: int, seed: int) -> Score:
    votes = knn_scores(parts["train"], parts["test"], KnnOptions(k=k))
    return score_predictions(parts["test"].labels, votes, seed=seed)[0]


def _array_of(store: ChipStore, sensor: str) -> str:
    found = [name for name, info in store.arrays.items() if info.sensor == sensor]
    if not found:
        raise StoreError(f"store '{store.path}' has no chips of sensor '{sensor}' ({', '.join(store.sensors)})")
    return found[0]


def _classes_in_both(cells: StoreCells, labels: Mapping[str, str]) -> tuple[str, ...]:
    seen = {
        split: {labels[place] for place, part in zip(cells.places, cells.splits, strict=True) if part == split}
        for split in ("train", "test")
    }
    return tuple(sorted(seen["train"] & seen["test"]))


def _statistics(store: ChipStore, array: str) -> Mapping[str, BandStatistics]:
    return store.statistics[store.arrays[array].sensor]


def _features(
    encoder: SensorEncoder, store: ChipStore, array: str, cells: StoreCells, *, seed: int
) -> dict[str, Float[Array, "sample width"]]:
    untrained, precision = encoder.untrained(seed=seed), quicker_precision(torch.device("cpu"))
    makers = {
        "pre-trained": lambda batch: pooled(encoder.encode_batch(batch, precision=precision), POOL),
        "untrained": lambda batch: pooled(untrained.encode_batch(batch, precision=precision), POOL),
        "band means": band_means,
    }
    options = ChipOptions(statistics=_statistics(store, array))
    with torch.no_grad():
        made = made_features(makers, encoder, store, array, cells.rows[array], options)
    return {kind: _unit_length(made[kind]) for kind in KINDS}


def _unit_length(features: Float[Array, "sample width"]) -> Float[Array, "sample width"]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Float[Array, "sample width"] = features / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


def _chosen(cells: StoreCells, labels: Mapping[str, str], wanted: Sequence[str], split: str) -> Array:
    rows = zip(cells.places, cells.splits, strict=True)
    return np.array([part == split and labels[place] in wanted for place, part in rows], dtype=bool)


def _count(cells: StoreCells, labels: Mapping[str, str], wanted: Sequence[str], split: str) -> int:
    return int(_chosen(cells, labels, wanted, split).sum())


def _parts(
    features: Sequence[Float[Array, "sample _"]],
    cells: StoreCells,
    labels: Mapping[str, str],
    wanted: tuple[str, ...],
) -> dict[str, LabelledFeatures]:
    joined = np.concatenate(features, axis=1)
    parts = {}
    for split in ("train", "test"):
        chosen = _chosen(cells, labels, wanted, split)
        names = [labels[place] for place, keep in zip(cells.places, chosen, strict=True) if keep]
        numbers = np.array([wanted.index(name) for name in names], dtype=np.int64)
        parts[split] = LabelledFeatures(features=joined[chosen], labels=numbers, classes=wanted)
    return parts


def _notes(encoder: SensorEncoder, store: ChipStore, array: str) -> tuple[str, ...]:
    reading = encoder.reading(store.array_sensor(array), statistics=_statistics(store, array))
    return tuple(reading.assignment.report().splitlines())
