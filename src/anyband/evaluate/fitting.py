"""The loop that fits a network to labelled data, and its schedule."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from anyband.arrays import Array, Float, Int
from anyband.errors import InputError, RecipeError, TrainingError
from anyband.evaluate.recipe import FitRecipe
from anyband.models.checkpoint import without_decay
from anyband.models.vit import Encoder, set_fused_attention
from anyband.progress import Advance, progress
from anyband.training.steps import Schedule, seeded

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = [
    "FitBatch",
    "FitResult",
    "FitSchedule",
    "FitTask",
    "ParameterGroup",
    "fit",
    "layer_ids",
    "parameter_groups",
    "peak_rate",
    "predicting",
]


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


# chosen: an error names this many samples of a batch.
_MAX_NAMED = 8


SelfT = TypeVar("SelfT")


@runtime_checkable
class FitBatch(Protocol):
    """What a step is done with."""

    @property
    def samples(self) -> Int[Array, " sample"]:
        """Positions of the samples in their data."""

    def to(self: SelfT, device: torch.device | str) -> SelfT:
        """Copy the tensors to a device."""


ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT", bound=FitBatch)


@dataclass(frozen=True, kw_only=True, eq=False)
class FitTask(Generic[ModelT, BatchT]):
    """What a network is fitted to."""

    batches: Callable[[int], Iterable[BatchT]]
    """Training batches of an epoch, from 0; each call gives the same."""
    steps_per_epoch: int
    """How many they are."""
    loss: Callable[[ModelT, BatchT, int], Tensor]
    """Mean loss of a batch at a step, from 0, in training mode and the recipe's precision; torch's global generator is
    seeded from the step around it."""
    validate: Callable[[ModelT], float]
    """Score on the validation samples, higher is better; called in evaluation mode without gradients."""
    groups: Callable[[ModelT], list[ParameterGroup]]
    """Trained parameters; see `parameter_groups`."""
    names: Sequence[str] = ()
    """Name of each sample by position, for messages; empty: they are named by position."""
    title: str = "fitting"
    """Of the progress bar."""


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How a network was fitted. The network itself holds the weights of the chosen epoch."""

    best_epoch: int
    """The first epoch, from 1, with the best validation score."""
    best_score: float
    """That score."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    validation: tuple[float, ...]
    """Validation score after each epoch."""
    stopped_early: bool
    """Whether epochs were left out because validation no longer improved."""


def fit(
    model: ModelT,
    task: FitTask[ModelT, BatchT],
    recipe: FitRecipe,
    *,
    seed: int,
    device: str = "cpu",
    shown: bool = False,
) -> FitResult:
    """Fit a network: AdamW by epochs, after each of which validation scores it; the best weights are put back.

    Equal arguments give equal weights. What does not require gradients stays as it is.

    Args:
        model: changed in place, left on the device in evaluation mode.
        task: batches, loss, validation score and parameters.
        recipe: epochs, rates, precision, patience.
        seed: of what the network draws, such as drop path.
        device: where it runs.
        shown: show a progress bar with the time left.

    Raises:
        InputError: nothing to fit, or nothing to fit it to.
        RecipeError: the device can't compute in the precision.
        TrainingError: a loss or a validation score is not finite.
    """
    if task.steps_per_epoch < 1:
        raise InputError("there is no training sample to fit to; look at the parts of the data (`data.split`)")
    run = _Run(model, task, recipe, seed=seed, device=device)
    total = recipe.epochs * task.steps_per_epoch
    with _attention_for(model, recipe, device), progress(task.title, total, shown=shown) as advance:
        for epoch in range(recipe.epochs):
            run.train_epoch(epoch, advance)
            run.validate(epoch)
            if run.has_lost_patience(epoch):
                break
    return run.finished()


@contextlib.contextmanager
def predicting(model: nn.Module, recipe: FitRecipe) -> Iterator[None]:
    """Predict as validation does: evaluation mode, no gradients, the precision of training; then restore the mode."""
    was_training = model.training
    device = next(model.parameters()).device.type
    dtype = torch.float16 if recipe.precision == "16-mixed" else torch.bfloat16
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=recipe.precision != "32-true"):
            yield
    finally:
        model.train(was_training)


class _Run(Generic[ModelT, BatchT]):
    """A network on its device, its optimiser, and the best weights so far."""

    def __init__(
        self, model: ModelT, task: FitTask[ModelT, BatchT], recipe: FitRecipe, *, seed: int, device: str
    ) -> None:
        self._model, self._task, self._recipe, self._seed = model, task, recipe, seed
        self._schedule = FitSchedule(recipe=recipe, steps_per_epoch=task.steps_per_epoch)
        self._fabric = _make_fabric(device, recipe)
        model.to(self._fabric.device)
        groups: list[Any] = list(task.groups(model))
        if not groups:
            raise InputError("nothing of the network is trained; look at fit.encoder and the head")
        # A fused step can't be clipped in half precision, where it takes the scale out of the gradients itself.
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=recipe.betas, fused=recipe.precision != "16-mixed")
        self._network, self._optimizer = self._fabric.setup(_Loss(model, task.loss), optimizer)
        self._trained = [one for group in groups for one in group["params"]]
        self._best: dict[str, Tensor] = {}
        self._best_epoch, self._best_score = 0, -math.inf
        self._losses: list[float] = []
        self._validation: list[float] = []

    def train_epoch(self, epoch: int, advance: Advance) -> None:
        """Do the steps of an epoch, and note its mean loss."""
        self._model.train()
        summed, count = 0.0, 0
        for index, batch in enumerate(self._task.batches(epoch)):
            loss = self._step(epoch, epoch * self._task.steps_per_epoch + index, batch)
            summed, count = summed + loss * len(batch.samples), count + len(batch.samples)
            advance(1)
        if not count:
            raise InputError(f"there were no training samples in epoch {epoch + 1}; look at the parts of the data")
        self._losses.append(summed / count)

    def _step(self, epoch: int, step: int, batch: BatchT) -> float:
        fabric, rate = self._fabric, self._schedule.rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        with seeded(self._seed, step=step, purpose="fitting", device=fabric.device):
            loss: Tensor = self._network(_Carried(batch.to(fabric.device)), step)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(self._diverged(epoch, step, batch))
        fabric.backward(loss)
        if self._recipe.clip_grad_norm is not None:
            fabric.clip_gradients(
                self._network, self._optimizer, max_norm=self._recipe.clip_grad_norm, error_if_nonfinite=False
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return value

    def _diverged(self, epoch: int, step: int, batch: BatchT) -> str:
        known, positions = self._task.names, [int(one) for one in batch.samples]
        names = [f"'{known[one]}'" if known else f"sample {one}" for one in positions[:_MAX_NAMED]]
        more = f" and {len(positions) - _MAX_NAMED} more" if len(positions) > _MAX_NAMED else ""
        return (
            f"the loss is not finite in epoch {epoch + 1} of {self._recipe.epochs} (step {step}), with the samples "
            f"{', '.join(names)}{more}; look at their pixels and targets, or lower fit.base_lr, now "
            f"{self._recipe.base_lr:g}"
        )

    def validate(self, epoch: int) -> None:
        """Score the validation samples; keep the weights where none were better."""
        with predicting(self._model, self._recipe):
            score = self._task.validate(self._model)
        self._validation.append(score)
        if math.isnan(score):
            raise TrainingError(
                f"the validation score of epoch {epoch + 1} is not a number; see that validation has samples with "
                "targets, and lower fit.base_lr where the network diverged"
            )
        if score > self._best_score or not self._best:
            self._best_epoch, self._best_score = epoch + 1, score
            self._best = {name: value.detach().clone() for name, value in self._changing().items()}

    def _changing(self) -> dict[str, Tensor]:
        trained = {name: one for name, one in self._model.named_parameters() if one.requires_grad}
        return trained | dict(self._model.named_buffers())

    def has_lost_patience(self, epoch: int) -> bool:
        """Tell whether validation has not improved for as many epochs as the recipe waits."""
        patience = self._recipe.patience
        return patience is not None and epoch + 1 - self._best_epoch >= patience

    def finished(self) -> FitResult:
        """Put the best weights back and tell how it went."""
        with torch.no_grad():
            for name, value in self._changing().items():
                value.copy_(self._best[name])
        self._model.zero_grad(set_to_none=True)
        self._model.eval()
        return FitResult(
            best_epoch=self._best_epoch,
            best_score=self._best_score,
            losses=tuple(self._losses),
            validation=tuple(self._validation),
            stopped_early=len(self._validation) < self._recipe.epochs,
        )


class _Carried(Generic[BatchT]):
    """A batch on its way through Fabric, which casts and copies the tensors in records that it can look into."""

    def __init__(self, batch: BatchT) -> None:
        self.batch = batch


class _Loss(nn.Module, Generic[ModelT, BatchT]):
    """The network as Fabric calls it: a batch in, its loss out."""

    def __init__(self, model: ModelT, loss: Callable[[ModelT, BatchT, int], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, carried: _Carried[BatchT], step: int) -> Float[Tensor, ""]:
        return self._loss(self.model, carried.batch, step)


def _make_fabric(device: str, recipe: FitRecipe) -> "Fabric":
    from lightning_fabric import Fabric

    from anyband.training.steps import without_announcements

    target = torch.device(device)
    if target.type == "cpu" and recipe.precision == "16-mixed":
        raise RecipeError("fit.precision=16-mixed needs a GPU; on a CPU use bf16-mixed or 32-true")
    devices = 1 if target.type == "cpu" else [target.index or 0]
    with without_announcements():
        return Fabric(accelerator=target.type, devices=devices, precision=recipe.precision)


@contextlib.contextmanager
def _attention_for(model: nn.Module, recipe: FitRecipe, device: str) -> Iterator[None]:
    """The gradient of the fused kernel is slow in bfloat16 on a CPU; see `set_fused_attention`."""
    slow = torch.device(device).type == "cpu" and recipe.precision == "bf16-mixed"
    if slow:
        set_fused_attention(model, fused=False)
    try:
        yield
    finally:
        if slow:
            set_fused_attention(model, fused=True)
