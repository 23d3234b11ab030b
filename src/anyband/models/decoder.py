"""The decoder of a masked autoencoder: visible tokens in, decoded tokens of every position out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anyband.errors import InputError
from anyband.models.blocks import attention_from, make_blocks
from anyband.models.encoder_records import EncoderConfig
from anyband.models.encodings import Positions
from anyband.models.inputs import SetMetadata
from anyband.models.locations import token_locations
from anyband.models.set_encodings import SetEncodings
from anyband.shapes import Bool, Float

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
        places: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch asked width"]:
        """Decode the positions that are asked for.

        Args:
            latent: the encoder's output, CLS first, then the visible tokens in their order.
            places: what is added to each token: to the visible ones in that order, then to those asked for.
            hidden: tokens, in the same order, that no other may attend to; None: none.

        Returns:
            After the decoder's norm, the tokens asked for.
        """
        decoded: Tensor = self.norm(self.sequence(latent, places, hidden)[:, latent.shape[1] :])
        return decoded

    def sequence(
        self,
        latent: Float[Tensor, "batch cls_and_visible latent"],
        places: Float[Tensor, "batch token width"],
        hidden: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch cls_and_token width"]:
        """Pass all tokens through the blocks, as `forward` does, before the norm: CLS, visible, asked for.

        Attention does not see the order of its tokens, so nothing is brought into the order of the grid.
        """
        tokens = self.embed(latent)
        num_visible = latent.shape[1] - 1
        visible = tokens[:, 1:] + places[:, :num_visible]
        asked = self.mask_token + places[:, num_visible:]
        sequence = torch.cat([tokens[:, :1].to(visible.dtype), visible, asked.to(visible.dtype)], dim=1)
        decoded: Tensor = self.blocks(sequence, attention_from(hidden))
        return decoded
