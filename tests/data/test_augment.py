"""Augmentation: equal to torchvision where it can be, registered where torchvision can't."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from anyband.data.resample import (
    Augmentation,
    AugmentOptions,
    apply,
    coarser_grid,
    draw_augmentation,
    input_corners,
    input_gsd_m,
    whole_footprint,
)
from anyband.errors import InputError, RecipeError


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _box(grid, first, size, *, transposed=False, flipped=(False, False)) -> Augmentation:
    return Augmentation(
        grid=grid,
        first=np.array([first]),
        size=np.array([size]),
        transposed=np.array([transposed]),
        flipped=np.array([flipped]),
    )


@settings(max_examples=30)
@given(
    height=st.integers(6, 40),
    width=st.integers(6, 40),
    img_size=st.integers(3, 48),
    where=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.2, 1)),
)
def test_a_crop_and_resize_equals_torchvision(height, width, img_size, where):
    side = max(2, round(where[2] * min(height, width)))
    first = (round(where[0] * (height - side)), round(where[1] * (width - side)))
    image = _noise(1, 3, height, width)

    ours, _ = apply(image, None, _box((height, width), first, (side, side)), img_size=img_size)

    theirs = vision.resized_crop(
        image,
        *first,
        side,
        side,
        [img_size, img_size],
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("flipped", [(False, False), (True, False), (False, True), (True, True)])
def test_turns_and_flips_act_on_the_resized_crop(transposed, flipped):
    image = _noise(1, 2, 12, 12)
    grid, first, size = (12, 12), (1, 3), (8, 8)
    plain, _ = apply(image, None, _box(grid, first, size), img_size=6)

    ours, _ = apply(image, None, _box(grid, first, size, transposed=transposed, flipped=flipped), img_size=6)

    expected = plain.mT if transposed else plain
    expected = expected.flip([axis for axis, flip in zip((2, 3), flipped, strict=True) if flip])
    torch.testing.assert_close(ours, expected)


def test_the_whole_footprint_at_its_own_size_is_unchanged_to_the_bit():
    image = _noise(2, 3, 16, 16)

    same, valid = apply(image, None, whole_footprint(2, grid=(16, 16)), img_size=16)

    assert torch.equal(same, image)
    assert valid is None


@settings(max_examples=30)
@given(fine=st.integers(20, 61), coarse=st.integers(8, 20), seed=st.integers(0, 10_000))
def test_two_resolutions_stay_registered_for_any_ratio(fine, coarse, seed):
    """Both images sample one linear field, which the kernel reproduces away from a crop's edge."""

    def field(side: int) -> torch.Tensor:
        position = (torch.arange(side) + 0.5) / side
        return (position[:, None] * 3 + position[None, :]).expand(1, 1, side, side).contiguous()

    grid = coarser_grid((fine, fine), (coarse, coarse))
    drawn = draw_augmentation(AugmentOptions(), seed=seed, step=0, samples=[0], grid=grid)

    a, _ = apply(field(fine), None, drawn, img_size=32)
    b, _ = apply(field(coarse), None, drawn, img_size=32)

    # Two coarse pixels from the edge nothing of the kernel is cut off. Half a pixel off would be 0.05.
    margin = int(np.ceil(2.5 * 32 / int(drawn.size[0, 0])))
    inner = slice(margin, 32 - margin)
    torch.testing.assert_close(a[..., inner, inner], b[..., inner, inner], atol=4e-3, rtol=0)


def test_no_pixel_outside_the_box_is_looked_at():
    image = _noise(1, 1, 20, 20)
    other = image.clone()
    other[..., :5, :] = 100.0
    other[..., :, 15:] = -100.0
    box = _box((20, 20), (5, 5), (10, 10))

    assert torch.equal(apply(image, None, box, img_size=16)[0], apply(other, None, box, img_size=16)[0])


def test_values_that_are_not_valid_never_count():
    image = _noise(2, 2, 24, 24)
    valid = torch.rand(2, 2, 24, 24, generator=torch.Generator().manual_seed(1)) > 0.3
    spoilt = image.masked_fill(~valid, float("nan"))
    drawn = draw_augmentation(AugmentOptions(), seed=3, step=1, samples=[4, 9], grid=(24, 24))

    clean, seen = apply(image, valid, drawn, img_size=16)
    same, _ = apply(spoilt, valid, drawn, img_size=16)

    assert torch.equal(clean, same)
    assert seen.any()
    assert torch.equal(clean[~seen], torch.zeros_like(clean[~seen]))


def test_a_constant_image_with_holes_stays_constant_where_it_is_valid():
    valid = torch.rand(1, 1, 30, 30, generator=torch.Generator().manual_seed(2)) > 0.4

    pixels, seen = apply(torch.full((1, 1, 30, 30), 7.0), valid, whole_footprint(1, grid=(30, 30)), img_size=48)

    torch.testing.assert_close(pixels[seen], torch.full_like(pixels[seen], 7.0), rtol=1e-5, atol=0)


