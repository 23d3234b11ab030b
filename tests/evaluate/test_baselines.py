"""Baselines: the values of pixels, change vectors and their threshold, forests."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contexts import context_of, counting_reads
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import confusion_matrix, jaccard_score

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.baselines import (
    _best_threshold,
    _flat,
    _grown,
    change_vectors,
    map_baselines,
    missing_baselines,
    pixel_values,
)
from anyband.evaluate.features import Context
from anyband.evaluate.metrics import scores_of
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, LinearRecipe, Protocol, TransferRecipe
from anyband.evaluate.run import run_protocol
from anyband.labelled.samples import DataSpec, Sample, SampleImage, TaskData
from anyband.sensors.catalogue import get_sensor

RADAR = get_sensor("sentinel1-grd").select(("VV", "VH"))


@pytest.fixture(autouse=True)
def small_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grow few trees, so that tests are quick."""
    monkeypatch.setattr("anyband.evaluate.baselines._NUM_TREES", 20)


_RECIPE = TransferRecipe(
    name="tiny", data=DataSpec(source="memory"), linear=LinearRecipe(solver="lbfgs"), knn=KnnRecipe(k=5)
)


def _setting(
    encoder: SensorEncoder, data: TaskData, protocol: Protocol, *, cache: Path | None = None, **changes: Any
) -> Context:
    recipe = _RECIPE.changed(**changes)
    return context_of(encoder, data, protocol, recipe, cache=cache)


def _radar_image(dn: np.ndarray) -> SampleImage:
    return SampleImage(dn=dn.astype(np.float32), valid=np.isfinite(dn), sensor=RADAR)


def test_pixel_values_are_standardised_and_missing_where_there_is_no_data(tiny_encoder: SensorEncoder) -> None:
    dn = np.full((2, 3, 4), -12.0)
    dn[1, 2, 3] = np.nan
    reading = tiny_encoder.input_spec(RADAR)
    values = pixel_values([_radar_image(dn)], [reading])
    n = reading.normalisation
    expected = ((np.clip(-12.0, n.p01[0], n.p99[0]) - n.p01[0]) / (n.p99[0] - n.p01[0]) - n.mean[0]) / n.std[0]
    assert values.shape == (3, 4, 2)
    assert np.allclose(values[..., 0], expected, atol=1e-5)
    assert np.isnan(values[2, 3, 1])


def test_another_image_is_brought_to_the_pixels_of_the_first(tiny_encoder: SensorEncoder) -> None:
    fine, coarse = _radar_image(np.full((2, 8, 8), -15.0)), _radar_image(np.full((2, 4, 4), -10.0))
    reading = tiny_encoder.input_spec(RADAR)
    values = pixel_values([fine, coarse], [reading, reading])
    assert values.shape == (8, 8, 4)
    assert np.ptp(values[..., 2]) < 1e-6


def test_change_is_the_length_of_the_difference() -> None:
    values = np.zeros((1, 2, 4))
    values[0, 1] = [1.0, 2.0, 4.0, 6.0]
    assert np.allclose(change_vectors(values), [[0.0, 5.0]])


def test_the_threshold_of_change_is_that_of_the_best_mean_iou() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random(2000) < 0.3).astype(np.int64)
    lengths = truth * 1.0 + rng.normal(0, 0.4, 2000)
    threshold, score = _best_threshold(lengths, truth)
    assert score == pytest.approx(jaccard_score(truth, lengths > threshold, average="macro"))
    others = [jaccard_score(truth, lengths > one, average="macro") for one in np.linspace(-1, 2, 40)]
    assert score > max(others) - 0.01


