"""Options that several verbs share."""

import argparse
from pathlib import Path

__all__ = ["add_network_options", "output_path"]


def output_path(text: str) -> Path:
    """Take a path of this machine; a URL, which would become a folder of that name, is an error."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"takes a path of this machine, found '{text}'; write to a folder, then copy it"
        )
    return Path(text)


def add_network_options(parser: argparse._ActionsContainer, *, batch_help: str, min_support_help: str) -> None:
    """Add precision, batch size, device, and what becomes of bands that no trained range is."""
    parser.add_argument("--precision", choices=("float32", "bf16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=16, help=batch_help)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, …")
    parser.add_argument(
        "--unseen",
        choices=("interpolate", "nearest", "released", "refuse"),
        default="interpolate",
        help="bands that no trained range is",
    )
    parser.add_argument("--min-support", type=float, default=0.05, help=min_support_help)
