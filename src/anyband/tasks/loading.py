"""The batches that a process trains on, read ahead: chips one by one, or from whole shards in memory."""

from functools import partial
from typing import Any

from anyband.data.batch import BatchLoader
from anyband.data.open_shards import OpenShards
from anyband.tasks.recipe import PretrainRecipe
from anyband.tasks.samples import Samples, SharedSampler

__all__ = ["part_loader"]


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
