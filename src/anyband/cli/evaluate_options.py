"""Options of `anyband evaluate`, and the keys of a recipe that they stand for."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PROTOCOL_NAMES", "add_options", "overrides_of", "quick_recipe_of"]

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
