"""Samples of one or several images to one feature: each strategy of fusion around one encoder.

Source: SMARTIES (arXiv 2506.19585), table 8, for stacking, concatenation and mixup concatenation; joint sequences are
those of A²-MAE (arXiv 2406.08079).
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from anyband.arrays import Bool, Float
from anyband.encode.encoder import SensorEncoder, set_batch
from anyband.encode.metadata import Pool
from anyband.errors import InputError
from anyband.evaluate.recipe import Fusion
from anyband.evaluate.samples import TaskBatch
from anyband.models.inputs import ImageBatch, SetBatch, SetMetadata
from anyband.models.masking import smallest_first
from anyband.models.vit import TokenSets
from anyband.randomness import uniform

__all__ = ["FusedEncoder", "Levels", "mixed_tokens", "slot_sets", "stacked_images"]

Levels = Sequence[int] | Literal["final"]
"""Blocks of the encoder, from 0, before the final norm; or the last block after it."""

# Source: SMARTIES, section 3.2: half of the tokens of a' are of a.
_MIXUP_RATIO = 0.5


class FusedEncoder(nn.Module):
    """Encode samples whose images are fused.

    - `single`: the sample's only image.
    - `stack`: one token from the bands of all images; what is known of the first image is told.
    - `concat`: each image by itself, their features side by side.
    - `mixup_concat`: two images a and b exchange half of their tokens, drawn for each sample; the mixed images a' and
      b' are encoded whole, their features side by side. A token that is hidden stays so wherever it goes.
    - `joint`: the images are one sequence.

    The order of a batch's samples changes no sample's features.

    Args:
        encoder: of any sensors; its weights are shared, not copied.
        fusion: the strategy.
        pool: a vector is the CLS token, or the mean of the patches that are not hidden; of a joint sequence the mean
            over its images of theirs.
        seed: of what `mixup_concat` draws.
        metadata: whether the network is told what a batch knows of its images.
    """

    def __init__(self, encoder: SensorEncoder, *, fusion: Fusion, pool: Pool, seed: int, metadata: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.fusion = fusion
        self.pool = pool
        self.seed = seed
        self.metadata = metadata

    def settings(self) -> dict[str, Any]:
        """Tell all that features depend on beside weights and input, as plain values."""
        drawn = {"seed": self.seed} if self.fusion == "mixup_concat" else {}
        return {"fusion": self.fusion, "pool": self.pool, "metadata": self.metadata, **drawn}

    def width(self, num_slots: int) -> int:
        """Count the numbers of a sample's vector.

        Args:
            num_slots: images of a sample.
        """
        return self.encoder.config.embed_dim * (1 if self.fusion == "joint" else self._num_encoded(num_slots))

    def map_width(self, num_slots: int) -> int:
        """Count the numbers of each patch in a level.

        Args:
            num_slots: images of a sample.
        """
        return self.encoder.config.embed_dim * self._num_encoded(num_slots)

    def forward(self, batch: TaskBatch, *, step: int = 0) -> Float[Tensor, "sample width"]:
        """Make one vector a sample, with gradients.

        Args:
            batch: samples as network input, on the encoder's device.
            step: of training, for what is drawn; 0 where nothing is trained.

        Raises:
            InputError: a number of images that the strategy can't take, or images that do not fit the network.
        """
        sets = self._tokens(batch, step)
        sequence = self.encoder.encoder.encode_tokens(self._flat(sets.tokens), _or_none(self._flat, sets.hidden))
        if self.pool == "cls":
            return rearrange(sequence[:, 0], "(s q) d -> s (q d)", s=len(batch))
        tokens = rearrange(sequence[:, 1:], "(s q) (k n) d -> s (q k) n d", s=len(batch), n=sets.tokens.shape[2])
        means, seen = _means(tokens, sets.hidden)
        if self.fusion == "joint":
            return (means * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        return means.flatten(1)

    def levels(
        self, batch: TaskBatch, blocks: Levels, *, step: int = 0
    ) -> tuple[Float[Tensor, "sample width row col"], ...]:
        """Make maps of patch features after chosen blocks, with gradients; the images' maps stand side by side.

        Args:
            batch: samples as network input, on the encoder's device.
            blocks: which, from 0, before the final norm; `final`: the last, after it.
            step: of training, for what is drawn; 0 where nothing is trained.

        Returns:
            One map for each block, of the first image's channels, then the next one's. Patches that are hidden have
            numbers that mean nothing.

        Raises:
            InputError: as `forward`, or a block that is not there.
        """
        sets = self._tokens(batch, step)
        tokens, hidden = self._flat(sets.tokens), _or_none(self._flat, sets.hidden)
        encoder = self.encoder.encoder
        if blocks == "final":
            levels: tuple[Tensor, ...] = (encoder.encode_tokens(tokens, hidden)[:, 1:],)
        else:
            levels = encoder.token_levels(tokens, hidden, blocks=blocks)
        (rows, cols), num_samples = sets.grid, len(batch)
        return tuple(
            rearrange(level, "(s q) (k h w) d -> s (q k d) h w", s=num_samples, h=rows, w=cols) for level in levels
        )

    def _num_encoded(self, num_slots: int) -> int:
        return 1 if self.fusion in ("single", "stack") else num_slots

    def _flat(self, tokens: Tensor) -> Tensor:
        """Make sequences of (sample, slot, token, …): one a sample for joint sets, else one a slot."""
        return tokens.flatten(1, 2) if self.fusion == "joint" else tokens.flatten(0, 1)

    def _tokens(self, batch: TaskBatch, step: int) -> TokenSets:
        """Project the images to what goes into the first block, (sample, slot, token, width)."""
        _check_slots(self.fusion, batch)
        encoder = self.encoder.encoder
        metadata = batch.metadata if self.metadata else None
        if self.fusion == "joint":
            return encoder.embed_sets(slot_sets(batch.images, metadata))
        if self.fusion == "mixup_concat":
            sets = encoder.embed_sets(slot_sets(batch.images, metadata))
            return mixed_tokens(sets, self._drawn(batch, sets, step))
        images = (stacked_images(batch.images),) if self.fusion == "stack" else batch.images
        alone = [encoder.embed_sets(slot_sets((image,), _of_slot(metadata, slot))) for slot, image in enumerate(images)]
        return _beside(alone)

    def _drawn(self, batch: TaskBatch, sets: TokenSets, step: int) -> Tensor:
        noise = uniform(
            self.seed,
            step=step,
            samples=[int(sample) for sample in batch.samples],
            purpose="mixup concatenation",
            shape=(sets.tokens.shape[2],),
        )
        return smallest_first(torch.from_numpy(noise), round(_MIXUP_RATIO * noise.shape[1])).to(sets.tokens.device)


def slot_sets(images: Sequence[ImageBatch], metadata: SetMetadata | None) -> SetBatch:
    """Make sets of the images of samples: slot k of set s is image s of `images[k]`.

    Args:
        images: of each slot, the samples in one order.
        metadata: of each image of each sample; None: nothing is known.
    """
    return set_batch(images, metadata).to(images[0].pixels.device)


def mixed_tokens(sets: TokenSets, from_a: Bool[Tensor, "set token"]) -> TokenSets:
    """Exchange tokens of the two images a and b of each set: a' takes those of a where `from_a`, b' the others.

    Tokens keep what they carry: a' + b' = a + b. A hidden token is hidden wherever it goes.

    Args:
        sets: of two images.
        from_a: where a' takes the token of a.

    Returns:
        a' in slot 0 and b' in slot 1.

    Source:
        SMARTIES (arXiv 2506.19585), equations 1 and 2.
    """
    # Slot 0 keeps its own where `from_a`, and so does slot 1.
    own, other = sets.tokens, sets.tokens.flip(1)
    hidden = sets.hidden
    return TokenSets(
        tokens=torch.where(from_a[:, None, :, None], own, other),
        hidden=None if hidden is None else torch.where(from_a[:, None], hidden, hidden.flip(1)),
        grid=sets.grid,
    )


def stacked_images(images: Sequence[ImageBatch]) -> ImageBatch:
    """Put the bands of several images of each sample into one image.

    Args:
        images: of each slot, equal in count and size.

    Raises:
        InputError: they differ in size.
    """
    sizes = list(dict.fromkeys(tuple(image.pixels.shape[2:]) for image in images))
    if len(sizes) > 1:
        shown = " and ".join(f"{rows} × {cols}" for rows, cols in sizes)
        raise InputError(f"images of {shown} pixels can't be stacked; bring them to one size, or use fusion=concat")
    valid = None
    if any(image.valid is not None for image in images):
        valid = torch.cat(
            [torch.ones_like(one.pixels, dtype=torch.bool) if one.valid is None else one.valid for one in images], dim=1
        )
    return ImageBatch(
        pixels=torch.cat([image.pixels for image in images], dim=1),
        valid=valid,
        mixing=torch.cat([image.mixing for image in images]),
    )


def _check_slots(fusion: Fusion, batch: TaskBatch) -> None:
    found = len(batch.images)
    said = f"the samples have {found} image{'s' * (found != 1)} ({', '.join(batch.sensors)})"
    if fusion == "single" and found != 1:
        raise InputError(
            f"{said}, and fusion 'single' takes one; use fusion=stack, concat, mixup_concat or joint, or data of one "
            "sensor"
        )
    if fusion == "mixup_concat" and found != 2:
        raise InputError(
            f"{said}, and fusion 'mixup_concat' exchanges tokens of exactly two; use fusion=concat or joint"
        )


def _of_slot(metadata: SetMetadata | None, slot: int) -> SetMetadata | None:
    if metadata is None:
        return None
    return SetMetadata(**{name: value[:, slot : slot + 1] for name, value in vars(metadata).items()})


def _beside(alone: Sequence[TokenSets]) -> TokenSets:
    """Put sets of one image each beside each other, one slot for each."""
    hidden = None
    if any(one.hidden is not None for one in alone):
        nothing = torch.zeros(alone[0].tokens.shape[:3], dtype=torch.bool, device=alone[0].tokens.device)
        hidden = torch.cat([nothing if one.hidden is None else one.hidden for one in alone], dim=1)
    return TokenSets(tokens=torch.cat([one.tokens for one in alone], dim=1), hidden=hidden, grid=alone[0].grid)


def _means(tokens: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """Average the tokens of each image that are not hidden, 0 where all are; and tell which images have any."""
    seen = tokens.new_ones(tokens.shape[:3]) if hidden is None else (~hidden).to(tokens.dtype)
    counts = seen.sum(dim=2, keepdim=True)
    return (tokens * seen[..., None]).sum(dim=2) / counts.clamp(min=1), (counts > 0).to(tokens.dtype)


def _or_none(change: Callable[[Tensor], Tensor], value: Tensor | None) -> Tensor | None:
    return None if value is None else change(value)
