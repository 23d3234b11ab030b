"""DynamicEarthNet and SpaceNet 7 as PANGAEA reads them, and the normalisations of its three sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from published_folders import RENDERED

from anyband.errors import CatalogueError, ManifestError
from anyband.evaluate.recipe import load_transfer_recipe
from anyband.labelled.published import open_published, published_statistics_of
from anyband.labelled.samples import DataSpec
from anyband.sensors.catalogue import get_sensor


def _spec(name: str, root: Path, **options: str) -> DataSpec:
    return DataSpec(source=name, root=str(root), options=options)


@pytest.fixture
def dynamicearthnet(tmp_path: Path) -> Path:
    RENDERED["dynamicearthnet"](tmp_path)
    return tmp_path


@pytest.fixture
def spacenet7(tmp_path: Path) -> Path:
    RENDERED["spacenet7"](tmp_path)
    return tmp_path


def test_a_month_is_six_dates_of_four_bands_in_the_order_of_the_files(dynamicearthnet: Path) -> None:
    data = open_published(_spec("dynamicearthnet", dynamicearthnet), seed=0)
    assert data.num_samples == {"train": 4, "val": 1, "test": 1}
    sample = data.read(data.names.index(data.names[0]))
    assert [image.datetime.day for image in sample.images if image.datetime] == [1, 5, 10, 15, 20, 25]
    assert {image.sensor.band_names for image in sample.images} == {("blue", "green", "red", "nir")}
    folder = next((dynamicearthnet / "planet").rglob("2018-01-15.tif"))
    with rasterio.open(folder) as file:
        np.testing.assert_array_equal(sample.images[3].dn, file.read())


def test_classes_are_bands_that_are_set_and_snow_has_no_label(dynamicearthnet: Path) -> None:
    data = open_published(_spec("dynamicearthnet", dynamicearthnet, dates="1"), seed=0)
    assert len(data.classes) == 6
    assert len(data.read(0).images) == 1
    with rasterio.open(next((dynamicearthnet / "labels").rglob("*2018-01-01.tif"))) as file:
        bands = file.read()
    expected = np.where(bands[6] == 255, -1, bands.argmax(axis=0))
    np.testing.assert_array_equal(data.read(0).class_map, expected)
    assert (expected == -1).any()


def test_images_where_the_split_files_name_them_are_found_too(dynamicearthnet: Path) -> None:
    (dynamicearthnet / "reprocess-cropped").mkdir()
    (dynamicearthnet / "planet").rename(dynamicearthnet / "reprocess-cropped" / "UTM-24000")
    assert len(open_published(_spec("dynamicearthnet", dynamicearthnet), seed=0)) == 6


def test_a_line_of_a_split_file_that_is_none_is_refused_by_its_number(dynamicearthnet: Path) -> None:
    (dynamicearthnet / "dynnet_training_splits" / "val.txt").write_text("\n/planet/a b\n")
    with pytest.raises(ManifestError, match=r"val.txt', line 2: expected FOLDER LABEL YYYY-MM, found '/planet/a b'"):
        open_published(_spec("dynamicearthnet", dynamicearthnet), seed=0)
    (dynamicearthnet / "dynnet_training_splits" / "val.txt").unlink()
    with pytest.raises(ManifestError, match=r"has no 'dynnet_training_splits/val\.txt'"):
        open_published(_spec("dynamicearthnet", dynamicearthnet), seed=0)


def test_spacenet7_is_divided_by_the_published_places_and_cloudy_months_are_left_out(spacenet7: Path) -> None:
    data = open_published(_spec("spacenet7", spacenet7), seed=0)
    # One month of two, of two, one and one place.
    assert data.num_samples == {"train": 2, "val": 1, "test": 1}
    assert "_2018_01_" in data.names[0]
    assert "55 places of the published split are not in the folder" in data.notes
    test = data.read(int(data.split("test")[0]))
    label = next((spacenet7 / "train" / "L15-0387E-1276N_1549_3087_13" / "labels_raster").glob("*_2018_01_*"))
    with rasterio.open(label) as file:
        np.testing.assert_array_equal(test.class_map, file.read(1) > 0)
    assert test.images[0].sensor.band_names == ("R", "G", "B")


def test_without_metadata_clouds_are_told_by_the_masks_of_unusable_data(spacenet7: Path) -> None:
    (spacenet7 / "metadata_train.json").unlink()
    assert len(open_published(_spec("spacenet7", spacenet7), seed=0)) == 8
    place = "L15-0331E-1257N_1327_3160_13"
    mask = spacenet7 / "train" / place / "UDM_masks" / f"global_monthly_2018_01_mosaic_{place}_UDM.tif"
    mask.parent.mkdir()
    mask.touch()
    assert len(open_published(_spec("spacenet7", spacenet7), seed=0)) == 7


def test_other_places_are_noted_and_a_folder_without_any_is_refused(spacenet7: Path) -> None:
    first = spacenet7 / "train" / "L15-0331E-1257N_1327_3160_13"
    first.rename(first.with_name("L15-elsewhere"))
    data = open_published(_spec("spacenet7", spacenet7), seed=0)
    assert "1 place in the folder is not in the published split and left out" in data.notes
    with pytest.raises(ManifestError, match="has no place of the published split"):
        open_published(_spec("spacenet7", first.parent), seed=0)
    (spacenet7 / "metadata_train.json").write_text(json.dumps({"place": [{"year": 2018}]}))
    with pytest.raises(ManifestError, match=r"metadata_train\.json', lists of year, month, mask and label by place"):
        open_published(_spec("spacenet7", spacenet7), seed=0)


@pytest.mark.parametrize(
    ("name", "sensor", "band", "encoding", "dn", "mean", "std"),
    [
        ("HLS Burn Scars", "hls-s30", "B8A", "physical", 0.31, 0.2323245113436119, 0.07791732423672691),
        ("DynamicEarthNet", "planetscope-4b", "red", "sr", 1500.0, 1042.59240722656, 957.958435058593),
        ("SpaceNet7", "maxar-rgb", "G", "dn", 200.0, 106.52838, 44.517075),
    ],
)
def test_published_moments_standardise_the_numbers_of_the_files(
    name: str, sensor: str, band: str, encoding: str, dn: float, mean: float, std: float
) -> None:
    of_band = get_sensor(sensor).select([band])
    statistics = published_statistics_of(name, of_band)[band]
    decoding = of_band.band(band).encoding(encoding)
    physical = dn * decoding.scale + decoding.offset
    scaled = (physical - statistics.p01) / (statistics.p99 - statistics.p01)
    assert (scaled - statistics.mean) / statistics.std == pytest.approx((dn - mean) / std, rel=1e-5)


def test_a_band_that_pangaea_does_not_read_has_no_published_moments() -> None:
    with pytest.raises(CatalogueError, match="normalisation of 'HLS Burn Scars' has no band B05 of 'hls-s30'"):
        published_statistics_of("hls-burn-scars", get_sensor("hls-s30").select(["B04", "B05"]))


@pytest.mark.parametrize("name", ["burnscars", "dynamicearthnet", "spacenet7"])
def test_recipes_of_table_5_are_those_of_pangaea(name: str) -> None:
    recipe = load_transfer_recipe(f"paper/table5_{name}_segment")
    assert (recipe.head.kind, recipe.head.channels, recipe.head.blocks) == ("pangaea", 512, (3, 5, 7, 11))
    assert (recipe.fit.epochs, recipe.fit.batch_size, recipe.fit.base_lr) == (80, 8, 1e-4)
    assert recipe.input.statistics == "published"
    assert recipe.fit.loss == ("dice" if name == "spacenet7" else "cross_entropy")
    assert recipe.data.tile_px == (256 if name == "spacenet7" else None)
