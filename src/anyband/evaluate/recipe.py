"""Recipes of downstream evaluations from YAML: a file or a shipped name such as `paper/table2_eurosat_linear`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anyband.encode.metadata import Pool, Precision
from anyband.errors import InputError
from anyband.labelled.samples import DataSpec
from anyband.sensors.assignment import Unseen
from anyband.training.recipes import (
    load_record,
    need,
    need_at_least,
    need_between,
    need_over_0,
    record_of,
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
    "Protocol",
    "Resize",
    "TransferRecipe",
    "list_transfer_recipes",
    "load_transfer_recipe",
    "transfer_recipe",
]

Protocol = Literal["knn", "linear", "finetune", "segment", "change", "regress", "leave-one-band-out"]
"""What is done with an encoder."""

PROTOCOLS: dict[Protocol, str] = {
    "knn": "nearest neighbours vote; nothing is trained",
    "linear": "a linear layer on frozen features",
    "finetune": "encoder and linear layer, trained together",
    "segment": "a head for maps of classes, on a frozen or trained encoder",
    "change": "maps of change between two images, by differences of features",
    "regress": "a number for each image or each pixel",
    "leave-one-band-out": "what the absence of each band costs",
}
"""Protocols and what they do."""

Fusion = Literal["single", "stack", "concat", "mixup_concat", "joint"]
"""How several images of a sample become one feature: none (one image), bands side by side, features side by side,
features of the two images after an exchange of tokens (SMARTIES, Table 8), or one sequence."""

Resize = Literal["whole", "native", "short_side"]
"""How images meet the network's size: resized whole; cut into windows of their own pixels; or, for image-level tasks,
the short side brought to 8/7 of the network's size and the centre cut out."""

HeadKind = Literal["linear", "dfc2020", "upernet"]
"""Heads for maps: a 1×1 convolution after the final norm, the same before it, or UPerNet over four blocks."""


@dataclass(frozen=True, kw_only=True)
class InputRecipe:
    """How images become the network's input, and features come out."""

    img_size: int | None = None
    """Edge of the network's input, pixels; null: the checkpoint's."""
    resize: Resize = "whole"
    """How images are brought to it."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Of the resizing; both are anti-aliased when they reduce."""
    scales: tuple[float, ...] = (1.0,)
    """Images are first reduced to these shares of their size, bilinearly; scores are averaged over them (kNN)."""
    pool: Pool = "cls"
    """An image's vector."""
    statistics: str | None = None
    """Normalisation: `data` counts it on the training images, `published` is that of the published evaluation, else a
    chip store or file; null: the checkpoint's, else the catalogue's."""
    unseen: Unseen = "interpolate"
    """What to do with bands that no trained range is."""
    min_support: float = 0.05
    """Bands with less support are outside the span."""
    out_of_span: Literal["refuse", "drop"] = "refuse"
    """Whether such bands are an error or dropped."""
    metadata: bool = True
    """Whether a network with encodings is told where, how finely and when images were taken."""
    precision: Precision = "float32"
    """Of the frozen encoder's arithmetic."""
    batch_size: int = 64
    """Samples encoded at once, where nothing is trained."""

    def __post_init__(self) -> None:
        if self.img_size is not None:
            need_at_least("input.img_size", self.img_size, 1)
        need_at_least("input.batch_size", self.batch_size, 1)
        need(len(self.scales) > 0, "input.scales needs at least one share")
        for scale in self.scales:
            need(0 < scale <= 1, f"input.scales must be over 0 and at most 1, found {scale:g}")


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe:
    """What is varied in training; the same for all images of a sample and for its labels."""

    flips: bool = False
    """Mirror up-down and left-right, each for half of the samples."""
    quarter_turns: bool = False
    """Turn by 0°, 90°, 180° or 270°."""
    crop_area: tuple[float, float] = (1.0, 1.0)
    """Least and largest share of the image in a crop."""
    mixup: float = 0.0
    """Alpha of mixup (images, not tokens); 0: none."""
    cutmix: float = 0.0
    """Alpha of cutmix; 0: none."""

    def __post_init__(self) -> None:
        need_at_least("fit.augment.mixup", self.mixup, 0)
        need_at_least("fit.augment.cutmix", self.cutmix, 0)
        least, largest = self.crop_area
        need(
            0 < least <= largest <= 1,
            f"fit.augment.crop_area must be two rising shares over 0 and at most 1, found {least:g} and {largest:g}",
        )


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Low-rank adaptation of the attention layers, by peft; the rest of the encoder is frozen."""

    rank: int = 8
    """Of the update."""
    alpha: float = 16.0
    """Scale of the update, over rank."""
    dropout: float = 0.0
    """On the update's input."""

    def __post_init__(self) -> None:
        need_at_least("fit.lora.rank", self.rank, 1)
        need_over_0("fit.lora.alpha", self.alpha)
        need(0 <= self.dropout < 1, f"fit.lora.dropout must be at least 0 and under 1, found {self.dropout:g}")


