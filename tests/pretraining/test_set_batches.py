"""Sets as the network takes them: registered, with facts that follow the crop, and draws that nothing else changes."""

import numpy as np
import pytest
import torch

from anyband.data.resample import AugmentOptions, draw_augmentation, input_corners
from anyband.data.store import ChipStore
from anyband.models.encodings import corner_bits
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.plan import plan_run

_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(set_store, set_recipe):
    return plan_run(set_recipe, ChipStore.open(set_store))


@pytest.fixture(scope="module")
def prepare(plan):
    """Prepare the batch of a step, or a part of it: `prepare(step, which, sets={...}, model={...})`."""

    def make(step: int, which: slice = slice(None), *, augment: AugmentOptions | None = None, **changes):
        recipe = plan.recipe
        model = recipe.model.changed(**changes.get("model", {}))
        sets = recipe.data.sets.changed(**changes.get("sets", {}))
        recipe = recipe.changed(model=model, data=recipe.data.changed(sets=sets))
        draw = _sampler(plan).batch(step).at(which)
        preparer = BatchPreparer(recipe, plan.inputs, device=_CPU)
        return draw, *preparer.finish(preparer.draw(plan.samples.read(draw), step=step, augment=augment))

    return make


def _sampler(plan, batch_size: int = 8):
    return plan.samples.sampler(batch_size=batch_size, seed=plan.recipe.seed)


def _images(batch):
    """Give the pixels of each image of the batch by (set, slot)."""
    every = [pixels for group in batch.groups for pixels in group.pixels]
    return [[every[row] for row in rows] for rows in batch.rows.tolist()]


def _large_step(plan) -> int:
    """Find a step whose sets have three images of two sources."""
    sampler = _sampler(plan)
    return next(step for step in range(100) if (d := sampler.batch(step)).chips.shape[1] == 3 and d.partnered)


def test_each_image_stands_in_the_slot_that_was_drawn_for_it(plan, prepare):
    draw, batch, _ = prepare(_large_step(plan), augment=AugmentOptions(enabled=False))
    sensors = np.array(plan.store.index.column("sensor").to_pylist())[draw.chips]
    bands = {"sentinel2-l2a": 3, "sentinel1-grd": 2}
    found = [[len(image) for image in one] for one in _images(batch)]
    assert found == [[bands[name] for name in one] for one in sensors]
    assert batch.partnered
    assert (sensors[:, 0] != sensors[:, 1]).all()
    assert (batch.same_source.numpy() == (sensors == sensors[:, :1])).all()


def test_all_images_of_a_set_are_augmented_alike(plan, prepare):
    """Radar is made from the optical ground, so their images agree wherever both are cut and turned alike."""
    _, batch, _ = prepare(_large_step(plan))
    correlations = []
    for one in _images(batch):
        optical = [image[0] for image in one if len(image) == 3]
        radar = [image[0] for image in one if len(image) == 2]
        if optical and radar:
            correlations.append(np.corrcoef(optical[0].flatten(), radar[0].flatten())[0, 1])
    assert len(correlations) >= 4
    # Radar is the optical ground with its sign reversed.
    assert np.median(correlations) < -0.8


def test_corners_and_pixel_size_follow_the_crop(plan, prepare):
    step = _large_step(plan)
    draw, batch, _ = prepare(step, sets={"metadata_dropout": 0.0})
    recipe = plan.recipe
    drawn = draw_augmentation(
        recipe.data.augment,
        seed=recipe.seed,
        step=step,
        samples=draw.samples.tolist(),
        grid=plan.samples.sets.grid,
    )
    raw = plan.samples.read(draw)
    corners = input_corners(drawn, raw.metadata["corners_deg"])
    assert torch.equal(batch.metadata.corner_bits, torch.from_numpy(corner_bits(corners)))
    # 240 m of ground, of which the crop takes a share, on 16 pixels: for every sensor the same.
    share = drawn.size[:, 0] / drawn.grid[0]
    expected = np.repeat(240 * share[:, None] / 16, draw.chips.shape[1], axis=1)
    np.testing.assert_allclose(batch.metadata.input_gsd_m.numpy(), expected, rtol=1e-6)
    assert set(batch.metadata.gsd_m.flatten().tolist()) == {10.0, 20.0}


def test_a_date_that_the_store_lacks_is_unknown(plan, prepare):
    steps = [prepare(step, sets={"metadata_dropout": 0.0}) for step in range(6)]
    for draw, batch, _ in steps:
        known = np.array([time is not None for time in plan.store.index.column("datetime").to_pylist()])[draw.chips]
        assert (batch.metadata.year.isfinite().numpy() == known).all()
        assert (batch.metadata.day_of_year.isfinite().numpy() == known).all()
    assert any(batch.metadata.year.isnan().any() for _, batch, _ in steps)


