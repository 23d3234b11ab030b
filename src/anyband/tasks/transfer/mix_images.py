"""Mixup and cutmix of whole images and their targets, by timm, the same for all images of a sample."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from anyband.models.inputs import ImageBatch
from anyband.randomness import generator
from anyband.shapes import Float
from anyband.tasks.transfer.recipe import AugmentRecipe
from anyband.tasks.transfer.records import TaskBatch

__all__ = ["mixed_samples", "mixes"]

# chosen: a pixel of which less than this is missing counts as there; rounding is smaller.
_WHOLE = 1 - 1e-4


def mixes(recipe: AugmentRecipe) -> bool:
    """Tell whether images are mixed at all."""
    return recipe.mixup > 0 or recipe.cutmix > 0


def mixed_samples(
    batch: TaskBatch, targets: Float[Tensor, "sample output"], recipe: AugmentRecipe, *, seed: int, step: int
) -> tuple[TaskBatch, Float[Tensor, "sample output"]]:
    """Mix each sample with the one that stands opposite in the batch, as one draw of the step says.

    Mixup takes `lam · sample + (1 − lam) · other`, cutmix a box of the other; targets are mixed in the same shares. All
    images of a sample are mixed alike. A pixel has data where both have. What is known of an image stays that of the
    sample itself. The first sample of an odd batch is left as it is.

    Args:
        batch: network input.
        targets: what each sample is, as numbers that may be averaged.
        recipe: alphas of both; where both are over 0, each has half of the steps.
        seed: of the run.
        step: of the run.

    Source:
        Zhang et al., "mixup" (arXiv 1710.09412); Yun et al., "CutMix" (arXiv 1905.04899).
    """
    if not mixes(recipe):
        return batch, targets
    mixer = _Mixer(recipe, seed=seed, step=step)
    images = tuple(mixer.image(image) for image in batch.images)
    share = mixer.share(batch.images[0].pixels)
    opposite = _even(targets).flip(0)[: len(targets)]
    return replace(batch, images=images), share * targets + (1 - share) * opposite


class _Mixer:
    """One draw of timm's, done to as many arrays as there are."""

    def __init__(self, recipe: AugmentRecipe, *, seed: int, step: int) -> None:
        self._recipe, self._seed, self._step = recipe, seed, step

    def image(self, image: ImageBatch) -> ImageBatch:
        pixels = self._mixed(_even(image.pixels).clone())[0][: len(image.pixels)]
        if image.valid is None:
            return replace(image, pixels=pixels)
        shares = self._mixed(_even(image.valid).to(pixels.dtype))[0][: len(image.pixels)]
        valid = shares > _WHOLE
        return replace(image, pixels=torch.where(valid, pixels, 0.0), valid=valid)

    def share(self, pixels: Tensor) -> float:
        """Tell which share of a mixed sample is its own, from two that are 0 and 1 and of the images' size."""
        pair = pixels.new_zeros(2, 1, *pixels.shape[2:])
        return float(self._mixed(pair)[1][0, 0])

    def _mixed(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        from timm.data.mixup import Mixup

        mixer = Mixup(  # type: ignore[no-untyped-call]
            mixup_alpha=self._recipe.mixup, cutmix_alpha=self._recipe.cutmix, label_smoothing=0.0, num_classes=2
        )
        classes = torch.arange(len(pixels), device=pixels.device) % 2
        with _numpy_seeded(self._seed, step=self._step, purpose="mixup"):
            mixed: tuple[Tensor, Tensor] = mixer(pixels, classes)
        return mixed


def _even(rows: Tensor) -> Tensor:
    """Bring a batch to an even length with its first row once more, so that this row is mixed with itself."""
    return rows if len(rows) % 2 == 0 else torch.cat([rows, rows[:1]])


@contextlib.contextmanager
def _numpy_seeded(seed: int, *, step: int, purpose: str) -> Iterator[None]:
    """Seed NumPy's global generator, from which timm draws, for a block; then restore it."""
    word = int(generator(seed, step=step, sample=0, purpose=purpose).integers(2**32))
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(word)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
