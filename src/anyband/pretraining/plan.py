"""The plan of a run: samples, stages, the network it starts from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, combinations, pairwise
from typing import Any

import numpy as np
from torch import Tensor

from anyband.arrays import Array, Bool, Int
from anyband.data.image_sets import ImageSets, check_sensors, find_pairs, find_sets
from anyband.data.loader import SetDraw, SetSampler, ShardShuffle, shard_shuffle
from anyband.data.store import ChipStore, Split
from anyband.errors import CheckpointError, RecipeError, StoreError
from anyband.evaluate.fitting import with_new_ranges
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, load_checkpoint, state_of, to_published
from anyband.models.mae_start import load_mae, start_from_mae
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.pretraining.batches import NUM_STEM_BANDS, ArrayInput, Samples, array_inputs
from anyband.pretraining.recipe import ModelRecipe, PretrainRecipe, StageRecipe, recipe_to_dict
from anyband.randomness import generator
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.ranges import RangeTable, is_stem, load_ranges, ranges_from_sensors, stem_ranges
from anyband.sensors.sensor import Sensor, sensor_to_dict
from anyband.training.steps import Schedule

__all__ = [
    "RunPlan",
    "StagedSampler",
    "StagedSamples",
    "check_same_network",
    "find_samples",
    "in_stages",
    "load_mae_start",
    "load_start",
    "network_config",
    "plan_run",
    "run_length",
    "stage_footprints",
]

# These may differ: they change how a network is trained, not what its weights are.
_FREE = ("drop_path", "mask_ratio", "mixup_ratio", "decode_ratio", "mixup", "norm_pix_loss", "target_variance")


def load_start(model: ModelRecipe, sensors: Sequence[Sensor]) -> Checkpoint | None:
    """Load the checkpoint that a run starts from; None where the recipe names none.

    With `ranges: start_and_new`, every band that its ranges don't know exactly gets one of its own, which starts as the
    mixture that interpolation gives: the first loss is the same as without it.

    Raises:
        RecipeError: `start` and `ranges` do not go together.
        CheckpointError: no such checkpoint, or one with another stem than the recipe's.
        AssignmentError: a band that its ranges can't express.
    """
    keeps_ranges = model.ranges in ("start", "start_and_new")
    if (model.start is not None) != keeps_ranges:
        raise RecipeError(
            f"model.start is {model.start or 'null'} and model.ranges '{model.ranges}'; a run that starts from a "
            "checkpoint keeps its ranges (`start`, or `start_and_new` for ranges of new bands), any other run has "
            "ranges of its own"
        )
    if model.start is None:
        return None
    checkpoint = load_checkpoint(model.start)
    _check_stem(checkpoint, model)
    if model.ranges == "start":
        return checkpoint
    rules = AssignmentRules(unseen="interpolate", min_support=model.min_support, out_of_span=model.out_of_span)
    return with_new_ranges(checkpoint, sensors, rules)


def _check_stem(checkpoint: Checkpoint, model: ModelRecipe) -> None:
    found = "triplet" if is_stem(checkpoint.ranges) else "spectral"
    if found != model.stem:
        raise CheckpointError(
            f"'{model.start}' was trained with model.stem '{found}', the recipe has '{model.stem}'; take the "
            "checkpoint's stem into the recipe"
        )


def load_mae_start(
    model: ModelRecipe, config: AutoencoderConfig, ranges: RangeTable, *, seed: int
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Make the first weights of a run that starts from a masked autoencoder of ImageNet, and say what was taken.

    `seed` draws what the file does not have. None and nothing where the recipe names no file.

    Raises:
        CheckpointError: no such file, a pickle, or another network; every difference is named.
    """
    if model.start_mae is None:
        return None, ()
    weights = load_mae(model.start_mae)
    state, notes = start_from_mae(weights, state_of(Autoencoder(config, seed=seed)), config=config, ranges=ranges)
    return Checkpoint(config=config, state=state, ranges=ranges), notes


def check_same_network(start: Checkpoint, config: AutoencoderConfig, *, where: str) -> None:
    """See that a checkpoint fits the network of a recipe; else a `CheckpointError` names every difference."""
    requested, found = _numbers(config), _numbers(start.config)
    different = [f"{key} {requested[key]}, not {found[key]}" for key in requested if requested[key] != found[key]]
    if different:
        raise CheckpointError(
            f"'{where}' holds another network than the recipe's: {'; '.join(different)} (the recipe's number first); "
            "take the checkpoint's numbers into the recipe"
        )


def _numbers(config: AutoencoderConfig) -> dict[str, Any]:
    plain = {**asdict(config.encoder), **asdict(config.decoder), "levels": config.levels}
    return {key: value for key, value in plain.items() if key not in _FREE}


