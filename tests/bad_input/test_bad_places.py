"""Images that are declared to show one place and can't: no store is made, and the place and the images are named."""

from pathlib import Path

import pytest


def _prepare(folder: Path, *rows: str, header: str = "path,sensor,place") -> tuple[str, ...]:
    (folder / "m.csv").write_text("\n".join((header, *rows)) + "\n")
    return "prepare", "HERE/m.csv", "--out", "HERE/store", "--workers", "1", "--quiet"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("other_crs.tif", "does not overlap any other image of it; give it a place of its own"),
        ("far.tif", "does not overlap any other image of it; give it a place of its own"),
    ],
)
def test_images_that_can_not_be_one_place_are_refused(refused, kit, tmp_path, other: str, message: str) -> None:
    rows = [f"{kit / name},rgb,harbour" for name in ("rgb0.tif", other)]
    found = refused(*_prepare(tmp_path, *rows))
    assert "place 'harbour': " in found
    assert message in found


def test_a_place_of_two_splits_is_refused(refused, kit, tmp_path) -> None:
    rows = [f"{kit / 'rgb0.tif'},rgb,p,train", f"{kit / 's1_0.tif'},sentinel1-grd,p,val"]
    message = refused(*_prepare(tmp_path, *rows, header="path,sensor,place,split"))
    assert "place 'p' is declared for split 'train' and for 'val'; a place has one split" in message


def test_bands_of_one_scene_on_two_coordinate_systems_are_refused(refused, kit, tmp_path, tiff) -> None:
    import rasterio

    with rasterio.open(kit / "rgb0.tif") as file:
        pixels = file.read()
    for number, (band, crs) in enumerate((("R", 32632), ("G", 32632), ("B", 32633))):
        tiff(tmp_path / f"scene_{band}.tif", pixels[number : number + 1], crs=f"EPSG:{crs}")
    paths = [f"HERE/scene_{band}.tif" for band in "RGB"]
    words = ("--sensor", "rgb", "--checkpoint", "KIT/model.safetensors", "--out", "HERE/f.tif")
    message = refused("embed", *paths, *words)
    assert "bands of one image must share a coordinate system" in message
    assert "EPSG:32633; reproject one of them" in message


def test_a_store_without_pairs_says_so_before_training(refused, kit, tmp_path) -> None:
    from anyband.cli import main

    (tmp_path / "m.csv").write_text(
        f"path,sensor,place\n{kit / 'rgb0.tif'},rgb,a\n{kit / 's1_1.tif'},sentinel1-grd,b\n"
    )
    words = ["--out", str(tmp_path / "store"), "--workers", "1", "--quiet", "--splits", "1,0,0"]
    assert main(["prepare", str(tmp_path / "m.csv"), *words]) == 0
    message = refused("pretrain", "KIT/recipe.yaml", "--data", "HERE/store", "--out", "HERE/run", "--quiet")
    assert "no footprint in split 'train' of store" in message
