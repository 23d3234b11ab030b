"""Catalogues of images: items of a STAC API, or of an index that is a STAC-GeoParquet file, by place and time."""

import datetime
import functools
import importlib
import io
import json
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import model_validator

from anyband.arrays import Array
from anyband.data.places import ring_on_globe
from anyband.errors import ArchiveError, RecipeError, counted
from anyband.files import whole_file
from anyband.training.recipes import CountOr0, Over0, Recipe, need

if TYPE_CHECKING:
    import requests

__all__ = ["Catalogue", "CatalogueRecipe", "item_times", "on_globe", "open_catalogue", "write_index"]

Item = dict[str, Any]
Query = Mapping[str, Mapping[str, Any]]

# Source: RFC 9110, section 15.6, and RFC 6585, section 4: what may pass by itself.
_PASSING = (408, 429, 500, 502, 503, 504)
# chosen: the first wait doubles with each failure, up to what servers ask for at most.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 120.0
# chosen: items a page, which most servers allow; they answer with fewer where they do not.
_PAGE = 100
# chosen: a search for one place reads a group whole, and the footer grows with their number.
_ROWS_A_GROUP = 1_000
_KEPT_GROUPS = 4
# Columns that tell which rows a search means; the others are read for those alone.
_KEY_COLUMNS = ("bbox", "collection", "datetime")
_OPERATIONS: dict[str, Callable[[Any, Any], bool]] = {
    **{name: getattr(operator, name) for name in ("eq", "lt", "gt")},
    **{"neq": operator.ne, "lte": operator.le, "gte": operator.ge, "in": lambda value, allowed: value in allowed},
}


class CatalogueRecipe(Recipe):
    """Where the items of images are, and how a server of them is asked."""

    url: str | None = None
    """Root of a STAC API."""
    index: str | None = None
    """Path or address (http, s3, gs) of a STAC-GeoParquet file."""
    sign: str | None = None
    """`module:function` that gives an item with signed addresses, such as `planetary_computer:sign`."""
    max_requests_per_s: Over0 = 4.0
    """chosen: what public servers bear of one process. Each worker keeps to it by itself."""
    retries: CountOr0 = 6
    """chosen: with waits that double from half a second, a server may be away for half a minute."""
    timeout_s: Over0 = 60.0
    """chosen: searches of a large collection take tens of seconds."""

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogueRecipe":
        need((self.url is None) != (self.index is None), "a catalogue has either `url` or `index`, found both or none")
        return self

    @property
    def address(self) -> str:
        """Where it is, for messages."""
        return str(self.url or self.index)


class Catalogue:
    """An open catalogue. Searches of one catalogue must not run at once; each worker opens its own."""

    def __init__(self, recipe: CatalogueRecipe) -> None:
        self.recipe = recipe
        self._sign = _hook(recipe.sign) if recipe.sign else None
        self._find = _api(recipe) if recipe.url else _index(recipe)

    def search(
        self,
        collections: Sequence[str],
        geometry: Any,
        start: datetime.datetime,
        end: datetime.datetime,
        query: Query | None = None,
    ) -> Iterator[Item]:
        """Find the items of collections that reach into a geometry and were taken from `start` to `end`, each once.
        Args:
            geometry: of shapely, in degrees of longitude and latitude; longitudes may go on beyond ±180.
            query: of properties, each with operations: `{"eo:cloud_cover": {"lt": 20}}`. An item that lacks one is no
                match. Operations: eq, neq, lt, lte, gt, gte, in.
        Raises:
            ArchiveError: the catalogue can't be reached, or doesn't answer as one, after all retries.
        """
        _check_query(query or {})
        start, end = (one if one.tzinfo else one.replace(tzinfo=datetime.UTC) for one in (start, end))
        wanted = on_globe(geometry)
        seen = set[tuple[str, str]]()
        for item in self._find(list(collections), wanted, start, end, query or {}):
            key = (str(item.get("collection")), str(item["id"]))
            # Servers differ in what they check, and in how they read a geometry that is split at ±180.
            if key not in seen and _holds(item, wanted, start, end, query or {}):
                seen.add(key)
                yield item

    def sign(self, item: Item) -> Item:
        """Give an item whose addresses can be read now. Sign right before reading: signatures end within the hour."""
        return item if self._sign is None else dict(self._sign(json.loads(json.dumps(item))))


def open_catalogue(recipe: CatalogueRecipe) -> Catalogue:
    """Open a catalogue; `ArchiveError` where it can't be reached or is none."""
    return Catalogue(recipe)


def _hook(name: str) -> Callable[[Item], Mapping[str, Any]]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]
    except (ImportError, AttributeError, ValueError) as problem:
        said = f"sign: '{name}' is no function that can be imported ({problem})"
        raise RecipeError(f"{said}; write 'module:function', and install its package") from problem


