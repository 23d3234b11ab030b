"""Labels of pixels from rasters and polygons."""

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anyband.arrays import Array, Bool, Float, Int, Num
from anyband.errors import GeometryError, InputError, ManifestError, nearest_name
from anyband.files import check_regular
from anyband.labelled.tables import LabelFile
from anyband.rasters.grid import IDENTITY, Grid, Window, same_crs, to_pixels
from anyband.rasters.reader import band_of, open_sheet
from anyband.sensors.sensor import dn_formula

__all__ = [
    "LabelPixels",
    "PolygonLabels",
    "Remarks",
    "check_values",
    "class_names",
    "read_labels",
    "read_polygons",
    "to_class_map",
    "to_number_map",
    "whole_values",
]

# chosen: transforms are written with 6 to 15 digits; a twentieth of a pixel is no shift of the ground.
_SHIFT_PX = 0.05
# chosen: as many values as a reader takes in.
_NAMED_VALUES = 8
_NAMED_CLASSES = 20


LabelPixels = tuple[Num[Array, "row col"], Bool[Array, "row col"]]
"""Labels of a window as stored, and where there is one; elsewhere what is stored means nothing."""


Remarks = dict[tuple[str, float | None], dict[tuple[Path, Window], int]]
"""What should be known of rasters of labels: a sentence with room for a number of pixels, and the value that a tag says
means no data; of each window so many pixels."""

# chosen: what compresses by changing numbers.
_LOSSY = (".jpg", ".jpeg")


def read_labels(
    file: LabelFile, grid: Grid, window: Window, *, image: str, remarks: Remarks | None = None
) -> LabelPixels:
    """Read the labels of a window from a raster with a value for each pixel of an image.
    What a tag or mask of the file takes away, or a tag says in vain, is added to `remarks`.
    Raises:
        RasterError: the file can't be read, or doesn't say which of its bands has the labels.
        GeometryError: it lies on another grid than the image.
    """
    with closing(open_sheet(file.path)) as sheet:
        position = 0
        if file.coded != "one_hot":
            position = band_of(sheet, file.variable, what="label raster", option="label_variable")
        # Without georeference the sizes must agree.
        same = (sheet.height, sheet.width) == (grid.height, grid.width)
        if same and sheet.crs is not None and grid.crs is not None:
            labels = replace(grid, transform=sheet.transform)
            corners = [(row, col) for row in (0.0, float(grid.height)) for col in (0.0, float(grid.width))]
            apart = max(math.dist(labels.to_coordinates(*one), grid.to_coordinates(*one)) for one in corners)
            a, b, _, d, e, _ = grid.transform
            same = same_crs(sheet.crs, grid.crs) and apart / math.sqrt(abs(a * e - b * d)) <= _SHIFT_PX
        if not same:
            raise GeometryError(
                f"label raster '{sheet.path}' and image '{image}' lie on different grids: the labels have "
                f"{_described(sheet.crs, sheet.transform, sheet.height, sheet.width)}; the image has "
                f"{_described(grid.crs, grid.transform, grid.height, grid.width)}. Labels have a value for each pixel "
                f"of the image: resample them, for example by `rio warp LABELS NEW --like IMAGE --resampling nearest`"
            )
        if file.coded == "one_hot":
            bands = sheet.read(list(range(len(sheet.nodata))), window)[0] != 0
            return bands.argmax(axis=0).astype(np.int16), bands.any(axis=0)
        stored, with_data = sheet.read([position], window)
        values = stored[0]
        known = np.ones(values.shape, dtype=bool) if with_data is None else with_data[0].copy()
        nodata = sheet.nodata[position] if file.nodata is None else file.nodata
        scaling, bare = sheet.scaling[position], (sheet.crs is None) != (grid.crs is None)
    said: dict[tuple[str, float | None], Array] = {("their mask or alpha band takes away {} pixels", None): ~known}
    if values.dtype.kind == "f":
        known &= np.isfinite(values)
    if nodata is not None and not math.isnan(nodata):
        tagged = (values == nodata) & known & (file.nodata is None)
        said[f"{nodata:g} is tagged as no data, so {{}} pixels have no label", nodata] = tagged
        known &= values != nodata
    if scaling is not None and not file.by_tags:
        said[_as_stored(*scaling), None] = known
    if bare:
        said["the labels are laid on the images by their size, since one of both has no georeference", None] = known
    if file.path.suffix.casefold() in _LOSSY:
        said["they are JPEG, which changes numbers: write labels as PNG or GeoTIFF", None] = known
    for remark, pixels in said.items():
        if remarks is not None and pixels.any():
            remarks.setdefault(remark, {})[file.path, window] = int(pixels.sum())
    if file.coded == "non_zero":
        return (values != 0).astype(np.int16), known
    return (values * scaling[0] + scaling[1], known) if scaling is not None and file.by_tags else (values, known)