@dataclass(frozen=True, kw_only=True)
class FitRecipe:
    """How a head is trained, and the encoder with it."""

    encoder: Literal["frozen", "trained", "lora"] = "trained"
    """What becomes of the encoder's weights."""
    new_ranges: Literal["none", "with_rest", "alone"] = "none"
    """Ranges of their own for bands that no trained range is, started from interpolation: learned with the rest, or
    with everything else of the encoder frozen."""
    positions: Literal["fixed", "trained"] = "trained"
    """Whether positions are learned, where the encoder is."""
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    """Where `encoder` is `lora`."""
    epochs: int = 50
    """Passes over the training samples."""
    batch_size: int = 32
    """Samples a step."""
    base_lr: float = 1.0e-3
    """Learning rate of a batch of `lr_samples`."""
    lr_samples: int | None = 256
    """The rate grows in proportion to the batch, and is `base_lr` for so many samples; null: it is `base_lr` for
    any."""
    weight_decay: float = 0.05
    """Of AdamW, on parameters of two or more dimensions."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    warmup_epochs: float = 5.0
    """The rate rises linearly for so long."""
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    """How it falls: to 0, or to a tenth at each of `drops`."""
    drops: tuple[float, ...] = (0.6, 0.9)
    """Shares of the epochs."""
    layer_decay: float = 1.0
    """A block's rate is this times that of the block after it."""
    drop_path: float = 0.0
    """Share of samples whose last block is skipped; falls to 0 at the first."""
    label_smoothing: float = 0.0
    """Share of a label that goes to all classes."""
    clip_grad_norm: float | None = None
    """Largest norm of a gradient; null: any."""
    patience: int | None = None
    """Stop after so many epochs without a better validation score; null: never. The best weights are kept in any
    case."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the arithmetic."""
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    """What is varied."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            need_at_least(f"fit.{name}", getattr(self, name), 1)
        need_over_0("fit.base_lr", self.base_lr)
        need_at_least("fit.weight_decay", self.weight_decay, 0)
        need(0 < self.layer_decay <= 1, f"fit.layer_decay must be over 0 and at most 1, found {self.layer_decay:g}")
        need(0 <= self.drop_path < 1, f"fit.drop_path must be at least 0 and under 1, found {self.drop_path:g}")
        need(
            0 <= self.label_smoothing < 1,
            f"fit.label_smoothing must be at least 0 and under 1, found {self.label_smoothing:g}",
        )
        need(
            0 <= self.warmup_epochs <= self.epochs,
            f"fit.warmup_epochs must be from 0 to fit.epochs {self.epochs}, found {self.warmup_epochs:g}",
        )
        for name in ("lr_samples", "patience"):
            if getattr(self, name) is not None:
                need_at_least(f"fit.{name}", getattr(self, name), 1)
        if self.clip_grad_norm is not None:
            need_over_0("fit.clip_grad_norm", self.clip_grad_norm)
        for beta in self.betas:
            need_between("fit.betas", beta, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class KnnRecipe:
    """The protocol of SMARTIES, section 4.1; see `docs/parity.md`."""

    k: int = 20
    """Number of neighbours that vote."""
    temperature: float = 0.07
    """A neighbour of similarity s votes with weight exp(s / temperature)."""

    def __post_init__(self) -> None:
        if self.k < 1 or not self.temperature > 0:
            raise InputError(f"kNN needs k ≥ 1 and temperature > 0, found {self.k} and {self.temperature:g}")


@dataclass(frozen=True, kw_only=True)
class LinearRecipe:
    """The linear probe. The defaults are the paper's (SMARTIES, section 4)."""

    solver: Literal["adamw", "lbfgs"] = "adamw"
    """AdamW by epochs, as published; or the optimum itself, found in seconds, its regularisation chosen on
    validation."""
    batch_size: int = 1024
    """Samples a step."""
    base_lr: float = 1e-3
    """Learning rate for 256 samples a step."""
    epochs: int = 100
    """Passes over the training samples."""
    drops: tuple[float, ...] = (0.6, 0.8)
    """Shares of the epochs after which the rate falls to a tenth."""


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """The head for maps."""

    kind: HeadKind = "upernet"
    """What it is."""
    channels: int = 512
    """Width of UPerNet."""
    blocks: tuple[int, ...] = ()
    """Blocks of the encoder, from 0, that UPerNet sees; empty: four in equal distances, the last included."""


