"""Samples of labelled data and what of them a network sees: windows, crops, labels and metadata."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

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
    draw_augmentation,
    input_corners,
    input_gsd_m,
    resized,
    whole_footprint,
)
from anyband.encode.metadata import ImageMetadata, checked_metadata, set_metadata
from anyband.errors import InputError
from anyband.evaluate.recipe import AugmentRecipe, InputRecipe, Resize
from anyband.labelled.samples import Sample, SampleImage
from anyband.models.inputs import ImageBatch, SetMetadata
from anyband.randomness import generator
from anyband.rasters.grid import Window

__all__ = [
    "Boxes",
    "Samples",
    "TaskBatch",
    "cover",
    "drawn_boxes",
    "labelled_pixels",
    "metadata_of",
    "network_metadata",
    "padded",
    "placed_image",
    "reduced",
    "resized_by_skimage",
    "window_boxes",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskBatch:
    """Samples as network input. All have the same sensors in the same slots, and one size in pixels."""

    images: tuple[ImageBatch, ...] = ()
    """By slot, the samples in one order; empty where `levels` are known."""
    sensors: tuple[str, ...] = ()
    samples: Int[Array, " sample"]
    """Positions in their data: identities for random draws."""
    metadata: SetMetadata | None = None
    """What is known of each image; None: nothing, or nothing is told."""
    targets: Num[Tensor, "sample ..."] | None = None
    """Classes (sample) int64, labels (sample, class) or numbers (sample) float32, or maps (sample, row, col) of the
    input's size: int64 with −1, float32 with NaN where there is no label. None: not requested."""
    levels: tuple[Float[Tensor, "sample width row col"], ...] = ()
    """Maps of patch features of a frozen encoder that were made before, instead of images."""

    def to(self, device: torch.device | str) -> "TaskBatch":
        return replace(
            self,
            images=tuple(image.to(device) for image in self.images),
            metadata=None if self.metadata is None else self.metadata.to(device),
            targets=None if self.targets is None else self.targets.to(device),
            levels=tuple(level.to(device) for level in self.levels),
        )


Samples = Sequence[tuple[int, Sample]]
"""Positions in the data and pixels."""
Boxes = Callable[[Samples, tuple[int, int]], Augmentation]
"""Box and turn of what is seen of each sample, counted on a grid (rows, columns); beyond the grid there are no data."""

# Source: the published evaluation brings the short side to 256 for an input of 224.
_SHORT_SIDE = 8 / 7
# chosen: each pixel away from the edges is seen near the middle of some window, where context is best.
_STEP_SHARE = 0.5


