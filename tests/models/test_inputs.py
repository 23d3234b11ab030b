"""Images that do not fit a network are refused in words."""

from dataclasses import replace

import pytest
import torch

from anyband.errors import InputError
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise, check_grid


def _image(*shape: int, ranges: int = 5) -> ImageBatch:
    return ImageBatch(pixels=torch.zeros(shape), mixing=torch.ones(shape[1], ranges) / ranges)


def _unchecked(image: ImageBatch, name: str, value: torch.Tensor) -> ImageBatch:
    """Change a field as a caller could outside the tests, where records do not check their shapes."""
    object.__setattr__(image, name, value)
    return image


def test_the_grid_counts_rows_before_columns() -> None:
    assert check_grid(_image(1, 2, 32, 48), patch_size=16, num_ranges=5) == (2, 3)


@pytest.mark.parametrize("size", [(30, 32), (32, 33), (0, 32), (8, 8)])
def test_sides_must_be_multiples_of_the_patch_size(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"can't be cut into patches of 16 × 16; both sides must be multiples of 16"):
        check_grid(_image(1, 2, *size), patch_size=16, num_ranges=5)


def test_a_wrong_band_count_is_refused() -> None:
    image = _unchecked(_image(1, 2, 16, 16), "mixing", torch.ones(3, 5) / 5)
    with pytest.raises(InputError, match="images have 2 bands, but the sensor declares 3"):
        check_grid(image, patch_size=16, num_ranges=5)


def test_a_mixing_matrix_of_another_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="is for 5 trained ranges, the network has 17"):
        check_grid(_image(1, 2, 16, 16), patch_size=16, num_ranges=17)


def test_valid_must_have_the_shape_of_the_pixels() -> None:
    image = _unchecked(_image(1, 2, 16, 16), "valid", torch.ones(1, 1, 16, 16, dtype=torch.bool))
    with pytest.raises(InputError, match=r"'valid' has shape \(1, 1, 16, 16\), the pixels \(1, 2, 16, 16\)"):
        check_grid(image, patch_size=16, num_ranges=5)


def test_moving_a_pair_moves_every_tensor() -> None:
    image = replace(_image(1, 2, 16, 16), valid=torch.ones(1, 2, 16, 16, dtype=torch.bool))
    pair = PairBatch(a=image, b=_image(1, 2, 16, 16)).to("meta")
    noise = PairNoise(mixup=torch.rand(1, 1), masking=torch.rand(1, 1)).to("meta")
    moved = [
        pair.a.pixels,
        pair.a.valid,
        pair.a.mixing,
        pair.b.pixels,
        pair.b.mixing,
        noise.mixup,
        noise.masking,
    ]
    assert all(tensor is not None and tensor.is_meta for tensor in moved)
    assert pair.b.valid is None
