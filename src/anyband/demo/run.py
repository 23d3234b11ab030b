"""The main job from start to end."""

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
from anyband.data.manifest import ImageEntry, read_manifest
from anyband.data.prepare import PrepareOptions, PrepareReport, PrepareRun, prepare
from anyband.data.store import ChipStore
from anyband.encode.encoder import Pool, SensorEncoder, feature_maps, has_bf16, load_encoder, pooled, quicker_precision
from anyband.encode.store import chip_batch, common_footprints, store_features
from anyband.errors import AnybandError, AssignmentError, InputError, ManifestError, OutputError, StoreError
from anyband.evaluate.baselines import band_means
from anyband.evaluate.knn import NUM_NEIGHBOURS, knn_scores
from anyband.evaluate.metrics import LabelledFeatures, Score, score_predictions
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, TransferRecipe
from anyband.evaluate.results import ResultRow, result_rows
from anyband.evaluate.run import RunOptions, evaluate
from anyband.files import check_writable, whole_file
from anyband.labelled.open import open_task_data
from anyband.labelled.samples import DataSpec
from anyband.pretrain.loop import pretrain
from anyband.pretrain.recipe import PretrainRecipe, load_recipe
from anyband.rasters.reader import open_raster
from anyband.report.maps import fit_pca_colours, pca_picture, pictures_png
from anyband.scenes.embed import EmbedOptions, EmbedReport, embed_scene, scene_statistics
from anyband.sensors.sensor import BandStatistics, Sensor

__all__ = [
    "KINDS",
    "POOL",
    "SIMULATED_PAIRS",
    "UNSEEN_SENSOR",
    "Archive",
    "DemoOptions",
    "DemoResult",
    "PlacePictures",
    "PlaceScores",
    "SceneMaps",
    "draw_place",
    "make_archive",
    "map_scene",
    "run_demo",
    "score_places",
]

# Source: SMARTIES (arXiv 2506.19585), section 4.1, pairs Sentinel-2 with Sentinel-1 and with sub-metre RGB.
SIMULATED_PAIRS = (("sentinel2-l2a", "sentinel1-grd"), ("maxar-rgb", "sentinel2-l2a"))
"""Pairs of sensors that the simulated archive trains on."""

