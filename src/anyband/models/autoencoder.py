"""What all masked autoencoders here share: the configuration, the parts, and what a prediction costs."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError, nearest_name
from anyband.models.inputs import ImageBatch
from anyband.models.losses import TargetVariance, patch_moments, token_errors
from anyband.models.masking import MaskingKind, MixupKind
from anyband.models.patches import gather_tokens, hidden_tokens, patchify, standardised_patches
from anyband.models.spectral import SpectralReconstruction
from anyband.models.vit import Decoder, DecoderConfig, Encoder, EncoderConfig, initialise

__all__ = ["Autoencoder", "AutoencoderConfig", "ImagePatches", "SampleKind", "SequenceKind"]

SampleKind = Literal["pair", "set"]
SequenceKind = Literal["joint", "apart"]

# chosen: a pixel's normalised error and a band's error of mean and log-deviation weigh the same.
_LEVEL_WEIGHT = 1.0
# Source: the same floor as the variance of a target has in masked autoencoders (arXiv 2111.06377).
_LEVEL_FLOOR = 1e-6
# chosen: a flat band has no logarithm of its deviation; below a thousandth of a standard deviation all are alike.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that fixes the network and its pre-training task. The defaults are SMARTIES."""

    encoder: EncoderConfig
    """The encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder."""
    mask_ratio: float = 0.75
    """Share of masked positions of each image."""
    mixup_ratio: float = 0.5
    """Share of positions at which a' takes the token of a."""
    mixup: MixupKind = "mirrored"
    """mirrored: b' takes what a' does not. released: b' is b unmixed, as in released code. none: no mixup."""
    decode_ratio: float = 1.0
    """Share of the masked tokens that are decoded and compared, drawn with the mask; 1: all of them. Where an image is
    hidden whole, or images hide unequal shares, all are."""
    norm_pix_loss: bool = True
    """Whether targets are normalised for each token over its valid pixels of all bands."""
    target_variance: TargetVariance = "unbiased"
    """repeated: as the published weights were trained, with bands repeated up to C_max."""
    images: SampleKind = "pair"
    """What a training sample is: a pair of two sensors, or a set of any images of one place."""
    masking: MaskingKind = "anchor"
    """Which images of a set share the anchor's mask."""
    sequence: SequenceKind = "joint"
    """joint: the images of a set are one sequence. apart: the two mixed images stand in sequences of their own, and the
    others follow one and the other in turns."""
    levels: bool = False
    """Whether mean and deviation of each band in a token are predicted too, so that absolute values come back."""

    def __post_init__(self) -> None:
        for found, allowed in (
            (self.mixup, get_args(MixupKind)),
            (self.target_variance, get_args(TargetVariance)),
            (self.images, get_args(SampleKind)),
            (self.masking, get_args(MaskingKind)),
            (self.sequence, get_args(SequenceKind)),
        ):
            if found not in allowed:
                raise InputError(f"'{found}' is not one of {', '.join(allowed)}{nearest_name(found, allowed)}")
        if not 0 < self.mask_ratio < 1 or not 0 <= self.mixup_ratio <= 1:
            raise InputError(
                "mask_ratio must lie between 0 and 1 and mixup_ratio from 0 to 1; found "
                f"{self.mask_ratio:g} and "
                f"{self.mixup_ratio:g}"
            )
        if not 0 < self.decode_ratio <= 1:
            raise InputError(f"decode_ratio is a share over 0, at most 1; found {self.decode_ratio:g}")
        self._check_sets()

    def _check_sets(self) -> None:
        if self.images == "pair" and self.encoder.encodings.any:
            raise InputError("pairs carry no encodings of place, resolution, date or source; train on sets instead")
        if self.images == "set" and self.mixup == "released":
            raise InputError("mixup 'released' is of pairs; in sets the mixup is 'mirrored' or 'none'")
        if self.images == "set" and self.sequence == "apart" and self.masking not in ("anchor", "same"):
            raise InputError(
                f"tokens are exchanged between images that share a mask, which masking '{self.masking}' does not "
                "ensure; take 'anchor' or 'same' with sequence 'apart'"
            )

    @property
    def predicts_values(self) -> bool:
        """Whether predicted pixels have absolute values, and not only a structure inside each token."""
        return self.levels or not self.norm_pix_loss


@dataclass(frozen=True, kw_only=True)
class ImagePatches:
    """Images of one sensor, cut into patches; all of them or those at some positions."""

    values: Float[Tensor, "batch token band_pixel"]
    """Standardised pixels, 0 where missing."""
    valid: Bool[Tensor, "batch token band_pixel"] | None
    """Which have data; None: all."""
    hidden: Bool[Tensor, "batch token"] | None
    """Patches with under half of their pixels valid; None: none."""
    mixing: Float[Tensor, "band range"]
    """Share of each trained range in each band."""

    def at(self, ids: Int[Tensor, "batch chosen"]) -> "ImagePatches":
        """Take the patches at some positions of each image."""
        return ImagePatches(
            values=gather_tokens(self.values, ids),
            valid=None if self.valid is None else gather_tokens(self.valid, ids),
            hidden=None if self.hidden is None else torch.gather(self.hidden, 1, ids),
            mixing=self.mixing,
        )

    @property
    def counted(self) -> Bool[Tensor, "batch token"] | None:
        """Which patches count in a loss; None: all."""
        return None if self.hidden is None else ~self.hidden


