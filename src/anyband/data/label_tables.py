"""Tables of labelled images: columns of text from CSV or Parquet, and what their cells say."""

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyband.data.chip_index import SPLITS, Split
from anyband.errors import ManifestError, nearest_name

__all__ = [
    "LABEL_TABLE_ENDINGS",
    "check_listed_once",
    "check_places_whole",
    "labels_in",
    "numbers_in",
    "parts_in",
    "paths_in",
    "places_in",
    "read_columns",
    "wanted_column",
]

LABEL_TABLE_ENDINGS = (".csv", ".parquet", ".geoparquet")
"""Of the files that are read as tables."""

_SEPARATORS = (";", "|")


def read_columns(table: Path) -> dict[str, list[str]]:
    """Read all columns of a CSV or Parquet table as text; an empty cell is empty text, a list is joined by `;`.

    Raises:
        ManifestError: the file can't be read, has rows of unequal length, or a column twice.
    """
    if table.suffix.lower() == ".csv":
        return _read_csv(table)
    import pyarrow
    import pyarrow.parquet

    try:
        read = pyarrow.parquet.read_table(table)
    except (OSError, pyarrow.ArrowException) as problem:
        raise ManifestError(f"cannot read '{table}' as a Parquet table: {problem}") from problem
    _check_distinct(read.column_names, table)
    return {name: [_text(value) for value in read.column(name).to_pylist()] for name in read.column_names}


def _read_csv(table: Path) -> dict[str, list[str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, strict=True))
    except OSError as problem:
        raise ManifestError(f"cannot read '{table}': {problem.strerror or problem}") from problem
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ManifestError(f"'{table}' is no CSV text in UTF-8: {problem}") from problem
    rows = [row for row in rows if row]
    if not rows:
        raise ManifestError(f"'{table}' is empty; it needs a header with the columns `path` and `label`")
    for number, row in enumerate(rows[1:], start=1):
        if len(row) != len(rows[0]):
            raise ManifestError(
                f"row {number} of '{table}' has {len(row)} fields, the header has {len(rows[0])}; "
                f"put text with commas in quotes"
            )
    header = [name.strip() for name in rows[0]]
    _check_distinct(header, table)
    return {name: [row[index] for row in rows[1:]] for index, name in enumerate(header)}


def _check_distinct(names: Sequence[str], table: Path) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ManifestError(f"'{table}' has column '{twice[0]}' twice; keep one of them")


def _text(value: object) -> str:
    if isinstance(value, list):
        return _SEPARATORS[0].join(str(one) for one in value)
    # Tables of data frames hold NaN where nothing stands.
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def wanted_column(columns: Mapping[str, Sequence[str]], wanted: Sequence[str], table: Path) -> str:
    """Find the column that has the first of the wanted names that is there.

    Raises:
        ManifestError: none is.
    """
    for name in wanted:
        if name in columns:
            return name
    raise ManifestError(
        f"'{table}' needs a column '{wanted[0]}'; it has {', '.join(columns) or 'none'}"
        f"{nearest_name(wanted[0], columns)}"
    )


def paths_in(texts: Sequence[str], table: Path) -> list[Path]:
    """Resolve paths that are relative to their table.

    Raises:
        ManifestError: a row has none, or names a file that does not exist.
    """
    found = []
    for row, text in enumerate(texts, start=1):
        if not text.strip():
            raise ManifestError(f"row {row} of '{table}' has no path")
        path = table.parent / text.strip()
        if not path.exists():
            raise ManifestError(f"row {row} of '{table}' names '{path}', which does not exist")
        found.append(path)
    return found


def check_listed_once(paths: Sequence[Path], name: str) -> None:
    """Refuse a file that is listed twice, also by another way to it.

    Raises:
        ManifestError: one is.
    """
    folders: dict[str, str] = {}
    seen: set[str] = set()
    for path in map(str, paths):
        # The ways to half a million files go through few folders.
        folder, last = os.path.split(path)
        parent = folders.get(folder)
        if parent is None:
            parent = folders[folder] = os.path.realpath(folder)
        is_plain = last != ".." and not os.path.islink(path)  # noqa: PTH114 (half a million)
        found = os.path.join(parent, last) if is_plain else os.path.realpath(path)  # noqa: PTH118 (half a million)
        if found in seen:
            raise ManifestError(
                f"'{name}' lists '{found}' more than once; an image in two places would leak from one split into "
                "another"
            )
        seen.add(found)


def labels_in(text: str) -> tuple[str, ...]:
    """Take the labels of a cell apart, at `;` and `|`."""
    for separator in _SEPARATORS:
        text = text.replace(separator, _SEPARATORS[0])
    return tuple(name.strip() for name in text.split(_SEPARATORS[0]) if name.strip())


def numbers_in(texts: Sequence[str], *, column: str, table: str | os.PathLike[str]) -> tuple[float, ...]:
    """Read the number of each row.

    Raises:
        ManifestError: a cell is empty, no number, or not finite; its row is named.
    """
    numbers = []
    for row, text in enumerate(texts, start=1):
        try:
            number = float(text)
        except ValueError as problem:
            found = f"'{text.strip()}', which is no number" if text.strip() else "nothing"
            raise ManifestError(
                f"row {row} of '{table}' has {found} in column '{column}'; give every sample a number, "
                "or leave the row out"
            ) from problem
        if not math.isfinite(number):
            raise ManifestError(
                f"row {row} of '{table}' has '{text.strip()}' in column '{column}'; numbers must be finite, "
                "leave the row out"
            )
        numbers.append(number)
    return tuple(numbers)


def parts_in(columns: Mapping[str, Sequence[str]], table: Path) -> tuple[Split, ...]:
    """Read the part that column `split` declares for each row; empty without that column.

    Raises:
        ManifestError: a row has none, or an unknown one.
    """
    known: dict[str, Split] = {name: name for name in SPLITS}
    found: list[Split] = []
    for row, text in enumerate(columns.get("split", ()), start=1):
        match = known.get(text.strip())
        if match is None:
            raise ManifestError(
                f"row {row} of '{table}' has the split '{text}'; it must be one of {', '.join(SPLITS)}"
                f"{nearest_name(text, SPLITS)}"
            )
        found.append(match)
    return tuple(found)


def places_in(columns: Mapping[str, Sequence[str]], parts: Sequence[Split], table: Path) -> tuple[str, ...]:
    """Read the place of each row from column `place`; a row without has one of its own. Empty without that column.

    Args:
        columns: of the table.
        parts: declared for the rows; empty: none are.
        table: for messages.

    Raises:
        ManifestError: images of one place are declared for several parts.
    """
    named = enumerate(columns.get("place", ()), start=1)
    places = tuple(text.strip() or f"row {row}" for row, text in named)
    check_places_whole(places, parts, str(table))
    return places


def check_places_whole(places: Sequence[str], parts: Sequence[Split], name: str) -> None:
    """Refuse places whose images are in several parts.

    Raises:
        ManifestError: there is one.
    """
    part_of: dict[str, Split] = {}
    for place, part in zip(places, parts, strict=False):
        if part_of.setdefault(place, part) != part:
            raise ManifestError(
                f"'{name}' has images of place '{place}' in '{part_of[place]}' and in '{part}'; images of one place "
                "would leak from one split into another: declare one split for each place"
            )
