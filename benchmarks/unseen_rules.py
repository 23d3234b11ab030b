"""kNN on sensors that a small SMARTIES never saw, by the rule that reads their bands; simulated places.

    python benchmarks/unseen_rules.py --out DIR [--places 400] [--steps 800] [--seeds 3]

One training a seed on Sentinel-2, Sentinel-1 and RGB like Maxar's; all rules read the same network. Beside them the
network as it starts, by the same rule, and means and deviations of the bands. What is trained is not trained again.
"""

import argparse
import csv
import json
import statistics
from collections.abc import Mapping
from pathlib import Path

import torch
from ablation_archive import Archive, Cell
from ablation_features import mean_features, sensor_features
from ablation_scores import KnnTask, task_of
from measure import circumstances, exit_code_of, report

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError
from anyband.models.checkpoint import Checkpoint, load_checkpoint
from anyband.pretraining.recipe import load_recipe
from anyband.sensors.assignment import MIN_SUPPORT, AssignmentRules, UnseenRules

TRAINED = ("sentinel2-l2a", "sentinel1-grd", "maxar-rgb")
UNSEEN = ("landsat8-oli-tirs-l2", "hls-l30", "planetscope-4b", "naip")
# Rule → how bands are read, and the least support of those that are.
RULES: Mapping[str, tuple[UnseenRules, float]] = {
    "across sensors, all bands": ("interpolate_across", 0.05),
    "across sensors, all bands, linear": ("interpolate_linear", 0.05),
    "across sensors": ("interpolate_across", MIN_SUPPORT),
    "within one sensor (default)": ("interpolate", MIN_SUPPORT),
    "within sentinel2": ({"default": "interpolate", "prefer": "sentinel2"}, MIN_SUPPORT),
    "within maxar": ({"default": "interpolate", "prefer": "maxar"}, MIN_SUPPORT),
    "nearest": ("nearest", MIN_SUPPORT),
    "nearest, prefer sentinel2": ({"default": "nearest", "prefer": "sentinel2"}, MIN_SUPPORT),
}
# chosen: as the ablation, of the same places.
_FRACTIONS = (0.65, 0.05, 0.30)
# chosen: two metres and a half are not resolved by 96 pixels; a quarter of the time and store.
_GSD_M = (("maxar-rgb", 5.0), ("naip", 5.0), ("planetscope-4b", 5.0))


def main() -> int:
    """Simulate, train, score, report. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of places, store and trainings")
    parser.add_argument("--places", type=int, default=400, help="simulated places")
    parser.add_argument("--steps", type=int, default=800, help="training steps")
    parser.add_argument("--batch", type=int, default=32, help="pairs a step")
    parser.add_argument("--seeds", type=int, default=3, help="trainings")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> None:
    archive = _archive(arguments.out, num_places=arguments.places)
    scores: dict[tuple[str, str, str], list[float]] = {}
    for seed in range(arguments.seeds):
        checkpoint = _trained(archive, arguments, seed)
        for key, accuracy in _scores(checkpoint, archive, seed).items():
            scores.setdefault(key, []).append(100 * accuracy)
        print(json.dumps({"seed": seed, "scores": {" | ".join(key): values[-1] for key, values in scores.items()}}))
    settings = {key: getattr(arguments, key) for key in ("places", "steps", "batch", "seeds")}
    rows = [
        {
            "sensor": sensor,
            "rule": rule,
            "network": network,
            "accuracy_percent": statistics.mean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for (sensor, rule, network), values in scores.items()
    ]
    report("unseen_rules", rows, {**settings, **circumstances(("torch", "timm"))})


def _archive(folder: Path, *, num_places: int) -> Archive:
    """Simulate and prepare all sensors, or take what is there."""
    from anyband.data.manifest import read_manifest
    from anyband.data.prepare import PrepareOptions, prepare
    from anyband.data.store import ChipStore
    from anyband.simulate.archive import simulate
    from anyband.simulate.plan import SimulateOptions

    images = folder / "images"
    if not images.exists():
        simulate(images, SimulateOptions(num_places=num_places, sensors=(*TRAINED, *UNSEEN), gsd_m=_GSD_M))
    if not (folder / "store").exists():
        options = PrepareOptions(statistics=True, fractions=_FRACTIONS)
        prepare(read_manifest(images / "manifest.csv"), folder / "store", options, workers=1)
    store = ChipStore.open(folder / "store")
    with (images / "labels.csv").open(encoding="utf-8", newline="") as file:
        of_place = {row["place"]: row["label"] for row in csv.DictReader(file)}
    found = store.index.select(["place", "cell"]).to_pylist()
    labels: dict[Cell, str] = {(row["place"], row["cell"]): of_place[row["place"]] for row in found}
    return Archive(kind="simulated", store=store, labels=labels, unseen=UNSEEN)


def _trained(archive: Archive, arguments: argparse.Namespace, seed: int) -> Checkpoint:
    from anyband.pretraining.loop import pretrain

    recipe = load_recipe("smarties_tiny")
    data = recipe.data.changed(held_out=UNSEEN, statistics="store")
    optim = recipe.optim.changed(batch_size=arguments.batch, steps=arguments.steps)
    run = recipe.run.changed(
        accelerator="cpu", workers=1, val_batches=0, panel_every_steps=0, checkpoint_every_steps=arguments.steps
    )
    recipe = recipe.changed(seed=seed, data=data, optim=optim, run=run)
    folder = arguments.out / "training" / f"seed_{seed}"
    return load_checkpoint(pretrain(recipe, data=archive.store.path, out=folder).checkpoint)


def _scores(checkpoint: Checkpoint, archive: Archive, seed: int) -> dict[tuple[str, str, str], float]:
    """Score (sensor, rule, network) by kNN of the mean of the patches."""
    scores: dict[tuple[str, str, str], float] = {}
    for sensor in UNSEEN:
        task = task_of(archive, (sensor,))
        if task is None:
            raise InputError(f"too few labelled places of '{sensor}' to score; simulate more with --places")
        for rule, (unseen, min_support) in RULES.items():
            rules = AssignmentRules(unseen=unseen, min_support=min_support)
            trained = SensorEncoder(checkpoint, rules=rules).eval()
            for network, encoder in (("trained", trained), ("untrained", trained.untrained(seed=seed))):
                scores[sensor, rule, network] = _accuracy(encoder, archive, task, sensor)
            if rule == next(iter(RULES)):
                means = mean_features(trained, archive.store, task.cells, sensor)
                scores[sensor, "—", "band means"] = task.accuracy(means)
    return scores


def _accuracy(encoder: SensorEncoder, archive: Archive, task: KnnTask, sensor: str) -> float:
    return task.accuracy(sensor_features(encoder, archive.store, task.cells, sensor, known=False)["mean"])


if __name__ == "__main__":
    raise SystemExit(main())
