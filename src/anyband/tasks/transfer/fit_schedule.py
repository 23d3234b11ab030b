"""Which parameters are trained at which rate: groups of an optimiser, layer decay, and the rate of each step."""

from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import nn

from anyband.models.encoder import Encoder
from anyband.models.layout import without_decay
from anyband.tasks.train import Schedule
from anyband.tasks.transfer.recipe import FitRecipe

__all__ = ["FitSchedule", "ParameterGroup", "layer_ids", "parameter_groups", "peak_rate"]


class ParameterGroup(TypedDict):
    """Parameters that share a rate and a decay, as torch's optimisers take them."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float


@dataclass(frozen=True, kw_only=True)
class FitSchedule:
    """Learning rate of each step: a linear rise, then a half cosine to 0, steps down to a tenth, or no change."""

    recipe: FitRecipe
    """Peak, rise and fall."""
    steps_per_epoch: int
    """Steps of one pass."""

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.recipe.epochs * self.steps_per_epoch

    def rate(self, step: int) -> float:
        """Compute the rate of a step, from 0, taken at its middle; it is over 0 at every step."""
        recipe, warmup_steps = self.recipe, self.recipe.warmup_epochs * self.steps_per_epoch
        if recipe.schedule == "cosine":
            schedule = Schedule(peak=peak_rate(recipe), warmup_steps=warmup_steps, total_steps=self.total_steps)
            return schedule.rate(step)
        risen = min((step + 0.5) / warmup_steps, 1.0) if warmup_steps else 1.0
        drops = 0
        if recipe.schedule == "steps":
            drops = sum(step >= round(share * self.total_steps) for share in recipe.drops)
        return peak_rate(recipe) * risen * 0.1**drops


def peak_rate(recipe: FitRecipe) -> float:
    """Compute the rate at the end of the rise: in proportion to the batch, or as it stands."""
    if recipe.lr_samples is None:
        return recipe.base_lr
    return recipe.base_lr * recipe.batch_size / recipe.lr_samples


def parameter_groups(model: nn.Module, recipe: FitRecipe) -> list[ParameterGroup]:
    """Group the trained parameters of a network: each by its layer's rate, and with or without decay.

    A block's rate is `layer_decay` times that of the block after it. What is outside the encoder (the head) and the
    encoder's final norm have the full rate; what comes before the blocks has the smallest. Biases and norms have no
    decay.

    Args:
        model: with at most one `Encoder` anywhere inside; without one all have the full rate.
        recipe: its `layer_decay` and `weight_decay`.

    Source:
        Bao et al., "BEiT" (arXiv 2106.08254), as masked autoencoders (arXiv 2111.06377) use it.
    """
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    spared = without_decay(trained)
    layers = layer_ids(model)
    last = max(layers.values(), default=0)
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for name, parameter in trained.items():
        layer, decayed = layers.get(parameter, last), name not in spared
        group = ParameterGroup(
            params=[],
            weight_decay=recipe.weight_decay if decayed else 0.0,
            lr_scale=recipe.layer_decay ** (last - layer),
        )
        groups.setdefault((layer, decayed), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def layer_ids(model: nn.Module) -> dict[torch.nn.Parameter, int]:
    """Number the layers of the encoder in a network: 0 before the blocks, then the blocks, the final norm after them.

    Returns:
        By parameter of the encoder; empty where there is no encoder.
    """
    encoder = next((part for part in model.modules() if isinstance(part, Encoder)), None)
    if encoder is None:
        return {}
    ids = {}
    for name, parameter in encoder.named_parameters():
        first, _, rest = name.partition(".")
        if first == "blocks":
            ids[parameter] = 1 + int(rest.partition(".")[0])
        else:
            ids[parameter] = len(encoder.blocks) + 1 if first == "norm" else 0
    return ids
