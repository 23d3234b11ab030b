"""SMARTIES pre-training: exchange tokens of two sensors, hide most of them, predict the hidden pixels.

At each position, one of the two mixed images a' and b' carries the token of image a and the other the token
of image b. So each masked token of a and of b is predicted exactly once, and no shape depends on the data.

Source: SMARTIES (arXiv 2506.19585), sections 3.1 to 3.3.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from anyband.arrays import Bool, Float
from anyband.errors import InputError
from anyband.models.autoencoder import Autoencoder, ImagePatches
from anyband.models.inputs import PairBatch, PairNoise, check_grid
from anyband.models.losses import mean_over
from anyband.models.masking import PairPlan, count_decoded, count_visible, draw_pair_plan
from anyband.models.patches import gather_tokens, unpatchify

__all__ = ["PairOutput", "PairReconstruction", "Smarties"]


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

    @property
    def terms(self) -> Float[Tensor, "2"]:
        """Both terms; the loss is their mean."""
        return torch.stack([self.loss_a, self.loss_b])


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


class Smarties(Autoencoder):
    """Encoder, decoder and spectrum-aware reconstruction, trained on pairs of sensors."""

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
        a, b = self.cut(pair.a), self.cut(pair.b)
        plan = self._draw(a, b, noise)
        asked = self._asked(plan)
        decoded = self._decode(self._encode(a, b, plan, grid), a, b, plan, asked, grid)
        loss_a, loss_b = self._losses(a, b, plan, asked, decoded)
        return PairOutput(loss=(loss_a + loss_b) / 2, loss_a=loss_a, loss_b=loss_b, plan=plan)

    def count(self, pair: PairBatch, noise: PairNoise) -> Float[Tensor, "2"]:
        """Count the decoded tokens that enter each of the two terms of the loss.

        The terms are means over these, so parts of a batch are joined by their counts: where data are missing,
        parts of equal size do not weigh the same.
        """
        batch, num_tokens = noise.masking.shape
        if pair.a.valid is None and pair.b.valid is None:
            num_masked = num_tokens - count_visible(num_tokens, self.config.mask_ratio)
            return noise.masking.new_full((2,), float(batch * count_decoded(num_masked, self.config.decode_ratio)))
        a, b = self.cut(pair.a), self.cut(pair.b)
        plan = self._draw(a, b, noise)
        hidden = self._hidden(a, b, plan, self._asked(plan))
        assert hidden is not None
        return torch.stack([(~one).sum() for one in hidden.chunk(2)]).float()

    def follow(self, pair: PairBatch, plan: PairPlan) -> tuple[Tensor, Tensor, PairOutput]:
        """Compute the loss of a plan that was made elsewhere, with what the encoder and decoder gave of all positions.

        Args:
            pair: registered images of two sensors.
            plan: what is exchanged and masked.

        Returns:
            Latent tokens (2 · batch, 1 + visible, width) and decoded tokens (2 · batch, 1 + token, width), of
            a' then of b', and the losses.
        """
        grid = self._check(pair)
        a, b = self.cut(pair.a), self.cut(pair.b)
        latent = self._encode(a, b, plan, grid)
        inputs = self._decoder_inputs(latent, a, b, plan, plan.ids_masked, grid)
        tokens = self.decoder.norm(self.decoder.sequence(*inputs))
        decoded = torch.cat([tokens[:, :1], gather_tokens(tokens[:, 1:], _twice(plan.ids_restore))], dim=1)
        asked = tokens[:, latent.shape[1] :]
        loss_a, loss_b = self._losses(a, b, plan, plan.ids_masked, asked)
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
        a, b = self.cut(pair.a), self.cut(pair.b)
        plan = self._draw(a, b, noise)
        latent = self._encode(a, b, plan, grid)
        first, second = self._decode(latent, a, b, plan, plan.ids_masked, grid).chunk(2)
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

    def cross_errors(self, pair: PairBatch, noise: PairNoise) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Compute how well each image is predicted from the visible tokens of the other alone, without mixup.

        Args:
            pair: registered images of two sensors.
            noise: whose masking says which positions are visible.

        Returns:
            Mean squared error of image b seen from a, and of a seen from b, at the masked positions and normalised as
            in the loss; 1 is what predicting each token's mean gives where targets are normalised.
        """
        grid = self._check(pair)
        a, b = self.cut(pair.a), self.cut(pair.b)
        plan = self._draw(a, b, noise)
        alone = replace(plan, from_a=torch.ones_like(plan.from_a))
        latent = self._encode(a, b, alone, grid)
        from_a, from_b = self._decode(latent, a, b, alone, alone.ids_masked, grid).chunk(2)
        masked_a, masked_b = a.at(plan.ids_masked), b.at(plan.ids_masked)
        return _means(self.pixel_errors(masked_b, from_a), masked_b), _means(
            self.pixel_errors(masked_a, from_b), masked_a
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

    def _draw(self, a: ImagePatches, b: ImagePatches, noise: PairNoise) -> PairPlan:
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

    def _asked(self, plan: PairPlan) -> Tensor:
        """Choose the masked positions that are decoded: those that the noise put first, where both have data first."""
        return plan.ids_masked[:, : count_decoded(plan.ids_masked.shape[1], self.config.decode_ratio)]

    def _hidden(self, a: ImagePatches, b: ImagePatches, plan: PairPlan, ids: Tensor) -> Tensor | None:
        """Tell which tokens of a', then of b', at some positions have too little data; None: none anywhere."""
        if a.hidden is None and b.hidden is None:
            return None
        none = torch.zeros_like(plan.masked)
        hidden_a = none if a.hidden is None else a.hidden
        hidden_b = none if b.hidden is None else b.hidden
        return torch.gather(self._exchange(hidden_a, hidden_b, plan.from_a), 1, _twice(ids))

    def _encode(self, a: ImagePatches, b: ImagePatches, plan: PairPlan, grid: tuple[int, int]) -> Tensor:
        # At a visible position a' takes the token of one image and b' that of the other: project each once.
        tokens_a, tokens_b = (
            self.encoder.projection(gather_tokens(image.values, plan.ids_keep), image.mixing) for image in (a, b)
        )
        from_a = torch.gather(plan.from_a, 1, plan.ids_keep).unsqueeze(-1)
        positions = self.encoder.positions(grid)[:, 1:].expand(len(plan.ids_keep), -1, -1)
        mixed = self._exchange(tokens_a, tokens_b, from_a) + _twice(gather_tokens(positions, plan.ids_keep))
        return self.encoder.encode_tokens(mixed, self._hidden(a, b, plan, plan.ids_keep))

    def _decode(
        self, latent: Tensor, a: ImagePatches, b: ImagePatches, plan: PairPlan, ids: Tensor, grid: tuple[int, int]
    ) -> Tensor:
        """Decode some masked positions of a', then of b'."""
        decoded: Tensor = self.decoder(*self._decoder_inputs(latent, a, b, plan, ids, grid))
        return decoded

    def _decoder_inputs(
        self, latent: Tensor, a: ImagePatches, b: ImagePatches, plan: PairPlan, ids: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        ordered = torch.cat([plan.ids_keep, ids], dim=1)
        places = self.decoder.positions(grid)[0, 1:][_twice(ordered)]
        return latent, places, self._hidden(a, b, plan, ordered)

    def _losses(
        self, a: ImagePatches, b: ImagePatches, plan: PairPlan, ids: Tensor, decoded: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compare the tokens that were decoded at some positions, of a', then of b'."""
        first, second = decoded.chunk(2)
        from_a = torch.gather(plan.from_a, 1, ids)
        owner = from_a.unsqueeze(-1)
        masked_a, masked_b = a.at(ids), b.at(ids)
        if self.config.mixup == "released":
            # b' carries b everywhere: tokens of b that stand in a' too are predicted twice, some of a never.
            errors_a, errors_b = self.errors(masked_a, first), self.errors(masked_b, first)
            errors_second, counted_second = self.errors(masked_b, second), masked_b.counted
        else:
            errors_a = self.errors(masked_a, torch.where(owner, first, second))
            errors_b = self.errors(masked_b, torch.where(owner, second, first))
            errors_second = torch.where(from_a, errors_b, errors_a)
            counted_second = _counted_of(from_a, masked_b, masked_a)
        loss_a = mean_over(torch.where(from_a, errors_a, errors_b), _counted_of(from_a, masked_a, masked_b))
        return loss_a, mean_over(errors_second, counted_second)

    def _whole(self, image: ImagePatches, tokens: Tensor, plan: PairPlan, grid: tuple[int, int]) -> Tensor:
        predicted = self.predicted_pixels(image.at(plan.ids_masked), tokens).to(image.values.dtype)
        shuffled = torch.cat([gather_tokens(image.values, plan.ids_keep), predicted], dim=1)
        return unpatchify(gather_tokens(shuffled, plan.ids_restore), self.config.encoder.patch_size, grid)


def _means(errors: Tensor, patches: ImagePatches) -> Tensor:
    """Average over the tokens with data of each image."""
    counted = torch.ones_like(errors) if patches.counted is None else patches.counted.to(errors.dtype)
    return (errors * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)


def _twice(tensor: Tensor) -> Tensor:
    """Repeat a batch for a' and b'."""
    return torch.cat([tensor, tensor])


def _counted_of(from_a: Tensor, first: ImagePatches, second: ImagePatches) -> Tensor | None:
    """Find the tokens that count in the loss: not hidden, each in the image it comes from."""
    if first.hidden is None and second.hidden is None:
        return None
    every = torch.ones_like(from_a)
    counted = [every if image.hidden is None else ~image.hidden for image in (first, second)]
    return torch.where(from_a, counted[0], counted[1])
