"""Segmentation: heads for maps of classes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import context_of
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_jaccard_index

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError, RecipeError
from anyband.evaluate.features import Context, Result
from anyband.evaluate.maps import fit_maps
from anyband.evaluate.recipe import AugmentRecipe, FitRecipe, HeadRecipe, InputRecipe, LoraRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, Sample, TaskData
from anyband.models.checkpoint import load_checkpoint

_FIT = FitRecipe(encoder="frozen", epochs=6, batch_size=4, base_lr=1e-2, lr_samples=None, warmup_epochs=0.0)


def _context(encoder: SensorEncoder, data: TaskData, **parts: object) -> Context:
    recipe = TransferRecipe(
        name="maps", data=DataSpec(source="memory", kind="class_map"), fit=_FIT, head=HeadRecipe(channels=8)
    ).changed(
        **parts,  # type: ignore[arg-type]
    )
    return context_of(encoder, data, "segment", recipe)


def _confusion(result: Result) -> np.ndarray:
    return result.predictions.arrays["confusion"]


def _state(encoder: SensorEncoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def _unchanged(encoder: SensorEncoder, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


@pytest.fixture(scope="module")
def segmented(tiny_checkpoint: Path, class_map_data: TaskData) -> Result:
    """What a head on a frozen encoder gives for the maps."""
    return fit_maps(_context(SensorEncoder(load_checkpoint(tiny_checkpoint)).eval(), class_map_data))[0]


@pytest.fixture
def three_maps(class_map_data: TaskData) -> TaskData:
    """One sample a split."""
    kept = [int(class_map_data.split(part)[0]) for part in ("train", "val", "test")]
    return class_map_data.take(kept, fingerprint="three maps")


@pytest.mark.parametrize(
    ("kind", "resize"), [("linear", "native"), ("dfc2020", "whole"), ("upernet", "whole"), ("upernet", "native")]
)
def test_a_head_learns_more_than_the_commonest_class(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, kind: str, resize: str
) -> None:
    head, images = HeadRecipe(kind=kind, channels=8), InputRecipe(resize=resize)
    (result,) = fit_maps(_context(tiny_encoder, class_map_data, head=head, input=images))
    summed = _confusion(result).sum(axis=0)
    assert np.trace(summed) > summed.sum(axis=1).max() * 1.3


def test_a_tiny_map_is_learned_by_heart(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    one = int(class_map_data.split("train")[0])
    data = replace(
        class_map_data.take([one] * 3, fingerprint="one"), names=("a", "b", "c"), splits=("train", "val", "test")
    )
    fit = _FIT.changed(epochs=40, encoder="trained", base_lr=3e-3)
    (result,) = fit_maps(_context(tiny_encoder, data, fit=fit, input=InputRecipe(img_size=48)))
    assert result.chosen["validation miou"] > 0.9


def test_a_frozen_encoder_keeps_its_weights_and_gets_no_gradient(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    before = _state(tiny_encoder)
    (result,) = fit_maps(_context(tiny_encoder, class_map_data, input=InputRecipe(resize="native")))
    assert _unchanged(tiny_encoder, before)
    assert all(parameter.grad is None for parameter in tiny_encoder.parameters())
    assert all(name.startswith("head.") for name in result.model)


@pytest.mark.parametrize("how", ["trained", "lora"])
def test_a_trained_encoder_is_a_copy_that_has_changed(
    tiny_encoder: SensorEncoder, three_maps: TaskData, how: str
) -> None:
    before = _state(tiny_encoder)
    fit = _FIT.changed(encoder=how, epochs=2, lora=LoraRecipe(rank=2))
    (result,) = fit_maps(_context(tiny_encoder, three_maps, fit=fit))
    assert _unchanged(tiny_encoder, before)
    name = "blocks.0.attn.qkv.weight"
    assert not torch.equal(result.model[name], before[f"encoder.{name}"])


def test_the_confusion_of_each_sample_is_that_of_scikit_learn_on_its_own_map(
    segmented: Result, class_map_data: TaskData
) -> None:
    result = segmented
    test = class_map_data.split("test")
    assert sorted(result.maps) == sorted(test.tolist())
    for row, sample in enumerate(test.tolist()):
        truth = class_map_data.read(sample).class_map
        assert truth is not None
        known = truth >= 0
        expected = confusion_matrix(truth[known], result.maps[sample][known], labels=range(3))
        assert np.array_equal(_confusion(result)[row], expected)


def test_unlabelled_pixels_are_not_counted(segmented: Result) -> None:
    assert (_confusion(segmented).sum(axis=(1, 2)) == 48 * 48 - 12 * 12).all()


def test_validation_is_the_miou_of_torchmetrics_over_all_validation_pixels(
    tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    # Validation samples stand in for test, so that their maps come out.
    swapped = {"train": "train", "val": "test", "test": "val"}
    fit = _FIT.changed(epochs=1)
    (result,) = fit_maps(_context(tiny_encoder, class_map_data, fit=fit))
    data = replace(class_map_data, splits=tuple(swapped[part] for part in class_map_data.splits))  # type: ignore[misc]
    (other,) = fit_maps(_context(tiny_encoder, data, fit=fit))
    truth = np.stack([class_map_data.read(sample).class_map for sample in sorted(other.maps)])  # type: ignore[misc]
    predicted = np.stack([other.maps[sample] for sample in sorted(other.maps)]).astype(np.int64)
    expected = multiclass_jaccard_index(
        torch.from_numpy(predicted), torch.from_numpy(truth), num_classes=3, ignore_index=-1, average="macro"
    )
    assert result.chosen["validation miou"] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("how", ["frozen", "trained"])
def test_a_rerun_gives_identical_numbers(tiny_encoder: SensorEncoder, class_map_data: TaskData, how: str) -> None:
    augment = AugmentRecipe(flips=True, crop_area=(0.5, 1.0)) if how == "trained" else AugmentRecipe()
    fit = _FIT.changed(encoder=how, epochs=2, drop_path=0.2, augment=augment)
    first, second = (fit_maps(_context(tiny_encoder, class_map_data, fit=fit))[0] for _ in range(2))
    assert first.curves == second.curves
    assert np.array_equal(_confusion(first), _confusion(second))
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def test_levels_that_are_held_give_the_head_that_reading_gives(
    segmented: Result, tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = segmented
    monkeypatch.setattr("anyband.evaluate.maps.available_bytes", lambda _: 1000)
    read = fit_maps(_context(tiny_encoder, class_map_data))[0]
    assert np.allclose(held.curves["training loss"], read.curves["training loss"], atol=1e-4)
    assert np.allclose(held.curves["validation"], read.curves["validation"], atol=0.02)


def test_a_frozen_encoder_sees_each_image_once(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = tiny_encoder.encoder.embed_sets
    monkeypatch.setattr(
        tiny_encoder.encoder, "embed_sets", lambda batch: (seen.append(batch.shape[0]), plain(batch))[1]
    )
    fit_maps(_context(tiny_encoder, class_map_data))
    assert sum(seen) == len(class_map_data)


def _windows_seen(
    encoder: SensorEncoder, data: TaskData, monkeypatch: pytest.MonkeyPatch, *, epochs: int
) -> tuple[int, Result]:
    seen: list[int] = []
    plain = encoder.encoder.embed_sets
    with monkeypatch.context() as patch:
        patch.setattr(encoder.encoder, "embed_sets", lambda batch: (seen.append(batch.shape[0]), plain(batch))[1])
        fit, images = _FIT.changed(epochs=epochs), InputRecipe(resize="native")
        (result,) = fit_maps(_context(encoder, data, fit=fit, input=images, head=HeadRecipe(kind="linear")))
    return sum(seen), result


def test_validation_windows_are_encoded_once_by_a_frozen_encoder(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = class_map_data.num_samples
    first, _ = _windows_seen(tiny_encoder, class_map_data, monkeypatch, epochs=1)
    third, _ = _windows_seen(tiny_encoder, class_map_data, monkeypatch, epochs=3)
    # Two epochs more see two windows more of each training sample, and none of validation.
    assert third - first == 2 * counts["train"]


def test_held_windows_give_what_encoding_again_gives(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, held = _windows_seen(tiny_encoder, class_map_data, monkeypatch, epochs=2)
    monkeypatch.setattr("anyband.evaluate.maps.available_bytes", lambda _: 0)
    _, again = _windows_seen(tiny_encoder, class_map_data, monkeypatch, epochs=2)
    assert held.curves == again.curves


def _with_few_labels(data: TaskData, rows: slice) -> TaskData:
    def read(index: int) -> Sample:
        sample = data.read(index)
        assert sample.class_map is not None
        labels = np.full_like(sample.class_map, -1)
        labels[rows] = sample.class_map[rows]
        return replace(sample, class_map=labels)

    return replace(data, read=read)


def test_windows_without_labels_are_left_out_and_change_no_score(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, _ = _windows_seen(tiny_encoder, class_map_data, monkeypatch, epochs=1)
    few = _with_few_labels(class_map_data, slice(0, 6))
    seen, result = _windows_seen(tiny_encoder, few, monkeypatch, epochs=1)
    assert seen < every
    for row, sample in enumerate(few.split("test").tolist()):
        truth = few.read(sample).class_map
        assert truth is not None
        known = truth >= 0
        expected = confusion_matrix(truth[known], result.maps[sample][known], labels=range(3))
        assert np.array_equal(_confusion(result)[row], expected)


def test_a_sample_without_any_label_counts_for_nothing(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    empty = int(class_map_data.split("test")[1])
    read = class_map_data.read

    def without(index: int) -> Sample:
        sample = read(index)
        return replace(sample, class_map=np.full((48, 48), -1)) if index == empty else sample

    images, fit = InputRecipe(resize="native"), _FIT.changed(epochs=1)
    (result,) = fit_maps(_context(tiny_encoder, replace(class_map_data, read=without), input=images, fit=fit))
    assert _confusion(result).sum(axis=(1, 2)).tolist() == [2160, 0, 2160]
    assert empty not in result.maps


def test_augmented_images_are_encoded_in_every_epoch(
    tiny_encoder: SensorEncoder, class_map_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = tiny_encoder.encoder.embed_sets
    monkeypatch.setattr(
        tiny_encoder.encoder, "embed_sets", lambda batch: (seen.append(batch.shape[0]), plain(batch))[1]
    )
    fit = _FIT.changed(epochs=3, augment=AugmentRecipe(flips=True))
    fit_maps(_context(tiny_encoder, class_map_data, fit=fit))
    counts = class_map_data.num_samples
    # Training and validation in each epoch; test, and its pictures.
    assert sum(seen) == 3 * (counts["train"] + counts["val"]) + 2 * counts["test"]


def test_test_labels_change_nothing_that_is_learned(
    segmented: Result, tiny_encoder: SensorEncoder, class_map_data: TaskData
) -> None:
    test = set(class_map_data.split("test").tolist())
    read = class_map_data.read

    def other(index: int):
        sample = read(index)
        assert sample.class_map is not None
        return replace(sample, class_map=np.roll(sample.class_map, 1)) if index in test else sample

    first = segmented
    second = fit_maps(_context(tiny_encoder, replace(class_map_data, read=other)))[0]
    assert first.chosen == second.chosen
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    assert not np.array_equal(_confusion(first), _confusion(second))


def test_pictures_go_from_the_worst_to_the_best(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    data = replace(class_map_data, splits=("train", "train", "val", *["test"] * 13))
    (result,) = fit_maps(_context(tiny_encoder, data))
    confusion = _confusion(result)
    union = confusion.sum(axis=1) + confusion.sum(axis=2) - np.diagonal(confusion, axis1=1, axis2=2)
    shares = np.diagonal(confusion, axis1=1, axis2=2) / np.maximum(union, 1)
    miou = shares.sum(axis=1) / (union > 0).sum(axis=1)
    rows = [sample - 3 for sample in result.maps]
    assert len(rows) == 8
    assert rows[0] == miou.argmin()
    assert miou[rows[-1]] == miou.max()
    assert (np.diff(miou[rows]) >= 0).all()


def test_results_come_in_the_order_of_the_encoders(tiny_encoder: SensorEncoder, three_maps: TaskData) -> None:
    context = _context(tiny_encoder, three_maps, fit=_FIT.changed(epochs=1))
    twins = {"encoder": tiny_encoder, "untrained encoder": tiny_encoder.untrained(seed=1)}
    results = fit_maps(replace(context, encoders=twins))
    assert [result.features for result in results] == list(twins)
    assert [result.width for result in results] == [32, 32]


def test_mixing_images_is_refused(tiny_encoder: SensorEncoder, three_maps: TaskData) -> None:
    fit = _FIT.changed(augment=AugmentRecipe(mixup=0.8))
    with pytest.raises(RecipeError, match=r"mix the classes of whole images, and these data have maps; set both to 0"):
        fit_maps(_context(tiny_encoder, three_maps, fit=fit))


def test_a_split_without_samples_is_refused(tiny_encoder: SensorEncoder, three_maps: TaskData) -> None:
    data = replace(three_maps, splits=("train", "train", "test"))
    with pytest.raises(InputError, match=r"'tiny class_map of 1' has no sample in 'val'; look at data.split"):
        fit_maps(_context(tiny_encoder, data))


def test_an_input_of_one_patch_is_refused_by_upernet(tiny_encoder: SensorEncoder, three_maps: TaskData) -> None:
    with pytest.raises(InputError, match=r"halves the map of patches, and this one has 1 × 1"):
        fit_maps(_context(tiny_encoder, three_maps, input=InputRecipe(img_size=8)))
