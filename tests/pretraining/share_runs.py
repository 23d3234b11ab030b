"""Run by test_shares as a process: trains in child processes that share a run, some of which are killed in between.

Children are forks of a process that has imported everything and computed nothing, so that each starts at once. Takes a
JSON list of jobs, and prints a JSON list of their exit codes.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

import torch
import torch.distributed.fsdp
import torch.distributed.tensor
from lightning_fabric import Fabric
from process_runs import PRELOADED, wait

from anyband.pretraining import plan
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import PretrainRecipe, load_recipe
from anyband.training.steps import own_share

assert PRELOADED


def main(jobs: str) -> None:
    """Do jobs, each a dictionary of `recipe`, `words` (overrides), `store`, `out` and `dies_at_save` (0: never)."""
    asked = json.loads(jobs)
    recipes = [load_recipe(job["recipe"], job["words"]) for job in asked]
    told = []
    for recipe, job in zip(recipes, asked, strict=True):
        told.append(run(recipe, Path(job["store"]), Path(job["out"]), dies_at_save=job["dies_at_save"]))
    print(json.dumps(told))


def run(recipe: PretrainRecipe, data: Path, out: Path, *, dies_at_save: int) -> list[int]:
    """Start the processes of a run; when the first one is killed, kill the others too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    assert isinstance(recipe.run.devices, int)
    children = []
    for rank in range(recipe.run.devices):
        environment = place | {"LOCAL_RANK": str(rank)}
        children.append(start(recipe, data, out, environment=environment, dies_at_save=dies_at_save))
    first = wait(children[0])
    if first < 0:
        for child in children[1:]:
            os.kill(child, signal.SIGKILL)
    return [first, *(wait(child) for child in children[1:])]


def start(recipe: PretrainRecipe, data: Path, out: Path, *, environment: dict[str, str], dies_at_save: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(environment)
        torch.set_num_threads(1)
        Fabric.clip_gradients = measuring(Fabric.clip_gradients, out.with_name(f"{out.name}_held.json"))
        if dies_at_save:
            plan.save_checkpoint = dying(plan.save_checkpoint, at_save=dies_at_save)
        pretrain(recipe, data=data, out=out, shown=False)
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001 (a child must end here, whatever happened)
        print(repr(problem), file=sys.stderr, flush=True)
        os._exit(1)


def measuring(original, file: Path):
    """Write down how many numbers the first process holds when the gradient of a step is done."""

    def clip(self, module, optimizer, **options):
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        states = [state for parameter in trained if (state := optimizer.state.get(parameter))]
        held = {
            "weights": sum(own_share(parameter.detach()).numel() for parameter in trained),
            "gradients": sum(own_share(parameter.grad).numel() for parameter in trained),
            "moments": sum(own_share(state[key]).numel() for state in states for key in ("exp_avg", "exp_avg_sq")),
        }
        if int(os.environ["LOCAL_RANK"]) == 0:
            file.write_text(json.dumps(held))
        return original(self, module, optimizer, **options)

    return clip


def dying(original, *, at_save: int):
    """Write half of a file where the model belongs, then die, at the save of this number from 1."""
    calls = []

    def save(path: Path, checkpoint: object) -> None:
        calls.append(path)
        if len(calls) == at_save:
            path.write_bytes(b"\0" * 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        original(path, checkpoint)

    return save


if __name__ == "__main__":
    main(*sys.argv[1:])
