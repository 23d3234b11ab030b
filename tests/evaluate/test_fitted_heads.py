"""Heads that were fitted before: released files and our own are scored as they are, and what doesn't fit is refused.

The released files are built from plain tensors, by the names that the public downstream code of SMARTIES gives them.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contexts import context_of, counting_reads
from oracles.smarties_reference import Image, Reference
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from anyband.encode.encoder import SensorEncoder, load_encoder
from anyband.errors import CheckpointError, InputError, RecipeError
from anyband.evaluate.features import Context, Result
from anyband.evaluate.fitting import checkpoint_of
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.metrics import confusion_of
from anyband.evaluate.recipe import (
    CompareRecipe,
    FitRecipe,
    HeadRecipe,
    LinearRecipe,
    Protocol,
    TransferRecipe,
    transfer_recipe,
)
from anyband.evaluate.report import write_outputs
from anyband.evaluate.results import result_rows
from anyband.evaluate.run import check_recipe, run_protocol
from anyband.labelled.samples import DataSpec, TaskData
from anyband.models.checkpoint import checkpoint_hash
from anyband.randomness import uniform

_WIDTH, _CLASSES = 32, 3
# Released files have no header and published sizes; small ones must say theirs.
_SIZES = {"img_size": "32", "patch_size": "8", "embed_dim": "32", "depth": "4", "num_heads": "2"}
_RECIPE = TransferRecipe(
    name="tiny",
    data=DataSpec(source="memory"),
    eval_only=True,
    linear=LinearRecipe(solver="lbfgs"),
    fit=FitRecipe(epochs=1, warmup_epochs=0.0, batch_size=16),
)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def _probe(width: int = _WIDTH, classes: int = _CLASSES) -> dict[str, Tensor]:
    """Batch normalisation without scale and shift, then a linear layer: an `nn.Sequential` named `head`."""
    return {
        "head.0.running_mean": _normal(width, seed=1),
        "head.0.running_var": _normal(width, seed=2).abs() + 0.1,
        "head.0.num_batches_tracked": torch.tensor(2200),
        "head.1.weight": _normal(classes, width, seed=3),
        "head.1.bias": _normal(classes, seed=4),
    }


def _layer(width: int = _WIDTH, classes: int = _CLASSES) -> dict[str, Tensor]:
    return {"head.weight": _normal(classes, width, seed=3), "head.bias": _normal(classes, seed=4)}


def _convolution(width: int = _WIDTH, classes: int = _CLASSES) -> dict[str, Tensor]:
    return {"head.0.weight": _normal(classes, width, 1, 1, seed=3), "head.0.bias": _normal(classes, seed=4)}


Score = Callable[..., Result]


@pytest.fixture
def score(tiny_encoder: SensorEncoder, tmp_path: Path) -> Score:
    """Scores a head, given by its tensors beside the encoder's in one file as it is released, on data."""

    def run(weights: dict[str, Tensor], protocol: Protocol, data: TaskData, **changes: Any) -> Result:
        path = tmp_path / "released.safetensors"
        save_file({**checkpoint_of(tiny_encoder).state, **weights}, path, _SIZES)
        recipe = _RECIPE.changed(checkpoint=str(path), **changes)
        check_recipe(recipe, protocol, data)
        (result,) = run_protocol(context_of(load_encoder(path), data, protocol, recipe))
        return result

    return run


def _plain_images(encoder: SensorEncoder, data: TaskData) -> tuple[list[Image], list[int]]:
    """Normalise the test images, one `Image` a slot, with the weights of each band's range."""
    batches = list(TaskReader(encoder, data, _RECIPE).batches(data.split("test")))
    samples = [int(sample) for batch in batches for sample in batch.samples]
    slots = range(len(batches[0].images))
    pixels = [torch.cat([batch.images[slot].pixels for batch in batches]) for slot in slots]
    return [
        Image(pixels=one, valid=None, mixing=batches[0].images[slot].mixing) for slot, one in enumerate(pixels)
    ], samples


def _reference(encoder: SensorEncoder) -> Reference:
    return Reference(checkpoint_of(encoder).state, num_heads=2, decoder_num_heads=2, patch_size=8)


def _plain_scores(features: Tensor, head: dict[str, Tensor]) -> Tensor:
    if "head.weight" in head:
        return features @ head["head.weight"].T + head["head.bias"]
    standardised = (features - head["head.0.running_mean"]) / torch.sqrt(head["head.0.running_var"] + 1e-6)
    return standardised @ head["head.1.weight"].T + head["head.1.bias"]


