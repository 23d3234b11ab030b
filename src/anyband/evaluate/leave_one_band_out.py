"""What the absence of each trained band costs: left out of the images, or never trained and read through its
neighbours."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from anyband.encode.encoder import SensorEncoder
from anyband.errors import AssignmentError, CheckpointError, InputError
from anyband.evaluate.context import Context
from anyband.evaluate.fitting import checkpoint_of
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.predictions import Result
from anyband.labelled.samples import Sample, SampleImage, TaskData
from anyband.models.checkpoint import Checkpoint, withhold_range
from anyband.progress import progress
from anyband.sensors.assignment import assign
from anyband.sensors.sensor import Sensor

__all__ = ["leave_one_band_out", "without_band"]

_Way = Literal["interpolate", "nearest"]
_Make = Callable[[], Context]

_WAYS: tuple[_Way, ...] = ("interpolate", "nearest")
_SAID = {"interpolate": "interpolated", "nearest": "by nearest"}


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """A band that the network knows exactly."""

    sensor: str
    """Name of its sensor."""
    band: str
    """Its name."""
    range_name: str
    """The trained range that it is."""
    alone: bool
    """Whether images of the sensor have no other band."""


def leave_one_band_out(context: Context) -> list[Result]:
    """Score the encoder with every band, and without each band that it was trained on, in three ways.

    `B04 left out`: the images lack the band. `B04 interpolated`, `B04 by nearest`: the images have it, but the network
    is taken as if its range had never been trained, so the band is read through the ranges beside it. The first tells
    what the band is worth, the others what reading an unseen band through others loses of it.

    Args:
        context: with the encoder of the recipe's checkpoint; `recipe.measures` says what is scored.

    Raises:
        InputError: the network knows no band of these data exactly.
    """
    trained = _trained_bands(context)
    if not trained:
        raise InputError(
            f"'{context.data.name}' has no band that the checkpoint was trained on; leave-one-band-out asks what the "
            "absence of a trained band costs"
        )
    whole = replace(context, encoders={"encoder": context.encoders["encoder"]})
    results = [_measured(whole, name="encoder")]
    notes = [_only_band(one.sensor, one.band) for one in trained if one.alone]
    # One bar over the others: bars of each would not tell how much is left.
    variants = list(_variants(replace(whole, shown=False), trained))
    with progress("leave one band out", len(variants), shown=context.shown) as advance:
        for name, make in variants:
            try:
                results.append(_measured(make(), name=name))
            except (AssignmentError, CheckpointError) as problem:
                notes.append(f"{name}: {problem}")
            advance(1)
    return [replace(results[0], notes=(*results[0].notes, *notes)), *results[1:]]


def without_band(data: TaskData, sensor: str, band: str) -> TaskData:
    """Leave a band out of all images of a sensor; everything else stays.

    Args:
        data: labelled samples.
        sensor: name of the sensor.
        band: name of its band.

    Raises:
        InputError: the sensor has no other band.
    """
    left = tuple(tuple(_without(one, sensor, band) for one in slots) for slots in data.sensors)
    read = data.read

    def reduced(position: int) -> Sample:
        sample = read(position)
        return replace(sample, images=tuple(_image_without(image, sensor, band) for image in sample.images))

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


def _trained_bands(context: Context) -> list[_Trained]:
    checkpoint = context.encoders["encoder"].checkpoint
    found: dict[tuple[str, str], _Trained] = {}
    for sensor in dict.fromkeys(sensor for slots in context.data.sensors for sensor in slots):
        read = assign(sensor, checkpoint.ranges, context.encoders["encoder"].rules)
        rows = {asked: row for row, asked in enumerate(read.kept_index)}
        for index, origin in enumerate(read.origin):
            if origin == "exact":
                column = int(np.argmax(read.mixing[rows[index]]))
                one = _Trained(
                    sensor=sensor.name,
                    band=read.asked[index],
                    range_name=read.range_names[column],
                    alone=len(sensor.bands) == 1,
                )
                found[(sensor.name, one.band)] = one
    return list(found.values())


def _variants(context: Context, trained: list[_Trained]) -> Iterator[tuple[str, _Make]]:
    several = len({one.sensor for one in trained}) > 1
    checkpoint = checkpoint_of(context.encoders["encoder"])
    for one in trained:
        title = f"{one.sensor} {one.band}" if several else one.band
        if not one.alone:
            yield f"{title} left out", partial(_left_out, context, one)
        for way in _WAYS:
            yield f"{title} {_SAID[way]}", partial(_as_never_trained, context, checkpoint, one, way)


def _left_out(context: Context, one: _Trained) -> Context:
    data = without_band(context.data, one.sensor, one.band)
    return replace(context, data=data, reader=TaskReader(context.encoders["encoder"], data, context.recipe))


def _as_never_trained(context: Context, checkpoint: Checkpoint, one: _Trained, way: _Way) -> Context:
    rules = replace(context.encoders["encoder"].rules, unseen=way)
    encoder = SensorEncoder(withhold_range(checkpoint, one.range_name), rules=rules).to(context.device).eval()
    return replace(
        context,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, context.data, context.recipe),
        checkpoint_hash=f"{context.checkpoint_hash} without {one.range_name} {way}",
    )


def _measured(context: Context, *, name: str) -> Result:
    # Late: each brings its libraries.
    if context.recipe.measures == "segment":
        from anyband.evaluate.maps import segment as measure
    elif context.recipe.measures == "linear":
        from anyband.evaluate.probes import linear as measure
    else:
        from anyband.evaluate.probes import knn as measure
    return replace(measure(context)[0], features=name)
