"""Images that do not fit a network are refused in words."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyband.errors import InputError
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, SetNoise, check_sets


def _image(*shape: int, ranges: int = 5) -> ImageBatch:
    return ImageBatch(pixels=torch.zeros(shape), mixing=torch.ones(shape[1], ranges) / ranges)


def _unchecked(image: ImageBatch, name: str, value: torch.Tensor) -> ImageBatch:
    """Change a field as a caller could outside the tests, where records do not check their shapes."""
    object.__setattr__(image, name, value)
    return image


def test_the_grid_counts_rows_before_columns() -> None:
    assert check_sets(SetBatch(groups=(_image(1, 2, 32, 48),)), patch_size=16, num_ranges=5) == (2, 3)


@pytest.mark.parametrize("size", [(30, 32), (32, 33), (0, 32), (8, 8)])
def test_sides_must_be_multiples_of_the_patch_size(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"can't be cut into patches of 16 × 16; both sides must be multiples of 16"):
        check_sets(SetBatch(groups=(_image(1, 2, *size),)), patch_size=16, num_ranges=5)


def test_a_wrong_band_count_is_refused() -> None:
    image = _unchecked(_image(1, 2, 16, 16), "mixing", torch.ones(3, 5) / 5)
    with pytest.raises(InputError, match="images have 2 bands, but the sensor declares 3"):
        check_sets(SetBatch(groups=(image,)), patch_size=16, num_ranges=5)


def test_a_mixing_matrix_of_another_checkpoint_is_refused() -> None:
    with pytest.raises(InputError, match="is for 5 trained ranges, the network has 17"):
        check_sets(SetBatch(groups=(_image(1, 2, 16, 16),)), patch_size=16, num_ranges=17)


def test_valid_must_have_the_shape_of_the_pixels() -> None:
    image = _unchecked(_image(1, 2, 16, 16), "valid", torch.ones(1, 1, 16, 16, dtype=torch.bool))
    with pytest.raises(InputError, match=r"'valid' has shape \(1, 1, 16, 16\), the pixels \(1, 2, 16, 16\)"):
        check_sets(SetBatch(groups=(image,)), patch_size=16, num_ranges=5)


def test_moving_a_batch_moves_every_tensor() -> None:
    image = replace(_image(1, 2, 16, 16), valid=torch.ones(1, 2, 16, 16, dtype=torch.bool))
    batch = SetBatch(
        groups=(image, _image(1, 2, 16, 16)),
        rows=torch.tensor([[0, 1]]),
        same_source=torch.tensor([[True, False]]),
        first_slot=torch.zeros(1, dtype=torch.int64),
        metadata=SetMetadata.unknown(1, 2),
        partnered=True,
    ).to("meta")
    noise = SetNoise(mixup=torch.rand(1, 1), masking=torch.rand(1, 2, 1), hides_last=True).to("meta")
    first, second = batch.groups
    moved = [first.pixels, first.valid, first.mixing, second.pixels, batch.rows, batch.same_source, batch.first_slot]
    assert all(tensor.is_meta for tensor in [*moved, *vars(batch.metadata).values(), noise.mixup, noise.masking])
    assert (second.valid, noise.tying, batch.partnered, noise.hides_last) == (None, None, True, True)


@given(seed=st.integers(0, 99), sets=st.integers(1, 4), slots=st.integers(1, 4))
def test_what_goes_to_the_groups_comes_back_to_the_slots(seed: int, sets: int, slots: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.bincount(torch.randint(0, 3, (sets * slots,), generator=draw), minlength=3).tolist()
    groups = tuple(_image(count, 1, 16, 16) for count in counts if count)
    rows = torch.randperm(sets * slots, generator=draw).view(sets, slots)
    batch = SetBatch(groups=groups, rows=rows)
    values = torch.rand(sets, slots, 3, generator=draw)
    of_groups = batch.to_groups(values.unbind(1))
    assert torch.equal(torch.cat(of_groups)[rows], values)
    assert torch.equal(torch.stack(batch.to_slots(of_groups), dim=1), values)


def test_groups_without_rows_are_the_slots() -> None:
    batch = SetBatch(groups=(_image(3, 2, 16, 16), _image(3, 1, 16, 16)))
    assert batch.shape == (3, 2)
    slots = [torch.zeros(3), torch.ones(3)]
    assert all(one is other for one, other in zip(batch.to_groups(slots), slots, strict=True))
