"""The encoder: spectrum-aware projection, positions, CLS and transformer blocks. Any bands, any grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from anyband.errors import InputError, nearest_name
from anyband.models.encodings import EncodingConfig, PositionKind, Positions
from anyband.models.initialise import initialise
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata, check_grid
from anyband.models.locations import check_sets, image_shares, set_hidden, token_locations
from anyband.models.patches import hidden_tokens, standardised_patches
from anyband.models.set_encodings import SetEncodings
from anyband.models.spectral import SpectralProjection
from anyband.shapes import Bool, Float

__all__ = [
    "SIZES",
    "Encoder",
    "EncoderConfig",
    "EncoderOutput",
    "EncoderSize",
    "FeatureMaps",
    "SetOutput",
    "attention_from",
    "encoder_config",
    "make_blocks",
    "set_fused_attention",
]


@dataclass(frozen=True, kw_only=True)
class EncoderSize:
    """The numbers of a named encoder size."""

    embed_dim: int
    """Width of a token."""
    depth: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads."""
    patch_size: int = 16
    """Edge of a patch, pixels."""


# Source: ViT (arXiv 2010.11929), table 1; tiny and small from DeiT (arXiv 2012.12877), table 1.
SIZES = MappingProxyType(
    {
        "tiny": EncoderSize(embed_dim=192, depth=12, num_heads=3),
        "small": EncoderSize(embed_dim=384, depth=12, num_heads=6),
        "base": EncoderSize(embed_dim=768, depth=12, num_heads=12),
        "large": EncoderSize(embed_dim=1024, depth=24, num_heads=16),
        "huge": EncoderSize(embed_dim=1280, depth=32, num_heads=16, patch_size=14),
    }
)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Everything that fixes an encoder's parameters."""

    img_size: int
    """Edge of the images that it is trained on, pixels; others work too."""
    patch_size: int
    """Edge of a patch, pixels."""
    embed_dim: int
    """Width of a token, a multiple of 4 and of num_heads."""
    depth: int
    """Transformer blocks."""
    num_heads: int
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width of a block's hidden layer over embed_dim."""
    num_ranges: int
    """Trained spectral ranges."""
    max_bands: int = 12
    """C_max: tokens are scaled as if the sensor had so many bands."""
    drop_path: float = 0.0
    """Share of samples whose last block is skipped in training; falls to 0 at the first block."""
    norm_eps: float = 1e-6
    """Of the layer norms."""
    positions: PositionKind = "fixed"
    """Sine and cosine positions as computed, or trained from there."""
    encodings: EncodingConfig = field(default_factory=EncodingConfig)
    """What tokens carry beside their position."""

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
    """Make the configuration of a named size: tiny, small, base, large or huge.

    Raises:
        InputError: no such size, or an image size that its patch size does not divide.
    """
    if size not in SIZES:
        raise InputError(f"there is no encoder size '{size}' ({', '.join(SIZES)}){nearest_name(size, SIZES)}")
    numbers = SIZES[size]
    return EncoderConfig(
        img_size=img_size,
        patch_size=numbers.patch_size,
        embed_dim=numbers.embed_dim,
        depth=numbers.depth,
        num_heads=numbers.num_heads,
        num_ranges=num_ranges,
    )


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """Features after the final norm."""

    cls: Float[Tensor, "batch width"]
    """One vector for each image."""
    tokens: Float[Tensor, "batch token width"]
    """One vector for each patch, row by row."""
    hidden: Bool[Tensor, "batch token"] | None
    """Patches with under half of their pixels valid, whose tokens mean nothing; None: there are none."""
    grid: tuple[int, int]
    """Patches down and across."""

    @property
    def map(self) -> Float[Tensor, "batch width row col"]:
        """The tokens as an image."""
        return _as_map(self.tokens, self.grid)


@dataclass(frozen=True, kw_only=True)
class SetOutput:
    """Features of sets, each encoded as one joint sequence, after the final norm."""

    cls: Float[Tensor, "set width"]
    """One vector for each set."""
    tokens: Float[Tensor, "set slot token width"]
    """One vector for each patch of each image, row by row."""
    hidden: Bool[Tensor, "set slot token"] | None
    """Patches with under half of their pixels valid, whose tokens mean nothing; None: there are none."""
    grid: tuple[int, int]
    """Patches down and across."""


@dataclass(frozen=True, kw_only=True)
class FeatureMaps:
    """Patch features of chosen blocks, before the final norm, without CLS."""

    maps: tuple[Float[Tensor, "batch width row col"], ...]
    """One for each block asked for, in that order."""
    hidden: Bool[Tensor, "batch token"] | None
    """Patches with under half of their pixels valid; None: there are none."""


