"""`anyband evaluate PROTOCOL [RECIPE] [KEY=VALUE ...] --checkpoint C --data FOLDER_OR_TABLE`."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.cli.options import output_path
from anyband.cli.results import plain_console, print_json, print_table

if TYPE_CHECKING:
    from anyband.evaluate.recipe import TransferRecipe
    from anyband.evaluate.report import Written
    from anyband.evaluate.run import RunOptions

__all__ = ["PROTOCOL_NAMES", "add_arguments", "add_options", "overrides_of", "quick_recipe_of", "run"]

PROTOCOL_NAMES = ("knn", "linear", "finetune", "segment", "change", "regress", "leave-one-band-out")

_Make = Callable[[str], Any]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _slots(text: str) -> list[list[str]]:
    return [_words(slot) for slot in text.split(";")]


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError as problem:
        raise argparse.ArgumentTypeError(f"takes numbers joined by commas, found '{text}'") from problem


# Option → (key of the recipe, how its word is read, what it says).
_DATA: dict[str, tuple[str, _Make, str]] = {
    "--kind": ("data.kind", str, "what is predicted: class, labels, number, class_map or number_map"),
    "--sensor": ("data.sensors", _words, "what took the images, one for each image of a sample, joined by commas"),
    "--bands": ("data.bands", _slots, "bands of the images, by commas; of several images by semicolons"),
    "--encoding": ("data.encodings", _words, "how numbers are stored, one for each image of a sample"),
    "--fraction": ("data.split.fraction", float, "share of the training labels that are used, by class"),
    "--per-class": ("data.split.per_class", int, "so many training labels of each class instead"),
    "--tile-px": ("data.tile_px", int, "cut larger images into squares of this edge"),
}
_INPUT: dict[str, tuple[str, _Make, str]] = {
    "--img-size": ("input.img_size", int, "edge of the network's input, pixels (default: the checkpoint's)"),
    "--resize": ("input.resize", str, "whole, native (windows of the images' own pixels) or short_side"),
    "--scales": ("input.scales", _numbers, "shares to which images are first reduced, such as 0.125,0.25,0.5,1"),
    "--pool": ("input.pool", str, "vector of an image: cls (default) or mean"),
    "--statistics": (
        "input.statistics",
        str,
        "normalisation: `data` counts it on the training images, `published`, a chip store, a JSON or YAML file "
        "(default: the checkpoint's, else the catalogue's)",
    ),
    "--unseen": ("input.unseen", str, "bands that no range is: interpolate (default), nearest, released, refuse"),
    "--min-support": ("input.min_support", float, "bands with less support are outside the span"),
    "--out-of-span": ("input.out_of_span", str, "refuse (default) or drop"),
    "--precision": ("input.precision", str, "of the frozen encoder: float32 (default) or bf16"),
    "--batch-size": ("input.batch_size", int, "samples encoded at once"),
}
_METHOD: dict[str, tuple[str, _Make, str]] = {
    "--fusion": ("fusion", str, "several images of a sample: stack, concat, mixup_concat or joint"),
    "--k": ("knn.k", int, "neighbours (default 20)"),
    "--temperature": ("knn.temperature", float, "of the votes (default 0.07)"),
    "--solver": ("linear.solver", str, "of the linear probe: adamw (as published) or lbfgs (seconds)"),
    "--head": ("head.kind", str, "for maps: upernet, linear or dfc2020"),
    "--measures": ("measures", str, "what leave-one-band-out scores: knn, linear or segment"),
    "--seed": ("seed", int, "of every draw"),
}
_FLAGS: dict[str, tuple[str, Any, str]] = {
    "--multi-label": ("data.kind", "labels", "images may have several labels"),
    "--untrained": ("compare.untrained", True, "also score the architecture before training"),
    "--baseline": ("compare.baseline", True, "also score what needs no network"),
    "--no-metadata": ("input.metadata", False, "do not tell where, how finely and when images were taken"),
}
_GROUPS = {"data": _DATA, "images to features": _INPUT, "protocol": _METHOD}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options; none has a default of its own, so that only what is said changes a recipe."""
    for title, table in _GROUPS.items():
        group = parser.add_argument_group(title)
        for option, (_, make, said) in table.items():
            group.add_argument(option, type=make, help=said)
    for option, (_, _, said) in _FLAGS.items():
        parser.add_argument(option, action="store_true", help=said)
    parser.add_argument("--split", type=_numbers, help="shares of val and test, where none is declared (0.1,0.2)")
    parser.add_argument("--epochs", type=int, help="of the linear probe, or of fine-tuning and heads")


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """Write what was said by options as KEY=VALUE words; the words of the command come last, so they win."""
    said: dict[str, Any] = {}
    for table in _GROUPS.values():
        for option, (key, _, _) in table.items():
            value = _value(arguments, option)
            if value is not None:
                said[key] = value
    said |= {key: value for option, (key, value, _) in _FLAGS.items() if _value(arguments, option)}
    said |= _shares(arguments.split) | _epochs(arguments) | _named(arguments)
    given = {word.partition("=")[0] for word in arguments.words}
    return [f"{key}={json.dumps(value)}" for key, value in said.items() if key not in given]