def test_a_forest_learns_classes_from_the_colour_of_pixels(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    pictured = [int(class_map_data.split("test")[0])]
    (result,) = map_baselines(_setting(tiny_encoder, class_map_data, "segment"), pictured=pictured)
    assert list(result.maps) == pictured
    scores = {score.metric: score.value for score in scores_of(result.predictions, seed=0)}
    assert scores["miou"] > 0.9
    position = next(iter(result.maps))
    truth = class_map_data.read(position).class_map
    assert truth is not None
    known = truth >= 0
    expected = confusion_matrix(truth[known], result.maps[position][known], labels=range(3))
    assert np.array_equal(result.predictions.arrays["confusion"][0], expected)


def test_a_forest_learns_numbers_from_the_colour_of_pixels(
    tiny_encoder: SensorEncoder, number_map_data: TaskData
) -> None:
    (result,) = map_baselines(_setting(tiny_encoder, number_map_data, "regress"))
    assert {score.metric: score.value for score in scores_of(result.predictions, seed=0)}["r2"] > 0.9


def test_change_is_scored_by_a_forest_and_by_change_vectors(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    results = map_baselines(_setting(tiny_encoder, change_data, "change"))
    assert [one.features for one in results] == ["random forest on pixels", "change vector analysis"]
    for result in results:
        assert {score.metric: score.value for score in scores_of(result.predictions, seed=0)}["miou"] > 0.9
    assert results[1].chosen["threshold"] >= 0


def test_a_second_probe_reads_no_image_for_its_baseline_either(
    tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    data, seen = counting_reads(class_data)
    compare = CompareRecipe(untrained=True, baseline=True)
    first = run_protocol(_setting(tiny_encoder, data, "knn", cache=tmp_path, compare=compare))
    assert seen
    seen.clear()
    again = run_protocol(_setting(tiny_encoder, data, "knn", cache=tmp_path, compare=compare))
    run_protocol(_setting(tiny_encoder, data, "linear", cache=tmp_path, compare=compare))
    assert seen == []
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.predictions.arrays["scores"], other.predictions.arrays["scores"])


def test_a_probe_and_its_baseline_read_each_image_once(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    data, seen = counting_reads(class_data)
    compare = CompareRecipe(untrained=True, baseline=True)
    run_protocol(_setting(tiny_encoder, data, "knn", compare=compare))
    assert sorted(seen) == list(range(len(data)))


def test_kept_band_means_are_not_those_of_other_statistics(
    tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    data, seen = counting_reads(class_data)
    compare = CompareRecipe(baseline=True)
    run_protocol(_setting(tiny_encoder, data, "knn", cache=tmp_path, compare=compare))
    seen.clear()
    other = InputRecipe(statistics="data")
    run_protocol(_setting(tiny_encoder, data, "knn", cache=tmp_path, compare=compare, input=other))
    assert set(seen) == set(range(len(data)))


def test_samples_of_different_sensors_have_no_baseline_and_that_is_said(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    data = _with_other_sensor(class_data)
    context = _setting(tiny_encoder, data, "knn", compare=CompareRecipe(baseline=True))
    message = "there is no baseline of band means: samples have different sensors or bands"
    assert run_protocol(context)[0].notes[-1] == message


def _with_other_sensor(data: TaskData) -> TaskData:
    """Make the last image lack a band."""
    fewer = data.sensors[0][0].select(("B02", "B03", "B04"))
    last = len(data) - 1

    def read(position: int) -> Sample:
        sample = data.read(position)
        if position != last:
            return sample
        image = sample.images[0]
        return Sample(images=(replace(image, dn=image.dn[:3], valid=image.valid[:3], sensor=fewer),))

    return replace(data, sensors=(*data.sensors[:-1], (fewer,)), read=read, fingerprint="mixed")


def test_change_vectors_need_the_same_bands_on_both_dates(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    before, after = change_data.sensors[0]
    data = replace(change_data, sensors=((before, after.select(("B02", "B03", "B04"))),) * len(change_data))
    context = _setting(tiny_encoder, data, "change")
    assert missing_baselines(context) == ("change vector analysis needs the same bands before and after",)
    assert missing_baselines(_setting(tiny_encoder, change_data, "change")) == ()


def test_a_forest_grown_in_steps_is_the_one_grown_at_once(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    context = _setting(tiny_encoder, class_map_data, "segment")
    draw = np.random.default_rng(0)
    values, targets = draw.random((400, 4)), draw.integers(0, 3, 400)
    once = RandomForestClassifier(n_estimators=20, random_state=0).fit(values, targets)
    steps = _grown(context, values, targets)
    assert np.array_equal(steps.predict_proba(values), once.predict_proba(values))


def test_pixels_without_data_count_as_the_mean() -> None:
    assert _flat(np.array([[[1.0, np.nan]]])).tolist() == [[1.0, 0.0]]


def test_a_forest_of_numbers_is_the_same_to_the_last_digit(
    tiny_encoder: SensorEncoder, number_map_data: TaskData
) -> None:
    context = _setting(tiny_encoder, number_map_data, "regress")
    first, second = map_baselines(context), map_baselines(context)
    assert np.array_equal(first[0].predictions.arrays["sums"], second[0].predictions.arrays["sums"])
