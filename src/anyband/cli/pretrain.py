"""`anyband pretrain RECIPE --data STORE --out RUN [KEY=VALUE ...]`: pre-train an encoder on a chip store."""

import argparse
from pathlib import Path

from anyband.cli.options import output_path
from anyband.errors import counted

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "anyband pretrain RECIPE --data STORE --out RUN [KEY=VALUE ...] [--dry-run] [--quiet]"
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or a shipped recipe such as smarties_tiny")
    parser.add_argument(
        "words", nargs="*", metavar="KEY=VALUE", help="other values than the recipe's, such as optim.epochs=5"
    )
    parser.add_argument("--data", required=True, metavar="STORE", help="chip store to learn from: a folder or URL")
    parser.add_argument(
        "--out",
        required=True,
        type=output_path,
        metavar="RUN",
        help="folder of the run; a run that was stopped goes on",
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure what it costs, and stop")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace) -> int:
    from anyband.data.store import ChipStore

    if "://" not in arguments.data and not Path(arguments.data).is_dir():
        ChipStore.open(arguments.data)
    # Late: what can be seen without a network was seen.
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from anyband.pretraining.loop import dry_run, pretrain
    from anyband.pretraining.recipe import load_recipe

    recipe = load_recipe(arguments.recipe, arguments.words)
    if arguments.dry_run:
        lines, ok = dry_run(recipe, data=arguments.data, out=arguments.out)
        print("\n".join(lines))
        return 0 if ok else 1
    result = pretrain(recipe, data=arguments.data, out=arguments.out, shown=not arguments.quiet)
    if not arguments.quiet and getattr(rank_zero_only, "rank", 0) == 0:
        print(f"{result.checkpoint} ({counted(result.steps, 'step')})")
    return 0
