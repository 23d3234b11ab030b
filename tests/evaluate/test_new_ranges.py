"""Ranges of their own for sensors that a checkpoint never saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anyband.encode.encoder import SensorEncoder
from anyband.errors import RecipeError
from anyband.evaluate.fitting import adapt, checkpoint_of, sensors_of
from anyband.evaluate.recipe import FitRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.inputs import ImageBatch
from anyband.sensors.assignment import assign
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

_LANDSAT = get_sensor("landsat8-l2").select(("SR_B2", "SR_B3", "SR_B5", "ST_B10"))


def _recipe(**fit: object) -> TransferRecipe:
    return TransferRecipe(name="test", data=DataSpec(source="memory"), fit=FitRecipe(**fit))


@pytest.fixture
def landsat_data(class_data: TaskData) -> TaskData:
    """Data of a sensor that the checkpoint was not trained on."""
    return replace(class_data, sensors=((_LANDSAT,),) * len(class_data))


def _features(encoder: SensorEncoder, sensor: Sensor = _LANDSAT, *, num_bands: int = 4) -> torch.Tensor:
    rules = replace(encoder.rules, min_support=0.0)
    mixing = torch.from_numpy(assign(sensor, encoder.checkpoint.ranges, rules).mixing).float()
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(2, num_bands, 32, 32))).float()
    return encoder.eval().encoder(ImageBatch(pixels=pixels, mixing=mixing)).tokens.detach()


@pytest.mark.parametrize("how", ["with_rest", "alone"])
def test_features_are_those_of_interpolation_before_training(
    how: str, tiny_encoder: SensorEncoder, landsat_data: TaskData
) -> None:
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges=how))
    assert len(adapted.new_ranges) == 4
    torch.testing.assert_close(_features(adapted.encoder), _features(tiny_encoder), atol=1e-6, rtol=1e-6)


def test_features_of_trained_sensors_stay(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    sensor = get_sensor("sentinel2-l2a").select(("B02", "B03", "B04", "B08"))
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest"))
    torch.testing.assert_close(
        _features(adapted.encoder, sensor), _features(tiny_encoder, sensor), atol=1e-6, rtol=1e-6
    )


def test_each_new_band_is_exactly_known_then(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest"))
    read = assign(_LANDSAT, adapted.encoder.checkpoint.ranges, adapted.encoder.rules)
    assert read.origin == ("exact",) * 4
    assert adapted.new_ranges == tuple(f"{_LANDSAT.name}.{band}" for band in _LANDSAT.band_names)
    assert f"{_LANDSAT.name}.SR_B2" in adapted.notes[0]


def test_bands_that_are_known_get_no_range(
    tiny_encoder: SensorEncoder, class_data: TaskData, pair_data: TaskData
) -> None:
    for data in (class_data, pair_data):
        adapted = adapt(tiny_encoder, data, _recipe(new_ranges="with_rest"))
        assert adapted.new_ranges == ()
        assert adapted.notes == ("no range was added: every band of the data is exactly a trained range",)


def test_alone_without_anything_new_is_refused(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    with pytest.raises(RecipeError, match="new_ranges=alone has nothing to learn: every band"):
        adapt(tiny_encoder, class_data, _recipe(new_ranges="alone"))


def _trained(encoder: SensorEncoder, *, weight_decay: float) -> None:
    """Do a few steps on everything that requires a gradient."""
    learned = [one for one in encoder.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=0.05, weight_decay=weight_decay)
    mixing = torch.from_numpy(assign(_LANDSAT, encoder.checkpoint.ranges, encoder.rules).mixing).float()
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 4, 32, 32))).float()
    for _ in range(3):
        optimizer.zero_grad()
        encoder.encoder(ImageBatch(pixels=pixels, mixing=mixing)).cls.square()[:, ::2].mean().backward()
        optimizer.step()


def test_alone_changes_the_new_ranges_and_nothing_else(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="alone"))
    before = checkpoint_of(adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest")).encoder).state
    _trained(adapted.encoder, weight_decay=0.5)
    adapted.settle()
    after = checkpoint_of(adapted.encoder).state
    old = len(tiny_encoder.checkpoint.ranges.ranges)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {
        f"spectrum_projection.spectrum_embeds.{index}.proj.{part}"
        for index in range(old, old + 4)
        for part in ("weight", "bias")
    }


def test_with_the_rest_everything_is_learned(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest"))
    assert all(one.requires_grad for one in adapted.encoder.parameters())


def test_lora_with_new_ranges_learns_both(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest", encoder="lora"))
    learned = [name for name, one in adapted.encoder.named_parameters() if one.requires_grad]
    assert {"lora_" in name or name.endswith(".original") for name in learned} == {True}
    assert sum(name.endswith(".original") for name in learned) == 2
    _trained(adapted.encoder, weight_decay=0.0)
    trained = _features(adapted.encoder)
    adapted.settle()
    torch.testing.assert_close(_features(adapted.encoder), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ({"new_ranges": "with_rest", "encoder": "frozen"}, "with_rest learns new ranges with the rest"),
        ({"new_ranges": "alone", "encoder": "lora"}, "alone freezes everything else"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    fit: dict[str, str], message: str, tiny_encoder: SensorEncoder, landsat_data: TaskData
) -> None:
    with pytest.raises(RecipeError, match=message):
        adapt(tiny_encoder, landsat_data, _recipe(**fit))


def test_the_original_stays_as_it_is(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    before = {name: one.clone() for name, one in tiny_encoder.state_dict().items()}
    adapted = adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest"))
    _trained(adapted.encoder, weight_decay=0.1)
    assert all(torch.equal(one, before[name]) for name, one in tiny_encoder.state_dict().items())
    assert len(tiny_encoder.checkpoint.ranges.ranges) == 17


def test_an_untrained_encoder_can_have_new_ranges_too(tiny_encoder: SensorEncoder, landsat_data: TaskData) -> None:
    untrained = tiny_encoder.untrained(seed=3)
    adapted = adapt(untrained, landsat_data, _recipe(new_ranges="with_rest"))
    torch.testing.assert_close(_features(adapted.encoder), _features(untrained), atol=1e-6, rtol=1e-6)


def test_each_choice_of_bands_is_listed_once(class_data: TaskData, landsat_data: TaskData) -> None:
    both = replace(class_data, sensors=(*class_data.sensors[:24], *landsat_data.sensors[24:]))
    assert [sensor.name for sensor in sensors_of(both)] == ["sentinel2-l2a", _LANDSAT.name]


def test_a_stem_of_three_bands_has_no_ranges_to_add(
    tiny_encoder: SensorEncoder, landsat_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anyband.evaluate.fitting.STEM", tiny_encoder.checkpoint.ranges.name)
    with pytest.raises(RecipeError, match=r"stem of three bands: set fit.new_ranges=none"):
        adapt(tiny_encoder, landsat_data, _recipe(new_ranges="with_rest"))