def test_a_part_of_a_batch_is_prepared_as_in_the_whole(plan, prepare):
    step = _large_step(plan)
    _, whole, noise = prepare(step)
    part = slice(3, 6)
    _, own, own_noise = prepare(step, part)
    for ours, theirs in zip(_images(own), _images(whole)[part], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for name, tensor in vars(own.metadata).items():
        torch.testing.assert_close(tensor, getattr(whole.metadata, name)[part], rtol=0, atol=0, equal_nan=True)
    for name in ("masking", "mixup"):
        assert torch.equal(getattr(own_noise, name), getattr(noise, name)[part])
    assert own_noise.hides_last == noise.hides_last


def test_another_step_or_seed_draws_anew(plan, prepare):
    step = _large_step(plan)
    _, _, noise = prepare(step)
    draw = _sampler(plan).batch(step)
    raw = plan.samples.read(draw)
    for recipe, at in ((plan.recipe, step + 1), (plan.recipe.changed(seed=9), step)):
        preparer = BatchPreparer(recipe, plan.inputs, device=_CPU)
        _, other = preparer.finish(preparer.draw(raw, step=at))
        assert not torch.equal(other.masking, noise.masking)


def test_numbers_for_masking_tying_and_mixup_are_others(plan, prepare):
    step = _large_step(plan)
    _, _, noise = prepare(step, model={"masking": "hybrid", "sequence": "joint"})
    assert prepare(step)[2].tying is None
    assert torch.equal(prepare(step)[2].masking, noise.masking)
    every = torch.cat([noise.masking.flatten(), noise.tying.flatten(), noise.mixup.flatten()])
    assert len(every.unique()) > 0.99 * len(every)
    assert 0 <= every.min() < every.max() < 1


def test_the_declared_share_of_facts_is_hidden_and_only_in_training(plan, prepare):
    hidden, count = 0, 0
    for step in range(40):
        _, batch, _ = prepare(step, sets={"metadata_dropout": 0.3})
        hidden, count = hidden + int(batch.metadata.gsd_m.isnan().sum()), count + batch.rows.numel()
        _, looked_at, _ = prepare(step, augment=AugmentOptions(enabled=False), sets={"metadata_dropout": 0.3})
        assert looked_at.metadata.gsd_m.isfinite().all()
    assert hidden / count == pytest.approx(0.3, abs=0.06)


def test_facts_are_hidden_one_by_one(plan, prepare):
    hidden = []
    for step in range(40):
        _, batch, _ = prepare(step, sets={"metadata_dropout": 0.5})
        hidden.append(torch.stack([batch.metadata.gsd_m.isnan(), batch.metadata.lonlat_deg[..., 0].isnan()]).flatten(1))
    both = torch.cat(hidden, dim=1).float()
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15


def test_the_declared_share_of_steps_hides_the_last_image_where_there_are_two(plan, prepare):
    sampler = _sampler(plan)
    hides = {1: [], 2: [], 3: []}
    for step in range(120):
        _, _, noise = prepare(step, slice(0, 1), model={"hidden_image": 0.4})
        hides[sampler.batch(step).chips.shape[1]].append(noise.hides_last)
    assert not any(hides[1])
    assert np.mean([*hides[2], *hides[3]]) == pytest.approx(0.4, abs=0.12)


def test_notes_name_footprints_that_are_too_few_for_a_batch(plan):
    notes = plan.samples.notes(batch_size=8)
    assert notes == [
        "footprints that do not fill a batch of 8 stand in it several times, each with draws of its own: "
        "2 with 1 image of one sensor; 1 with 2 images of one sensor; 3 with 2 images of several sensors; "
        "4 with 3 images of one sensor"
    ]
    assert plan.samples.notes(batch_size=1) == []


def test_footprints_with_fewer_images_than_asked_for_are_counted(set_store, changed_sets, set_recipe):
    sets = set_recipe.data.sets.changed(size=(3, 3))
    found = plan_run(changed_sets(data={"sets": sets}), ChipStore.open(set_store)).samples
    few = int((found.sets.capacity < 3).sum())
    assert 0 < few < len(found.sets)
    assert f"{few} of {len(found.sets)} footprints have fewer than 3 images" in found.notes(batch_size=1)[-1]


def test_panels_show_large_sets_of_several_sensors(plan):
    shown = plan.samples.shown(4)
    assert shown.keys() == {"sets"}
    assert shown["sets"].chips.shape == (4, 3)
    assert shown["sets"].partnered
