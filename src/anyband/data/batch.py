"""From a plan to tensors: batches of pairs in stored numbers, read ahead by threads."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from anyband.data.sets import PairPlan, Pairs, PairSampler
from anyband.data.store import ChipStore
from anyband.shapes import Array, Bool, Int, Num

__all__ = ["BatchLoader", "RawPair", "read_pair_batch"]

# chosen: each thread has one batch in work and one waiting.
_BATCHES_PER_WORKER = 2


@dataclass(frozen=True, kw_only=True)
class RawPair:
    """A batch of pairs as it is stored; sample k of `a` and of `b` show one footprint."""

    a: Num[Tensor, "batch band_a row_a col_a"]
    """First images, stored numbers in the type of their array."""
    b: Num[Tensor, "batch band_b row_b col_b"]
    """Second images."""
    valid_a: Bool[Tensor, "batch band_a row_a col_a"] | None
    """Where `a` is data; None: everywhere."""
    valid_b: Bool[Tensor, "batch band_b row_b col_b"] | None
    """Where `b` is data; None: everywhere."""
    array_a: str
    """Array of the store that `a` is from."""
    array_b: str
    """Array of the store that `b` is from."""
    plan: PairPlan
    """Which pairs these are."""


def read_pair_batch(store: ChipStore, pairs: Pairs, plan: PairPlan) -> RawPair:
    """Read the pairs of a plan, each of both sides in one go.

    Raises:
        StoreError: the store is damaged.
    """
    array_a, array_b = pairs.types[plan.pair_type]
    a, valid_a = _read(store, array_a, pairs.index_a[plan.rows])
    b, valid_b = _read(store, array_b, pairs.index_b[plan.rows])
    return RawPair(a=a, b=b, valid_a=valid_a, valid_b=valid_b, array_a=array_a, array_b=array_b, plan=plan)


class BatchLoader:
    """Batches of the steps `first_step` to `last_step` − 1, in order, whatever the number of workers."""

    def __init__(
        self,
        store: ChipStore,
        pairs: Pairs,
        sampler: PairSampler,
        *,
        first_step: int,
        last_step: int,
        workers: int = 2,
    ) -> None:
        """Plan the reading; it starts with the iteration.

        Args:
            store: to read from.
            pairs: of the store.
            sampler: of the pairs.
            first_step: first step to give.
            last_step: step to stop before.
            workers: threads that read ahead; 0 reads when asked.
        """
        self._store = store
        self._pairs = pairs
        self._sampler = sampler
        self._steps = range(first_step, last_step)
        self._workers = workers

    def __len__(self) -> int:
        """Count the batches."""
        return len(self._steps)

    def __iter__(self) -> Iterator[RawPair]:
        """Give the batches in the order of the steps."""
        if self._workers == 0:
            yield from (self._read(self._sampler.batch(step)) for step in self._steps)
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="anyband-batch")
        waiting: deque[Future[RawPair]] = deque()
        try:
            for step in self._steps:
                waiting.append(pool.submit(self._read, self._sampler.batch(step)))
                if len(waiting) > self._workers * _BATCHES_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, plan: PairPlan) -> RawPair:
        return read_pair_batch(self._store, self._pairs, plan)


def _read(store: ChipStore, array: str, chips: Int[Array, " chip"]) -> tuple[Tensor, Tensor | None]:
    rows = store.array_rows[chips]
    pixels, valid = store.read(array, rows)
    return torch.from_numpy(pixels), None if valid is None else torch.from_numpy(valid)
