"""How well an order of samples mixes the shards of a store, in numbers that a full shuffle can be held against."""

from dataclasses import dataclass

import numpy as np

from anyband.shapes import Array, Int

__all__ = ["ShuffleQuality", "full_shuffle_quality", "shuffle_quality"]


@dataclass(frozen=True, kw_only=True)
class ShuffleQuality:
    """How the samples of shards are spread."""

    shards_per_batch: float
    """Different shards in a batch, on average."""
    same_shard: float
    """Share of all pairs of two samples of a batch that are of one shard. The more samples of one shard resemble each
    other, the more a batch of many such pairs says the same thing several times."""
    spread: float
    """Mean distance of two samples of one shard in the order, as a share of its length; ⅓ where any sample may follow
    any other."""


def shuffle_quality(shards: Int[Array, " place"], *, batch_size: int) -> ShuffleQuality:
    """Measure an order.

    Args:
        shards: of the samples, in the order in which they pass; at least one whole batch.
        batch_size: samples of a batch; what does not fill the last one is in no batch.
    """
    batches = shards[: len(shards) // batch_size * batch_size].reshape(-1, batch_size)
    counts = [np.unique(batch, return_counts=True)[1] for batch in batches]
    same = [float((count * (count - 1)).sum()) for count in counts]
    return ShuffleQuality(
        shards_per_batch=float(np.mean([len(count) for count in counts])),
        same_shard=float(np.mean(same)) / max(1, batch_size * (batch_size - 1)),
        spread=_mean_distance(shards) / len(shards),
    )


def full_shuffle_quality(shards: Int[Array, " item"], *, batch_size: int) -> ShuffleQuality:
    """Tell what an order has on average in which any sample may follow any other.

    Args:
        shards: of the samples; at least two, and at least a batch.
        batch_size: samples of a batch.
    """
    total = len(shards)
    counts = np.unique(shards, return_counts=True)[1].astype(np.float64)
    # A shard is in no sample of a batch with the probability that all of them are drawn from the others.
    drawn = np.arange(batch_size)
    absent = np.prod(np.clip(total - counts[:, None] - drawn, 0, None) / (total - drawn), axis=1)
    return ShuffleQuality(
        shards_per_batch=float((1 - absent).sum()),
        same_shard=float((counts * (counts - 1)).sum()) / (total * (total - 1)),
        spread=(total + 1) / 3 / total,
    )


def _mean_distance(shards: Int[Array, " place"]) -> float:
    """Average the distance of two samples of one shard over all such pairs."""
    order = np.argsort(shards, kind="stable")
    _, first, counts = np.unique(shards[order], return_index=True, return_counts=True)
    rank = np.arange(len(shards)) - np.repeat(first, counts)
    # In sorted places x0 ≤ x1 ≤ … of k, xi is the later of a pair i times and the earlier one k − 1 − i times.
    weights = 2 * rank - np.repeat(counts, counts) + 1
    num_pairs = float((counts * (counts - 1) // 2).sum())
    return float((order * weights).sum()) / num_pairs if num_pairs else 0.0
