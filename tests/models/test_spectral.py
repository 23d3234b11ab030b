"""The spectrum-aware maps against sums over bands in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from anyband.models.patches import SpectralProjection, SpectralReconstruction
from anyband.models.vit import initialise

RANGES, PATCH, WIDTH = 6, 3, 10


def _projection() -> SpectralProjection:
    projection = SpectralProjection(num_ranges=RANGES, patch_size=PATCH, embed_dim=WIDTH, max_bands=12)
    initialise(projection, seed=1)
    torch.nn.init.normal_(projection.bias, generator=torch.Generator().manual_seed(3))
    return projection


def _mixing(seed: int, bands: int) -> np.ndarray:
    mixing = np.random.default_rng(seed).random((bands, RANGES))
    return mixing / mixing.sum(axis=1, keepdims=True)


@settings(max_examples=20)
@given(bands=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_token_is_twelve_times_the_mean_of_its_bands_projections(bands: int, seed: int) -> None:
    projection, mixing = _projection(), _mixing(seed, bands)
    patches = np.random.default_rng(seed).normal(size=(2, 4, bands, PATCH**2))
    weight, bias = projection.weight.detach().double().numpy(), projection.bias.detach().double().numpy()
    each = [
        mixing[band, index] * (patches[:, :, band] @ weight[index] + bias[index])
        for band in range(bands)
        for index in range(RANGES)
    ]
    expected = 12 * np.sum(each, axis=0) / bands
    found = projection(torch.from_numpy(patches).flatten(2).float(), torch.from_numpy(mixing).float())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(bands=st.integers(2, 9), seed=st.integers(0, 99))
def test_the_order_of_bands_does_not_count(bands: int, seed: int) -> None:
    projection, mixing = _projection(), torch.from_numpy(_mixing(seed, bands)).float()
    patches = torch.randn(1, 4, bands, PATCH**2, generator=torch.Generator().manual_seed(seed))
    order = torch.randperm(bands, generator=torch.Generator().manual_seed(seed))
    found = projection(patches[:, :, order].flatten(2), mixing[order])
    assert torch.allclose(found, projection(patches.flatten(2), mixing), atol=1e-5)


@pytest.mark.parametrize("bands", [1, 7])
def test_each_band_is_predicted_by_its_own_map(bands: int) -> None:
    reconstruction = SpectralReconstruction(num_ranges=RANGES, num_values=PATCH**2, width=8)
    initialise(reconstruction, seed=2)
    torch.nn.init.normal_(reconstruction.bias, generator=torch.Generator().manual_seed(3))
    mixing = _mixing(bands, bands)
    tokens = np.random.default_rng(0).normal(size=(2, 4, 8))
    weight, bias = (
        reconstruction.weight.detach().double().numpy(),
        reconstruction.bias.detach().double().numpy(),
    )
    each = [
        sum(mixing[band, index] * (tokens @ weight[index].T + bias[index]) for index in range(RANGES))
        for band in range(bands)
    ]
    found = reconstruction(torch.from_numpy(tokens).float(), torch.from_numpy(mixing).float())
    np.testing.assert_allclose(found.detach().numpy(), np.concatenate(each, axis=-1), rtol=1e-4, atol=1e-5)


class _Products(TorchDispatchMode):
    """Notes every matrix product, and the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        made = function(*arguments, **(named or {}))
        if function.overloadpacket in (
            torch.ops.aten.mm,
            torch.ops.aten.addmm,
            torch.ops.aten.bmm,
            torch.ops.aten.matmul,
        ):
            self.products.append(str(function))
        if isinstance(made, torch.Tensor):
            self.largest = max(self.largest, made.untyped_storage().nbytes() // made.element_size())
        return made


@torch.no_grad()
@pytest.mark.parametrize("bands", [1, 2, 3, 12, 13, 17, 18, 224])
def test_a_sensor_of_any_bands_takes_one_product_of_pixels_and_two_of_shares(bands: int) -> None:
    """One for the tokens; the others join the shares of the bands with weights or pixels, and with biases."""
    projection = SpectralProjection(num_ranges=17, patch_size=4, embed_dim=64, max_bands=12)
    initialise(projection, seed=1)
    mixing = torch.rand(bands, 17, generator=torch.Generator().manual_seed(1))
    patches = torch.randn(2, 9, bands * 16, generator=torch.Generator().manual_seed(2))
    with _Products() as seen:
        projection(patches, mixing)
    assert len(seen.products) == 3
    # Never tokens × bands × width, nor weights for more bands than there are ranges.
    assert seen.largest <= max(patches.numel(), 17 * 16 * 64)


@settings(max_examples=20)
@given(bands=st.integers(RANGES + 1, 40), seed=st.integers(0, 99))
def test_many_bands_are_predicted_as_each_by_its_own_mixture(bands: int, seed: int) -> None:
    reconstruction = SpectralReconstruction(num_ranges=RANGES, num_values=PATCH**2, width=8)
    initialise(reconstruction, seed=2)
    torch.nn.init.normal_(reconstruction.bias, generator=torch.Generator().manual_seed(3))
    mixing = _mixing(seed, bands)
    tokens = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(seed))
    together = reconstruction(tokens, torch.from_numpy(mixing).float()).unflatten(2, (bands, -1))
    for band in (0, bands // 2, bands - 1):
        alone = reconstruction(tokens, torch.from_numpy(mixing[band : band + 1]).float())
        torch.testing.assert_close(together[:, :, band], alone, rtol=1e-4, atol=1e-5)
