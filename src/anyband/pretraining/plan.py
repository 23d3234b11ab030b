"""What a run is: its samples, the network it starts from, and its folder, in which all appears whole or not at all."""

import contextlib
import dataclasses
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from torch import Tensor

from anyband.data.image_sets import find_pairs, find_sets
from anyband.data.loader import shard_shuffle
from anyband.data.store import ChipStore, Split
from anyband.encode.input_spec import InputSpec
from anyband.errors import CheckpointError, OutputError, RecipeError, StoreError, agreed, counted
from anyband.evaluate.fitting import with_new_ranges
from anyband.files import HUB_FILE, RUN_FILE, whole_directory, whole_file, yaml_text
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_weights,
    save_checkpoint,
    state_of,
    to_published,
    write_weights,
)
from anyband.models.mae_start import start_from_mae
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.pretraining.batches import (
    NUM_STEM_BANDS,
    Samples,
    StagedSampler,
    assignment_rules,
    input_specs,
    step_sampler,
)
from anyband.pretraining.recipe import PretrainRecipe, recipe_differences
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import STEM, RangeTable, load_ranges, ranges_from_sensors, stem_ranges
from anyband.sensors.sensor import Sensor, sensor_to_dict
from anyband.training.steps import Schedule

__all__ = [
    "ENCODER_FILE",
    "LOCK_FILE",
    "MODEL_FILE",
    "OPTIMIZER_FILE",
    "PANELS",
    "Progress",
    "RunPlan",
    "begin_folder",
    "check_folder",
    "find_samples",
    "network_config",
    "plan_run",
    "read_newest",
    "save_step",
    "saved_steps",
]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A recipe on a store."""

    recipe: PretrainRecipe
    store: ChipStore
    samples: Samples
    val_samples: Samples | None
    """They choose the best checkpoint; None: there are none."""
    config: AutoencoderConfig
    start: Checkpoint | None
    """None: weights are drawn from the seed."""
    start_notes: tuple[str, ...] = ()
    ranges: RangeTable
    """Those that get weights."""
    inputs: dict[str, InputSpec]
    """How each array of these samples is read."""
    steps_per_epoch: int
    total_steps: int
    schedule: Schedule

    def checkpoint(self, weights: Mapping[str, Tensor], *, step: int) -> Checkpoint:
        """Join whole weights with all that is needed to use them."""
        # A sensor may have several arrays, some with a part of its bands; the one with the most speaks for it.
        specs = sorted(self.inputs.values(), key=lambda spec: len(spec.sensor.bands))
        by_sensor = {spec.sensor.name: spec for spec in specs}
        return Checkpoint(
            config=self.config,
            state=to_published(weights),
            ranges=replace(self.ranges, untrained=tuple(self._untrained())),
            normalisations={name: spec.statistics.to_dict() for name, spec in by_sensor.items()},
            sensors={
                name: sensor_to_dict(self.store.sensors[name].select(spec.sensor.band_names))
                for name, spec in by_sensor.items()
            },
            recipe=self.recipe.model_dump(mode="json"),
            step=step,
        )

    def notes(self) -> list[str]:
        """Say what a reader of the run should know before it starts: bands not exact, ranges not trained, samples."""
        not_exact = [report for spec in self.inputs.values() if (report := spec.assignment.report())]
        optim = self.recipe.optim
        drawn = self.samples.notes(batch_size=optim.batch_size // (optim.accumulate if optim.mix_kinds else 1))
        return [*self.start_notes, *not_exact, *self._ranges_not_trained(), *drawn]

    def _untrained(self) -> list[str]:
        """List the ranges that no sensor of these samples meets, and that were not trained before."""
        used = np.any([spec.assignment.mixing.any(axis=0) for spec in self.inputs.values()], axis=0)
        idle = [name for name, is_used in zip(self.ranges.range_names, used, strict=True) if not is_used]
        return [name for name in idle if self.start is None or name in self.start.ranges.untrained]

    def _ranges_not_trained(self) -> list[str]:
        idle, noun = self._untrained(), "pairs" if self.recipe.data.sets is None else "sets"
        unseen = (
            f"{len(idle)} of {counted(len(self.ranges.ranges), 'range')} {agreed(len(idle), 'are')} seen by no "
            f"sensor of these {noun} and {agreed(len(idle), 'learn')} nothing"
        )
        return [f"{unseen} ({', '.join(idle)}); `model.ranges=from_data` leaves them out"] if idle else []


def plan_run(recipe: PretrainRecipe, store: ChipStore) -> RunPlan:
    """Work out a run. `StoreError`: the store has no such pairs or sets; `AssignmentError`: a band that the ranges
    can't express; `CatalogueError`: a sensor is unknown, or a band has no statistics; `CheckpointError`: the checkpoint
    to start from is missing, or holds another network."""
    optim = recipe.optim
    samples = find_samples(recipe, store, split=recipe.data.split)
    samples = replace(samples, stages=recipe.data.stages or (), steps=optim.steps)
    sampler = step_sampler(samples, recipe)
    steps_per_epoch = sampler.steps_per_epoch
    if optim.mix_kinds:
        steps_per_epoch = max(1, round(steps_per_epoch / optim.accumulate))
    if isinstance(sampler, StagedSampler):
        total_steps, warmup_share = sampler.total_steps, sampler.share_until(optim.warmup_epochs)
    else:
        total_steps = optim.steps or optim.epochs * steps_per_epoch
        warmup_share = optim.warmup_epochs / optim.epochs
    val_samples = None
    if recipe.run.val_batches and recipe.data.val_split in store.index.column("split").unique().to_pylist():
        # Places of that split may show one sensor only.
        with contextlib.suppress(StoreError):
            val_samples = find_samples(recipe, store, split=recipe.data.val_split)
    start, ranges, start_notes = _start(recipe, [store.array_sensor(name) for name in samples.sets.arrays])
    arrays = dict.fromkeys(name for found in (samples, val_samples) if found for name in found.sets.arrays)
    return RunPlan(
        recipe=recipe,
        store=store,
        samples=samples,
        val_samples=val_samples,
        config=network_config(recipe, num_ranges=len(ranges.ranges)),
        start=start,
        start_notes=start_notes,
        ranges=ranges,
        # What was not trained before now is.
        inputs=input_specs(store, arrays, ranges=replace(ranges, untrained=()), recipe=recipe),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        schedule=Schedule.of_batch(
            base_lr=optim.base_lr, batch_size=optim.batch_size, warmup_share=warmup_share, total_steps=total_steps
        ),
    )


def find_samples(recipe: PretrainRecipe, store: ChipStore, *, split: Split) -> Samples:
    """Find the pairs or sets of a split that a recipe asks for. `StoreError`: the store has none; `CatalogueError`: a
    sensor is unknown."""

    def known(name: str) -> str:
        """Resolve an alias; a name that neither the store nor the catalogue knows is an error, never ignored."""
        return name if name in store.sensors else get_sensor(name).name

    data = recipe.data
    held_out = {known(name) for name in data.held_out}
    seen = [name for name in store.sensors if name not in held_out]
    if data.sets is not None:
        if not seen:
            raise StoreError(
                f"data.held_out names all sensors of store '{store.path}' ({', '.join(store.sensors)}); leave one to "
                "train on"
            )
        sets = find_sets(
            store,
            size=data.sets.size,
            gap_days=data.sets.gap_days,
            needs_two_sources=data.sets.needs_two_sources,
            sensors=seen,
            split=split,
        )
    elif data.pairs != "any":
        sets = find_pairs(store, sensors=[(known(a), known(b)) for a, b in data.pairs], split=split)
    elif len(seen) < 2:
        one = next(iter((*seen, *store.sensors)), "NAME")
        raise StoreError(
            f"store '{store.path}' has {counted(len(store.sensors), 'sensor')} ({', '.join(store.sensors)}), of which "
            f"{len(seen)} may be trained on; pairs need two: prepare images of another sensor, or pair dates of one by "
            f"data.pairs=[[{one},{one}]]"
        )
    else:
        sets = find_pairs(store, sensors=list(combinations(seen, 2)), split=split)
    shuffle = None
    if data.shuffle == "shards":
        shuffle = shard_shuffle(store, sets.chips[sets.bounds[:-1]], open_shards=data.open_shards)
    return Samples(store, sets, shuffle=shuffle)


def _start(recipe: PretrainRecipe, sensors: Sequence[Sensor]) -> tuple[Checkpoint | None, RangeTable, tuple[str, ...]]:
    """Load the first weights of a run (None: drawn from the seed), with the ranges and what is to be said of the start.

    With `ranges: start_and_new`, every band that the ranges of `start` don't know exactly gets one of its own, which
    starts as the mixture that interpolation gives: the first loss is the same as without it. What the masked
    autoencoder of `start_mae` lacks is drawn from the seed. `RecipeError`: `start` and `ranges` do not go together;
    `CheckpointError`: no such file, a pickle, or another network or stem, with every difference; `AssignmentError`: a
    band that the ranges of `start` can't express.
    """
    model = recipe.model
    if (model.start is not None) != (model.ranges in ("start", "start_and_new")):
        raise RecipeError(
            f"model.start is {model.start or 'null'} and model.ranges '{model.ranges}'; a run that starts from a "
            "checkpoint keeps its ranges (`start`, or `start_and_new` for ranges of new bands), any other run has "
            "ranges of its own"
        )
    if model.start is not None:
        return (start := _load_start(recipe, model.start, sensors)), start.ranges, ()
    if model.stem == "triplet":
        ranges = stem_ranges()
    else:
        ranges = ranges_from_sensors(sensors) if model.ranges == "from_data" else load_ranges(model.ranges)
    if model.start_mae is None:
        return None, ranges, ()
    config = network_config(recipe, num_ranges=len(ranges.ranges))
    fresh = state_of(Autoencoder(config, seed=recipe.seed))
    state, notes = start_from_mae(model.start_mae, fresh, config=config, ranges=ranges)
    return Checkpoint(config=config, state=state, ranges=ranges), ranges, notes


# These may differ: they change how a network is trained, not what its weights are.
_FREE = ("drop_path", "mask_ratio", "mixup_ratio", "decode_ratio", "mixup", "norm_pix_loss", "target_variance")


def _load_start(recipe: PretrainRecipe, where: str, sensors: Sequence[Sensor]) -> Checkpoint:
    """Load a checkpoint and see that it fits the network of a recipe; else every difference is named."""
    start = load_checkpoint(where)
    stem = "triplet" if start.ranges.name == STEM else "spectral"
    if stem != recipe.model.stem:
        raise CheckpointError(
            f"'{where}' was trained with model.stem '{stem}', the recipe has '{recipe.model.stem}'; take the "
            "checkpoint's stem into the recipe"
        )
    if recipe.model.ranges == "start_and_new":
        start = with_new_ranges(start, sensors, assignment_rules(recipe))
    config = network_config(recipe, num_ranges=len(start.ranges.ranges))
    requested, found = (
        {**asdict(one.encoder), **asdict(one.decoder), "levels": one.levels} for one in (config, start.config)
    )
    different = [
        f"{key} {requested[key]}, not {found[key]}"
        for key in requested
        if key not in _FREE and requested[key] != found[key]
    ]
    if different:
        raise CheckpointError(
            f"'{where}' holds another network than the recipe's: {'; '.join(different)} (the recipe's number first); "
            "take the checkpoint's numbers into the recipe"
        )
    return start


def network_config(recipe: PretrainRecipe, *, num_ranges: int) -> AutoencoderConfig:
    """Tell the network that a recipe describes, for so many ranges."""
    model = recipe.model
    return AutoencoderConfig(
        encoder=EncoderConfig(
            img_size=model.img_size,
            patch_size=model.patch_size,
            embed_dim=model.embed_dim,
            depth=model.depth,
            num_heads=model.num_heads,
            mlp_ratio=model.mlp_ratio,
            num_ranges=num_ranges,
            # A token of a stem is the plain sum over its three bands.
            max_bands=NUM_STEM_BANDS if model.stem == "triplet" else EncoderConfig.max_bands,
            drop_path=model.drop_path,
            encodings=model.encodings,
        ),
        decoder=DecoderConfig(
            decoder_embed_dim=model.decoder_embed_dim,
            decoder_depth=model.decoder_depth,
            decoder_num_heads=model.decoder_num_heads,
        ),
        mask_ratio=model.mask_ratio,
        mixup_ratio=model.mixup_ratio,
        mixup=model.mixup,
        decode_ratio=model.decode_ratio,
        norm_pix_loss=model.norm_pix_loss,
        target_variance=model.target_variance,
        images="pair" if recipe.data.sets is None else "set",
        masking=model.masking,
        sequence=model.sequence,
        levels=model.levels,
    )


ENCODER_FILE, PANELS, _CHECKPOINTS = RUN_FILE, "panels", "checkpoints"
# Killed before a file was whole, a run leaves these.
_LEFTOVERS = (".*.partial.*", ".write-test-*")
LOCK_FILE = ".lock"
"""The process of a run holds it."""
MODEL_FILE, OPTIMIZER_FILE = HUB_FILE, "optimizer.safetensors"
_STATE_FILE, _RUN_FILE = "state.json", "run.json"
_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is; all that a resumed run needs beside weights and optimiser."""

    step: int
    """Steps done."""
    smoothed_loss: float | None = None
    """None before the first step."""
    best_score: float | None = None
    """Lowest of a checkpoint so far; None before the first."""
    best_step: int | None = None

    def scored(self, score: float | None) -> "Progress":
        """Take in the score of a checkpoint at this step; lower is better, the earlier wins a tie."""
        if score is None or (self.best_score is not None and score >= self.best_score):
            return self
        return replace(self, best_score=score, best_step=self.step)


