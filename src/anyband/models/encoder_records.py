"""What an encoder is made of and what it gives: named sizes, its configuration, its features."""

from dataclasses import dataclass, field
from types import MappingProxyType

from einops import rearrange
from torch import Tensor

from anyband.errors import InputError, nearest_name
from anyband.models.encodings import EncodingConfig, PositionKind
from anyband.shapes import Bool, Float

__all__ = [
    "SIZES",
    "EncoderConfig",
    "EncoderOutput",
    "EncoderSize",
    "FeatureMaps",
    "SetFeatureMaps",
    "SetOutput",
    "TokenSets",
    "encoder_config",
    "tokens_as_map",
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
        return tokens_as_map(self.tokens, self.grid)


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


@dataclass(frozen=True, kw_only=True)
class SetFeatureMaps:
    """Patch features of sets after chosen blocks, each set encoded as one joint sequence; before the final norm."""

    maps: tuple[Float[Tensor, "set slot width row col"], ...]
    """One for each block asked for, in that order."""
    hidden: Bool[Tensor, "set slot token"] | None
    """Patches with under half of their pixels valid; None: there are none."""


@dataclass(frozen=True, kw_only=True)
class TokenSets:
    """Tokens of the images of some sets before the first block; they carry their positions and encodings."""

    tokens: Float[Tensor, "set slot token width"]
    """One vector for each patch, row by row."""
    hidden: Bool[Tensor, "set slot token"] | None
    """Patches with under half of their pixels valid; None: there are none."""
    grid: tuple[int, int]
    """Patches down and across."""


def tokens_as_map(
    tokens: Float[Tensor, "*batch token width"], grid: tuple[int, int]
) -> Float[Tensor, "*batch width row col"]:
    """Lay tokens out as an image.

    Args:
        tokens: row by row, without CLS.
        grid: patches down and across.
    """
    return rearrange(tokens, "... (h w) d -> ... d h w", h=grid[0], w=grid[1])
