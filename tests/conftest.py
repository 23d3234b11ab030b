"""Checks array shapes at every public boundary while the tests run, finds real images, and serves object storage."""

import importlib
import os
import subprocess
import sys
import urllib.request
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

# Before a library starts its threads: test processes with a thread each, since threads of several would wait for each
# other. It is set for the commands that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook("anyband", "beartype.beartype").__enter__()

# `make test` sees the same examples each time; `make test-all` draws them anew. Times vary, so there is no deadline.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("steady")

pytest_plugins = ["chip_stores", "small_runs"]

_HERE = Path(__file__).resolve()


def _real_data_folder() -> Path | None:
    named = os.environ.get("ANYBAND_REAL_DATA")
    folder = Path(named) if named else _HERE.parents[2] / "shared" / "realdata"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images; see docs/real_data.md. Tests that ask for it carry the marker `real`."""
    folder = _real_data_folder()
    if folder is None:
        pytest.skip("no real images: set ANYBAND_REAL_DATA or put them at ../shared/realdata")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of recorded vectors."""
    return _HERE.parent / "golden"


_OBJECT_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def object_server() -> Iterator[str]:
    """Address of an S3-compatible server in a process of its own; it holds all objects in memory."""
    # The server's libraries warn of their own code, and warnings are errors here; so it is a process of its own.
    with subprocess.Popen(
        [sys.executable, "-c", _OBJECT_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


@pytest.fixture
def bucket(object_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty bucket at `object_server`, with credentials in the environment."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{object_server}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    return f"s3://{name}"


@pytest.fixture
def parsed_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], Namespace]:
    """What a verb is told by a command line, without doing it."""

    def parse(words: Sequence[str]) -> Namespace:
        told: list[Namespace] = []
        from anyband.cli import main

        verb = importlib.import_module(f"anyband.cli.{words[0]}")
        monkeypatch.setattr(verb, "run", lambda parsed: told.append(parsed) or 0)
        assert main(words) == 0
        return told[0]

    return parse
