"""`anyband pretrain RECIPE --data STORE --out RUN [KEY=VALUE ...]`: pre-train an encoder on a chip store."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "anyband pretrain RECIPE --data STORE --out RUN [KEY=VALUE ...] [--quiet]"
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file, or a shipped recipe such as smarties_tiny")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="other values than the recipe's, such as optim.epochs=5",
    )
    parser.set_defaults(more_overrides=[], quiet=False)
    for option, name, help_text in (
        ("--data", "STORE", "chip store to learn from"),
        ("--out", "RUN", "folder of the run; a run that was stopped goes on"),
    ):
        parser.add_argument(
            option,
            nargs="+",
            required=True,
            action=_ThenOverrides,
            metavar=(name, "KEY=VALUE"),
            help=help_text,
        )
    parser.add_argument("--quiet", nargs="*", action=_ThenOverrides, help="show no progress", metavar="KEY=VALUE")


def run(arguments: argparse.Namespace) -> int:
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from anyband.tasks.pretrain import pretrain
    from anyband.tasks.recipe_files import load_recipe

    recipe = load_recipe(arguments.recipe, [*arguments.overrides, *arguments.more_overrides])
    result = pretrain(recipe, data=Path(arguments.data), out=Path(arguments.out), shown=not arguments.quiet)
    if not arguments.quiet and getattr(rank_zero_only, "rank", 0) == 0:
        print(f"{result.checkpoint} ({result.steps} steps)")
    return 0


class _ThenOverrides(argparse.Action):
    """An option whose value KEY=VALUE words may follow; argparse by itself refuses them there."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 (as argparse calls it)
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,  # noqa: ARG002
    ) -> None:
        words = [str(value) for value in values or ()]
        own = words[:1] if self.nargs == "+" else []
        setattr(namespace, self.dest, own[0] if own else True)
        namespace.more_overrides = [*namespace.more_overrides, *words[len(own) :]]