def _short_side_box(shape: tuple[int, int], img_size: int) -> Augmentation:
    """Take the centre that is cut out of an image, counted on its pixels once its short side is 8/7 of `img_size`."""
    short = round(img_size * _SHORT_SIDE)
    grid = (max(short, short * shape[0] // min(shape)), max(short, short * shape[1] // min(shape)))
    first = np.array([[(side - img_size) // 2 for side in grid]], dtype=np.int64)
    return replace(whole_footprint(1, grid=grid), first=first, size=np.full((1, 2), img_size, dtype=np.int64))


def window_boxes(img_size: int, window: Window | None = None) -> Boxes:
    """Take the window of the network's size that begins where `window` does, or the one in the middle of each sample.
    Of a smaller sample it is all, and beyond it nothing."""

    def boxes(samples: Samples, grid: tuple[int, int]) -> Augmentation:
        middle = [max(0, (side - img_size) // 2) for side in grid]
        start = np.array(middle if window is None else [window.row, window.col], dtype=np.int64)
        first = np.tile(start, (len(samples), 1))
        return replace(whole_footprint(len(first), grid=grid), first=first, size=np.full_like(first, img_size))

    return boxes


def drawn_boxes(augment: AugmentRecipe, *, seed: int, epoch: int, img_size: int, native: bool) -> Boxes:
    """Draw for each sample what training sees of it: the same for equal seed, epoch and sample, whatever the batch.
    Windows of the images' own pixels hold a label, wherever a sample has one."""
    options = AugmentOptions(crop_area=augment.crop_area, flips=augment.flips, quarter_turns=augment.quarter_turns)

    def boxes(samples: Samples, grid: tuple[int, int]) -> Augmentation:
        positions = [position for position, _ in samples]
        drawn = draw_augmentation(options, seed=seed, step=epoch, samples=positions, grid=grid)
        if native:
            found = []
            for position, sample in samples:
                rng = generator(seed, step=epoch, sample=position, purpose="window with a label")
                found.append(_drawn_window(rng, sample, augment.crop_area, img_size, grid))
            return replace(drawn, first=np.stack([one for one, _ in found]), size=np.stack([one for _, one in found]))
        if augment.crop_area != (1.0, 1.0):
            return drawn
        # A crop of everything is square, and the image may not be.
        whole = whole_footprint(len(samples), grid=grid)
        return replace(drawn, first=whole.first, size=whole.size)

    return boxes


def _drawn_window(
    rng: np.random.Generator, sample: Sample, crop_area: tuple[float, float], img_size: int, grid: tuple[int, int]
) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
    """Draw one window with a label in it: first a labelled pixel, then a window around it."""
    least, largest = crop_area
    side = max(1, round(img_size * np.sqrt(least + (largest - least) * rng.random())))
    labelled = labelled_pixels(sample)
    where = np.empty(0, dtype=np.int64) if labelled is None else np.flatnonzero(labelled)
    if labelled is not None and len(where):
        around = [int(one) for one in np.unravel_index(where[rng.integers(len(where))], labelled.shape)]
    else:
        around = [int(rng.integers(length)) for length in grid]
    first = [
        0 if length <= side else int(rng.integers(max(0, at - side + 1), min(at, length - side) + 1))
        for at, length in zip(around, grid, strict=True)
    ]
    return np.array(first, dtype=np.int64), np.full(2, side, dtype=np.int64)


def placed_image(
    image: ImageBatch,
    boxes: Augmentation,
    repeated: Augmentation,
    recipe: InputRecipe,
    resize: Resize,
    *,
    img_size: int,
) -> ImageBatch:
    """Bring normalised images of one shape to the network's size: the box of each, counted on the boxes' grid.
    `repeated` are the boxes on whole grids that hold them all."""
    pixels, valid, how = image.pixels, image.valid, recipe.interpolation
    by_kernel = resized if recipe.kernel == "plain" else resized_by_skimage
    if resize == "short_side":
        box = _short_side_box((pixels.shape[2], pixels.shape[3]), img_size)
        pixels, valid = by_kernel(pixels, valid, shape=box.grid, interpolation=how)
        rows, cols = (slice(int(first), int(first) + img_size) for first in box.first[0])
        pixels, valid = pixels[:, :, rows, cols], None if valid is None else valid[:, :, rows, cols]
    if repeated.grid != boxes.grid:
        valid = torch.ones_like(pixels, dtype=torch.bool) if valid is None else valid
        pixels, valid = padded(pixels, boxes, repeated, 0.0), padded(valid, boxes, repeated, False)
    if recipe.kernel == "skimage" and resize == "whole":
        if (boxes.size != boxes.grid).any():
            raise InputError("input.kernel=skimage resizes whole images, and these are crops; leave one of them out")
        pixels, valid = by_kernel(pixels, valid, shape=(img_size, img_size), interpolation=how)
    is_whole = pixels.shape[2:] == repeated.grid == (img_size, img_size) and not boxes.first.any()
    if not (is_whole and (boxes.size == img_size).all() and not (boxes.transposed.any() or boxes.flipped.any())):
        pixels, valid = apply(pixels, valid, repeated, img_size=img_size, interpolation=how)
    return replace(image, pixels=pixels, valid=valid)


def reduced(
    dn: Num[Tensor, "sample band row col"],
    valid: Bool[Tensor, "sample band row col"],
    scale: float,
    *,
    how: Literal["plain", "released"],
    is_picture: bool,
) -> tuple[Num[Tensor, "sample band rows cols"], Bool[Tensor, "sample band rows cols"]]:
    """Reduce digital numbers to a share of their rows and columns, bilinearly over the pixels that are merged.
    As `released`, what GDAL gives in the numbers' own type, pictures through a JPEG; else in float32, by valid pixels.
    Source: `resample_rasterio_ds` of github.com/gsumbul/SMARTIES.
    """
    if scale == 1.0:
        return dn, valid
    sides = [side * scale for side in dn.shape[2:]]
    rows, cols = (max(1, int(side) if how == "released" else round(side)) for side in sides)
    pixels, seen = resized(dn.float(), valid, shape=(rows, cols), interpolation="bilinear")
    if how == "released":
        # Late: nothing else here needs GDAL.
        from anyband.rasters.writer import reduced_by_gdal

        pixels = torch.from_numpy(
            np.stack([reduced_by_gdal(one, (rows, cols), as_jpeg=is_picture) for one in dn.numpy()])
        )
    return pixels, torch.ones_like(pixels, dtype=torch.bool) if seen is None else seen


def resized_by_skimage(
    pixels: Float[Tensor, "sample band row col"],
    valid: Bool[Tensor, "sample band row col"] | None,
    *,
    shape: tuple[int, int],
    interpolation: Interpolation,
) -> tuple[Float[Tensor, "sample band rows cols"], Bool[Tensor, "sample band rows cols"] | None]:
    """Bring whole images to a number of rows and columns as scikit-image's `resize` does, by splines. Missing pixels
    count as 0, the mean, and stay missing where they have half of the weight."""
    try:
        from skimage.transform import resize
    except ImportError as problem:
        raise InputError("input.kernel=skimage needs scikit-image: pip install 'anyband[skimage]'") from problem
    order = {"bilinear": 1, "bicubic": 3}[interpolation]
    filled = (pixels if valid is None else pixels.masked_fill(~valid, 0.0)).movedim(1, 3).numpy()
    made = np.stack([resize(one, shape, order=order, anti_aliasing=True) for one in filled])
    seen = None if valid is None else resized(pixels, valid, shape=shape, interpolation=interpolation)[1]
    found = torch.from_numpy(made).movedim(3, 1).contiguous()
    return found if seen is None else found.masked_fill(~seen, 0.0), seen


def padded(values: Tensor, boxes: Augmentation, repeated: Augmentation, fill: float | int) -> Tensor:
    """Continue images beyond their last row and column as far as the grid of their boxes was repeated."""
    height, width = (
        side * more // own for side, more, own in zip(values.shape[-2:], repeated.grid, boxes.grid, strict=True)
    )
    return functional.pad(values, (0, width - values.shape[-1], 0, height - values.shape[-2]), value=fill)


def cover(height: int, width: int, img_size: int) -> list[Window]:
    """List windows that cover an image, row by row, each overlapping the next by half or more. An image that is smaller
    than `img_size` is one window, of its own size."""

    def starts(side: int) -> list[int]:
        if side <= img_size:
            return [0]
        count = -(-(side - img_size) // max(1, int(img_size * _STEP_SHARE))) + 1
        return [round(index * (side - img_size) / (count - 1)) for index in range(count)]

    size = {"height": min(img_size, height), "width": min(img_size, width)}
    return [Window(row=row, col=col, **size) for row in starts(height) for col in starts(width)]


def labelled_pixels(sample: Sample) -> Bool[Array, "row col"] | None:
    """Tell which pixels of the first image have a label or number; None: the target is no map."""
    if sample.class_map is not None:
        return np.asarray(sample.class_map >= 0)
    return None if sample.number_map is None else np.isfinite(sample.number_map)


def metadata_of(image: SampleImage, name: str) -> ImageMetadata:
    """Take what is known of an image; `name` is for messages."""
    grid, crs = image.grid, None if image.grid is None else image.grid.crs
    gsd_m = None if grid is None or crs is None else grid.gsd_m
    known = gsd_m is not None and math.isfinite(gsd_m) and gsd_m > 0
    found = checked_metadata(ImageMetadata(gsd_m=gsd_m if known else None, datetime=image.datetime), name=name)
    if grid is None or crs is None:
        return found
    # Late: images without a place need no geographic library.
    from anyband.data.places import corners_on_globe

    return replace(found, corners_deg=corners_on_globe(grid.transform, grid.height, grid.width, crs))


def network_metadata(
    known: Sequence[Sequence[ImageMetadata]],
    shapes: Sequence[tuple[int, int]],
    drawn: Augmentation,
    resize: Resize,
    *,
    img_size: int,
) -> SetMetadata:
    """Bring what is known of samples of one shape to what networks take, for the part that the network sees."""
    corners_deg = np.array([[one.corners_deg for one in images] for images in known])
    gsd_m = np.array([[one.gsd_m for one in images] for images in known])
    time = np.array([[one.datetime for one in images] for images in known])
    shape_px = np.tile(np.array(shapes), (len(known), 1, 1))
    if resize != "short_side":
        seen_m = input_gsd_m(drawn, gsd_m, shape_px, img_size=img_size)
        return set_metadata(input_corners(drawn, corners_deg), gsd_m, time, seen_m)
    centres = [_short_side_box(shape, img_size).of(np.zeros(len(known), dtype=np.int64)) for shape in shapes]
    slots = [(box, slice(slot, slot + 1)) for slot, box in enumerate(centres)]
    seen = [input_gsd_m(box, gsd_m[:, at], shape_px[:, at], img_size=img_size) for box, at in slots]
    corners_deg = np.concatenate([input_corners(box, corners_deg[:, at]) for box, at in slots], axis=1)
    return set_metadata(input_corners(drawn, corners_deg), gsd_m, time, np.concatenate(seen, axis=1))
