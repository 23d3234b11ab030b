"""`anyband results [FILE]`: print the table of results, and compare two of them, or all with one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from anyband.evaluate.metrics import MetricName
    from anyband.evaluate.results import Difference, ResultRow

__all__ = ["add_arguments", "plain_console", "print_json", "print_table", "run"]

# chosen: wide enough that no column is cut where the output is not a terminal.
_PLAIN_WIDTH = 240
_DIFFERENCE_HEADER = ("A − B", "resamples with A > B", "better")
_EXPLAINED = (
    "differences are paired by test sample: in every resample both are scored on the same samples; in brackets "
    "95 % bootstrap intervals; where they hold 0, which is better is open"
)


def plain_console() -> "Console":
    """Make what tables are printed to: as wide as the terminal, or so wide that a file has no folded lines."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH, markup=False, emoji=False)


def print_table(console: "Console", title: str, header: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> None:
    """Print texts as a table; columns of numbers stand to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        number = any(row[index][:1].isdigit() or row[index][:1] in "+−-–" for row in rows) and name != "id"
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    if title:
        console.print(title)
    console.print(table)


def print_json(value: Any) -> None:
    """Print one line of JSON; numbers that are not finite become null."""
    import json

    from anyband.evaluate.results import json_values

    print(json.dumps(json_values(value), ensure_ascii=False))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=Path, default=Path("results.parquet"), help="the table (default results.parquet)"
    )
    parser.add_argument("--data", help="only of these data: part of their name, or the beginning of their fingerprint")
    parser.add_argument("--protocol", help="only of this protocol")
    parser.add_argument("--features", help="only of these features, for example encoder: part of their name")
    parser.add_argument("--metric", help="only this metric, for example accuracy or miou")
    compare = parser.add_mutually_exclusive_group()
    compare.add_argument("--compare", nargs=2, metavar=("A", "B"), help="A less B, paired by test sample; ids")
    compare.add_argument("--against", metavar="A", help="every result less A, paired by test sample; an id")
    parser.add_argument("--seed", type=int, default=0, help="of the intervals of differences (default 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    from anyband.errors import InputError, nearest_name
    from anyband.evaluate.metrics import METRICS
    from anyband.evaluate.results import read_results

    metric = arguments.metric
    if metric is not None and metric not in METRICS:
        raise InputError(f"there is no metric '{metric}' ({', '.join(METRICS)}){nearest_name(metric, METRICS)}")
    rows = read_results(arguments.file, predictions=bool(arguments.compare or arguments.against))
    if arguments.compare:
        _compare_two(rows, arguments, metric)
        return 0
    if arguments.against:
        _compare_all(rows, arguments, metric)
        return 0
    kept = _filtered(rows, arguments)
    _list(kept, metric, as_json=arguments.json)
    return 0


# Of the options that choose results: what a row must have.
_MATCHES: "dict[str, Callable[[ResultRow, str], bool]]" = {
    "data": lambda row, text: (
        text.casefold() in row.data.casefold() or row.data_fingerprint.startswith(text.casefold())
    ),
    "protocol": lambda row, text: row.protocol == text,
    "features": lambda row, text: text.casefold() in row.features.casefold(),
}


def _filtered(rows: "Sequence[ResultRow]", arguments: argparse.Namespace) -> "list[ResultRow]":
    """Keep the results that the options ask for; if there is none, an `InputError` says what there is."""
    from anyband.errors import InputError, nearest_name

    kept = list(rows)
    for what, matches in _MATCHES.items():
        requested, names = getattr(arguments, what), list(dict.fromkeys(getattr(row, what) for row in kept))
        if requested is not None:
            kept = [row for row in kept if matches(row, requested)]
        if requested is not None and not kept:
            shown = ", ".join(f"'{name}'" for name in names[:8]) + " …" * (len(names) > 8)
            hint = nearest_name(requested, names)
            raise InputError(f"no result has {what} '{requested}' (there are {shown or 'none'}){hint}")
    return kept


def _list(rows: "Sequence[ResultRow]", metric: "MetricName | None", *, as_json: bool) -> None:
    from anyband.errors import InputError
    from anyband.evaluate.results import grouped, row_to_dict, table_of

    groups = grouped(rows, metric)
    if metric is not None and not groups:
        raise InputError(f"none of the {len(rows)} results has the metric '{metric}'")
    if as_json:
        print_json({"results": [row_to_dict(row) for group in groups for row in group]})
        return
    console = plain_console()
    for group in groups:
        counts = ", ".join(f"{name} {count}" for name, count in group[0].num_samples.items())
        title = f"{group[0].data} ({group[0].data_fingerprint[:8]}); samples: {counts}"
        print_table(console, title, *table_of(group, metric))
    total = f"{len(rows)} result{'s' * (len(rows) != 1)}"
    console.print(f"{total}; in brackets 95 % bootstrap intervals over test samples; the best stand first")


def _compare_two(rows: "Sequence[ResultRow]", arguments: argparse.Namespace, metric: "MetricName | None") -> None:
    from anyband.evaluate.metrics import METRICS_OF
    from anyband.evaluate.results import find_row, short_id

    first, second = (find_row(rows, identity) for identity in arguments.compare)
    names = [metric] if metric else METRICS_OF[first.kind]
    found = [_difference(first, second, name, arguments) for name in names]
    if arguments.json:
        print_json({"first": first.id, "second": second.id, "differences": [_plain(one) for one in found]})
        return
    console = plain_console()
    console.print(f"A {short_id(first.id)}: {_line(first)}", f"B {short_id(second.id)}: {_line(second)}", sep="\n")
    cells = [_difference_cells(one) for one in found]
    print_table(console, f"{found[0].num_samples} test samples", ("metric", "A", "B", *_DIFFERENCE_HEADER), cells)
    console.print(_EXPLAINED)


def _compare_all(rows: "Sequence[ResultRow]", arguments: argparse.Namespace, metric: "MetricName | None") -> None:
    from anyband.errors import InputError
    from anyband.evaluate.metrics import METRICS, METRICS_OF
    from anyband.evaluate.results import find_row, short_id

    reference = find_row(rows, arguments.against)
    name = metric or METRICS_OF[reference.kind][0]
    found: list[tuple[ResultRow, Difference | None, str]] = []
    for row in _filtered(rows, arguments):
        if row.id != reference.id:
            try:
                found.append((row, _difference(row, reference, name, arguments), ""))
            except InputError as problem:
                found.append((row, None, str(problem)))
    if arguments.json:
        compared = [
            {"id": row.id, "difference": None if one is None else _plain(one), "reason": reason}
            for row, one, reason in found
        ]
        print_json({"reference": reference.id, "compared": compared})
        return
    console = plain_console()
    console.print(f"B {short_id(reference.id)}: {_line(reference)}")
    sign = -1 if METRICS[name].higher_is_better else 1
    able = sorted(((row, one) for row, one, _ in found if one is not None), key=lambda pair: sign * pair[1].value)
    cells = [(short_id(row.id), row.protocol, row.features, *_difference_cells(one)) for row, one in able]
    if cells:
        header = ("id", "protocol", "features", "metric", "A", "B", *_DIFFERENCE_HEADER)
        print_table(console, f"{reference.data}: {reference.num_samples['test']} test samples", header, cells)
        console.print(_EXPLAINED)
    unable = [(row, reason) for row, one, reason in found if one is None]
    if unable:
        shown = ", ".join(short_id(row.id) for row, _ in unable[:5]) + " …" * (len(unable) > 5)
        console.print(f"{len(unable)} not compared ({shown}): {unable[0][1]}")
    if not found:
        console.print("there is no other result to compare with it")


def _difference(
    first: "ResultRow", second: "ResultRow", metric: "MetricName", arguments: argparse.Namespace
) -> "Difference":
    from anyband.evaluate.results import difference

    assert first.predictions is not None
    assert second.predictions is not None
    return difference(first.predictions, second.predictions, metric, seed=arguments.seed, shown=not arguments.json)


def _difference_cells(one: "Difference") -> tuple[str, ...]:
    from anyband.evaluate.metrics import COLUMN_TITLES, value_text
    from anyband.evaluate.results import difference_text

    values = (value_text(one.metric, one.first), value_text(one.metric, one.second))
    better = {True: "A", False: "B", None: "open"}[one.better]
    return COLUMN_TITLES[one.metric], *values, difference_text(one), f"{one.share_above:.1%}", better


def _plain(one: "Difference") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(one), "first_is_better": one.better}


def _line(row: "ResultRow") -> str:
    return f"{row.protocol}, {row.features}, recipe {row.recipe}, {row.checkpoint} on {row.data}"
