"""`anyband evaluate PROTOCOL [RECIPE] [KEY=VALUE ...] --checkpoint C --data FOLDER_OR_TABLE`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from anyband.cli.evaluate_options import PROTOCOL_NAMES, add_options, overrides_of, quick_recipe_of
from anyband.cli.local_paths import output_path
from anyband.cli.tables import plain_console, print_json, print_table

if TYPE_CHECKING:
    from anyband.tasks.transfer.outputs import Written
    from anyband.tasks.transfer.recipe import TransferRecipe
    from anyband.tasks.transfer.run import RunOptions

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "anyband evaluate PROTOCOL [RECIPE] [KEY=VALUE ...] [--checkpoint C] [--data FOLDER_OR_TABLE] [options]"
    )
    parser.add_argument("protocol", choices=PROTOCOL_NAMES, metavar="PROTOCOL", help=", ".join(PROTOCOL_NAMES))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE KEY=VALUE",
        help="YAML file or shipped recipe such as paper/table2_eurosat_linear; other values than the recipe's",
    )
    parser.add_argument("--checkpoint", help="safetensors file, or a hub id")
    parser.add_argument(
        "--data",
        help="folder, CSV, Parquet or GeoParquet; `torchgeo:NAME` or a published set's name with --root; with a recipe "
        "of a named set, its folder",
    )
    parser.add_argument("--root", help="folder of a data set that --data names")
    add_options(parser)
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", type=output_path, help="new folder for report, result, recipe and fitted weights")
    outputs.add_argument(
        "--results", type=Path, default=Path("results.parquet"), help="file that results are appended to"
    )
    outputs.add_argument("--no-results", action="store_true", help="append nothing")
    outputs.add_argument("--json", action="store_true", help="print JSON instead of a table")
    outputs.add_argument("--dry-run", action="store_true", help="check everything, estimate time and memory, and stop")
    outputs.add_argument("--cache", type=Path, help="folder of kept features (default: in the user's cache folder)")
    outputs.add_argument("--no-cache", action="store_true", help="keep no features")
    outputs.add_argument("--download", action="store_true", help="let a named data set be fetched")
    outputs.add_argument("--device", default="cpu", help="cpu, cuda, …")


def run(arguments: argparse.Namespace) -> int:
    from anyband.tasks.transfer.outputs import Outputs, write_outputs
    from anyband.tasks.transfer.run import evaluate

    recipe = _recipe(arguments)
    options = _options(arguments)
    if arguments.dry_run:
        return _dry_run(recipe, arguments, options)
    outputs = Outputs(folder=arguments.out, results=None if arguments.no_results else arguments.results)
    outputs.check()
    setting, outcomes = evaluate(recipe, arguments.protocol, options)
    written = write_outputs(setting, outcomes, outputs)
    if arguments.json:
        from anyband.tasks.transfer.result_records import row_to_dict

        print_json({"results": [row_to_dict(row) for row in written.rows], "notes": list(written.notes)})
        return 0
    _print(written, arguments)
    return 0


def _print(written: "Written", arguments: argparse.Namespace) -> None:
    from anyband.tasks.transfer.result_tables import group_table, grouped

    console = plain_console()
    row = written.rows[0]
    counts = ", ".join(f"{name} {count}" for name, count in row.num_samples.items())
    console.print(f"{row.protocol}: {row.checkpoint} ({row.checkpoint_hash[:8]}) on {row.data} ({counts})")
    for note in dict.fromkeys(note for one in written.rows for note in one.notes):
        console.print(note)
    for group in grouped(written.rows, None):
        header, texts = group_table(group, None)
        print_table(console, "", header, texts)
    console.print("in brackets 95 % bootstrap intervals over test samples; validation chose, test is only reported")
    if not arguments.no_results:
        console.print(f"appended to {arguments.results}; `anyband results {arguments.results}` prints and compares")
    for note in written.notes:
        console.print(note)
    if arguments.out is not None:
        console.print(f"report: {arguments.out / 'report.html'}")


def _recipe(arguments: argparse.Namespace) -> "TransferRecipe":
    """Read the recipe that is named, or make one from the options."""
    from anyband.errors import RecipeError
    from anyband.tasks.transfer.recipe_files import load_transfer_recipe, transfer_recipe

    names = [word for word in arguments.words if "=" not in word]
    if len(names) > 1:
        raise RecipeError(f"'{names[1]}' is neither KEY=VALUE nor the only recipe; one recipe was named: '{names[0]}'")
    words = [word for word in arguments.words if "=" in word]
    arguments.words = words
    overrides = overrides_of(arguments)
    if names:
        overrides += _data_of_recipe(load_transfer_recipe(names[0]), arguments)
        return _with_useful_root(load_transfer_recipe(names[0], [*overrides, *words]))
    if arguments.data is None and not any(word.startswith("data.source=") for word in words):
        raise RecipeError("say what to evaluate on: name a recipe, or give --data a folder, a table or a data set")
    if arguments.data is not None:
        overrides.append(f"data.source={_quoted(arguments.data)}")
    return _with_useful_root(transfer_recipe(quick_recipe_of(arguments), [*overrides, *words]))


def _with_useful_root(recipe: "TransferRecipe") -> "TransferRecipe":
    """Refuse a root that nothing would look into."""
    from anyband.data.supervised.opening import is_named
    from anyband.errors import RecipeError

    if recipe.data.root is not None and not is_named(recipe.data.source):
        raise RecipeError(
            f"--root is the folder of a data set that --data names, and '{recipe.data.source}' is no name of one; "
            "leave it out, or name a set such as torchgeo:EuroSAT"
        )
    return recipe


def _data_of_recipe(recipe: "TransferRecipe", arguments: argparse.Namespace) -> list[str]:
    """Take --data as the folder of a set that the recipe names, else as other data."""
    from anyband.data.supervised.opening import is_named

    if arguments.data is None:
        return []
    named = is_named(recipe.data.source) and not is_named(arguments.data)
    return [f"data.{'root' if named else 'source'}={_quoted(arguments.data)}"]


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)


def _options(arguments: argparse.Namespace) -> "RunOptions":
    from anyband.tasks.transfer.run import RunOptions

    return RunOptions(
        device=arguments.device,
        cache=None if arguments.no_cache else arguments.cache or _cache_folder(),
        download=arguments.download,
        shown=not arguments.json,
    )


def _cache_folder() -> Path:
    # Source: XDG Base Directory Specification 0.8.
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "anyband" / "features"


def _dry_run(recipe: "TransferRecipe", arguments: argparse.Namespace, options: "RunOptions") -> int:
    from anyband.tasks.transfer.dry_run import dry_run

    found = dry_run(recipe, protocol=arguments.protocol, options=options)
    if arguments.json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.lines))
    return 0 if found.ok else 1
