"""Fine-tuning of every kind of whole-image data, from a context to results."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import context_of

from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.errors import InputError, RecipeError, TrainingError
from anyband.evaluate.features import Context
from anyband.evaluate.finetune import ImageModel, finetune, image_loss, predict
from anyband.evaluate.fitting import checkpoint_of, fit
from anyband.evaluate.metrics import metric_value
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, InputRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.checkpoint import save_checkpoint
from anyband.sensors.catalogue import get_sensor
from anyband.sensors.sensor import Sensor

_FIT = FitRecipe(epochs=6, batch_size=10, base_lr=3e-3, lr_samples=None, warmup_epochs=1.0)
# The catalogue has no statistics of the sensor that the checkpoint never saw.
_COUNTED = InputRecipe(statistics="data")
_RECIPE = TransferRecipe(name="test", data=DataSpec(source="memory"), fit=_FIT)

MakeContext = Callable[..., Context]


@pytest.fixture
def make_context(tiny_encoder: SensorEncoder) -> MakeContext:
    """Makes a context of the tiny encoder for data and what is fitted."""

    def made(data: TaskData, recipe: TransferRecipe = _RECIPE, *, both: bool = False) -> Context:
        return context_of(tiny_encoder, data, "finetune", recipe, untrained=both)

    return made


def _fitting(**changes: object) -> TransferRecipe:
    return _RECIPE.changed(fit=_FIT.changed(**changes))


def _scored(result: object, metric: str = "accuracy") -> float:
    arrays = result.predictions.arrays  # type: ignore[attr-defined]
    return metric_value(metric, arrays["labels"], arrays["scores"])  # type: ignore[arg-type]


def test_classes_are_learned(class_data: TaskData, make_context: MakeContext) -> None:
    result = finetune(make_context(class_data, _fitting(epochs=12)))[0]
    assert _scored(result) > 0.8
    assert result.curves["training loss"][-1] < result.curves["training loss"][0]
    assert result.predictions.samples == tuple(class_data.names[index] for index in class_data.split("test"))
    assert result.width == 32
    curve = result.curves["validation"]
    assert curve[result.chosen["epoch"] - 1] == result.chosen["validation accuracy"] == max(curve)


def test_several_labels_are_learned(labels_data: TaskData, make_context: MakeContext) -> None:
    result = finetune(make_context(labels_data, _fitting(epochs=15)))[0]
    assert result.predictions.kind == "labels"
    assert _scored(result, "map_micro") > 0.7
    assert "validation map_micro" in result.chosen


def test_numbers_are_learned_in_their_own_unit(number_data: TaskData, make_context: MakeContext) -> None:
    data = replace(number_data, targets=number_data.targets * 40 + 3000)
    result = finetune(make_context(data, _fitting(epochs=15)))[0]
    truth, predicted = result.predictions.arrays["truth"], result.predictions.arrays["predicted"]
    assert np.sqrt(np.mean((truth - predicted) ** 2)) < 0.6 * truth.std()
    assert result.chosen["validation minus rmse"] < 0


def test_images_of_two_sensors_are_learned(pair_data: TaskData, make_context: MakeContext) -> None:
    for fusion, width in (("stack", 32), ("concat", 64), ("mixup_concat", 64), ("joint", 32)):
        result = finetune(make_context(pair_data, _fitting(epochs=1).changed(fusion=fusion)))[0]
        assert result.width == width
        assert len(result.curves["validation"]) == 1


def test_a_rerun_gives_identical_numbers(class_data: TaskData, make_context: MakeContext) -> None:
    recipe = _fitting(
        epochs=2, drop_path=0.3, label_smoothing=0.1, augment=AugmentRecipe(flips=True, mixup=0.8, cutmix=1.0)
    )
    results = []
    for state in (1, 2):
        torch.manual_seed(state)
        results.append(finetune(make_context(class_data, recipe))[0])
    first, second = results
    assert np.array_equal(first.predictions.arrays["scores"], second.predictions.arrays["scores"])
    assert first.curves == second.curves
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)


def test_each_encoder_starts_from_its_own_weights_and_keeps_them(
    class_data: TaskData, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(class_data, both=True)
    before = {
        name: {key: value.clone() for key, value in encoder.state_dict().items()}
        for name, encoder in context.encoders.items()
    }
    started: list[torch.Tensor] = []
    fitted = fit

    def watched(model: ImageModel, *args: object, **options: object) -> object:
        started.append(model.encoder.encoder.encoder.projection.weight.detach().clone())
        return fitted(model, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("anyband.evaluate.finetune.fit", watched)
    results = finetune(replace(context, recipe=_fitting(epochs=1)))
    assert [one.features for one in results] == ["encoder", "untrained encoder"]
    for weight, (name, encoder) in zip(started, context.encoders.items(), strict=True):
        assert torch.equal(weight, encoder.encoder.projection.weight)
        assert all(torch.equal(value, before[name][key]) for key, value in encoder.state_dict().items())
        assert all(one.requires_grad for one in encoder.parameters())


def test_a_frozen_encoder_keeps_its_weights(class_data: TaskData, make_context: MakeContext) -> None:
    context = make_context(class_data, _fitting(encoder="frozen", base_lr=0.05))
    result = finetune(context)[0]
    before = checkpoint_of(context.encoders["encoder"]).state
    assert all(torch.equal(result.model[name], before[name]) for name in before)
    assert result.model["head.weight"].abs().max() > 1e-3
    assert result.notes[0].startswith("99 of ")
    assert result.checkpoint is None


def test_everything_is_learned_where_nothing_is_frozen(class_data: TaskData, make_context: MakeContext) -> None:
    context = make_context(class_data, _fitting(epochs=1))
    result = finetune(context)[0]
    before = checkpoint_of(context.encoders["encoder"]).state
    unused = {"spectrum_projection.spectrum_embeds.{}.proj.bias", "spectrum_projection.spectrum_embeds.{}.proj.weight"}
    same = {name for name in before if torch.equal(result.model[name], before[name])}
    # Ranges that no band of the data reads have no gradient; only weight decay moves them.
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.weight"}.isdisjoint(same)
    assert len(same) <= len(unused) * 17


@pytest.mark.parametrize("mode", ["trained", "lora"])
def test_what_is_handed_out_predicts_what_was_reported(
    mode: str, class_data: TaskData, make_context: MakeContext, tmp_path: Path
) -> None:
    context = make_context(class_data, _fitting(encoder=mode, base_lr=1e-2))
    result = finetune(context)[0]
    save_checkpoint(tmp_path / "tuned.safetensors", result.checkpoint)
    loaded = replace(context, encoders={"encoder": load_encoder(tmp_path / "tuned.safetensors")})
    model = ImageModel(loaded.fused(loaded.encoders["encoder"]), num_slots=1, num_outputs=3, seed=0)
    model.head.load_state_dict({"weight": result.model["head.weight"], "bias": result.model["head.bias"]})
    predicted = predict(model, context.reader, class_data.split("test"), _FIT)
    np.testing.assert_allclose(predicted, result.predictions.arrays["scores"], atol=1e-5)
    assert all(one.is_contiguous() and one.device.type == "cpu" for one in result.model.values())
    assert set(result.model) == {*result.checkpoint.state, "head.weight", "head.bias"}


def test_a_tuned_checkpoint_reads_a_new_sensor_as_it_was_trained(
    class_data: TaskData, make_context: MakeContext, tmp_path: Path
) -> None:
    recipe = _fitting(new_ranges="with_rest", epochs=1).changed(input=_COUNTED)
    data = _as_landsat(class_data)
    context = make_context(data, recipe)
    save_checkpoint(tmp_path / "tuned.safetensors", finetune(context)[0].checkpoint)
    reading = load_encoder(tmp_path / "tuned.safetensors").input_spec(data.sensors[0][0])
    counted = context.reader.input_spec(data.sensors[0][0]).normalisation
    assert reading.from_checkpoint
    assert (reading.normalisation.p01, reading.normalisation.std) == (counted.p01, counted.std)
    assert set(reading.assignment.origin) == {"exact"}


def test_the_head_handed_out_gives_numbers_in_their_own_unit(number_data: TaskData, make_context: MakeContext) -> None:
    data = replace(number_data, targets=number_data.targets * 40 + 3000)
    context = make_context(data, _fitting(encoder="frozen"))
    result = finetune(context)[0]
    model = ImageModel(context.fused(context.encoders["encoder"]), num_slots=1, num_outputs=1, seed=0)
    model.head.load_state_dict({"weight": result.model["head.weight"], "bias": result.model["head.bias"]})
    predicted = predict(model, context.reader, data.split("test"), _FIT)[:, 0]
    np.testing.assert_allclose(predicted, result.predictions.arrays["predicted"], rtol=1e-5)


def test_lora_learns_with_few_weights(class_data: TaskData, make_context: MakeContext) -> None:
    result = finetune(make_context(class_data, _fitting(encoder="lora", base_lr=1e-2, drop_path=0.1)))[0]
    assert _scored(result) > 0.5
    assert not any("lora" in name for name in result.model)
    trained, whole = (int(word.replace(",", "")) for word in result.notes[0].split()[0:3:2])
    assert trained < whole / 2


def _as_landsat(data: TaskData) -> TaskData:
    """The same pixels, declared as bands that the checkpoint never saw."""
    sensor: Sensor = get_sensor("landsat8-l2").select(("SR_B2", "SR_B3", "SR_B4", "SR_B5"))
    read = data.read

    def relabelled(position: int) -> object:
        sample = read(position)
        image = replace(sample.images[0], sensor=sensor, dn=(sample.images[0].dn * 4 + 7000).astype(np.uint16))
        return replace(sample, images=(image,))

    return replace(data, sensors=((sensor,),) * len(data), read=relabelled)


@pytest.mark.parametrize("how", ["with_rest", "alone"])
def test_sensors_that_were_never_seen_are_learned(how: str, class_data: TaskData, make_context: MakeContext) -> None:
    recipe = _fitting(new_ranges=how, base_lr=1e-2, epochs=12).changed(input=_COUNTED)
    context = make_context(_as_landsat(class_data), recipe)
    result = finetune(context)[0]
    assert "started from interpolation" in result.notes[0]
    new = len(context.encoders["encoder"].checkpoint.ranges.ranges)
    assert f"spectrum_projection.spectrum_embeds.{new + 2}.proj.weight" in result.model
    assert _scored(result) > 0.5


def test_training_begins_where_interpolation_stands(class_data: TaskData, make_context: MakeContext) -> None:
    losses = []
    for how in ("none", "with_rest", "alone"):
        recipe = _fitting(new_ranges=how, epochs=1, base_lr=1e-12, warmup_epochs=0.0).changed(input=_COUNTED)
        result = finetune(make_context(_as_landsat(class_data), recipe))[0]
        losses.append(result.curves["training loss"][0])
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-6)


def test_the_labels_of_test_change_no_choice(class_data: TaskData, make_context: MakeContext) -> None:
    targets = class_data.targets.copy()
    targets[class_data.split("test")] = targets[class_data.split("test")][::-1].copy()
    both = (class_data, replace(class_data, targets=targets))
    one, other = (finetune(make_context(data, _fitting(epochs=2)))[0] for data in both)
    assert one.chosen == other.chosen
    assert np.array_equal(one.predictions.arrays["scores"], other.predictions.arrays["scores"])


def test_the_head_starts_close_to_zero(class_data: TaskData, make_context: MakeContext) -> None:
    context = make_context(class_data)
    model = ImageModel(context.fused(context.encoders["encoder"]), num_slots=1, num_outputs=50, seed=0)
    assert float(model.head.weight.detach().std()) == pytest.approx(2e-5, rel=0.1)
    assert not model.head.bias.any()


def test_predictions_come_in_the_order_asked_for(class_data: TaskData, make_context: MakeContext) -> None:
    context = make_context(class_data)
    model = ImageModel(context.fused(context.encoders["encoder"]), num_slots=1, num_outputs=3, seed=0)
    forward = predict(model, context.reader, np.array([4, 9, 30]), _FIT)
    backward = predict(model, context.reader, np.array([30, 9, 4]), _FIT)
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-9)


def test_a_smoothed_label_is_that_of_torch(class_data: TaskData, make_context: MakeContext) -> None:
    recipe = _fitting(epochs=1, label_smoothing=0.2, batch_size=30)
    context = make_context(class_data, recipe)
    model = ImageModel(context.fused(context.encoders["encoder"]), num_slots=1, num_outputs=3, seed=0)
    with torch.no_grad():
        model.head.weight.mul_(1e5)
    batch = next(context.reader.training_batches(0))
    ours = image_loss(model, batch, 0, data=class_data, recipe=recipe)
    expected = torch.nn.functional.cross_entropy(model(batch), batch.targets, label_smoothing=0.2)
    torch.testing.assert_close(ours, expected)


def test_an_empty_validation_part_is_refused(class_data: TaskData, make_context: MakeContext) -> None:
    data = replace(class_data, splits=tuple("train" if one == "val" else one for one in class_data.splits))
    with pytest.raises(InputError, match="fine-tuning needs samples in train, val, test; 'tiny class of 1'"):
        finetune(make_context(data))


def test_a_class_that_training_lacks_is_refused(class_data: TaskData, make_context: MakeContext) -> None:
    targets = class_data.targets.copy()
    train = class_data.split("train")
    targets[train] = np.where(targets[train] == 2, 0, targets[train])
    with pytest.raises(InputError, match="no training sample: 'town'"):
        finetune(make_context(replace(class_data, targets=targets)))


def test_labels_of_kinds_without_classes_are_not_smoothed(number_data: TaskData, make_context: MakeContext) -> None:
    with pytest.raises(RecipeError, match="label_smoothing spreads one class a sample over the others"):
        finetune(make_context(number_data, _fitting(label_smoothing=0.1)))


def test_a_number_that_is_missing_names_its_sample(number_data: TaskData, make_context: MakeContext) -> None:
    targets = number_data.targets.copy()
    targets[number_data.split("train")[3]] = np.nan
    with pytest.raises(InputError, match="'image 3' has no finite number"):
        finetune(make_context(replace(number_data, targets=targets)))


def test_a_network_that_diverges_names_epoch_and_samples(class_data: TaskData, make_context: MakeContext) -> None:
    with pytest.raises(TrainingError, match=r"(loss is not finite|validation score) (in|of) epoch \d"):
        finetune(make_context(class_data, _fitting(base_lr=1e30, warmup_epochs=0.0, epochs=6)))


def test_training_in_bfloat16_gives_float32_weights(class_data: TaskData, make_context: MakeContext) -> None:
    result = finetune(make_context(class_data, _fitting(epochs=2, precision="bf16-mixed")))[0]
    assert {one.dtype for one in result.model.values()} == {torch.float32}
    assert np.isfinite(result.predictions.arrays["scores"]).all()


def test_samples_of_several_sensors_are_learned_together(class_data: TaskData, make_context: MakeContext) -> None:
    landsat = _as_landsat(class_data)
    data = replace(
        class_data,
        sensors=(*class_data.sensors[:24], *landsat.sensors[24:]),
        read=lambda position: (class_data if position < 24 else landsat).read(position),
    )
    recipe = _fitting(new_ranges="with_rest", epochs=2).changed(input=_COUNTED)
    result = finetune(make_context(data, recipe))[0]
    assert len(result.predictions.samples) == data.num_samples["test"]
    assert np.isfinite(result.predictions.arrays["scores"]).all()
