"""Regression of maps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from contexts import context_of
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from anyband.encode.encoder import SensorEncoder
from anyband.errors import InputError, RecipeError
from anyband.evaluate.features import Context
from anyband.evaluate.maps import MapNetwork, NumberMaps, fit_maps, number_maps_of, predict_whole
from anyband.evaluate.recipe import FitRecipe, HeadRecipe, TransferRecipe
from anyband.labelled.samples import DataSpec, Sample, TaskData
from anyband.models.heads import make_head

_FIT = FitRecipe(encoder="frozen", epochs=6, batch_size=4, base_lr=1e-2, lr_samples=None, warmup_epochs=0.0)


def _context(encoder: SensorEncoder, data: TaskData, **parts: object) -> Context:
    recipe = TransferRecipe(
        name="numbers",
        data=DataSpec(source="memory", kind="number_map"),
        fit=_FIT,
        head=HeadRecipe(kind="linear", channels=8),
    ).changed(
        **parts,  # type: ignore[arg-type]
    )
    return context_of(encoder, data, "regress", recipe)


def _in_other_unit(data: TaskData, *, factor: float, offset: float) -> TaskData:
    def read(index: int) -> Sample:
        sample = data.read(index)
        assert sample.number_map is not None
        return replace(sample, number_map=sample.number_map * np.float32(factor) + np.float32(offset))

    return replace(data, read=read)


def test_more_is_explained_than_by_the_mean(tiny_encoder: SensorEncoder, number_map_data: TaskData) -> None:
    (result,) = fit_maps(_context(tiny_encoder, number_map_data))
    pixels, truth, truth_squared, error_squared, _ = result.predictions.arrays["sums"].sum(axis=0)
    assert error_squared < 0.7 * (truth_squared - truth**2 / pixels)


def test_the_sums_of_each_sample_are_those_of_its_own_map(
    tiny_encoder: SensorEncoder, number_map_data: TaskData
) -> None:
    (result,) = fit_maps(_context(tiny_encoder, number_map_data, fit=_FIT.changed(epochs=2)))
    for row, sample in enumerate(number_map_data.split("test").tolist()):
        truth = number_map_data.read(sample).number_map
        assert truth is not None
        known = np.isfinite(truth)
        wanted, error = truth[known].astype(float), (result.maps[sample][known] - truth[known]).astype(float)
        expected = [known.sum(), wanted.sum(), (wanted**2).sum(), (error**2).sum(), np.abs(error).sum()]
        assert np.allclose(result.predictions.arrays["sums"][row], expected, rtol=1e-5)


def test_validation_is_minus_the_rmse_in_the_unit_of_the_data(
    tiny_encoder: SensorEncoder, number_map_data: TaskData
) -> None:
    fit = _FIT.changed(epochs=2)
    plain = fit_maps(_context(tiny_encoder, number_map_data, fit=fit))[0]
    scaled = _in_other_unit(number_map_data, factor=100.0, offset=7.0)
    other = fit_maps(_context(tiny_encoder, scaled, fit=fit))[0]
    assert other.chosen["validation minus rmse"] == pytest.approx(100 * plain.chosen["validation minus rmse"], rel=1e-3)
    assert np.allclose(other.curves["training loss"], plain.curves["training loss"], rtol=1e-3)


def test_kept_weights_give_numbers_in_their_own_unit(tiny_encoder: SensorEncoder, number_map_data: TaskData) -> None:
    data = _in_other_unit(number_map_data, factor=100.0, offset=7.0)
    context = _context(tiny_encoder, data, fit=_FIT.changed(epochs=2))
    (result,) = fit_maps(context)
    head = make_head(context.recipe.head.kind, width=32, num_outputs=1, seed=5)
    head.load_state_dict({name.removeprefix("head."): value for name, value in result.model.items()})
    network = MapNetwork(
        head.eval(), context.fused(context.encoders["encoder"]), blocks="final", img_size=32, frozen="float32"
    )
    samples = sorted(result.maps)
    found = dict(
        predict_whole(network, context.reader.batches(samples), read=lambda out: out[0], size_of=lambda _: (48, 48))
    )
    assert all(np.allclose(found[sample], result.maps[sample], rtol=1e-4) for sample in samples)


def test_a_rerun_gives_identical_numbers(tiny_encoder: SensorEncoder, number_map_data: TaskData) -> None:
    head, fit = HeadRecipe(channels=8), _FIT.changed(epochs=2, encoder="trained")
    first, second = (fit_maps(_context(tiny_encoder, number_map_data, head=head, fit=fit))[0] for _ in range(2))
    assert first.curves == second.curves
    assert np.array_equal(first.predictions.arrays["sums"], second.predictions.arrays["sums"])


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9), min_size=1, max_size=6))
def test_mean_and_spread_are_those_of_all_pixels_together(rows: list[list[float]]) -> None:
    maps = [np.array([row], dtype=np.float64) for row in rows]
    found, every = number_maps_of(maps), np.concatenate([one.ravel() for one in maps])
    assert found.mean == pytest.approx(every.mean(), abs=1e-9)
    # Rounding of equal numbers may leave a spread of about 1e-13, or none, which counts as 1.
    assert found.std == pytest.approx(every.std(), rel=1e-6, abs=1e-9) or (found.std == 1.0 and every.std() < 1e-9)


def test_pixels_without_a_number_do_not_count() -> None:
    found = number_maps_of([np.array([[1.0, np.nan, 3.0]]), np.full((2, 2), np.nan)])
    assert (found.mean, found.std) == (2.0, 1.0)


def test_equal_numbers_have_a_spread_of_one() -> None:
    found = number_maps_of([np.full((2, 2), 4.0)])
    assert (found.mean, found.std) == (4.0, 1.0)


def test_the_loss_is_the_mean_over_pixels_with_a_number() -> None:
    predicted = torch.tensor([[[[1.0, 5.0], [2.0, 0.0]]]], requires_grad=True)
    numbers = torch.tensor([[[3.0, torch.nan], [2.0, torch.nan]]])
    loss: Tensor = NumberMaps(mean=0.0, std=1.0).loss(predicted, numbers)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.0)
    assert predicted.grad is not None
    assert predicted.grad.flatten().tolist() == [-2.0, 0.0, 0.0, 0.0]


def test_a_batch_without_numbers_has_no_loss() -> None:
    predicted = torch.ones(1, 1, 2, 2, requires_grad=True)
    loss = NumberMaps(mean=0.0, std=1.0).loss(predicted, torch.full((1, 2, 2), torch.nan))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert predicted.grad is not None
    assert not predicted.grad.any()


def test_training_without_numbers_is_refused(tiny_encoder: SensorEncoder, number_map_data: TaskData) -> None:
    data = _in_other_unit(number_map_data, factor=np.nan, offset=0.0)
    with pytest.raises(InputError, match="no pixel of the training split has a number"):
        fit_maps(_context(tiny_encoder, data))


def test_label_smoothing_is_refused(tiny_encoder: SensorEncoder, number_map_data: TaskData) -> None:
    with pytest.raises(
        RecipeError, match=r"fit.label_smoothing and fit.loss are for classes, and these data have numbers"
    ):
        fit_maps(_context(tiny_encoder, number_map_data, fit=_FIT.changed(label_smoothing=0.1)))
