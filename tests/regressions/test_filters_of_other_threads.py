"""Filters of warnings are global: other threads may change them while a file is opened."""

import itertools
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from anyband.rasters.formats import QuietReader, QuietWriter

_NUM_FILES, _NUM_THREADS = 200, 8


@contextmanager
def _filters_that_change() -> Iterator[None]:
    """Let another thread put filters in and out all the time, as libraries do."""
    stop = threading.Event()

    def change() -> None:
        for action in itertools.cycle(("error", "ignore", "error")):
            if stop.is_set():
                return
            with warnings.catch_warnings():
                warnings.simplefilter(action)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.filterwarnings("error")
def test_images_that_lie_nowhere_are_opened_by_many_threads(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(path)

    def num_bands(_: int) -> int:
        with rasterio.Env(), QuietReader(str(path)) as dataset:
            assert dataset.transform == rasterio.Affine.identity()
            return int(dataset.count)

    with _filters_that_change(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        assert set(pool.map(num_bands, range(_NUM_FILES))) == {3}


@pytest.mark.filterwarnings("error")
def test_a_file_that_lies_nowhere_is_written(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "height": 2, "width": 2, "count": 1, "dtype": "uint8"}
    with rasterio.Env(), QuietWriter(str(tmp_path / "a.tif"), "w", **profile) as dataset:
        dataset.write(np.ones((1, 2, 2), dtype=np.uint8))
    with rasterio.Env(), QuietReader(str(tmp_path / "a.tif")) as dataset:
        assert dataset.read().sum() == 4


def test_filters_of_the_user_stay(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with rasterio.Env():
        QuietReader(str(tmp_path / "a.png")).close()
    assert warnings.filters == before
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        rasterio.open(tmp_path / "a.png").close()
