"""Resizing to any shape and by either kernel, and maps that follow the augmentation of their images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2.functional import InterpolationMode, resize

from anyband.data.resample import (
    Augmentation,
    AugmentOptions,
    Interpolation,
    apply,
    apply_to_map,
    draw_augmentation,
    resized,
    whole_footprint,
)
from anyband.errors import InputError

_MODES = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(7, 11), (40, 13), (64, 64), (24, 30)])
def test_resizing_is_that_of_torchvision(shape: tuple[int, int], interpolation: Interpolation) -> None:
    pixels = torch.randn(2, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    found, valid = resized(pixels, None, shape=shape, interpolation=interpolation)
    expected = resize(pixels, list(shape), interpolation=_MODES[interpolation], antialias=True)
    assert valid is None
    assert torch.allclose(found, expected, atol=1e-5)


def test_bilinear_resizing_of_whole_images_is_that_of_torchvision() -> None:
    pixels = torch.randn(2, 3, 50, 30, generator=torch.Generator().manual_seed(0))
    whole = whole_footprint(2, grid=(50, 30))
    found, _ = apply(pixels, None, whole, img_size=16, interpolation="bilinear")
    expected = resize(pixels, [16, 16], interpolation=InterpolationMode.BILINEAR, antialias=True)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_what_is_not_valid_never_reaches_a_resized_image(interpolation: Interpolation) -> None:
    pixels, valid = torch.ones(1, 1, 12, 12), torch.ones(1, 1, 12, 12, dtype=torch.bool)
    pixels[..., 3:7, 2:9], valid[..., 3:7, 2:9] = 1e9, False
    found, seen = resized(pixels, valid, shape=(9, 5), interpolation=interpolation)
    assert seen is not None
    assert torch.allclose(found[seen], torch.ones(()))
    assert 0 < int(seen.sum()) < 45
    assert (found[~seen] == 0).all()


@settings(max_examples=40)
@given(seed=st.integers(0, 999), size=st.sampled_from([5, 8, 16]))
def test_a_map_moves_as_its_image_does(seed: int, size: int) -> None:
    """A box of the output's size lies on the map's own pixels: then image and map hold the same numbers."""
    values = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(seed))
    drawn = draw_augmentation(AugmentOptions(), seed=seed, step=0, samples=range(4), grid=(16, 16))
    boxes = replace(drawn, first=drawn.first.clip(0, 16 - size), size=np.full((4, 2), size))
    image, _ = apply(values[:, None], None, boxes, img_size=size)
    assert torch.allclose(apply_to_map(values, boxes, img_size=size), image[:, 0], atol=1e-6)


@settings(max_examples=40)
@given(seed=st.integers(0, 999), height=st.integers(1, 20), width=st.integers(1, 20), img_size=st.integers(1, 24))
def test_a_resampled_map_takes_the_pixel_under_each_centre(seed: int, height: int, width: int, img_size: int) -> None:
    values = torch.arange(height * width).view(1, height, width)
    boxes = draw_augmentation(
        AugmentOptions(flips=False, quarter_turns=False), seed=seed, step=0, samples=[0], grid=(height, width)
    )
    found = apply_to_map(values, boxes, img_size=img_size)[0]
    (row, col), (rows, cols) = boxes.first[0], boxes.size[0]
    for i in range(img_size):
        for j in range(img_size):
            # Twice the position and its integer part, so that a border is met exactly.
            y = (2 * row * img_size + (2 * i + 1) * rows) // (2 * img_size)
            x = (2 * col * img_size + (2 * j + 1) * cols) // (2 * img_size)
            assert found[i, j] == values[0, y, x]


def test_labels_and_missing_numbers_stay_what_they_are() -> None:
    boxes = draw_augmentation(AugmentOptions(), seed=1, step=0, samples=[0, 1], grid=(10, 10))
    labels = torch.randint(-1, 3, (2, 10, 10), generator=torch.Generator().manual_seed(0))
    numbers = torch.where(labels < 0, torch.nan, labels.float())
    found, found_numbers = (apply_to_map(one, boxes, img_size=17) for one in (labels, numbers))
    assert found.dtype == torch.int64
    assert set(found.unique().tolist()) <= {-1, 0, 1, 2}
    assert torch.equal(torch.where(found < 0, torch.nan, found.float()).nan_to_num(-9), found_numbers.nan_to_num(-9))


def test_maps_need_one_draw_each() -> None:
    boxes: Augmentation = whole_footprint(3, grid=(4, 4))
    with pytest.raises(InputError, match="an augmentation of 3 samples for a batch of 2"):
        apply_to_map(torch.zeros(2, 4, 4), boxes, img_size=4)
