"""Repeat, take medians, and print a table for people and one JSON line for machines."""

import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anyband.errors import AnybandError

RESULTS = Path(__file__).parent / "results"


def exit_code_of(work: Callable[[], None]) -> int:
    """Do the work of a command; an error that a user can cause is one message and exit code 2."""
    try:
        work()
    except AnybandError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of repeated runs of one thing."""

    name: str
    """What was timed."""
    wall_s: tuple[float, ...]
    """Wall-clock seconds of each run."""
    cpu_s: tuple[float, ...]
    """Processor seconds of each run, all threads."""

    @property
    def median_s(self) -> float:
        """Median wall-clock seconds."""
        return statistics.median(self.wall_s)

    @property
    def spread(self) -> float:
        """(largest − smallest) / median of the wall-clock seconds."""
        return (max(self.wall_s) - min(self.wall_s)) / self.median_s


def time_in_turn(things: Mapping[str, Callable[[], object]], *, repeats: int) -> dict[str, Timing]:
    """Time several things in turn, A B A B …, after one uncounted run of each, so that drift hits all alike."""
    for run in things.values():
        run()
    wall: dict[str, list[float]] = {name: [] for name in things}
    cpu: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, run in things.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - wall_start)
            cpu[name].append(time.process_time() - cpu_start)
    return {name: Timing(name=name, wall_s=tuple(wall[name]), cpu_s=tuple(cpu[name])) for name in things}


def pin_to_one_core() -> int:
    """Bind this process and its later threads to one core; returns the core, or −1 where that can't be done."""
    if not hasattr(os, "sched_setaffinity"):
        return -1
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def circumstances(packages: tuple[str, ...]) -> dict[str, Any]:
    """Describe hardware, versions and commit."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": _commit(),
    }


def report(name: str, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Print rows as a table and as one JSON line, and write them to results/NAME.csv."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name)
    for column in rows[0]:
        table.add_column(column, justify="right" if isinstance(rows[0][column], float | int) else "left")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=140).print(table)
    print(json.dumps({"benchmark": name, "rows": rows, **facts}))
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "processor", "commit"])
        writer.writeheader()
        writer.writerows({**row, "processor": facts["processor"], "commit": facts["commit"]} for row in rows)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
