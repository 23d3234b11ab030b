"""A run that starts from a masked autoencoder of ImageNet."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from anyband.data.store import ChipStore
from anyband.errors import CheckpointError, OutputError, RecipeError
from anyband.models.checkpoint import expected_shapes, load_checkpoint
from anyband.models.encodings import EncodingConfig
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import network_config, plan_run


@pytest.fixture
def mae(small_recipe, tmp_path):
    """A masked autoencoder of the small recipe's encoder, without decoder, under the names of its release."""
    return _written(small_recipe, tmp_path / "mae.safetensors", seed=0)


def _written(recipe, path, *, seed: int):
    draw = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(network_config(recipe, num_ranges=17), decoder=False)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith(("spectrum_", "pos_embed"))}
    width, side = recipe.model.embed_dim, recipe.model.patch_size
    shapes |= {"patch_embed.proj.weight": (width, 3, side, side), "patch_embed.proj.bias": (width,)}
    save_file({name: torch.randn(shape, generator=draw) * 0.1 for name, shape in shapes.items()}, path)
    return path


def test_a_run_takes_the_weights_and_says_what_it_took(pair_store, changed, mae) -> None:
    plan = plan_run(changed(model={"start_mae": str(mae)}), ChipStore.open(pair_store))
    assert plan.ranges.name == "smarties_v1"
    assert plan.notes()[0].startswith(f"blocks, CLS, norm and projection start from '{mae}'")
    assert plan.notes()[2] == "the file has no decoder; the decoder starts from the seed"
    trained = _after_one_step(pair_store, changed, mae, mae.parent / "run")
    fresh = _after_one_step(pair_store, changed, None, mae.parent / "fresh")
    assert plan.start is not None
    name = "blocks.0.attn.qkv.weight"
    assert (trained[name] - plan.start.state[name]).norm() < (fresh[name] - plan.start.state[name]).norm()


def _after_one_step(pair_store, changed, mae, out):
    recipe = changed(model={"start_mae": None if mae is None else str(mae)}, optim={"steps": 1})
    return load_checkpoint(pretrain(recipe, data=pair_store, out=out, shown=False).checkpoint).state


@pytest.mark.parametrize("change", [{}, {"stem": "triplet"}], ids=["spectral", "triplet"])
def test_sets_start_from_it_too(set_store, changed_sets, tmp_path, change) -> None:
    encodings = dataclasses.replace(changed_sets().model.encodings, source=False)
    recipe = changed_sets(model={"encodings": encodings, **change})
    plain = recipe.changed(model=recipe.model.changed(encodings=EncodingConfig()))
    path = _written(plain, tmp_path / "mae.safetensors", seed=1)
    started = recipe.changed(model=recipe.model.changed(start_mae=str(path)))
    plan = plan_run(started, ChipStore.open(set_store))
    assert plan.start is not None
    assert any(name.startswith("encodings.") for name in plan.start.state)
    run = started.changed(optim=started.optim.changed(steps=1))
    assert pretrain(run, data=set_store, out=tmp_path / "run", shown=False).steps == 1


def test_another_file_under_the_same_name_is_another_run(pair_store, changed, small_recipe, mae, tmp_path) -> None:
    recipe = changed(model={"start_mae": str(mae)}, optim={"steps": 1})
    pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    _written(small_recipe, mae, seed=9)
    with pytest.raises(OutputError, match="start"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)


def test_another_network_is_refused_before_the_run_begins(pair_store, changed, mae, tmp_path) -> None:
    recipe = changed(model={"start_mae": str(mae), "embed_dim": 32, "depth": 1})
    with pytest.raises(CheckpointError, match="embed_dim 32, not 16; depth 1, not 2"):
        pretrain(recipe, data=pair_store, out=tmp_path / "run", shown=False)
    assert not (tmp_path / "run").exists()


def test_two_starts_are_refused(changed) -> None:
    with pytest.raises(RecipeError, match=r"model.start 'a' and model.start_mae 'b' are two starts"):
        changed(model={"start": "a", "start_mae": "b", "ranges": "start"})
