"""Costs of a run: what is measured before it, what it reached, and what a dry run leaves."""

import dataclasses
import types

import pytest
import torch

from anyband import cli
from anyband.data.store import ChipStore
from anyband.errors import RecipeError
from anyband.models.autoencoder import Autoencoder
from anyband.models.vit import configure_blocks
from anyband.pretraining import cost as costs
from anyband.pretraining.batches import BatchPreparer
from anyband.pretraining.cost import (
    Meter,
    cost_lines,
    count_flops,
    count_processes,
    duration,
    measure_cost,
    peak_flops_s,
    reached_line,
    read_metrics,
    scaled,
)
from anyband.pretraining.loop import dry_run, pretrain
from anyband.pretraining.plan import plan_run
from anyband.pretraining.recipe import RunRecipe

_CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(pair_store, small_recipe):
    return plan_run(small_recipe, ChipStore.open(pair_store))


@pytest.fixture(scope="module")
def cost(plan):
    return measure_cost(plan, Autoencoder(plan.config, seed=0), device=_CPU, num_processes=1)


def _cost(plan, **changes):
    return measure_cost(plan, Autoencoder(plan.config, seed=0), device=_CPU, num_processes=1, **changes)


def test_measuring_changes_neither_weights_nor_the_global_generator(plan):
    model = Autoencoder(plan.config, seed=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    cost = measure_cost(plan, model, device=_CPU, num_processes=1)
    assert cost.step_s > 0
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_operations_of_a_step_are_those_of_a_whole_batch(plan, cost):
    model = Autoencoder(plan.config, seed=0)
    configure_blocks(model, fused=False)
    raw = plan.samples.read(plan.samples.sampler(batch_size=8, seed=plan.recipe.seed).batch(0))
    preparer = BatchPreparer(plan.recipe, plan.inputs, device=_CPU)
    example = preparer.finish(preparer.draw(raw, step=0))
    counted = count_flops(lambda: model(*example).terms.mean())
    assert cost.step_flops == pytest.approx(counted, rel=0.01)


def test_a_block_takes_four_maps_and_two_products_of_attention():
    """Training takes three times the forward pass: 24 width² of maps and 4 length·width of attention for each token."""
    from anyband.models.vit import make_blocks

    blocks = make_blocks(1, width=16, num_heads=2, mlp_ratio=4.0, norm_eps=1e-6, drop_path=0.0)
    configure_blocks(blocks, fused=False)
    tokens = torch.ones(3, 10, 16, requires_grad=True)
    counted = count_flops(lambda: blocks[0](tokens, attn_mask=None).sum())
    assert counted == 3 * 3 * (10 * 24 * 16**2 + 4 * 10**2 * 16)


def test_memory_grows_with_the_part_that_is_computed_at_once(pair_store, changed):
    store = ChipStore.open(pair_store)
    needed = [
        _cost(plan_run(changed(optim=optim), store)).needed_bytes
        for optim in ({}, {"accumulate": 8}, {"batch_size": 16})
    ]
    parts = [8, 1, 16]
    slopes = [(needed[0] - needed[1]) / (parts[0] - parts[1]), (needed[2] - needed[0]) / (parts[2] - parts[0])]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.01)
    assert slopes[0] > 0


def test_recomputed_blocks_keep_less(pair_store, changed):
    store = ChipStore.open(pair_store)
    kept, recomputed = (_cost(plan_run(changed(run={"recompute": how}), store)) for how in (False, True))
    assert recomputed.needed_bytes < kept.needed_bytes
    assert recomputed.image_flops == kept.image_flops


def test_weights_in_shares_are_divided_and_not_timed(pair_store, changed):
    plan = plan_run(changed(run={"strategy": "fsdp"}), ChipStore.open(pair_store))
    model = Autoencoder(plan.config, seed=0)
    one, four = (measure_cost(plan, model, device=_CPU, num_processes=count) for count in (1, 4))
    assert one.step_s is None
    # Processes of one machine share its memory: together they hold the weights once, and the same batch.
    assert four.needed_bytes < 1.1 * one.needed_bytes
    assert "take an unmeasured time" in cost_lines(plan, one, first_step=0)[0]


def test_processes_are_counted_as_the_recipe_says():
    assert count_processes(RunRecipe(devices=4, num_nodes=2), _CPU) == 8
    assert count_processes(RunRecipe(), _CPU) == 1


