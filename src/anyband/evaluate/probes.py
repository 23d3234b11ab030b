"""Probes of frozen features: nearest neighbours and a linear layer. Validation chooses, test reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.store import Split
from anyband.errors import InputError
from anyband.evaluate.context import Context
from anyband.evaluate.features import extract_features
from anyband.evaluate.knn import check_neighbours, knn_scores
from anyband.evaluate.linear import (
    LinearOptions,
    LinearProbe,
    SolvedProbe,
    fit_linear_probe,
    probe_scores,
    solve_linear_probe,
    solve_ridge,
)
from anyband.evaluate.map_kinds import with_spatial_groups
from anyband.evaluate.metrics import LabelledFeatures, check_same_classes
from anyband.evaluate.predictions import Predictions, Result, class_predictions, labels_predictions, number_predictions
from anyband.labelled.samples import TaskData, TaskKind

__all__ = ["VALIDATION_SCORES", "check_splits", "knn", "linear", "over_scales", "predictions_of", "score_vectors"]

VALIDATION_SCORES: Mapping[TaskKind, str] = MappingProxyType(
    {"class": "accuracy", "labels": "map_micro", "number": "minus rmse"}
)
"""What validation compares, by kind of data; higher is better."""

Features = Float[Array, "sample width"]
_Probe = Callable[[Context, Features], Result]


def knn(context: Context) -> list[Result]:
    """Score each encoder by the votes of the nearest training samples.

    With several `input.scales`, an encoder's first result holds its predictions at all scales, so that its accuracy
    is their mean; an result for each scale follows.

    Raises:
        InputError: k is over the number of training samples, a part is empty, or a class of the test has no training
            sample.
    """
    check_splits(context.data, protocol="kNN", parts=("train", "test"))
    # Before the images are read, which may take hours.
    check_neighbours(context.recipe.knn.k, context.data.num_samples["train"])
    return _for_encoders(context, _voted)


def linear(context: Context) -> list[Result]:
    """Score a linear layer on each encoder's frozen features; numbers are fitted by ridge regression.

    With several `input.scales`, there is a probe for each; results are as those of `knn`.

    Raises:
        InputError: a part is empty, or a class of validation or test has no training sample.
    """
    check_splits(context.data, protocol="a linear probe")
    return _for_encoders(context, _probed)


def score_vectors(context: Context, features: Features, *, name: str) -> Result:
    """Score other features as the protocol scores those of an encoder; for fine-tuning, the solved linear probe.

    Args:
        context: data, protocol and its options.
        features: of all samples of the data, in their order.
        name: of the features; what they are scored by is added.

    Raises:
        InputError: as `knn` and `linear`.
    """
    if context.protocol == "knn":
        return replace(_voted(context, features), features=f"{name} + nearest neighbours")
    if context.data.kind == "number":
        return replace(_probed(context, features), features=f"{name} + ridge regression")
    if context.protocol == "linear" and context.recipe.linear.solver == "adamw":
        return replace(_probed(context, features), features=f"{name} + linear probe")
    return replace(_solved(context, features), features=f"{name} + logistic regression")


def check_splits(data: TaskData, *, protocol: str, parts: Sequence[Split] = ("train", "val", "test")) -> None:
    """See that data have the parts that a protocol needs, and targets.

    Raises:
        InputError: a part is empty, or the data are maps.
    """
    if data.targets is None:
        raise InputError(f"{protocol} is for whole images, and '{data.name}' has maps; use segment, change or regress")
    counts = data.num_samples
    empty = [part for part in parts if not counts[part]]
    if empty:
        found = ", ".join(f"{counts[part]} {part}" for part in counts)
        raise InputError(
            f"{protocol} needs samples in {', '.join(parts)}; '{data.name}' has {found}; validation chooses, test "
            "reports: say with data.split how samples come into parts"
        )


def predictions_of(
    data: TaskData, samples: Int[Array, " sample"], predicted: Float[Array, "sample *output"]
) -> Predictions:
    """Record what was predicted for samples: scores of the classes, or numbers.

    Args:
        data: with the truth.
        samples: positions.
        predicted: one row for each.
    """
    assert data.targets is not None
    names, truth = [data.names[int(sample)] for sample in samples], data.targets[samples]
    if data.kind == "class":
        found = class_predictions(truth, predicted, classes=data.classes, samples=names)
    elif data.kind == "labels":
        found = labels_predictions(truth, predicted, classes=data.classes, samples=names)
    else:
        found = number_predictions(np.asarray(truth, dtype=np.float64), predicted, samples=names)
    return with_spatial_groups(found, data, samples)


def _for_encoders(context: Context, probe: _Probe) -> list[Result]:
    scales = context.recipe.input.scales
    found: dict[str, list[Result]] = {name: [] for name in context.encoders}
    for scale in scales:
        for name, features in _features(context, scale).items():
            found[name].append(replace(probe(context, features), features=name))
    return [result for name in found for result in over_scales(found[name], scales)]


def _features(context: Context, scale: float) -> dict[str, Features]:
    encoders = {name: context.fused(name) for name in context.encoders}
    every = np.arange(len(context.data))
    return extract_features(encoders, context.reader, every, cache=context.cache, shown=context.shown, scale=scale)


def over_scales(results: Sequence[Result], scales: Sequence[float]) -> list[Result]:
    """Put what was found at several scales together: the mean over them first, then each; one scale stays as it is.

    Args:
        results: of one kind of features, one for each scale.
        scales: shares of the size of the images.
    """
    if len(scales) == 1:
        return list(results)
    labels = [f"{100 * scale:g} %" for scale in scales]
    first = results[0]
    together = Result(
        features=first.features,
        width=first.width,
        predictions=_joined([one.predictions for one in results], labels),
        notes=(f"mean over images reduced to {', '.join(labels)}",),
    )
    alone = [replace(one, features=f"{one.features} @ {label}") for one, label in zip(results, labels, strict=True)]
    return [together, *alone]


def _joined(predictions: Sequence[Predictions], labels: Sequence[str]) -> Predictions:
    """Lay the predictions at several scales one after the other; those for one image are drawn together."""
    names = [f"{sample} @ {label}" for one, label in zip(predictions, labels, strict=True) for sample in one.samples]
    arrays = {name: np.concatenate([one.arrays[name] for one in predictions]) for name in predictions[0].arrays}
    groups = (predictions[0].groups or predictions[0].samples) * len(labels)
    return replace(predictions[0], samples=tuple(names), arrays=arrays, groups=groups)


def _part(data: TaskData, features: Features, part: Split) -> LabelledFeatures:
    samples = data.part(part)
    assert data.targets is not None
    return LabelledFeatures(features=features[samples], labels=data.targets[samples], classes=data.classes)


def _voted(context: Context, features: Features) -> Result:
    data = context.data
    train, test = (_part(data, features, part) for part in ("train", "test"))
    scores = knn_scores(
        train,
        test,
        k=context.recipe.knn.k,
        temperature=context.recipe.knn.temperature,
        device=context.device,
        shown=context.shown,
    )
    return Result(
        features="",
        width=features.shape[1],
        predictions=predictions_of(data, data.part("test"), scores),
        chosen={"k": context.recipe.knn.k, "temperature": context.recipe.knn.temperature},
    )


def _probed(context: Context, features: Features) -> Result:
    if context.data.kind == "number":
        return _ridge(context, features)
    return _solved(context, features) if context.recipe.linear.solver == "lbfgs" else _by_epochs(context, features)


def _by_epochs(context: Context, features: Features) -> Result:
    data, recipe = context.data, context.recipe.linear
    train, validation, test = (_part(data, features, part) for part in ("train", "val", "test"))
    check_same_classes(train, test)
    options = LinearOptions(
        batch_size=recipe.batch_size, base_lr=recipe.base_lr, epochs=recipe.epochs, drops=recipe.drops
    )
    fit = fit_linear_probe(
        train, validation, options, seed=context.recipe.seed, device=context.device, shown=context.shown
    )
    chosen = {"epoch": fit.best_epoch, _validation_name(data): fit.validation[fit.best_epoch - 1]}
    result = _result(context, features, fit.probe, chosen)
    return replace(result, curves={"validation": fit.validation})


def _solved(context: Context, features: Features) -> Result:
    data = context.data
    train, validation, test = (_part(data, features, part) for part in ("train", "val", "test"))
    check_same_classes(train, test)
    solved = solve_linear_probe(train, validation, device=context.device, shown=context.shown)
    return replace(_result(context, features, solved.probe, _chosen(data, solved)), notes=solved.notes)


def _ridge(context: Context, features: Features) -> Result:
    data = context.data
    assert data.targets is not None
    numbers = np.asarray(data.targets, dtype=np.float64)
    train, validation = ((features[data.part(part)], numbers[data.part(part)]) for part in ("train", "val"))
    solved = solve_ridge(train, validation, device=context.device, shown=context.shown)
    return replace(_result(context, features, solved.probe, _chosen(data, solved)), notes=solved.notes)


def _chosen(data: TaskData, solved: SolvedProbe) -> dict[str, Any]:
    return {"penalty": solved.strength, _validation_name(data): solved.validation[solved.strength]}


def _validation_name(data: TaskData) -> str:
    return f"validation {VALIDATION_SCORES[data.kind]}"


def _result(context: Context, features: Features, probe: LinearProbe, chosen: Mapping[str, Any]) -> Result:
    data = context.data
    test = data.part("test")
    scores = probe_scores(probe, features[test])
    return Result(
        features="",
        width=features.shape[1],
        predictions=predictions_of(data, test, scores[:, 0] if data.kind == "number" else scores),
        chosen=chosen,
        model={name: value.detach().cpu().contiguous() for name, value in probe.state_dict().items()},
    )
