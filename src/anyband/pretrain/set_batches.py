"""From sets in stored numbers to network input on the device: harmonised, augmented, with facts and noise."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from anyband.arrays import Array, Float, Int
from anyband.data.image_sets import ImageSets, SetDraw, SetSampler
from anyband.data.loader import OpenShards, RawSets, read_set_batch
from anyband.data.resample import Augmentation, AugmentOptions, draw_augmentation, input_corners, input_gsd_m
from anyband.data.sampler import ShardLanes
from anyband.data.store import ChipStore
from anyband.device_copies import to_device
from anyband.encode.metadata import FACTS, hide_facts, set_metadata
from anyband.models.a2mae import SetAutoencoder
from anyband.models.inputs import SetBatch, SetMetadata, SetNoise
from anyband.pretrain.batches import ArrayInput, ArrayReader, Preparer, Samples, drawn_for_groups
from anyband.pretrain.recipe import PretrainRecipe
from anyband.pretrain.reconstructions import SetTitles, draw_set_reconstructions
from anyband.randomness import generator, uniform

__all__ = ["DrawnSets", "SetPreparer", "SetSamples"]

# chosen: batches that a panel's sets are looked for in.
_LOOKED_THROUGH = 16


class SetSamples(Samples[SetDraw]):
    """Sets of images of a store."""

    def __init__(self, store: ChipStore, sets: ImageSets, *, lanes: ShardLanes | None = None) -> None:
        """Take the sets that were found in a store; `lanes`: their shards, to read one after the other."""
        self.store = store
        self.lanes = lanes
        self.sets = sets

    @property
    def arrays(self) -> tuple[str, ...]:
        """Arrays of the store that they are in."""
        return self.sets.arrays

    @property
    def most_images(self) -> int:
        """Most images of a sample."""
        return int(self.sets.capacity.max())

    @property
    def largest_kind(self) -> int:
        """Most footprints that a batch could be drawn from."""
        return int(self._kinds()[1].max())

    def sampler(self, *, batch_size: int, seed: int) -> SetSampler:
        """Plan batches."""
        return SetSampler(self.sets, batch_size=batch_size, seed=seed, lanes=self.lanes)

    def read(self, draw: SetDraw, shards: OpenShards | None = None) -> RawSets:
        """Read a batch, as it is stored."""
        return read_set_batch(self.store, draw, shards=shards)

    def preparer(
        self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device
    ) -> "SetPreparer":
        """Make what brings a batch to the network."""
        return SetPreparer(recipe, inputs, device=device, grid=self.sets.grid)

    def chips(self, draw: SetDraw) -> Int[Array, "sample image"]:
        """Tell the rows of the store's index that a batch holds."""
        return draw.chips

    def items(self, draw: SetDraw) -> Int[Array, " sample"]:
        """Tell which footprints a batch holds."""
        return draw.footprints

    def kind(self, draw: SetDraw) -> Hashable:
        """Name the kind of the footprints of a batch: images that can be drawn, whether of several sensors."""
        footprint = draw.footprints[0]
        return int(self.sets.capacity[footprint]), bool(self.sets.has_partner[footprint])

    def title(self, draw: SetDraw) -> str:
        """Say what a batch holds, for messages."""
        sensors = sorted(set(self.store.index.column("sensor").take(draw.chips.ravel()).to_pylist()))
        return f"sets of {_images_word(draw.chips.shape[1])} of {', '.join(sensors)}"

    def notes(self, *, batch_size: int) -> list[str]:
        """Say which footprints are repeated in a batch, and how many have fewer images than are asked for."""
        kinds, counts = self._kinds()
        few_of_kind = [
            f"{count} with {_images_word(capacity)} of {'several sensors' if several else 'one sensor'}"
            for (capacity, several), count in zip(kinds.tolist(), counts.tolist(), strict=True)
            if count < batch_size
        ]
        notes = []
        if few_of_kind:
            notes.append(
                f"footprints that do not fill a batch of {batch_size} stand in it several times, each with draws of "
                f"its own: {'; '.join(few_of_kind)}"
            )
        least = self.sets.options.size[0]
        few = int((self.sets.capacity < least).sum())
        if few:
            notes.append(
                f"{few} of {len(self.sets)} footprints have fewer than {_images_word(least)}: their sets are smaller"
            )
        return notes

    def shown(self, count: int) -> dict[str, SetDraw]:
        """Choose the largest sets, if possible of several sensors, among the first batches that a seed of 0 draws."""
        sampler = self.sampler(batch_size=min(count, self.largest_kind), seed=0)
        draws = [sampler.batch(step) for step in range(_LOOKED_THROUGH)]
        return {"sets": max(draws, key=lambda draw: (draw.chips.shape[1], draw.partnered))}

    def views(self, example: tuple[SetBatch, SetNoise], recipe: PretrainRecipe) -> dict[str, Any]:
        """Draw sets with every image in part visible, and, where training hides whole images, with the last hidden."""
        batch, noise = example
        views = {"": (batch, replace(noise, hides_last=False))}
        if recipe.model.hidden_image and batch.num_slots > 1:
            views["_hidden"] = (batch, replace(noise, hides_last=True))
        return views

    def panel(
        self,
        model: SetAutoencoder,
        raw: RawSets,
        example: tuple[SetBatch, SetNoise],
        inputs: Mapping[str, ArrayInput],
        *,
        title: str,
    ) -> bytes:
        """Draw sets and their reconstructions."""
        titles = SetTitles(title=title, places=tuple(self.places(raw.draw)), times=raw.facts.time)
        of_groups = [inputs[group.array] for group in raw.groups]
        return draw_set_reconstructions(model, *example, of_groups, titles=titles)

    def _kinds(self) -> tuple[Array, Array]:
        """List (images that can be drawn, whether of several sensors) and the number of such footprints."""
        kinds = np.stack([self.sets.capacity, self.sets.has_partner], axis=1)
        found, counts = np.unique(kinds, axis=0, return_counts=True)
        return found, counts


