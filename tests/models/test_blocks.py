"""Stacks of blocks: computed again for the gradient, and compiled without breaks, one graph for all pairs."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.inputs import SetBatch, SetNoise
from anyband.models.vit import BlockStack, configure_blocks, make_blocks

Pair = tuple[SetBatch, SetNoise]


def _gradients(model: Autoencoder, pair: SetBatch, noise: SetNoise) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(pair, noise).loss
    loss.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    model.zero_grad(set_to_none=True)
    return loss.detach(), gradients


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_computing_again_gives_the_same_gradients_to_the_bit(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair], drop_path: float
) -> None:
    config = replace(tiny_config, encoder=replace(tiny_config.encoder, drop_path=drop_path))
    model, found = Autoencoder(config, seed=1).train(), []
    for recompute in (False, True):
        configure_blocks(model, fused=True, recompute=recompute)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found.append(_gradients(model, *make_pair(1)))
    (kept_loss, kept), (again_loss, again) = found
    assert torch.equal(kept_loss, again_loss)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


class _Saved:
    """Adds up the bytes that are kept for the gradient, without the weights."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self.bytes = 0

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in self._weights:
            self.bytes += tensor.nbytes
        return tensor


def test_computing_again_keeps_the_input_of_each_block_alone() -> None:
    stack = make_blocks(3, width=16, num_heads=2, mlp_ratio=4.0, norm_eps=1e-6, drop_path=0.0)
    for parameter in stack.parameters():
        nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(0))
    sequence = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    kept = {}
    for recompute in (False, True):
        stack.recompute = recompute
        saved = _Saved(stack)
        with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda tensor: tensor):
            stack(sequence, None)
        kept[recompute] = saved.bytes
    assert kept[True] <= 3 * sequence.nbytes < kept[False] / 5


def test_a_stack_keeps_the_names_of_a_list() -> None:
    stack = make_blocks(2, width=16, num_heads=2, mlp_ratio=4.0, norm_eps=1e-6, drop_path=0.0)
    assert isinstance(stack, BlockStack)
    assert {name.split(".")[0] for name in stack.state_dict()} == {"0", "1"}


# torch's compiler looks at the gradient of what comes out of the block before, which warns.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_stacks_have_one_graph_each_for_all_pairs_of_sensors(
    tiny_config: AutoencoderConfig, make_pair: Callable[..., Pair]
) -> None:
    """Numbers of bands differ between pairs; blocks see tokens alone, those of a stack share one. A break raises."""
    torch._dynamo.reset()
    counted: list[int] = []

    def counting(graph: torch.fx.GraphModule, _example: list[torch.Tensor]) -> Callable[..., object]:
        counted.append(len(list(graph.graph.nodes)))
        return graph.forward

    model = Autoencoder(tiny_config, seed=1)
    plain = Autoencoder(tiny_config, seed=1)
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.compile(backend=counting, fullgraph=True, dynamic=False)
    for bands in ((3, 2), (12, 2), (1, 7)):
        pair, noise = make_pair(1, bands=bands)
        loss, gradients = _gradients(model, pair, noise)
        expected_loss, expected = _gradients(plain, pair, noise)
        torch.testing.assert_close(loss, expected_loss)
        assert all(torch.allclose(gradients[name], expected[name], atol=1e-6) for name in expected)
    assert len(counted) == 2
    torch._dynamo.reset()


def test_compiling_a_stack_allows_no_break(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make_blocks(2, width=16, num_heads=2, mlp_ratio=4.0, norm_eps=1e-6, drop_path=0.0)
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: asked.append(how))
    stack.compile_blocks()
    assert asked == [{"fullgraph": True, "dynamic": False}] * 2
