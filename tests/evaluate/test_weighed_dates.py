"""Dates that a head for maps learns to weigh (L-TAE)."""

from dataclasses import replace

import numpy as np
import pytest
from contexts import context_of

from anyband.encode.encoder import SensorEncoder
from anyband.errors import RecipeError
from anyband.evaluate.features import Context, FusedEncoder, Result
from anyband.evaluate.maps import fit_maps
from anyband.evaluate.recipe import FitRecipe, Fusion, HeadRecipe, InputRecipe, Protocol, TransferRecipe
from anyband.labelled.samples import DataSpec, Sample, TaskData

_NUM_DATES = 3
_FIT = FitRecipe(encoder="frozen", epochs=25, batch_size=4, base_lr=5e-3, lr_samples=None, warmup_epochs=0.0)


def _context(encoder: SensorEncoder, data: TaskData, fusion: Fusion, protocol: Protocol = "segment") -> Context:
    recipe = TransferRecipe(
        name="dates",
        data=DataSpec(source="memory", kind="class_map"),
        fit=_FIT,
        head=HeadRecipe(channels=8),
        fusion=fusion,
        input=InputRecipe(resize="whole", img_size=48),
    )
    return context_of(encoder, data, protocol, recipe)


@pytest.fixture
def dated(class_map_data: TaskData) -> TaskData:
    """Three dates of a place: all but one are under a cloud, and which one it is changes from sample to sample."""

    def read(index: int) -> Sample:
        sample = class_map_data.read(index)
        (clear,) = sample.images
        cloud = np.random.default_rng(index).integers(7000, 8000, clear.dn.shape).astype(np.uint16)
        images = [replace(clear, dn=clear.dn if date == index % _NUM_DATES else cloud) for date in range(_NUM_DATES)]
        return replace(sample, images=tuple(images))

    sensors = tuple(slots * _NUM_DATES for slots in class_map_data.sensors)
    return replace(class_map_data, sensors=sensors, read=read, fingerprint="dated")


def _share_right(result: Result) -> float:
    confusion = result.predictions.arrays["confusion"].sum(axis=0)
    return float(np.trace(confusion) / confusion.sum())


def test_the_date_that_shows_the_ground_is_found_wherever_it_stands(
    tiny_encoder: SensorEncoder, dated: TaskData
) -> None:
    (result,) = fit_maps(_context(tiny_encoder, dated, "ltae"))
    # Three classes, equally frequent.
    assert _share_right(result) > 0.6


def test_a_vector_a_sample_is_no_task_for_it(tiny_encoder: SensorEncoder, dated: TaskData) -> None:
    context = _context(tiny_encoder, dated, "ltae")
    fused = FusedEncoder(tiny_encoder, fusion="ltae", pool="cls", seed=0, metadata=True)
    with pytest.raises(RecipeError, match=r"ltae is learned by a head for maps, .*; set fusion=concat or fusion=joint"):
        fused(next(iter(context.reader.batches([0]))))


def test_change_is_no_task_for_it(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    with pytest.raises(RecipeError, match="ltae makes one map of all dates, and change is between two; set fusion=co"):
        fit_maps(_context(tiny_encoder, change_data, "ltae", "change"))
