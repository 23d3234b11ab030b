"""Published data sets, read from folders laid out as they are distributed."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from anyband.errors import ManifestError
from anyband.labelled import open_task_data
from anyband.labelled.published import PUBLISHED, open_published
from anyband.labelled.samples import DataSpec, ListSpec, SplitSpec, TaskData
from anyband.rasters.formats import QuietReader

_WHU = ("Airport", "Beach", "Bridge")


def _opened(source: str, root: Path, *, split: SplitSpec | None = None, **options: str) -> TaskData:
    spec = DataSpec(source=source, root=str(root), split=split or SplitSpec(val=0.25, test=0.25), options=options)
    return open_published(spec, seed=0)


def _picture(path: Path, *, seed: int, size_px: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)


def test_the_list_names_every_reader() -> None:
    assert (
        *("bigearthnet-mm", "dfc2020", "dynamicearthnet", "eurosat", "fmow-pairs", "hls-burn-scars", "resisc45"),
        *("sickle", "spacenet7", "ucmerced"),
        "whu-rs19",
    ) == PUBLISHED


# Class folders


@pytest.fixture
def whu(tmp_path: Path) -> Path:
    for number, name in enumerate(_WHU):
        for index in range(8):
            _picture(tmp_path / "RSDataset" / name / f"{name}-{index:02d}.jpg", seed=10 * number + index)
    return tmp_path


def test_whu_rs19_is_read_from_its_class_folders(whu: Path) -> None:
    data = _opened("whu-rs19", whu)
    assert (data.kind, data.classes, data.statistics) == ("class", _WHU, "WHU-RS19")
    assert data.num_samples == {"train": 12, "val": 6, "test": 6}
    assert data.sensors[0][0].name == "maxar-rgb"


def test_the_folder_of_classes_may_be_named_itself(whu: Path) -> None:
    assert _opened("whu-rs19", whu / "RSDataset").names == _opened("whu-rs19", whu).names


def test_missing_classes_are_noted(whu: Path) -> None:
    assert "the folder has 3 of the 19 classes of WHU-RS19" in _opened("whu-rs19", whu).notes


def test_lists_of_parts_are_kept(whu: Path, tmp_path: Path) -> None:
    lists = {}
    for part, indices in (("train", range(5)), ("val", (5,)), ("test", (6, 7))):
        lists[part] = tmp_path / f"{part}.txt"
        names = [f"{name}-{index:02d}.jpg" for name in _WHU for index in indices]
        lists[part].write_text("\n".join(names))
    split = SplitSpec(lists=ListSpec(train=str(lists["train"]), val=str(lists["val"]), test=str(lists["test"])))
    data = _opened("whu-rs19", whu, split=split)
    assert data.num_samples == {"train": 15, "val": 3, "test": 6}


@pytest.mark.real
def test_real_ucmerced_pictures_are_read_with_all_classes(real_data: Path, tmp_path: Path) -> None:
    for folder in sorted((real_data / "ucmerced_jpg").iterdir()):
        (tmp_path / "Images" / folder.name).mkdir(parents=True)
        for path in sorted(folder.glob("*.jpg"))[:4]:
            shutil.copy(path, tmp_path / "Images" / folder.name)
    data = _opened("ucmerced", tmp_path)
    assert (len(data.classes), len(data)) == (21, 84)
    assert data.read(0).images[0].dn.shape == (3, 256, 256)


@pytest.mark.real
def test_real_eurosat_tiffs_have_the_narrow_infrared_last(real_data: Path, tmp_path: Path) -> None:
    for path in sorted((real_data / "eurosat_ms").glob("*/*.tif")):
        for index in range(4):
            target = tmp_path / path.parent.name / f"{path.parent.name}_{index}.tif"
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    data = _opened("eurosat", tmp_path)
    image = data.read(0).images[0]
    with rasterio.open(next((tmp_path / "AnnualCrop").glob("*.tif"))) as file:
        np.testing.assert_array_equal(image.dn, file.read())
    assert image.sensor.band_names[-1] == "B8A"
    assert data.statistics == "EuroSAT"


# BigEarthNet


@pytest.mark.real
def test_real_bigearthnet_pairs_give_radar_as_stored(real_data: Path) -> None:
    root = real_data / "bigearthnet_mm_pairs"
    data = _opened("bigearthnet-mm", root, split=SplitSpec(val=0.0, test=0.5))
    position = data.names.index("S2A_MSIL2A_20170613T101031_26_57")
    radar, optical = data.read(position).images
    with rasterio.Env(), QuietReader(str(next(root.glob("*26_57/*_VV.tif")))) as file:
        np.testing.assert_array_equal(radar.dn[radar.sensor.band_index("VV")], file.read(1))
    assert (radar.dn.shape, optical.dn.shape) == ((2, 120, 120), (12, 120, 120))


@pytest.mark.real
def test_real_bigearthnet_labels_agree_with_their_19_classes(real_data: Path) -> None:
    root = real_data / "bigearthnet_mm_pairs"
    data = _opened("bigearthnet-mm", root, split=SplitSpec(val=0.0, test=0.5))
    assert data.targets is not None
    for name, row in zip(data.names, data.targets, strict=True):
        metadata = json.loads((root / name / "labels.json").read_text())["new_labels"]
        assert [data.classes[index] for index in np.flatnonzero(row)] == metadata


def _patch(folder: Path, bands: list[str], labels: list[str], *, seed: int = 0, **metadata: str) -> None:
    folder.mkdir(parents=True)
    profile = {"driver": "GTiff", "height": 4, "width": 4, "count": 1, "crs": "EPSG:32633"}
    for index, band in enumerate(bands):
        values = np.random.default_rng([seed, index]).integers(1, 4000, (1, 4, 4)).astype(np.uint16)
        place = rasterio.Affine(10, 0, 3e5, 0, -10, 5e6)
        with rasterio.open(
            folder / f"{folder.name}_{band}.tif", "w", dtype="uint16", transform=place, **profile
        ) as file:
            file.write(values)
    (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps({"labels": labels, **metadata}))


_S2_BANDS = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]


@pytest.fixture
def bigearthnet(tmp_path: Path) -> Path:
    """The published folders of version 1, pairs named by the files of Sentinel-1."""
    every = [["Pastures"], ["Mixed forest"], ["Pastures", "Airports"], ["Airports"]]
    for index, labels in enumerate(every):
        _patch(tmp_path / "BigEarthNet-v1.0" / f"S2_{index}", _S2_BANDS, labels, seed=index)
        _patch(
            tmp_path / "BigEarthNet-S1-v1.0" / f"S1_{index}",
            ["VV", "VH"],
            labels,
            seed=10 + index,
            corresponding_s2_patch=f"S2_{index}",
        )
    for part, index in (("train", 0), ("val", 1), ("test", 2)):
        (tmp_path / f"{part}.csv").write_text(f"S2_{index},S1_{index}\n")
    return tmp_path


def test_pairs_are_found_by_what_the_radar_files_say(bigearthnet: Path) -> None:
    data = _opened("bigearthnet-mm", bigearthnet)
    assert data.names == ("S2_0", "S2_1", "S2_2")
    assert data.splits == ("train", "val", "test")
    assert [image.sensor.name for image in data.read(0).images] == ["sentinel1-grd", "sentinel2-l2a"]


def test_patches_without_any_of_the_19_classes_are_left_out_and_counted(bigearthnet: Path) -> None:
    assert "1 patch has none of the 19 classes and is left out" in _opened("bigearthnet-mm", bigearthnet).notes


def test_the_43_classes_keep_every_label(bigearthnet: Path) -> None:
    data = _opened("bigearthnet-mm", bigearthnet, num_classes="43")
    assert data.targets is not None
    assert [data.classes[index] for index in np.flatnonzero(data.targets[2])] == ["Airports", "Pastures"]


@pytest.mark.parametrize(("bands", "statistics"), [("s1", "BigEarthNetS1"), ("s2", "BigEarthNetS2")])
def test_one_sensor_alone_has_its_published_statistics(bigearthnet: Path, bands: str, statistics: str) -> None:
    data = _opened("bigearthnet-mm", bigearthnet, bands=bands)
    assert (data.statistics, len(data.sensors[0])) == (statistics, 1)


def _lists(folder: Path, train: str, test: str, **more: float) -> SplitSpec:
    for name, text in (("train", train), ("test", test)):
        (folder / f"{name}.txt").write_text(text)
    lists = ListSpec(train=str(folder / "train.txt"), test=str(folder / "test.txt"), **more)
    return SplitSpec(val=0.0, lists=lists, fraction=0.5)


@pytest.mark.parametrize("bands", ["s1", "s2", "all"])
@pytest.mark.parametrize(
    ("train", "test"), [("S2_0 S1_0\nS2_1 S1_1\n", "S2_2 S1_2\n"), ("S1_0\nS1_1\n", "./S1_2\n"), ("S2_0\nS2_1", "S2_2")]
)
def test_the_released_lists_name_patches_of_either_sensor(bigearthnet, tmp_path, bands, train, test) -> None:
    if bands == "s2" and train.startswith("S1"):
        with pytest.raises(ManifestError, match="lists 2 names that 'bigearthnet-mm' does not have"):
            _opened("bigearthnet-mm", bigearthnet, split=_lists(tmp_path, train, test), bands=bands)
        return
    data = _opened("bigearthnet-mm", bigearthnet, split=_lists(tmp_path, train, test), bands=bands)
    assert data.splits == ("train", "train", "test")


def test_the_released_pairs_name_a_picture_and_a_sentinel_2_image(fmow: Path, tmp_path: Path) -> None:
    train = ["./train/airport/airport_0/airport_0_1_rgb.tif train/airport/airport_0/airport_0_1.tif"]
    train += ["train/zoo/zoo_0/zoo_0_3_rgb.jpg train/zoo/zoo_0/zoo_0_3.tif"]
    split = _lists(tmp_path, "\n".join(train), "val/zoo/zoo_7/zoo_7_2_rgb.jpg val/zoo/zoo_7/zoo_7_2.tif\n")
    data = _opened("fmow-pairs", fmow, split=split)
    assert dict(zip(data.names, data.splits, strict=True)) == {
        "airport_0_1": "train",
        "zoo_0_3": "train",
        "zoo_7_2": "test",
    }


@pytest.mark.parametrize(("share", "left"), [(1.0, 33), (0.2, 6)])
def test_the_fraction_of_a_recipe_is_not_taken_of_a_list(tmp_path: Path, share: float, left: int) -> None:
    names = [f"{name}/{index:02d}.jpg" for name in ("wood", "water") for index in range(25)]
    for seed, name in enumerate(names):
        _picture(tmp_path / "d" / name, seed=seed)
    split = _lists(tmp_path, "\n".join(names[:20] + names[25:45]), "\n".join(names[20:25] + names[45:]), fraction=share)
    split = replace(split, val=0.125, fraction=0.1)
    data = open_task_data(DataSpec(source=str(tmp_path / "d"), sensors=("rgb",), split=split), seed=0)
    # Of the 40 listed an eighth of what test leaves is for validation.
    assert data.num_samples["train"] == left
    assert "split.fraction 0.1 is not taken of training samples that a list names" in " ".join(data.notes)


def test_without_lists_parts_are_drawn(bigearthnet: Path) -> None:
    for part in ("train", "val", "test"):
        (bigearthnet / f"{part}.csv").unlink()
    data = _opened("bigearthnet-mm", bigearthnet, split=SplitSpec(val=0.34, test=0.34))
    assert data.num_samples == {"train": 1, "val": 1, "test": 1}


# Functional Map of the World


@pytest.fixture
def fmow(tmp_path: Path) -> Path:
    """Three places with a pair each, and an image without a picture."""
    rows = {
        "train": [("airport", 0, 1), ("zoo", 0, 3), ("zoo", 0, 100)],
        "val": [("zoo", 7, 2)],
        "test_gt": [("airport", 9, 0)],
    }
    for part, images in rows.items():
        table = tmp_path / "fmow-sentinel" / f"{part}.csv"
        table.parent.mkdir(exist_ok=True)
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["category", "location_id", "image_id", "timestamp"])
            writer.writerows([*image, "2016-08-15T10:20:30Z"] for image in images)
        for category, location, image in images:
            folder = Path(part) / category / f"{category}_{location}"
            stem = f"{category}_{location}_{image}"
            _picture(tmp_path / "fmow-rgb" / folder / f"{stem}_rgb.jpg", seed=location)
            _optical(tmp_path / "fmow-sentinel" / folder / f"{stem}.tif")
    return tmp_path


def _optical(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.arange(13 * 16, dtype=np.uint16).reshape(13, 4, 4) + 1
    profile = {"driver": "GTiff", "height": 4, "width": 4, "count": 13, "dtype": "uint16", "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=rasterio.Affine(1e-4, 0, 10, 0, -1e-4, 50), **profile) as file:
        file.write(values)


def test_fmow_pairs_are_a_picture_and_a_sentinel_2_image(fmow: Path) -> None:
    data = _opened("fmow-pairs", fmow)
    picture, optical = data.read(0).images
    assert (picture.sensor.name, optical.sensor.name) == ("maxar-rgb", "sentinel2-l1c")
    assert optical.sensor.band_names[7:9] == ("B08", "B8A")
    np.testing.assert_array_equal(optical.dn.ravel(), np.arange(13 * 16) + 1)


def test_fmow_images_without_a_picture_are_no_pairs(fmow: Path) -> None:
    data = _opened("fmow-pairs", fmow)
    assert data.names == ("airport_0_1", "zoo_0_3", "zoo_7_2", "airport_9_0")
    assert data.splits == ("train", "train", "val", "test")
    assert data.places == ("airport_0", "zoo_0", "zoo_7", "airport_9")


def test_fmow_pairs_without_a_file_are_left_out_and_counted(fmow: Path) -> None:
    next(fmow.glob("fmow-rgb/**/zoo_0_3_rgb.jpg")).unlink()
    assert "1 pair has no files in the folder and is left out" in _opened("fmow-pairs", fmow).notes


def test_fmow_pictures_alone_need_no_sentinel_2(fmow: Path) -> None:
    for path in fmow.glob("fmow-sentinel/**/*.tif"):
        path.unlink()
    data = _opened("fmow-pairs", fmow, images="rgb")
    assert [image.sensor.name for image in data.read(0).images] == ["maxar-rgb"]


def test_fmow_times_are_utc(fmow: Path) -> None:
    time = _opened("fmow-pairs", fmow).read(0).images[0].datetime
    assert time is not None
    assert time.isoformat() == "2016-08-15T10:20:30+00:00"


def test_the_way_in_opens_a_published_set(fmow: Path) -> None:
    data = open_task_data(DataSpec(source="fmow-pairs", root=str(fmow)), seed=0)
    assert data.classes == ("airport", "zoo")


def test_opening_again_gives_the_same_fingerprint_and_other_images_another(bigearthnet: Path) -> None:
    first, again = _opened("bigearthnet-mm", bigearthnet), _opened("bigearthnet-mm", bigearthnet)
    path = bigearthnet / "BigEarthNet-v1.0" / "S2_0" / "S2_0_B02.tif"
    with rasterio.open(path, "r+") as file:
        file.write(file.read() + 1)
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != _opened("bigearthnet-mm", bigearthnet).fingerprint


def test_equal_patches_under_two_names_stay_in_one_part(bigearthnet: Path) -> None:
    for part in ("train", "val", "test"):
        (bigearthnet / f"{part}.csv").unlink()
    for index in range(20, 26):
        for folder, bands, number in (("BigEarthNet-v1.0", _S2_BANDS, 2), ("BigEarthNet-S1-v1.0", ["VV", "VH"], 1)):
            name = f"S{number}_{index}"
            metadata = {"corresponding_s2_patch": f"S2_{index}"} if number == 1 else {}
            _patch(bigearthnet / folder / name, bands, ["Pastures"], seed=index // 2, **metadata)
    data = _opened("bigearthnet-mm", bigearthnet, split=SplitSpec(val=0.3, test=0.3))
    part_of = dict(zip(data.names, data.splits, strict=True))
    assert all(part_of[f"S2_{index}"] == part_of[f"S2_{index + 1}"] for index in (20, 22, 24))
    assert "3 samples have the files of another one; they are kept in its split" in data.notes