def _as_stored(scale: float, offset: float, where: str) -> str:
    return (
        f"by {where} labels are {dn_formula(scale, offset)}; they are taken as stored: to apply that say "
        "data.options={{label_scale: tags}}"
    )


def _described(crs: str | None, transform: tuple[float, ...], height: int, width: int) -> str:
    size = f"{height} × {width} pixels"
    if crs is None and transform == IDENTITY:
        return f"no georeference, {size}"
    a, b, c, d, e, f = transform
    name = crs if crs is None or len(crs) < 20 else "a CRS without number"
    turned = "" if b == d == 0 else " turned"
    return f"{name or 'no CRS'}, {size} of {abs(a):.9g} × {abs(e):.9g}{turned} from ({c:.9g}, {f:.9g})"


def class_names(classes: Mapping[int, str], *, ignore: Sequence[int] = ()) -> tuple[str, ...]:
    """Number the classes in the order of their values; values of one name are one class. Raises `InputError` for a
    value that is a class and to be ignored."""
    both = sorted(set(classes) & set(ignore))
    if both:
        raise InputError(f"value {both[0]} is class '{classes[both[0]]}' and to be ignored; take it out of one of them")
    return tuple(dict.fromkeys(classes[value] for value in sorted(classes)))


def to_class_map(
    pixels: LabelPixels, classes: Mapping[int, str], *, ignore: Sequence[int] = (), where: str
) -> Int[Array, "row col"]:
    """Turn values into class numbers by `classes` (names by value); −1 where there is no label or it is to be ignored.
    Raises `InputError` for values that mean nothing, or are not whole."""
    values = whole_values(pixels, where=where)
    known = pixels[1] & ~np.isin(values, ignore)
    sorted_values = np.array(sorted(classes), dtype=np.int64)
    places = np.minimum(np.searchsorted(sorted_values, values), len(sorted_values) - 1)
    foreign = known & (sorted_values[places] != values)
    if foreign.any():
        found, counts = np.unique(values[foreign], return_counts=True)
        check_values(dict(zip(found.tolist(), counts.tolist(), strict=True)), classes, ignore=ignore, where=where)
    names = class_names(classes)
    numbers = np.array([names.index(classes[value]) for value in sorted(classes)], dtype=np.int64)
    return np.where(known, numbers[places], -1)


def whole_values(pixels: LabelPixels, *, where: str) -> Int[Array, "row col"]:
    """Give values as int64, 0 where there is no label; `InputError` where one has a fraction."""
    values, known = pixels
    if values.dtype.kind == "f":
        broken = known & (values != np.round(values))
        if broken.any():
            raise InputError(
                f"{where} has values that are no class numbers, such as {values[broken][0]:g} at "
                f"{_pixels(int(broken.sum()))}; for maps of numbers use `data.kind=number_map`"
            )
    return np.where(known, values, 0).astype(np.int64)


