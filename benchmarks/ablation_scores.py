"""kNN on held-out places with the features of one network, or of one for each sensor."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from ablation_archive import SIMULATED, Archive
from ablation_features import POOLS, CellChips, cell_chips, joint_features, mean_features, sensor_features

from anyband.arrays import Array, Float
from anyband.data.store import ChipStore
from anyband.encode.encoder import Pool, SensorEncoder
from anyband.errors import AssignmentError
from anyband.evaluate.metrics import LabelledFeatures
from anyband.evaluate.probes import NUM_NEIGHBOURS, knn_scores
from anyband.models.checkpoint import Checkpoint
from anyband.models.encodings import NO_ENCODINGS
from anyband.sensors.assignment import AssignmentRules, Unseen

__all__ = ["Facts", "KnnTask", "Score", "band_mean_scores", "encoder_of", "knn_scores_of", "task_of"]

UnseenRule = Literal["interpolate", "nearest", "released"]
Facts = Literal["hidden", "known"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one run."""

    measure: Literal["knn accuracy", "cross-sensor error"]
    """What it is."""
    sensors: str
    """`a`, `a + b` for several, `a > b` for b predicted from a."""
    how: Literal["alone", "side by side", "joint"]
    """Features of single images, several put side by side, or images encoded as one sequence."""
    unseen: UnseenRule | Literal[""]
    """How bands without a trained range were read; empty: every sensor was open to training."""
    pool: str
    """A vector's making: mean of patches, or CLS; empty for errors."""
    facts: Facts
    """Whether the network was told place, resolution and date."""
    value: float
    """Share of right classes, or squared error over that of predicting each token's mean."""
    num_train: int
    """Cells that vote; 0 for errors."""
    num_test: int
    """Cells that are scored."""


@dataclass(frozen=True, kw_only=True)
class KnnTask:
    """Cells with classes, ready to score features of them."""

    cells: CellChips
    labels: Array
    classes: tuple[str, ...]
    is_train: Array

    def accuracy(self, features: Float[Array, "cell width"]) -> float:
        train, test = (
            LabelledFeatures(features=features[part], labels=self.labels[part], classes=self.classes)
            for part in (self.is_train, ~self.is_train)
        )
        votes = knn_scores(train, test, k=min(NUM_NEIGHBOURS, len(train.labels)))
        return float((votes.argmax(axis=1) == test.labels).mean())

    def score(self, features: Float[Array, "cell width"], **of: str) -> Score:
        counts = {"num_train": int(self.is_train.sum()), "num_test": int((~self.is_train).sum())}
        return Score(measure="knn accuracy", value=self.accuracy(features), **of, **counts)  # type: ignore[arg-type]


def knn_scores_of(networks: Mapping[str, Checkpoint], archive: Archive, *, device: str) -> list[Score]:
    """Score by kNN: each sensor alone, several side by side and as one sequence, unseen sensors by each rule.

    Training places vote, test places are scored; places of validation are left alone. A network with encodings is
    scored with what it was told in training, and without. Several in one sequence, and unseen sensors, are for one
    network that all sensors share.

    Args:
        networks: sensor → the network that reads it; only sensors that it was trained on.
        archive: with labels.
        device: where they run.
    """
    several = {id(checkpoint): checkpoint for checkpoint in networks.values()}
    encoders = {key: encoder_of(checkpoint, "interpolate", device) for key, checkpoint in several.items()}
    readers = {name: encoders[id(checkpoint)] for name, checkpoint in networks.items()}
    shared = next(iter(several.values())) if len(several) == 1 else None
    scores: list[Score] = []
    for facts in _facts_of(next(iter(encoders.values()))):
        alone = _Alone(readers, archive.store, known=facts == "known")
        for choice in _choices(archive):
            task = task_of(archive, choice) if readers.keys() >= set(choice) else None
            if task is not None:
                scores += _scores_of_choice(alone, task, choice, facts)
                if len(choice) > 1 and shared is not None and shared.config.images == "set":
                    scores += _joint_scores(readers[choice[0]], archive.store, task, choice, facts)
        if shared is not None:
            scores += _unseen_scores(shared, archive, facts, device)
    return scores


class _Alone:
    """Features of single images, each computed once."""

    def __init__(self, readers: Mapping[str, SensorEncoder], store: ChipStore, *, known: bool) -> None:
        self._readers = readers
        self._store = store
        self._known = known
        self._made: dict[tuple[str, int], dict[Pool, Array]] = {}

    def features(self, task: KnnTask, sensor: str) -> dict[Pool, Float[Array, "cell width"]]:
        chips = [(sensor, int(row)) for row in task.cells.chips[sensor]]
        new = np.array([chip not in self._made for chip in chips], dtype=bool)
        if new.any():
            made = sensor_features(self._readers[sensor], self._store, task.cells.part(new), sensor, known=self._known)
            for number, index in enumerate(np.flatnonzero(new)):
                self._made[chips[index]] = {pool: made[pool][number] for pool in POOLS}
        return {pool: np.stack([self._made[chip][pool] for chip in chips]) for pool in POOLS}


