"""A run that starts from a checkpoint: its weights, its ranges, and new ranges that start as mixtures."""

import csv
import dataclasses

import numpy as np
import pytest
import torch

from anyband.data.store import ChipStore
from anyband.errors import CheckpointError, OutputError, RecipeError
from anyband.models.checkpoint import load_checkpoint, save_checkpoint
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run


@pytest.fixture(scope="module")
def trained(pair_store, changed, tmp_path_factory):
    """A checkpoint of a few steps with radar and one optical band only, so that the store's others are new to it."""
    recipe = changed(model={"ranges": "from_data", "drop_path": 0.0}, optim={"steps": 3})
    return pretrain(recipe, data=pair_store, out=tmp_path_factory.mktemp("first") / "run", shown=False).checkpoint


def _first_loss(run) -> float:
    with (run / "metrics.csv").open() as file:
        return float(next(csv.DictReader(file))["loss"])


def test_a_run_starts_from_the_checkpoints_weights(pair_store, changed, trained, tmp_path) -> None:
    recipe = changed(model={"start": str(trained), "ranges": "start", "drop_path": 0.0}, optim={"steps": 1})
    plan = plan_run(recipe, ChipStore.open(pair_store))
    assert plan.ranges == load_checkpoint(trained).ranges
    pretrain(recipe, data=pair_store, out=tmp_path / "on", shown=False)
    fresh = changed(model={"ranges": "from_data", "drop_path": 0.0}, optim={"steps": 1})
    pretrain(fresh, data=pair_store, out=tmp_path / "fresh", shown=False)
    assert _first_loss(tmp_path / "on") < _first_loss(tmp_path / "fresh")


def test_new_ranges_start_as_mixtures_so_the_first_loss_is_that_of_interpolation(pair_store, changed, tmp_path) -> None:
    """The published ranges know Sentinel-2 exactly; those of another sensor pair must be interpolated."""
    store = ChipStore.open(pair_store)
    few = changed(model={"ranges": "from_data", "drop_path": 0.0}, optim={"steps": 1})
    checkpoint = pretrain(few, data=pair_store, out=tmp_path / "few", shown=False).checkpoint
    table = load_checkpoint(checkpoint).ranges
    forgotten = _without_knowledge_of(checkpoint, tmp_path / "forgotten.safetensors", band="B03")
    losses, counts = {}, {}
    for ranges in ("start", "start_and_new"):
        recipe = changed(
            model={"start": str(forgotten), "ranges": ranges, "drop_path": 0.0}, optim={"steps": 1}, data={}
        )
        counts[ranges] = len(plan_run(recipe, store).ranges.ranges)
        pretrain(recipe, data=pair_store, out=tmp_path / ranges, shown=False)
        losses[ranges] = _first_loss(tmp_path / ranges)
    assert counts == {"start": len(table.ranges), "start_and_new": len(table.ranges) + 1}
    np.testing.assert_allclose(losses["start"], losses["start_and_new"], rtol=1e-5)
    grown = load_checkpoint(tmp_path / "start_and_new" / "encoder.safetensors")
    assert grown.config.encoder.num_ranges == len(table.ranges) + 1


def _without_knowledge_of(path, out, *, band: str):
    """Save a checkpoint whose range of a band is a little elsewhere, so that the band must be interpolated."""
    checkpoint = load_checkpoint(path)
    moved = tuple(
        _moved(entry) if any(known[1] == band for known in entry.known) else entry for entry in checkpoint.ranges.ranges
    )
    ranges = dataclasses.replace(checkpoint.ranges, ranges=moved)
    save_checkpoint(out, dataclasses.replace(checkpoint, ranges=ranges))
    return out


def _moved(entry):
    spectrum = dataclasses.replace(entry.spectrum, high_nm=entry.spectrum.high_nm + 20.0)
    return dataclasses.replace(entry, name=f"{entry.name} moved", known=(), spectrum=spectrum)


