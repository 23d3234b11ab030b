"""A label lies on its image's grid and means a class, a number or nothing; else it is refused with what was found."""

from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from anyband.errors import GeometryError, InputError, RasterError
from anyband.labelled.label_rasters import (
    LabelPixels,
    check_values,
    class_names,
    read_labels,
    to_class_map,
    to_number_map,
)
from anyband.labelled.tables import LabelFile
from anyband.rasters.grid import IDENTITY, Grid, Window

_CRS = "EPSG:32632"


def _grid(size: tuple[int, int] = (4, 6), *, crs: str | None = _CRS, east: float = 5e5, step: float = 10.0) -> Grid:
    transform = (step, 0.0, east, 0.0, -step, 5e6) if crs else IDENTITY
    return Grid(height=size[0], width=size[1], transform=transform, crs=crs, gsd_m=step)


def _read(path: Path, grid: Grid, **described: object) -> LabelPixels:
    return read_labels(LabelFile(path=path, **described), grid, grid.whole, image="a.tif")


_NUMBERS = np.arange(24).reshape(4, 6)


def test_a_window_of_labels_is_that_part_of_them(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.tif", _NUMBERS.astype(np.uint8))
    window = Window(row=1, col=2, height=2, width=3)
    values, known = read_labels(LabelFile(path=path), _grid(), window, image="a.tif")
    np.testing.assert_array_equal(values, _NUMBERS[1:3, 2:5])
    assert known.all()


def test_the_files_nodata_is_no_label(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.tif", _NUMBERS.astype(np.uint8), nodata=7)
    np.testing.assert_array_equal(_read(path, _grid())[1], _NUMBERS != 7)


def test_a_declared_nodata_goes_before_the_files(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.tif", _NUMBERS.astype(np.uint8), nodata=7)
    np.testing.assert_array_equal(_read(path, _grid(), nodata=3.0)[1], _NUMBERS != 3)


def test_nan_is_no_label(raster, tmp_path: Path) -> None:
    values = np.where(_NUMBERS == 5, np.nan, _NUMBERS).astype(np.float32)
    np.testing.assert_array_equal(_read(raster(tmp_path / "l.tif", values), _grid())[1], _NUMBERS != 5)


def test_labels_without_georeference_fit_by_size(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.png", _NUMBERS.astype(np.uint8), crs=None)
    np.testing.assert_array_equal(_read(path, _grid())[0], _NUMBERS)
    np.testing.assert_array_equal(_read(path, _grid(crs=None))[0], _NUMBERS)


def test_rounding_of_written_transforms_is_no_other_grid(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.tif", _NUMBERS.astype(np.uint8), east=5e5 + 1e-6)
    assert _read(path, _grid())[1].all()


@pytest.mark.parametrize(
    ("grid", "described"),
    [
        (_grid(crs="EPSG:32633"), ["the labels have EPSG:32632, 4 × 6 pixels of 10 × 10 from (500000, 5000000)",
                                   "the image has EPSG:32633, 4 × 6 pixels of 10 × 10 from (500000, 5000000)"]),
        (_grid(east=5e5 + 10), ["from (500000, 5000000); the image has EPSG:32632, 4 × 6 pixels of 10 × 10 from "
                                "(500010, 5000000)"]),
        (_grid((8, 12), step=5.0), ["4 × 6 pixels of 10 × 10", "8 × 12 pixels of 5 × 5"]),
        (_grid((5, 6)), ["the image has EPSG:32632, 5 × 6 pixels"]),
        (_grid((6, 4), crs=None), ["the image has no georeference, 6 × 4 pixels"]),
    ],
    ids=["crs", "corner", "pixel size", "size", "size without georeference"],
)  # fmt: skip
def test_another_grid_is_refused_and_both_are_named(raster, tmp_path: Path, grid: Grid, described: list[str]) -> None:
    path = raster(tmp_path / "l.tif", _NUMBERS.astype(np.uint8))
    with pytest.raises(GeometryError) as refusal:
        _read(path, grid)
    message = str(refusal.value)
    assert f"label raster '{path}' and image 'a.tif' lie on different grids" in message
    assert "by `rio warp LABELS NEW --like IMAGE --resampling nearest`" in message
    for part in described:
        assert part in message


def test_of_several_bands_one_must_be_named(raster, tmp_path: Path) -> None:
    path = raster(tmp_path / "l.tif", np.stack([_NUMBERS, _NUMBERS + 100]).astype(np.uint8), names=("plot", "crop"))
    with pytest.raises(RasterError, match=r"has 2 bands \(plot, crop\); say which one by `label_variable`"):
        _read(path, _grid())
    with pytest.raises(RasterError, match=r"has no band 'crops' \(plot, crop\); did you mean 'crop'\?"):
        _read(path, _grid(), variable="crops")


@pytest.mark.parametrize("variable", ["crop", "2"])
def test_a_band_is_named_by_its_name_or_number(raster, tmp_path: Path, variable: str) -> None:
    path = raster(tmp_path / "l.tif", np.stack([_NUMBERS, _NUMBERS + 100]).astype(np.uint8), names=("plot", "crop"))
    np.testing.assert_array_equal(_read(path, _grid(), variable=variable)[0], _NUMBERS + 100)


def test_classes_are_numbered_by_their_values_and_equal_names_are_one_class() -> None:
    classes = {30: "grass", 11: "forest", 20: "water", 12: "forest"}
    assert class_names(classes, ignore=[255]) == ("forest", "water", "grass")
    found = to_class_map(_pixels([11, 12, 20, 30]), classes, where="l")
    np.testing.assert_array_equal(found, [[0, 0, 1, 2]])


def test_a_value_can_not_be_a_class_and_ignored() -> None:
    with pytest.raises(InputError, match="value 3 is class 'snow' and to be ignored"):
        class_names({1: "forest", 3: "snow"}, ignore=[0, 3])


def _pixels(values: object, known: object = True) -> LabelPixels:
    array = np.atleast_2d(values)
    return array, np.broadcast_to(np.atleast_2d(known), array.shape).copy()


_CLASSES = {1: "a", 2: "b", 5: "c"}


def test_values_become_positions_and_the_rest_becomes_minus_one() -> None:
    found = to_class_map(_pixels([1, 2, 5, 0, 77], [True, True, True, True, False]), _CLASSES, ignore=[0], where="l")
    np.testing.assert_array_equal(found, [[0, 1, 2, -1, -1]])


def test_values_that_are_no_class_are_refused_with_their_counts() -> None:
    with pytest.raises(InputError) as refusal:
        to_class_map(_pixels([1, 2, 7, 7, 9, 0]), _CLASSES, ignore=[0], where="label 'l.tif'")
    assert str(refusal.value) == (
        "label 'l.tif' has values that are no class: 7 at 2 pixels, 9 at 1 pixel (classes: 1 a, 2 b, 5 c; ignored: 0); "
        "name them in `data.classes`, or list them in `data.ignore`"
    )


def test_whole_floats_are_classes_and_fractions_are_refused() -> None:
    np.testing.assert_array_equal(to_class_map(_pixels([1.0, 5.0]), _CLASSES, ignore=[0], where="l"), [[0, 2]])
    with pytest.raises(InputError, match=r"l has values that are no class numbers, such as 1\.5 at 2 pixels; for maps"):
        to_class_map(_pixels([1.5, 2.0, 2.5]), _CLASSES, ignore=[0], where="l")


@given(
    hnp.arrays(np.int16, (5, 7), elements=st.sampled_from([-5, 0, 3, 8, 200])),
    hnp.arrays(np.bool_, (5, 7)),
)
def test_class_maps_agree_with_a_dictionary(values: np.ndarray, known: np.ndarray) -> None:
    classes = {-5: "x", 3: "y", 8: "z", 200: "y"}
    names = ["x", "y", "z"]
    wanted = [
        [names.index(classes[int(v)]) if k and v != 0 else -1 for v, k in zip(row, keep, strict=True)]
        for row, keep in zip(values, known, strict=True)
    ]
    found = to_class_map((values, known), classes, ignore=[0], where="l")
    np.testing.assert_array_equal(found, wanted)


def test_numbers_stay_and_what_is_ignored_or_unknown_is_nan() -> None:
    found = to_number_map(_pixels([1.5, -9.0, 3.0], [True, True, False]), ignore=[-9])
    np.testing.assert_array_equal(found, [[1.5, np.nan, np.nan]])


def test_many_foreign_values_are_cut_short() -> None:
    with pytest.raises(InputError, match="17 at 1 pixel and 12 more values"):
        check_values(dict.fromkeys(range(10, 30), 1), _CLASSES, ignore=[0], where="l")
