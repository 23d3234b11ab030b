"""The recipe of a pre-training run."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from anyband.data.resample import AugmentOptions
from anyband.errors import RecipeError
from anyband.models.autoencoder import SequenceKind
from anyband.models.encodings import EncodingConfig
from anyband.models.masking import MaskingKind
from anyband.training.recipes import (
    load_record,
    need,
    need_at_least,
    need_between,
    need_divides,
    need_over_0,
    need_visible,
    need_width,
    shipped_recipes,
)

__all__ = [
    "DataRecipe",
    "KnnRecipe",
    "ModelRecipe",
    "OptimRecipe",
    "PretrainRecipe",
    "RunRecipe",
    "SetRecipe",
    "StageRecipe",
    "check_stages",
    "list_recipes",
    "load_recipe",
    "recipe_differences",
    "recipe_to_dict",
]


@dataclass(frozen=True, kw_only=True)
class KnnRecipe:
    """A kNN score now and then, on labelled images of one sensor."""

    labelled: str
    """Folder of class folders, or a table of path and label."""
    sensor: str
    """Sensor of the images."""
    every_steps: int
    """Steps between two scores."""
    pool: Literal["cls", "mean"] = "cls"
    """What stands for an image: its CLS token, or the mean of its patches."""

    def __post_init__(self) -> None:
        need_at_least("run.knn.every_steps", self.every_steps, 1)


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """How and where the run is done, and what it writes. These may change when a run is resumed."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """Kind of device."""
    devices: int | Literal["auto"] = "auto"
    """Processes on each machine, one a device; on CPUs auto means 1."""
    num_nodes: int = 1
    """Machines."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How processes share the work; auto: ddp for more than one. fsdp: each holds a part of weights and optimiser, for
    networks that one device can't hold."""
    compile: bool = False
    """Whether the block stacks are compiled; takes a while, then saves some percent."""
    recompute: bool = False
    """Whether blocks are computed again for the gradient instead of kept: less memory, a third more arithmetic."""
    workers: int = 2
    """Threads that read ahead."""
    log_every_steps: int = 10
    """Steps between two rows of metrics.csv."""
    checkpoint_every_steps: int = 500
    """Steps between two checkpoints; a kill loses at most so many."""
    panel_every_steps: int = 1000
    """Steps between two reconstruction panels; 0: none."""
    val_batches: int = 8
    """Batches of the validation split scored at each checkpoint; 0: none."""
    knn: KnnRecipe | None = None
    """A kNN score now and then; null: none."""
    endpoint: str | None = None
    """Address of the S3-compatible server that a store at `s3://` is on; null: what AWS_ENDPOINT_URL says, or Amazon's.
    One at `gs://` is where TENSORSTORE_GCS_HTTP_URL says, or at Google's."""

    def __post_init__(self) -> None:
        for name in ("num_nodes", "workers", "log_every_steps", "checkpoint_every_steps"):
            need_at_least(f"run.{name}", getattr(self, name), 1)
        for name in ("panel_every_steps", "val_batches"):
            need_at_least(f"run.{name}", getattr(self, name), 0)
        if self.devices != "auto":
            need_at_least("run.devices", self.devices, 1)


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """How the images of one footprint become training samples."""

    size: tuple[int, int] = (3, 3)
    """Least and most images of a set. A footprint with fewer still trains, with all that it has."""
    gap_days: float = 0.0
    """Least days between two images of one sensor in a set."""
    needs_two_sources: bool = False
    """Whether footprints that only one sensor sees are left out."""
    metadata_dropout: float = 0.0
    """Share of images whose place, and likewise resolution and date, is hidden in training: so a model learns to do
    without."""

    def __post_init__(self) -> None:
        least, most = self.size
        need(1 <= least <= most, f"data.sets.size needs 1 <= least <= most, found {least} to {most}")
        need_at_least("data.sets.gap_days", self.gap_days, 0)
        need(
            0.0 <= self.metadata_dropout < 1.0,
            f"data.sets.metadata_dropout must be from 0 to under 1, found {self.metadata_dropout:g}",
        )
        need(
            most > 1 or not self.needs_two_sources,
            "data.sets.needs_two_sources asks for images of two sensors, but data.sets.size is at most 1",
        )


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """Some epochs over some of the footprints."""

    epochs: int
    """Passes over the footprints of the stage."""
    with_sensors: tuple[str, ...] = ()
    """The stage takes the footprints that show at least one of these sensors; empty: those that no other stage takes.
    Sets are drawn from all images of such a footprint."""

    def __post_init__(self) -> None:
        need_at_least("data.stages.epochs", self.epochs, 1)


