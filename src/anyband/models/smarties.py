"""SMARTIES pre-training: exchange tokens of two sensors, hide most of them, predict the hidden pixels.

At each position, one of the two mixed images a' and b' carries the token of image a and the other the token
of image b. So each masked token of a and of b is predicted exactly once, and no shape depends on the data.

Source: SMARTIES (arXiv 2506.19585), sections 3.1 to 3.3.
"""

from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor, nn

from anyband.errors import InputError, nearest_name
from anyband.models.autoencoder import Decoder, DecoderConfig
from anyband.models.encoder import Encoder, EncoderConfig
from anyband.models.initialise import initialise
from anyband.models.inputs import ImageBatch, PairBatch, PairNoise, check_grid
from anyband.models.losses import TargetVariance, mean_over, patch_moments, token_errors
from anyband.models.masking import MixupKind, PairPlan, draw_pair_plan
from anyband.models.patches import gather_tokens, hidden_tokens, patchify, standardised_patches, unpatchify
from anyband.models.spectral import SpectralReconstruction
from anyband.shapes import Bool, Float

__all__ = ["PairOutput", "PairReconstruction", "Smarties", "SmartiesConfig"]


@dataclass(frozen=True, kw_only=True)
class SmartiesConfig:
    """Everything that fixes the network and its pre-training task."""

    encoder: EncoderConfig
    """The encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder."""
    mask_ratio: float = 0.75
    """Share of masked positions."""
    mixup_ratio: float = 0.5
    """Share of positions at which a' takes the token of a."""
    mixup: MixupKind = "mirrored"
    """mirrored: b' takes what a' does not. released: b' is b unmixed, as in released code. none: no mixup."""
    norm_pix_loss: bool = True
    """Whether targets are normalised for each token over its valid pixels of all bands."""
    target_variance: TargetVariance = "unbiased"
    """repeated: as the published weights were trained, with bands repeated up to C_max."""

    def __post_init__(self) -> None:
        for found, allowed in (
            (self.mixup, get_args(MixupKind)),
            (self.target_variance, get_args(TargetVariance)),
        ):
            if found not in allowed:
                raise InputError(f"'{found}' is not one of {', '.join(allowed)}{nearest_name(found, allowed)}")
        if not 0 < self.mask_ratio < 1 or not 0 <= self.mixup_ratio <= 1:
            raise InputError(
                "mask_ratio must lie between 0 and 1 and mixup_ratio from 0 to 1; found "
                f"{self.mask_ratio:g} and "
                f"{self.mixup_ratio:g}"
            )


@dataclass(frozen=True, kw_only=True)
class PairOutput:
    """The loss of a batch of pairs, and what was exchanged and masked."""

    loss: Float[Tensor, ""]
    """Mean of the two terms."""
    loss_a: Float[Tensor, ""]
    """Term of the mixed image a'."""
    loss_b: Float[Tensor, ""]
    """Term of the mixed image b'."""
    plan: PairPlan
    """Which tokens were exchanged and masked."""


@dataclass(frozen=True, kw_only=True)
class PairReconstruction:
    """Both images with their masked tokens predicted, in standardised units, and who saw what."""

    a: Float[Tensor, "batch band_a row col"]
    """Image a: visible tokens as seen, masked ones predicted, with the target patch's mean and deviation."""
    b: Float[Tensor, "batch band_b row col"]
    """Image b, likewise."""
    masked: Bool[Tensor, "batch token"]
    """Positions hidden from the encoder, in both mixed images."""
    from_a: Bool[Tensor, "batch token"]
    """Positions at which a' carries the token of a (and b' that of b, where the mixup is mirrored)."""
    grid: tuple[int, int]
    """Patches down and across."""


@dataclass(frozen=True, kw_only=True)
class _Patches:
    """One image of the pair, cut into patches."""

    values: Tensor
    valid: Tensor | None
    hidden: Tensor | None
    mixing: Tensor