def check_folder(out: Path, identity: Mapping[str, Any], *, resume: bool) -> bool:
    """Tell whether a run with this identity is in a folder already. Writes nothing. `identity` is `recipe` as plain
    values, `store` (a fingerprint) and others that must be equal. `OutputError`: the folder holds another run,
    something else, or this run where `resume` is off."""
    file = out / _RUN_FILE
    if not file.is_file():
        # Killed before its first file was whole, a run leaves only unfinished ones.
        if out.exists() and (
            not out.is_dir()
            or set(out.iterdir()) - {file for name in (*_LEFTOVERS, LOCK_FILE) for file in out.glob(name)}
        ):
            raise OutputError(f"'{out}' exists and is not the folder of a run; name another output")
        return False
    if not resume:
        raise OutputError(f"'{out}' holds a run already; resume it or name another output")
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(theirs, dict) or not isinstance(theirs.get("recipe"), dict):
            raise ValueError("it does not say what the run is")
    except (OSError, ValueError, RecursionError) as problem:
        raise OutputError(f"'{file}' can't be read ({problem}); name another output") from problem
    changed = [key for key in identity if key not in ("recipe", "version") and identity[key] != theirs.get(key)]
    differences = [
        *recipe_differences(theirs.get("recipe", {}), identity["recipe"]),
        *(f"{key}: {theirs.get(key)}, not {identity[key]}" for key in changed),
    ]
    if differences:
        raise OutputError(
            f"'{out}' holds another run ({'; '.join(differences)}); use its recipe and store, or name another output"
        )
    return True


