"""The report of an evaluation, and the files it leaves."""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyband import __version__
from anyband.arrays import Array, Float, Int, Num, Shaped
from anyband.data.harmonise import composite, decode
from anyband.data.harmonise import picture as draw
from anyband.errors import InputError, OutputError, counted
from anyband.evaluate.features import Context, Result, kept_tokens
from anyband.evaluate.metrics import (
    COLUMN_TITLES,
    METRICS,
    METRICS_OF,
    Predictions,
    class_average_precisions,
    confusion_of,
    ratio,
    score_text,
)
from anyband.evaluate.results import (
    ResultRow,
    append_results,
    difference,
    difference_text,
    flat_settings,
    json_values,
    read_results,
    result_rows,
    row_to_dict,
)
from anyband.files import check_target, whole_directory, yaml_text
from anyband.labelled.samples import SampleImage, TaskData
from anyband.models.checkpoint import checkpoint_hash, save_checkpoint, write_weights
from anyband.report.diagrams import fusion_png
from anyband.report.figures import confusion_png, curves_png, scatter_png
from anyband.report.page import (
    MapRow,
    class_colours,
    class_maps_png,
    number_maps_png,
    paragraph,
    picture,
    sheet_png,
    table,
    write_page,
)

__all__ = [
    "check_outputs",
    "confusion",
    "per_class",
    "picture_title",
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
    colours = draw(physical, image.sensor, valid=thinned(image.valid), missing_grey=float("nan"))
    return np.moveaxis(colours, -1, 0).astype(np.float32)


def picture_title(image: SampleImage) -> str:
    """Say what a picture shows, in two lines: sensor and date, and the bands."""
    when = f" {image.datetime:%Y-%m-%d}" if image.datetime else ""
    return f"{image.sensor.name}{when}\n{composite(image.sensor)[1]}"


def thinned(array: Shaped[Array, "*plane row col"]) -> Shaped[Array, "*plane y x"]:
    """Keep every so many pixels, so that the longer side fits a picture."""
    step = max(1, -(-max(array.shape[-2:]) // _LONGEST_PX))
    return array[..., ::step, ::step]


# chosen: what a person looks through at once.
_MOST = 12
# How mistakes are ranked.
_RANKED_BY = {
    "class": "wrong samples by how much higher the predicted class was scored than the true one",
    "labels": "samples by how much higher a label that does not hold was scored than one that holds",
    "number": "samples by their error",
    "class_map": "samples by their share of wrong pixels",
    "number_map": "samples by the root of their mean squared error",
}
Mistakes = list[tuple[str, tuple[str, ...]]]
"""Name of a sample; what was predicted, what is true, and by how much it went wrong."""


def worst_mistakes(predictions: Predictions, *, most: int = _MOST) -> Mistakes:
    """Find the samples that went most wrong, the worst first; those that are right are never among them."""
    of_kind = {
        "class": _class_mistakes,
        "labels": _label_mistakes,
        "number": _number_mistakes,
        "class_map": _class_map_mistakes,
        "number_map": _number_map_mistakes,
    }
    wrongness, lines = of_kind[predictions.kind](predictions)
    # Of what is right, the number is −∞.
    order = np.argsort(-wrongness, kind="stable")[:most]
    return [(predictions.samples[index], lines(index)) for index in order[np.isfinite(wrongness[order])].tolist()]


_Ranked = tuple[Float[Array, "sample"], Callable[[int], tuple[str, ...]]]


def _class_mistakes(predictions: Predictions) -> _Ranked:
    labels, scores, names = predictions.arrays["labels"], predictions.arrays["scores"], predictions.classes
    guessed, rows = scores.argmax(axis=1), np.arange(len(labels))
    high, low = scores[rows, guessed], scores[rows, labels]
    return np.where(guessed != labels, high - low, -np.inf), lambda index: (
        names[guessed[index]],
        f"true: {names[labels[index]]}",
        f"scores {high[index]:.3g}, true class {low[index]:.3g}",
    )


def _label_mistakes(predictions: Predictions) -> _Ranked:
    labels, scores, names = predictions.arrays["labels"], predictions.arrays["scores"], predictions.classes
    false, true = np.where(labels, -np.inf, scores), np.where(labels, scores, np.inf)
    above, below = false.argmax(axis=1), true.argmin(axis=1)
    # A sample of which all labels hold, or none, has no wrong order: its difference is −∞.
    differences = false.max(axis=1) - true.min(axis=1)
    return np.where(differences > 0, differences, -np.inf), lambda index: (
        f"not there: {names[above[index]]}",
        f"there: {names[below[index]]}",
        f"scores {scores[index, above[index]]:.3g} and {scores[index, below[index]]:.3g}",
    )


def _number_mistakes(predictions: Predictions) -> _Ranked:
    truth, predicted = predictions.arrays["truth"], predictions.arrays["predicted"]
    error = np.abs(predicted - truth)
    return np.where(error > 0, error, -np.inf), lambda index: (
        f"predicted {predicted[index]:.4g}",
        f"true {truth[index]:.4g}",
        f"error {error[index]:.3g}",
    )


def _class_map_mistakes(predictions: Predictions) -> _Ranked:
    counts = predictions.arrays["confusion"]
    totals, hits = counts.sum(axis=(1, 2)), np.trace(counts, axis1=1, axis2=2)
    wrong = 1 - hits / np.maximum(totals, 1)

    def lines(index: int) -> tuple[str, ...]:
        off = counts[index] * (1 - np.eye(len(predictions.classes), dtype=np.int64))
        true, guessed = np.unravel_index(off.argmax(), off.shape)
        return (
            f"{100 * wrong[index]:.0f} % of {totals[index]} pixels wrong",
            f"most: {predictions.classes[true]}",
            f"taken for {predictions.classes[guessed]}",
        )

    return np.where((totals > 0) & (wrong > 0), wrong, -np.inf), lines


def _number_map_mistakes(predictions: Predictions) -> _Ranked:
    count, truth, _, squared, _ = predictions.arrays["sums"].T
    known = np.maximum(count, 1)
    error, mean = np.sqrt(squared / known), truth / known
    return np.where((count > 0) & (error > 0), error, -np.inf), lambda index: (
        f"RMSE {error[index]:.3g}",
        f"mean of the labels {mean[index]:.4g}",
        f"{count[index]:.0f} pixels",
    )


# chosen: so many maps fit a page beside each other and below.
_MOST_MAP_ROWS = 6
_MOST_MAP_IMAGES = 2
_MOST_PREDICTIONS = 3
# chosen: up to so many classes the matrix is readable at the width of the page.
_MOST_ON_PAGE = 21


def confusion(predictions: Predictions) -> Int[Array, "class class"]:
    """Count samples, or labelled pixels of all samples: true classes in rows, predicted ones in columns.
    Labels or numbers, which have no one predicted class, are an `InputError`.
    """
    if predictions.kind == "class_map":
        return np.asarray(predictions.arrays["confusion"].sum(axis=0))
    if predictions.kind != "class":
        raise InputError(
            f"a confusion matrix is of kind 'class' or 'class_map', and these are of kind '{predictions.kind}'"
        )
    guessed = predictions.arrays["scores"].argmax(axis=1)
    return confusion_of(predictions.arrays["labels"][None], guessed[None], num_classes=len(predictions.classes))


def per_class(predictions: Predictions) -> dict[str, Num[Array, "class"]]:
    """Score each class: a row of numbers by name, NaN where nothing defines one; empty for numbers.
    `true` counts test samples or labelled pixels. One class a sample or pixel has `predicted` (counts), `precision`,
    `recall`, `f1` and `iou`; several labels have `average precision`.
    """
    if not predictions.classes:
        return {}
    if predictions.kind == "labels":
        labels = predictions.arrays["labels"]
        return {
            "true": labels.sum(axis=0),
            "average precision": class_average_precisions(labels, predictions.arrays["scores"]),
        }
    counts = confusion(predictions)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "true": true,
        "predicted": predicted,
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, true + predicted),
        "iou": ratio(hits, true + predicted - hits),
    }


# chosen: counts with more digits do not fit a cell.
_LARGEST_COUNT = 9_999


def _class_parts(predictions: Predictions, features: str) -> list[str]:
    """Show which class is taken for which, and the scores of each; nothing where there are no classes."""
    found = per_class(predictions)
    if not found:
        return []
    titles = {"true": "true", "predicted": "predicted", "f1": "F1, %", "iou": "IoU, %"}
    header = ("class", *(titles.get(name, f"{name}, %") for name in found))
    columns = [
        [str(value) if values.dtype.kind == "i" else _percent(value) for value in values] for values in found.values()
    ]
    rows = list(zip(predictions.classes, *columns, strict=True))
    if predictions.kind == "labels":
        return [table(header, rows, caption=f"{features}; a dash where no test sample has the label.")]
    scores = table(header, rows, caption=f"{features}; a dash where a class does not occur.")
    return [_confusion_picture(predictions, features), scores]


def _confusion_picture(predictions: Predictions, features: str) -> str:
    counts = confusion(predictions)
    in_counts = predictions.kind == "class" and counts.max() <= _LARGEST_COUNT
    what = "samples" if predictions.kind == "class" else "pixels"
    cells = f"numbers of {what}" if in_counts else f"per cent of the {what} of the true class"
    return picture(
        confusion_png(counts, predictions.classes, cells="counts" if in_counts else "percent"),
        alt=f"confusion matrix of {counted(len(predictions.classes), 'class')}",
        caption=f"{features}: {cells}; colours are shares of the true class, which stands left with its {what}.",
        full_size=len(predictions.classes) > _MOST_ON_PAGE,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "–"


def _number_parts(predictions: Predictions, features: str) -> list[str]:
    """Show predicted numbers over true ones; nothing where the target is no number of a sample."""
    if predictions.kind != "number":
        return []
    drawn = scatter_png(predictions.arrays["truth"], predictions.arrays["predicted"])
    caption = f"{features}: each test sample; on the line, prediction and truth are equal."
    return [picture(drawn, alt="predicted numbers over true ones", caption=caption)]


def _map_parts(data: TaskData, results: Sequence[Result]) -> list[str]:
    """Show images, labels and predictions beside each other, for samples of which the results kept their maps."""
    positions = sorted(results[0].maps)[:_MOST_MAP_ROWS]
    if not positions:
        return []
    able = [one for one in results if all(position in one.maps for position in positions)]
    shown = able[:_MOST_PREDICTIONS]
    samples = [data.read(position) for position in positions]
    # Columns must be equal in all rows, and sets may have more images or fewer.
    num_images = min(_MOST_MAP_IMAGES, *(len(sample.images) for sample in samples))
    rows = []
    for position, sample in zip(positions, samples, strict=True):
        images, labels = sample.images[:num_images], sample.class_map
        labels = sample.number_map if labels is None else labels
        if labels is None:
            raise InputError("a sample of maps has no map of labels")
        rows.append(
            MapRow(
                title=data.names[position],
                pictures=tuple(sample_picture(image) for image in images),
                picture_titles=tuple(picture_title(image) for image in images),
                truth=thinned(labels),
                predicted=tuple(thinned(one.maps[position]) for one in shown),
                predicted_titles=tuple(one.features for one in shown),
            )
        )
    more = max(len(sample.images) for sample in samples) - num_images
    caption = "Test samples; grey has no label" + (f"; {more} more images of a sample are not shown" * (more > 0))
    if able[len(shown) :]:
        caption += f"; predictions of {', '.join(one.features for one in able[len(shown) :])} are not shown"
    png = class_maps_png(rows, class_colours(data.classes)) if data.kind == "class_map" else number_maps_png(rows)
    return [picture(png, alt="images, labels and predicted maps of test samples", caption=f"{caption}.")]


def _mistake_parts(data: TaskData, predictions: Predictions, features: str) -> list[str]:
    found, count = worst_mistakes(predictions), len(predictions.samples)
    if not found:
        right = (
            f"in each of the {counted(count, 'test sample')}, all labels that hold are scored above those that do not"
            if predictions.kind == "labels"
            else f"none of the {counted(count, 'test sample')} is wrong"
        )
        return [paragraph(f"{features}: {right}.")]
    places = {name: index for index, name in enumerate(data.names)}
    pictures = []
    for name, lines in found:
        # At one scale a name ends in ` @ 25 %`, in a block in ` block 3`.
        names = (name, name.rpartition(" @ ")[0], name.rpartition(" block ")[0])
        position = next(places[one] for one in names if one in places)
        pictures.append((sample_picture(data.read(position).images[0]), (*lines, name)))
    ranked = _RANKED_BY[predictions.kind]
    caption = f"{features}: {ranked}, the worst first. The first image of each sample is shown."
    return [picture(sheet_png(pictures), alt="pictures of the worst mistakes", caption=caption)]


_INTERVALS = "In brackets: 95 % bootstrap intervals over test samples"


def write_report(
    path: Path,
    data: TaskData,
    results: Sequence[Result],
    rows: Sequence[ResultRow],
    *,
    fusion: Sequence[str] = (),
    shown: bool = False,
) -> None:
    """Write the report as one HTML file that needs no other, whole or not at all.
    The encoder's result comes first; `rows` are in the order of `results`. Some samples are read again for pictures.
    """
    first, predictions = rows[0], results[0].predictions
    task = f"{first.protocol} on {first.data}"
    sections = (
        ("Scores", _score_parts(rows, shown=shown)),
        ("Fusion", fusion),
        ("Fit", _training_parts(rows)),
        ("Classes", _class_parts(predictions, first.features)),
        ("Numbers", _number_parts(predictions, first.features)),
        ("Maps", _map_parts(data, results)),
        ("Worst mistakes", _mistake_parts(data, predictions, first.features)),
        ("What was done", _context_parts(rows)),
    )
    footer = f"anyband {first.version}, {first.made:%Y-%m-%d %H:%M} UTC, result {first.id}, seed {first.seed}"
    title = first.recipe if first.recipe == task else f"{first.recipe}: {task}"
    write_page(path, title, _lead(rows), sections, footer=footer)


def _lead(rows: Sequence[ResultRow]) -> str:
    first, main = rows[0], rows[0].scores[0]
    metric = METRICS[main.metric]
    unit = " %" if metric.percent else ""
    lead = (
        f"{first.checkpoint} ({first.features}) reaches {metric.title} {score_text(main)}{unit} on {main.num_samples} "
        f"test samples of {first.data}, "
        + (
            "with a head that was not fitted here."
            if first.settings.get("eval_only")
            else f"with {first.num_samples['train']} samples for training."
        )
    )
    others = [row for row in rows[1:] if math.isfinite(row.scores[0].value)]
    if others:
        sign = -1 if metric.higher_is_better else 1
        best = min(others, key=lambda row: sign * row.scores[0].value)
        lead += f" The best of what it is compared with, {best.features}, reaches {score_text(best.scores[0])}{unit}."
    return lead


def _score_parts(rows: Sequence[ResultRow], *, shown: bool) -> list[str]:
    names = METRICS_OF[rows[0].kind]
    header = ("features", "width", *(COLUMN_TITLES[name] for name in names))
    cells = [(row.features, str(row.width), *(score_text(row.score(name)) for name in names)) for row in rows]
    definitions = " · ".join(f"{METRICS[name].title}: {METRICS[name].definition}" for name in names)
    scores = table(header, cells, caption=f"{_INTERVALS} · {definitions}.", strong_rows=(0,))
    # At several scales the first result holds each sample several times; only equal samples can be paired.
    first, *others = ((row, row.predictions) for row in rows)
    assert first[1] is not None
    able = [(row, one) for row, one in others if one is not None and set(one.samples) == set(first[1].samples)]
    if not able:
        return [scores]
    cells = []
    for row, one in able:
        found = [difference(first[1], one, name, seed=rows[0].seed, shown=shown) for name in names]
        cells.append((row.features, *map(difference_text, found), f"{found[0].share_above:.1%}"))
    main = METRICS[names[0]]
    caption = (
        f"Differences are paired by test sample: in every resample both are scored on the same samples. An interval "
        f"that holds 0 leaves open which is better. The last column is for {main.title}"
        f"{'' if main.higher_is_better else ', of which less is better'}."
    )
    titles = (f"{METRICS[name].title}{', points' if METRICS[name].percent else ''}" for name in names)
    header = (f"{rows[0].features} less", *titles, "resamples in which it is higher")
    return [scores, table(header, cells, caption=caption)]


def _training_parts(rows: Sequence[ResultRow]) -> list[str]:
    parts = []
    chosen = [
        (row.features, ", ".join(f"{name} {_text(value)}" for name, value in flat_settings(row.chosen).items()))
        for row in rows
        if row.chosen
    ]
    if chosen:
        caption = "Validation chooses what is not given; test samples choose nothing."
        parts.append(table(("features", "chosen"), chosen, caption=caption))
    names = dict.fromkeys(name for row in rows for name, values in row.curves.items() if len(values))
    panels = {
        name: {
            row.features: (range(1, len(row.curves[name]) + 1), row.curves[name])
            for row in rows
            if row.curves.get(name)
        }
        for name in names
    }
    if panels:
        parts.append(picture(curves_png(panels, xlabel="epoch"), alt=f"curves over the epochs: {', '.join(panels)}"))
    return parts


def _context_parts(rows: Sequence[ResultRow]) -> list[str]:
    first = rows[0]
    known = {
        "protocol": first.protocol,
        "checkpoint": f"{first.checkpoint} sha256:{first.checkpoint_hash}",
        "data": f"{first.data}, fingerprint {first.data_fingerprint}",
        "samples": ", ".join(f"{name} {count}" for name, count in first.num_samples.items()),
        "seed": first.seed,
        **flat_settings(first.settings),
    }
    cells = [(name, _text(value)) for name, value in known.items() if value not in (None, "", [], {})]
    notes = [paragraph(f"{_sentence(note)}.") for note in dict.fromkeys(_notes(rows))]
    return [*notes, table(("choice", "value"), cells, caption="Choices that are empty are left out.")]


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


def check_outputs(folder: Path | None, table_path: Path | None) -> None:
    """See before any work that results can be written: the folder is new, and the table is one or not there.
    Anything else is an `OutputError` or `InputError`.
    """
    if folder is not None:
        if folder.exists():
            raise OutputError(f"'{folder}' exists already; remove it or name another folder")
        check_target(folder)
    if table_path is not None:
        check_target(table_path)
        # Whatever is there must be a table of results, or hours of work would end in an error.
        if table_path.exists():
            read_results(table_path)


def write_outputs(
    context: Context, results: Sequence[Result], *, folder: Path | None = None, table_path: Path | None = None
) -> tuple[list[ResultRow], tuple[str, ...]]:
    """Score results, write the folder, and append to the table; each appears whole or not at all.
    The folder holds `report.html`, `result.json`, `recipe.yaml` (with every key), and for each result with something
    fitted its weights as `NAME.safetensors`; an encoder that was trained is beside it, as the checkpoint
    `NAME_checkpoint.safetensors`.
    Returns:
        A row for each result, with the id that it has in the table, and what became of rows that it had already.
    """
    rows = result_rows(context, results)
    if folder is not None:
        with whole_directory(folder) as beside:
            _write_folder(beside, context, results, rows)
    if table_path is None:
        return rows, ()
    try:
        return append_results(table_path, rows)
    except (InputError, OutputError) as problem:
        if folder is None:
            raise
        # The work is not lost with the table.
        raise OutputError(f"{problem}; '{folder}' is written and holds the results") from problem


def _write_folder(folder: Path, context: Context, results: Sequence[Result], rows: Sequence[ResultRow]) -> None:
    found = {"anyband": __version__, "results": [row_to_dict(row) for row in rows]}
    (folder / "result.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    recipe = json_values({**context.recipe.model_dump(), "protocol": context.protocol})
    (folder / "recipe.yaml").write_text(yaml_text(recipe), encoding="utf-8")
    for result, row in zip(results, rows, strict=True):
        name, encoder_hash = _UNSAFE.sub("_", result.features).strip("_"), row.checkpoint_hash
        if result.checkpoint is not None:
            save_checkpoint(path := folder / f"{name}_checkpoint.safetensors", result.checkpoint)
            encoder_hash = checkpoint_hash(path)
        if result.model:
            _write_weights(folder / f"{name}.safetensors", result, row, encoder_hash)
    fusion = _fusion_parts(context)
    write_report(folder / "report.html", context.data, results, rows, fusion=fusion, shown=context.shown)


_FUSED = {
    "stack": "one token from the bands of all images",
    "concat": "each image by itself, features side by side",
    "mixup_concat": "half of the tokens exchanged, both mixtures encoded, features side by side",
    "joint": "the images as one sequence",
    "ltae": "each image by itself, their features weighed by attention over the dates",
}


def _fusion_parts(context: Context) -> list[str]:
    """Draw how the images of the first test sample are fused, with the tokens that are really exchanged."""
    recipe, data, encoder = context.recipe, context.data, context.encoders.get("encoder")
    if recipe.fusion == "single" or encoder is None or not len(data.split("test")):
        return []
    position = int(data.split("test")[0])
    images, config = data.read(position).images, encoder.config
    side = (recipe.input.img_size or config.img_size) // config.patch_size
    own = [np.full((side, side), index) for index in range(len(images))]
    sequences = [([grid], f"tokens of image {index}") for index, grid in enumerate(own, start=1)]
    if recipe.fusion == "stack":
        sequences = [([np.full((side, side), -1)], "tokens of all bands")]
    elif recipe.fusion == "joint":
        sequences = [(own, "one sequence")]
    elif recipe.fusion == "mixup_concat":
        stays = kept_tokens([position], side * side, seed=recipe.seed).numpy().reshape(side, side)
        sequences = [
            ([np.where(stays, *pair)], title) for *pair, title in ((0, 1, "a' = a and b"), (1, 0, "b' = b and a"))
        ]
    drawn = [(sample_picture(image), picture_title(image)) for image in images]
    text = f"{recipe.fusion}: {_FUSED[recipe.fusion]}"
    return [
        picture(fusion_png(drawn, sequences, outcome=text), alt=text, caption=f"Test sample {data.names[position]}.")
    ]


def _write_weights(path: Path, result: Result, row: ResultRow, encoder_hash: str) -> None:
    header = {
        "anyband_task": row.protocol,
        "classes": json.dumps(result.predictions.classes),
        "checkpoint": row.checkpoint,
        "checkpoint_hash": row.checkpoint_hash,
        "encoder_hash": encoder_hash,
        "settings": json.dumps(row.settings),
    }
    elsewhere = {} if result.checkpoint is None else result.checkpoint.state
    weights = {name: value for name, value in result.model.items() if name not in elsewhere}
    write_weights(path, weights, header)
