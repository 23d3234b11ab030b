"""Recipes of downstream evaluations from YAML: a file or a shipped name such as `paper/table2_eurosat_linear`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from anyband.encode.metadata import Pool, Precision
from anyband.labelled.samples import DataSpec
from anyband.sensors.assignment import MIN_SUPPORT, UnseenRules
from anyband.training.recipes import (
    Below1,
    Between0And1,
    Count,
    From0,
    Over0,
    Over0To1,
    Recipe,
    load_recipe_as,
    need,
    recipe_of,
    shipped_recipes,
)

__all__ = [
    "PROTOCOLS",
    "AugmentRecipe",
    "CompareRecipe",
    "FitRecipe",
    "Fusion",
    "HeadKind",
    "HeadRecipe",
    "InputRecipe",
    "KnnRecipe",
    "LinearRecipe",
    "LoraRecipe",
    "MapLoss",
    "Protocol",
    "Resize",
    "TransferRecipe",
    "list_transfer_recipes",
    "load_transfer_recipe",
    "transfer_recipe",
]

Protocol = Literal["knn", "linear", "finetune", "segment", "change", "regress", "leave-one-band-out"]

PROTOCOLS: dict[Protocol, str] = {
    "knn": "nearest neighbours vote; nothing is trained",
    "linear": "a linear layer on frozen features",
    "finetune": "encoder and linear layer, trained together",
    "segment": "a head for maps of classes, on a frozen or trained encoder",
    "change": "maps of change between two images, by differences of features",
    "regress": "a number for each image or each pixel",
    "leave-one-band-out": "what the absence of each band costs",
}

Fusion = Literal["single", "stack", "concat", "mixup_concat", "joint", "ltae"]
"""How several images of a sample become one feature; see `FusedEncoder`."""

Resize = Literal["whole", "native", "short_side"]
"""How images meet the network's size: resized whole; cut into windows of their own pixels; or, for image-level tasks,
the short side brought to 8/7 of the network's size and the centre cut out."""

MapLoss = Literal["cross_entropy", "dice"]
HeadKind = Literal["linear", "dfc2020", "upernet", "pangaea"]
"""Heads for maps: a 1×1 convolution after the final norm, the same before it, UPerNet over four blocks, or PANGAEA's
UPerNet."""


class InputRecipe(Recipe):
    """How images become the network's input, and features come out."""

    img_size: Count | None = None
    """Edge of the network's input, pixels; null: the checkpoint's."""
    resize: Resize = "whole"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Of the resizing; both are anti-aliased when they reduce."""
    kernel: Literal["plain", "skimage"] = "plain"
    """Whether whole images are resized as scikit-image does (splines, Gaussian anti-aliasing), as the released code."""
    scales: tuple[Over0To1, ...] = (1.0,)
    """Images are first reduced to these shares of their size, bilinearly; scores are averaged over them (kNN)."""
    reduction: Literal["plain", "released"] = "plain"
    """Whether that is done as in the released code: sizes cut to whole pixels, numbers rounded to their type by GDAL,
    images without a CRS through a JPEG."""
    pool: Pool = "cls"
    statistics: str | None = None
    """Normalisation: `data` counts it on the training images, `published` is that of the published evaluation, else a
    chip store or file; null: published where the set has it, else the checkpoint's, else the catalogue's."""
    unseen: UnseenRules = "interpolate"
    """One rule, or `{default: RULE, SENSOR/BAND or RANGE: RULE, prefer: SENSOR}`."""
    min_support: float = MIN_SUPPORT
    """Bands with less support are outside the span."""
    out_of_span: Literal["refuse", "drop"] = "drop"
    """Whether such bands are an error or dropped."""
    metadata: bool = True
    """Whether a network with encodings is told where, how finely and when images were taken."""
    precision: Precision = "float32"
    batch_size: Count = 64
    """Samples encoded at once, where nothing is trained."""

    @model_validator(mode="after")
    def _check(self) -> "InputRecipe":
        need(len(self.scales) > 0, "input.scales needs at least one share")
        native = self.kernel == "skimage" and self.resize == "native"
        need(
            not native, "input.kernel=skimage resizes whole images, and input.resize=native cuts windows; leave it out"
        )
        return self


class AugmentRecipe(Recipe):
    """What is varied in training; the same for all images of a sample and for its labels."""

    flips: bool = False
    """Mirror up-down and left-right, each for half of the samples."""
    quarter_turns: bool = False
    """Turn by 0°, 90°, 180° or 270°."""
    crop_area: tuple[float, float] = (1.0, 1.0)
    """Least and largest share of the image in a crop."""
    mixup: From0 = 0.0
    """Alpha of mixup (images, not tokens); 0: none."""
    cutmix: From0 = 0.0
    """Alpha; 0: none."""

    @model_validator(mode="after")
    def _check(self) -> "AugmentRecipe":
        least, largest = self.crop_area
        need(
            0 < least <= largest <= 1,
            f"fit.augment.crop_area must be two rising shares over 0 and at most 1, found {least:g} and {largest:g}",
        )
        return self


class LoraRecipe(Recipe):
    """Low-rank adaptation of the attention layers, by peft; the rest of the encoder is frozen."""

    rank: Count = 8
    alpha: Over0 = 16.0
    """Scale of the update, over rank."""
    dropout: Below1 = 0.0


class FitRecipe(Recipe):
    """How a head is trained, and the encoder with it."""

    encoder: Literal["frozen", "trained", "lora"] = "trained"
    new_ranges: Literal["none", "with_rest", "alone"] = "none"
    """Ranges of their own for bands that no trained range is, begun by interpolation; `alone`: the rest is frozen."""
    positions: Literal["fixed", "trained"] = "trained"
    lora: LoraRecipe = LoraRecipe()
    """Where `encoder` is `lora`."""
    epochs: Count = 50
    batch_size: Count = 32
    base_lr: Over0 = 1.0e-3
    """Learning rate of a batch of `lr_samples`."""
    lr_samples: Count | None = 256
    """The batch for which the rate is `base_lr`, to which it is in proportion; null: it is `base_lr` for any."""
    weight_decay: From0 = 0.05
    """Of AdamW, on parameters of two or more dimensions."""
    betas: tuple[Between0And1, Between0And1] = (0.9, 0.95)
    warmup_epochs: From0 = 5.0
    """The rate rises linearly for so long."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """How it falls: to 0, or to a tenth at each of `drops`."""
    drops: tuple[float, ...] = (0.6, 0.9)
    """Shares of the epochs."""
    layer_decay: Over0To1 = 1.0
    """A block's rate is this times that of the block after it."""
    drop_path: Below1 = 0.0
    """Share of samples whose last block is skipped; falls to 0 at the first."""
    label_smoothing: Below1 = 0.0
    """Share of a label that goes to all classes."""
    loss: MapLoss = "cross_entropy"
    """Of maps of classes; see `ClassMaps`."""
    clip_grad_norm: Over0 | None = None
    """Largest norm of a gradient; null: any."""
    patience: Count | None = None
    """Stop after so many epochs without a better validation score; null: never. The best weights are kept always."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    augment: AugmentRecipe = AugmentRecipe()

    @model_validator(mode="after")
    def _check(self) -> "FitRecipe":
        need(
            self.warmup_epochs <= self.epochs,
            f"fit.warmup_epochs must be from 0 to fit.epochs {self.epochs}, found {self.warmup_epochs:g}",
        )
        need(
            self.loss == "cross_entropy" or self.label_smoothing == 0,
            f"fit.label_smoothing is of cross entropy, and fit.loss is {self.loss}; leave one of them out",
        )
        return self


class KnnRecipe(Recipe):
    """The protocol of SMARTIES, section 4.1; see `docs/parity.md`."""

    k: Count = 20
    temperature: Over0 = 0.07
    """A neighbour of similarity s votes with weight exp(s / temperature)."""


class LinearRecipe(Recipe):
    """The linear probe. The defaults are the paper's (SMARTIES, section 4)."""

    solver: Literal["adamw", "lbfgs"] = "adamw"
    """AdamW by epochs, as published; or the optimum itself, found in seconds, its penalty chosen on validation."""
    batch_size: int = 1024
    base_lr: float = 1e-3
    """Learning rate for 256 samples a step."""
    epochs: int = 100
    drops: tuple[float, ...] = (0.6, 0.8)
    """Shares of the epochs after which the rate falls to a tenth."""
    redraw: bool = True
    """Of mixup concatenation, by adamw: each epoch exchanges other tokens, so training images are encoded anew in each;
    false: one draw for all."""