def check_values(
    counts: Mapping[int, int], classes: Mapping[int, str], *, ignore: Sequence[int] = (), where: str
) -> None:
    """See that each value is a class or to be ignored; else `InputError` names the others and counts their pixels."""
    foreign = sorted(set(counts) - set(classes) - set(ignore))
    if not foreign:
        return
    shown = ", ".join(f"{value} at {_pixels(counts[value])}" for value in foreign[:_NAMED_VALUES])
    more = f" and {len(foreign) - _NAMED_VALUES} more values" if len(foreign) > _NAMED_VALUES else ""
    known = ", ".join(f"{value} {classes[value]}" for value in sorted(classes)[:_NAMED_CLASSES])
    known += " …" if len(classes) > _NAMED_CLASSES else ""
    ignored = f"; ignored: {', '.join(map(str, ignore))}" if ignore else ""
    raise InputError(
        f"{where} has values that are no class: {shown}{more} (classes: {known}{ignored}); name them in "
        "`data.classes`, or list them in `data.ignore`"
    )


def _pixels(count: int) -> str:
    return f"{count} pixel{'' if count == 1 else 's'}"


def to_number_map(pixels: LabelPixels, *, ignore: Sequence[int] = ()) -> Float[Array, "row col"]:
    """Give values as float64; NaN where there is no label or the value is to be ignored."""
    values, known = pixels
    return np.where(known & ~np.isin(values, ignore), values, np.nan).astype(np.float64)


_COLUMNS = ("label", "class")
# What GDAL takes for a list of sources elsewhere, whatever the file's name.
_REFERS, _HEAD_BYTES = re.compile(rb"<\s*OGR\w+DataSource", re.I), 2**16
_SURFACES = ("Polygon", "MultiPolygon")
# chosen: an edge of 1 km along a parallel and the line between its ends are 2 cm apart at 50° (20 cm at 85°).
_EDGE_M = 1000.0
# chosen: farther from an image than projections bend within.
_AROUND_M = 100_000.0
_EARTH_RADIUS_M = 6_371_007.0


class PolygonLabels:
    """Polygons of one file and the value of each. Where none lies, there is no label."""

    def __init__(
        self, path: Path, shapes: Array, values: Float[Array, " polygon"], *, crs: Any, outside: float | None = None
    ) -> None:
        self.path, self.outside = path, outside
        self._shapes, self._values, self._crs = shapes, values, crs
        self._tree: Any = None
        # Of each grid: positions of the polygons near it, and a tree of them in its CRS.
        self._near: dict[Grid, tuple[Array, Any]] = {}
        # By position: polygons that reach an image, lie wholly on one, and have the centre of a pixel in them.
        self._reached, self._inside, self._seen = (np.zeros(len(shapes), dtype=bool) for _ in range(3))

    def read(self, grid: Grid, window: Window, *, image: str) -> LabelPixels:
        """Give each pixel of a window of an image's grid the value of the polygon that its centre lies in. Raises
        `GeometryError`: the image has no CRS, no polygon lies on it, or polygons of different values overlap."""
        positions, tree = self._on(grid, image)
        part = grid.part(window)
        near = tree.query(_box(part))
        # The order decides who is on top: by value, so that the order of the file doesn't matter.
        near = near[np.argsort(self._values[positions[near]], kind="stable")]
        burnt = (np.append(positions, -1)[_burnt(tree.geometries, order, part)] for order in (near[::-1], near))
        lowest, highest = burnt
        self._seen[np.append(lowest[lowest >= 0], highest[highest >= 0])] = True
        values = np.append(self._values, np.nan)
        lowest, highest = values[lowest], values[highest]
        clash = (lowest != highest) & np.isfinite(highest)
        if clash.any():
            row, col = np.argwhere(clash)[0]
            raise GeometryError(
                f"polygons of '{self.path}' overlap with different labels at {int(clash.sum())} pixels of '{image}', "
                f"first at row {window.row + row}, column {window.col + col}; cut them so that each pixel has one label"
            )
        known = np.isfinite(highest)
        if self.outside is not None:
            return np.where(known, highest, self.outside), np.ones_like(known)
        return np.where(known, highest, 0.0), known

    def _on(self, grid: Grid, image: str) -> tuple[Array, Any]:
        """Bring the polygons near a grid to its CRS, once, and see that some lie on it: their positions, and a tree."""
        import shapely

        if grid.crs is None:
            raise GeometryError(
                f"image '{image}' has no coordinate system, so the polygons of '{self.path}' can't be laid on it; "
                "georeference it, or use a raster of labels"
            )
        if grid not in self._near:
            self._tree = self._tree or shapely.STRtree(self._shapes)
            positions, shapes = _near(self._tree, self._crs, grid)
            tree = shapely.STRtree(shapes)
            reaching = tree.query(_box(grid), predicate="intersects")
            if self.outside is None and not len(reaching):
                west, south, east, north = shapely.total_bounds(_to_crs(self._shapes, self._crs, grid.crs))
                left, bottom, right, top = grid.bounds
                if not np.isfinite(west + south + east + north):
                    west, south, east, north = shapely.total_bounds(self._shapes)
                    raise GeometryError(
                        f"no polygon of '{self.path}' lies on image '{image}': they reach from ({west:.9g}, "
                        f"{south:.9g}) to ({east:.9g}, {north:.9g}), which are no coordinates of the system that their "
                        "file declares; correct it (GeoJSON without one is in longitudes and latitudes)"
                    )
                raise GeometryError(
                    f"no polygon of '{self.path}' lies on image '{image}': in {grid.crs} the polygons reach from "
                    f"({west:.9g}, {south:.9g}) to ({east:.9g}, {north:.9g}), the image from ({left:.9g}, "
                    f"{bottom:.9g}) to ({right:.9g}, {top:.9g}); check the CRS that the file declares"
                )
            self._reached[positions[reaching]] = True
            self._inside[positions[tree.query(_box(grid), predicate="contains")]] = True
            self._near[grid] = positions, tree
        return self._near[grid]

    def notes(self, names: Mapping[int, str]) -> list[str]:
        """Say which polygons gave no label on the images that were read: too small for a pixel, or beside them all."""
        small, beside, total = self._too_small(), int((~self._reached).sum()), len(self._values)
        notes = [f"{beside:,} of {total:,} polygons lie on no image"] if beside else []
        if small.any():
            notes.append(
                f"{int(small.sum()):,} of {total:,} polygons have the centre of no pixel in them, so they give no "
                f"label ({_counted(self._values[small], names)}); take finer images or larger polygons"
            )
        return notes

    def _too_small(self) -> Bool[Array, " polygon"]:
        for grid, (positions, tree) in self._near.items():
            inside = tree.query(_box(grid), predicate="contains")
            # One that others of its label cover is not too small.
            for position in inside[~self._seen[positions[inside]]]:
                self._seen[positions[position]] = _has_centre(tree.geometries[position], grid)
        return self._inside & ~self._seen


