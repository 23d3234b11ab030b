"""The main job from start to end: images, store, pre-training, scores, maps."""

import csv
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from anyband.arrays import Array, Float
from anyband.data.harmonise import composite, decode, picture
from anyband.data.image_sets import common_footprints
from anyband.data.manifest import ImageEntry, entry_sensor, read_manifest
from anyband.data.prepare import PrepareOptions, PrepareReport, prepare
from anyband.data.store import ChipStore
from anyband.encode.encoder import (
    Pool,
    SensorEncoder,
    chip_batch,
    feature_maps,
    load_encoder,
    pooled,
    store_features,
)
from anyband.errors import AnybandError, AssignmentError, InputError, ManifestError, OutputError, counted
from anyband.evaluate.features import band_means
from anyband.evaluate.metrics import LabelledFeatures, Predictions, Score, scores_of
from anyband.evaluate.probes import NUM_NEIGHBOURS, knn_scores
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, TransferRecipe
from anyband.evaluate.results import ResultRow, result_rows
from anyband.evaluate.run import evaluate
from anyband.files import check_target, whole_file
from anyband.labelled import open_task_data
from anyband.labelled.samples import DataSpec
from anyband.pretraining.loop import pretrain
from anyband.pretraining.recipe import PretrainRecipe, load_recipe
from anyband.rasters.reader import open_raster
from anyband.report.figures import fit_pca_colours, pca_picture, pictures_png
from anyband.scenes.embed import EmbedReport, embed_scene
from anyband.training.steps import has_bf16, quicker_precision

__all__ = ["KINDS", "POOL", "UNSEEN_SENSOR", "DemoOptions", "DemoResult", "run_demo"]

UNSEEN_SENSOR = "landsat8-oli-tirs-l2"
"""Sensor of the simulated archive that training never sees; it has thermal bands."""

KINDS = ("pre-trained", "untrained", "band means")
"""What is compared: the encoder, the same one with its first weights, and mean and deviation of each band."""

POOL: Pool = "mean"
"""chosen: after minutes of training the mean of the patches tells more than CLS; docs/log.md has both."""

