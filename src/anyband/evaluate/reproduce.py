"""Tables of the paper, row by row: which data and weights a row needs, and its scores beside the published ones."""

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anyband.errors import AnybandError, CatalogueError, InputError, RecipeError
from anyband.evaluate.metrics import score_text
from anyband.evaluate.recipe import TransferRecipe, load_transfer_recipe
from anyband.evaluate.report import write_outputs
from anyband.evaluate.run import evaluate
from anyband.files import read_yaml

__all__ = ["reproduce", "tables_of_the_paper"]

_PUBLISHED = Path(__file__).parent / "published.yaml"


def tables_of_the_paper() -> dict[int, str]:
    """Give the title of each table, by its number."""
    tables: dict[int, dict[str, Any]] = read_yaml(_PUBLISHED, error=CatalogueError)["tables"]
    return {number: str(table["title"]) for number, table in tables.items()}


def reproduce(
    table: int,
    root: Path,
    *,
    checkpoint: str | None = None,
    eval_only: bool = False,
    overrides: Sequence[str] = (),
    results: Path | None = None,
    cache: Path | None = None,
    download: bool = False,
    device: str = "cpu",
    shown: bool = False,
) -> Iterator[dict[str, Any]]:
    """Do the rows of a table, one after the other: `row`, `published` and `ours` by metric, or why it is `missing`.
    A row whose data or weights are not there hides no other.
    Args:
        root: folder of the data sets, and in table 7 of the runs.
        checkpoint: for all rows; None: the published weights, or the run that a row names.
        eval_only: score the released heads, of rows that have one.
        overrides: `key.key=value` for the recipe of every row.
        results: table that results are appended to.
    Raises `InputError` where there is no such table.
    """
    known = read_yaml(_PUBLISHED, error=CatalogueError)
    if table not in known["tables"]:
        raise InputError(
            f"the paper has no table {table} with results; there are {', '.join(map(str, known['tables']))}"
        )
    for row in known["tables"][table]["rows"]:
        found = {"row": row["row"], "recipe": f"paper/{row['recipe']}", "published": row["scores"]}
        try:
            recipe = _recipe_of(row, known, root, checkpoint, eval_only, overrides, download=download)
            context, made = evaluate(
                recipe, recipe.protocol or "knn", device=device, cache=cache, download=download, shown=shown
            )
            (first, *_), _notes = write_outputs(context, made[:1], table_path=results)
        except AnybandError as problem:
            yield {**found, "missing": str(problem)}
            continue
        scores = {score.metric: score for score in first.scores}
        ours = {name: score_text(scores[name]) for name in row["scores"] if name in scores}
        yield {**found, "ours": ours, "num_samples": dict(first.num_samples), "notes": list(first.notes)}


def _fetch(name: str, place: Path) -> None:
    """Have TorchGeo fetch a data set, by its checksums; an interrupted download stays beside and is taken up again."""
    partial = place.with_name(place.name + ".partial")
    try:
        getattr(importlib.import_module("torchgeo.datasets"), name)(root=str(partial), download=True, checksum=True)
    except (ImportError, OSError, RuntimeError) as problem:
        raise InputError(f"TorchGeo could not fetch {name} into '{partial}': {problem}") from problem
    partial.rename(place)


def _recipe_of(
    row: dict[str, Any],
    known: dict[str, Any],
    root: Path,
    checkpoint: str | None,
    eval_only: bool,
    overrides: Sequence[str],
    *,
    download: bool,
) -> TransferRecipe:
    """Load the recipe of a row with its data and weights; what is not there is an error that says where to get it."""
    name, data = f"paper/{row['recipe']}", known["data"][row["data"]]
    place = root / data["place"]
    if not place.exists() and download and "torchgeo" in data:
        _fetch(data["torchgeo"], place)
    if not place.exists():
        raise InputError(f"no {row['data']} at '{place}'; get it: {data['get']}")
    if eval_only and "head" not in row:
        raise RecipeError("no head was released for this row; leave out --eval-only to fit one")
    if checkpoint is None and eval_only:
        checkpoint = f"{known['heads']}/smarties-v1-{row['head']}.safetensors"
    elif checkpoint is None and "run" in row:
        run = root / row["run"]
        if not run.exists():
            raise InputError(f"no run at '{run}'; make it: anyband pretrain paper/pretraining/{row['run']} --out {run}")
        checkpoint = str(run / "encoder.safetensors")
    elif checkpoint is None:
        checkpoint = known["weights"][row["weights"]]
    changes = [f"checkpoint={checkpoint}", f"data.root={place}"]
    changes += [f"data.split.fraction={row['fraction']}"] if "fraction" in row else []
    changes += ["eval_only=true"] if eval_only else []
    return load_transfer_recipe(name, [*changes, *overrides])
