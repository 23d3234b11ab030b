"""Reconstruction panels."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anyband.errors import InputError
from anyband.report.figures import PREDICTED_NOTE, PanelImages, hide_patches, reconstruction_panel

_PICTURES = np.random.default_rng(0).random((2, 3, 8, 8))


def _images(title: str = "sentinel2-l2a", *, planes: int = 3) -> PanelImages:
    pictures = _PICTURES[:, :planes]
    return PanelImages(title=title, original=pictures, seen=pictures, reconstruction=1 - pictures)


def _opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_hiding_leaves_visible_patches_as_they_are_and_makes_hidden_ones_flat() -> None:
    hidden = np.array([[True, False, False, False], [False, True, True, True]])
    seen = hide_patches(_PICTURES, hidden, patch_size=4)
    assert (seen[0, :, :4, 4:] == _PICTURES[0, :, :4, 4:]).all()
    assert np.ptp(seen[0, :, :4, :4]) == 0
    assert (seen[1, :, :4, :4] == _PICTURES[1, :, :4, :4]).all()


def test_tokens_that_do_not_cover_the_picture_are_refused() -> None:
    with pytest.raises(InputError, match="9 tokens of 4 px do not cover 8 × 8 px"):
        hide_patches(_PICTURES, np.zeros((2, 9), bool), patch_size=4)


def test_a_panel_grows_with_sensors_and_samples() -> None:
    one = _opened(reconstruction_panel([_images()]))
    both = _opened(reconstruction_panel([_images(), _images("sentinel1-grd", planes=1)], title="step 10"))
    assert both.shape[1] > 1.8 * one.shape[1]
    assert both.shape[0] == one.shape[0]


def test_a_panel_shows_the_original_pixels() -> None:
    pictures = np.zeros((1, 3, 8, 8))
    pictures[:, 0] = 1.0
    flat = PanelImages(title="red", original=pictures, seen=pictures, reconstruction=pictures)
    shown = _opened(reconstruction_panel([flat]))
    assert ((shown == (255, 0, 0)).all(axis=-1)).mean() > 0.3


def test_equal_pictures_give_equal_bytes() -> None:
    assert reconstruction_panel([_images()]) == reconstruction_panel([_images()])


def test_row_titles_widen_a_panel_and_leave_the_pictures_their_size() -> None:
    plain = _opened(reconstruction_panel([_images()]))
    titled = _opened(reconstruction_panel([replace(_images(), row_titles=("anchor\nsentinel2-l2a", "sentinel1-grd"))]))
    assert titled.shape[1] > plain.shape[1]
    assert titled.shape[0] == plain.shape[0]
    dark = (titled[:, :110].min(axis=2) < 90).mean()
    assert dark > 0.002


def test_blocks_are_laid_below_each_other_where_they_do_not_fit_across() -> None:
    one = _opened(reconstruction_panel([_images()]))
    three = _opened(reconstruction_panel([_images()] * 3, across=2))
    assert three.shape[1] > 1.8 * one.shape[1]
    assert three.shape[0] > 1.7 * one.shape[0]


def test_outlined_patches_stand_out_in_what_the_encoder_saw_and_nowhere_else() -> None:
    grey = np.full((1, 3, 8, 8), 0.5)
    outlined = np.array([[[True, False], [False, False]]])
    images = PanelImages(title="", original=grey, seen=grey, reconstruction=grey, outlined=outlined)
    drawn, plain = (_opened(reconstruction_panel([one])) for one in (images, replace(images, outlined=None)))
    rows, cols = np.nonzero((drawn != plain).any(axis=2))
    third = plain.shape[1] / 3
    assert third < cols.min() < cols.max() < 1.55 * third
    assert rows.max() < 0.6 * plain.shape[0]


def test_the_note_under_a_panel_can_be_another() -> None:
    assert reconstruction_panel([_images()], note=PREDICTED_NOTE) != reconstruction_panel([_images()])


def test_row_titles_for_other_rows_are_refused() -> None:
    with pytest.raises(InputError, match="have 2 rows and 1 row titles; give one for each row, or none"):
        replace(_images("x"), row_titles=("anchor",))


def test_a_panel_without_samples_is_refused() -> None:
    none = _PICTURES[:0]
    with pytest.raises(InputError, match="'x' need at least one sample"):
        PanelImages(title="x", original=none, seen=none, reconstruction=none)


def test_sensors_with_unequal_samples_are_refused() -> None:
    few = _PICTURES[:1]
    other = PanelImages(title="y", original=few, seen=few, reconstruction=few)
    with pytest.raises(InputError, match=r"equally many rows, found \[1, 2\]"):
        reconstruction_panel([_images(), other])
