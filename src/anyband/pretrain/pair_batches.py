"""From pairs in stored numbers to network input on the device: harmonised, augmented, with noise."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from anyband.arrays import Array, Float, Int
from anyband.data.image_sets import PairPlan, Pairs, PairSampler
from anyband.data.loader import OpenShards, RawPair, read_pair_batch
from anyband.data.resample import Augmentation, AugmentOptions, coarser_grid, draw_augmentation
from anyband.data.sampler import ShardLanes
from anyband.data.store import ChipStore
from anyband.device_copies import to_device
from anyband.models.inputs import PairBatch, PairNoise
from anyband.models.smarties import Smarties
from anyband.pretrain.batches import ArrayInput, ArrayReader, Preparer, Samples
from anyband.pretrain.recipe import PretrainRecipe
from anyband.pretrain.reconstructions import draw_reconstructions
from anyband.randomness import uniform

__all__ = ["DrawnPair", "PairPreparer", "PairSamples"]


class PairSamples(Samples[PairPlan]):
    """Pairs of a store."""

    def __init__(self, store: ChipStore, pairs: Pairs, *, lanes: ShardLanes | None = None) -> None:
        """Take the pairs that were found in a store; `lanes`: their shards, to read one after the other."""
        self.store = store
        self.lanes = lanes
        self.pairs = pairs

    @property
    def arrays(self) -> tuple[str, ...]:
        """Arrays of the store that they are in."""
        return tuple(dict.fromkeys(name for kind in self.pairs.types for name in kind))

    @property
    def most_images(self) -> int:
        """Most images of a sample: two."""
        return 2

    @property
    def largest_kind(self) -> int:
        """Most pairs of one kind."""
        return int(np.bincount(self.pairs.pair_type).max())

    def sampler(self, *, batch_size: int, seed: int) -> PairSampler:
        """Plan batches."""
        return PairSampler(self.pairs, batch_size=batch_size, seed=seed, lanes=self.lanes)

    def read(self, draw: PairPlan, shards: OpenShards | None = None) -> RawPair:
        """Read a batch, as it is stored."""
        return read_pair_batch(self.store, self.pairs, draw, shards=shards)

    def preparer(
        self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device
    ) -> "PairPreparer":
        """Make what brings a batch to the network."""
        return PairPreparer(recipe, inputs, device=device)

    def chips(self, draw: PairPlan) -> Int[Array, "sample image"]:
        """Tell the rows of the store's index that a batch holds."""
        return np.stack([self.pairs.index_a[draw.rows], self.pairs.index_b[draw.rows]], axis=1)

    def items(self, draw: PairPlan) -> Int[Array, " sample"]:
        """Tell which of the pairs a batch holds."""
        return draw.rows

    def kind(self, draw: PairPlan) -> Hashable:
        """Name the kind of the pairs of a batch."""
        return draw.pair_type

    def title(self, draw: PairPlan) -> str:
        """Say what a batch holds, for messages."""
        return f"pairs of {' + '.join(self.pairs.types[draw.pair_type])}"

    def notes(self, *, batch_size: int) -> list[str]:
        """Say which pairs are repeated in a batch."""
        counts = np.bincount(self.pairs.pair_type, minlength=len(self.pairs.types))
        return [
            f"{count} pairs of {' + '.join(self.pairs.types[kind])} do not fill a batch of {batch_size}: "
            "they stand in it several times, each with draws of its own"
            for kind, count in enumerate(counts)
            if count < batch_size
        ]

    def shown(self, count: int) -> dict[str, PairPlan]:
        """Choose some pairs of each kind."""
        return {"_".join(arrays): self._some(kind, count) for kind, arrays in enumerate(self.pairs.types)}

    def panel(
        self,
        model: Smarties,
        raw: RawPair,
        example: tuple[PairBatch, PairNoise],
        inputs: Mapping[str, ArrayInput],
        *,
        title: str,
    ) -> bytes:
        """Draw pairs and their reconstructions."""
        return draw_reconstructions(model, *example, (inputs[raw.array_a], inputs[raw.array_b]), title=title)

    def _some(self, kind: int, count: int) -> PairPlan:
        rows = np.flatnonzero(self.pairs.pair_type == kind)
        # Spread over the list, because neighbours in it are neighbours on the ground.
        rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
        return PairPlan(rows=rows, pair_type=kind, samples=self.pairs.sample[rows], epoch=0)


@dataclass(frozen=True, kw_only=True)
class DrawnPair:
    """A batch of pairs with all that is drawn for it, on the way to the device."""

    raw: RawPair
    """As read."""
    augmentation: Augmentation
    """Of each pair."""
    noise: Float[Array, "sample 2 token"]
    """For mixup, then for masking."""


class PairPreparer(Preparer[RawPair, DrawnPair]):
    """Make network input of raw pairs; every draw is a function of (seed, step, sample)."""

    def __init__(self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device) -> None:
        """Move what is constant to the device."""
        self._recipe = recipe
        self._reader = ArrayReader(recipe, inputs, device=device)
        self._device = device

    def draw(self, raw: RawPair, *, step: int, augment: AugmentOptions | None = None) -> DrawnPair:
        """Draw what happens to a batch: crops, and noise for mixup and masking."""
        samples = raw.plan.samples.tolist()
        drawn = draw_augmentation(
            augment or self._recipe.data.augment,
            seed=self._recipe.seed,
            step=step,
            samples=samples,
            grid=coarser_grid((raw.a.shape[2], raw.a.shape[3]), (raw.b.shape[2], raw.b.shape[3])),
        )
        num_tokens = (self._recipe.model.img_size // self._recipe.model.patch_size) ** 2
        noise = uniform(
            self._recipe.seed, step=step, samples=samples, purpose="mixup and masking", shape=(2, num_tokens)
        )
        return DrawnPair(raw=raw, augmentation=drawn, noise=noise.astype(np.float32))

    def finish(self, drawn: DrawnPair) -> tuple[PairBatch, PairNoise]:
        """Copy a batch to the device and make the network's input there."""
        raw, resample = drawn.raw, self._reader.resampler(drawn.augmentation)
        a = self._reader.image(raw.a, raw.valid_a, raw.array_a, resample)
        b = self._reader.image(raw.b, raw.valid_b, raw.array_b, resample)
        noise = to_device(drawn.noise, self._device)
        return PairBatch(a=a, b=b), PairNoise(mixup=noise[:, 0], masking=noise[:, 1])
