"""The encoder: spectrum-aware projection, positions, CLS and transformer blocks. Any bands, any grid."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.errors import InputError
from anyband.models.blocks import attention_from, make_blocks
from anyband.models.encoder_records import (
    SIZES,
    EncoderConfig,
    EncoderOutput,
    EncoderSize,
    FeatureMaps,
    SetFeatureMaps,
    SetOutput,
    TokenSets,
    encoder_config,
    tokens_as_map,
)
from anyband.models.encodings import Positions
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
    "SetFeatureMaps",
    "SetOutput",
    "TokenSets",
    "encoder_config",
]


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
        tokens, hidden, grid = self._embedded(batch, metadata)
        sequence = self.encode_tokens(tokens, hidden)
        return EncoderOutput(cls=sequence[:, 0], tokens=sequence[:, 1:], hidden=hidden, grid=grid)

    def forward_features(
        self, batch: ImageBatch, *, blocks: Sequence[int], metadata: SetMetadata | None = None
    ) -> FeatureMaps:
        """Encode whole images and give the patch tokens after chosen blocks, before the final norm.

        Args:
            batch: of one sensor.
            blocks: which, from 0.
            metadata: of sets of one image; None: nothing is known. A network without encodings ignores it.

        Returns:
            One map for each.

        Raises:
            InputError: images that do not fit the network, or a block that is not there.
        """
        tokens, hidden, grid = self._embedded(batch, metadata)
        levels = self.token_levels(tokens, hidden, blocks=blocks)
        return FeatureMaps(maps=tuple(tokens_as_map(level, grid) for level in levels), hidden=hidden)

    def encode_set(self, batch: SetBatch) -> SetOutput:
        """Encode whole sets: the images of a set are one sequence, so that every token sees all of them.

        Args:
            batch: sets of equally many images.

        Returns:
            CLS of each set and the tokens of each image, after the final norm.

        Raises:
            InputError: images that do not fit the network or each other.
        """
        sets = self.embed_sets(batch)
        flat = None if sets.hidden is None else sets.hidden.flatten(1)
        sequence = self.encode_tokens(sets.tokens.flatten(1, 2), flat)
        return SetOutput(
            cls=sequence[:, 0],
            tokens=_by_slot(sequence[:, 1:], batch.num_slots),
            hidden=sets.hidden,
            grid=sets.grid,
        )

    def set_features(self, batch: SetBatch, *, blocks: Sequence[int]) -> SetFeatureMaps:
        """Encode whole sets as `encode_set` does, and give the patch tokens after chosen blocks, before the final norm.

        Args:
            batch: sets of equally many images.
            blocks: which, from 0.

        Returns:
            For each block, one map for each image.

        Raises:
            InputError: images that do not fit the network or each other, or a block that is not there.
        """
        sets = self.embed_sets(batch)
        flat = None if sets.hidden is None else sets.hidden.flatten(1)
        levels = self.token_levels(sets.tokens.flatten(1, 2), flat, blocks=blocks)
        maps = tuple(tokens_as_map(_by_slot(level, batch.num_slots), sets.grid) for level in levels)
        return SetFeatureMaps(maps=maps, hidden=sets.hidden)

    def embed_sets(self, batch: SetBatch) -> TokenSets:
        """Project the images of sets to tokens and add what each carries; nothing has attended to anything yet.

        Args:
            batch: sets of equally many images.

        Raises:
            InputError: images that do not fit the network or each other.
        """
        config = self.config
        grid = check_sets(batch, patch_size=config.patch_size, num_ranges=config.num_ranges)
        patches = [standardised_patches(one.pixels, one.valid, config.patch_size) for one in batch.groups]
        projected = [self.projection(part, one.mixing) for part, one in zip(patches, batch.groups, strict=True)]
        tokens = torch.cat(projected)[batch.rows] + self.locations(grid, batch.metadata, image_shares(batch))
        return TokenSets(tokens=tokens, hidden=set_hidden(batch, config.patch_size), grid=grid)

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
        """Encode tokens that already carry their positions, and give them after chosen blocks.

        Args:
            tokens: any number of them.
            hidden: those that no other may attend to; None: none.
            blocks: which, from 0.

        Returns:
            For each block, before the final norm and without CLS.

        Raises:
            InputError: a block that is not there, or none.
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

    def _embedded(
        self, batch: ImageBatch, metadata: SetMetadata | None
    ) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        config = self.config
        grid = check_grid(batch, patch_size=config.patch_size, num_ranges=config.num_ranges)
        hidden = None if batch.valid is None else hidden_tokens(batch.valid, config.patch_size)
        patches = standardised_patches(batch.pixels, batch.valid, config.patch_size)
        shares = batch.mixing.mean(dim=0).expand(len(patches), 1, -1)
        tokens = self.projection(patches, batch.mixing) + self.locations(grid, metadata, shares)[:, 0]
        return tokens, hidden, grid

    def _with_cls(self, tokens: Tensor) -> Tensor:
        cls = (self.cls_token + self.positions.table[:, :1]).expand(tokens.shape[0], -1, -1)
        return torch.cat([cls.to(tokens.dtype), tokens], dim=1)


def _by_slot(tokens: Tensor, num_slots: int) -> Tensor:
    return rearrange(tokens, "s (k n) d -> s k n d", k=num_slots)
