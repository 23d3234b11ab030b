"""Samples as network input: crops, metadata and reading ahead."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.resample import (
    Augmentation,
    AugmentOptions,
    Interpolation,
    apply,
    apply_to_map,
    coarser_grid,
    draw_augmentation,
    input_corners,
    input_gsd_m,
    resized,
    whole_footprint,
)
from anyband.encode.input_spec import InputSpec
from anyband.encode.metadata import CheckedMetadata, ImageMetadata, check_one_footprint, checked_metadata, set_metadata
from anyband.errors import InputError
from anyband.evaluate.recipe import AugmentRecipe, Resize
from anyband.labelled.samples import Sample, SampleImage
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.randomness import generator
from anyband.rasters.grid import Grid, Window

__all__ = [
    "Boxes",
    "InputRules",
    "Member",
    "TaskBatch",
    "TrainingDraw",
    "box_grid",
    "centre_boxes",
    "cover",
    "drawn_boxes",
    "facts_of",
    "label_maps",
    "labelled_pixels",
    "native_map",
    "placed_images",
    "read_ahead",
    "reduced_shape",
    "sample_metadata",
    "short_side_box",
    "standardised_images",
    "whole_boxes",
    "window_box",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskBatch:
    """Samples as network input. All have the same sensors in the same slots, and one size in pixels."""

    images: tuple[ImageBatch, ...]
    """Images of each slot, the samples in one order."""
    sensors: tuple[str, ...]
    """Name of each slot's sensor."""
    samples: Int[Array, " sample"]
    """Positions of the samples in their data: identities for random draws."""
    metadata: SetMetadata | None = None
    """What is known of each image; None: nothing, or nothing is told."""
    targets: Num[Tensor, "sample ..."] | None = None
    """Classes (sample) as int64, labels (sample, class) or numbers (sample) as float32, or maps (sample, row, col) of
    the input's size: int64 with −1 where there is no class, float32 with NaN where there is no number. None: not asked
    for."""

    def __len__(self) -> int:
        return len(self.samples)

    def to(self, device: torch.device | str) -> "TaskBatch":
        """Copy the tensors to a device."""
        return replace(
            self,
            images=tuple(image.to(device) for image in self.images),
            metadata=None if self.metadata is None else self.metadata.to(device),
            targets=None if self.targets is None else self.targets.to(device),
        )


PlanT = TypeVar("PlanT")
MadeT = TypeVar("MadeT")

# chosen: decoding files keeps two threads busy beside the one that encodes, and a batch may fill much memory.
_WORKERS = 2


def read_ahead(make: Callable[[PlanT], MadeT], plans: Iterable[PlanT]) -> Iterator[MadeT]:
    """Make things in the order of their plans, a few ahead of their use; the order doesn't depend on the threads.

    Args:
        make: makes one; it may be called by several threads at once.
        plans: of each.
    """
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="anyband-samples")
    waiting: deque[Future[MadeT]] = deque()
    try:
        for plan in plans:
            waiting.append(pool.submit(make, plan))
            if len(waiting) > _WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


# Source: the published evaluation brings the short side to 256 for an input of 224.
_SHORT_SIDE = 8 / 7


@dataclass(frozen=True, kw_only=True)
class InputRules:
    """How images meet the network's size."""

    img_size: int
    """Edge of the network's input, pixels."""
    resize: Resize
    """How images are brought to it."""
    interpolation: Interpolation
    """Of the resizing."""
    scale: float = 1.0
    """Share of their size to which images are reduced first."""
    needs_data: bool = True
    """Whether an image without any pixel with data is an error."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A sample that was read, on its way into a batch."""

    position: int
    """In the data."""
    name: str
    """For messages."""
    sample: Sample
    """Its pixels."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Bands, rows and columns of each image."""
        return tuple(image.dn.shape for image in self.sample.images)


Boxes = Callable[[Sequence[Member], tuple[int, int]], Augmentation]
"""Which part of each sample is seen, and how it lies, counted on a grid of rows and columns. A box that reaches beyond
the grid is filled with pixels without data."""


