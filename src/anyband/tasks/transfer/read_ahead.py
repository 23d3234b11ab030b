"""Reading ahead: the next things are made by threads while the last one is used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

PlanT = TypeVar("PlanT")
MadeT = TypeVar("MadeT")

# chosen: decoding files keeps two threads busy beside the one that encodes, and a batch may fill much memory.
_WORKERS = 2


def read_ahead(make: Callable[[PlanT], MadeT], plans: Iterable[PlanT]) -> Iterator[MadeT]:
    """Make things in the order of their plans, a few ahead of their use; the order doesn't depend on the threads.

    Args:
        make: makes one; it may be called by several threads at once.
        plans: of each.
    """
    pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="anyband-samples")
    waiting: deque[Future[MadeT]] = deque()
    try:
        for plan in plans:
            waiting.append(pool.submit(make, plan))
            if len(waiting) > _WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