def test_the_peak_is_a_rate_and_draws_nothing():
    before = torch.get_rng_state()
    assert peak_flops_s(_CPU, "32-true") > 1e6
    assert torch.equal(torch.get_rng_state(), before)


def test_lines_say_time_and_memory_then_arithmetic_then_reading(plan, cost):
    known = dataclasses.replace(
        cost, step_s=0.5, step_flops=4e9, peak_flops_s=1e11, needed_bytes=10**9, free_bytes=2 * 10**9, num_weights=10**6
    )
    first, second, third = cost_lines(plan, known, first_step=4)
    assert first == (
        "cost: 8 steps of 8 pairs take 4 s (0.5 s each) and need 1 GB of memory of 2 GB that are free on 'cpu'; 1.0 "
        "million weights"
    )
    assert second == (
        "cost: a step computes 4 GFLOP (a pair 500 MFLOP); a plain matrix product reaches 100 GFLOP/s, the step 8 % of "
        "it (MFU)"
    )
    # 8 pairs of 3 bands of 24 and 2 bands of 12 pixels in 16 bits.
    assert third.startswith(f"cost: a step reads {scaled(8.0 * (3 * 24 * 24 * 2 + 2 * 12 * 12 * 2), 'B')}, ")
    slow = cost_lines(plan, dataclasses.replace(known, sample_read_s=1.0), first_step=4)
    assert "reading may limit: see data_wait in metrics.csv" in slow[2]


def test_a_meter_tells_waiting_from_working(monkeypatch, cost):
    seconds = iter([0.0, 1.0, 3.0, 10.0, 10.0])
    monkeypatch.setattr(costs, "time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    known = dataclasses.replace(cost, image_flops=100.0, peak_flops_s=120.0, step_s=5.0)
    meter = Meter(known)
    assert list(meter.take(iter("ab"), 1)) == ["a"]
    meter.did(6)
    assert meter.row() == {"images_per_s": 0.6, "data_wait": 0.2, "mfu": 0.5}
    assert reached_line(meter, known) == (
        "reached: 10 s a step (expected 5 s), 60 FLOP/s, 50.0 % of the measured peak (MFU); waited for data 20.0 % of "
        "the time"
    )


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 B"), (999.0, "999 B"), (999.7, "1 kB"), (117e9, "117 GB"), (2.5e21, "2.5e+03 EB")]
)
def test_numbers_have_three_digits_and_a_prefix(value, text):
    assert scaled(value, "B") == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.12, "0.12 s"), (90.0, "1.5 min"), (7200.0, "2 h"), (2e5, "2.31 days")]
)
def test_times_have_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text


def test_a_run_says_what_it_costs_and_what_it_reached(pair_store, changed, tmp_path, capsys):
    pretrain(changed(optim={"steps": 4}), data=pair_store, out=tmp_path / "run")
    message = capsys.readouterr().err
    assert "cost: a step reads" in message
    assert "reached: " in message
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert all(0 <= float(row["data_wait"]) <= 1 and float(row["mfu"]) > 0 for row in rows)


def test_a_dry_run_says_the_costs_and_writes_nothing(pair_store, small_recipe, tmp_path):
    lines, ok = dry_run(small_recipe, data=pair_store, out=tmp_path / "run")
    assert ok
    assert lines[-1] == "nothing was trained; the run can start"
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_what_memory_can_not_hold_ends_with_1(pair_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(costs, "available_bytes", lambda _device: 1000)
    words = ["optim.batch_size=2", "run.accelerator=cpu", "optim.precision=32-true"]
    out = str(tmp_path / "run")
    assert cli.main(["pretrain", "smarties_tiny", "--data", str(pair_store), "--out", out, *words, "--dry-run"]) == 1
    assert "NOT OK: a step of 2 pairs of up to 2 images (72 tokens) needs at least" in capsys.readouterr().out


def test_a_run_that_memory_can_not_hold_is_refused_before_it_writes(set_store, changed_sets, tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "available_bytes", lambda _device: 1000)
    with pytest.raises(RecipeError, match=r"a step of 8 sets .* lower data\.sets\.size, optim\.batch_size"):
        pretrain(changed_sets(), data=set_store, out=tmp_path / "run", shown=False)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(costs, "available_bytes", lambda _device: None)
    plan = plan_run(changed_sets(), ChipStore.open(set_store))
    assert _cost(plan).refusal is None
