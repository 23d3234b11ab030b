"""GeoTIFFs whole or not at all."""

import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import rasterio

from anyband.errors import InputError, OutputError
from anyband.rasters.grid import IDENTITY, Grid, Window, windows_covering
from anyband.rasters.writer import WriteWindow, geotiff_writer, write_geotiff

_GRID = Grid(height=70, width=50, transform=(10.0, 0.0, 500000.0, 0.0, -10.0, 4000000.0), crs="EPSG:32633", gsd_m=10.0)


def _pixels(dtype: str = "float32", bands: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, (bands, 70, 50)).astype(dtype)


def _opened(path: Path) -> AbstractContextManager[WriteWindow]:
    return geotiff_writer(path, grid=_GRID, dtype="float32", descriptions=["b0", "b1", "b2"], nodata=-1.0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_pixels_and_place_come_back(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    write_geotiff(path, _pixels(dtype), grid=_GRID, descriptions=["x", "y", "z"], nodata=1.0, tags={"sensor": "s"})
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), _pixels(dtype))
        assert file.crs.to_epsg() == 32633
        assert tuple(file.transform)[:6] == _GRID.transform
        assert file.descriptions == ("x", "y", "z")
        assert file.nodata == 1.0
        assert file.tags()["sensor"] == "s"
        assert file.profile["tiled"]
        assert file.profile["compress"] == "deflate"


def test_nan_may_mean_no_data(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", _pixels(), grid=_GRID, descriptions="xyz", nodata=float("nan"))
    with rasterio.open(tmp_path / "a.tif") as file:
        assert np.isnan(file.nodata)


def test_windows_give_the_same_file_as_the_whole(tmp_path: Path) -> None:
    with _opened(tmp_path / "a.tif") as write:
        for window in windows_covering(70, 50, tile_height=32, tile_width=16):
            write(window, _pixels()[:, *window.slices])
    with rasterio.open(tmp_path / "a.tif") as file:
        np.testing.assert_array_equal(file.read(), _pixels())


def test_what_is_not_written_is_nodata(tmp_path: Path) -> None:
    with _opened(tmp_path / "a.tif") as write:
        write(Window(row=0, col=0, height=10, width=50), _pixels()[:, :10])
    with rasterio.open(tmp_path / "a.tif") as file:
        assert (file.read()[:, 10:] == -1).all()


def test_a_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with _opened(path) as write:
        write(_GRID.whole, _pixels())
        assert not path.exists()
    assert path.exists()


def _stop_halfway(path: Path) -> None:
    with _opened(path) as write:
        write(_GRID.whole, _pixels())
        raise RuntimeError("stop")


def test_a_failure_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"):
        _stop_halfway(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_pixels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"shape \(2, 70, 50\) do not fit .* 3 bands, 70 × 50 pixels"),
        _opened(tmp_path / "a.tif") as write,
    ):
        write(_GRID.whole, _pixels(bands=2))


def test_pixels_of_another_type_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="pixels of float64 can't be written to a GeoTIFF of float32"),
        _opened(tmp_path / "a.tif") as write,
    ):
        write(_GRID.whole, _pixels("float64"))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(OutputError, match="taken"):
        write_geotiff(tmp_path / "taken" / "a.tif", _pixels(), grid=_GRID, descriptions="xyz")


def test_an_image_without_georeference_is_written_without_warning(tmp_path: Path) -> None:
    grid = Grid(height=70, width=50, transform=IDENTITY, crs=None, gsd_m=1.0)
    write_geotiff(tmp_path / "a.tif", _pixels(), grid=grid, descriptions="xyz")
    assert (tmp_path / "a.tif").exists()


_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from anyband.rasters.writer import write_geotiff
from anyband.rasters.grid import IDENTITY, Grid
from anyband.errors import OutputError

size, path = int(sys.argv[1]), Path(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
grid = Grid(height=size, width=size, transform=IDENTITY, crs=None, gsd_m=1.0)
pixels = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
try:
    write_geotiff(path, pixels, grid=grid, descriptions=["a", "b"])
except OutputError as problem:
    print("refused:", problem)
"""


@pytest.mark.parametrize("size", [64, 400])
def test_a_disk_that_fills_up_is_an_error_and_keeps_the_old_file(tmp_path: Path, size: int) -> None:
    # 64: all blocks fit GDAL's cache, so the disk fills only when the file is closed.
    path = tmp_path / "a.tif"
    path.write_text("old")
    command = [sys.executable, "-c", _FULL_DISK, str(size), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused: cannot write")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
