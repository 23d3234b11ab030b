"""Maps of labels that would give no honest score are refused before anything is learned, with what was found."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anyband.errors import AnybandError
from anyband.labelled import open_task_data
from anyband.labelled.samples import BlockSpec, DataSpec, SplitSpec

_CLASSES = {1: "field", 2: "water"}
Refusal = Callable[..., str]


@pytest.fixture
def kit_of_maps(tiff, tmp_path: Path) -> Path:
    """Three images far apart, their labels, and labels that fit none of them."""
    rng = np.random.default_rng(0)
    for number in range(3):
        east_m = 1e4 * number
        tiff(tmp_path / f"i{number}.tif", rng.integers(1, 255, (3, 16, 16)).astype(np.uint8), east_m=east_m)
        tiff(tmp_path / f"l{number}.tif", _labels(number), east_m=east_m)
    tiff(tmp_path / "other_crs.tif", _labels(), crs="EPSG:32633")
    tiff(tmp_path / "moved.tif", _labels(), east_m=40.0)
    tiff(tmp_path / "half.tif", _labels()[:, :8])
    tiff(tmp_path / "two.tif", np.concatenate([_labels(), _labels()]))
    tiff(tmp_path / "snow.tif", np.where(_labels() == 1, 8, _labels()).astype(np.uint8))
    tiff(tmp_path / "third.tif", np.full((1, 16, 16), 3, np.uint8), east_m=2e4)
    tiff(tmp_path / "empty.tif", np.full((1, 16, 16), 255, np.uint8), nodata=255)
    tiff(tmp_path / "negative.tif", _labels().astype(np.int16) - 2)
    tiff(tmp_path / "fractions.tif", rng.random((1, 16, 16)).astype(np.float32))
    tiff(tmp_path / "many.tif", np.arange(1000, 1256).reshape(1, 16, 16).astype(np.int16))
    tiff(tmp_path / "many_more.tif", np.arange(2000, 2256).reshape(1, 16, 16).astype(np.int16), east_m=1e4)
    (tmp_path / "broken.tif").write_bytes((tmp_path / "l0.tif").read_bytes()[:150])
    return tmp_path


def _labels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 3, (1, 16, 16)).astype(np.uint8)


@pytest.fixture
def refusal(kit_of_maps: Path) -> Refusal:
    """Open a table that must be refused; gives the message, the folder written as HERE: `refusal(header, *rows)`."""

    def opened(header: str, *rows: str, **changes: object) -> str:
        (kit_of_maps / "t.csv").write_text("\n".join((header, *rows)) + "\n")
        spec = DataSpec(source=str(kit_of_maps / "t.csv"), kind="class_map", sensors=("maxar-rgb",), classes=_CLASSES)
        with pytest.raises(AnybandError) as refused:
            open_task_data(replace(spec, **changes), seed=0)
        return str(refused.value).replace(str(kit_of_maps), "HERE")

    return opened


_HEADER = "image,label,split"
_GOOD = ("i1.tif,l1.tif,val", "i2.tif,l2.tif,test")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("other_crs.tif", "label raster 'HERE/other_crs.tif' and image 'i0.tif' lie on different grids: the labels "
                          "have EPSG:32633, 16 × 16 pixels of 10 × 10 from (500000, 5000000); the image has EPSG"),
        ("moved.tif", "from (500040, 5000000); the image has EPSG:32632, 16 × 16 pixels of 10 × 10 from (500000, 5"),
        ("half.tif", "the labels have EPSG:32632, 8 × 16 pixels"),
        ("two.tif", "label raster 'HERE/two.tif' has 2 bands (2 without names); say which one by `label_variable`"),
        ("snow.tif", "label 'HERE/snow.tif' has values that are no class: 8 at"),
        ("fractions.tif", "label 'HERE/fractions.tif' has values that are no class numbers, such as 0."),
        ("broken.tif", "HERE/broken.tif"),
        ("gone.tif", "row 1 of 'HERE/t.csv': label 'HERE/gone.tif' does not exist"),
        ("", "row 1 of 'HERE/t.csv': it has no label; name the raster of labels or the polygons"),
    ],
)  # fmt: skip
def test_a_label_that_does_not_fit_is_refused(refusal: Refusal, label: str, message: str) -> None:
    assert message in refusal(_HEADER, f"i0.tif,{label},train", *_GOOD)


def test_labels_out_of_range_say_value_count_and_classes(refusal: Refusal) -> None:
    count = int((_labels() == 1).sum())
    assert (
        f"8 at {count} pixels (classes: 1 field, 2 water; ignored: 0); name them in "
        "`data.classes`, or list them in `data.ignore`"
        in refusal(_HEADER, "i0.tif,snow.tif,train", *_GOOD, ignore=(0,))
    )


def test_a_class_that_training_lacks_is_refused_with_its_pixels(refusal: Refusal) -> None:
    rows = ("i0.tif,l0.tif,train", "i1.tif,l1.tif,val", "i2.tif,third.tif,test")
    wanted = "1 class is in the labels of split 'test' and not in those of training: 'ice' (256 pixels); divide"
    assert wanted in refusal(_HEADER, *rows, classes=_CLASSES | {3: "ice"})
    assert wanted.replace("ice", "3") in refusal(_HEADER, *rows, classes={})


def test_an_empty_part_is_refused(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,l0.tif,train", "i1.tif,l1.tif,val")
    assert "'t' has no sample in split 'test' to report (samples: train 1, val 1, test 0)" in message


def test_a_table_without_any_label_is_refused(refusal: Refusal) -> None:
    assert "'t' has no labels: every pixel of its 1 sample is no data or ignored" in refusal(
        _HEADER, "i0.tif,empty.tif,train", split=SplitSpec(val=0.0)
    )


def test_one_class_is_no_map(refusal: Refusal) -> None:
    assert "maps of classes need two classes at least, found only '2'; name them in `data.classes`" in refusal(
        _HEADER, "i0.tif,l0.tif,train", *_GOOD, classes={}, ignore=(1,)
    )


def test_values_that_are_seldom_classes_are_asked_about(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,negative.tif,train", *_GOOD, classes={})
    assert "have the value -1 at" in message
    assert "which is seldom a class; list it in `data.ignore`, or name all classes in `data.classes`" in message


def test_a_raster_of_numbers_is_no_map_of_classes(refusal: Refusal) -> None:
    rows = ("i0.tif,many.tif,train", "i1.tif,many_more.tif,train", "i2.tif,l2.tif,test")
    assert "have 512 different values, which is no map of classes; use `data.kind=number_map`" in refusal(
        _HEADER, *rows, classes={}, split=SplitSpec(val=0.0)
    )


def test_too_few_places_are_not_divided(refusal: Refusal) -> None:
    message = refusal("image,label", "i0.tif,l0.tif", "i1.tif,l1.tif")
    assert "2 places can't be divided into 3 splits; add some, declare a column `split`, or divide the" in message


def test_blocks_and_declared_parts_exclude_each_other(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,l0.tif,train", *_GOOD, split=SplitSpec(blocks=BlockSpec(size_px=4)))
    assert "'HERE/t.csv' declares splits, and `split.blocks` would draw them; take out the column `split`" in message


def test_the_same_image_twice_is_refused(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,l0.tif,train", "./i0.tif,l0.tif,test", "i1.tif,l1.tif,val")
    assert "'i0.tif' stands 2 times with labels; keep one of them" in message


def test_a_copy_of_an_image_in_another_part_is_refused(refusal: Refusal, kit_of_maps: Path) -> None:
    for kind in "il":
        (kit_of_maps / f"{kind}9.tif").write_bytes((kit_of_maps / f"{kind}0.tif").read_bytes())
    message = refusal(_HEADER, "i0.tif,l0.tif,train", "i9.tif,l9.tif,test", "i1.tif,l1.tif,val")
    assert "1 sample with the same content in two splits: 'i0.tif' (train) and 'i9.tif' (test)" in message


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("image,split", "i0.tif,train", "'HERE/t.csv' needs a column `label` with the raster of labels, or the"),
        ("pictures,label", "i0.tif,l0.tif", "has an unknown column 'pictures'"),
        ("label,split", "l0.tif,train", "needs a column `image`, or `before` and `after`; it has label, split"),
        ("image,label,split", "i0.tif,l0.tif,trian", "row 1 of 'HERE/t.csv': split 'trian' is unknown (train, val"),
        ("image,label,split", "gone.tif,l0.tif,train", "row 1 of 'HERE/t.csv': 'HERE/gone.tif' does not exist"),
        ("before,after,label", "i0.tif,,l0.tif", "row 1 of 'HERE/t.csv': it has no path"),
        ("image,label,label_nodata", "i0.tif,l0.tif,zero", "row 1 of 'HERE/t.csv': label_nodata 'zero' is no number"),
        ("image,label,bands", "i0.tif,l0.tif,R;Q", "row 1 of 'HERE/t.csv': band 'Q' is not in sensor"),
        ("image,label", "", "'HERE/t.csv' lists no images; give it a row for each"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused(refusal: Refusal, header: str, row: str, message: str) -> None:
    assert message in refusal(header, row)


def test_a_table_with_parts_for_some_images_is_refused(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,l0.tif,train", "i1.tif,l1.tif,", "i2.tif,l2.tif,test")
    assert "1 of the 3 samples of 'HERE/t.csv' has no `split`; declare it for all, or for none" in message


def test_rows_of_a_set_that_differ_are_refused(refusal: Refusal) -> None:
    message = refusal("path,label,set", "i0.tif,l0.tif,a", "i1.tif,l1.tif,a")
    assert "rows 1 and 2 of 'HERE/t.csv' are of set 'a', but have the label 'l0.tif' and 'l1.tif'" in message


def test_images_of_a_sample_on_different_ground_are_refused(refusal: Refusal) -> None:
    message = refusal("before,after,label", "i0.tif,i1.tif,l0.tif")
    assert "'i0.tif' and 'i1.tif' are of one sample but show different ground: the first covers rows 0 to 16" in message


def test_other_numbers_of_images_than_sensors_are_refused(refusal: Refusal) -> None:
    message = refusal("image,label", "i0.tif,l0.tif", sensors=("maxar-rgb", "sentinel1-grd"))
    assert "`data.sensors` declares 2 images a sample, 'i0.tif' of 'HERE/t.csv' has 1" in message


def test_an_image_without_sensor_is_refused(refusal: Refusal) -> None:
    message = refusal("image,label", "i0.tif,l0.tif", sensors=())
    assert "nothing says which sensor took 'i0.tif'; name it by `--sensor` (data.sensors=[NAME]) or in a" in message


def test_a_tile_of_no_pixels_is_refused(refusal: Refusal) -> None:
    assert "tile_px must be at least 1, found 0" in refusal(_HEADER, "i0.tif,l0.tif,train", *_GOOD, tile_px=0)


def test_an_unknown_option_is_refused(refusal: Refusal) -> None:
    message = refusal(_HEADER, "i0.tif,l0.tif,train", *_GOOD, options={"outsides": "0"})
    assert (
        "has no option 'outsides' (it has: outside, layer, label_nodata, label_scale); did you mean 'outside'?"
        in message
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("images/a.tif",), "'HERE/f' has no folder 'labels'"),
        (("labels/a.tif",), "'HERE/f' has no folder 'before' or 'after'"),
        (("images/a.tif", "labels/b.tif"), "'HERE/f/images/a.tif' has no label, like 1 more"),
        (("images/a.tif", "labels/a.tif", "labels/b.tif"), "'HERE/f/labels/b.tif' has no image in 'HERE/f/images'"),
        (("images/a.tif", "labels/a.tif", "labels/a.png"), "have one name; images and labels are paired by it"),
        (("images/a.txt", "labels/a.tif"), "'HERE/f/images' has no files"),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused(kit_of_maps: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        path = kit_of_maps / "f" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((kit_of_maps / "l0.tif").read_bytes())
    spec = DataSpec(source=str(kit_of_maps / "f"), kind="class_map", sensors=("maxar-rgb",), classes=_CLASSES)
    with pytest.raises(AnybandError) as refused:
        open_task_data(spec, seed=0)
    assert message in str(refused.value).replace(str(kit_of_maps), "HERE")


@pytest.mark.parametrize("name", ["gone", "gone.csv", "i0.tif"])
def test_what_is_no_table_and_no_folder_is_refused(kit_of_maps: Path, name: str) -> None:
    spec = DataSpec(source=str(kit_of_maps / name), kind="class_map")
    with pytest.raises(AnybandError, match=r"images with maps of labels come as a table .*, or as a folder with"):
        open_task_data(spec, seed=0)
