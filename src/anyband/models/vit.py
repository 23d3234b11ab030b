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

from anyband.arrays import Bool, Float
from anyband.errors import InputError, nearest_name
from anyband.models.encodings import (
    EncodingConfig,
    PositionKind,
    Positions,
    SetEncodings,
    check_sets,
    set_hidden,
    token_locations,
)
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.patches import SpectralProjection, standardised_patches
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
    "attention_from",
    "encoder_config",
    "initialise",
    "make_blocks",
    "set_fused_attention",
    "set_recompute",
    "tokens_as_map",
]

# Source: masked autoencoders (arXiv 2111.06377), section A.1 and BEiT's tokens.
_TOKEN_STD = 0.02


def initialise(module: nn.Module, *, seed: int, prefix: str = "encoder") -> None:
    """Draw every parameter: linear maps Xavier uniform with zero bias, norms 1 and 0, tokens normal.

    A parameter's numbers depend on the seed and its name with `prefix` only; no global generator is touched.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("positions.table"):
                continue  # Starts from the computed positions, whether it is trained or not.
            parameter.copy_(_first_values(f"{prefix}.{name}", tuple(parameter.shape), seed))


def _first_values(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    draws = generator(seed, step=0, sample=0, purpose=f"first weights of {name}")
    if name.endswith("_token"):
        return torch.from_numpy(draws.standard_normal(shape, dtype=np.float32) * np.float32(_TOKEN_STD))
    # The last two axes are the two sides of a linear map, whichever way round; any before them count maps.
    edge = math.sqrt(6 / (shape[-1] + shape[-2]))
    return torch.from_numpy(draws.random(shape, dtype=np.float32) * np.float32(2 * edge) - np.float32(edge))


class BlockStack(nn.ModuleList):
    """Transformer blocks, one after the other. A list of them otherwise, so the weights keep their names."""

    recompute: bool = False
    """Whether what happens inside a block is computed again for the gradient."""

    def forward(
        self, sequence: Float[Tensor, "batch token width"], attention: Float[Tensor, "batch 1 1 key"] | None
    ) -> Float[Tensor, "batch token width"]:
        for block in self:
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
    """Make timm's pre-norm blocks without values, drawing no numbers; `drop_path` is the last one's, 0 the first's."""
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
    """Make what is added to the attention scores: −inf for hidden keys, else 0; None allows the fastest kernel."""
    if hidden is None:
        return None
    unseen = functional.pad(hidden, (1, 0), value=False)
    return torch.zeros(unseen.shape, device=hidden.device).masked_fill(unseen, -torch.inf)[:, None, None, :]


def set_fused_attention(module: nn.Module, *, fused: bool) -> None:
    """Choose how every transformer block in a network computes attention; the results agree to rounding.

    Plain products are for training in bfloat16 on a CPU, where the fused gradient is slow (torch 2.15): see
    `benchmarks/bench_step.py`.
    """
    for part in module.modules():
        if hasattr(part, "fused_attn"):
            part.fused_attn = fused  # type: ignore[assignment]