def _assert_close(found: np.ndarray, expected: Tensor) -> None:
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize(("protocol", "head"), [("linear", _probe()), ("finetune", _layer())])
@pytest.mark.parametrize("kind", ["class", "labels"])
def test_a_released_head_scores_as_plain_torch_does(
    score: Score,
    tiny_encoder: SensorEncoder,
    class_data: TaskData,
    labels_data: TaskData,
    protocol: Protocol,
    head: dict[str, Tensor],
    kind: str,
) -> None:
    data = class_data if kind == "class" else labels_data
    found = score(head, protocol, data).predictions
    (image,), samples = _plain_images(tiny_encoder, data)
    with torch.no_grad():
        expected = _plain_scores(_reference(tiny_encoder).image_features(image)[:, 0], head)
    assert found.samples == tuple(data.names[sample] for sample in samples)
    np.testing.assert_allclose(
        found.arrays["scores"], expected.numpy(), rtol=0, atol=1e-6 * float(expected.abs().max())
    )


def test_the_two_source_head_scores_mixed_tokens_of_both(
    score: Score, tiny_encoder: SensorEncoder, pair_data: TaskData
) -> None:
    head = _probe(2 * _WIDTH)
    found = score(head, "linear", pair_data, fusion="mixup_concat").predictions.arrays["scores"]
    (radar, optical), samples = _plain_images(tiny_encoder, pair_data)
    plain = _reference(tiny_encoder)
    noise = torch.from_numpy(uniform(0, step=0, samples=samples, purpose="mixup concatenation", shape=(16,)))
    # The half of the tokens with the smallest draws is the radar's in the first image, the optical's in the second.
    from_radar = (noise.argsort(dim=1, stable=True).argsort(dim=1) < 8)[..., None]
    with torch.no_grad():
        a, b = (plain.tokens(one) + plain.pos_embed[:, 1:] for one in (radar, optical))
        mixed = torch.where(from_radar, a, b), torch.where(from_radar, b, a)
        none = torch.zeros(len(samples), 16, dtype=torch.bool)
        features = torch.cat([plain.encoded(one, none)[:, 0] for one in mixed], dim=1)
    expected = _plain_scores(features, head)
    _assert_close(found, expected)


