"""The way in: which protocol is for which data, in which order results come, and what is refused before any work."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from contexts import context_of

from anyband.encode.encoder import SensorEncoder
from anyband.errors import AnybandError, InputError, OutputError, RecipeError
from anyband.evaluate.features import Context
from anyband.evaluate.recipe import (
    PROTOCOLS,
    CompareRecipe,
    FitRecipe,
    HeadRecipe,
    InputRecipe,
    KnnRecipe,
    LinearRecipe,
    Protocol,
    TransferRecipe,
)
from anyband.evaluate.run import check_recipe, evaluate, run_protocol
from anyband.labelled.samples import DataSpec, TaskData, TaskKind

_RECIPE = TransferRecipe(
    name="tiny",
    data=DataSpec(source="memory"),
    knn=KnnRecipe(k=5),
    linear=LinearRecipe(solver="lbfgs"),
    head=HeadRecipe(kind="linear"),
    fit=FitRecipe(epochs=1, warmup_epochs=0.0, batch_size=16),
)

MakeSetting = Callable[..., Context]


@pytest.fixture
def make_setting_of(tiny_encoder: SensorEncoder) -> MakeSetting:
    """Makes a context of the tiny encoder for a protocol and data; other values of the recipe by name."""

    def made(protocol: Protocol, data: TaskData, **changes: Any) -> Context:
        recipe = _RECIPE.changed(**changes)
        return context_of(tiny_encoder, data, protocol, recipe, untrained=recipe.compare.untrained)

    return made


# What each protocol predicts.
_ALLOWED: dict[Protocol, set[str]] = {
    "knn": {"class", "labels"},
    "linear": {"class", "labels", "number"},
    "finetune": {"class", "labels", "number"},
    "segment": {"class_map"},
    "change": {"class_map"},
    "regress": {"number", "number_map"},
    "leave-one-band-out": {"class", "labels", "number", "class_map"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", get_args(TaskKind))
def test_a_protocol_is_for_its_kinds_of_data_only(kind: TaskKind, protocol: Protocol) -> None:
    measures: Any = "segment" if kind == "class_map" else "linear"
    recipe = _RECIPE.changed(measures=measures, data=DataSpec(source="memory", kind=kind))
    if kind in _ALLOWED[protocol]:
        check_recipe(recipe, protocol)
        return
    with pytest.raises(RecipeError, match=rf"'{protocol}' \(.*\) is for data of kind .* of kind '{kind}'; take "):
        check_recipe(recipe, protocol)


def test_what_is_offered_instead_is_for_that_kind() -> None:
    for kind in get_args(TaskKind):
        refused = next(protocol for protocol in PROTOCOLS if kind not in _ALLOWED[protocol])
        with pytest.raises(RecipeError) as caught:
            check_recipe(_RECIPE.changed(data=DataSpec(source="memory", kind=kind)), refused)
        offered = str(caught.value).partition("take ")[2].partition(", or say")[0]
        assert all(kind in _ALLOWED[name] for name in offered.replace(" or ", ", ").split(", "))  # type: ignore[index]


def _refused(data: TaskData, protocol: Protocol, **changes: Any) -> str:
    with pytest.raises(AnybandError) as caught:
        check_recipe(_RECIPE.changed(**changes), protocol, data)
    return str(caught.value)


def test_several_images_need_a_fusion(pair_data: TaskData) -> None:
    message = _refused(pair_data, "knn")
    assert (
        "samples of 'tiny class of 2' have 2 images; say with fusion (stack, concat, mixup_concat, joint or ltae)"
        in message
    )


@pytest.mark.parametrize("fusion", ["stack", "concat", "mixup_concat", "joint"])
def test_every_fusion_takes_two_images(pair_data: TaskData, fusion: Any) -> None:
    check_recipe(_RECIPE.changed(fusion=fusion), "knn", pair_data)
    assert len(pair_data.sensors[0]) == 2


def test_tokens_are_exchanged_between_two_images_only(class_data: TaskData) -> None:
    message = _refused(class_data, "knn", fusion="mixup_concat")
    assert "exchanges tokens of two images, and samples of 'tiny class of 1' have 1" in message


@pytest.mark.parametrize("fusion", ["stack", "concat"])
def test_images_side_by_side_need_the_same_sensors_in_every_sample(pair_data: TaskData, fusion: str) -> None:
    turned = (*pair_data.sensors[:-1], pair_data.sensors[-1][::-1])
    message = _refused(replace(pair_data, sensors=turned), "knn", fusion=fusion)
    assert f"fusion '{fusion}' puts images side by side, so every sample needs the same sensors in the same" in message


def test_change_needs_as_many_images_after_as_before(class_map_data: TaskData, change_data: TaskData) -> None:
    message = _refused(class_map_data, "change")
    assert "change is between images before and as many after, and samples of 'tiny class_map of 1' have 1" in message
    check_recipe(_RECIPE, "change", change_data)


@pytest.mark.parametrize("protocol", ["finetune", "segment", "regress"])
def test_scales_are_for_probes(
    protocol: Protocol, class_data: TaskData, class_map_data: TaskData, number_map_data: TaskData
) -> None:
    data = {"finetune": class_data, "segment": class_map_data, "regress": number_map_data}[protocol]
    message = _refused(data, protocol, input=InputRecipe(scales=(0.5, 1.0)))
    assert f"input.scales are for knn and linear, and '{protocol}' takes images as they are; found 0.5, 1" in message


def test_what_is_measured_must_fit_the_data(class_map_data: TaskData, number_data: TaskData) -> None:
    assert "set measures=segment" in _refused(class_map_data, "leave-one-band-out")
    assert "set measures=linear" in _refused(number_data, "leave-one-band-out")
    check_recipe(_RECIPE.changed(measures="segment"), "leave-one-band-out", class_map_data)


def test_outcomes_begin_with_the_encoder_and_end_with_the_baseline(
    make_setting_of: MakeSetting, class_data: TaskData
) -> None:
    compare = CompareRecipe(untrained=True, baseline=True)
    names = [one.features for one in run_protocol(make_setting_of("linear", class_data, compare=compare))]
    assert names == ["encoder", "untrained encoder", "band means + logistic regression"]


def test_outcomes_of_several_scales_stand_together(make_setting_of: MakeSetting, class_data: TaskData) -> None:
    rules, compare = InputRecipe(scales=(0.5, 1.0)), CompareRecipe(baseline=True)
    names = [one.features for one in run_protocol(make_setting_of("knn", class_data, input=rules, compare=compare))]
    first, other = "encoder", "band means + nearest neighbours"
    assert names == [f"{name}{end}" for name in (first, other) for end in ("", " @ 50 %", " @ 100 %")]


@pytest.mark.parametrize("protocol", ["finetune", "segment", "change", "regress"])
def test_fitted_protocols_have_their_baselines(
    protocol: Protocol, make_setting_of: MakeSetting, request: pytest.FixtureRequest
) -> None:
    data = {"finetune": "class_data", "segment": "class_map_data", "change": "change_data", "regress": "number_data"}
    expected = {
        "finetune": ["band means + logistic regression"],
        "segment": ["random forest on pixels"],
        "change": ["random forest on pixels", "change vector analysis"],
        "regress": ["band means + ridge regression"],
    }
    context = make_setting_of(protocol, request.getfixturevalue(data[protocol]), compare=CompareRecipe(baseline=True))
    results = run_protocol(context)
    assert [one.features for one in results] == ["encoder", *expected[protocol]]
    assert {one.predictions.samples for one in results} == {results[0].predictions.samples}


def test_numbers_of_pixels_and_of_images_are_both_regressed(
    make_setting_of: MakeSetting, number_data: TaskData, number_map_data: TaskData
) -> None:
    kinds = [
        run_protocol(make_setting_of("regress", data))[0].predictions.kind for data in (number_data, number_map_data)
    ]
    assert kinds == ["number", "number_map"]


def test_leaving_bands_out_is_compared_with_nothing_else(make_setting_of: MakeSetting, class_data: TaskData) -> None:
    context = make_setting_of("leave-one-band-out", class_data, compare=CompareRecipe(untrained=True, baseline=True))
    names = [one.features for one in run_protocol(context)]
    assert names[0] == "encoder"
    assert not [name for name in names if "untrained" in name or "means" in name]


# Before any work


def test_there_must_be_a_checkpoint() -> None:
    with pytest.raises(RecipeError, match="needs a checkpoint: name it in the recipe or with --checkpoint"):
        evaluate(_RECIPE, "knn")


def test_a_recipe_is_for_its_protocol(tiny_checkpoint: Path) -> None:
    recipe = _RECIPE.changed(protocol="linear", checkpoint=str(tiny_checkpoint))
    with pytest.raises(RecipeError, match="recipe 'tiny' is for 'linear', and 'knn' was asked for"):
        evaluate(recipe, "knn")


def test_features_must_have_a_place(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="features are kept there: name a folder by --cache, or use --no-cache"):
        evaluate(_RECIPE.changed(checkpoint=str(tiny_checkpoint)), "knn", cache=tmp_path / "file" / "kept")


def test_there_must_be_the_device(tiny_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="there is no device 'toaster' here"):
        evaluate(_RECIPE.changed(checkpoint=str(tiny_checkpoint)), "knn", device="toaster")


def test_the_untrained_encoder_is_the_architecture_with_other_weights(
    make_setting_of: MakeSetting, class_data: TaskData
) -> None:
    context = make_setting_of("knn", class_data, compare=CompareRecipe(untrained=True))
    first, other = (dict(one.named_parameters()) for one in context.encoders.values())
    assert {name: value.shape for name, value in first.items()} == {name: value.shape for name, value in other.items()}
    assert not np.array_equal(
        first["encoder.projection.weight"].detach().numpy(), other["encoder.projection.weight"].detach().numpy()
    )
