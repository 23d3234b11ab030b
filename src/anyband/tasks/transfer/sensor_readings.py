"""How one network reads each sensor of labelled data, and where the normalisation comes from."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyband.data.harmonise import normalisation_for, to_physical
from anyband.data.histograms import StatisticsAccumulator
from anyband.data.supervised.records import TaskData
from anyband.errors import CatalogueError, InputError
from anyband.progress import progress
from anyband.sensors.sensor import BandStatistics, Sensor
from anyband.shapes import Array, Bool, Int
from anyband.tasks.features import SensorEncoder
from anyband.tasks.readings import BandReading
from anyband.tasks.statistics import read_statistics
from anyband.tasks.transfer.read_ahead import read_ahead
from anyband.tasks.transfer.reading_samples import labelled_pixels

__all__ = ["SensorReadings"]

# Takes the place of statistics that are not counted yet: what is made with it tells bands and ranges, not values.
_UNCOUNTED = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)
_COUNTED = "statistics counted on the training images"


class SensorReadings:
    """The readings of all sensors of labelled data.

    Statistics: None or `checkpoint` are those that the checkpoint was trained with, else the catalogue's; `catalogue`
    are the catalogue's; `data` are counted on the training samples, once, when they are first needed; `published` are
    those that the published evaluation of this data set used; anything else is a chip store or a file.

    Args:
        encoder: whose ranges and normalisations.
        data: with their sensors.
        statistics: which.
    """

    def __init__(self, encoder: SensorEncoder, data: TaskData, statistics: str | None) -> None:
        self.statistics = None if statistics == "checkpoint" else statistics
        self.kinds, self.kind_of = _kinds(data)
        self.sensors = tuple(dict.fromkeys(sensor for kind in self.kinds for sensor in kind))
        self._encoder = encoder
        self._data = data
        self._readings: dict[Sensor, BandReading] = {}

    def of(self, sensor: Sensor) -> BandReading:
        """Tell how images of a sensor are read; equal sensors share one reading.

        Raises:
            AssignmentError: a band can't be expressed by the trained ranges.
            CatalogueError: the source of the statistics lacks a band.
            InputError: nothing is published for these data, or training images have no data to count.
        """
        if not self._readings:
            self.prepare()
        return self._readings[sensor]

    def prepare(self, *, shown: bool = False) -> None:
        """Work out all readings now; see `of`.

        Args:
            shown: show a progress bar where statistics are counted.
        """
        if self._readings:
            return
        if self.statistics == "data":
            # Before the images are read: a band that can't be expressed is an error at once.
            declared = {sensor: self._reading(sensor, _uncounted(sensor), _COUNTED) for sensor in self.sensors}
            counted = self._counted(shown=shown)
            self._readings = {sensor: self._reading(sensor, counted[sensor], _COUNTED) for sensor in declared}
        else:
            self._readings = {sensor: self.declared(sensor) for sensor in self.sensors}

    def declared(self, sensor: Sensor) -> BandReading:
        """Tell how a sensor is read without reading images; statistics that must be counted are left open."""
        if self.statistics == "data":
            return self._reading(sensor, _uncounted(sensor), _COUNTED)
        if self.statistics is None:
            return self._encoder.reading(sensor)
        if self.statistics == "catalogue":
            return self._reading(sensor, _catalogue_statistics(sensor), "statistics of the catalogue")
        if self.statistics == "published":
            return self._reading(sensor, self._published(sensor), f"published statistics of '{self._data.statistics}'")
        source = Path(self.statistics)
        return self._reading(sensor, read_statistics(source, sensor), f"statistics of '{source.name}'")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: statistics, encoding, and every band that is not exactly known."""
        return tuple(dict.fromkeys(note for sensor in self.sensors for note in self.declared(sensor).notes))

    def settings(self) -> dict[str, Any]:
        """Tell what network input depends on beside the images: equal settings of equal data give equal input."""
        declared = [self.declared(sensor) for sensor in self.sensors]
        return {
            "statistics": {one.asked.name: one.statistics_source for one in declared},
            "readings": _digest([_plain(one) for one in declared]),
        }

    def _reading(self, sensor: Sensor, statistics: Mapping[str, BandStatistics], source: str) -> BandReading:
        reading = self._encoder.reading(sensor, statistics=statistics)
        said = f"encoding '{sensor.default_encoding}'; {source}"
        normalisation = replace(reading.normalisation, source=said)
        return replace(reading, statistics_source=source, normalisation=normalisation)

    def _published(self, sensor: Sensor) -> Mapping[str, BandStatistics]:
        # Late: the table is read only where it is asked for.
        from anyband.data.supervised.published_statistics import published_statistics_of

        if self._data.statistics is None:
            raise InputError(
                f"'{self._data.name}' has no published normalisation; use input.statistics=data, which counts it on "
                "the training images, or name a chip store or a file"
            )
        return published_statistics_of(self._data.statistics, sensor)

    def _counted(self, *, shown: bool) -> dict[Sensor, Mapping[str, BandStatistics]]:
        """Count the statistics of every sensor in one pass over the training samples."""
        data = self._data
        train = data.part("train")
        counters = {sensor: StatisticsAccumulator(sensor.band_names) for sensor in self.sensors}
        shared = _shared_places(data)
        with progress("statistics of the training images", len(train), shown=shown) as advance:
            for position, sample in zip(train.tolist(), read_ahead(data.read, train.tolist()), strict=True):
                labelled = labelled_pixels(sample) if data.places and data.places[position] in shared else None
                for image in sample.images:
                    decoding = normalisation_for(image.sensor, statistics=_uncounted(image.sensor))
                    physical = to_physical(torch.from_numpy(image.dn)[None], decoding).numpy()[0]
                    valid = image.valid if labelled is None else image.valid & _as_large(labelled, image.dn.shape[1:])
                    counters[image.sensor].add(physical, valid)
                advance(1)
        unseen = next((one.name for one in counters if one not in self._training_sensors()), None)
        if unseen is not None:
            raise InputError(
                f"'{data.name}' has no training image of sensor '{unseen}', so input.statistics=data can't count its "
                "statistics; leave it out for the checkpoint's or the catalogue's, or name a chip store or a file"
            )
        return {sensor: counter.result() for sensor, counter in counters.items()}

    def _training_sensors(self) -> set[Sensor]:
        return {sensor for kind in set(self.kind_of[self._data.part("train")].tolist()) for sensor in self.kinds[kind]}


