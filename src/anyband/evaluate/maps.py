"""Segmentation, change detection and regression of maps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from torch import Tensor

from anyband.arrays import Array, Int, Num
from anyband.errors import InputError, RecipeError
from anyband.evaluate.adapt import AdaptedEncoder, adapt, checkpoint_of
from anyband.evaluate.context import Context
from anyband.evaluate.fitting import FitResult, FitTask, fit, parameter_groups, predicting
from anyband.evaluate.fusion import FusedEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.map_kinds import ClassMaps, MapCounts, MapKind, number_maps_of
from anyband.evaluate.map_model import (
    Difference,
    FrozenEncoder,
    KnownSamples,
    LevelBatch,
    MapNetwork,
    MapSamples,
    ReadSamples,
    SiameseEncoder,
    fits_memory,
    frozen_levels,
    map_head,
    stays_the_same,
)
from anyband.evaluate.predictions import Result
from anyband.evaluate.recipe import FitRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.models.heads import FINAL, head_blocks

__all__ = ["DenseTask", "change", "difference_for", "fit_maps", "regress_maps", "segment"]

# chosen: a page of pictures; they go from the worst to the best of the test samples in equal steps of rank.
_NUM_PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class DenseTask:
    """What is fitted, beside the context."""

    kind: MapKind
    """What the maps hold."""
    around: Callable[[FusedEncoder], FusedEncoder | SiameseEncoder]
    """Makes what gives levels of an encoder."""
    title: str
    """Of progress bars."""


def fit_maps(context: Context, task: DenseTask) -> list[Result]:
    """Fit a head over each encoder, and the encoder with it where the recipe says so.

    The context's encoders stay as they are. Equal settings give equal results.

    Args:
        context: data of maps.
        task: what the maps hold, and how levels are made.

    Raises:
        InputError: a part is empty, or samples do not go together.
        RecipeError: settings that do not go together.
        TrainingError: a loss is not finite.
    """
    _check(context)
    return [_result(context, task, name) for name in context.encoders]


def _check(context: Context) -> None:
    data, augment = context.data, context.recipe.fit.augment
    for part, count in data.num_samples.items():
        if not count:
            raise InputError(f"'{data.name}' has no sample in '{part}'; look at data.split")
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Parts:
    """What is built before anything is fitted."""

    network: MapNetwork
    """Head, and the encoder where it is trained."""
    samples: MapSamples
    """The labelled samples as the network takes them."""
    width: int
    """Of a level."""
    adapted: AdaptedEncoder | None
    """The encoder that is trained; None: it is frozen."""


def _result(context: Context, task: DenseTask, name: str) -> Result:
    parts, recipe = _parts(context, task, name), context.recipe
    notes = () if parts.adapted is None else (*parts.adapted.notes, _counted(parts.network))
    result = _fitted(parts, context, task, title=f"{task.title}, {name}")
    if parts.adapted is not None:
        parts.adapted.settle()
    test = context.data.part("test")
    with predicting(parts.network, recipe.fit):
        counted = MapCounts(data=context.data, kind=task.kind)
        counts = _counts(parts, task.kind, test, counted)
        pictures = _spread(counts, task.kind)
        maps = dict(parts.samples.predicted(parts.network, test[pictures], task.kind.read, labelled=False))
    return Result(
        features=name,
        width=parts.width,
        predictions=counted.predictions(),
        chosen={"epoch": result.best_epoch, f"validation {task.kind.metric}": result.best_score},
        curves={"training loss": result.losses, "validation": result.validation},
        maps=maps,
        model=_weights(parts, task.kind),
        notes=notes,
    )


def _parts(context: Context, task: DenseTask, name: str) -> _Parts:
    data, recipe = context.data, context.recipe
    adapted = None if _is_frozen(recipe.fit) else adapt(context.encoders[name], data, recipe)
    sensor_encoder = context.encoders[name] if adapted is None else adapted.encoder
    encoder = task.around(replace(context, encoders={name: sensor_encoder}).fused(name))
    blocks = head_blocks(recipe.head.kind, depth=sensor_encoder.config.depth, blocks=recipe.head.blocks)
    width = encoder.map_width(len(data.sensors[0]))
    head = map_head(recipe.head, width=width, num_outputs=task.kind.num_outputs, seed=recipe.seed)
    if adapted is not None:
        reader = TaskReader(adapted.encoder, data, recipe) if adapted.new_ranges else context.reader
        network = MapNetwork(head, blocks=blocks, encoder=encoder)
        samples: MapSamples = ReadSamples(reader, native=recipe.input.resize == "native", frozen=False)
    else:
        network = MapNetwork(
            head, blocks=blocks, frozen=frozen_levels(encoder, blocks, precision=recipe.input.precision)
        )
        samples = _frozen_samples(context, FrozenEncoder(name=name, encoder=encoder, blocks=blocks))
    return _Parts(network=network.to(context.device), samples=samples, width=width, adapted=adapted)


def _frozen_samples(context: Context, frozen: FrozenEncoder) -> MapSamples:
    width = frozen.encoder.map_width(len(context.data.sensors[0]))
    num_levels = 1 if frozen.blocks == FINAL else len(frozen.blocks)
    patch_size = context.encoders[frozen.name].config.patch_size
    if stays_the_same(context) and fits_memory(context, width=width, num_levels=num_levels, patch_size=patch_size):
        return KnownSamples(context, frozen)
    return ReadSamples(context.reader, native=context.recipe.input.resize == "native", frozen=True)


def _is_frozen(fit_recipe: FitRecipe) -> bool:
    return fit_recipe.encoder == "frozen" and fit_recipe.new_ranges == "none"


def _fitted(parts: _Parts, context: Context, task: DenseTask, *, title: str) -> FitResult:
    recipe, validation = context.recipe, context.data.part("val")
    fit_task: FitTask[MapNetwork, TaskBatch | LevelBatch] = FitTask(
        batches=parts.samples.training_batches,
        steps_per_epoch=parts.samples.steps_per_epoch,
        loss=partial(_loss, kind=task.kind),
        validate=lambda _: task.kind.score(_counts(parts, task.kind, validation)),
        groups=lambda network: parameter_groups(network, recipe.fit),
        names=context.data.names,
        title=title,
    )
    return fit(parts.network, fit_task, recipe.fit, seed=recipe.seed, device=context.device, shown=context.shown)


def _loss(network: MapNetwork, batch: TaskBatch | LevelBatch, step: int, *, kind: MapKind) -> Tensor:
    if batch.targets is None:
        raise InputError("training batches came without targets")
    # Steps of training are counted from 1, so that what is drawn in them differs from what is drawn for test.
    return kind.loss(network(batch, step=step + 1).float(), batch.targets)


def _counts(
    parts: _Parts, kind: MapKind, samples: Int[Array, " sample"], counted: MapCounts | None = None
) -> Num[Array, "sample ..."]:
    rows: dict[int, Num[Array, "..."]] = {}
    for position, predicted in parts.samples.predicted(parts.network, samples, kind.read, labelled=True):
        truth = parts.samples.truth(position)
        rows[position] = kind.count(truth, predicted)
        if counted is not None:
            counted.add(position, truth, predicted)
    return np.stack([rows[int(sample)] for sample in samples])


def _spread(counts: Num[Array, "sample ..."], kind: MapKind) -> Int[Array, " picture"]:
    """Choose samples for pictures, from the worst to the best; those without labelled pixels are left out."""
    scores = np.array([kind.score(one[None]) for one in counts])
    ranked = np.argsort(scores, kind="stable")[: np.isfinite(scores).sum()]
    steps = np.linspace(0, len(ranked) - 1, min(_NUM_PICTURES, len(ranked))).round().astype(np.int64)
    return np.asarray(ranked[steps])


def _weights(parts: _Parts, kind: MapKind) -> dict[str, Tensor]:
    """Name the head's weights `head.*`, and those of a trained encoder as in checkpoints."""
    state = kind.settled(parts.network.head.state_dict())
    head = {f"head.{name}": one.detach().cpu().contiguous() for name, one in state.items()}
    return head if parts.adapted is None else {**checkpoint_of(parts.adapted.encoder).state, **head}


