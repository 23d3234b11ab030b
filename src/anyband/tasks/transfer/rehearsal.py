"""A protocol done on two samples: whether everything fits together, and what a sample costs."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from anyband.data.chip_index import Split
from anyband.data.supervised.records import Sample, TaskData
from anyband.errors import InputError
from anyband.progress import progress
from anyband.shapes import Array, Int
from anyband.tasks.features import SensorEncoder
from anyband.tasks.transfer.fusion import FusedEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.recipe import CompareRecipe, Protocol, TransferRecipe
from anyband.tasks.transfer.records import Outcome, TaskBatch
from anyband.tasks.transfer.run import run_protocol
from anyband.tasks.transfer.setting import Setting

__all__ = ["FITTED", "NUM_REHEARSED", "Rehearsal", "num_epochs", "rehearse", "rehearsed_data"]

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

    outcome: Outcome
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


def rehearse(setting: Setting) -> Rehearsal:
    """Do a protocol on two training samples, which stand for validation and test too, for one epoch and for two.

    Two samples of validation and test are read as well. The setting's own data, reader and encoders stay as they are.

    Raises:
        AnybandError: whatever the protocol itself would raise on these samples.
    """
    chosen = _chosen(setting.data)
    with progress("dry run", _ROUNDS, shown=setting.shown) as advance:
        shapes = _read_each_part(setting, chosen)
        small = rehearsed_data(setting.data, chosen)
        advance(1)
        outcome, watch, _ = _done(setting, small, epochs=1)
        advance(1)
        encode_s = _encode_s(setting, small)
        advance(1)
        epoch_s = _epoch_s(setting, small) if num_epochs(setting.recipe, setting.protocol) else 0.0
        advance(1)
    return Rehearsal(
        outcome=outcome,
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


def _read_each_part(setting: Setting, chosen: Sequence[int]) -> tuple[str, ...]:
    """Read samples of every part as the network takes them, with targets."""
    data = setting.data
    positions = [*chosen, *(int(one) for part in _PARTS[1:] for one in data.part(part)[:1])]
    few = data.take(positions, fingerprint="dry run")
    reader = TaskReader(setting.encoders["encoder"], few, setting.recipe)
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


def _done(setting: Setting, small: TaskData, *, epochs: int) -> tuple[Outcome, _Watch, float]:
    """Do the protocol and take its time, in seconds."""
    recipe, watch = _shortened(setting.recipe, epochs), _Watch()
    encoder = setting.encoders["encoder"]
    rehearsed = replace(
        setting,
        recipe=recipe,
        data=small,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, small, recipe),
        cache=None,
        shown=False,
    )
    started = time.perf_counter()
    with watch.watching():
        outcome = run_protocol(rehearsed)[0]
    return outcome, watch, time.perf_counter() - started


def _epoch_s(setting: Setting, small: TaskData) -> float:
    """Take the time of an epoch, in seconds a sample: what two take longer than one, since the rest is as long."""
    times = [_done(setting, small, epochs=epochs)[2] for epochs in (1, 2)]
    return max(times[1] - times[0], 0.0) / (2 * NUM_REHEARSED)


def _shortened(recipe: TransferRecipe, epochs: int) -> TransferRecipe:
    few = NUM_REHEARSED
    return replace(
        recipe,
        input=replace(recipe.input, batch_size=few),
        knn=replace(recipe.knn, k=min(recipe.knn.k, few)),
        linear=replace(recipe.linear, epochs=epochs, batch_size=few),
        fit=replace(recipe.fit, epochs=epochs, batch_size=few, warmup_epochs=0.0, patience=None),
        compare=CompareRecipe(),
    )


def _encode_s(setting: Setting, small: TaskData) -> float:
    """Take the time of reading and encoding the samples once, in seconds a sample."""
    encoder = setting.encoders["encoder"]
    reader = TaskReader(encoder, small, setting.recipe)
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in _batches(reader, setting.recipe):
            _encode(encoder, batch.to(setting.device))
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
