"""A worker that is killed in `prepare` must not cost the pieces that were finished before."""

import os
import signal
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from anyband.data.ledger import Ledger
from anyband.data.manifest import entries_from_globs
from anyband.data.prepare import prepare
from anyband.data.store import ChipStore
from anyband.errors import WorkerError
from anyband.progress import run_pieces, worker_pool
from anyband.rasters.grid import Grid
from anyband.rasters.writer import write_geotiff
from anyband.simulate.archive import simulate
from anyband.simulate.plan import SimulateOptions


class _DyingPool(Executor):
    """Does its work here, until the pieces of some numbers, for which a process is killed."""

    def __init__(self, *killed: int) -> None:
        self._killed = killed
        self._count = 0

    def submit(self, work, /, *tasks):
        future = Future()
        if self._count in self._killed:
            future.set_exception(BrokenProcessPool("a process was killed"))
        else:
            future.set_result(work(*tasks))
        self._count += 1
        return future


def _kill(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(4):
        grid = Grid(
            height=16, width=16, transform=(10.0, 0.0, 5e5 + 1e3 * number, 0.0, -10.0, 5e6),
            crs="EPSG:32632", gsd_m=10.0,
        )  # fmt: skip
        pixels = rng.integers(1, 255, (3, 16, 16)).astype(np.uint8)
        write_geotiff(tmp_path / f"{number}.tif", pixels, grid=grid, descriptions=("R", "G", "B"))
    return tmp_path


def test_what_was_finished_stays_when_a_worker_is_killed(images: Path) -> None:
    entries = entries_from_globs([str(images / "*.tif")], sensor="maxar-rgb")
    out = images / "store"
    with pytest.raises(WorkerError, match="what is finished is kept"):
        prepare(entries, out, executor=_DyingPool(6))
    partial = images / "store.partial"
    ledger = Ledger(partial / "ledger.sqlite")
    # All but the one whose process was killed.
    assert ledger.database.execute("SELECT count(*) FROM cuts WHERE problem IS NULL").fetchone() == (3,)
    assert not out.exists()


def test_the_next_run_goes_on_from_there(images: Path) -> None:
    entries = entries_from_globs([str(images / "*.tif")], sensor="maxar-rgb")
    with pytest.raises(WorkerError):
        prepare(entries, images / "store", executor=_DyingPool(6))
    prepare(entries, images / "store")
    assert not (images / "store.partial").exists()
    assert ChipStore.open(images / "store").index.num_rows == 4


def test_pieces_that_were_finished_out_of_order_are_kept_too() -> None:
    done: dict[int, int] = {}
    pieces = [(number, number) for number in range(3)]
    with pytest.raises(WorkerError):
        list(run_pieces(pieces, abs, find=done.get, keep=done.__setitem__, executor=_DyingPool(1), workers=4))
    assert set(done) == {0, 2}


def test_a_pool_with_a_killed_process_is_told_apart_from_bad_images() -> None:
    done: dict[int, int] = {}
    with pytest.raises(WorkerError, match="a worker process was killed"), worker_pool(2) as pool:
        list(run_pieces([(0, 1)], _kill, find=done.get, keep=done.__setitem__, executor=pool, workers=2))


def test_a_killed_worker_of_the_simulator_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise BrokenProcessPool("a process was killed")

    monkeypatch.setattr("anyband.simulate.archive._all_places", killed)
    with pytest.raises(WorkerError, match=r"fewer --workers"):
        simulate(tmp_path / "sim", SimulateOptions(num_places=1, workers=2, shown=False))
    assert not list(tmp_path.iterdir())
