"""Labelled sets of images as network input: read, harmonised, resized to one size, with what is known of each."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from anyband.data.labelled import LabelledImages
from anyband.data.manifest import ImageEntry
from anyband.data.tiles import Grid
from anyband.errors import RasterError
from anyband.models.inputs import SetBatch
from anyband.progress import progress
from anyband.shapes import Array, Float
from anyband.tasks.feature_records import ImageMetadata
from anyband.tasks.features import SensorEncoder
from anyband.tasks.image_metadata import CheckedFacts, check_one_footprint, checked_facts, network_metadata
from anyband.tasks.memory import check_memory
from anyband.tasks.readings import BandReading, entry_sensor, standardised_batch
from anyband.tasks.set_features import SetItem, joined_sets
from anyband.tasks.set_statistics import SetStatistics

__all__ = ["LabelledSetBatch", "SetReader", "set_batches"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledSetBatch:
    """Some labelled sets of equally many images."""

    members: list[int]
    """Positions of the sets among all."""
    items: list[list[SetItem]]
    """Images of each set."""
    batch: SetBatch
    """The same as network input."""


class SetReader:
    """Reads images of lists as one network takes them."""

    def __init__(
        self, encoder: SensorEncoder, *, img_size: int, statistics: SetStatistics | None, metadata: bool
    ) -> None:
        """Take what all images share.

        Args:
            encoder: the network.
            img_size: side to which images are resized, whole.
            statistics: by sensor; None: the checkpoint's, else the catalogue's.
            metadata: whether what is known of the images is told.
        """
        self._encoder = encoder
        self._img_size = img_size
        self._statistics: SetStatistics = statistics or {}
        self._metadata = metadata
        # Images of one reading are projected together, so equal ones must be one.
        self._readings: dict[object, BandReading] = {}

    def reading(self, entry: ImageEntry) -> BandReading:
        """Work out how an image of a list is read; equal images share one reading.

        Raises:
            AssignmentError: a band can't be expressed by the trained ranges.
            CatalogueError: no source has statistics for all bands.
        """
        key = (entry.sensor.name, entry.encoding)
        if key not in self._readings:
            sensor = entry_sensor(entry)
            self._readings[key] = self._encoder.reading(sensor, statistics=self._statistics.get(sensor.name))
        return self._readings[key]

    def batch(self, members: list[int], sets: Sequence[Sequence[ImageEntry]]) -> LabelledSetBatch:
        """Read sets of equally many images.

        Args:
            members: positions of the sets among all.
            sets: the images of each.

        Raises:
            RasterError: an image can't be read, or has no data.
            GeometryError: images of a set show different ground.
            InputError: a date lies in the future, or a set is more than memory holds.
        """
        num_tokens = (self._img_size // self._encoder.config.patch_size) ** 2
        check_memory(self._encoder.encoder, num_sets=len(sets), num_images=len(sets[0]), num_tokens=num_tokens)
        read = [[self._read(entry) for entry in entries] for entries in sets]
        for entries, images in zip(sets, read, strict=True):
            check_one_footprint([facts for _, facts, _ in images], [f"'{entry.name}'" for entry in entries])
        metadata = None
        if self._metadata:
            input_gsd_m = np.array([[gsd_m for _, _, gsd_m in images] for images in read])
            metadata = network_metadata([[facts for _, facts, _ in images] for images in read], input_gsd_m)
        items = [[item for item, _, _ in images] for images in read]
        return LabelledSetBatch(members=members, items=items, batch=joined_sets(items, metadata))

    def _read(self, entry: ImageEntry) -> tuple[SetItem, CheckedFacts, float]:
        # Late: features of chip stores need no raster library.
        from anyband.data.rasters.reader import open_raster

        with open_raster(entry.source, entry.sensor) as reader:
            raster, time = reader.read(), entry.datetime or reader.datetime
        said = ImageMetadata(gsd_m=raster.grid.gsd_m if raster.grid.crs else None, datetime=time)
        facts = replace(checked_facts(said, name=f"'{entry.name}'"), corners_deg=_corners_deg(raster.grid))
        dn, valid = torch.from_numpy(raster.dn)[None], torch.from_numpy(raster.valid)[None]
        reading = self.reading(entry)
        image = standardised_batch(dn, reading, valid=valid, img_size=self._img_size)
        if image.valid is not None and not bool(image.valid.any()):
            raise RasterError(f"'{entry.name}' has no pixel with data; leave it out, or check its nodata value")
        input_gsd_m = facts.gsd_m * math.sqrt(raster.grid.height * raster.grid.width) / self._img_size
        return SetItem(reading=reading, image=image), facts, input_gsd_m


def set_batches(
    images: LabelledImages, reader: SetReader, *, batch_size: int, shown: bool = False
) -> Iterator[LabelledSetBatch]:
    """Read labelled sets in batches of equally many images each; small sets come first.

    Args:
        images: with sets.
        reader: of their images.
        batch_size: images in a batch, but one set at least.
        shown: show a progress bar.
    """
    with progress("read and encode sets", len(images), shown=shown) as advance:
        for num_images in sorted({len(entries) for entries in images.members}):
            alike = [number for number, entries in enumerate(images.members) if len(entries) == num_images]
            step = max(1, batch_size // num_images)
            for first in range(0, len(alike), step):
                members = alike[first : first + step]
                yield reader.batch(members, [images.members[number] for number in members])
                advance(len(members))


def _corners_deg(grid: Grid) -> Float[Array, "4 2"]:
    from anyband.data.places import corners_lonlat

    if grid.crs is None:
        return np.full((4, 2), np.nan)
    return np.array(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs))