class Autoencoder(nn.Module):
    """Encoder, decoder and spectrum-aware reconstruction: the parts of every recipe, and how they are scored.

    Args:
        config: the architecture and the task.
        seed: of the first weights; None leaves them without values, for a checkpoint to fill.
    """

    def __init__(self, config: AutoencoderConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = Encoder(encoder, seed=seed)
        self.decoder = Decoder(config.decoder, encoder=encoder)
        self.reconstruction = SpectralReconstruction(
            num_ranges=encoder.num_ranges,
            num_values=encoder.patch_size**2,
            width=config.decoder.decoder_embed_dim,
        )
        self.levels: SpectralReconstruction | None = None
        if config.levels:
            self.levels = SpectralReconstruction(
                num_ranges=encoder.num_ranges, num_values=2, width=config.decoder.decoder_embed_dim
            )
        if seed is not None:
            initialise(self.decoder, seed=seed, prefix="decoder")
            initialise(self.reconstruction, seed=seed, prefix="reconstruction")
            if self.levels is not None:
                initialise(self.levels, seed=seed, prefix="levels")

    def count(self, batch: Any, noise: Any) -> Float[Tensor, " term"]:
        """Count the masked tokens that enter each term of the loss; parts of a batch are joined by these.

        Args:
            batch: pairs or sets, as the network takes them.
            noise: of the batch.
        """
        raise NotImplementedError

    def cut(self, image: ImageBatch) -> ImagePatches:
        """Cut images into patches."""
        patch_size = self.config.encoder.patch_size
        values = standardised_patches(image.pixels, image.valid, patch_size)
        if image.valid is None:
            return ImagePatches(values=values, valid=None, hidden=None, mixing=image.mixing)
        return ImagePatches(
            values=values,
            valid=patchify(image.valid, patch_size),
            hidden=hidden_tokens(image.valid, patch_size),
            mixing=image.mixing,
        )

    def pixel_errors(
        self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token"]:
        """Compute each token's squared error of pixels, normalised as the task says.

        Args:
            patches: the targets.
            tokens: decoded, at the same positions.
        """
        target = patches.values
        if self.config.norm_pix_loss:
            mean, deviation = self._moments(patches)
            target = (target - mean) / deviation
        errors: Tensor = token_errors(self.reconstruction(tokens, patches.mixing), target, patches.valid)
        return errors

    def errors(self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token"]:
        """Compute all that each token's prediction costs: pixels, and levels where they are predicted."""
        errors = self.pixel_errors(patches, tokens)
        if self.levels is None:
            return errors
        predicted = rearrange(self.levels(tokens, patches.mixing).float(), "b t (c two) -> b t c two", two=2)
        target, known = self._band_levels(patches)
        square = (predicted - target).square().sum(dim=-1)
        of_levels: Tensor = (square * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
        return errors + _LEVEL_WEIGHT * of_levels

    def predicted_pixels(
        self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token band_pixel"]:
        """Predict pixels in standardised units.

        With levels, or where targets are not normalised, nothing of the target is used. Else mean and deviation of the
        target's own patch are put in: a picture's brightness is then given, not predicted.
        """
        predicted: Tensor = self.reconstruction(tokens, patches.mixing).float()
        if self.levels is not None:
            return self._at_levels(predicted, tokens, patches)
        if not self.config.norm_pix_loss:
            return predicted
        mean, deviation = self._moments(patches)
        restored: Tensor = predicted * deviation + mean
        return restored

    def _at_levels(self, predicted: Tensor, tokens: Tensor, patches: ImagePatches) -> Tensor:
        """Give each band its predicted mean, and the structure the contrast of the predicted levels of all bands."""
        assert self.levels is not None
        num_bands = patches.mixing.shape[0]
        levels = rearrange(self.levels(tokens, patches.mixing).float(), "b t (c two) -> b t c two", two=2)
        mean, deviation = levels[..., 0], levels[..., 1].exp()
        spread = (deviation.square() + mean.square()).mean(-1) - mean.mean(-1).square()
        contrast = spread.clamp(min=_LEVEL_FLOOR).sqrt()[..., None, None]
        if not self.config.norm_pix_loss:
            contrast = torch.ones_like(contrast)
        bands = rearrange(predicted, "b t (c p) -> b t c p", c=num_bands)
        centred = bands - bands.mean(dim=-1, keepdim=True)
        pixels: Tensor = rearrange(centred * contrast + mean[..., None], "b t c p -> b t (c p)")
        return pixels

    def _band_levels(self, patches: ImagePatches) -> tuple[Tensor, Tensor]:
        """Compute mean and log-deviation of each band in each token, and which bands have any data there."""
        num_bands = patches.mixing.shape[0]
        values = rearrange(patches.values.float(), "b t (c p) -> b t c p", c=num_bands)
        if patches.valid is None:
            valid = torch.ones_like(values)
        else:
            valid = rearrange(patches.valid.to(values.dtype), "b t (c p) -> b t c p", c=num_bands)
        count = valid.sum(-1)
        mean = (values * valid).sum(-1) / count.clamp(min=1)
        square = ((values - mean[..., None]).square() * valid).sum(-1) / count.clamp(min=1)
        deviation = square.sqrt().clamp(min=_LEAST_DEVIATION)
        return torch.stack([mean, deviation.log()], dim=-1), (count > 0).to(values.dtype)

    def _moments(self, patches: ImagePatches) -> tuple[Tensor, Tensor]:
        return patch_moments(
            patches.values,
            patches.valid,
            variance=self.config.target_variance,
            repeats=max(1, self.config.encoder.max_bands // patches.mixing.shape[0]),
        )
