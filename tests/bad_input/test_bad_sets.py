"""What would make sets of images meaningless is refused where it enters: dates, georeferences, rows, places."""

from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import rasterio

from anyband.cli import main

_PREPARE = ("prepare", "HERE/m.csv", "--out", "HERE/store", "--workers", "1", "--quiet")


def _manifest(folder: Path, header: str, *rows: str) -> None:
    (folder / "m.csv").write_text("\n".join((header, *rows)) + "\n")


def _georeferenced(path: Path, transform: tuple[float, ...], crs: str) -> None:
    shape = {"height": 32, "width": 32, "count": 3, "dtype": "uint8"}
    pixels = np.random.default_rng(0).integers(1, 255, (3, 32, 32)).astype(np.uint8)
    with rasterio.open(path, "w", driver="GTiff", crs=crs, transform=rasterio.Affine(*transform), **shape) as file:
        file.write(pixels)


@pytest.mark.parametrize(
    ("date", "message"),
    [
        ("2999-01-01", "row 1 of 'HERE/m.csv': datetime '2999-01-01' lies in the future (now is 2"),
        ("2999-01-01T00:00:00+12:00", "correct it, or leave it out where it is unknown"),
        ("31.12.2020", "datetime '31.12.2020' is not ISO 8601, such as 2020-07-01T10:30:00Z"),
        ("2021-02-30", "datetime '2021-02-30' is not ISO 8601"),
    ],
)
def test_a_date_that_no_image_can_have_is_refused(refused, kit, tmp_path, date: str, message: str) -> None:
    _manifest(tmp_path, "path,sensor,datetime", f"{kit / 'rgb0.tif'},rgb,{date}")
    assert message.replace("HERE", str(tmp_path)) in refused(*_PREPARE)


@pytest.mark.parametrize(
    ("transform", "crs", "message"),
    [
        ((1e-4, 0, 700, 0, -1e-4, 50), "EPSG:4326", "reaches from longitude 700° to 700.003°; longitudes are -180 to"),
        ((10, 0, 0, 0, -1, 50), "EPSG:4326", "reaches from longitude 0° to 320°"),
        ((0.1, 0, 20, 0, -0.1, 91), "EPSG:4326", "reaches from latitude 87.8° to 91°"),
        ((0, 0, 5e5, 0, 0, 5e6), "EPSG:32632", "has a georeference in which a pixel is no rectangle of ground (its"),
        ((0, 0, 5e5, 0, 0, 5e6), "EPSG:32632", "(its transform is (0, 0, 500000, 0, 0, 5e+06)); write its right"),
        ((10, 10, 5e5, 10, 10, 5e6), "EPSG:32632", "a pixel is no rectangle of ground"),
        ((float("nan"), 0, 5e5, 0, -10, 5e6), "EPSG:32632", "a pixel is no rectangle of ground"),
        ((10, 0, float("inf"), 0, -10, 5e6), "EPSG:32632", "a pixel is no rectangle of ground"),
        ((10, 0, 9e9, 0, -10, 8e9), "EPSG:32632", "has a georeference off the globe: in EPSG:32632 its transform"),
        ((10, 0, 9e9, 0, -10, 8e9), "EPSG:32632", "gives pixels of nan m; correct its CRS, or its corner and pixel"),
    ],
)  # fmt: skip
def test_an_image_that_lies_nowhere_is_refused(refused, tmp_path, transform, crs: str, message: str) -> None:
    _georeferenced(tmp_path / "a.tif", transform, crs)
    _manifest(tmp_path, "path,sensor", "a.tif,rgb")
    found = refused(*_PREPARE)
    assert "none of the 1 image can be used" in found
    assert message in found


def test_an_image_whose_file_says_a_future_time_is_refused(refused, tmp_path) -> None:
    with h5netcdf.File(tmp_path / "a.nc", "w") as file:
        file.dimensions = {"time": 1, "y": 32, "x": 32}
        time = file.create_variable("time", ("time",), "f8", data=np.array([400_000.0]))
        time.attrs["units"] = "days since 1970-01-01"
        for number, band in enumerate("RGB", 1):
            file.create_variable(band, ("time", "y", "x"), "u1", data=np.full((1, 32, 32), number, np.uint8))
    _manifest(tmp_path, "path,sensor", "a.nc,rgb")
    message = refused(*_PREPARE)
    assert "a.nc' says that it was taken at 3065-" in message
    assert "which lies in the future; declare its `datetime` in the manifest" in message


def test_a_row_that_stands_twice_would_be_a_set_of_one_image_and_is_refused(refused, kit, tmp_path) -> None:
    row = f"{kit / 'rgb0.tif'},rgb,a,2020-05-05"
    _manifest(tmp_path, "path,sensor,place,datetime", row, row)
    assert "rgb0.tif' stands in the list twice" in refused(*_PREPARE, "--strict")


def test_a_row_that_stands_twice_is_one_image_of_its_set(kit, tmp_path, capsys) -> None:
    from anyband.data.image_sets import find_sets
    from anyband.data.store import ChipStore

    row = f"{kit / 'rgb0.tif'},rgb,a,2020-05-05,train"
    _manifest(tmp_path, "path,sensor,place,datetime,split", row, row)
    assert main([word.replace("HERE", str(tmp_path)) for word in _PREPARE]) == 0
    assert "stands in the list twice" in capsys.readouterr().out
    assert find_sets(ChipStore.open(tmp_path / "store")).capacity.tolist() == [1]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("other_crs.tif", "does not overlap any other image of it; give it a place of its own"),
        ("far.tif", "does not overlap any other image of it; give it a place of its own"),
    ],
)
def test_dates_that_share_no_ground_are_no_set(refused, kit, tmp_path, other: str, message: str) -> None:
    rows = [f"{kit / name},rgb,harbour,2020-0{month}-01" for month, name in enumerate(("rgb0.tif", other), 1)]
    _manifest(tmp_path, "path,sensor,place,datetime", *rows)
    found = refused(*_PREPARE)
    assert "place 'harbour': " in found
    assert message in found


def test_places_with_one_image_under_a_recipe_that_needs_two_sources_are_said(refused, kit, tmp_path) -> None:
    rows = [f"{kit / f'rgb{number}.tif'},rgb,p{number},train" for number in range(3)]
    _manifest(tmp_path, "path,sensor,place,split", *rows)
    assert main([word.replace("HERE", str(tmp_path)) for word in _PREPARE]) == 0
    recipe = (kit / "recipe.yaml").read_text() + "data: {sets: {size: [2, 3], needs_two_sources: true}}\n"
    (tmp_path / "sets.yaml").write_text(recipe)
    message = refused("pretrain", "HERE/sets.yaml", "--data", "HERE/store", "--out", "HERE/run", "--quiet")
    assert "all 3 footprints in split 'train' of store" in message
    assert "prepare images of another sensor of the same places, or turn it off" in message
