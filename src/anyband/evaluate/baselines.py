"""What a user would try first on maps, without any network: a random forest on pixels, change vector analysis."""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.data.store import Split
from anyband.encode.input_spec import InputSpec
from anyband.errors import InputError
from anyband.evaluate.features import Context, Result, have_equal_bands
from anyband.evaluate.metrics import Counted, confusion_of, count_map, map_predictions, metric_of, value_of
from anyband.labelled.samples import SampleImage, TaskData
from anyband.progress import progress
from anyband.randomness import generator

__all__ = ["change_vectors", "map_baselines", "missing_baselines", "pixel_values"]

# chosen: more pixels make a forest slower and hardly better; trees are grown to the end, as scikit-learn's default is.
_MAX_PIXELS = 200_000
_NUM_TREES = 100
# chosen: more than most machines have cores, and few enough that the bar moves.
_TREES_AT_ONCE = 10
# chosen: a few for each core even of a small image, each long enough to be worth a thread.
_CHUNK_PIXELS = 16_384
# chosen: thresholds of change are tried at these shares of the validation pixels.
_THRESHOLD_SHARES = np.linspace(0.01, 0.99, 99)

Labels = Num[Array, "row col"]


def missing_baselines(context: Context) -> tuple[str, ...]:
    """Say which baseline these data can't have, and why."""
    data = context.data
    if not have_equal_bands(data):
        what = "random forest on pixels" if data.targets is None else "band means"
        return (f"there is no baseline of {what}: samples have different sensors or bands",)
    if context.protocol != "change":
        return ()
    if len(data.classes) != 2:
        return (f"change vector analysis tells change from none, and there are {len(data.classes)} classes",)
    return () if _has_equal_dates(data) else ("change vector analysis needs the same bands before and after",)


def map_baselines(context: Context, *, pictured: Collection[int] = ()) -> list[Result]:
    """Score what needs no network on the same maps, where all samples have the same bands. A random forest on the
    standardised values of each pixel; for change also change vector analysis, where both dates have the same bands.
    Maps of the test samples at the positions `pictured` are kept."""
    data = context.data
    if not have_equal_bands(data):
        return []
    results = [_forest(context, pictured)]
    if context.protocol == "change" and len(data.classes) == 2 and _has_equal_dates(data):
        results.append(_change_vector_analysis(context, pictured))
    return results


def _has_equal_dates(data: TaskData) -> bool:
    """Tell whether images after have the bands of those before."""
    bands = [(one.name, one.band_names) for one in data.sensors[0]]
    half = len(bands) // 2
    return bands[:half] == bands[half:]


def pixel_values(images: Sequence[SampleImage], specs: Sequence[InputSpec]) -> Float[Array, "row col value"]:
    """Give each pixel of the first image its standardised values in every band of every image, NaN where it has none.
    Other images are brought to its pixels bilinearly."""
    height, width = images[0].dn.shape[1:]
    planes = []
    for image, spec in zip(images, specs, strict=True):
        batch = spec.image_batch(torch.from_numpy(image.dn)[None], valid=torch.from_numpy(image.valid)[None])
        pixels = batch.pixels if batch.valid is None else batch.pixels.masked_fill(~batch.valid, torch.nan)
        if pixels.shape[2:] != (height, width):
            pixels = functional.interpolate(pixels, size=(height, width), mode="bilinear", align_corners=False)
        planes.append(pixels[0])
    return np.asarray(np.moveaxis(torch.cat(planes).numpy(), 0, -1))


def change_vectors(values: Float[Array, "row col value"]) -> Float[Array, "row col"]:
    """Measure change as the length of the difference of standardised values; the first half of them is before.
    Source: Malila, "Change vector analysis: an approach for detecting forest changes with Landsat", 1980.
    """
    before, after = np.split(values, 2, axis=-1)
    return np.asarray(np.linalg.norm(after - before, axis=-1))


def _samples(context: Context, split: Split) -> Iterator[tuple[int, Labels, Float[Array, "row col value"]]]:
    reader, positions = context.reader, context.data.split(split).tolist()
    with progress(f"read {split} pixels", len(positions), shown=context.shown) as advance:
        for position in positions:
            images = reader.sample(position).images
            values = pixel_values(images, [reader.input_spec(image.sensor) for image in images])
            yield position, reader.target(position), values
            advance(1)


def _known(truth: Labels) -> Bool[Array, "row col"]:
    return np.asarray(np.isfinite(truth) if truth.dtype.kind == "f" else truth >= 0)


