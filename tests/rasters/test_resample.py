"""Pixels of one grid on another, against SciPy and by properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from anyband.errors import GeometryError
from anyband.rasters.grid import (
    IDENTITY,
    Axis,
    Grid,
    Placement,
    Transform,
    Window,
    place,
    resample_bilinear,
    resample_nearest,
    source_window,
)

_generator = np.random.default_rng(0)


def _placement(scale: float, offsets: tuple[float, float], shape: tuple[int, int]) -> Placement:
    return Placement(
        rows=Axis(scale=scale, offset=offsets[0], size=shape[0]),
        cols=Axis(scale=scale, offset=offsets[1], size=shape[1]),
    )


def _grid(transform: Transform, shape: tuple[int, int], crs: str | None = "EPSG:32633") -> Grid:
    return Grid(height=shape[0], width=shape[1], transform=transform, crs=crs, gsd_m=1.0)


def _resample(
    stored: np.ndarray, valid: np.ndarray, placement: Placement, window: Window
) -> tuple[np.ndarray, np.ndarray]:
    part = source_window(placement, window)
    assert part is not None
    cut = (slice(None), *part.slices)
    return resample_bilinear(stored[cut], valid[cut], placement=placement, part=part, window=window)


@settings(max_examples=60)
@given(
    scale=st.sampled_from([0.5, 1 / 6, 1.0, 2 / 3]),
    offsets=st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    seed=st.integers(0, 1000),
)
def test_bilinear_agrees_with_scipy(scale: float, offsets: tuple[float, float], seed: int) -> None:
    stored = np.random.default_rng(seed).uniform(0, 100, (1, 9, 11)).astype(np.float32)
    height, width = int(9 / scale), int(11 / scale)
    placement = _placement(scale, offsets, (9, 11))
    values, valid = _resample(
        stored, np.ones(stored.shape, dtype=bool), placement, Window(row=0, col=0, height=height, width=width)
    )
    rows = scale * (np.arange(height) + 0.5) + offsets[0] - 0.5
    cols = scale * (np.arange(width) + 0.5) + offsets[1] - 0.5
    expected = map_coordinates(stored[0], np.meshgrid(rows, cols, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(values[0][valid[0]], expected[valid[0]], rtol=1e-4, atol=1e-3)


@settings(max_examples=60)
@given(
    scale=st.sampled_from([0.5, 1 / 6, 1.0, 0.4]),
    offset=st.floats(-2.0, 2.0),
    row=st.integers(0, 8),
    col=st.integers(0, 8),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_a_window_has_the_pixels_of_the_whole(
    scale: float, offset: float, row: int, col: int, height: int, width: int
) -> None:
    stored = _generator.uniform(0, 100, (2, 9, 9)).astype(np.float32)
    valid = _generator.uniform(0, 1, stored.shape) > 0.3
    placement = _placement(scale, (offset, -offset), (9, 9))
    whole_values, whole_valid = _resample(stored, valid, placement, Window(row=0, col=0, height=18, width=18))
    window = Window(row=row, col=col, height=height, width=width)
    if source_window(placement, window) is None:
        assert not whole_valid[:, *window.slices].any()
        return
    values, kept = _resample(stored, valid, placement, window)
    np.testing.assert_array_equal(kept, whole_valid[:, *window.slices])
    np.testing.assert_allclose(values, whole_values[:, *window.slices], rtol=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), scale=st.sampled_from([0.5, 1 / 3]))
def test_missing_pixels_have_no_part_in_the_result(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    valid = generator.uniform(0, 1, (1, 8, 8)) > 0.4
    stored = np.where(valid, 7.0, 1e30).astype(np.float32)
    size = int(8 / scale)
    placement = _placement(scale, (0.0, 0.0), (8, 8))
    values, kept = _resample(stored, valid, placement, Window(row=0, col=0, height=size, width=size))
    np.testing.assert_allclose(values[kept], 7.0, rtol=1e-6)
    assert not values[~kept].any()


def test_a_pixel_is_valid_where_valid_pixels_carry_half_of_its_weight() -> None:
    stored, valid = np.ones((1, 1, 2), dtype=np.float32), np.array([[[True, False]]])
    placement = _placement(0.25, (0.0, 0.0), (1, 2))
    _, kept = _resample(stored, valid, placement, Window(row=0, col=0, height=4, width=8))
    assert kept[0, 0].tolist() == [True] * 4 + [False] * 4


def test_beyond_the_edge_nothing_is_valid() -> None:
    stored = np.ones((1, 4, 4), dtype=np.float32)
    placement = _placement(0.5, (-1.0, 0.5), (4, 4))
    _, kept = _resample(stored, stored > 0, placement, Window(row=0, col=0, height=8, width=8))
    assert kept[0, :, 0].tolist() == [False] * 2 + [True] * 6
    assert kept[0, 4].tolist() == [True] * 7 + [False]


def test_a_linear_slope_stays_one_inside() -> None:
    stored = np.tile(np.arange(10, dtype=np.float64), (1, 10, 1))
    placement = _placement(0.5, (0.0, 0.0), (10, 10))
    values, _ = _resample(stored, np.ones(stored.shape, bool), placement, Window(row=0, col=0, height=20, width=20))
    np.testing.assert_allclose(values[0, 5, 1:-1], np.arange(18) / 2 + 0.25)


def test_a_half_pixel_shift_is_kept_by_transforms() -> None:
    fine = (15.0, 0.0, 452467.5, 0.0, -15.0, 3408652.5)
    coarse = (30.0, 0.0, 452475.0, 0.0, -30.0, 3408645.0)
    placement = place(_grid(fine, (1207, 1254)), _grid(coarse, (603, 627)))
    assert (placement.rows.scale, placement.rows.offset) == pytest.approx((0.5, -0.25))
    assert (placement.cols.scale, placement.cols.offset) == pytest.approx((0.5, -0.25))


def test_written_digits_do_not_make_a_shift() -> None:
    exact = (8.983152841195215e-05, 0.0, -0.7818936232976315, 0.0, -8.983152841195215e-05, 38.12881257139627)
    rounded = (8.9831528e-05, 0.0, -0.78189362, 0.0, -8.9831528e-05, 38.12881257)
    assert place(_grid(exact, (512, 512)), _grid(rounded, (512, 512))) == _placement(1.0, (0.0, 0.0), (512, 512))


def test_turned_grids_are_refused() -> None:
    with pytest.raises(GeometryError, match="turned against each other"):
        place(_grid((10.0, 0.0, 0.0, 0.0, -10.0, 0.0), (50, 50)), _grid((9.0, 1.0, 0.0, 1.0, -9.0, 0.0), (50, 50)))


def test_grids_turned_alike_are_placed() -> None:
    turned = (8.0, 6.0, 100.0, 6.0, -8.0, 200.0)
    halved = (4.0, 3.0, 100.0, 3.0, -4.0, 200.0)
    placement = place(_grid(halved, (20, 20)), _grid(turned, (10, 10)))
    assert (placement.rows.scale, placement.cols.scale) == pytest.approx((0.5, 0.5))


def test_shapes_in_ratio_are_placed() -> None:
    assert place(_grid(IDENTITY, (120, 120), None), _grid(IDENTITY, (20, 20), None)) == _placement(
        1 / 6, (0.0, 0.0), (20, 20)
    )


def test_shapes_out_of_ratio_are_refused() -> None:
    with pytest.raises(GeometryError, match="in ratio, found 120 × 120 and 60 × 61 pixels"):
        place(_grid(IDENTITY, (120, 120), None), _grid(IDENTITY, (60, 61), None))


def test_nearest_repeats_pixels() -> None:
    stored = np.arange(6).reshape(2, 3)
    placement = _placement(0.5, (0.0, 0.0), (2, 3))
    part = Window(row=0, col=0, height=2, width=3)
    values, inside = resample_nearest(
        stored, placement=placement, part=part, window=Window(row=0, col=0, height=4, width=6)
    )
    np.testing.assert_array_equal(values, stored.repeat(2, axis=0).repeat(2, axis=1))
    assert inside.all()
