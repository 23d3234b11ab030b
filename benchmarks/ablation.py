"""What each part of the methods is worth: equal steps, several seeds, scores on held-out places.

    python benchmarks/ablation.py --out DIR [--archive simulated|kit:MANIFEST] [--size tiny|small|base] [--variants …]
        [--seeds 3] [--steps 600] [--images 96] [--places 720] [--device auto|cpu|gpu] [--publish]

Every run is trained, scored and written as one JSON file, DIR/runs/VARIANT_SEED.json. The command may be stopped at
any moment and given again, also with more variants or seeds: what is done stays, and a training goes on where it was.
DIR has tables and CSV of all that is done; `--publish` writes them into docs/ablation.md and benchmarks/results too.

`--variants all` is the full grid; the default fits about an hour of two cores. Without rasterio DIR must hold an
archive made elsewhere (DIR/archive, which is made first of all; `--seeds 0` makes it alone).
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation_archive import KIT, SIMULATED, make_archive
from ablation_runs import BAND_MEANS, Ablation
from ablation_table import page_name, put_between_markers, tables_of, write_csv
from ablation_variants import DEFAULT_VARIANTS, UNTRAINED, TrainOptions, check_variant, variants
from measure import RESULTS, exit_code_of

from anyband.files import whole_file

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ablation.md"


def main(words: Sequence[str] | None = None) -> int:
    """Do what is left to do, and write tables of all that is done. Returns the exit code."""
    arguments = _parser().parse_args(words)
    return exit_code_of(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the archive, the runs and the results")
    parser.add_argument("--archive", default=SIMULATED, help=f"{SIMULATED} or {KIT}:MANIFEST")
    parser.add_argument("--size", choices=["tiny", "small", "base", "large"], default="tiny", help="of the networks")
    parser.add_argument("--variants", nargs="+", default=list(DEFAULT_VARIANTS), help="variants, or all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--steps", type=int, default=TrainOptions.steps, help="training steps of each run")
    parser.add_argument("--images", type=int, default=TrainOptions.images, help="images a step")
    parser.add_argument("--base-lr", type=float, help="rate for 256 samples; default: that of the SMARTIES recipe")
    parser.add_argument("--places", type=int, default=720, help="simulated places")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="where to train and score")
    parser.add_argument("--workers", type=int, default=2, help="processes that make the archive")
    parser.add_argument("--publish", action="store_true", help="write tables into the docs and the CSV into results")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    ablation = _ablation(arguments)
    trained = ablation.archive.trained
    names = variants(trained) if arguments.variants == ["all"] else tuple(arguments.variants)
    for name in names:
        check_variant(name, trained)
    ablation.check_same()
    # Nothing is drawn for band means: they are one run.
    todo = [(name, seed) for seed in range(arguments.seeds) for name in dict.fromkeys((*names, UNTRAINED))]
    todo += [(BAND_MEANS, 0)] if arguments.seeds else []
    for number, (name, seed) in enumerate(todo, 1):
        print(f"{number} of {len(todo)}: {name}, seed {seed}", flush=True)
        if ablation.do(name, seed=seed) or number == len(todo):
            _write_results(ablation, publish=arguments.publish)


def _ablation(arguments: argparse.Namespace) -> Ablation:
    archive = make_archive(
        arguments.out / "archive", arguments.archive, num_places=arguments.places, workers=arguments.workers
    )
    options = TrainOptions(
        size=arguments.size,
        steps=arguments.steps,
        images=arguments.images,
        base_lr=arguments.base_lr,
        accelerator=arguments.device,
        two_sources=archive.kind == KIT,
    )
    return Ablation(out=arguments.out, archive=archive, options=options)


def _write_results(ablation: Ablation, *, publish: bool) -> None:
    runs = list(ablation.runs())
    rows = [{"variant": run["variant"], "seed": run["seed"], **score} for run in runs for score in run["scores"]]
    kind, options = ablation.archive.kind, ablation.options
    facts = {"size": options.size, "steps": options.steps, "images": options.images}
    facts |= {"processor": runs[-1]["processor"], "commit": runs[-1]["commit"]}
    name = f"ablation_{kind}_{options.size}"
    text = f"{_how(ablation, runs)}\n\n{tables_of(rows)}"
    write_csv(ablation.out / f"{name}.csv", rows, facts)
    with whole_file(ablation.out / f"{name}.md") as beside:
        beside.write_text(text, encoding="utf-8")
    if publish:
        RESULTS.mkdir(exist_ok=True)
        write_csv(RESULTS / f"{name}.csv", rows, facts)
        put_between_markers(PAGE, page_name(kind, options.size), text)


def _how(ablation: Ablation, runs: Sequence[dict[str, Any]]) -> str:
    """Say which command, machine and lengths the tables are of."""
    options, kind = ablation.options, ablation.archive.kind
    names = [name for name in dict.fromkeys(run["variant"] for run in runs) if name not in (UNTRAINED, BAND_MEANS)]
    seeds = len({run["seed"] for run in runs})
    places = len(ablation.archive.store.index.column("place").unique())
    command = ["python", "benchmarks/ablation.py", "--out", "DIR"]
    command += ["--archive", f"{KIT}:MANIFEST"] if kind == KIT else ["--places", str(places)]
    command += ["--size", options.size, "--seeds", str(seeds), "--steps", str(options.steps)]
    command += ["--images", str(options.images)]
    command += ["--base-lr", f"{options.base_lr:g}"] if options.base_lr is not None else []
    command += ["--variants", *names]
    trained = sum(len(run["losses"]) for run in runs)
    minutes = sum(run["training_s"] + run["scoring_s"] for run in runs) / 60
    last = runs[-1]
    return (
        f"```sh\n{shlex.join(command)} --publish\n```\n\n"
        f"{trained} trainings of {options.steps} steps of {options.images} images, {minutes:.0f} minutes with scoring "
        f"on {last['cores']} cores of {last['processor']}, torch {last['versions']['torch']}, commit {last['commit']}. "
        f"Mean ± standard deviation over {seeds} seeds; {places} places."
    )


if __name__ == "__main__":
    raise SystemExit(main())
