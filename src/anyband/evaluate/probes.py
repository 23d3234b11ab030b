"""Probes of frozen features: nearest neighbours and a linear layer. Validation chooses, test reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from anyband.arrays import Array, Float, Int
from anyband.data.chip_index import Split
from anyband.errors import InputError
from anyband.evaluate.context import Setting
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
from anyband.evaluate.map_kinds import with_grounds
from anyband.evaluate.metrics import LabelledFeatures, check_same_classes
from anyband.evaluate.predictions import Evidence, Outcome, class_evidence, labels_evidence, number_evidence
from anyband.labelled.samples import TaskData, TaskKind

__all__ = ["VALIDATION_SCORES", "check_parts", "evidence_of", "knn", "linear", "over_scales", "score_vectors"]

VALIDATION_SCORES: Mapping[TaskKind, str] = MappingProxyType(
    {"class": "accuracy", "labels": "map_micro", "number": "minus rmse"}
)
"""What validation compares, by kind of data; higher is better."""

Features = Float[Array, "sample width"]
_Probe = Callable[[Setting, Features], Outcome]


def knn(setting: Setting) -> list[Outcome]:
    """Score each encoder by the votes of the nearest training samples.

    With several `input.scales`, an encoder's first outcome holds its predictions at all scales, so that its accuracy
    is their mean; an outcome for each scale follows.

    Raises:
        InputError: k is over the number of training samples, a part is empty, or a class of the test has no training
            sample.
    """
    check_parts(setting.data, protocol="kNN", parts=("train", "test"))
    # Before the images are read, which may take hours.
    check_neighbours(setting.recipe.knn, setting.data.num_samples["train"])
    return _for_encoders(setting, _voted)


def linear(setting: Setting) -> list[Outcome]:
    """Score a linear layer on each encoder's frozen features; numbers are fitted by ridge regression.

    With several `input.scales`, there is a probe for each; outcomes are as those of `knn`.

    Raises:
        InputError: a part is empty, or a class of validation or test has no training sample.
    """
    check_parts(setting.data, protocol="a linear probe")
    return _for_encoders(setting, _probed)


def score_vectors(setting: Setting, features: Features, *, name: str) -> Outcome:
    """Score other features as the protocol scores those of an encoder; for fine-tuning, the solved linear probe.

    Args:
        setting: data, protocol and its options.
        features: of all samples of the data, in their order.
        name: of the features; what they are scored by is added.

    Raises:
        InputError: as `knn` and `linear`.
    """
    if setting.protocol == "knn":
        return replace(_voted(setting, features), features=f"{name} + nearest neighbours")
    if setting.data.kind == "number":
        return replace(_probed(setting, features), features=f"{name} + ridge regression")
    if setting.protocol == "linear" and setting.recipe.linear.solver == "adamw":
        return replace(_probed(setting, features), features=f"{name} + linear probe")
    return replace(_solved(setting, features), features=f"{name} + logistic regression")


def check_parts(data: TaskData, *, protocol: str, parts: Sequence[Split] = ("train", "val", "test")) -> None:
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


def evidence_of(data: TaskData, samples: Int[Array, " sample"], predicted: Float[Array, "sample *output"]) -> Evidence:
    """Record what was predicted for samples: scores of the classes, or numbers.

    Args:
        data: with the truth.
        samples: positions.
        predicted: one row for each.
    """
    assert data.targets is not None
    names, truth = [data.names[int(sample)] for sample in samples], data.targets[samples]
    if data.kind == "class":
        found = class_evidence(truth, predicted, classes=data.classes, samples=names)
    elif data.kind == "labels":
        found = labels_evidence(truth, predicted, classes=data.classes, samples=names)
    else:
        found = number_evidence(np.asarray(truth, dtype=np.float64), predicted, samples=names)
    return with_grounds(found, data, samples)


def _for_encoders(setting: Setting, probe: _Probe) -> list[Outcome]:
    scales = setting.recipe.input.scales
    found: dict[str, list[Outcome]] = {name: [] for name in setting.encoders}
    for scale in scales:
        for name, features in _features(setting, scale).items():
            found[name].append(replace(probe(setting, features), features=name))
    return [outcome for name in found for outcome in over_scales(found[name], scales)]


def _features(setting: Setting, scale: float) -> dict[str, Features]:
    encoders = {name: setting.fused(name) for name in setting.encoders}
    every = np.arange(len(setting.data))
    return extract_features(encoders, setting.reader, every, cache=setting.cache, shown=setting.shown, scale=scale)


def over_scales(outcomes: Sequence[Outcome], scales: Sequence[float]) -> list[Outcome]:
    """Put what was found at several scales together: the mean over them first, then each; one scale stays as it is.

    Args:
        outcomes: of one kind of features, one for each scale.
        scales: shares of the size of the images.
    """
    if len(scales) == 1:
        return list(outcomes)
    labels = [f"{100 * scale:g} %" for scale in scales]
    first = outcomes[0]
    together = Outcome(
        features=first.features,
        width=first.width,
        evidence=_joined([one.evidence for one in outcomes], labels),
        notes=(f"mean over images reduced to {', '.join(labels)}",),
    )
    alone = [replace(one, features=f"{one.features} @ {label}") for one, label in zip(outcomes, labels, strict=True)]
    return [together, *alone]


def _joined(evidence: Sequence[Evidence], labels: Sequence[str]) -> Evidence:
    """Lay the predictions at several scales one after the other; those for one image are drawn together."""
    names = [f"{sample} @ {label}" for one, label in zip(evidence, labels, strict=True) for sample in one.samples]
    arrays = {name: np.concatenate([one.arrays[name] for one in evidence]) for name in evidence[0].arrays}
    groups = (evidence[0].groups or evidence[0].samples) * len(labels)
    return replace(evidence[0], samples=tuple(names), arrays=arrays, groups=groups)


def _part(data: TaskData, features: Features, part: Split) -> LabelledFeatures:
    samples = data.part(part)
    assert data.targets is not None
    return LabelledFeatures(features=features[samples], labels=data.targets[samples], classes=data.classes)


def _voted(setting: Setting, features: Features) -> Outcome:
    data = setting.data
    train, test = (_part(data, features, part) for part in ("train", "test"))
    scores = knn_scores(train, test, setting.recipe.knn, device=setting.device, shown=setting.shown)
    return Outcome(
        features="",
        width=features.shape[1],
        evidence=evidence_of(data, data.part("test"), scores),
        chosen={"k": setting.recipe.knn.k, "temperature": setting.recipe.knn.temperature},
    )


def _probed(setting: Setting, features: Features) -> Outcome:
    if setting.data.kind == "number":
        return _ridge(setting, features)
    return _solved(setting, features) if setting.recipe.linear.solver == "lbfgs" else _by_epochs(setting, features)


def _by_epochs(setting: Setting, features: Features) -> Outcome:
    data, recipe = setting.data, setting.recipe.linear
    train, validation, test = (_part(data, features, part) for part in ("train", "val", "test"))
    check_same_classes(train, test)
    options = LinearOptions(
        batch_size=recipe.batch_size, base_lr=recipe.base_lr, epochs=recipe.epochs, drops=recipe.drops
    )
    fit = fit_linear_probe(
        train, validation, options, seed=setting.recipe.seed, device=setting.device, shown=setting.shown
    )
    chosen = {"epoch": fit.best_epoch, _validation_name(data): fit.validation[fit.best_epoch - 1]}
    outcome = _outcome(setting, features, fit.probe, chosen)
    return replace(outcome, curves={"validation": fit.validation})


def _solved(setting: Setting, features: Features) -> Outcome:
    data = setting.data
    train, validation, test = (_part(data, features, part) for part in ("train", "val", "test"))
    check_same_classes(train, test)
    solved = solve_linear_probe(train, validation, device=setting.device, shown=setting.shown)
    return replace(_outcome(setting, features, solved.probe, _chosen(data, solved)), notes=solved.notes)


def _ridge(setting: Setting, features: Features) -> Outcome:
    data = setting.data
    assert data.targets is not None
    numbers = np.asarray(data.targets, dtype=np.float64)
    train, validation = ((features[data.part(part)], numbers[data.part(part)]) for part in ("train", "val"))
    solved = solve_ridge(train, validation, device=setting.device, shown=setting.shown)
    return replace(_outcome(setting, features, solved.probe, _chosen(data, solved)), notes=solved.notes)


def _chosen(data: TaskData, solved: SolvedProbe) -> dict[str, Any]:
    return {"penalty": solved.strength, _validation_name(data): solved.validation[solved.strength]}


def _validation_name(data: TaskData) -> str:
    return f"validation {VALIDATION_SCORES[data.kind]}"


def _outcome(setting: Setting, features: Features, probe: LinearProbe, chosen: Mapping[str, Any]) -> Outcome:
    data = setting.data
    test = data.part("test")
    scores = probe_scores(probe, features[test])
    return Outcome(
        features="",
        width=features.shape[1],
        evidence=evidence_of(data, test, scores[:, 0] if data.kind == "number" else scores),
        chosen=chosen,
        model={name: value.detach().cpu().contiguous() for name, value in probe.state_dict().items()},
    )
