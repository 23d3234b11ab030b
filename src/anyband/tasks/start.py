"""What a run starts from: the weights of a checkpoint, with ranges for new bands if asked for, or of an MAE."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from anyband.errors import CheckpointError, RecipeError
from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, extend_checkpoint, load_checkpoint, make_model, state_of
from anyband.models.mae_start import load_mae, start_from_mae
from anyband.sensors.assignment import AssignmentRules, assign, extend_ranges
from anyband.sensors.ranges import RangeTable
from anyband.sensors.sensor import Sensor
from anyband.sensors.stem import is_stem
from anyband.tasks.recipe import ModelRecipe

__all__ = ["check_same_network", "load_mae_start", "load_start", "with_new_ranges"]

# These may differ: they change how a network is trained, not what its weights are.
_FREE = ("drop_path", "mask_ratio", "mixup_ratio", "decode_ratio", "mixup", "norm_pix_loss", "target_variance")


def load_start(model: ModelRecipe, sensors: Sequence[Sensor]) -> Checkpoint | None:
    """Load the checkpoint that a run starts from.

    With `ranges: start_and_new`, every band of the sensors that its ranges don't know exactly gets a range of its own,
    which starts as the mixture that interpolation gives: the first loss is the same as without it.

    Args:
        model: of the recipe.
        sensors: that are trained on.

    Returns:
        The checkpoint; None where the recipe names none.

    Raises:
        RecipeError: `start` and `ranges` do not go together.
        CheckpointError: no such checkpoint, or one with another stem than the recipe's.
        AssignmentError: a band that its ranges can't express.
    """
    keeps_ranges = model.ranges in ("start", "start_and_new")
    if (model.start is not None) != keeps_ranges:
        raise RecipeError(
            f"model.start is {model.start or 'null'} and model.ranges '{model.ranges}'; a run that starts from a "
            "checkpoint keeps its ranges (`start`, or `start_and_new` for ranges of new bands), any other run has "
            "ranges of its own"
        )
    if model.start is None:
        return None
    checkpoint = load_checkpoint(model.start)
    _check_stem(checkpoint, model)
    if model.ranges == "start":
        return checkpoint
    rules = AssignmentRules(unseen="interpolate", min_support=model.min_support, out_of_span=model.out_of_span)
    return with_new_ranges(checkpoint, sensors, rules)


def _check_stem(checkpoint: Checkpoint, model: ModelRecipe) -> None:
    found = "triplet" if is_stem(checkpoint.ranges) else "spectral"
    if found != model.stem:
        raise CheckpointError(
            f"'{model.start}' was trained with model.stem '{found}', the recipe has '{model.stem}'; take the "
            "checkpoint's stem into the recipe"
        )


def load_mae_start(
    model: ModelRecipe, config: AutoencoderConfig, ranges: RangeTable, *, seed: int
) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """Make the first weights of a run that starts from a masked autoencoder of ImageNet.

    Args:
        model: of the recipe.
        config: of the network.
        ranges: of the network.
        seed: of the weights that the file does not have.

    Returns:
        All weights, as a checkpoint of no step, and what to say of them; None and nothing where the recipe names no
        file.

    Raises:
        CheckpointError: no such file, a pickle, or another network; every difference is named.
    """
    if model.start_mae is None:
        return None, ()
    weights = load_mae(model.start_mae)
    started = start_from_mae(weights, state_of(make_model(config, seed=seed)), config=config, ranges=ranges)
    return Checkpoint(config=config, state=started.state, ranges=ranges), started.notes


def check_same_network(start: Checkpoint, config: AutoencoderConfig, *, where: str) -> None:
    """See that a checkpoint's weights fit the network of a recipe.

    Raises:
        CheckpointError: they don't; every difference is named.
    """
    asked, found = _numbers(config), _numbers(start.config)
    different = [f"{key} {asked[key]}, not {found[key]}" for key in asked if asked[key] != found[key]]
    if different:
        raise CheckpointError(
            f"'{where}' holds another network than the recipe's: {'; '.join(different)} (the recipe's number first); "
            "take the checkpoint's numbers into the recipe"
        )


def with_new_ranges(
    checkpoint: Checkpoint, sensors: Sequence[Sensor], rules: AssignmentRules, *, min_iou: float = 0.95
) -> Checkpoint:
    """Give every band that the ranges don't know exactly a range of its own, which starts as interpolation reads it.

    Args:
        checkpoint: with the trained ranges.
        sensors: whose bands are looked at; bands that the rules drop get no range.
        rules: interpolation, and what is outside the span.
        min_iou: a band this much like a range becomes known to it instead; see `extend_ranges`.

    Returns:
        The checkpoint itself where nothing is new.

    Raises:
        AssignmentError: a band that its ranges can't express.
    """
    kept = [assign(sensor, checkpoint.ranges, rules).sensor for sensor in sensors]
    table = extend_ranges(checkpoint.ranges, kept, min_iou=min_iou)
    owners = {(sensor.name, band): sensor for sensor in kept for band in sensor.band_names}
    rows = []
    for entry in table.ranges[len(checkpoint.ranges.ranges) :]:
        known = next(known for known in entry.known if known in owners)
        rows.append(assign(owners[known].select([known[1]]), checkpoint.ranges, rules).mixing[0])
    if not rows:
        return checkpoint
    return extend_checkpoint(checkpoint, table, torch.from_numpy(np.stack(rows)).float())


def _numbers(config: AutoencoderConfig) -> dict[str, Any]:
    plain = {**asdict(config.encoder), **asdict(config.decoder), "levels": config.levels}
    return {key: value for key, value in plain.items() if key not in _FREE}