# Source: SMARTIES (arXiv 2506.19585), section 4.1, pairs Sentinel-2 with Sentinel-1 and with sub-metre RGB.
_SIMULATED_PAIRS = (("sentinel2-l2a", "sentinel1-grd"), ("maxar-rgb", "sentinel2-l2a"))
_CHOICES = (
    ("sentinel2-l2a",),
    ("sentinel1-grd",),
    ("maxar-rgb",),
    ("sentinel2-l2a", "sentinel1-grd"),
    (UNSEEN_SENSOR,),
)
# chosen: many test places, so that the intervals of the scores are narrow; few that only choose a checkpoint.
_SIMULATED_FRACTIONS = (0.65, 0.05, 0.30)
# chosen: two dates are the fewest that make sets of dates, and images are what the demo's time goes to.
_NUM_DATES = 2
# chosen: 36 × 36 patches make a map, and a few seconds of rendering and encoding.
_SCENE_SIDE_M = 5_760.0
_SCENE_SENSOR = "sentinel2-l2a"
# chosen: another seed than the archive's, so the scene is none of its places; by default towns, a lake, a river.
_SCENE_SEED_STEP = 1_000_035
# chosen: as many pictures as fit the page's width, and dates as show the seasons.
_COLUMNS = 8
# chosen: 14 × 14 patches, over twice the training size; positions are computed for any grid.
_PATCHES = 14
# chosen: pixels of the longer side of a picture in the page.
_PICTURE_SIDE = 600


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo does. The defaults fit two cores and a few minutes."""

    images: Path | None = None
    """Manifest of the user's own images; None: simulated landscapes."""
    num_places: int = 480
    steps: int = 700
    batch_size: int = 32
    set_steps: int = 250
    set_batch_size: int = 24
    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: as `prepare` chooses."""
    labelled: Path | None = None
    """Labelled images to score on (class folders or a table), for the user's own images."""
    labelled_sensor: str | None = None
    seed: int = 0
    workers: int = 2
    shown: bool = True

    def __post_init__(self) -> None:
        for name in ("num_places", "steps", "batch_size", "set_steps", "set_batch_size", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if (self.labelled is None) != (self.labelled_sensor is None):
            raise InputError("labelled images need a sensor, and a sensor needs images: give both, or neither")
        if self.labelled is not None and self.images is None:
            raise InputError("labelled images go with your own images; the simulated archive has labels of its own")


Scores = Mapping[tuple[str, ...], Mapping[str, Score]]
"""Sensors whose features are put side by side → kind of features → accuracy, for each of `KINDS`."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """All that a demo gave."""

    options: DemoOptions
    prepared: PrepareReport
    store: ChipStore
    preview: bytes | None
    recipe: PretrainRecipe
    run: Path
    set_recipe: PretrainRecipe
    set_run: Path
    places: Scores
    """Scores on held-out places; empty without labels."""
    set_places: Scores
    """Scores of the network of sets, each image by itself; empty without labels."""
    counts: Mapping[str, int]
    """Chips of places that vote (`train`) and are scored (`test`), and how many of them vote for each (`k`)."""
    labelled: tuple[ResultRow, ...]
    """Scores on labelled images of the user; empty: none were given."""
    notes: tuple[str, ...]
    """How bands of the scored sensors and of the scene were read where they are not exactly known."""
    scene_name: str
    scene: EmbedReport
    scene_title: str
    scene_png: bytes
    """The scene in colour and its features beside it."""
    place: tuple[str, bytes, int] | None
    """Title, picture (PNG) and number of chips of a footprint; None: the encoder can read no sensor of the store."""
    seconds: Mapping[str, float]
    """Stage → wall-clock seconds."""


def run_demo(out: Path, options: DemoOptions) -> DemoResult:
    """Do the main job below a folder. Stages that are done already are kept, so a stopped demo goes on."""
    check_target(out, is_folder=True)
    _check_same(out / "demo.json", options)
    seconds: dict[str, float] = {}
    started = time.monotonic()

    def done(stage: str) -> None:
        nonlocal started
        seconds[stage], started = time.monotonic() - started, time.monotonic()

    entries, scene, labels, preview = _simulated(out, options) if options.images is None else _own(options.images)
    done("images")
    prepared = _prepared(entries, out, options)
    store = ChipStore.open(out / "store")
    done("prepare")
    labelled_recipe = _labelled_recipe(options, store)
    recipe, set_recipe = _recipes(options)
    trained = pretrain(recipe, data=store.path, out=out / "run", shown=options.shown)
    done("pre-train")
    of_sets = pretrain(set_recipe, data=store.path, out=out / "run_sets", shown=options.shown)
    done("pre-train on sets")
    encoder, set_encoder = (load_encoder(one.checkpoint) for one in (trained, of_sets))
    places, counts, notes = _score_places(encoder, store, labels, seed=options.seed)
    set_places, _, _ = _score_places(set_encoder, store, labels, seed=options.seed)
    labelled: tuple[ResultRow, ...] = ()
    if labelled_recipe is not None:
        scored = labelled_recipe.changed(checkpoint=str(trained.checkpoint))
        labelled = tuple(result_rows(*evaluate(scored, "knn", shown=options.shown)))
    done("evaluate")
    report, scene_title, scene_png = _map_scene(encoder, scene, out / "features.tif", shown=options.shown)
    place = _draw_place(encoder, store)
    done("embed")
    return DemoResult(
        options=options,
        prepared=prepared,
        store=store,
        preview=preview,
        recipe=recipe,
        run=out / "run",
        set_recipe=set_recipe,
        set_run=out / "run_sets",
        places=places,
        set_places=set_places,
        counts=counts,
        labelled=labelled,
        notes=(*notes, *report.notes),
        scene_name=scene.name,
        scene=report,
        scene_title=scene_title,
        scene_png=scene_png,
        place=place,
        seconds=seconds,
    )


def _check_same(path: Path, options: DemoOptions) -> None:
    """See that what lies in the folder belongs to these options; stages that are done are taken as they are."""
    requested = {key: value for key, value in asdict(options).items() if key not in ("workers", "shown")}
    text = json.dumps(requested, indent=1, default=str) + "\n"
    if not path.exists():
        with whole_file(path) as beside:
            beside.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"'{path.parent}' holds a demo of other options ('{path}'); name another folder, or remove it"
        )


# Images to prepare, the one to embed whole, place → majority class where it is known, and a picture of some places.
_Archive = tuple[Sequence[ImageEntry], ImageEntry, dict[str, str], bytes | None]


def _simulated(out: Path, options: DemoOptions) -> _Archive:
    """Simulate the archive below `out`; what is there already is kept."""
    from anyband.simulate.archive import draw_preview, simulate
    from anyband.simulate.plan import SimulateOptions

    settings = SimulateOptions(
        num_places=options.num_places,
        num_dates=_NUM_DATES,
        seed=options.seed,
        workers=options.workers,
        shown=options.shown,
    )
    images, scene, preview = out / "images", out / "scene", out / "preview.png"
    if not images.exists():
        simulate(images, settings)
    if not scene.exists():
        simulate(
            scene,
            SimulateOptions(
                num_places=1,
                sensors=(_SCENE_SENSOR,),
                footprint_m=_SCENE_SIDE_M,
                detail_m=5.0,
                gsd_m=(),
                seed=options.seed + _SCENE_SEED_STEP,
                cloud_share=0.0,
                edge_share=0.0,
                shown=False,
            ),
        )
    if not preview.exists():
        draw_preview(preview, settings, indices=tuple(range(min(4, options.num_places))))
    with (images / "labels.csv").open(encoding="utf-8", newline="") as file:
        labels = {row["place"]: row["label"] for row in csv.DictReader(file)}
    return (
        read_manifest(images / "manifest.csv"),
        read_manifest(scene / "manifest.csv")[0],
        labels,
        preview.read_bytes(),
    )


def _own(manifest: Path) -> _Archive:
    """Read the user's manifest; of its images that can be opened the one with the most pixels is embedded whole."""
    entries = read_manifest(manifest)
    sizes: dict[int, int] = {}
    for number, entry in enumerate(entries):
        try:
            with open_raster(entry.source, entry.sensor) as reader:
                sizes[number] = reader.grid.height * reader.grid.width
        except AnybandError:
            # `prepare` reports what can't be read, with its reason.
            continue
    if not sizes:
        raise ManifestError(f"none of the {counted(len(entries), 'image')} of '{manifest}' can be read")
    return entries, entries[max(sizes, key=lambda number: (sizes[number], -number))], {}, None


def _prepared(entries: Sequence[ImageEntry], out: Path, options: DemoOptions) -> PrepareReport:
    fractions = _SIMULATED_FRACTIONS if options.images is None else PrepareOptions.fractions
    settings = PrepareOptions(chip_px=options.chip_px, statistics=True, seed=options.seed, fractions=fractions)
    return prepare(entries, out / "store", settings, workers=options.workers, shown=options.shown)


def _recipes(options: DemoOptions) -> tuple[PretrainRecipe, PretrainRecipe]:
    """Give the recipes of pairs and of sets, with the statistics of the store: every sensor in it has them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # What the device of the run computes without emulation.
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed" if has_bf16(device) else "32-true"
    held_out = (UNSEEN_SENSOR,) if options.images is None else ()
    made = []
    for name, steps, batch_size, saves in (
        ("smarties_tiny", options.steps, options.batch_size, 4),
        ("unified_tiny", options.set_steps, options.set_batch_size, 2),
    ):
        recipe = load_recipe(name)
        data = recipe.data.changed(held_out=held_out, statistics="store")
        if name == "smarties_tiny" and options.images is None:
            data = data.changed(pairs=_SIMULATED_PAIRS)
        run = recipe.run.changed(panel_every_steps=steps, checkpoint_every_steps=max(1, steps // saves))
        optim = recipe.optim.changed(steps=steps, batch_size=batch_size, precision=precision)
        made.append(recipe.changed(seed=options.seed, data=data, optim=optim, run=run))
    return made[0], made[1]


# Scores on held-out places.


def _score_places(
    encoder: SensorEncoder, store: ChipStore, labels: Mapping[str, str], *, seed: int
) -> tuple[Scores, dict[str, int], tuple[str, ...]]:
    """Score choices of sensors on the test places; training places vote. Nothing where no class is in both."""
    if not labels:
        return {}, {}, ()
    arrays = {info.sensor: name for name, info in reversed(list(store.arrays.items()))}
    sensors = {sensor: arrays[sensor] for choice in _CHOICES for sensor in choice}
    footprints, rows = common_footprints(store, tuple(sensors.values()))
    seen = {split: {labels[place] for place, of in footprints if of == split} for split in ("train", "test")}
    # Classes too rare to have training and test places would score 0 whatever the features are.
    classes = tuple(sorted(seen["train"] & seen["test"]))
    if not classes:
        return {}, {}, ()
    chosen = {split: np.array([of == split and labels[place] in classes for place, of in footprints]) for split in seen}
    counts = {split: int(one.sum()) for split, one in chosen.items()}
    counts["k"] = min(NUM_NEIGHBOURS, counts["train"])
    numbers = np.array([classes.index(labels[place]) if labels[place] in classes else -1 for place, _ in footprints])
    features = {one: _unit_features(encoder, store, array, rows[array], seed=seed) for one, array in sensors.items()}

    def accuracy(choice: tuple[str, ...], kind: str) -> Score:
        joined = np.concatenate([features[sensor][kind] for sensor in choice], axis=1)
        train, test = (
            LabelledFeatures(features=joined[chosen[split]], labels=numbers[chosen[split]], classes=classes)
            for split in ("train", "test")
        )
        arrays = {"labels": test.labels, "scores": knn_scores(train, test, k=counts["k"])}
        names = tuple(map(str, range(len(test.labels))))
        return scores_of(Predictions(kind="class", classes=classes, samples=names, arrays=arrays), seed=seed)[0]

    notes: list[str] = []
    for sensor, array in sensors.items():
        spec = encoder.input_spec(store.array_sensor(array), statistics=store.statistics[sensor])
        notes += spec.assignment.report().splitlines()
    return {choice: {kind: accuracy(choice, kind) for kind in KINDS} for choice in _CHOICES}, counts, tuple(notes)


def _unit_features(
    encoder: SensorEncoder, store: ChipStore, array: str, rows: Array, *, seed: int
) -> dict[str, Float[Array, "sample width"]]:
    untrained, precision = encoder.untrained(seed=seed), quicker_precision(torch.device("cpu"))
    makers = {
        "pre-trained": lambda batch: pooled(encoder.encode_batch(batch, precision=precision), POOL),
        "untrained": lambda batch: pooled(untrained.encode_batch(batch, precision=precision), POOL),
        "band means": band_means,
    }
    made = store_features(makers, encoder, store, array, rows, statistics=store.statistics[store.arrays[array].sensor])
    tiny = np.finfo(np.float32).tiny
    return {kind: made[kind] / np.maximum(np.linalg.norm(made[kind], axis=1, keepdims=True), tiny) for kind in KINDS}


def _labelled_recipe(options: DemoOptions, store: ChipStore) -> TransferRecipe | None:
    """Make the recipe of labelled images before the training, scored by the paper's 20 neighbours or all of fewer."""
    if options.labelled is None or options.labelled_sensor is None:
        return None
    spec = DataSpec(source=str(options.labelled), sensors=(options.labelled_sensor,))
    data = open_task_data(spec, seed=options.seed, sensors=store.sensors)
    return TransferRecipe(
        name="demo",
        data=spec,
        seed=options.seed,
        input=InputRecipe(precision=quicker_precision(torch.device("cpu")), statistics="data"),
        knn=KnnRecipe(k=min(NUM_NEIGHBOURS, data.num_samples["train"])),
        compare=CompareRecipe(untrained=True, baseline=True),
    )


# Pictures.


def _map_scene(encoder: SensorEncoder, entry: ImageEntry, out: Path, *, shown: bool) -> tuple[EmbedReport, str, bytes]:
    """Embed a scene whole, normalised with its own statistics, and draw it; give what its colours show, too."""
    sensor, source = entry_sensor(entry), replace(entry.source, encoding=None)
    precision = quicker_precision(torch.device("cpu"))
    report = embed_scene(encoder, source, sensor, out, precision=precision, statistics="scene", shown=shown)
    with open_raster(source, sensor) as reader:
        raster = reader.read()
    step = max(1, -(-max(raster.dn.shape[1:]) // _PICTURE_SIDE))
    drawn = picture(decode(raster.dn, sensor)[:, ::step, ::step], sensor, valid=raster.valid[:, ::step, ::step])
    title = composite(sensor)[1]
    titles = [f"{sensor.name}, {title}", "its features: first three principal components"]
    parts = [np.moveaxis(drawn, -1, 0).astype(np.float32), _read_picture(report.picture)]
    return report, title, pictures_png(parts, titles, num_columns=2)


def _read_picture(path: Path) -> Float[Array, "3 row col"]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    return np.where(pixels[None, ..., 3] > 0, np.moveaxis(pixels[..., :3], -1, 0), np.float32(np.nan))


def _draw_place(encoder: SensorEncoder, store: ChipStore) -> tuple[str, bytes, int] | None:
    """Draw the footprint that the most sensors show, of equal ones with the most chips; None where none can be read.
    The colours are fitted to all features together, so equal colours mean equal features over sensors and dates."""
    footprints: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    columns = ["place", "cell", "sensor", "array", "array_row", "datetime", "valid_fraction"]
    for chip in store.index.select(columns).to_pylist():
        footprints[chip["place"], chip["cell"]].append(chip)
    (place, cell), chips = max(
        footprints.items(), key=lambda entry: (len({chip["sensor"] for chip in entry[1]}), len(entry[1]), entry[0])
    )
    drawn, maps, titles = [], [], []
    for chip in _spread(chips):
        try:
            maps.append(_features(encoder, store, chip))
        except AssignmentError:
            # A sensor that the trained ranges can't express has no features.
            continue
        dn, valid = store.read(chip["array"], [chip["array_row"]])
        sensor = store.array_sensor(chip["array"])
        colours = picture(decode(dn, sensor)[0], sensor, valid=None if valid is None else valid[0])
        drawn.append(np.moveaxis(colours, -1, 0).astype(np.float32))
        when = f"{chip['datetime']:%Y-%m-%d}" if chip["datetime"] else "no date"
        titles.append(f"{chip['sensor']}\n{when}")
    if not maps:
        return None
    known = np.concatenate([features.reshape(len(features), -1).T for features in maps])
    fitted = fit_pca_colours(known[np.isfinite(known).all(axis=1)])
    below = [pca_picture(features, fitted) for features in maps]
    png = pictures_png([*drawn, *below], [*titles, *[""] * len(below)], num_columns=len(drawn))
    return f"{place}, {cell}", png, len(drawn)


def _spread(chips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose up to `_COLUMNS` chips: every sensor, its dates evenly spread, those with the most data first."""
    by_sensor: dict[str, list[dict[str, Any]]] = defaultdict(list)
    fullest = max(chip["valid_fraction"] for chip in chips)
    for chip in sorted(chips, key=lambda chip: (chip["datetime"] is None, str(chip["datetime"]), chip["array_row"])):
        if chip["valid_fraction"] >= 0.9 * fullest or chip["sensor"] not in by_sensor:
            by_sensor[chip["sensor"]].append(chip)
    each = max(1, _COLUMNS // len(by_sensor))
    chosen = []
    for mine in by_sensor.values():
        positions = np.linspace(0, len(mine) - 1, min(each, len(mine))).round().astype(int)
        chosen += [mine[position] for position in np.unique(positions)]
    return chosen[:_COLUMNS]


def _features(encoder: SensorEncoder, store: ChipStore, chip: dict[str, Any]) -> Float[Array, "width row col"]:
    sensor = store.array_sensor(chip["array"])
    spec = encoder.input_spec(sensor, statistics=store.statistics[sensor.name])
    size = _PATCHES * encoder.config.patch_size
    batch = chip_batch(store, chip["array"], np.array([chip["array_row"]]), spec, img_size=size)
    output = encoder.encode_batch(batch, precision=quicker_precision(torch.device("cpu")))
    return np.asarray(feature_maps(output)[0])
