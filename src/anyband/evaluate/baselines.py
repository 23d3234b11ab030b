"""What a user would try first, without any network: band means, a random forest on pixels, change vector analysis."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.store import Split
from anyband.encode.input_spec import InputSpec
from anyband.errors import InputError
from anyband.evaluate.context import Context
from anyband.evaluate.features import VectorMaker, extract_features
from anyband.evaluate.map_kinds import ClassMaps, MapCounts, MapKind, NumberMaps
from anyband.evaluate.predictions import Result
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import SampleImage, TaskData
from anyband.models.inputs import ImageBatch
from anyband.progress import progress
from anyband.randomness import generator

__all__ = [
    "BandMeans",
    "band_means",
    "baselines",
    "change_vectors",
    "keep_with_encoders",
    "missing_baselines",
    "pixel_values",
]


def band_means(batch: ImageBatch) -> Float[Tensor, "batch width"]:
    """Describe images by mean and standard deviation of each standardised band over its valid pixels.

    It knows colour and contrast, and nothing of structure. A band without any valid pixel counts as 0, the mean.
    """
    seen = torch.ones_like(batch.pixels) if batch.valid is None else batch.valid.to(batch.pixels.dtype)
    counts = seen.sum(dim=(2, 3)).clamp(min=1)
    mean = (batch.pixels * seen).sum(dim=(2, 3)) / counts
    spread = ((batch.pixels - mean[:, :, None, None]) * seen).square().sum(dim=(2, 3)) / counts
    return torch.cat([mean, spread.sqrt()], dim=1)


# chosen: more pixels make a forest slower and hardly better; trees are grown to the end, as scikit-learn's default is.
_MAX_PIXELS = 200_000
_NUM_TREES = 100
# chosen: more than most machines have cores, and few enough that the bar moves.
_TREES_AT_ONCE = 10
# chosen: a few for each core even of a small image, each long enough to be worth a thread.
_CHUNK_PIXELS = 16_384
# chosen: thresholds of change are tried at these shares of the validation pixels.
_THRESHOLD_SHARES = np.linspace(0.01, 0.99, 99)
_BAND_MEANS = "band means"

Labels = Num[Array, "row col"]
_Predict = Callable[[Float[Array, "row col value"]], Labels]


def baselines(context: Context, *, pictured: Collection[int] = ()) -> list[Result]:
    """Score what needs no network on the same samples.

    Image-level data: mean and deviation of each band, for the same protocol's classifier. Maps: a random forest on the
    standardised values of each pixel; for change also change vector analysis, where both dates have the same bands.

    Args:
        context: as a protocol's.
        pictured: positions of the test samples whose maps are kept, so that they stand beside those of an encoder.
    """
    if not _are_alike(context.data):
        return []
    if not context.data.is_dense:
        return _band_means(context)
    results = [_forest(context, pictured)]
    if context.protocol == "change" and len(context.data.classes) == 2 and _has_equal_dates(context.data):
        results.append(_change_vector_analysis(context, pictured))
    return results


def missing_baselines(context: Context) -> tuple[str, ...]:
    """Say which baseline these data can't have, and why."""
    data = context.data
    if not _are_alike(data):
        what = "random forest on pixels" if data.is_dense else "band means"
        return (f"there is no baseline of {what}: samples have different sensors or bands",)
    if context.protocol != "change":
        return ()
    if len(data.classes) != 2:
        return (f"change vector analysis tells change from none, and there are {len(data.classes)} classes",)
    if not _has_equal_dates(data):
        return ("change vector analysis needs the same bands before and after",)
    return ()


def keep_with_encoders(context: Context) -> None:
    """Keep band means beside the features of the encoders, so that a probe and its baseline read every image once."""
    if context.cache is None or context.protocol not in ("knn", "linear") or not _are_alike(context.data):
        return
    makers: dict[str, VectorMaker] = {_BAND_MEANS: BandMeans()}
    makers |= {name: context.fused(name) for name in context.encoders}
    every = np.arange(len(context.data))
    for scale in context.recipe.input.scales:
        extract_features(makers, context.reader, every, cache=context.cache, scale=scale, shown=context.shown)


