"""Footprints across longitude 180° and over a pole were once belts around the Earth."""

import json
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely

from anyband.data.image_sets import chip_metadata
from anyband.data.manifest import parse_entry
from anyband.data.places import footprint
from anyband.data.prepare import PrepareOptions, prepare
from anyband.data.store import ChipStore

_FIJI = ("EPSG:32760", (100.0, 0.0, 815_700.0, 0.0, -100.0, 8_149_000.0))
_POLE = ("EPSG:3413", (1_000.0, 0.0, -32_000.0, 0.0, -1_000.0, 32_000.0))
_MAINZ = ("EPSG:32632", (100.0, 0.0, 450_000.0, 0.0, -100.0, 5_530_000.0))


def _from(west_deg: float) -> tuple[str, tuple[float, ...]]:
    return "EPSG:4326", (0.01, 0.0, west_deg, 0.0, -0.01, 10.0)


def _area_km2(shape: shapely.Geometry) -> float:
    """Area on a sphere-like grid of equal areas; a second opinion on what the polygon covers."""
    return float(geopandas.GeoSeries([shape], crs="EPSG:4326").to_crs("EPSG:6933").area.iloc[0]) / 1e6


@pytest.mark.parametrize(
    ("crs", "transform", "area_km2", "holds", "bounds"),
    [
        (*_FIJI, 41.0, (180.0, -16.75), (179.960, -16.778, -179.979, -16.720)),
        # True to scale at 70° N, so what is 64 km wide in it is wider at the pole.
        (*_POLE, 4096.0 * 1.063, (37.0, 89.9), (-180.0, 89.582, 180.0, 90.0)),
        ("EPSG:3031", _POLE[1], 4096.0 * 1.058, (-90.0, -89.9), (-180.0, -90.0, 180.0, -89.583)),
        ("EPSG:3031", (1_000.0, 0.0, -10_000.0, 0.0, -1_000.0, 60_000.0), 4096.0 * 1.058, (0.0, -89.9), None),
        ("EPSG:3413", (1_000.0, 0.0, -32_000.0, 0.0, -1_000.0, 64_000.0), 4096.0 * 1.063, (135.0, 89.9), None),
        ("EPSG:4326", (0.01, 0.0, 179.68, 0.0, -0.01, 10.0), 5020.0, (-179.8, 9.8), (179.68, 9.36, -179.68, 10.0)),
        # Counted from 0 to 360, over the edge of that, and inside.
        ("EPSG:4326", (0.01, 0.0, 359.68, 0.0, -0.01, 10.0), 5020.0, (0.1, 9.8), (-0.32, 9.36, 0.32, 10.0)),
        ("EPSG:4326", (0.01, 0.0, 200.0, 0.0, -0.01, 10.0), 5020.0, (-159.9, 9.8), (-160.0, 9.36, -159.36, 10.0)),
        ("EPSG:3857", (600.0, 0.0, 20_018_308.34, 0.0, -600.0, 0.0), 1470.0, (179.9, -0.1), None),
        # Around the Earth, and up to its edges: nothing to split.
        (
            "EPSG:4326",
            (5.625, 0.0, -180.0, 0.0, -2.8125, 90.0),
            510_065_622.0,
            (0.0, 0.0),
            (-180.0, -90.0, 180.0, 90.0),
        ),
        ("EPSG:4326", (0.01, 0.0, 179.36, 0.0, -0.01, 10.0), 5020.0, (179.5, 9.5), (179.36, 9.36, 180.0, 10.0)),
    ],
)
def test_a_footprint_covers_its_ground_alone(crs, transform, area_km2, holds, bounds) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wkb, found = footprint(transform, height=64, width=64, crs=crs)
    shape = shapely.from_wkb(wkb)
    assert shape.is_valid
    assert _area_km2(shape) == pytest.approx(area_km2, rel=0.01)
    assert shape.intersects(shapely.Point(holds)) or shape.intersects(shapely.Point(-holds[0], holds[1]))
    assert (np.abs(shapely.get_coordinates(shape)) <= (180.0, 90.0)).all()
    # No part reaches over the edge of the map (RFC 7946, section 3.1.9).
    assert bounds is None or found == pytest.approx(bounds, abs=0.001)


def _store(folder: Path, *images: tuple[str, tuple[float, ...]]) -> Path:
    entries = []
    for number, (crs, transform) in enumerate(images):
        how = {"driver": "GTiff", "count": 3, "height": 64, "width": 64, "dtype": "uint8", "crs": crs}
        with rasterio.open(folder / f"{number}.tif", "w", transform=rasterio.Affine(*transform), **how) as file:
            file.write(np.random.default_rng(number).integers(1, 200, (3, 64, 64)).astype(np.uint8))
        entries.append(parse_entry({"path": f"{number}.tif", "sensor": "maxar-rgb"}, folder=folder))
    report = prepare(entries, folder / "store", PrepareOptions(fractions=(1.0, 0.0, 0.0)))
    assert not [note for note in report.notes if "another CRS" in note]
    return folder / "store"


def test_a_store_tells_them_to_others_and_to_networks(tmp_path) -> None:
    folder = _store(tmp_path, _FIJI, _POLE, _MAINZ)
    table = geopandas.read_parquet(folder / "index.parquet")
    assert list(table.geometry.geom_type) == ["MultiPolygon", "Polygon", "Polygon"]
    corners = chip_metadata(ChipStore.open(folder), np.array([[0], [1]]))["corners_deg"][:, 0]
    np.testing.assert_allclose(corners[0, :, 0], [179.9604, -179.9796, -179.9787, 179.9613], atol=1e-3)
    np.testing.assert_allclose(corners[1], [(-180, 89.5822), (90, 89.5822), (0, 89.5822), (-90, 89.5822)], atol=1e-3)


@pytest.mark.parametrize(
    ("images", "types", "bbox"),
    [
        ([_FIJI], ["MultiPolygon"], (179.960, -16.778, -179.979, -16.720)),
        ([_FIJI, _MAINZ], ["MultiPolygon", "Polygon"], (8.298, -16.778, -179.979, 49.922)),
        ([_MAINZ], ["Polygon"], (8.304, 49.8640, 8.393, 49.922)),
        ([_FIJI, _POLE], ["MultiPolygon", "Polygon"], (-180.0, -16.778, 180.0, 90.0)),
        # Longitudes that go on beyond 180 are as good as those 360 degrees less.
        ([_from(179.68)], ["MultiPolygon"], (179.68, 9.36, -179.68, 10.0)),
        ([_from(359.68)], ["Polygon"], (-0.32, 9.36, 0.32, 10.0)),
        ([_from(200.0)], ["Polygon"], (-160.0, 9.36, -159.36, 10.0)),
    ],
)
def test_the_box_of_an_index_reaches_over_the_edge_where_a_footprint_does(tmp_path, images, types, bbox) -> None:
    metadata = pq.read_schema(_store(tmp_path, *images) / "index.parquet").metadata[b"geo"]
    column = json.loads(metadata)["columns"]["geometry"]
    assert column["geometry_types"] == types
    assert column["bbox"] == pytest.approx(bbox, abs=0.01)
