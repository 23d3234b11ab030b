"""Pre-training on sets: the same core as for pairs, and what is of sets alone."""

import types

import numpy as np
import pytest
import torch

from anyband.data.store import ChipStore
from anyband.errors import CatalogueError, OutputError, RecipeError, StoreError, TrainingError
from anyband.models.autoencoder import Autoencoder
from anyband.models.checkpoint import build_model, load_checkpoint
from anyband.models.encodings import EncodingConfig
from anyband.pretraining import cost as meter
from anyband.pretraining import cost as step_memory
from anyband.pretraining import loop
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run, saved_steps
from anyband.pretraining.recipe import SetRecipe, load_recipe

_A2MAE = {
    "sequence": "joint",
    "mixup": "none",
    "hidden_image": 0.0,
    "levels": False,
    "embed_dim": 32,
    "encodings": EncodingConfig(geographic="a2mae"),
}


@pytest.fixture(scope="module")
def finished(set_store, changed_sets, tmp_path_factory):
    """A finished run with panels: the folder, the recipe and the result."""
    out = tmp_path_factory.mktemp("finished_sets") / "run"
    recipe = changed_sets(run={"panel_every_steps": 12, "log_every_steps": 2})
    return out, recipe, pretrain(recipe, data=set_store, out=out, shown=False)


def test_a_run_on_sets_leaves_what_a_run_on_pairs_leaves(finished):
    out, recipe, result = finished
    checkpoint = load_checkpoint(result.checkpoint)
    assert (checkpoint.step, checkpoint.has_decoder) == (12, True)
    assert checkpoint.recipe == recipe.model_dump(mode="json")
    assert set(checkpoint.sensors) == set(checkpoint.normalisations) == {"sentinel2-l2a", "sentinel1-grd"}
    assert result.best is not None
    assert len(saved_steps(out)) >= 2
    assert isinstance(build_model(checkpoint), Autoencoder)


def test_the_network_of_a_checkpoint_is_the_one_of_the_recipe(finished):
    _, _, result = finished
    config = load_checkpoint(result.checkpoint).config
    assert (config.images, config.masking, config.sequence, config.levels) == ("set", "anchor", "apart", True)
    assert config.encoder.encodings == EncodingConfig(place=True, resolution=True, date=True, source=True)


def test_validation_and_panels_are_of_sets(finished):
    out, _, _ = finished
    rows = read_metrics(out / "metrics.csv")
    assert all(float(row["val_loss"]) > 0 for row in rows if int(row["step"]) % 3 == 0)
    panels = sorted(path.name for path in (out / "panels").iterdir())
    assert panels == ["step_00000012_sets.png", "step_00000012_sets_hidden.png"]


