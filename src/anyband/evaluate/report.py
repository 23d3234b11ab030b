"""The report of an evaluation, and the files it leaves."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from anyband import __version__
from anyband.arrays import Array, Float, Int, Num, Shaped
from anyband.data.harmonise import composite, decode, picture
from anyband.errors import InputError, OutputError
from anyband.evaluate.comparison import difference, difference_text, metric_title
from anyband.evaluate.context import Context
from anyband.evaluate.metrics import METRICS, METRICS_OF, score_text
from anyband.evaluate.predictions import ClassScores, Predictions, Result, confusion, per_class
from anyband.evaluate.results import (
    Appended,
    ResultRow,
    append_results,
    flat_settings,
    json_values,
    read_results,
    result_rows,
    row_to_dict,
)
from anyband.files import check_target, whole_directory
from anyband.labelled.samples import Sample, SampleImage, TaskData
from anyband.models.checkpoint import save_checkpoint
from anyband.models.weight_files import write_weights
from anyband.report.figures import Curve, CurvePanel, confusion_png, curves_png, scatter_png
from anyband.report.maps import MapRow, SheetPicture, class_colours, class_maps_png, number_maps_png, sheet_png
from anyband.report.page import Page, Paragraph, Part, Picture, Section, Table, write_page

__all__ = [
    "RANKED_BY",
    "Mistake",
    "Outputs",
    "Written",
    "class_parts",
    "map_parts",
    "mistake_parts",
    "number_parts",
    "picture_title",
    "report_page",
    "sample_picture",
    "thinned",
    "worst_mistakes",
    "write_outputs",
    "write_report",
]

_LONGEST_PX = 384


def sample_picture(image: SampleImage) -> Float[Array, "3 row col"]:
    """Draw an image in the bands that its sensor's composite chooses; NaN where a shown band has no data."""
    physical = decode(thinned(image.dn), image.sensor)
    colours = picture(physical, image.sensor, valid=thinned(image.valid), missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


def picture_title(image: SampleImage) -> str:
    """Say what a picture shows, in two lines: sensor and date, and the bands."""
    when = f" {image.datetime:%Y-%m-%d}" if image.datetime else ""
    return f"{image.sensor.name}{when}\n{composite(image.sensor).title}"


def thinned(array: Shaped[Array, "*plane row col"]) -> Shaped[Array, "*plane y x"]:
    """Keep every so many pixels, so that the longer side fits a picture."""
    step = max(1, -(-max(array.shape[-2:]) // _LONGEST_PX))
    return array[..., ::step, ::step]


# chosen: what a person looks through at once.
_MOST = 12

RANKED_BY = {
    "class": "wrong samples by how much higher the predicted class was scored than the true one",
    "labels": "samples by how much higher a label that does not hold was scored than one that holds",
    "number": "samples by their error",
    "class_map": "samples by their share of wrong pixels",
    "number_map": "samples by the root of their mean squared error",
}
"""How mistakes are ranked, by kind."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One sample."""

    sample: str
    """Its name."""
    lines: tuple[str, ...]
    """What was predicted, what is true, and by how much it went wrong."""


def worst_mistakes(predictions: Predictions, *, most: int = _MOST) -> tuple[Mistake, ...]:
    """Find the samples that went most wrong, the worst first; those that are right are never among them.

    Args:
        predictions: of a task.
        most: so many at most.
    """
    match predictions.kind:
        case "class":
            return _of_classes(predictions, most)
        case "labels":
            return _of_labels(predictions, most)
        case "number":
            return _of_numbers(predictions, most)
        case "class_map":
            return _of_class_maps(predictions, most)
        case "number_map":
            return _of_number_maps(predictions, most)


def _of_classes(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    labels, scores = predictions.arrays["labels"], predictions.arrays["scores"]
    guessed, rows = scores.argmax(axis=1), np.arange(len(labels))
    high, low = scores[rows, guessed], scores[rows, labels]
    return tuple(
        Mistake(
            sample=predictions.samples[index],
            lines=(
                predictions.classes[guessed[index]],
                f"true: {predictions.classes[labels[index]]}",
                f"scores {high[index]:.3g}, true class {low[index]:.3g}",
            ),
        )
        for index in _worst(np.where(guessed != labels, high - low, -np.inf), most)
    )


def _of_labels(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    labels, scores = predictions.arrays["labels"], predictions.arrays["scores"]
    false, true = np.where(labels, -np.inf, scores), np.where(labels, scores, np.inf)
    above, below = false.argmax(axis=1), true.argmin(axis=1)
    # A sample of which all labels hold, or none, has no wrong order: its difference is −∞.
    differences = false.max(axis=1) - true.min(axis=1)
    return tuple(
        Mistake(
            sample=predictions.samples[index],
            lines=(
                f"not there: {predictions.classes[above[index]]}",
                f"there: {predictions.classes[below[index]]}",
                f"scores {scores[index, above[index]]:.3g} and {scores[index, below[index]]:.3g}",
            ),
        )
        for index in _worst(np.where(differences > 0, differences, -np.inf), most)
    )


def _of_numbers(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    truth, predicted = predictions.arrays["truth"], predictions.arrays["predicted"]
    error = np.abs(predicted - truth)
    return tuple(
        Mistake(
            sample=predictions.samples[index],
            lines=(f"predicted {predicted[index]:.4g}", f"true {truth[index]:.4g}", f"error {error[index]:.3g}"),
        )
        for index in _worst(np.where(error > 0, error, -np.inf), most)
    )


def _of_class_maps(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    counts = predictions.arrays["confusion"]
    totals, hits = counts.sum(axis=(1, 2)), np.trace(counts, axis1=1, axis2=2)
    wrong = 1 - hits / np.maximum(totals, 1)
    found = []
    for index in _worst(np.where((totals > 0) & (wrong > 0), wrong, -np.inf), most):
        off = counts[index] * (1 - np.eye(len(predictions.classes), dtype=np.int64))
        true, guessed = np.unravel_index(off.argmax(), off.shape)
        lines = (
            f"{100 * wrong[index]:.0f} % of {totals[index]} pixels wrong",
            f"most: {predictions.classes[true]}",
            f"taken for {predictions.classes[guessed]}",
        )
        found.append(Mistake(sample=predictions.samples[index], lines=lines))
    return tuple(found)


def _of_number_maps(predictions: Predictions, most: int) -> tuple[Mistake, ...]:
    count, truth, _, squared, _ = predictions.arrays["sums"].T
    known = np.maximum(count, 1)
    error, mean = np.sqrt(squared / known), truth / known
    return tuple(
        Mistake(
            sample=predictions.samples[index],
            lines=(f"RMSE {error[index]:.3g}", f"mean of the labels {mean[index]:.4g}", f"{count[index]:.0f} pixels"),
        )
        for index in _worst(np.where((count > 0) & (error > 0), error, -np.inf), most)
    )


def _worst(wrongness: Float[Array, "sample"], most: int) -> Int[Array, "found"]:
    """Give the samples of the highest numbers, the highest first; −∞ is never among them."""
    order = np.argsort(-wrongness, kind="stable")[:most]
    return np.asarray(order[np.isfinite(wrongness[order])])


# chosen: so many maps fit a page beside each other and below.
_MOST_MAP_ROWS = 6
_MOST_MAP_IMAGES = 2
_MOST_PREDICTIONS = 3
# chosen: up to so many classes the matrix is readable at the width of the page.
_MOST_ON_PAGE = 21
# chosen: counts with more digits do not fit a cell.
_LARGEST_COUNT = 9_999


def class_parts(predictions: Predictions, features: str) -> tuple[Part, ...]:
    """Show which class is taken for which, and the scores of each; nothing where there are no classes."""
    rows = per_class(predictions)
    if not rows:
        return ()
    table = _class_table(rows, features)
    return (table,) if predictions.kind == "labels" else (_confusion_picture(predictions, features), table)


def _confusion_picture(predictions: Predictions, features: str) -> Picture:
    counts = confusion(predictions)
    in_counts = predictions.kind == "class" and counts.max() <= _LARGEST_COUNT
    what = "samples" if predictions.kind == "class" else "pixels"
    cells = f"numbers of {what}" if in_counts else f"per cent of the {what} of the true class"
    return Picture(
        png=confusion_png(counts, predictions.classes, cells="counts" if in_counts else "percent"),
        alt=f"confusion matrix of {len(predictions.classes)} classes",
        caption=f"{features}: {cells}; colours are shares of the true class, which stands left with its {what}.",
        full_size=len(predictions.classes) > _MOST_ON_PAGE,
    )


def _class_table(rows: Sequence[ClassScores], features: str) -> Table:
    header: tuple[str, ...] = ("class", "true", "average precision, %")
    cells: list[tuple[str, ...]] = [(row.name, str(row.num_true), _percent(row.average_precision)) for row in rows]
    caption = f"{features}; a dash where no test sample has the label."
    if any(row.num_predicted is not None for row in rows):
        header = ("class", "true", "predicted", "precision, %", "recall, %", "F1, %", "IoU, %")
        cells = [(row.name, str(row.num_true), str(row.num_predicted), *map(_percent, _four(row))) for row in rows]
        caption = f"{features}; a dash where a class does not occur."
    return Table(header=header, rows=tuple(cells), caption=caption)


def _four(row: ClassScores) -> tuple[float, float, float, float]:
    return row.precision, row.recall, row.f1, row.iou


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "–"


def number_parts(predictions: Predictions, features: str) -> tuple[Part, ...]:
    """Show predicted numbers over true ones; nothing where the target is no number of a sample."""
    if predictions.kind != "number":
        return ()
    return (
        Picture(
            png=scatter_png(predictions.arrays["truth"], predictions.arrays["predicted"]),
            alt="predicted numbers over true ones",
            caption=f"{features}: each test sample; on the line, prediction and truth are equal.",
        ),
    )


def map_parts(data: TaskData, results: Sequence[Result]) -> tuple[Part, ...]:
    """Show images, labels and predictions beside each other, for samples of which the results kept their maps."""
    positions = sorted(results[0].maps)[:_MOST_MAP_ROWS]
    if not positions:
        return ()
    able = [one for one in results if all(position in one.maps for position in positions)]
    shown = able[:_MOST_PREDICTIONS]
    samples = [data.read(position) for position in positions]
    # Columns must be equal in all rows, and sets may have more images or fewer.
    num_images = min(_MOST_MAP_IMAGES, *(len(sample.images) for sample in samples))
    rows = []
    for position, sample in zip(positions, samples, strict=True):
        images = sample.images[:num_images]
        rows.append(
            MapRow(
                title=data.names[position],
                pictures=tuple(sample_picture(image) for image in images),
                picture_titles=tuple(picture_title(image) for image in images),
                truth=thinned(_labels(sample)),
                predicted=tuple(thinned(one.maps[position]) for one in shown),
                predicted_titles=tuple(one.features for one in shown),
            )
        )
    more = max(len(sample.images) for sample in samples) - num_images
    caption = "Test samples; grey has no label" + (f"; {more} more images of a sample are not shown" * (more > 0))
    if able[len(shown) :]:
        caption += f"; predictions of {', '.join(one.features for one in able[len(shown) :])} are not shown"
    png = class_maps_png(rows, class_colours(data.classes)) if data.kind == "class_map" else number_maps_png(rows)
    return (Picture(png=png, alt="images, labels and predicted maps of test samples", caption=f"{caption}."),)


def _labels(sample: Sample) -> Num[Array, "row col"]:
    labels = sample.number_map if sample.class_map is None else sample.class_map
    if labels is None:
        raise InputError("a sample of maps has no map of labels")
    return labels


def _place_of(sample: str, places: Mapping[str, int]) -> int:
    """Find a test sample among the data's; at one scale its name ends in ` @ 25 %`, in a block in ` block 3`."""
    whole = (sample, sample.rpartition(" @ ")[0], sample.rpartition(" block ")[0])
    return next(places[name] for name in whole if name in places)


def mistake_parts(data: TaskData, predictions: Predictions, features: str) -> tuple[Part, ...]:
    """Show the samples that went most wrong."""
    found = worst_mistakes(predictions)
    if not found:
        return (Paragraph(text=f"{features}: {_nothing_wrong(predictions)}."),)
    position = {name: index for index, name in enumerate(data.names)}
    pictures = []
    for mistake in found:
        image = data.read(_place_of(mistake.sample, position)).images[0]
        pictures.append(SheetPicture(picture=sample_picture(image), lines=(*mistake.lines, mistake.sample)))
    caption = f"{features}: {RANKED_BY[predictions.kind]}, the worst first. The first image of each sample is shown."
    return (Picture(png=sheet_png(pictures), alt="pictures of the worst mistakes", caption=caption),)


def _nothing_wrong(predictions: Predictions) -> str:
    count = len(predictions.samples)
    if predictions.kind == "labels":
        return f"in each of the {count} test samples, all labels that hold are scored above those that do not"
    return f"none of the {count} test samples is wrong"


_INTERVALS = "In brackets: 95 % bootstrap intervals over test samples"


def write_report(
    path: Path, data: TaskData, results: Sequence[Result], rows: Sequence[ResultRow], *, shown: bool = False
) -> None:
    """Write the report as one HTML file that needs no other, whole or not at all.

    Args:
        path: of the file.
        data: that was evaluated on; some test samples are read again for pictures.
        results: the encoder's first, with their maps.
        rows: their rows in the table of results, in the same order, with predictions.
        shown: show a progress bar where it takes long.
    """
    write_page(path, report_page(data, results, rows, shown=shown))


def report_page(data: TaskData, results: Sequence[Result], rows: Sequence[ResultRow], *, shown: bool = False) -> Page:
    """Put the report together; see `write_report`."""
    first = rows[0]
    task = f"{first.protocol} on {first.data}"
    predictions = results[0].predictions
    sections = (
        Section(title="Scores", parts=_score_parts(rows, shown=shown)),
        Section(title="Fit", parts=_training_parts(rows)),
        Section(title="Classes", parts=class_parts(predictions, first.features)),
        Section(title="Numbers", parts=number_parts(predictions, first.features)),
        Section(title="Maps", parts=map_parts(data, results)),
        Section(title="Worst mistakes", parts=mistake_parts(data, predictions, first.features)),
        Section(title="What was done", parts=_context_parts(rows)),
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
    assert row.predictions is not None
    return frozenset(row.predictions.samples)


def _difference_table(rows: Sequence[ResultRow], *, shown: bool) -> Table:
    first, names = rows[0], METRICS_OF[rows[0].kind]
    cells = []
    for row in rows[1:]:
        assert first.predictions is not None
        assert row.predictions is not None
        found = [difference(first.predictions, row.predictions, name, seed=first.seed, shown=shown) for name in names]
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


def _context_parts(rows: Sequence[ResultRow]) -> tuple[Part, ...]:
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


# What does not stand in the names of files: all but letters, digits, dots and dashes.
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where results go."""

    folder: Path | None = None
    """New folder for the report and what belongs to it; None: none."""
    results: Path | None = None
    """Table that results are appended to; None: none."""

    def check(self) -> None:
        """See before any work that results can be written.

        Raises:
            OutputError: the folder exists, or a file can't be written.
            InputError: the table is none.
        """
        if self.folder is not None:
            if self.folder.exists():
                raise OutputError(f"'{self.folder}' exists already; remove it or name another folder")
            check_target(self.folder)
        if self.results is not None:
            check_target(self.results)
            # Whatever is there must be a table of results, or hours of work would end in an error.
            if self.results.exists():
                read_results(self.results)


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written."""

    rows: tuple[ResultRow, ...]
    """One for each result, with the ids that they have in the table."""
    notes: tuple[str, ...]
    """What became of rows that the table had already."""


def write_outputs(context: Context, results: Sequence[Result], outputs: Outputs) -> Written:
    """Score results, write the folder, and append to the table; each appears whole or not at all.

    The folder holds `report.html`, `result.json`, `recipe.yaml` (with every key), and for each result with something
    fitted its weights as `NAME.safetensors`; an encoder that was trained is beside it, as the checkpoint
    `NAME_checkpoint.safetensors`.

    Args:
        context: that they were found with.
        results: the encoder's first.
        outputs: where to.

    Raises:
        OutputError: no room, or no permission.
        InputError: the table is none.
    """
    rows = result_rows(context, results)
    if outputs.folder is not None:
        with whole_directory(outputs.folder) as beside:
            _write_folder(beside, context, results, rows)
    if outputs.results is None:
        return Written(rows=tuple(rows), notes=())
    appended = _append(outputs.results, rows, outputs.folder)
    known = [replace(row, id=identity) for row, identity in zip(rows, appended.ids, strict=True)]
    return Written(rows=tuple(known), notes=appended.notes)


def _append(path: Path, rows: Sequence[ResultRow], folder: Path | None) -> Appended:
    try:
        return append_results(path, rows)
    except (InputError, OutputError) as problem:
        if folder is None:
            raise
        # The work is not lost with the table.
        raise OutputError(f"{problem}; '{folder}' is written and holds the results") from problem


def _write_folder(folder: Path, context: Context, results: Sequence[Result], rows: Sequence[ResultRow]) -> None:

    found = {"anyband": __version__, "results": [row_to_dict(row) for row in rows]}
    (folder / "result.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    recipe = json_values({**context.recipe.model_dump(), "protocol": context.protocol})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for result, row in zip(results, rows, strict=True):
        name = _UNSAFE.sub("_", result.features).strip("_")
        if result.model:
            _write_weights(folder / f"{name}.safetensors", result, row)
        if result.checkpoint is not None:
            save_checkpoint(folder / f"{name}_checkpoint.safetensors", result.checkpoint)
    write_report(folder / "report.html", context.data, results, rows, shown=context.shown)


def _write_weights(path: Path, result: Result, row: ResultRow) -> None:
    header = {
        "anyband_task": row.protocol,
        "classes": json.dumps(result.predictions.classes),
        "checkpoint": row.checkpoint,
        "checkpoint_hash": row.checkpoint_hash,
        "settings": json.dumps(row.settings),
    }
    elsewhere = {} if result.checkpoint is None else result.checkpoint.state
    weights = {name: value for name, value in result.model.items() if name not in elsewhere}
    write_weights(path, weights, header)
