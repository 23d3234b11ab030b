"""The transformer: blocks, encoder and decoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from einops import rearrange
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError
from anyband.models.encodings import (
    NO_ENCODINGS,
    EncodingConfig,
    PositionKind,
    SetEncodings,
    image_shares,
    sincos_positions,
)
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.patches import PatchSets, SpectralProjection, cut_sets, gather_tokens
from anyband.randomness import generator

__all__ = [
    "LARGEST_COUNT",
    "SIZES",
    "BlockStack",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "TokenSets",
    "configure_blocks",
    "initialise",
    "make_blocks",
]

# Source: masked autoencoders (arXiv 2111.06377), section A.1 and BEiT's tokens.
_TOKEN_STD = 0.02


def initialise(module: nn.Module, *, seed: int, prefix: str = "encoder") -> None:
    """Draw every weight on the CPU: linear maps Xavier uniform with zero bias, norms 1 and 0, tokens normal. A weight's
    numbers depend on the seed and its name with `prefix` only; no global generator is touched. Positions are the
    computed ones, whether they are trained from there or not."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(prefix), *module.named_buffers(prefix)]:
            shape, draws = tensor.shape, generator(seed, step=0, sample=0, purpose=f"first weights of {name}")
            if name.endswith("pos_embed"):
                edge = math.isqrt(shape[1] - 1)
                tensor.copy_(functional.pad(sincos_positions(edge, edge, shape[2]), (0, 0, 1, 0)))
            elif name.endswith("bias") or len(shape) == 1:
                tensor.fill_(0.0 if name.endswith("bias") else 1.0)
            elif name.endswith("_token"):
                normal = draws.standard_normal(shape, dtype=np.float32)
                tensor.copy_(torch.from_numpy(normal * np.float32(_TOKEN_STD)))
            else:
                # The last two axes are the two sides of a linear map, whichever way round; any before them count maps.
                bound = np.float32(math.sqrt(6 / (shape[-1] + shape[-2])))
                tensor.copy_(torch.from_numpy(draws.random(shape, dtype=np.float32) * (2 * bound) - bound))


class BlockStack(nn.ModuleList):
    """Transformer blocks, one after the other. A list of them otherwise, so the weights keep their names."""

    recompute: bool = False
    """Whether what happens inside a block is computed again for the gradient."""

    def forward(
        self,
        sequence: Float[Tensor, "batch given width"],
        hidden: Bool[Tensor, "batch token"] | None,
        only: slice = slice(None),
        *,
        cls: Float[Tensor, "1 1 width"] | None = None,
    ) -> Float[Tensor, "batch cls_and_token width"]:
        """Pass CLS and tokens through the blocks, or some; no token attends to a hidden one. `cls` is put in front."""
        if cls is not None:
            sequence = torch.cat([cls.expand(len(sequence), -1, -1).to(sequence.dtype), sequence], dim=1)
        attention = None  # Which allows the fastest kernel.
        if hidden is not None:
            unseen = functional.pad(hidden, (1, 0), value=False)
            attention = torch.zeros(unseen.shape, device=hidden.device).masked_fill(unseen, -torch.inf)
            attention = attention[:, None, None, :]
        for block in list(self)[only]:
            if self.recompute and torch.is_grad_enabled():
                sequence = checkpoint(block, sequence, attn_mask=attention, use_reentrant=False)
            else:
                sequence = block(sequence, attn_mask=attention)
        return sequence

    def compile_blocks(self) -> None:
        """Compile each block as one graph, shared by the stack: a break in it is an error."""
        for block in self:
            block.compile(fullgraph=True, dynamic=False)


def make_blocks(
    depth: int, *, width: int, num_heads: int, mlp_ratio: float, norm_eps: float, drop_path: float
) -> BlockStack:
    """Make timm's pre-norm blocks; `drop_path` is the last one's, 0 the first's."""
    from timm.models.vision_transformer import Block

    return BlockStack(
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


def configure_blocks(module: nn.Module, *, fused: bool, recompute: bool = False) -> None:
    """Choose how the transformer blocks of a network compute.

    Args:
        fused: attention by the fused kernel, or by plain products; the results agree to rounding. Plain products are
            for training in bfloat16 on a CPU, where the fused gradient is slow (torch 2.15): see
            `benchmarks/bench_step.py`.
        recompute: what happens inside a block is computed again for the gradient, the same to the bit, and not kept.
    """
    for part in module.modules():
        if isinstance(part, BlockStack):
            part.recompute = recompute
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]


# Source: ViT (arXiv 2010.11929), table 1; tiny and small from DeiT (arXiv 2012.12877), table 1.
SIZES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3, "patch_size": 16},
        "small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16},
        "base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
        "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
        "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
    }
)

