"""Sheets of pictures, maps beside each other, and scatters."""

import io

import numpy as np
import pytest
from PIL import Image

from anyband.errors import InputError
from anyband.report.figures import scatter_png
from anyband.report.page import MapRow, class_colours, class_maps_png, number_maps_png, sheet_png

_DRAW = np.random.default_rng(0)


def _size(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def _shown_colours(png: bytes) -> set[tuple[int, int, int]]:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(value) for value in values[counts > 500].tolist()}


def _colour(index: int, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(round(255 * level) for level in list(class_colours(names).values())[index])


def _tile(colour: float = 0.5, shape: tuple[int, int] = (16, 16)) -> tuple[np.ndarray, tuple[str, ...]]:
    return np.full((3, *shape), colour), ("town", "true: water", "image 1.tif")


def _row(truth: np.ndarray, *predicted: np.ndarray) -> MapRow:
    return MapRow(
        title="chip",
        pictures=(_DRAW.random((3, *truth.shape)),),
        picture_titles=("sentinel2-l2a\nnatural colour",),
        truth=truth,
        predicted=predicted,
        predicted_titles=tuple(f"features {index}" for index in range(len(predicted))),
    )


def test_a_sheet_grows_downwards_by_rows_of_pictures() -> None:
    one, two = _size(sheet_png([_tile()] * 4)), _size(sheet_png([_tile()] * 5))
    assert one[0] == two[0]
    assert two[1] == pytest.approx(2 * one[1], abs=2)


def test_pictures_of_any_size_and_shape_share_a_sheet() -> None:
    tiles = [_tile(shape=(16, 16)), _tile(shape=(300, 20)), _tile(shape=(5, 60))]
    assert _size(sheet_png(tiles))[0] == pytest.approx(3 * 2.25 * 110, abs=4)


def test_missing_pixels_of_a_sheet_are_grey() -> None:
    assert (209, 209, 209) in _shown_colours(sheet_png([_tile(colour=np.nan)]))


def test_an_empty_sheet_is_refused() -> None:
    with pytest.raises(InputError, match="a sheet needs at least one picture"):
        sheet_png([])


def test_labels_and_predictions_have_the_colours_of_their_classes() -> None:
    names = ("water", "field", "town")
    truth, predicted = np.zeros((8, 8), int), np.ones((8, 8), int)
    shown = _shown_colours(class_maps_png([_row(truth, predicted)], class_colours(names)))
    assert {_colour(0, names), _colour(1, names)} <= shown
    assert _colour(2, names) not in shown


def test_pixels_without_a_label_are_grey() -> None:
    truth = np.full((8, 8), -1)
    assert (209, 209, 209) in _shown_colours(class_maps_png([_row(truth, truth)], class_colours(("water",))))


def test_more_predictions_make_more_columns_and_more_samples_more_rows() -> None:
    truth = np.zeros((8, 8), int)
    colours = class_colours(("water",))
    small = _size(class_maps_png([_row(truth, truth)], colours))
    assert _size(class_maps_png([_row(truth, *[truth] * 4)], colours))[0] > small[0]
    assert _size(class_maps_png([_row(truth, truth)] * 3, colours))[1] > 2 * small[1]


def test_rows_of_other_lengths_are_refused() -> None:
    truth = np.zeros((8, 8), int)
    with pytest.raises(InputError, match=r"rows of maps need equally many maps, found \[3, 4\]"):
        class_maps_png([_row(truth, truth), _row(truth, truth, truth)], class_colours(("water",)))


def test_maps_of_numbers_share_one_scale_and_leave_out_what_is_missing() -> None:
    truth = np.full((8, 8), 0.0)
    truth[:4] = np.nan
    shown = _shown_colours(number_maps_png([_row(truth, np.full((8, 8), 1.0))], label="m"))
    lowest, highest, missing = (68, 1, 84), (253, 231, 37), (209, 209, 209)
    for expected in (lowest, highest, missing):
        assert any(np.abs(np.subtract(expected, colour)).max() <= 1 for colour in shown)


def test_maps_of_one_number_and_of_none_are_drawn() -> None:
    for level in (3.0, np.nan):
        flat = np.full((8, 8), level)
        assert number_maps_png([_row(flat, flat)]).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 50, 3000])
def test_a_scatter_is_drawn_of_few_numbers_and_of_many(count: int) -> None:
    truth = _DRAW.normal(size=count)
    assert scatter_png(truth, truth + 0.1, label="t/ha").startswith(b"\x89PNG")


def test_a_scatter_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="0 true and 0 predicted numbers make no picture"):
        scatter_png(np.zeros(0), np.zeros(0))
