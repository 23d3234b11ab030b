"""The batches that a process trains on, read ahead: chips one by one, or from whole shards in memory."""

from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from anyband.data.batch import BatchLoader
from anyband.data.open_shards import OpenShards
from anyband.data.shuffle_quality import shuffle_quality
from anyband.shapes import Array, Int
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.samples import Preparer, Samples, SharedSampler

__all__ = ["order_notes", "part_loader"]

# chosen: enough batches for a figure that is good to some percent, drawn in well under a second.
_BATCHES_LOOKED_AT = 64


def part_loader(
    samples: Samples[Any],
    sampler: SharedSampler[Any],
    preparer: Preparer[Any, Any],
    recipe: PretrainRecipe,
    *,
    steps: range,
) -> BatchLoader[Any, Any]:
    """Load the parts of training steps that a process computes, each with all that is drawn for it.

    Args:
        samples: that are learned from.
        sampler: tells what each part holds.
        preparer: draws.
        recipe: of the run.
        steps: training steps to load, one after the other.
    """
    parts, workers = recipe.optim.accumulate, recipe.run.workers
    read, expect = samples.read, None
    if samples.lanes is not None:
        # A lane serves some of the parts of a step, and waits for its turn where a batch has fewer places than lanes.
        turns = -(-samples.lanes.count // recipe.optim.batch_size)
        shards = OpenShards(samples.store, batches=BatchLoader.batches_in_work(workers) + turns * parts)
        read, expect = partial(samples.read, shards=shards), partial(samples.expect, shards)
    return BatchLoader(
        lambda part: preparer.draw(read(part.draw), step=part.step),
        _Parts(sampler, parts),
        first_step=steps.start * parts,
        last_step=steps.stop * parts,
        workers=workers,
        expect=None if expect is None else lambda part: expect(part.draw),
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is read and drawn at once."""

    step: int
    """Training step."""
    draw: Any
    """What it holds."""


class _Parts:
    """The parts of a sampler, each with its training step."""

    def __init__(self, sampler: SharedSampler[Any], parts: int) -> None:
        self._sampler = sampler
        self._parts = parts

    def batch(self, step: int) -> _Part:
        """Tell what a part holds."""
        return _Part(step=step // self._parts, draw=self._sampler.batch(step))


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
