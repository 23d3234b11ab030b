"""The dry run of an evaluation."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from anyband.arrays import Array, Int
from anyband.data.store import SPLITS, Split
from anyband.encode.encoder import SensorEncoder, available_bytes, find_device, sequence_bytes
from anyband.encode.input_spec import checkpoint_sensors
from anyband.errors import AnybandError, CheckpointError, InputError, RecipeError
from anyband.evaluate.context import Context
from anyband.evaluate.features import FusedEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.predictions import Result
from anyband.evaluate.recipe import PROTOCOLS, CompareRecipe, Protocol, TransferRecipe
from anyband.evaluate.run import RunOptions, check_data, check_kind, run_protocol
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.open import open_task_data
from anyband.labelled.samples import Sample, TaskData
from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, load_checkpoint, state_of
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.progress import progress
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.ranges import load_ranges

__all__ = [
    "FITTED",
    "NUM_REHEARSED",
    "Check",
    "Cost",
    "DryRun",
    "Rehearsal",
    "cost_of",
    "dry_run",
    "num_epochs",
    "rehearse",
    "rehearsed_data",
]

NUM_REHEARSED = 2
"""Training samples of a rehearsal: what batch normalisation, mixup and two classes need at least."""

FITTED: tuple[Protocol, ...] = ("finetune", "segment", "change", "regress")
"""Protocols that train a head or a network by epochs of `fit`; the others probe features."""

# chosen: so many training samples are looked at for two with labels, or of two classes.
_SEARCHED = 16
_PARTS: tuple[Split, ...] = ("train", "val", "test")
# Reading, the protocol, encoding, and two epochs against one.
_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What was seen on a few samples."""

    result: Result
    """Of the encoder."""
    shapes: tuple[str, ...]
    """Of each image of a sample, as the network takes it."""
    encode_s: float
    """Seconds to read a sample and encode it once, at all scales or in all windows."""
    epoch_s: float
    """Seconds that an epoch of training takes for each sample that it trains or validates on."""
    fitted_bytes: int
    """Weights that are fitted, their gradients and what the optimiser keeps."""
    kept_bytes: int
    """What is kept for the gradient, for each sample of a batch."""


def rehearse(context: Context) -> Rehearsal:
    """Do a protocol on two training samples, which stand for validation and test too, for one epoch and for two.

    Two samples of validation and test are read as well. The context's own data, reader and encoders stay as they are.

    Raises:
        AnybandError: whatever the protocol itself would raise on these samples.
    """
    chosen = _chosen(context.data)
    with progress("dry run", _ROUNDS, shown=context.shown) as advance:
        shapes = _read_each_part(context, chosen)
        small = rehearsed_data(context.data, chosen)
        advance(1)
        result, watch, _ = _done(context, small, epochs=1)
        advance(1)
        encode_s = _encode_s(context, small)
        advance(1)
        epoch_s = _epoch_s(context, small) if num_epochs(context.recipe, context.protocol) else 0.0
        advance(1)
    return Rehearsal(
        result=result,
        shapes=shapes,
        encode_s=encode_s,
        epoch_s=epoch_s,
        fitted_bytes=watch.fitted_bytes,
        kept_bytes=watch.kept_bytes // NUM_REHEARSED,
    )


def num_epochs(recipe: TransferRecipe, protocol: Protocol) -> int:
    """Count the epochs of training that a protocol has; 0: it has none."""
    measured = recipe.measures if protocol == "leave-one-band-out" else protocol
    if measured in FITTED:
        return recipe.fit.epochs
    return recipe.linear.epochs if measured == "linear" and recipe.linear.solver == "adamw" else 0


def rehearsed_data(data: TaskData, samples: Sequence[int]) -> TaskData:
    """Make data of a few training samples that are validation and test at once.

    Args:
        data: to take them from.
        samples: positions.
    """
    taken = data.take(tuple(samples) * len(_PARTS), fingerprint="dry run")
    splits = tuple(part for part in _PARTS for _ in samples)
    names = tuple(f"{name} as {part}" for name, part in zip(taken.names, splits, strict=True))
    return replace(taken, names=names, splits=splits, places=(), contents=())


