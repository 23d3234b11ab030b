"""Items by place and time: of a real STAC API that fails as servers do, and of an index, which must agree."""

import datetime
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import rustac
import shapely
from archive.servers import Fault, Server, file_server, stac_server

from anyband.archive.catalogues import CatalogueRecipe, open_catalogue, write_index
from anyband.errors import ArchiveError, RecipeError

START, END = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.datetime(2020, 12, 31, tzinfo=datetime.UTC)
EARTH = shapely.box(-180, -90, 180, 90)


def _item(
    name: str, geometry: Any, day: str = "2020-06-01", *, cloud: float | None = 10.0, **other: Any
) -> dict[str, Any]:
    west, south, east, north = geometry.bounds
    if isinstance(geometry, shapely.MultiPolygon):
        west, east = max(part.bounds[0] for part in geometry.geoms), min(part.bounds[2] for part in geometry.geoms)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "collection": "s2",
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": [west, south, east, north],
        "properties": {"datetime": f"{day}T10:00:00Z", **({} if cloud is None else {"eo:cloud_cover": cloud})},
        "assets": {"B02": {"href": f"https://example.com/{name}.tif"}},
        "links": [],
        **other,
    }


OVER = shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)])
NORTH = shapely.box(-180, 80, 180, 90)
ITEMS = [
    _item("west", shapely.box(0, 0, 1, 1)),
    _item("east", shapely.box(2, 0, 3, 1), cloud=60.0),
    _item("unclouded", shapely.box(2, 0, 3, 1), cloud=None),
    _item("winter", shapely.box(0, 0, 1, 1), "2020-12-20"),
    _item("other_year", shapely.box(0, 0, 1, 1), "2021-06-01"),
    _item("other", shapely.box(0, 0, 1, 1), collection="landsat"),
    # Its box holds the corner of the searched place, its outline does not.
    _item("slanted", shapely.Polygon([(0, 10), (10, 10), (10, 20)])),
    _item("over", OVER),
    _item("pole", NORTH),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with stac_server(ITEMS, tmp_path_factory.mktemp("stac")) as running:
        yield running


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "items.parquet"
    write_index(ITEMS, path)
    return path


@pytest.fixture(params=["api", "index"])
def recipe(request: pytest.FixtureRequest, server: Server, index: Path) -> CatalogueRecipe:
    server.faults.clear()
    return api_of(server) if request.param == "api" else CatalogueRecipe(index=str(index))


def api_of(server: Server, **other: Any) -> CatalogueRecipe:
    return CatalogueRecipe(**{"url": server.url, "max_requests_per_s": 500.0, **other})


def names(
    recipe: CatalogueRecipe, geometry: Any = EARTH, *, query: Any = None, collections: tuple[str, ...] = ("s2",)
) -> set[str]:
    found = [item["id"] for item in open_catalogue(recipe).search(collections, geometry, START, END, query)]
    assert len(found) == len(set(found))
    return set(found)


def test_items_of_a_place_are_found_and_no_others(recipe: CatalogueRecipe) -> None:
    assert names(recipe, shapely.box(0.2, 0.2, 0.4, 0.4)) == {"west", "winter"}


def test_the_time_is_that_of_the_items(recipe: CatalogueRecipe) -> None:
    summer = open_catalogue(recipe).search(["s2"], shapely.Point(0.5, 0.5), START, datetime.datetime(2020, 7, 1))
    assert [item["id"] for item in summer] == ["west"]


def test_several_collections_are_searched_at_once(recipe: CatalogueRecipe) -> None:
    assert names(recipe, shapely.Point(0.5, 0.5), collections=("s2", "landsat")) == {"west", "winter", "other"}


def test_outlines_count_and_not_boxes(recipe: CatalogueRecipe) -> None:
    assert names(recipe, shapely.box(0.5, 18, 1, 19)) == set()
    assert names(recipe, shapely.box(8.5, 12, 9, 13)) == {"slanted"}


@pytest.mark.parametrize(
    "place",
    [shapely.box(179.5, 0.2, 180.5, 0.4), shapely.box(-180.5, 0.2, -179.5, 0.4), shapely.box(-179.6, 0.2, -179.5, 0.4)],
    ids=["beyond 180", "beyond -180", "behind it"],
)
def test_a_place_on_the_antimeridian_finds_its_items_and_none_around_the_earth(
    recipe: CatalogueRecipe, place: Any
) -> None:
    assert names(recipe, place) == {"over"}


def test_a_ring_around_the_pole_finds_what_lies_in_it(recipe: CatalogueRecipe) -> None:
    ring = shapely.Polygon([(lon, 88.0) for lon in (-135.0, -45.0, 45.0, 135.0)])
    assert names(recipe, ring) == {"pole"}


def test_a_query_is_held_whatever_the_server_understands(recipe: CatalogueRecipe) -> None:
    # rustac's memory backend offers no query.
    place = shapely.box(-1, -1, 4, 2)
    assert names(recipe, place, query={"eo:cloud_cover": {"lt": 20}}) == {"west", "winter"}
    assert names(recipe, place, query={"eo:cloud_cover": {"gte": 20, "lte": 60}}) == {"east"}


def test_an_index_gives_the_items_that_the_api_gives(server: Server, index: Path) -> None:
    server.faults.clear()
    found = [
        {item["id"]: item for item in open_catalogue(recipe).search(["s2"], EARTH, START, END)}
        for recipe in (api_of(server), CatalogueRecipe(index=str(index)))
    ]
    assert set(found[0]) == set(found[1]) == {item["id"] for item in ITEMS} - {"other", "other_year"}
    for name, item in found[0].items():
        assert all(found[1][name][key] == item[key] for key in ("geometry", "assets", "collection", "properties"))


def test_all_pages_are_read(tmp_path: Path) -> None:
    many = [_item(f"n{number}", shapely.box(0, 0, 1, 1)) for number in range(250)]
    with stac_server(many, tmp_path) as server:
        assert len(names(api_of(server))) == 250
        assert sum("/search" in request for request in server.requests) >= 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", status=429, times=2),
        Fault("status", status=500),
        Fault("status", status=503),
        Fault("drop"),
        Fault("cut"),
        Fault("slow", slow_s=1.5),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
def test_what_passes_is_tried_again(server: Server, fault: Fault) -> None:
    server.faults[:] = [Fault(**{**vars(fault), "where": "/search"})]
    assert names(api_of(server, timeout_s=1.0), shapely.Point(0.5, 0.5)) == {"west", "winter"}
    assert server.faults[0].times == 0


def test_a_later_page_that_fails_is_tried_again_without_items_twice(tmp_path: Path) -> None:
    many = [_item(f"n{number}", shapely.box(0, 0, 1, 1)) for number in range(250)]
    with stac_server(many, tmp_path) as server:
        server.faults[:] = [Fault("cut", where='"skip"'), Fault("status", status=502, where='"skip"')]
        assert len(names(api_of(server))) == 250
        assert [fault.times for fault in server.faults] == [0, 0]


def test_the_wait_that_a_server_asks_for_is_kept(server: Server) -> None:
    server.faults[:] = [Fault("status", status=429, retry_after="2", where="/search")]
    before_s = time.monotonic()
    names(api_of(server))
    assert time.monotonic() - before_s >= 2.0


def test_requests_keep_to_the_rate(server: Server) -> None:
    server.faults.clear()
    server.requests.clear()
    before_s = time.monotonic()
    catalogue = open_catalogue(api_of(server, max_requests_per_s=10.0))
    for _ in range(5):
        list(catalogue.search(["s2"], EARTH, START, END))
    assert len(server.requests) >= 6
    assert time.monotonic() - before_s >= (len(server.requests) - 1) / 10.0


def test_a_catalogue_that_stays_away_is_named_with_the_request(server: Server) -> None:
    server.faults.clear()
    catalogue = open_catalogue(api_of(server, retries=1))
    server.faults[:] = [Fault("status", status=503, where="/search", times=99)]
    with pytest.raises(
        ArchiveError, match=r"did not answer search of s2 from 2020-01-01.* after 2 tries: HTTP 503.*later"
    ):
        list(catalogue.search(["s2"], EARTH, START, END))


def test_a_refused_request_is_not_tried_again(server: Server) -> None:
    server.faults.clear()
    catalogue = open_catalogue(api_of(server))
    server.faults[:] = [Fault("status", status=403, where="/search", times=99)]
    with pytest.raises(ArchiveError, match=r"HTTP 403.*check the address, and `sign`"):
        list(catalogue.search(["s2"], EARTH, START, END))
    assert server.faults[0].times == 98


def test_an_address_without_a_catalogue_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<html></html>")
    with file_server(tmp_path) as server, pytest.raises(ArchiveError, match=r"did not answer its root"):
        open_catalogue(CatalogueRecipe(url=f"{server.url}index.html"))


# Indexes.


def test_an_index_is_the_same_in_any_order_of_items(tmp_path: Path) -> None:
    write_index(ITEMS, tmp_path / "a.parquet")
    write_index([dict(reversed(item.items())) for item in reversed(ITEMS)], tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_an_index_is_geoparquet_that_other_programs_read(index: Path) -> None:
    import geopandas

    assert set(geopandas.read_parquet(index)["id"]) == {item["id"] for item in ITEMS}
    assert {item["id"] for item in rustac.read_sync(str(index))["features"]} == {item["id"] for item in ITEMS}


def test_an_index_that_another_program_wrote_is_searched(tmp_path: Path) -> None:
    rustac.write_sync(str(tmp_path / "theirs.parquet"), ITEMS)
    recipe = CatalogueRecipe(index=str(tmp_path / "theirs.parquet"))
    assert names(recipe, shapely.Point(179.5, 0.5)) == {"over"}


def test_row_groups_without_a_match_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = [_item(f"n{number}", shapely.box(lon, 0, lon + 0.5, 0.5)) for number, lon in enumerate(range(-170, 170))]
    write_index(spread, tmp_path / "one.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "one.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "many.parquet", row_group_size=10)
    with file_server(tmp_path) as server:
        catalogue = open_catalogue(CatalogueRecipe(index=f"{server.url}many.parquet", max_requests_per_s=1e4))
        server.requests.clear()
        assert list(catalogue.search(["s2"], shapely.Point(60.7, 0.2), START, END)) == []
        assert server.requests == []
        assert [item["id"] for item in catalogue.search(["s2"], shapely.Point(60.2, 0.2), START, END)] == ["n230"]
        assert len(server.requests) >= 1


def test_an_index_on_a_web_server_is_read_through_its_faults(index: Path) -> None:
    with file_server(index.parent) as server:
        server.faults[:] = [Fault("status", status=503), Fault("cut"), Fault("drop")]
        recipe = CatalogueRecipe(index=f"{server.url}{index.name}", max_requests_per_s=1e4)
        assert names(recipe, shapely.Point(0.5, 0.5)) == {"west", "winter"}
        assert [fault.times for fault in server.faults] == [0, 0, 0]


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(ArchiveError, match=r"no STAC-GeoParquet file.*it has no column geometry, bbox"):
        open_catalogue(CatalogueRecipe(index=str(tmp_path / "other.parquet")))
    with pytest.raises(ArchiveError, match=r"text.parquet' did not answer"):
        open_catalogue(CatalogueRecipe(index=str(tmp_path / "text.parquet")))


def test_an_index_that_fails_leaves_the_old_one(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.parquet"
    path.write_bytes(index.read_bytes())
    with pytest.raises(ArchiveError, match="no item to write"):
        write_index([], path)
    assert path.read_bytes() == index.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["kept.parquet"]


# Recipes and signing.


def test_a_catalogue_has_one_source() -> None:
    with pytest.raises(RecipeError, match="either `url` or `index`"):
        CatalogueRecipe()
    with pytest.raises(RecipeError, match="either `url` or `index`"):
        CatalogueRecipe(url="https://example.com", index="a.parquet")


def test_items_are_signed_by_the_hook_and_stay_unsigned_themselves(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook_of_tests.py").write_text(
        "def sign(item):\n    item['assets']['B02']['href'] += '?token=1'\n    return item\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    catalogue = open_catalogue(CatalogueRecipe(index=str(index), sign="hook_of_tests:sign"))
    item = next(catalogue.search(["s2"], shapely.Point(0.5, 0.5), START, END))
    assert catalogue.sign(item)["assets"]["B02"]["href"].endswith("?token=1")
    assert item["assets"]["B02"]["href"].endswith(".tif")


def test_a_hook_that_is_none_is_refused(index: Path) -> None:
    with pytest.raises(RecipeError, match=r"sign: 'no_such_module:sign' is no function that can be imported"):
        open_catalogue(CatalogueRecipe(index=str(index), sign="no_such_module:sign"))


def test_a_query_of_an_unknown_operation_is_refused(index: Path) -> None:
    with pytest.raises(RecipeError, match=r"'eo:cloud_cover' has 'below'; allowed are operations of eq, gt"):
        list(
            open_catalogue(CatalogueRecipe(index=str(index))).search(
                ["s2"], EARTH, START, END, {"eo:cloud_cover": {"below": 3}}
            )
        )
