"""Pre-training on sets of images of one place: A²-MAE, and the model that joins it with SMARTIES.

The images of a set hide most of their tokens; which, says `masking`. One encoder and one decoder see the rest as one
joint sequence, and each hidden token is predicted by its own image's bands. With `sequence: apart`, the anchor and an
image of another source exchange tokens first, and stand in sequences of their own: inside one sequence, an exchange of
tokens that carry where and what they are is a permutation, which attention does not see.

Source: A²-MAE (arXiv 2406.08079); what of it is our reading stands in docs/parity.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from anyband.arrays import Bool, Float, Int
from anyband.errors import InputError
from anyband.models.autoencoder import Autoencoder, ImagePatches
from anyband.models.encodings import check_sets, image_shares, set_hidden
from anyband.models.inputs import SetBatch, SetNoise
from anyband.models.masking import SetMaskRules, SetPlan, SetSources, count_decoded, draw_set_plan, plan_from_masked
from anyband.models.patches import gather_tokens, unpatchify

__all__ = ["SetAutoencoder", "SetLoss", "SetReconstruction"]


@dataclass(frozen=True, kw_only=True)
class SetLoss:
    """The loss of a batch of sets, and what was exchanged and masked."""

    loss: Float[Tensor, ""]
    """Mean over the masked tokens of all images."""
    plan: SetPlan
    """Which tokens were exchanged and masked."""

    @property
    def terms(self) -> Float[Tensor, "1"]:
        """The only term of the loss."""
        return self.loss.unsqueeze(0)


@dataclass(frozen=True, kw_only=True)
class SetReconstruction:
    """All images of some sets with their masked tokens predicted, in standardised units."""

    images: tuple[Float[Tensor, "_ _ row col"], ...]
    """Images as the groups of the batch: visible tokens as seen, masked ones predicted."""
    plan: SetPlan
    """Which tokens were exchanged and masked."""
    grid: tuple[int, int]
    """Patches down and across."""


@dataclass(frozen=True, kw_only=True)
class _Sets:
    """A batch, cut into patches."""

    batch: SetBatch
    groups: tuple[ImagePatches, ...]
    shares: Tensor
    hidden: Tensor | None
    grid: tuple[int, int]

    @property
    def order(self) -> Int[Tensor, "image"]:
        """Where (set, slot) each image of the groups stands, counted through: the inverse of `batch.rows`."""
        return torch.argsort(self.batch.rows.flatten())

    def of_images(self, per_slot: Tensor) -> tuple[Tensor, ...]:
        """Bring what belongs to (set, slot, …) into the order of the images, group by group."""
        in_order = per_slot.flatten(0, 1)[self.order]
        return torch.split(in_order, [len(group.values) for group in self.groups])

    def of_slots(self, per_image: Sequence[Tensor]) -> Tensor:
        """Bring what belongs to the images of each group to (set, slot, …)."""
        return torch.cat(list(per_image))[self.batch.rows]


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """Decoded tokens, each at the image that owns it, at the places where they are compared."""

    tokens: tuple[Tensor, ...]
    """Of each group (batch, token, width)."""
    ids: tuple[Tensor, ...] | None
    """Positions of these tokens in each image; None: all, in order."""


class SetAutoencoder(Autoencoder):
    """Encoder, decoder and spectrum-aware reconstruction, trained on sets of images of one place.

    The order of the images behind the second slot changes nothing but rounding.
    """

    def forward(self, batch: SetBatch, noise: SetNoise) -> SetLoss:
        """Compute the loss of a batch of sets.

        Args:
            batch: registered images, equally many in each set.
            noise: numbers for each token and purpose.

        Returns:
            The loss: the mean over the masked tokens with data of all images.

        Raises:
            InputError: images or noise that do not fit the network or each other.
        """
        sets = self._cut_sets(batch)
        plan = self._draw(sets, noise)
        decoded = self._decode(sets, plan, apart=self._apart(batch), whole=False)
        errors, counted = self._errors(sets, plan, decoded)
        return SetLoss(loss=errors / counted.clamp(min=1), plan=plan)

    def count(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "1"]:
        """Count the decoded tokens that enter the loss; parts of a batch are joined by these."""
        hidden = set_hidden(batch, self.config.encoder.patch_size)
        plan = draw_set_plan(noise, SetSources.of(batch), hidden, rules=self._rules)
        if plan.num_visible is None:
            counted = plan.masked if hidden is None else plan.masked & ~hidden
        else:
            asked = self._asked(_ids_of_images(plan, plan.num_visible)[1])
            counted = torch.ones_like(asked, dtype=torch.bool) if hidden is None else ~torch.gather(hidden, 2, asked)
        return counted.sum().float().unsqueeze(0)

    def reconstruct(self, batch: SetBatch, noise: SetNoise) -> SetReconstruction:
        """Predict the masked tokens of all images, for pictures.

        Args:
            batch: registered images.
            noise: numbers for each token and purpose.

        Returns:
            All images, whole.
        """
        sets = self._cut_sets(batch)
        plan = self._draw(sets, noise)
        return SetReconstruction(images=self._whole(sets, plan, apart=self._apart(batch)), plan=plan, grid=sets.grid)

    def complete(
        self, batch: SetBatch, masked: Bool[Tensor, "set slot token"]
    ) -> tuple[Float[Tensor, "_ _ row col"], ...]:
        """Predict chosen tokens from all the others, with their absolute values.

        Args:
            batch: registered images; what stands at the masked tokens is not looked at.
            masked: what to predict; equally many tokens in each set.

        Returns:
            Images as the groups of the batch, in standardised units: tokens not masked as given, masked ones predicted.

        Raises:
            InputError: a network that predicts structure without values, or masks that do not fit.
        """
        if not self.config.predicts_values:
            raise InputError(
                "this network predicts the structure inside a token and not its values (norm_pix_loss without levels); "
                "train with model.levels=true, as the unified recipes do"
            )
        sets = self._cut_sets(batch)
        expected = (batch.num_sets, batch.num_slots, sets.grid[0] * sets.grid[1])
        if tuple(masked.shape) != expected:
            raise InputError(f"'masked' has shape {tuple(masked.shape)}; give {expected}: set, image, token")
        return self._whole(sets, plan_from_masked(masked), apart=False)

    def hidden_errors(self, batch: SetBatch, noise: SetNoise) -> Float[Tensor, "set"]:
        """Compute how well the last image of each set is predicted from the others, which hide their usual share.

        Args:
            batch: sets of two images or more.
            noise: numbers for each token; `hides_last` is taken as set.

        Returns:
            Mean squared error of the last image's pixels as the loss has them, at the positions that are masked in the
            anchor too; 1 is what predicting each token's mean gives where targets are normalised.
        """
        sets = self._cut_sets(batch)
        plan = self._draw(sets, _hiding_last(noise))
        decoded = self._decode(sets, plan, apart=False, whole=True)
        errors = [self.pixel_errors(group, tokens) for group, tokens in zip(sets.groups, decoded.tokens, strict=True)]
        last = sets.of_slots(errors)[:, -1]
        counted = plan.masked[:, 0]
        if sets.hidden is not None:
            counted = counted & ~sets.hidden[:, -1]
        return torch.where(counted, last, 0.0).sum(dim=1) / counted.sum(dim=1).clamp(min=1)

    @property
    def _rules(self) -> SetMaskRules:
        config = self.config
        return SetMaskRules(
            kind=config.masking,
            mask_ratio=config.mask_ratio,
            mixup=config.mixup == "mirrored",
            mixup_ratio=config.mixup_ratio,
        )

    def _cut_sets(self, batch: SetBatch) -> _Sets:
        encoder = self.config.encoder
        grid = check_sets(batch, patch_size=encoder.patch_size, num_ranges=encoder.num_ranges)
        return _Sets(
            batch=batch,
            groups=tuple(self.cut(group) for group in batch.groups),
            shares=image_shares(batch),
            hidden=set_hidden(batch, encoder.patch_size),
            grid=grid,
        )

    def _draw(self, sets: _Sets, noise: SetNoise) -> SetPlan:
        expected = (sets.batch.num_sets, sets.batch.num_slots, sets.grid[0] * sets.grid[1])
        if tuple(noise.masking.shape) != expected:
            raise InputError(
                f"noise must have one number for each token of each image, {expected}; found "
                f"{tuple(noise.masking.shape)}"
            )
        return draw_set_plan(noise, SetSources.of(sets.batch), sets.hidden, rules=self._rules)

    def _decode(self, sets: _Sets, plan: SetPlan, *, apart: bool, whole: bool) -> _Decoded:
        """Encode and decode, and bring every token of interest to the image that owns it.

        Args:
            sets: the batch.
            plan: what is masked and exchanged.
            apart: whether the images that exchange tokens stand in sequences of their own.
            whole: whether all masked tokens are decoded, whatever the share in training.
        """
        if plan.num_visible is None:
            decoded = self._decode_joint(sets, plan)
            return _Decoded(tokens=sets.of_images(decoded), ids=None)
        keep, masked = _ids_of_images(plan, plan.num_visible)
        asked = masked if whole else self._asked(masked)
        decoded = self._decode_even(sets, plan, keep, asked, apart=apart)
        return _Decoded(tokens=sets.of_images(decoded), ids=sets.of_images(asked))

    def _asked(self, masked: Tensor) -> Tensor:
        """Choose the masked positions of each image that are decoded: those that the noise put first."""
        return masked[..., : count_decoded(masked.shape[2], self.config.decode_ratio)]

    def _decode_joint(self, sets: _Sets, plan: SetPlan) -> Tensor:
        """One sequence a set, whatever is masked in each image."""
        projected = [self.encoder.projection(group.values, group.mixing) for group in sets.groups]
        metadata = sets.batch.metadata
        tokens = sets.of_slots(projected) + self.encoder.locations(sets.grid, metadata, sets.shares)
        hidden = None if sets.hidden is None else sets.hidden.flatten(1)
        visible_hidden = None if hidden is None else torch.gather(hidden, 1, plan.ids_keep)
        latent = self.encoder.encode_tokens(gather_tokens(tokens.flatten(1, 2), plan.ids_keep), visible_hidden)
        places = self._decoder_locations(sets).flatten(1, 2)
        ordered = torch.cat([plan.ids_keep, plan.ids_masked], dim=1)
        ordered_hidden = None if hidden is None else torch.gather(hidden, 1, ordered)
        sequence = self.decoder.sequence(latent, gather_tokens(places, ordered), ordered_hidden)
        decoded = self.decoder.norm(gather_tokens(sequence[:, 1:], plan.ids_restore))
        return _by_slot(decoded, sets.batch.num_slots)

    def _decode_even(self, sets: _Sets, plan: SetPlan, keep: Tensor, asked: Tensor, *, apart: bool) -> Tensor:
        """The same number of visible tokens in every image, so that only those are projected.

        Returns:
            The tokens asked for of each image (set, slot, asked, width).
        """
        tokens = self._visible(sets, keep)
        places, hidden = self._decoder_locations(sets), sets.hidden
        if apart:
            swapped = torch.gather(plan.swapped, 1, keep[:, 0])
            tokens, places = _exchanged(tokens, swapped), _exchanged(places, plan.swapped)
            hidden = None if hidden is None else _exchanged(hidden, plan.swapped)
        sequences = _sequences(sets.batch.num_slots, apart=apart)
        parts = [
            self._sequence(
                tokens[:, slots],
                keep[:, slots],
                asked[:, slots],
                places[:, slots],
                None if hidden is None else hidden[:, slots],
            )
            for slots in sequences
        ]
        slots = [slot for sequence in sequences for slot in sequence]
        decoded = torch.cat(parts, dim=1)[:, [slots.index(slot) for slot in range(len(slots))]]
        # Images that exchange tokens share their mask, so their tokens at one place stand at one position here too.
        return _exchanged(decoded, torch.gather(plan.swapped, 1, asked[:, 0])) if apart else decoded

    def _sequence(self, tokens: Tensor, keep: Tensor, asked: Tensor, places: Tensor, hidden: Tensor | None) -> Tensor:
        """Encode and decode some images of each set as one sequence."""
        num_slots, num_tokens = places.shape[1:3]
        first = torch.arange(num_slots, device=keep.device)[:, None] * num_tokens
        ids_keep = (keep + first).flatten(1)
        ordered = torch.cat([ids_keep, (asked + first).flatten(1)], dim=1)
        flat = None if hidden is None else hidden.flatten(1)
        visible_hidden = None if flat is None else torch.gather(flat, 1, ids_keep)
        ordered_hidden = None if flat is None else torch.gather(flat, 1, ordered)
        latent = self.encoder.encode_tokens(tokens.flatten(1, 2), visible_hidden)
        decoded = self.decoder(latent, gather_tokens(places.flatten(1, 2), ordered), ordered_hidden)
        return _by_slot(decoded, num_slots)

    def _visible(self, sets: _Sets, keep: Tensor) -> Tensor:
        projected = [
            self.encoder.projection(gather_tokens(group.values, ids), group.mixing)
            for group, ids in zip(sets.groups, sets.of_images(keep), strict=True)
        ]
        num_sets, num_slots, num_tokens = keep.shape[0], keep.shape[1], sets.grid[0] * sets.grid[1]
        places = self.encoder.locations(sets.grid, sets.batch.metadata, sets.shares)
        whole = places.expand(num_sets, num_slots, num_tokens, -1).flatten(0, 1)
        at = gather_tokens(whole, keep.flatten(0, 1))
        return sets.of_slots(projected) + rearrange(at, "(s k) n d -> s k n d", s=num_sets)

    def _decoder_locations(self, sets: _Sets) -> Tensor:
        places = self.decoder.locations(sets.grid, sets.batch.metadata, sets.shares)
        return places.expand(sets.batch.num_sets, sets.batch.num_slots, sets.grid[0] * sets.grid[1], -1)

    def _apart(self, batch: SetBatch) -> bool:
        """Whether tokens are exchanged to any effect: between two sources, which then stand apart."""
        return self.config.mixup == "mirrored" and self.config.sequence == "apart" and batch.partnered

    def _errors(self, sets: _Sets, plan: SetPlan, decoded: _Decoded) -> tuple[Tensor, Tensor]:
        """Add up what masked tokens with data cost, and count them."""
        total, count = sets.shares.new_zeros(()), sets.shares.new_zeros(())
        masked = sets.of_images(plan.masked)
        for index, (group, tokens) in enumerate(zip(sets.groups, decoded.tokens, strict=True)):
            patches = group if decoded.ids is None else group.at(decoded.ids[index])
            counted = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
            if decoded.ids is None:
                counted = masked[index]
            if patches.counted is not None:
                counted = counted & patches.counted
            total = total + torch.where(counted, self.errors(patches, tokens), 0.0).sum()
            count = count + counted.sum()
        return total, count

    def _whole(self, sets: _Sets, plan: SetPlan, *, apart: bool) -> tuple[Tensor, ...]:
        decoded = self._decode(sets, plan, apart=apart, whole=True)
        masked = sets.of_images(plan.masked)
        images = []
        for index, (group, tokens) in enumerate(zip(sets.groups, decoded.tokens, strict=True)):
            patches = group if decoded.ids is None else group.at(decoded.ids[index])
            predicted = self.predicted_pixels(patches, tokens).to(group.values.dtype)
            if decoded.ids is None:
                whole = torch.where(masked[index].unsqueeze(-1), predicted, group.values)
            else:
                at = decoded.ids[index].unsqueeze(-1).expand_as(predicted)
                whole = group.values.scatter(1, at, predicted)
            images.append(unpatchify(whole, self.config.encoder.patch_size, sets.grid))
        return tuple(images)


def _hiding_last(noise: SetNoise) -> SetNoise:
    return SetNoise(masking=noise.masking, tying=noise.tying, mixup=noise.mixup, hides_last=True)


def _ids_of_images(plan: SetPlan, num_visible: int) -> tuple[Tensor, Tensor]:
    """Give each image its own visible and masked positions, in the order of the plan."""
    num_slots, num_tokens = plan.masked.shape[1:]
    keep = rearrange(plan.ids_keep, "s (k n) -> s k n", k=num_slots, n=num_visible)
    masked = rearrange(plan.ids_masked, "s (k n) -> s k n", k=num_slots)
    return keep % num_tokens, masked % num_tokens


def _sequences(num_slots: int, *, apart: bool) -> list[list[int]]:
    """Say which images make up each sequence: all of them, or the two that exchange tokens and every other behind."""
    every = list(range(num_slots))
    return [every[0::2], every[1::2]] if apart else [every]


def _exchanged(per_slot: Tensor, swapped: Tensor) -> Tensor:
    """Exchange what belongs to the tokens of the first two images where `swapped` says so; its own inverse."""
    where = swapped.reshape(*swapped.shape, *[1] * (per_slot.ndim - 3))
    first, second = per_slot[:, 0], per_slot[:, 1]
    mixed = [torch.where(where, second, first), torch.where(where, first, second)]
    return torch.cat([torch.stack(mixed, dim=1), per_slot[:, 2:]], dim=1)


def _by_slot(sequence: Tensor, num_slots: int) -> Tensor:
    slots: Tensor = rearrange(sequence, "s (k n) d -> s k n d", k=num_slots)
    return slots
