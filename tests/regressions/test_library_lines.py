"""What libraries write to the error output by themselves goes into the one message of ours."""

import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from anyband.errors import OutputError
from anyband.rasters.grid import Grid
from anyband.rasters.writer import geotiff_writer, write_geotiff

_GRID = Grid(height=256, width=256, transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6), crs="EPSG:32632", gsd_m=10.0)
_PIXELS = np.random.default_rng(0).normal(size=(4, 256, 256)).astype(np.float32)


@pytest.mark.parametrize("size", [100, 2000, 100_000])
def test_a_file_that_does_not_fit_gives_the_reason_in_the_error_and_no_line_beside_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], size: int
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write '.*o\.tif': .*\(File too large\)"):
            write_geotiff(tmp_path / "o.tif", _PIXELS, grid=_GRID, descriptions=list("abcd"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""


def test_what_others_say_meanwhile_is_still_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with geotiff_writer(tmp_path / "o.tif", grid=_GRID, dtype="float32", descriptions=list("abcd")) as write:
        write(_GRID.whole, _PIXELS)
        print("between", file=sys.stderr)
        os.write(2, b"of a library\n")
    assert capfd.readouterr().err == "between\nof a library\n"
