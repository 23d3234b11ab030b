"""Fine-tuning: the encoder and a linear layer, trained together. Validation chooses the epoch, test reports."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.data.supervised.records import TaskData
from anyband.errors import InputError, RecipeError
from anyband.models.checkpoint import Checkpoint
from anyband.randomness import generator
from anyband.shapes import Array, Float, Int
from anyband.tasks.labels import LabelledFeatures, check_same_classes
from anyband.tasks.metrics import metric_value
from anyband.tasks.transfer.adapt import AdaptedEncoder, adapt, checkpoint_of, tuned_checkpoint
from anyband.tasks.transfer.fit_schedule import parameter_groups
from anyband.tasks.transfer.fitting import FitResult, FitTask, fit, predicting
from anyband.tasks.transfer.fusion import FusedEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.mix_images import mixed_samples, mixes
from anyband.tasks.transfer.new_ranges import sensors_of
from anyband.tasks.transfer.probes import VALIDATION_SCORES, check_parts, evidence_of
from anyband.tasks.transfer.recipe import FitRecipe
from anyband.tasks.transfer.records import Evidence, Outcome, TaskBatch
from anyband.tasks.transfer.setting import Setting

__all__ = ["ImageModel", "finetune", "predict"]

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


def finetune(setting: Setting) -> list[Outcome]:
    """Train each encoder with a linear layer on the training samples, and test the epoch that validation chose.

    The setting's encoders stay as they are. Equal settings give equal outcomes.

    Raises:
        InputError: a part is empty, or a class of validation or test has no training sample.
        RecipeError: settings that do not go together.
        TrainingError: the loss is not finite.
    """
    _check(setting)
    return [_finetuned(setting, name) for name in setting.encoders]


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


def _check(setting: Setting) -> None:
    data, recipe = setting.data, setting.recipe
    check_parts(data, protocol="fine-tuning")
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


def _finetuned(setting: Setting, name: str) -> Outcome:
    data, recipe = setting.data, setting.recipe
    adapted = adapt(setting.encoders[name], data, recipe)
    reader = TaskReader(adapted.encoder, data, recipe) if adapted.new_ranges else setting.reader
    model = _model(setting, adapted).to(setting.device)
    counts = _counted(model)
    result, scale = _fitted(model, reader, setting, title=f"fine-tuning {name}")
    adapted.settle()
    test = data.part("test")
    outputs = predict(model, reader, test, recipe.fit, shown=setting.shown)
    return Outcome(
        features=name,
        width=model.head.in_features,
        evidence=_evidence(data, test, outputs, scale),
        chosen={"epoch": result.best_epoch, f"validation {VALIDATION_SCORES[data.kind]}": result.best_score},
        curves={"training loss": result.losses, "validation": result.validation},
        model=_weights(adapted, model.head, scale),
        checkpoint=_tuned(adapted, reader, recipe.fit),
        notes=(*adapted.notes, counts),
    )


def _model(setting: Setting, adapted: AdaptedEncoder) -> ImageModel:
    data, recipe = setting.data, setting.recipe
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


def _fitted(model: ImageModel, reader: TaskReader, setting: Setting, *, title: str) -> tuple[FitResult, _Scale]:
    data, recipe = setting.data, setting.recipe
    scale = _scale_of(data)
    task = FitTask(
        batches=reader.training_batches,
        steps_per_epoch=reader.steps_per_epoch,
        loss=partial(_loss, setting=setting, scale=scale),
        validate=lambda fitted: _validation_score(fitted, reader, setting, scale),
        groups=lambda fitted: parameter_groups(fitted, recipe.fit),
        names=data.names,
        title=title,
    )
    result = fit(model, task, recipe.fit, seed=recipe.seed, device=setting.device, shown=setting.shown)
    return result, scale


def _scale_of(data: TaskData) -> _Scale:
    if data.kind != "number":
        return _Scale()
    assert data.targets is not None
    numbers = np.asarray(data.targets[data.part("train")], dtype=np.float64)
    return _Scale(mean=float(numbers.mean()), std=float(numbers.std()) or 1.0)


def _loss(model: ImageModel, batch: TaskBatch, step: int, *, setting: Setting, scale: _Scale) -> Tensor:
    fit_recipe, data = setting.recipe.fit, setting.data
    targets = _as_numbers(batch, data, fit_recipe, scale)
    if mixes(fit_recipe.augment):
        batch, targets = mixed_samples(batch, targets, fit_recipe.augment, seed=setting.recipe.seed, step=step)
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


def _validation_score(model: ImageModel, reader: TaskReader, setting: Setting, scale: _Scale) -> float:
    data = setting.data
    assert data.targets is not None
    samples = data.part("val")
    outputs, truth = predict(model, reader, samples, setting.recipe.fit), data.targets[samples]
    if not np.isfinite(outputs).all():
        return float("nan")
    if data.kind == "class":
        return metric_value("accuracy", truth, outputs)
    if data.kind == "labels":
        return metric_value("map_micro", truth, outputs)
    return -float(np.sqrt(np.mean((_restored(outputs, scale) - truth) ** 2)))


def _restored(outputs: Float[Array, "sample 1"], scale: _Scale) -> Float[Array, " sample"]:
    return outputs[:, 0] * scale.std + scale.mean


def _evidence(data: TaskData, samples: Int[Array, " sample"], outputs: Array, scale: _Scale) -> Evidence:
    predicted = _restored(outputs, scale) if data.kind == "number" else outputs
    return evidence_of(data, samples, predicted)


def _tuned(adapted: AdaptedEncoder, reader: TaskReader, recipe: FitRecipe) -> Checkpoint | None:
    if recipe.encoder == "frozen" and not adapted.new_ranges:
        return None
    return tuned_checkpoint(adapted.encoder, [reader.reading(sensor) for sensor in sensors_of(reader.data)])


def _weights(adapted: AdaptedEncoder, head: nn.Linear, scale: _Scale) -> dict[str, Tensor]:
    """Name the encoder's weights as in checkpoints, and the head's `head.*`; it gives numbers in their own unit."""
    weight, bias = head.weight.detach().cpu().float(), head.bias.detach().cpu().float()
    return {
        **checkpoint_of(adapted.encoder).state,
        "head.weight": (weight * scale.std).contiguous(),
        "head.bias": (bias * scale.std + scale.mean).contiguous(),
    }