class Encoder(nn.Module):
    """Encode images of any sensor.

    Hidden tokens (under half of their pixels valid) have no influence on any other token.

    Args:
        config: the architecture.
        seed: of the first weights; None leaves them without values, for a checkpoint to fill.
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

    def forward(self, batch: ImageBatch, metadata: SetMetadata | None = None) -> EncoderOutput:
        """Encode whole images, each by itself.

        Args:
            batch: of one sensor.
            metadata: of sets of one image; None: nothing is known. A network without encodings ignores it.

        Returns:
            CLS and patch tokens, after the final norm.

        Raises:
            InputError: images that do not fit the network.
        """
        sequence, attention, hidden, grid = self._embedded(batch, metadata)
        for block in self.blocks:
            sequence = block(sequence, attn_mask=attention)
        sequence = self.norm(sequence)
        return EncoderOutput(cls=sequence[:, 0], tokens=sequence[:, 1:], hidden=hidden, grid=grid)

    def forward_features(self, batch: ImageBatch, *, blocks: Sequence[int]) -> FeatureMaps:
        """Encode whole images and give the patch tokens after chosen blocks, before the final norm.

        Args:
            batch: of one sensor.
            blocks: which, from 0.

        Returns:
            One map for each.

        Raises:
            InputError: images that do not fit the network, or a block that is not there.
        """
        depth = len(self.blocks)
        wrong = [index for index in blocks if not 0 <= index < depth]
        if wrong or not blocks:
            raise InputError(f"blocks {list(blocks)} were asked for; the encoder has 0 to {depth - 1}")
        sequence, attention, hidden, grid = self._embedded(batch, None)
        found: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: max(blocks) + 1]):
            sequence = block(sequence, attn_mask=attention)
            if index in blocks:
                found[index] = _as_map(sequence[:, 1:], grid)
        return FeatureMaps(maps=tuple(found[index] for index in blocks), hidden=hidden)

    def encode_set(self, batch: SetBatch) -> SetOutput:
        """Encode whole sets: the images of a set are one sequence, so that every token sees all of them.

        Args:
            batch: sets of equally many images.

        Returns:
            CLS of each set and the tokens of each image, after the final norm.

        Raises:
            InputError: images that do not fit the network or each other.
        """
        config = self.config
        grid = check_sets(batch, patch_size=config.patch_size, num_ranges=config.num_ranges)
        hidden = set_hidden(batch, config.patch_size)
        patches = [standardised_patches(one.pixels, one.valid, config.patch_size) for one in batch.groups]
        projected = [self.projection(part, one.mixing) for part, one in zip(patches, batch.groups, strict=True)]
        tokens = torch.cat(projected)[batch.rows] + self.locations(grid, batch.metadata, image_shares(batch))
        flat = None if hidden is None else hidden.flatten(1)
        sequence = self.encode_tokens(tokens.flatten(1, 2), flat)
        return SetOutput(
            cls=sequence[:, 0],
            tokens=rearrange(sequence[:, 1:], "s (k n) d -> s k n d", k=batch.num_slots),
            hidden=hidden,
            grid=grid,
        )

    def locations(
        self, grid: tuple[int, int], metadata: SetMetadata | None, shares: Float[Tensor, "set slot range"]
    ) -> Float[Tensor, "#set #slot token width"]:
        """Compute what is added to each token of each image; see `token_locations`."""
        return token_locations(self.positions, self.encodings, grid, metadata, shares)

    def encode_tokens(
        self, tokens: Float[Tensor, "batch visible width"], hidden: Bool[Tensor, "batch visible"] | None
    ) -> Float[Tensor, "batch cls_and_visible width"]:
        """Encode tokens that already carry their positions.

        Args:
            tokens: any number of them.
            hidden: those that no other may attend to; None: none.

        Returns:
            After the final norm, CLS first.
        """
        attention = attention_from(hidden)
        sequence = self._with_cls(tokens)
        for block in self.blocks:
            sequence = block(sequence, attn_mask=attention)
        encoded: Tensor = self.norm(sequence)
        return encoded

    def _embedded(
        self, batch: ImageBatch, metadata: SetMetadata | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, tuple[int, int]]:
        config = self.config
        grid = check_grid(batch, patch_size=config.patch_size, num_ranges=config.num_ranges)
        hidden = None if batch.valid is None else hidden_tokens(batch.valid, config.patch_size)
        patches = standardised_patches(batch.pixels, batch.valid, config.patch_size)
        shares = batch.mixing.mean(dim=0).expand(len(patches), 1, -1)
        tokens = self.projection(patches, batch.mixing) + self.locations(grid, metadata, shares)[:, 0]
        return self._with_cls(tokens), attention_from(hidden), hidden, grid

    def _with_cls(self, tokens: Tensor) -> Tensor:
        cls = (self.cls_token + self.positions.table[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls.to(tokens.dtype), tokens], dim=1)


def make_blocks(
    depth: int, *, width: int, num_heads: int, mlp_ratio: float, norm_eps: float, drop_path: float
) -> nn.ModuleList:
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
        blocks = nn.ModuleList(
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
    return blocks.to_empty(device="cpu")


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


def _as_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return rearrange(tokens, "b (h w) d -> b d h w", h=grid[0], w=grid[1])
