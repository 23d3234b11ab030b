"""`anyband verify CHECKPOINT VECTORS`: run a checkpoint on recorded vectors and compare."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from anyband.cli.options import check_checkpoint, check_there
from anyband.errors import counted

if TYPE_CHECKING:
    from anyband.encode.verify import VerifyReport

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="safetensors file, or hub id such as gsumbul/SMARTIES-v1-ViT-B")
    parser.add_argument("vectors", type=Path, help="safetensors file of recorded images and outputs")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-5,
        help="largest error that passes, relative to the largest value of an entry (default 1e-5)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    check_checkpoint(arguments.checkpoint)
    check_there("VECTORS", [arguments.vectors])
    from anyband.encode.verify import verify

    report = verify(arguments.checkpoint, arguments.vectors, tolerance=arguments.tolerance)
    print(_json(report, arguments) if arguments.json else _table(report))
    return 0 if report.passed else 1


def _json(report: "VerifyReport", arguments: argparse.Namespace) -> str:
    named = {"checkpoint": arguments.checkpoint, "vectors": str(arguments.vectors)}
    return json.dumps(named | report.to_dict(), allow_nan=False)


def _table(report: "VerifyReport") -> str:
    width = max(len(entry["entry"]) for entry in report.entries)
    lines = [f"{'entry':{width}}  {'max abs':>9}  {'max rel':>9}"]
    for entry in report.entries:
        result, note = "pass" if entry["passed"] else "FAIL", f"  ({entry['note']})" if entry["note"] else ""
        errors = f"{entry['max_abs_error']:9.2e}  {entry['max_rel_error']:9.2e}"
        lines.append(f"{entry['entry']:{width}}  {errors}  {result}{note}")
    failed = sum(not entry["passed"] for entry in report.entries)
    total = len(report.entries)
    verdict = f"all {counted(total, 'entry')} pass" if not failed else f"{failed} of {counted(total, 'entry')} FAIL"
    return "\n".join([*lines, f"{verdict} at a relative tolerance of {report.tolerance:g}"])
