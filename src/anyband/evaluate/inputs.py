"""Labelled samples as network input: the one way from a sample to a batch, for vectors and for maps."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyband.arrays import Array, Bool, Int, Num
from anyband.data.harmonise import StatisticsAccumulator, decode
from anyband.data.resample import apply_to_map, coarser_grid, whole_footprint
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec, joined_batches, read_statistics
from anyband.encode.metadata import ImageMetadata, check_one_footprint
from anyband.errors import CatalogueError, InputError
from anyband.evaluate.recipe import Resize, TransferRecipe
from anyband.evaluate.samples import (
    Boxes,
    Samples,
    TaskBatch,
    cover,
    drawn_boxes,
    labelled_pixels,
    metadata_of,
    network_metadata,
    padded,
    placed_image,
    reduced,
    window_boxes,
)
from anyband.labelled.samples import Sample, TaskData
from anyband.models.encodings import NO_ENCODINGS
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.progress import progress
from anyband.randomness import permutation
from anyband.rasters.grid import Window
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = ["TaskReader"]


# chosen: decoding files keeps two threads busy beside the one that encodes, and a batch may fill much memory.
_WORKERS = 2


class TaskReader:
    """Reads samples as one network takes them; of the encoder, weights don't matter.
    A batch holds samples of one kind: the same sensors in the same slots. Images are normalised in their own pixels,
    then reduced (`scale`), then brought to the network's size; what is not valid stays so.
    A size that doesn't fit the network, or a way of resizing that doesn't fit maps, is an `InputError`.

    Statistics: None or `checkpoint` are those that the checkpoint was trained with, else the catalogue's; `catalogue`
    are the catalogue's; `data` are counted on the training samples, once, when they are first needed; `published` are
    those that the published evaluation of this data set used, of pictures that it made by mean and deviation of each
    band with these counted so; anything else is a chip store or a file.
    """

    def __init__(self, encoder: SensorEncoder, data: TaskData, recipe: TransferRecipe) -> None:
        config = encoder.config
        self.data = data
        self.recipe = recipe
        self.img_size = recipe.input.img_size or config.img_size
        if self.img_size % config.patch_size:
            raise InputError(f"img_size {self.img_size} is not a multiple of the patch size {config.patch_size}")
        if data.targets is None and recipe.input.resize == "short_side":
            raise InputError(
                "input.resize=short_side leaves out the edges of images, and maps need all of them; use whole or native"
            )
        self._encoder = encoder
        # Most samples share their records, and comparing hundreds of bands takes a while.
        shared = {tuple(map(id, sensors)): sensors for sensors in data.sensors}
        kinds: dict[tuple[Sensor, ...], int] = {}
        kind_of = {ids: kinds.setdefault(sensors, len(kinds)) for ids, sensors in shared.items()}
        self._kind_of = [kind_of[tuple(map(id, sensors))] for sensors in data.sensors]
        self._sensors = tuple(dict.fromkeys(sensor for kind in kinds for sensor in kind))
        self._counted: dict[Sensor, InputSpec] = {}
        self._is_told = recipe.input.metadata and config.encodings != NO_ENCODINGS
        self._last: tuple[int, Sample] | None = None
        self._compared: set[int] = set()
        # What is said of values that cannot be, by its kind: of all images in the words of the first.
        self._words: dict[str, str] = {}
        self.same_features: dict[str, None] = {}
        """What is said of features that are all equal."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: features that are all equal, statistics, encoding, every band that is not exactly
        known, and sets of pairs."""
        found = dict.fromkeys([self.inference_mode, *(note for spec in self._declared.values() for note in spec.notes)])
        joint = max(len(sensors) for sensors in self.data.sensors) > 1 and self.recipe.fusion == "joint"
        unused = ["the fitted head in the checkpoint's file is not used; --eval-only scores it"]
        unused = unused if self._encoder.checkpoint.head and not self.recipe.eval_only else []
        return (*self.same_features, *found, *(self._encoder.set_notes if joint else ()), *unused)

    @property
    def inference_mode(self) -> str:
        """Name the mode of SMARTIES (section 3.4): whether sensors and data set were seen in pre-training. Checkpoints
        do not say which data they saw, but for the published ones, whose training sensors their ranges know."""
        checkpoint, used = self._encoder.checkpoint, {sensor.name for sensor in self._declared}
        learned = (checkpoint.ranges.ranges[layer] for layer in checkpoint.ranges.learned)
        seen = set(checkpoint.sensors) or {name for entry in learned for name, _ in entry.known}
        if unseen := sorted(used - seen):
            verb = "was" if len(unseen) == 1 else "were"
            return f"inference mode: open-domain, unseen sensor ({', '.join(unseen)} {verb} not in pre-training)"
        if checkpoint.recipe is not None or checkpoint.sensors:
            return "inference mode: seen sensor; whether this data set was in pre-training the checkpoint does not say"
        is_known = self.data.name.casefold().startswith(_PUBLISHED_TRAINING)
        return f"inference mode: {'in-domain' if is_known else 'open-domain'}, seen sensor"

    def settings(self) -> dict[str, Any]:
        """Tell all that features depend on beside the weights, the images and their fusion; reads no image."""
        declared = self._declared.values()
        plain = [
            {
                "bands": spec.sensor.band_names,
                "kept": spec.assignment.kept_index,
                "mixing": spec.assignment.mixing.tolist(),
                "normalisation": spec.normalisation.to_dict(),
            }
            for spec in declared
        ]
        return {
            "img_size": self.img_size,
            "resize": self.recipe.input.resize,
            "interpolation": self.recipe.input.interpolation,
            "kernel": self.recipe.input.kernel,
            "reduction": self.recipe.input.reduction,
            "metadata": self._is_told,
            "statistics": {spec.sensor.name: spec.statistics_source for spec in declared},
            "readings": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16],
        }

    def input_spec(self, sensor: Sensor, *, shown: bool = False) -> InputSpec:
        """Tell how images of one of the data's sensors become input; `data` statistics are counted now.
        A band that the trained ranges can't express is an `AssignmentError`, one without statistics a `CatalogueError`.
        """
        if not self._is_counted:
            return self._declared[sensor]
        if not self._counted:
            # Before the images are read: a band that can't be expressed is an error at once.
            declared = self._declared
            counters = _counted_statistics(self.data, list(declared), shown=shown)
            counted = {one: self._statistics_of(one, counter) for one, counter in counters.items()}
            self._counted = {
                one: _spec_of(self._encoder, one, counted[one], spec.statistics_source)
                for one, spec in declared.items()
            }
        return self._counted[sensor]

    @cached_property
    def _source(self) -> str | None:
        """What the recipe names; where it names nothing, what is published for these data, if it is for their bands."""
        name = self.data.statistics
        if self.recipe.input.statistics is not None or name is None:
            return self.recipe.input.statistics
        # Late: the table is read only where it is asked for.
        from anyband.labelled.published import are_of_pictures, published_statistics_of

        try:
            for sensor in self._sensors:
                known = dict.fromkeys(sensor.band_names, (0.0, 1.0)) if are_of_pictures(name) else None
                published_statistics_of(name, sensor, moments=known)
        except CatalogueError:
            return None
        return "published"

    @cached_property
    def _is_counted(self) -> bool:
        source, name = self._source, self.data.statistics
        if source != "published" or name is None:
            return source == "data"
        from anyband.labelled.published import are_of_pictures

        return are_of_pictures(name)

    def _statistics_of(self, sensor: Sensor, counter: StatisticsAccumulator) -> Mapping[str, BandStatistics]:
        if self._source == "data":
            return counter.result()
        from anyband.labelled.published import published_statistics_of

        return published_statistics_of(str(self.data.statistics), sensor, moments=counter.moments())

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
        """
        self.input_spec(self.data.sensors[0][0], shown=shown)
        resize = self.recipe.input.resize
        boxes = window_boxes(self.img_size) if resize == "native" else None
        plans = self._plans(samples, self.recipe.input.batch_size)
        with progress("read and encode samples", len(samples), shown=shown) as advance:
            for batch in _read_ahead(lambda plan: self._batch(plan, boxes, resize, scale, targets=targets), plans):
                yield batch
                advance(len(batch.samples))

    def training_batches(self, epoch: int) -> Iterator[TaskBatch]:
        """Give the training samples shuffled and varied, with targets; equal epochs (from 0) give equal batches.
        With `native`, each sample gives one window an epoch, with a label in it wherever the sample has one. With
        `short_side` and crops, crops are of the whole image.
        """
        self.input_spec(self.data.sensors[0][0])
        resize, augment = self.recipe.input.resize, self.recipe.fit.augment
        native = resize == "native"
        if augment.crop_area != (1.0, 1.0) and not native:
            resize = "whole"
        boxes = drawn_boxes(augment, seed=self.recipe.seed, epoch=epoch, img_size=self.img_size, native=native)
        order = self.training_order(epoch)
        yield from _read_ahead(lambda plan: self._batch(plan, boxes, resize, targets=True), order)

    def training_order(self, epoch: int) -> list[list[int]]:
        """List the training samples of each batch of an epoch, in order; reads no image."""
        seed, train = self.recipe.seed, self.data.split("train")
        order = permutation(seed, step=epoch, purpose="order of the training samples", size=len(train))
        plans = self._plans(train[order], self.recipe.fit.batch_size, merged=True)
        turns = permutation(seed, step=epoch, purpose="order of the training batches", size=len(plans))
        return [plans[turn] for turn in turns]

    def windows(
        self, sample: int, *, needed: Callable[[Window], bool] | None = None
    ) -> Iterator[tuple[TaskBatch, Window]]:
        """Give all of a sample without targets: with `native` in overlapping windows that are `needed`, else whole.
        With each comes the window of the first image that it shows; a smaller image fills the first rows and columns.
        """
        self.input_spec(self.data.sensors[0][0])
        group, resize = [(sample, self.sample(sample))], self.recipe.input.resize
        height, width = group[0][1].images[0].dn.shape[1:]
        if resize != "native":
            yield self._batch([sample], None, resize), Window(row=0, col=0, height=height, width=width)
            return
        images = self._standardised(group)
        for window in cover(height, width, self.img_size):
            if needed is None or needed(window):
                yield self._placed(group, images, window_boxes(self.img_size, window), resize), window

    def target(self, position: int, sample: Sample | None = None) -> Num[Array, "row col"]:
        """Give the map of a sample, which may be at hand, in the pixels of its first image.
        Classes are int64 with −1, numbers float32 with NaN, where there is no label.
        """
        sample, name = sample or self.sample(position), self.data.names[position]
        num_classes = len(self.data.classes) if self.data.kind == "class_map" else 0
        found = sample.class_map if num_classes else sample.number_map
        shape = sample.images[0].dn.shape[1:]
        if found is None:
            raise InputError(f"'{name}' has no map of {'classes' if num_classes else 'numbers'}")
        if found.shape != shape:
            raise InputError(
                f"'{name}': its labels have {found.shape[0]} × {found.shape[1]} pixels, its first image "
                f"{shape[0]} × {shape[1]}; bring both to one grid"
            )
        if not num_classes:
            return found.astype(np.float32)
        wrong = found[(found < -1) | (found >= num_classes)]
        if wrong.size:
            raise InputError(
                f"'{name}' has class {int(wrong[0])} at {wrong.size} pixels; classes are 0 to {num_classes - 1}, "
                "and -1 where there is none"
            )
        return found.astype(np.int64)

    def sample(self, position: int) -> Sample:
        """Read a sample as it is stored, with the images that were declared; the one that was read last is at hand."""
        last = self._last
        if last is not None and last[0] == position:
            return last[1]
        sample = self.data.read(position)
        found = [image.sensor.name for image in sample.images]
        declared = [sensor.name for sensor in self.data.sensors[position]]
        if found != declared:
            raise InputError(
                f"'{self.data.names[position]}' was declared with images of {', '.join(declared)}, and has "
                f"{', '.join(found) or 'none'}"
            )
        self._last = (position, sample)
        return sample

    @cached_property
    def _declared(self) -> dict[Sensor, InputSpec]:
        """Tell how each sensor becomes input without reading images; statistics that must be counted are left open."""
        encoder, data, source = self._encoder, self.data, self._source
        if source in (None, "checkpoint"):
            return {sensor: encoder.input_spec(sensor) for sensor in self._sensors}
        if source == "published" and data.statistics is None:
            raise InputError(
                f"'{data.name}' has no published normalisation; use input.statistics=data, which counts it on "
                "the training images, or name a chip store or a file"
            )
        found = {}
        for sensor in self._sensors:
            if source == "data":
                statistics, title = dict.fromkeys(sensor.band_names, _UNCOUNTED), _COUNTED
            elif source == "catalogue":
                statistics, title = _catalogue_statistics(sensor), "statistics of the catalogue"
            elif source == "published":
                # Late: the table is read only where it is asked for.
                from anyband.labelled.published import published_statistics_of

                title = f"published statistics of '{data.statistics}'"
                if self._is_counted:
                    title += " for pictures, made by mean and deviation of the training images"
                known = dict.fromkeys(sensor.band_names, (0.0, 1.0)) if self._is_counted else None
                statistics = published_statistics_of(str(data.statistics), sensor, moments=known)
            else:
                path = Path(str(source))
                statistics, title = read_statistics(path, sensor), f"statistics of '{path.name}'"
            found[sensor] = _spec_of(encoder, sensor, statistics, title)
        return found

    def _plans(
        self, samples: Sequence[int] | Int[Array, " sample"], size: int, *, merged: bool = False
    ) -> list[list[int]]:
        """Share samples among batches, each of one kind, kinds and samples in the order given.
        Merged, a single one left over joins the batch before: some layers need two.
        """
        kinds: dict[int, list[int]] = {}
        for sample in samples:
            kinds.setdefault(self._kind_of[sample], []).append(int(sample))
        plans = []
        for kind in kinds.values():
            firsts = list(range(0, len(kind), size))
            if merged and len(firsts) > 1 and len(kind) % size == 1:
                firsts.pop()
            plans += [kind[first:end] for first, end in pairwise([*firsts, len(kind)])]
        return plans

    def _batch(
        self, positions: list[int], boxes: Boxes | None, resize: Resize, scale: float = 1.0, *, targets: bool = False
    ) -> TaskBatch:
        """Make one batch of samples of one kind; those of equal shapes are worked on together."""
        samples = [(position, self.sample(position)) for position in positions]
        groups: dict[object, list[int]] = {}
        for place, (_, sample) in enumerate(samples):
            groups.setdefault(tuple(image.dn.shape for image in sample.images), []).append(place)
        parts = []
        for places in groups.values():
            group = [samples[place] for place in places]
            parts.append(self._placed(group, self._standardised(group, scale), boxes, resize, targets=targets))
        if len(parts) == 1:
            return parts[0]
        return _in_order(parts, torch.from_numpy(np.argsort([place for places in groups.values() for place in places])))

    def _standardised(self, group: Samples, scale: float = 1.0) -> list[ImageBatch]:
        """Normalise the images of samples of one kind and shape, slot by slot, in their own pixels or those of a share
        of their size."""
        batches = []
        for slot, sensor in enumerate(self.data.sensors[group[0][0]]):
            dn = torch.from_numpy(np.stack([sample.images[slot].dn for _, sample in group]))
            valid = torch.from_numpy(np.stack([sample.images[slot].valid for _, sample in group]))
            try:
                grids = [sample.images[slot].grid for _, sample in group]
                is_picture = all(grid is None or grid.crs is None for grid in grids)
                few = reduced(dn, valid, scale, how=self.recipe.input.reduction, is_picture=is_picture)
                batch = (spec := self.input_spec(sensor)).image_batch(few[0], valid=few[1])
            except InputError as problem:
                raise InputError(f"'{self.data.names[group[0][0]]}', image {slot + 1}: {problem}") from problem
            said, about = self.data.said, f"{sensor.name}: "
            # Values that cannot be, beside what files say of themselves; of one sensor in a sample once.
            for name, found in spec.doubts([self.data.names[position] for position, _ in group], dn, valid):
                if not any(note.startswith(about) and " values: " in note for note in said.get(name, ())):
                    new = (self._words.setdefault(kind, sentence) for kind, sentence in found.items())
                    said[name] = (*said.get(name, ()), *new)
            if batch.valid is not None and self.data.targets is not None:
                empty = torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
                if empty:
                    raise InputError(
                        f"'{self.data.names[group[empty[0]][0]]}': image {slot + 1} ({sensor.name}) has no pixel with "
                        "data (all nodata or NaN); leave the sample out, or check the nodata value"
                    )
            batches.append(batch)
        return batches

    def _placed(
        self,
        group: Samples,
        images: Sequence[ImageBatch],
        boxes: Boxes | None,
        resize: Resize,
        *,
        targets: bool = False,
    ) -> TaskBatch:
        """Bring normalised images of one shape, their metadata and their targets to the network's size."""
        size, how, data = self.img_size, self.recipe.input, self.data
        positions = [position for position, _ in group]
        shapes = [(image.dn.shape[1], image.dn.shape[2]) for image in group[0][1].images]
        given = [(image.pixels.shape[2], image.pixels.shape[3]) for image in images]
        grid = (size, size)
        if resize != "short_side":
            grid = given[0] if resize == "native" else coarser_grid(*given)
        drawn = whole_footprint(len(group), grid=grid) if boxes is None else boxes(group, grid)
        # Whole multiples of the grid that hold all boxes, so that images of every resolution grow by the same ground.
        ends = (drawn.first + drawn.size).max(axis=0)
        rows, cols = (-(-int(end) // side) * side for end, side in zip(ends, drawn.grid, strict=True))
        repeated = replace(drawn, grid=(rows, cols))
        placed = [placed_image(image, drawn, repeated, how, resize, img_size=size) for image in images]
        wanted: Tensor | None = None
        if targets and data.targets is None:
            maps = torch.from_numpy(np.stack([self.target(position, sample) for position, sample in group]))
            maps = padded(maps, drawn, repeated, torch.nan if maps.is_floating_point() else -1)
            wanted = apply_to_map(maps, repeated, img_size=size)
        elif targets and data.targets is not None:
            found = torch.from_numpy(data.targets[positions])
            wanted = found.long() if data.kind == "class" else found.float()
        known = []
        if self._is_told or (len(shapes) > 1 and not self._compared.issuperset(positions)):
            known = [self._known(position, sample) for position, sample in group]
        return TaskBatch(
            images=tuple(placed),
            sensors=tuple(sensor.name for sensor in data.sensors[positions[0]]),
            samples=np.array(positions, dtype=np.int64),
            metadata=network_metadata(known, shapes, drawn, resize, img_size=size) if self._is_told else None,
            targets=wanted,
        )

    def _known(self, position: int, sample: Sample) -> list[ImageMetadata]:
        """Take what is known of the images of a sample, and see that they show the same ground."""
        title, slots = self.data.names[position], enumerate(sample.images, start=1)
        names = [f"'{title}', image {slot} ({image.sensor.name})" for slot, image in slots]
        found = [metadata_of(image, name) for image, name in zip(sample.images, names, strict=True)]
        check_one_footprint(found, names)
        self._compared.add(position)
        return found


def _read_ahead(make: Callable[[list[int]], TaskBatch | Sample], plans: Iterable[list[int]]) -> Iterator[Any]:
    """Make things in the order of their plans, a few ahead of their use; the order doesn't depend on the threads."""
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="anyband-samples")
    waiting: deque[Future[TaskBatch | Sample]] = deque()
    try:
        for plan in plans:
            waiting.append(pool.submit(make, plan))
            if len(waiting) > _WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(parts: Sequence[TaskBatch], order: Int[Tensor, " sample"]) -> TaskBatch:
    """Join parts of a batch, the samples in the order wanted."""
    images = []
    for slot in range(len(parts[0].images)):
        joined = joined_batches([part.images[slot] for part in parts])
        valid = None if joined.valid is None else joined.valid[order]
        images.append(replace(joined, pixels=joined.pixels[order], valid=valid))
    targets = [part.targets for part in parts if part.targets is not None]
    known = [vars(part.metadata) for part in parts if part.metadata is not None]
    return TaskBatch(
        images=tuple(images),
        sensors=parts[0].sensors,
        samples=np.concatenate([part.samples for part in parts])[order.numpy()],
        metadata=SetMetadata(**{name: torch.cat([one[name] for one in known])[order] for name in known[0]})
        if known
        else None,
        targets=torch.cat(targets)[order] if targets else None,
    )


# Data sets of the published pre-training, as their names begin here and in TorchGeo (arXiv 2506.19585, section 4).
_PUBLISHED_TRAINING = ("bigearthnet", "fmow", "torchgeo:bigearthnet", "torchgeo:fmow")
_COUNTED = "statistics counted on the training images"
# Takes the place of statistics that are not counted yet: what is made with it tells bands and ranges, not values.
_UNCOUNTED = BandStatistics(p01=0.0, p99=1.0, mean=0.0, std=1.0)


def _spec_of(
    encoder: SensorEncoder, sensor: Sensor, statistics: Mapping[str, BandStatistics], source: str
) -> InputSpec:
    spec = encoder.input_spec(sensor, statistics=statistics)
    normalisation = replace(spec.statistics, source=f"encoding '{sensor.default_encoding}'; {source}")
    return replace(spec, statistics_source=source, statistics=normalisation)


def _catalogue_statistics(sensor: Sensor) -> dict[str, BandStatistics]:
    missing = [band.name for band in sensor.bands if band.statistics is None]
    if missing:
        raise CatalogueError(
            f"the catalogue has no statistics of band '{missing[0]}' of '{sensor.name}' ({len(missing)} missing); use "
            "input.statistics=data, which counts them on the training images, or name a chip store or a file"
        )
    return {band.name: band.statistics for band in sensor.bands if band.statistics is not None}


def _counted_statistics(
    data: TaskData, sensors: Sequence[Sensor], *, shown: bool
) -> dict[Sensor, StatisticsAccumulator]:
    """Count the values of every sensor in one pass over the training samples."""
    train = data.split("train").tolist()
    counters = {sensor: StatisticsAccumulator(sensor.band_names) for sensor in sensors}
    seen = {sensor for position in train for sensor in data.sensors[position]}
    # Places that training shares with other splits: there, only labelled ground belongs to training.
    others = {place for place, split in zip(data.places, data.splits, strict=False) if split != "train"}
    with progress("statistics of the training images", len(train), shown=shown) as advance:
        samples = _read_ahead(lambda plan: data.read(plan[0]), ([position] for position in train))
        for position, sample in zip(train, samples, strict=True):
            labelled = labelled_pixels(sample) if data.places and data.places[position] in others else None
            for image in sample.images:
                valid = image.valid if labelled is None else image.valid & _as_large(labelled, image.dn.shape[1:])
                counters[image.sensor].add(decode(image.dn, image.sensor), valid)
            advance(1)
    unseen = next((one.name for one in counters if one not in seen), None)
    if unseen is not None:
        raise InputError(
            f"'{data.name}' has no training image of sensor '{unseen}', so input.statistics can't be counted on its "
            "images; leave it out for the checkpoint's or the catalogue's, or name a chip store or a file"
        )
    return counters


def _as_large(labelled: Bool[Array, "row col"], shape: tuple[int, ...]) -> Bool[Array, "row2 col2"]:
    """Bring what is labelled to the pixels of another image of the same ground; the nearest decides."""
    rows, cols = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shape, labelled.shape, strict=True))
    return np.asarray(labelled[rows[:, None], cols[None, :]])
