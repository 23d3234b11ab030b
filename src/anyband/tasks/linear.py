"""Linear probe: one linear layer on frozen features. Validation chooses the epoch, never test."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multilabel_soft_margin_loss

from anyband.errors import InputError
from anyband.progress import progress
from anyband.randomness import generator, permutation
from anyband.shapes import Array, Float
from anyband.tasks.labels import LabelledFeatures, check_same_classes
from anyband.tasks.metrics import metric_value

__all__ = ["LinearOptions", "LinearProbe", "ProbeFit", "fit_linear_probe", "probe_scores"]

# Source: the learning rates of the SMARTIES paper are given for 256 samples.
_SAMPLES_PER_BASE_LR = 256


@dataclass(frozen=True, kw_only=True)
class LinearOptions:
    """The protocol of SMARTIES, section 4.1: AdamW, no decay, no warm-up, no augmentation."""

    batch_size: int = 1024
    """Samples a step; the whole training split where it is smaller."""
    base_lr: float = 1e-3
    """Learning rate for 256 samples a step."""
    epochs: int = 100
    """Passes over the training split."""
    drops: tuple[float, ...] = (0.6, 0.8)
    """Shares of the epochs after which the learning rate falls to a tenth."""

    def __post_init__(self) -> None:
        if self.batch_size < 2 or self.epochs < 1 or not self.base_lr > 0:
            raise InputError(
                "a linear probe needs batch_size ≥ 2, epochs ≥ 1 and base_lr > 0, "
                f"found {self.batch_size}, {self.epochs}, {self.base_lr:g}"
            )


class LinearProbe(nn.Module):
    """Batch normalisation without scale and shift, then one linear layer."""

    def __init__(self, width: int, num_classes: int, *, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        # skip_init: the usual start would draw from torch's global generator.
        self.linear: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, width, num_classes
        )
        draw = generator(seed, step=0, sample=0, purpose="linear probe").standard_normal((num_classes, width))
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(0.01 * draw))
            self.linear.bias.zero_()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the logits (sample, class) of features (sample, width)."""
        logits: torch.Tensor = self.linear(self.norm(features))
        return logits


@dataclass(frozen=True, kw_only=True)
class ProbeFit:
    """A fitted probe and how it was chosen."""

    probe: LinearProbe
    """At the chosen epoch."""
    best_epoch: int
    """The first epoch, from 1, with the best validation score."""
    validation: tuple[float, ...]
    """Validation score after each epoch: accuracy, or micro mAP for several labels a sample."""


def fit_linear_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    options: LinearOptions | None = None,
    *,
    seed: int,
    device: str = "cpu",
    shown: bool = False,
) -> ProbeFit:
    """Fit a linear probe on frozen features; the epoch with the best validation score is kept.

    Equal arguments give equal weights.

    Args:
        train: samples to fit.
        validation: samples that choose the epoch.
        options: of the protocol.
        seed: of the first weights and of the order of samples.
        device: where it is fitted.
        shown: show a progress bar.

    Raises:
        InputError: under two training samples, no validation samples, or classes that training lacks.
    """
    options = options or LinearOptions()
    if len(train) < 2 or not len(validation):
        raise InputError(
            f"a linear probe needs 2 training samples and a validation sample, found {len(train)} and "
            f"{len(validation)}; validation chooses the epoch"
        )
    check_same_classes(train, validation)
    probe = LinearProbe(train.features.shape[1], len(train.classes), seed=seed).to(device)
    best, scores = (-np.inf, 0, probe.state_dict()), []
    with progress("linear probe", options.epochs, shown=shown) as advance:
        for epoch in _epochs(probe, train, options, seed=seed):
            scores.append(_validation_score(probe, validation))
            if scores[-1] > best[0]:
                best = (
                    scores[-1],
                    epoch,
                    {name: value.clone() for name, value in probe.state_dict().items()},
                )
            advance(1)
    probe.load_state_dict(best[2])
    return ProbeFit(probe=probe.eval(), best_epoch=best[1], validation=tuple(scores))


def _epochs(probe: LinearProbe, train: LabelledFeatures, options: LinearOptions, *, seed: int) -> Iterator[int]:
    """Train epoch after epoch, giving its number from 1."""
    device = probe.linear.weight.device
    features = torch.from_numpy(train.features).float().to(device)
    labels = torch.from_numpy(train.labels).to(device)
    batch_size = min(options.batch_size, len(train))
    lr = options.base_lr * batch_size / _SAMPLES_PER_BASE_LR
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for epoch in range(options.epochs):
        drops = sum(epoch >= round(share * options.epochs) for share in options.drops)
        optimizer.param_groups[0]["lr"] = lr * 0.1**drops
        order = torch.from_numpy(permutation(seed, step=epoch, purpose="linear probe order", size=len(train)))
        probe.train()
        for start in range(0, len(train), batch_size):
            rows = order[start : start + batch_size].to(device)
            # Batch normalisation has no variance in a batch of one; the sample has its turn in other epochs.
            if len(rows) > 1:
                optimizer.zero_grad()
                _loss(probe(features[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        yield epoch + 1


def _loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if labels.ndim == 2:
        return multilabel_soft_margin_loss(logits, labels.to(logits.dtype))
    return cross_entropy(logits, labels.long())


def _validation_score(probe: LinearProbe, validation: LabelledFeatures) -> float:
    scores = probe_scores(probe, validation.features)
    return metric_value("map_micro" if validation.multi_label else "accuracy", validation.labels, scores)


def probe_scores(probe: LinearProbe, features: Float[Array, "sample width"]) -> Float[Array, "sample class"]:
    """Compute the logits of features with the running statistics of the batch normalisation, as float64."""
    probe.eval()
    with torch.no_grad():
        logits = probe(torch.from_numpy(features).float().to(probe.linear.weight.device))
    scores: Array = logits.double().cpu().numpy()
    return scores