def test_weights_of_ranges_that_were_there_stay_when_others_are_added(pair_store, changed, tmp_path) -> None:
    few = changed(model={"ranges": "from_data", "drop_path": 0.0}, optim={"steps": 1})
    checkpoint = pretrain(few, data=pair_store, out=tmp_path / "few", shown=False).checkpoint
    forgotten = _without_knowledge_of(checkpoint, tmp_path / "forgotten.safetensors", band="B03")
    recipe = changed(model={"start": str(forgotten), "ranges": "start_and_new", "drop_path": 0.0})
    plan = plan_run(recipe, ChipStore.open(pair_store))
    before = load_checkpoint(forgotten).state
    for name, tensor in before.items():
        torch.testing.assert_close(plan.start.state[name], tensor)


@pytest.mark.parametrize(
    ("start", "ranges"), [(None, "start"), (None, "start_and_new"), ("x", "smarties_v1"), ("x", "from_data")]
)
def test_start_and_ranges_must_go_together(pair_store, changed, start, ranges) -> None:
    recipe = changed(model={"start": start, "ranges": ranges})
    with pytest.raises(RecipeError, match="keeps its ranges"):
        plan_run(recipe, ChipStore.open(pair_store))


def test_a_checkpoint_of_another_network_is_refused_with_every_difference(pair_store, changed, trained) -> None:
    recipe = changed(model={"start": str(trained), "ranges": "start", "embed_dim": 32, "depth": 3})
    with pytest.raises(CheckpointError, match="embed_dim 32, not 16; depth 3, not 2"):
        plan_run(recipe, ChipStore.open(pair_store))


def test_a_run_is_another_run_when_the_checkpoint_behind_its_start_changes(
    pair_store, changed, trained, tmp_path
) -> None:
    copy = tmp_path / "start.safetensors"
    copy.write_bytes(trained.read_bytes())
    recipe = changed(model={"start": str(copy), "ranges": "start", "drop_path": 0.0}, optim={"steps": 1})
    result = pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    copy.write_bytes(result.checkpoint.read_bytes())
    with pytest.raises(OutputError, match="start"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)


def test_new_ranges_of_sets_start_with_the_source_encoding_of_interpolation(set_store, changed_sets, tmp_path) -> None:
    """What an image's sensor sees is a mixture too, in encoder and decoder."""
    fixed = {"drop_path": 0.0}
    few = changed_sets(model={"ranges": "from_data", **fixed}, optim={"steps": 2})
    checkpoint = pretrain(few, data=set_store, out=tmp_path / "few", shown=False).checkpoint
    forgotten = _without_knowledge_of(checkpoint, tmp_path / "forgotten.safetensors", band="B03")
    losses = {}
    for ranges in ("start", "start_and_new"):
        recipe = changed_sets(model={"start": str(forgotten), "ranges": ranges, **fixed}, optim={"steps": 1})
        pretrain(recipe, data=set_store, out=tmp_path / ranges, shown=False)
        losses[ranges] = _first_loss(tmp_path / ranges)
    np.testing.assert_allclose(losses["start"], losses["start_and_new"], rtol=1e-5)
    grown = load_checkpoint(tmp_path / "start_and_new" / "encoder.safetensors")
    counts = {len(tensor) for name, tensor in grown.state.items() if "encodings.source.weight" in name}
    assert counts == {len(load_checkpoint(checkpoint).ranges.ranges) + 1}


def test_a_checkpoint_without_levels_is_no_start_for_a_recipe_with_them(set_store, changed_sets, tmp_path) -> None:
    few = changed_sets(model={"levels": False}, optim={"steps": 1})
    done = pretrain(few, data=set_store, out=tmp_path / "run", shown=False)
    recipe = changed_sets(model={"start": str(done.checkpoint), "ranges": "start", "levels": True})
    with pytest.raises(CheckpointError, match="levels True, not False"):
        plan_run(recipe, ChipStore.open(set_store))
