"""The decoder of a masked autoencoder: visible tokens in, decoded tokens of every position out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anyband.errors import InputError
from anyband.models.encoder import EncoderConfig, attention_from, make_blocks
from anyband.models.encodings import Positions
from anyband.models.inputs import SetMetadata
from anyband.models.locations import token_locations
from anyband.models.patches import gather_tokens
from anyband.models.set_encodings import SetEncodings
from anyband.shapes import Bool, Float, Int

__all__ = ["Decoder", "DecoderConfig"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that fixes a decoder's parameters."""

    decoder_embed_dim: int = 512
    """Width of a decoded token, a multiple of 4 and of the heads."""
    decoder_depth: int = 8
    """Transformer blocks."""
    decoder_num_heads: int = 16
    """Attention heads."""

    def __post_init__(self) -> None:
        if min(self.decoder_embed_dim, self.decoder_depth, self.decoder_num_heads) < 1:
            raise InputError(f"a decoder needs sizes and counts over 0; found {self}")
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise InputError(
                f"decoder_embed_dim must be a multiple of 4 and of decoder_num_heads; found "
                f"{self.decoder_embed_dim} with {self.decoder_num_heads} heads"
            )


class Decoder(nn.Module):
    """Decode the tokens of every position from the visible ones.

    Args:
        config: the architecture.
        encoder: of the encoder whose tokens are decoded.
    """

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

    def locations(
        self, grid: tuple[int, int], metadata: SetMetadata | None, shares: Float[Tensor, "set slot range"]
    ) -> Float[Tensor, "#set #slot token width"]:
        """Compute what is added to each token of each image; see `token_locations`."""
        return token_locations(self.positions, self.encodings, grid, metadata, shares)

    def forward(
        self,
        latent: Float[Tensor, "batch cls_and_visible latent"],
        ids_restore: Int[Tensor, "batch token"],
        hidden: Bool[Tensor, "batch token"] | None,
        positions: Float[Tensor, "#batch cls_and_token width"],
    ) -> Float[Tensor, "batch cls_and_token width"]:
        """Decode every position.

        Args:
            latent: the encoder's output, CLS first, then the visible tokens in their order.
            ids_restore: where each position stands among (visible, masked).
            hidden: positions that no other may attend to; None: none.
            positions: what is added to CLS and to each position.

        Returns:
            After the decoder's norm, CLS first, then the positions row by row.
        """
        tokens = self.embed(latent)
        visible = tokens[:, 1:]
        num_masked = ids_restore.shape[1] - visible.shape[1]
        blank = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], num_masked, -1)
        ordered = gather_tokens(torch.cat([visible, blank], dim=1), ids_restore)
        sequence = torch.cat([tokens[:, :1], ordered], dim=1) + positions
        attention = attention_from(hidden)
        for block in self.blocks:
            sequence = block(sequence, attn_mask=attention)
        decoded: Tensor = self.norm(sequence)
        return decoded
