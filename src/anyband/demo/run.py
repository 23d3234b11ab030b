"""The main job: images → store → encoder → scores → maps → one report."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from anyband.data.prepare import PrepareOptions, PrepareReport, prepare
from anyband.data.prepare_options import PrepareRun
from anyband.data.store import ChipStore
from anyband.data.supervised.opening import open_task_data
from anyband.data.supervised.records import DataSpec
from anyband.demo.archive import Archive, make_archive
from anyband.demo.one_place import PlacePictures, draw_place
from anyband.demo.options import SIMULATED_PAIRS, UNSEEN_SENSOR, DemoOptions
from anyband.demo.scene import SceneMaps, map_scene
from anyband.demo.scoring import PlaceScores, score_places
from anyband.errors import OutputError
from anyband.tasks.features import SensorEncoder, load_encoder
from anyband.tasks.knn import KnnOptions
from anyband.tasks.precision import has_bf16, quicker_precision
from anyband.tasks.pretrain import pretrain
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.recipe_files import load_recipe
from anyband.tasks.transfer.recipe import CompareRecipe, InputRecipe, TransferRecipe
from anyband.tasks.transfer.result_records import ResultRow
from anyband.tasks.transfer.result_rows import result_rows
from anyband.tasks.transfer.run import RunOptions, evaluate
from anyband.whole_files import check_writable, whole_file

__all__ = ["DemoResult", "run_demo"]

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
    data = replace(recipe.data, pairs=pairs, held_out=archive.held_out, statistics="store")
    model = replace(recipe.model, out_of_span="drop")
    run = replace(recipe.run, panel_every_steps=options.steps, checkpoint_every_steps=max(1, options.steps // 4))
    optim = replace(recipe.optim, steps=options.steps, batch_size=options.batch_size, precision=_precision())
    return replace(recipe, seed=options.seed, data=data, model=model, optim=optim, run=run)


def _set_recipe(pairs: PretrainRecipe, options: DemoOptions) -> PretrainRecipe:
    """Take the recipe of sets, with the statistics and the sensors of the run on pairs."""
    recipe = load_recipe("unified_tiny")
    data = replace(recipe.data, held_out=pairs.data.held_out, statistics=pairs.data.statistics)
    every = options.set_steps
    run = replace(recipe.run, panel_every_steps=every, checkpoint_every_steps=max(1, every // 2))
    optim = replace(recipe.optim, steps=every, batch_size=options.set_batch_size, precision=_precision())
    model = replace(recipe.model, out_of_span="drop")
    return replace(recipe, seed=options.seed, data=data, model=model, optim=optim, run=run)


def _score(encoder: SensorEncoder, store: ChipStore, archive: Archive, *, seed: int) -> tuple[PlaceScores, ...]:
    if not archive.labels:
        return ()
    return tuple(score_places(encoder, store, archive.labels, _CHOICES, seed=seed))


def _neighbours(options: DemoOptions, store: ChipStore) -> KnnOptions:
    """See before the training, which takes minutes, that the labelled images and their sensor are there.

    Returns:
        How many of them vote: the paper's 20, or all where there are fewer.
    """
    if options.labelled is None:
        return KnnOptions()
    data = open_task_data(_labelled_data(options), seed=options.seed, sensors=store.sensors)
    return KnnOptions(k=min(KnnOptions.k, data.num_samples["train"]))


def _labelled_data(options: DemoOptions) -> DataSpec:
    assert options.labelled is not None
    assert options.labelled_sensor is not None
    return DataSpec(source=str(options.labelled), sensors=(options.labelled_sensor,))


def _score_labelled(checkpoint: Path, options: DemoOptions, neighbours: KnnOptions) -> tuple[ResultRow, ...]:
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
    setting, outcomes = evaluate(recipe, "knn", RunOptions(shown=options.shown))
    return tuple(result_rows(setting, outcomes))
