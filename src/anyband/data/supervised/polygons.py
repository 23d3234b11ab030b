"""Polygons with labels, over scenes: read once, brought to an image's CRS, and burnt onto its pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyband.data.supervised.label_rasters import LabelPixels
from anyband.data.tiles import Grid, Window
from anyband.errors import GeometryError, InputError, ManifestError, nearest_name
from anyband.shapes import Array, Float

__all__ = ["PolygonLabels", "read_polygons"]

_COLUMNS = ("label", "class")
_SURFACES = ("Polygon", "MultiPolygon")


@dataclass(frozen=True, kw_only=True, eq=False)
class PolygonLabels:
    """Polygons of one file and the value of each. Where none lies, there is no label."""

    path: Path
    """File."""
    crs: Any
    """Of the polygons."""
    shapes: Array
    """Polygons."""
    values: Float[Array, "polygon"]
    """Value of each; of classes the number that stands for them."""
    outside: float | None = None
    """Value where no polygon lies; None: no label."""
    _reprojected: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> tuple[object, ...]:
        """What is said of the file that changes its labels."""
        return (self.outside,)

    def read(self, grid: Grid, window: Window, *, image: str) -> LabelPixels:
        """Give each pixel the value of the polygon that its centre lies in.

        Args:
            grid: of the image.
            window: of the grid.
            image: for messages.

        Raises:
            GeometryError: the image lies nowhere, no polygon lies on it, or polygons of different values overlap.
        """
        tree = self._in(grid, image)
        shapes, part = tree.geometries, grid.part(window)
        near = tree.query(_box(part))
        # The order decides who is on top: by value, so that the order of the file doesn't matter.
        near = near[np.argsort(self.values[near], kind="stable")]
        lowest = _burnt(shapes[near[::-1]], self.values[near[::-1]], part)
        highest = _burnt(shapes[near], self.values[near], part)
        clash = (lowest != highest) & np.isfinite(highest)
        if clash.any():
            row, col = np.argwhere(clash)[0]
            raise GeometryError(
                f"polygons of '{self.path}' overlap with different labels at {int(clash.sum())} pixels of '{image}', "
                f"first at row {window.row + row}, column {window.col + col}; cut them so that each pixel has one label"
            )
        known = np.isfinite(highest)
        if self.outside is not None:
            return LabelPixels(values=np.where(known, highest, self.outside), known=np.ones_like(known))
        return LabelPixels(values=np.where(known, highest, 0.0), known=known)

    def _in(self, grid: Grid, image: str) -> Any:
        """Reproject once for each CRS, and see that the polygons lie on the image. Gives a tree of them."""
        import shapely

        if grid.crs is None:
            raise GeometryError(
                f"image '{image}' has no coordinate system, so the polygons of '{self.path}' can't be laid on it; "
                "georeference it, or use a raster of labels"
            )
        tree = self._reprojected.get(grid.crs)
        if tree is None:
            tree = shapely.STRtree(_to_crs(self.shapes, self.crs, grid.crs))
            tree = self._reprojected.setdefault(grid.crs, tree)
        if self.outside is None and not len(tree.query(_box(grid), predicate="intersects")):
            west, south, east, north = shapely.total_bounds(tree.geometries)
            whole = grid.bounds
            raise GeometryError(
                f"no polygon of '{self.path}' lies on image '{image}': in {grid.crs} the polygons reach from "
                f"({west:.9g}, {south:.9g}) to ({east:.9g}, {north:.9g}), the image from ({whole.left:.9g}, "
                f"{whole.bottom:.9g}) to ({whole.right:.9g}, {whole.top:.9g}); check the CRS that the file declares"
            )
        return tree


def _box(grid: Grid) -> Any:
    import shapely

    bounds = grid.bounds
    return shapely.box(bounds.left, bounds.bottom, bounds.right, bounds.top)


def _to_crs(shapes: Array, source: Any, target: str) -> Array:
    import geopandas

    return np.asarray(geopandas.GeoSeries(shapes, crs=source).to_crs(target).to_numpy())


def _burnt(shapes: Array, values: Array, grid: Grid) -> Float[Array, "row col"]:
    """Burn polygons one over the other; NaN where none lies."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    if not len(shapes):
        return np.full((grid.height, grid.width), np.nan)
    return np.asarray(
        rasterize(
            zip(shapes, values.tolist(), strict=True),
            out_shape=(grid.height, grid.width),
            transform=Affine(*grid.transform),
            fill=np.nan,
            dtype="float64",
        )
    )


