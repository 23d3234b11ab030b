"""Fine-tuning, with mixup and cutmix of whole samples."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Array, Float, Int
from anyband.errors import InputError, RecipeError
from anyband.evaluate.adapt import AdaptedEncoder, adapt, checkpoint_of, sensors_of, tuned_checkpoint
from anyband.evaluate.context import Context
from anyband.evaluate.fitting import FitResult, FitTask, fit, parameter_groups, predicting
from anyband.evaluate.fusion import FusedEncoder
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import LabelledFeatures, check_same_classes, metric_value
from anyband.evaluate.predictions import Predictions, Result
from anyband.evaluate.probes import VALIDATION_SCORES, check_splits, predictions_of
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch
from anyband.randomness import generator

__all__ = ["ImageModel", "finetune", "mixed_samples", "mixes", "predict"]

# chosen: a pixel of which less than this is missing counts as there; rounding is smaller.
_WHOLE = 1 - 1e-4


def mixes(recipe: AugmentRecipe) -> bool:
    """Tell whether images are mixed at all."""
    return recipe.mixup > 0 or recipe.cutmix > 0


def mixed_samples(
    batch: TaskBatch, targets: Float[Tensor, "sample output"], recipe: AugmentRecipe, *, seed: int, step: int
) -> tuple[TaskBatch, Float[Tensor, "sample output"]]:
    """Mix each sample with the one that stands opposite in the batch, as one draw of the step says.

    Mixup takes `lam · sample + (1 − lam) · other`, cutmix a box of the other; targets are mixed in the same shares. All
    images of a sample are mixed alike. A pixel has data where both have. What is known of an image stays that of the
    sample itself. The first sample of an odd batch is left as it is.

    Args:
        batch: network input.
        targets: what each sample is, as numbers that may be averaged.
        recipe: alphas of both; where both are over 0, each has half of the steps.
        seed: of the run.
        step: of the run.

    Source:
        Zhang et al., "mixup" (arXiv 1710.09412); Yun et al., "CutMix" (arXiv 1905.04899).
    """
    if not mixes(recipe):
        return batch, targets
    mixer = _Mixer(recipe, seed=seed, step=step)
    images = tuple(mixer.image(image) for image in batch.images)
    share = mixer.share(batch.images[0].pixels)
    opposite = _even(targets).flip(0)[: len(targets)]
    return replace(batch, images=images), share * targets + (1 - share) * opposite


class _Mixer:
    """One draw of timm's, done to as many arrays as there are."""

    def __init__(self, recipe: AugmentRecipe, *, seed: int, step: int) -> None:
        self._recipe, self._seed, self._step = recipe, seed, step

    def image(self, image: ImageBatch) -> ImageBatch:
        pixels = self._mixed(_even(image.pixels).clone())[0][: len(image.pixels)]
        if image.valid is None:
            return replace(image, pixels=pixels)
        shares = self._mixed(_even(image.valid).to(pixels.dtype))[0][: len(image.pixels)]
        valid = shares > _WHOLE
        return replace(image, pixels=torch.where(valid, pixels, 0.0), valid=valid)

    def share(self, pixels: Tensor) -> float:
        """Tell which share of a mixed sample is its own, from two that are 0 and 1 and of the images' size."""
        pair = pixels.new_zeros(2, 1, *pixels.shape[2:])
        return float(self._mixed(pair)[1][0, 0])

    def _mixed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        from timm.data.mixup import Mixup

        mixer = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=self._recipe.mixup, cutmix_alpha=self._recipe.cutmix, label_smoothing=0.0, num_classes=2
        )
        classes = torch.arange(len(pixels), device=pixels.device) % 2
        with _numpy_seeded(self._seed, step=self._step, purpose="mixup"):
            mixed: tuple[Tensor, Tensor] = mixer(pixels, classes)
        return mixed


def _even(rows: Tensor) -> Tensor:
    """Bring a batch to an even length with its first row once more, so that this row is mixed with itself."""
    return rows if len(rows) % 2 == 0 else torch.cat([rows, rows[:1]])


@contextlib.contextmanager
def _numpy_seeded(seed: int, *, step: int, purpose: str) -> Iterator[None]:
    """Seed NumPy's global generator, from which timm draws, for a block; then restore it."""
    word = int(generator(seed, step=step, sample=0, purpose=purpose).integers(2**32))
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(word)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


# Source: masked autoencoders (arXiv 2111.06377), whose fine-tuning SMARTIES takes over.
_HEAD_STD = 2e-5


