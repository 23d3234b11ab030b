"""Segmentation, change detection and regression of maps: a head over an encoder's levels, and maps without seams."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Array, Float, Int, Num
from anyband.data.store import Split
from anyband.encode.encoder import available_bytes
from anyband.encode.metadata import Precision
from anyband.errors import InputError, RecipeError
from anyband.evaluate.features import (
    Context,
    Difference,
    FusedEncoder,
    Levels,
    Result,
    SiameseEncoder,
    extract_features,
)
from anyband.evaluate.fitting import (
    AdaptedEncoder,
    adapt,
    fit,
    fitted_head,
    predicting,
    sensors_of,
    trained_weights_note,
    tuned_checkpoint,
)
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import Counted, chosen_epoch, count_map, map_predictions, metric_of, value_of
from anyband.evaluate.recipe import AugmentRecipe, MapLoss
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.models.heads import LinearHead, UPerNetHead, head_blocks, load_head, make_head, resized
from anyband.rasters.grid import Blender, Window

__all__ = [
    "ClassMaps",
    "MapKind",
    "MapNetwork",
    "NumberMaps",
    "fit_maps",
    "joined_windows",
    "number_maps_of",
    "predict_whole",
    "predict_windows",
]

# chosen: a page of pictures.
_NUM_PICTURES = 8
# chosen: UPerNet with 512 channels was seen to take 150 MB for a sample of 224 × 224 pixels (CPU).
_HEAD_SAMPLES = 8
# chosen: what is left is for the head, its activations, and reading.
_MEMORY_SHARE = 0.4
_FLOAT_BYTES = 4
# Two classes are one question. A class that is absent and not predicted scores 1. Source of the smoothing: PANGAEA.
_TWO, _DICE_SMOOTH = 2, 1e-6

Read = Callable[[Float[Array, "output row col"]], Num[Array, "row col"]]
"""Makes a map of a network's outputs."""


