"""Runs over sets with a stem of three bands: what the network is given, what the checkpoint keeps, and resuming."""

import dataclasses

import numpy as np
import pytest
import torch

from anyband.data.resample import AugmentOptions
from anyband.data.store import ChipStore
from anyband.encode.encoder import load_encoder
from anyband.errors import CheckpointError, RecipeError
from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining.batches import BatchPreparer, draw_stem_bands
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run
from anyband.sensors.ranges import stem_ranges

_WHOLE = AugmentOptions(enabled=False)


@pytest.fixture
def stem(changed_sets):
    """The small recipe of sets with a stem of three; other values as of `changed_sets`."""

    def make(**parts: object):
        encodings = dataclasses.replace(changed_sets().model.encodings, source=False)
        model = {"stem": "triplet", "encodings": encodings, **parts.pop("model", {})}
        return changed_sets(model=model, data={"augment": _WHOLE}, **parts)

    return make


def _prepared(store, recipe, *, augment=None):
    plan = plan_run(recipe, store)
    preparer = BatchPreparer(recipe, plan.inputs, device=torch.device("cpu"))
    spectral = recipe.changed(model=recipe.model.changed(stem="spectral"))
    all_bands = BatchPreparer(spectral, plan_run(spectral, store).inputs, device=torch.device("cpu"))
    for step in range(4):
        raw = plan.samples.read(plan.samples.sampler(batch_size=8, seed=0).batch(step))
        whole = all_bands.finish(all_bands.draw(raw, step=step, augment=_WHOLE))[0]
        yield step, raw, preparer.finish(preparer.draw(raw, step=step, augment=augment))[0], whole


def test_a_batch_of_training_has_the_drawn_bands_of_each_image(set_store, stem) -> None:
    store, recipe = ChipStore.open(set_store), stem()
    preparer = BatchPreparer(recipe, plan_run(recipe, store).inputs, device=torch.device("cpu"))
    for step, raw, batch, whole in _prepared(store, recipe):
        drawn = preparer.draw(raw, step=step).bands
        for group, every, bands in zip(batch.groups, whole.groups, drawn, strict=True):
            assert group.pixels.shape[1] == 3
            torch.testing.assert_close(group.mixing, torch.eye(3))
            for image, chosen in enumerate(bands):
                torch.testing.assert_close(group.pixels[image], every.pixels[image, chosen])


def test_a_batch_that_is_looked_at_has_the_bands_of_use(set_store, stem) -> None:
    fixed = {"sentinel2-l2a": [2, 1, 0], "sentinel1-grd": [0, 1, 0]}
    store = ChipStore.open(set_store)
    for _, raw, batch, whole in _prepared(store, stem(), augment=_WHOLE):
        for name, group, every in zip(raw.groups, batch.groups, whole.groups, strict=True):
            bands = fixed[store.arrays[name.array].sensor]
            torch.testing.assert_close(group.pixels, every.pixels[:, bands])


def test_bands_follow_their_images_into_the_groups(set_store, stem) -> None:
    """Each image's draw is that of its set and slot, whatever array it is in."""
    store, recipe = ChipStore.open(set_store), stem()
    preparer = BatchPreparer(recipe, plan_run(recipe, store).inputs, device=torch.device("cpu"))
    for step, raw, _, _ in _prepared(store, recipe):
        laid = np.concatenate(preparer.draw(raw, step=step).bands)
        counts = np.concatenate([np.full(len(group.pixels), group.pixels.shape[1]) for group in raw.groups])
        of_slots = draw_stem_bands(counts[raw.rows], seed=recipe.seed, step=step, samples=raw.draw.samples.tolist())
        np.testing.assert_array_equal(laid[raw.rows], of_slots)


def test_a_run_ends_in_a_checkpoint_that_reads_by_the_stem(set_store, stem, tmp_path) -> None:
    done = pretrain(stem(optim={"steps": 2}), data=set_store, out=tmp_path / "run", shown=False)
    checkpoint = load_checkpoint(done.checkpoint)
    assert checkpoint.ranges == stem_ranges()
    assert (checkpoint.config.encoder.num_ranges, checkpoint.config.encoder.max_bands) == (3, 3)
    encoder = load_encoder(done.checkpoint)
    found = encoder.encode(np.full((2, 16, 16), -12.0, dtype=np.float32), sensor="sentinel1-grd")
    assert found.notes[1] == "sentinel1-grd: a stem of three bands reads VV, VH, VV"
    assert torch.isfinite(found.cls).all()


def test_a_resumed_run_ends_with_the_same_weights(set_store, stem, tmp_path) -> None:
    whole = stem(optim={"steps": 4}, run={"checkpoint_every_steps": 2})
    pretrain(whole, data=set_store, out=tmp_path / "whole", shown=False)
    stopped = tmp_path / "stopped"
    pretrain(whole, data=set_store, out=stopped, shown=False)
    (stopped / "encoder.safetensors").unlink()
    last = max(path for path in (stopped / "checkpoints").iterdir() if path.is_dir())
    for path in last.iterdir():
        path.unlink()
    last.rmdir()
    pretrain(whole, data=set_store, out=stopped, shown=False)
    left, right = (load_checkpoint(tmp_path / name / "encoder.safetensors").state for name in ("whole", "stopped"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_start_with_another_stem_is_refused(set_store, stem, changed_sets, tmp_path) -> None:
    done = pretrain(stem(optim={"steps": 1}), data=set_store, out=tmp_path / "run", shown=False)
    encodings = stem().model.encodings
    spectral = changed_sets(model={"start": str(done.checkpoint), "ranges": "start", "encodings": encodings})
    with pytest.raises(CheckpointError, match=r"was trained with model.stem 'triplet', the recipe has 'spectral'"):
        plan_run(spectral, ChipStore.open(set_store))
    again = stem(model={"start": str(done.checkpoint), "ranges": "start"})
    assert plan_run(again, ChipStore.open(set_store)).start is not None


@pytest.mark.parametrize(
    ("parts", "source", "message"),
    [
        (
            {"ranges": "start_and_new", "start": "x"},
            False,
            "three positions for whatever bands there are and no ranges to add",
        ),
        ({}, True, "model.encodings.source tells sensors apart by the ranges that they see"),
    ],
)
def test_recipes_that_a_stem_can_not_follow_are_refused(changed_sets, parts, source, message) -> None:
    encodings = dataclasses.replace(changed_sets().model.encodings, source=source)
    with pytest.raises(RecipeError, match=message):
        changed_sets(model={"stem": "triplet", "encodings": encodings, **parts})


def test_pairs_have_no_stem_of_three(changed) -> None:
    with pytest.raises(RecipeError, match=r"model.stem is for sets of images"):
        changed(model={"stem": "triplet"})
