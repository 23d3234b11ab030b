"""What of an encoder is trained, and projections of ranges that it lacks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from anyband.arrays import Float
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec
from anyband.errors import RecipeError
from anyband.evaluate.recipe import FitRecipe, LoraRecipe, TransferRecipe
from anyband.labelled.samples import TaskData
from anyband.models.checkpoint import Checkpoint, extend_checkpoint, to_published
from anyband.models.encodings import sincos_positions
from anyband.models.spectral import SpectralProjection
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.ranges import extend_ranges, is_stem
from anyband.sensors.sensor import Sensor, sensor_to_dict
from anyband.training.steps import seeded

if TYPE_CHECKING:
    from peft import LoraModel

__all__ = [
    "AdaptedEncoder",
    "adapt",
    "added_ranges",
    "checkpoint_of",
    "extended_for",
    "free_all_ranges",
    "sensors_of",
    "train_new_ranges_only",
    "tuned_checkpoint",
    "with_new_ranges",
]


def with_new_ranges(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules, *, min_iou: float = 0.95
) -> Checkpoint:
    """Give every band that the ranges don't know exactly a range of its own, which starts as interpolation reads it.

    Args:
        checkpoint: with the trained ranges.
        sensors: whose bands are looked at; bands that the rules drop get no range.
        rules: interpolation, and what is outside the span.
        min_iou: a band this much like a range becomes known to it instead; see `extend_ranges`.

    Returns:
        The checkpoint itself where nothing is new.

    Raises:
        AssignmentError: a band that its ranges can't express.
    """
    kept = [assign(sensor, checkpoint.ranges, rules).sensor for sensor in sensors]
    table = extend_ranges(checkpoint.ranges, kept, min_iou=min_iou)
    owners = {(sensor.name, band): sensor for sensor in kept for band in sensor.band_names}
    rows = []
    for entry in table.ranges[len(checkpoint.ranges.ranges) :]:
        known = next(known for known in entry.known if known in owners)
        rows.append(assign(owners[known].select([known[1]]), checkpoint.ranges, rules).mixing[0])
    if not rows:
        return checkpoint
    return extend_checkpoint(checkpoint, table, torch.from_numpy(np.stack(rows)).float())


# chosen: only the very same spectrum counts as known, so that the features before training are those of interpolation.
_SAME_SPECTRUM_IOU = 1.0


def sensors_of(data: TaskData) -> tuple[Sensor, ...]:
    """List the sensors of labelled data, each choice of bands once."""
    found = {(sensor.name, sensor.band_names): sensor for slots in data.sensors for sensor in slots}
    return tuple(found.values())


def extended_for(checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules) -> Checkpoint:
    """Add a range for each band that no trained range is exactly; features stay as interpolation gives them.

    Args:
        checkpoint: with the trained ranges.
        sensors: whose bands are looked at.
        rules: what is outside the span; bands are interpolated whatever `unseen` says.

    Returns:
        The checkpoint itself where nothing is new.

    Raises:
        RecipeError: the network has a stem of three bands, which knows no ranges.
        AssignmentError: a band that the trained ranges can't express.
    """
    if is_stem(checkpoint.ranges):
        raise RecipeError(
            "fit.new_ranges adds ranges to a spectrum-aware projection; this checkpoint has a stem of three bands: "
            "set fit.new_ranges=none"
        )
    interpolated = replace(rules, unseen="interpolate")
    return with_new_ranges(checkpoint, sensors, interpolated, min_iou=_SAME_SPECTRUM_IOU)


def added_ranges(before: Checkpoint, after: Checkpoint) -> tuple[str, ...]:
    """Name the ranges that were added."""
    return after.ranges.range_names[len(before.ranges.ranges) :]


def train_new_ranges_only(projection: SpectralProjection, num_new: int) -> None:
    """Freeze the ranges that were there and leave the last ones to training, until `free_all_ranges`.

    All ranges are stacked in one parameter, so that freezing some of them takes a parameter that holds the others
    only: an optimiser would move the frozen ones by its weight decay.

    Args:
        projection: whose parameters are replaced; what it computes stays the same.
        num_new: ranges at the end that are trained.
    """
    for name in ("weight", "bias"):
        full = getattr(projection, name)
        parametrize.register_parametrization(projection, name, _Grown(full.detach()[: len(full) - num_new].clone()))


def free_all_ranges(projection: SpectralProjection) -> None:
    """Put all ranges back into one parameter each, with what was learned; where they are so, nothing is done."""
    for name in ("weight", "bias"):
        if parametrize.is_parametrized(projection, name):
            parametrize.remove_parametrizations(projection, name, leave_parametrized=True)


class _Grown(nn.Module):
    """Rows that stay, then rows that are trained."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, new: Float[Tensor, "new *row"]) -> Float[Tensor, "range *row"]:
        """Stack them."""
        return torch.cat([self.kept, new])

    def right_inverse(self, full: Float[Tensor, "range *row"]) -> Float[Tensor, "new *row"]:
        """Give the rows that are trained."""
        return full[len(self.kept) :].clone()