def check_stages(stages: Sequence[StageRecipe], *, epochs: int, on_sets: bool) -> None:
    """Refuse stages that do not go with the rest of a recipe.

    Args:
        stages: in their order.
        epochs: of the whole run, as `optim.epochs` says.
        on_sets: whether the recipe trains on sets.

    Raises:
        RecipeError: what is wrong, and what to change.
    """
    need(
        on_sets, "data.stages is for sets of images, and this recipe trains on pairs; write data.sets, or leave it null"
    )
    need(bool(stages), "data.stages is empty; name at least one stage, or write `stages: null` for one of everything")
    total = sum(stage.epochs for stage in stages)
    need(
        total == epochs,
        f"the stages of data.stages have {total} epochs ({' + '.join(str(stage.epochs) for stage in stages)}), but "
        f"optim.epochs is {epochs}; make them equal (optim.steps may shorten the run and keeps their shares)",
    )
    rest = [number for number, stage in enumerate(stages) if not stage.with_sensors]
    need(
        len(rest) < 2,
        f"stages {' and '.join(str(number) for number in rest)} of data.stages (from 0) both name no sensors, and so "
        "both take what no other stage takes; name sensors in all of them but one",
    )


# Source: A²-MAE joins the corners with positions at three resolutions, a quarter of the width each.
_MOST_GEOGRAPHIC = 3
# The quarter of the corners is shared among eight codes.
_GEOGRAPHIC_WIDTH = 32


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """Architecture, and how bands meet the trained ranges."""

    img_size: int = 224
    """Side of the network's input, pixels."""
    patch_size: int = 16
    """Side of a patch, pixels; divides img_size."""
    embed_dim: int = 768
    """Width of the encoder."""
    depth: int = 12
    """Blocks of the encoder."""
    num_heads: int = 12
    """Attention heads of the encoder; divides embed_dim."""
    mlp_ratio: float = 4.0
    """Width of a block's hidden layer over its own."""
    drop_path: float = 0.0
    """Largest rate of dropped residual branches; grows linearly over the blocks."""
    decoder_embed_dim: int = 512
    """Width of the decoder."""
    decoder_depth: int = 8
    """Blocks of the decoder."""
    decoder_num_heads: int = 16
    """Attention heads of the decoder; divides decoder_embed_dim."""
    mask_ratio: float = 0.75
    """Share of the tokens hidden from the encoder."""
    mixup_ratio: float = 0.5
    """Share of the tokens that the first mixed image takes from image a."""
    mixup: Literal["mirrored", "released", "none"] = "mirrored"
    """mirrored: as the paper's Eq. 1 and 2; released: as the research code; none: images stay apart."""
    masking: MaskingKind = "anchor"
    """Which images of a set share the anchor's mask. anchor: those of other sensors; same: all; independent: none;
    hybrid: in half of the positions; released: as the research code of A²-MAE does. Pairs always share theirs."""
    sequence: SequenceKind = "joint"
    """joint: the images of a set are one sequence; apart: the two mixed images stand in sequences of their own."""
    hidden_image: float = 0.0
    """Share of the steps in which the last image of each set is hidden whole, and nothing is exchanged."""
    encodings: EncodingConfig = field(default_factory=EncodingConfig)
    """What the tokens of a set carry beside their position in the grid."""
    levels: bool = False
    """Whether mean and deviation of each band in a token are predicted too, so that absolute values come back."""
    decode_ratio: float = 1.0
    """Share of the hidden tokens that are decoded and compared; 1: all of them."""
    norm_pix_loss: bool = True
    """Whether targets are normalised for each token."""
    target_variance: Literal["unbiased", "repeated"] = "unbiased"
    """Variance of that normalisation; repeated: over values tiled to 12 bands, as in the released code."""
    start: str | None = None
    """Checkpoint (file or hub id) whose weights the run starts from; null: from the seed."""
    start_mae: str | None = None
    """Weights of a masked autoencoder of ImageNet (safetensors file or hub id) that the blocks, the CLS token and the
    projection start from; null: from the seed."""
    stem: Literal["spectral", "triplet"] = "spectral"
    """How bands become tokens. spectral: each by the projection of its range; triplet: three bands of each image by one
    stem of three, drawn at random in training; then `ranges`, `unseen`, `min_support` and `out_of_span` say nothing."""
    ranges: Literal["smarties_v1", "from_data", "start", "start_and_new"] = "smarties_v1"
    """Spectral ranges that get weights: the 17 published ones; one for each distinct band of the data; those of the
    checkpoint that the run starts from; or those and one for each band that they don't know exactly."""
    unseen: Literal["interpolate", "nearest", "released", "refuse"] = "interpolate"
    """What happens to a band that no range is made for."""
    min_support: float = 0.05
    """Least support of such a band, from 0 to 1."""
    out_of_span: Literal["refuse", "drop"] = "refuse"
    """What happens to a band under `min_support` or outside the trained span."""

    def __post_init__(self) -> None:
        for name in ("img_size", "patch_size", "depth", "num_heads", "decoder_depth", "decoder_num_heads"):
            need_at_least(f"model.{name}", getattr(self, name), 1)
        need_divides("model.patch_size", self.patch_size, "model.img_size", self.img_size)
        need_width("model.embed_dim", self.embed_dim, "model.num_heads", self.num_heads)
        heads = self.decoder_num_heads
        need_width("model.decoder_embed_dim", self.decoder_embed_dim, "model.decoder_num_heads", heads)
        for name in ("mask_ratio", "mixup_ratio"):
            need_between(f"model.{name}", getattr(self, name), 0.0, 1.0)
        need(
            0.0 < self.decode_ratio <= 1.0,
            f"model.decode_ratio must be over 0 and at most 1, found {self.decode_ratio:g}",
        )
        need(0.0 <= self.hidden_image <= 1.0, f"model.hidden_image must be from 0 to 1, found {self.hidden_image:g}")
        for name in ("drop_path", "min_support"):
            value = getattr(self, name)
            need(0.0 <= value < 1.0, f"model.{name} must be from 0 to under 1, found {value:g}")
        need_over_0("model.mlp_ratio", self.mlp_ratio)
        hidden = int(self.embed_dim * self.mlp_ratio)
        need(hidden >= 1, f"model.mlp_ratio {self.mlp_ratio:g} leaves no hidden layer at width {self.embed_dim}")
        need_visible(self.mask_ratio, (self.img_size // self.patch_size) ** 2)
        _check_start(self)


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which pairs or sets of a store are learned from."""

    pairs: Literal["any"] | tuple[tuple[str, str], ...] = "any"
    """Pairs of sensors; any: every two sensors that see one place."""
    sets: SetRecipe | None = None
    """Sets of images of one footprint instead of pairs; null: pairs."""
    held_out: tuple[str, ...] = ()
    """Sensors that training never sees; with `pairs: any`, and in sets, they are left out."""
    split: Literal["train", "val", "test"] = "train"
    """Split of the store that is learned from."""
    val_split: Literal["train", "val", "test"] = "val"
    """Split that chooses the best checkpoint; where it has no pairs the training loss does."""
    statistics: Literal["catalogue", "store"] = "catalogue"
    """Where normalisation comes from: the sensor's own numbers, or those of the store."""
    stretch: Literal["percentiles", "two_sigma"] = "percentiles"
    """percentiles: clipped to the 1st and 99th, then mean 0 and deviation 1; two_sigma: mean ± 2 deviations become 0
    and 1, as in the research code of A²-MAE."""
    shuffle: Literal["chips", "shards"] = "chips"
    """How the order of a round is drawn. chips: any chip may follow any other; shards: whole shards are read one after
    the other, for disks and object storage where reading here and there is slow."""
    open_shards: int = 32
    """Shards whose chips are mixed at any time, with `shuffle: shards`: more mix better and take more memory."""
    stages: tuple[StageRecipe, ...] | None = None
    """Parts of the run that draw from different footprints, one after the other; null: one, of everything."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """Flips, turns and crops."""

    def __post_init__(self) -> None:
        need_at_least("data.open_shards", self.open_shards, 1)
        if self.pairs == "any":
            return
        need(
            self.sets is None,
            "data.pairs names pairs and data.sets asks for sets; write `pairs: any` and leave sensors out of sets with "
            "data.held_out, or write `sets: null`",
        )
        need(bool(self.pairs), "data.pairs is empty; name pairs of sensors, or write `pairs: any`")
        for name in {name for pair in self.pairs for name in pair} & set(self.held_out):
            raise RecipeError(f"sensor '{name}' stands in data.pairs and in data.held_out; take one away")


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """Optimiser and length of the run."""

    batch_size: int = 2048
    """Pairs or sets a step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts that a process's share of a batch is computed in; the step stays the same to rounding."""
    epochs: int = 300
    """Passes over the pairs, or over the footprints of sets."""
    steps: int | None = None
    """Length of the run in steps instead; warm-up keeps its share of the run."""
    warmup_epochs: float = 20.0
    """Epochs over which the rate rises linearly from 0; afterwards it falls to 0 by a half cosine."""
    base_lr: float = 1.5e-4
    """Learning rate for 256 images; the rate is base_lr · batch_size / 256."""
    weight_decay: float = 0.05
    """Decay of weights with two or more axes."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's moments."""
    clip_grad_norm: float | None = None
    """Largest norm of the gradient; null: not clipped."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the network; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "epochs"):
            need_at_least(f"optim.{name}", getattr(self, name), 1)
        need_divides("optim.accumulate", self.accumulate, "optim.batch_size", self.batch_size)
        if self.steps is not None:
            need_at_least("optim.steps", self.steps, 1)
        need(
            0.0 <= self.warmup_epochs <= self.epochs,
            f"optim.warmup_epochs must be from 0 to optim.epochs {self.epochs}, found {self.warmup_epochs:g}",
        )
        need_over_0("optim.base_lr", self.base_lr)
        need_at_least("optim.weight_decay", self.weight_decay, 0)
        for beta in self.betas:
            need_between("optim.betas", beta, 0.0, 1.0)
        if self.clip_grad_norm is not None:
            need_over_0("optim.clip_grad_norm", self.clip_grad_norm)


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """One complete run."""

    name: str
    """Name for people."""
    seed: int = 0
    """Seed of every random draw."""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    """Architecture."""
    data: DataRecipe = field(default_factory=DataRecipe)
    """Pairs or sets, and augmentation."""
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    """Optimiser and length."""
    run: RunRecipe = field(default_factory=RunRecipe)
    """Devices and outputs."""

    def __post_init__(self) -> None:
        if self.data.sets is None:
            _check_pairs(self.model)
        else:
            _check_sets(self.model, self.data.sets)
        if self.data.stages is not None:
            check_stages(self.data.stages, epochs=self.optim.epochs, on_sets=self.data.sets is not None)


def _check_start(model: ModelRecipe) -> None:
    need(
        model.start is None or model.start_mae is None,
        f"model.start '{model.start}' and model.start_mae '{model.start_mae}' are two starts; leave one of them null",
    )
    if model.stem == "spectral":
        return
    need(
        model.ranges != "start_and_new",
        "model.stem 'triplet' has three positions for whatever bands there are and no ranges to add; take "
        "`ranges: start` with `start`",
    )
    need(
        not model.encodings.source,
        "model.encodings.source tells sensors apart by the ranges that they see, and model.stem 'triplet' has none; "
        "write `source: false`",
    )


def _check_pairs(model: ModelRecipe) -> None:
    """Refuse keys that only sets follow: they would be without effect."""
    followed_by_sets = {
        "masking": model.masking != "anchor",
        "sequence": model.sequence != "joint",
        "hidden_image": model.hidden_image > 0,
        "encodings": model.encodings.any,
        "stem": model.stem != "spectral",
    }
    asked = [f"model.{key}" for key, is_asked in followed_by_sets.items() if is_asked]
    need(
        not asked,
        f"{' and '.join(asked)} {'are' if len(asked) > 1 else 'is'} for sets of images, and this recipe trains on "
        "pairs; write `data.sets: {size: [2, 2]}`, or leave the default",
    )


def _check_sets(model: ModelRecipe, sets: SetRecipe) -> None:
    most = sets.size[1]
    need(
        model.mixup != "released",
        "model.mixup 'released' is what the research code of SMARTIES does with pairs; sets have 'mirrored' or 'none'",
    )
    need(
        model.sequence == "joint" or model.masking in ("anchor", "same"),
        f"model.sequence 'apart' exchanges tokens of images that share a mask, which model.masking '{model.masking}' "
        "does not ensure; take masking 'anchor' or 'same', or sequence 'joint'",
    )
    need(
        model.hidden_image == 0 or most > 1,
        f"model.hidden_image {model.hidden_image:g} hides the last image of a set whole, but data.sets.size is at most "
        "1 and nothing would be left to see; let sets have 2 images or more",
    )
    need(
        model.encodings.geographic == "none" or most <= _MOST_GEOGRAPHIC,
        f"model.encodings.geographic 'a2mae' has room for the ground resolutions of {_MOST_GEOGRAPHIC} images, but "
        f"data.sets.size is up to {most}; make sets smaller, or take the encodings place and resolution",
    )
    need(
        model.encodings.geographic == "none" or model.embed_dim % _GEOGRAPHIC_WIDTH == 0,
        f"model.encodings.geographic 'a2mae' needs model.embed_dim to be a multiple of {_GEOGRAPHIC_WIDTH}, found "
        f"{model.embed_dim}",
    )


def recipe_to_dict(recipe: PretrainRecipe) -> dict[str, Any]:
    """Turn a recipe into plain values, as they stand in YAML or JSON."""
    plain = _plain(dataclasses.asdict(recipe))
    assert isinstance(plain, dict)
    return plain


def recipe_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    """List what makes two recipes two different runs, as `key: ours, not theirs`.

    The name and the `run` part do not count: they change neither weights nor draws.
    """
    left, right = _leaves(ours), _leaves(theirs)
    changed = [key for key in sorted(left.keys() | right.keys()) if left.get(key, _NONE) != right.get(key, _NONE)]
    return tuple(f"{key}: {left.get(key, _NONE)}, not {right.get(key, _NONE)}" for key in changed if _counts(key))


_NONE = "nothing"


def _counts(key: str) -> bool:
    return key != "name" and not key.startswith("run.")


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}.{key}" if prefix else key)
    return leaves


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


# Pre-training of the models that one table and one figure of the paper compare.
_PAPER = "paper/pretraining"


def list_recipes() -> tuple[str, ...]:
    """List the names of the pre-training recipes that come with the package, without those of single experiments."""
    return tuple(sorted(shipped_recipes("")))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> PretrainRecipe:
    """Read a recipe of pre-training and check every key and type of it.

    Args:
        name_or_path: a YAML file, or the name of a shipped recipe such as `smarties_tiny`.
        overrides: `key.key=value`, values in YAML, for example `optim.epochs=5`.

    Raises:
        RecipeError: no such recipe, an unknown or duplicate key, a wrong type, or values that do not go
        together.
    """
    shipped = shipped_recipes("") | shipped_recipes(_PAPER)
    return load_record(PretrainRecipe, name_or_path, overrides, shipped=shipped)