def begin_folder(out: Path, identity: Mapping[str, Any]) -> None:
    """Write down what a run is, first what tells it from any other; clear away what a killed run left unfinished."""
    for folder in (out, out / _CHECKPOINTS, out / PANELS):
        for leftover in [file for name in _LEFTOVERS for file in folder.glob(name)]:
            _remove(leftover)
    texts = {_RUN_FILE: json.dumps(identity, indent=1) + "\n", "recipe.yaml": yaml_text(identity["recipe"])}
    for name, text in texts.items():
        with whole_file(out / name) as beside:
            beside.write_text(text, encoding="utf-8")


def saved_steps(out: Path) -> list[tuple[Path, Progress]]:
    """List the checkpoints of a run, oldest first. One with a missing or short file, or a damaged state, does not
    count; whether weights are damaged is seen when they are read."""
    found = []
    for folder in sorted((out / _CHECKPOINTS).glob("step_*")):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            state = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
            is_whole = state.pop("checksum", None) in (None, _state_checksum(state))
            if is_whole and all((folder / name).stat().st_size == size for name, size in state["sizes"].items()):
                found.append((folder, TypeAdapter(Progress).validate_python(state["progress"])))
    return found


def _state_checksum(state: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(state).encode()):08x}"


def read_newest(out: Path) -> tuple[tuple[Progress, Checkpoint, dict[str, Tensor]] | None, list[str]]:
    """Read progress, model and optimiser of the newest checkpoint of a run that is whole (None: it has saved none), and
    say what is wrong with newer ones. `OutputError` where all are damaged."""
    known, problems = dict(saved_steps(out)), list[str]()
    for folder in sorted((out / _CHECKPOINTS).glob("step_*"), reverse=True):
        try:
            if folder not in known:
                raise CheckpointError(f"'{folder}' lacks a file, or one is cut short or damaged")
            model, (optimizer, _) = load_checkpoint(folder / MODEL_FILE), read_weights(folder / OPTIMIZER_FILE)
            return (known[folder], model, optimizer), problems
        except CheckpointError as problem:
            problems.append(str(problem))
    if problems:
        raise OutputError(f"no checkpoint of run '{out}' can be used; the newest: {problems[0]}; or name another --out")
    return None, []