def _chosen(data: TaskData) -> list[int]:
    """Choose two training samples: of two classes, or with labels in their maps."""
    train = data.part("train")
    if len(train) < NUM_REHEARSED:
        raise InputError(f"'{data.name}' has {len(train)} training samples, and nothing can be learned from under two")
    if data.is_dense:
        return _with_labels(data, train[:_SEARCHED].tolist())
    if data.kind != "class" or data.targets is None:
        return [int(one) for one in train[:NUM_REHEARSED]]
    others = train[data.targets[train] != data.targets[train[0]]]
    if not len(others):
        raise InputError(f"the training samples of '{data.name}' are all of one class")
    return [int(train[0]), int(others[0])]


def _with_labels(data: TaskData, positions: Sequence[int]) -> list[int]:
    found: list[int] = []
    for position in positions:
        if _has_labels(data.read(position)):
            found.append(position)
        if len(found) == NUM_REHEARSED:
            return found
    raise InputError(
        f"of the first {len(positions)} training samples of '{data.name}', {len(found)} have a labelled pixel; look at "
        "data.classes and data.ignore"
    )


def _has_labels(sample: Sample) -> bool:
    classes, numbers = sample.class_map, sample.number_map
    if classes is not None:
        return bool((classes >= 0).any())
    return numbers is not None and bool(np.isfinite(numbers).any())


def _read_each_part(context: Context, chosen: Sequence[int]) -> tuple[str, ...]:
    """Read samples of every part as the network takes them, with targets."""
    data = context.data
    positions = [*chosen, *(int(one) for part in _PARTS[1:] for one in data.part(part)[:1])]
    few = data.take(positions, fingerprint="dry run")
    reader = TaskReader(context.encoders["encoder"], few, context.recipe)
    batches = list(reader.batches(_every(few), targets=True))
    shapes = [_shape(batch, slot) for batch in batches[:1] for slot in range(len(batch.images))]
    return tuple(shapes)


def _shape(batch: TaskBatch, slot: int) -> str:
    bands, rows, cols = batch.images[slot].pixels.shape[1:]
    return f"{batch.sensors[slot]}: {bands} bands, {rows} × {cols}"


def _every(data: TaskData) -> Int[Array, " sample"]:
    return np.arange(len(data), dtype=np.int64)


