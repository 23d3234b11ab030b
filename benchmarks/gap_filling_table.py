"""What came of filling gaps: means over dates, as CSV and as tables for the docs."""

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gap_filling_cases import METHODS

from anyband.files import whole_file

Row = dict[str, Any]

ALL_BANDS = "all"
COLUMNS = ("site", "gap_days", "method", "band", "rmse", "spread", "dates", "mean_gap_days")


def summarised(cases: Sequence[Row]) -> list[Row]:
    """Average over the dates of each site and gap.

    Args:
        cases: what each case left: site, least and found gap, and errors by method and band.

    Returns:
        A row for each site, gap, method and band: the mean error, the deviation over dates and their number.
    """
    groups: dict[tuple[str, int, str, str], list[float]] = {}
    gaps: dict[tuple[str, int], list[float]] = {}
    for case in cases:
        gaps.setdefault((case["site"], case["least_gap_days"]), []).append(case["gap_days"])
        for error in case["errors"]:
            key = (case["site"], case["least_gap_days"], error["method"], error["band"])
            groups.setdefault(key, []).append(error["rmse"])
    return [
        {
            "site": site,
            "gap_days": gap,
            "method": method,
            "band": band,
            "rmse": statistics.mean(values),
            "spread": statistics.stdev(values) if len(values) > 1 else 0.0,
            "dates": len(values),
            "mean_gap_days": statistics.mean(gaps[site, gap]),
        }
        for (site, gap, method, band), values in groups.items()
    ]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def tables_of(rows: Sequence[Row]) -> str:
    """Write tables in Markdown: one for each site, a row for each gap and method, in hundredths of reflectance."""
    return "\n".join(_table(site, [row for row in rows if row["site"] == site]) for site in _distinct(rows, "site"))


def _table(site: str, rows: Sequence[Row]) -> str:
    bands = [band for band in _distinct(rows, "band") if band != ALL_BANDS]
    lines = [f"Site {site}:", "", f"| gap, dates | method | all bands ± spread | {' | '.join(bands)} |"]
    lines.append("|---|---|" + "---|" * (len(bands) + 1))
    for gap in sorted(_distinct(rows, "gap_days")):
        here = {(row["method"], row["band"]): row for row in rows if row["gap_days"] == gap}
        found = [method for method in METHODS if (method, ALL_BANDS) in here]
        best = {band: min(here[method, band]["rmse"] for method in found) for band in (ALL_BANDS, *bands)}
        for number, method in enumerate(found):
            whole = here[method, ALL_BANDS]
            head = f"{gap} days or more (mean {whole['mean_gap_days']:.0f}), n = {whole['dates']}"
            cells = [_cell(here[method, band]["rmse"], best[band]) for band in bands]
            spread = f"{_cell(whole['rmse'], best[ALL_BANDS])} ± {100 * whole['spread']:.2f}"
            lines.append(f"| {head if number == 0 else ''} | {method} | {spread} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(rmse: float, best: float) -> str:
    text = f"{100 * rmse:.2f}"
    return f"**{text}**" if rmse == best else text


def _distinct(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))
