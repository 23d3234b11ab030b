"""CPU seconds, wall seconds and memory of `anyband prepare` for growing numbers of pairs, against reading them once.

    python benchmarks/bench_prepare.py [--pairs 500 5000 50000] [--workers 1 2] [--released FOLDER]

A pair is Sentinel-2 (12 bands on grids of 120, 60 and 20 pixels) and Sentinel-1 (2 bands of 120 pixels, dB as float32),
laid out as BigEarthNet lays it out: two folders of single-band GeoTIFFs, each pair a place of its own. Some hundred
pairs have pixels of their own, the others are hard links to them, so files are read from memory, not from a disk.
Each run is the command `anyband prepare` in a process of its own; CPU seconds are those of all its processes.
Beside it stand one pass of a plain reader (14 files, scikit-image) and, with `--released`, of the reader of SMARTIES in
a checkout of it, with its normalising, cropping and resizing. Memory is read from /proc, so this runs on Linux: the
peak of each process, and what the first one keeps while it writes no shard.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measure import circumstances, report
from pair_files import link_pairs, read_plain, write_pixels
from released import ReleasedReader

_COMMAND = "import sys; from anyband.cli import main; sys.exit(main(sys.argv[1:]))"
# chosen: memory is asked for so often that no process ends long after its last answer.
_LOOK_S = 0.05
# chosen: by then chips are being cut, and the index is not yet written.
_MIDDLE = (0.5, 0.9)
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one run of `anyband prepare` took."""

    cpu_s: float
    """Processor seconds of all its processes."""
    wall_s: float
    """Seconds from start to end."""
    main_mb: float
    """Peak resident memory of the first process."""
    kept_mb: float
    """Its least resident memory between half and nine tenths of its time: what it holds while no shard is written."""
    worker_mb: float
    """Peak resident memory of its largest worker; 0 without workers."""


def _prepare(manifest: Path, out: Path, workers: int) -> Usage:
    """Run the command, and look at the memory of its processes until it ends."""
    words = ["prepare", str(manifest), "--out", str(out), "--workers", str(workers), "--quiet"]
    start, peaks, resident = time.perf_counter(), dict[int, float](), list[float]()
    process = subprocess.Popen([sys.executable, "-c", _COMMAND, *words], stdout=subprocess.DEVNULL)
    while True:
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        for one in (process.pid, *_children(process.pid)):
            peaks[one] = max(peaks.get(one, 0.0), _status_mb(one, "VmHWM"))
        resident.append(_status_mb(process.pid, "VmRSS"))
        time.sleep(_LOOK_S)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"`anyband {' '.join(words)}` ended with code {process.returncode}")
    wall_s = time.perf_counter() - start
    main_mb = peaks.pop(process.pid, 0.0)
    worker_mb = max(peaks.values(), default=0.0) if workers > 1 else 0.0
    begin, end = (int(share * len(resident)) for share in _MIDDLE)
    return Usage(
        cpu_s=used.ru_utime + used.ru_stime,
        wall_s=wall_s,
        main_mb=main_mb,
        kept_mb=min(resident[begin:end], default=0.0),
        worker_mb=worker_mb,
    )


def _children(pid: int) -> list[int]:
    try:
        texts = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(word) for text in texts for word in text.split()]


def _status_mb(pid: int, name: str) -> float:
    """Read a number of a process's state, `VmHWM` (its largest resident memory so far) say; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) * 1024 / _MB for line in lines if line.startswith(f"{name}:")), 0.0)


def _pass_row(what: str, pairs: int, read_pair) -> dict[str, object]:
    """Time one pass of a reader over some pairs, in this process."""
    read_pair(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(pairs):
        read_pair(number)
    return _row(what, pairs, time.process_time() - cpu, time.perf_counter() - wall)


def _row(what: str, pairs: int, cpu_s: float, wall_s: float) -> dict[str, object]:
    return {
        "what": what,
        "pairs": pairs,
        "workers": 1,
        "CPU ms/pair": 1000 * cpu_s / pairs,
        "wall s": wall_s,
        "pairs/s": pairs / wall_s,
        "main MB": 0.0,
        "kept MB": 0.0,
        "worker MB": 0.0,
        "store MB": 0.0,
    }


def _prepare_rows(folder: Path, manifest: Path, *, pairs: int, workers: list[int]) -> list[dict[str, object]]:
    rows = []
    for count in workers:
        used = _prepare(manifest, folder / "store", count)
        size = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file())
        shutil.rmtree(folder / "store")
        memory = {"main MB": used.main_mb, "kept MB": used.kept_mb, "worker MB": used.worker_mb, "store MB": size / _MB}
        rows.append({**_row("anyband prepare", pairs, used.cpu_s, used.wall_s), "workers": count, **memory})
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[500, 5_000, 50_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--distinct", type=int, default=200, help="pairs with pixels of their own")
    parser.add_argument("--read-pairs", type=int, default=100, help="pairs that the readers read once")
    parser.add_argument("--released", type=Path, help="a checkout of the released code of SMARTIES")
    parser.add_argument("--folder", type=Path, help="where to make the files; default: the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        top = Path(name)
        for number in range(arguments.distinct):
            write_pixels(top / "pixels", number)
        rows: list[dict[str, object]] = []
        for pairs in arguments.pairs:
            folder = top / str(pairs)
            folder.mkdir()
            manifest = link_pairs(top / "pixels", folder, pairs=pairs, distinct=arguments.distinct)
            if not rows:
                rows += _reader_rows(folder, min(pairs, arguments.read_pairs), arguments.released)
            rows += _prepare_rows(folder, manifest, pairs=pairs, workers=arguments.workers)
            shutil.rmtree(folder)
    slowest = next(row["CPU ms/pair"] for row in rows if row["what"] != "anyband prepare")
    for row in rows:
        row["fewer CPU s"] = slowest / row["CPU ms/pair"]
    facts = circumstances(("numpy", "rasterio", "scikit-image", "tensorstore", "pyarrow"))
    settings = {"distinct": arguments.distinct, "against": rows[0]["what"]}
    report("bench_prepare", rows, {**facts, "settings": settings})


def _reader_rows(folder: Path, pairs: int, released: Path | None) -> list[dict[str, object]]:
    """Time the readers; the one that `prepare` is compared with comes first."""
    rows = []
    if released is not None:
        reader = ReleasedReader(released, folder, pairs=pairs)
        rows.append(_pass_row("one pass, released reader", pairs, reader.read))
    rows.append(_pass_row("one pass, plain reader", pairs, lambda number: read_plain(folder, f"{number:07d}")))
    return rows


if __name__ == "__main__":
    main()