class ClassMaps:
    """Maps of classes: cross entropy or Dice loss, mean intersection over union."""

    def __init__(self, num_classes: int, *, label_smoothing: float = 0.0, loss: MapLoss = "cross_entropy") -> None:
        self.num_outputs = num_classes
        self._label_smoothing, self._loss = label_smoothing, loss

    def loss(self, logits: Float[Tensor, "sample class row col"], classes: Int[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean over the labelled pixels (class not −1), 0 without any; cross entropy is smoothed there."""
        smoothing = self._label_smoothing
        if self._loss == "dice":
            return _dice_loss(logits, classes)
        # A batch without labels has no gradient; a mean over no pixels would be NaN.
        summed = functional.cross_entropy(logits, classes, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
        return summed / (classes >= 0).sum().clamp(min=1)

    def read(self, outputs: Float[Array, "output row col"]) -> Num[Array, "row col"]:
        return np.asarray(outputs.argmax(axis=0), dtype=np.int16)

    def score(self, counts: Num[Array, "sample class class"]) -> float:
        """Compute the mIoU over the pixels of all samples; NaN where no pixel has a label."""
        return value_of(metric_of("class_map", {"confusion": counts}, "miou"), num_samples=len(counts))


def _dice_loss(logits: Float[Tensor, "sample class row col"], classes: Int[Tensor, "sample row col"]) -> Tensor:
    """Compute 1 − the mean Dice score of each sample with labels and each class; of two classes the second alone.
    Source: Milletari, Ahmadi & Navab, V-Net, arXiv 1606.04797, with denominators of first order; a single logit, as
    PANGAEA (arXiv 2412.04204) has it for buildings, is the difference of two.
    """
    labelled = (classes >= 0)[:, None]
    shares = logits.float().softmax(dim=1) * labelled
    wanted = functional.one_hot(classes.clamp(min=0), logits.shape[1]).movedim(-1, 1) * labelled
    if logits.shape[1] == _TWO:
        shares, wanted = shares[:, 1:], wanted[:, 1:]
    both, all_ = ((values.sum(dim=(2, 3)) + _DICE_SMOOTH) for values in (2 * shares * wanted, shares + wanted))
    has_labels = labelled.any(dim=3).any(dim=2).to(shares.dtype)
    return ((1 - both / all_) * has_labels).sum() / (has_labels.sum() * shares.shape[1]).clamp(min=1)


class NumberMaps:
    """Maps of numbers: squared error of standardised numbers; what is read is in the data's own unit."""

    num_outputs = 1

    def __init__(self, *, mean: float, std: float) -> None:
        self.mean, self.std = mean, std

    def loss(self, predicted: Float[Tensor, "sample 1 row col"], numbers: Float[Tensor, "sample row col"]) -> Tensor:
        """Compute the mean squared error over the pixels with a number (not NaN); 0 where there is none."""
        known = torch.isfinite(numbers)
        # Filled before the difference: the gradient of NaN · 0 is NaN.
        error = (predicted[:, 0] - ((numbers - self.mean) / self.std).nan_to_num()) * known
        return error.square().sum() / known.sum().clamp(min=1)

    def read(self, outputs: Float[Array, "output row col"]) -> Num[Array, "row col"]:
        return np.asarray(outputs[0] * self.std + self.mean, dtype=np.float32)

    def score(self, counts: Num[Array, "sample 5"]) -> float:
        """Compute minus the root of the mean squared error over the pixels of all samples; NaN where none has one."""
        pixels, error_squared = counts[:, 0].sum(), counts[:, 3].sum()
        return -float(np.sqrt(error_squared / pixels)) if pixels else float("nan")

    def settled(self, head: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give the weights of a fitted head as they are kept: its outputs are in the data's own unit."""
        weight, bias = head["classifier.weight"] * self.std, head["classifier.bias"] * self.std + self.mean
        return {**head, "classifier.weight": weight, "classifier.bias": bias}


MapKind = ClassMaps | NumberMaps


def number_maps_of(maps: Iterable[Float[Array, "_ _"]]) -> NumberMaps:
    """Take mean and spread over all pixels that have a number, one at least; a spread of 0 counts as 1.
    Source: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983: parts are joined exactly.
    """
    count, mean, squares = 0, 0.0, 0.0
    for one in maps:
        numbers = one[np.isfinite(one)].astype(np.float64)
        if not numbers.size:
            continue
        apart, total = float(numbers.mean()) - mean, count + numbers.size
        squares += float(numbers.var()) * numbers.size + apart**2 * count * numbers.size / total
        mean += apart * numbers.size / total
        count = total
    if not count:
        raise InputError("no pixel of the training split has a number; look at the labels and at `data.split`")
    std = float(np.sqrt(squares / count))
    return NumberMaps(mean=mean, std=std if std > 0 else 1.0)


def fit_maps(context: Context) -> list[Result]:
    """Fit a head for maps over each encoder, and the encoder with it where the recipe says so; or score a fitted one.
    Validation chooses the epoch, by mIoU or the error, and test reports. Test compares at the size of the labels.
    Images are seen whole and the outputs resized to it (`input.resize: whole`), or in overlapping windows whose outputs
    are averaged (`native`). Equal settings give equal results; the context's encoders stay as they are.

    For change, the first half of a sample's images is before, the second after, in the same order; the sensors may
    differ. Two classes are changed or not, more are kinds. The loss of numbers is the squared error of numbers that are
    standardised by the training pixels, which must have some; what is predicted is in the data's own unit.
    An empty split, or images that do not fit the network, are an `InputError`.
    Source: SMARTIES (arXiv 2506.19585), section 4, tables 5 and 6.
    """
    data, recipe = context.data, context.recipe
    augment, smoothing, num_classes = recipe.fit.augment, recipe.fit.label_smoothing, len(data.classes)
    if data.kind == "number_map" and (smoothing or recipe.fit.loss != "cross_entropy"):
        raise RecipeError(
            "fit.label_smoothing and fit.loss are for classes, and these data have numbers; leave them out"
        )
    for split, count in data.num_samples.items():
        if not count and (split == "test" or not recipe.eval_only):
            raise InputError(f"'{data.name}' has no sample in '{split}'; look at data.split")
    if augment.mixup or augment.cutmix:
        raise RecipeError(
            "fit.augment.mixup and fit.augment.cutmix mix the classes of whole images, and these data have maps; "
            "set both to 0"
        )
    counts = sorted({len(slots) for slots in data.sensors})
    if len(counts) > 1:
        raise InputError(
            f"samples of '{data.name}' have {counts[0]} to {counts[-1]} images, and a head for maps has one width; "
            "give samples with equally many"
        )
    if data.kind == "number_map" and recipe.eval_only:
        # The outputs of a fitted head are in the data's own unit.
        kind: MapKind = NumberMaps(mean=0.0, std=1.0)
    elif data.kind == "number_map":
        kind = number_maps_of(context.reader.target(int(sample)) for sample in data.split("train"))
    else:
        kind = ClassMaps(num_classes, label_smoothing=smoothing, loss=context.recipe.fit.loss)
    # For changed or not the order of dates says nothing, for kinds of change it does.
    dates: Difference = "absolute" if num_classes == 2 else "signed"
    difference = dates if context.protocol == "change" else None
    title = {"change": "change detection", "regress": "regression"}.get(context.protocol, "segmentation")
    return [_fitted(context, name, kind, title=f"{title}, {name}", difference=difference) for name in context.encoders]


def _fitted(context: Context, name: str, kind: MapKind, *, title: str, difference: Difference | None) -> Result:
    data, recipe = context.data, context.recipe
    is_frozen = recipe.eval_only or (recipe.fit.encoder == "frozen" and recipe.fit.new_ranges == "none")
    adapted = None if is_frozen else adapt(context.encoders[name], data, recipe)
    sensor_encoder = context.encoders[name] if adapted is None else adapted.encoder
    fused = context.fused(sensor_encoder)
    encoder = fused if difference is None else SiameseEncoder(fused, difference=difference)
    blocks = head_blocks(recipe.head.kind, depth=sensor_encoder.config.depth, blocks=recipe.head.blocks)
    width = encoder.map_width(len(data.sensors[0]))
    if recipe.fusion == "ltae" and difference is not None:
        raise RecipeError("fusion=ltae makes one map of all dates, and change is between two; set fusion=concat")
    head = make_head(
        recipe.head.kind,
        width=width,
        num_outputs=kind.num_outputs,
        channels=recipe.head.channels,
        weighed_images=len(data.sensors[0]) if recipe.fusion == "ltae" else 1,
        seed=recipe.seed,
    )
    network = MapNetwork(
        head,
        encoder,
        blocks=blocks,
        img_size=context.reader.img_size,
        frozen=recipe.input.precision if is_frozen else None,
    )
    if adapted is not None and adapted.new_ranges:
        context = replace(context, reader=TaskReader(sensor_encoder, data, recipe))
    samples = _MapSamples(context, network.to(context.device), encoder)
    if recipe.eval_only:
        state, where, said = fitted_head(context, width=width, num_outputs=kind.num_outputs)
        load_head(head, state, where=where)
        return replace(_tested(context, name, kind, network, samples), notes=said)
    notes = () if adapted is None else (*adapted.notes, trained_weights_note(network))
    losses, validation = fit(
        network,
        recipe.fit,
        batches=samples.training_batches,
        steps_per_epoch=len(context.reader.training_order(0)),
        # Steps of training are counted from 1, so that what is drawn in them differs from what is drawn for test.
        loss=lambda batch, step: kind.loss(network(batch, step=step + 1).float(), cast(Tensor, batch.targets)),
        validate=lambda: kind.score(_counts(samples, kind, data, "val")[0]),
        names=data.names,
        seed=recipe.seed,
        device=context.device,
        title=title,
        shown=context.shown,
    )
    found = _tested(context, name, kind, network, samples, adapted)
    chosen, curves = chosen_epoch(validation, data.kind), {"training loss": losses, "validation": validation}
    return replace(found, chosen=chosen, curves=curves, notes=notes)


def _tested(
    context: Context,
    name: str,
    kind: MapKind,
    network: "MapNetwork",
    samples: "_MapSamples",
    adapted: AdaptedEncoder | None = None,
) -> Result:
    """Predict the test samples, and keep what was fitted, the encoder with it where it was `adapted`."""
    data, recipe = context.data, context.recipe
    if adapted is not None:
        adapted.settle()
    with predicting(network, recipe.fit):
        counts, counted = _counts(samples, kind, data, "test")
        # From the worst to the best sample in equal steps of rank; those without labelled pixels are left out.
        scores = np.array([kind.score(one[None]) for one in counts])
        ranked = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]
        steps = np.linspace(0, len(ranked) - 1, min(_NUM_PICTURES, len(ranked))).round().astype(np.int64)
        pictured = data.split("test")[ranked[steps]]
        maps = dict(samples.predicted(pictured, kind.read, labelled=False))
    result = Result(features=name, width=network.head.width, predictions=map_predictions(data, counted), maps=maps)
    if recipe.eval_only:
        return result
    head_state = network.head.state_dict()
    settled = kind.settled(head_state) if isinstance(kind, NumberMaps) else head_state
    weights = {f"head.{key}": one.detach().cpu().contiguous() for key, one in settled.items()}
    if adapted is None:
        return replace(result, model=weights)
    specs = (context.reader.input_spec(sensor) for sensor in sensors_of(data))
    checkpoint = tuned_checkpoint(adapted.encoder, specs)
    return replace(result, model={**checkpoint.state, **weights}, checkpoint=checkpoint)


def _counts(
    samples: "_MapSamples", kind: MapKind, data: TaskData, split: Split
) -> tuple[Num[Array, "sample ..."], list[Counted]]:
    rows, counted = dict[int, Num[Array, "..."]](), list[Counted]()
    for position, predicted in samples.predicted(data.split(split), kind.read, labelled=True):
        rows[position], found = count_map(data, position, samples.truth(position), predicted)
        counted += found
    return np.stack([rows[position] for position in data.split(split).tolist()]), counted


class MapNetwork(nn.Module):
    """A head over the levels of an encoder after `blocks`, for input of `img_size` pixels.
    `frozen` is the precision of the arithmetic of an encoder in evaluation mode, whatever the head's is: it gives a
    sample the same levels at every step, without gradients, and is no part of this module. None: it is trained, too.
    """

    def __init__(
        self,
        head: LinearHead | UPerNetHead,
        encoder: FusedEncoder | SiameseEncoder,
        *,
        blocks: Levels,
        img_size: int,
        frozen: Precision | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.img_size = img_size
        self.blocks = blocks
        self.encoder = encoder if frozen is None else None
        self._frozen = None if frozen is None else (encoder, frozen)

    def levels(self, batch: TaskBatch, step: int = 0) -> tuple[Tensor, ...]:
        """Make the levels of a batch on this network's device, or take them where they are known."""
        batch = batch.to(next(self.head.parameters()).device)
        if batch.levels:
            return batch.levels
        if self._frozen is None:
            assert self.encoder is not None
            return self.encoder.levels(batch, self.blocks, step=step)
        encoder, precision = self._frozen
        encoder.eval()
        device = batch.images[0].pixels.device.type
        with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bf16"):
            return tuple(level.float() for level in encoder.levels(batch, self.blocks))

    def forward(self, batch: TaskBatch, *, step: int = 0) -> Float[Tensor, "sample output row col"]:
        """Compute the outputs of each pixel of the network's input; `step` is of training, for what is drawn."""
        outputs: Tensor = self.head(self.levels(batch, step), (self.img_size, self.img_size))
        return outputs


class _MapSamples:
    """Labelled maps as a network takes them, which stays the same object.
    Levels of a frozen encoder are made once where memory holds them: those of all samples where training sees each in
    one way only (whole, never varied), else those of the windows of validation samples, which each epoch asks for. The
    order of training is that of reading, so both give the same head, but for rounding.
    """

    def __init__(self, context: Context, network: MapNetwork, encoder: FusedEncoder | SiameseEncoder) -> None:
        self._reader, self._network, recipe = context.reader, network, context.recipe
        self._native, self._batch_size = recipe.input.resize == "native", recipe.input.batch_size
        self._truths: dict[int, Num[Array, "row col"]] = {}
        self._targets: dict[int, Tensor] = {}
        self._windows: dict[int, list[tuple[TaskBatch, Window]]] = {}
        self._repeated = set(context.data.split("val").tolist()) if network.encoder is None else set()
        free = available_bytes(torch.device("cpu"))
        self._room = np.inf if free is None else _MEMORY_SHARE * free
        self._levels: tuple[Tensor, ...] = ()
        plain = recipe.fit.augment == AugmentRecipe() and recipe.input.resize == "whole"
        num_levels = 1 if network.blocks == "final" else len(network.blocks)
        patches = (network.img_size // next(iter(context.encoders.values())).config.patch_size) ** 2
        num_bytes = len(context.data) * num_levels * network.head.width * patches * _FLOAT_BYTES
        if network.encoder is None and plain and num_bytes < self._room and not recipe.eval_only:
            every = np.arange(len(context.data))
            self._levels = extract_features(
                {"": encoder}, self._reader, every, blocks=network.blocks, cache=context.cache, shown=context.shown
            )[""]
            for batch in self._reader.batches(context.data.split("train"), targets=True, shown=context.shown):
                assert batch.targets is not None
                # Classes are held in few bytes, here and in `truth`.
                held = batch.targets if batch.targets.is_floating_point() else batch.targets.short()
                self._targets |= zip(batch.samples.tolist(), held, strict=True)

    def training_batches(self, epoch: int) -> Iterator[TaskBatch]:
        if not self._levels:
            yield from self._reader.training_batches(epoch)
        for samples in self._reader.training_order(epoch) if self._levels else ():
            targets = torch.stack([self._targets[sample] for sample in samples])
            levels = tuple(level[samples] for level in self._levels)
            targets = targets if targets.is_floating_point() else targets.long()
            yield TaskBatch(samples=np.array(samples), levels=levels, targets=targets)

    def predicted(
        self, samples: Int[Array, " sample"], read: Read, *, labelled: bool
    ) -> Iterator[tuple[int, Num[Array, "row col"]]]:
        """Predict maps at the size of their labels, of samples in any order, by the network in evaluation mode.
        `labelled` leaves out windows without any label; what is predicted where labels are stays the same.
        """
        if not self._native:
            chunks = (samples[first : first + self._batch_size] for first in range(0, len(samples), self._batch_size))
            known = (TaskBatch(samples=one, levels=tuple(level[one] for level in self._levels)) for one in chunks)
            batches = known if self._levels else self._reader.batches(samples)
            yield from predict_whole(self._network, batches, read=read, size_of=lambda at: self.truth(at).shape)
            return
        for sample in samples.tolist():
            windows = self._windows_of(sample, labelled=labelled)
            yield sample, predict_windows(self._network, windows, read=read, size=self.truth(sample).shape)

    def truth(self, sample: int) -> Num[Array, "row col"]:
        """Give the map of a sample at its own size; it is read once and held in few bytes."""
        if sample not in self._truths:
            found = self._reader.target(sample)
            self._truths[sample] = found if found.dtype.kind == "f" else found.astype(np.int16)
        return self._truths[sample]

    def _windows_of(self, sample: int, *, labelled: bool) -> Iterator[tuple[TaskBatch, Window]]:
        if not labelled:
            yield from self._reader.windows(sample)
            return
        if sample in self._windows:
            yield from self._windows[sample]
            return
        truth = self.truth(sample)
        known = np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0
        made = []
        for batch, window in self._reader.windows(sample, needed=lambda one: bool(known[one.slices].any())):
            if sample not in self._repeated:
                yield batch, window
                continue
            with torch.no_grad():
                levels = self._network.levels(batch)
            kept = replace(batch, images=(), levels=tuple(level.cpu() for level in levels))
            self._room -= sum(level.nbytes for level in kept.levels)
            made.append((kept, window))
            yield made[-1]
        if sample in self._repeated and self._room > 0:
            self._windows[sample] = made


def predict_whole(
    network: MapNetwork,
    batches: Iterable[TaskBatch],
    *,
    read: Read,
    size_of: Callable[[int], tuple[int, ...]],
) -> Iterator[tuple[int, Num[Array, "row col"]]]:
    """Predict the maps of samples that the network sees whole, with their positions; `size_of` gives rows and columns.
    The outputs are resized, bilinearly, not the classes.
    """
    for batch in batches:
        with torch.no_grad():
            levels = network.levels(batch)
        for row, sample in enumerate(batch.samples.tolist()):
            if row % _HEAD_SAMPLES == 0:
                with torch.no_grad():
                    outputs = network.head([level[row : row + _HEAD_SAMPLES] for level in levels]).float()
            one = row % _HEAD_SAMPLES
            rows, cols = size_of(sample)
            yield sample, read(resized(outputs[one : one + 1], (rows, cols))[0].cpu().numpy())


def predict_windows(
    network: MapNetwork, windows: Iterable[tuple[TaskBatch, Window]], *, read: Read, size: tuple[int, ...]
) -> Num[Array, "row col"]:
    """Predict the map of a sample from overlapping windows of one size, row by row, whose outputs are averaged.
    Where there is no window, what is predicted means nothing.
    """

    def outputs() -> Iterator[tuple[Window, Float[Array, "output row col"]]]:
        for batch, window in windows:
            with torch.no_grad():
                found = network(batch).float()
            # Images that are smaller than the input fill its first rows and columns.
            yield window, found[0, :, : window.height, : window.width].cpu().numpy()

    strips = [read(strip) for strip in joined_windows(outputs(), size=size)]
    if not strips:
        return read(np.full((network.head.num_outputs, *size), np.nan, dtype=np.float32))
    return np.concatenate(strips)


def joined_windows(
    parts: Iterable[tuple[Window, Float[Array, "output row col"]]], *, size: tuple[int, ...]
) -> Iterator[Float[Array, "output row col"]]:
    """Join overlapping windows of one size, row by row, to strips of the whole width, one below the other.
    Only a few rows are held at once.
    """
    blender, height = None, 0
    for window, values in parts:
        if blender is None:
            height = window.height
            shape = (window.height, window.width)
            blender = Blender(num_bands=len(values), width=size[1], window=shape, num_rows=height)
        yield from _taken(blender, window.row, height)
        blender.add(window, values)
    if blender is not None:
        yield from _taken(blender, size[0], height)


def _taken(blender: Blender, last_row: int, at_once: int) -> Iterator[Float[Array, "output row col"]]:
    while (left := last_row - blender.first_row) > 0:
        yield blender.take(min(left, at_once))