def _images_word(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


@dataclass(frozen=True, kw_only=True)
class DrawnSets:
    """A batch of sets with all that is drawn for it, on the way to the device."""

    raw: RawSets
    """As read."""
    augmentation: Augmentation
    """Of each set."""
    bands: tuple[Int[Array, "_ 3"] | None, ...]
    """Of the images of each group: the bands that a stem of three reads; None: those of the assignment."""
    metadata: SetMetadata
    """What the network is told of each image."""
    noise: Float[Array, "set purpose token"]
    """For mixup, then for the masking of each image, then for its tying."""
    hides_last: bool
    """Whether the last image of each set is hidden whole."""


class SetPreparer(Preparer[RawSets, DrawnSets]):
    """Make network input of raw sets; every draw is a function of (seed, step, sample)."""

    def __init__(
        self,
        recipe: PretrainRecipe,
        inputs: Mapping[str, ArrayInput],
        *,
        device: torch.device,
        grid: tuple[int, int],
    ) -> None:
        """Move what is constant to the device.

        Args:
            recipe: of the run.
            inputs: how each array is read.
            device: where the network runs.
            grid: rows and columns that crops are aligned to.
        """
        self._recipe = recipe
        self._reader = ArrayReader(recipe, inputs, device=device)
        self._device = device
        self._grid = grid

    def draw(self, raw: RawSets, *, step: int, augment: AugmentOptions | None = None) -> DrawnSets:
        """Draw what happens to a batch: one augmentation for all images of a set, facts to hide, noise.

        A batch that is looked at is told all known facts.
        """
        drawn = draw_augmentation(
            augment or self._recipe.data.augment,
            seed=self._recipe.seed,
            step=step,
            samples=raw.draw.samples.tolist(),
            grid=self._grid,
        )
        metadata = self._metadata(raw, drawn)
        if augment is None:
            metadata = self._forgetting(metadata, step, raw.draw)
        num_slots = raw.draw.chips.shape[1]
        coin = float(generator(self._recipe.seed, step=step, sample=0, purpose="hidden image").random())
        return DrawnSets(
            raw=raw,
            augmentation=drawn,
            bands=self._bands(raw, step, trains=augment is None),
            metadata=metadata,
            noise=self._noise(step, raw.draw),
            hides_last=num_slots > 1 and coin < self._recipe.model.hidden_image,
        )

    def finish(self, drawn: DrawnSets) -> tuple[SetBatch, SetNoise]:
        """Copy a batch to the device and make the network's input there."""
        raw, num_slots = drawn.raw, drawn.raw.draw.chips.shape[1]
        groups = tuple(
            self._reader.image(
                group.pixels,
                group.valid,
                group.array,
                self._reader.resampler(drawn.augmentation.of(group.sets)),
                chosen,
            )
            for group, chosen in zip(raw.groups, drawn.bands, strict=True)
        )
        facts = {name: to_device(values, self._device) for name, values in vars(drawn.metadata).items()}
        batch = SetBatch(
            groups=groups,
            rows=to_device(raw.rows, self._device),
            same_source=to_device(raw.draw.same_source, self._device),
            first_slot=to_device(raw.draw.first_slot, self._device),
            metadata=SetMetadata(**facts),
            partnered=raw.draw.partnered,
        )
        noise = to_device(drawn.noise, self._device)
        return batch, SetNoise(
            mixup=noise[:, 0],
            masking=noise[:, 1 : 1 + num_slots],
            tying=noise[:, 1 + num_slots :],
            hides_last=drawn.hides_last,
        )

    def _bands(self, raw: RawSets, step: int, *, trains: bool) -> tuple[Int[Array, "_ 3"] | None, ...]:
        """Draw the bands that a stem of three reads of each image; None: those that are used outside of training."""
        if trains and self._recipe.model.stem == "triplet":
            return drawn_for_groups(raw, seed=self._recipe.seed, step=step)
        return (None,) * len(raw.groups)

    def _metadata(self, raw: RawSets, drawn: Augmentation) -> SetMetadata:
        """Tell the facts of the images as the network sees them: corners and pixel size follow the crop."""
        facts = raw.facts
        gsd_m = input_gsd_m(drawn, facts.gsd_m, facts.shape_px, img_size=self._recipe.model.img_size)
        return set_metadata(input_corners(drawn, facts.corners_deg), facts.gsd_m, facts.time, gsd_m)

    def _forgetting(self, metadata: SetMetadata, step: int, draw: SetDraw) -> SetMetadata:
        sets = self._recipe.data.sets
        share = 0.0 if sets is None else sets.metadata_dropout
        if not share:
            return metadata
        draws = self._draws(step, draw, purpose="facts", shape=(draw.chips.shape[1], len(FACTS)))
        return hide_facts(metadata, torch.from_numpy(draws < share))

    def _noise(self, step: int, draw: SetDraw) -> Float[Array, "set purpose token"]:
        model, num_slots = self._recipe.model, draw.chips.shape[1]
        num_tokens = (model.img_size // model.patch_size) ** 2
        draws = self._draws(step, draw, purpose="masking of sets", shape=(1 + 2 * num_slots, num_tokens))
        return draws.astype(np.float32)

    def _draws(self, step: int, draw: SetDraw, *, purpose: str, shape: tuple[int, ...]) -> Float[Array, "set ..."]:
        return uniform(self._recipe.seed, step=step, samples=draw.samples.tolist(), purpose=purpose, shape=shape)
