"""Preparing keeps next to nothing of each image in memory, so that archives of millions can be prepared."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.data.manifest import entries_from_globs, open_manifest

_FEW, _MANY = 160, 460
# As objects, entry, survey and place of an image take well over a kilobyte. What is left are numbers, and names of
# places that were found.
_MOST_BYTES_AN_IMAGE = 500

# A process of its own: there, nothing else allocates meanwhile. What is kept for a while is kept for few images, so
# that few tell about many.
_SCRIPT = """
import gc, pathlib, sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from anyband.data import prepare as steps, store_writer
from anyband.data.manifest import open_manifest
from anyband.data.prepare import PrepareOptions, prepare

store_writer._ROWS_TOGETHER, store_writer._BATCHES_A_GROUP, store_writer.CHIPS_PER_SHARD = 8, 2, 60

def look(run, piece, best):
    global held
    if piece.image == last:
        gc.collect()
        # Python's table of interned words is as large as it is now and then.
        traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
        held = sum(one.size for one in traces.statistics("filename")) + pa.total_allocated_bytes()

steps._Run._skip_empty = look
for number, manifest in enumerate(sys.argv[1:]):
    tracemalloc.start()
    entries, out = open_manifest(Path(manifest)), Path(manifest).with_suffix(f".{number}")
    last = len(entries) - 1
    report = prepare(entries, out, PrepareOptions(chip_px=16))
    tracemalloc.stop()
    print(sum(report.chips.values()), held)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pixels at many places."""
    folder = tmp_path_factory.mktemp("images")
    pixels = np.full((3, 16, 16), 7, dtype=np.uint8)
    profile = {"driver": "GTiff", "height": 16, "width": 16, "count": 3, "dtype": "uint8", "crs": "EPSG:32631"}
    for number in range(_MANY):
        transform = rasterio.Affine(10.0, 0.0, 5e5 + 400.0 * number, 0.0, -10.0, 5e6)
        with rasterio.open(folder / f"{number:05d}.tif", "w", transform=transform, **profile) as file:
            file.write(pixels)
    return folder


def _manifest(images: Path, path: Path, count: int, *, places: bool) -> Path:
    rows = [f"{images}/{number:05d}.tif,maxar-rgb,{f'place {number:05d}' if places else ''}" for number in range(count)]
    path.write_text("\n".join(["path,sensor,place", *rows]))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("places", [True, False])
def test_memory_does_not_grow_with_the_number_of_chips(images: Path, tmp_path: Path, places: bool) -> None:
    few, many = (_manifest(images, tmp_path / f"{count}.csv", count, places=places) for count in (_FEW, _MANY))
    words = [sys.executable, "-c", _SCRIPT, *map(str, (few, many))]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": "src"}, check=False)
    assert done.returncode == 0, done.stderr
    (few_chips, few_held), (many_chips, many_held) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert (few_chips, many_chips) == (_FEW, _MANY)
    assert few_held > 0
    assert (many_held - few_held) / (_MANY - _FEW) < _MOST_BYTES_AN_IMAGE


@pytest.mark.parametrize("listed", ["manifest", "patterns"])
def test_a_list_on_the_disk_gives_its_images_again_and_again(images: Path, tmp_path: Path, listed: str) -> None:
    entries = (
        open_manifest(_manifest(images, tmp_path / "m.csv", 3, places=True))
        if listed == "manifest"
        else entries_from_globs([str(images / "0000[012].tif")], sensor="maxar-rgb")
    )
    assert len(entries) == 3
    assert list(entries) == list(entries)
    assert [Path(entry.name).stem for entry in entries] == ["00000", "00001", "00002"]
