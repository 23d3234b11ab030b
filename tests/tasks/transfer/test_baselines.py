"""Baselines: the values of pixels, change vectors and their threshold, forests."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from anyband.data.supervised.records import DataSpec, SampleImage, TaskData
from anyband.sensors.catalogue import get_sensor
from anyband.tasks.features import SensorEncoder
from anyband.tasks.transfer.baselines import _best_threshold, baselines, change_vectors, pixel_values
from anyband.tasks.transfer.evidence import scores_of
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.recipe import Protocol, TransferRecipe
from anyband.tasks.transfer.setting import Setting

RADAR = get_sensor("sentinel1-grd").select(("VV", "VH"))


def _setting(encoder: SensorEncoder, data: TaskData, protocol: Protocol) -> Setting:
    recipe = TransferRecipe(name="tiny", data=DataSpec(source="memory", kind=data.kind))
    return Setting(
        recipe=recipe,
        protocol=protocol,
        data=data,
        encoders={"encoder": encoder},
        reader=TaskReader(encoder, data, recipe),
        cache=None,
        checkpoint_hash="tiny",
    )


def _radar_image(dn: np.ndarray) -> SampleImage:
    return SampleImage(dn=dn.astype(np.float32), valid=np.isfinite(dn), sensor=RADAR)


def test_pixel_values_are_standardised_and_missing_where_there_is_no_data(tiny_encoder: SensorEncoder) -> None:
    dn = np.full((2, 3, 4), -12.0)
    dn[1, 2, 3] = np.nan
    reading = tiny_encoder.reading(RADAR)
    values = pixel_values([_radar_image(dn)], [reading])
    n = reading.normalisation
    expected = ((np.clip(-12.0, n.p01[0], n.p99[0]) - n.p01[0]) / (n.p99[0] - n.p01[0]) - n.mean[0]) / n.std[0]
    assert values.shape == (3, 4, 2)
    assert np.allclose(values[..., 0], expected, atol=1e-5)
    assert np.isnan(values[2, 3, 1])


def test_another_image_is_brought_to_the_pixels_of_the_first(tiny_encoder: SensorEncoder) -> None:
    fine, coarse = _radar_image(np.full((2, 8, 8), -15.0)), _radar_image(np.full((2, 4, 4), -10.0))
    reading = tiny_encoder.reading(RADAR)
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
    (outcome,) = baselines(_setting(tiny_encoder, class_map_data, "segment"))
    scores = {score.metric: score.value for score in scores_of(outcome.evidence, seed=0)}
    assert scores["miou"] > 0.9
    position = next(iter(outcome.maps))
    truth = class_map_data.read(position).class_map
    assert truth is not None
    known = truth >= 0
    expected = confusion_matrix(truth[known], outcome.maps[position][known], labels=range(3))
    assert np.array_equal(outcome.evidence.arrays["confusion"][0], expected)


def test_a_forest_learns_numbers_from_the_colour_of_pixels(
    tiny_encoder: SensorEncoder, number_map_data: TaskData
) -> None:
    (outcome,) = baselines(_setting(tiny_encoder, number_map_data, "regress"))
    assert {score.metric: score.value for score in scores_of(outcome.evidence, seed=0)}["r2"] > 0.9


def test_change_is_scored_by_a_forest_and_by_change_vectors(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    outcomes = baselines(_setting(tiny_encoder, change_data, "change"))
    assert [one.features for one in outcomes] == ["random forest on pixels", "change vector analysis"]
    for outcome in outcomes:
        assert {score.metric: score.value for score in scores_of(outcome.evidence, seed=0)}["miou"] > 0.9
    assert outcomes[1].chosen["threshold"] > 0


def test_band_means_are_scored_by_the_classifier_of_the_protocol(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    (outcome,) = baselines(_setting(tiny_encoder, class_data, "linear"))
    assert outcome.width == 8
    assert {score.metric: score.value for score in scores_of(outcome.evidence, seed=0)}["accuracy"] > 0.9


def test_a_rerun_gives_the_same_numbers(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    setting = _setting(tiny_encoder, class_map_data, "segment")
    first, second = baselines(setting), baselines(setting)
    assert np.array_equal(first[0].evidence.arrays["confusion"], second[0].evidence.arrays["confusion"])
