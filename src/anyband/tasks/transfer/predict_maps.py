"""Whole predicted maps, at the size of their labels: resized, or joined from overlapping windows."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from anyband.data.blending import Blender
from anyband.data.tiles import Window
from anyband.errors import InputError
from anyband.models.heads import resized
from anyband.shapes import Array, Float, Num
from anyband.tasks.transfer.dense_model import LevelBatch, MapNetwork
from anyband.tasks.transfer.records import TaskBatch

__all__ = ["joined_windows", "predict_whole", "predict_windows"]

# chosen: UPerNet with 512 channels was seen to take 150 MB for a sample of 224 × 224 pixels (CPU).
_HEAD_SAMPLES = 8

Read = Callable[[Float[Array, "output row col"]], Num[Array, "row col"]]
"""Makes a map of a network's outputs."""


def predict_whole(
    network: MapNetwork,
    batches: Iterable[TaskBatch | LevelBatch],
    *,
    read: Read,
    size_of: Callable[[int], tuple[int, int]],
) -> Iterator[tuple[int, Num[Array, "row col"]]]:
    """Predict the maps of samples that the network sees whole. The outputs are resized, bilinearly, not the classes.

    Args:
        network: in evaluation mode.
        batches: of samples, on any device.
        read: makes a map of outputs.
        size_of: rows and columns of a sample's map.

    Returns:
        Position of each sample, and its map.
    """
    device = _device(network)
    for batch in batches:
        with torch.no_grad():
            levels = network.levels(batch.to(device))
        for row, sample in enumerate(batch.samples.tolist()):
            if row % _HEAD_SAMPLES == 0:
                with torch.no_grad():
                    outputs = network.head.outputs([level[row : row + _HEAD_SAMPLES] for level in levels]).float()
            one = row % _HEAD_SAMPLES
            yield sample, read(resized(outputs[one : one + 1], size_of(sample))[0].cpu().numpy())


def predict_windows(
    network: MapNetwork,
    windows: Iterable[tuple[TaskBatch | LevelBatch, Window]],
    *,
    read: Read,
    size: tuple[int, int],
) -> Num[Array, "row col"]:
    """Predict the map of a sample from overlapping windows, whose outputs are averaged; see `Blender`.

    Args:
        network: in evaluation mode.
        windows: one sample's, in the images' own pixels, all of one size, row by row; where there is none, what is
            predicted means nothing.
        read: makes a map of outputs.
        size: rows and columns of the map.
    """
    device = _device(network)

    def outputs() -> Iterator[tuple[Window, Float[Array, "output row col"]]]:
        for batch, window in windows:
            with torch.no_grad():
                found = network(batch.to(device)).float()
            # Images that are smaller than the input fill its first rows and columns.
            yield window, found[0, :, : window.height, : window.width].cpu().numpy()

    strips = [read(strip) for strip in joined_windows(outputs(), size=size)]
    if not strips:
        return read(np.full((network.head.config.num_outputs, *size), np.nan, dtype=np.float32))
    return np.concatenate(strips)


def joined_windows(
    parts: Iterable[tuple[Window, Float[Array, "output row col"]]], *, size: tuple[int, int]
) -> Iterator[Float[Array, "output row col"]]:
    """Join overlapping windows to strips of the whole width, one below the other. Only a few rows are held at once.

    Args:
        parts: windows of one size, row by row, and what is in them.
        size: rows and columns of the whole.

    Raises:
        InputError: a window reaches outside, or comes after one further down.
    """
    blender, height = None, 0
    for window, values in parts:
        if not window.is_inside(*size):
            raise InputError(f"a window ({window}) reaches outside a map of {size[0]} × {size[1]} pixels")
        if blender is None:
            height = window.height
            shape = (window.height, window.width)
            blender = Blender(num_bands=len(values), width=size[1], window=shape, num_rows=height)
        if window.row < blender.first_row:
            raise InputError(f"a window ({window}) comes after row {blender.first_row} was finished; go row by row")
        if window.row > blender.first_row:
            yield from _taken(blender, window.row, height)
        blender.add(window, values)
    if blender is not None:
        yield from _taken(blender, size[0], height)


def _taken(blender: Blender, last_row: int, at_once: int) -> Iterator[Float[Array, "output row col"]]:
    while (left := last_row - blender.first_row) > 0:
        yield blender.take(min(left, at_once))


def _device(network: MapNetwork) -> torch.device:
    return next(network.head.parameters()).device
