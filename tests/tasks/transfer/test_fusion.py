"""Strategies of fusion, each against its definition written out."""


import numpy as np
import pytest

from anyband.data.supervised.records import DataSpec, TaskData
from anyband.tasks.features import SensorEncoder
from anyband.tasks.transfer.fusion import FusedEncoder
from anyband.tasks.transfer.inputs import TaskReader
from anyband.tasks.transfer.recipe import TransferRecipe
from anyband.tasks.transfer.records import TaskBatch

_RECIPE = TransferRecipe(name="test", data=DataSpec(source="none"))


def _batch(encoder: SensorEncoder, data: TaskData, count: int = 3) -> TaskBatch:
    return next(iter(TaskReader(encoder, data, _RECIPE).batches(np.arange(count))))


def _fused(encoder: SensorEncoder, fusion: str, pool: str = "cls") -> FusedEncoder:
    return FusedEncoder(encoder, fusion=fusion, pool=pool, seed=4, metadata=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("fusion", ["stack", "concat", "mixup_concat", "joint"])
def test_vectors_and_maps_have_the_widths_that_are_told(
    fusion: str, pool: str, tiny_encoder: SensorEncoder, pair_data: TaskData
) -> None:
    fused, batch = _fused(tiny_encoder, fusion, pool), _batch(tiny_encoder, pair_data)
    assert fused(batch).shape == (3, fused.width(2))
    for levels in (fused.levels(batch, (0, 3)), fused.levels(batch, "final")):
        assert all(level.shape == (3, fused.map_width(2), 4, 4) for level in levels)