def _flat(values: Float[Array, "row col value"]) -> Float[Array, "pixel value"]:
    # Standardised values: 0 is the mean. A forest of scikit-learn takes NaN too, but not where training had none.
    return np.asarray(np.nan_to_num(values, nan=0.0).reshape(-1, values.shape[-1]))


def _forest(context: Context, pictured: Collection[int]) -> Result:
    each = max(1, _MAX_PIXELS // max(context.data.splits.count("train"), 1))
    values, targets = [], []
    for position, truth, pixels in _samples(context, "train"):
        draw = generator(context.recipe.seed, step=0, sample=position, purpose="pixels of a forest")
        chosen = draw.permutation(np.flatnonzero(_known(truth)))[:each]
        values.append(_flat(pixels)[chosen])
        targets.append(truth.ravel()[chosen])
    if not sum(map(len, targets)):
        raise InputError(f"no training pixel of '{context.data.name}' has a label")
    forest = _grown(context, np.concatenate(values), np.concatenate(targets))

    def predicted(pixels: Float[Array, "row col value"]) -> Labels:
        flat = _flat(pixels)
        chunks = np.array_split(flat, max(1, -(-len(flat) // _CHUNK_PIXELS)))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(forest.predict, chunks))
        return np.asarray(np.concatenate(found).reshape(pixels.shape[:2]))

    return _mapped(context, predicted, name="random forest on pixels", width=values[0].shape[1], pictured=pictured)


def _grown(context: Context, values: Float[Array, "pixel value"], targets: Num[Array, "pixel"]) -> Any:
    """Grow a forest in steps, which gives the same trees as growing all at once."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    kind = RandomForestClassifier if context.data.kind == "class_map" else RandomForestRegressor
    forest = kind(n_estimators=1, random_state=context.recipe.seed % 2**32, n_jobs=-1, warm_start=True)
    with progress("random forest", _NUM_TREES, shown=context.shown) as advance:
        for count in range(_TREES_AT_ONCE, _NUM_TREES + 1, _TREES_AT_ONCE):
            forest.set_params(n_estimators=count).fit(values, targets)
            advance(_TREES_AT_ONCE)
    # Several threads of its own would add the votes up in any order, and a rerun would differ in the last digit.
    return forest.set_params(n_jobs=1)


def _change_vector_analysis(context: Context, pictured: Collection[int]) -> Result:
    lengths, truths = [], []
    for _, truth, pixels in _samples(context, "val"):
        length = change_vectors(pixels)
        known = _known(truth) & np.isfinite(length)
        lengths.append(length[known])
        truths.append(truth[known])
    threshold, score = _best_threshold(np.concatenate(lengths), np.concatenate(truths), shown=context.shown)
    return _mapped(
        context,
        lambda pixels: np.asarray(change_vectors(pixels) > threshold, dtype=np.int64),
        name="change vector analysis",
        width=sum(len(one.bands) for one in context.data.sensors[0]) // 2,
        pictured=pictured,
        chosen={"threshold": threshold, "validation miou": score},
    )


def _best_threshold(
    lengths: Float[Array, "pixel"], truth: Int[Array, "pixel"], *, shown: bool = False
) -> tuple[float, float]:
    """Choose the length over which a pixel has changed by mIoU on the validation pixels."""
    if not len(lengths):
        raise InputError("no validation pixel has a label; change vector analysis chooses its threshold there")
    tried, scores = np.unique(np.quantile(lengths, _THRESHOLD_SHARES)), []
    with progress("threshold of change", len(tried), shown=shown) as advance:
        for one in tried:
            changed = (lengths > one).astype(np.int64)
            counts = confusion_of(truth[None], changed[None], num_classes=2)
            scores.append(value_of(metric_of("class_map", {"confusion": counts[None]}, "miou"), num_samples=1))
            advance(1)
    best = int(np.argmax(scores))
    return float(tried[best]), scores[best]


def _mapped(
    context: Context,
    predict: Callable[[Float[Array, "row col value"]], Labels],
    *,
    name: str,
    width: int,
    pictured: Collection[int],
    chosen: dict[str, float] | None = None,
) -> Result:
    counted: list[Counted] = []
    maps = {}
    for position, truth, pixels in _samples(context, "test"):
        found = predict(pixels)
        counted += count_map(context.data, position, truth, found)[1]
        if position in pictured:
            maps[position] = found
    predictions = map_predictions(context.data, counted)
    return Result(features=name, width=width, predictions=predictions, chosen=chosen or {}, maps=maps)
