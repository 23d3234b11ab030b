"""Random patterns on the ground, in metres: noise, cells, fields, winding lines.

A pattern depends on metres, not on pixels, so the same draws on a finer frame give the same landscape with
more detail.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyband.shapes import Array, Float, Int

__all__ = [
    "Frame",
    "Tiles",
    "fractal_noise",
    "irregular_tiles",
    "rectangular_tiles",
    "rotated",
    "smooth_noise",
    "winding_distance_m",
]

# Mean over positions of the squared cubic B-spline weights: the standard deviation of the sum along two axes.
_SPLINE_GAIN = 151.0 / 315.0
# chosen: borders wander by up to this share of the spacing, so fields differ in size but keep their order.
_BORDER_SHIFT = 0.35
# chosen: a line swings by at most this share of its wavelength: about 50 degrees off its course.
_STEEPEST = 0.19


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A square piece of ground and the detail at which it is drawn."""

    footprint_m: float
    """Length of a side, metres."""
    detail_m: float
    """Length of a pixel, metres; divides the footprint."""

    @property
    def num_pixels(self) -> int:
        """Pixels along a side."""
        return round(self.footprint_m / self.detail_m)

    def coordinates_m(self) -> tuple[Float[Array, "row col"], Float[Array, "row col"]]:
        """Give y (down) and x (right) of the pixel centres, metres from the upper left corner."""
        steps = ((np.arange(self.num_pixels) + 0.5) * self.detail_m).astype(np.float32)
        y, x = np.meshgrid(steps, steps, indexing="ij")
        return y, x


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """A division of the ground into pieces."""

    index: Int[Array, "row col"]
    """Piece that a pixel belongs to, 0 to `num_tiles` − 1."""
    border_m: Float[Array, "row col"]
    """Distance to the nearest border, metres."""
    num_tiles: int
    """Number of pieces."""


def smooth_noise(rng: np.random.Generator, frame: Frame, *, spacing_m: float) -> Float[Array, "row col"]:
    """Draw a smooth random surface of mean 0 and variance about 1, without structure below `spacing_m`.

    A cubic B-spline over a lattice of normal numbers.
    """
    weights = _spline_weights(frame, spacing_m)
    lattice = rng.standard_normal((weights.shape[1],) * 2, dtype=np.float32)
    return np.asarray(weights @ lattice @ weights.T / np.float32(_SPLINE_GAIN))


def fractal_noise(
    rng: np.random.Generator, frame: Frame, *, longest_m: float, shortest_m: float, roughness: float = 0.5
) -> Float[Array, "row col"]:
    """Sum smooth noise over spacings that halve from `longest_m` to `shortest_m`, each weaker by `roughness`.

    Returns:
        float32, mean about 0 and variance about 1.
    """
    total = np.zeros((frame.num_pixels,) * 2, dtype=np.float32)
    spacing_m, amplitude, power = longest_m, 1.0, 0.0
    while spacing_m >= shortest_m:
        total += np.float32(amplitude) * smooth_noise(rng, frame, spacing_m=spacing_m)
        power += amplitude**2
        spacing_m, amplitude = spacing_m / 2, amplitude * roughness
    return total / np.float32(np.sqrt(power))


def rotated(
    y_m: Float[Array, "row col"], x_m: Float[Array, "row col"], *, angle_rad: float
) -> tuple[Float[Array, "row col"], Float[Array, "row col"]]:
    """Turn coordinates by an angle; returns (across, along)."""
    cosine, sine = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    return y_m * cosine - x_m * sine, y_m * sine + x_m * cosine


def rectangular_tiles(
    rng: np.random.Generator,
    across_m: Float[Array, "row col"],
    along_m: Float[Array, "row col"],
    *,
    width_m: float,
    length_m: float,
) -> Tiles:
    """Divide the ground into strips and the strips into fields, as land is parcelled."""
    strip, strip_border_m = _intervals(rng, across_m, np.zeros_like(across_m, dtype=np.intp), width_m)
    field, field_border_m = _intervals(rng, along_m, strip, length_m)
    index, num_tiles = _numbered(strip * (int(field.max()) + 1) + field)
    return Tiles(index=index, border_m=np.minimum(strip_border_m, field_border_m), num_tiles=num_tiles)


