"""Features of samples by frozen encoders, and how seldom images are read for them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contexts import counting_reads

from anyband.encode import encoder as memory
from anyband.encode.encoder import EncodeOptions, SensorEncoder
from anyband.errors import InputError
from anyband.evaluate.features import FusedEncoder, extract_features
from anyband.evaluate.inputs import TaskReader
from anyband.evaluate.recipe import InputRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, Sample, TaskData

_RECIPE = TransferRecipe(name="test", data=DataSpec(source="none"), input=InputRecipe(batch_size=5))


def _fused(encoder: SensorEncoder, fusion: str = "single") -> FusedEncoder:
    return FusedEncoder(encoder, fusion=fusion, pool="cls", seed=0, metadata=True)  # type: ignore[arg-type]


def test_features_are_those_of_encode(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_data, _RECIPE)
    found = extract_features({"encoder": _fused(tiny_encoder)}, reader, [4, 1, 9], cache=None)["encoder"][0]
    dn = np.stack([class_data.read(index).images[0].dn for index in (4, 1, 9)])
    sensor = class_data.sensors[0][0]
    expected = tiny_encoder.encode(dn, sensor=sensor, options=EncodeOptions()).cls
    assert np.allclose(found, expected.numpy(), atol=1e-6)


def test_a_sample_that_is_asked_for_twice_comes_twice(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_data, _RECIPE)
    found = extract_features({"encoder": _fused(tiny_encoder)}, reader, [4, 1, 4], cache=None)["encoder"][0]
    assert (found[0] == found[2]).all()
    assert (found[0] != found[1]).any()


def test_images_are_read_once_for_all_encoders(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    data, reads = counting_reads(class_data)
    encoders = {"encoder": _fused(tiny_encoder), "untrained encoder": _fused(tiny_encoder.untrained(seed=1))}
    found = extract_features(encoders, TaskReader(tiny_encoder, data, _RECIPE), range(8), cache=None)
    assert sorted(reads) == list(range(8))
    assert not np.allclose(found["encoder"][0], found["untrained encoder"][0])


@pytest.mark.parametrize("statistics", [None, "data", "catalogue"])
def test_a_second_probe_reads_no_image(
    statistics: str | None, tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    data, reads = counting_reads(class_data)
    recipe = _RECIPE.changed(input=_RECIPE.input.changed(statistics=statistics))
    cache = tmp_path
    first = extract_features(
        {"encoder": _fused(tiny_encoder)}, TaskReader(tiny_encoder, data, recipe), range(8), cache=cache
    )
    reads.clear()
    reader = TaskReader(tiny_encoder, data, recipe)
    again = extract_features({"another name": _fused(tiny_encoder)}, reader, range(7, -1, -1), cache=cache)
    assert reader.notes
    assert reads == []
    assert torch.equal(first["encoder"][0], again["another name"][0].flip(0))


def test_only_samples_that_are_missing_are_read(
    tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    data, reads = counting_reads(class_data)
    reader, cache = TaskReader(tiny_encoder, data, _RECIPE), tmp_path
    encoders = {"encoder": _fused(tiny_encoder)}
    extract_features(encoders, reader, range(6), cache=cache)
    reads.clear()
    found = extract_features(encoders, reader, range(3, 9), cache=cache)["encoder"][0]
    assert sorted(reads) == [6, 7, 8]
    assert np.allclose(found, extract_features(encoders, reader, range(3, 9), cache=None)["encoder"][0], atol=1e-6)


def _other_size(reader: TaskReader) -> TaskReader:
    return TaskReader(reader._encoder, reader.data, _RECIPE.changed(input=_RECIPE.input.changed(img_size=16)))


def _other_data(reader: TaskReader) -> TaskReader:
    return TaskReader(reader._encoder, replace(reader.data, fingerprint="another"), _RECIPE)


def _other_statistics(reader: TaskReader) -> TaskReader:
    recipe = _RECIPE.changed(input=_RECIPE.input.changed(statistics="data"))
    return TaskReader(reader._encoder, reader.data, recipe)


def _other_precision(reader: TaskReader) -> TaskReader:
    return TaskReader(reader._encoder, reader.data, _RECIPE.changed(input=_RECIPE.input.changed(precision="bf16")))


@pytest.mark.parametrize("other", [_other_size, _other_data, _other_statistics, _other_precision])
def test_whatever_changes_features_is_not_taken_from_the_cache(
    other: Callable[[TaskReader], TaskReader], tiny_encoder: SensorEncoder, class_data: TaskData, tmp_path: Path
) -> None:
    data, reads = counting_reads(class_data)
    reader, cache = TaskReader(tiny_encoder, data, _RECIPE), tmp_path
    extract_features({"encoder": _fused(tiny_encoder)}, reader, range(4), cache=cache)
    reads.clear()
    extract_features({"encoder": _fused(tiny_encoder)}, other(reader), range(4), cache=cache)
    assert set(reads) >= {0, 1, 2, 3}


def test_other_weights_scales_and_fusions_are_not_taken_from_the_cache(
    tiny_encoder: SensorEncoder, pair_data: TaskData, tmp_path: Path
) -> None:
    data, reads = counting_reads(pair_data)
    reader, cache = TaskReader(tiny_encoder, data, _RECIPE), tmp_path
    extract_features({"encoder": _fused(tiny_encoder, "concat")}, reader, range(4), cache=cache)
    for fused, scale in (
        (_fused(tiny_encoder.untrained(seed=5), "concat"), 1.0),
        (_fused(tiny_encoder, "concat"), 0.5),
        (_fused(tiny_encoder, "mixup_concat"), 1.0),
        (FusedEncoder(tiny_encoder, fusion="mixup_concat", pool="cls", seed=1, metadata=True), 1.0),
    ):
        reads.clear()
        extract_features({"encoder": fused}, reader, range(4), cache=cache, scale=scale)
        assert sorted(reads) == [0, 1, 2, 3]


def test_levels_stand_in_the_order_of_the_samples(tiny_encoder: SensorEncoder, class_map_data: TaskData) -> None:
    fused, reader = _fused(tiny_encoder), TaskReader(tiny_encoder, class_map_data, _RECIPE)
    found = extract_features({"e": fused}, reader, [7, 2, 9], blocks=(1, 3), cache=None)["e"]
    batch = next(iter(reader.batches([2])))
    with torch.no_grad():
        expected = fused.levels(batch, (1, 3))
    assert len(found) == 2
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one[1], other[0], atol=1e-6)


@pytest.mark.parametrize("blocks", [(1, 3), "final"])
def test_levels_come_from_the_cache_exactly(
    blocks: tuple[int, ...], tiny_encoder: SensorEncoder, class_map_data: TaskData, tmp_path: Path
) -> None:
    data, reads = counting_reads(class_map_data)
    reader, cache = TaskReader(tiny_encoder, data, _RECIPE), tmp_path
    first = extract_features({"e": _fused(tiny_encoder)}, reader, range(9), blocks=blocks, cache=cache)["e"]
    reads.clear()
    again = extract_features({"e": _fused(tiny_encoder)}, reader, range(9), blocks=blocks, cache=cache)["e"]
    assert reads == []
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_features_that_are_not_finite_name_their_sample(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    with torch.no_grad():
        tiny_encoder.encoder.norm.bias.fill_(torch.nan)
    reader = TaskReader(tiny_encoder, class_data, _RECIPE)
    with pytest.raises(InputError, match="features of 'image 3' are no finite numbers"):
        extract_features({"encoder": _fused(tiny_encoder)}, reader, [3, 4], cache=None)


def test_no_samples_are_refused(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    with pytest.raises(InputError, match="no samples of 'tiny class of 1' were requested"):
        extract_features({"e": _fused(tiny_encoder)}, TaskReader(tiny_encoder, class_data, _RECIPE), [], cache=None)


def test_features_need_no_gradients_and_leave_the_mode_as_it_was(
    tiny_encoder: SensorEncoder, class_data: TaskData
) -> None:
    fused = _fused(tiny_encoder).train()
    extract_features({"encoder": fused}, TaskReader(tiny_encoder, class_data, _RECIPE), [0], cache=None)
    assert fused.training
    assert all(parameter.grad is None for parameter in fused.parameters())


def test_samples_of_one_and_of_two_images_have_joint_features_and_no_others(
    tiny_encoder: SensorEncoder, pair_data: TaskData
) -> None:
    def read(position: int) -> Sample:
        sample = pair_data.read(position)
        return replace(sample, images=sample.images[: 1 + position % 2])

    sensors = tuple(pair_data.sensors[index][: 1 + index % 2] for index in range(len(pair_data)))
    data = replace(pair_data, read=read, sensors=sensors)
    reader = TaskReader(tiny_encoder, data, _RECIPE)
    found = extract_features({"e": _fused(tiny_encoder, "joint")}, reader, range(6), cache=None)["e"][0]
    alone = extract_features({"e": _fused(tiny_encoder, "joint")}, reader, [3], cache=None)["e"][0]
    assert np.allclose(found[3], alone[0], atol=1e-6)
    with pytest.raises(InputError, match=r"'image 1' has features of another size .* use fusion=joint"):
        extract_features({"e": _fused(tiny_encoder, "concat")}, reader, range(6), cache=None)


def test_joint_sets_that_memory_does_not_hold_are_refused(
    tiny_encoder: SensorEncoder, pair_data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda _: 1000)
    reader = TaskReader(tiny_encoder, pair_data, _RECIPE)
    with pytest.raises(InputError, match="5 sets of 2 images with 16 tokens each"):
        extract_features({"e": _fused(tiny_encoder, "joint")}, reader, range(6), cache=None)


def test_half_precision_gives_nearly_the_same_features(tiny_encoder: SensorEncoder, class_data: TaskData) -> None:
    reader = TaskReader(tiny_encoder, class_data, _RECIPE)
    exact = extract_features({"e": _fused(tiny_encoder)}, reader, range(4), cache=None)["e"][0]
    rounded = extract_features({"e": _fused(tiny_encoder)}, _other_precision(reader), range(4), cache=None)["e"][0]
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).abs().max() < 0.1
