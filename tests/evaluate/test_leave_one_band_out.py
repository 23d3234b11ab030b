"""Leave one band out: what is scored, under which names, and that an absent band is really absent."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context_of

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError
from anyband.evaluate.features import Context, Result
from anyband.evaluate.fitting import withhold_range
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.probes import knn, linear
from anyband.evaluate.recipe import FitRecipe, HeadRecipe, InputRecipe, KnnRecipe, LinearRecipe, TransferRecipe
from anyband.evaluate.run import leave_one_band_out
from anyband.labelled.samples import DataSpec, Sample, TaskData, without_band
from anyband.models.checkpoint import load_checkpoint
from anyband.sensors.assignment import AssignmentRules
from anyband.sensors.catalogue import get_sensor

_RECIPE = TransferRecipe(
    name="tiny",
    data=DataSpec(source="memory"),
    # All 30 training samples vote, so that scores follow features closely.
    knn=KnnRecipe(k=30),
    linear=LinearRecipe(solver="lbfgs"),
    head=HeadRecipe(kind="linear"),
    fit=FitRecipe(encoder="frozen", epochs=1, warmup_epochs=0.0),
)

MakeSetting = Callable[..., Context]


@pytest.fixture
def make_context(tiny_encoder: SensorEncoder) -> MakeSetting:
    """Makes a context of the tiny encoder for data; other values of the recipe by name."""

    def made(data: TaskData, **changes: Any) -> Context:
        recipe = _RECIPE.changed(**changes)
        return context_of(tiny_encoder, data, "leave-one-band-out", recipe)

    return made


def _scores(result: Result) -> np.ndarray:
    return np.asarray(result.predictions.arrays["scores"])


def _by_name(results: list[Result]) -> dict[str, Result]:
    return {one.features: one for one in results}


def test_each_trained_band_is_left_out_in_three_ways(class_data: TaskData, make_context: MakeSetting) -> None:
    ways = ("left out", "interpolated", "by nearest")
    expected = [f"{band} {way}" for band in ("B02", "B03", "B04", "B08") for way in ways]
    assert [one.features for one in leave_one_band_out(make_context(class_data))] == ["encoder", *expected]


@pytest.mark.parametrize(("measures", "plain"), [("knn", knn), ("linear", linear)])
def test_the_first_outcome_is_that_of_the_plain_protocol(
    class_data: TaskData, make_context: MakeSetting, measures: str, plain: Callable[[Context], list[Result]]
) -> None:
    context = make_context(class_data, measures=measures)
    assert np.array_equal(_scores(leave_one_band_out(context)[0]), _scores(plain(context)[0]))


def test_a_band_that_is_left_out_changes_nothing(class_data: TaskData, make_context: MakeSetting) -> None:
    def spoilt(position: int) -> Sample:
        sample = class_data.read(position)
        dn = sample.images[0].dn.copy()
        dn[2] = 7000 - 100 * position
        return Sample(images=(replace(sample.images[0], dn=dn),))

    first = _by_name(leave_one_band_out(make_context(class_data)))
    other = _by_name(leave_one_band_out(make_context(replace(class_data, read=spoilt, fingerprint="spoilt"))))
    assert np.array_equal(_scores(first["B04 left out"]), _scores(other["B04 left out"]))
    assert not np.array_equal(_scores(first["B03 left out"]), _scores(other["B03 left out"]))


def test_a_band_that_is_left_out_was_never_there(class_data: TaskData, make_context: MakeSetting) -> None:
    found = _by_name(leave_one_band_out(make_context(class_data)))["B03 left out"]
    fewer = get_sensor("sentinel2-l2a").select(("B02", "B04", "B08"))

    def read(position: int) -> Sample:
        image = class_data.read(position).images[0]
        return Sample(images=(replace(image, dn=image.dn[[0, 2, 3]], valid=image.valid[[0, 2, 3]], sensor=fewer),))

    alone = replace(class_data, sensors=((fewer,),) * len(class_data), read=read, fingerprint="three bands")
    assert np.array_equal(_scores(found), _scores(knn(make_context(alone))[0]))


@pytest.mark.parametrize(("way", "unseen"), [("interpolated", "interpolate"), ("by nearest", "nearest")])
def test_a_withheld_range_is_read_as_a_network_without_it_reads_the_band(
    class_data: TaskData, make_context: MakeSetting, tiny_checkpoint: Path, way: str, unseen: Any
) -> None:
    context = make_context(class_data)
    checkpoint = load_checkpoint(tiny_checkpoint)
    names = checkpoint.ranges.range_names
    read = context.reader.input_spec(class_data.sensors[0][0]).assignment
    name = names[int(np.argmax(read.mixing[1]))]
    network = SensorEncoder(withhold_range(checkpoint, name), rules=AssignmentRules(unseen=unseen)).eval()
    reader = TaskReader(network, class_data, context.recipe)
    expected = knn(replace(context, encoders={"encoder": network}, reader=reader))[0]
    found = _by_name(leave_one_band_out(context))
    assert np.array_equal(_scores(found[f"B03 {way}"]), _scores(expected))
    assert not np.array_equal(_scores(found[f"B03 {way}"]), _scores(found["encoder"]))


def test_reading_through_neighbours_is_told_from_taking_the_nearest(
    class_data: TaskData, make_context: MakeSetting
) -> None:
    found = _by_name(leave_one_band_out(make_context(class_data)))
    assert not np.array_equal(_scores(found["B03 interpolated"]), _scores(found["B03 by nearest"]))


def test_the_encoder_keeps_its_weights(class_data: TaskData, make_context: MakeSetting) -> None:
    context = make_context(class_data)
    before = {name: value.clone() for name, value in context.encoders["encoder"].state_dict().items()}
    leave_one_band_out(context)
    after = context.encoders["encoder"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def _radar_only(pair_data: TaskData, bands: tuple[str, ...]) -> TaskData:
    radar = pair_data.sensors[0][0].select(bands)
    rows = [pair_data.sensors[0][0].band_index(band) for band in bands]

    def read(position: int) -> Sample:
        image = pair_data.read(position).images[0]
        return Sample(images=(replace(image, dn=image.dn[rows], valid=image.valid[rows], sensor=radar),))

    return replace(pair_data, sensors=((radar,),) * len(pair_data), read=read, fingerprint=f"radar {bands}")


def test_radar_without_a_neighbour_is_noted_and_the_others_are_scored(
    pair_data: TaskData, make_context: MakeSetting
) -> None:
    results = leave_one_band_out(make_context(_radar_only(pair_data, ("VV", "VH"))))
    assert [one.features for one in results] == ["encoder", "VV left out", "VH left out"]
    notes = " ".join(results[0].notes)
    assert "VV interpolated: " in notes
    assert "VH by nearest: " in notes


def test_a_sensor_with_one_band_is_noted(pair_data: TaskData, make_context: MakeSetting) -> None:
    results = leave_one_band_out(make_context(_radar_only(pair_data, ("VV",))))
    assert [one.features for one in results] == ["encoder"]
    assert "'sentinel1-grd' has no other band than 'VV'; without it there is no image" in results[0].notes


def test_bands_of_several_sensors_are_named_with_them(pair_data: TaskData, make_context: MakeSetting) -> None:
    names = [one.features for one in leave_one_band_out(make_context(pair_data, fusion="concat"))]
    assert names[:2] == ["encoder", "sentinel1-grd VV left out"]
    assert "sentinel2-l2a B08 by nearest" in names


def test_maps_are_scored_by_segmentation(class_map_data: TaskData, make_context: MakeSetting) -> None:
    results = leave_one_band_out(make_context(class_map_data, measures="segment"))
    assert len(results) == 13
    assert {one.predictions.kind for one in results} == {"class_map"}


def test_a_sensor_that_the_network_knows_nothing_of_is_refused(class_data: TaskData, make_context: MakeSetting) -> None:
    bands = get_sensor("landsat8-l2").select(("SR_B2", "SR_B3")).bands
    other = replace(get_sensor("landsat8-l2"), bands=bands)

    def read(position: int) -> Sample:
        image = class_data.read(position).images[0]
        return Sample(images=(replace(image, dn=image.dn[:2], valid=image.valid[:2], sensor=other),))

    data = replace(class_data, sensors=((other,),) * len(class_data), read=read, fingerprint="landsat")
    with pytest.raises(InputError, match="'tiny class of 1' has no band that the checkpoint was trained on"):
        leave_one_band_out(make_context(data))


def test_all_variants_are_scored_on_the_same_samples(class_data: TaskData, make_context: MakeSetting) -> None:
    results = leave_one_band_out(make_context(class_data, input=InputRecipe(scales=(0.5, 1.0))))
    assert {one.predictions.samples for one in results} == {results[0].predictions.samples}


def test_a_band_can_not_be_taken_from_a_sensor_that_has_no_other(pair_data: TaskData) -> None:
    with pytest.raises(InputError, match="'sentinel1-grd' has no other band than 'VH'"):
        without_band(_radar_only(pair_data, ("VH",)), "sentinel1-grd", "VH")


def test_other_sensors_stay_as_they_are(pair_data: TaskData) -> None:
    fewer = without_band(pair_data, "sentinel2-l2a", "B04")
    radar, optical = fewer.read(3).images
    assert radar.sensor == pair_data.sensors[0][0]
    assert optical.sensor.band_names == ("B02", "B03", "B08")
    assert np.array_equal(optical.dn, pair_data.read(3).images[1].dn[[0, 1, 3]])
    assert fewer.fingerprint != pair_data.fingerprint
