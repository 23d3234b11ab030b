"""The recipe of a pre-training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import model_validator

from anyband.data.resample import AugmentOptions
from anyband.errors import InputError, RecipeError, counted
from anyband.models.autoencoder import SequenceKind
from anyband.models.encodings import NO_ENCODINGS, EncodingConfig
from anyband.models.masking import MaskingKind, count_visible
from anyband.sensors.assignment import MIN_SUPPORT, UnseenRules
from anyband.training.recipes import (
    Below1,
    Between0And1,
    Count,
    CountOr0,
    From0,
    From0To1,
    Over0,
    Over0To1,
    Recipe,
    bounded,
    load_recipe_as,
    need,
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
    "list_recipes",
    "load_recipe",
    "recipe_differences",
]

# Positions take a quarter of a width each for sine and cosine of row and column.
_Width = Annotated[int, bounded("a multiple of 4", lambda width: width >= 4 and width % 4 == 0)]


class KnnRecipe(Recipe):
    """A kNN score now and then, on labelled images of one sensor."""

    labelled: str
    """Folder of class folders, or a table of path and label."""
    sensor: str
    every_steps: Count
    pool: Literal["cls", "mean"] = "cls"
    """What stands for an image: its CLS token, or the mean of its patches."""


class RunRecipe(Recipe):
    """How and where the run is done, and what it writes. These may change when a run is resumed."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: Count | Literal["auto"] = "auto"
    """Processes on each machine, one a device; on CPUs auto means 1."""
    num_nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How processes share the work; auto: ddp for more than one. fsdp: each holds a part of weights and optimiser."""
    compile: bool = False
    """Whether the block stacks are compiled; takes a while, then saves some percent."""
    recompute: bool = False
    """Whether blocks are computed again for the gradient instead of kept: less memory, a third more arithmetic."""
    workers: Count = 2
    """Threads that read ahead."""
    log_every_steps: Count = 10
    """Between rows of metrics.csv."""
    checkpoint_every_steps: Count = 500
    """A kill loses at most so many."""
    panel_every_steps: CountOr0 = 1000
    """Between reconstruction panels; 0: none."""
    val_batches: CountOr0 = 8
    """Scored at each checkpoint; 0: none."""
    knn: KnnRecipe | None = None
    """null: none."""
    endpoint: str | None = None
    """S3-compatible server of a store at `s3://`; null: AWS_ENDPOINT_URL, or Amazon's. For `gs://`:
    TENSORSTORE_GCS_HTTP_URL, or Google's.
    """


class SetRecipe(Recipe):
    """How the images of one footprint become training samples."""

    size: tuple[int, int] = (3, 3)
    """Least and most images of a set. A footprint with fewer still trains, with all that it has."""
    gap_days: From0 = 0.0
    """Least days between two images of one sensor in a set."""
    needs_two_sources: bool = False
    """Whether footprints that only one sensor sees are left out."""
    metadata_dropout: Below1 = 0.0
    """Share of images whose place, and likewise resolution and date, is hidden in training."""

    @model_validator(mode="after")
    def _check(self) -> "SetRecipe":
        least, most = self.size
        need(1 <= least <= most, f"data.sets.size needs 1 <= least <= most, found {least} to {most}")
        need(
            most > 1 or not self.needs_two_sources,
            "data.sets.needs_two_sources asks for images of two sensors, but data.sets.size is at most 1",
        )
        return self


class StageRecipe(Recipe):
    """Some epochs over some of the footprints."""

    epochs: Count
    """Over the footprints of the stage."""
    with_sensors: tuple[str, ...] = ()
    """Footprints that show one of these, and draw from all their images; empty: those that no other stage takes."""


# Source: A²-MAE joins the corners with positions at three resolutions, a quarter of the width each.
_MOST_GEOGRAPHIC = 3
# The quarter of the corners is shared among eight codes.
_GEOGRAPHIC_WIDTH = 32


# chosen: some twenty times the deepest networks of images, few enough to be made at once.
_Depth = Annotated[int, bounded("from 1 to 1,000", lambda value: 1 <= value <= 1000)]


class ModelRecipe(Recipe):
    """Architecture, and how bands meet the trained ranges."""

    img_size: Count = 224
    """Pixels."""
    patch_size: Count = 16
    """Pixels; divides img_size."""
    embed_dim: _Width = 768
    depth: _Depth = 12
    num_heads: Count = 12
    """Divides embed_dim."""
    mlp_ratio: Over0 = 4.0
    drop_path: Below1 = 0.0
    """Rate of the last block; grows linearly over the blocks."""
    decoder_embed_dim: _Width = 512
    decoder_depth: _Depth = 8
    decoder_num_heads: Count = 16
    """Divides decoder_embed_dim."""
    mask_ratio: Between0And1 = 0.75
    """Share of the tokens hidden from the encoder."""
    mixup_ratio: Between0And1 = 0.5
    """Share of the tokens that the first mixed image takes from image a."""
    mixup: Literal["mirrored", "released", "none"] = "mirrored"
    """mirrored: as the paper's Eq. 1 and 2; released: as the research code; none: images stay apart."""
    masking: MaskingKind = "anchor"
    """Which images of a set share the anchor's mask. anchor: those of other sensors; same: all; independent: none;
    hybrid: in half of the positions; released: as the research code of A²-MAE does. Pairs always share theirs."""
    sequence: SequenceKind = "joint"
    """joint: the images of a set are one sequence; apart: the two mixed images stand in sequences of their own."""
    hidden_image: From0To1 = 0.0
    """Share of the steps in which the last image of each set is hidden whole, and nothing is exchanged."""
    encodings: EncodingConfig = EncodingConfig()
    levels: bool = False
    """Whether mean and deviation of each band in a token are predicted too, so that absolute values come back."""
    decode_ratio: Over0To1 = 1.0
    """Share of the hidden tokens that are decoded and compared; 1: all of them."""
    norm_pix_loss: bool = True
    """Whether targets are normalised for each token."""
    target_variance: Literal["unbiased", "repeated"] = "unbiased"
    """Variance of that normalisation; repeated: over values tiled to 12 bands, as in the released code."""
    start: str | None = None
    """Checkpoint (file or hub id) whose weights the run starts from; null: from the seed."""
    start_mae: str | None = None
    """Masked autoencoder of ImageNet (safetensors file or hub id) that the run starts from; null: from the seed."""
    stem: Literal["spectral", "triplet"] = "spectral"
    """spectral: each band by the projection of its range. triplet: three bands of each image, drawn at random in
    training, by one stem; then `ranges`, `unseen`, `min_support` and `out_of_span` say nothing.
    """
    ranges: Literal["smarties_v1", "from_data", "start", "start_and_new"] = "smarties_v1"
    """Those that get weights: the 17 published; one for each distinct band of the data; those of `start`; or those and
    one for each band that they don't know exactly.
    """
    unseen: UnseenRules = "interpolate"
    """What happens to a band that no range is made for."""
    min_support: Below1 = MIN_SUPPORT
    """Least support of such a band, from 0 to 1."""
    out_of_span: Literal["refuse", "drop"] = "drop"
    """What happens to a band under `min_support` or outside the trained span."""

    @model_validator(mode="after")
    def _check_sizes(self) -> "ModelRecipe":
        pairs = {"patch_size": "img_size", "num_heads": "embed_dim", "decoder_num_heads": "decoder_embed_dim"}
        for divisor, number in pairs.items():
            small, large = getattr(self, divisor), getattr(self, number)
            need(large % small == 0, f"model.{divisor} {small} does not divide model.{number} {large}")
        return self

    @model_validator(mode="after")
    def _check_hidden_layer(self) -> "ModelRecipe":
        hidden = int(self.embed_dim * self.mlp_ratio)
        need(hidden >= 1, f"model.mlp_ratio {self.mlp_ratio:g} leaves no hidden layer at width {self.embed_dim}")
        return self

    @model_validator(mode="after")
    def _check_mask_ratio(self) -> "ModelRecipe":
        try:
            count_visible((self.img_size // self.patch_size) ** 2, self.mask_ratio)
        except InputError as problem:
            raise RecipeError(f"model.mask_ratio: {problem}") from problem
        return self

    @model_validator(mode="after")
    def _check_start(self) -> "ModelRecipe":
        starts = f"model.start '{self.start}' and model.start_mae '{self.start_mae}'"
        need(self.start is None or self.start_mae is None, f"{starts} are two starts; leave one of them null")
        return self

    @model_validator(mode="after")
    def _check_ranges_of_stem(self) -> "ModelRecipe":
        need(
            self.stem == "spectral" or self.ranges != "start_and_new",
            "model.stem 'triplet' has three positions for whatever bands there are and no ranges to add; take "
            "`ranges: start` with `start`",
        )
        return self

    @model_validator(mode="after")
    def _check_source_of_stem(self) -> "ModelRecipe":
        need(
            self.stem == "spectral" or not self.encodings.source,
            "model.encodings.source tells sensors apart by the ranges that they see, and model.stem 'triplet' has "
            "none; write `source: false`",
        )
        return self


class DataRecipe(Recipe):
    """Which pairs or sets of a store are learned from."""

    pairs: Literal["any"] | tuple[tuple[str, str], ...] = "any"
    """Pairs of sensors; any: every two sensors that see one place."""
    sets: SetRecipe | None = None
    """Sets of images of one footprint instead of pairs; null: pairs."""
    held_out: tuple[str, ...] = ()
    """Sensors that training never sees; with `pairs: any`, and in sets, they are left out."""
    split: Literal["train", "val", "test"] = "train"
    val_split: Literal["train", "val", "test"] = "val"
    """Split that chooses the best checkpoint; where it has no pairs the training loss does."""
    statistics: Literal["catalogue", "store"] = "catalogue"
    """Of the sensors in the catalogue, or of the store."""
    stretch: Literal["percentiles", "two_sigma"] = "percentiles"
    """percentiles: clipped to 1st and 99th, then mean 0, deviation 1; two_sigma: mean ± 2 deviations become 0 and 1."""
    shuffle: Literal["chips", "shards"] = "chips"
    """chips: any may follow any other; shards: whole shards follow one another, for slow disks and object storage."""
    open_shards: Count = 32
    """Shards whose chips are mixed at any time, with `shuffle: shards`: more mix better and take more memory."""
    stages: tuple[StageRecipe, ...] | None = None
    """Parts of the run that draw from different footprints, one after the other; null: one, of everything."""
    augment: AugmentOptions = AugmentOptions()

    @model_validator(mode="after")
    def _check_sets(self) -> "DataRecipe":
        need(
            self.pairs == "any" or self.sets is None,
            "data.pairs names pairs and data.sets asks for sets; write `pairs: any` and leave sensors out of sets with "
            "data.held_out, or write `sets: null`",
        )
        return self

    @model_validator(mode="after")
    def _check_pairs(self) -> "DataRecipe":
        need(bool(self.pairs), "data.pairs is empty; name pairs of sensors, or write `pairs: any`")
        named = {name for pair in self.pairs for name in pair} if self.pairs != "any" else set()
        for name in named & set(self.held_out):
            raise RecipeError(f"sensor '{name}' stands in data.pairs and in data.held_out; take one away")
        return self


class OptimRecipe(Recipe):
    """Optimiser and length of the run."""

    batch_size: Count = 2048
    """Pairs or sets a step, over all processes and accumulated parts."""
    accumulate: Count = 1
    """Parts that a process's share of a batch is computed in; the step stays the same to rounding."""
    mix_kinds: bool = False
    """Whether the parts of a step are of all kinds of pairs or sets, in the proportion of the data; else a step has
    one."""
    epochs: Count = 300
    """Passes over the pairs, or over the footprints of sets."""
    steps: Count | None = None
    """Length of the run in steps instead; warm-up keeps its share of the run."""
    warmup_epochs: From0 = 20.0
    """Epochs over which the rate rises linearly from 0; afterwards it falls to 0 by a half cosine."""
    base_lr: Over0 = 1.5e-4
    """Learning rate for 256 images; the rate is base_lr · batch_size / 256."""
    weight_decay: From0 = 0.05
    """Decay of weights with two or more axes."""
    betas: tuple[Between0And1, Between0And1] = (0.9, 0.95)
    clip_grad_norm: Over0 | None = None
    """Largest norm of the gradient; null: not clipped."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the network; weights and optimiser stay in float32."""

    @model_validator(mode="after")
    def _check(self) -> "OptimRecipe":
        parts, size, found = self.accumulate, self.batch_size, f"{self.warmup_epochs:g}"
        need(size % parts == 0, f"optim.accumulate {parts} does not divide optim.batch_size {size}")
        need(
            parts > 1 or not self.mix_kinds,
            "optim.mix_kinds gives each part of a step a kind, and optim.accumulate 1 makes one part of it; raise "
            "optim.accumulate",
        )
        allowed = f"from 0 to optim.epochs {self.epochs}"
        need(self.warmup_epochs <= self.epochs, f"optim.warmup_epochs must be {allowed}, found {found}")
        return self


class PretrainRecipe(Recipe):
    """One complete run."""

    name: str
    seed: int = 0
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    run: RunRecipe = RunRecipe()

    @model_validator(mode="after")
    def _check(self) -> "PretrainRecipe":
        need(
            not (self.optim.mix_kinds and self.data.stages),
            "optim.mix_kinds mixes kinds of all the data, and data.stages draws from parts of it one after the other; "
            "take one away",
        )
        if self.data.sets is None:
            self._check_pairs()
        else:
            self._check_mixing()
            self._check_sizes(self.data.sets.size[1])
        return self

    def _check_pairs(self) -> None:
        """Refuse keys that only sets follow: they would be without effect."""
        model = self.model
        followed_by_sets = {
            "masking": model.masking != "anchor",
            "sequence": model.sequence != "joint",
            "hidden_image": model.hidden_image > 0,
            "encodings": model.encodings != NO_ENCODINGS,
            "stem": model.stem != "spectral",
        }
        requested = [f"model.{key}" for key, is_requested in followed_by_sets.items() if is_requested]
        need(
            not requested,
            f"{' and '.join(requested)} {'are' if len(requested) > 1 else 'is'} for sets of images, and this recipe "
            "trains on pairs; write `data.sets: {size: [2, 2]}`, or leave the default",
        )

    def _check_mixing(self) -> None:
        masking, words = (
            self.model.masking,
            "model.mixup 'released' is what the research code of SMARTIES does with pairs",
        )
        need(self.model.mixup != "released", f"{words}; sets have 'mirrored' or 'none'")
        need(
            self.model.sequence == "joint" or masking in ("anchor", "same"),
            f"model.sequence 'apart' exchanges tokens of images that share a mask, which model.masking '{masking}' "
            "does not ensure; take masking 'anchor' or 'same', or sequence 'joint'",
        )

    def _check_sizes(self, most: int) -> None:
        need(
            self.model.hidden_image == 0 or most > 1,
            f"model.hidden_image {self.model.hidden_image:g} hides the last image of a set whole, but data.sets.size "
            "is at most 1 and nothing would be left to see; let sets have 2 images or more",
        )
        if self.model.encodings.geographic != "none":
            self._check_geographic(most)

    def _check_geographic(self, most: int) -> None:
        what, width = "model.encodings.geographic 'a2mae'", self.model.embed_dim
        room = f"{what} has room for the ground resolutions of {_MOST_GEOGRAPHIC} images, but data.sets.size is up to"
        need(most <= _MOST_GEOGRAPHIC, f"{room} {most}; make sets smaller, or take the encodings place and resolution")
        multiple = f"{what} needs model.embed_dim to be a multiple of {_GEOGRAPHIC_WIDTH}"
        need(width % _GEOGRAPHIC_WIDTH == 0, f"{multiple}, found {width}")

    @model_validator(mode="after")
    def _check_stages(self) -> "PretrainRecipe":
        if self.data.stages is not None:
            what = "is for sets of images, and this recipe trains on pairs"
            need(self.data.sets is not None, f"data.stages {what}; write data.sets, or leave it null")
            advice = "name at least one stage, or write `stages: null` for one of everything"
            need(bool(self.data.stages), f"data.stages is empty; {advice}")
        return self

    @model_validator(mode="after")
    def _check_epochs_of_stages(self) -> "PretrainRecipe":
        epochs = [stage.epochs for stage in self.data.stages or ()]
        found = f"the stages of data.stages have {counted(sum(epochs), 'epoch')} ({' + '.join(map(str, epochs))})"
        advice = "make them equal (optim.steps may shorten the run and keeps their shares)"
        is_equal = not epochs or sum(epochs) == self.optim.epochs
        need(is_equal, f"{found}, but optim.epochs is {self.optim.epochs}; {advice}")
        return self

    @model_validator(mode="after")
    def _check_rest_of_stages(self) -> "PretrainRecipe":
        rest = [str(number) for number, stage in enumerate(self.data.stages or ()) if not stage.with_sensors]
        names = f"stages {' and '.join(rest)} of data.stages (from 0) both name no sensors"
        advice = "name sensors in all of them but one"
        need(len(rest) < 2, f"{names}, and so both take what no other stage takes; {advice}")
        return self


def recipe_differences(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, ...]:
    """List what makes two recipes two runs, as `key: ours, not theirs`; name and `run` change no weights or draws."""
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
    return load_recipe_as(PretrainRecipe, name_or_path, overrides, shipped=shipped)