@dataclass(frozen=True, kw_only=True)
class CompareRecipe:
    """What the encoder is scored beside."""

    untrained: bool = False
    """The same architecture with the weights it has before training."""
    baseline: bool = False
    """What a user would try first: band means, a random forest on pixels, change vector analysis."""


@dataclass(frozen=True, kw_only=True)
class TransferRecipe:
    """One evaluation."""

    name: str
    """For people."""
    data: DataSpec
    """Labelled data."""
    protocol: Protocol | None = None
    """What is done; null: what the command names."""
    checkpoint: str | None = None
    """A safetensors file or hub id; null: what the command names."""
    seed: int = 0
    """Of every draw."""
    input: InputRecipe = field(default_factory=InputRecipe)
    """Images to features."""
    fusion: Fusion = "single"
    """How several images of a sample become one feature."""
    knn: KnnRecipe = field(default_factory=KnnRecipe)
    """Nearest neighbours."""
    linear: LinearRecipe = field(default_factory=LinearRecipe)
    """Linear probe."""
    fit: FitRecipe = field(default_factory=FitRecipe)
    """Training of heads and encoders."""
    head: HeadRecipe = field(default_factory=HeadRecipe)
    """Head for maps."""
    compare: CompareRecipe = field(default_factory=CompareRecipe)
    """What else is scored."""
    measures: Literal["knn", "linear", "segment"] = "knn"
    """What `leave-one-band-out` scores."""


_FOLDER = "paper"


def list_transfer_recipes() -> tuple[str, ...]:
    """List the names of the evaluations that come with the package."""
    return tuple(sorted(shipped_recipes(_FOLDER)))


def load_transfer_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> TransferRecipe:
    """Read a recipe of an evaluation and check every key and type of it.

    Args:
        name_or_path: a YAML file, or the name of a shipped recipe such as `paper/table2_eurosat_linear`.
        overrides: `key.key=value`, values in YAML, for example `fit.epochs=5`.

    Raises:
        RecipeError: no such recipe, an unknown or duplicate key, a wrong type, or values that do not go
        together.
    """
    return load_record(TransferRecipe, name_or_path, overrides, shipped=shipped_recipes(_FOLDER))


def transfer_recipe(values: dict[str, Any], overrides: Sequence[str] = ()) -> TransferRecipe:
    """Make a recipe of an evaluation from plain values, checked as a file's are.

    Args:
        values: by key, changed in place; `name` and `data` at least.
        overrides: `key.key=value`, values in YAML.

    Raises:
        RecipeError: as `load_transfer_recipe`.
    """
    return record_of(TransferRecipe, values, overrides, name=str(values.get("name", "evaluation")))
