"""What is measured over the spectrum, and how images are fused, as pictures: the areas of their colours are counted."""

import io

import numpy as np
import pytest
from PIL import Image

from anyband.errors import InputError
from anyband.report.diagrams import fusion_png, spectrum_png

_BLUE, _ORANGE, _GREY = (0, 114, 178), (230, 159, 0), (140, 140, 140)


def _area(png: bytes, colour: tuple[int, int, int], *, below: int = 0) -> int:
    """Count the pixels of a colour, `below` so many rows: legends stand on top."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))[below:]
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) <= 1).sum())


def test_heights_are_counts_of_images_stacked_by_sensor() -> None:
    png = spectrum_png({"first": [(300, [(500.0, 600.0)])], "second": [(100, [(500.0, 600.0)])]})
    assert _area(png, _BLUE, below=32) / _area(png, _ORANGE, below=32) == pytest.approx(3, rel=0.03)


def test_an_image_counts_once_where_its_bands_overlap() -> None:
    joined = spectrum_png({"one": [(10, [(450.0, 550.0)])]})
    overlapping = spectrum_png({"one": [(10, [(450.0, 520.0), (500.0, 550.0)])]})
    assert _area(overlapping, _BLUE, below=32) == pytest.approx(_area(joined, _BLUE, below=32), rel=0.02)


def test_arrays_of_one_sensor_add_up() -> None:
    once = spectrum_png({"one": [(40, [(450.0, 550.0)])], "two": [(40, [(450.0, 550.0)])]})
    parts = spectrum_png({"one": [(30, [(450.0, 550.0)]), (10, [(450.0, 550.0)])], "two": [(40, [(450.0, 550.0)])]})
    assert _area(parts, _BLUE, below=32) == pytest.approx(_area(once, _BLUE, below=32), rel=0.02)


def test_without_images_nothing_is_drawn() -> None:
    with pytest.raises(InputError, match="there are no images, so no wavelength is measured"):
        spectrum_png({})


def _picture(level: float) -> np.ndarray:
    return np.full((3, 8, 8), level)


def test_grids_of_tokens_have_the_colours_of_their_images() -> None:
    keeps = np.arange(16).reshape(4, 4) % 4 == 0
    sequences = [([np.where(keeps, *pair)], "tokens") for pair in ((0, 1), (1, 0))]
    png = fusion_png([(_picture(1.0), ""), (_picture(1.0), "")], sequences, outcome="exchanged")
    # A quarter of the one and three quarters of the other, and the other way round.
    assert _area(png, _BLUE) == pytest.approx(_area(png, _ORANGE), rel=0.05)
    first = fusion_png([(_picture(1.0), ""), (_picture(1.0), "")], sequences[:1], outcome="exchanged")
    assert _area(first, _ORANGE) / _area(first, _BLUE) == pytest.approx(3, rel=0.1)


def test_a_token_of_all_images_has_the_colour_of_none() -> None:
    pictures = [(_picture(1.0), ""), (_picture(1.0), "")]
    png = fusion_png(pictures, [([np.full((4, 4), -1)], "all")], outcome="stacked")
    assert _area(png, _GREY) > 10_000
    assert _area(png, _BLUE) + _area(png, _ORANGE) < 100