class _Watch:
    """Measures what a training step keeps in memory."""

    def __init__(self) -> None:
        self.fitted_bytes = 0
        self.kept_bytes = 0
        self._kept: dict[int, int] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all steps inside."""
        handle = register_optimizer_step_post_hook(self._stepped)
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor):
                yield
        finally:
            handle.remove()

    def _keep(self, tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if not isinstance(base, nn.Parameter):
            # A storage that several layers keep is there once.
            storage = tensor.untyped_storage()
            self._kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def _stepped(self, optimizer: Optimizer, _arguments: object, _named: object) -> None:
        fitted = [one for group in optimizer.param_groups for one in group["params"]]
        state = [value for values in optimizer.state.values() for value in values.values()]
        gradients = [one.grad for one in fitted if one.grad is not None]
        held = [one for one in (*fitted, *state, *gradients) if isinstance(one, Tensor)]
        self.fitted_bytes = max(self.fitted_bytes, sum(one.nbytes for one in held))
        self.kept_bytes = max(self.kept_bytes, sum(self._kept.values()))
        self._kept.clear()


def _done(context: Context, small: TaskData, *, epochs: int) -> tuple[Result, _Watch, float]:
    """Do the protocol and take its time, in seconds."""
    recipe, watch = _shortened(context.recipe, epochs), _Watch()
    encoder = context.encoders["encoder"]
    rehearsed = replace(
        context,
        recipe=recipe,
        data=small,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, small, recipe),
        cache=None,
        shown=False,
    )
    started = time.perf_counter()
    with watch.watching():
        result = run_protocol(rehearsed)[0]
    return result, watch, time.perf_counter() - started


def _epoch_s(context: Context, small: TaskData) -> float:
    """Take the time of an epoch, in seconds a sample: what two take longer than one, since the rest is as long."""
    times = [_done(context, small, epochs=epochs)[2] for epochs in (1, 2)]
    return max(times[1] - times[0], 0.0) / (2 * NUM_REHEARSED)


def _shortened(recipe: TransferRecipe, epochs: int) -> TransferRecipe:
    few = NUM_REHEARSED
    return recipe.changed(
        input=recipe.input.changed(batch_size=few),
        knn=recipe.knn.changed(k=min(recipe.knn.k, few)),
        linear=recipe.linear.changed(epochs=epochs, batch_size=few),
        fit=recipe.fit.changed(epochs=epochs, batch_size=few, warmup_epochs=0.0, patience=None),
        compare=CompareRecipe(),
    )


def _encode_s(context: Context, small: TaskData) -> float:
    """Take the time of reading and encoding the samples once, in seconds a sample."""
    encoder = context.encoders["encoder"]
    reader = TaskReader(encoder, small, context.recipe)
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in _batches(reader, context.recipe):
            _encode(encoder, batch.to(context.device))
    return (time.perf_counter() - started) / NUM_REHEARSED


def _batches(reader: TaskReader, recipe: TransferRecipe) -> Iterator[TaskBatch]:
    if reader.data.is_dense:
        for sample in range(NUM_REHEARSED):
            yield from (batch for batch, _ in reader.windows(sample))
        return
    for scale in recipe.input.scales:
        yield from reader.batches(range(NUM_REHEARSED), scale=scale)


def _encode(encoder: SensorEncoder, batch: TaskBatch) -> None:
    """Encode the images one by one: joint sequences cost more, stacked images less."""
    alone = FusedEncoder(encoder, fusion="single", pool="cls", seed=0, metadata=False)
    for slot, image in enumerate(batch.images):
        alone(replace(batch, images=(image,), sensors=(batch.sensors[slot],), metadata=None, targets=None)).cpu()


_MB, _GB = 1e6, 1e9
_MINUTE_S, _HOUR_S = 60.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """An estimate. Times are of batches of two; larger ones are quicker on a GPU."""

    device: str
    """That it was measured on."""
    num_encoded: int
    """Samples that are read and encoded once."""
    encode_s: float
    """Seconds that this takes for each."""
    num_epochs: int
    """Passes of training; 0: nothing is trained by epochs."""
    num_in_epoch: int
    """Samples that an epoch trains or validates on."""
    epoch_s: float
    """Seconds that this takes for each."""
    num_encoders: int
    """So many times all of it is done: with the untrained encoder, or without each band."""
    weights_bytes: int
    """Of the encoder."""
    fitted_bytes: int
    """Weights that are fitted, their gradients and what the optimiser keeps."""
    batch_bytes: int
    """What a batch keeps for the gradient, or takes while it is encoded."""
    free_bytes: int | None
    """Memory that is free; None: not known."""

    @property
    def total_s(self) -> float:
        """Seconds of the whole evaluation."""
        once = self.num_encoded * self.encode_s + self.num_epochs * self.num_in_epoch * self.epoch_s
        return once * self.num_encoders

    @property
    def needed_bytes(self) -> int:
        """Memory that the whole takes at least."""
        return self.weights_bytes + self.fitted_bytes + self.batch_bytes

    @property
    def advice(self) -> str:
        """What to do about the memory; empty: it is enough, or nobody knows."""
        if self.free_bytes is None or self.needed_bytes <= self.free_bytes:
            return ""
        return (
            f"a batch needs at least {self.needed_bytes / _GB:,.1f} GB on '{self.device}', and "
            f"{self.free_bytes / _GB:,.1f} GB are free; lower fit.batch_size (with lr_samples the rate follows), "
            "input.batch_size or input.img_size"
        )

    def said(self) -> list[tuple[str, str]]:
        """Tell time and memory in lines for people."""
        parts = [f"{self.num_encoded:,} samples encoded once, {_duration(self.num_encoded * self.encode_s)}"]
        if self.num_epochs:
            an_epoch = self.num_in_epoch * self.epoch_s
            each = f"{_duration(an_epoch)} each" if an_epoch else "too short to measure"
            parts.append(f"{self.num_epochs} epochs of {self.num_in_epoch:,} samples, {each}")
        if self.num_encoders > 1:
            parts.append(f"{self.num_encoders} times")
        free = "" if self.free_bytes is None else f"; {self.free_bytes / _GB:,.1f} GB are free"
        sizes = ((self.weights_bytes, "encoder"), (self.fitted_bytes, "what is fitted"), (self.batch_bytes, "a batch"))
        shares = ", ".join(f"{_size(size)} {what}" for size, what in sizes if size)
        return [
            (
                "time",
                f"about {_duration(self.total_s)} on '{self.device}', measured in batches of {NUM_REHEARSED}, so "
                f"rather less in larger ones: {'; '.join(parts)}",
            ),
            ("memory", f"at least {_size(self.needed_bytes)}: {shares}{free}"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain JSON values, with the sums."""
        return {**asdict(self), "total_s": self.total_s, "needed_bytes": self.needed_bytes}


