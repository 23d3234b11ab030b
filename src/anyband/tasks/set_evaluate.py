"""Scores of an encoder on labelled sets of images: each set is one sample."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from anyband.data.labelled import LabelledImages
from anyband.data.manifest import ImageEntry
from anyband.errors import InputError
from anyband.shapes import Array, Bool, Float, Num
from anyband.tasks.evaluate import (
    EvaluateOptions,
    band_means,
    evaluation_settings,
    features_of,
    score_features,
)
from anyband.tasks.features import SensorEncoder
from anyband.tasks.labelled_inputs import data_fingerprint, labelled_parts
from anyband.tasks.results import Evaluation
from anyband.tasks.set_features import SetItem, pooled_sets
from anyband.tasks.set_inputs import LabelledSetBatch, SetReader, set_batches
from anyband.tasks.set_statistics import SetStatistics, counted_statistics, read_set_statistics

__all__ = ["SetFeatureMaker", "evaluate_sets", "set_band_means"]

SetFeatureMaker = Callable[[LabelledSetBatch], Float[Tensor, "set width"]]
"""Makes one vector a set."""


def evaluate_sets(encoder: SensorEncoder, images: LabelledImages, options: EvaluateOptions | None = None) -> Evaluation:
    """Score an encoder on labelled sets of images of one place, the images of each encoded as one sequence.

    Args:
        encoder: to score.
        images: sets with splits.
        options: protocol, size, pooling, comparisons; `encoding` is each image's own.

    Returns:
        An evaluation without names of checkpoint and data; the caller knows them.

    Raises:
        InputError: as `evaluate_images`; or sets that memory doesn't hold.
        RasterError: an image can't be read, or has no data.
        GeometryError: images of a set show different ground.
    """
    options = options or EvaluateOptions()
    if options.encoding is not None:
        raise InputError("images of sets have an encoding of their own: name it in the table's column `encoding`")
    img_size = options.img_size or encoder.config.img_size
    reader = SetReader(encoder, img_size=img_size, statistics=_statistics(images, options), metadata=options.metadata)
    readings = list(dict.fromkeys(reader.reading(entry) for entry in _entries(images)))
    makers, notes = _makers(encoder, images, options)
    positions: list[int] = []

    def batches() -> Iterator[LabelledSetBatch]:
        for batch in set_batches(images, reader, batch_size=options.batch_size, shown=options.score.shown):
            positions.extend(batch.members)
            yield batch

    features = features_of(batches(), makers)
    # Sets were read by their number of images; here they stand as in the table again.
    order = np.argsort(positions)
    return Evaluation(
        protocol=options.score.protocol,
        settings={
            **evaluation_settings(
                options, img_size, "; ".join(dict.fromkeys(one.statistics_source for one in readings))
            ),
            "metadata": options.metadata,
        },
        checkpoint="",
        data=data_fingerprint(images),
        sensors=tuple(dict.fromkeys(one.asked.name for one in readings)),
        classes=images.classes,
        num_samples={name: images.splits.count(name) for name in ("train", "val", "test")},
        seed=options.score.seed,
        rows=tuple(
            score_features(labelled_parts(images, values[order]), options.score, name=name)
            for name, values in features.items()
        ),
        notes=(_counted(images), *dict.fromkeys(note for one in readings for note in one.notes), *notes),
    )


def set_band_means(batch: LabelledSetBatch) -> Float[Tensor, "set width"]:
    """Describe sets by mean and deviation of each band of each image, side by side, sensors in the order of names."""
    return torch.stack(
        [torch.cat([band_means(item.image)[0] for item in sorted(items, key=_kind)]) for items in batch.items]
    )


def _makers(
    encoder: SensorEncoder, images: LabelledImages, options: EvaluateOptions
) -> tuple[dict[str, SetFeatureMaker], tuple[str, ...]]:
    def of(network: SensorEncoder) -> SetFeatureMaker:
        return lambda sets: pooled_sets(network.encode_sets(sets.batch, precision=options.precision), options.pool)

    makers = {"encoder": of(encoder)}
    several = max(len(entries) for entries in images.members) > 1
    notes = encoder.set_notes if several else ()
    if options.untrained:
        makers["untrained encoder"] = of(encoder.untrained(seed=options.score.seed))
    kinds = {tuple(sorted((one.sensor.name, one.sensor.band_names) for one in entries)) for entries in images.members}
    if options.baseline and len(kinds) == 1:
        makers["band means"] = set_band_means
    elif options.baseline:
        notes += ("band means are left out: they can't stand side by side, because the sets differ in their sensors",)
    return makers, notes


def _kind(item: SetItem) -> tuple[str, tuple[str, ...]]:
    return item.reading.asked.name, item.reading.asked.band_names


def _entries(images: LabelledImages) -> list[ImageEntry]:
    return [entry for entries in images.members for entry in entries]


def _statistics(images: LabelledImages, options: EvaluateOptions) -> SetStatistics | None:
    """Get the statistics that a user names, by sensor; `data` counts them on the training sets alone."""
    if options.statistics is None:
        return None
    if options.statistics == "data":
        return counted_statistics(_entries(images.part("train")), _pixels)
    return read_set_statistics(Path(options.statistics), _entries(images))


def _pixels(entry: ImageEntry) -> Iterator[tuple[Num[Array, "band row col"], Bool[Array, "band row col"]]]:
    from anyband.data.rasters.reader import open_raster

    with open_raster(entry.source, entry.sensor) as reader:
        raster = reader.read()
    yield raster.dn, raster.valid


def _counted(images: LabelledImages) -> str:
    sizes = [len(entries) for entries in images.members]
    least, most = min(sizes), max(sizes)
    each = f"{most} image{'s' * (most != 1)}" if least == most else f"{least} to {most} images"
    return f"{len(images)} sets of {each}, each set one sample"
