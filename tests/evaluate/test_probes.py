"""Nearest neighbours and linear layers on frozen features, from a context to results."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from contexts import context_of
from sklearn.neighbors import KNeighborsClassifier

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError
from anyband.evaluate import probes
from anyband.evaluate.features import Context, extract_features, labelled_features
from anyband.evaluate.metrics import metric_value, predictions_of, scores_of
from anyband.evaluate.probes import knn, knn_scores, linear
from anyband.evaluate.recipe import CompareRecipe, InputRecipe, KnnRecipe, LinearRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, TaskData

_RECIPE = TransferRecipe(
    name="test",
    data=DataSpec(source="memory"),
    knn=KnnRecipe(k=5),
    linear=LinearRecipe(epochs=30, base_lr=0.2, batch_size=16),
)
_LBFGS = _RECIPE.changed(linear=LinearRecipe(solver="lbfgs"))

MakeSetting = Callable[..., Context]


@pytest.fixture
def make_context(tiny_encoder: SensorEncoder) -> MakeSetting:
    """Makes a context of the tiny encoder for data and a recipe."""

    def made(
        data: TaskData, recipe: TransferRecipe = _RECIPE, *, protocol: str = "linear", both: bool = False
    ) -> Context:
        return context_of(tiny_encoder, data, protocol, recipe, untrained=both)

    return made


def _accuracy(result: object) -> float:
    arrays = result.predictions.arrays  # type: ignore[attr-defined]
    return metric_value("accuracy", arrays["labels"], arrays["scores"])


def _vectors(context: Context, scale: float = 1.0) -> np.ndarray:
    encoders = {"encoder": context.fused(context.encoders["encoder"])}
    every = np.arange(len(context.data))
    return extract_features(encoders, context.reader, every, cache=None, scale=scale)["encoder"][0].numpy()


def test_neighbours_find_what_scikit_learn_finds(class_data: TaskData, make_context: MakeSetting) -> None:
    context = make_context(class_data)
    result = knn(context)[0]
    features, train, test = _vectors(context), class_data.split("train"), class_data.split("test")
    oracle = KNeighborsClassifier(5, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine")
    oracle.fit(features[train], class_data.targets[train])
    np.testing.assert_allclose(result.predictions.arrays["scores"], oracle.predict_proba(features[test]), atol=1e-4)
    assert result.predictions.samples == tuple(class_data.names[index] for index in test)
    assert result.chosen == {"k": 5, "temperature": 0.07}


@pytest.mark.parametrize("protocol", [knn, linear])
def test_bright_and_dark_images_are_told_apart(
    protocol: Callable[[Context], list], class_data: TaskData, make_context: MakeSetting
) -> None:
    assert _accuracy(protocol(make_context(class_data))[0]) > 0.8


@pytest.mark.parametrize("protocol", [knn, linear])
def test_there_is_an_outcome_for_each_encoder(
    protocol: Callable[[Context], list], class_data: TaskData, make_context: MakeSetting
) -> None:
    # All training samples vote nearly alike, so that small differences of features show.
    recipe = _RECIPE.changed(knn=KnnRecipe(k=30, temperature=5.0))
    results = protocol(make_context(class_data, recipe, both=True))
    assert [one.features for one in results] == ["encoder", "untrained encoder"]
    assert not np.array_equal(results[0].predictions.arrays["scores"], results[1].predictions.arrays["scores"])


def test_accuracies_are_averaged_over_scales(class_data: TaskData, make_context: MakeSetting) -> None:
    recipe = _RECIPE.changed(input=InputRecipe(scales=(0.125, 0.5, 1.0)))
    together, *alone = knn(make_context(class_data, recipe))
    assert [one.features for one in alone] == ["encoder @ 12.5 %", "encoder @ 50 %", "encoder @ 100 %"]
    assert _accuracy(together) == pytest.approx(np.mean([_accuracy(one) for one in alone]))
    assert together.predictions.samples[0] == f"{class_data.names[class_data.split('test')[0]]} @ 12.5 %"
    assert "mean over images reduced to 12.5 %, 50 %, 100 %" in together.notes[0]
    assert len(scores_of(together.predictions, seed=0)) >= 1


def test_the_whole_scale_is_the_plain_outcome(class_data: TaskData, make_context: MakeSetting) -> None:
    recipe = _RECIPE.changed(input=InputRecipe(scales=(0.5, 1.0)))
    last = knn(make_context(class_data, recipe))[-1]
    plain = knn(make_context(class_data))[0]
    assert np.array_equal(last.predictions.arrays["scores"], plain.predictions.arrays["scores"])


def test_training_and_test_are_reduced_alike(class_data: TaskData, make_context: MakeSetting) -> None:
    recipe = _RECIPE.changed(input=InputRecipe(scales=(0.25, 1.0)))
    context = make_context(class_data, recipe)
    train, test = (labelled_features(class_data, _vectors(context, 0.25), split) for split in ("train", "test"))
    scores = knn_scores(train, test, k=5).astype(np.float32)
    assert np.array_equal(knn(context)[1].predictions.arrays["scores"], scores)


def test_both_solvers_of_the_linear_probe_agree(class_data: TaskData, make_context: MakeSetting) -> None:
    accuracies = [_accuracy(linear(make_context(class_data, recipe))[0]) for recipe in (_RECIPE, _LBFGS)]
    # One sample of nine.
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.12)


def test_several_labels_are_probed(labels_data: TaskData, make_context: MakeSetting) -> None:
    for protocol, recipe in ((knn, _RECIPE), (linear, _RECIPE), (linear, _LBFGS)):
        result = protocol(make_context(labels_data, recipe))[0]
        arrays = result.predictions.arrays
        assert result.predictions.kind == "labels"
        assert metric_value("map_micro", arrays["labels"], arrays["scores"]) > 0.6


def test_numbers_are_probed_by_ridge_regression(number_data: TaskData, make_context: MakeSetting) -> None:
    result = linear(make_context(number_data))[0]
    arrays = result.predictions.arrays
    spread = arrays["truth"].std()
    assert np.sqrt(np.mean((arrays["truth"] - arrays["predicted"]) ** 2)) < 0.5 * spread
    assert {"penalty", "validation minus rmse"} == set(result.chosen)


def test_the_epoch_is_chosen_by_validation(class_data: TaskData, make_context: MakeSetting) -> None:
    result = linear(make_context(class_data))[0]
    curve = result.curves["validation"]
    assert len(curve) == 30
    assert curve[result.chosen["epoch"] - 1] == result.chosen["validation accuracy"] == max(curve)


def test_the_labels_of_test_change_no_choice(class_data: TaskData, make_context: MakeSetting) -> None:
    targets = class_data.targets.copy()
    targets[class_data.split("test")] = targets[class_data.split("test")][::-1].copy()
    for recipe in (_RECIPE, _LBFGS):
        one, other = (
            linear(make_context(data, recipe))[0] for data in (class_data, replace(class_data, targets=targets))
        )
        assert one.chosen == other.chosen
        assert np.array_equal(one.predictions.arrays["scores"], other.predictions.arrays["scores"])


def test_a_fitted_layer_is_handed_out(class_data: TaskData, make_context: MakeSetting) -> None:
    result = linear(make_context(class_data))[0]
    assert result.model["linear.weight"].shape == (3, 32)
    assert result.width == 32


@pytest.mark.parametrize("recipe", [_RECIPE, _LBFGS])
def test_a_rerun_gives_equal_numbers(recipe: TransferRecipe, class_data: TaskData, make_context: MakeSetting) -> None:
    first, second = (linear(make_context(class_data, recipe))[0] for _ in range(2))
    assert np.array_equal(first.predictions.arrays["scores"], second.predictions.arrays["scores"])


@pytest.mark.parametrize(
    ("protocol", "recipe", "classifier"),
    [
        ("knn", _RECIPE, "nearest neighbours"),
        ("linear", _RECIPE, "linear probe"),
        ("linear", _LBFGS, "logistic regression"),
    ],
)
def test_band_means_are_scored_as_the_protocol_does(
    protocol: str, recipe: TransferRecipe, classifier: str, class_data: TaskData, make_context: MakeSetting
) -> None:
    recipe = recipe.changed(compare=CompareRecipe(baseline=True), input=InputRecipe(scales=(0.5, 1.0)))
    results = {"knn": knn, "linear": linear}[protocol](make_context(class_data, recipe, protocol=protocol))
    assert [one.features for one in results[3:]] == [
        f"band means + {classifier}{scale}" for scale in ("", " @ 50 %", " @ 100 %")
    ]
    assert results[3].width == 8
    assert _accuracy(results[5]) > 0.8


def test_more_neighbours_than_training_samples_are_refused(class_data: TaskData, make_context: MakeSetting) -> None:
    with pytest.raises(InputError, match="k is 31 but there are 30 training samples; ask for a smaller k"):
        knn(make_context(class_data, _RECIPE.changed(knn=KnnRecipe(k=31))))


@pytest.mark.parametrize(("protocol", "recipe"), [(knn, _RECIPE), (linear, _RECIPE), (linear, _LBFGS)])
def test_a_class_that_training_lacks_is_refused(
    protocol: Callable[[Context], list], recipe: TransferRecipe, class_data: TaskData, make_context: MakeSetting
) -> None:
    targets = class_data.targets.copy()
    train = class_data.split("train")
    targets[train] = np.where(targets[train] == 2, 0, targets[train])
    validation = class_data.split("val")
    targets[validation] = 0
    with pytest.raises(InputError, match="1 of 3 classes in the test split has no training sample: 'town'"):
        protocol(make_context(replace(class_data, targets=targets), recipe))


def test_an_empty_part_is_refused(class_data: TaskData, make_context: MakeSetting) -> None:
    data = replace(class_data, splits=tuple("train" if one == "val" else one for one in class_data.splits))
    assert knn(make_context(data))
    with pytest.raises(InputError, match="needs samples in train, val, test; 'tiny class of 1' has 39 train, 0 val, 9"):
        linear(make_context(data))


def test_one_validation_sample_is_enough(class_data: TaskData, make_context: MakeSetting) -> None:
    first = int(class_data.split("val")[0])
    splits = tuple("train" if one == "val" and index != first else one for index, one in enumerate(class_data.splits))
    for recipe in (_RECIPE, _LBFGS):
        assert linear(make_context(replace(class_data, splits=splits), recipe))[0].chosen["validation accuracy"] in (
            0,
            1,
        )


def test_maps_are_refused(class_map_data: TaskData, make_context: MakeSetting) -> None:
    with pytest.raises(InputError, match="kNN is for whole images, and 'tiny class_map of 1' has maps"):
        knn(make_context(class_map_data))


def test_predictions_name_the_samples_in_their_order(number_data: TaskData) -> None:
    predictions = predictions_of(number_data, np.array([5, 2]), np.array([0.1, 0.2]))
    assert predictions.samples == ("image 5", "image 2")
    np.testing.assert_array_equal(predictions.arrays["truth"], number_data.targets[[5, 2]])


def test_mixup_concatenation_draws_anew_in_every_epoch_and_is_seeded(
    tiny_encoder: SensorEncoder, pair_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last epoch is the one that is kept.
    rising = itertools.count(0.0)
    monkeypatch.setattr(probes, "_label_score", lambda probe, validation: next(rising))

    def weights(*, redraw: bool = True) -> torch.Tensor:
        recipe = _RECIPE.changed(fusion="mixup_concat", linear=LinearRecipe(epochs=3, redraw=redraw))
        return linear(context_of(tiny_encoder, pair_data, "linear", recipe))[0].model["linear.weight"]

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(redraw=False))