def cost_of(context: Context, rehearsal: Rehearsal) -> Cost:
    """Reckon time and memory of a whole evaluation.

    Args:
        context: of the evaluation.
        rehearsal: what two of its samples cost.
    """
    recipe, counts, encoder = context.recipe, context.data.num_samples, context.encoders["encoder"]
    trains_encoder = context.protocol in FITTED and recipe.fit.encoder != "frozen"
    return Cost(
        device=context.device,
        # A trained encoder encodes its test samples at the end; the others come with the epochs.
        num_encoded=counts["test"] if trains_encoder else sum(counts.values()),
        encode_s=rehearsal.encode_s,
        num_epochs=num_epochs(recipe, context.protocol),
        num_in_epoch=counts["train"] + counts["val"],
        epoch_s=rehearsal.epoch_s,
        num_encoders=_num_encoders(context),
        weights_bytes=sum(one.nbytes for one in encoder.parameters()),
        fitted_bytes=rehearsal.fitted_bytes,
        batch_bytes=max(_encode_bytes(context), rehearsal.kept_bytes * _batch_size(context)),
        free_bytes=available_bytes(torch.device(context.device)),
    )


def _num_encoders(context: Context) -> int:
    if context.protocol != "leave-one-band-out":
        return 1 + context.recipe.compare.untrained
    # With every band, and without each in three ways.
    return 1 + 3 * _num_bands(context.data)


def _num_bands(data: TaskData) -> int:
    return max(sum(len(one.bands) for one in slots) for slots in data.sensors)


def _batch_size(context: Context) -> int:
    recipe = context.recipe
    asked = recipe.fit.batch_size if context.protocol in FITTED else recipe.linear.batch_size
    return min(asked, context.data.num_samples["train"])