def _counted(values: Float[Array, " polygon"], names: Mapping[int, str]) -> str:
    found, counts = np.unique(values, return_counts=True)
    kinds = zip(found.tolist(), counts.tolist(), strict=True)
    return ", ".join(f"'{names.get(int(value), f'{value:g}')}' {count:,}" for value, count in kinds)


def _has_centre(shape: Any, grid: Grid) -> bool:
    """Tell whether the centre of a pixel lies in a polygon that is wholly on a grid."""
    corners = np.array([to_pixels(x, y, grid=grid) for x in shape.bounds[::2] for y in shape.bounds[1::2]])
    first = np.maximum(np.floor(corners.min(axis=0)), 0).astype(int)
    last = np.minimum(np.ceil(corners.max(axis=0)), (grid.height, grid.width)).astype(int)
    (row, col), (height, width) = first.tolist(), np.maximum(last - first, 1).tolist()
    part = grid.part(Window(row=row, col=col, height=height, width=width))
    return bool((_burnt(np.array([shape]), np.array([0]), part) == 0).any())


def _box(grid: Grid) -> Any:
    import shapely

    return shapely.box(*grid.bounds)


def _near(tree: Any, source: Any, grid: Grid) -> tuple[Array, Array]:
    """Find the polygons near a grid, and bring them to its CRS. What of a large one lies far away is cut off, for that
    CRS may have no place for it."""
    import geopandas
    import shapely
    from rasterio.warp import transform_bounds

    crs = geopandas.GeoSeries(crs=source).crs
    if crs == grid.crs:
        near = tree.query(_box(grid))
        return near, tree.geometries[near]
    edge = _AROUND_M / _unit_m(crs)
    west, south, east, north = transform_bounds(grid.crs, crs.to_wkt(), *grid.bounds)
    # An image across 180° begins east of where it ends.
    sides = [(west, 180.0), (-180.0, east)] if crs.is_geographic and west > east else [(west, east)]
    around = shapely.union_all([shapely.box(a - edge, south - edge, b + edge, north + edge) for a, b in sides])
    near = tree.query(around, predicate="intersects")
    found, far = tree.geometries[near], np.isin(near, tree.query(around, predicate="contains"), invert=True)
    found[far] = shapely.intersection(found[far], around)
    return near, _to_crs(found, source, str(grid.crs))