def save_step(out: Path, progress: Progress, optimizer: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Write a checkpoint, then drop those that are neither among the last two nor the best. `OutputError` where there
    is no room or permission; earlier checkpoints are as they were."""
    folder = out / _CHECKPOINTS / f"step_{progress.step:08d}"
    if folder.exists():
        # Left by an earlier try whose files did not survive; a whole one is never written twice.
        _remove(folder)
    with whole_directory(folder) as beside:
        save_checkpoint(beside / MODEL_FILE, checkpoint)
        write_weights(beside / OPTIMIZER_FILE, optimizer, {})
        sizes = {file.name: file.stat().st_size for file in beside.iterdir()}
        state: dict[str, Any] = {"progress": dataclasses.asdict(progress), "sizes": sizes}
        state["checksum"] = _state_checksum(state)
        (beside / _STATE_FILE).write_text(json.dumps(state), encoding="utf-8")
    for old, done in saved_steps(out)[:-_KEPT]:
        if done.step != progress.best_step:
            _remove(old)


def _remove(path: Path) -> None:
    """Take a folder out of sight in one move before its files go, so that no half of it is ever seen."""
    if not path.is_dir():
        return path.unlink(missing_ok=True)
    hidden = path if path.name.startswith(".") else path.with_name(f".removed.partial.{path.name}")
    with contextlib.suppress(OSError):
        path.replace(hidden)
    return shutil.rmtree(hidden, ignore_errors=True)
