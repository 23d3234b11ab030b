"""The report of an evaluation: one page with scores, curves, confusion, maps and the worst mistakes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyband.data.supervised.records import TaskData
from anyband.report.curves import Curve, CurvePanel, curves_png
from anyband.report.page import Page, Paragraph, Part, Picture, Section, Table, write_page
from anyband.tasks.metric_facts import METRICS, METRICS_OF
from anyband.tasks.metrics import score_text
from anyband.tasks.transfer.comparison import difference, difference_text
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.report_parts import class_parts, map_parts, mistake_parts, number_parts
from anyband.tasks.transfer.result_records import ResultRow, flat_settings
from anyband.tasks.transfer.result_tables import metric_title

__all__ = ["report_page", "write_report"]

_INTERVALS = "In brackets: 95 % bootstrap intervals over test samples"


def write_report(
    path: Path, data: TaskData, outcomes: Sequence[Outcome], rows: Sequence[ResultRow], *, shown: bool = False
) -> None:
    """Write the report as one HTML file that needs no other, whole or not at all.

    Args:
        path: of the file.
        data: that was evaluated on; some test samples are read again for pictures.
        outcomes: the encoder's first, with their maps.
        rows: their rows in the table of results, in the same order, with evidence.
        shown: show a progress bar where it takes long.
    """
    write_page(path, report_page(data, outcomes, rows, shown=shown))


def report_page(data: TaskData, outcomes: Sequence[Outcome], rows: Sequence[ResultRow], *, shown: bool = False) -> Page:
    """Put the report together; see `write_report`."""
    first = rows[0]
    task = f"{first.protocol} on {first.data}"
    evidence = outcomes[0].evidence
    sections = (
        Section(title="Scores", parts=_score_parts(rows, shown=shown)),
        Section(title="Fit", parts=_training_parts(rows)),
        Section(title="Classes", parts=class_parts(evidence, first.features)),
        Section(title="Numbers", parts=number_parts(evidence, first.features)),
        Section(title="Maps", parts=map_parts(data, outcomes)),
        Section(title="Worst mistakes", parts=mistake_parts(data, evidence, first.features)),
        Section(title="What was done", parts=_setting_parts(rows)),
    )
    return Page(
        title=first.recipe if first.recipe == task else f"{first.recipe}: {task}",
        lead=_lead(rows),
        sections=tuple(section for section in sections if section.parts),
        footer=f"anyband {first.version}, {first.made:%Y-%m-%d %H:%M} UTC, result {first.id}, seed {first.seed}",
    )


def _lead(rows: Sequence[ResultRow]) -> str:
    first, main = rows[0], rows[0].scores[0]
    facts = METRICS[main.metric]
    unit = " %" if facts.percent else ""
    lead = (
        f"{first.checkpoint} ({first.features}) reaches {facts.title} {score_text(main)}{unit} on {main.num_samples} "
        f"test samples of {first.data}, with {first.num_samples['train']} samples for training."
    )
    others = [row for row in rows[1:] if math.isfinite(row.scores[0].value)]
    if others:
        sign = -1 if facts.higher_is_better else 1
        best = min(others, key=lambda row: sign * row.scores[0].value)
        lead += f" The best of what it is compared with, {best.features}, reaches {score_text(best.scores[0])}{unit}."
    return lead


def _score_parts(rows: Sequence[ResultRow], *, shown: bool) -> tuple[Part, ...]:
    names = METRICS_OF[rows[0].kind]
    header = ("features", "width", *map(metric_title, names))
    cells = tuple((row.features, str(row.width), *(score_text(row.score(name)) for name in names)) for row in rows)
    definitions = " · ".join(f"{METRICS[name].title}: {METRICS[name].definition}" for name in names)
    scores = Table(header=header, rows=cells, caption=f"{_INTERVALS} · {definitions}.", strong_rows=(0,))
    # At several scales the first result holds each sample several times; only equal samples can be paired.
    paired_rows = [row for row in rows if _samples_of(row) == _samples_of(rows[0])]
    if len(paired_rows) == 1:
        return (scores,)
    return scores, _difference_table(paired_rows, shown=shown)


def _samples_of(row: ResultRow) -> frozenset[str]:
    assert row.evidence is not None
    return frozenset(row.evidence.samples)


def _difference_table(rows: Sequence[ResultRow], *, shown: bool) -> Table:
    first, names = rows[0], METRICS_OF[rows[0].kind]
    cells = []
    for row in rows[1:]:
        assert first.evidence is not None
        assert row.evidence is not None
        found = [difference(first.evidence, row.evidence, name, seed=first.seed, shown=shown) for name in names]
        cells.append((row.features, *map(difference_text, found), f"{found[0].share_above:.1%}"))
    main = METRICS[names[0]]
    caption = (
        f"Differences are paired by test sample: in every resample both are scored on the same samples. An interval "
        f"that holds 0 leaves open which is better. The last column is for {main.title}"
        f"{'' if main.higher_is_better else ', of which less is better'}."
    )
    titles = (f"{METRICS[name].title}{', points' if METRICS[name].percent else ''}" for name in names)
    header = (f"{first.features} less", *titles, "resamples in which it is higher")
    return Table(header=header, rows=tuple(cells), caption=caption)


def _training_parts(rows: Sequence[ResultRow]) -> tuple[Part, ...]:
    parts: list[Part] = []
    chosen = tuple(
        (row.features, ", ".join(f"{name} {_text(value)}" for name, value in flat_settings(row.chosen).items()))
        for row in rows
        if row.chosen
    )
    if chosen:
        caption = "Validation chooses what is not given; test samples choose nothing."
        parts.append(Table(header=("features", "chosen"), rows=chosen, caption=caption))
    panels = _curve_panels(rows)
    if panels:
        alt = "curves over the epochs: " + ", ".join(panel.title for panel in panels)
        parts.append(Picture(png=curves_png(panels, xlabel="epoch"), alt=alt))
    return tuple(parts)


def _curve_panels(rows: Sequence[ResultRow]) -> list[CurvePanel]:
    names = dict.fromkeys(name for row in rows for name, values in row.curves.items() if len(values))
    return [
        CurvePanel(
            title=name,
            curves=tuple(
                Curve(label=row.features, steps=range(1, len(row.curves[name]) + 1), values=row.curves[name])
                for row in rows
                if row.curves.get(name)
            ),
        )
        for name in names
    ]


def _setting_parts(rows: Sequence[ResultRow]) -> tuple[Part, ...]:
    first = rows[0]
    counts = ", ".join(f"{name} {count}" for name, count in first.num_samples.items())
    known = {
        "protocol": first.protocol,
        "checkpoint": f"{first.checkpoint} sha256:{first.checkpoint_hash}",
        "data": f"{first.data}, fingerprint {first.data_fingerprint}",
        "samples": counts,
        "seed": first.seed,
        **flat_settings(first.settings),
    }
    cells = tuple((name, _text(value)) for name, value in known.items() if value not in (None, "", [], {}))
    notes = tuple(Paragraph(text=f"{_sentence(note)}.") for note in dict.fromkeys(_notes(rows)))
    return (*notes, Table(header=("choice", "value"), rows=cells, caption="Choices that are empty are left out."))


def _sentence(note: str) -> str:
    # Names such as `maxar-rgb:` stay as they are.
    return f"{note[:1].upper()}{note[1:]}" if note.split(" ")[0].isalpha() else note


def _notes(rows: Sequence[ResultRow]) -> list[str]:
    common = [note for note in rows[0].notes if all(note in row.notes for row in rows)]
    own = [f"{row.features}: {note}" for row in rows for note in row.notes if note not in common]
    return [note.rstrip(".") for note in (*common, *own)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
