"""Scores of an encoder on labelled images, beside its untrained twin and plain band means."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from anyband.data.labelled import LabelledImages, read_labelled, split
from anyband.errors import InputError
from anyband.models.inputs import ImageBatch
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Float
from anyband.tasks.features import Pool, Precision, SensorEncoder, pooled
from anyband.tasks.knn import KnnOptions, knn_scores
from anyband.tasks.labelled_inputs import (
    data_fingerprint,
    labelled_batches,
    labelled_parts,
    training_statistics,
)
from anyband.tasks.labels import LabelledFeatures, check_same_classes
from anyband.tasks.linear import LinearOptions, fit_linear_probe, probe_scores
from anyband.tasks.metrics import score_predictions
from anyband.tasks.readings import checkpoint_sensor
from anyband.tasks.results import Evaluation, ScoredFeatures
from anyband.tasks.statistics import read_statistics

__all__ = [
    "EvaluateOptions",
    "FeatureMaker",
    "ScoreOptions",
    "band_means",
    "evaluate_images",
    "evaluation_settings",
    "feature_makers",
    "features_of",
    "read_split_images",
    "score_features",
]

BatchT = TypeVar("BatchT")

FeatureMaker = Callable[[ImageBatch], Float[Tensor, "batch width"]]
"""Makes one vector an image."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How features are scored."""

    protocol: Literal["knn", "linear"] = "knn"
    """Nearest neighbours or a linear probe."""
    knn: KnnOptions = field(default_factory=KnnOptions)
    """Numbers of kNN."""
    linear: LinearOptions = field(default_factory=LinearOptions)
    """Numbers of the linear probe."""
    seed: int = 0
    """Of the probe and the bootstrap."""
    device: str = "cpu"
    """Where neighbours are searched and the probe is fitted."""
    shown: bool = False
    """Show progress bars."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How an encoder is evaluated on labelled images."""

    score: ScoreOptions = field(default_factory=ScoreOptions)
    """The protocol."""
    pool: Pool = "cls"
    """An image's vector: the CLS token, or the mean of its patches."""
    img_size: int | None = None
    """Side to which images are resized, pixels; None: the checkpoint's own."""
    precision: Precision = "float32"
    """Of the encoder's arithmetic."""
    batch_size: int = 64
    """Images encoded at once."""
    encoding: str | None = None
    """How the images' numbers are stored; None: the sensor's default."""
    statistics: str | None = None
    """`data` counts them on the training images; else a chip store or a file; None: the checkpoint's, else
    the catalogue's."""
    untrained: bool = False
    """Score the same architecture with the weights it has before training too."""
    baseline: bool = False
    """Score means and deviations of the bands too."""
    metadata: bool = True
    """Whether the network is told where, how finely and when the images of sets were taken."""
    val_share: float = 0.1
    """Share of the images for validation, where no split is declared."""
    test_share: float = 0.2
    """Share of the images for test, where no split is declared."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or (self.img_size is not None and self.img_size < 1):
            raise InputError(f"batch_size and img_size must be at least 1, found {self.batch_size} and {self.img_size}")


def read_split_images(
    data: Path, *, multi_label: bool, val_share: float, test_share: float, seed: int, sensor: str | None = None
) -> LabelledImages:
    """Read labelled images with their declared split, or draw one by class.

    Args:
        data: folder of class folders, or a table of path and label.
        multi_label: whether images may have several classes, or none.
        val_share: share for validation.
        test_share: share for test.
        seed: of the draw.
        sensor: of the images of sets whose rows name none.

    Raises:
        ManifestError: no images, or a wrong table.
        InputError: images with several labels, and that is not declared.
    """
    images = read_labelled(data, sensor=sensor)
    if images.multi_label and not multi_label:
        several = next(path for path, labels in zip(images.paths, images.labels, strict=True) if len(labels) != 1)
        raise InputError(
            f"'{several}' has no label or several; say so with `--multi-label`, or give every image one label"
        )
    return split(replace(images, multi_label=multi_label), val=val_share, test=test_share, seed=seed)


def evaluate_images(
    encoder: SensorEncoder,
    images: LabelledImages,
    sensor: str | Sensor,
    options: EvaluateOptions | None = None,
) -> Evaluation:
    """Score an encoder on labelled images of one sensor.

    Validation chooses (the epoch of a linear probe; kNN chooses nothing), test is only reported.

    Args:
        encoder: to score.
        images: with splits.
        sensor: of the images, with the bands to use.
        options: protocol, size, pooling, comparisons.

    Returns:
        An evaluation without names of checkpoint and data; the caller knows them.

    Raises:
        InputError: more neighbours than training samples, or a class that training lacks.
        RasterError: an image can't be read, or has no data.
    """
    options = options or EvaluateOptions()
    found = checkpoint_sensor(encoder.checkpoint, sensor)
    statistics = _statistics(images, found, options)
    reading = encoder.reading(found, encoding=options.encoding, statistics=statistics)
    img_size = options.img_size or encoder.config.img_size
    makers = feature_makers(encoder, options)
    batches = labelled_batches(
        images, reading, img_size=img_size, batch_size=options.batch_size, shown=options.score.shown
    )
    features = features_of(batches, makers)
    return Evaluation(
        protocol=options.score.protocol,
        settings=evaluation_settings(options, img_size, reading.statistics_source),
        checkpoint="",
        data=data_fingerprint(images),
        sensors=(found.name,),
        classes=images.classes,
        num_samples={name: images.splits.count(name) for name in ("train", "val", "test")},
        seed=options.score.seed,
        rows=tuple(
            score_features(labelled_parts(images, values), options.score, name=name)
            for name, values in features.items()
        ),
        notes=reading.notes,
    )


def feature_makers(encoder: SensorEncoder, options: EvaluateOptions) -> dict[str, FeatureMaker]:
    """List the kinds of features to score, by their name in the table."""

    def of(network: SensorEncoder) -> FeatureMaker:
        return lambda batch: pooled(network.encode_batch(batch, precision=options.precision), options.pool)

    makers = {"encoder": of(encoder)}
    if options.untrained:
        makers["untrained encoder"] = of(encoder.untrained(seed=options.score.seed))
    if options.baseline:
        makers["band means"] = band_means
    return makers


def features_of(
    batches: Iterable[BatchT], makers: Mapping[str, Callable[[BatchT], Float[Tensor, "batch width"]]]
) -> dict[str, Float[Array, "sample width"]]:
    """Make several kinds of features in one pass over the images."""
    parts: dict[str, list[Array]] = {name: [] for name in makers}
    for batch in batches:
        for name, maker in makers.items():
            parts[name].append(maker(batch).float().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def band_means(batch: ImageBatch) -> Float[Tensor, "batch width"]:
    """Describe images by mean and standard deviation of each standardised band over its valid pixels.

    This is what any encoder must beat: it knows colour and contrast, and nothing of structure. A band without
    any valid pixel counts as 0, the mean.
    """
    seen = torch.ones_like(batch.pixels) if batch.valid is None else batch.valid.to(batch.pixels.dtype)
    counts = seen.sum(dim=(2, 3)).clamp(min=1)
    mean = (batch.pixels * seen).sum(dim=(2, 3)) / counts
    spread = ((batch.pixels - mean[:, :, None, None]) * seen).square().sum(dim=(2, 3)) / counts
    return torch.cat([mean, spread.sqrt()], dim=1)


def score_features(parts: Mapping[str, LabelledFeatures], options: ScoreOptions, *, name: str) -> ScoredFeatures:
    """Score features on the test part.

    Args:
        parts: `train` and `test`, and `val` for a linear probe.
        options: the protocol.
        name: of the features, for the table.
    """
    train, test = parts["train"], parts["test"]
    chosen: dict[str, Any] = {}
    if options.protocol == "knn":
        predicted = knn_scores(train, test, options.knn, device=options.device)
    else:
        check_same_classes(train, test)
        fit = fit_linear_probe(
            train, parts["val"], options.linear, seed=options.seed, device=options.device, shown=options.shown
        )
        predicted = probe_scores(fit.probe, test.features)
        chosen = {"epoch": fit.best_epoch, "validation": fit.validation[fit.best_epoch - 1]}
    scores = score_predictions(test.labels, predicted, seed=options.seed)
    return ScoredFeatures(features=name, width=train.features.shape[1], scores=scores, chosen=chosen)


def _statistics(images: LabelledImages, sensor: Sensor, options: EvaluateOptions) -> dict[str, BandStatistics] | None:
    if options.statistics is None:
        return None
    if options.statistics == "data":
        return training_statistics(images, sensor, encoding=options.encoding, shown=options.score.shown)
    return read_statistics(Path(options.statistics), sensor)


def evaluation_settings(options: EvaluateOptions, img_size: int, normalisation: str) -> dict[str, Any]:
    """List what a score depends on beside the checkpoint and the data, for its record.

    Args:
        options: the user's.
        img_size: side of the network's images, pixels.
        normalisation: where the statistics come from.
    """
    chosen: KnnOptions | LinearOptions = options.score.knn if options.score.protocol == "knn" else options.score.linear
    return {
        **asdict(chosen),
        "pool": options.pool,
        "img_size": img_size,
        "precision": options.precision,
        "normalisation": normalisation,
    }