def _kinds(data: TaskData) -> tuple[list[tuple[Sensor, ...]], Int[Array, " sample"]]:
    """List the choices of sensors that samples have, and tell which each has."""
    numbers: dict[tuple[Sensor, ...], int] = {}
    # Most samples share their records, and comparing hundreds of bands takes a while.
    seen: dict[tuple[int, ...], int] = {}
    found = np.empty(len(data), dtype=np.int64)
    for position, sensors in enumerate(data.sensors):
        same = tuple(map(id, sensors))
        if same not in seen:
            seen[same] = numbers.setdefault(sensors, len(numbers))
        found[position] = seen[same]
    return list(numbers), found


def _uncounted(sensor: Sensor) -> dict[str, BandStatistics]:
    return dict.fromkeys(sensor.band_names, _UNCOUNTED)


def _catalogue_statistics(sensor: Sensor) -> dict[str, BandStatistics]:
    missing = [band.name for band in sensor.bands if band.statistics is None]
    if missing:
        raise CatalogueError(
            f"the catalogue has no statistics of band '{missing[0]}' of '{sensor.name}' ({len(missing)} missing); use "
            "input.statistics=data, which counts them on the training images, or name a chip store or a file"
        )
    return {band.name: band.statistics for band in sensor.bands if band.statistics is not None}


def _shared_places(data: TaskData) -> set[str]:
    """Find the places that training shares with other parts: there, only labelled ground belongs to training."""
    parts: dict[str, set[str]] = {}
    for place, part in zip(data.places, data.splits, strict=False):
        parts.setdefault(place, set()).add(part)
    return {place for place, found in parts.items() if "train" in found and len(found) > 1}


def _as_large(labelled: Bool[Array, "row col"], shape: tuple[int, ...]) -> Bool[Array, "row2 col2"]:
    """Bring what is labelled to the pixels of another image of the same ground; the nearest decides."""
    rows, cols = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shape, labelled.shape, strict=True))
    return np.asarray(labelled[rows[:, None], cols[None, :]])


def _plain(reading: BandReading) -> dict[str, Any]:
    return {
        "bands": reading.asked.band_names,
        "kept": reading.assignment.kept_index,
        "mixing": reading.assignment.mixing.tolist(),
        "normalisation": reading.normalisation.to_dict(),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
