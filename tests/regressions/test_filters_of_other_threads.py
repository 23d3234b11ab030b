"""Filters of warnings are global: a library in another thread may put its own back while a file is opened."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from anyband.rasters.formats import open_quietly


def test_an_image_is_opened_though_another_thread_puts_filters_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    opened, calls = rasterio.open, []

    def disturbed(*words: Any, **named: Any) -> Any:
        calls.append(words)
        if len(calls) == 1:
            warnings.simplefilter("error")
        return opened(*words, **named)

    monkeypatch.setattr(rasterio, "open", disturbed)
    with open_quietly(tmp_path / "a.png") as dataset:
        assert dataset.count == 3
    assert len(calls) == 2
