"""Steps that mix kinds of pairs: in the proportion of the data, each pair once an epoch, and a function of the step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyband.data.loader import BatchOrder
from anyband.data.store import ChipStore
from anyband.errors import RecipeError
from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining.batches import BatchPreparer, draws_of_step, load_batches, step_sampler
from anyband.pretraining.loop import Stepper, pretrain
from anyband.pretraining.plan import plan_run

_PAIRS = (("sentinel2-l2a", "sentinel1-grd"), ("sentinel2-l2a", "sentinel2-l2a"))


@pytest.fixture
def plan_for(changed, changed_sets, set_store):
    """Plan a run on pairs of two kinds, or on sets of several, that mixes them."""

    def plan(*, parts: int = 4, batch_size: int = 8, sets: bool = False, **optim):
        options = {"batch_size": batch_size, "accumulate": parts, "mix_kinds": True, **optim}
        recipe = changed_sets(optim=options) if sets else changed(optim=options, data={"pairs": _PAIRS})
        return plan_run(recipe, ChipStore.open(set_store))

    return plan


def _order(counts: list[int], *, batch_size: int, seed: int = 0) -> BatchOrder:
    kinds = np.repeat(np.arange(len(counts)), counts)
    return BatchOrder(kinds, batch_size=batch_size, seed=seed, noun="pairs", mixed=True)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(8, 400), min_size=2, max_size=4), parts=st.integers(2, 12), seed=st.integers(0, 99))
def test_any_neighbours_have_the_kinds_in_the_proportion_of_the_data(counts, parts, seed) -> None:
    order = _order(counts, batch_size=4, seed=seed)
    kinds = [order.batch(step)[2] for step in range(order.steps_per_epoch)]
    whole = np.bincount(kinds, minlength=len(counts)) / len(kinds)
    for first in range(len(kinds) - parts + 1):
        found = np.bincount(kinds[first : first + parts], minlength=len(counts))
        assert np.abs(found - parts * whole).max() < len(counts)


def test_a_step_of_the_published_sets_has_their_proportion() -> None:
    """60,000 and 188,000 pairs, batches of 2048 in 8 parts: about a quarter of every step is of the first."""
    order = _order([60_000, 188_000], batch_size=256)
    kinds = np.array([order.batch(part)[2] for part in range(order.steps_per_epoch // 8 * 8)]).reshape(-1, 8)
    of_first = (kinds == 0).sum(axis=1)
    assert set(of_first.tolist()) <= {1, 2, 3}
    assert of_first.mean() / 8 == pytest.approx(60 / 248, abs=0.01)


@settings(max_examples=20)
@given(counts=st.lists(st.integers(8, 60), min_size=2, max_size=3))
def test_each_sample_passes_once_in_an_epoch_of_its_kind(counts) -> None:
    order = _order(counts, batch_size=4)
    passed = [order.batch(step) for step in range(2 * order.steps_per_epoch)]
    for kind, count in enumerate(counts):
        samples = np.concatenate([samples for samples, _, found, _ in passed if found == kind])
        assert len(set(samples[:count].tolist())) == count


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    order = _order([30, 50], batch_size=4)
    there = [order.batch(step)[0].tolist() for step in range(40)]
    again = _order([30, 50], batch_size=4)
    assert [again.batch(step)[0].tolist() for step in reversed(range(40))] == there[::-1]


@pytest.mark.parametrize("sets", [False, True])
def test_a_step_has_several_kinds_and_an_epoch_as_many_steps(plan_for, sets) -> None:
    plan = plan_for(parts=4, batch_size=8, sets=sets)
    sampler = step_sampler(plan.samples, plan.recipe)
    kinds = [{draw.kind for draw in draws_of_step(sampler, plan.recipe, step)} for step in range(4)]
    assert all(len(one) > 1 for one in kinds)
    assert plan.steps_per_epoch == max(1, round(sampler.steps_per_epoch / 4))


@pytest.mark.parametrize(("processes", "parts"), [(1, 2), (2, 2), (2, 4), (1, 4)])
def test_processes_share_every_part_of_a_step(plan_for, processes, parts) -> None:
    plan = plan_for(parts=parts, batch_size=16)
    preparer = BatchPreparer(plan.recipe, plan.inputs, device=torch.device("cpu"))
    loaders = [
        iter(load_batches(plan.samples, preparer, plan.recipe, steps=range(3), process=one, num_processes=processes))
        for one in range(processes)
    ]
    sampler = step_sampler(plan.samples, plan.recipe)
    for step in range(3):
        expected = draws_of_step(sampler, plan.recipe, step)
        assert len(expected) == parts
        for draw in expected:
            found = [next(loader).raw.draw for loader in loaders]
            assert {one.kind for one in found} == {draw.kind}
            np.testing.assert_array_equal(np.concatenate([one.samples for one in found]), draw.samples)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(plan_for, set_store, tmp_path, monkeypatch) -> None:
    recipe = plan_for(parts=4, steps=4).recipe
    recipe = recipe.changed(run=recipe.run.changed(checkpoint_every_steps=2, val_batches=0))
    whole = pretrain(recipe, data=set_store, out=tmp_path / "whole", shown=False)
    done = Stepper.step

    def stop(self: Stepper, step: int, parts):
        if step == 3:
            raise KeyboardInterrupt
        return done(self, step, parts)

    monkeypatch.setattr(Stepper, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, data=set_store, out=tmp_path / "stopped", shown=False)
    monkeypatch.setattr(Stepper, "step", done)
    resumed = pretrain(recipe, data=set_store, out=tmp_path / "stopped", shown=False)
    assert resumed.resumed_from == 2
    ours, theirs = (load_checkpoint(one.checkpoint).state for one in (whole, resumed))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_without_mixing_the_draws_are_as_they_were(changed, set_store) -> None:
    plan = plan_run(
        changed(data={"pairs": _PAIRS}, optim={"batch_size": 8, "accumulate": 4}), ChipStore.open(set_store)
    )
    sampler = plan.samples.sampler(batch_size=8, seed=plan.recipe.seed)
    for step in range(6):
        (draw,) = draws_of_step(step_sampler(plan.samples, plan.recipe), plan.recipe, step)
        np.testing.assert_array_equal(draw.chips, sampler.batch(step).chips)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"optim": {"mix_kinds": True}},
            r"optim.mix_kinds gives each part of a step a kind, .* raise optim.accumulate",
        ),
        (
            {"optim": {"mix_kinds": True, "accumulate": 2, "batch_size": 8}, "data": {"stages": ({"epochs": 1},)}},
            r"optim.mix_kinds mixes kinds of all the data, and data.stages draws from parts of it",
        ),
    ],
)
def test_what_mixing_can_not_do_is_refused(changed_sets, parts, message) -> None:
    with pytest.raises(RecipeError, match=message):
        changed_sets(**parts)


def test_many_kinds_of_few_pairs_are_said_in_one_line_with_what_to_do(changed, set_store) -> None:
    plan = plan_run(changed(data={"pairs": _PAIRS}, optim={"batch_size": 8}), ChipStore.open(set_store))
    count = len(plan.samples.sets) // 2
    kinds = np.minimum(np.arange(len(plan.samples.sets)), count - 1)
    sets = replace(plan.samples.sets, pair_kind=kinds, pair_arrays=(("a", "b"),) * count)
    (note,) = replace(plan.samples, sets=sets).notes(batch_size=len(kinds))
    assert note.startswith(f"{len(kinds)} pairs of {count} kinds do not fill a batch of {len(kinds)}: ")
    assert note.endswith("chips of one size a sensor are one kind (`anyband prepare --chip-size`)")
