"""Fine-tuning of an encoder with a linear layer, with mixup and cutmix of whole samples."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Array, Float, Int
from anyband.errors import InputError, RecipeError, counted
from anyband.evaluate.features import Context, FusedEncoder, Result, check_splits
from anyband.evaluate.fitting import (
    AdaptedEncoder,
    adapt,
    checkpoint_of,
    fit,
    predicting,
    sensors_of,
    trained_weights_note,
    tuned_checkpoint,
)
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import (
    LabelledFeatures,
    check_same_classes,
    chosen_epoch,
    metric_value,
    predictions_of,
)
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.randomness import generator

__all__ = ["ImageModel", "finetune", "image_loss", "mixed_samples", "predict"]

# chosen: a pixel of which less than this is missing counts as there; rounding is smaller.
_WHOLE = 1 - 1e-4


def mixed_samples(
    batch: TaskBatch, targets: Float[Tensor, "sample output"], recipe: AugmentRecipe, *, seed: int, step: int
) -> tuple[TaskBatch, Float[Tensor, "sample output"]]:
    """Mix each sample with the one that stands opposite in the batch, as one draw of the step says.
    Mixup takes `lam · sample + (1 − lam) · other`, cutmix a box of the other; targets are mixed in the same shares. All
    images of a sample are mixed alike; metadata stay. A pixel has data where both have. The first sample of an odd
    batch is left as it is. Where both alphas are over 0, each has half of the steps; where none is, nothing is mixed.
    Source: Zhang et al., "mixup" (arXiv 1710.09412); Yun et al., "CutMix" (arXiv 1905.04899).
    """
    if not (recipe.mixup or recipe.cutmix):
        return batch, targets

    def mixed(rows: Tensor) -> Tensor:
        return _mixed(_even(rows).clone(), recipe, seed=seed, step=step)[0][: len(rows)]

    images = []
    for image in batch.images:
        pixels, valid = mixed(image.pixels), None
        if image.valid is not None:
            valid = mixed(image.valid.to(pixels.dtype)) > _WHOLE
            pixels = torch.where(valid, pixels, 0.0)
        images.append(replace(image, pixels=pixels, valid=valid))
    # Which share of a mixed sample is its own, from two that are 0 and 1 and of the images' size.
    first = batch.images[0].pixels
    share = float(_mixed(first.new_zeros(2, 1, *first.shape[2:]), recipe, seed=seed, step=step)[1][0, 0])
    opposite = _even(targets).flip(0)[: len(targets)]
    return replace(batch, images=tuple(images)), share * targets + (1 - share) * opposite


def _mixed(pixels: Tensor, recipe: AugmentRecipe, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Do timm's draw of a step to an array; equal for as many arrays as there are."""
    from timm.data.mixup import Mixup

    mixer = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, label_smoothing=0.0, num_classes=2
    )
    classes = torch.arange(len(pixels), device=pixels.device) % 2
    # timm draws from NumPy's global generator, which is seeded for this and restored.
    word = int(generator(seed, step=step, sample=0, purpose="mixup").integers(2**32))
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(word)  # noqa: NPY002
    try:
        mixed: tuple[Tensor, Tensor] = mixer(pixels, classes)
    finally:
        np.random.set_state(before)  # noqa: NPY002
    return mixed


def _even(rows: Tensor) -> Tensor:
    """Bring a batch to an even length with its first row once more, so that this row is mixed with itself."""
    return rows if len(rows) % 2 == 0 else torch.cat([rows, rows[:1]])


# Source: masked autoencoders (arXiv 2111.06377), whose fine-tuning SMARTIES takes over.
_HEAD_STD = 2e-5


class ImageModel(nn.Module):
    """An encoder of samples of `num_slots` images and one linear layer, whose first weights are close to zero."""

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
    """Train each encoder with a linear layer on the training samples, and test the epoch that validation chose. The
    context's encoders stay as they are. Equal settings give equal results. An empty split, or a class of validation or
    test without a training sample, is an `InputError`."""
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


def _check(context: Context) -> None:
    data, recipe = context.data, context.recipe
    check_splits(data, protocol="fine-tuning")
    if data.kind != "class" and recipe.fit.label_smoothing:
        raise RecipeError(
            f"fit.label_smoothing spreads one class a sample over the others, and '{data.name}' is of kind "
            f"'{data.kind}'; set fit.label_smoothing=0"
        )
    if recipe.fit.loss != "cross_entropy":
        raise RecipeError(f"fit.loss={recipe.fit.loss} is for maps of classes, and '{data.name}' has labels of images")
    assert data.targets is not None
    if data.kind != "number":
        train, *others = (_labels_only(data, data.split(split)) for split in ("train", "val", "test"))
        for other in others:
            check_same_classes(train, other)
        return
    missing = np.flatnonzero(~np.isfinite(data.targets))
    if len(missing):
        raise InputError(
            f"'{data.names[missing[0]]}' has no finite number to predict, one of "
            f"{counted(len(missing), 'such sample')}; leave them out"
        )


