"""Processes that hold shares of the weights compute what one process computes, and leave what it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anyband.encode.encoder import load_encoder
from anyband.models.checkpoint import load_checkpoint, read_weights
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.plan import saved_steps

pytestmark = pytest.mark.slow

_SCRIPT = Path(__file__).with_name("share_runs.py")
_ONE = ["run.devices=1", "run.strategy=auto"]
_DDP = ["run.devices=2", "run.strategy=ddp"]
_FSDP = ["run.devices=2", "run.strategy=fsdp"]
# Name of a run: how it is shared, and how those share it that take it up after a kill.
_RUNS = {
    "one": [_ONE],
    "fsdp": [_FSDP],
    "fsdp_in_parts": [[*_FSDP, "optim.accumulate=2"]],
    "fsdp_fsdp": [_FSDP, _FSDP],
    "fsdp_one": [_FSDP, _ONE],
    "one_fsdp": [_ONE, _FSDP],
    "fsdp_ddp": [_FSDP, _DDP],
}
_RUNS_OF_SETS = {"one": [_ONE], "fsdp": [_FSDP]}


@pytest.fixture(scope="module")
def shared_runs(pair_store, set_store, changed, changed_sets, tmp_path_factory):
    """Do the runs of pairs and of sets: their folders, and with what codes their processes ended."""
    folder = tmp_path_factory.mktemp("shares")
    jobs = []
    for kind, store, make, runs, panels in (
        ("pairs", pair_store, changed, _RUNS, 0),
        ("sets", set_store, changed_sets, _RUNS_OF_SETS, 6),
    ):
        # Adam divides a gradient that is 0 but for rounding by its own size; clipped under its epsilon it does not.
        optim = {"steps": 6, "clip_grad_norm": 1e-3}
        recipe = make(model={"drop_path": 0.0}, optim=optim, run={"val_batches": 3, "panel_every_steps": panels})
        file = folder / f"{kind}.yaml"
        file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
        for name, shares in runs.items():
            for number, words in enumerate(shares, start=1):
                job = {"recipe": str(file), "words": words, "store": str(store), "out": str(folder / kind / name)}
                jobs.append(job | {"dies_at_save": 2 if number < len(shares) else 0})
    command = [sys.executable, str(_SCRIPT), json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), jobs


def _moments(run: Path) -> dict[str, torch.Tensor]:
    return read_weights(saved_steps(run)[-1][0] / "optimizer.safetensors")[0]


def test_runs_end_well_and_kills_were_kills(shared_runs):
    _, told, jobs = shared_runs
    for codes, job in zip(told, jobs, strict=True):
        assert codes[0] == (-9 if job["dies_at_save"] else 0), (codes, job)
        assert len(codes) == 1 + ("run.devices=2" in job["words"])


@pytest.mark.parametrize(("kind", "name"), [("sets", "fsdp"), *(("pairs", name) for name in _RUNS if name != "one")])
def test_losses_and_norms_are_those_of_one_process_to_rounding(shared_runs, kind, name):
    folder, _, _ = shared_runs
    ours, theirs = (read_metrics(folder / kind / one / "metrics.csv") for one in (name, "one"))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for column in ("loss", "grad_norm"):
        found, expected = ([float(row[column]) for row in rows] for rows in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=2e-5)


@pytest.mark.parametrize(("kind", "name"), [("sets", "fsdp"), *(("pairs", name) for name in _RUNS if name != "one")])
def test_weights_and_moments_at_the_end_are_those_of_one_process_to_rounding(shared_runs, kind, name):
    folder, _, _ = shared_runs
    ours, theirs = (load_checkpoint(folder / kind / one / "encoder.safetensors") for one in (name, "one"))
    assert ours.step == theirs.step == 6
    assert ours.state.keys() == theirs.state.keys()
    for weight, tensor in theirs.state.items():
        torch.testing.assert_close(ours.state[weight], tensor, rtol=1e-5, atol=1e-6, msg=weight)
    moments, expected = (_moments(folder / kind / one) for one in (name, "one"))
    assert moments.keys() == expected.keys()
    for moment, tensor in expected.items():
        torch.testing.assert_close(moments[moment], tensor, rtol=1e-3, atol=1e-8, msg=moment)


@pytest.mark.parametrize("kind", ["pairs", "sets"])
def test_a_process_holds_about_half_of_weights_gradients_and_moments(shared_runs, kind):
    folder, _, _ = shared_runs
    held, whole = (json.loads((folder / kind / f"{name}_held.json").read_text()) for name in ("fsdp", "one"))
    assert whole["moments"] == 2 * whole["weights"] == 2 * whole["gradients"]
    # Rows are shared, so that the first process has one more of an odd number.
    assert all(0.5 * whole[name] <= held[name] < 0.6 * whole[name] for name in whole)


def test_a_run_of_shares_that_was_killed_ends_equal_to_the_bit(shared_runs):
    folder, _, _ = shared_runs
    whole, resumed = (
        load_checkpoint(folder / "pairs" / name / "encoder.safetensors") for name in ("fsdp", "fsdp_fsdp")
    )
    assert all(torch.equal(tensor, resumed.state[name]) for name, tensor in whole.state.items())
    ours, theirs = (saved_steps(folder / "pairs" / name)[-1][1] for name in ("fsdp", "fsdp_fsdp"))
    assert ours == theirs
    expected, moments = (_moments(folder / "pairs" / name) for name in ("fsdp", "fsdp_fsdp"))
    assert all(torch.equal(tensor, moments[name]) for name, tensor in expected.items())


def test_a_checkpoint_of_shares_is_an_ordinary_one(shared_runs):
    folder, _, _ = shared_runs
    saved, one = (saved_steps(folder / "pairs" / name)[-1][0] for name in ("fsdp", "one"))
    sizes, expected = ({file.name: file.stat().st_size for file in run.iterdir()} for run in (saved, one))
    # The recipe in the header names the strategy; weights and moments are as large.
    assert sizes["optimizer.safetensors"] == expected["optimizer.safetensors"]
    assert load_encoder(saved / "model.safetensors").config == load_encoder(one / "model.safetensors").config


def test_panels_are_drawn_from_whole_weights(shared_runs):
    folder, _, _ = shared_runs
    ours, theirs = (
        sorted(path.name for path in (folder / "sets" / name / "panels").iterdir()) for name in ("fsdp", "one")
    )
    assert ours == theirs
    assert ours


def test_each_process_validates_equally_often_whatever_the_number_of_batches(shared_runs):
    """Three batches of validation over two processes: one of them would wait for ever otherwise."""
    folder, _, _ = shared_runs
    rows = read_metrics(folder / "sets" / "fsdp" / "metrics.csv")
    assert all(float(row["val_loss"]) > 0 for row in rows if int(row["step"]) % 3 == 0)