def quick_recipe_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the recipe of a command that names none: data and checkpoint come from its options."""
    name = Path(arguments.data).name if arguments.data else "evaluation"
    return {"name": f"{arguments.protocol} on {name}", "data": {"kind": _usual_kind(arguments.protocol)}}


def _usual_kind(protocol: str) -> str:
    return {"segment": "class_map", "change": "class_map", "regress": "number"}.get(protocol, "class")


def _value(arguments: argparse.Namespace, option: str) -> Any:
    return getattr(arguments, option.removeprefix("--").replace("-", "_"))


def _shares(split: list[float] | None) -> dict[str, Any]:
    from anyband.errors import InputError

    if split is None:
        return {}
    if len(split) != 2:
        found = ",".join(f"{share:g}" for share in split)
        raise InputError(f"--split takes the shares of val and test, such as 0.1,0.2; found {found}")
    return {"data.split.val": split[0], "data.split.test": split[1]}


def _epochs(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.epochs is None:
        return {}
    if arguments.protocol in ("knn", "linear", "leave-one-band-out"):
        return {"linear.epochs": arguments.epochs}
    return {"fit.epochs": arguments.epochs, "fit.warmup_epochs": min(5.0, arguments.epochs / 10)}


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    named = {"checkpoint": arguments.checkpoint, "data.root": arguments.root}
    return {key: value for key, value in named.items() if value is not None}


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
    from anyband.evaluate.report import Outputs, write_outputs
    from anyband.evaluate.run import evaluate

    recipe = _recipe(arguments)
    options = _options(arguments)
    if arguments.dry_run:
        return _dry_run(recipe, arguments, options)
    outputs = Outputs(folder=arguments.out, results=None if arguments.no_results else arguments.results)
    outputs.check()
    context, results = evaluate(recipe, arguments.protocol, options)
    written = write_outputs(context, results, outputs)
    if arguments.json:
        from anyband.evaluate.results import row_to_dict

        print_json({"results": [row_to_dict(row) for row in written.rows], "notes": list(written.notes)})
        return 0
    _print(written, arguments)
    return 0


def _print(written: "Written", arguments: argparse.Namespace) -> None:
    from anyband.evaluate.comparison import group_table, grouped

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
    from anyband.evaluate.recipe import load_transfer_recipe, transfer_recipe

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
    from anyband.errors import RecipeError
    from anyband.labelled.open import is_named

    if recipe.data.root is not None and not is_named(recipe.data.source):
        raise RecipeError(
            f"--root is the folder of a data set that --data names, and '{recipe.data.source}' is no name of one; "
            "leave it out, or name a set such as torchgeo:EuroSAT"
        )
    return recipe


def _data_of_recipe(recipe: "TransferRecipe", arguments: argparse.Namespace) -> list[str]:
    """Take --data as the folder of a set that the recipe names, else as other data."""
    from anyband.labelled.open import is_named

    if arguments.data is None:
        return []
    named = is_named(recipe.data.source) and not is_named(arguments.data)
    return [f"data.{'root' if named else 'source'}={_quoted(arguments.data)}"]


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)


def _options(arguments: argparse.Namespace) -> "RunOptions":
    from anyband.evaluate.run import RunOptions

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
    from anyband.evaluate.dry_run import dry_run

    found = dry_run(recipe, protocol=arguments.protocol, options=options)
    if arguments.json:
        print_json(found.to_dict())
    else:
        print("\n".join(found.lines))
    return 0 if found.ok else 1
