"""`anyband reproduce TABLE --data ROOT`: run the rows of a table of the paper, and print ours beside the published."""

import argparse
from pathlib import Path

from anyband.cli.options import add_result_options, cache_folder, check_checkpoint, check_there
from anyband.cli.results import print_json, print_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "anyband reproduce TABLE --data ROOT [KEY=VALUE ...] [options]"
    parser.add_argument("table", type=int, metavar="TABLE", help="number of a table of the SMARTIES paper, 1 to 8")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="other values than the recipes', for every row")
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, as docs/paper.md names them")
    parser.add_argument("--checkpoint", help="for all rows, instead of the published weights")
    parser.add_argument("--eval-only", action="store_true", help="score the released heads, of rows that have one")
    add_result_options(parser)


def run(arguments: argparse.Namespace) -> int:
    check_there("--data", [arguments.data])
    check_checkpoint(arguments.checkpoint)
    # Late: what can be seen without a network was seen.
    from anyband.evaluate.reproduce import reproduce, tables_of_the_paper

    rows = list(
        reproduce(
            arguments.table,
            arguments.data,
            checkpoint=arguments.checkpoint,
            eval_only=arguments.eval_only,
            overrides=arguments.words,
            results=None if arguments.no_results else arguments.results,
            cache=cache_folder(arguments),
            download=arguments.download,
            device=arguments.device,
            shown=not arguments.json,
        )
    )
    done = [row for row in rows if "ours" in row]
    if arguments.json:
        print_json({"table": arguments.table, "rows": rows})
        return 0 if done else 1
    texts = [
        (row["row"], metric, f"{value:.1f}", row.get("ours", {}).get(metric, "not run"))
        for row in rows
        for metric, value in row["published"].items()
    ]
    title = f"table {arguments.table}: {tables_of_the_paper()[arguments.table]}"
    print_table(title, ("row", "metric", "published", "ours"), texts, wrap=("row",))
    for row in rows:
        for note in row.get("notes", ()):
            print(f"note: {row['row']}: {note}")
        if "missing" in row:
            print(f"not run: {row['row']}: {row['missing']}")
    print(f"{len(done)} of {len(rows)} rows were run; in brackets 95 % intervals, which the paper does not give")
    return 0 if done else 1
