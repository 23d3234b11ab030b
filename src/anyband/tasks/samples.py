"""What a run learns from, behind one face: pairs or sets of a store, in batches that processes and parts share."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import torch

from anyband.data.augment import AugmentOptions
from anyband.data.lanes import ShardLanes
from anyband.data.open_shards import OpenShards
from anyband.data.store import ChipStore
from anyband.errors import RecipeError
from anyband.models.inputs import PairBatch, PairNoise, SetBatch, SetNoise
from anyband.shapes import Array, Int
from anyband.tasks.array_inputs import ArrayInput
from anyband.tasks.recipe import PretrainRecipe

__all__ = ["Draw", "Example", "Preparer", "Sampler", "Samples", "Share", "SharedSampler"]

# chosen: more than what the threads of a loader have in work.
_KEPT_BATCHES = 64

Example = tuple[PairBatch, PairNoise] | tuple[SetBatch, SetNoise]
"""What an autoencoder takes."""


OwnT = TypeVar("OwnT")
RawT = TypeVar("RawT")
ReadyT = TypeVar("ReadyT")


@runtime_checkable
class Draw(Protocol):
    """What one batch holds."""

    @property
    def epoch(self) -> int:
        """Epoch of the batch, from 0."""

    @property
    def samples(self) -> Int[Array, " sample"]:
        """Identities of what is drawn."""

    def part(self: OwnT, which: slice) -> OwnT:
        """Take some of the samples."""


DrawT = TypeVar("DrawT", bound=Draw)
DrawnT = TypeVar("DrawnT", bound=Draw, covariant=True)


@runtime_checkable
class Sampler(Protocol[DrawnT]):
    """Batches as a pure function of the step."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""

    def batch(self, step: int) -> DrawnT:
        """Tell what the batch of a step holds."""


class Preparer(ABC, Generic[RawT, ReadyT]):
    """Makes network input of what was read; every draw is a function of (seed, step, sample).

    In two parts: what is drawn needs no device, so threads that read ahead do it too; the rest is work of the device.
    """

    @abstractmethod
    def draw(self, raw: RawT, *, step: int, augment: AugmentOptions | None = None) -> ReadyT:
        """Draw all that happens to a batch.

        Args:
            raw: as read.
            step: training step, for the draws.
            augment: what augmentation may do where a batch is looked at, not trained on; None: training.
        """

    @abstractmethod
    def finish(self, drawn: ReadyT) -> Example:
        """Make the network input of a batch on the device. On a GPU nothing is waited for."""

    def prepare(self, raw: RawT, *, step: int, augment: AugmentOptions | None = None) -> Example:
        """Do both."""
        return self.finish(self.draw(raw, step=step, augment=augment))


class Samples(ABC, Generic[DrawT]):
    """What is learned from: samples of a split of a store, each of one footprint."""

    store: ChipStore
    """Where they are."""
    lanes: ShardLanes | None
    """The shards that they stand in, where these are read one after the other; None: chips are read one by one."""

    @property
    @abstractmethod
    def arrays(self) -> tuple[str, ...]:
        """Arrays of the store that they are in."""

    @property
    @abstractmethod
    def most_images(self) -> int:
        """Most images of a sample."""

    @property
    @abstractmethod
    def largest_kind(self) -> int:
        """Most samples that could stand in one batch, each once."""

    @abstractmethod
    def sampler(self, *, batch_size: int, seed: int) -> Sampler[DrawT]:
        """Plan batches."""

    @abstractmethod
    def read(self, draw: DrawT, shards: OpenShards | None = None) -> Any:
        """Read a batch, as it is stored.

        Args:
            draw: what it holds.
            shards: what is in memory already; None: nothing.

        Raises:
            StoreError: the store is damaged.
        """

    @abstractmethod
    def preparer(
        self, recipe: PretrainRecipe, inputs: Mapping[str, ArrayInput], *, device: torch.device
    ) -> Preparer[Any, Any]:
        """Make what brings a batch to the network."""

    @abstractmethod
    def chips(self, draw: DrawT) -> Int[Array, "sample image"]:
        """Tell the rows of the store's index that a batch holds."""

    @abstractmethod
    def items(self, draw: DrawT) -> Int[Array, " sample"]:
        """Tell which of the samples a batch holds, by their numbers in `lanes`."""

    @abstractmethod
    def kind(self, draw: DrawT) -> Hashable:
        """Name what all samples of a batch have in common; kinds pass in rounds of their own."""

    @abstractmethod
    def title(self, draw: DrawT) -> str:
        """Say what a batch holds, for messages."""

    @abstractmethod
    def notes(self, *, batch_size: int) -> list[str]:
        """Say what a reader should know of them before a run."""

    @abstractmethod
    def shown(self, count: int) -> dict[str, DrawT]:
        """Choose up to `count` samples for each panel, always the same: name of the panel → what it shows."""

    def views(self, example: Any, recipe: PretrainRecipe) -> dict[str, Any]:  # noqa: ARG002 (sets ask)
        """Say what of an example is drawn: end of the panel's name → what to draw."""
        return {"": example}

    @abstractmethod
    def panel(self, model: Any, raw: Any, example: Any, inputs: Mapping[str, ArrayInput], *, title: str) -> bytes:
        """Draw samples, what the encoder saw of them, and what the network makes of that.

        Args:
            model: of such samples, in evaluation mode.
            raw: as read.
            example: as prepared from it.
            inputs: how each array is read.
            title: stands above.

        Returns:
            A PNG.
        """

    def expect(self, shards: OpenShards, draw: DrawT) -> None:
        """Let the shards of a batch be fetched that comes."""
        shards.expect(self.chips(draw).ravel(), kind=self.kind(draw))

    def places(self, draw: DrawT) -> list[str]:
        """Name the place of each sample of a batch."""
        # All images of a sample are of one place.
        named: list[str] = self.store.index.column("place").take(self.chips(draw)[:, 0]).to_pylist()
        return named


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of a global batch a process computes."""

    process: int = 0
    """Number of this process, from 0."""
    num_processes: int = 1
    """Number of processes."""
    parts: int = 1
    """Parts that a process computes one after the other."""

    def check(self, batch_size: int) -> None:
        """See that the batch can be cut so.

        Raises:
            RecipeError: it can't.
        """
        pieces = self.num_processes * self.parts
        if batch_size % pieces:
            raise RecipeError(
                f"optim.batch_size {batch_size} can't be cut into {self.num_processes} processes × "
                f"{self.parts} accumulated parts; take a multiple of {pieces}"
            )


class SharedSampler(Generic[DrawT]):
    """The part of each global batch that one process computes, cut further into parts that are accumulated.

    All parts of all processes together are the global batch, in order: a pure function of the step.
    """

    def __init__(self, whole: Sampler[DrawT], *, batch_size: int, share: Share) -> None:
        """Cut the batches of `whole`, which are of `batch_size`."""
        # Batches are read ahead, each in parts; keeping some does not change any answer.
        self._global = lru_cache(maxsize=_KEPT_BATCHES)(whole.batch)
        self._share = share
        self._part_size = batch_size // (share.num_processes * share.parts)

    def batch(self, step: int) -> DrawT:
        """Tell what a part holds; `step` counts parts, `share.parts` to a training step."""
        training_step, part = divmod(step, self._share.parts)
        first = (self._share.process * self._share.parts + part) * self._part_size
        return self.global_batch(training_step).part(slice(first, first + self._part_size))

    def global_batch(self, step: int) -> DrawT:
        """Tell what all processes together compute in a training step."""
        return self._global(step)
