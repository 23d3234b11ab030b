"""Network input of every sensor of labelled data."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.harmonise import decode
from anyband.data.statistics import StatisticsAccumulator
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec, joined_batches
from anyband.encode.metadata import CheckedMetadata
from anyband.encode.statistics import read_statistics
from anyband.errors import CatalogueError, InputError
from anyband.evaluate.recipe import TransferRecipe
from anyband.evaluate.samples import (
    Boxes,
    InputRules,
    Member,
    TaskBatch,
    TrainingDraw,
    box_grid,
    centre_boxes,
    cover,
    drawn_boxes,
    facts_of,
    label_maps,
    labelled_pixels,
    native_map,
    placed_images,
    read_ahead,
    sample_metadata,
    standardised_images,
    whole_boxes,
    window_box,
)
from anyband.labelled.samples import Sample, TaskData
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import Window
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = ["SensorReadings", "TaskReader"]

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
        self._readings: dict[Sensor, InputSpec] = {}

    def of(self, sensor: Sensor) -> InputSpec:
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

    def declared(self, sensor: Sensor) -> InputSpec:
        """Tell how a sensor is read without reading images; statistics that must be counted are left open."""
        if self.statistics == "data":
            return self._reading(sensor, _uncounted(sensor), _COUNTED)
        if self.statistics is None:
            return self._encoder.input_spec(sensor)
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
            "statistics": {one.sensor.name: one.statistics_source for one in declared},
            "readings": _digest([_plain(one) for one in declared]),
        }

    def _reading(self, sensor: Sensor, statistics: Mapping[str, BandStatistics], source: str) -> InputSpec:
        reading = self._encoder.input_spec(sensor, statistics=statistics)
        said = f"encoding '{sensor.default_encoding}'; {source}"
        normalisation = replace(reading.normalisation, source=said)
        return replace(reading, statistics_source=source, normalisation=normalisation)

    def _published(self, sensor: Sensor) -> Mapping[str, BandStatistics]:
        # Late: the table is read only where it is asked for.
        from anyband.labelled.published.statistics import published_statistics_of

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
                    valid = image.valid if labelled is None else image.valid & _as_large(labelled, image.dn.shape[1:])
                    counters[image.sensor].add(decode(image.dn, image.sensor), valid)
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


def _plain(reading: InputSpec) -> dict[str, Any]:
    return {
        "bands": reading.sensor.band_names,
        "kept": reading.assignment.kept_index,
        "mixing": reading.assignment.mixing.tolist(),
        "normalisation": reading.normalisation.to_dict(),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class TaskReader:
    """Reads samples as one network takes them.

    A batch holds samples of one kind: the same sensors in the same slots. Images are normalised in their own pixels,
    then reduced (`scale`), then brought to the network's size; what is not valid stays so.

    Args:
        encoder: whose ranges, normalisations and size. Its weights don't matter.
        data: the samples.
        recipe: how images become input, and how training varies them.

    Raises:
        InputError: a size that doesn't fit the network, or a way of resizing that doesn't fit maps.
    """

    def __init__(self, encoder: SensorEncoder, data: TaskData, recipe: TransferRecipe) -> None:
        config = encoder.config
        self.data = data
        self.recipe = recipe
        self.img_size = recipe.input.img_size or config.img_size
        if self.img_size % config.patch_size:
            raise InputError(f"img_size {self.img_size} is not a multiple of the patch size {config.patch_size}")
        if data.is_dense and recipe.input.resize == "short_side":
            raise InputError(
                "input.resize=short_side leaves out the edges of images, and maps need all of them; use whole or native"
            )
        self._encoder = encoder
        self._readings = SensorReadings(encoder, data, recipe.input.statistics)
        self._rules = InputRules(
            img_size=self.img_size,
            resize=recipe.input.resize,
            interpolation=recipe.input.interpolation,
            needs_data=not data.is_dense,
        )
        self._told = recipe.input.metadata and config.encodings.any
        self._last: tuple[int, Sample] | None = None
        self._compared: set[int] = set()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how images are read."""
        several = max(len(sensors) for sensors in self.data.sensors) > 1
        joint = several and self.recipe.fusion == "joint"
        return (*self._readings.notes, *(self._encoder.set_notes if joint else ()))

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches."""
        return sum(len(_sliced(len(one), self.recipe.fit.batch_size)) for one in self._kinds(self.data.part("train")))

    def settings(self) -> dict[str, Any]:
        """Tell all that features depend on beside the weights, the images and their fusion; reads no image."""
        return {
            "img_size": self.img_size,
            "resize": self.recipe.input.resize,
            "interpolation": self.recipe.input.interpolation,
            "metadata": self._told,
            **self._readings.settings(),
        }

    def batches(
        self,
        samples: Sequence[int] | Int[Array, " sample"],
        *,
        scale: float = 1.0,
        targets: bool = False,
        shown: bool = False,
    ) -> Iterator[TaskBatch]:
        """Give samples as they are, in batches of `input.batch_size`; those of one kind come together.

        With `native`, the window in the middle of each sample is given; see `windows` for all of it.

        Args:
            samples: positions in the data; `TaskBatch.samples` tells which a batch holds.
            scale: share of their size to which images are reduced first.
            targets: whether the targets come too.
            shown: show a progress bar.

        Raises:
            InputError: what is wrong with a sample; it is named.
            GeometryError: images of a sample show different ground.
        """
        self._readings.prepare(shown=shown)
        rules = replace(self._rules, scale=scale)
        boxes = centre_boxes(self.img_size) if rules.resize == "native" else whole_boxes
        plans = [
            [kind[place] for place in part]
            for kind in self._kinds(np.asarray(samples, dtype=np.int64))
            for part in _parts(len(kind), self.recipe.input.batch_size)
        ]
        with progress("read and encode samples", len(samples), shown=shown) as advance:
            for batch in read_ahead(lambda plan: self._batch(plan, rules, boxes, targets=targets), plans):
                yield batch
                advance(len(batch))

    def training_batches(self, epoch: int) -> Iterator[TaskBatch]:
        """Give the training samples shuffled and varied, with targets; equal epochs give equal batches.

        With `native`, each sample gives one window an epoch, with a label in it wherever the sample has one. With
        `short_side` and crops, crops are of the whole image.

        Args:
            epoch: from 0; order and variation follow from it.

        Raises:
            InputError: what is wrong with a sample; it is named.
            GeometryError: images of a sample show different ground.
        """
        self._readings.prepare()
        recipe = self.recipe
        draw = TrainingDraw(
            augment=recipe.fit.augment,
            seed=recipe.seed,
            epoch=epoch,
            img_size=self.img_size,
            native=recipe.input.resize == "native",
        )
        rules = replace(self._rules, resize="whole") if draw.crops and not draw.native else self._rules
        boxes = drawn_boxes(draw)
        plans = self.training_order(epoch)
        yield from read_ahead(lambda plan: self._batch(plan, rules, boxes, targets=True), plans)

    def training_order(self, epoch: int) -> list[list[int]]:
        """List the training samples of each batch of an epoch, in order; reads no image."""
        recipe, train = self.recipe, self.data.part("train")
        order = permutation(recipe.seed, step=epoch, purpose="order of the training samples", size=len(train))
        plans = [
            [kind[place] for place in part]
            for kind in self._kinds(train[order])
            for part in _sliced(len(kind), recipe.fit.batch_size)
        ]
        turns = permutation(recipe.seed, step=epoch, purpose="order of the training batches", size=len(plans))
        return [plans[turn] for turn in turns]

    def windows(
        self, sample: int, *, needed: Callable[[Window], bool] | None = None
    ) -> Iterator[tuple[TaskBatch, Window]]:
        """Give all of a sample, window by window: with `native` overlapping ones, else one, the whole.

        Args:
            sample: position in the data.
            needed: which windows to give; None: all.

        Returns:
            Each window as network input without targets, and which pixels of the first image it shows; see
            `to_window`.
        """
        self._readings.prepare()
        member = self._member(sample)
        height, width = member.shapes[0][1:]
        if self._rules.resize != "native":
            yield (
                self._joined([member], self._rules, whole_boxes, targets=False),
                Window(row=0, col=0, height=height, width=width),
            )
            return
        images = self._standardised([member], self._rules)
        for window in cover(height, width, self.img_size):
            if needed is None or needed(window):
                box = window_box(window, self.img_size)
                yield self._placed([member], images, self._rules, box, targets=False), window

    def to_window(
        self, maps: Float[Tensor, "sample channel row col"], window: Window
    ) -> Float[Tensor, "sample channel rows cols"]:
        """Bring maps of the network's input to the pixels of a window: resized where images were, else cut.

        Args:
            maps: of the input's size.
            window: as `windows` gives it.
        """
        if self._rules.resize == "native":
            return maps[:, :, : window.height, : window.width]
        return functional.interpolate(maps, size=(window.height, window.width), mode="bilinear", align_corners=False)

    def target(self, sample: int) -> Num[Array, "row col"]:
        """Give the map of a sample in the pixels of its first image: classes as int64 with −1, or numbers with NaN.

        Args:
            sample: position in the data.

        Raises:
            InputError: the sample has no map, or a wrong one.
        """
        return native_map(self._member(sample), num_classes=self._num_classes)

    def input_spec(self, sensor: Sensor) -> InputSpec:
        """Tell how images of one of the data's sensors are read; `data` statistics are counted now."""
        return self._readings.of(sensor)

    def sample(self, position: int) -> Sample:
        """Read a sample as it is stored; the one that was read last is at hand."""
        last = self._last
        if last is None or last[0] != position:
            last = self._last = (position, self.data.read(position))
        return last[1]

    @property
    def _num_classes(self) -> int:
        return len(self.data.classes) if self.data.kind == "class_map" else 0

    def _kinds(self, samples: Int[Array, " sample"]) -> list[list[int]]:
        """Sort samples by their sensors, kinds and samples in the order given."""
        kinds: dict[int, list[int]] = {}
        for sample, kind in zip(samples.tolist(), self._readings.kind_of[samples].tolist(), strict=True):
            kinds.setdefault(kind, []).append(sample)
        return list(kinds.values())

    def _member(self, position: int) -> Member:
        return self._checked(position, self.sample(position))

    def _checked(self, position: int, sample: Sample) -> Member:
        name, declared = self.data.names[position], self.data.sensors[position]
        found = tuple(image.sensor.name for image in sample.images)
        if found != tuple(sensor.name for sensor in declared):
            said = ", ".join(sensor.name for sensor in declared)
            raise InputError(f"'{name}' was declared with images of {said}, and has {', '.join(found) or 'none'}")
        return Member(position=position, name=name, sample=sample)

    def _batch(self, plan: Sequence[int], rules: InputRules, boxes: Boxes, *, targets: bool) -> TaskBatch:
        members = [self._checked(position, self.data.read(position)) for position in plan]
        return self._joined(members, rules, boxes, targets=targets)

    def _joined(self, members: Sequence[Member], rules: InputRules, boxes: Boxes, *, targets: bool) -> TaskBatch:
        """Make one batch of samples of one kind; those of equal shapes are worked on together."""
        groups: dict[object, list[int]] = {}
        for place, member in enumerate(members):
            groups.setdefault(member.shapes, []).append(place)
        parts = [self._part([members[place] for place in places], rules, boxes, targets) for places in groups.values()]
        order = np.argsort(np.concatenate([np.array(places) for places in groups.values()]))
        return _in_order(parts, torch.from_numpy(order))

    def _part(self, members: Sequence[Member], rules: InputRules, boxes: Boxes, targets: bool) -> TaskBatch:
        return self._placed(members, self._standardised(members, rules), rules, boxes, targets=targets)

    def _standardised(self, members: Sequence[Member], rules: InputRules) -> list[ImageBatch]:
        sensors = self.data.sensors[members[0].position]
        return [
            standardised_images(members, slot, self._readings.of(sensor), rules) for slot, sensor in enumerate(sensors)
        ]

    def _placed(
        self,
        members: Sequence[Member],
        images: Sequence[ImageBatch],
        rules: InputRules,
        boxes: Boxes,
        *,
        targets: bool,
    ) -> TaskBatch:
        placed = boxes(members, box_grid(members[0].shapes, rules))
        sensors = self.data.sensors[members[0].position]
        facts = self._facts(members)
        return TaskBatch(
            images=tuple(placed_images(image, rules, placed) for image in images),
            sensors=tuple(sensor.name for sensor in sensors),
            samples=np.array([member.position for member in members], dtype=np.int64),
            metadata=sample_metadata(members, facts, rules, placed) if self._told else None,
            targets=self._targets(members, rules, placed) if targets else None,
        )

    def _facts(self, members: Sequence[Member]) -> list[list[CheckedMetadata]]:
        """Take what is known of images where the network is told, or their footprints are not compared yet."""
        positions = {member.position for member in members}
        alone = len(members[0].sample.images) == 1
        if not self._told and (alone or positions <= self._compared):
            return []
        facts = [facts_of(member) for member in members]
        self._compared |= positions
        return facts

    def _targets(self, members: Sequence[Member], rules: InputRules, boxes: Any) -> Num[Tensor, "sample ..."]:
        if self.data.is_dense:
            return label_maps(members, rules, boxes, num_classes=self._num_classes)
        if self.data.targets is None:
            raise InputError(f"'{self.data.name}' has no targets")
        found = torch.from_numpy(self.data.targets[[member.position for member in members]])
        return found.long() if self.data.kind == "class" else found.float()