def _counted(network: MapNetwork) -> str:
    every = [(one.numel(), one.requires_grad) for one in network.parameters()]
    trained = sum(size for size, learned in every if learned)
    return f"{trained:,} of {sum(size for size, _ in every):,} weights were trained"


def segment(context: Context) -> list[Result]:
    """Fit a head for maps of classes over each encoder; validation chooses the epoch by mIoU, test reports.

    Test compares at the size of the labels. Images are seen whole and the logits resized to it (`input.resize: whole`),
    or in overlapping windows whose logits are averaged (`native`). Equal settings give equal results.

    Args:
        context: data with maps of classes.

    Returns:
        One result for each encoder, in the context's order, with the confusion matrix of each test sample.

    Raises:
        RecipeError: the data have no maps of classes, or settings that do not go together.
        InputError: a part is empty, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no labelled pixel.

    Source:
        SMARTIES (arXiv 2506.19585), section 4, tables 5 and 6.
    """
    data, recipe = context.data, context.recipe
    if data.kind != "class_map":
        raise RecipeError(f"'segment' needs maps of classes, and '{data.name}' is of kind '{data.kind}'; see data.kind")
    kind = ClassMaps(classes=data.classes, label_smoothing=recipe.fit.label_smoothing)
    return fit_maps(context, DenseTask(kind=kind, around=lambda fused: fused, title="segmentation"))


