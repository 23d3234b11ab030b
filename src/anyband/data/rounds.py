"""Things of several kinds in batches of one kind each, in rounds: a pure function of (seed, step)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyband.data.lanes import ShardLanes
from anyband.randomness import permutation
from anyband.shapes import Array, Int

__all__ = ["RoundBatch", "Rounds"]


@dataclass(frozen=True, kw_only=True)
class RoundBatch:
    """What one batch holds."""

    items: Int[Array, " sample"]
    """Numbers of the things."""
    passed: Int[Array, " sample"]
    """How often each of them passed before."""
    kind: int
    """The kind of them all."""
    epoch: int
    """Epoch of the batch, from 0."""


class Rounds:
    """Batches of one kind each. The things of a kind pass in rounds, each once a round, in an order drawn anew.

    Batches are cut from that stream, so what does not fill the last batch of a round opens the next. A kind with fewer
    things than a batch passes several times in one.
    """

    def __init__(
        self, kinds: Int[Array, " item"], *, batch_size: int, seed: int, noun: str, lanes: ShardLanes | None = None
    ) -> None:
        """Plan the batches.

        Args:
            kinds: of each thing, from 0; at least one.
            batch_size: things a batch.
            seed: of the orders.
            noun: what the things are called, for example `pairs`: other names are other orders.
            lanes: shards to read one after the other; None: any thing may follow any other.
        """
        self._batch_size = batch_size
        self._seed = seed
        self._noun = noun
        self._lanes = lanes
        self._items_of_kind = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max(initial=-1)) + 1)]
        counts = [len(items) for items in self._items_of_kind]
        # An epoch has about as many batches of a kind as the kind fills, at least one.
        self._batches_of_kind = [max(1, round(count / batch_size)) if count else 0 for count in counts]
        # Orders are asked for once a step; keeping a few does not change any answer.
        self._kinds = lru_cache(maxsize=2)(self._draw_kinds)
        self._round = lru_cache(maxsize=2 * len(counts))(self._draw_round)

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return sum(self._batches_of_kind)

    def batch(self, step: int) -> RoundBatch:
        """Tell what the batch of a step holds.

        Args:
            step: from 0, counted over all epochs.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        kinds = self._kinds(epoch)
        kind = int(kinds[position])
        number = epoch * self._batches_of_kind[kind] + int(np.count_nonzero(kinds[:position] == kind))
        passed = number * self._batch_size + np.arange(self._batch_size)
        rounds, places = np.divmod(passed, len(self._items_of_kind[kind]))
        items = np.array([self._round(kind, int(r))[p] for r, p in zip(rounds, places, strict=True)])
        return RoundBatch(items=items, passed=rounds, kind=kind, epoch=epoch)

    def _draw_kinds(self, epoch: int) -> Array:
        kinds = np.repeat(np.arange(len(self._batches_of_kind)), self._batches_of_kind)
        # The purposes are part of every run that was: another word is another order.
        purpose = "order of batches" if self._noun == "pairs" else f"order of batches of {self._noun}"
        order = permutation(self._seed, step=epoch, purpose=purpose, size=len(kinds))
        return np.asarray(kinds[order])

    def _draw_round(self, kind: int, number: int) -> Array:
        items = self._items_of_kind[kind]
        order = permutation(self._seed, step=number, purpose=f"order of {self._noun} {kind}", size=len(items))
        if self._lanes is None:
            return np.asarray(items[order])
        return self._lanes.deal(
            items[order],
            first=number * len(items),
            batch_size=self._batch_size,
            seed=self._seed,
            purpose=f"order of shards of {self._noun} {kind}",
            number=number,
        )