def test_validity_covers_the_same_ground_as_the_valid_pixels():
    valid = torch.zeros(1, 1, 10, 10, dtype=torch.bool)
    valid[..., :5] = True

    _, seen = apply(torch.zeros(1, 1, 10, 10), valid, whole_footprint(1, grid=(10, 10)), img_size=40)

    assert torch.equal(seen, (torch.arange(40) < 20).expand(1, 1, 40, 40))


def test_all_valid_gives_the_same_as_no_validity():
    image = _noise(2, 3, 18, 18)
    drawn = draw_augmentation(AugmentOptions(), seed=0, step=0, samples=[1, 2], grid=(18, 18))

    plain, _ = apply(image, None, drawn, img_size=12)
    pixels, seen = apply(image, torch.ones_like(image, dtype=torch.bool), drawn, img_size=12)

    assert bool(seen.all())
    torch.testing.assert_close(pixels, plain)


def test_a_sample_draws_the_same_in_any_batch():
    options = AugmentOptions()
    together = draw_augmentation(options, seed=5, step=7, samples=[1, 2, 3], grid=(50, 50))
    alone = draw_augmentation(options, seed=5, step=7, samples=[2], grid=(50, 50))

    for name in ("first", "size", "transposed", "flipped"):
        assert np.array_equal(getattr(together, name)[1:2], getattr(alone, name))


def test_crops_are_square_and_of_the_declared_area_and_inside():
    grid = (40, 60)
    drawn = draw_augmentation(AugmentOptions(), seed=0, step=0, samples=range(2000), grid=grid)
    area = drawn.size.prod(axis=1) / (grid[0] * grid[1])

    assert np.array_equal(drawn.size[:, 0], drawn.size[:, 1])
    assert area.min() > 0.23
    assert area.max() <= 1600 / 2400
    assert bool(((drawn.first >= 0) & (drawn.first + drawn.size <= grid)).all())


@pytest.mark.parametrize(
    ("flips", "turns", "count"), [(True, True, 8), (True, False, 4), (False, True, 4), (False, False, 1)]
)
def test_flips_and_turns_reach_exactly_their_group(flips, turns, count):
    options = AugmentOptions(crop_area=(1.0, 1.0), flips=flips, quarter_turns=turns)
    samples = range(200)
    drawn = draw_augmentation(options, seed=1, step=0, samples=samples, grid=(2, 2))
    image = torch.arange(4.0).reshape(1, 1, 2, 2).repeat(len(samples), 1, 1, 1)

    seen = {tuple(one.flatten().round().int().tolist()) for one in apply(image, None, drawn, img_size=2)[0]}

    turned = {tuple(np.rot90(np.arange(4).reshape(2, 2), k).ravel().tolist()) for k in range(4)}
    assert len(seen) == count
    assert seen <= turned or flips


def test_augmentation_that_is_off_takes_the_whole_footprint():
    drawn = draw_augmentation(AugmentOptions(enabled=False), seed=0, step=0, samples=[3], grid=(9, 9))

    assert np.array_equal(drawn.size, [[9, 9]])
    assert not drawn.transposed.any()
    assert not drawn.flipped.any()


def test_a_crop_area_over_the_footprint_is_refused():
    with pytest.raises(RecipeError, match=r"0 < least <= largest <= 1, found 0\.5 to 1\.5"):
        AugmentOptions(crop_area=(0.5, 1.5))


def test_an_augmentation_of_another_batch_is_refused():
    with pytest.raises(InputError, match="an augmentation of 2 samples for a batch of 3"):
        apply(torch.zeros(3, 1, 4, 4), None, whole_footprint(2, grid=(4, 4)), img_size=4)


def _any_augmentation(seed: int, count: int, grid: tuple[int, int]) -> Augmentation:
    return draw_augmentation(AugmentOptions(), seed=seed, step=0, samples=range(count), grid=grid)


def test_a_grid_of_many_images_has_the_fewest_rows_and_the_fewest_columns():
    assert coarser_grid((8, 30), (12, 20), (40, 40)) == (8, 20)


def test_images_get_the_augmentation_of_their_sample():
    drawn = _any_augmentation(0, 3, (40, 40))
    image = _noise(3, 1, 20, 20)
    samples = np.array([2, 0, 0, 1])

    together, _ = apply(image[samples], None, drawn.of(samples), img_size=12)

    assert torch.equal(together, apply(image, None, drawn, img_size=12)[0][samples])