def _scores_of_choice(alone: _Alone, task: KnnTask, choice: tuple[str, ...], facts: Facts) -> list[Score]:
    made = [alone.features(task, name) for name in choice]
    named = {"sensors": " + ".join(choice), "how": "alone" if len(choice) == 1 else "side by side"}
    return [
        task.score(np.concatenate([one[pool] for one in made], axis=1), unseen="", pool=pool, facts=facts, **named)
        for pool in POOLS
    ]


def _joint_scores(
    encoder: SensorEncoder, store: ChipStore, task: KnnTask, choice: tuple[str, ...], facts: Facts
) -> list[Score]:
    made = joint_features(encoder, store, task.cells, choice, known=facts == "known")
    named = {"sensors": " + ".join(choice), "how": "joint", "unseen": "", "facts": facts}
    return [task.score(features, pool=pool, **named) for pool, features in made.items()]


def band_mean_scores(checkpoint: Checkpoint, archive: Archive) -> list[Score]:
    """Score means and deviations of the bands, which know colour and contrast and nothing of structure.

    Args:
        checkpoint: of any network; it tells only how bands are read.
        archive: with labels.
    """
    encoder = encoder_of(checkpoint, "interpolate", "cpu")
    scores = []
    for choice in (*_choices(archive), *((name,) for name in archive.unseen)):
        task = task_of(archive, choice)
        if task is None:
            continue
        made = [mean_features(encoder, archive.store, task.cells, name) for name in choice]
        how = "alone" if len(choice) == 1 else "side by side"
        rule = "interpolate" if set(choice) & set(archive.unseen) else ""
        named = {"sensors": " + ".join(choice), "how": how, "unseen": rule, "pool": "mean", "facts": "hidden"}
        scores.append(task.score(np.concatenate(made, axis=1), **named))
    return scores


def _choices(archive: Archive) -> Iterator[tuple[str, ...]]:
    """Give each sensor that training may see, and for simulated places the first two, and all, together."""
    trained = archive.trained
    yield from ((name,) for name in trained)
    if archive.kind == SIMULATED and len(trained) > 1:
        yield trained[:2]
        if len(trained) > 2:
            yield trained


def _unseen_scores(checkpoint: Checkpoint, archive: Archive, facts: Facts, device: str) -> list[Score]:
    scores = []
    for name in archive.unseen:
        task = task_of(archive, (name,))
        if task is None:
            continue
        for rule in get_args(UnseenRule):
            try:
                encoder = encoder_of(checkpoint, rule, device)
                made = sensor_features(encoder, archive.store, task.cells, name, known=facts == "known")
            except AssignmentError:
                # The table of ranges declares no neighbours of this sensor's bands: `released` invents nothing.
                continue
            for pool in POOLS:
                named = {"sensors": name, "how": "alone", "unseen": rule, "pool": pool, "facts": facts}
                scores.append(task.score(made[pool], **named))
    return scores


def task_of(archive: Archive, sensors: Sequence[str]) -> KnnTask | None:
    """Find the labelled cells that the sensors show, of classes that both training and test places have."""
    cells = cell_chips(archive.store, sensors, splits=("train", "test"))
    cells = cells.part(np.array([cell in archive.labels for cell in cells.cells], dtype=bool))
    of_split = {
        split: {archive.labels[cell] for cell, part in zip(cells.cells, cells.splits, strict=True) if part == split}
        for split in ("train", "test")
    }
    classes = tuple(sorted(of_split["train"] & of_split["test"]))
    if len(classes) < 2:
        return None
    cells = cells.part(np.array([archive.labels[cell] in classes for cell in cells.cells], dtype=bool))
    return KnnTask(
        cells=cells,
        labels=np.array([classes.index(archive.labels[cell]) for cell in cells.cells], dtype=np.int64),
        classes=classes,
        is_train=np.array([split == "train" for split in cells.splits], dtype=bool),
    )


def encoder_of(checkpoint: Checkpoint, rule: Unseen, device: str) -> SensorEncoder:
    """Make the encoder that reads bands without a trained range by a rule."""
    rules = AssignmentRules(unseen=rule)
    return SensorEncoder(checkpoint, rules=rules).to(device).eval()


def _facts_of(encoder: SensorEncoder) -> tuple[Facts, ...]:
    return ("known", "hidden") if encoder.config.encodings != NO_ENCODINGS else ("hidden",)
