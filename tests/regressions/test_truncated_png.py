"""A PNG that broke off in the middle was read as noise, without an error (GDAL 3.10)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyband.errors import RasterError
from anyband.rasters.formats import GdalSheet
from anyband.rasters.grid import Window

_WHOLE = Window(row=0, col=0, height=64, width=64)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_a_png_that_breaks_off_is_refused(tmp_path: Path, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / "cut.png"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(np.moveaxis(GdalSheet(path).read((0, 1, 2), _WHOLE)[0], 0, -1), pixels)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RasterError, match=r"cut\.png' at .*: the file is truncated or damaged"):
        GdalSheet(path).read((0, 1, 2), _WHOLE)
