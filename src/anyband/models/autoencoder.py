"""The masked autoencoder over sets of images of one place; a pair is a set of two.

Encoder and decoder see what is visible as one joint sequence, or as two: with `sequence: apart`, and always for pairs,
the anchor and an image of another source exchange tokens first and stand in sequences of their own (inside one
sequence an exchange is a permutation, which attention does not see). Each hidden token is predicted by the bands of
the image that owns it, and no shape depends on the data.

Source: SMARTIES (arXiv 2506.19585), sections 3.1 to 3.3; A²-MAE (arXiv 2406.08079); what of it is our reading stands in
docs/parity.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from einops import rearrange
from pydantic import ConfigDict
from torch import Tensor, nn

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError, nearest_name
from anyband.models.encodings import check_sets, set_hidden
from anyband.models.inputs import ImageBatch, SetBatch, SetNoise
from anyband.models.masking import MaskingKind, MixupKind, SetPlan, count_decoded, draw_plan, plan_from_masked
from anyband.models.patches import (
    SpectralReconstruction,
    TargetVariance,
    gather_tokens,
    patch_moments,
    patchify,
    standardised_patches,
    token_errors,
    unpatchify,
)
from anyband.models.vit import Decoder, DecoderConfig, Encoder, EncoderConfig, initialise

__all__ = [
    "Autoencoder",
    "AutoencoderConfig",
    "ImagePatches",
    "SampleKind",
    "SequenceKind",
    "SetLoss",
]

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
        """Whether predicted pixels have absolute values, and not only structure inside a token."""
        return self.levels or not self.norm_pix_loss


@dataclass(frozen=True, kw_only=True)
class ImagePatches:
    """Images of one sensor, cut into patches; all of them or those at some positions."""

    values: Float[Tensor, "batch token band_pixel"]
    """Standardised pixels, 0 where missing."""
    valid: Bool[Tensor, "batch token band_pixel"] | None
    """Which have data; None: all."""
    mixing: Float[Tensor, "band range"]

    def at(self, ids: Int[Tensor, "batch chosen"]) -> "ImagePatches":
        valid = None if self.valid is None else gather_tokens(self.valid, ids)
        return ImagePatches(values=gather_tokens(self.values, ids), valid=valid, mixing=self.mixing)


@dataclass(frozen=True, kw_only=True)
class SetLoss:
    """The loss of a batch of sets, the mean of its terms, with the plan that it followed."""

    loss: Float[Tensor, ""]
    terms: Float[Tensor, "term"]
    """Means over masked tokens with data: one of all images; of pairs, one of each mixed image."""
    plan: SetPlan


@dataclass(frozen=True, kw_only=True)
class _Sets:
    batch: SetBatch
    groups: tuple[ImagePatches, ...]
    hidden: Tensor | None
    grid: tuple[int, int]


class Autoencoder(nn.Module):
    """Encoder, decoder and spectrum-aware reconstruction, trained on sets of images of one place.

    The order of the images behind the second slot changes nothing but rounding. Without `seed` weights have no values.
    """

    def __init__(self, config: AutoencoderConfig, *, seed: int | None) -> None:
        super().__init__()
        self.config = config
        encoder, width = config.encoder, config.decoder.decoder_embed_dim
        self.encoder = Encoder(encoder, seed=seed)
        self.decoder = Decoder(config.decoder, encoder=encoder)
        self.reconstruction = SpectralReconstruction(
            num_ranges=encoder.num_ranges, num_values=encoder.patch_size**2, width=width
        )
        self.levels: SpectralReconstruction | None = None
        if config.levels:
            self.levels = SpectralReconstruction(num_ranges=encoder.num_ranges, num_values=2, width=width)
        if seed is not None:
            for name, part in self.named_children():
                if name != "encoder":
                    initialise(part, seed=seed, prefix=name)

    def forward(self, batch: SetBatch, noise: SetNoise) -> SetLoss:
        """Compute the loss of sets; `InputError` where images or noise do not fit the network or each other."""
        sets = self._cut_sets(batch)
        return self._loss(sets, self._draw(sets, noise))

    def follow(self, batch: SetBatch, plan: SetPlan) -> SetLoss:
        """Compute the loss of a plan that was made elsewhere."""
        return self._loss(self._cut_sets(batch), plan)

    def count(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "term"]:
        """Count the tokens that enter each term of the loss; parts of a batch are joined by these."""
        sets = self._cut_sets(batch)
        plan = self._draw(sets, noise)
        return self._of_terms([one.sum().float() for one in self._counted(sets, plan, self._decoded_ids(plan))])

    def reconstruct(self, batch: SetBatch, noise: SetNoise) -> tuple[tuple[Float[Tensor, "_ _ row col"], ...], SetPlan]:
        """Predict the masked tokens of all images, for pictures as the groups of the batch, in standardised units."""
        sets = self._cut_sets(batch)
        plan = self._draw(sets, noise)
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
        sets = self._cut_sets(batch)
        expected = self._shape(sets)
        if tuple(masked.shape) != expected:
            raise InputError(f"'masked' has shape {tuple(masked.shape)}; give {expected}: set, image, token")
        return self._whole(sets, plan_from_masked(masked), apart=False)

    def hidden_errors(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "set"]:
        """Compute how well the last image of each set is predicted from the others, which hide their usual share.

        Mean squared error of pixels where the anchor is masked too; the mean of each normalised token would give 1.
        """
        sets = self._cut_sets(batch)
        if self.config.images == "pair":
            # Nothing is exchanged, so that the first sequence saw the first image alone.
            plan = replace(self._draw(sets, noise), swapped=None)
            ids = plan.in_images()[1]
            tokens = self._decode(sets, plan, ids, apart=True)[0]
            last = self._crossed_errors(sets, ids, tokens, self.pixel_errors)
            counted = torch.ones_like(ids[:, 1], dtype=torch.bool)
            hidden = None if sets.hidden is None else torch.gather(sets.hidden[:, 1], 1, ids[:, 1])
        else:
            plan = self._draw(sets, replace(noise, hides_last=True))
            last = self._errors(sets, None, self._decode(sets, plan, None, apart=False), self.pixel_errors)[-1]
            counted, hidden = plan.masked[:, 0], None if sets.hidden is None else sets.hidden[:, -1]
        counted = counted if hidden is None else counted & ~hidden
        return torch.where(counted, last, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    def cut(self, image: ImageBatch) -> ImagePatches:
        patch_size = self.config.encoder.patch_size
        return ImagePatches(
            values=standardised_patches(image.pixels, image.valid, patch_size),
            valid=None if image.valid is None else patchify(image.valid, patch_size),
            mixing=image.mixing,
        )

    def pixel_errors(
        self, patches: ImagePatches, tokens: Float[Tensor, "batch token width"]
    ) -> Float[Tensor, "batch token"]:
        """Compute each token's squared error of pixels, normalised as the task says."""
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

        Only with `norm_pix_loss` and without levels do mean and deviation come from the target: brightness is given.
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

    def _cut_sets(self, batch: SetBatch) -> _Sets:
        encoder = self.config.encoder
        grid = check_sets(batch, patch_size=encoder.patch_size, num_ranges=encoder.num_ranges)
        if self.config.images == "pair" and batch.num_slots != 2:
            raise InputError(f"this network is trained on pairs; give sets of two images, found {batch.num_slots}")
        groups = tuple(self.cut(group) for group in batch.groups)
        return _Sets(batch=batch, groups=groups, hidden=set_hidden(batch, encoder.patch_size), grid=grid)

    def _shape(self, sets: _Sets) -> tuple[int, int, int]:
        return sets.batch.num_sets, sets.batch.num_slots, sets.grid[0] * sets.grid[1]

    def _apart(self, batch: SetBatch) -> bool:
        """Whether images stand in two sequences: pairs, and where tokens are exchanged between two sources."""
        config = self.config
        return config.images == "pair" or (
            config.mixup == "mirrored" and config.sequence == "apart" and batch.partnered
        )

    def _draw(self, sets: _Sets, noise: SetNoise) -> SetPlan:
        expected, config, batch = self._shape(sets), self.config, sets.batch
        if tuple(noise.masking.shape) != expected:
            raise InputError(
                f"noise must have one number for each token of each image, {expected}; found "
                f"{tuple(noise.masking.shape)}"
            )
        exchanges = config.mixup != "none" and self._apart(batch)
        return draw_plan(
            noise,
            sets.hidden,
            masking="same" if config.images == "pair" else config.masking,
            mask_ratio=config.mask_ratio,
            mixup_ratio=config.mixup_ratio if exchanges else None,
            same_source=batch.same_source,
            first_slot=batch.first_slot,
        )

    def _decoded_ids(self, plan: SetPlan) -> Tensor | None:
        """Choose the masked positions of each image that are decoded: those that the noise put first. None: all."""
        if plan.num_visible is None:
            return None
        masked = plan.in_images()[1]
        return masked[..., : count_decoded(masked.shape[2], self.config.decode_ratio)]

    def _loss(self, sets: _Sets, plan: SetPlan) -> SetLoss:
        ids = self._decoded_ids(plan)
        decoded = self._decode(sets, plan, ids, apart=self._apart(sets.batch))
        errors = self._errors(sets, ids, self._owned(decoded, plan, ids), self.errors)
        if self.config.mixup == "released" and plan.swapped is not None:
            # The second sequence carries its own image everywhere, so some of its tokens are predicted twice.
            assert ids is not None
            crossed = self._crossed_errors(sets, ids, decoded[0], self.errors)
            errors = [self._exchanged([errors[0], crossed], plan, ids)[0], errors[1]]
        else:
            errors = self._exchanged(errors, plan, ids)
        counted = self._counted(sets, plan, ids)
        sums = [torch.where(one, error, 0.0).sum() for one, error in zip(counted, errors, strict=True)]
        terms = self._of_terms(sums) / self._of_terms([one.sum() for one in counted]).clamp(min=1)
        return SetLoss(loss=terms.mean(), terms=terms, plan=plan)

    def _of_terms(self, of_slots: Sequence[Tensor]) -> Tensor:
        """Add up what belongs to the terms of the loss: of pairs each mixed image has its own."""
        found = torch.stack(list(of_slots))
        return found if self.config.images == "pair" else found.sum(dim=0, keepdim=True)

    def _counted(self, sets: _Sets, plan: SetPlan, ids: Tensor | None) -> list[Tensor]:
        """Tell which decoded tokens count in the loss, where they stand in the sequences: those with data."""
        counted = plan.masked if ids is None else torch.ones_like(ids, dtype=torch.bool)
        if sets.hidden is not None:
            counted = counted & ~(sets.hidden if ids is None else torch.gather(sets.hidden, 2, ids))
        return self._exchanged(list(counted.unbind(1)), plan, ids)

    def _errors(
        self,
        sets: _Sets,
        ids: Tensor | None,
        of_slots: Sequence[Tensor],
        errors: Callable[[ImagePatches, Tensor], Tensor],
    ) -> list[Tensor]:
        """Compare the tokens of each slot with its image, at some positions; None: at all."""
        tokens = sets.batch.to_groups(of_slots)
        groups: Sequence[ImagePatches] = sets.groups
        if ids is not None:
            of_groups = sets.batch.to_groups(ids.unbind(1))
            groups = [group.at(chosen) for group, chosen in zip(sets.groups, of_groups, strict=True)]
        return sets.batch.to_slots([errors(group, one) for group, one in zip(groups, tokens, strict=True)])

    def _crossed_errors(
        self, sets: _Sets, ids: Tensor, tokens: Tensor, errors: Callable[[ImagePatches, Tensor], Tensor]
    ) -> Tensor:
        """Compare the tokens of the first slot with the image of the second, at some positions."""
        if sets.batch.rows is None:
            return errors(sets.groups[1].at(ids[:, 1]), tokens)
        return self._errors(sets, ids, [tokens, tokens], errors)[1]

    def _exchanged(self, of_slots: Sequence[Tensor], plan: SetPlan, ids: Tensor | None) -> list[Tensor]:
        """Bring what belongs to the tokens of each image to the sequences; where mirrored, its own inverse.

        Images that exchange tokens share their mask: their tokens at one place stand at one position.
        """
        if plan.swapped is None:
            return list(of_slots)
        assert ids is not None
        first, second, *rest = of_slots
        swapped = torch.gather(plan.swapped, 1, ids[:, 0])
        swapped = swapped.reshape(*swapped.shape, *[1] * (first.ndim - 2))
        other = second if self.config.mixup == "released" else torch.where(swapped, first, second)
        return [torch.where(swapped, second, first), other, *rest]

    def _owned(self, of_slots: Sequence[Tensor], plan: SetPlan, ids: Tensor | None) -> list[Tensor]:
        """Bring decoded tokens to the images that own them; as released, each image has those of its own sequence."""
        return list(of_slots) if self.config.mixup == "released" else self._exchanged(of_slots, plan, ids)

    def _decode(self, sets: _Sets, plan: SetPlan, ids: Tensor | None, *, apart: bool) -> list[Tensor]:
        """Encode what is visible and decode some masked positions: of each slot, as they stand in the sequences."""
        if ids is None:
            return self._decode_uneven(sets, plan)
        keep = plan.in_images()[0]
        ordered, num_visible = torch.cat([keep, ids], dim=2), keep.shape[2]
        tokens = self._exchanged(self._visible(sets, keep), plan, keep)
        places = self.decoder.locations(sets.grid, sets.batch)
        located = [_located(places, slot, ordered[:, slot]) for slot in range(ordered.shape[1])]
        if not _are_shared(places):
            located = self._exchanged(located, plan, ordered)
        hidden: list[Tensor] | None = None
        if sets.hidden is not None:
            hidden = self._exchanged(list(torch.gather(sets.hidden, 2, ordered).unbind(1)), plan, ordered)
        decoded: dict[int, Tensor] = {}
        for stack in _stacks(len(tokens), apart=apart):
            unseen = None if hidden is None else _laid(hidden, stack, num_visible)
            num_seen = num_visible * len(stack[0])
            latent = self.encoder.encode_tokens(
                _laid(tokens, stack, num_visible), None if unseen is None else unseen[:, :num_seen]
            )
            found = self.decoder(latent, _laid(located, stack, num_visible), unseen)
            for sequence, rows in zip(stack, found.chunk(len(stack)), strict=True):
                decoded |= dict(zip(sequence, rows.chunk(len(sequence), dim=1), strict=True))
        return [decoded[slot] for slot in range(len(tokens))]

    def _decode_uneven(self, sets: _Sets, plan: SetPlan) -> list[Tensor]:
        """Decode every position, in one sequence a set, whatever is masked in each image."""
        projected = [self.encoder.projection(group.values, group.mixing) for group in sets.groups]
        tokens = torch.stack(sets.batch.to_slots(projected), dim=1) + self.encoder.locations(sets.grid, sets.batch)
        hidden = None if sets.hidden is None else sets.hidden.flatten(1)
        visible_hidden = None if hidden is None else torch.gather(hidden, 1, plan.ids_keep)
        latent = self.encoder.encode_tokens(gather_tokens(tokens.flatten(1, 2), plan.ids_keep), visible_hidden)
        places = self.decoder.locations(sets.grid, sets.batch).expand(*self._shape(sets), -1).flatten(1, 2)
        ordered = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
        ordered_hidden = None if hidden is None else torch.gather(hidden, 1, ordered)
        sequence = self.decoder.sequence(latent, gather_tokens(places, ordered), ordered_hidden)
        decoded = self.decoder.norm(gather_tokens(sequence[:, 1:], plan.ids_restore))
        return list(decoded.chunk(sets.batch.num_slots, dim=1))

    def _visible(self, sets: _Sets, keep: Tensor) -> list[Tensor]:
        """Project the visible tokens of each image, and those alone, and add what each carries."""
        projected = [
            self.encoder.projection(gather_tokens(group.values, ids), group.mixing)
            for group, ids in zip(sets.groups, sets.batch.to_groups(keep.unbind(1)), strict=True)
        ]
        places = self.encoder.locations(sets.grid, sets.batch)
        return [
            tokens + _located(places, slot, keep[:, slot]) for slot, tokens in enumerate(sets.batch.to_slots(projected))
        ]

    def _whole(self, sets: _Sets, plan: SetPlan, *, apart: bool | None = None) -> tuple[Tensor, ...]:
        ids = None if plan.num_visible is None else plan.in_images()[1]
        decoded = self._decode(sets, plan, ids, apart=self._apart(sets.batch) if apart is None else apart)
        tokens = sets.batch.to_groups(self._owned(decoded, plan, ids))
        at = sets.batch.to_groups((plan.masked if ids is None else ids).unbind(1))
        images = []
        for group, one, chosen in zip(sets.groups, tokens, at, strict=True):
            patches = group if ids is None else group.at(chosen)
            predicted = self.predicted_pixels(patches, one).to(group.values.dtype)
            if ids is None:
                whole = torch.where(chosen.unsqueeze(-1), predicted, group.values)
            else:
                whole = group.values.scatter(1, chosen.unsqueeze(-1).expand_as(predicted), predicted)
            images.append(unpatchify(whole, self.config.encoder.patch_size, sets.grid))
        return tuple(images)


