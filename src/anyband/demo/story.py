"""The demo's report: one page that tells what was done and what came of it, from what the stages gave."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from anyband import __version__
from anyband.demo.run import KINDS, POOL, UNSEEN_SENSOR, DemoResult, Scores
from anyband.evaluate.metrics import COLUMN_TITLES, METRICS_OF, score_text
from anyband.evaluate.results import ResultRow
from anyband.report.figures import metrics_png
from anyband.report.page import paragraph, picture, table, write_page

__all__ = ["summary_lines", "write_report"]

_CURVES = {"loss": "training loss", "val_loss": "validation loss", "lr": "learning rate"}


def write_report(path: Path, result: DemoResult) -> None:
    """Write the page, self-contained: pictures inside, nothing fetched from elsewhere."""
    parts = (_images, _store, _training, _sets, _scores, _scene, _place, _bands)
    sections = tuple(part(result) for part in parts)
    write_page(path, "Rasters of several sensors, one encoder", _lead(result), sections, footer=_footer(result))


def summary_lines(result: DemoResult) -> list[str]:
    """Say the scores in lines for a terminal."""
    lines = [
        f"{_titled(sensors)}: " + ", ".join(f"{kind} {score_text(scores[kind])} %" for kind in KINDS)
        for sensors, scores in result.places.items()
    ]
    lines += [
        f"{_titled(sensors)}, network of sets: {score_text(scores[KINDS[0]])} %"
        for sensors, scores in result.set_places.items()
    ]
    return lines + [f"labelled images, {row.features}: {score_text(row.scores[0])} %" for row in result.labelled]


def _titled(sensors: Sequence[str]) -> str:
    return " and ".join(sensors) + (", never seen in training" if UNSEEN_SENSOR in sensors else "")


def _lead(result: DemoResult) -> str:
    counts = result.prepared
    source = "simulated landscapes" if result.options.images is None else "the given images"
    lead = (
        f"{sum(counts.chips.values())} chips of {len(counts.chips)} sensors at {counts.places} places of {source} "
        f"became a store; a network of the recipe '{result.recipe.name}' was pre-trained on pairs of them for "
        f"{result.options.steps} steps of {result.options.batch_size} pairs"
    )
    if not result.places:
        return f"{lead}, and run over a whole scene."
    (first, *_, unseen) = result.places
    (trained, plain, means), others = (
        [f"{100 * result.places[one][kind].value:.1f} %" for kind in KINDS] for one in (first, unseen)
    )
    return (
        f"{lead}. kNN accuracy on {result.counts['test']} chips of held-out places, {_titled(first)}: {trained} "
        f"pre-trained, {plain} untrained, {means} by band means; {_titled(unseen)}: {', '.join(others)}."
    )


def _images(result: DemoResult) -> tuple[str, list[str]]:
    if result.preview is None:
        return "The images", []
    text = (
        "Four of the rendered places, a row each: sub-metre RGB at 2.5 m, Sentinel-2 with near infrared as red, "
        "Sentinel-1, the surface temperature that Landsat sees, and the land cover. Spectra, structure, season, "
        "clouds and noise are declared in tables with their sources; every sensor sees the same truth through its own "
        "bands and pixels."
    )
    alt = "Rows of simulated landscapes in several sensors, with their land-cover maps"
    return "The images", [paragraph(text), picture(result.preview, alt=alt)]


def _store(result: DemoResult) -> tuple[str, list[str]]:
    counts = result.prepared
    rows, pairs = ([(name, str(number)) for name, number in one.items()] for one in (counts.chips, counts.pairs))
    parts: list[str] = [
        table(("sensor", "chips"), rows, caption="Each image kept at its own resolution."),
        table(("pair", "chips of one footprint"), pairs),
        paragraph("Splits are by place: " + ", ".join(f"{k} {v}" for k, v in counts.splits.items()) + " chips."),
    ]
    parts += [paragraph(note) for note in counts.notes]
    if skipped := [(Path(name.split(";")[0]).name, reason) for name, reason in counts.skipped]:
        parts.append(table(("image", "reason"), skipped, caption="Images that gave no chips, and why."))
    return "The store", parts


def _training(result: DemoResult) -> tuple[str, list[str]]:
    curves = metrics_png(result.run / "metrics.csv", titles=_CURVES)
    parts: list[str] = [
        paragraph(
            "A quarter of the tokens is seen, in two mixed images that exchange half of their tokens between the "
            "sensors; the hidden pixels of both sensors are predicted. The loss is the squared error of pixels "
            "normalised in each token, so 1 is what predicting each token's mean would give."
        ),
        picture(curves, alt="Curves of training loss, validation loss and learning rate over the steps"),
    ]
    alt = "Originals, the visible patches and the reconstruction, for both sensors of a pair"
    caption = (
        "Reconstructed patches are de-normalised with the mean and deviation of the target patch itself: brightness "
        "and contrast of a patch are given, the structure inside is predicted."
    )
    panels = _last_panels(result.run / "panels")
    parts += [picture(path.read_bytes(), alt=alt, caption=caption) for path in panels]
    return "Pre-training", parts


def _sets(result: DemoResult) -> tuple[str, list[str]]:
    recipe = result.set_recipe
    least, most = recipe.data.sets.size if recipe.data.sets else (1, 1)
    text = (
        f"A second network, of the recipe '{recipe.name}', learned for {recipe.optim.steps} steps of "
        f"{recipe.optim.batch_size} sets: {least} to {most} images of one place, of any sensors and dates. The first "
        "is the anchor. Images of another sensor hide the places that the anchor hides, other dates of its own sensor "
        "hide places of their own; a quarter of each image is seen. Now and then the last image is hidden whole and "
        "predicted from the others. Here brightness and contrast of hidden patches are predicted too, not given."
    )
    alt = "Images of one place with the anchor marked, what was visible of each, and the reconstruction"
    parts: list[str] = [
        paragraph(text),
        picture(metrics_png(result.set_run / "metrics.csv", titles=_CURVES), alt="Curves of the losses and the rate"),
        *(picture(path.read_bytes(), alt=alt) for path in _last_panels(result.set_run / "panels")),
    ]
    return "Sets of images", parts


def _last_panels(folder: Path) -> list[Path]:
    panels = sorted(folder.glob("step_*.png"))
    return [panel for panel in panels if panel.name.split("_")[1] == panels[-1].name.split("_")[1]]


def _scores(result: DemoResult) -> tuple[str, list[str]]:
    parts: list[str] = []
    for recipe, places in ((result.recipe, result.places), (result.set_recipe, result.set_places)):
        if places:
            parts += _place_scores(places, result.counts, name=recipe.name)
    if result.labelled:
        parts.append(_labelled(result.labelled))
    none = "Nothing was scored: no labels, or too few places. `--labelled` takes labelled images."
    return "Held-out places", parts or [paragraph(none)]


def _place_scores(places: Scores, counts: Mapping[str, int], *, name: str) -> list[str]:
    rows = tuple((_titled(one), *(score_text(places[one][kind]) for kind in KINDS)) for one in places)
    caption = (
        f"Recipe '{name}': kNN accuracy in % (k = {counts['k']}) with 95 % bootstrap intervals, {counts['test']} chips "
        f"of test places, {counts['train']} of training places vote; the label is the majority class of the chip's "
        "land cover."
    )
    text = (
        f"An encoder's feature is the {POOL} of its patch tokens ('cls': the CLS token). Untrained is the same "
        "network with its first weights. Band means are the mean and deviation of each band over the chip: they know "
        "colour and contrast and nothing of structure. Two sensors: their features side by side, each of unit length."
    )
    return [table(("sensors", *KINDS), rows, caption=caption), paragraph(text)]


def _labelled(rows: Sequence[ResultRow]) -> str:
    first = rows[0]
    header = ("features", "width", *(COLUMN_TITLES[name] for name in METRICS_OF[first.kind]))
    body = tuple((row.features, str(row.width), *map(score_text, row.scores)) for row in rows)
    caption = f"kNN (k = {first.settings['knn']['k']}) on {first.num_samples['test']} labelled images of '{first.data}'"
    return table(header, body, caption=caption)


def _scene(result: DemoResult) -> tuple[str, list[str]]:
    report = result.scene
    text = (
        f"'{Path(result.scene_name).name}': {report.grid.height} × {report.grid.width} patches of "
        f"{report.grid.gsd_m:g} m, {report.num_missing} without data, written to {report.features.name} by window."
    )
    alt = f"A scene ({result.scene_title}) beside the principal components of its features"
    return "A whole scene", [paragraph(text), picture(result.scene_png, alt=alt, pixels=True)]


def _place(result: DemoResult) -> tuple[str, list[str]]:
    if result.place is None:
        return "One place", []
    name, png, num_chips = result.place
    text = (
        f"{name}: {num_chips} of its images, each by its own bands, above the first three principal components of its "
        "features. The components are fitted to all of them together: equal colours mean equal features."
    )
    alt = "One place in several sensors and dates, above the principal components of its features"
    return "One place", [paragraph(text), picture(png, alt=alt, pixels=True)]


def _bands(result: DemoResult) -> tuple[str, list[str]]:
    return "How bands were read", [paragraph(note.strip()) for note in dict.fromkeys(result.notes)]


def _footer(result: DemoResult) -> str:
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    return (
        f"anyband {__version__}, seed {result.options.seed}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores. {stages}."
    )
