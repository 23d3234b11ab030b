"""Costs of a run: what is reckoned before it, what it reached, and what a dry run leaves."""

import dataclasses
import types

import pytest
import torch

from anyband import cli
from anyband.data.store import ChipStore
from anyband.pretrain import cost as meter
from anyband.pretrain import cost as step_memory
from anyband.pretrain.cost import (
    BatchFlops,
    Device,
    Meter,
    Place,
    Reached,
    RunShapes,
    cost_lines,
    count_processes,
    duration,
    peak_flops_s,
    raw_bytes,
    reached_lines,
    run_cost,
    scaled,
    stored_bytes,
)
from anyband.pretrain.loop import dry_run, pretrain
from anyband.pretrain.plan import plan_run
from anyband.pretrain.recipe import RunRecipe
from anyband.pretrain.runs import read_metrics

_WHERE = Device(device=torch.device("cpu"), precision="32-true")


@pytest.fixture(scope="module")
def plan(pair_store, small_recipe):
    return plan_run(small_recipe, ChipStore.open(pair_store))


@pytest.fixture(scope="module")
def cost(plan):
    return run_cost(plan, Place(where=_WHERE, num_processes=1, peak_flops_s=1e9), first_step=4)


def test_the_peak_is_a_rate_and_draws_nothing():
    before = torch.get_rng_state()
    assert peak_flops_s(_WHERE) > 1e6
    assert torch.equal(torch.get_rng_state(), before)


def test_reckoning_leaves_the_global_generator_alone(plan):
    before = torch.get_rng_state()
    cost = run_cost(plan, Place(where=_WHERE, num_processes=1, peak_flops_s=1e9), first_step=0)
    assert cost.seconds.total > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_steps_that_are_left_are_reckoned(cost):
    assert cost.num_steps == 8
    assert "in 8 steps" in cost_lines(cost)[0]


def test_bytes_of_a_step_are_those_of_its_chips(plan, cost):
    optical, radar = 3 * 24 * 24 * 2, 2 * 12 * 12 * 2
    assert [raw_bytes(plan.store, name) for name in plan.store.arrays] == [optical, radar]
    assert cost.raw_bytes == 8 * (optical + radar)
    assert cost.stored_bytes == pytest.approx(8 * sum(stored_bytes(plan.store, name) for name in plan.store.arrays))


def test_bytes_of_a_store_that_is_in_no_folder_are_not_guessed(cost):
    line = cost_lines(dataclasses.replace(cost, stored_bytes=None))[4]
    assert line.startswith("cost: a step reads 32.3 kB of stored numbers")


def test_hidden_images_count_by_their_share(set_store, changed_sets):
    plan = plan_run(changed_sets(model={"hidden_image": 0.25}), ChipStore.open(set_store))
    shapes = RunShapes(plan, num_parts=1)
    draw = next(one for one in shapes.drawn() if one.chips.shape[1] > 1)
    usual, hidden = (shapes._flops(draw, hides_last=hides) for hides in (False, True))
    assert shapes.flops(draw).trained == pytest.approx(0.75 * usual.trained + 0.25 * hidden.trained)
    assert usual.trained != hidden.trained


def test_processes_are_counted_as_the_recipe_says():
    assert count_processes(RunRecipe(devices=4, num_nodes=2), torch.device("cpu")) == 8
    assert count_processes(RunRecipe(), torch.device("cpu")) == 1


def test_a_meter_tells_waiting_from_working(monkeypatch):
    seconds = iter([0.0, 1.0, 3.0, 10.0, 10.0])
    monkeypatch.setattr(meter, "time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    one = Meter(peak_flops_s=100.0)
    assert list(one.take(iter("ab"), 1)) == ["a"]
    one.did(num_images=6, flops=500.0)
    row = one.row()
    assert (row.data_wait, row.mfu, row.images_per_s) == (0.2, 0.5, 0.6)
    assert one.total == row


def test_without_a_measured_peak_there_is_no_mfu():
    assert Reached(num_steps=1, flops=5.0, seconds=1.0).mfu is None


def test_what_was_reached_is_said_beside_what_was_expected(cost):
    reached = Reached(num_steps=2, flops=4e9, seconds=4.0, waited_s=1.0, peak_flops_s=2e9)
    (line,) = reached_lines(reached, cost)
    assert line.startswith("reached: 1 GFLOP/s, 50.0 % of the measured peak (MFU); 2 s a step (expected ")
    assert line.endswith("waited for data 25.0 % of the time")
    assert reached_lines(Reached(), cost) == []


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


def test_reading_limits_where_it_is_slower(cost):
    slow = dataclasses.replace(cost, read_samples_s=cost.computed_samples_s / 2)
    assert "reading may limit" in cost_lines(slow)[5]
    assert "arithmetic limits" in cost_lines(dataclasses.replace(cost, read_samples_s=1e12))[5]


def test_utilisation_counts_the_operations_of_the_model_only(cost):
    flops = BatchFlops(blocks=1e9)
    found = dataclasses.replace(cost, flops=flops)
    assert found.mfu == pytest.approx(3e9 / cost.seconds.total / 1e9)


def test_a_run_says_what_it_costs_and_what_it_reached(pair_store, changed, tmp_path, capsys):
    result = pretrain(changed(optim={"steps": 4}), data=pair_store, out=tmp_path / "run")
    said = capsys.readouterr().err
    assert "cost: a step reads" in said
    assert "reached: " in said
    assert result.reached.num_steps == 4
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert all(0 <= float(row["data_wait"]) <= 1 and float(row["mfu"]) > 0 for row in rows)


def test_a_dry_run_says_the_costs_and_writes_nothing(pair_store, small_recipe, tmp_path):
    found = dry_run(small_recipe, data=pair_store, out=tmp_path / "run")
    assert found.ok
    assert found.lines[-1] == "nothing was trained; the run can start"
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_what_memory_can_not_hold_ends_with_1(pair_store, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(step_memory, "available_bytes", lambda _device: 1000)
    words = ["optim.batch_size=2", "run.accelerator=cpu", "optim.precision=32-true"]
    out = str(tmp_path / "run")
    assert cli.main(["pretrain", "smarties_tiny", "--data", str(pair_store), "--out", out, *words, "--dry-run"]) == 1
    assert "NOT OK: a step of 2 pairs" in capsys.readouterr().out
