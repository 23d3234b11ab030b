"""The same command under `torchrun`, on one machine and on several: the run of one process to rounding."""

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from anyband.models.checkpoint import load_checkpoint
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain

pytestmark = pytest.mark.slow

# chosen: far over what it takes on a busy machine; a run that waits for ever must end.
_TIMEOUT_S = 600
_DDP = ["run.devices=2", "run.strategy=ddp"]
_TWO_MACHINES = ["run.devices=1", "run.num_nodes=2", "run.strategy=fsdp"]


@pytest.fixture(scope="module")
def alone(pair_store, changed, tmp_path_factory):
    """A run of one process: its recipe as a file, and its folder."""
    folder = tmp_path_factory.mktemp("torchrun")
    # Clipped so far, weights whose gradient is 0 but for rounding stay where they are.
    recipe = changed(model={"drop_path": 0.0}, optim={"steps": 3, "clip_grad_norm": 1e-3})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    pretrain(recipe, data=pair_store, out=folder / "alone", shown=False)
    return folder


def _torchrun(options: list[str], recipe: Path, store: Path, out: Path, words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "anyband", "pretrain", str(recipe)]
    command += ["--data", str(store), "--out", str(out), "--quiet", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(processes: list[subprocess.Popen]) -> None:
    """Wait for all of them; one that fails takes the others with it."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            said, _ = process.communicate(timeout=_TIMEOUT_S)
            assert process.returncode == 0, said


def _assert_alike(ours: Path, theirs: Path) -> None:
    losses, expected = ([float(row["loss"]) for row in read_metrics(run / "metrics.csv")] for run in (ours, theirs))
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    found, state = (load_checkpoint(run / "encoder.safetensors").state for run in (ours, theirs))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_two_processes_of_torchrun_do_the_run_of_one(alone, pair_store):
    options = ["--nproc-per-node", "2", "--master-port", str(_free_port())]
    _finish([_torchrun(options, alone / "recipe.yaml", pair_store, alone / "two", _DDP)])
    _assert_alike(alone / "two", alone / "alone")


def test_two_machines_with_shares_do_the_run_of_one(alone, pair_store):
    place = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(_free_port())]
    machines = [
        _torchrun([*place, "--node-rank", str(rank)], alone / "recipe.yaml", pair_store, alone / "many", _TWO_MACHINES)
        for rank in range(2)
    ]
    _finish(machines)
    _assert_alike(alone / "many", alone / "alone")
