"""Places of an archive: even over the ground or by strata, apart, held out by cells, and equal for an equal recipe."""

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from sklearn.neighbors import BallTree

from anyband.archive.places import PlacesRecipe, StrataRecipe, read_places, sample_places, write_places
from anyband.errors import AnybandError, InputError, RecipeError

EARTH_KM = 6371.0088


def _polygons(path: Path, shapes: dict[str, shapely.Geometry], crs: str | None = "EPSG:4326") -> str:
    table = geopandas.GeoDataFrame({"kind": list(shapes)}, geometry=list(shapes.values()), crs=crs)
    table.to_file(path, driver="GPKG")
    return str(path)


def _raster(path: Path, classes: np.ndarray, *, crs: str | None = "EPSG:4326") -> str:
    height, width = classes.shape
    transform = Affine(360 / width, 0, -180, 0, -180 / height, 90)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs=crs, transform=transform, nodata=255) as file:
        file.write(classes.astype(np.uint8), 1)
    return str(path)


def _km(one: geopandas.GeoDataFrame, other: geopandas.GeoDataFrame, k: int) -> np.ndarray:
    """Second opinion: haversine distances of scikit-learn."""
    tree = BallTree(np.deg2rad(one[["lat", "lon"]].to_numpy()), metric="haversine")
    return tree.query(np.deg2rad(other[["lat", "lon"]].to_numpy()), k=k)[0][:, -1] * EARTH_KM


def test_places_of_the_globe_do_not_crowd_at_the_poles() -> None:
    places = sample_places(PlacesRecipe(count=20_000, at_sea=True))
    # On a sphere the sine of latitude is even; 0.0136 is the Kolmogorov-Smirnov limit at 0.1 %.
    even = np.sort((1 + np.sin(np.deg2rad(places["lat"]))) / 2)
    assert np.abs(even - np.arange(len(even)) / len(even)).max() < 0.0138


def test_an_equal_recipe_gives_an_equal_table_and_another_seed_another() -> None:
    recipe = PlacesRecipe(count=50, at_sea=True, min_distance_km=100)
    assert sample_places(recipe).equals(sample_places(recipe))
    assert not sample_places(recipe.changed(seed=1)).equals(sample_places(recipe))


def test_fewer_places_are_the_first_of_more() -> None:
    few, more = (sample_places(PlacesRecipe(count=count, at_sea=True, min_distance_km=50)) for count in (100, 300))
    assert few["id"].tolist() == more["id"].tolist()[:100]


def test_places_are_as_far_apart_as_asked() -> None:
    places = sample_places(PlacesRecipe(count=2000, at_sea=True, min_distance_km=250))
    assert _km(places, places, 2).min() >= 250


def test_training_places_keep_the_gap_from_held_out_ones() -> None:
    recipe = PlacesRecipe(count=2000, at_sea=True, cell_km=2000, test_share=0.3, test_gap_km=200, min_distance_km=20)
    places = sample_places(recipe)
    train, test = (places[places["split"] == name] for name in ("train", "test"))
    assert len(test) > 300
    assert _km(train, test, 1).min() >= 200
    assert not set(train["cell"]) & set(test["cell"])


def test_shares_of_strata_are_met_in_both_layers_at_once(tmp_path: Path) -> None:
    halves = np.repeat([[1], [2]], 90, axis=0).repeat(360, axis=1)
    cover = _raster(tmp_path / "cover.tif", halves)
    zones = {"west": shapely.box(-180, -90, 0, 90), "east": shapely.box(0, -90, 180, 90)}
    recipe = PlacesRecipe(
        count=200,
        at_sea=True,
        strata=(
            StrataRecipe(name="cover", path=cover, classes={"n": (1,), "s": (2,)}, shares={"n": 0.8, "s": 0.2}),
            StrataRecipe(
                name="zone",
                path=_polygons(tmp_path / "z.gpkg", zones),
                column="kind",
                shares={"west": 0.25, "east": 0.75},
            ),
        ),
    )
    places = sample_places(recipe)
    assert abs((places["lat"] > 0).mean() - 0.8) < 0.01
    assert abs((places["lon"] < 0).mean() - 0.25) < 0.01
    assert (places["cover"] == np.where(places["lat"] > 0, "n", "s")).all()
    assert places.attrs["shares"]["cover"]["n"]["got"] == pytest.approx(0.8, abs=0.01)