def _unit_m(crs: Any) -> float:
    """Tell the length of a unit of a CRS; of a degree on a great circle."""
    return float(crs.axis_info[0].unit_conversion_factor * (_EARTH_RADIUS_M if crs.is_geographic else 1.0))


def _to_crs(shapes: Array, source: Any, target: str) -> Array:
    """Bring polygons to another CRS, their edges as the lines that they are in their own."""
    import geopandas

    series = geopandas.GeoSeries(shapes, crs=source)
    if series.crs == target:
        return shapes
    return np.asarray(series.segmentize(_EDGE_M / _unit_m(series.crs)).to_crs(target).to_numpy())


def _burnt(shapes: Array, order: Int[Array, " polygon"], grid: Grid) -> Int[Array, "row col"]:
    """Burn polygons, by position, one over the other in an order: the position of each pixel's; −1 where none lies."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    if not len(order):
        return np.full((grid.height, grid.width), -1, dtype=np.int32)
    return np.asarray(
        rasterize(
            zip(shapes[order], order.tolist(), strict=True),
            out_shape=(grid.height, grid.width),
            transform=Affine(*grid.transform),
            fill=-1,
            dtype="int32",
        )
    )


def read_polygons(
    files: Sequence[LabelFile], *, column: str | None, classes: Mapping[int, str], outside: str | None = None
) -> tuple[dict[LabelFile, PolygonLabels], dict[int, str]]:
    """Read files of polygons with labels: numbers, or names of classes; give the names of the values, too.
    Names stand for the values that `classes` gives them; without `classes` they are numbered in alphabetic order, over
    all files. Numbers stay.
    Files are GeoPackage, GeoJSON, Shapefile, FlatGeobuf or GeoParquet; of several layers `variable` names one; `column`
    has the labels (None: `label` or `class`); `outside` is the label of what no polygon covers.
    Raises:
        ManifestError: a file can't be read or has no polygons, no CRS, no such layer or column, or a row without label.
        GeometryError: a shape is empty, invalid or no polygon.
    """
    tables = {file: _table(file.path, file.variable, column) for file in dict.fromkeys(files)}
    texts = [labels for _, labels in tables.values() if labels.dtype.kind not in "iufb"]
    if texts and len(texts) < len(tables):
        raise ManifestError("some files of polygons have names as labels and others numbers; use one of them")
    numbers = _numbers([str(label) for labels in texts for label in labels], classes, outside) if texts else {}
    found = {
        file: PolygonLabels(
            file.path,
            np.asarray(table.geometry.to_numpy()),
            np.array([numbers[str(one)] for one in labels] if texts else labels, dtype=np.float64),
            crs=table.crs,
            outside=_outside(outside, numbers) if outside is not None else None,
        )
        for file, (table, labels) in tables.items()
    }
    return found, {value: name for name, value in numbers.items()}


def _numbers(names: Sequence[str], classes: Mapping[int, str], outside: str | None) -> dict[str, int]:
    if not classes:
        everything = sorted({*names, *([outside] if outside is not None else [])})
        return {name: value for value, name in enumerate(everything)}
    numbers = {name: value for value, name in sorted(classes.items(), reverse=True)}
    foreign = sorted(set(names) - set(numbers))
    if foreign:
        raise InputError(
            f"polygons have the label '{foreign[0]}' at {names.count(foreign[0])} of them, which is no class "
            f"({', '.join(numbers)}){nearest_name(foreign[0], numbers)}; name it in `data.classes`, or leave them out"
        )
    return numbers


def _outside(label: str, numbers: Mapping[str, int]) -> float:
    if label in numbers:
        return float(numbers[label])
    try:
        return float(label)
    except ValueError as problem:
        raise InputError(
            f"option `outside` is '{label}', which is no number and no class ({', '.join(numbers)})"
            f"{nearest_name(label, numbers)}"
        ) from problem


def _layer(path: Path, name: str) -> str:
    """Find the layer of polygons of a file: the one that is named, else the only one with shapes."""
    import geopandas

    layers = geopandas.list_layers(path)
    known = [str(one) for one in layers["name"][layers["geometry_type"].notna()]]
    if name and name not in known:
        raise ManifestError(
            f"'{path}' has no layer '{name}' ({', '.join(known) or 'none has shapes'}){nearest_name(name, known)}"
        )
    if len(known) > 1 and not name:
        raise ManifestError(
            f"'{path}' has {len(known)} layers ({', '.join(known)}); say which one has the labels by `label_variable` "
            f"in the table, or data.options={{layer: {known[0]}}}"
        )
    return name or "".join(known)


def _read_table(path: Path, layer: str) -> Any:
    import geopandas

    if path.suffix.casefold() in (".parquet", ".geoparquet"):
        return geopandas.read_parquet(path)
    if not path.is_dir():  # As file geodatabases are.
        check_regular(path, error=ManifestError)
        with path.open("rb") as file:
            if _REFERS.search(file.read(_HEAD_BYTES)):
                raise ManifestError(
                    f"'{path}' holds no polygons but says where others lie, on this disk or the network; name the file "
                    "that holds them"
                )
    return geopandas.read_file(path, layer=_layer(path, layer) or None)


def _table(path: Path, layer: str, column: str | None) -> tuple[Any, Array]:
    """Read and check one file: a table of polygons, and the label of each."""
    import geopandas
    import pandas

    try:
        table = _read_table(path, layer)
    except ManifestError:
        raise
    except (OSError, ValueError, RuntimeError) as problem:
        raise ManifestError(f"cannot read '{path}' as polygons: {problem}") from problem
    if not isinstance(table, geopandas.GeoDataFrame) or table.empty:
        raise ManifestError(f"'{path}' has no polygons; fill it, or leave it out")
    if table.crs is None:
        raise ManifestError(f"'{path}' has no coordinate system, so its polygons lie nowhere; declare it in the file")
    wanted, columns = (column,) if column is not None else _COLUMNS, list(table.columns.drop(table.geometry.name))
    name = next((name for name in wanted if name in columns), None)
    if name is None:
        raise ManifestError(
            f"the polygons of '{path}' have no column {' or '.join(f'`{name}`' for name in wanted)}; they have "
            f"{', '.join(columns) or 'none'}{nearest_name(wanted[0], columns)}; name it in `data.label_column`"
        )
    labels = table[name]
    lacks = labels.isna() | (labels.astype(str).str.strip() == "")
    if lacks.any():
        raise ManifestError(
            f"row {int(np.flatnonzero(lacks)[0]) + 1} of '{path}' has no `{name}`; give it one, or leave the polygon "
            "out"
        )
    _check_shapes(path, table)
    is_number = pandas.api.types.is_numeric_dtype(labels)
    return table, np.asarray(labels.to_numpy(dtype=np.float64) if is_number else labels.astype(str).to_numpy(object))


def _check_shapes(path: Path, table: Any) -> None:
    import shapely

    shapes = np.asarray(table.geometry.to_numpy())
    for number, shape in enumerate(shapes, start=1):
        where = f"row {number} of '{path}'"
        if shape is None or shape.is_empty:
            raise GeometryError(f"{where} has an empty geometry; draw it, or leave the row out")
        if shape.geom_type not in _SURFACES:
            raise GeometryError(f"{where} is a {shape.geom_type}; labels are of polygons: buffer it, or leave it out")
        if not shape.is_valid:
            raise GeometryError(
                f"{where} is an invalid polygon ({shapely.is_valid_reason(shape)}); repair it, for example by "
                "`GeoDataFrame.make_valid`"
            )