UNSEEN_SENSOR = "landsat8-oli-tirs-l2"
"""Sensor of the simulated archive that training never sees; it has thermal bands."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo does. The defaults fit two cores and a few minutes."""

    images: Path | None = None
    """Manifest of the user's own images; None: simulated landscapes."""
    num_places: int = 480
    """Simulated places."""
    steps: int = 700
    """Training steps."""
    batch_size: int = 32
    """Pairs a step."""
    set_steps: int = 250
    """Training steps of the second network, on sets of images."""
    set_batch_size: int = 24
    """Sets a step."""
    chip_px: int | None = None
    """Side of a footprint in pixels of its finest image; None: as `prepare` chooses."""
    labelled: Path | None = None
    """Labelled images to score on (class folders or a table), for the user's own images."""
    labelled_sensor: str | None = None
    """Sensor of the labelled images."""
    seed: int = 0
    """Of everything."""
    workers: int = 2
    """Processes that render and prepare."""
    shown: bool = True
    """Whether to show progress."""

    def __post_init__(self) -> None:
        for name in ("num_places", "steps", "batch_size", "set_steps", "set_batch_size", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, found {getattr(self, name)}")
        if (self.labelled is None) != (self.labelled_sensor is None):
            raise InputError("labelled images need a sensor, and a sensor needs images: give both, or neither")
        if self.labelled is not None and self.images is None:
            raise InputError("labelled images go with your own images; the simulated archive has labels of its own")


# chosen: 36 × 36 patches make a map, and a few seconds of rendering and encoding.
_SCENE_SIDE_M = 5_760.0
_SCENE_SENSOR = "sentinel2-l2a"
# chosen: two dates are the fewest that make sets of dates, and images are what the demo's time goes to.
_NUM_DATES = 2
# chosen: another seed than the archive's, so the scene is none of its places; by default towns, a lake, a river.
_SCENE_SEED_STEP = 1_000_035


@dataclass(frozen=True, kw_only=True)
class Archive:
    """The images of a demo."""

    entries: tuple[ImageEntry, ...]
    """Images to prepare."""
    scene: ImageEntry
    """Image to embed whole."""
    labels: dict[str, str]
    """Place → majority class; empty where nothing is known."""
    held_out: tuple[str, ...]
    """Sensors that training does not see."""
    preview: bytes | None
    """Picture of some places, PNG; None: there is none."""


def make_archive(out: Path, options: DemoOptions) -> Archive:
    """Simulate the archive below `out`, or read the user's manifest. What is there already is kept.

    Raises:
        ManifestError: the manifest is wrong, or no image of it can be read.
    """
    return _simulated(out, options) if options.images is None else _own(options.images)


def _simulated(out: Path, options: DemoOptions) -> Archive:
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
    return Archive(
        entries=tuple(read_manifest(images / "manifest.csv")),
        scene=read_manifest(scene / "manifest.csv")[0],
        labels=_labels(images / "labels.csv"),
        held_out=(UNSEEN_SENSOR,),
        preview=preview.read_bytes(),
    )


def _own(manifest: Path) -> Archive:
    entries = read_manifest(manifest)
    return Archive(entries=tuple(entries), scene=_largest(entries, manifest), labels={}, held_out=(), preview=None)


def _largest(entries: Sequence[ImageEntry], manifest: Path) -> ImageEntry:
    """Find the image with the most pixels among those that can be opened; of equal ones the first."""
    from anyband.rasters.reader import open_raster

    sizes: dict[int, int] = {}
    for number, entry in enumerate(entries):
        try:
            with open_raster(entry.source, entry.sensor) as reader:
                sizes[number] = reader.grid.height * reader.grid.width
        except AnybandError:
            # `prepare` reports what can't be read, with its reason.
            continue
    if not sizes:
        raise ManifestError(f"none of the {len(entries)} images of '{manifest}' can be read")
    return entries[max(sizes, key=lambda number: (sizes[number], -number))]


def _labels(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["place"]: row["label"] for row in csv.DictReader(file)}


Footprints = Sequence[tuple[str, str]]
"""(place, split) of each footprint."""

KINDS = ("pre-trained", "untrained", "band means")
"""What is compared: the encoder, the same one with its first weights, and mean and deviation of each band."""

POOL: Pool = "mean"
"""chosen: after minutes of training the mean of the patches tells more than CLS; docs/log.md has both."""


@dataclass(frozen=True, kw_only=True)
class PlaceScores:
    """Scores of one choice of sensors."""

    sensors: tuple[str, ...]
    """Sensors whose features were put side by side."""
    unseen: bool
    """Whether training never saw one of them."""
    scores: dict[str, Score]
    """Kind of features → accuracy, for each of `KINDS`."""
    num_train: int
    """Chips that vote."""
    num_test: int
    """Chips that are scored."""
    k: int
    """Neighbours that vote: the paper's 20, or all where there are fewer."""
    notes: tuple[str, ...]
    """How bands were read where they are not exactly known."""


def score_places(
    encoder: SensorEncoder,
    store: ChipStore,
    labels: Mapping[str, str],
    choices: Sequence[tuple[str, ...]],
    *,
    seed: int,
) -> list[PlaceScores]:
    """Score choices of sensors on the test places; training places vote.

    Args:
        encoder: pre-trained.
        store: with statistics; every sensor has one array.
        labels: place → class.
        choices: sensors whose features are put side by side, each of unit length.
        seed: of the untrained weights and the bootstrap.

    Returns:
        One entry for each choice; none where no class has both training and test places.
    """
    arrays = {sensor: _array_of(store, sensor) for choice in choices for sensor in choice}
    footprints, rows = common_footprints(store, tuple(arrays.values()))
    # Classes too rare to have training and test places would score 0 whatever the features are.
    wanted = _classes_in_both(footprints, labels)
    if not wanted:
        return []
    num_train, num_test = (_count(footprints, labels, wanted, split) for split in ("train", "test"))
    k = min(NUM_NEIGHBOURS, num_train)
    features = {sensor: _features(encoder, store, array, rows[array], seed=seed) for sensor, array in arrays.items()}
    trained_on = set(encoder.checkpoint.sensors)
    return [
        PlaceScores(
            sensors=choice,
            unseen=not trained_on.issuperset(choice),
            scores={
                kind: _accuracy(
                    _parts([features[sensor][kind] for sensor in choice], footprints, labels, wanted), k=k, seed=seed
                )
                for kind in KINDS
            },
            num_train=num_train,
            num_test=num_test,
            k=k,
            notes=tuple(note for sensor in choice for note in _notes(encoder, store, arrays[sensor])),
        )
        for choice in choices
    ]


def _accuracy(parts: Mapping[str, LabelledFeatures], *, k: int, seed: int) -> Score:
    votes = knn_scores(parts["train"], parts["test"], k=k)
    return score_predictions(parts["test"].labels, votes, seed=seed)[0]


def _array_of(store: ChipStore, sensor: str) -> str:
    found = [name for name, info in store.arrays.items() if info.sensor == sensor]
    if not found:
        raise StoreError(f"store '{store.path}' has no chips of sensor '{sensor}' ({', '.join(store.sensors)})")
    return found[0]


def _classes_in_both(footprints: Footprints, labels: Mapping[str, str]) -> tuple[str, ...]:
    seen = {split: {labels[place] for place, part in footprints if part == split} for split in ("train", "test")}
    return tuple(sorted(seen["train"] & seen["test"]))


def _statistics(store: ChipStore, array: str) -> Mapping[str, BandStatistics]:
    return store.statistics[store.arrays[array].sensor]


def _features(
    encoder: SensorEncoder, store: ChipStore, array: str, rows: Array, *, seed: int
) -> dict[str, Float[Array, "sample width"]]:
    untrained, precision = encoder.untrained(seed=seed), quicker_precision(torch.device("cpu"))
    makers = {
        "pre-trained": lambda batch: pooled(encoder.encode_batch(batch, precision=precision), POOL),
        "untrained": lambda batch: pooled(untrained.encode_batch(batch, precision=precision), POOL),
        "band means": band_means,
    }
    made = store_features(makers, encoder, store, array, rows, statistics=_statistics(store, array))
    return {kind: _unit_length(made[kind]) for kind in KINDS}


def _unit_length(features: Float[Array, "sample width"]) -> Float[Array, "sample width"]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Float[Array, "sample width"] = features / np.maximum(length, np.finfo(np.float32).tiny)
    return scaled


def _chosen(footprints: Footprints, labels: Mapping[str, str], wanted: Sequence[str], split: str) -> Array:
    return np.array([part == split and labels[place] in wanted for place, part in footprints], dtype=bool)


def _count(footprints: Footprints, labels: Mapping[str, str], wanted: Sequence[str], split: str) -> int:
    return int(_chosen(footprints, labels, wanted, split).sum())


def _parts(
    features: Sequence[Float[Array, "sample _"]],
    footprints: Footprints,
    labels: Mapping[str, str],
    wanted: tuple[str, ...],
) -> dict[str, LabelledFeatures]:
    joined = np.concatenate(features, axis=1)
    parts = {}
    for split in ("train", "test"):
        chosen = _chosen(footprints, labels, wanted, split)
        names = [labels[place] for (place, _), keep in zip(footprints, chosen, strict=True) if keep]
        numbers = np.array([wanted.index(name) for name in names], dtype=np.int64)
        parts[split] = LabelledFeatures(features=joined[chosen], labels=numbers, classes=wanted)
    return parts


def _notes(encoder: SensorEncoder, store: ChipStore, array: str) -> tuple[str, ...]:
    spec = encoder.input_spec(store.array_sensor(array), statistics=_statistics(store, array))
    return tuple(spec.assignment.report().splitlines())


# chosen: as many pictures as fit the page's width, and dates as show the seasons.
_COLUMNS = 8
# chosen: 14 × 14 patches, over twice the training size; positions are computed for any grid.
_PATCHES = 14


@dataclass(frozen=True, kw_only=True)
class PlacePictures:
    """Chips of one footprint above the principal components of their features."""

    name: str
    """Place and cell."""
    png: bytes
    """The pictures."""
    num_chips: int
    """How many are drawn."""


def draw_place(encoder: SensorEncoder, store: ChipStore) -> PlacePictures | None:
    """Draw the footprint that the most sensors show, of equal ones the one with the most chips.

    The colours of the features are fitted to all of them together, so equal colours mean equal features over sensors
    and dates.

    Args:
        encoder: to use.
        store: with statistics.

    Returns:
        None where no sensor of the store can be read by the encoder.
    """
    (place, cell), chips = _richest(store)
    drawn, maps, titles = [], [], []
    for chip in _spread(chips):
        try:
            features = _features_one_place(encoder, store, chip)
        except AssignmentError:
            # A sensor that the trained ranges can't express has no features.
            continue
        maps.append(features)
        drawn.append(_colours(store, chip))
        when = f"{chip['datetime']:%Y-%m-%d}" if chip["datetime"] else "no date"
        titles.append(f"{chip['sensor']}\n{when}")
    if not maps:
        return None
    known = np.concatenate([features.reshape(len(features), -1).T for features in maps])
    colours = fit_pca_colours(known[np.isfinite(known).all(axis=1)])
    below = [pca_picture(features, colours) for features in maps]
    png = pictures_png([*drawn, *below], [*titles, *[""] * len(below)], num_columns=len(drawn))
    return PlacePictures(name=f"{place}, {cell}", png=png, num_chips=len(drawn))


def _richest(store: ChipStore) -> tuple[tuple[str, str], list[dict[str, Any]]]:
    names = ["place", "cell", "sensor", "array", "array_row", "datetime", "valid_fraction"]
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for chip in store.index.select(names).to_pylist():
        cells[chip["place"], chip["cell"]].append(chip)
    return max(cells.items(), key=lambda entry: (len({chip["sensor"] for chip in entry[1]}), len(entry[1]), entry[0]))


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
        positions = np.unique(np.linspace(0, len(mine) - 1, min(each, len(mine))).round().astype(int))
        chosen += [mine[position] for position in positions]
    return chosen[:_COLUMNS]


def _features_one_place(
    encoder: SensorEncoder, store: ChipStore, chip: dict[str, Any]
) -> Float[Array, "width row col"]:
    sensor = store.array_sensor(chip["array"])
    spec = encoder.input_spec(sensor, statistics=store.statistics[sensor.name])
    size = _PATCHES * encoder.config.patch_size
    batch = chip_batch(store, chip["array"], np.array([chip["array_row"]]), spec, img_size=size)
    output = encoder.encode_batch(batch, precision=quicker_precision(torch.device("cpu")))
    features: Float[Array, "width row col"] = feature_maps(output)[0].numpy()
    return features


def _colours(store: ChipStore, chip: dict[str, Any]) -> Float[Array, "3 row col"]:
    dn, valid = store.read(chip["array"], [chip["array_row"]])
    physical = decode(dn, store.array_sensor(chip["array"]))[0]
    seen = None if valid is None else valid[0]
    drawn = picture(physical, store.array_sensor(chip["array"]), valid=seen)
    return np.moveaxis(drawn, -1, 0).astype(np.float32)


# chosen: pixels of the longer side of a picture in the page.
_PICTURE_SIDE = 600


@dataclass(frozen=True, kw_only=True)
class SceneMaps:
    """A scene and its features."""

    name: str
    """Of the image, as the manifest has it."""
    report: EmbedReport
    """Where the features are."""
    picture: bytes
    """The scene in colour and its features beside it, PNG."""
    colours: str
    """What the colour picture shows."""


def map_scene(encoder: SensorEncoder, entry: ImageEntry, out: Path, *, shown: bool) -> SceneMaps:
    """Embed a scene whole, normalised with its own statistics, and draw it.

    Args:
        encoder: to use.
        entry: the scene, as a manifest declares it.
        out: GeoTIFF to write.
        shown: whether to show progress.
    """
    sensor, source = _declared(entry), replace(entry.source, encoding=None)
    statistics = scene_statistics(source, sensor, shown=shown)
    options = EmbedOptions(precision=quicker_precision(torch.device("cpu")), statistics=statistics, shown=shown)
    report = embed_scene(encoder, source, sensor, out, options)
    with open_raster(source, sensor) as reader:
        raster = reader.read()
    physical = decode(raster.dn, sensor)
    step = max(1, -(-max(raster.dn.shape[1:]) // _PICTURE_SIDE))
    colours = picture(physical[:, ::step, ::step], sensor, valid=raster.valid[:, ::step, ::step])
    title = composite(sensor).title
    titles = [f"{sensor.name}, {title}", "its features: first three principal components"]
    parts = [np.moveaxis(colours, -1, 0).astype(np.float32), _read_picture(report.picture)]
    return SceneMaps(name=entry.name, report=report, picture=pictures_png(parts, titles, num_columns=2), colours=title)


def _declared(entry: ImageEntry) -> Sensor:
    """Make the sensor whose default encoding is the one that the manifest declares for this image."""
    encodings = dict(entry.encoding)
    bands = tuple(replace(band, encodings=(("declared", encodings[band.name]),)) for band in entry.sensor.bands)
    return replace(entry.sensor, bands=bands, default_encoding="declared")


def _read_picture(path: Path) -> Float[Array, "3 row col"]:
    from PIL import Image

    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA"), dtype=np.float32) / 255
    colours = np.moveaxis(pixels[..., :3], -1, 0)
    return np.where(pixels[None, ..., 3] > 0, colours, np.float32(np.nan))


# chosen: many test places, so that the intervals of the scores are narrow; few that only choose a checkpoint.
_SIMULATED_FRACTIONS = (0.65, 0.05, 0.30)
_CHOICES = (
    ("sentinel2-l2a",),
    ("sentinel1-grd",),
    ("maxar-rgb",),
    ("sentinel2-l2a", "sentinel1-grd"),
    (UNSEEN_SENSOR,),
)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """All that a demo gave."""

    options: DemoOptions
    """What was asked."""
    archive: Archive
    """The images."""
    prepared: PrepareReport
    """Counts of the store, and what was skipped."""
    store: ChipStore
    """The store."""
    recipe: PretrainRecipe
    """What was trained."""
    run: Path
    """Folder of the run."""
    checkpoint: Path
    """The pre-trained model."""
    set_recipe: PretrainRecipe
    """What was trained on sets of images."""
    set_run: Path
    """Folder of that run."""
    places: tuple[PlaceScores, ...]
    """Scores on held-out places; empty without labels."""
    set_places: tuple[PlaceScores, ...]
    """Scores of the network of sets, each image by itself; empty without labels."""
    labelled: tuple[ResultRow, ...]
    """Scores on labelled images of the user; empty: none were given."""
    scene: SceneMaps
    """A whole scene."""
    place: PlacePictures | None
    """One footprint in several sensors and dates; None: no sensor of the store can be read."""
    seconds: dict[str, float]
    """Stage → wall-clock seconds."""


def run_demo(out: Path, options: DemoOptions) -> DemoResult:
    """Do the main job below a folder. Stages that are done already are kept, so a stopped demo goes on.

    Args:
        out: folder, made if it is missing.
        options: what to do.

    Returns:
        What each stage gave; `write_report` makes the page of it.

    Raises:
        OutputError: `out` can't be written, or holds a demo of other options.
        AnybandError: a stage can't do what it is asked.
    """
    check_writable(out)
    _check_same(out / "demo.json", options)
    clock = _Clock()
    archive = make_archive(out, options)
    clock.stage("images")
    prepared = _prepare(archive, out, options)
    store = ChipStore.open(out / "store")
    clock.stage("prepare")
    neighbours = _neighbours(options, store)
    recipe = _recipe(archive, options)
    trained = pretrain(recipe, data=store.path, out=out / "run", shown=options.shown)
    clock.stage("pre-train")
    set_recipe = _set_recipe(recipe, options)
    of_sets = pretrain(set_recipe, data=store.path, out=out / "run_sets", shown=options.shown)
    clock.stage("pre-train on sets")
    encoder = load_encoder(trained.checkpoint, out_of_span="drop")
    places, set_places = (
        _score(load_encoder(checkpoint, out_of_span="drop"), store, archive, seed=options.seed)
        for checkpoint in (trained.checkpoint, of_sets.checkpoint)
    )
    labelled = _score_labelled(trained.checkpoint, options, neighbours)
    clock.stage("evaluate")
    scene = map_scene(encoder, archive.scene, out / "features.tif", shown=options.shown)
    place = draw_place(encoder, store)
    clock.stage("embed")
    return DemoResult(
        options=options,
        archive=archive,
        prepared=prepared,
        store=store,
        recipe=recipe,
        run=out / "run",
        checkpoint=trained.checkpoint,
        set_recipe=set_recipe,
        set_run=out / "run_sets",
        places=places,
        set_places=set_places,
        labelled=labelled,
        scene=scene,
        place=place,
        seconds=clock.seconds,
    )


def _check_same(path: Path, options: DemoOptions) -> None:
    """See that what lies in the folder belongs to these options; stages that are done are taken as they are."""
    asked = {key: value for key, value in asdict(options).items() if key not in ("workers", "shown")}
    text = json.dumps(asked, indent=1, default=str) + "\n"
    if not path.exists():
        with whole_file(path) as beside:
            beside.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"'{path.parent}' holds a demo of other options ('{path}'); name another folder, or remove it"
        )


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def stage(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now


def _prepare(archive: Archive, out: Path, options: DemoOptions) -> PrepareReport:
    simulated = options.images is None
    settings = PrepareOptions(chip_px=options.chip_px, statistics=True, seed=options.seed)
    if simulated:
        settings = replace(settings, fractions=_SIMULATED_FRACTIONS)
    run = PrepareRun(workers=options.workers, shown=options.shown)
    return prepare(archive.entries, out / "store", settings, run)


def _precision() -> Literal["32-true", "bf16-mixed"]:
    """Choose what the device of the run computes without imitation."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if has_bf16(device) else "32-true"


def _recipe(archive: Archive, options: DemoOptions) -> PretrainRecipe:
    recipe = load_recipe("smarties_tiny")
    pairs = SIMULATED_PAIRS if options.images is None else recipe.data.pairs
    # Statistics of the store: the archive decides them, and they exist for every sensor in it.
    data = recipe.data.changed(pairs=pairs, held_out=archive.held_out, statistics="store")
    model = recipe.model.changed(out_of_span="drop")
    run = recipe.run.changed(panel_every_steps=options.steps, checkpoint_every_steps=max(1, options.steps // 4))
    optim = recipe.optim.changed(steps=options.steps, batch_size=options.batch_size, precision=_precision())
    return recipe.changed(seed=options.seed, data=data, model=model, optim=optim, run=run)


def _set_recipe(pairs: PretrainRecipe, options: DemoOptions) -> PretrainRecipe:
    """Take the recipe of sets, with the statistics and the sensors of the run on pairs."""
    recipe = load_recipe("unified_tiny")
    data = recipe.data.changed(held_out=pairs.data.held_out, statistics=pairs.data.statistics)
    every = options.set_steps
    run = recipe.run.changed(panel_every_steps=every, checkpoint_every_steps=max(1, every // 2))
    optim = recipe.optim.changed(steps=every, batch_size=options.set_batch_size, precision=_precision())
    model = recipe.model.changed(out_of_span="drop")
    return recipe.changed(seed=options.seed, data=data, model=model, optim=optim, run=run)


def _score(encoder: SensorEncoder, store: ChipStore, archive: Archive, *, seed: int) -> tuple[PlaceScores, ...]:
    if not archive.labels:
        return ()
    return tuple(score_places(encoder, store, archive.labels, _CHOICES, seed=seed))


def _neighbours(options: DemoOptions, store: ChipStore) -> KnnRecipe:
    """See before the training, which takes minutes, that the labelled images and their sensor are there.

    Returns:
        How many of them vote: the paper's 20, or all where there are fewer.
    """
    if options.labelled is None:
        return KnnRecipe()
    data = open_task_data(_labelled_data(options), seed=options.seed, sensors=store.sensors)
    return KnnRecipe(k=min(NUM_NEIGHBOURS, data.num_samples["train"]))


def _labelled_data(options: DemoOptions) -> DataSpec:
    assert options.labelled is not None
    assert options.labelled_sensor is not None
    return DataSpec(source=str(options.labelled), sensors=(options.labelled_sensor,))


def _score_labelled(checkpoint: Path, options: DemoOptions, neighbours: KnnRecipe) -> tuple[ResultRow, ...]:
    if options.labelled is None:
        return ()
    recipe = TransferRecipe(
        name="demo",
        data=_labelled_data(options),
        checkpoint=str(checkpoint),
        seed=options.seed,
        input=InputRecipe(precision=quicker_precision(torch.device("cpu")), statistics="data", out_of_span="drop"),
        knn=neighbours,
        compare=CompareRecipe(untrained=True, baseline=True),
    )
    context, results = evaluate(recipe, "knn", RunOptions(shown=options.shown))
    return tuple(result_rows(context, results))
