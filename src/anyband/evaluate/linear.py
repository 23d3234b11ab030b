"""Linear probes: by AdamW as published, and by a solver."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multilabel_soft_margin_loss

from anyband.arrays import Array, Bool, Float, Int
from anyband.errors import InputError
from anyband.evaluate.metrics import LabelledFeatures, MetricName, check_same_classes, label_matrix, metric_value
from anyband.progress import progress
from anyband.randomness import generator, permutation

__all__ = [
    "LinearOptions",
    "LinearProbe",
    "ProbeFit",
    "SolvedProbe",
    "fit_linear_probe",
    "probe_scores",
    "solve_linear_probe",
    "solve_ridge",
]

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


# chosen: decades from nearly no weights to nearly no penalty, for a mean loss over samples of standardised features.
_STRENGTHS = (1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4)
# chosen: scores stop changing long before; separable classes without a penalty never converge.
_MAX_ITERATIONS = 500
# chosen: the logit of a class that no training sample has, under that of any other.
_NEVER = -1e4


@dataclass(frozen=True, kw_only=True)
class SolvedProbe:
    """A solved probe and how it was chosen."""

    probe: LinearProbe
    """Standardisation and linear layer; of numbers with one output, in their own unit."""
    strength: float
    """Of the chosen penalty: `strength / 2 · |weights|²` beside the mean loss of a training sample."""
    validation: dict[float, float]
    """Validation score of each strength: accuracy, micro mAP, or for numbers −RMSE."""
    notes: tuple[str, ...] = ()
    """What a user should know."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layer:
    """A linear layer on standardised features."""

    weight: Float[Array, "output width"]
    """Factors."""
    bias: Float[Array, " output"]
    """Summands."""
    converged: bool = True
    """Whether the solver came to its end."""


def solve_linear_probe(
    train: LabelledFeatures, validation: LabelledFeatures, *, device: str = "cpu", shown: bool = False
) -> SolvedProbe:
    """Solve logistic regression on standardised features, or for several labels a sample one for each label.

    The penalty with the best validation score is kept; of equal ones the strongest. Equal arguments give equal weights.

    Args:
        train: samples to fit.
        validation: samples that choose the penalty.
        device: where the probe is put; it is solved on the CPU.
        shown: show a progress bar.

    Raises:
        InputError: no validation samples, under two classes in training, or classes that training lacks.
    """
    _check_counts(len(train), len(validation))
    check_same_classes(train, validation)
    if not train.multi_label and len(np.unique(train.labels)) < 2:
        name = train.classes[int(train.labels[0])]
        raise InputError(f"all {len(train)} training samples are of class '{name}'; a linear probe needs two classes")
    metric: MetricName = "map_micro" if train.multi_label else "accuracy"

    def score(probe: LinearProbe) -> float:
        return metric_value(metric, validation.labels, probe_scores(probe, validation.features))

    solve = _solve_labels if train.multi_label else _solve_classes
    # Half the time of float64; the solver's tolerance is far above the rounding.
    exact = _standardised(train.features)
    standard = replace(exact, rows=exact.rows.astype(np.float32))
    layers = _Path(standard, lambda rows, strength: solve(rows, train, strength))
    return _chosen(layers, score, device=device, shown=shown)


def solve_ridge(
    train: tuple[Float[Array, "sample width"], Float[Array, " sample"]],
    validation: tuple[Float[Array, "other width"], Float[Array, " other"]],
    *,
    device: str = "cpu",
    shown: bool = False,
) -> SolvedProbe:
    """Solve ridge regression on standardised features; the penalty with the least validation RMSE is kept.

    Args:
        train: features and numbers to fit.
        validation: features and numbers that choose the penalty.
        device: where the probe is put; it is solved on the CPU.
        shown: show a progress bar.

    Raises:
        InputError: under two training samples, no validation samples, or features or numbers that are not finite.
    """
    features, numbers = train
    _check_counts(len(features), len(validation[0]))
    if not all(np.isfinite(one).all() for one in (*train, *validation)):
        raise InputError("a feature or number is not finite; leave out samples without data or without a number")

    def score(probe: LinearProbe) -> float:
        predicted = probe_scores(probe, validation[0])[:, 0]
        return -float(np.sqrt(np.mean((predicted - validation[1]) ** 2)))

    layers = _Path(_standardised(features), lambda rows, strength: _solve_numbers(rows, numbers, strength))
    return _chosen(layers, score, device=device, shown=shown)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Standardised:
    """Training features with mean 0 and variance 1, by the statistics that batch normalisation would have."""

    rows: Float[Array, "sample width"]
    """Standardised features."""
    mean: Float[Array, " width"]
    """Of the features."""
    var: Float[Array, " width"]
    """Of the features."""


