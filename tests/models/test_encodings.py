"""Positions against a plain loop, recorded checkpoints, and themselves on other grids."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyband.models.encodings import PositionKind, sincos_positions
from anyband.models.inputs import ImageBatch, SetBatch
from anyband.models.vit import Encoder, EncoderConfig


@pytest.mark.parametrize(("rows", "cols", "width"), [(3, 5, 8), (1, 1, 4), (4, 2, 12)])
def test_positions_equal_a_plain_loop(rows: int, cols: int, width: int) -> None:
    quarter = width // 4
    expected = []
    for row in range(rows):
        for col in range(cols):
            halves = [[index * 10000 ** (-i / quarter) for i in range(quarter)] for index in (col, row)]
            expected.append([wave(angle) for half in halves for wave in (math.sin, math.cos) for angle in half])
    assert torch.allclose(sincos_positions(rows, cols, width), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize(("name", "width"), [("pos_embed", 64), ("decoder_pos_embed", 32)])
def test_positions_equal_the_recorded_checkpoint(golden: Path, name: str, width: int) -> None:
    recorded = load_file(golden / "smarties" / "checkpoint.safetensors")[name]
    assert torch.allclose(sincos_positions(4, 4, width), recorded[0, 1:], atol=1e-6)
    assert not recorded[0, 0].any()


def _encoder(kind: PositionKind) -> Encoder:
    config = EncoderConfig(img_size=32, patch_size=8, embed_dim=8, depth=1, num_heads=1, num_ranges=1, positions=kind)
    return Encoder(config, seed=1)


def _locations(encoder: Encoder, grid: tuple[int, int]) -> torch.Tensor:
    image = ImageBatch(pixels=torch.zeros(1, 1, 8 * grid[0], 8 * grid[1]), mixing=torch.ones(1, 1))
    return encoder.locations(grid, SetBatch(groups=(image,)))[0, 0]


def test_fixed_positions_of_another_grid_are_computed() -> None:
    assert torch.equal(_locations(_encoder("fixed"), (2, 6)), sincos_positions(2, 6, 8))


def test_fixed_positions_are_no_parameter_and_trained_ones_are() -> None:
    fixed, trained = _encoder("fixed"), _encoder("trained")
    assert "pos_embed" not in dict(fixed.named_parameters())
    assert dict(trained.named_parameters())["pos_embed"].shape == (1, 17, 8)
    assert torch.equal(_locations(fixed, (4, 4)), _locations(trained, (4, 4)))


def test_trained_positions_are_resampled_for_another_grid() -> None:
    encoder = _encoder("trained")
    with torch.no_grad():
        encoder.pos_embed[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)
    wide = _locations(encoder, (4, 8)).detach()
    assert wide.shape == (32, 8)
    assert torch.allclose(wide[:, 0], torch.arange(4.0).repeat_interleave(8), atol=1e-5)
