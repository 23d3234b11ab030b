"""Labelled samples as network input."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anyband.data.supervised.records import DataSpec, TaskData
from anyband.tasks.features import SensorEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.recipe import AugmentRecipe, FitRecipe, InputRecipe, TransferRecipe

_RECIPE = TransferRecipe(
    name="test",
    data=DataSpec(source="none"),
    input=InputRecipe(batch_size=7),
    fit=FitRecipe(batch_size=8, augment=AugmentRecipe(flips=True, quarter_turns=True)),
)


def _with(**values: object) -> TransferRecipe:
    return replace(_RECIPE, input=replace(_RECIPE.input, **values))


ALL = ["class_data", "labels_data", "number_data", "pair_data", "class_map_data", "number_map_data", "change_data"]


@pytest.mark.parametrize("resize", ["whole", "native"])
@pytest.mark.parametrize("name", ALL)
def test_every_sample_comes_once(
    name: str, resize: str, tiny_encoder: SensorEncoder, request: pytest.FixtureRequest
) -> None:
    data: TaskData = request.getfixturevalue(name)
    reader = TaskReader(tiny_encoder, data, _with(resize=resize))
    batches = list(reader.batches(data.part("train"), targets=True))
    assert np.concatenate([batch.samples for batch in batches]).tolist() == data.part("train").tolist()
    for batch in batches:
        assert batch.targets is not None
        assert len(batch.targets) == len(batch) == len(batch.images[0].pixels)


@pytest.mark.parametrize("resize", ["whole", "native"])
@pytest.mark.parametrize("name", ALL)
def test_equal_epochs_give_equal_training_batches(
    name: str, resize: str, tiny_encoder: SensorEncoder, request: pytest.FixtureRequest
) -> None:
    data: TaskData = request.getfixturevalue(name)
    reader = TaskReader(tiny_encoder, data, _with(resize=resize))
    first, again = list(reader.training_batches(3)), list(reader.training_batches(3))
    assert len(first) == reader.steps_per_epoch
    for one, other in zip(first, again, strict=True):
        assert (one.samples == other.samples).all()
        assert torch.equal(one.images[-1].pixels, other.images[-1].pixels)
        assert torch.equal(one.targets.nan_to_num(), other.targets.nan_to_num())
    assert sorted(np.concatenate([one.samples for one in first])) == data.part("train").tolist()