class ImageModel(nn.Module):
    """An encoder of whole samples and one linear layer.

    Args:
        encoder: samples to vectors.
        num_slots: images of a sample.
        num_outputs: of the linear layer.
        seed: of its first weights, which are close to zero.
    """

    def __init__(self, encoder: FusedEncoder, *, num_slots: int, num_outputs: int, seed: int) -> None:
        super().__init__()
        width = encoder.width(num_slots)
        self.encoder = encoder
        # skip_init: the usual start would draw from torch's global generator.
        self.head: nn.Linear = nn.utils.skip_init(nn.Linear, width, num_outputs)  # type: ignore[no-untyped-call]
        draw = generator(seed, step=0, sample=0, purpose="fine-tuning head").standard_normal((num_outputs, width))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(_HEAD_STD * draw))
            self.head.bias.zero_()

    def forward(self, batch: TaskBatch, *, step: int = 0) -> Float[Tensor, "sample output"]:
        """Compute logits, or standardised numbers."""
        outputs: Tensor = self.head(self.encoder(batch, step=step))
        return outputs


def finetune(context: Context) -> list[Result]:
    """Train each encoder with a linear layer on the training samples, and test the epoch that validation chose.

    The context's encoders stay as they are. Equal settings give equal results.

    Raises:
        InputError: a part is empty, or a class of validation or test has no training sample.
        RecipeError: settings that do not go together.
        TrainingError: the loss is not finite.
    """
    _check(context)
    return [_finetuned(context, name) for name in context.encoders]