class HeadRecipe(Recipe):
    """The head for maps; and where a fitted one lies."""

    kind: HeadKind = "upernet"
    channels: int = 512
    """Of UPerNet."""
    blocks: tuple[int, ...] = ()
    """Blocks of the encoder, from 0, that UPerNet sees; empty: four in equal distances, the last included."""
    file: str | None = None
    """With `eval_only`: fitted weights that an evaluation wrote; null: the head in the checkpoint's file."""


class CompareRecipe(Recipe):
    """What the encoder is scored beside."""

    untrained: bool = False
    """The same architecture with the weights it has before training."""
    baseline: bool = False
    """What a user would try first: band means, a random forest on pixels, change vector analysis."""


class TransferRecipe(Recipe):
    """One evaluation."""

    name: str
    data: DataSpec
    protocol: Protocol | None = None
    """What is done; null: what the command names."""
    checkpoint: str | None = None
    """A safetensors file or hub id; null: what the command names."""
    eval_only: bool = False
    """Score a fitted head on the test samples; nothing is fitted, and no other sample is encoded."""
    seed: int = 0
    input: InputRecipe = InputRecipe()
    fusion: Fusion = "single"
    knn: KnnRecipe = KnnRecipe()
    linear: LinearRecipe = LinearRecipe()
    fit: FitRecipe = FitRecipe()
    head: HeadRecipe = HeadRecipe()
    compare: CompareRecipe = CompareRecipe()
    measures: Literal["knn", "linear", "segment"] = "knn"
    """What `leave-one-band-out` scores."""

    @model_validator(mode="after")
    def _check(self) -> "TransferRecipe":
        need(
            self.head.file is None or self.eval_only,
            "head.file names a fitted head, which is scored with eval_only=true (--eval-only); found false",
        )
        return self


_FOLDER = "paper"


def list_transfer_recipes() -> tuple[str, ...]:
    """List the names of the evaluations that come with the package."""
    return tuple(sorted(shipped_recipes(_FOLDER)))


def load_transfer_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> TransferRecipe:
    """Read a recipe of an evaluation, a YAML file or a shipped name, and check every key and type of it.
    `overrides` are `key.key=value`, values in YAML, for example `fit.epochs=5`. No such recipe, an unknown or duplicate
    key, a wrong type, or values that do not go together are a `RecipeError`.
    """
    return load_recipe_as(TransferRecipe, name_or_path, overrides, shipped=shipped_recipes(_FOLDER))


def transfer_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> TransferRecipe:
    """Make a recipe of an evaluation from plain values, changed in place, as `load_transfer_recipe` does."""
    return recipe_of(TransferRecipe, values, overrides, name=str(values.get("name", "evaluation")))
