"""Run by test_resume as a process: trains in child processes, kills them, and lets two work together.

Children are forks of a process that has imported everything and computed nothing, so that each starts at
once. Takes a JSON list of jobs, and prints a JSON list of what came of them.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import lightning_fabric
import timm.models.vision_transformer
import torch
import torch.utils.tensorboard

from anyband.pretraining import plan
from anyband.pretraining.loop import pretrain
from anyband.pretraining.plan import saved_steps
from anyband.pretraining.recipe import PretrainRecipe, load_recipe

PRELOADED = (lightning_fabric, timm.models.vision_transformer, torch.utils.tensorboard)
NOT_NEEDED = ("rasterio", "geopandas", "shapely", "pyproj")


def main(jobs: str) -> None:
    """Do jobs, each a dictionary of `recipe`, `store`, `out` and `num_kills`."""
    asked = json.loads(jobs)
    recipes = [load_recipe(job["recipe"]) for job in asked]
    # Machines for training may lack these; an import would fail from here on.
    sys.modules.update(dict.fromkeys(NOT_NEEDED))
    told = []
    for recipe, job in zip(recipes, asked, strict=True):
        data, out = Path(job["store"]), Path(job["out"])
        resumed = kill_and_resume(recipe, data, out, num_kills=job["num_kills"])
        told.append(resumed | {"exit_codes": work_together(recipe, data, out)})
    print(json.dumps(told))


def kill_and_resume(recipe: PretrainRecipe, data: Path, out: Path, *, num_kills: int) -> dict[str, object]:
    started = time.monotonic()
    assert wait(start(recipe, data, out / "whole")) == 0
    whole_s = time.monotonic() - started
    kills = [kill_at_random(recipe, data, out / "killed", whole_s) for _ in range(num_kills)]
    return {
        "saved_after_kills": [step for step, _ in kills],
        "signals": [code for _, code in kills],
        "signal_in_save": wait(start(recipe, data, out / "killed", dies_while_saving=True)),
        "exit_code": wait(start(recipe, data, out / "killed")),
        "unfinished": [str(path) for path in (out / "killed").rglob(".*")],
    }


def work_together(recipe: PretrainRecipe, data: Path, out: Path) -> list[int]:
    """Do one step alone, and in two processes. Without drop path, which each process draws for itself."""
    optim = recipe.optim.changed(steps=1)
    alone = recipe.changed(optim=optim, model=recipe.model.changed(drop_path=0.0))
    shared = alone.changed(run=alone.run.changed(devices=2, strategy="ddp"))
    codes = [wait(start(alone, data, out / "alone"))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}
    environments = [{**place, "LOCAL_RANK": str(rank)} for rank in range(2)]
    children = [start(shared, data, out / "shared", environment=environment) for environment in environments]
    return codes + [wait(child) for child in children]


def kill_at_random(recipe: PretrainRecipe, data: Path, out: Path, whole_s: float) -> tuple[int, int]:
    """Kill a run at a random moment, at times before its first step; tell what is saved and how it ended."""
    child = start(recipe, data, out)
    draw = random.SystemRandom()
    if draw.random() < 0.8:
        wait_for_a_step(out / "metrics.csv", give_up_s=2 * whole_s)
    time.sleep(draw.uniform(0.0, 0.15 * whole_s))
    os.kill(child, signal.SIGKILL)
    code = wait(child)
    saved = saved_steps(out)
    return (saved[-1][1].step if saved else 0), code


def wait_for_a_step(metrics: Path, *, give_up_s: float) -> None:
    """Wait until a row is appended."""
    end = time.monotonic() + give_up_s
    size = metrics.stat().st_size if metrics.is_file() else 0
    while time.monotonic() < end:
        if metrics.is_file() and metrics.stat().st_size > size:
            return
        size = min(size, metrics.stat().st_size) if metrics.is_file() else 0
        time.sleep(0.001)


def start(
    recipe: PretrainRecipe,
    data: Path,
    out: Path,
    *,
    dies_while_saving: bool = False,
    environment: dict[str, str] | None = None,
) -> int:
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(environment or {})
        torch.set_num_threads(1)
        if dies_while_saving:
            plan.save_checkpoint = die_halfway
        pretrain(recipe, data=data, out=out, shown=False)
        os._exit(0)
    except BaseException as problem:  # noqa: BLE001 (a child must end here, whatever happened)
        print(repr(problem), file=sys.stderr, flush=True)
        os._exit(1)


def die_halfway(path: Path, checkpoint: object) -> None:
    """Write half of a file where the model belongs, then die."""
    path.write_bytes(b"\0" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)


def wait(child: int) -> int:
    """Give the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
