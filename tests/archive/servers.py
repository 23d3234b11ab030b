"""Servers on this machine: a STAC API (rustac, in memory) and files by ranges of bytes, both of which can be told to
fail."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_WAIT_S = 20.0


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method, path and body hold `where`."""

    kind: str
    """`status`: that status and no more; `drop`: no answer; `cut`: the answer ends half way; `slow`: it waits first."""
    status: int = 500
    retry_after: str = ""
    slow_s: float = 0.0
    where: str = ""
    times: int = 1


@dataclass
class Server:
    """A server that runs: its address, what was asked of it (`POST /search`), and what is to go wrong."""

    url: str
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def fault_of(self, request: str) -> Fault | None:
        """Take the first fault that is meant for a request."""
        found = next((fault for fault in self.faults if fault.where in request and fault.times > 0), None)
        if found is not None:
            found.times -= 1
        return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    running: Server

    def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError

    def handle_one(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        request = f"{self.command} {self.path}"
        self.running.requests.append(request)
        fault = self.running.fault_of(f"{request} {body.decode(errors='replace')}")
        kind = "" if fault is None else fault.kind
        if fault is not None and kind == "slow":
            time.sleep(fault.slow_s)
        if kind == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault is not None and kind == "status":
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            status, content = fault.status, b"told to fail"
        else:
            status, headers, content = self.answer(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if kind == "cut":
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = handle_one  # noqa: N815 - names in the base class

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        pass


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that time out, or are killed, leave connections behind.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def _running(handler: type[_Handler]) -> Iterator[Server]:
    with _Quiet(("127.0.0.1", 0), handler) as server:
        handler.running = Server(url=f"http://127.0.0.1:{server.server_address[1]}/")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield handler.running
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def file_server(folder: Path) -> Iterator[Server]:
    """Serve the files of a folder by HTTP, whole or by one range of bytes."""

    class Files(_Handler):
        def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            path = (folder / self.path.split("?")[0].lstrip("/")).resolve()
            if not path.is_relative_to(folder.resolve()) or not path.is_file():
                return 404, {}, b"no such file"
            content = path.read_bytes()
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked is None:
                return 200, {"Accept-Ranges": "bytes"}, content
            first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
            if first > last:
                return 416, {"Content-Range": f"bytes */{len(content)}"}, b""
            where = {"Content-Range": f"bytes {first}-{last}/{len(content)}", "Accept-Ranges": "bytes"}
            return 206, where, content[first : last + 1]

    with _running(Files) as server:
        yield server


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def stac_server(items: Sequence[dict[str, Any]], folder: Path) -> Iterator[Server]:
    """Serve items by a STAC API (rustac, whose file of items goes into `folder`), behind a proxy that can fail."""
    port = _free_port()

    class Proxy(_Handler):
        def answer(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{self.path}",
                data=body or None,
                method=self.command,
                headers={"Content-Type": self.headers.get("Content-Type") or "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=_WAIT_S) as response:
                    return response.status, {"Content-Type": response.headers["Content-Type"]}, response.read()
            except urllib.error.HTTPError as problem:
                return problem.code, {}, problem.read()

    file = folder / "stac_items.json"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    program = shutil.which("rustac") or str(Path(sys.executable).with_name("rustac"))
    with _running(Proxy) as server:
        bind = ["--addr", server.url, "--bind", f"127.0.0.1:{port}", "--create-collections", str(file)]
        log = (folder / "rustac.log").open("wb")
        process = subprocess.Popen([program, "serve", *bind], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(port, process, folder / "rustac.log")
            yield server
        finally:
            process.kill()
            process.wait()
            log.close()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end_s = time.monotonic() + _WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"rustac serve does not answer: {log.read_text()}") from None
            time.sleep(0.02)