def set_recompute(module: nn.Module, *, recompute: bool) -> None:
    """Choose whether block stacks keep what they compute or compute it again for the gradient, the same to the bit."""
    for part in module.modules():
        if isinstance(part, BlockStack):
            part.recompute = recompute


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

    def __post_init__(self) -> None:
        counts = (self.img_size, self.patch_size, self.embed_dim, self.depth, self.num_heads, self.num_ranges)
        if min(*counts, self.max_bands) < 1 or self.img_size % self.patch_size:
            raise InputError(
                f"an encoder needs sizes and counts over 0 and an img_size that patch_size divides; found "
                f"img_size {self.img_size}, patch_size {self.patch_size}, embed_dim {self.embed_dim}, "
                f"depth {self.depth}, num_heads {self.num_heads}, num_ranges {self.num_ranges}"
            )
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            raise InputError(
                f"embed_dim must be a multiple of 4 and of num_heads; found {self.embed_dim} with "
                f"{self.num_heads} heads"
            )
        if not 0 <= self.drop_path < 1:
            raise InputError(f"drop_path must be at least 0 and under 1, found {self.drop_path:g}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across at the network's own image size."""
        return self.img_size // self.patch_size, self.img_size // self.patch_size


def encoder_config(size: str, *, img_size: int, num_ranges: int) -> EncoderConfig:
    """Make the configuration of a size of `SIZES`; `InputError` where there is none, or its patches don't fit."""
    if size not in SIZES:
        raise InputError(f"there is no encoder size '{size}' ({', '.join(SIZES)}){nearest_name(size, SIZES)}")
    return EncoderConfig(img_size=img_size, num_ranges=num_ranges, **SIZES[size])


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
        return tokens_as_map(self.tokens, self.grid)


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Tokens of sets before the first block, patches row by row; they carry their positions and encodings."""

    tokens: Float[Tensor, "set slot token width"]
    hidden: Bool[Tensor, "set slot token"] | None
    """Patches with under half of their pixels valid; None: none."""
    grid: tuple[int, int]


def tokens_as_map(
    tokens: Float[Tensor, "*batch token width"], grid: tuple[int, int]
) -> Float[Tensor, "*batch width row col"]:
    """Lay tokens out as an image."""
    return rearrange(tokens, "... (h w) d -> ... d h w", h=grid[0], w=grid[1])


class Encoder(nn.Module):
    """Encode images of any sensor; without `seed` weights have no values.

    Hidden tokens (under half of their pixels valid) have no influence on any other token.
    """

    def __init__(self, config: EncoderConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        self.projection = SpectralProjection(
            num_ranges=config.num_ranges,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            max_bands=config.max_bands,
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.embed_dim))
        self.positions = Positions(grid=config.grid, width=config.embed_dim, kind=config.positions)
        self.encodings: SetEncodings | None = None
        if config.encodings.any:
            self.encodings = SetEncodings(
                config.encodings, width=config.embed_dim, num_ranges=config.num_ranges, role="encoder"
            )
        self.blocks = make_blocks(
            config.depth,
            width=config.embed_dim,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            norm_eps=config.norm_eps,
            drop_path=config.drop_path,
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        if seed is not None:
            initialise(self, seed=seed)

    def forward(self, batch: SetBatch | ImageBatch, metadata: SetMetadata | None = None) -> EncoderOutput:
        """Encode whole sets: the images of a set are one sequence, so that every token sees all of them.

        Args:
            batch: sets of equally many images; or images of one sensor, each a set of its own.
            metadata: of images alone; None: nothing is known. A network without encodings ignores it.

        Raises:
            InputError: images that do not fit the network or each other.
        """
        sets = self.embed_sets(batch if isinstance(batch, SetBatch) else SetBatch(groups=(batch,), metadata=metadata))
        sequence = self.encode_tokens(
            sets.tokens.flatten(1, 2), None if sets.hidden is None else sets.hidden.flatten(1)
        )
        tokens, hidden = sequence[:, 1:], sets.hidden
        if isinstance(batch, SetBatch):
            tokens = rearrange(tokens, "s (k n) d -> s k n d", k=batch.num_slots)
        elif hidden is not None:
            hidden = hidden[:, 0]
        return EncoderOutput(cls=sequence[:, 0], tokens=tokens, hidden=hidden, grid=sets.grid)

    def embed_sets(self, batch: SetBatch) -> TokenSets:
        """Project the images of sets to tokens and add what each carries; nothing has attended to anything yet."""
        config = self.config
        grid = check_sets(batch, patch_size=config.patch_size, num_ranges=config.num_ranges)
        patches = [standardised_patches(one.pixels, one.valid, config.patch_size) for one in batch.groups]
        projected = [self.projection(part, one.mixing) for part, one in zip(patches, batch.groups, strict=True)]
        slots = batch.to_slots(projected)
        tokens = slots[0].unsqueeze(1) if len(slots) == 1 else torch.stack(slots, dim=1)
        tokens = tokens + self.locations(grid, batch)
        return TokenSets(tokens=tokens, hidden=set_hidden(batch, config.patch_size), grid=grid)

    def locations(self, grid: tuple[int, int], batch: SetBatch) -> Float[Tensor, "#set #slot token width"]:
        return token_locations(self.positions, self.encodings, grid, batch)

    def encode_tokens(
        self, tokens: Float[Tensor, "batch visible width"], hidden: Bool[Tensor, "batch visible"] | None
    ) -> Float[Tensor, "batch cls_and_visible width"]:
        """Encode tokens that already carry their positions: after the final norm, CLS first."""
        sequence = self.blocks(self._with_cls(tokens), attention_from(hidden))
        encoded: Tensor = self.norm(sequence)
        return encoded

    def token_levels(
        self,
        tokens: Float[Tensor, "batch visible width"],
        hidden: Bool[Tensor, "batch visible"] | None,
        *,
        blocks: Sequence[int],
    ) -> tuple[Float[Tensor, "batch visible width"], ...]:
        """Encode tokens that already carry their positions; give them after chosen blocks, before norm, without CLS.

        Raises:
            InputError: a block that is not there (they count from 0), or none.
        """
        depth = len(self.blocks)
        if not blocks or not all(0 <= index < depth for index in blocks):
            raise InputError(f"blocks {list(blocks)} were asked for; the encoder has 0 to {depth - 1}")
        attention = attention_from(hidden)
        sequence = self._with_cls(tokens)
        found: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(blocks) + 1]):
            sequence = block(sequence, attn_mask=attention)
            if index in blocks:
                found[index] = sequence[:, 1:]
        return tuple(found[index] for index in blocks)

    def _with_cls(self, tokens: Tensor) -> Tensor:
        cls = (self.cls_token + self.positions.table[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls.to(tokens.dtype), tokens], dim=1)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that fixes a decoder's parameters."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    decoder_embed_dim: Count = 512
    """A multiple of 4 and of the heads."""
    decoder_depth: Count = 8
    decoder_num_heads: Count = 16

    def __post_init__(self) -> None:
        if min(self.decoder_embed_dim, self.decoder_depth, self.decoder_num_heads) < 1:
            raise InputError(f"a decoder needs sizes and counts over 0; found {self}")
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise InputError(
                f"decoder_embed_dim must be a multiple of 4 and of decoder_num_heads; found "
                f"{self.decoder_embed_dim} with {self.decoder_num_heads} heads"
            )


class Decoder(nn.Module):
    """Decode the tokens of every position from the visible ones."""

    def __init__(self, config: DecoderConfig, *, encoder: EncoderConfig) -> None:
        super().__init__()
        width = config.decoder_embed_dim
        self.embed = nn.Linear(encoder.embed_dim, width, device="meta").to_empty(device="cpu")
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = Positions(grid=encoder.grid, width=width, kind="fixed")
        self.encodings: SetEncodings | None = None
        if encoder.encodings.any:
            self.encodings = SetEncodings(encoder.encodings, width=width, num_ranges=encoder.num_ranges, role="decoder")
        self.blocks = make_blocks(
            config.decoder_depth,
            width=width,
            num_heads=config.decoder_num_heads,
            mlp_ratio=encoder.mlp_ratio,
            norm_eps=encoder.norm_eps,
            drop_path=0.0,
        )
        self.norm = nn.LayerNorm(width, eps=encoder.norm_eps)

    def locations(self, grid: tuple[int, int], batch: SetBatch) -> Float[Tensor, "#set #slot token width"]:
        return token_locations(self.positions, self.encodings, grid, batch)

    def forward(
        self,
        latent: Float[Tensor, "batch cls_and_visible latent"],
        places: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch requested width"]:
        """Decode the positions that are asked for: their tokens after the decoder's norm.

        Args:
            latent: the encoder's output, CLS first, then the visible tokens in their order.
            places: what is added to each token: to the visible ones in that order, then to those asked for.
            hidden: tokens, in the same order, that no other may attend to.
        """
        decoded: Tensor = self.norm(self.sequence(latent, places, hidden)[:, latent.shape[1] :])
        return decoded

    def sequence(
        self,
        latent: Float[Tensor, "batch cls_and_visible latent"],
        places: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch cls_and_token width"]:
        """Pass all tokens through the blocks, before the norm: CLS, visible, asked for. Attention sees no order."""
        tokens = self.embed(latent)
        num_visible = latent.shape[1] - 1
        visible = tokens[:, 1:] + places[:, :num_visible]
        requested = self.mask_token + places[:, num_visible:]
        sequence = torch.cat([tokens[:, :1].to(visible.dtype), visible, requested.to(visible.dtype)], dim=1)
        decoded: Tensor = self.blocks(sequence, attention_from(hidden))
        return decoded
