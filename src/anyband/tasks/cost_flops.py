"""The arithmetic of a training step, counted from the sizes of the network and of the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

from anyband.models.autoencoder import AutoencoderConfig
from anyband.models.masking import count_decoded, count_visible
from anyband.models.set_encodings import count_features

__all__ = ["BatchFlops", "BatchShape", "SampleTokens", "batch_flops", "block_flops", "sample_tokens"]


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """What a batch holds, as far as its arithmetic depends on it."""

    num_samples: int
    """Pairs or sets."""
    num_slots: int
    """Images of each."""
    groups: tuple[tuple[int, int], ...]
    """(bands, images) of the images that share one projection. Of pairs, the first images and then the second."""
    apart: bool = False
    """Whether the images of a set stand in two sequences."""
    hides_last: bool = False
    """Whether the last image of each set is hidden whole."""


@dataclass(frozen=True, kw_only=True)
class SampleTokens:
    """How many tokens of a sample pass each part of the network."""

    encoder: tuple[int, ...]
    """Tokens of each sequence of the encoder, with CLS."""
    decoder: tuple[int, ...]
    """Tokens of each sequence of the decoder, with CLS."""
    projected: int
    """Tokens of each image that are projected."""
    compared: float
    """Tokens of each image that are reconstructed, on average over the images."""


@dataclass(frozen=True, kw_only=True)
class BatchFlops:
    """Floating-point operations of matrix products, a multiplication and an addition counted as two."""

    blocks: float = 0.0
    """Forward, of all transformer blocks."""
    maps: float = 0.0
    """Forward, of the map into the decoder and of the reconstruction."""
    first: float = 0.0
    """Forward, of products of which one side needs no gradient: projection, weights from ranges, encodings."""
    fixed: float = 0.0
    """Forward, of products of which neither side does: pixels of many bands shared out to ranges."""

    @property
    def trained(self) -> float:
        """Forward and backward: a product takes as much again for each side that needs a gradient.

        Computing a block again for the gradient is no work of the model and does not count.
        """
        return 3 * (self.blocks + self.maps) + 2 * self.first + self.fixed

    def computed(self, *, recompute: bool) -> float:
        """Count what the device does: with recomputation the blocks once more."""
        return self.trained + (self.blocks if recompute else 0.0)

    def plus(self, other: "BatchFlops", *, times: float = 1.0) -> "BatchFlops":
        """Add another batch, so many times."""
        return BatchFlops(
            blocks=self.blocks + times * other.blocks,
            maps=self.maps + times * other.maps,
            first=self.first + times * other.first,
            fixed=self.fixed + times * other.fixed,
        )


def block_flops(lengths: Sequence[int], *, width: int, mlp_ratio: float) -> float:
    """Count the forward operations of one block on some sequences: four maps, and attention's two products.

    Args:
        lengths: tokens of each sequence.
        width: of a token.
        mlp_ratio: width of the hidden layer over `width`.
    """
    maps = 2 * (4 * width**2 + 2 * width * int(width * mlp_ratio))
    return float(sum(length * maps + 4 * length**2 * width for length in lengths))


def sample_tokens(config: AutoencoderConfig, shape: BatchShape) -> SampleTokens:
    """Count the tokens of a sample, of which every sequence has one CLS more.

    Where the images of a set do not all leave as many tokens visible (the last one hidden, or masks as released),
    every token is projected, decoded and compared, and the set is one sequence.

    Args:
        config: of the network.
        shape: of the batch.
    """
    num_tokens = config.encoder.grid[0] * config.encoder.grid[1]
    visible = count_visible(num_tokens, config.mask_ratio)
    if config.images == "set" and (shape.hides_last or config.masking == "released"):
        seen = visible * (shape.num_slots - (shape.hides_last and shape.num_slots > 1))
        return SampleTokens(
            encoder=(1 + seen,),
            decoder=(1 + num_tokens * shape.num_slots,),
            projected=num_tokens,
            compared=float(num_tokens),
        )
    decoded = count_decoded(num_tokens - visible, config.decode_ratio)
    in_sequences = _images_of_sequences(config, shape)
    return SampleTokens(
        encoder=tuple(1 + visible * count for count in in_sequences),
        decoder=tuple(1 + (visible + decoded) * count for count in in_sequences),
        projected=visible,
        compared=float(decoded),
    )


def _images_of_sequences(config: AutoencoderConfig, shape: BatchShape) -> tuple[int, ...]:
    if config.images == "pair":
        return (1, 1)
    second = shape.num_slots // 2
    return (shape.num_slots - second, second) if shape.apart and second else (shape.num_slots,)


def batch_flops(config: AutoencoderConfig, shape: BatchShape, *, num_parts: int = 1) -> BatchFlops:
    """Count the operations of a batch. Norms, activations and sums are no matrix products and do not count.

    Args:
        config: of the network.
        shape: of the whole batch.
        num_parts: pieces that it is computed in, over all processes; each makes the weights of its sensors anew.
    """
    encoder, decoder = config.encoder, config.decoder
    tokens = sample_tokens(config, shape)
    blocks = sum(
        depth * block_flops(lengths, width=width, mlp_ratio=encoder.mlp_ratio)
        for depth, lengths, width in (
            (encoder.depth, tokens.encoder, encoder.embed_dim),
            (decoder.decoder_depth, tokens.decoder, decoder.decoder_embed_dim),
        )
    )
    embedded = 2 * sum(tokens.encoder) * encoder.embed_dim * decoder.decoder_embed_dim
    predicted = encoder.patch_size**2 + 2 * config.levels
    groups = _reconstructed(config, shape)
    values = 2 * predicted * tokens.compared
    mapped = sum(count * times * min(bands, encoder.num_ranges) for (bands, count), times in groups)
    shared = sum(count * times * _shared(bands, encoder.num_ranges) for (bands, count), times in groups)
    pixels = 2 * tokens.projected * encoder.patch_size**2
    return BatchFlops(
        blocks=shape.num_samples * blocks,
        maps=shape.num_samples * embedded + values * mapped * decoder.decoder_embed_dim,
        first=_first_flops(config, shape, tokens.projected)
        + num_parts * _weights_flops(config, shape)
        + values * shared,
        fixed=float(pixels * sum(count * _shared(bands, encoder.num_ranges) for bands, count in shape.groups)),
    )


def _shared(bands: int, num_ranges: int) -> int:
    """Count the products that share out one pixel position between bands and ranges: see `models.spectral`."""
    return bands * num_ranges if bands > num_ranges else 0


def _reconstructed(config: AutoencoderConfig, shape: BatchShape) -> list[tuple[tuple[int, int], int]]:
    """Tell how often each group is reconstructed: as released, the second images of pairs are predicted twice."""
    twice = config.images == "pair" and config.mixup == "released"
    return [(group, 1 + (twice and index == 1)) for index, group in enumerate(shape.groups)]


def _first_flops(config: AutoencoderConfig, shape: BatchShape, projected: int) -> float:
    encoder = config.encoder
    of_pixel = encoder.embed_dim * sum(count * min(bands, encoder.num_ranges) for bands, count in shape.groups)
    features = count_features(encoder.encodings, num_ranges=encoder.num_ranges)
    widths = encoder.embed_dim + config.decoder.decoder_embed_dim
    of_images = shape.num_samples * shape.num_slots * features * widths
    return float(2 * (projected * encoder.patch_size**2 * of_pixel + of_images))


def _weights_flops(config: AutoencoderConfig, shape: BatchShape) -> float:
    """Count what makes each sensor's weights and biases of those of the ranges, once for each part of a batch."""
    encoder, width = config.encoder, config.decoder.decoder_embed_dim
    values = encoder.patch_size**2
    projection = (values + 1) * encoder.embed_dim
    reconstruction = (values + 2 * config.levels) * (width + 1)
    return float(
        sum(
            2 * bands * encoder.num_ranges * (projection + times * reconstruction)
            for (bands, _), times in _reconstructed(config, shape)
            if bands <= encoder.num_ranges
        )
    )
