"""Sizes of the objects of a store, and chips a second from object storage that answers late.

    python benchmarks/bench_object_store.py STORE [--chips 512] [--latency-ms 100] [--repeats 3]

The chips of STORE, a folder, are repeated until each array has so many, and served on this machine by a small server
that speaks S3's reading and waits before each answer. Chips are read in random order, in batches of 128, with different
numbers of requests in flight. The ceiling is that number over the latency.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from measure import circumstances, exit_code_of, report, time_in_turn

from anyband.data import store as stores
from anyband.data.store import ArraySpec, ChipStore
from anyband.data.store_writer import Chip, ChipRecord, write_store

BATCH = 128
IN_FLIGHT = (8, 32, 128)


def _serve(folder: Path, latency_s: float, tell: Connection) -> None:
    """Serve a folder as bucket `chips`: reading of whole objects and of parts, and listing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body of an answer leave together.
        wbufsize = 2**20

        def do_GET(self) -> None:
            time.sleep(latency_s)
            address = urllib.parse.urlsplit(self.path)
            query = urllib.parse.parse_qs(address.query)
            if "list-type" in query:
                keys = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
                wanted = sorted(key for key in keys if key.startswith(query.get("prefix", [""])[0]))
                listed = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in wanted)
                self._answer(200, f"<ListBucketResult>{listed}</ListBucketResult>".encode(), {})
                return
            file = folder / address.path.removeprefix("/chips/")
            size = file.stat().st_size
            requested = self.headers.get("Range")
            first, _, last = requested.removeprefix("bytes=").partition("-") if requested else ("0", "-", "")
            start = int(first) if first else size - int(last)
            stop = int(last) + 1 if first and last else size
            with file.open("rb") as opened:
                opened.seek(start)
                content = opened.read(stop - start)
            described = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"} if requested else {}
            self._answer(206 if requested else 200, content, described)

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"ETag": '"1"', "Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        # The default of 5 lets connections wait for a second when many open at once.
        request_queue_size = 1024

    server = Server(("127.0.0.1", 0), Handler)
    tell.send(server.server_address[1])
    server.serve_forever()


def _repeat(store: ChipStore, path: Path, num_chips: int) -> None:
    """Write a store whose arrays hold the chips of another, over and over."""

    def chips() -> Iterator[tuple[ArraySpec, ChipRecord, Chip]]:
        for name, info in store.arrays.items():
            spec = ArraySpec(**{field.name: getattr(info, field.name) for field in fields(ArraySpec)})
            pixels, _ = store.read(name, range(info.num_chips))
            for row in range(num_chips):
                record = ChipRecord(
                    place=str(row), cell="r000c000", sensor=info.sensor, source_path="", valid_fraction=1.0
                )
                yield spec, record, Chip(pixels=pixels[row % info.num_chips])

    write_store(path, chips(), store.sensors)


def _sizes(folder: Path, info: ArraySpec) -> tuple[float, float]:
    """Give the size of the first shard, and of its numbers before compression, MiB."""
    shard = folder / "chips" / info.name / "c" / "0" / "0" / "0" / "0"
    plain = info.chips_per_shard * len(info.bands) * info.height * info.width * np.dtype(info.dtype).itemsize
    return shard.stat().st_size / 2**20, plain / 2**20


def _open(port: int, in_flight: int) -> ChipStore:
    stores._REQUESTS = in_flight
    stores.reading_context.cache_clear()
    return ChipStore.open("s3://chips", endpoint=f"http://127.0.0.1:{port}")


def _read(store: ChipStore, name: str, order: np.ndarray) -> None:
    for start in range(0, len(order), BATCH):
        store.read(name, order[start : start + BATCH])


def measure(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "any")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "any")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        _repeat(ChipStore.open(arguments.store), folder, arguments.chips)
        local = ChipStore.open(folder)
        for info in local.arrays.values():
            stored, plain = _sizes(folder, info)
            print(f"{info.name}: a shard of {info.chips_per_shard} chips is {stored:.1f} MiB, {plain:.1f} MiB unpacked")
        hear, tell = multiprocessing.Pipe(duplex=False)
        serving = multiprocessing.Process(target=_serve, args=(folder, arguments.latency_ms / 1000, tell), daemon=True)
        serving.start()
        port = hear.recv()
        array = next(iter(local.arrays))
        order = np.random.default_rng(0).permutation(arguments.chips)
        stores = {number: _open(port, number) for number in IN_FLIGHT}
        runs = {str(number): lambda one=store: _read(one, array, order) for number, store in stores.items()}
        timings = time_in_turn(runs, repeats=arguments.repeats)
        serving.terminate()
    rows = [
        {
            "in flight": int(key),
            "chips/s": arguments.chips / timing.median_s,
            "ceiling": int(key) / arguments.latency_ms * 1000,
            "spread": timing.spread,
        }
        for key, timing in timings.items()
    ]
    settings = {"array": array, "chips": arguments.chips, "batch": BATCH, "latency_ms": arguments.latency_ms}
    report("bench_object_store", rows, {**circumstances(("numpy", "tensorstore")), "settings": settings})


def main() -> int:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--chips", type=int, default=512)
    parser.add_argument("--latency-ms", type=float, default=100.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    return exit_code_of(lambda: measure(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