def in_stages(samples: Samples, recipe: PretrainRecipe) -> Samples:
    """Let sets be drawn in the stages of a recipe; `StoreError` where one has no footprint or no such sensor."""
    stages = recipe.data.stages
    if stages is None:
        return samples
    if samples.sets.are_pairs:
        raise RecipeError("data.stages is for sets of images; write data.sets, or leave it null")
    return StagedSamples(samples.store, samples.sets, stages, steps=recipe.optim.steps, shuffle=samples.shuffle)


def run_length(samples: Samples, recipe: PretrainRecipe) -> tuple[int, int, float]:
    """Work out the steps of a run, those of an epoch (with stages the mean), and the share over which the rate rises.

    With stages it is the sum of each stage's epochs times its steps. `optim.steps` sets the length instead, and stages
    and warm-up keep their shares.
    """
    optim = recipe.optim
    sampler = samples.sampler(batch_size=optim.batch_size, seed=recipe.seed)
    if not isinstance(sampler, StagedSampler):
        per_epoch = sampler.steps_per_epoch
        return optim.steps or optim.epochs * per_epoch, per_epoch, optim.warmup_epochs / optim.epochs
    return sampler.total_steps, sampler.steps_per_epoch, sampler.share_until(optim.warmup_epochs)


def stage_footprints(
    sets: ImageSets, stages: Sequence[StageRecipe], store: ChipStore
) -> tuple[Int[Array, " footprint"], ...]:
    """Tell which footprints each stage takes: ascending positions in `sets`, of which one may stand in several.

    Raises:
        StoreError: the store lacks a sensor, or a stage has no footprint.
    """
    shown = [_showing(sets, stage, store) for stage in stages]
    named = np.any([one for one, stage in zip(shown, stages, strict=True) if stage.with_sensors], axis=0)
    taken = [one if stage.with_sensors else ~(named | one) for one, stage in zip(shown, stages, strict=True)]
    for number, (one, stage) in enumerate(zip(taken, stages, strict=True)):
        if not one.any():
            what = f"shows {' or '.join(stage.with_sensors)}" if stage.with_sensors else "is left by the other stages"
            raise StoreError(
                f"stage {number} of data.stages (from 0) has nothing to draw from: none of the {len(sets)} footprints "
                f"of store '{store.path}' that are trained on {what}; change the stage, or leave it out"
            )
    return tuple(np.flatnonzero(one) for one in taken)


def _showing(sets: ImageSets, stage: StageRecipe, store: ChipStore) -> Bool[Array, " footprint"]:
    """Tell which footprints have an image of one of the stage's sensors."""
    names = [name if name in store.sensors else get_sensor(name).name for name in stage.with_sensors]
    check_sensors(store, names)
    numbers = [list(store.sensors).index(name) for name in names]
    is_wanted = np.isin(sets.sources, numbers)
    return np.array([bool(is_wanted[sets.images(footprint)].any()) for footprint in range(len(sets))])


class StagedSamples(Samples):
    """Sets of images of a store, drawn in stages."""

    def __init__(
        self,
        store: ChipStore,
        sets: ImageSets,
        stages: Sequence[StageRecipe],
        *,
        steps: int | None = None,
        shuffle: ShardShuffle | None = None,
    ) -> None:
        """Sort the footprints into stages.

        `steps` of the whole run: None for the stages' epochs. `shuffle`: None lets any footprint follow any other.
        """
        super().__init__(store, sets, shuffle=shuffle)
        self._stages = tuple(stages)
        self._steps = steps
        self._footprints = stage_footprints(sets, stages, store)

    def sampler(self, *, batch_size: int, seed: int) -> "StagedSampler":  # type: ignore[override]
        parts = [
            (
                footprints,
                stage.epochs,
                SetSampler(
                    self.sets.of(footprints),
                    batch_size=batch_size,
                    seed=_stage_seed(seed, number),
                    shuffle=None if self.shuffle is None else self.shuffle.of(footprints),
                ),
            )
            for number, (stage, footprints) in enumerate(zip(self._stages, self._footprints, strict=True))
        ]
        return StagedSampler(parts, steps=self._steps)

    def notes(self, *, batch_size: int) -> list[str]:
        """Say what each stage draws from, and for how long."""
        steps = self.sampler(batch_size=batch_size, seed=0).steps_of_stages
        lines = [
            f"stage {number}: {count} steps over {len(footprints)} of {len(self.sets)} footprints, {_of(stage)}"
            for number, (stage, footprints, count) in enumerate(zip(self._stages, self._footprints, steps, strict=True))
        ]
        return [*lines, *super().notes(batch_size=batch_size)]


def _of(stage: StageRecipe) -> str:
    return f"those with {' or '.join(stage.with_sensors)}" if stage.with_sensors else "those of no other stage"


