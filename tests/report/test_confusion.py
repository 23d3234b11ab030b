"""Confusion matrices as pictures: readable with few classes and with many."""

import io

import numpy as np
import pytest
from PIL import Image

from anyband.errors import InputError
from anyband.report.figures import confusion_png, count_text, shortened


def _matrix(classes: int) -> np.ndarray:
    draw = np.random.default_rng(classes)
    return draw.integers(0, 5, (classes, classes)) + np.diag(draw.integers(40, 90, classes))


def _names(classes: int) -> list[str]:
    return [f"class number {index}" for index in range(classes)]


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("classes", [2, 7, 21, 45])
def test_a_cell_has_room_for_its_number_whatever_the_number_of_classes(classes: int) -> None:
    width = _pixels(confusion_png(_matrix(classes), _names(classes))).shape[1]
    # Three digits of 7.5 points at 110 dots an inch take about 21 pixels.
    assert width / classes > 30


def test_equal_matrices_give_equal_pictures_and_others_differ() -> None:
    assert confusion_png(_matrix(4), _names(4)) == confusion_png(_matrix(4), _names(4))
    assert confusion_png(_matrix(4), _names(4)) != confusion_png(_matrix(4).T.copy(), _names(4))


def test_a_rare_class_is_as_dark_as_a_frequent_one() -> None:
    pixels = _pixels(confusion_png(np.array([[1000, 0], [0, 2]]), ["often", "seldom"]))
    blue = (pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 0] < 40)
    columns = np.flatnonzero(blue.any(axis=0))
    middle = (columns.min() + columns.max()) // 2
    left, right = blue[:, :middle].sum(), blue[:, middle:].sum()
    assert left == pytest.approx(right, rel=0.15)


def test_a_class_without_samples_is_drawn() -> None:
    assert confusion_png(np.array([[3, 1], [0, 0]]), ["water", "ice"], cells="percent").startswith(b"\x89PNG")


def test_a_matrix_needs_as_many_names() -> None:
    with pytest.raises(InputError, match=r"a confusion matrix of shape \(3, 3\) needs 3 names, found 2"):
        confusion_png(_matrix(3), ["a", "b"])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (9999, "9999"), (10_000, "10 k"), (123_456, "123 k"), (2_540_000, "2.5 M"), (99_600_000, "100 M"),
     (3_000_000_000, "3.0 G")],
)  # fmt: skip
def test_counts_are_written_in_few_letters(count: int, text: str) -> None:
    assert count_text(count) == text


def test_long_names_keep_their_beginning_and_their_end() -> None:
    assert shortened("a_long_folder/image_000123.tif", 15) == "a_long_…123.tif"
    assert len(shortened("x" * 50, 20)) == 20
    assert shortened("short", 5) == "short"
