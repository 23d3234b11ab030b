"""How well gaps in real series are filled: the network against lines in time, on dates that it never saw.

    python benchmarks/gap_filling.py IMAGES --out DIR [--steps 2500] [--batch-size 16] [--recipe unified_tiny]
        [--gaps 10 30 60] [--device cpu] [--publish]

IMAGES is the folder of real images (docs/real_data.md). The command prepares a store without the held-out seasons,
trains on it, cuts clouds into the held-out clear dates, and fills them. Every part is kept in DIR: the command may be
stopped at any moment and given again. DIR has a table, a CSV and a picture; `--publish` writes the table into
docs/reconstruct.md and the CSV into benchmarks/results.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gap_filling_cases as cases
import numpy as np
import yaml
from ablation_table import put_between_markers
from gap_filling_dates import Site, Target, draw_clouds, find_sites, find_targets
from gap_filling_table import ALL_BANDS, summarised, tables_of, write_csv
from measure import RESULTS, circumstances, exit_code_of

from anyband.data.harmonise import normalisation_for, picture, to_physical
from anyband.data.manifest import read_manifest
from anyband.data.prepare import PrepareOptions, prepare
from anyband.encode.complete import SetCompleter, load_completer
from anyband.errors import OutputError
from anyband.files import whole_file
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import PretrainRecipe, load_recipe
from anyband.report.figures import pictures_png
from anyband.sensors.catalogue import get_sensor

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reconstruct.md"
MARKER = "gap filling"
NAME = "gap_filling"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One run of the benchmark."""

    out: Path
    """Folder of everything that it makes."""
    settings: dict[str, Any]
    """What its numbers depend on."""

    @property
    def store(self) -> Path:
        """Chip store of the dates that are not held out."""
        return self.out / "store"

    @property
    def run(self) -> Path:
        """Folder of the training."""
        return self.out / "run"

    def case_file(self, site: Site, target: Target, gap: int) -> Path:
        """Name the file of a case."""
        place = re.sub(r"\W+", "_", site.name)
        return self.out / "cases" / f"{place}_{site.times[target.date]:%Y%m%d}_{gap}.json"


