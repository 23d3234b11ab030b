"""An evaluation from its recipe to what was found: the one way in for every protocol."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.encode.input_spec import checkpoint_sensors
from anyband.errors import AssignmentError, CheckpointError, InputError, OutputError, RecipeError
from anyband.evaluate.features import Context, Result, have_equal_bands, probe_encoders
from anyband.evaluate.fitting import checkpoint_of
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import PROTOCOLS, Protocol, TransferRecipe
from anyband.files import check_writable
from anyband.labelled import open_task_data
from anyband.labelled.samples import Sample, SampleImage, TaskData, TaskKind
from anyband.models.checkpoint import checkpoint_hash, withhold_range
from anyband.models.weight_files import locate
from anyband.progress import progress
from anyband.sensors.assignment import Unseen, assign
from anyband.sensors.sensor import Sensor

__all__ = [
    "check_data",
    "check_recipe",
    "evaluate",
    "leave_one_band_out",
    "open_data",
    "open_encoder",
    "run_protocol",
    "without_band",
]

_KINDS: dict[Protocol, tuple[TaskKind, ...]] = {
    "knn": ("class", "labels"),
    "linear": ("class", "labels", "number"),
    "finetune": ("class", "labels", "number"),
    "segment": ("class_map",),
    "change": ("class_map",),
    "regress": ("number", "number_map"),
    "leave-one-band-out": ("class", "labels", "number", "class_map"),
}
_FOR_KIND = {
    "class": "knn, linear or finetune",
    "labels": "knn, linear or finetune",
    "number": "linear, finetune or regress",
    "class_map": "segment or change",
    "number_map": "regress",
}


def evaluate(
    recipe: TransferRecipe,
    protocol: Protocol,
    *,
    device: str = "cpu",
    cache: Path | None = None,
    download: bool = False,
    shown: bool = False,
) -> tuple[Context, list[Result]]:
    """Do an evaluation; give what it was done with, and what was found, the encoder's result first.
    Args:
        cache: folder where features are kept for the next probe; None: nowhere.
        download: whether a named data set may be fetched.
    Raises:
        RecipeError: the protocol is for another kind of data, or there is no checkpoint.
        ManifestError: the data are not there, or a table of them is wrong.
        InputError: splits, classes or samples that can't be used.
        CheckpointError: no such checkpoint.
    """
    if cache is not None:
        try:
            check_writable(cache)
        except OutputError as problem:
            raise OutputError(
                f"{problem}; features are kept there: name a folder by --cache, or use --no-cache"
            ) from problem
    check_recipe(recipe, protocol, recipe.data.kind)
    encoder = open_encoder(recipe, device)
    data = open_data(recipe, protocol, encoder, download=download)
    encoders = {"encoder": encoder}
    if recipe.compare.untrained and protocol != "leave-one-band-out":
        encoders["untrained encoder"] = encoder.untrained(seed=recipe.seed)
    context = Context(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders=encoders,
        reader=TaskReader(encoder, data, recipe),
        cache=cache,
        checkpoint_hash=checkpoint_hash(locate(recipe.checkpoint or "")),
        device=device,
        shown=shown,
    )
    return context, run_protocol(context)


def check_recipe(recipe: TransferRecipe, protocol: Protocol, kind: TaskKind) -> None:
    """See that a recipe is for the protocol, and both for a kind of data, else raise `RecipeError`."""
    if recipe.protocol not in (None, protocol):
        raise RecipeError(f"recipe '{recipe.name}' is for '{recipe.protocol}', and '{protocol}' was asked for")
    if kind not in _KINDS[protocol]:
        raise RecipeError(
            f"'{protocol}' ({PROTOCOLS[protocol]}) is for data of kind {' or '.join(_KINDS[protocol])}, and these are "
            f"of kind '{kind}'; take {_FOR_KIND[kind]}, or say with data.kind what is predicted"
        )
    measure: Protocol = recipe.measures if protocol == "leave-one-band-out" else protocol
    if kind not in _KINDS[measure]:
        allowed = [one for one in ("knn", "linear", "segment") if kind in _KINDS[one]]
        raise RecipeError(
            f"leave-one-band-out measures '{measure}', which is for data of kind {' or '.join(_KINDS[measure])}, and "
            f"these are of kind '{kind}'; set measures={' or measures='.join(allowed)}"
        )
    if recipe.input.scales != (1.0,) and measure not in ("knn", "linear"):
        found = ", ".join(f"{scale:g}" for scale in recipe.input.scales)
        raise RecipeError(
            f"input.scales are for knn and linear, and '{measure}' takes images as they are; found {found}: set "
            "input.scales=[1.0]"
        )


def open_encoder(recipe: TransferRecipe, device: str) -> SensorEncoder:
    """Load the encoder that a recipe names; none is a `RecipeError`, one that is not there a `CheckpointError`."""
    if recipe.checkpoint is None:
        raise RecipeError("an evaluation needs a checkpoint: name it in the recipe or with --checkpoint")
    rules = recipe.input
    return load_encoder(
        recipe.checkpoint,
        device=device,
        unseen=rules.unseen,
        min_support=rules.min_support,
        out_of_span=rules.out_of_span,
    )


def open_data(
    recipe: TransferRecipe, protocol: Protocol, encoder: SensorEncoder | None, *, download: bool = False
) -> TaskData:
    """Open labelled data, which may be of sensors that the checkpoint brings, and check them; see `check_data`."""
    known = {} if encoder is None else checkpoint_sensors(encoder.checkpoint)
    data = open_task_data(recipe.data, seed=recipe.seed, download=download, sensors=known)
    check_data(data, recipe, protocol)
    return data


def run_protocol(context: Context) -> list[Result]:
    """Do what the protocol says, for each encoder; then the baseline, where it is asked for."""
    results = _protocol(context)(context)
    if not context.recipe.compare.baseline or context.protocol == "leave-one-band-out":
        return results
    from anyband.evaluate.baselines import map_baselines, missing_baselines

    first, *others = results
    first = replace(first, notes=(*first.notes, *missing_baselines(context)))
    if context.data.is_dense:
        others += map_baselines(context, pictured=first.maps)
    elif context.protocol not in ("knn", "linear") and have_equal_bands(context.data):
        from anyband.evaluate.probes import probe_of, title_of

        title = title_of(context)
        others += probe_encoders(context, lambda features: probe_of(context, features), title=title, encoders={})
    return [first, *others]


def _protocol(context: Context) -> Callable[[Context], list[Result]]:
    # Late: each brings its libraries.
    match context.protocol:
        case "leave-one-band-out":
            return leave_one_band_out
        case "knn":
            from anyband.evaluate.probes import knn

            return knn
        case "linear":
            from anyband.evaluate.probes import linear

            return linear
        case "finetune" | "regress" if not context.data.is_dense:
            from anyband.evaluate.finetune import finetune

            return finetune
    from anyband.evaluate.maps import change, regress_maps, segment

    return {"segment": segment, "change": change}.get(context.protocol, regress_maps)


def check_data(data: TaskData, recipe: TransferRecipe, protocol: Protocol) -> None:
    """See that samples have as many images, and of such sensors, as protocol and fusion need, else raise `InputError`.
    See `check_recipe` for what the kind of data must be.
    """
    check_recipe(recipe, protocol, data.kind)
    counts = sorted({len(slots) for slots in data.sensors})
    if protocol == "change":
        if any(count < 2 or count % 2 for count in counts):
            raise InputError(
                f"change is between images before and as many after, and samples of '{data.name}' have {counts[0]}; "
                "give a table with the columns `before` and `after`"
            )
        counts = [count // 2 for count in counts]
    if recipe.fusion == "single" and counts != [1]:
        raise InputError(
            f"samples of '{data.name}' have {counts[-1]} images; say with fusion (stack, concat, mixup_concat or "
            "joint) how they become one feature"
        )
    if recipe.fusion == "mixup_concat" and counts != [2]:
        raise InputError(
            f"fusion 'mixup_concat' exchanges tokens of two images, and samples of '{data.name}' have "
            f"{' or '.join(map(str, counts))}"
        )
    if recipe.fusion in ("stack", "concat") and len({tuple(s.name for s in slots) for slots in data.sensors}) > 1:
        raise InputError(
            f"fusion '{recipe.fusion}' puts images side by side, so every sample needs the same sensors in the same "
            "order; take fusion 'joint', or samples of one kind"
        )


_WAYS: dict[Unseen, str] = {"interpolate": "interpolated", "nearest": "by nearest"}


def leave_one_band_out(context: Context) -> list[Result]:
    """Score the encoder with every band, and without each band that it was trained on, in three ways.
    `B04 left out`: the images lack the band. `B04 interpolated`, `B04 by nearest`: the images have it, but the network
    is taken as if its range had never been trained, so the band is read through the ranges beside it. The first tells
    what the band is worth, the others what reading an unseen band through others loses of it. A network that knows no
    band of these data exactly is an `InputError`.
    """
    trained = _trained_bands(context)
    if not trained:
        raise InputError(
            f"'{context.data.name}' has no band that the checkpoint was trained on; leave-one-band-out asks what the "
            "absence of a trained band costs"
        )
    whole = replace(context, encoders={"encoder": context.encoders["encoder"]})
    first, *others = [_measured(whole, name="encoder")]
    notes = [_only_band(sensor.name, band) for sensor, band in trained if len(sensor.bands) == 1]
    # One bar over the others: bars of each would not tell how much is left.
    variants = list(_variants(replace(whole, shown=False), trained))
    with progress("leave one band out", len(variants), shown=context.shown) as advance:
        for name, make in variants:
            try:
                others.append(_measured(make(), name=name))
            except (AssignmentError, CheckpointError) as problem:
                notes.append(f"{name}: {problem}")
            advance(1)
    return [replace(first, notes=(*first.notes, *notes)), *others]


def _measured(context: Context, *, name: str) -> Result:
    measure = _protocol(replace(context, protocol=context.recipe.measures))
    return replace(measure(context)[0], features=name)


def _trained_bands(context: Context) -> dict[tuple[Sensor, str], str]:
    """Find the bands that the network knows exactly, and the trained range of each."""
    encoder, found = context.encoders["encoder"], {}
    for sensor in dict.fromkeys(sensor for slots in context.data.sensors for sensor in slots):
        read = assign(sensor, encoder.checkpoint.ranges, encoder.rules)
        rows = {requested: row for row, requested in enumerate(read.kept_index)}
        for index, origin in enumerate(read.origin):
            if origin == "exact":
                column = int(np.argmax(read.mixing[rows[index]]))
                found[(sensor, read.requested[index])] = read.range_names[column]
    return found


def _variants(context: Context, trained: dict[tuple[Sensor, str], str]) -> Iterator[tuple[str, Callable[[], Context]]]:
    several = len({sensor.name for sensor, _ in trained}) > 1
    for (sensor, band), range_name in trained.items():
        title = f"{sensor.name} {band}" if several else band
        if len(sensor.bands) > 1:
            yield f"{title} left out", partial(_left_out, context, sensor.name, band)
        for way, words in _WAYS.items():
            yield f"{title} {words}", partial(_as_never_trained, context, range_name, way)


def _left_out(context: Context, sensor: str, band: str) -> Context:
    data = without_band(context.data, sensor, band)
    return replace(context, data=data, reader=TaskReader(context.encoders["encoder"], data, context.recipe))


def _as_never_trained(context: Context, range_name: str, way: Unseen) -> Context:
    known = context.encoders["encoder"]
    checkpoint = withhold_range(checkpoint_of(known), range_name)
    encoder = SensorEncoder(checkpoint, rules=replace(known.rules, unseen=way)).to(context.device).eval()
    return replace(
        context,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, context.data, context.recipe),
        checkpoint_hash=f"{context.checkpoint_hash} without {range_name} {way}",
    )


def without_band(data: TaskData, sensor: str, band: str) -> TaskData:
    """Leave a band out of all images of a sensor; everything else stays. An only band is an `InputError`."""

    def reduced(position: int) -> Sample:
        sample = data.read(position)
        return replace(sample, images=tuple(_image_without(image, sensor, band) for image in sample.images))

    left = tuple(tuple(_without(one, sensor, band) for one in slots) for slots in data.sensors)
    return replace(data, sensors=left, read=reduced, fingerprint=f"{data.fingerprint} without {sensor}/{band}")


def _without(sensor: Sensor, name: str, band: str) -> Sensor:
    if sensor.name != name or band not in sensor.band_names:
        return sensor
    kept = [one for one in sensor.band_names if one != band]
    if not kept:
        raise InputError(_only_band(name, band))
    return sensor.select(kept)


def _only_band(sensor: str, band: str) -> str:
    return f"'{sensor}' has no other band than '{band}'; without it there is no image"


def _image_without(image: SampleImage, name: str, band: str) -> SampleImage:
    sensor = _without(image.sensor, name, band)
    kept = [image.sensor.band_index(one) for one in sensor.band_names]
    return replace(image, dn=image.dn[kept], valid=image.valid[kept], sensor=sensor)