# Geometries and conditions.


def on_globe(geometry: Any) -> Any:
    """Split a geometry of shapely at longitude ±180, and close it over a pole that it holds. An edge of more than 180°
    goes the other way round, over ±180; holes are kept where nothing is split. Source: RFC 7946, section 3.1.9."""
    import shapely

    if geometry is None or geometry.is_empty:
        raise ArchiveError("a search needs a geometry with a point or more, found an empty one")
    return shapely.union_all([_part_on_globe(part) for part in shapely.get_parts(geometry)])


def _part_on_globe(part: Any) -> Any:
    import shapely

    if part.geom_type != "Polygon":
        return shapely.transform(
            part, lambda xy: xy - np.stack([360.0 * np.rint(xy[:, 0] / 360.0), xy[:, 1] * 0], axis=1)
        )
    ring = np.asarray(part.exterior.coords)[:-1, :2]
    split = shapely.from_wkb(ring_on_globe(ring)[0])
    split = split if split.is_valid else split.buffer(0)
    return part if split.equals(shapely.Polygon(part.exterior)) else split


def _check_query(query: Query) -> None:
    """Refuse a query with an operation that there is not."""
    for name, operations in query.items():
        unknown = set(operations) - set(_OPERATIONS) if isinstance(operations, Mapping) else {operations}
        if unknown:
            allowed = f"allowed are operations of {', '.join(sorted(_OPERATIONS))}, such as {{lt: 20}}"
            raise RecipeError(f"query: '{name}' has {unknown.pop()!r}; {allowed}")


def _holds(item: Item, wanted: Any, start: datetime.datetime, end: datetime.datetime, query: Query) -> bool:
    """Tell whether an item is what was searched for."""
    import shapely

    properties = item["properties"]
    for name, operations in query.items():
        value = properties.get(name)
        if value is None or not all(_OPERATIONS[one](value, limit) for one, limit in operations.items()):
            return False
    first, last = item_times(item)
    if item.get("geometry") is None or first > end or last < start:
        return False
    return bool(on_globe(shapely.from_geojson(json.dumps(item["geometry"]))).intersects(wanted))


def item_times(item: Item) -> tuple[datetime.datetime, datetime.datetime]:
    """Read when an item was taken, from its first to its last moment, in UTC; `ArchiveError` where it does not say."""
    properties = item["properties"]
    one = properties.get("datetime")
    texts = (one, one) if one else (properties.get("start_datetime"), properties.get("end_datetime"))
    try:
        first, last = (datetime.datetime.fromisoformat(str(text)) for text in texts)
    except ValueError as problem:
        raise ArchiveError(f"item '{item['id']}' has no time that can be read: {problem}") from problem
    return first.replace(tzinfo=first.tzinfo or datetime.UTC), last.replace(tzinfo=last.tzinfo or datetime.UTC)


# A STAC API.


def _session(recipe: CatalogueRecipe) -> "requests.Session":
    """Make a session that keeps to the rate and tries again what may pass: a busy or failing server, a lost
    connection, an answer cut short."""
    import requests
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ChunkedEncodingError, ContentDecodingError

    passing = (requests.ConnectionError, requests.Timeout, ChunkedEncodingError, ContentDecodingError)

    class _Patient(HTTPAdapter):
        _next_s = 0.0

        def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):  # type: ignore[no-untyped-def]
            for tried in range(recipe.retries + 1):
                self._pace()
                asked_s = 0.0
                try:
                    response = super().send(request, stream, timeout, verify, cert, proxies)
                    # The body too may end early.
                    if response.content is not None and response.status_code not in _PASSING:
                        return response
                    asked_s = _retry_after_s(response.headers.get("Retry-After", ""))
                except passing:
                    if tried == recipe.retries:
                        raise
                if tried < recipe.retries:
                    time.sleep(min(max(_FIRST_WAIT_S * 2**tried, asked_s), _LONGEST_WAIT_S))
            return response

        def _pace(self) -> None:
            now = time.monotonic()
            time.sleep(max(0.0, self._next_s - now))
            self._next_s = max(now, self._next_s) + 1 / recipe.max_requests_per_s

    session = requests.Session()
    adapter = _Patient()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def _retry_after_s(header: str) -> float:
    """Read the seconds, or the date, that a server asks to wait; 0 where it says nothing that can be read."""
    from email.utils import parsedate_to_datetime

    try:
        return float(header)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(header) - datetime.datetime.now(datetime.UTC)).total_seconds()
    except (ValueError, TypeError):
        return 0.0


