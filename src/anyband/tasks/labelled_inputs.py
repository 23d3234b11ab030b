"""Labelled images as network input: read, harmonised, resized to one size, in batches."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import torch

from anyband.data.labelled import SPLITS, LabelledImages
from anyband.data.rasters.records import Raster, RasterSource
from anyband.errors import InputError, RasterError
from anyband.models.inputs import ImageBatch
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Float
from anyband.tasks.labels import LabelledFeatures
from anyband.tasks.readings import BandReading, joined_batches, standardised_batch
from anyband.tasks.statistics import count_statistics

__all__ = ["data_fingerprint", "labelled_batches", "labelled_parts", "training_statistics"]


def labelled_batches(
    images: LabelledImages, reading: BandReading, *, img_size: int, batch_size: int, shown: bool = False
) -> Iterator[ImageBatch]:
    """Read images one after the other and give them in batches of network input, in order.

    Args:
        images: files of any sizes.
        reading: of their sensor.
        img_size: side to which each is resized, whole.
        batch_size: images in a batch; the last one may be smaller.
        shown: show a progress bar.

    Raises:
        RasterError: a file can't be read, or has no data.
        InputError: sets of images have the labels, and not images.
    """
    if images.members:
        raise InputError("the labels are of sets of images, which `anyband evaluate` scores; images are needed here")
    with progress("read and encode images", len(images), shown=shown) as advance:
        paths = iter(images.paths)
        while group := list(islice(paths, batch_size)):
            rasters = [(path, _read(path, reading.asked)) for path in group]
            # Images of one size that follow each other are harmonised together.
            runs = [list(run) for _, run in groupby(rasters, key=lambda item: item[1].dn.shape)]
            yield joined_batches([_network_input(run, reading, img_size) for run in runs])
            advance(len(group))


def _network_input(run: Sequence[tuple[Path, Raster]], reading: BandReading, img_size: int) -> ImageBatch:
    dn = torch.from_numpy(np.stack([raster.dn for _, raster in run]))
    valid = torch.from_numpy(np.stack([raster.valid for _, raster in run]))
    batch = standardised_batch(dn, reading, valid=valid, img_size=img_size)
    for index, (path, _) in enumerate(run):
        if batch.valid is not None and not bool(batch.valid[index].any()):
            raise RasterError(f"'{path}' has no pixel with data; leave it out, or check its nodata value")
    return batch


def _read(path: Path, sensor: Sensor) -> Raster:
    # Late: features of chip stores need no raster library.
    from anyband.data.rasters.reader import open_raster

    with open_raster(RasterSource(paths=(path,)), sensor) as reader:
        return reader.read()


def training_statistics(
    images: LabelledImages, sensor: Sensor, *, encoding: str | None = None, shown: bool = False
) -> dict[str, BandStatistics]:
    """Count the normalisation statistics of the training images; validation and test are not looked at.

    Args:
        images: with splits.
        sensor: of the images.
        encoding: how their numbers are stored.
        shown: show a progress bar.
    """
    train = images.part("train")
    with progress("statistics of the training images", len(train), shown=shown) as advance:

        def pixels() -> Iterable[tuple[Array, Array]]:
            for path in train.paths:
                raster = _read(path, sensor)
                yield raster.dn, raster.valid
                advance(1)

        return count_statistics(pixels(), sensor, encoding=encoding)


def labelled_parts(images: LabelledImages, features: Float[Array, "sample width"]) -> dict[str, LabelledFeatures]:
    """Sort the features of all images into train, val and test, with their labels."""
    targets = images.targets()
    labels = targets.astype(bool) if images.multi_label else targets
    members = {name: np.array([one == name for one in images.splits], dtype=bool) for name in SPLITS}
    return {
        name: LabelledFeatures(features=features[chosen], labels=labels[chosen], classes=images.classes)
        for name, chosen in members.items()
    }


def data_fingerprint(images: LabelledImages) -> str:
    """Hash names, sizes, labels and splits of the images; not their pixels."""
    state = blake2b(digest_size=8)
    for path, labels, split in zip(images.paths, images.labels, images.splits, strict=True):
        size = path.stat().st_size if path.is_file() else 0
        state.update(repr((path.parent.name, path.name, size, labels, split)).encode())
    for entry in (entry for members in images.members for entry in members):
        state.update(repr((entry.name, entry.sensor.name, entry.sensor.band_names, entry.datetime)).encode())
    return state.hexdigest()
