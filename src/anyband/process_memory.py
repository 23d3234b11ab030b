"""Memory of this process."""

import ctypes
from functools import cache
from typing import Any

__all__ = ["return_freed_memory"]


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the C library is one that can be asked to.

    glibc keeps what threads freed, a pool for each thread, so that a process looks larger the longer it works with
    large arrays in several threads. Source: malloc_trim(3).
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
