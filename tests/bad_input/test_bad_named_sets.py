"""Data sets by name that are not as they should be."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anyband.errors import ManifestError, RecipeError
from anyband.labelled import open_task_data
from anyband.labelled.samples import BlockSpec, DataSpec, ListSpec, SplitSpec, TaskData


def _open(source: str, root: Path | None, *, split: SplitSpec | None = None, **options: str) -> TaskData:
    return open_task_data(
        DataSpec(source=source, root=None if root is None else str(root), split=split or SplitSpec(), options=options),
        seed=0,
    )


# TorchGeo


def test_an_unknown_torchgeo_set_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no TorchGeo data set 'Eurosat' in the tables.*did you mean 'EuroSAT'\?"):
        _open("torchgeo:Eurosat", tmp_path)


def test_a_set_that_is_not_mapped_says_why(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"TorchGeo's 'VHR10' can't be used: its labels are boxes around objects"):
        _open("torchgeo:VHR10", tmp_path)


def test_a_torchgeo_set_without_a_folder_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"'torchgeo:EuroSAT' needs `root`.*It wants: eurosat-train.txt"):
        _open("torchgeo:EuroSAT", None)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("EuroSAT", r"eurosat-train\.txt.*ds/images"),
        ("UCMerced", r"UCMerced_LandUse/Images"),
        ("BigEarthNet", r"BigEarthNet-S1-v1\.0"),
        ("RESISC45", r"NWPU-RESISC45"),
        ("LEVIRCD", r"train\.zip, val\.zip, test\.zip"),
    ],
)
def test_an_empty_folder_says_what_torchgeo_wants_and_how_to_get_it(tmp_path: Path, name: str, wanted: str) -> None:
    with pytest.raises(ManifestError, match=rf"does not hold '{name}' as TorchGeo wants it.*{wanted}") as problem:
        _open(f"torchgeo:{name}", tmp_path)
    assert "allow the download with `--download`" in str(problem.value)


def test_a_folder_that_does_not_exist_is_told_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere' is no folder. It wants: SN7_buildings/train"):
        _open("torchgeo:SpaceNet7", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_part_without_a_class_is_told_in_torchgeos_words(tmp_path: Path) -> None:
    images = tmp_path / "UCMerced_LandUse" / "Images"
    for name in ("agricultural", "airplane"):
        (images / name).mkdir(parents=True)
        Image.fromarray(np.zeros((256, 256, 3), np.uint8)).save(images / name / f"{name}00.tif")
    for part in ("train", "val", "test"):
        (tmp_path / f"uc_merced-{part}.txt").write_text("agricultural00.tif")
    with pytest.raises(ManifestError, match=r"does not hold 'UCMerced' as TorchGeo wants it: Found no valid file"):
        _open("torchgeo:UCMerced", tmp_path)


def test_an_unknown_option_offers_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'BigEarthNet' has no argument 'num_clases'.*did you mean 'num_classes'\?"):
        _open("torchgeo:BigEarthNet", tmp_path, num_clases="19")


def test_a_value_that_is_not_mapped_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"'BigEarthNet' is not mapped for bands 's3' \(mapped: all, s1, s2\)"):
        _open("torchgeo:BigEarthNet", tmp_path, bands="s3")


def test_a_value_that_torchgeo_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"TorchGeo's 'BigEarthNet' refuses the options or files"):
        _open("torchgeo:BigEarthNet", tmp_path, num_classes="20")


def test_a_band_that_the_set_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'EuroSAT' has no band 'B13' that can be used; did you mean 'B1"):
        _open("torchgeo:EuroSAT", tmp_path, bands="[B13]")


def test_bands_of_two_sensors_must_not_alternate(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"name the bands of 'SEN12MS' sensor by sensor, found B04, VV, B03"):
        _open("torchgeo:SEN12MS", tmp_path, bands="[B04, VV, B03]")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("split", "parts come from the data set itself"),
        ("download", "allowed by `--download`"),
        ("root", "`root` of the data"),
        ("transforms", "images are read as stored"),
    ],
)
def test_what_the_recipe_says_elsewhere_is_no_option(tmp_path: Path, option: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        open_task_data(DataSpec(source="torchgeo:EuroSAT", root=str(tmp_path), options={option: "x"}), seed=0)


def test_split_lists_do_not_apply_to_torchgeo_sets(tmp_path: Path) -> None:
    split = SplitSpec(lists=ListSpec(train="a.txt", test="b.txt"))
    with pytest.raises(ManifestError, match=r"has parts of its own, so file lists don't apply"):
        _open("torchgeo:EuroSAT", tmp_path, split=split)


def test_blocks_do_not_apply_to_torchgeo_sets(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`split.blocks` and `tile_px` need to know where pixels lie"):
        _open("torchgeo:LoveDA", tmp_path, split=SplitSpec(blocks=BlockSpec(size_px=16)))


def test_a_kind_that_the_set_does_not_have_is_refused(tmp_path: Path) -> None:
    spec = DataSpec(source="torchgeo:EuroSAT", root=str(tmp_path), kind="number")
    with pytest.raises(ManifestError, match=r"has targets of kind class, not 'number'"):
        open_task_data(spec, seed=0)


def test_images_of_an_unknown_sensor_ask_for_it(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"no sensor for the images of 'torchgeo:Vaihingen2D'; declare one in `data.sensors`"
    ):
        _open("torchgeo:Vaihingen2D", tmp_path)


def test_another_number_of_sensors_than_images_is_refused(tmp_path: Path) -> None:
    spec = DataSpec(source="torchgeo:QuakeSet", root=str(tmp_path), sensors=("sentinel1-grd",))
    with pytest.raises(ManifestError, match=r"'torchgeo:QuakeSet' has 2 images a sample, `data.sensors` declares 1"):
        open_task_data(spec, seed=0)


# Own readers


def test_a_published_set_without_a_folder_says_what_it_wants() -> None:
    with pytest.raises(ManifestError, match=r"'whu-rs19' needs `root`.*It wants: the folders Airport, Beach"):
        _open("whu-rs19", None)


def test_a_folder_of_a_published_set_that_does_not_exist_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere' is no folder; 'bigearthnet-mm' wants: folders of patches"):
        _open("bigearthnet-mm", tmp_path / "nowhere")


def test_a_folder_without_classes_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no class folder of RESISC45. It wants: the folders airplane"):
        _open("resisc45", tmp_path)


def test_a_folder_that_is_no_class_is_refused_with_the_nearest(tmp_path: Path) -> None:
    for name in ("Airport", "Beech"):
        (tmp_path / name).mkdir()
    with pytest.raises(ManifestError, match=r"Beech' is no class of WHU-RS19; did you mean 'Beach'\?"):
        _open("whu-rs19", tmp_path)


def test_a_folder_without_patches_is_told(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"has no patches with s1 and s2. It wants: folders of patches"):
        _open("bigearthnet-mm", tmp_path)


def test_a_wrong_value_of_an_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"option 'bands' of 'bigearthnet-mm' must be one of all, s1, s2, found 's3'"):
        _open("bigearthnet-mm", tmp_path, bands="s3")


def test_an_unknown_option_of_a_published_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"'fmow-pairs' has no option 'image' \(it has: images, absent\); did you mean 'images'\?"
    ):
        _open("fmow-pairs", tmp_path, image="rgb")


def _patch(folder: Path, metadata: object) -> None:
    folder.mkdir(parents=True)
    (folder / f"{folder.name}_B02.tif").touch()
    (folder / f"{folder.name}_VV.tif").touch()
    (folder / "labels.json").write_text(metadata if isinstance(metadata, str) else json.dumps(metadata))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"labels": ["Mixed forrest"]}, r"patch 'p' has the label 'Mixed forrest'"),
        ({"classes": []}, r"has no list `labels`"),
        ("{", r"cannot read .*labels.json' as JSON"),
        ("[]", r"is no JSON object with `labels`"),
    ],
)
def test_wrong_labels_of_a_patch_are_told(tmp_path: Path, metadata: object, message: str) -> None:
    _patch(tmp_path / "p", metadata)
    with pytest.raises(ManifestError, match=message):
        _open("bigearthnet-mm", tmp_path)


def test_two_folders_of_a_patch_must_have_its_labels(tmp_path: Path) -> None:
    _patch(tmp_path / "p", {"labels": ["Pastures"]})
    _patch(tmp_path / "q", {"labels": ["Airports"], "corresponding_s2_patch": "p"})
    with pytest.raises(ManifestError, match=r"show one patch, but have other labels"):
        _open("bigearthnet-mm", tmp_path)


def test_a_list_with_patches_that_are_not_there_is_refused(tmp_path: Path) -> None:
    _patch(tmp_path / "p", {"labels": ["Pastures"]})
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.csv").write_text("absent,absent\n")
    with pytest.raises(ManifestError, match=r"train.csv' lists 1 name that 'bigearthnet-mm' does not have"):
        _open("bigearthnet-mm", tmp_path)


def test_fmow_without_tables_says_what_it_wants(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"has no 'fmow-sentinel/train.csv'. It wants: fmow-sentinel/ with train.csv"
    ):
        _open("fmow-pairs", tmp_path)


def test_fmow_tables_without_a_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fmow-sentinel").mkdir()
    (tmp_path / "fmow-sentinel" / "train.csv").write_text("category,location,image_id,timestamp\n")
    with pytest.raises(ManifestError, match=r"has no column 'location_id'.*did you mean 'location'\?"):
        _open("fmow-pairs", tmp_path)


def test_an_image_number_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fmow-sentinel").mkdir()
    for name in ("train", "test_gt"):
        table = tmp_path / "fmow-sentinel" / f"{name}.csv"
        table.write_text("category,location_id,image_id,timestamp\nzoo,0,first,2016-08-15T10:20:30Z\n")
    with pytest.raises(ManifestError, match=r"the table of train has the image_id 'first', which is no number"):
        _open("fmow-pairs", tmp_path)
