"""Rows of a table of labels that belong together: images of one place with one label."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from anyband.data.manifest import COLUMNS, ImageEntry, parse_entry
from anyband.data.rasters.records import RasterSource
from anyband.errors import AnybandError, ManifestError

__all__ = ["grouped_rows", "set_entries"]

# What a set says as a whole.
_OF_SETS = ("place", "split")


def set_entries(
    columns: Mapping[str, Sequence[str]], *, path_column: str, table: Path, sensor: str | None
) -> list[ImageEntry]:
    """Read each row as an image of a manifest; columns that a manifest doesn't have are left alone.

    Args:
        columns: of the table.
        path_column: which has the paths.
        table: for messages, and because paths are relative to it.
        sensor: of rows that name none.

    Raises:
        ManifestError: a row is wrong, or two are of one image.
    """
    known = [name for name in columns if name in COLUMNS and name not in _OF_SETS]
    entries: list[ImageEntry] = []
    first_row: dict[RasterSource, int] = {}
    for number, path in enumerate(columns[path_column], start=1):
        row = {name: columns[name][number - 1].strip() for name in known} | {"path": path.strip()}
        row["sensor"] = row.get("sensor") or sensor or ""
        try:
            entry = parse_entry(row, folder=table.parent)
        except AnybandError as problem:
            raise ManifestError(f"row {number} of '{table}': {problem}") from problem
        first = first_row.setdefault(entry.source, number)
        if first != number:
            raise ManifestError(f"rows {first} and {number} of '{table}' are of one image, '{entry.name}'; keep one")
        entries.append(entry)
    return entries


def grouped_rows(names: Sequence[str], said: Mapping[str, Sequence[str]], table: Path) -> list[list[int]]:
    """Group rows by the set they name, in the order of its first row; a row that names none is a set of its own.

    Args:
        names: of the set of each row.
        said: by column, what rows say of their set.
        table: for messages.

    Raises:
        ManifestError: rows of one set say different things.
    """
    groups: dict[str | int, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name.strip() or row, []).append(row)
    for column, values in said.items():
        for rows in groups.values():
            other = next((row for row in rows if values[row].strip() != values[rows[0]].strip()), None)
            if other is not None:
                raise ManifestError(
                    f"rows {rows[0] + 1} and {other + 1} of '{table}' are of set '{names[other]}', but have "
                    f"the {column} '{values[rows[0]]}' and '{values[other]}'; a set has one {column}"
                )
    return list(groups.values())