LARGEST_COUNT = 1 << 16
"""chosen: far above any network, low enough that a broken header can't ask for all the memory."""
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that fixes an encoder's parameters."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    img_size: Count
    """Edge of the images that it is trained on, pixels; others work too."""
    patch_size: Count
    """Edge, pixels."""
    embed_dim: Count
    """A multiple of 4 and of num_heads."""
    depth: Count
    num_heads: Count
    mlp_ratio: Size = 4.0
    num_ranges: Count
    """Trained spectral ranges."""
    max_bands: Count = 12
    """C_max: tokens are scaled as if the sensor had so many bands."""
    drop_path: Size = 0.0
    """Rate of the last block; falls to 0 at the first."""
    norm_eps: Size = 1e-6
    positions: PositionKind = "fixed"
    """Sine and cosine positions as computed, or trained from there."""
    encodings: EncodingConfig = field(default_factory=EncodingConfig)


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """Features after the final norm: of sets, or of images that each were encoded alone, without the axis of slots."""

    cls: Float[Tensor, "batch width"]
    tokens: Float[Tensor, "*image token width"]
    """Patches, row by row."""
    hidden: Bool[Tensor, "*image token"] | None
    """Patches with under half of their pixels valid, whose tokens mean nothing; None: there are none."""
    grid: tuple[int, int]

    @property
    def map(self) -> Float[Tensor, "*image width row col"]:
        return rearrange(self.tokens, "... (h w) d -> ... d h w", h=self.grid[0])


TokenSets = tuple[Float[Tensor, "set slot token width"], Bool[Tensor, "set slot token"] | None, tuple[int, int]]
"""Tokens of sets before the first block, patches row by row, with their positions and encodings; which have under half
of their pixels valid (None: none); and how many stand down and across."""


class _Located(nn.Module):
    """A network over tokens that are told where they are, and what is known of their images."""

    pos_embed: Tensor
    encodings: SetEncodings | None

    def locations(self, grid: tuple[int, int], batch: SetBatch) -> Float[Tensor, "#set #slot token width"]:
        """Compute what is added to each token of each image; axes have length 1 where all have the same. Positions are
        computed for any grid; trained ones are bicubically resampled for others than the network's own."""
        encodings: Tensor | None = None
        if self.encodings is not None:
            encodings = self.encodings(grid, batch.metadata, image_shares(batch))
            if self.encodings.config.geographic != "none":
                return encodings
        positions, width = self.pos_embed[:, 1:], self.pos_embed.shape[2]
        edge = math.isqrt(positions.shape[1])
        if grid != (edge, edge) and isinstance(self.pos_embed, nn.Parameter):
            image = rearrange(positions, "1 (h w) d -> 1 d h w", h=edge)
            resampled = functional.interpolate(image, size=grid, mode="bicubic", align_corners=False)
            positions = rearrange(resampled, "1 d h w -> 1 (h w) d")
        elif grid != (edge, edge):
            positions = sincos_positions(*grid, width).to(positions)[None]
        plain = positions[:, None]
        return plain if encodings is None else plain + encodings