@dataclass(kw_only=True, eq=False)
class AdaptedEncoder:
    """A copy of an encoder whose weights are learned as a recipe says."""

    encoder: SensorEncoder
    """On the device of the one that it was made from; what is not learned requires no gradient."""
    new_ranges: tuple[str, ...] = ()
    """Names of the ranges that were added; where there are some, images must be read with this encoder's ranges."""
    notes: tuple[str, ...] = ()
    """What a reader of the results should know."""
    adapters: "LoraModel | None" = field(default=None, repr=False)
    """Low-rank updates that are not yet part of the weights."""

    def settle(self) -> None:
        """Put what was learned beside the weights into them: the network is a plain one again, with equal features."""
        free_all_ranges(self.encoder.encoder.projection)
        if self.adapters is not None:
            self.adapters.merge_and_unload()
            self.adapters = None


def adapt(encoder: SensorEncoder, data: TaskData, recipe: TransferRecipe) -> AdaptedEncoder:
    """Copy an encoder and make it ready for training; its features are those of the original until it is trained.

    Args:
        encoder: stays as it is.
        data: its sensors get new ranges where the recipe asks for them.
        recipe: `fit` says what is learned, `input.img_size` for which grid positions are.

    Raises:
        RecipeError: settings that do not go together, or peft is not installed.
        AssignmentError: a band that the trained ranges can't express.
    """
    fit = recipe.fit
    _check(fit)
    start = checkpoint_of(encoder)
    checkpoint = start
    if fit.new_ranges != "none":
        checkpoint = extended_for(start, sensors_of(data), encoder.rules)
    new, notes = added_ranges(start, checkpoint), _range_notes(fit, added_ranges(start, checkpoint))
    copy = SensorEncoder(_prepared(checkpoint, recipe), rules=encoder.rules)
    # Before it is on its device, so that the first weights of adapters are the same on all of them.
    adapters = _free(copy, recipe, num_new=len(new))
    copy = copy.to(next(encoder.parameters()).device)
    return AdaptedEncoder(encoder=copy, new_ranges=new, notes=notes, adapters=adapters)


