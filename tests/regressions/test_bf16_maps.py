"""A head in bf16 whose maps are brought to another size ended with NotImplementedError on a CPU."""

import pytest
import torch

from anyband.models.heads import make_head


@pytest.mark.parametrize("size", [(5, 3), (40, 24)])
def test_a_head_in_bf16_gives_maps_of_any_size_on_a_cpu(size: tuple[int, int]) -> None:
    head = make_head("linear", width=8, num_outputs=1, seed=0)
    levels = (torch.randn(2, 8, 10, 6, generator=torch.Generator().manual_seed(0)),)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head(levels, size)
    assert found.shape == (2, 1, *size)
    torch.testing.assert_close(found, head(levels, size), atol=0.02, rtol=0.02)