def _are_shared(places: Tensor) -> bool:
    """Tell whether all images have the same positions and nothing else."""
    return places.shape[:2] == (1, 1)


def _located(places: Tensor, slot: int, ids: Tensor) -> Tensor:
    if _are_shared(places):
        return places[0, 0][ids]
    return gather_tokens(places[:, slot].expand(len(ids), -1, -1), ids)


def _stacks(num_slots: int, *, apart: bool) -> list[list[list[int]]]:
    """Say which images make up each sequence: all, or the two that exchange tokens and every other behind.

    Sequences of equal length go through the network as one batch.
    """
    every = list(range(num_slots))
    if not apart:
        return [[every]]
    first, second = every[0::2], every[1::2]
    return [[first, second]] if len(first) == len(second) else [[first], [second]]


def _laid(of_slots: Sequence[Tensor], stack: Sequence[Sequence[int]], num_visible: int) -> Tensor:
    """Lay the images of each sequence one after the other, what is visible of all of them first."""
    parts = (slice(num_visible), slice(num_visible, None))
    return _joined(
        [
            of_slots[slots[0]]
            if len(slots) == 1
            else torch.cat([of_slots[slot][:, part] for part in parts for slot in slots], dim=1)
            for slots in stack
        ]
    )


def _joined(batches: Sequence[Tensor]) -> Tensor:
    return batches[0] if len(batches) == 1 else torch.cat(list(batches))
