"""What is compared: variants of the recipes, brought to equal steps, images a step, rate and data."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from anyband.errors import InputError, nearest_name
from anyband.pretraining.recipe import PretrainRecipe, load_recipe

__all__ = [
    "DEFAULT_VARIANTS",
    "MAE_EACH",
    "UNTRAINED",
    "TrainOptions",
    "check_variant",
    "images_a_sample",
    "mae_of",
    "recipe_of",
    "variants",
]

UNTRAINED = "untrained"
"""The network of `smarties` with its first weights."""

DEFAULT_VARIANTS = ("smarties", "smarties_no_mixup", "a2mae_anchor", "a2mae_independent", "unified")
"""What fits an hour or so of two cores."""

MAE_EACH = "mae_each"
"""Each sensor read by the masked autoencoder that was trained on it alone."""

_MAE = "mae_"

# Variant → recipe it is of, and what differs from that recipe.
_RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "smarties": ("smarties", {}),
    "smarties_no_mixup": ("smarties", {"model.mixup": "none"}),
    "smarties_released_mixup": ("smarties", {"model.mixup": "released"}),
    "a2mae_anchor": ("a2mae", {}),
    "a2mae_same": ("a2mae", {"model.masking": "same"}),
    "a2mae_independent": ("a2mae", {"model.masking": "independent"}),
    "a2mae_hybrid": ("a2mae", {"model.masking": "hybrid"}),
    "a2mae_released": ("a2mae", {"model.masking": "released"}),
    "a2mae_no_geo": ("a2mae", {"model.encodings.geographic": "none"}),
    "unified": ("unified", {}),
    "unified_no_dates": ("unified", {"model.encodings.date": False}),
    "unified_joint": ("unified", {"model.sequence": "joint"}),
}
# One image a set, no geographic encoding: a plain masked autoencoder with the sensor's own bands.
_MAE_CHANGES = {"model.encodings.geographic": "none", "data.sets.size": [1, 1]}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What all variants share."""

    size: str = "tiny"
    """Size of the networks: the recipes `smarties_SIZE`, `a2mae_SIZE`, `unified_SIZE`."""
    steps: int = 600
    """Training steps."""
    images: int = 96
    """Images a step; chosen: 48 pairs, 32 sets of three."""
    base_lr: float | None = None
    """Learning rate for 256 samples, counted as pairs whatever the variant; None: that of the SMARTIES recipe."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device, as `run.accelerator` of a recipe."""
    two_sources: bool = False
    """Whether sets, as pairs must, leave out footprints that only one sensor sees."""


def variants(trained: Sequence[str]) -> tuple[str, ...]:
    """List all variants for an archive: the named ones, and a masked autoencoder for each sensor alone."""
    return (*(mae_of(name) for name in trained), MAE_EACH, *_RECIPES, UNTRAINED)


def mae_of(sensor: str) -> str:
    """Name the variant that is a masked autoencoder of one sensor."""
    return f"{_MAE}{sensor}"


def check_variant(name: str, trained: Sequence[str]) -> None:
    """See that there is such a variant.

    Raises:
        InputError: there is none.
    """
    allowed = variants(trained)
    if name not in allowed:
        raise InputError(f"'{name}' is no variant ({', '.join(allowed)}){nearest_name(name, allowed)}")


def recipe_of(
    name: str, options: TrainOptions, *, seed: int, sensors: Sequence[str], unseen: Sequence[str]
) -> PretrainRecipe:
    """Make the recipe of one run.

    Steps, images a step, optimiser, learning rate at each step, first weights, statistics, stretch and augmentation are
    the same for all variants; masking, mixup, encodings, levels and the size of sets are the variant's.

    Args:
        name: of the variant.
        options: what all share.
        seed: of the run.
        sensors: that training may see.
        unseen: those it may not.
    """
    own = sensors if not name.startswith(_MAE) else [name.removeprefix(_MAE)]
    family, changes = _family_and_changes(name)
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    recipe = load_recipe(f"{family}_{options.size}", overrides)
    plain = load_recipe(f"smarties_{options.size}")
    held_out = (*unseen, *(other for other in sensors if other not in own))
    sets = recipe.data.sets
    if sets is not None and sets.size[1] > 1:
        sets = sets.changed(needs_two_sources=options.two_sources)
    data = plain.data.changed(pairs="any", sets=sets, held_out=held_out, statistics="store")
    batch_size = max(1, round(options.images / images_a_sample(recipe)))
    pairs = options.images / 2
    base_lr = options.base_lr or plain.optim.base_lr
    # The rate is base_lr · batch_size / 256: so it is that of as many pairs, whatever a sample is.
    optim = plain.optim.changed(batch_size=batch_size, base_lr=base_lr * pairs / batch_size, steps=options.steps)
    run = recipe.run.changed(
        accelerator=options.accelerator,
        checkpoint_every_steps=max(1, options.steps // 3),
        panel_every_steps=0,
        val_batches=0,
    )
    # The published table knows the bands of the simulated sensors exactly, and only it declares what `released`
    # weighting needs. A network of one sensor has that sensor's ranges alone: others would stay as they were drawn.
    ranges: Literal["smarties_v1", "from_data"] = "from_data" if name.startswith(_MAE) else "smarties_v1"
    shared = {key: getattr(plain.model, key) for key in ("stem", "start", "start_mae")}
    model = recipe.model.changed(ranges=ranges, **shared)
    return recipe.changed(name=name, seed=seed, model=model, data=data, optim=optim, run=run)


def images_a_sample(recipe: PretrainRecipe) -> float:
    """Count the images of a pair or a set, on average."""
    return 2.0 if recipe.data.sets is None else sum(recipe.data.sets.size) / 2


def _family_and_changes(name: str) -> tuple[str, Mapping[str, Any]]:
    if name.startswith(_MAE):
        return "a2mae", _MAE_CHANGES
    return _RECIPES["smarties" if name == UNTRAINED else name]
