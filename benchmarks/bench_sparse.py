"""Decoding a share of the masked tokens: steps and seconds to equal kNN, not only steps a second.

    python benchmarks/bench_sparse.py --images UCMerced --sensor maxar-rgb --out DIR [--ratios 1 0.5 0.25] [--seeds 2]

Pre-trains a masked autoencoder on labelled photographs, without their labels: encoder, mask and rate of `a2mae_tiny` on
sets of one image, with plain positions and a decoder of eight blocks, as in the paper, so that decoding is about half
of the step. Runs differ in `model.decode_ratio` and seed alone. Every so many steps one half of the images of each
class votes on the other half by kNN of patch means. Runs are kept in DIR and taken up again, so they may be stopped.

Seconds a step are measured apart, afterwards: short runs of each ratio in turn, medians of all rows of metrics.csv, so
only then must nothing else run. Reported for each ratio: kNN every so many steps, as means over seeds, with the spread
at the end; and the first scored step, with the seconds up to it, at which mean kNN was three quarters of the way from
the first score to the best that all tokens reach.
"""

import argparse
import csv
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import circumstances, exit_code_of, report

from anyband.cli import main as anyband
from anyband.errors import InputError
from anyband.pretraining.cost import read_metrics
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import load_recipe

# chosen: most of the way, because the last point is lost in the noise of one score.
_SHARE_OF_THE_WAY = 0.75
_TIMED_STEPS = 30
_ROUNDS = 3

Runs = list[list[dict[str, str]]]


def _store(arguments: argparse.Namespace) -> Path:
    store: Path = arguments.out / "store"
    patterns = [str(arguments.images / "*" / f"*.{ending}") for ending in arguments.endings]
    words = ["prepare", *patterns, "--sensor", arguments.sensor, "--out", str(store)]
    words += ["--chip-px", str(arguments.chip_px), "--splits", "1,0,0", "--stats", "--quiet"]
    if not store.is_dir() and anyband(words):
        raise InputError(f"'{store}' could not be prepared")
    return store


def _labels(arguments: argparse.Namespace) -> Path:
    """List the pictures of each class, every other one for the vote and the rest to be scored."""
    table: Path = arguments.out / "labels.csv"
    rows = [["path", "label", "split"]]
    for folder in sorted(path for path in arguments.images.resolve().iterdir() if path.is_dir()):
        pictures = sorted(path for ending in arguments.endings for path in folder.glob(f"*.{ending}"))
        rows += [[path, folder.name, ("train", "val")[number % 2]] for number, path in enumerate(pictures)]
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return table


def _overrides(arguments: argparse.Namespace, ratio: float, seed: int, steps: int) -> list[str]:
    return [
        f"seed={seed}",
        f"model.decode_ratio={ratio}",
        "model.decoder_depth=8",
        "model.encodings.geographic=none",
        "data.sets.size=[1,1]",
        "data.statistics=store",
        "data.stretch=percentiles",
        f"optim.steps={steps}",
        f"optim.batch_size={arguments.batch}",
        f"optim.base_lr={arguments.base_lr}",
        "optim.warmup_epochs=2",
        f"optim.precision={arguments.precision}",
        "run.panel_every_steps=0",
        "run.val_batches=0",
        f"run.accelerator={arguments.accelerator}",
    ]


def _scored_run(arguments: argparse.Namespace, ratio: float, seed: int) -> list[dict[str, str]]:
    run = arguments.out / f"ratio_{ratio:g}_seed_{seed}"
    store, labels = _store(arguments), _labels(arguments)
    overrides = [
        *_overrides(arguments, ratio, seed, arguments.steps),
        f"run.knn.labelled={labels}",
        f"run.knn.sensor={arguments.sensor}",
        f"run.knn.every_steps={arguments.every}",
        "run.knn.pool=mean",
        "run.checkpoint_every_steps=100",
    ]
    pretrain(load_recipe("a2mae_tiny", overrides), data=store, out=run, shown=not arguments.quiet)
    return read_metrics(run / "metrics.csv")