def predict(
    model: ImageModel, reader: TaskReader, samples: Int[Array, " sample"], recipe: FitRecipe, *, shown: bool = False
) -> Float[Array, "sample output"]:
    """Compute the outputs of samples in the order given, float64."""
    device = model.head.weight.device
    rows = {int(sample): row for row, sample in enumerate(samples)}
    outputs = np.full((len(samples), model.head.out_features), np.nan)
    with predicting(model, recipe):
        for batch in reader.batches(samples, shown=shown):
            places = [rows[int(sample)] for sample in batch.samples]
            outputs[places] = model(batch.to(device)).double().cpu().numpy()
    return outputs


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Standardisation of numbers to predict; the identity for classes."""

    mean: float = 0.0
    """Of the training samples."""
    std: float = 1.0
    """Of the training samples; 1 where all are equal."""


def _check(context: Context) -> None:
    data, recipe = context.data, context.recipe
    check_splits(data, protocol="fine-tuning")
    if recipe.input.scales != (1.0,):
        raise RecipeError(
            f"input.scales are for knn and linear, which train no encoder; fine-tuning takes images as they are, and "
            f"found {', '.join(f'{scale:g}' for scale in recipe.input.scales)}: set input.scales=[1.0]"
        )
    if data.kind != "class" and recipe.fit.label_smoothing:
        raise RecipeError(
            f"fit.label_smoothing spreads one class a sample over the others, and '{data.name}' is of kind "
            f"'{data.kind}'; set fit.label_smoothing=0"
        )
    if data.kind == "number":
        _check_numbers(data)
        return
    train, *others = (_labels_only(data, data.part(part)) for part in ("train", "val", "test"))
    for other in others:
        check_same_classes(train, other)


def _check_numbers(data: TaskData) -> None:
    assert data.targets is not None
    missing = np.flatnonzero(~np.isfinite(data.targets))
    if len(missing):
        raise InputError(
            f"'{data.names[missing[0]]}' has no finite number to predict, one of {len(missing)} such samples; leave "
            "them out"
        )


def _labels_only(data: TaskData, samples: Int[Array, " sample"]) -> LabelledFeatures:
    assert data.targets is not None
    nothing = np.empty((len(samples), 0))
    return LabelledFeatures(features=nothing, labels=data.targets[samples], classes=data.classes)


def _finetuned(context: Context, name: str) -> Result:
    data, recipe = context.data, context.recipe
    adapted = adapt(context.encoders[name], data, recipe)
    reader = TaskReader(adapted.encoder, data, recipe) if adapted.new_ranges else context.reader
    model = _model(context, adapted).to(context.device)
    counts = _counted(model)
    result, scale = _fitted(model, reader, context, title=f"fine-tuning {name}")
    adapted.settle()
    test = data.part("test")
    outputs = predict(model, reader, test, recipe.fit, shown=context.shown)
    return Result(
        features=name,
        width=model.head.in_features,
        predictions=_predictions(data, test, outputs, scale),
        chosen={"epoch": result.best_epoch, f"validation {VALIDATION_SCORES[data.kind]}": result.best_score},
        curves={"training loss": result.losses, "validation": result.validation},
        model=_weights(adapted, model.head, scale),
        checkpoint=_tuned(adapted, reader, recipe.fit),
        notes=(*adapted.notes, counts),
    )


def _model(context: Context, adapted: AdaptedEncoder) -> ImageModel:
    data, recipe = context.data, context.recipe
    encoder = FusedEncoder(
        adapted.encoder,
        fusion=recipe.fusion,
        pool=recipe.input.pool,
        seed=recipe.seed,
        metadata=recipe.input.metadata,
    )
    return ImageModel(
        encoder,
        num_slots=len(data.sensors[0]),
        num_outputs=1 if data.kind == "number" else len(data.classes),
        seed=recipe.seed,
    )


def _counted(model: ImageModel) -> str:
    every = [(one.numel(), one.requires_grad) for one in model.parameters()]
    trained = sum(size for size, learned in every if learned)
    return f"{trained:,} of {sum(size for size, _ in every):,} weights were trained"


def _fitted(model: ImageModel, reader: TaskReader, context: Context, *, title: str) -> tuple[FitResult, _Scale]:
    data, recipe = context.data, context.recipe
    scale = _scale_of(data)
    task = FitTask(
        batches=reader.training_batches,
        steps_per_epoch=reader.steps_per_epoch,
        loss=partial(_loss, context=context, scale=scale),
        validate=lambda fitted: _validation_score(fitted, reader, context, scale),
        groups=lambda fitted: parameter_groups(fitted, recipe.fit),
        names=data.names,
        title=title,
    )
    result = fit(model, task, recipe.fit, seed=recipe.seed, device=context.device, shown=context.shown)
    return result, scale


def _scale_of(data: TaskData) -> _Scale:
    if data.kind != "number":
        return _Scale()
    assert data.targets is not None
    numbers = np.asarray(data.targets[data.part("train")], dtype=np.float64)
    return _Scale(mean=float(numbers.mean()), std=float(numbers.std()) or 1.0)


def _loss(model: ImageModel, batch: TaskBatch, step: int, *, context: Context, scale: _Scale) -> Tensor:
    fit_recipe, data = context.recipe.fit, context.data
    targets = _as_numbers(batch, data, fit_recipe, scale)
    if mixes(fit_recipe.augment):
        batch, targets = mixed_samples(batch, targets, fit_recipe.augment, seed=context.recipe.seed, step=step)
    # Steps of training are counted from 1, so that what is drawn in them differs from what is drawn for test.
    outputs = model(batch, step=step + 1).float()
    if data.kind == "class":
        return functional.cross_entropy(outputs, targets)
    if data.kind == "labels":
        return functional.multilabel_soft_margin_loss(outputs, targets)
    return functional.mse_loss(outputs, targets)


def _as_numbers(batch: TaskBatch, data: TaskData, recipe: FitRecipe, scale: _Scale) -> Tensor:
    """Write targets as shares of the classes, or standardised: what may be mixed."""
    if batch.targets is None:
        raise InputError("training batches came without targets")
    if data.kind == "class":
        shares = functional.one_hot(batch.targets.long(), len(data.classes)).float()
        return shares * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(data.classes)
    if data.kind == "labels":
        return batch.targets.float()
    return ((batch.targets.double() - scale.mean) / scale.std).float()[:, None]


def _validation_score(model: ImageModel, reader: TaskReader, context: Context, scale: _Scale) -> float:
    data = context.data
    assert data.targets is not None
    samples = data.part("val")
    outputs, truth = predict(model, reader, samples, context.recipe.fit), data.targets[samples]
    if not np.isfinite(outputs).all():
        return float("nan")
    if data.kind == "class":
        return metric_value("accuracy", truth, outputs)
    if data.kind == "labels":
        return metric_value("map_micro", truth, outputs)
    return -float(np.sqrt(np.mean((_restored(outputs, scale) - truth) ** 2)))


def _restored(outputs: Float[Array, "sample 1"], scale: _Scale) -> Float[Array, " sample"]:
    return outputs[:, 0] * scale.std + scale.mean


def _predictions(data: TaskData, samples: Int[Array, " sample"], outputs: Array, scale: _Scale) -> Predictions:
    predicted = _restored(outputs, scale) if data.kind == "number" else outputs
    return predictions_of(data, samples, predicted)


def _tuned(adapted: AdaptedEncoder, reader: TaskReader, recipe: FitRecipe) -> Checkpoint | None:
    if recipe.encoder == "frozen" and not adapted.new_ranges:
        return None
    return tuned_checkpoint(adapted.encoder, [reader.input_spec(sensor) for sensor in sensors_of(reader.data)])


def _weights(adapted: AdaptedEncoder, head: nn.Linear, scale: _Scale) -> dict[str, Tensor]:
    """Name the encoder's weights as in checkpoints, and the head's `head.*`; it gives numbers in their own unit."""
    weight, bias = head.weight.detach().cpu().float(), head.bias.detach().cpu().float()
    return {
        **checkpoint_of(adapted.encoder).state,
        "head.weight": (weight * scale.std).contiguous(),
        "head.bias": (bias * scale.std + scale.mean).contiguous(),
    }
