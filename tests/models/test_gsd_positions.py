"""Positions scaled by ground resolution: against recorded ones, a plain loop, and the positions of the grid."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from anyband.models.encodings import sincos_positions


def test_positions_equal_the_recorded_ones(golden: Path) -> None:
    recorded = load_file(golden / "a2mae" / "gsd_pos_embed.safetensors")
    positions = sincos_positions(4, 4, 64, recorded["gsd_m"])
    assert not recorded["pos_embed"][:, 0].any()
    assert torch.allclose(positions, recorded["pos_embed"][:, 1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rows", "cols", "width", "gsd_m"), [(3, 5, 8, 10.0), (1, 2, 4, 0.3), (2, 14, 16, 1000.0)])
def test_positions_equal_a_plain_loop(rows: int, cols: int, width: int, gsd_m: float) -> None:
    quarter = width // 4
    expected = []
    for row in range(rows):
        for col in range(cols):
            halves = [[index * gsd_m * 10000 ** (-i / quarter) for i in range(quarter)] for index in (col, row)]
            expected.append([wave(angle) for half in halves for wave in (math.sin, math.cos) for angle in half])
    positions = sincos_positions(rows, cols, width, torch.tensor(gsd_m, dtype=torch.float64))
    assert torch.allclose(positions, torch.tensor(expected), rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(st.integers(1, 15), st.integers(1, 15), st.integers(1, 48))
def test_at_1_m_they_are_the_positions_of_the_grid(rows: int, cols: int, quarter: int) -> None:
    positions = sincos_positions(rows, cols, 4 * quarter, torch.ones(()))
    assert torch.equal(positions, sincos_positions(rows, cols, 4 * quarter))


@settings(max_examples=30)
@given(st.floats(0.05, 2000), st.integers(1, 13))
def test_equal_distances_on_the_ground_have_equal_positions(gsd_m: float, index: int) -> None:
    near = sincos_positions(14, 14, 32, torch.tensor(gsd_m, dtype=torch.float64))
    far = sincos_positions(2, 2, 32, torch.tensor(gsd_m * index, dtype=torch.float64))
    assert torch.allclose(near[index], far[1], atol=1e-5)
    assert torch.allclose(near[14 * index], far[2], atol=1e-5)


def test_positions_of_many_are_those_of_each() -> None:
    gsd_m = torch.tensor([[10.0, 30.0, 0.5], [1.0, 2.0, 3.0]])
    together = sincos_positions(3, 4, 16, gsd_m)
    assert together.shape == (2, 3, 12, 16)
    assert all(
        torch.equal(together[row, slot], sincos_positions(3, 4, 16, gsd_m[row, slot]))
        for row in range(2)
        for slot in range(3)
    )


def test_positions_are_single_precision_from_double() -> None:
    coarse = torch.tensor(1000.0)
    positions = sincos_positions(1, 14, 4, coarse)
    assert positions.dtype == torch.float32
    assert positions[13, 0].item() == pytest.approx(math.sin(13_000), abs=1e-7)


def test_every_position_has_the_same_length() -> None:
    length = sincos_positions(5, 6, 24, torch.tensor([0.7, 25.0])).square().sum(dim=-1)
    assert torch.allclose(length, torch.full_like(length, 12.0))
