"""Samples as read to network input: normalised, reduced, cut or resized, labels and facts along with their images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anyband.data.augment import Augmentation, coarser_grid
from anyband.data.resampling import Interpolation, apply, apply_to_map, resized
from anyband.data.supervised.records import Sample, SampleImage
from anyband.errors import InputError
from anyband.models.inputs import ImageBatch
from anyband.shapes import Array, Bool, Num
from anyband.tasks.readings import BandReading, standardised_batch
from anyband.tasks.transfer.recipe import Resize

__all__ = [
    "Boxes",
    "InputRules",
    "Member",
    "box_grid",
    "label_maps",
    "labelled_pixels",
    "native_map",
    "placed_images",
    "reduced_shape",
    "short_side_box",
    "standardised_images",
]

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


def standardised_images(members: Sequence[Member], slot: int, reading: BandReading, rules: InputRules) -> ImageBatch:
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
    members: Sequence[Member], images: Sequence[SampleImage], slot: int, reading: BandReading
) -> ImageBatch:
    dn = torch.from_numpy(np.stack([image.dn for image in images]))
    valid = torch.from_numpy(np.stack([image.valid for image in images]))
    try:
        return standardised_batch(dn, reading, valid=valid)
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
