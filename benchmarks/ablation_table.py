"""Results of an ablation as a CSV with every number, and as tables of mean and spread over seeds."""

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation_archive import KIT

from anyband.errors import OutputError
from anyband.files import whole_file

__all__ = ["page_name", "put_between_markers", "tables_of", "write_csv"]

Row = Mapping[str, Any]
"""One score of one run: the fields of `Score`, with `variant` and `seed`."""

_REFERENCE = "smarties"
_KEY = ("measure", "sensors", "how", "unseen")
# Short names for the heads of columns.
_SHORT = {
    "sentinel2-l2a": "S2",
    "sentinel2-l1c": "S2 L1C",
    "sentinel1-grd": "S1",
    "maxar-rgb": "RGB",
    "landsat8-oli-tirs-l2": "L8",
}


def write_csv(path: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write a line for each score, with what is the same for all at the end of each line."""
    with whole_file(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *facts], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            value = f"{row['value']:.6f}"
            writer.writerow({**row, "value": value, **facts})


def tables_of(rows: Sequence[Row]) -> str:
    """Make the tables, in Markdown: kNN by either pooling, with and without facts; errors; differences to SMARTIES."""
    parts = []
    for pool, name in (("mean", "mean of the patches"), ("cls", "CLS token")):
        parts.append(_table(f"kNN accuracy in %, {name}", _as_trained(rows, measure="knn accuracy", pool=pool), 100.0))
    hidden = [row for row in rows if row["measure"] == "knn accuracy" and row["facts"] == "hidden"]
    told = {row["variant"] for row in rows if row["facts"] == "known"}
    untold = [row for row in hidden if row["variant"] in told and row["pool"] == "mean"]
    parts.append(_table("kNN accuracy in %, mean of the patches, where and when not told", untold, 100.0))
    errors = _as_trained(rows, measure="cross-sensor error", pool="")
    parts.append(_table("Error of one sensor predicted from another (1: each patch's mean)", errors, 1.0))
    for measure, pool, title, scale in (
        (
            "knn accuracy",
            "mean",
            "kNN accuracy, mean of the patches: points more than `smarties` with the same seed",
            100.0,
        ),
        ("cross-sensor error", "", "Error: more than `smarties` with the same seed", 1.0),
    ):
        parts.append(_table(title, _differences(_as_trained(rows, measure=measure, pool=pool)), scale, signed=True))
    return "\n".join(part for part in parts if part)


def put_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- end of NAME -->` in a page.

    Raises:
        OutputError: the page is missing, or has no such markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise OutputError(
            f"'{path}' has no place for the tables: write '{begin}' and below it '{end}' into it, once each"
        )
    before, after = page[: page.index(begin) + len(begin)], page[page.index(end) :]
    with whole_file(path) as beside:
        beside.write_text(f"{before}\n\n{text.strip()}\n\n{after}", encoding="utf-8")


def _as_trained(rows: Sequence[Row], *, measure: str, pool: str) -> list[Row]:
    """Keep of each network the scores in which it was told what training told it."""
    told = {row["variant"] for row in rows if row["facts"] == "known"}
    return [
        row
        for row in rows
        if row["measure"] == measure
        and row["pool"] == pool
        and row["facts"] == ("known" if row["variant"] in told else "hidden")
    ]


def _differences(rows: Sequence[Row]) -> Sequence[Row]:
    """Subtract the reference's score of the same seed."""
    of_reference = {
        (row["seed"], *(row[key] for key in _KEY)): row["value"] for row in rows if row["variant"] == _REFERENCE
    }
    found = []
    for row in rows:
        other = of_reference.get((row["seed"], *(row[key] for key in _KEY)))
        if other is not None and row["variant"] != _REFERENCE:
            found.append({**row, "value": row["value"] - other})
    return found


def _table(title: str, rows: Sequence[Row], scale: float, *, signed: bool = False) -> str:
    if not rows:
        return ""
    columns = sorted(dict.fromkeys(tuple(row[key] for key in _KEY) for row in rows), key=_column_order)
    names = list(dict.fromkeys(row["variant"] for row in rows))
    lines = [f"{title}:", "", "| variant | " + " | ".join(_head(column) for column in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name in names:
        cells = [
            _cell([row["value"] for row in rows if row["variant"] == name and _is_of(row, column)], scale, signed)
            for column in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _is_of(row: Row, column: tuple[str, ...]) -> bool:
    return tuple(row[key] for key in _KEY) == column


def _column_order(column: tuple[str, ...]) -> tuple[bool, int, bool, str]:
    _, sensors, how, unseen = column
    # Sensors alone, then side by side, then joint, then those that training did not see, in the order of the rows.
    return bool(unseen), sensors.count("+"), how == "joint", unseen


def _head(column: tuple[str, ...]) -> str:
    _, sensors, how, unseen = column
    short = sensors
    for name, shorter in _SHORT.items():
        short = short.replace(name, shorter)
    words = [short.replace(" > ", " → ")]
    if how == "joint" and "+" in sensors:
        words.append("joint")
    if unseen:
        words.append(f"unseen, {unseen}")
    return ", ".join(words)


def _cell(values: Sequence[float], scale: float, signed: bool) -> str:
    if not values:
        return ""
    digits = 1 if scale == 100.0 else 3
    sign = "+" if signed else ""
    mean = f"{scale * statistics.mean(values):{sign}.{digits}f}".replace("-", "−")
    if len(values) == 1:
        return mean
    return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}"


def page_name(kind: str, size: str) -> str:
    """Name the place of an ablation's tables in the page."""
    return f"ablation of the {'real kit' if kind == KIT else 'simulated archive'}, {size}"
