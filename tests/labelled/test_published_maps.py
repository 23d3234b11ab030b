"""Published sets of maps, on small folders laid out as they are published."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from sklearn.model_selection import train_test_split

from anyband.errors import InputError, ManifestError, RecipeError
from anyband.labelled import open_task_data
from anyband.labelled.published import open_published
from anyband.labelled.samples import DataSpec, SplitSpec

_rng = np.random.default_rng


def _spec(name: str, root: Path, **options: str) -> DataSpec:
    return DataSpec(source=name, root=str(root), options=options, split=SplitSpec(val=0.25))


@pytest.fixture
def burn_scars(raster, tmp_path: Path) -> Path:
    """Eight training and two validation chips, each on ground of its own."""
    for number in range(10):
        folder = tmp_path / "hls_burn_scars" / ("training" if number < 8 else "validation")
        stem = f"subsetted_512x512_HLS.S30.T10S{'ABCDEFGHIJ'[number]}H.2020{248 + number}.v1.4"
        where = {"east": 4e5 + 1e4 * number, "step": 30.0, "crs": "EPSG:32610"}
        image = _rng(number).uniform(0, 0.6, (6, 16, 16)).astype(np.float32)
        raster(folder / f"{stem}_merged.tif", image, **where)
        raster(folder / f"{stem}.mask.tif", _burns(number), **where)
    return tmp_path


def _burns(number: int) -> np.ndarray:
    return _rng(100 + number).integers(-1, 2, (16, 16)).astype(np.int16)


def test_burn_scars_report_the_published_validation_and_draw_their_own(burn_scars: Path) -> None:
    data = open_task_data(_spec("hls-burn-scars", burn_scars), seed=0)
    assert data.num_samples == {"train": 6, "val": 2, "test": 2}
    assert data.classes == ("not burned", "burn scar")
    test = [data.names[index] for index in data.split("test")]
    assert all(name.startswith("validation/") for name in test)


def test_burn_scars_are_reflectance_of_six_bands_with_their_date(burn_scars: Path) -> None:
    data = open_published(_spec("hls-burn-scars", burn_scars), seed=0)
    sample = data.read(0)
    (image,) = sample.images
    assert image.sensor.name == "hls-s30"
    assert image.sensor.band_names == ("B02", "B03", "B04", "B8A", "B11", "B12")
    assert image.sensor.default_encoding == "physical"
    assert f"{image.datetime:%Y-%m-%d}" == "2020-09-04"
    np.testing.assert_array_equal(image.dn, _rng(0).uniform(0, 0.6, (6, 16, 16)).astype(np.float32))
    np.testing.assert_array_equal(sample.class_map, _burns(0))


def test_bands_of_a_set_are_found_by_their_order_in_the_file(burn_scars: Path) -> None:
    spec = replace(_spec("hls-burn-scars", burn_scars), bands=(("B12", "B04"),))
    image = open_published(spec, seed=0).read(0).images[0]
    np.testing.assert_array_equal(image.dn, _rng(0).uniform(0, 0.6, (6, 16, 16)).astype(np.float32)[[5, 2]])
    with pytest.raises(ManifestError, match=r"'hls-burn-scars' has no band 'B08' \(B02, B03, B04, B8A, B11, B12\)"):
        open_published(replace(spec, bands=(("B08",),)), seed=0)


def test_a_burn_scar_without_mask_is_refused(burn_scars: Path) -> None:
    mask = next(burn_scars.rglob("*.mask.tif"))
    mask.unlink()
    with pytest.raises(ManifestError, match=rf"has no mask '{mask.name}'\. 'hls-burn-scars' wants: folders `training`"):
        open_published(_spec("hls-burn-scars", burn_scars), seed=0)


@pytest.fixture
def dfc2020(raster, tmp_path: Path) -> Path:
    """Six test and three validation patches, as Sentinel-2, Sentinel-1 and labels."""
    for part, count, name in (("test", 6, "0"), ("validation", 3, "validation")):
        for number in range(count):
            where = {"east": 4e5 + 1e4 * number + 5e5 * (part == "test"), "crs": "EPSG:32633"}
            seed = number + 10 * (part == "test")
            for kind, pixels in (("s2", _optical(seed)), ("s1", _radar(seed)), ("dfc", _cover(seed))):
                path = tmp_path / f"ROIs0000_{part}" / f"{kind}_{name}" / f"ROIs0000_{part}_{kind}_0_p{number}.tif"
                raster(path, pixels, **where)
    return tmp_path


def _optical(seed: int) -> np.ndarray:
    return _rng(seed).integers(100, 4000, (13, 16, 16)).astype(np.uint16)


def _radar(seed: int) -> np.ndarray:
    return _rng(seed).normal(-12, 3, (2, 16, 16)).astype(np.float32)


def _cover(seed: int) -> np.ndarray:
    return _rng(seed).integers(0, 11, (16, 16)).astype(np.uint8)


_SIMPLE_IGBP = [-1, 0, 1, -1, 2, 3, 4, 5, -1, 6, 7]


def test_dfc2020_trains_on_its_test_folder_and_reports_on_the_other(dfc2020: Path) -> None:
    data = open_task_data(_spec("dfc2020", dfc2020), seed=0)
    assert data.num_samples == {"train": 4, "val": 2, "test": 3}
    assert all("ROIs0000_validation" in data.names[index] for index in data.split("test"))
    other = open_published(_spec("dfc2020", dfc2020, train="validation"), seed=0)
    assert other.num_samples == {"train": 2, "val": 1, "test": 6}


def test_dfc2020_has_eight_classes_without_savanna_and_snow(dfc2020: Path) -> None:
    data = open_published(_spec("dfc2020", dfc2020), seed=0)
    assert data.classes == (
        "forest", "shrubland", "grassland", "wetlands", "croplands", "urban/built-up", "barren", "water"
    )  # fmt: skip
    index = next(i for i, name in enumerate(data.names) if name.endswith("test_s2_0_p2.tif"))
    np.testing.assert_array_equal(data.read(index).class_map, np.array(_SIMPLE_IGBP)[_cover(12)])


@pytest.mark.parametrize(
    ("images", "sensors"),
    [("S2", ("sentinel2-l1c",)), ("S1", ("sentinel1-grd",)), ("S2+S1", ("sentinel2-l1c", "sentinel1-grd"))],
)
def test_dfc2020_gives_the_images_that_are_asked_for(dfc2020: Path, images: str, sensors: tuple[str, ...]) -> None:
    data = open_published(_spec("dfc2020", dfc2020, images=images), seed=0)
    index = next(i for i, name in enumerate(data.names) if "p2.tif" in name and "validation" not in name)
    sample = data.read(index)
    assert tuple(image.sensor.name for image in sample.images) == sensors
    for image in sample.images:
        wanted = np.delete(_optical(12), 10, axis=0) if image.sensor.name == "sentinel2-l1c" else _radar(12)
        np.testing.assert_array_equal(image.dn, wanted)


def test_a_patch_that_lacks_an_image_is_refused(dfc2020: Path) -> None:
    next(dfc2020.rglob("*_s1_0_p1.tif")).unlink()
    with pytest.raises(ManifestError, match="has 1 patch that is not there in both `s1` and `dfc`, such as '0_p1'"):
        open_published(_spec("dfc2020", dfc2020, images="S2+S1"), seed=0)


_PADDY = np.array([[0, 1], [4, 1]])
_PLOTS = np.array([[0, 11], [12, 13]])


@pytest.fixture
def sickle(raster, tmp_path: Path) -> Path:
    """Four samples of 12 × 12 pixels, with three dates of Landsat-8 (4 × 4 pixels) and Sentinel-1 in the season."""
    rows = ["UNIQUE_ID,PLOT_ID,STANDARD_SEASON,YEAR,SPLIT"]
    for number, split in enumerate(("train", "train", "val", "test"), start=1):
        rows += [f"{number},{plot},aug-jan,2018,{split}" for plot in (11, 12)]
        layers = np.stack([np.kron(one, np.ones((6, 6))) for one in (_PLOTS, _PADDY)] + [np.zeros((12, 12))] * 4)
        raster(tmp_path / "masks" / "10m" / f"{number}.tif", layers.astype(np.float32), crs=None)
        for date, day in enumerate(("20180731", "20180815", "20181015", "20190110", "20190301")):
            _npz(tmp_path / "images" / "L8" / "npy" / str(number) / f"LC08_142052_{day}.npz", _thermal(number, date))
            name = f"S1A_IW_GRDH_1SDV_{day}T003511_{day}T003536.npz"
            radar = {band: np.full((12, 12), -10.0 - date) for band in ("VV", "VH")}
            _npz(tmp_path / "images" / "S1" / "npy" / str(number) / name, radar)
    (tmp_path / "sickle_dataset_tabular.csv").write_text("\n".join(rows))
    return tmp_path


def _thermal(number: int, date: int) -> dict[str, np.ndarray]:
    names = [f"SR_B{band}" for band in range(1, 8)] + ["ST_B10"] * (date != 2)
    return {name: _rng(10 * number + date).integers(1, 2**14, (4, 4)).astype(np.float32) for name in names}


def _npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def test_sickle_is_paddy_against_other_crops_on_plots_of_the_part(sickle: Path) -> None:
    data = open_task_data(_spec("sickle", sickle), seed=0)
    assert data.classes == ("paddy", "other crops")
    assert dict(zip(data.names, data.splits, strict=True)) == {"1": "train", "2": "train", "3": "val", "4": "test"}
    np.testing.assert_array_equal(data.read(0).class_map, np.kron([[-1, 0], [1, -1]], np.ones((6, 6), dtype=int)))


def test_sickle_gives_the_median_of_the_season(sickle: Path) -> None:
    (image,) = open_published(_spec("sickle", sickle), seed=0).read(0).images
    assert image.sensor.name == "landsat8-oli-tirs-l2"
    assert image.sensor.band_names[-1] == "ST_B10"
    season = [_thermal(1, date) for date in (1, 2, 3)]
    red = np.median([one["SR_B4"] for one in season], axis=0)
    heat = np.mean([season[0]["ST_B10"], season[2]["ST_B10"]], axis=0)
    np.testing.assert_allclose(image.dn[3], np.kron(red, np.ones((3, 3))))
    np.testing.assert_allclose(image.dn[7], np.kron(heat, np.ones((3, 3))))
    assert image.valid.all()


def test_sickle_gives_each_date_as_a_sample(sickle: Path) -> None:
    data = open_published(_spec("sickle", sickle, sensor="S1", dates="each"), seed=0)
    assert len(data) == 12
    assert len(set(data.places)) == 4
    (image,) = data.read(1).images
    assert f"{image.datetime:%Y-%m-%d}" == "2018-10-15"
    assert image.sensor.default_encoding == "db"
    assert (image.dn == -12.0).all()


def test_sickle_gives_several_sensors_side_by_side(sickle: Path) -> None:
    data = open_published(_spec("sickle", sickle, sensor="L8+S1"), seed=0)
    assert [image.dn.shape for image in data.read(0).images] == [(8, 12, 12), (2, 12, 12)]


def test_sickle_without_a_test_part_reports_its_validation(sickle: Path) -> None:
    table = sickle / "sickle_dataset_tabular.csv"
    table.write_text(table.read_text().replace("test", "val").replace("2,11,", "2,21,").replace("2,12,", "2,22,"))
    mask = sickle / "masks" / "10m" / "2.tif"
    data = open_published(replace(_spec("sickle", sickle), split=SplitSpec(val=0.5)), seed=0)
    assert mask.exists()
    assert data.num_samples["test"] == 2
    assert any(note.startswith("part `val` of SICKLE is the test part") for note in data.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensor": "L9"}, r"option 'sensor' of 'sickle' must be L8, S2, S1, or several joined by `\+`, found 'L9'"),
        ({"dates": "all"}, "option 'dates' of 'sickle' must be one of median, each, found 'all'"),
        ({"date": "each"}, r"'sickle' has no option 'date' \(it has: sensor, dates\); did you mean 'dates'\?"),
        ({"sensor": "L8+S1", "dates": "each"}, "share no dates"),
    ],
)
def test_unknown_options_of_sickle_are_refused(sickle: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        open_published(_spec("sickle", sickle, **options), seed=0)


def test_sickle_without_labels_is_refused(sickle: Path) -> None:
    table = sickle / "sickle_dataset_tabular.csv"
    table.write_text(table.read_text().replace(",11,", ",91,").replace(",12,", ",92,"))
    with pytest.raises(InputError, match=r"none of the 4 samples of SICKLE in '.*' has a labelled pixel"):
        open_published(_spec("sickle", sickle), seed=0)


@pytest.mark.parametrize("name", ["dfc2020", "hls-burn-scars", "sickle"])
def test_a_folder_of_something_else_is_refused_with_what_is_wanted(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(ManifestError, match=r"[Ww]ants: "):
        open_published(_spec(name, tmp_path), seed=0)


def test_an_unknown_set_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is no published data set 'dfc2021' .*; did you mean 'dfc2020'"):
        open_published(_spec("dfc2021", tmp_path), seed=0)


def test_burn_scars_may_have_the_validation_of_pangaea(burn_scars: Path) -> None:
    """scikit-learn's draw of a tenth with seed 23, of the training images in the order of their names."""
    data = open_published(_spec("hls-burn-scars", burn_scars, val="pangaea"), seed=7)
    training = sorted(path.name for path in burn_scars.rglob("training/*_merged.tif"))
    chosen = train_test_split(training, test_size=0.1, random_state=23)[1]
    assert [Path(data.names[index]).name for index in data.split("val")] == chosen
    assert data.statistics == "HLS Burn Scars"


@pytest.mark.parametrize("tagged", [None, -1.0])
def test_what_burn_scars_mark_as_no_data_is_missing(burn_scars: Path, tagged: float | None) -> None:
    """The fill of the set, that of HLS, and what the file tags."""
    first = min(burn_scars.rglob("training/*_merged.tif"))
    with rasterio.open(first, "r+") as file:
        pixels = file.read()
        pixels[:, 2, 3], pixels[:, 4, 5], pixels[:, 6, 7] = 9999, -9999, -1
        file.write(pixels)
        file.nodata = tagged
    image = open_published(_spec("hls-burn-scars", burn_scars), seed=0).read(0).images[0]
    missing = [[2, 3], [4, 5], *([[6, 7]] if tagged else [])]
    assert all(np.argwhere(~one).tolist() == missing for one in image.valid)
