"""What an evaluation leaves behind: whole, complete, and usable by what reads it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from contexts import context_of
from safetensors import safe_open

from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.errors import InputError, OutputError
from anyband.evaluate.features import Context, FusedEncoder, Result, extract_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import FitRecipe, KnnRecipe, LinearRecipe, Protocol, TransferRecipe, load_transfer_recipe
from anyband.evaluate.report import check_outputs, write_outputs
from anyband.evaluate.results import read_results
from anyband.evaluate.run import run_protocol
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.checkpoint import load_checkpoint

_RECIPE = TransferRecipe(
    name="tiny",
    data=DataSpec(source="memory"),
    checkpoint="somewhere/tiny.safetensors",
    knn=KnnRecipe(k=5),
    linear=LinearRecipe(solver="lbfgs"),
    fit=FitRecipe(epochs=2, warmup_epochs=0.0, batch_size=16),
)

Made = tuple[Context, list[Result]]


@pytest.fixture
def made(tiny_encoder: SensorEncoder, class_data: TaskData) -> Callable[[Protocol], Made]:
    """Does a protocol on images of three classes."""

    def run(protocol: Protocol) -> Made:
        context = context_of(tiny_encoder, class_data, protocol, _RECIPE, checkpoint_hash="c" * 64)
        return context, run_protocol(context)

    return run


def _vectors(encoder: SensorEncoder, data: TaskData) -> np.ndarray:
    fused = FusedEncoder(encoder, fusion="single", pool="cls", seed=0, metadata=True)
    found = extract_features({"e": fused}, TaskReader(encoder, data, _RECIPE), [0, 1, 2], cache=None)
    return found["e"][0].numpy()


def test_a_folder_of_a_probe_holds_report_result_recipe_and_its_layer(
    made: Callable[[Protocol], Made], tmp_path: Path
) -> None:
    _, notes = write_outputs(*made("linear"), folder=tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "result.json", "recipe.yaml", "encoder.safetensors"}
    assert notes == ()


def test_nothing_is_fitted_by_neighbours(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    write_outputs(*made("knn"), folder=tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_fitted_weights_say_what_they_belong_to(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    context, results = made("linear")
    write_outputs(context, results, folder=tmp_path / "out")
    with safe_open(tmp_path / "out" / "encoder.safetensors", framework="pt") as file:
        header = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert json.loads(header["classes"]) == ["water", "field", "town"]
    assert (header["anyband_task"], header["checkpoint_hash"]) == ("linear", "c" * 64)
    assert json.loads(header["settings"])["linear"]["solver"] == "lbfgs"
    assert all(torch.equal(value, results[0].model[name]) for name, value in weights.items())
    assert set(weights) == set(results[0].model)


def test_a_trained_encoder_is_used_like_any_other(
    made: Callable[[Protocol], Made], class_data: TaskData, tiny_encoder: SensorEncoder, tmp_path: Path
) -> None:
    context, results = made("finetune")
    write_outputs(context, results, folder=tmp_path / "out")
    tuned = load_encoder(tmp_path / "out" / "encoder_checkpoint.safetensors")
    checkpoint = results[0].checkpoint
    assert checkpoint is not None
    expected = _vectors(SensorEncoder(checkpoint).eval(), class_data)
    assert np.array_equal(_vectors(tuned, class_data), expected)
    assert not np.allclose(expected, _vectors(tiny_encoder, class_data), atol=1e-4)


def test_weights_of_the_encoder_are_written_once(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    context, results = made("finetune")
    write_outputs(context, results, folder=tmp_path / "out")
    both = []
    for name in ("encoder", "encoder_checkpoint"):
        with safe_open(tmp_path / "out" / f"{name}.safetensors", framework="pt") as file:
            both.append(set(file.keys()))
    assert both[0]
    assert not both[0] & both[1]


def test_the_recipe_reloads_to_the_one_that_was_run(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    write_outputs(*made("knn"), folder=tmp_path / "out")
    path = tmp_path / "out" / "recipe.yaml"
    assert load_transfer_recipe(path) == _RECIPE.changed(protocol="knn")
    assert set(yaml.safe_load(path.read_text())) == set(TransferRecipe.model_fields)


def test_the_result_holds_scores_with_definitions(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    rows, _ = write_outputs(*made("knn"), folder=tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["id"] for row in result["results"]] == [row.id for row in rows]
    assert all(score["definition"] for row in result["results"] for score in row["scores"])


def test_names_of_features_become_names_of_files(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    context, results = made("linear")
    named = [replace(results[0], features="band means + logistic regression @ 12.5 %")]
    write_outputs(context, named, folder=tmp_path / "out")
    names = [path.name for path in (tmp_path / "out").glob("*.safetensors")]
    assert names == ["band_means_logistic_regression_12.5.safetensors"]


def _others(results: list[Result]) -> list[Result]:
    """Give the same results with other scores."""
    predictions = results[0].predictions
    arrays = {**predictions.arrays, "scores": predictions.arrays["scores"][::-1].copy()}
    return [replace(results[0], predictions=replace(predictions, arrays=arrays))]


def test_rows_have_the_ids_that_stand_in_the_table(made: Callable[[Protocol], Made], tmp_path: Path) -> None:
    context, results = made("knn")
    table = tmp_path / "results.parquet"
    first = write_outputs(context, results, table_path=table)
    other = write_outputs(context, _others(results), table_path=table)
    assert other[0][0].id == f"{first[0][0].id}-2"
    assert [row.id for row in read_results(tmp_path / "results.parquet")] == [first[0][0].id, other[0][0].id]
    assert "warning: encoder has other scores than an earlier run" in other[1][0]


def test_a_folder_that_exists_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out' exists already; remove it or name another folder"):
        check_outputs(tmp_path / "out", None)


def test_a_table_that_is_none_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "results.parquet").write_text("something else")
    with pytest.raises(InputError, match="can't be read as a table of results"):
        check_outputs(None, tmp_path / "results.parquet")


def test_looking_before_the_work_leaves_nothing(tmp_path: Path) -> None:
    check_outputs(tmp_path / "a" / "out", tmp_path / "b" / "results.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_fails_leaves_no_folder(
    made: Callable[[Protocol], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise InputError("no picture")

    monkeypatch.setattr("anyband.evaluate.report.write_report", failing)
    context, results = made("knn")
    with pytest.raises(InputError, match="no picture"):
        write_outputs(context, results, folder=tmp_path / "out", table_path=tmp_path / "r.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fusion", ["stack", "concat", "mixup_concat"])
def test_a_report_draws_how_images_are_fused(
    fusion: str, tiny_encoder: SensorEncoder, pair_data: TaskData, tmp_path: Path
) -> None:
    context = context_of(tiny_encoder, pair_data, "knn", _RECIPE.changed(fusion=fusion))
    write_outputs(context, run_protocol(context), folder=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ">Fusion</h2>" in page
    assert f"{fusion}: " in page


def test_the_inference_mode_is_named_as_far_as_the_checkpoint_tells(
    tiny_checkpoint: Path, class_data: TaskData, tmp_path: Path
) -> None:
    """Modes of SMARTIES, section 3.4; files of its weights have no header, those of our runs name their sensors."""

    def mode(data: TaskData, **known: Any) -> str:
        encoder = SensorEncoder(replace(load_checkpoint(tiny_checkpoint), **known)).eval()
        context = context_of(encoder, data, "knn", _RECIPE)
        write_outputs(context, run_protocol(context), folder=tmp_path / f"{len(list(tmp_path.iterdir()))}")
        page = max(tmp_path.iterdir(), key=lambda path: int(path.name)) / "report.html"
        said = context.reader.inference_mode
        assert f"Inference mode: {said.removeprefix('inference mode: ')}" in page.read_text(encoding="utf-8")
        return said.removeprefix("inference mode: ")

    published = {"sensors": {}, "recipe": None}
    assert mode(class_data, **published) == "open-domain, seen sensor"
    assert mode(replace(class_data, name="bigearthnet-mm"), **published) == "in-domain, seen sensor"
    own = {"sensors": {class_data.sensors[0][0].name: {}}, "recipe": {"name": "mine"}}
    assert mode(class_data, **own).startswith("seen sensor; whether this data set was in pre-training")
    other = {"sensors": {"maxar-rgb": {}}, "recipe": {"name": "mine"}}
    assert mode(class_data, **other) == "open-domain, unseen sensor (sentinel2-l2a was not in pre-training)"
