"""Band means against plain NumPy."""

import numpy as np
import pytest
import torch

from anyband.evaluate.features import band_means
from anyband.models.inputs import ImageBatch


def test_band_means_are_those_of_numpy_over_valid_pixels() -> None:
    draw = np.random.default_rng(0)
    pixels = draw.normal(size=(2, 3, 8, 8)).astype(np.float32)
    valid = draw.random((2, 3, 8, 8)) < 0.7
    batch = ImageBatch(
        pixels=torch.from_numpy(np.where(valid, pixels, 0)),
        valid=torch.from_numpy(valid),
        mixing=torch.eye(3),
    )
    found = band_means(batch).numpy()
    for image in range(2):
        for band in range(3):
            seen = pixels[image, band][valid[image, band]]
            assert found[image, band] == pytest.approx(seen.mean(), abs=1e-5)
            assert found[image, 3 + band] == pytest.approx(seen.std(), abs=1e-5)


def test_a_band_without_data_counts_as_the_mean() -> None:
    pixels = torch.ones(1, 2, 4, 4)
    valid = torch.ones(1, 2, 4, 4, dtype=torch.bool)
    valid[:, 1] = False
    found = band_means(ImageBatch(pixels=pixels, valid=valid, mixing=torch.eye(2)))
    assert found.tolist() == [[1.0, 0.0, 0.0, 0.0]]
