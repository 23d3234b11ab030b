"""Which part of each sample the network sees, and how it lies: whole, windows, or drawn for training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anyband.data.augment import Augmentation, AugmentOptions, draw_augmentation, whole_footprint
from anyband.data.tiles import Window
from anyband.randomness import generator
from anyband.shapes import Array, Int
from anyband.tasks.transfer.reading_samples import Boxes, Member, labelled_pixels
from anyband.tasks.transfer.recipe import AugmentRecipe

__all__ = ["TrainingDraw", "centre_boxes", "cover", "drawn_boxes", "whole_boxes", "window_box"]

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