# A turned chip, so that rows and columns change both coordinates.
_CORNERS = np.array([[(10.0, 50.0), (10.8, 49.8), (10.6, 49.2), (9.8, 49.4)]])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    grid=st.tuples(st.integers(5, 30), st.integers(5, 30)),
    img_size=st.integers(4, 12),
)
def test_corners_are_those_of_an_affine_that_follows_each_step(seed, grid, img_size):
    """The second opinion: a matrix for each step, from the result's pixels to the chip's to the ground."""
    drawn = _any_augmentation(seed, 1, grid)
    upper_left, upper_right, _, lower_left = _CORNERS[0]
    ground = np.eye(3)
    ground[:2] = np.stack(
        [(upper_right - upper_left) / grid[1], (lower_left - upper_left) / grid[0], upper_left], axis=1
    )
    (row, col), (height, width) = drawn.first[0], drawn.size[0]
    crop = np.array([[width / img_size, 0, col], [0, height / img_size, row], [0, 0, 1]])
    turn = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) if drawn.transposed[0] else np.eye(3)
    flip = np.eye(3)
    for axis, position in ((1, 0), (0, 1)):
        if drawn.flipped[0, axis]:
            flip[position] = [-(position == 0), -(position == 1), img_size]
    pixels = np.array([(0, 0, 1), (img_size, 0, 1), (img_size, img_size, 1), (0, img_size, 1)]).T

    expected = (ground @ crop @ turn @ flip @ pixels)[:2].T

    np.testing.assert_allclose(input_corners(drawn, _CORNERS[None])[0, 0], expected, atol=1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), fine=st.integers(30, 60), coarse=st.integers(16, 30))
def test_corners_agree_with_the_pixels_of_a_painted_position(seed, fine, coarse):
    """Each pixel is painted with where it lies; what stands in a corner of the result says where that corner lies."""
    drawn = _any_augmentation(seed, 1, (coarse, coarse))
    chip = _CORNERS[0]

    def painted(side: int) -> torch.Tensor:
        share = (np.arange(side) + 0.5) / side
        across, down = chip[1] - chip[0], chip[3] - chip[0]
        position = chip[0] + share[:, None, None] * down + share[None, :, None] * across
        return torch.from_numpy(np.moveaxis(position - chip[0], 2, 0)[None]).float()

    for side in (fine, coarse):
        size = 24
        seen = apply(painted(side), None, drawn, img_size=size)[0][0].numpy().astype(np.float64)
        corners = input_corners(drawn, chip[None, None])[0, 0] - chip[0]
        step_col, step_row = (corners[1] - corners[0]) / size, (corners[3] - corners[0]) / size
        # In the middle nothing of the kernel is cut off, so the painted field is reproduced there.
        middle = corners[0] + 11.5 * step_col + 11.5 * step_row
        np.testing.assert_allclose(seen[:, 11, 11], middle, atol=2e-3)
        # Near the corners the kernel leans inwards, by less than a pixel of the chip.
        pixel = np.abs(chip[1] - chip[0]).max() / side
        for corner, (y, x) in zip(corners, ((0, 0), (0, -1), (-1, -1), (-1, 0)), strict=True):
            half = 0.5 * (np.abs(step_col) + np.abs(step_row)).max()
            assert np.abs(seen[:, y, x] - corner).max() < pixel + half


def test_the_corners_of_an_image_that_is_not_changed_are_its_own():
    found = input_corners(whole_footprint(1, grid=(9, 7)), _CORNERS[None])
    assert np.array_equal(found[0], _CORNERS)


def test_corners_that_are_not_known_stay_so():
    corners = np.stack([_CORNERS[0], np.full((4, 2), np.nan)])[None]
    found = input_corners(_any_augmentation(3, 1, (20, 20)), corners)
    assert np.isfinite(found[0, 0]).all()
    assert np.isnan(found[0, 1]).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_a_chip_across_longitude_180_is_cut_as_one_beside_it(seed):
    drawn = _any_augmentation(seed, 1, (20, 20))
    moved = _CORNERS + np.array([170.0 - 0.3, 0.0])
    wrapped = np.where(moved > 180, moved - 360, moved)
    assert wrapped[..., 0].min() < -179

    found = input_corners(drawn, wrapped[None])[0, 0]

    beside = input_corners(drawn, _CORNERS[None])[0, 0] + np.array([169.7, 0.0])
    assert np.abs(found[:, 0]).max() <= 180
    np.testing.assert_allclose((found - beside + 180) % 360, 180, atol=1e-9)


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), img_size=st.integers(4, 60))
def test_input_pixels_cover_the_ground_between_the_input_corners(seed, img_size):
    drawn = _any_augmentation(seed, 2, (24, 36))
    shape_px = np.array([[(24, 36), (48, 72)]] * 2)
    gsd_m = np.array([[20.0, 10.0]] * 2)
    # One degree is taken as 10 m, so that the corners are metres.
    corners = np.array([(0, 48), (72, 48), (72, 0), (0, 0)], dtype=np.float64)
    metres = input_corners(drawn, np.broadcast_to(corners, (2, 2, 4, 2))) * 10
    sides = np.linalg.norm(np.diff(metres, axis=2), axis=-1)[..., :2]

    found = input_gsd_m(drawn, gsd_m, shape_px, img_size=img_size)

    np.testing.assert_allclose(found, np.sqrt(sides.prod(axis=-1)) / img_size)
    assert np.isnan(input_gsd_m(drawn, gsd_m * np.nan, shape_px, img_size=img_size)).all()
