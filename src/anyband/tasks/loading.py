"""The batches that a process trains on, read ahead: chips one by one, or from whole shards in memory."""

from copy import copy
from functools import partial
from typing import Any

import numpy as np

from anyband.data.batch import BatchLoader
from anyband.data.open_shards import OpenShards
from anyband.data.shuffle_quality import shuffle_quality
from anyband.shapes import Array, Int
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.samples import Samples, SharedSampler

__all__ = ["order_notes", "part_loader"]

# chosen: enough batches for a figure that is good to some percent, drawn in well under a second.
_BATCHES_LOOKED_AT = 64


def part_loader(
    samples: Samples[Any], sampler: SharedSampler[Any], recipe: PretrainRecipe, *, first_step: int, last_step: int
) -> BatchLoader[Any, Any]:
    """Load the parts of the training steps `first_step` to `last_step` − 1 that a process computes.

    Args:
        samples: that are learned from.
        sampler: tells what each part holds.
        recipe: of the run.
        first_step: first training step to load.
        last_step: training step to stop before.
    """
    parts, workers = recipe.optim.accumulate, recipe.run.workers
    read, expect = samples.read, None
    if samples.lanes is not None:
        # A lane serves some of the parts of a step, and waits for its turn where a batch has fewer places than lanes.
        turns = -(-samples.lanes.count // recipe.optim.batch_size)
        shards = OpenShards(samples.store, batches=BatchLoader.batches_in_work(workers) + turns * parts)
        read, expect = partial(samples.read, shards=shards), partial(samples.expect, shards)
    return BatchLoader(
        read, sampler, first_step=first_step * parts, last_step=last_step * parts, workers=workers, expect=expect
    )


def order_notes(samples: Samples[Any], *, batch_size: int, seed: int) -> list[str]:
    """Say how well an order by shards mixes, from its first batches; nothing where chips are read one by one.

    Args:
        samples: that are learned from.
        batch_size: samples of a batch.
        seed: of the run.
    """
    if samples.lanes is None:
        return []
    shards, by_chips = samples.lanes.shards, copy(samples)
    by_chips.lanes = None
    ours, full = (_same_shard(one, shards, batch_size=batch_size, seed=seed) for one in (samples, by_chips))
    return [
        f"order by shards: {len(np.unique(shards))} shards, up to {samples.lanes.count} of each kind mixed at a time; "
        f"two samples of a batch are of one shard in {ours:.2%} of all cases, with `data.shuffle=chips` in {full:.2%}"
    ]


def _same_shard(samples: Samples[Any], shards: Int[Array, " item"], *, batch_size: int, seed: int) -> float:
    """Measure how often two samples of a batch are of one shard, over the first batches."""
    sampler = samples.sampler(batch_size=batch_size, seed=seed)
    steps = range(min(_BATCHES_LOOKED_AT, sampler.steps_per_epoch))
    order = np.concatenate([shards[samples.items(sampler.batch(step))] for step in steps])
    return shuffle_quality(order, batch_size=batch_size).same_shard
