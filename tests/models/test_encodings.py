"""Positions against a plain loop, recorded checkpoints, and themselves on other grids."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from anyband.models.encodings import Positions, sincos_positions


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
    positions = Positions(grid=(4, 4), width=width, kind="fixed")
    assert torch.allclose(positions((4, 4)), recorded, atol=1e-6)


def test_fixed_positions_of_another_grid_are_computed() -> None:
    positions = Positions(grid=(4, 4), width=8, kind="fixed")((2, 6))
    assert torch.equal(positions[0, 1:], sincos_positions(2, 6, 8))
    assert not positions[0, 0].any()


def test_fixed_positions_are_no_parameter_and_trained_ones_are() -> None:
    fixed, trained = (Positions(grid=(2, 2), width=8, kind=kind) for kind in ("fixed", "trained"))
    assert list(fixed.parameters()) == []
    assert [value.shape for value in trained.parameters()] == [(1, 5, 8)]
    assert torch.equal(fixed((2, 2)), trained((2, 2)))


def test_trained_positions_are_resampled_for_another_grid() -> None:
    positions = Positions(grid=(4, 4), width=4, kind="trained")
    with torch.no_grad():
        positions.table[0, 1:, 0] = torch.arange(4.0).repeat_interleave(4)
        positions.table[0, 0] = 7
    wide = positions((4, 8)).detach()
    assert wide.shape == (1, 33, 4)
    assert torch.equal(wide[0, 0], torch.full((4,), 7.0))
    assert torch.allclose(wide[0, 1:, 0], torch.arange(4.0).repeat_interleave(8), atol=1e-5)
