"""Images that can't be used: each verb that reads images says which one and why, and leaves everything as it was."""

import re
import shutil
from pathlib import Path

import pytest

_PREPARE = ("prepare", "KIT/{image}", "--sensor", "{sensor}", "--out", "HERE/store", "--workers", "1", "--quiet")
_EMBED = (
    "embed",
    "KIT/{image}",
    "--sensor",
    "{sensor}",
    "--checkpoint",
    "KIT/model.safetensors",
    "--overwrite",
    "--out",
    "HERE/f.tif",
)
_EVALUATE = (
    "evaluate", "knn", "--k", "1", "--checkpoint", "KIT/model.safetensors", "--data", "HERE/labels.csv",
    "--sensor", "{sensor}", "--out", "HERE/scores", "--no-results", "--no-cache",
)  # fmt: skip

_IMAGES = {
    "nodata.tif": "no data|no patch of the scene has data|no pixel with data",
    "nan.tif": "no data|no patch of the scene has data|no pixel with data",
    "grey.tif": r"grey\.tif' has 1 band, sensor 'maxar-rgb' has 3 \(R, G, B\); declare `bands`",
    "header_cut.tif": r"cannot open '.*header_cut\.tif' as a raster: .*; get it again or leave it out",
    "half.tif": r"half\.tif' at rows 0–31, columns 0–31: the file is truncated or damaged .*; get it again",
    "noise.tif": r"cannot open '.*noise\.tif' as a raster: .*not recognized",
    "empty.tif": r"empty\.tif' is empty \(0 bytes\); get it again or leave it out",
    "folder.tif": r"folder '.*folder\.tif' has no file named after a band of 'maxar-rgb' \(R, G, B\); found no rasters",
    "text.tif": r"cannot open '.*text\.tif' as a raster",
    "no_pixels.nc": r"no_pixels\.nc' has no pixels: its variables are 0 × 0",
    "missing.tif": r"missing\.tif'(, which)? does not exist",
}


def _filled(words: tuple[str, ...], image: str) -> list[str]:
    sensor = "sentinel1-grd" if image == "nan.tif" else "rgb"
    return [word.format(image=image, sensor=sensor) for word in words]


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """Outputs of an earlier run."""
    for name in ("f.tif", "f_pca.png"):
        (tmp_path / name).write_text("an earlier result")
    return tmp_path


@pytest.mark.parametrize("image", [image for image in _IMAGES if image != "missing.tif"])
def test_prepare_says_why_no_image_can_be_used(refused, existing, image: str) -> None:
    message = refused(*_filled(_PREPARE, image))
    assert "none of the 1 image can be used" in message
    assert re.search(_IMAGES[image], message)


@pytest.mark.parametrize("image", _IMAGES)
def test_embed_says_why_a_scene_can_not_be_used(refused, existing, image: str) -> None:
    assert re.search(_IMAGES[image], refused(*_filled(_EMBED, image)))


@pytest.mark.parametrize("image", _IMAGES)
def test_evaluate_says_which_image_can_not_be_used(refused, existing, kit: Path, image: str) -> None:
    good = "s1_{}.tif" if image == "nan.tif" else "rgb{}.tif"
    parts = ("train", "train", "val", "test")
    rows = [f"{kit / good.format(number)},{'ab'[number % 2]},{part}" for number, part in enumerate(parts)]
    (existing / "labels.csv").write_text("\n".join(["path,label,split", *rows, f"{kit / image},a,test"]) + "\n")
    assert re.search(_IMAGES[image], refused(*_filled(_EVALUATE, image)))


def test_prepare_refuses_an_image_smaller_than_a_patch(refused) -> None:
    message = refused(*_filled(_PREPARE, "small.tif"))
    assert "small.tif' has 8 × 8 pixels, smaller than a patch (16 × 16)" in message


def test_embed_refuses_a_scene_smaller_than_a_patch(refused, existing) -> None:
    message = refused(*_filled(_EMBED, "small.tif"))
    assert "an image of 8 × 8 pixels is smaller than one patch of 16 × 16; use a larger image" in message


def test_prepare_says_that_no_file_matches(refused) -> None:
    assert "no file matches" in refused(*_filled(_PREPARE, "missing*.tif"))


def test_prepare_leaves_an_existing_store_when_new_images_are_bad(refused, kit: Path, tmp_path: Path) -> None:
    shutil.copytree(kit / "store", tmp_path / "store")
    assert "has no data" in refused(*_filled(_PREPARE, "nodata.tif"), "--overwrite")


def test_strict_makes_one_bad_image_of_several_an_error(refused, kit: Path, tmp_path: Path) -> None:
    rows = [f"{kit / name},rgb" for name in ("rgb0.tif", "half.tif")]
    (tmp_path / "m.csv").write_text("\n".join(["path,sensor", *rows]) + "\n")
    words = ("prepare", "HERE/m.csv", "--out", "HERE/store", "--workers", "1", "--quiet", "--strict")
    assert "with --strict an image that can't be used is an error" in refused(*words)


def test_the_demo_says_why_no_image_can_be_used(refused, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"path,sensor\n{kit / 'half.tif'},rgb\n")
    message = refused("demo", "--images", "HERE/m.csv", "--out", "HERE/demo", "--quiet", leaves="demo")
    assert "the file is truncated or damaged" in message


@pytest.mark.parametrize("mask", ["missing.tif", "noise.tif"])
def test_a_mask_that_can_not_be_read_is_named(refused, existing, mask: str) -> None:
    assert mask in refused(*_filled(_EMBED, "rgb0.tif"), "--valid", f"KIT/{mask}")


def test_a_mask_of_several_bands_is_asked_which(refused, existing) -> None:
    message = refused(*_filled(_EMBED, "rgb0.tif"), "--valid", "KIT/rgb1.tif")
    assert "has 3 bands (3 without names); say which one by `valid_variable`: its name, or its number" in message


def test_a_time_of_a_file_without_times_is_refused(refused, existing) -> None:
    message = refused(*_filled(_EMBED, "rgb0.tif"), "--time-index", "5")
    assert "time 5 is requested of" in message
    assert "which has no time axis; leave the time out" in message