def test_places_lie_on_the_land_that_is_named(tmp_path: Path) -> None:
    land = np.zeros((180, 360))
    land[:, 300:] = 1
    places = sample_places(PlacesRecipe(count=100, land=_raster(tmp_path / "land.tif", land)))
    assert (places["lon"] >= 120).all()


def test_a_region_over_longitude_180_is_one_region(tmp_path: Path) -> None:
    region = _polygons(tmp_path / "fiji.gpkg", {"fiji": shapely.box(175, -20, 185, -15)})
    for recipe in (
        PlacesRecipe(count=200, at_sea=True, region=region),
        PlacesRecipe(count=200, at_sea=True, bbox=(175, -20, -175, -15)),
    ):
        lon = sample_places(recipe)["lon"]
        assert ((lon >= 175) | (lon <= -175)).all()
        assert 60 < (lon > 0).sum() < 140


def test_a_region_over_the_pole_is_filled_to_the_pole(tmp_path: Path) -> None:
    pole = _polygons(tmp_path / "arctic.gpkg", {"arctic": shapely.Point(0, 0).buffer(1_000_000, 64)}, "EPSG:3413")
    places = sample_places(PlacesRecipe(count=400, at_sea=True, region=pole))
    # A radius of 1000 km about the pole; a quarter of the ground is in the inner half.
    assert places["lat"].min() > 80
    assert 0.17 < (places["lat"] > 90 - 0.5 * (90 - places["lat"].min())).mean() < 0.34
    assert np.histogram(places["lon"], bins=4, range=(-180, 180))[0].min() > 60


def test_written_places_are_read_back_and_have_a_page(tmp_path: Path) -> None:
    places = sample_places(PlacesRecipe(count=20, at_sea=True))
    write_places(places, tmp_path / "p.parquet")
    back = read_places(tmp_path / "p.parquet")
    assert back.equals(places)
    assert back.attrs == places.attrs
    assert "20 places" in (tmp_path / "p.html").read_text()


def _wrong(tmp_path: Path, case: str) -> PlacesRecipe:
    cover = {"name": "cover", "path": _raster(tmp_path / "c.tif", np.ones((18, 36)))}
    no_crs = StrataRecipe(name="c", path=_raster(tmp_path / "n.tif", np.ones((18, 36)), crs=None))
    jump = shapely.Polygon([(179, 0), (-179, 0), (-179, 5), (179, 5)])
    rows = {
        "no area": {"at_sea": True, "strata": (StrataRecipe(**cover, shares={"1": 0.5, "7": 0.5}),)},
        "empty": {"land": _raster(tmp_path / "l.tif", np.zeros((18, 36)))},
        "no room": {"at_sea": True, "bbox": (0, 0, 1, 1), "count": 100, "min_distance_km": 50},
        "no crs": {"at_sea": True, "strata": (no_crs,)},
        "180": {"at_sea": True, "region": _polygons(tmp_path / "j.gpkg", {"a": jump})},
    }
    return PlacesRecipe(**{"count": 10, **rows[case]})


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("no area", "stratum '7' of 'cover' has no area"),
        ("empty", "lies in it and on land"),
        ("no room", "there is no room for 100 places 50 km apart"),
        ("no crs", "has no coordinate system"),
        ("180", "may cross longitude 180"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, case: str, text: str) -> None:
    with pytest.raises(AnybandError, match=text):
        sample_places(_wrong(tmp_path, case))


def test_sea_and_shares_are_declared() -> None:
    with pytest.raises(RecipeError, match="at_sea: true"):
        PlacesRecipe(count=1)
    with pytest.raises(RecipeError, match=r"add up to 0\.7"):
        StrataRecipe(name="a", path="b", shares={"x": 0.7})
    with pytest.raises(InputError, match=r"must end in \.parquet"):
        write_places(sample_places(PlacesRecipe(count=1, at_sea=True)), "p.csv")
