"""Fitting a network to labelled data: what of an encoder is learned, the loop, and heads that were fitted before."""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from anyband.arrays import Float
from anyband.encode.encoder import SensorEncoder
from anyband.encode.input_spec import InputSpec
from anyband.errors import CheckpointError, InputError, RecipeError, TrainingError, counted, nearest_name
from anyband.evaluate.features import Context
from anyband.evaluate.recipe import FitRecipe, LoraRecipe, TransferRecipe
from anyband.evaluate.results import flat_settings
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.models.checkpoint import BY_RANGE, Checkpoint, from_published, locate, read_weights, to_published
from anyband.models.encodings import sincos_positions
from anyband.models.heads import LAST_LAYER, FittedKind, fitted_weights
from anyband.models.patches import SpectralProjection
from anyband.models.vit import configure_blocks
from anyband.progress import Advance, progress
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.ranges import STEM, RangeTable, extend_ranges, without_range
from anyband.sensors.sensor import Sensor, sensor_to_dict
from anyband.training.steps import Schedule, make_optimizer, seeded, set_learning_rate

if TYPE_CHECKING:
    from peft import LoraModel

__all__ = [
    "AdaptedEncoder",
    "adapt",
    "checkpoint_of",
    "extend_checkpoint",
    "fit",
    "fit_schedule",
    "fitted_head",
    "predicting",
    "sensors_of",
    "trained_weights_note",
    "tuned_checkpoint",
    "with_new_ranges",
    "withhold_range",
]

