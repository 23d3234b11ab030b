"""The masked autoencoder over sets of images of one place; a pair is a set of two.

Encoder and decoder see what is visible as one joint sequence, or as two: with `sequence: apart`, and always for pairs,
the anchor and an image of another source exchange tokens first and stand in sequences of their own (inside one
sequence an exchange is a permutation, which attention does not see). Each hidden token is predicted by the bands of
the image that owns it, and no shape depends on the data.

Source: SMARTIES (arXiv 2506.19585), sections 3.1 to 3.3; A²-MAE (arXiv 2406.08079); what of it is our reading stands in
docs/parity.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from einops import rearrange
from pydantic import ConfigDict
from torch import Tensor, nn

from anyband.arrays import Bool, Float
from anyband.errors import InputError
from anyband.models.encodings import NO_ENCODINGS
from anyband.models.inputs import SetBatch, SetNoise
from anyband.models.masking import MaskingKind, MixupKind, SetPlan, draw_plan, plan_from_masked
from anyband.models.patches import (
    ImagePatches,
    PatchSets,
    SpectralReconstruction,
    cut_sets,
    gather_tokens,
    patch_moments,
    unpatchify,
)
from anyband.models.vit import Decoder, DecoderConfig, Encoder, EncoderConfig, initialise

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "SampleKind",
    "SequenceKind",
    "SetLoss",
    "TargetVariance",
]

SampleKind = Literal["pair", "set"]
SequenceKind = Literal["joint", "apart"]
TargetVariance = Literal["unbiased", "repeated"]

# chosen: a pixel's normalised error and a band's error of mean and log-deviation weigh the same.
_LEVEL_WEIGHT = 1.0
# Source: the same floor as the variance of a target has in masked autoencoders (arXiv 2111.06377).
_LEVEL_FLOOR = 1e-6
# chosen: a flat band has no logarithm of its deviation; below a thousandth of a standard deviation all are alike.
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Everything that fixes the network and its pre-training task. The defaults are SMARTIES."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    encoder: EncoderConfig
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    mask_ratio: float = 0.75
    mixup_ratio: float = 0.5
    """Share of positions at which a' takes the token of a."""
    mixup: MixupKind = "mirrored"
    """mirrored: b' takes what a' does not. released: b' is b unmixed, as in released code. none: no mixup."""
    decode_ratio: float = 1.0
    """Share of the masked tokens that is decoded; 1 (all) where images hide unequal shares, or one is hidden whole."""
    norm_pix_loss: bool = True
    """Whether targets are normalised for each token over its valid pixels."""
    target_variance: TargetVariance = "unbiased"
    """repeated: as the published weights were trained, with bands repeated up to C_max."""
    images: SampleKind = "pair"
    masking: MaskingKind = "anchor"
    """Which images of a set share the anchor's mask."""
    sequence: SequenceKind = "joint"
    """joint: one for all images of a set. apart: the two mixed images have their own, the others join in turns."""
    levels: bool = False
    """Whether mean and deviation of each band in a token are predicted too, so that absolute values come back."""

    def __post_init__(self) -> None:
        encoder, decoder = self.encoder, self.decoder
        sides = (encoder.img_size, encoder.patch_size, encoder.embed_dim, encoder.depth, encoder.num_heads)
        if min(*sides, encoder.num_ranges, encoder.max_bands) < 1 or encoder.img_size % encoder.patch_size:
            raise InputError(
                f"an encoder needs sizes and counts over 0 and an img_size that patch_size divides; found "
                f"img_size {encoder.img_size}, patch_size {encoder.patch_size}, embed_dim {encoder.embed_dim}, "
                f"depth {encoder.depth}, num_heads {encoder.num_heads}, num_ranges {encoder.num_ranges}"
            )
        for prefix, width, heads in (
            ("", encoder.embed_dim, encoder.num_heads),
            ("decoder_", decoder.decoder_embed_dim, decoder.decoder_num_heads),
        ):
            if width % heads or width % 4:
                raise InputError(
                    f"{prefix}embed_dim must be a multiple of 4 and of {prefix}num_heads; found {width} with {heads} "
                    "heads"
                )
        if not 0 <= encoder.drop_path < 1:
            raise InputError(f"drop_path must be at least 0 and under 1, found {encoder.drop_path:g}")
        if not 0 < self.mask_ratio < 1 or not 0 <= self.mixup_ratio <= 1:
            raise InputError(
                "mask_ratio must lie between 0 and 1 and mixup_ratio from 0 to 1; found "
                f"{self.mask_ratio:g} and {self.mixup_ratio:g}"
            )
        if not 0 < self.decode_ratio <= 1:
            raise InputError(f"decode_ratio is a share over 0, at most 1; found {self.decode_ratio:g}")
        if self.images == "pair" and encoder.encodings != NO_ENCODINGS:
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
        """Whether predicted pixels have absolute values, and not only structure inside a token."""
        return self.levels or not self.norm_pix_loss


