"""CPU seconds, wall seconds and memory of `anyband prepare` for growing numbers of images, against reading them once.

    python benchmarks/bench_prepare.py [--pairs 500 5000 50000] [--pictures 500 5000] [--workers 1 2] [--released DIR]

A picture is a JPEG of 64 pixels, without georeference, laid out as EuroSAT lays it out: thousands in the folder of a
class; a YAML file of the user describes the sensor, and each row of the manifest names it.
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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measure import circumstances, report
from pair_files import link_pairs, read_plain, scene, write_pixels
from PIL import Image
from released import ReleasedReader

_COMMAND = "import sys; from anyband.cli import main; sys.exit(main(sys.argv[1:]))"
# chosen: memory is asked for so often that no process ends long after its last answer.
_LOOK_S = 0.05
# chosen: by then chips are being cut, and the index is not yet written.
_MIDDLE = (0.5, 0.9)
_MB = 1e6
_SENSOR = """mission: Pictures of a drone
source: "the camera's data sheet"
sensors:
  drone-rgb:
    title: Red, green and blue of 8 bits
    nodata: null
    default_encoding: dn
    encodings:
      dn: {}
      reflectance: {scale: 0.01}
    unit: reflectance
    gsd_m: 10
    bands:
      - {name: R, low_nm: 590, high_nm: 710}
      - {name: G, low_nm: 466, high_nm: 620}
      - {name: B, low_nm: 430, high_nm: 545}
"""


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


def _pass_row(what: str, pairs: int, read_pair: Callable[[int], object]) -> dict[str, Any]:
    """Time one pass of a reader over some pairs, in this process."""
    read_pair(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(pairs):
        read_pair(number)
    return _row(what, pairs, time.process_time() - cpu, time.perf_counter() - wall)


def _row(what: str, pairs: int, cpu_s: float, wall_s: float) -> dict[str, Any]:
    return {
        "what": what,
        "number": pairs,
        "workers": 1,
        "CPU ms each": 1000 * cpu_s / pairs,
        "wall s": wall_s,
        "a second": pairs / wall_s,
        "main MB": 0.0,
        "kept MB": 0.0,
        "worker MB": 0.0,
        "store MB": 0.0,
    }


def _write_pictures(folder: Path, distinct: int) -> None:
    """Write JPEGs that compress about as land does."""
    folder.mkdir()
    for number in range(distinct):
        rng = np.random.default_rng(number)
        pixels = np.stack([scene(rng, 64, 0, 255) for _ in range(3)], axis=-1).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)


def _link_pictures(pixels: Path, folder: Path, *, pictures: int, distinct: int) -> Path:
    """Give the files of many pictures names of their own. Returns a manifest of them."""
    (folder / "drone.yaml").write_text(_SENSOR)
    rows = ["path,sensor"]
    for number in range(pictures):
        (folder / f"class {number % 10}").mkdir(exist_ok=True)
        name = f"class {number % 10}/{number:07d}.jpg"
        os.link(pixels / f"{number % distinct}.jpg", folder / name)
        rows.append(f"{name},drone.yaml")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(rows))
    return manifest


def _read_picture(folder: Path, number: int) -> None:
    with Image.open(folder / f"class {number % 10}" / f"{number:07d}.jpg") as picture:
        np.asarray(picture)


def _prepare_rows(folder: Path, manifest: Path, *, what: str, pairs: int, workers: list[int]) -> list[dict[str, Any]]:
    rows = []
    for count in workers:
        used = _prepare(manifest, folder / "store", count)
        size = sum(file.stat().st_size for file in (folder / "store").rglob("*") if file.is_file())
        shutil.rmtree(folder / "store")
        memory = {"main MB": used.main_mb, "kept MB": used.kept_mb, "worker MB": used.worker_mb, "store MB": size / _MB}
        rows.append({**_row(f"anyband prepare, {what}", pairs, used.cpu_s, used.wall_s), "workers": count, **memory})
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[500, 5_000, 50_000])
    parser.add_argument("--pictures", type=int, nargs="*", default=[500, 5_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--distinct", type=int, default=200, help="pairs and pictures with pixels of their own")
    parser.add_argument("--read-pairs", type=int, default=100, help="pairs that the readers read once")
    parser.add_argument("--released", type=Path, help="a checkout of the released code of SMARTIES")
    parser.add_argument("--folder", type=Path, help="where to make the files; default: the system's temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        top = Path(name)
        for number in range(arguments.distinct):
            write_pixels(top / "pixels", number)
        rows: list[dict[str, Any]] = []
        for pairs in arguments.pairs:
            folder = top / str(pairs)
            folder.mkdir()
            manifest = link_pairs(top / "pixels", folder, pairs=pairs, distinct=arguments.distinct)
            if not rows:
                rows += _reader_rows(folder, min(pairs, arguments.read_pairs), arguments.released)
            rows += _prepare_rows(folder, manifest, what="pairs", pairs=pairs, workers=arguments.workers)
            shutil.rmtree(folder)
        pictures = _picture_rows(top, arguments)
    for group in (rows, pictures):
        for row in group:
            # The reader that comes first is what the others are compared with.
            row["fewer CPU s"] = group[0]["CPU ms each"] / row["CPU ms each"]
    facts = circumstances(("numpy", "rasterio", "scikit-image", "tensorstore", "pyarrow"))
    settings = {"distinct": arguments.distinct, "against": rows[0]["what"]}
    report("bench_prepare", rows + pictures, {**facts, "settings": settings})


def _picture_rows(top: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    _write_pictures(top / "jpegs", arguments.distinct)
    for count in arguments.pictures:
        folder = top / f"pictures{count}"
        folder.mkdir()
        manifest = _link_pictures(top / "jpegs", folder, pictures=count, distinct=arguments.distinct)
        if not rows:
            read = partial(_read_picture, folder)
            rows.append(_pass_row("one pass, pictures, Pillow", min(count, 10 * arguments.read_pairs), read))
        rows += _prepare_rows(folder, manifest, what="pictures", pairs=count, workers=arguments.workers)
        shutil.rmtree(folder)
    return rows


def _reader_rows(folder: Path, pairs: int, released: Path | None) -> list[dict[str, Any]]:
    """Time the readers; the one that `prepare` is compared with comes first."""
    rows = []
    if released is not None:
        reader = ReleasedReader(released, folder, pairs=pairs)
        rows.append(_pass_row("one pass, released reader", pairs, reader.read))
    rows.append(_pass_row("one pass, plain reader", pairs, lambda number: read_plain(folder, f"{number:07d}")))
    return rows


if __name__ == "__main__":
    main()