# chosen: an error names this many samples of a batch.
_MAX_NAMED = 8
_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def fit(
    model: nn.Module,
    recipe: FitRecipe,
    *,
    batches: Callable[[int], Iterable[TaskBatch]],
    steps_per_epoch: int,
    loss: Callable[[TaskBatch, int], Tensor],
    validate: Callable[[], float],
    names: Sequence[str],
    seed: int,
    device: str = "cpu",
    title: str = "fitting",
    shown: bool = False,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Fit a network: AdamW by epochs, after each of which validation scores it; the best weights are put back. Gives
    mean loss and validation score of each epoch, fewer than the recipe's where it lost patience. Equal arguments give
    equal weights. What does not require gradients stays as it is.
    Args:
        model: changed in place, left on the device in evaluation mode.
        batches: training batches of an epoch, from 0; each call gives the same.
        loss: mean loss of the model for a batch at a step, from 0, in the recipe's precision; torch's global generator
            is seeded from the step around it.
        validate: scores the model on the validation samples, higher is better; in evaluation mode without gradients.
        names: of the samples by position, for messages.
    Nothing to fit, or to fit it to, is an `InputError`; a precision that the device can't compute in a `RecipeError`;
    a loss or a validation score that is not finite a `TrainingError`.
    """
    model.to(device)
    changing = {name: one for name, one in model.named_parameters() if one.requires_grad} | dict(model.named_buffers())
    best: dict[str, Tensor] = {}
    losses: list[float] = []
    validation: list[float] = []
    with contextlib.ExitStack() as stack:
        done = stack.enter_context(progress(title, recipe.epochs * steps_per_epoch, shown=shown))
        if torch.device(device).type == "cpu" and recipe.precision == "bf16-mixed":
            # The gradient of the fused kernel is slow there.
            configure_blocks(model, fused=False)
            stack.callback(configure_blocks, model, fused=True)
        epochs = _epochs(
            model, recipe, batches, loss, steps_per_epoch=steps_per_epoch, names=names, seed=seed, done=done
        )
        for epoch, mean_loss in enumerate(epochs):
            losses.append(mean_loss)
            with predicting(model, recipe):
                validation.append(validate())
            if math.isnan(validation[-1]):
                raise TrainingError(
                    f"the validation score of epoch {epoch + 1} is not a number; see that validation has samples with "
                    "targets, and lower fit.base_lr where the network diverged"
                )
            best_epoch = 1 + validation.index(max(validation))
            if best_epoch == epoch + 1:
                best = {name: one.detach().clone() for name, one in changing.items()}
            if recipe.patience is not None and epoch + 1 - best_epoch >= recipe.patience:
                break
    with torch.no_grad():
        for name, one in changing.items():
            one.copy_(best[name])
    model.eval()
    return tuple(losses), tuple(validation)


def fit_schedule(recipe: FitRecipe, *, steps_per_epoch: int) -> Schedule:
    """Make the schedule of a recipe; its peak is in proportion to the batch, or as it stands."""
    peak = recipe.base_lr if recipe.lr_samples is None else recipe.base_lr * recipe.batch_size / recipe.lr_samples
    warmup_steps, total_steps = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
    fall, drops = recipe.schedule, recipe.drops
    return Schedule(peak=peak, warmup_steps=warmup_steps, total_steps=total_steps, fall=fall, drops=drops)


@contextlib.contextmanager
def predicting(model: nn.Module, recipe: FitRecipe) -> Iterator[None]:
    """Predict as validation does: evaluation mode, no gradients, the precision of training; then restore the mode."""
    was_training = model.training
    model.eval()
    try:
        device, precision = next(model.parameters()).device, recipe.precision
        with torch.no_grad(), torch.autocast(device.type, _DTYPES.get(precision), enabled=precision in _DTYPES):
            yield
    finally:
        model.train(was_training)


def trained_weights_note(model: nn.Module) -> str:
    """Say how many of a network's weights are trained."""
    every = [(one.numel(), one.requires_grad) for one in model.parameters()]
    trained = sum(size for size, learned in every if learned)
    return f"{trained:,} of {sum(size for size, _ in every):,} weights were trained"


def _epochs(
    model: nn.Module,
    recipe: FitRecipe,
    batches: Callable[[int], Iterable[TaskBatch]],
    loss: Callable[[TaskBatch, int], Tensor],
    *,
    steps_per_epoch: int,
    names: Sequence[str],
    seed: int,
    done: Advance,
) -> Iterator[float]:
    """Train epoch after epoch; give the mean loss over the samples of each. What is not finite changes no weight."""
    device = next(model.parameters()).device
    if steps_per_epoch < 1:
        raise InputError("there is no training sample to fit to; look at `data.split`")
    if device.type == "cpu" and recipe.precision == "16-mixed":
        raise RecipeError("fit.precision=16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    parameters = [one for one in model.parameters() if one.requires_grad]
    if not parameters:
        raise InputError("nothing of the network is trained; look at fit.encoder and the head")
    half = recipe.precision == "16-mixed"
    # A fused step can't be clipped in half precision, where it takes the scale out of the gradients itself.
    optimizer = make_optimizer(
        model, weight_decay=recipe.weight_decay, betas=recipe.betas, layer_decay=recipe.layer_decay, fused=not half
    )
    schedule = fit_schedule(recipe, steps_per_epoch=steps_per_epoch)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    rounded = torch.autocast(device.type, _DTYPES.get(recipe.precision), enabled=recipe.precision in _DTYPES)
    for epoch in range(recipe.epochs):
        model.train()
        summed, count = 0.0, 0
        for step, batch in enumerate(batches(epoch), start=epoch * steps_per_epoch):
            set_learning_rate(optimizer, schedule.rate(step))
            with seeded(seed, step=step, purpose="fitting", device=device), rounded:
                found = loss(batch.to(device), step)
            value = float(found.detach())
            if not math.isfinite(value):
                raise TrainingError(_diverged(recipe, epoch, step, [names[int(one)] for one in batch.samples]))
            scaler.scale(found).backward()  # type: ignore[no-untyped-call]
            if recipe.clip_grad_norm is not None:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, recipe.clip_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
            summed, count = summed + value * len(batch.samples), count + len(batch.samples)
            done(1)
        if not count:
            raise InputError(f"there were no training samples in epoch {epoch + 1}; look at `data.split`")
        yield summed / count


def _diverged(recipe: FitRecipe, epoch: int, step: int, names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_MAX_NAMED])
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return (
        f"the loss is not finite in epoch {epoch + 1} of {recipe.epochs} (step {step}), with the samples {shown}{more}"
        f"; look at their pixels and targets, or lower fit.base_lr, now {recipe.base_lr:g}"
    )


# chosen: only the very same spectrum counts as known, so that the features before training are those of interpolation.
_SAME_SPECTRUM_IOU = 1.0


@dataclass(kw_only=True, eq=False)
class AdaptedEncoder:
    """A copy of an encoder whose weights are learned as a recipe says."""

    encoder: SensorEncoder
    """On the device of the one that it was made from; what is not learned requires no gradient."""
    new_ranges: tuple[str, ...] = ()
    """Ranges that were added; where there are some, images must be made input with this encoder's ranges."""
    notes: tuple[str, ...] = ()
    adapters: "LoraModel | None" = field(default=None, repr=False)
    """Low-rank updates that are not yet part of the weights."""

    def settle(self) -> None:
        """Put what was learned beside the weights into them: the network is a plain one again, with equal features."""
        projection = self.encoder.encoder.projection
        for name in ("weight", "bias"):
            if parametrize.is_parametrized(projection, name):
                parametrize.remove_parametrizations(projection, name, leave_parametrized=True)
        if self.adapters is not None:
            self.adapters.merge_and_unload()
            self.adapters = None


def adapt(encoder: SensorEncoder, data: TaskData, recipe: TransferRecipe) -> AdaptedEncoder:
    """Copy an encoder and make it ready for training; its features are those of the original until it is trained.
    Settings that do not go together are a `RecipeError`, bands that no range can express an `AssignmentError`."""
    fit = recipe.fit
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
    start = checkpoint_of(encoder)
    checkpoint = start if fit.new_ranges == "none" else _extended(start, sensors_of(data), encoder.rules)
    new = checkpoint.ranges.range_names[len(start.ranges.ranges) :]
    if fit.new_ranges == "alone" and not new:
        raise RecipeError(
            "fit.new_ranges=alone has nothing to learn: every band of the data is exactly a trained range; set "
            "fit.new_ranges=none"
        )
    note = "no range was added: every band of the data is exactly a trained range"
    if new:
        note = f"ranges added, started from interpolation: {', '.join(new)}"
    copy = SensorEncoder(_prepared(checkpoint, recipe), rules=encoder.rules)
    # Before it is on its device, so that the first weights of adapters are the same on all of them.
    adapters = _free(copy, recipe, num_new=len(new))
    copy = copy.to(next(encoder.parameters()).device)
    notes = () if fit.new_ranges == "none" else (note,)
    return AdaptedEncoder(encoder=copy, new_ranges=new, notes=notes, adapters=adapters)


def sensors_of(data: TaskData) -> tuple[Sensor, ...]:
    """List the sensors of labelled data, each choice of bands once."""
    found = {(sensor.name, sensor.band_names): sensor for slots in data.sensors for sensor in slots}
    return tuple(found.values())


def checkpoint_of(encoder: SensorEncoder) -> Checkpoint:
    """Make a checkpoint of an encoder as it is now, without a decoder; loading it gives equal features."""
    state = {f"encoder.{name}": tensor for name, tensor in encoder.encoder.state_dict().items()}
    config = replace(encoder.checkpoint.config, encoder=encoder.config)
    return replace(encoder.checkpoint, config=config, state=to_published(state))


def tuned_checkpoint(encoder: SensorEncoder, specs: Iterable[InputSpec]) -> Checkpoint:
    """Make a checkpoint of an encoder that was trained on a task, settled; `specs` of its sensors are kept with it. Of
    several choices of bands of one sensor, the largest counts."""
    checkpoint = checkpoint_of(encoder)
    chosen = {one.sensor.name: one for one in sorted(specs, key=lambda one: len(one.sensor.bands))}
    normalised = {name: one.normalisation.to_dict() for name, one in chosen.items() if not one.from_checkpoint}
    sensors = {name: sensor_to_dict(chosen[name].sensor) for name in normalised}
    return replace(
        checkpoint,
        normalisations={**checkpoint.normalisations, **normalised},
        sensors={**checkpoint.sensors, **sensors},
        step=None,
    )


def with_new_ranges(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules, *, min_iou: float = 0.95
) -> Checkpoint:
    """Give every band that the ranges don't know exactly a range of its own, which starts as interpolation has it.
    Support counts for nothing, since it is to learn. Bands that can't be expressed get none, or are an error, as the
    rules say, and a band that is like a range by `min_iou` becomes known to it instead. Where nothing is new, the
    checkpoint itself comes back.
    """
    rules = replace(rules, unseen="interpolate", min_support=0.0)
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


def _extended(checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules) -> Checkpoint:
    if checkpoint.ranges.name == STEM:
        raise RecipeError(
            "fit.new_ranges adds ranges to a spectrum-aware projection; this checkpoint has a stem of three bands: "
            "set fit.new_ranges=none"
        )
    return with_new_ranges(checkpoint, sensors, rules, min_iou=_SAME_SPECTRUM_IOU)


def _trains_all(fit: FitRecipe) -> bool:
    return fit.encoder == "trained" and fit.new_ranges != "alone"


def _prepared(checkpoint: Checkpoint, recipe: TransferRecipe) -> Checkpoint:
    """Set drop path and the kind of positions; fixed ones that are to be trained start as the input's grid has them."""
    fit, config = recipe.fit, checkpoint.config.encoder
    config = replace(config, drop_path=0.0 if fit.encoder == "frozen" else fit.drop_path)
    state = checkpoint.state
    if _trains_all(fit) and fit.positions == "trained" and config.positions == "fixed":
        config = replace(config, positions="trained", img_size=recipe.input.img_size or config.img_size)
        edge = config.img_size // config.patch_size
        computed = functional.pad(sincos_positions(edge, edge, config.embed_dim), (0, 0, 1, 0))
        state = {**state, "pos_embed": computed.unsqueeze(0)}
    return replace(checkpoint, config=replace(checkpoint.config, encoder=config), state=state)


def _free(copy: SensorEncoder, recipe: TransferRecipe, *, num_new: int) -> "LoraModel | None":
    """Let gradients into what is learned, and nowhere else."""
    fit, network = recipe.fit, copy.encoder
    network.requires_grad_(_trains_all(fit))
    if fit.positions == "fixed" and isinstance(network.pos_embed, nn.Parameter):
        network.pos_embed.requires_grad = False
    adapters = _with_adapters(network.blocks, fit.lora, seed=recipe.seed) if fit.encoder == "lora" else None
    if num_new and not _trains_all(fit):
        _train_new_ranges_only(network.projection, num_new)
    return adapters


def _train_new_ranges_only(projection: SpectralProjection, num_new: int) -> None:
    """Freeze the ranges that were there and leave the last ones to training, until they are settled."""
    # All are stacked in one parameter, of which an optimiser would move the frozen ones by its weight decay.
    for name in ("weight", "bias"):
        full = getattr(projection, name)
        parametrize.register_parametrization(projection, name, _Grown(full.detach()[: len(full) - num_new].clone()))
    for name, one in projection.named_parameters():
        one.requires_grad = one.requires_grad or name.endswith(".original")


class _Grown(nn.Module):
    """Rows that stay, then rows that are trained."""

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept)

    def forward(self, new: Float[Tensor, "new *row"]) -> Float[Tensor, "range *row"]:
        return torch.cat([self.kept, new])

    def right_inverse(self, full: Float[Tensor, "range *row"]) -> Float[Tensor, "new *row"]:
        return full[len(self.kept) :].clone()


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


