"""Memory of this process."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["large_blocks_returned", "return_freed_memory"]

# Numbers of settings. Source: malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# chosen: pixels of a chip and all that is larger; mapping smaller blocks one by one would cost more than it returns.
_LARGE_BYTES = 256 * 1024
# Where glibc's own settings end once blocks as large have been freed. Source: mallopt(3).
_LARGEST_MMAP_THRESHOLD, _LARGEST_TRIM_THRESHOLD = 32 * 2**20, 64 * 2**20


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library is one that can be asked to.

    glibc keeps what threads freed, a pool for each thread, so that a process looks larger the longer it works with
    large arrays in several threads. Source: malloc_trim(3).
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Have large blocks go back to the system as soon as they are freed, in all threads, where glibc is the C library.

    Of its own, glibc keeps ever larger blocks for later, in pools of which the largest sum depends on how threads
    happened to meet. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    # Others have functions of these names that take other settings.
    return libc if hasattr(libc, "gnu_get_libc_version") else None
