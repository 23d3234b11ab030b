"""What every protocol is given and gives back, and what the protocols on frozen features share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anyband.arrays import Array, Float, Shaped
from anyband.data.store import Split
from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError
from anyband.evaluate.features import FeatureCache, FusedEncoder, VectorMaker, extract_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import LabelledFeatures
from anyband.evaluate.predictions import Predictions
from anyband.evaluate.recipe import Protocol, TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import TaskData
from anyband.models.checkpoint import Checkpoint
from anyband.models.inputs import ImageBatch

__all__ = [
    "BAND_MEANS",
    "BandMeans",
    "Context",
    "Features",
    "Result",
    "band_means",
    "check_splits",
    "have_equal_bands",
    "labelled_features",
    "probe_encoders",
    "probe_features",
]

BAND_MEANS = "band means"
"""Name of what a user would try first on whole images."""

Features = Float[Array, "sample width"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Context:
    """What is evaluated, on what, and where."""

    recipe: TransferRecipe
    protocol: Protocol
    data: TaskData
    encoders: Mapping[str, SensorEncoder]
    """By name of the features: `encoder`, and `untrained encoder` where it is compared; on the device."""
    reader: TaskReader
    cache: FeatureCache | None
    """Where features are kept; None: nowhere."""
    checkpoint_hash: str
    device: str = "cpu"
    shown: bool = False

    def fused(self, encoder: SensorEncoder) -> FusedEncoder:
        rules = self.recipe.input
        return FusedEncoder(
            encoder, fusion=self.recipe.fusion, pool=rules.pool, seed=self.recipe.seed, metadata=rules.metadata
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a protocol found with one kind of features."""

    features: str
    """`encoder`, `untrained encoder`, `band means + logistic regression`, …"""
    width: int
    """Numbers a sample, or a pixel of a map of features."""
    predictions: Predictions
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What validation chose, such as the epoch, and its score there."""
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """By epoch: `training loss`, `validation`."""
    maps: Mapping[int, Shaped[Array, "row col"]] = field(default_factory=dict)
    """Predicted maps of some test samples, by position in the data, for pictures."""
    model: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights of what was fitted; empty where nothing was, or not kept."""
    checkpoint: Checkpoint | None = None
    """The encoder as it was trained here, to be used like any other; None: it was not."""
    notes: tuple[str, ...] = ()


def check_splits(data: TaskData, *, protocol: str, splits: Sequence[Split] = ("train", "val", "test")) -> None:
    """See that data are of whole images and have the splits that a protocol needs, else raise `InputError`."""
    if data.targets is None:
        raise InputError(f"{protocol} is for whole images, and '{data.name}' has maps; use segment, change or regress")
    counts = data.num_samples
    if not all(counts[split] for split in splits):
        found = ", ".join(f"{count} {split}" for split, count in counts.items())
        raise InputError(
            f"{protocol} needs samples in {', '.join(splits)}; '{data.name}' has {found}; validation chooses, test "
            "reports: say with data.split how samples come into splits"
        )


def have_equal_bands(data: TaskData) -> bool:
    """Tell whether all samples have the same bands in the same order."""
    return len({tuple((one.name, one.band_names) for one in slots) for slots in dict.fromkeys(data.sensors)}) == 1


def band_means(batch: ImageBatch) -> Float[Tensor, "batch width"]:
    """Describe images by mean and deviation of each standardised band over its valid pixels; without any, by 0."""
    seen = torch.ones_like(batch.pixels) if batch.valid is None else batch.valid.to(batch.pixels.dtype)
    counts = seen.sum(dim=(2, 3)).clamp(min=1)
    mean = (batch.pixels * seen).sum(dim=(2, 3)) / counts
    spread = ((batch.pixels - mean[:, :, None, None]) * seen).square().sum(dim=(2, 3)) / counts
    return torch.cat([mean, spread.sqrt()], dim=1)


class BandMeans(nn.Module):
    """Describes each sample by `band_means` of all its images, side by side."""

    def forward(self, batch: TaskBatch) -> Float[Tensor, "sample width"]:
        return torch.cat([band_means(image) for image in batch.images], dim=1)

    def settings(self) -> dict[str, Any]:
        return {"vectors": "band means"}


def labelled_features(data: TaskData, features: Features, split: Split) -> LabelledFeatures:
    """Take the features of a split, with their labels."""
    samples = data.split(split)
    assert data.targets is not None
    return LabelledFeatures(features=features[samples], labels=data.targets[samples], classes=data.classes)


def probe_encoders(context: Context, probe: Callable[[Features], Result], *, title: str) -> list[Result]:
    """Probe the features of each encoder and, where the recipe asks for a baseline, band means; see `probe_features`.
    `title` names the classifier in the name of the baseline.
    """
    makers: dict[str, VectorMaker] = {name: context.fused(encoder) for name, encoder in context.encoders.items()}
    if context.recipe.compare.baseline and have_equal_bands(context.data):
        makers[f"{BAND_MEANS} + {title}"] = BandMeans()
    return probe_features(context, makers, probe)


def probe_features(
    context: Context, makers: Mapping[str, VectorMaker], probe: Callable[[Features], Result]
) -> list[Result]:
    """Probe the vectors of all samples, in their order.
    With several `input.scales` the first result of each maker holds its predictions at all scales, so that its accuracy
    is their mean, and one for each scale follows.
    """
    scales, every = context.recipe.input.scales, np.arange(len(context.data))
    found: dict[str, list[Result]] = {name: [] for name in makers}
    for scale in scales:
        made = extract_features(makers, context.reader, every, cache=context.cache, shown=context.shown, scale=scale)
        for name, features in made.items():
            found[name].append(replace(probe(features), features=name))
    return [result for results in found.values() for result in _over_scales(results, scales)]


def _over_scales(results: Sequence[Result], scales: Sequence[float]) -> list[Result]:
    """Put what was found at several scales together: the mean over them first, then each; one scale stays as it is."""
    if len(scales) == 1:
        return list(results)
    labels = [f"{100 * scale:g} %" for scale in scales]
    first, each = results[0].predictions, [one.predictions for one in results]
    together = replace(
        first,
        samples=tuple(f"{name} @ {label}" for one, label in zip(each, labels, strict=True) for name in one.samples),
        arrays={name: np.concatenate([one.arrays[name] for one in each]) for name in first.arrays},
        # Predictions for one image are drawn together.
        groups=(first.groups or first.samples) * len(labels),
    )
    mean = Result(
        features=results[0].features,
        width=results[0].width,
        predictions=together,
        notes=(f"mean over images reduced to {', '.join(labels)}",),
    )
    return [
        mean,
        *(replace(one, features=f"{one.features} @ {label}") for one, label in zip(results, labels, strict=True)),
    ]
