"""Overlapping windows joined without seams, in rows that are finished one after the other."""

import numpy as np

from anyband.data.tiles import Window
from anyband.errors import InputError
from anyband.shapes import Array, Float

__all__ = ["Blender", "window_starts"]


def window_starts(size: int, window: int, step: int) -> list[int]:
    """Place windows of one size along an axis: every `step` pixels, and the last one at the end.

    Property: each pixel lies in a window, and none reaches outside.

    Args:
        size: of the axis, pixels.
        window: of a window, pixels; at most `size`.
        step: from a window to the next, pixels; at most `window`.
    """
    if not 0 < step <= window <= size:
        raise InputError(f"windows of {window} pixels every {step} do not cover an axis of {size}")
    return [*range(0, size - window, step), size - window]


class Blender:
    """The weighted mean of overlapping windows. A window counts most in its middle and least at its edges.

    Memory holds some rows of the image at its full width, whatever its height.

    Args:
        num_bands: of the image.
        width: of the image, pixels.
        window: edge of a window, or its rows and columns, pixels.
        num_rows: rows that are taken at once.
    """

    def __init__(self, *, num_bands: int, width: int, window: int | tuple[int, int], num_rows: int) -> None:
        height, across = (window, window) if isinstance(window, int) else window
        self._weights = np.outer(_ramp(height), _ramp(across)).astype(np.float32)
        self._total = np.zeros((num_bands, num_rows + height, width), dtype=np.float32)
        self._weight = np.zeros((num_rows + height, width), dtype=np.float32)
        self.first_row = 0
        """First row of the image that was not taken yet."""

    def add(self, window: Window, pixels: Float[Array, "band row col"]) -> None:
        """Take in a window. It may not begin before `first_row`."""
        rows = slice(window.row - self.first_row, window.row - self.first_row + window.height)
        self._total[:, rows, window.cols] += pixels * self._weights
        self._weight[rows, window.cols] += self._weights

    def take(self, num_rows: int) -> Float[Array, "band row col"]:
        """Give the next rows, to which no further window is added; NaN where there was none."""
        total, weight = self._total[:, :num_rows], self._weight[:num_rows]
        mean = np.divide(total, weight, out=np.full(total.shape, np.nan, dtype=np.float32), where=weight > 0)
        for rows in (self._total, self._weight):
            rows[..., :-num_rows, :] = rows[..., num_rows:, :].copy()
            rows[..., -num_rows:, :] = 0
        self.first_row += num_rows
        return mean


def _ramp(size: int) -> Float[Array, "pixel"]:
    """Rise from the edge to the middle, where it is 1 or a little less."""
    return np.asarray(np.minimum(np.arange(size) + 0.5, size - np.arange(size) - 0.5) / (size / 2))
