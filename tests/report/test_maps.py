"""Maps in the colours of principal components, and class maps."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.decomposition import PCA

from anyband.errors import InputError
from anyband.report.figures import fit_pca_colours, pca_picture, picture_png, pictures_png
from anyband.report.page import class_colours

_FEATURES = np.random.default_rng(1).normal(size=(200, 6)) * [5, 4, 3, 1, 1, 1]


def test_axes_are_those_of_scikit_learn_up_to_sign() -> None:
    axes = fit_pca_colours(_FEATURES)[1]
    other = PCA(n_components=3).fit(_FEATURES)
    assert np.abs(np.sum(axes * other.components_, axis=1)) == pytest.approx([1, 1, 1], abs=1e-9)


def test_the_largest_entry_of_every_axis_is_positive() -> None:
    axes = fit_pca_colours(_FEATURES)[1]
    assert (axes[np.arange(3), np.abs(axes).argmax(axis=1)] > 0).all()


@settings(max_examples=20)
@given(st.floats(0.1, 10), st.floats(-5, 5))
def test_colours_do_not_change_with_scale_and_shift_of_features(scale: float, shift: float) -> None:
    grid = _FEATURES.T.reshape(6, 10, 20)
    plain = pca_picture(grid, fit_pca_colours(_FEATURES))
    moved = pca_picture(grid * scale + shift, fit_pca_colours(_FEATURES * scale + shift))
    assert np.abs(plain - moved).max() < 1e-6


def test_four_percent_of_each_component_are_at_the_ends() -> None:
    picture = pca_picture(_FEATURES.T.reshape(6, 10, 20), fit_pca_colours(_FEATURES))
    ends = ((picture == 0) | (picture == 1)).mean(axis=(1, 2))
    assert ends == pytest.approx([0.04] * 3, abs=0.011)


def test_patches_without_data_stay_missing_and_do_not_disturb_the_others() -> None:
    holed = np.vstack([_FEATURES, np.full((3, 6), np.nan)])
    assert np.allclose(fit_pca_colours(holed)[1], fit_pca_colours(_FEATURES)[1])
    grid = holed[-4:].T.reshape(6, 2, 2)
    assert np.isnan(pca_picture(grid, fit_pca_colours(holed))).sum() == 3 * 3


def test_features_without_spread_become_middle_grey() -> None:
    flat = np.ones((10, 5))
    assert (pca_picture(flat.T.reshape(5, 2, 5), fit_pca_colours(flat)) == 0.5).all()


def test_two_dimensions_give_two_colours_and_a_flat_third() -> None:
    two = _FEATURES[:, :2]
    picture = pca_picture(two.T.reshape(2, 10, 20), fit_pca_colours(two))
    assert (picture[2] == 0.5).all()
    assert np.ptp(picture[0]) == 1


def test_features_without_any_data_are_refused() -> None:
    with pytest.raises(InputError, match="at least one patch with data"):
        fit_pca_colours(np.full((4, 3), np.nan))


def test_a_picture_is_written_pixel_by_pixel_with_missing_ones_transparent() -> None:
    picture = np.array([[[0.0, 1.0]], [[0.5, np.nan]], [[1.0, 0.0]]])
    pixels = np.asarray(Image.open(io.BytesIO(picture_png(picture))))
    assert pixels[0, 0].tolist() == [0, 128, 255, 255]
    assert pixels[0, 1, 3] == 0


def test_a_picture_of_two_planes_is_refused() -> None:
    with pytest.raises(InputError, match="1 or 3 planes, found 2"):
        picture_png(np.zeros((2, 4, 4)))


def test_every_picture_needs_a_title() -> None:
    with pytest.raises(InputError, match="found 1 pictures, 0 titles"):
        pictures_png([np.zeros((1, 4, 4))], [])


def test_pictures_stand_in_rows_of_at_most_the_named_columns() -> None:
    row = Image.open(io.BytesIO(pictures_png([np.zeros((1, 4, 4))] * 2, ["a", "b"], num_columns=2)))
    two = Image.open(io.BytesIO(pictures_png([np.zeros((1, 4, 4))] * 3, ["a", "b", "c"], num_columns=2)))
    assert two.width == row.width
    assert two.height == pytest.approx(2 * row.height, abs=1)


@pytest.mark.parametrize("count", [1, 7, 14, 30])
def test_every_class_has_a_colour_of_its_own(count: int) -> None:
    assert len(set(class_colours([f"class {index}" for index in range(count)]).values())) == count
