"""A run that is killed, at any moment and as often as you like, ends as if it had not been."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from anyband.models.checkpoint import load_checkpoint, read_weights
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.plan import saved_steps

_SCRIPT = Path(__file__).with_name("process_runs.py")
_KILLS = {"pairs": 5, "sets": 2, "shards": 2}
_STEPS = {"pairs": 90, "sets": 30, "shards": 60}


@pytest.fixture(scope="module")
def all_runs(pair_store, set_store, sharded_stores, changed, changed_sets, tmp_path_factory):
    """Do one run whole; one killed at random and once within a save; one step alone and by two. Of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = []
    kinds = (
        ("pairs", pair_store, changed, {}),
        ("sets", set_store, changed_sets, {}),
        ("shards", sharded_stores["pairs"], changed, {"shuffle": "shards", "open_shards": 2}),
    )
    for kind, store, make, data in kinds:
        run = {"checkpoint_every_steps": 3, "log_every_steps": 2}
        recipe = make(optim={"steps": _STEPS[kind], "batch_size": 4}, run=run, data=data)
        (folder / f"{kind}.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        out, file = folder / kind, folder / f"{kind}.yaml"
        jobs.append({"recipe": str(file), "store": str(store), "out": str(out), "num_kills": _KILLS[kind]})
    command = [sys.executable, str(_SCRIPT), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, dict(zip(_KILLS, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module", params=list(_KILLS))
def process_runs(request, all_runs):
    """Give the folder of the runs of a kind, and what was told of them."""
    folder, told = all_runs
    return folder / request.param, told[request.param]


def test_the_kills_were_kills_and_the_last_call_finished_the_run(process_runs):
    folder, told = process_runs
    # A kill may come late, when the run is done.
    assert told["signals"].count(-9) >= _KILLS[folder.name] - 1, told
    assert told["signal_in_save"] == -9
    assert told["exit_code"] == 0


def test_weights_after_kills_are_equal_to_the_bit(process_runs):
    folder, told = process_runs
    whole, resumed = (load_checkpoint(folder / name / "encoder.safetensors") for name in ("whole", "killed"))
    assert resumed.step == whole.step == _STEPS[folder.name]
    assert resumed.state.keys() == whole.state.keys()
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, resumed.state[name]), f"{name} differs: {told}"


def test_optimizer_state_after_kills_is_equal_to_the_bit(process_runs):
    folder, _ = process_runs
    (whole, reached), (resumed, reached_after) = (saved_steps(folder / name)[-1] for name in ("whole", "killed"))
    ours, theirs = (read_weights(path / "optimizer.safetensors")[0] for path in (whole, resumed))
    assert reached == reached_after
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_logged_losses_are_those_of_the_whole_run(process_runs):
    folder, _ = process_runs
    whole, resumed = (read_metrics(folder / name / "metrics.csv") for name in ("whole", "killed"))
    for name in ("step", "epoch", "loss", "lr", "val_loss"):
        assert [row[name] for row in resumed] == [row[name] for row in whole]


def test_nothing_unfinished_is_left(process_runs):
    _, told = process_runs
    assert told["unfinished"] == []


def test_two_processes_compute_the_gradient_of_one(process_runs):
    folder, told = process_runs
    assert told["exit_codes"] == [0, 0, 0]
    paths = (saved_steps(folder / name)[-1][0] for name in ("alone", "shared"))
    ours, theirs = (read_weights(path / "optimizer.safetensors")[0] for path in paths)
    # After one step the first moment is the gradient times 0.1.
    for name in (name for name in ours if name.startswith("exp_avg.")):
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-7)
