"""The order of samples depends on seed and step only: not on workers, processes, parts or where a run was resumed."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from anyband.data.loader import read_ahead
from anyband.data.store import ChipStore
from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining import loop
from anyband.pretraining.batches import BatchPreparer, load_batches
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import StageRecipe

_BATCH = 8
_STAGES = (StageRecipe(epochs=1), StageRecipe(epochs=2, with_sensors=("sentinel1-grd",)))
_SHARES = [(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 8), (8, 1)]


@pytest.fixture(params=["pairs", "sets"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def make_recipe(kind, changed, changed_sets):
    """Make the small recipe of a kind."""
    return {"pairs": changed, "sets": changed_sets}[kind]


@pytest.fixture
def plan_for(kind, make_recipe, sharded_stores):
    """Plan a run of a kind: `plan_for("shards", accumulate=2)`."""

    def plan(shuffle: str, *, accumulate: int = 1, open_shards: int = 4):
        recipe = make_recipe(
            data={"shuffle": shuffle, "open_shards": open_shards},
            optim={"batch_size": _BATCH, "accumulate": accumulate},
        )
        return plan_run(recipe, ChipStore.open(sharded_stores[kind]))

    return plan


def _whole(plan):
    return plan.samples.sampler(batch_size=_BATCH, seed=plan.recipe.seed)


@pytest.mark.parametrize("shuffle", ["chips", "shards"])
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_the_order_is_the_same_whatever_the_number_of_workers(plan_for, shuffle, workers) -> None:
    plan = plan_for(shuffle)
    sampler = _whole(plan)
    loader = read_ahead(plan.samples.read, map(_whole(plan).batch, range(1, 12)), workers=workers)
    for step, raw in enumerate(loader, start=1):
        expected = sampler.batch(step)
        np.testing.assert_array_equal(raw.draw.samples, expected.samples)
        np.testing.assert_array_equal(raw.draw.chips, expected.chips)


@pytest.mark.parametrize("shuffle", ["chips", "shards"])
@pytest.mark.parametrize(("processes", "parts"), _SHARES)
def test_the_order_is_the_same_however_batches_are_cut(plan_for, shuffle, processes, parts) -> None:
    plan = plan_for(shuffle, accumulate=parts)
    preparer = BatchPreparer(plan.recipe, plan.inputs, device=torch.device("cpu"))
    loaders = []
    for process in range(processes):
        share = {"process": process, "num_processes": processes}
        loaders.append(iter(load_batches(plan.samples, preparer, plan.recipe, steps=range(2, 9), **share)))
    for step in range(2, 9):
        together = [next(loader).raw for loader in loaders for _ in range(parts)]
        draw = _whole(plan).batch(step)
        np.testing.assert_array_equal(np.concatenate([raw.draw.samples for raw in together]), draw.samples)
        for raw in together:
            plain = plan.samples.read(raw.draw)
            for ours, theirs in zip(raw.groups, plain.groups, strict=True):
                assert torch.equal(ours.pixels, theirs.pixels)


def test_a_run_by_shards_learns_the_same_whatever_the_number_of_workers(
    make_recipe, sharded_stores, kind, tmp_path
) -> None:
    one, other = (
        pretrain(
            make_recipe(data={"shuffle": "shards", "open_shards": 2}, optim={"steps": 4}, run={"workers": workers}),
            data=sharded_stores[kind],
            out=tmp_path / str(workers),
            shown=False,
        )
        for workers in (1, 5)
    )
    assert one.loss == other.loss


def test_by_shards_is_another_order_than_by_chips(plan_for) -> None:
    chips, shards = (_whole(plan_for(shuffle)) for shuffle in ("chips", "shards"))
    steps = range(chips.steps_per_epoch)
    assert any(not np.array_equal(chips.batch(step).samples, shards.batch(step).samples) for step in steps)


def test_by_shards_a_batch_stays_within_the_open_shards(plan_for) -> None:
    plan = plan_for("shards")
    sampler, shuffle = _whole(plan), plan.samples.shuffle
    for step in range(sampler.steps_per_epoch):
        of_batch = shuffle.shards[sampler.batch(step).items]
        # One may end and another begin within a batch.
        assert len(set(of_batch.tolist())) <= 2 * shuffle.open_shards


def test_a_run_by_shards_says_how_many_are_mixed_and_one_by_chips_says_nothing(plan_for) -> None:
    (note,) = [note for note in plan_for("shards", open_shards=1).notes() if note.startswith("order by shards")]
    assert note.endswith("shards, up to 1 of each kind mixed at a time")
    assert not [note for note in plan_for("chips").notes() if "order" in note]


@pytest.mark.parametrize("is_staged", [False, True])
def test_a_run_by_shards_that_stopped_within_an_epoch_ends_with_the_same_weights(
    changed_sets, sharded_stores, tmp_path, monkeypatch, is_staged
) -> None:
    """Of sets; `test_resume` kills runs of pairs."""
    recipe = changed_sets(
        data={"shuffle": "shards", "open_shards": 2, "stages": _STAGES if is_staged else None},
        optim={"batch_size": 4, "epochs": 3},
    )
    data = sharded_stores["sets"]
    whole = pretrain(recipe, data=data, out=tmp_path / "whole", shown=False)
    monkeypatch.setattr(loop, "save_step", _stopping_at(7, loop.save_step))
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, data=data, out=tmp_path / "stopped", shown=False)
    monkeypatch.undo()
    resumed = pretrain(recipe, data=data, out=tmp_path / "stopped", shown=False)
    assert resumed.resumed_from == 6
    ours, theirs = (load_checkpoint(result.checkpoint).state for result in (whole, resumed))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def _stopping_at(step, save):
    def stop(out, progress, *tensors):
        if progress.step >= step:
            raise KeyboardInterrupt
        save(out, progress, *tensors)

    return stop


def test_validation_by_shards_looks_at_the_same_batches_each_time(make_recipe, sharded_stores, kind, tmp_path) -> None:
    recipe = make_recipe(
        data={"shuffle": "shards", "open_shards": 2},
        optim={"base_lr": 1e-30, "steps": 6, "warmup_epochs": 0.0},
        run={"checkpoint_every_steps": 2},
    )
    pretrain(recipe, data=sharded_stores[kind], out=tmp_path / "run", shown=False)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_loss")
    scores = [row.split(",")[column] for row in rows[1:] if row.split(",")[column]]
    assert len(scores) == 3
    assert all(one == other for one, other in pairwise(scores))
