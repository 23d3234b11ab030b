"""The fast way of a pair to the network against the slow one: sample by sample, in float64, with torchvision.

The fast way decodes batches of native numbers and standardises, crops, resizes, turns and flips them on the device. The
slow way takes each chip alone and does one thing after the other. They agree to a thousandth of a standard deviation.
"""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from anyband.data.resample import coarser_grid, draw_augmentation
from anyband.data.store import ChipStore
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import load_recipe

_IMG_SIZE = 48
_NEAR = 1e-3


def _slow(dn, normalisation, box, *, first, size, transposed, flipped):
    """Standardise a chip in float64, cut it, resize the cut, transpose and flip it."""
    per_band = {
        name: np.array(getattr(normalisation, name))[:, None, None]
        for name in ("scale", "offset", "p01", "p99", "mean", "std")
    }
    physical = dn.astype(np.float64) * per_band["scale"] + per_band["offset"]
    scaled = (np.clip(physical, per_band["p01"], per_band["p99"]) - per_band["p01"]) / (
        per_band["p99"] - per_band["p01"]
    )
    standard = torch.from_numpy((scaled - per_band["mean"]) / per_band["std"])
    rows, cols = (number * side // cells for number, side, cells in zip(first, dn.shape[1:], box, strict=True))
    height, width = (number * side // cells for number, side, cells in zip(size, dn.shape[1:], box, strict=True))
    cut = vision.resized_crop(
        standard,
        int(rows),
        int(cols),
        int(height),
        int(width),
        [_IMG_SIZE, _IMG_SIZE],
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    turned = cut.mT if transposed else cut
    return turned.flip([axis for axis, flip in ((1, flipped[0]), (2, flipped[1])) if flip])


@pytest.mark.parametrize("step", [0, 3])
def test_what_reaches_the_network_is_what_the_slow_way_gives(pair_store, step):
    recipe = load_recipe("smarties_tiny", [f"model.img_size={_IMG_SIZE}", "optim.batch_size=8", "run.accelerator=cpu"])
    plan = plan_run(recipe, ChipStore.open(pair_store))
    draw = plan.samples.sampler(batch_size=8, seed=0).batch(step)
    raw = plan.samples.read(draw)
    preparer = BatchPreparer(recipe, plan.inputs, device=torch.device("cpu"))
    pair, _ = preparer.finish(preparer.draw(raw, step=step))
    box = coarser_grid(*(tuple(group.pixels.shape[2:]) for group in raw.groups))
    assert box == draw.grid
    drawn = draw_augmentation(recipe.data.augment, seed=recipe.seed, step=step, samples=draw.samples.tolist(), grid=box)
    compared = 0
    for ours, stored in zip(pair.groups, raw.groups, strict=True):
        dn, valid, array = stored.pixels, stored.valid, stored.array
        kept = list(plan.inputs[array].assignment.kept_index)
        for sample in range(8):
            if valid is not None and not valid[sample].all():
                continue
            expected = _slow(
                dn[sample].numpy(),
                plan.inputs[array].statistics,
                box,
                first=drawn.first[sample],
                size=drawn.size[sample],
                transposed=drawn.transposed[sample],
                flipped=drawn.flipped[sample],
            )
            difference = (ours.pixels[sample].double() - expected[kept]).abs().max()
            assert float(difference) < _NEAR
            compared += 1
    assert compared >= 8


def test_another_crop_would_be_noticed(pair_store):
    recipe = load_recipe("smarties_tiny", [f"model.img_size={_IMG_SIZE}", "optim.batch_size=8", "run.accelerator=cpu"])
    plan = plan_run(recipe, ChipStore.open(pair_store))
    raw = plan.samples.read(plan.samples.sampler(batch_size=8, seed=0).batch(0))
    preparer = BatchPreparer(recipe, plan.inputs, device=torch.device("cpu"))
    first, other = (preparer.finish(preparer.draw(raw, step=step))[0].groups[0].pixels for step in (0, 1))
    assert float((first - other).abs().max()) > 100 * _NEAR