def _api(recipe: CatalogueRecipe) -> Callable[..., Iterator[Item]]:
    """Open a STAC API and give its search."""
    try:
        import pystac_client
        from pystac_client.exceptions import APIError
        from pystac_client.stac_api_io import StacApiIO
    except ImportError as problem:
        raise RecipeError(f"a STAC API needs pystac-client: pip install 'anyband[archive]' ({problem})") from problem

    stac_io = StacApiIO(timeout=recipe.timeout_s, max_retries=None)
    stac_io.session = _session(recipe)
    try:
        client = pystac_client.Client.open(recipe.address, stac_io=stac_io)
    except (APIError, KeyError, ValueError, TypeError, AttributeError) as problem:
        raise ArchiveError(_unreachable(recipe, "its root", problem)) from problem
    except Exception as problem:
        # pystac's own errors have no common root.
        if type(problem).__module__.startswith("pystac"):
            raise ArchiveError(_unreachable(recipe, "its root", problem)) from problem
        raise
    if not client.conforms_to("ITEM_SEARCH"):
        raise ArchiveError(
            f"catalogue '{recipe.address}' is no STAC API: it does not offer item search. Static catalogues can be "
            "searched as a STAC-GeoParquet `index`"
        )
    takes_query = client.conforms_to("QUERY")

    def find(
        collections: list[str], wanted: Any, start: datetime.datetime, end: datetime.datetime, query: Query
    ) -> Iterator[Item]:
        import shapely

        search = client.search(
            method="POST",
            collections=collections,
            intersects=json.loads(shapely.to_geojson(wanted)),
            datetime=(start, end),
            limit=_PAGE,
            query=dict(query) if query and takes_query else None,
        )
        try:
            yield from search.items_as_dicts()
        except (APIError, KeyError, ValueError, TypeError) as problem:
            request = f"search of {', '.join(collections)} from {start.isoformat()} to {end.isoformat()}"
            raise ArchiveError(_unreachable(recipe, f"{request} in {wanted.bounds}", problem)) from problem

    return find


def _unreachable(recipe: CatalogueRecipe, request: str, problem: Exception) -> str:
    status = getattr(problem, "status_code", None)
    said = " ".join(str(problem).split())[:300] or type(problem).__name__
    hint = (
        "check the address, and `sign` or the access that it needs"
        if status in (401, 403, 404)
        else (
            "the server is away or busy: try later, or lower `max_requests_per_s` and raise `retries` and `timeout_s`"
        )
    )
    tried = "" if status in (401, 403, 404) else f" after {counted(recipe.retries + 1, 'try').replace('trys', 'tries')}"
    return (
        f"catalogue '{recipe.address}' did not answer {request}{tried}: "
        f"{f'HTTP {status}, ' if status else ''}{said}; {hint}"
    )


# An index.


class _Ranges(io.RawIOBase):
    """A file that a web server has, read by ranges of its bytes."""

    def __init__(self, recipe: CatalogueRecipe) -> None:
        self._session, self._recipe, self._at = _session(recipe), recipe, 0
        self._size = int(self._get({"Range": "bytes=0-0"}).headers["Content-Range"].rpartition("/")[2])

    def _get(self, headers: dict[str, str]) -> "requests.Response":
        answer = self._session.get(self._recipe.address, headers=headers, timeout=self._recipe.timeout_s)
        if answer.status_code != 206:
            raise OSError(f"HTTP {answer.status_code} where a range of bytes (206) was requested")
        return answer

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at)
        if count > 0:
            body = self._get({"Range": f"bytes={self._at}-{self._at + count - 1}"}).content
            buffer[: len(body)] = body
            self._at += len(body)
        return max(count, 0)


def _opened(recipe: CatalogueRecipe) -> Any:
    from pyarrow import fs

    if recipe.address.startswith(("http://", "https://")):
        return io.BufferedReader(_Ranges(recipe))
    if "://" in recipe.address:
        store, path = fs.FileSystem.from_uri(recipe.address)
        return store.open_input_file(path)
    return recipe.address