def _timed_run(arguments: argparse.Namespace, ratio: float) -> list[float]:
    """Train a little. Returns images a second of each row after the first."""
    run = arguments.out / "timed"
    shutil.rmtree(run, ignore_errors=True)
    overrides = [*_overrides(arguments, ratio, 0, _TIMED_STEPS), "run.log_every_steps=5"]
    pretrain(load_recipe("a2mae_tiny", overrides), data=_store(arguments), out=run, shown=False)
    rates = [float(row["images_per_s"]) for row in read_metrics(run / "metrics.csv")[1:]]
    shutil.rmtree(run)
    return rates


def _step_s(arguments: argparse.Namespace) -> dict[float, float]:
    rates: dict[float, list[float]] = {ratio: [] for ratio in arguments.ratios}
    for _ in range(_ROUNDS):
        for ratio in arguments.ratios:
            rates[ratio] += _timed_run(arguments, ratio)
    return {ratio: arguments.batch / statistics.median(found) for ratio, found in rates.items()}


def _scores(rows: Sequence[dict[str, str]]) -> dict[int, float]:
    return {int(row["step"]): float(row["knn_score"]) for row in rows if row["knn_score"]}


def _mean_scores(runs: Runs) -> dict[int, float]:
    of_runs = [_scores(rows) for rows in runs]
    return {step: statistics.mean(scores[step] for scores in of_runs) for step in of_runs[0]}


def _wanted(full: dict[int, float]) -> float:
    """Score that counts as equal: most of the way from the first score to the best, with all tokens decoded."""
    first = full[min(full)]
    return first + _SHARE_OF_THE_WAY * (max(full.values()) - first)


def _row(ratio: float, runs: Runs, wanted: float, step_s: float) -> dict[str, Any]:
    scores = _mean_scores(runs)
    last = max(scores)
    reached = next((step for step, score in scores.items() if score >= wanted), None)
    ends = [_scores(rows)[last] for rows in runs]
    return {
        "decode_ratio": ratio,
        "s/step": step_s,
        "steps to equal kNN": reached if reached is not None else "not reached",
        "seconds to equal kNN": reached * step_s if reached is not None else "not reached",
        "best kNN": max(scores.values()),
        "kNN at the end": scores[last],
        "spread over seeds": max(ends) - min(ends),
        **{f"kNN at {step}": score for step, score in scores.items()},
    }


def _measure(arguments: argparse.Namespace) -> None:
    runs: dict[float, Runs] = {ratio: [] for ratio in arguments.ratios}
    for seed in range(arguments.seeds):
        for ratio in arguments.ratios:
            runs[ratio].append(_scored_run(arguments, ratio, seed))
    wanted = _wanted(_mean_scores(runs[max(arguments.ratios)]))
    step_s = _step_s(arguments)
    rows = [_row(ratio, found, wanted, step_s[ratio]) for ratio, found in runs.items()]
    settings = {
        "images": arguments.images.name,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "base_lr": arguments.base_lr,
        "seeds": arguments.seeds,
        "precision": arguments.precision,
        "equal_knn": wanted,
    }
    report("bench_sparse", rows, {**circumstances(("torch", "timm")), "settings": settings})


def main(words: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a folder of pictures for each class")
    parser.add_argument("--sensor", default="maxar-rgb", help="of the pictures")
    parser.add_argument("--endings", nargs="+", default=["jpg"], help="of the files")
    parser.add_argument("--chip-px", type=int, default=240, help="pixels that every picture has")
    parser.add_argument("--out", type=Path, required=True, help="folder of store and runs")
    parser.add_argument("--ratios", type=float, nargs="+", default=[1.0, 0.5, 0.25])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--every", type=int, default=150)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--base-lr", type=float, default=8e-3, help="for 256 images a step, as in the recipe")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args(words)
    return exit_code_of(lambda: _measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