class Smarties(nn.Module):
    """Encoder, decoder and spectrum-aware reconstruction, trained on pairs of sensors.

    Args:
        config: the architecture and the task.
        seed: of the first weights; None leaves them without values, for a checkpoint to fill.
    """

    def __init__(self, config: SmartiesConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = Encoder(encoder, seed=seed)
        self.decoder = Decoder(
            config.decoder,
            embed_dim=encoder.embed_dim,
            grid=encoder.grid,
            mlp_ratio=encoder.mlp_ratio,
            norm_eps=encoder.norm_eps,
        )
        self.reconstruction = SpectralReconstruction(
            num_ranges=encoder.num_ranges,
            patch_size=encoder.patch_size,
            width=config.decoder.decoder_embed_dim,
        )
        if seed is not None:
            initialise(self.decoder, seed=seed, prefix="decoder")
            initialise(self.reconstruction, seed=seed, prefix="reconstruction")

    def forward(self, pair: PairBatch, noise: PairNoise) -> PairOutput:
        """Compute the loss of a batch of pairs.

        Args:
            pair: registered images of two sensors.
            noise: one number for each position and purpose.

        Returns:
            The loss with its two terms.

        Raises:
            InputError: images or noise that do not fit the network or each other.
        """
        grid = self._check(pair)
        a, b = self._cut(pair.a), self._cut(pair.b)
        plan = self._draw(a, b, noise)
        decoded = self._decode(self._encode(a, b, plan, grid), a, b, plan, grid)
        loss_a, loss_b = self._losses(a, b, plan, decoded)
        return PairOutput(loss=(loss_a + loss_b) / 2, loss_a=loss_a, loss_b=loss_b, plan=plan)

    def follow(self, pair: PairBatch, plan: PairPlan) -> tuple[Tensor, Tensor, PairOutput]:
        """Compute the loss of a plan that was made elsewhere, with what the encoder and decoder gave.

        Args:
            pair: registered images of two sensors.
            plan: what is exchanged and masked.

        Returns:
            Latent tokens (2 · batch, 1 + visible, width) and decoded tokens (2 · batch, 1 + token, width), of
            a' then of b', and the losses.
        """
        grid = self._check(pair)
        a, b = self._cut(pair.a), self._cut(pair.b)
        latent = self._encode(a, b, plan, grid)
        decoded = self._decode(latent, a, b, plan, grid)
        loss_a, loss_b = self._losses(a, b, plan, decoded)
        output = PairOutput(loss=(loss_a + loss_b) / 2, loss_a=loss_a, loss_b=loss_b, plan=plan)
        return latent, decoded, output

    def reconstruct(self, pair: PairBatch, noise: PairNoise) -> PairReconstruction:
        """Predict the masked tokens of both images, for pictures.

        Args:
            pair: registered images of two sensors.
            noise: one number for each position and purpose.

        Returns:
            Both images, whole.

        Raises:
            InputError: images or noise that do not fit the network or each other.
        """
        grid = self._check(pair)
        a, b = self._cut(pair.a), self._cut(pair.b)
        plan = self._draw(a, b, noise)
        first, second = self._masked_tokens(self._decode(self._encode(a, b, plan, grid), a, b, plan, grid), plan)
        from_a = torch.gather(plan.from_a, 1, plan.ids_masked).unsqueeze(-1)
        mirrored = self.config.mixup != "released"
        tokens_a = torch.where(from_a, first, second) if mirrored else first
        tokens_b = torch.where(from_a, second, first) if mirrored else second
        return PairReconstruction(
            a=self._whole(a, tokens_a, plan, grid),
            b=self._whole(b, tokens_b, plan, grid),
            masked=plan.masked,
            from_a=plan.from_a,
            grid=grid,
        )

    def _check(self, pair: PairBatch) -> tuple[int, int]:
        encoder = self.config.encoder
        grids = [
            check_grid(image, patch_size=encoder.patch_size, num_ranges=encoder.num_ranges)
            for image in (pair.a, pair.b)
        ]
        if grids[0] != grids[1] or pair.a.pixels.shape[0] != pair.b.pixels.shape[0]:
            raise InputError(
                f"the two images of a pair must have equal sides and counts; found "
                f"{tuple(pair.a.pixels.shape)} and {tuple(pair.b.pixels.shape)}"
            )
        return grids[0]

    def _cut(self, image: ImageBatch) -> _Patches:
        patch_size = self.config.encoder.patch_size
        values = standardised_patches(image.pixels, image.valid, patch_size)
        if image.valid is None:
            return _Patches(values=values, valid=None, hidden=None, mixing=image.mixing)
        return _Patches(
            values=values,
            valid=patchify(image.valid, patch_size),
            hidden=hidden_tokens(image.valid, patch_size),
            mixing=image.mixing,
        )

    def _draw(self, a: _Patches, b: _Patches, noise: PairNoise) -> PairPlan:
        expected = a.values.shape[:2]
        if noise.masking.shape != expected or noise.mixup.shape != expected:
            raise InputError(
                f"noise must have one number for each of {expected[0]} × {expected[1]} tokens; found "
                f"{tuple(noise.mixup.shape)} for the mixup and {tuple(noise.masking.shape)} for the masking"
            )
        counts = [image.hidden.long() for image in (a, b) if image.hidden is not None]
        return draw_pair_plan(
            noise,
            torch.stack(counts).sum(dim=0) if counts else None,
            mask_ratio=self.config.mask_ratio,
            mixup_ratio=self.config.mixup_ratio,
            mixup=self.config.mixup,
        )

    def _exchange(self, a: Tensor, b: Tensor, from_a: Tensor) -> Tensor:
        """Mix what belongs to tokens of a and b into a', then b', as one batch. Mirrored: a' + b' = a + b."""
        second = b if self.config.mixup == "released" else torch.where(from_a, b, a)
        return torch.cat([torch.where(from_a, a, b), second])

    def _hidden(self, a: _Patches, b: _Patches, plan: PairPlan) -> Tensor | None:
        if a.hidden is None and b.hidden is None:
            return None
        none = torch.zeros_like(plan.masked)
        hidden_a = none if a.hidden is None else a.hidden
        hidden_b = none if b.hidden is None else b.hidden
        return self._exchange(hidden_a, hidden_b, plan.from_a)

    def _encode(self, a: _Patches, b: _Patches, plan: PairPlan, grid: tuple[int, int]) -> Tensor:
        # At a visible position a' takes the token of one image and b' that of the other: project each once.
        tokens_a, tokens_b = (
            self.encoder.projection(gather_tokens(image.values, plan.ids_keep), image.mixing) for image in (a, b)
        )
        from_a = torch.gather(plan.from_a, 1, plan.ids_keep).unsqueeze(-1)
        positions = self.encoder.positions(grid)[:, 1:].expand(len(plan.ids_keep), -1, -1)
        mixed = self._exchange(tokens_a, tokens_b, from_a) + _twice(gather_tokens(positions, plan.ids_keep))
        hidden = self._hidden(a, b, plan)
        visible_hidden = None if hidden is None else torch.gather(hidden, 1, _twice(plan.ids_keep))
        return self.encoder.encode_tokens(mixed, visible_hidden)

    def _decode(self, latent: Tensor, a: _Patches, b: _Patches, plan: PairPlan, grid: tuple[int, int]) -> Tensor:
        decoded: Tensor = self.decoder(latent, _twice(plan.ids_restore), self._hidden(a, b, plan), grid=grid)
        return decoded

    def _masked_tokens(self, decoded: Tensor, plan: PairPlan) -> tuple[Tensor, Tensor]:
        first, second = gather_tokens(decoded[:, 1:], _twice(plan.ids_masked)).chunk(2)
        return first, second

    def _losses(self, a: _Patches, b: _Patches, plan: PairPlan, decoded: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self._masked_tokens(decoded, plan)
        from_a = torch.gather(plan.from_a, 1, plan.ids_masked)
        owner = from_a.unsqueeze(-1)
        masked_a, masked_b = _gathered(a, plan), _gathered(b, plan)
        if self.config.mixup == "released":
            # b' carries b everywhere: tokens of b that stand in a' too are predicted twice, some of a never.
            errors_a, errors_b = self._errors(masked_a, first), self._errors(masked_b, first)
            errors_second, counted_second = self._errors(masked_b, second), _counted(masked_b)
        else:
            errors_a = self._errors(masked_a, torch.where(owner, first, second))
            errors_b = self._errors(masked_b, torch.where(owner, second, first))
            errors_second = torch.where(from_a, errors_b, errors_a)
            counted_second = _counted_of(from_a, masked_b, masked_a)
        loss_a = mean_over(torch.where(from_a, errors_a, errors_b), _counted_of(from_a, masked_a, masked_b))
        return loss_a, mean_over(errors_second, counted_second)

    def _errors(self, masked: _Patches, tokens: Tensor) -> Tensor:
        target = masked.values
        if self.config.norm_pix_loss:
            mean, deviation = self._moments(masked)
            target = (target - mean) / deviation
        return token_errors(self.reconstruction(tokens, masked.mixing), target, masked.valid)

    def _moments(self, patches: _Patches) -> tuple[Tensor, Tensor]:
        return patch_moments(
            patches.values,
            patches.valid,
            variance=self.config.target_variance,
            repeats=max(1, self.config.encoder.max_bands // patches.mixing.shape[0]),
        )

    def _whole(self, image: _Patches, tokens: Tensor, plan: PairPlan, grid: tuple[int, int]) -> Tensor:
        predicted = self.reconstruction(tokens, image.mixing).to(image.values.dtype)
        if self.config.norm_pix_loss:
            mean, deviation = self._moments(_gathered(image, plan))
            predicted = predicted * deviation + mean
        shuffled = torch.cat([gather_tokens(image.values, plan.ids_keep), predicted], dim=1)
        return unpatchify(gather_tokens(shuffled, plan.ids_restore), self.config.encoder.patch_size, grid)


def _twice(tensor: Tensor) -> Tensor:
    """Repeat a batch for a' and b'."""
    return torch.cat([tensor, tensor])


def _gathered(image: _Patches, plan: PairPlan) -> _Patches:
    """Take the masked tokens of an image."""
    return _Patches(
        values=gather_tokens(image.values, plan.ids_masked),
        valid=None if image.valid is None else gather_tokens(image.valid, plan.ids_masked),
        hidden=None if image.hidden is None else torch.gather(image.hidden, 1, plan.ids_masked),
        mixing=image.mixing,
    )


def _counted(image: _Patches) -> Tensor | None:
    return None if image.hidden is None else ~image.hidden


def _counted_of(from_a: Tensor, first: _Patches, second: _Patches) -> Tensor | None:
    """Find the tokens that count in the loss: not hidden, each in the image it comes from."""
    if first.hidden is None and second.hidden is None:
        return None
    every = torch.ones_like(from_a)
    counted = [every if image.hidden is None else ~image.hidden for image in (first, second)]
    return torch.where(from_a, counted[0], counted[1])