class StagedSampler:
    """Batches of sets, of one stage after the other: a pure function of (seed, step)."""

    def __init__(self, stages: Sequence[tuple[Int[Array, " _"], int, SetSampler]], *, steps: int | None) -> None:
        """Lay stages one after the other: footprints (positions in all sets), epochs, and a sampler over these alone.

        `steps` of the whole run: None for as many as the epochs have.
        """
        self._stages = tuple(stages)
        full_steps = [epochs * sampler.steps_per_epoch for _, epochs, sampler in stages]
        # Where each stage starts, and the end of the last: in whole epochs, and in the steps that the run has.
        self._full: list[int] = [0, *accumulate(full_steps)]
        total = self._full[-1] if steps is None else steps
        self._starts: list[int] = [round(start * total / self._full[-1]) for start in self._full]

    @property
    def total_steps(self) -> int:
        return self._starts[-1]

    @property
    def steps_of_stages(self) -> tuple[int, ...]:
        return tuple(after - before for before, after in pairwise(self._starts))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, on average over the stages."""
        return max(1, round(self._full[-1] / sum(epochs for _, epochs, _ in self._stages)))

    def share_until(self, epoch: float) -> float:
        """Tell which share of the run the first so many epochs have."""
        ends = np.cumsum([0, *(epochs for _, epochs, _ in self._stages)])
        return float(np.interp(epoch, ends, self._full)) / self._full[-1]

    def batch(self, step: int) -> SetDraw:
        """Tell what the batch of a step (from 0) holds; after the last stage that one goes on."""
        number = min(int(np.searchsorted(self._starts, step, side="right")), len(self._stages)) - 1
        footprints, _, sampler = self._stages[number]
        draw = sampler.batch(step - self._starts[number])
        epochs_before = sum(epochs for _, epochs, _ in self._stages[:number])
        return replace(draw, items=footprints[draw.items], epoch=epochs_before + draw.epoch)


def _stage_seed(seed: int, number: int) -> int:
    """Give each stage draws of its own; a run of one stage draws what one without stages does."""
    return (
        seed if number == 0 else int(generator(seed, step=number, sample=0, purpose="seed of a stage").integers(2**62))
    )


def find_samples(recipe: PretrainRecipe, store: ChipStore, *, split: Split) -> Samples:
    """Find the pairs or sets of a split that a recipe asks for.

    Raises:
        StoreError: the store has none.
        CatalogueError: a sensor is unknown.
    """
    wanted = recipe.data.sets
    if wanted is not None:
        sets = find_sets(
            store,
            size=wanted.size,
            gap_days=wanted.gap_days,
            needs_two_sources=wanted.needs_two_sources,
            sensors=_seen_sensors(recipe, store),
            split=split,
        )
    else:
        sets = find_pairs(store, sensors=_wanted_pairs(recipe, store), split=split)
    shuffle = None
    if recipe.data.shuffle == "shards":
        shuffle = shard_shuffle(store, sets.chips[sets.bounds[:-1]], open_shards=recipe.data.open_shards)
    return Samples(store, sets, shuffle=shuffle)


def _wanted_pairs(recipe: PretrainRecipe, store: ChipStore) -> list[tuple[str, str]]:
    seen = _seen_sensors(recipe, store)
    if recipe.data.pairs != "any":
        return [(_sensor_name(a, store), _sensor_name(b, store)) for a, b in recipe.data.pairs]
    if len(seen) < 2:
        raise StoreError(
            f"store '{store.path}' has {len(store.sensors)} sensors ({', '.join(store.sensors)}), of which "
            f"{len(seen)} may be trained on; pairs need two: prepare images of another sensor, "
            "or name pairs of dates such as data.pairs=[[sentinel2-l2a, sentinel2-l2a]]"
        )
    return list(combinations(seen, 2))


def _seen_sensors(recipe: PretrainRecipe, store: ChipStore) -> list[str]:
    held_out = {_sensor_name(name, store) for name in recipe.data.held_out}
    seen = [name for name in store.sensors if name not in held_out]
    if not seen and recipe.data.sets is not None:
        raise StoreError(
            f"data.held_out names all sensors of store '{store.path}' ({', '.join(store.sensors)}); leave one to train "
            "on"
        )
    return seen


def _sensor_name(name: str, store: ChipStore) -> str:
    """Resolve an alias; a name that neither the store nor the catalogue knows is an error, never ignored."""
    return name if name in store.sensors else get_sensor(name).name


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A recipe on a store."""

    recipe: PretrainRecipe
    store: ChipStore
    samples: Samples
    val_samples: Samples | None
    """They choose the best checkpoint; None: there are none."""
    start: Checkpoint | None
    """None: weights are drawn from the seed."""
    start_notes: tuple[str, ...] = ()
    ranges: RangeTable
    """Those that get weights."""
    inputs: dict[str, ArrayInput]
    """How each array of these samples is read."""
    steps_per_epoch: int
    total_steps: int
    warmup_share: float
    """Share of the run over which the learning rate rises."""

    @property
    def config(self) -> AutoencoderConfig:
        return network_config(self.recipe, num_ranges=len(self.ranges.ranges))

    @property
    def schedule(self) -> Schedule:
        optim = self.recipe.optim
        return Schedule.of_batch(
            base_lr=optim.base_lr,
            batch_size=optim.batch_size,
            warmup_share=self.warmup_share,
            total_steps=self.total_steps,
        )

    def checkpoint(self, weights: Mapping[str, Tensor], *, step: int) -> Checkpoint:
        """Join whole weights with all that is needed to use them."""
        # A sensor may have several arrays, some with a part of its bands; the one with the most speaks for it.
        by_bands = sorted(self.inputs, key=lambda name: len(self.store.arrays[name].bands))
        arrays = {self.store.arrays[name].sensor: name for name in by_bands}
        return Checkpoint(
            config=self.config,
            state=to_published(weights),
            ranges=self.ranges,
            normalisations={sensor: self.inputs[name].normalisation.to_dict() for sensor, name in arrays.items()},
            sensors={
                sensor: sensor_to_dict(self.store.sensors[sensor].select(self.store.arrays[name].bands))
                for sensor, name in arrays.items()
            },
            recipe=recipe_to_dict(self.recipe),
            step=step,
        )

    def notes(self) -> list[str]:
        """Say what a reader of the run should know before it starts."""
        batch_size = self.recipe.optim.batch_size
        drawn = self.samples.notes(batch_size=batch_size)
        return [*self.start_notes, *self._bands_not_exact(), *self._ranges_not_trained(), *drawn]

    def _bands_not_exact(self) -> list[str]:
        return [report for entry in self.inputs.values() if (report := entry.assignment.report())]

    def _ranges_not_trained(self) -> list[str]:
        used = np.zeros(len(self.ranges.ranges), dtype=bool)
        for entry in self.inputs.values():
            used |= np.asarray(entry.assignment.mixing).any(axis=0)
        idle = [name for name, is_used in zip(self.ranges.range_names, used, strict=True) if not is_used]
        if not idle:
            return []
        return [
            f"{len(idle)} of {len(used)} ranges are seen by no sensor of these {self._noun} and learn nothing "
            f"({', '.join(idle)}); `model.ranges=from_data` leaves them out"
        ]

    @property
    def _noun(self) -> str:
        return "pairs" if self.recipe.data.sets is None else "sets"


