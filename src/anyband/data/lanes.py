"""An order in which shards are read one after the other, and still many of them are mixed in each batch.

The shards of a round stand in an order drawn anew, the things of each shard in one of their own. This list is cut into
lanes of one piece each. Every position of a batch belongs to a lane, neighbours to one lane or to neighbours; a lane
gives its things in the order of the list. So a contiguous part of every batch comes from contiguous lanes, and whoever
computes that part touches the shards of these lanes only. A lane is cut as long as the round has positions for it:
nothing is left over, and at most one shard for each cut is read in two lanes.
"""

from dataclasses import dataclass

import numpy as np

from anyband.randomness import permutation
from anyband.shapes import Array, Int

__all__ = ["ShardLanes", "lane_of"]


@dataclass(frozen=True, kw_only=True)
class ShardLanes:
    """Which things stand in one shard, and how many shards are mixed at any time."""

    shards: Int[Array, " item"]
    """Number of the shard of each thing."""
    count: int
    """Lanes, at least one; fewer are used where there are fewer shards."""

    def deal(
        self, items: Int[Array, " place"], *, first: int, batch_size: int, seed: int, purpose: str, number: int
    ) -> Int[Array, " place"]:
        """Deal the things of a round to the places of its batches. Each thing stands in the result once.

        Args:
            items: the things, in an order drawn for the round; those of one shard keep it.
            first: place of the round's first thing, counted over all rounds.
            batch_size: places of a batch.
            seed: of the order of the shards.
            purpose: of that draw.
            number: of the round.
        """
        names, shards = np.unique(self.shards[items], return_inverse=True)
        rank = permutation(seed, step=number, purpose=purpose, size=len(names))
        listed = items[np.argsort(rank[shards], kind="stable")]
        lanes = lane_of(first + np.arange(len(items)), batch_size=batch_size, num_lanes=min(self.count, len(names)))
        dealt = np.empty_like(listed)
        dealt[np.argsort(lanes, kind="stable")] = listed
        return dealt

    def of(self, items: Int[Array, " chosen"]) -> "ShardLanes":
        """Keep some of the things, which get new numbers from 0."""
        return ShardLanes(shards=self.shards[items], count=self.count)


def lane_of(places: Int[Array, " place"], *, batch_size: int, num_lanes: int) -> Int[Array, " place"]:
    """Tell which lane serves each place. In a batch lanes ascend; each lane serves equally many places, or one more.

    Where a batch has fewer places than there are lanes, each place has neighbouring lanes that take turns.

    Args:
        places: counted over all batches, from 0.
        batch_size: places of a batch.
        num_lanes: lanes, at least one.
    """
    batches, positions = np.divmod(places, batch_size)
    lowest = positions * num_lanes // batch_size
    after = (positions + 1) * num_lanes // batch_size
    return np.asarray(lowest + batches % np.maximum(after - lowest, 1))
