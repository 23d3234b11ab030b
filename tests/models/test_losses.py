"""Targets and errors against NumPy on the valid values alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.patches import ImagePatches, patch_moments

VALID = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(0)) < 0.7
VALUES = torch.where(VALID, torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(1)), 0.0)


@pytest.mark.parametrize("repeats", [1, 4])
def test_moments_equal_numpy_on_the_valid_values(repeats: int) -> None:
    mean, deviation = patch_moments(VALUES, VALID, repeats=repeats)
    for sample in range(2):
        for token in range(3):
            values = VALUES[sample, token][VALID[sample, token]].double().numpy()
            copies = np.tile(values, repeats)
            assert mean[sample, token].item() == pytest.approx(values.mean(), abs=1e-6)
            assert deviation[sample, token].item() == pytest.approx(np.sqrt(copies.var(ddof=1) + 1e-6), abs=1e-6)


def test_moments_of_complete_tokens_equal_those_with_everything_valid() -> None:
    complete, masked = patch_moments(VALUES, None), patch_moments(VALUES, torch.ones_like(VALID))
    assert torch.allclose(complete[0], masked[0], atol=1e-6)
    assert torch.allclose(complete[1], masked[1], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_a_token_with_hardly_any_valid_pixel_has_finite_moments(count: int) -> None:
    valid = torch.arange(12) < count
    mean, deviation = patch_moments(torch.where(valid, 3.0, 0.0)[None, None], valid[None, None])
    assert mean.item() == 3.0 * count
    assert deviation.item() == pytest.approx(1e-3)


def test_errors_are_means_over_valid_pixels(tiny_config: AutoencoderConfig) -> None:
    model = Autoencoder(replace(tiny_config, norm_pix_loss=False), seed=1)
    num_values, width = tiny_config.encoder.patch_size**2, tiny_config.decoder.decoder_embed_dim
    draws = torch.Generator().manual_seed(2)
    values, tokens = (torch.randn(2, 3, count, generator=draws) for count in (num_values, width))
    valid, mixing = torch.rand(values.shape, generator=draws) < 0.7, torch.eye(tiny_config.encoder.num_ranges)[:1]
    with torch.no_grad():
        predicted = model.reconstruction(tokens, mixing)
        found = model.errors(ImagePatches(values=values, valid=valid, mixing=mixing), tokens)
    expected = [
        [((p - t)[v] ** 2).mean().item() for p, t, v in zip(*rows, strict=True)]
        for rows in zip(predicted, values, valid, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