def plan_run(recipe: PretrainRecipe, store: ChipStore) -> RunPlan:
    """Work out a run.

    Raises:
        StoreError: the store has no such pairs or sets.
        AssignmentError: a band that the ranges can't express.
        CatalogueError: a sensor is unknown, or a band has no statistics.
        CheckpointError: the checkpoint to start from is missing, or holds another network.
    """
    samples = in_stages(find_samples(recipe, store, split=recipe.data.split), recipe)
    val_samples = _val_samples(recipe, store) if recipe.run.val_batches else None
    names = dict.fromkeys(name for found in (samples, val_samples) if found for name in found.arrays)
    sensors = [store.array_sensor(name) for name in samples.arrays]
    start = load_start(recipe.model, sensors)
    ranges = _ranges(recipe.model, start, sensors)
    network = network_config(recipe, num_ranges=len(ranges.ranges))
    start_notes: tuple[str, ...] = ()
    if start is not None:
        check_same_network(start, network, where=str(recipe.model.start))
    else:
        start, start_notes = load_mae_start(recipe.model, network, ranges, seed=recipe.seed)
    total_steps, steps_per_epoch, warmup_share = run_length(samples, recipe)
    return RunPlan(
        recipe=recipe,
        store=store,
        samples=samples,
        val_samples=val_samples,
        start=start,
        start_notes=start_notes,
        ranges=ranges,
        inputs=array_inputs(store, names, ranges=ranges, recipe=recipe),
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        warmup_share=warmup_share,
    )


def _ranges(model: ModelRecipe, start: Checkpoint | None, sensors: Sequence[Sensor]) -> RangeTable:
    if start is not None:
        return start.ranges
    if model.stem == "triplet":
        return stem_ranges()
    return ranges_from_sensors(sensors) if model.ranges == "from_data" else load_ranges(model.ranges)


def _val_samples(recipe: PretrainRecipe, store: ChipStore) -> Samples | None:
    if recipe.data.val_split not in store.index.column("split").unique().to_pylist():
        return None
    try:
        return find_samples(recipe, store, split=recipe.data.val_split)
    except StoreError:
        # Places of that split may show one sensor only.
        return None


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
