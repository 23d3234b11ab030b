"""Stacks of transformer blocks: how they are made, compiled, computed again for the gradient, and how they attend."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from anyband.shapes import Bool, Float

__all__ = ["BlockStack", "attention_from", "make_blocks", "set_fused_attention", "set_recompute"]


class BlockStack(nn.ModuleList):
    """Transformer blocks, one after the other. A list of them otherwise, so the weights keep their names."""

    recompute: bool = False
    """Whether what happens inside a block is computed again for the gradient instead of kept."""

    def forward(
        self, sequence: Float[Tensor, "batch token width"], attention: Float[Tensor, "batch 1 1 key"] | None
    ) -> Float[Tensor, "batch token width"]:
        """Pass tokens through all blocks.

        Args:
            sequence: tokens.
            attention: added to the scores; None: everything attends to everything.
        """
        for block in self:
            if self.recompute and torch.is_grad_enabled():
                sequence = checkpoint(block, sequence, attn_mask=attention, use_reentrant=False)
            else:
                sequence = block(sequence, attn_mask=attention)
        return sequence

    def compile_blocks(self) -> None:
        """Compile each block as one graph: a break in it is an error. Blocks of one stack share what is compiled."""
        for block in self:
            block.compile(fullgraph=True, dynamic=False)


def make_blocks(
    depth: int, *, width: int, num_heads: int, mlp_ratio: float, norm_eps: float, drop_path: float
) -> BlockStack:
    """Make pre-norm transformer blocks without values, drawing no random numbers.

    Args:
        depth: how many.
        width: of a token.
        num_heads: attention heads.
        mlp_ratio: width of the hidden layer over `width`.
        norm_eps: of the layer norms.
        drop_path: rate of the last block; it falls linearly to 0 at the first.

    Returns:
        timm's blocks, whose attention takes a mask.
    """
    from timm.models.vision_transformer import Block

    with torch.device("meta"):
        blocks = BlockStack(
            Block(
                dim=width,
                num_heads=num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=True,
                drop_path=drop_path * index / max(depth - 1, 1),
                norm_layer=partial(nn.LayerNorm, eps=norm_eps),  # type: ignore[arg-type]
            )
            for index in range(depth)
        )
    empty: BlockStack = blocks.to_empty(device="cpu")
    return empty


def attention_from(hidden: Bool[Tensor, "batch token"] | None) -> Float[Tensor, "batch 1 1 key"] | None:
    """Make what is added to the attention scores: −inf for hidden keys, else 0; CLS is never hidden.

    None lets attention use its fastest kernel.
    """
    if hidden is None:
        return None
    unseen = functional.pad(hidden, (1, 0), value=False)
    return torch.zeros(unseen.shape, device=hidden.device).masked_fill(unseen, -torch.inf)[:, None, None, :]


def set_fused_attention(module: nn.Module, *, fused: bool) -> None:
    """Choose how every transformer block in a network computes attention; the results agree to rounding.

    Fused is right nearly everywhere. Plain matrix products are for training in bfloat16 on a CPU, where the gradient of
    the fused kernel is slow (torch 2.15): `benchmarks/bench_step.py` times a step with each.

    Args:
        module: with timm's blocks anywhere inside.
        fused: whether to use the fused kernel.
    """
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]


def set_recompute(module: nn.Module, *, recompute: bool) -> None:
    """Choose whether the stacks in a network keep what their blocks compute, or compute it again for the gradient.

    The gradient is the same to the bit where the blocks are deterministic. A block then keeps its input alone.

    Args:
        module: with stacks anywhere inside.
        recompute: whether to compute again.
    """
    for part in module.modules():
        if isinstance(part, BlockStack):
            part.recompute = recompute