@pytest.mark.parametrize("method", ["a2mae", "unified"])
def test_training_on_sets_lowers_the_loss(method, set_store, changed_sets, tmp_path):
    model = {"drop_path": 0.0, **(_A2MAE if method == "a2mae" else {})}
    sets = SetRecipe(size=(2, 3))
    recipe = changed_sets(model=model, data={"sets": sets}, optim={"steps": 50}, run={"val_batches": 0})
    pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    losses = [float(row["loss"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])


def test_a_masked_autoencoder_of_one_sensor_alone_is_sets_of_one_image(set_store, changed_sets, tmp_path):
    model = {"sequence": "joint", "mixup": "none", "hidden_image": 0.0, "encodings": EncodingConfig()}
    data = {"sets": SetRecipe(size=(1, 1)), "held_out": ("sentinel1-grd",)}
    recipe = changed_sets(model=model, data=data, optim={"steps": 2})
    plan = plan_run(recipe, ChipStore.open(set_store))
    assert plan.samples.sets.arrays == ("sentinel2-l2a_24x24",)
    assert int(plan.samples.sets.capacity.max()) == 1
    result = pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    assert list(load_checkpoint(result.checkpoint).sensors) == ["sentinel2-l2a"]


def test_held_out_sensors_are_in_no_set(set_store, changed_sets):
    plan = plan_run(changed_sets(data={"held_out": ("s1_grd",)}), ChipStore.open(set_store))
    sensors = plan.store.index.column("sensor").to_pylist()
    sampler = plan.samples.sampler(batch_size=8, seed=1)
    drawn = {sensors[chip] for step in range(10) for chip in sampler.batch(step).chips.flatten()}
    assert drawn == {"sentinel2-l2a"}


def test_a_store_of_which_every_sensor_is_held_out_is_refused(set_store, changed_sets):
    with pytest.raises(StoreError, match=r"data\.held_out names all sensors of store"):
        plan_run(changed_sets(data={"held_out": ("sentinel1-grd", "sentinel2-l2a")}), ChipStore.open(set_store))


def test_a_misspelt_held_out_sensor_is_refused_for_sets_too(set_store, changed_sets):
    with pytest.raises(CatalogueError, match="sentinel2-l2a"):
        plan_run(changed_sets(data={"held_out": ("sentinel2-l2aa",)}), ChipStore.open(set_store))


def test_places_of_one_sensor_under_a_recipe_that_needs_two_are_refused(set_store, changed_sets):
    data = {"sets": SetRecipe(needs_two_sources=True), "held_out": ("sentinel1-grd",)}
    with pytest.raises(StoreError, match=r"have images of one sensor only, and sets are to have two"):
        plan_run(changed_sets(data=data), ChipStore.open(set_store))


def test_validation_without_such_sets_is_left_out(set_store, changed_sets, tmp_path):
    recipe = changed_sets(data={"val_split": "test"}, optim={"steps": 3})
    pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    assert not any(row["val_loss"] for row in read_metrics(tmp_path / "run" / "metrics.csv"))


def test_speed_counts_every_image_of_a_set(set_store, changed_sets, tmp_path, monkeypatch):
    """The clock goes on by a second whenever it is read: before and after a batch is waited for, and at the row."""
    seconds = iter(float(second) for second in range(1000))
    monkeypatch.setattr(meter, "time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    recipe = changed_sets(optim={"steps": 6}, run={"checkpoint_every_steps": 6, "val_batches": 0})
    pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    found = [float(row["images_per_s"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    sampler = plan_run(recipe, ChipStore.open(set_store)).samples.sampler(batch_size=8, seed=recipe.seed)
    expected = [sampler.batch(step).chips.size for step in range(6)]
    assert found == [count / 3 for count in expected]
    assert len(set(expected)) > 1


def test_a_loss_that_is_not_finite_names_the_sets_and_their_places(set_store, changed_sets, tmp_path, monkeypatch):
    original = loop.Stepper.step

    def spoilt(self, step, parts):
        result = original(self, step, parts)
        return (result[0] * float("nan"), None) if step == 4 else result

    monkeypatch.setattr(loop.Stepper, "step", spoilt)
    recipe = changed_sets(optim={"batch_size": 4})
    with pytest.raises(TrainingError, match=r"the loss of step 4 is nan \(sets of [123] images? of sentinel") as told:
        pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    plan = plan_run(recipe, ChipStore.open(set_store))
    draw = plan.samples.sampler(batch_size=4, seed=recipe.seed).batch(4)
    named = str(told.value).split("places: ")[1].split(")")[0].split(", ")
    assert named == sorted(set(plan.samples.places(draw)))


def test_sets_beyond_memory_are_refused_before_anything_is_written(set_store, changed_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(step_memory, "available_bytes", lambda _device: 100_000)
    with pytest.raises(RecipeError, match=r"a step of 8 sets of up to 3 images \(48 tokens\) needs at least"):
        pretrain(changed_sets(), data=set_store, out=tmp_path / "run", shown=False)
    assert not (tmp_path / "run").exists()


def test_another_masking_or_encoding_is_another_run(finished, set_store, changed_sets):
    out, recipe, _ = finished
    for model, told in (
        ({"masking": "same"}, "model.masking: anchor, not same"),
        ({"encodings": EncodingConfig(place=True)}, "model.encodings.date: True, not False"),
    ):
        with pytest.raises(OutputError, match=told):
            pretrain(changed_sets(model=model, run=vars(recipe.run)), data=set_store, out=out, shown=False)


def test_a_run_on_sets_starts_from_another(finished, set_store, changed_sets, tmp_path):
    _, _, first = finished
    model = {"start": str(first.checkpoint), "ranges": "start", "drop_path": 0.0}
    recipe = changed_sets(model=model, optim={"steps": 1, "base_lr": 1e-12})
    result = pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    before, after = (load_checkpoint(path).state for path in (first.checkpoint, result.checkpoint))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("name", ["a2mae_tiny", "unified_tiny"])
def test_the_shipped_recipes_of_sets_train(name, set_store, tmp_path):
    overrides = ["model.img_size=32", "model.depth=1", "optim.batch_size=4", "optim.steps=2", "run.val_batches=1"]
    recipe = load_recipe(name, [*overrides, "run.panel_every_steps=0", "run.accelerator=cpu", "run.devices=1"])
    result = pretrain(recipe, data=set_store, out=tmp_path / "run", shown=False)
    assert result.steps == 2
    assert np.isfinite(result.loss)


def test_an_image_more_than_the_footprint_has_is_not_counted_into_memory(set_store, changed_sets):
    sets = changed_sets().data.sets.changed(size=(1, 100))
    plan = plan_run(changed_sets(data={"sets": sets}), ChipStore.open(set_store))
    assert int(plan.samples.sets.capacity.max()) == 5