@dataclass(frozen=True, kw_only=True)
class SetLoss:
    """The loss of a batch of sets, the mean of its terms, with the plan that it followed."""

    loss: Float[Tensor, ""]
    terms: Float[Tensor, "term"]
    """Means over masked tokens with data: one of all images; of pairs, one of each mixed image."""
    plan: SetPlan


class Autoencoder(nn.Module):
    """Encoder, decoder and spectrum-aware reconstruction, trained on sets of images of one place.

    The order of the images behind the second slot changes nothing but rounding. Without `seed` weights have no values
    and no memory (`meta`).
    """

    def __init__(self, config: AutoencoderConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        encoder, width = config.encoder, config.decoder.decoder_embed_dim
        # As released, the bands of a target are repeated up to this number before its variance is taken.
        self._repeated_bands = 0 if config.target_variance == "unbiased" else encoder.max_bands
        self.encoder = Encoder(encoder, seed=None)
        self.decoder = Decoder(config.decoder, encoder=encoder)
        with torch.device("meta"):
            self.reconstruction = SpectralReconstruction(
                num_ranges=encoder.num_ranges, num_values=encoder.patch_size**2, width=width
            )
            self.levels: SpectralReconstruction | None = None
            if config.levels:
                self.levels = SpectralReconstruction(num_ranges=encoder.num_ranges, num_values=2, width=width)
        if seed is not None:
            initialise(self, seed=seed, prefix="")

    def forward(self, batch: SetBatch, noise: SetNoise | SetPlan) -> SetLoss:
        """Compute the loss of sets; a plan that was made elsewhere is followed. `InputError` where images or noise do
        not fit the network or each other."""
        sets, plan, ids = self._planned(batch, noise)
        decoded = self._decode(sets, plan, ids)
        if self.config.mixup == "released" and plan.swapped is not None:
            # The second sequence carries its own image everywhere, so some of its tokens are predicted twice.
            assert ids is not None
            own, second = self._errors(sets, ids, decoded)
            crossed = self._errors(sets, ids, [decoded[0], decoded[0]])[1]
            errors = [torch.where(torch.gather(plan.swapped, 1, ids[:, 0]), crossed, own), second]
        else:
            errors = self._exchanged(self._errors(sets, ids, self._exchanged(decoded, plan, ids)), plan, ids)
        counted = self._counted(sets, plan, ids)
        sums = torch.stack([torch.where(one, error, 0.0).sum() for one, error in zip(counted, errors, strict=True)])
        counts = torch.stack([one.sum() for one in counted])
        if self.config.images == "set":
            sums, counts = sums.sum(dim=0, keepdim=True), counts.sum(dim=0, keepdim=True)
        terms = sums / counts.clamp(min=1)
        return SetLoss(loss=terms.mean(), terms=terms, plan=plan)

    def count(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "term"]:
        """Count the tokens that enter each term of the loss; parts of a batch are joined by these."""
        counts = torch.stack([one.sum().float() for one in self._counted(*self._planned(batch, noise))])
        return counts if self.config.images == "pair" else counts.sum(dim=0, keepdim=True)

    def reconstruct(self, batch: SetBatch, noise: SetNoise) -> tuple[tuple[Float[Tensor, "_ _ row col"], ...], SetPlan]:
        """Predict the masked tokens of all images, for pictures as the groups of the batch, in standardised units."""
        sets, plan, _ = self._planned(batch, noise)
        return self._whole(sets, plan), plan

    def complete(
        self, batch: SetBatch, masked: Bool[Tensor, "set slot token"]
    ) -> tuple[Float[Tensor, "_ _ row col"], ...]:
        """Predict chosen tokens from all the others, with their absolute values.

        Args:
            batch: registered images; what stands at the masked tokens is not looked at.
            masked: what to predict; equally many tokens in each set.

        Returns:
            Images as the groups of the batch, in standardised units: tokens not masked as given.

        Raises:
            InputError: a network that predicts structure without values, or masks that do not fit.
        """
        if not self.config.predicts_values:
            raise InputError(
                "this network predicts the structure inside a token and not its values (norm_pix_loss without levels); "
                "train with model.levels=true, as the unified recipes do"
            )
        sets = self._cut(batch)
        expected = (*batch.shape, sets.grid[0] * sets.grid[1])
        if tuple(masked.shape) != expected:
            raise InputError(f"'masked' has shape {tuple(masked.shape)}; give {expected}: set, image, token")
        return self._whole(sets, plan_from_masked(masked), joint=True)

    def hidden_errors(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "set"]:
        """Compute how well the last image of each set is predicted from the others, which hide their usual share. Mean
        squared error of pixels where the anchor is masked too; the mean of each normalised token would give 1."""
        if self.config.images == "pair":
            # Nothing is exchanged, so that the first sequence saw the first image alone.
            sets, plan, _ = self._planned(batch, noise)
            plan, ids = replace(plan, swapped=None), plan.in_images()[1]
            first = self._decode(sets, plan, ids)[0]
            last = self._errors(sets, ids, [first, first], of_levels=False)[1]
            counted = torch.ones_like(ids[:, 1], dtype=torch.bool)
            hidden = None if sets.hidden is None else torch.gather(sets.hidden[:, 1], 1, ids[:, 1])
        else:
            sets, plan, _ = self._planned(batch, replace(noise, hides_last=True))
            last = self._errors(sets, None, self._decode(sets, plan, None), of_levels=False)[-1]
            counted, hidden = plan.masked[:, 0], None if sets.hidden is None else sets.hidden[:, -1]
        counted = counted if hidden is None else counted & ~hidden
        return torch.where(counted, last, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def errors(
        self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"], *, of_levels: bool = True
    ) -> Float[Tensor, "batch token"]:
        """Compute what each token's prediction costs, 0 where no pixel is valid. It is the mean squared error of
        pixels, normalised as the task says, and that of levels where they are predicted and requested."""
        target = patches.values
        if self.config.norm_pix_loss:
            mean, deviation = patch_moments(target, patches.valid, repeats=self._repeated_bands // len(patches.mixing))
            target = (target - mean) / deviation
        predicted: Tensor = self.reconstruction(tokens, patches.mixing)
        square = (predicted.float() - target.float()).square()
        if patches.valid is None:
            errors = square.mean(dim=-1)
        else:
            errors = torch.where(patches.valid, square, 0.0).sum(dim=-1) / patches.valid.sum(dim=-1).clamp(min=1)
        if self.levels is None or not of_levels:
            return errors
        levels = rearrange(self.levels(tokens, patches.mixing).float(), "b t (c two) -> b t c two", two=2)
        expected, known = self._band_levels(patches)
        square = (levels - expected).square().sum(dim=-1)
        level_errors: Tensor = (square * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
        return errors + _LEVEL_WEIGHT * level_errors

    def predicted_pixels(
        self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token band_pixel"]:
        """Predict pixels in standardised units. Only with `norm_pix_loss` and without levels do mean and deviation come
        from the target: brightness is given. With levels each band has its predicted mean, and the structure the
        contrast of the levels of all bands."""
        predicted: Tensor = self.reconstruction(tokens, patches.mixing).float()
        if self.levels is None:
            if not self.config.norm_pix_loss:
                return predicted
            mean, deviation = patch_moments(
                patches.values, patches.valid, repeats=self._repeated_bands // len(patches.mixing)
            )
            return predicted * deviation + mean
        levels = rearrange(self.levels(tokens, patches.mixing).float(), "b t (c two) -> b t c two", two=2)
        mean, deviation = levels[..., 0], levels[..., 1].exp()
        spread = (deviation.square() + mean.square()).mean(-1) - mean.mean(-1).square()
        contrast = spread.clamp(min=_LEVEL_FLOOR).sqrt()[..., None, None]
        if not self.config.norm_pix_loss:
            contrast = torch.ones_like(contrast)
        bands = rearrange(predicted, "b t (c p) -> b t c p", c=patches.mixing.shape[0])
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

    def _cut(self, batch: SetBatch) -> PatchSets:
        encoder = self.config.encoder
        sets = cut_sets(batch, patch_size=encoder.patch_size, num_ranges=encoder.num_ranges)
        if self.config.images == "pair" and batch.shape[1] != 2:
            raise InputError(f"this network is trained on pairs; give sets of two images, found {batch.shape[1]}")
        return sets

    def _planned(self, batch: SetBatch, noise: SetNoise | SetPlan) -> tuple[PatchSets, SetPlan, Tensor | None]:
        """Cut sets, plan what is masked, and choose the masked positions of each image that are decoded; None: all.
        Where only a share is decoded, the noise put it first."""
        config, sets, plan = self.config, self._cut(batch), noise
        if isinstance(plan, SetNoise):
            expected = (*batch.shape, sets.grid[0] * sets.grid[1])
            if tuple(plan.masking.shape) != expected:
                raise InputError(
                    f"noise must have one number for each token of each image, {expected}; found "
                    f"{tuple(plan.masking.shape)}"
                )
            is_pair, is_apart = config.images == "pair", config.sequence == "apart" and batch.partnered
            plan = draw_plan(
                plan,
                sets.hidden,
                masking="same" if is_pair else config.masking,
                mask_ratio=config.mask_ratio,
                mixup_ratio=config.mixup_ratio if config.mixup != "none" and (is_pair or is_apart) else None,
                same_source=batch.same_source,
                first_slot=batch.first_slot,
            )
        if plan.num_visible is None:
            return sets, plan, None
        masked = plan.in_images()[1]
        # At least one is decoded.
        return sets, plan, masked[..., : max(1, round(masked.shape[2] * config.decode_ratio))]

    def _counted(self, sets: PatchSets, plan: SetPlan, ids: Tensor | None) -> list[Tensor]:
        """Tell which decoded tokens count in the loss, where they stand in the sequences: those with data."""
        counted = plan.masked if ids is None else torch.ones_like(ids, dtype=torch.bool)
        if sets.hidden is not None:
            counted = counted & ~(sets.hidden if ids is None else torch.gather(sets.hidden, 2, ids))
        return self._exchanged(list(counted.unbind(1)), plan, ids)

    def _errors(
        self, sets: PatchSets, ids: Tensor | None, of_slots: Sequence[Tensor], *, of_levels: bool = True
    ) -> list[Tensor]:
        """Compare the tokens of each slot with its image, at some positions; None: at all."""
        groups = sets.groups
        if ids is not None:
            of_groups = sets.batch.to_groups(ids.unbind(1))
            groups = tuple(group.at(chosen) for group, chosen in zip(groups, of_groups, strict=True))
        tokens = sets.batch.to_groups(of_slots)
        return sets.batch.to_slots(
            [self.errors(group, one, of_levels=of_levels) for group, one in zip(groups, tokens, strict=True)]
        )

    def _exchanged(self, of_slots: Sequence[Tensor], plan: SetPlan, ids: Tensor | None) -> list[Tensor]:
        """Bring what belongs to the tokens of each image to the sequences; where mirrored, its own inverse. Images that
        exchange tokens share their mask: their tokens at one place stand at one position."""
        if plan.swapped is None:
            return list(of_slots)
        assert ids is not None
        first, second, *rest = of_slots
        swapped = torch.gather(plan.swapped, 1, ids[:, 0])
        swapped = swapped.reshape(*swapped.shape, *[1] * (first.ndim - 2))
        other = second if self.config.mixup == "released" else torch.where(swapped, first, second)
        return [torch.where(swapped, second, first), other, *rest]

    def _decode(self, sets: PatchSets, plan: SetPlan, ids: Tensor | None, *, joint: bool = False) -> list[Tensor]:
        """Encode what is visible and decode some masked positions: of each slot, as they stand in the sequences. Pairs,
        and images that exchange tokens, make up two sequences unless `joint`: the two that exchange, and every other
        behind. Sequences of equal length go through the network as one batch."""
        if ids is None:
            return self._decode_uneven(sets, plan)
        keep = plan.in_images()[0]
        ordered, num_visible, num_slots = torch.cat([keep, ids], dim=2), keep.shape[2], keep.shape[1]
        projected = [
            self.encoder.projection(gather_tokens(group.values, chosen), group.mixing)
            for group, chosen in zip(sets.groups, sets.batch.to_groups(keep.unbind(1)), strict=True)
        ]
        carried = gather_tokens(self.encoder.locations(sets.grid, sets.batch), keep)
        tokens = [one + carried[:, slot] for slot, one in enumerate(sets.batch.to_slots(projected))]
        tokens = self._exchanged(tokens, plan, keep)
        places = gather_tokens(self.decoder.locations(sets.grid, sets.batch), ordered)
        located = self._exchanged(places.unbind(1), plan, ordered)
        hidden = None
        if sets.hidden is not None:
            hidden = self._exchanged(torch.gather(sets.hidden, 2, ordered).unbind(1), plan, ordered)
        slots = range(num_slots)
        sequences = [slots]
        if not joint and (self.config.images == "pair" or plan.swapped is not None):
            sequences = [slots[0::2], slots[1::2]]
        is_even = len({len(one) for one in sequences}) == 1
        decoded: dict[int, Tensor] = {}
        for stack in [sequences] if is_even else [[one] for one in sequences]:
            unseen = None if hidden is None else _laid(hidden, stack, num_visible)
            num_seen = num_visible * len(stack[0])
            latent = self.encoder.encode_tokens(
                _laid(tokens, stack, num_visible), None if unseen is None else unseen[:, :num_seen]
            )
            found = self.decoder(latent, _laid(located, stack, num_visible), unseen)
            for sequence, rows in zip(stack, found.chunk(len(stack)), strict=True):
                decoded |= dict(zip(sequence, rows.chunk(len(sequence), dim=1), strict=True))
        return [decoded[slot] for slot in slots]

    def _decode_uneven(self, sets: PatchSets, plan: SetPlan) -> list[Tensor]:
        """Decode every position, in one sequence a set, whatever is masked in each image."""
        tokens = self.encoder.embed_sets(sets)[0]
        hidden = None if sets.hidden is None else sets.hidden.flatten(1)
        visible_hidden = None if hidden is None else torch.gather(hidden, 1, plan.ids_keep)
        latent = self.encoder.encode_tokens(gather_tokens(tokens.flatten(1, 2), plan.ids_keep), visible_hidden)
        places = self.decoder.locations(sets.grid, sets.batch).expand(*plan.masked.shape, -1).flatten(1, 2)
        ordered = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
        ordered_hidden = None if hidden is None else torch.gather(hidden, 1, ordered)
        decoded = self.decoder(latent, gather_tokens(places, ordered), ordered_hidden, plan.ids_restore)
        return list(decoded.chunk(plan.masked.shape[1], dim=1))

    def _whole(self, sets: PatchSets, plan: SetPlan, *, joint: bool = False) -> tuple[Tensor, ...]:
        """Put predicted pixels into the images where they are masked."""
        ids = None if plan.num_visible is None else plan.in_images()[1]
        decoded = self._decode(sets, plan, ids, joint=joint)
        if self.config.mixup != "released":  # As released, each image has the tokens of its own sequence.
            decoded = self._exchanged(decoded, plan, ids)
        at = sets.batch.to_groups((plan.masked if ids is None else ids).unbind(1))
        images = []
        for group, one, chosen in zip(sets.groups, sets.batch.to_groups(decoded), at, strict=True):
            patches = group if ids is None else group.at(chosen)
            predicted = self.predicted_pixels(patches, one).to(group.values.dtype)
            if ids is None:
                whole = torch.where(chosen.unsqueeze(-1), predicted, group.values)
            else:
                whole = group.values.scatter(1, chosen.unsqueeze(-1).expand_as(predicted), predicted)
            images.append(unpatchify(whole, self.config.encoder.patch_size, sets.grid))
        return tuple(images)


def _laid(of_slots: Sequence[Tensor], stack: Sequence[Sequence[int]], num_visible: int) -> Tensor:
    """Lay the images of each sequence one after the other, what is visible of all of them first."""
    parts = (slice(num_visible), slice(num_visible, None))
    rows = [
        of_slots[slots[0]]
        if len(slots) == 1
        else torch.cat([of_slots[slot][:, part] for part in parts for slot in slots], dim=1)
        for slots in stack
    ]
    return rows[0] if len(rows) == 1 else torch.cat(rows)
