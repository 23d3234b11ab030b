"""Overlapping windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.rasters.grid import Blender, Window, window_starts


@given(st.integers(1, 90), st.data())
def test_windows_cover_an_axis_and_none_reaches_outside(size: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, size))
    starts = window_starts(size, window, data.draw(st.integers(1, window)))
    covered = np.zeros(size, dtype=bool)
    for start in starts:
        covered[start : start + window] = True
    assert covered.all()
    assert starts[0] == 0
    assert starts[-1] + window == size
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(("size", "window", "step"), [(10, 11, 1), (10, 4, 5), (10, 4, 0)])
def test_windows_that_leave_gaps_are_refused(size: int, window: int, step: int) -> None:
    with pytest.raises(InputError, match=f"do not cover an axis of {size}"):
        window_starts(size, window, step)


def _blended(image: np.ndarray, *, window: int, step: int, num_rows: int, noise: float = 0.0) -> np.ndarray:
    height, width = image.shape[1:]
    rows, draw = window_starts(height, window, step), np.random.default_rng(0)
    blender = Blender(num_bands=len(image), width=width, window=window, num_rows=num_rows)
    parts = []
    for row, last in zip(rows, [*rows[1:], height], strict=True):
        for col in window_starts(width, window, step):
            part = image[:, row : row + window, col : col + window]
            blender.add(
                Window(row=row, col=col, height=window, width=window),
                (part + noise * draw.normal(size=(len(image), 1, 1))).astype(np.float32),
            )
        while (left := last - blender.first_row) >= num_rows or (last == height and left):
            parts.append(blender.take(min(left, num_rows)))
    return np.concatenate(parts, axis=1)


@given(st.integers(4, 12), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20))
def test_windows_of_one_image_give_it_back(window: int, num_rows: int, more_rows: int, more_cols: int) -> None:
    image = np.random.default_rng(1).normal(size=(2, window + more_rows, window + more_cols)).astype(np.float32)
    blended = _blended(image, window=window, step=window // 2, num_rows=num_rows)
    assert np.allclose(blended, image, atol=1e-5)


def test_windows_that_differ_join_without_a_step() -> None:
    flat = np.zeros((1, 64, 64), dtype=np.float32)
    blended = _blended(flat, window=32, step=16, num_rows=16, noise=1.0)
    # Windows differ by about 1; neighbours differ by what a ramp of 16 pixels makes of that, and a little more.
    assert max(np.abs(np.diff(blended, axis=1)).max(), np.abs(np.diff(blended, axis=2)).max()) < 0.3
    assert np.ptp(blended) > 0.5


def test_strips_are_what_the_whole_would_be() -> None:
    image = np.random.default_rng(1).normal(size=(2, 70, 40)).astype(np.float32)
    whole = _blended(image, window=20, step=10, num_rows=70, noise=1.0)
    assert np.allclose(_blended(image, window=20, step=10, num_rows=7, noise=1.0), whole, atol=1e-6)


def test_where_there_is_no_window_there_is_no_number() -> None:
    blender = Blender(num_bands=1, width=8, window=4, num_rows=4)
    blender.add(Window(row=0, col=2, height=4, width=4), np.ones((1, 4, 4), dtype=np.float32))
    taken = blender.take(4)
    assert np.isfinite(taken[0]).tolist() == [[2 <= col < 6 for col in range(8)]] * 4
