"""Options that several verbs share, and what is seen of them before anything is loaded."""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from anyband.errors import InputError, OutputError
from anyband.files import check_target, check_weights_kind, weights_file

__all__ = [
    "add_network_options",
    "add_result_options",
    "cache_folder",
    "check_checkpoint",
    "check_new",
    "check_there",
    "output_path",
    "unseen_rules",
]


def output_path(text: str) -> Path:
    """Take a path of this machine; a URL, which would become a folder of that name, is an error."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"takes a path of this machine, found '{text}'; write to a folder, then copy it"
        )
    return Path(text)


def unseen_rules(text: str) -> Any:
    """Read one rule, or `default=nearest,RANGE=interpolate,prefer=SENSOR`."""
    if "=" not in text:
        return text
    pairs = [[word.strip() for word in part.split("=")] for part in text.split(",")]
    if wrong := ["=".join(pair) for pair in pairs if len(pair) != 2 or not all(pair)]:
        raise argparse.ArgumentTypeError(f"takes a rule, or KEY=RULE joined by commas; found '{wrong[0]}' in '{text}'")
    return dict(pairs)


def add_network_options(parser: argparse._ActionsContainer, *, batch_help: str, min_support_help: str) -> None:
    """Add precision, batch size, device, and what becomes of bands that no trained range is."""
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=16, help=batch_help)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument(
        "--unseen",
        type=unseen_rules,
        default="interpolate",
        help="bands that no trained range is: interpolate (within a training sensor where one covers the band), "
        "interpolate_across, interpolate_linear, nearest, released or refuse; by band: "
        "default=nearest,thermal_infrared_1=interpolate,prefer=sentinel2",
    )
    parser.add_argument("--min-support", type=float, default=0.15, help=min_support_help)


def add_result_options(parser: argparse._ActionsContainer) -> None:
    """Add where results and features are kept, how they are printed, and where the network runs."""
    parser.add_argument(
        "--results", type=Path, default=Path("results.parquet"), help="file that results are appended to"
    )
    parser.add_argument("--no-results", action="store_true", help="append nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--cache", type=Path, help="folder of kept features (default: in the user's cache folder)")
    parser.add_argument("--no-cache", action="store_true", help="keep no features")
    parser.add_argument("--download", action="store_true", help="let a named data set be fetched")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")


def cache_folder(arguments: argparse.Namespace) -> Path | None:
    """Choose where features are kept, by `add_result_options`; None: nowhere."""
    # Source: XDG Base Directory Specification 0.8.
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return None if arguments.no_cache else arguments.cache or Path(home) / "anyband" / "features"


def check_checkpoint(name: str | None) -> None:
    """See that a checkpoint is a file of weights here, or may be on the hub."""
    file = None if name is None else weights_file(name)
    if file is not None:
        check_weights_kind(file)


def check_there(option: str, paths: Iterable[str | Path | None]) -> None:
    """See that files and folders which an option names are there."""
    for path in paths:
        if path is not None and "://" not in str(path) and not Path(path).exists():
            raise InputError(f"{option}: '{path}' does not exist")


def check_new(out: Path, *, read: Iterable[str | Path], overwrite: bool) -> None:
    """See that a file can be written, and that none of the user's is replaced unless he says so."""
    check_target(out)
    # Of an input that would be lost the verb itself says so.
    if out.exists() and not overwrite and out.resolve() not in {Path(path).resolve() for path in read}:
        raise OutputError(f"'{out}' exists already; name another output, or replace it with --overwrite")