def read_polygons(
    paths: Sequence[Path], *, column: str | None, classes: Mapping[int, str], outside: str | None = None
) -> tuple[dict[Path, PolygonLabels], dict[int, str]]:
    """Read files of polygons with labels: numbers, or names of classes.

    Names stand for the values that `classes` gives them; without `classes` they are numbered in alphabetic order, over
    all files. Numbers stay.

    Args:
        paths: GeoPackage, GeoJSON, Shapefile, FlatGeobuf, GeoParquet.
        column: with the labels; None: `label` or `class`.
        classes: name of each value; empty: not declared.
        outside: label of what no polygon covers; None: none.

    Returns:
        Polygons of each file, and the names of the values where labels are names.

    Raises:
        ManifestError: a file can't be read or has no polygons, no CRS, no such column, or a row without label.
        GeometryError: a shape is empty, invalid or no polygon.
        InputError: a name is no class.
    """
    tables = {path: _table(path, column) for path in dict.fromkeys(paths)}
    texts = [labels for _, labels in tables.values() if labels.dtype.kind not in "iufb"]
    if texts and len(texts) < len(tables):
        raise ManifestError("some files of polygons have names as labels and others numbers; use one of them")
    numbers = _numbers([str(label) for labels in texts for label in labels], classes, outside) if texts else {}
    found = {
        path: PolygonLabels(
            path=path,
            crs=table.crs,
            shapes=np.asarray(table.geometry.to_numpy()),
            values=np.array([numbers[str(one)] for one in labels] if texts else labels, dtype=np.float64),
            outside=_outside(outside, numbers) if outside is not None else None,
        )
        for path, (table, labels) in tables.items()
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
            f"({', '.join(numbers)}){nearest_name(foreign[0], numbers)}; name it in `classes`, or leave them out"
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


def _table(path: Path, column: str | None) -> tuple[Any, Array]:
    """Read and check one file: a table of polygons, and the label of each."""
    import geopandas
    import pandas

    try:
        is_parquet = path.suffix.casefold() in (".parquet", ".geoparquet")
        table = geopandas.read_parquet(path) if is_parquet else geopandas.read_file(path)
    except (OSError, ValueError, RuntimeError) as problem:
        raise ManifestError(f"cannot read '{path}' as polygons: {problem}") from problem
    if not isinstance(table, geopandas.GeoDataFrame) or table.empty:
        raise ManifestError(f"'{path}' has no polygons; fill it, or leave it out")
    if table.crs is None:
        raise ManifestError(f"'{path}' has no coordinate system, so its polygons lie nowhere; declare it in the file")
    name = _label_column(path, list(table.columns.drop(table.geometry.name)), column)
    labels = table[name]
    if labels.isna().any():
        raise ManifestError(
            f"row {int(np.flatnonzero(labels.isna())[0]) + 1} of '{path}' has no `{name}`; give it one, or leave the "
            "polygon out"
        )
    _check_shapes(path, table)
    is_number = pandas.api.types.is_numeric_dtype(labels)
    return table, np.asarray(labels.to_numpy(dtype=np.float64) if is_number else labels.astype(str).to_numpy(object))


def _label_column(path: Path, columns: Sequence[str], column: str | None) -> str:
    wanted = (column,) if column is not None else _COLUMNS
    for name in wanted:
        if name in columns:
            return name
    raise ManifestError(
        f"the polygons of '{path}' have no column {' or '.join(f'`{name}`' for name in wanted)}; they have "
        f"{', '.join(columns) or 'none'}{nearest_name(wanted[0], columns)}; name it in `label_column`"
    )


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