def pixel_values(images: Sequence[SampleImage], readings: Sequence[InputSpec]) -> Float[Array, "row col value"]:
    """Give each pixel of the first image its standardised values in every band of every image, NaN where it has none.

    Args:
        images: of a sample; others than the first are brought to its pixels bilinearly.
        readings: of the images.
    """
    height, width = images[0].dn.shape[1:]
    planes = []
    for image, reading in zip(images, readings, strict=True):
        dn, valid = torch.from_numpy(image.dn)[None], torch.from_numpy(image.valid)[None]
        batch = reading.image_batch(dn, valid=valid)
        pixels = batch.pixels if batch.valid is None else batch.pixels.masked_fill(~batch.valid, torch.nan)
        if pixels.shape[2:] != (height, width):
            pixels = functional.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
        planes.append(pixels[0])
    return np.asarray(np.moveaxis(torch.cat(planes).numpy(), 0, -1))


def change_vectors(values: Float[Array, "row col value"]) -> Float[Array, "row col"]:
    """Measure change as the length of the difference of standardised values; the first half of them is before.

    Source:
        Malila, "Change vector analysis: an approach for detecting forest changes with Landsat", 1980.
    """
    before, after = np.split(values, 2, axis=-1)
    return np.asarray(np.linalg.norm(after - before, axis=-1))


class BandMeans(nn.Module):
    """Describes each sample by mean and standard deviation of the standardised bands of all its images."""

    def forward(self, batch: TaskBatch) -> Float[Tensor, "sample width"]:
        """Put what the images of a sample say side by side; see `band_means`."""
        return torch.cat([band_means(image) for image in batch.images], dim=1)

    def settings(self) -> dict[str, Any]:
        """Tell all that the vectors depend on beside the images."""
        return {"vectors": "band means"}


def _band_means(context: Context) -> list[Result]:
    from anyband.evaluate.probes import over_scales, score_vectors

    every, name = np.arange(len(context.data)), _BAND_MEANS
    results = []
    for scale in context.recipe.input.scales:
        makers = {name: BandMeans()}
        found = extract_features(makers, context.reader, every, cache=context.cache, scale=scale, shown=context.shown)
        results.append(score_vectors(context, found[name], name=name))
    return over_scales(results, context.recipe.input.scales)


def _are_alike(data: TaskData) -> bool:
    """Tell whether all samples have the same bands in the same order."""
    return len({tuple((one.name, one.band_names) for one in slots) for slots in dict.fromkeys(data.sensors)}) == 1


def _kind(context: Context) -> MapKind:
    if context.data.kind == "class_map":
        return ClassMaps(classes=context.data.classes)
    return NumberMaps(mean=0.0, std=1.0)


def _samples(context: Context, part: Split) -> Iterator[tuple[int, Labels, Float[Array, "row col value"]]]:
    positions = context.data.part(part).tolist()
    with progress(f"read {part} pixels", len(positions), shown=context.shown) as advance:
        for position in positions:
            truth = context.reader.target(position)
            images = context.reader.sample(position).images
            yield position, truth, pixel_values(images, [context.reader.input_spec(image.sensor) for image in images])
            advance(1)


def _known(truth: Labels) -> Bool[Array, "row col"]:
    return np.asarray(np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0)


def _filled(values: Float[Array, "*pixel value"]) -> Float[Array, "*pixel value"]:
    # Standardised values: 0 is the mean. A forest of scikit-learn takes NaN too, but not where training had none.
    return np.asarray(np.nan_to_num(values, nan=0.0))


