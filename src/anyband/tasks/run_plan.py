"""What a recipe means on a store: samples, ranges, network, length. Made once, before any training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from anyband.data.store import ChipStore
from anyband.errors import StoreError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import Checkpoint
from anyband.models.decoder import DecoderConfig
from anyband.models.encoder import EncoderConfig
from anyband.models.layout import to_published
from anyband.sensors.catalogue import sensor_to_dict
from anyband.sensors.ranges import RangeTable, load_ranges, ranges_from_sensors
from anyband.sensors.sensor import Sensor
from anyband.sensors.stem import stem_ranges
from anyband.tasks.array_inputs import ArrayInput, array_inputs
from anyband.tasks.find_samples import find_samples
from anyband.tasks.loading import order_notes
from anyband.tasks.recipe import ModelRecipe, PretrainRecipe, recipe_to_dict
from anyband.tasks.samples import Samples
from anyband.tasks.stages import in_stages, run_length
from anyband.tasks.start import check_same_network, load_mae_start, load_start
from anyband.tasks.stems import NUM_STEM_BANDS
from anyband.tasks.train import Schedule

__all__ = ["RunPlan", "network_config", "plan_run"]


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A recipe on a store."""

    recipe: PretrainRecipe
    """What is done."""
    store: ChipStore
    """With what."""
    samples: Samples[Any]
    """Pairs or sets that are learned from."""
    val_samples: Samples[Any] | None
    """Those that choose the best checkpoint; None: there are none."""
    start: Checkpoint | None
    """Weights that the run starts from; None: drawn from the seed."""
    start_notes: tuple[str, ...] = ()
    """What to say of them."""
    ranges: RangeTable
    """Ranges that get weights."""
    inputs: dict[str, ArrayInput]
    """How each array of these samples is read."""
    steps_per_epoch: int
    """Batches in an epoch."""
    total_steps: int
    """Length of the run."""
    warmup_share: float
    """Share of it over which the learning rate rises."""

    @property
    def config(self) -> AutoencoderConfig:
        """The network."""
        return network_config(self.recipe, num_ranges=len(self.ranges.ranges))

    @property
    def schedule(self) -> Schedule:
        """Learning rate of each step."""
        optim = self.recipe.optim
        return Schedule.of_batch(
            base_lr=optim.base_lr,
            batch_size=optim.batch_size,
            warmup_share=self.warmup_share,
            total_steps=self.total_steps,
        )

    def checkpoint(self, weights: Mapping[str, Tensor], *, step: int) -> Checkpoint:
        """Join weights with all that is needed to use them.

        Args:
            weights: the network's state, whole.
            step: steps done.
        """
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
        drawn = [
            *self.samples.notes(batch_size=batch_size),
            *order_notes(self.samples, batch_size=batch_size, seed=self.recipe.seed),
        ]
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
    length = run_length(samples, recipe)
    return RunPlan(
        recipe=recipe,
        store=store,
        samples=samples,
        val_samples=val_samples,
        start=start,
        start_notes=start_notes,
        ranges=ranges,
        inputs=array_inputs(store, names, ranges=ranges, recipe=recipe),
        steps_per_epoch=length.steps_per_epoch,
        total_steps=length.total_steps,
        warmup_share=length.warmup_share,
    )


def _ranges(model: ModelRecipe, start: Checkpoint | None, sensors: Sequence[Sensor]) -> RangeTable:
    if start is not None:
        return start.ranges
    if model.stem == "triplet":
        return stem_ranges()
    return ranges_from_sensors(sensors) if model.ranges == "from_data" else load_ranges(model.ranges)


def _val_samples(recipe: PretrainRecipe, store: ChipStore) -> Samples[Any] | None:
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
