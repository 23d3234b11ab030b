"""Memory that was freed goes back to the system where the C library can be asked."""

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest

from anyband import process_memory
from anyband.process_memory import return_freed_memory


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc on Linux only"
)
def test_what_a_thread_freed_is_given_back() -> None:
    pieces: list[object] = []

    def work() -> None:
        # Small enough to come from the thread's pool; the last piece keeps the pool from shrinking by itself.
        pieces.extend(np.ones(8000) for _ in range(4000))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    full = _resident_mb()
    del pieces[:-1]
    return_freed_memory()
    assert full - _resident_mb() > 150


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    process_memory._trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    return_freed_memory()
    assert process_memory._trim() is None
    process_memory._trim.cache_clear()