def irregular_tiles(
    rng: np.random.Generator,
    y_m: Float[Array, "row col"],
    x_m: Float[Array, "row col"],
    *,
    spacing_m: float,
) -> Tiles:
    """Divide the ground into the Voronoi cells of scattered points, about one for each square of `spacing_m`.

    Source:
        Worley, "A cellular texture basis function", SIGGRAPH 1996.
    """
    row = np.floor(y_m / np.float32(spacing_m)).astype(np.intp)
    col = np.floor(x_m / np.float32(spacing_m)).astype(np.intp)
    top, left = int(row.min()) - 1, int(col.min()) - 1
    num_rows, num_cols = int(row.max()) - top + 2, int(col.max()) - left + 2
    point_y = ((np.arange(num_rows)[:, None] + top + rng.random((num_rows, num_cols))) * spacing_m).astype(np.float32)
    point_x = ((np.arange(num_cols)[None, :] + left + rng.random((num_rows, num_cols))) * spacing_m).astype(np.float32)
    base = (row - top) * num_cols + (col - left)
    nearest = np.full(y_m.shape, np.inf, dtype=np.float32)
    second = nearest.copy()
    index = np.zeros(y_m.shape, dtype=np.intp)
    for step in [dy * num_cols + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
        point = base + step
        distance = (y_m - point_y.ravel()[point]) ** 2 + (x_m - point_x.ravel()[point]) ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        index = np.where(closer, point, index)
        nearest = np.where(closer, distance, nearest)
    index, num_tiles = _numbered(index)
    return Tiles(index=index, border_m=(np.sqrt(second) - np.sqrt(nearest)) / 2, num_tiles=num_tiles)


def winding_distance_m(
    rng: np.random.Generator, frame: Frame, *, bend_m: float, wavelength_m: float
) -> Float[Array, "row col"]:
    """Measure how far each pixel is from a line that winds across the frame, metres.

    Args:
        rng: draws direction, place and bends.
        frame: to fill.
        bend_m: how far the line swings to each side.
        wavelength_m: from one bend to the next but one.

    Returns:
        Distance, at least 0; exact near the line, where it is used.
    """
    y_m, x_m = frame.coordinates_m()
    middle_m = np.float32(frame.footprint_m / 2)
    across_m, along_m = rotated(y_m - middle_m, x_m - middle_m, angle_rad=rng.uniform(0, np.pi))
    line_m = np.full_like(across_m, rng.uniform(-0.25, 0.25) * frame.footprint_m)
    slope = np.zeros_like(across_m)
    for share in (1.0, 0.45, 0.2):
        wave = np.float32(2 * np.pi / (wavelength_m * share * rng.uniform(0.8, 1.25)))
        phase = along_m * wave + np.float32(rng.uniform(0, 2 * np.pi))
        # Squared: each overtone bends the line less steeply, so that it winds instead of jumping to and fro.
        swing_m = np.float32(min(bend_m, wavelength_m * _STEEPEST) * share**2)
        line_m += swing_m * np.sin(phase)
        slope += swing_m * wave * np.cos(phase)
    distance_m: Float[Array, "row col"] = np.abs(across_m - line_m) / np.sqrt(1 + slope**2)
    return distance_m


@lru_cache(maxsize=64)
def _spline_weights(frame: Frame, spacing_m: float) -> Array:
    position = (np.arange(frame.num_pixels) + 0.5) * frame.detail_m / spacing_m
    first = np.floor(position).astype(np.intp)
    t = position - first
    weights = np.zeros((frame.num_pixels, int(frame.footprint_m / spacing_m) + 5), dtype=np.float32)
    rows = np.arange(frame.num_pixels)
    basis = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for offset, values in enumerate(basis):
        weights[rows, first + offset] = values / 6
    return weights


def _intervals(rng: np.random.Generator, position_m: Array, line: Array, spacing_m: float) -> tuple[Array, Array]:
    """Cut lines into intervals of about `spacing_m`; returns interval and distance to its nearer end."""
    cell = np.floor(position_m / np.float32(spacing_m)).astype(np.intp)
    cell -= int(cell.min()) - 1
    start_m = np.float32((int(np.floor(position_m.min() / spacing_m)) - 1) * spacing_m)
    num_lines, num_cells = int(line.max()) + 1, int(cell.max()) + 3
    shift_m = rng.uniform(-_BORDER_SHIFT, _BORDER_SHIFT, (num_lines, num_cells)) * spacing_m
    border_m = (start_m + np.arange(num_cells) * spacing_m + shift_m).astype(np.float32).ravel()
    at = line * num_cells + cell
    interval = cell - 1 + (position_m >= border_m[at]) + (position_m >= border_m[at + 1])
    low = line * num_cells + interval
    distance_m = np.minimum(position_m - border_m[low], border_m[low + 1] - position_m)
    return interval, distance_m


def _numbered(index: Array) -> tuple[Array, int]:
    """Renumber pieces 0, 1, 2 … without gaps, in their order."""
    present = np.bincount(index.ravel()) > 0
    number = np.cumsum(present) - 1
    return number[index].astype(np.int32), int(present.sum())
