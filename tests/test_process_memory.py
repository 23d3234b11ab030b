"""Memory that was freed goes back to the system where the C library can be asked."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anyband.data import store_writer as process_memory
from anyband.data.store_writer import large_blocks_returned, return_freed_memory

needs_glibc = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="glibc on Linux only",
)


def _freed_mb(statement: str) -> float:
    """Fill blocks in a thread of a new process, and free all but the last, which keeps a pool from shrinking by itself.

    Args:
        statement: that works on them: `fill()` and then `free()`.

    Returns:
        What the process was smaller by.
    """
    words = [sys.executable, "-c", _SCRIPT, statement]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"}, check=True)
    return float(done.stdout)


_SCRIPT = """
import sys, threading
from pathlib import Path
import numpy as np
from anyband.data.store_writer import large_blocks_returned, return_freed_memory

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def fill(size, count):
    global full
    thread = threading.Thread(target=lambda: blocks.extend(np.ones(size, dtype=np.uint8) for _ in range(count)))
    thread.start()
    thread.join()
    full = resident_mb()

def free():
    del blocks[:-1]

blocks = []
exec(sys.argv[1])
print(full - resident_mb())
"""


@needs_glibc
def test_what_a_thread_freed_is_given_back() -> None:
    assert _freed_mb("fill(64_000, 4000); free()") < 50
    assert _freed_mb("fill(64_000, 4000); free(); return_freed_memory()") > 150


@needs_glibc
def test_large_blocks_are_given_back_at_once() -> None:
    assert _freed_mb("with large_blocks_returned(): fill(400_000, 640); free()") > 200
    # Afterwards they are kept, as glibc does once it has seen blocks as large.
    assert _freed_mb("with large_blocks_returned(): pass\nfill(400_000, 640); free()") < 50


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    process_memory._glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    return_freed_memory()
    with large_blocks_returned():
        pass
    assert process_memory._glibc() is None
    process_memory._glibc.cache_clear()