def _training_pixels(context: Context) -> tuple[Float[Array, "pixel value"], Num[Array, "pixel"]]:
    each = max(1, _MAX_PIXELS // max(context.data.splits.count("train"), 1))
    values, targets = [], []
    for position, truth, pixels in _samples(context, "train"):
        draw = generator(context.recipe.seed, step=0, sample=position, purpose="pixels of a forest")
        chosen = draw.permutation(np.flatnonzero(_known(truth)))[:each]
        values.append(_filled(pixels.reshape(-1, pixels.shape[-1])[chosen]))
        targets.append(truth.ravel()[chosen])
    found = np.concatenate(targets)
    if not len(found):
        raise InputError(f"no training pixel of '{context.data.name}' has a label")
    return np.concatenate(values), found


def _forest(context: Context, pictured: Collection[int]) -> Result:
    values, targets = _training_pixels(context)
    forest = _grown(context, values, targets)

    def predicted(pixels: Float[Array, "row col value"]) -> Labels:
        flat = _filled(pixels.reshape(-1, pixels.shape[-1]))
        chunks = np.array_split(flat, max(1, -(-len(flat) // _CHUNK_PIXELS)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(forest.predict, chunks))
        return np.asarray(np.concatenate(found).reshape(pixels.shape[:2]))

    result = _mapped(context, predicted, name="random forest on pixels", pictured=pictured)
    return replace(result, width=values.shape[1])


def _grown(context: Context, values: Float[Array, "pixel value"], targets: Num[Array, "pixel"]) -> Any:
    """Grow a forest in steps, which gives the same trees as growing all at once."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if context.data.kind == "class_map" else RandomForestRegressor
    forest = kind(n_estimators=1, random_state=context.recipe.seed % 2**32, n_jobs=-1, warm_start=True)
    with progress("random forest", _NUM_TREES, shown=context.shown) as advance:
        for first in range(0, _NUM_TREES, _TREES_AT_ONCE):
            num = min(_TREES_AT_ONCE, _NUM_TREES - first)
            forest.set_params(n_estimators=first + num)
            forest.fit(values, targets)
            advance(num)
    # Several threads of its own would add the votes up in any order, and a rerun would differ in the last digit.
    return forest.set_params(n_jobs=1)


def _has_equal_dates(data: TaskData) -> bool:
    """Tell whether images after have the bands of those before."""
    bands = [(one.name, one.band_names) for one in data.sensors[0]]
    half = len(bands) // 2
    return bands[:half] == bands[half:]


def _change_vector_analysis(context: Context, pictured: Collection[int]) -> Result:
    lengths, truths = [], []
    for _, truth, pixels in _samples(context, "val"):
        length = change_vectors(pixels)
        known = _known(truth) & np.isfinite(length)
        lengths.append(length[known])
        truths.append(truth[known])
    threshold, score = _best_threshold(np.concatenate(lengths), np.concatenate(truths), shown=context.shown)

    def predicted(pixels: Float[Array, "row col value"]) -> Labels:
        return np.asarray(change_vectors(pixels) > threshold, dtype=np.int64)

    width = sum(len(one.bands) for one in context.data.sensors[0]) // 2
    result = _mapped(context, predicted, name="change vector analysis", pictured=pictured)
    return replace(result, width=width, chosen={"threshold": threshold, "validation miou": score})


def _best_threshold(
    lengths: Float[Array, "pixel"], truth: Int[Array, "pixel"], *, shown: bool = False
) -> tuple[float, float]:
    """Choose the length over which a pixel has changed by mIoU on the validation pixels."""
    if not len(lengths):
        raise InputError("no validation pixel has a label; change vector analysis chooses its threshold there")
    tried = np.unique(np.quantile(lengths, _THRESHOLD_SHARES))
    maps = ClassMaps(classes=("unchanged", "changed"))
    scores = []
    with progress("threshold of change", len(tried), shown=shown) as advance:
        for one in tried:
            scores.append(maps.score(maps.count(truth[None], (lengths > one).astype(np.int64)[None])[None]))
            advance(1)
    best = int(np.argmax(scores))
    return float(tried[best]), scores[best]


def _mapped(context: Context, predict: _Predict, *, name: str, pictured: Collection[int]) -> Result:
    """Predict the maps of the test samples, and count them against the truth."""
    counted = MapCounts(data=context.data, kind=_kind(context))
    maps: dict[int, Array] = {}
    for position, truth, pixels in _samples(context, "test"):
        found = predict(pixels)
        counted.add(position, truth, found)
        if position in pictured:
            maps[position] = found
    return Result(features=name, width=0, predictions=counted.predictions(), maps=maps)