def test_the_convolution_of_dfc2020_scores_patches_before_the_final_norm(
    score: Score, tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    head = _convolution()
    data = class_map_data
    result = score(head, "segment", data, head=HeadRecipe(kind="dfc2020"))
    (image,), samples = _plain_images(tiny_encoder, data)
    plain = _reference(tiny_encoder)
    plain.norm = lambda x, name: x if name == "norm" else Reference.norm(plain, x, name)  # type: ignore[method-assign]
    with torch.no_grad():
        tokens = plain.image_features(image)[:, 1:]
    maps = tokens.transpose(1, 2).reshape(len(samples), _WIDTH, 4, 4)
    logits = functional.conv2d(maps, head["head.0.weight"], head["head.0.bias"])
    # As released: one bilinear step from the patches to the labels.
    guessed = functional.interpolate(logits, size=(48, 48), mode="bilinear", align_corners=False).argmax(dim=1)
    truths = [data.read(sample).class_map for sample in samples]
    expected = [
        confusion_of(np.asarray(truth), one.numpy(), num_classes=_CLASSES)
        for truth, one in zip(truths, guessed, strict=True)
    ]
    assert np.array_equal(result.predictions.arrays["confusion"], np.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_heads_in_half_precision_are_taken(score: Score, class_data: TaskData, dtype: torch.dtype) -> None:
    halves = {name: one.to(dtype) if one.is_floating_point() else one for name, one in _probe().items()}
    rounded = {name: one.float() if one.is_floating_point() else one for name, one in halves.items()}
    found, expected = (score(one, "linear", class_data).predictions.arrays["scores"] for one in (halves, rounded))
    assert np.array_equal(found, expected)


def test_only_test_samples_are_read(score: Score, class_data: TaskData) -> None:
    data, seen = counting_reads(class_data)
    score(_probe(), "linear", data)
    assert sorted(seen) == data.split("test").tolist()


def test_maps_of_other_splits_are_not_read(score: Score, class_map_data: TaskData) -> None:
    data, seen = counting_reads(class_map_data)
    score(_convolution(), "segment", data, head=HeadRecipe(kind="dfc2020"))
    assert set(seen) == set(data.split("test").tolist())


def test_training_and_validation_may_lack(score: Score, class_data: TaskData) -> None:
    test = class_data.take(class_data.split("test"), fingerprint="test")
    whole, alone = (score(_layer(), "finetune", data).predictions for data in (class_data, test))
    assert np.array_equal(whole.arrays["scores"], alone.arrays["scores"])


def test_nothing_is_chosen_and_that_is_said(score: Score, class_data: TaskData) -> None:
    found = score(_layer(), "finetune", class_data)
    assert (found.chosen, found.curves, found.model, found.checkpoint) == ({}, {}, {}, None)
    assert found.notes == (
        "nothing was fitted here: head in 'released.safetensors'",
        "the head in 'released.safetensors' names no classes; its outputs are taken in the order of the data's, "
        "'water' to 'town'",
    )


def test_a_head_that_is_not_asked_for_is_said(
    tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    path = tmp_path / "released.safetensors"
    save_file({**checkpoint_of(tiny_encoder).state, **_probe()}, path, _SIZES)
    notes = [
        TaskReader(load_encoder(path), class_data, _RECIPE.changed(eval_only=only)).notes for only in (False, True)
    ]
    assert [any("head in the checkpoint's file is not used" in one for one in some) for some in notes] == [True, False]


# What is refused.


@pytest.mark.parametrize(
    ("protocol", "head", "reason"),
    [
        ("finetune", _probe(), "is batch normalisation and a linear layer, and 'finetune' here scores a linear layer"),
        ("linear", _layer(), "is a linear layer alone, and 'linear' here scores batch normalisation and a linear"),
        ("linear", _convolution(), "is a 1×1 convolution, and 'linear'"),
        ("linear", _probe(classes=10), r"has 10 outputs, and 'tiny class of 1' needs 3 \(water, field, town\); take"),
        ("finetune", _layer(classes=1), "has 1 output, and"),
        ("linear", _probe(2 * _WIDTH), "takes 64 numbers, and features are 32 wide .* wants fusion=mixup_concat"),
        ("finetune", _layer(48), "takes 48 numbers, and features are 32 wide"),
        ("linear", {}, "holds no fitted head; one is known by head.0.running_mean, .* leave out --eval-only"),
        ("linear", {"head.layers.weight": _normal(3, 32)}, r"a head of an unknown layout \(head.layers.weight\)"),
        ("linear", {**_probe(), "head.0.weight": _normal(32)}, "1 unexpected"),
        ("finetune", {"head.weight": _normal(3, 32)}, "unknown layout"),
        ("finetune", {"head.weight": _normal(3), "head.bias": _normal(3)}, "unknown layout"),
        ("linear", {**_probe(), "head.0.running_mean": _normal(31)}, "1 of another shape"),
        ("linear", {**_probe(), "head.1.bias": torch.full((3,), torch.nan)}, "no finite numbers"),
        ("linear", {**_probe(), "head.0.running_var": -_probe()["head.0.running_var"]}, "a variance below 0"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(
    score: Score, class_data: TaskData, protocol: Protocol, head: dict[str, Tensor], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        score(head, protocol, class_data)


def test_a_released_convolution_sees_patches_before_the_norm_only(score: Score, class_map_data: TaskData) -> None:
    with pytest.raises(CheckpointError, match=r"fitted with head.kind 'dfc2020', and 'linear' was requested"):
        score(_convolution(), "segment", class_map_data, head=HeadRecipe(kind="linear"))
    with pytest.raises(CheckpointError, match=r"is a 1×1 convolution, and 'segment' here scores UPerNet; .* head.kin"):
        score(_convolution(), "segment", class_map_data, head=HeadRecipe(kind="upernet"))


def test_data_without_test_samples_are_refused(score: Score, class_data: TaskData) -> None:
    train = class_data.take(class_data.split("train"), fingerprint="train")
    with pytest.raises(InputError, match="a fitted head needs samples in test"):
        score(_layer(), "finetune", train)


@pytest.mark.parametrize("protocol", ["knn", "leave-one-band-out"])
def test_some_protocols_have_no_head(protocol: Protocol) -> None:
    with pytest.raises(RecipeError, match=f"eval_only scores one fitted head, by linear, finetune, .*'{protocol}'"):
        check_recipe(_RECIPE, protocol)


def test_nothing_is_fitted_to_compare_with() -> None:
    with pytest.raises(RecipeError, match=r"fits nothing to compare it with; .* compare.untrained=true"):
        check_recipe(_RECIPE.changed(compare=CompareRecipe(untrained=True)), "linear")


def test_a_file_of_a_head_is_for_scoring_only() -> None:
    with pytest.raises(RecipeError, match=r"head.file names a fitted head, which is scored with eval_only=true"):
        transfer_recipe({"name": "tiny", "data": {"source": "memory"}}, ["head.file=head.safetensors"])


# Our own heads: what an evaluation wrote gives its predictions again.

_LOW = FitRecipe(epochs=1, warmup_epochs=0.0, batch_size=8)
_FROZEN = _LOW.changed(encoder="frozen")
_OURS: dict[str, tuple[Protocol, str, dict[str, Any]]] = {
    "linear": ("linear", "class_data", {}),
    "linear adamw": ("linear", "labels_data", {"linear": LinearRecipe(epochs=2)}),
    "ridge": ("linear", "number_data", {}),
    "linear of two": ("linear", "pair_data", {"fusion": "mixup_concat"}),
    "finetune": ("finetune", "class_data", {}),
    "finetune frozen": ("finetune", "class_data", {"fit": _FROZEN}),
    "regress": ("regress", "number_data", {}),
    "segment frozen": (
        "segment",
        "class_map_data",
        {"fit": _FROZEN, "head": {"kind": "linear"}},
    ),
    "segment trained": ("segment", "class_map_data", {"fit": _LOW, "head": {"kind": "dfc2020"}}),
    "upernet": ("segment", "class_map_data", {"fit": _FROZEN, "head": {"channels": 8}}),
    "weighed dates": ("segment", "change_data", {"fit": _FROZEN, "fusion": "ltae", "head": {"channels": 8}}),
    "pangaea": ("segment", "class_map_data", {"fit": _FROZEN, "head": {"kind": "pangaea", "channels": 8}}),
    "regress maps": ("regress", "number_map_data", {"fit": _LOW, "head": {"kind": "linear"}}),
    "change": ("change", "change_data", {"fit": _FROZEN, "head": {"kind": "linear"}}),
}


def _fitted(
    encoder: SensorEncoder, file: Path, folder: Path, data: TaskData, protocol: Protocol, changes: dict[str, Any]
) -> tuple[Result, TransferRecipe, Path]:
    """Fit a head and write it; give the result, the recipe that scores it, and the encoder's file."""
    head = HeadRecipe(**changes.get("head", {}))
    recipe = _RECIPE.changed(**{**changes, "head": head, "eval_only": False, "checkpoint": str(file)})
    context = context_of(encoder, data, protocol, recipe, checkpoint_hash=checkpoint_hash(file))
    (result,) = run_protocol(context)
    write_outputs(context, [result], folder=folder)
    tuned = folder / "encoder_checkpoint.safetensors"
    path = tuned if tuned.exists() else file
    written = str(folder / "encoder.safetensors")
    return result, recipe.changed(eval_only=True, checkpoint=str(path), head=head.changed(file=written)), path


def _scored(recipe: TransferRecipe, path: Path, data: TaskData, protocol: Protocol) -> tuple[Context, Result]:
    context = context_of(load_encoder(path), data, protocol, recipe, checkpoint_hash=checkpoint_hash(path))
    (result,) = run_protocol(context)
    return context, result


@pytest.mark.parametrize("name", _OURS)
def test_what_an_evaluation_wrote_gives_its_predictions_again(
    tiny_encoder: SensorEncoder, tiny_checkpoint: Path, tmp_path: Path, request: pytest.FixtureRequest, name: str
) -> None:
    protocol, fixture, changes = _OURS[name]
    data: TaskData = request.getfixturevalue(fixture)
    result, recipe, path = _fitted(tiny_encoder, tiny_checkpoint, tmp_path / "out", data, protocol, changes)
    found = _scored(recipe, path, data, protocol)[1].predictions
    assert found.samples == result.predictions.samples
    for key, expected in result.predictions.arrays.items():
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(found.arrays[key], expected, rtol=0, atol=1e-5 * scale)


@pytest.fixture
def fitted(
    tiny_encoder: SensorEncoder, tiny_checkpoint: Path, tmp_path: Path, class_data: TaskData
) -> tuple[Result, TransferRecipe, Path]:
    """A linear probe that was fitted and written."""
    return _fitted(tiny_encoder, tiny_checkpoint, tmp_path / "out", class_data, "linear", {})


def test_outputs_are_matched_with_classes_by_name(
    fitted: tuple[Result, TransferRecipe, Path], class_data: TaskData
) -> None:
    result, recipe, path = fitted
    assert class_data.targets is not None
    turned = replace(class_data, classes=class_data.classes[::-1], targets=2 - class_data.targets)
    found = _scored(recipe, path, turned, "linear")[1]
    np.testing.assert_allclose(
        found.predictions.arrays["scores"][:, ::-1], result.predictions.arrays["scores"], rtol=0, atol=1e-5
    )
    assert found.notes == ("nothing was fitted here: head in 'encoder.safetensors'",)


def test_other_classes_are_refused(fitted: tuple[Result, TransferRecipe, Path], class_data: TaskData) -> None:
    other = replace(class_data, classes=("water", "field", "wood"))
    with pytest.raises(CheckpointError, match=r"3 outputs \(water, field, town\), and .* needs 3 \(water, field, w"):
        _scored(fitted[1], fitted[2], other, "linear")


def test_another_encoder_than_the_heads_is_refused(
    fitted: tuple[Result, TransferRecipe, Path], tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    context = context_of(tiny_encoder, class_data, "linear", fitted[1], checkpoint_hash="e" * 64)
    with pytest.raises(CheckpointError, match=r"was fitted on another encoder .* name that one by --checkpoint"):
        run_protocol(context)


@pytest.mark.parametrize("change", [{"fusion": "joint"}, {"input": {"pool": "mean"}}])
def test_other_features_than_the_heads_are_refused(
    fitted: tuple[Result, TransferRecipe, Path], class_data: TaskData, change: dict[str, Any]
) -> None:
    with pytest.raises(CheckpointError, match=r"was fitted with (fusion|input\.pool) '.*', and '.*' was requested"):
        _scored(fitted[1].changed(**change), fitted[2], class_data, "linear")


def test_the_row_says_that_nothing_was_fitted_and_is_known_by_the_head(
    fitted: tuple[Result, TransferRecipe, Path], class_data: TaskData, tmp_path: Path
) -> None:
    _, recipe, path = fitted
    context, result = _scored(recipe, path, class_data, "linear")
    (row,) = result_rows(context, [result])
    assert row.settings["eval_only"] is True
    assert "linear" not in row.settings
    assert row.settings["head"] == {"file": checkpoint_hash(Path(str(recipe.head.file)))}
    assert "nothing was fitted here: head in 'encoder.safetensors'" in row.notes
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(str(recipe.head.file)).read_bytes())
    again = replace(context, recipe=recipe.changed(head=recipe.head.changed(file=str(moved))))
    assert result_rows(again, [result])[0].id == row.id
    fitting = replace(context, recipe=recipe.changed(eval_only=False, head=HeadRecipe()))
    assert result_rows(fitting, [result])[0].id != row.id


def test_results_of_fitted_maps_are_known_as_before(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    recipe = _RECIPE.changed(eval_only=False, fit=_FROZEN, head=HeadRecipe(kind="linear"))
    context = context_of(tiny_encoder, class_map_data, "segment", recipe)
    (row,) = result_rows(context, run_protocol(context))
    assert set(row.settings["head"]) == {"kind", "channels", "blocks"}
    assert "eval_only" not in row.settings


def test_the_report_says_that_nothing_was_fitted(
    fitted: tuple[Result, TransferRecipe, Path], class_data: TaskData, tmp_path: Path
) -> None:
    context, result = _scored(fitted[1], fitted[2], class_data, "linear")
    write_outputs(context, [result], folder=tmp_path / "scored")
    page = (tmp_path / "scored" / "report.html").read_text(encoding="utf-8")
    assert "with a head that was not fitted here" in page
    assert "samples for training" not in page
    assert sorted(one.name for one in (tmp_path / "scored").iterdir()) == ["recipe.yaml", "report.html", "result.json"]


def test_a_damaged_header_is_refused(score: Score, class_data: TaskData, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    for header in ({"classes": "{"}, {"classes": "{}"}, {"settings": "[1]"}):
        save_file(_probe(), path, header)
        with pytest.raises(CheckpointError, match="in its header is no JSON"):
            score({}, "linear", class_data, head=HeadRecipe(file=str(path)))
    save_file(_probe(), path, {"classes": json.dumps(["water", "field", "town"])})
    assert len(score({}, "linear", class_data, head=HeadRecipe(file=str(path))).notes) == 1
