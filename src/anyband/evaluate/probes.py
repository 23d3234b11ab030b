"""What frozen features are worth: votes of the nearest samples, and linear probes by AdamW as published or solved."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multilabel_soft_margin_loss, normalize

from anyband.arrays import Array, Bool, Float, Int
from anyband.errors import InputError
from anyband.evaluate.features import (
    Context,
    Features,
    Redraw,
    Result,
    check_splits,
    labelled_features,
    probe_encoders,
)
from anyband.evaluate.fitting import fitted_head
from anyband.evaluate.metrics import (
    VALIDATION_METRICS,
    LabelledFeatures,
    MetricName,
    check_same_classes,
    label_matrix,
    metric_value,
    predictions_of,
)
from anyband.evaluate.recipe import LinearRecipe
from anyband.models.heads import load_head
from anyband.progress import progress
from anyband.randomness import generator, permutation

__all__ = [
    "NUM_NEIGHBOURS",
    "FittedProbe",
    "LinearProbe",
    "fit_linear_probe",
    "knn",
    "knn_scores",
    "linear",
    "probe_of",
    "probe_scores",
    "score_head",
    "solve_linear_probe",
    "solve_ridge",
    "title_of",
]

NUM_NEIGHBOURS = 20
"""That vote, as published: SMARTIES, section 4.1."""

_FEW = "k is {} but there are {} training samples; ask for a smaller k by `--k` (knn.k)"
# chosen: similarities held at once, about 64 MB as float32.
_CHUNK_NUMBERS = 16_000_000
# Source: the learning rates of the SMARTIES paper are given for 256 samples.
_SAMPLES_PER_BASE_LR = 256
# chosen: decades from nearly no weights to nearly no penalty, for a mean loss over samples of standardised features.
_STRENGTHS = (1e2, 1e1, 1e0, 1e-1, 1e-2, 1e-3, 1e-4)
# chosen: scores stop changing long before; separable classes without a penalty never converge.
_MAX_ITERATIONS = 500
# chosen: the logit of a class that no training sample has, under that of any other.
_NEVER = -1e4
# Of the standardisation: batch normalisation divides so, and what is solved must too.
_EPS = 1e-6


def knn(context: Context) -> list[Result]:
    """Score each encoder by the votes of the nearest training samples; see `probe_encoders`. An empty split, a k over
    the number of training samples, or a test class without any is an `InputError`."""
    data, rules = context.data, context.recipe.knn
    check_splits(data, protocol="kNN", splits=("train", "test"))
    if rules.k > (num_train := data.num_samples["train"]):
        # Before the images are read, which may take hours.
        raise InputError(_FEW.format(rules.k, num_train))

    def vote(features: Features, _: Redraw | None) -> Result:
        train, test = (labelled_features(data, features, split) for split in ("train", "test"))
        k, temperature = rules.k, rules.temperature
        scores = knn_scores(train, test, k=k, temperature=temperature, device=context.device, shown=context.shown)
        predictions, chosen = predictions_of(data, data.split("test"), scores), {"k": k, "temperature": temperature}
        return Result(features="", width=features.shape[1], predictions=predictions, chosen=chosen)

    return probe_encoders(context, vote, title="nearest neighbours")


def knn_scores(
    train: LabelledFeatures,
    test: LabelledFeatures,
    *,
    k: int = NUM_NEIGHBOURS,
    temperature: float = 0.07,
    device: str = "cpu",
    shown: bool = False,
) -> Float[Array, "sample class"]:
    """Score the classes of test samples by the weighted votes of their nearest training samples.
    A neighbour of similarity s votes with weight exp(s / temperature). The scores of a sample with one class sum to 1.
    Of training samples at equal similarity the first count, so the result does not depend on the order of a sort. A k
    over the number of training samples, or a test class without any, is an `InputError`.
    Source: Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    """
    num_train = len(train.features)
    if k > num_train:
        raise InputError(_FEW.format(k, num_train))
    check_same_classes(train, test)
    keys, queries = (normalize(torch.from_numpy(one.features).float().to(device), dim=1) for one in (train, test))
    classes = torch.from_numpy(label_matrix(train)).double().to(device)
    chunk = max(1, _CHUNK_NUMBERS // num_train)
    votes = [torch.empty((0, len(train.classes)), dtype=torch.float64)]
    with progress("nearest neighbours", len(queries), shown=shown) as advance:
        for start in range(0, len(queries), chunk):
            similarity = queries[start : start + chunk] @ keys.T
            kth = similarity.topk(k, dim=1).values[:, -1:]
            above, level = similarity > kth, similarity == kth
            room = k - above.sum(dim=1, keepdim=True)
            chosen = above | (level & (level.cumsum(dim=1) <= room))
            weights = torch.where(chosen, torch.exp(similarity.double() / temperature), 0.0)
            votes.append((weights @ classes / weights.sum(dim=1, keepdim=True)).cpu())
            advance(len(similarity))
    return torch.cat(votes).numpy()


def linear(context: Context) -> list[Result]:
    """Score a linear layer on each encoder's frozen features; numbers are fitted by ridge regression. An empty split,
    or a class of validation or test without training sample, is an `InputError`."""
    check_splits(context.data, protocol="a linear probe")
    return probe_encoders(context, lambda *given: probe_of(context, *given), title=title_of(context))


def title_of(context: Context) -> str:
    """Name the classifier; see `probe_of`."""
    if context.data.kind == "number":
        return "ridge regression"
    return "linear probe" if _by_epochs(context) else "logistic regression"


def _by_epochs(context: Context) -> bool:
    return context.protocol in ("linear", "leave-one-band-out") and context.recipe.linear.solver == "adamw"


def probe_of(context: Context, features: Features, redraw: Redraw | None = None) -> Result:
    """Probe the features of all samples; the result has no name yet. What others are compared with is always solved.
    Training by epochs sees what `redraw` gives in each, from step 1, after the first."""
    data, recipe, test = context.data, context.recipe, context.data.split("test")
    name = "epoch" if _by_epochs(context) and data.kind != "number" else "penalty"
    if data.kind == "number":
        assert data.targets is not None
        numbers = np.asarray(data.targets, dtype=np.float64)
        train, validation = ((features[data.split(split)], numbers[data.split(split)]) for split in ("train", "val"))
        fitted = solve_ridge(train, validation, device=context.device, shown=context.shown)
    else:
        fitting, choosing, testing = (labelled_features(data, features, one) for one in ("train", "val", "test"))
        check_same_classes(fitting, testing)
        if name == "epoch":
            fitted = fit_linear_probe(
                fitting,
                choosing,
                recipe.linear,
                seed=recipe.seed,
                device=context.device,
                shown=context.shown,
                redraw=partial(redraw, data.split("train")) if redraw and recipe.linear.redraw else None,
            )
        else:
            fitted = solve_linear_probe(fitting, choosing, device=context.device, shown=context.shown)
    scores = probe_scores(fitted.probe, features[test])
    score_name = f"validation {VALIDATION_METRICS[data.kind]}"
    return Result(
        features="",
        width=features.shape[1],
        predictions=predictions_of(data, test, scores[:, 0] if data.kind == "number" else scores),
        chosen={name: fitted.choice, score_name: fitted.validation[fitted.choice]},
        curves={"validation": tuple(fitted.validation.values())} if name == "epoch" else {},
        model={key: value.detach().cpu().contiguous() for key, value in fitted.probe.state_dict().items()},
        notes=fitted.notes,
    )


def score_head(context: Context) -> list[Result]:
    """Score a fitted head on the encoder's features of the test samples: a probe or, fine-tuned, a linear layer alone.
    No other sample is read. A head that does not fit is a `CheckpointError`; see `fitted_head`."""
    data, test = context.data, context.data.split("test")
    check_splits(data, protocol="a fitted head", splits=("test",))
    width = context.fused(context.encoders["encoder"]).width(len(data.sensors[0]))
    num_outputs = 1 if data.kind == "number" else len(data.classes)
    state, where, notes = fitted_head(context, width=width, num_outputs=num_outputs)
    head = LinearProbe(width, num_outputs, seed=0)
    if context.protocol != "linear":
        head.norm = nn.Identity()
    load_head(head, state, where=where)
    head = head.to(context.device)

    def scored(features: Features, _: Redraw | None) -> Result:
        scores = probe_scores(head, features)
        predictions = predictions_of(data, test, scores[:, 0] if data.kind == "number" else scores)
        return Result(features="", width=width, predictions=predictions, notes=notes)

    return probe_encoders(context, scored, title="", samples=test)


class LinearProbe(nn.Module):
    """Batch normalisation without scale and shift, then one linear layer."""

    norm: nn.Module

    def __init__(self, width: int, num_classes: int, *, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=_EPS)
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
class FittedProbe:
    """A probe and how validation chose it."""

    probe: LinearProbe
    """In evaluation mode; of numbers it has one output, in their own unit."""
    choice: int | float
    """The epoch, from 1, or the penalty: `choice / 2 · |weights|²` beside the mean loss of a training sample."""
    validation: Mapping[int | float, float]
    """Validation score of each epoch or penalty: accuracy, micro mAP, or for numbers −RMSE."""
    notes: tuple[str, ...] = ()


def fit_linear_probe(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    recipe: LinearRecipe | None = None,
    *,
    seed: int,
    device: str = "cpu",
    shown: bool = False,
    redraw: Callable[[int], Features] | None = None,
) -> FittedProbe:
    """Fit a linear probe by AdamW; the first epoch with the best validation score is kept.
    The protocol of SMARTIES, section 4.1: no decay, no warm-up, no augmentation. Equal arguments give equal weights.
    `seed` is of the first weights and of the order of samples. The first epoch sees the features of `train`, the next
    those that `redraw` gives for 1, 2, …. Under two training samples, no validation samples, or
    classes that training lacks are an `InputError`.
    """
    recipe = recipe or LinearRecipe()
    if recipe.batch_size < 2 or recipe.epochs < 1 or not recipe.base_lr > 0:
        raise InputError(
            "a linear probe needs batch_size ≥ 2, epochs ≥ 1 and base_lr > 0, "
            f"found {recipe.batch_size}, {recipe.epochs}, {recipe.base_lr:g}"
        )
    _check_counts(len(train.labels), len(validation.labels), chosen="epoch")
    check_same_classes(train, validation)
    probe = LinearProbe(train.features.shape[1], len(train.classes), seed=seed).to(device)
    best = 0, probe.state_dict()
    scores: dict[int | float, float] = {0: -np.inf}
    with progress("linear probe", recipe.epochs, shown=shown) as advance:
        for epoch in _epochs(probe, train, recipe, seed=seed, redraw=redraw):
            scores[epoch] = _label_score(probe, validation)
            if scores[epoch] > scores[best[0]]:
                best = epoch, {name: value.clone() for name, value in probe.state_dict().items()}
            advance(1)
    del scores[0]
    probe.load_state_dict(best[1])
    return FittedProbe(probe=probe.eval(), choice=best[0], validation=scores)


def _epochs(
    probe: LinearProbe,
    train: LabelledFeatures,
    recipe: LinearRecipe,
    *,
    seed: int,
    redraw: Callable[[int], Features] | None,
) -> Iterator[int]:
    """Train epoch after epoch, giving its number from 1."""
    device = probe.linear.weight.device
    features = torch.from_numpy(train.features).float().to(device)
    labels = torch.from_numpy(train.labels).to(device)
    batch_size = min(recipe.batch_size, len(train.labels))
    lr = recipe.base_lr * batch_size / _SAMPLES_PER_BASE_LR
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for epoch in range(recipe.epochs):
        if redraw is not None and epoch:
            features = torch.from_numpy(redraw(epoch)).float().to(device)
        drops = sum(epoch >= round(share * recipe.epochs) for share in recipe.drops)
        optimizer.param_groups[0]["lr"] = lr * 0.1**drops
        order = torch.from_numpy(permutation(seed, step=epoch, purpose="linear probe order", size=len(train.labels)))
        probe.train()
        for start in range(0, len(train.labels), batch_size):
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


def _label_score(probe: LinearProbe, validation: LabelledFeatures) -> float:
    metric: MetricName = "map_micro" if validation.labels.ndim == 2 else "accuracy"
    return metric_value(metric, validation.labels, probe_scores(probe, validation.features))


def probe_scores(probe: LinearProbe, features: Float[Array, "sample width"]) -> Float[Array, "sample class"]:
    """Compute the logits of features with the running statistics of the batch normalisation, as float64."""
    probe.eval()
    with torch.no_grad():
        logits = probe(torch.from_numpy(features).float().to(probe.linear.weight.device))
    scores: Array = logits.double().cpu().numpy()
    return scores


# What is solved for a penalty on standardised features: weights, biases, and whether the solver came to its end.
_Layer = tuple[Float[Array, "output width"], Float[Array, " output"], bool]


def solve_linear_probe(
    train: LabelledFeatures, validation: LabelledFeatures, *, device: str = "cpu", shown: bool = False
) -> FittedProbe:
    """Solve logistic regression on standardised features, or for several labels a sample one for each label. The
    penalty with the best validation score is kept; of equal ones the strongest. Equal arguments give equal weights. No
    validation samples, under two classes in training, or classes that training lacks are an `InputError`."""
    _check_counts(len(train.labels), len(validation.labels), chosen="penalty")
    check_same_classes(train, validation)
    if train.labels.ndim == 1 and len(np.unique(train.labels)) < 2:
        name = train.classes[int(train.labels[0])]
        raise InputError(
            f"all {len(train.labels)} training samples are of class '{name}'; a linear probe needs two classes"
        )
    solve = _solve_labels if train.labels.ndim == 2 else _solve_classes
    return _by_penalty(
        train.features,
        # Half the time of float64; the solver's tolerance is far above the rounding.
        lambda rows, strength: solve(rows.astype(np.float32), train, strength),
        lambda probe: _label_score(probe, validation),
        device=device,
        shown=shown,
    )


def solve_ridge(
    train: tuple[Float[Array, "sample width"], Float[Array, " sample"]],
    validation: tuple[Float[Array, "other width"], Float[Array, " other"]],
    *,
    device: str = "cpu",
    shown: bool = False,
) -> FittedProbe:
    """Solve ridge regression on standardised features; the penalty with the least validation RMSE is kept. Under two
    training samples, no validation samples, or values that are not finite are an `InputError`."""
    from sklearn.linear_model import Ridge

    features, numbers = train
    _check_counts(len(features), len(validation[0]), chosen="penalty")
    if not all(np.isfinite(one).all() for one in (*train, *validation)):
        raise InputError("a feature or number is not finite; leave out samples without data or without a number")

    def solve(rows: Float[Array, "sample width"], strength: float) -> _Layer:
        # Half of the mean squared error beside half of the squared weights: scikit-learn has neither half nor mean.
        model = Ridge(alpha=strength * len(rows)).fit(rows, numbers)
        return model.coef_[None], np.atleast_1d(model.intercept_), True

    def score(probe: LinearProbe) -> float:
        predicted = probe_scores(probe, validation[0])[:, 0]
        return -float(np.sqrt(np.mean((predicted - validation[1]) ** 2)))

    return _by_penalty(features, solve, score, device=device, shown=shown)


def _check_counts(num_train: int, num_validation: int, *, chosen: str) -> None:
    if num_train < 2 or not num_validation:
        raise InputError(
            f"a linear probe needs 2 training samples and a validation sample, found {num_train} and "
            f"{num_validation}; validation chooses the {chosen}"
        )


def _by_penalty(
    features: Float[Array, "sample width"],
    solve: Callable[[Float[Array, "sample width"], float], _Layer],
    score: Callable[[LinearProbe], float],
    *,
    device: str,
    shown: bool,
) -> FittedProbe:
    wide = features.astype(np.float64)
    mean, var = wide.mean(axis=0), wide.var(axis=0)
    rows = (wide - mean) / np.sqrt(var + _EPS)
    found: dict[float, tuple[float, LinearProbe, bool]] = {}
    with progress("linear probe", len(_STRENGTHS), shown=shown) as advance:
        for strength in _STRENGTHS:
            weight, bias, converged = solve(rows, strength)
            probe = _with_layer(weight, bias, mean, var).to(device).eval()
            found[strength] = score(probe), probe, converged
            advance(1)
    chosen = max(found, key=lambda strength: found[strength][0])
    notes = []
    if not found[chosen][2]:
        notes.append(f"the solver stopped after {_MAX_ITERATIONS} iterations before its end")
    if chosen in (_STRENGTHS[0], _STRENGTHS[-1]):
        end = "strongest" if chosen == _STRENGTHS[0] else "weakest"
        notes.append(f"validation chose the {end} penalty tried, {chosen:g}")
    validation: dict[int | float, float] = {strength: one for strength, (one, _, _) in found.items()}
    return FittedProbe(probe=found[chosen][1], choice=chosen, validation=validation, notes=tuple(notes))


def _with_layer(
    weight: Float[Array, "output width"],
    bias: Float[Array, " output"],
    mean: Float[Array, " width"],
    var: Float[Array, " width"],
) -> LinearProbe:
    probe = LinearProbe(weight.shape[1], len(bias), seed=0)
    state = {"norm.running_mean": mean, "norm.running_var": var, "linear.weight": weight, "linear.bias": bias}
    probe.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()}, strict=False)
    return probe


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
    return weight, bias, converged


def _solve_labels(rows: Float[Array, "sample width"], train: LabelledFeatures, strength: float) -> _Layer:
    labels = label_matrix(train)
    weight, bias, converged = np.zeros((labels.shape[1], rows.shape[1])), np.zeros(labels.shape[1]), True
    for index, column in enumerate(labels.T):
        if column.any() and not column.all():
            coefficients, intercepts, ended = _logistic(rows, column, strength)
            weight[index], bias[index], converged = coefficients[0], intercepts[0], converged and ended
        else:
            bias[index] = -_NEVER if column.any() else _NEVER
    return weight, bias, converged