def _index(recipe: CatalogueRecipe) -> Callable[..., Iterator[Item]]:
    """Open a STAC-GeoParquet file and give its search: boxes and times of all rows are kept, other columns are read
    where a group of rows has one that is meant."""
    try:
        import pyarrow
        import pyarrow.parquet
        import rustac
    except ImportError as problem:
        raise RecipeError(f"an index needs rustac: pip install 'anyband[archive]' ({problem})") from problem
    try:
        file = pyarrow.parquet.ParquetFile(_opened(recipe), pre_buffer=True)
        lacking = [name for name in ("id", "geometry", *_KEY_COLUMNS) if name not in file.schema_arrow.names]
        if lacking or not pyarrow.types.is_struct(file.schema_arrow.field("bbox").type):
            raise ArchiveError(
                f"index '{recipe.address}' is no STAC-GeoParquet file of version 1: "
                + (
                    f"it has no column {', '.join(lacking)}"
                    if lacking
                    else "its column bbox is no struct of xmin … ymax"
                )
                + "; write it anew, as `rustac translate` does"
            )
        keys = file.read(columns=list(_KEY_COLUMNS))
    except ArchiveError:
        raise
    except (OSError, pyarrow.ArrowException) as problem:
        raise ArchiveError(_unreachable(recipe, "a read of its boxes and times", problem)) from problem
    tree, rows = _boxes(keys["bbox"].combine_chunks())
    of_collection = keys["collection"].to_numpy(zero_copy_only=False).astype(str)
    times = keys["datetime"].cast(pyarrow.timestamp("us", tz="UTC")).to_numpy(zero_copy_only=False)
    counts = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    firsts = np.cumsum([0, *counts])
    read_group = functools.lru_cache(maxsize=_KEPT_GROUPS)(file.read_row_group)

    def find(
        collections: list[str], wanted: Any, start: datetime.datetime, end: datetime.datetime, _query: Query
    ) -> Iterator[Item]:
        found = np.unique(rows[tree.query(wanted, predicate="intersects")])
        found = found[np.isin(of_collection[found], collections)]
        first, last = (np.datetime64(one.astimezone(datetime.UTC).replace(tzinfo=None), "us") for one in (start, end))
        # What has no `datetime` has a first and a last one, which are seen to when it is read.
        found = found[np.isnat(times[found]) | ((times[found] >= first) & (times[found] <= last))]
        groups = np.searchsorted(firsts, found, side="right") - 1
        for group in np.unique(groups):
            try:
                table = read_group(int(group)).take(found[groups == group] - firsts[group])
            except (OSError, pyarrow.ArrowException) as problem:
                raise ArchiveError(_unreachable(recipe, f"a read of its row group {group}", problem)) from problem
            for item in rustac.from_arrow(table)["features"]:
                yield item | {"bbox": list(item["bbox"])}

    return find


def _boxes(boxes: Any) -> tuple[Any, Array]:
    """Make a search tree of the boxes of all rows, and give the row of each: one that reaches over ±180 has two."""
    import shapely

    names = ("xmin", "ymin", "xmax", "ymax")
    west, south, east, north = (boxes.field(name).to_numpy(zero_copy_only=False) for name in names)
    over = np.flatnonzero(west > east)
    rows = np.concatenate([np.arange(len(west)), over])
    whole = np.full(len(over), 180.0)
    first = shapely.box(west, south, np.where(west > east, 180.0, east), north)
    return shapely.STRtree(np.concatenate([first, shapely.box(-whole, south[over], east[over], north[over])])), rows


def write_index(items: Iterable[Item], path: Path | str) -> None:
    """Write items as a STAC-GeoParquet file, whole or not at all: each once, in an order that is their own, near ones
    in one group of rows. Times are kept to the millisecond. `ArchiveError` where there is none, or one is no item."""
    import pyarrow.parquet
    import rustac

    every = {(str(item.get("collection")), str(item["id"])): item for item in items}
    if not every:
        raise ArchiveError(f"there is no item to write to index '{path}'")
    # The order of keys in an item is nobody's.
    ordered = [json.loads(json.dumps(every[key], sort_keys=True)) for key in _by_place(every)]
    with whole_file(Path(path)) as beside:
        try:
            rustac.write_sync(str(beside), ordered, format="geoparquet")
        except rustac.RustacError as problem:
            raise ArchiveError(f"items can't be written to index '{path}': {problem}") from problem
        with pyarrow.parquet.ParquetFile(beside) as written:
            table, said = written.read(), dict(written.metadata.metadata)
        geo = json.loads(said.pop(b"geo"))
        geo["columns"]["geometry"]["geometry_types"].sort()
        said = {b"geo": json.dumps(geo, sort_keys=True).encode(), b"stac-geoparquet": said[b"stac-geoparquet"]}
        told = ["bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax", "datetime", "collection"]
        pyarrow.parquet.write_table(
            table.replace_schema_metadata(said),
            beside,
            row_group_size=_ROWS_A_GROUP,
            compression="zstd",
            write_statistics=told,
        )


def _by_place(items: Mapping[tuple[str, str], Item]) -> list[tuple[str, str]]:
    """Order items by collection, along a curve that keeps near ones together, by time and name."""
    import geopandas
    import shapely

    keys = sorted(items)
    points = [shapely.from_geojson(json.dumps(items[key]["geometry"])).representative_point() for key in keys]
    along = geopandas.GeoSeries(points).hilbert_distance(total_bounds=(-180.0, -90.0, 180.0, 90.0))
    order = sorted(
        zip(keys, along, strict=True), key=lambda one: (one[0][0], one[1], item_times(items[one[0]]), one[0])
    )
    return [key for key, _ in order]
