"""What the absence of each trained band costs: left out of the images, or never trained and read through its
neighbours."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from anyband.data.supervised.records import Sample, SampleImage, TaskData
from anyband.errors import AssignmentError, InputError
from anyband.models.checkpoint import load_checkpoint, withhold_range
from anyband.sensors.assignment import AssignmentRules, assign
from anyband.sensors.sensor import Sensor
from anyband.tasks.features import SensorEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.records import Outcome
from anyband.tasks.transfer.setting import Setting

__all__ = ["leave_one_band_out", "without_band"]

_WAYS: tuple[Literal["interpolate", "nearest"], ...] = ("interpolate", "nearest")
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


def leave_one_band_out(setting: Setting) -> list[Outcome]:
    """Score the encoder with every band, and without each band that it was trained on, in three ways.

    `B04 left out`: the images lack the band. `B04 interpolated`, `B04 by nearest`: the images have it, but the network
    is taken as if its range had never been trained, so the band is read through the ranges beside it. The first tells
    what the band is worth, the others what reading an unseen band through others loses of it.

    Args:
        setting: with the encoder of the recipe's checkpoint; `recipe.measures` says what is scored.

    Raises:
        InputError: the network knows no band of these data exactly.
    """
    trained = _trained_bands(setting)
    if not trained:
        raise InputError(
            f"'{setting.data.name}' has no band that the checkpoint was trained on; leave-one-band-out asks what the "
            "absence of a trained band costs"
        )
    whole = replace(setting, encoders={"encoder": setting.encoders["encoder"]})
    outcomes = _measured(whole, name="encoder")
    notes: list[str] = []
    for name, variant in _variants(whole, trained, notes):
        outcomes += _measured(variant, name=name)
    return [replace(outcomes[0], notes=(*outcomes[0].notes, *notes)), *outcomes[1:]]


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
        raise InputError(f"'{name}' has no other band than '{band}'; without it there is no image")
    return sensor.select(kept)


def _image_without(image: SampleImage, name: str, band: str) -> SampleImage:
    sensor = _without(image.sensor, name, band)
    kept = [image.sensor.band_index(one) for one in sensor.band_names]
    return replace(image, dn=image.dn[kept], valid=image.valid[kept], sensor=sensor)


def _trained_bands(setting: Setting) -> list[_Trained]:
    checkpoint = setting.encoders["encoder"].checkpoint
    found: dict[tuple[str, str], _Trained] = {}
    for sensor in dict.fromkeys(sensor for slots in setting.data.sensors for sensor in slots):
        read = assign(sensor, checkpoint.ranges, setting.encoders["encoder"].rules)
        rows = {asked: row for row, asked in enumerate(read.kept_index)}
        for index, origin in enumerate(read.origin):
            if origin == "exact":
                column = int(np.argmax(read.mixing[rows[index]]))
                one = _Trained(sensor=sensor.name, band=read.asked[index], range_name=read.range_names[column])
                found[(sensor.name, one.band)] = one
    return list(found.values())


def _variants(setting: Setting, trained: list[_Trained], notes: list[str]) -> Iterator[tuple[str, Setting]]:
    several = len({one.sensor for one in trained}) > 1
    for one in trained:
        title = f"{one.sensor} {one.band}" if several else one.band
        try:
            yield f"{title} left out", _with_data(setting, without_band(setting.data, one.sensor, one.band))
        except InputError as problem:
            notes.append(str(problem))
        for way in _WAYS:
            try:
                yield f"{title} {_SAID[way]}", _as_never_trained(setting, one, way)
            except AssignmentError as problem:
                notes.append(f"{title} {_SAID[way]}: {problem}")


def _with_data(setting: Setting, data: TaskData) -> Setting:
    return replace(setting, data=data, reader=TaskReader(setting.encoders["encoder"], data, setting.recipe))


def _as_never_trained(setting: Setting, one: _Trained, way: Literal["interpolate", "nearest"]) -> Setting:
    whole = setting.encoders["encoder"]
    if setting.recipe.checkpoint is None:
        raise InputError("leave-one-band-out takes ranges out of a checkpoint; name it in the recipe")
    checkpoint = withhold_range(load_checkpoint(setting.recipe.checkpoint), one.range_name)
    rules = AssignmentRules(unseen=way, min_support=whole.rules.min_support, out_of_span=whole.rules.out_of_span)
    # Here, where it can be told apart from other errors: a band that no other range can stand for.
    for sensor in {sensor for slots in setting.data.sensors for sensor in slots}:
        assign(sensor, checkpoint.ranges, rules)
    encoder = SensorEncoder(checkpoint, rules=rules).to(setting.device).eval()
    return replace(
        setting,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, setting.data, setting.recipe),
        checkpoint_hash=f"{setting.checkpoint_hash} without {one.range_name} {way}",
    )


def _measured(setting: Setting, *, name: str) -> list[Outcome]:
    # Late: each brings its libraries.
    if setting.recipe.measures == "segment":
        from anyband.tasks.transfer.segment import segment as measure
    elif setting.recipe.measures == "linear":
        from anyband.tasks.transfer.probes import linear as measure
    else:
        from anyband.tasks.transfer.probes import knn as measure
    outcome = measure(setting)[0]
    return [replace(outcome, features=name)]