def _parts(count: int, size: int) -> list[range]:
    return [range(first, min(first + size, count)) for first in range(0, count, size)]


def _sliced(count: int, size: int) -> list[range]:
    """Share samples among batches; a single one left over joins the batch before, because some layers need two."""
    parts = _parts(count, size)
    if len(parts) > 1 and len(parts[-1]) == 1 and size > 1:
        parts[-2:] = [range(parts[-2].start, count)]
    return parts


def _in_order(parts: Sequence[TaskBatch], order: Int[Tensor, " sample"]) -> TaskBatch:
    """Join parts of a batch, the samples in the order wanted."""
    if len(parts) == 1:
        return parts[0]
    images = [joined_batches([part.images[slot] for part in parts]) for slot in range(len(parts[0].images))]
    targets = [part.targets for part in parts if part.targets is not None]
    return TaskBatch(
        images=tuple(_image_in_order(image, order) for image in images),
        sensors=parts[0].sensors,
        samples=np.concatenate([part.samples for part in parts])[order.numpy()],
        metadata=_metadata_in_order([part.metadata for part in parts if part.metadata is not None], order),
        targets=torch.cat(targets)[order] if targets else None,
    )


def _image_in_order(image: ImageBatch, order: Tensor) -> ImageBatch:
    return replace(image, pixels=image.pixels[order], valid=None if image.valid is None else image.valid[order])


def _metadata_in_order(parts: Sequence[SetMetadata], order: Tensor) -> SetMetadata | None:
    if not parts:
        return None
    return SetMetadata(**{name: torch.cat([getattr(part, name) for part in parts])[order] for name in vars(parts[0])})