def checkpoint_of(encoder: SensorEncoder) -> Checkpoint:
    """Make a checkpoint of an encoder as it is now, without a decoder; loading it gives equal features."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.encoder.state_dict().items()}
    config = replace(encoder.checkpoint.config, encoder=encoder.config)
    return replace(encoder.checkpoint, config=config, state=to_published(state))


def tuned_checkpoint(encoder: SensorEncoder, readings: Iterable[InputSpec]) -> Checkpoint:
    """Make a checkpoint of an encoder that was trained on a task: its sensors are read from now on as they were there.

    Args:
        encoder: settled.
        readings: of the sensors of the task; of several choices of bands of one sensor, the largest counts.
    """
    checkpoint = checkpoint_of(encoder)
    chosen = {one.sensor.name: one for one in sorted(readings, key=lambda one: len(one.sensor.bands))}
    normalised = {name: one.normalisation.to_dict() for name, one in chosen.items() if not one.from_checkpoint}
    sensors = {name: sensor_to_dict(chosen[name].sensor) for name in normalised}
    return replace(
        checkpoint,
        normalisations={**checkpoint.normalisations, **normalised},
        sensors={**checkpoint.sensors, **sensors},
        step=None,
    )


def _check(fit: FitRecipe) -> None:
    if fit.encoder == "frozen" and fit.new_ranges == "with_rest":
        raise RecipeError(
            "fit.new_ranges=with_rest learns new ranges with the rest of the encoder, but fit.encoder=frozen; set "
            "fit.encoder=trained, or fit.new_ranges=alone"
        )
    if fit.encoder == "lora" and fit.new_ranges == "alone":
        raise RecipeError(
            "fit.new_ranges=alone freezes everything else of the encoder, but fit.encoder=lora adapts its attention; "
            "set fit.new_ranges=with_rest to learn both"
        )


def _range_notes(fit: FitRecipe, new: tuple[str, ...]) -> tuple[str, ...]:
    if fit.new_ranges == "none":
        return ()
    if new:
        return (f"ranges added, started from interpolation: {', '.join(new)}",)
    if fit.new_ranges == "alone":
        raise RecipeError(
            "fit.new_ranges=alone has nothing to learn: every band of the data is exactly a trained range; set "
            "fit.new_ranges=none"
        )
    return ("no range was added: every band of the data is exactly a trained range",)


def _trains_all(fit: FitRecipe) -> bool:
    return fit.encoder == "trained" and fit.new_ranges != "alone"


def _prepared(checkpoint: Checkpoint, recipe: TransferRecipe) -> Checkpoint:
    """Set drop path and the kind of positions; fixed positions that are to be trained start as the input's grid has
    them."""
    fit, config = recipe.fit, checkpoint.config.encoder
    config = replace(config, drop_path=0.0 if fit.encoder == "frozen" else fit.drop_path)
    state = checkpoint.state
    if _trains_all(fit) and fit.positions == "trained" and config.positions == "fixed":
        config = replace(config, positions="trained", img_size=recipe.input.img_size or config.img_size)
        computed = functional.pad(sincos_positions(*config.grid, config.embed_dim), (0, 0, 1, 0))
        state = {**state, "pos_embed": computed.unsqueeze(0)}
    return replace(checkpoint, config=replace(checkpoint.config, encoder=config), state=state)


def _free(copy: SensorEncoder, recipe: TransferRecipe, *, num_new: int) -> "LoraModel | None":
    """Let gradients into what is learned, and nowhere else."""
    fit, network = recipe.fit, copy.encoder
    network.requires_grad_(_trains_all(fit))
    if fit.positions == "fixed" and isinstance(network.positions.table, nn.Parameter):
        network.positions.table.requires_grad = False
    adapters = _with_adapters(network.blocks, fit.lora, seed=recipe.seed) if fit.encoder == "lora" else None
    if num_new and not _trains_all(fit):
        train_new_ranges_only(network.projection, num_new)
        for new in _grown(network.projection):
            new.requires_grad = True
    return adapters


def _grown(projection: nn.Module) -> list[Tensor]:
    return [one for name, one in projection.named_parameters() if name.endswith(".original")]


def _with_adapters(blocks: nn.Module, lora: LoraRecipe, *, seed: int) -> "LoraModel":
    """Put low-rank updates, which start at zero, on the linear maps of all attention layers."""
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as problem:
        raise RecipeError(
            "fit.encoder=lora needs peft, which is not installed: install `anyband[lora]`, or set fit.encoder=trained"
        ) from problem
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=["attn.qkv", "attn.proj"],
    )
    with seeded(seed, step=0, purpose="lora", device=torch.device("cpu")):
        return LoraModel(blocks, config, "default")
