"""The pictures of an evaluation's report: confusion, numbers, maps, and the worst mistakes."""

import math
from collections.abc import Mapping, Sequence

from anyband.data.supervised.records import Sample, TaskData
from anyband.errors import InputError
from anyband.report.class_maps import MapRow, class_maps_png, number_maps_png
from anyband.report.confusion import confusion_png
from anyband.report.maps import class_colours
from anyband.report.page import Paragraph, Part, Picture, Table
from anyband.report.scatter import scatter_png
from anyband.report.sheets import SheetPicture, sheet_png
from anyband.shapes import Array, Num
from anyband.tasks.transfer.by_class import ClassScores, confusion, per_class
from anyband.tasks.transfer.records import Evidence, Outcome
from anyband.tasks.transfer.sample_pictures import picture_title, sample_picture, thinned
from anyband.tasks.transfer.worst_mistakes import RANKED_BY, worst_mistakes

__all__ = ["class_parts", "map_parts", "mistake_parts", "number_parts"]

# chosen: so many maps fit a page beside each other and below.
_MOST_MAP_ROWS = 6
_MOST_MAP_IMAGES = 2
_MOST_PREDICTIONS = 3
# chosen: up to so many classes the matrix is readable at the width of the page.
_MOST_ON_PAGE = 21
# chosen: counts with more digits do not fit a cell.
_LARGEST_COUNT = 9_999


def class_parts(evidence: Evidence, features: str) -> tuple[Part, ...]:
    """Show which class is taken for which, and the scores of each; nothing where there are no classes."""
    rows = per_class(evidence)
    if not rows:
        return ()
    table = _class_table(rows, features)
    return (table,) if evidence.kind == "labels" else (_confusion_picture(evidence, features), table)


def _confusion_picture(evidence: Evidence, features: str) -> Picture:
    counts = confusion(evidence)
    in_counts = evidence.kind == "class" and counts.max() <= _LARGEST_COUNT
    what = "samples" if evidence.kind == "class" else "pixels"
    cells = f"numbers of {what}" if in_counts else f"per cent of the {what} of the true class"
    return Picture(
        png=confusion_png(counts, evidence.classes, cells="counts" if in_counts else "percent"),
        alt=f"confusion matrix of {len(evidence.classes)} classes",
        caption=f"{features}: {cells}; colours are shares of the true class, which stands left with its {what}.",
        full_size=len(evidence.classes) > _MOST_ON_PAGE,
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


def number_parts(evidence: Evidence, features: str) -> tuple[Part, ...]:
    """Show predicted numbers over true ones; nothing where the target is no number of a sample."""
    if evidence.kind != "number":
        return ()
    return (
        Picture(
            png=scatter_png(evidence.arrays["truth"], evidence.arrays["predicted"]),
            alt="predicted numbers over true ones",
            caption=f"{features}: each test sample; on the line, prediction and truth are equal.",
        ),
    )


def map_parts(data: TaskData, outcomes: Sequence[Outcome]) -> tuple[Part, ...]:
    """Show images, labels and predictions beside each other, for samples of which the outcomes kept their maps."""
    positions = sorted(outcomes[0].maps)[:_MOST_MAP_ROWS]
    if not positions:
        return ()
    able = [one for one in outcomes if all(position in one.maps for position in positions)]
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


def mistake_parts(data: TaskData, evidence: Evidence, features: str) -> tuple[Part, ...]:
    """Show the samples that went most wrong."""
    found = worst_mistakes(evidence)
    if not found:
        return (Paragraph(text=f"{features}: {_nothing_wrong(evidence)}."),)
    position = {name: index for index, name in enumerate(data.names)}
    pictures = []
    for mistake in found:
        image = data.read(_place_of(mistake.sample, position)).images[0]
        pictures.append(SheetPicture(picture=sample_picture(image), lines=(*mistake.lines, mistake.sample)))
    caption = f"{features}: {RANKED_BY[evidence.kind]}, the worst first. The first image of each sample is shown."
    return (Picture(png=sheet_png(pictures), alt="pictures of the worst mistakes", caption=caption),)


def _nothing_wrong(evidence: Evidence) -> str:
    count = len(evidence.samples)
    if evidence.kind == "labels":
        return f"in each of the {count} test samples, all labels that hold are scored above those that do not"
    return f"none of the {count} test samples is wrong"