@dataclass(frozen=True, eq=False)
class _Path:
    """Layers by penalty."""

    standard: _Standardised
    solve: Callable[[Float[Array, "sample width"], float], _Layer]

    def probe(self, layer: _Layer, device: str) -> LinearProbe:
        """Put a layer into the module that is fitted by epochs too."""
        probe = LinearProbe(layer.weight.shape[1], len(layer.bias), seed=0)
        assert probe.norm.running_mean is not None
        assert probe.norm.running_var is not None
        with torch.no_grad():
            probe.norm.running_mean.copy_(torch.from_numpy(self.standard.mean))
            probe.norm.running_var.copy_(torch.from_numpy(self.standard.var))
            probe.linear.weight.copy_(torch.from_numpy(layer.weight))
            probe.linear.bias.copy_(torch.from_numpy(layer.bias))
        return probe.to(device).eval()


def _check_counts(num_train: int, num_validation: int) -> None:
    if num_train < 2 or not num_validation:
        raise InputError(
            f"a linear probe needs 2 training samples and a validation sample, found {num_train} and "
            f"{num_validation}; validation chooses the penalty"
        )


def _standardised(features: Float[Array, "sample width"]) -> _Standardised:
    wide = features.astype(np.float64)
    mean, var = wide.mean(axis=0), wide.var(axis=0)
    # The probe's own: batch normalisation divides so.
    eps = LinearProbe(1, 1, seed=0).norm.eps
    return _Standardised(rows=(wide - mean) / np.sqrt(var + eps), mean=mean, var=var)


def _chosen(path: _Path, score: Callable[[LinearProbe], float], *, device: str, shown: bool) -> SolvedProbe:
    best: tuple[float, float, LinearProbe] | None = None
    scores, unfinished = {}, []
    with progress("linear probe", len(_STRENGTHS), shown=shown) as advance:
        for strength in _STRENGTHS:
            layer = path.solve(path.standard.rows, strength)
            probe = path.probe(layer, device)
            scores[strength] = score(probe)
            if not layer.converged:
                unfinished.append(strength)
            if best is None or scores[strength] > best[0]:
                best = (scores[strength], strength, probe)
            advance(1)
    assert best is not None
    return SolvedProbe(probe=best[2], strength=best[1], validation=scores, notes=_notes(best[1], unfinished))


def _notes(strength: float, unfinished: Sequence[float]) -> tuple[str, ...]:
    notes = []
    if strength in unfinished:
        notes.append(f"the solver stopped after {_MAX_ITERATIONS} iterations before its end")
    if strength in (_STRENGTHS[0], _STRENGTHS[-1]):
        end = "strongest" if strength == _STRENGTHS[0] else "weakest"
        notes.append(f"validation chose the {end} penalty tried, {strength:g}")
    return tuple(notes)


def _logistic(
    rows: Float[Array, "sample width"], labels: Int[Array, " sample"] | Bool[Array, " sample"], strength: float
) -> tuple[Array, Array, bool]:
    """Solve one logistic regression: factors and summands of each class (two classes: of the second), and its end."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    # scikit-learn sums the losses of the samples and takes the inverse of the penalty.
    model = LogisticRegression(C=1 / (strength * len(rows)), max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(rows, labels)
    others = [one for one in caught if not issubclass(one.category, ConvergenceWarning)]
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return model.coef_, model.intercept_, len(caught) == len(others)


def _solve_classes(rows: Float[Array, "sample width"], train: LabelledFeatures, strength: float) -> _Layer:
    present, numbers = np.unique(train.labels, return_inverse=True)
    coefficients, intercepts, converged = _logistic(rows, numbers, strength)
    if len(present) == 2:
        # Two classes have one logit, the difference of theirs.
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((len(train.classes), rows.shape[1]))
    bias = np.full(len(train.classes), _NEVER)
    weight[present], bias[present] = coefficients, intercepts
    return _Layer(weight=weight, bias=bias, converged=converged)


def _solve_labels(rows: Float[Array, "sample width"], train: LabelledFeatures, strength: float) -> _Layer:
    labels = label_matrix(train)
    weight, bias, converged = np.zeros((labels.shape[1], rows.shape[1])), np.zeros(labels.shape[1]), True
    for index, column in enumerate(labels.T):
        if column.any() and not column.all():
            coefficients, intercepts, ended = _logistic(rows, column, strength)
            weight[index], bias[index], converged = coefficients[0], intercepts[0], converged and ended
        else:
            bias[index] = -_NEVER if column.any() else _NEVER
    return _Layer(weight=weight, bias=bias, converged=converged)


def _solve_numbers(rows: Float[Array, "sample width"], numbers: Float[Array, " sample"], strength: float) -> _Layer:
    from sklearn.linear_model import Ridge

    # Half of the mean squared error beside half of the squared weights: scikit-learn has neither the half nor the mean.
    model = Ridge(alpha=strength * len(rows)).fit(rows, numbers)
    return _Layer(weight=model.coef_[None], bias=np.atleast_1d(model.intercept_))
