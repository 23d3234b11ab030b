"""How the command line prints tables, for people and for machines."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["plain_console", "print_json", "print_table"]

# chosen: wide enough that no column is cut where the output is not a terminal.
_PLAIN_WIDTH = 240


def plain_console() -> "Console":
    """Make what tables are printed to: as wide as the terminal, or so wide that a file has no folded lines."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, width=_PLAIN_WIDTH, markup=False, emoji=False)


def print_table(console: "Console", title: str, header: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> None:
    """Print texts as a table; columns of numbers stand to the right.

    Args:
        console: from `plain_console`.
        title: above; empty: none.
        header: names of the columns.
        rows: cells, as many in each as the header has.
    """
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

    from anyband.tasks.transfer.result_records import json_values

    print(json.dumps(json_values(value), ensure_ascii=False))
