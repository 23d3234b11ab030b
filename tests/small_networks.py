"""Small networks with first weights, over the published ranges."""

from dataclasses import replace
from typing import Literal

from anyband.models.autoencoder import Autoencoder, AutoencoderConfig
from anyband.models.checkpoint import Checkpoint, state_of
from anyband.models.encodings import EncodingConfig
from anyband.models.published import DECODER_NAMES
from anyband.models.vit import DecoderConfig, EncoderConfig
from anyband.sensors.ranges import load_ranges

INFORMED = EncodingConfig(place=True, resolution=True, date=True, source=True)
"""Encodings of all that may be known of an image."""


def small_checkpoint(
    *,
    img_size: int = 32,
    patch_size: int = 8,
    embed_dim: int = 16,
    depth: int = 1,
    num_heads: int = 2,
    decoder_embed_dim: int = 16,
    encodings: EncodingConfig | None = None,
    images: Literal["pair", "set"] = "pair",
    levels: bool = False,
    seed: int = 0,
) -> Checkpoint:
    """Make a network of these sizes; its decoder has one block of two heads."""
    ranges = load_ranges("smarties_v1")
    encoder = EncoderConfig(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        num_ranges=len(ranges.ranges),
        encodings=encodings or EncodingConfig(),
    )
    decoder = DecoderConfig(decoder_embed_dim=decoder_embed_dim, decoder_depth=1, decoder_num_heads=2)
    config = AutoencoderConfig(encoder=encoder, decoder=decoder, images=images, levels=levels)
    return Checkpoint(config=config, state=state_of(Autoencoder(config, seed=seed)), ranges=ranges)


def encoder_only(checkpoint: Checkpoint) -> Checkpoint:
    """Leave out the decoder and the reconstruction."""
    state = {name: tensor for name, tensor in checkpoint.state.items() if not name.startswith(DECODER_NAMES)}
    return replace(checkpoint, state=state)
