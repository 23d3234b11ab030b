"""Places of an archive: drawn by seed, evenly over the ground or by strata, apart from each other, some held out."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import model_validator

from anyband.arrays import Array, Bool, Float, Int
from anyband.errors import AnybandError, InputError, RasterError, counted, nearest_name
from anyband.files import whole_file
from anyband.randomness import generator
from anyband.rasters.grid import Window
from anyband.rasters.reader import NETCDF_ENDINGS, open_sheet
from anyband.report.page import page_html, paragraph, picture, places_png, table
from anyband.training.recipes import Below1, Count, CountOr0, From0, Over0, Over0To1, Recipe, need

if TYPE_CHECKING:
    import geopandas

__all__ = ["PlacesRecipe", "StrataRecipe", "cell_names", "places_apart", "read_places", "sample_places", "write_places"]

# Mean radius, km. Source: IUGG, GRS 80 (R1 = (2a + b) / 3).
_EARTH_KM = 6371.0088
# chosen: candidates of one generator; a candidate is a function of seed and index, whatever is drawn with it.
_BLOCK = 2**16
# chosen: on the ground; a class of a hundredth of it is known to about 8 % of its size.
_LEAST_PILOT = 2**14
# chosen: seconds of drawing; a stratum that none of so many meets is taken to have no area.
_MOST_PILOT = 2**22
# chosen: some minutes of drawing, the end of looking for rare strata.
_MOST_DRAWN = 2**27
# chosen: so many candidates in vain, one after the other, are taken to mean that no room is left.
_MOST_IN_VAIN = 2**17
# chosen: candidates that lie about one place at once; pairs of them stay few, so memory is linear.
_AROUND = 4.0
_LEAST_BATCH = 256
# chosen: side of what is read of a raster at once.
_TILE_PX = 4096
_RASTER_ENDINGS = (".tif", ".tiff", ".vrt", ".img", *NETCDF_ENDINGS)
_NOWHERE = int(np.iinfo(np.int64).min)
_ROUNDS, _TOLERANCE = 500, 1e-3

_Look = Callable[[Array, Array], Array]
"""(longitude, latitude) of points → a code for each, `_NOWHERE` where the layer has nothing."""


class StrataRecipe(Recipe):
    """A layer of classes by which places are drawn: land cover, climate zones, city or cropland."""

    name: str
    """Of the column that it becomes."""
    path: str
    """Raster of class numbers, or polygons."""
    column: str | None = None
    """Of the polygons: which one names their class."""
    classes: Mapping[str, tuple[int | str, ...]] = {}
    """Class → numbers of the raster, or texts of the column. What none has is left out. Empty: each is a class."""
    shares: Mapping[str, Over0To1] = {}
    """Class → share of the places; together 1. Empty: as the ground has them."""

    @model_validator(mode="after")
    def _check(self) -> "StrataRecipe":
        total = sum(self.shares.values())
        need(not self.shares or abs(total - 1) < 1e-6, f"shares of '{self.name}' add up to {total:g}; they must to 1")
        for name in self.shares if self.classes else ():
            near = nearest_name(name, self.classes)
            need(name in self.classes, f"'{self.name}' has a share for '{name}', which is none of its classes{near}")
        own = {"id", "lon", "lat", "cell", "split", "geometry"}
        need(self.name not in own, f"strata can't be named '{self.name}'; that is a column of each table of places")
        return self


class PlacesRecipe(Recipe):
    """Where an archive looks: how many places, on which ground, how far apart, which are held out."""

    count: Count
    seed: CountOr0 = 0
    region: str | None = None
    """File of polygons; null: the globe, or `bbox`."""
    bbox: tuple[float, float, float, float] | None = None
    """West, south, east, north in degrees; west over east crosses longitude 180."""
    land: str | None = None
    """Polygons of land, or a raster that is not 0 there."""
    at_sea: bool = False
    """Whether places may lie anywhere, so that no `land` is needed."""
    strata: tuple[StrataRecipe, ...] = ()
    min_distance_km: From0 = 0.0
    """Between any two places, on the sphere."""
    cell_km: Over0 = 100.0
    """Side of the cells, whole ones of which are held out."""
    test_share: Below1 = 0.1
    """Share of the cells that are held out."""
    test_gap_km: From0 | None = None
    """Least distance between a place of training and one of test; null: `min_distance_km`."""

    @model_validator(mode="after")
    def _check(self) -> "PlacesRecipe":
        need(self.region is None or self.bbox is None, "places.region and places.bbox are both given; take one away")
        need(
            self.at_sea or self.land is not None,
            "places would lie at sea, too; name polygons or a raster of land by `land`, or write `at_sea: true`",
        )
        west, south, east, north = self.bbox or (-180.0, -90.0, 180.0, 90.0)
        good = -90 <= south < north <= 90 and min(west, east) >= -180 and max(west, east) <= 360 and west != east
        need(good, f"bbox {self.bbox} is not west, south, east, north in degrees (latitudes −90 to 90, south first)")
        names = [one.name for one in self.strata]
        need(len(set(names)) == len(names), f"strata have the names {', '.join(names)}; each needs one of its own")
        return self


def sample_places(recipe: PlacesRecipe) -> "geopandas.GeoDataFrame":
    """Draw places: a function of the recipe and its files alone. Columns: id, lon, lat, one for each layer of strata,
    cell, split, geometry; `attrs["shares"]` has layer → class → shares of the ground, wanted, and got.

    Raises:
        InputError: no ground, a stratum without area, or no room for so many places so far apart.
    """
    import geopandas
    import pandas

    box, tests = _ground(recipe)
    layers = [_layer(one) for one in recipe.strata]
    pilot, num_drawn = _pilot(recipe, box, tests, layers)
    names = [_classes(one, label, codes) for one, label, codes in _read_layers(recipe, layers, pilot)]
    quotas, shares = _quotas(recipe, pilot, names)
    ground_share = len(pilot) / num_drawn
    chosen = _chosen(
        recipe, quotas, names, _stream(recipe, box, tests, layers, pilot, num_drawn), ground_share * _area(box)
    )
    index, lon, lat = chosen[:, 0].astype(np.int64), chosen[:, 1], chosen[:, 2]
    columns: dict[str, Any] = {"id": [f"{number:09d}" for number in index.tolist()], "lon": lon, "lat": lat}
    for at, (one, (codes, classes)) in enumerate(zip(recipe.strata, names, strict=True)):
        found = np.array(classes)[_numbered(codes, chosen[:, 3 + at])]
        columns[one.name] = found
        for name, entry in shares[one.name].items():
            entry["got"] = float((found == name).mean())
    cells, is_test = cell_names(lon, lat, recipe)
    columns |= {"cell": cells, "split": np.where(is_test, "test", "train")}
    places = geopandas.GeoDataFrame(
        pandas.DataFrame(columns), geometry=geopandas.points_from_xy(lon, lat), crs="OGC:CRS84"
    )
    places.attrs = {"shares": shares, "recipe": recipe.model_dump(mode="json")}
    return places


def cell_names(lon: Array, lat: Array, recipe: PlacesRecipe) -> tuple[Array, Bool[Array, " place"]]:
    """Name the cell of each point, and say whether it is held out: rows of equal height, cells about as wide.

    Source:
        The idea of the grid: Francis and Czerkawski, "Major TOM", 2024 (arXiv 2402.12095); ours has rows from the
        south pole, and widths of a row's centre.
    """
    num_rows = max(1, round(math.pi * _EARTH_KM / recipe.cell_km))
    rows = np.minimum(((lat + 90) / 180 * num_rows).astype(np.int64), num_rows - 1)
    around = 2 * math.pi * _EARTH_KM * np.cos(np.deg2rad((np.arange(num_rows) + 0.5) / num_rows * 180 - 90))
    num_cols = np.maximum(1, np.round(around / recipe.cell_km)).astype(np.int64)
    cols = np.minimum(((lon + 180) % 360 / 360 * num_cols[rows]).astype(np.int64), num_cols[rows] - 1)
    is_test = np.zeros(len(lon), dtype=bool)
    for row in np.unique(rows).tolist():
        drawn = generator(recipe.seed, step=row, sample=0, purpose="held-out cells").random(int(num_cols[row]))
        is_test[rows == row] = drawn[cols[rows == row]] < recipe.test_share
    return np.array([f"r{row:05d}_c{col:05d}" for row, col in zip(rows.tolist(), cols.tolist(), strict=True)]), is_test


def write_places(places: "geopandas.GeoDataFrame", path: Path | str) -> None:
    """Write places as GeoParquet, whole or not at all, and beside it a page (`.html`) with their map and shares."""
    path = Path(path)
    if path.suffix != ".parquet":
        raise InputError(f"places are written as GeoParquet; '{path.name}' must end in .parquet")
    lead = f"{counted(len(places), 'place')}, {int((places['split'] == 'test').sum())} of them held out for tests."
    groups = {name: np.asarray(places["split"] == name) for name in ("train", "test")}
    drawn = places_png(np.asarray(places["lon"]), np.asarray(places["lat"]), groups)
    sections = [("Map", [picture(drawn, alt="Places on a map of longitude and latitude, by split")])]
    for name, classes in places.attrs["shares"].items():
        kinds = ("ground", "wanted", "got")
        rows = [[label, *(f"{100 * shares[kind]:.1f}" for kind in kinds)] for label, shares in classes.items()]
        drawn = places_png(
            np.asarray(places["lon"]),
            np.asarray(places["lat"]),
            {label: np.asarray(places[name] == label) for label in classes},
        )
        shown = picture(drawn, alt=f"Places on a map of longitude and latitude, by {name}")
        sections.append((name, [table(["class", "% of the ground", "% wanted", "% got"], rows), shown]))
    sections.append(("Recipe", [paragraph(json.dumps(places.attrs["recipe"]))]))
    with whole_file(path) as beside, whole_file(path.with_suffix(".html")) as page:
        places.to_parquet(beside, index=False)
        page.write_text(page_html("Places", lead, sections), encoding="utf-8")


def read_places(path: Path | str) -> "geopandas.GeoDataFrame":
    """Read what `write_places` wrote; `InputError` where it is none."""
    import geopandas

    try:
        places = geopandas.read_parquet(path)
    except (OSError, ValueError) as problem:
        raise InputError(f"cannot read places from '{path}': {problem}") from problem
    lacking = {"id", "lon", "lat", "cell", "split"} - set(places.columns)
    if lacking:
        raise InputError(f"'{path}' is no table of places: it lacks {', '.join(sorted(lacking))}")
    return places


# What lies where.


def _ground(recipe: PlacesRecipe) -> tuple[tuple[float, float, float, float], list[_Look]]:
    """Give the box to draw from, and what a point must have a code in, other than 0, to be kept."""
    west, south, east, north = recipe.bbox or (-180.0, -90.0, 180.0, 90.0)
    box, tests = (west, south, east + 360.0 * (east < west), north), list[_Look]()
    if recipe.region is not None:
        shapes, crs, _ = _polygons(recipe.region, None)
        box = _lonlat_box(shapes, crs)
        tests.append(partial(_in_polygons, *_prepared(shapes, crs), np.ones(len(shapes), dtype=np.int64)))
    if recipe.land is not None:
        tests.append(_layer(StrataRecipe(name="land", path=recipe.land))[0])
    return box, tests


def _layer(strata: StrataRecipe) -> tuple[_Look, Callable[[int], str]]:
    """Open a layer: what looks codes up, and the label of a code."""
    if Path(strata.path).suffix.lower() in _RASTER_ENDINGS:
        return partial(_in_raster, strata.path), str
    shapes, crs, labels = _polygons(strata.path, strata.column)
    names, codes = np.unique(labels, return_inverse=True)
    return partial(_in_polygons, *_prepared(shapes, crs), codes + 1), lambda code: str(names[code - 1])


def _polygons(path: str, column: str | None) -> tuple[Array, Any, Array]:
    """Read polygons with their CRS, and a label of each."""
    import geopandas

    try:
        found = geopandas.read_parquet(path) if path.endswith("parquet") else geopandas.read_file(path)
    except (OSError, ValueError, RuntimeError) as problem:
        raise InputError(f"cannot read '{path}' as polygons: {problem}") from problem
    if column is not None and column not in found.columns:
        near = nearest_name(column, map(str, found.columns))
        raise InputError(f"the polygons of '{path}' have no column '{column}' ({', '.join(found.columns)}){near}")
    found = found[~(found.geometry.is_empty | found.geometry.isna())]
    if not found.geom_type.isin(["Polygon", "MultiPolygon"]).all() or found.empty:
        raise InputError(
            f"'{path}' must have polygons and nothing else; found {sorted(set(found.geom_type)) or 'none'}"
        )
    if found.crs is None:
        raise InputError(f"'{path}' has no coordinate system, so its polygons lie nowhere; declare it in the file")
    labels = np.full(len(found), "inside") if column is None else found[column].astype(str).to_numpy(dtype=str)
    shapes = found.geometry.make_valid().to_numpy()
    if found.crs.is_geographic:
        _check_180(path, found.geometry.to_numpy())
    return shapes, found.crs, labels


def _check_180(path: str, shapes: Array) -> None:
    """Refuse edges of over half a turn: nothing tells which way round the Earth they go."""
    import shapely

    points, rings = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(shapes)), return_index=True)
    steps = np.abs(np.diff(points[:, 0]))[np.diff(rings) == 0]
    wrong = (steps > 180) & (steps < 359.9)
    if wrong.any():
        raise InputError(
            f"'{path}' has an edge over {steps[wrong][0]:g}° of longitude, which may cross longitude 180; count on "
            "beyond 180 (179, 181), cut the polygon there, or put a corner between"
        )


def _prepared(shapes: Array, crs: Any) -> tuple[Any, Array, Any]:
    import shapely
    from pyproj import Transformer

    shapely.prepare(shapes)
    return shapely.STRtree(shapes), shapes, Transformer.from_crs("OGC:CRS84", crs, always_xy=True)


def _in_polygons(tree: Any, shapes: Array, to_crs: Any, codes: Array, lon: Array, lat: Array) -> Array:
    """Give each point the code of the first polygon that it lies in, in the CRS of the polygons, so that those over a
    pole are as they are; degrees may be counted on beyond 180."""
    import shapely

    x, y = to_crs.transform(lon, lat)
    first = np.full(len(lon), len(shapes))
    for turn in (0.0, 360.0, -360.0) if to_crs.target_crs.is_geographic else (0.0,):
        known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        points, found = tree.query(shapely.points(x[known] + turn, y[known]))
        inside = shapely.intersects_xy(shapes[found], x[known][points] + turn, y[known][points])
        np.minimum.at(first, known[points[inside]], found[inside])
    return np.asarray(np.append(codes, _NOWHERE)[first])


def _in_raster(path: str, lon: Array, lat: Array) -> Array:
    """Give each point the number of its pixel, `_NOWHERE` outside and without data; read tile by tile."""
    from pyproj import CRS, Transformer

    sheet = open_sheet(Path(path))
    try:
        if sheet.crs is None:
            raise RasterError(f"'{path}' has no coordinate system, so its pixels lie nowhere; declare it in the file")
        if len(sheet.names) != 1 or np.dtype(sheet.dtypes[0]).kind not in "iu":
            found = f"{counted(len(sheet.names), 'band')} of {sheet.dtypes[0]}"
            raise RasterError(f"'{path}' must have one band of whole numbers, its classes; found {found}")
        a, b, c, d, e, f = sheet.transform
        x, y = Transformer.from_crs("OGC:CRS84", sheet.crs, always_xy=True).transform(lon, lat)
        if CRS(sheet.crs).is_geographic:
            west = min(c, c + a * sheet.width)
            x = west + (x - west) % 360
        with np.errstate(invalid="ignore"):
            cols, rows = np.floor(np.linalg.solve([[a, b], [d, e]], [x - c, y - f]))
            inside = (cols >= 0) & (cols < sheet.width) & (rows >= 0) & (rows < sheet.height)
        known = np.flatnonzero(inside)
        codes = np.full(len(lon), _NOWHERE)
        codes[known] = _pixels(sheet, rows[known].astype(np.int64), cols[known].astype(np.int64))
        return codes
    finally:
        sheet.close()


def _pixels(sheet: Any, rows: Array, cols: Array) -> Array:
    values = np.full(len(rows), _NOWHERE)
    tiles = rows // _TILE_PX * (1 + sheet.width // _TILE_PX) + cols // _TILE_PX
    order = np.argsort(tiles, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(tiles[order])) + 1) if len(order) else ():
        row, col = int(rows[some].min()), int(cols[some].min())
        window = Window(row=row, col=col, height=int(rows[some].max()) - row + 1, width=int(cols[some].max()) - col + 1)
        read, valid = sheet.read([0], window)
        at = (0, rows[some] - row, cols[some] - col)
        good = np.ones(len(some), dtype=bool) if valid is None else valid[at]
        if sheet.nodata[0] is not None:
            good = good & (read[at] != sheet.nodata[0])
        values[some[good]] = read[at][good]
    return values


def _lonlat_box(shapes: Array, crs: Any) -> tuple[float, float, float, float]:
    import shapely
    from pyproj import Transformer

    bounds, to_lonlat = shapely.total_bounds(shapes), Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    west, south, east, north = bounds if crs.is_geographic else to_lonlat.transform_bounds(*bounds)
    east += 360.0 * (east < west)
    return (-180.0, south, 180.0, north) if east - west >= 360 else (west, south, east, north)


def _area(box: tuple[float, float, float, float]) -> float:
    """Compute the area of a box on the sphere, km²."""
    west, south, east, north = np.deg2rad(box)
    return float(_EARTH_KM**2 * (east - west) * (np.sin(north) - np.sin(south)))


# Drawing.


def _drawn(
    recipe: PlacesRecipe, box: Sequence[float], tests: Sequence[_Look], layers: Sequence[Any], block: int
) -> Float[Array, "candidate value"]:
    """Draw a block of candidates, evenly over the sphere: index, longitude, latitude, codes of the layers."""
    west, south, east, north = box
    draws = generator(recipe.seed, step=block, sample=0, purpose="places").random((_BLOCK, 2))
    low, high = np.sin(np.deg2rad([south, north]))
    lon = (west + (east - west) * draws[:, 0] + 180) % 360 - 180
    lat = np.rad2deg(np.arcsin(low + (high - low) * draws[:, 1]))
    index = np.arange(block * _BLOCK, (block + 1) * _BLOCK)
    for look in tests:
        codes = look(lon, lat)
        kept = (codes != _NOWHERE) & (codes != 0)
        index, lon, lat = index[kept], lon[kept], lat[kept]
    return np.stack([index, lon, lat, *(look(lon, lat) for look, _ in layers)], axis=1)


def _pilot(recipe: PlacesRecipe, box: Any, tests: Any, layers: Any) -> tuple[Array, int]:
    """Draw the first candidates, which tell how much ground there is of what, until there are enough of them and each
    class that shall have a share is met."""
    blocks = list[Array]()
    while len(blocks) * _BLOCK < _MOST_PILOT:
        blocks.append(_drawn(recipe, box, tests, layers, len(blocks)))
        if sum(map(len, blocks)) >= _LEAST_PILOT:
            found = np.concatenate(blocks)
            lacks = (_lacking(*one) for one in _read_layers(recipe, layers, found))
            if not any(lacks):
                break
    found, num_drawn = np.concatenate(blocks), len(blocks) * _BLOCK
    if not len(found):
        where = recipe.region or recipe.bbox or "the globe"
        raise InputError(
            f"none of {num_drawn} points drawn in {where} lies in it and on land ({recipe.land}); check both"
        )
    for one, label, codes in _read_layers(recipe, layers, found):
        lacking = _lacking(one, label, codes)
        if lacking:
            known = ", ".join(sorted(_labels(label, codes).values())[:12]) or "nothing"
            raise InputError(
                f"stratum '{lacking[0]}' of '{one.name}' has no area: none of {len(found)} points on the ground lies "
                f"in it; '{one.path}' has there {known}; take its share away, or widen the region"
            )
    return found, num_drawn


def _read_layers(recipe: PlacesRecipe, layers: Sequence[Any], candidates: Array) -> list[tuple[Any, Any, Array]]:
    """Give each layer with what labels its codes, and the codes of candidates."""
    pairs = enumerate(zip(recipe.strata, layers, strict=True))
    return [(one, label, candidates[:, 3 + at]) for at, (one, (_, label)) in pairs]


def _labels(label: Callable[[int], str], codes: Array) -> dict[int, str]:
    return {int(code): label(int(code)) for code in np.unique(codes) if code != _NOWHERE}


def _classes(strata: StrataRecipe, label: Callable[[int], str], codes: Array) -> tuple[dict[int, int], list[str]]:
    """Number the classes of a layer: code → number, and their names."""
    labels = _labels(label, codes)
    if not strata.classes:
        return {code: number for number, code in enumerate(labels)}, list(labels.values())
    of_label = {str(one): number for number, members in enumerate(strata.classes.values()) for one in members}
    return {code: of_label[name] for code, name in labels.items() if name in of_label}, list(strata.classes)


def _lacking(strata: StrataRecipe, label: Callable[[int], str], codes: Array) -> list[str]:
    numbers, names = _classes(strata, label, codes)
    met = {names[number] for number in numbers.values()}
    return [name for name in strata.shares if name not in met]


def _numbered(numbers: Mapping[int, int], codes: Array) -> Int[Array, " candidate"]:
    """Give each code the number of its class; −1: none."""
    known, inverse = np.unique(codes, return_inverse=True)
    return np.array([numbers.get(int(code), -1) for code in known], dtype=np.int64)[inverse]


def _joint(candidates: Array, names: Sequence[Any]) -> tuple[Array, tuple[int, ...]]:
    """Number the combination of classes of each candidate; −1: in no class of some layer."""
    shape = tuple(len(classes) for _, classes in names)
    numbers = [_numbered(codes, candidates[:, 3 + at]) for at, (codes, _) in enumerate(names)]
    if not numbers:
        return np.zeros(len(candidates), dtype=np.int64), (1,)
    inside = np.all([one >= 0 for one in numbers], axis=0)
    return np.where(inside, np.ravel_multi_index([np.maximum(one, 0) for one in numbers], shape), -1), shape


def _margin(table: Array, axis: int) -> Array:
    return np.asarray(table.sum(axis=tuple(k for k in range(table.ndim) if k != axis)))


def _quotas(recipe: PlacesRecipe, pilot: Array, names: Sequence[Any]) -> tuple[Array, dict[str, Any]]:
    """Say how many places each combination of classes gets: as the ground has them, scaled until each layer has its
    shares. Source: Deming and Stephan, 1940 (iterative proportional fitting); largest remainders make whole numbers."""
    joint, shape = _joint(pilot, names)
    if not (joint >= 0).any():
        raise InputError(f"none of {len(pilot)} points on the ground lies in a class of each layer of strata")
    area = np.bincount(joint[joint >= 0], minlength=math.prod(shape)).reshape(shape) / (joint >= 0).sum()
    wanted, targets = area.copy(), dict[int, Array]()
    for axis, (one, (_, classes)) in enumerate(zip(recipe.strata, names, strict=True)):
        if one.shares:
            targets[axis] = np.array([one.shares.get(name, 0.0) for name in classes])
    for _ in range(_ROUNDS if targets else 0):
        for axis, target in targets.items():
            now = _margin(wanted, axis)
            factor = np.divide(target, now, out=np.zeros_like(now), where=now > 0)
            wanted = wanted * np.expand_dims(factor, [k for k in range(wanted.ndim) if k != axis])
    for axis, target in targets.items():
        off = np.abs(_margin(wanted, axis) - target)
        if off.max() > _TOLERANCE:
            raise InputError(
                f"no ground has these shares together: '{names[axis][1][int(off.argmax())]}' of "
                f"'{recipe.strata[axis].name}' would be {off.max():.1%} off; change shares, or draw by one layer"
            )
    exact = (wanted / wanted.sum() * recipe.count).ravel()
    quotas = np.floor(exact).astype(np.int64)
    quotas[np.argsort(quotas - exact, kind="stable")[: recipe.count - quotas.sum()]] += 1
    shares = {
        one.name: {
            name: {"ground": float(a), "wanted": float(w)}
            for name, a, w in zip(classes, _margin(area, axis), _margin(wanted, axis), strict=True)
        }
        for axis, (one, (_, classes)) in enumerate(zip(recipe.strata, names, strict=True))
    }
    return quotas, shares


def _stream(recipe: Any, box: Any, tests: Any, layers: Any, pilot: Array, num_drawn: int) -> Iterator[Array]:
    yield pilot
    for block in range(num_drawn // _BLOCK, _MOST_DRAWN // _BLOCK):
        yield _drawn(recipe, box, tests, layers, block)


def _chosen(recipe: PlacesRecipe, quotas: Array, names: Any, stream: Iterator[Array], area_km2: float) -> Array:
    """Take candidates in their order, each that is far enough from those before, until each stratum has its places."""
    gap_km = recipe.min_distance_km if recipe.test_gap_km is None else recipe.test_gap_km
    limits = (recipe.min_distance_km, max(gap_km, recipe.min_distance_km))
    disc = math.pi * max(limits) ** 2
    size = int(min(_BLOCK, max(_LEAST_BATCH, _AROUND * area_km2 / disc))) if disc else _BLOCK
    left, kept, in_vain = quotas.copy(), list[Array](), 0
    for block in stream:
        for first in range(0, len(block), size):
            some = block[first : first + size]
            joint = _joint(some, names)[0]
            open_ = (joint >= 0) & (left[joint] > 0)
            some, joint = some[open_], joint[open_]
            free = _apart(recipe, np.concatenate(kept) if kept else some[:0], some, limits)
            some, joint = some[free], joint[free]
            order = np.argsort(joint, kind="stable")
            starts = np.searchsorted(joint[order], joint[order])
            taken = np.sort(order[np.arange(len(order)) - starts < left[joint[order]]])
            left -= np.bincount(joint[taken], minlength=len(left))
            in_vain = 0 if len(taken) else in_vain + int(open_.sum())
            kept += [some[taken]] if len(taken) else []
            if not left.any():
                return np.concatenate(kept)
            if in_vain > _MOST_IN_VAIN:
                raise _no_room(recipe, left, names)
    raise _no_room(recipe, left, names)


def _no_room(recipe: PlacesRecipe, left: Array, names: Any) -> AnybandError:
    worst = np.unravel_index(int(left.argmax()), tuple(len(classes) for _, classes in names) or (1,))
    where = " and ".join(f"'{classes[at]}'" for at, (_, classes) in zip(worst, names, strict=False)) or "the region"
    found = recipe.count - int(left.sum())
    return InputError(
        f"there is no room for {recipe.count} places {recipe.min_distance_km:g} km apart: {found} were found, "
        f"most lack in {where} ({int(left.max())}); ask for fewer, or a smaller min_distance_km, test_gap_km or share"
    )


def _apart(recipe: PlacesRecipe, kept: Array, some: Array, limits: tuple[float, float]) -> Bool[Array, " candidate"]:
    """Say which candidates are as far as they must be from all that are kept, and from those before them."""
    from scipy.spatial import KDTree

    free = np.ones(len(some), dtype=bool)
    if not max(limits) or not len(some):
        return free
    chords = [2 * math.sin(min(limit / _EARTH_KM, math.pi) / 2) for limit in limits]
    points, is_test = _on_sphere(some), cell_names(some[:, 1], some[:, 2], recipe)[1]
    if len(kept):
        kept_points, kept_test = _on_sphere(kept), cell_names(kept[:, 1], kept[:, 2], recipe)[1]
        for kind in (False, True):
            if (kept_test == kind).any():
                far = KDTree(kept_points[kept_test == kind]).query(points, distance_upper_bound=max(chords))[0]
                free &= far >= np.where(is_test == kind, *chords)
    rows = np.flatnonzero(free)
    pairs = KDTree(points[rows]).query_pairs(max(chords), output_type="ndarray")
    one, other = rows[pairs.min(axis=1, initial=len(rows))], rows[pairs.max(axis=1, initial=0)]
    far = np.linalg.norm(points[one] - points[other], axis=1)
    near = far < np.where(is_test[one] == is_test[other], *chords)
    one, other = one[near], other[near]
    free[rows] = places_apart(np.searchsorted(rows, np.stack([one, other], axis=1)), len(rows))
    return free


def places_apart(pairs: Int[Array, "pair 2"], size: int) -> Bool[Array, " candidate"]:
    """Keep each candidate that is in no pair with one before it that is kept. A pair has the earlier one first."""
    free, one, other = np.ones(size, dtype=bool), pairs[:, 0], pairs[:, 1]
    while len(one):
        # Who waits for nobody before it is kept, and its neighbours are not.
        waits = np.zeros(size, dtype=bool)
        waits[other] = True
        free[other[~waits[one]]] = False
        left = free[one] & free[other]
        one, other = one[left], other[left]
    return free


def _on_sphere(places: Array) -> Float[Array, "place 3"]:
    lon, lat = np.deg2rad(places[:, 1]), np.deg2rad(places[:, 2])
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
