"""Mixup and cutmix of the images of samples."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from anyband.evaluate.finetune import mixed_samples
from anyband.evaluate.recipe import AugmentRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.models.inputs import ImageBatch
from anyband.randomness import generator

_MIXUP, _CUTMIX = AugmentRecipe(mixup=0.8), AugmentRecipe(cutmix=1.0)


def _batch(count: int = 6, *, holes: bool = False) -> TaskBatch:
    draw = np.random.default_rng(0)
    images = []
    for bands in (2, 3):
        pixels = torch.from_numpy(draw.normal(size=(count, bands, 16, 16))).float()
        valid = torch.from_numpy(draw.random(pixels.shape) < 0.8) if holes else None
        if valid is not None:
            pixels = torch.where(valid, pixels, 0.0)
        images.append(ImageBatch(pixels=pixels, valid=valid, mixing=torch.ones(bands, 1)))
    return TaskBatch(images=tuple(images), sensors=("a", "b"), samples=np.arange(count))


def _one_hot(count: int = 6) -> torch.Tensor:
    return torch.eye(count)


def test_nothing_is_mixed_unless_asked_for() -> None:
    batch, targets = _batch(), _one_hot()
    assert mixed_samples(batch, targets, AugmentRecipe(), seed=0, step=0) == (batch, targets)


@pytest.mark.parametrize("recipe", [_MIXUP, _CUTMIX, AugmentRecipe(mixup=0.8, cutmix=1.0)])
@pytest.mark.parametrize("step", range(4))
def test_pixels_and_targets_are_those_of_timm(recipe: AugmentRecipe, step: int) -> None:
    batch = _batch()
    mixed, shares = mixed_samples(batch, _one_hot(), recipe, seed=1, step=step)
    pixels = torch.cat([image.pixels for image in batch.images], dim=1)
    mixer = Mixup(mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, label_smoothing=0.0, num_classes=6)
    np.random.seed(int(generator(1, step=step, sample=0, purpose="mixup").integers(2**32)))  # noqa: NPY002
    expected, soft = mixer(pixels.clone(), torch.arange(6))
    torch.testing.assert_close(torch.cat([image.pixels for image in mixed.images], dim=1), expected)
    torch.testing.assert_close(shares, soft)


def test_targets_are_mixed_in_the_shares_of_the_pixels() -> None:
    batch = _batch()
    mixed, shares = mixed_samples(batch, _one_hot(), _MIXUP, seed=0, step=0)
    own = float(shares[1, 1])
    before = batch.images[0].pixels
    assert 0 < own < 1
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(mixed.images[0].pixels[1], own * before[1] + (1 - own) * before[4])
    assert float(shares[1, 4]) == pytest.approx(1 - own)


def test_a_box_of_cutmix_stands_in_one_place_in_all_images_of_a_sample() -> None:
    batch = _batch()
    mixed, shares = mixed_samples(batch, _one_hot(), _CUTMIX, seed=0, step=0)
    changed = [
        (after.pixels != before.pixels).any(dim=1) for after, before in zip(mixed.images, batch.images, strict=True)
    ]
    assert torch.equal(changed[0], changed[1])
    assert float(changed[0][1].float().mean()) == pytest.approx(1 - float(shares[1, 1]))


def test_the_first_sample_of_an_odd_batch_is_left_as_it_is() -> None:
    batch = _batch(5)
    mixed, shares = mixed_samples(batch, _one_hot(5), _MIXUP, seed=0, step=0)
    torch.testing.assert_close(mixed.images[0].pixels[0], batch.images[0].pixels[0])
    torch.testing.assert_close(shares[0], _one_hot(5)[0])
    assert float(shares[1, 1]) < 1
    assert len(mixed.samples) == len(mixed.images[0].pixels) == len(shares) == 5


@pytest.mark.parametrize("step", range(3))
def test_a_mixed_pixel_has_data_where_both_have(step: int) -> None:
    batch = _batch(holes=True)
    mixed, _ = mixed_samples(batch, _one_hot(), _MIXUP, seed=0, step=step)
    before, after = batch.images[0], mixed.images[0]
    assert torch.equal(after.valid, before.valid & before.valid.flip(0))
    assert not after.pixels[~after.valid].any()


def test_a_pixel_in_the_box_of_cutmix_has_data_where_the_other_has() -> None:
    batch = _batch(holes=True)
    mixed, _ = mixed_samples(batch, _one_hot(), _CUTMIX, seed=0, step=0)
    before, after = batch.images[0], mixed.images[0]
    from_other = after.pixels == before.pixels.flip(0)
    expected = torch.where(from_other & (after.pixels != 0), before.valid.flip(0), before.valid)
    assert torch.equal(after.valid[after.pixels != 0], expected[after.pixels != 0])


def test_equal_steps_mix_alike_and_other_steps_do_not() -> None:
    first, again, other = (mixed_samples(_batch(), _one_hot(), _MIXUP, seed=3, step=step)[1] for step in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_callers_numpy_state_and_images_stay() -> None:
    batch = _batch()
    before = batch.images[0].pixels.clone()
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    mixed_samples(batch, _one_hot(), _CUTMIX, seed=0, step=0)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(batch.images[0].pixels, before)