def _labels_only(data: TaskData, samples: Int[Array, " sample"]) -> LabelledFeatures:
    assert data.targets is not None
    nothing = np.empty((len(samples), 0))
    return LabelledFeatures(features=nothing, labels=data.targets[samples], classes=data.classes)


def _finetuned(context: Context, name: str) -> Result:
    data, recipe = context.data, context.recipe
    adapted = adapt(context.encoders[name], data, recipe)
    reader = TaskReader(adapted.encoder, data, recipe) if adapted.new_ranges else context.reader
    encoder = context.fused(adapted.encoder)
    num_outputs = 1 if data.kind == "number" else len(data.classes)
    model = ImageModel(encoder, num_slots=len(data.sensors[0]), num_outputs=num_outputs, seed=recipe.seed)
    note = trained_weights_note(model)
    mean, std = _scale_of(data)
    losses, validation = fit(
        model,
        recipe.fit,
        batches=reader.training_batches,
        steps_per_epoch=len(reader.training_order(0)),
        loss=lambda batch, step: image_loss(model, batch, step, data=data, recipe=recipe, mean=mean, std=std),
        validate=lambda: _validation_score(data, predict(model, reader, data.split("val"), recipe.fit), mean, std),
        names=data.names,
        seed=recipe.seed,
        device=context.device,
        title=f"fine-tuning {name}",
        shown=context.shown,
    )
    adapted.settle()
    outputs = predict(model, reader, data.split("test"), recipe.fit, shown=context.shown)
    tuned = recipe.fit.encoder != "frozen" or adapted.new_ranges
    specs = (reader.input_spec(sensor) for sensor in sensors_of(data))
    return Result(
        features=name,
        width=model.head.in_features,
        predictions=predictions_of(data, data.split("test"), _restored(data, outputs, mean, std)),
        chosen=chosen_epoch(validation, data.kind),
        curves={"training loss": losses, "validation": validation},
        model=_weights(adapted, model.head, mean, std),
        checkpoint=tuned_checkpoint(adapted.encoder, specs) if tuned else None,
        notes=(*adapted.notes, note),
    )


def _scale_of(data: TaskData) -> tuple[float, float]:
    """Give mean and deviation of the training numbers, 1 where all are equal; 0 and 1 for classes."""
    if data.kind != "number":
        return 0.0, 1.0
    assert data.targets is not None
    numbers = np.asarray(data.targets[data.split("train")], dtype=np.float64)
    return float(numbers.mean()), float(numbers.std()) or 1.0


def image_loss(
    model: ImageModel,
    batch: TaskBatch,
    step: int,
    *,
    data: TaskData,
    recipe: TransferRecipe,
    mean: float = 0.0,
    std: float = 1.0,
) -> Float[Tensor, ""]:
    """Compute the loss of a batch at a step, from 0, mixed as the recipe says; `mean` and `std` standardise numbers."""
    targets = _as_shares(batch, data, recipe.fit.label_smoothing, mean, std)
    batch, targets = mixed_samples(batch, targets, recipe.fit.augment, seed=recipe.seed, step=step)
    # Steps of training are counted from 1, so that what is drawn in them differs from what is drawn for test.
    outputs = model(batch, step=step + 1).float()
    if data.kind == "class":
        return functional.cross_entropy(outputs, targets)
    if data.kind == "labels":
        return functional.multilabel_soft_margin_loss(outputs, targets)
    return functional.mse_loss(outputs, targets)


def _as_shares(batch: TaskBatch, data: TaskData, smoothing: float, mean: float, std: float) -> Tensor:
    """Write targets as shares of the classes, or standardised: what may be mixed."""
    assert batch.targets is not None
    if data.kind == "class":
        shares = functional.one_hot(batch.targets.long(), len(data.classes)).float()
        return shares * (1 - smoothing) + smoothing / len(data.classes)
    if data.kind == "labels":
        return batch.targets.float()
    return ((batch.targets.double() - mean) / std).float()[:, None]


def _validation_score(data: TaskData, outputs: Float[Array, "sample output"], mean: float, std: float) -> float:
    assert data.targets is not None
    truth = data.targets[data.split("val")]
    if not np.isfinite(outputs).all():
        return float("nan")
    if data.kind != "number":
        return metric_value("accuracy" if data.kind == "class" else "map_micro", truth, outputs)
    return -float(np.sqrt(np.mean((_restored(data, outputs, mean, std) - truth) ** 2)))


def _restored(data: TaskData, outputs: Float[Array, "sample output"], mean: float, std: float) -> Array:
    return outputs[:, 0] * std + mean if data.kind == "number" else outputs


def _weights(adapted: AdaptedEncoder, head: nn.Linear, mean: float, std: float) -> dict[str, Tensor]:
    """Name the encoder's weights as in checkpoints, and the head's `head.*`; it gives numbers in their own unit."""
    weight, bias = head.weight.detach().cpu().float(), head.bias.detach().cpu().float()
    return {
        **checkpoint_of(adapted.encoder).state,
        "head.weight": (weight * std).contiguous(),
        "head.bias": (bias * std + mean).contiguous(),
    }
