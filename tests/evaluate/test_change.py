"""Change between two dates."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from contexts import context_of

from anyband.encode.encoder import SensorEncoder
from anyband.evaluate.features import Context, SiameseEncoder
from anyband.evaluate.maps import fit_maps
from anyband.evaluate.recipe import FitRecipe, HeadRecipe, InputRecipe, TransferRecipe
from anyband.evaluate.samples import TaskBatch
from anyband.labelled.samples import DataSpec, Sample, TaskData
from anyband.sensors.catalogue import get_sensor

_BLOCKS = (0, 1, 2, 3)
_FIT = FitRecipe(encoder="frozen", epochs=6, batch_size=4, base_lr=1e-2, lr_samples=None, warmup_epochs=0.0)


def _context(encoder: SensorEncoder, data: TaskData, **parts: object) -> Context:
    recipe = TransferRecipe(
        name="change", data=DataSpec(source="memory", kind="class_map"), fit=_FIT, head=HeadRecipe(channels=8)
    ).changed(
        **parts,  # type: ignore[arg-type]
    )
    return context_of(encoder, data, "change", recipe)


def _swapped(data: TaskData) -> TaskData:
    def read(index: int) -> Sample:
        sample = data.read(index)
        return replace(sample, images=sample.images[::-1])

    return replace(data, read=read, sensors=tuple(slots[::-1] for slots in data.sensors), fingerprint="swapped")


def _batch(context: Context) -> TaskBatch:
    return next(context.reader.batches([0, 1]))


def test_absolute_levels_do_not_tell_the_order_of_dates(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    context, other = _context(tiny_encoder, change_data), _context(tiny_encoder, _swapped(change_data))
    siamese = SiameseEncoder(context.fused(context.encoders["encoder"]), difference="absolute")
    pairs = zip(siamese.levels(_batch(context), _BLOCKS), siamese.levels(_batch(other), _BLOCKS), strict=True)
    assert all(torch.equal(forward, backward) for forward, backward in pairs)


def test_signed_levels_turn_with_the_order_of_dates(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    context, other = _context(tiny_encoder, change_data), _context(tiny_encoder, _swapped(change_data))
    siamese = SiameseEncoder(context.fused(context.encoders["encoder"]), difference="signed")
    for forward, backward in zip(
        siamese.levels(_batch(context), _BLOCKS), siamese.levels(_batch(other), _BLOCKS), strict=True
    ):
        assert torch.equal(forward[:, 32:], -backward[:, 32:])
        assert torch.allclose(forward[:, :32] + forward[:, 32:], backward[:, :32], atol=1e-5)


@pytest.mark.parametrize("blocks", [_BLOCKS, (3,), "final"])
def test_levels_are_differences_of_each_date_by_itself(
    tiny_encoder: SensorEncoder, change_data: TaskData, blocks: tuple[int, ...] | str
) -> None:
    context = _context(tiny_encoder, change_data)
    fused, batch = context.fused(context.encoders["encoder"]), _batch(context)
    dates = [
        fused.levels(replace(batch, images=(image,), sensors=(name,)), blocks)  # type: ignore[arg-type]
        for image, name in zip(batch.images, batch.sensors, strict=True)
    ]
    levels = SiameseEncoder(fused, difference="absolute").levels(batch, blocks)  # type: ignore[arg-type]
    assert all(torch.equal(level, (one - two).abs()) for level, two, one in zip(levels, *dates, strict=True))


@pytest.mark.parametrize(("kind", "how"), [("linear", "trained"), ("upernet", "frozen")])
def test_change_is_found(tiny_encoder: SensorEncoder, change_data: TaskData, kind: str, how: str) -> None:
    context = _context(
        tiny_encoder, change_data, head=HeadRecipe(kind=kind, channels=8), fit=_FIT.changed(encoder=how, epochs=12)
    )
    (result,) = fit_maps(context)
    summed = result.predictions.arrays["confusion"].sum(axis=0)
    assert np.trace(summed) / summed.sum() > 0.65
    assert result.width == 32


def test_the_order_of_dates_does_not_change_what_is_found(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    first, second = (fit_maps(_context(tiny_encoder, data))[0] for data in (change_data, _swapped(change_data)))
    assert first.curves == second.curves
    assert np.array_equal(first.predictions.arrays["confusion"], second.predictions.arrays["confusion"])


def test_kinds_of_change_see_both_dates(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    data = replace(change_data, classes=("same", "brighter", "darker"))
    (result,) = fit_maps(_context(tiny_encoder, data, fit=_FIT.changed(epochs=1)))
    assert result.width == 64
    assert result.predictions.arrays["confusion"].shape[1:] == (3, 3)


def test_windows_of_both_dates_go_together(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    context = _context(tiny_encoder, change_data, input=InputRecipe(resize="native"), fit=_FIT.changed(epochs=3))
    (result,) = fit_maps(context)
    assert result.predictions.arrays["confusion"].sum() == 3 * 48 * 48
    assert all(found.shape == (48, 48) for found in result.maps.values())


def test_dates_of_different_sensors_are_compared(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    three = get_sensor("sentinel2-l2a").select(("B02", "B03", "B08"))

    def read(index: int) -> Sample:
        sample = change_data.read(index)
        after = replace(
            sample.images[1],
            dn=sample.images[1].dn[[0, 1, 3]],
            valid=sample.images[1].valid[[0, 1, 3]],
            sensor=three,
        )
        return replace(sample, images=(sample.images[0], after))

    data = replace(change_data, read=read, sensors=tuple((slots[0], three) for slots in change_data.sensors))
    (result,) = fit_maps(_context(tiny_encoder, data, fit=_FIT.changed(epochs=2)))
    assert result.predictions.arrays["confusion"].sum() == 3 * 48 * 48


def test_two_images_a_date_are_fused(tiny_encoder: SensorEncoder, change_data: TaskData) -> None:
    def read(index: int) -> Sample:
        sample = change_data.read(index)
        return replace(sample, images=tuple(image for image in sample.images for _ in range(2)))

    data = replace(change_data, read=read, sensors=tuple(slots * 2 for slots in change_data.sensors))
    (result,) = fit_maps(_context(tiny_encoder, data, fusion="concat", fit=_FIT.changed(epochs=1)))
    assert result.width == 64


def test_differences_are_kept_in_the_cache_apart_from_each_other(
    tiny_encoder: SensorEncoder, change_data: TaskData, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    two = replace(_context(tiny_encoder, change_data, fit=_FIT.changed(epochs=1)), cache=cache)
    kinds = replace(change_data, classes=("same", "brighter", "darker"))
    three = replace(_context(tiny_encoder, kinds, fit=_FIT.changed(epochs=1)), cache=cache)
    widths = [fit_maps(context)[0].width for context in (two, three, two)]
    assert widths == [32, 64, 32]