def main(words: Sequence[str] | None = None) -> int:
    """Do what is left to do, and write what came of all. Returns the exit code."""
    arguments = _parser().parse_args(words)
    return exit_code_of(lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of real images; see docs/real_data.md")
    parser.add_argument("--out", type=Path, required=True, help="folder of the store, the run and the results")
    parser.add_argument("--recipe", default="unified_tiny", help="of the network")
    parser.add_argument("--steps", type=int, default=2500, help="training steps")
    parser.add_argument("--batch-size", type=int, default=16, help="sets a step")
    parser.add_argument("--hidden-image", type=float, help="share of steps that hide an image whole (default: recipe)")
    parser.add_argument("--gaps", type=int, nargs="+", default=[10, 30, 60], help="least days between the dates used")
    parser.add_argument("--most-targets", type=int, help="of each site and gap, to try things out")
    parser.add_argument("--seed", type=int, default=0, help="of weights, draws and clouds")
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto", help="where to train")
    parser.add_argument("--publish", action="store_true", help="write the table into the docs, the CSV into results")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    keys = ("recipe", "steps", "batch_size", "hidden_image", "seed")
    bench = Bench(out=arguments.out, settings={key: getattr(arguments, key) for key in keys})
    _check_same(bench)
    sites = find_sites(arguments.images)
    _prepare(bench, sites)
    result = pretrain(_recipe(bench, arguments.device), data=bench.store, out=bench.run)
    completer = load_completer(result.checkpoint)
    done = []
    for site in sites:
        for gap in arguments.gaps:
            targets = find_targets(site, gap)[: arguments.most_targets]
            print(f"{site.name}, {gap} days or more: {len(targets)} dates", flush=True)
            done += [_case(bench, completer, site, target, gap) for target in targets]
    _write_results(bench, done, publish=arguments.publish)
    _draw(bench, completer, sites, max(gap for gap in arguments.gaps if gap <= 30 or gap == min(arguments.gaps)))


def _check_same(bench: Bench) -> None:
    """Refuse to mix the results of different settings in one folder."""
    file = bench.out / "settings.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found != bench.settings:
            raise OutputError(
                f"'{bench.out}' holds results of other settings ({found}, not {bench.settings}); name another folder"
            )
        return
    bench.out.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as beside:
        beside.write_text(json.dumps(bench.settings) + "\n", encoding="utf-8")


def _prepare(bench: Bench, sites: Sequence[Site]) -> None:
    """Make the store; one that is there and of the same images is left as it is."""
    rows = [{**row, "split": "train"} for site in sites for row in site.training_rows]
    manifest = bench.out / "training.yaml"
    with whole_file(manifest) as beside:
        beside.write_text(yaml.safe_dump(rows, sort_keys=False), encoding="utf-8")
    prepare(read_manifest(manifest), bench.store, PrepareOptions(statistics=True), shown=True)


def _recipe(bench: Bench, device: str) -> PretrainRecipe:
    requested = bench.settings
    recipe = load_recipe(requested["recipe"])
    hidden = recipe.model.hidden_image if requested["hidden_image"] is None else requested["hidden_image"]
    most = requested["steps"]
    return recipe.changed(
        name=f"{recipe.name} for filling gaps",
        seed=requested["seed"],
        model=recipe.model.changed(hidden_image=hidden),
        data=recipe.data.changed(statistics="store"),
        optim=recipe.optim.changed(batch_size=requested["batch_size"], steps=most),
        run=recipe.run.changed(
            accelerator=device, val_batches=0, panel_every_steps=0, checkpoint_every_steps=max(1, most // 5)
        ),
    )


def _case(bench: Bench, completer: SetCompleter, site: Site, target: Target, gap: int) -> dict[str, Any]:
    """Fill one target, or take what an earlier call found."""
    file = bench.case_file(site, target, gap)
    if not file.is_file():
        read = cases.read_case(site, target, draw_clouds(site, target.date, seed=bench.settings["seed"]))
        found = {
            "site": site.name.rpartition(" ")[2],
            "date": f"{site.times[target.date]:%Y-%m-%d}",
            "least_gap_days": gap,
            "gap_days": target.gap_days,
            "pixels": int(read.scored.sum()),
            "errors": cases.errors(read, cases.fill(read, completer, bench.out)) if read.scored.any() else [],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as beside:
            beside.write_text(json.dumps(found) + "\n", encoding="utf-8")
    case: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return case


def _write_results(bench: Bench, done: Sequence[dict[str, Any]], *, publish: bool) -> None:
    rows = summarised(done)
    facts = {"benchmark": NAME, "settings": bench.settings, "cases": len(done), **circumstances(("torch", "timm"))}
    print(_plain_table(rows))
    print(json.dumps({**facts, "rows": [row for row in rows if row["band"] == ALL_BANDS]}))
    tables = f"{_caption(facts)}\n\n{tables_of(rows)}"
    write_csv(bench.out / f"{NAME}.csv", rows)
    with whole_file(bench.out / f"{NAME}.md") as beside:
        beside.write_text(tables, encoding="utf-8")
    if publish:
        write_csv(RESULTS / f"{NAME}.csv", rows)
        put_between_markers(PAGE, MARKER, tables)


def _caption(facts: dict[str, Any]) -> str:
    requested = facts["settings"]
    return (
        f"`{requested['recipe']}`, {requested['steps']} steps of {requested['batch_size']} sets, "
        f"seed {requested['seed']}; root mean square error in hundredths of reflectance, the mean over held-out dates "
        f"and their standard deviation; the lowest of each gap is bold. Commit {facts['commit']}."
    )


def _plain_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'site':<42} {'gap':>4} {'n':>3}  {'method':<42} RMSE × 100"]
    for row in rows:
        if row["band"] == ALL_BANDS:
            error = f"{100 * row['rmse']:.2f} ± {100 * row['spread']:.2f}"
            lines.append(f"{row['site']:<42} {row['gap_days']:>4} {row['dates']:>3}  {row['method']:<42} {error}")
    return "\n".join(lines)


def _draw(bench: Bench, completer: SetCompleter, sites: Sequence[Site], gap: int) -> None:
    """Draw the middle date of the first site that has one: what is around it, cut, true and filled."""
    site = next((site for site in sites if find_targets(site, gap)), None)
    if site is None:
        return
    targets = find_targets(site, gap)
    target = targets[len(targets) // 2]
    case = cases.read_case(site, target, draw_clouds(site, target.date, seed=bench.settings["seed"]))
    filled = cases.fill(case, completer, bench.out)
    shown = {
        f"before, {site.times[target.before]:%Y-%m-%d}": case.before,
        f"after, {site.times[target.after]:%Y-%m-%d}": case.after,
        f"target, {site.times[target.date]:%Y-%m-%d}": case.truth,
        "target, as given": case.truth,
        **{method: np.where(case.clouds, filled[method], case.truth) for method in cases.METHODS[:-1]},
    }
    hidden = {"target, as given": ~case.clouds}
    pictures = [_picture(case, pixels, hidden.get(title)) for title, pixels in shown.items()]
    with whole_file(bench.out / f"{NAME}.png") as beside:
        beside.write_bytes(pictures_png(pictures, list(shown)))


def _picture(case: cases.Case, pixels: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    import torch

    sensor = get_sensor("sentinel2-l2a").select(case.bands)
    decoding = normalisation_for(sensor, encoding="dn")
    values, like = (
        to_physical(torch.from_numpy(one.astype(np.float32)), decoding).numpy() for one in (pixels, case.truth)
    )
    valid = None if seen is None else np.broadcast_to(seen, values.shape)
    colours = picture(values, sensor, valid=valid, like=like, missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