def box_grid(shapes: Sequence[tuple[int, ...]], rules: InputRules) -> tuple[int, int]:
    """Find the grid on which boxes are counted: the pixels of the first image where windows are cut, of the coarsest
    where images are resized whole, and of the result where the centre is cut out.

    Args:
        shapes: bands, rows and columns of the images of a sample.
        rules: how images meet the network's size.
    """
    if rules.resize == "short_side":
        return rules.img_size, rules.img_size
    reduced = [reduced_shape((rows, cols), rules.scale) for _, rows, cols in shapes]
    return reduced[0] if rules.resize == "native" else coarser_grid(*reduced)


def reduced_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Compute the rows and columns of an image that is reduced to a share of its size, at least 1 each."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def short_side_box(shape: tuple[int, int], img_size: int) -> Augmentation:
    """Tell which part of an image is the centre that is cut out, once its short side is 8/7 of the network's size.

    Args:
        shape: rows and columns of the image.
        img_size: edge of the network's input, pixels.

    Returns:
        For one sample, counted on the pixels of the resized image.
    """
    short = round(img_size * _SHORT_SIDE)
    grid = (max(short, short * shape[0] // min(shape)), max(short, short * shape[1] // min(shape)))
    first = np.array([[(side - img_size) // 2 for side in grid]], dtype=np.int64)
    unmoved = np.zeros((1, 2), dtype=bool)
    size = np.full((1, 2), img_size, dtype=np.int64)
    return Augmentation(grid=grid, first=first, size=size, transposed=unmoved[:, 0], flipped=unmoved)


def standardised_images(members: Sequence[Member], slot: int, reading: InputSpec, rules: InputRules) -> ImageBatch:
    """Normalise one image of each sample, in its own pixels; all are of one shape.

    Args:
        members: the samples.
        slot: which image.
        reading: of its sensor.
        rules: whether an image may be without data.

    Raises:
        InputError: other bands than declared, or an image without data; it names the sample.
    """
    images = [member.sample.images[slot] for member in members]
    batch = _standardised(members, images, slot, reading)
    _check_data(members, images, slot, batch, rules)
    return batch


def placed_images(batch: ImageBatch, rules: InputRules, boxes: Augmentation) -> ImageBatch:
    """Bring normalised images to the network's size.

    Args:
        batch: as `standardised_images` gives it.
        rules: how images meet the network's size.
        boxes: of each image, on `box_grid`.
    """
    pixels, valid = batch.pixels, batch.valid
    if rules.scale < 1:
        shape = reduced_shape((pixels.shape[2], pixels.shape[3]), rules.scale)
        pixels, valid = resized(pixels, valid, shape=shape, interpolation="bilinear")
    if rules.resize == "short_side":
        pixels, valid = _centre(pixels, valid, rules)
    (rows, cols), boxes = _padding(boxes)
    if (rows, cols) != (1, 1):
        valid = torch.ones_like(pixels, dtype=torch.bool) if valid is None else valid
        pixels, valid = _padded(pixels, rows, cols, 0.0), _padded(valid, rows, cols, False)
    if not _unchanged(boxes, pixels.shape[2:], rules.img_size):
        pixels, valid = apply(pixels, valid, boxes, img_size=rules.img_size, interpolation=rules.interpolation)
    return replace(batch, pixels=pixels, valid=valid)


def label_maps(
    members: Sequence[Member], rules: InputRules, boxes: Augmentation, *, num_classes: int
) -> Num[Tensor, "sample row col"]:
    """Bring the maps of samples to the network's size, as their images are brought; each pixel keeps one label.

    Args:
        members: the samples, all of one shape.
        rules: how images meet the network's size.
        boxes: of each sample, on `box_grid`.
        num_classes: that may occur; 0 for numbers.

    Returns:
        Classes as int64, −1 where there is none; or numbers as float32, NaN where there is none.

    Raises:
        InputError: a map of another size than its first image, or a class that is not there.
    """
    maps = torch.from_numpy(np.stack([native_map(member, num_classes=num_classes) for member in members]))
    (rows, cols), boxes = _padding(boxes)
    nothing = -1 if num_classes else torch.nan
    return apply_to_map(_padded(maps, rows, cols, nothing), boxes, img_size=rules.img_size)


def labelled_pixels(sample: Sample) -> Bool[Array, "row col"] | None:
    """Tell which pixels of the first image have a label or number; None: the target is no map."""
    if sample.class_map is not None:
        return np.asarray(sample.class_map >= 0)
    return None if sample.number_map is None else np.isfinite(sample.number_map)


def native_map(member: Member, *, num_classes: int) -> Num[Array, "row col"]:
    """Give the map of a sample, checked: int64 with −1, or float32 with NaN, where there is no label.

    Args:
        member: the sample.
        num_classes: that may occur; 0 for numbers.

    Raises:
        InputError: no map, one of another size than its first image, or a class that is not there.
    """
    found = member.sample.class_map if num_classes else member.sample.number_map
    shape = member.sample.images[0].dn.shape[1:]
    if found is None:
        raise InputError(f"'{member.name}' has no map of {'classes' if num_classes else 'numbers'}")
    if found.shape != shape:
        raise InputError(
            f"'{member.name}': its labels have {found.shape[0]} × {found.shape[1]} pixels, its first image "
            f"{shape[0]} × {shape[1]}; bring both to one grid"
        )
    if not num_classes:
        return found.astype(np.float32)
    wrong = found[(found < -1) | (found >= num_classes)]
    if wrong.size:
        raise InputError(
            f"'{member.name}' has class {int(wrong[0])} at {wrong.size} pixels; classes are 0 to {num_classes - 1}, "
            "and -1 where there is none"
        )
    return found.astype(np.int64)


def _standardised(
    members: Sequence[Member], images: Sequence[SampleImage], slot: int, reading: InputSpec
) -> ImageBatch:
    dn = torch.from_numpy(np.stack([image.dn for image in images]))
    valid = torch.from_numpy(np.stack([image.valid for image in images]))
    try:
        return reading.image_batch(dn, valid=valid)
    except InputError as problem:
        raise InputError(f"'{members[0].name}', image {slot + 1}: {problem}") from problem


def _check_data(
    members: Sequence[Member], images: Sequence[SampleImage], slot: int, batch: ImageBatch, rules: InputRules
) -> None:
    if batch.valid is None or not rules.needs_data:
        return
    empty = torch.nonzero(~batch.valid.flatten(1).any(dim=1)).flatten().tolist()
    if empty:
        sensor = images[empty[0]].sensor.name
        raise InputError(
            f"'{members[empty[0]].name}': image {slot + 1} ({sensor}) has no pixel with data (all nodata or NaN); "
            "leave the sample out, or check the nodata value"
        )


def _centre(pixels: Tensor, valid: Tensor | None, rules: InputRules) -> tuple[Tensor, Tensor | None]:
    box = short_side_box((pixels.shape[2], pixels.shape[3]), rules.img_size)
    pixels, valid = resized(pixels, valid, shape=box.grid, interpolation=rules.interpolation)
    rows, cols = (slice(int(first), int(first) + rules.img_size) for first in box.first[0])
    return pixels[:, :, rows, cols], None if valid is None else valid[:, :, rows, cols]


def _padding(boxes: Augmentation) -> tuple[tuple[int, int], Augmentation]:
    """Count how often the grid must be repeated to hold all boxes, and count these on the larger grid.

    Whole multiples, so that images of every resolution grow by the same ground.
    """
    ends = (boxes.first + boxes.size).max(axis=0)
    times = (-(-int(ends[0]) // boxes.grid[0]), -(-int(ends[1]) // boxes.grid[1]))
    return times, replace(boxes, grid=(boxes.grid[0] * times[0], boxes.grid[1] * times[1]))


def _padded(values: Tensor, rows: int, cols: int, fill: float | int) -> Tensor:
    height, width = values.shape[-2:]
    return functional.pad(values, (0, width * (cols - 1), 0, height * (rows - 1)), value=fill)


def _unchanged(boxes: Augmentation, shape: Sequence[int], img_size: int) -> bool:
    whole = tuple(shape) == boxes.grid == (img_size, img_size) and not boxes.first.any()
    return bool(whole and (boxes.size == img_size).all() and not (boxes.transposed.any() or boxes.flipped.any()))


# chosen: each pixel away from the edges is seen near the middle of some window, where context is best.
_STEP_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class TrainingDraw:
    """What training draws for its samples."""

    augment: AugmentRecipe
    """What may be done."""
    seed: int
    """Of the evaluation."""
    epoch: int
    """Pass over the training samples."""
    img_size: int
    """Edge of the network's input, pixels."""
    native: bool
    """Whether windows of the images' own pixels are cut."""

    @property
    def crops(self) -> bool:
        """Whether parts are drawn."""
        return self.augment.crop_area != (1.0, 1.0)


def whole_boxes(members: Sequence[Member], grid: tuple[int, int]) -> Augmentation:
    """Take every sample whole."""
    return whole_footprint(len(members), grid=grid)


def centre_boxes(img_size: int) -> Boxes:
    """Take the window in the middle of every sample; of a smaller one all, and beyond it nothing.

    Args:
        img_size: edge of the window, pixels.
    """

    def boxes(members: Sequence[Member], grid: tuple[int, int]) -> Augmentation:
        first = [max(0, (side - img_size) // 2) for side in grid]
        return _windows(np.tile(np.array(first, dtype=np.int64), (len(members), 1)), img_size, grid)

    return boxes


def window_box(window: Window, img_size: int) -> Boxes:
    """Take the window of the network's size that begins where `window` does.

    Args:
        window: of the image's own pixels.
        img_size: edge of the network's input, pixels.
    """

    def boxes(members: Sequence[Member], grid: tuple[int, int]) -> Augmentation:
        first = np.tile(np.array([window.row, window.col], dtype=np.int64), (len(members), 1))
        return _windows(first, img_size, grid)

    return boxes


def drawn_boxes(draw: TrainingDraw) -> Boxes:
    """Draw for each sample what training sees of it: the same for equal seed, epoch and sample, whatever the batch.

    Windows of the images' own pixels hold a label, wherever a sample has one.

    Args:
        draw: what may be done.
    """
    augment = draw.augment
    options = AugmentOptions(
        crop_area=augment.crop_area, flips=augment.flips, quarter_turns=augment.quarter_turns, enabled=True
    )

    def boxes(members: Sequence[Member], grid: tuple[int, int]) -> Augmentation:
        samples = [member.position for member in members]
        drawn = draw_augmentation(options, seed=draw.seed, step=draw.epoch, samples=samples, grid=grid)
        if draw.native:
            found = [_drawn_window(member, draw, grid) for member in members]
            return replace(
                drawn, first=np.stack([first for first, _ in found]), size=np.stack([size for _, size in found])
            )
        if draw.crops:
            return drawn
        # A crop of everything is square, and the image may not be.
        whole = whole_footprint(len(members), grid=grid)
        return replace(drawn, first=whole.first, size=whole.size)

    return boxes


def cover(height: int, width: int, img_size: int) -> list[Window]:
    """List windows that cover an image, row by row, each overlapping the next by half or more.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.
        img_size: edge of a window; an image that is smaller is one window, of its own size.
    """
    return [
        Window(row=row, col=col, height=min(img_size, height), width=min(img_size, width))
        for row in _starts(height, img_size)
        for col in _starts(width, img_size)
    ]


def _starts(side: int, img_size: int) -> list[int]:
    if side <= img_size:
        return [0]
    step = max(1, int(img_size * _STEP_SHARE))
    count = -(-(side - img_size) // step) + 1
    return [round(index * (side - img_size) / (count - 1)) for index in range(count)]


def _windows(first: Int[Array, "sample 2"], img_size: int, grid: tuple[int, int]) -> Augmentation:
    whole = whole_footprint(len(first), grid=grid)
    return replace(whole, first=first, size=np.full_like(first, img_size))


def _drawn_window(member: Member, draw: TrainingDraw, grid: tuple[int, int]) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
    """Draw one window with a label in it: first a labelled pixel, then a window around it."""
    rng = generator(draw.seed, step=draw.epoch, sample=member.position, purpose="window with a label")
    least, largest = draw.augment.crop_area
    side = max(1, round(draw.img_size * np.sqrt(least + (largest - least) * rng.random())))
    labelled = labelled_pixels(member.sample)
    where = np.flatnonzero(labelled) if labelled is not None else np.empty(0, dtype=np.int64)
    if labelled is not None and len(where):
        around: tuple[int, ...] = tuple(
            int(one) for one in np.unravel_index(where[rng.integers(len(where))], labelled.shape)
        )
    else:
        around = tuple(int(rng.integers(length)) for length in grid)
    first = [_drawn_start(rng, at, side, length) for at, length in zip(around, grid, strict=True)]
    return np.array(first, dtype=np.int64), np.full(2, side, dtype=np.int64)


def _drawn_start(rng: np.random.Generator, at: int, side: int, length: int) -> int:
    if length <= side:
        return 0
    return int(rng.integers(max(0, at - side + 1), min(at, length - side) + 1))


def facts_of(member: Member) -> list[CheckedMetadata]:
    """Take what is known of each image of a sample, and see that all show one piece of ground.

    Raises:
        GeometryError: images of a sample show different ground.
        InputError: a date lies in the future.
    """
    names = [
        f"'{member.name}', image {slot + 1} ({image.sensor.name})" for slot, image in enumerate(member.sample.images)
    ]
    facts = [_facts(image, name) for image, name in zip(member.sample.images, names, strict=True)]
    check_one_footprint(facts, names)
    return facts


def sample_metadata(
    members: Sequence[Member], facts: Sequence[Sequence[CheckedMetadata]], rules: InputRules, boxes: Augmentation
) -> SetMetadata:
    """Bring the facts of samples to what networks take, for the part of each image that the network sees.

    Args:
        members: the samples, all of one shape.
        facts: of each image of each.
        rules: how images meet the network's size.
        boxes: of each sample, on `box_grid`.
    """
    slots = range(len(members[0].sample.images))
    corners_deg = np.array([[one.corners_deg for one in images] for images in facts])
    gsd_m = np.array([[one.gsd_m for one in images] for images in facts])
    time = np.array([[one.time for one in images] for images in facts])
    shape_px = np.array([[image.dn.shape[1:] for image in member.sample.images] for member in members])
    size = rules.img_size
    if rules.resize == "short_side":
        everyone = np.zeros(len(members), dtype=np.int64)
        parts = [slice(slot, slot + 1) for slot in slots]
        centres = [short_side_box(members[0].sample.images[slot].dn.shape[1:], size).of(everyone) for slot in slots]
        pairs = list(zip(centres, parts, strict=True))
        seen_m = np.concatenate(
            [input_gsd_m(one, gsd_m[:, part], shape_px[:, part], img_size=size) for one, part in pairs], axis=1
        )
        corners_deg = np.concatenate([input_corners(one, corners_deg[:, part]) for one, part in pairs], axis=1)
    else:
        seen_m = input_gsd_m(boxes, gsd_m, shape_px, img_size=size)
    return set_metadata(input_corners(boxes, corners_deg), gsd_m, time, seen_m)


def _facts(image: SampleImage, name: str) -> CheckedMetadata:
    located = image.grid is not None and image.grid.crs is not None
    gsd_m = image.grid.gsd_m if image.grid is not None and located else None
    said = ImageMetadata(
        gsd_m=gsd_m if gsd_m is not None and math.isfinite(gsd_m) and gsd_m > 0 else None, datetime=image.datetime
    )
    facts = checked_metadata(said, name=name)
    return replace(facts, corners_deg=_corners_deg(image.grid)) if image.grid is not None and located else facts


def _corners_deg(grid: Grid) -> Float[Array, "4 2"]:
    # Late: images without a place need no geographic library.
    from anyband.data.places import corners_lonlat

    assert grid.crs is not None
    return np.array(corners_lonlat(grid.transform, grid.height, grid.width, grid.crs))