def change(context: Context) -> list[Result]:
    """Fit a head for maps of change over each encoder; validation chooses the epoch by mIoU, test reports.

    The first half of a sample's images is before, the second after, in the same order; the sensors may differ. Two
    classes are changed or not; more are kinds of change. See `segment` for sizes and windows.

    Args:
        context: data with maps of classes and an even number of images a sample.

    Returns:
        One result for each encoder, in the context's order, with the confusion matrix of each test sample.

    Raises:
        RecipeError: the data have no maps of classes, or settings that do not go together.
        InputError: an odd number of images, an empty part, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no labelled pixel.

    Source:
        Daudt et al., "Fully convolutional siamese networks for change detection" (arXiv 1810.08462): differences of
        features at several levels.
    """
    data, recipe = context.data, context.recipe
    if data.kind != "class_map":
        raise RecipeError(f"'change' needs maps of classes, and '{data.name}' is of kind '{data.kind}'; see data.kind")
    odd = next((index for index, slots in enumerate(data.sensors) if len(slots) < 2 or len(slots) % 2), None)
    if odd is not None:
        raise InputError(
            f"change is between images before and as many after; sample '{data.names[odd]}' has "
            f"{len(data.sensors[odd])}; give a table with the columns `before` and `after`"
        )
    difference = difference_for(len(data.classes))
    kind = ClassMaps(classes=data.classes, label_smoothing=recipe.fit.label_smoothing)
    task = DenseTask(
        kind=kind, around=lambda fused: SiameseEncoder(fused, difference=difference), title="change detection"
    )
    return fit_maps(context, task)


def difference_for(num_classes: int) -> Difference:
    """Choose how two dates become one: for changed or not the order of dates says nothing, for kinds it does."""
    return "absolute" if num_classes == 2 else "signed"


def regress_maps(context: Context) -> list[Result]:
    """Fit a head for maps of numbers over each encoder; validation chooses the epoch by the error, test reports.

    The loss is the squared error of numbers standardised by the training pixels; what is predicted, validated and
    reported is in the data's own unit. See `segment` for sizes and windows.

    Args:
        context: data with maps of numbers.

    Returns:
        One result for each encoder, in the context's order, with the sums of errors of each test sample.

    Raises:
        RecipeError: the data have no maps of numbers, or settings that do not go together.
        InputError: an empty part, no training pixel with a number, or images that do not fit the network.
        TrainingError: a loss is not finite, or validation has no pixel with a number.
    """
    data, fit = context.data, context.recipe.fit
    if data.kind != "number_map":
        raise RecipeError(
            f"regression of maps needs maps of numbers, and '{data.name}' is of kind '{data.kind}'; see data.kind"
        )
    if fit.label_smoothing:
        raise RecipeError("fit.label_smoothing is for classes, and these data have numbers; set it to 0")

    def targets() -> Iterator[Num[Array, "row col"]]:
        return (context.reader.target(int(sample)) for sample in data.part("train"))

    return fit_maps(context, DenseTask(kind=number_maps_of(targets()), around=lambda fused: fused, title="regression"))