def _encode_bytes(context: Context) -> int:
    encoder = context.encoders["encoder"].encoder
    tokens = (context.reader.img_size // encoder.config.patch_size) ** 2
    slots = max(len(one) for one in context.data.sensors)
    joint = context.recipe.fusion == "joint"
    return sequence_bytes(
        encoder,
        num_sets=context.recipe.input.batch_size * (1 if joint else slots),
        num_tokens=tokens * (slots if joint else 1),
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / _GB:,.1f} GB" if num_bytes >= _GB else f"{num_bytes / _MB:,.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.1f} min"
    return f"{seconds / _HOUR_S:,.1f} h"


_Made = TypeVar("_Made")

# Source: the published SMARTIES v1 weights: width, blocks and heads of ViT-B and ViT-L (arXiv 2010.11929, table 1).
_SIZES = {"b": ("ViT-B", 768, 12, 12), "l": ("ViT-L", 1024, 24, 16)}
_SIZE_IN_NAME = re.compile(r"vit[-_]?([bl])", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WEIGHTS = "model.safetensors"
_IMG_SIZE, _PATCH_SIZE = 224, 16


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    """`recipe`, `checkpoint`, `data`, `shapes` or `memory`."""
    ok: bool
    """Whether the evaluation can go on with it."""
    said: str
    """What was found, or what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What an evaluation would meet."""

    recipe: str
    """Its name."""
    protocol: Protocol
    """What would be done."""
    checks: tuple[Check, ...]
    """In the order in which they were made."""
    cost: Cost | None
    """Time and memory; None: nothing could be measured."""

    @property
    def ok(self) -> bool:
        """Whether nothing is in the way."""
        return all(check.ok for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """What was found, for people."""
        checks = [f"{check.what:<11} {'' if check.ok else 'NOT OK: '}{check.said}" for check in self.checks]
        costs = [] if self.cost is None else [f"{what:<11} {said}" for what, said in self.cost.said()]
        end = "nothing was scored; the evaluation can start" if self.ok else "nothing was scored; see NOT OK"
        return (*checks, *costs, end)

    def to_dict(self) -> dict[str, Any]:
        """Give the same as plain JSON values."""
        return {
            "recipe": self.recipe,
            "protocol": self.protocol,
            "ok": self.ok,
            "checks": [asdict(check) for check in self.checks],
            "cost": None if self.cost is None else self.cost.to_dict(),
        }


def dry_run(recipe: TransferRecipe, *, protocol: Protocol, options: RunOptions | None = None) -> DryRun:
    """Check all that an evaluation needs, do its protocol on two samples, and estimate what the whole costs.

    Every check is made that can be, so one wrong thing does not hide another. Nothing is downloaded: weights of the
    hub that are not here are stood for by random ones of the size in their name, and that is said.

    Args:
        recipe: of the evaluation.
        protocol: what is done.
        options: where it would run.

    Raises:
        InputError: there is no such device.
    """
    options = options or RunOptions()
    find_device(options.device)
    checks: list[Check] = []
    _look(checks, "recipe", lambda: (None, _checked_recipe(recipe, protocol)))
    encoder = _look(checks, "checkpoint", lambda: _encoder(recipe, options))
    data = _look(checks, "data", lambda: _data(recipe, protocol, encoder))
    if encoder is None or data is None or not checks[0].ok:
        return DryRun(recipe=recipe.name, protocol=protocol, checks=tuple(checks), cost=None)
    cost = _look(checks, "shapes", lambda: _rehearsed(recipe, protocol, options, encoder, data))
    if cost is not None and cost.advice:
        checks.append(Check(what="memory", ok=False, said=cost.advice))
    return DryRun(recipe=recipe.name, protocol=protocol, checks=tuple(checks), cost=cost)


def _look(checks: list[Check], what: str, make: Callable[[], tuple[_Made, str]]) -> _Made | None:
    """Make something and note what was found, or why it can't be made."""
    try:
        made, said = make()
    except AnybandError as problem:
        checks.append(Check(what=what, ok=False, said=str(problem)))
        return None
    except torch.OutOfMemoryError as problem:
        reason = str(problem).partition("\n")[0]
        checks.append(Check(what=what, ok=False, said=f"two samples do not fit the memory: {reason}"))
        return None
    checks.append(Check(what=what, ok=True, said=said))
    return made


def _checked_recipe(recipe: TransferRecipe, protocol: Protocol) -> str:
    if recipe.protocol not in (None, protocol):
        raise RecipeError(f"recipe '{recipe.name}' is for '{recipe.protocol}', and '{protocol}' was asked for")
    check_kind(recipe.data.kind, protocol)
    return f"{recipe.name}: {protocol}, {PROTOCOLS[protocol]}"


def _encoder(recipe: TransferRecipe, options: RunOptions) -> tuple[SensorEncoder, str]:
    """Load the encoder, or make one of the size that the name of the weights tells."""
    name = recipe.checkpoint
    if name is None:
        raise RecipeError("an evaluation needs a checkpoint: name it in the recipe or with --checkpoint")
    path, rules = _at_hand(name), recipe.input
    checkpoint, said = _stand_in(name) if path is None else (load_checkpoint(path), "")
    encoder = SensorEncoder(
        checkpoint,
        rules=AssignmentRules(unseen=rules.unseen, min_support=rules.min_support, out_of_span=rules.out_of_span),
    )
    config = encoder.config
    size = f"{config.depth} blocks, {config.embed_dim} wide, {config.img_size} pixels, patches of {config.patch_size}"
    return encoder.to(options.device).eval(), f"{name}: {said or size}"


def _at_hand(name: str) -> Path | None:
    """Find weights on this machine; None: a hub id whose file has not been fetched."""
    path = Path(name)
    if path.exists() or not _HUB_ID.fullmatch(name) or path.suffix:
        return path
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(name, _WEIGHTS)
    return Path(found) if isinstance(found, str) else None


def _stand_in(name: str) -> tuple[Checkpoint, str]:
    size = _SIZE_IN_NAME.search(name)
    if size is None:
        raise CheckpointError(
            f"'{name}' is not on this machine, and its name tells no size to check with; fetch it, or give a file"
        )
    title, width, depth, heads = _SIZES[size[1].lower()]
    ranges = load_ranges("smarties_v1")
    encoder = EncoderConfig(
        img_size=_IMG_SIZE,
        patch_size=_PATCH_SIZE,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_ranges=len(ranges.ranges),
    )
    # The decoder is not used.
    decoder = DecoderConfig(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=1)
    config = AutoencoderConfig(encoder=encoder, decoder=decoder)
    checkpoint = Checkpoint(config=config, state=state_of(Autoencoder(config, seed=0)), ranges=ranges)
    return checkpoint, f"not on this machine, and a dry run fetches nothing; a {title} of random weights stands in"


def _data(recipe: TransferRecipe, protocol: Protocol, encoder: SensorEncoder | None) -> tuple[TaskData, str]:
    known = {} if encoder is None else checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, download=False, sensors=known)
    check_data(data, recipe, protocol)
    parts = ", ".join(f"{data.num_samples[part]:,} {part}" for part in SPLITS)
    kinds = dict.fromkeys(data.sensors)
    sensors = " or ".join(" + ".join(f"{one.name} ({len(one.bands)})" for one in slots) for slots in kinds)
    classes = f"; {len(data.classes)} classes" if data.classes else ""
    notes = "".join(f"; {note}" for note in data.notes)
    return data, f"{data.name}: {parts}{classes}; sensors (bands): {sensors}{notes}"


def _rehearsed(
    recipe: TransferRecipe, protocol: Protocol, options: RunOptions, encoder: SensorEncoder, data: TaskData
) -> tuple[Cost, str]:
    context = Context(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, data, recipe),
        cache=None,
        checkpoint_hash="",
        device=options.device,
        shown=options.shown,
    )
    rehearsal = rehearse(context)
    said = (
        f"{NUM_REHEARSED} training samples went through all of it, and one of val and test was read; "
        f"{'; '.join(rehearsal.shapes)}; {rehearsal.result.width} numbers "
        f"{'a pixel' if context.data.is_dense else 'a sample'}"
    )
    return cost_of(context, rehearsal), said
