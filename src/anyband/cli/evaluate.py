"""`anyband evaluate PROTOCOL [RECIPE] [KEY=VALUE ...] --checkpoint C --data FOLDER_OR_TABLE`."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.cli.options import (
    add_result_options,
    cache_folder,
    check_checkpoint,
    check_there,
    output_path,
    unseen_rules,
)
from anyband.cli.results import print_json, print_table
from anyband.errors import InputError, RecipeError

if TYPE_CHECKING:
    from anyband.evaluate.recipe import TransferRecipe

__all__ = ["add_arguments", "run"]

_PROTOCOL_NAMES = ("knn", "linear", "finetune", "segment", "change", "regress", "leave-one-band-out")

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
    "--bands": (
        "data.bands",
        _slots,
        "of the images, by commas, of several by semicolons; `available`: those that a file names",
    ),
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
    "--unseen": ("input.unseen", unseen_rules, "bands that no range is: interpolate (default), nearest, …; or by band"),
    "--min-support": ("input.min_support", float, "bands with less support are outside the span"),
    "--out-of-span": ("input.out_of_span", str, "drop (default) or refuse"),
    "--precision": ("input.precision", str, "of the frozen encoder: float32 (default) or bf16"),
    "--batch-size": ("input.batch_size", int, "samples encoded at once"),
}
_METHOD: dict[str, tuple[str, _Make, str]] = {
    "--fusion": ("fusion", str, "several images of a sample: stack, concat, mixup_concat, joint or ltae"),
    "--k": ("knn.k", int, "neighbours (default 20)"),
    "--temperature": ("knn.temperature", float, "of the votes (default 0.07)"),
    "--solver": ("linear.solver", str, "of the linear probe: adamw (as published) or lbfgs (seconds)"),
    "--head": ("head.kind", str, "for maps: upernet, pangaea, linear or dfc2020"),
    "--head-file": ("head.file", str, "with --eval-only: fitted weights that --out left (default: the checkpoint's)"),
    "--measures": ("measures", str, "what leave-one-band-out scores: knn, linear or segment"),
    "--seed": ("seed", int, "of every draw"),
}
_FLAGS: dict[str, tuple[str, Any, str]] = {
    "--multi-label": ("data.kind", "labels", "images may have several labels"),
    "--eval-only": ("eval_only", True, "fit nothing: score the head in the checkpoint's file"),
    "--untrained": ("compare.untrained", True, "also score the architecture before training"),
    "--baseline": ("compare.baseline", True, "also score what needs no network"),
    "--no-metadata": ("input.metadata", False, "do not tell where, how finely and when images were taken"),
}
_GROUPS = {"data": _DATA, "images to features": _INPUT, "protocol": _METHOD}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "anyband evaluate PROTOCOL [RECIPE] [KEY=VALUE ...] [--checkpoint C] [--data FOLDER_OR_TABLE] [options]"
    )
    parser.add_argument("protocol", choices=_PROTOCOL_NAMES, metavar="PROTOCOL", help=", ".join(_PROTOCOL_NAMES))
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
    # None has a default of its own, so that only what is given changes a recipe.
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for option, (_, make, text) in options.items():
            group.add_argument(option, type=make, help=text)
    for option, (_, _, text) in _FLAGS.items():
        parser.add_argument(option, action="store_true", help=text)
    parser.add_argument("--split", type=_numbers, help="shares of val and test, where none is declared (0.1,0.2)")
    parser.add_argument("--epochs", type=int, help="of the linear probe, or of fine-tuning and heads")
    outputs = parser.add_argument_group("outputs")
    outputs.add_argument("--out", type=output_path, help="new folder for report, result, recipe and fitted weights")
    outputs.add_argument("--dry-run", action="store_true", help="check everything, estimate time and memory, and stop")
    add_result_options(outputs)


def run(arguments: argparse.Namespace) -> int:
    # A dry run lists all that is wrong.
    if not arguments.dry_run:
        check_checkpoint(arguments.checkpoint)
        check_there("--root", [arguments.root])
        check_checkpoint(arguments.head_file)
        from anyband.labelled import is_named

        if arguments.data is not None and not is_named(arguments.data):
            check_there("--data", [arguments.data])
    # Late: what can be seen without a network was seen.
    from anyband.evaluate.report import check_outputs, write_outputs
    from anyband.evaluate.results import grouped, row_to_dict, table_of
    from anyband.evaluate.run import dry_run, dry_run_lines, evaluate

    recipe = _recipe(arguments)
    device, shown = arguments.device, not arguments.json
    if arguments.dry_run:
        found = dry_run(recipe, arguments.protocol, device=device)
        if arguments.json:
            print_json(found)
        else:
            print("\n".join(dry_run_lines(found)))
        return 0 if found["ok"] else 1
    table_path = None if arguments.no_results else arguments.results
    check_outputs(arguments.out, table_path)
    context, results = evaluate(
        recipe,
        arguments.protocol,
        device=device,
        cache=cache_folder(arguments),
        download=arguments.download,
        shown=shown,
    )
    rows, notes = write_outputs(context, results, folder=arguments.out, table_path=table_path)
    if arguments.json:
        print_json({"results": [row_to_dict(row) for row in rows], "notes": list(notes)})
        return 0
    row = rows[0]
    counts = ", ".join(f"{name} {count}" for name, count in row.num_samples.items())
    print(f"{row.protocol}: {row.checkpoint} ({row.checkpoint_hash[:8]}) on {row.data} ({counts})")
    for note in dict.fromkeys(note for one in rows for note in one.notes):
        print(f"note: {note}")
    for group in grouped(rows):
        print_table("", *table_of(group))
    how = "nothing was fitted or chosen here" if recipe.eval_only else "validation chose, test is only reported"
    print(f"in brackets 95 % bootstrap intervals over test samples; {how}")
    if not arguments.no_results:
        print(f"appended to {arguments.results}; `anyband results {arguments.results}` prints and compares")
    for note in notes:
        print(note)
    if arguments.out is not None:
        print(f"report: {arguments.out / 'report.html'}")
    return 0


def _recipe(arguments: argparse.Namespace) -> "TransferRecipe":
    """Read the recipe that is named, or make one from the options."""
    from anyband.evaluate.recipe import load_transfer_recipe, transfer_recipe
    from anyband.labelled import is_named

    names = [word for word in arguments.words if "=" not in word]
    if len(names) > 1:
        raise RecipeError(f"'{names[1]}' is neither KEY=VALUE nor the only recipe; one recipe was named: '{names[0]}'")
    words = [word for word in arguments.words if "=" in word]
    overrides = _overrides(arguments, words)
    source = arguments.data
    if names:
        if source is not None:
            # --data is the folder of a set that the recipe names, else other data.
            named = is_named(load_transfer_recipe(names[0]).data.source) and not is_named(source)
            overrides.append(f"data.{'root' if named else 'source'}={json.dumps(source)}")
        recipe = load_transfer_recipe(names[0], [*overrides, *words])
    else:
        if source is None and not any(word.startswith("data.source=") for word in words):
            raise RecipeError("say what to evaluate on: name a recipe, or give --data a folder, a table or a data set")
        if source is not None:
            overrides.append(f"data.source={json.dumps(source)}")
        title = f"{arguments.protocol} on {Path(source).name if source else 'evaluation'}"
        kind = {"segment": "class_map", "change": "class_map", "regress": "number"}.get(arguments.protocol, "class")
        recipe = transfer_recipe({"name": title, "data": {"kind": kind}}, [*overrides, *words])
    if recipe.data.root is not None and not is_named(recipe.data.source):
        raise RecipeError(
            f"--root is the folder of a data set that --data names, and '{recipe.data.source}' is no name of one; "
            "leave it out, or name a set such as torchgeo:EuroSAT"
        )
    return recipe


def _overrides(arguments: argparse.Namespace, words: Sequence[str]) -> list[str]:
    """Write what options say as KEY=VALUE words; where a word of the command gives a key, that is left out."""
    # argparse keeps `--img-size` as `img_size`.
    values = {f"--{name.replace('_', '-')}": value for name, value in vars(arguments).items()}
    found: dict[str, Any] = {
        key: values[option] for options in _GROUPS.values() for option, (key, _, _) in options.items()
    }
    found |= {key: value for option, (key, value, _) in _FLAGS.items() if values[option]}
    found |= {"checkpoint": arguments.checkpoint, "data.root": arguments.root}
    if arguments.split is not None:
        if len(arguments.split) != 2:
            shares = ",".join(f"{share:g}" for share in arguments.split)
            raise InputError(f"--split takes the shares of val and test, such as 0.1,0.2; found {shares}")
        found |= {"data.split.val": arguments.split[0], "data.split.test": arguments.split[1]}
    if arguments.epochs is not None:
        if arguments.protocol in ("knn", "linear", "leave-one-band-out"):
            found["linear.epochs"] = arguments.epochs
        else:
            found |= {"fit.epochs": arguments.epochs, "fit.warmup_epochs": min(5.0, arguments.epochs / 10)}
    given = {word.partition("=")[0] for word in words}
    return [f"{key}={json.dumps(value)}" for key, value in found.items() if value is not None and key not in given]
