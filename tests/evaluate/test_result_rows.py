"""Rows of results: what a result is known by, and what it holds."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from contexts import context_of
from predicted import class_predictions

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import Context, Result
from anyband.evaluate.recipe import FitRecipe, InputRecipe, KnnRecipe, TransferRecipe
from anyband.evaluate.results import ResultRow, flat_settings, json_values, result_rows
from anyband.labelled.samples import DataSpec, ListSpec, SplitSpec, TaskData

_RECIPE = TransferRecipe(
    name="fields", data=DataSpec(source="/somewhere/fields"), checkpoint="folder/tiny.safetensors", seed=3
)


@pytest.fixture
def context(tiny_encoder: SensorEncoder, class_data: TaskData) -> Context:
    return context_of(tiny_encoder, class_data, "knn", _RECIPE, checkpoint_hash="c0ffee")


def _row(context: Context, features: str = "encoder") -> ResultRow:
    test = context.data.split("test")
    labels = np.asarray(context.data.targets)[test]
    names = [context.data.names[index] for index in test]
    predictions = class_predictions(labels, np.eye(3)[labels], classes=context.data.classes, samples=names)
    result = Result(
        features=features,
        width=32,
        predictions=predictions,
        chosen={"epoch": np.int64(3), "validation": np.float32(0.5)},
        curves={"validation": (0.25, 0.5)},
        notes=("all is well",),
    )
    return result_rows(context, [result])[0]


def _with(context: Context, recipe: TransferRecipe) -> Context:
    return replace(context, recipe=recipe)


def test_a_row_holds_all_that_is_needed_to_repeat_it(context: Context) -> None:
    row = _row(context)
    assert (row.recipe, row.protocol, row.features, row.seed) == ("fields", "knn", "encoder", 3)
    assert (row.checkpoint, row.checkpoint_hash) == ("tiny.safetensors", "c0ffee")
    assert (row.data, row.data_fingerprint) == (context.data.name, context.data.fingerprint)
    assert row.num_samples == {"train": 30, "val": 9, "test": 9}
    assert row.settings["knn"] == {"k": 20, "temperature": 0.07}
    assert row.settings["reader"] == json_values(context.reader.settings())
    assert row.scores[0].value == 1
    assert row.chosen == {"epoch": 3, "validation": 0.5}
    assert row.notes[-1] == "all is well"


def test_an_equal_evaluation_has_the_same_id(context: Context) -> None:
    assert _row(context).id == _row(context).id


@pytest.mark.parametrize(
    "changed",
    [
        lambda context: replace(context, checkpoint_hash="beef"),
        lambda context: replace(context, protocol="linear"),
        lambda context: replace(context, data=replace(context.data, fingerprint="other")),
        lambda context: _with(context, _RECIPE.changed(seed=4)),
        lambda context: _with(context, _RECIPE.changed(knn=KnnRecipe(k=5))),
        lambda context: _with(context, _RECIPE.changed(input=InputRecipe(pool="mean"))),
        lambda context: _with(context, _RECIPE.changed(fusion="stack")),
        lambda context: _with(
            context, _RECIPE.changed(data=replace(_RECIPE.data, split=SplitSpec(fraction=0.1)))
        ),
    ],
    ids=["checkpoint", "protocol", "data", "seed", "k", "pool", "fusion", "fraction"],
)  # fmt: skip
def test_another_evaluation_has_another_id(context: Context, changed: Callable[[Context], Context]) -> None:
    assert _row(changed(context)).id != _row(context).id


def test_other_features_have_another_id(context: Context) -> None:
    assert _row(context, "band means").id != _row(context).id


@pytest.mark.parametrize(
    "recipe",
    [
        _RECIPE.changed(name="another name"),
        _RECIPE.changed(checkpoint="elsewhere/copy.safetensors"),
        _RECIPE.changed(data=replace(_RECIPE.data, source="/elsewhere/fields", root="/here")),
        _RECIPE.changed(data=replace(_RECIPE.data, split=SplitSpec(lists=ListSpec(train="a.txt", test="b.txt")))),
        _RECIPE.changed(fit=FitRecipe(epochs=7, warmup_epochs=1.0)),
        _RECIPE.changed(input=InputRecipe(batch_size=7)),
    ],
    ids=["name", "path of the checkpoint", "path of the data", "paths of lists", "what kNN ignores", "batch size"],
)
def test_what_changes_no_result_changes_no_id(context: Context, recipe: TransferRecipe) -> None:
    assert _row(_with(context, recipe)).id == _row(context).id


def test_settings_are_plain_json(context: Context) -> None:
    settings = _row(context).settings
    assert json.loads(json.dumps(settings)) == settings


def test_settings_lie_flat_under_their_whole_names() -> None:
    assert flat_settings({"fit": {"lora": {"rank": 8}, "empty": {}}, "seed": 1}) == {
        "fit.lora.rank": 8,
        "fit.empty": {},
        "seed": 1,
    }


def test_numbers_of_libraries_and_those_that_are_not_finite_become_plain() -> None:
    values = {"a": np.float32(0.5), "b": float("nan"), "c": (np.int64(2), None), "d": np.arange(2), 3: True}
    assert json_values(values) == {"a": 0.5, "b": None, "c": [2, None], "d": [0, 1], "3": True}
