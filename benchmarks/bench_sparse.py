"""Decoding a share of the masked tokens: steps and seconds to equal kNN, not only steps a second.

    python benchmarks/bench_sparse.py --out DIR [--ratios 1 0.5 0.25] [--steps 600] [--every 100] [--seeds 2]

Trains `smarties_tiny` with a decoder of the size that the encoder deserves at scale (four blocks, so that decoding is
about half of the step) on a simulated archive, with `model.decode_ratio` of each value and everything else equal, and
scores Sentinel-2 by kNN of CLS every so many steps: of each class, every other place votes and the rest is scored;
pre-training saw the images, never their labels. Runs are kept in DIR and taken
up again. Reported for each ratio, as means over seeds: seconds a step (median of rows of metrics.csv, runs in turn),
kNN at the end, and the first scored step, with the seconds up to it, at which kNN reached the best score that the full
decoder has at half of its steps.
"""

import argparse
import csv
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from measure import circumstances, exit_code_of, report

from anyband.cli import main as anyband
from anyband.errors import InputError
from anyband.tasks.logs import read_metrics
from anyband.tasks.pretrain import pretrain
from anyband.tasks.recipe_files import load_recipe

_SENSOR = "sentinel2-l2a"
_IMAGES_A_PAIR = 2
_LEAST_PLACES = 5
_SIMULATED = ("--sensors", "sentinel2-l2a,sentinel1-grd", "--detail", "10")


def _archive(out: Path, places: int) -> tuple[Path, Path]:
    """Simulate and prepare; returns the store and the labels of Sentinel-2."""
    simulated, store = out / "simulated", out / "store"
    words = ["simulate", "--out", str(simulated), "--places", str(places), "--workers", "2", *_SIMULATED]
    if not simulated.is_dir() and anyband(words):
        raise InputError(f"'{simulated}' could not be simulated")
    words = ["prepare", str(simulated / "manifest.csv"), "--out", str(store), "--stats", "--workers", "2", "--quiet"]
    if not store.is_dir() and anyband(words):
        raise InputError(f"'{store}' could not be prepared")
    labels = out / "labels.csv"
    _keep_common(simulated / f"labels_{_SENSOR}.csv", labels)
    return store, labels


def _keep_common(source: Path, target: Path) -> None:
    """Divide the places of each class in two; classes of few places are left out."""
    with source.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["label"] for row in rows)
    kept = [row for row in rows if counts[row["label"]] >= _LEAST_PLACES]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        seen = Counter[str]()
        for row in kept:
            part = ("train", "val")[seen[row["label"]] % 2]
            seen[row["label"]] += 1
            writer.writerow({**row, "path": str(source.parent / row["path"]), "split": part})


def _run(out: Path, ratio: float, seed: int, arguments: argparse.Namespace) -> list[dict[str, str]]:
    store, labels = _archive(out, arguments.places)
    overrides = [
        f"seed={seed}",
        f"model.decode_ratio={ratio}",
        "model.decoder_depth=4",
        "data.statistics=store",
        f"optim.steps={arguments.steps}",
        f"optim.batch_size={arguments.batch}",
        f"optim.precision={arguments.precision}",
        f"run.knn.labelled={labels}",
        f"run.knn.sensor={_SENSOR}",
        f"run.knn.every_steps={arguments.every}",
        "run.log_every_steps=20",
        f"run.checkpoint_every_steps={arguments.steps}",
        "run.panel_every_steps=0",
        "run.val_batches=0",
        "run.accelerator=cpu",
    ]
    run = out / f"ratio_{ratio:g}_seed_{seed}"
    pretrain(load_recipe("smarties_tiny", overrides), data=store, out=run, shown=not arguments.quiet)
    return read_metrics(run / "metrics.csv")


def _scores(rows: list[dict[str, str]]) -> dict[int, float]:
    return {int(row["step"]): float(row["knn_score"]) for row in rows if row["knn_score"]}


def _mean_scores(runs: list[list[dict[str, str]]]) -> dict[int, float]:
    of_runs = [_scores(rows) for rows in runs]
    return {step: statistics.mean(scores[step] for scores in of_runs) for step in of_runs[0]}


def _step_s(runs: list[list[dict[str, str]]], batch: int) -> float:
    rates = [float(row["images_per_s"]) for rows in runs for row in rows[1:]]
    return _IMAGES_A_PAIR * batch / statistics.median(rates)


def _row(
    ratio: float, runs: list[list[dict[str, str]]], wanted: float, arguments: argparse.Namespace
) -> dict[str, Any]:
    scores, step_s = _mean_scores(runs), _step_s(runs, arguments.batch)
    reached = next((step for step, score in scores.items() if score >= wanted), None)
    return {
        "decode_ratio": ratio,
        "s/step": step_s,
        "kNN at the end": scores[arguments.steps],
        "steps to equal kNN": reached if reached is not None else "not reached",
        "seconds to equal kNN": reached * step_s if reached is not None else "not reached",
        **{f"kNN at {step}": score for step, score in scores.items()},
    }


def _measure(arguments: argparse.Namespace) -> None:
    runs: dict[float, list[list[dict[str, str]]]] = {ratio: [] for ratio in arguments.ratios}
    for seed in range(arguments.seeds):
        for ratio in arguments.ratios:
            runs[ratio].append(_run(arguments.out, ratio, seed, arguments))
    full = _mean_scores(runs[max(arguments.ratios)])
    wanted = max(score for step, score in full.items() if step <= arguments.steps // 2)
    rows = [_row(ratio, found, wanted, arguments) for ratio, found in runs.items()]
    settings = {
        "places": arguments.places,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "seeds": arguments.seeds,
        "precision": arguments.precision,
        "equal_knn": wanted,
    }
    report("bench_sparse", rows, {**circumstances(("torch", "timm")), "settings": settings})


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of archive and runs")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--places", type=int, default=400)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: _measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