def extend_checkpoint(
    checkpoint: Checkpoint, table: RangeTable, mixing: Float[Tensor, "new_range range"]
) -> Checkpoint:
    """Add ranges at the end that start as mixtures of the trained ones: untrained they encode as interpolation did."""
    old, new = checkpoint.ranges.ranges, table.ranges
    if new[: len(old)] != old or len(new) != len(old) + mixing.shape[0] or mixing.shape[1] != len(old):
        raise CheckpointError(
            f"ranges are added at the end: the checkpoint has {len(old)}, the table {len(new)}, the mixing matrix is "
            f"{mixing.shape[0]} × {mixing.shape[1]}; extend the checkpoint's own table"
        )
    return _with_ranges(
        checkpoint, table, lambda rows: torch.cat([rows, torch.tensordot(mixing.to(rows.dtype), rows, dims=1)])
    )


def withhold_range(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """Take a trained range, not the only one, away with its weights; other bands are encoded as before."""
    names = checkpoint.ranges.range_names
    if name not in names or len(names) == 1:
        raise CheckpointError(f"range '{name}' can't be withheld from {', '.join(names)}{nearest_name(name, names)}")
    kept = [index for index, one in enumerate(names) if one != name]
    return _with_ranges(checkpoint, without_range(checkpoint.ranges, name), lambda rows: rows[kept])


def _with_ranges(checkpoint: Checkpoint, table: RangeTable, change: Callable[[Tensor], Tensor]) -> Checkpoint:
    """Give a checkpoint other ranges by a change of whatever is stacked by range."""
    network = from_published(checkpoint.state, checkpoint.config.encoder.num_ranges)
    network |= {name: change(rows) for name, rows in network.items() if name.startswith(BY_RANGE)}
    encoder = replace(checkpoint.config.encoder, num_ranges=len(table.ranges))
    config = replace(checkpoint.config, encoder=encoder)
    return replace(checkpoint, config=config, state=to_published(network), ranges=table)


# What a head is, and what scores it.
_HEADS: dict[FittedKind, tuple[str, str]] = {
    "probe": ("batch normalisation and a linear layer", "`linear`"),
    "layer": ("a linear layer alone", "`finetune`, or `regress` for a number"),
    "convolution": ("a 1×1 convolution", "maps with head.kind=dfc2020 or head.kind=linear"),
    "upernet": ("UPerNet", "maps with head.kind=upernet or head.kind=pangaea"),
}


def fitted_head(context: Context, *, width: int, num_outputs: int) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Read the head that is scored without fitting: its weights in the order of the data's classes, its file, and what
    is to be said of it. One that is for something else than context and features is a `CheckpointError`.
    Source: the released `main_downstream.py --eval_only` of SMARTIES.
    """
    recipe, classes, task = context.recipe, context.data.classes, context.protocol
    where = recipe.head.file or recipe.checkpoint or ""
    tensors, header = _stored_head(context)
    kind, state = fitted_weights(tensors, where=where)
    wanted: FittedKind = "probe" if task == "linear" else "layer"
    if context.data.targets is None:
        wanted = "upernet" if recipe.head.kind in ("upernet", "pangaea") else "convolution"
    what = f"the head in '{Path(where).name}'"
    if kind != wanted:
        raise CheckpointError(
            f"{what} is {_HEADS[kind][0]}, and '{task}' here scores {_HEADS[wanted][0]}; evaluate this one by "
            f"{_HEADS[kind][1]}"
        )
    settings, named = (_from_header(header, key, what) for key in ("settings", "classes"))
    _check_as_fitted(header, settings, "head.0.weight" in tensors, context, what)
    layer, names = LAST_LAYER[kind], [str(one) for one in named]
    rows, columns = state[f"{layer}.weight"].shape[:2]
    if rows != num_outputs or (names and sorted(names) != sorted(classes)):
        found, needed = (f" ({', '.join(some)})" if some else "" for some in (names, classes))
        raise CheckpointError(
            f"{what} has {counted(rows, 'output')}{found}, and '{context.data.name}' needs {num_outputs}{needed}; take "
            "the data and classes that it was fitted to"
        )
    if kind != "upernet" and columns != width:
        raise CheckpointError(
            f"{what} takes {columns} numbers, and features are {width} wide (checkpoint '{recipe.checkpoint}', fusion "
            f"'{recipe.fusion}'); take the checkpoint of its size; a head of twice the width wants fusion=mixup_concat"
        )
    notes = [f"nothing was fitted here: {what.removeprefix('the ')}"]
    if names:
        order = [names.index(name) for name in classes]
        state |= {f"{layer}.{part}": state[f"{layer}.{part}"][order] for part in ("weight", "bias")}
    elif classes:
        ends = f"'{classes[0]}' to '{classes[-1]}'"
        notes.append(f"{what} names no classes; its outputs are taken in the order of the data's, {ends}")
    return state, where, tuple(notes)


def _stored_head(context: Context) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the weights of the head's own file with its header, else those in the checkpoint's, which says nothing."""
    file = context.recipe.head.file
    if file is not None:
        return read_weights(locate(file))
    stored = context.encoders["encoder"].checkpoint.head
    return {f"head.{name}": one for name, one in stored.items()}, {}


def _from_header(header: Mapping[str, str], key: str, what: str) -> Any:
    """Read JSON from a header: `classes` is a list, all else an object; empty where absent."""
    kind = list if key == "classes" else dict
    try:
        found = json.loads(header[key]) if key in header else kind()
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise CheckpointError(f"{what}: '{key}' in its header is no JSON {'list' if kind is list else 'object'}")
    return found


def _check_as_fitted(
    header: Mapping[str, str], settings: Mapping[str, Any], is_released: bool, context: Context, what: str
) -> None:
    """See that a head meets the features that it was fitted to, as far as its file says which those were."""
    recipe, of = context.recipe, flat_settings(settings)
    requested: dict[str, str] = {"protocol": context.protocol, "fusion": recipe.fusion, "input.pool": recipe.input.pool}
    found = {**of, "protocol": header.get("anyband_task")}
    if context.data.targets is None:
        requested["head.kind"] = recipe.head.kind
        found |= {"head.kind": "dfc2020"} if is_released else {}
    for key, value in requested.items():
        if found.get(key, value) not in (value, None):
            raise CheckpointError(f"{what} was fitted with {key} '{found[key]}', and '{value}' was requested")
    if header.get("encoder_hash", context.checkpoint_hash) != context.checkpoint_hash:
        raise CheckpointError(
            f"{what} was fitted on another encoder (sha256 {header['encoder_hash'][:16]}) than '{recipe.checkpoint}' "
            f"({context.checkpoint_hash[:16]}); name that one by --checkpoint: of a trained encoder it is the "
            "`…_checkpoint.safetensors` beside the head"
        )