class Encoder(_Located):
    """Encode images of any sensor; without `seed` weights have no values and no memory (`meta`).

    Hidden tokens (under half of their pixels valid) have no influence on any other token.
    """

    def __init__(self, config: EncoderConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        width, num_ranges = config.embed_dim, config.num_ranges
        with torch.device("meta"):
            self.projection = SpectralProjection(
                num_ranges=num_ranges, patch_size=config.patch_size, embed_dim=width, max_bands=config.max_bands
            )
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            pos_embed = torch.empty(1, 1 + (config.img_size // config.patch_size) ** 2, width)
            if config.positions == "trained":
                self.pos_embed = nn.Parameter(pos_embed)
            else:
                self.register_buffer("pos_embed", pos_embed)
            self.encodings = None
            if config.encodings != NO_ENCODINGS:
                self.encodings = SetEncodings(config.encodings, width=width, num_ranges=num_ranges, role="encoder")
            self.blocks = make_blocks(
                config.depth,
                width=width,
                num_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                norm_eps=config.norm_eps,
                drop_path=config.drop_path,
            )
            self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        if seed is not None:
            initialise(self, seed=seed)

    def forward(self, batch: SetBatch | ImageBatch, metadata: SetMetadata | None = None) -> EncoderOutput:
        """Encode whole sets: the images of a set are one sequence, so that every token sees all of them. Images of one
        sensor that are no sets are each a set of its own, of which `metadata` tells what is known (None: nothing); a
        network without encodings ignores it. `InputError`: images that do not fit the network or each other."""
        sets = batch if isinstance(batch, SetBatch) else SetBatch(groups=(batch,), metadata=metadata)
        embedded, hidden, grid = self.embed_sets(sets)
        sequence = self.encode_tokens(embedded.flatten(1, 2), None if hidden is None else hidden.flatten(1))
        tokens = sequence[:, 1:]
        if isinstance(batch, SetBatch):
            tokens = rearrange(tokens, "s (k n) d -> s k n d", k=embedded.shape[1])
        elif hidden is not None:
            hidden = hidden[:, 0]
        return EncoderOutput(cls=sequence[:, 0], tokens=tokens, hidden=hidden, grid=grid)

    def embed_sets(self, batch: SetBatch | PatchSets) -> TokenSets:
        """Project the images of sets to tokens and add what each carries; nothing has attended to anything yet."""
        sets = batch
        if isinstance(sets, SetBatch):
            sets = cut_sets(sets, patch_size=self.config.patch_size, num_ranges=self.config.num_ranges)
        slots = sets.batch.to_slots([self.projection(one.values, one.mixing) for one in sets.groups])
        tokens = slots[0].unsqueeze(1) if len(slots) == 1 else torch.stack(slots, dim=1)
        return tokens + self.locations(sets.grid, sets.batch), sets.hidden, sets.grid

    def encode_tokens(
        self, tokens: Float[Tensor, "batch visible width"], hidden: Bool[Tensor, "batch visible"] | None
    ) -> Float[Tensor, "batch cls_and_visible width"]:
        """Encode tokens that already carry their positions: after the final norm, CLS first."""
        encoded: Tensor = self.norm(self.blocks(tokens, hidden, cls=self.cls_token + self.pos_embed[:, :1]))
        return encoded

    def token_levels(
        self,
        tokens: Float[Tensor, "batch visible width"],
        hidden: Bool[Tensor, "batch visible"] | None,
        *,
        blocks: Sequence[int],
    ) -> tuple[Float[Tensor, "batch visible width"], ...]:
        """Encode tokens that already carry their positions; give them after chosen blocks, before norm, without CLS.
        `InputError` for a block that is not there (they count from 0), or none."""
        depth = len(self.blocks)
        if not blocks or not all(0 <= index < depth for index in blocks):
            raise InputError(f"blocks {list(blocks)} were asked for; the encoder has 0 to {depth - 1}")
        sequence, first, cls = tokens, 0, self.cls_token + self.pos_embed[:, :1]
        found: dict[int, Tensor] = {}
        for index in sorted(set(blocks)):
            sequence = self.blocks(sequence, hidden, slice(first, index + 1), cls=None if found else cls)
            found[index], first = sequence[:, 1:], index + 1
        return tuple(found[index] for index in blocks)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that fixes a decoder's parameters."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    decoder_embed_dim: Count = 512
    """A multiple of 4 and of the heads."""
    decoder_depth: Count = 8
    decoder_num_heads: Count = 16


class Decoder(_Located):
    """Decode tokens from the visible ones; weights have no values and no memory (`meta`)."""

    def __init__(self, config: DecoderConfig, *, encoder: EncoderConfig) -> None:
        super().__init__()
        width = config.decoder_embed_dim
        with torch.device("meta"):
            self.embed = nn.Linear(encoder.embed_dim, width)
            self.mask_token = nn.Parameter(torch.empty(1, 1, width))
            positions = torch.empty(1, 1 + (encoder.img_size // encoder.patch_size) ** 2, width)
            self.register_buffer("pos_embed", positions)
            self.encodings = None
            if encoder.encodings != NO_ENCODINGS:
                self.encodings = SetEncodings(
                    encoder.encodings, width=width, num_ranges=encoder.num_ranges, role="decoder"
                )
            self.blocks = make_blocks(
                config.decoder_depth,
                width=width,
                num_heads=config.decoder_num_heads,
                mlp_ratio=encoder.mlp_ratio,
                norm_eps=encoder.norm_eps,
                drop_path=0.0,
            )
            self.norm = nn.LayerNorm(width, eps=encoder.norm_eps)

    def forward(
        self,
        latent: Float[Tensor, "batch cls_and_visible latent"],
        places: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"] | None,
        ids_restore: Int[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch requested width"]:
        """Decode the positions that are requested, or all: their tokens after the decoder's norm.

        Args:
            latent: the encoder's output, CLS first, then the visible tokens in their order.
            places: what is added to each token: to the visible ones in that order, then to those requested.
            hidden: tokens, in the same order, that no other may attend to.
            ids_restore: gives all tokens, the visible ones too, in this order; None: those requested.
        """
        tokens, num_visible = self.embed(latent), latent.shape[1] - 1
        visible = tokens[:, 1:] + places[:, :num_visible]
        requested = self.mask_token + places[:, num_visible:]
        sequence = torch.cat([tokens[:, :1].to(visible.dtype), visible, requested.to(visible.dtype)], dim=1)
        # Attention sees no order.
        sequence = self.blocks(sequence, hidden)
        chosen = sequence[:, latent.shape[1] :]
        decoded: Tensor = self.norm(chosen if ids_restore is None else gather_tokens(sequence[:, 1:], ids_restore))
        return decoded
