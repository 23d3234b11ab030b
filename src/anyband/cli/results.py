"""`anyband results [FILE]`: print the table of results, and compare two of them, or all with one."""

import argparse
import itertools
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyband.errors import InputError, counted, nearest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anyband.evaluate.metrics import MetricName
    from anyband.evaluate.results import Difference, ResultRow

__all__ = ["add_arguments", "print_json", "print_table", "run"]

# chosen: a column of text that is narrower is not read.
_NARROWEST = 12
_GUTTER = "  "
_DIFFERENCE_HEADER = ("A − B", "resamples with A > B", "better")
_EXPLAINED = (
    "differences are paired by test sample: in every resample both are scored on the same samples; in brackets "
    "95 % bootstrap intervals; where they hold 0, which is better is open"
)


def print_table(
    title: str, header: "Sequence[str]", rows: "Sequence[Sequence[str]]", *, wrap: "Sequence[str]" = ()
) -> None:
    """Print texts as a table as wide as the terminal (else as COLUMNS says, else 80) at most; the columns that `wrap`
    names may have several lines. Where that is too wide, what all rows share goes above it, or else each row is a list.
    """
    width = shutil.get_terminal_size().columns
    lines = _table_lines(header, rows, wrap, width)
    if lines is None and len(rows) > 1:
        shared = [index for index in range(1, len(header)) if len({row[index] for row in rows}) == 1]
        above = "; ".join(f"{header[index]}: {rows[0][index]}" for index in shared if rows[0][index])
        title = "\n".join([*([title] if title else []), *textwrap.wrap(above, width)])
        header, *rows = [_without(row, shared) for row in (header, *rows)]
        lines = _table_lines(header, rows, wrap, width)
    if lines is None:
        label = max(map(len, header))
        cells = [[(f"{name:<{label}}", cell) for name, cell in zip(header, row, strict=True)] for row in rows]
        widths = [label, max(width - label - len(_GUTTER), _NARROWEST)]
        lines = [line for row in cells for line in ["", *(one for pair in row for one in _row_lines(pair, widths))]]
    print("\n".join([*([title] if title else []), *lines]))


def _without(cells: "Sequence[str]", columns: "Sequence[int]") -> list[str]:
    return [cell for index, cell in enumerate(cells) if index not in columns]


def _table_lines(
    header: "Sequence[str]", rows: "Sequence[Sequence[str]]", wrap: "Sequence[str]", width: int
) -> list[str] | None:
    """Lay a table out, columns of numbers to the right; None where it does not fit."""
    widths, whole, right = [], [], []
    for name, *cells in zip(header, *rows, strict=True):
        pieces = [piece for cell in cells for piece in (_pieces(cell) if name in wrap else [cell])]
        widths.append(max(map(len, [*pieces, *name.split()])))
        whole.append(max(map(len, [name, *cells])) if name in wrap else widths[-1])
        right.append(
            name not in ("id", *wrap) and any(cell[:1].isdigit() or cell[:1] in tuple("+−-–") for cell in cells)
        )
    room = width - len(_GUTTER) * (len(header) - 1)
    if sum(widths) > room:
        return None
    while sum(widths) < room and (short := [index for index, size in enumerate(widths) if size < whole[index]]):
        # Those that need little first.
        widths[min(short, key=lambda index: whole[index] - widths[index])] += 1
    line = "─" * (sum(widths) + len(_GUTTER) * (len(header) - 1))
    found = [*_row_lines(header, widths, right), line]
    return [*found, *(line for row in rows for line in _row_lines(row, widths, right))]


def _pieces(text: str) -> list[str]:
    """Cut a text where a line may end."""
    return textwrap.wrap(text, 1, break_long_words=False)


def _row_lines(cells: "Sequence[str]", widths: "Sequence[int]", right: "Sequence[bool]" = ()) -> list[str]:
    parts = [textwrap.wrap(cell, size) or [""] for cell, size in zip(cells, widths, strict=True)]
    sides = [">" if one else "<" for one in right] or ["<"] * len(parts)
    return [
        _GUTTER.join(f"{line:{side}{size}}" for line, side, size in zip(some, sides, widths, strict=True)).rstrip()
        for some in itertools.zip_longest(*parts, fillvalue="")
    ]


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
    from anyband.evaluate.results import grouped, row_to_dict, table_of

    groups = grouped(rows, metric)
    if metric is not None and not groups:
        raise InputError(f"none of the {counted(len(rows), 'result')} has the metric '{metric}'")
    if as_json:
        print_json({"results": [row_to_dict(row) for group in groups for row in group]})
        return
    for group in groups:
        counts = ", ".join(f"{name} {count}" for name, count in group[0].num_samples.items())
        title = f"{group[0].data} ({group[0].data_fingerprint[:8]}); samples: {counts}"
        print_table(title, *table_of(group, metric))
    print(
        f"{counted(len(rows), 'result')}; in brackets 95 % bootstrap intervals over test samples; the best stand first"
    )


def _compare_two(rows: "Sequence[ResultRow]", arguments: argparse.Namespace, metric: "MetricName | None") -> None:
    from anyband.evaluate.metrics import METRICS_OF
    from anyband.evaluate.results import find_row, short_id

    first, second = (find_row(rows, identity) for identity in arguments.compare)
    names = [metric] if metric else METRICS_OF[first.kind]
    found = [_difference(first, second, name, arguments) for name in names]
    if arguments.json:
        print_json({"first": first.id, "second": second.id, "differences": [_plain(one) for one in found]})
        return
    print(f"A {short_id(first.id)}: {_line(first)}", f"B {short_id(second.id)}: {_line(second)}", sep="\n")
    cells = [_difference_cells(one) for one in found]
    print_table(f"{found[0].num_samples} test samples", ("metric", "A", "B", *_DIFFERENCE_HEADER), cells)
    print(_EXPLAINED)


def _compare_all(rows: "Sequence[ResultRow]", arguments: argparse.Namespace, metric: "MetricName | None") -> None:
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
    print(f"B {short_id(reference.id)}: {_line(reference)}")
    sign = -1 if METRICS[name].higher_is_better else 1
    able = sorted(((row, one) for row, one, _ in found if one is not None), key=lambda pair: sign * pair[1].value)
    cells = [(short_id(row.id), row.protocol, row.features, *_difference_cells(one)) for row, one in able]
    if cells:
        header = ("id", "protocol", "features", "metric", "A", "B", *_DIFFERENCE_HEADER)
        print_table(f"{reference.data}: {reference.num_samples['test']} test samples", header, cells)
        print(_EXPLAINED)
    unable = [(row, reason) for row, one, reason in found if one is None]
    if unable:
        shown = ", ".join(short_id(row.id) for row, _ in unable[:5]) + " …" * (len(unable) > 5)
        print(f"{len(unable)} not compared ({shown}): {unable[0][1]}")
    if not found:
        print("there is no other result to compare with it")


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
